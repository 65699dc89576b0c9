package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/go-git/go-git/v5/plumbing/format/pktline"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/transport"
	gitssh "github.com/go-git/go-git/v5/plumbing/transport/ssh"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// stream talks to a git-upload-pack at the end of two pipes. go-git's own
// sessions for ssh and file are not used: its SSH dial takes no context and
// its handshake no deadline, so that a server which accepts and never answers
// holds a goroutine for ever; it also reads ~/.ssh/config for the host name.
type stream struct {
	in     io.WriteCloser
	out    io.Reader
	stderr *head
	wait   func() error // until the other side is done
	stop   func()       // ends it
	asked  bool
}

func (s *stream) AdvertisedReferencesContext(context.Context) (*packp.AdvRefs, error) {
	adv := packp.NewAdvRefs()
	err := adv.Decode(&bounded{r: s.out, left: maxAdvertised})
	switch {
	case errors.Is(err, packp.ErrEmptyAdvRefs), err == nil && adv.IsEmpty():
		return nil, transport.ErrEmptyRemoteRepository
	case errors.Is(err, packp.ErrEmptyInput):
		// It ended without a word of Git; it says why on stderr.
		_ = s.in.Close()
		_ = s.wait()
		if said := plain(s.stderr.String()); said != "" {
			return nil, fmt.Errorf("%w: the remote says %q; check the url, and that we may read it", ErrNotRepository, said)
		}
		return nil, err
	case err != nil:
		return nil, err
	}
	// go-git cannot complete a thin pack nor follow the multi_ack dialogue.
	transport.FilterUnsupportedCapabilities(adv.Capabilities)
	return adv, nil
}

func (s *stream) UploadPack(_ context.Context, req *packp.UploadPackRequest) (*packp.UploadPackResponse, error) {
	s.asked = true
	if err := req.UploadRequest.Encode(s.in); err != nil {
		return nil, err
	}
	if err := req.UploadHaves.Encode(s.in, true); err != nil {
		return nil, err
	}
	if err := pktline.NewEncoder(s.in).EncodeString("done\n"); err != nil {
		return nil, err
	}
	if err := s.in.Close(); err != nil {
		return nil, err
	}
	resp := packp.NewUploadPackResponse(req)
	return resp, resp.Decode(io.NopCloser(s.out))
}

func (s *stream) Close() error {
	if !s.asked {
		// Wants nothing: lets the server end without an error in its log.
		_, _ = s.in.Write(pktline.FlushPkt)
	}
	_ = s.in.Close()
	s.stop()
	return nil
}

// bounded fails, other than an io.LimitReader, when there is more.
type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("%w: the remote sends more than expected", ErrTooLarge)
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// head keeps the beginning of what is written to it.
type head struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (h *head) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.text.Write(p[:min(len(p), max(0, 2*maxQuoted-h.text.Len()))])
	return len(p), nil
}

func (h *head) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.text.String()
}

// runGit reads a repository on this machine through the git command, which
// also refuses one of another owner.
func runGit(c *call) (session, error) {
	ctx, cancel := context.WithCancel(c.ctx)
	cmd := exec.CommandContext(ctx, "git", "upload-pack", c.m.remote.path)
	cmd.Env = append(os.Environ(), "GIT_PROTOCOL=") // go-git speaks version 0 only
	cmd.WaitDelay = time.Second
	s := &stream{stderr: new(head)}
	cmd.Stderr = s.stderr
	var err error
	if s.in, err = cmd.StdinPipe(); err == nil {
		s.out, err = cmd.StdoutPipe()
	}
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		return nil, fmt.Errorf("url: %w: a path is read with the git command: %w", ErrConfig, err)
	}
	s.wait = sync.OnceValue(cmd.Wait)
	s.stop = func() {
		cancel()
		_ = s.wait()
	}
	return s, nil
}

func dialSSH(c *call) (session, error) {
	r, auth := c.m.remote, c.m.cfg.Auth
	port := r.port
	if port == "" {
		port = "22"
	}
	addr := net.JoinHostPort(r.host, port)
	config, err := sshConfig(c, addr)
	if err != nil {
		return nil, err
	}
	conn, err := (&net.Dialer{}).DialContext(c.ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	// The handshake knows no context; closing the connection ends it, and
	// everything after it.
	release := context.AfterFunc(c.ctx, func() { conn.Close() })
	stop := func() {
		release()
		conn.Close()
	}
	session, err := sshSession(conn, addr, config)
	if err != nil {
		stop()
		return nil, sortSSH(err, r, auth)
	}
	s := &stream{stderr: new(head), wait: session.Wait, stop: stop}
	session.Stderr = s.stderr
	if s.in, err = session.StdinPipe(); err == nil {
		s.out, err = session.StdoutPipe()
	}
	if err == nil {
		err = session.Start("git-upload-pack " + shellQuote(r.path))
	}
	if err != nil {
		stop()
		return nil, err
	}
	return s, nil
}

func sshSession(conn net.Conn, addr string, config *ssh.ClientConfig) (*ssh.Session, error) {
	cc, channels, requests, err := ssh.NewClientConn(conn, addr, config)
	if err != nil {
		return nil, err
	}
	return ssh.NewClient(cc, channels, requests).NewSession()
}

func sshConfig(c *call, addr string) (*ssh.ClientConfig, error) {
	auth := c.m.cfg.Auth
	key, err := ssh.ParsePrivateKey(c.cred.sshKey)
	if err != nil {
		var locked *ssh.PassphraseMissingError
		if errors.As(err, &locked) {
			return nil, fmt.Errorf("sshKeyFile %s: %w: it is protected by a passphrase; make a deploy key without one (ssh-keygen -t ed25519 -N '')", auth.SSHKeyFile, ErrConfig)
		}
		// The parser's error is left out: it may quote the key.
		return nil, fmt.Errorf("sshKeyFile %s: %w: it is not a private key", auth.SSHKeyFile, ErrConfig)
	}
	if _, err := readAuthFile("knownHostsFile", auth.KnownHostsFile); err != nil {
		return nil, err
	}
	known, err := gitssh.NewKnownHostsDb(auth.KnownHostsFile)
	if err != nil {
		return nil, fmt.Errorf("knownHostsFile: %w: %w", ErrConfig, err)
	}
	// Without this the server may choose a key type that known_hosts does not
	// list, which looks like an attack.
	algorithms := known.HostKeyAlgorithms(addr)
	if len(algorithms) == 0 {
		return nil, fmt.Errorf("knownHostsFile %s: %w: it has no key for %s; see ssh-keyscan %s", auth.KnownHostsFile, ErrConfig, addr, c.m.remote.keyscan())
	}
	user := c.cred.user
	if user == "" {
		user = "git"
	}
	return &ssh.ClientConfig{
		User:              user,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(key)},
		HostKeyCallback:   known.HostKeyCallback(),
		HostKeyAlgorithms: algorithms,
	}, nil
}

func sortSSH(err error, r remote, auth Auth) error {
	var wrong *knownhosts.KeyError
	var revoked *knownhosts.RevokedError
	switch {
	case errors.As(err, &wrong), errors.As(err, &revoked), strings.Contains(err.Error(), "no common algorithm for host key"):
		return fmt.Errorf("%w: its host key is not the one in %s; somebody may be in between. If the server was reinstalled, compare ssh-keyscan %s with what its owner says",
			ErrUntrusted, auth.KnownHostsFile, r.keyscan())
	case strings.Contains(err.Error(), "unable to authenticate"):
		// x/crypto/ssh has no type for it.
		return fmt.Errorf("%w: it does not take the key in %s; register its public half for reading", ErrAuth, auth.SSHKeyFile)
	}
	return err
}

// shellQuote makes one word for the shell at the other end, as git does.
func shellQuote(s string) string {
	return "'" + strings.NewReplacer("'", `'\''`, "!", `'\!'`).Replace(s) + "'"
}
