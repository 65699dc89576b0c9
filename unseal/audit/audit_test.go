package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// faulty is a real file whose operations a test can make fail.
type faulty struct {
	*os.File
	syncs, writes atomic.Int64

	mu                          sync.Mutex
	writeErr, syncErr, truncErr error
	short                       int           // bytes written before writeErr
	hold                        chan struct{} // if not nil, Sync waits for it
	random                      *rand.Rand    // if not nil, everything fails now and then
}

func (f *faulty) set(change func(f *faulty)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *faulty) Write(b []byte) (int, error) {
	f.mu.Lock()
	err, short := f.writeErr, f.short
	if f.random != nil && f.random.IntN(4) == 0 {
		err, short = syscall.ENOSPC, f.random.IntN(len(b)+1)
	}
	f.mu.Unlock()
	f.writes.Add(1)
	if err != nil {
		n, _ := f.File.Write(b[:min(short, len(b))])
		return n, err
	}
	return f.File.Write(b)
}

func (f *faulty) Sync() error {
	f.mu.Lock()
	err, hold := f.syncErr, f.hold
	if f.random != nil && f.random.IntN(4) == 0 {
		err = syscall.EIO
	}
	f.mu.Unlock()
	if hold != nil {
		<-hold
	}
	f.syncs.Add(1)
	if err != nil {
		return err
	}
	return f.File.Sync()
}

func (f *faulty) Truncate(size int64) error {
	f.mu.Lock()
	err := f.truncErr
	if f.random != nil && f.random.IntN(3) == 0 {
		err = syscall.EIO
	}
	f.mu.Unlock()
	if err != nil {
		return err
	}
	return f.File.Truncate(size)
}

func openFaulty(t testing.TB, path string, opts Options) (*Log, *faulty) {
	t.Helper()
	f := &faulty{}
	l, err := open(path, opts, func(real *os.File) file { f.File = real; return f })
	if err != nil {
		t.Fatal(err)
	}
	return l, f
}

func newLogPath(t testing.TB) string { return filepath.Join(t.TempDir(), "audit.jsonl") }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustOpen(t testing.TB, path string) *Log {
	t.Helper()
	l, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func mustClose(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// aRead is a read of name with every field that a caller fills.
func aRead(name string) Record {
	return Record{
		Event: Read, Decision: Allow, Reason: "granted", Status: 200,
		Subject: "users:id:alice", Roles: []string{"roles:id:orders-dev"}, Credential: "tok-1", Method: "token", Remote: "10.0.0.7",
		Workspace: "orders", Name: name, Keys: []string{"password", "username"},
		Grant: "workspaces/orders/grants/readers.yaml", Role: "orders-dev",
		Commit: strings.Repeat("a1", 20), Path: "workspaces/orders/secrets/orders-db-r.yaml", Blob: strings.Repeat("b2", 20),
	}
}

func mustAppend(t testing.TB, l *Log, name string) Record {
	t.Helper()
	r, err := l.Append(context.Background(), aRead(name))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func verifyFile(t testing.TB, path, head string) (Summary, error) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return Verify(f, VerifyOptions{Head: head})
}

func mustVerify(t testing.TB, path, head string) Summary {
	t.Helper()
	sum, err := verifyFile(t, path, head)
	if err != nil {
		t.Fatalf("%s does not verify: %v", path, err)
	}
	return sum
}

// records reads what a log holds, leaving out what is no record.
func records(t testing.TB, path string) []Record {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []Record
	for line := range bytes.Lines(b) {
		if r, err := decode(bytes.TrimSuffix(line, []byte("\n"))); err == nil {
			out = append(out, r)
		}
	}
	return out
}

// The format is a promise to whoever parses the file: the order of the fields, their
// names, how times are written, and what is hashed.
func TestFormat(t *testing.T) {
	path := newLogPath(t)
	now := time.Date(2026, 7, 1, 12, 0, 0, 120_000_000, time.FixedZone("CEST", 2*60*60))
	l, err := Open(path, Options{Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	if seq, head := l.Head(); seq != 0 || head != genesis {
		t.Errorf("empty log has head %d %s", seq, head)
	}
	first, err := l.Append(t.Context(), Record{Event: Start})
	if err != nil {
		t.Fatal(err)
	}
	second := mustAppend(t, l, "orders-db-r")
	l.Unauthenticated(Expired)
	l.Unauthenticated("never heard of")
	mustClose(t, l)

	lines := []string{
		`{"seq":1,"time":"2026-07-01T10:00:00.12Z","event":"start","prev":"` + genesis + `"}`,
		`{"seq":2,"time":"2026-07-01T10:00:00.12Z","event":"read","decision":"allow","reason":"granted","status":200,` +
			`"subject":"users:id:alice","roles":["roles:id:orders-dev"],"credential":"tok-1","method":"token","remote":"10.0.0.7",` +
			`"workspace":"orders","name":"orders-db-r","keys":["password","username"],` +
			`"grant":"workspaces/orders/grants/readers.yaml","role":"orders-dev",` +
			`"commit":"a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1","path":"workspaces/orders/secrets/orders-db-r.yaml",` +
			`"blob":"b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2","prev":"%s"}`,
		`{"seq":3,"time":"2026-07-01T10:00:00.12Z","event":"unauthenticated","count":2,"reasons":{"expired":1,"other":1},` +
			`"since":"2026-07-01T10:00:00.12Z","prev":"%s"}`,
	}
	want := lines[0] + "\n"
	for _, line := range lines[1:] {
		all := strings.Split(strings.TrimSuffix(want, "\n"), "\n")
		want += fmt.Sprintf(line, hashOf([]byte(all[len(all)-1]))) + "\n"
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("file is\n%s\nwant\n%s", got, want)
	}
	if recs := records(t, path); !reflect.DeepEqual(recs[:2], []Record{first, second}) {
		t.Errorf("Append returned\n%+v\n%+v\nthe file has\n%+v", first, second, recs[:2])
	}
	sum := mustVerify(t, path, "")
	if seq, head := l.Head(); sum.Head != head || sum.Seq != seq || sum.Records != 3 || !sum.First.Equal(now) {
		t.Errorf("summary %+v, head %d %s", sum, seq, head)
	}
}

func TestOpenCreates(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log", "sealward")
	path := filepath.Join(dir, "audit.jsonl")
	mustClose(t, mustOpen(t, path))
	for p, want := range map[string]fs.FileMode{path: 0o600, dir: 0o700, filepath.Dir(dir): 0o700} {
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", p, info.Mode().Perm(), want)
		}
	}
	if sum := mustVerify(t, path, genesis); sum.Records != 0 {
		t.Errorf("a new log has %d records", sum.Records)
	}
}

func TestOpenGoesOn(t *testing.T) {
	path := newLogPath(t)
	for i := range 5 {
		l := mustOpen(t, path)
		if seq, _ := l.Head(); seq != uint64(2*i) {
			t.Fatalf("opened at seq %d, want %d", seq, 2*i)
		}
		mustAppend(t, l, "a")
		mustAppend(t, l, "b")
		mustClose(t, l)
	}
	if sum := mustVerify(t, path, ""); sum.Records != 10 || sum.Torn != 0 {
		t.Errorf("summary %+v", sum)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, content string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	for path, want := range map[string]string{
		write("config.yaml", "audit:\n  file: audit.jsonl\n"): "is not an audit log",
		write("other.jsonl", "{\"seq\":1}\n"):                 "is not an audit log",
		write("newline", "\n"):                                "is not an audit log",
		write("huge", strings.Repeat("x", window+1)):          "sealward audit verify",
		write("long", strings.Repeat("y\n", window)):          "sealward audit verify",
		dir:        "directory",
		os.DevNull: "not a regular file",
	} {
		before, _ := os.Stat(path)
		l, err := Open(path, Options{})
		if err == nil {
			_ = l.Close()
			t.Errorf("%s was opened", path)
			continue
		}
		if !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %q does not say %q", path, err, want)
		}
		if after, _ := os.Stat(path); after.Size() != before.Size() {
			t.Errorf("%s was written to", path)
		}
	}
}

func TestOneProcessOnly(t *testing.T) {
	path := newLogPath(t)
	l := mustOpen(t, path)
	if second, err := Open(path, Options{}); err == nil {
		_ = second.Close()
		t.Error("opened twice")
	} else if !strings.Contains(err.Error(), "another process") || !strings.Contains(err.Error(), path) {
		t.Errorf("unclear: %v", err)
	}
	mustAppend(t, l, "a")
	mustClose(t, l)
	mustClose(t, mustOpen(t, path))
}

func TestGroupCommit(t *testing.T) {
	path := newLogPath(t)
	l, f := openFaulty(t, path, Options{})
	const callers, each = 64, 25
	var wg sync.WaitGroup
	var mu sync.Mutex
	got := map[uint64]Record{}
	for c := range callers {
		wg.Go(func() {
			for i := range each {
				r, err := l.Append(t.Context(), aRead(fmt.Sprintf("n-%d-%d", c, i)))
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				got[r.Seq] = r
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	mustClose(t, l)
	sum := mustVerify(t, path, "")
	if sum.Records != callers*each || len(got) != callers*each {
		t.Fatalf("%d records in the file, %d seqs returned, want %d", sum.Records, len(got), callers*each)
	}
	for _, r := range records(t, path) {
		if !reflect.DeepEqual(got[r.Seq], r) {
			t.Fatalf("returned %+v, wrote %+v", got[r.Seq], r)
		}
	}
	if n := f.syncs.Load(); n >= callers*each/2 {
		t.Errorf("%d syncs for %d records", n, callers*each)
	}
	if f.syncs.Load() != f.writes.Load() {
		t.Errorf("%d writes, %d syncs", f.writes.Load(), f.syncs.Load())
	}
}

// While one sync runs, whatever arrives waits for the next, and all of it shares that one.
func TestOneSyncForTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := newLogPath(t)
		l, f := openFaulty(t, path, Options{})
		hold := make(chan struct{})
		f.set(func(f *faulty) { f.hold = hold })
		var wg sync.WaitGroup
		for range 101 {
			wg.Go(func() {
				if _, err := l.Append(t.Context(), aRead("a")); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait() // the first is in Sync, the others are queued
		}
		if seq, head := l.Head(); seq != 0 || head != genesis {
			t.Errorf("head is %d before anything was synced", seq)
		}
		close(hold)
		wg.Wait()
		if n := f.syncs.Load(); n != 2 {
			t.Errorf("%d syncs, want 2", n)
		}
		mustClose(t, l)
		mustVerify(t, path, "")
	})
}

func TestFailureAndRecovery(t *testing.T) {
	boom := errors.New("boom")
	for name, fail := range map[string]func(*faulty){
		"no space, nothing written":   func(f *faulty) { f.writeErr = syscall.ENOSPC },
		"no space, half written":      func(f *faulty) { f.writeErr, f.short = syscall.ENOSPC, 70 },
		"no space, all but a newline": func(f *faulty) { f.writeErr, f.short = syscall.ENOSPC, 1<<20 },
		"sync":                        func(f *faulty) { f.syncErr = boom },
		"half written and stuck":      func(f *faulty) { f.writeErr, f.short, f.truncErr = syscall.ENOSPC, 70, boom },
		"sync and stuck":              func(f *faulty) { f.syncErr, f.truncErr = boom, boom },
	} {
		t.Run(name, func(t *testing.T) {
			path := newLogPath(t)
			l, f := openFaulty(t, path, Options{})
			good := mustAppend(t, l, "good")
			seq, head := l.Head()
			before, _ := os.ReadFile(path)

			f.set(fail)
			for i := range 3 {
				_, err := l.Append(t.Context(), aRead("lost"))
				if err == nil {
					t.Fatal("told that it was written")
				}
				if !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "nothing is recorded") {
					t.Errorf("unclear: %v", err)
				}
				if i == 0 && !errors.Is(err, boom) && !errors.Is(err, syscall.ENOSPC) {
					t.Errorf("cause is lost: %v", err)
				}
			}
			if s, h := l.Head(); s != seq || h != head {
				t.Errorf("head moved to %d %s", s, h)
			}
			if f.truncErr == nil {
				if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
					t.Errorf("a failed write left %q", after[len(before):])
				}
			} else if f.writes.Load() != 2 {
				t.Errorf("%d writes; after a failed truncation none may follow", f.writes.Load())
			}

			f.set(func(f *faulty) { f.writeErr, f.syncErr, f.truncErr = nil, nil, nil })
			next := mustAppend(t, l, "next")
			if next.Seq != good.Seq+1 {
				t.Errorf("seq goes from %d to %d", good.Seq, next.Seq)
			}
			mustClose(t, l)
			_, head = l.Head()
			if sum := mustVerify(t, path, head); sum.Records != 2 {
				t.Errorf("%+v", sum)
			}
		})
	}
}

// A log that was closed, or killed, while stuck is put right by the next Open.
func TestStuckThenReopened(t *testing.T) {
	t.Parallel()
	for short := range 600 {
		path := newLogPath(t)
		l, f := openFaulty(t, path, Options{})
		mustAppend(t, l, "good")
		f.set(func(f *faulty) { f.writeErr, f.short, f.truncErr = syscall.ENOSPC, short, syscall.EIO })
		if _, err := l.Append(t.Context(), aRead("lost")); err == nil {
			t.Fatal("told that it was written")
		}
		_ = l.Close()
		l = mustOpen(t, path)
		mustAppend(t, l, "next")
		mustClose(t, l)
		mustVerify(t, path, "")
	}
}

// Under random failures and many callers: whoever was told yes is in the file, as it was
// returned, and the chain holds.
func TestNobodyIsToldWrongly(t *testing.T) {
	t.Parallel()
	for seed := range uint64(8) {
		path := newLogPath(t)
		l, f := openFaulty(t, path, Options{})
		f.set(func(f *faulty) { f.random = rand.New(rand.NewPCG(seed, 1)) })
		var mu sync.Mutex
		told := map[uint64]Record{}
		var failed atomic.Int64
		var wg sync.WaitGroup
		for c := range 32 {
			wg.Go(func() {
				for i := range 40 {
					r, err := l.Append(t.Context(), aRead(fmt.Sprintf("n-%d-%d", c, i)))
					if err != nil {
						failed.Add(1)
						continue
					}
					mu.Lock()
					if _, twice := told[r.Seq]; twice {
						t.Errorf("seq %d given twice", r.Seq)
					}
					told[r.Seq] = r
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		f.set(func(f *faulty) { f.random = nil })
		mustAppend(t, l, "last")
		mustClose(t, l)
		if failed.Load() == 0 || len(told) == 0 {
			t.Fatalf("seed %d: %d failures, %d successes: tests nothing", seed, failed.Load(), len(told))
		}
		_, head := l.Head()
		mustVerify(t, path, head)
		in := map[uint64]Record{}
		for _, r := range records(t, path) {
			in[r.Seq] = r
		}
		if len(in) != len(told)+1 {
			t.Errorf("seed %d: %d records in the file, %d told", seed, len(in), len(told)+1)
		}
		for seq, r := range told {
			if !reflect.DeepEqual(in[seq], r) {
				t.Errorf("seed %d: told %+v, in the file %+v", seed, r, in[seq])
			}
		}
	}
}

// A crash in the middle of the last write, at every byte of it.
func TestTornAtEveryByte(t *testing.T) {
	t.Parallel()
	for _, before := range []int{0, 2} {
		t.Run(fmt.Sprintf("after %d", before), func(t *testing.T) {
			path := newLogPath(t)
			l := mustOpen(t, path)
			for range before {
				mustAppend(t, l, "kept")
			}
			kept, _ := os.Stat(path)
			mustAppend(t, l, "torn")
			mustClose(t, l)
			whole, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for cut := int(kept.Size()); cut <= len(whole); cut++ {
				path := newLogPath(t)
				if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
					t.Fatal(err)
				}
				l := mustOpen(t, path)
				// Also right before anything is appended.
				_, head := l.Head()
				mustVerify(t, path, head)
				next := mustAppend(t, l, "next")
				mustClose(t, l)
				sum := mustVerify(t, path, "")

				got, _ := os.ReadFile(path)
				if !bytes.HasPrefix(got, whole[:cut]) {
					t.Fatalf("cut at %d: the torn bytes were not kept", cut)
				}
				// What was cut is all there, gone, lacks its newline, or is torn.
				torn, records := uint64(0), uint64(before+1)
				switch {
				case cut == int(kept.Size()):
				case cut >= len(whole)-1:
					records++
				default:
					torn, records = 1, records+1
				}
				if sum.Torn != torn || sum.Records != records || next.Seq != records {
					t.Fatalf("cut at %d: %+v, seq %d; want %d torn, %d records", cut, sum, next.Seq, torn, records)
				}
			}
		})
	}
}

// A crash while Open writes the torn record, and again while it writes the next one.
func TestTornAgain(t *testing.T) {
	t.Parallel()
	path := newLogPath(t)
	l := mustOpen(t, path)
	mustAppend(t, l, "kept")
	mustClose(t, l)
	whole, _ := os.ReadFile(path)
	start := append(bytes.Clone(whole), `{"seq":2,"ti`...)

	reopen := func(content []byte) []byte {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		mustClose(t, mustOpen(t, path))
		mustVerify(t, path, "")
		b, _ := os.ReadFile(path)
		return b
	}
	once := reopen(start)
	for cut := len(start); cut < len(once); cut++ {
		twice := reopen(once[:cut])
		for cut2 := cut; cut2 < len(twice); cut2 += 31 {
			reopen(twice[:cut2])
		}
	}
}

// Not every file system leaves a prefix: some leave zeros, longer than any record.
func TestTornOddly(t *testing.T) {
	path := newLogPath(t)
	l := mustOpen(t, path)
	mustAppend(t, l, "kept")
	mustClose(t, l)
	whole, _ := os.ReadFile(path)
	for name, rest := range map[string]string{
		"zeros":                strings.Repeat("\x00", 100),
		"many zeros":           strings.Repeat("\x00", maxBatch),
		"zeros, one at a time": strings.Repeat("\x00\n", 1000),
		"exactly one record":   strings.Repeat("x", maxRecord),
		"one byte more":        strings.Repeat("x", maxRecord+1),
		"two more":             strings.Repeat("x", maxRecord+2),
		"long and newline":     strings.Repeat("x", maxRecord+1) + "\n",
		"two records' length":  strings.Repeat("x", 2*(maxRecord+1)) + "\n",
		"long, short":          strings.Repeat("x", 3*maxRecord) + "\nshort",
		"short, long":          "short\n" + strings.Repeat("x", 3*maxRecord) + "\n",
		"an empty line":        "\n",
		"empty lines":          "\n\n\n",
		"carriage return":      "\r",
	} {
		for _, head := range []string{string(whole), ""} {
			if head == "" && rest[0] != 0 {
				continue
			}
			if err := os.WriteFile(path, []byte(head+rest), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := verifyFile(t, path, ""); err == nil {
				t.Errorf("%s: verifies before anything accounts for it", name)
			}
			l, err := Open(path, Options{})
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			mustAppend(t, l, "next")
			mustClose(t, l)
			if sum, err := verifyFile(t, path, ""); err != nil || sum.Torn != 1 {
				t.Errorf("%s: %+v, %v", name, sum, err)
			}
		}
	}
}

func TestTornIsTold(t *testing.T) {
	path := newLogPath(t)
	if err := os.WriteFile(path, []byte(`{"seq":1,"time":"20`), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	l, err := Open(path, Options{Logger: slog.New(slog.NewTextHandler(&out, nil))})
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, l)
	if !strings.Contains(out.String(), path) || !strings.Contains(out.String(), "cut short") {
		t.Errorf("log says %q", out.String())
	}
}

// Deleted, moved away or replaced: the records at hand are refused, and the log is restored
// from the file that is open. What stood in its place is kept.
func TestFileTakenAway(t *testing.T) {
	for name, c := range map[string]struct {
		take    func(path string) error
		want    string
		foreign int
	}{
		"deleted":        {os.Remove, "was deleted", 0},
		"its folder too": {func(p string) error { return os.RemoveAll(filepath.Dir(p)) }, "was deleted", 0},
		"moved":          {func(p string) error { return os.Rename(p, p+".1") }, "moved away", 0},
		"replaced": {func(p string) error {
			b, err := os.ReadFile(p) // byte for byte the same, and yet another file
			return errors.Join(err, os.Rename(p, p+".1"), os.WriteFile(p, b, 0o600))
		}, "by another file", 1},
		"a folder": {func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o700)) }, "by another file", 1},
		"a link":   {func(p string) error { return errors.Join(os.Remove(p), os.Symlink(os.DevNull, p)) }, "by another file", 1},
	} {
		t.Run(name, func(t *testing.T) {
			path := newLogPath(t)
			var out bytes.Buffer
			l, err := Open(path, Options{Logger: slog.New(slog.NewTextHandler(&out, nil))})
			if err != nil {
				t.Fatal(err)
			}
			mustAppend(t, l, "a")
			for range 2 { // and once more, of the restored one
				if err := c.take(path); err != nil {
					t.Fatal(err)
				}
				_, err := l.Append(t.Context(), aRead("b"))
				if err == nil {
					t.Fatal("told that it was written")
				}
				if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
					t.Errorf("unclear: %v", err)
				}
				mustAppend(t, l, "c")
			}
			mustClose(t, l)
			_, head := l.Head()
			if sum := mustVerify(t, path, head); sum.Records != 3 {
				t.Errorf("%+v", sum)
			}
			if !strings.Contains(out.String(), "restored") {
				t.Errorf("the log says %q", out.String())
			}
			if foreign, _ := filepath.Glob(path + ".foreign-*"); len(foreign) != 2*c.foreign {
				t.Errorf("moved aside: %q", foreign)
			}
		})
	}
}

// What cannot be restored stays refused until it can.
func TestFileTakenAwayForGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := newLogPath(t)
		l := mustOpen(t, path)
		mustAppend(t, l, "a")
		// Another agent has begun a log there.
		must(t, os.Rename(path, path+".1"))
		other := mustOpen(t, path)
		for range 3 {
			if _, err := l.Append(t.Context(), aRead("b")); err == nil || !strings.Contains(err.Error(), "replaced by another file") {
				t.Errorf("error is %v", err)
			}
			time.Sleep(time.Second)
		}
		mustAppend(t, other, "theirs")
		mustClose(t, other)
		if _, err := l.Append(t.Context(), aRead("b")); err == nil {
			t.Error("recorded before it was restored")
		}
		mustAppend(t, l, "c")
		mustClose(t, l)
		if sum := mustVerify(t, path, ""); sum.Records != 2 {
			t.Errorf("%+v", sum)
		}
	})
}

// The same file, changed in place: nothing is made up for it.
func TestFileChangedInPlace(t *testing.T) {
	for name, c := range map[string]struct {
		change, back func(path string) error // no back: only a restart helps
	}{
		"emptied":             {change: func(p string) error { return os.Truncate(p, 0) }},
		"emptied and deleted": {change: func(p string) error { return errors.Join(os.Truncate(p, 0), os.Remove(p)) }},
		"longer": {func(p string) error {
			f, err := os.OpenFile(p, os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteString("x")
			return errors.Join(err, f.Close())
		}, func(p string) error {
			info, err := os.Stat(p)
			return errors.Join(err, os.Truncate(p, info.Size()-1))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			path := newLogPath(t)
			l := mustOpen(t, path)
			defer l.Close()
			mustAppend(t, l, "a")
			must(t, c.change(path))
			for range 2 {
				if _, err := l.Append(t.Context(), aRead("b")); err == nil || !strings.Contains(err.Error(), "keep a copy") {
					t.Errorf("error is %v", err)
				}
			}
			if c.back == nil {
				return
			}
			must(t, c.back(path))
			mustAppend(t, l, "c")
			mustClose(t, l)
			if sum := mustVerify(t, path, ""); sum.Records != 2 {
				t.Errorf("%+v", sum)
			}
		})
	}
}

// The file goes while its sync runs: too late for the look before, so there is one after.
func TestFileTakenAwayDuringSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := newLogPath(t)
		l, f := openFaulty(t, path, Options{})
		hold := make(chan struct{})
		f.set(func(f *faulty) { f.hold = hold })
		done := make(chan error, 1)
		go func() {
			_, err := l.Append(t.Context(), aRead("a"))
			done <- err
		}()
		synctest.Wait()
		if err := os.Rename(path, path+".1"); err != nil {
			t.Fatal(err)
		}
		close(hold)
		if err := <-done; err == nil || !strings.Contains(err.Error(), "moved away") {
			t.Errorf("error is %v", err)
		}
		_ = l.Close()
		if info, _ := os.Stat(path + ".1"); info.Size() != 0 {
			t.Errorf("%d bytes left of a record that was refused", info.Size())
		}
	})
}

// Cut below what was durable while a write fails: rolling back must not fill it with zeros.
func TestRollBackNeverGrows(t *testing.T) {
	path := newLogPath(t)
	l, f := openFaulty(t, path, Options{})
	mustAppend(t, l, "a")
	f.set(func(f *faulty) { f.writeErr, f.short, f.truncErr = syscall.ENOSPC, 9, syscall.EIO })
	if _, err := l.Append(t.Context(), aRead("b")); err == nil {
		t.Fatal("told that it was written")
	}
	if err := os.Truncate(path, 5); err != nil {
		t.Fatal(err)
	}
	f.set(func(f *faulty) { f.writeErr, f.truncErr = nil, nil })
	if _, err := l.Append(t.Context(), aRead("c")); err == nil || !strings.Contains(err.Error(), "somebody else cut it") {
		t.Errorf("error is %v", err)
	}
	_ = l.Close()
	if info, _ := os.Stat(path); info.Size() != 5 {
		t.Errorf("size is %d, want 5", info.Size())
	}
}

func TestContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := newLogPath(t)
		l, f := openFaulty(t, path, Options{})
		hold := make(chan struct{})
		f.set(func(f *faulty) { f.hold = hold })
		// One in Sync, the queue full, and more who wait to get in.
		var wg sync.WaitGroup
		for range 1 + queueLength + 50 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if _, err := l.Append(ctx, aRead("a")); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("error is %v", err)
				}
			})
			synctest.Wait()
		}
		wg.Wait()
		close(hold)
		mustClose(t, l)
		if sum := mustVerify(t, path, ""); sum.Records != queueLength+1 {
			t.Errorf("%d records, want those that were queued", sum.Records)
		}
	})
}

func TestClose(t *testing.T) {
	path := newLogPath(t)
	l := mustOpen(t, path)
	var wg sync.WaitGroup
	var told atomic.Int64
	for range 50 {
		wg.Go(func() {
			for {
				_, err := l.Append(t.Context(), aRead("a"))
				if errors.Is(err, ErrClosed) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				if told.Add(1) == 200 {
					go l.Close()
				}
			}
		})
	}
	wg.Wait()
	mustClose(t, l)
	mustClose(t, l) // once more is no error
	if sum := mustVerify(t, path, ""); sum.Records != uint64(told.Load()) {
		t.Errorf("%d records, %d told", sum.Records, told.Load())
	}
	l.Unauthenticated(Expired) // nobody is there to write it, and nothing breaks
	if _, err := l.Append(t.Context(), aRead("a")); !errors.Is(err, ErrClosed) {
		t.Errorf("error after Close is %v", err)
	}
}

// What was queued when Close was called is written, not refused.
func TestCloseWritesTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := newLogPath(t)
		l, f := openFaulty(t, path, Options{})
		hold := make(chan struct{})
		f.set(func(f *faulty) { f.hold = hold })
		for range 20 {
			go func() {
				if _, err := l.Append(t.Context(), aRead("a")); err != nil {
					t.Error(err)
				}
			}()
			synctest.Wait()
		}
		go l.Close()
		synctest.Wait()
		close(hold)
		mustClose(t, l)
		synctest.Wait()
		if sum := mustVerify(t, path, ""); sum.Records != 20 {
			t.Errorf("%d records", sum.Records)
		}
	})
}

func TestAggregate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := newLogPath(t)
		l, f := openFaulty(t, path, Options{}) // 10s
		began := time.Now()
		// A flood: a call a millisecond for a minute, of invented reasons too.
		for i := range 60_000 {
			l.Unauthenticated([]string{Expired, NoCredential, fmt.Sprint(i)}[i%3])
			time.Sleep(time.Millisecond)
		}
		mustClose(t, l)
		recs := records(t, path)
		if len(recs) < 6 || len(recs) > 7 {
			t.Errorf("%d records in a minute, want one in 10s", len(recs))
		}
		total := map[string]uint64{}
		var count uint64
		for i, r := range recs {
			if r.Event != Unauthenticated || r.Since.IsZero() || r.Since.After(r.Time) || r.Since.Before(began) {
				t.Errorf("record %+v", r)
			}
			if i > 0 && i < len(recs)-1 && r.Time.Sub(recs[i-1].Time) < 10*time.Second {
				t.Errorf("two records within %v", r.Time.Sub(recs[i-1].Time))
			}
			count += r.Count
			for k, n := range r.Reasons {
				total[k] += n
			}
		}
		want := map[string]uint64{Expired: 20_000, NoCredential: 20_000, Other: 20_000}
		if count != 60_000 || !reflect.DeepEqual(total, want) {
			t.Errorf("counted %d: %v", count, total)
		}
		if f.syncs.Load() != int64(len(recs)) {
			t.Errorf("%d syncs for %d records", f.syncs.Load(), len(recs))
		}
		mustVerify(t, path, "")
	})
}

// A quiet log stays quiet, and the first call after a pause waits for its turn too.
func TestAggregateWhenIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := newLogPath(t)
		l, f := openFaulty(t, path, Options{Aggregate: time.Second})
		time.Sleep(time.Hour)
		l.Unauthenticated(RateLimited)
		time.Sleep(time.Second / 2)
		synctest.Wait()
		if f.writes.Load() != 0 {
			t.Error("written before its time")
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if f.writes.Load() != 1 {
			t.Errorf("%d writes", f.writes.Load())
		}
		time.Sleep(time.Hour)
		mustClose(t, l)
		if f.writes.Load() != 1 {
			t.Errorf("%d writes", f.writes.Load())
		}
	})
}

// A disk that hangs or fails neither stops the counting nor loses a count.
func TestAggregateWithoutDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := newLogPath(t)
		var out bytes.Buffer
		l, f := openFaulty(t, path, Options{Logger: slog.New(slog.NewTextHandler(&out, nil))})
		began := time.Now()
		hold := make(chan struct{})
		f.set(func(f *faulty) { f.hold, f.syncErr = hold, syscall.EIO })
		l.Unauthenticated(Expired)
		time.Sleep(time.Minute) // the writer hangs in Sync now
		for range 1000 {
			l.Unauthenticated(Expired)
		}
		close(hold)
		time.Sleep(time.Minute)
		synctest.Wait()
		if !strings.Contains(out.String(), "stay counted") {
			t.Errorf("log says %q", out.String())
		}
		if n := f.writes.Load(); n > 8 {
			t.Errorf("%d attempts in a minute", n)
		}
		f.set(func(f *faulty) { f.hold, f.syncErr = nil, nil })
		time.Sleep(time.Minute)
		mustClose(t, l)
		recs := records(t, path)
		if len(recs) != 1 || recs[0].Count != 1001 || !recs[0].Since.Equal(began) {
			t.Errorf("records %+v", recs)
		}
	})
}

func TestCloseTellsOfLostCounts(t *testing.T) {
	l, f := openFaulty(t, newLogPath(t), Options{})
	l.Unauthenticated(Expired)
	f.set(func(f *faulty) { f.writeErr = syscall.ENOSPC })
	if err := l.Close(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Close says %v", err)
	}
}

func TestAppendRefuses(t *testing.T) {
	path := newLogPath(t)
	l := mustOpen(t, path)
	for name, change := range map[string]func(*Record){
		"no event":              func(r *Record) { r.Event = "" },
		"unknown event":         func(r *Record) { r.Event = "hunter2" },
		"an event of our own":   func(r *Record) { r.Event = Torn },
		"an aggregate":          func(r *Record) { r.Event = Unauthenticated },
		"no decision":           func(r *Record) { r.Decision = "" },
		"unknown decision":      func(r *Record) { r.Decision = "hunter2" },
		"a value as commit":     func(r *Record) { r.Commit = "hunter2" },
		"a long hex blob":       func(r *Record) { r.Blob = strings.Repeat("a", 66) },
		"a value as a part's":   func(r *Record) { r.Parts = map[string]string{"a.yaml": "hunter2"} },
		"capitals in a blob":    func(r *Record) { r.Blob = strings.Repeat("A", 40) },
		"a megabyte of keys":    func(r *Record) { r.Keys = slicesOf(strings.Repeat("k", 250), 5000) },
		"a million little keys": func(r *Record) { r.Keys = slicesOf("k", 1_000_000) },
	} {
		r := aRead("a")
		change(&r)
		_, err := l.Append(t.Context(), r)
		if err == nil {
			t.Errorf("%s: accepted", name)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: error quotes what it refuses: %v", name, err)
		}
	}
	mustClose(t, l)
	if sum := mustVerify(t, path, ""); sum.Records != 0 {
		t.Errorf("%d records", sum.Records)
	}
}

func slicesOf(s string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = s
	}
	return out
}

// Whatever a caller sends: one line, printable, bounded, and no field of ours is forged.
func TestHostileText(t *testing.T) {
	path := newLogPath(t)
	l := mustOpen(t, path)
	evil := []string{
		"a\n{\"seq\":9,\"event\":\"read\"}", "a\r\nb", "\x1b[2J\x1b]0;x\a", "\u202eevil", "a\u2028b\u2029c", "\x00", "\xff\xfe",
		strings.Repeat("\xff", 1<<20), strings.Repeat("ü", 400), strings.Repeat("\"\\", 500), "<script>", strings.Repeat("<", 9999),
		"a" + strings.Repeat("🔑", 100), strings.Repeat("\u202e", 200), `\u0041`, "\u200b",
	}
	for _, s := range evil {
		_, err := l.Append(t.Context(), Record{
			Seq: 99, Time: time.Unix(0, 0), Prev: s, Torn: s, Count: 7, Reasons: map[string]uint64{s: 1}, Since: time.Unix(1, 0),
			Event: Read, Decision: Deny, Reason: s, Status: 403, Subject: s, Roles: slicesOf(s, 500), Credential: s, Method: s, Remote: s,
			Workspace: s, Name: s, Keys: slicesOf(s, 200), Grant: s, Role: s, Path: s, Target: s,
		})
		if err != nil {
			t.Errorf("%.20q: %v", s, err)
		}
	}
	mustClose(t, l)
	mustVerify(t, path, "")
	b, _ := os.ReadFile(path)
	for i, r := range b {
		if r < ' ' && r != '\n' || r == 0x7f {
			t.Fatalf("control character %#x at %d", r, i)
		}
	}
	if strings.ContainsAny(string(b), "\u202e\u2028\u2029\u200b") {
		t.Error("a character that hides or turns text")
	}
	keys := 0
	for line := range bytes.Lines(b) {
		if len(line) > maxRecord+1 {
			t.Errorf("a record of %d bytes", len(line))
		}
		r, err := decode(bytes.TrimSuffix(line, []byte("\n")))
		if err != nil {
			t.Fatal(err)
		}
		if r.Torn != "" || r.Count != 0 || r.Reasons != nil || !r.Since.IsZero() || r.Time.Year() < 2000 {
			t.Errorf("forged: %+v", r)
		}
		if len(r.Target) > 2*maxText || r.Reason != Other && r.Reason != "" || len(r.Subject) > maxText || len(r.Path) > maxPath || len(r.Credential) > maxCredential || len(r.Roles) > maxRoles {
			t.Errorf("unbounded: %+v", r)
		}
		keys += len(r.Keys)
	}
	if keys != 200*len(evil) {
		t.Errorf("%d keys recorded, %d were asked for", keys, 200*len(evil))
	}
}

func TestClean(t *testing.T) {
	long := strings.Repeat("x", maxText)
	for in, want := range map[string]string{
		"":                                 "",
		"orders-db-r":                      "orders-db-r",
		"Zürich 北京":                        "Zürich 北京",
		"a\nb":                             "a\ufffdb",
		"a\xffb":                           "a\ufffdb",
		long:                               long,
		long + "y":                         long[:maxText-3] + "…",
		long[:maxText-3] + "北京":            long[:maxText-3] + "…",
		"x" + strings.Repeat("é", maxText): "x" + strings.Repeat("é", 124) + "…",
	} {
		if got := clean(in, maxText); got != want || len(got) > maxText {
			t.Errorf("clean(%q) = %q (%d bytes), want %q", in, got, len(got), want)
		}
	}
	for in, want := range map[string]string{"10.0.0.7:443": "10.0.0.7", "[::1]:80": "::1", "::1": "::1", "host": "host", "": ""} {
		if got := host(in); got != want {
			t.Errorf("host(%q) = %q, want %q", in, got, want)
		}
	}
	roles := cleanRoles(slicesOf("r", 40))
	if len(roles) != maxRoles || roles[maxRoles-1] != "+9 more" {
		t.Errorf("roles %q", roles)
	}
	if got := cleanRoles(slicesOf("r", maxRoles)); !reflect.DeepEqual(got, slicesOf("r", maxRoles)) {
		t.Errorf("roles %q", got)
	}
}

// The bounds leave room: the largest record that prepare can make still fits.
func TestLargestRecordFits(t *testing.T) {
	worst := strings.Repeat(`"`, 2000)
	r := Record{
		Event: Read, Decision: Allow, Reason: strings.Repeat("a", maxWord), Status: 1 << 30, Subject: worst, Roles: slicesOf(worst, 100),
		Credential: worst, Method: strings.Repeat("a", maxWord), Remote: worst, Workspace: worst, Name: worst, Grant: worst, Role: worst,
		Commit: strings.Repeat("a", 64), Path: worst, Blob: strings.Repeat("a", 64), Target: worst,
	}
	for _, keys := range [][]string{slicesOf(worst, 500), slicesOf(`"`, 100_000), slicesOf("", 100_000)} {
		r.Keys = keys
		r.Parts = map[string]string{}
		for i := range 1000 {
			r.Parts[worst[:200]+fmt.Sprint(i)] = strings.Repeat("b", 64)
		}
		recs, err := prepare(r)
		if err != nil {
			t.Fatal(err)
		}
		total, size, parts := 0, 0, map[string]string{}
		for i := range recs {
			line, _, err := extend(nil, place{1<<64 - 2, genesis}, &recs[i], time.Date(2026, 1, 1, 0, 0, 0, 123456789, time.UTC))
			if err != nil {
				t.Fatal(err)
			}
			total, size = total+len(recs[i].Keys), size+len(line)
			maps.Copy(parts, recs[i].Parts)
		}
		if !maps.Equal(parts, r.Parts) {
			t.Errorf("%d parts of %d", len(parts), len(r.Parts))
		}
		if total != len(keys) {
			t.Errorf("%d keys of %d", total, len(keys))
		}
		// What one crash can tear must lie within what Open looks at.
		if size+maxBatch+2*maxRecord > window {
			t.Errorf("one Append may write %d bytes, too many for a window of %d", size, window)
		}
	}
}

// Many records become durable with few syncs, in their order, and the chain holds; what
// cannot be recorded stops it.
func TestAppendAll(t *testing.T) {
	path := newLogPath(t)
	l, f := openFaulty(t, path, Options{})
	var all []Record
	for i := range 5000 {
		r := aRead(fmt.Sprintf("s%04d", i))
		r.Event, r.Target = Project, fmt.Sprintf("orders/s%04d", i)
		all = append(all, r)
	}
	before := f.syncs.Load()
	if err := l.AppendAll(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	if n := f.syncs.Load() - before; n < 2 || n > 20 {
		t.Errorf("%d syncs", n)
	}
	must(t, l.AppendAll(t.Context(), nil))
	bad := aRead("x")
	bad.Commit = "hunter2"
	if err := l.AppendAll(t.Context(), []Record{bad}); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("%v", err)
	}
	f.set(func(f *faulty) { f.writeErr = syscall.ENOSPC })
	if err := l.AppendAll(t.Context(), all[:1]); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v", err)
	}
	f.set(func(f *faulty) { f.writeErr = nil })
	mustClose(t, l)
	if err := l.AppendAll(t.Context(), all[:1]); !errors.Is(err, ErrClosed) {
		t.Errorf("%v", err)
	}
	if sum := mustVerify(t, path, ""); sum.Records != 5000 {
		t.Errorf("%d records", sum.Records)
	}
	for i, r := range records(t, path) {
		if r.Target != all[i].Target || r.Event != Project {
			t.Fatalf("record %d: %+v", i, r)
		}
	}
}

func TestAppendKeepsNoReference(t *testing.T) {
	path := newLogPath(t)
	l := mustOpen(t, path)
	in := aRead("a")
	out, err := l.Append(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	in.Keys[0], in.Roles[0] = "changed", "changed"
	if out.Keys[0] != "password" || out.Roles[0] != "roles:id:orders-dev" {
		t.Errorf("the returned record follows the caller's slices: %+v", out)
	}
	mustClose(t, l)
}

// A field added to Record must be thought about: this fails until somebody did.
func TestFieldsAreThoughtAbout(t *testing.T) {
	var fields []string
	for f := range reflect.TypeFor[Record]().Fields() {
		fields = append(fields, f.Name)
	}
	want := "Seq Time Event Decision Reason Status Subject Roles Credential Method Remote Workspace Name Keys Grant Role Commit Path Blob Parts Target Count Reasons Since Torn Prev"
	if got := strings.Join(fields, " "); got != want {
		t.Errorf("fields are %s\nwant %s\nCan the new one hold a value? Is it bounded in prepare?", got, want)
	}
	b, err := json.Marshal(Record{})
	if err != nil || string(b) != `{"seq":0,"time":"0001-01-01T00:00:00Z","event":"","prev":""}` {
		t.Errorf("the empty record is %s, %v", b, err)
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, callers := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			l, f := openFaulty(b, newLogPath(b), Options{})
			defer l.Close()
			rec := aRead("orders-db-r")
			ctx := context.Background()
			work := make(chan struct{})
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					for range work {
						if _, err := l.Append(ctx, rec); err != nil {
							b.Error(err)
						}
					}
				})
			}
			for b.Loop() {
				work <- struct{}{}
			}
			close(work)
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
			b.ReportMetric(float64(f.syncs.Load())/float64(b.N), "syncs/record")
		})
	}
}

func BenchmarkVerify(b *testing.B) {
	path := newLogPath(b)
	l := mustOpen(b, path)
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			for range 100 {
				if _, err := l.Append(context.Background(), aRead("a")); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	mustClose(b, l)
	data, _ := os.ReadFile(path)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := Verify(bytes.NewReader(data), VerifyOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}

// A line that is linked is the one that encode gives, whatever the record holds.
func TestLinkSpellsAsEncode(t *testing.T) {
	full := Record{
		Seq: 1, Time: time.Unix(1, 0), Event: Read, Decision: Allow, Reason: "granted", Status: 200, Subject: "s", Roles: []string{"r"}, Credential: "c", Method: "m", Remote: "::1",
		Workspace: "w", Name: "n", Keys: []string{"k", "\u2028\xff"}, Grant: "g", Role: "r", Commit: "c", Path: "p", Blob: "b", Parts: map[string]string{`"`: "1"}, Target: "t",
		Count: 1<<64 - 1, Reasons: map[string]uint64{"b": 2, "a": 1}, Since: time.Unix(2, 5).UTC(), Torn: "t", Prev: "p",
	}
	for i, v := 0, reflect.ValueOf(full); i < v.NumField(); i++ {
		if v.Field(i).IsZero() {
			t.Errorf("%s is not set, so its spelling is not tested", v.Type().Field(i).Name)
		}
	}
	for _, now := range []time.Time{
		time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC), time.Date(2026, 5, 1, 12, 0, 0, 120_000_000, time.FixedZone("", 3600)), time.Date(1, 1, 1, 0, 0, 0, 1, time.UTC),
	} {
		for _, r := range []Record{
			{Event: Start},
			{Event: Torn, Torn: genesis},
			full,
			{Event: Read, Decision: Allow, Reason: "granted", Status: 200, Subject: `users:id:"<&>\`, Roles: []string{"a", "b"}, Keys: []string{"k"}, Parts: map[string]string{"b": "2", "a": "1"}, Since: now.UTC()},
		} {
			line, p, err := extend(nil, place{41, genesis}, &r, now)
			if err != nil {
				t.Fatal(err)
			}
			want, err := encode(r)
			if err != nil || string(line) != string(want)+"\n" || p.seq != 42 || p.hash != hashOf(want) {
				t.Errorf("%s\nis not\n%s (%v)", line, want, err)
			}
		}
	}
	if _, _, err := extend(nil, place{}, &Record{Event: Start}, time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC)); err == nil {
		t.Error("a year that no log can hold is recorded")
	}
}
