package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

const (
	maxDepth  = 12   // a sealed manifest with key groups has 6 levels
	maxErrors = 50   // of one file; a hostile file must not fill a log
	maxKeys   = 4096 // entries of one secret

	// Of files that are no manifests.
	maxForeignDepth = 64
	maxDocuments    = 1000
)

// decoder walks the nodes of one file and collects what is wrong with it.
type decoder struct {
	file  string
	json  bool // the file is JSON
	depth int  // how deep it may be nested; 0: maxDepth
	errs  Errors
}

// tooDeep records that a node is nested deeper than may be.
func (d *decoder) tooDeep(n *yaml.Node, field string, depth int) bool {
	if depth <= max(d.depth, maxDepth) {
		return false
	}
	d.fail(n, field, "is nested too deep")
	return true
}

func (d *decoder) fail(n *yaml.Node, field, format string, args ...any) *Error {
	e := &Error{File: d.file, Field: field, Msg: fmt.Sprintf(format, args...)}
	if n != nil {
		e.Line, e.Column = n.Line, n.Column
	}
	if len(d.errs) < maxErrors {
		d.errs = append(d.errs, e)
	}
	return e
}

// readDocument returns the root mapping of the one document in data.
func (d *decoder) readDocument(data []byte) *yaml.Node {
	if len(data) > MaxSize {
		d.fail(nil, "", "has %d bytes; a manifest may have at most %d", len(data), MaxSize).Reason = ReasonTooLarge
		return nil
	}
	if !utf8.Valid(data) {
		d.fail(nil, "", "is not UTF-8 text; save it as UTF-8, and put binary values under binaryData as base64")
		return nil
	}
	if looksLikeJSON(d.file, data) {
		d.json = true
		return d.readJSON(data)
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, more yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			d.fail(nil, "", "is empty; a manifest starts with name, version and type (sealward schema secret)")
			return nil
		}
		d.failSyntax(err)
		return nil
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		if err != nil {
			d.failSyntax(err)
			return nil
		}
		d.fail(&more, "", "a second document starts here; write one manifest a file")
		return nil
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		d.fail(nil, "", "is empty; a manifest starts with name, version and type (sealward schema secret)")
		return nil
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		d.fail(root, "", "is not a manifest: expected fields such as name, version and type")
		return nil
	}
	// Comments before the first and after the last field hang on the document.
	root.HeadComment = joinComments(doc.HeadComment, root.HeadComment)
	root.FootComment = joinComments(root.FootComment, doc.FootComment)
	d.checkNode(root, "", 0)
	return root
}

func joinComments(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "\n\n" + b
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

// failSyntax reports an error of the YAML library. Its text may quote the input
// (an unknown anchor's name, say, when a value starts with *), so what comes
// through is only what has no quotation mark.
func (d *decoder) failSyntax(err error) {
	m := yamlLine.FindStringSubmatch(err.Error())
	n := &yaml.Node{}
	why := "cannot be parsed"
	if m != nil {
		if line, e := strconv.Atoi(m[1]); e == nil {
			n.Line, n.Column = line, 1
		}
		if m[2] != "" && !strings.ContainsAny(m[2], "'\"`") {
			why = m[2]
		} else if strings.HasPrefix(m[2], "unknown anchor") {
			why = "an alias (*name) stands for nothing; if the value starts with *, quote it"
		}
	}
	d.fail(n, "", "is not valid YAML: %s", why)
}

// checkNode refuses what makes YAML ambiguous: aliases, anchors, tags, merge
// keys, keys that are not plain text, duplicate keys, and too much depth.
func (d *decoder) checkNode(n *yaml.Node, field string, depth int) {
	if d.tooDeep(n, field, depth) {
		return
	}
	if n.Kind == yaml.AliasNode {
		d.fail(n, field, "is an alias (*name); write the value out, or quote it if it starts with *")
		return
	}
	if n.Anchor != "" {
		d.fail(n, field, "has an anchor (&name); remove it, or quote the value if it starts with &")
	}
	if n.Style&yaml.TaggedStyle != 0 {
		d.fail(n, field, "has a tag (!name); remove it, or quote the value if it starts with !")
	}
	switch n.Kind {
	case yaml.MappingNode:
		seen := make(map[string]int, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			k, v := n.Content[i], n.Content[i+1]
			if k.Kind != yaml.ScalarNode || k.Tag == "!!merge" || k.Anchor != "" || k.Style&yaml.TaggedStyle != 0 {
				d.fail(k, field, "has a key that is not plain text")
				continue
			}
			name := join(field, k.Value)
			if line, dup := seen[k.Value]; dup {
				d.fail(k, name, "stands twice (first on line %d); keep one", line)
			}
			seen[k.Value] = k.Line
			d.checkNode(v, name, depth+1)
		}
	case yaml.SequenceNode:
		for i, v := range n.Content {
			d.checkNode(v, fmt.Sprintf("%s[%d]", field, i), depth+1)
		}
	}
}

// join makes the dotted path of a field. What is not a plausible field name is
// not repeated: a mistyped line may have put a value there.
func join(field, key string) string {
	if _, err := ParseKey(key); err != nil && !strings.HasPrefix(key, "sealward.dev/") {
		key = "(odd key)"
	}
	if field == "" {
		return key
	}
	return field + "." + key
}

// fieldSet is a mapping whose fields are taken one by one; what is left over at
// the end is unknown.
type fieldSet struct {
	d      *decoder
	node   *yaml.Node
	prefix string
	keys   map[string]*yaml.Node
	values map[string]*yaml.Node
	order  []string
}

// fields reads a mapping; nil with a recorded error when n is none.
func (d *decoder) fields(n *yaml.Node, prefix string) *fieldSet {
	if n.Kind != yaml.MappingNode {
		d.fail(n, prefix, "must be a mapping of fields")
		return nil
	}
	f := &fieldSet{d: d, node: n, prefix: prefix, keys: map[string]*yaml.Node{}, values: map[string]*yaml.Node{}}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i].Value
		if _, dup := f.values[k]; dup {
			continue // checkNode reported it
		}
		f.keys[k], f.values[k] = n.Content[i], n.Content[i+1]
		f.order = append(f.order, k)
	}
	return f
}

// take returns the value of a field and marks it known; nil when absent.
func (f *fieldSet) take(name string) *yaml.Node {
	v := f.values[name]
	delete(f.values, name)
	return v
}

// text takes a one-line text field. Scalars of other types count as the text
// they are written as.
func (f *fieldSet) text(name string, required bool) (string, *yaml.Node) {
	v := f.take(name)
	path := join(f.prefix, name)
	if v == nil {
		if required {
			f.d.fail(f.node, path, "is missing")
		}
		return "", nil
	}
	if v.Kind != yaml.ScalarNode || v.Tag == "!!null" {
		f.d.fail(v, path, "must be a text")
		return "", nil
	}
	if strings.ContainsAny(v.Value, "\r\n") && name != "description" && name != "notes" {
		f.d.fail(v, path, "must be one line")
		return "", nil
	}
	return v.Value, v
}

// texts takes a list of one-line texts.
func (f *fieldSet) texts(name string) ([]*yaml.Node, *yaml.Node) {
	v := f.take(name)
	if v == nil {
		return nil, nil
	}
	path := join(f.prefix, name)
	if v.Kind != yaml.SequenceNode {
		f.d.fail(v, path, "must be a list")
		return nil, v
	}
	var out []*yaml.Node
	for i, item := range v.Content {
		if item.Kind != yaml.ScalarNode || item.Tag == "!!null" || item.Value == "" || strings.ContainsAny(item.Value, "\r\n") {
			f.d.fail(item, fmt.Sprintf("%s[%d]", path, i), "must be a one-line text")
			continue
		}
		out = append(out, item)
	}
	return out, v
}

// done reports every field nobody took.
func (f *fieldSet) done(known string) {
	for _, name := range f.order {
		if _, left := f.values[name]; left {
			hint := ""
			if name == "file" { // DataOS's samples write that
				hint = "; did you mean files?"
			}
			f.d.fail(f.keys[name], join(f.prefix, name), "is not a field here%s; known are %s", hint, known)
		}
	}
}
