// Package client reads secrets from an agent.
//
// Most callers need [New] and then [Client.Secret] or [Client.Key], which ask the agent
// each time; [Client.Batch] reads several secrets from one commit. A program that runs
// on follows its secrets with [Client.Watch], or has a [Cache] do it. Package clienttest
// has an agent for tests. Nothing here writes a value anywhere.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal/serve"
)

// maxAnswer bounds what an agent can make a client keep: a manifest of 2 MiB,
// base64 in JSON.
const maxAnswer = 16 << 20

// What an agent answers besides a value.
var (
	// ErrDenied: no grant allows it, or there is no such secret.
	ErrDenied = errors.New("denied")
	// ErrNotFound: the caller may read it, but it is not there.
	ErrNotFound = errors.New("not found")
	// ErrBehind: the agent has not applied the commit that was asked for, or its
	// branch was moved by force.
	ErrBehind = errors.New("not at that commit")
	// ErrRefused: the agent refuses all reads of a workspace, because its grants are
	// broken or two repositories claim it. It says nothing of this caller's right.
	ErrRefused = errors.New("all reads of this workspace are refused")
	// ErrNothingNewer: the agent serves the commit of Client.After still.
	ErrNothingNewer = errors.New("nothing newer is served")
	// ErrNothingWaits: nothing waits for approval at that commit.
	ErrNothingWaits = errors.New("nothing waits for approval at that commit")
	// ErrUnauthenticated: the token is missing, unknown or expired.
	ErrUnauthenticated = errors.New("not authenticated")
)

// Config says which agent to ask, and as whom.
type Config struct {
	Server string // https://host:port; http:// for loopback only
	// Token is sent as it is. TokenFile holds one instead, and is read again when it
	// changes, and when the agent takes its token no more.
	Token, TokenFile string
	CAFile           string // PEM; "" means the system's roots
	// CertFile and KeyFile are a client certificate (PEM), read again at each
	// handshake. With one, a token is not needed.
	CertFile, KeyFile string
}

// Client asks one agent. It is safe for concurrent use; its fields are set before.
type Client struct {
	// NotBefore is the oldest commit that an answer may be of ("" for any): the
	// whole hash, of which the served one must be a descendant. The agent waits up
	// to Wait for it (at most 50 s), and else ErrBehind comes.
	NotBefore string
	Wait      time.Duration
	// After is a commit than which an answer must be newer ("" for any). The agent
	// waits for it too, and else ErrNothingNewer comes.
	After string

	base  string
	token *token
	http  *http.Client
}

// New checks a configuration. A token is never sent in the clear over a network.
func New(cfg Config) (*Client, error) {
	u, err := url.Parse(cfg.Server)
	if err != nil || u.Host == "" || u.User != nil || u.Path != "" && u.Path != "/" || u.Scheme != "https" && u.Scheme != "http" {
		// Not repeated: it may hold a password.
		return nil, errors.New("server: is not https://HOST:PORT")
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme == "http" && u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("server %s: plain HTTP is for loopback only; use https", u.Host)
	}
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.CAFile != "" {
		pem, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("CA file: %w", err)
		}
		tlsConfig.RootCAs = x509.NewCertPool()
		if !tlsConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("CA file %s holds no certificate (PEM)", cfg.CAFile)
		}
	}
	if (cfg.CertFile == "") != (cfg.KeyFile == "") {
		return nil, errors.New("a client certificate needs both its files, the certificate and the key")
	}
	if cfg.CertFile != "" {
		load := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(cfg.CertFile, cfg.KeyFile)
			if err != nil { // it names the file or the mismatch, never the key
				return nil, fmt.Errorf("client certificate: %w", err)
			}
			return &cert, nil
		}
		if _, err := load(nil); err != nil {
			return nil, err
		}
		tlsConfig.GetClientCertificate = load
	}
	token, err := newToken(cfg.Token, cfg.TokenFile)
	if err != nil {
		return nil, err
	}
	return &Client{base: u.Scheme + "://" + u.Host, token: token, http: &http.Client{
		Timeout:   time.Minute,
		Transport: &http.Transport{TLSClientConfig: tlsConfig, Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 64, MaxResponseHeaderBytes: 64 << 10},
		// A redirect would carry the token elsewhere; the API has none.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

func secretsPath(ws manifest.Workspace) string {
	if ws.IsInstance() {
		return "/v1/instance/secrets"
	}
	return "/v1/workspaces/" + ws.String() + "/secrets"
}

func secretPath(ws manifest.Workspace, name manifest.Name) string {
	return secretsPath(ws) + "/" + name.String()
}

// Secret reads every key of a secret that the caller may read.
func (c *Client) Secret(ctx context.Context, ws manifest.Workspace, name manifest.Name) (out serve.SecretJSON, err error) {
	err = c.getJSON(ctx, secretPath(ws, name), &out)
	return out, err
}

// Key reads one value.
func (c *Client) Key(ctx context.Context, ws manifest.Workspace, name manifest.Name, key manifest.Key) ([]byte, error) {
	return c.get(ctx, secretPath(ws, name)+"/keys/"+key.String())
}

// List reads what the caller may see of a workspace.
func (c *Client) List(ctx context.Context, ws manifest.Workspace) (out serve.ListJSON, err error) {
	err = c.getJSON(ctx, secretsPath(ws), &out)
	return out, err
}

// Status reads how the agent is doing.
func (c *Client) Status(ctx context.Context) (out serve.StatusJSON, err error) {
	err = c.getJSON(ctx, "/v1/status", &out)
	return out, err
}

// Whoami asks who the agent takes the caller for.
func (c *Client) Whoami(ctx context.Context) (out serve.WhoamiJSON, err error) {
	err = c.getJSON(ctx, "/v1/whoami", &out)
	return out, err
}

func (c *Client) getJSON(ctx context.Context, path string, out any) error {
	body, err := c.get(ctx, path)
	if err != nil {
		return err
	}
	return c.decode(body, out)
}

func (c *Client) decode(body []byte, out any) error {
	if json.Unmarshal(body, out) != nil {
		// Without json's own text, which can quote the answer.
		return fmt.Errorf("%s: the answer is not an agent's", c.base)
	}
	return nil
}

func (c *Client) get(ctx context.Context, path string) ([]byte, error) {
	return c.ask(ctx, http.MethodGet, path, nil)
}

// Sync has the agent look at its remotes. It wants an operator's token.
func (c *Client) Sync(ctx context.Context) error {
	_, err := c.ask(ctx, http.MethodPost, "/v1/sync", nil)
	return err
}

// Approve gives the operator's word for what waits at a commit (whole hash).
func (c *Client) Approve(ctx context.Context, commit string) error {
	body, err := json.Marshal(serve.ApprovalJSON{Commit: commit})
	if err == nil {
		_, err = c.ask(ctx, http.MethodPost, "/v1/approvals", body)
	}
	return err
}

// Item names a secret: every key of it that the caller may read, or these keys.
type Item struct {
	Workspace manifest.Workspace
	Name      manifest.Name
	Keys      []manifest.Key
}

func (i Item) String() string { return i.Workspace.String() + "/" + i.Name.String() }

// Result is a secret, or why there is none: ErrDenied, ErrNotFound or ErrRefused.
type Result struct {
	Secret serve.SecretJSON
	Err    error
}

// Batch reads several secrets (at most 100), of one repository all from one commit. The
// results are in the order of the items; the error is of the whole request.
func (c *Client) Batch(ctx context.Context, items []Item) ([]Result, error) {
	got, err := c.batch(ctx, items, condition{notBefore: c.NotBefore, wait: c.Wait})
	return got.results, err
}

// batch is what one request for several secrets gave.
type batch struct {
	results    []Result // nil: the caller has them (condition.tag)
	tag        string
	generation string // "" where the secrets are of several repositories, or none may be read
}

func (c *Client) batch(ctx context.Context, items []Item, cond condition) (batch, error) {
	var in serve.BatchJSON
	for _, i := range items {
		item := serve.ItemJSON{Workspace: i.Workspace.String(), Name: i.Name.String()}
		for _, k := range i.Keys {
			item.Keys = append(item.Keys, k.String())
		}
		in.Secrets = append(in.Secrets, item)
	}
	send, err := json.Marshal(in)
	if err != nil {
		return batch{}, err
	}
	body, header, err := c.send(ctx, http.MethodPost, "/v1/read", send, cond)
	out := batch{tag: header.Get("ETag"), generation: header.Get("Sealward-Generation")}
	if errors.Is(err, errSame) {
		return out, nil
	}
	var got serve.BatchAnswerJSON
	if err == nil {
		err = c.decode(body, &got)
	}
	if err != nil {
		return batch{}, err
	}
	if len(got.Secrets) != len(items) {
		return batch{}, fmt.Errorf("%s: the answer is not an agent's", c.base)
	}
	for i, r := range got.Secrets {
		res := Result{}
		switch {
		case r.Secret != nil && r.Secret.Name != items[i].Name.String():
			return batch{}, fmt.Errorf("%s: the answer is of another secret", c.base)
		case r.Status == http.StatusOK && r.Secret != nil:
			res.Secret = *r.Secret
		case r.Code == "policy-broken", r.Code == "contested":
			res.Err = fmt.Errorf("%w (%s)", ErrRefused, r.Code)
		case r.Status == http.StatusNotFound:
			res.Err = ErrNotFound
		default:
			res.Err = ErrDenied
		}
		out.results = append(out.results, res)
	}
	return out, nil
}

// condition of an answer; the zero one wants any.
type condition struct {
	tag       string        // what the caller has already
	notBefore string        // the oldest commit
	after     string        // a commit that is older
	wait      time.Duration // for another answer, or that commit
}

// errSame: the caller has what it would get.
var errSame = errors.New("nothing else is there")

func (c *Client) ask(ctx context.Context, method, path string, send []byte) ([]byte, error) {
	cond := condition{notBefore: c.NotBefore, after: c.After, wait: c.Wait}
	if method != http.MethodGet {
		cond.after = ""
	}
	body, _, err := c.send(ctx, method, path, send, cond)
	if errors.Is(err, errSame) {
		err = ErrNothingNewer
	}
	return body, err
}

// send asks once, and once more with a newer token where the agent takes the old one
// no more.
func (c *Client) send(ctx context.Context, method, path string, send []byte, cond condition) ([]byte, http.Header, error) {
	query := url.Values{}
	if cond.after != "" {
		query.Set("after", cond.after)
	}
	if cond.wait > 0 && (cond.notBefore != "" || cond.tag != "" || cond.after != "") {
		query.Set("wait", cond.wait.String())
	}
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	bearer, err := c.token.current()
	if err != nil {
		return nil, nil, err
	}
	body, header, err := c.once(ctx, method, path, send, cond, bearer)
	if errors.Is(err, ErrUnauthenticated) {
		if newer, ok := c.token.newer(bearer); ok {
			return c.once(ctx, method, path, send, cond, newer)
		}
	}
	return body, header, err
}

func (c *Client) once(ctx context.Context, method, path string, send []byte, cond condition, bearer string) ([]byte, http.Header, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(send))
	if err != nil {
		return nil, nil, err
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	if cond.notBefore != "" {
		req.Header.Set("If-Commit-Not-Before", cond.notBefore)
	}
	if cond.tag != "" {
		req.Header.Set("If-None-Match", cond.tag)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var unknown x509.UnknownAuthorityError
		if errors.As(err, &unknown) {
			return nil, nil, fmt.Errorf("%s: the server's certificate is of an unknown authority; name its CA with --ca-file", c.base)
		}
		return nil, nil, fmt.Errorf("%s cannot be reached: %w", c.base, errors.Unwrap(err))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, nil, fmt.Errorf("%s: the answer was cut: %w", c.base, err)
	}
	if len(body) > maxAnswer {
		return nil, nil, fmt.Errorf("%s: the answer is larger than %d MiB", c.base, maxAnswer>>20)
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusAccepted:
		return body, resp.Header, nil
	case http.StatusNotModified:
		return nil, resp.Header, errSame
	}
	var e serve.ErrorJSON
	if json.Unmarshal(body, &e) != nil || e.Error.Message == "" {
		return nil, nil, fmt.Errorf("%s answered %s, which is not an agent's answer", c.base, resp.Status)
	}
	switch resp.StatusCode {
	case http.StatusUnauthorized:
		err = ErrUnauthenticated
	case http.StatusForbidden:
		err = ErrDenied
	case http.StatusNotFound:
		err = ErrNotFound
	case http.StatusConflict:
		switch err = ErrBehind; e.Error.Code {
		case "nothing-waits":
			return nil, nil, ErrNothingWaits
		case "incomparable":
			err = errApart
		}
	default:
		err = errors.New(strings.ToLower(http.StatusText(resp.StatusCode)))
	}
	return nil, nil, fmt.Errorf("%w: %s", err, e.Error.Message)
}

// errApart is the ErrBehind of a branch that was moved by force.
var errApart = fmt.Errorf("%w", ErrBehind)
