package unseal

import (
	"errors"

	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal/keyring"
)

// Classify says which class of failure an error of manifest.Parse,
// Manifest.CheckSealed, Manifest.CheckPlace, keyring.Keyring.Ring or Open is.
func Classify(err error) FailureClass {
	var tamper *seal.TamperError
	var form manifest.Errors
	var one *manifest.Error
	switch {
	case errors.As(err, &form) && form.Leaked():
		return FailNotSealed
	case errors.As(err, &form):
		return FailManifest
	case errors.As(err, &one) && one.Misplaced:
		return FailPlace
	case errors.As(err, &tamper):
		return FailTampered
	case errors.Is(err, ErrService):
		return FailService
	case errors.Is(err, seal.ErrUnbound):
		return FailUnbound
	case errors.Is(err, ErrNotRecipient), errors.Is(err, keyring.ErrNoRing):
		return FailNoKey
	default:
		return FailManifest
	}
}
