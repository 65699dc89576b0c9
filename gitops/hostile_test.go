package gitops_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/sealward/sealward/gitops"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal/access"
)

// What a reviewer found by attacking the agent; each must stay refused.

func allGrant(name, ws, effect string) string {
	where := "workspace: " + ws + "\ngrant: {"
	if ws == "instance" {
		where = "grant: {workspaces: [orders], "
	}
	return "name: " + name + "\nversion: v1alpha\ntype: grant\n" + where + "policy_use_case_id: read-all-secrets, subjects: [users:id:alice], effect: " + effect + "}\n"
}

// may asks whether alice may read orders/db.
func (w *world) may() access.Reason {
	w.t.Helper()
	alice, err := manifest.ParseSubject("users:id:alice")
	must(w.t, err)
	scope, err := manifest.ParseScope("orders")
	must(w.t, err)
	name, err := manifest.ParseName("db")
	must(w.t, err)
	return w.live.Current("").Policy.Read(access.Identity{User: alice}, scope, name, w.now).Any().Reason
}

// mktree makes a tree that git add would not.
func (w *world) mktree(lines ...string) string {
	w.t.Helper()
	cmd := exec.Command("git", "mktree", "--missing")
	cmd.Dir, cmd.Stdin = filepath.Join(w.dir, "repo"), strings.NewReader(strings.Join(lines, "\n")+"\n")
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("git mktree: %v\n%s", err, out)
	}
	return strings.TrimSpace(string(out))
}

// push makes a commit of a tree on top of the branch.
func (w *world) push(tree string) {
	w.t.Helper()
	w.git("update-ref", "refs/heads/main", w.git("commit-tree", "-p", "HEAD", "-m", "by hand", tree))
}

// plainSops is orders/db as plain sops would have sealed it.
func (w *world) plainSops() string {
	w.t.Helper()
	f := filepath.Join(w.dir, "plain.yaml")
	must(w.t, os.WriteFile(f, []byte("name: db\nversion: v1\ntype: secret\nworkspace: orders\nsecret: {type: key-value, acl: r, data: {k: hunter2}}\n"), 0o600))
	sops, err := filepath.Abs("../bin/tools/sops")
	must(w.t, err)
	out, err := exec.Command(sops, "--config", "/dev/null", "-e", "--age", w.ids["orders"].Recipient().String(), "--encrypted-regex", manifest.SealedPattern, f).Output()
	if err != nil {
		w.t.Fatalf("sops (make tools): %v", err)
	}
	return string(out)
}

// A refused part is looked at again when its rival goes, but not when it goes
// itself in the same commit.
func TestDeletedConflictStaysDeleted(t *testing.T) {
	w := newWorld(t)
	w.write("workspaces/orders/secrets/api/a.yaml", w.sealed("orders", "api", "k=good"))
	w.commit("a")
	w.start()
	w.sync()
	w.write("workspaces/orders/secrets/api/b.yaml", w.sealed("orders", "api", "k=hunter3"))
	w.commit("b")
	w.sync()
	w.want("orders/api/k=good", "orders/secrets/api/b:conflict")
	w.remove("workspaces/orders/secrets/api")
	w.commit("deleted whole")
	w.sync()
	w.want("", "")
}

// The last good content of a part that breaks still holds its keys.
func TestNewPartDoesNotTakeAKeyOfABrokenOne(t *testing.T) {
	w := newWorld(t)
	w.write("workspaces/orders/secrets/api/b.yaml", w.sealed("orders", "api", "k=good"))
	w.commit("a")
	w.start()
	w.sync()
	w.write("workspaces/orders/secrets/api/b.yaml", "?")
	w.write("workspaces/orders/secrets/api/a.yaml", w.sealed("orders", "api", "k=hunter3"))
	w.commit("break and take over")
	w.sync()
	w.want("orders/api/k=good!", "orders/secrets/api/a:conflict orders/secrets/api/b:manifest")
}

// Only the stale part ends after maxStale.
func TestStalePartEndsAlone(t *testing.T) {
	w := newWorld(t)
	w.write("workspaces/orders/secrets/api/a.yaml", w.sealed("orders", "api", "a=1"))
	w.write("workspaces/orders/secrets/api/b.yaml", w.sealed("orders", "api", "b=1"))
	w.commit("two")
	w.start()
	w.sync()
	w.write("workspaces/orders/secrets/api/b.yaml", "?")
	w.commit("one breaks")
	w.sync()
	w.want("orders/api/a=1 orders/api/b=1!", "orders/secrets/api/b:manifest")
	w.now = w.now.Add(25 * time.Hour)
	w.want("orders/api/a=1", "orders/secrets/api/b:manifest")
}

// A link, file or submodule in the place of a folder of grants hides its denies.
func TestGrantsFolderThatIsNone(t *testing.T) {
	for name, c := range map[string]struct {
		deny, path string
		link       bool
	}{
		"link":           {"workspaces/orders/grants/d.yaml", "workspaces/orders/grants", true},
		"file":           {"workspaces/orders/grants/d.yaml", "workspaces/orders/grants", false},
		"workspace link": {"workspaces/orders/grants/d.yaml", "workspaces/orders", true},
		"instance link":  {"instance/grants/d.yaml", "instance/grants", true},
		"instance file":  {"instance/grants/d.yaml", "instance", false},
		"no workspaces":  {"workspaces/orders/grants/d.yaml", "workspaces", true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.secret("orders", "db", "k=v")
			allow := "instance/grants/a.yaml"
			if strings.HasPrefix(c.deny, "instance") {
				allow = "workspaces/orders/grants/a.yaml"
			}
			scopeOf := func(path string) string { return strings.Split(strings.TrimPrefix(path, "workspaces/"), "/")[0] }
			w.write(allow, allGrant("a", scopeOf(allow), "allow"))
			w.write(c.deny, allGrant("d", scopeOf(c.deny), "deny"))
			w.commit("denied")
			w.start()
			w.sync()
			if got := w.may(); got != access.DenyGrant {
				t.Fatalf("before: %s", got)
			}
			good := w.git("rev-parse", "HEAD^{tree}")
			w.remove(c.path)
			if c.link {
				must(t, os.Symlink("elsewhere", filepath.Join(w.dir, "repo", c.path)))
			} else {
				w.write(c.path, "x")
			}
			w.commit("odd")
			w.sync()
			for range 2 {
				if got := w.may(); got != access.PolicyBroken {
					t.Errorf("odd: %s", got)
				}
				w.start() // the same after a restart
			}
			w.push(good)
			w.sync()
			if got := w.may(); got != access.DenyGrant {
				t.Errorf("mended: %s, %v", got, w.live.Current("").Problems)
			}
		})
	}
}

// A folder that is listed twice cannot be told; when that is mended, what is not
// there any more must not live on.
func TestNothingOutlivesABrokenTree(t *testing.T) {
	w := newWorld(t)
	w.secret("orders", "db", "k=v")
	w.secret("orders", "gone", "k=ghost")
	w.write("workspaces/orders/grants/g.yaml", allGrant("g", "orders", "allow"))
	w.commit("good")
	w.start()
	w.sync()
	orders, readme := w.git("rev-parse", "HEAD:workspaces/orders"), w.git("rev-parse", "HEAD:README.md")
	w.push(w.mktree("040000 tree " + w.mktree("040000 tree "+orders+"\torders", "100644 blob "+readme+"\torders") + "\tworkspaces"))
	w.sync()
	if got := w.may(); got != access.PolicyBroken {
		t.Errorf("odd: %s", got)
	}
	// The last good values stay, marked, also after a restart.
	w.start()
	if got := w.served(); got != "orders/db/k=v! orders/gone/k=ghost!" {
		t.Errorf("odd: served %q", got)
	}
	secrets := w.git("rev-parse", orders+":secrets")
	db := w.git("rev-parse", secrets+":db.yaml")
	w.push(w.mktree("040000 tree " + w.mktree("040000 tree "+w.mktree("040000 tree "+w.mktree("100644 blob "+db+"\tdb.yaml")+"\tsecrets")+"\torders") + "\tworkspaces"))
	w.sync()
	if got := w.may(); got != access.NoGrant {
		t.Errorf("mended without the grant: %s", got)
	}
	w.want("orders/db/k=v", "")
}

// A changed ring is not forgotten because the apply failed.
func TestRingChangeOutlivesAFailedApply(t *testing.T) {
	w := newWorld(t)
	w.secret("orders", "db", "k=v")
	w.commit("x")
	w.start()
	w.sync()
	must(t, os.Remove(filepath.Join(w.dir, "keys/orders.agekey")))
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := w.agent.Sync(cancelled); err == nil {
		t.Error("a cancelled sync succeeded")
	}
	// Even then the value is not served any more.
	if got := w.served(); got != "" {
		t.Errorf("after the failed apply: served %q", got)
	}
	w.sync()
	w.want("", "orders/secrets/db:no-key")
}

// What changes while the agent is down counts as much as what it sees change.
func TestChangesWhileDown(t *testing.T) {
	t.Run("an identity leaves the ring", func(t *testing.T) {
		w := newWorld(t)
		second, err := age.GenerateX25519Identity()
		must(t, err)
		w.putKeys("orders", w.ids["orders"], second)
		w.write("workspaces/orders/secrets/db.yaml", w.sealedFor(second, "orders", "db", "k=v"))
		w.commit("x")
		w.start()
		w.sync()
		w.want("orders/db/k=v", "")
		w.putKeys("orders", w.ids["orders"])
		w.start()
		w.want("", "orders/secrets/db:no-key")
	})
	t.Run("bindings become required", func(t *testing.T) {
		w := newWorld(t)
		w.write("workspaces/orders/secrets/db.yaml", w.plainSops())
		w.commit("x")
		w.allowUnbound = true
		w.start()
		w.sync()
		w.want("orders/db/k=hunter2", "")
		w.allowUnbound = false
		w.start()
		w.now = w.now.Add(25 * time.Hour)
		w.want("", "orders/secrets/db:unbound")
	})
	t.Run("tightened and deleted in one commit", func(t *testing.T) {
		w := newWorld(t)
		w.write("workspaces/orders/secrets/db.yaml", w.plainSops())
		w.commit("x")
		w.allowUnbound = true
		w.start()
		w.sync()
		w.write("sealward.yaml", "binding: required\n")
		w.remove("workspaces/orders/secrets/db.yaml")
		w.commit("y")
		w.sync()
		w.want("", "")
	})
}

// Settings that cannot be read for sure are the strictest.
func TestSettingsThatAreNoFile(t *testing.T) {
	for _, kind := range []string{"twice", "folder", "link"} {
		t.Run(kind, func(t *testing.T) {
			w := newWorld(t)
			w.allowUnbound = true
			w.write("workspaces/orders/secrets/db.yaml", w.plainSops())
			w.commit("x")
			readme, workspaces := w.git("rev-parse", "HEAD:README.md"), w.git("rev-parse", "HEAD:workspaces")
			lines := []string{"100644 blob " + readme + "\tREADME.md", "040000 tree " + workspaces + "\tworkspaces"}
			switch kind {
			case "twice":
				lines = append(lines, "100644 blob "+readme+"\tsealward.yaml", "100755 blob "+readme+"\tsealward.yaml")
			case "folder":
				lines = append(lines, "040000 tree "+workspaces+"\tsealward.yaml")
			case "link":
				lines = append(lines, "120000 blob "+readme+"\tsealward.yaml")
			}
			w.push(w.mktree(lines...))
			w.start()
			w.sync()
			if got := w.served(); got != "" || !strings.Contains(w.failing(), "db:unbound") {
				t.Errorf("served %q, failing %q", got, w.failing())
			}
		})
	}
}

// A lost store must not make the agent follow a rewound branch.
func TestRewindAfterTheStoreIsLost(t *testing.T) {
	w := newWorld(t)
	w.secret("orders", "db", "k=old")
	old := w.commit("one")
	w.secret("orders", "db", "k=new")
	w.commit("two")
	w.start()
	w.sync()
	w.close()
	must(t, os.Remove(filepath.Join(w.dir, "store.db")))
	w.git("reset", "-q", "--hard", old)
	w.start()
	if _, err := w.agent.Sync(context.Background()); !errors.Is(err, gitops.ErrRewound) {
		t.Errorf("%v, served %q", err, w.served())
	}
}

// A link whose own content is a sealed manifest is a link all the same, also when
// everything is judged again.
func TestLinkWithTheContentOfAManifest(t *testing.T) {
	w := newWorld(t)
	w.secret("orders", "db", "k=v")
	w.commit("x")
	blob := w.git("rev-parse", "HEAD:workspaces/orders/secrets/db.yaml")
	w.push(w.mktree("040000 tree " + w.mktree("040000 tree "+w.mktree("040000 tree "+w.mktree("120000 blob "+blob+"\tdb.yaml")+"\tsecrets")+"\torders") + "\tworkspaces"))
	w.start()
	w.sync()
	w.want("", "orders/secrets/db:place")
	w.putKeys("orders", w.ids["orders"])
	w.sync()
	w.want("", "orders/secrets/db:place")
}
