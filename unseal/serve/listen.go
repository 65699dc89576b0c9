package serve

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"
)

// Listen opens the address to serve on. Without TLS only loopback is allowed:
// tokens and values must not cross a network in the clear.
func Listen(address string, withTLS bool) (net.Listener, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("listen address %q: is not HOST:PORT", address)
	}
	if ip := net.ParseIP(host); !withTLS && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("listen address %q: plain HTTP is for loopback only (127.0.0.1, ::1, localhost); set serve.tls.certFile and keyFile", address)
	}
	l, err := net.Listen("tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("listen address %q: another program uses this port; stop it or set serve.listen", address)
	case err != nil:
		return nil, fmt.Errorf("listen address %q: %w", address, err)
	}
	return l, nil
}

// Certificates loads a certificate and its key, and again when a file changes.
type Certificates struct {
	certFile, keyFile string
	log               *slog.Logger

	mu   sync.Mutex
	cert *tls.Certificate
	mods [2]time.Time
}

// LoadCertificates reads both files (PEM).
func LoadCertificates(certFile, keyFile string, log *slog.Logger) (*Certificates, error) {
	c := &Certificates{certFile: certFile, keyFile: keyFile, log: log}
	if err := c.load(c.stat()); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Certificates) stat() (mods [2]time.Time) {
	for i, f := range []string{c.certFile, c.keyFile} {
		if info, err := os.Stat(f); err == nil {
			mods[i] = info.ModTime()
		}
	}
	return mods
}

func (c *Certificates) load(mods [2]time.Time) error {
	cert, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	c.mods = mods
	if err != nil {
		// crypto/tls names the file or the mismatch, never the key.
		return fmt.Errorf("TLS certificate %s with key %s: %w", c.certFile, c.keyFile, err)
	}
	c.cert = &cert
	return nil
}

// Config is a TLS configuration that always uses the files' newest content.
func (c *Certificates) Config() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if mods := c.stat(); mods != c.mods {
			if err := c.load(mods); err != nil {
				c.log.Error("the TLS files changed and cannot be used; the old ones stay", "error", err)
			} else {
				c.log.Info("the TLS files were reloaded")
			}
		}
		return c.cert, nil
	}}
}

// drain is how long requests under way may take after the end was asked for.
const drain = 10 * time.Second

// Serve answers on l until ctx ends, then lets requests under way finish.
func Serve(ctx context.Context, l net.Listener, tlsConfig *tls.Config, h http.Handler) error {
	srv := &http.Server{
		Handler: h, TLSConfig: tlsConfig,
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 15 * time.Second, WriteTimeout: 60 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 16 << 10,
		// net/http logs failed handshakes and panics with their text; both are
		// noise here, and the second could hold a value.
		ErrorLog: log.New(io.Discard, "", 0),
	}
	done := make(chan error, 1)
	go func() {
		if tlsConfig != nil {
			done <- srv.ServeTLS(l, "", "")
		} else {
			done <- srv.Serve(l)
		}
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	err := srv.Shutdown(stop)
	if errors.Is(err, context.DeadlineExceeded) {
		err = srv.Close()
	}
	if serveErr := <-done; !errors.Is(serveErr, http.ErrServerClosed) {
		return errors.Join(serveErr, err)
	}
	return err
}
