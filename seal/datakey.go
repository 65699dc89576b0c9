package seal

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/getsops/sops/v3"
	"github.com/getsops/sops/v3/keyservice"
	"github.com/getsops/sops/v3/pgp"
	"google.golang.org/grpc"

	"github.com/sealward/sealward/seal/workspace"
)

// newDataKey gives the envelope a fresh data key, sealed for the recipients
// given, and no memory of the old ciphertexts: what is sealed from here on has
// nothing in common with what an earlier holder of the file could open.
func (e *Envelope) newDataKey(to workspace.Recipients, online keyservice.KeyServiceClient) error {
	silenceSOPS()
	e.dataKey = make([]byte, 32)
	if _, err := rand.Read(e.dataKey); err != nil {
		return err
	}
	e.cipher = newFieldCipher()
	meta := &e.tree.Metadata
	meta.KeyGroups, meta.ShamirThreshold = nil, 0
	for _, group := range to.Groups() {
		var keys sops.KeyGroup
		for _, r := range group {
			k, err := r.MasterKey()
			if err != nil {
				return fmt.Errorf("%s: the data key could not be sealed for %s", e.m.File, r)
			}
			keys = append(keys, k)
		}
		meta.KeyGroups = append(meta.KeyGroups, keys)
	}
	if len(meta.KeyGroups) > 1 {
		meta.ShamirThreshold = to.Threshold()
	}
	svc := &sealService{online: online}
	if errs := meta.UpdateMasterKeysWithKeyServices(e.dataKey, []keyservice.KeyServiceClient{svc}); len(errs) > 0 {
		if svc.err != nil { // SOPS's own texts are not passed on
			return fmt.Errorf("%s: %w", e.m.File, svc.err)
		}
		return fmt.Errorf("%s: SOPS could not seal the data key for every recipient", e.m.File)
	}
	return nil
}

// sealService is a SOPS key service that seals data keys: for age and SSH
// recipients here, for PGP with the local gpg, and for services as online allows.
type sealService struct {
	online keyservice.KeyServiceClient
	err    error // the first, with what to do
}

// Encrypt seals a data key, or a share of one, for one recipient.
func (s *sealService) Encrypt(ctx context.Context, req *keyservice.EncryptRequest, opts ...grpc.CallOption) (*keyservice.EncryptResponse, error) {
	out, err := s.encrypt(ctx, req, opts...)
	if err != nil && s.err == nil {
		s.err = err
	}
	return out, err
}

// gpgTimeout bounds one run of gpg.
const gpgTimeout = time.Minute

func (s *sealService) encrypt(ctx context.Context, req *keyservice.EncryptRequest, opts ...grpc.CallOption) (*keyservice.EncryptResponse, error) {
	switch {
	case req.GetKey().GetAgeKey() != nil:
		label := req.Key.GetAgeKey().Recipient
		r, err := workspace.ParseRecipient(label)
		if err != nil {
			return nil, err
		}
		k, err := r.MasterKey()
		if err == nil {
			err = k.Encrypt(req.Plaintext)
		}
		if err != nil {
			return nil, fmt.Errorf("the data key could not be sealed for %s", r)
		}
		return &keyservice.EncryptResponse{Ciphertext: k.EncryptedDataKey()}, nil
	case req.GetKey().GetPgpKey() != nil:
		k := pgp.NewMasterKeyFromFingerprint(req.Key.GetPgpKey().Fingerprint)
		// SOPS would look for keyrings of gpg 1 in the home folder first.
		pgp.DisableOpenPGP{}.ApplyToMasterKey(k)
		ctx, cancel := context.WithTimeout(ctx, gpgTimeout)
		defer cancel()
		if err := k.EncryptContext(ctx, req.Plaintext); err != nil {
			return nil, fmt.Errorf("gpg could not seal the data key for %s: is gpg installed, and the public key imported (gpg --import)?", k.Fingerprint)
		}
		return &keyservice.EncryptResponse{Ciphertext: []byte(k.EncryptedKey)}, nil
	case s.online == nil:
		return nil, errors.New("a recipient is a key service on the network, and no keyring says that it may be asked")
	default:
		return s.online.Encrypt(ctx, req, opts...)
	}
}

// Decrypt refuses: sealing opens nothing.
func (s *sealService) Decrypt(context.Context, *keyservice.DecryptRequest, ...grpc.CallOption) (*keyservice.DecryptResponse, error) {
	return nil, errors.New("sealing opens nothing")
}
