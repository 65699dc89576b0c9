package unseal

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// ErrForm: a value, or a name, cannot be written in the form that was asked for.
// The errors that wrap it name keys, never values.
var ErrForm = errors.New("cannot be written in this form")

// EnvName makes the name of a variable of a key: upper case, every other
// character than A-Z, 0-9 and _ becomes _, and a digit in front gets one before it.
func EnvName(key string) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' {
			return r - 'a' + 'A'
		}
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, key)
	if name == "" || name[0] >= '0' && name[0] <= '9' {
		name = "_" + name
	}
	return name
}

// EnvFile prints NAME='value' lines, in order of the keys, with names of EnvName,
// such that a POSIX shell, Docker Compose, systemd and the dotenv libraries read
// the same back. What they would read differently is refused with ErrForm: two
// keys of one name, bytes that are no text, control characters other than newline and tab,
// and values with a single quote beside " $ ` or \.
func EnvFile(values []Value) ([]byte, error) {
	var out bytes.Buffer
	of := map[string]string{}
	for _, v := range inKeyOrder(values) {
		name := EnvName(v.Key)
		if other, twice := of[name]; twice {
			return nil, fmt.Errorf("%s and %s would both be the variable %s: %w", other, v.Key, name, ErrForm)
		}
		of[name] = v.Key
		text := string(v.Data)
		quote := "'"
		if strings.Contains(text, "'") {
			quote = `"`
		}
		switch {
		case !isText(v.Data):
			return nil, fmt.Errorf("%s is binary: %w", v.Key, ErrForm)
		case strings.ContainsFunc(text, func(r rune) bool { return r != '\n' && r != '\t' && r < ' ' || r == 0x7f }):
			return nil, fmt.Errorf("%s has a control character that programs read differently from an env file: %w", v.Key, ErrForm)
		case quote == `"` && strings.ContainsAny(text, "\"$`\\"):
			return nil, fmt.Errorf("%s has quotes that programs read differently from an env file: %w", v.Key, ErrForm)
		}
		out.WriteString(name + "=" + quote + text + quote + "\n")
	}
	return out.Bytes(), nil
}

// PropertiesFile prints key=value lines, in order of the keys, as
// java.util.Properties stores and reads them. A binary value is refused with ErrForm.
func PropertiesFile(values []Value) ([]byte, error) {
	var out bytes.Buffer
	for _, v := range inKeyOrder(values) {
		if !isText(v.Data) {
			return nil, fmt.Errorf("%s is binary: %w", v.Key, ErrForm)
		}
		writeProperty(&out, v.Key, string(v.Data))
	}
	return out.Bytes(), nil
}

func inKeyOrder(values []Value) []Value {
	return slices.SortedFunc(slices.Values(values), func(a, b Value) int { return strings.Compare(a.Key, b.Key) })
}

func isText(data []byte) bool { return utf8.Valid(data) && bytes.IndexByte(data, 0) < 0 }
