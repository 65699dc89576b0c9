package kustomize_test

import (
	"context"
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/sealward/sealward/plugins/kustomize"
	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/keyring"
)

const value = "hunter2-hunter2"

// shop is a tree with one secret of orders, one in parts, one of payments, one of the
// instance, and Kubernetes Secrets beside the kustomization.
func shop(t testing.TB) *world {
	w := newWorld(t, "orders", "payments", "shop", "instance", "public")
	w.write("sealward.yaml", "builds:\n  overlays/prod: [orders, instance, shop, public]\n")
	w.seal("workspaces/orders/secrets/db-r.yaml", secretText("orders", "db-r", "username: orders\npassword: "+value))
	w.seal("workspaces/orders/secrets/api/token.yaml", secretText("orders", "api", "token: "+value))
	w.seal("workspaces/orders/secrets/api/hook.yaml", secretText("orders", "api", "hook: hook-"+value))
	w.seal("workspaces/payments/secrets/card.yaml", secretText("payments", "card", "pin: "+value))
	w.seal("instance/secrets/ca.yaml", "name: ca\nversion: v1\ntype: instance-secret\ninstance-secret:\n  type: key-value\n  acl: r\n  data:\n    token: "+value+"\n")
	w.seal("overlays/prod/web.yaml", "apiVersion: v1\nkind: Secret\nmetadata:\n  name: web\n  namespace: shop\n  labels: {app: web}\n  annotations: {kustomize.config.k8s.io/needs-hash: \"true\", team: shop}\ntype: Opaque\nstringData:\n  password: "+value+"\n")
	w.write("overlays/prod/kustomization.yaml", "generators: [gen.yaml]\n")
	return w
}

// generate makes the objects of a generator in overlays/prod.
func (w *world) generate(u *kustomize.Unsealer, text string) ([]*kustomize.Object, error) {
	g, err := kustomize.ParseGenerator("overlays/prod/gen.yaml", 1, []byte(text))
	if err != nil {
		return nil, err
	}
	return u.Generate(context.Background(), w.path("overlays/prod"), g)
}

const generator = "apiVersion: sealward.dev/v1\nkind: SealedSecretGenerator\nmetadata: {name: all}\n"

func TestGenerate(t *testing.T) {
	w := shop(t)
	objects, err := w.generate(w.unsealer(), generator+`options: {labels: {from: git}}
secrets:
- {workspace: orders, name: db-r, metadata: {name: db, namespace: shop}, keys: [{from: password, to: DB_PASSWORD}], immutable: true}
- {workspace: orders, name: api, options: {needsHash: true, behavior: merge}}
- {workspace: instance, name: ca, type: example.com/ca}
files:
- web.yaml
- {path: ../../workspaces/orders/secrets/db-r.yaml, metadata: {annotations: {kustomize.config.k8s.io/behavior: replace}}}
`)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, o := range objects {
		n, err := o.RNode()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, strings.TrimSpace(n.MustString()))
	}
	want := []string{`apiVersion: v1
kind: Secret
metadata:
  name: db
  namespace: shop
  labels:
    from: 'git'
immutable: true
type: Opaque
data:
  DB_PASSWORD: aHVudGVyMi1odW50ZXIy`, `apiVersion: v1
kind: Secret
metadata:
  name: api
  labels:
    from: 'git'
  annotations:
    kustomize.config.k8s.io/behavior: 'merge'
    kustomize.config.k8s.io/needs-hash: 'true'
type: Opaque
data:
  hook: aG9vay1odW50ZXIyLWh1bnRlcjI=
  token: aHVudGVyMi1odW50ZXIy`, `apiVersion: v1
kind: Secret
metadata:
  name: ca
  labels:
    from: 'git'
type: example.com/ca
data:
  token: aHVudGVyMi1odW50ZXIy`, `apiVersion: v1
kind: Secret
metadata:
  name: web
  namespace: shop
  labels:
    app: 'web'
    from: 'git'
  annotations:
    kustomize.config.k8s.io/needs-hash: 'true'
    team: 'shop'
type: Opaque
data:
  password: aHVudGVyMi1odW50ZXIy`, `apiVersion: v1
kind: Secret
metadata:
  name: db-r
  labels:
    from: 'git'
  annotations:
    kustomize.config.k8s.io/behavior: 'replace'
type: Opaque
data:
  password: aHVudGVyMi1odW50ZXIy
  username: b3JkZXJz`}
	for i := range want {
		if i >= len(got) || got[i] != want[i] {
			t.Errorf("object %d:\n%s\nwant\n%s", i, got[min(i, len(got)-1)], want[i])
		}
	}
}

func TestGenerateRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(*world, *kustomize.Unsealer)
		text    string
		is      error
		want    string
	}{
		"a workspace that builds does not name": {text: "secrets: [{workspace: payments, name: card}]", is: kustomize.ErrNotAllowed, want: "builds: {overlays/prod: [payments]}"},
		"also by its file":                      {text: "files: [../../workspaces/payments/secrets/card.yaml]", is: kustomize.ErrNotAllowed, want: "payments"},
		"also a copy of its file": {prepare: func(w *world, _ *kustomize.Unsealer) {
			text, _ := os.ReadFile(w.path("workspaces/payments/secrets/card.yaml"))
			w.write("overlays/prod/card.yaml", string(text))
		}, text: "files: [card.yaml]", is: kustomize.ErrNotAllowed, want: "payments"},
		"settings of a folder below are nobody's": {prepare: func(w *world, _ *kustomize.Unsealer) {
			w.write("overlays/prod/sealward.yaml", "builds: {.: [payments]}\n")
			w.write("overlays/prod/.sops.yaml", "creation_rules: []\n")
		}, text: "secrets: [{workspace: payments, name: card}]", is: kustomize.ErrNotAllowed, want: "payments"},
		"also where the top has none": {prepare: func(w *world, _ *kustomize.Unsealer) {
			w.must(os.Remove(w.path("sealward.yaml")))
			w.write("overlays/prod/sealward.yaml", "builds: {.: [payments]}\n")
			text, _ := os.ReadFile(w.path("workspaces/payments/secrets/card.yaml"))
			w.write("overlays/prod/card.yaml", string(text))
		}, text: "files: [card.yaml]", is: kustomize.ErrNotAllowed, want: "payments"},
		"settings of a submodule": {prepare: func(w *world, _ *kustomize.Unsealer) {
			w.write(".git/modules/a/worktrees/b/HEAD", "")
			w.write("overlays/prod/.git", "gitdir: ../../.git/modules/a/worktrees/b\n")
			w.write("overlays/prod/sealward.yaml", "builds: {.: [payments]}\n")
			text, _ := os.ReadFile(w.path("workspaces/payments/secrets/card.yaml"))
			w.write("overlays/prod/card.yaml", string(text))
		}, text: "files: [card.yaml]", is: kustomize.ErrNotAllowed, want: "payments"},
		"a remote base's own settings": {prepare: func(w *world, u *kustomize.Unsealer) {
			u.Built = w.path("overlays/dev")
			w.write("overlays/prod/.git/HEAD", "")
			w.write("overlays/prod/sealward.yaml", "builds: {.: [orders]}\n")
			w.write("overlays/dev/kustomization.yaml", "")
		}, text: "files: [web.yaml]", is: kustomize.ErrNotAllowed, want: "overlays/dev use workspace shop"},
		"a base of a build that may not": {prepare: func(w *world, u *kustomize.Unsealer) {
			u.Built = w.path("overlays/dev")
			w.write("sealward.yaml", "builds: {overlays/prod: [orders], overlays/dev: [shop]}\n")
			w.write("overlays/dev/kustomization.yaml", "")
		}, text: "secrets: [{workspace: orders, name: db-r}]", is: kustomize.ErrNotAllowed, want: "overlays/dev use workspace orders"},
		"no builds at all": {prepare: func(w *world, _ *kustomize.Unsealer) { w.write("sealward.yaml", "") },
			text: "secrets: [{workspace: orders, name: db-r}]", is: kustomize.ErrNotAllowed, want: "orders"},
		"one that kustomize would leave out": {text: "options: {annotations: {config.kubernetes.io/local-config: \"true\"}}\nsecrets: [{workspace: orders, name: db-r}]", want: "would leave it out without a word"},
		"a source below workspaces/ and no builds at all": {prepare: func(w *world, u *kustomize.Unsealer) {
			u.AllowUnbound = true
			w.write("sealward.yaml", "")
			w.sops("workspaces/orders/app.env", "orders", "", "TOKEN="+value+"\n")
		}, text: "workspace: orders\nsources: [{metadata: {name: app}, envs: [../../workspaces/orders/app.env]}]", is: kustomize.ErrNotAllowed, want: "orders"},
		"a file where none belongs in a workspace": {prepare: func(w *world, u *kustomize.Unsealer) {
			u.AllowUnbound = true
			w.sops("workspaces/orders/odd.yaml", "shop", "^data$", "apiVersion: v1\nkind: Secret\nmetadata:\n    name: odd\n    namespace: shop\ndata:\n    password: aHVudGVyMi1odW50ZXIy\n")
		}, text: "files: [../../workspaces/orders/odd.yaml]", want: "workspaces/orders/odd.yaml: stands outside secrets/ and grants/"},
		"no such secret":              {text: "secrets: [{workspace: orders, name: db-x}]", want: "gen.yaml:4: there is no such secret"},
		"no such file":                {text: "files: [nothing.yaml]", want: "overlays/prod/nothing.yaml: does not exist"},
		"a path that leaves the tree": {text: "files: [../../../keys/orders.agekey]", want: "leaves the tree"},
		"an absolute path":            {text: "files: [/etc/passwd]", want: "is an absolute path"},
		"a link that leaves the tree": {prepare: func(w *world, _ *kustomize.Unsealer) {
			w.must(os.Symlink(w.keyring+"/orders.agekey", w.path("overlays/prod/link.yaml")))
		}, text: "files: [link.yaml]", want: "is a link that leaves the tree"},
		"a folder": {text: "files: [../prod]", want: "is a folder"},
		"an unsealed file": {prepare: func(w *world, _ *kustomize.Unsealer) {
			w.write("overlays/prod/plain.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: plain}\nstringData:\n  password: "+value+"\n")
		}, text: "files: [plain.yaml]", want: "plain.yaml"},
		"another workspace's place": {prepare: func(w *world, _ *kustomize.Unsealer) {
			text, _ := os.ReadFile(w.path("workspaces/payments/secrets/card.yaml"))
			w.write("workspaces/orders/secrets/card.yaml", string(text))
		}, text: "secrets: [{workspace: orders, name: card}]", want: "stands below workspaces/orders/"},
		"no key": {prepare: func(w *world, _ *kustomize.Unsealer) { w.must(os.Remove(w.keyring + "/orders.agekey")) },
			text: "secrets: [{workspace: orders, name: db-r}]", is: keyring.ErrNoRing, want: "orders"},
		"the wrong key": {prepare: func(w *world, _ *kustomize.Unsealer) {
			w.must(os.WriteFile(w.keyring+"/orders.agekey", []byte(w.ids["payments"].String()), 0o600))
		}, text: "secrets: [{workspace: orders, name: db-r}]", is: unseal.ErrNotRecipient, want: "db-r.yaml"},
		"without a binding": {prepare: func(w *world, _ *kustomize.Unsealer) {
			w.sops("overlays/prod/old.yaml", "shop", "^data$", "apiVersion: v1\nkind: Secret\nmetadata:\n    name: old\n    namespace: shop\ndata:\n    password: aHVudGVyMi1odW50ZXIy\n")
		}, text: "files: [old.yaml]", is: seal.ErrUnbound, want: "--allow-unbound"},
		"without a binding where one is required": {prepare: func(w *world, u *kustomize.Unsealer) {
			u.AllowUnbound = true
			w.write("sealward.yaml", "binding: required\nbuilds: {.: [shop]}\n")
			w.sops("overlays/prod/old.yaml", "shop", "^data$", "apiVersion: v1\nkind: Secret\nmetadata:\n    name: old\n    namespace: shop\ndata:\n    password: aHVudGVyMi1odW50ZXIy\n")
		}, text: "files: [old.yaml]", is: seal.ErrUnbound, want: "sealward.yaml requires one"},
		"one name twice":               {text: "secrets: [{workspace: orders, name: db-r}]\nfiles: [../../workspaces/orders/secrets/db-r.yaml]", want: "makes Secret db-r twice"},
		"a key that is not there":      {text: "secrets: [{workspace: orders, name: db-r, keys: [passwort]}]", want: "has no key passwort; it has password, username"},
		"a type without its keys":      {text: "secrets: [{workspace: orders, name: db-r, type: kubernetes.io/tls}]", want: "needs the key tls.crt"},
		"nothing":                      {text: "", want: "makes nothing"},
		"an unknown field":             {text: "secret: []", want: "gen.yaml:4:1: secret: is unknown here"},
		"an unknown field of an entry": {text: "secrets: [{workspace: orders, name: db-r, key: [x]}]", want: "secrets[0].key: is unknown here"},
		"a field twice":                {text: "files: [web.yaml]\nfiles: [web.yaml]", want: "files: stands twice"},
		"a behavior that is none":      {text: "options: {behavior: append}\nfiles: [web.yaml]", want: "options.behavior: is none of create, merge and replace"},
		"an address":                   {text: "files: [https://example.com/web.yaml]", want: "must be in the tree"},
	} {
		t.Run(name, func(t *testing.T) {
			w := shop(t)
			u := w.unsealer()
			if c.prepare != nil {
				c.prepare(w, u)
			}
			objects, err := w.generate(u, generator+c.text+"\n")
			if err == nil || objects != nil {
				t.Fatalf("made %d objects", len(objects))
			}
			if c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
			if strings.Contains(err.Error(), value) {
				t.Errorf("the error holds a value: %v", err)
			}
		})
	}
}

// Many documents in one file cost what they weigh, wherever they stand in it.
func TestParseGeneratorFarDown(t *testing.T) {
	const line = 5_000_000
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := kustomize.ParseGenerator("gen.yaml", line, []byte(generator+"secret: []\n"))
	_, broken := kustomize.ParseGenerator("gen.yaml", line, []byte(generator+"files: [\n"))
	runtime.ReadMemStats(&after)
	if err == nil || !strings.Contains(err.Error(), "gen.yaml:5000003:") {
		t.Error(err)
	}
	if broken == nil || !strings.Contains(broken.Error(), "gen.yaml:500000") {
		t.Error(broken)
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 1<<20 {
		t.Errorf("takes %d bytes", used)
	}
}
