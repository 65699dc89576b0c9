// Package gitops is the agent: it follows one branch of a repository and
// publishes what was merged as snapshots.
//
// Most callers need [New], then [Agent.Restore] to serve what was applied last,
// and [Agent.Run], or [Agent.Sync] for one look. The steps of a sync are: look
// at the remote's head, fetch, see that it is signed and a fast-forward, compare
// trees, unseal what changed, make it durable, publish. Git itself is in gitops/source,
// keys and values in unseal.
package gitops

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/sealward/sealward/gitops/source"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/keyring"
	"github.com/sealward/sealward/unseal/store"
)

// ErrRewound: the branch no longer contains the applied commit. Serving goes on
// from that commit.
var ErrRewound = errors.New("the branch was rewound")

// Config of an agent, which follows one source. Mirror, Keyring, Store, Live, Log and Now are required.
type Config struct {
	// Name of the source among those of a service; "" where there is one.
	Name   string
	Mirror *source.Mirror
	// Root is the folder of the repository that holds workspaces/ ("." for the top).
	Root string
	// Source names URL, branch and root; a store of another source is not used.
	Source  string
	URL     string // for people, without a credential
	Branch  string
	Keyring *keyring.Keyring
	Store   *store.Store
	// Renew moves a store aside that turned out to be damaged, and opens an empty
	// one in its place. Nil leaves a damaged store an error.
	Renew    func(why error) (*store.Store, error)
	Live     *unseal.Live
	Log      *slog.Logger
	Now      func() time.Time
	Interval time.Duration // between two looks
	MaxStale time.Duration
	// AllowUnbound accepts manifests without a binding, unless the repository's
	// settings require one.
	AllowUnbound bool
	// FollowRewind also takes a head that does not contain the applied commit.
	FollowRewind bool
	// Signatures is nil where commits need none.
	Signatures *SignaturePolicy
	// RemovalGuard is nil where removals never wait.
	RemovalGuard *RemovalGuard
	// Elsewhere says of a workspace that this source may not hold why; "" of one
	// that it may. Nil: it may hold all.
	Elsewhere func(manifest.Workspace) string
	// Remirror puts a new clone in the place of the mirror. Nil leaves a damaged
	// mirror an error.
	Remirror func(context.Context, *Agent) error
	// Metrics may be nil.
	Metrics *Metrics
}

// Agent follows one branch. Its methods are for one goroutine, except Trigger,
// Approve and Contains.
type Agent struct {
	Config
	trigger  chan struct{}
	approval approval
	// swapping guards Mirror against the sync loop's putting another in its place.
	swapping sync.RWMutex

	// The state of the applied commit. Nothing else writes it.
	applied source.Hash
	tree    tree
	rings   map[manifest.Workspace]ringState
	// pending are workspaces whose ring changed since an apply last succeeded.
	pending map[manifest.Workspace]bool
	sync    unseal.Sync
	// unanswered: some manifest waits for a key service, and is tried at each look.
	unanswered bool
	// holding: some removal waits for the operator's word.
	holding bool
	recent  recent
	// orphaned: the mirror was cloned anew from a branch without the applied commit,
	// at the operator's word.
	orphaned bool
	// vouched is the last head that is signed as it must be, be it followed or not;
	// appliedBy is who signed the applied commit.
	vouched   vouched
	appliedBy string
	healed    time.Time // when the mirror was last cloned anew, or that was tried
	// contested workspaces, as last reported.
	contested map[manifest.Workspace][]string

	// restoring is the commit that the store holds, until one is applied.
	restoring source.Hash
}

// New makes an agent that has applied nothing yet.
func New(cfg Config) *Agent {
	return &Agent{Config: cfg, sync: unseal.Sync{Source: cfg.Name, URL: cfg.URL, Branch: cfg.Branch}, trigger: make(chan struct{}, 1), tree: newTree(), rings: map[manifest.Workspace]ringState{}, pending: map[manifest.Workspace]bool{}}
}

// Trigger asks Run to look at once. It never blocks.
func (a *Agent) Trigger() {
	select {
	case a.trigger <- struct{}{}:
	default:
	}
}

// Restore publishes the commit that was applied before the restart, without the
// remote. With nothing to restore it does nothing. The error is of the store and
// wraps store.ErrDamaged or store.ErrFormat when it should be moved aside.
func (a *Agent) Restore(ctx context.Context) error {
	state, err := a.Store.Load(a.ring)
	if err != nil {
		return err
	}
	if state.Commit == "" || state.Source != a.Source {
		return a.restoreFromMirror(ctx)
	}
	a.setAside(state.Unopened)
	a.tree.restore(state.Records)
	a.holding = true // until the apply has looked
	a.restoring = plumbing.NewHash(state.Commit)
	_, missing := a.Mirror.Commit(a.restoring)
	if missing == nil {
		a.restoring = a.newest(ctx, a.restoring)
		a.checkRestored(a.restoring)
	}
	var again []manifest.Workspace
	for ws, judged := range state.Judged {
		if judged != a.judged(ws) {
			again = append(again, ws)
		}
	}
	if missing != nil {
		for _, ws := range again {
			a.pending[ws] = true
		}
		a.Log.Error("the mirror lacks the applied commit; nothing is served until the remote gave it again: who may read stands in the mirror", "commit", state.Commit, "error", oneLine(missing))
		return nil
	}
	if err := a.apply(ctx, a.restoring, again); err != nil {
		for _, ws := range again { // the next apply has to know
			a.pending[ws] = true
		}
		return fmt.Errorf("restore commit %.12s: %w", a.restoring.String(), err)
	}
	return nil
}

// setAside tells of workspaces whose records in the store do not open. Where there
// is an identity and it does not fit, the keyring may be a wrong one: the store is
// kept as it is, for a last good value stands nowhere else.
func (a *Agent) setAside(unopened []manifest.Workspace) {
	other := false
	for _, ws := range unopened {
		a.Log.Warn("the keyring no longer opens what the store has of a workspace; it is unsealed anew", "workspace", ws.String())
		_, err := a.ring(ws)
		other = other || err == nil
	}
	if !other {
		return
	}
	if to, err := a.Store.CopyAside(a.Now()); err != nil {
		a.Log.Error("the store of other keys could not be kept aside", "error", oneLine(err))
	} else {
		a.Log.Warn("the store is of other keys; a copy was kept aside", "copy", to)
	}
}

// newest is the commit of the store, or the one that the mirror says was applied
// where that descends from it: a store whose newest page was damaged falls back to
// the state before, and a generation must not go back with it.
func (a *Agent) newest(ctx context.Context, stored source.Hash) source.Hash {
	applied, known, err := a.Mirror.Applied()
	if err != nil || !known || applied == stored {
		return stored
	}
	if later, err := a.Mirror.IsAncestor(ctx, stored, applied); err != nil || !later {
		return stored
	}
	a.Log.Warn("the store is older than what was applied; the difference is unsealed anew", "store", stored.String(), "applied", applied.String())
	return applied
}

// restoreFromMirror publishes what the mirror says was applied, unsealed anew: the
// store was lost or moved aside, and the remote may be away.
func (a *Agent) restoreFromMirror(ctx context.Context) error {
	applied, known, err := a.Mirror.Applied()
	if err == nil && known {
		a.restoring = applied
		a.checkRestored(applied)
		err = a.apply(ctx, applied, nil)
	}
	if err != nil && ctx.Err() == nil {
		a.Log.Warn("what the mirror says was applied cannot be served; the remote is asked", "error", oneLine(err))
		return nil
	}
	return err
}

// Sync looks at the remote once and applies what is new. It reports whether a
// commit was applied.
func (a *Agent) Sync(ctx context.Context) (bool, error) {
	changed, err := a.syncOnce(ctx)
	why := err
	if err == nil && a.unreadable() {
		why = errUnreadable
	}
	if a.heal(ctx, why) && why != nil {
		changed, err = a.syncOnce(ctx)
	}
	a.sync.LastLook = a.Now()
	a.sync.Class = classify(err)
	a.Metrics.looked(a.Name, a.sync.Class)
	a.sync.Packs = a.Mirror.Packs()
	if err != nil {
		a.sync.Error = err.Error()
		a.sync.Failures++
	} else {
		a.sync.Error, a.sync.Failures, a.sync.LastSuccess = "", 0, a.sync.LastLook
	}
	switch behind := a.sync.Head != "" && a.sync.Head != a.appliedText(); {
	case !behind:
		a.sync.BehindSince = time.Time{}
	case a.sync.BehindSince.IsZero():
		a.sync.BehindSince = a.sync.LastLook
	}
	a.Live.SetSync(a.sync)
	return changed, err
}

func (a *Agent) syncOnce(ctx context.Context) (applied bool, err error) {
	// A panic must not end the following of this source, or what others serve. Its
	// text could hold a value.
	defer func() {
		if p := recover(); p != nil {
			applied, err = false, fmt.Errorf("the sync panicked (%T); please report it", p)
		}
	}()
	a.noteChangedRings()
	rings := slices.Collect(maps.Keys(a.pending))
	head, lookErr := a.follow(ctx)
	if lookErr != nil {
		head = a.applied // keys may have changed though the remote is away
	}
	if head.IsZero() || head == a.applied && len(rings) == 0 && !a.unanswered && len(a.approval.released()) == 0 {
		return false, lookErr
	}
	if err := a.apply(ctx, head, rings); err != nil {
		a.withdraw(rings)
		return false, errors.Join(lookErr, err)
	}
	clear(a.pending)
	if lookErr == nil {
		a.refuse(source.Hash{})
	}
	return true, lookErr
}

// withdraw stops serving workspaces whose keys are gone though the change could
// not be applied, on a full disk say: that must not keep a value alive.
func (a *Agent) withdraw(rings []manifest.Workspace) {
	current := a.Live.Current(a.Name)
	scopes := current.Scopes()
	gone := false
	for _, ws := range rings {
		if _, err := a.ring(ws); err != nil && scopes[ws] != nil {
			delete(scopes, ws)
			gone = true
		}
	}
	if gone {
		a.Live.Publish(current.WithScopes(scopes))
	}
}

// follow returns the commit to apply: the remote's head, fetched, if that is a
// descendant of the applied commit.
func (a *Agent) follow(ctx context.Context) (source.Hash, error) {
	head, err := a.Mirror.Look(ctx)
	if err != nil {
		return source.Hash{}, err
	}
	a.sync.Head = head.String()
	if head == a.applied {
		a.refuse(source.Hash{})
		return head, nil
	}
	// The branch may have moved on since the look: what was fetched counts.
	if head, err = a.Mirror.Fetch(ctx); err != nil {
		return source.Hash{}, err
	}
	a.sync.Head = head.String()
	if err := a.checkHead(head); err != nil {
		return source.Hash{}, err
	}
	applied := a.applied
	if applied.IsZero() {
		// The mirror remembers also when the store was lost, and the store when the
		// mirror was.
		var known bool
		if applied, known, err = a.Mirror.Applied(); err != nil {
			return head, err
		}
		if !known {
			applied = a.restoring
		}
		if applied.IsZero() {
			return head, nil
		}
	}
	forward, err := a.contains(ctx, applied, head)
	if err != nil {
		return source.Hash{}, err
	}
	if !forward {
		if err := a.checkRewind(applied, head); err != nil {
			return source.Hash{}, err
		}
		a.Log.Warn("a rewound branch is followed; generations before and after it cannot be compared", "branch", a.Branch, "from", applied.String(), "to", head.String(), "approved", !a.FollowRewind)
		return head, nil // the word holds until the head is applied
	}
	a.refuse(source.Hash{})
	return head, nil
}

// checkRewind refuses a head that does not contain the applied commit, unless the
// settings or the operator's word let it in.
func (a *Agent) checkRewind(applied, head source.Hash) error {
	if a.FollowRewind || a.approval.allows(head) {
		return nil
	}
	a.refuse(head)
	served := "which stays served"
	if a.applied.IsZero() {
		served = "and nothing is served"
	}
	return fmt.Errorf("branch %s: %w: its head %s does not contain the applied commit %s, %s; push a commit that does, or, if the rewrite was meant, sealward agent approve %[3]s",
		a.Branch, ErrRewound, head, applied, served)
}

// refuse notes the head that waits for the operator's word; zero for none.
func (a *Agent) refuse(head source.Hash) {
	a.approval.wait(head)
	a.sync.Refused = ""
	if !head.IsZero() {
		a.sync.Refused = head.String()
	}
}

// maxBackoff bounds the wait after failures in a row.
const maxBackoff = 5 * time.Minute

// Run looks every Interval, with jitter, and at every Trigger, until ctx ends.
// Failures are logged and retried with growing waits; serving never depends on
// them.
func (a *Agent) Run(ctx context.Context) {
	for {
		started := a.Now()
		if _, err := a.Sync(ctx); err != nil && ctx.Err() == nil {
			a.Log.Error("sync failed; the last applied commit stays served", "error", oneLine(err), "applied", a.appliedText(), "failures", a.sync.Failures)
		}
		if !a.pause(ctx, a.wait(a.Now().Sub(started))) {
			return
		}
	}
}

// triggerGap is the least time between two looks that are triggered while looks
// fail: a flood of webhooks must not become one of requests to the remote.
const triggerGap = 250 * time.Millisecond

// pause waits for a trigger, a changed ring, or the end of d. It is false when
// ctx ended. Rings are watched at each interval, however long d is: a key that is
// taken away must not wait for a remote that is.
func (a *Agent) pause(ctx context.Context, d time.Duration) bool {
	begun := time.Now()
	trigger := a.trigger
	for {
		timer := time.NewTimer(max(min(d-time.Since(begun), a.Interval), time.Millisecond))
		select {
		case <-ctx.Done():
			timer.Stop()
			return false
		case <-trigger:
			timer.Stop()
			gap := triggerGap - time.Since(begun)
			if a.sync.Failures == 0 || gap <= 0 {
				return true
			}
			d, begun, trigger = gap, time.Now(), nil // one look answers all of them
		case <-timer.C:
			if time.Since(begun) >= d || a.noteChangedRings() {
				return true
			}
		}
	}
}

// wait until the next look: the interval with a tenth of jitter, so that many
// agents do not ask at once, and more after failures in a row.
func (a *Agent) wait(spent time.Duration) time.Duration {
	d := a.Interval
	for range min(a.sync.Failures-1, 10) {
		d = min(2*d, max(maxBackoff, a.Interval))
	}
	d += time.Duration((rand.Float64() - 0.5) * 0.2 * float64(d))
	return max(d-spent, 10*time.Millisecond)
}

func (a *Agent) appliedText() string {
	if a.applied.IsZero() {
		return ""
	}
	return a.applied.String()
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// ringState notices that a file a ring is made of was changed, without reading it.
type ringState struct {
	ring  *keyring.Ring
	err   error
	files map[string]os.FileInfo // nil: there is no such file
}

// stat looks at files.
func stat(files []string) map[string]os.FileInfo {
	out := map[string]os.FileInfo{}
	for _, f := range files {
		if info, err := os.Stat(f); err == nil {
			out[f] = info
		} else {
			out[f] = nil
		}
	}
	return out
}

// sameFile compares what a replaced or edited file cannot keep all of.
func sameFile(a, b os.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// ring gives the ring of a workspace as last read.
func (a *Agent) ring(ws manifest.Workspace) (*keyring.Ring, error) {
	s, ok := a.rings[ws]
	if !ok {
		s = a.readRing(ws)
		a.rings[ws] = s
	}
	return s.ring, s.err
}

func (a *Agent) readRing(ws manifest.Workspace) ringState {
	// Before it is read: a change in between is then noticed the next time.
	s := ringState{files: stat(a.Keyring.Sources(ws))}
	s.ring, s.err = a.Keyring.Ring(ws)
	if s.err == nil {
		// What the agent keeps across restarts is encrypted to it.
		if _, err := s.ring.Active(); err != nil {
			s.ring, s.err = nil, fmt.Errorf("%w: the agent encrypts what it keeps to the workspace's own identity, also where a service opens its secrets", err)
		}
	}
	if info := s.files[a.Keyring.Path(ws)]; info != nil && keyring.Exposed(info) {
		a.Log.Warn("a private key can be read by other users; chmod 600 it", "file", a.Keyring.Path(ws))
	}
	return s
}

// noteChangedRings reads again the rings whose files changed, came or went, and
// reports whether there were any.
func (a *Agent) noteChangedRings() (changed bool) {
	for ws, old := range a.rings {
		if maps.EqualFunc(old.files, stat(slices.Collect(maps.Keys(old.files))), sameFile) {
			continue
		}
		fresh := a.readRing(ws)
		// A mistake in keyring.yaml takes no key away: nothing is known about it.
		path := a.Keyring.Path(ws)
		if errors.Is(fresh.err, keyring.ErrSettings) && old.err == nil && sameFile(fresh.files[path], old.files[path]) {
			a.Log.Error("the keyring's settings cannot be used; the last good ones are", "workspace", ws.String(), "error", oneLine(fresh.err))
			old.files = fresh.files
			a.rings[ws] = old
			continue
		}
		a.rings[ws] = fresh
		a.pending[ws], changed = true, true
		a.Store.Forget()
		a.Log.Info("the keyring changed", "workspace", ws.String(), "opens", fresh.err == nil)
	}
	return changed
}

// workers unseal in parallel; the work is all computing.
func workers() int { return max(1, runtime.GOMAXPROCS(0)) }
