package worktree_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"
	sopsage "github.com/getsops/sops/v3/age"

	"github.com/sealward/sealward/gitops/worktree"
	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/keyring"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// world is a sealed repository with the workspaces orders and payments, a tree
// whose keyring opens both, and one without any key.
type world struct {
	t       *testing.T
	owner   *worktree.Tree
	keyless *worktree.Tree
	ring    map[string]string // identities by workspace
}

func newWorld(t *testing.T) *world {
	t.Helper()
	repo, _, err := workspace.InitRepository(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, ring: map[string]string{}}
	for _, name := range []string{"orders", "payments"} {
		id, err := age.GenerateX25519Identity()
		if err != nil {
			t.Fatal(err)
		}
		w.ring[name] = id.String()
		rcpt, err := workspace.ParseRecipient(id.Recipient().String())
		if err != nil {
			t.Fatal(err)
		}
		rules, err := repo.Rules()
		if err != nil {
			t.Fatal(err)
		}
		out, err := rules.Add(w.ws(name), []workspace.Recipient{rcpt})
		if err != nil {
			t.Fatal(err)
		}
		if err := repo.Write(workspace.RulesFile, out); err != nil {
			t.Fatal(err)
		}
	}
	clock := func() time.Time { return now }
	w.owner = &worktree.Tree{Repo: repo, Now: clock, Ring: func(ws manifest.Workspace) (*keyring.Ring, error) {
		return keyring.ParseRing(ws, []byte(w.ring[ws.String()]))
	}}
	w.keyless = &worktree.Tree{Repo: repo, Now: clock, Ring: func(manifest.Workspace) (*keyring.Ring, error) { return nil, keyring.ErrNoRing }}
	return w
}

func (w *world) ws(s string) manifest.Workspace {
	w.t.Helper()
	ws, err := manifest.ParseWorkspace(s)
	if err != nil {
		w.t.Fatal(err)
	}
	return ws
}

func (w *world) name(s string) manifest.Name {
	w.t.Helper()
	n, err := manifest.ParseName(s)
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

func (w *world) key(s string) manifest.Key {
	w.t.Helper()
	k, err := manifest.ParseKey(s)
	if err != nil {
		w.t.Fatal(err)
	}
	return k
}

// create makes a secret of key=value pairs.
func (w *world) create(name string, inParts bool, pairs ...string) workspace.Secret {
	w.t.Helper()
	var values []seal.Value
	for _, p := range pairs {
		k, v, _ := strings.Cut(p, "=")
		values = append(values, seal.Value{Key: w.key(k), Data: []byte(v)})
	}
	m, err := seal.NewManifest(seal.Draft{Name: w.name(name), Workspace: w.ws("orders"), Type: manifest.KeyValue, ACL: manifest.Read, Owner: "dana", Values: values})
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.keyless.Create(worktree.New{Manifest: m, Values: values, InParts: inParts}); err != nil {
		w.t.Fatal(err)
	}
	return w.find(name)
}

func (w *world) find(name string) workspace.Secret {
	w.t.Helper()
	s, err := w.owner.Repo.FindSecret(w.ws("orders"), w.name(name))
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// values of a secret, as key=value pairs.
func (w *world) values(name string) string {
	w.t.Helper()
	whole, err := w.owner.Open(w.find(name))
	if err != nil {
		w.t.Fatal(err)
	}
	var out []string
	for _, v := range whole.Values {
		out = append(out, v.Key.String()+"="+string(v.Data))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func (w *world) files() map[string]string {
	w.t.Helper()
	paths, err := w.owner.Repo.Files()
	if err != nil {
		w.t.Fatal(err)
	}
	out := map[string]string{}
	for _, p := range paths {
		data, err := w.owner.Repo.Read(p)
		if err != nil {
			w.t.Fatal(err)
		}
		out[p] = string(data)
	}
	return out
}

// dataKey opens a file's data key as its author, who made it, has it.
func (w *world) dataKey(path string) []byte {
	w.t.Helper()
	e := w.load(path)
	k := e.Metadata().KeyGroups[0][0].(*sopsage.MasterKey)
	var ids sopsage.ParsedIdentities
	if err := ids.Import(w.ring["orders"]); err != nil {
		w.t.Fatal(err)
	}
	ids.ApplyToMasterKey(k)
	key, err := k.Decrypt()
	if err != nil {
		w.t.Fatal(err)
	}
	return key
}

func (w *world) load(path string) *seal.Envelope {
	w.t.Helper()
	data, err := w.owner.Repo.Read(path)
	if err != nil {
		w.t.Fatal(err)
	}
	m, err := manifest.Parse(path, data)
	if err != nil {
		w.t.Fatal(err)
	}
	e, err := seal.Load(m)
	if err != nil {
		w.t.Fatal(err)
	}
	return e
}

// Whoever wrote a part keeps its data key. It must open nothing that is written
// later, not by the owner and not by another contributor.
func TestTheEarlierAuthorOfAPartCannotOpenItsReplacement(t *testing.T) {
	w := newWorld(t)
	s := w.create("api", true, "token=one", "hook=h")
	path := s.Files[1]
	if !strings.HasSuffix(path, "token.yaml") {
		t.Fatal(s.Files)
	}
	for _, tree := range []*worktree.Tree{w.owner, w.keyless} {
		old := w.dataKey(path)
		if _, _, err := w.load(path).Open(old, false); err != nil {
			t.Fatalf("the author cannot open what he wrote: %v", err)
		}
		if _, changed, err := tree.Set(s, w.key("token"), []byte("two"+string(old[:1]))); err != nil || !changed {
			t.Fatal(changed, err)
		}
		var tamper *seal.TamperError
		if _, _, err := w.load(path).Open(old, false); !errors.As(err, &tamper) || tamper.Reason != seal.ReasonValue {
			t.Errorf("the old data key on the replacement: %v", err)
		}
	}
}

func TestSetInAPartThatHoldsOtherKeys(t *testing.T) {
	w := newWorld(t)
	w.create("api", true, "token=one", "hook=h")
	// A person may put two keys into one part by hand.
	s := w.find("api")
	m, err := seal.WithValues(w.load(s.Files[1]).Manifest(), []seal.Value{{Key: w.key("a"), Data: []byte("1")}, {Key: w.key("b"), Data: []byte("2")}}, true)
	if err != nil {
		t.Fatal(err)
	}
	rules, err := w.owner.Repo.Rules()
	if err != nil {
		t.Fatal(err)
	}
	to, err := rules.WorkspaceRecipients(w.ws("orders"))
	if err != nil {
		t.Fatal(err)
	}
	out, err := seal.Seal(m, to, seal.Options{Now: now, Part: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.owner.Repo.Write("workspaces/orders/secrets/api/pair.yaml", out); err != nil {
		t.Fatal(err)
	}
	s = w.find("api")
	before := w.files()
	if _, _, err := w.keyless.Set(s, w.key("a"), []byte("x")); !errors.Is(err, worktree.ErrNeedsKey) || !strings.Contains(err.Error(), "sealward split orders/api") {
		t.Errorf("without a key: %v", err)
	}
	if _, err := w.keyless.Unset(s, w.key("a")); !errors.Is(err, keyring.ErrNoRing) {
		t.Errorf("unset without a key: %v", err)
	}
	if !maps.Equal(before, w.files()) {
		t.Error("a refusal changed files")
	}
	if path, changed, err := w.owner.Set(s, w.key("a"), []byte("x")); err != nil || !changed || !strings.HasSuffix(path, "pair.yaml") {
		t.Errorf("with the key: %s, %v, %v", path, changed, err)
	}
	if got := w.values("api"); got != "a=x b=2 hook=h token=one" {
		t.Error(got)
	}
	if _, err := w.owner.Unset(s, w.key("b")); err != nil {
		t.Fatal(err)
	}
	// Split gives each key a part of its own.
	if _, err := w.owner.Split(w.find("api")); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("split of single keys: %v", err)
	}
	if got := w.values("api"); got != "a=x hook=h token=one" {
		t.Error(got)
	}
}

// A part whose present content does not open can still be replaced: its value is
// written anew anyway.
func TestSetReplacesADamagedPart(t *testing.T) {
	w := newWorld(t)
	s := w.create("api", true, "token=one", "hook=h")
	file := filepath.Join(w.owner.Repo.Dir(), s.Files[1])
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(text), "owner: dana", "owner: mallory", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := w.owner.Open(s); err == nil {
		t.Fatal("the damage is not noticed")
	}
	if _, _, err := w.owner.Set(s, w.key("token"), []byte("two")); err != nil {
		t.Fatal(err)
	}
	if got := w.values("api"); got != "hook=h token=two" {
		t.Error(got)
	}
}

func TestSplitAndJoinKeepEverything(t *testing.T) {
	w := newWorld(t)
	odd := "\t\n"
	w.create("db-r", false, "user=orders", "password=p w", "empty=", "odd="+odd)
	before := w.values("db-r")
	if _, err := w.keyless.Split(w.find("db-r")); !errors.Is(err, keyring.ErrNoRing) {
		t.Errorf("split without a key: %v", err)
	}
	paths, err := w.owner.Split(w.find("db-r"))
	if err != nil || len(paths) != 4 {
		t.Fatal(paths, err)
	}
	if got := w.values("db-r"); got != before {
		t.Errorf("after split %q, before %q", got, before)
	}
	if _, err := w.owner.Join(w.find("db-r")); err != nil {
		t.Fatal(err)
	}
	if s := w.find("db-r"); s.InParts || w.values("db-r") != before {
		t.Errorf("after join: %+v %q", s, w.values("db-r"))
	}
	for path, text := range w.files() {
		if !strings.Contains(text, "owner: dana") {
			t.Errorf("%s lost its owner", path)
		}
	}
}

func TestRotateRefusesWhatItCannotProve(t *testing.T) {
	w := newWorld(t)
	w.create("db-r", false, "password=hunter2")
	w.create("api", true, "token=hunter2")
	for name, damage := range map[string]func(string) string{
		"a changed field": func(s string) string { return strings.Replace(s, "owner: dana", "owner: mallory", 1) },
		"no binding":      func(s string) string { return s[:strings.Index(s, "seal:\n")] + s[strings.Index(s, "sops:\n"):] },
		"not a manifest":  func(string) string { return "a: b\n" },
		"value in clear": func(s string) string {
			return s[:strings.Index(s, "ENC[")] + "hunter2\n" + s[strings.Index(s, "seal:\n"):]
		},
		"conflict markers": func(s string) string { return "<<<<<<< HEAD\n" + s },
	} {
		t.Run(name, func(t *testing.T) {
			path := w.find("db-r").Files[0]
			good, err := w.owner.Repo.Read(path)
			if err != nil {
				t.Fatal(err)
			}
			bad := damage(string(good))
			if bad == string(good) {
				t.Fatal("the case changes nothing")
			}
			if err := w.owner.Repo.Write(path, []byte(bad)); err != nil {
				t.Fatal(err)
			}
			before := w.files()
			_, err = w.owner.Rotate(t.Context(), w.ws("orders"), worktree.RotateOptions{})
			if err == nil || !strings.Contains(err.Error(), "nothing was changed: 1 of 2 files") || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%v", err)
			}
			if !maps.Equal(before, w.files()) {
				t.Error("files changed")
			}
			d := w.owner.Diagnose(path, path, []byte(bad))
			if !d.Fails() || len(d.Remedies) == 0 {
				t.Errorf("the diagnosis finds nothing: %+v", d)
			}
			if err := w.owner.Repo.Write(path, good); err != nil {
				t.Fatal(err)
			}
		})
	}
	if _, err := w.owner.Rotate(t.Context(), w.ws("orders"), worktree.RotateOptions{}); err != nil {
		t.Error(err)
	}
}

// Nobody but the rule's recipients can open what Rotate wrote, and no file keeps
// its data key.
func TestRotateChangesEveryDataKey(t *testing.T) {
	w := newWorld(t)
	w.create("db-r", false, "password=hunter2", "user=orders")
	path := w.find("db-r").Files[0]
	old, before := w.dataKey(path), w.files()[path]
	done, err := w.owner.Rotate(t.Context(), w.ws("orders"), worktree.RotateOptions{})
	if err != nil || len(done.Files) != 1 || len(done.Removed) != 0 {
		t.Fatal(done, err)
	}
	if string(w.dataKey(path)) == string(old) {
		t.Error("the data key is the same")
	}
	lines := map[string]bool{}
	for l := range strings.SplitSeq(before, "\n") {
		lines[l] = strings.Contains(l, "ENC[")
	}
	for l := range strings.SplitSeq(w.files()[path], "\n") {
		if lines[l] {
			t.Errorf("a ciphertext stayed: %s", l)
		}
	}
	if got := w.values("db-r"); got != "password=hunter2 user=orders" {
		t.Error(got)
	}
	if _, err := w.keyless.Rotate(t.Context(), w.ws("orders"), worktree.RotateOptions{}); !errors.Is(err, keyring.ErrNoRing) {
		t.Errorf("without a key: %v", err)
	}
	if _, err := w.owner.Copy(w.find("db-r"), w.ws("payments"), w.name("db-r")); err != nil {
		t.Fatal(err)
	}
	w.ring["payments"] = w.ring["orders"]
	if _, err := w.owner.Copy(w.find("db-r"), w.ws("payments"), w.name("db-2")); !errors.Is(err, unseal.ErrNotRecipient) {
		t.Errorf("a copy that the keyring cannot open: %v", err)
	}
}

// Several people, or scripts, change one secret at once: no change is lost.
func TestChangesAtOnceAreAllKept(t *testing.T) {
	for _, inParts := range []bool{false, true} {
		w := newWorld(t)
		w.create("db-r", inParts, "first=0")
		var wg sync.WaitGroup
		var want []string
		for n := range 8 {
			key := w.key(fmt.Sprintf("k%d", n))
			want = append(want, key.String()+"=v")
			wg.Go(func() {
				if _, _, err := w.owner.Set(w.find("db-r"), key, []byte("v")); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if got := w.values("db-r"); got != "first=0 "+strings.Join(want, " ") {
			t.Errorf("in parts: %v, got %s", inParts, got)
		}
	}
}

// What changes while a workspace is rotated, by git pull say, is not undone: nothing
// is rotated then, and .sops.yaml stays too.
func TestRotateUndoesNoOtherChange(t *testing.T) {
	w := newWorld(t)
	w.create("db-r", false, "password=hunter2")
	w.create("other", false, "password=hunter2")
	pulled, err := w.owner.Repo.Read(w.find("other").Files[0])
	if err != nil {
		t.Fatal(err)
	}
	path := w.find("db-r").Files[0]
	if _, _, err := w.owner.Set(w.find("db-r"), w.key("password"), []byte("theirs")); err != nil {
		t.Fatal(err)
	}
	theirs, before := w.files()[path], w.rules()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	rcpt, err := workspace.ParseRecipient(id.Recipient().String())
	if err != nil {
		t.Fatal(err)
	}
	opts := worktree.RotateOptions{Recipients: []workspace.Recipient{rcpt}, Progress: func(done, total int) {
		if done == total { // all were read
			for p, data := range map[string][]byte{path: []byte(theirs), "workspaces/orders/secrets/fresh.yaml": pulled} {
				if err := w.owner.Repo.Write(p, data); err != nil {
					t.Error(err)
				}
			}
		}
	}}
	if _, err := w.owner.Rotate(t.Context(), w.ws("orders"), opts); err == nil || !strings.Contains(err.Error(), "changed meanwhile") {
		t.Errorf("rotated: %v", err)
	}
	if w.files()[path] != theirs {
		t.Error("their change is gone")
	}
	if w.rules() != before {
		t.Error(".sops.yaml changed, and no file with it")
	}
}

func (w *world) rules() string {
	w.t.Helper()
	data, err := w.owner.Repo.Read(workspace.RulesFile)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(data)
}

// A rule for single files in front of the workspace's must not keep somebody in who
// is taken out of it.
func TestRotateTakesARecipientOutOfEveryFile(t *testing.T) {
	w := newWorld(t)
	w.create("db-r", false, "password=hunter2")
	w.create("special", false, "password=hunter2")
	rules, err := w.owner.Repo.Rules()
	if err != nil {
		t.Fatal(err)
	}
	to, err := rules.WorkspaceRecipients(w.ws("orders"))
	if err != nil {
		t.Fatal(err)
	}
	leaving := to.All()[0]
	own := "creation_rules:\n  - path_regex: ^workspaces/orders/secrets/special\\.yaml$\n    age: " + leaving.String() + "\n"
	if err := w.owner.Repo.Write(workspace.RulesFile, []byte(strings.Replace(w.rules(), "creation_rules:\n", own, 1))); err != nil {
		t.Fatal(err)
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	stays, err := workspace.ParseRecipient(id.Recipient().String())
	if err != nil {
		t.Fatal(err)
	}
	before := w.files()
	opts := worktree.RotateOptions{Recipients: []workspace.Recipient{stays}}
	_, err = w.owner.Rotate(t.Context(), w.ws("orders"), opts)
	if err == nil || !strings.Contains(err.Error(), "special.yaml: has a creation rule of its own") || !maps.Equal(before, w.files()) {
		t.Errorf("somebody who was taken out can still open special: %v", err)
	}
	// Without a change of recipients such a rule is kept to.
	if _, err := w.owner.Rotate(t.Context(), w.ws("orders"), worktree.RotateOptions{}); err != nil {
		t.Error(err)
	}
}
