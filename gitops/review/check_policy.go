package review

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sealward/sealward/gitops/gitcmd"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal/access"
)

// policyFiles are the grants and roles of some scopes.
type policyFiles struct {
	grants []*manifest.Manifest
	places map[*manifest.Manifest]manifest.Place
	// roles by scope and name; several files may define one.
	roles map[manifest.Workspace]map[manifest.Subject][]*manifest.Manifest
}

// policy checks the grants and roles of the scopes given. What it finds is returned,
// so that two trees can be compared.
func (c *checker) policy(ctx context.Context, t *Tree, scopes []manifest.Workspace) ([]Finding, error) {
	if len(scopes) == 0 {
		return nil, nil
	}
	// It writes to a checker of its own.
	sub := &checker{repo: c.repo, tree: t, opts: c.opts, about: c.about, rules: c.rules, hasSops: map[string]bool{}}
	files, err := sub.readPolicy(ctx, scopes)
	if err != nil {
		return nil, err
	}
	names, err := sub.secretNames(ctx, scopes, files)
	if err != nil {
		return nil, err
	}
	for _, m := range files.grants {
		sub.grant(m, files.places[m], files, names)
		if err := sub.grantKeys(ctx, m, files.places[m], names); err != nil {
			return nil, err
		}
	}
	for scope, roles := range files.roles {
		for role, ms := range roles {
			slices.SortFunc(ms, func(a, b *manifest.Manifest) int { return strings.Compare(a.File, b.File) })
			for _, m := range ms[1:] {
				line, column := m.At("name")
				sub.add(RoleTwice, m.File, line, column, "name", fmt.Sprintf("%s is defined in %s too: neither is trusted, and reads of %s are refused", role, ms[0].File, closed(scope)), "")
			}
			if instance := files.roles[manifest.Instance()][role]; !scope.IsInstance() && len(instance) > 0 {
				line, column := ms[0].At("name")
				sub.add(RoleHides, ms[0].File, line, column, "name", fmt.Sprintf("%s is a role of the instance (%s) too; in workspace %s this one takes its place", role, instance[0].File, scope), "")
			}
		}
	}
	c.mu.Lock()
	c.files += sub.files
	c.mu.Unlock()
	return sub.findings, nil
}

func closed(ws manifest.Workspace) string {
	if ws.IsInstance() {
		return "the whole instance"
	}
	return "workspace " + ws.String()
}

// readPolicy reads the grants and roles of scopes, and those of the instance, which
// a workspace's grants may name.
func (c *checker) readPolicy(ctx context.Context, scopes []manifest.Workspace) (*policyFiles, error) {
	wanted := map[manifest.Workspace]bool{}
	for _, ws := range scopes {
		wanted[ws] = true
	}
	folders := []string{manifest.Instance().Folder() + "/grants"}
	for ws := range wanted {
		if !ws.IsInstance() {
			folders = append(folders, ws.Folder()+"/grants")
		}
	}
	slices.Sort(folders)
	files, err := c.tree.Files(ctx, folders...)
	if err != nil {
		return nil, err
	}
	out := &policyFiles{places: map[*manifest.Manifest]manifest.Place{}, roles: map[manifest.Workspace]map[manifest.Subject][]*manifest.Manifest{}}
	err = inParallel(ctx, len(files), func(i int) error {
		f := files[i]
		place, ours, err := manifest.Locate(f.Path)
		if !ours || !place.Policy {
			return nil
		}
		of := c
		if !wanted[place.Scope] { // the instance's, read along
			of = &checker{repo: c.repo, tree: c.tree, opts: c.opts, about: c.about, hasSops: map[string]bool{}}
		}
		m, err := of.policyFile(ctx, f, place, err)
		if m == nil || err != nil {
			return err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		out.places[m] = place
		if m.Role != nil {
			if out.roles[place.Scope] == nil {
				out.roles[place.Scope] = map[manifest.Subject][]*manifest.Manifest{}
			}
			role := manifest.RoleSubject(m.Name)
			out.roles[place.Scope][role] = append(out.roles[place.Scope][role], m)
		} else if wanted[place.Scope] {
			out.grants = append(out.grants, m)
		}
		return nil
	})
	return out, err
}

// policyFile reads one grant or role; nil when it is broken, which is noted with
// what follows from it.
func (c *checker) policyFile(ctx context.Context, f File, place manifest.Place, misplaced error) (*manifest.Manifest, error) {
	c.looked(f.Path)
	if !f.Mode.IsFile() {
		c.mode(f)
		c.closes(f.Path, place, nil)
		return nil, nil
	}
	m, data, err := c.parse(ctx, f)
	if err != nil {
		return nil, err
	}
	if m != nil {
		if misplaced != nil {
			c.add(PlaceInvalid, f.Path, 1, 0, "", misplaced.Error(), "")
			m = nil
		} else if err := m.CheckPlace(place); err != nil {
			c.manifestError(f.Path, err)
			if m.CheckSealed() != nil {
				c.manifestError(f.Path, m.CheckSealed())
			}
			m = nil
		}
	}
	if m == nil {
		c.closes(f.Path, place, data)
	}
	return m, nil
}

// closes says in the findings about a broken policy file what it does to reads.
func (c *checker) closes(path string, place manifest.Place, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	effect := "; until it is mended, reads of " + closed(place.Scope) + " are refused (policy-broken), because it may be a deny"
	if data != nil { // judged as the agent judges it
		if f, _ := access.ReadFile(path, place, func() ([]byte, error) { return data, nil }); !f.Closes {
			effect = "; it grants nothing until it is mended"
		}
	}
	for i := range c.findings {
		if f := &c.findings[i]; f.Path == path && !strings.HasSuffix(f.Message, effect) && f.ID != ValueUnsealed {
			f.Message += effect
		}
	}
}

// secretNames lists the names of the secrets that grants may be about, by workspace.
func (c *checker) secretNames(ctx context.Context, scopes []manifest.Workspace, p *policyFiles) (map[manifest.Workspace][]manifest.Name, error) {
	about := map[manifest.Workspace]bool{}
	for _, ws := range scopes {
		about[ws] = true
	}
	for _, m := range p.grants {
		for _, ws := range m.Grant.Workspaces {
			about[ws] = true
		}
	}
	var folders []string
	for ws := range about {
		folders = append(folders, ws.Folder()+"/secrets")
	}
	slices.Sort(folders)
	files, err := c.tree.Files(ctx, folders...)
	if err != nil {
		return nil, err
	}
	seen := map[secretID]bool{}
	out := map[manifest.Workspace][]manifest.Name{}
	for _, f := range files {
		place, ours, err := manifest.Locate(f.Path)
		if id := (secretID{place.Scope, place.Name}); ours && err == nil && !seen[id] {
			seen[id] = true
			out[place.Scope] = append(out[place.Scope], place.Name)
		}
	}
	return out, nil
}

func (c *checker) grant(m *manifest.Manifest, place manifest.Place, p *policyFiles, names map[manifest.Workspace][]manifest.Name) {
	g := m.Grant
	if !g.Expires.IsZero() && !c.opts.Now.Before(g.Expires) {
		line, column := m.At("grant", "expires")
		what := "grants nothing any more"
		if g.Effect == manifest.Deny {
			what = "denies nothing any more"
		}
		c.add(GrantExpired, m.File, line, column, "grant.expires", "was over at "+g.Expires.UTC().Format(time.RFC3339)+": the grant "+what, "")
	}
	for i, s := range g.Subjects {
		if _, isRole := s.Role(); !isRole {
			continue
		}
		defined := p.roles[place.Scope][s]
		if len(defined) == 0 {
			defined = p.roles[manifest.Instance()][s]
		}
		members := 0
		for _, r := range defined {
			members += len(r.Role.Members)
		}
		field := fmt.Sprintf("grant.subjects[%d]", i)
		line, column := m.AtItem(i, "grant", "subjects")
		switch {
		case len(defined) == 0:
			where := "in instance/grants/"
			if !place.Scope.IsInstance() {
				where = "neither in " + place.Scope.Folder() + "/grants/ nor " + where
			} else {
				where = "not " + where
			}
			c.add(GrantNobody, m.File, line, column, field, fmt.Sprintf("%s is defined %s: only a token that asserts it has it", s, where), "define the role there, unless tokens assert it")
		case members == 0:
			c.add(GrantNobody, m.File, line, column, field, fmt.Sprintf("%s has no members (%s)", s, defined[0].File), "")
		}
	}
	about := targets(g, place)
	for i, pattern := range g.Secrets {
		matches := slices.ContainsFunc(about, func(ws manifest.Workspace) bool {
			return slices.ContainsFunc(names[ws], pattern.Match)
		})
		if !matches {
			line, column := m.AtItem(i, "grant", "secrets")
			c.add(GrantNothing, m.File, line, column, fmt.Sprintf("grant.secrets[%d]", i), fmt.Sprintf("%s matches no secret of %s", pattern, scopeList(about)), "")
		}
	}
}

// grantKeys looks for keys that no secret of the grant has. Only grants that name keys
// cost the reading of their secrets.
func (c *checker) grantKeys(ctx context.Context, m *manifest.Manifest, place manifest.Place, names map[manifest.Workspace][]manifest.Name) error {
	g := m.Grant
	if len(g.Keys) == 0 {
		return nil
	}
	missing := map[manifest.Key]bool{}
	for _, k := range g.Keys {
		missing[k] = true
	}
	secrets := 0
	for _, ws := range targets(g, place) {
		for _, name := range names[ws] {
			if len(g.Secrets) > 0 && !slices.ContainsFunc(g.Secrets, func(p manifest.Pattern) bool { return p.Match(name) }) {
				continue
			}
			secrets++
			keys, _, err := c.tree.keysOf(ctx, ws, name)
			if err != nil {
				return err
			}
			for _, k := range keys {
				delete(missing, k)
			}
			if len(missing) == 0 {
				return nil
			}
		}
	}
	for i, k := range g.Keys {
		if secrets > 0 && missing[k] { // without a secret, that was told
			line, column := m.AtItem(i, "grant", "keys")
			c.add(GrantNothing, m.File, line, column, fmt.Sprintf("grant.keys[%d]", i), fmt.Sprintf("no secret of the grant has a key %s", k), "")
		}
	}
	return nil
}

// targets are the workspaces that a grant is about.
func targets(g *manifest.Grant, place manifest.Place) []manifest.Workspace {
	if place.Scope.IsInstance() {
		return g.Workspaces
	}
	return []manifest.Workspace{place.Scope}
}

func scopeList(ws []manifest.Workspace) string {
	var names []string
	for i, w := range ws {
		if i == 3 && len(ws) > 4 {
			names = append(names, fmt.Sprintf("%d more", len(ws)-i))
			break
		}
		if w.IsInstance() {
			names = append(names, "the instance")
		} else {
			names = append(names, "workspace "+w.String())
		}
	}
	return strings.Join(names, ", ")
}

// policyDifference checks the scopes whose grants or roles changed, and leaves out
// what was there before and stands in a file that did not change.
func (c *checker) policyDifference(ctx context.Context, scopes []manifest.Workspace) error {
	if len(scopes) == 0 {
		return nil
	}
	// A role of the instance that is gone or new matters to every workspace.
	if slices.ContainsFunc(scopes, manifest.Workspace.IsInstance) {
		all, err := c.tree.Files(ctx, "workspaces")
		if err != nil {
			return err
		}
		seen := map[manifest.Workspace]bool{manifest.Instance(): true}
		for _, f := range all {
			if place, ours, _ := manifest.Locate(f.Path); ours && place.Policy {
				seen[place.Scope] = true
			}
		}
		for _, ws := range scopes {
			seen[ws] = true
		}
		scopes = slices.Collect(maps.Keys(seen))
	}
	now, err := c.policy(ctx, c.tree, scopes)
	if err != nil {
		return err
	}
	was, err := c.policy(ctx, c.opts.Base, scopes)
	if err != nil && !errors.Is(err, gitcmd.ErrNoObject) {
		return err
	}
	known := map[Finding]bool{}
	for _, f := range was {
		f.Line, f.Column = 0, 0
		known[f] = true
	}
	for _, f := range now {
		same := f
		same.Line, same.Column = 0, 0
		if _, changed := c.changed[f.Path]; changed || !known[same] {
			c.findings = append(c.findings, f)
		}
	}
	for path, ch := range c.changed {
		if place, ours, err := manifest.Locate(path); ours && err == nil && place.Policy && place.Scope.IsInstance() {
			if err := c.widens(ctx, ch); err != nil {
				return err
			}
		}
	}
	return nil
}

// widens compares a grant or role of the instance with what it was.
func (c *checker) widens(ctx context.Context, ch Change) error {
	read := func(t *Tree, f *File) (*manifest.Manifest, error) {
		if f == nil || !f.Mode.IsFile() {
			return nil, nil
		}
		data, err := t.Read(ctx, *f)
		if errors.Is(err, gitcmd.ErrTooLarge) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		m, err := manifest.Parse(ch.Path, data)
		if err != nil || m.Kind.IsSecret() {
			return nil, nil
		}
		return m, nil
	}
	old, err := read(c.opts.Base, ch.Old)
	if err != nil {
		return err
	}
	now, err := read(c.tree, ch.New)
	if err != nil {
		return err
	}
	for _, w := range widenings(old, now) {
		line, column := 1, 0
		if now != nil {
			line, column = now.At(strings.Split(w.field, ".")...)
		}
		c.add(GrantWidens, ch.Path, line, column, w.field, w.msg, "")
	}
	return nil
}

type widening struct{ field, msg string }

// widenings lists what a grant or role of the instance allows that it did not.
// Either may be nil: it was not there, or is not any more.
func widenings(old, now *manifest.Manifest) []widening {
	switch {
	case now == nil:
		if old != nil && old.Grant != nil && old.Grant.Effect == manifest.Deny {
			return []widening{{"grant", fmt.Sprintf("the deny of %s for %s is gone", old.Grant.UseCase, subjectList(old.Grant.Subjects))}}
		}
		return nil
	case now.Role != nil:
		var was []manifest.Subject
		if old != nil && old.Role != nil {
			was = old.Role.Members
		}
		if added := without(now.Role.Members, was); len(added) > 0 {
			return []widening{{"role.members", fmt.Sprintf("%s got the role roles:id:%s in every workspace", subjectList(added), now.Name)}}
		}
		return nil
	case now.Grant == nil:
		return nil
	}
	g := now.Grant
	if old == nil || old.Grant == nil || old.Grant.Effect != g.Effect || old.Grant.UseCase != g.UseCase {
		if g.Effect == manifest.Allow {
			return []widening{{"grant", fmt.Sprintf("allows %s in %s to %s", g.UseCase, scopeList(g.Workspaces), subjectList(g.Subjects))}}
		}
		if old != nil && old.Grant != nil && old.Grant.Effect == manifest.Deny {
			return []widening{{"grant.policy_use_case_id", fmt.Sprintf("denies %s, and no longer %s", g.UseCase, old.Grant.UseCase)}}
		}
		return nil
	}
	was := old.Grant
	var out []widening
	say := func(field, format string, args ...any) {
		out = append(out, widening{"grant." + field, fmt.Sprintf(format, args...)})
	}
	// What a deny loses, an allow gains.
	more, less, verb := g, was, "allows"
	if g.Effect == manifest.Deny {
		more, less, verb = was, g, "no longer denies"
	}
	if d := without(more.Subjects, less.Subjects); len(d) > 0 {
		say("subjects", "%s it to %s", verb, subjectList(d))
	}
	if d := without(more.Workspaces, less.Workspaces); len(d) > 0 {
		say("workspaces", "%s it in %s", verb, scopeList(d))
	}
	if d := without(more.Secrets, less.Secrets); len(less.Secrets) > 0 && (len(d) > 0 || len(more.Secrets) == 0) {
		say("secrets", "%s it for more secrets", verb)
	}
	if d := without(more.Keys, less.Keys); len(less.Keys) > 0 && (len(d) > 0 || len(more.Keys) == 0) {
		say("keys", "%s it for more keys", verb)
	}
	if longer := more.Expires.IsZero() && !less.Expires.IsZero() || !less.Expires.IsZero() && more.Expires.After(less.Expires); longer {
		say("expires", "%s it for longer", verb)
	}
	return out
}

func without[T comparable](a, b []T) []T {
	return slices.DeleteFunc(slices.Clone(a), func(x T) bool { return slices.Contains(b, x) })
}

func subjectList(ss []manifest.Subject) string {
	var names []string
	for i, s := range ss {
		if i == 5 && len(ss) > 6 {
			names = append(names, fmt.Sprintf("%d more", len(ss)-i))
			break
		}
		names = append(names, s.String())
	}
	return strings.Join(names, ", ")
}
