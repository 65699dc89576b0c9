package kubernetes_test

import (
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	client "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/sealward/sealward/plugins/kubernetes"
	"github.com/sealward/sealward/plugins/kubernetes/kubetest"
)

// own is a control plane of a test's own, which the others do not miss when it is gone,
// with an engine that was not started. It does not wait long for watches when it stops.
func own(t *testing.T) (*kubetest.Cluster, *projector) {
	t.Helper()
	kubetest.Need(t, cluster)
	c, err := kubetest.Start(func(set func(string, ...string)) { set("request-timeout", "5s") })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	p := &projector{t: t, c: c, ns: c.Namespace(t, "orders"), calls: &calls{}, log: &lockedBuffer{}}
	cfg := rest.CopyConfig(c.Admin)
	cfg.Wrap(p.calls.wrap)
	if p.client, err = client.NewForConfig(cfg); err != nil {
		t.Fatal(err)
	}
	p.Engine = kubernetes.NewEngine(kubernetes.EngineConfig{Client: p.client, Agent: agentNamespace, Guard: kubernetes.PruneGuard{Percent: 100}, Log: newLog(p.log)})
	return c, p
}

// A cluster that was restored from a backup has older objects, of revisions that an
// engine which went on running takes for the past.
func TestClusterRestored(t *testing.T) {
	t.Parallel()
	c, p := own(t)
	ns := p.ns
	p.start()
	p.Apply(plan(ns, secret(ns, "db", "password", "one"), secret(ns, "old", "password", "x"), role(ns, "readers", "old"), binding(ns, "readers", "readers", "shop")))
	p.stands(4)
	if err := c.Backup(); err != nil {
		t.Fatal(err)
	}
	p.Apply(plan(ns, secret(ns, "db", "password", "two"), secret(ns, "new", "password", "y")))
	p.stands(2)
	for i := range 50 { // so that the backup's revisions are far behind
		p.Apply(plan(ns, secret(ns, "db", "password", fmt.Sprint("three-", i)), secret(ns, "new", "password", "y")))
		p.stands(2)
	}
	if err := c.Restore(); err != nil {
		t.Fatal(err)
	}
	secrets := c.Client.CoreV1().Secrets(ns)
	until(t, "all is as planned again", func() bool {
		list, err := secrets.List(t.Context(), metav1.ListOptions{})
		bindings, err2 := c.Client.RbacV1().RoleBindings(ns).List(t.Context(), metav1.ListOptions{})
		return err == nil && err2 == nil && len(list.Items) == 2 && len(bindings.Items) == 0 &&
			list.Items[0].Name == "db" && string(list.Items[0].Data["password"]) == "three-49" && list.Items[1].Name == "new"
	})
	p.stands(2)
	if log := p.log.String(); !strings.Contains(log, "the cluster went back to an older state") {
		t.Errorf("the log is\n%s", log)
	}
}

// The API server goes away for a while. What was wanted meanwhile comes to stand when
// it is back, and the watches see what happens then.
func TestAPIServerGone(t *testing.T) {
	t.Parallel()
	c, p := own(t)
	ns := p.ns
	// It starts before the API server answers at all.
	if err := c.StopAPIServer(); err != nil {
		t.Fatal(err)
	}
	p.start()
	p.Apply(plan(ns, secrets(ns, 20)...))
	if problem := p.problem(kubernetes.Unavailable); problem.Key != (kubernetes.Key{}) || problem.Next.IsZero() {
		t.Errorf("the problem is %+v", problem)
	}
	if err := c.StartAPIServer(); err != nil {
		t.Fatal(err)
	}
	p.stands(20)

	// It goes away while nothing is to be done: that is told as well.
	if err := c.StopAPIServer(); err != nil {
		t.Fatal(err)
	}
	p.problem(kubernetes.Unavailable)
	next := append(secrets(ns, 10), secret(ns, "fresh", "password", "correct horse"))
	p.Apply(plan(ns, next...))
	p.calls.take()
	time.Sleep(2 * time.Second) // bounded: it is asked less and less
	if n := len(p.calls.take()); n > 60 {
		t.Errorf("%d requests in 2 s to an API server that is gone", n)
	}
	if err := c.StartAPIServer(); err != nil {
		t.Fatal(err)
	}
	p.stands(11)
	l, err := c.Client.CoreV1().Secrets(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(l.Items) != 11 {
		t.Errorf("%d Secrets are left: %v", len(l.Items), err)
	}
	if err := c.Client.CoreV1().Secrets(ns).Delete(t.Context(), "fresh", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, "the watches are back", func() bool {
		_, err := c.Client.CoreV1().Secrets(ns).Get(t.Context(), "fresh", metav1.GetOptions{})
		return err == nil
	})
	p.stands(11)
	p.hides("correct horse")
}

// A watch that breaks and cannot go on where it was begins anew, and misses nothing.
func TestWatchExpired(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	p.Apply(plan(p.ns, secret(p.ns, "db", "password", "correct horse"), secret(p.ns, "web", "password", "x")))
	p.stands(2)
	var expired atomic.Bool
	release := make(chan struct{})
	p.calls.answer(func(r *http.Request) *http.Response {
		q := r.URL.Query()
		switch {
		case q.Get("watch") == "" || !strings.Contains(r.URL.Path, "/secrets"):
		case q.Get("sendInitialEvents") != "":
			q.Set("timeoutSeconds", "3") // then it goes on from what it saw last
			r.URL.RawQuery = q.Encode()
		case expired.CompareAndSwap(false, true):
			<-release
			// An API server that has forgotten what was there then.
			return response(200, "application/json", `{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure","message":"too old resource version","reason":"Expired","code":410}}`+"\n")
		}
		return nil
	})
	p.calls.breakWatches()
	until(t, "the watch is asked for again", expired.Load)
	// What happens now no watch tells.
	patch(t, p.ns, "db", `{"data":{"password":"d3Jvbmc="}}`)
	if err := cluster.Client.CoreV1().Secrets(p.ns).Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	close(release)
	until(t, "both are repaired", func() bool {
		web := get(t, p.ns, "web")
		return values(get(t, p.ns, "db")) == "password=correct horse" && web != nil
	})
	p.stands(2)
}

// Watches that break now and then cost nothing but themselves.
func TestWatchBreaks(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	p.Apply(plan(p.ns, secrets(p.ns, 5)...))
	p.stands(5)
	for i := range 3 {
		p.calls.take()
		p.calls.breakWatches()
		until(t, "the watches are back", func() bool {
			return slices.ContainsFunc(p.calls.take(), func(call string) bool { return strings.Contains(call, "/secrets") && strings.Contains(call, "watch=") })
		})
		patch(t, p.ns, "s-00", fmt.Sprintf(`{"data":{"password":"%s"}}`, []string{"YQ==", "Yg==", "Yw=="}[i]))
		until(t, "it is repaired", func() bool { return values(get(t, p.ns, "s-00")) == "password=correct horse 0" })
	}
	p.stands(5)
}

// Namespaces come and go with the plan.
func TestNamespacesOfThePlan(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	other := p.c.Namespace(t, "other")
	allow(t, other, p.account)
	p.Apply(plan(p.ns, secret(p.ns, "db", "password", "x")))
	p.stands(1)
	both := plan(p.ns, secret(p.ns, "db", "password", "x"), secret(other, "db", "password", "y"))
	p.Apply(both)
	p.stands(2)
	p.Apply(plan(p.ns, secret(p.ns, "db", "password", "x")))
	p.stands(1)
	patch(t, other, "db", `{"data":{"password":"bWluZQ=="}}`)
	p.Apply(both)
	p.stands(2)
	if s := get(t, other, "db"); values(s) != "password=y" {
		t.Errorf("the Secret has %s", values(s))
	}
}

// Plans come faster than the API server writes: the newest wins, and nothing of those
// before it is left.
func TestNewestPlanWins(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	var mu sync.Mutex
	writing := map[string]int{}
	p.calls.intercept(func(r *http.Request) error {
		if r.Method == http.MethodGet {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		writing[r.URL.Path]++
		return nil
	})
	for i := range 60 {
		var objects []*kubernetes.Object
		for j := range 20 {
			if (i+j)%3 > 0 {
				s := secret(p.ns, fmt.Sprint("s-", j), "password", fmt.Sprint("round ", i))
				if (i+j)%7 == 0 {
					s.Secret.Type = "example.com/other"
				}
				objects = append(objects, s)
			}
		}
		p.Apply(plan(p.ns, objects...))
		time.Sleep(time.Duration(i%5) * time.Millisecond)
	}
	p.Apply(plan(p.ns, secrets(p.ns, 7)...))
	p.stands(7)
	until(t, "the rest goes", func() bool { return left(t, p.ns) == 7 })
	l, err := cluster.Client.CoreV1().Secrets(p.ns).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(l.Items) != 7 {
		t.Errorf("%d Secrets stand: %v", len(l.Items), err)
	}
	for i := range l.Items {
		if s := &l.Items[i]; values(s) != "password=correct horse "+strings.TrimLeft(s.Name[2:], "0") && s.Name != "s-00" {
			t.Errorf("%s has %s", s.Name, values(s))
		}
	}
}

// What is remembered of a Secret is no value: 20 MB of Secrets take next to nothing.
func TestMemoryHoldsNoValue(t *testing.T) {
	c := kubetest.Need(t, cluster)
	ns := c.Namespace(t, "orders")
	for i := range 40 {
		s := secret(ns, fmt.Sprint("s-", i), "large", strings.Repeat(fmt.Sprint(i, " "), 100_000))
		if _, err := cluster.Client.CoreV1().Secrets(ns).Create(t.Context(), s.Secret, metav1.CreateOptions{FieldManager: kubernetes.FieldManager}); err != nil {
			t.Fatal(err)
		}
	}
	p := stoppedProjector(t, ns)
	before := heap()
	nothing := plan(ns)
	nothing.Repositories = nil
	p.Apply(nothing)
	p.start()
	until(t, "all are known", func() bool { return !p.Report().Synced.IsZero() })
	if held := int64(heap()) - int64(before); held > 4<<20 {
		t.Errorf("40 Secrets of half a megabyte take %d bytes", held)
	}
}

func heap() uint64 {
	for range 3 {
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
