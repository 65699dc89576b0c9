package kubernetes_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/sealward/sealward/gitops"
	"github.com/sealward/sealward/plugins/kubernetes"
	"github.com/sealward/sealward/plugins/kubernetes/kubetest"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/audit"
	"github.com/sealward/sealward/unseal/serve"
)

const hidden = "hunter2-of-the-database"

// installation is the namespaces of an agent's replicas, with the rights of the example.
type installation struct {
	t                 *testing.T
	namespace, target string
	settings          string   // further lines of kubernetes:
	duration          string   // of the Lease
	instance          bool     // instance secrets are projected
	names             []string // of several sources
}

var definition sync.Once

func newInstallation(t *testing.T) *installation {
	t.Helper()
	c := kubetest.Need(t, cluster)
	in := &installation{t: t, namespace: c.Namespace(t, "sealward"), target: c.Namespace(t, "orders"), duration: "4s"}
	definition.Do(func() { in.kubectl(string(kubernetes.CRD), "apply", "--server-side", "-f", "-") })
	for file, namespace := range map[string]string{"base/rbac.yaml": in.namespace, "components/workspace/rbac.yaml": in.target} {
		text, err := os.ReadFile("../../examples/cluster/" + file)
		must(t, err)
		in.kubectl(strings.NewReplacer("namespace: sealward}", "namespace: "+in.namespace+"}", "sealward-tokenreview", in.namespace+"-tokenreview").Replace(string(text)), "apply", "-n", namespace, "-f", "-")
	}
	return in
}

func (in *installation) kubectl(stdin string, args ...string) string {
	in.t.Helper()
	cmd := exec.Command("kubectl", append([]string{"--kubeconfig", kubetest.Kubeconfig(in.t, cluster.Admin)}, args...)...)
	cmd.Stdin, cmd.Env = strings.NewReader(stdin), append(os.Environ(), "HOME="+in.t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		in.t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// replica is a projector in this process, with the host that a test plays.
type replica struct {
	*kubernetes.Projector
	link
	in   *installation
	live *unseal.Live
	now  func() time.Time
	log  lockedBuffer
	stop func()

	behind atomic.Int64 // of the clock
	writes atomic.Int64
	looks  chan string
	answer func(*http.Request) *http.Response // instead of the API server's; nil for that

	mu       sync.Mutex
	records  []audit.Record
	refuse   error // of the audit
	approved []string
	waits    string // a commit at which something waits in the agent
}

func (in *installation) replica() *replica {
	in.t.Helper()
	r := &replica{in: in, live: &unseal.Live{}, looks: make(chan string, 1000), stop: func() {}}
	r.now = func() time.Time { return time.Now().Add(-time.Duration(r.behind.Load())) }
	file := kubetest.Kubeconfig(in.t, cluster.As(in.t, in.namespace, "sealward"))
	s, err := gitops.ParseSettings(fmt.Appendf(nil, `source: {url: "https://dana:hunter2@git.example.com/secrets.git", verify: {mode: required, allowedSignersFile: signers}}
keyring: keys
state: state
serve: {tokensFile: tokens.yaml, kubernetes: {audience: x, roles: {allow: ["system:serviceaccounts:shop"]}}}
kubernetes:
  kubeconfig: %s
  namespace: %s
  lease: {duration: %s}
  project: {workspaces: [orders%s], namespaces: {orders: %s}, pruneGuard: {percent: 25, count: 1}}
%s`, file, in.namespace, in.duration, map[bool]string{true: ", instance"}[in.instance], in.target, in.settings), in.t.TempDir())
	must(in.t, err)
	must(in.t, s.Check(false))
	log := logged.To(&r.log)
	cfg, namespace, err := kubernetes.Endpoint{Kubeconfig: s.Kubernetes.Kubeconfig, Namespace: s.Kubernetes.Namespace, Version: "v1"}.Connect(log)
	must(in.t, err)
	cfg.Wrap(r.wrap)
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTrip(func(req *http.Request) (*http.Response, error) {
			if req.Method != http.MethodGet && !strings.Contains(req.URL.Path, "/leases/") {
				r.writes.Add(1)
			}
			if r.answer != nil {
				if resp := r.answer(req); resp != nil {
					return resp, nil
				}
			}
			return next.RoundTrip(req)
		})
	})
	r.Projector, err = kubernetes.NewProjector(kubernetes.ProjectorConfig{Rest: cfg, Namespace: namespace, Identity: kubernetes.NewIdentity(), Settings: s.Kubernetes, Log: log, Now: r.now,
		Sources: in.sources(s.Source.ShownURL())})
	must(in.t, err)
	in.t.Cleanup(func() { r.stop() })
	return r
}

func (in *installation) sources(url string) (out []kubernetes.Source) {
	if in.names == nil {
		return []kubernetes.Source{{URL: url, Branch: "main", Path: ".", Verified: true}}
	}
	for _, name := range in.names {
		out = append(out, kubernetes.Source{Name: name, URL: "https://git.example.com/" + name + ".git", Branch: "main", Path: "."})
	}
	return out
}

// start runs it until the test ends.
func (r *replica) start() *replica {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	r.stop = sync.OnceFunc(func() {
		cancel()
		<-done
		if r.in.t.Failed() {
			text := r.log.String()
			r.in.t.Logf("the log ends:\n%s", text[max(0, len(text)-3000):])
		}
		if strings.Contains(r.log.String(), "hunter2") {
			r.in.t.Errorf("the log holds a value:\n%s", r.log.String())
		}
	})
	go func() {
		defer close(done)
		r.Run(ctx, gitops.Host{
			Live: r.live, Look: func(source string) { r.looks <- source },
			Record: func(_ context.Context, records []audit.Record) error {
				r.mu.Lock()
				defer r.mu.Unlock()
				r.records = append(r.records, records...)
				return r.refuse
			},
			Approve: func(commit string) error {
				r.mu.Lock()
				defer r.mu.Unlock()
				if commit != r.waits {
					return unseal.ErrNothingWaits
				}
				r.waits, r.approved = "", append(r.approved, commit)
				return nil
			},
			// Commits are numbers, each the next one's parent.
			Contains: func(_ context.Context, _, commit, ancestor string) (bool, error) {
				if len(ancestor) != 40 {
					return false, unseal.ErrUnknownCommit
				}
				return ancestor <= commit, nil
			},
		})
	}()
	return r
}

func (r *replica) publish(repo *repo) (commit string) {
	s := repo.snapshot()
	r.live.Publish(s)
	r.synced(unseal.Sync{Head: s.Commit})
	return s.Commit
}

func (r *replica) synced(s unseal.Sync) {
	s.URL, s.Branch, s.LastLook = "https://git.example.com/secrets.git", "main", r.now()
	if s.Class == unseal.SyncOK {
		s.LastSuccess = s.LastLook
	}
	r.live.SetSync(s)
}

func (r *replica) leads() bool { return r.Status().Leading }

func (r *replica) logs(line string) func() bool {
	return func() bool { return strings.Contains(r.log.String(), line) }
}

var repositoryResource = schema.GroupVersionResource{Group: "sealward.dev", Version: "v1alpha1", Resource: "sealedrepositories"}

func (in *installation) objects() dynamic.ResourceInterface {
	c, err := dynamic.NewForConfig(cluster.Admin)
	must(in.t, err)
	return c.Resource(repositoryResource).Namespace(in.namespace)
}

// repository is the SealedRepository as it stands; nil where there is none.
func (in *installation) repository() *unstructured.Unstructured {
	u, err := in.objects().Get(context.Background(), "sealward", metav1.GetOptions{})
	if err != nil {
		return nil
	}
	if text := fmt.Sprint(u.Object); strings.Contains(text, "hunter2") {
		in.t.Errorf("the SealedRepository holds a value: %s", text)
	}
	return u
}

// condition is STATUS REASON, and the message.
func condition(u *unstructured.Unstructured, kind string) (is, message string) {
	if u == nil {
		return "", ""
	}
	list, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, c := range list {
		if c := c.(map[string]any); c["type"] == kind {
			return fmt.Sprint(c["status"], " ", c["reason"]), fmt.Sprint(c["message"])
		}
	}
	return "", ""
}

// becomes waits until a condition is so.
func (in *installation) becomes(kind, is string) (message string) {
	in.t.Helper()
	last := ""
	defer func() {
		if in.t.Failed() {
			in.t.Logf("%s is %q: %s", kind, last, message)
		}
	}()
	soon(in.t, kind+" becomes "+is, func() bool {
		last, message = condition(in.repository(), kind)
		return last == is
	})
	return message
}

func (in *installation) annotate(annotation, value string) {
	in.t.Helper()
	text := `"` + value + `"`
	if value == "" {
		text = "null"
	}
	_, err := in.objects().Patch(in.t.Context(), "sealward", types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%s}}}`, annotation, text), metav1.PatchOptions{})
	must(in.t, err)
}

func field(u *unstructured.Unstructured, path ...string) string {
	if u == nil {
		return ""
	}
	v, _, _ := unstructured.NestedFieldNoCopy(u.Object, path...)
	return fmt.Sprint(v)
}

// What people see with kubectl, from nothing to a projected commit, through trouble and
// back.
func TestSealedRepository(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	r := in.replica().start()
	in.becomes("Ready", "False NotSynced")
	in.becomes("Reconciling", "True Syncing")
	u := in.repository()
	if field(u, "spec", "url") != "https://git.example.com/secrets.git" || field(u, "spec", "branch") != "main" || u.GetLabels()[kubernetes.ManagedBy] != "sealward" {
		t.Errorf("%v", u.Object)
	}

	repo := newRepo(t, "")
	repo.secret("orders/db", "password="+hidden)
	repo.secret("orders/api", "token="+hidden)
	repo.grant("orders", "shop", "allow read-all-secrets to users:id:system:serviceaccount:shop:shop")
	commit := r.publish(repo)
	in.becomes("Ready", "True Projected")
	in.becomes("Reconciling", "False Idle")
	in.becomes("Stalled", "False NotStalled")
	in.becomes("SourceVerified", "True Signed")
	in.becomes("ClockSynchronized", "True Synchronized")
	u = in.repository()
	for path, want := range map[string]string{"observedCommit": commit, "commit": commit[:12], "secrets": "2/2", "failing": "0", "leader": r.Status().Identity} {
		if got := field(u, "status", path); got != want {
			t.Errorf("status.%s is %s, want %s", path, got, want)
		}
	}
	if notice := field(u, "status", "notice"); !strings.Contains(notice, "create Pods") {
		t.Errorf("nothing tells who reads Secrets besides: %s", notice)
	}
	if row := strings.Split(in.kubectl("", "get", "srepo", "-n", in.namespace), "\n"); !regexp.MustCompile(`^NAME\s+READY\s+STATUS\s+COMMIT\s+SECRETS\s+FAILING\s+AGE$`).MatchString(row[0]) || !strings.Contains(row[1], "2/2") {
		t.Errorf("kubectl shows\n%s", strings.Join(row, "\n"))
	}

	// Looks that find nothing new write nothing.
	before := r.writes.Load()
	for range 5 {
		r.synced(unseal.Sync{Head: commit})
		time.Sleep(700 * time.Millisecond)
	}
	if n := r.writes.Load() - before; n != 0 {
		t.Errorf("%d writes without a change", n)
	}
	// But after some minutes it tells when the remote last answered.
	last := field(in.repository(), "status", "lastSyncTime")
	r.behind.Store(int64(-6 * time.Minute))
	r.synced(unseal.Sync{Head: commit})
	soon(t, "lastSyncTime is brought up to date", func() bool { return field(in.repository(), "status", "lastSyncTime") != last })
	r.behind.Store(0)

	// Manifests that fail, bounded, with what to do and without a value.
	for i := range 60 {
		what := fmt.Sprintf("orders/bad%d", i)
		repo.secret(what, "x="+hidden)
		repo.fails(what, time.Now())
	}
	r.publish(repo)
	message := in.becomes("Stalled", "True ManifestsFailing")
	if !strings.HasPrefix(message, "60 manifests are not served as committed: workspaces/orders/secrets/bad0.yaml (manifest)") {
		t.Error(message)
	}
	in.becomes("Ready", "False ManifestsFailing")
	u = in.repository()
	list, _, _ := unstructured.NestedSlice(u.Object, "status", "failingManifests")
	if len(list) != 50 || field(u, "status", "failing") != "60" || field(u, "status", "counts", "stale") != "60" {
		t.Errorf("%d listed, %v", len(list), field(u, "status", "counts"))
	}
	for i := range 60 {
		repo.secret(fmt.Sprintf("orders/bad%d", i), "x="+hidden)
	}
	r.publish(repo)
	in.becomes("Ready", "True Projected")
	in.becomes("Stalled", "False NotStalled")

	// A remote that is away passes by itself; one that takes no credential waits for a
	// person; a head that is not signed says so.
	head := fmt.Sprintf("%040d", 500)
	r.synced(unseal.Sync{Head: field(in.repository(), "status", "observedCommit"), Class: unseal.SyncUnreachable, Error: "x"})
	in.becomes("Ready", "False SourceUnreachable")
	in.becomes("Stalled", "False NotStalled")
	r.synced(unseal.Sync{Head: head, Class: unseal.SyncAuth, Error: "x"})
	in.becomes("Stalled", "True SourceAuth")
	in.becomes("Reconciling", "True Syncing")
	r.synced(unseal.Sync{Head: head, Refused: head, Class: unseal.SyncSignature, Error: "x"})
	in.becomes("SourceVerified", "False NotSigned")
	in.becomes("Reconciling", "False Idle")
	r.publish(repo)
	in.becomes("Ready", "True Projected")

	// The spec tells what the settings say, whoever writes it; a deleted object comes back.
	in.kubectl("", "patch", "srepo", "sealward", "-n", in.namespace, "--type=merge", "-p", `{"spec":{"branch":"other"}}`)
	soon(t, "the spec is put right", func() bool {
		u := in.repository()
		return field(u, "spec", "branch") == "main" && field(u, "status", "observedGeneration") == fmt.Sprint(u.GetGeneration()) && u.GetGeneration() == 3
	})
	uid := in.repository().GetUID()
	in.kubectl("", "delete", "srepo", "sealward", "-n", in.namespace)
	soon(t, "it is made anew", func() bool { u := in.repository(); return u != nil && u.GetUID() != uid })
	in.becomes("Ready", "True Projected")
	if _, err := cluster.Client.CoreV1().Secrets(in.target).Get(t.Context(), "db", metav1.GetOptions{}); err != nil {
		t.Error("the Secrets went with the SealedRepository")
	}
}

// An event tells of each problem that begins and ends: on the object that it is about.
func TestEvents(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	theirs, err := cluster.Client.CoreV1().Secrets(in.target).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "db"}}, metav1.CreateOptions{})
	must(t, err)
	r := in.replica().start()
	repo := newRepo(t, "")
	repo.secret("orders/db", "password="+hidden)
	commit := r.publish(repo)
	message := in.becomes("Ready", "False NotOurs")
	if !strings.Contains(message, "was not made by sealward") {
		t.Error(message)
	}
	events := func(namespace, reason string) (found []string) {
		list, err := cluster.Client.EventsV1().Events(namespace).List(t.Context(), metav1.ListOptions{})
		must(t, err)
		for _, e := range list.Items {
			if strings.Contains(fmt.Sprint(e), "hunter2") {
				t.Errorf("an event holds a value: %v", e)
			}
			if e.Reason == reason && e.ReportingController == "sealward.dev/agent" {
				found = append(found, e.Type+" "+e.Regarding.Kind+" "+e.Regarding.Name+" "+e.Note)
			}
		}
		return found
	}
	soon(t, "an event tells of it on the Secret", func() bool { return len(events(in.target, "NotOurs")) == 1 })
	if e := events(in.target, "NotOurs")[0]; !strings.HasPrefix(e, "Warning Secret db Secret "+in.target+"/db exists") {
		t.Error(e)
	}
	soon(t, "an event tells of the commit", func() bool {
		return slices.Contains(events(in.namespace, "Applied"), "Normal SealedRepository sealward commit "+commit+" is served")
	})
	must(t, cluster.Client.CoreV1().Secrets(in.target).Delete(t.Context(), theirs.Name, metav1.DeleteOptions{}))
	repo.secret("orders/db", "password="+hidden+"2") // a reason to look again
	r.publish(repo)
	in.becomes("Ready", "True Projected")
	soon(t, "an event tells that it is over", func() bool {
		return slices.Contains(events(in.target, "Resolved"), "Normal Secret db no longer: NotOurs")
	})

	// Many at once: a bounded number is told of, and the status counts them.
	for i := range 200 {
		repo.secret(fmt.Sprintf("orders/big%d", i), "x="+strings.Repeat("x", 1<<20+1))
	}
	r.publish(repo)
	defer func() {
		if t.Failed() {
			t.Logf("%v\n%s", in.repository().Object["status"], r.log.String()[max(0, len(r.log.String())-3000):])
		}
	}()
	soon(t, "all are counted", func() bool { return field(in.repository(), "status", "counts", "problems") == "200" })
	if list, _, _ := unstructured.NestedSlice(in.repository().Object, "status", "problems"); len(list) != 50 {
		t.Errorf("%d problems are listed", len(list))
	}
	time.Sleep(time.Second)
	if n := len(events(in.target, "TooLarge")) + len(events(in.namespace, "TooLarge")); n == 0 || n > 40 {
		t.Errorf("%d events", n)
	}
}

// A value of the annotation that changed has every replica look; the replica that was
// told by a hook tells the others, and does not look twice.
func TestRequestsReachEveryReplica(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	a := in.replica().start()
	soon(t, "a leads", a.leads)
	in.becomes("Ready", "False NotSynced")
	b := in.replica().start()
	soon(t, "b sees a", func() bool { return b.Status().Leader == a.Status().Identity })
	time.Sleep(500 * time.Millisecond) // b's watch
	drain := func() {
		for _, r := range []*replica{a, b} {
			for len(r.looks) > 0 {
				<-r.looks
			}
		}
	}
	drain()
	in.annotate(kubernetes.RequestAnnotation, "now, please")
	soon(t, "both look", func() bool { return len(a.looks) == 1 && len(b.looks) == 1 })
	a.synced(unseal.Sync{})
	soon(t, "the leader says that it was handled", func() bool { return field(in.repository(), "status", "lastHandledReconcileAt") == "now, please" })
	drain()

	before := b.writes.Load()
	for range 200 {
		b.Looked()
		time.Sleep(5 * time.Millisecond)
	}
	soon(t, "the leader looks", func() bool { return len(a.looks) > 0 })
	time.Sleep(1500 * time.Millisecond)
	if n := b.writes.Load() - before; n == 0 || n > 9 {
		t.Errorf("200 hooks became %d writes", n)
	}
	if len(b.looks) > 0 {
		t.Errorf("b looks for its own request")
	}
	drain()
	// What somebody else floods with is bounded too.
	for i := range 40 {
		in.annotate(kubernetes.RequestAnnotation, fmt.Sprint(i))
	}
	time.Sleep(600 * time.Millisecond)
	if n := len(b.looks); n == 0 || n > 20 {
		t.Errorf("40 changes became %d looks", n)
	}
	if a.leads() == b.leads() {
		t.Error("not one of two leads")
	}
}

// A replica that has an older commit than the cluster was written from writes nothing of
// that repository, until it has the newer one or the operator says so.
func TestOlderReplicaWaits(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	repo := newRepo(t, "")
	repo.secret("orders/db", "password=old")
	old := repo.snapshot()
	repo.secret("orders/db", "password=new")
	newer := repo.snapshot()

	a := in.replica().start()
	a.live.Publish(newer)
	password := func() string {
		s, err := cluster.Client.CoreV1().Secrets(in.target).Get(context.Background(), "db", metav1.GetOptions{})
		if err != nil {
			return ""
		}
		return string(s.Data["password"])
	}
	soon(t, "the newer one stands", func() bool { return password() == "new" })
	soon(t, "a tells the commit of the cluster", func() bool { return slices.Contains(slices.Collect(maps.Values(a.Status().Commits)), newer.Commit) })
	a.stop()

	b := in.replica().start()
	b.live.Publish(old)
	soon(t, "b leads", b.leads)
	soon(t, "b waits", func() bool { return b.Status().Waiting != "" })
	if commits := b.Status().Commits; len(commits) != 1 || !slices.Contains(slices.Collect(maps.Values(commits)), newer.Commit) {
		t.Errorf("the cluster is of %v, want %s", commits, newer.Commit)
	}
	message := in.becomes("Ready", "False Waiting")
	if !strings.Contains(message, newer.Commit) || !strings.Contains(message, "sealward agent approve "+old.Commit) {
		t.Error(message)
	}
	soon(t, "b has the remote looked at", func() bool { return len(b.looks) >= 2 })
	if password() != "new" {
		t.Error("an older value came over a newer one")
	}
	if !b.logs("a repository is not projected: this replica has an older commit than the cluster, or one of another history")() {
		t.Error(b.log.String())
	}
	b.live.Publish(newer)
	in.becomes("Ready", "True Projected")
	b.stop()

	// Of another history, say: the operator gives the word, to any replica.
	c, d := in.replica().start(), in.replica()
	c.live.Publish(old)
	soon(t, "c waits", func() bool { return c.Status().Waiting != "" })
	d.start()
	d.live.Publish(old)
	if c.Waits(newer.Commit) || !errors.Is(c.Approve(newer.Commit, false), unseal.ErrNothingWaits) {
		t.Error("something waits at another commit")
	}
	if !c.Waits(old.Commit) {
		t.Error("nothing waits at this one")
	}
	must(t, c.Approve(old.Commit, false))
	soon(t, "the older one stands", func() bool { return password() == "old" })
	if !c.logs("an operator's word stands on the SealedRepository")() {
		t.Error(c.log.String())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.ContainsFunc(c.records, func(r audit.Record) bool { return r.Event == audit.Approve && r.Commit == old.Commit }) {
		t.Errorf("the audit lacks the word: %+v", c.records)
	}
}

// A right ends at its time, also where the replica that leads cannot get at the commit
// that the cluster is of.
func TestOlderReplicaEndsRights(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	repo := newRepo(t, "")
	repo.secret("orders/db", "password=old")
	old := repo.snapshot()
	ends := time.Now().Add(time.Hour).Truncate(time.Second)
	repo.grant("orders", "soon", "allow read-all-secrets to users:id:system:serviceaccount:shop:shop until "+ends.UTC().Format(time.RFC3339))
	repo.grant("orders", "later", "allow read-all-secrets to users:id:system:serviceaccount:shop:other until 2099-01-01T00:00:00Z")
	newer := repo.snapshot()
	bindings := func() (names []string) {
		list, err := cluster.Client.RbacV1().RoleBindings(in.target).List(context.Background(), metav1.ListOptions{LabelSelector: kubernetes.WorkspaceLabel + "=orders"})
		must(t, err)
		for _, b := range list.Items {
			names = append(names, strings.TrimPrefix(b.Name, "sealward:orders:")+" "+b.Annotations[kubernetes.ExpiresAnnotation])
		}
		return names
	}
	later := "later 2099-01-01T00:00:00Z"

	a := in.replica().start()
	a.live.Publish(newer)
	soon(t, "both bindings stand", func() bool {
		return slices.Equal(bindings(), []string{later, "soon " + ends.UTC().Format(time.RFC3339)})
	})
	a.stop()
	b := in.replica().start()
	b.live.Publish(old)
	soon(t, "b waits", func() bool { return b.leads() && b.Status().Waiting != "" })
	if len(bindings()) != 2 {
		t.Errorf("before its time: %v", bindings())
	}
	b.behind.Store(-int64(time.Hour))
	soon(t, "the one is gone", func() bool { return slices.Equal(bindings(), []string{later}) })
	if s, err := cluster.Client.CoreV1().Secrets(in.target).Get(t.Context(), "db", metav1.GetOptions{}); err != nil || string(s.Data["password"]) != "old" {
		t.Errorf("the Secret: %v", err)
	}
}

// Of several repositories each has its own resource; one that waits keeps nobody else,
// and nothing of it is removed.
func TestOneOfSeveralWaits(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	in.names = []string{"platform", "shop"}
	shop, platform := newRepo(t, "shop"), newRepo(t, "platform")
	shop.secret("orders/db", "password=old")
	old := shop.snapshot()
	shop.secret("orders/db", "password=new")
	shop.secret("orders/api", "token=new")
	newer := shop.snapshot()
	platform.secret("billing/x", "x=1")

	a := in.replica().start()
	a.live.Publish(newer)
	a.live.Publish(platform.snapshot())
	soon(t, "both stand", func() bool { return secretsIn(t, in.target) == 2 })
	is := func(name, want string) func() bool {
		return func() bool {
			u, err := in.objects().Get(context.Background(), name, metav1.GetOptions{})
			if err != nil {
				return false
			}
			got, _ := condition(u, "Ready")
			return got == want
		}
	}
	soon(t, "each tells of itself", func() bool { return is("shop", "True Projected")() && is("platform", "True Projected")() })
	a.stop()

	b := in.replica().start()
	b.live.Publish(old)
	b.live.Publish(platform.snapshot())
	soon(t, "one waits, the other goes on", func() bool { return is("shop", "False Waiting")() && is("platform", "True Projected")() })
	if n := secretsIn(t, in.target); n != 2 {
		t.Errorf("%d Secrets of the one that waits are left", n)
	}
	// The annotation on one has that one looked at.
	for len(b.looks) > 0 {
		<-b.looks
	}
	in.kubectl("", "annotate", "srepo", "platform", "-n", in.namespace, kubernetes.RequestAnnotation+"=now")
	soon(t, "the one is looked at", func() bool {
		for len(b.looks) > 0 {
			if <-b.looks == "platform" {
				return true
			}
		}
		return false
	})
}

// Whoever marks nonsense stops projecting, and gets no text of theirs into status or log.
func TestHostileMark(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	in.duration = "30s"
	a := in.replica().start()
	soon(t, "a leads", a.leads)
	a.stop()
	in.kubectl("", "annotate", "lease", "sealward", "-n", in.namespace, kubernetes.MarkPrefix+"sealward=\x1b[31m"+strings.Repeat("evil\n", 1000))
	b := in.replica().start()
	repo := newRepo(t, "")
	repo.secret("orders/db", "password="+hidden)
	b.publish(repo)
	message := in.becomes("Ready", "False Waiting")
	if len(message) > 500 || strings.Contains(b.log.String(), "\x1b") || strings.Contains(message, "\x1b") {
		t.Errorf("%q", message)
	}
}

// The operator's word about held objects, and about what waits in the agents, stands on
// the object for every replica, and is taken down when it is old.
func TestApprovals(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	repo := newRepo(t, "")
	for i := range 6 {
		repo.secret(fmt.Sprintf("orders/s%d", i), "x="+hidden)
	}
	a := in.replica().start()
	a.publish(repo)
	in.becomes("Ready", "True Projected")
	a.stop()

	// A fresh agent that never saw them removed.
	for i := range 5 {
		repo.remove(fmt.Sprintf("orders/s%d", i))
	}
	b := in.replica().start()
	commit := b.publish(repo)
	message := in.becomes("Stalled", "True PruneHeld")
	if !strings.Contains(message, "approve-prune") {
		t.Error(message)
	}
	if field(in.repository(), "status", "counts", "heldPrunes") != "5" || b.Status().Held != 5 {
		t.Errorf("%v", field(in.repository(), "status", "counts"))
	}
	if text := scrape(t, b); !strings.Contains(text, "sealward_cluster_removals_held 5") || !strings.Contains(text, "sealward_cluster_leading 1") || !strings.Contains(text, `sealward_cluster_problems{reason="PruneHeld"} 1`) {
		t.Error(text)
	}
	in.annotate(kubernetes.ApprovePruneAnnotation, commit[:12]) // not whole
	c := in.replica().start()
	soon(t, "another replica knows what waits", func() bool { return c.Waits(commit) })
	if c.Waits(commit[:12]) {
		t.Error("half a commit is taken for one")
	}
	b.mu.Lock()
	b.waits = commit
	b.mu.Unlock()
	time.Sleep(1500 * time.Millisecond)
	if n := secretsIn(t, in.target); n != 6 {
		t.Errorf("%d Secrets are left without the word", n)
	}
	must(t, c.Approve(commit, true)) // also in c's own agent
	soon(t, "they go", func() bool { return secretsIn(t, in.target) == 1 })
	soon(t, "b's agent has the word", func() bool { b.mu.Lock(); defer b.mu.Unlock(); return slices.Contains(b.approved, commit) })
	in.becomes("Ready", "True Projected")

	b.behind.Store(int64(-time.Hour))
	soon(t, "the words are taken down", func() bool {
		u := in.repository()
		return u.GetAnnotations()[kubernetes.ApprovePruneAnnotation] == "" && u.GetAnnotations()[kubernetes.ApproveAnnotation] == ""
	})
}

func secretsIn(t *testing.T, namespace string) int {
	list, err := cluster.Client.CoreV1().Secrets(namespace).List(t.Context(), metav1.ListOptions{})
	must(t, err)
	return len(list.Items)
}

func scrape(t *testing.T, r *replica) string {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	must(t, registry.Register(r))
	families, err := registry.Gather()
	must(t, err)
	var b strings.Builder
	for _, f := range families {
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			name := f.GetName()
			if len(labels) > 0 {
				name += "{" + strings.Join(labels, ",") + "}"
			}
			fmt.Fprintln(&b, name, m.GetGauge().GetValue()+m.GetCounter().GetValue())
		}
	}
	return b.String()
}

// The API server is away when the agent starts, and again later; what was to be done is
// done when it is back.
func TestCutOff(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	r := in.replica()
	r.cut.Store(true)
	r.start()
	repo := newRepo(t, "")
	repo.secret("orders/db", "password="+hidden)
	r.publish(repo)
	soon(t, "that is logged", r.logs("something of the cluster cannot be watched; it is tried again"))
	r.Looked()
	soon(t, "that too", r.logs("the SealedRepository cannot be written; it is tried again"))
	if s := r.Status(); s.Leading || s.Leader != "" || s.Objects[0].Desired != 1 {
		t.Errorf("%+v", s)
	}
	if text := scrape(t, r); !strings.Contains(text, "sealward_cluster_leading 0") || strings.Contains(text, "objects_desired") {
		t.Error(text)
	}
	r.cut.Store(false)
	in.becomes("Ready", "True Projected")
	soon(t, "the watch stands", r.logs("the cluster is watched again"))
	soon(t, "it can be written", r.logs("the SealedRepository can be written again"))
	if n := strings.Count(r.log.String(), "cannot be watched"); n != 1 {
		t.Errorf("%d lines:\n%s", n, r.log.String())
	}
}

// A clock that is wrong is told of once, on the resource, in the status and the metrics.
func TestClockSkew(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	in.duration = "30s"
	r := in.replica()
	r.behind.Store(int64(2 * time.Minute))
	r.start()
	message := in.becomes("ClockSynchronized", "False ClockSkew")
	if !strings.Contains(message, "-2m0s ahead") {
		t.Error(message)
	}
	if s := r.Status().SkewSeconds; s > -118 || s < -122 {
		t.Errorf("%f", s)
	}
	if n := strings.Count(r.log.String(), "this machine's clock and the Kubernetes API server's differ"); n != 1 {
		t.Errorf("%d lines", n)
	}
	// Also of one that does not lead, by an event.
	follower := in.replica()
	follower.behind.Store(int64(-time.Hour))
	follower.start()
	soon(t, "an event tells of a follower's clock", func() bool {
		list, err := cluster.Client.EventsV1().Events(in.namespace).List(t.Context(), metav1.ListOptions{})
		must(t, err)
		return slices.ContainsFunc(list.Items, func(e eventsv1.Event) bool {
			return e.Reason == "ClockSkew" && e.Regarding.Name == "sealward" && strings.Contains(e.Note, follower.Status().Identity+" is 1h0m0s ahead")
		})
	})
	r.behind.Store(int64(3 * time.Second)) // within what is allowed
	in.becomes("ClockSynchronized", "True Synchronized")
	soon(t, "that is logged", r.logs("this machine's clock and the Kubernetes API server's agree again"))
}

// What cannot be recorded does not leave.
func TestNothingLeavesUnrecorded(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	r := in.replica()
	r.refuse = errors.New("the disk is full")
	r.start()
	repo := newRepo(t, "")
	repo.secret("orders/db", "password="+hidden, "user=orders")
	repo.secret("orders/parts/a", "a=1")
	repo.secret("orders/parts/b", "b=2")
	r.publish(repo)
	soon(t, "it was tried", func() bool { r.mu.Lock(); defer r.mu.Unlock(); return len(r.records) > 0 })
	in.becomes("Ready", "False Other")
	if n := secretsIn(t, in.target); n != 0 {
		t.Errorf("%d Secrets stand", n)
	}
	r.mu.Lock()
	r.refuse, r.records = nil, nil
	r.mu.Unlock()
	in.becomes("Ready", "True Projected")
	r.mu.Lock()
	defer r.mu.Unlock()
	slices.SortFunc(r.records, func(a, b audit.Record) int { return strings.Compare(a.Name, b.Name) })
	if len(r.records) != 2 {
		t.Fatalf("%+v", r.records)
	}
	db, parts := r.records[0], r.records[1]
	if db.Event != audit.Project || db.Workspace != "orders" || db.Target != in.target+"/db" || !slices.Equal(db.Keys, []string{"password", "user"}) || db.Path != "workspaces/orders/secrets/db.yaml" || len(db.Blob) != 40 {
		t.Errorf("%+v", db)
	}
	if parts.Path != "workspaces/orders/secrets/parts" || len(parts.Parts) != 2 || parts.Parts["a.yaml"] == "" {
		t.Errorf("%+v", parts)
	}
}

// Instance secrets follow the labels of namespaces. Without the right to see them, those
// that stand are left, and everything else goes on.
func TestInstanceSecretsFollowLabels(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	repo := newRepo(t, "")
	repo.secret("orders/db", "password="+hidden)
	repo.secret("instance/ca", "ca="+hidden)
	in.instance = true
	r := in.replica().start()
	r.publish(repo)
	soon(t, "the workspace's stands", func() bool { return secretsIn(t, in.target) == 1 })
	soon(t, "the want of rights is told", func() bool {
		return slices.ContainsFunc(r.Status().Problems, func(p serve.ClusterProblemJSON) bool {
			return p.Workspace == "instance" && strings.Contains(p.Message, "watch of namespaces") && p.Remedy == kubernetes.Reason(p.Reason).Remedy()
		})
	})
	text, err := os.ReadFile("../../examples/cluster/components/instance-secrets/rbac.yaml")
	must(t, err)
	in.kubectl(strings.NewReplacer("namespace: sealward}", "namespace: "+in.namespace+"}", "sealward-namespaces", in.namespace+"-namespaces").Replace(string(text)), "apply", "-f", "-")
	in.kubectl("", "label", "ns", in.target, kubernetes.InstanceLabelPrefix+"ca=true")
	soon(t, "it comes by the label", func() bool { return secretsIn(t, in.target) == 2 })
	in.kubectl("", "label", "ns", in.target, kubernetes.InstanceLabelPrefix+"ca-")
	soon(t, "it goes with the label", func() bool { return secretsIn(t, in.target) == 1 })
	in.kubectl("", "label", "ns", in.target, kubernetes.InstanceLabelPrefix+"ca=true")
	soon(t, "it comes again", func() bool { return secretsIn(t, in.target) == 2 })
	// The right is taken away, and a fresh agent knows no label: it stays.
	in.kubectl("", "delete", "clusterrolebinding", in.namespace+"-namespaces")
	r.stop()
	again := in.replica().start()
	again.publish(repo)
	soon(t, "the fresh one leads", again.leads)
	soon(t, "it has looked", func() bool { s := again.Status(); return s.Pending == 0 && s.Objects[0].Ready == 1 })
	if secretsIn(t, in.target) != 2 {
		t.Error("what nobody knows anything of was removed")
	}
}

// Settings that lead nowhere, or to the agent's own keys, end the start with words that
// help and hold no credential.
func TestSettingsThatCannotWork(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	garbage := filepath.Join(dir, "garbage")
	must(t, os.WriteFile(garbage, []byte("users: [{user: {token: hunter2-token\n"), 0o600))
	for name, e := range map[string]kubernetes.Endpoint{
		"no kubernetes.kubeconfig": {Kubeconfig: filepath.Join(dir, "none"), Namespace: "x"},
		"is no kubeconfig":         {Kubeconfig: garbage, Namespace: "x"},
		"this is no pod":           {},
	} {
		_, _, err := e.Connect(logged.To(&lockedBuffer{}))
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
		if name != "no kubernetes.kubeconfig" && !strings.Contains(err.Error(), name) {
			t.Errorf("%v does not say %s", err, name)
		}
	}
	if cluster == nil {
		return
	}
	file := kubetest.Kubeconfig(t, cluster.Admin)
	if _, _, err := (kubernetes.Endpoint{Kubeconfig: file}).Connect(logged.To(&lockedBuffer{})); err == nil || !strings.Contains(err.Error(), "kubernetes.namespace is missing") {
		t.Errorf("%v", err)
	}
	if _, _, err := (kubernetes.Endpoint{Kubeconfig: file, Context: "another", Namespace: "x"}).Connect(logged.To(&lockedBuffer{})); err == nil {
		t.Error("a context that is not there is taken")
	}
	s := gitops.Settings{Kubernetes: &gitops.ClusterSettings{Kubeconfig: file, Namespace: "sealward"}}
	s.Kubernetes.Project.Workspaces, s.Kubernetes.Project.Namespaces = []string{"orders"}, map[string]string{"orders": "sealward"}
	s.Kubernetes.Lease.Name, s.Kubernetes.Lease.Duration = "sealward", gitops.Duration(15*time.Second)
	if _, err := kubernetes.ForAgent(&s, "v1", logged.To(&lockedBuffer{}), time.Now); err == nil || !strings.Contains(err.Error(), "where the agent's own keys are") {
		t.Errorf("%v", err)
	}
}

// A part that panics is started again, and its text stays inside.
func TestPanicOfAPart(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	r := in.replica()
	var panicked atomic.Bool
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.Run(ctx, gitops.Host{Live: r.live, Look: func(string) {
			if !panicked.Swap(true) {
				panic("hunter2")
			}
		}, Record: func(context.Context, []audit.Record) error { return nil }, Approve: func(string) error { return unseal.ErrNothingWaits }})
	}()
	defer func() { cancel(); <-done }()
	soon(t, "it is logged", r.logs("a part of the projection panicked; it is started again, please report it"))
	repo := newRepo(t, "")
	repo.secret("orders/db", "password="+hidden)
	r.publish(repo)
	in.becomes("Ready", "True Projected")
	if strings.Contains(r.log.String(), "hunter2") {
		t.Error(r.log.String())
	}
}

// Whatever the API server answers, or has a webhook answer, may repeat a value: none of
// its words get into log, status or metrics.
func TestAnswersAreNotRepeated(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	r := in.replica()
	var hostile atomic.Bool
	hostile.Store(true)
	r.answer = func(req *http.Request) *http.Response {
		if !hostile.Load() {
			return nil
		}
		const body = `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"admission webhook denied the request: hunter2","reason":"hunter2 is the reason","details":{"name":"hunter2","causes":[{"message":"hunter2"}]},"code":403}`
		return &http.Response{StatusCode: 403, Status: "403 hunter2", Request: req, ProtoMajor: 1, Body: io.NopCloser(strings.NewReader(body)),
			Header: http.Header{"Content-Type": {"application/json"}, "Warning": {`299 - "hunter2 is a bad password"`}, "Date": {"hunter2"}}}
	}
	r.start()
	repo := newRepo(t, "")
	repo.secret("orders/db", "password="+hidden)
	r.publish(repo)
	soon(t, "it is met", func() bool { return strings.Contains(r.log.String(), "the API server answered 403 (no reason)") })
	r.Looked()
	soon(t, "everywhere", r.logs("the SealedRepository cannot be written; it is tried again"))
	if text := r.log.String() + fmt.Sprintf("%+v", r.Status()) + scrape(t, r); strings.Contains(text, "hunter2") {
		t.Error(text)
	}
	hostile.Store(false)
	in.becomes("Ready", "True Projected")
}

// What anybody wrote on the object is taken for nothing but what it may mean.
func TestHostileObject(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	r := in.replica().start()
	repo := newRepo(t, "")
	repo.secret("orders/db", "password="+hidden)
	commit := r.publish(repo)
	in.becomes("Ready", "True Projected")
	for len(r.looks) > 0 {
		<-r.looks
	}
	in.annotate(kubernetes.RequestAnnotation, strings.Repeat("x ", 60_000))
	soon(t, "it looks", func() bool { return len(r.looks) == 1 })
	r.synced(unseal.Sync{Head: commit})
	soon(t, "a part is told", func() bool { return len(field(in.repository(), "status", "lastHandledReconcileAt")) == 256 })
	for _, word := range []string{"*", "main", commit[:39], commit + "0", strings.ToUpper("A") + commit[1:]} {
		in.annotate(kubernetes.ApproveAnnotation, word)
		in.annotate(kubernetes.ApprovePruneAnnotation, word)
		if r.Waits(word) {
			t.Errorf("something waits at %q", word)
		}
	}
	time.Sleep(1500 * time.Millisecond)
	if strings.Contains(r.log.String(), "an operator's word") {
		t.Errorf("a word that names no commit is taken:\n%s", r.log.String())
	}
	// A status that lies is put right, and conditions of others are taken out.
	status, err := in.objects().Get(t.Context(), "sealward", metav1.GetOptions{})
	must(t, err)
	status.Object["status"] = map[string]any{"observedCommit": "lie", "failing": int64(7), "counts": map[string]any{}, "conditions": []any{
		map[string]any{"type": "Ready", "status": "False", "reason": "Lie", "message": "lie", "lastTransitionTime": "2020-01-01T00:00:00Z"},
		map[string]any{"type": "Foreign", "status": "True", "reason": "Lie", "message": "lie", "lastTransitionTime": "2020-01-01T00:00:00Z"}}}
	_, err = in.objects().UpdateStatus(t.Context(), status, metav1.UpdateOptions{})
	must(t, err)
	in.becomes("Ready", "True Projected")
	soon(t, "nothing of it is left", func() bool {
		return !strings.Contains(strings.ToLower(fmt.Sprint(in.repository().Object["status"])), "lie")
	})
}

// Warnings of the API server that may be a webhook's are told without their text.
func TestWarnings(t *testing.T) {
	t.Parallel()
	c := kubetest.Need(t, cluster)
	var log lockedBuffer
	cfg, _, err := kubernetes.Endpoint{Kubeconfig: kubetest.Kubeconfig(t, c.Admin), Namespace: "x", Version: "v9"}.Connect(logged.To(&log))
	must(t, err)
	for range 3 {
		cfg.WarningHandler.HandleWarningHeader(299, "-", "your password hunter2 is too short")
		cfg.WarningHandler.HandleWarningHeader(299, "-", "batch/v1beta1 CronJob is deprecated in v1.21+, unavailable in v1.25+; use hunter2")
	}
	if text := log.String(); strings.Contains(text, "hunter2") || strings.Count(text, "the Kubernetes API server warns") != 2 || !strings.Contains(text, "batch/v1beta1 CronJob is deprecated in v1.21+") {
		t.Error(text)
	}
	if cfg.UserAgent != "sealward/v9" || cfg.QPS != -1 {
		t.Errorf("%s %f", cfg.UserAgent, cfg.QPS)
	}
}

// The definition is a structural schema that refuses what is too long, and a status that
// nobody but the agent may write does not come in by the front door.
func TestDefinition(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	apply := func(spec map[string]any) error {
		_, err := in.objects().Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{"apiVersion": "sealward.dev/v1alpha1", "kind": "SealedRepository",
			"metadata": map[string]any{"generateName": "x-"}, "spec": spec}}, metav1.CreateOptions{FieldValidation: "Strict"})
		return err
	}
	must(t, apply(map[string]any{"url": "https://x", "branch": "main", "path": "."}))
	for name, spec := range map[string]map[string]any{
		"a field that is none": {"url": "https://x", "branch": "main", "path": ".", "token": "x"},
		"no branch":            {"url": "https://x", "path": "."},
		"a long url":           {"url": strings.Repeat("x", 3000), "branch": "main", "path": "."},
	} {
		if err := apply(spec); !apierrors.IsInvalid(err) && !apierrors.IsBadRequest(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if out := in.kubectl("", "explain", "sealedrepository.status.failingManifests"); !strings.Contains(out, "None holds a") {
		t.Error(out)
	}
}
