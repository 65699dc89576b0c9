package review

import (
	"context"
	"slices"
	"strings"

	"github.com/sealward/sealward/unseal/access"
)

// badEntries are what the folders of a commit hold below workspaces/ and instance/ and
// git's listing does not show: a name that stands twice, a slash in a name. The agent
// leaves such an entry out with all below it. Only folders that want accepts are read. The
// index and the work tree cannot hold them.
func (t *Tree) badEntries(ctx context.Context, want func(dir string) bool) ([]policyEntry, error) {
	if _, sha1 := hash(t.Commit); !sha1 { // no agent follows one that is not
		return nil, nil
	}
	below := func(path string) bool {
		root, _, _ := strings.Cut(path, "/")
		return root == "workspaces" || root == "instance"
	}
	entries, err := t.walkCommit(ctx, func(dir string) bool { return (dir == "" || below(dir)) && want(dir) })
	return slices.DeleteFunc(entries, func(e policyEntry) bool { return e.bad == "" || !below(e.Path) }), err
}

// badDifference are the bad entries that one of two commits has and the other has not,
// of folders that differ.
func (r *Repo) badDifference(ctx context.Context, from, to *Tree) (gone, come []policyEntry, err error) {
	if from.Commit == "" || to.Commit == "" {
		return nil, nil, nil
	}
	if to.foldersSince != from.Commit {
		if _, err := r.Changed(ctx, from, to); err != nil {
			return nil, nil, err
		}
	}
	changed := map[string]bool{"": true}
	for _, f := range to.folders {
		if f, ok := strings.CutPrefix(f, r.prefix); ok {
			changed[f] = true
		}
	}
	want := func(dir string) bool { return changed[dir] }
	before, err := from.badEntries(ctx, want)
	if err != nil {
		return nil, nil, err
	}
	after, err := to.badEntries(ctx, want)
	less := func(a, b []policyEntry) []policyEntry {
		return slices.DeleteFunc(slices.Clone(a), func(e policyEntry) bool {
			return slices.ContainsFunc(b, func(o policyEntry) bool { return o.Path == e.Path && o.bad == e.bad })
		})
	}
	return less(before, after), less(after, before), err
}

// entries checks the folders of a commit themselves.
func (c *checker) entries(ctx context.Context) (err error) {
	var bad []policyEntry
	if c.opts.Base != nil {
		_, bad, err = c.repo.badDifference(ctx, c.opts.Base, c.tree)
	} else {
		bad, err = c.tree.badEntries(ctx, func(string) bool { return true })
	}
	for _, e := range bad {
		if c.has(PathTwice, e.Path) {
			continue
		}
		id, effect := PlaceInvalid, "; the agent reads nothing there"
		if strings.Contains(e.bad, "twice") {
			id = PathTwice
		}
		if ws, closes := access.ClosedBy(e.Path); closes {
			effect = "; reads of " + closed(ws) + " are refused (policy-broken), because it may be a deny"
		}
		c.add(id, e.Path, 1, 0, "", e.bad+effect, "")
	}
	return err
}

// entries tells of bad entries that came; those that stand in a listing are told there.
func (d *differ) entries(ctx context.Context, r *Repo) error {
	_, come, err := r.badDifference(ctx, d.from, d.to)
	for _, e := range come {
		if below(e.Path, d.opts.Paths) && !slices.ContainsFunc(d.out.Files, func(f FileChange) bool { return f.Path == e.Path && f.Problem != "" }) {
			d.out.Files = append(d.out.Files, FileChange{Path: e.Path, Change: Changed, Problem: e.bad + "; the agent reads nothing there"})
		}
	}
	return err
}

// hidden are the paths at which only folders tell a change.
func (r *Repo) hidden(ctx context.Context, from, to *Tree) ([]Change, error) {
	gone, come, err := r.badDifference(ctx, from, to)
	var out []Change
	for _, e := range slices.Concat(gone, come) {
		out = append(out, Change{Path: e.Path})
	}
	return out, err
}
