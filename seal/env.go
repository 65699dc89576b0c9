package seal

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/sealward/sealward/seal/manifest"
)

// EnvLine is one KEY=VALUE of a plain env file.
type EnvLine struct {
	Value
	Line int
	// Quoted says that the value is wrapped in quotes, which are part of it.
	Quoted bool
}

// ParseEnv reads a plain env file as kubectl does: what follows the first = is
// the value, as it stands; empty lines and those that start with # say nothing. A
// line without = would take a value from the environment, and is refused.
func ParseEnv(file string, data []byte) ([]EnvLine, error) {
	var out []EnvLine
	if !utf8.Valid(data) {
		return nil, &manifest.Error{File: file, Msg: "is not UTF-8 text"}
	}
	for i, line := range strings.Split(strings.TrimPrefix(string(data), "\ufeff"), "\n") {
		line = strings.TrimLeftFunc(strings.TrimSuffix(line, "\r"), unicode.IsSpace)
		if line == "" || line[0] == '#' {
			continue
		}
		bad := func(field, msg string) error {
			return &manifest.Error{File: file, Line: i + 1, Column: 1, Field: field, Msg: msg}
		}
		name, value, ok := strings.Cut(line, "=")
		if !ok {
			return nil, bad("", "is no KEY=VALUE; a key alone would take its value from the environment")
		}
		key, err := manifest.ParseKey(name)
		if err != nil {
			return nil, bad("", err.Error())
		}
		if manifest.IsSealedValue(value) {
			return nil, bad(name, "is a sealed value; the file was sealed by sops (--from-sealed-env-file)")
		}
		quoted := len(value) > 1 && (value[0] == '"' || value[0] == '\'') && value[len(value)-1] == value[0]
		out = append(out, EnvLine{Value: Value{Key: key, Data: []byte(value)}, Line: i + 1, Quoted: quoted})
	}
	return out, nil
}

// Interpolate expands ${VAR} in the values of a parsed plaintext manifest, in its
// texts and the paths of files, never in names or other fields. It happens after
// parsing, so that no value can change what the manifest says. An error names
// variable, file, line and field.
func Interpolate(m *manifest.Manifest, lookup func(name string) (value string, ok bool)) error {
	var errs manifest.Errors
	values := m.Sections().Text
	files := append(slices.Clip(values[:len(values)-1]), "files")
	expand := func(text string, section []string, key manifest.Key, line, column int) string {
		out, err := Expand(text, lookup)
		if err != nil {
			errs = append(errs, &manifest.Error{File: m.File, Line: line, Column: column, Field: strings.Join(below(section, key), "."), Msg: err.Error()})
		}
		return out
	}
	for i, e := range m.Secret.Entries {
		if !e.Binary {
			m.Secret.Entries[i].Text = expand(e.Text, values, e.Key, e.Line, e.Column)
		}
	}
	for i, f := range m.Secret.Files {
		m.Secret.Files[i].Path = expand(f.Path, files, f.Key, f.Line, f.Column)
	}
	if len(errs) > 0 {
		return errs
	}
	return nil
}

var variable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// Expand replaces ${VAR} by what lookup has for VAR, once: what it brings in is
// not looked at again. $${VAR} stands for ${VAR}; $VAR stays as it is.
func Expand(text string, lookup func(name string) (value string, ok bool)) (string, error) {
	var out strings.Builder
	for {
		before, after, found := strings.Cut(text, "${")
		if !found {
			out.WriteString(text)
			return out.String(), nil
		}
		if escaped, isEscaped := strings.CutSuffix(before, "$"); isEscaped {
			out.WriteString(escaped + "${")
			text = after
			continue
		}
		out.WriteString(before)
		name, rest, closed := strings.Cut(after, "}")
		if !closed || !variable.MatchString(name) {
			// Not repeated: it is part of a value.
			return "", fmt.Errorf("has a ${…} that names no variable; write $${ where ${ itself is meant")
		}
		value, ok := lookup(name)
		if !ok {
			return "", fmt.Errorf("needs the variable %.80s, which is not set", name)
		}
		out.WriteString(value)
		text = rest
	}
}
