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
		return serve.StatusJSON{Ready: true, Sources: []serve.SourceJSON{{Name: "a", Commit: "1"}, {Name: "b", Commit: "2"}}}
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
