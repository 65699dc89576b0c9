package source

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
)

// newHTTP opens a session over HTTPS. Redirects are followed on the first
// request only, and no credential follows to another origin; both are
// go-git's doing.
func newHTTP(c *call) (session, error) {
	r := c.m.remote
	rt, err := c.m.transport(c.cred)
	if err != nil {
		return nil, err
	}
	ep := &transport.Endpoint{Protocol: r.scheme, Host: r.host, Path: r.path}
	if strings.Contains(r.host, ":") {
		ep.Host = "[" + r.host + "]"
	}
	if r.port != "" {
		if ep.Port, err = strconv.Atoi(r.port); err != nil {
			return nil, fmt.Errorf("url: %w: bad port", ErrConfig)
		}
	}
	var auth transport.AuthMethod
	switch {
	case c.cred.token != "":
		auth = &githttp.TokenAuth{Token: c.cred.token}
	case c.cred.user != "":
		auth = &githttp.BasicAuth{Username: c.cred.user, Password: c.cred.password}
	}
	client := githttp.NewClient(&http.Client{Transport: boundedHTTP{rt, c.m}})
	return client.NewUploadPackSession(ep, auth)
}

// transport keeps connections open between looks. go-git's own CA bundle
// option would clone a transport for each session and leave its connections
// behind.
func (m *Mirror) transport(cred credential) (*http.Transport, error) {
	ca := cred.ca
	madeFor := sha256.Sum256(fmt.Appendf(nil, "%q %q %q", ca, cred.proxyUser, cred.proxyPassword))
	m.httpMu.Lock()
	defer m.httpMu.Unlock()
	if m.http != nil && m.httpFor == madeFor {
		return m.http, nil
	}
	rt := &http.Transport{
		Proxy:                  m.proxyFor(cred),
		OnProxyConnectResponse: m.proxyAnswered,
		ForceAttemptHTTP2:      true,
		IdleConnTimeout:        90 * time.Second,
		// net/http goes on dialling after a request was given up.
		DialContext:         m.dial,
		TLSHandshakeTimeout: m.cfg.Timeout,
	}
	if len(ca) > 0 {
		roots, err := x509.SystemCertPool()
		if err != nil {
			roots = x509.NewCertPool()
		}
		if !roots.AppendCertsFromPEM(ca) {
			return nil, fmt.Errorf("caFile %s: %w: it holds no PEM certificate", m.cfg.Auth.CAFile, ErrConfig)
		}
		rt.TLSClientConfig = &tls.Config{RootCAs: roots}
	}
	if m.http != nil {
		m.http.CloseIdleConnections()
	}
	m.http, m.httpFor = rt, madeFor
	return rt, nil
}

func (m *Mirror) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: m.cfg.Timeout}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	// net/http waits a minute for a proxy to make a tunnel, whatever became of
	// the request. Twice, so that the request is given up first and says why.
	if err := conn.SetReadDeadline(time.Now().Add(2 * m.cfg.Timeout)); err != nil {
		conn.Close()
		return nil, err
	}
	return &promptConn{Conn: conn}, nil
}

// promptConn has a deadline until its first byte arrives.
type promptConn struct {
	net.Conn
	heard atomic.Bool
}

func (c *promptConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 && c.heard.CompareAndSwap(false, true) {
		_ = c.Conn.SetReadDeadline(time.Time{})
	}
	return n, err
}

// boundedHTTP bounds what go-git reads to the end: a list of refs, and the
// body of an error, which it copies into memory and into the error's text.
type boundedHTTP struct {
	next http.RoundTripper
	m    *Mirror
}

const maxErrorBody = 4 << 10

func (b boundedHTTP) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := b.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	switch {
	case resp.StatusCode == http.StatusProxyAuthRequired && req.URL.Scheme == "http": // there is no tunnel
		resp.Body.Close()
		return nil, b.m.proxyRefused(b.m.proxy)
	case resp.StatusCode >= http.StatusMultipleChoices:
		resp.Body = httpBody{Reader: io.LimitReader(resp.Body, maxErrorBody), close: resp.Body.Close}
	case req.Method == http.MethodGet:
		if kind := resp.Header.Get("Content-Type"); kind != "application/x-git-upload-pack-advertisement" {
			resp.Body.Close()
			return nil, fmt.Errorf("%w: the server answers with %q, which is not Git's protocol; check the url", ErrNotRepository, plain(kind))
		}
		resp.Body = httpBody{Reader: &bounded{r: resp.Body, left: maxAdvertised}, close: resp.Body.Close}
	}
	return resp, nil // receive bounds a pack
}

type httpBody struct {
	io.Reader
	close func() error
}

// Close reads the little that follows the last packet line, so that the
// connection can serve the next look.
func (b httpBody) Close() error {
	_, _ = io.CopyN(io.Discard, b.Reader, maxErrorBody)
	return b.close()
}
