package replicas

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sealward/sealward/gitops/gitcmd/gittest"
	"github.com/sealward/sealward/plugins/kubernetes"
	"github.com/sealward/sealward/plugins/kubernetes/kubetest"
	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
)

// canary begins every value, and may stand in no log, status, event or file.
const canary = "Plaintext-Canary"

const hookSecret = "0123456789abcdef0123456789abcdef"

// world is one installation: its namespaces, a repository on a git server, and agents.
type world struct {
	t         *testing.T
	dir       string
	namespace string // of the agents
	target    string // of the workspace orders
	git       *gittest.HTTPS
	clone     string
	id        *age.X25519Identity
	to        workspace.Recipients
	lease     time.Duration
	interval  string // between two looks
	more      string // further lines of kubernetes: in the settings
	agents    []*agent
}

func newWorld(t *testing.T, name string) *world {
	t.Helper()
	return newWorldIn(t, name, kubetest.Need(t, cluster).Namespace(t, name+"-orders"))
}

// newWorldIn has the workspace orders go to a namespace that is there.
func newWorldIn(t *testing.T, name, target string) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), lease: 2 * time.Second, interval: "1h", target: target}
	w.namespace = cluster.Namespace(t, name+"-sealward")
	kubectl(t, string(kubernetes.CRD), "apply", "--server-side", "-f", "-")
	w.rights()

	root := filepath.Join(w.dir, "git")
	w.run(w.dir, "init", "-q", "--bare", "-b", "main", filepath.Join(root, "secrets.git"))
	w.run(filepath.Join(root, "secrets.git"), "config", "http.receivepack", "true")
	var err error
	w.git, err = gittest.ServeHTTPS(root, "dana", canary+"-of-git")
	must(t, err)
	t.Cleanup(w.git.Close)
	must(t, os.WriteFile(filepath.Join(w.dir, "git-ca.pem"), w.git.CA(), 0o600))
	for file, text := range map[string]string{"git-user": "dana", "git-password": canary + "-of-git", "hook-secret": hookSecret} {
		must(t, os.WriteFile(filepath.Join(w.dir, file), []byte(text), 0o600))
	}
	w.id, err = age.GenerateX25519Identity()
	must(t, err)
	recipient, err := workspace.ParseRecipient(w.id.Recipient().String())
	must(t, err)
	w.to = workspace.For(recipient)
	must(t, os.Mkdir(filepath.Join(w.dir, "keys"), 0o700))
	must(t, os.WriteFile(filepath.Join(w.dir, "keys", "orders.agekey"), []byte(w.id.String()+"\n"), 0o600))

	w.clone = filepath.Join(w.dir, "clone")
	at, err := url.Parse(w.git.URL + "/secrets.git")
	must(t, err)
	at.User = url.UserPassword(w.git.User, w.git.Password)
	w.run(w.dir, "clone", "-q", at.String(), w.clone)
	w.run(w.clone, "checkout", "-q", "-B", "main")
	return w
}

// rights gives the agents those of the example, and nothing more.
func (w *world) rights() {
	w.t.Helper()
	for file, namespace := range map[string]string{"base/rbac.yaml": w.namespace, "components/workspace/rbac.yaml": w.target} {
		text, err := os.ReadFile("../../examples/cluster/" + file)
		must(w.t, err)
		kubectl(w.t, strings.NewReplacer("namespace: sealward}", "namespace: "+w.namespace+"}", "sealward-tokenreview", w.namespace+"-tokenreview", "sealward-agent", w.namespace).Replace(string(text)), "apply", "-n", namespace, "-f", "-")
	}
}

// run is git with nobody's settings.
func (w *world) run(dir string, args ...string) string {
	w.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + w.dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=" + os.DevNull, "GIT_SSL_CAINFO=" + filepath.Join(w.dir, "git-ca.pem"),
		"GIT_AUTHOR_NAME=dana", "GIT_AUTHOR_EMAIL=dana@example.com", "GIT_COMMITTER_NAME=dana", "GIT_COMMITTER_EMAIL=dana@example.com"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("git %s: %v\n%s", args[0], err, out)
	}
	return strings.TrimSpace(string(out))
}

// secret writes a sealed manifest into the clone.
func (w *world) secret(name string, values map[string]string) {
	w.t.Helper()
	scope, err := manifest.ParseWorkspace("orders")
	must(w.t, err)
	n, err := manifest.ParseName(name)
	must(w.t, err)
	d := seal.Draft{Name: n, Workspace: scope, Type: manifest.KeyValue, ACL: manifest.Read}
	for k, v := range values {
		key, err := manifest.ParseKey(k)
		must(w.t, err)
		d.Values = append(d.Values, seal.Value{Key: key, Data: []byte(v)})
	}
	m, err := seal.NewManifest(d)
	must(w.t, err)
	out, err := seal.Seal(m, w.to, seal.Options{Now: time.Now()})
	must(w.t, err)
	w.file("workspaces/orders/secrets/"+name+".yaml", string(out))
}

// grant lets a subject read every secret of orders.
func (w *world) grant(name, subject string) {
	w.t.Helper()
	w.file("workspaces/orders/grants/"+name+".yaml", fmt.Sprintf("name: %s\nversion: v1alpha\ntype: grant\nworkspace: orders\ngrant:\n  policy_use_case_id: read-all-secrets\n  subjects: [%q]\n  effect: allow\n", name, subject))
}

func (w *world) file(path, text string) {
	w.t.Helper()
	path = filepath.Join(w.clone, path)
	must(w.t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(w.t, os.WriteFile(path, []byte(text), 0o644))
}

func (w *world) remove(path string) { must(w.t, os.Remove(filepath.Join(w.clone, path))) }

// push commits everything and pushes it to the server.
func (w *world) push(message string) (commit string) {
	w.t.Helper()
	w.run(w.clone, "add", "-A")
	w.run(w.clone, "commit", "-q", "-m", message)
	w.run(w.clone, "push", "-q", "origin", "main")
	return w.run(w.clone, "rev-parse", "HEAD")
}

// data is a Secret's content in the cluster; nil where there is none.
func (w *world) data(name string) map[string]string {
	s, err := cluster.Client.CoreV1().Secrets(w.target).Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		return nil
	}
	return plain(s)
}

func plain(s *corev1.Secret) map[string]string {
	out := map[string]string{}
	for k, v := range s.Data {
		out[k] = string(v)
	}
	return out
}

// leader is the agent that holds the Lease now; nil while that is nobody who runs.
func (w *world) leader() *agent {
	l, err := cluster.Client.CoordinationV1().Leases(w.namespace).Get(context.Background(), "sealward", metav1.GetOptions{})
	if err != nil || l.Spec.HolderIdentity == nil {
		return nil
	}
	for _, a := range w.agents {
		if id := a.identity(); id != "" && id == *l.Spec.HolderIdentity {
			return a
		}
	}
	return nil
}

// agent is the real program, started again and again on one state folder, behind
// connections that can be cut.
type agent struct {
	*world
	name   string
	dir    string
	proxy  *proxy // to the API server
	remote *proxy // to the git server
	starts int
	cmd    *exec.Cmd
	ended  chan struct{}
	at     atomic.Pointer[string] // http://host:port, nil while it does not run
}

func (w *world) newAgent(name string) *agent {
	w.t.Helper()
	a := &agent{world: w, name: name, dir: filepath.Join(w.dir, name), proxy: newProxy(w.t, hostOf(w.t, cluster.Admin.Host)), remote: newProxy(w.t, hostOf(w.t, w.git.URL))}
	must(w.t, os.MkdirAll(filepath.Join(a.dir, "tmp"), 0o700))
	must(w.t, os.WriteFile(filepath.Join(a.dir, "agent.yaml"), fmt.Appendf(nil, `source: {url: "https://%s/secrets.git", branch: main, interval: %s, timeout: 5s, auth: {usernameFile: ../git-user, passwordFile: ../git-password, caFile: ../git-ca.pem}, removalGuard: {percent: 100}}
keyring: ../keys
state: state
audit: {file: audit.jsonl}
webhook: {secretFile: ../hook-secret}
serve:
  listen: "127.0.0.1:0"
  kubernetes: {server: %q, caFile: api-ca.pem, tokenFile: token, audience: sealward}
  operators: ["users:id:system:serviceaccount:%s:ops"]
  limits: {perIdentity: 1e6, perAddress: 1e6, denials: 1e6}
kubernetes:
  kubeconfig: kubeconfig
  namespace: %[4]s
  lease: {duration: %s}
  project: {workspaces: [orders], namespaces: {orders: %s}}
%s`, a.remote.addr, w.interval, "https://"+a.proxy.addr, w.namespace, w.lease, w.target, w.more), 0o600))
	w.agents = append(w.agents, a)
	w.t.Cleanup(func() {
		a.end(syscall.SIGKILL)
		if log := a.log(); w.t.Failed() && log != "" {
			w.t.Logf("the last log of %s ends:\n%s", name, log[max(0, len(log)-4000):])
		}
	})
	return a
}

func hostOf(t *testing.T, address string) string {
	u, err := url.Parse(address)
	must(t, err)
	if u.Host == "" {
		return address
	}
	return u.Host
}

var servingAt = regexp.MustCompile(`msg=serving address=(http://127\.0\.0\.1:\d+)`)

// begin starts the program, with a token of its own.
func (a *agent) begin() {
	a.t.Helper()
	path, err := program()
	must(a.t, err)
	cfg := cluster.As(a.t, a.namespace, "sealward")
	cfg.Host = "https://" + a.proxy.addr
	must(a.t, kubetest.WriteKubeconfig(filepath.Join(a.dir, "kubeconfig"), cfg))
	must(a.t, os.WriteFile(filepath.Join(a.dir, "token"), []byte(cfg.BearerToken), 0o600))
	must(a.t, os.WriteFile(filepath.Join(a.dir, "api-ca.pem"), cfg.CAData, 0o600))
	a.starts++
	log, err := os.Create(a.logFile())
	must(a.t, err)
	defer log.Close()
	a.cmd = exec.Command(path, "agent", "-c", "agent.yaml")
	a.cmd.Dir, a.cmd.Stdout, a.cmd.Stderr = a.dir, log, log
	a.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Join(a.dir, "tmp"), "TMPDIR=" + filepath.Join(a.dir, "tmp")}
	must(a.t, a.cmd.Start())
	cmd, ended := a.cmd, make(chan struct{})
	a.ended = ended
	go func() { _ = cmd.Wait(); close(ended) }()
}

// start starts the program and waits until it serves.
func (a *agent) start() {
	a.t.Helper()
	a.begin()
	eventually(a.t, a.name+" serves", func() bool {
		select {
		case <-a.ended:
			a.t.Fatalf("%s ended:\n%s", a.name, a.log())
		default:
		}
		m := servingAt.FindStringSubmatch(a.log())
		if m != nil {
			a.at.Store(&m[1])
		}
		return m != nil
	})
}

func (a *agent) logFile() string { return filepath.Join(a.dir, fmt.Sprintf("agent-%d.log", a.starts)) }

func (a *agent) log() string {
	text, _ := os.ReadFile(a.logFile())
	return string(text)
}

var leads = regexp.MustCompile(`this replica leads: it writes to the cluster" identity=(\S+)`)

// identity of the process that runs, once it has led; "" before.
func (a *agent) identity() string {
	if a.cmd == nil {
		return ""
	}
	if m := leads.FindStringSubmatch(a.log()); m != nil {
		return m[1]
	}
	return ""
}

// end sends a signal and waits until the process is gone.
func (a *agent) end(signal syscall.Signal) int {
	if a.cmd == nil {
		return 0
	}
	a.at.Store(nil)
	_ = a.cmd.Process.Signal(syscall.SIGCONT)
	_ = a.cmd.Process.Signal(signal)
	select {
	case <-a.ended:
	case <-time.After(patience):
		a.t.Errorf("%s does not end at %s", a.name, signal)
		_ = a.cmd.Process.Kill()
		<-a.ended
	}
	code := a.cmd.ProcessState.ExitCode()
	a.cmd = nil
	return code
}

func (a *agent) signal(s syscall.Signal) { must(a.t, a.cmd.Process.Signal(s)) }

// hook is what a Git host calls after a push.
func (a *agent) hook() error {
	at := a.at.Load()
	if at == nil {
		return io.EOF
	}
	mac := hmac.New(sha256.New, []byte(hookSecret))
	mac.Write([]byte("push"))
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, *at+"/hooks/generic", strings.NewReader("push"))
	if err != nil {
		return err
	}
	req.Header.Set("X-Signature", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		return fmt.Errorf("hook: %s", resp.Status)
	}
	return nil
}

// finish stops the agents, and checks what must hold after everything: no value in any
// file, no panic, no data race, an audit that is whole.
func (w *world) finish() {
	w.t.Helper()
	for _, a := range w.agents {
		if a.cmd != nil {
			if code := a.end(syscall.SIGTERM); code != 0 {
				w.t.Errorf("%s: exit code %d at a graceful end:\n%s", a.name, code, a.log())
			}
		}
		if out, err := exec.Command(must1(program()), "audit", "verify", filepath.Join(a.dir, "audit.jsonl")).CombinedOutput(); err != nil {
			w.t.Errorf("%s: audit verify: %v\n%s", a.name, err, out)
		}
		files := 0
		must(w.t, filepath.WalkDir(a.dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			files++
			text, err := os.ReadFile(path)
			if leaks(text) {
				w.t.Errorf("%s holds a value", path)
			}
			if strings.HasSuffix(path, ".log") {
				for _, bad := range []string{"panic", "DATA RACE", "fatal error", "goroutine "} {
					if at := bytes.Index(text, []byte(bad)); at >= 0 {
						w.t.Errorf("%s has %q: %.2000s", path, bad, text[at:])
					}
				}
				// client-go's own lines begin like I1126 16:24:46.
				if klog.Match(text) {
					w.t.Errorf("%s has a line of client-go's: %s", path, klog.Find(text))
				}
			}
			return err
		}))
		if files < 5 {
			w.t.Errorf("%s: searched %d files", a.name, files)
		}
	}
	for _, namespace := range []string{w.namespace, w.target} {
		for _, kind := range []string{"events.v1.events.k8s.io", "sealedrepositories", "leases", "roles", "rolebindings"} {
			if text := kubectl(w.t, "", "get", "-n", namespace, kind, "-o", "yaml"); leaks([]byte(text)) {
				w.t.Errorf("%s of %s hold a value", kind, namespace)
			}
		}
	}
}

var klog = regexp.MustCompile(`(?m)^[IWEF]\d{4} \d\d:\d\d:\d\d.*$`)

func must1(s string, err error) string {
	if err != nil {
		panic(err)
	}
	return s
}

// leaks finds the canary as it is, and in base64 wherever it starts.
func leaks(data []byte) bool {
	if bytes.Contains(data, []byte(canary)) {
		return true
	}
	for shift := range 3 {
		text := base64.StdEncoding.EncodeToString(append(make([]byte, shift), canary...))
		if text = strings.TrimRight(text, "=")[(shift*8+5)/6:]; bytes.Contains(data, []byte(text[:len(text)-1])) {
			return true
		}
	}
	return false
}

// proxy passes connections on until it is cut.
type proxy struct {
	addr, to string
	listener net.Listener

	mu    sync.Mutex
	cut   bool // connections are refused
	mute  chan struct{}
	conns map[net.Conn]bool
}

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	p := &proxy{addr: l.Addr().String(), to: to, listener: l, conns: map[net.Conn]bool{}}
	t.Cleanup(func() { l.Close(); p.set(true, false) })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.pass(c)
		}
	}()
	return p
}

// set cuts all connections, and refuses new ones; or has them say nothing any more.
func (p *proxy) set(cut, mute bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = cut
	if p.mute != nil {
		close(p.mute)
		p.mute = nil
	}
	if mute {
		p.mute = make(chan struct{})
	}
	if cut {
		for c := range p.conns {
			c.Close()
		}
	}
}

func (p *proxy) pass(c net.Conn) {
	defer c.Close()
	to, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	defer to.Close()
	p.mu.Lock()
	if p.cut {
		p.mu.Unlock()
		return
	}
	p.conns[c], p.conns[to] = true, true
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { p.copy(to, c) })
	both.Go(func() { p.copy(c, to) })
	both.Wait()
	p.mu.Lock()
	delete(p.conns, c)
	delete(p.conns, to)
	p.mu.Unlock()
}

func (p *proxy) copy(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		mute := p.mute
		p.mu.Unlock()
		if mute != nil {
			<-mute // what was sent arrives when nobody waits for it any more
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// sealward is the command line, which must succeed.
func sealward(t testing.TB, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command(must1(program()), args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("sealward %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}
