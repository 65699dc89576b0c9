package kubernetes

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal/access"
)

const (
	serviceAccountPrefix = "users:id:system:serviceaccount:"
	// Everybody is in it who has shown no credential; no agent ever serves them.
	unauthenticated = "system:unauthenticated"
)

// inexpressible are grants that RBAC cannot state, by the index of a secret that they
// are about: a deny, or else an allow of some keys. It does not matter whether their
// subjects are the cluster's: users:id:alice may be anybody who uses it, and whoever
// may create pods in a namespace reads every Secret there.
func inexpressible(policy *access.Policy, ws manifest.Workspace, names []manifest.Name, now time.Time) map[int]*access.Grant {
	out := map[int]*access.Grant{}
	for g := range policy.Grants(ws) {
		deny := g.Effect == manifest.Deny
		if !g.Reads() || !g.Active(now) || !deny && len(g.Keys) == 0 {
			continue
		}
		for _, i := range matching(names, g.Secrets) {
			if old := out[i]; old == nil || deny && old.Effect != manifest.Deny {
				out[i] = g
			}
		}
	}
	return out
}

// matching gives the indexes of the names, which are sorted, that one of the patterns
// matches, ascending; of all names where there is no pattern.
func matching(names []manifest.Name, patterns []manifest.Pattern) (out []int) {
	if len(patterns) == 0 {
		for i := range names {
			out = append(out, i)
		}
		return out
	}
	for _, p := range patterns {
		prefix, exact := p.Prefix()
		from, found := slices.BinarySearchFunc(names, prefix, func(n manifest.Name, prefix string) int { return strings.Compare(n.String(), prefix) })
		if exact {
			if found {
				out = append(out, from)
			}
			continue
		}
		for i := from; i < len(names) && strings.HasPrefix(names[i].String(), prefix); i++ {
			if p.Match(names[i]) {
				out = append(out, i)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// nextExpiry of a grant of reading in ws after now; zero where there is none.
func nextExpiry(policy *access.Policy, ws manifest.Workspace, now time.Time) (next time.Time) {
	for g := range policy.Grants(ws) {
		if g.Reads() && !g.Expires.IsZero() && g.Active(now) {
			next = earlier(next, g.Expires)
		}
	}
	return next
}

// earlier of two times, of which the zero Time is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// target is where the Secrets of one workspace stand, and what Roles may name there.
type target struct {
	ws         manifest.Workspace
	repository string
	namespace  string
	// names of secrets, sorted, and of their objects.
	names   []manifest.Name
	objects []string
}

// permissions makes the Role and the RoleBinding of each grant that lets subjects of
// the cluster read a secret of t as a whole.
//
// Nothing here looks at denies: no target names a secret that one is about.
func (p *Planner) permissions(policy *access.Policy, t *target, now time.Time) (objects []*Object, problems []Problem) {
	seen := map[Key]*Object{}
	for g := range policy.Grants(t.ws) {
		if g.Effect != manifest.Allow || !g.Reads() || len(g.Keys) > 0 || !g.Active(now) {
			continue
		}
		var names []string
		for _, i := range matching(t.names, g.Secrets) {
			names = append(names, t.objects[i])
		}
		origin := Origin{Repository: t.repository, Workspace: t.ws, Grant: g.Path}
		problem := func(key Key, reason Reason, format string, args ...any) {
			problems = append(problems, Problem{Key: key, Origin: origin, Reason: reason, Message: fmt.Sprintf(format, args...)})
		}
		subjects, errs := p.subjects(policy, g)
		for _, err := range errs {
			problem(Key{Namespace: t.namespace}, InvalidData, "%s: %s", shown(g.Path), err)
		}
		role := p.role(t, g, origin, names)
		if role == nil || len(subjects) == 0 {
			continue
		}
		binding := p.binding(t, g, origin, subjects)
		if size := max(roleSize(names), bindingSize(subjects)); size > maxObject {
			problem(role.Key, TooLarge, "%s: makes a Role or RoleBinding of %d bytes, of %d secrets and %d subjects; an object of Kubernetes has at most %d: split the grant", shown(g.Path), size, len(names), len(subjects), maxObject)
			continue
		}
		if other := seen[role.Key]; other != nil {
			// Only by a hash that was made to fit: neither is trusted.
			for _, o := range []*Object{role, binding} {
				objects = slices.DeleteFunc(objects, func(x *Object) bool { return x.Key == o.Key })
			}
			problem(role.Key, Collision, "%s and %s would both be Role %s/%s; neither is made until one is renamed", shown(other.Origin.Grant), shown(g.Path), t.namespace, role.Key.Name)
			continue
		}
		seen[role.Key] = role
		objects = append(objects, role, binding)
	}
	return objects, problems
}

// subjects of a grant that are the cluster's: service accounts, directly or as members
// of a role, and roles that are groups. Others, as users:id:alice, are left out. errs
// are about those that look like service accounts and can be none.
func (p *Planner) subjects(policy *access.Policy, g *access.Grant) (out []rbacv1.Subject, errs []error) {
	user := func(s manifest.Subject) {
		id, is := strings.CutPrefix(s.String(), serviceAccountPrefix)
		if !is {
			return
		}
		namespace, name, _ := strings.Cut(id, ":")
		if validation.IsDNS1123Label(namespace) != nil || validation.IsDNS1123Subdomain(name) != nil {
			errs = append(errs, fmt.Errorf("%.100q names no service account; it is users:id:system:serviceaccount:NAMESPACE:NAME", s.String()))
			return
		}
		out = append(out, rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: name})
	}
	for _, s := range g.Subjects {
		name, isRole := s.Role()
		if !isRole {
			user(s)
			continue
		}
		for _, member := range policy.Members(g, s) {
			user(member)
		}
		if p.Groups[s] && name != unauthenticated {
			out = append(out, rbacv1.Subject{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: name})
		}
	}
	slices.SortFunc(out, func(a, b rbacv1.Subject) int {
		return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	return slices.Compact(out), errs
}

// role lets its holder get some Secrets; it is nil where there are none, for a rule
// without names would be about every Secret of the namespace. It never lets anybody list
// them: the answer to a list without a name is every value of the namespace.
func (p *Planner) role(t *target, g *access.Grant, origin Origin, names []string) *Object {
	if len(names) == 0 {
		return nil
	}
	key := Key{Kind: KindRole, Namespace: t.namespace, Name: roleName(t.ws, g)}
	return &Object{Key: key, Origin: origin, Role: &rbacv1.Role{
		TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: string(KindRole)},
		ObjectMeta: p.grantMeta(key, origin),
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get"}, ResourceNames: slices.Sorted(slices.Values(names))}},
	}}
}

func (p *Planner) binding(t *target, g *access.Grant, origin Origin, subjects []rbacv1.Subject) *Object {
	key := Key{Kind: KindRoleBinding, Namespace: t.namespace, Name: roleName(t.ws, g)}
	meta := p.grantMeta(key, origin)
	if !g.Expires.IsZero() {
		meta.Annotations[ExpiresAnnotation] = g.Expires.UTC().Format(time.RFC3339)
	}
	return &Object{Key: key, Origin: origin, Binding: &rbacv1.RoleBinding{
		TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: string(KindRoleBinding)},
		ObjectMeta: meta,
		Subjects:   subjects,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: string(KindRole), Name: key.Name},
	}}
}

func (p *Planner) grantMeta(key Key, origin Origin) metav1.ObjectMeta {
	meta := metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name, Labels: map[string]string{}, Annotations: map[string]string{PathAnnotation: shown(origin.Grant)}}
	p.label(meta.Labels, origin.Repository, origin.Workspace)
	return meta
}

// roleName of a grant's Role and RoleBinding: sealward:WORKSPACE:GRANT for one of the
// workspace itself, sealward:WORKSPACE:instance:GRANT for one of the instance about that
// workspace, and sealward:instance:GRANT about instance secrets. Names have no colon and
// no dot, so no two grants share one: a file in a folder below grants/, whose name
// another may have, gets a dot and a hash of its path.
func roleName(ws manifest.Workspace, g *access.Grant) string {
	name := "sealward:" + ws.String() + ":"
	if g.Scope.IsInstance() && !ws.IsInstance() {
		name += g.Scope.String() + ":"
	}
	name += g.Name.String()
	if g.Path != manifest.PolicyPath(g.Scope, g.Name) {
		name += "." + shortHash(g.Path)
	}
	return name
}

// roleSize and bindingSize are about what the objects take as JSON.
func roleSize(names []string) int {
	n := 1 << 10
	for _, name := range names {
		n += len(name) + 3
	}
	return n
}

func bindingSize(subjects []rbacv1.Subject) int {
	n := 1 << 10
	for _, s := range subjects {
		n += len(s.Name) + len(s.Namespace) + len(s.APIGroup) + 64
	}
	return n
}

// shown makes a path that Git has, which may be anything below grants/, fit for a
// message and an annotation.
func shown(path string) string {
	path = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(path, "?"))
	if len(path) > 300 {
		path = strings.ToValidUTF8(path[:150], "") + "…" + strings.ToValidUTF8(path[len(path)-150:], "")
	}
	return path
}

// Naming gives a Role that names only those of its Secrets that ours holds for, and nil
// where none is left; every other object as it is. A Role must not be written with the
// name of a Secret that stands and is not what the plan has there: who may write a grant
// and a secret could name a Secret of somebody else, and the Role would give it away
// though the Secret itself was never touched.
func (o *Object) Naming(ours func(Key) bool) *Object {
	if o.Role == nil {
		return o
	}
	var rules []rbacv1.PolicyRule
	whole := true
	for _, rule := range o.Role.Rules {
		left := slices.DeleteFunc(slices.Clone(rule.ResourceNames), func(name string) bool {
			return !ours(Key{Kind: KindSecret, Namespace: o.Key.Namespace, Name: name})
		})
		whole = whole && len(left) == len(rule.ResourceNames)
		if len(left) > 0 {
			rule.ResourceNames = left
			rules = append(rules, rule)
		}
	}
	switch {
	case len(rules) == 0:
		return nil
	case whole:
		return o
	}
	role := *o.Role
	role.Rules = rules
	return &Object{Key: o.Key, Origin: o.Origin, Role: &role}
}

// sameGrant reports that two objects of grants say the same.
func sameGrant(a, b *Object) bool {
	if a.Key != b.Key || a.Origin != b.Origin {
		return false
	}
	if a.Role != nil && b.Role != nil {
		return slices.Equal(a.Role.Rules[0].ResourceNames, b.Role.Rules[0].ResourceNames) && maps.Equal(a.Role.Annotations, b.Role.Annotations)
	}
	return a.Binding != nil && b.Binding != nil && slices.Equal(a.Binding.Subjects, b.Binding.Subjects) && maps.Equal(a.Binding.Annotations, b.Binding.Annotations)
}
