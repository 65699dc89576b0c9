package kubernetes

import (
	"fmt"
	"testing"
	"time"
)

// How long a version stands follows from when the next one came.
func TestStandsUntil(t *testing.T) {
	noon := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	now := noon
	e := NewEngine(EngineConfig{Now: func() time.Time { return now }})
	f := family{"shop", "orders", "db"}
	e.families = map[family]bool{f: true}
	e.came[f] = map[string]time.Time{"one": noon.Add(-72 * time.Hour), "two": noon.Add(-23 * time.Hour), "three": noon.Add(-time.Hour), "twin": noon.Add(-time.Hour)}
	for name, want := range map[string]time.Time{
		"one":   noon.Add(time.Hour),      // from when two came
		"two":   noon.Add(23 * time.Hour), // from when three came
		"three": noon.Add(23 * time.Hour), // within the same second as its twin
	} {
		if got := e.standsUntil(f, name); !got.Equal(want) {
			t.Errorf("%s stands until %v, want %v", name, got, want)
		}
	}
	// The newest one, where an older one is wanted again.
	delete(e.came[f], "twin")
	if got := e.standsUntil(f, "three"); !got.Equal(noon.Add(23 * time.Hour)) {
		t.Errorf("what was taken back stands until %v", got)
	}
	now = noon.Add(time.Hour)
	if got := e.standsUntil(f, "one"); !got.IsZero() {
		t.Errorf("it stands on, until %v", got)
	}
	now = noon
	for i := range maxSupersededOf {
		e.came[f][fmt.Sprint("more", i)] = noon
	}
	if got := e.standsUntil(f, "one"); !got.IsZero() {
		t.Errorf("of very many, it stands until %v", got)
	}
	if got := e.standsUntil(f, "three"); got.IsZero() {
		t.Error("of very many, a late one goes too")
	}
	e.families = nil
	if got := e.standsUntil(f, "three"); !got.IsZero() {
		t.Errorf("of no secret, it stands until %v", got)
	}
}
