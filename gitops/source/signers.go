package source

import (
	"bytes"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
	"golang.org/x/crypto/ssh"
)

// Signers are the keys whose signature makes a commit acceptable to
// [Mirror.Verify]. Any of them will do for any commit: what a key's line or
// certificate says of its holder is a name for people to read, not a condition.
// A Signers never changes.
type Signers struct {
	ssh []sshSigner
	// The bodies of the armored blocks. They are parsed anew for each commit:
	// an entity remembers which of its signatures were valid when it was first
	// asked, without a lock, and the clock may have been wrong then.
	openPGP [][]byte
}

// sshSigner is one line of an allowed signers file.
type sshSigner struct {
	line                  int
	names                 string
	key                   ssh.PublicKey
	git                   bool // may sign commits
	validAfter, validUpTo time.Time
}

// LoadSigners is ParseSigners of two files; either name may be empty. They are
// read at each call, so that a change needs no restart.
func LoadSigners(allowedSignersFile, openPGPKeysFile string) (*Signers, error) {
	var texts [2][]byte
	for i, f := range []struct{ field, path string }{
		{"allowedSignersFile", allowedSignersFile}, {"openPGPKeysFile", openPGPKeysFile},
	} {
		if f.path == "" {
			continue
		}
		text, err := readAuthFile(f.field, f.path)
		if err != nil {
			return nil, err
		}
		texts[i] = append([]byte{}, text...) // not nil, also when the file is empty
	}
	return ParseSigners(texts[0], texts[1])
}

// ParseSigners reads who may sign. allowedSigners is a file as ssh-keygen(1)
// describes under ALLOWED SIGNERS, without certificate authorities and without
// patterns; openPGP holds armored public keys, as gpg --armor --export prints
// them, one block or several. Either may be nil, one that is given must list a
// key. A line that cannot be used is an error, and no part of the rest counts.
// Errors name lines and quote nothing: the wrong file may hold a private key.
func ParseSigners(allowedSigners, openPGP []byte) (*Signers, error) {
	s := &Signers{}
	if allowedSigners == nil && openPGP == nil {
		return nil, fmt.Errorf("signers: %w: name allowedSignersFile, openPGPKeysFile, or both", ErrConfig)
	}
	for _, f := range []struct {
		field string
		text  []byte
		parse func([]byte) error
	}{{"allowedSignersFile", allowedSigners, s.parseAllowed}, {"openPGPKeysFile", openPGP, s.parseOpenPGP}} {
		if f.text == nil {
			continue
		}
		err := error(nil)
		if len(f.text) > maxAuthFile {
			err = fmt.Errorf("it has more than %d bytes", maxAuthFile)
		} else {
			err = f.parse(f.text)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w: %w", f.field, ErrConfig, err)
		}
	}
	return s, nil
}

func (s *Signers) parseAllowed(text []byte) error {
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		signer, err := parseAllowedLine(line)
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		signer.line = n
		s.ssh = append(s.ssh, signer)
	}
	if len(s.ssh) == 0 {
		return errors.New("it lists no key; write lines such as: bob@example.com ssh-ed25519 AAAA…")
	}
	return nil
}

func parseAllowedLine(line string) (s sshSigner, err error) {
	// x/crypto stops reading at a carriage return.
	if strings.ContainsFunc(line, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
		return s, errors.New("it holds a control character")
	}
	names, rest, _ := strings.Cut(strings.ReplaceAll(line, "\t", " "), " ")
	if quoted, ok := strings.CutPrefix(line, `"`); ok {
		if names, rest, ok = strings.Cut(quoted, `"`); !ok || !strings.HasPrefix(rest, " ") && !strings.HasPrefix(rest, "\t") {
			return s, errors.New("its principals have an opening quote and no closing one")
		}
	}
	for name := range strings.SplitSeq(names, ",") {
		if strings.TrimSpace(name) == "" {
			return s, errors.New("it starts with an empty principal; write who holds the key, as in bob@example.com")
		}
	}
	// ssh-keygen matches these against a name that it is given. Here no name is
	// given, and "all but bob" would come to mean everybody.
	if strings.ContainsAny(names, "*?!") {
		return s, errors.New("its principals hold a pattern (* ? or !); write the name of who holds the key")
	}
	s.names = plain(names)
	key, _, options, _, err := ssh.ParseAuthorizedKey([]byte(rest))
	if err != nil {
		return s, errors.New("it is not: principals, options, key type, key; see ALLOWED SIGNERS in ssh-keygen(1)")
	}
	if err := checkSSHKey(key); err != nil {
		return s, err
	}
	s.key, s.git = key, true
	seen := map[string]bool{}
	for _, option := range options {
		name, value, valued := strings.Cut(option, "=")
		name = strings.ToLower(name)
		if seen[name] {
			return s, errors.New("an option is given twice")
		}
		seen[name] = true
		if valued {
			// Without quotes ssh-keygen passes the line over.
			if len(value) < 2 || value[0] != '"' || value[len(value)-1] != '"' {
				return s, errors.New(`an option's value is not in quotes, as in namespaces="git"`)
			}
			value = value[1 : len(value)-1]
		}
		switch name {
		case "namespaces":
			if value == "" || strings.ContainsAny(value, `*?!"\ `) {
				return s, errors.New(`namespaces must be a list without patterns, as in namespaces="git"`)
			}
			s.git = slices.Contains(strings.Split(value, ","), sshNamespace)
		case "valid-after":
			s.validAfter, err = parseSSHTime(value)
		case "valid-before":
			s.validUpTo, err = parseSSHTime(value)
		case "cert-authority":
			err = errors.New("certificate authorities are not supported; list each signer's own key")
		default:
			err = errors.New("it has an option that is not known; namespaces, valid-after and valid-before are")
		}
		if err != nil {
			return s, err
		}
	}
	if !s.validAfter.IsZero() && !s.validUpTo.IsZero() && !s.validAfter.Before(s.validUpTo) {
		return s, errors.New("valid-before is not later than valid-after")
	}
	return s, nil
}

const minRSABits = 2048

// checkSSHKey refuses keys that no signature of ours should rest on.
func checkSSHKey(key ssh.PublicKey) error {
	switch key.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoSKECDSA256:
		return nil
	case ssh.KeyAlgoRSA:
		if c, ok := key.(ssh.CryptoPublicKey); ok {
			if k, ok := c.CryptoPublicKey().(*rsa.PublicKey); ok && k.N.BitLen() >= minRSABits {
				return nil
			}
		}
		return fmt.Errorf("its RSA key has fewer than %d bits", minRSABits)
	}
	return errors.New("its key is of a type that is not accepted; use ed25519, ecdsa, rsa, or one of a hardware token (sk-)")
}

// parseSSHTime reads YYYYMMDD[Z] or YYYYMMDDHHMM[SS][Z]; without the Z it is
// the machine's own time, as ssh-keygen has it.
func parseSSHTime(text string) (time.Time, error) {
	zone := time.Local
	digits, utc := strings.CutSuffix(text, "Z")
	if utc {
		zone = time.UTC
	}
	for _, layout := range []string{"20060102", "200601021504", "20060102150405"} {
		if len(digits) == len(layout) {
			if t, err := time.ParseInLocation(layout, digits, zone); err == nil {
				return t, nil
			}
		}
	}
	return time.Time{}, errors.New("a time is not YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, with a Z for UTC")
}

const armorBegin = "-----BEGIN "

func (s *Signers) parseOpenPGP(text []byte) error {
	n := 0
	var block []byte // the one that is being read
	start := 0
	for line := range bytes.Lines(text) {
		n++
		trimmed := strings.TrimSpace(string(line))
		switch {
		case block == nil && strings.HasPrefix(trimmed, armorBegin):
			if trimmed != armorBegin+openpgp.PublicKeyType+"-----" {
				return fmt.Errorf("line %d: only public keys belong here; gpg --armor --export KEY prints them", n)
			}
			block, start = append([]byte{}, line...), n
		case block == nil && trimmed != "" && trimmed[0] != '#':
			return fmt.Errorf("line %d: it is outside of an armored block; gpg --armor --export KEY prints one", n)
		case block != nil:
			block = append(block, line...)
			if strings.HasPrefix(trimmed, "-----END ") {
				body, err := readKeyBlock(block)
				if err != nil {
					return fmt.Errorf("the block from line %d: %w", start, err)
				}
				s.openPGP = append(s.openPGP, body)
				block = nil
			}
		}
	}
	if block != nil {
		return fmt.Errorf("the block from line %d has no end", start)
	}
	if len(s.openPGP) == 0 {
		return errors.New("it holds no public key; gpg --armor --export KEY prints one")
	}
	return nil
}

// readKeyBlock takes the armor off and makes sure that every key can be read:
// the library's own reader of key rings leaves out those that it cannot.
func readKeyBlock(armored []byte) ([]byte, error) {
	block, err := armor.Decode(bytes.NewReader(armored))
	if err != nil {
		return nil, errors.New("its armor cannot be read")
	}
	body, err := io.ReadAll(block.Body)
	if err != nil {
		return nil, errors.New("its armor cannot be read")
	}
	keys, err := readEntities(body)
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, errors.New("it holds no key")
	}
	return body, nil
}

func readEntities(body []byte) (openpgp.EntityList, error) {
	var keys openpgp.EntityList
	for packets := packet.NewReader(bytes.NewReader(body)); ; {
		e, err := openpgp.ReadEntity(packets)
		if err == io.EOF {
			return keys, nil
		} else if err != nil {
			return nil, fmt.Errorf("key %d of it cannot be read (%s)", len(keys)+1, plain(err.Error()))
		}
		if e.PrivateKey != nil {
			return nil, errors.New("it holds a private key; only public keys belong here")
		}
		keys = append(keys, e)
	}
}
