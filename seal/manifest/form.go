package manifest

import "fmt"

// Form is how a manifest is written.
type Form int

// The forms. Grants and roles have the first only.
const (
	DataOS     Form = iota // name, version, type, … and a section named as the type
	Kubernetes             // apiVersion: v1, kind: Secret, metadata, …
)

// BindingAnnotation is where a Kubernetes Secret keeps its binding.
const BindingAnnotation = annotationPrefix + "binding"

// Sections say where a form keeps values: paths to the mappings with text and
// with base64.
type Sections struct {
	Text, Base64 []string
	// PreferBase64: a new value goes to Base64 even when it is text, as
	// Kubernetes itself keeps it.
	PreferBase64 bool
}

// SectionsOf gives the sections of a form; kind matters for DataOS's only.
func SectionsOf(f Form, k Kind) Sections {
	if f == Kubernetes {
		return Sections{Text: []string{"stringData"}, Base64: []string{"data"}, PreferBase64: true}
	}
	return Sections{Text: []string{string(k), "data"}, Base64: []string{string(k), "binaryData"}}
}

// Sections of a secret's manifest.
func (m *Manifest) Sections() Sections { return SectionsOf(m.Form, m.Kind) }

// BindingPath is where a sealed manifest keeps its binding.
func (m *Manifest) BindingPath() []string {
	if m.Form == Kubernetes {
		return []string{"metadata", "annotations", BindingAnnotation}
	}
	return []string{"seal", "binding"}
}

// FormKind names form and kind in one word, as bindings and schemas do.
func (m *Manifest) FormKind() string {
	if m.Form == Kubernetes {
		return KubernetesSchema
	}
	return string(m.Kind)
}

// SettleIn says in which workspace a secret is whose manifest leaves that to its
// place: a Kubernetes Secret without a namespace. One that states another
// workspace is refused.
func (m *Manifest) SettleIn(ws Workspace) error {
	switch {
	case ws.IsZero():
		return &Error{File: m.File, Field: "metadata.namespace", Msg: "is missing, and the file stands in no workspace's folder; name its workspace"}
	case ws.IsInstance() != (m.Kind == KindInstanceSecret):
		return fmt.Errorf("%s: is a %s, which has no place in %s", m.File, m.Kind, ws)
	case !m.Workspace.IsZero() && m.Workspace != ws:
		return fmt.Errorf("%s: states workspace %s, not %s; change one of them", m.File, m.Workspace, ws)
	}
	m.Workspace = ws
	return nil
}

// Ext is how the names of files in the manifest's notation end.
func (m *Manifest) Ext() string {
	if m.JSON {
		return ".json"
	}
	return ".yaml"
}
