package review

import (
	"slices"
	"strings"
	"time"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal/access"
)

// KeySet is some keys of a secret, without knowing which it has: those named, or all
// but those named.
type KeySet struct {
	All  bool     `json:"all"`
	Keys []string `json:"keys,omitempty"`   // without All: these
	But  []string `json:"except,omitempty"` // with All: not these
}

func (s KeySet) empty() bool { return !s.All && len(s.Keys) == 0 }

// String is for people: "all", "a, b" or "all but a".
func (s KeySet) String() string {
	switch {
	case s.All && len(s.But) == 0:
		return "all"
	case s.All:
		return "all but " + strings.Join(s.But, ", ")
	default:
		return strings.Join(s.Keys, ", ")
	}
}

// keyClass is one key that some grant names, or, with other, every key that none
// names.
type keyClass struct {
	key   manifest.Key
	other bool
}

// classes are the keys that rules tell apart, the others last.
func classes(rules ...[]access.Rule) []keyClass {
	var names []manifest.Key
	for _, list := range rules {
		for _, r := range list {
			names = append(names, r.Keys...)
		}
	}
	slices.SortFunc(names, func(a, b manifest.Key) int { return strings.Compare(a.String(), b.String()) })
	var out []keyClass
	for _, k := range slices.Compact(names) {
		out = append(out, keyClass{key: k})
	}
	return append(out, keyClass{other: true})
}

func (c keyClass) coveredBy(r access.Rule) bool {
	if c.other {
		return r.Keys == nil
	}
	return r.Covers(c.key)
}

func (c keyClass) decide(a access.Access) access.Decision {
	if c.other {
		return a.Other()
	}
	return a.Key(c.key)
}

// keySet makes a set of those classes of all that in accepts.
func keySet(all []keyClass, in func(keyClass) bool) KeySet {
	s := KeySet{All: in(all[len(all)-1])}
	for _, c := range all[:len(all)-1] {
		switch {
		case in(c) && !s.All:
			s.Keys = append(s.Keys, c.key.String())
		case !in(c) && s.All:
			s.But = append(s.But, c.key.String())
		}
	}
	return s
}

// until is when the last of the rules that cover c ends, if they are of the effect
// asked for; zero is never. none says that there is no such rule.
func until(rules []access.Rule, c keyClass, deny bool) (end time.Time, none bool) {
	none = true
	for _, r := range rules {
		if r.Deny != deny || !c.coveredBy(r) {
			continue
		}
		if r.Expires.IsZero() {
			return time.Time{}, false
		}
		if none || r.Expires.After(end) {
			end = r.Expires
		}
		none = false
	}
	return end, none
}
