package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sealward/sealward/gitops/gitcmd"
	"github.com/sealward/sealward/gitops/propose"
	"github.com/sealward/sealward/gitops/review"
)

func (a *app) proposeCmd() *cobra.Command {
	var o propose.Options
	var forge, format string
	c := &cobra.Command{
		Use:   "propose WORKSPACE/NAME|FILE...",
		Short: "Push changes on a branch of their own, ready for a pull request",
		Long: `Put secrets (all their files: new, changed or removed) and other files as they are
in the work tree on a new branch of the remote, as one commit on top of the remote's
base branch, and print the address that opens the pull request.

Plaintext manifests among them are sealed for their workspace; only the sealed form
ever reaches Git, and replaces the plaintext here once the branch is pushed. What is
not named is not touched, be it staged or not. The message names secrets and keys,
no value. If the remote refuses the branch, everything here is as it was.

When the branch that is checked out has no commits of its own, the new one is checked
out after the push, without a change of files; otherwise you stay where you are. On a
branch that propose made, and that the remote has as it is here, the change is added
to it as one more commit, unless --branch names another.

The base is --base, else what the remote has as HEAD. The address is made for GitHub,
GitLab, Gitea (Forgejo, Codeberg) or Bitbucket by the remote's host; where its name
does not tell, --forge or git config sealward.forge does.`,
		Example: "  sealward propose orders/orders-db-r\n  sealward propose orders/orders-api workspaces/orders/grants/readers.yaml -m 'A token for the API'",
		RunE: func(c *cobra.Command, args []string) (err error) {
			if o.Forge, err = propose.ParseForge(forge); err != nil {
				return usageError{err}
			}
			if strings.ContainsAny(o.Subject, "\r\n") || c.Flags().Changed("subject") && strings.TrimSpace(o.Subject) == "" {
				return usagef("-m wants one line")
			}
			return a.propose(c, args, o, format)
		},
		ValidArgsFunction: a.completeProposal,
	}
	c.Flags().StringVar(&o.Branch, "branch", "", "name of the new branch (default: secrets/WORKSPACE-NAME-TIME, or the one you are on if propose made it)")
	c.Flags().StringVarP(&o.Subject, "subject", "m", "", "first line of the message (default: what changes)")
	c.Flags().StringVar(&o.Remote, "remote", "origin", "remote to push to")
	c.Flags().StringVar(&o.Base, "base", "", "branch of the remote that the change is for (default: the remote's HEAD)")
	c.Flags().StringVar(&forge, "forge", "", "kind of Git host: github, gitlab, gitea or bitbucket (default: by the host's name)")
	c.Flags().BoolVar(&o.DryRun, "dry-run", false, "show the commit and push nothing")
	outputFlag(c, &format, "json")
	_ = c.RegisterFlagCompletionFunc("remote", a.completeFromGit(func() []string { return []string{"remote"} }))
	_ = c.RegisterFlagCompletionFunc("base", a.completeFromGit(func() []string {
		return []string{"for-each-ref", "--count=1000", "--format=%(refname:lstrip=3)", "refs/remotes/" + o.Remote}
	}))
	_ = c.RegisterFlagCompletionFunc("forge", fixed("github", "gitlab", "gitea", "bitbucket"))
	return c
}

func (a *app) propose(c *cobra.Command, args []string, o propose.Options, format string) error {
	ctx := c.Context()
	repo, err := a.reviewed(ctx)
	if err != nil {
		return err
	}
	if clone, err := repo.Clone(); err == nil && clone.Bare() {
		return usagef("a proposal is made in a work tree; this clone is bare, git clone makes one with a work tree")
	}
	t, err := a.tree(false)
	if err != nil {
		return err
	}
	if len(args) == 0 {
		return a.whatDiffers(ctx, repo)
	}
	for _, arg := range args {
		target := propose.Target{Path: arg}
		if isSecretArg(arg) {
			target.Path = ""
			if target.Workspace, target.Name, _, err = secretArg(arg, false); err != nil {
				return err
			}
		}
		o.Targets = append(o.Targets, target)
	}
	o.Ring = a.optionalRings()
	o.Note = func(line string) { fmt.Fprintln(a.Err, clean(line)) }
	p, err := propose.Propose(ctx, repo, t, o)
	switch {
	case errors.Is(err, propose.ErrPush):
		return fmt.Errorf("%w\nnothing was changed here; once that is mended, go on with: %s", err, again(c, args))
	case errors.Is(err, context.Canceled) && p == nil:
		return errInterrupted
	case p == nil:
		return err
	}
	return errors.Join(a.printProposal(p, format), err)
}

// whatDiffers asks for an argument, and names what could be one.
func (a *app) whatDiffers(ctx context.Context, repo *review.Repo) error {
	names, err := propose.Differing(ctx, repo)
	switch {
	case err != nil:
		return err
	case len(names) == 0:
		return usagef("name the secrets or files to propose; nothing differs from the last commit here")
	case len(names) > 20:
		names = append(names[:20], fmt.Sprintf("and %d more", len(names)-20))
	}
	return usagef("name the secrets or files to propose; these differ from the last commit:\n  %s", strings.Join(names, "\n  "))
}

func (a *app) printProposal(p *propose.Proposal, format string) error {
	if format == "json" {
		return printAs(a.Out, format, p)
	}
	out := a.Err
	if !p.Pushed {
		out = a.Out
	}
	sealed := "sealed"
	if !p.Pushed {
		sealed = "would be sealed"
	}
	for _, file := range p.Sealed {
		fmt.Fprintf(out, "%s: %s\n", sealed, clean(file))
	}
	if !p.Pushed {
		what := fmt.Sprintf("would push branch %s to %s, one commit on %s (%.12s)", p.Branch, p.Remote, p.Base, p.Parent)
		if p.Added {
			what = fmt.Sprintf("would add to branch %s on %s, one commit on %.12s", p.Branch, p.Remote, p.Parent)
		}
		fmt.Fprintf(out, "%s:\n\n    %s\n", what, clean(p.Subject))
		for line := range strings.Lines("\n" + p.Body) {
			fmt.Fprintf(out, "    %s\n", clean(strings.TrimSuffix(line, "\n")))
		}
		for _, file := range p.Files {
			fmt.Fprintf(out, "%s\n", clean(file))
		}
		return nil
	}
	if p.Added {
		fmt.Fprintf(out, "added to branch %s on %s, for %s: %s\n", p.Branch, p.Remote, p.Base, clean(p.Subject))
	} else {
		fmt.Fprintf(out, "pushed to %s as branch %s, for %s: %s\n", p.Remote, p.Branch, p.Base, clean(p.Subject))
	}
	switch {
	case p.Added && p.Stays != "":
		fmt.Fprintf(out, "%s, and branch %s here is without the commit\n", p.Stays, p.Branch)
	case p.Added:
	case p.Switched:
		fmt.Fprintf(out, "branch %s is checked out\n", p.Branch)
	case p.Stays != "":
		fmt.Fprintf(out, "%s\n", p.Stays)
	}
	if p.Address != "" {
		fmt.Fprintln(a.Out, p.Address)
	}
	return nil
}

// again is the command as it was given, for a shell.
func again(c *cobra.Command, args []string) string {
	var words []string
	c.Flags().Visit(func(f *pflag.Flag) { words = append(words, "--"+f.Name+"="+f.Value.String()) })
	line := c.CommandPath()
	for _, w := range append(words, args...) {
		line += " " + propose.ShellWord(w)
	}
	return line
}

// completeProposal offers secrets, and files.
func (a *app) completeProposal(c *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	out, _ := a.completeOneSecret(c, args, prefix)
	return out, cobra.ShellCompDirectiveDefault
}

// completeFromGit offers the lines that a git command prints.
func (a *app) completeFromGit(args func() []string) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(c *cobra.Command, _ []string, prefix string) (out []string, _ cobra.ShellCompDirective) {
		dir := a.repo
		if dir == "" {
			dir = "."
		}
		if clone, err := gitcmd.Open(c.Context(), dir); err == nil {
			lines, _ := clone.Run(c.Context(), args()...)
			for line := range strings.FieldsSeq(string(lines)) {
				if strings.HasPrefix(line, prefix) && line != "HEAD" {
					out = append(out, line)
				}
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}
