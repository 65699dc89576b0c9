package unseal

import (
	"cmp"
	"iter"
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

// Scope holds the secrets of one workspace, or of the instance. It never changes.
type Scope struct {
	records map[string]*Record // by path
	secrets map[manifest.Name]*Secret
	names   []manifest.Name // sorted
	// Kept beside, so that nobody has to look at every secret for them.
	failing []*Record // sorted by path
	count   int       // of secrets with a content
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

// NewScope arranges the records of one scope. The map must not change afterwards.
func NewScope(scope manifest.Workspace, records map[string]*Record) *Scope {
	return (*Scope)(nil).Next(scope, records)
}

// Next is NewScope, and takes from s, an earlier state of the same scope, every
// secret whose records are still the same. It compares pointers, so no caller has
// to know what changed. The nil Scope has no secret.
func (s *Scope) Next(scope manifest.Workspace, records map[string]*Record) *Scope {
	if s == nil {
		s = &Scope{}
	}
	files := map[manifest.Name][]*Record{} // all that changed secrets have now
	stayed := 0
	for path, r := range records {
		old := s.records[path]
		if old != nil {
			stayed++
		}
		if old != r {
			files[r.Place.Name] = append(files[r.Place.Name], r)
		}
	}
	if stayed < len(s.records) {
		for path, r := range s.records {
			if _, is := files[r.Place.Name]; !is && records[path] == nil {
				files[r.Place.Name] = nil
			}
		}
	}
	next := &Scope{records: records, secrets: maps.Clone(s.secrets), names: s.names, count: s.count}
	if next.secrets == nil {
		next.secrets = make(map[manifest.Name]*Secret, len(files))
	}
	for _, r := range s.failing {
		if _, changed := files[r.Place.Name]; !changed {
			next.failing = append(next.failing, r)
		}
	}
	var added, removed bool
	for name, list := range files {
		for _, r := range s.Files(name) {
			if records[r.Path] == r {
				list = append(list, r)
			}
		}
		old := s.secrets[name]
		if old != nil && len(old.Parts) > 0 {
			next.count--
		}
		if len(list) == 0 {
			delete(next.secrets, name)
			removed = true
			continue
		}
		sec := arrange(scope, name, list)
		if len(sec.Parts) > 0 {
			next.count++
		}
		next.failing = append(next.failing, sec.Failing...)
		next.secrets[name] = sec
		added = added || old == nil
	}
	slices.SortFunc(next.failing, byPath)
	if added || removed {
		next.names = slices.SortedFunc(maps.Keys(next.secrets), func(a, b manifest.Name) int { return strings.Compare(a.String(), b.String()) })
	}
	return next
}

// arrange makes one secret of its records.
func arrange(scope manifest.Workspace, name manifest.Name, records []*Record) *Secret {
	sec := &Secret{Scope: scope, Name: name}
	for _, r := range records {
		if r.Good != nil {
			sec.Parts = append(sec.Parts, r)
		}
		if r.Failure != nil {
			sec.Failing = append(sec.Failing, r)
		}
	}
	slices.SortFunc(sec.Parts, byPath)
	slices.SortFunc(sec.Failing, byPath)
	return sec
}

func byPath(a, b *Record) int { return cmp.Compare(a.Path, b.Path) }

// Files lists the records of one secret, with and without a content.
func (s *Scope) Files(name manifest.Name) []*Record {
	if s == nil || s.secrets[name] == nil {
		return nil
	}
	sec := s.secrets[name]
	out := slices.Clone(sec.Parts)
	for _, r := range sec.Failing {
		if r.Good == nil {
			out = append(out, r)
		}
	}
	return out
}

// Count of secrets that have a content.
func (s *Scope) Count() int { return s.count }

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

// Scope of one workspace; nil where there is none.
func (s *Snapshot) Scope(ws manifest.Workspace) *Scope {
	if s == nil {
		return nil
	}
	return s.scopes[ws]
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
	var out []manifest.Name
	for sec := range s.Secrets(ws, now) {
		out = append(out, sec.Name)
	}
	return out
}

// Secrets are those of Names, as Secret gives them.
func (s *Snapshot) Secrets(ws manifest.Workspace, now time.Time) iter.Seq[*Secret] {
	return func(yield func(*Secret) bool) {
		sc := s.scopes[ws]
		if sc == nil {
			return
		}
		for _, n := range sc.names {
			if sec, ok := s.Secret(ws, n, now); ok && !yield(sec) {
				return
			}
		}
	}
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
	expired := func(r *Record) bool { return !s.Serves(r, now) }
	if slices.ContainsFunc(sec.Parts, expired) {
		left := *sec
		left.Parts = slices.DeleteFunc(slices.Clone(sec.Parts), expired)
		sec = &left
	}
	return sec, len(sec.Parts) > 0
}

// Serves reports that a record's content, the committed or the last good one, is served
// at the time now.
func (s *Snapshot) Serves(r *Record, now time.Time) bool {
	return r.Good != nil && (r.Failure == nil || now.Sub(r.Failure.Since) <= s.MaxStale)
}

// Failing lists every record that is not served as committed, sorted by path.
func (s *Snapshot) Failing() []*Record {
	var out []*Record
	for _, sc := range s.scopes {
		out = append(out, sc.failing...)
	}
	slices.SortFunc(out, byPath)
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
		n += sc.count
	}
	return n
}
