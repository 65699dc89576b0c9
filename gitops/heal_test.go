package gitops_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sealward/sealward/gitops"
	"github.com/sealward/sealward/gitops/source"
)

// damage overwrites an object within a pack.
func (w *world) damage(pack, object string) {
	w.t.Helper()
	where := regexp.MustCompile(object + ` \w+ +\d+ (\d+) (\d+)`).FindStringSubmatch(w.git("verify-pack", "-v", pack))
	if where == nil {
		w.t.Fatal("the object is not in the pack")
	}
	size, _ := strconv.Atoi(where[1])
	offset, _ := strconv.ParseInt(where[2], 10, 64)
	f, err := os.OpenFile(pack, os.O_RDWR, 0)
	must(w.t, err)
	_, err = f.WriteAt(make([]byte, size-10), offset+8)
	must(w.t, err)
	must(w.t, f.Close())
}

// A blob that was damaged before anybody read it: the rest of the commit is applied,
// and the mirror is cloned anew for it.
func TestUnreadableManifestHeals(t *testing.T) {
	w := newTwoSources(t)
	w.a.secret("orders", "db", "k=hunter2")
	w.a.commit("a")
	w.b.commit("b")
	_, _, err := w.once("", "")
	must(t, err)
	blob := w.a.git("rev-parse", "HEAD:workspaces/orders/secrets/db.yaml")
	packs, err := filepath.Glob(filepath.Join(w.a.dir, "state/a/mirror/objects/pack/*.pack"))
	must(t, err)
	w.a.damage(packs[0], blob)
	// The store is lost too, so that the blob is read again.
	must(t, os.Remove(filepath.Join(w.a.dir, "state/a/store.db")))
	v, log, err := w.once("", "")
	must(t, err)
	if got := ownerOf(t, v, "orders"); got != "a:hunter2" {
		t.Errorf("orders: %s", got)
	}
	if !strings.Contains(log, "the mirror was damaged; it was cloned anew") {
		t.Errorf("log:\n%s", log)
	}
}

// A clone for packs that pile up is not tried at every look when it fails.
func TestPacksThatCannotBeClonedAnew(t *testing.T) {
	w := newWorld(t)
	w.start()
	for range 65 {
		w.commit("change")
		w.sync()
	}
	tries := 0
	w.agent.Remirror = func(context.Context, *gitops.Agent) error { tries++; return source.ErrTooLarge }
	for _, passed := range []time.Duration{0, time.Minute, 58 * time.Minute} {
		w.now = w.now.Add(passed)
		w.sync()
	}
	if tries != 1 {
		t.Errorf("%d clones within an hour", tries)
	}
	w.now = w.now.Add(time.Minute)
	if w.sync(); tries != 2 {
		t.Errorf("%d clones after an hour", tries)
	}
	w.agent.Remirror = func(context.Context, *gitops.Agent) error { return nil }
	w.now = w.now.Add(time.Hour)
	if w.sync(); !strings.Contains(w.log.String(), "the mirror was cloned anew, because its packs had piled up") {
		t.Errorf("log:\n%s", w.log.String())
	}
}

// A mirror that is damaged while the branch loses the applied commit cannot be
// cloned anew without losing that too: the operator's word decides, as for any rewind.
func TestDamagedMirrorOfARewoundBranch(t *testing.T) {
	w := newWorld(t)
	start := w.git("rev-parse", "HEAD")
	w.secret("orders", "db", "k=hunter2")
	first := w.commit("first")
	harm := func() { must(t, os.RemoveAll(filepath.Join(w.dir, "state/mirror"))) }
	r := w.run()
	r.until("msg=applied", first, "secrets=1")
	harm()
	w.git("reset", "-q", "--hard", start)
	w.secret("orders", "db", "k=other")
	w.secret("orders", "two", "k=other")
	second := w.commit("rewritten")
	r.until("the mirror was not cloned anew", "the branch was rewound", "sealward agent approve "+second)
	must(t, r.Approve(second))
	r.until("the mirror was damaged; it was cloned anew")
	r.until("msg=applied", second, "secrets=2")
	w.secret("orders", "three", "k=other")
	next := w.commit("next")
	r.until("msg=applied", next, "secrets=3", "unsealed=1 ")

	// The same at a start, where nothing is served until then.
	r.end()
	r.until("msg=stopped")
	must(t, <-r.ended)
	packs, err := filepath.Glob(filepath.Join(w.dir, "state/mirror/objects/pack/*.pack"))
	must(t, err)
	for _, pack := range packs {
		must(t, os.Truncate(pack, 0))
	}
	w.git("reset", "-q", "--hard", start)
	w.secret("orders", "db", "k=third")
	third := w.commit("rewritten again")
	r = w.run()
	r.until("the mirror was not cloned anew", "the branch was rewound", "sealward agent approve "+third)
	must(t, r.Approve(third))
	r.until("msg=applied", third, "secrets=1")
}

// A crash while a clone is swapped in leaves both mirrors: the one that is in its
// place counts, or else the new one, and the rest goes.
func TestCrashWhileTheMirrorIsSwapped(t *testing.T) {
	w := newTwoSources(t)
	w.a.secret("orders", "db", "k=hunter2")
	w.a.commit("a")
	w.b.commit("b")
	_, _, err := w.once("", "")
	must(t, err)
	mirror := filepath.Join(w.a.dir, "state/a/mirror")
	w.a.git("branch", "-q", "-m", "main", "hidden") // nothing can be cloned now
	for name, crash := range map[string]func(){
		"before the swap": func() { must(t, os.Mkdir(mirror+".new", 0o700)) },
		"between the renames": func() {
			must(t, os.Rename(mirror, mirror+".new"))
			must(t, os.Mkdir(mirror+".old", 0o700))
		},
		"after the swap": func() { must(t, os.Mkdir(mirror+".old", 0o700)) },
	} {
		crash()
		v, _, err := w.once("", "")
		if !errors.Is(err, source.ErrNoBranch) {
			t.Errorf("%s: %v", name, err)
		}
		if got := ownerOf(t, v, "orders"); got != "a:hunter2" {
			t.Errorf("%s: orders: %s", name, got)
		}
		if left, _ := filepath.Glob(mirror + ".*"); len(left) != 0 {
			t.Errorf("%s: %v are left", name, left)
		}
	}
}
