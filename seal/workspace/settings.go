package workspace

import (
	"bytes"
	"errors"
	"fmt"
	"io"

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
}

// ParseSettings reads a sealward.yaml strictly. Empty content means defaults.
func ParseSettings(data []byte) (Settings, error) {
	var s Settings
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(&s); err != nil && !errors.Is(err, io.EOF) {
		return Settings{}, fmt.Errorf("%s: %w", SettingsFile, err)
	}
	if s.Binding != "" && s.Binding != "required" {
		return Settings{}, fmt.Errorf(`%s: binding: is %.40q; the only value is "required" (a repository can tighten, not loosen)`, SettingsFile, s.Binding)
	}
	return s, nil
}

// BindingRequired reports that manifests without a binding are refused.
func (s Settings) BindingRequired() bool { return s.Binding == "required" }
