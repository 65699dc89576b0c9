package gitops_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
)

// Moves and reverts unseal nothing; a changed ring does.
func TestNothingIsUnsealedTwice(t *testing.T) {
	w := newWorld(t)
	w.secret("orders", "db", "k=hunter2")
	w.commit("first")
	w.start()
	applied := func(served, numbers string) {
		t.Helper()
		w.log.Reset()
		w.sync()
		if got := w.served(); got != served {
			t.Errorf("served %q, want %q", got, served)
		}
		if !strings.Contains(w.log.String(), numbers) {
			t.Errorf("want %s in the log:\n%s", numbers, w.log.String())
		}
	}
	applied("orders/db/k=hunter2", "unsealed=1 reused=0")

	w.git("mv", "workspaces/orders/secrets/db.yaml", "workspaces/orders/secrets/moved.tmp")
	w.git("commit", "-q", "-m", "away")
	w.log.Reset()
	w.sync()
	w.git("revert", "--no-edit", "HEAD")
	applied("orders/db/k=hunter2", "unsealed=0 reused=1")

	w.secret("orders", "db", "k=hunter3")
	w.commit("second")
	applied("orders/db/k=hunter3", "unsealed=1 reused=0")
	w.git("revert", "--no-edit", "HEAD")
	applied("orders/db/k=hunter2", "unsealed=0 reused=1")
	must(t, os.MkdirAll(filepath.Join(w.dir, "repo/workspaces/orders/secrets/db"), 0o700))
	w.git("mv", "workspaces/orders/secrets/db.yaml", "workspaces/orders/secrets/db/part.yaml")
	w.git("commit", "-q", "-m", "now a part")
	applied("orders/db/k=hunter2", "unsealed=0 reused=1")

	// With another ring what was opened before counts for nothing.
	old := w.ids["orders"]
	other, err := age.GenerateX25519Identity()
	must(t, err)
	w.git("revert", "--no-edit", "HEAD")
	w.putKeys("orders", other)
	applied("", "unsealed=1 reused=0")
	w.putKeys("orders", old)
	applied("orders/db/k=hunter2", "reused=0")
}
