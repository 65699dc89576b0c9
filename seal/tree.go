package seal

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/getsops/sops/v3"
	"go.yaml.in/yaml/v3"
)

// branch turns a mapping into SOPS's tree, as the YAML store of SOPS does
// (stores/yaml, nodeToTreeValue), but from nodes that were parsed once and
// checked already, and without comments: none stands among sealed values, and
// SOPS's MAC and the binding cover no others.
func branch(n *yaml.Node) (sops.TreeBranch, error) {
	out := make(sops.TreeBranch, 0, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		v, err := treeValue(n.Content[i+1])
		if err != nil {
			return nil, err
		}
		out = append(out, sops.TreeItem{Key: n.Content[i].Value, Value: v})
	}
	return out, nil
}

func treeValue(n *yaml.Node) (any, error) {
	switch n.Kind {
	case yaml.MappingNode:
		return branch(n)
	case yaml.SequenceNode:
		out := make([]any, 0, len(n.Content))
		for _, c := range n.Content {
			v, err := treeValue(c)
			if err != nil {
				return nil, err
			}
			out = append(out, v)
		}
		return out, nil
	case yaml.ScalarNode:
		if n.Tag == "!!str" {
			return n.Value, nil
		}
		var v any
		if err := n.Decode(&v); err != nil {
			// JSON's numbers beyond 64 bits, which SOPS reads as floats too.
			if f, err := strconv.ParseFloat(n.Value, 64); err == nil && n.Tag == "!!float" {
				return f, nil
			}
			return nil, errors.New("a scalar cannot be read")
		}
		return v, nil
	default:
		return nil, errors.New("an alias stands in the file")
	}
}

// valueNode is the reverse of treeValue, for the sops section.
func valueNode(in any) *yaml.Node {
	switch in := in.(type) {
	case sops.TreeBranch:
		n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		for _, item := range in {
			n.Content = append(n.Content, textNode(fmt.Sprint(item.Key)), valueNode(item.Value))
		}
		return n
	case []any:
		n := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		for _, item := range in {
			n.Content = append(n.Content, valueNode(item))
		}
		return n
	case string:
		return textNode(in)
	default:
		n := &yaml.Node{}
		if err := n.Encode(in); err != nil {
			return textNode(fmt.Sprint(in))
		}
		return n
	}
}

// textNode is a scalar that reads as text; the encoder quotes it where needed.
func textNode(s string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(s)
	return n
}

// lookup follows keys down a tree; nil when one is absent.
func lookup(in any, path ...string) any {
	for _, key := range path {
		b, ok := in.(sops.TreeBranch)
		if !ok {
			return nil
		}
		in = nil
		for _, item := range b {
			if item.Key == key {
				in = item.Value
			}
		}
	}
	return in
}

// setNode sets a value below a mapping, adding the fields of path at the end
// where they are missing.
func setNode(n *yaml.Node, value any, path ...string) {
	for len(path) > 0 {
		child := fieldNode(n, path[0])
		if child == nil {
			child = &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
			n.Content = append(n.Content, textNode(path[0]), child)
		}
		n, path = child, path[1:]
	}
	head, line, foot := n.HeadComment, n.LineComment, n.FootComment
	*n = *valueNode(value)
	n.HeadComment, n.LineComment, n.FootComment = head, line, foot
}

// fieldNode is the value of a field of a mapping, nil when it is absent.
func fieldNode(n *yaml.Node, name string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i+1]
		}
	}
	return nil
}

// nodeAt follows fields down mappings; nil when one is absent.
func nodeAt(n *yaml.Node, path []string) *yaml.Node {
	for _, name := range path {
		if n = fieldNode(n, name); n == nil {
			return nil
		}
	}
	return n
}

// removeField drops a field of a mapping.
func removeField(n *yaml.Node, name string) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			n.Content = append(n.Content[:i], n.Content[i+2:]...)
			return
		}
	}
}

// removeAt drops what stands at a path, if anything does.
func removeAt(n *yaml.Node, path []string) {
	if n = nodeAt(n, path[:len(path)-1]); n != nil {
		removeField(n, last(path))
	}
}

// copySealed writes the texts of a sealed tree into the nodes of the same shape.
func copySealed(n *yaml.Node, in any) {
	switch in := in.(type) {
	case sops.TreeBranch:
		for _, item := range in {
			if child := fieldNode(n, item.Key.(string)); child != nil {
				copySealed(child, item.Value)
			}
		}
	case []any:
		for i, item := range in {
			copySealed(n.Content[i], item)
		}
	case string:
		if n.Value != in {
			n.SetString(in)
			n.Style = 0
		}
	}
}
