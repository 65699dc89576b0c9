package kubernetes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// ErrNotLeading: another replica writes to the cluster, or may from now on.
var ErrNotLeading = errors.New("this replica does not hold the Lease, or has not renewed it in time")

// MarkPrefix and the name of a SealedRepository make the annotation of the Lease with
// the commit that was last projected: who holds the Lease next goes on from there.
const MarkPrefix = "commit.sealward.dev/"

// LeaseConfig of one replica. All fields are required.
type LeaseConfig struct {
	Client   coordinationclient.LeaseInterface // of the agents' namespace
	Name     string
	Identity string
	Agent    string // the agents' namespace
	Duration time.Duration
	Log      *slog.Logger
	Now      func() time.Time
}

// Lease decides which replica writes. It is client-go's election, with two things more:
// it tells whether a write is still safe, and keeps the projected commits.
//
// Who holds the Lease may write for two thirds of its duration after the request that
// last renewed it was begun. The others wait for the whole of it from when they saw
// that renewal, each by its own clock: that the clocks differ does not matter.
type Lease struct {
	cfg      LeaseConfig
	duration time.Duration // as the Lease has it: whole seconds
	deadline time.Duration // of renewing, and of writing

	// requests that read or change the Lease go one after the other, so that renewing
	// and marking do not conflict.
	requests sync.Mutex

	mu      sync.Mutex
	lease   *coordinationv1.Lease // as last read or written; never changed
	renewed time.Time             // when our last successful renewal was begun; zero: no right to write
	// acquired: the campaign that runs has held the Lease.
	acquired bool
	failing  bool // the last request failed; said once
}

var _ resourcelock.Interface = (*Lease)(nil)

// NewLease makes a replica that holds nothing yet.
func NewLease(cfg LeaseConfig) (*Lease, error) {
	d := cfg.Duration.Truncate(time.Second)
	l := &Lease{cfg: cfg, duration: d, deadline: d * 2 / 3}
	if _, err := leaderelection.NewLeaderElector(l.election(leaderelection.LeaderCallbacks{OnStartedLeading: func(context.Context) {}, OnStoppedLeading: func() {}})); err != nil {
		return nil, fmt.Errorf("kubernetes.lease: %w", err)
	}
	return l, nil
}

// retry is between two tries, with at most 1.2 of it more. Who waits needs two of them
// besides the Lease's duration, which makes less than 20 seconds of 15.
func (l *Lease) retry() time.Duration { return l.duration / 16 }

func (l *Lease) election(calls leaderelection.LeaderCallbacks) leaderelection.LeaderElectionConfig {
	return leaderelection.LeaderElectionConfig{Lock: l, LeaseDuration: l.duration, RenewDeadline: l.deadline, RetryPeriod: l.retry(), Name: l.cfg.Name, Callbacks: calls}
}

// Run campaigns until ctx ends, and calls lead whenever this replica holds the Lease.
// The context of lead ends with ctx and when the Lease is lost; the Lease is given up
// only after lead returned.
func (l *Lease) Run(ctx context.Context, lead func(context.Context)) {
	for ctx.Err() == nil {
		l.campaign(ctx, lead)
		select {
		case <-ctx.Done():
		case <-time.After(l.retry()):
		}
	}
}

// campaign ends when the Lease was held and lost, or ctx ended.
func (l *Lease) campaign(ctx context.Context, lead func(context.Context)) {
	// Renewing outlives ctx until lead has returned.
	renewing, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	finished := make(chan struct{})
	elector, err := leaderelection.NewLeaderElector(l.election(leaderelection.LeaderCallbacks{
		OnStartedLeading: func(lost context.Context) {
			defer close(finished)
			defer stop()
			work, cancel := context.WithCancel(ctx)
			defer cancel()
			defer context.AfterFunc(lost, cancel)()
			l.cfg.Log.Info("this replica leads: it writes to the cluster", "identity", l.cfg.Identity)
			lead(work)
		},
		OnStoppedLeading: func() {},
	}))
	if err != nil {
		return // NewLease has tried it
	}
	l.setAcquired(false)
	defer context.AfterFunc(ctx, func() {
		if !l.hasAcquired() {
			stop()
		}
	})()
	elector.Run(renewing)
	if !l.hasAcquired() {
		return
	}
	<-finished
	if ctx.Err() != nil {
		l.release()
	}
	l.lose()
	l.cfg.Log.Info("this replica no longer leads", "identity", l.cfg.Identity, "stopping", ctx.Err() != nil)
}

// MayWrite is nil while no other replica can hold the Lease.
func (l *Lease) MayWrite() error {
	_, err := l.remaining()
	return err
}

// remaining is how long a write is safe from now on.
func (l *Lease) remaining() (time.Duration, error) {
	l.mu.Lock()
	renewed := l.renewed
	l.mu.Unlock()
	if renewed.IsZero() {
		return 0, ErrNotLeading
	}
	now := l.cfg.Now()
	// The monotonic clock stands still while a machine sleeps, and the other one jumps:
	// the longer time counts.
	left := l.deadline - max(now.Sub(renewed), now.Round(0).Sub(renewed.Round(0)))
	if left <= 0 {
		return 0, ErrNotLeading
	}
	return left, nil
}

// Leader is the identity of the replica that holds the Lease, as last seen; "" for none.
func (l *Lease) Leader() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lease == nil || l.lease.Spec.HolderIdentity == nil {
		return ""
	}
	return *l.lease.Spec.HolderIdentity
}

// Marked is the commit of a repository that was last projected, by any replica; ""
// for none.
func (l *Lease) Marked(repository string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lease == nil {
		return ""
	}
	return l.lease.Annotations[MarkPrefix+repository]
}

// Mark notes what is going to be projected, before it is. It renews the Lease, and fails
// when that is no longer ours.
func (l *Lease) Mark(ctx context.Context, commits map[string]string) error {
	l.requests.Lock()
	defer l.requests.Unlock()
	if err := l.MayWrite(); err != nil {
		return err
	}
	next := l.current().DeepCopy()
	changed := false
	for repository, commit := range commits {
		if next.Annotations[MarkPrefix+repository] != commit {
			if next.Annotations == nil {
				next.Annotations = map[string]string{}
			}
			next.Annotations[MarkPrefix+repository], changed = commit, true
		}
	}
	if !changed {
		return nil
	}
	next.Spec.RenewTime = &metav1.MicroTime{Time: l.cfg.Now()}
	ctx, cancel := context.WithTimeout(ctx, l.deadline)
	defer cancel()
	return l.put(ctx, next)
}

// Fence lets requests that change something through while this replica may write, and
// no longer than that.
func (l *Lease) Fence(next http.RoundTripper) http.RoundTripper { return fence{l, next} }

type fence struct {
	lease *Lease
	next  http.RoundTripper
}

func (f fence) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return f.next.RoundTrip(r)
	}
	left, err := f.lease.remaining()
	if err != nil {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, err
	}
	return within(f.next, r, left)
}

func (l *Lease) current() *coordinationv1.Lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lease
}

func (l *Lease) hasAcquired() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acquired
}

func (l *Lease) setAcquired(v bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acquired = v
}

// lose ends the right to write, until the Lease is acquired again.
func (l *Lease) lose() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.renewed = time.Time{}
}

// release gives the Lease up, so that another replica need not wait for its end.
func (l *Lease) release() {
	l.requests.Lock()
	defer l.requests.Unlock()
	l.lose()
	next := l.current().DeepCopy()
	nobody, second := "", int32(1)
	next.Spec.HolderIdentity, next.Spec.LeaseDurationSeconds = &nobody, &second
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = l.put(ctx, next) // it ends by itself
}

// put writes the Lease. It only succeeds when nobody else has since current.
func (l *Lease) put(ctx context.Context, next *coordinationv1.Lease) error {
	begun := l.cfg.Now()
	out, err := l.cfg.Client.Update(ctx, next, metav1.UpdateOptions{})
	return l.note(out, err, begun)
}

// note keeps what a request gave. begun is zero for one that only read.
func (l *Lease) note(lease *coordinationv1.Lease, err error, begun time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.lease = lease
		if !begun.IsZero() {
			l.renewed = time.Time{}
			if h := lease.Spec.HolderIdentity; h != nil && *h == l.cfg.Identity {
				l.renewed, l.acquired = begun, true
			}
		}
	}
	// Another writer may hold it now. If not, the next renewal tells.
	if apierrors.IsConflict(err) && !begun.IsZero() {
		l.renewed = time.Time{}
	}
	switch expected := err == nil || errors.Is(err, context.Canceled) || apierrors.IsNotFound(err) || apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err); {
	case !expected && !l.failing:
		l.failing = true
		l.cfg.Log.Error("the Lease cannot be read or renewed; without it nothing is written to the cluster, and serving goes on", "error", explain(err))
	case err == nil && l.failing:
		l.failing = false
		l.cfg.Log.Info("the Lease can be read and renewed again")
	}
	return err
}

// Get is of resourcelock.Interface, as are the next five.
func (l *Lease) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	l.requests.Lock()
	defer l.requests.Unlock()
	ctx, cancel := context.WithTimeout(ctx, l.deadline)
	defer cancel()
	lease, err := l.cfg.Client.Get(ctx, l.cfg.Name, metav1.GetOptions{})
	if err := l.note(lease, err, time.Time{}); err != nil {
		return nil, nil, err
	}
	record := resourcelock.LeaseSpecToLeaderElectionRecord(&lease.Spec)
	text, err := json.Marshal(record)
	return record, text, err
}

// Create makes the Lease.
func (l *Lease) Create(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	l.requests.Lock()
	defer l.requests.Unlock()
	ctx, cancel := context.WithTimeout(ctx, l.deadline)
	defer cancel()
	begun := l.cfg.Now()
	lease, err := l.cfg.Client.Create(ctx, &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: l.cfg.Name, Labels: map[string]string{ManagedBy: FieldManager, AgentLabel: l.cfg.Agent}},
		Spec:       resourcelock.LeaderElectionRecordToLeaseSpec(&r),
	}, metav1.CreateOptions{FieldManager: FieldManager})
	return l.note(lease, err, begun)
}

// Update acquires or renews the Lease.
func (l *Lease) Update(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	l.requests.Lock()
	defer l.requests.Unlock()
	lease := l.current()
	if lease == nil {
		return errors.New("the Lease was not read yet")
	}
	next := lease.DeepCopy()
	next.Spec = resourcelock.LeaderElectionRecordToLeaseSpec(&r)
	ctx, cancel := context.WithTimeout(ctx, l.deadline)
	defer cancel()
	return l.put(ctx, next)
}

// RecordEvent does nothing: the agent's own events tell more.
func (l *Lease) RecordEvent(string) {}

// Describe names the Lease.
func (l *Lease) Describe() string { return fmt.Sprintf("%s/%s", l.cfg.Agent, l.cfg.Name) }

// Identity of this replica.
func (l *Lease) Identity() string { return l.cfg.Identity }
