package seal

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/getsops/sops/v3"
	"github.com/getsops/sops/v3/keyservice"
	"go.yaml.in/yaml/v3"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
)

// WithValues is a plaintext manifest, ready for Seal, that states what m states
// and holds the values given. m may be sealed: its values are not needed, so
// somebody without a private key can replace all of them. Comments stay when
// comments is set.
func WithValues(m *manifest.Manifest, values []Value, comments bool) (*manifest.Manifest, error) {
	if !m.Kind.IsSecret() {
		return nil, fmt.Errorf("%s: is a %s, which has no values", m.File, m.Kind)
	}
	root := cloneNode(m.Node(), comments)
	removeField(root, "seal")
	removeField(root, "sops")
	body := fieldNode(root, string(m.Kind))
	for _, section := range []string{"data", "binaryData", "files"} {
		removeField(body, section)
	}
	for _, v := range values {
		section, text := printable(v.Data, v.Binary)
		setNode(body, text, section, v.Key.String())
	}
	text, err := encodeYAML(root)
	if err != nil {
		return nil, err
	}
	return manifest.Parse(m.File, text)
}

func cloneNode(n *yaml.Node, comments bool) *yaml.Node {
	out := *n
	if !comments {
		out.HeadComment, out.LineComment, out.FootComment = "", "", ""
	}
	out.Content = make([]*yaml.Node, len(n.Content))
	for i, c := range n.Content {
		out.Content[i] = cloneNode(c, comments)
	}
	return &out
}

// Rename gives a plaintext manifest another name and workspace.
func Rename(m *manifest.Manifest, ws manifest.Workspace, name manifest.Name) (*manifest.Manifest, error) {
	if m.Kind == manifest.KindInstanceSecret != ws.IsInstance() {
		return nil, fmt.Errorf("%s: a %s cannot move to %s; create it there", m.File, m.Kind, ws)
	}
	setNode(m.Node(), name.String(), "name")
	if !ws.IsInstance() {
		setNode(m.Node(), ws.String(), "workspace")
	}
	text, err := encodeYAML(m.Node())
	if err != nil {
		return nil, err
	}
	return manifest.Parse(manifest.SecretPath(ws, name), text)
}

// Replace puts an edited plaintext manifest in the place of the opened one. What
// the secret is and where it belongs must stay. Values that stay keep their
// ciphertext when Reseal writes the file.
func (e *Envelope) Replace(edited *manifest.Manifest, opts Options) error {
	if !e.opened {
		return fmt.Errorf("%s: the envelope is not open", e.m.File)
	}
	if edited.Kind != e.m.Kind || edited.Name != e.m.Name || edited.Workspace != e.m.Workspace {
		return fmt.Errorf("%s: type, name and workspace say which secret this is and cannot be edited; use sealward copy", edited.File)
	}
	root, err := prepare(edited, opts)
	if err != nil {
		return err
	}
	e.m, e.tree.Branches = edited, sops.TreeBranches{root}
	return nil
}

// Rebind makes an envelope that OpenToRebind opened ready for Reseal, which binds
// the values to what the manifest states. Values of other types than text, as
// plain sops writes them, become the text they show.
func (e *Envelope) Rebind() error {
	values, err := e.values()
	if err != nil {
		return err
	}
	for _, v := range values {
		if v.Retyped != "" {
			root, _ := e.tree.Branches[0].Set([]any{string(e.m.Kind), "data", v.Key.String()}, string(v.Data))
			e.tree.Branches[0] = root
		}
	}
	return CheckType(e.m, values)
}

// sealedOutside names a sealed value outside the sections that sealward seals.
func sealedOutside(root *yaml.Node, kind string) string {
	for i := 0; i+1 < len(root.Content); i += 2 {
		field, v := root.Content[i].Value, root.Content[i+1]
		switch {
		case field == "sops" || field == "seal":
		case field == kind && v.Kind == yaml.MappingNode:
			for j := 0; j+1 < len(v.Content); j += 2 {
				if s := v.Content[j].Value; s != "data" && s != "binaryData" && holdsSealed(v.Content[j+1]) {
					return field + "." + s
				}
			}
		case holdsSealed(v):
			return field
		}
	}
	return ""
}

func holdsSealed(n *yaml.Node) bool {
	if n.Kind == yaml.ScalarNode && manifest.IsSealedValue(n.Value) {
		return true
	}
	for _, c := range n.Content {
		if holdsSealed(c) {
			return true
		}
	}
	return false
}

// Rotate seals an opened envelope anew, with a fresh data key and for the
// recipients given, and returns the file. Everything else stays; that the file
// opens again to the very same values is verified before it is returned. The
// envelope must not be used afterwards.
func (e *Envelope) Rotate(to workspace.Recipients, keys keyservice.KeyServiceClient, now time.Time) ([]byte, error) {
	if !e.opened {
		return nil, fmt.Errorf("%s: the envelope is not open", e.m.File)
	}
	before, err := e.values()
	if err != nil {
		return nil, err
	}
	if err := e.newDataKey(to, keys); err != nil {
		return nil, err
	}
	out, err := e.reseal(now)
	if err != nil {
		return nil, err
	}
	m, err := manifest.Parse(e.m.File, out)
	if err != nil {
		return nil, fmt.Errorf("%s: the rotated file would not parse; nothing was written", e.m.File)
	}
	if m.Workspace.IsZero() {
		m.Workspace = e.m.Workspace
	}
	again, err := Load(m)
	if err != nil {
		return nil, err
	}
	after, _, err := again.Open(e.dataKey, false)
	if err != nil {
		return nil, err
	}
	if !sameValues(before, after) {
		return nil, fmt.Errorf("%s: %w; nothing was written", e.m.File, errChanged)
	}
	return out, nil
}

var errChanged = errors.New("the rotated file would hold other values")

func sameValues(a, b []Value) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Key != b[i].Key || a[i].Binary != b[i].Binary || !bytes.Equal(a[i].Data, b[i].Data) {
			return false
		}
	}
	return true
}

// PlainValues reads the values of a plaintext manifest that names no files.
func PlainValues(m *manifest.Manifest) ([]Value, error) {
	if m.Sealed {
		return nil, fmt.Errorf("%s: is sealed", m.File)
	}
	return plainValues(m, nil)
}

// Print is a plaintext manifest as text.
func Print(m *manifest.Manifest) ([]byte, error) { return encodeYAML(m.Node()) }
