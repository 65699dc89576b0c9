package review

import (
	"context"
	"fmt"
	"strings"

	"github.com/sealward/sealward/gitops/gitcmd"
)

// Default is the tree of a commit, or without one the work tree, or where there are no
// files on disk HEAD.
func (r *Repo) Default(ctx context.Context, rev string) (*Tree, error) {
	switch {
	case rev != "":
		return r.At(ctx, rev)
	case r.local != nil:
		return r.WorkTree()
	}
	return r.At(ctx, "HEAD")
}

// Range opens the two trees of A..B, where HEAD is meant by a side that is left out; of
// A...B, which starts from what the two have in common; and of A alone, which is
// compared with the work tree, or with HEAD where there is none.
func (r *Repo) Range(ctx context.Context, revs string) (from, to *Tree, err error) {
	a, b, isRange := strings.Cut(revs, "..")
	b, fork := strings.CutPrefix(b, ".")
	if strings.Contains(b, "..") || strings.HasPrefix(b, ".") {
		return nil, nil, fmt.Errorf("%w: %.80q is not A..B or A...B", gitcmd.ErrNoRevision, revs)
	}
	if isRange && a == "" {
		a = "HEAD"
	}
	if isRange && b == "" {
		b = "HEAD"
	}
	if from, err = r.At(ctx, a); err != nil {
		return nil, nil, err
	}
	if to, err = r.Default(ctx, b); err != nil || !fork {
		return from, to, err
	}
	clone, err := r.Clone()
	if err != nil {
		return nil, nil, err
	}
	base, err := clone.MergeBase(ctx, from.Commit, to.Commit)
	if err != nil {
		return nil, nil, err
	}
	from, err = r.At(ctx, base)
	return from, to, err
}
