package unseal

import (
	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/unseal/keyring"
)

// OpenDotenv unseals a dotenv file that plain sops sealed, with a ring as the only
// source of keys. Errors are those of [Open]. There is no binding: nothing proves
// which secret the values belong to.
func OpenDotenv(file string, data []byte, ring *keyring.Ring) ([]seal.Value, error) {
	f, err := seal.LoadDotenv(file, data)
	if err != nil {
		return nil, err
	}
	return openForeign(file, f, ring)
}

// OpenBinary is OpenDotenv for a file that plain sops sealed as bytes.
func OpenBinary(file string, data []byte, ring *keyring.Ring) ([]byte, error) {
	f, err := seal.LoadBinary(file, data)
	if err != nil {
		return nil, err
	}
	values, err := openForeign(file, f, ring)
	if err != nil {
		return nil, err
	}
	return values[0].Data, nil // LoadBinary: data, and nothing else
}

func openForeign(file string, f *seal.Foreign, ring *keyring.Ring) ([]seal.Value, error) {
	key, err := dataKey(file, f, ring)
	if err != nil {
		return nil, err
	}
	return f.Open(key)
}
