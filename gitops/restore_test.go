package gitops_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealward/sealward/gitops"
)

// What the mirror says was applied is served again without the remote, when the
// store is lost and when it is older than that.
func TestRestoreFromTheMirror(t *testing.T) {
	w := newWorld(t)
	w.secret("orders", "db", "k=hunter2")
	w.secret("payments", "api", "k=v1")
	w.commit("first")
	w.start()
	w.sync()
	w.close()
	file := filepath.Join(w.dir, "store.db")
	old, err := os.ReadFile(file)
	must(t, err)
	w.start()
	w.secret("payments", "api", "k=v2")
	w.commit("second")
	w.sync()
	const want = "orders/db/k=hunter2 payments/api/k=v2"

	w.close()
	must(t, os.WriteFile(file, old, 0o600))
	w.start()
	w.want(want, "")
	w.close()
	must(t, os.Remove(file))
	w.start()
	w.want(want, "")

	// The store is ahead of the mirror's note when the process ends between the two:
	// the store counts.
	w.close()
	applied := filepath.Join(w.dir, "mirror/refs/sealward/applied")
	must(t, os.WriteFile(applied, []byte(w.git("rev-parse", "HEAD~1")+"\n"), 0o600))
	w.start()
	w.want(want, "")
}

// The mirror is lost and the store is not: its records count, nothing that did not
// change is unsealed again, a last good value stays, and the branch may not go back
// behind the store's commit unless the operator says so.
func TestRestoreFromTheStore(t *testing.T) {
	w := newWorld(t)
	w.secret("orders", "db", "k=old")
	w.secret("payments", "api", "k=v1")
	w.commit("first")
	w.secret("orders", "db", "k=rotated")
	second := w.commit("second")
	w.start()
	w.sync()
	w.write("workspaces/payments/secrets/api.yaml", "broken")
	w.commit("third")
	w.sync()
	const want, failing = "orders/db/k=rotated payments/api/k=v1!", "payments/secrets/api:manifest"
	w.want(want, failing)
	lose := func() {
		w.close()
		must(t, os.RemoveAll(filepath.Join(w.dir, "mirror")))
		w.log.Reset()
		w.start()
		if got := w.served(); got != "(nothing)" || !strings.Contains(w.log.String(), "nothing is served until the remote gave it again") {
			t.Errorf("served %s without policies; log:\n%s", got, w.log.String())
		}
	}

	lose()
	w.sync()
	w.want(want, failing)
	if !strings.Contains(w.log.String(), "unsealed=1 ") { // the one that fails
		t.Errorf("log:\n%s", w.log.String())
	}

	lose()
	w.git("reset", "-q", "--hard", second)
	for range 2 {
		if _, err := w.agent.Sync(context.Background()); !errors.Is(err, gitops.ErrRewound) || w.served() != "(nothing)" {
			t.Fatalf("sync: %v; served %s", err, w.served())
		}
	}
	must(t, w.agent.Approve(second))
	w.sync()
	w.want("orders/db/k=rotated payments/api/k=v1", "")

	// A mirror that is new notes it also when the store has nothing to write.
	lose()
	w.sync()
	if !strings.Contains(w.log.String(), "unsealed=0 ") {
		t.Errorf("log:\n%s", w.log.String())
	}
	applied, err := os.ReadFile(filepath.Join(w.dir, "mirror/refs/sealward/applied"))
	must(t, err)
	if string(applied) != second+"\n" {
		t.Errorf("the mirror notes %q as applied, not %s", applied, second)
	}
}
