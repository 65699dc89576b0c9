// Package seal turns a manifest into a sealed one: SOPS encrypts its values for
// a workspace's recipients, and a binding ties them to the manifest they stand in.
//
// Most callers need [Seal] for a manifest with plaintext values and [Load] for a
// sealed one, which [Envelope.Open] opens once unseal has found its data key.
// The package needs public recipients only; private keys, and which of them may
// open what, are in unseal.
package seal

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/getsops/sops/v3"
	"github.com/getsops/sops/v3/keyservice"
	"go.yaml.in/yaml/v3"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
)

// Options of Seal.
type Options struct {
	// Now is the time noted as lastmodified. Required.
	Now time.Time
	// ReadFile reads what files: names. Nil refuses manifests with files.
	ReadFile func(path string) ([]byte, error)
	// Keys seals the data key for recipients that are services. Nil refuses them:
	// a repository must not choose where credentials go, so what it names is only
	// asked when the keyring lists it (keyring.yaml).
	Keys keyservice.KeyServiceClient
	// Part says that the manifest is a part of a secret, so that a key its type
	// asks for may stand in another part.
	Part bool
}

// Seal returns the sealed form of a plaintext manifest, for the recipients given
// and with a fresh data key. The manifest's nodes are changed and must not be
// used afterwards. Every value becomes text; what a YAML text cannot carry moves
// to binaryData.
func Seal(m *manifest.Manifest, to workspace.Recipients, opts Options) ([]byte, error) {
	if len(to.All()) == 0 {
		return nil, fmt.Errorf("%s: there is no recipient to seal for", m.File)
	}
	root, err := prepare(m, opts)
	if err != nil {
		return nil, err
	}
	e := &Envelope{m: m, tree: sops.Tree{Branches: sops.TreeBranches{root}}}
	if err := e.newDataKey(to, opts.Keys); err != nil {
		return nil, err
	}
	return e.reseal(opts.Now)
}

// prepare brings a plaintext manifest into the form that is sealed: every value a
// text in the section that can carry it, files read, the workspace written out.
// The manifest's nodes are changed.
func prepare(m *manifest.Manifest, opts Options) (sops.TreeBranch, error) {
	if !m.Kind.IsSecret() {
		return nil, fmt.Errorf("%s: is a %s, which has nothing to seal", m.File, m.Kind)
	}
	if m.Sealed {
		return nil, fmt.Errorf("%s: is sealed already; change it with sealward set, or unseal it first", m.File)
	}
	values, err := plainValues(m, opts.ReadFile)
	if err != nil {
		return nil, err
	}
	if err := checkType(m, values, opts.Part); err != nil {
		return nil, err
	}
	sections := m.Sections()
	allAsText(m)
	body := nodeAt(m.Node(), sections.Text[:len(sections.Text)-1])
	for _, section := range []string{last(sections.Text), last(sections.Base64), "files"} {
		removeField(body, section)
	}
	if err := PlaceIn(m, m.Workspace); err != nil { // "public" is written out
		return nil, err
	}
	for _, v := range values {
		section, text := place(sections, v.Data, v.Binary)
		setNode(m.Node(), text, below(section, v.Key)...)
	}

	root, err := branch(m.Node())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.File, err)
	}
	return root, nil
}

// plainValues reads data, binaryData and files of a plaintext manifest.
func plainValues(m *manifest.Manifest, readFile func(string) ([]byte, error)) ([]Value, error) {
	var out []Value
	for _, entry := range m.Secret.Entries {
		v := Value{Key: entry.Key, Data: []byte(entry.Text), Binary: entry.Binary}
		if entry.Binary {
			data, err := base64.StdEncoding.Strict().DecodeString(entry.Text)
			if err != nil {
				return nil, &manifest.Error{File: m.File, Line: entry.Line, Column: entry.Column, Field: entry.Key.String(), Msg: "is not base64"}
			}
			v.Data = data
		} else if manifest.IsSealedValue(entry.Text) {
			return nil, &manifest.Error{File: m.File, Line: entry.Line, Column: entry.Column, Field: entry.Key.String(),
				Msg: "is a sealed value in a manifest that has no sops section; unseal the file it comes from"}
		}
		out = append(out, v)
	}
	for _, f := range m.Secret.Files {
		at := func(msg string) error {
			return &manifest.Error{File: m.File, Line: f.Line, Column: f.Column, Field: strings.Join(append(slices.Clip(m.Sections().Text[:len(m.Sections().Text)-1]), "files", f.Key.String()), "."), Msg: msg}
		}
		if readFile == nil {
			return nil, at("names a local file, which cannot be read here; seal the manifest as a file")
		}
		data, err := readFile(f.Path)
		if err != nil {
			return nil, at(err.Error())
		}
		out = append(out, Value{Key: f.Key, Data: data})
	}
	return out, nil
}

// allAsText makes every scalar of a manifest text but the one that Kubernetes
// wants as a boolean.
func allAsText(m *manifest.Manifest) {
	root := m.Node()
	for i := 0; i+1 < len(root.Content); i += 2 {
		asText(root.Content[i])
		if m.Form != manifest.Kubernetes || root.Content[i].Value != "immutable" {
			asText(root.Content[i+1])
		}
	}
}

// asText makes every scalar below n read as text, so that SOPS seals and MACs
// 0123, 1e3, yes and 1.10 as they are written.
func asText(n *yaml.Node) {
	if n.Kind == yaml.ScalarNode {
		n.Tag = "!!str"
	}
	for _, c := range n.Content {
		asText(c)
	}
}

// place chooses the section for a value: that of text when sops -d can print the
// text back, that of base64 otherwise.
func place(s manifest.Sections, data []byte, binary bool) (section []string, text string) {
	if !binary && utf8.Valid(data) && survivesYAML(string(data)) && !manifest.IsSealedValue(string(data)) {
		return s.Text, string(data)
	}
	return s.Base64, base64.StdEncoding.EncodeToString(data)
}

// isPlain: most values are, and every YAML printer gives them back.
func isPlain(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// below is the path of a key in a section.
func below(section []string, key manifest.Key) []string {
	return append(slices.Clip(section), key.String())
}

func last(path []string) string { return path[len(path)-1] }

// survivesYAML prints s as sops -d does (stores/yaml, treeValueToNode) and reads
// it back. That printer was seen to turn a leading tab with a newline into null,
// with exit code 0.
func survivesYAML(s string) bool {
	if isPlain(s) {
		return true
	}
	var n yaml.Node
	if n.Encode(s) != nil {
		return false
	}
	for range 3 { // secret: data: key:
		n = yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{textNode("k"), new(n)}}
	}
	out, err := encodeYAML(&n)
	if err != nil {
		return false
	}
	var back map[string]map[string]map[string]*string
	if yaml.Unmarshal(out, &back) != nil {
		return false
	}
	got := back["k"]["k"]["k"]
	return got != nil && *got == s
}

// Set gives a key of an opened envelope a value, adding the key when it is new,
// and reports whether that changed anything.
func (e *Envelope) Set(key manifest.Key, data []byte) (changed bool, err error) {
	if !e.opened {
		return false, fmt.Errorf("%s: the envelope is not open", e.m.File)
	}
	sections := e.m.Sections()
	// In a form that prefers base64, only what stands as text stays text.
	binary := sections.PreferBase64 && !e.has(below(sections.Text, key))
	section, text := place(sections, data, binary)
	path := below(section, key)
	if old, ok := lookup(e.tree.Branches[0], path...).(string); ok && old == text {
		return false, nil
	}
	// A key keeps its line when its section stays.
	if !e.has(path) {
		if err := e.remove(key); err != nil {
			return false, err
		}
	}
	e.set(path, text)
	// The node gets the text only when it is sealed.
	setNode(e.m.Node(), "", path...)
	values, err := e.values()
	if err != nil {
		return false, err
	}
	return true, CheckType(e.m, values)
}

// has reports that the tree has something at a path.
func (e *Envelope) has(path []string) bool { return lookup(e.tree.Branches[0], path...) != nil }

// set puts a text into the tree.
func (e *Envelope) set(path []string, text string) {
	root, _ := e.tree.Branches[0].Set(anyPath(path), text)
	e.tree.Branches[0] = root
}

func anyPath(path []string) []any {
	out := make([]any, len(path))
	for i, p := range path {
		out[i] = p
	}
	return out
}

// ErrNoKey: the secret has no such key.
var ErrNoKey = errors.New("no such key")

// Unset removes a key of an opened envelope. The last one cannot be removed.
func (e *Envelope) Unset(key manifest.Key) error {
	if !e.opened {
		return fmt.Errorf("%s: the envelope is not open", e.m.File)
	}
	values, err := e.values()
	if err != nil {
		return err
	}
	var left []Value
	for _, v := range values {
		if v.Key != key {
			left = append(left, v)
		}
	}
	switch {
	case len(left) == len(values):
		return fmt.Errorf("%s: %w: %s", e.m.File, ErrNoKey, key)
	case len(left) == 0:
		return fmt.Errorf("%s: %s is its only key; remove the file instead", e.m.File, key)
	}
	if err := CheckType(e.m, left); err != nil {
		return err
	}
	return e.remove(key)
}

// remove drops a key from either section, and a section that gets empty.
func (e *Envelope) remove(key manifest.Key) error {
	sections := e.m.Sections()
	for _, section := range [][]string{sections.Text, sections.Base64} {
		b, ok := lookup(e.tree.Branches[0], section...).(sops.TreeBranch)
		if !ok || lookup(b, key.String()) == nil {
			continue
		}
		path := below(section, key)
		if len(b) == 1 {
			path = section
		}
		root, err := e.tree.Branches[0].Unset(anyPath(path))
		if err != nil {
			return fmt.Errorf("%s: %s cannot be removed", e.m.File, key)
		}
		e.tree.Branches[0] = root
		removeField(nodeAt(e.m.Node(), path[:len(path)-1]), last(path))
	}
	return nil
}

// Reseal returns the file of an opened envelope after Set and Unset. The data
// key and the recipients stay; values that were not set keep their ciphertext.
// The envelope must not be used afterwards.
func (e *Envelope) Reseal(now time.Time) ([]byte, error) {
	if !e.opened {
		return nil, fmt.Errorf("%s: the envelope is not open", e.m.File)
	}
	return e.reseal(now)
}

// Plaintext prints an opened envelope's manifest as it was before sealing, as
// YAML or JSON like its file.
func (e *Envelope) Plaintext(values []Value) ([]byte, error) {
	return Plaintext(e.m, values, e.m.JSON)
}
