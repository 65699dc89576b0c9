package gitops_test

import (
	"crypto/sha256"
	"encoding/hex"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal/keyring"
	"github.com/sealward/sealward/unseal/store"
)

// inForm seals a manifest of any form for a workspace.
func (w *world) inForm(ws, text string) string {
	w.t.Helper()
	m, err := manifest.Parse("x", []byte(text))
	must(w.t, err)
	scope, err := manifest.ParseWorkspace(ws)
	must(w.t, err)
	must(w.t, seal.PlaceIn(m, scope))
	to, err := workspace.ParseRecipient(w.ids[ws].Recipient().String())
	must(w.t, err)
	out, err := seal.Seal(m, workspace.For(to), seal.Options{Now: w.now})
	must(w.t, err)
	return string(out)
}

// Kubernetes Secrets and JSON are served like any other manifest.
func TestForms(t *testing.T) {
	w := newWorld(t)
	w.start()
	const tls = "apiVersion: v1\nkind: Secret\nmetadata: {name: tls}\ndata: {key: aHVudGVyMg==}\nstringData: {pin: 0123}\n"
	bare := w.inForm("orders", tls)
	stated := w.inForm("orders", strings.Replace(tls, "name: tls", "name: stated, namespace: orders", 1))
	json := w.inForm("orders", `{"name": "db", "version": "v1", "type": "secret", "secret": {"type": "key-value", "acl": "r", "data": {"smile": "\ud83d\ude00"}}}`)
	w.write("workspaces/orders/secrets/tls.yaml", bare)
	w.write("workspaces/orders/secrets/stated.yaml", stated)
	w.write("workspaces/orders/secrets/db.json", json)
	w.commit("three forms")
	w.sync()
	const all = "orders/db/smile=😀 orders/stated/key=hunter2 orders/stated/pin=0123 orders/tls/key=hunter2 orders/tls/pin=0123"
	w.want(all, "")

	// A copy in another workspace is refused, whether it states a namespace or not,
	// and even when the ring there has the same key.
	w.putKeys("payments", w.ids["orders"])
	w.write("workspaces/payments/secrets/tls.yaml", bare)
	w.write("workspaces/payments/secrets/stated.yaml", stated)
	// An object of Kubernetes that is no secret, and one whose values are open.
	w.write("workspaces/orders/secrets/map.yaml", strings.Replace(tls, "kind: Secret", "kind: ConfigMap", 1))
	w.write("workspaces/orders/secrets/open.yaml", strings.Replace(tls, "name: tls", "name: open", 1))
	w.commit("copies")
	w.sync()
	w.want(all, "orders/secrets/map:manifest orders/secrets/open:not-sealed payments/secrets/stated:place payments/secrets/tls:tampered")
	for _, path := range []string{"orders/secrets/map", "orders/secrets/open", "payments/secrets/tls", "payments/secrets/stated"} {
		w.remove("workspaces/" + path + ".yaml")
	}

	// One secret as YAML and as JSON is a conflict, and stays as it was.
	w.secret("orders", "db", "smile=hunter3")
	w.commit("db twice")
	w.sync()
	w.want(all, "orders/secrets/db:conflict")
	w.remove("workspaces/orders/secrets/db.json")
	w.commit("db once")
	w.sync()
	w.want(strings.Replace(all, "smile=😀", "smile=hunter3", 1), "")
}

// An agent of before kept nothing of a Kubernetes Secret's type and metadata. Its store
// is still good, and what it lacks is read from the mirror, also of a secret that is
// broken by now; without the remote.
func TestStoreOfAnAgentThatKeptLess(t *testing.T) {
	w := newWorld(t)
	const text = "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/basic-auth\nimmutable: true\nmetadata: {name: login, labels: {team: shop}, annotations: {note: yes-please}}\nstringData: {username: dana, password: hunter2}\n"
	w.write("workspaces/orders/secrets/login.yaml", w.inForm("orders", text))
	w.write("workspaces/orders/secrets/stale.yaml", w.inForm("orders", strings.Replace(text, "name: login", "name: stale", 1)))
	w.commit("two secrets")
	w.start()
	w.sync()
	w.write("workspaces/orders/secrets/stale.yaml", "broken")
	w.commit("one breaks")
	w.sync()
	ws, err := manifest.ParseWorkspace("orders")
	must(t, err)
	check := func(when string) {
		t.Helper()
		for _, r := range w.live.Current("").Scope(ws).Records() {
			k := r.Good.Kubernetes
			if k == nil || k.Type != manifest.TypeBasicAuth || k.Immutable == nil || !*k.Immutable || len(k.Labels) != 1 || k.Labels[0] != (manifest.Pair{Key: "team", Value: "shop"}) || len(k.Annotations) != 1 {
				t.Errorf("%s, %s: %+v", when, r.Path, k)
			}
			if r.Good.Provenance.Commit == "" || r.Good.Provenance.Author == "" {
				t.Errorf("%s, %s: %+v", when, r.Path, r.Good.Provenance)
			}
		}
	}
	check("fresh")
	w.start()
	check("restored")

	// The store as it would have been.
	old := sha256.Sum256([]byte("unbound false\n" + w.ids["orders"].Recipient().String() + "\n"))
	w.close()
	st, err := store.Open(filepath.Join(w.dir, "store.db"))
	must(t, err)
	keys, err := keyring.Open(filepath.Join(w.dir, "keys"))
	must(t, err)
	state, err := st.Load(keys.Ring)
	must(t, err)
	for _, r := range state.Records {
		r.Good.Kubernetes = nil
	}
	must(t, st.Commit(store.Update{Source: state.Source, Commit: state.Commit, Put: state.Records, Judged: func(manifest.Workspace) string { return hex.EncodeToString(old[:]) }}, keys.Ring))
	must(t, st.Close())
	const served = "orders/login/password=hunter2 orders/login/username=dana orders/stale/password=hunter2! orders/stale/username=dana!"
	w.start()
	check("of an older store")
	w.want(served, "orders/secrets/stale:manifest")
	check("restarted")
}
