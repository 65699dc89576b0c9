package gitops_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealward/sealward/gitops/review"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal/access"
	"github.com/sealward/sealward/unseal/audit"
	"github.com/sealward/sealward/unseal/serve"
)

// What an agent decided, its audit tells; the same question put to Git alone, at the
// commit and the time of the record, must have the same answer for the same reason. The
// agent comes to its policy step by step, commit by commit; review reads one commit.
func TestAuditReplaysFromGit(t *testing.T) {
	for _, root := range []string{".", "platform/secrets"} {
		t.Run(root, func(t *testing.T) { replay(t, root) })
	}
}

func replay(t *testing.T, root string) {
	w := newWorld(t)
	w.root = root
	in := func(path string) string { return filepath.ToSlash(filepath.Join(root, path)) }
	put := func(path, format string, args ...any) { w.write(in(path), fmt.Sprintf(format, args...)) }
	grant := func(scope, name, text string) {
		head := "name: " + name + "\nversion: v1alpha\ntype: grant\n"
		folder := "instance"
		if scope != "instance" {
			head, folder = head+"workspace: "+scope+"\n", "workspaces/"+scope
		}
		put(folder+"/grants/"+name+".yaml", "%sgrant: {%s}\n", head, text)
	}
	role := func(scope, name, members string) {
		head, folder := "", "instance"
		if scope != "instance" {
			head, folder = "workspace: "+scope+"\n", "workspaces/"+scope
		}
		put(folder+"/grants/"+name+".yaml", "name: %s\nversion: v1alpha\ntype: role\n%srole: {members: [%s]}\n", name, head, members)
	}
	put(".sops.yaml", "creation_rules: []\n")
	put("workspaces/orders/secrets/db.yaml", "%s", w.sealed("orders", "db", "username=u", "password=hunter2"))
	put("workspaces/orders/secrets/api.yaml", "%s", w.sealed("orders", "api", "token=hunter3"))
	put("workspaces/payments/secrets/db.yaml", "%s", w.sealed("payments", "db", "password=hunter2"))
	w.commit("secrets, and no grant")

	// The agent's parts: sync, tokens, serving, a durable audit, all on one clock.
	w.start()
	clock := func() time.Time { return w.now }
	tokens := filepath.Join(w.dir, "tokens.yaml")
	bearers := map[string]string{}
	for _, who := range []string{"alice", "bob", "carol", "dora+dev", "dora+ops"} {
		name, asserted, _ := strings.Cut(who, "+")
		var roles []manifest.Subject
		if asserted != "" {
			roles = append(roles, subject(t, "roles:id:"+asserted))
		}
		bearer, entry, err := serve.NewToken(subject(t, "users:id:"+name), roles, 10_000*time.Hour, w.now)
		must(t, err)
		must(t, serve.AddToken(tokens, entry))
		bearers[who] = bearer
	}
	log := logged.To(&w.log)
	known, err := serve.OpenTokens(tokens, log)
	must(t, err)
	file := filepath.Join(w.dir, "audit.jsonl")
	records, err := audit.Open(file, audit.Options{Now: clock})
	must(t, err)
	server := serve.New(serve.Config{Live: w.live, Audit: records, Tokens: known, Now: clock, Log: log, Limits: serve.Limits{PerIdentity: 1e6, Denials: 1e6, PerAddress: 1e6}})
	ask := func() {
		t.Helper()
		w.sync()
		w.now = w.now.Add(time.Minute)
		var callers sync.WaitGroup // at once, so that they share the audit's fsync
		for _, bearer := range bearers {
			for _, path := range []string{
				"workspaces/orders/secrets", "workspaces/payments/secrets",
				"workspaces/orders/secrets/db", "workspaces/orders/secrets/db/keys/password", "workspaces/orders/secrets/db/keys/username",
				"workspaces/orders/secrets/api", "workspaces/orders/secrets/none", "workspaces/payments/secrets/db/keys/password",
				"workspaces/nowhere/secrets/db", "instance/secrets/db",
			} {
				r := httptest.NewRequest("GET", "/v1/"+path, nil)
				r.Header.Set("Authorization", "Bearer "+bearer)
				callers.Go(func() { server.ServeHTTP(httptest.NewRecorder(), r) })
			}
		}
		callers.Wait()
	}
	step := func(what string) { t.Helper(); w.commit(what); ask() }
	ask()

	grant("orders", "readers", "policy_use_case_id: read-specific-secret, subjects: [users:id:alice, roles:id:dev], secrets: [\"d?\"], effect: allow")
	step("a grant to a user and to a role")
	role("instance", "dev", "users:id:bob")
	step("the role, of the instance")
	role("orders", "dev", "users:id:carol")
	step("the workspace has a role of that name: it hides the instance's")
	grant("orders", "names", "policy_use_case_id: read-all-secrets, subjects: [users:id:bob], keys: [username], effect: allow")
	grant("payments", "list", "policy_use_case_id: list-secrets, subjects: [users:id:alice], effect: allow")
	step("one key, and the right to list")
	grant("orders", "nopassword", "policy_use_case_id: read-all-secrets, subjects: [users:id:alice], keys: [password], effect: deny")
	grant("orders", "hidden", "policy_use_case_id: list-secrets, subjects: [roles:id:dev], effect: deny")
	step("denies, of a key and of listing")
	grant("instance", "wide", "policy_use_case_id: read-all-secrets, subjects: [roles:id:ops, roles:id:dev], workspaces: [payments, instance], effect: allow, expires: "+w.now.Add(90*time.Minute).Format(time.RFC3339))
	step("an instance-wide grant that ends")
	w.now = w.now.Add(2 * time.Hour)
	ask() // it has ended
	put("workspaces/orders/grants/bad.yaml", "type: grant\ngrant: {effect: dney}\n")
	step("a slip that may be a deny")
	w.remove(in("workspaces/orders/grants/bad.yaml"))
	put("instance/grants/bad.yaml", "name: bad\nversion: v1alpha\ntype: grant\ngrant: {effect: allow}\n")
	step("mended; another that can only be an allow")
	good := w.git("rev-parse", "HEAD^{tree}")
	odd := func(what, path string, change func(file string)) {
		t.Helper()
		w.remove(in(path))
		change(filepath.Join(w.dir, "repo", in(path)))
		step(what)
		w.push(good)
		w.git("reset", "-q", "--hard")
	}
	link := func(file string) { must(t, os.Symlink("elsewhere", file)) }
	odd("a link among the grants", "workspaces/orders/grants/l.yaml", link)
	if root == "." { // each is a commit and a sync: once is enough
		odd("a link in the place of the grants", "workspaces/orders/grants", link)
		odd("a file in the place of the workspace", "workspaces/orders", func(file string) { must(t, os.WriteFile(file, []byte("x"), 0o600)) })
		odd("a link in the place of all workspaces", "workspaces", link)
		odd("a file too large", "workspaces/orders/grants/large.yaml", func(file string) {
			must(t, os.WriteFile(file, []byte("#"+strings.Repeat("x", manifest.MaxSize)), 0o600))
		})
		odd("an odd name", "workspaces/orders/grants/Odd.yaml", func(file string) { must(t, os.WriteFile(file, []byte("type: role\n"), 0o600)) })
		// Trees that git add would not make.
		blob, grants, secrets := w.git("rev-parse", "HEAD:workspaces/orders/grants/names.yaml"), w.git("rev-parse", "HEAD:workspaces/orders/grants"), w.git("rev-parse", "HEAD:workspaces/orders/secrets")
		within := func(orders ...string) {
			t.Helper()
			w.push(w.mktree("040000 tree "+w.git("rev-parse", good+":instance")+"\tinstance", "040000 tree "+w.mktree("040000 tree "+w.mktree(orders...)+"\torders", "040000 tree "+w.git("rev-parse", good+":workspaces/payments")+"\tpayments")+"\tworkspaces"))
			ask()
		}
		within("040000 tree "+grants+"\tgrants", "100644 blob "+blob+"\tgrants", "040000 tree "+secrets+"\tsecrets")
		within("040000 tree "+w.mktree("100644 blob "+blob+"\t..", "100644 blob "+blob+"\tnames.yaml")+"\tgrants", "040000 tree "+secrets+"\tsecrets")
		within("040000 tree "+w.mktree("100644 blob "+blob+"\tn\xffx.yaml")+"\tgrants", "040000 tree "+secrets+"\tsecrets")
		within("040000 tree "+w.tree("100664", "a/b.yaml", blob)+"\tgrants", "040000 tree "+secrets+"\tsecrets")
		within("040000 tree "+w.tree("7", "names.yaml", blob)+"\tgrants", "040000 tree "+secrets+"\tsecrets")
		w.push(good)
		w.git("reset", "-q", "--hard")
	}
	w.remove(in("workspaces/orders/grants/readers.yaml"))
	step("revoked")
	must(t, records.Close())

	// Asked in the clone, and in a bare one.
	bare := filepath.Join(w.dir, "bare.git")
	must(t, exec.Command("git", "clone", "-q", "--bare", filepath.Join(w.dir, "repo"), bare).Run())
	asked, reasons := 0, map[string]int{}
	for _, dir := range []string{filepath.Join(w.dir, "repo", root), bare} {
		if dir == bare && root != "." {
			continue // a bare clone does not tell which folder is the sealed repository
		}
		repo, err := review.Open(context.Background(), dir)
		must(t, err)
		policies := map[string]*review.Policy{}
		text, err := os.ReadFile(file)
		must(t, err)
		lines := bufio.NewScanner(bytes.NewReader(text))
		for lines.Scan() {
			var rec audit.Record
			must(t, json.Unmarshal(lines.Bytes(), &rec))
			if rec.Event != audit.Read && rec.Event != audit.List {
				continue
			}
			key := rec.Commit + " " + rec.Workspace
			if policies[key] == nil {
				tree, err := repo.At(context.Background(), rec.Commit)
				must(t, err)
				policies[key], err = tree.Policy(context.Background(), scopeOf(t, rec.Workspace))
				must(t, err)
				tree.Close()
			}
			asked++
			reasons[rec.Reason]++
			if why := differs(t, policies[key], rec); why != "" {
				t.Errorf("%s\n%s\n%v", why, lines.Text(), policies[key].Problems)
			}
		}
	}
	for reason, least := range map[access.Reason]int{access.Granted: 50, access.NoGrant: 50, access.DenyGrant: 4, access.PolicyBroken: 50} {
		if reasons[string(reason)] < least {
			t.Errorf("only %d of %d decisions were %s: %v", reasons[string(reason)], asked, reason, reasons)
		}
	}
}

// tree writes a tree object of one entry that no git would write.
func (w *world) tree(mode, name, id string) string {
	w.t.Helper()
	raw, err := hex.DecodeString(id)
	must(w.t, err)
	cmd := exec.Command("git", "hash-object", "-t", "tree", "-w", "--stdin", "--literally")
	cmd.Dir, cmd.Stdin = filepath.Join(w.dir, "repo"), strings.NewReader(mode+" "+name+"\x00"+string(raw))
	out, err := cmd.Output()
	must(w.t, err)
	return strings.TrimSpace(string(out))
}

// differs decides a record of the audit again and says what is not the same.
func differs(t *testing.T, p *review.Policy, rec audit.Record) string {
	q := review.Question{Verb: review.Verb(rec.Event), Workspace: scopeOf(t, rec.Workspace), As: access.Identity{User: subject(t, rec.Subject)}, At: rec.Time}
	for _, role := range rec.Roles {
		q.As.Roles = append(q.As.Roles, subject(t, role))
	}
	if rec.Name != "" {
		name, err := manifest.ParseName(rec.Name)
		must(t, err)
		q.Name = name
	}
	same := func(d access.Decision) bool {
		role := ""
		if _, isRole := d.Subject.Role(); isRole {
			role = d.Subject.String()
		}
		return d.Allowed == (rec.Decision == audit.Allow) && string(d.Reason) == rec.Reason && strings.ToValidUTF8(d.Grant, "\uFFFD") == rec.Grant && role == rec.Role
	}
	// A read of a whole secret was decided by some key; each that was handed out must be
	// allowed. A read of one key, by that.
	answers := []access.Decision{p.Decide(q)}
	for _, text := range rec.Keys {
		key, err := manifest.ParseKey(text)
		must(t, err)
		q.Key = key
		d := p.Decide(q)
		if d.Allowed != (rec.Decision == audit.Allow) {
			return fmt.Sprintf("key %s: %+v", text, d)
		}
		if len(rec.Keys) == 1 && rec.Decision == audit.Deny {
			answers = nil
		}
		answers = append(answers, d)
	}
	if !slices.ContainsFunc(answers, same) {
		return fmt.Sprintf("Git says %+v", answers)
	}
	return ""
}

func subject(t *testing.T, s string) manifest.Subject {
	t.Helper()
	out, err := manifest.ParseSubject(s)
	must(t, err)
	return out
}

func scopeOf(t *testing.T, s string) manifest.Workspace {
	t.Helper()
	out, err := manifest.ParseScope(s)
	must(t, err)
	return out
}
