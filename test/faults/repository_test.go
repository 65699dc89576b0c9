package faults

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
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
)

// repository is a bare repository, the keyring that opens what is in it, and the
// oracle that is told of each commit. It is for one goroutine.
type repository struct {
	t      *testing.T
	dir    string // of the bare repository
	keys   string // the keyring
	ids    map[string]*age.X25519Identity
	to     map[string]workspace.Recipients
	oracle *oracle
	random *rand.Rand

	head  string
	files map[string]file // as head has them
	n     int             // numbers the values
}

var workspaces = []string{"orders", "payments"}

const grantText = `name: readers
version: v1alpha
type: grant
workspace: %s
grant:
  policy_use_case_id: read-all-secrets
  subjects: [users:id:reader]
  effect: allow
`

// newRepository has a commit with a grant and secrets in each workspace.
func newRepository(t *testing.T, dir string, secrets int, seed uint64) *repository {
	t.Helper()
	r := &repository{t: t, dir: filepath.Join(dir, "git", "secrets.git"), keys: filepath.Join(dir, "keys"), ids: map[string]*age.X25519Identity{}, to: map[string]workspace.Recipients{},
		oracle: newOracle(), random: rand.New(rand.NewPCG(seed, 1)), files: map[string]file{}}
	must(t, os.MkdirAll(r.dir, 0o755))
	must(t, os.MkdirAll(r.keys, 0o700))
	r.git("init", "-q", "--bare", "-b", "main")
	r.git("config", "gc.auto", "0")
	var edits []edit
	for _, ws := range workspaces {
		id, err := age.GenerateX25519Identity()
		must(t, err)
		recipient, err := workspace.ParseRecipient(id.Recipient().String())
		must(t, err)
		r.ids[ws], r.to[ws] = id, workspace.For(recipient)
		r.putKey(ws)
		edits = append(edits, put("workspaces/"+ws+"/grants/readers.yaml", fmt.Sprintf(grantText, ws)))
	}
	for i := range secrets {
		edits = append(edits, r.set(workspaces[i%len(workspaces)], fmt.Sprintf("s%04d", i))...)
	}
	r.push(edits...)
	return r
}

// approved forgets what was held: the operator let it go.
func (r *repository) approved() {
	maps.DeleteFunc(r.files, func(_ string, f file) bool { return f.held })
}

// putKey writes the identity of a workspace into the keyring.
func (r *repository) putKey(ws string) {
	r.t.Helper()
	must(r.t, os.WriteFile(filepath.Join(r.keys, ws+".agekey"), []byte(r.ids[ws].String()+"\n"), 0o600))
}

func (r *repository) takeKey(ws string) {
	r.t.Helper()
	must(r.t, os.Remove(filepath.Join(r.keys, ws+".agekey")))
}

// git runs in the bare repository, with nobody's settings.
func (r *repository) git(args ...string) string { return r.gitIn(nil, args...) }

func (r *repository) gitIn(stdin []byte, args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", append([]string{"-C", r.dir}, args...)...)
	cmd.Env = gitEnv()
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %s: %v\n%s", args[0], err, out)
	}
	return strings.TrimSpace(string(out))
}

func gitEnv() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.DevNull, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=" + os.DevNull,
		"GIT_AUTHOR_NAME=dana", "GIT_AUTHOR_EMAIL=dana@example.com", "GIT_COMMITTER_NAME=dana", "GIT_COMMITTER_EMAIL=dana@example.com"}
}

// edit is one changed path of a commit.
type edit struct {
	path string
	gone bool
	held bool // gone, and served until the operator approves that
	text string
	blob string // an object that is there already, instead of text
	file *file  // what the oracle is to expect; nil: the path is no secret
}

func put(path, text string) edit { return edit{path: path, text: text} }

// set gives a secret fresh values, in one file. Some secrets are folders of two
// parts, of which set changes one.
func (r *repository) set(ws, name string) []edit {
	id := ws + "/" + name
	path, keys := manifestPath(ws, name), []string{"password", "user"}
	if isFolder(name) {
		parts := []string{"a", "b"}
		if _, exists := r.files[partPath(ws, name, "a")]; exists {
			parts = parts[r.random.IntN(2):][:1]
		}
		var edits []edit
		for _, part := range parts {
			edits = append(edits, r.seal(id, partPath(ws, name, part), part))
		}
		return edits
	}
	return []edit{r.seal(id, path, keys...)}
}

// isFolder: every fifth secret is a folder of parts.
func isFolder(name string) bool { return strings.HasSuffix(name, "0") || strings.HasSuffix(name, "5") }

func manifestPath(ws, name string) string { return "workspaces/" + ws + "/secrets/" + name + ".yaml" }

func partPath(ws, name, part string) string {
	return "workspaces/" + ws + "/secrets/" + name + "/" + part + ".yaml"
}

// seal makes a manifest with fresh values.
func (r *repository) seal(id, path string, keys ...string) edit {
	values := map[string]string{}
	for _, k := range keys {
		r.n++
		values[k] = fmt.Sprintf("%s-%s-%s-%d", canary, strings.ReplaceAll(id, "/", "-"), k, r.n)
	}
	return edit{path: path, text: sealed(r.t, r.to, id, values), file: &file{secret: id, values: values}}
}

func sealed(t *testing.T, to map[string]workspace.Recipients, id string, values map[string]string) string {
	t.Helper()
	ws, name, _ := strings.Cut(id, "/")
	scope, err := manifest.ParseScope(ws)
	must(t, err)
	n, err := manifest.ParseName(name)
	must(t, err)
	d := seal.Draft{Name: n, Workspace: scope, Type: manifest.KeyValue, ACL: manifest.Read}
	for _, k := range slices.Sorted(maps.Keys(values)) {
		key, err := manifest.ParseKey(k)
		must(t, err)
		d.Values = append(d.Values, seal.Value{Key: key, Data: []byte(values[k])})
	}
	m, err := seal.NewManifest(d)
	must(t, err)
	out, err := seal.Seal(m, to[ws], seal.Options{Now: time.Now()})
	must(t, err)
	return string(out)
}

// remove takes every file of a secret away.
func (r *repository) remove(id string) []edit {
	var edits []edit
	for _, path := range slices.Sorted(maps.Keys(r.files)) {
		if r.files[path].secret == id {
			edits = append(edits, edit{path: path, gone: true})
		}
	}
	return edits
}

// spoil makes a file one that cannot be unsealed.
func (r *repository) spoil(path string) edit {
	texts := []string{"?", "name: x\n", "", "a: &a [x]\nb: *a\n", strings.Repeat("x: y\n", 1000), "\xff\xfe"}
	return edit{path: path, text: texts[r.random.IntN(len(texts))], file: &file{secret: r.files[path].secret}}
}

// mend gives a file fresh values.
func (r *repository) mend(path string) edit {
	keys := []string{"password", "user"}
	if strings.Count(path, "/") == 4 { // a part
		keys = []string{strings.TrimSuffix(filepath.Base(path), ".yaml")}
	}
	return r.seal(r.files[path].secret, path, keys...)
}

// secrets lists the names of all secrets, sorted.
func (r *repository) secrets() []string {
	seen := map[string]bool{}
	for _, f := range r.files {
		seen[f.secret] = true
	}
	return slices.Sorted(maps.Keys(seen))
}

// bad counts the files that cannot be unsealed.
func (r *repository) bad() (n int) {
	for _, f := range r.files {
		if f.values == nil {
			n++
		}
	}
	return n
}

// change pushes a random commit of up to n changes: values, new and removed
// secrets, files that break and are mended, files that are no secrets.
func (r *repository) change(n int) {
	r.t.Helper()
	edits := map[string]edit{}
	take := func(list ...edit) {
		for _, e := range list {
			edits[e.path] = e
		}
	}
	removed := 0
	for range 1 + r.random.IntN(n) {
		all := r.secrets()
		id := all[r.random.IntN(len(all))]
		ws, name, _ := strings.Cut(id, "/")
		switch r.random.IntN(10) {
		case 0:
			take(put(fmt.Sprintf("notes/%d.txt", r.random.IntN(50)), fmt.Sprint("note ", r.n)))
		case 1: // few at once, so that the guard of removals has no say
			if touched := r.remove(id); removed < 2 && len(all) > 8 && !slices.ContainsFunc(touched, func(e edit) bool { _, also := edits[e.path]; return also }) {
				removed++
				take(touched...)
			}
		case 2:
			r.n++
			take(r.set(workspaces[r.random.IntN(len(workspaces))], fmt.Sprintf("n%04d", r.n%500))...)
		case 3:
			if !isFolder(name) {
				take(r.spoil(manifestPath(ws, name)))
			}
		default:
			if _, also := edits[manifestPath(ws, name)]; !also {
				take(r.set(ws, name)...)
			}
		}
	}
	r.push(slices.Collect(maps.Values(edits))...)
}

// push commits edits on the branch, after telling the oracle.
func (r *repository) push(edits ...edit) string {
	r.t.Helper()
	next := r.apply(edits)
	commit := r.commit(r.head, edits...)
	r.oracle.merge(commit, next)
	r.point("main", commit)
	r.head, r.files = commit, next
	return commit
}

// apply returns the files as they are after edits.
func (r *repository) apply(edits []edit) map[string]file {
	next := maps.Clone(r.files)
	for _, e := range edits {
		if f, known := next[e.path]; e.held && known {
			f.held = true
			next[e.path] = f
		} else if e.gone || e.file == nil {
			delete(next, e.path)
		} else {
			next[e.path] = *e.file
		}
	}
	return next
}

// commit makes a commit that no branch shows yet; parent "" makes a first one.
func (r *repository) commit(parent string, edits ...edit) string {
	r.t.Helper()
	var in bytes.Buffer
	r.n++
	fmt.Fprintf(&in, "commit refs/staging/next\ncommitter dana <dana@example.com> %d +0000\ndata %d\nchange\n", 1_780_000_000+r.n, len("change"))
	if parent != "" {
		fmt.Fprintf(&in, "from %s\n", parent)
	}
	for _, e := range edits {
		if e.gone {
			fmt.Fprintf(&in, "D %s\n", quoted(e.path))
			continue
		}
		if e.blob != "" {
			fmt.Fprintf(&in, "M 100644 %s %s\n", e.blob, quoted(e.path))
			continue
		}
		fmt.Fprintf(&in, "M 100644 inline %s\ndata %d\n", quoted(e.path), len(e.text))
		in.WriteString(e.text)
		in.WriteByte('\n')
	}
	if parent == "" { // fast-import would go on from the ref
		r.git("update-ref", "-d", "refs/staging/next")
	}
	r.gitIn(in.Bytes(), "fast-import", "--quiet", "--force")
	return r.git("rev-parse", "refs/staging/next")
}

// quoted writes a path as fast-import reads it, whatever bytes it has.
func quoted(path string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range []byte(path) {
		if c < ' ' || c > '~' || c == '"' || c == '\\' {
			fmt.Fprintf(&b, "\\%03o", c)
		} else {
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// point sets a branch, as a push to the server does.
func (r *repository) point(branch, commit string) {
	r.t.Helper()
	r.git("update-ref", "refs/heads/"+branch, commit)
}

// rewind points the branch at a commit that the agent must not follow.
func (r *repository) rewind(commit string) {
	r.oracle.mu.Lock()
	if _, merged := r.oracle.merged[commit]; !merged {
		r.oracle.notFollowed[commit] = true
	}
	r.oracle.mu.Unlock()
	r.point("main", commit)
}
