package access_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal/access"
)

var (
	now   = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	alice = identity("alice")
	bob   = identity("bob")
)

func identity(name string, roles ...string) access.Identity {
	id := access.Identity{User: subject("users:id:" + name)}
	for _, r := range roles {
		id.Roles = append(id.Roles, subject("roles:id:"+r))
	}
	return id
}

func subject(s string) manifest.Subject {
	out, err := manifest.ParseSubject(s)
	if err != nil {
		panic(err)
	}
	return out
}

func scope(s string) manifest.Workspace {
	ws, err := manifest.ParseScope(s)
	if err != nil {
		panic(err)
	}
	return ws
}

func name(s string) manifest.Name {
	n, err := manifest.ParseName(s)
	if err != nil {
		panic(err)
	}
	return n
}

func key(s string) manifest.Key {
	k, err := manifest.ParseKey(s)
	if err != nil {
		panic(err)
	}
	return k
}

// grant writes "allow|deny USECASE to SUBJECTS [on SECRETS] [keys KEYS] [in WORKSPACES] [until TIME]".
func grant(t testing.TB, ws, text string) manifest.Manifest {
	t.Helper()
	words := strings.Fields(text)
	body := fmt.Sprintf("  effect: %s\n  policy_use_case_id: %s\n", words[0], words[1])
	field := map[string]string{"to": "subjects", "on": "secrets", "keys": "keys", "in": "workspaces"}
	for i := 2; i < len(words); i += 2 {
		if words[i] == "until" {
			body += "  expires: " + words[i+1] + "\n"
			continue
		}
		body += fmt.Sprintf("  %s: [%s]\n", field[words[i]], strings.ReplaceAll(words[i+1], "*", `"*"`))
	}
	body = strings.ReplaceAll(body, `-"*"`, "-*")
	head := "name: g\nversion: v1alpha\ntype: grant\n"
	if ws != "instance" {
		head += "workspace: " + ws + "\n"
	}
	m, err := manifest.Parse("g.yaml", []byte(head+"grant:\n"+body))
	if err != nil {
		t.Fatal(err)
	}
	return *m
}

func role(t testing.TB, n string, members ...string) manifest.Manifest {
	t.Helper()
	m, err := manifest.Parse("r.yaml", []byte(fmt.Sprintf("name: %s\nversion: v1alpha\ntype: role\nrole: {members: [%s]}\n", n, strings.Join(members, ","))))
	if err != nil {
		t.Fatal(err)
	}
	return *m
}

// policy of workspaces orders and payments and of the instance.
func policy(orders, payments, instance []manifest.Manifest, broken ...access.File) *access.Policy {
	scopes := map[manifest.Workspace]*access.Scope{}
	for ws, list := range map[string][]manifest.Manifest{"orders": orders, "payments": payments, "instance": instance} {
		var files []access.File
		for i := range list {
			files = append(files, access.File{Path: fmt.Sprintf("%s/grants/%d.yaml", ws, i), Manifest: &list[i]})
		}
		for _, b := range broken {
			if strings.HasPrefix(b.Path, ws) {
				files = append(files, b)
			}
		}
		scopes[scope(ws)] = access.CompileScope(scope(ws), files)
	}
	return access.New(scopes)
}

func TestDecisions(t *testing.T) {
	list := func(ms ...manifest.Manifest) []manifest.Manifest { return ms }
	g := func(ws, text string) manifest.Manifest { return grant(t, ws, text) }
	base := g("orders", "allow read-specific-secret to users:id:alice on orders-db-*")
	cases := []struct {
		name   string
		policy *access.Policy
		who    access.Identity
		what   string // WORKSPACE/NAME/KEY
		want   access.Reason
	}{
		{"no grants", policy(nil, nil, nil), alice, "orders/orders-db-r/password", access.NoGrant},
		{"granted", policy(list(base), nil, nil), alice, "orders/orders-db-r/password", access.Granted},
		{"another name", policy(list(base), nil, nil), alice, "orders/other/password", access.NoGrant},
		{"another user", policy(list(base), nil, nil), bob, "orders/orders-db-r/password", access.NoGrant},
		{"another workspace", policy(list(base), nil, nil), alice, "payments/orders-db-r/password", access.NoGrant},
		{"instance secret of that name", policy(list(base), nil, nil), alice, "instance/orders-db-r/password", access.NoGrant},
		{"nobody", policy(list(base), nil, nil), access.Identity{}, "orders/orders-db-r/password", access.NoGrant},
		{"read all", policy(list(g("orders", "allow read-all-secrets to users:id:alice")), nil, nil), alice, "orders/x/k", access.Granted},
		{"list does not imply read", policy(list(g("orders", "allow list-secrets to users:id:alice")), nil, nil), alice, "orders/x/k", access.NoGrant},
		{"only the keys named", policy(list(g("orders", "allow read-all-secrets to users:id:alice keys username")), nil, nil), alice, "orders/x/username", access.Granted},
		{"not the others", policy(list(g("orders", "allow read-all-secrets to users:id:alice keys username")), nil, nil), alice, "orders/x/password", access.NoGrant},
		{"deny wins", policy(list(base, g("orders", "deny read-specific-secret to users:id:alice on orders-db-r")), nil, nil), alice, "orders/orders-db-r/password", access.DenyGrant},
		{"deny of another key", policy(list(base, g("orders", "deny read-all-secrets to users:id:alice keys pin")), nil, nil), alice, "orders/orders-db-r/password", access.Granted},
		{"deny of that key", policy(list(base, g("orders", "deny read-all-secrets to users:id:alice keys password")), nil, nil), alice, "orders/orders-db-r/password", access.DenyGrant},
		{"expired allow", policy(list(g("orders", "allow read-all-secrets to users:id:alice until 2026-06-01T12:00:00Z")), nil, nil), alice, "orders/x/k", access.NoGrant},
		{"not yet expired", policy(list(g("orders", "allow read-all-secrets to users:id:alice until 2026-06-01T12:00:01Z")), nil, nil), alice, "orders/x/k", access.Granted},
		{"expired deny", policy(list(base, g("orders", "deny read-all-secrets to users:id:alice until 2026-05-01T00:00:00Z")), nil, nil), alice, "orders/orders-db-r/k", access.Granted},

		{"through a role", policy(list(g("orders", "allow read-all-secrets to roles:id:dev"), role(t, "dev", "users:id:bob")), nil, nil), bob, "orders/x/k", access.Granted},
		{"not a member", policy(list(g("orders", "allow read-all-secrets to roles:id:dev"), role(t, "dev", "users:id:bob")), nil, nil), alice, "orders/x/k", access.NoGrant},
		{"asserted role", policy(list(g("orders", "allow read-all-secrets to roles:id:dev")), nil, nil), identity("eve", "dev"), "orders/x/k", access.Granted},
		{"role of another workspace", policy(list(g("orders", "allow read-all-secrets to roles:id:dev")), list(role(t, "dev", "users:id:bob")), nil), bob, "orders/x/k", access.NoGrant},
		{"role of the instance", policy(list(g("orders", "allow read-all-secrets to roles:id:dev")), nil, list(role(t, "dev", "users:id:bob"))), bob, "orders/x/k", access.Granted},
		{"own role hides the instance's", policy(list(g("orders", "allow read-all-secrets to roles:id:dev"), role(t, "dev", "users:id:alice")), nil, list(role(t, "dev", "users:id:bob"))), bob, "orders/x/k", access.NoGrant},
		{"an instance grant means the instance's role", policy(list(role(t, "dev", "users:id:alice")), nil, list(g("instance", "allow read-all-secrets to roles:id:dev in orders"))), alice, "orders/x/k", access.NoGrant},

		{"instance grant", policy(nil, nil, list(g("instance", "allow read-all-secrets to users:id:alice in orders"))), alice, "orders/x/k", access.Granted},
		{"instance grant elsewhere", policy(nil, nil, list(g("instance", "allow read-all-secrets to users:id:alice in orders"))), alice, "payments/x/k", access.NoGrant},
		{"instance secrets must be named", policy(nil, nil, list(g("instance", "allow read-all-secrets to users:id:alice in orders"))), alice, "instance/x/k", access.NoGrant},
		{"instance secrets", policy(nil, nil, list(g("instance", "allow read-all-secrets to users:id:alice in instance"))), alice, "instance/x/k", access.Granted},
		{"instance deny", policy(list(base), nil, list(g("instance", "deny read-all-secrets to users:id:alice in orders"))), alice, "orders/orders-db-r/k", access.DenyGrant},

		{"a broken deny closes its workspace", policy(list(base), nil, nil, access.File{Path: "orders/grants/bad.yaml", Closes: true}), alice, "orders/orders-db-r/k", access.PolicyBroken},
		{"a broken allow does not", policy(list(base), nil, nil, access.File{Path: "orders/grants/bad.yaml"}), alice, "orders/orders-db-r/k", access.Granted},
		{"another workspace stays open", policy(list(base), nil, nil, access.File{Path: "payments/grants/bad.yaml", Closes: true}), alice, "orders/orders-db-r/k", access.Granted},
		{"a broken file of the instance closes all", policy(list(base), nil, nil, access.File{Path: "instance/grants/bad.yaml", Closes: true}), alice, "orders/orders-db-r/k", access.PolicyBroken},
		{"a role defined twice closes", policy(list(base, role(t, "dev", "users:id:bob"), role(t, "dev", "users:id:eve")), nil, nil), alice, "orders/orders-db-r/k", access.PolicyBroken},
	}
	for _, c := range cases {
		part := strings.Split(c.what, "/")
		may := c.policy.Read(c.who, scope(part[0]), name(part[1]), now)
		d := may.Key(key(part[2]))
		if may.All() && !d.Allowed {
			t.Errorf("%s: all keys are allowed, but this one is not", c.name)
		}
		if d.Reason != c.want || d.Allowed != (c.want == access.Granted) {
			t.Errorf("%s: %+v, want %s", c.name, d, c.want)
		}
	}
}

func TestAnyAndList(t *testing.T) {
	pol := policy([]manifest.Manifest{
		grant(t, "orders", "allow list-secrets to users:id:lister"),
		grant(t, "orders", "allow read-specific-secret to users:id:half on db keys username"),
		grant(t, "orders", "allow read-specific-secret to users:id:none on db keys username"),
		grant(t, "orders", "deny read-all-secrets to users:id:none keys username"),
		grant(t, "orders", "allow read-all-secrets to users:id:hidden"),
		grant(t, "orders", "deny list-secrets to users:id:hidden"),
	}, nil, nil)
	cases := []struct {
		who             string
		any, list, some bool
	}{
		{"lister", false, true, true},
		{"half", true, true, true},
		{"none", false, false, true},
		{"hidden", true, false, true},
		{"stranger", false, false, false},
	}
	for _, c := range cases {
		id := identity(c.who)
		if d := pol.Read(id, scope("orders"), name("db"), now).Any(); d.Allowed != c.any {
			t.Errorf("%s: Any = %+v", c.who, d)
		}
		if all := pol.Read(id, scope("orders"), name("db"), now).All(); all != (c.who == "hidden") {
			t.Errorf("%s: All = %v", c.who, all)
		}
		if d := pol.List(id, scope("orders"), name("db"), now); d.Allowed != c.list {
			t.Errorf("%s: List = %+v", c.who, d)
		}
		if d := pol.MayList(id, scope("orders"), now); d.Allowed != c.some {
			t.Errorf("%s: MayList = %+v", c.who, d)
		}
	}
	var zero access.Policy
	if d := zero.Read(alice, scope("orders"), name("db"), now).Any(); d.Allowed {
		t.Error("the zero policy allows")
	}
}

// The cost of a decision must not grow with the number of grants.
func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{10, 1000, 100000} {
		b.Run(fmt.Sprintf("grants=%d", n), func(b *testing.B) {
			var grants []manifest.Manifest
			for i := range n {
				grants = append(grants, grant(b, "orders", fmt.Sprintf("allow read-specific-secret to users:id:u%d on s%d-*", i, i)))
			}
			pol := policy(grants, nil, nil)
			id, ws, n, k := identity("u7"), scope("orders"), name("s7-db"), key("k")
			b.ReportAllocs()
			for b.Loop() {
				if !pol.Read(id, ws, n, now).Key(k).Allowed {
					b.Fatal("denied")
				}
			}
		})
	}
}
