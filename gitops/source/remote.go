package source

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/pktline"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
)

const (
	// maxAdvertised bounds the list of refs: go-git v5 speaks protocol 0, in
	// which a server names all of its refs at every look.
	maxAdvertised = 16 << 20

	// maxHaves bounds what we tell the server we have. One is enough to follow
	// a branch; the others find common ground after a forced push.
	maxHaves = 64

	// A fetch may take this many time-outs altogether, however well it drips.
	fetchTimeouts = 60

	shownBranches = 10
)

// remote is a checked Config.URL.
type remote struct {
	scheme         string // https, http, ssh or file
	host, port     string
	path           string
	user, password string // from the URL

	// shown is the URL without the user information: in an https URL even a
	// lone user name can be a token.
	shown string
}

// parseURL never quotes its input back: it may hold a password.
func parseURL(raw string) (remote, error) {
	const forms = "give https://, ssh://, user@host:path, file:// or an absolute path"
	switch {
	case raw == "":
		return remote{}, errors.New("url is missing; " + forms)
	case strings.HasPrefix(raw, "/"):
		return remote{scheme: "file", path: path.Clean(raw), shown: path.Clean(raw)}, nil
	case strings.Contains(raw, "://"):
		return parseFullURL(raw)
	}
	// user@host:path, as scp and git write it.
	host, dir, ok := strings.Cut(raw, ":")
	user, host, hasUser := cutLast(host, "@")
	if !ok || host == "" || dir == "" || strings.Contains(host, "/") || strings.HasPrefix(host, "-") || strings.HasPrefix(dir, "-") || (hasUser && user == "") {
		return remote{}, errors.New("url is not understood; " + forms)
	}
	return remote{scheme: "ssh", user: user, host: host, path: dir, shown: host + ":" + dir}, nil
}

func parseFullURL(raw string) (remote, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return remote{}, errors.New("url cannot be parsed; look for spaces, bad %-escapes or a bad port")
	}
	r := remote{scheme: u.Scheme, host: strings.ToLower(u.Hostname()), port: u.Port(), path: u.Path, user: u.User.Username()}
	r.password, _ = u.User.Password()
	u.User = nil
	r.shown = u.String()
	switch {
	case u.RawQuery != "" || u.Fragment != "":
		return remote{}, errors.New("url has a ? or # part; leave it out")
	case r.scheme == "file":
		if r.host != "" && r.host != "localhost" || !strings.HasPrefix(r.path, "/") {
			return remote{}, errors.New("a file:// url names an absolute path, as in file:///srv/git/secrets.git")
		}
	case r.scheme != "https" && r.scheme != "http" && r.scheme != "ssh":
		return remote{}, fmt.Errorf("scheme %q is not supported; use https, http, ssh or file", plain(r.scheme))
	case r.host == "":
		return remote{}, errors.New("url names no host")
	case strings.Trim(r.path, "/") == "":
		return remote{}, errors.New("url names no repository on its host")
	case r.scheme == "ssh" && (r.password != "" || strings.HasPrefix(r.host, "-")):
		return remote{}, errors.New("an ssh url holds no password: use sshKeyFile")
	case r.scheme == "ssh":
		r.path = strings.TrimPrefix(r.path, "/")
		if !strings.HasPrefix(r.path, "~") {
			r.path = "/" + r.path
		}
	default:
		// go-git decodes the path and puts it back unescaped into the request.
		r.path = u.EscapedPath()
	}
	return r, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return "", s, false
}

// session is one conversation with git-upload-pack. go-git's HTTP session is
// one; stream is ours for ssh and file.
type session interface {
	AdvertisedReferencesContext(context.Context) (*packp.AdvRefs, error)
	UploadPack(context.Context, *packp.UploadPackRequest) (*packp.UploadPackResponse, error)
	Close() error
}

// call is one network operation: its context, its credential, its deadline.
type call struct {
	m      *Mirror
	op     string
	outer  context.Context
	ctx    context.Context
	timer  *time.Timer
	cancel context.CancelCauseFunc
	cred   credential
}

var errSilent = errors.New("silent for too long")

// begin starts a call that dies when the remote is silent for the time-out.
func (m *Mirror) begin(ctx context.Context, op string) *call {
	c := &call{m: m, op: op, outer: ctx}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	c.timer = time.AfterFunc(m.cfg.Timeout, func() { c.cancel(errSilent) })
	return c
}

// heard tells that the remote gave a sign of life.
func (c *call) heard() { c.timer.Reset(c.m.cfg.Timeout) }

func (c *call) end() {
	c.timer.Stop()
	c.cancel(nil)
}

func (c *call) open() (s session, err error) {
	// Read anew each time, so that a rotated credential needs no restart.
	if c.cred, err = c.m.cfg.Auth.read(c.m.remote); err != nil {
		return nil, err
	}
	switch c.m.remote.scheme {
	case "ssh":
		return dialSSH(c)
	case "file":
		return runGit(c)
	}
	return newHTTP(c)
}

// advertised asks for the refs and finds the branch.
func (c *call) advertised(s session) (*packp.AdvRefs, Hash, error) {
	adv, err := s.AdvertisedReferencesContext(c.ctx)
	if err != nil {
		return nil, Hash{}, err
	}
	tip, ok := adv.References[plumbing.NewBranchReferenceName(c.m.cfg.Branch).String()]
	if !ok {
		return nil, Hash{}, noBranch(adv)
	}
	return adv, tip, nil
}

func noBranch(adv *packp.AdvRefs) error {
	var names []string
	for ref := range adv.References {
		if name, ok := strings.CutPrefix(ref, "refs/heads/"); ok {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return fmt.Errorf("%w: it has none at all; push one, or set branch", ErrNoBranch)
	}
	slices.Sort(names)
	more := ""
	if n := len(names) - shownBranches; n > 0 {
		names, more = names[:shownBranches], fmt.Sprintf(" and %d more", n)
	}
	for i, name := range names {
		names[i] = plain(name)
	}
	return fmt.Errorf("%w: it has %s%s; set branch to one of them, or push it", ErrNoBranch, strings.Join(names, ", "), more)
}

// Look asks the remote where the branch is, and nothing else.
func (m *Mirror) Look(ctx context.Context) (Hash, error) {
	c := m.begin(ctx, "look at")
	defer c.end()
	s, err := c.open()
	if err != nil {
		return Hash{}, c.explain(err)
	}
	defer s.Close()
	_, tip, err := c.advertised(s)
	if err != nil {
		return Hash{}, c.explain(err)
	}
	return tip, nil
}

// Fetch stages the branch as it is now, with its whole history and no tags,
// and returns its commit, which may be newer than what Look saw. The objects
// are on disk before the staging ref names them. A cut or refused transfer
// leaves nothing behind.
func (m *Mirror) Fetch(ctx context.Context) (Hash, error) {
	m.fetching.Lock()
	defer m.fetching.Unlock()
	c := m.begin(ctx, "fetch")
	defer c.end()
	limit := time.AfterFunc(fetchTimeouts*m.cfg.Timeout, func() { c.cancel(errSilent) })
	defer limit.Stop()
	s, err := c.open()
	if err != nil {
		return Hash{}, c.explain(err)
	}
	defer s.Close()
	adv, tip, err := c.advertised(s)
	if err != nil {
		return Hash{}, c.explain(err)
	}
	if !m.store.has(tip) {
		if err := c.transfer(s, adv, tip); err != nil {
			return Hash{}, c.explain(err)
		}
	}
	// What was sent need not be what was asked for.
	if err := m.whole(tip); err != nil {
		return Hash{}, c.explain(err)
	}
	return tip, m.setRef(refStaging, tip)
}

// whole checks that a commit and its root folder are here. It is no full
// check of what is reachable; what else is missing is ErrDamaged when read.
func (m *Mirror) whole(h Hash) error {
	c, err := m.parent(h)
	if err != nil {
		return err
	}
	if !m.store.has(c.TreeHash) {
		return fmt.Errorf("tree of commit %s: %w", h, ErrDamaged)
	}
	return nil
}

// transfer is go-git's Remote.Fetch with what an agent needs: our own sessions
// (go-git finds its transports in a package variable), bounds, a sign of life
// for the time-out, and a pack that is synced or leaves no trace.
func (c *call) transfer(s session, adv *packp.AdvRefs, tip Hash) error {
	if len(adv.Shallows) > 0 {
		return fmt.Errorf("%w: the remote is itself a shallow clone; follow one with its whole history (git fetch --unshallow)", ErrNotRepository)
	}
	haves, err := c.m.haves(c.ctx)
	if err != nil {
		return err
	}
	req := packp.NewUploadPackRequestFromCapabilities(adv.Capabilities)
	if adv.Capabilities.Supports(capability.NoProgress) {
		if err := req.Capabilities.Set(capability.NoProgress); err != nil {
			return err
		}
	}
	req.Wants = []Hash{tip}
	req.Haves = haves
	resp, err := s.UploadPack(c.ctx, req)
	if err != nil {
		return err
	}
	defer resp.Close()

	// Beneath the side band, so that a server's keep-alive counts as life.
	var pack io.Reader = heardReader{resp, c}
	switch {
	case req.Capabilities.Supports(capability.Sideband64k):
		pack = sideband.NewDemuxer(sideband.Sideband64k, pack)
	case req.Capabilities.Supports(capability.Sideband):
		pack = sideband.NewDemuxer(sideband.Sideband, pack)
	}
	return c.m.store.receive(pack, c.m.cfg.MaxPack, c.m.cfg.MaxObject)
}

type heardReader struct {
	r io.Reader
	c *call
}

func (h heardReader) Read(p []byte) (int, error) {
	n, err := h.r.Read(p)
	if n > 0 {
		h.c.heard()
	}
	return n, err
}

// haves lists the newest commits behind what is staged and applied.
func (m *Mirror) haves(ctx context.Context) ([]Hash, error) {
	var q commitQueue
	seen := map[Hash]bool{}
	push := func(h Hash) error {
		if seen[h] {
			return nil
		}
		seen[h] = true
		c, err := m.parent(h)
		if err != nil {
			return err
		}
		q.push(c)
		return nil
	}
	for _, name := range []string{refStaging, refApplied} {
		h, ok, err := m.ref(name)
		if err == nil && ok {
			err = push(h)
		}
		if err != nil {
			return nil, err
		}
	}
	var haves []Hash
	for q.len() > 0 && len(haves) < maxHaves {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		c := q.pop()
		haves = append(haves, c.Hash)
		for _, p := range c.ParentHashes {
			if err := push(p); err != nil {
				return nil, err
			}
		}
	}
	return haves, nil
}

// explain sorts whatever the library says into our errors. The body of an HTTP
// error is never quoted, since a proxy's page can echo a request header; other
// text that the remote wrote is bounded and the credential cut out of it.
func (c *call) explain(err error) error {
	where := fmt.Sprintf("%s %s, branch %s", c.op, c.m.remote.shown, c.m.cfg.Branch)
	if e := c.outer.Err(); e != nil {
		return fmt.Errorf("%s: %w", where, context.Cause(c.outer))
	}
	// go-git loses the cause in several places, so ask the context.
	// (An error of our own may come late, when a large pack is indexed.)
	if errors.Is(context.Cause(c.ctx), errSilent) && !isOurs(err) {
		return fmt.Errorf("%s: %w: no answer within %s; is it up, and is a firewall in between?", where, ErrUnreachable, c.m.cfg.Timeout)
	}
	return fmt.Errorf("%s: %w", where, c.sort(err))
}

func (c *call) sort(err error) error {
	// These two of go-git's have no Unwrap, and net/http's repeats the url.
	for {
		var unexpected *plumbing.UnexpectedError
		var permanent *plumbing.PermanentError
		var request *url.Error
		if errors.As(err, &unexpected) {
			err = unexpected.Err
		} else if errors.As(err, &permanent) {
			err = permanent.Err
		} else if errors.As(err, &request) {
			err = request.Err
		} else {
			break
		}
	}
	if isOurs(err) {
		return err
	}
	var (
		status     *githttp.Err
		dns        *net.DNSError
		op         *net.OpError
		tlsCert    *tls.CertificateVerificationError
		tlsRecord  tls.RecordHeaderError
		unknownCA  x509.UnknownAuthorityError
		garbage    *packp.ErrUnexpectedData
		spoken     *pktline.ErrorLine
		said       = func(err error) string { return c.scrub(err.Error()) }
		noRepoHint = "check the url; some servers also answer so when the credential may not read it"
	)
	switch {
	case errors.Is(err, transport.ErrEmptyRemoteRepository):
		return fmt.Errorf("%w: push a first one to branch %s", ErrEmpty, c.m.cfg.Branch)
	case errors.Is(err, transport.ErrAuthenticationRequired), errors.Is(err, transport.ErrAuthorizationFailed):
		if c.cred.empty() {
			return fmt.Errorf("%w: it asks for one and none is configured; set usernameFile and passwordFile, or tokenFile", ErrAuth)
		}
		return fmt.Errorf("%w: check %s, and that it may read this repository", ErrAuth, c.cred.from)
	case errors.Is(err, transport.ErrRepositoryNotFound):
		return fmt.Errorf("%w: %s", ErrNotRepository, noRepoHint)
	case errors.As(err, &status):
		if code := status.StatusCode(); code >= 500 || code == 429 || code == 408 {
			return fmt.Errorf("%w: it answered with status %d", ErrUnreachable, code)
		}
		return fmt.Errorf("%w: the server answered with status %d; %s", ErrNotRepository, status.StatusCode(), noRepoHint)
	case errors.As(err, &tlsCert), errors.As(err, &unknownCA):
		return fmt.Errorf("%w: %s; for a private authority set caFile", ErrUntrusted, said(err))
	case errors.As(err, &tlsRecord):
		return fmt.Errorf("%w: the server does not speak TLS on this port; check the url", ErrUnreachable)
	case errors.As(err, &spoken):
		return fmt.Errorf("%w: the server says %q; %s", ErrNotRepository, c.scrub(spoken.Text), noRepoHint)
	case errors.As(err, &garbage), errors.Is(err, pktline.ErrInvalidPktLen), errors.Is(err, packp.ErrEmptyInput):
		return fmt.Errorf("%w: the answer is not Git's protocol; check the url (go-git reads no SHA-256 repository)", ErrNotRepository)
	case strings.Contains(err.Error(), "http redirect: "):
		return fmt.Errorf("%w: the server redirects where we do not follow; set url to the final address", ErrNotRepository)
	case errors.As(err, &dns):
		return fmt.Errorf("%w: %s", ErrUnreachable, said(dns))
	case errors.As(err, &op) && strings.HasPrefix(op.Op, "socks") && strings.Contains(op.Error(), "authentication"):
		return c.m.proxyRefused(c.m.proxy)
	case errors.As(err, &op):
		return fmt.Errorf("%w: %s", ErrUnreachable, said(op))
	}
	return fmt.Errorf("%w: %s", ErrUnreachable, said(err))
}

// isOurs reports whether err says already what there is to say.
func isOurs(err error) bool {
	return slices.ContainsFunc([]error{ErrUnreachable, ErrUntrusted, ErrAuth, ErrNotRepository, ErrNoBranch, ErrConfig,
		ErrDamaged, ErrDisk, ErrNotFound, ErrTooLarge, ErrTooMany}, func(ours error) bool { return errors.Is(err, ours) })
}

// scrub makes text from outside fit for an error. The credential is cut out
// as it is and as HTTP sends it.
func (c *call) scrub(text string) string {
	basic := base64.StdEncoding.EncodeToString([]byte(c.cred.user + ":" + c.cred.password))
	proxy := base64.StdEncoding.EncodeToString([]byte(c.cred.proxyUser + ":" + c.cred.proxyPassword))
	for _, secret := range []string{basic, c.cred.password, c.cred.token, proxy, c.cred.proxyPassword} {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "***")
		}
	}
	return plain(text)
}
