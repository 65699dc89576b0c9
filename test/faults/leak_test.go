package faults

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// openFiles counts the descriptors of a process that are not packs of the mirror:
// each of those is held open on purpose.
func openFiles(t *testing.T, pid string) (other, packs int) {
	t.Helper()
	list, err := os.ReadDir("/proc/" + pid + "/fd")
	must(t, err)
	for _, fd := range list {
		to, err := os.Readlink("/proc/" + pid + "/fd/" + fd.Name())
		switch {
		case err != nil: // it was closed in between
		case strings.HasSuffix(to, ".pack"):
			packs++
		default:
			other++
		}
	}
	return other, packs
}

// Many syncs that fail in every way leave no goroutine, descriptor or file behind.
func TestNothingLeaks(t *testing.T) {
	dir, seed := t.TempDir(), newSeed(t)
	repo := newRepository(t, dir, 4, seed)
	remote := newRemote(t, filepath.Join(dir, "git"), seed)
	from := remote.config(dir)
	from.Timeout = 150 * time.Millisecond
	tokenOf(t, dir, "reader", 0, time.Now())
	round := func(in *inside) {
		for _, what := range troubles {
			remote.set(what, int64(repo.random.IntN(1500)))
			repo.change(3)
			_, _ = in.agent.Sync(context.Background())
		}
		remote.set(none, 0)
		if _, err := in.agent.Sync(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	rest := func() (goroutines, other int) {
		remote.CloseClientConnections()
		time.Sleep(50 * time.Millisecond) // connections end by themselves
		other, _ = openFiles(t, "self")
		return runtime.NumGoroutine(), other
	}

	before, filesBefore := rest()
	in := open(t, dir, from, time.Now, time.Minute)
	in.agent.Sync(context.Background())
	round(in)
	first, filesFirst := rest()
	for range 5 {
		round(in)
	}
	eventually(t, "as many goroutines and descriptors as after the first round", func() bool {
		n, files := rest()
		return n <= first && files <= filesFirst
	})
	if _, packs := openFiles(t, "self"); packs != in.mirror.Packs() {
		t.Errorf("%d packs are open, the mirror has %d", packs, in.mirror.Packs())
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "state/mirror/objects/pack/tmp_*")); len(left) > 0 {
		t.Errorf("unfinished transfers stay: %v", left)
	}
	in.close()
	eventually(t, "as many goroutines and descriptors as before the agent", func() bool {
		n, files := rest()
		return n <= before && files <= filesBefore
	})
	if _, packs := openFiles(t, "self"); packs != 0 {
		t.Errorf("%d packs are open after the end", packs)
	}
}
