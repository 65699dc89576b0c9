package kubernetes_test

import (
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealward/sealward/plugins/kubernetes"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/access"
)

var start = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

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

func subject(s string) manifest.Subject {
	out, err := manifest.ParseSubject(s)
	if err != nil {
		panic(err)
	}
	return out
}

func workspaces(names ...string) map[manifest.Workspace]bool {
	out := map[manifest.Workspace]bool{}
	for _, n := range names {
		out[scope(n)] = true
	}
	return out
}

// repo is what an agent has of one source: it makes snapshots as the agent does, which
// share everything that did not change.
type repo struct {
	t        testing.TB
	source   string
	records  map[manifest.Workspace]map[string]*unseal.Record
	scopes   map[manifest.Workspace]*unseal.Scope
	policies map[manifest.Workspace]map[string]access.File
	compiled map[manifest.Workspace]*access.Scope
	edited   map[manifest.Workspace]bool
	commits  int
}

func newRepo(t testing.TB, source string) *repo {
	return &repo{t: t, source: source, records: map[manifest.Workspace]map[string]*unseal.Record{}, scopes: map[manifest.Workspace]*unseal.Scope{},
		policies: map[manifest.Workspace]map[string]access.File{}, compiled: map[manifest.Workspace]*access.Scope{}, edited: map[manifest.Workspace]bool{}}
}

// texts reads "k=v"; a value that begins with 0x is hexadecimal, and binary.
func texts(values ...string) (out []unseal.Value) {
	for _, v := range values {
		key, text, _ := strings.Cut(v, "=")
		if digits, is := strings.CutPrefix(text, "0x"); is {
			data, err := hex.DecodeString(digits)
			if err != nil {
				panic(err)
			}
			out = append(out, unseal.Value{Key: key, Binary: true, Data: data})
			continue
		}
		out = append(out, unseal.Value{Key: key, Data: []byte(text)})
	}
	return out
}

// blobOf stands for what Git would have of a content.
func blobOf(values []unseal.Value) string {
	h := sha1.New()
	for _, v := range values {
		fmt.Fprintf(h, "%s %q\n", v.Key, v.Data)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func (r *repo) put(rec *unseal.Record) {
	ws := rec.Place.Scope
	if r.records[ws] = maps.Clone(r.records[ws]); r.records[ws] == nil {
		r.records[ws] = map[string]*unseal.Record{}
	}
	r.records[ws][rec.Path] = rec
	r.edited[ws] = true
}

// file writes one manifest; what is "orders/db" or "orders/db/part".
func (r *repo) file(what string, kind manifest.SecretType, values []unseal.Value) *unseal.Record {
	r.t.Helper()
	rec := r.build(what, kind, values)
	r.put(rec)
	return rec
}

func (r *repo) build(what string, kind manifest.SecretType, values []unseal.Value) *unseal.Record {
	r.t.Helper()
	ws, rest, _ := strings.Cut(what, "/")
	path := scope(ws).Folder() + "/secrets/" + rest + ".yaml"
	place, ours, err := manifest.Locate(path)
	if err != nil || !ours {
		r.t.Fatal(path, err)
	}
	blob := blobOf(values)
	return &unseal.Record{Path: path, Place: place, Blob: blob, Good: &unseal.Content{
		Provenance: unseal.Provenance{Path: path, Blob: blob, Commit: fmt.Sprintf("%040d", r.commits), Time: start.Add(time.Duration(r.commits) * time.Minute)},
		Kind:       manifest.KindSecret, Type: kind, ACL: manifest.Read, Values: values,
	}}
}

func (r *repo) secret(what string, values ...string) *unseal.Record {
	r.t.Helper()
	return r.file(what, manifest.KeyValue, texts(values...))
}

// fails has a file that stands be broken since a time.
func (r *repo) fails(what string, since time.Time) {
	r.t.Helper()
	ws, rest, _ := strings.Cut(what, "/")
	old := r.records[scope(ws)][scope(ws).Folder()+"/secrets/"+rest+".yaml"]
	rec := *old
	rec.Blob, rec.Failure = "broken", &unseal.Failure{Class: unseal.FailManifest, Since: since}
	r.put(&rec)
}

func (r *repo) remove(what string) {
	ws, rest, _ := strings.Cut(what, "/")
	s := scope(ws)
	r.records[s] = maps.Clone(r.records[s])
	delete(r.records[s], s.Folder()+"/secrets/"+rest+".yaml")
	r.edited[s] = true
}

// policy puts a file below grants/.
func (r *repo) policy(ws, path string, m *manifest.Manifest) {
	s := scope(ws)
	if r.policies[s] = maps.Clone(r.policies[s]); r.policies[s] == nil {
		r.policies[s] = map[string]access.File{}
	}
	path = s.Folder() + "/grants/" + path + ".yaml"
	r.policies[s][path] = access.File{Path: path, Manifest: m, Closes: m == nil}
	r.compiled[s] = access.CompileScope(s, slices.Collect(maps.Values(r.policies[s])))
}

// grant writes "allow|deny USECASE to SUBJECTS [on SECRETS] [keys KEYS] [in WORKSPACES]
// [until TIME]"; path is that below grants/, without .yaml.
func (r *repo) grant(ws, path, text string) {
	r.t.Helper()
	words := strings.Fields(text)
	body := fmt.Sprintf("  effect: %s\n  policy_use_case_id: %s\n", words[0], words[1])
	field := map[string]string{"to": "subjects", "on": "secrets", "keys": "keys", "in": "workspaces"}
	for i := 2; i < len(words); i += 2 {
		if words[i] == "until" {
			body += "  expires: " + words[i+1] + "\n"
			continue
		}
		var items []string
		for _, item := range strings.Split(words[i+1], ",") {
			items = append(items, fmt.Sprintf("%q", item))
		}
		body += fmt.Sprintf("  %s: [%s]\n", field[words[i]], strings.Join(items, ", "))
	}
	r.parsed(ws, path, "grant", "grant:\n"+body)
}

func (r *repo) role(ws, path string, members ...string) {
	r.t.Helper()
	r.parsed(ws, path, "role", fmt.Sprintf("role: {members: [%q]}\n", strings.Join(members, `", "`)))
}

func (r *repo) parsed(ws, path, kind, body string) {
	r.t.Helper()
	head := fmt.Sprintf("name: %s\nversion: v1alpha\ntype: %s\n", path[strings.LastIndex(path, "/")+1:], kind)
	if ws != "instance" {
		head += "workspace: " + ws + "\n"
	}
	m, err := manifest.Parse(path, []byte(head+strings.ReplaceAll(body, `\"`, `"`)))
	if err != nil {
		r.t.Fatal(body, err)
	}
	r.policy(ws, path, m)
}

func (r *repo) ungrant(ws, path string) {
	s := scope(ws)
	r.policies[s] = maps.Clone(r.policies[s])
	delete(r.policies[s], s.Folder()+"/grants/"+path+".yaml")
	r.compiled[s] = access.CompileScope(s, slices.Collect(maps.Values(r.policies[s])))
}

// snapshot is that of a new commit.
func (r *repo) snapshot() *unseal.Snapshot {
	r.commits++
	for ws := range r.edited {
		r.scopes = maps.Clone(r.scopes)
		r.scopes[ws] = r.scopes[ws].Next(ws, r.records[ws])
	}
	clear(r.edited)
	return unseal.Snapshot{Source: r.source, Commit: fmt.Sprintf("%040d", r.commits), Time: start, Policy: access.New(maps.Clone(r.compiled)), MaxStale: 24 * time.Hour}.WithScopes(r.scopes)
}

func view(repos ...*repo) *unseal.View {
	var live unseal.Live
	for _, r := range repos {
		live.Publish(r.snapshot())
	}
	return live.View()
}

// projection of workspaces into namespaces of their names, by agents of the namespace
// sealward.
func projection(names ...string) kubernetes.Projection {
	return kubernetes.Projection{Agent: "sealward", Workspaces: workspaces(names...), Permissions: true,
		Repository: func(source string) string {
			if source == "" {
				return "sealward"
			}
			return source
		}}
}

func secretKey(ns, name string) kubernetes.Key {
	return kubernetes.Key{Kind: kubernetes.KindSecret, Namespace: ns, Name: name}
}

// standing lists the objects of a plan and what is kept, sorted: "Secret orders/db".
func standing(p *kubernetes.Plan) (out []string) {
	for key := range p.Objects {
		out = append(out, fmt.Sprintf("%s %s/%s", key.Kind, key.Namespace, key.Name))
	}
	for key := range p.Keep {
		out = append(out, fmt.Sprintf("keep %s/%s", key.Namespace, key.Name))
	}
	for ws := range p.KeepWorkspaces {
		out = append(out, "keep workspace "+ws.String())
	}
	slices.Sort(out)
	return out
}

// troubles lists the problems of a plan: "Reason workspace/secret grant".
func troubles(p *kubernetes.Plan) (out []string) {
	for _, x := range p.Problems {
		text := fmt.Sprintf("%s %s/%s %s", x.Reason, x.Origin.Workspace, x.Origin.Secret, x.Origin.Grant[strings.LastIndex(x.Origin.Grant, "/")+1:])
		out = append(out, strings.TrimSuffix(strings.TrimSpace(text), "/"))
	}
	return out
}

func want(t testing.TB, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n  got  %q\n  want %q", what, got, want)
	}
}

// sound holds every plan to what must never be otherwise.
func sound(t testing.TB, p *kubernetes.Plan, secret ...string) {
	t.Helper()
	for key, o := range p.Objects {
		if o.Key != key || p.Keep[key] || strings.HasPrefix(key.Namespace, "kube-") || key.Namespace == "sealward" {
			t.Errorf("%v: %+v", key, o.Key)
		}
		var labels map[string]string
		switch {
		case o.Secret != nil:
			labels = o.Secret.Labels
		case o.Binding != nil:
			labels = o.Binding.Labels
			if len(o.Binding.Subjects) == 0 || p.Objects[kubernetes.Key{Kind: kubernetes.KindRole, Namespace: key.Namespace, Name: o.Binding.RoleRef.Name}] == nil {
				t.Errorf("%v: %+v", key, o.Binding)
			}
		case o.Role != nil:
			labels = o.Role.Labels
			for _, rule := range o.Role.Rules {
				if len(rule.ResourceNames) == 0 || !slices.Equal(rule.Verbs, []string{"get"}) || !slices.Equal(rule.Resources, []string{"secrets"}) || !slices.IsSorted(rule.ResourceNames) {
					t.Errorf("%v: %+v", key, rule)
				}
				for _, n := range rule.ResourceNames {
					if named := p.Objects[secretKey(key.Namespace, n)]; named == nil || named.Origin.Workspace != o.Origin.Workspace {
						t.Errorf("%v names %s, which its workspace does not have there", key, n)
					}
				}
			}
			if len(o.Role.Rules) != 1 {
				t.Errorf("%v: %+v", key, o.Role.Rules)
			}
		}
		if labels[kubernetes.ManagedBy] != "sealward" || labels[kubernetes.AgentLabel] != "sealward" || labels[kubernetes.WorkspaceLabel] != o.Origin.Workspace.String() || labels[kubernetes.RepositoryLabel] != o.Origin.Repository {
			t.Errorf("%v: labels %v", key, labels)
		}
	}
	for _, x := range p.Problems {
		if x.Message == "" || x.Since.IsZero() {
			t.Errorf("%+v", x)
		}
		for _, v := range append(secret, "hunter2") {
			if strings.Contains(x.Message, v) {
				t.Errorf("the value %q stands in a message: %s", v, x.Message)
			}
		}
	}
	if !slices.IsSortedFunc(p.Problems, func(a, b kubernetes.Problem) int {
		return strings.Compare(a.Origin.Workspace.String(), b.Origin.Workspace.String())
	}) {
		t.Error("problems are not sorted")
	}
}

// A workspace goes to the namespace of its name or of the mapping, with provenance, and
// nowhere that is not the agent's to fill.
func TestNamespaces(t *testing.T) {
	r := newRepo(t, "")
	for _, ws := range []string{"orders", "payments", "sealward", "other"} {
		r.secret(ws+"/db", "password=hunter2")
	}
	cfg := projection("orders", "payments", "sealward", "absent")
	cfg.Namespaces = map[manifest.Workspace]string{scope("payments"): "kube-public"}
	p := kubernetes.NewPlanner(cfg).Plan(view(r), nil, start)
	sound(t, p)
	want(t, "objects", standing(p), "Secret orders/db")
	want(t, "problems", troubles(p), "NoTarget payments", "NoTarget sealward")
	want(t, "namespaces", p.Namespaces, "absent", "orders")
	if !p.Repositories["sealward"] || p.Commits["sealward"] != fmt.Sprintf("%040d", 1) || !p.Again.IsZero() {
		t.Errorf("%+v", p)
	}
	o := p.Objects[secretKey("orders", "db")]
	if got := fmt.Sprint(o.Secret.Annotations); got != fmt.Sprintf("map[sealward.dev/blob:%s sealward.dev/commit:%040d sealward.dev/path:workspaces/orders/secrets/db.yaml]", blobOf(texts("password=hunter2")), 0) {
		t.Error(got)
	}
	if o.Secret.Labels[kubernetes.SecretLabel] != "db" || o.Secret.Namespace != "orders" || o.Secret.Kind != "Secret" || o.Origin.Secret != name("db") || o.Secret.Immutable != nil {
		t.Errorf("%+v", o)
	}

	cfg.Namespaces = map[manifest.Workspace]string{scope("payments"): "shop", scope("sealward"): "shop-agent", scope("orders"): "no_name"}
	p = kubernetes.NewPlanner(cfg).Plan(view(r), nil, start)
	sound(t, p)
	want(t, "objects", standing(p), "Secret shop-agent/db", "Secret shop/db")
	want(t, "problems", troubles(p), "NoTarget orders")
	// Before anything is known, nothing is said of any object.
	if p := kubernetes.NewPlanner(cfg).Plan(nil, nil, start); len(p.Objects)+len(p.Repositories)+len(p.Problems) != 0 || p.Objects == nil {
		t.Errorf("%+v", p)
	}
}

// Instance secrets go where a namespace asks by label, and nowhere else.
func TestInstanceSecrets(t *testing.T) {
	r := newRepo(t, "")
	r.secret("instance/ca", "cert=hunter2")
	r.secret("instance/smtp", "password=hunter2")
	r.grant("instance", "readers", "allow read-all-secrets to users:id:system:serviceaccount:shop:web in instance,orders")
	r.secret("orders/db", "password=hunter2")
	ask := func(values ...string) map[string]string {
		out := map[string]string{}
		for _, v := range values {
			k, v, _ := strings.Cut(v, "=")
			out["instance.sealward.dev/"+k] = v
		}
		return out
	}
	namespaces := map[string]map[string]string{
		"shop": ask("ca=true", "smtp=false", "absent=true", "Odd_Name=true"), "orders": ask("ca=true", "smtp=true"), "quiet": {"instance.sealward.dev": "true"},
		"kube-system": ask("ca=true"), "sealward": ask("ca=true"),
	}
	planner := kubernetes.NewPlanner(projection("orders", "instance"))
	v := view(r)
	p := planner.Plan(v, namespaces, start)
	sound(t, p)
	roles := []string{"Role orders/sealward:instance:readers", "Role orders/sealward:orders:instance:readers", "Role shop/sealward:instance:readers",
		"RoleBinding orders/sealward:instance:readers", "RoleBinding orders/sealward:orders:instance:readers", "RoleBinding shop/sealward:instance:readers"}
	want(t, "objects", standing(p), append(roles, "Secret orders/ca", "Secret orders/db", "Secret orders/smtp", "Secret shop/ca")...)
	want(t, "problems", troubles(p), "NoTarget instance/ca", "NoTarget instance/ca")
	want(t, "namespaces", p.Namespaces, "orders", "shop")
	if got := p.Objects[kubernetes.Key{Kind: kubernetes.KindRole, Namespace: "orders", Name: "sealward:instance:readers"}].Role.Rules[0].ResourceNames; fmt.Sprint(got) != "[ca smtp]" {
		t.Error(got)
	}
	if p.Objects[secretKey("shop", "ca")].Secret.Labels[kubernetes.WorkspaceLabel] != "instance" {
		t.Error("its workspace is not the instance")
	}

	// One namespace more asks, another less: the others keep their objects.
	namespaces = maps.Clone(namespaces)
	namespaces["late"] = ask("ca=true")
	delete(namespaces, "shop")
	q := planner.Plan(v, namespaces, start)
	sound(t, q)
	for _, key := range []kubernetes.Key{secretKey("orders", "ca"), secretKey("orders", "smtp"), secretKey("orders", "db"), {Kind: kubernetes.KindRole, Namespace: "orders", Name: "sealward:instance:readers"}} {
		if p.Objects[key] != q.Objects[key] {
			t.Errorf("%v was made anew", key)
		}
	}
	if q.Objects[secretKey("late", "ca")] == nil || q.Objects[secretKey("shop", "ca")] != nil {
		t.Error(standing(q))
	}
	// Where nobody looked at the namespaces, what stands stays.
	q = planner.Plan(v, nil, start)
	sound(t, q)
	want(t, "unknown namespaces", standing(q), "Role orders/sealward:orders:instance:readers", "RoleBinding orders/sealward:orders:instance:readers", "Secret orders/db", "keep workspace instance")
}

// What the agent serves at a moment is what is planned for it, and the plan says when
// that changes by itself.
func TestWhatIsServedIsProjected(t *testing.T) {
	r := newRepo(t, "")
	r.secret("orders/whole", "a=1")
	r.secret("orders/parts/one", "a=1")
	r.secret("orders/parts/two", "b=2")
	r.secret("orders/gone", "a=1")
	planner := kubernetes.NewPlanner(projection("orders"))
	before := planner.Plan(view(r), nil, start)
	want(t, "objects", standing(before), "Secret orders/gone", "Secret orders/parts", "Secret orders/whole")
	r.fails("orders/whole", start)
	r.fails("orders/parts/two", start.Add(time.Hour))
	r.remove("orders/gone")
	v := view(r)
	p := planner.Plan(v, nil, start.Add(2*time.Hour))
	sound(t, p)
	want(t, "stale", standing(p), "Secret orders/parts", "Secret orders/whole")
	for _, n := range []string{"whole", "parts"} {
		if p.Objects[secretKey("orders", n)] != before.Objects[secretKey("orders", n)] {
			t.Errorf("%s: a stale value is another object", n)
		}
	}
	if want := start.Add(24*time.Hour + 1); !p.Again.Equal(want) {
		t.Errorf("again %v, want %v", p.Again, want)
	}
	// Nothing is published meanwhile; time alone decides.
	p = planner.Plan(v, nil, p.Again)
	want(t, "one is too old", standing(p), "Secret orders/parts")
	if want := start.Add(25*time.Hour + 1); !p.Again.Equal(want) {
		t.Errorf("again %v, want %v", p.Again, want)
	}
	p = planner.Plan(v, nil, p.Again)
	sound(t, p)
	o := p.Objects[secretKey("orders", "parts")].Secret
	if len(o.Data) != 1 || string(o.Data["a"]) != "1" || strings.Contains(o.Annotations[kubernetes.PathAnnotation], "two") || !p.Again.IsZero() {
		t.Errorf("%v %v again %v", o.Data, o.Annotations, p.Again)
	}
	// A part that never opened keeps none of the others back.
	broken := r.build("orders/parts/three", manifest.KeyValue, nil)
	broken.Good, broken.Failure = nil, &unseal.Failure{Class: unseal.FailNoKey, Since: start}
	r.put(broken)
	p = planner.Plan(view(r), nil, start.Add(48*time.Hour))
	sound(t, p)
	want(t, "one part never opened", standing(p), "Secret orders/parts")
	// In immutable Secrets the name says which parts are in it.
	cfg := projection("orders")
	cfg.Immutable = true
	immutable := kubernetes.NewPlanner(cfg)
	for at, n := range map[time.Duration]string{
		time.Hour:      kubernetes.HashedName(name("parts"), map[string]string{"workspaces/orders/secrets/parts/one.yaml": blobOf(texts("a=1")), "workspaces/orders/secrets/parts/two.yaml": blobOf(texts("b=2"))}),
		48 * time.Hour: kubernetes.HashedName(name("parts"), map[string]string{"workspaces/orders/secrets/parts/one.yaml": blobOf(texts("a=1"))}),
	} {
		if p := immutable.Plan(v, nil, start.Add(at)); p.Objects[secretKey("orders", n)] == nil {
			t.Errorf("after %v: %q, not %s", at, standing(p), n)
		}
	}
	// A clock that went back gives what was then.
	if p = planner.Plan(v, nil, start); len(p.Objects) != 2 || len(p.Objects[secretKey("orders", "parts")].Secret.Data) != 2 {
		t.Error(standing(p))
	}
}

// Two secrets that would be one object: neither is made, neither deleted, whoever of
// the two was first, and no Role names it.
func TestCollision(t *testing.T) {
	cfg := projection("orders", "payments", "instance")
	cfg.Namespaces = map[manifest.Workspace]string{scope("orders"): "shared", scope("payments"): "shared"}
	asks := map[string]map[string]string{"shared": {"instance.sealward.dev/ca": "true"}}
	one := func(edit func(a, b *repo)) (*kubernetes.Plan, *kubernetes.Plan) {
		a, b := newRepo(t, "a"), newRepo(t, "b")
		a.secret("orders/db", "password=hunter2")
		a.secret("orders/own", "password=hunter2")
		a.grant("orders", "all", "allow read-all-secrets to users:id:system:serviceaccount:shared:web")
		a.secret("instance/smtp", "x=y")
		b.secret("payments/api", "token=hunter2")
		b.grant("payments", "all", "allow read-all-secrets to users:id:system:serviceaccount:shared:pay")
		planner := kubernetes.NewPlanner(cfg)
		before := planner.Plan(view(a, b), asks, start)
		sound(t, before)
		edit(a, b)
		after := planner.Plan(view(a, b), asks, start)
		sound(t, after)
		return before, after
	}
	names := func(p *kubernetes.Plan, role string) string {
		o := p.Objects[kubernetes.Key{Kind: kubernetes.KindRole, Namespace: "shared", Name: role}]
		if o == nil {
			return ""
		}
		return fmt.Sprint(o.Role.Rules[0].ResourceNames)
	}
	before, after := one(func(_, b *repo) { b.secret("payments/db", "password=evil") })
	if before.Objects[secretKey("shared", "db")] == nil || after.Objects[secretKey("shared", "db")] != nil || !after.Keep[secretKey("shared", "db")] {
		t.Error(standing(after))
	}
	want(t, "two sources", troubles(after), "Collision orders/db", "Collision payments/db")
	for _, x := range after.Problems {
		for _, says := range []string{"orders/db", "payments/db", "workspaces/orders/secrets/db.yaml", "Secret shared/db"} {
			if !strings.Contains(x.Message, says) {
				t.Errorf("%q does not say %q", x.Message, says)
			}
		}
	}
	if names(before, "sealward:orders:all") != "[db own]" || names(after, "sealward:orders:all") != "[own]" || names(after, "sealward:payments:all") != "[api]" {
		t.Error(names(after, "sealward:orders:all"), names(after, "sealward:payments:all"))
	}
	_, after = one(func(a, _ *repo) { a.secret("orders/ca", "x=hunter2"); a.secret("instance/ca", "x=evil") })
	want(t, "an instance secret", troubles(after), "Collision instance/ca", "Collision orders/ca")
	// A refused one is no object, so it takes nobody's place.
	_, after = one(func(_, b *repo) {
		b.secret("payments/db", "password=evil")
		b.grant("payments", "no", "deny read-specific-secret to users:id:alice on db")
	})
	want(t, "a refused one", troubles(after), "Inexpressible payments/db no.yaml")
	if after.Objects[secretKey("shared", "db")].Origin.Workspace != scope("orders") {
		t.Error(standing(after))
	}
	// A workspace that is kept as it is holds the place of its Secrets, also of one
	// that stands although its manifest is gone.
	_, after = one(func(a, b *repo) {
		a.policy("orders", "broken", nil)
		a.remove("orders/db")
		b.secret("payments/db", "password=evil")
		b.secret("payments/own", "password=evil")
	})
	want(t, "a kept workspace", troubles(after), "PolicyBroken orders/ broken.yaml", "Collision orders/db", "Collision orders/own", "Collision payments/db", "Collision payments/own")
	want(t, "objects", standing(after), "Role shared/sealward:payments:all", "RoleBinding shared/sealward:payments:all", "Secret shared/api", "keep shared/db", "keep shared/own", "keep workspace orders")
	// It ends as it began.
	_, after = one(func(_, b *repo) { b.secret("payments/db", "password=evil"); b.remove("payments/db") })
	if after.Objects[secretKey("shared", "db")] == nil || len(after.Keep)+len(after.Problems) != 0 {
		t.Error(standing(after), troubles(after))
	}
}

// Where who may read cannot be decided, Secrets stay as they are and every right goes.
func TestContestedAndBroken(t *testing.T) {
	a, b := newRepo(t, "a"), newRepo(t, "b")
	a.secret("orders/db", "password=hunter2")
	a.grant("orders", "all", "allow read-all-secrets to users:id:system:serviceaccount:orders:web")
	a.secret("billing/x", "password=hunter2")
	b.secret("payments/db", "password=hunter2")
	b.grant("payments", "all", "allow read-all-secrets to users:id:system:serviceaccount:orders:web")
	planner := kubernetes.NewPlanner(projection("orders", "payments", "billing"))
	good := planner.Plan(view(a, b), nil, start)
	sound(t, good)
	whole := standing(good)

	b.secret("orders/other", "password=evil")
	b.grant("orders", "all", "allow read-all-secrets to users:id:system:serviceaccount:evil:evil")
	p := planner.Plan(view(a, b), nil, start.Add(time.Minute))
	sound(t, p)
	want(t, "contested", standing(p), "Role payments/sealward:payments:all", "RoleBinding payments/sealward:payments:all", "Secret billing/x", "Secret payments/db", "keep workspace orders")
	want(t, "contested", troubles(p), "Contested orders", "Contested orders")
	if p.Problems[0].Origin.Repository != "a" || p.Problems[1].Origin.Repository != "b" || p.Problems[0].Key != (kubernetes.Key{Namespace: "orders"}) || !strings.Contains(p.Problems[0].Message, "a and b") {
		t.Errorf("%+v", p.Problems)
	}
	since := p.Problems[0].Since
	if p = planner.Plan(view(a, b), nil, start.Add(time.Hour)); !p.Problems[0].Since.Equal(since) {
		t.Errorf("since %v, before %v", p.Problems[0].Since, since)
	}
	b.remove("orders/other")
	b.ungrant("orders", "all")
	p = planner.Plan(view(a, b), nil, start.Add(time.Hour))
	want(t, "over", standing(p), whole...)
	if p.Objects[secretKey("orders", "db")] != good.Objects[secretKey("orders", "db")] {
		t.Error("it was made anew")
	}

	// A broken file may have been a deny: of one workspace, or of the whole source.
	a.policy("orders", "lost", nil)
	a.secret("orders/new", "password=hunter2")
	p = planner.Plan(view(a, b), nil, start)
	sound(t, p)
	want(t, "broken", troubles(p), "PolicyBroken orders/ lost.yaml")
	want(t, "broken", standing(p), "Role payments/sealward:payments:all", "RoleBinding payments/sealward:payments:all", "Secret billing/x", "Secret payments/db", "keep workspace orders")
	a.ungrant("orders", "lost")
	a.remove("orders/new")
	a.policy("instance", "lost", nil)
	p = planner.Plan(view(a, b), nil, start)
	sound(t, p)
	want(t, "broken instance", troubles(p), "PolicyBroken billing/ lost.yaml", "PolicyBroken orders/ lost.yaml")
	want(t, "broken instance", standing(p), "Role payments/sealward:payments:all", "RoleBinding payments/sealward:payments:all", "Secret payments/db", "keep workspace billing", "keep workspace orders")
	a.ungrant("instance", "lost")
	want(t, "mended", standing(planner.Plan(view(a, b), nil, start)), whole...)
}

// A new commit makes objects only of what changed, and names everything else by the
// same pointer.
func TestPlanReusesObjects(t *testing.T) {
	r := newRepo(t, "")
	for i := range 20 {
		r.secret(fmt.Sprintf("orders/s%d", i), fmt.Sprintf("k=%d", i))
		r.secret(fmt.Sprintf("payments/s%d", i), fmt.Sprintf("k=%d", i))
	}
	r.grant("orders", "all", "allow read-all-secrets to users:id:system:serviceaccount:orders:web")
	r.grant("orders", "one", "allow read-specific-secret to users:id:system:serviceaccount:orders:web on s1 until 2027-01-01T00:00:00Z")
	planner := kubernetes.NewPlanner(projection("orders", "payments"))
	last := planner.Plan(view(r), nil, start)
	differs := func(what string, keys ...string) {
		t.Helper()
		next := planner.Plan(view(r), nil, start)
		sound(t, next)
		var got []string
		for key, o := range next.Objects {
			if last.Objects[key] != o {
				got = append(got, string(key.Kind)+" "+key.Name)
			}
		}
		for key := range last.Objects {
			if next.Objects[key] == nil {
				got = append(got, "no "+string(key.Kind)+" "+key.Name)
			}
		}
		slices.Sort(got)
		want(t, what, got, keys...)
		// From nothing, the same plan comes out.
		fresh := kubernetes.NewPlanner(projection("orders", "payments")).Plan(view(r), nil, start)
		if got, want := describe(next), describe(fresh); got != want {
			t.Errorf("%s: carried along\n%s\nanew\n%s", what, got, want)
		}
		last = next
	}
	differs("another commit")
	r.secret("orders/s3", "k=changed")
	differs("one value", "Secret s3")
	r.fails("orders/s4", start)
	differs("one fails")
	// As after a change of the keys: every content is made again, and is the same.
	for _, rec := range maps.Clone(r.records[scope("orders")]) {
		again, content := *rec, *rec.Good
		again.Good = &content
		r.put(&again)
	}
	differs("opened again")
	r.secret("orders/new", "k=1")
	differs("one more", "Role sealward:orders:all", "Secret new")
	r.remove("orders/new")
	differs("one less", "Role sealward:orders:all", "no Secret new")
	r.grant("payments", "all", "allow read-all-secrets to users:id:system:serviceaccount:orders:web")
	differs("a grant", "Role sealward:payments:all", "RoleBinding sealward:payments:all")
	r.grant("orders", "one", "allow read-specific-secret to users:id:system:serviceaccount:orders:api on s1 until 2027-01-01T00:00:00Z")
	differs("a subject", "RoleBinding sealward:orders:one")
	r.grant("orders", "one", "allow read-specific-secret to users:id:system:serviceaccount:orders:api on s2 until 2027-01-01T00:00:00Z")
	differs("a pattern", "Role sealward:orders:one")
	r.grant("orders", "no", "deny read-specific-secret to users:id:bob on s1?")
	differs("a deny", "Role sealward:orders:all", "no Secret s10", "no Secret s11", "no Secret s12", "no Secret s13", "no Secret s14", "no Secret s15", "no Secret s16", "no Secret s17", "no Secret s18", "no Secret s19")
}

// describe is everything that a plan says.
func describe(p *kubernetes.Plan) string {
	var out []string
	for key, o := range p.Objects {
		switch {
		case o.Secret != nil:
			out = append(out, fmt.Sprintf("%v %v %v %v %q", key, o.Secret.Labels, o.Secret.Annotations, o.Secret.Type, o.Secret.Data))
		case o.Role != nil:
			out = append(out, fmt.Sprintf("%v %v %v %v", key, o.Role.Labels, o.Role.Annotations, o.Role.Rules))
		default:
			out = append(out, fmt.Sprintf("%v %v %v", key, o.Binding.Labels, o.Binding.Subjects))
		}
	}
	slices.Sort(out)
	return strings.Join(append(out, strings.Join(troubles(p), "; "), fmt.Sprint(p.Keep, p.KeepWorkspaces, p.Namespaces, p.Again)), "\n")
}

// A workspace that moves to another repository is that one's from then on, its Roles too.
func TestWorkspaceMoves(t *testing.T) {
	a, b := newRepo(t, "a"), newRepo(t, "b")
	a.secret("orders/db", "password=hunter2")
	a.secret("billing/x", "x=y")
	b.secret("payments/x", "x=y")
	for _, r := range []*repo{a, b} {
		r.grant("orders", "all", "allow read-all-secrets to users:id:system:serviceaccount:orders:web")
	}
	planner := kubernetes.NewPlanner(projection("orders"))
	before := planner.Plan(view(a, b), nil, start)
	b.records[scope("orders")], b.edited[scope("orders")] = a.records[scope("orders")], true
	b.compiled = maps.Clone(a.compiled) // as if nothing else were another
	a.remove("orders/db")
	p := planner.Plan(view(a, b), nil, start)
	sound(t, p)
	want(t, "objects", standing(p), standing(before)...)
	for key, o := range p.Objects {
		if o.Origin.Repository != "b" || before.Objects[key].Origin.Repository != "a" {
			t.Errorf("%v: %+v, was %+v", key, o.Origin, before.Objects[key].Origin)
		}
	}
	// Gone from both, nothing stands; what is known of no repository is left alone.
	b.remove("orders/db")
	p = planner.Plan(view(a, b), nil, start)
	want(t, "gone", standing(p))
	if p = planner.Plan(view(a), nil, start); !p.Repositories["a"] || p.Repositories["b"] {
		t.Errorf("%v", p.Repositories)
	}
	cfg := projection("billing")
	cfg.Repository = nil
	if p = kubernetes.NewPlanner(cfg).Plan(view(a), nil, start); !p.Repositories["a"] {
		t.Errorf("%v", p.Repositories)
	}
}

// The Secrets of a contested workspace hold their place also before an agent that was
// just started: it does not know what stands.
func TestContestedHoldsItsPlace(t *testing.T) {
	a, b := newRepo(t, "a"), newRepo(t, "b")
	a.secret("orders/db", "password=hunter2")
	b.secret("orders/api", "password=hunter2")
	b.secret("payments/db", "password=evil")
	b.secret("payments/api", "password=evil")
	b.secret("payments/own", "x=y")
	cfg := projection("orders", "payments")
	cfg.Namespaces = map[manifest.Workspace]string{scope("payments"): "orders"}
	p := kubernetes.NewPlanner(cfg).Plan(view(a, b), nil, start)
	sound(t, p)
	want(t, "objects", standing(p), "Secret orders/own", "keep orders/api", "keep orders/db", "keep workspace orders")
	want(t, "problems", troubles(p), "Contested orders", "Contested orders", "Collision orders/api", "Collision orders/db", "Collision payments/api", "Collision payments/db")
}
