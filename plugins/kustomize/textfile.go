package kustomize

import (
	"bytes"
	"encoding/json"
	"errors"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// textFile is a YAML or JSON text that is changed at places, so that everything else
// stays as somebody wrote it.
type textFile struct {
	text  string
	edits []edit
}

// edit replaces the bytes from (inclusive) to (exclusive).
type edit struct {
	from, to int
	text     string
}

var errInPlace = errors.New("it is written in a way that cannot be changed in place; write it in plain block style first")

// edited is the text with all edits.
func (t *textFile) edited() string {
	edits := slices.Clone(t.edits)
	slices.SortStableFunc(edits, func(a, b edit) int { return a.from - b.from })
	var out strings.Builder
	at := 0
	for _, e := range edits {
		if e.from < at {
			continue // asMeant finds it missing
		}
		out.WriteString(t.text[at:e.from])
		out.WriteString(e.text)
		at = e.to
	}
	return out.String() + t.text[at:]
}

// newline is how the text ends its lines.
func (t *textFile) newline() string {
	if strings.Contains(t.text, "\r\n") {
		return "\r\n"
	}
	return "\n"
}

// offset of a node's first byte. Lines end as YAML has it, columns count characters.
func (t *textFile) offset(n *yaml.Node) (int, error) {
	at := 0
	for range n.Line - 1 {
		i := strings.IndexByte(t.text[at:], '\n')
		if i < 0 {
			return 0, errInPlace
		}
		at += i + 1
	}
	if n.Line == 1 {
		at += len(t.text) - len(strings.TrimPrefix(t.text, "\ufeff"))
	}
	for range n.Column - 1 {
		_, size := utf8.DecodeRuneInString(t.text[at:])
		if size == 0 {
			return 0, errInPlace
		}
		at += size
	}
	return at, nil
}

// span is where a scalar stands, quotes and a block's header included.
func (t *textFile) span(n *yaml.Node) (from, to int, err error) {
	if n == nil || n.Kind != yaml.ScalarNode || n.Anchor != "" || n.Style&yaml.TaggedStyle != 0 {
		return 0, 0, errInPlace
	}
	if from, err = t.offset(n); err != nil {
		return 0, 0, err
	}
	rest := t.text[from:]
	end := -1
	switch n.Style &^ yaml.FlowStyle {
	case yaml.DoubleQuotedStyle:
		if m := doubleQuoted.FindString(rest); m != "" {
			end = len(m)
		}
	case yaml.SingleQuotedStyle:
		if m := singleQuoted.FindString(rest); m != "" {
			end = len(m)
		}
	case yaml.LiteralStyle, yaml.FoldedStyle:
		end = blockEnd(rest)
	default:
		if n.Value != "" && strings.HasPrefix(rest, n.Value) && !strings.Contains(n.Value, "\n") {
			end = len(n.Value)
		}
	}
	if end < 0 {
		return 0, 0, errInPlace
	}
	return from, from + end, nil
}

var (
	doubleQuoted = regexp.MustCompile(`^"(?:[^"\\]|\\(?s:.))*"`)
	singleQuoted = regexp.MustCompile(`^'(?:[^']|'')*'`)
	blockHeader  = regexp.MustCompile(`^[|>][-+0-9]*[ \t]*(?:#[^\r\n]*)?\r?\n`)
	plainWord    = regexp.MustCompile(`^[A-Za-z][-A-Za-z0-9._/]*$`)
)

// blockEnd is where a block scalar ends: behind its last line that is not blank,
// without that line's end. -1: it is none.
func blockEnd(s string) int {
	header := blockHeader.FindString(s)
	indent, end := -1, -1
	if header == "" {
		return -1
	}
	for at := len(header); at < len(s); {
		line := s[at:]
		if i := strings.IndexByte(line, '\n'); i >= 0 {
			line = line[:i]
		}
		if text := strings.TrimSpace(line); text != "" {
			spaces := len(line) - len(strings.TrimLeft(line, " "))
			if indent < 0 {
				indent = spaces
			}
			if spaces < indent || indent == 0 {
				break
			}
			end = at + len(strings.TrimSuffix(line, "\r"))
		}
		at += len(line) + 1
	}
	return end
}

// setScalar gives a scalar another value, in the style that it has.
func (t *textFile) setScalar(n *yaml.Node, value string) error {
	from, to, err := t.span(n)
	if err != nil {
		return err
	}
	var text string
	switch n.Style &^ yaml.FlowStyle {
	case yaml.LiteralStyle, yaml.FoldedStyle:
		text = t.block(t.text[from:to], value)
	case yaml.SingleQuotedStyle:
		text = "'" + strings.ReplaceAll(value, "'", "''") + "'"
		if strings.ContainsAny(value, "\n\r") {
			text = jsonText(value)
		}
	case yaml.DoubleQuotedStyle:
		text = jsonText(value)
	default:
		if text = value; !plainWord.MatchString(value) {
			text = jsonText(value)
		}
	}
	t.edits = append(t.edits, edit{from, to, text})
	return nil
}

// jsonText writes a text as JSON, which YAML reads too.
func jsonText(s string) string {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if e.Encode(s) != nil {
		return `""`
	}
	return strings.TrimSuffix(out.String(), "\n")
}

// block writes a value as a block like an old one: its header and indentation.
func (t *textFile) block(old, value string) string {
	header := blockHeader.FindString(old)
	first := strings.TrimLeft(old[len(header):], "\r\n")
	indent := first[:len(first)-len(strings.TrimLeft(first, " "))]
	lines := strings.Split(strings.TrimRight(value, "\n"), "\n")
	for i, l := range lines {
		if l != "" {
			lines[i] = indent + l
		}
	}
	return "|" + header[1:] + strings.Join(lines, t.newline())
}

// insertBefore puts text before a node.
func (t *textFile) insertBefore(n *yaml.Node, text string) error {
	at, err := t.offset(n)
	t.edits = append(t.edits, edit{at, at, text})
	return err
}

// insertAfter puts text directly behind a scalar.
func (t *textFile) insertAfter(n *yaml.Node, text string) error {
	_, at, err := t.span(n)
	t.edits = append(t.edits, edit{at, at, text})
	return err
}

// insertLine puts a line below that of a scalar.
func (t *textFile) insertLine(n *yaml.Node, line string) error {
	_, at, err := t.span(n)
	if i := strings.IndexByte(t.text[at:], '\n'); i >= 0 {
		at += len(strings.TrimSuffix(t.text[at:at+i], "\r"))
	} else {
		at = len(t.text)
	}
	t.edits = append(t.edits, edit{at, at, t.newline() + line})
	return err
}
