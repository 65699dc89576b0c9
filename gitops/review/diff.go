package review

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sealward/sealward/gitops/gitcmd"
	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/keyring"
)

// ChangeKind says how something differs.
type ChangeKind string

// The kinds. Resealed: it has another ciphertext and, as the ring could tell, the
// same value.
const (
	Added    ChangeKind = "added"
	Removed  ChangeKind = "removed"
	Changed  ChangeKind = "changed"
	Resealed ChangeKind = "resealed"
)

// Diff is what differs between two trees, without a value.
type Diff struct {
	From string `json:"from"` // as the trees are called
	To   string `json:"to"`
	// FromCommit and ToCommit are ids; ToCommit is empty for the index and the work tree.
	FromCommit string `json:"fromCommit"`
	ToCommit   string `json:"toCommit,omitempty"`

	Secrets []SecretChange `json:"secrets"`
	Policy  []PolicyChange `json:"policy"`
	Rules   []RuleChange   `json:"rules"`
	// Files are other files that differ, and those that cannot be read.
	Files []FileChange `json:"files"`
}

// SecretChange is one secret, whatever files it has.
type SecretChange struct {
	Workspace string      `json:"workspace"` // instance for an instance secret
	Name      string      `json:"name"`
	Change    ChangeKind  `json:"change"`
	Paths     []string    `json:"paths"` // of the files that differ
	Type      string      `json:"type"`  // as it is now, or was
	Keys      []KeyChange `json:"keys"`
	// Fields are metadata, with what they were and are.
	Fields []FieldChange `json:"fields,omitempty"`
	// RecipientsAdded and RecipientsRemoved are those of its files.
	RecipientsAdded   []string `json:"recipientsAdded,omitempty"`
	RecipientsRemoved []string `json:"recipientsRemoved,omitempty"`
	// Notes are what a reviewer should know besides.
	Notes []string `json:"notes,omitempty"`
}

// KeyChange is one key of a secret.
type KeyChange struct {
	Key    string     `json:"key"`
	Change ChangeKind `json:"change"`
}

// FieldChange is one field that is not sealed.
type FieldChange struct {
	Field string `json:"field"`
	Old   string `json:"old"`
	New   string `json:"new"`
}

// PolicyChange is one grant or role.
type PolicyChange struct {
	Path      string        `json:"path"`
	Kind      string        `json:"kind"` // grant or role
	Workspace string        `json:"workspace"`
	Name      string        `json:"name"`
	Change    ChangeKind    `json:"change"`
	Fields    []FieldChange `json:"fields,omitempty"`
}

// RuleChange is for whom a workspace is sealed, by .sops.yaml.
type RuleChange struct {
	Workspace string     `json:"workspace"`
	Change    ChangeKind `json:"change"`
	Added     []string   `json:"added,omitempty"`
	Removed   []string   `json:"removed,omitempty"`
}

// FileChange is any other file.
type FileChange struct {
	Path    string     `json:"path"`
	Change  ChangeKind `json:"change"`
	Problem string     `json:"problem,omitempty"` // why it cannot be read as a manifest
}

// DiffOptions of Diff.
type DiffOptions struct {
	// Paths limits the answer to files at and below them.
	Paths []string
	// Ring tells a value that was sealed anew from one that changed; nil, or
	// keyring.ErrNoRing, goes by ciphertext alone.
	Ring func(manifest.Workspace) (*keyring.Ring, error)
}

// Empty reports that nothing differs.
func (d *Diff) Empty() bool {
	return len(d.Secrets) == 0 && len(d.Policy) == 0 && len(d.Rules) == 0 && len(d.Files) == 0
}

// Diff tells what differs between two trees, the older of which is a commit. Its
// cost follows the change.
func (r *Repo) Diff(ctx context.Context, from, to *Tree, opts DiffOptions) (*Diff, error) {
	changes, err := r.Changed(ctx, from, to, append(roots(), workspace.RulesFile, workspace.SettingsFile)...)
	if err != nil {
		return nil, err
	}
	d := &differ{from: from, to: to, opts: opts, secrets: map[secretID][]Change{}}
	d.out = &Diff{From: from.Name, To: to.Name, FromCommit: from.Commit, ToCommit: to.Commit, Secrets: []SecretChange{}, Policy: []PolicyChange{}, Rules: []RuleChange{}, Files: []FileChange{}}
	for _, ch := range changes {
		if !below(ch.Path, opts.Paths) {
			continue
		}
		place, ours, err := manifest.Locate(ch.Path)
		switch {
		case ch.Path == workspace.RulesFile:
			err = d.rules(ctx)
		case ch.Path == workspace.SettingsFile:
			d.file(ch, "")
			err = nil
		case !ours:
			err = nil
		case ch.New != nil && !ch.New.Mode.IsFile():
			d.file(ch, "is a symbolic link or submodule")
			err = nil
		case place.Policy:
			err = d.policy(ctx, ch, place, err)
		case err != nil:
			d.file(ch, err.Error())
			err = nil
		default:
			id := secretID{place.Scope, place.Name}
			d.secrets[id] = append(d.secrets[id], ch)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := d.existing(ctx); err != nil {
		return nil, err
	}
	ids := slices.SortedFunc(maps.Keys(d.secrets), func(a, b secretID) int {
		return strings.Compare(a.ws.String()+"/"+a.name.String(), b.ws.String()+"/"+b.name.String())
	})
	found := make([]*SecretChange, len(ids))
	files := make([][]FileChange, len(ids))
	err = inParallel(ctx, len(ids), func(i int) (err error) {
		found[i], files[i], err = d.secret(ctx, ids[i], d.secrets[ids[i]])
		return err
	})
	if err != nil {
		return nil, err
	}
	for i := range ids {
		if found[i] != nil {
			d.out.Secrets = append(d.out.Secrets, *found[i])
		}
		d.out.Files = append(d.out.Files, files[i]...)
	}
	return d.out, d.entries(ctx, r)
}

// differ is one diff under way.
type differ struct {
	from, to *Tree
	opts     DiffOptions
	secrets  map[secretID][]Change
	// had and has say which secrets have files in the older and the newer tree.
	had, has map[secretID]bool
	out      *Diff
}

func kindOf(old, new bool) ChangeKind {
	switch {
	case !old:
		return Added
	case !new:
		return Removed
	}
	return Changed
}

func (d *differ) file(ch Change, problem string) {
	if ch.New == nil {
		problem = "" // it is gone
	}
	d.out.Files = append(d.out.Files, FileChange{Path: ch.Path, Change: kindOf(ch.Old != nil, ch.New != nil), Problem: problem})
}

// existing finds out which of the touched secrets there were and are.
func (d *differ) existing(ctx context.Context) error {
	var places []string
	for id := range d.secrets {
		folder := strings.TrimSuffix(manifest.SecretPath(id.ws, id.name), ".yaml")
		places = append(places, folder, folder+".yaml", folder+".json")
	}
	slices.Sort(places)
	for _, side := range []struct {
		tree *Tree
		set  *map[secretID]bool
	}{{d.from, &d.had}, {d.to, &d.has}} {
		*side.set = map[secretID]bool{}
		if len(places) == 0 {
			continue
		}
		files, err := side.tree.filesAt(ctx, places...)
		if err != nil {
			return err
		}
		for _, f := range files {
			if place, ours, err := manifest.Locate(f.Path); ours && err == nil {
				(*side.set)[secretID{place.Scope, place.Name}] = true
			}
		}
	}
	return nil
}

// version is one sealed file as one tree has it.
type version struct {
	m       *manifest.Manifest
	section *seal.Section
}

// read parses one side of a changed file; problem says why it cannot be.
func (d *differ) read(ctx context.Context, t *Tree, f *File, id secretID) (v *version, problem string, err error) {
	if f == nil {
		return nil, "", nil
	}
	if !f.Mode.IsFile() {
		return nil, "is a symbolic link or submodule", nil
	}
	data, err := t.Read(ctx, *f)
	switch {
	case errors.Is(err, gitcmd.ErrTooLarge):
		return nil, reason(f.Path, err), nil
	case err != nil:
		return nil, "", err
	}
	m, err := manifest.Parse(f.Path, data)
	var errs manifest.Errors
	switch {
	case errors.As(err, &errs) && errs.Leaked():
		return nil, "holds a value in the clear: treat it as leaked", nil
	case err != nil:
		return nil, firstOf(f.Path, err), nil
	case !m.Kind.IsSecret():
		return nil, "is a " + string(m.Kind), nil
	case m.CheckSealed() != nil:
		return nil, "is NOT SEALED: treat its values as leaked", nil
	}
	if err := m.SettleIn(id.ws); err != nil {
		return nil, reason(f.Path, err), nil
	}
	section, err := seal.Inspect(m)
	if err != nil {
		return nil, "its sops section cannot be read", nil
	}
	return &version{m, section}, "", nil
}

// firstOf says the first thing that is wrong with a file.
func firstOf(path string, err error) string {
	var errs manifest.Errors
	if errors.As(err, &errs) && len(errs) > 0 && errs[0].Line > 0 {
		return fmt.Sprintf("line %d: %s", errs[0].Line, reason(fmt.Sprintf("%s:%d:%d", errs[0].File, errs[0].Line, errs[0].Column), errs[0]))
	}
	line, _, _ := strings.Cut(reason(path, err), "\n")
	return line
}

// secret compares the files of one secret that differ.
func (d *differ) secret(ctx context.Context, id secretID, changes []Change) (*SecretChange, []FileChange, error) {
	c := &SecretChange{Workspace: id.ws.String(), Name: id.name.String(), Change: kindOf(d.had[id], d.has[id]), Keys: []KeyChange{}}
	var broken []FileChange
	var old, now []*version
	for _, ch := range changes {
		c.Paths = append(c.Paths, ch.Path)
		a, _, err := d.read(ctx, d.from, ch.Old, id)
		if err != nil {
			return nil, nil, err
		}
		b, problem, err := d.read(ctx, d.to, ch.New, id)
		if err != nil {
			return nil, nil, err
		}
		if problem != "" { // what it held before says nothing
			broken = append(broken, FileChange{Path: ch.Path, Change: kindOf(ch.Old != nil, true), Problem: problem})
			continue
		}
		if a != nil {
			old = append(old, a)
		}
		if b != nil {
			now = append(now, b)
		}
	}
	if len(old) == 0 && len(now) == 0 {
		return nil, broken, nil
	}
	d.keys(c, id, old, now)
	d.metadata(c, old, now)
	if err := d.newParts(ctx, c, id, old, now); err != nil {
		return nil, nil, err
	}
	slices.Sort(c.Paths)
	if c.Change == Changed && onlyResealed(c) {
		c.Change = Resealed
	}
	return c, broken, nil
}

func onlyResealed(c *SecretChange) bool {
	other := slices.ContainsFunc(c.Keys, func(k KeyChange) bool { return k.Change != Resealed })
	return !other && len(c.Keys) > 0 && len(c.Fields) == 0
}

// entry is one sealed value.
type entry struct {
	v     *version
	entry manifest.Entry
}

func entries(versions []*version) map[string]entry {
	out := map[string]entry{}
	for _, v := range versions {
		for _, e := range v.m.Secret.Entries {
			out[e.Key.String()] = entry{v, e}
		}
	}
	return out
}

func (d *differ) keys(c *SecretChange, id secretID, old, now []*version) {
	before, after := entries(old), entries(now)
	opened := map[*version]map[string][]byte{}
	closed := 0
	for _, key := range slices.Sorted(maps.Keys(after)) {
		was, existed := before[key]
		switch {
		case !existed:
			c.Keys = append(c.Keys, KeyChange{key, Added})
		case was.entry.Text != after[key].entry.Text:
			kind := Changed
			x, y := d.open(opened, was.v, id), d.open(opened, after[key].v, id)
			if x != nil && y != nil {
				if bytes.Equal(x[key], y[key]) {
					kind = Resealed
				}
			} else {
				closed++
			}
			c.Keys = append(c.Keys, KeyChange{key, kind})
		}
	}
	for _, key := range slices.Sorted(maps.Keys(before)) {
		if _, still := after[key]; !still {
			c.Keys = append(c.Keys, KeyChange{key, Removed})
		}
	}
	slices.SortStableFunc(c.Keys, func(a, b KeyChange) int { return strings.Compare(a.Key, b.Key) })
	if closed > 1 && !d.shares(before, after) {
		c.Notes = append(c.Notes, noteAnew)
	}
}

const noteAnew = "every value was sealed anew, with a fresh data key: without a private key nobody can tell which of them changed"

// shares reports that some value kept its ciphertext.
func (d *differ) shares(before, after map[string]entry) bool {
	for key, e := range after {
		if was, ok := before[key]; ok && was.entry.Text == e.entry.Text && e.entry.Text != "" {
			return true
		}
	}
	return false
}

// open unseals one version once; nil where the ring cannot.
func (d *differ) open(opened map[*version]map[string][]byte, v *version, id secretID) map[string][]byte {
	if values, known := opened[v]; known {
		return values
	}
	opened[v] = nil
	if d.opts.Ring == nil {
		return nil
	}
	ring, err := d.opts.Ring(id.ws)
	if err != nil {
		return nil
	}
	o, err := unseal.Open(v.m, ring, unseal.Options{AllowUnbound: true})
	if err != nil {
		return nil
	}
	values := map[string][]byte{}
	for _, value := range o.Values {
		values[value.Key.String()] = value.Data
	}
	opened[v] = values
	return values
}

// metadata compares what is not sealed.
func (d *differ) metadata(c *SecretChange, old, now []*version) {
	type pair struct{ a, b *version }
	var pairs []pair
	for _, b := range now {
		for _, a := range old {
			if a.m.File == b.m.File {
				pairs = append(pairs, pair{a, b})
			}
		}
	}
	if len(pairs) == 0 && len(old) > 0 && len(now) > 0 { // from one file to parts, or back
		pairs = append(pairs, pair{old[0], now[0]})
		if a, b := layoutOf(old[0]), layoutOf(now[0]); a != b {
			c.Notes = append(c.Notes, "is kept in "+b+" now, and was in "+a)
		}
	}
	newest := old
	if len(now) > 0 {
		newest = now
	}
	c.Type = string(newest[0].m.Secret.Type)
	switch c.Change {
	case Added:
		c.RecipientsAdded = recipientsOf(now)
		return
	case Removed:
		return
	}
	for _, p := range pairs {
		x, y := headerOf(p.a.m), headerOf(p.b.m)
		for i := range x {
			if x[i].New != y[i].New {
				f := FieldChange{x[i].Field, x[i].New, y[i].New}
				if !slices.Contains(c.Fields, f) {
					c.Fields = append(c.Fields, f)
				}
			}
		}
		ra, rb := recipientsOf([]*version{p.a}), recipientsOf([]*version{p.b})
		c.RecipientsAdded = union(c.RecipientsAdded, without(rb, ra))
		c.RecipientsRemoved = union(c.RecipientsRemoved, without(ra, rb))
		note := func(format string, args ...any) {
			if text := fmt.Sprintf(format, args...); !slices.Contains(c.Notes, text) {
				c.Notes = append(c.Notes, text)
			}
		}
		if len(p.a.section.Groups) != len(p.b.section.Groups) || p.a.section.Threshold != p.b.section.Threshold {
			note("has %s now, and had %s", groups(len(p.b.section.Groups), p.b.section.Threshold), groups(len(p.a.section.Groups), p.a.section.Threshold))
		} else if len(p.a.section.Groups) > 1 && !sameGroups(p.a.section.Groups, p.b.section.Groups) {
			note("who opens it together with whom changed: its recipients stand in other key groups")
		}
		if p.a.m.Secret.Binding != "" && p.b.m.Secret.Binding == "" {
			note("lost its binding: it will be refused")
		}
		if p.b.m.Secret.Binding != "" && p.a.m.Secret.Binding == p.b.m.Secret.Binding {
			if field, same := sameBound(p.a.m, p.b.m); !same {
				note("%s was edited without sealward: it will not open", field)
			}
		}
		if p.b.section.LastModified.Before(p.a.section.LastModified) {
			note("an older version came back: sealed on %s, and the one it replaces on %s", day(p.b.section.LastModified), day(p.a.section.LastModified))
		}
		if ra, rb := without(ra, rb), sharesCiphertext(p.a.m, p.b.m); len(ra) > 0 && rb {
			note("the data key stayed: who was removed can read what is set from now on")
		}
	}
}

// newParts tells what files that came say and the others of the secret do not: a part has
// recipients of its own.
func (d *differ) newParts(ctx context.Context, c *SecretChange, id secretID, old, now []*version) error {
	came := slices.DeleteFunc(slices.Clone(now), func(v *version) bool {
		return slices.ContainsFunc(old, func(o *version) bool { return o.m.File == v.m.File })
	})
	for _, v := range came {
		if text := "has a file without a binding: it will be refused where one is required"; v.m.Secret.Binding == "" && !slices.Contains(c.Notes, text) {
			c.Notes = append(c.Notes, text)
		}
	}
	if len(came) == 0 || c.Change == Added {
		return nil
	}
	folder := strings.TrimSuffix(manifest.SecretPath(id.ws, id.name), ".yaml")
	files, err := d.from.filesAt(ctx, folder, folder+".yaml", folder+".json")
	if err != nil {
		return err
	}
	var before []*version
	for _, f := range files {
		v, _, err := d.read(ctx, d.from, &f, id)
		if err != nil {
			return err
		}
		if v != nil {
			before = append(before, v)
		}
	}
	c.RecipientsAdded = union(c.RecipientsAdded, without(recipientsOf(came), recipientsOf(before)))
	return nil
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04") }

func layoutOf(v *version) string {
	if place, _, err := manifest.Locate(v.m.File); err == nil && place.Part != "" {
		return "parts"
	}
	return "one file"
}

func recipientsOf(versions []*version) []string {
	var out []string
	for _, v := range versions {
		for _, g := range v.section.Groups {
			out = union(out, g)
		}
	}
	slices.Sort(out)
	return out
}

func union(a, b []string) []string {
	for _, s := range b {
		if !slices.Contains(a, s) {
			a = append(a, s)
		}
	}
	return a
}

// headerOf lists the fields of a secret that anybody may read, in a steady order.
func headerOf(m *manifest.Manifest) []FieldChange {
	out := []FieldChange{
		{Field: "version", New: m.Version}, {Field: "layer", New: m.Layer}, {Field: "tags", New: strings.Join(m.Tags, ", ")},
		{Field: "description", New: m.Description}, {Field: "owner", New: m.Owner},
		{Field: "type", New: string(m.Secret.Type)}, {Field: "acl", New: string(m.Secret.ACL)}, {Field: "form", New: m.FormKind()},
	}
	k := m.Secret.Kubernetes
	if k == nil {
		k = &manifest.KubernetesSecret{}
	}
	immutable := ""
	if k.Immutable != nil {
		immutable = fmt.Sprint(*k.Immutable)
	}
	return append(out, FieldChange{Field: "Kubernetes type", New: k.Type}, FieldChange{Field: "immutable", New: immutable},
		FieldChange{Field: "labels", New: pairsText(k.Labels)}, FieldChange{Field: "annotations", New: pairsText(k.Annotations)})
}

func pairsText(ps []manifest.Pair) string {
	var out []string
	for _, p := range ps {
		out = append(out, p.Key+"="+p.Value)
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// policy compares one grant or role.
func (d *differ) policy(ctx context.Context, ch Change, place manifest.Place, misplaced error) error {
	read := func(t *Tree, f *File) (*manifest.Manifest, string, error) {
		if f == nil {
			return nil, "", nil
		}
		if !f.Mode.IsFile() {
			return nil, "is a symbolic link or submodule", nil
		}
		data, err := t.Read(ctx, *f)
		if errors.Is(err, gitcmd.ErrTooLarge) {
			return nil, reason(f.Path, err), nil
		}
		if err != nil {
			return nil, "", err
		}
		m, err := manifest.Parse(f.Path, data)
		if err == nil && misplaced != nil {
			err = misplaced
		} else if err == nil {
			err = m.CheckPlace(place)
		}
		if err != nil {
			return nil, firstOf(f.Path, err), nil
		}
		return m, "", nil
	}
	old, _, err := read(d.from, ch.Old)
	if err != nil {
		return err
	}
	now, problem, err := read(d.to, ch.New)
	if err != nil {
		return err
	}
	if problem != "" {
		d.file(ch, problem)
	}
	m := now
	if m == nil {
		m = old
	}
	if m == nil || now == nil && ch.New != nil {
		if problem == "" {
			d.file(ch, "")
		}
		return nil
	}
	p := PolicyChange{Path: ch.Path, Kind: string(m.Kind), Workspace: place.Scope.String(), Name: m.Name.String(), Change: kindOf(ch.Old != nil, ch.New != nil)}
	x, y := policyFields(old), policyFields(now)
	for i := range x {
		if x[i].New != y[i].New {
			p.Fields = append(p.Fields, FieldChange{x[i].Field, x[i].New, y[i].New})
		}
	}
	d.out.Policy = append(d.out.Policy, p)
	return nil
}

// policyFields lists the fields of a grant or role; nil has none.
func policyFields(m *manifest.Manifest) []FieldChange {
	g, members, description := &manifest.Grant{}, "", ""
	if m != nil {
		description = m.Description
		if m.Grant != nil {
			g = m.Grant
		}
		if m.Role != nil {
			members = texts(m.Role.Members)
		}
	}
	expires := ""
	if !g.Expires.IsZero() {
		expires = g.Expires.UTC().Format(time.RFC3339)
	}
	return []FieldChange{
		{Field: "effect", New: string(g.Effect)}, {Field: "use case", New: string(g.UseCase)}, {Field: "subjects", New: texts(g.Subjects)},
		{Field: "secrets", New: texts(g.Secrets)}, {Field: "keys", New: texts(g.Keys)}, {Field: "workspaces", New: texts(g.Workspaces)},
		{Field: "expires", New: expires}, {Field: "members", New: members}, {Field: "requester", New: g.Requester}, {Field: "notes", New: g.Notes}, {Field: "description", New: description},
	}
}

func texts[T fmt.Stringer](items []T) string {
	var out []string
	for _, i := range items {
		out = append(out, i.String())
	}
	return strings.Join(out, ", ")
}

// rules compares for whom each workspace is sealed.
func (d *differ) rules(ctx context.Context) error {
	was, err := d.from.Rules(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		was = &workspace.Rules{}
	}
	now, err := d.to.Rules(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		d.out.Files = append(d.out.Files, FileChange{Path: workspace.RulesFile, Change: Changed, Problem: firstOf(workspace.RulesFile, err)})
		return nil
	}
	before, after := was.Workspaces(), now.Workspaces()
	all := slices.Clone(after)
	for _, ws := range before {
		if !slices.Contains(all, ws) {
			all = append(all, ws)
		}
	}
	names := func(rs *workspace.Rules, ws manifest.Workspace, has bool) (names []string, to workspace.Recipients) {
		if !has {
			return nil, to
		}
		to, err := rs.WorkspaceRecipients(ws)
		if err != nil {
			return nil, to
		}
		for _, r := range to.All() {
			names = append(names, r.String())
		}
		return names, to
	}
	for _, ws := range all {
		had, has := slices.Contains(before, ws), slices.Contains(after, ws)
		a, ga := names(was, ws, had)
		b, gb := names(now, ws, has)
		c := RuleChange{Workspace: ws.String(), Change: kindOf(had, has), Added: without(b, a), Removed: without(a, b)}
		if len(c.Added) > 0 || len(c.Removed) > 0 || had != has || !ga.Equal(gb) {
			d.out.Rules = append(d.out.Rules, c)
		}
	}
	if len(d.out.Rules) == 0 {
		d.out.Files = append(d.out.Files, FileChange{Path: workspace.RulesFile, Change: Changed})
	}
	return nil
}
