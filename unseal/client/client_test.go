package client_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal/client"
	"github.com/sealward/sealward/unseal/serve"
)

// certificate writes a self-signed one for loopback, and its key.
func certificate(t *testing.T, dir string, serial int64) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "sealward test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		stamp := time.Now().Add(time.Duration(serial) * time.Second)
		if err := os.Chtimes(file, stamp, stamp); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// The server's files are replaced under it: new connections get the new
// certificate, files that do not fit together change nothing.
func TestTLSFilesAreReloaded(t *testing.T) {
	dir := t.TempDir()
	cert, key := certificate(t, dir, 1)
	certs, err := serve.LoadCertificates(cert, key, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l, err := serve.Listen("127.0.0.1:0", true)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- serve.Serve(ctx, l, certs.Config(), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte(`{"version":"` + r.Header.Get("Authorization") + `"}`))
		}))
	}()
	ask := func(ca string) error {
		c, err := client.New(client.Config{Server: "https://" + l.Addr().String(), Token: "t", CAFile: ca})
		if err != nil {
			return err
		}
		status, err := c.Status(context.Background())
		if err == nil && status.Version != "Bearer t" {
			err = errors.New("the token did not arrive: " + status.Version)
		}
		return err
	}
	first := filepath.Join(dir, "first.pem")
	text, _ := os.ReadFile(cert)
	if err := os.WriteFile(first, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ask(first); err != nil {
		t.Fatal(err)
	}
	if err := ask(""); err == nil || !strings.Contains(err.Error(), "--ca-file") {
		t.Errorf("an unknown authority: %v", err)
	}
	certificate(t, dir, 2)
	if err := ask(cert); err != nil {
		t.Errorf("after the change: %v", err)
	}
	if err := ask(first); err == nil {
		t.Error("the old certificate is still used")
	}
	second, _ := os.ReadFile(cert)
	if err := os.WriteFile(key, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	secondFile := filepath.Join(dir, "second.pem")
	if err := os.WriteFile(secondFile, second, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ask(secondFile); err != nil {
		t.Errorf("a broken key must change nothing: %v", err)
	}
	stop()
	if err := <-done; err != nil {
		t.Errorf("graceful stop: %v", err)
	}
}

func TestWhereATokenIsSent(t *testing.T) {
	for _, server := range []string{"http://192.0.2.1:8420", "http://example.com", "ftp://127.0.0.1", "127.0.0.1:8420", "https://user:pw@host", "https://host/path", "", "https://"} {
		if _, err := client.New(client.Config{Server: server, Token: "t"}); err == nil {
			t.Errorf("%q was accepted", server)
		}
	}
	// A redirect is not followed: it would carry the token elsewhere.
	stolen := false
	thief := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { stolen = r.Header.Get("Authorization") != "" }))
	defer thief.Close()
	agent := httptest.NewServer(http.RedirectHandler(thief.URL, http.StatusFound))
	defer agent.Close()
	c, err := client.New(client.Config{Server: agent.URL, Token: "t"})
	if err != nil {
		t.Fatal(err)
	}
	ws, _ := manifest.ParseWorkspace("orders")
	name, _ := manifest.ParseName("db")
	if _, err := c.Secret(context.Background(), ws, name); err == nil || stolen {
		t.Errorf("redirect: %v, stolen %v", err, stolen)
	}
}

// A client certificate is shown when the server asks for one, and read again.
func TestClientCertificate(t *testing.T) {
	dir := t.TempDir()
	cert, key := certificate(t, dir, 2)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(`{"version":"` + r.TLS.PeerCertificates[0].SerialNumber.String() + r.Header.Get("Authorization") + `"}`))
	}))
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.StartTLS()
	defer server.Close()
	serverCert := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(serverCert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := client.New(client.Config{Server: server.URL, CAFile: serverCert, CertFile: cert, KeyFile: key})
	if err != nil {
		t.Fatal(err)
	}
	for _, serial := range []string{"2", "3"} {
		status, err := c.Status(t.Context())
		if err != nil || status.Version != serial {
			t.Errorf("certificate %s: %q, %v", serial, status.Version, err)
		}
		certificate(t, dir, 3)
		server.CloseClientConnections()
	}
	if c, err := client.New(client.Config{Server: server.URL, CAFile: serverCert, Token: "t"}); err != nil {
		t.Fatal(err)
	} else if _, err := c.Status(t.Context()); err == nil {
		t.Error("the server took no certificate for one")
	}
}
