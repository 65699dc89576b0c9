package serve

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"time"
)

const (
	maxCAFile = 1 << 20
	maxAnswer = 1 << 20 // of an issuer or an API server
)

// httpClient asks issuers and API servers: no redirects, bounded in time and size, with the roots of a CA file that may change.
type httpClient struct {
	file   *reloaded[*asker] // nil for the system's roots
	system *asker
}

func newHTTPClient(caFile string, log *slog.Logger) (*httpClient, error) {
	if caFile == "" {
		return &httpClient{system: newAsker(nil)}, nil
	}
	file, err := reload(caFile, maxCAFile, log, func(pem []byte) (*asker, error) {
		roots, err := certPool(pem)
		if err != nil {
			return nil, err
		}
		return newAsker(roots), nil
	})
	return &httpClient{file: file}, err
}

func (c *httpClient) get() (*asker, error) {
	if c.file == nil {
		return c.system, nil
	}
	a, ok := c.file.get()
	if !ok {
		return nil, errors.New("its CA file is gone")
	}
	return a, nil
}

// certPool reads the certificates of a PEM file.
func certPool(pem []byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("holds no certificate (PEM)")
	}
	return pool, nil
}

// asker is one *http.Client with fixed roots.
type asker struct{ http.Client }

func newAsker(roots *x509.CertPool) *asker {
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}, Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true,
		MaxIdleConnsPerHost: maxReviews, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 64 << 10,
	}
	return &asker{http.Client{
		Timeout: fetchTimeout, Transport: bounded{transport},
		// A redirect could carry a token elsewhere, or ask somebody else for keys.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// bounded cuts what is read of an answer, also by a library that reads all.
type bounded struct{ next http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.next.RoundTrip(r)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxAnswer), resp.Body}
	}
	return resp, err
}

// do sends a request and returns the whole answer. Errors do not repeat the address:
// what they stand in says whom was asked.
func (a *asker) do(ctx context.Context, method, address string, header http.Header, send []byte) (body []byte, status int, err error) {
	req, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(send))
	if err != nil {
		return nil, 0, errors.New("its address is not one")
	}
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := a.Do(req)
	if err != nil {
		var network *url.Error
		if errors.As(err, &network) {
			err = network.Err
		}
		return nil, 0, err
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(resp.Body); err != nil {
		return nil, 0, errors.New("its answer was cut")
	}
	return body, resp.StatusCode, nil
}
