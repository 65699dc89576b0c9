package gitops_test

import (
	"context"
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
