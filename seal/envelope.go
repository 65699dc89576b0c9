package seal

import (
	"bytes"
	"crypto/hmac"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/getsops/sops/v3"
	"github.com/getsops/sops/v3/aes"
	"github.com/getsops/sops/v3/logging"
	"github.com/getsops/sops/v3/stores"
	"github.com/getsops/sops/v3/version"
	"go.yaml.in/yaml/v3"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
)

// maxSealedKey bounds a sealed data key, in bytes, armored (a post-quantum one has
// 2.5 KiB): age reads up to 1,024 stanzas in one, where SOPS writes one.
const maxSealedKey = 8 << 10

// silenceSOPS: SOPS's loggers are its package's state, write to stderr, and in
// places write values. They say nothing that an error does not.
var silenceSOPS = sync.OnceFunc(func() {
	for _, l := range logging.Loggers {
		l.SetOutput(io.Discard)
	}
})

// Envelope is a sealed manifest taken apart: the SOPS tree and metadata beside
// the manifest. It is not safe for concurrent use.
type Envelope struct {
	m       *manifest.Manifest
	tree    sops.Tree
	cipher  *fieldCipher
	dataKey []byte
	opened  bool
}

// Load takes a sealed manifest apart. Nothing is decrypted.
func Load(m *manifest.Manifest) (e *Envelope, err error) {
	silenceSOPS()
	// SOPS panics on some hostile metadata.
	defer func() {
		if recover() != nil {
			e, err = nil, &TamperError{File: m.File, Field: "sops", Reason: ReasonForm, Msg: "the section cannot be read"}
		}
	}()
	if !m.Kind.IsSecret() || !m.Sealed {
		return nil, fmt.Errorf("%s: is not a sealed secret", m.File)
	}
	root, err := branch(m.Node())
	if err != nil {
		return nil, &TamperError{File: m.File, Reason: ReasonForm, Msg: err.Error()}
	}
	tree, err := extract(m.File, sops.TreeBranches{root}, stores.MetadataOpts{})
	if err != nil {
		return nil, err
	}
	return &Envelope{m: m, tree: tree, cipher: newFieldCipher()}, nil
}

// extract takes the metadata out of a tree, within bounds.
func extract(file string, roots sops.TreeBranches, opts stores.MetadataOpts) (sops.Tree, error) {
	bad := func(msg string) (sops.Tree, error) {
		return sops.Tree{}, &TamperError{File: file, Field: "sops", Reason: ReasonForm, Msg: msg}
	}
	branches, meta, err := stores.ExtractMetadata(roots, opts)
	if errors.Is(err, sops.MetadataNotFound) {
		return sops.Tree{}, &manifest.Error{File: file, Leaked: true,
			Msg: "is not sealed: it has no section of sops. Treat its values as leaked if it was committed, and seal it (sops -e -i)"}
	}
	if err != nil {
		return bad("the section is not what SOPS writes")
	}
	if n := meta.MasterKeyCount(); n == 0 || n > workspace.MaxRecipients {
		return bad(fmt.Sprintf("the section names %d recipients; 1 to %d can be", n, workspace.MaxRecipients))
	}
	for _, group := range meta.KeyGroups {
		for _, k := range group {
			if len(k.EncryptedDataKey()) > maxSealedKey {
				return bad("a sealed data key is longer than SOPS writes it")
			}
		}
	}
	return sops.Tree{Branches: branches, Metadata: meta}, nil
}

// Manifest is what the envelope holds.
func (e *Envelope) Manifest() *manifest.Manifest { return e.m }

// Metadata is the sops section, for a key service that finds the data key
// (SOPS's Metadata.GetDataKeyWithKeyServices).
func (e *Envelope) Metadata() *sops.Metadata { return &e.tree.Metadata }

// Recipients lists the recipients as the file names them. They are labels: who
// can really open it, the file cannot prove.
func (e *Envelope) Recipients() []string { return recipients(e.tree.Metadata) }

func recipients(meta sops.Metadata) []string {
	var out []string
	for _, group := range meta.KeyGroups {
		for _, k := range group {
			name := k.ToString()
			if r, ok := workspace.RecipientOf(k); ok { // an SSH key without its comment
				name = r.String()
			}
			out = append(out, name)
		}
	}
	return out
}

// Value is one key's plaintext.
type Value struct {
	Key    manifest.Key
	Binary bool // it stands in binaryData, or, in a Kubernetes Secret, is no text
	Data   []byte
	// Retyped names the type that plain sops gave the value ("int", "float",
	// "bool", "time"); "" for text, which is all sealward writes.
	Retyped string
}

// Open decrypts every value with the data key, then checks SOPS's MAC and the
// binding. bound is false only for a manifest without a binding, which is
// refused with ErrUnbound unless allowUnbound is set. The error is a
// *TamperError for everything else.
func (e *Envelope) Open(dataKey []byte, allowUnbound bool) (values []Value, bound bool, err error) {
	return e.open(dataKey, allowUnbound, true)
}

// OpenToRebind is Open for a manifest that plain sops wrote or edited: SOPS's MAC
// must fit, the binding need not. It only makes sense before [Envelope.Rebind]:
// nothing proves yet that the values belong where they stand.
func (e *Envelope) OpenToRebind(dataKey []byte) ([]Value, error) {
	if field := sealedOutside(e.m); field != "" {
		return nil, e.tampered(field, ReasonPattern, "is sealed, where sealward leaves it readable; decrypt it with sops first")
	}
	values, _, err := e.open(dataKey, true, false)
	return values, err
}

func (e *Envelope) open(dataKey []byte, allowUnbound, checkBinding bool) (values []Value, bound bool, err error) {
	defer func() {
		if recover() != nil {
			values, bound = nil, false
			err = e.tampered("", ReasonForm, "the file cannot be read")
		}
	}()
	if e.opened {
		return nil, false, errors.New("the envelope is open already")
	}
	meta := &e.tree.Metadata
	bound = e.m.Secret.Binding != ""
	if !bound && !allowUnbound {
		return nil, false, fmt.Errorf("%s: %w", e.m.File, ErrUnbound)
	}
	if bound && checkBinding && (meta.EncryptedRegex != manifest.SealedPattern || meta.MACOnlyEncrypted) {
		return nil, false, e.tampered("sops.encrypted_regex", ReasonPattern, "is not the pattern this manifest was sealed with")
	}
	if err := decrypt(e.m.File, e.tree, e.cipher, dataKey); err != nil {
		return nil, false, err
	}
	if bound && checkBinding {
		want, err := binding(dataKey, e.m, e.tree.Branches[0])
		if err != nil {
			return nil, false, e.tampered("", ReasonForm, "the file holds a value that cannot be bound")
		}
		if got, _ := lookup(e.tree.Branches[0], e.m.BindingPath()...).(string); !hmac.Equal([]byte(got), []byte(want)) {
			return nil, false, e.tampered(strings.Join(e.m.BindingPath(), "."), ReasonBinding, "the values were sealed for another manifest, workspace, key or form than this one states")
		}
	}
	if values, err = e.values(); err != nil {
		return nil, false, err
	}
	e.dataKey, e.opened = dataKey, true
	return values, bound, nil
}

// decrypt opens every value of a tree and checks SOPS's MAC.
func decrypt(file string, tree sops.Tree, cipher *fieldCipher, dataKey []byte) error {
	bad := func(field string, reason Reason, msg string) error {
		return &TamperError{File: file, Field: field, Reason: reason, Msg: msg}
	}
	meta := tree.Metadata
	if meta.MessageAuthenticationCode == "" || !manifest.IsSealedValue(meta.MessageAuthenticationCode) {
		return bad("sops.mac", ReasonMAC, "the MAC is missing or damaged")
	}
	mac, err := decryptTree(tree, dataKey, cipher)
	if err != nil && cipher.clear {
		return inTheClear(file, cipher.failed)
	}
	if err != nil {
		return bad(cipher.failed, ReasonValue, "the value was changed, moved here from another place, or sealed with another data key")
	}
	stated, err := cipher.Decrypt(meta.MessageAuthenticationCode, dataKey, meta.LastModified.Format(time.RFC3339))
	statedMAC, isText := stated.(string)
	if err != nil || !isText {
		return bad("sops.mac", ReasonMAC, "the MAC does not open: it or sops.lastmodified was changed")
	}
	if !hmac.Equal([]byte(statedMAC), []byte(mac)) {
		return bad("sops.mac", ReasonMAC, "a field or value was changed, added, removed or moved after sealing")
	}
	return nil
}

func (e *Envelope) tampered(field string, reason Reason, msg string) error {
	return &TamperError{File: e.m.File, Field: field, Reason: reason, Msg: msg}
}

// values reads the decrypted tree.
func (e *Envelope) values() ([]Value, error) {
	var out []Value
	sections := e.m.Sections()
	for i, section := range [][]string{sections.Text, sections.Base64} {
		b, _ := lookup(e.tree.Branches[0], section...).(sops.TreeBranch)
		for _, item := range b {
			name, _ := item.Key.(string)
			key, err := manifest.ParseKey(name)
			if err != nil {
				return nil, e.tampered(strings.Join(section, "."), ReasonForm, err.Error())
			}
			field := strings.Join(below(section, key), ".")
			kind, text, err := typed(item.Value)
			if err != nil || kind == "map" || kind == "seq" || kind == "null" {
				return nil, e.tampered(field, ReasonForm, "is not a text")
			}
			v := Value{Key: key, Data: text, Binary: i == 1}
			if kind != "str" && kind != "bytes" {
				v.Retyped = kind
			}
			if manifest.IsSealedValue(string(text)) {
				// The file's own pattern left it out, so nothing proves where it comes from.
				return nil, e.tampered(field, ReasonPattern, "is outside the fields the sops section says are sealed")
			}
			if v.Binary {
				if v.Data, err = base64.StdEncoding.Strict().DecodeString(string(text)); err != nil {
					return nil, e.tampered(field, ReasonForm, "is not base64")
				}
				// Kubernetes keeps texts as base64 too.
				v.Binary = e.m.Form == manifest.DataOS || !utf8.Valid(v.Data)
			}
			out = append(out, v)
		}
	}
	return out, nil
}

// reseal encrypts the tree again with the envelope's data key, for the stanzas in
// its metadata, and returns the file. Values that did not change keep their
// ciphertext: the cipher remembers the nonces it opened them with.
func (e *Envelope) reseal(now time.Time) ([]byte, error) {
	silenceSOPS()
	// The mapping that the binding stands in is bound itself.
	path := e.m.BindingPath()
	if !e.has(path) {
		e.set(path, "")
	}
	bound, err := binding(e.dataKey, e.m, e.tree.Branches[0])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", e.m.File, err)
	}
	e.set(path, bound)
	setNode(e.m.Node(), bound, path...)

	e.opened = false // from here on the tree holds ciphertext
	meta := &e.tree.Metadata
	meta.EncryptedRegex, meta.UnencryptedSuffix, meta.MACOnlyEncrypted = manifest.SealedPattern, "", false
	meta.LastModified = now.UTC().Truncate(time.Second)
	meta.Version = version.Version
	mac, err := e.tree.Encrypt(e.dataKey, e.cipher)
	if err != nil {
		return nil, fmt.Errorf("%s: SOPS could not seal the values", e.m.File)
	}
	if meta.MessageAuthenticationCode, err = e.cipher.Encrypt(mac, e.dataKey, meta.LastModified.Format(time.RFC3339)); err != nil {
		return nil, fmt.Errorf("%s: SOPS could not seal the MAC", e.m.File)
	}
	// Only now, with ciphertext in the tree, do the nodes change: what is written
	// never held a value beside sealed ones.
	copySealed(e.m.Node(), e.tree.Branches[0])
	section, err := stores.SerializeMetadata(sops.Tree{Metadata: *meta, Branches: sops.TreeBranches{{}}}, stores.MetadataOpts{Flatten: stores.MetadataFlattenNone})
	if err != nil {
		return nil, fmt.Errorf("%s: SOPS could not write its section", e.m.File)
	}
	setNode(e.m.Node(), lookup(section[0], "sops"), "sops")
	out, err := encode(e.m.Node(), e.m.JSON)
	if err != nil {
		return nil, err
	}
	// Sealing adds to a file, and a reader has bounds: without this, one value too
	// much would take the whole secret with it.
	if _, err := manifest.Parse(e.m.File, out); err != nil {
		return nil, fmt.Errorf("%w; nothing was written", err)
	}
	return out, nil
}

func encode(root *yaml.Node, json bool) ([]byte, error) {
	if json {
		return manifest.EncodeJSON(root)
	}
	return encodeYAML(root)
}

// encodeYAML prints with SOPS's indentation, so that a file edited by either
// program differs only where it was edited.
func encodeYAML(root *yaml.Node) ([]byte, error) {
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(4)
	if err := enc.Encode(root); err != nil {
		return nil, errors.New("YAML could not be written")
	}
	return out.Bytes(), enc.Close()
}

// fieldCipher is SOPS's AES cipher; it notes which field failed, by the path
// that SOPS gives it as additional data, and forgets SOPS's error, which quotes
// its input.
type fieldCipher struct {
	aes      aes.Cipher
	comments bool   // sealed comments are opened too
	failed   string // dotted path
	clear    bool   // what failed is no sealed value at all
}

func newFieldCipher() *fieldCipher { return &fieldCipher{aes: aes.NewCipher()} }

var errSealedValue = errors.New("a sealed value does not open")

func (c *fieldCipher) Encrypt(plaintext any, key []byte, path string) (string, error) {
	return c.aes.Encrypt(plaintext, key, path)
}

func (c *fieldCipher) Decrypt(ciphertext string, key []byte, path string) (any, error) {
	// SOPS's pattern has no end anchor, and "" opens to "" without the key.
	if ciphertext != "" && !manifest.IsSealedValue(ciphertext) && !(c.comments && isSealedComment(ciphertext)) {
		c.failed, c.clear = fieldOf(path), true
		return nil, errSealedValue
	}
	v, err := c.aes.Decrypt(ciphertext, key, path)
	if err != nil {
		c.failed, c.clear = fieldOf(path), false
		return nil, errSealedValue
	}
	return v, nil
}

// isSealedComment reports that s is one comment as SOPS seals it.
func isSealedComment(s string) bool {
	value, ok := strings.CutSuffix(s, ",type:comment]")
	return ok && manifest.IsSealedValue(value+",type:str]")
}

// fieldOf makes a field's dotted path of SOPS's, which has colons. What does not
// look like a field's name is not repeated.
func fieldOf(path string) string {
	parts := strings.Split(strings.TrimSuffix(path, ":"), ":")
	for i, part := range parts {
		for _, half := range strings.SplitN(part, "/", 2) {
			if _, err := manifest.ParseKey(half); err != nil && part != "" {
				parts[i] = "(odd key)"
			}
		}
	}
	return strings.Join(parts, ".")
}
