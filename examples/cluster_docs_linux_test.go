package examples

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"github.com/sealward/sealward/gitops/gitcmd/gittest"
	"github.com/sealward/sealward/plugins/kubernetes/kubetest"
)

// widened is typed between two steps of the page: more secrets and more subjects, so that
// objects change which stand already.
const widened = `
sealward create secret orders-db-rw -w orders --type key-value --acl rw --generate password=20
sed -i 's/  subjects: .*/  subjects: ["users:id:system:serviceaccount:orders:shop", "users:id:system:serviceaccount:orders:other"]/' workspaces/orders/grants/shop.yaml
git add -A && git commit -q -m "Other reads too" && git push -q
kubectl -n sealward annotate sealedrepository sealward sealward.dev/reconcile-requested-at=widened --overwrite
for i in $(seq 100); do kubectl -n orders auth can-i get secret/orders-db-rw --as system:serviceaccount:orders:other && break; sleep 0.2; done
`

var shBlock = regexp.MustCompile("(?ms)^```sh\n(.*?)^```$")

// docs/cluster.md is typed into a shell, with the real kubectl, a real API server and a real
// Git server. The agents are processes that a node of this test runs from the StatefulSet
// that the page installs; kubectl's port-forward, which a kubelet would serve, is left out,
// because they listen on this machine.
func TestClusterDocs(t *testing.T) {
	t.Parallel()
	kubetest.Need(t, cluster)
	c := ownCluster(t)
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	run := func(in string, command ...string) {
		t.Helper()
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Dir = in
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", command, err, out)
		}
	}

	// The Git host, with the repository that the page pushes to.
	run(dir, "git", "init", "-q", "--bare", "-b", "main", "hosted/secrets.git")
	host, err := gittest.ServeHTTPS(filepath.Join(dir, "hosted"), "sealward", "a-token-that-may-read")
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	// sealward's own repository, with the examples of this work tree.
	released := filepath.Join(dir, "released")
	if err := os.CopyFS(filepath.Join(released, "examples", "cluster"), os.DirFS("cluster")); err != nil {
		t.Fatal(err)
	}
	run(released, "git", "init", "-q", "-b", "main")
	run(released, "git", "add", "-A")
	run(released, "git", "-c", "user.name=dana", "-c", "user.email=dana@example.com", "commit", "-q", "-m", "examples")
	config := write("gitconfig", fmt.Sprintf(`[user]
	name = dana
	email = dana@example.com
[init]
	defaultBranch = main
[credential]
	helper = "!f() { echo username=%s; echo password=%s; }; f"
[url "%s/"]
	insteadOf = https://git.example.com/platform/
[url "file://%s"]
	insteadOf = https://github.com/sealward/sealward
`, host.User, host.Password, host.URL, released), 0o600)

	// What the agents ask of the API server is noted on the way.
	seen := watchRights(t, c)
	n := newNode(t, c, seen.URL, seen.ca, host.CA(), "https://git.example.com/platform/secrets.git", host.URL+"/secrets.git")
	write("bin/kubectl", "#!/bin/sh\ncase \" $* \" in *' port-forward '*) exit 0 ;; esac\nexec \"$KUBECTL\" \"$@\"\n", 0o755)
	program, err := exec.LookPath("kubectl")
	if err != nil {
		t.Fatal("kubectl is missing: run make tools")
	}

	text := string(readFile(t, "../docs/cluster.md"))
	var script strings.Builder
	blocks := shBlock.FindAllStringSubmatch(text, -1)
	if len(blocks) < 10 {
		t.Fatalf("%d blocks", len(blocks))
	}
	for i, m := range blocks {
		fmt.Fprintf(&script, "echo '== block %d'\n%s", i+1, m[1])
		if strings.Contains(m[1], "Another password") {
			script.WriteString(widened)
		}
	}
	commands := strings.ReplaceAll(script.String(), "127.0.0.1:8420", n.addressOf("sealward-0"))
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n"+commands)
	cmd.Dir, cmd.WaitDelay = filepath.Join(dir, "work"), 5*time.Second
	if err := os.Mkdir(cmd.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), "HOME="+dir, "PATH="+filepath.Join(dir, "bin")+":"+os.Getenv("PATH"), "KUBECTL="+program, "KUBECONFIG="+kubetest.Kubeconfig(t, c.Admin),
		"GIT_CONFIG_GLOBAL="+config, "GIT_CONFIG_NOSYSTEM=1", "GIT_SSL_CAINFO="+write("git-ca.pem", string(host.CA()), 0o644), "GIT_PASSWORD="+host.Password)
	out, err := cmd.CombinedOutput()
	if err != nil {
		state, _ := exec.Command(program, "--kubeconfig", kubetest.Kubeconfig(t, c.Admin), "get", "sealedrepositories,secrets,roles,rolebindings,events,pods", "-A", "-o", "wide").CombinedOutput()
		status, _ := exec.Command(program, "--kubeconfig", kubetest.Kubeconfig(t, c.Admin), "get", "sealedrepositories", "-A", "-o", "yaml").CombinedOutput()
		t.Fatalf("%v\n%s\n%s\n%s", err, out, state, status)
	}
	for _, part := range []string{
		"correct horse", "orders-db-r", "and other may not", "nor may shop list them", "revoked", "exit code 4", "was not made by sealward", "not its own keys", "nor what no workspace has", `secret "orders-db-r-`,
	} {
		if !strings.Contains(string(out), part) {
			t.Errorf("the output lacks %q", part)
		}
	}
	if t.Failed() || testing.Verbose() {
		t.Logf("%s", out)
	}

	// The agents' rights are the least: all of this asked for each of them, and was refused nothing.
	cmd = exec.Command(program, "kustomize", filepath.Join(dir, "work", "deploy"))
	built, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	granted := rightsIn(t, string(built))
	if len(granted) < 20 {
		t.Errorf("only %d rights are granted", len(granted))
	}
	for right := range granted {
		used := seen.used(right)
		// Workspaces' namespaces are alike.
		used = used || seen.used(strings.Replace(right, " billing", " orders", 1))
		// Where the API server is too old to send what stands over a watch, it is listed.
		used = used || seen.used(strings.Replace(strings.Replace(right, "list", "watch", 1), " billing", " orders", 1))
		// Events of one kind in a row, which did not come here.
		if used = used || strings.HasPrefix(right, "patch events.k8s.io/events"); !used {
			t.Errorf("the manifests grant %q, which no agent asked for", right)
		}
	}
	for right := range seen.had {
		verb, _, _ := strings.Cut(right, " ")
		if everywhere := right[:strings.LastIndex(right, " ")+1]; !granted[right] && !granted[everywhere] {
			t.Errorf("the agents asked to %s, which the manifests do not grant: %q", verb, right)
		}
	}
	// Neither what the agents say nor what they keep holds a value.
	_ = filepath.WalkDir(n.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.HasSuffix(path, "/sealward") || strings.Contains(path, "/etc/sealward/") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, value := range []string{"correct horse", "battery staple", "by-hand", host.Password} {
			if bytes.Contains(text, []byte(value)) {
				t.Errorf("%s holds %q", path, value)
			}
		}
		if bytes.Contains(text, []byte("can be read by other users")) {
			t.Errorf("%s: the agent warns of its mounted keys", path)
		}
		return err
	})
}

// rightsIn are the rights that manifests grant, as rights.had has them.
func rightsIn(t *testing.T, built string) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	for text := range strings.SplitSeq(built, "\n---\n") {
		var role struct {
			Kind     string
			Metadata struct{ Namespace string }
			Rules    []rbacv1.PolicyRule
		}
		if err := yaml.Unmarshal([]byte(text), &role); err != nil {
			t.Fatal(err)
		}
		if role.Kind != "Role" && role.Kind != "ClusterRole" {
			continue
		}
		for _, rule := range role.Rules {
			for _, verb := range rule.Verbs {
				for _, group := range rule.APIGroups {
					for _, resource := range rule.Resources {
						out[fmt.Sprintf("%s %s/%s %s", verb, group, resource, role.Metadata.Namespace)] = true
					}
				}
			}
		}
	}
	return out
}

// docs/cluster.md names every reason why something does not stand, and docs/agent.md every
// setting of the kubernetes block.
func TestClusterTables(t *testing.T) {
	page, settings := string(readFile(t, "../docs/cluster.md")), string(readFile(t, "../docs/agent.md"))
	reasons := regexp.MustCompile(`(?m)^\t(\w+) +Reason = "(\w+)"`).FindAllStringSubmatch(string(readFile(t, "../plugins/kubernetes/kubernetes.go")), -1)
	if len(reasons) < 15 {
		t.Fatalf("%d reasons", len(reasons))
	}
	for _, m := range reasons {
		if m[2] != "Other" && !strings.Contains(page, "`"+m[2]+"`") {
			t.Errorf("docs/cluster.md lacks reason %s", m[2])
		}
	}
	fields := regexp.MustCompile("yaml:\"(\\w+)\"").FindAllStringSubmatch(string(readFile(t, "../gitops/cluster.go")), -1)
	if len(fields) < 12 {
		t.Fatalf("%d fields", len(fields))
	}
	for _, m := range fields {
		if !regexp.MustCompile("(?m)^\\| `kubernetes\\.[^|]*\\b"+m[1]+"\\b[^|]*\\|").MatchString(settings) && !regexp.MustCompile("(?m)^\\| `kubernetes\\."+m[1]+"\\.").MatchString(settings) {
			t.Errorf("docs/agent.md lacks the setting %s of kubernetes", m[1])
		}
	}
}

// ownCluster is a control plane for one test.
func ownCluster(t *testing.T) *kubetest.Cluster {
	t.Helper()
	c, err := kubetest.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	return c
}
