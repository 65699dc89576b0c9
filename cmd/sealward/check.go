package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sealward/sealward/gitops/gitcmd"
	"github.com/sealward/sealward/gitops/review"
	"github.com/sealward/sealward/plugins/kustomize"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
)

type checkOptions struct {
	paths        []string
	base         string
	at           string
	staged       bool
	format       string
	ignore       []string
	failOn       string
	allowUnbound bool
	noKeys       bool
}

func (a *app) checkCmd() *cobra.Command {
	var opts checkOptions
	c := &cobra.Command{
		Use:   "check [PATH|WORKSPACE/NAME...]",
		Short: "Find what is wrong with the manifests, without any key",
		Long: `Check every manifest of the work tree, the creation rules and the settings: form,
place, values in the clear, recipients, MAC and binding, parts, grants and roles, and
how kustomizations use generators of secrets.
It needs no private key; where the keyring has one, every file is opened as well.
No value is ever shown. docs/checks.md explains each finding by its id.

With --base, only what differs from the point where the branch left that revision is
checked, and what needs a before and an after as well: a file edited by plain sops, a
recipient removed without a fresh data key, a removed secret that is still in use.

Exit codes: 0 nothing found, 3 findings, 1 or 2 it could not look.`,
		Example: `  sealward check
  sealward check --base origin/main -o github
  sealward check --at v1.4 workspaces/orders`,
		RunE: func(c *cobra.Command, args []string) error {
			opts.paths = args
			return a.check(c.Context(), opts)
		},
	}
	c.Flags().StringVar(&opts.base, "base", "", "check only what differs from where the branch left this revision")
	c.Flags().StringVar(&opts.at, "at", "", "check this revision instead of the work tree")
	c.Flags().BoolVar(&opts.staged, "staged", false, "check what git commit would commit instead of the work tree")
	c.Flags().StringSliceVar(&opts.ignore, "ignore", nil, "ids of checks to leave out")
	c.Flags().StringVar(&opts.failOn, "fail-on", string(review.LevelWarning), "exit with 3 from this level on: error or warning")
	c.Flags().BoolVar(&opts.allowUnbound, "allow-unbound", false, "manifests without a binding are no finding")
	c.Flags().BoolVar(&opts.noKeys, "no-keys", false, "open nothing, even if the keyring could")
	c.MarkFlagsMutuallyExclusive("at", "staged")
	outputFlag(c, &opts.format, "text", "json", "sarif", "github")
	for _, flag := range []string{"base", "at"} {
		_ = c.RegisterFlagCompletionFunc(flag, a.completeRevisions)
	}
	var ids []string
	for _, check := range review.Checks() {
		ids = append(ids, string(check.ID))
	}
	_ = c.RegisterFlagCompletionFunc("ignore", fixed(ids...))
	_ = c.RegisterFlagCompletionFunc("fail-on", fixed("error", "warning"))
	return c
}

// errFindings: check found something.
var errFindings = errors.New("findings")

func (a *app) check(ctx context.Context, opts checkOptions) error {
	known := review.Checks()
	for _, id := range opts.ignore {
		if !slices.ContainsFunc(known, func(c review.About) bool { return string(c.ID) == id }) {
			return usagef("--ignore: there is no check %.40q; docs/checks.md lists them", id)
		}
	}
	if opts.failOn != string(review.LevelError) && opts.failOn != string(review.LevelWarning) {
		return usagef("--fail-on: is %.20q; error or warning", opts.failOn)
	}
	repo, err := a.reviewed(ctx)
	if err != nil {
		return err
	}
	tree, err := a.treeAt(ctx, repo, opts.at, opts.staged)
	if err != nil {
		return err
	}
	defer tree.Close()
	check := review.CheckOptions{Now: a.Now(), AllowUnbound: opts.allowUnbound, Generators: kustomize.CheckGenerators}
	if !opts.noKeys {
		check.Ring = a.optionalRings()
	}
	if opts.base != "" {
		base, err := mergeBase(ctx, repo, opts.base, tree)
		if err != nil {
			return err
		}
		defer base.Close()
		check.Base = base
	}
	if err := a.isSealed(ctx, repo, tree, check.Base); err != nil {
		return err
	}
	if check.Paths, err = a.pathsIn(ctx, repo, opts.paths, tree, check.Base); err != nil {
		return err
	}
	report, err := repo.Check(ctx, tree, check)
	if err != nil {
		return err
	}
	report.Findings = slices.DeleteFunc(report.Findings, func(f review.Finding) bool { return slices.Contains(opts.ignore, string(f.ID)) })
	switch opts.format {
	case "json":
		err = printAs(a.Out, "json", report)
	case "sarif":
		err = report.WriteSARIF(a.Out, repo.Prefix())
	case "github":
		err = report.WriteGitHub(a.Out, repo.Prefix())
	default:
		err = report.WriteText(a.Out)
	}
	if err != nil {
		return err
	}
	failed := report.Errors()
	if opts.failOn == string(review.LevelWarning) {
		failed = len(report.Findings)
	}
	if failed > 0 {
		return fmt.Errorf("%w: %s", errFindings, report.Summary())
	}
	fmt.Fprintln(a.Err, report.Summary())
	return nil
}

// reviewed is the sealed repository around the current folder, for questions that
// Git alone answers.
func (a *app) reviewed(ctx context.Context) (*review.Repo, error) {
	dir := a.repo
	if dir == "" {
		dir = "."
	}
	r, err := review.Open(ctx, dir)
	if errors.Is(err, workspace.ErrNoRepository) {
		return nil, usageError{err}
	}
	return r, err
}

// treeAt is the tree of a revision, of the index, or by default the work tree; in a
// bare clone HEAD.
func (a *app) treeAt(ctx context.Context, repo *review.Repo, at string, staged bool) (*review.Tree, error) {
	var tree *review.Tree
	var err error
	switch {
	case at != "":
		tree, err = repo.At(ctx, at)
	case staged:
		tree, err = repo.Staged(ctx)
	case repo.Local() == nil:
		tree, err = repo.At(ctx, "HEAD")
	default:
		tree, err = repo.WorkTree()
	}
	return tree, gitUsage(err)
}

// gitUsage makes a wrong revision a wrong usage.
func gitUsage(err error) error {
	if errors.Is(err, gitcmd.ErrNoRevision) || errors.Is(err, gitcmd.ErrNoClone) {
		return usageError{err}
	}
	return err
}

// mergeBase is the tree of the commit where a tree's branch left a revision.
func mergeBase(ctx context.Context, repo *review.Repo, rev string, of *review.Tree) (*review.Tree, error) {
	clone, err := repo.Clone()
	if err != nil {
		return nil, gitUsage(err)
	}
	head := of.Commit
	if head == "" {
		head = "HEAD"
	}
	base, err := clone.MergeBase(ctx, rev, head)
	if err != nil {
		return nil, gitUsage(err)
	}
	return repo.At(ctx, base)
}

// isSealed refuses to look at trees that hold no sealed repository: finding nothing in
// them would sound as if all were well.
func (a *app) isSealed(ctx context.Context, repo *review.Repo, trees ...*review.Tree) error {
	if repo.Local() != nil {
		return nil
	}
	for _, t := range trees {
		if t == nil {
			continue
		}
		if sealed, err := t.Sealed(ctx); err != nil || sealed {
			return gitUsage(err)
		}
	}
	return usagef("there is no %s at the top of this clone; name the folder of the sealed repository with --repo, or go there", workspace.RulesFile)
}

// pathsIn makes paths and secrets of the command line relative to the sealed repository.
// Each must be there in one of the trees.
func (a *app) pathsIn(ctx context.Context, repo *review.Repo, args []string, trees ...*review.Tree) (out []string, err error) {
	for _, arg := range args {
		rel := filepath.ToSlash(filepath.Clean(arg))
		if repo.Local() != nil {
			var ok bool
			if rel, ok = repo.Local().Rel(arg); !ok {
				return nil, usagef("%s is outside the repository %s", arg, repo.Local().Dir())
			}
		}
		// As it is from here, as it is from the top, or a secret.
		candidates := [][]string{{rel}, {filepath.ToSlash(filepath.Clean(arg))}}
		if ws, name, _, err := secretArg(arg, false); err == nil {
			file := strings.TrimSuffix(manifest.SecretPath(ws, name), ".yaml")
			candidates = append(candidates, []string{file, file + ".yaml", file + ".json"})
		}
		found := false
		for _, c := range candidates {
			for _, t := range trees {
				if t == nil || found {
					continue
				}
				if found, err = t.Has(ctx, c...); err != nil {
					return nil, err
				}
			}
			if found {
				out = append(out, c...)
				break
			}
		}
		if !found {
			return nil, usagef("there is nothing at %s in the %s; give a path, or WORKSPACE/NAME", arg, trees[0].Name)
		}
	}
	return out, nil
}
