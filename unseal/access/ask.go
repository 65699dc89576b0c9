package access

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sealward/sealward/seal/manifest"
)

// What people ask of a policy besides a decision: who, through what, until when. None
// of it is on the way of a read.

// Rule is one grant as it concerned a question.
type Rule struct {
	Grant string // path
	// Subject is the user or role through which it applied.
	Subject manifest.Subject
	Deny    bool
	Keys    []manifest.Key // nil: every key; sorted
	Expires time.Time      // zero: never
}

// Covers reports that the rule is about a key.
func (r Rule) Covers(k manifest.Key) bool { return r.Keys == nil || slices.Contains(r.Keys, k) }

// Rules are the grants that the decisions of a are made of, in a steady order. Asked
// at the zero time they include those that have expired.
func (a Access) Rules() []Rule {
	out := make([]Rule, 0, len(a.allow)+len(a.deny))
	for _, r := range slices.Concat(a.allow, a.deny) {
		out = append(out, Rule{Grant: r.path, Subject: r.subject, Deny: r.deny, Keys: r.sorted, Expires: r.expires})
	}
	return out
}

// Other decides about a key that no grant names.
func (a Access) Other() Decision { return a.decide(func(r *rule) bool { return r.keys == nil }) }

// Listing collects what lets id list the secret name in ws. It is not all: who may
// read some of a secret may list it too, unless a deny here forbids it (see List).
func (p *Policy) Listing(id Identity, ws manifest.Workspace, name manifest.Name, now time.Time) Access {
	return p.access(id, ws, name, now, func(r *subjectRules) *ruleSet { return &r.list })
}

// Broken gives the path of the file that closes ws, if one does.
func (p *Policy) Broken(ws manifest.Workspace) (path string, broken bool) { return p.broken(ws) }

// Subjects are the users and roles that a grant about the secret name in ws reaches,
// expired or not: those it names, and the members of roles it names. Sorted. Somebody
// else has a right to it only with a role that a token asserts, and then that role's.
func (p *Policy) Subjects(ws manifest.Workspace, name manifest.Name) []manifest.Subject {
	found := map[manifest.Subject]bool{}
	p.eachKnown(ws, func(s manifest.Subject) {
		p.eachSubject(Identity{User: s}, ws, func(rules *subjectRules) {
			hit := func(*rule) { found[s] = true }
			rules.read.each(name, hit)
			rules.list.each(name, hit)
		})
	})
	return slices.SortedFunc(maps.Keys(found), compareSubjects)
}

func compareSubjects(a, b manifest.Subject) int { return strings.Compare(a.String(), b.String()) }

// Known bounds how many subjects Standings would look at, without looking at them.
func (p *Policy) Known(ws manifest.Workspace) int {
	n := 0
	for _, scope := range []*Scope{p.scopes[ws], p.scopes[manifest.Instance()]} {
		if scope != nil {
			n += len(scope.rules[ws]) + len(scope.roles)
		}
	}
	return n
}

// eachKnown calls f once for every subject of a grant about ws and for every user with
// a role that might count there.
func (p *Policy) eachKnown(ws manifest.Workspace, f func(manifest.Subject)) {
	seen := map[manifest.Subject]bool{}
	visit := func(s manifest.Subject) {
		if !seen[s] {
			seen[s] = true
			f(s)
		}
	}
	for _, scope := range []*Scope{p.scopes[ws], p.scopes[manifest.Instance()]} {
		if scope == nil {
			continue
		}
		for s := range scope.rules[ws] {
			visit(s)
		}
		for s := range scope.roles {
			visit(s)
		}
	}
}

// Standing stands for everything that a policy says of one subject in one workspace.
// Subjects of one standing get the same answers to every question, but for their own
// name in them.
type Standing [sha256.Size]byte

// Standings are those of all subjects that a grant about ws reaches; the others have
// the zero Standing.
func (p *Policy) Standings(ws manifest.Workspace) map[manifest.Subject]Standing {
	out := map[manifest.Subject]Standing{}
	// A role's rules are written down once, however many members it has.
	texts := map[*subjectRules]string{}
	p.eachKnown(ws, func(s manifest.Subject) {
		var parts []string
		p.eachSubject(Identity{User: s}, ws, func(rules *subjectRules) {
			text, known := texts[rules]
			if !known {
				text = rules.text()
				texts[rules] = text
			}
			parts = append(parts, text)
		})
		if len(parts) == 0 {
			return
		}
		slices.Sort(parts)
		h := sha256.New()
		for _, part := range parts {
			fmt.Fprintf(h, "%d:%s", len(part), part)
		}
		out[s] = Standing(h.Sum(nil))
	})
	return out
}

// text writes rules down so that equal texts mean equal rules, whoever the user is.
func (s *subjectRules) text() string {
	var lines []string
	line := func(kind string, p string, r *rule) {
		subject := "self"
		if _, isRole := r.subject.Role(); isRole {
			subject = r.subject.String()
		}
		lines = append(lines, fmt.Sprintf("%s %q %q %s %v %s %v", kind, p, r.path, subject, r.deny, r.expires.UTC().Format(time.RFC3339Nano), r.sorted))
	}
	for kind, set := range map[string]*ruleSet{"read": &s.read, "list": &s.list} {
		for name, rules := range set.exact {
			for _, r := range rules {
				line(kind, name, r)
			}
		}
		for _, globs := range set.prefixed {
			for _, g := range globs {
				line(kind, g.glob.String(), g.rule)
			}
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// Reach is one pattern of one grant that allows something in a workspace.
type Reach struct {
	Grant   string // path
	Pattern manifest.Pattern
}

// Reaches are the patterns of all grants that allow something in ws.
func (p *Policy) Reaches(ws manifest.Workspace) map[Reach]bool {
	out := map[Reach]bool{}
	for _, scope := range []*Scope{p.scopes[ws], p.scopes[manifest.Instance()]} {
		if scope == nil {
			continue
		}
		for _, rules := range scope.rules[ws] {
			for _, set := range []*ruleSet{&rules.read, &rules.list} {
				for name, exact := range set.exact {
					pattern, err := manifest.ParsePattern(name)
					for _, r := range exact {
						if err == nil && !r.deny {
							out[Reach{r.path, pattern}] = true
						}
					}
				}
				for _, globs := range set.prefixed {
					for _, g := range globs {
						if !g.rule.deny {
							out[Reach{g.rule.path, g.glob}] = true
						}
					}
				}
			}
		}
	}
	return out
}

// Spanning gives, for each subject of a grant below instance/grants that allows
// something, the paths of these grants: of the subjects they name, and of the members
// of the roles among them, as far as these are the instance's.
func (p *Policy) Spanning() map[manifest.Subject][]string {
	instance := p.scopes[manifest.Instance()]
	out := map[manifest.Subject][]string{}
	if instance == nil {
		return out
	}
	paths := map[manifest.Subject]map[string]bool{}
	for _, subjects := range instance.rules {
		for s, rules := range subjects {
			for _, set := range []*ruleSet{&rules.read, &rules.list} {
				for _, path := range set.allowing() {
					if paths[s] == nil {
						paths[s] = map[string]bool{}
					}
					paths[s][path] = true
				}
			}
		}
	}
	for s, grants := range paths {
		out[s] = slices.Sorted(maps.Keys(grants))
	}
	for user, roles := range instance.roles {
		for _, role := range roles {
			out[user] = append(out[user], slices.Sorted(maps.Keys(paths[role]))...)
		}
		slices.Sort(out[user])
		if out[user] = slices.Compact(out[user]); len(out[user]) == 0 {
			delete(out, user)
		}
	}
	return out
}

// allowing lists the paths of grants that allow something.
func (s *ruleSet) allowing() (paths []string) {
	for _, rules := range s.exact {
		for _, r := range rules {
			if !r.deny {
				paths = append(paths, r.path)
			}
		}
	}
	for _, globs := range s.prefixed {
		for _, g := range globs {
			if !g.rule.deny {
				paths = append(paths, g.rule.path)
			}
		}
	}
	return paths
}

// Workspaces are those with a policy of their own and those that a grant of the
// instance is about; sorted, the instance among them if it has grants.
func (p *Policy) Workspaces() []manifest.Workspace {
	found := map[manifest.Workspace]bool{}
	for ws, scope := range p.scopes {
		found[ws] = true
		for target := range scope.rules {
			found[target] = true
		}
	}
	return slices.SortedFunc(maps.Keys(found), func(a, b manifest.Workspace) int { return strings.Compare(a.String(), b.String()) })
}
