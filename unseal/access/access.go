// Package access decides whether a verified identity may read or list a secret,
// from the grants and roles of one commit. It knows no HTTP and no Git, never
// holds a value, and does not know which secrets exist: what it decides can be
// asked again from the commit alone.
//
// Most callers need [CompileScope] and [New] once a commit, and then
// [Policy.Read] and [Policy.List].
package access

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sealward/sealward/seal/manifest"
)

// Identity is a caller whom serving has verified.
type Identity struct {
	User manifest.Subject
	// Roles that the identity's issuer asserted and the operator allowed it to.
	Roles []manifest.Subject
}

// File is one file below grants/, at the commit that is compiled.
type File struct {
	Path     string
	Manifest *manifest.Manifest // nil when the file is broken
	// Closes says of a broken file that it may be a lost deny: everything it could
	// have covered is refused. A broken file that can only be an allow grants
	// nothing and closes nothing (manifest.IsAllowGrant).
	Closes bool
}

// Reason of a decision, for the audit and for people.
type Reason string

// The reasons.
const (
	Granted      Reason = "granted"
	NoGrant      Reason = "no-grant"
	DenyGrant    Reason = "denied-by-grant"
	PolicyBroken Reason = "policy-broken"
	// Said by who serves, never by a Policy: two sources claim the workspace; what was
	// asked for cannot be a name; the settings, and no grant, let an operator or monitor
	// see names on the status page.
	Contested   Reason = "contested"
	InvalidName Reason = "invalid-name"
	Monitor     Reason = "monitor"
)

// Decision about one question.
type Decision struct {
	Allowed bool
	Reason  Reason
	// Grant is the path of the grant that decided; of the broken file when the
	// policy is broken; "" when no grant applied.
	Grant string
	// Subject is the user or role through which the grant applied.
	Subject manifest.Subject
}

// rule is one grant as seen from one of its subjects and patterns.
type rule struct {
	path    string
	subject manifest.Subject
	deny    bool
	expires time.Time
	keys    map[manifest.Key]struct{} // nil: every key
	sorted  []manifest.Key            // the same, for a steady order
}

func (r *rule) active(now time.Time) bool { return r.expires.IsZero() || now.Before(r.expires) }

// ruleSet finds the rules whose pattern matches a name without looking at the
// others: exact names and literal prefixes are map keys.
type ruleSet struct {
	exact    map[string][]*rule
	prefixed map[string][]globRule
	lengths  []int // of the prefixes, ascending
}

type globRule struct {
	glob manifest.Pattern
	rule *rule
}

func (s *ruleSet) add(p manifest.Pattern, r *rule) {
	prefix, exact := p.Prefix()
	if exact {
		if s.exact == nil {
			s.exact = map[string][]*rule{}
		}
		s.exact[prefix] = append(s.exact[prefix], r)
		return
	}
	if s.prefixed == nil {
		s.prefixed = map[string][]globRule{}
	}
	s.prefixed[prefix] = append(s.prefixed[prefix], globRule{p, r})
	if i, found := slices.BinarySearch(s.lengths, len(prefix)); !found {
		s.lengths = slices.Insert(s.lengths, i, len(prefix))
	}
}

// each calls f for every rule whose pattern matches name.
func (s *ruleSet) each(name manifest.Name, f func(*rule)) {
	if s == nil {
		return
	}
	text := name.String()
	for _, r := range s.exact[text] {
		f(r)
	}
	for _, n := range s.lengths {
		if n > len(text) {
			return
		}
		for _, g := range s.prefixed[text[:n]] {
			if g.glob.Match(name) {
				f(g.rule)
			}
		}
	}
}

// bySubject holds the rules of one workspace for each subject.
type bySubject map[manifest.Subject]*subjectRules

type subjectRules struct {
	read, list ruleSet
	allows     []*rule // of both, each once, in order of paths
}

func (b bySubject) add(s manifest.Subject, useCase manifest.UseCase, p manifest.Pattern, r *rule) {
	rules := b[s]
	if rules == nil {
		rules = &subjectRules{}
		b[s] = rules
	}
	if useCase == manifest.ListSecrets {
		rules.list.add(p, r)
	} else {
		rules.read.add(p, r)
	}
}

// Scope is the compiled policy of one workspace, or of instance/grants.
type Scope struct {
	// broken is the path of a file that closes the scope.
	broken string
	// rules by the workspace they are about. A workspace's own scope has only its own.
	rules map[manifest.Workspace]bySubject
	// roles of each user, and the names that are defined here: they hide the
	// instance's roles of the same name.
	roles   map[manifest.Subject][]manifest.Subject
	defined map[manifest.Subject]string
	// members of each role that is defined here, sorted, and grants by the workspace
	// they are about, in order of paths.
	members map[manifest.Subject][]manifest.Subject
	grants  map[manifest.Workspace][]*Grant
}

// CompileScope compiles the files of one workspace, or of the instance. The
// order of files does not matter.
func CompileScope(ws manifest.Workspace, files []File) *Scope {
	s := &Scope{rules: map[manifest.Workspace]bySubject{}, roles: map[manifest.Subject][]manifest.Subject{}, defined: map[manifest.Subject]string{},
		members: map[manifest.Subject][]manifest.Subject{}, grants: map[manifest.Workspace][]*Grant{}}
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	for _, f := range files {
		switch {
		case f.Manifest == nil:
			if f.Closes {
				s.close(f.Path)
			}
		case f.Manifest.Role != nil:
			role := manifest.RoleSubject(f.Manifest.Name)
			if _, twice := s.defined[role]; twice {
				s.close(f.Path) // two files say who has the role: neither is trusted
				continue
			}
			s.defined[role] = f.Path
			s.members[role] = slices.Compact(slices.SortedFunc(slices.Values(f.Manifest.Role.Members), compareSubjects))
			for _, user := range f.Manifest.Role.Members {
				s.roles[user] = append(s.roles[user], role)
			}
		case f.Manifest.Grant != nil:
			s.addGrant(ws, f)
		}
	}
	return s
}

func (s *Scope) close(path string) {
	if s.broken == "" {
		s.broken = path
	}
}

func (s *Scope) addGrant(ws manifest.Workspace, f File) {
	g := f.Manifest.Grant
	targets := []manifest.Workspace{ws}
	if ws.IsInstance() {
		targets = g.Workspaces
	}
	grant := &Grant{Path: f.Path, Name: f.Manifest.Name, Scope: ws, Grant: g}
	for _, target := range targets {
		if list := s.grants[target]; len(list) == 0 || list[len(list)-1] != grant { // named twice
			s.grants[target] = append(list, grant)
		}
	}
	patterns := g.Secrets
	if len(patterns) == 0 {
		all, _ := manifest.ParsePattern("*")
		patterns = []manifest.Pattern{all}
	}
	var keys map[manifest.Key]struct{}
	for _, k := range g.Keys {
		if keys == nil {
			keys = map[manifest.Key]struct{}{}
		}
		keys[k] = struct{}{}
	}
	sorted := slices.SortedFunc(maps.Keys(keys), func(a, b manifest.Key) int { return strings.Compare(a.String(), b.String()) })
	for _, subject := range g.Subjects {
		r := &rule{path: f.Path, subject: subject, deny: g.Effect == manifest.Deny, expires: g.Expires, keys: keys, sorted: sorted}
		for _, target := range targets {
			b := s.rules[target]
			if b == nil {
				b = bySubject{}
				s.rules[target] = b
			}
			for _, p := range patterns {
				b.add(subject, g.UseCase, p, r)
			}
			if rules := b[subject]; !r.deny {
				rules.allows = append(rules.allows, r)
			}
		}
	}
}

// Policy is the compiled policy of one commit. It never changes and is safe for
// concurrent use; the zero Policy denies everything.
type Policy struct {
	scopes map[manifest.Workspace]*Scope
}

// New puts the scopes of one commit together. The instance's is under
// manifest.Instance(). The map must not change afterwards.
func New(scopes map[manifest.Workspace]*Scope) *Policy { return &Policy{scopes: scopes} }

// Access is what one identity may do with the secrets of one name, existing or
// not.
type Access struct {
	broken string
	allow  []*rule
	deny   []*rule
}

// Read collects what id may read of the secret name in ws, at the time now.
func (p *Policy) Read(id Identity, ws manifest.Workspace, name manifest.Name, now time.Time) Access {
	return p.access(id, ws, name, now, func(r *subjectRules) *ruleSet { return &r.read })
}

// List decides whether id may see that the secret name is in ws: by a right to
// list it, or because it may read some of it. The right to read is never implied.
func (p *Policy) List(id Identity, ws manifest.Workspace, name manifest.Name, now time.Time) Decision {
	list := p.access(id, ws, name, now, func(r *subjectRules) *ruleSet { return &r.list })
	if d := list.Any(); d.Allowed || d.Reason != NoGrant {
		return d
	}
	return p.Read(id, ws, name, now).Any()
}

// MayList reports whether any grant lets id see anything in ws. It tells a
// workspace without visible secrets from one that is none of the caller's
// business; which secrets exist does not enter.
func (p *Policy) MayList(id Identity, ws manifest.Workspace, now time.Time) Decision {
	if path, broken := p.broken(ws); broken {
		return Decision{Reason: PolicyBroken, Grant: path}
	}
	var first *rule
	p.eachSubject(id, ws, func(rules *subjectRules) {
		if i := slices.IndexFunc(rules.allows, func(r *rule) bool { return r.active(now) }); i >= 0 {
			if r := rules.allows[i]; first == nil || inOrder([]*rule{first, r})[0] == r {
				first = r
			}
		}
	})
	if first == nil {
		return Decision{Reason: NoGrant}
	}
	return Decision{Allowed: true, Reason: Granted, Grant: first.path, Subject: first.subject}
}

func (p *Policy) broken(ws manifest.Workspace) (path string, broken bool) {
	for _, scope := range []manifest.Workspace{ws, manifest.Instance()} {
		if s := p.scopes[scope]; s != nil && s.broken != "" {
			return s.broken, true
		}
	}
	return "", false
}

// eachSubject calls f with the rules about ws of every subject that id is:
// itself, its asserted roles, and the roles it is a member of.
func (p *Policy) eachSubject(id Identity, ws manifest.Workspace, f func(*subjectRules)) {
	visit := func(b bySubject, s manifest.Subject) {
		if r := b[s]; r != nil {
			f(r)
		}
	}
	own, instance := p.scopes[ws], p.scopes[manifest.Instance()]
	asserted := append([]manifest.Subject{id.User}, id.Roles...)
	if instance != nil {
		if b := instance.rules[ws]; len(b) > 0 {
			for _, s := range asserted {
				visit(b, s)
			}
			for _, s := range instance.roles[id.User] {
				if !slices.Contains(asserted, s) {
					visit(b, s)
				}
			}
		}
	}
	if own == nil || ws.IsInstance() {
		return
	}
	b := own.rules[ws]
	for _, s := range asserted {
		visit(b, s)
	}
	for _, s := range own.roles[id.User] {
		if !slices.Contains(asserted, s) {
			visit(b, s)
		}
	}
	if instance == nil {
		return
	}
	for _, s := range instance.roles[id.User] {
		// A role that the workspace defines itself is not the instance's.
		if _, hidden := own.defined[s]; !hidden && !slices.Contains(asserted, s) {
			visit(b, s)
		}
	}
}

func (p *Policy) access(id Identity, ws manifest.Workspace, name manifest.Name, now time.Time, which func(*subjectRules) *ruleSet) Access {
	if ws.IsZero() || name.IsZero() || id.User.IsZero() {
		return Access{}
	}
	if path, broken := p.broken(ws); broken {
		return Access{broken: path}
	}
	var a Access
	p.eachSubject(id, ws, func(rules *subjectRules) {
		which(rules).each(name, func(r *rule) {
			switch {
			case !r.active(now):
			case r.deny:
				a.deny = append(a.deny, r)
			default:
				a.allow = append(a.allow, r)
			}
		})
	})
	a.allow, a.deny = inOrder(a.allow), inOrder(a.deny)
	return a
}

// inOrder sorts rules, so that the same question always names the same grant,
// and drops those that several patterns of one grant found again.
func inOrder(rules []*rule) []*rule {
	if len(rules) < 2 {
		return rules
	}
	slices.SortFunc(rules, func(x, y *rule) int {
		return cmp.Or(strings.Compare(x.path, y.path), strings.Compare(x.subject.String(), y.subject.String()))
	})
	return slices.Compact(rules)
}

// Key decides about one key, existing or not. Deny wins.
func (a Access) Key(k manifest.Key) Decision {
	return a.decide(func(r *rule) bool {
		_, named := r.keys[k]
		return r.keys == nil || named
	})
}

// All reports that every key is allowed, existing or not.
func (a Access) All() bool {
	return a.broken == "" && len(a.deny) == 0 && slices.ContainsFunc(a.allow, func(r *rule) bool { return r.keys == nil })
}

// Any decides whether some key could be allowed: an allow applies, and no deny
// covers all keys or every key that is allowed.
func (a Access) Any() Decision {
	d := a.decide(func(r *rule) bool { return r.keys == nil || !r.deny })
	if !d.Allowed {
		return d
	}
	for _, r := range a.allow {
		if r.keys == nil {
			return d // a deny that names keys leaves others
		}
	}
	denied := d
	for _, r := range a.allow {
		for _, k := range r.sorted {
			if d := a.Key(k); d.Allowed {
				return d
			} else if d.Reason == DenyGrant {
				denied = d
			}
		}
	}
	return denied
}

func (a Access) decide(covers func(*rule) bool) Decision {
	if a.broken != "" {
		return Decision{Reason: PolicyBroken, Grant: a.broken}
	}
	first := func(rules []*rule) *rule {
		if i := slices.IndexFunc(rules, covers); i >= 0 {
			return rules[i]
		}
		return nil
	}
	deny, allow := first(a.deny), first(a.allow)
	switch {
	case deny != nil:
		return Decision{Reason: DenyGrant, Grant: deny.path, Subject: deny.subject}
	case allow != nil:
		return Decision{Allowed: true, Reason: Granted, Grant: allow.path, Subject: allow.subject}
	}
	return Decision{Reason: NoGrant}
}
