package keyring

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"

	"filippo.io/age"
	"filippo.io/age/agessh"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
)

// Ring is the identities of one workspace, and the services it may ask. It is
// safe for concurrent use.
type Ring struct {
	workspace  manifest.Workspace
	order      []workspace.Recipient
	identities map[workspace.Recipient]identity
	services   *Services
}

func newRing(ws manifest.Workspace, services *Services, identities []identity) *Ring {
	r := &Ring{workspace: ws, identities: map[workspace.Recipient]identity{}, services: services}
	for _, id := range identities {
		r.order = append(r.order, id.recipient)
		r.identities[id.recipient] = id
	}
	return r
}

// Workspace whose manifests the ring opens.
func (r *Ring) Workspace() manifest.Workspace { return r.workspace }

// Recipients lists the public keys of the identities, the active one first. It is
// empty for a ring of services only.
func (r *Ring) Recipients() []workspace.Recipient {
	return append([]workspace.Recipient(nil), r.order...)
}

// Alone is the ring without the services: what its own identities open, at once
// and without asking anybody.
func (r *Ring) Alone() *Ring {
	alone := *r
	alone.services = &Services{workspace: r.services.workspace}
	return &alone
}

// Services that keyring.yaml lists for the workspace; never nil.
func (r *Ring) Services() *Services { return r.services }

// Active is the public key of the active identity. The error is ErrNoIdentity for
// a ring of services only.
func (r *Ring) Active() (workspace.Recipient, error) {
	if len(r.order) == 0 {
		return workspace.Recipient{}, fmt.Errorf("the ring of workspace %s %w; make one with sealward keys new %[1]s", r.workspace, ErrNoIdentity)
	}
	return r.order[0], nil
}

// ActiveRecipient is Active as age encrypts to it.
func (r *Ring) ActiveRecipient() (age.Recipient, error) {
	active, err := r.Active()
	if err != nil {
		return nil, err
	}
	return ageRecipient(active)
}

// ageRecipient is a recipient that needs nothing but itself to be encrypted to.
func ageRecipient(r workspace.Recipient) (age.Recipient, error) {
	switch r.Kind() {
	case workspace.KindAge:
		return age.ParseX25519Recipient(r.String())
	case workspace.KindHybrid:
		return age.ParseHybridRecipient(r.String())
	case workspace.KindSSH:
		return agessh.ParseRecipient(r.String())
	default:
		return nil, fmt.Errorf("recipient %.80q is neither of age nor of SSH", r)
	}
}

// Protected reports that an identity was unlocked with a passphrase.
func (r *Ring) Protected(rcpt workspace.Recipient) bool { return r.identities[rcpt].protected }

// Identities in the order of the file, for age.Decrypt.
func (r *Ring) Identities() []age.Identity {
	out := make([]age.Identity, len(r.order))
	for i, rcpt := range r.order {
		out[i] = r.identities[rcpt].Identity
	}
	return out
}

// Identity that belongs to a recipient, and false when the ring has none.
func (r *Ring) Identity(rcpt workspace.Recipient) (age.Identity, bool) {
	id, ok := r.identities[rcpt]
	return id.Identity, ok
}

// Authenticate gives a MAC (HMAC-SHA-256, 32 bytes) that only a holder of the
// active identity can make. context separates its uses. A ring of services only
// gives none.
func (r *Ring) Authenticate(context string, data []byte) []byte {
	if len(r.order) == 0 {
		return nil
	}
	return authenticate(r.identities[r.order[0]], context, data)
}

// Authentic reports that some identity of the ring made the MAC.
func (r *Ring) Authentic(context string, data, mac []byte) bool {
	ok := false
	for _, rcpt := range r.order {
		ok = hmac.Equal(mac, authenticate(r.identities[rcpt], context, data)) || ok
	}
	return ok
}

func authenticate(id identity, context string, data []byte) []byte {
	key, err := hkdf.Key(sha256.New, id.secret, nil, context, sha256.Size)
	if err != nil {
		panic("hkdf: " + err.Error()) // only for lengths that are no constant's
	}
	mac := hmac.New(sha256.New, key)
	mac.Write(data)
	return mac.Sum(nil)
}

// String names the workspace only, so that a ring that is printed by mistake
// shows no key.
func (r *Ring) String() string { return "ring of workspace " + r.workspace.String() }

// GoString is String.
func (r *Ring) GoString() string { return r.String() }
