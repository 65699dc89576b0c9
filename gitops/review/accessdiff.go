package review

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal/access"
)

// Bounds of an AccessDiff: what a person would read, and what a machine should
// compute for one. What is beyond them is counted.
const (
	maxDecisions = 2_000_000 // compared names, one for each group of subjects
	maxListed    = 1_000     // subjects or secrets in one list
	maxChanges   = 500
)

// AccessDiff is who gains and who loses what between two trees.
type AccessDiff struct {
	From       string `json:"from"`
	FromCommit string `json:"fromCommit,omitempty"`
	To         string `json:"to"`
	ToCommit   string `json:"toCommit,omitempty"`
	// Closed are scopes that a broken file closes, or closed.
	Closed []Closure `json:"closed"`
	// Spanning are subjects that grants of the instance did not reach before.
	Spanning []Spanning `json:"instanceWide"`
	// Changes are those to secrets that are in both trees.
	Changes []AccessChange `json:"changes"`
	// New and Removed are secrets that only one tree has, with who may, or could, read
	// them.
	New     []SecretReaders `json:"newSecrets"`
	Removed []SecretReaders `json:"removedSecrets"`
	// Unmatched are new patterns of grants that no secret has yet.
	Unmatched []Unmatched `json:"unmatched"`
	// Cut says what was left out because there is too much of it.
	Cut []string `json:"cut,omitempty"`
}

// Closure is a scope whose reads a broken file refuses.
type Closure struct {
	Scope   string `json:"scope"` // a workspace, or instance for everything
	Path    string `json:"path"`
	Problem string `json:"problem"`
	// State: "closes" now, "closed" in both, "mended" now.
	State string `json:"state"`
}

// Spanning is one subject that grants below instance/grants reach.
type Spanning struct {
	Subject string   `json:"subject"`
	Grants  []string `json:"grants"`
}

// AccessChange is what changes in the same way for some subjects.
type AccessChange struct {
	Subjects []string      `json:"subjects"`
	More     int           `json:"more,omitempty"` // subjects that are not listed
	Rights   []RightChange `json:"rights"`
}

// RightChange is one right that changes.
type RightChange struct {
	// Change: "gains", "loses", "until" (the end of a right) or "denied-until" (the end
	// of a denial).
	Change    string   `json:"change"`
	Verb      Verb     `json:"verb"`
	Workspace string   `json:"workspace"`
	Every     bool     `json:"every,omitempty"` // secret of the workspace that is in both trees
	Secrets   []string `json:"secrets"`         // names
	More      int      `json:"more,omitempty"`  // secrets that are not listed
	Keys      KeySet   `json:"keys"`
	// Through are the grants of a right that is gained, or was lost; with Deny one that takes
	// it away now, or did.
	Through []Through  `json:"through,omitempty"`
	Was     *time.Time `json:"was,omitempty"` // the old end; none is never
	Is      *time.Time `json:"is,omitempty"`  // the new one
}

// Through is a grant by which something is or was so.
type Through struct {
	Grant string     `json:"grant"`
	Role  string     `json:"role,omitempty"`
	Deny  bool       `json:"deny,omitempty"`
	Until *time.Time `json:"until,omitempty"`
}

// SecretReaders are who may read some secrets, all of them the same.
type SecretReaders struct {
	Workspace string   `json:"workspace"`
	Secrets   []string `json:"secrets"`
	More      int      `json:"more,omitempty"`
	Readers   []Reader `json:"readers"`
	// MoreReaders are not listed.
	MoreReaders int `json:"moreReaders,omitempty"`
	// Broken is the file that closes the policy, so that nobody may.
	Broken string `json:"policyBroken,omitempty"`
}

// Reader is a subject and the keys it may read.
type Reader struct {
	Subject string `json:"subject"`
	Keys    KeySet `json:"keys"`
}

// Unmatched is a pattern that allows something once a secret has such a name.
type Unmatched struct {
	Workspace string `json:"workspace"`
	Grant     string `json:"grant"`
	Pattern   string `json:"pattern"`
}

// Empty reports that nothing is to be told.
func (d *AccessDiff) Empty() bool {
	return len(d.Closed)+len(d.Spanning)+len(d.Changes)+len(d.New)+len(d.Removed)+len(d.Unmatched)+len(d.Cut) == 0
}

// AccessDiff compares who may do what at a time by two trees, the older of which is a
// commit. It looks only at workspaces whose grants differ or whose secrets come or go,
// and there only at subjects of whom the two policies say something different.
func (r *Repo) AccessDiff(ctx context.Context, from, to *Tree, now time.Time) (*AccessDiff, error) {
	d := &AccessDiff{From: from.Name, FromCommit: from.Commit, To: to.Name, ToCommit: to.Commit,
		Closed: []Closure{}, Spanning: []Spanning{}, Changes: []AccessChange{}, New: []SecretReaders{}, Removed: []SecretReaders{}, Unmatched: []Unmatched{}}
	changed, err := r.Changed(ctx, from, to, "workspaces", "instance")
	if err != nil {
		return d, err
	}
	hidden, err := r.hidden(ctx, from, to)
	if err != nil {
		return d, err
	}
	granted, moved := touched(append(changed, hidden...))
	if len(granted)+len(moved) == 0 {
		return d, nil
	}
	c := &comparison{diff: d, now: now, subjects: map[manifest.Subject][]int{}}
	scopes := slices.Concat(granted, moved)
	all := slices.Contains(granted, manifest.Instance())
	if all {
		scopes = nil
	}
	if c.old, err = from.Policy(ctx, scopes...); err != nil {
		return nil, err
	}
	if c.new, err = to.Policy(ctx, scopes...); err != nil {
		return nil, err
	}
	if all {
		scopes = slices.Concat(c.old.Workspaces(), c.new.Workspaces(), moved)
		c.spanning()
	}
	slices.SortFunc(scopes, func(a, b manifest.Workspace) int { return strings.Compare(a.String(), b.String()) })
	for _, ws := range slices.Compact(scopes) {
		if c.closed(ws) {
			continue
		}
		before, after := c.old.Standings(ws), c.new.Standings(ws)
		if _, broken := c.old.Broken(ws); broken {
			clear(before)
		}
		if maps.Equal(before, after) && !slices.Contains(moved, ws) {
			continue
		}
		was, err := from.names(ctx, ws)
		if err != nil {
			return nil, err
		}
		is, err := to.names(ctx, ws)
		if err != nil {
			return nil, err
		}
		c.changes(ws, before, after, both(was, is))
		d.New = append(d.New, c.readers(c.new, ws, after, only(is, was))...)
		for _, gone := range c.readers(c.old, ws, before, only(was, is)) {
			if len(gone.Readers) > 0 { // else nobody loses anything
				d.Removed = append(d.Removed, gone)
			}
		}
		c.unmatched(ws, is)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	c.group()
	return d, nil
}

// touched are the scopes of which a grant or role differs, or what may hide one, and
// those in which files of secrets come or go.
func touched(changed []Change) (granted, moved []manifest.Workspace) {
	add := func(list *[]manifest.Workspace, ws manifest.Workspace) {
		if !slices.Contains(*list, ws) {
			*list = append(*list, ws)
		}
	}
	for _, ch := range changed {
		place, ours, _ := manifest.Locate(ch.Path)
		ws, closes := access.ClosedBy(ch.Path)
		switch {
		case ours && place.Policy:
			add(&granted, place.Scope)
		case closes:
			add(&granted, ws)
		case ours && !place.Scope.IsZero() && (ch.Old == nil || ch.New == nil):
			add(&moved, place.Scope)
		}
	}
	return granted, moved
}

// names lists the secrets of a workspace.
func (t *Tree) names(ctx context.Context, ws manifest.Workspace) ([]manifest.Name, error) {
	files, err := t.filesAt(ctx, ws.Folder()+"/secrets")
	if err != nil {
		return nil, err
	}
	var out []manifest.Name
	for _, f := range files {
		if place, ours, err := manifest.Locate(f.Path); ours && err == nil && !place.Policy && (len(out) == 0 || out[len(out)-1] != place.Name) {
			out = append(out, place.Name)
		}
	}
	slices.SortFunc(out, compareNames)
	return slices.Compact(out), nil
}

func compareNames(a, b manifest.Name) int { return strings.Compare(a.String(), b.String()) }

func both(a, b []manifest.Name) (out []manifest.Name) {
	for _, n := range a {
		if _, found := slices.BinarySearchFunc(b, n, compareNames); found {
			out = append(out, n)
		}
	}
	return out
}

func only(a, b []manifest.Name) (out []manifest.Name) {
	for _, n := range a {
		if _, found := slices.BinarySearchFunc(b, n, compareNames); !found {
			out = append(out, n)
		}
	}
	return out
}

// comparison of two policies under way.
type comparison struct {
	diff      *AccessDiff
	old, new  *Policy
	now       time.Time
	decisions int
	// rights that change, each list for a group of subjects in one workspace, and by
	// subject the groups it is in.
	rights   [][]RightChange
	subjects map[manifest.Subject][]int
}

func (c *comparison) cut(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(c.diff.Cut, text) {
		c.diff.Cut = append(c.diff.Cut, text)
	}
}

// spend counts decisions; false means that there are too many.
func (c *comparison) spend(n int) bool {
	if c.decisions+n > maxDecisions {
		return false
	}
	c.decisions += n
	return true
}

// closed tells of a scope that a broken file closes, or did, and reports that there is
// nothing more to tell of it.
func (c *comparison) closed(ws manifest.Workspace) bool {
	was, wasBroken := c.old.Broken(ws)
	is, isBroken := c.new.Broken(ws)
	if !wasBroken && !isBroken {
		return false
	}
	closure := Closure{Scope: ws.String(), Path: is, Problem: c.new.Problem(is), State: "closes"}
	path := is
	switch {
	case wasBroken && isBroken:
		closure.State = "closed"
	case wasBroken:
		closure.State, closure.Path, closure.Problem, path = "mended", was, c.old.Problem(was), was
	}
	// A file of the instance closes everything, which is told once.
	p := c.new
	if closure.State == "mended" {
		p = c.old
	}
	if instance, broken := p.Broken(manifest.Instance()); broken && instance == path {
		closure.Scope = manifest.Instance().String()
	}
	if !slices.Contains(c.diff.Closed, closure) {
		c.diff.Closed = append(c.diff.Closed, closure)
	}
	return isBroken
}

// spanning calls out whom grants of the instance reach that they did not before.
func (c *comparison) spanning() {
	before := c.old.Spanning()
	after := c.new.Spanning()
	for _, s := range slices.SortedFunc(maps.Keys(after), compareSubjects) {
		if _, known := before[s]; known {
			continue
		}
		if len(c.diff.Spanning) == maxListed {
			c.cut("more than %d subjects are new in grants of the instance", maxListed)
			return
		}
		c.diff.Spanning = append(c.diff.Spanning, Spanning{s.String(), after[s]})
	}
}

func compareSubjects(a, b manifest.Subject) int { return strings.Compare(a.String(), b.String()) }

// changes compares what two policies say of the secrets that are in both trees, once
// for all subjects of whom they say the same.
func (c *comparison) changes(ws manifest.Workspace, before, after map[manifest.Subject]access.Standing, names []manifest.Name) {
	differ := map[manifest.Subject][2]access.Standing{}
	for _, known := range []map[manifest.Subject]access.Standing{before, after} {
		for s := range known {
			if pair := [2]access.Standing{before[s], after[s]}; pair[0] != pair[1] {
				differ[s] = pair
			}
		}
	}
	lists := subjectsBy(differ)
	for i, list := range lists {
		if !c.spend(len(names)) {
			c.cut("%d groups of subjects of workspace %s were not compared", len(lists)-i, ws)
			return
		}
		rights := c.compare(ws, access.Identity{User: list[0]}, names)
		if len(rights) == 0 {
			continue
		}
		c.rights = append(c.rights, rights)
		for _, s := range list {
			c.subjects[s] = append(c.subjects[s], len(c.rights)-1)
		}
	}
}

// compare gives what changes for one subject, with names that change alike together.
func (c *comparison) compare(ws manifest.Workspace, id access.Identity, names []manifest.Name) []RightChange {
	found := map[string]*RightChange{}
	var order []string
	for _, name := range names {
		for _, change := range c.secret(ws, id, name) {
			key := rightsText([]RightChange{change})
			if found[key] == nil {
				found[key] = &change
				order = append(order, key)
			}
			r := found[key]
			r.Secrets = append(r.Secrets, name.String())
		}
	}
	var out []RightChange
	for _, key := range order {
		r := found[key]
		r.Workspace = ws.String()
		r.Every = len(r.Secrets) == len(names) && len(names) > 1
		if n := len(r.Secrets); n > maxListed {
			r.Secrets, r.More = r.Secrets[:maxListed], n-maxListed
		}
		out = append(out, *r)
	}
	// Gains come first: they are what a reviewer must not miss.
	rank := map[string]int{"gains": 0, "loses": 1}
	slices.SortStableFunc(out, func(a, b RightChange) int {
		ra, oka := rank[a.Change]
		rb, okb := rank[b.Change]
		if !oka {
			ra = 2
		}
		if !okb {
			rb = 2
		}
		return cmp.Or(cmp.Compare(ra, rb), strings.Compare(string(b.Verb), string(a.Verb)))
	})
	return out
}

// state is what a policy says about one key.
type state struct {
	allowed, denied bool // denied: a deny takes it away
	end             time.Time
}

func stateOf(a access.Access, rules []access.Rule, class keyClass) state {
	if class.decide(a).Allowed {
		end, _ := until(rules, class, false)
		return state{allowed: true, end: end}
	}
	if _, none := until(rules, class, false); none {
		return state{}
	}
	end, none := until(rules, class, true)
	return state{denied: !none, end: end}
}

// secret compares what two policies say of one secret to one subject.
func (c *comparison) secret(ws manifest.Workspace, id access.Identity, name manifest.Name) []RightChange {
	was, is := c.old.Policy.Read(id, ws, name, c.now), c.new.Policy.Read(id, ws, name, c.now)
	wasRules, isRules := was.Rules(), is.Rules()
	all := classes(wasRules, isRules)
	before, after := make([]state, len(all)), make([]state, len(all))
	for i, class := range all {
		before[i], after[i] = stateOf(was, wasRules, class), stateOf(is, isRules, class)
	}
	// pick makes the set of the classes for which f holds.
	pick := func(f func(b, a state) bool) (KeySet, []keyClass) {
		var in []keyClass
		set := keySet(all, func(class keyClass) bool {
			i := slices.Index(all, class)
			return f(before[i], after[i])
		})
		for i, class := range all {
			if f(before[i], after[i]) {
				in = append(in, class)
			}
		}
		return set, in
	}
	var out []RightChange
	gains, gained := pick(func(b, a state) bool { return a.allowed && !b.allowed })
	if !gains.empty() {
		out = append(out, RightChange{Change: "gains", Verb: Read, Keys: gains, Through: through(isRules, wasRules, gained)})
	}
	losses, lost := pick(func(b, a state) bool { return b.allowed && !a.allowed })
	if !losses.empty() {
		out = append(out, RightChange{Change: "loses", Verb: Read, Keys: losses, Through: through(wasRules, isRules, lost)})
	}
	for _, deny := range []bool{false, true} {
		var ends [][2]time.Time
		same := func(b, a state) bool {
			return (b.allowed && a.allowed && !deny || b.denied && a.denied && deny) && !b.end.Equal(a.end)
		}
		for i := range all {
			if pair := [2]time.Time{before[i].end, after[i].end}; same(before[i], after[i]) && !slices.Contains(ends, pair) {
				ends = append(ends, pair)
			}
		}
		for _, pair := range ends {
			keys, _ := pick(func(b, a state) bool { return same(b, a) && b.end.Equal(pair[0]) && a.end.Equal(pair[1]) })
			out = append(out, RightChange{Change: map[bool]string{false: "until", true: "denied-until"}[deny], Verb: Read, Keys: keys, Was: endOf(pair[0]), Is: endOf(pair[1])})
		}
	}
	// Reading implies that the name is seen: only what is beyond that is told.
	couldList, canList := c.old.Policy.List(id, ws, name, c.now).Allowed, c.new.Policy.List(id, ws, name, c.now).Allowed
	couldRead, canRead := was.Any().Allowed, is.Any().Allowed
	switch {
	case canList && !couldList && (!canRead || couldRead):
		out = append(out, RightChange{Change: "gains", Verb: List, Keys: KeySet{}, Through: throughList(c.new, c.old, id, ws, name, c.now)})
	case couldList && !canList && (!couldRead || canRead):
		out = append(out, RightChange{Change: "loses", Verb: List, Keys: KeySet{}, Through: throughList(c.old, c.new, id, ws, name, c.now)})
	}
	return out
}

// through are the allows among has that cover some of the classes, and the denies
// among other that do: with a gain those that are gone, with a loss those that came.
func through(has, other []access.Rule, in []keyClass) []Through {
	covers := func(r access.Rule) bool {
		return slices.ContainsFunc(in, func(c keyClass) bool { return c.coveredBy(r) })
	}
	var out []Through
	for _, r := range has {
		if !r.Deny && covers(r) {
			out = append(out, throughOf(r))
		}
	}
	for _, r := range other {
		if r.Deny && covers(r) {
			out = append(out, throughOf(r))
		}
	}
	return out
}

func throughOf(r access.Rule) Through {
	t := Through{Grant: r.Grant, Deny: r.Deny, Until: endOf(r.Expires)}
	if _, isRole := r.Subject.Role(); isRole {
		t.Role = r.Subject.String()
	}
	return t
}

func throughList(has, other *Policy, id access.Identity, ws manifest.Workspace, name manifest.Name, now time.Time) []Through {
	all := []keyClass{{other: true}}
	return through(has.Listing(id, ws, name, now).Rules(), other.Listing(id, ws, name, now).Rules(), all)
}

func endOf(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// readers tells who may read secrets that only one tree has, those with the same
// readers together.
func (c *comparison) readers(p *Policy, ws manifest.Workspace, standings map[manifest.Subject]access.Standing, names []manifest.Name) []SecretReaders {
	if len(names) == 0 {
		return nil
	}
	if path, broken := p.Broken(ws); broken {
		return []SecretReaders{limited(SecretReaders{Workspace: ws.String(), Secrets: stringsOf(names), Readers: []Reader{}, Broken: path})}
	}
	groups := subjectsBy(standings)
	type shared struct {
		names  []manifest.Name
		groups []int
		keys   []KeySet
	}
	found := map[string]*shared{}
	var order []string
	for i, name := range names {
		if !c.spend(len(groups)) {
			c.cut("who may read %d secrets of workspace %s that come or go was not asked", len(names)-i, ws)
			break
		}
		var s shared
		for g, list := range groups {
			may := p.Policy.Read(access.Identity{User: list[0]}, ws, name, c.now)
			all := classes(may.Rules())
			if keys := keySet(all, func(class keyClass) bool { return class.decide(may).Allowed }); !keys.empty() {
				s.groups, s.keys = append(s.groups, g), append(s.keys, keys)
			}
		}
		key := fmt.Sprint(s.groups, s.keys)
		if found[key] == nil {
			if len(order) == maxChanges {
				c.cut("who may read %d secrets of workspace %s that come or go is not listed", len(names)-i, ws)
				break
			}
			found[key] = &s
			order = append(order, key)
		}
		found[key].names = append(found[key].names, name)
	}
	var out []SecretReaders
	for _, key := range order {
		s := found[key]
		r := SecretReaders{Workspace: ws.String(), Secrets: stringsOf(s.names), Readers: []Reader{}}
		total := 0
		for i, g := range s.groups {
			total += len(groups[g])
			for _, subject := range groups[g][:min(len(groups[g]), maxListed)] {
				r.Readers = append(r.Readers, Reader{subject.String(), s.keys[i]})
			}
		}
		slices.SortFunc(r.Readers, func(a, b Reader) int { return strings.Compare(a.Subject, b.Subject) })
		r.Readers = r.Readers[:min(len(r.Readers), maxListed)]
		r.MoreReaders = total - len(r.Readers)
		out = append(out, limited(r))
	}
	return out
}

// subjectsBy puts subjects of one standing together, everything sorted.
func subjectsBy[S comparable](standings map[manifest.Subject]S) [][]manifest.Subject {
	groups := map[S][]manifest.Subject{}
	for s, standing := range standings {
		groups[standing] = append(groups[standing], s)
	}
	lists := slices.Collect(maps.Values(groups))
	for _, list := range lists {
		slices.SortFunc(list, compareSubjects)
	}
	slices.SortFunc(lists, func(a, b []manifest.Subject) int { return compareSubjects(a[0], b[0]) })
	return lists
}

func limited(r SecretReaders) SecretReaders {
	if n := len(r.Secrets); n > maxListed {
		r.Secrets, r.More = r.Secrets[:maxListed], n-maxListed
	}
	return r
}

func stringsOf[T fmt.Stringer](in []T) (out []string) {
	for _, s := range in {
		out = append(out, s.String())
	}
	return out
}

// unmatched lists patterns that are new and that no secret matches: a right that
// nobody sees in the lists above.
func (c *comparison) unmatched(ws manifest.Workspace, names []manifest.Name) {
	before := c.old.Reaches(ws)
	var found []Unmatched
	for reach := range c.new.Reaches(ws) {
		if before[reach] || !c.spend(len(names)) {
			continue
		}
		if !slices.ContainsFunc(names, reach.Pattern.Match) {
			found = append(found, Unmatched{ws.String(), reach.Grant, reach.Pattern.String()})
		}
	}
	slices.SortFunc(found, func(a, b Unmatched) int {
		return cmp.Or(strings.Compare(a.Grant, b.Grant), strings.Compare(a.Pattern, b.Pattern))
	})
	if n := len(found); n > maxListed {
		c.cut("%d new patterns of workspace %s that no secret has are not listed", n-maxListed, ws)
		found = found[:maxListed]
	}
	c.diff.Unmatched = append(c.diff.Unmatched, found...)
}

// group puts subjects together for whom the same changes in all workspaces.
func (c *comparison) group() {
	// Groups of one workspace may differ only in what makes no difference here.
	first, same := map[string]int{}, make([]int, len(c.rights))
	for i, rights := range c.rights {
		text := rightsText(rights)
		if _, seen := first[text]; !seen {
			first[text] = i
		}
		same[i] = first[text]
	}
	found := map[string][]manifest.Subject{}
	rights := map[string][]int{}
	for s, groups := range c.subjects {
		var of []int
		for _, g := range groups {
			of = append(of, same[g])
		}
		key := fmt.Sprint(of)
		found[key] = append(found[key], s)
		rights[key] = of
	}
	for key, subjects := range found {
		slices.SortFunc(subjects, compareSubjects)
		change := AccessChange{}
		for _, g := range rights[key] {
			change.Rights = append(change.Rights, c.rights[g]...)
		}
		if n := len(subjects); n > maxListed {
			subjects, change.More = subjects[:maxListed], n-maxListed
		}
		change.Subjects = stringsOf(subjects)
		c.diff.Changes = append(c.diff.Changes, change)
	}
	slices.SortFunc(c.diff.Changes, func(a, b AccessChange) int { return strings.Compare(a.Subjects[0], b.Subjects[0]) })
	if n := len(c.diff.Changes); n > maxChanges {
		c.cut("%d changes are not listed", n-maxChanges)
		c.diff.Changes = c.diff.Changes[:maxChanges]
	}
}

func rightsText(rights []RightChange) string {
	var b strings.Builder
	for _, r := range rights {
		fmt.Fprintln(&b, r.Change, r.Verb, r.Workspace, r.Every, r.Secrets, r.More, r.Keys, throughText(r.Through), endText(r.Was), endText(r.Is))
	}
	return b.String()
}

func throughText(list []Through) string {
	var b strings.Builder
	for _, t := range list {
		fmt.Fprintf(&b, "%q %s %v %s;", t.Grant, t.Role, t.Deny, endText(t.Until))
	}
	return b.String()
}

// endChange says how the end of a right moved.
func (r RightChange) endChange() string {
	word := "ends later"
	if r.Is != nil && (r.Was == nil || r.Is.Before(*r.Was)) {
		word = "ends sooner"
	}
	return fmt.Sprintf("%s: %s, was %s", word, endText(r.Is), endText(r.Was))
}

func endText(t *time.Time) string {
	if t == nil {
		return "never"
	}
	return t.Format(time.RFC3339)
}
