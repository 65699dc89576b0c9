package main

import (
	"strings"
	"testing"
	"time"

	"github.com/sealward/sealward/unseal/serve"
)

// What status --check passes, and what it does not.
func TestWell(t *testing.T) {
	good := func() serve.StatusJSON {
		return serve.StatusJSON{Ready: true, Sources: []serve.SourceJSON{{Name: "a", Commit: "1"}, {Name: "b", Commit: "2"}},
			Cluster: &serve.ClusterJSON{Leader: "x", Leading: true, Objects: []serve.ClusterCountJSON{{Kind: "Secret", Desired: 2, Ready: 2}}}}
	}
	follower := good()
	follower.Cluster.Leading, follower.Cluster.Objects[0].Ready = false, 0
	if !well(follower) {
		t.Error("a replica that does not lead is not well")
	}
	if !well(good()) {
		t.Error("all is well")
	}
	for name, spoil := range map[string]func(*serve.StatusJSON){
		"nothing is served":           func(s *serve.StatusJSON) { s.Ready = false },
		"one source serves nothing":   func(s *serve.StatusJSON) { s.Sources[1].Commit = "" },
		"a look failed":               func(s *serve.StatusJSON) { s.Sources[0].Sync.Error = "unreachable" },
		"one source is behind":        func(s *serve.StatusJSON) { s.Sources[0].Sync.LagSeconds = 1 },
		"a manifest fails":            func(s *serve.StatusJSON) { s.Counts.Failing = 1 },
		"removals wait":               func(s *serve.StatusJSON) { s.Counts.Held = 1 },
		"a workspace is contested":    func(s *serve.StatusJSON) { s.Counts.Contested = 1 },
		"a file belongs to no secret": func(s *serve.StatusJSON) { s.Counts.Problems = 1 },
		"nobody leads":                func(s *serve.StatusJSON) { s.Cluster.Leader = "" },
		"the leader waits":            func(s *serve.StatusJSON) { s.Cluster.Waiting = "x" },
		"a Secret does not stand":     func(s *serve.StatusJSON) { s.Cluster.Objects[0].Ready = 1 },
		"an object is held":           func(s *serve.StatusJSON) { s.Cluster.Held = 1 },
		"something is foreign":        func(s *serve.StatusJSON) { s.Cluster.ProblemCount = 1 },
		"the clock is wrong":          func(s *serve.StatusJSON) { s.Cluster.SkewSeconds = -6 },
	} {
		s := good()
		if spoil(&s); well(s) {
			t.Errorf("%s, and all is well", name)
		}
	}
}

// Whoever sees only a part is told that there is more.
func TestStatusSaysWhatItHides(t *testing.T) {
	var out strings.Builder
	printStatus(&out, serve.StatusJSON{
		Sources: []serve.SourceJSON{{Name: "a"}},
		Counts:  serve.CountsJSON{Held: 3, Failing: 2},
		Held:    []serve.HeldJSON{{Commit: "c", Count: 3, Paths: []string{"seen.yaml"}}},
	}, false, time.Now())
	for _, want := range []string{"not ready", "seen.yaml", "4 more that you may not list"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, out.String())
		}
	}
}

// The cluster's part says who writes, what stands, and what to do about the rest.
func TestStatusOfACluster(t *testing.T) {
	c := &serve.ClusterJSON{Namespace: "sealward", Identity: "sealward-1_b", Leader: "sealward-0_a", Objects: []serve.ClusterCountJSON{{Kind: "Secret", Desired: 12, Ready: 11}},
		ProblemCount: 3, Problems: []serve.ClusterProblemJSON{{Kind: "Secret", Namespace: "orders", Name: "db", Reason: "NotOurs", Message: "somebody else's", Remedy: "rename it"}},
		Commits: map[string]string{"main": "c0ffee00000000"}}
	print := func() string {
		var out strings.Builder
		printStatus(&out, serve.StatusJSON{Cluster: c}, false, time.Now())
		return out.String()
	}
	wants := func(texts ...string) {
		t.Helper()
		for _, want := range texts {
			if !strings.Contains(print(), want) {
				t.Errorf("no %q in:\n%s", want, print())
			}
		}
	}
	wants("sealward-0_a writes; this agent is sealward-1_b", "Secret: 12 should stand", "Secret orders/db: NotOurs\n  somebody else's\n  to do: rename it\n", "  main: commit c0ffee000000\n", "2 more problems in the cluster")
	c.Leader, c.Leading, c.Held, c.Waiting, c.SkewSeconds = c.Identity, true, 5, "an older commit", -61
	wants("sealward-1_b (this agent) writes", "Secret: 11 of 12 stand", "5 objects stay", "sealward agent approve", "not written: an older commit", "1m1s behind the API server")
}
