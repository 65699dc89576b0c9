package kubernetes

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// An immutable Secret stands for a while longer when another one of the same secret has
// superseded it, for workloads that have not moved. The planner knows of those that it
// saw superseded. What an agent finds that was restarted is told by what stands: which
// of them came when.

// family is the secret that immutable Secrets are of; the zero family is no secret.
type family struct {
	namespace, workspace, secret string
}

// familyOf is the family of what stands in a namespace.
func familyOf(namespace string, o *observed) family {
	if o == nil || !o.immutable || !o.made || o.secret == "" {
		return family{}
	}
	return family{namespace, o.workspace, o.secret}
}

// plannedFamily is the family of what should stand.
func plannedFamily(key Key, s *corev1.Secret) family {
	if s == nil || s.Immutable == nil || !*s.Immutable {
		return family{}
	}
	return family{key.Namespace, s.Labels[WorkspaceLabel], s.Labels[SecretLabel]}
}

// standsUntil says how long a Secret of a family stands that is not wanted any more: a
// while from when the next one came or, where none came later, from when it came itself,
// for a change that was taken back soon. The zero Time is for no longer.
func (e *Engine) standsUntil(f family, name string) time.Time {
	if !e.families[f] {
		return time.Time{}
	}
	came := e.came[f]
	var next time.Time
	later := 0
	for other, at := range came {
		if other != name && !at.Before(came[name]) {
			next = earlier(next, at)
			later++
		}
	}
	if later == 0 {
		next = came[name]
	}
	until := next.Add(superseded)
	if later > maxSupersededOf || !e.cfg.Now().Before(until) {
		return time.Time{}
	}
	return until
}

// regroup notes that a Secret came to a family or left one, which decides anew about
// the others.
func (e *Engine) regroup(key Key, before, after family, o *observed) {
	if before == after {
		return
	}
	none := family{}
	if before != none {
		if delete(e.came[before], key.Name); len(e.came[before]) == 0 {
			delete(e.came, before)
		}
	}
	if after != none {
		if e.came[after] == nil {
			e.came[after] = map[string]time.Time{}
		}
		e.came[after][key.Name] = o.created
	}
	for _, f := range []family{before, after} {
		for name := range e.came[f] {
			key := Key{KindSecret, f.namespace, name}
			if en, until := e.entries[key], e.standsUntil(f, name); !until.Equal(en.stays) {
				e.change(key, en, func() { en.stays = until })
				e.enqueue(key)
			}
		}
	}
}

// regroupAll decides about every immutable Secret after the plan has changed. The counts
// are to be made anew afterwards.
func (e *Engine) regroupAll() {
	e.families = map[family]bool{}
	for key, obj := range e.plan.Objects {
		if f := plannedFamily(key, obj.Secret); f != (family{}) {
			e.families[f] = true
		}
	}
	for f, came := range e.came {
		for name := range came {
			e.entries[Key{KindSecret, f.namespace, name}].stays = e.standsUntil(f, name)
		}
	}
}
