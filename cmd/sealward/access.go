package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealward/sealward/gitops/review"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal/access"
)

// asked is what can-i and who-can have in common.
type asked struct{ at, time, format string }

func (q *asked) flags(c *cobra.Command, revisions completer, formats ...string) {
	c.Flags().StringVar(&q.at, "at", "", "commit to ask: a branch, tag or id (default: the work tree, in a bare clone HEAD)")
	c.Flags().StringVar(&q.time, "time", "", "ask as of this time, as 2027-01-01T00:00:00Z (default: now)")
	outputFlag(c, &q.format, formats...)
	_ = c.RegisterFlagCompletionFunc("at", revisions)
	_ = c.RegisterFlagCompletionFunc("time", cobra.NoFileCompletions)
}

// question reads VERB WORKSPACE/NAME[/KEY] and the time.
func (a *app) question(q *asked, args []string) (out review.Question, err error) {
	if out.Verb, err = review.ParseVerb(args[0]); err != nil {
		return out, usageError{err}
	}
	if out.Workspace, out.Name, out.Key, err = secretArg(args[1], out.Verb == review.Read); err != nil {
		return out, err
	}
	out.At = a.Now()
	if q.time != "" {
		if out.At, err = time.Parse(time.RFC3339, q.time); err != nil {
			return out, usagef("--time wants a time such as 2027-01-01T00:00:00Z")
		}
	}
	return out, nil
}

// asksTree opens the tree that a question is about; close it.
func (a *app) asksTree(ctx context.Context, rev string) (*review.Tree, error) {
	repo, err := a.reviewed(ctx)
	if err != nil {
		return nil, err
	}
	t, err := a.treeAt(ctx, repo, rev, false)
	if err != nil {
		return nil, err
	}
	a.warnUnsealed(ctx, repo, t)
	return t, nil
}

// warnUnsealed says that the answer may be about the wrong folder.
func (a *app) warnUnsealed(ctx context.Context, repo *review.Repo, t *review.Tree) {
	if repo.Local() != nil {
		return
	}
	if sealed, err := t.Sealed(ctx); err == nil && !sealed {
		fmt.Fprintf(a.Err, "warning: %s has no %s at its top; of a sealed repository in a folder, ask in a clone with files, there or with --repo\n", clean(t.Name), workspace.RulesFile)
	}
}

func (a *app) canICmd() *cobra.Command {
	var q asked
	var as string
	var roles []string
	c := &cobra.Command{
		Use:   "can-i read|list WORKSPACE/NAME[/KEY] --as SUBJECT",
		Short: "Ask whether somebody may read or list a secret",
		Long: `Ask whether somebody may read or list a secret, by the grants and roles of the
work tree or of a commit, as an agent decides. It prints yes or no, and on
standard error why. Without a KEY, read means some key. Whether the secret
exists decides nothing.

SUBJECT is users:id:NAME, or roles:id:NAME for whoever a token asserts that role
for. --role adds a role that the user's token asserts.

Exit codes: 0 yes, 4 no (also when the policy is broken).`,
		Example: `  sealward can-i read orders/orders-db-r/password --as users:id:alice
  sealward can-i list orders/orders-db-r --as users:id:bob --role roles:id:dev --at main`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeQuestion,
		RunE: func(c *cobra.Command, args []string) error {
			question, err := a.question(&q, args)
			if err != nil {
				return err
			}
			if question.As, err = identityArg(as, roles); err != nil {
				return err
			}
			t, err := a.asksTree(c.Context(), q.at)
			if err != nil {
				return err
			}
			defer t.Close()
			answer, err := t.CanI(c.Context(), question)
			if err != nil {
				return gitUsage(err)
			}
			if q.format != "" {
				err = printAs(a.Out, q.format, answer)
			} else {
				_, err = fmt.Fprintln(a.Out, map[bool]string{true: "yes", false: "no"}[answer.Allowed])
				answer.WriteWhy(a.Err)
			}
			if err == nil && !answer.Allowed {
				return exitStatus(exitDenied)
			}
			return err
		},
	}
	c.Flags().StringVar(&as, "as", "", "who: users:id:NAME or roles:id:NAME")
	c.Flags().StringArrayVar(&roles, "role", nil, "a role that the token asserts: roles:id:NAME (may be repeated)")
	_ = c.MarkFlagRequired("as")
	q.flags(c, a.completeRevisions, "json", "yaml")
	return c
}

func identityArg(as string, roles []string) (id access.Identity, err error) {
	if id.User, err = manifest.ParseSubject(as); err != nil {
		return id, usageError{fmt.Errorf("--as: %w", err)}
	}
	for _, text := range roles {
		s, err := manifest.ParseSubject(text)
		if err != nil {
			return id, usageError{fmt.Errorf("--role: %w", err)}
		}
		if _, isRole := s.Role(); !isRole {
			return id, usagef("--role wants a role, as roles:id:NAME")
		}
		id.Roles = append(id.Roles, s)
	}
	return id, nil
}

func (a *app) whoCanCmd() *cobra.Command {
	var q asked
	c := &cobra.Command{
		Use:   "who-can read|list WORKSPACE/NAME[/KEY]",
		Short: "List who may read or list a secret, and through which grant",
		Long: `List who may read or list a secret, by the grants and roles of the work tree or
of a commit: each user and role, through which grant and role, until when. A role
also stands for itself: whoever a token asserts it for. -o wide shows those too
whom a deny or an expiry keeps from it.

When a file breaks the policy nobody may; it is named on standard error (and as
policyBroken in JSON).

Exit codes: 0 answered, also when nobody may.`,
		Example: `  sealward who-can read orders/orders-db-r
  sealward who-can read orders/orders-db-r/password --at v1.2 -o json`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeQuestion,
		RunE: func(c *cobra.Command, args []string) error {
			question, err := a.question(&q, args)
			if err != nil {
				return err
			}
			t, err := a.asksTree(c.Context(), q.at)
			if err != nil {
				return err
			}
			defer t.Close()
			who, err := t.WhoCan(c.Context(), question)
			if err != nil {
				return gitUsage(err)
			}
			if q.format == "json" || q.format == "yaml" {
				return printAs(a.Out, q.format, who)
			}
			wide := q.format == "wide"
			if rows := who.Rows(wide); len(rows) > 0 {
				table(a.Out, who.Headings(wide), rows)
			}
			who.WriteNotes(a.Err, wide)
			return nil
		},
	}
	q.flags(c, a.completeRevisions, "json", "yaml", "wide")
	return c
}

// completeQuestion offers the verbs, and then the secrets.
func (a *app) completeQuestion(c *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return []string{string(review.Read), string(review.List)}, cobra.ShellCompDirectiveNoFileComp
	}
	if len(args) > 1 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.completeSecrets(c, nil, prefix)
}

func (a *app) accessDiffCmd() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "access-diff [A[..B|...B]]",
		Short: "Tell who gains and who loses access between two commits",
		Long: `Tell who gains and who loses which secrets between two commits, by their grants
and roles: through which grant and role, until when. A alone (default HEAD) is
compared with the work tree; A..B are two commits, of which one may be left out
for HEAD; A...B starts where B left A, as a pull request does. -o markdown is a
comment for a pull request.

Exit codes: 0 answered, whatever differs.`,
		Example: `  sealward access-diff
  sealward access-diff main...HEAD -o markdown`,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.completeRevisions,
		RunE: func(c *cobra.Command, args []string) error {
			revs := "HEAD"
			if len(args) > 0 {
				revs = args[0]
			}
			repo, err := a.reviewed(c.Context())
			if err != nil {
				return err
			}
			from, to, err := a.treesOf(c.Context(), repo, revs, false)
			if err != nil {
				return err
			}
			defer from.Close()
			defer to.Close()
			a.warnUnsealed(c.Context(), repo, to)
			diff, err := repo.AccessDiff(c.Context(), from, to, a.Now())
			if err != nil {
				return err
			}
			print := map[string]func(io.Writer) error{"": diff.WriteText, "text": diff.WriteText, "markdown": diff.WriteMarkdown}[format]
			if print == nil {
				return printAs(a.Out, format, diff)
			}
			return print(a.Out)
		},
	}
	outputFlag(c, &format, "text", "markdown", "json", "yaml")
	return c
}
