package workspace

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/sealward/sealward/seal/manifest"
)

// SettingsFile is the name of a repository's optional settings.
const SettingsFile = "sealward.yaml"

// Settings of a repository. They can only tighten what a command or an agent is
// configured to accept.
type Settings struct {
	// Binding "required" refuses manifests without a binding, whatever the
	// command or the agent would accept. "" leaves it to them.
	Binding string
	// Layout "parts" lets create keep new secrets in parts. "" is one file each.
	Layout string
	// Builds says which workspaces' secrets kustomizations in or below a folder may
	// unseal (instance for instance secrets). Empty: see [Settings.Buildable].
	Builds Folders[[]manifest.Workspace]
	// Roots says of which workspace the sealed Kubernetes files in or below a folder
	// are, in a tree that keeps them outside workspaces/.
	Roots Folders[manifest.Workspace]
}

// Folders maps folders of the repository, with slashes ("." is all of it), to what
// is said of everything in or below them. The longest that fits a path counts.
type Folders[T any] map[string]T

// Of looks a path of the repository up.
func (f Folders[T]) Of(file string) (said T, folder string, ok bool) {
	for at := path.Clean(file); ; at = path.Dir(at) {
		if said, ok := f[at]; ok {
			return said, at, true
		}
		if at == "." || at == "/" {
			return said, "", false
		}
	}
}

// Buildable says whether the settings let a kustomization in a folder of the
// repository unseal what is of a workspace. stated is false where nothing is said
// of any folder: it is then for whoever builds to be careful.
func (s Settings) Buildable(folder string, ws manifest.Workspace) (allowed, stated bool) {
	said, _, _ := s.Builds.Of(folder)
	return slices.Contains(said, ws), len(s.Builds) > 0
}

// LayoutParts is the layout of secrets that are kept in parts.
const LayoutParts = "parts"

// ParseSettings reads a sealward.yaml strictly. Empty content means defaults.
func ParseSettings(data []byte) (Settings, error) {
	var raw struct {
		Binding string              `yaml:"binding"`
		Layout  string              `yaml:"layout"`
		Builds  map[string][]string `yaml:"builds"`
		Roots   map[string]string   `yaml:"roots"`
	}
	if err := DecodeStrict(data, &raw); err != nil {
		return Settings{}, fmt.Errorf("%s: %w", SettingsFile, err)
	}
	s := Settings{Binding: raw.Binding, Layout: raw.Layout}
	if s.Binding != "" && s.Binding != "required" {
		return Settings{}, fmt.Errorf(`%s: binding: is %.40q; the only value is "required" (a repository can tighten, not loosen)`, SettingsFile, s.Binding)
	}
	if s.Layout != "" && s.Layout != LayoutParts {
		return Settings{}, fmt.Errorf(`%s: layout: is %.40q; the only value is "parts" (new secrets are one file each without it)`, SettingsFile, s.Layout)
	}
	for _, folder := range slices.Sorted(maps.Keys(raw.Builds)) {
		if err := checkFolder(folder); err != nil {
			return Settings{}, fmt.Errorf("%s: builds: %w", SettingsFile, err)
		}
		allowed := []manifest.Workspace{} // none is a statement too
		for _, name := range raw.Builds[folder] {
			ws, err := manifest.ParseScope(name)
			if err != nil {
				return Settings{}, fmt.Errorf("%s: builds.%s: %w", SettingsFile, folder, err)
			}
			allowed = append(allowed, ws)
		}
		if s.Builds == nil {
			s.Builds = Folders[[]manifest.Workspace]{}
		}
		s.Builds[folder] = allowed
	}
	for _, folder := range slices.Sorted(maps.Keys(raw.Roots)) {
		if err := checkFolder(folder); err != nil {
			return Settings{}, fmt.Errorf("%s: roots: %w", SettingsFile, err)
		}
		if top, _, _ := strings.Cut(folder, "/"); top == "workspaces" || top == "instance" {
			return Settings{}, fmt.Errorf("%s: roots.%s: files below %s/ are of the workspace that their path names", SettingsFile, folder, top)
		}
		ws, err := manifest.ParseWorkspace(raw.Roots[folder])
		if err != nil {
			return Settings{}, fmt.Errorf("%s: roots.%s: %w", SettingsFile, folder, err)
		}
		if s.Roots == nil {
			s.Roots = Folders[manifest.Workspace]{}
		}
		s.Roots[folder] = ws
	}
	return s, nil
}

// checkFolder wants the one spelling of a folder that Folders.Of finds.
func checkFolder(folder string) error {
	if folder == "" || path.Clean(folder) != folder || path.IsAbs(folder) || strings.HasPrefix(folder, "..") || strings.ContainsAny(folder, "\\\n\r\x00*?") {
		return fmt.Errorf("%.60q is no folder of the repository; write it from its top, with slashes, without ./ and without / at its end", folder)
	}
	return nil
}

// BindingRequired reports that manifests without a binding are refused.
func (s Settings) BindingRequired() bool { return s.Binding == "required" }

var quoted = regexp.MustCompile("`[^`]*`?")

var quotedText = regexp.MustCompile("(?s)['\"`].*['\"`]")

var unknownField = regexp.MustCompile(`^line (\d+): field (.+) not found in type `)

var wrongKind = regexp.MustCompile(`(?s)^line (\d+): cannot unmarshal .* into \[\]`)

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
			if m := wrongKind.FindStringSubmatch(e); m != nil {
				e = fmt.Sprintf("line %s: expected a list", m[1])
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
