// Package gittest serves the bare repositories of a folder to tests, by the servers
// that people run: git http-backend behind TLS, and OpenSSH's sshd. Both listen on
// loopback only.
package gittest

import (
	"crypto/subtle"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
)

// Backend is git http-backend over the repositories below root. It takes pushes.
func Backend(root string) (http.Handler, error) {
	out, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		return nil, err
	}
	env := []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=dana"} // pushes want a name
	for _, kv := range os.Environ() {
		if strings.HasPrefix(kv, "GIT_") {
			env = append(env, kv)
		}
	}
	return &cgi.Handler{Path: filepath.Join(strings.TrimSpace(string(out)), "git-http-backend"), Env: env, Stderr: io.Discard}, nil
}

// HTTPS is a server behind TLS that asks for a password.
type HTTPS struct {
	*httptest.Server
	User, Password string
}

// ServeHTTPS serves the repositories below root. Close the server.
func ServeHTTPS(root, user, password string) (*HTTPS, error) {
	backend, err := Backend(root)
	if err != nil {
		return nil, err
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u, p, _ := r.BasicAuth()
		if u != user || subtle.ConstantTimeCompare([]byte(p), []byte(password)) != 1 {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(w, r)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	return &HTTPS{s, user, password}, nil
}

// CA is the certificate that clients must trust, as PEM.
func (s *HTTPS) CA() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

// SSH is sshd, with keys of its own. It lets in the current user with the key of
// Command, to the repositories below one folder only: host:owner/name.git means
// owner/name.git there, as on Git hosts.
type SSH struct {
	// Command is for GIT_SSH_COMMAND. By it, every host below example.com is this server.
	Command string
	// Addr is HOST:PORT; User may log in with the private key in KeyFile, and HostKey
	// is the public key of the server, as in a known_hosts file.
	Addr, User, KeyFile, HostKey string

	listener net.Listener
	running  sync.WaitGroup
}

// ServeSSH serves the repositories below root, with its own files in dir. Close the
// server.
func ServeSSH(root, dir string) (*SSH, error) {
	sshd, err := exec.LookPath("sshd")
	if err != nil {
		if sshd, err = exec.LookPath("/usr/sbin/sshd"); err != nil {
			return nil, errors.New("sshd is missing: install openssh-server (make tools)")
		}
	}
	me, err := user.Current()
	if err != nil {
		return nil, err
	}
	if os.Getuid() == 0 { // sshd will not start without
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			return nil, err
		}
	}
	for _, key := range []string{"host", "user"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", key, "-f", filepath.Join(dir, key)).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("ssh-keygen: %w: %s", err, out)
		}
	}
	hostKey, err := os.ReadFile(filepath.Join(dir, "host.pub"))
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	for name, text := range map[string]string{
		"known_hosts": "gittest " + string(hostKey),
		"sshd_config": fmt.Sprintf("HostKey %s/host\nAuthorizedKeysFile %[1]s/user.pub\nStrictModes no\nUsePAM no\nPidFile none\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nForceCommand sh %[1]s/only-git\n", dir),
		"ssh_config":  fmt.Sprintf("Host *.example.com\n  HostName 127.0.0.1\n  Port %d\n  User %s\n  HostKeyAlias gittest\n  UserKnownHostsFile %s/known_hosts\n  StrictHostKeyChecking yes\n  IdentityFile %[3]s/user\n  IdentitiesOnly yes\n  BatchMode yes\n", port, me.Username, dir),
		"only-git":    fmt.Sprintf("cd '%s' || exit 1\nexec git-shell -c \"$(printf %%s \"$SSH_ORIGINAL_COMMAND\" | sed \"s#'/#'#\")\"\n", root),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	s := &SSH{
		Command: "ssh -F " + filepath.Join(dir, "ssh_config"),
		Addr:    l.Addr().String(), User: me.Username, KeyFile: filepath.Join(dir, "user"), HostKey: strings.TrimSpace(string(hostKey)),
		listener: l,
	}
	s.running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.running.Go(func() { session(sshd, filepath.Join(dir, "sshd_config"), conn) })
		}
	})
	return s, nil
}

// session runs one sshd over a connection, as inetd would.
func session(sshd, config string, conn net.Conn) {
	socket, err := conn.(*net.TCPConn).File()
	conn.Close()
	if err != nil {
		return
	}
	defer socket.Close()
	c := exec.Command(sshd, "-i", "-e", "-f", config)
	c.Stdin, c.Stdout = socket, socket
	_ = c.Run()
}

// Close waits for the sessions that still run; a client that ended ends them.
func (s *SSH) Close() {
	_ = s.listener.Close()
	s.running.Wait()
}
