package serve_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealward/sealward/unseal/serve"
)

// What fails inside is told in the log, and the caller learns no more than that.
func TestInternalFailures(t *testing.T) {
	b := newBench(t)
	b.publish()
	ask := func(method, path, who, body string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		r.Header.Set("Authorization", "Bearer "+b.bearer[who])
		w := httptest.NewRecorder()
		b.http.ServeHTTP(w, r)
		return w
	}
	broken := errors.New("the mirror is broken")
	for _, c := range []struct {
		method, path, who, body string
		fail                    func() error
		code                    int
		log                     string
	}{
		{"POST", "/v1/approvals", "ops", `{"commit":"` + commit + `"}`, func() error { return broken }, 500, "an approval failed"},
		{"GET", "/v1/workspaces/orders/secrets/db?after=" + strings.Repeat("a", 40), "alice", "", func() error { return broken }, 503, "two commits cannot be compared"},
		{"POST", "/v1/approvals", "ops", `{"commit":"` + commit + `"}`, func() error { panic("hunter2") }, 500, "a request handler panicked"},
	} {
		b.log.Reset()
		b.follower.fail = c.fail
		w := ask(c.method, c.path, c.who, c.body)
		if w.Code != c.code || strings.Contains(w.Body.String(), broken.Error()) {
			t.Errorf("%s: %d %s", c.path, w.Code, w.Body)
		}
		if log := b.log.String(); !strings.Contains(log, c.log) || strings.Contains(log+w.Body.String(), "hunter2") {
			t.Errorf("%s: the log says %s", c.path, log)
		}
	}
}

// newCertificate writes a certificate for a name, with its key.
func newCertificate(t testing.TB, certFile, keyFile, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: cert}, keyFile: {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TLS files are loaded again when they change; broken ones do not take the place
// of good ones.
func TestCertificatesReload(t *testing.T) {
	certFile, keyFile := filepath.Join(t.TempDir(), "tls.crt"), filepath.Join(t.TempDir(), "tls.key")
	newCertificate(t, certFile, keyFile, "one.example.com")
	var log strings.Builder
	certs, err := serve.LoadCertificates(certFile, keyFile, logged.To(&log))
	if err != nil {
		t.Fatal(err)
	}
	stamp := time.Now()
	shows := func(name, says string) {
		t.Helper()
		log.Reset()
		stamp = stamp.Add(time.Second) // a file system's clock may be coarse
		if err := os.Chtimes(certFile, stamp, stamp); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			cert, err := certs.Config().GetCertificate(nil)
			if err != nil || cert.Leaf.DNSNames[0] != name {
				t.Errorf("%v, with %v; want %s", err, cert.Leaf.DNSNames, name)
			}
		}
		if strings.Count(log.String(), says) != 1 {
			t.Errorf("the log says %q, not once %q", log.String(), says)
		}
	}
	newCertificate(t, certFile, keyFile, "two.example.com")
	shows("two.example.com", "the TLS files were reloaded")
	if err := os.WriteFile(certFile, []byte("half a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	shows("two.example.com", "the TLS files changed and cannot be used; the old ones stay")
	newCertificate(t, certFile, keyFile, "three.example.com")
	shows("three.example.com", "the TLS files were reloaded")
}
