package gitops_test

import (
	"os"
	"path/filepath"
	"testing"
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
