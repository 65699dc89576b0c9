package unseal

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sealward/sealward/seal/manifest"
)

// What an agent answers about a commit that a caller names.
var (
	// ErrUnknownCommit: the mirror has no such commit, yet or at all.
	ErrUnknownCommit = errors.New("no such commit is known here")
	// ErrNothingWaits: nothing of that commit waits for the operator's word.
	ErrNothingWaits = errors.New("nothing waits for approval at that commit")
)

// View is what is served at one moment: the newest snapshot of each source. It
// never changes.
type View struct {
	snapshots []*Snapshot // sorted by source
	owners    map[manifest.Workspace]*Snapshot
	contested map[manifest.Workspace][]string
}

// newView finds out whose each workspace is. One that two sources claim is
// nobody's: which of them is right, the agent cannot know.
func newView(snapshots []*Snapshot) *View {
	v := &View{snapshots: snapshots, owners: map[manifest.Workspace]*Snapshot{}, contested: map[manifest.Workspace][]string{}}
	if len(snapshots) < 2 {
		return v
	}
	claimed := map[manifest.Workspace][]string{}
	for _, s := range snapshots {
		for ws := range s.scopes {
			if s.Claims(ws) {
				claimed[ws] = append(claimed[ws], s.Source)
				v.owners[ws] = s
			}
		}
	}
	for ws, sources := range claimed {
		if len(sources) > 1 {
			delete(v.owners, ws)
			v.contested[ws] = sources
		}
	}
	return v
}

// Snapshots of all sources, sorted by source. Not to be changed.
func (v *View) Snapshots() []*Snapshot {
	if v == nil {
		return nil
	}
	return v.snapshots
}

// Of gives the snapshot that decides about a workspace and serves it: the only
// one, or of several the one whose source claims it. Nil when there is none.
func (v *View) Of(ws manifest.Workspace) *Snapshot {
	switch {
	case v == nil:
		return nil
	case len(v.snapshots) == 1:
		return v.snapshots[0]
	}
	return v.owners[ws]
}

// Contested names the sources that claim a workspace together; nil for one that
// is not contested. The workspace is then refused for all of them.
func (v *View) Contested(ws manifest.Workspace) []string {
	if v == nil {
		return nil
	}
	return v.contested[ws]
}

// AllContested lists every contested workspace with its sources. Not to be changed.
func (v *View) AllContested() map[manifest.Workspace][]string {
	if v == nil {
		return nil
	}
	return v.contested
}

// Claims reports that a source has manifests of a workspace, whether they open or
// not. Grants alone claim nothing.
func (s *Snapshot) Claims(ws manifest.Workspace) bool {
	sc := s.scopes[ws]
	return sc != nil && len(sc.records) > 0
}

// Sync tells how following one source goes.
type Sync struct {
	Source string // as Snapshot.Source
	URL    string // without a credential
	Branch string

	LastLook    time.Time // when the remote was last asked, with or without success
	LastSuccess time.Time // when it last answered and its head was applied
	Head        string    // the remote's head when last seen
	// BehindSince is when a head that is not applied was first seen; zero when the
	// applied commit is the head.
	BehindSince time.Time
	Error       string // of the last look; "" after success
	Class       SyncClass
	Failures    int // looks that failed in a row
	// Refused is the head that is not followed though it was fetched: it rewinds the
	// branch, or nobody allowed signed it. "" when there is none.
	Refused string
	Packs   int // of the mirror
}

// SyncClass says what kind of failure the last look had. It is a closed set, so
// that it can label a metric.
type SyncClass string

// The classes of Sync.
const (
	SyncOK          SyncClass = ""
	SyncUnreachable SyncClass = "unreachable" // may pass by itself
	SyncAuth        SyncClass = "auth"        // the remote takes no credential of ours
	SyncUntrusted   SyncClass = "untrusted"   // the remote is not who it should be
	SyncBranch      SyncClass = "branch"      // no such branch, repository or commit
	SyncRewound     SyncClass = "rewound"     // the branch lost the applied commit
	SyncSignature   SyncClass = "signature"   // the head is not signed as it must be
	SyncMirror      SyncClass = "mirror"      // the mirror is damaged
	SyncDisk        SyncClass = "disk"        // the state folder cannot be written
	SyncLimit       SyncClass = "limit"       // a bound was met
	SyncConfig      SyncClass = "config"      // a file that the settings name
	SyncOther       SyncClass = "other"
)

// Remedy says what people do about a class of failure; "" where nothing failed.
func (c SyncClass) Remedy() string {
	switch c {
	case SyncOK:
		return ""
	case SyncUnreachable:
		return "nothing, if the remote comes back: the agent tries again with growing waits; else see network, proxy and source.url"
	case SyncAuth:
		return "put a credential that may read the repository into the files of source.auth; they are read at each look"
	case SyncUntrusted:
		return "find out why the remote shows another certificate or host key; when that is right, renew source.auth.caFile or knownHostsFile"
	case SyncBranch:
		return "see that the repository has the branch of source.branch, and that source.url and source.path are right"
	case SyncRewound:
		return "find out who moved the branch by force; put it back, or let the agent follow: sealward agent approve COMMIT"
	case SyncSignature:
		return "have an allowed signer sign the head, or merge it anew; the signers are those of source.verify"
	case SyncMirror:
		return "nothing, if the remote answers: the agent clones its mirror anew"
	case SyncDisk:
		return "make room on the disk of the state folder, and let the agent write there"
	case SyncLimit:
		return "make what the error names smaller; the bound is there to protect the agent"
	case SyncConfig:
		return "mend the file that the error names; it is read at each look"
	}
	return "see the agent's log"
}

// Live is what the agent publishes and the server reads. The zero Live has no
// snapshot yet.
type Live struct {
	mu      sync.RWMutex
	view    *View // replaced, never changed
	syncs   map[string]Sync
	changed chan struct{}
}

// Publish makes a snapshot the current one of its source. Only sync loops call it.
func (l *Live) Publish(s *Snapshot) {
	l.mu.Lock()
	defer l.mu.Unlock()
	bySource := func(a, b *Snapshot) int { return cmp.Compare(a.Source, b.Source) }
	next := slices.Clone(l.view.Snapshots())
	if i, found := slices.BinarySearchFunc(next, s, bySource); found {
		next[i] = s
	} else {
		next = slices.Insert(next, i, s)
	}
	l.view = newView(next)
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// View is what is served; nil before the first Publish.
func (l *Live) View() *View {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.view
}

// Current is the snapshot of one source; nil before its first.
func (l *Live) Current(source string) *Snapshot {
	for _, s := range l.View().Snapshots() {
		if s.Source == source {
			return s
		}
	}
	return nil
}

// Changed is closed at the next Publish. Ask for it before View: a change in
// between is then not missed.
func (l *Live) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.changed == nil {
		l.changed = make(chan struct{})
	}
	return l.changed
}

// SetSync notes how the last look of a source went.
func (l *Live) SetSync(s Sync) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.syncs == nil {
		l.syncs = map[string]Sync{}
	}
	l.syncs[s.Source] = s
}

// Syncs of all sources, sorted by source.
func (l *Live) Syncs() []Sync {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return slices.SortedFunc(maps.Values(l.syncs), func(a, b Sync) int { return cmp.Compare(a.Source, b.Source) })
}
