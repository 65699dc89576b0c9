package gitops_test

import (
	"strings"
	"testing"

	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
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
