package kubernetes

import (
	"slices"
	"time"

	"github.com/sealward/sealward/seal/manifest"
)

// A Role is written with the names of those Secrets only that stand and are ours: what a
// grant and a secret of the same name could otherwise give away is somebody else's Secret,
// which sealward itself never touches.

// namesSettle is how long a Role waits for more of its Secrets to come to stand.
const namesSettle = 50 * time.Millisecond

// names of the Secrets that a Role lets its holders get, sorted.
func (o *Object) names() []string {
	if o == nil || o.Role == nil {
		return nil
	}
	var names []string
	for _, rule := range o.Role.Rules {
		names = append(names, rule.ResourceNames...)
	}
	slices.Sort(names)
	return names
}

// namedBy finds the Roles of a plan that name a Secret, and the RoleBindings that name a
// Role.
func namedBy(p *Plan) map[Key][]Key {
	out := map[Key][]Key{}
	for key, o := range p.Objects {
		if o.Binding != nil {
			role := Key{KindRole, key.Namespace, o.Binding.RoleRef.Name}
			out[role] = append(out[role], key)
		}
		for _, name := range o.names() {
			secret := Key{KindSecret, key.Namespace, name}
			out[secret] = append(out[secret], key)
		}
	}
	return out
}

// stands reports that a Secret of the plan is in the cluster, was made by sealward, and
// of the same workspace.
func (e *Engine) stands(key Key) bool {
	en := e.entries[key]
	if en == nil || en.object == nil {
		return false
	}
	o := en.current()
	return o != nil && o.made && !o.deleting && o.workspace == en.object.Origin.Workspace.String()
}

// sendable is an object as it may be written now; nil where nothing may be.
func (e *Engine) sendable(obj *Object) *Object {
	if obj == nil {
		return nil
	}
	return obj.Naming(e.stands)
}

// undecided reports that a Secret of the plan neither stands nor is known to fail: it is
// about to be made, or made again.
func (e *Engine) undecided(key Key) bool {
	en := e.entries[key]
	return en != nil && en.object != nil && en.problem == nil && !e.stands(key)
}

// holds reports that a Role has to wait until what it may name is known. A name that is
// refused leaves it at once, whatever else is not known; before is as it was written
// last. A RoleBinding waits for its Role: the API server takes none to a Role that is not
// there, and a Role that is not ours is nobody's to give.
func (e *Engine) holds(key Key, en *entry, before *Object, o *observed) bool {
	if en.object == nil || en.object.Secret != nil {
		return false
	}
	if en.object.Binding != nil {
		role := e.entries[Key{KindRole, key.Namespace, en.object.Binding.RoleRef.Name}]
		return o == nil && role != nil && role.object != nil && role.current() == nil
	}
	if w := e.namespaces[key.Namespace][KindSecret]; w == nil || !w.synced {
		return true
	}
	open := func(name string) bool { return e.undecided(Key{KindSecret, key.Namespace, name}) }
	switch {
	case o == nil:
		return en.send == nil || slices.ContainsFunc(en.object.names(), open)
	case before == nil || !slices.ContainsFunc(en.object.names(), open):
		return false
	}
	names := en.send.names()
	return !slices.ContainsFunc(before.names(), func(name string) bool {
		_, still := slices.BinarySearch(names, name)
		return !still && !open(name)
	})
}

// roleCame has the RoleBindings of a Role looked at, which waited for it.
func (e *Engine) roleCame(role Key) {
	for _, key := range e.naming[role] {
		e.enqueue(key)
	}
}

// named has the Roles that name a Secret looked at: it came, went, or is refused.
func (e *Engine) named(key Key, refused bool) {
	for _, role := range e.naming[key] {
		if refused {
			e.enqueue(role)
		} else {
			e.enqueueAfter(role, namesSettle)
		}
	}
}

// takesOver reports that a Secret of a workspace that is kept as it is stands where one
// of another should.
func (e *Engine) takesOver(obj *Object, o *observed) bool {
	if obj == nil || obj.Key.Kind != KindSecret || o == nil || o.workspace == obj.Origin.Workspace.String() {
		return false
	}
	ws, err := manifest.ParseScope(o.workspace)
	return err == nil && e.plan.KeepWorkspaces[ws]
}
