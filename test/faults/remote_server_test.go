package faults

import (
	"bytes"
	"cmp"
	"crypto/subtle"
	"encoding/pem"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealward/sealward/gitops/gitcmd/gittest"
	"github.com/sealward/sealward/gitops/source"
)

// trouble is what a remote does instead of answering as it should.
type trouble string

const (
	none    trouble = ""
	reset   trouble = "reset"   // the connection is closed without an answer
	failing trouble = "failing" // status 503
	stalled trouble = "stalled" // accepts and never answers
	cut     trouble = "cut"     // a transfer ends after some bytes
	dried   trouble = "dried"   // a transfer stops after some bytes, and the connection stays
	garbled trouble = "garbled" // a byte of each transfer is another
	flaky   trouble = "flaky"   // each request has one of the above, or none
)

var troubles = []trouble{reset, failing, stalled, cut, dried, garbled, flaky}

// remote is git http-backend behind TLS and a password, with trouble on demand.
type remote struct {
	*httptest.Server
	t *testing.T

	mu       sync.Mutex
	trouble  trouble
	after    int64 // bytes that a cut or dried transfer lets through
	random   *rand.Rand
	lifted   chan struct{} // closed when the trouble ends
	requests map[trouble]int
	transfer func() // called once, when a transfer begins
}

const remoteUser, remotePassword = "dana", canary + "-password"

func newRemote(t *testing.T, root string, seed uint64) *remote {
	t.Helper()
	backend, err := gittest.Backend(root)
	must(t, err)
	backend.(*cgi.Handler).Logger = log.New(io.Discard, "", 0) // clients are killed
	m := &remote{t: t, random: rand.New(rand.NewPCG(seed, 2)), requests: map[trouble]int{}}
	m.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if user != remoteUser || subtle.ConstantTimeCompare([]byte(password), []byte(remotePassword)) != 1 {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		m.serve(w, r, backend)
	}))
	m.Config.ErrorLog = log.New(io.Discard, "", 0)
	m.StartTLS()
	t.Cleanup(func() { m.set(none, 0); m.Close() })
	return m
}

// set starts a trouble; none ends it.
func (m *remote) set(what trouble, after int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.trouble, m.after = what, after
	if m.lifted != nil {
		close(m.lifted)
		m.lifted = nil
	}
}

// onTransfer has f called when the next transfer begins.
func (m *remote) onTransfer(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.transfer = f
}

// seen says how many requests had a trouble.
func (m *remote) seen(what trouble) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.requests[what]
}

func (m *remote) serve(w http.ResponseWriter, r *http.Request, backend http.Handler) {
	m.mu.Lock()
	if m.lifted == nil { // made here: a test's bubble must not own it
		m.lifted = make(chan struct{})
	}
	what, after, lifted := m.trouble, m.after, m.lifted
	if what == flaky {
		what = append(troubles[:len(troubles)-1:len(troubles)-1], none, none, none)[m.random.IntN(len(troubles)+2)]
		after = m.random.Int64N(2000)
	}
	transfer := strings.HasSuffix(r.URL.Path, "/git-upload-pack")
	if !transfer && (what == cut || what == dried || what == garbled) {
		what = none
	}
	m.requests[what]++
	if transfer && m.transfer != nil {
		m.transfer()
		m.transfer = nil
	}
	m.mu.Unlock()
	wait := func() {
		select {
		case <-lifted:
		case <-r.Context().Done():
		case <-time.After(patience):
		}
	}
	switch what {
	case reset:
		panic(http.ErrAbortHandler)
	case failing:
		http.Error(w, canary, http.StatusServiceUnavailable) // a body is not to be repeated
	case stalled:
		wait()
		panic(http.ErrAbortHandler)
	case cut, dried, garbled:
		// The whole answer first: what is sent of it does not depend on timing.
		whole := httptest.NewRecorder()
		whole.Body = &bytes.Buffer{}
		backend.ServeHTTP(whole, r)
		body := whole.Body.Bytes()
		for name, values := range whole.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(whole.Code)
		if len(body) > 0 && what == garbled {
			body[len(body)-1-int(after)%min(len(body), 400)] ^= 0x10
			_, _ = w.Write(body)
			return
		}
		_, _ = w.Write(body[:min(int64(len(body)), after)])
		_ = http.NewResponseController(w).Flush()
		if what == dried {
			wait()
		}
		panic(http.ErrAbortHandler)
	default:
		backend.ServeHTTP(w, r)
	}
}

// config is how an agent within the test reaches the remote.
func (m *remote) config(dir string) source.Config {
	m.settings(dir, 0)
	return source.Config{URL: m.URL + "/secrets.git", Timeout: 2 * time.Second, Auth: source.Auth{
		UsernameFile: filepath.Join(dir, "git-user"), PasswordFile: filepath.Join(dir, "git-password"), CAFile: filepath.Join(dir, "git-ca.pem")}}
}

// settings writes the files that an agent needs to trust and enter, and returns
// the source section of its settings.
func (m *remote) settings(dir string, timeout time.Duration) string {
	m.t.Helper()
	for name, text := range map[string]string{
		"git-user": remoteUser, "git-password": remotePassword,
		"git-ca.pem": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.Certificate().Raw})),
	} {
		must(m.t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	return "source: {url: " + m.URL + "/secrets.git, branch: main, interval: 50ms, timeout: " + cmp.Or(timeout, 2*time.Second).String() + ", auth: {usernameFile: git-user, passwordFile: git-password, caFile: git-ca.pem}}\n"
}
