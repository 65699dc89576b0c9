package workload

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal/client"
)

// Consumption is how a workload takes a secret.
type Consumption string

// The consumption types.
const (
	EnvVars  Consumption = "envVars"
	PropFile Consumption = "propFile"
	File     Consumption = "file"
)

// Use is one entry of a workload's dataosSecrets.
type Use struct {
	client.Item // no keys: all that the caller may read
	As          Consumption
	Line        int
}

const (
	maxWorkload = 2 << 20
	maxUses     = 100 // one request's
	maxNesting  = 64
)

// Parse reads the dataosSecrets of a workload (a DataOS resource in YAML, also several
// documents), wherever they stand in it; secrets, the older spelling, is the same where it
// is a list of entries with a name. Entries are strict: unknown and repeated
// fields, anchors and aliases are errors with their line. An entry without workspace is of the
// document's own, else of def. Two entries for one secret and use are merged.
func Parse(file string, data []byte, def manifest.Workspace) ([]Use, error) {
	if len(data) > maxWorkload {
		return nil, fmt.Errorf("%s: is larger than %d MiB", file, maxWorkload>>20)
	}
	p := &parser{file: file}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil { // its text may quote what stands there
			return nil, fmt.Errorf("%s: is not YAML", file)
		}
		p.workspace = def
		if len(doc.Content) == 1 && doc.Content[0].Kind == yaml.MappingNode {
			if w := field(doc.Content[0], "workspace"); w != nil {
				ws, err := manifest.ParseScope(w.Value)
				if err != nil {
					return nil, p.at(w, "%w", err)
				}
				p.workspace = ws
			}
		}
		if err := p.walk(&doc, 0); err != nil {
			return nil, err
		}
	}
	if len(p.uses) == 0 {
		return nil, fmt.Errorf("%s: names no secrets: it has no dataosSecrets", file)
	}
	if len(p.uses) > maxUses {
		return nil, fmt.Errorf("%s: names %d secrets, at most %d", file, len(p.uses), maxUses)
	}
	return p.uses, nil
}

type parser struct {
	file      string
	workspace manifest.Workspace // of entries that name none
	uses      []Use
}

func (p *parser) at(n *yaml.Node, format string, args ...any) error {
	return fmt.Errorf("%s:%d:%d: %w", p.file, n.Line, n.Column, fmt.Errorf(format, args...))
}

func field(m *yaml.Node, name string) *yaml.Node {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == name {
			return m.Content[i+1]
		}
	}
	return nil
}

// walk looks for lists of secrets. An alias is not followed: what it leads to is
// walked where it stands.
func (p *parser) walk(n *yaml.Node, depth int) error {
	if depth > maxNesting {
		return p.at(n, "is nested more than %d deep", maxNesting)
	}
	if n.Kind != yaml.MappingNode {
		for _, c := range n.Content {
			if err := p.walk(c, depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i].Value, n.Content[i+1]
		if key == "dataosSecrets" || key == "secrets" && named(value) {
			if value.Kind != yaml.SequenceNode {
				return p.at(value, "%s is not a list", key)
			}
			for _, entry := range value.Content {
				if err := p.entry(entry); err != nil {
					return err
				}
			}
			continue
		}
		if err := p.walk(value, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// named: other resources have lists of other things under secrets.
func named(n *yaml.Node) bool {
	return n.Kind == yaml.SequenceNode && len(n.Content) > 0 && !slices.ContainsFunc(n.Content, func(e *yaml.Node) bool { return e.Kind != yaml.MappingNode || field(e, "name") == nil })
}

func (p *parser) entry(n *yaml.Node) error {
	if n.Kind != yaml.MappingNode {
		return p.at(n, "is not an entry with a name")
	}
	if n.Anchor != "" {
		return p.at(n, "anchors are not read here; write it out")
	}
	u := Use{As: EnvVars, Line: n.Line}
	u.Workspace = p.workspace
	all := false
	var keys []*yaml.Node
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if v.Kind == yaml.AliasNode || v.Anchor != "" || k.Kind != yaml.ScalarNode {
			return p.at(v, "anchors and aliases are not read here; write it out")
		}
		id := strings.ToLower(k.Value) // allkeys is allKeys
		if seen[id] {
			return p.at(k, "%.40q stands twice", k.Value)
		}
		seen[id] = true
		if k.Value != "keys" && (v.Kind != yaml.ScalarNode || v.Tag == "!!null") {
			return p.at(v, "%.40q needs one value", k.Value)
		}
		var err error
		switch k.Value {
		case "name":
			u.Name, err = manifest.ParseName(v.Value)
		case "workspace":
			u.Workspace, err = manifest.ParseScope(v.Value)
		case "key":
			keys = append(keys, v)
		case "keys":
			if v.Kind != yaml.SequenceNode || len(v.Content) == 0 {
				return p.at(v, "keys is not a list of keys")
			}
			keys = append(keys, v.Content...)
		case "allKeys", "allkeys":
			if v.Tag != "!!bool" {
				return p.at(v, "%s is true or false", k.Value)
			}
			all = v.Value == "true"
		case "consumptionType":
			switch v.Value {
			case "envVars", "propFile", "file":
				u.As = Consumption(v.Value)
			case "propfile":
				u.As = PropFile
			default:
				return p.at(v, "consumptionType is envVars, propFile or file")
			}
		default:
			return p.at(k, "%.40q is no field of a secret here; name, workspace, key, keys, allKeys and consumptionType are", k.Value)
		}
		if err != nil {
			return p.at(v, "%w", err)
		}
	}
	switch {
	case u.Name.IsZero():
		return p.at(n, "name is missing")
	case seen["key"] && seen["keys"], all && len(keys) > 0:
		return p.at(n, "key, keys and allKeys exclude each other")
	case seen["allkeys"] && !all && len(keys) == 0:
		return p.at(n, "allKeys is false, and no key is named")
	}
	for _, k := range keys {
		if k.Kind != yaml.ScalarNode {
			return p.at(k, "is not a key")
		}
		key, err := manifest.ParseKey(k.Value)
		if err != nil {
			return p.at(k, "%w", err)
		}
		if slices.Contains(u.Keys, key) {
			return p.at(k, "%s stands twice", key)
		}
		u.Keys = append(u.Keys, key)
	}
	for i, other := range p.uses {
		if other.Workspace == u.Workspace && other.Name == u.Name && other.As == u.As {
			if len(u.Keys) == 0 || len(other.Keys) == 0 {
				p.uses[i].Keys = nil
				return nil
			}
			for _, k := range u.Keys {
				if !slices.Contains(other.Keys, k) {
					p.uses[i].Keys = append(p.uses[i].Keys, k)
				}
			}
			return nil
		}
	}
	p.uses = append(p.uses, u)
	return nil
}
