package main

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sealward/sealward/unseal/unsealtest"
)

var shBlock = regexp.MustCompile("(?ms)^```sh\n(.*?)^```$")

// TestDocs types the sh blocks of each page into a shell, one after the other,
// in an empty folder. What a page shows must work.
func TestDocs(t *testing.T) {
	t.Parallel()
	pages := map[string][]string{ // what the output must show
		"README.md":             {"Initialized sealed repository", "orders-db-r | v1", "correct horse", "battery staple", "records are intact", "sealward.dev/placeholder"},
		"docs/repository.md":    {"WORKSPACE | SECRETS", "password set", "allow read-specific-secret on orders-db-*", "exit code 4", "whoever a token asserts it for"},
		"docs/secrets.md":       {"token set", "is kept in 1 parts", "is one file", "from the vendor", "battery staple", "LEVEL='info'", "kind: Secret", "have fresh data keys", "It opens, and is as it was sealed."},
		"docs/agent.md":         {`"password": "`, "records are intact", "METHOD      tls"},
		"docs/audit.md":         {"denied with exit code 4", "TIME ", "no-grant", `"subject":"users:id:shop"`, "users:id:billing | outdated", "not yet: exit code 3", "revoke it at the database now", "records are intact", "0 differ"},
		"docs/applications.md":  {"PASSWORD='correct horse'", "orders has a password of 13 characters", ".env\n.status.json\norders-db-r\norders-db-r.properties\n", "correct horsepassword=correct horse\nuser=orders\n", `{"status":403,"code":"denied"}`},
		"docs/keys.md":          {"Recovery identity written", "orders    | retired | age"},
		"docs/kustomize.md":     {"name: db-", "makes the same objects", "exit code 0, and nothing was made", "1 generator to rewrite; nothing was written", "kind: SealedSecretGenerator\nmetadata:\n  name: db # ours\n", "not to be applied", "apply.sh:2: warning: kustomize build comes upon the generator in prod; --enable-exec is missing", "exit code 3"},
		"docs/pull-requests.md": {"pushed to origin as branch secrets/orders-orders-api-", "orders/orders-api: set token", "1 file changed", "+ read orders/orders-api", "key token: value ", "db2\nhers\n", "CONFLICT (sealed): orders/shared: password: changed on both sides", "password: theirs", "nothing found in 1 manifest"},
	}
	for page, shows := range pages {
		t.Run(page, func(t *testing.T) {
			t.Parallel()
			bin, err := tools()
			if err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(filepath.Join("../..", page))
			if err != nil {
				t.Fatal(err)
			}
			var script strings.Builder
			for _, m := range shBlock.FindAllStringSubmatch(string(text), -1) {
				script.WriteString(m[1])
			}
			commands := freePorts(t, script.String())
			dir := t.TempDir()
			config := filepath.Join(dir, ".gitconfig")
			if err := os.WriteFile(config, []byte("[user]\n\tname = dana\n\temail = dana@example.com\n[init]\n\tdefaultBranch = main\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			// What a page starts must not outlive it, whatever happens in between.
			cmd := exec.CommandContext(ctx, "bash", "-euc", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n"+commands)
			cmd.Dir = dir
			cmd.WaitDelay = 5 * time.Second
			cmd.Env = append(os.Environ(), "HOME="+dir, "PATH="+os.Getenv("PATH")+string(os.PathListSeparator)+bin, "GIT_CONFIG_GLOBAL="+config, "GIT_CONFIG_NOSYSTEM=1")
			out, err := cmd.CombinedOutput()
			if err != nil {
				log, _ := os.ReadFile(filepath.Join(dir, "agent.log"))
				t.Fatalf("%v\n%s\n%s", err, out, log)
			}
			for _, s := range shows {
				if !strings.Contains(string(out), s) {
					t.Errorf("the output lacks %q:\n%s", s, out)
				}
			}
		})
	}
}

var pagePort = regexp.MustCompile(`127\.0\.0\.1:84(?:2[1-9]|[3-9]\d)`)

// freePorts puts ports that nobody has in the place of those of a page; 8420, the
// default, stays.
func freePorts(t *testing.T, script string) string {
	t.Helper()
	free := map[string]string{}
	return pagePort.ReplaceAllStringFunc(script, func(address string) string {
		if free[address] == "" {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			free[address] = l.Addr().String()
			l.Close()
		}
		return free[address]
	})
}

var logLine = regexp.MustCompile("(?m)^\\| (?:info|warn|error) \\| `([^`]+)` \\|")

// docs/log.md lists every line that the agent logs, and no other.
func TestLogLinesAreListed(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/log.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, m := range logLine.FindAllStringSubmatch(string(text), -1) {
		listed[m[1]] = true
	}
	logged := map[string]bool{}
	for _, dir := range []string{".", "../../gitops", "../../gitops/source", "../../unseal", "../../unseal/serve", "../../unseal/audit", "../../unseal/store", "../../plugins/kubernetes"} {
		messages, err := unsealtest.LogMessages(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, message := range messages {
			if logged[message] = true; !listed[message] {
				t.Errorf("%s logs %q, which docs/log.md does not list", dir, message)
			}
		}
	}
	for line := range listed {
		if !logged[line] {
			t.Errorf("docs/log.md lists %q, which nothing logs", line)
		}
	}
}
