package unseal_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal"
)

// A scope that was carried along through many changes is the same as one that is
// made anew of its last records, and earlier ones stay as they were.
func TestScopeCarriedAlong(t *testing.T) {
	ws, err := manifest.ParseWorkspace("orders")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_800_000_000, 0)
	state := func(sc *unseal.Scope) string {
		s := unseal.Snapshot{}.WithScopes(map[manifest.Workspace]*unseal.Scope{ws: sc})
		out := fmt.Sprint(s.Count(), s.Names(ws, now))
		for _, r := range s.Failing() {
			out += fmt.Sprintf(" %p", r)
		}
		for _, n := range []string{"a", "b", "c", "d"} {
			name, err := manifest.ParseName(n)
			if err != nil {
				t.Fatal(err)
			}
			if sec, ok := s.Secret(ws, name, now); ok {
				out += fmt.Sprint(" ", n, sec.Parts, sec.Failing)
			}
			files := map[*unseal.Record]bool{}
			for _, r := range sc.Files(name) {
				files[r] = true
			}
			out += fmt.Sprint(" ", len(files))
		}
		return out
	}
	rng := rand.New(rand.NewPCG(1, 2))
	record := func() *unseal.Record {
		path := fmt.Sprintf("workspaces/orders/secrets/%c", 'a'+rng.IntN(4))
		if rng.IntN(2) == 0 {
			path += fmt.Sprintf("/part%d", rng.IntN(3))
		}
		r := &unseal.Record{Path: path + ".yaml"}
		if r.Place, _, err = manifest.Locate(r.Path); err != nil {
			t.Fatal(err)
		}
		if kind := rng.IntN(3); kind != 0 {
			r.Good = &unseal.Content{}
		}
		if r.Good == nil || rng.IntN(3) == 0 {
			r.Failure = &unseal.Failure{Class: unseal.FailManifest, Since: now.Add(time.Minute)}
		}
		return r
	}
	records, scope := map[string]*unseal.Record{}, unseal.NewScope(ws, nil)
	seen := map[string]bool{}
	for range 3000 {
		next := maps.Clone(records)
		for range 1 + rng.IntN(3) {
			r := record()
			if rng.IntN(3) == 0 {
				delete(next, r.Path)
			} else {
				next[r.Path] = r
			}
		}
		before := state(scope)
		carried := scope.Next(ws, next)
		if got, want := state(carried), state(unseal.NewScope(ws, next)); got != want {
			t.Fatalf("carried along\n%s\nanew\n%s", got, want)
		}
		if state(scope) != before {
			t.Fatal("an earlier scope was changed")
		}
		records, scope = next, carried
		seen[state(scope)] = true
	}
	if len(seen) < 1000 {
		t.Fatalf("only %d states were seen", len(seen))
	}
}
