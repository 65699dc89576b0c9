package propose

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/sealward/sealward/gitops/gitcmd"
	"github.com/sealward/sealward/gitops/review"
	"github.com/sealward/sealward/seal/workspace"
)

// commit makes the commit without a word yet: objects that no branch has. The index is
// one of its own.
func (w *work) commit(ctx context.Context) error {
	if err := w.writeBlobs(ctx); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "sealward-propose-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	index := []string{"GIT_INDEX_FILE=" + filepath.Join(dir, "index")}
	if _, err := w.clone.RunWith(ctx, gitcmd.RunOptions{Env: index}, "read-tree", w.out.Parent); err != nil {
		return err
	}
	if _, err := w.clone.RunWith(ctx, gitcmd.RunOptions{Env: index, In: w.indexInfo()}, "update-index", "-z", "--index-info"); err != nil {
		return err
	}
	out, err := w.clone.RunWith(ctx, gitcmd.RunOptions{Env: index}, "write-tree")
	if err != nil {
		return err
	}
	tree := strings.TrimSpace(string(out))
	differ, err := w.clone.Diff(ctx, w.out.Parent, tree)
	if err != nil {
		return err
	}
	if len(differ) == 0 {
		return ErrNothing
	}
	for _, d := range differ {
		w.out.Files = append(w.out.Files, d.Path)
		kind := review.Changed
		switch {
		case d.Old == nil:
			kind = review.Added
		case d.New == nil:
			kind = review.Removed
		}
		rel, inside := strings.CutPrefix(d.Path, w.repo.Prefix())
		if _, ours, _ := w.locate(d.Path); !ours && !(inside && (rel == workspace.RulesFile || rel == workspace.SettingsFile)) {
			w.others = append(w.others, review.FileChange{Path: d.Path, Change: kind})
		}
	}
	out, err = w.clone.RunWith(ctx, gitcmd.RunOptions{In: strings.NewReader("draft\n")}, "commit-tree", tree, "-p", w.out.Parent, "-F", "-")
	if err != nil {
		return fmt.Errorf("the commit could not be made: %w; git config user.name and user.email say who you are", err)
	}
	w.out.Commit = strings.TrimSpace(string(out))
	return nil
}

// writeBlobs makes objects of what is committed, through the filters that git add
// would use.
func (w *work) writeBlobs(ctx context.Context) error {
	var wg sync.WaitGroup
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	errs := make([]error, len(w.changes))
	for i := range w.changes {
		c := &w.changes[i]
		if c.data == nil {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			out, err := w.clone.RunWith(ctx, gitcmd.RunOptions{In: bytes.NewReader(c.data)}, "hash-object", "-w", "--stdin", "--path="+c.path)
			c.blob, errs[i] = strings.TrimSpace(string(out)), err
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// indexInfo is the change for git update-index, what goes first: a file may stand where
// a folder was.
func (w *work) indexInfo() *bytes.Buffer {
	var out bytes.Buffer
	for _, gone := range []bool{true, false} {
		for _, c := range w.changes {
			switch {
			case gone && c.data == nil:
				fmt.Fprintf(&out, "0 %s\t%s\x00", strings.Repeat("0", len(w.out.Parent)), c.path)
			case !gone && c.data != nil:
				fmt.Fprintf(&out, "%s %s\t%s\x00", c.mode, c.blob, c.path)
			}
		}
	}
	return &out
}

// writeFile replaces a file of the work tree whole; what became a link meanwhile is
// left alone.
func writeFile(file string, data []byte) error {
	if info, err := os.Lstat(file); err != nil || !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no plain file any more", file)
	}
	return workspace.WriteFile(file, data, 0o666)
}

// Differing lists what differs between HEAD and the work tree: secrets as
// WORKSPACE/NAME, other files by their paths from the top of the clone.
func Differing(ctx context.Context, repo *review.Repo) ([]string, error) {
	clone, err := repo.Clone()
	if err != nil {
		return nil, err
	}
	head, err := clone.Resolve(ctx, "HEAD")
	if err != nil {
		return nil, errNoCommit
	}
	changes, err := clone.DiffWorkTree(ctx, head)
	if err != nil {
		return nil, err
	}
	w := &work{repo: repo}
	var out []string
	for _, c := range changes {
		name := c.Path
		if place, ours, err := w.locate(name); ours && err == nil && !place.Policy {
			name = place.Scope.String() + "/" + place.Name.String()
		}
		out = append(out, name)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}
