package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// looksLikeJSON decides which parser reads a file. A file named .json must be
// JSON; another is when it is a whole JSON object, because YAML's parser refuses
// some of what JSON can write (surrogate pairs).
func looksLikeJSON(file string, data []byte) bool {
	if strings.HasSuffix(file, ".json") {
		return true
	}
	data = bytes.TrimLeft(data, " \t\r\n")
	return len(data) > 0 && data[0] == '{' && json.Valid(data)
}

// ParseJSON reads the one JSON object in data, as strictly as a manifest, into
// the nodes that a YAML parser would make of it.
func ParseJSON(file string, data []byte) (*yaml.Node, error) {
	d := &decoder{file: file, json: true}
	if len(data) > MaxSize {
		d.fail(nil, "", "has %d bytes; a manifest may have at most %d", len(data), MaxSize)
		return nil, d.errs
	}
	root := d.readJSON(data)
	if root == nil || len(d.errs) > 0 {
		return nil, d.errs
	}
	return root, nil
}

// readJSON returns the root object of data.
func (d *decoder) readJSON(data []byte) *yaml.Node {
	if !utf8.Valid(data) {
		d.fail(nil, "", "is not UTF-8 text")
		return nil
	}
	r := &jsonReader{d: d, data: data, line: 1, column: 1, tokens: json.NewDecoder(bytes.NewReader(data))}
	r.tokens.UseNumber()
	if !json.Valid(data) {
		// The library's text quotes the character it stumbled on.
		var wrong *json.SyntaxError
		at := int64(0)
		if err := json.Unmarshal(data, new(json.RawMessage)); errors.As(err, &wrong) {
			at = max(0, wrong.Offset-1)
		}
		d.fail(r.at(int(at)), "", "is not valid JSON, or more follows after it")
		return nil
	}
	root := r.value(0)
	if root == nil {
		return nil
	}
	if root.Kind != yaml.MappingNode {
		d.fail(root, "", "is not a manifest: expected fields such as name, version and type")
		return nil
	}
	d.checkNode(root, "", 0)
	return root
}

// jsonReader makes nodes of the tokens of a text that is valid JSON.
type jsonReader struct {
	d      *decoder
	data   []byte
	tokens *json.Decoder
	// Where line and column were counted up to.
	offset, line, column int
}

// at makes a node for the place of an offset, which never goes back.
func (r *jsonReader) at(offset int) *yaml.Node {
	for r.offset < offset && r.offset < len(r.data) {
		c, size := utf8.DecodeRune(r.data[r.offset:])
		r.offset += size
		if r.column++; c == '\n' {
			r.line, r.column = r.line+1, 1
		}
	}
	return &yaml.Node{Line: r.line, Column: r.column}
}

// value reads the next value; nil with a recorded error when it cannot stand.
func (r *jsonReader) value(depth int) *yaml.Node {
	from := int(r.tokens.InputOffset())
	// What stands between two tokens says nothing.
	for from < len(r.data) && strings.IndexByte(" \t\r\n,:", r.data[from]) >= 0 {
		from++
	}
	n := r.at(from)
	t, err := r.tokens.Token()
	if err != nil { // the text is valid JSON: it ended
		if !errors.Is(err, io.EOF) {
			r.d.fail(n, "", "is not valid JSON")
		}
		return nil
	}
	if r.d.tooDeep(n, "", depth) {
		return nil
	}
	n.Kind = yaml.ScalarNode
	switch t := t.(type) {
	case json.Delim:
		n.Kind, n.Tag = yaml.SequenceNode, "!!seq"
		if t == '{' {
			n.Kind, n.Tag = yaml.MappingNode, "!!map"
		}
		for r.tokens.More() {
			child := r.value(depth + 1)
			if child == nil {
				return nil
			}
			n.Content = append(n.Content, child)
		}
		if _, err := r.tokens.Token(); err != nil {
			return nil
		}
	case string:
		n.Tag, n.Value = "!!str", t
		if strings.ContainsAny(t, "\t\r\n") { // other styles cannot carry all of these
			n.Style = yaml.DoubleQuotedStyle
		}
		// The library puts U+FFFD for half a pair without a word.
		if loneSurrogate(r.data[from:r.tokens.InputOffset()]) {
			r.d.fail(n, "", `a text has half a surrogate pair (\ud800 to \udfff), which is no character`)
			return nil
		}
	case json.Number:
		// As SOPS reads it: an integer of 64 bits, else a float.
		n.Tag, n.Value = "!!float", t.String()
		if _, err := strconv.ParseInt(n.Value, 10, 64); err == nil {
			n.Tag = "!!int"
		}
	case bool:
		n.Tag, n.Value = "!!bool", strconv.FormatBool(t)
	default:
		n.Tag, n.Value = "!!null", "null"
	}
	return n
}

// loneSurrogate reports half a surrogate pair in a JSON string as it is written.
func loneSurrogate(raw []byte) bool {
	high := false // the escape just before was the first half
	for i := 0; i < len(raw); {
		if raw[i] != '\\' || i+1 >= len(raw) || raw[i+1] != 'u' || i+6 > len(raw) {
			if high {
				return true
			}
			if raw[i] == '\\' {
				i++ // the escaped character, be it another backslash
			}
			i++
			continue
		}
		c, err := strconv.ParseUint(string(raw[i+2:i+6]), 16, 16)
		if err != nil {
			return true
		}
		low := c >= 0xdc00 && c <= 0xdfff
		if high != low {
			return true
		}
		high = c >= 0xd800 && c <= 0xdbff
		i += 6
	}
	return high
}

// EncodeJSON prints nodes as SOPS's JSON store does, so that a file edited by
// either program differs only where it was edited. Comments have no place there.
func EncodeJSON(root *yaml.Node) ([]byte, error) {
	var compact, out bytes.Buffer
	if err := writeJSON(&compact, root); err != nil {
		return nil, err
	}
	if err := json.Indent(&out, compact.Bytes(), "", "\t"); err != nil {
		return nil, errors.New("JSON could not be written")
	}
	return append(out.Bytes(), '\n'), nil
}

func writeJSON(out *bytes.Buffer, n *yaml.Node) error {
	text := func(v any) error {
		b, err := json.Marshal(v)
		if err != nil {
			return errors.New("JSON could not be written: it has no form for a value")
		}
		out.Write(b)
		return nil
	}
	switch {
	case n.Kind == yaml.MappingNode:
		out.WriteByte('{')
		for i := 0; i+1 < len(n.Content); i += 2 {
			if i > 0 {
				out.WriteByte(',')
			}
			if err := text(n.Content[i].Value); err != nil {
				return err
			}
			out.WriteByte(':')
			if err := writeJSON(out, n.Content[i+1]); err != nil {
				return err
			}
		}
		out.WriteByte('}')
		return nil
	case n.Kind == yaml.SequenceNode:
		out.WriteByte('[')
		for i, c := range n.Content {
			if i > 0 {
				out.WriteByte(',')
			}
			if err := writeJSON(out, c); err != nil {
				return err
			}
		}
		out.WriteByte(']')
		return nil
	case n.Kind != yaml.ScalarNode:
		return errors.New("JSON could not be written: an alias stands in the file")
	}
	switch n.ShortTag() {
	case "!!bool", "!!int", "!!float", "!!null":
		if json.Valid([]byte(n.Value)) { // as it is written
			out.WriteString(n.Value)
			return nil
		}
		var v any
		if n.Decode(&v) != nil {
			return errors.New("JSON could not be written: a scalar cannot be read")
		}
		return text(v)
	}
	return text(n.Value)
}
