package kustomize

import (
	"fmt"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
)

const (
	maxGenerator = 1 << 20 // bytes of one generator document
	maxEntries   = 16 << 10
)

// parser reads one document strictly and collects what is wrong with it.
type parser struct {
	file string
	errs manifest.Errors
}

func (p *parser) fail(n *yaml.Node, field, format string, args ...any) {
	e := &manifest.Error{File: p.file, Field: field, Msg: fmt.Sprintf(format, args...)}
	if n != nil {
		e.Line, e.Column = n.Line, n.Column
	}
	if len(p.errs) < 20 { // a hostile file must not fill a log
		p.errs = append(p.errs, e)
	}
}

// document parses data, which starts at a line of its file.
func (p *parser) document(line int, data []byte) *yaml.Node {
	if len(data) > maxGenerator {
		p.fail(nil, "", "has %d bytes; a generator may have at most %d", len(data), maxGenerator)
		return nil
	}
	var doc yaml.Node
	if err := workspace.DecodeStrict(data, &doc); err != nil {
		why, at := strings.TrimPrefix(err.Error(), "yaml: "), &yaml.Node{Column: 1}
		if n, _ := fmt.Sscanf(why, "line %d:", &at.Line); n == 1 {
			_, why, _ = strings.Cut(why, ": ")
		}
		at.Line = line + max(at.Line, 1) - 1
		p.fail(at, "", "is not valid YAML: %s", why)
		return nil
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		p.fail(&yaml.Node{Line: line, Column: 1}, "", "is no generator: expected apiVersion, kind and metadata")
		return nil
	}
	moveLines(&doc, line-1)
	return doc.Content[0]
}

// moveLines makes a document's nodes count as its file does.
func moveLines(n *yaml.Node, by int) {
	n.Line += by
	for _, c := range n.Content {
		moveLines(c, by)
	}
}

// fields of a mapping, each taken once.
type fields struct {
	p      *parser
	node   *yaml.Node
	path   string
	values map[string]*yaml.Node
}

func (p *parser) fields(n *yaml.Node, path string) *fields {
	f := &fields{p: p, node: n, path: path, values: map[string]*yaml.Node{}}
	if n.Kind != yaml.MappingNode {
		p.fail(n, path, "must be a mapping of fields")
		return f
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		switch {
		case k.Kind != yaml.ScalarNode || k.Tag == "!!merge" || v.Kind == yaml.AliasNode:
			p.fail(k, path, "has an alias or a key that is not plain text; write it out")
		case f.values[k.Value] != nil:
			p.fail(k, f.at(k.Value), "stands twice; keep one")
		default:
			f.values[k.Value] = v
		}
	}
	return f
}

func (f *fields) at(name string) string {
	if f.path == "" {
		return name
	}
	return f.path + "." + name
}

// take gives a field and ticks it off; nil where it is absent or null.
func (f *fields) take(name string) *yaml.Node {
	n := f.values[name]
	delete(f.values, name)
	if n != nil && n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return nil
	}
	return n
}

// done refuses the fields that nobody took.
func (f *fields) done(known string) {
	if f.node.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i+1 < len(f.node.Content); i += 2 {
		k := f.node.Content[i]
		if f.values[k.Value] != nil {
			f.p.fail(k, f.at(short(k.Value)), "is unknown here; known are %s", known)
			delete(f.values, k.Value)
		}
	}
}

func (f *fields) text(name string) (string, *yaml.Node) {
	n := f.take(name)
	if n == nil {
		return "", nil
	}
	return f.p.text(n, f.at(name)), n
}

func (p *parser) text(n *yaml.Node, path string) string {
	if n.Kind != yaml.ScalarNode || strings.ContainsAny(n.Value, "\x00\n\r") {
		p.fail(n, path, "must be one line of text")
		return ""
	}
	return n.Value
}

func (f *fields) boolean(name string) *bool {
	n := f.take(name)
	if n == nil {
		return nil
	}
	yes := n.Value == "true"
	if n.Kind != yaml.ScalarNode || n.Tag != "!!bool" || !yes && n.Value != "false" {
		f.p.fail(n, f.at(name), "must be true or false")
		return nil
	}
	return &yes
}

func (f *fields) list(name string) []*yaml.Node {
	n := f.take(name)
	switch {
	case n == nil:
		return nil
	case n.Kind != yaml.SequenceNode:
		f.p.fail(n, f.at(name), "must be a list")
		return nil
	case len(n.Content) > maxEntries:
		f.p.fail(n, f.at(name), "has %d entries; at most %d", len(n.Content), maxEntries)
		return nil
	}
	for i, item := range n.Content {
		if item.Kind == yaml.AliasNode {
			f.p.fail(item, fmt.Sprintf("%s[%d]", f.at(name), i), "is an alias (*name); write it out")
			return nil
		}
	}
	return n.Content
}

// pairs of a mapping of text: labels and annotations.
func (f *fields) pairs(name string) map[string]string {
	n := f.take(name)
	if n == nil {
		return nil
	}
	sub := f.p.fields(n, f.at(name))
	out := map[string]string{}
	for k, v := range sub.values {
		if v.Kind != yaml.ScalarNode || v.Tag != "!!str" {
			f.p.fail(v, sub.at(short(k)), "must be text; quote it")
			continue
		}
		out[k] = v.Value
	}
	return out
}

var (
	objectName    = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	namespaceName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
)

// objectName reads a name under Kubernetes' rule for objects.
func (f *fields) objectName(field string) string {
	s, n := f.text(field)
	if n != nil && (len(s) > 253 || !objectName.MatchString(s)) {
		f.p.fail(n, f.at(field), "is no name of a Kubernetes object: lower-case letters, digits, - and ., at most 253")
	}
	return s
}

func (f *fields) namespace(field string) string {
	s, n := f.text(field)
	if n != nil && (len(s) > 63 || !namespaceName.MatchString(s)) {
		f.p.fail(n, f.at(field), "is no namespace: lower-case letters, digits and -, at most 63")
	}
	return s
}

// path reads a path relative to the kustomization's folder. That it stays in the
// tree is checked when it is opened.
func (p *parser) path(n *yaml.Node, field, s string) string {
	if s == "" || len(s) > 4096 || strings.Contains(s, "://") {
		p.fail(n, field, "is no path of a file; a sealed file must be in the tree")
	}
	return s
}

// short keeps what a stranger wrote out of a message when it is long.
func short(s string) string {
	if len(s) > 60 {
		return s[:57] + "..."
	}
	return s
}
