package kubernetes_test

import (
	"slices"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sealward/sealward/plugins/kubernetes"
	"github.com/sealward/sealward/plugins/kubernetes/kubetest"
	"github.com/sealward/sealward/seal/manifest"
)

// named are the Secrets that a Role lets its holders get; nil where it does not stand.
func named(t *testing.T, ns, role string) []string {
	t.Helper()
	r, err := cluster.Client.RbacV1().Roles(ns).Get(t.Context(), role, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Rules) != 1 || len(r.Rules[0].ResourceNames) == 0 {
		t.Fatalf("the Role allows %+v", r.Rules)
	}
	return r.Rules[0].ResourceNames
}

// mayGet asks the API server whether a service account may get a Secret.
func mayGet(t *testing.T, ns, account, secret string) bool {
	t.Helper()
	return allowed(t, "system:serviceaccount:"+ns+":"+account, authorizationv1.ResourceAttributes{Namespace: ns, Verb: "get", Resource: "secrets", Name: secret})
}

// Who may write a secret and a grant could name somebody else's Secret by it. That
// Secret is left alone, and so it must be by the Role.
func TestRoleNamesNoForeignSecret(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	foreign(t, p.ns, "theirs", nil)
	objects := []*kubernetes.Object{
		secret(p.ns, "db", "password", "x"), secret(p.ns, "theirs", "password", "x"),
		role(p.ns, "readers", "db", "theirs"), binding(p.ns, "readers", "readers", "api"),
		role(p.ns, "thieves", "theirs"), binding(p.ns, "thieves", "thieves", "eve"),
	}
	p.Apply(plan(p.ns, objects...))
	p.problem(kubernetes.NotOurs)
	until(t, "the Role names what is ours", func() bool { return slices.Equal(named(t, p.ns, "readers"), []string{"db"}) })
	until(t, "its binding stands", func() bool { return p.Report().Ready[kubernetes.KindRoleBinding] == 1 })
	until(t, "RBAC has seen it", func() bool { return mayGet(t, p.ns, "api", "db") })
	if mayGet(t, p.ns, "api", "theirs") || mayGet(t, p.ns, "eve", "theirs") || named(t, p.ns, "thieves") != nil {
		t.Error("a Role names a foreign Secret")
	}
	// Handed over, it is ours to give.
	patch(t, p.ns, "theirs", `{"metadata":{"annotations":{"`+kubernetes.AdoptAnnotation+`":"true"}}}`)
	p.Apply(plan(p.ns, objects...))
	p.stands(6)
	if got := named(t, p.ns, "readers"); !slices.Equal(got, []string{"db", "theirs"}) {
		t.Errorf("the Role names %v", got)
	}
	until(t, "RBAC has seen that too", func() bool { return mayGet(t, p.ns, "eve", "theirs") })
}

// A Secret that is somebody else's from now on is nobody's to give.
func TestRoleIsNarrowedWhenANameIsTaken(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	pl := plan(p.ns, secret(p.ns, "db", "password", "x"), secret(p.ns, "web", "password", "x"), role(p.ns, "readers", "db", "web"), binding(p.ns, "readers", "readers", "api"))
	p.Apply(pl)
	p.stands(4)
	// The labels say whose it is: without them it is not ours any more.
	patch(t, p.ns, "db", `{"metadata":{"labels":{"`+kubernetes.ManagedBy+`":"somebody"}}}`)
	until(t, "the Role is narrowed", func() bool { return slices.Equal(named(t, p.ns, "readers"), []string{"web"}) })
	p.problem(kubernetes.NotOurs)
}

// While Secrets come one by one, a Role is not written for each.
func TestRoleWaitsForItsSecrets(t *testing.T) {
	t.Parallel()
	p := stoppedProjector(t, kubetest.Need(t, cluster).Namespace(t, "orders"))
	objects := []*kubernetes.Object{role(p.ns, "readers", "s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9")}
	for _, name := range objects[0].Role.Rules[0].ResourceNames {
		objects = append(objects, secret(p.ns, name, "password", "x"))
	}
	p.Apply(plan(p.ns, objects...))
	p.start()
	p.stands(11)
	writes := 0
	for _, call := range p.calls.take() {
		if !strings.HasPrefix(call, "GET ") && strings.Contains(call, "/roles") {
			writes++
		}
	}
	if writes > 3 {
		t.Errorf("the Role was written %d times", writes)
	}
	if got := named(t, p.ns, "readers"); len(got) != 10 {
		t.Errorf("the Role names %v", got)
	}
	// One that goes leaves the Role before it goes itself.
	p.Apply(plan(p.ns, append([]*kubernetes.Object{role(p.ns, "readers", "s1")}, objects[2])...))
	p.stands(2)
	if got := named(t, p.ns, "readers"); !slices.Equal(got, []string{"s1"}) {
		t.Errorf("the Role names %v", got)
	}
}

// A Secret of a workspace that is kept as it is does not become another workspace's.
func TestKeptWorkspaceIsNotOverwritten(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	p.Apply(plan(p.ns, secret(p.ns, "db", "password", "correct horse")))
	p.stands(1)
	before := get(t, p.ns, "db")
	other := secret(p.ns, "db", "password", "mine now")
	payments, err := manifest.ParseWorkspace("payments")
	if err != nil {
		t.Fatal(err)
	}
	other.Origin.Workspace, other.Secret.Labels[kubernetes.WorkspaceLabel] = payments, "payments"
	pl := plan(p.ns, other, role(p.ns, "readers", "db"))
	pl.KeepWorkspaces = workspaces("orders")
	p.Apply(pl)
	if problem := p.problem(kubernetes.Collision); problem.Key.Name != "db" {
		t.Errorf("%+v", problem)
	}
	if s := get(t, p.ns, "db"); s.ResourceVersion != before.ResourceVersion || named(t, p.ns, "readers") != nil {
		t.Errorf("%s", values(s))
	}
	pl = plan(p.ns, other, role(p.ns, "readers", "db"))
	p.Apply(pl)
	p.stands(2)
	if s := get(t, p.ns, "db"); values(s) != "password=mine now" {
		t.Errorf("%s", values(s))
	}
}
