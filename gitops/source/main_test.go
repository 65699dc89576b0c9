package source

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
)

func TestMain(m *testing.M) {
	// Both the fixtures' git and the git that reads file:// see nothing of the
	// machine's configuration.
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "GIT_") {
			os.Unsetenv(name)
		}
	}
	for name, value := range map[string]string{
		"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1",
		"GIT_AUTHOR_NAME": "Ann Author", "GIT_AUTHOR_EMAIL": "ann@example.com", "GIT_AUTHOR_DATE": "1700000000 +0100",
		"GIT_COMMITTER_NAME": "Carl Committer", "GIT_COMMITTER_EMAIL": "carl@example.com", "GIT_COMMITTER_DATE": "1700000100 +0000",
		// The only configuration that reaches a git started by upload-pack.
		"GIT_CONFIG_COUNT": "3",
		"GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*",
		"GIT_CONFIG_KEY_1": "init.defaultBranch", "GIT_CONFIG_VALUE_1": "main",
		"GIT_CONFIG_KEY_2": "protocol.file.allow", "GIT_CONFIG_VALUE_2": "always",
	} {
		os.Setenv(name, value)
	}
	if dir := os.Getenv("SOURCE_TEST_APPLY"); dir != "" {
		applyForever(dir)
	}
	os.Exit(m.Run())
}

// repo is a bare repository that plays the remote.
type repo struct {
	t   testing.TB
	dir string
}

func newRepo(t testing.TB) repo {
	t.Helper()
	r := repo{t, filepath.Join(t.TempDir(), "secrets.git")}
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r.git("init", "--quiet", "--bare")
	return r
}

func (r repo) git(args ...string) string {
	r.t.Helper()
	return r.gitIn("", args...)
}

func (r repo) gitIn(stdin string, args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = r.dir
	cmd.Stdin = strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		r.t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimRight(string(out), "\n")
}

// files describes a commit's whole tree: path to content.
type files map[string]string

// commit puts a commit with exactly these files on the branch.
func (r repo) commit(branch, subject string, tree files, parents ...string) string {
	r.t.Helper()
	var in strings.Builder
	fmt.Fprintf(&in, "commit refs/heads/%s\nmark :1\nauthor Ann Author <ann@example.com> 1700000000 +0100\ncommitter Carl Committer <carl@example.com> 1700000100 +0000\n", branch)
	fmt.Fprintf(&in, "data %d\n%s\n", len(subject), subject)
	for i, p := range parents {
		fmt.Fprintf(&in, "%s %s\n", map[bool]string{true: "from", false: "merge"}[i == 0], p)
	}
	in.WriteString("deleteall\n")
	for path, content := range tree {
		fmt.Fprintf(&in, "M 100644 inline %q\ndata %d\n%s\n", path, len(content), content)
	}
	// A commit without parents starts the branch anew.
	r.gitIn(in.String(), "fast-import", "--quiet", "--force")
	return r.head(branch)
}

func (r repo) head(branch string) string { return r.git("rev-parse", "refs/heads/"+branch) }

// mirror opens a mirror of the repository's main branch and fetches it.
func (r repo) mirror() *Mirror {
	r.t.Helper()
	m := r.open(Config{URL: r.dir, Branch: "main"})
	if _, err := m.Fetch(context.Background()); err != nil {
		r.t.Fatal(err)
	}
	return m
}

func (r repo) open(cfg Config) *Mirror {
	r.t.Helper()
	m, err := Open(filepath.Join(r.t.TempDir(), "mirror"), cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { m.Close() })
	return m
}

func hash(t testing.TB, hex string) Hash {
	t.Helper()
	if !plumbing.IsHash(hex) {
		t.Fatalf("%q is not a hash", hex)
	}
	return plumbing.NewHash(hex)
}

func writeTestFile(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// settled waits until condition holds; goroutines end a little after a call.
func settled(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for range 200 {
		if condition() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("after two seconds still: %s", what)
}

// rerun runs one test in a process of its own, for what is read once in one.
func rerun(t *testing.T, name string, env ...string) string {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run", "^"+name+"$", "-test.v")
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}
