package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// outputFlag adds -o with a closed set of formats; the empty one is a table.
func outputFlag(c *cobra.Command, format *string, formats ...string) {
	c.Flags().StringVarP(format, "output", "o", "", "output format: "+strings.Join(formats, ", "))
	_ = c.RegisterFlagCompletionFunc("output", fixed(formats...))
	pre := c.PreRunE
	c.PreRunE = func(c *cobra.Command, args []string) error {
		if *format != "" && !slices.Contains(formats, *format) {
			hint := ""
			if strings.ContainsAny(*format, "./") { // kustomize's -o names a file
				hint = "; a file is written with >"
			}
			return usagef("output format %.40q is unknown; one of %s%s", *format, strings.Join(formats, ", "), hint)
		}
		if pre != nil {
			return pre(c, args)
		}
		return nil
	}
}

// printAs writes v as JSON or YAML, with the names and the order that its json
// tags give.
func printAs(w io.Writer, format string, v any) error {
	if format == "json" {
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		return e.Encode(v)
	}
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	n, err := yamlNode(d)
	if err != nil {
		return err
	}
	e := yaml.NewEncoder(w)
	e.SetIndent(2)
	if err := e.Encode(n); err != nil {
		return err
	}
	return e.Close()
}

// yamlNode reads one JSON value as YAML. JSON text cannot be parsed as YAML
// directly: YAML refuses some characters that JSON strings may hold.
func yamlNode(d *json.Decoder) (*yaml.Node, error) {
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	n := &yaml.Node{}
	delim, nested := t.(json.Delim)
	if !nested {
		if number, ok := t.(json.Number); ok {
			return &yaml.Node{Kind: yaml.ScalarNode, Value: number.String()}, nil
		}
		return n, n.Encode(t)
	}
	n.Kind = yaml.SequenceNode
	if delim == '{' {
		n.Kind = yaml.MappingNode
	}
	for d.More() {
		child, err := yamlNode(d) // keys come as strings, before their values
		if err != nil {
			return nil, err
		}
		n.Content = append(n.Content, child)
	}
	if len(n.Content) == 0 {
		n.Style = yaml.FlowStyle
	}
	_, err = d.Token()
	return n, err
}

// table prints rows in DataOS's form: columns between bars, a line below the
// headings. Control characters, which a file may hold, are not passed on.
func table(w io.Writer, headings []string, rows [][]string) {
	width := make([]int, len(headings))
	all := append([][]string{headings}, rows...)
	for _, row := range all {
		for i, cell := range row {
			row[i] = clean(cell)
			width[i] = max(width[i], utf8.RuneCountInString(row[i]))
		}
	}
	for r, row := range all {
		var b strings.Builder
		for i, cell := range row {
			if i > 0 {
				b.WriteString(" | ")
			}
			b.WriteString(cell + strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell)))
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
		if r == 0 {
			var line []string
			for _, n := range width {
				line = append(line, strings.Repeat("-", n))
			}
			fmt.Fprintln(w, strings.Join(line, "-|-"))
		}
	}
}

// shortNames shortens recipients to what tells them apart: a post-quantum one has
// two thousand characters.
func shortNames(names []string) []string {
	var out []string
	for _, name := range names {
		if r := []rune(name); len(r) > 72 {
			name = string(r[:69]) + "..."
		}
		out = append(out, name)
	}
	return out
}

// count is a number and what is counted, in a plural that only adds an s.
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.In(r, unicode.Cc, unicode.Zl, unicode.Zp, unicode.Bidi_Control) {
			return '?'
		}
		return r
	}, s)
}
