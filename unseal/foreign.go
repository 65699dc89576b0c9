package unseal

import (
	"go.yaml.in/yaml/v3"

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

// OpenText unseals a file that plain sops sealed, to the text that sops -d prints:
// YAML, JSON, INI or dotenv by the end of its name, otherwise the bytes that were
// sealed. Errors are those of [Open], and a *manifest.Error for a file with
// sealward's binding, which Open checks. There is no binding: see [seal.Document].
func OpenText(file string, data []byte, ring *keyring.Ring) ([]byte, error) {
	if !seal.IsDocument(file) {
		return OpenBinary(file, data, ring)
	}
	d, err := openDocument(file, data, ring)
	if err != nil {
		return nil, err
	}
	return d.Text()
}

// OpenObjects unseals the Kubernetes objects in a YAML or JSON file that plain sops
// sealed, of any kind, one a document: mapping nodes without comments, with text
// where the file has text. Errors are those of [OpenText].
func OpenObjects(file string, data []byte, ring *keyring.Ring) ([]*yaml.Node, error) {
	d, err := openDocument(file, data, ring)
	if err != nil {
		return nil, err
	}
	return d.Objects()
}

func openDocument(file string, data []byte, ring *keyring.Ring) (*seal.Document, error) {
	d, err := seal.LoadDocument(file, data)
	if err != nil {
		return nil, err
	}
	key, err := dataKey(file, d, ring)
	if err != nil {
		return nil, err
	}
	if err := d.Open(key); err != nil {
		return nil, err
	}
	return d, nil
}

func openForeign(file string, f *seal.Foreign, ring *keyring.Ring) ([]seal.Value, error) {
	key, err := dataKey(file, f, ring)
	if err != nil {
		return nil, err
	}
	return f.Open(key)
}
