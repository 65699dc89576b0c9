package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	bolt "go.etcd.io/bbolt"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/keyring"
	"github.com/sealward/sealward/unseal/store"
)

// ringOf makes rings of fresh identities, one a scope that is asked for.
func ringOf(t testing.TB, scopes ...string) store.Rings {
	t.Helper()
	rings := map[string]*keyring.Ring{}
	for _, s := range scopes {
		id, err := age.GenerateX25519Identity()
		if err != nil {
			t.Fatal(err)
		}
		ws, err := manifest.ParseScope(s)
		if err != nil {
			t.Fatal(err)
		}
		if rings[s], err = keyring.ParseRing(ws, []byte(id.String())); err != nil {
			t.Fatal(err)
		}
	}
	return func(ws manifest.Workspace) (*keyring.Ring, error) {
		if r := rings[ws.String()]; r != nil {
			return r, nil
		}
		return nil, keyring.ErrNoRing
	}
}

func record(t testing.TB, ws, name, blob, value string) *unseal.Record {
	t.Helper()
	scope, err := manifest.ParseScope(ws)
	if err != nil {
		t.Fatal(err)
	}
	n, err := manifest.ParseName(name)
	if err != nil {
		t.Fatal(err)
	}
	path := manifest.SecretPath(scope, n)
	place, _, err := manifest.Locate(path)
	if err != nil {
		t.Fatal(err)
	}
	return &unseal.Record{Path: path, Place: place, Blob: blob, Good: &unseal.Content{
		Provenance: unseal.Provenance{Path: path, Blob: blob}, Kind: manifest.KindSecret, Values: []unseal.Value{{Key: "k", Data: []byte(value)}},
	}}
}

func mustOpen(t testing.TB, path string) *store.Store {
	t.Helper()
	s, err := store.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func load(t testing.TB, s *store.Store, rings store.Rings) map[string]string {
	t.Helper()
	st, err := s.Load(rings)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{"commit": st.Commit}
	for _, r := range st.Records {
		out[r.Path] = string(r.Good.Values[0].Data)
	}
	return out
}

func TestWhatIsCommittedComesBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	rings := ringOf(t, "orders", "instance")
	s := mustOpen(t, path)
	if got := load(t, s, rings); len(got) != 1 || got["commit"] != "" {
		t.Errorf("a new store: %v", got)
	}
	a, b, c := record(t, "orders", "a", "b1", "hunter2"), record(t, "orders", "b", "b2", "v2"), record(t, "instance", "c", "b3", "v3")
	if err := s.Commit(store.Update{Source: "src", Commit: "c1", Put: []*unseal.Record{c, b, a}}, rings); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(store.Update{Source: "src", Commit: "c2", Put: []*unseal.Record{record(t, "orders", "a", "b4", "changed")}, Delete: []*unseal.Record{b}}, rings); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, path)
	want := map[string]string{"commit": "c2", a.Path: "changed", c.Path: "v3"}
	if got := load(t, s, rings); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []string{"hunter2", "changed", "aHVudGVyMg"} {
		if bytes.Contains(text, []byte(v)) {
			t.Errorf("the file holds %s", v)
		}
	}
}

// What only Kubernetes Secrets have comes back; a record without it, as all were once,
// is read as before.
func TestKubernetesPartComesBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	rings := ringOf(t, "orders")
	s := mustOpen(t, path)
	a, b := record(t, "orders", "a", "b1", "v1"), record(t, "orders", "b", "b2", "v2")
	yes := true
	a.Good.Kubernetes = &manifest.KubernetesSecret{Type: manifest.TypeTLS, Namespace: "orders", Labels: []manifest.Pair{{Key: "team", Value: "shop"}}, Annotations: []manifest.Pair{{Key: "note", Value: "x"}}, Immutable: &yes}
	if err := s.Commit(store.Update{Source: "src", Commit: "c1", Put: []*unseal.Record{a, b}}, rings); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	st, err := mustOpen(t, path).Load(rings)
	if err != nil || len(st.Records) != 2 {
		t.Fatal(st.Records, err)
	}
	for _, r := range st.Records {
		want := map[string]*manifest.KubernetesSecret{a.Path: a.Good.Kubernetes, b.Path: nil}[r.Path]
		if !reflect.DeepEqual(r.Good.Kubernetes, want) {
			t.Errorf("%s: got %+v, want %+v", r.Path, r.Good.Kubernetes, want)
		}
	}
}

func TestAnotherRingOpensNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	rings := ringOf(t, "orders", "payments")
	s := mustOpen(t, path)
	a, b := record(t, "orders", "a", "b1", "v1"), record(t, "payments", "b", "b2", "v2")
	if err := s.Commit(store.Update{Source: "src", Commit: "c1", Put: []*unseal.Record{a, b}}, rings); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = mustOpen(t, path)
	st, err := s.Load(ringOf(t, "orders"))
	if err != nil || len(st.Records) != 0 || len(st.Unopened) != 2 || st.Commit != "c1" {
		t.Errorf("with foreign rings: %+v, %v", st, err)
	}
	// The next commit lets go of what it can prove nothing about, and goes on.
	other := ringOf(t, "orders")
	if err := s.Commit(store.Update{Source: "src", Commit: "c2", Put: []*unseal.Record{record(t, "orders", "a", "b9", "new")}}, other); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = mustOpen(t, path)
	if got := load(t, s, other); fmt.Sprint(got) != fmt.Sprint(map[string]string{"commit": "c2", a.Path: "new"}) {
		t.Errorf("got %v", got)
	}
}

func TestOneProcessOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	mustOpen(t, path)
	if _, err := store.Open(path); !errors.Is(err, store.ErrInUse) {
		t.Errorf("the second Open: %v", err)
	}
}

func TestMoveAsideKeepsBoth(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var moved []string
	for _, text := range []string{"one", "two"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		to, err := store.MoveAside(path, now)
		if err != nil {
			t.Fatal(err)
		}
		moved = append(moved, to)
	}
	for i, want := range []string{"one", "two"} {
		if got, err := os.ReadFile(moved[i]); err != nil || string(got) != want {
			t.Errorf("%s: %s, %v", moved[i], got, err)
		}
	}
}

// Who can write the file but holds no identity cannot make a scope of their own:
// a key that is merely encrypted to the public recipient is not believed.
func TestForgedScopeKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	rings := ringOf(t, "orders")
	s := mustOpen(t, path)
	if err := s.Commit(store.Update{Source: "src", Commit: "c1", Put: []*unseal.Record{record(t, "orders", "a", "b1", "v1")}}, rings); err != nil {
		t.Fatal(err)
	}
	s.Close()
	ws, _ := manifest.ParseWorkspace("orders")
	ring, _ := rings(ws)
	to, err := ring.ActiveRecipient()
	if err != nil {
		t.Fatal(err)
	}
	var forged bytes.Buffer
	w, err := age.Encrypt(&forged, to)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write(make([]byte, 32))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte("keys"))
		mac := bytes.Clone(b.Get([]byte("orders"))[:32])
		return b.Put([]byte("orders"), append(mac, forged.Bytes()...))
	}); err != nil {
		t.Fatal(err)
	}
	db.Close()
	st, err := mustOpen(t, path).Load(rings)
	if err != nil || len(st.Records) != 0 || len(st.Unopened) != 1 {
		t.Errorf("%+v, %v", st, err)
	}
}

// A file that ends within its first pages is damaged, and an empty one is new.
func TestCutShort(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	mustOpen(t, path).Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{1, 100, 4095, 4096, 4097, 8191} {
		if err := os.WriteFile(path, whole[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := store.Open(path); !errors.Is(err, store.ErrDamaged) {
			t.Errorf("%d bytes: %v, %v", size, s, err)
		}
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, path).Close()
}

// edit changes the file behind the store's back.
func edit(t testing.TB, path string, f func(tx *bolt.Tx) error) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Update(f); err != nil {
		t.Fatal(err)
	}
}

// The proof of a set is carried along with each change, and made anew at each Load:
// both have to agree after any changes.
func TestSetIsCarriedAlong(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	rings := ringOf(t, "orders", "payments")
	s := mustOpen(t, path)
	rng := rand.New(rand.NewPCG(3, 4))
	want := map[string]string{}
	for i := range 120 {
		u := store.Update{Source: "src", Commit: fmt.Sprintf("c%d", i)}
		want["commit"] = u.Commit
		for range 1 + rng.IntN(4) {
			ws := []string{"orders", "payments"}[rng.IntN(2)]
			r := record(t, ws, fmt.Sprintf("n%d", rng.IntN(12)), fmt.Sprintf("b%d", i), fmt.Sprint(i))
			if slices.ContainsFunc(slices.Concat(u.Put, u.Delete), func(o *unseal.Record) bool { return o.Path == r.Path }) {
				continue
			}
			if rng.IntN(3) == 0 {
				u.Delete = append(u.Delete, r)
				delete(want, r.Path)
			} else {
				u.Put = append(u.Put, r)
				want[r.Path] = fmt.Sprint(i)
			}
		}
		if err := s.Commit(u, rings); err != nil {
			t.Fatal(err)
		}
		if i%10 == 9 {
			if i%20 == 9 {
				s.Close()
				s = mustOpen(t, path)
			} else {
				s.Forget()
			}
			if got := load(t, s, rings); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("after commit %d: %v, want %v", i, got, want)
			}
		}
	}
}

// Who can write the file but holds no key cannot mix states of different commits.
func TestMixedStates(t *testing.T) {
	dir := t.TempDir()
	rings := ringOf(t, "orders")
	s := mustOpen(t, filepath.Join(dir, "store.db"))
	var states []map[string][]byte // of each commit: records by path, and the root
	bucket := []byte("records:orders")
	for i, u := range []store.Update{
		{Put: []*unseal.Record{record(t, "orders", "a", "b1", "old"), record(t, "orders", "b", "b1", "old")}},
		{Put: []*unseal.Record{record(t, "orders", "a", "b2", "new")}},
		{Put: []*unseal.Record{record(t, "orders", "b", "b2", "new")}},
		{Delete: []*unseal.Record{record(t, "orders", "a", "b2", "new")}},
	} {
		u.Source, u.Commit = "src", fmt.Sprintf("c%d", i)
		if err := s.Commit(u, rings); err != nil {
			t.Fatal(err)
		}
		s.Close()
		state := map[string][]byte{}
		edit(t, filepath.Join(dir, "store.db"), func(tx *bolt.Tx) error {
			state["root"] = bytes.Clone(tx.Bucket([]byte("meta")).Get([]byte("root")))
			return tx.Bucket(bucket).ForEach(func(path, stored []byte) error {
				state[string(path)] = bytes.Clone(stored)
				return nil
			})
		})
		states = append(states, state)
		s = mustOpen(t, filepath.Join(dir, "store.db"))
	}
	s.Close()
	a, b := record(t, "orders", "a", "", "").Path, record(t, "orders", "b", "", "").Path
	whole, refused := 0, 0
	for root := range states {
		for ofA := range states {
			for ofB := range states {
				edit(t, filepath.Join(dir, "store.db"), func(tx *bolt.Tx) error {
					put := func(path string, stored []byte) error {
						if stored == nil {
							return tx.Bucket(bucket).Delete([]byte(path))
						}
						return tx.Bucket(bucket).Put([]byte(path), stored)
					}
					return errors.Join(put(a, states[ofA][a]), put(b, states[ofB][b]), tx.Bucket([]byte("meta")).Put([]byte("root"), states[root]["root"]))
				})
				same := bytes.Equal(states[ofA][a], states[root][a]) && bytes.Equal(states[ofB][b], states[root][b])
				s := mustOpen(t, filepath.Join(dir, "store.db"))
				_, err := s.Load(rings)
				s.Close()
				switch {
				case same && err == nil:
					whole++
				case !same && errors.Is(err, store.ErrDamaged):
					refused++
				default:
					t.Errorf("root of commit %d, a of %d, b of %d: %v", root, ofA, ofB, err)
				}
			}
		}
	}
	if whole < len(states) || refused == 0 {
		t.Errorf("%d whole states and %d mixtures were tried", whole, refused)
	}
}

// An empty store is filled in several transactions. Until the last one it counts as
// empty, and what an attempt left behind never comes back.
func TestFillIsAllOrNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	large := strings.Repeat("x", 3<<20)
	var put []*unseal.Record
	want := map[string]string{"commit": "c1"}
	for i, ws := range []string{"orders", "orders", "orders", "payments", "payments"} {
		r := record(t, ws, fmt.Sprintf("n%d", i), "b1", large)
		put = append(put, r)
		want[r.Path] = large
	}
	s := mustOpen(t, path)
	if err := s.Commit(store.Update{Source: "src", Commit: "c1", Put: put}, ringOf(t, "orders")); err == nil {
		t.Fatal("a workspace without a ring was stored")
	}
	s.Close()
	left := 0
	edit(t, path, func(tx *bolt.Tx) error {
		left = tx.Bucket([]byte("records:orders")).Stats().KeyN
		return nil
	})
	if left == 0 || left >= len(put) {
		t.Fatalf("the attempt left %d records: the test needs some", left)
	}
	s = mustOpen(t, path)
	rings := ringOf(t, "orders", "payments") // of other keys than the attempt's
	if got := load(t, s, rings); len(got) != 1 || got["commit"] != "" {
		t.Errorf("after the attempt %d records are there", len(got)-1)
	}
	if err := s.Commit(store.Update{Source: "src", Commit: "c1", Put: put[1:]}, rings); err != nil {
		t.Fatal(err)
	}
	delete(want, put[0].Path)
	s.Close()
	s = mustOpen(t, path)
	if got := load(t, s, rings); !maps.Equal(got, want) {
		t.Errorf("%d of %d records are there", len(got), len(want))
	}
}

// A store of an earlier layout is told apart, by Load and by Commit.
func TestOtherFormat(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	rings := ringOf(t, "orders")
	s := mustOpen(t, path)
	u := store.Update{Source: "src", Commit: "c1", Put: []*unseal.Record{record(t, "orders", "a", "b1", "v")}}
	if err := s.Commit(u, rings); err != nil {
		t.Fatal(err)
	}
	s.Close()
	edit(t, path, func(tx *bolt.Tx) error {
		meta := tx.Bucket([]byte("meta"))
		return meta.Put([]byte("root"), bytes.Replace(meta.Get([]byte("root")), []byte(`"Format":2`), []byte(`"Format":1`), 1))
	})
	s = mustOpen(t, path)
	if _, err := s.Load(rings); !errors.Is(err, store.ErrFormat) {
		t.Errorf("Load: %v", err)
	}
	if err := s.Commit(u, rings); !errors.Is(err, store.ErrFormat) {
		t.Errorf("Commit: %v", err)
	}
}
