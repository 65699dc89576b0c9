package seal

import (
	"fmt"
	"strings"
	"time"

	"github.com/getsops/sops/v3"

	"github.com/sealward/sealward/seal/manifest"
)

// Leaf is a sealed value as it looks without a key.
type Leaf struct {
	// Path of the field in its document; of a dotenv file the key, of a binary file
	// nothing.
	Path []string
	// Size of the plaintext in bytes, as the ciphertext states it. In a field that
	// holds base64, it is the size of the base64.
	Size int
	// Base64 says that a manifest keeps base64 there. Size is then that of the bytes,
	// up to two too many.
	Base64 bool
	// Clear gives a text of the same document that is not sealed, "" without one.
	Clear func(path ...string) string
}

// Dummy makes a value for a leaf. The same leaf has to get the same value.
type Dummy func(Leaf) []byte

// PlaceholderValues are dummies for the values of a sealed manifest, in the order of
// the file. Empty values stay empty.
func PlaceholderValues(m *manifest.Manifest, dummy Dummy) ([]Value, error) {
	if !m.Kind.IsSecret() || !m.Sealed {
		return nil, fmt.Errorf("%s: is not a sealed secret", m.File)
	}
	clear := func(path ...string) string {
		if n := nodeAt(m.Node(), path); n != nil {
			return n.Value
		}
		return ""
	}
	var out []Value
	for _, e := range m.Secret.Entries {
		section := m.Sections().Text
		if e.Binary {
			section = m.Sections().Base64
		}
		v := Value{Key: e.Key, Binary: e.Binary && m.Form == manifest.DataOS}
		if e.Text != "" {
			leaf := Leaf{Path: below(section, e.Key), Size: plainSize(e.Text), Base64: e.Binary, Clear: clear}
			if leaf.Base64 {
				leaf.Size = leaf.Size / 4 * 3
			}
			v.Data = dummy(leaf)
		}
		out = append(out, v)
	}
	return out, nil
}

// PlaceholderDotenv is LoadDotenv with dummies for the values.
func PlaceholderDotenv(file string, data []byte, dummy Dummy) ([]Value, error) {
	f, err := LoadDotenv(file, data)
	if err != nil {
		return nil, err
	}
	return f.fill(dummy)
}

// PlaceholderBinary is LoadBinary with a dummy for the bytes.
func PlaceholderBinary(file string, data []byte, dummy Dummy) ([]byte, error) {
	f, err := LoadBinary(file, data)
	if err != nil {
		return nil, err
	}
	values, err := f.fill(func(l Leaf) []byte { l.Path = nil; return dummy(l) })
	if err != nil {
		return nil, err
	}
	return values[0].Data, nil
}

func (f *Foreign) fill(dummy Dummy) (out []Value, err error) {
	for _, item := range f.tree.Branches[0] {
		name, _ := item.Key.(string)
		key, err := manifest.ParseKey(name)
		if err != nil {
			return nil, &TamperError{File: f.file, Reason: ReasonForm, Msg: err.Error()}
		}
		v := Value{Key: key}
		if text, _ := item.Value.(string); text != "" {
			v.Data = dummy(Leaf{Path: []string{name}, Size: plainSize(text), Clear: func(...string) string { return "" }})
		}
		out = append(out, v)
	}
	return out, nil
}

// Fill puts dummies in the place of everything that SOPS's section says is sealed,
// instead of Open. SOPS's MAC, which only a key opens, is not checked. Numbers,
// booleans and times get one that is always the same.
func (d *Document) Fill(dummy Dummy) (err error) {
	defer d.recover(&err)
	for _, root := range d.tree.Branches {
		cipher := &dummyCipher{dummy: dummy, clear: func(path ...string) string {
			text, _ := lookup(root, path...).(string)
			if manifest.IsSealedValue(text) {
				return ""
			}
			return text
		}}
		tree := sops.Tree{Branches: sops.TreeBranches{root}, Metadata: d.tree.Metadata}
		if _, err := tree.Decrypt(nil, cipher); err != nil {
			return inTheClear(d.file, cipher.failed)
		}
		if err := d.check(root, ""); err != nil {
			return err
		}
	}
	return nil
}

// dummyCipher opens sealed values to dummies.
type dummyCipher struct {
	dummy  Dummy
	clear  func(path ...string) string
	failed string
}

func (c *dummyCipher) Encrypt(any, []byte, string) (string, error) { return "", errSealedValue }

func (c *dummyCipher) Decrypt(ciphertext string, _ []byte, path string) (any, error) {
	switch {
	case ciphertext == "":
		return "", nil
	case isSealedComment(ciphertext):
		return sops.Comment{Value: " sealed"}, nil
	case !manifest.IsSealedValue(ciphertext):
		c.failed = fieldOf(path)
		return nil, errSealedValue
	}
	_, kind, _ := strings.Cut(ciphertext, ",type:")
	switch kind {
	case "int]":
		return 0, nil
	case "float]":
		return 0.5, nil
	case "bool]":
		return false, nil
	case "time]":
		return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), nil
	}
	return string(c.dummy(Leaf{Path: strings.Split(strings.TrimSuffix(path, ":"), ":"), Size: plainSize(ciphertext), Clear: c.clear})), nil
}

// plainSize is how many bytes a sealed value holds: AES-GCM adds none.
func plainSize(sealed string) int {
	_, data, _ := strings.Cut(sealed, "data:")
	data, _, _ = strings.Cut(data, ",")
	return len(data)/4*3 - strings.Count(data, "=")
}
