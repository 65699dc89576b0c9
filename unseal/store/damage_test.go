//go:build !race

// The race detector's pointer checks end the process inside bbolt before it can
// be told that a page is damaged, so this runs without it (make test does both).
package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/store"
)

// Bytes of the file are changed one by one (a sample of them): what is loaded is
// what was written, or the store is damaged; there is no third.
func TestDamageIsNoticed(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "store.db")
	rings := ringOf(t, "orders")
	s := mustOpen(t, path)
	var put []*unseal.Record
	want := map[string]string{"commit": "c1"}
	for i := range 20 {
		r := record(t, "orders", fmt.Sprintf("n%02d", i), fmt.Sprintf("b%02d", i), fmt.Sprintf("value-%02d", i))
		put = append(put, r)
		want[r.Path] = fmt.Sprintf("value-%02d", i)
	}
	if err := s.Commit(store.Update{Source: "src", Commit: "c1", Put: put}, rings); err != nil {
		t.Fatal(err)
	}
	s.Close()
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damaged, same := 0, 0
	for at := 0; at < len(good); at += 37 {
		bad := bytes.Clone(good)
		bad[at] ^= 0x20
		file := filepath.Join(dir, fmt.Sprintf("bad-%d.db", at))
		if err := os.WriteFile(file, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := tryLoad(file, rings)
		switch {
		case errors.Is(err, store.ErrDamaged) || errors.Is(err, store.ErrFormat):
			damaged++
		case err != nil:
			t.Errorf("byte %d: an error of another kind: %v", at, err)
		case fmt.Sprint(got) == fmt.Sprint(want):
			same++
		case len(got) == 0, got["commit"] == "" && len(got) == 1:
			// The other meta page: bbolt fell back to the state before, which was empty.
			same++
		default:
			t.Errorf("byte %d: loaded something else: %v", at, got)
		}
		os.Remove(file)
	}
	if damaged == 0 || same == 0 {
		t.Errorf("damaged %d, same %d: the test does not reach both", damaged, same)
	}
}

func tryLoad(file string, rings store.Rings) (map[string]string, error) {
	s, err := store.Open(file)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	st, err := s.Load(rings)
	if err != nil {
		return nil, err
	}
	out := map[string]string{"commit": st.Commit}
	for _, r := range st.Records {
		out[r.Path] = string(r.Good.Values[0].Data)
	}
	if len(st.Unopened) > 0 { // its key was damaged: nothing is served of it
		return nil, store.ErrDamaged
	}
	return out, nil
}
