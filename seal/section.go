package seal

import (
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/sealward/sealward/seal/manifest"
)

// Section is what the sops section of a sealed manifest states. None of it is
// authenticated without a key: recipients are labels.
type Section struct {
	// Groups name the recipients of each key group.
	Groups [][]string
	// Threshold is how many groups must contribute a key; 0 with one group.
	Threshold int
	MAC       string // sealed; "" when it is missing
	// LastModified is when the manifest was sealed last; zero when it is missing.
	LastModified time.Time
	// Pattern is the encrypted_regex, "" when there is none.
	Pattern          string
	MACOnlyEncrypted bool
}

// Inspect reads the sops section of a sealed manifest. What [Load] refuses, it refuses.
func Inspect(m *manifest.Manifest) (*Section, error) {
	if s := inspectPlain(m); s != nil {
		return s, nil
	}
	e, err := Load(m)
	if err != nil {
		return nil, err
	}
	meta := e.Metadata()
	s := &Section{
		Threshold: meta.ShamirThreshold, MAC: meta.MessageAuthenticationCode, LastModified: meta.LastModified,
		Pattern: meta.EncryptedRegex, MACOnlyEncrypted: meta.MACOnlyEncrypted,
	}
	all := e.Recipients()
	for _, group := range meta.KeyGroups {
		s.Groups, all = append(s.Groups, all[:len(group)]), all[len(group):]
	}
	return s, nil
}

// inspectPlain reads the section that nearly every file has, one group of age
// recipients, from the nodes: SOPS's own reader would cost more than parsing the file
// did. It is nil for every other.
func inspectPlain(m *manifest.Manifest) *Section {
	if !m.Sealed || !m.Kind.IsSecret() {
		return nil
	}
	section := fieldNode(m.Node(), "sops")
	if section == nil || section.Kind != yaml.MappingNode {
		return nil
	}
	s := &Section{}
	for i := 0; i+1 < len(section.Content); i += 2 {
		v := section.Content[i+1]
		switch name := section.Content[i].Value; name {
		case "age":
			if s.Groups != nil || v.Kind != yaml.SequenceNode || len(v.Content) == 0 {
				return nil
			}
			var group []string
			for _, stanza := range v.Content {
				to := plainAge(stanza)
				if to == "" {
					return nil
				}
				group = append(group, to)
			}
			s.Groups = [][]string{group}
		case "lastmodified", "mac", "encrypted_regex", "version":
			if v.Kind != yaml.ScalarNode || v.Value == "" || v.Tag != "!!str" && v.Tag != "!!timestamp" {
				return nil
			}
			switch name {
			case "lastmodified":
				t, err := time.Parse(time.RFC3339, v.Value)
				if err != nil {
					return nil
				}
				s.LastModified = t
			case "mac":
				s.MAC = v.Value
			case "encrypted_regex":
				s.Pattern = v.Value
			}
		default:
			return nil
		}
	}
	if s.Groups == nil || len(s.Groups[0]) > 16 || s.LastModified.IsZero() || s.Pattern == "" {
		return nil
	}
	return s
}

// plainAge is the recipient of one stanza of age, "" for one that is not as SOPS
// writes it.
func plainAge(stanza *yaml.Node) string {
	if stanza.Kind != yaml.MappingNode || len(stanza.Content) != 4 {
		return ""
	}
	to, enc := fieldNode(stanza, "recipient"), fieldNode(stanza, "enc")
	for _, n := range []*yaml.Node{to, enc} {
		if n == nil || n.Kind != yaml.ScalarNode || n.Tag != "!!str" || n.Value == "" {
			return ""
		}
	}
	// An SSH key may have a comment, which is no part of its name.
	if len(to.Value) < 5 || to.Value[:4] != "age1" || len(enc.Value) > maxSealedKey {
		return ""
	}
	return to.Value
}
