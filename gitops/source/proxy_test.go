package source

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// proxyServer is a forward proxy that notes what reached it.
type proxyServer struct {
	addr string
	mu   sync.Mutex
	seen []string // "CONNECT host:port" with the credential that came along
}

func (p *proxyServer) note(what, credential string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = append(p.seen, strings.TrimSpace(what+" "+credential))
}

func (p *proxyServer) log() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string{}, p.seen...)
}

func listen(t *testing.T, handle func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer conn.Close(); handle(conn) }()
		}
	}()
	return l.Addr().String()
}

// relay copies both ways until one side ends.
func relay(a, b net.Conn, fromA io.Reader) {
	done := make(chan bool, 2)
	go func() { io.Copy(b, fromA); done <- true }()
	go func() { io.Copy(a, b); done <- true }()
	<-done
	a.Close()
	b.Close()
	<-done
}

// httpProxy makes tunnels, and passes plain requests on, for those who bring
// the credential ("" for everybody).
func httpProxy(t *testing.T, credential string) *proxyServer {
	p := &proxyServer{}
	p.addr = listen(t, func(conn net.Conn) {
		r := bufio.NewReader(conn)
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			got := req.Header.Get("Proxy-Authorization")
			p.note(req.Method+" "+req.Host, got)
			if got != credential {
				io.Copy(io.Discard, req.Body)
				// As some proxies do, it shows what it was given.
				text := "no: " + got
				fmt.Fprintf(conn, "HTTP/1.1 407 Not %s\r\nProxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: %d\r\n\r\n%s", got, len(text), text)
				continue
			}
			if req.Method == http.MethodConnect {
				to, err := net.Dial("tcp", req.Host)
				if err != nil {
					io.WriteString(conn, "HTTP/1.1 502 Bad Gateway\r\n\r\n")
					return
				}
				io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
				relay(conn, to, r)
				return
			}
			req.Header.Del("Proxy-Authorization")
			resp, err := http.DefaultTransport.RoundTrip(req)
			if err != nil {
				return
			}
			resp.Write(conn)
			resp.Body.Close()
		}
	})
	return p
}

// socksProxy speaks SOCKS5 with a user name and a password, or without.
func socksProxy(t *testing.T, credential string) *proxyServer {
	p := &proxyServer{}
	p.addr = listen(t, func(conn net.Conn) {
		r := bufio.NewReader(conn)
		next := func(n int) []byte { b := make([]byte, n); io.ReadFull(r, b); return b }
		methods := next(int(next(2)[1]))
		got := ""
		if strings.ContainsRune(string(methods), 2) && credential != "" {
			conn.Write([]byte{5, 2})
			user := string(next(int(next(2)[1])))
			got = user + ":" + string(next(int(next(1)[0])))
			conn.Write([]byte{1, map[bool]byte{true: 0, false: 1}[got == credential]})
		} else if credential != "" {
			conn.Write([]byte{5, 0xff})
		} else {
			conn.Write([]byte{5, 0})
		}
		p.note("CONNECT", got)
		if got != credential {
			return
		}
		host := ""
		switch next(4)[3] {
		case 1:
			host = net.IP(next(4)).String()
		case 3:
			host = string(next(int(next(1)[0])))
		}
		port := next(2)
		to, err := net.Dial("tcp", net.JoinHostPort(host, fmt.Sprint(int(port[0])<<8+int(port[1]))))
		if err != nil {
			return
		}
		conn.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
		relay(conn, to, r)
	})
	return p
}

// Every byte goes through the proxy, and its credential to nobody else.
func TestProxy(t *testing.T) {
	ctx := context.Background()
	const secret = "hunter2:and-more"
	var mu sync.Mutex
	var origin []string
	s := serve(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			origin = append(origin, r.RemoteAddr+fmt.Sprint(r.Header))
			mu.Unlock()
			next.ServeHTTP(w, r)
		})
	})
	head := s.repo.commit("main", "one", files{"a": "1"})
	s.want.Store(basic("git", "origin-secret"))
	plain := httptest.NewServer(s.Config.Handler)
	t.Cleanup(plain.Close)
	auth := base64.StdEncoding.EncodeToString([]byte("bob:" + secret))

	for name, c := range map[string]struct {
		proxy  *proxyServer
		scheme string
		url    string
		file   string
	}{
		"open":                  {httpProxy(t, ""), "http", s.URL, ""},
		"with a credential":     {httpProxy(t, "Basic "+auth), "http", s.URL, "bob:" + secret + "\n"},
		"of a plain url":        {httpProxy(t, "Basic "+auth), "http", plain.URL, "bob:" + secret},
		"socks5":                {socksProxy(t, ""), "socks5", s.URL, ""},
		"socks5, a credential":  {socksProxy(t, "bob:"+secret), "socks5", s.URL, "bob:" + secret},
		"socks5h, a credential": {socksProxy(t, "bob:"+secret), "socks5h", s.URL, "bob:" + secret},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := s.config(t)
			cfg.URL = c.url + "/secrets.git"
			if !strings.HasPrefix(c.url, "https") {
				cfg.Auth.CAFile = ""
			}
			cfg.Proxy = c.scheme + "://" + c.proxy.addr
			cfg.Auth.UsernameFile, cfg.Auth.PasswordFile = writeTestFile(t, "git"), writeTestFile(t, "origin-secret")
			if c.file != "" {
				cfg.Auth.ProxyCredentialFile = writeTestFile(t, c.file)
			}
			mu.Lock()
			origin = nil
			mu.Unlock()
			m := s.repo.open(cfg)
			if h, err := m.Fetch(ctx); err != nil || h.String() != head {
				t.Fatalf("fetch: %s, %v", h, err)
			}
			mu.Lock()
			defer mu.Unlock()
			if len(c.proxy.log()) == 0 || len(origin) < 2 {
				t.Fatalf("the proxy saw %v, the origin %v", c.proxy.log(), origin)
			}
			for _, text := range origin {
				if strings.Contains(text, auth) || strings.Contains(text, secret) || strings.Contains(text, "Proxy-Authorization") {
					t.Errorf("the origin was sent the proxy's credential: %s", text)
				}
			}
			for _, text := range c.proxy.log() {
				if strings.Contains(text, base64.StdEncoding.EncodeToString([]byte("git:origin-secret"))) {
					t.Errorf("the proxy was sent the origin's credential: %s", text)
				}
			}
			if c.file == "" {
				return
			}
			// A new credential counts at once, and a wrong one is shown to nobody.
			for _, bad := range []string{"bob:wrong-secret", "eve:" + secret} {
				if err := os.WriteFile(cfg.Auth.ProxyCredentialFile, []byte(bad), 0o600); err != nil {
					t.Fatal(err)
				}
				_, err := m.Look(ctx)
				mustBe(t, err, ErrAuth)
				mustSay(t, err, cfg.Auth.ProxyCredentialFile)
				for _, part := range []string{"wrong-secret", secret, base64.StdEncoding.EncodeToString([]byte(bad))} {
					if err != nil && strings.Contains(err.Error(), part) {
						t.Errorf("the error shows %q: %v", part, err)
					}
				}
			}
			for _, bad := range []string{"", "bob", ":x", "a:b\nc"} {
				if err := os.WriteFile(cfg.Auth.ProxyCredentialFile, []byte(bad), 0o600); err != nil {
					t.Fatal(err)
				}
				_, err := m.Look(ctx)
				mustBe(t, err, ErrConfig)
			}
		})
	}
}

func TestProxyFails(t *testing.T) {
	s := serve(t, nil)
	s.repo.commit("main", "one", files{"a": "1"})
	answer := func(text string) string {
		return listen(t, func(conn net.Conn) {
			http.ReadRequest(bufio.NewReader(conn))
			io.WriteString(conn, text)
		})
	}
	open := s.config(t)
	for name, c := range map[string]struct {
		addr, url string
		want      error
		say       string
	}{
		"wants a credential":         {httpProxy(t, "Basic x").addr, "", ErrAuth, "set proxyCredentialFile"},
		"wants one for a plain url":  {httpProxy(t, "Basic x").addr, "http://127.0.0.1:1/secrets.git", ErrAuth, "set proxyCredentialFile"},
		"cannot reach the server":    {httpProxy(t, "").addr, "https://" + closedPort(t) + "/x", ErrUnreachable, "status 502"},
		"forbids the server":         {answer("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"), "", ErrUnreachable, "status 403"},
		"speaks something else":      {answer("SSH-2.0-x\r\n"), "", ErrUnreachable, ""},
		"hangs up":                   {answer(""), "", ErrUnreachable, ""},
		"is down":                    {closedPort(t), "", ErrUnreachable, "refused"},
		"never answers":              {silentPort(t), "", ErrUnreachable, "no answer within"},
		"never answers a plain url":  {silentPort(t), "http://127.0.0.1:1/x", ErrUnreachable, "no answer within"},
		"answers without end":        {answer("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<21)), "", ErrUnreachable, ""},
		"promises a tunnel and dies": {answer("HTTP/1.1 200 OK\r\n\r\n"), "", ErrUnreachable, ""},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := open
			cfg.Proxy, cfg.Timeout = "http://"+c.addr, 300*time.Millisecond
			if c.url != "" {
				cfg.URL, cfg.Auth.CAFile = c.url, ""
			}
			m := s.repo.open(cfg)
			before := runtime.NumGoroutine()
			start := time.Now()
			_, err := m.Look(t.Context())
			mustBe(t, err, c.want)
			mustSay(t, err, c.say)
			if took := time.Since(start); took > 3*time.Second {
				t.Errorf("it took %s", took)
			}
			settled(t, "more goroutines than before", func() bool { return runtime.NumGoroutine() <= before })
		})
	}
}

func TestProxySettings(t *testing.T) {
	r := newRepo(t)
	const web = "https://git.example.com/secrets.git"
	for name, c := range map[string]struct{ url, proxy, file, say string }{
		"over ssh":             {"git@git.example.com:secrets.git", "http://proxy:3128", "", "for https"},
		"of a path":            {r.dir, "http://proxy:3128", "", "for https"},
		"a credential":         {web, "http://bob:hunter2@proxy:3128", "", "proxyCredentialFile"},
		"a lone user":          {web, "http://hunter2@proxy:3128", "", "proxyCredentialFile"},
		"no scheme":            {web, "hunter2.example.com:3128", "", "give http://"},
		"another scheme":       {web, "ssh://hunter2", "", "give http://"},
		"not a url":            {web, "http://bob:hunter2@ho st", "", "give http://"},
		"no host":              {web, "http://:3128", "", "give http://"},
		"a path":               {web, "http://proxy:3128/hunter2", "", "leave the rest out"},
		"a query":              {web, "http://proxy:3128?hunter2", "", "leave the rest out"},
		"only a credential":    {web, "", "file", "needs proxy"},
		"a credential for ssh": {"git@git.example.com:secrets.git", "", "file", "needs proxy"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Config{URL: c.url, Branch: "main", Proxy: c.proxy, Auth: Auth{ProxyCredentialFile: c.file}}
			if strings.HasPrefix(c.url, "git@") {
				cfg.Auth.SSHKeyFile, cfg.Auth.KnownHostsFile = "key", "hosts"
			}
			m, err := Open(t.TempDir(), cfg)
			if err == nil {
				m.Close()
			}
			mustSay(t, err, c.say)
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows the password: %v", err)
			}
		})
	}
}

// The environment is read once in a process, so this runs in one of its own.
func TestProxyOfTheEnvironment(t *testing.T) {
	if url := os.Getenv("SOURCE_TEST_PROXY_URL"); url != "" {
		_, err := newRepo(t).open(Config{URL: url, Branch: "main", Timeout: time.Second}).Look(t.Context())
		fmt.Println("looked:", err)
		return
	}
	proxy := httpProxy(t, "Basic "+base64.StdEncoding.EncodeToString([]byte("bob:right")))
	out := rerun(t, "TestProxyOfTheEnvironment", "SOURCE_TEST_PROXY_URL=https://git.example.com/secrets.git", "HTTPS_PROXY=http://bob:hunter2@"+proxy.addr, "NO_PROXY=")
	if !strings.Contains(out, ErrAuth.Error()) || !strings.Contains(out, "check HTTPS_PROXY") || strings.Contains(out, "hunter2") {
		t.Errorf("it says %s", out)
	}
	if len(proxy.log()) == 0 {
		t.Error("the environment's proxy was not asked")
	}
}
