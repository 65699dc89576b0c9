package examples

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sealward/sealward/gitops/gitcmd/gittest"
	"github.com/sealward/sealward/plugins/kubernetes/kubetest"
)

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

	// Git goes through a proxy that notes nothing, the API server through one that notes
	// what the agents ask for.
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
		"correct horse", "orders-db-r", "and other may not", "nor may shop list them", "revoked", "exit code 4", "NotOurs", "not its own keys", "nor what no workspace has", "IMMUTABLE",
	} {
		if !strings.Contains(string(out), part) {
			t.Errorf("the output lacks %q", part)
		}
	}
	if t.Failed() || testing.Verbose() {
		t.Logf("%s", out)
	}
	_ = http.MethodGet
	_ = metav1.ListOptions{}
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
