package seal

import (
	"fmt"
	"path"

	"go.yaml.in/yaml/v3"

	"github.com/sealward/sealward/seal/manifest"
)

// Draft is a secret that is about to be written.
type Draft struct {
	Name        manifest.Name
	Workspace   manifest.Workspace // manifest.Instance() for an instance secret
	Version     string             // "" means v1
	Type        manifest.SecretType
	ACL         manifest.ACL
	Layer       string
	Tags        []string
	Description string
	Owner       string
	Values      []Value
}

// NewManifest turns a draft into a plaintext manifest that has passed every
// check of the parser, ready for Seal.
func NewManifest(d Draft) (*manifest.Manifest, error) {
	kind := manifest.KindSecret
	if d.Workspace.IsInstance() {
		kind = manifest.KindInstanceSecret
	}
	if d.Version == "" {
		d.Version = "v1"
	}
	root := &yaml.Node{Kind: yaml.MappingNode}
	set := func(value any, path ...string) {
		if value != "" {
			setNode(root, value, path...)
		}
	}
	set(d.Name.String(), "name")
	set(d.Version, "version")
	set(string(kind), "type")
	if kind == manifest.KindSecret {
		set(d.Workspace.String(), "workspace")
	}
	set(d.Layer, "layer")
	if len(d.Tags) > 0 {
		var tags []any
		for _, t := range d.Tags {
			tags = append(tags, t)
		}
		set(tags, "tags")
	}
	set(d.Description, "description")
	set(d.Owner, "owner")
	set(string(d.Type), string(kind), "type")
	set(string(d.ACL), string(kind), "acl")
	sections := manifest.SectionsOf(manifest.DataOS, kind)
	seen := map[manifest.Key]bool{}
	for _, v := range d.Values {
		if seen[v.Key] {
			return nil, fmt.Errorf("key %s is given twice", v.Key)
		}
		seen[v.Key] = true
		section, text := place(sections, v.Data, v.Binary)
		setNode(root, text, below(section, v.Key)...)
	}
	text, err := encodeYAML(root)
	if err != nil {
		return nil, err
	}
	return manifest.Parse(path.Base(manifest.SecretPath(d.Workspace, d.Name)), text)
}

// PlaceIn states the workspace in a plaintext manifest that states none; one
// that states another is refused. A Kubernetes Secret stays as it is: its
// namespace may be set where it is deployed.
func PlaceIn(m *manifest.Manifest, ws manifest.Workspace) error {
	if m.Form == manifest.Kubernetes {
		return m.SettleIn(ws)
	}
	switch {
	case m.Kind == manifest.KindInstanceSecret && !ws.IsInstance(), m.Kind == manifest.KindSecret && ws.IsInstance():
		return fmt.Errorf("%s: is a %s, which has no place in %s", m.File, m.Kind, ws)
	case ws.IsInstance():
		return nil
	case fieldNode(m.Node(), "workspace") != nil && m.Workspace != ws:
		return fmt.Errorf("%s: states workspace %s, not %s; change one of them", m.File, m.Workspace, ws)
	}
	m.Workspace = ws
	if fieldNode(m.Node(), "workspace") == nil {
		// After type, where people look for it.
		for i := 0; i+1 < len(m.Node().Content); i += 2 {
			if m.Node().Content[i].Value == "type" {
				rest := m.Node().Content[i+2:]
				m.Node().Content = append(append(append([]*yaml.Node{}, m.Node().Content[:i+2]...), textNode("workspace"), textNode(ws.String())), rest...)
				break
			}
		}
	}
	return nil
}
