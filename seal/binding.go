package seal

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/getsops/sops/v3"

	"github.com/sealward/sealward/seal/manifest"
)

// bindingInfo separates the binding's key from every other use of the data key,
// and one version of the binding from the next.
const bindingInfo = "sealward binding v1"

// binding is the text that is sealed as seal.binding (or annotation): an
// HMAC-SHA-256 under a key derived from the data key (HKDF, RFC 5869), over what
// the manifest is (form and kind, workspace, name) and every field but itself and
// sops. It is keyed, and sealed on top, because a plain digest of short values
// could be guessed.
// docs/format.md specifies the encoding.
func binding(dataKey []byte, m *manifest.Manifest, root sops.TreeBranch) (string, error) {
	key, err := hkdf.Key(sha256.New, dataKey, nil, bindingInfo, sha256.Size)
	if err != nil {
		return "", err
	}
	mac := hmac.New(sha256.New, key)
	for _, s := range []string{bindingInfo, m.FormKind(), m.Workspace.String(), m.Name.String()} {
		mac.Write(lengthPrefixed(nil, []byte(s)))
	}
	skip := [][]string{{"sops"}, {"seal"}}
	if m.Form == manifest.Kubernetes {
		skip[1] = m.BindingPath()
	}
	var fields [][]byte
	if err := appendFields(&fields, nil, 0, root, skip); err != nil {
		return "", err
	}
	// Sorted, so that the order of fields, which YAML gives no meaning, has none here.
	slices.SortFunc(fields, bytes.Compare)
	for _, f := range fields {
		mac.Write(f)
	}
	return "v1:" + base64.StdEncoding.EncodeToString(mac.Sum(nil)), nil
}

// appendFields adds one record for each node at and below in, except those at and
// below the paths of skip: the number of path components, the components, the
// type, the value.
func appendFields(out *[][]byte, path []byte, depth int, in any, skip [][]string) error {
	kind, value, err := typed(in)
	if err != nil {
		return err
	}
	if depth > 0 {
		record := binary.BigEndian.AppendUint32(nil, uint32(depth))
		record = append(record, path...)
		record = lengthPrefixed(record, []byte(kind))
		*out = append(*out, lengthPrefixed(record, value))
	}
	switch in := in.(type) {
	case sops.TreeBranch:
		for _, item := range in {
			key, ok := item.Key.(string)
			if !ok {
				return errors.New("a key is not text")
			}
			below, skipped := skipBelow(skip, key)
			if skipped {
				continue
			}
			if err := appendFields(out, component(path, 'k', key), depth+1, item.Value, below); err != nil {
				return err
			}
		}
	case []any:
		for i, item := range in {
			if err := appendFields(out, component(path, 'i', strconv.Itoa(i)), depth+1, item, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// skipBelow says whether skip ends at a key, or what is left of it below the key.
func skipBelow(skip [][]string, key string) (below [][]string, skipped bool) {
	for _, path := range skip {
		if path[0] != key {
			continue
		}
		if len(path) == 1 {
			return nil, true
		}
		below = append(below, path[1:])
	}
	return below, false
}

// component never writes into path's spare capacity: siblings share it.
func component(path []byte, kind byte, name string) []byte {
	return lengthPrefixed(append(slices.Clip(path), kind), []byte(name))
}

func lengthPrefixed(b, s []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

// typed names the type of a value of a SOPS tree and gives its bytes. Unlike
// SOPS's MAC it keeps the types apart, so that a value cannot be retyped.
func typed(in any) (kind string, value []byte, err error) {
	switch in := in.(type) {
	case sops.TreeBranch:
		return "map", nil, nil
	case []any:
		return "seq", nil, nil
	case nil:
		return "null", nil, nil
	case string:
		return "str", []byte(in), nil
	case int:
		return "int", strconv.AppendInt(nil, int64(in), 10), nil
	case float64:
		return "float", strconv.AppendFloat(nil, in, 'f', -1, 64), nil
	case bool:
		return "bool", strconv.AppendBool(nil, in), nil
	case []byte:
		return "bytes", in, nil
	case time.Time:
		text, err := in.MarshalText()
		return "time", text, err
	default:
		return "", nil, fmt.Errorf("a value of type %T cannot be bound", in)
	}
}
