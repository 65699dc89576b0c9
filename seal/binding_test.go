package seal

import (
	"bytes"
	"testing"

	"github.com/getsops/sops/v3"

	"github.com/sealward/sealward/seal/manifest"
)

// Vectors: the data key is the bytes 0 to 31. They were computed by another
// program that follows docs/format.md.
func TestBindingVectors(t *testing.T) {
	key := make([]byte, 32)
	for i := range key {
		key[i] = byte(i)
	}
	cases := []struct{ name, text, place, want string }{
		{"secret", `name: orders-db-r
version: v1
type: secret
workspace: orders
tags: [a, b]
secret:
  type: key-value
  acl: r
  data: {password: hunter2, none: ""}
  binaryData: {blob: AAEC}
`, "", "v1:kO0tflxi8As7oQwEDFbxod9T2WZqIWqEOz2WrHPT7pc="},
		{"Kubernetes Secret without annotations of its own", `apiVersion: v1
kind: Secret
metadata:
  name: orders-db
  labels: {app: orders}
  annotations: {}
immutable: true
data: {password: aHVudGVyMg==}
stringData: {pin: "0123"}
`, "orders", "v1:F7cX52pOSNpMY1f9yecMw1c+0uJocn5kT1QK2I2JsRk="},
	}
	for _, c := range cases {
		m, err := manifest.Parse("x.yaml", []byte(c.text))
		if err != nil {
			t.Fatal(err)
		}
		if c.place != "" {
			ws, _ := manifest.ParseWorkspace(c.place)
			if err := m.SettleIn(ws); err != nil {
				t.Fatal(err)
			}
		}
		root, err := branch(m.Node())
		if err != nil {
			t.Fatal(err)
		}
		got, err := binding(key, m, root)
		if err != nil || got != c.want {
			t.Errorf("%s: %s, %v, want %s", c.name, got, err, c.want)
		}
		// Neither the binding itself nor the section of SOPS changes it.
		e := &Envelope{m: m, tree: sops.Tree{Branches: sops.TreeBranches{root}}}
		e.set(m.BindingPath(), "v1:x")
		e.set([]string{"sops"}, "x")
		if again, err := binding(key, m, e.tree.Branches[0]); err != nil || again != got {
			t.Errorf("%s: with itself in place: %s, %v", c.name, again, err)
		}
	}
}

// The paths that the binding leaves out are exact: what only looks like them is
// covered.
func TestBindingLeavesOutNothingElse(t *testing.T) {
	key := bytes.Repeat([]byte{1}, 32)
	m, err := manifest.Parse("x.yaml", []byte("apiVersion: v1\nkind: Secret\nmetadata: {name: a, namespace: b, annotations: {x: y}}\ndata: {a: AAEC}\n"))
	if err != nil {
		t.Fatal(err)
	}
	root, err := branch(m.Node())
	if err != nil {
		t.Fatal(err)
	}
	e := &Envelope{m: m, tree: sops.Tree{Branches: sops.TreeBranches{root}}}
	seen := map[string]string{}
	for _, path := range [][]string{
		{"metadata", "annotations", "x"}, {"seal"}, {"seal", "binding"}, {"sealward.dev/binding"}, {"annotations", "sealward.dev/binding"},
		{"metadata", "sealward.dev/binding"}, {"metadata", "labels", "sealward.dev/binding"}, {"metadata", "annotations", "sops"}, {"metadata", "sops"},
	} {
		if len(path) == 2 && path[0] == "seal" {
			e.tree.Branches[0], _ = e.tree.Branches[0].Unset([]any{"seal"})
		}
		e.set(path, "changed")
		got, err := binding(key, m, e.tree.Branches[0])
		if err != nil {
			t.Fatal(err)
		}
		if before, twice := seen[got]; twice {
			t.Errorf("%v is not covered: the same as after %s", path, before)
		}
		seen[got] = path[len(path)-1]
	}
}
