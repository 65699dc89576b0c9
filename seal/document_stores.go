package seal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/getsops/sops/v3"
	"go.yaml.in/yaml/v3"
	"gopkg.in/ini.v1"

	"github.com/sealward/sealward/seal/manifest"
)

// SOPS's own stores are not used here: their packages bring the clients of two
// object stores into the program, and print plaintext without looking at it. What
// is read and printed here is the same, byte for byte; the tests compare it with
// the real sops.

// readTree reads a file into SOPS's tree, with comments.
func readTree(file, format string, data []byte) (sops.TreeBranches, error) {
	switch format {
	case formatINI:
		return readINI(file, data)
	case formatDotenv:
		return readDotenv(file, data)
	}
	nodes, err := manifest.ParseDocuments(file, format == formatJSON, data)
	if err != nil {
		return nil, err
	}
	var out sops.TreeBranches
	for _, n := range nodes {
		b, err := commentedBranch(n, false)
		if err != nil {
			return nil, &TamperError{File: file, Reason: ReasonForm, Msg: err.Error()}
		}
		out = append(out, b)
	}
	return out, nil
}

// printTree prints a tree as sops -d does.
func printTree(format string, roots sops.TreeBranches) ([]byte, error) {
	switch format {
	case formatINI:
		return printINI(roots[0])
	case formatDotenv:
		return printDotenv(roots[0])
	case formatJSON:
		var compact, out bytes.Buffer
		if err := printJSON(&compact, roots[0]); err != nil {
			return nil, err
		}
		if err := json.Indent(&out, compact.Bytes(), "", "\t"); err != nil {
			return nil, err
		}
		return append(out.Bytes(), '\n'), nil
	}
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(4)
	for _, root := range roots {
		n, err := commentedNode(root)
		if err != nil {
			return nil, err
		}
		if err := enc.Encode(&yaml.Node{Kind: yaml.DocumentNode, Content: []*yaml.Node{n}}); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), enc.Close()
}

// comments makes SOPS's comments of a comment's lines.
func comments(text string, inline bool) (out []sops.Comment) {
	for line := range strings.SplitSeq(text, "\n") {
		if line != "" {
			out = append(out, sops.Comment{Value: line[1:], Inline: inline})
		}
	}
	return out
}

// commentedBranch is branch with the comments where SOPS has them: each is an item
// of its own. handled says that n's own comments stand in the list around it.
func commentedBranch(n *yaml.Node, handled bool) (sops.TreeBranch, error) {
	out := sops.TreeBranch{}
	note := func(text string, inline bool) {
		for _, c := range comments(text, inline) {
			out = append(out, sops.TreeItem{Key: c})
		}
	}
	if !handled {
		note(n.HeadComment, false)
		note(n.LineComment, false)
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		note(key.HeadComment, false)
		note(key.LineComment, false)
		scalar := value.Kind == yaml.ScalarNode
		if scalar {
			note(value.HeadComment, false)
			note(value.LineComment, true)
		}
		v, err := commentedValue(value, scalar)
		if err != nil {
			return nil, err
		}
		out = append(out, sops.TreeItem{Key: key.Value, Value: v})
		if scalar {
			note(value.FootComment, false)
		}
		note(key.FootComment, false)
	}
	if !handled {
		note(n.FootComment, false)
	}
	return out, nil
}

func commentedValue(n *yaml.Node, handled bool) (any, error) {
	switch n.Kind {
	case yaml.MappingNode:
		return commentedBranch(n, handled)
	case yaml.SequenceNode:
		var out []any
		note := func(text string, inline bool) {
			for _, c := range comments(text, inline) {
				out = append(out, c)
			}
		}
		if !handled {
			note(n.HeadComment, false)
			note(n.LineComment, false)
		}
		for _, item := range n.Content {
			note(item.HeadComment, false)
			note(item.LineComment, true)
			v, err := commentedValue(item, true)
			if err != nil {
				return nil, err
			}
			out = append(out, v)
			note(item.FootComment, false)
		}
		if !handled {
			note(n.FootComment, false)
		}
		return out, nil
	}
	return treeValue(n)
}

// pending holds comments until the node comes that they belong to.
type pending struct{ head, inline []string }

func (p *pending) add(c sops.Comment) {
	if c.Inline {
		p.inline = append(p.inline, c.Value)
	} else {
		p.head = append(p.head, c.Value)
	}
}

// above puts the comments above a node, before what stands there already.
func (p *pending) above(n *yaml.Node) {
	if len(p.head) > 0 {
		n.HeadComment = strings.TrimSuffix(asComment(p.head)+"\n"+n.HeadComment, "\n")
		p.head = nil
	}
}

func (p *pending) behind(n *yaml.Node) {
	if len(p.inline) > 0 {
		n.LineComment = strings.TrimPrefix(n.LineComment+"\n"+asComment(p.inline), "\n")
		p.inline = nil
	}
}

// rest puts what is left below the last node, or above a container without one.
func (p *pending) rest(container, last *yaml.Node) {
	p.head = append(p.head, p.inline...)
	switch {
	case len(p.head) == 0:
	case last == nil:
		p.above(container)
	default:
		last.FootComment = strings.TrimPrefix(last.FootComment+"\n"+asComment(p.head), "\n")
	}
}

func asComment(lines []string) string { return "#" + strings.Join(lines, "\n#") }

// commentedNode is the reverse of commentedValue.
func commentedNode(in any) (*yaml.Node, error) {
	var p pending
	var last *yaml.Node
	switch in := in.(type) {
	case sops.TreeBranch:
		n := &yaml.Node{Kind: yaml.MappingNode}
		for _, item := range in {
			if c, ok := item.Key.(sops.Comment); ok {
				p.add(c)
				continue
			}
			if last == nil {
				p.above(n)
			}
			key := &yaml.Node{}
			if err := key.Encode(item.Key); err != nil {
				return nil, err
			}
			p.above(key)
			value, err := commentedNode(item.Value)
			if err != nil {
				return nil, err
			}
			p.behind(value)
			n.Content, last = append(n.Content, key, value), key
		}
		p.rest(n, last)
		return n, nil
	case []any:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		for _, item := range in {
			if c, ok := item.(sops.Comment); ok {
				p.add(c)
				continue
			}
			if last == nil {
				p.above(n)
			}
			value, err := commentedNode(item)
			if err != nil {
				return nil, err
			}
			p.above(value)
			p.behind(value)
			n.Content, last = append(n.Content, value), value
		}
		p.rest(n, last)
		return n, nil
	}
	n := &yaml.Node{}
	return n, n.Encode(in)
}

func printJSON(out *bytes.Buffer, in any) error {
	leaf := func(v any) error {
		b, err := json.Marshal(v)
		out.Write(b)
		return err
	}
	switch in := in.(type) {
	case sops.TreeBranch:
		out.WriteByte('{')
		for i, item := range withoutComments(in) {
			if i > 0 {
				out.WriteByte(',')
			}
			if err := leaf(item.Key); err != nil {
				return err
			}
			out.WriteByte(':')
			if err := printJSON(out, item.Value); err != nil {
				return err
			}
		}
		out.WriteByte('}')
		return nil
	case []any:
		out.WriteByte('[')
		for i, item := range itemsOnly(in) {
			if i > 0 {
				out.WriteByte(',')
			}
			if err := printJSON(out, item); err != nil {
				return err
			}
		}
		out.WriteByte(']')
		return nil
	}
	return leaf(in)
}

// iniOptions: sections may stand twice, as SOPS reads them.
var iniOptions = ini.LoadOptions{AllowNonUniqueSections: true}

func readINI(file string, data []byte) (sops.TreeBranches, error) {
	if len(data) > manifest.MaxSize || bytes.Count(data, []byte("\n")) > maxLines {
		return nil, &manifest.Error{File: file, Msg: fmt.Sprintf("is larger than a sealed INI file may be (%d bytes, %d lines)", manifest.MaxSize, maxLines)}
	}
	f, err := ini.LoadSources(iniOptions, data)
	if err != nil { // its text quotes the line
		return nil, &manifest.Error{File: file, Msg: "is not an INI file"}
	}
	var root sops.TreeBranch
	note := func(to *sops.TreeBranch, text string) {
		if text == "" {
			return
		}
		if text[0] == ';' || text[0] == '#' {
			text = strings.TrimLeft(text, text[:1]+" ")
		}
		*to = append(*to, sops.TreeItem{Key: sops.Comment{Value: text}})
	}
	for _, section := range f.Sections() {
		var b sops.TreeBranch
		note(&b, section.Comment)
		for _, key := range section.Keys() {
			b = append(b, sops.TreeItem{Key: key.Name(), Value: key.Value()})
			note(&b, key.Comment)
		}
		root = append(root, sops.TreeItem{Key: section.Name(), Value: b})
	}
	return sops.TreeBranches{root}, nil
}

func printINI(root sops.TreeBranch) ([]byte, error) {
	f := ini.Empty(iniOptions)
	f.DeleteSection(ini.DefaultSection)
	for _, item := range withoutComments(root) {
		section, err := f.NewSection(fmt.Sprint(item.Key))
		if err != nil {
			return nil, err
		}
		b, _ := item.Value.(sops.TreeBranch)
		var last *ini.Key
		for i, entry := range b {
			if c, ok := entry.Key.(sops.Comment); ok {
				if i == 0 {
					section.Comment = c.Value
				} else if last != nil {
					last.Comment = c.Value
				}
				continue
			}
			text, ok := entry.Value.(string)
			if !ok {
				return nil, errors.New("a value of an INI file is no text")
			}
			if last, err = section.NewKey(fmt.Sprint(entry.Key), text); err != nil {
				return nil, err
			}
		}
	}
	var out bytes.Buffer
	_, err := f.WriteTo(&out)
	return out.Bytes(), err
}

func readDotenv(file string, data []byte) (sops.TreeBranches, error) {
	if len(data) > manifest.MaxSize || bytes.Count(data, []byte("\n")) > maxLines {
		return nil, &manifest.Error{File: file, Msg: fmt.Sprintf("is larger than a sealed env file may be (%d bytes, %d lines)", manifest.MaxSize, maxLines)}
	}
	var root sops.TreeBranch
	seen := map[string]bool{}
	line := 0
	for text := range strings.SplitSeq(string(data), "\n") {
		line++
		if text == "" {
			continue
		}
		if text[0] == '#' {
			root = append(root, sops.TreeItem{Key: sops.Comment{Value: text[1:]}})
			continue
		}
		name, value, ok := strings.Cut(text, "=")
		if !ok || seen[name] {
			msg := "is no KEY=VALUE"
			if ok {
				msg = "a key stands twice"
			}
			return nil, &manifest.Error{File: file, Line: line, Column: 1, Msg: msg}
		}
		seen[name] = true
		root = append(root, sops.TreeItem{Key: name, Value: strings.ReplaceAll(value, `\n`, "\n")})
	}
	return sops.TreeBranches{root}, nil
}

func printDotenv(root sops.TreeBranch) ([]byte, error) {
	var out bytes.Buffer
	for _, item := range root {
		if c, ok := item.Key.(sops.Comment); ok {
			fmt.Fprintf(&out, "#%s\n", c.Value)
			continue
		}
		text, ok := item.Value.(string)
		if !ok {
			return nil, errors.New("a value of a dotenv file is no text")
		}
		fmt.Fprintf(&out, "%s=%s\n", item.Key, strings.ReplaceAll(text, "\n", `\n`))
	}
	return out.Bytes(), nil
}
