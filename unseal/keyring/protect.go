package keyring

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"filippo.io/age"
	"filippo.io/age/armor"
)

// maxWorkFactor bounds what unlocking a file may cost: 2^20 is 1 GiB of memory
// and some seconds. age -p writes 2^18.
const maxWorkFactor = 20

const (
	ageHeader   = "age-encryption.org/"
	armorHeader = "-----BEGIN AGE ENCRYPTED FILE-----"
)

func isAgeFile(data []byte) bool {
	return bytes.HasPrefix(data, []byte(ageHeader)) || isArmored(data)
}

func isArmored(data []byte) bool {
	return bytes.HasPrefix(bytes.TrimLeft(data, " \t\r\n"), []byte(armorHeader))
}

// hasPassphrase reports that an age file is protected by a passphrase, so that
// nobody is asked for one in vain.
func hasPassphrase(data []byte) bool {
	var in io.Reader = bytes.NewReader(data)
	if isArmored(data) {
		in = armor.NewReader(in)
	}
	head := make([]byte, 64)
	n, _ := io.ReadFull(in, head)
	_, stanza, _ := bytes.Cut(head[:n], []byte("\n"))
	return bytes.HasPrefix(stanza, []byte("-> scrypt"))
}

var errPassphrase = fmt.Errorf("%w, and the passphrase that was given is wrong, or the file is damaged", ErrProtected)

// decryptAge opens an age file that a passphrase protects.
func decryptAge(data, passphrase []byte) ([]byte, error) {
	id, err := age.NewScryptIdentity(string(passphrase))
	if err != nil {
		return nil, errPassphrase
	}
	id.SetMaxWorkFactor(maxWorkFactor)
	plain, err := readAge(data, id)
	if errors.Is(err, errNotPlain) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("%w (or it needs more work to unlock than 2^%d, which is refused)", errPassphrase, maxWorkFactor)
	}
	return plain, nil
}

var errNotPlain = errors.New("holds something else than identities")

// readAge decrypts an age file, armored or not, of bounded size.
func readAge(data []byte, ids ...age.Identity) ([]byte, error) {
	var in io.Reader = bytes.NewReader(data)
	if isArmored(data) {
		in = armor.NewReader(in)
	}
	r, err := age.Decrypt(in, ids...)
	if err != nil {
		return nil, err
	}
	plain, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err == nil && len(plain) > maxFile {
		err = errNotPlain
	}
	return plain, err
}

// unlocked is what a workspace's file held when it was last read, by the SHA-256
// of what is protected: scrypt costs a second, and an agent reads its rings again
// and again.
type unlocked map[[sha256.Size]byte]attempt

// attempt to unlock some content: what it held, or the passphrase that failed.
type attempt struct {
	identities []identity
	failed     [sha256.Size]byte // SHA-256 of the passphrase
	err        error
}

// lock unlocks the protected contents of one file while it is read. The keyring's
// mutex is held. A nil lock refuses.
type lock struct {
	k              *Keyring
	path           string
	passphraseFile string
	before, now    unlocked
}

func (l *lock) open(content []byte, unlock func(passphrase []byte) ([]identity, error)) ([]identity, error) {
	if l == nil {
		return nil, fmt.Errorf("%w where none can be asked for", ErrProtected)
	}
	sum := sha256.Sum256(content)
	last, known := l.now[sum]
	if !known {
		last, known = l.before[sum]
	}
	if known && last.err == nil {
		l.now[sum] = last
		return last.identities, nil
	}
	if known && l.passphraseFile == "" { // asked before, and nobody wants to be asked again
		l.now[sum] = last
		return nil, last.err
	}
	passphrase, err := l.passphrase()
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(passphrase)
	if known && subtle.ConstantTimeCompare(digest[:], last.failed[:]) == 1 {
		l.now[sum] = last
		return nil, last.err
	}
	ids, err := unlock(passphrase)
	l.now[sum] = attempt{identities: ids, failed: digest, err: err}
	return ids, err
}

// passphrase for the file: what keyring.yaml names, or what somebody types.
func (l *lock) passphrase() ([]byte, error) {
	if l.passphraseFile != "" {
		passphrase, err := ReadPassphrase(l.passphraseFile)
		if err != nil {
			return nil, fmt.Errorf("%w: passphraseFile: %w", ErrProtected, err)
		}
		return passphrase, nil
	}
	err := ErrCannotAsk
	var passphrase []byte
	if l.k.ask != nil {
		passphrase, err = l.k.ask(l.path)
	}
	if errors.Is(err, ErrCannotAsk) {
		return nil, fmt.Errorf("%w, and there is no terminal to ask on; give --passphrase-file FILE, or name a passphraseFile for the workspace in %s", ErrProtected, filepath.Join(l.k.dir, SettingsFile))
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProtected, err)
	}
	return passphrase, nil
}

// ReadPassphrase reads a passphrase from a file. One newline at its end is not
// part of it.
func ReadPassphrase(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	const longest = 4 << 10
	data, err := io.ReadAll(io.LimitReader(f, longest+1))
	if err != nil {
		return nil, err
	}
	data = bytes.TrimSuffix(bytes.TrimSuffix(data, []byte("\n")), []byte("\r"))
	if len(data) == 0 || len(data) > longest {
		return nil, fmt.Errorf("%s: a passphrase has 1 to %d bytes", path, longest)
	}
	return data, nil
}
