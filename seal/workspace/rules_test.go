package workspace

import (
	"errors"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/sealward/sealward/seal/manifest"
)

func newRecipient(t *testing.T) Recipient {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	r, err := ParseRecipient(id.Recipient().String())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func newHybrid(t *testing.T) Recipient {
	t.Helper()
	id, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	r, err := ParseRecipient(id.Recipient().String())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func scope(t *testing.T, s string) manifest.Workspace {
	t.Helper()
	ws, err := manifest.ParseScope(s)
	if err != nil {
		t.Fatal(err)
	}
	return ws
}

func TestAddKeepsWhatStands(t *testing.T) {
	a, b := newRecipient(t), newRecipient(t)
	rules, err := ParseRules([]byte("# who may read what\ncreation_rules: []\n"))
	if err != nil {
		t.Fatal(err)
	}
	out, err := rules.Add(scope(t, "orders"), []Recipient{a})
	if err != nil {
		t.Fatal(err)
	}
	rules, err = ParseRules(out)
	if err != nil {
		t.Fatal(err)
	}
	if out, err = rules.Add(manifest.Instance(), []Recipient{a, b}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out), "# who may read what") {
		t.Errorf("the comment is lost:\n%s", out)
	}
	if rules, err = ParseRules(out); err != nil {
		t.Fatal(err)
	}
	if got, err := rules.Recipients("workspaces/orders/secrets/x.yaml"); err != nil || len(got) != 1 || got[0] != a {
		t.Errorf("orders: %v, %v", got, err)
	}
	if got, err := rules.WorkspaceRecipients(manifest.Instance()); err != nil || len(got) != 2 || got[1] != b {
		t.Errorf("instance: %v, %v", got, err)
	}
	if got := rules.Workspaces(); len(got) != 2 || got[0].String() != "orders" || !got[1].IsInstance() {
		t.Errorf("Workspaces = %v", got)
	}
	if _, err := rules.Recipients("workspaces/orders-eu/secrets/x.yaml"); !errors.Is(err, ErrNoRule) {
		t.Errorf("a workspace whose name starts alike: %v", err)
	}
	if _, err := rules.Add(scope(t, "orders"), []Recipient{b}); err == nil || !strings.Contains(err.Error(), "covers workspace orders already") {
		t.Errorf("second rule for one workspace: %v", err)
	}
}

func TestRulesThatCannotBeFollowed(t *testing.T) {
	a, pq := newRecipient(t).String(), newHybrid(t).String()
	cases := []struct{ name, rules, want string }{
		{"none", "", "no creation rule"},
		{"unanchored", "creation_rules:\n- path_regex: workspaces/orders/\n  age: " + a, "is not anchored"},
		{"catch-all", "creation_rules:\n- age: " + a, "is not anchored"},
		{"matches everything", "creation_rules:\n- path_regex: ^.*\n  age: " + a, "is not anchored"},
		{"several workspaces", "creation_rules:\n- path_regex: ^workspaces/(orders|payments)/\n  age: " + a, "is not anchored"},
		{"lower-case private key", "creation_rules:\n- path_regex: ^workspaces/orders/\n  age: ' age-secret-key-1HUNTER2'", "treat it as leaked"},
		{"no recipient", "creation_rules:\n- path_regex: ^workspaces/orders/", "names no age recipient"},
		{"pgp", "creation_rules:\n- path_regex: ^workspaces/orders/\n  pgp: AAAA", "names pgp"},
		{"mixed strength", "creation_rules:\n- path_regex: ^workspaces/orders/\n  age: " + a + "," + pq, "mix post-quantum"},
		{"private key", "creation_rules:\n- path_regex: ^workspaces/orders/\n  age: AGE-SECRET-KEY-1HUNTER2", "treat it as leaked"},
		{"plugin", "creation_rules:\n- path_regex: ^workspaces/orders/\n  age: age1yubikey1qqqq", "is not an age public key"},
		{"bad regex", "creation_rules:\n- path_regex: '^('\n  age: " + a, "path_regex"},
		{"not a mapping", "- a", "not a mapping"},
	}
	for _, c := range cases {
		rules, err := ParseRules([]byte(c.rules))
		if err == nil {
			_, err = rules.Recipients("workspaces/orders/secrets/x.yaml")
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "HUNTER2") {
			t.Errorf("%s: the error repeats the key: %v", c.name, err)
		}
	}
	// Both of SOPS's spellings, and a key group, name the same recipients.
	for _, spelling := range []string{"age: " + a, "age: [" + a + "]", "key_groups:\n  - age: [" + a + "]"} {
		rules, err := ParseRules([]byte("creation_rules:\n- path_regex: ^workspaces/orders/\n  " + spelling))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := rules.Recipients("workspaces/orders/secrets/x.yaml"); err != nil || len(got) != 1 {
			t.Errorf("%s: %v, %v", spelling, got, err)
		}
	}
}
