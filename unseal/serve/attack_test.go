package serve_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal/access"
	"github.com/sealward/sealward/unseal/audit"
	"github.com/sealward/sealward/unseal/serve"
)

// listening is the bench's handler behind TLS, as an agent serves it.
type listening struct {
	*bench
	address string
	roots   *x509.CertPool
}

func (b *bench) listen() *listening {
	b.t.Helper()
	dir := b.t.TempDir()
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	newCertificate(b.t, certFile, keyFile, "localhost")
	certs, err := serve.LoadCertificates(certFile, keyFile, logged.To(io.Discard))
	if err != nil {
		b.t.Fatal(err)
	}
	text, err := os.ReadFile(certFile)
	if err != nil {
		b.t.Fatal(err)
	}
	l := &listening{bench: b, roots: x509.NewCertPool()}
	l.roots.AppendCertsFromPEM(text)
	listener, err := serve.Listen("127.0.0.1:0", true)
	if err != nil {
		b.t.Fatal(err)
	}
	l.address = listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- serve.Serve(ctx, listener, certs.Config(), b.http) }()
	b.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			b.t.Error(err)
		}
	})
	return l
}

func (l *listening) dial() *tls.Conn {
	l.t.Helper()
	conn, err := tls.Dial("tcp", l.address, &tls.Config{RootCAs: l.roots, ServerName: "localhost"})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { conn.Close() })
	return conn
}

// raw sends a request as it is, which no client library would do, and gives the answer.
func (l *listening) raw(request string) (code int, body string) {
	l.t.Helper()
	conn := l.dial()
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, request); err != nil {
		return 0, ""
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, ""
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text)
}

// A path reaches what it names, spelled so that everybody reads it alike, or nothing.
func TestPathTricks(t *testing.T) {
	l := func() *listening { b := newBench(t); b.publish(); return b.listen() }()
	get := func(path, who string) (int, string) {
		return l.raw("GET " + path + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer " + l.bearer[who] + "\r\n\r\n")
	}
	if code, body := get(base+"/db/keys/password", "alice"); code != 200 || body != "hunter2<>&" {
		t.Fatalf("the path itself: %d %s", code, body)
	}
	for _, path := range []string{
		base + "/db/../other/keys/password", base + "/db/%2e%2e/other/keys/password", base + "/%2e%2e/secrets/other/keys/password",
		base + "/db%2f..%2fother/keys/password", base + "/db%252f..%252fother/keys/password", base + "/db/keys/..%2f..%2fother%2fkeys%2fpassword",
		base + "/db/keys/../../other/keys/password", "//v1/workspaces/orders/secrets/other/keys/password", "/v1/workspaces/orders//secrets/other/keys/password",
		base + "/OTHER/keys/password", "/V1/workspaces/orders/secrets/other/keys/password", "/v1/workspaces/ORDERS/secrets/other/keys/password",
		base + "/оther/keys/password", base + "/%D0%BEther/keys/password", base + "/ｏther/keys/password", base + "/other%00/keys/password",
		base + "/other./keys/password", base + "/other%20/keys/password", base + "/other;x=1/keys/password", base + "/other%3b/keys/password",
		base + "/*/keys/password", base + "/othe?/keys/password", base + "/o%74her/keys/password", base + "/db,other/keys/password",
		"/v1/instance/secrets/../../workspaces/orders/secrets/other/keys/password", "/v1/instance/secrets/other/keys/password",
		"/v1/workspaces/instance/secrets/other/keys/password", "/v1/workspaces/./orders/secrets/other/keys/password", "/v1/workspaces/orders%2fsecrets%2fother/keys/password",
		"https://localhost" + base + "/other/keys/password", base + "/db/keys/password/../../../other/keys/password",
	} {
		for _, who := range []string{"alice", "eve"} {
			if code, body := get(path, who); code == 200 || strings.Contains(body, "hunter") {
				t.Errorf("%s, %s: %d %s", who, path, code, body)
			}
		}
	}
	for _, rec := range l.audit.take() {
		if rec.Decision == audit.Allow && (rec.Name != "db" || rec.Subject != "users:id:alice") {
			t.Errorf("recorded as allowed: %+v", rec)
		}
	}
}

// An identity comes from a credential, never from a header that anybody can write.
func TestHeadersAreNoIdentity(t *testing.T) {
	l := func() *listening { b := newBench(t); b.publish(); return b.listen() }()
	alice, eve := l.bearer["alice"], l.bearer["eve"]
	for name, headers := range map[string]string{
		"names of proxies":    "X-Forwarded-User: users:id:alice\r\nX-Remote-User: alice\r\nImpersonate-User: users:id:alice\r\nX-Forwarded-For: 127.0.0.1\r\nAuthorization: Bearer " + eve,
		"two credentials":     "Authorization: Bearer " + eve + "\r\nAuthorization: Bearer " + alice,
		"a list":              "Authorization: Bearer " + eve + ", Bearer " + alice,
		"a folded line":       "Authorization: Bearer " + eve + "\r\n Bearer " + alice,
		"a basic one":         "Authorization: Basic " + alice,
		"another name":        "X-Authorization: Bearer " + alice,
		"a cookie":            "Cookie: token=" + alice + "; Authorization=Bearer " + alice,
		"a trailing space":    "Authorization: Bearer " + alice + "x",
		"in capitals":         "Authorization: BEARER " + alice[:len(alice)-1],
		"another method":      "X-HTTP-Method-Override: GET\r\nAuthorization: Bearer " + eve,
		"a line in the token": "Authorization: Bearer " + eve + "%0d%0aX-User: alice",
	} {
		if code, body := l.raw("GET " + base + "/db/keys/password HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + headers + "\r\n\r\n"); code == 200 || strings.Contains(body, "hunter") {
			t.Errorf("%s: %d %s", name, code, body)
		}
	}
	if code, body := l.raw("GET " + base + "/db/keys/password?access_token=" + alice + "&token=" + alice + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); code != 401 {
		t.Errorf("a token in the address: %d %s", code, body)
	}
	if log := l.log.String(); strings.Contains(log, alice) || strings.Contains(log, eve) {
		t.Errorf("the log holds a token:\n%s", log)
	}
}

// What is too large or comes too slowly is ended; meanwhile others are served.
func TestLargeAndSlowRequests(t *testing.T) {
	t.Parallel()
	l := func() *listening { b := newBench(t); b.publish(); return b.listen() }()
	head := " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer " + l.bearer["ops"] + "\r\n"
	for name, request := range map[string]string{
		"a long address": "GET /v1/" + strings.Repeat("a", 1<<20) + head + "\r\n",
		"a large header": "GET /v1/status" + head + "X-Large: " + strings.Repeat("a", 1<<20) + "\r\n\r\n",
		"many headers":   "GET /v1/status" + head + strings.Repeat("X-Many: 1\r\n", 1<<16) + "\r\n",
		"a large body":   "POST /v1/approvals" + head + "Content-Length: 1048576\r\n\r\n" + `{"commit":"` + strings.Repeat("a", 1<<20-13) + `"}`,
		"a body bomb":    "POST /v1/approvals" + head + "Content-Length: 65000\r\n\r\n" + strings.Repeat("[", 65_000),
		"chunks for ever": "POST /v1/approvals" + head + "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("1000\r\n"+strings.Repeat("a", 0x1000)+"\r\n", 64) +
			"0\r\n\r\n",
		"two lengths": "POST /v1/approvals" + head + "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /v1/status" + head + "\r\n",
	} {
		// 0: ended before it was all sent.
		if code, body := l.raw(request); code != 0 && code < 400 || strings.Contains(body, "hunter") {
			t.Errorf("%s: %d %.200s", name, code, body)
		}
	}

	// Slow ones: nothing, half a line, headers one by one. They are ended after the
	// 5 seconds that the headers of a request may take.
	var slow []net.Conn
	for range 20 {
		for _, said := range []string{"", "GET /v1/sta", "GET /v1/status HTTP/1.1\r\n"} {
			conn := l.dial()
			if _, err := io.WriteString(conn, said); err != nil {
				t.Fatal(err)
			}
			slow = append(slow, conn)
		}
		conn, err := net.Dial("tcp", l.address) // no TLS at all
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		slow = append(slow, conn)
	}
	began := time.Now()
	for time.Since(began) < time.Second {
		if code, _ := l.raw("GET " + base + "/db/keys/password HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer " + l.bearer["alice"] + "\r\n\r\n"); code != 200 {
			t.Fatalf("a read meanwhile: %d", code)
		}
		for _, conn := range slow { // one more byte, so that they are not idle
			_, _ = io.WriteString(conn, "X")
		}
	}
	for i, conn := range slow {
		_ = conn.SetReadDeadline(began.Add(20 * time.Second))
		if _, err := io.Copy(io.Discard, conn); err != nil {
			if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
				t.Fatalf("the slow connection %d is still open", i)
			}
		}
	}
}

// Very many connections that say nothing do not stop others.
func TestIdleConnections(t *testing.T) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	l := func() *listening { b := newBench(t); b.publish(); return b.listen() }()
	n := min(10_000, int(min(limit.Cur, 1<<20))/2-200)
	var idle []net.Conn
	defer func() {
		for _, conn := range idle {
			conn.Close()
		}
	}()
	for range n {
		conn, err := net.Dial("tcp", l.address)
		if err != nil {
			t.Fatalf("after %d connections: %v", len(idle), err)
		}
		idle = append(idle, conn)
	}
	for range 50 {
		if code, _ := l.raw("GET " + base + "/db/keys/password HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer " + l.bearer["alice"] + "\r\n\r\n"); code != 200 {
			t.Fatalf("a read beside %d idle connections: %d", n, code)
		}
	}
}

// Guessing is held back by address, in IPv6 by network, and holds back nobody else.
func TestGuessing(t *testing.T) {
	b := newBench(t)
	b.publish()
	guess := func(remote, token string) int {
		r := httptest.NewRequest("GET", base+"/db/keys/password", nil)
		r.RemoteAddr = remote
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		b.http.ServeHTTP(w, r)
		return w.Code
	}
	count := func(from func(i int) string) (refused int) {
		for i := range 1000 {
			if guess(from(i), fmt.Sprintf("swt1_%016x_%043d", i, i)) == http.StatusTooManyRequests {
				refused++
			}
		}
		return refused
	}
	if n := count(func(int) string { return "192.0.2.1:99" }); n < 900 {
		t.Errorf("of 1,000 guesses from one address %d were held back", n)
	}
	if n := count(func(i int) string { return fmt.Sprintf("[2001:db8:1:2::%x]:99", i) }); n < 900 {
		t.Errorf("of 1,000 guesses from one network %d were held back", n)
	}
	// From many networks each is slow; all of them together keep nobody out.
	count(func(i int) string { return fmt.Sprintf("198.51.%d.%d:99", i/256, i%256) })
	for _, remote := range []string{"192.0.2.1:99", "[2001:db8:1:2::1]:99", "203.0.113.7:1"} {
		if code := guess(remote, b.bearer["alice"]); code != 200 {
			t.Errorf("a valid token from %s: %d", remote, code)
		}
	}
	if guesses := b.audit.unauth[audit.UnknownToken]; guesses == 0 || len(b.audit.records) != 3 {
		t.Errorf("%d guesses counted, %d records", guesses, len(b.audit.records))
	}
}

// Once a commit that takes a right away is published, no read that begins gets a value.
func TestRevocationUnderReads(t *testing.T) {
	b := newBench(t)
	b.publish()
	ws := mustParse(t, manifest.ParseWorkspace, "orders")
	granted := b.live.Current("")
	revoked := *granted
	revoked.Commit = strings.Repeat("c", 40)
	revoked.Policy = access.New(map[manifest.Workspace]*access.Scope{ws: access.CompileScope(ws, nil)})
	none := revoked.WithScopes(granted.Scopes())

	b.http = b.unlimited()
	var revocations, served, after atomic.Int64 // odd: the right is taken away
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 8 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				began := revocations.Load()
				code := b.get(base+"/db", "alice").Code
				switch {
				case code != http.StatusOK:
				case began%2 == 1 && revocations.Load() == began:
					after.Add(1)
				default:
					served.Add(1)
				}
			}
		})
	}
	for range 50 {
		for before := served.Load(); served.Load() == before; {
			time.Sleep(time.Millisecond)
		}
		b.live.Publish(none)
		revocations.Add(1)
		time.Sleep(2 * time.Millisecond)
		revocations.Add(1)
		b.live.Publish(granted)
	}
	close(stop)
	readers.Wait()
	if n := after.Load(); n > 0 {
		t.Errorf("%d reads began after the revoking commit and got a value", n)
	}
}

// A line break, a terminal's escape or a quote in what a caller sends stays within one
// record and one line.
func TestLogInjection(t *testing.T) {
	b := newBench(t)
	b.publish()
	file := filepath.Join(t.TempDir(), "audit.jsonl")
	log, err := audit.Open(file, audit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := serve.OpenTokens(b.tokens, logged.To(&b.log))
	if err != nil {
		t.Fatal(err)
	}
	b.http = serve.New(serve.Config{Live: b.live, Audit: log, Tokens: tokens, Now: time.Now, Log: logged.To(&b.log)})
	for _, who := range []string{"alice", "lister", "eve", "ops"} {
		b.now = time.Now()
		b.newToken(who, time.Hour)
	}
	const forged = `{"seq":1,"event":"read","decision":"allow"}`
	calls := 0
	for _, evil := range []string{"%0a" + forged, "%0d%0a%0d%0a", "%1b%5b2J", "%22,%22decision%22:%22allow", "%e2%80%ae", "%ff%fe", "%00"} {
		for _, path := range []string{base + "/db" + evil, base + "/db/keys/k" + evil, "/v1/workspaces/orders" + evil + "/secrets/db"} {
			if code := b.get(path, "alice").Code; code != 403 {
				t.Errorf("%s: %d", path, code)
			}
			calls++
		}
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	sum, err := audit.Verify(bytes.NewReader(text), audit.VerifyOptions{})
	if err != nil || sum.Seq != uint64(calls) || bytes.Contains(text, []byte(`"allow"`)) || bytes.ContainsAny(text, "\x1b\r\x00") {
		t.Errorf("%d calls made %d records (%v):\n%s", calls, sum.Seq, err, text)
	}
	if lines := strings.Count(b.log.String(), "\n"); strings.Contains(b.log.String(), forged) || lines > calls {
		t.Errorf("the log:\n%s", b.log.String())
	}
}

// BenchmarkDenied measures whether time tells a secret that is denied from one that is
// not there: both are decided, recorded and answered alike, and nothing is looked up.
func BenchmarkDenied(b *testing.B) {
	bench := newBench(b)
	bench.publish()
	h := bench.unlimited()
	for _, c := range []struct{ name, path string }{{"there", base + "/other"}, {"absent", base + "/othex"}} {
		b.Run(c.name, func(b *testing.B) {
			r := httptest.NewRequest("GET", c.path, nil)
			r.Header.Set("Authorization", "Bearer "+bench.bearer["alice"])
			for b.Loop() {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				if w.Code != http.StatusForbidden {
					b.Fatal(w.Code)
				}
			}
		})
	}
}

// unlimited is a handler that takes any number of calls and keeps no record.
func (b *bench) unlimited() http.Handler {
	b.t.Helper()
	tokens, err := serve.OpenTokens(b.tokens, logged.To(io.Discard))
	if err != nil {
		b.t.Fatal(err)
	}
	now := b.now
	return serve.New(serve.Config{Live: b.live, Audit: forget{}, Tokens: tokens, Now: func() time.Time { return now }, Log: logged.To(io.Discard),
		Limits: serve.Limits{PerIdentity: 1e9, PerAddress: 1e9, Denials: 1e9}})
}

// forget is an auditor that keeps nothing.
type forget struct{}

func (forget) Append(_ context.Context, r audit.Record) (audit.Record, error) { return r, nil }
func (forget) Unauthenticated(string)                                         {}
func (forget) Head() (uint64, string)                                         { return 0, "" }
