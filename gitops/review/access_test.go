package review_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealward/sealward/gitops/review"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal/access"
)

var now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func parsed[T any](t testing.TB, parse func(string) (T, error), s string) T {
	t.Helper()
	v, err := parse(s)
	must(t, err)
	return v
}

// repo is a sealed repository in a clone. Its secrets are empty files: who may read
// them is no matter of what they hold.
type repo struct {
	t   testing.TB
	dir string
}

func newRepo(t testing.TB) *repo {
	r := &repo{t, t.TempDir()}
	r.git("init", "-q", "-b", "main")
	r.write(".sops.yaml", "creation_rules: []\n")
	return r
}

func (r *repo) git(args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "user.name=dana", "-c", "user.email=dana@example.com"}, args...)...)
	cmd.Dir, cmd.Env = r.dir, append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (r *repo) write(path, text string) {
	r.t.Helper()
	file := filepath.Join(r.dir, path)
	must(r.t, os.MkdirAll(filepath.Dir(file), 0o700))
	must(r.t, os.WriteFile(file, []byte(text), 0o600))
}

func (r *repo) remove(path string) { must(r.t, os.RemoveAll(filepath.Join(r.dir, path))) }

func (r *repo) commit() string {
	r.t.Helper()
	r.git("add", "-A")
	r.git("commit", "-q", "--allow-empty", "-m", "x")
	return r.git("rev-parse", "HEAD")
}

func (r *repo) open() *review.Repo {
	r.t.Helper()
	repo, err := review.Open(context.Background(), r.dir)
	must(r.t, err)
	return repo
}

// grant and role write one file each; body is the inside of grant: {}.
func (r *repo) grant(scope, name, body string) {
	folder, head := "workspaces/"+scope, "workspace: "+scope+"\n"
	if scope == "instance" {
		folder, head = "instance", ""
	}
	r.write(folder+"/grants/"+name+".yaml", "name: "+name+"\nversion: v1alpha\ntype: grant\n"+head+"grant: {"+body+"}\n")
}

func (r *repo) role(scope, name string, members ...string) {
	folder, head := "workspaces/"+scope, "workspace: "+scope+"\n"
	if scope == "instance" {
		folder, head = "instance", ""
	}
	r.write(folder+"/grants/"+name+".yaml", "name: "+name+"\nversion: v1alpha\ntype: role\n"+head+"role: {members: ["+strings.Join(members, ", ")+"]}\n")
}

// random changes the policy of orders, payments and the instance, and their secrets.
func (r *repo) random(rng *rand.Rand) {
	pick := func(list ...string) string { return list[rng.IntN(len(list))] }
	scopes := []string{"orders", "payments", "instance"}
	subjects := []string{"users:id:a", "users:id:b", "users:id:c", "roles:id:r1", "roles:id:r2"}
	for range 1 + rng.IntN(5) {
		scope := pick(scopes...)
		switch rng.IntN(7) {
		case 0:
			r.role(scope, pick("r1", "r2"), subjects[:rng.IntN(3)]...)
		case 1:
			folder := "workspaces/" + scope
			if scope == "instance" {
				folder = "instance"
			}
			file := folder + "/secrets/" + pick("db", "db2", "api", "x") + ".yaml"
			if rng.IntN(3) == 0 {
				r.remove(file)
			} else {
				r.write(file, "")
			}
		case 2:
			list, _ := filepath.Glob(filepath.Join(r.dir, "*/*/grants/*.yaml"))
			if len(list) > 0 {
				must(r.t, os.Remove(pick(list...)))
			}
		case 3:
			if rng.IntN(4) == 0 {
				r.write("workspaces/payments/grants/slip.yaml", "type: grant\ngrant: {effect: deny\n") // closes it
			} else {
				r.remove("workspaces/payments/grants/slip.yaml")
			}
		default:
			body := "effect: " + pick("allow", "allow", "deny") + ", subjects: [" + pick(subjects...) + ", " + pick(subjects...) + "]"
			useCase := pick("read-all-secrets", "read-specific-secret", "list-secrets")
			body += ", policy_use_case_id: " + useCase
			if useCase == "read-specific-secret" {
				body += ", secrets: [" + pick("db", "db*", "api", "none") + "]"
			}
			if useCase != "list-secrets" && rng.IntN(2) == 0 {
				body += ", keys: [" + pick("k1", "k2") + "]"
			}
			if rng.IntN(3) == 0 {
				body += ", expires: " + pick("2026-01-01T00:00:00Z", "2026-07-01T00:00:00Z", "2027-01-01T00:00:00Z")
			}
			if scope == "instance" {
				body += ", workspaces: [" + pick("orders", "payments", "instance") + "]"
			}
			r.grant(scope, pick("g0", "g1", "g2", "g3"), body)
		}
	}
}

var everybody = []string{"users:id:a", "users:id:b", "users:id:c", "roles:id:r1", "roles:id:r2"}

func has(s review.KeySet, key string) bool {
	if s.All {
		return !slices.Contains(s.But, key)
	}
	return slices.Contains(s.Keys, key)
}

// Whatever stands in the place of grants and is none may hide a deny: it closes its
// scope, in a commit as in the index and in the work tree.
func TestPolicyIsClosedWhenInDoubt(t *testing.T) {
	ctx := context.Background()
	r := newRepo(t)
	r.write("workspaces/orders/secrets/db.yaml", "")
	r.grant("orders", "g", "policy_use_case_id: read-all-secrets, subjects: [users:id:a], effect: allow")
	r.grant("instance", "i", "policy_use_case_id: read-all-secrets, subjects: [users:id:a], effect: allow, workspaces: [payments]")
	good := r.commit()
	repo := r.open()
	q := review.Question{Verb: review.Read, Workspace: parsed(t, manifest.ParseScope, "orders"), Name: parsed(t, manifest.ParseName, "db"), As: access.Identity{User: parsed(t, manifest.ParseSubject, "users:id:a")}, At: now}
	link := func(path string) func() {
		return func() { r.remove(path); must(t, os.Symlink("elsewhere", filepath.Join(r.dir, path))) }
	}
	text := func(path, text string) func() { return func() { r.remove(path); r.write(path, text) } }
	clone := func(path string) func() {
		return func() {
			r.remove(path)
			r.write(path+"/x", "")
			r.git("-C", path, "init", "-q")
			r.git("-C", path, "add", "-A")
			r.git("-C", path, "commit", "-q", "-m", "x")
		}
	}
	for _, c := range []struct {
		what, closed string // path that closes the policy; "" for none
		change       func()
	}{
		{"nothing", "", func() {}},
		{"a link among grants", "workspaces/orders/grants/l.yaml", link("workspaces/orders/grants/l.yaml")},
		{"a link named README.md", "", link("workspaces/orders/grants/README.md")},
		{"a link for the grants", "workspaces/orders/grants", link("workspaces/orders/grants")},
		{"a link for the workspace", "workspaces/orders", link("workspaces/orders")},
		{"a link for all workspaces", "workspaces", link("workspaces")},
		{"a file for the grants", "workspaces/orders/grants", text("workspaces/orders/grants", "x")},
		{"a file for the instance", "instance", text("instance", "x")},
		{"a link for the instance's grants", "instance/grants", link("instance/grants")},
		{"a clone among grants", "workspaces/orders/grants/sub", clone("workspaces/orders/grants/sub")},
		{"a clone among the instance's", "instance/grants/sub", clone("instance/grants/sub")},
		{"too large", "workspaces/orders/grants/z.yaml", text("workspaces/orders/grants/z.yaml", "#"+strings.Repeat("x", manifest.MaxSize))},
		{"no .yaml", "workspaces/orders/grants/z", text("workspaces/orders/grants/z", "")},
		{"an odd name", "workspaces/orders/grants/Z.yaml", text("workspaces/orders/grants/Z.yaml", "type: role")},
		{"a name that is not UTF-8", "workspaces/orders/grants/\xff", text("workspaces/orders/grants/\xff/z.yaml", "")},
		{"another workspace's", "", text("workspaces/payments/grants/z.yaml", "")},
		{"an allow that is broken", "", text("workspaces/orders/grants/z.yaml", "type: grant\ngrant: {effect: allow}\n")},
	} {
		c.change()
		disk, err := repo.WorkTree()
		must(t, err)
		r.git("add", "-A")
		index, err := repo.Staged(ctx)
		must(t, err)
		r.git("commit", "-q", "--allow-empty", "-m", c.what)
		commit, err := repo.At(ctx, "HEAD")
		must(t, err)
		for _, tree := range []*review.Tree{disk, index, commit} {
			p, err := tree.Policy(ctx, q.Workspace)
			must(t, err)
			path, _ := p.Broken(q.Workspace)
			if d := p.Decide(q); path != c.closed || d.Allowed != (c.closed == "") {
				t.Errorf("%s: the %s is closed by %q and says %+v; want %q", c.what, tree.Name, path, d, c.closed)
			}
			tree.Close()
		}
		r.git("reset", "-q", "--hard", good)
		r.git("clean", "-q", "-ffdx")
	}

	// In the middle of a merge a file has several contents in the index.
	r.git("checkout", "-q", "-b", "side")
	r.grant("orders", "g", "policy_use_case_id: read-all-secrets, subjects: [users:id:a, users:id:b], effect: allow")
	r.commit()
	r.git("checkout", "-q", "main")
	r.grant("orders", "g", "policy_use_case_id: read-all-secrets, subjects: [users:id:a, users:id:c], effect: allow")
	r.commit()
	_ = exec.Command("git", "-C", r.dir, "-c", "user.name=dana", "-c", "user.email=dana@example.com", "merge", "-q", "side").Run()
	index, err := repo.Staged(ctx)
	must(t, err)
	p, err := index.Policy(ctx)
	must(t, err)
	if d := p.Decide(q); d.Reason != access.PolicyBroken {
		t.Errorf("in a merge the index says %+v", d)
	}
	// A sparse checkout may lack a deny.
	r.git("config", "core.sparseCheckout", "true")
	disk, err := repo.WorkTree()
	must(t, err)
	if _, err := disk.Policy(ctx); err == nil || !strings.Contains(err.Error(), "sparse") {
		t.Errorf("sparse: %v", err)
	}
}

// For random policies, who-can names exactly those to whom the policy says yes, key by
// key, and can-i says what it says; in a commit as in the work tree.
func TestWhoCanAgreesWithThePolicy(t *testing.T) {
	ctx := context.Background()
	rng := rand.New(rand.NewPCG(1, 2))
	r := newRepo(t)
	yes, no, asked := 0, 0, 0
	repo := r.open()
	for range 9 {
		r.random(rng)
		r.random(rng)
		commit := r.commit()
		at, err := repo.At(ctx, commit)
		must(t, err)
		disk, err := repo.WorkTree()
		must(t, err)
		policy, err := at.Policy(ctx)
		must(t, err)
		for _, scope := range []string{"orders", "payments", "instance"} {
			for _, verb := range []review.Verb{review.Read, review.List} {
				q := review.Question{Verb: verb, Workspace: parsed(t, manifest.ParseScope, scope), Name: parsed(t, manifest.ParseName, "db"), At: now}
				who, err := at.WhoCan(ctx, q)
				must(t, err)
				onDisk, err := disk.WhoCan(ctx, q)
				must(t, err)
				if a, b := fmt.Sprintf("%+v", who.Rows(true)), fmt.Sprintf("%+v", onDisk.Rows(true)); a != b {
					t.Fatalf("the commit says %s, the work tree %s", a, b)
				}
				for _, subject := range everybody {
					q.As = access.Identity{User: parsed(t, manifest.ParseSubject, subject)}
					for _, key := range []string{"k1", "k2", "k3", ""} {
						ask := q
						if key != "" && verb == review.List {
							continue
						}
						if key != "" {
							ask.Key = parsed(t, manifest.ParseKey, key)
						}
						want := policy.Decide(ask).Allowed
						got := slices.ContainsFunc(who.Holders, func(h review.Holder) bool {
							return h.Subject == subject && h.Status == review.Can && (key == "" || has(h.Keys, key))
						})
						if got != want {
							t.Fatalf("%s %s/db/%s as %s: who-can %v, policy %v\n%+v", verb, scope, key, subject, got, want, who)
						}
						if asked++; asked%8 == 0 {
							answer, err := disk.CanI(ctx, ask) // of a commit it starts a git each time
							must(t, err)
							if answer.Allowed != want {
								t.Fatalf("%s %s/db/%s as %s: can-i %+v, policy %v", verb, scope, key, subject, answer, want)
							}
						}
						if want {
							yes++
						} else {
							no++
						}
					}
				}
			}
		}
		at.Close()
		disk.Close()
	}
	if yes < 40 || no < 40 {
		t.Errorf("%d times yes and %d times no prove little", yes, no)
	}
}

// For random changes, access-diff tells of exactly the keys of exactly the subjects
// whose decision differs.
func TestAccessDiffIsWhole(t *testing.T) {
	ctx := context.Background()
	rng := rand.New(rand.NewPCG(3, 4))
	r := newRepo(t)
	before, had := r.commit(), map[string]bool{}
	gains, losses := 0, 0
	repo := r.open()
	for round := range 18 {
		r.random(rng)
		r.random(rng)
		after, have := r.commit(), map[string]bool{}
		from, err := repo.At(ctx, before)
		must(t, err)
		to, err := repo.At(ctx, after)
		must(t, err)
		if round%2 == 1 {
			to, err = repo.WorkTree()
			must(t, err)
		}
		diff, err := repo.AccessDiff(ctx, from, to, now)
		must(t, err)
		old, err := from.Policy(ctx)
		must(t, err)
		new, err := to.Policy(ctx)
		must(t, err)
		told := map[string]bool{}
		for _, c := range diff.Changes {
			for _, r := range c.Rights {
				if r.Change != "gains" && r.Change != "loses" || r.Verb != review.Read {
					continue
				}
				for _, subject := range c.Subjects {
					for _, name := range r.Secrets {
						for _, key := range []string{"k1", "k2", "k3"} {
							if has(r.Keys, key) {
								told[fmt.Sprint(subject, r.Change, r.Workspace, name, key)] = true
							}
						}
					}
				}
			}
		}
		for _, scope := range []string{"orders", "payments", "instance"} {
			ws := parsed(t, manifest.ParseScope, scope)
			_, closed := new.Broken(ws)
			for _, name := range []string{"db", "db2", "api", "x"} {
				path := manifest.SecretPath(ws, parsed(t, manifest.ParseName, name))
				_, err := os.Stat(filepath.Join(r.dir, path))
				if have[path] = err == nil; !had[path] || !have[path] {
					continue
				}
				for _, subject := range everybody {
					for _, key := range []string{"k1", "k2", "k3"} {
						q := review.Question{Verb: review.Read, Workspace: ws, Name: parsed(t, manifest.ParseName, name), Key: parsed(t, manifest.ParseKey, key), As: access.Identity{User: parsed(t, manifest.ParseSubject, subject)}, At: now}
						was, is := old.Decide(q).Allowed, new.Decide(q).Allowed
						gain, loss := fmt.Sprint(subject, "gains", scope, name, key), fmt.Sprint(subject, "loses", scope, name, key)
						if told[gain] != (is && !was) || told[loss] != (was && !is && !closed) {
							t.Fatalf("%s %s/%s/%s: was %v, is %v, told %v %v\n%+v", subject, scope, name, key, was, is, told[gain], told[loss], diff)
						}
						if is && !was {
							gains++
						}
						if was && !is {
							losses++
						}
						delete(told, gain)
						delete(told, loss)
					}
				}
				if closed && !slices.ContainsFunc(diff.Closed, func(c review.Closure) bool { return c.Scope == scope || c.Scope == "instance" }) {
					if _, wasClosed := old.Broken(ws); !wasClosed {
						t.Fatalf("%s was closed without a word: %+v", scope, diff)
					}
				}
			}
		}
		if len(told) > 0 {
			t.Fatalf("told without ground: %v", told)
		}
		from.Close()
		to.Close()
		before, had = after, have
	}
	if gains < 25 || losses < 25 {
		t.Errorf("%d gains and %d losses prove little", gains, losses)
	}
}

// A realistic pull request, as its reviewers see it.
func TestAccessDiffOfAPullRequest(t *testing.T) {
	r := newRepo(t)
	for _, s := range []string{"orders/secrets/orders-db-r", "orders/secrets/orders-db-rw", "orders/secrets/orders-api", "payments/secrets/payments-db-r", "payments/secrets/stripe"} {
		r.write("workspaces/"+s+".yaml", "")
	}
	r.write("instance/secrets/smtp.yaml", "")
	r.role("orders", "orders-dev", "users:id:alice", "users:id:bob")
	r.grant("orders", "orders-readers", "policy_use_case_id: read-specific-secret, subjects: [roles:id:orders-dev], secrets: [orders-db-*], effect: allow")
	r.grant("orders", "contractor", "policy_use_case_id: read-specific-secret, subjects: [users:id:eve@example.com], secrets: [orders-api], effect: allow, expires: 2026-07-01T00:00:00Z")
	r.grant("payments", "payments-readers", "policy_use_case_id: read-all-secrets, subjects: [users:id:bob], effect: allow")
	before := r.commit()

	r.role("orders", "orders-dev", "users:id:alice", "users:id:carol")                                                                                                                                          // bob leaves, carol comes
	r.grant("orders", "contractor", "policy_use_case_id: read-specific-secret, subjects: [users:id:eve@example.com], secrets: [orders-api], effect: allow, expires: 2027-07-01T00:00:00Z")                      // prolonged
	r.grant("payments", "no-passwords", "policy_use_case_id: read-specific-secret, subjects: [users:id:bob], secrets: [stripe], keys: [password], effect: deny")                                                // a key is taken away
	r.grant("payments", "future", "policy_use_case_id: read-specific-secret, subjects: [users:id:carol], secrets: [ledger-*], effect: allow")                                                                   // nothing has such a name yet
	r.grant("instance", "on-call", "policy_use_case_id: read-all-secrets, subjects: [users:id:dana], workspaces: [orders, payments, instance], keys: [username], effect: allow, expires: 2026-06-08T00:00:00Z") // instance-wide
	r.write("workspaces/orders/secrets/orders-queue-rw.yaml", "")
	r.remove("workspaces/payments/secrets/payments-db-r.yaml")
	r.commit()
	repo := r.open()
	from, err := repo.At(context.Background(), before)
	must(t, err)
	to, err := repo.WorkTree()
	must(t, err)
	diff, err := repo.AccessDiff(context.Background(), from, to, now)
	must(t, err)
	diff.FromCommit = ""
	for name, write := range map[string]func(*review.AccessDiff, *bytes.Buffer) error{
		"access-diff.md":  func(d *review.AccessDiff, b *bytes.Buffer) error { return d.WriteMarkdown(b) },
		"access-diff.txt": func(d *review.AccessDiff, b *bytes.Buffer) error { return d.WriteText(b) },
	} {
		var b bytes.Buffer
		must(t, write(diff, &b))
		golden := filepath.Join("testdata", name)
		if flag.Lookup("update").Value.String() == "true" {
			must(t, os.MkdirAll("testdata", 0o777))
			must(t, os.WriteFile(golden, b.Bytes(), 0o666))
		}
		want, err := os.ReadFile(golden)
		must(t, err)
		if !bytes.Equal(b.Bytes(), want) {
			t.Errorf("%s differs (go test -update writes it anew):\n%s", golden, b.String())
		}
	}
}

// What a contributor writes into paths reaches a comment as text, and nothing else.
func TestMarkdownOfHostileNames(t *testing.T) {
	r := newRepo(t)
	r.write("workspaces/orders/secrets/db.yaml", "")
	before := r.commit()
	nasty := "<img src=x> @dana |`a``b` \\| [x](y)\n# big"
	r.write("workspaces/orders/grants/"+strings.ReplaceAll(nasty, "/", "")+"/g.yaml", "name: g\nversion: v1alpha\ntype: grant\nworkspace: orders\ngrant: {policy_use_case_id: read-all-secrets, subjects: ['users:id:@dana'], effect: allow}\n")
	r.grant("payments", "bad", "effect: deny, notes: \"<script>\\n@dana | x\"")
	r.commit()
	repo := r.open()
	from, err := repo.At(context.Background(), before)
	must(t, err)
	to, err := repo.At(context.Background(), "HEAD")
	must(t, err)
	defer from.Close()
	defer to.Close()
	diff, err := repo.AccessDiff(context.Background(), from, to, now)
	must(t, err)
	var b bytes.Buffer
	must(t, diff.WriteMarkdown(&b))
	want := "| `users:id:@dana` | **gains** | `orders/db` | all | `workspaces/orders/grants/<img src=x> @dana ¦'a''b' \\¦ [x](y) # big/g.yaml` |\n"
	if !strings.Contains(b.String(), want) {
		t.Errorf("got\n%s\nwant in it\n%s", b.String(), want)
	}
	for line := range strings.Lines(b.String()) {
		if strings.HasPrefix(line, "# ") || strings.HasPrefix(line, "@") || strings.HasPrefix(line, "<") {
			t.Errorf("a name begins a line: %s", line)
		}
	}
}
