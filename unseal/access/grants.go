package access

import (
	"iter"
	"slices"
	"time"

	"github.com/sealward/sealward/seal/manifest"
)

// What says permission elsewhere, as in a cluster, asks for the grants themselves.

// Grant is one valid grant, expired or not. It is not to be changed.
type Grant struct {
	Path string
	Name manifest.Name
	// Scope is where the file stands: in the workspace that it is about, or in the
	// instance.
	Scope manifest.Workspace
	*manifest.Grant
}

// Active reports that the grant is in force at the time now.
func (g *Grant) Active(now time.Time) bool { return g.Expires.IsZero() || now.Before(g.Expires) }

// Reads reports that the grant is about reading, not about listing.
func (g *Grant) Reads() bool { return g.UseCase != manifest.ListSecrets }

// Grants are those about ws: the instance's, then its own, each in order of paths.
// They decide nothing where ws is Broken.
func (p *Policy) Grants(ws manifest.Workspace) iter.Seq[*Grant] {
	return func(yield func(*Grant) bool) {
		for i, scope := range []manifest.Workspace{manifest.Instance(), ws} {
			if s := p.scopes[scope]; s != nil && (i == 0 || !ws.IsInstance()) {
				for _, g := range s.grants[ws] {
					if !yield(g) {
						return
					}
				}
			}
		}
	}
}

// Members are the users who have a role in the eyes of a grant: for one of a workspace
// the role of that workspace, which hides the instance's; for one of the instance its
// own. Sorted. Who has the role because a token asserts it is not known here.
func (p *Policy) Members(g *Grant, role manifest.Subject) []manifest.Subject {
	for _, scope := range []manifest.Workspace{g.Scope, manifest.Instance()} {
		if s := p.scopes[scope]; s != nil {
			if members, defined := s.members[role]; defined {
				return slices.Clone(members)
			}
		}
	}
	return nil
}

// SameFor reports that p decides about ws as q does because nothing that it decides
// from was compiled anew. Two that were compiled of equal files are not the same.
func (p *Policy) SameFor(ws manifest.Workspace, q *Policy) bool {
	return p.scopes[ws] == q.scopes[ws] && p.scopes[manifest.Instance()] == q.scopes[manifest.Instance()]
}
