// Package replicas runs agents as processes against a real control plane: the whole
// chain from a push to a Pod's service account, and what happens to it when the
// replica that leads is killed, paused or cut off.
package replicas

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealward/sealward/plugins/kubernetes/kubetest"
)

var (
	kills    = flag.Int("leader-kills", 5, "how often TestLeaderIsKilled takes the leader away")
	seedFlag = flag.Uint64("seed", 0, "seed of the random tests; 0 takes a new one")
)

// patience bounds each wait for something that must come: the machine may be busy.
const patience = 90 * time.Second

var (
	cluster  *kubetest.Cluster
	auditLog string // of the API server
	dir      string
	program  func() (string, error)
)

func TestMain(m *testing.M) {
	flag.Parse()
	var err error
	if dir, err = os.MkdirTemp("", "sealward-replicas-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	auditLog = filepath.Join(dir, "audit.log")
	policy := filepath.Join(dir, "policy.yaml")
	if err := os.WriteFile(policy, []byte(auditPolicy), 0o600); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	program = sync.OnceValues(func() (string, error) {
		to := filepath.Join(dir, "sealward")
		args := []string{"build", "-o", to}
		if raceEnabled {
			args = append(args, "-race")
		}
		out, err := exec.Command("go", append(args, "../../cmd/sealward")...).CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("go build: %w\n%s", err, out)
		}
		return to, nil
	})
	code := kubetest.Main(m, &cluster, func(set func(string, ...string)) {
		set("audit-policy-file", policy)
		set("audit-log-path", auditLog)
		set("audit-log-mode", "blocking")
	})
	os.RemoveAll(dir)
	os.Exit(code)
}

// auditPolicy has the API server log every write to what is projected, and who held the
// Lease. Values are never logged.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Request
  verbs: [create, update, patch]
  resources: [{group: coordination.k8s.io, resources: [leases]}]
- level: Metadata
  verbs: [create, update, patch, delete, deletecollection]
  resources: [{group: "", resources: [secrets]}, {group: rbac.authorization.k8s.io, resources: [roles, rolebindings]}]
- level: None
`

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until ok; what says what was waited for.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("in %s it did not happen: %s", patience, what)
		}
	}
}

// request is one line of the API server's audit log: a write, and whose.
type request struct {
	Verb string
	User struct {
		Username string
		Extra    map[string][]string
	}
	ObjectRef struct {
		Resource, Namespace, Name, Subresource string
	}
	ResponseStatus struct{ Code int }
	RequestObject  struct {
		Spec struct {
			HolderIdentity string `json:"holderIdentity"`
		}
	}
	Received  time.Time `json:"requestReceivedTimestamp"`
	Completed time.Time `json:"stageTimestamp"`
}

// credential tells processes apart, each of which has a token of its own.
func (r request) credential() string {
	return strings.Join(r.User.Extra["authentication.kubernetes.io/credential-id"], "")
}

// requests of one user that succeeded, in the order in which they were completed.
func requests(t *testing.T, user string) []request {
	t.Helper()
	text, err := os.ReadFile(auditLog)
	must(t, err)
	var out []request
	for line := range bytes.Lines(text) {
		var r request
		must(t, json.Unmarshal(line, &r))
		if r.User.Username == user && r.ResponseStatus.Code < 300 {
			out = append(out, r)
		}
	}
	slices.SortStableFunc(out, func(a, b request) int { return a.Completed.Compare(b.Completed) })
	return out
}

// kubectl runs as a person with all rights would.
func kubectl(t testing.TB, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "kubectl", append([]string{"--kubeconfig", kubetest.Kubeconfig(t, cluster.Admin)}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// get is a GET with a bearer token.
func get(ctx context.Context, url, token string) (status int, body string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	_, err = b.ReadFrom(resp.Body)
	return resp.StatusCode, b.String(), err
}
