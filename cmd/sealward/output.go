package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
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
			return usagef("output format %.40q is unknown; one of %s", *format, strings.Join(formats, ", "))
		}
		if pre != nil {
			return pre(c, args)
		}
		return nil
	}
}

// printAs writes v as JSON or YAML, with the names that its json tags give.
func printAs(w io.Writer, format string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if format == "json" {
		_, err = fmt.Fprintf(w, "%s\n", text)
		return err
	}
	// JSON is YAML: reading it keeps the order of the fields.
	var n yaml.Node
	if err := yaml.Unmarshal(text, &n); err != nil {
		return err
	}
	block(&n)
	e := yaml.NewEncoder(w)
	e.SetIndent(2)
	if err := e.Encode(&n); err != nil {
		return err
	}
	return e.Close()
}

func block(n *yaml.Node) {
	n.Style = 0
	for _, c := range n.Content {
		block(c)
	}
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

func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == 0x202e {
			return '?'
		}
		return r
	}, s)
}
