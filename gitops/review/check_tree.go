package review

import (
	"context"
	"strings"

	"github.com/sealward/sealward/unseal/access"
)

// badEntries finds what the folders of a commit hold and git's listing does not show: a
// name that stands twice, a slash in a name. The agent leaves such an entry out with all
// below it. With a base only folders that changed are read. The index and the work tree
// cannot hold them.
func (c *checker) badEntries(ctx context.Context) error {
	if c.tree.Commit == "" {
		return nil
	}
	if _, sha1 := hash(c.tree.Commit); !sha1 {
		return nil // no agent follows such a repository
	}
	want := func(string) bool { return true }
	known := map[string]bool{}
	if c.opts.Base != nil {
		folders, err := c.repo.clone.ChangedFolders(ctx, c.opts.Base.Commit, c.tree.Commit)
		if err != nil {
			return err
		}
		changed := map[string]bool{"": true}
		for _, f := range folders {
			if f, ok := strings.CutPrefix(f, c.repo.prefix); ok {
				changed[f] = true
			}
		}
		want = func(dir string) bool { return changed[dir] }
		before, err := c.opts.Base.walkCommit(ctx, belowRoots(want))
		if err != nil {
			return err
		}
		for _, e := range before {
			known[e.Path+"\x00"+e.bad] = e.bad != ""
		}
	}
	entries, err := c.tree.walkCommit(ctx, belowRoots(want))
	if err != nil {
		return err
	}
	for _, e := range entries {
		root, _, _ := strings.Cut(e.Path, "/")
		if e.bad == "" || known[e.Path+"\x00"+e.bad] || root != "workspaces" && root != "instance" || c.has(PathTwice, e.Path) {
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
	return nil
}

// belowRoots keeps want to where manifests can stand, and to the folders above.
func belowRoots(want func(dir string) bool) func(string) bool {
	return func(dir string) bool {
		root, _, _ := strings.Cut(dir, "/")
		return (root == "" || root == "workspaces" || root == "instance") && want(dir)
	}
}
