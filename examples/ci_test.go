package examples

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// forge plays the part of a Git host's API that the scripts use. The real hosts cannot run
// here; what it takes and answers is as their API references say.
type forge struct {
	*httptest.Server
	t        *testing.T
	auth     [2]string // header and what it must be
	list     string    // path of a request's comments
	one      string    // path of one comment, before its id
	update   string    // method
	size     string    // parameter that says how many a page has; "" ignores pages
	me       string
	comments []comment
	calls    []string
}

type comment struct {
	ID   int
	By   string
	Body string
}

func (f *forge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.calls = append(f.calls, r.Method)
	w.Header().Set("Content-Type", "application/json")
	if r.Header.Get(f.auth[0]) != f.auth[1] {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"message": "Bad credentials"}`)
		return
	}
	var given struct{ Body string }
	if r.Method != http.MethodGet {
		if err := json.NewDecoder(r.Body).Decode(&given); err != nil || given.Body == "" {
			f.t.Errorf("%s %s: no comment: %v", r.Method, r.URL, err)
		}
	}
	shown := func(c comment) map[string]any {
		who := map[string]any{"login": c.By}
		if f.auth[0] == "PRIVATE-TOKEN" {
			return map[string]any{"id": c.ID, "body": c.Body, "author": map[string]any{"username": c.By}}
		}
		return map[string]any{"id": c.ID, "body": c.Body, "user": who}
	}
	var answer any
	switch id, isOne := strings.CutPrefix(r.URL.Path, f.one+"/"); {
	case r.Method == http.MethodGet && r.URL.Path == "/user":
		answer = map[string]any{"username": f.me}
	case r.Method == http.MethodGet && r.URL.Path == f.list:
		page := f.comments
		if f.size != "" {
			n, _ := strconv.Atoi(r.URL.Query().Get(f.size))
			at, _ := strconv.Atoi(r.URL.Query().Get("page"))
			page = page[min((at-1)*n, len(page)):min(at*n, len(page))]
		}
		out := []any{}
		for _, c := range page {
			out = append(out, shown(c))
		}
		answer = out
	case r.Method == http.MethodPost && r.URL.Path == f.list:
		f.comments = append(f.comments, comment{1000 + len(f.comments), f.me, given.Body})
		answer = shown(f.comments[len(f.comments)-1])
	case r.Method == f.update && isOne:
		for i := range f.comments {
			if strconv.Itoa(f.comments[i].ID) == id && f.comments[i].By == f.me {
				f.comments[i].Body = given.Body
				answer = shown(f.comments[i])
			}
		}
	}
	if answer == nil {
		f.t.Errorf("unexpected: %s %s", r.Method, r.URL)
		w.WriteHeader(http.StatusNotFound)
		return
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// Each script makes one comment, and refreshes that one from then on; one of somebody
// else that looks like it stays alone.
func TestComments(t *testing.T) {
	const token = "a-token-of-the-job"
	for _, c := range []struct {
		script string
		forge  *forge
		env    []string
	}{
		{"comment-github.sh", &forge{auth: [2]string{"Authorization", "Bearer " + token}, list: "/repos/acme/secrets/issues/7/comments", one: "/repos/acme/secrets/issues/comments", update: "PATCH", size: "per_page", me: "github-actions[bot]"},
			[]string{"GITHUB_API_URL=URL", "GITHUB_REPOSITORY=acme/secrets", "GITHUB_TOKEN=" + token}},
		{"comment-gitlab.sh", &forge{auth: [2]string{"PRIVATE-TOKEN", token}, list: "/projects/42/merge_requests/7/notes", one: "/projects/42/merge_requests/7/notes", update: "PUT", size: "per_page", me: "project_42_bot"},
			[]string{"CI_API_V4_URL=URL", "CI_PROJECT_ID=42", "GITLAB_TOKEN=" + token}},
		{"comment-gitea.sh", &forge{auth: [2]string{"Authorization", "token " + token}, list: "/repos/acme/secrets/issues/7/comments", one: "/repos/acme/secrets/issues/comments", update: "PATCH", me: "forgejo-actions"},
			[]string{"GITHUB_API_URL=URL", "GITHUB_REPOSITORY=acme/secrets", "GITEA_TOKEN=" + token}},
	} {
		t.Run(c.script, func(t *testing.T) {
			f := c.forge
			f.t = t
			f.Server = httptest.NewServer(f)
			defer f.Close()
			for i := range 150 {
				f.comments = append(f.comments, comment{i + 1, "alice", "Looks good"})
			}
			f.comments[3] = comment{4, "mallory", "<!-- sealward -->\nall is well"}
			dir, argv := t.TempDir(), filepath.Join(t.TempDir(), "argv")
			write(t, filepath.Join(dir, "bin", "curl"), "#!/bin/sh\necho \"$@\" >> "+argv+"\nexec \"$CURL\" \"$@\"\n", 0o755)
			curl, err := exec.LookPath("curl")
			if err != nil {
				t.Fatal("curl is missing: run make tools")
			}
			script, _ := filepath.Abs(filepath.Join("ci", c.script))
			run := func(text string, env ...string) (string, error) {
				write(t, filepath.Join(dir, "comment.md"), text, 0o644)
				cmd := exec.Command("sh", script, "7")
				cmd.Dir = dir
				cmd.Env = append(os.Environ(), "CURL="+curl, "PATH="+filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))
				for _, kv := range append(c.env, env...) {
					cmd.Env = append(cmd.Env, strings.Replace(kv, "=URL", "="+f.URL, 1))
				}
				out, err := cmd.CombinedOutput()
				return string(out), err
			}
			if out, err := exec.Command("sh", script).CombinedOutput(); err == nil || !strings.HasPrefix(string(out), "usage: "+c.script+" NUMBER") {
				t.Errorf("without a number: %v\n%s", err, out)
			}
			for _, text := range []string{"<!-- sealward -->\nfirst, with \"quotes\" and \\ and ü\n", "<!-- sealward -->\nsecond\n", "<!-- sealward -->\nthird\n"} {
				if out, err := run(text); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				if n := len(f.comments); n != 151 || f.comments[150].Body != text || !strings.Contains(f.comments[3].Body, "all is well") {
					t.Fatalf("there are %d comments; the last is %q, mallory's %q", n, f.comments[n-1].Body, f.comments[3].Body)
				}
			}
			used, err := os.ReadFile(argv)
			if err != nil || len(used) == 0 || bytes.Contains(used, []byte(token)) {
				t.Errorf("curl was called with %s, %v", used, err)
			}
			name, _, _ := strings.Cut(c.env[2], "=")
			out, err := run("<!-- sealward -->\n", name+"=not-the-token")
			if err == nil || !strings.Contains(out, "HTTP 401 Bad credentials; may the token") || strings.Contains(out, "not-the-token") {
				t.Errorf("a wrong token: %v\n%s", err, out)
			}
			// Nothing of a token gets into curl's settings but a header.
			before := len(f.calls)
			if out, err := run("x", name+"=a\"\noutput = \""+filepath.Join(dir, "planted")); err == nil || len(f.calls) != before {
				t.Errorf("a token with quotes: %v\n%s", err, out)
			}
		})
	}
}

func write(t *testing.T, file, text string, perm os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), perm); err != nil {
		t.Fatal(err)
	}
}

// The workflows parse, and what they run is there. None runs a stranger's code with
// the rights of the base.
func TestWorkflows(t *testing.T) {
	script := regexp.MustCompile(`\bci/([a-z-]+\.sh)`)
	for file, scripts := range map[string]int{"ci/github.yml": 2, "ci/gitlab-ci.yml": 2, "ci/gitea.yml": 2, "ci/pre-commit-config.yaml": 0, "../.pre-commit-hooks.yaml": 0} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var doc any
		d := yaml.NewDecoder(bytes.NewReader(text))
		d.KnownFields(true)
		if err := d.Decode(&doc); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		if m, ok := doc.(map[string]any); ok && m["on"] != nil && m["on"] != "pull_request" {
			t.Errorf("%s runs on %v", file, m["on"])
		}
		found := map[string]bool{}
		for _, m := range script.FindAllStringSubmatch(string(text), -1) {
			found[m[1]] = true
			if _, err := os.Stat(filepath.Join("ci", m[1])); err != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
		if len(found) != scripts {
			t.Errorf("%s runs %v", file, found)
		}
	}
	files, err := filepath.Glob("ci/*.sh")
	if err != nil || len(files) != 5 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, file := range files {
		if out, err := exec.Command("sh", "-n", file).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", file, err, out)
		}
	}
}

// review.sh in a real repository: what a branch changes becomes a comment without a
// value, and check's exit code is its own.
func TestReview(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	script, err := filepath.Abs("ci/review.sh")
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "gitconfig"), "[user]\n\tname = dana\n\temail = dana@example.com\n[init]\n\tdefaultBranch = main\n", 0o600)
	sh := func(code int, line string) string {
		t.Helper()
		cmd := exec.Command("sh", "-ec", line)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "HOME="+dir, "GIT_CONFIG_GLOBAL="+filepath.Join(dir, "gitconfig"), "GIT_CONFIG_NOSYSTEM=1",
			"SEALWARD_KEYRING="+filepath.Join(dir, "keys"), "REVIEW="+script)
		out, _ := cmd.CombinedOutput()
		if got := cmd.ProcessState.ExitCode(); got != code {
			t.Fatalf("%s: exit code %d, want %d\n%s", line, got, code, out)
		}
		return string(out)
	}
	grant, err := filepath.Abs("manifests/grant.yaml")
	if err != nil {
		t.Fatal(err)
	}
	sh(0, `sealward init secrets && cd secrets && sealward workspace create orders
		sealward create secret orders-db-r -w orders --type key-value --acl r --parts --from-literal username=orders --from-literal password=hunter2
		git add -A && git commit -q -m one && git checkout -q -b topic
		printf %s hunter3 | sealward set orders/orders-db-r password
		mkdir -p workspaces/orders/grants && sed 's/, roles:id:orders-dev//' `+grant+` > workspaces/orders/grants/orders-readers.yaml
		git add -A && git commit -q -m two`)
	// CI has no key.
	out := sh(0, `cd secrets && mv ../keys ../away && sh "$REVIEW" main`)
	comment := func() string {
		text, err := os.ReadFile(filepath.Join(dir, "secrets", "comment.md"))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	first := comment()
	for _, part := range []string{"finds nothing wrong", "orders-db-r", "password"} {
		if !strings.Contains(first, part) {
			t.Errorf("the comment lacks %q:\n%s\n%s", part, first, out)
		}
	}
	if !strings.HasPrefix(first, "<!-- sealward -->\n") || strings.Contains(first+out, "hunter") {
		t.Errorf("the comment:\n%s\n%s", first, out)
	}
	sh(0, `cd secrets && printf 'name: api\nversion: v1\ntype: secret\nworkspace: orders\nsecret: {type: key-value, acl: r, data: {token: hunter4}}\n' > workspaces/orders/secrets/api.yaml
		git add workspaces && git commit -q -m three`)
	out = sh(3, `cd secrets && BASE=main sh "$REVIEW"`)
	if second := comment(); !strings.Contains(second, "has findings") || !strings.Contains(second, "    workspaces/orders/secrets/api.yaml:5") || strings.Contains(second+out, "hunter") {
		t.Errorf("the comment:\n%s\n%s", second, out)
	}
	// Many findings leave room for what changes, and a link in the comment's place is not followed.
	sh(0, `cd secrets && git checkout -q -b many && for i in $(seq 200); do printf 'name: api\n' > workspaces/orders/secrets/long-name-of-a-file-$i.yaml; done
		git add workspaces && git commit -q -m many && echo untouched > ../elsewhere && ln -sf ../elsewhere comment.md`)
	sh(3, `cd secrets && sh "$REVIEW" main > ../said 2>&1`)
	if third := comment(); len(third) > 64<<10 || !strings.Contains(third, "Cut here") || !strings.Contains(third, "### Secrets") || !strings.Contains(third, "### Who may read what") {
		t.Errorf("the comment:\n%s", third)
	}
	sh(0, `[ "$(cat elsewhere)" = untouched ] && cd secrets && git checkout -q topic`)
	// What pre-commit runs refuses that commit before it is made.
	var hooks []struct{ ID, Entry string }
	text, err := os.ReadFile("../.pre-commit-hooks.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, &hooks); err != nil || len(hooks) != 1 || hooks[0].ID != "sealward" {
		t.Fatalf("%+v, %v", hooks, err)
	}
	sh(0, `cd secrets && git checkout -q -b again HEAD^ && `+hooks[0].Entry)
	out = sh(0, `cd secrets && git checkout -q topic -- workspaces/orders/secrets/api.yaml && if `+hooks[0].Entry+`; then exit 1; fi; git checkout -q -f topic`)
	if !strings.Contains(out, "api.yaml") || strings.Contains(out, "hunter") {
		t.Errorf("the hook said: %s", out)
	}
	// A warning is told, and fails only where that is asked for.
	out = sh(0, `cd secrets && printf 'binding: required\n' > sealward.yaml && git checkout -q -b loose main && git add sealward.yaml && git commit -q -m four
		git checkout -q -b looser && git rm -q sealward.yaml && git commit -q -m five && sh "$REVIEW" loose`)
	if third := comment(); !strings.Contains(third, "has warnings") || !strings.Contains(third, "settings-loosened") || !strings.Contains(out, "settings-loosened") {
		t.Errorf("the comment:\n%s\n%s", third, out)
	}
	sh(3, `cd secrets && SEALWARD_CHECK_FLAGS='--fail-on warning' sh "$REVIEW" loose`)
	sh(0, `cd secrets && SEALWARD_CHECK_FLAGS='--fail-on warning --ignore settings-loosened' sh "$REVIEW" loose`)
	if fourth := comment(); !strings.Contains(fourth, "finds nothing wrong") {
		t.Errorf("the comment:\n%s", fourth)
	}
	out = sh(2, `cd secrets && sh "$REVIEW" nope`)
	if !strings.Contains(out, "there is no revision nope here") {
		t.Errorf("a revision that is not there: %s", out)
	}
	// A sealed repository in a folder of a larger one.
	sh(3, `mkdir mono && cd mono && git init -q && git commit -q --allow-empty -m top
		git fetch -q ../secrets main topic:theirs && git read-tree --prefix=secrets/ -u FETCH_HEAD && git commit -q -m main
		git checkout -q -b topic && git rm -q -r --cached secrets && rm -r secrets && git read-tree --prefix=secrets/ -u theirs && git commit -q -m topic
		SEALWARD_REPO=secrets sh "$REVIEW" main comment.md`)
	if text, err := os.ReadFile(filepath.Join(dir, "mono", "comment.md")); err != nil || !strings.Contains(string(text), "secrets/api.yaml:5") || !strings.Contains(string(text), "orders-db-r") {
		t.Errorf("the comment: %v\n%s", err, text)
	}
	out = sh(2, `git clone -q --depth 1 --branch topic "file://$PWD/secrets" shallow && cd shallow && git fetch -q --depth 1 origin main:main && sh "$REVIEW" main`)
	if !strings.Contains(out, "fetch-depth: 0") {
		t.Errorf("a shallow clone: %s", out)
	}
}
