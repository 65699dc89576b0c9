package faults

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sealward/sealward/gitops/gitcmd/gittest"
)

// fails waits until following fails with an error that has text, and returns it.
func (w *world) fails(text string) string {
	w.t.Helper()
	var last string
	eventually(w.t, "following fails with "+text, func() bool {
		last = w.reader.source().Sync.Error
		return strings.Contains(last, text)
	})
	return last
}

// stays checks that everything is served, and of the same commit as before.
func (w *world) stays(commit string) {
	w.t.Helper()
	must(w.t, w.reader.pass())
	if at := w.reader.source().Commit; at != commit {
		w.t.Errorf("serves %s, want %s", at, commit)
	}
}

// closedPort is a port of loopback that refuses connections until it is opened.
func closedPort(t *testing.T) (port int, open func() net.Listener) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	must(t, err)
	syscall.CloseOnExec(fd)
	must(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	at, err := syscall.Getsockname(fd)
	must(t, err)
	return at.(*syscall.SockaddrInet4).Port, func() net.Listener {
		must(t, syscall.Listen(fd, 16))
		f := os.NewFile(uintptr(fd), "listener")
		defer f.Close()
		l, err := net.FileListener(f)
		must(t, err)
		return l
	}
}

// Nothing listens at the remote's port when the agent starts for the first time.
func TestRemoteRefusesAtStart(t *testing.T) {
	t.Parallel()
	port, listen := closedPort(t)
	w := newWorld(t, 6, options{source: fmt.Sprintf("source: {url: \"http://127.0.0.1:%d/secrets.git\", interval: 50ms, timeout: 2s}\n", port)})
	w.agent.start()
	w.fails("cannot be reached")
	if err := w.reader.pass(); err != errNotReady {
		t.Errorf("with nothing applied: %v", err)
	}
	backend, err := gittest.Backend(filepath.Join(w.dir, "git"))
	must(t, err)
	server := &http.Server{Handler: backend}
	l := listen()
	go func() { _ = server.Serve(l) }()
	defer server.Close()
	w.settled()
	w.finish()
}

func TestRemoteDownAtStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 6, options{})
	w.set(reset, 0)
	w.agent.start()
	w.fails("cannot be reached")
	if err := w.reader.pass(); err != errNotReady {
		t.Errorf("with nothing applied: %v", err)
	}
	w.set(none, 0)
	w.settled()
	w.agent.stop()

	w.set(failing, 0)
	commit := w.repo.head
	w.repo.change(5)
	w.agent.start()
	w.stays(commit) // at once
	if text := w.fails("status 503"); strings.Contains(text, canary) {
		t.Error("the error holds what the server sent")
	}
	w.stays(commit)
	w.set(none, 0)
	w.settled()
	w.finish()
}

// Every trouble while commits come: what was applied stays served, the status says
// why, and when it is over the agent catches up.
func TestRemoteTroubles(t *testing.T) {
	for _, what := range troubles {
		t.Run(string(what), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 6, options{})
			w.agent.start()
			w.settled()
			stop := w.reading()
			rounds := 3
			if what == flaky {
				rounds = 6
			}
			for range rounds {
				commit := w.repo.head
				before := w.seen(what)
				w.set(what, int64(w.random.IntN(3000)))
				w.repo.change(5)
				w.repo.change(5)
				if what == flaky {
					time.Sleep(300 * time.Millisecond)
				} else {
					eventually(t, "the agent meets it", func() bool { return w.seen(what) > before })
				}
				if what == reset || what == failing || what == stalled {
					w.fails("cannot be reached")
					w.stays(commit)
				}
				w.set(none, 0)
				w.settled()
			}
			stop()
			w.finish()
		})
	}
}

// A branch that is moved by force, is gone, has another name, or comes back as
// something else is not followed; what was merged stays served.
func TestBranchMoves(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 6, options{})
	w.agent.start()
	first := w.repo.head
	w.repo.change(5)
	w.repo.change(5)
	w.settled()
	stop := w.reading()
	good := w.repo.head
	back := func() {
		t.Helper()
		w.stays(good)
		w.agent.kill()
		w.agent.start()
		w.stays(good) // also after a restart
		w.repo.point("main", good)
		w.repo.change(5)
		w.settled()
		good = w.repo.head
	}

	w.repo.rewind(first)
	w.fails("rewound")
	back()

	w.repo.rewind(w.repo.commit(first, w.repo.set("orders", "s0002")...))
	w.fails("rewound")
	back()

	w.repo.git("update-ref", "-d", "refs/heads/main")
	w.fails("no such branch")
	back()

	w.repo.git("update-ref", "-d", "refs/heads/main")
	w.fails("no such branch")
	w.repo.rewind(w.repo.commit("", w.repo.set("orders", "s0002")...)) // recreated without history
	w.fails("rewound")
	back()

	w.repo.point("trunk", good)
	w.repo.git("symbolic-ref", "HEAD", "refs/heads/trunk")
	w.repo.git("update-ref", "-d", "refs/heads/main")
	if text := w.fails("no such branch"); !strings.Contains(text, "it has trunk") {
		t.Errorf("the error does not name the branch that is there: %s", text)
	}
	back()
	stop()
	w.finish()
}

// A remote that is itself a shallow clone cannot say what descends from what: it
// is refused at the start, and not followed later. A rewritten history behind the
// same files is a rewind.
func TestShallowRemote(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 6, options{})
	w.repo.change(5)
	w.repo.change(5)
	whole := w.repo.dir + ".whole"
	shallow := func() {
		t.Helper()
		must(t, os.Rename(w.repo.dir, whole))
		cmd := exec.Command("git", "clone", "-q", "--bare", "--depth", "1", "file://"+whole, w.repo.dir)
		cmd.Env = gitEnv()
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	unshallow := func() {
		t.Helper()
		must(t, os.RemoveAll(w.repo.dir))
		must(t, os.Rename(whole, w.repo.dir))
	}
	shallow()
	w.agent.start()
	w.fails("shallow clone")
	if err := w.reader.pass(); err != errNotReady {
		t.Errorf("with nothing applied: %v", err)
	}
	unshallow()
	w.settled()

	// The same files, as the first commit of another history.
	var all []edit
	for path, f := range w.repo.files {
		all = append(all, edit{path: path, text: w.repo.git("show", w.repo.head+":"+path) + "\n", file: &f})
	}
	good := w.repo.head
	w.repo.rewind(w.repo.commit("", all...))
	w.fails("rewound")
	shallow()
	w.fails("rewound")
	w.stays(good)
	unshallow()
	w.repo.point("main", good)
	w.repo.change(5)
	w.settled()
	// A host that was restored from a shallow clone, and then moved on.
	good = w.repo.head
	w.set(reset, 0)
	w.fails("cannot be reached")
	w.repo.change(5)
	shallow()
	w.set(none, 0)
	w.fails("shallow clone")
	w.stays(good)
	unshallow()
	w.settled()
	w.finish()
}

// Two agents on one state folder: the second refuses and says so, the first goes
// on.
func TestTwoAgentsOnOneState(t *testing.T) {
	t.Parallel()
	for _, audit := range []string{"audit.jsonl", "audit-2.jsonl"} {
		w := newWorld(t, 6, options{})
		w.agent.start()
		w.settled()
		second := newAgent(t, w.dir, options{source: w.settings(w.dir, 0), audit: audit})
		second.starts = 100 // logs of its own
		second.ends(1, "another")
		w.repo.change(5)
		w.settled()
		_ = os.Remove(filepath.Join(w.dir, "audit-2.jsonl"))
		w.finish()
	}
}
