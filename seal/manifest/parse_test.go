package manifest

import (
	"bytes"
	"strings"
	"testing"
)

const good = `name: orders-db-r
version: v1
type: secret
workspace: orders
layer: user
tags: [dataos:type:secret]
description: Orders database, read only
owner: iamgroot
secret:
  type: key-value
  acl: r
  data:
    username: orders
    pin: 0123
    float: 1.10
    exp: 1e3
    truth: yes
    empty: ""
  binaryData:
    blob: AAEC
`

func TestParseKeepsValuesAsWritten(t *testing.T) {
	m, err := Parse("x.yaml", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"username": "orders", "pin": "0123", "float": "1.10", "exp": "1e3", "truth": "yes", "empty": "", "blob": "AAEC"}
	if len(m.Secret.Entries) != len(want) {
		t.Fatalf("got %d entries, want %d", len(m.Secret.Entries), len(want))
	}
	for _, e := range m.Secret.Entries {
		if want[e.Key.String()] != e.Text {
			t.Errorf("%s = %q, want %q", e.Key, e.Text, want[e.Key.String()])
		}
		if e.Binary != (e.Key.String() == "blob") {
			t.Errorf("%s: Binary = %v", e.Key, e.Binary)
		}
	}
	if got := m.ID(); got != "orders-db-r:v1:secret:orders" {
		t.Errorf("ID = %s", got)
	}
}

// Each case changes the good manifest in one way and must be refused with the
// place and a word of the reason. No error may repeat the value hunter2.
func TestParseRefuses(t *testing.T) {
	const sealed = "ENC[AES256_GCM,data:aGVsbG8=,iv:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=,tag:AAAAAAAAAAAAAAAAAAAAAA==,type:str]"
	asSealed := strings.NewReplacer("username: orders", "username: "+sealed, "pin: 0123", "pin: "+sealed, "float: 1.10", "float: "+sealed,
		"exp: 1e3", "exp: "+sealed, "truth: yes", "truth: "+sealed, "AAEC", sealed).Replace(good) + "seal:\n  binding: " + sealed + "\nsops:\n  version: 3.13.3\n"
	if _, err := Parse("sealed.yaml", []byte(asSealed)); err != nil {
		t.Fatalf("the sealed form must parse: %v", err)
	}
	cases := []struct{ name, from, to, want string }{
		{"unknown field", "layer: user", "lair: hunter2", "x.yaml:5:1: lair: is not a field here"},
		{"unknown field in secret", "  acl: r", "  acl: r\n  passwd: hunter2", "x.yaml:12:3: secret.passwd: is not a field"},
		{"duplicate key", "    pin: 0123", "    username: hunter2", "x.yaml:14:5: secret.data.username: stands twice (first on line 13)"},
		{"duplicate across data and binaryData", "    blob: AAEC", "    pin: AAEC", "secret.binaryData.pin: stands twice"},
		{"duplicate field", "layer: user", "name: hunter2", "name: stands twice"},
		{"null", "username: orders", "username:", `x.yaml:13:14: secret.data.username: is null; write ""`},
		{"null tilde", "username: orders", "username: ~", "is null"},
		{"nested value", "username: orders", "username: {password: hunter2}", "must be a text"},
		{"list value", "username: orders", "username: [hunter2]", "must be a text"},
		{"alias", "username: orders", "username: *hunter2", "an alias (*name) stands for nothing"},
		{"alias of an anchor", "layer: user", "layer: *a\ndescription: &a hunter2", "alias"},
		{"anchor", "username: orders", "username: &a hunter2", "has an anchor"},
		{"tag", "username: orders", "username: !hunter2 x", "has a tag"},
		{"merge key", "    pin: 0123", "    <<: {a: hunter2}", "not plain text"},
		{"second document", "owner: iamgroot", "---\nowner: hunter2", "a second document starts here"},
		{"comment among values", "pin: 0123", "pin: 0123 #hunter2", "a comment stands among the values"},
		{"comment before values", "    pin: 0123", "    # hunter2\n    pin: 0123", "a comment stands among the values"},
		{"bad key", "pin: 0123", "pi n: hunter2", "a key breaks the rule"},
		{"dots key", "pin: 0123", "..pin: hunter2", "a key breaks the rule"},
		{"tab", "    pin: 0123", "\tpin: hunter2", "is not valid YAML: found a tab character"},
		{"bad name", "name: orders-db-r", "name: Orders", "x.yaml:1:7: name: name \"Orders\" breaks the rule"},
		{"long name", "name: orders-db-r", "name: " + strings.Repeat("a", 49), "at most 48"},
		{"bad workspace", "workspace: orders", "workspace: 1orders", "workspace \"1orders\" breaks the rule"},
		{"reserved workspace", "workspace: orders", "workspace: instance", "reserved"},
		{"bad version", "version: v1", "version: v9", "version: \"v9\" is unknown"},
		{"bad type", "type: secret", "type: secrets", "type: \"secrets\" is unknown"},
		{"bad secret type", "type: key-value", "type: kv", "secret type \"kv\" is unknown"},
		{"bad acl", "acl: r", "acl: x", "acl \"x\" is unknown"},
		{"name against acl", "acl: r", "acl: rw", "is rw, but the name orders-db-r says otherwise"},
		{"two-line owner", "owner: iamgroot", "owner: |\n  a\n  b", "must be one line"},
		{"bad base64", "AAEC", "hunter2", "is not base64"},
		{"seal in a plain manifest", "layer: user", "seal: {binding: hunter2}", "is not sealed; remove it"},
		{"no values", good[strings.Index(good, "  data:"):], "", "has no values"},
		{"not a mapping", good, "- hunter2", "is not a manifest"},
		{"a scalar", good, "hunter2", "is not a manifest"},
		{"empty", good, "", "is empty"},
		{"only a comment", good, "# hunter2", "is empty"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			in := strings.Replace(good, c.from, c.to, 1)
			if in == good {
				t.Fatal("the case changes nothing")
			}
			refused(t, in, c.want)
		})
	}
	sealedCases := []struct{ name, from, to, want string }{
		{"unsealed value", "username: " + sealed, "username: hunter2", "x.yaml:13:15: secret.data.username: is not sealed. Treat the value as leaked"},
		{"unsealed number", "username: " + sealed, "username: 12", "is not sealed"},
		{"junk after the value", "username: " + sealed, "username: " + sealed + "hunter2", "not a well-formed sealed value"},
		{"sealed comment type", "username: " + sealed, "username: " + strings.Replace(sealed, "type:str", "type:comment", 1), "not a well-formed"},
		{"short nonce", "username: " + sealed, "username: " + strings.Replace(sealed, "iv:AAAA", "iv:", 1), "not a well-formed"},
		{"comment in sealed section", "username: " + sealed, "username: " + sealed + " #hunter2", "comment stands among"},
		{"files in a sealed manifest", "  binaryData:", "  files: {a: hunter2}\n  binaryData:", "stands in a sealed manifest"},
		{"unquoted number as key", "    pin: ", "    7: ", "does not read as text"},
		{"flattened binding", "seal:\n  binding:", "seal:binding:", "is not a field here"},
		{"binding is plain", "binding: " + sealed, "binding: hunter2", "seal.binding: is not a sealed value"},
		{"sops is a text", "sops:\n  version: 3.13.3", "sops: hunter2", "must be the section that SOPS writes"},
	}
	for _, c := range sealedCases {
		t.Run("sealed/"+c.name, func(t *testing.T) {
			in := strings.Replace(asSealed, c.from, c.to, 1)
			if in == asSealed {
				t.Fatal("the case changes nothing")
			}
			refused(t, in, c.want)
		})
	}
}

func refused(t *testing.T, in, want string) {
	t.Helper()
	m, err := Parse("x.yaml", []byte(in))
	if err == nil || m != nil {
		t.Fatalf("was accepted:\n%s", in)
	}
	if !strings.Contains(err.Error(), want) {
		t.Errorf("error %q lacks %q", err, want)
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("error repeats the value: %v", err)
	}
}

func TestNotUTF8(t *testing.T) { refused(t, "name: \xff", "is not UTF-8") }

func TestTooLarge(t *testing.T) {
	refused(t, good+"#"+strings.Repeat("x", MaxSize), "may have at most")
}

func TestGrantsAndRoles(t *testing.T) {
	const grant = `name: orders-readers
version: v1alpha
type: grant
workspace: orders
grant:
  policy_use_case_id: read-specific-secret
  subjects: [users:id:alice, roles:id:orders-dev]
  secrets: [orders-db-*]
  keys: [username]
  effect: allow
  expires: 2027-01-01T00:00:00Z
  requester: bob
  notes: asked for in ticket 12
`
	m, err := Parse("g.yaml", []byte(grant))
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Grant.Subjects) != 2 || m.Grant.Effect != Allow || m.Grant.Expires.Year() != 2027 {
		t.Errorf("grant = %+v", m.Grant)
	}
	if !IsAllowGrant([]byte(grant)) {
		t.Error("a valid allow must be readable as one")
	}
	cases := []struct {
		name, from, to, want string
		allow                bool // still readable as an allow
	}{
		{"unknown use case", "read-specific-secret", "read-everything", "is unknown", true},
		{"no subjects", "[users:id:alice, roles:id:orders-dev]", "[]", "grant.subjects: is missing", true},
		{"pattern as subject", "users:id:alice", "users:id:*", "no patterns", true},
		{"no effect", "  effect: allow\n", "", "grant.effect: is missing", false},
		{"deny misspelt", "effect: allow", "effect: dney", "allow or deny", false},
		{"effect twice", "effect: allow", "effect: allow\n  effect: deny", "stands twice", false},
		{"effect by alias", "effect: allow", "effect: *a", "alias", false},
		{"bad expiry", "2027-01-01T00:00:00Z", "tomorrow", "is not a time", true},
		{"no secrets", "  secrets: [orders-db-*]\n", "", "grant.secrets: is missing", true},
		{"unknown field", "  notes:", "  nots:", "is not a field here", true},
		{"spans workspaces", "  notes:", "  workspaces: [a]\n  notes:", "only a grant under instance/grants", true},
		{"key pattern", "keys: [username]", "keys: ['*']", "a key breaks the rule", true},
		{"other type", "type: grant", "type: role", "", false},
	}
	for _, c := range cases {
		in := strings.Replace(grant, c.from, c.to, 1)
		_, err := Parse("g.yaml", []byte(in))
		if in == grant || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v lacks %q", c.name, err, c.want)
		}
		if got := IsAllowGrant([]byte(in)); got != c.allow {
			t.Errorf("%s: IsAllowGrant = %v", c.name, got)
		}
	}
	role := "name: orders-dev\nversion: v1alpha\ntype: role\nworkspace: orders\nrole: {members: [users:id:bob]}\n"
	if m, err := Parse("r.yaml", []byte(role)); err != nil || len(m.Role.Members) != 1 {
		t.Errorf("role: %+v, %v", m, err)
	}
	if _, err := Parse("r.yaml", []byte(strings.Replace(role, "users:id:bob", "roles:id:x", 1))); err == nil {
		t.Error("a role as member of a role was accepted")
	}
}

func TestPattern(t *testing.T) {
	cases := []struct {
		pattern, name string
		want          bool
	}{
		{"a", "a", true}, {"a", "b", false}, {"a*", "a", true}, {"a*", "abc", true}, {"*", "x", true},
		{"*-r", "orders-db-r", true}, {"*-r", "orders-db-rw", false}, {"o?ders", "orders", true}, {"o?ders", "oders", false},
		{"a*b*c", "a1b2c", true}, {"a*b*c", "a1c2b", false}, {"**", "x", true}, {"?", "xy", false},
	}
	for _, c := range cases {
		p, err := ParsePattern(c.pattern)
		if err != nil {
			t.Fatal(err)
		}
		n, _ := ParseName(c.name)
		if got := p.Match(n); got != c.want {
			t.Errorf("%s matches %s: %v, want %v", c.pattern, c.name, got, c.want)
		}
	}
}

func TestLocate(t *testing.T) {
	cases := []struct {
		path, scope, name, part string
		policy, ours, bad       bool
	}{
		{path: "workspaces/orders/secrets/a.yaml", scope: "orders", name: "a", ours: true},
		{path: "workspaces/orders/secrets/a/p.yaml", scope: "orders", name: "a", part: "p", ours: true},
		{path: "workspaces/orders/grants/team/g.yaml", scope: "orders", name: "g", policy: true, ours: true},
		{path: "instance/secrets/a.yaml", scope: "instance", name: "a", ours: true},
		{path: "instance/grants/g.yaml", scope: "instance", name: "g", policy: true, ours: true},
		{path: "README.md"}, {path: ".sops.yaml"}, {path: "workspaces/orders/README.md"},
		{path: "workspaces/orders/secrets/a.json", scope: "orders", name: "a", ours: true},
		{path: "workspaces/orders/secrets/a/p.json", scope: "orders", name: "a", part: "p", ours: true},
		{path: "workspaces/orders/grants/a.json", scope: "orders", policy: true, ours: true, bad: true},
		{path: "workspaces/orders/secrets/a.yml", scope: "orders", ours: true, bad: true},
		{path: "workspaces/orders/grants/a.yml", scope: "orders", policy: true, ours: true, bad: true},
		{path: "workspaces/orders/a.yaml", scope: "orders", ours: true, bad: true},
		{path: "workspaces/orders/secrets/a/b/c.yaml", scope: "orders", ours: true, bad: true},
		{path: "workspaces/instance/secrets/a.yaml", ours: true, bad: true},
		{path: "workspaces/Orders/secrets/a.yaml", ours: true, bad: true},
		{path: "workspaces", ours: true, bad: true},
		{path: "workspaces/orders/secrets/A.yaml", scope: "orders", ours: true, bad: true},
	}
	for _, c := range cases {
		p, ours, err := Locate(c.path)
		if ours != c.ours || (err != nil) != c.bad {
			t.Errorf("%s: ours=%v err=%v", c.path, ours, err)
		}
		if p.Scope.String() != c.scope || p.Policy != c.policy || !c.bad && (p.Name.String() != c.name || p.Part != c.part) {
			t.Errorf("%s: %+v", c.path, p)
		}
	}
}

func TestCheckPlace(t *testing.T) {
	cases := []struct{ path, want string }{
		{"workspaces/orders/secrets/orders-db-r.yaml", ""},
		{"workspaces/orders/secrets/orders-db-r/password.yaml", ""},
		{"workspaces/payments/secrets/orders-db-r.yaml", "x.yaml:4:12: workspace: is orders, but the file stands below workspaces/payments/"},
		{"workspaces/orders/secrets/other.yaml", "x.yaml:1:7: name: is orders-db-r, but the path says other"},
		{"workspaces/orders/grants/orders-db-r.yaml", "stands below grants/"},
		{"instance/secrets/orders-db-r.yaml", "an instance-secret stands below instance/secrets/"},
	}
	m, err := Parse("x.yaml", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		p, _, err := Locate(c.path)
		if err != nil {
			t.Fatal(err)
		}
		err = m.CheckPlace(p)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.path, err, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("a: [&x b, *x]"))
	f.Add([]byte("? {a: b}\n: c"))
	f.Add([]byte(goodJSON))
	f.Add([]byte(kubernetesSecret))
	f.Add([]byte(`{"a": ["\ud83d\ude00", 1e9, null, {"b": "\ud83d"}]}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		m, err := Parse("f.yaml", in)
		if (m == nil) == (err == nil) {
			t.Fatal("neither result nor error, or both")
		}
		IsAllowGrant(in)
		if m == nil || !m.JSON {
			return
		}
		// What is printed reads back as the same.
		out, err := EncodeJSON(m.Node())
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse("f.json", out)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if second, err := EncodeJSON(again.Node()); err != nil || !bytes.Equal(out, second) {
			t.Fatalf("%v\n%s\n%s", err, out, second)
		}
	})
}
