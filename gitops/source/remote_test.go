package source

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/sealward/sealward/gitops/gitcmd/gittest"
)

// server is git http-backend behind TLS.
type server struct {
	*httptest.Server
	repo        repo
	want        atomic.Value // the Authorization header asked for; "" for none
	connections atomic.Int32
	cut         atomic.Int64 // end the answer to a POST after so many bytes; 0 never
	around      func(http.Handler) http.Handler
}

func serve(t *testing.T, around func(http.Handler) http.Handler) *server {
	t.Helper()
	s := &server{repo: newRepo(t), around: around}
	s.want.Store("")
	backend, err := gittest.Backend(filepath.Dir(s.repo.dir))
	if err != nil {
		t.Fatal(err)
	}
	var handler http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if want := s.want.Load().(string); want != "" && r.Header.Get("Authorization") != want {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			w.WriteHeader(http.StatusUnauthorized)
			// As a proxy in debugging mode might.
			fmt.Fprintf(w, "no entry with %s%s", r.Header.Get("Authorization"), strings.Repeat("!", 1<<20))
			return
		}
		if n := s.cut.Load(); n > 0 && r.Method == http.MethodPost {
			w = &cutter{w, n}
		}
		backend.ServeHTTP(w, r)
	})
	if around != nil {
		handler = around(handler)
	}
	s.Server = httptest.NewUnstartedServer(handler)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.connections.Add(1)
		}
	}
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // refused handshakes are meant
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// cutter breaks the connection after n bytes.
type cutter struct {
	http.ResponseWriter
	n int64
}

func (c *cutter) Write(p []byte) (int, error) {
	if c.n -= int64(len(p)); c.n < 0 {
		_, _ = c.ResponseWriter.Write(p[:len(p)+int(c.n)])
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	return c.ResponseWriter.Write(p)
}

func (s *server) config(t *testing.T) Config {
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	return Config{URL: s.URL + "/secrets.git", Branch: "main", Auth: Auth{CAFile: writeTestFile(t, string(ca))}}
}

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

func TestHTTPSCredentials(t *testing.T) {
	const secret = "hunter2-and-more"
	ctx := context.Background()
	s := serve(t, nil)
	head := s.repo.commit("main", "one", files{"a": "1"})
	for name, c := range map[string]struct {
		want string
		set  func(*Config)
	}{
		"none": {"", func(*Config) {}},
		"basic": {basic("bob", secret), func(c *Config) {
			c.Auth.UsernameFile, c.Auth.PasswordFile = writeTestFile(t, "bob\n"), writeTestFile(t, secret+"\n")
		}},
		"bearer": {"Bearer " + secret, func(c *Config) { c.Auth.TokenFile = writeTestFile(t, secret+"\r\n") }},
		"token as password": {basic("bob", secret), func(c *Config) {
			c.Auth.UsernameFile, c.Auth.TokenFile = writeTestFile(t, "bob"), writeTestFile(t, secret)
		}},
		"in the url": {basic("bob", secret), func(c *Config) { c.URL = strings.Replace(c.URL, "https://", "https://bob:"+secret+"@", 1) }},
		"user in the url": {basic("bob", secret), func(c *Config) {
			c.URL = strings.Replace(c.URL, "https://", "https://bob@", 1)
			c.Auth.PasswordFile = writeTestFile(t, secret)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := s.config(t)
			c.set(&cfg)
			m := s.repo.open(cfg)
			s.want.Store(c.want)
			if h, err := m.Look(ctx); err != nil || h.String() != head {
				t.Fatalf("look: %s, %v; want %s", h, err, head)
			}
			if h, err := m.Fetch(ctx); err != nil || h.String() != head {
				t.Fatalf("fetch: %s, %v; want %s", h, err, head)
			}
			s.want.Store("Bearer something else")
			for _, try := range []func(context.Context) (Hash, error){m.Look, m.Fetch} {
				_, err := try(ctx)
				mustBe(t, err, ErrAuth)
				for _, part := range []string{secret, base64.StdEncoding.EncodeToString([]byte("bob:" + secret)), "no entry"} {
					if strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), part) {
						t.Errorf("the error shows %q: %v", part, err)
					}
				}
			}
		})
	}
	s.want.Store(basic("bob", secret))
	_, err := s.repo.open(s.config(t)).Look(ctx)
	mustBe(t, err, ErrAuth)
	mustSay(t, err, "none is configured")
}

func TestHTTPSCredentialRotates(t *testing.T) {
	ctx := context.Background()
	s := serve(t, nil)
	s.repo.commit("main", "one", files{"a": "1"})
	cfg := s.config(t)
	cfg.Auth.TokenFile = writeTestFile(t, "old")
	m := s.repo.open(cfg)
	s.want.Store("Bearer new")
	_, err := m.Look(ctx)
	mustBe(t, err, ErrAuth)
	mustSay(t, err, cfg.Auth.TokenFile)

	for _, bad := range []string{"", "\n", "two\nlines", "a\x00b", strings.Repeat("x", maxAuthFile+1)} {
		os.WriteFile(cfg.Auth.TokenFile, []byte(bad), 0o600)
		_, err = m.Look(ctx)
		mustBe(t, err, ErrConfig)
	}
	os.WriteFile(cfg.Auth.TokenFile, []byte("new\n"), 0o600)
	if _, err := m.Look(ctx); err != nil {
		t.Fatal(err)
	}
	// The CA as well.
	ca, _ := os.ReadFile(cfg.Auth.CAFile)
	os.WriteFile(cfg.Auth.CAFile, []byte("no certificate"), 0o600)
	_, err = m.Look(ctx)
	mustBe(t, err, ErrConfig)
	os.WriteFile(cfg.Auth.CAFile, ca, 0o600)
	if _, err := m.Look(ctx); err != nil {
		t.Fatal(err)
	}
	os.Remove(cfg.Auth.TokenFile)
	_, err = m.Look(ctx)
	mustBe(t, err, ErrConfig)
	mustBe(t, err, os.ErrNotExist)
}

func TestHTTPSKeepsItsConnection(t *testing.T) {
	// The end of an answer comes a little after its last packet.
	s := serve(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(w, r)
			w.(http.Flusher).Flush()
			time.Sleep(20 * time.Millisecond)
		})
	})
	s.repo.commit("main", "one", files{"a": "1"})
	m := s.repo.open(s.config(t))
	for range 5 {
		if _, err := m.Look(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.connections.Load(); n != 1 {
		t.Errorf("five looks took %d connections, want 1", n)
	}
}

func TestHTTPSUnknownAuthority(t *testing.T) {
	s := serve(t, nil)
	s.repo.commit("main", "one", files{"a": "1"})
	cfg := s.config(t)
	cfg.Auth.CAFile = ""
	_, err := s.repo.open(cfg).Look(context.Background())
	mustBe(t, err, ErrUntrusted)
	mustSay(t, err, "caFile")
}

func TestHTTPSRedirects(t *testing.T) {
	ctx := context.Background()
	s := serve(t, nil)
	head := s.repo.commit("main", "one", files{"a": "1"})
	ca := s.config(t).Auth.CAFile
	var seen sync.Map
	front := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen.Store(r.Method, r.Header.Get("Authorization"))
		http.Redirect(w, r, s.URL+r.URL.String(), http.StatusTemporaryRedirect)
	}))
	front.StartTLS() // with the same certificate, httptest's own
	t.Cleanup(front.Close)
	s.want.Store("")
	s.around = nil
	cfg := Config{URL: front.URL + "/secrets.git", Branch: "main", Auth: Auth{CAFile: ca, TokenFile: writeTestFile(t, "hunter2")}}
	m := s.repo.open(cfg)
	// The list of refs may be redirected, and the transfer then goes there.
	if h, err := m.Fetch(ctx); err != nil || h.String() != head {
		t.Fatalf("fetch: %s, %v", h, err)
	}
	if got, _ := seen.Load("GET"); got != "Bearer hunter2" {
		t.Errorf("the configured server saw %v", got)
	}
	// Another origin gets no credential.
	s.want.Store("Bearer hunter2")
	_, err := m.Look(ctx)
	mustBe(t, err, ErrAuth)

	// Nor is anything sent in the clear after https.
	asked := atomic.Bool{}
	clear := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Store(true)
		s.Config.Handler.ServeHTTP(w, r)
	}))
	t.Cleanup(clear.Close)
	down := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, clear.URL+r.URL.String(), http.StatusTemporaryRedirect)
	}))
	down.StartTLS()
	t.Cleanup(down.Close)
	cfg.URL = down.URL + "/secrets.git"
	_, err = s.repo.open(cfg).Fetch(ctx)
	mustBe(t, err, ErrNotRepository)
	mustSay(t, err, "redirects")
	if asked.Load() {
		t.Error("the request went out without TLS")
	}

	// A transfer is not redirected.
	s2 := serve(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				http.Redirect(w, r, "https://other.example.com/?leak=1", http.StatusTemporaryRedirect)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	s2.repo.commit("main", "one", files{"a": "1"})
	_, err = s2.repo.open(s2.config(t)).Fetch(ctx)
	mustBe(t, err, ErrNotRepository)
	mustSay(t, err, "redirects")
}

func TestHTTPSAnswers(t *testing.T) {
	const secret = "hunter2"
	for name, c := range map[string]struct {
		status int
		body   string
		want   error
	}{
		"not found":        {404, "", ErrNotRepository},
		"gone":             {410, "", ErrNotRepository},
		"forbidden":        {403, "", ErrAuth},
		"busy":             {429, "", ErrUnreachable},
		"down":             {503, "", ErrUnreachable},
		"a web page":       {200, "<html>" + secret, ErrNotRepository},
		"nothing":          {200, "", ErrNotRepository},
		"an error line":    {200, "001e# service=git-upload-pack\n0000" + pkt("ERR go away, "+secret), ErrNotRepository},
		"dumb protocol":    {200, strings.Repeat("1", 40) + "\trefs/heads/main\n", ErrNotRepository},
		"sha-256":          {200, "001e# service=git-upload-pack\n0000" + pkt(strings.Repeat("1", 64)+" HEAD\x00object-format=sha256\n") + "0000", ErrNotRepository},
		"endless refs":     {200, "001e# service=git-upload-pack\n0000" + pkt(strings.Repeat("1", 40)+" refs/heads/x\x00agent=x\n") + strings.Repeat(pkt(strings.Repeat("1", 40)+" refs/heads/y\n"), maxAdvertised/50), ErrTooLarge},
		"a shallow remote": {200, "001e# service=git-upload-pack\n0000" + pkt(strings.Repeat("1", 40)+" refs/heads/main\x00agent=x\n") + pkt("shallow "+strings.Repeat("1", 40)) + "0000", ErrNotRepository},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasPrefix(c.body, "001e#") || c.body == "" {
					w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
				}
				w.WriteHeader(c.status)
				io.WriteString(w, c.body)
			}))
			defer s.Close()
			m := newRepo(t).open(Config{URL: s.URL + "/secrets.git", Branch: "main", Auth: Auth{TokenFile: writeTestFile(t, secret)}})
			_, err := m.Fetch(context.Background())
			mustBe(t, err, c.want)
			if err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("the error shows the token: %v", err)
			}
		})
	}
}

// The body of an error is read to a bound, not to its end.
func TestHTTPSEndlessError(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, strings.Repeat("x", 1<<16)); err != nil {
				return
			}
		}
	}))
	defer s.Close()
	_, err := newRepo(t).open(Config{URL: s.URL + "/x", Branch: "main", Timeout: time.Second}).Look(context.Background())
	mustBe(t, err, ErrNotRepository)
}

func pkt(text string) string { return fmt.Sprintf("%04x%s", len(text)+4, text) }

func TestLookAtWhatIsNotThere(t *testing.T) {
	ctx := context.Background()
	t.Run("empty", func(t *testing.T) {
		r := newRepo(t)
		_, err := r.open(Config{URL: "file://" + r.dir, Branch: "main"}).Look(ctx)
		mustBe(t, err, ErrEmpty)
	})
	t.Run("empty over https", func(t *testing.T) {
		s := serve(t, nil)
		_, err := s.repo.open(s.config(t)).Fetch(ctx)
		mustBe(t, err, ErrEmpty)
	})
	t.Run("no such branch", func(t *testing.T) {
		r := newRepo(t)
		for i := range 12 {
			r.commit(fmt.Sprintf("branch-%02d", i), "one", files{"a": "1"})
		}
		m := r.open(Config{URL: r.dir, Branch: "main"})
		_, err := m.Look(ctx)
		mustBe(t, err, ErrNoBranch)
		mustSay(t, err, "branch-00, branch-01")
		mustSay(t, err, "branch-09 and 2 more")
		if _, err = m.Fetch(ctx); !errors.Is(err, ErrNoBranch) {
			t.Error(err)
		}
	})
	t.Run("only a tag", func(t *testing.T) {
		r := newRepo(t)
		r.commit("main", "one", files{"a": "1"})
		r.git("tag", "v1", "main")
		r.git("update-ref", "-d", "refs/heads/main")
		_, err := r.open(Config{URL: r.dir, Branch: "main"}).Look(ctx)
		mustBe(t, err, ErrNoBranch)
		mustSay(t, err, "none at all")
	})
	t.Run("not a repository", func(t *testing.T) {
		r := newRepo(t)
		for _, dir := range []string{t.TempDir(), "/nonexistent/repo"} {
			_, err := r.open(Config{URL: dir, Branch: "main"}).Look(ctx)
			mustBe(t, err, ErrNotRepository)
			mustSay(t, err, "does not appear to be a git repository")
		}
	})
	t.Run("not a repository over https", func(t *testing.T) {
		s := serve(t, nil)
		cfg := s.config(t)
		cfg.URL = s.URL + "/other.git"
		_, err := s.repo.open(cfg).Look(ctx)
		mustBe(t, err, ErrNotRepository)
	})
	t.Run("shallow remote", func(t *testing.T) {
		r := newRepo(t)
		one := r.commit("main", "one", files{"a": "1"})
		r.commit("main", "two", files{"a": "2"}, one)
		shallow := filepath.Join(t.TempDir(), "shallow.git")
		r.git("clone", "--quiet", "--bare", "--depth=1", "file://"+r.dir, shallow)
		_, err := r.open(Config{URL: shallow, Branch: "main"}).Fetch(ctx)
		mustBe(t, err, ErrNotRepository)
		mustSay(t, err, "shallow")
	})
	t.Run("inherited variables", func(t *testing.T) {
		r := newRepo(t)
		r.commit("main", "one", files{"a": "1"})
		m := r.open(Config{URL: r.dir, Branch: "main"})
		t.Setenv("GIT_PROTOCOL", "version=2")
		if _, err := m.Look(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Run("no git command", func(t *testing.T) {
		r := newRepo(t)
		m := r.open(Config{URL: r.dir, Branch: "main"})
		t.Setenv("PATH", t.TempDir())
		_, err := m.Look(ctx)
		mustBe(t, err, ErrConfig)
	})
}

// closedPort is a loopback address where nobody listens.
func closedPort(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// silentPort accepts and never answers.
func silentPort(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var conns []net.Conn
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		defer mu.Unlock()
		for _, c := range conns {
			c.Close()
		}
	})
	return l.Addr().String()
}

func TestUnreachable(t *testing.T) {
	const timeout = 300 * time.Millisecond
	r := newRepo(t)
	ssh := newSSHServer(t, r.dir)
	urls := map[string]func(addr string) Config{
		"https": func(addr string) Config { return Config{URL: "https://bob:hunter2@" + addr + "/x"} },
		"http":  func(addr string) Config { return Config{URL: "http://bob:hunter2@" + addr + "/x"} },
		"ssh":   func(addr string) Config { return Config{URL: "ssh://git@" + addr + "/x", Auth: ssh.auth(t, addr)} },
	}
	for name, config := range urls {
		for what, addr := range map[string]string{"closed": closedPort(t), "silent": silentPort(t)} {
			t.Run(name+", "+what, func(t *testing.T) {
				cfg := config(addr)
				cfg.Branch, cfg.Timeout = "main", timeout
				m := r.open(cfg)
				before := runtime.NumGoroutine()
				start := time.Now()
				_, err := m.Look(context.Background())
				took := time.Since(start)
				mustBe(t, err, ErrUnreachable)
				if took > 10*timeout || what == "silent" && took < timeout {
					t.Errorf("it took %s with a time-out of %s", took, timeout)
				}
				if err != nil && strings.Contains(err.Error(), "hunter2") {
					t.Errorf("the error shows the password: %v", err)
				}
				settled(t, "more goroutines than before", func() bool { return runtime.NumGoroutine() <= before })
			})
		}
	}
	t.Run("the caller's context", func(t *testing.T) {
		m := r.open(Config{URL: "https://" + silentPort(t) + "/x", Branch: "main"})
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		_, err := m.Look(ctx)
		mustBe(t, err, context.DeadlineExceeded)
		if errors.Is(err, ErrUnreachable) {
			t.Error("a caller that gave up is told that the remote is down")
		}
	})
}

// A transfer that stalls ends by the time-out, one that is cut at once; both
// leave no file, descriptor or goroutine, and the next fetch succeeds.
func TestFetchBroken(t *testing.T) {
	ctx := context.Background()
	release := make(chan struct{})
	var stall atomic.Bool
	s := serve(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if stall.Load() && r.Method == http.MethodPost {
				io.WriteString(w, pkt("NAK\n"))
				w.(http.Flusher).Flush()
				<-release
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	t.Cleanup(func() { close(release) })
	tree := files{}
	for i := range 200 {
		tree[fmt.Sprintf("f%d", i)] = rand.Text() + rand.Text()
	}
	head := s.repo.commit("main", "one", tree)
	cfg := s.config(t)
	cfg.Timeout = time.Second
	m := s.repo.open(cfg)
	if _, err := m.Look(ctx); err != nil { // opens the connection
		t.Fatal(err)
	}
	descriptors := func() int {
		names, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	fds, goroutines := descriptors(), runtime.NumGoroutine()
	for _, n := range []int64{1, 8, 20, 500, 5000, 10000} {
		s.cut.Store(n)
		_, err := m.Fetch(ctx)
		mustBe(t, err, ErrUnreachable)
	}
	s.cut.Store(0)
	stall.Store(true)
	start := time.Now()
	_, err := m.Fetch(ctx)
	mustBe(t, err, ErrUnreachable)
	mustSay(t, err, "no answer within 1s")
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("the stalled fetch took %s", took)
	}
	stall.Store(false)
	if names, _ := os.ReadDir(m.store.dir); len(names) != 0 {
		t.Errorf("broken transfers left %v", names)
	}
	m.http.CloseIdleConnections()
	settled(t, "more descriptors than before", func() bool { return descriptors() <= fds+2 })
	settled(t, "more goroutines than before", func() bool { return runtime.NumGoroutine() <= goroutines+4 })
	if h, err := m.Fetch(ctx); err != nil || h.String() != head {
		t.Fatalf("the next fetch: %s, %v", h, err)
	}
}

// A slow transfer is no stall.
func TestFetchSlow(t *testing.T) {
	s := serve(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				w = slow{w}
			}
			next.ServeHTTP(w, r)
		})
	})
	tree := files{}
	for i := range 100 {
		tree[fmt.Sprintf("f%d", i)] = rand.Text() + rand.Text()
	}
	s.repo.commit("main", "one", tree)
	cfg := s.config(t)
	cfg.Timeout = time.Second
	start := time.Now()
	if _, err := s.repo.open(cfg).Fetch(context.Background()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took < cfg.Timeout {
		t.Errorf("it took only %s: the test shows nothing", took)
	}
}

type slow struct{ http.ResponseWriter }

func (s slow) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n, err := s.ResponseWriter.Write(p[done:min(done+200, len(p))])
		if done += n; err != nil {
			return done, err
		}
		s.ResponseWriter.(http.Flusher).Flush()
		time.Sleep(50 * time.Millisecond)
	}
	return done, nil
}

// sshServer is a small sshd that runs git-upload-pack. It has host keys of two
// types, as real ones do.
type sshServer struct {
	addr    string
	hosts   []ssh.Signer // ed25519, ecdsa
	key     string       // PEM of the key it lets in
	allowed ssh.PublicKey
	root    string
	asked   atomic.Value
}

func newSSHServer(t *testing.T, dir string) *sshServer {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	_, host, err := ed25519.GenerateKey(rand.Reader)
	must(err)
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	s := &sshServer{root: filepath.Dir(dir)}
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if string(key.Marshal()) != string(s.allowed.Marshal()) {
			return nil, errors.New("no")
		}
		return nil, nil
	}}
	for _, key := range []any{host, other} {
		signer, err := ssh.NewSignerFromKey(key)
		must(err)
		s.hosts = append(s.hosts, signer)
		config.AddHostKey(signer)
	}
	s.key, s.allowed = sshKey(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	s.addr = l.Addr().String()
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go s.handle(conn, config)
		}
	}()
	return s
}

func sshKey(t *testing.T) (string, ssh.PublicKey) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(block)), key
}

func (s *sshServer) handle(conn net.Conn, config *ssh.ServerConfig) {
	defer conn.Close()
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for offered := range channels {
		channel, requests, err := offered.Accept()
		if err != nil {
			return
		}
		go func() {
			for req := range requests {
				if req.Type != "exec" {
					req.Reply(false, nil)
					continue
				}
				req.Reply(true, nil)
				line := string(req.Payload[4:])
				s.asked.Store(line)
				// A shell reads the line, as at a real server.
				cmd := exec.Command("/bin/sh", "-c", line)
				cmd.Dir = s.root
				// Run would wait for the end of a Stdin of ours.
				stdin, err := cmd.StdinPipe()
				if err != nil {
					return
				}
				go func() {
					io.Copy(stdin, channel)
					stdin.Close()
				}()
				cmd.Stdout, cmd.Stderr = channel, channel.Stderr()
				status := uint32(0)
				if err := cmd.Run(); err != nil {
					status = 128
				}
				channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status}))
				channel.Close()
			}
		}()
	}
}

// auth knows the host by its ed25519 key only, although x/crypto/ssh would ask
// for another first.
func (s *sshServer) auth(t *testing.T, addr string) Auth {
	line := knownhosts.Line([]string{knownhosts.Normalize(addr)}, s.hosts[0].PublicKey())
	return Auth{SSHKeyFile: writeTestFile(t, s.key), KnownHostsFile: writeTestFile(t, line+"\n")}
}

func TestSSH(t *testing.T) {
	ctx := context.Background()
	r := newRepo(t)
	one := r.commit("main", "one", files{"a": "1"})
	s := newSSHServer(t, r.dir)
	config := func() Config {
		return Config{URL: "ssh://git@" + s.addr + r.dir, Branch: "main", Auth: s.auth(t, s.addr)}
	}
	m := r.open(config())
	if h, err := m.Look(ctx); err != nil || h.String() != one {
		t.Fatalf("look: %s, %v", h, err)
	}
	if h, err := m.Fetch(ctx); err != nil || h.String() != one {
		t.Fatalf("fetch: %s, %v", h, err)
	}
	two := r.commit("main", "two", files{"a": "2"}, one)
	if h, err := m.Fetch(ctx); err != nil || h.String() != two {
		t.Fatalf("second fetch: %s, %v", h, err)
	}

	t.Run("odd path", func(t *testing.T) {
		cfg := config()
		cfg.URL = "ssh://" + s.addr + "/tmp/it's!;touch%20x"
		_, err := r.open(cfg).Look(ctx)
		mustBe(t, err, ErrNotRepository)
		mustSay(t, err, "does not appear to be a git repository")
		if got := s.asked.Load(); got != `git-upload-pack '/tmp/it'\''s'\!';touch x'` {
			t.Errorf("the server was asked for %s", got)
		}
	})
	t.Run("another host key", func(t *testing.T) {
		cfg := config()
		cfg.Auth = newSSHServer(t, r.dir).auth(t, s.addr)
		cfg.Auth.SSHKeyFile = writeTestFile(t, s.key)
		_, err := r.open(cfg).Look(ctx)
		mustBe(t, err, ErrUntrusted)
		mustSay(t, err, "ssh-keyscan -p")
	})
	t.Run("another type of host key", func(t *testing.T) {
		cfg := config()
		_, rsaOnly := sshKey(t)
		line := knownhosts.Line([]string{knownhosts.Normalize(s.addr)}, rsaOnly)
		cfg.Auth.KnownHostsFile = writeTestFile(t, line+"\n")
		_, err := r.open(cfg).Look(ctx)
		mustBe(t, err, ErrUntrusted)
	})
	t.Run("unknown host", func(t *testing.T) {
		cfg := config()
		cfg.Auth = s.auth(t, "127.0.0.1:1")
		_, err := r.open(cfg).Look(ctx)
		mustBe(t, err, ErrConfig)
		mustSay(t, err, "it has no key for "+s.addr)
	})
	t.Run("key not accepted", func(t *testing.T) {
		cfg := config()
		key, _ := sshKey(t)
		cfg.Auth.SSHKeyFile = writeTestFile(t, key)
		_, err := r.open(cfg).Look(ctx)
		mustBe(t, err, ErrAuth)
		mustSay(t, err, cfg.Auth.SSHKeyFile)
	})
	t.Run("key not readable", func(t *testing.T) {
		_, private, _ := ed25519.GenerateKey(rand.Reader)
		locked, err := ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte("passphrase"))
		if err != nil {
			t.Fatal(err)
		}
		for text, says := range map[string]string{
			"hunter2":                          "not a private key",
			string(pem.EncodeToMemory(locked)): "passphrase",
		} {
			cfg := config()
			cfg.Auth.SSHKeyFile = writeTestFile(t, text)
			_, err := r.open(cfg).Look(ctx)
			mustBe(t, err, ErrConfig)
			mustSay(t, err, says)
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows the key file's content: %v", err)
			}
		}
	})
}
