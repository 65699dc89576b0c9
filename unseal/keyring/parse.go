package keyring

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"golang.org/x/crypto/ssh"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
)

// Bounds of one file. age's and OpenSSH's lines are far shorter.
const (
	maxLine       = 64 << 10
	maxIdentities = 1000
)

// identity is one private key.
type identity struct {
	age.Identity
	recipient workspace.Recipient
	// secret is what only a holder has: the line of an age identity, the secret
	// numbers of an SSH key.
	secret []byte
	// protected by a passphrase, itself or the file it stands in.
	protected bool
}

// ParseRing reads age-keygen's format, one AGE-SECRET-KEY-… a line with comments
// and empty lines between, and OpenSSH's and PEM private keys. Nothing in it may
// need a passphrase. No error repeats a line.
func ParseRing(ws manifest.Workspace, data []byte) (*Ring, error) {
	identities, err := parseFile(data, nil)
	if err != nil {
		return nil, err
	}
	return newRing(ws, &Services{workspace: ws, file: SettingsFile}, identities), nil
}

// parseFile reads a file of the keyring. l unlocks what a passphrase protects; nil
// refuses it.
func parseFile(data []byte, l *lock) ([]identity, error) {
	if !isAgeFile(data) {
		return parseIdentities(data, l)
	}
	if !hasPassphrase(data) {
		return nil, errors.New("is encrypted with age to a recipient, not with a passphrase; decrypt it with age -d")
	}
	ids, err := l.open(data, func(passphrase []byte) ([]identity, error) {
		plain, err := decryptAge(data, passphrase)
		if err != nil {
			return nil, err
		}
		return parseIdentities(plain, nil)
	})
	for i := range ids {
		ids[i].protected = true
	}
	return ids, err
}

func parseIdentities(data []byte, l *lock) ([]identity, error) {
	var out []identity
	seen := map[workspace.Recipient]bool{}
	for n := 1; len(data) > 0; n++ {
		line, rest, _ := bytes.Cut(data, []byte("\n"))
		text := strings.TrimSpace(string(line))
		var id identity
		var err error
		switch {
		case len(line) > maxLine:
			return nil, errors.New("has a line that is too long")
		case text == "" || strings.HasPrefix(text, "#"):
			data = rest
			continue
		case strings.HasPrefix(text, "-----BEGIN "):
			block := pemBlock(data)
			rest = data[len(block):]
			id, err = parseSSH(block, l)
			if err != nil && !errors.Is(err, ErrProtected) {
				err = fmt.Errorf("line %d: %w", n, err)
			}
			n += bytes.Count(block, []byte("\n")) - 1
		default:
			if id, err = parseAge(text); err != nil {
				err = fmt.Errorf("line %d: %w", n, err)
			}
		}
		data = rest
		if err != nil {
			return nil, err
		}
		if !seen[id.recipient] {
			seen[id.recipient] = true
			out = append(out, id)
		}
		if len(out) > maxIdentities {
			return nil, fmt.Errorf("holds more than %d identities", maxIdentities)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("holds no identity (AGE-SECRET-KEY-…, or an SSH private key)")
	}
	return out, nil
}

// pemBlock is the beginning of data up to and with the line that ends the block;
// all of it when none does.
func pemBlock(data []byte) []byte {
	for at := 0; ; {
		i := bytes.Index(data[at:], []byte("\n-----END "))
		if i < 0 {
			return data
		}
		at += i + 1
		if end := bytes.IndexByte(data[at:], '\n'); end >= 0 {
			return data[:at+end+1]
		}
		return data
	}
}

func parseAge(line string) (identity, error) {
	var id identity
	var public string
	var err error
	switch {
	case strings.HasPrefix(line, "AGE-SECRET-KEY-PQ-1"):
		var h *age.HybridIdentity
		if h, err = age.ParseHybridIdentity(line); err == nil {
			id, public = identity{Identity: h, secret: []byte(h.String())}, h.Recipient().String()
		}
	case strings.HasPrefix(line, "AGE-SECRET-KEY-1"):
		var x *age.X25519Identity
		if x, err = age.ParseX25519Identity(line); err == nil {
			id, public = identity{Identity: x, secret: []byte(x.String())}, x.Recipient().String()
		}
	case strings.HasPrefix(line, "AGE-PLUGIN-"):
		return identity{}, errors.New("is an identity of an age plugin; a ring never runs a program")
	default:
		err = errors.New("unknown")
	}
	if err != nil {
		// age's own error can repeat the line, perhaps a mistyped key.
		return identity{}, errors.New("is not an age identity (AGE-SECRET-KEY-…)")
	}
	id.recipient, err = workspace.ParseRecipient(public)
	return id, err
}

// errPrivateKey stands for every error of the ssh package, which may have been
// given anything.
var errPrivateKey = errors.New("is not an SSH private key that can be used (ed25519 or RSA, in OpenSSH's or PEM form)")

func parseSSH(block []byte, l *lock) (identity, error) {
	key, err := ssh.ParseRawPrivateKey(block)
	var missing *ssh.PassphraseMissingError
	if !errors.As(err, &missing) {
		if err != nil {
			return identity{}, errPrivateKey
		}
		return sshIdentity(key)
	}
	ids, err := l.open(block, func(passphrase []byte) ([]identity, error) {
		key, err := ssh.ParseRawPrivateKeyWithPassphrase(block, passphrase)
		if err != nil {
			return nil, errPassphrase
		}
		id, err := sshIdentity(key)
		id.protected = true
		return []identity{id}, err
	})
	if err != nil {
		return identity{}, err
	}
	return ids[0], nil
}

func sshIdentity(key any) (identity, error) {
	var id identity
	var err error
	var public any
	switch key := key.(type) {
	case *ed25519.PrivateKey:
		return sshIdentity(*key)
	case ed25519.PrivateKey:
		id.secret, public = key.Seed(), key.Public()
		id.Identity, err = agessh.NewEd25519Identity(key)
	case *rsa.PrivateKey:
		id.secret, public = key.D.Bytes(), key.Public()
		id.Identity, err = agessh.NewRSAIdentity(key)
	default:
		err = errPrivateKey
	}
	if err != nil {
		return identity{}, errPrivateKey
	}
	line, err := ssh.NewPublicKey(public)
	if err != nil {
		return identity{}, errPrivateKey
	}
	id.recipient, err = workspace.ParseRecipient(strings.TrimSpace(string(ssh.MarshalAuthorizedKey(line))))
	if err != nil {
		return identity{}, errPrivateKey
	}
	return id, nil
}
