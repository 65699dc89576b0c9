package workspace

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"

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

func newSSH(t *testing.T) string {
	t.Helper()
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
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
	if got, err := rules.Recipients("workspaces/orders/secrets/x.yaml"); err != nil || len(got.All()) != 1 || got.All()[0] != a {
		t.Errorf("orders: %v, %v", got, err)
	}
	if got, err := rules.WorkspaceRecipients(manifest.Instance()); err != nil || len(got.All()) != 2 || got.All()[1] != b {
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
		{"no recipient", "creation_rules:\n- path_regex: ^workspaces/orders/", "names no recipient"},
		{"odd pgp", "creation_rules:\n- path_regex: ^workspaces/orders/\n  pgp: AAAA", "is none that sealward knows"},
		{"a key in the wrong field", "creation_rules:\n- path_regex: ^workspaces/orders/\n  pgp: " + a, "is of another kind"},
		{"Huawei", "creation_rules:\n- path_regex: ^workspaces/orders/\n  hckms: [tr-west-1:abc]", "names hckms"},
		{"threshold", "creation_rules:\n- path_regex: ^workspaces/orders/\n  shamir_threshold: 3\n  key_groups: [{age: [" + a + "]}, {age: [" + newRecipient(t).String() + "]}]", "can be 2 to 2"},
		{"empty group", "creation_rules:\n- path_regex: ^workspaces/orders/\n  key_groups: [{age: [" + a + "]}, {}]", "without a key"},
		{"mixed strength", "creation_rules:\n- path_regex: ^workspaces/orders/\n  age: " + a + "," + pq, "mix post-quantum"},
		{"private key", "creation_rules:\n- path_regex: ^workspaces/orders/\n  age: AGE-SECRET-KEY-1HUNTER2", "treat it as leaked"},
		{"plugin", "creation_rules:\n- path_regex: ^workspaces/orders/\n  age: age1yubikey1qqqq", "is none that sealward knows"},
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
		if got, err := rules.Recipients("workspaces/orders/secrets/x.yaml"); err != nil || len(got.All()) != 1 {
			t.Errorf("%s: %v, %v", spelling, got, err)
		}
	}
}

const (
	testPGP     = "85D77543B3D624B63CEA9E6DBC17301B491B3F21"
	testTransit = "https://vault.example.com/v1/sops/keys/orders"
	testAWS     = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	testGCP     = "projects/p/locations/global/keyRings/r/cryptoKeys/orders"
	testAzure   = "https://orders.vault.azure.net/keys/sops/0123456789abcdef0123456789abcdef"
)

// Each kind of recipient is read, named and turned into SOPS's key and back alike.
func TestEveryKindOfRecipient(t *testing.T) {
	testSSH := newSSH(t)
	kinds := map[string]RecipientKind{
		newRecipient(t).String(): KindAge, newHybrid(t).String(): KindHybrid, testSSH: KindSSH, testPGP: KindPGP,
		testTransit: KindTransit, testAWS: KindAWS, testAWS + "+arn:aws:iam::111122223333:role/sops": KindAWS, testGCP: KindGCP, testAzure: KindAzure,
	}
	var classic []Recipient
	for text, kind := range kinds {
		r, err := ParseRecipient(text)
		if err != nil || r.Kind() != kind || r.String() != text {
			t.Errorf("%s: %v, kind %s, want %s", text, err, r.Kind(), kind)
			continue
		}
		key, err := r.MasterKey()
		if err != nil {
			t.Fatal(err)
		}
		if back, ok := RecipientOf(key); !ok || back != r {
			t.Errorf("%s came back as %v", text, back)
		}
		if kind != KindHybrid {
			classic = append(classic, r)
		}
	}
	if r, err := ParseRecipient(testSSH + " dana@example.com"); err != nil || r.String() != testSSH {
		t.Errorf("an SSH key with a comment: %v, %v", r, err)
	}
	rules, err := ParseRules(nil)
	if err != nil {
		t.Fatal(err)
	}
	out, err := rules.Add(scope(t, "orders"), classic)
	if err != nil {
		t.Fatal(err)
	}
	if rules, err = ParseRules(out); err != nil {
		t.Fatal(err)
	}
	got, err := rules.Recipients("workspaces/orders/secrets/x.yaml")
	if err != nil || len(got.All()) != len(classic) {
		t.Fatalf("%d recipients, %v:\n%s", len(got.All()), err, out)
	}
	for _, r := range classic {
		if !got.Contains(r) {
			t.Errorf("%s is lost", r)
		}
	}
	// Other recipients in place of these; what else the rule says stays.
	if out, err = rules.Replace(scope(t, "orders"), classic[:1]); err != nil {
		t.Fatal(err)
	}
	if rules, err = ParseRules(out); err != nil {
		t.Fatal(err)
	}
	if got, err := rules.Recipients("workspaces/orders/secrets/x.yaml"); err != nil || len(got.All()) != 1 || got.All()[0] != classic[0] || !strings.Contains(string(out), "encrypted_regex") {
		t.Errorf("after Replace: %v, %v\n%s", got, err, out)
	}
}

func TestKeyGroups(t *testing.T) {
	a, b := newRecipient(t), newRecipient(t)
	rules, err := ParseRules([]byte("creation_rules:\n- path_regex: ^workspaces/orders/\n  shamir_threshold: 2\n  key_groups:\n  - age: [" + a.String() + "]\n    kms: [{arn: '" + testAWS + "', context: {Team: orders, App: db}, aws_profile: p}]\n  - merge:\n    - age: [" + b.String() + "]\n    hc_vault: ['" + testTransit + "']\n  - azure_keyvault: [{vaultUrl: 'https://orders.vault.azure.net', key: sops, version: 0123456789abcdef0123456789abcdef}]\n    gcp_kms: [{resource_id: " + testGCP + "}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := rules.WorkspaceRecipients(scope(t, "orders"))
	if err != nil || len(got.Groups()) != 3 || got.Threshold() != 2 || len(got.All()) != 6 {
		t.Fatalf("%v, %v", got, err)
	}
	for _, r := range got.All() {
		key, err := r.MasterKey()
		if err != nil {
			t.Fatal(err)
		}
		if back, ok := RecipientOf(key); !ok || back != r {
			t.Errorf("%v came back as %v", r, back)
		}
	}
	if _, err := rules.Replace(scope(t, "orders"), []Recipient{a}); err == nil || !strings.Contains(err.Error(), "has key_groups") {
		t.Errorf("Replace of a rule with key groups: %v", err)
	}
}

// SOPS asks Azure for the newest version, with whatever credentials it finds:
// what a repository names must not start that.
func TestAzureKeyWithoutVersion(t *testing.T) {
	for _, version := range []string{"", "/"} {
		if _, err := ParseRecipient("https://orders.vault.azure.net/keys/sops" + version); err == nil || !strings.Contains(err.Error(), "names no version") {
			t.Errorf("%q: %v", version, err)
		}
	}
}

// A repository's .sops.yaml takes nobody's time, whatever stands in it.
func TestRulesAreReadInBoundedTime(t *testing.T) {
	a := newRecipient(t).String()
	list := "x: &a {path_regex: ^workspaces/z/, age: [" + strings.Repeat(a+",", 2000) + a + "]}\n"
	for name, rules := range map[string]string{
		"one rule, often":    list + "creation_rules:\n" + strings.Repeat("- *a\n", 200_000),
		"merged groups":      list + "creation_rules:\n" + strings.Repeat("- {key_groups: [{merge: [*a, *a, *a, *a, *a, *a]}]}\n", 10_000),
		"nested":             "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]\ncreation_rules:\n- age: *f\n",
		"an alias of itself": "creation_rules: &a\n- *a\n",
	} {
		start := time.Now()
		if _, err := ParseRules([]byte(rules)); err == nil || !strings.Contains(err.Error(), "aliases written out") {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("%s took %s", name, took)
		}
	}
	var many strings.Builder
	for n := range 50_000 {
		fmt.Fprintf(&many, "arn:aws:kms:eu-west-1:1:key/%d,", n)
	}
	start := time.Now()
	if _, err := ParseRules([]byte("creation_rules:\n- {path_regex: ^workspaces/z/, kms: '" + many.String() + "'}\n")); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("50,000 recipients took %s", took)
	}
	// Keys that are named once are what people write.
	rules, err := ParseRules([]byte("keys:\n- &dana " + a + "\ncreation_rules:\n- path_regex: ^workspaces/orders/\n  key_groups:\n  - age: [*dana]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if to, err := rules.Recipients("workspaces/orders/secrets/x.yaml"); err != nil || len(to.All()) != 1 {
		t.Errorf("%v, %v", to, err)
	}
}
