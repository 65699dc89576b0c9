package serve_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// The audit's disk is full and has space again, many times, under readers: no value leaves
// without a record that is durable, reads return by themselves, and the chain verifies.
func TestAuditDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=192k"); err != nil {
		if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) {
			t.Skip("mounting is not permitted here")
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	b := newBench(t)
	b.publish()
	path, ballast := filepath.Join(dir, "audit.jsonl"), filepath.Join(dir, "ballast")
	log := b.audited(path)
	var served, refused atomic.Int64
	get := func(path string) {
		w := b.get(base+path, "alice")
		leaked := strings.Contains(w.Body.String(), "hunter")
		switch {
		case w.Code == 200:
			served.Add(1)
		case w.Code == 503 && !leaked && strings.Contains(w.Body.String(), "audit-unavailable"):
			refused.Add(1)
		default:
			t.Errorf("%d %s", w.Code, w.Body)
		}
	}
	for range 3 {
		before := refused.Load()
		f, err := os.Create(ballast)
		if err != nil {
			t.Fatal(err)
		}
		for size := 64 << 10; size > 0; {
			if _, err := f.Write(make([]byte, size)); err != nil {
				size /= 2
			}
		}
		_ = f.Close()
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 20 { // the last page of the log takes a few records still
					get("/db/keys/password")
					get("/db")
				}
			})
		}
		wg.Wait()
		if refused.Load() == before {
			t.Fatal("the disk never got full")
		}
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		if w := b.get(base+"/db/keys/password", "alice"); w.Code != 200 || w.Body.String() != "hunter2<>&" {
			t.Fatalf("space returned, and reads did not: %d %s", w.Code, w.Body)
		}
		served.Add(1)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	_, head := log.Head()
	if n := verified(t, path, head); n != int(served.Load()) {
		t.Errorf("%d values left, %d are recorded", served.Load(), n)
	}
	if strings.Contains(b.log.String(), "hunter") {
		t.Error("the server's log has a value")
	}
}
