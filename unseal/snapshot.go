package unseal

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal/access"
)

// Snapshot is everything that is served from one commit of one source. It never
// changes.
type Snapshot struct {
	Source  string // name of the repository in the agent's settings; "" where there is one
	Commit  string
	Branch  string
	Time    time.Time // of the commit
	Applied time.Time
	Policy  *access.Policy
	// Problems of the commit that belong to no secret: files in odd places,
	// broken grants and roles. Sorted by path.
	Problems []Problem
	// MaxStale bounds how long a last good value outlives the commit that broke
	// its file.
	MaxStale time.Duration

	scopes map[manifest.Workspace]*Scope
}

// Problem is a file that was refused as a whole.
type Problem struct {
	Path    string
	Class   FailureClass
	Message string
	// Closes names the scope whose reads are refused because of it ("" for none).
	Closes string
}

// Scope holds the secrets of one workspace, or of the instance.
type Scope struct {
	records map[string]*Record // by path
	secrets map[manifest.Name]*Secret
	names   []manifest.Name
}

// Secret is one secret as served: one file, or the parts of one folder.
type Secret struct {
	Scope manifest.Workspace
	Name  manifest.Name
	// Parts with a good content, sorted by path; never empty.
	Parts []*Record
	// Failing parts, with or without a good content.
	Failing []*Record
}

// NewScope arranges the records of one scope.
func NewScope(scope manifest.Workspace, records map[string]*Record) *Scope {
	s := &Scope{records: records, secrets: map[manifest.Name]*Secret{}}
	for _, r := range records {
		sec := s.secrets[r.Place.Name]
		if sec == nil {
			sec = &Secret{Scope: scope, Name: r.Place.Name}
			s.secrets[r.Place.Name] = sec
		}
		if r.Good != nil {
			sec.Parts = append(sec.Parts, r)
		}
		if r.Failure != nil {
			sec.Failing = append(sec.Failing, r)
		}
	}
	byPath := func(a, b *Record) int { return cmp.Compare(a.Path, b.Path) }
	for name, sec := range s.secrets {
		slices.SortFunc(sec.Parts, byPath)
		slices.SortFunc(sec.Failing, byPath)
		s.names = append(s.names, name)
	}
	slices.SortFunc(s.names, func(a, b manifest.Name) int { return strings.Compare(a.String(), b.String()) })
	return s
}

// Records by path. The map must not be changed.
func (s *Scope) Records() map[string]*Record {
	if s == nil {
		return nil
	}
	return s.records
}

// WithScopes returns a snapshot like s with other scopes. The map must not
// change afterwards.
func (s Snapshot) WithScopes(scopes map[manifest.Workspace]*Scope) *Snapshot {
	s.scopes = scopes
	return &s
}

// Scopes by workspace; a copy that may be changed.
func (s *Snapshot) Scopes() map[manifest.Workspace]*Scope {
	if s == nil {
		return map[manifest.Workspace]*Scope{}
	}
	return maps.Clone(s.scopes)
}

// Names lists the secrets of a workspace that have a content to serve at the
// time now, sorted.
func (s *Snapshot) Names(ws manifest.Workspace, now time.Time) []manifest.Name {
	sc := s.scopes[ws]
	if sc == nil {
		return nil
	}
	var out []manifest.Name
	for _, n := range sc.names {
		if _, ok := s.Secret(ws, n, now); ok {
			out = append(out, n)
		}
	}
	return out
}

// Secret looks a secret up as it is served at the time now: without the parts
// whose last good content is older than MaxStale allows.
func (s *Snapshot) Secret(ws manifest.Workspace, name manifest.Name, now time.Time) (*Secret, bool) {
	sc := s.scopes[ws]
	if sc == nil {
		return nil, false
	}
	sec := sc.secrets[name]
	if sec == nil {
		return nil, false
	}
	expired := func(r *Record) bool { return r.Stale() && now.Sub(r.Failure.Since) > s.MaxStale }
	if slices.ContainsFunc(sec.Parts, expired) {
		left := *sec
		left.Parts = slices.DeleteFunc(slices.Clone(sec.Parts), expired)
		sec = &left
	}
	return sec, len(sec.Parts) > 0
}

// Failing lists every record that is not served as committed, sorted by path.
func (s *Snapshot) Failing() []*Record {
	var out []*Record
	for _, sc := range s.scopes {
		for _, sec := range sc.secrets {
			out = append(out, sec.Failing...)
		}
	}
	slices.SortFunc(out, func(a, b *Record) int { return cmp.Compare(a.Path, b.Path) })
	return out
}

// Held lists every record whose file is gone and whose removal waits for the
// operator's word, sorted by path.
func (s *Snapshot) Held() []*Record {
	var out []*Record
	for _, sc := range s.scopes {
		for _, r := range sc.records {
			if r.Held != nil {
				out = append(out, r)
			}
		}
	}
	slices.SortFunc(out, func(a, b *Record) int { return cmp.Compare(a.Path, b.Path) })
	return out
}

// Count of secrets that have a content.
func (s *Snapshot) Count() int {
	n := 0
	for _, sc := range s.scopes {
		for _, sec := range sc.secrets {
			if len(sec.Parts) > 0 {
				n++
			}
		}
	}
	return n
}
