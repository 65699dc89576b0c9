package gitcmd

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func run(t *testing.T, dir string, args ...string) string {
	t.Helper()
	out, err := exec.Command("git", append([]string{"-C", dir}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func write(t *testing.T, dir, path, text string) {
	t.Helper()
	file := filepath.Join(dir, path)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// newClone has two commits: a file with an odd name, then a change, a link and a
// removal.
func newClone(t *testing.T) (*Clone, string) {
	t.Helper()
	for _, v := range [][2]string{{"GIT_CONFIG_NOSYSTEM", "1"}, {"GIT_CONFIG_GLOBAL", os.DevNull}, {"GIT_AUTHOR_NAME", "dana"}, {"GIT_AUTHOR_EMAIL", "dana@example.com"}, {"GIT_COMMITTER_NAME", "dana"}, {"GIT_COMMITTER_EMAIL", "dana@example.com"}} {
		t.Setenv(v[0], v[1])
	}
	dir := t.TempDir()
	run(t, dir, "init", "-q", "-b", "main")
	write(t, dir, "a/ö \"x\"\tz.yaml", "one")
	write(t, dir, "a/b.yaml", "two")
	write(t, dir, "gone.yaml", "three")
	run(t, dir, "add", "-A")
	run(t, dir, "commit", "-q", "-m", "first")
	run(t, dir, "tag", "v1")
	write(t, dir, "a/b.yaml", "two and more")
	if err := os.Symlink("b.yaml", filepath.Join(dir, "a/link.yaml")); err != nil {
		t.Fatal(err)
	}
	run(t, dir, "rm", "-q", "gone.yaml")
	run(t, dir, "add", "-A")
	run(t, dir, "commit", "-q", "-m", "second")
	c, err := Open(t.Context(), filepath.Join(dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	return c, dir
}

func TestOpen(t *testing.T) {
	c, dir := newClone(t)
	if real, _ := filepath.EvalSymlinks(dir); c.Top() != real || c.Bare() || c.GitDir() != filepath.Join(real, ".git") {
		t.Errorf("top %s, git dir %s", c.Top(), c.GitDir())
	}
	if p, err := c.Prefix(filepath.Join(dir, "a")); err != nil || p != "a/" {
		t.Errorf("prefix %q, %v", p, err)
	}
	if _, err := c.Prefix(t.TempDir()); err == nil {
		t.Error("a folder outside has a prefix")
	}
	bare := filepath.Join(t.TempDir(), "bare.git")
	run(t, dir, "clone", "-q", "--bare", dir, bare)
	b, err := Open(t.Context(), bare)
	if err != nil || !b.Bare() {
		t.Fatal(err)
	}
	if _, err := b.Resolve(t.Context(), "v1"); err != nil {
		t.Error(err)
	}
	if _, err := Open(t.Context(), t.TempDir()); !errors.Is(err, ErrNoClone) {
		t.Errorf("no clone: %v", err)
	}
	// git starts a hook with names relative to where it starts it.
	t.Setenv("GIT_DIR", ".git")
	t.Chdir(dir)
	if h, err := Open(t.Context(), "a"); err != nil || h.GitDir() != c.GitDir() {
		t.Errorf("in a hook: %v", err)
	}
}

func TestRevisions(t *testing.T) {
	c, dir := newClone(t)
	ctx := t.Context()
	head, err := c.Resolve(ctx, "HEAD")
	if err != nil || head != run(t, dir, "rev-parse", "HEAD") {
		t.Fatal(head, err)
	}
	for _, bad := range []string{"", "nowhere", "--all", "HEAD\n", "v1:a/b.yaml", strings.Repeat("1", 40)} {
		if _, err := c.Resolve(ctx, bad); !errors.Is(err, ErrNoRevision) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	run(t, dir, "checkout", "-q", "--orphan", "apart")
	run(t, dir, "commit", "-q", "-m", "apart")
	if _, err := c.MergeBase(ctx, "main", "apart"); !errors.Is(err, ErrNoRevision) || !strings.Contains(err.Error(), "no commit in common") {
		t.Errorf("merge base: %v", err)
	}
	if b, err := c.Branch(ctx); b != "apart" || err != nil {
		t.Error(b, err)
	}
	run(t, dir, "checkout", "-q", "--detach")
	if b, err := c.Branch(ctx); b != "" || err != nil {
		t.Error(b, err)
	}
	shallow := filepath.Join(t.TempDir(), "shallow")
	run(t, dir, "clone", "-q", "--depth", "1", "--branch", "main", "file://"+dir, shallow)
	s, err := Open(ctx, shallow)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Resolve(ctx, run(t, dir, "rev-parse", "v1")); err == nil || !strings.Contains(err.Error(), "is shallow") {
		t.Errorf("shallow: %v", err)
	}
}

func TestFilesAndChanges(t *testing.T) {
	c, dir := newClone(t)
	ctx := t.Context()
	head, _ := c.Resolve(ctx, "HEAD")
	files, err := c.Files(ctx, head, "a")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range files {
		got = append(got, string(f.Mode)+" "+f.Path)
	}
	if want := []string{"100644 a/b.yaml", "120000 a/link.yaml", "100644 a/ö \"x\"\tz.yaml"}; !slices.Equal(got, want) {
		t.Errorf("files %q", got)
	}
	show := func(changes []Change, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, ch := range changes {
			s := ch.Path + ":"
			for _, f := range []*File{ch.Old, ch.New} {
				switch {
				case f == nil:
					s += "-"
				case f.Blob == "":
					s += "disk"
				default:
					s += "blob"
				}
			}
			out = append(out, s)
		}
		return strings.Join(out, " ")
	}
	v1, _ := c.Resolve(ctx, "v1")
	if got := show(c.Diff(ctx, v1, head)); got != "a/b.yaml:blobblob a/link.yaml:-blob gone.yaml:blob-" {
		t.Error(got)
	}
	write(t, dir, "a/b.yaml", "other")
	write(t, dir, "new*.yaml", "not known yet")
	write(t, dir, ".gitignore", "ignored.yaml\n")
	write(t, dir, "ignored.yaml", "x")
	if got := show(c.DiffWorkTree(ctx, head)); got != "a/b.yaml:blobdisk .gitignore:-disk new*.yaml:-disk" {
		t.Error(got)
	}
	if got := show(c.DiffWorkTree(ctx, head, "new*.yaml")); got != "new*.yaml:-disk" {
		t.Error(got)
	}
	if got := show(c.DiffStaged(ctx, head)); got != "" {
		t.Error(got)
	}
	run(t, dir, "add", "a/b.yaml")
	if got := show(c.DiffStaged(ctx, head)); got != "a/b.yaml:blobblob" {
		t.Error(got)
	}
	if staged, err := c.Staged(ctx, "a/b.yaml"); err != nil || len(staged) != 1 {
		t.Error(staged, err)
	}
}

func TestBlobs(t *testing.T) {
	c, dir := newClone(t)
	b, err := c.Blobs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	id := run(t, dir, "rev-parse", "v1:a/b.yaml")
	if data, err := b.Read(id, 3); err != nil || string(data) != "two" {
		t.Errorf("%q, %v", data, err)
	}
	if _, err := b.Read(id, 2); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	if _, err := b.Read(strings.Repeat("1", 40), 10); !errors.Is(err, ErrNoObject) {
		t.Error(err)
	}
	if _, err := b.Read(run(t, dir, "rev-parse", "HEAD"), 1000); !errors.Is(err, ErrNoObject) {
		t.Error(err)
	}
	if _, err := b.Read("HEAD\n", 1000); err == nil {
		t.Error("a name was taken for an id")
	}
	if data, err := b.Read(id, 3); err != nil || string(data) != "two" { // still in step
		t.Errorf("%q, %v", data, err)
	}
}

// TestErrorsAreClean: what git says may hold what a remote sent.
func TestErrorsAreClean(t *testing.T) {
	if got := oneText("dana@example.com: Permission denied (publickey).\nfatal: Could not read from remote repository.\n\nPlease make sure you have the correct access rights\nand the repository exists.\n"); got != "dana@example.com: Permission denied (publickey). Could not read from remote repository. Please make sure you have the correct access rights and the repository exists." {
		t.Errorf("%q", got)
	}
	if got := oneText("hint: use force\nfatal: no \x1b[31mway\n\rprogress 1%\rerror: done\n"); got != "no [31mway; done" {
		t.Errorf("%q", got)
	}
	c, _ := newClone(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Run(ctx, "status"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := c.RunWith(t.Context(), RunOptions{MaxOut: 3}, "rev-parse", "HEAD"); err == nil || !strings.Contains(err.Error(), "more than 3 bytes") {
		t.Error(err)
	}
}
