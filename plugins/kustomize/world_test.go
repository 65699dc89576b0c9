package kustomize_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/sealward/sealward/gitops/worktree"
	"github.com/sealward/sealward/plugins/kustomize"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal/keyring"
)

// world is a tree with sealed files, and a keyring for its workspaces.
type world struct {
	t       testing.TB
	dir     string // the tree
	keyring string // folder of identities: what --keyring names
	ids     map[string]*age.X25519Identity
}

func newWorld(t testing.TB, workspaces ...string) *world {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: filepath.Join(dir, "tree"), keyring: filepath.Join(dir, "keys"), ids: map[string]*age.X25519Identity{}}
	repo, _, err := workspace.InitRepository(w.dir)
	w.must(err)
	w.must(os.Mkdir(w.keyring, 0o700))
	w.must(os.Mkdir(filepath.Join(w.dir, ".git"), 0o755)) // the top of a work tree
	for _, name := range workspaces {
		id, err := age.GenerateX25519Identity()
		w.must(err)
		w.ids[name] = id
		w.must(os.WriteFile(filepath.Join(w.keyring, name+".agekey"), []byte(id.String()+"\n"), 0o600))
		rules, err := repo.Rules()
		w.must(err)
		to, err := workspace.ParseRecipient(id.Recipient().String())
		w.must(err)
		text, err := rules.Add(w.scope(name), []workspace.Recipient{to})
		w.must(err)
		w.must(repo.Write(workspace.RulesFile, text))
	}
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) scope(name string) manifest.Workspace {
	ws, err := manifest.ParseScope(name)
	w.must(err)
	return ws
}

// path of a file of the tree.
func (w *world) path(rel string) string { return filepath.Join(w.dir, filepath.FromSlash(rel)) }

// write makes a file of the tree, with its folders.
func (w *world) write(rel, text string) {
	w.t.Helper()
	w.must(os.MkdirAll(filepath.Dir(w.path(rel)), 0o755))
	w.must(os.WriteFile(w.path(rel), []byte(text), 0o644))
}

// seal writes a plaintext manifest sealed, as sealward seal does.
func (w *world) seal(rel, text string) {
	w.t.Helper()
	m, err := manifest.Parse(rel, []byte(text))
	w.must(err)
	repo, err := workspace.FindRepository(w.dir)
	w.must(err)
	tree := &worktree.Tree{Repo: repo, Now: time.Now}
	p := worktree.Plain{Manifest: m, Path: rel}
	if _, ours, _ := manifest.Locate(rel); !ours && m.Workspace.IsZero() {
		p.Workspace = manifest.Public()
	}
	sealed, _, err := tree.Seal(p)
	w.must(err)
	w.write(rel, string(sealed))
}

// sops writes a file that the real sops sealed, for one workspace's key; regex is the
// encrypted_regex, "" seals everything.
func (w *world) sops(rel, name, regex, text string) {
	w.t.Helper()
	rules := filepath.Join(filepath.Dir(w.keyring), "sops.yaml")
	rule := fmt.Sprintf("creation_rules:\n- age: %s\n", w.ids[name].Recipient())
	if regex != "" {
		rule += fmt.Sprintf("  encrypted_regex: %q\n", regex)
	}
	w.must(os.WriteFile(rules, []byte(rule), 0o644))
	w.write(rel, text)
	sops := "sops"
	if _, err := exec.LookPath(sops); err != nil {
		sops = "../../bin/tools/sops"
	}
	out, err := exec.Command(sops, "--config", rules, "encrypt", "--in-place", w.path(rel)).CombinedOutput()
	if err != nil {
		w.t.Fatalf("sops, which make tools builds: %v\n%s", err, out)
	}
}

// unsealer opens with the world's keyring.
func (w *world) unsealer() *kustomize.Unsealer {
	k, err := keyring.Open(w.keyring)
	w.must(err)
	return &kustomize.Unsealer{Ring: k.Ring}
}

// secretText is a plaintext secret in DataOS's form; data has KEY: VALUE lines.
func secretText(ws, name, data string) string {
	return "name: " + name + "\nversion: v1\ntype: secret\nworkspace: " + ws + "\nsecret:\n  type: key-value\n  acl: r\n  data:\n    " +
		strings.ReplaceAll(strings.TrimSpace(data), "\n", "\n    ") + "\n"
}
