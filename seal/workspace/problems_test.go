package workspace

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sealward/sealward/seal/manifest"
)

func TestProblems(t *testing.T) {
	const (
		key   = "age1570yh6ty5w89v7yjg559pfl0sxy4zkf7pu0k6pgt5z8gccjc0sfqxs42qf"
		right = `encrypted_regex: ^(data|stringData|binaryData|binding|sealward\.dev/binding)$`
	)
	rule := func(regex string) string {
		return "  - path_regex: " + regex + "\n    " + right + "\n    age: " + key + "\n"
	}
	orders, _ := manifest.ParseWorkspace("orders")
	ordersEU, _ := manifest.ParseWorkspace("orders-eu")
	for _, c := range []struct {
		name  string
		rules string
		want  string // reason:line, sorted as found
	}{
		{"one rule a workspace", rule("^workspaces/orders/") + rule("^workspaces/orders-eu/") + rule("^instance/"), ""},
		{"files that are not ours", rule("^apps/.*") + rule("^workspaces/orders/"), ""},
		{"a rule for single files first", rule(`^workspaces/orders/secrets/api\.yaml$`) + rule("^workspaces/orders/"), ""},
		{"not anchored at all", rule("workspaces/orders/"), "unanchored:2"},
		{"one name starts another", rule("^workspaces/orders"), "unanchored:2 spans:2"},
		{"an alternative opens the anchor", rule("^workspaces/orders/|^workspaces/orders-eu/"), "spans:2"},
		{"everything", "  - age: " + key + "\n", "unanchored:2 spans:2"},
		{"twice", rule("^workspaces/orders/") + rule("^workspaces/orders/"), "shadowed:5"},
		{"single files behind their folder", rule("^workspaces/orders/") + rule(`^workspaces/orders/secrets/api\.yaml$`), "shadowed:5"},
		{"behind everything", rule("^workspaces/.*") + rule("^workspaces/orders/"), "unanchored:2 spans:2 shadowed:5"},
		{"nobody", "  - path_regex: ^workspaces/orders/\n    " + right + "\n", "invalid:2"},
		{"plain sops seals all", "  - path_regex: ^workspaces/orders/\n    age: " + key + "\n", "pattern:2"},
		{"a single file, not anchored", rule(`workspaces/orders/secrets/api\.yaml$`), "unanchored:2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := ParseRules([]byte("creation_rules:\n" + c.rules))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, p := range r.Problems([]manifest.Workspace{orders, ordersEU}) {
				got = append(got, fmt.Sprintf("%s:%d", p.Reason, p.Line))
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("got %q, want %q", s, c.want)
			}
		})
	}
}
