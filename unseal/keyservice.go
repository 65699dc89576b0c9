package unseal

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"
	"github.com/getsops/sops/v3/keyservice"
	"golang.org/x/crypto/chacha20poly1305"
	"google.golang.org/grpc"

	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal/keyring"
)

// KeyService is what seals a data key for recipients that are services
// (seal.Options.Keys): for those that keyring.yaml lists, and no others. A
// repository names recipients; it must not choose where somebody's credentials
// go.
func KeyService(services *keyring.Services) keyservice.KeyServiceClient {
	return &ringService{services: services}
}

// ringService is a SOPS key service that only knows the identities of one ring,
// and the services that keyring.yaml lists for it. Whatever else a file names
// (KMS, Vault, PGP, a plugin) is refused here, before any connection or process
// is made.
type ringService struct {
	ring     *keyring.Ring // nil opens nothing
	services *keyring.Services

	damaged bool
	guesses int
	asked   int
	failed  error                 // of the first listed service that failed
	refused []workspace.Recipient // keys that the file names and nothing lists
}

var errNotOurs = errors.New("not a key of this ring")

// Bounds of one file, which may name hundreds of keys.
const (
	// maxGuesses: age stanzas that are tried although they carry a name that the
	// ring does not have.
	maxGuesses = 16
	// maxAsked: calls of listed services.
	maxAsked = 8
)

// Decrypt opens one sealed data key, or share of one. The identity is found by
// the recipient the stanza names, so a ring with many retired identities costs no
// more. As that name is only a label, the others are tried after it when it is
// unknown.
func (s *ringService) Decrypt(ctx context.Context, req *keyservice.DecryptRequest, _ ...grpc.CallOption) (*keyservice.DecryptResponse, error) {
	if s.ring == nil {
		return nil, errNotOurs
	}
	var key []byte
	var err error
	if k := req.GetKey().GetAgeKey(); k != nil {
		key, err = s.decryptAge(k.Recipient, req.Ciphertext)
	} else {
		key, err = s.ask(ctx, req.GetKey(), req.Ciphertext)
	}
	if err != nil {
		return nil, err
	}
	return &keyservice.DecryptResponse{Plaintext: key}, nil
}

func (s *ringService) decryptAge(label string, sealed []byte) ([]byte, error) {
	rcpt, err := workspace.ParseRecipient(label)
	id, ours := s.ring.Identity(rcpt)
	if err == nil && ours {
		if key, err := decryptKey(sealed, id); err == nil {
			return key, nil
		}
	}
	s.damaged = s.damaged || ours
	if s.guesses++; s.guesses > maxGuesses {
		return nil, errNotOurs
	}
	return decryptKey(sealed, s.ring.Identities()...)
}

func decryptKey(armored []byte, identities ...age.Identity) ([]byte, error) {
	if len(identities) == 0 {
		return nil, errNotOurs
	}
	sealed, err := io.ReadAll(armor.NewReader(bytes.NewReader(armored)))
	if err != nil {
		return nil, err
	}
	// The header ends at the first line with its MAC; SOPS writes one stanza.
	header, _, _ := bytes.Cut(sealed, []byte("\n--- "))
	if bytes.Count(header, []byte("\n-> ")) != 1 {
		return nil, errNotOurs
	}
	return openAge(sealed, identities...)
}

// keySize is the most that openAge gives: one byte more than a share has, so that a
// longer one is noticed and not read whole.
const keySize = shareSize + 1

// openAge gives the first keySize bytes of what an age file holds. age.Decrypt keeps two
// buffers of 64 KiB for each file, half of what an agent's first sync would allocate. A
// data key has 32 bytes, so here age opens the header, and the one chunk after it is
// opened as age specifies it; whatever is longer is left to age.Decrypt.
// FuzzOpenAge holds both ways equal.
func openAge(sealed []byte, identities ...age.Identity) ([]byte, error) {
	before, after, found := bytes.Cut(sealed, []byte("\n--- "))
	mac, payload, ended := bytes.Cut(after, []byte("\n"))
	if !found || !ended || len(payload) < ageNonceSize || len(payload)-ageNonceSize > ageChunkSize {
		return plainAge(sealed, identities...)
	}
	fileKey, err := age.DecryptHeader(sealed[:len(before)+len("\n--- ")+len(mac)+1], identities...)
	if err != nil {
		return nil, err
	}
	nonce, chunk := payload[:ageNonceSize], payload[ageNonceSize:]
	// https://c2sp.org/age: the payload's key, and a chunk's nonce: its number, and 1 in
	// the last one.
	key, err := hkdf.Key(sha256.New, fileKey, nonce, "payload", chacha20poly1305.KeySize)
	if err != nil {
		return nil, err
	}
	aead, err := chacha20poly1305.New(key)
	if err != nil {
		return nil, err
	}
	var onlyChunk [chacha20poly1305.NonceSize]byte
	onlyChunk[len(onlyChunk)-1] = 1
	plain, err := aead.Open(nil, onlyChunk[:], chunk, nil)
	if err != nil {
		return nil, err
	}
	return plain[:min(len(plain), keySize)], nil
}

const (
	ageNonceSize = 16
	ageChunkSize = 4 << 10 // of ciphertext, well below the 64 KiB after which age starts another
)

// plainAge is openAge as age does it.
func plainAge(sealed []byte, identities ...age.Identity) ([]byte, error) {
	r, err := age.Decrypt(bytes.NewReader(sealed), identities...)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(r, keySize))
}

// ask has a listed service open a data key.
func (s *ringService) ask(ctx context.Context, named *keyservice.Key, sealed []byte) ([]byte, error) {
	svc, err := s.listed(named)
	if err != nil {
		return nil, err
	}
	if s.asked++; s.asked > maxAsked {
		return nil, errNotOurs
	}
	key, err := use(ctx, svc, func(ctx context.Context, k serviceKey) ([]byte, error) {
		k.SetEncryptedDataKey(sealed)
		return k.DecryptContext(ctx)
	})
	if err == nil && len(key) != dataKeySize && len(key) != shareSize {
		err = errors.New("it gave something else than a data key")
	}
	if err != nil && s.failed == nil {
		s.failed = fmt.Errorf("%w: %s (%s): %w", ErrService, svc.Key, svc.Key.Kind(), err)
	}
	return key, err
}

// listed finds the service that keyring.yaml lists for a key that a file or a
// rule names. What is used is what keyring.yaml says, never the name.
func (s *ringService) listed(named *keyservice.Key) (*keyring.Service, error) {
	rcpt, err := recipientOf(named)
	if err != nil {
		return nil, errNotOurs
	}
	if svc, ok := s.services.Find(rcpt); ok {
		return svc, nil
	}
	s.refused = append(s.refused, rcpt)
	return nil, fmt.Errorf("%s (%s) is not listed for this workspace, so it was not asked; %s", rcpt, rcpt.Kind(), s.services.Advice(rcpt))
}

// remedy ends the error of a file that nothing in the ring opens.
func (s *ringService) remedy() string {
	if len(s.refused) > 0 {
		return fmt.Sprintf("%s was not asked: a manifest does not choose where credentials go. If your workspace is opened with it, %s", list(s.refused), s.services.Advice(s.refused[0]))
	}
	return "ask a recipient to add yours to " + workspace.RulesFile + " and seal it again"
}

// Encrypt seals a data key, or share of one, with a listed service.
func (s *ringService) Encrypt(ctx context.Context, req *keyservice.EncryptRequest, _ ...grpc.CallOption) (*keyservice.EncryptResponse, error) {
	svc, err := s.listed(req.GetKey())
	if err != nil {
		return nil, err
	}
	sealed, err := use(ctx, svc, func(ctx context.Context, k serviceKey) ([]byte, error) {
		err := k.EncryptContext(ctx, req.Plaintext)
		return k.EncryptedDataKey(), err
	})
	if err != nil {
		return nil, fmt.Errorf("the data key could not be sealed by %s (%s): %w", svc.Key, svc.Key.Kind(), err)
	}
	return &keyservice.EncryptResponse{Ciphertext: sealed}, nil
}

// recipientOf reads the name of a key that is a service's.
func recipientOf(k *keyservice.Key) (workspace.Recipient, error) {
	switch {
	case k.GetPgpKey() != nil:
		return workspace.ParseRecipient(k.GetPgpKey().Fingerprint)
	case k.GetVaultKey() != nil:
		v := k.GetVaultKey()
		return workspace.ParseRecipient(strings.TrimSuffix(v.VaultAddress, "/") + "/v1/" + v.EnginePath + "/keys/" + v.KeyName)
	case k.GetKmsKey() != nil:
		a := k.GetKmsKey()
		return workspace.ParseAWS(a.Arn, a.Role, a.Context, "")
	case k.GetGcpKmsKey() != nil:
		return workspace.ParseRecipient(k.GetGcpKmsKey().ResourceId)
	case k.GetAzureKeyvaultKey() != nil:
		z := k.GetAzureKeyvaultKey()
		return workspace.ParseRecipient(strings.TrimSuffix(z.VaultUrl, "/") + "/keys/" + z.Name + "/" + z.Version)
	default:
		return workspace.Recipient{}, errNotOurs
	}
}
