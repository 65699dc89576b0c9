package kubernetes_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	client "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/sealward/sealward/plugins/kubernetes"
	"github.com/sealward/sealward/plugins/kubernetes/kubetest"
	"github.com/sealward/sealward/seal/manifest"
)

const agentNamespace = "sealward-system"

// projector is an engine under test, which talks to the API server as a service
// account that may do what the documentation gives it, and nothing more.
type projector struct {
	*kubernetes.Engine
	t  *testing.T
	c  *kubetest.Cluster
	ns string
	// account is the namespace of the engine's service account.
	account string
	client  client.Interface
	calls   *calls
	log     *lockedBuffer
	cancel  context.CancelFunc
	done    chan struct{}
}

type option func(*kubernetes.EngineConfig)

// newProjector starts an engine, with rights in one new namespace. It stops with the test.
func newProjector(t *testing.T, opts ...option) *projector {
	t.Helper()
	c := kubetest.Need(t, cluster)
	return newProjectorIn(t, c.Namespace(t, "orders"), opts...)
}

func newProjectorIn(t *testing.T, ns string, opts ...option) *projector {
	t.Helper()
	p := stoppedProjector(t, ns, opts...)
	p.start()
	return p
}

func stoppedProjector(t *testing.T, ns string, opts ...option) *projector {
	t.Helper()
	c := kubetest.Need(t, cluster)
	p := &projector{t: t, c: c, ns: ns, calls: &calls{}, log: &lockedBuffer{}}
	p.account = c.Namespace(t, "agent")
	allow(t, ns, p.account)
	cfg := c.As(t, p.account, "sealward")
	cfg.Wrap(p.calls.wrap)
	var err error
	if p.client, err = client.NewForConfig(cfg); err != nil {
		t.Fatal(err)
	}
	config := kubernetes.EngineConfig{
		Client: p.client, Agent: agentNamespace, Guard: kubernetes.PruneGuard{Percent: 25, Count: 20},
		Log: newLog(p.log),
	}
	for _, o := range opts {
		o(&config)
	}
	p.Engine = kubernetes.NewEngine(config)
	return p
}

func (p *projector) start() {
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel, p.done = cancel, make(chan struct{})
	go func() {
		defer close(p.done)
		p.Run(ctx)
	}()
	p.t.Cleanup(p.stop)
}

func (p *projector) stop() {
	p.cancel()
	<-p.done
}

// agentRules is what the agent's Role in a namespace allows.
var agentRules = []rbacv1.PolicyRule{
	{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get", "list", "watch", "create", "patch", "delete"}},
	{APIGroups: []string{rbacv1.GroupName}, Resources: []string{"roles", "rolebindings"}, Verbs: []string{"get", "list", "watch", "create", "patch", "delete"}},
}

// allow gives the service account sealward of a namespace its rights in ns.
func allow(t testing.TB, ns, account string) {
	t.Helper()
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "agent-" + account}, Rules: agentRules}
	binding := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "agent-" + account}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "agent-" + account},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: account, Name: "sealward"}}}
	if _, err := cluster.Client.RbacV1().Roles(ns).Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := cluster.Client.RbacV1().RoleBindings(ns).Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// refuses waits until RBAC refuses the engine a verb on Roles, but not to delete them:
// it takes a moment to see that a Role has changed.
func (p *projector) refuses(verb string) {
	p.t.Helper()
	may := func(verb string) bool {
		return allowed(p.t, "system:serviceaccount:"+p.account+":sealward", authorizationv1.ResourceAttributes{Namespace: p.ns, Verb: verb, Group: rbacv1.GroupName, Resource: "roles"})
	}
	until(p.t, "RBAC refuses to "+verb+" roles", func() bool { return may("delete") && !may(verb) })
}

// allowed asks the API server.
func allowed(t testing.TB, user string, what authorizationv1.ResourceAttributes) bool {
	t.Helper()
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: user, ResourceAttributes: &what}}
	review, err := cluster.Client.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), review, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return review.Status.Allowed
}

// clientOf talks as a service account.
func clientOf(t testing.TB, ns, name string) client.Interface {
	t.Helper()
	i, err := client.NewForConfig(cluster.As(t, ns, name))
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// meta is what a planner puts on an object.
func meta(ns, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: ns, Name: name,
		Labels: map[string]string{kubernetes.ManagedBy: kubernetes.FieldManager, kubernetes.AgentLabel: agentNamespace,
			kubernetes.RepositoryLabel: "main", kubernetes.WorkspaceLabel: "orders", kubernetes.SecretLabel: name},
		Annotations: map[string]string{kubernetes.CommitAnnotation: "c0ffee", kubernetes.PathAnnotation: "workspaces/orders/secrets/" + name + ".yaml"}}
}

func origin(name string) kubernetes.Origin {
	ws, _ := manifest.ParseWorkspace("orders")
	n, _ := manifest.ParseName(name)
	return kubernetes.Origin{Repository: "main", Workspace: ws, Secret: n}
}

// secret is a planned Secret; data are keys and values.
func secret(ns, name string, data ...string) *kubernetes.Object {
	s := &corev1.Secret{ObjectMeta: meta(ns, name), Type: corev1.SecretTypeOpaque, Data: map[string][]byte{}}
	for i := 0; i < len(data); i += 2 {
		s.Data[data[i]] = []byte(data[i+1])
	}
	return &kubernetes.Object{Key: kubernetes.Key{Kind: kubernetes.KindSecret, Namespace: ns, Name: name}, Origin: origin(name), Secret: s}
}

// role is a planned Role that lets its holders get some Secrets.
func role(ns, name string, secrets ...string) *kubernetes.Object {
	r := &rbacv1.Role{ObjectMeta: meta(ns, name), Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get"}, ResourceNames: secrets}}}
	return &kubernetes.Object{Key: kubernetes.Key{Kind: kubernetes.KindRole, Namespace: ns, Name: name}, Origin: kubernetes.Origin{Repository: "main", Grant: "workspaces/orders/grants/" + name + ".yaml"}, Role: r}
}

// binding gives a Role to service accounts of its namespace.
func binding(ns, name, role string, accounts ...string) *kubernetes.Object {
	b := &rbacv1.RoleBinding{ObjectMeta: meta(ns, name), RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role}}
	for _, a := range accounts {
		b.Subjects = append(b.Subjects, rbacv1.Subject{Kind: "ServiceAccount", Namespace: ns, Name: a})
	}
	return &kubernetes.Object{Key: kubernetes.Key{Kind: kubernetes.KindRoleBinding, Namespace: ns, Name: name}, Origin: kubernetes.Origin{Repository: "main", Grant: "workspaces/orders/grants/" + name + ".yaml"}, Binding: b}
}

// plan of repository main at a commit, in the namespaces of its objects and in ns.
func plan(ns string, objects ...*kubernetes.Object) *kubernetes.Plan {
	p := &kubernetes.Plan{Objects: map[kubernetes.Key]*kubernetes.Object{}, Repositories: map[string]bool{"main": true}, Commits: map[string]string{"main": "c0ffee"}}
	namespaces := map[string]bool{ns: true}
	for _, o := range objects {
		p.Objects[o.Key] = o
		namespaces[o.Key.Namespace] = true
	}
	p.Namespaces = slices.Sorted(maps.Keys(namespaces))
	return p
}

// until polls, for at most a minute.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("this did not come: %s", what)
		}
	}
}

// stands waits until everything stands as planned.
func (p *projector) stands(objects int) {
	p.t.Helper()
	ok := func() bool {
		r := p.Report()
		n := 0
		for _, k := range r.Ready {
			n += k
		}
		return n == objects && r.Pending == 0 && len(r.Problems) == 0
	}
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			p.t.Fatalf("the cluster does not come to stand as planned: %+v\n%s", p.Report(), p.log)
		}
	}
}

// problem waits for a problem of a reason.
func (p *projector) problem(reason kubernetes.Reason) kubernetes.Problem {
	p.t.Helper()
	var found kubernetes.Problem
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		for _, problem := range p.Report().Problems {
			if problem.Reason == reason {
				found = problem
			}
		}
		if found.Reason != "" {
			return found
		}
		if time.Now().After(end) {
			p.t.Fatalf("no problem %s: %+v\n%s", reason, p.Report(), p.log)
		}
	}
}

// get is the admin's view of a Secret; nil where there is none.
func get(t testing.TB, ns, name string) *corev1.Secret {
	t.Helper()
	s, err := cluster.Client.CoreV1().Secrets(ns).Get(t.Context(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// hides fails where a value appears in what people see of the engine.
func (p *projector) hides(values ...string) {
	p.t.Helper()
	seen := fmt.Sprintf("%+v %s", p.Report(), p.log)
	for _, v := range values {
		for _, form := range []string{v, base64.StdEncoding.EncodeToString([]byte(v))} {
			if strings.Contains(seen, form) {
				p.t.Errorf("the value %q appears as %q in:\n%s", v, form, seen)
			}
		}
	}
}

// calls records what goes to the API server.
type calls struct {
	mu    sync.Mutex
	lines []string
	// before is asked first; an error, or a response of instead, is the answer.
	before  func(*http.Request) error
	instead func(*http.Request) *http.Response
	watches []io.Closer
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (c *calls) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		c.mu.Lock()
		c.lines = append(c.lines, r.Method+" "+r.URL.RequestURI())
		before, instead := c.before, c.instead
		c.mu.Unlock()
		if before != nil {
			if err := before(r); err != nil {
				return nil, err
			}
		}
		if instead != nil {
			if response := instead(r); response != nil {
				return response, nil
			}
		}
		watch := r.URL.Query().Get("watch") != ""
		response, err := next.RoundTrip(r)
		if watch && err == nil {
			c.mu.Lock()
			c.watches = append(c.watches, response.Body)
			c.mu.Unlock()
		}
		return response, err
	})
}

func (c *calls) answer(f func(*http.Request) *http.Response) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.instead = f
}

// breakWatches cuts every watch that stands.
func (c *calls) breakWatches() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range c.watches {
		w.Close()
	}
	c.watches = nil
}

func newLog(b *lockedBuffer) *slog.Logger { return logged.To(b) }

func (c *calls) intercept(f func(*http.Request) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.before = f
}

// take gives the calls since the last take.
func (c *calls) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	lines := c.lines
	c.lines = nil
	return lines
}

// lockedBuffer is a log that can be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestAPlanComesToStand(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	changed := p.Changed()
	p.Apply(plan(p.ns, secret(p.ns, "orders-db", "password", "correct horse"), role(p.ns, "readers", "orders-db"), binding(p.ns, "readers", "readers", "shop")))
	p.stands(3)
	s := get(t, p.ns, "orders-db")
	if string(s.Data["password"]) != "correct horse" || s.Labels[kubernetes.AgentLabel] != agentNamespace || s.Annotations[kubernetes.CommitAnnotation] != "c0ffee" {
		t.Errorf("the Secret is %v %v", s.Labels, s.Annotations)
	}
	select {
	case <-changed:
	default:
		t.Error("nobody was told that the report changed")
	}
	r := p.Report()
	r.Ready[kubernetes.KindSecret], r.Commits["main"] = 7, "another"
	if again := p.Report(); again.Ready[kubernetes.KindSecret] != 1 || again.Commits["main"] != "c0ffee" || again.ReadyOf["main"] != 1 || again.Synced.IsZero() {
		t.Errorf("the report is %+v", again)
	}
	p.hides("correct horse")
	if log := p.log.String(); !strings.Contains(log, "the cluster stands as planned") {
		t.Errorf("the log is\n%s", log)
	}
}

func tlsOf(cfg *rest.Config) (*tls.Config, error) { return rest.TLSConfigFor(cfg) }
