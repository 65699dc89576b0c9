package kubernetes_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sealward/sealward/plugins/kubernetes"
	"github.com/sealward/sealward/plugins/kubernetes/kubetest"
	"github.com/sealward/sealward/seal/manifest"
)

// secrets are n planned Secrets.
func secrets(ns string, n int) []*kubernetes.Object {
	var all []*kubernetes.Object
	for i := range n {
		all = append(all, secret(ns, fmt.Sprintf("s-%02d", i), "password", fmt.Sprint("correct horse ", i)))
	}
	return all
}

// left counts Secrets with sealward's label.
func left(t testing.TB, ns string) int {
	t.Helper()
	l, err := cluster.Client.CoreV1().Secrets(ns).List(t.Context(), metav1.ListOptions{LabelSelector: kubernetes.ManagedBy})
	if err != nil {
		t.Fatal(err)
	}
	return len(l.Items)
}

// What a plan of this process had goes at once, however much it is: the commit that
// removed it passed the removal guard already.
func TestSeenIsPrunedAtOnce(t *testing.T) {
	t.Parallel()
	p := newProjector(t, func(c *kubernetes.EngineConfig) { c.Guard = kubernetes.PruneGuard{} })
	p.Apply(plan(p.ns, secrets(p.ns, 30)...))
	p.stands(30)
	p.Apply(plan(p.ns))
	until(t, "all go", func() bool { return left(t, p.ns) == 0 })
	p.stands(0)
}

// A plan that came while another one led counts as well, applied or only known.
func TestFollowersPlansAreSeen(t *testing.T) {
	t.Parallel()
	for name, note := range map[string]func(*projector, *kubernetes.Plan){
		"applied": func(p *projector, pl *kubernetes.Plan) { p.Apply(pl) },
		"known":   func(p *projector, pl *kubernetes.Plan) { p.Know(pl) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProjector(t, func(c *kubernetes.EngineConfig) { c.Guard = kubernetes.PruneGuard{} })
			p.Apply(plan(p.ns, secrets(p.ns, 10)...))
			p.stands(10)
			follower := stoppedProjector(t, p.ns, func(c *kubernetes.EngineConfig) { c.Guard = kubernetes.PruneGuard{} })
			note(follower, plan(p.ns, secrets(p.ns, 10)...))
			p.stop()
			follower.Apply(plan(p.ns))
			follower.start()
			until(t, "all go", func() bool { return left(t, p.ns) == 0 })
		})
	}
}

// After a restart nobody saw the commit that removed what stands: many removals wait.
// Permissions do not.
func TestPruneIsHeld(t *testing.T) {
	t.Parallel()
	var approved sync.Map
	p := newProjector(t, func(c *kubernetes.EngineConfig) {
		c.Guard = kubernetes.PruneGuard{Percent: 25, Count: 5}
		c.Approved = func(repository, commit string) bool { _, ok := approved.Load(repository + " " + commit); return ok }
	})
	all := secrets(p.ns, 20)
	p.Apply(plan(p.ns, append(slices.Clone(all), role(p.ns, "readers", "s-00"), binding(p.ns, "readers", "readers", "shop"))...))
	p.stands(22)
	p.stop()

	q := newProjectorIn(t, p.ns, func(c *kubernetes.EngineConfig) {
		c.Guard = kubernetes.PruneGuard{Percent: 25, Count: 5}
		c.Approved = func(repository, commit string) bool { _, ok := approved.Load(repository + " " + commit); return ok }
	})
	q.Apply(plan(p.ns, all[:8]...))
	problem := q.problem(kubernetes.PruneHeld)
	if problem.Origin.Repository != "main" || !strings.Contains(problem.Message, "12 of 20") || !strings.Contains(problem.Message, "c0ffee") || !strings.Contains(problem.Reason.Remedy(), "approve") {
		t.Errorf("the problem is %+v", problem)
	}
	until(t, "the permissions go", func() bool {
		_, err := cluster.Client.RbacV1().RoleBindings(p.ns).Get(t.Context(), "readers", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	if r := q.Report(); r.Held["main"] != 12 || r.Ready[kubernetes.KindSecret] != 8 || left(t, p.ns) != 20 {
		t.Errorf("%d Secrets are left, and the report is %+v", left(t, p.ns), r)
	}
	// The plan has some of them again: those are as planned, and few enough are left.
	q.Apply(plan(p.ns, all[:14]...))
	until(t, "the last six are held", func() bool { return q.Report().Held["main"] == 6 && q.Report().Ready[kubernetes.KindSecret] == 14 })
	approved.Store("main another", true)
	approved.Store("other c0ffee", true)
	q.Apply(plan(p.ns, all[:14]...))
	if left(t, p.ns) != 20 {
		t.Error("an approval of something else had Secrets deleted")
	}
	approved.Store("main c0ffee", true)
	until(t, "the last six go", func() bool { return left(t, p.ns) == 14 })
	q.stands(14)
	until(t, "nothing is held", func() bool { return q.Report().Held["main"] == 0 })
	q.hides("correct horse")
}

// With 100 percent nothing is held.
func TestGuardThatHoldsNothing(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	p.Apply(plan(p.ns, secrets(p.ns, 30)...))
	p.stands(30)
	p.stop()
	q := newProjectorIn(t, p.ns, func(c *kubernetes.EngineConfig) { c.Guard = kubernetes.PruneGuard{Percent: 100} })
	q.Apply(plan(p.ns))
	until(t, "all go", func() bool { return left(t, p.ns) == 0 })
}

// When few enough are left that would go, they go.
func TestHeldBecomesFew(t *testing.T) {
	t.Parallel()
	guard := func(c *kubernetes.EngineConfig) { c.Guard = kubernetes.PruneGuard{Percent: 25, Count: 5} }
	p := newProjector(t, guard)
	all := secrets(p.ns, 20)
	p.Apply(plan(p.ns, all...))
	p.stands(20)
	p.stop()
	q := newProjectorIn(t, p.ns, guard)
	q.Apply(plan(p.ns, all[:8]...))
	q.problem(kubernetes.PruneHeld)
	q.Apply(plan(p.ns, all[:16]...))
	until(t, "the last four go", func() bool { return left(t, p.ns) == 16 })
	q.stands(16)
}

// What the guard lets through one namespace at a time counts together: an API server
// that comes back bit by bit opens no way around it.
func TestPruneBitByBit(t *testing.T) {
	t.Parallel()
	c := kubetest.Need(t, cluster)
	guard := func(c *kubernetes.EngineConfig) { c.Guard = kubernetes.PruneGuard{Percent: 25, Count: 5} }
	p := newProjector(t, guard)
	namespaces := []string{p.ns}
	for range 4 {
		namespaces = append(namespaces, c.Namespace(t, "bits"))
	}
	admin := func(cfg *kubernetes.EngineConfig) { guard(cfg); cfg.Client = cluster.Client }
	all := newProjectorIn(t, c.Namespace(t, "bits"), admin)
	var objects []*kubernetes.Object
	for _, ns := range namespaces {
		objects = append(objects, secrets(ns, 4)...)
	}
	all.Apply(plan(p.ns, objects...))
	all.stands(20)
	all.stop()

	q := stoppedProjector(t, p.ns, guard) // it may look into the first namespace alone
	q.start()
	empty := plan(p.ns)
	empty.Namespaces = namespaces
	q.Apply(empty)
	until(t, "the first namespace is pruned", func() bool { return left(t, p.ns) == 0 })
	for _, ns := range namespaces[1:] {
		allow(t, ns, q.account)
	}
	q.problem(kubernetes.PruneHeld)
	n := 0
	for _, ns := range namespaces {
		n += left(t, ns)
	}
	if n < 14 {
		t.Errorf("only %d of 20 Secrets are left", n)
	}
}

// What is of a repository without a snapshot stays, and so does what the plan keeps.
func TestWhatIsNotKnownStays(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	other := secret(p.ns, "other", "password", "x")
	other.Origin.Repository, other.Secret.Labels[kubernetes.RepositoryLabel] = "other", "other"
	public := secret(p.ns, "public", "password", "x")
	public.Secret.Labels[kubernetes.WorkspaceLabel] = "public"
	full := plan(p.ns, secret(p.ns, "a", "password", "x"), secret(p.ns, "b", "password", "x"), public, other, role(p.ns, "readers", "a"))
	full.Repositories["other"] = true
	p.Apply(full)
	p.stands(5)

	next := plan(p.ns)
	next.Keep = map[kubernetes.Key]bool{{Kind: kubernetes.KindSecret, Namespace: p.ns, Name: "a"}: true}
	next.KeepWorkspaces = map[manifest.Workspace]bool{manifest.Public(): true}
	p.Apply(next)
	until(t, "b and the Role go", func() bool { return get(t, p.ns, "b") == nil && len(p.Report().Problems) == 0 })
	p.stands(0)
	if left(t, p.ns) != 3 {
		t.Errorf("%d Secrets are left, want a, public and other", left(t, p.ns))
	}
	// What is kept is not repaired, and not made.
	patch(t, p.ns, "a", `{"data":{"password":"b3RoZXI="}}`)
	if err := cluster.Client.CoreV1().Secrets(p.ns).Delete(t.Context(), "public", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	p.Apply(plan(p.ns, secret(p.ns, "c", "password", "x")))
	until(t, "a goes when nothing keeps it", func() bool { return get(t, p.ns, "a") == nil })
	p.stands(1)
	if get(t, p.ns, "other") == nil || get(t, p.ns, "public") != nil {
		t.Error("what is of another repository went, or what was kept was made")
	}
	// A namespace that is no target any more is not looked at.
	gone := plan(p.c.Namespace(t, "elsewhere"))
	p.Apply(gone)
	until(t, "the other namespace is watched", func() bool { return len(p.Report().Problems) > 0 })
	if get(t, p.ns, "c") == nil {
		t.Error("a Secret went with its namespace's leaving the plan")
	}
}

// Without a plan nothing is known, so that nothing goes.
func TestNoPlanNoPrune(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	p.Apply(plan(p.ns, secret(p.ns, "db", "password", "x")))
	p.stands(1)
	p.stop()
	q := newProjectorIn(t, p.ns)
	nothing := plan(p.ns)
	nothing.Repositories = nil
	q.Apply(nothing)
	q.stands(0)
	if get(t, p.ns, "db") == nil {
		t.Error("the Secret went")
	}
}

// Whoever is not surely the leader writes nothing, and goes on when it is.
func TestMayWrite(t *testing.T) {
	t.Parallel()
	var leads atomic.Bool
	p := newProjector(t, func(c *kubernetes.EngineConfig) {
		c.MayWrite = func() error {
			if leads.Load() {
				return nil
			}
			return context.Canceled
		}
	})
	p.Apply(plan(p.ns, secrets(p.ns, 5)...))
	until(t, "a write is tried", func() bool { r := p.Report(); return r.Pending == 0 && r.Desired[kubernetes.KindSecret] == 5 })
	if r := p.Report(); len(r.Problems) > 0 || left(t, p.ns) > 0 {
		t.Errorf("without the Lease: %d Secrets, %+v", left(t, p.ns), r)
	}
	leads.Store(true)
	p.stands(5)
	leads.Store(false)
	p.calls.take()
	p.Apply(plan(p.ns))
	patch(t, p.ns, "s-00", `{"data":{"password":"b3RoZXI="}}`)
	until(t, "nothing is planned", func() bool { return p.Report().Desired[kubernetes.KindSecret] == 0 })
	for _, call := range p.calls.take() {
		if !strings.HasPrefix(call, "GET ") {
			t.Errorf("without the Lease: %s", call)
		}
	}
	leads.Store(true)
	until(t, "all go", func() bool { return left(t, p.ns) == 0 })
}

// A leader that was paused in the middle of a create lost its Lease meanwhile. Its
// create comes late, and makes again what was removed: the new leader sees and prunes it.
func TestStaleCreate(t *testing.T) {
	t.Parallel()
	var lost atomic.Bool
	old := newProjector(t, func(c *kubernetes.EngineConfig) {
		c.MayWrite = func() error {
			if lost.Load() {
				return context.Canceled
			}
			return nil
		}
	})
	paused, resume := make(chan struct{}), make(chan struct{})
	old.calls.intercept(func(r *http.Request) error {
		if r.Method == http.MethodPost {
			close(paused)
			<-resume
		}
		return nil
	})
	old.Apply(plan(old.ns, secret(old.ns, "db", "password", "correct horse")))
	<-paused
	lost.Store(true)
	fresh := newProjectorIn(t, old.ns)
	fresh.Apply(plan(old.ns, secret(old.ns, "web", "password", "x")))
	fresh.stands(1)
	close(resume)
	until(t, "the new one deletes it", func() bool {
		return slices.ContainsFunc(fresh.calls.take(), func(call string) bool { return strings.HasPrefix(call, "DELETE") })
	})
	until(t, "it is gone", func() bool { return get(t, old.ns, "db") == nil })
	fresh.stands(1)
}

// When Run has returned no write is under way and none comes, whatever is asked for.
func TestNoWriteAfterRun(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	p.Apply(plan(p.ns, secrets(p.ns, 200)...))
	until(t, "some stand", func() bool { return p.Report().Ready[kubernetes.KindSecret] > 10 })
	p.stop()
	p.calls.take()
	p.Apply(plan(p.ns, secrets(p.ns, 300)...))
	p.Apply(plan(p.ns))
	if r := p.Report(); r.Desired[kubernetes.KindSecret] != 0 || len(r.Problems) != 0 {
		t.Errorf("the report is %+v", r)
	}
	for _, call := range p.calls.take() {
		if !strings.HasPrefix(call, "GET ") {
			t.Errorf("after Run: %s", call)
		}
	}
	p.Apply(plan(p.ns, secrets(p.ns, 250)...))
	p.start()
	p.stands(250)
}

// A right goes before any number of Secrets that go, as well.
func TestRevocationsGoBeforeRemovals(t *testing.T) {
	t.Parallel()
	p := newProjector(t, func(c *kubernetes.EngineConfig) { c.Workers = 2 })
	all := append(secrets(p.ns, 200), role(p.ns, "readers", "s-00"), binding(p.ns, "readers", "readers", "shop"))
	p.Apply(plan(p.ns, all...))
	p.stands(202)
	p.calls.take()
	var deleted, before atomic.Int32
	p.calls.intercept(func(r *http.Request) error {
		switch {
		case r.Method == http.MethodDelete && strings.Contains(r.URL.Path, "/rolebindings/"):
			before.Store(deleted.Load() + 1)
		case r.Method == http.MethodDelete && strings.Contains(r.URL.Path, "/secrets/"):
			deleted.Add(1)
		}
		return nil
	})
	p.Apply(plan(p.ns))
	until(t, "all go", func() bool { return left(t, p.ns) == 0 })
	if n := before.Load(); n == 0 || n > 20 {
		t.Errorf("the right went after %d Secrets", n-1)
	}
}

// An immutable Secret that was superseded outlives a restart of the agent: workloads
// that have not moved need it.
func TestSupersededOutlivesTheAgent(t *testing.T) {
	t.Parallel()
	version := func(ns, of, hash string) *kubernetes.Object {
		o := secret(ns, of+"-"+hash, "password", hash)
		o.Secret.Labels[kubernetes.SecretLabel], o.Secret.Immutable, o.Origin.Secret = of, ptr(true), origin(of).Secret
		return o
	}
	p := newProjector(t)
	first := version(p.ns, "db", "one")
	p.Apply(plan(p.ns, first, version(p.ns, "api", "one")))
	p.stands(2)
	next := plan(p.ns, version(p.ns, "db", "two"), version(p.ns, "api", "two"))
	next.Keep = map[kubernetes.Key]bool{first.Key: true, version(p.ns, "api", "one").Key: true}
	p.Apply(next)
	p.stands(2)
	p.stop()

	// One that knows nothing of it: of db there are two versions more, api is no secret any more.
	fresh := stoppedProjector(t, p.ns, func(c *kubernetes.EngineConfig) { c.Guard = kubernetes.PruneGuard{Percent: 100} })
	fresh.Apply(plan(p.ns, version(p.ns, "db", "three")))
	fresh.start()
	fresh.stands(1)
	until(t, "api is gone", func() bool { return get(t, p.ns, "api-one") == nil && get(t, p.ns, "api-two") == nil })
	for _, name := range []string{"db-one", "db-two", "db-three"} {
		if get(t, p.ns, name) == nil {
			t.Errorf("%s is gone", name)
		}
	}
	if r := fresh.Report(); len(r.Problems) != 0 || len(r.Held) != 0 {
		t.Errorf("the report is %+v", r)
	}
	fresh.stop()

	// Another restart, some seconds before the day is over.
	last := stoppedProjector(t, p.ns, func(c *kubernetes.EngineConfig) {
		c.Now = func() time.Time { return time.Now().Add(24*time.Hour - 10*time.Second) }
		c.Guard = kubernetes.PruneGuard{Percent: 100}
	})
	last.Apply(plan(p.ns, version(p.ns, "db", "three")))
	last.start()
	last.stands(1)
	until(t, "they are gone", func() bool { return get(t, p.ns, "db-one") == nil && get(t, p.ns, "db-two") == nil })
	if get(t, p.ns, "db-three") == nil {
		t.Error("the one that is wanted is gone")
	}
}

// Where nothing can be made, a right can still be taken away.
func TestRevokeWhereNothingCanBeMade(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	standing := []*kubernetes.Object{secret(p.ns, "db", "password", "x"), role(p.ns, "readers", "db"), binding(p.ns, "readers", "readers", "shop")}
	p.Apply(plan(p.ns, standing...))
	p.stands(3)
	roles := cluster.Client.RbacV1().Roles(p.ns)
	own, err := roles.Get(t.Context(), "agent-"+p.account, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	own.Rules[1].Verbs = []string{"get", "list", "watch", "delete"}
	if _, err := roles.Update(t.Context(), own, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	p.refuses("create")
	p.refuses("patch")
	// The agent keeps failing for a while, so that its waits have grown.
	for i := range 4 {
		p.Apply(plan(p.ns, append(slices.Clone(standing), role(p.ns, fmt.Sprint("more-", i), "db"))...))
		p.problem(kubernetes.Forbidden)
	}
	p.Apply(plan(p.ns, standing[0], standing[1], role(p.ns, "more-3", "db")))
	until(t, "the binding goes", func() bool {
		_, err := cluster.Client.RbacV1().RoleBindings(p.ns).Get(t.Context(), "readers", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
}

// The cluster's own namespaces and the agents' are no targets, whatever a plan says.
func TestForbiddenNamespaces(t *testing.T) {
	t.Parallel()
	p := newProjector(t, func(c *kubernetes.EngineConfig) { c.Client = cluster.Client })
	pl := plan(p.ns, secret("kube-system", "db", "password", "correct horse"), secret(agentNamespace, "db", "password", "correct horse"), secret(p.ns, "db", "password", "x"))
	p.Apply(pl)
	until(t, "one stands and two have no target", func() bool {
		r := p.Report()
		return r.Ready[kubernetes.KindSecret] == 1 && len(r.Problems) == 2 && r.Problems[0].Reason == kubernetes.NoTarget && r.Problems[1].Reason == kubernetes.NoTarget
	})
	if get(t, "kube-system", "db") != nil {
		t.Error("a Secret stands in kube-system")
	}
	p.hides("correct horse")
}

// A RoleBinding waits for its Role, without being refused once.
func TestBindingsWaitForTheirRoles(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	held := make(chan struct{})
	p.calls.intercept(func(r *http.Request) error {
		if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/roles") {
			<-held
		}
		return nil
	})
	objects := secrets(p.ns, 1)
	for i := range 5 {
		name := fmt.Sprint("readers-", i)
		objects = append(objects, binding(p.ns, name, name, "shop"), role(p.ns, name, "s-00"))
	}
	p.Apply(plan(p.ns, objects...))
	until(t, "the Roles are made", func() bool {
		return slices.ContainsFunc(p.calls.take(), func(call string) bool { return strings.HasPrefix(call, "POST") && strings.Contains(call, "/roles") })
	})
	close(held)
	p.stands(11)
	for _, call := range p.calls.take() {
		if strings.HasPrefix(call, "GET") && !strings.Contains(call, "labelSelector") {
			t.Errorf("a request that would not have been needed: %s", call)
		}
	}
	if log := p.log.String(); strings.Contains(log, "something does not stand") {
		t.Errorf("the log is\n%s", log)
	}
}

// Rights that are taken away go first, however much else there is to do.
func TestRevocationsGoFirst(t *testing.T) {
	t.Parallel()
	p := newProjector(t, func(c *kubernetes.EngineConfig) { c.Workers = 1 })
	p.Apply(plan(p.ns, append(secrets(p.ns, 2), role(p.ns, "readers", "s-00", "s-01"), role(p.ns, "others", "s-00"), binding(p.ns, "readers", "readers", "shop"))...))
	p.stands(5)
	p.calls.take()
	p.Apply(plan(p.ns, append(secrets(p.ns, 300), role(p.ns, "readers", "s-00"), role(p.ns, "others", "s-00"))...))
	p.stands(302)
	for i, call := range p.calls.take() {
		if strings.HasPrefix(call, "DELETE") || strings.HasPrefix(call, "PATCH") {
			if i > 50 {
				t.Errorf("%s came after %d others", call, i)
			}
		}
	}
	r, err := cluster.Client.RbacV1().Roles(p.ns).Get(t.Context(), "readers", metav1.GetOptions{})
	if err != nil || !slices.Equal(r.Rules[0].ResourceNames, []string{"s-00"}) {
		t.Errorf("the Role is %v %v", r, err)
	}
}

// A service account reads what it was given, and nothing else, until it is taken away.
func TestRightsWork(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	shop := clientOf(t, p.ns, "shop")
	objects := append(secrets(p.ns, 2), role(p.ns, "readers", "s-00"))
	p.Apply(plan(p.ns, append(slices.Clone(objects), binding(p.ns, "readers", "readers", "shop"))...))
	p.stands(4)
	until(t, "shop reads", func() bool {
		s, err := shop.CoreV1().Secrets(p.ns).Get(t.Context(), "s-00", metav1.GetOptions{})
		return err == nil && string(s.Data["password"]) == "correct horse 0"
	})
	if _, err := shop.CoreV1().Secrets(p.ns).Get(t.Context(), "s-01", metav1.GetOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("another Secret: %v", err)
	}
	if _, err := shop.CoreV1().Secrets(p.ns).List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a list: %v", err)
	}
	p.Apply(plan(p.ns, objects...))
	until(t, "shop is refused", func() bool {
		_, err := shop.CoreV1().Secrets(p.ns).Get(t.Context(), "s-00", metav1.GetOptions{})
		return apierrors.IsForbidden(err)
	})
}

// The audit knows of values before they leave, once for each time, and a value stays
// here while it cannot.
func TestRecord(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var recorded []string
	var broken atomic.Bool
	var ns string
	broken.Store(true)
	p := newProjector(t, func(c *kubernetes.EngineConfig) {
		c.Record = func(ctx context.Context, written []*kubernetes.Object) error {
			if broken.Load() {
				return fmt.Errorf("no space left for correct horse")
			}
			mu.Lock()
			defer mu.Unlock()
			for _, o := range written {
				if get(t, ns, o.Key.Name) != nil && o.Secret.Annotations["round"] == "" {
					t.Errorf("%s left before it was recorded", o.Key.Name)
				}
				recorded = append(recorded, o.Key.Name+o.Secret.Annotations["round"])
			}
			return nil
		}
	})
	ns = p.ns
	p.Apply(plan(p.ns, secret(p.ns, "db", "password", "correct horse"), role(p.ns, "readers", "db")))
	if problem := p.problem(kubernetes.OtherReason); !strings.Contains(problem.Message, "audit") {
		t.Errorf("the problem is %+v", problem)
	}
	if get(t, p.ns, "db") != nil {
		t.Fatal("a value left without a record")
	}
	p.hides("correct horse")
	var failed atomic.Int32
	p.calls.answer(func(r *http.Request) *http.Response {
		if r.Method == http.MethodPost && strings.Contains(r.URL.Path, "/secrets") && failed.Add(1) < 3 {
			return response(500, "text/plain", "not now")
		}
		return nil
	})
	broken.Store(false)
	p.stands(2)
	next := secret(p.ns, "db", "password", "battery staple")
	next.Secret.Annotations["round"] = "-2"
	p.Apply(plan(p.ns, next))
	p.stands(1)
	mu.Lock()
	defer mu.Unlock()
	if got := strings.Join(recorded, " "); got != "db db-2" {
		t.Errorf("recorded %q", got)
	}
}

// A part that panics while it writes ends neither the agent nor its work, and says
// nothing of what it was about.
func TestPanic(t *testing.T) {
	t.Parallel()
	var calm atomic.Bool
	p := newProjector(t, func(c *kubernetes.EngineConfig) {
		c.Record = func(_ context.Context, written []*kubernetes.Object) error {
			if !calm.Load() {
				panic(string(written[0].Secret.Data["password"]))
			}
			return nil
		}
	})
	p.Apply(plan(p.ns, secret(p.ns, "db", "password", "correct horse"), role(p.ns, "readers", "db")))
	p.problem(kubernetes.OtherReason)
	calm.Store(true)
	p.stands(2)
	if log := p.log.String(); !strings.Contains(log, "writing to the cluster panicked") {
		t.Errorf("the log is\n%s", log)
	}
	p.hides("correct horse")
}

// A finalizer holds what is deleted; that is told, and what comes after waits.
func TestFinalizer(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	p.Apply(plan(p.ns, secret(p.ns, "db", "password", "x")))
	p.stands(1)
	patch(t, p.ns, "db", `{"metadata":{"finalizers":["example.com/hold"]}}`)
	p.Apply(plan(p.ns))
	if problem := p.problem(kubernetes.Conflict); !strings.Contains(problem.Message, "finalizer") {
		t.Errorf("the problem is %+v", problem)
	}
	p.Apply(plan(p.ns, secret(p.ns, "db", "password", "y")))
	until(t, "it is wanted again", func() bool { return p.Report().Desired[kubernetes.KindSecret] == 1 })
	patch(t, p.ns, "db", `{"metadata":{"finalizers":null}}`)
	p.stands(1)
	if s := get(t, p.ns, "db"); values(s) != "password=y" {
		t.Errorf("the Secret has %s", values(s))
	}
}
