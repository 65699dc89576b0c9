package manifest

import (
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

// PartsError is why the files of one secret do not make one.
type PartsError struct {
	Reason PartsReason
	// First and Second are the two files that disagree, in the order of their paths.
	First, Second string
	Key           string // the key that stands in both, for PartsKey
}

// PartsReason of a PartsError.
type PartsReason string

// The reasons.
const (
	PartsTwice PartsReason = "twice" // the secret stands in two places
	PartsType  PartsReason = "type"  // parts state another type or acl
	PartsKey   PartsReason = "key"   // one key in two parts
)

func (e *PartsError) Error() string {
	both := e.First + " and " + e.Second + ": "
	switch e.Reason {
	case PartsKey:
		return both + "key " + e.Key + " stands in both parts; remove it from one"
	case PartsType:
		return both + "parts of one secret must repeat its type and acl"
	}
	return both + "a secret is one file or one folder of parts, and stands in one place; remove one"
}

// CheckParts holds the files of one secret to each other: one file or one folder
// of parts, of one type and acl, with disjoint keys. The error is a *PartsError. It
// needs no key: a sealed manifest shows the names of its keys.
func CheckParts(parts []Part) error {
	parts = slices.SortedFunc(slices.Values(parts), func(a, b Part) int { return strings.Compare(a.Path, b.Path) })
	keys := map[string]string{}
	for _, p := range parts {
		first := parts[0]
		switch {
		case p.InFolder != first.InFolder, !p.InFolder && p.Path != first.Path:
			return &PartsError{Reason: PartsTwice, First: first.Path, Second: p.Path}
		case p.Type != first.Type || p.ACL != first.ACL:
			return &PartsError{Reason: PartsType, First: first.Path, Second: p.Path}
		}
		for _, k := range p.Keys {
			if other, twice := keys[k]; twice {
				return &PartsError{Reason: PartsKey, First: other, Second: p.Path, Key: k}
			}
			keys[k] = p.Path
		}
	}
	return nil
}
