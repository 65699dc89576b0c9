package audit

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A log is its current file and what rotation made of earlier ones: PATH.N, where N is
// the number of the last record in it, in at least twelve digits so that a listing is in
// order. The chain goes on from one file to the next. A file is deleted only where
// [Options.Keep] asks for it.

// rotated is one earlier file.
type rotated struct {
	path string
	last uint64 // by its name
}

func rotatedPath(path string, last uint64) string { return fmt.Sprintf("%s.%012d", path, last) }

// rotatedFiles lists the earlier files of the log at path, oldest first.
func rotatedFiles(path string) ([]rotated, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	var out []rotated
	for _, e := range entries {
		digits, ours := strings.CutPrefix(e.Name(), filepath.Base(path)+".")
		n, err := strconv.ParseUint(digits, 10, 64)
		kind := e.Type() // a link may lead to another disk; a pipe would never end
		if p := rotatedPath(path, n); ours && err == nil && filepath.Base(p) == e.Name() && (kind.IsRegular() || kind == fs.ModeSymlink) {
			out = append(out, rotated{p, n})
		}
	}
	slices.SortFunc(out, func(a, b rotated) int { return cmp.Compare(a.last, b.last) })
	return out, nil
}

// resolve makes path absolute, and that of the file itself where it is a link: the files
// of rotation lie beside the file.
func resolve(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		return filepath.EvalSymlinks(path)
	}
	return path, nil
}

// before finds the place in the chain where the current file begins: the end of the newest
// earlier one.
func before(path string, earlier []rotated) (place, error) {
	if len(earlier) == 0 {
		return place{hash: genesis}, nil
	}
	newest := earlier[len(earlier)-1]
	f, err := os.Open(newest.path)
	if err != nil {
		return place{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return place{}, err
	}
	// A file is whole when it is rotated, so anything else was done to it later.
	e, err := readEnd(f, info.Size(), func() (place, error) { return place{}, nil })
	if err != nil || e.torn != nil || e.unterminated || e.last.seq != newest.last {
		return place{}, fmt.Errorf("it goes on from %s, which does not end with record %d as its name says; run sealward audit verify on it, and move it away to begin a new log", newest.path, newest.last)
	}
	return e.last, nil
}

// begun is the time of the first record in r, zero for none.
func begun(r io.ReaderAt, size int64) time.Time {
	buf := make([]byte, min(size, maxBatch))
	n, _ := r.ReadAt(buf, 0)
	for line := range strings.Lines(string(buf[:n])) {
		if rec, err := decode([]byte(strings.TrimSuffix(line, "\n"))); err == nil {
			return rec.Time
		}
	}
	return time.Time{}
}

// rotationDue: n more bytes belong into the next file.
func (l *Log) rotationDue(n int) bool {
	now := l.now()
	if l.durable == 0 || l.last.seq == 0 || now.Before(l.rotateAgain) {
		return false
	}
	return l.maxSize > 0 && l.durable+int64(n) > l.maxSize ||
		l.maxAge > 0 && !l.began.IsZero() && now.Sub(l.began) >= l.maxAge
}

// rotate gives the current file its number and goes on in an empty one. It may fail: the
// current file is then still there and goes on growing.
//
// A crash leaves one of: both names on one file, which [Open] takes back; an empty current
// file, or none, and Open goes on from the newest earlier one.
func (l *Log) rotate() error {
	if err := errors.Join(l.rollBack(), l.unchanged(l.durable)); err != nil {
		return err
	}
	to := rotatedPath(l.path, l.last.seq)
	if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, fmt.Errorf("%s is in the way", to))
	}
	next, err := l.create()
	if err != nil {
		return err
	}
	undo := func() error { return os.Remove(to) }
	// Linked, so that the path is never without a file; where the file system has no links,
	// for a moment it is.
	if err = os.Link(l.path, to); err != nil {
		undo = func() error { return os.Rename(to, l.path) }
		err = os.Rename(l.path, to)
	}
	if err != nil {
		return errors.Join(err, discard(next))
	}
	// Both names must not be lost at once, in whatever order the disk gets them.
	if err = syncFolder(filepath.Dir(l.path)); err == nil {
		err = os.Rename(next.Name(), l.path)
	}
	if err != nil {
		return errors.Join(err, undo(), discard(next))
	}
	seq, head := l.Head()
	l.logger.Info("the audit log goes on in a new file", "rotatedTo", to, "auditSeq", seq, "auditHead", head)
	return l.goOn(next, 0)
}

// deleteOld deletes the earlier files that are more than are kept. The hash of the last
// record that is gone is what [VerifyOptions.After] wants for the rest.
func (l *Log) deleteOld() error {
	if l.keep <= 0 {
		return nil
	}
	earlier, err := rotatedFiles(l.path)
	if err != nil {
		return err
	}
	for ; len(earlier) > l.keep; earlier = earlier[1:] {
		end, err := before(l.path, earlier[:1])
		if err != nil { // changed by somebody: evidence
			return err
		}
		if err := os.Remove(earlier[0].path); err != nil {
			return err
		}
		l.logger.Info("an old file of the audit log was deleted", "path", earlier[0].path, "auditSeq", end.seq, "auditHash", end.hash)
	}
	return nil
}

// create makes the file that will stand at path: empty, locked, under another name.
func (l *Log) create() (*os.File, error) {
	name := newPath(l.path)
	switch info, err := os.Lstat(name); { // one that a crash left
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case info.Size() > 0:
		if err := l.moveAside(name); err != nil {
			return nil, err
		}
	default:
		if err := os.Remove(name); err != nil {
			return nil, err
		}
	}
	return openLocked(name, os.O_EXCL)
}

func newPath(path string) string { return path + ".new" }

// takeCopy makes a copy the log where a crash came between the copy and its name: there may
// be no other.
func takeCopy(path string, logger *slog.Logger) error {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if info, err := os.Lstat(newPath(path)); err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
		return nil
	}
	logger.Warn("the audit log had been deleted when the last process ended; the copy that it was making is taken, and its end may be missing: verify it against the last head that was noted", "path", path)
	return errors.Join(os.Rename(newPath(path), path), syncFolder(filepath.Dir(path)))
}

func discard(f *os.File) error { return errors.Join(f.Close(), os.Remove(f.Name())) }

// goOn writes into f, which stands at path now, from here on.
func (l *Log) goOn(f *os.File, size int64) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	_ = l.file.Close() // all of it is durable
	l.file, l.opened, l.durable, l.dirty = l.wrap(f), info, size, false
	if size == 0 {
		l.began = time.Time{}
	}
	l.namesDurable = false
	return l.syncNames()
}

// syncNames makes durable under which name the current file stands. Until that is done no
// record counts: a crash could bring the old name back.
func (l *Log) syncNames() error {
	if l.namesDurable {
		return nil
	}
	if err := syncFolder(filepath.Dir(l.path)); err != nil {
		return err
	}
	l.namesDurable = true
	return nil
}

// errAway: the path names another file, or none. Ours is open still, so it can be restored.
var errAway = errors.New("nothing is recorded until it is restored from the file that is open")

// restore puts what was written back at path, as a copy: a file that no folder names can
// get no name again. Whatever stands there now is moved aside, never deleted.
func (l *Log) restore() (err error) {
	info, err := l.file.Stat()
	if err != nil {
		return err
	}
	e, err := readEnd(l.file, info.Size(), func() (place, error) { return place{hash: genesis}, nil })
	if err != nil {
		return err
	}
	if info.Size() != l.durable || l.durable > 0 && (e.torn != nil || e.last != l.last) {
		return errors.New("the file that is open was changed as well; keep a copy of what there is and restart the agent")
	}
	if err := makeFolder(filepath.Dir(l.path)); err != nil {
		return err
	}
	next, err := l.create()
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, discard(next))
		}
	}()
	if _, err := io.Copy(next, io.NewSectionReader(l.file, 0, l.durable)); err != nil {
		return err
	}
	if err := next.Sync(); err != nil {
		return err
	}
	if err := l.moveStranger(); err != nil {
		return err
	}
	if err := os.Rename(next.Name(), l.path); err != nil {
		return err
	}
	// Renamed: no error below may discard it.
	if err := l.goOn(next, l.durable); err != nil {
		l.logger.Warn("the folder of the audit log cannot be synced yet", "error", err)
	}
	return nil
}

// moveStranger moves a file that is not ours away from path. One that another process has
// locked is that process's log: it stays.
func (l *Log) moveStranger() error {
	switch info, err := os.Lstat(l.path); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().IsRegular():
		stranger, err := openLocked(l.path, 0)
		if err != nil {
			return err
		}
		defer stranger.Close()
	}
	return l.moveAside(l.path)
}

func (l *Log) moveAside(path string) error {
	to := l.path + ".foreign-" + l.now().UTC().Format("20060102T150405.000000000Z")
	if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, fmt.Errorf("%s is in the way", to))
	}
	l.logger.Warn("a file that is not the audit log stood in its place and is moved aside", "path", path, "movedTo", to)
	return os.Rename(path, to)
}

// restoreAfter restores the log where why is that its file is away, and returns why: the
// records at hand were refused, the next ones will be taken.
func (l *Log) restoreAfter(why error) error {
	if !errors.Is(why, errAway) {
		return why
	}
	if now := l.now(); !now.Before(l.restoreAgain) {
		l.restoreAgain = now.Add(time.Second) // it may be a large copy
		l.restoreErr = l.restore()
		if l.restoreErr == nil {
			l.restoreAgain = time.Time{}
			l.logger.Error("the audit log was deleted, moved or replaced; it is restored, and reads are recorded again", "path", l.path, "why", why)
			return why
		}
	}
	return fmt.Errorf("%w; that failed: %w", why, l.restoreErr)
}
