package source

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// Auth names files, not values. They are read at each network call, so that a
// rotated credential needs no restart; a trailing newline is dropped.
//
// Over HTTPS a TokenFile alone is sent as a bearer token; with a user name it
// is the password, which GitHub, GitLab and Bitbucket want. Over SSH SSHKeyFile
// and KnownHostsFile are both required. CAFile adds to the system's roots.
type Auth struct {
	UsernameFile, PasswordFile, TokenFile string
	SSHKeyFile, KnownHostsFile            string
	CAFile                                string
	// ProxyCredentialFile holds USER:PASSWORD for Config.Proxy, in one line.
	ProxyCredentialFile string
}

// maxAuthFile bounds a credential file; a CA bundle may be as large.
const maxAuthFile = 1 << 20

// checkAuth refuses what would be ignored in silence.
func checkAuth(r remote, a Auth) error {
	web := a.UsernameFile != "" || a.PasswordFile != "" || a.TokenFile != ""
	ssh := a.SSHKeyFile != "" || a.KnownHostsFile != ""
	switch r.scheme {
	case "ssh":
		if web || a.CAFile != "" {
			return errors.New("over ssh only sshKeyFile and knownHostsFile are used; remove the others")
		}
		if a.SSHKeyFile == "" {
			return errors.New("ssh needs sshKeyFile, the private key to log in with (no agent and no ~/.ssh is used)")
		}
		if a.KnownHostsFile == "" {
			return fmt.Errorf("ssh needs knownHostsFile: run ssh-keyscan %s > known_hosts, compare the fingerprints with the server's (ssh-keygen -lf known_hosts), and name that file", r.keyscan())
		}
	case "file":
		if web || ssh || a.CAFile != "" {
			return errors.New("a path on this machine takes no auth; remove it")
		}
	default:
		fileUser := a.UsernameFile != ""
		switch {
		case ssh:
			return errors.New("sshKeyFile and knownHostsFile are for ssh; remove them, or use an ssh url")
		case a.PasswordFile != "" && a.TokenFile != "":
			return errors.New("passwordFile and tokenFile are both set; keep one")
		case r.password != "" && (a.PasswordFile != "" || a.TokenFile != ""), r.user != "" && fileUser:
			return errors.New("the url holds a credential and auth names files too; take it out of the url")
		case a.PasswordFile != "" && !fileUser && r.user == "":
			return errors.New("passwordFile needs usernameFile")
		case fileUser && a.PasswordFile == "" && a.TokenFile == "":
			return errors.New("usernameFile needs passwordFile or tokenFile")
		case a.CAFile != "" && r.scheme == "http":
			return errors.New("caFile is for https")
		}
	}
	return nil
}

func (r remote) keyscan() string {
	if r.port != "" {
		return "-p " + r.port + " " + r.host
	}
	return r.host
}

// credential is what one call sends. It is never printed.
type credential struct {
	user, password, token string
	sshKey, ca            []byte

	proxyUser, proxyPassword string

	from string // where it came from, for a hint
}

func (c credential) empty() bool { return c.user == "" && c.token == "" && c.sshKey == nil }

func (a Auth) read(r remote) (credential, error) {
	c := credential{user: r.user, password: r.password, from: "the credential in the url"}
	for _, f := range []struct {
		field, path string
		to          *string
	}{
		{"usernameFile", a.UsernameFile, &c.user},
		{"passwordFile", a.PasswordFile, &c.password},
		{"tokenFile", a.TokenFile, &c.token},
	} {
		if f.path == "" {
			continue
		}
		text, err := readAuthFile(f.field, f.path)
		if err != nil {
			return credential{}, err
		}
		*f.to = strings.TrimRight(string(text), "\r\n")
		if *f.to == "" || strings.ContainsAny(*f.to, "\r\n\x00") {
			return credential{}, fmt.Errorf("%s %s: %w: it must hold one line and nothing else", f.field, f.path, ErrConfig)
		}
		c.from = f.field + " " + f.path
	}
	if c.token != "" && c.user != "" {
		c.password, c.token = c.token, ""
	}
	var err error
	if a.ProxyCredentialFile != "" {
		text, err := readAuthFile("proxyCredentialFile", a.ProxyCredentialFile)
		if err != nil {
			return credential{}, err
		}
		line := strings.TrimRight(string(text), "\r\n")
		var ok bool
		c.proxyUser, c.proxyPassword, ok = strings.Cut(line, ":")
		if !ok || c.proxyUser == "" || strings.ContainsAny(line, "\r\n\x00") {
			return credential{}, fmt.Errorf("proxyCredentialFile %s: %w: it must hold one line, USER:PASSWORD", a.ProxyCredentialFile, ErrConfig)
		}
	}
	if a.SSHKeyFile != "" {
		if c.sshKey, err = readAuthFile("sshKeyFile", a.SSHKeyFile); err != nil {
			return credential{}, err
		}
		c.from = "sshKeyFile " + a.SSHKeyFile
	}
	if a.CAFile != "" {
		if c.ca, err = readAuthFile("caFile", a.CAFile); err != nil {
			return credential{}, err
		}
	}
	return c, nil
}

func readAuthFile(field, path string) ([]byte, error) {
	// Stat first: opening a pipe would wait for a writer, past every deadline.
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", field, ErrConfig, err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s %s: %w: it is not a regular file", field, path, ErrConfig)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", field, ErrConfig, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxAuthFile+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", field, ErrConfig, err)
	}
	if len(text) > maxAuthFile {
		return nil, fmt.Errorf("%s %s: %w: it has more than %d bytes", field, path, ErrConfig, maxAuthFile)
	}
	return text, nil
}
