package seal

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
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
	return reparse(m, m.File, m.Workspace, withValues(m, values, comments))
}

// Plaintext prints what a manifest states with the values given, as JSON or YAML.
func Plaintext(m *manifest.Manifest, values []Value, json bool) ([]byte, error) {
	if !m.Kind.IsSecret() {
		return nil, fmt.Errorf("%s: is a %s, which has no values", m.File, m.Kind)
	}
	return encode(withValues(m, values, true), json)
}

func withValues(m *manifest.Manifest, values []Value, comments bool) *yaml.Node {
	root, sections := cloneNode(m.Node(), comments), m.Sections()
	removeBinding(root, m)
	removeField(root, "sops")
	removeAt(root, append(slices.Clip(sections.Text[:len(sections.Text)-1]), "files"))
	isText := map[manifest.Key]bool{}
	for _, entry := range m.Secret.Entries {
		isText[entry.Key] = !entry.Binary
	}
	putValues(root, sections, values, isText)
	return root
}

// putValues makes values all that the sections of a manifest hold.
func putValues(root *yaml.Node, sections manifest.Sections, values []Value, isText map[manifest.Key]bool) {
	// What stood as text stays text where it can, and each key keeps its line.
	paths, texts := make([][]string, len(values)), make([]string, len(values))
	stays := map[string]bool{}
	for i, v := range values {
		var section []string
		section, texts[i] = place(sections, v.Data, v.Binary || sections.PreferBase64 && !isText[v.Key])
		paths[i] = below(section, v.Key)
		stays[strings.Join(paths[i], ":")] = true
	}
	for _, section := range [][]string{sections.Text, sections.Base64} {
		n := nodeAt(root, section)
		if n == nil {
			continue
		}
		for i := len(n.Content) - 2; i >= 0; i -= 2 {
			if key := n.Content[i].Value; !stays[strings.Join(section, ":")+":"+key] {
				removeField(n, key)
			}
		}
		if len(n.Content) == 0 {
			removeAt(root, section)
		}
	}
	for i, text := range texts {
		setNode(root, text, paths[i]...)
	}
}

// reparse holds changed nodes to everything that a file is held to.
func reparse(m *manifest.Manifest, file string, ws manifest.Workspace, root *yaml.Node) (*manifest.Manifest, error) {
	text, err := encode(root, m.JSON)
	if err != nil {
		return nil, err
	}
	out, err := manifest.Parse(file, text)
	if err != nil {
		return nil, err
	}
	return out, out.SettleIn(ws)
}

// removeBinding removes the binding, and the mapping that held nothing else.
func removeBinding(root *yaml.Node, m *manifest.Manifest) {
	path := m.BindingPath()
	holder := nodeAt(root, path[:len(path)-1])
	if holder == nil {
		return
	}
	removeField(holder, last(path))
	if len(holder.Content) == 0 {
		removeField(nodeAt(root, path[:len(path)-2]), path[len(path)-2])
	}
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
	root := cloneNode(m.Node(), true)
	switch {
	case m.Form == manifest.Kubernetes:
		setNode(root, name.String(), "metadata", "name")
		if m.Secret.Kubernetes.Namespace != "" {
			setNode(root, ws.String(), "metadata", "namespace")
		}
	default:
		setNode(root, name.String(), "name")
		if !ws.IsInstance() {
			setNode(root, ws.String(), "workspace")
		}
	}
	return reparse(m, strings.TrimSuffix(manifest.SecretPath(ws, name), ".yaml")+m.Ext(), ws, root)
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
// plain sops writes them, become the text they show. part says that the manifest is
// one part of a secret.
func (e *Envelope) Rebind(part bool) error {
	values, err := e.values()
	if err != nil {
		return err
	}
	sections := e.m.Sections()
	for _, v := range values {
		for _, section := range [][]string{sections.Text, sections.Base64} {
			path := below(section, v.Key)
			if raw := lookup(e.tree.Branches[0], path...); raw != nil && v.Retyped != "" {
				_, text, err := typed(raw)
				if err != nil {
					return err
				}
				e.set(path, string(text))
			}
		}
	}
	return checkType(e.m, values, part)
}

// sealedOutside names a sealed value outside the places that sealward seals.
func sealedOutside(m *manifest.Manifest) string {
	sections := m.Sections()
	ours := [][]string{sections.Text, sections.Base64, m.BindingPath(), {"sops"}}
	var walk func(n *yaml.Node, path []string) string
	walk = func(n *yaml.Node, path []string) string {
		if slices.ContainsFunc(ours, func(p []string) bool { return slices.Equal(p, path) }) {
			return ""
		}
		if n.Kind != yaml.MappingNode {
			if holdsSealed(n) {
				return strings.Join(path, ".")
			}
			return ""
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			if field := walk(n.Content[i+1], append(slices.Clip(path), n.Content[i].Value)); field != "" {
				return field
			}
		}
		return ""
	}
	return walk(m.Node(), nil)
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
	if err := m.SettleIn(e.m.Workspace); err != nil {
		return nil, err
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
