package serve_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealward/sealward/unseal/audit"
	"github.com/sealward/sealward/unseal/serve"
)

// ca signs client certificates.
type ca struct {
	t    testing.TB
	now  time.Time
	cert *x509.Certificate
	key  crypto.Signer
}

func newCA(b *bench, name string) *ca {
	c := &ca{t: b.t, now: b.now, key: ecKey(b.t)}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: b.now.Add(-time.Hour), NotAfter: b.now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, SubjectKeyId: []byte(name)}
	c.cert = c.sign(template, template, c.key.Public(), c.key)
	return c
}

func (c *ca) sign(template, parent *x509.Certificate, public any, key crypto.Signer) *x509.Certificate {
	c.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		c.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		c.t.Fatal(err)
	}
	return cert
}

func (c *ca) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw}))
}

// client makes a certificate of spiffe://example.org/orders/api and common name api.
func (c *ca) client(change func(*x509.Certificate)) *tls.Certificate {
	c.t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "api"}, NotBefore: c.now.Add(-time.Hour), NotAfter: c.now.Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, URIs: []*url.URL{{Scheme: "spiffe", Host: "example.org", Path: "/orders/api"}}, BasicConstraintsValid: true}
	if change != nil {
		change(template)
	}
	key := ecKey(c.t)
	return &tls.Certificate{Certificate: [][]byte{c.sign(template, c.cert, key.Public(), c.key).Raw}, PrivateKey: key}
}

// over serves the bench's handler over TLS, asking for client certificates.
func (b *bench) over(c *serve.ClientCertificates) *httptest.Server {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { b.http.ServeHTTP(w, r) }))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	c.Ask(server.TLS)
	server.EnableHTTP2 = true
	server.StartTLS()
	b.t.Cleanup(server.Close)
	return server
}

// as is a client with a certificate, or none, that resumes TLS sessions.
func as(server *httptest.Server, cert *tls.Certificate) *http.Client {
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	config := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(4)}
	if cert != nil {
		// Sent whatever the server asks for.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}}
}

func ask(t *testing.T, c *http.Client, server *httptest.Server, bearer string) (who serve.WhoamiJSON, code int) {
	t.Helper()
	r, err := http.NewRequest("GET", server.URL+"/v1/whoami", nil)
	if err != nil {
		t.Fatal(err)
	}
	if bearer != "" {
		r.Header.Set("Authorization", bearer)
	}
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode == 200 {
		if err := json.Unmarshal(body, &who); err != nil {
			t.Fatal(err)
		}
	}
	return who, resp.StatusCode
}

func openCerts(b *bench, cfg serve.ClientCertConfig) *serve.ClientCertificates {
	b.t.Helper()
	c, err := serve.OpenClientCertificates(cfg, logged.To(&b.log))
	if err != nil {
		b.t.Fatal(err)
	}
	return c
}

func TestClientCertificates(t *testing.T) {
	b := newBench(t)
	b.publish()
	ours, theirs := newCA(b, "ours"), newCA(b, "theirs")
	file := filepath.Join(t.TempDir(), "ca.pem")
	write(t, file, ours.pem())
	certs := openCerts(b, serve.ClientCertConfig{CAFile: file, TrustDomain: "example.org"})
	tokens, err := serve.OpenTokens(b.tokens, logged.To(&b.log))
	if err != nil {
		t.Fatal(err)
	}
	b.identify(serve.Identities{Tokens: tokens, Certificates: certs})
	server := b.over(certs)
	api := as(server, ours.client(nil))
	who, code := ask(t, api, server, "")
	if code != 200 || who.Subject != "users:id:spiffe://example.org/orders/api" || who.Method != "tls" || len(who.Roles) != 0 || len(who.Credential) != 64 || !who.Expires.Equal(b.now.Add(time.Hour)) {
		t.Errorf("%d %+v", code, who)
	}
	// A bearer token is what counts where there is one, and a bad one is not made good.
	if who, code := ask(t, api, server, "Bearer "+b.bearer["alice"]); code != 200 || who.Subject != "users:id:alice" || who.Method != "token" {
		t.Errorf("both: %d %+v", code, who)
	}
	for _, bad := range []string{"Bearer wrong", "Bearer ", "Basic YTpi", b.bearer["alice"]} {
		if _, code := ask(t, api, server, bad); code != 401 {
			t.Errorf("a certificate and %q: %d", bad, code)
		}
	}
	// A certificate is asked for, not demanded.
	if _, code := ask(t, as(server, nil), server, "Bearer "+b.bearer["alice"]); code != 200 {
		t.Errorf("without a certificate: %d", code)
	}

	// It ends on a connection that stays, and in a session that is resumed.
	b.now = b.now.Add(time.Hour + time.Second)
	b.newToken("alice", time.Hour)
	if _, code := ask(t, api, server, ""); code != 401 {
		t.Errorf("expired on an open connection: %d", code)
	}
	b.now = b.now.Add(-time.Hour)
	// So does the trust in its CA; a broken file changes nothing, one that is gone trusts nobody.
	expect := func(what string, code int) {
		t.Helper()
		if _, got := ask(t, api, server, ""); got != code {
			t.Errorf("%s: %d, want %d", what, got, code)
		}
	}
	expect("good again", 200)
	write(t, file, theirs.pem())
	expect("another CA, the same connection", 401)
	api.CloseIdleConnections()
	expect("another CA, the session resumed", 401)
	write(t, file, "nothing")
	expect("a broken file", 401)
	write(t, file, theirs.pem()+ours.pem())
	expect("both CAs", 200)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	expect("no file", 401)
}

func TestClientCertificatesThatAreRefused(t *testing.T) {
	b := newBench(t)
	b.publish()
	ours, theirs := newCA(b, "ours"), newCA(b, "ours") // a foreign CA takes any name
	file := filepath.Join(t.TempDir(), "ca.pem")
	write(t, file, ours.pem())
	// An intermediate of ours that may only sign servers.
	narrow := &ca{t: t, now: b.now, key: ecKey(t)}
	narrow.cert = ours.sign(&x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "narrow"}, NotBefore: b.now.Add(-time.Hour), NotAfter: b.now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, SubjectKeyId: []byte("narrow")}, ours.cert, narrow.key.Public(), ours.key)
	uri := func(text string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			u, err := url.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			c.URIs = []*url.URL{u}
		}
	}
	certs := openCerts(b, serve.ClientCertConfig{CAFile: file, TrustDomain: "example.org"})
	b.identify(serve.Identities{Certificates: certs})
	server := b.over(certs)
	refused := func(what string, cert *tls.Certificate, reason string) {
		t.Helper()
		b.audit.mu.Lock()
		b.audit.unauth = nil
		b.audit.mu.Unlock()
		_, code := ask(t, as(server, cert), server, "")
		b.audit.mu.Lock()
		defer b.audit.mu.Unlock()
		if code != 401 || b.audit.unauth[reason] != 1 {
			t.Errorf("%s: %d, audited as %v, want %s", what, code, b.audit.unauth, reason)
		}
	}
	refused("none", nil, audit.NoCredential)
	for what, c := range map[string]struct {
		by     *ca
		change func(*x509.Certificate)
		reason string
	}{
		"a foreign CA of the same name": {theirs, nil, audit.BadSignature},
		"a server's certificate":        {ours, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, audit.BadSignature},
		"for no use in particular":      {ours, func(c *x509.Certificate) { c.ExtKeyUsage = nil }, audit.BadSignature},
		"for any use":                   {ours, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }, audit.BadSignature},
		"a CA":                          {ours, func(c *x509.Certificate) { c.IsCA = true }, audit.BadSignature},
		"expired":                       {ours, func(c *x509.Certificate) { c.NotAfter = b.now.Add(-time.Second) }, audit.Expired},
		"not yet":                       {ours, func(c *x509.Certificate) { c.NotBefore = b.now.Add(time.Minute) }, audit.NotYetValid},
		"no URI":                        {ours, func(c *x509.Certificate) { c.URIs = nil }, audit.BadIdentity},
		"two URIs":                      {ours, func(c *x509.Certificate) { c.URIs = append(c.URIs, &url.URL{Scheme: "https", Host: "x"}) }, audit.BadIdentity},
		"another trust domain":          {ours, uri("spiffe://example.com/orders/api"), audit.BadIdentity},
		"a longer trust domain":         {ours, uri("spiffe://example.org.evil.example/orders/api"), audit.BadIdentity},
		"a port":                        {ours, uri("spiffe://example.org:1/orders/api"), audit.BadIdentity},
		"a user":                        {ours, uri("spiffe://x@example.org/orders/api"), audit.BadIdentity},
		"a query":                       {ours, uri("spiffe://example.org/orders/api?x"), audit.BadIdentity},
		"a fragment":                    {ours, uri("spiffe://example.org/orders/api#x"), audit.BadIdentity},
		"no path":                       {ours, uri("spiffe://example.org"), audit.BadIdentity},
		"a slash at the end":            {ours, uri("spiffe://example.org/orders/api/"), audit.BadIdentity},
		"a folder up":                   {ours, uri("spiffe://example.org/x/../orders/api"), audit.BadIdentity},
		"an escaped slash":              {ours, uri("spiffe://example.org/orders%2fapi"), audit.BadIdentity},
		"an escaped letter":             {ours, uri("spiffe://example.org/orders/%61pi"), audit.BadIdentity},
		"a pattern":                     {ours, uri("spiffe://example.org/orders/*"), audit.BadIdentity},
		"another scheme":                {ours, uri("https://example.org/orders/api"), audit.BadIdentity},
	} {
		refused(what, c.by.client(c.change), c.reason)
	}
	viaNarrow := narrow.client(nil)
	viaNarrow.Certificate = append(viaNarrow.Certificate, narrow.cert.Raw)
	refused("of an intermediate for servers", viaNarrow, audit.BadSignature)
	long := ours.client(nil)
	for range 8 {
		long.Certificate = append(long.Certificate, ours.cert.Raw)
	}
	refused("a long chain", long, audit.Malformed)

	// The same by the subject's common name.
	certs = openCerts(b, serve.ClientCertConfig{CAFile: file, CommonName: true, Prefix: "cn/"})
	b.identify(serve.Identities{Certificates: certs})
	if who, code := ask(t, as(server, ours.client(nil)), server, ""); code != 200 || who.Subject != "users:id:cn/api" {
		t.Errorf("%d %+v", code, who)
	}
	name := func(names ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.Subject = pkix.Name{}
			for _, n := range names {
				c.Subject.ExtraNames = append(c.Subject.ExtraNames, pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: n})
			}
		}
	}
	for what, change := range map[string]func(*x509.Certificate){"none": name(), "empty": name(""), "two": name("eve", "api"), "a pattern": name("*"), "a look-alike": name("аpi"), "lines": name("api\nx"), "long": name(strings.Repeat("a", 300))} {
		refused("common name: "+what, ours.client(change), audit.BadIdentity)
	}

	// Whoever does not hold the key is cut off by the handshake.
	stolen := ours.client(nil)
	stolen.PrivateKey = newCA(b, "x").key.(*ecdsa.PrivateKey)
	if resp, err := as(server, stolen).Get(server.URL + "/v1/whoami"); err == nil {
		resp.Body.Close()
		t.Errorf("a certificate without its key: %d", resp.StatusCode)
	}
	for _, cfg := range []serve.ClientCertConfig{{}, {TrustDomain: "Example.org"}, {TrustDomain: "example.org/x"}, {TrustDomain: "example.org", CommonName: true}, {TrustDomain: "example.org", Prefix: "x"}, {CommonName: true, Prefix: "*"}} {
		if cfg.Check() == nil {
			t.Errorf("accepted: %+v", cfg)
		}
	}
}
