package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// verifyLog verifies all files of the log at path, and names a bad record's file.
func verifyLog(t testing.TB, path string, opts VerifyOptions) (sum Summary, where string, err error) {
	t.Helper()
	f, err := OpenFiles(path)
	must(t, err)
	defer f.Close()
	sum, err = Verify(f, opts)
	if bad := (*BadRecord)(nil); errors.As(err, &bad) {
		p, line := f.Locate(bad.Line)
		where = fmt.Sprintf("%s:%d", filepath.Base(p), line)
	}
	return sum, where, err
}

func mustVerifyLog(t testing.TB, path, head string) Summary {
	t.Helper()
	sum, where, err := verifyLog(t, path, VerifyOptions{Head: head})
	if err != nil {
		t.Fatalf("%s: %v", where, err)
	}
	return sum
}

// The format of names is a promise to whoever archives the files.
func TestRotationBySize(t *testing.T) {
	path := newLogPath(t)
	l, err := Open(path, Options{MaxSize: 1500})
	must(t, err)
	for i := range 7 { // each about 650 bytes
		mustAppend(t, l, fmt.Sprint("n", i))
	}
	mustClose(t, l)
	for i, want := range []int{2, 2, 2, 1} {
		name := path
		if i < 3 {
			name = fmt.Sprintf("%s.%012d", path, 2*(i+1))
		}
		recs := records(t, name)
		if len(recs) != want || recs[0].Seq != uint64(2*i+1) {
			t.Errorf("%s has %d records: %+v", name, len(recs), recs)
		}
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 || info.Size() > 1500 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	_, head := l.Head()
	if sum := mustVerifyLog(t, path, head); sum.Records != 7 {
		t.Errorf("%+v", sum)
	}
	// What begins later is verified from the hash that was noted.
	archived := mustVerify(t, path+".000000000002", "")
	must(t, os.Remove(path+".000000000002"))
	if _, where, err := verifyLog(t, path, VerifyOptions{}); where != "audit.jsonl.000000000004:1" {
		t.Errorf("%s: %v", where, err)
	}
	if sum, _, err := verifyLog(t, path, VerifyOptions{After: archived.Head, Head: head}); err != nil || sum.Records != 5 || sum.Seq != 7 {
		t.Errorf("%+v, %v", sum, err)
	}
	if _, where, err := verifyLog(t, path, VerifyOptions{After: head}); err == nil || where != "audit.jsonl.000000000004:1" {
		t.Errorf("%s: %v", where, err)
	}
}

// Old files are deleted where that is asked for, and what is left verifies from the hash
// that the log told. One that somebody changed stays.
func TestOldFilesAreDeleted(t *testing.T) {
	path := newLogPath(t)
	var out bytes.Buffer
	l, err := Open(path, Options{MaxSize: 1, Keep: 2, Logger: slog.New(slog.NewTextHandler(&out, nil))})
	must(t, err)
	for range 6 { // a file each
		mustAppend(t, l, "a")
	}
	files, err := rotatedFiles(path)
	must(t, err)
	if len(files) != 2 || files[0].last != 4 {
		t.Errorf("%+v", files)
	}
	text := out.String()
	after := text[strings.LastIndex(text, "auditHash=")+len("auditHash="):][:64]
	_, head := l.Head()
	if sum, _, err := verifyLog(t, path, VerifyOptions{After: after, Head: head}); err != nil || sum.Records != 3 {
		t.Errorf("%+v, %v", sum, err)
	}
	must(t, os.Truncate(files[0].path, 5))
	mustAppend(t, l, "b")
	if files, _ = rotatedFiles(path); len(files) != 3 || !strings.Contains(out.String(), "cannot be deleted") {
		t.Errorf("%+v\n%s", files, out.String())
	}
	mustClose(t, l)
}

func TestRotationByAge(t *testing.T) {
	path := newLogPath(t)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	open := func() *Log {
		l, err := Open(path, Options{MaxAge: time.Hour, Now: func() time.Time { return now }})
		must(t, err)
		return l
	}
	l := open()
	mustAppend(t, l, "a")
	now = now.Add(59 * time.Minute)
	mustAppend(t, l, "b")
	mustClose(t, l)
	now = now.Add(time.Minute) // also over a restart
	l = open()
	mustAppend(t, l, "c")
	now = now.Add(-30 * time.Minute) // a clock that was put back rotates nothing
	mustAppend(t, l, "d")
	mustClose(t, l)
	if len(records(t, path)) != 2 || len(records(t, path+".000000000002")) != 2 {
		t.Error("not rotated after an hour")
	}
	mustVerifyLog(t, path, "")
}

// A crash between any two steps of a rotation, and then a restart.
func TestRotationCutShort(t *testing.T) {
	link := func(from, to string) func(string) error {
		return func(p string) error { return os.Link(p+from, p+to) }
	}
	const number = ".000000000002"
	for name, steps := range map[string][]func(string) error{
		"created":              {func(p string) error { return os.WriteFile(p+".new", nil, 0o600) }},
		"linked":               {link("", number)},
		"created and linked":   {func(p string) error { return os.WriteFile(p+".new", nil, 0o600) }, link("", number)},
		"renamed, nothing new": {func(p string) error { return os.Rename(p, p+number) }},
		"done":                 {func(p string) error { return errors.Join(os.Rename(p, p+number), os.WriteFile(p, nil, 0o600)) }},
		"first write torn": {func(p string) error {
			return errors.Join(os.Rename(p, p+number), os.WriteFile(p, []byte(`{"seq":3,"ti`), 0o600))
		}},
		"nothing but zeros": {func(p string) error {
			return errors.Join(os.Rename(p, p+number), os.WriteFile(p, make([]byte, 99), 0o600))
		}},
		"a copy that was not named": {func(p string) error { return os.Rename(p, p+".new") }},
	} {
		t.Run(name, func(t *testing.T) {
			path := newLogPath(t)
			l := mustOpen(t, path)
			mustAppend(t, l, "a")
			mustAppend(t, l, "b")
			mustClose(t, l)
			for _, step := range steps {
				must(t, step(path))
			}
			if _, err := os.Stat(path); err == nil && !strings.Contains(name, "torn") && !strings.Contains(name, "zeros") {
				mustVerifyLog(t, path, "") // also before it is put right
			}
			l, err := Open(path, Options{MaxSize: 1500})
			must(t, err)
			for i := range 3 {
				mustAppend(t, l, fmt.Sprint("c", i))
			}
			mustClose(t, l)
			_, head := l.Head()
			sum := mustVerifyLog(t, path, head)
			if got := sum.Records - sum.Torn; got != 5 {
				t.Errorf("%+v", sum)
			}
		})
	}
}

// The log goes on from an earlier file only if that is what its name says.
func TestRotatedFileThatWasChanged(t *testing.T) {
	for name, change := range map[string]func(string) error{
		"cut":     func(p string) error { return os.Truncate(p, 700) },
		"emptied": func(p string) error { return os.Truncate(p, 0) },
		"renamed": func(p string) error { return os.Rename(p, strings.TrimSuffix(p, "2")+"9") },
	} {
		path := newLogPath(t)
		l := mustOpen(t, path)
		mustAppend(t, l, "a")
		mustAppend(t, l, "b")
		mustClose(t, l)
		must(t, os.Rename(path, path+".000000000002"))
		must(t, change(path+".000000000002"))
		if l, err := Open(path, Options{}); err == nil || !strings.Contains(err.Error(), "sealward audit verify") {
			_ = l.Close()
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A rotation that fails stops no read; the next minute it is tried again.
func TestRotationFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := newLogPath(t)
		l, err := Open(path, Options{MaxSize: 1})
		must(t, err)
		mustAppend(t, l, "a")
		must(t, os.WriteFile(path+".000000000001", []byte("in the way"), 0o600))
		mustAppend(t, l, "b")
		mustAppend(t, l, "c")
		if b, _ := os.ReadFile(path + ".000000000001"); string(b) != "in the way" {
			t.Error("overwritten")
		}
		must(t, os.Remove(path+".000000000001"))
		time.Sleep(time.Minute)
		mustAppend(t, l, "d")
		mustClose(t, l)
		if got := len(records(t, path)); got != 1 {
			t.Errorf("%d records in the current file", got)
		}
		mustVerifyLog(t, path, "")
	})
}

// Rotation under load, with a disk that fails now and then, and readers beside it.
func TestRotationUnderLoad(t *testing.T) {
	t.Parallel()
	path := newLogPath(t)
	l, f := openFaulty(t, path, Options{MaxSize: 4 << 10})
	done := make(chan struct{})
	var reading, writing sync.WaitGroup
	reading.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			files, err := OpenFiles(path)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := Verify(files, VerifyOptions{}); err != nil {
				t.Errorf("while it is written: %v", err)
			}
			_ = files.Close()
		}
	})
	for range 8 {
		writing.Go(func() {
			for range 30 {
				if _, err := l.Append(t.Context(), aRead("a")); err != nil && !errors.Is(err, syscall.ENOSPC) {
					t.Error(err)
				}
			}
		})
	}
	f.set(func(f *faulty) { f.writeErr = syscall.ENOSPC })
	f.set(func(f *faulty) { f.writeErr = nil })
	writing.Wait()
	close(done)
	reading.Wait()
	mustClose(t, l)
	_, head := l.Head()
	mustVerifyLog(t, path, head)
	if files, _ := rotatedFiles(path); len(files) < 20 {
		t.Errorf("%d files", len(files))
	}
}

// Whatever is done to one of the files, verify names the file and the line.
func TestRotatedFilesAreVerified(t *testing.T) {
	dir := t.TempDir()
	l, err := Open(filepath.Join(dir, "audit.jsonl"), Options{MaxSize: 2000})
	must(t, err)
	for i := range 10 {
		mustAppend(t, l, fmt.Sprint("n", i))
	}
	mustClose(t, l)
	_, head := l.Head()
	names := []string{"audit.jsonl.000000000003", "audit.jsonl.000000000006", "audit.jsonl.000000000009", "audit.jsonl"}
	texts := map[string][]string{}
	for _, n := range names {
		b, err := os.ReadFile(filepath.Join(dir, n))
		must(t, err)
		texts[n] = strings.SplitAfter(strings.TrimSuffix(string(b), "\n"), "\n")
		texts[n][len(texts[n])-1] += "\n"
	}
	check := func(what, want string, change func(files map[string][]string)) {
		t.Helper()
		files := map[string][]string{}
		for n, lines := range texts {
			files[n] = append([]string{}, lines...)
		}
		change(files)
		to := t.TempDir()
		for n, lines := range files {
			must(t, os.WriteFile(filepath.Join(to, n), []byte(strings.Join(lines, "")), 0o600))
		}
		if _, where, err := verifyLog(t, filepath.Join(to, "audit.jsonl"), VerifyOptions{Head: head}); err == nil || where != want {
			t.Errorf("%s: named %s, want %s: %v", what, where, want, err)
		}
	}
	for f, n := range names {
		first := n + ":1"
		if f > 0 && f < len(names)-1 {
			check(n+" gone", names[f+1]+":1", func(files map[string][]string) { delete(files, n) })
			check(n+" emptied", names[f+1]+":1", func(files map[string][]string) { files[n] = nil })
			check(n+" swapped with the next", first, func(files map[string][]string) { files[n], files[names[f+1]] = files[names[f+1]], files[n] })
		}
		for i := range texts[n] {
			at := fmt.Sprintf("%s:%d", n, i+1)
			check(at+" forged", at, func(files map[string][]string) { files[n][i] = strings.Replace(files[n][i], "alice", "mallo", 1) })
			check(at+" with another byte", at, func(files map[string][]string) { files[n][i] = files[n][i][:40] + "~" + files[n][i][41:] })
			if i < len(texts[n])-1 {
				check(at+" dropped", at, func(files map[string][]string) { files[n] = append(files[n][:i], files[n][i+1:]...) })
			}
		}
	}
	check("a line moved into another file", names[0]+":2", func(files map[string][]string) {
		files[names[0]][1], files[names[2]][0] = files[names[2]][0], files[names[0]][1]
	})
	check("the current file cut", names[2]+":3", func(files map[string][]string) { files["audit.jsonl"] = nil })
}

// Walk gives what can be read on both sides of a bad record, and says which it is.
func TestWalk(t *testing.T) {
	lines, head := sample(t)
	var got []string
	each := func(line uint64, r Record) error { got = append(got, fmt.Sprint(line, r.Event)); return nil }
	sum, err := Walk(strings.NewReader(strings.Join(lines, "")), VerifyOptions{Head: head}, each)
	if err != nil || sum.Records != 8 || len(got) != 8 || got[2] != "4torn" {
		t.Errorf("%+v, %v, %q", sum, err, got)
	}
	got = nil
	changed := append([]string{}, lines...)
	changed[5] = strings.Replace(changed[5], "alice", "mallo", 1)
	changed[7] = strings.Repeat("x", 3*maxRecord) + "\n"
	_, err = Walk(strings.NewReader(strings.Join(changed, "")), VerifyOptions{}, each)
	names(t, "forged", err, 6)
	if len(got) != 7 {
		t.Errorf("%q", got)
	}
	enough := errors.New("enough")
	if _, err := Walk(io.MultiReader(bytes.NewReader([]byte(lines[0])), neverEnds{}), VerifyOptions{}, func(uint64, Record) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("error is %v", err)
	}
}

type neverEnds struct{}

func (neverEnds) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = '\n'
	}
	return len(b), nil
}
