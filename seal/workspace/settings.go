package workspace

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// SettingsFile is the name of a repository's optional settings.
const SettingsFile = "sealward.yaml"

// Settings of a repository. They can only tighten what a command or an agent is
// configured to accept.
type Settings struct {
	// Binding "required" refuses manifests without a binding, whatever the
	// command or the agent would accept. "" leaves it to them.
	Binding string `yaml:"binding"`
	// Layout "parts" lets create keep new secrets in parts. "" is one file each.
	Layout string `yaml:"layout"`
}

// LayoutParts is the layout of secrets that are kept in parts.
const LayoutParts = "parts"

// ParseSettings reads a sealward.yaml strictly. Empty content means defaults.
func ParseSettings(data []byte) (Settings, error) {
	var s Settings
	if err := DecodeStrict(data, &s); err != nil {
		return Settings{}, fmt.Errorf("%s: %w", SettingsFile, err)
	}
	if s.Binding != "" && s.Binding != "required" {
		return Settings{}, fmt.Errorf(`%s: binding: is %.40q; the only value is "required" (a repository can tighten, not loosen)`, SettingsFile, s.Binding)
	}
	if s.Layout != "" && s.Layout != LayoutParts {
		return Settings{}, fmt.Errorf(`%s: layout: is %.40q; the only value is "parts" (new secrets are one file each without it)`, SettingsFile, s.Layout)
	}
	return s, nil
}

// BindingRequired reports that manifests without a binding are refused.
func (s Settings) BindingRequired() bool { return s.Binding == "required" }

var quoted = regexp.MustCompile("`[^`]*`?")

var quotedText = regexp.MustCompile("(?s)['\"`].*['\"`]")

var unknownField = regexp.MustCompile(`^line (\d+): field (.+) not found in type `)

// DecodeStrict reads one YAML document of settings into v, and refuses unknown
// fields, duplicate ones and a second document. Empty data leaves v as it is.
func DecodeStrict(data []byte, v any) error {
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	err := d.Decode(v)
	if errors.Is(err, io.EOF) {
		return nil
	}
	var wrong *yaml.TypeError
	if errors.As(err, &wrong) {
		var errs []string
		for _, e := range wrong.Errors {
			if m := unknownField.FindStringSubmatch(e); m != nil {
				e = fmt.Sprintf("line %s: %s is no setting here", m[1], m[2])
			}
			// yaml quotes what it cannot use between backticks.
			errs = append(errs, quoted.ReplaceAllString(e, "a value"))
		}
		return errors.New(strings.Join(errs, "; "))
	}
	if err != nil { // its text may quote what stands there
		return errors.New(quotedText.ReplaceAllString(err.Error(), "…"))
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return errors.New("holds a second document; write one")
	}
	return nil
}
