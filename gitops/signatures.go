package gitops

import (
	"errors"
	"fmt"

	"github.com/sealward/sealward/gitops/source"
)

// SignaturePolicy has only commits applied that one of these keys signed. At
// least one of the files is named; both are read at each new head, so that a
// change to who may sign needs no restart.
type SignaturePolicy struct {
	AllowedSignersFile string // of ssh-keygen(1)
	OpenPGPKeysFile    string // armored public keys
}

// vouched is a commit whose signature was accepted, and who made that.
type vouched struct {
	commit source.Hash
	signer string
}

// checkSignature sees that one who may sign signed commit of a mirror. Without a policy every
// commit will do, and nobody vouches for it.
func (a *Agent) checkSignature(m *source.Mirror, commit source.Hash) error {
	if a.Signatures == nil {
		return nil
	}
	signers, err := source.LoadSigners(a.Signatures.AllowedSignersFile, a.Signatures.OpenPGPKeysFile)
	if err != nil {
		return fmt.Errorf("no commit can be verified, so none is followed: %w", err)
	}
	signer, err := m.Verify(commit, signers, a.Now())
	if err != nil {
		return err
	}
	a.vouched = vouched{commit, signer}
	return nil
}

// checkHead is checkSignature of what the remote gave. A head that fails is shown
// as refused, and unlike one that rewinds the branch, no operator's word lets it
// in: who may sign stands in the settings.
func (a *Agent) checkHead(head source.Hash) error {
	err := a.checkSignature(a.Mirror, head)
	if err == nil {
		return nil
	}
	a.refuse(source.Hash{})
	if errors.Is(err, source.ErrUnsigned) || errors.Is(err, source.ErrSignature) {
		a.sync.Refused = head.String()
	}
	return fmt.Errorf("branch %s: its head is not followed: %w", a.Branch, err)
}

// checkRestored looks at what was applied before the restart. It was accepted then
// and stays served, also where the policy is newer than it, or its key expired.
func (a *Agent) checkRestored(commit source.Hash) {
	if err := a.checkSignature(a.Mirror, commit); err != nil {
		a.Log.Warn("the applied commit would not be followed now; it stays served", "commit", commit.String(), "error", oneLine(err))
	}
}

// signer is who vouches for a commit that is to be applied, be it anew; "" for
// nobody.
func (a *Agent) signer(commit source.Hash) string {
	switch commit {
	case a.vouched.commit:
		return a.vouched.signer
	case a.applied:
		return a.appliedBy
	}
	return ""
}
