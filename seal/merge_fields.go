package seal

import (
	"bytes"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/sealward/sealward/seal/manifest"
)

// plainFields are the fields of a sealed manifest that are neither sealed nor
// SOPS's.
func plainFields(m *manifest.Manifest) *yaml.Node {
	root, sections := cloneNode(m.Node(), true), m.Sections()
	removeBinding(root, m)
	removeField(root, "sops")
	removeAt(root, sections.Text)
	removeAt(root, sections.Base64)
	return root
}

// fields merges the fields of theirs into ours, mapping by mapping.
func (m *merge) fields(ours, base, theirs *yaml.Node, path []string, open Choice) {
	sections := m.m.Sections()
	var names []string
	seen := map[string]bool{}
	for _, n := range []*yaml.Node{ours, theirs} {
		for i := 0; i+1 < len(n.Content); i += 2 {
			if name := n.Content[i].Value; !seen[name] {
				seen[name] = true
				names = append(names, name)
			}
		}
	}
	for _, name := range names {
		at := append(slices.Clip(path), name)
		if slices.Equal(at, sections.Text) || slices.Equal(at, sections.Base64) {
			continue
		}
		var b *yaml.Node
		if base != nil {
			b = fieldNode(base, name)
		}
		o, t := fieldNode(ours, name), fieldNode(theirs, name)
		if sameNode(o, t) {
			continue
		}
		if isMapping(o) && isMapping(t) {
			if !isMapping(b) {
				b = nil
			}
			m.fields(o, b, t, at, open)
			continue
		}
		field := strings.Join(at, ".")
		only := Undecided
		switch {
		case sameNode(b, t):
			only = TakeOurs
		case sameNode(b, o):
			only = TakeTheirs
		case field == "tags" && isList(o) && isList(t) && m.opts.Choices.Fields[field] == Undecided:
			mergeTags(o, b, t)
			continue
		}
		c := Conflict{Field: field, Why: why(b != nil, o != nil, t != nil)}
		if m.decide(c, only, m.opts.Choices.Fields[field], open) == TakeTheirs {
			putField(ours, name, t)
		}
	}
}

func isMapping(n *yaml.Node) bool { return n != nil && n.Kind == yaml.MappingNode }
func isList(n *yaml.Node) bool    { return n != nil && n.Kind == yaml.SequenceNode }

// sameNode compares what nodes say; the order of fields says nothing.
func sameNode(a, b *yaml.Node) bool {
	if a == nil || b == nil {
		return a == b
	}
	if a.Kind != b.Kind || a.Value != b.Value || len(a.Content) != len(b.Content) {
		return false
	}
	if a.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(a.Content); i += 2 {
			if !sameNode(a.Content[i+1], fieldNode(b, a.Content[i].Value)) {
				return false
			}
		}
		return true
	}
	for i := range a.Content {
		if !sameNode(a.Content[i], b.Content[i]) {
			return false
		}
	}
	return true
}

// mergeTags makes of ours the set that has what either side added and lacks what
// either side removed.
func mergeTags(ours, base, theirs *yaml.Node) {
	has := func(n *yaml.Node, tag *yaml.Node) bool {
		return n != nil && slices.ContainsFunc(n.Content, func(c *yaml.Node) bool { return c.Value == tag.Value })
	}
	var out []*yaml.Node
	for _, tag := range ours.Content {
		if has(theirs, tag) || !has(base, tag) {
			out = append(out, tag)
		}
	}
	for _, tag := range theirs.Content {
		if !has(ours, tag) && !has(base, tag) {
			out = append(out, cloneNode(tag, true))
		}
	}
	ours.Content = out
}

// putField sets a field of a mapping to another's node, or removes it.
func putField(n *yaml.Node, name string, value *yaml.Node) {
	old := fieldNode(n, name)
	switch {
	case value == nil:
		removeField(n, name)
	case old == nil:
		n.Content = append(n.Content, textNode(name), cloneNode(value, true))
	default:
		head, line, foot := old.HeadComment, old.LineComment, old.FootComment
		*old = *cloneNode(value, true)
		old.HeadComment, old.LineComment, old.FootComment = head, line, foot
	}
}

// held is one side's value of a key, absent without one.
type held struct {
	*Value
	isText bool // it stands in the section of texts
}

func heldBy(s *Side) map[manifest.Key]held {
	out := map[manifest.Key]held{}
	if s == nil {
		return out
	}
	isText := map[manifest.Key]bool{}
	for _, entry := range s.Envelope.m.Secret.Entries {
		isText[entry.Key] = !entry.Binary
	}
	for i, v := range s.Values {
		out[v.Key] = held{&s.Values[i], isText[v.Key]}
	}
	return out
}

func sameValue(a, b held) bool {
	if a.Value == nil || b.Value == nil {
		return a.Value == b.Value
	}
	return a.Binary == b.Binary && bytes.Equal(a.Data, b.Data)
}

// values merges the values. isText says which stand as text.
func (m *merge) values(open Choice) (out []Value, isText map[manifest.Key]bool) {
	isText = map[manifest.Key]bool{}
	for _, key := range m.order {
		b, o, t := m.held[0][key], m.held[1][key], m.held[2][key]
		v := o
		if !sameValue(o, t) {
			only := Undecided
			switch {
			case sameValue(b, t):
				only = TakeOurs
			case sameValue(b, o):
				only = TakeTheirs
			}
			c := Conflict{Key: key, Why: why(b.Value != nil, o.Value != nil, t.Value != nil)}
			if m.decide(c, only, m.opts.Choices.Keys[key], open) == TakeTheirs {
				v = t
			}
		}
		if v.Value != nil {
			out = append(out, *v.Value)
			isText[key] = v.isText
		}
	}
	return out, isText
}
