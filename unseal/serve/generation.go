package serve

import (
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/sealward/sealward/unseal"
)

const (
	maxWait         = 50 * time.Second // below the server's time-out for an answer
	maxWaits        = 1000
	maxWaitsOfOne   = 64
	headerNotBefore = "If-Commit-Not-Before"
)

// fresh is what a caller asks of the generation it gets.
type fresh struct {
	notBefore string        // this commit or one that contains it; "" for any
	after     string        // one that contains this commit and is not it; "" for any
	wait      time.Duration // for that to be there
}

// parseFresh reads If-Commit-Not-Before, after and wait.
func parseFresh(r *http.Request) (f fresh, err error) {
	q := r.URL.Query()
	f.notBefore, f.after = r.Header.Get(headerNotBefore), q.Get("after")
	for _, c := range []string{f.notBefore, f.after} {
		if c != "" && !isCommit(c) {
			return f, errors.New(headerNotBefore + " and after take the whole hash of a commit")
		}
	}
	if w := q.Get("wait"); w != "" {
		if f.wait, err = time.ParseDuration(w); err != nil || f.wait < 0 || f.wait > maxWait {
			return f, errors.New("wait is a duration from 0s to 50s")
		}
	}
	return f, nil
}

// verdict on a generation.
type verdict int

const (
	newEnough verdict = iota
	notNewer          // after: it is that very commit
	behind            // it is older, or the commit is unknown here yet
	apart             // neither contains the other: the branch was moved by force
)

// judge compares the commit of a snapshot with what is asked. A commit is newer
// when it descends: times say nothing.
func (s *server) judge(r *request, snapshot *unseal.Snapshot, f fresh) (verdict, error) {
	for _, named := range []string{f.notBefore, f.after} {
		if named == "" {
			continue
		}
		if named == snapshot.Commit {
			if named == f.after {
				return notNewer, nil
			}
			continue
		}
		contains := func(commit, ancestor string) (bool, error) {
			return s.Follower.Contains(r.Context(), snapshot.Source, commit, ancestor)
		}
		in, err := contains(snapshot.Commit, named)
		switch {
		case errors.Is(err, unseal.ErrUnknownCommit):
			return behind, nil
		case err != nil:
			return behind, err
		case in:
			continue
		}
		if later, err := contains(named, snapshot.Commit); err != nil || later {
			return behind, err
		}
		return apart, nil
	}
	return newEnough, nil
}

// settle makes the request's view one that is as new as the caller asks, and waits
// for it if it may. known gives the snapshots of what the caller may read, in the
// view that it has now; it is asked first, and again after the wait: a caller that may
// not read learns nothing of commits, and one whose right ended while it waited gets
// the denial. same reports that the caller has what it would get (If-None-Match): then
// too it waits, until something else is there or the wait is over. It reports whether
// the caller goes on; else it has answered.
func (s *server) settle(w http.ResponseWriter, r *request, known func() []*unseal.Snapshot, same func() bool) bool {
	f, err := parseFresh(r.Request)
	if err != nil {
		writeError(w, http.StatusBadRequest, "bad-request", err.Error())
		return false
	}
	named := (f.notBefore != "" || f.after != "") && s.Follower != nil
	awaits := same != nil && f.wait > 0 && r.Header.Get("If-None-Match") != ""
	if !named && !awaits {
		return true
	}
	var timeout <-chan time.Time
	expired := f.wait == 0
	for {
		changed := s.Live.Changed()
		if !s.renew(w, r) {
			return false
		}
		snapshots := known()
		if len(snapshots) == 0 {
			return true // to the denial that everybody gets
		}
		v := newEnough
		for _, snapshot := range snapshots {
			if !named {
				break
			}
			of, err := s.judge(r, snapshot, f)
			if err != nil {
				s.Log.Error("two commits cannot be compared", "error", err)
				writeError(w, http.StatusServiceUnavailable, "unknown", "whether the commit is older or newer cannot be told; see the agent's log")
				return false
			}
			v = max(v, of)
		}
		if len(snapshots) == 1 {
			w.Header().Set("Sealward-Generation", snapshots[0].Commit)
		}
		switch {
		case v == newEnough && (expired || !awaits || !same()):
			return true
		case v == apart:
			writeError(w, http.StatusConflict, "incomparable", "the served commit and the named one do not contain each other: the branch was moved by force")
			return false
		}
		switch {
		case !expired:
		case v == notNewer:
			w.WriteHeader(http.StatusNotModified)
			return false
		default:
			writeError(w, http.StatusConflict, "behind", "this agent has not applied the named commit yet; ask again, or another agent")
			return false
		}
		w.Header().Del("Sealward-Generation") // whoever waits may lose the right to know it
		if timeout == nil {
			release, ok := s.waits.enter(r.caller.User.String())
			if !ok {
				tooMany(w)
				return false
			}
			defer release()
			timer := time.NewTimer(f.wait)
			defer timer.Stop()
			timeout = timer.C
			if v != newEnough { // a newer commit is asked for by name
				s.Follower.Look()
			}
		}
		snapshots, r.snapshot, r.view = nil, nil, nil // not held while waiting
		select {
		case <-changed:
		case <-timeout:
			expired = true
		case <-s.Stopping:
			expired = true
		case <-r.Context().Done():
			return false
		}
	}
}

// renew authenticates again and takes what is served now.
func (s *server) renew(w http.ResponseWriter, r *request) bool {
	now := s.Now()
	caller, err := s.Identity.Authenticate(r.Request, now)
	if err != nil {
		s.unauthenticated(w, r.Request, err)
		return false
	}
	r.caller, r.now, r.view = caller, now, s.Live.View()
	r.snapshot = r.view.Of(r.workspace)
	return true
}

// waits counts the requests that wait: each holds a connection and a goroutine.
type waits struct {
	mu    sync.Mutex
	all   int
	ofOne map[string]int
}

func (c *waits) enter(who string) (leave func(), ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all >= maxWaits || c.ofOne[who] >= maxWaitsOfOne {
		return nil, false
	}
	if c.ofOne == nil {
		c.ofOne = map[string]int{}
	}
	c.all++
	c.ofOne[who]++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.all--
		if c.ofOne[who]--; c.ofOne[who] == 0 {
			delete(c.ofOne, who)
		}
	}, true
}
