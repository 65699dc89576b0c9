package access_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal/access"
)

func TestMembers(t *testing.T) {
	pol := policy(
		[]manifest.Manifest{grant(t, "orders", "allow read-all-secrets to roles:id:dev,roles:id:ops,roles:id:nobody"), role(t, "dev", "users:id:erin", "users:id:bob", "users:id:erin")},
		[]manifest.Manifest{role(t, "ops", "users:id:dana")},
		[]manifest.Manifest{grant(t, "instance", "allow read-all-secrets to roles:id:dev in orders,orders,instance"), role(t, "dev", "users:id:alice"), role(t, "ops", "users:id:alice")},
	)
	var got []string
	for g := range pol.Grants(scope("orders")) {
		for _, r := range []string{"dev", "ops", "nobody"} {
			got = append(got, fmt.Sprint(g.Path, " ", r, pol.Members(g, subject("roles:id:"+r))))
		}
	}
	want := []string{
		"instance/grants/0.yaml dev[users:id:alice]", "instance/grants/0.yaml ops[users:id:alice]", "instance/grants/0.yaml nobody[]",
		// Its own role hides the instance's; another workspace's is nobody's.
		"orders/grants/0.yaml dev[users:id:bob users:id:erin]", "orders/grants/0.yaml ops[users:id:alice]", "orders/grants/0.yaml nobody[]",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for ws, n := range map[string]int{"orders": 2, "payments": 0, "instance": 1} {
		if got := slices.Collect(pol.Grants(scope(ws))); len(got) != n {
			t.Errorf("%s: %v", ws, got)
		}
	}
	if got := slices.Collect((&access.Policy{}).Grants(scope("orders"))); got != nil {
		t.Errorf("the zero policy has %v", got)
	}
}

func TestSameFor(t *testing.T) {
	scopes := func() map[manifest.Workspace]*access.Scope {
		out := map[manifest.Workspace]*access.Scope{}
		for _, ws := range []string{"orders", "payments", "instance"} {
			out[scope(ws)] = access.CompileScope(scope(ws), nil)
		}
		return out
	}
	a := scopes()
	p := access.New(a)
	for changed, want := range map[string]string{"orders": "payments instance", "payments": "orders instance", "instance": ""} {
		b := map[manifest.Workspace]*access.Scope{}
		for ws, s := range a {
			b[ws] = s
		}
		b[scope(changed)] = scopes()[scope(changed)]
		var same []string
		for _, ws := range []string{"orders", "payments", "instance"} {
			if p.SameFor(scope(ws), access.New(b)) {
				same = append(same, ws)
			}
		}
		if got := strings.Join(same, " "); got != want {
			t.Errorf("%s changed: the same for %q, want %q", changed, got, want)
		}
	}
}

// Whoever decides from the grants that Grants gives, and the members of Members, decides
// as Read does.
func TestGrantsAreWhatReadDecidesFrom(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	pick := func(from ...string) string { return from[rng.IntN(len(from))] }
	some := func(from ...string) string {
		rng.Shuffle(len(from), func(i, j int) { from[i], from[j] = from[j], from[i] })
		return strings.Join(from[:1+rng.IntN(2)], ",")
	}
	list := func(ws string) (out []manifest.Manifest) {
		for range rng.IntN(4) {
			text := fmt.Sprintf("%s %s to %s", pick("allow", "allow", "deny"), pick("read-specific-secret", "read-all-secrets", "list-secrets"),
				some("users:id:alice", "users:id:bob", "roles:id:dev", "roles:id:ops"))
			if strings.Contains(text, "specific") {
				text += " on " + some("db", "db-*", "*", "api")
			}
			if rng.IntN(4) == 0 && !strings.Contains(text, "list-") {
				text += " keys " + some("pin", "user")
			}
			if rng.IntN(3) == 0 {
				text += " until " + pick("2026-05-01T00:00:00Z", "2026-07-01T00:00:00Z")
			}
			if ws == "instance" {
				text += " in " + some("orders", "payments", "instance")
			}
			out = append(out, grant(t, ws, text))
		}
		for _, r := range []string{"dev", "ops"} {
			if rng.IntN(2) == 0 {
				out = append(out, role(t, r, some("users:id:alice", "users:id:bob")))
			}
		}
		return out
	}
	applied := 0
	for range 400 {
		pol := policy(list("orders"), list("payments"), list("instance"))
		for _, ws := range []string{"orders", "payments", "instance"} {
			for _, secret := range []string{"db", "db-r", "api", "x"} {
				for _, id := range []access.Identity{identity("alice"), identity("bob"), identity("dana", "ops")} {
					for _, at := range []time.Time{now, now.AddDate(1, 0, 0)} {
						want := map[string]bool{}
						for _, r := range pol.Read(id, scope(ws), name(secret), at).Rules() {
							want[fmt.Sprint(r.Grant, r.Deny)] = true
						}
						got := map[string]bool{}
						for g := range pol.Grants(scope(ws)) {
							is := func(s manifest.Subject) bool {
								return s == id.User || slices.Contains(id.Roles, s) || slices.Contains(pol.Members(g, s), id.User)
							}
							matches := len(g.Secrets) == 0 || slices.ContainsFunc(g.Secrets, func(p manifest.Pattern) bool { return p.Match(name(secret)) })
							if g.Reads() && g.Active(at) && matches && slices.ContainsFunc(g.Subjects, is) {
								got[fmt.Sprint(g.Path, g.Effect == manifest.Deny)] = true
								applied++
							}
						}
						if fmt.Sprint(got) != fmt.Sprint(want) {
							t.Fatalf("%v, %s/%s: the grants say %v, Read %v", id, ws, secret, got, want)
						}
					}
				}
			}
		}
	}
	if applied < 1000 {
		t.Fatalf("only %d grants applied", applied)
	}
}
