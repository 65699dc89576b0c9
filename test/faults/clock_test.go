package faults

import (
	"context"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// The remote is down for an hour of a fake clock: the looks grow rare, up to a
// bound, what was applied is served all the time, the status shows since when
// nothing new was seen, and when the remote is back the agent catches up by
// itself.
func TestRemoteDownForAnHour(t *testing.T) {
	dir, seed := t.TempDir(), newSeed(t)
	repo := newRepository(t, dir, 4, seed)
	remote := newRemote(t, filepath.Join(dir, "git"), seed)
	remote.Config.SetKeepAlivesEnabled(false) // the fake clock stands still while a connection waits
	from := remote.config(dir)
	token := tokenOf(t, dir, "reader", 0, time.Now())
	old := repo.head

	synctest.Test(t, func(t *testing.T) {
		in := open(t, dir, from, time.Now, 30*time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		if _, err := in.agent.Sync(ctx); err != nil {
			t.Fatal(err)
		}
		remote.set(reset, 0)
		repo.change(5)
		down := time.Now()
		var running sync.WaitGroup
		running.Go(func() { in.agent.Run(ctx) })
		for time.Since(down) < time.Hour {
			time.Sleep(time.Minute)
			if code := in.code("orders/s0000", token); code != http.StatusOK {
				t.Fatalf("after %s the answer is %d", time.Since(down), code)
			}
		}
		s := in.source(token)
		if lag := time.Since(s.Sync.LastSuccess); s.Commit != old || s.Sync.Error == "" || lag < time.Hour {
			t.Errorf("status after an hour: %+v", s)
		}
		looks := in.log.times("sync failed")
		if len(looks) < 12 || len(looks) > 20 || s.Sync.Failures != len(looks) {
			t.Errorf("%d looks in an hour, %d failures", len(looks), s.Sync.Failures)
		}
		for i := 1; i < len(looks); i++ {
			gap := looks[i].Sub(looks[i-1])
			if gap > 5*time.Minute+30*time.Second || i > 5 && gap < 4*time.Minute+30*time.Second {
				t.Errorf("look %d comes %s after the one before", i, gap)
			}
		}
		remote.set(none, 0)
		time.Sleep(5*time.Minute + 30*time.Second)
		synctest.Wait()
		if s := in.source(token); s.Commit != repo.head || s.Sync.Error != "" || s.Sync.Failures != 0 {
			t.Errorf("status when the remote is back: %+v", s)
		}
		cancel()
		running.Wait()
		in.close()
	})
}

// The clock jumps forward and back while the agent runs and reads come: what the
// clock decides (a grant's and a token's end, how long a last good value may stay)
// follows it, nothing else changes, and the remote is not asked more often.
func TestClockJumps(t *testing.T) {
	dir, seed := t.TempDir(), newSeed(t)
	repo := newRepository(t, dir, 4, seed)
	remote := newRemote(t, filepath.Join(dir, "git"), seed)
	remote.Config.SetKeepAlivesEnabled(false)
	from := remote.config(dir)
	began := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // of every fake clock
	token := tokenOf(t, dir, "reader", 0, began)
	short := tokenOf(t, dir, "short", 2*time.Hour, began)
	grant := func(user, more string) edit {
		return put("workspaces/orders/grants/"+user+".yaml", "name: "+user+"\nversion: v1alpha\ntype: grant\nworkspace: orders\ngrant: {policy_use_case_id: read-all-secrets, subjects: [users:id:"+user+"], effect: allow"+more+"}\n")
	}
	soon := tokenOf(t, dir, "soon", 0, began)
	broken := manifestPath("orders", "s0002")
	repo.push(grant("short", ""), grant("soon", ", expires: 2000-01-01T02:00:00Z"))

	synctest.Test(t, func(t *testing.T) {
		var jump atomic.Int64
		now := func() time.Time { return time.Now().Add(time.Duration(jump.Load())) }
		in := open(t, dir, from, now, time.Minute)
		ctx, cancel := context.WithCancel(t.Context())
		if _, err := in.agent.Sync(ctx); err != nil {
			t.Fatal(err)
		}
		repo.push(repo.spoil(broken))
		var running sync.WaitGroup
		running.Go(func() { in.agent.Run(ctx) })
		synctest.Wait()
		asked := remote.seen(none)
		const year = 365 * 24 * time.Hour
		for round, step := range []struct {
			jump                        time.Duration
			reader, stale, short, soon_ int
		}{
			{0, 200, 200, 200, 200},
			{2 * time.Hour, 200, 200, 401, 403},
			{-2 * time.Hour, 200, 200, 200, 200},
			{25 * time.Hour, 200, 404, 401, 403},
			{-year, 200, 200, 200, 200},
			{20 * year, 200, 404, 401, 403},
			{time.Minute, 200, 200, 200, 200},
		} {
			jump.Store(int64(step.jump))
			time.Sleep(10 * time.Minute)
			for _, c := range []struct {
				what      string
				got, want int
			}{
				{"a good secret", in.code("orders/s0000", token), step.reader}, {"a stale secret", in.code("orders/s0002", token), step.stale},
				{"a token that ends", in.code("orders/s0000", short), step.short}, {"a grant that ends", in.code("orders/s0000", soon), step.soon_},
			} {
				if c.got != c.want {
					t.Errorf("step %d, clock %s off: %s: %d, want %d", round, step.jump, c.what, c.got, c.want)
				}
			}
		}
		// 70 minutes at one look a minute, give or take the jitter and one look a jump.
		if looks := remote.seen(none) - asked; looks < 60 || looks > 90 {
			t.Errorf("%d looks in 70 minutes", looks)
		}
		cancel()
		running.Wait()
		in.close()
	})
}
