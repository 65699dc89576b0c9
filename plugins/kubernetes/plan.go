package kubernetes

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/access"
)

// Projection says what is projected, and where to.
type Projection struct {
	Agent string // namespace of the agents; AgentLabel
	// Workspaces that are projected; the instance among them where instance secrets are.
	Workspaces map[manifest.Workspace]bool
	Namespaces map[manifest.Workspace]string // default: of the same name
	// Immutable Secrets have a HashedName. What one replaces is kept for a day, so that
	// workloads can move; not over a restart of the agent.
	Immutable bool
	// Permissions has Roles and RoleBindings made of grants.
	Permissions bool
	// AllowInexpressible projects also secrets that a deny grant, or a grant of some keys,
	// is about. No Role names one that a deny is about, and a grant of some keys gives
	// nothing.
	AllowInexpressible bool
	// Groups are roles that are groups of the cluster's users (roles:id:X is group X).
	Groups map[manifest.Subject]bool
	// Repository is the name of the SealedRepository of a source.
	Repository func(source string) string
}

const (
	// superseded immutable Secrets stand for so long, and so many of one secret and of all.
	superseded      = 24 * time.Hour
	maxSupersededOf = 10
	maxSuperseded   = 10_000
)

// Planner makes plans. It remembers what the last one was made of, and reuses every
// object that would be the same. It is for one goroutine.
type Planner struct {
	Projection
	workspaces []manifest.Workspace // sorted
	scopes     map[manifest.Workspace]*scope
	since      map[problemID]time.Time
}

// problemID tells problems apart, so that one keeps the time it was first met.
type problemID struct {
	key    Key
	origin Origin
	reason Reason
}

// NewPlanner makes a planner that remembers nothing. The maps of p must not change
// afterwards.
func NewPlanner(p Projection) *Planner {
	if p.Repository == nil {
		p.Repository = func(source string) string { return cmp.Or(source, FieldManager) }
	}
	out := &Planner{Projection: p, scopes: map[manifest.Workspace]*scope{}}
	for ws, projected := range p.Workspaces {
		if projected {
			out.workspaces = append(out.workspaces, ws)
		}
	}
	slices.SortFunc(out.workspaces, func(a, b manifest.Workspace) int { return strings.Compare(a.String(), b.String()) })
	return out
}

// scope is what is remembered of one workspace.
type scope struct {
	made     inputs
	items    []*item   // every secret that is served, by name
	objects  []*Object // those that are projected
	problems []Problem
	// targets are the same by namespace, as Roles name them.
	targets map[string]*target
	granted map[string]*granted
	again   time.Time
	// replaced are immutable Secrets that were superseded.
	replaced map[place]*history
}

// inputs is everything that a scope is made of. While it is the same, and the time has
// not come when something expires, so is the scope.
type inputs struct {
	repository string
	records    *unseal.Scope
	policy     *access.Policy
	maxStale   time.Duration
	asking     map[manifest.Name][]string
	at, until  time.Time
}

func (in *inputs) hold(ws manifest.Workspace, next inputs) bool {
	return in.policy != nil && in.policy.SameFor(ws, next.policy) && in.repository == next.repository && in.records == next.records && in.maxStale == next.maxStale &&
		maps.EqualFunc(in.asking, next.asking, slices.Equal) && !next.at.Before(in.at) && (in.until.IsZero() || next.at.Before(in.until))
}

// item is one secret and what became of it.
type item struct {
	sec     *unseal.Secret
	name    string         // of the object
	secret  *corev1.Secret // without a namespace; nil with why
	why     *refusal
	objects []*Object // by namespace
}

// same reports that sec has the content that the item was made of.
func (it *item) same(sec *unseal.Secret) bool {
	return it.sec == sec || slices.EqualFunc(it.sec.Parts, sec.Parts, func(a, b *unseal.Record) bool { return a.Good == b.Good && a.Path == b.Path })
}

// granted is what the grants make in one namespace.
type granted struct {
	target   *target
	policy   *access.Policy
	at       time.Time
	until    time.Time
	objects  []*Object
	problems []Problem
}

// claim is a secret that has or had an object, for finding two that have the same.
type claim struct {
	key    Key
	origin Origin
	path   string
}

// draft is a plan that is being made.
type draft struct {
	*Plan
	view   *unseal.View
	now    time.Time
	claims []claim // of secrets whose object is kept
	// current are the scopes that the plan has objects of.
	current []manifest.Workspace
}

// Plan says everything that should stand in the cluster at the time now. namespaces are
// the labels of those that exist; nil says that nobody looked, and instance secrets then
// stay as they are.
//
// A secret is projected as it is served: with its last good value until that is too
// old, and no longer. Two secrets that would be one object are neither made nor deleted.
// Where a policy is broken or a workspace contested, its Secrets stay exactly as they
// are, and its Roles and RoleBindings go.
func (p *Planner) Plan(view *unseal.View, namespaces map[string]map[string]string, now time.Time) *Plan {
	d := &draft{view: view, now: now, Plan: &Plan{Keep: map[Key]bool{}, KeepWorkspaces: map[manifest.Workspace]bool{}, Repositories: map[string]bool{}, Commits: map[string]string{}}}
	for _, s := range view.Snapshots() {
		name := p.Repository(s.Source)
		d.Repositories[name], d.Commits[name] = true, s.Commit
	}
	targets := map[string]bool{}
	for _, ws := range p.workspaces {
		for _, ns := range p.scope(d, ws, namespaces) {
			targets[ns] = true
		}
	}
	d.Namespaces = slices.Sorted(maps.Keys(targets))
	p.gather(d)
	if p.Permissions {
		p.grant(d)
	}
	if p.Immutable {
		p.keepReplaced(d)
	}
	p.finish(d)
	return d.Plan
}

// problem notes one.
func (d *draft) problem(key Key, origin Origin, reason Reason, format string, args ...any) {
	d.Problems = append(d.Problems, Problem{Key: key, Origin: origin, Reason: reason, Message: fmt.Sprintf(format, args...)})
}

// scope takes one workspace into the draft, and says which namespaces it goes to.
func (p *Planner) scope(d *draft, ws manifest.Workspace, namespaces map[string]map[string]string) (targets []string) {
	var asking map[manifest.Name][]string
	if ws.IsInstance() {
		if namespaces == nil {
			d.KeepWorkspaces[ws] = true
			return nil
		}
		asking, targets = p.asking(namespaces)
	} else if ns := p.namespace(ws); p.unfit(ns) == "" {
		targets = []string{ns}
	}
	s := p.scopes[ws]
	if s == nil {
		s = &scope{targets: map[string]*target{}, granted: map[string]*granted{}, replaced: map[place]*history{}}
		p.scopes[ws] = s
	}
	if sources := d.view.Contested(ws); len(sources) > 0 {
		d.KeepWorkspaces[ws] = true
		var repositories []string
		for _, source := range sources {
			repositories = append(repositories, p.Repository(source))
		}
		for _, r := range repositories {
			d.problem(wholeNamespace(targets), Origin{Repository: r, Workspace: ws}, Contested, "%s and %s both have secrets of workspace %s; its Secrets stay as they are and nobody gets a Role, until only one of them claims it", repositories[0], strings.Join(repositories[1:], " and "), ws)
		}
		for _, snap := range d.view.Snapshots() {
			p.claim(d, s, ws, snap, targets, asking)
		}
		return targets
	}
	snap := d.view.Of(ws)
	if snap == nil { // nobody has it; what was made of it is not needed any more
		delete(p.scopes, ws)
		return targets
	}
	origin := Origin{Repository: p.Repository(snap.Source), Workspace: ws}
	if path, broken := policyOf(snap).Broken(ws); broken {
		d.KeepWorkspaces[ws] = true
		origin.Grant = path
		d.problem(wholeNamespace(targets), origin, PolicyBroken, "%s: is broken and may hide a deny, so who may read workspace %s cannot be decided: its Secrets stay as they are and nobody gets a Role, until it is mended (sealward check says what is wrong)", shown(path), ws)
		p.claim(d, s, ws, snap, targets, asking)
		return targets
	}
	if ns := p.namespace(ws); !ws.IsInstance() && targets == nil {
		delete(p.scopes, ws)
		d.problem(Key{Namespace: ns}, origin, NoTarget, "workspace %s would go to namespace %s, which %s; give it another in kubernetes.project.namespaces", ws, ns, p.unfit(ns))
		return nil
	}
	next := inputs{repository: origin.Repository, records: snap.Scope(ws), policy: policyOf(snap), maxStale: snap.MaxStale, asking: asking, at: d.now}
	if !s.made.hold(ws, next) {
		p.makeScope(s, ws, snap, targets, next)
	}
	d.current = append(d.current, ws)
	d.Problems = append(d.Problems, s.problems...)
	d.Again = earlier(d.Again, s.again)
	return targets
}

// policyOf a snapshot; one without denies everything.
func policyOf(s *unseal.Snapshot) *access.Policy {
	if s.Policy == nil {
		return &access.Policy{}
	}
	return s.Policy
}

// wholeNamespace is the key of a problem with a workspace.
func wholeNamespace(targets []string) Key {
	if len(targets) == 1 {
		return Key{Namespace: targets[0]}
	}
	return Key{}
}

func (p *Planner) namespace(ws manifest.Workspace) string {
	return cmp.Or(p.Namespaces[ws], ws.String())
}

// unfit says why a namespace is never projected into; "" where it may be.
func (p *Planner) unfit(namespace string) string {
	switch {
	case strings.HasPrefix(namespace, "kube-"):
		return "is one of the cluster's own"
	case namespace == p.Agent:
		return "has the agent's own keys"
	case validation.IsDNS1123Label(namespace) != nil:
		return "is no name of a namespace"
	}
	return ""
}

// asking are the namespaces that ask for instance secrets, by the secret's name and
// altogether, those that are unfit among the former only: they are a problem.
func (p *Planner) asking(namespaces map[string]map[string]string) (asking map[manifest.Name][]string, targets []string) {
	asking = map[manifest.Name][]string{}
	for _, ns := range slices.Sorted(maps.Keys(namespaces)) {
		asks := false
		for label, value := range namespaces[ns] {
			text, ours := strings.CutPrefix(label, InstanceLabelPrefix)
			if !ours || value != "true" {
				continue
			}
			if name, err := manifest.ParseName(text); err == nil {
				asking[name] = append(asking[name], ns)
				asks = true
			}
		}
		if asks && p.unfit(ns) == "" {
			targets = append(targets, ns)
		}
	}
	return asking, targets
}

// claim notes the objects of a workspace that is kept as it is, so that nothing else
// takes their place: those that would be, and those that were.
func (p *Planner) claim(d *draft, s *scope, ws manifest.Workspace, snap *unseal.Snapshot, targets []string, asking map[manifest.Name][]string) {
	noted := map[Key]bool{}
	note := func(key Key, origin Origin, path string) {
		if !noted[key] {
			noted[key] = true
			d.claims = append(d.claims, claim{key, origin, path})
		}
	}
	repository := p.Repository(snap.Source)
	for sec := range snap.Secrets(ws, d.now) {
		for _, ns := range p.targetsOf(sec.Name, targets, asking) {
			note(Key{KindSecret, ns, p.objectName(sec)}, Origin{Repository: repository, Workspace: ws, Secret: sec.Name}, shownPath(sec))
		}
	}
	for _, o := range s.objects {
		note(o.Key, o.Origin, shown(o.Secret.Annotations[PathAnnotation]))
	}
}

// targetsOf are the fit namespaces that a secret goes to.
func (p *Planner) targetsOf(name manifest.Name, targets []string, asking map[manifest.Name][]string) []string {
	if asking == nil {
		return targets
	}
	return slices.DeleteFunc(slices.Clone(asking[name]), func(ns string) bool { return p.unfit(ns) != "" })
}

// makeScope makes the objects of a workspace anew, of what it has already where the
// content is the same.
func (p *Planner) makeScope(s *scope, ws manifest.Workspace, snap *unseal.Snapshot, targets []string, in inputs) {
	old := s.items
	if s.made.repository != in.repository {
		old = nil
	}
	s.items, s.objects, s.problems, s.again = make([]*item, 0, len(old)), make([]*Object, 0, len(s.objects)), nil, nextExpiry(in.policy, ws, in.at)
	var names []manifest.Name
	for sec := range snap.Secrets(ws, in.at) {
		for _, r := range sec.Failing {
			if r.Good != nil && r.Failure != nil && snap.Serves(r, in.at) {
				s.again = earlier(s.again, r.Failure.Since.Add(snap.MaxStale+1))
			}
		}
		if ws.IsInstance() && len(in.asking[sec.Name]) == 0 {
			continue
		}
		// Both lists are sorted by name.
		var was *item
		for len(old) > 0 && strings.Compare(old[0].sec.Name.String(), sec.Name.String()) <= 0 {
			was, old = old[0], old[1:]
		}
		if was != nil && was.sec.Name != sec.Name {
			was = nil
		}
		s.items = append(s.items, p.item(was, sec, in.repository))
		names = append(names, sec.Name)
	}
	barred := inexpressible(in.policy, ws, names, in.at)
	s.targets = map[string]*target{}
	for _, ns := range targets {
		s.targets[ns] = &target{ws: ws, repository: in.repository, namespace: ns}
	}
	for i, it := range s.items {
		origin := Origin{Repository: in.repository, Workspace: ws, Secret: it.sec.Name}
		key := Key{}
		if !ws.IsInstance() {
			key = Key{KindSecret, targets[0], it.name}
		}
		problem := func(key Key, origin Origin, reason Reason, message string) {
			s.problems = append(s.problems, Problem{Key: key, Origin: origin, Reason: reason, Message: message})
		}
		for _, ns := range in.asking[it.sec.Name] {
			if why := p.unfit(ns); why != "" {
				problem(Key{Namespace: ns}, origin, NoTarget, fmt.Sprintf("namespace %s asks for instance secret %s by a label, but %s; remove the label", ns, it.sec.Name, why))
			}
		}
		to := p.targetsOf(it.sec.Name, targets, in.asking)
		if len(to) == 0 {
			continue
		}
		if it.why != nil {
			problem(key, origin, it.why.reason, it.why.message)
			continue
		}
		grant := barred[i]
		if grant != nil && !p.AllowInexpressible {
			origin.Grant = grant.Path
			problem(key, origin, Inexpressible, whyBarred(grant, it.sec))
			continue
		}
		it.place(to, origin)
		for _, o := range it.objects {
			s.objects = append(s.objects, o)
			if grant == nil || grant.Effect != manifest.Deny {
				t := s.targets[o.Key.Namespace]
				t.names, t.objects = append(t.names, it.sec.Name), append(t.objects, it.name)
			}
		}
	}
	in.until = s.again
	s.made = in
}

func whyBarred(g *access.Grant, sec *unseal.Secret) string {
	what := fmt.Sprintf("%s, which RBAC cannot express: whoever may create pods in the namespace would read all of it; it is not projected.", shownPath(sec))
	const or = "or accept that with kubernetes.project.inexpressible: allow"
	if g.Effect == manifest.Deny {
		return fmt.Sprintf("%s denies reading %s Grant it only to whom you mean and remove the deny, %s", shown(g.Path), what, or)
	}
	return fmt.Sprintf("%s grants some keys of %s Keep those keys in a secret of their own and grant that, %s", shown(g.Path), what, or)
}

// item makes what becomes of a secret, or gives the one that was if nothing changed.
func (p *Planner) item(was *item, sec *unseal.Secret, repository string) *item {
	if was != nil && was.same(sec) {
		was.sec = sec // the newer pointer is quicker to compare, and frees the older records
		return was
	}
	next := &item{sec: sec, name: p.objectName(sec)}
	next.secret, next.why = p.secretOf(sec, repository)
	if was != nil && was.secret != nil && reflect.DeepEqual(was.secret, next.secret) {
		next.secret, next.objects = was.secret, was.objects
	}
	return next
}

// place has one object stand in each of the namespaces, which are sorted.
func (it *item) place(namespaces []string, origin Origin) {
	if slices.EqualFunc(it.objects, namespaces, func(o *Object, ns string) bool { return o.Key.Namespace == ns }) {
		return
	}
	old := it.objects
	it.objects = make([]*Object, 0, len(namespaces))
	for _, ns := range namespaces {
		if i := slices.IndexFunc(old, func(o *Object) bool { return o.Key.Namespace == ns }); i >= 0 {
			it.objects = append(it.objects, old[i])
			continue
		}
		secret := *it.secret // shares labels, annotations and data, which never change
		secret.Namespace = ns
		it.objects = append(it.objects, &Object{Key: Key{KindSecret, ns, it.name}, Origin: origin, Secret: &secret})
	}
}

// gather puts the Secrets of all workspaces together, but those of which two would be
// the same object.
func (p *Planner) gather(d *draft) {
	total := 0
	for _, ws := range d.current {
		total += len(p.scopes[ws].objects)
	}
	d.Objects = make(map[Key]*Object, total+total/8+16)
	for _, ws := range d.current {
		for _, o := range p.scopes[ws].objects {
			d.Objects[o.Key] = o
		}
	}
	if len(d.Objects) == total && len(d.claims) == 0 {
		return
	}
	all := map[Key][]claim{}
	for _, c := range d.claims {
		all[c.key] = append(all[c.key], c)
	}
	for _, ws := range d.current {
		for _, o := range p.scopes[ws].objects {
			all[o.Key] = append(all[o.Key], claim{o.Key, o.Origin, shown(o.Secret.Annotations[PathAnnotation])})
		}
	}
	for key, claims := range all {
		first := claims[0]
		if !slices.ContainsFunc(claims, func(c claim) bool { return c.origin.Workspace != first.origin.Workspace }) {
			continue // alone, or what two repositories contest
		}
		delete(d.Objects, key)
		d.Keep[key] = true
		var who []string
		for _, c := range claims {
			who = append(who, fmt.Sprintf("%s/%s (%s, %s)", c.origin.Workspace, c.origin.Secret, c.origin.Repository, c.path))
		}
		slices.Sort(who)
		for _, c := range claims {
			d.problem(key, c.origin, Collision, "%s would be one Secret %s/%s; what stands there stays as it is, until one has another name or its workspace another namespace (kubernetes.project.namespaces)", strings.Join(who, " and "), key.Namespace, key.Name)
		}
	}
}

// grant adds the Roles and RoleBindings of all workspaces.
func (p *Planner) grant(d *draft) {
	for _, ws := range d.current {
		s := p.scopes[ws]
		for _, ns := range slices.Sorted(maps.Keys(s.targets)) {
			g := p.grantsIn(d, s, s.targets[ns])
			for _, o := range g.objects {
				d.Objects[o.Key] = o
			}
			d.Problems = append(d.Problems, g.problems...)
		}
		for ns := range s.granted {
			if s.targets[ns] == nil {
				delete(s.granted, ns)
			}
		}
	}
}

// grantsIn makes what grants make in one namespace, unless it was made of the same.
func (p *Planner) grantsIn(d *draft, s *scope, t *target) *granted {
	if len(d.Keep) > 0 { // Roles name no Secret that is not projected
		left := &target{ws: t.ws, repository: t.repository, namespace: t.namespace}
		for i, object := range t.objects {
			if !d.Keep[Key{KindSecret, t.namespace, object}] {
				left.names, left.objects = append(left.names, t.names[i]), append(left.objects, object)
			}
		}
		t = left
	}
	was := s.granted[t.namespace]
	if was != nil && was.policy.SameFor(t.ws, s.made.policy) && was.target.repository == t.repository && !d.now.Before(was.at) && (was.until.IsZero() || d.now.Before(was.until)) &&
		slices.Equal(was.target.names, t.names) && slices.Equal(was.target.objects, t.objects) {
		was.target = t
		return was
	}
	next := &granted{target: t, policy: s.made.policy, at: d.now, until: nextExpiry(s.made.policy, t.ws, d.now)}
	next.objects, next.problems = p.permissions(s.made.policy, t, d.now)
	if was != nil && was.target.repository == t.repository {
		old := make(map[Key]*Object, len(was.objects))
		for _, o := range was.objects {
			old[o.Key] = o
		}
		for i, o := range next.objects {
			if same := old[o.Key]; same != nil && sameGrant(same, o) {
				next.objects[i] = same
			}
		}
	}
	s.granted[t.namespace] = next
	return next
}

// place is one secret in one namespace.
type place struct {
	namespace string
	secret    manifest.Name
}

// history is which immutable Secrets a secret had.
type history struct {
	current  string
	replaced []ended // oldest first
	seen     bool    // in the plan that is being made
}

type ended struct {
	name  string
	until time.Time
}

// keepReplaced has immutable Secrets that were superseded stand a while longer, for
// workloads that have not moved. Those of a secret that is not projected any more go.
func (p *Planner) keepReplaced(d *draft) {
	type kept struct {
		key   Key
		until time.Time
	}
	var all []kept
	for _, ws := range d.current {
		s := p.scopes[ws]
		for _, o := range s.objects {
			at := place{o.Key.Namespace, o.Origin.Secret}
			h := s.replaced[at]
			if h == nil {
				h = &history{current: o.Key.Name}
				s.replaced[at] = h
			}
			h.seen = true
			if h.current != o.Key.Name {
				h.replaced = append(h.replaced, ended{h.current, d.now.Add(superseded)})
				h.current = o.Key.Name
			}
			if len(h.replaced) == 0 {
				continue
			}
			h.replaced = slices.DeleteFunc(h.replaced, func(e ended) bool { return e.name == h.current || !d.now.Before(e.until) })
			h.replaced = h.replaced[max(0, len(h.replaced)-maxSupersededOf):]
			for _, e := range h.replaced {
				all = append(all, kept{Key{KindSecret, o.Key.Namespace, e.name}, e.until})
			}
		}
		for at, h := range s.replaced {
			if !h.seen {
				delete(s.replaced, at)
			}
			h.seen = false
		}
	}
	slices.SortFunc(all, func(a, b kept) int { return b.until.Compare(a.until) })
	for _, k := range all[:min(len(all), maxSuperseded)] {
		if d.Objects[k.key] == nil {
			d.Keep[k.key] = true
			d.Again = earlier(d.Again, k.until)
		}
	}
}

// finish sorts the problems and says since when they are.
func (p *Planner) finish(d *draft) {
	since := make(map[problemID]time.Time, len(d.Problems))
	for i := range d.Problems {
		x := &d.Problems[i]
		id := problemID{x.Key, x.Origin, x.Reason}
		if x.Since = p.since[id]; x.Since.IsZero() {
			x.Since = d.now
		}
		since[id] = x.Since
	}
	p.since = since
	slices.SortFunc(d.Problems, func(a, b Problem) int {
		return cmp.Or(strings.Compare(a.Origin.Workspace.String(), b.Origin.Workspace.String()), strings.Compare(a.Origin.Secret.String(), b.Origin.Secret.String()), strings.Compare(a.Origin.Grant, b.Origin.Grant),
			strings.Compare(a.Key.Namespace, b.Key.Namespace), strings.Compare(string(a.Reason), string(b.Reason)), strings.Compare(a.Origin.Repository, b.Origin.Repository), strings.Compare(a.Message, b.Message))
	})
}
