package seal

import (
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"regexp"

	"github.com/getsops/sops/v3"

	"github.com/sealward/sealward/seal/manifest"
)

// decryptTree is sops.Tree.Decrypt: it opens what the metadata says is sealed, in
// place, and returns the MAC of what it found. SOPS compiles the pattern anew for each
// part of each value's path, which takes longer than its cryptography; for trees as
// sealward makes them, this compiles it once. SOPS decides everything else.
func decryptTree(tree sops.Tree, key []byte, cipher sops.Cipher) (mac string, err error) {
	meta := tree.Metadata
	sealed, err := sealedPattern, error(nil)
	if meta.EncryptedRegex != manifest.SealedPattern {
		sealed, err = regexp.Compile(meta.EncryptedRegex)
	}
	if err != nil || meta.EncryptedRegex == "" || meta.UnencryptedRegex != "" || meta.EncryptedSuffix != "" || meta.UnencryptedSuffix != "" ||
		meta.EncryptedCommentRegex != "" || meta.UnencryptedCommentRegex != "" || meta.MACOnlyEncrypted || len(tree.Branches) != 1 || hasComments(tree.Branches[0]) {
		return tree.Decrypt(key, cipher)
	}
	w := &walk{sealed: sealed, key: key, cipher: cipher, hash: sha512.New()}
	if err := w.branch(tree.Branches[0], "", false); err != nil {
		return "", err
	}
	return fmt.Sprintf("%X", w.hash.Sum(nil)), nil
}

// sealedPattern is what nearly every file has.
var sealedPattern = regexp.MustCompile(manifest.SealedPattern)

type walk struct {
	sealed *regexp.Regexp
	key    []byte
	cipher sops.Cipher
	hash   hash.Hash
}

// branch opens a mapping; path ends in a colon, as SOPS's additional data does. within
// says that some part of the path matched already.
func (w *walk) branch(b sops.TreeBranch, path string, within bool) error {
	for i, item := range b {
		name, ok := item.Key.(string)
		if !ok {
			return errors.New("a key is not text")
		}
		v, err := w.value(item.Value, path+name+":", within || w.sealed.MatchString(name))
		if err != nil {
			return err
		}
		b[i].Value = v
	}
	return nil
}

func (w *walk) value(v any, path string, within bool) (any, error) {
	switch in := v.(type) {
	case nil:
		return nil, nil
	case sops.TreeBranch:
		return in, w.branch(in, path, within)
	case []any:
		for i := range in {
			out, err := w.value(in[i], path, within)
			if err != nil {
				return nil, err
			}
			in[i] = out
		}
		return in, nil
	case []byte:
		v = string(in)
	}
	if within {
		text, ok := v.(string)
		if !ok {
			return nil, errors.New("a value that should be sealed is no text")
		}
		var err error
		if v, err = w.cipher.Decrypt(text, w.key, path); err != nil {
			return nil, err
		}
	}
	if _, isComment := v.(sops.Comment); isComment {
		return v, nil // sealed as one: SOPS leaves it out of the MAC
	}
	data, err := sops.ToBytes(v)
	if err != nil {
		return nil, errors.New("a value has a type that SOPS does not know")
	}
	w.hash.Write(data)
	return v, nil
}

func hasComments(v any) bool {
	switch v := v.(type) {
	case sops.Comment:
		return true
	case sops.TreeBranch:
		for _, item := range v {
			if hasComments(item.Key) || hasComments(item.Value) {
				return true
			}
		}
	case []any:
		for _, item := range v {
			if hasComments(item) {
				return true
			}
		}
	}
	return false
}
