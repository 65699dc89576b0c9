package source

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// sshNamespace is what git signs commits under, so that a signature over
// anything else (an e-mail, a release) is none of a commit.
const sshNamespace = "git"

// clockSkew is how far a signer's clock may be ahead of ours.
const clockSkew = 5 * time.Minute

// Verify checks who signed commit h: one of s, with a key that is valid now.
// It returns the signer's name as s has it: the principals of a line of the
// allowed signers file, or an OpenPGP user id and the end of the primary key's
// fingerprint. The signature covers what the commit says, its parents' and its
// tree's names included; who is named there as author and committer is the
// signer's word, no more.
//
// A key that expired or was revoked since it signed is refused, unlike git
// verify-commit, which asks for the commit's own date: whoever holds the key
// writes that date.
//
// ErrUnsigned and ErrSignature say what is wrong; others are the mirror's.
func (m *Mirror) Verify(h Hash, s *Signers, now time.Time) (signer string, err error) {
	// The bytes as they are stored: go-git would write them out anew from what
	// it understood, and that is not always what was signed.
	raw, err := m.store.read(h, plumbing.CommitObject, maxCommitSize)
	if err != nil {
		return "", err
	}
	if signer, err = s.verify(raw, now); err != nil {
		return "", fmt.Errorf("commit %s: %w", h, err)
	}
	return signer, nil
}

func (s *Signers) verify(raw []byte, now time.Time) (string, error) {
	payload, signature, err := splitCommit(raw)
	if err != nil {
		return "", err
	}
	switch first, _, _ := strings.Cut(string(signature), "\n"); strings.TrimRight(first, "\r ") {
	case "-----BEGIN SSH SIGNATURE-----":
		return s.verifySSH(payload, signature, now)
	case "-----BEGIN PGP SIGNATURE-----":
		return s.verifyOpenPGP(payload, signature, now)
	case "-----BEGIN SIGNED MESSAGE-----":
		return "", badSignature("it is an X.509 signature; sign with OpenPGP or SSH (git config gpg.format)")
	}
	return "", badSignature("it is neither OpenPGP's nor SSH's; see git config gpg.format")
}

func badSignature(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrSignature}, args...)...)
}

// splitCommit takes the signature out of a commit, which leaves the bytes that
// were signed. Only the one gpgsig header is taken out, and what it leaves must
// be the same commit as before.
func splitCommit(raw []byte) (payload, signature []byte, err error) {
	header, rest := raw, []byte(nil)
	if i := bytes.Index(raw, []byte("\n\n")); i >= 0 {
		header, rest = raw[:i+1], raw[i+1:]
	}
	inside, found := false, false
	for line := range bytes.Lines(header) {
		name, value, _ := bytes.Cut(line, []byte(" "))
		switch {
		case inside && len(name) == 0:
			signature = append(signature, value...)
			continue
		case string(name) == "gpgsig":
			if found {
				return nil, nil, badSignature("it has two; sign the commit anew")
			}
			inside, found = true, true
			signature = append(signature, value...)
			continue
		case bytes.HasPrefix(name, []byte("gpgsig")):
			// Another header for signatures, such as gpgsig-sha256: git leaves it
			// out of what is signed.
			return nil, nil, badSignature("it has a header %q beside gpgsig or in its place, which is not supported", plain(string(bytes.TrimSpace(name))))
		}
		inside = false
		payload = append(payload, line...)
	}
	if !found {
		return nil, nil, fmt.Errorf("%w: sign it (git commit -S), or have the pull request merged by one who signs", ErrUnsigned)
	}
	payload = append(payload, rest...)

	var whole, signed object.Commit
	for c, text := range map[*object.Commit][]byte{&whole: raw, &signed: payload} {
		if err := decodeCommit(c, text); err != nil {
			return nil, nil, badSignature("the commit is malformed")
		}
	}
	if whole.TreeHash != signed.TreeHash || !slices.Equal(whole.ParentHashes, signed.ParentHashes) ||
		whole.Author.String() != signed.Author.String() || !whole.Author.When.Equal(signed.Author.When) ||
		whole.Committer.String() != signed.Committer.String() || !whole.Committer.When.Equal(signed.Committer.When) ||
		whole.Message != signed.Message {
		return nil, nil, badSignature("the commit reads differently without it")
	}
	return payload, signature, nil
}

func decodeCommit(c *object.Commit, raw []byte) error {
	obj := &plumbing.MemoryObject{}
	obj.SetType(plumbing.CommitObject)
	if _, err := obj.Write(raw); err != nil {
		return err
	}
	return c.Decode(obj)
}

func (s *Signers) verifySSH(payload, armored []byte, now time.Time) (string, error) {
	sig, err := sshsig.Unarmor(armored)
	if err != nil {
		return "", badSignature("its SSH signature cannot be read, or is of a kind that is too weak")
	}
	if _, ok := sig.PublicKey.(*ssh.Certificate); ok {
		return "", badSignature("it is signed with an SSH certificate, which is not supported; sign with the key itself")
	}
	by := "SSH key " + ssh.FingerprintSHA256(sig.PublicKey)
	if err := checkSSHKey(sig.PublicKey); err != nil {
		return "", badSignature("by %s: %w", by, err)
	}
	key := sig.PublicKey.Marshal()
	why := "is not in allowedSignersFile; if its holder may sign, add it there"
	for _, allowed := range s.ssh {
		if !bytes.Equal(allowed.key.Marshal(), key) {
			continue
		}
		switch {
		case !allowed.git:
			why = fmt.Sprintf(`may not sign commits by line %d of allowedSignersFile: its namespaces do not have "git"`, allowed.line)
			continue
		case !allowed.validAfter.IsZero() && now.Before(allowed.validAfter):
			why = fmt.Sprintf("is not valid yet by line %d of allowedSignersFile", allowed.line)
			continue
		case !allowed.validUpTo.IsZero() && now.After(allowed.validUpTo):
			why = fmt.Sprintf("is no longer valid by line %d of allowedSignersFile; sign with a key that is", allowed.line)
			continue
		}
		if err := sshsig.Verify(bytes.NewReader(payload), sig, allowed.key, sig.HashAlgorithm, sshNamespace); errors.Is(err, sshsig.ErrNamespaceMismatch) {
			return "", badSignature("%s signed something that is no commit (its namespace is not git)", by)
		} else if err != nil {
			return "", badSignature("%s did not sign this commit: the commit was changed after it was signed, or the signature is made up", by)
		}
		return allowed.names, nil
	}
	return "", badSignature("%s %s", by, why)
}

// openPGPConfig is stricter than the library's default, which still accepts
// SHA-1 in the signatures that make up a key.
func openPGPConfig(now time.Time) *packet.Config {
	weak := map[crypto.Hash]bool{crypto.SHA1: true, crypto.MD5: true, crypto.RIPEMD160: true}
	return &packet.Config{
		Time:                 func() time.Time { return now },
		RejectHashAlgorithms: weak, RejectMessageHashAlgorithms: weak,
		MinRSABits: minRSABits - 1, // a key of 2048 bits may have a first bit of 0
	}
}

func (s *Signers) verifyOpenPGP(payload, armored []byte, now time.Time) (string, error) {
	sig, err := readSignature(armored)
	if err != nil {
		return "", err
	}
	by := fmt.Sprintf("OpenPGP key %016X", *sig.IssuerKeyId)
	if len(sig.IssuerFingerprint) > 0 {
		by = fmt.Sprintf("OpenPGP key %X", sig.IssuerFingerprint)
	}
	config := openPGPConfig(now)
	switch {
	case sig.SigType != packet.SigTypeBinary:
		return "", badSignature("by %s: it is of a type that git does not make", by)
	case config.RejectMessageHashAlgorithm(sig.Hash):
		return "", badSignature("by %s: it rests on %s, which is too weak; set digest-algo SHA256 in gpg.conf and sign anew", by, sig.Hash)
	case sig.CreationTime.After(now.Add(clockSkew)):
		return "", badSignature("by %s: it is dated %s, which is to come; check the clocks", by, sig.CreationTime.UTC().Format(time.RFC3339))
	case !sig.CreationTime.After(now) && sig.SigExpired(now):
		return "", badSignature("by %s: it has expired; sign anew", by)
	}
	for _, n := range sig.Notations {
		if n.IsCritical {
			return "", badSignature("by %s: it has a critical notation, none of which is known", by)
		}
	}
	result := badSignature("%s is not in openPGPKeysFile; if its holder may sign, add it there (gpg --armor --export)", by)
	for _, body := range s.openPGP {
		keys, err := readEntities(body)
		if err != nil {
			return "", fmt.Errorf("openPGPKeysFile: %w: %w", ErrConfig, err)
		}
		// Two keys can be made to share an id.
		for _, e := range keys.EntitiesById(*sig.IssuerKeyId) {
			key, err := signingKey(e, *sig.IssuerKeyId, now, config)
			if err != nil {
				result = badSignature("%s %w", by, err)
				continue
			}
			h, err := sig.PrepareVerify()
			if err != nil {
				return "", badSignature("by %s: it rests on a hash that is not supported", by)
			}
			h.Write(payload)
			if err := key.VerifySignature(h, sig); err != nil {
				result = badSignature("%s did not sign this commit: the commit was changed after it was signed, or the signature is made up", by)
				continue
			}
			_, id := e.PrimaryIdentity(now, config)
			name := ""
			if id != nil {
				name = plain(id.Name) + " "
			}
			return fmt.Sprintf("%s(OpenPGP %016X)", name, e.PrimaryKey.KeyId), nil
		}
	}
	return "", result
}

// readSignature reads an armored signature, of which there must be one: with
// several, which of them counts would be a matter of taste.
func readSignature(armored []byte) (*packet.Signature, error) {
	block, err := armor.Decode(bytes.NewReader(armored))
	if err != nil {
		return nil, badSignature("its OpenPGP armor cannot be read")
	}
	packets := packet.NewReader(block.Body)
	p, err := packets.Next()
	if err != nil {
		return nil, badSignature("its OpenPGP signature cannot be read")
	}
	sig, ok := p.(*packet.Signature)
	if !ok || sig.IssuerKeyId == nil {
		return nil, badSignature("it is no OpenPGP signature that names its key")
	}
	if _, err := packets.Next(); err != io.EOF {
		return nil, badSignature("something follows its OpenPGP signature")
	}
	return sig, nil
}

// signingKey finds e's key with that id. It must be able to sign, and be valid
// now: so must the primary key it belongs to.
func signingKey(e *openpgp.Entity, id uint64, now time.Time, config *packet.Config) (*packet.PublicKey, error) {
	if key, ok := e.SigningKeyById(now, id, config); ok {
		return key.PublicKey, nil
	}
	_, err := e.VerifyPrimaryKey(now, config)
	if err == nil {
		for _, sub := range e.Subkeys {
			if sub.PublicKey.KeyId == id {
				_, err = sub.Verify(now, config)
			}
		}
	}
	switch {
	case errors.Is(err, pgperrors.ErrKeyRevoked):
		return nil, errors.New("was revoked; sign with another")
	case errors.Is(err, pgperrors.ErrKeyExpired):
		return nil, errors.New("has expired; extend it and export it to openPGPKeysFile again, or sign with another")
	}
	return nil, errors.New("is in openPGPKeysFile, but may not sign, is too weak, or holds no valid signature of its own that is not SHA-1")
}
