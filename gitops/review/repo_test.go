package review

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/keyring"
)

// value stands in every secret of these tests and must never come out.
const value = "hunter2-do-not-show"

var testNow = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// testRepo is a sealed repository with a few secrets, grants and roles, committed.
type testRepo struct {
	t    testing.TB
	dir  string
	ids  map[string]*age.X25519Identity // by workspace
	to   map[string]workspace.Recipients
	made time.Time // when the next file is sealed
	git  *Repo
}

func newTestRepo(t testing.TB) *testRepo {
	t.Helper()
	r := &testRepo{t: t, dir: t.TempDir(), ids: map[string]*age.X25519Identity{}, to: map[string]workspace.Recipients{}, made: testNow.Add(-time.Hour)}
	for _, v := range [][2]string{{"GIT_CONFIG_NOSYSTEM", "1"}, {"GIT_CONFIG_GLOBAL", os.DevNull}, {"GIT_AUTHOR_NAME", "dana"}, {"GIT_AUTHOR_EMAIL", "dana@example.com"}, {"GIT_COMMITTER_NAME", "dana"}, {"GIT_COMMITTER_EMAIL", "dana@example.com"}} {
		t.Setenv(v[0], v[1])
	}
	r.run("init", "-q", "-b", "main")
	local, _, err := workspace.InitRepository(r.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, ws := range []string{"orders", "payments", "instance"} {
		id, err := age.GenerateX25519Identity()
		if err != nil {
			t.Fatal(err)
		}
		rcpt, err := workspace.ParseRecipient(id.Recipient().String())
		if err != nil {
			t.Fatal(err)
		}
		r.ids[ws], r.to[ws] = id, workspace.For(rcpt)
		rules, err := local.Rules()
		if err != nil {
			t.Fatal(err)
		}
		scope, _ := manifest.ParseScope(ws)
		text, err := rules.Add(scope, []workspace.Recipient{rcpt})
		if err != nil {
			t.Fatal(err)
		}
		r.write(workspace.RulesFile, string(text))
	}
	r.seal("workspaces/orders/secrets/orders-db-r.yaml", r.plain("orders-db-r", "orders", "key-value", "r", "username", "password"))
	r.seal("workspaces/orders/secrets/orders-api/token.yaml", r.plain("orders-api", "orders", "key-value", "rw", "token"))
	r.seal("workspaces/orders/secrets/orders-api/webhook.yaml", r.plain("orders-api", "orders", "key-value", "rw", "webhook"))
	r.seal("workspaces/payments/secrets/gateway.yaml", r.plain("gateway", "payments", "key-value", "rw", "key"))
	r.seal("instance/secrets/smtp.yaml", strings.Replace(strings.Replace(r.plain("smtp", "", "key-value", "rw", "password"), "type: secret", "type: instance-secret", 1), "secret:\n", "instance-secret:\n", 1))
	r.write("workspaces/orders/grants/readers.yaml", grant("readers", "orders", "read-specific-secret", "allow", "users:id:alice, roles:id:dev", "orders-db-*"))
	r.write("workspaces/orders/grants/dev.yaml", role("dev", "orders", "users:id:bob"))
	r.write("instance/grants/operators.yaml", role("operators", "", "users:id:olga"))
	r.write("instance/grants/operate.yaml", strings.Replace(grant("operate", "", "list-secrets", "allow", "roles:id:operators", ""), "  effect:", "  workspaces: [orders, payments]\n  effect:", 1))
	r.write("apps/orders.yaml", "name: orders-service\nversion: v1\ntype: service\nworkspace: orders\nservice:\n  dataosSecrets:\n    - name: orders-db-r\n      workspace: orders\n      allKeys: true\n  stackSpec:\n    imagePullSecret: registry\n")
	r.write("apps/kustomization.yaml", "resources:\n  - ../workspaces/payments/secrets/gateway.yaml\n")
	r.commit("clean")
	r.run("tag", "clean")
	if r.git, err = Open(t.Context(), r.dir); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *testRepo) plain(name, ws, kind, acl string, keys ...string) string {
	s := "name: " + name + "\nversion: v1\ntype: secret\n"
	if ws != "" {
		s += "workspace: " + ws + "\n"
	}
	s += "description: made for a test\nowner: dana\nsecret:\n    type: " + kind + "\n    acl: " + acl + "\n    data:\n"
	for _, k := range keys {
		s += fmt.Sprintf("        %s: %s\n", k, value)
	}
	return s
}

func grant(name, ws, useCase, effect, subjects, secrets string) string {
	s := "name: " + name + "\nversion: v1alpha\ntype: grant\n"
	if ws != "" {
		s += "workspace: " + ws + "\n"
	}
	s += "grant:\n  policy_use_case_id: " + useCase + "\n  subjects: [" + subjects + "]\n"
	if secrets != "" {
		s += "  secrets: [" + secrets + "]\n"
	}
	return s + "  effect: " + effect + "\n"
}

func role(name, ws, members string) string {
	s := "name: " + name + "\nversion: v1alpha\ntype: role\n"
	if ws != "" {
		s += "workspace: " + ws + "\n"
	}
	return s + "role: {members: [" + members + "]}\n"
}

func (r *testRepo) scope(path string) string {
	if strings.HasPrefix(path, "instance/") {
		return "instance"
	}
	return strings.Split(path, "/")[1]
}

// seal writes a sealed manifest, for the recipients of its workspace or others.
func (r *testRepo) seal(path, plain string, to ...workspace.Recipient) {
	r.t.Helper()
	m, err := manifest.Parse(path, []byte(plain))
	if err != nil {
		r.t.Fatal(err)
	}
	recipients := r.to[r.scope(path)]
	if len(to) > 0 {
		recipients = workspace.For(to...)
	}
	out, err := seal.Seal(m, recipients, seal.Options{Now: r.made, Part: true})
	if err != nil {
		r.t.Fatal(err)
	}
	r.write(path, string(out))
}

func (r *testRepo) recipient(ws string) workspace.Recipient { return r.to[ws].All()[0] }

func (r *testRepo) write(path, text string) {
	r.t.Helper()
	file := filepath.Join(r.dir, path)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func (r *testRepo) read(path string) string {
	r.t.Helper()
	data, err := os.ReadFile(filepath.Join(r.dir, path))
	if err != nil {
		r.t.Fatal(err)
	}
	return string(data)
}

// edit replaces the first old in a file, which must be there.
func (r *testRepo) edit(path, old, new string) {
	r.t.Helper()
	text := r.read(path)
	if !strings.Contains(text, old) {
		r.t.Fatalf("%s has no %q", path, old)
	}
	r.write(path, strings.Replace(text, old, new, 1))
}

// line of a file that has a text.
func (r *testRepo) line(path, text string) int {
	for i, l := range strings.Split(r.read(path), "\n") {
		if strings.Contains(l, text) {
			return i + 1
		}
	}
	r.t.Fatalf("%s has no %q", path, text)
	return 0
}

func (r *testRepo) run(args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", append([]string{"-C", r.dir}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func (r *testRepo) commit(message string) {
	r.t.Helper()
	r.run("add", "-A")
	r.run("commit", "-q", "--allow-empty", "-m", message)
}

// reset goes back to the clean repository.
func (r *testRepo) reset() {
	r.t.Helper()
	r.run("reset", "-q", "--hard", "clean")
	r.run("clean", "-q", "-ffdx")
}

func (r *testRepo) at(rev string) *Tree {
	r.t.Helper()
	tree, err := r.git.At(r.t.Context(), rev)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(tree.Close)
	return tree
}

func (r *testRepo) ring(ws manifest.Workspace) (*keyring.Ring, error) {
	id, ok := r.ids[ws.String()]
	if !ok {
		return nil, keyring.ErrNoRing
	}
	return keyring.ParseRing(ws, []byte(id.String()))
}

// found lists findings as id path:line, sorted.
func found(report *Report) []string {
	var out []string
	for _, f := range report.Findings {
		out = append(out, fmt.Sprintf("%s %s:%d", f.ID, f.Path, f.Line))
	}
	slices.Sort(out)
	return out
}

func unsealOpen(m *manifest.Manifest, ring *keyring.Ring) (*seal.Envelope, error) {
	o, err := unseal.Open(m, ring, unseal.Options{})
	if err != nil {
		return nil, err
	}
	return o.Envelope, nil
}
