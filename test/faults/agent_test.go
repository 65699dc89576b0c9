package faults

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
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

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal/serve"
)

// agent is the real program, started again and again on one state folder.
type agent struct {
	t       *testing.T
	dir     string // holds agent.yaml, logs, temporary files
	program string
	as      *syscall.SysProcAttr

	starts int
	cmd    *exec.Cmd
	ended  chan struct{}
	at     atomic.Pointer[string] // http://host:port, nil while it does not run
}

// options of an agent; the zero value is the usual one.
type options struct {
	source string // section of the settings; the remote's when empty
	state  string // folder; "state" when empty
	audit  string // file; beside the state folder when empty
	more   string // further lines of the settings
	sample int    // of the readers
	// unguarded: many removals at once are meant, as when commits pile up.
	unguarded bool
	plain     bool // the program without the race detector
	// timeout of the source; 2s when zero, so that a remote which is silent is
	// noticed soon
	timeout time.Duration
}

func newAgent(t *testing.T, dir string, o options) *agent {
	t.Helper()
	which := programs.usual
	if o.plain {
		which = programs.plain
	}
	program, err := which()
	must(t, err)
	a := &agent{t: t, dir: dir, program: program}
	if o.state == "" {
		o.state = "state"
	}
	if o.audit == "" {
		o.audit = "audit.jsonl"
	}
	must(t, os.MkdirAll(filepath.Join(dir, "tmp"), 0o777))
	must(t, os.WriteFile(filepath.Join(dir, "agent.yaml"), fmt.Appendf(nil,
		"%skeyring: keys\nstate: %s\naudit: {file: %s}\nserve: {listen: \"127.0.0.1:0\", tokensFile: tokens.yaml, operators: [\"users:id:reader\"], limits: {perIdentity: 1e6, perAddress: 1e6, denials: 1e6}}\n%s",
		o.source, o.state, o.audit, o.more), 0o644))
	t.Cleanup(func() {
		a.kill()
		if log := a.log(); t.Failed() && log != "" {
			t.Logf("the last log ends:\n%s", log[max(0, len(log)-3000):])
		}
	})
	return a
}

// newToken makes the token of the one reader.
func newToken(t *testing.T, dir string) string {
	t.Helper()
	subject, err := manifest.ParseSubject("users:id:reader")
	must(t, err)
	bearer, entry, err := serve.NewToken(subject, nil, 0, time.Now())
	must(t, err)
	must(t, serve.AddToken(filepath.Join(dir, "tokens.yaml"), entry))
	return bearer
}

var address = regexp.MustCompile(`msg=serving address=(http://127\.0\.0\.1:\d+)`)

// begin starts the program and does not wait for anything.
func (a *agent) begin() {
	a.t.Helper()
	a.starts++
	log, err := os.Create(a.logFile())
	must(a.t, err)
	defer log.Close()
	a.cmd = exec.Command(a.program, "agent", "-c", "agent.yaml")
	a.cmd.Dir, a.cmd.Stderr, a.cmd.Stdout, a.cmd.SysProcAttr = a.dir, log, log, a.as
	a.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Join(a.dir, "tmp"), "TMPDIR=" + filepath.Join(a.dir, "tmp"), "GOTRACEBACK=all"}
	if err := a.cmd.Start(); err != nil {
		a.cmd = nil
		a.t.Fatal(err)
	}
	cmd, ended := a.cmd, make(chan struct{})
	a.ended = ended
	go func() { _ = cmd.Wait(); close(ended) }()
}

func (a *agent) logFile() string { return filepath.Join(a.dir, fmt.Sprintf("agent-%d.log", a.starts)) }

// log is what the last start wrote.
func (a *agent) log() string {
	text, _ := os.ReadFile(a.logFile())
	return string(text)
}

// start starts the program and waits until it answers at its address.
func (a *agent) start() {
	a.t.Helper()
	a.begin()
	eventually(a.t, "the agent listens", func() bool {
		select {
		case <-a.ended:
			a.t.Fatalf("the agent ended with code %d:\n%s", a.cmd.ProcessState.ExitCode(), a.log())
		default:
		}
		m := address.FindStringSubmatch(a.log())
		if m == nil {
			return false
		}
		a.at.Store(&m[1])
		return true
	})
}

// ends starts the program, which must end by itself with the code and say text.
func (a *agent) ends(code int, text string) {
	a.t.Helper()
	a.begin()
	select {
	case <-a.ended:
	case <-time.After(patience):
		a.t.Fatal("the agent does not end")
	}
	if got, log := a.cmd.ProcessState.ExitCode(), a.log(); got != code || !strings.Contains(log, text) || strings.Contains(log, "msg=serving") {
		a.t.Errorf("code %d, want %d and %q:\n%s", got, code, text, log)
	}
	a.cmd = nil
}

// kill is kill -9, and waits until the process is gone.
func (a *agent) kill() { a.end(syscall.SIGKILL) }

// stop asks for a graceful end and returns the exit code.
func (a *agent) stop() int { return a.end(syscall.SIGTERM) }

func (a *agent) end(signal syscall.Signal) int {
	if a.cmd == nil {
		return 0
	}
	a.at.Store(nil)
	_ = a.cmd.Process.Signal(signal)
	select {
	case <-a.ended:
	case <-time.After(patience):
		a.t.Errorf("the agent does not end at %s", signal)
		_ = a.cmd.Process.Kill()
		<-a.ended
	}
	code := a.cmd.ProcessState.ExitCode()
	a.cmd = nil
	return code
}

// reader asks an agent for everything, and the oracle about each answer.
type reader struct {
	agent  *agent
	oracle *oracle
	token  string
	http   *http.Client
	seen   cursor
	sample int // of secrets that a pass reads, besides all lists; 0 means all
}

var (
	errGone     = errors.New("the agent does not answer")
	errNotReady = errors.New("the agent has nothing to serve yet")
	errAudit    = errors.New("the agent cannot write its audit")
)

// get returns a nil body for 404.
func (r *reader) get(path string) ([]byte, http.Header, error) {
	at := r.agent.at.Load()
	if at == nil {
		return nil, nil, errGone
	}
	req, err := http.NewRequest(http.MethodGet, *at+path, nil)
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+r.token)
	resp, err := r.http.Do(req)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errGone, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errGone, err)
	}
	switch {
	case resp.StatusCode == http.StatusOK:
		return body, resp.Header, nil
	case resp.StatusCode == http.StatusNotFound:
		return nil, nil, nil
	case resp.StatusCode == http.StatusServiceUnavailable && bytes.Contains(body, []byte("not-ready")):
		return nil, nil, errNotReady
	case resp.StatusCode == http.StatusServiceUnavailable && bytes.Contains(body, []byte("audit-unavailable")):
		return nil, nil, errAudit
	}
	return nil, nil, fmt.Errorf("%s: %s: %s", path, resp.Status, body)
}

// pass reads everything that was ever merged, once. Answers that are wrong are
// the oracle's to note; the error says why there was none.
func (r *reader) pass() error {
	var names []string
	for _, ws := range workspaces {
		when := r.oracle.ask(r.seen)
		body, _, err := r.get("/v1/workspaces/" + ws + "/secrets")
		if err != nil {
			return err
		}
		var list serve.ListJSON
		if err := json.Unmarshal(body, &list); err != nil {
			return err
		}
		r.oracle.list(ws, list, when, &r.seen)
		for _, s := range list.Secrets {
			names = append(names, ws+"/"+s.Name)
		}
	}
	if r.sample > 0 && len(names) > r.sample {
		rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		names = names[:r.sample]
	}
	for i, id := range names {
		if err := r.secret(id, i%4 == 0); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) secret(id string, alsoKeys bool) error {
	ws, name, _ := strings.Cut(id, "/")
	path, when := "/v1/workspaces/"+ws+"/secrets/"+name, r.oracle.ask(r.seen)
	body, _, err := r.get(path)
	if err != nil {
		return err
	}
	if body == nil {
		r.oracle.absent(id, when)
		return nil
	}
	var secret serve.SecretJSON
	if err := json.Unmarshal(body, &secret); err != nil {
		return err
	}
	r.oracle.secret(id, secret, when, &r.seen)
	if !alsoKeys {
		return nil
	}
	for key := range secret.Data {
		value, h, err := r.get(path + "/keys/" + key)
		if err != nil {
			return err
		}
		if value != nil {
			r.oracle.value(id, key, h.Get("Sealward-Path"), h.Get("Sealward-Generation"), h.Get("Sealward-Stale-Since"), value, when, &r.seen)
		}
	}
	return nil
}

func (r *reader) status() (s serve.StatusJSON, err error) {
	body, _, err := r.get("/v1/status")
	if err == nil {
		err = json.Unmarshal(body, &s)
	}
	return s, err
}

// approve is the operator's word for what waits at a commit.
func (r *reader) approve(commit string) error {
	at := r.agent.at.Load()
	if at == nil {
		return errGone
	}
	req, err := http.NewRequest(http.MethodPost, *at+"/v1/approvals", strings.NewReader(`{"commit": "`+commit+`"}`))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+r.token)
	resp, err := r.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		return fmt.Errorf("approval: %s", resp.Status)
	}
	return nil
}

// source is the status of the one source.
func (r *reader) source() serve.SourceJSON {
	s, err := r.status()
	if err != nil || len(s.Sources) != 1 {
		return serve.SourceJSON{}
	}
	return s.Sources[0]
}

// world is one remote, repository, agent and reader.
type world struct {
	t    *testing.T
	dir  string
	repo *repository
	*remote
	agent   *agent
	reader  *reader
	seed    uint64
	random  *rand.Rand // of the test itself
	options options
}

// newWorld makes everything; the agent is not started.
func newWorld(t *testing.T, secrets int, o options) *world {
	t.Helper()
	dir, seed := t.TempDir(), newSeed(t)
	w := &world{t: t, dir: dir, seed: seed, random: rand.New(rand.NewPCG(seed, 3))}
	w.repo = newRepository(t, dir, secrets, seed)
	w.remote = newRemote(t, filepath.Join(dir, "git"), seed)
	if o.source == "" {
		o.source = w.settings(dir, o.timeout)
		if o.unguarded {
			o.source = strings.TrimSuffix(o.source, "}\n") + ", removalGuard: {percent: 100}}\n"
		}
	}
	w.options = o
	token := newToken(t, dir)
	w.agent = newAgent(t, dir, o)
	w.reader = w.newReader(token)
	return w
}

func (w *world) newReader(token string) *reader {
	transport := &http.Transport{MaxIdleConnsPerHost: 4}
	w.t.Cleanup(transport.CloseIdleConnections)
	return &reader{agent: w.agent, oracle: w.repo.oracle, token: token, sample: w.options.sample, http: &http.Client{Timeout: 20 * time.Second, Transport: transport}}
}

// reading reads without pause until the function it returns is called.
func (w *world) reading() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	r := w.newReader(w.reader.token)
	running.Go(func() {
		for ctx.Err() == nil {
			if err := r.pass(); err != nil && !errors.Is(err, errGone) && !errors.Is(err, errNotReady) && !errors.Is(err, errAudit) {
				w.t.Errorf("a reader: %v", err)
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	w.t.Cleanup(stop)
	return stop
}

// settled waits until the head of the branch is served, whole.
func (w *world) settled() {
	w.t.Helper()
	head := w.repo.head
	eventually(w.t, "the agent applies "+head, func() bool {
		if w.agent.running() {
			return w.reader.source().Commit == head
		}
		w.t.Fatalf("the agent ended:\n%s", w.agent.log())
		return false
	})
	must(w.t, w.reader.pass())
	if int(w.reader.seen) != w.repo.oracle.place(head) {
		w.t.Errorf("settled at commit %d, read at %d", w.repo.oracle.place(head), w.reader.seen)
	}
}

func (a *agent) running() bool {
	if a.cmd == nil {
		return false
	}
	select {
	case <-a.ended:
		return false
	default:
		return true
	}
}

// finish stops the agent and checks what must hold after every fault: no wrong
// answer, no plaintext on disk, no panic or race, an audit that is whole.
func (w *world) finish() {
	w.t.Helper()
	if w.agent.running() {
		other, packs := openFiles(w.t, fmt.Sprint(w.agent.cmd.Process.Pid))
		if files, _ := filepath.Glob(filepath.Join(w.dir, "state/mirror/objects/pack/*.pack")); other > 64 || packs > len(files) {
			w.t.Errorf("%d open descriptors, and %d of %d packs", other, packs, len(files))
		}
		if code := w.agent.stop(); code != 0 {
			w.t.Errorf("exit code %d at a graceful end:\n%s", code, w.agent.log())
		}
	}
	violations, reads := w.repo.oracle.report()
	for _, v := range violations {
		w.t.Error(v)
	}
	if reads == 0 {
		w.t.Error("nothing was read")
	}
	w.t.Logf("%d commits, %d starts, %d answers checked", len(w.repo.oracle.states), w.agent.starts, reads)
	w.noPlaintext()
	logs, err := filepath.Glob(filepath.Join(w.dir, "agent-*.log"))
	must(w.t, err)
	for _, file := range logs {
		text, err := os.ReadFile(file)
		must(w.t, err)
		for _, bad := range []string{"panic", "DATA RACE", "fatal error", "goroutine "} {
			if at := bytes.Index(text, []byte(bad)); at >= 0 {
				w.t.Errorf("%s has %q: %.2000s", filepath.Base(file), bad, text[at:])
			}
		}
	}
	if left, _ := filepath.Glob(filepath.Join(w.dir, "state", "mirror", "objects", "pack", "tmp_*")); len(left) > 0 {
		w.t.Errorf("unfinished transfers stay: %v", left)
	}
	if audit := filepath.Join(w.dir, "audit.jsonl"); exists(audit) {
		if out, err := exec.Command(w.agent.program, "audit", "verify", audit).CombinedOutput(); err != nil {
			w.t.Errorf("audit verify: %v\n%s", err, out)
		}
	}
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }

// noPlaintext searches everything the agent may write: state, moved-aside stores,
// audit, logs, temporary files.
func (w *world) noPlaintext() {
	w.t.Helper()
	files := 0
	err := filepath.WalkDir(w.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "git" || d.Name() == "keys") || d.Name() == "git-password" {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		files++
		data, err := os.ReadFile(path)
		if leaks(data) {
			w.t.Errorf("%s holds a value", path)
		}
		return err
	})
	if err != nil || files < 5 {
		w.t.Errorf("searched %d files: %v", files, err)
	}
}

// leaks finds the canary as it is, and in base64 wherever it starts.
func leaks(data []byte) bool {
	if bytes.Contains(data, []byte(canary)) {
		return true
	}
	for shift := range 3 {
		// What does not depend on the bytes before and after.
		text := base64.StdEncoding.EncodeToString(append(make([]byte, shift), canary...))
		if text = strings.TrimRight(text, "=")[(shift*8+5)/6:]; bytes.Contains(data, []byte(text[:len(text)-1])) {
			return true
		}
	}
	return false
}

func TestLeaksAreFound(t *testing.T) {
	for before := range 7 {
		for after := range 7 {
			secret := strings.Repeat("x", before) + canary + strings.Repeat("y", after)
			for _, text := range []string{secret, base64.StdEncoding.EncodeToString([]byte(secret))} {
				if !leaks([]byte(`{"Data":"` + text + `"}`)) {
					t.Errorf("%q is not found", text)
				}
			}
		}
	}
	if leaks(bytes.Repeat([]byte("Plaintext Canary"), 100)) {
		t.Error("found where it is not")
	}
}
