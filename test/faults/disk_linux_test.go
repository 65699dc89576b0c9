package faults

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// mount makes dir a small file system of its own; chmod would not stop root.
func mount(t *testing.T, dir, options string) {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o700))
	err := syscall.Mount("tmpfs", dir, "tmpfs", 0, options)
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) {
		t.Skip("mounting is not permitted here: run the tests as root to inject faults of the disk")
	}
	must(t, err)
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
}

// fill leaves no space in dir, and returns what gives it back.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	filler := filepath.Join(dir, "filler")
	f, err := os.OpenFile(filler, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	must(t, err)
	for size := 1 << 20; size > 0; { // in smaller and smaller pieces, to the last byte
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	must(t, f.Close())
	return func() { must(t, os.Remove(filler)) }
}

// With no space left in the state folder a commit is not applied, the one before
// stays served, also over a restart, and when space returns the agent goes on.
func TestStateDiskFull(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 10, options{})
	state := filepath.Join(w.dir, "state")
	mount(t, state, "size=4m")
	w.agent.start()
	w.settled()
	stop := w.reading()
	for round := range 3 {
		commit := w.repo.head
		free := fill(t, state)
		w.repo.change(8)
		w.fails("no space left on device")
		w.stays(commit)
		if round > 0 { // also one that was killed then
			w.agent.kill()
			w.agent.start()
			w.stays(commit)
			w.fails("no space left on device")
			w.stays(commit)
		}
		free()
		w.settled()
	}
	stop()
	w.finish()
}

// Only the store's disk is full, so that the commit is fetched and unsealed and
// then cannot be made durable: it is not served.
func TestStoreDiskFull(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 10, options{})
	state, mirror, elsewhere := filepath.Join(w.dir, "state"), filepath.Join(w.dir, "state/mirror"), filepath.Join(w.dir, "elsewhere")
	mount(t, state, "size=2m")
	must(t, os.Mkdir(mirror, 0o700))
	must(t, os.Mkdir(elsewhere, 0o700))
	must(t, syscall.Mount(elsewhere, mirror, "", syscall.MS_BIND, ""))
	t.Cleanup(func() { _ = syscall.Unmount(mirror, syscall.MNT_DETACH) })
	w.agent.start()
	w.settled()
	stop := w.reading()
	commit := w.repo.head
	free := fill(t, state)
	var edits []edit
	for i := range 60 {
		edits = append(edits, w.repo.set("orders", fmt.Sprintf("n%03d1", i))...)
	}
	w.repo.push(edits...)
	w.fails("is not applied")
	w.stays(commit)
	w.agent.kill()
	w.agent.start()
	w.stays(commit)
	w.fails("is not applied")
	w.stays(commit)
	free()
	w.settled()
	stop()
	w.finish()
}

// The audit's disk is full: nothing is served, rather than served unrecorded, and
// commits are applied all the same.
func TestAuditDiskFull(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 6, options{audit: "log/audit.jsonl"})
	log := filepath.Join(w.dir, "log")
	mount(t, log, "size=256k")
	w.agent.start()
	w.settled()
	free := fill(t, log)
	eventually(t, "reads are refused", func() bool { return errors.Is(w.reader.pass(), errAudit) })
	w.repo.change(5)
	eventually(t, "the commit is applied", func() bool { return strings.Contains(w.agent.log(), w.repo.head) })
	free()
	eventually(t, "reads are served again", func() bool { return w.reader.pass() == nil })
	w.settled()
	w.finish()
	if out, err := exec.Command(w.agent.program, "audit", "verify", filepath.Join(log, "audit.jsonl")).CombinedOutput(); err != nil {
		t.Errorf("audit verify: %v\n%s", err, out)
	}
}

// The mirror's folder becomes read-only while the agent runs: the commit is not
// applied, the one before stays served. On a state folder that is read-only as a
// whole an agent does not start, says why in one line, and loses nothing.
func TestStateReadOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 6, options{})
	state := filepath.Join(w.dir, "state")
	mirror := filepath.Join(state, "mirror")
	mount(t, state, "size=8m")
	must(t, os.Mkdir(mirror, 0o700))
	must(t, syscall.Mount(mirror, mirror, "", syscall.MS_BIND, ""))
	t.Cleanup(func() { _ = syscall.Unmount(mirror, syscall.MNT_DETACH) })
	w.agent.start()
	w.settled()
	stop := w.reading()
	commit := w.repo.head
	must(t, syscall.Mount("", mirror, "", syscall.MS_REMOUNT|syscall.MS_BIND|syscall.MS_RDONLY, ""))
	w.repo.change(5)
	w.fails("read-only file system")
	w.stays(commit)
	must(t, syscall.Mount("", mirror, "", syscall.MS_REMOUNT|syscall.MS_BIND, ""))
	w.settled()
	stop()

	commit = w.repo.head
	w.agent.kill()
	must(t, syscall.Mount("", state, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
	w.agent.ends(1, "store.db: read-only file system")
	must(t, syscall.Mount("", state, "", syscall.MS_REMOUNT, ""))
	w.set(reset, 0)
	w.agent.start()
	w.stays(commit)
	w.set(none, 0)
	w.repo.change(5)
	w.settled()
	w.finish()
}

// The agent, as a user of its own, loses its permission on the state folder.
func TestStatePermissionLost(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("only root can run the agent as another user")
	}
	const nobody = 65534
	w := newWorld(t, 6, options{audit: "log/audit.jsonl"})
	w.agent.as = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	must(t, os.Chmod(filepath.Dir(w.dir), 0o755)) // the test's own, which only its owner may enter
	state := filepath.Join(w.dir, "state")
	for _, dir := range []string{state, filepath.Join(w.dir, "log")} {
		must(t, os.Mkdir(dir, 0o700))
		must(t, os.Chown(dir, nobody, nobody))
	}
	must(t, filepath.WalkDir(w.dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch base := filepath.Base(path); {
		case base == "keys", strings.HasSuffix(base, ".agekey"), base == "tokens.yaml", base == "tmp":
			return os.Chown(path, nobody, nobody)
		}
		return nil
	}))
	w.agent.start()
	w.settled()
	commit := w.repo.head
	mode := func(m os.FileMode) {
		for _, dir := range []string{state, filepath.Join(state, "mirror"), filepath.Join(state, "mirror/objects/pack")} {
			must(t, os.Chmod(dir, m))
		}
	}
	mode(0)
	w.repo.change(5)
	w.fails("permission denied")
	w.stays(commit)
	mode(0o700)
	w.settled()

	// At the start it is one clear line.
	commit = w.repo.head
	w.agent.kill()
	mode(0)
	w.agent.ends(1, "permission denied")
	// What can be read and not written is served, and said.
	mode(0o500)
	w.set(reset, 0)
	w.agent.start()
	w.stays(commit)
	if log := w.agent.log(); !strings.Contains(log, `msg="the state folder cannot be written"`) {
		t.Errorf("the log does not say so:\n%s", log)
	}
	mode(0o700)
	w.set(none, 0)
	w.settled()
	w.finish()
}
