package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sealward/sealward/gitops/review"
)

type diffOptions struct {
	revisions string
	paths     []string
	staged    bool
	format    string
	noKeys    bool
}

func (a *app) diffCmd() *cobra.Command {
	var opts diffOptions
	c := &cobra.Command{
		Use:   "diff [A[..B|...B]] [-- PATH...]",
		Short: "Tell which secrets, keys, recipients and grants changed, without a value",
		Long: `Tell what changed between two revisions, without showing any value: secrets and
their keys, types, recipients, grants and roles. A key counts as changed when its
ciphertext is; where the keyring has a key of the workspace, a value that was only
sealed anew is told apart.

A alone (HEAD without any) is compared with the work tree; A..B are two revisions,
and A...B is what B changed since it left A, as a pull request shows it.`,
		Example: `  sealward diff
  sealward diff main...HEAD -o markdown
  sealward diff v1.3..v1.4 -- workspaces/orders`,
		ValidArgsFunction: a.completeRevisions,
		RunE: func(c *cobra.Command, args []string) error {
			if n := c.ArgsLenAtDash(); n >= 0 {
				args, opts.paths = args[:n], args[n:]
			}
			if len(args) > 1 {
				return usagef("one argument names the revisions, A..B; paths follow after --")
			}
			opts.revisions = "HEAD"
			if len(args) == 1 {
				opts.revisions = args[0]
			}
			return a.diff(c.Context(), opts)
		},
	}
	c.Flags().BoolVar(&opts.staged, "staged", false, "compare with what git commit would commit instead of the work tree")
	c.Flags().BoolVar(&opts.noKeys, "no-keys", false, "open nothing, even if the keyring could")
	outputFlag(c, &opts.format, "text", "markdown", "json", "yaml")
	return c
}

func (a *app) diff(ctx context.Context, opts diffOptions) error {
	repo, err := a.reviewed(ctx)
	if err != nil {
		return err
	}
	from, to, err := a.treesOf(ctx, repo, opts.revisions, opts.staged)
	if err != nil {
		return err
	}
	defer from.Close()
	defer to.Close()
	ask := review.DiffOptions{}
	if !opts.noKeys {
		ask.Ring = a.optionalRings()
	}
	if err := a.isSealed(ctx, repo, from, to); err != nil {
		return err
	}
	if ask.Paths, err = a.pathsIn(ctx, repo, opts.paths, from, to); err != nil {
		return err
	}
	d, err := repo.Diff(ctx, from, to, ask)
	if err != nil {
		return err
	}
	switch opts.format {
	case "json", "yaml":
		return printAs(a.Out, opts.format, d)
	case "markdown":
		return d.WriteMarkdown(a.Out)
	}
	if d.Empty() {
		fmt.Fprintf(a.Err, "no secret, grant or recipient differs between %s and %s\n", clean(from.Name), clean(to.Name))
	}
	return d.WriteText(a.Out)
}

// treesOf reads A, A..B and A...B as git does. A alone is compared with the work
// tree, or the index.
func (a *app) treesOf(ctx context.Context, repo *review.Repo, revisions string, staged bool) (from, to *review.Tree, err error) {
	left, right, three := strings.Cut(revisions, "...")
	two := false
	if !three {
		left, right, two = strings.Cut(revisions, "..")
	}
	if (two || three) && staged {
		return nil, nil, usagef("--staged compares one revision with the index; %.80q names two", revisions)
	}
	if left == "" {
		left = "HEAD"
	}
	switch {
	case !two && !three:
		to, err = a.treeAt(ctx, repo, "", staged)
		if err == nil && to.Commit != "" { // a bare clone has nothing else
			to.Close()
			return nil, nil, usagef("there is no work tree to compare %.80q with; name two revisions, A..B", revisions)
		}
	case right == "":
		to, err = repo.At(ctx, "HEAD")
	default:
		to, err = repo.At(ctx, right)
	}
	if err != nil {
		return nil, nil, gitUsage(err)
	}
	if three {
		from, err = mergeBase(ctx, repo, left, to)
	} else {
		from, err = repo.At(ctx, left)
	}
	if err != nil {
		to.Close()
		return nil, nil, gitUsage(err)
	}
	return from, to, nil
}
