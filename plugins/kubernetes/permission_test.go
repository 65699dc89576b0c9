package kubernetes_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sealward/sealward/plugins/kubernetes"
	"github.com/sealward/sealward/plugins/kubernetes/kubetest"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/access"
)

// account is the subject of a service account "namespace:name".
func account(s string) string { return "users:id:system:serviceaccount:" + s }

func groups(names ...string) map[manifest.Subject]bool {
	out := map[manifest.Subject]bool{}
	for _, n := range names {
		out[subject("roles:id:"+n)] = true
	}
	return out
}

// rights says who may get what by the Roles and RoleBindings of a plan:
// "orders/db: orders:web group:dev", sorted.
func rights(p *kubernetes.Plan) (out []string) {
	who := map[string][]string{}
	for key, o := range p.Objects {
		if o.Binding == nil {
			continue
		}
		role := p.Objects[kubernetes.Key{Kind: kubernetes.KindRole, Namespace: key.Namespace, Name: o.Binding.RoleRef.Name}].Role
		for _, n := range role.Rules[0].ResourceNames {
			for _, s := range o.Binding.Subjects {
				text := s.Namespace + ":" + s.Name
				if s.Kind == "Group" {
					text = "group:" + s.Name
				}
				who[key.Namespace+"/"+n] = append(who[key.Namespace+"/"+n], text)
			}
		}
	}
	for what, list := range who {
		slices.Sort(list)
		out = append(out, what+": "+strings.Join(slices.Compact(list), " "))
	}
	slices.Sort(out)
	return out
}

// What each grant gives in the cluster. The secrets are orders/db-r, orders/db-rw,
// orders/api and payments/db-r.
func TestGrants(t *testing.T) {
	type edit = func(*repo)
	grant := func(ws, text string) edit { return func(r *repo) { r.grant(ws, "g", text) } }
	also := func(edits ...edit) edit {
		return func(r *repo) {
			for _, e := range edits {
				e(r)
			}
		}
	}
	named := func(ws, path, text string) edit { return func(r *repo) { r.grant(ws, path, text) } }
	role := func(ws, path string, members ...string) edit { return func(r *repo) { r.role(ws, path, members...) } }
	web, api := account("orders:web"), account("orders:api")
	cases := []struct {
		name     string
		edit     edit
		rights   string
		problems string
	}{
		{"nothing", func(*repo) {}, "", ""},
		{"one secret", grant("orders", "allow read-specific-secret to "+web+" on api"), "orders/api: orders:web", ""},
		{"a pattern", grant("orders", "allow read-specific-secret to "+web+" on db-*"), "orders/db-r: orders:web; orders/db-rw: orders:web", ""},
		{"no match", grant("orders", "allow read-specific-secret to "+web+" on absent-*"), "", ""},
		{"all", grant("orders", "allow read-all-secrets to "+web), "orders/api: orders:web; orders/db-r: orders:web; orders/db-rw: orders:web", ""},
		{"of another namespace", grant("orders", "allow read-specific-secret to "+account("payments:web")+" on api"), "orders/api: payments:web", ""},
		{"listing gives nothing", grant("orders", "allow list-secrets to "+web), "", ""},
		{"people are not the cluster's", grant("orders", "allow read-all-secrets to users:id:alice"), "", ""},
		{"people beside", grant("orders", "allow read-specific-secret to users:id:alice,"+web+" on api"), "orders/api: orders:web", ""},
		{"an odd user", grant("orders", "allow read-all-secrets to users:id:system:admin,users:id:system:serviceaccounts:orders"), "", ""},
		{"expired", grant("orders", "allow read-all-secrets to "+web+" until 2026-06-01T12:00:00Z"), "", ""},
		{"not yet expired", grant("orders", "allow read-specific-secret to "+web+" on api until 2026-06-01T12:00:01Z"), "orders/api: orders:web", ""},
		{"no such account", grant("orders", "allow read-specific-secret to "+account("orders")+","+account("Orders:web")+","+account("orders:web:x")+","+account(":web")+","+web+" on api"), "orders/api: orders:web",
			"InvalidData orders/ g.yaml; InvalidData orders/ g.yaml; InvalidData orders/ g.yaml; InvalidData orders/ g.yaml"},

		{"a role", also(grant("orders", "allow read-specific-secret to roles:id:dev on api"), role("orders", "dev", web, "users:id:alice", api)), "orders/api: orders:api orders:web", ""},
		{"a role of the instance", also(grant("orders", "allow read-specific-secret to roles:id:dev on api"), role("instance", "dev", web)), "orders/api: orders:web", ""},
		{"its own role hides it", also(grant("orders", "allow read-specific-secret to roles:id:dev on api"), role("instance", "dev", web), role("orders", "dev", api)), "orders/api: orders:api", ""},
		{"an instance grant means the instance's", also(grant("instance", "allow read-specific-secret to roles:id:dev on api in orders"), role("instance", "dev", web), role("orders", "dev", api)), "orders/api: orders:web", ""},
		{"another workspace's is nobody's", also(grant("orders", "allow read-specific-secret to roles:id:dev on api"), role("payments", "dev", web)), "", ""},
		{"twice the same", also(grant("orders", "allow read-specific-secret to "+web+",roles:id:dev on api,a*"), role("orders", "dev", web)), "orders/api: orders:web", ""},
		{"a group", grant("orders", "allow read-specific-secret to roles:id:devs on api"), "orders/api: group:devs", ""},
		{"a group with members", also(grant("orders", "allow read-specific-secret to roles:id:devs on api"), role("orders", "devs", web)), "orders/api: group:devs orders:web", ""},
		{"no group of the operator's", grant("orders", "allow read-specific-secret to roles:id:system:masters,roles:id:system:authenticated on api"), "", ""},
		{"nobody is everybody", grant("orders", "allow read-specific-secret to roles:id:system:unauthenticated on api"), "", ""},
		{"a user named like a group", grant("orders", "allow read-specific-secret to users:id:devs on api"), "", ""},

		{"of the instance", grant("instance", "allow read-specific-secret to "+web+" on db-r in orders,payments"), "orders/db-r: orders:web; payments/db-r: orders:web", ""},
		{"in another workspace", grant("payments", "allow read-all-secrets to "+web), "payments/db-r: orders:web", ""},
		{"two of one name in two folders", also(named("orders", "a/g", "allow read-specific-secret to "+web+" on api"), named("orders", "b/g", "allow read-specific-secret to "+api+" on api"), named("orders", "g", "allow read-specific-secret to "+account("x:y")+" on api")), "orders/api: orders:api orders:web x:y", ""},

		{"a deny takes the secret away", also(grant("orders", "allow read-specific-secret to "+web+" on db-*"), named("orders", "no", "deny read-specific-secret to users:id:alice on db-rw")), "orders/db-r: orders:web", "Inexpressible orders/db-rw no.yaml"},
		{"a deny of keys too", also(grant("orders", "allow read-specific-secret to "+web+" on db-*"), named("orders", "no", "deny read-specific-secret to users:id:alice on db-rw keys pin")), "orders/db-r: orders:web", "Inexpressible orders/db-rw no.yaml"},
		{"a deny of the instance", also(grant("orders", "allow read-specific-secret to "+web+" on db-*"), named("instance", "no", "deny read-specific-secret to users:id:alice on db-rw in orders")), "orders/db-r: orders:web", "Inexpressible orders/db-rw no.yaml"},
		{"a deny elsewhere", also(grant("orders", "allow read-specific-secret to "+web+" on db-rw"), named("instance", "no", "deny read-specific-secret to users:id:alice on db-r in payments")), "orders/db-rw: orders:web", "Inexpressible payments/db-r no.yaml"},
		{"a deny that is over", also(grant("orders", "allow read-specific-secret to "+web+" on db-rw"), named("orders", "no", "deny read-all-secrets to "+web+" until 2026-05-01T00:00:00Z")), "orders/db-rw: orders:web", ""},
		{"a deny of listing", also(grant("orders", "allow read-specific-secret to "+web+" on db-rw"), named("orders", "no", "deny list-secrets to "+web)), "orders/db-rw: orders:web", ""},
		{"some keys", also(grant("orders", "allow read-specific-secret to "+web+" on db-* keys user"), named("orders", "all", "allow read-all-secrets to "+api)), "orders/api: orders:api", "Inexpressible orders/db-r g.yaml; Inexpressible orders/db-rw g.yaml"},
		{"some keys, expired", also(grant("orders", "allow read-specific-secret to "+web+" on db-* keys user until 2026-05-01T00:00:00Z"), named("orders", "all", "allow read-specific-secret to "+api+" on db-r")), "orders/db-r: orders:api", ""},
		{"the deny is named before the keys", also(grant("orders", "allow read-specific-secret to "+web+" on api keys user"), named("orders", "no", "deny read-specific-secret to "+web+" on api")), "", "Inexpressible orders/api no.yaml"},
	}
	for _, c := range cases {
		r := newRepo(t, "")
		for _, s := range []string{"orders/db-r", "orders/db-rw", "orders/api", "payments/db-r"} {
			r.secret(s, "password=hunter2")
		}
		c.edit(r)
		cfg := projection("orders", "payments")
		cfg.Groups = groups("devs", "system:unauthenticated")
		p := kubernetes.NewPlanner(cfg).Plan(view(r), nil, start)
		sound(t, p)
		if got := strings.Join(rights(p), "; "); got != c.rights {
			t.Errorf("%s: got %q, want %q", c.name, got, c.rights)
		}
		if got := strings.Join(troubles(p), "; "); got != c.problems {
			t.Errorf("%s: problems %q, want %q", c.name, got, c.problems)
		}
		for _, x := range p.Problems {
			if x.Reason == kubernetes.Inexpressible && (p.Objects[x.Key] != nil || !strings.Contains(x.Message, "/grants/") || !strings.Contains(x.Message, "/secrets/"+x.Origin.Secret.String())) {
				t.Errorf("%s: %+v", c.name, x)
			}
		}
		// Without permissions the same is projected, and nothing is granted.
		cfg.Permissions = false
		q := kubernetes.NewPlanner(cfg).Plan(view(r), nil, start)
		sound(t, q)
		for key := range q.Objects {
			if key.Kind != kubernetes.KindSecret || p.Objects[key] == nil {
				t.Errorf("%s: without permissions %v", c.name, key)
			}
		}
	}
}

// Where the operator accepts it, secrets that RBAC cannot state the rights of are
// projected; their Roles give less than the grants do, never more.
func TestInexpressibleAllowed(t *testing.T) {
	r := newRepo(t, "")
	for _, s := range []string{"denied", "keys", "plain"} {
		r.secret("orders/"+s, "password=hunter2", "user=dana")
	}
	r.grant("orders", "all", "allow read-all-secrets to "+account("orders:web"))
	r.grant("orders", "some", "allow read-specific-secret to "+account("orders:api")+" on keys,plain-* keys user")
	r.grant("orders", "no", "deny read-specific-secret to "+account("orders:evil")+" on denied until 2026-06-02T00:00:00Z")
	cfg := projection("orders")
	planner := kubernetes.NewPlanner(cfg)
	v := view(r)
	p := planner.Plan(v, nil, start)
	sound(t, p)
	want(t, "refused", rights(p), "orders/plain: orders:web")
	cfg.AllowInexpressible = true
	planner = kubernetes.NewPlanner(cfg)
	p = planner.Plan(v, nil, start)
	sound(t, p)
	want(t, "allowed", rights(p), "orders/keys: orders:web", "orders/plain: orders:web")
	want(t, "problems", troubles(p))
	if p.Objects[secretKey("orders", "denied")] == nil || !p.Again.Equal(time.Date(2026, 6, 2, 0, 0, 0, 0, time.UTC)) {
		t.Error(standing(p), p.Again)
	}
	// The deny expires by itself.
	p = planner.Plan(v, nil, p.Again)
	sound(t, p)
	want(t, "over", rights(p), "orders/denied: orders:web", "orders/keys: orders:web", "orders/plain: orders:web")
}

// A right ends when its grant does, without a commit.
func TestGrantExpires(t *testing.T) {
	r := newRepo(t, "")
	r.secret("orders/db", "password=hunter2")
	r.grant("orders", "short", "allow read-all-secrets to "+account("orders:web")+" until 2026-06-01T13:00:00Z")
	r.grant("orders", "long", "allow read-all-secrets to "+account("orders:api")+" until 2026-06-01T14:00:00Z")
	r.grant("orders", "listing", "allow list-secrets to "+account("orders:api")+" until 2026-06-01T12:30:00Z")
	planner := kubernetes.NewPlanner(projection("orders"))
	v := view(r)
	now := start
	var last *kubernetes.Plan
	for _, c := range []struct{ rights, again string }{{"orders/db: orders:api orders:web", "13:00"}, {"orders/db: orders:api", "14:00"}, {"", "00:00"}} {
		p := planner.Plan(v, nil, now)
		sound(t, p)
		if got := strings.Join(rights(p), "; "); got != c.rights || p.Again.Format("15:04") != c.again {
			t.Errorf("%v: %q, again %v", now, got, p.Again)
		}
		if last != nil {
			for key, o := range p.Objects {
				if last.Objects[key] != o {
					t.Errorf("%v was made anew", key)
				}
			}
		}
		last, now = p, p.Again
	}
	if len(last.Objects) != 1 {
		t.Error(standing(last))
	}
}

// Who may write a grant can give it no name that is another's.
func TestNamesOfRolesAreTheirOwn(t *testing.T) {
	r := newRepo(t, "")
	for _, ws := range []string{"orders", "a", "instance"} {
		r.secret(ws+"/db", "password=hunter2")
	}
	to := "allow read-all-secrets to " + account("orders:web")
	paths := []string{"instance", "orders", "x", "folder/x", "folder/deeper/x", "Odd Folder%/x", "instance/x", "x/instance", strings.Repeat("n", 48), strings.Repeat("long/", 100) + "x", "new\nline/x", "not\xffutf8/x"}
	for _, path := range paths {
		r.grant("orders", path, to)
		r.grant("a", path, to)
		r.grant("instance", path, to+" in orders,a,instance")
	}
	cfg := projection("orders", "a", "instance")
	cfg.Namespaces = map[manifest.Workspace]string{scope("a"): "orders"}
	r.remove("a/db")
	r.secret("a/other", "password=hunter2")
	r.remove("instance/db")
	r.secret("instance/ca", "password=hunter2")
	p := kubernetes.NewPlanner(cfg).Plan(view(r), map[string]map[string]string{"orders": {"instance.sealward.dev/ca": "true"}}, start)
	sound(t, p)
	if len(p.Problems) != 0 || len(p.Objects) != 3+2*5*len(paths) {
		t.Errorf("%d objects, %q", len(p.Objects), troubles(p))
	}
	for key, o := range p.Objects {
		if key.Kind == kubernetes.KindSecret {
			continue
		}
		if strings.ContainsAny(key.Name, "/%\n ") || len(key.Name) > 150 {
			t.Errorf("%q", key.Name)
		}
		if o.Role != nil && len(o.Role.Annotations[kubernetes.PathAnnotation]) > 310 {
			t.Errorf("%q", o.Role.Annotations)
		}
	}

	if c := kubetest.Need(t, cluster); c != nil {
		ns := c.Namespace(t, "names")
		for _, o := range p.Objects {
			if o.Role == nil {
				continue
			}
			role := o.Role.DeepCopy()
			role.Namespace = ns
			if _, err := c.Client.RbacV1().Roles(ns).Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
				t.Errorf("%q: %v", o.Key.Name, err)
			}
		}
	}
}

// Objects of RBAC that etcd would not hold are a problem of their grant.
func TestGrantTooLarge(t *testing.T) {
	r := newRepo(t, "")
	r.secret("orders/db", "password=hunter2")
	var members []string
	for i := range 12000 {
		members = append(members, account(fmt.Sprintf("orders:%0100d", i)))
	}
	r.role("orders", "many", members...)
	r.grant("orders", "huge", "allow read-all-secrets to roles:id:many")
	r.grant("orders", "small", "allow read-all-secrets to "+account("orders:web"))
	p := kubernetes.NewPlanner(projection("orders")).Plan(view(r), nil, start)
	sound(t, p)
	want(t, "problems", troubles(p), "TooLarge orders/ huge.yaml")
	want(t, "objects", standing(p), "Role orders/sealward:orders:small", "RoleBinding orders/sealward:orders:small", "Secret orders/db")
}

// A Role is written with the names only that are sealward's.
func TestNaming(t *testing.T) {
	r := newRepo(t, "")
	r.secret("orders/db", "password=hunter2")
	r.secret("orders/not-ours", "password=hunter2")
	r.grant("orders", "all", "allow read-all-secrets to "+account("orders:web"))
	p := kubernetes.NewPlanner(projection("orders")).Plan(view(r), nil, start)
	role := p.Objects[kubernetes.Key{Kind: kubernetes.KindRole, Namespace: "orders", Name: "sealward:orders:all"}]
	if got := role.Naming(func(kubernetes.Key) bool { return true }); got != role {
		t.Error("a whole Role is another")
	}
	got := role.Naming(func(k kubernetes.Key) bool { return k == secretKey("orders", "db") })
	if got.Key != role.Key || got.Origin != role.Origin || fmt.Sprint(got.Role.Rules[0].ResourceNames) != "[db]" || fmt.Sprint(role.Role.Rules[0].ResourceNames) != "[db not-ours]" {
		t.Errorf("%v, was %v", got.Role.Rules, role.Role.Rules)
	}
	if got := role.Naming(func(kubernetes.Key) bool { return false }); got != nil {
		t.Errorf("a Role without names would be about every Secret: %v", got.Role)
	}
	if o := p.Objects[secretKey("orders", "db")]; o.Naming(func(kubernetes.Key) bool { return false }) != o {
		t.Error("a Secret is no Role")
	}
}

// clusterGroups are those of every service account.
func clusterGroups(namespace string) []string {
	return []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"}
}

// may evaluates the planned Roles as the API server does.
func may(p *kubernetes.Plan, namespace, sa, in, secret string) bool {
	is := func(s rbacv1.Subject) bool {
		if s.Kind == "Group" {
			return slices.Contains(clusterGroups(namespace), s.Name)
		}
		return s.Kind == "ServiceAccount" && s.Namespace == namespace && s.Name == sa
	}
	for key, o := range p.Objects {
		if o.Binding == nil || key.Namespace != in || !slices.ContainsFunc(o.Binding.Subjects, is) {
			continue
		}
		for _, rule := range p.Objects[kubernetes.Key{Kind: kubernetes.KindRole, Namespace: in, Name: o.Binding.RoleRef.Name}].Role.Rules {
			if len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, secret) {
				return true
			}
		}
	}
	return false
}

// Whatever the policy is: the Roles let a service account get a Secret if, and only if,
// the agent itself would give it all of that secret; where a deny or a grant of some keys
// is about the secret, never more.
func TestRolesGiveWhatTheAgentGives(t *testing.T) {
	const rounds = 600
	rng := rand.New(rand.NewPCG(8, 1))
	pick := func(from ...string) string { return from[rng.IntN(len(from))] }
	some := func(from ...string) string {
		from = slices.Clone(from)
		rng.Shuffle(len(from), func(i, j int) { from[i], from[j] = from[j], from[i] })
		return strings.Join(from[:1+rng.IntN(3)], ",")
	}
	accounts := []string{"orders:web", "orders:api", "payments:web"}
	users := []string{account("orders:web"), account("orders:api"), account("payments:web"), "users:id:alice", "users:id:system:serviceaccounts"}
	subjects := append([]string{"roles:id:dev", "roles:id:ops", "roles:id:system:serviceaccounts:orders", "roles:id:system:authenticated"}, users...)
	allowed, refused, less := 0, 0, 0
	for round := range rounds {
		r := newRepo(t, "")
		for _, s := range []string{"orders/db-r", "orders/db-rw", "orders/api", "payments/db-r", "payments/x", "instance/ca", "instance/db-r"} {
			r.secret(s, "user=dana", "password=hunter2")
		}
		for _, ws := range []string{"orders", "payments", "instance"} {
			for i := range rng.IntN(4) {
				text := pick("allow", "allow", "allow", "allow", "deny") + " " + pick("read-specific-secret", "read-specific-secret", "read-all-secrets", "list-secrets") + " to " + some(subjects...)
				if strings.Contains(text, "specific") {
					text += " on " + some("db-r", "db-*", "*", "d?-r", "api", "ca")
				}
				if rng.IntN(6) == 0 && !strings.Contains(text, "list-") {
					text += " keys " + pick("user", "password", "user,password")
				}
				if rng.IntN(4) == 0 {
					text += " until " + pick("2026-05-01T00:00:00Z", "2026-07-01T00:00:00Z")
				}
				if ws == "instance" {
					text += " in " + some("orders", "payments", "instance")
				}
				r.grant(ws, fmt.Sprintf("%sg%d", pick("", "folder/"), i), text)
			}
			for _, role := range []string{"dev", "ops"} {
				if rng.IntN(2) == 0 {
					r.role(ws, role, strings.Split(some(users...), ",")...)
				}
			}
			if rng.IntN(25) == 0 {
				r.policy(ws, "broken", nil)
			}
		}
		cfg := projection("orders", "payments", "instance")
		cfg.Immutable = rng.IntN(3) == 0
		cfg.AllowInexpressible = rng.IntN(2) == 0
		for _, g := range []string{"system:serviceaccounts:orders", "system:authenticated", "dev"} {
			if rng.IntN(2) == 0 {
				if cfg.Groups == nil {
					cfg.Groups = groups()
				}
				cfg.Groups[subject("roles:id:"+g)] = true
			}
		}
		if rng.IntN(3) == 0 {
			cfg.Namespaces = map[manifest.Workspace]string{scope("payments"): "orders"}
		}
		asks := map[string]map[string]string{"orders": {"instance.sealward.dev/ca": "true"}, "payments": {"instance.sealward.dev/db-r": "true"}}
		planner := kubernetes.NewPlanner(cfg)
		v := view(r)
		for _, now := range []time.Time{start, start.AddDate(1, 0, 0)} {
			p := planner.Plan(v, asks, now)
			sound(t, p)
			snap := v.Snapshots()[0]
			for key, o := range p.Objects {
				if o.Secret == nil {
					continue
				}
				for _, a := range accounts {
					namespace, sa, _ := strings.Cut(a, ":")
					id := access.Identity{User: subject(account(a))}
					for _, g := range clusterGroups(namespace) {
						if role := subject("roles:id:" + g); cfg.Groups[role] {
							id.Roles = append(id.Roles, role)
						}
					}
					got := may(p, namespace, sa, key.Namespace, key.Name)
					want := snap.Policy.Read(id, o.Origin.Workspace, o.Origin.Secret, now).All()
					special := false // a deny, or an allow of some keys, is about it
					for g := range snap.Policy.Grants(o.Origin.Workspace) {
						matches := len(g.Secrets) == 0 || slices.ContainsFunc(g.Secrets, func(p manifest.Pattern) bool { return p.Match(o.Origin.Secret) })
						special = special || g.Reads() && g.Active(now) && matches && g.Effect == manifest.Deny
					}
					switch {
					case got && !want:
						t.Fatalf("round %d: %s may get %v, which the agent would not give", round, a, key)
					case !got && want && !special:
						t.Fatalf("round %d: %s may not get %v, which the agent would give", round, a, key)
					case !got && want:
						less++
					case got:
						allowed++
					default:
						refused++
					}
					if special && !cfg.AllowInexpressible {
						t.Fatalf("round %d: %v is projected in spite of a deny", round, key)
					}
				}
			}
		}
	}
	if allowed < 500 || refused < 500 || less < 50 {
		t.Errorf("allowed %d, refused %d, less %d: too few of one", allowed, refused, less)
	}
}

// verdict is a question to the API server, and what it should answer.
type verdict struct {
	who, verb, in, secret string
	want                  bool
}

// A real API server takes what is planned, and decides as the agent does.
func TestPlanOnTheControlPlane(t *testing.T) {
	c := kubetest.Need(t, cluster)
	orders, shop := c.Namespace(t, "orders"), c.Namespace(t, "shop")
	r := newRepo(t, "")
	big := strings.Repeat("hunter2-", 1<<17)
	r.secret("orders/db-r", "password=hunter2")
	r.secret("orders/db-rw", "password=hunter2")
	r.secret("orders/denied", "password=hunter2")
	r.secret("orders/"+strings.Repeat("n", 48), "k="+big)
	r.file("orders/tls", manifest.Certificate, texts("tls.crt=", "tls.key="))
	r.file("orders/pull", manifest.CloudKernelImagePull, texts(`.dockerconfigjson={"auths":{"registry.example.com":{"auth":"ZGFuYTpodW50ZXIy"}}}`))
	r.file("orders/props", manifest.KeyValueProperties, texts("user=dana", "jks=0xfeed"))
	r.file("orders/login", manifest.CloudKernel, texts("username=dana")).Good.Kubernetes = &manifest.KubernetesSecret{Type: "kubernetes.io/basic-auth",
		Labels: []manifest.Pair{{Key: "team", Value: ""}}, Annotations: []manifest.Pair{{Key: "Example.com/Note", Value: strings.Repeat("x", 250<<10)}}}
	for i := range 300 {
		r.secret(fmt.Sprintf("orders/parts/%0250d", i), fmt.Sprintf("k%d=v", i))
	}
	wide := texts("k=" + big[:1_000_000]) // almost more than an object may be
	for i := range 575 {
		wide = append(wide, unseal.Value{Key: fmt.Sprintf("%0250d", i)})
	}
	r.file("orders/wide", manifest.KeyValue, wide)
	r.secret("instance/ca", "cert=hunter2")
	web, api := account(shop+":web"), account(orders+":api")
	r.grant("orders", "db", "allow read-specific-secret to "+web+" on db-*")
	r.grant("orders", "short", "allow read-specific-secret to "+account(shop+":old")+" on db-r until 2026-06-01T12:00:00Z")
	r.grant("orders", "folder/all", "allow read-all-secrets to roles:id:ops")
	r.role("orders", "ops", api)
	r.grant("orders", "no", "deny read-specific-secret to "+web+" on denied")
	r.grant("orders", "listing", "allow list-secrets to "+account(shop+":lister"))
	r.grant("orders", "groups", "allow read-specific-secret to roles:id:system:serviceaccounts:"+shop+" on login")
	r.grant("instance", "ca", "allow read-all-secrets to "+web+" in instance")
	cfg := projection("orders", "instance")
	cfg.Namespaces = map[manifest.Workspace]string{scope("orders"): orders}
	cfg.Groups = groups("system:serviceaccounts:" + shop)
	for _, immutable := range []bool{false, true} {
		cfg.Immutable = immutable
		p := kubernetes.NewPlanner(cfg).Plan(view(r), map[string]map[string]string{shop: {"instance.sealward.dev/ca": "true"}, orders: {}}, start)
		sound(t, p)
		want(t, "problems", troubles(p), "Inexpressible orders/denied no.yaml")
		if len(p.Objects) < 12 {
			t.Error(standing(p))
		}
		for key, o := range p.Objects {
			var err error
			switch {
			case o.Secret != nil:
				_, err = c.Client.CoreV1().Secrets(key.Namespace).Create(t.Context(), o.Secret.DeepCopy(), metav1.CreateOptions{})
			case o.Role != nil:
				_, err = c.Client.RbacV1().Roles(key.Namespace).Create(t.Context(), o.Role.DeepCopy(), metav1.CreateOptions{})
			default:
				_, err = c.Client.RbacV1().RoleBindings(key.Namespace).Create(t.Context(), o.Binding.DeepCopy(), metav1.CreateOptions{})
			}
			if err != nil {
				t.Fatalf("%v: %.300v", key, err)
			}
		}
		object := map[string]string{}
		for key, o := range p.Objects {
			if o.Secret != nil {
				object[o.Origin.Secret.String()] = key.Name
			}
		}
		object[""], object["denied"] = "", "denied"
		for _, ns := range []string{orders, shop} { // foreign Secrets beside
			if _, err := c.Client.CoreV1().Secrets(ns).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{GenerateName: "foreign-"}}, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		object["foreign"] = "foreign"
		cases := []verdict{
			{shop + ":web", "get", orders, "db-r", true},
			{shop + ":web", "get", orders, "db-rw", true},
			{shop + ":web", "get", orders, "props", false},
			{shop + ":web", "get", orders, "denied", false},
			{shop + ":web", "get", orders, "foreign", false},
			{shop + ":web", "get", orders, "login", true}, // its group
			{shop + ":web", "get", shop, "ca", true},
			{shop + ":web", "get", shop, "foreign", false},
			{shop + ":web", "list", orders, "", false},
			{shop + ":web", "watch", orders, "db-r", false},
			{shop + ":web", "update", orders, "db-r", false},
			{shop + ":web", "get", orders, "", false},
			{orders + ":web", "get", orders, "db-r", false},
			{orders + ":api", "get", orders, "db-r", true},
			{orders + ":api", "get", orders, "props", true},
			{orders + ":api", "get", orders, "parts", true},
			{orders + ":api", "get", orders, "login", true},
			{orders + ":api", "get", orders, "denied", false},
			{orders + ":api", "get", orders, "foreign", false},
			{orders + ":api", "list", orders, "", false},
			{orders + ":api", "get", shop, "ca", false},
			{shop + ":old", "get", orders, "db-r", false},
			{shop + ":lister", "list", orders, "", false},
			{shop + ":lister", "get", orders, "db-r", false},
		}
		// What is allowed first: once the API server knows of that, nothing else is to come.
		slices.SortStableFunc(cases, func(a, b verdict) int { return cmp.Compare(fmt.Sprint(b.want), fmt.Sprint(a.want)) })
		for _, k := range cases {
			ns, sa, _ := strings.Cut(k.who, ":")
			review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: "system:serviceaccount:" + k.who, Groups: clusterGroups(ns),
				ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: k.in, Verb: k.verb, Resource: "secrets", Name: object[k.secret]}}}
			// RBAC takes a moment to see what was written.
			var got, planned bool
			for range map[bool]int{true: 100, false: 1}[k.want] {
				answer, err := c.Client.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), review, metav1.CreateOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if got = answer.Status.Allowed; got == k.want {
					break
				}
				time.Sleep(100 * time.Millisecond)
			}
			if k.verb == "get" && k.secret != "" {
				planned = may(p, ns, sa, k.in, object[k.secret])
			}
			if got != k.want || planned != k.want {
				t.Errorf("immutable %v: %s %s %s %q: the API server says %v, the plan %v, want %v", immutable, k.who, k.verb, k.in, k.secret, got, planned, k.want)
			}
		}
		if immutable {
			break
		}
		for key, o := range p.Objects { // room for the next
			if o.Role != nil {
				if err := c.Client.RbacV1().Roles(key.Namespace).Delete(t.Context(), key.Name, metav1.DeleteOptions{}); err != nil {
					t.Error(err)
				}
			} else if o.Binding != nil {
				if err := c.Client.RbacV1().RoleBindings(key.Namespace).Delete(t.Context(), key.Name, metav1.DeleteOptions{}); err != nil {
					t.Error(err)
				}
			}
		}
	}
}
