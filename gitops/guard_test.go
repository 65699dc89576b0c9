package gitops_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealward/sealward/gitops"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/access"
)

// Removals of too much wait; what else the commit says is applied, and what
// returns or is approved waits no longer.
func TestRemovalGuard(t *testing.T) {
	w := newWorld(t)
	w.guard = &gitops.RemovalGuard{Percent: 25, Count: 1}
	w.write("workspaces/orders/grants/a.yaml", allGrant("a", "orders", "allow"))
	for _, n := range []string{"a", "b", "c", "d"} {
		w.secret("orders", n, "k=v")
	}
	w.secret("payments", "api", "k=v")
	w.commit("all")
	w.start()
	w.sync()
	all := "orders/a/k=v orders/b/k=v orders/c/k=v orders/d/k=v payments/api/k=v"

	// One is under the count, however small the rest.
	w.remove("workspaces/orders/secrets/d.yaml")
	w.commit("one goes")
	w.sync()
	all = strings.Replace(all, "orders/d/k=v ", "", 1)
	w.want(all, "")

	w.git("tag", "full")
	w.remove("workspaces/orders")
	w.write("workspaces/orders/grants/a.yaml", allGrant("a", "orders", "deny"))
	w.secret("payments", "api", "k=new")
	emptied := w.commit("emptied")
	w.sync()
	w.want("orders/a/k=v orders/b/k=v orders/c/k=v payments/api/k=new", "")
	if held := w.live.Current("").Held(); len(held) != 3 || held[0].Held.Commit != emptied {
		t.Errorf("held %+v", held)
	}
	if got := w.may(); got != access.DenyGrant {
		t.Errorf("the policy of the commit: %s", got)
	}
	if !strings.Contains(w.log.String(), "sealward agent approve "+emptied) {
		t.Error("the log does not say how to approve")
	}

	// One is back as it was: it waits no longer, and is not unsealed for that.
	w.log.Reset()
	w.git("checkout", "-q", "full", "--", "workspaces/orders/secrets/a.yaml")
	// Another is back as a folder of parts.
	w.write("workspaces/orders/secrets/b/x.yaml", w.sealed("orders", "b", "x=y"))
	w.commit("two are back")
	w.sync()
	if !strings.Contains(w.log.String(), "unsealed=1 ") {
		t.Errorf("more than the part was unsealed:\n%s", w.log.String())
	}
	w.want("orders/a/k=v orders/b/x=y orders/c/k=v payments/api/k=new", "")
	if held := w.live.Current("").Held(); len(held) != 1 || held[0].Path != "workspaces/orders/secrets/c.yaml" {
		t.Errorf("held %+v", held)
	}

	if err := w.agent.Approve(w.git("rev-parse", "HEAD")); !errors.Is(err, unseal.ErrNothingWaits) {
		t.Errorf("approved another commit: %v", err)
	}
	must(t, w.agent.Approve(emptied))
	w.sync()
	w.want("orders/a/k=v orders/b/x=y payments/api/k=new", "")

	// A key that leaves the ring ends what waits.
	w.remove("workspaces/orders/secrets")
	w.commit("emptied again")
	w.sync()
	w.want("orders/a/k=v orders/b/x=y payments/api/k=new", "")
	must(t, os.Remove(filepath.Join(w.dir, "keys", "orders.agekey")))
	w.sync()
	w.want("payments/api/k=new", "")
}
