package main

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/getsops/sops/v3"
	"github.com/getsops/sops/v3/aes"
	"github.com/getsops/sops/v3/age"
	"github.com/getsops/sops/v3/config"
	"github.com/getsops/sops/v3/keyservice"
	"github.com/getsops/sops/v3/logging"
	"github.com/getsops/sops/v3/stores/yaml"
	"github.com/getsops/sops/v3/version"

	"github.com/sealward/sealward/seal/manifest"
)

// library is what a program does that has only the SOPS library: the steps of
// SOPS's own package decrypt, and of sops encrypt, with the identity given to it
// and not searched for.
type library struct {
	recipient string
	keys      []keyservice.KeyServiceClient
}

func newLibrary(recipient, identity string) (*library, error) {
	for _, l := range logging.Loggers {
		l.SetOutput(io.Discard)
	}
	var ids age.ParsedIdentities
	if err := ids.Import(identity); err != nil {
		return nil, err
	}
	return &library{recipient, []keyservice.KeyServiceClient{keyservice.NewCustomLocalClient(ageService{ids})}}, nil
}

// ageService is SOPS's local key service, with given age identities.
type ageService struct{ ids age.ParsedIdentities }

func (s ageService) Encrypt(ctx context.Context, r *keyservice.EncryptRequest) (*keyservice.EncryptResponse, error) {
	return keyservice.Server{}.Encrypt(ctx, r)
}

func (s ageService) Decrypt(_ context.Context, r *keyservice.DecryptRequest) (*keyservice.DecryptResponse, error) {
	stanza := r.GetKey().GetAgeKey()
	if stanza == nil {
		return nil, errors.New("not an age key")
	}
	k := age.MasterKey{Recipient: stanza.Recipient, EncryptedKey: string(r.Ciphertext)}
	s.ids.ApplyToMasterKey(&k)
	plain, err := k.Decrypt()
	return &keyservice.DecryptResponse{Plaintext: plain}, err
}

func store() *yaml.Store { return yaml.NewStore(&config.YAMLStoreConfig{Indent: 4}) }

func (l *library) seal(plain []byte) ([]byte, error) {
	branches, err := store().LoadPlainFile(plain)
	if err != nil {
		return nil, err
	}
	key, err := age.MasterKeyFromRecipient(l.recipient)
	if err != nil {
		return nil, err
	}
	tree := sops.Tree{Branches: branches, Metadata: sops.Metadata{
		KeyGroups: []sops.KeyGroup{{key}}, EncryptedRegex: manifest.SealedPattern, Version: version.Version,
	}}
	dataKey, errs := tree.GenerateDataKeyWithKeyServices(l.keys)
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	cipher := aes.NewCipher()
	mac, err := tree.Encrypt(dataKey, cipher)
	if err != nil {
		return nil, err
	}
	meta := &tree.Metadata
	meta.LastModified = time.Now().UTC()
	if meta.MessageAuthenticationCode, err = cipher.Encrypt(mac, dataKey, meta.LastModified.Format(time.RFC3339)); err != nil {
		return nil, err
	}
	return store().EmitEncryptedFile(tree)
}

func (l *library) open(sealed []byte) ([]byte, error) {
	tree, err := store().LoadEncryptedFile(sealed)
	if err != nil {
		return nil, err
	}
	dataKey, err := tree.Metadata.GetDataKeyWithKeyServices(l.keys, []string{age.KeyTypeIdentifier})
	if err != nil {
		return nil, err
	}
	cipher := aes.NewCipher()
	mac, err := tree.Decrypt(dataKey, cipher)
	if err != nil {
		return nil, err
	}
	stated, err := cipher.Decrypt(tree.Metadata.MessageAuthenticationCode, dataKey, tree.Metadata.LastModified.Format(time.RFC3339))
	if err != nil {
		return nil, err
	}
	if stated != mac {
		return nil, errors.New("the MAC differs")
	}
	return store().EmitPlainFile(tree.Branches)
}
