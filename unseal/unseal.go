// Package unseal opens sealed manifests with the keys of one workspace and holds
// what was opened as immutable snapshots, one a commit.
//
// Most callers need [Open] for one manifest and [Snapshot] for what an agent
// serves. The package takes bytes, never a repository; the keys are in
// unseal/keyring, and who may read is decided in unseal/access.
package unseal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"
	"github.com/getsops/sops/v3"
	sopsage "github.com/getsops/sops/v3/age"
	"github.com/getsops/sops/v3/keyservice"
	"google.golang.org/grpc"

	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal/keyring"
)

// ErrNotRecipient: no identity of the ring opens the manifest's data key.
var ErrNotRecipient = errors.New("no identity in the keyring is a recipient")

// Options of Open.
type Options struct {
	// AllowUnbound accepts a manifest without a binding, as plain sops writes it.
	AllowUnbound bool
	// Rebind accepts a binding that does not fit, or none, so that the manifest
	// can be bound anew to what it states (seal.Envelope.Rebind).
	Rebind bool
}

// Opened is a manifest that was opened and verified.
type Opened struct {
	Manifest *manifest.Manifest
	Values   []seal.Value
	// Bound is false when the manifest has no binding and Options allowed that.
	Bound bool
	// Envelope can be changed and sealed again with the same data key.
	Envelope *seal.Envelope
}

// Open unseals one parsed manifest with the ring of its workspace. Errors wrap
// ErrNotRecipient or seal.ErrUnbound, or are a *seal.TamperError; none holds a
// value.
func Open(m *manifest.Manifest, ring *keyring.Ring, opts Options) (*Opened, error) {
	if m.Workspace.IsZero() {
		return nil, fmt.Errorf("%s: states no namespace, and nothing says which workspace it is of", m.File)
	}
	if m.Workspace != ring.Workspace() {
		return nil, fmt.Errorf("%s: is of workspace %s; the ring of %s cannot open it", m.File, m.Workspace, ring.Workspace())
	}
	e, err := seal.Load(m)
	if err != nil {
		return nil, err
	}
	dataKey, err := dataKey(m.File, e, ring)
	if err != nil {
		return nil, err
	}
	var values []seal.Value
	bound := false
	if opts.Rebind {
		values, err = e.OpenToRebind(dataKey)
	} else {
		values, bound, err = e.Open(dataKey, opts.AllowUnbound)
	}
	if err != nil {
		return nil, err
	}
	return &Opened{Manifest: m, Values: values, Bound: bound, Envelope: e}, nil
}

// sealed is a file with SOPS's metadata: a manifest or another file.
type sealed interface {
	Metadata() *sops.Metadata
	Recipients() []string
}

// dataKey lets SOPS find the data key, with the ring as its only key service.
func dataKey(file string, e sealed, ring *keyring.Ring) (key []byte, err error) {
	// SOPS panics on some hostile key groups.
	defer func() {
		if recover() != nil {
			key, err = nil, &seal.TamperError{File: file, Field: "sops", Reason: seal.ReasonForm, Msg: "the section cannot be read"}
		}
	}()
	svc := &ringService{ring: ring}
	key, err = e.Metadata().GetDataKeyWithKeyServices([]keyservice.KeyServiceClient{svc}, []string{sopsage.KeyTypeIdentifier})
	if err == nil && len(key) == 32 {
		return key, nil
	}
	if err == nil {
		return nil, &seal.TamperError{File: file, Field: "sops", Reason: seal.ReasonForm, Msg: "the data key has the wrong length"}
	}
	if svc.damaged {
		return nil, &seal.TamperError{File: file, Field: "sops.age", Reason: seal.ReasonForm, Msg: "the data key that is sealed for a key of this ring is damaged"}
	}
	return nil, fmt.Errorf("%s: %w of workspace %s: the file is sealed for %s; the ring has %s; ask a recipient to add yours to %s and seal it again",
		file, ErrNotRecipient, ring.Workspace(), list(e.Recipients()), list(ring.Recipients()), workspace.RulesFile)
}

// list shows up to five recipients. They stand in a file that anybody may have
// written, so each is cut and quoted if it is odd.
func list[T any](items []T) string {
	var out []string
	for i, item := range items {
		if i == 5 {
			out = append(out, fmt.Sprintf("%d more", len(items)-i))
			break
		}
		s := fmt.Sprint(item)
		if len(s) > 64 {
			s = s[:61] + "..."
		}
		out = append(out, strings.Trim(fmt.Sprintf("%q", s), `"`))
	}
	return strings.Join(out, ", ")
}

// ringService is a SOPS key service that only knows the age identities of one
// ring. Whatever else a file names (KMS, Vault, PGP, a plugin) is refused here,
// before any connection or process is made.
type ringService struct {
	ring    *keyring.Ring
	damaged bool
	guesses int
}

var errNotOurs = errors.New("not a key of this ring")

// Decrypt opens one sealed data key. The identity is found by the recipient the
// stanza names, so a ring with many retired identities costs no more. As that
// name is only a label, the others are tried after it when it is unknown.
func (s *ringService) Decrypt(_ context.Context, req *keyservice.DecryptRequest, _ ...grpc.CallOption) (*keyservice.DecryptResponse, error) {
	k := req.GetKey().GetAgeKey()
	if k == nil {
		return nil, errNotOurs
	}
	rcpt, err := workspace.ParseRecipient(k.Recipient)
	id, ours := s.ring.Identity(rcpt)
	if err == nil && ours {
		if key, err := decryptKey(req.Ciphertext, id); err == nil {
			return &keyservice.DecryptResponse{Plaintext: key}, nil
		}
	}
	s.damaged = s.damaged || ours
	if s.guesses++; s.guesses > maxGuesses {
		return nil, errNotOurs
	}
	if key, err := decryptKey(req.Ciphertext, s.ring.Identities()...); err == nil {
		return &keyservice.DecryptResponse{Plaintext: key}, nil
	}
	return nil, errNotOurs
}

// maxGuesses bounds the stanzas of one file that are tried although they carry a
// name that the ring does not have.
const maxGuesses = 16

func decryptKey(armored []byte, identities ...age.Identity) ([]byte, error) {
	sealed, err := io.ReadAll(armor.NewReader(bytes.NewReader(armored)))
	if err != nil {
		return nil, err
	}
	// The header ends at the first line with its MAC; SOPS writes one stanza.
	header, _, _ := bytes.Cut(sealed, []byte("\n--- "))
	if bytes.Count(header, []byte("\n-> ")) != 1 {
		return nil, errNotOurs
	}
	r, err := age.Decrypt(bytes.NewReader(sealed), identities...)
	if err != nil {
		return nil, err
	}
	// One byte more than a data key has: a longer one is noticed, not read whole.
	return io.ReadAll(io.LimitReader(r, 33))
}

// Encrypt refuses: unsealing seals for nobody.
func (s *ringService) Encrypt(context.Context, *keyservice.EncryptRequest, ...grpc.CallOption) (*keyservice.EncryptResponse, error) {
	return nil, errNotOurs
}
