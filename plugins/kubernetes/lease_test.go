package kubernetes_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	client "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/sealward/sealward/plugins/kubernetes"
	"github.com/sealward/sealward/plugins/kubernetes/kubetest"
)

// patience bounds each wait for something that must come: the machine may be busy.
const patience = 60 * time.Second

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// soon waits until ok; what says what was waited for.
func soon(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("in %s it did not happen: %s", patience, what)
		}
	}
}

// link to the API server, which a test cuts.
type link struct{ cut atomic.Bool }

var errCut = errors.New("cut")

func (l *link) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTrip(func(r *http.Request) (*http.Response, error) {
		if l.cut.Load() {
			return nil, errCut
		}
		return next.RoundTrip(r)
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// candidate is a replica without anything but a Lease.
type candidate struct {
	*kubernetes.Lease
	link
	log    lockedBuffer
	behind atomic.Int64 // of the clock
	stop   context.CancelFunc
	done   chan struct{}
	leads  atomic.Bool
}

// election is a Lease in a namespace of its own, and who was seen to lead.
type election struct {
	t         *testing.T
	namespace string
	duration  time.Duration
	mu        sync.Mutex
	leading   string
	terms     []string
}

func newElection(t *testing.T) *election {
	c := kubetest.Need(t, cluster)
	return &election{t: t, namespace: c.Namespace(t, "lease"), duration: 2 * time.Second}
}

func (e *election) client(c *candidate) client.Interface {
	cfg := rest.CopyConfig(cluster.Admin)
	cfg.Wrap(c.wrap)
	out, err := client.NewForConfig(cfg)
	must(e.t, err)
	return out
}

func (e *election) candidate(name string) *candidate {
	e.t.Helper()
	c := &candidate{done: make(chan struct{})}
	var err error
	c.Lease, err = kubernetes.NewLease(kubernetes.LeaseConfig{Client: e.client(c).CoordinationV1().Leases(e.namespace), Name: "sealward", Identity: name, Agent: e.namespace,
		Duration: e.duration, Log: logged.To(&c.log), Now: func() time.Time { return time.Now().Add(-time.Duration(c.behind.Load())) }})
	must(e.t, err)
	return c
}

// run campaigns. Whoever leads while another does is a failure, as is one that may write
// without leading.
func (e *election) run(c *candidate) {
	ctx, cancel := context.WithCancel(context.Background())
	c.stop = cancel
	e.t.Cleanup(func() { cancel(); <-c.done })
	go func() {
		defer close(c.done)
		c.Run(ctx, func(ctx context.Context) {
			e.mu.Lock()
			if e.leading != "" {
				e.t.Errorf("%s and %s lead at once", e.leading, c.Identity())
			}
			e.leading = c.Identity()
			e.terms = append(e.terms, c.Identity())
			e.mu.Unlock()
			if err := c.MayWrite(); err != nil {
				e.t.Error(err)
			}
			c.leads.Store(true)
			<-ctx.Done()
			c.leads.Store(false)
			e.mu.Lock()
			e.leading = ""
			e.mu.Unlock()
		})
	}()
}

func (e *election) lease() *coordinationv1.Lease {
	l, err := cluster.Client.CoordinationV1().Leases(e.namespace).Get(context.Background(), "sealward", metav1.GetOptions{})
	if err != nil {
		return nil
	}
	return l
}

// A replica that is stopped gives the Lease up only when its work is done, and another
// need not wait for the Lease's end.
func TestLeaseIsGivenUp(t *testing.T) {
	t.Parallel()
	e := newElection(t)
	e.duration = 30 * time.Second
	a, b := e.candidate("a"), e.candidate("b")
	if a.MayWrite() == nil || a.Leader() != "" {
		t.Error("a candidate may write before it has campaigned")
	}
	e.run(a)
	soon(t, "a leads", a.leads.Load)
	e.run(b)
	soon(t, "b sees a lead", func() bool { return b.Leader() == "a" })
	began := time.Now()
	a.stop()
	<-a.done
	if a.MayWrite() == nil {
		t.Error("a may write after it gave the Lease up")
	}
	soon(t, "b leads", b.leads.Load)
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("b waited for %s, as if a had died", took)
	}
	if l := e.lease(); l.Labels[kubernetes.AgentLabel] != e.namespace || *l.Spec.LeaseTransitions != 1 {
		t.Errorf("%+v", l)
	}
	for _, line := range []string{"this replica leads: it writes to the cluster", "this replica no longer leads"} {
		if !strings.Contains(a.log.String(), line) {
			t.Errorf("the log lacks %q: %s", line, a.log.String())
		}
	}
}

// A replica that is cut off stops before another leads, and campaigns again when it is
// back. It logs that once.
func TestLeaseIsLost(t *testing.T) {
	t.Parallel()
	e := newElection(t)
	a, b := e.candidate("a"), e.candidate("b")
	e.run(a)
	soon(t, "a leads", a.leads.Load)
	e.run(b)
	a.cut.Store(true)
	soon(t, "a may not write", func() bool { return a.MayWrite() != nil })
	if b.leads.Load() {
		t.Error("b led while a might write")
	}
	soon(t, "b leads", b.leads.Load)
	a.cut.Store(false)
	soon(t, "a sees b lead", func() bool { return a.Leader() == "b" })
	b.cut.Store(true)
	soon(t, "a leads again", a.leads.Load)
	for _, line := range []string{"the Lease cannot be read or renewed; without it nothing is written to the cluster, and serving goes on", "the Lease can be read and renewed again"} {
		if n := strings.Count(a.log.String(), line); n != 1 {
			t.Errorf("%d lines %q in\n%s", n, line, a.log.String())
		}
	}
}

// With the default Lease another replica leads within 20 seconds after the last sign of
// life of the one before, which was a renewal.
func TestHandOver(t *testing.T) {
	t.Parallel()
	e := newElection(t)
	e.duration = 15 * time.Second
	a, b := e.candidate("a"), e.candidate("b")
	e.run(a)
	soon(t, "a leads", a.leads.Load)
	e.run(b)
	soon(t, "b sees it", func() bool { return b.Leader() == "a" })
	version := e.lease().ResourceVersion
	soon(t, "a renews", func() bool { return e.lease().ResourceVersion != version })
	a.cut.Store(true)
	died := time.Now()
	soon(t, "b leads", b.leads.Load)
	took := time.Since(died)
	t.Logf("b leads %s after a died", took.Round(10*time.Millisecond))
	if took > 20*time.Second {
		t.Error("that is too long")
	}
}

// What the holder writes as the time of its renewal is its own clock's: however wrong
// that is, others wait for the whole duration since they last saw it change, and no longer.
func TestClocksOfReplicasDoNotMatter(t *testing.T) {
	t.Parallel()
	for _, skew := range []time.Duration{-24 * time.Hour, 24 * time.Hour} {
		t.Run(skew.String(), func(t *testing.T) {
			t.Parallel()
			e := newElection(t)
			leases := cluster.Client.CoordinationV1().Leases(e.namespace)
			holder, seconds := "other", int32(4) // longer than this test pauses on a busy machine
			now := metav1.NewMicroTime(time.Now().Add(skew))
			held, err := leases.Create(t.Context(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "sealward"}, Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: &seconds, AcquireTime: &now, RenewTime: &now}}, metav1.CreateOptions{})
			must(t, err)
			c := e.candidate("a")
			e.run(c)
			for range 16 {
				time.Sleep(500 * time.Millisecond)
				now := metav1.NewMicroTime(time.Now().Add(skew))
				held.Spec.RenewTime = &now
				held, err = leases.Update(t.Context(), held, metav1.UpdateOptions{})
				must(t, err)
				if c.leads.Load() {
					t.Fatal("it took the Lease of one that renews it")
				}
			}
			died := time.Now()
			soon(t, "it leads when the other is gone", c.leads.Load)
			if took := time.Since(died); took < time.Duration(seconds)*time.Second-600*time.Millisecond {
				t.Errorf("it waited only for %s", took)
			}
		})
	}
}

// The right to write ends two thirds of the Lease's duration after the last renewal was
// begun, by whichever clock says so first, and requests end with it.
func TestFence(t *testing.T) {
	t.Parallel()
	e := newElection(t)
	e.duration = 30 * time.Second
	a := e.candidate("a")
	e.run(a)
	soon(t, "a leads", a.leads.Load)
	var sent []time.Duration
	rt := a.Fence(roundTrip(func(r *http.Request) (*http.Response, error) {
		left := time.Duration(0)
		if end, ok := r.Context().Deadline(); ok {
			left = time.Until(end)
		}
		sent = append(sent, left)
		return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
	}))
	try := func(method string) error {
		r, err := http.NewRequestWithContext(t.Context(), method, "https://api/", strings.NewReader("x"))
		must(t, err)
		_, err = rt.RoundTrip(r)
		return err
	}
	must(t, try(http.MethodPost))
	if sent[0] <= 0 || sent[0] > 20*time.Second {
		t.Errorf("a write has %s", sent[0])
	}
	a.cut.Store(true) // no renewal from now on
	for _, jump := range []time.Duration{-time.Hour, -21 * time.Second} {
		a.behind.Store(int64(jump)) // the clock is put forward
		for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
			if err := try(method); !errors.Is(err, kubernetes.ErrNotLeading) {
				t.Errorf("%s after %s: %v", method, -jump, err)
			}
		}
		must(t, try(http.MethodGet))
		if a.MayWrite() == nil {
			t.Error("it may write")
		}
	}
	if len(sent) != 3 {
		t.Errorf("%d requests were sent", len(sent))
	}
}

// What is marked stays with the Lease, whoever holds it; nobody else can mark.
func TestMark(t *testing.T) {
	t.Parallel()
	e := newElection(t)
	a, b := e.candidate("a"), e.candidate("b")
	if err := b.Mark(t.Context(), map[string]string{"main": "c0"}); !errors.Is(err, kubernetes.ErrNotLeading) {
		t.Errorf("marked without the Lease: %v", err)
	}
	e.run(a)
	soon(t, "a leads", a.leads.Load)
	for i := range 50 { // beside renewals
		commit := fmt.Sprintf("c%d", i)
		must(t, a.Mark(t.Context(), map[string]string{"main": commit}))
		if l := e.lease(); l.Annotations[kubernetes.MarkPrefix+"main"] != commit || *l.Spec.HolderIdentity != "a" {
			t.Fatalf("%+v", l)
		}
		time.Sleep(20 * time.Millisecond)
	}
	before := e.lease().ResourceVersion
	must(t, a.Mark(t.Context(), map[string]string{"main": "c49"}))
	if !a.leads.Load() {
		t.Error("the Lease was lost by marking")
	}
	_ = before
	e.run(b)
	a.stop()
	soon(t, "b leads", b.leads.Load)
	if got := b.Marked("main"); got != "c49" || b.Marked("other") != "" {
		t.Errorf("b reads %q", got)
	}
	if err := a.Mark(t.Context(), map[string]string{"main": "c1"}); !errors.Is(err, kubernetes.ErrNotLeading) {
		t.Errorf("marked by the one before: %v", err)
	}
}

// Somebody else's hand on the Lease ends the right to write at once, until the next
// renewal shows that it is still held.
func TestConflictClosesTheFence(t *testing.T) {
	t.Parallel()
	e := newElection(t)
	e.duration = 20 * time.Second // renewals are far between
	a := e.candidate("a")
	e.run(a)
	soon(t, "a leads", a.leads.Load)
	time.Sleep(100 * time.Millisecond)
	l := e.lease()
	thief := "thief"
	l.Spec.HolderIdentity = &thief
	_, err := cluster.Client.CoordinationV1().Leases(e.namespace).Update(t.Context(), l, metav1.UpdateOptions{})
	must(t, err)
	if err := a.Mark(t.Context(), map[string]string{"main": "c1"}); err == nil {
		t.Error("marked though the Lease is another's")
	}
	if a.MayWrite() == nil {
		t.Error("it may write")
	}
	soon(t, "a no longer leads", func() bool { return !a.leads.Load() })
	if got := e.lease(); *got.Spec.HolderIdentity != thief || got.Annotations[kubernetes.MarkPrefix+"main"] != "" {
		t.Errorf("%+v", got)
	}
}

func TestLeaseRefusesAnImpossibleDuration(t *testing.T) {
	if _, err := kubernetes.NewLease(kubernetes.LeaseConfig{Identity: "a", Name: "x", Duration: 500 * time.Millisecond}); err == nil || !strings.Contains(err.Error(), "kubernetes.lease") {
		t.Errorf("%v", err)
	}
}
