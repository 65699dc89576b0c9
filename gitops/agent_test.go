package gitops_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/sealward/sealward/gitops"
	"github.com/sealward/sealward/gitops/source"
	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/access"
	"github.com/sealward/sealward/unseal/keyring"
	"github.com/sealward/sealward/unseal/store"
)

// world is a real repository, a real mirror, store and keyring, and a clock that
// the test moves.
type world struct {
	t      *testing.T
	dir    string
	now    time.Time
	ids    map[string]*age.X25519Identity
	log    bytes.Buffer
	live   *unseal.Live
	agent  *gitops.Agent
	store  *store.Store
	close  func()
	stamps int
	// options of the next start
	root         string
	allowUnbound bool
	followRewind bool
	guard        *gitops.RemovalGuard
	metrics      bool
	signatures   *gitops.SignaturePolicy
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, dir: t.TempDir(), now: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC), ids: map[string]*age.X25519Identity{}, root: "."}
	for _, ws := range []string{"orders", "payments"} {
		w.newKey(ws)
	}
	w.git("init", "-q", "-b", "main")
	w.write("README.md", "hello")
	w.commit("start")
	return w
}

func (w *world) newKey(ws string) {
	w.t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		w.t.Fatal(err)
	}
	w.ids[ws] = id
	w.putKeys(ws, id)
}

func (w *world) putKeys(ws string, ids ...*age.X25519Identity) {
	w.t.Helper()
	var text string
	for _, id := range ids {
		text += id.String() + "\n"
	}
	file := filepath.Join(w.dir, "keys", ws+".agekey")
	must(w.t, os.MkdirAll(filepath.Dir(file), 0o700))
	must(w.t, os.WriteFile(file, []byte(text), 0o600))
	// A file system's clock may be coarser than the test is quick.
	w.stamps++
	stamp := w.now.Add(time.Duration(w.stamps) * time.Second)
	must(w.t, os.Chtimes(file, stamp, stamp))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) git(args ...string) string {
	w.t.Helper()
	dir := filepath.Join(w.dir, "repo")
	must(w.t, os.MkdirAll(dir, 0o700))
	cmd := exec.Command("git", append([]string{"-c", "user.name=dana", "-c", "user.email=dana@example.com"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (w *world) write(path, text string) {
	w.t.Helper()
	file := filepath.Join(w.dir, "repo", path)
	must(w.t, os.MkdirAll(filepath.Dir(file), 0o700))
	must(w.t, os.WriteFile(file, []byte(text), 0o600))
}

func (w *world) remove(path string) {
	w.t.Helper()
	must(w.t, os.RemoveAll(filepath.Join(w.dir, "repo", path)))
}

func (w *world) commit(message string) string {
	w.t.Helper()
	w.git("add", "-A")
	w.git("commit", "-q", "--allow-empty", "-m", message)
	return w.git("rev-parse", "HEAD")
}

// sealed is a manifest with keys and values "k=v".
func (w *world) sealed(ws, name string, values ...string) string {
	return w.sealedFor(w.ids[ws], ws, name, values...)
}

func (w *world) sealedFor(id *age.X25519Identity, ws, name string, values ...string) string {
	w.t.Helper()
	scope, err := manifest.ParseScope(ws)
	must(w.t, err)
	n, err := manifest.ParseName(name)
	must(w.t, err)
	d := seal.Draft{Name: n, Workspace: scope, Type: manifest.KeyValue, ACL: manifest.Read}
	for _, v := range values {
		k, v, _ := strings.Cut(v, "=")
		key, err := manifest.ParseKey(k)
		must(w.t, err)
		d.Values = append(d.Values, seal.Value{Key: key, Data: []byte(v)})
	}
	m, err := seal.NewManifest(d)
	must(w.t, err)
	to, err := workspace.ParseRecipient(id.Recipient().String())
	must(w.t, err)
	out, err := seal.Seal(m, workspace.For(to), seal.Options{Now: w.now})
	must(w.t, err)
	return string(out)
}

func (w *world) secret(ws, name string, values ...string) {
	w.t.Helper()
	w.write("workspaces/"+ws+"/secrets/"+name+".yaml", w.sealed(ws, name, values...))
}

// start opens everything as after a restart of the process, and restores.
func (w *world) start() {
	w.t.Helper()
	if w.close != nil {
		w.close()
	}
	st, err := store.Open(filepath.Join(w.dir, "store.db"))
	must(w.t, err)
	mirror, err := source.Open(filepath.Join(w.dir, "mirror"), source.Config{URL: filepath.Join(w.dir, "repo"), Branch: "main", Timeout: 10 * time.Second})
	must(w.t, err)
	ring, err := keyring.Open(filepath.Join(w.dir, "keys"))
	must(w.t, err)
	w.live, w.store = &unseal.Live{}, st
	w.close = sync.OnceFunc(func() { st.Close(); mirror.Close() })
	w.t.Cleanup(w.close)
	w.agent = gitops.New(gitops.Config{
		Mirror: mirror, Root: w.root, Source: "test", Branch: "main", Keyring: ring, Store: st, Live: w.live,
		Log: logged.To(&w.log), Now: func() time.Time { return w.now },
		Interval: time.Minute, MaxStale: 24 * time.Hour, AllowUnbound: w.allowUnbound, FollowRewind: w.followRewind, RemovalGuard: w.guard,
		Signatures: w.signatures,
	})
	if w.metrics {
		w.agent.Metrics = gitops.NewMetrics(w.live, w.agent.Now, "v0")
	}
	must(w.t, w.agent.Restore(context.Background()))
}

func (w *world) sync() {
	w.t.Helper()
	_, err := w.agent.Sync(context.Background())
	must(w.t, err)
}

// served shows everything that is served: "orders/db/k=v ...", sorted.
func (w *world) served() string {
	var out []string
	snap := w.live.Current("")
	if snap == nil {
		return "(nothing)"
	}
	for ws := range snap.Scopes() {
		for _, n := range snap.Names(ws, w.now) {
			sec, _ := snap.Secret(ws, n, w.now)
			for _, p := range sec.Parts {
				for _, v := range p.Good.Values {
					mark := ""
					if p.Stale() {
						mark = "!"
					}
					out = append(out, fmt.Sprintf("%s/%s/%s=%s%s", ws, n, v.Key, v.Data, mark))
				}
			}
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func (w *world) failing() string {
	classes := map[string]string{}
	for _, r := range w.live.Current("").Failing() {
		classes[r.Path] = string(r.Failure.Class)
	}
	for _, p := range w.live.Current("").Problems {
		classes[p.Path] = "problem:" + string(p.Class)
	}
	var out []string
	for _, path := range slices.Sorted(maps.Keys(classes)) {
		out = append(out, strings.TrimSuffix(strings.TrimPrefix(path, "workspaces/"), ".yaml")+":"+classes[path])
	}
	return strings.Join(out, " ")
}

func (w *world) want(served, failing string) {
	w.t.Helper()
	if got := w.served(); got != served {
		w.t.Errorf("served %q, want %q", got, served)
	}
	if got := w.failing(); got != failing {
		w.t.Errorf("failing %q, want %q", got, failing)
	}
	w.checkRestart()
}

// checkRestart: what a restarted agent serves without the remote is the same.
func (w *world) checkRestart() {
	w.t.Helper()
	before, failing := w.served(), w.failing()
	w.git("branch", "-q", "-m", "main", "hidden") // the remote has no such branch now
	w.start()
	if got := w.served(); got != before {
		w.t.Errorf("after a restart served %q, before %q", got, before)
	}
	if got := w.failing(); got != failing {
		w.t.Errorf("after a restart failing %q, before %q", got, failing)
	}
	if _, err := w.agent.Sync(context.Background()); !errors.Is(err, source.ErrNoBranch) {
		w.t.Errorf("without the branch: %v", err)
	}
	if got := w.served(); got != before {
		w.t.Errorf("without the remote served %q, before %q", got, before)
	}
	w.git("branch", "-q", "-m", "hidden", "main")
	for _, v := range []string{"hunter2", "hunter3"} {
		if strings.Contains(w.log.String(), v) {
			w.t.Errorf("the log holds a value:\n%s", w.log.String())
		}
	}
}

func TestFollow(t *testing.T) {
	w := newWorld(t)
	w.start()
	if w.served() != "(nothing)" {
		t.Error("something is served before the first sync")
	}
	w.secret("orders", "db", "password=hunter2", "user=o")
	w.secret("payments", "api", "token=t1")
	first := w.commit("first")
	w.sync()
	w.want("orders/db/password=hunter2 orders/db/user=o payments/api/token=t1", "")

	w.write("unrelated.txt", "x")
	w.commit("unrelated")
	w.secret("payments", "api", "token=t2")
	second := w.commit("second")
	w.sync()
	w.want("orders/db/password=hunter2 orders/db/user=o payments/api/token=t2", "")
	// Each content names the commit that brought it, not the one that was applied.
	snap := w.live.Current("")
	for path, commit := range map[string]string{"workspaces/orders/secrets/db.yaml": first, "workspaces/payments/secrets/api.yaml": second} {
		ok := false
		for _, sc := range snap.Scopes() {
			if r := sc.Records()[path]; r != nil {
				ok = r.Good.Provenance.Commit == commit && r.Good.Provenance.Author == "dana <dana@example.com>"
			}
		}
		if !ok {
			t.Errorf("provenance of %s is wrong", path)
		}
	}

	w.git("mv", "workspaces/orders/secrets/db.yaml", "workspaces/orders/secrets/moved.yaml")
	w.commit("a rename does not make it another secret")
	w.sync()
	w.want("payments/api/token=t2", "orders/secrets/moved:place")

	w.remove("workspaces")
	w.commit("all gone")
	w.sync()
	w.want("", "")
}

func TestLastGoodValueUntilMaxStale(t *testing.T) {
	w := newWorld(t)
	w.secret("orders", "db", "k=hunter2")
	w.commit("good")
	w.start()
	w.sync()
	w.write("workspaces/orders/secrets/db.yaml", strings.Replace(w.sealed("orders", "db", "k=hunter3"), "acl: r", "acl: rw", 1))
	w.commit("tampered")
	w.sync()
	w.want("orders/db/k=hunter2!", "orders/secrets/db:tampered")
	// Another bad version does not start the clock anew.
	w.now = w.now.Add(23 * time.Hour)
	w.write("workspaces/orders/secrets/db.yaml", "name: db\n")
	w.commit("still bad")
	w.sync()
	w.want("orders/db/k=hunter2!", "orders/secrets/db:manifest")
	w.now = w.now.Add(2 * time.Hour)
	w.want("", "orders/secrets/db:manifest")
	w.secret("orders", "db", "k=new")
	w.commit("mended")
	w.sync()
	w.want("orders/db/k=new", "")
}

func TestRingChanges(t *testing.T) {
	w := newWorld(t)
	w.secret("orders", "db", "k=hunter2")
	w.secret("payments", "api", "k=v")
	w.commit("good")
	w.start()
	w.sync()
	// Sealed for somebody else by mistake: the last good value stays.
	stranger, err := age.GenerateX25519Identity()
	must(t, err)
	w.write("workspaces/orders/secrets/db.yaml", w.sealedFor(stranger, "orders", "db", "k=x"))
	w.commit("wrong recipient")
	w.sync()
	w.want("orders/db/k=hunter2! payments/api/k=v", "orders/secrets/db:no-key")
	// The stranger's key is added: noticed without a commit or a restart.
	w.putKeys("orders", w.ids["orders"], stranger)
	w.sync()
	w.want("orders/db/k=x payments/api/k=v", "")
	// The identity that opens it leaves the ring: not served any more.
	w.putKeys("orders", w.ids["orders"])
	w.sync()
	w.want("payments/api/k=v", "orders/secrets/db:no-key")
	// The file is gone altogether, and comes back.
	must(t, os.Remove(filepath.Join(w.dir, "keys", "payments.agekey")))
	w.sync()
	w.want("", "orders/secrets/db:no-key payments/secrets/api:no-key")
	w.putKeys("payments", w.ids["payments"])
	w.putKeys("orders", stranger)
	w.sync()
	w.want("orders/db/k=x payments/api/k=v", "")
}

func TestParts(t *testing.T) {
	w := newWorld(t)
	part := func(file string, values ...string) {
		w.write("workspaces/orders/secrets/api/"+file+".yaml", w.sealed("orders", "api", values...))
	}
	part("token", "token=a")
	part("hook", "hook=b")
	w.commit("two parts")
	w.start()
	w.sync()
	w.want("orders/api/hook=b orders/api/token=a", "")
	// The same key in two parts: the last good value stays, both are named.
	part("more", "token=c")
	w.commit("conflict")
	w.sync()
	w.want("orders/api/hook=b orders/api/token=a", "orders/secrets/api/more:conflict")
	// Solved by taking the other away.
	w.remove("workspaces/orders/secrets/api/token.yaml")
	w.commit("solved")
	w.sync()
	w.want("orders/api/hook=b orders/api/token=c", "")
	// A file and a folder of one name.
	w.secret("orders", "api", "x=y")
	w.commit("file and folder")
	w.sync()
	w.want("orders/api/hook=b orders/api/token=c", "orders/secrets/api:conflict")
	// A part of another secret is an error of that file alone.
	w.remove("workspaces/orders/secrets/api.yaml")
	w.write("workspaces/orders/secrets/api/other.yaml", w.sealed("orders", "db", "x=y"))
	w.commit("foreign part")
	w.sync()
	w.want("orders/api/hook=b orders/api/token=c", "orders/secrets/api/other:place")
}

func TestThingsThatAreNotManifests(t *testing.T) {
	w := newWorld(t)
	w.secret("orders", "db", "k=v")
	w.write("workspaces/orders/secrets/note.txt", "hunter2")
	w.write("workspaces/orders/secrets/plain.yaml", "name: plain\nversion: v1\ntype: secret\nworkspace: orders\nsecret: {type: key-value, acl: r, data: {a: hunter2}}\n")
	w.write("workspaces/orders/secrets/huge.yaml", "name: huge\n#"+strings.Repeat("x", manifest.MaxSize))
	w.write("workspaces/orders/secrets/bomb.yaml", "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nd: [*c,*c]\n")
	w.write("workspaces/orders/secrets/deep/er/x.yaml", "a")
	w.write("workspaces/Bad/secrets/x.yaml", "a")
	w.write("workspaces/instance/secrets/x.yaml", "a")
	w.write("workspaces/orders/README.md", "fine")
	w.write("workspaces/payments/secrets/copied.yaml", w.sealed("orders", "copied", "k=v"))
	must(t, os.Symlink("db.yaml", filepath.Join(w.dir, "repo/workspaces/orders/secrets/link.yaml")))
	w.commit("odd things")
	w.start()
	w.sync()
	w.want("orders/db/k=v", strings.Join([]string{
		"Bad/secrets/x:problem:place", "instance/secrets/x:problem:place", "orders/secrets/bomb:manifest", "orders/secrets/deep/er/x:problem:place",
		"orders/secrets/huge:too-large", "orders/secrets/link:place", "orders/secrets/note.txt:problem:place", "orders/secrets/plain:not-sealed",
		"payments/secrets/copied:place"}, " "))
	w.git("rm", "-q", "-r", "workspaces/Bad", "workspaces/instance", "workspaces/orders/secrets/deep", "workspaces/orders/secrets/note.txt")
	w.commit("some go")
	w.sync()
	w.want("orders/db/k=v", "orders/secrets/bomb:manifest orders/secrets/huge:too-large orders/secrets/link:place orders/secrets/plain:not-sealed payments/secrets/copied:place")
}

func TestPolicyOfTheCommit(t *testing.T) {
	w := newWorld(t)
	grant := func(ws, effect string) string {
		return "name: g\nversion: v1alpha\ntype: grant\nworkspace: " + ws + "\ngrant: {policy_use_case_id: read-all-secrets, subjects: [users:id:alice], effect: " + effect + "}\n"
	}
	w.write("workspaces/orders/grants/g.yaml", grant("orders", "allow"))
	w.write("workspaces/payments/grants/g.yaml", grant("payments", "allow"))
	w.commit("grants")
	w.start()
	alice, err := manifest.ParseSubject("users:id:alice")
	must(t, err)
	name, err := manifest.ParseName("x")
	must(t, err)
	reason := func(ws string) access.Reason {
		scope, err := manifest.ParseScope(ws)
		must(t, err)
		return w.live.Current("").Policy.Read(access.Identity{User: alice}, scope, name, w.now).Any().Reason
	}
	want := func(what string, orders, payments access.Reason) {
		t.Helper()
		w.sync()
		for range 2 {
			if o, p := reason("orders"), reason("payments"); o != orders || p != payments {
				t.Errorf("%s: orders %s, payments %s; want %s, %s", what, o, p, orders, payments)
			}
			w.start() // the same after a restart
		}
	}
	want("granted", access.Granted, access.Granted)

	steps := []struct {
		what, path, text string
		orders, payments access.Reason
	}{
		{"a broken deny", "workspaces/orders/grants/d.yaml", strings.Replace(grant("orders", "deny"), "deny}", "deny", 1), access.PolicyBroken, access.Granted},
		{"a broken allow", "workspaces/orders/grants/d.yaml", strings.Replace(grant("orders", "allow"), "subjects", "subject", 1), access.Granted, access.Granted},
		{"a deny with an odd name", "workspaces/orders/grants/D.yaml", grant("orders", "deny"), access.PolicyBroken, access.Granted},
		{"a deny that does not end in .yaml", "workspaces/orders/grants/d.yml", grant("orders", "deny"), access.PolicyBroken, access.Granted},
		{"a deny for another workspace", "workspaces/orders/grants/g2.yaml", strings.Replace(grant("payments", "deny"), "name: g", "name: g2", 1), access.PolicyBroken, access.Granted},
		{"an allow for another workspace", "workspaces/orders/grants/g2.yaml", strings.Replace(grant("payments", "allow"), "name: g", "name: g2", 1), access.Granted, access.Granted},
		{"a broken role of the instance", "instance/grants/r.yaml", "name: r\nversion: v1alpha\ntype: role\nrole: {}\n", access.PolicyBroken, access.PolicyBroken},
		{"text below instance/grants", "instance/grants/x", "?", access.PolicyBroken, access.PolicyBroken},
		{"a secret below grants", "workspaces/payments/grants/s.yaml", w.sealed("payments", "s", "k=v"), access.Granted, access.PolicyBroken},
		{"a deny below secrets is no policy", "workspaces/payments/secrets/d.yaml", grant("payments", "deny"), access.Granted, access.Granted},
	}
	for _, s := range steps {
		w.write(s.path, s.text)
		w.commit(s.what)
		want(s.what, s.orders, s.payments)
		w.remove(s.path)
		w.commit("mended")
		want("after "+s.what, access.Granted, access.Granted)
	}
	// A symbolic link below grants may be a deny.
	must(t, os.Symlink("g.yaml", filepath.Join(w.dir, "repo/workspaces/orders/grants/l.yaml")))
	w.commit("link")
	want("a link", access.PolicyBroken, access.Granted)
}

// A tree that Git itself should not hold, below grants/, may hide a deny.
func TestBrokenTreeClosesItsScope(t *testing.T) {
	w := newWorld(t)
	w.secret("orders", "db", "k=v")
	w.write("workspaces/orders/grants/g.yaml", "name: g\nversion: v1alpha\ntype: grant\nworkspace: orders\ngrant: {policy_use_case_id: read-all-secrets, subjects: [users:id:alice], effect: allow}\n")
	w.commit("good")
	w.start()
	w.sync()
	good := w.git("rev-parse", "HEAD^{tree}")
	blob := w.git("rev-parse", "HEAD:workspaces/orders/grants/g.yaml")
	secrets := w.git("rev-parse", "HEAD:workspaces/orders/secrets")
	grants := w.mktree("100644 blob "+blob+"\t.", "100644 blob "+blob+"\tg.yaml")
	orders := w.mktree("040000 tree "+grants+"\tgrants", "040000 tree "+secrets+"\tsecrets")
	w.push(w.mktree("040000 tree " + w.mktree("040000 tree "+orders+"\torders") + "\tworkspaces"))
	w.sync()
	alice, _ := manifest.ParseSubject("users:id:alice")
	scope, _ := manifest.ParseWorkspace("orders")
	name, _ := manifest.ParseName("db")
	if d := w.live.Current("").Policy.Read(access.Identity{User: alice}, scope, name, w.now).Any(); d.Reason != access.PolicyBroken {
		t.Errorf("a tree with an odd entry below grants/: %+v", d)
	}
	if w.served() != "orders/db/k=v" {
		t.Errorf("served %q", w.served())
	}
	w.push(good)
	w.sync()
	if d := w.live.Current("").Policy.Read(access.Identity{User: alice}, scope, name, w.now).Any(); !d.Allowed {
		t.Errorf("mended: %+v, problems %v", d, w.live.Current("").Problems)
	}
}

// A rewound branch waits for the operator's word, which is for one head only.
func TestRewoundBranchIsFollowedOnlyWhenApproved(t *testing.T) {
	w := newWorld(t)
	w.secret("orders", "db", "k=v1")
	old := w.commit("one")
	w.secret("orders", "db", "k=v2")
	gone := w.commit("two")
	w.start()
	w.sync()
	if err := w.agent.Approve(gone); !errors.Is(err, unseal.ErrNothingWaits) {
		t.Errorf("approved what is applied: %v", err)
	}
	w.git("reset", "-q", "--hard", old)
	w.secret("orders", "db", "k=v3")
	rewritten := w.commit("rewritten")
	refused := func(head string) {
		t.Helper()
		_, err := w.agent.Sync(context.Background())
		if !errors.Is(err, gitops.ErrRewound) || !strings.Contains(err.Error(), "sealward agent approve "+head) {
			t.Errorf("rewound: %v", err)
		}
		if got := w.served(); got != "orders/db/k=v2" {
			t.Errorf("served %q", got)
		}
		if s := w.live.Syncs()[0]; s.Class != unseal.SyncRewound || s.Refused != head || s.BehindSince != w.now || s.Packs == 0 {
			t.Errorf("status %+v", s)
		}
	}
	refused(rewritten)
	for _, other := range []string{old, gone, "", rewritten[:12], strings.Repeat("0", 40)} {
		if err := w.agent.Approve(other); !errors.Is(err, unseal.ErrNothingWaits) {
			t.Errorf("approved %q: %v", other, err)
		}
	}
	must(t, w.agent.Approve(rewritten))
	// The branch moves on before the next look: the word was for another head.
	w.secret("orders", "db", "k=v4")
	newer := w.commit("newer")
	refused(newer)
	must(t, w.agent.Approve(newer))
	w.sync()
	w.want("orders/db/k=v4", "")
	if s := w.live.Syncs()[0]; s.Refused != "" || s.Class == unseal.SyncRewound {
		t.Errorf("status %+v", s)
	}
	contains, err := w.agent.Contains(context.Background(), newer, old)
	if err != nil || !contains {
		t.Errorf("contains: %v %v", contains, err)
	}
	if contains, err = w.agent.Contains(context.Background(), newer, gone); err != nil || contains {
		t.Errorf("contains what was rewound: %v %v", contains, err)
	}
	if _, err = w.agent.Contains(context.Background(), newer, strings.Repeat("1", 40)); !errors.Is(err, unseal.ErrUnknownCommit) {
		t.Errorf("unknown commit: %v", err)
	}
	// rewind: follow needs no word.
	w.followRewind = true
	w.start()
	w.git("reset", "-q", "--hard", old)
	w.sync()
	w.want("orders/db/k=v1", "")
}

func TestUnboundManifests(t *testing.T) {
	w := newWorld(t)
	w.write("workspaces/orders/secrets/db.yaml", w.plainSops())
	w.commit("plain sops")
	w.start()
	w.sync()
	w.want("", "orders/secrets/db:unbound")
	w.allowUnbound = true
	w.start()
	w.sync()
	w.want("orders/db/k=hunter2", "")
	// The repository tightens it; broken settings tighten too.
	for _, settings := range []string{"binding: required\n", "bindin: x\n"} {
		w.write("sealward.yaml", settings)
		w.commit("tighten")
		w.sync()
		if got := w.served(); got != "orders/db/k=hunter2!" && got != "" {
			t.Errorf("%s: served %q", settings, got)
		}
		if got := w.failing(); !strings.Contains(got, "orders/secrets/db:unbound") {
			t.Errorf("%s: failing %q", settings, got)
		}
		w.remove("sealward.yaml")
		w.commit("loosen")
		w.sync()
		if got := w.served(); got != "orders/db/k=hunter2" {
			t.Errorf("loosened: served %q", got)
		}
	}
}

// A folder of the repository can be the root; what is outside it is not looked at.
func TestRootFolder(t *testing.T) {
	w := newWorld(t)
	w.root = "platform/secrets"
	w.write("platform/secrets/workspaces/orders/secrets/db.yaml", w.sealed("orders", "db", "k=v"))
	w.secret("orders", "outside", "k=v")
	w.write("instance/grants/broken.yaml", "?")
	w.commit("in a folder")
	w.start()
	w.sync()
	w.want("orders/db/k=v", "")
}

func TestRunLooksWhenTriggered(t *testing.T) {
	w := newWorld(t)
	w.secret("orders", "db", "k=v1")
	w.commit("one")
	w.start()
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { w.agent.Run(ctx) })
	wait := func(commit string) {
		t.Helper()
		for range 1000 {
			if s := w.live.Current(""); s != nil && s.Commit == commit {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatalf("commit %s was never applied", commit)
	}
	wait(w.git("rev-parse", "HEAD"))
	w.secret("orders", "db", "k=v2")
	second := w.commit("two")
	w.agent.Trigger() // the interval is a minute
	wait(second)
	stop()
	running.Wait()
}

// While the remote is away, and the agent waits long between looks, a key that is
// taken away is noticed all the same, and a flood of triggers asks the remote little.
func TestWaitingForTheRemote(t *testing.T) {
	w := newWorld(t)
	w.secret("orders", "db", "k=v1")
	w.commit("one")
	w.start()
	w.sync()
	w.git("branch", "-q", "-m", "main", "hidden")
	for range 12 {
		_, _ = w.agent.Sync(context.Background())
	}
	w.agent.Interval = 50 * time.Millisecond // after so many failures the wait is much longer
	w.log.Reset()
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { w.agent.Run(ctx) })
	begun := time.Now()
	for time.Since(begun) < 600*time.Millisecond {
		w.agent.Trigger()
		time.Sleep(time.Millisecond)
	}
	flood := w.live.Syncs()[0].Failures - 12
	must(t, os.Remove(filepath.Join(w.dir, "keys", "orders.agekey")))
	for range 500 {
		if w.served() == "" {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	stop()
	running.Wait()
	if got := w.served(); got != "" {
		t.Errorf("without the key served %q", got)
	}
	if took := time.Since(begun); flood < 2 || flood > int(took/(250*time.Millisecond))+2 {
		t.Errorf("%d looks", flood)
	}
}
