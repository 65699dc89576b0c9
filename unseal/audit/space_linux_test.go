package audit

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// A disk that is really full, and then is not.
func TestNoSpace(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) {
			t.Skip("mounting is not permitted here")
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	path := filepath.Join(dir, "audit.jsonl")
	l := mustOpen(t, path)
	mustAppend(t, l, "first")

	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 200<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	var told, refused atomic.Int64
	told.Add(1)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 50 {
				_, err := l.Append(t.Context(), aRead("a"))
				switch {
				case err == nil:
					told.Add(1)
				case errors.Is(err, syscall.ENOSPC):
					refused.Add(1)
				default:
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if refused.Load() == 0 {
		t.Fatal("the disk never got full")
	}
	if sum := mustVerify(t, path, ""); sum.Records != uint64(told.Load()) {
		t.Errorf("%d records, %d told", sum.Records, told.Load())
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, l, "last")
	mustClose(t, l)
	_, head := l.Head()
	mustVerify(t, path, head)
}

// A process killed while it writes: what it was told is there, and the next one goes on.
func TestKilled(t *testing.T) {
	const env = "SEALWARD_AUDIT_TEST_LOG"
	if path := os.Getenv(env); path != "" {
		l, err := Open(path, Options{MaxSize: 16 << 10}) // killed while it rotates, too
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		var mu sync.Mutex
		for range 8 {
			go func() {
				for {
					r, err := l.Append(t.Context(), aRead("a"))
					if err != nil {
						fmt.Fprintln(os.Stderr, err)
						os.Exit(1)
					}
					mu.Lock()
					fmt.Println("told", r.Seq)
					mu.Unlock()
				}
			}()
		}
		select {}
	}

	path := newLogPath(t)
	told := map[uint64]bool{}
	for round := range 5 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
		cmd.Env = append(os.Environ(), env+"="+path)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		n := 0
		for in := bufio.NewScanner(out); in.Scan(); {
			var seq string
			if _, err := fmt.Sscanf(in.Text(), "told %s", &seq); err != nil {
				continue
			}
			s, err := strconv.ParseUint(seq, 10, 64)
			if err != nil {
				break // the last line, cut by the kill
			}
			told[s] = true
			if n++; n == 100+37*round {
				_ = cmd.Process.Kill()
			}
		}
		_ = cmd.Wait()
		if n < 100 {
			t.Fatalf("the process said %d times that it wrote", n)
		}
	}
	l := mustOpen(t, path)
	mustClose(t, l)
	_, head := l.Head()
	sum := mustVerifyLog(t, path, head)
	for s := range told {
		if s > sum.Seq {
			t.Errorf("record %d is missing; the last is %d", s, sum.Seq)
		}
	}
	if uint64(len(told)) > sum.Records {
		t.Errorf("%d told, %d records", len(told), sum.Records)
	}
}
