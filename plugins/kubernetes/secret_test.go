package kubernetes_test

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sealward/sealward/plugins/kubernetes"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal"
)

// one plans a single secret of orders, and gives its Secret or why there is none.
func one(t *testing.T, edit func(*repo)) (*corev1.Secret, *kubernetes.Problem) {
	t.Helper()
	r := newRepo(t, "")
	edit(r)
	p := kubernetes.NewPlanner(projection("orders")).Plan(view(r), nil, start)
	sound(t, p)
	if len(p.Objects)+len(p.Problems) != 1 {
		t.Fatal(standing(p), troubles(p))
	}
	for _, o := range p.Objects {
		return o.Secret, nil
	}
	return nil, &p.Problems[0]
}

func fields(s *corev1.Secret) string {
	var out []string
	for _, key := range slices.Sorted(maps.Keys(s.Data)) {
		out = append(out, fmt.Sprintf("%s=%s", key, s.Data[key]))
	}
	return strings.Join(out, " ")
}

// What each type of a secret becomes.
func TestTypes(t *testing.T) {
	cases := []struct {
		kind   manifest.SecretType
		values []string
		want   corev1.SecretType
		fields string
	}{
		{manifest.KeyValue, []string{"user=dana", "empty="}, "Opaque", "empty= user=dana"},
		{manifest.CloudKernel, []string{"user=dana", "bytes=0xff00"}, "Opaque", "bytes=\xff\x00 user=dana"},
		{manifest.CloudKernelImagePull, []string{`.dockerconfigjson={"auths":{}}`}, "kubernetes.io/dockerconfigjson", `.dockerconfigjson={"auths":{}}`},
		{manifest.CloudKernelImagePull, []string{"other=x"}, "Opaque", "other=x"},
		{manifest.Certificate, []string{"tls.crt=c", "tls.key=k", "ca.crt=a"}, "kubernetes.io/tls", "ca.crt=a tls.crt=c tls.key=k"},
		{manifest.Certificate, []string{"tls.crt=c", "truststore=0xfeed"}, "Opaque", "tls.crt=c truststore=\xfe\xed"},
		{manifest.KeyValueProperties, []string{"b=1: 2", "a=é"}, "Opaque", "db.properties=a=\\u00E9\nb=1\\: 2\n"},
		{manifest.KeyValueProperties, []string{"user=dana", "truststore=0xfeed"}, "Opaque", "db.properties=user=dana\n truststore=\xfe\xed"},
		// Text that had to be kept as binary is text all the same.
		{manifest.KeyValueProperties, []string{"user=0x64616e61"}, "Opaque", "db.properties=user=dana\n"},
		{manifest.KeyValueProperties, []string{"nul=0x6100"}, "Opaque", "nul=a\x00"},
		// A key of that name is a property like any other.
		{manifest.KeyValueProperties, []string{"db.properties=x"}, "Opaque", "db.properties=db.properties=x\n"},
	}
	for _, c := range cases {
		s, why := one(t, func(r *repo) { r.file("orders/db", c.kind, texts(c.values...)) })
		if why != nil || s.Type != c.want || fields(s) != c.fields {
			t.Errorf("%s %q: %+v %v", c.kind, c.values, why, s)
		}
	}
	// Parts are one secret.
	s, _ := one(t, func(r *repo) {
		r.file("orders/db/a", manifest.KeyValueProperties, texts("z=1"))
		r.file("orders/db/b", manifest.KeyValueProperties, texts("a=2", "jks=0xfeed"))
	})
	if fields(s) != "db.properties=a=2\nz=1\n jks=\xfe\xed" || s.Annotations[kubernetes.PathAnnotation] != "workspaces/orders/secrets/db/a.yaml,workspaces/orders/secrets/db/b.yaml" ||
		s.Annotations[kubernetes.BlobAnnotation] != blobOf(texts("z=1"))+","+blobOf(texts("a=2", "jks=0xfeed")) {
		t.Errorf("%q %v", fields(s), s.Annotations)
	}
}

// The newest commit that changed a part stands in the annotation, whichever part it is.
func TestCommitOfParts(t *testing.T) {
	r := newRepo(t, "")
	r.secret("orders/db/a", "a=1")
	r.secret("orders/db/b", "b=1")
	planner := kubernetes.NewPlanner(projection("orders"))
	for i, part := range []string{"b", "a"} {
		view(r)
		r.secret("orders/db/"+part, part+"=2")
		at := r.commits
		view(r) // one that changed something else
		o := planner.Plan(view(r), nil, start).Objects[secretKey("orders", "db")]
		if got := o.Secret.Annotations[kubernetes.CommitAnnotation]; got != fmt.Sprintf("%040d", at) {
			t.Errorf("%d: commit %s, want %040d", i, got, at)
		}
	}
}

// A sealed Kubernetes Secret keeps what it states, and can state nothing in sealward's name.
func TestKubernetesManifest(t *testing.T) {
	no, yes := false, true
	put := func(k *manifest.KubernetesSecret, values ...string) func(*repo) {
		return func(r *repo) { r.file("orders/db", manifest.CloudKernel, texts(values...)).Good.Kubernetes = k }
	}
	pairs := func(list ...string) (out []manifest.Pair) {
		for _, p := range list {
			k, v, _ := strings.Cut(p, "=")
			out = append(out, manifest.Pair{Key: k, Value: v})
		}
		return out
	}
	s, why := one(t, put(&manifest.KubernetesSecret{Type: "kubernetes.io/basic-auth", Namespace: "orders", Immutable: &yes,
		Labels: pairs("team=shop", "app.kubernetes.io/name=shop", "app.kubernetes.io/managed-by=evil", "sealward.dev/workspace=payments", "sealward.dev/agent=evil", "sealward.dev/anything=x", "instance.sealward.dev/ca=true"),
		Annotations: pairs("note=a b", "sealward.dev/adopt=true", "sealward.dev/path=x", "sealward.dev/commit=x", "config.kubernetes.io/local-config=true", "internal.config.kubernetes.io/index=1",
			"kustomize.config.k8s.io/needs-hash=true", "kubectl.kubernetes.io/last-applied-configuration={}", "sealward.dev.example.com/mine=1", "notsealward.dev/mine=1"),
	}, "username=dana", "password=hunter2"))
	if why != nil {
		t.Fatal(why)
	}
	if s.Type != "kubernetes.io/basic-auth" || s.Immutable == nil || !*s.Immutable || s.Namespace != "orders" || fields(s) != "password=hunter2 username=dana" {
		t.Errorf("%+v", s)
	}
	want(t, "labels", slices.Sorted(maps.Keys(s.Labels)), "app.kubernetes.io/managed-by", "app.kubernetes.io/name", "sealward.dev/agent", "sealward.dev/repository", "sealward.dev/secret", "sealward.dev/workspace", "team")
	want(t, "annotations", slices.Sorted(maps.Keys(s.Annotations)), "note", "notsealward.dev/mine", "sealward.dev.example.com/mine", "sealward.dev/blob", "sealward.dev/commit", "sealward.dev/path")
	if s.Labels["app.kubernetes.io/managed-by"] != "sealward" || s.Labels["sealward.dev/workspace"] != "orders" || s.Labels["sealward.dev/agent"] != "sealward" || s.Annotations["sealward.dev/path"] != "workspaces/orders/secrets/db.yaml" {
		t.Errorf("%v %v", s.Labels, s.Annotations)
	}
	s, _ = one(t, put(&manifest.KubernetesSecret{Type: "example.com/odd", Immutable: &no}, "k=v"))
	if s.Type != "example.com/odd" || s.Immutable != nil {
		t.Errorf("%+v", s)
	}
	// The mapping decides its namespace.
	r := newRepo(t, "")
	put(&manifest.KubernetesSecret{Type: "Opaque", Namespace: "orders"}, "k=v")(r)
	cfg := projection("orders")
	cfg.Namespaces = map[manifest.Workspace]string{scope("orders"): "shop"}
	want(t, "mapped", standing(kubernetes.NewPlanner(cfg).Plan(view(r), nil, start)), "Secret shop/db")
}

// What Kubernetes would refuse, at each try anew, is a problem of the one secret; the
// message says which, and never what is in it.
func TestRefused(t *testing.T) {
	kind := func(k string, values ...string) func(*repo) {
		return func(r *repo) {
			r.file("orders/db", manifest.CloudKernel, texts(values...)).Good.Kubernetes = &manifest.KubernetesSecret{Type: k}
		}
	}
	meta := func(labels, annotations []manifest.Pair) func(*repo) {
		return func(r *repo) {
			r.file("orders/db", manifest.CloudKernel, texts("k=hunter2")).Good.Kubernetes = &manifest.KubernetesSecret{Type: "Opaque", Labels: labels, Annotations: annotations}
		}
	}
	big := strings.Repeat("hunter2-", 1<<17) // 1 MiB
	cases := []struct {
		name   string
		edit   func(*repo)
		reason kubernetes.Reason
		says   string
	}{
		{"a token of a service account", kind("kubernetes.io/service-account-token", "token=hunter2"), kubernetes.InvalidData, "fills with the token of a service account"},
		{"no docker configuration", kind("kubernetes.io/dockerconfigjson", ".dockerconfigjson=hunter2"), kubernetes.InvalidData, "not a Docker configuration"},
		{"no old docker configuration", kind("kubernetes.io/dockercfg", "x=hunter2"), kubernetes.InvalidData, ".dockercfg: is missing"},
		{"a broken image pull secret", func(r *repo) { r.file("orders/db", manifest.CloudKernelImagePull, texts(".dockerconfigjson=hunter2")) }, kubernetes.InvalidData, "not a Docker configuration"},
		{"half a certificate", kind("kubernetes.io/tls", "tls.crt=hunter2"), kubernetes.InvalidData, "tls.key: is missing"},
		{"nobody", kind("kubernetes.io/basic-auth", "x=hunter2"), kubernetes.InvalidData, "username: is missing"},
		{"no key", kind("kubernetes.io/ssh-auth", "x=hunter2"), kubernetes.InvalidData, "ssh-privatekey: is missing"},
		{"a value too large", func(r *repo) { r.secret("orders/db", "k="+big+"x") }, kubernetes.TooLarge, "has values of 1048577 bytes"},
		{"parts too large", func(r *repo) { r.secret("orders/db/a", "a="+big); r.secret("orders/db/b", "b=x") }, kubernetes.TooLarge, "workspaces/orders/secrets/db: has values"},
		{"names too large", func(r *repo) {
			values := texts("k=" + big[:1000])
			for i := range 2000 {
				values = append(values, unseal.Value{Key: fmt.Sprintf("%0250d", i), Data: []byte("x")})
			}
			r.file("orders/db", manifest.KeyValue, values)
		}, kubernetes.TooLarge, "an object of Kubernetes has at most"},
		{"a label", meta([]manifest.Pair{{Key: "team", Value: "hunter2 hunter2"}}, nil), kubernetes.InvalidData, `no such label as it has in "team"`},
		{"a long label", meta([]manifest.Pair{{Key: "team", Value: strings.Repeat("hunter2", 10)}}, nil), kubernetes.InvalidData, `no such label`},
		{"an annotation", meta(nil, []manifest.Pair{{Key: "a b", Value: "hunter2"}}), kubernetes.InvalidData, `no such annotation as "a b"`},
		{"annotations too large", meta(nil, []manifest.Pair{{Key: "note", Value: big[:1<<18]}}), kubernetes.TooLarge, "annotations of more than 262144 bytes"},
		{"a key", func(r *repo) { r.secret("orders/db", "..k=hunter2") }, kubernetes.InvalidData, "a key breaks the rule"},
		{"two fields of one name", func(r *repo) {
			r.file("orders/db", manifest.KeyValueProperties, texts("db.properties=0xfeed", "user=hunter2"))
		}, kubernetes.InvalidData, "two values would be the field db.properties"},
	}
	for _, c := range cases {
		s, why := one(t, c.edit)
		if s != nil {
			t.Errorf("%s: is projected", c.name)
			continue
		}
		if why.Reason != c.reason || !strings.Contains(why.Message, c.says) || !strings.Contains(why.Message, "workspaces/orders/secrets/db") || why.Key != secretKey("orders", "db") || why.Origin.Secret != name("db") {
			t.Errorf("%s: %+v", c.name, why)
		}
		if len(why.Message) > 500 {
			t.Errorf("%s: a message of %d bytes", c.name, len(why.Message))
		}
	}
	// Just small enough.
	if s, why := one(t, func(r *repo) { r.secret("orders/db", "k="+big) }); s == nil {
		t.Error(why)
	}
	// Others are not held up.
	r := newRepo(t, "")
	r.secret("orders/db", "k="+big+"x")
	r.secret("orders/fine", "k=v")
	r.grant("orders", "all", "allow read-all-secrets to users:id:system:serviceaccount:orders:web")
	p := kubernetes.NewPlanner(projection("orders")).Plan(view(r), nil, start)
	sound(t, p)
	want(t, "others", standing(p), "Role orders/sealward:orders:all", "RoleBinding orders/sealward:orders:all", "Secret orders/fine")
}

// The lists in annotations are bounded, so that a secret of many parts fits.
func TestManyParts(t *testing.T) {
	s, why := one(t, func(r *repo) {
		for i := range 900 {
			r.secret(fmt.Sprintf("orders/db/%0250d", i), fmt.Sprintf("k%d=v", i))
		}
	})
	if why != nil {
		t.Fatal(why)
	}
	paths, blobs := strings.Split(s.Annotations[kubernetes.PathAnnotation], ","), strings.Split(s.Annotations[kubernetes.BlobAnnotation], ",")
	if len(s.Data) != 900 || len(paths) != 201 || len(blobs) != 201 || paths[200] != "and 700 more" || blobs[200] != "and 700 more" {
		t.Error(len(s.Data), len(paths), len(blobs), paths[len(paths)-1])
	}
}

// What is handed out is not the planner's to change, and a value is not copied.
func TestValuesAreShared(t *testing.T) {
	r := newRepo(t, "")
	rec := r.secret("orders/db", "k=hunter2")
	o := kubernetes.NewPlanner(projection("orders")).Plan(view(r), nil, start).Objects[secretKey("orders", "db")]
	if &o.Secret.Data["k"][0] != &rec.Good.Values[0].Data[0] {
		t.Error("the value was copied")
	}
}

// The name of an immutable Secret follows from what is committed: Git alone computes it.
func TestHashedName(t *testing.T) {
	dir := t.TempDir()
	git := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-c", "user.name=dana", "-c", "user.email=dana@example.com"}, args...)...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	git("init", "-q")
	for path, text := range map[string]string{"db.yaml": "sealed", "api/a.yaml": "one", "api/b.c.yaml": "two", "api/B.yaml": "three", "api/b-c.yaml": "four"} {
		file := filepath.Join(dir, "workspaces/orders/secrets", path)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	git("add", "-A")
	git("commit", "-q", "-m", "x")
	for _, secret := range []string{"db.yaml", "api"} {
		path := "workspaces/orders/secrets/" + secret
		cmd := exec.Command("sh", "-c", "git ls-tree -r --format='%(objectname) %(path)' HEAD "+path+" | sha256sum | cut -c1-10")
		cmd.Dir = dir
		sum, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		blobs := map[string]string{}
		for _, line := range strings.Split(git("ls-tree", "-r", "HEAD", path), "\n") {
			field := strings.Fields(line)
			blobs[field[3]] = field[2]
		}
		n := name(strings.TrimSuffix(secret, ".yaml"))
		if got, want := kubernetes.HashedName(n, blobs), n.String()+"-"+strings.TrimSpace(string(sum)); got != want || len(want) != len(n.String())+11 {
			t.Errorf("%s: %s, Git says %s", secret, got, want)
		}
	}
	if a, b := kubernetes.HashedName(name("db"), map[string]string{"a": "1", "b": "2"}), kubernetes.HashedName(name("db"), map[string]string{"a": "2", "b": "1"}); a == b {
		t.Error("swapped blobs have one name")
	}
}

func TestImmutable(t *testing.T) {
	cfg := projection("orders")
	cfg.Immutable = true
	planner := kubernetes.NewPlanner(cfg)
	r := newRepo(t, "")
	hashed := func(what string) string {
		sec, _ := r.snapshot().Secret(scope("orders"), name(what), start)
		blobs := map[string]string{}
		for _, part := range sec.Parts {
			blobs[part.Path] = part.Good.Provenance.Blob
		}
		return kubernetes.HashedName(name(what), blobs)
	}
	r.secret("orders/db", "k=one")
	r.secret("orders/api", "k=v")
	r.grant("orders", "all", "allow read-all-secrets to users:id:system:serviceaccount:orders:web until 2027-01-01T00:00:00Z")
	first, api := hashed("db"), hashed("api")
	p := planner.Plan(view(r), nil, start)
	sound(t, p)
	rbac := []string{"Role orders/sealward:orders:all", "RoleBinding orders/sealward:orders:all"}
	want(t, "first", standing(p), append(rbac, "Secret orders/"+api, "Secret orders/"+first)...)
	s := p.Objects[secretKey("orders", first)].Secret
	if s.Immutable == nil || !*s.Immutable || s.Labels[kubernetes.SecretLabel] != "db" || s.Name != first {
		t.Errorf("%+v", s)
	}
	// The name does not change with a policy, another commit, or a file that breaks.
	r.grant("orders", "all", "allow read-all-secrets to users:id:system:serviceaccount:orders:api until 2027-01-01T00:00:00Z")
	r.fails("orders/db", start)
	q := planner.Plan(view(r), nil, start)
	if q.Objects[secretKey("orders", first)] != p.Objects[secretKey("orders", first)] || len(q.Keep) != 0 {
		t.Error(standing(q))
	}

	// A new value is a new Secret, and the old one stays for a day.
	r.secret("orders/db", "k=two")
	second := hashed("db")
	v := view(r)
	p = planner.Plan(v, nil, start.Add(time.Hour))
	sound(t, p)
	want(t, "second", standing(p), append(rbac, "Secret orders/"+api, "Secret orders/"+second, "keep orders/"+first)...)
	if got := p.Objects[kubernetes.Key{Kind: kubernetes.KindRole, Namespace: "orders", Name: "sealward:orders:all"}].Role.Rules[0].ResourceNames; !slices.Equal(got, []string{api, second}) {
		t.Errorf("the Role names %v", got)
	}
	if !p.Again.Equal(start.Add(25 * time.Hour)) {
		t.Errorf("again %v", p.Again)
	}
	if p = planner.Plan(v, nil, start.Add(25*time.Hour-1)); !p.Keep[secretKey("orders", first)] {
		t.Error("it went too early")
	}
	if p = planner.Plan(v, nil, start.Add(25*time.Hour)); len(p.Keep) != 0 {
		t.Error("it stays too long")
	}
	// After a restart nobody knows of it.
	if p = kubernetes.NewPlanner(cfg).Plan(v, nil, start.Add(time.Hour)); len(p.Keep) != 0 {
		t.Error(p.Keep)
	}

	// A revert, back and forth: what is current is never merely kept.
	for i, value := range []string{"k=one", "k=two", "k=one"} {
		r.secret("orders/db", value)
		p = planner.Plan(view(r), nil, start.Add(time.Duration(26+i)*time.Hour))
		sound(t, p)
		if p.Objects[secretKey("orders", hashed("db"))] == nil || len(p.Keep) != 1 {
			t.Error(standing(p))
		}
	}
	// A flood is bounded, and the newest stay.
	var last []string
	for i := range 40 {
		last = append(last, hashed("db"))
		r.secret("orders/db", fmt.Sprintf("k=%d", i))
		p = planner.Plan(view(r), nil, start.Add(30*time.Hour))
	}
	if len(p.Keep) != 10 || !p.Keep[secretKey("orders", last[39])] || p.Keep[secretKey("orders", last[29])] {
		t.Errorf("%d are kept", len(p.Keep))
	}
	// While who may read is unknown, nothing is forgotten.
	r.policy("orders", "broken", nil)
	p = planner.Plan(view(r), nil, start.Add(30*time.Hour))
	want(t, "broken", standing(p), "keep workspace orders")
	r.ungrant("orders", "broken")
	if p = planner.Plan(view(r), nil, start.Add(31*time.Hour)); len(p.Keep) != 10 {
		t.Errorf("%d are kept after a broken policy", len(p.Keep))
	}
	// A secret that is refused or gone takes all of its Secrets with it at once.
	r.grant("orders", "no", "deny read-specific-secret to users:id:bob on db")
	if p = planner.Plan(view(r), nil, start.Add(31*time.Hour)); len(p.Keep) != 0 {
		t.Errorf("refused: %d are kept", len(p.Keep))
	}
	r.ungrant("orders", "no")
	planner.Plan(view(r), nil, start.Add(31*time.Hour))
	r.secret("orders/db", "k=last")
	if p = planner.Plan(view(r), nil, start.Add(31*time.Hour)); len(p.Keep) != 1 {
		t.Error(standing(p))
	}
	r.remove("orders/db")
	p = planner.Plan(view(r), nil, start.Add(31*time.Hour))
	sound(t, p)
	want(t, "gone", standing(p), append(rbac, "Secret orders/"+api)...)
}
