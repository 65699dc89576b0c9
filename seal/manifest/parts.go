package manifest

import (
	"fmt"
	"slices"
	"strings"
)

// Part is what CheckParts must know of one file of a secret.
type Part struct {
	Path     string
	InFolder bool // it stands in a folder of parts
	Type     SecretType
	ACL      ACL
	Keys     []string
}

// PartOf is the part that a secret's manifest at a path of a repository is.
func PartOf(path string, place Place, m *Manifest) Part {
	p := Part{Path: path, InFolder: place.Part != "", Type: m.Secret.Type, ACL: m.Secret.ACL}
	for _, e := range m.Secret.Entries {
		p.Keys = append(p.Keys, e.Key.String())
	}
	return p
}

// CheckParts holds the files of one secret to each other: one file or one folder
// of parts, of one type and acl, with disjoint keys. The error names two files.
// It needs no key: a sealed manifest shows the names of its keys.
func CheckParts(parts []Part) error {
	parts = slices.SortedFunc(slices.Values(parts), func(a, b Part) int { return strings.Compare(a.Path, b.Path) })
	keys := map[string]string{}
	for _, p := range parts {
		first := parts[0]
		switch {
		case p.InFolder != first.InFolder:
			return fmt.Errorf("%s and %s: a secret is one file or one folder of parts, not both; remove one", first.Path, p.Path)
		case !p.InFolder && p.Path != first.Path:
			return fmt.Errorf("%s and %s: a secret is one file; remove one", first.Path, p.Path)
		case p.Type != first.Type || p.ACL != first.ACL:
			return fmt.Errorf("%s and %s: parts of one secret must repeat its type and acl", first.Path, p.Path)
		}
		for _, k := range p.Keys {
			if other, twice := keys[k]; twice {
				return fmt.Errorf("%s and %s: key %s stands in both parts; remove it from one", other, p.Path, k)
			}
			keys[k] = p.Path
		}
	}
	return nil
}
