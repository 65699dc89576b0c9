package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/sealward/sealward/gitops/worktree"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
)

type rotateOptions struct {
	scope                   string
	recipients, add, remove []string
	dryRun                  bool
	format                  string
}

func (a *app) rotateCmd() *cobra.Command {
	var o rotateOptions
	c := &cobra.Command{
		Use:   "rotate -w WORKSPACE",
		Short: "Give every secret of a workspace fresh data keys for its recipients",
		Long: `Open every secret of a workspace, seal it anew with a fresh data key for the
workspace's recipients, and verify that no value changed. Either all files are
replaced or none is, also when the command is killed.

--recipients, --add-recipient and --remove-recipient change the workspace's rule
in .sops.yaml first. Somebody who was a recipient has seen, or could have seen,
the values of that time, and Git keeps the old files: rotate lists those values,
and the credentials must be changed at their source.`,
		Example: "  sealward rotate -w orders\n  sealward rotate -w orders --remove-recipient age1...\n  sealward rotate -w orders --dry-run",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return a.rotate(c, o) },
	}
	f := c.Flags()
	f.StringVarP(&o.scope, "workspace", "w", "", "workspace to rotate, or instance (required)")
	f.StringArrayVar(&o.recipients, "recipients", nil, "seal for these recipients from now on (commas, or repeated)")
	f.StringArrayVar(&o.add, "add-recipient", nil, "seal for this recipient too; repeatable")
	f.StringArrayVar(&o.remove, "remove-recipient", nil, "do not seal for this recipient any more; repeatable")
	f.BoolVar(&o.dryRun, "dry-run", false, "do everything but write")
	outputFlag(c, &o.format, "json", "yaml")
	_ = c.MarkFlagRequired("workspace")
	_ = c.RegisterFlagCompletionFunc("workspace", a.completeWorkspaces)
	return c
}

// rotationItem is what rotate prints for programs.
type rotationItem struct {
	Workspace  string        `json:"workspace"`
	Recipients []string      `json:"recipients"`
	Files      []string      `json:"files"`
	Removed    []removedItem `json:"removed"`
	DryRun     bool          `json:"dryRun"`
}

type removedItem struct {
	Recipient string   `json:"recipient"`
	Retired   bool     `json:"retired"`   // an identity of the keyring itself, as after keys new
	CouldRead []string `json:"couldRead"` // WORKSPACE/NAME/KEY
}

func (a *app) rotate(c *cobra.Command, o rotateOptions) error {
	ws, err := scopeArg(o.scope)
	if err != nil {
		return err
	}
	t, err := a.tree(false)
	if err != nil {
		return err
	}
	to, err := o.newRecipients(t.Repo, ws)
	if err != nil {
		return err
	}
	progress := a.progress("rotated")
	done, err := t.Rotate(c.Context(), ws, worktree.RotateOptions{Recipients: to, DryRun: o.dryRun, Progress: progress})
	if err != nil {
		if progress != nil {
			fmt.Fprint(a.Err, clearLine) // the error stands on a line of its own
		}
		return err
	}
	if o.format != "" {
		item := rotationItem{Workspace: ws.String(), Recipients: texts(done.Recipients.All()), Files: append([]string{}, done.Files...), Removed: []removedItem{}, DryRun: o.dryRun}
		for _, r := range done.Removed {
			item.Removed = append(item.Removed, removedItem{r.Recipient, r.Retired, r.Values})
		}
		return printAs(a.Out, o.format, item)
	}
	verb := "have fresh data keys"
	if o.dryRun {
		verb = "would get fresh data keys; nothing was written"
	}
	fmt.Fprintf(a.Out, "workspace %s: %s, sealed for %s, %s\n", ws, count(len(done.Files), "file"), count(len(done.Recipients.All()), "recipient"), verb)
	for _, r := range done.Removed {
		if r.Retired {
			fmt.Fprintf(a.Out, "\n%s is a retired identity of your keyring; nothing is sealed for it any more. If it was lost or stolen, change the %s it could read at their source (-o json lists them)\n", clean(r.Recipient), count(len(r.Values), "value"))
			continue
		}
		fmt.Fprintf(a.Out, "\n%s is no recipient any more, but could read these until now, and can in Git's history. Change them at their source:\n", clean(r.Recipient))
		for _, v := range r.Values {
			fmt.Fprintf(a.Out, "  %s\n", v)
		}
	}
	return nil
}

// newRecipients is nil when the rule stays as it is.
func (o rotateOptions) newRecipients(repo *workspace.Repository, ws manifest.Workspace) ([]workspace.Recipient, error) {
	if len(o.recipients)+len(o.add)+len(o.remove) == 0 {
		return nil, nil
	}
	if len(o.recipients) > 0 && len(o.add)+len(o.remove) > 0 {
		return nil, usagef("give either --recipients or --add-recipient and --remove-recipient")
	}
	parse := func(in []string) (out []workspace.Recipient, err error) {
		for _, list := range in {
			for s := range strings.SplitSeq(list, ",") {
				r, err := workspace.ParseRecipient(strings.TrimSpace(s))
				if err != nil {
					return nil, usageError{err}
				}
				out = append(out, r)
			}
		}
		return out, nil
	}
	if len(o.recipients) > 0 {
		return parse(o.recipients)
	}
	rules, err := repo.Rules()
	if err != nil {
		return nil, err
	}
	have, err := rules.WorkspaceRecipients(ws)
	if err != nil {
		return nil, err
	}
	add, err := parse(o.add)
	if err != nil {
		return nil, err
	}
	remove, err := parse(o.remove)
	if err != nil {
		return nil, err
	}
	out := have.All()
	for _, r := range add {
		if !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	for _, r := range remove {
		i := slices.Index(out, r)
		if i < 0 {
			return nil, fmt.Errorf("%s is no recipient of workspace %s; it has %s", r, ws, strings.Join(texts(out), ", "))
		}
		out = slices.Delete(out, i, i+1)
	}
	if len(out) == 0 {
		return nil, usagef("the last recipient of workspace %s cannot be removed: nobody could open it", ws)
	}
	return out, nil
}

const clearLine = "\r\x1b[K"

// progress counts on standard error while somebody looks at it.
func (a *app) progress(verb string) func(done, total int) {
	f, ok := a.Err.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	return func(done, total int) {
		if done%16 == 0 || done == total {
			fmt.Fprintf(f, "\r%d of %d %s", done, total, verb)
		}
		if done == total {
			fmt.Fprint(f, clearLine)
		}
	}
}

func (a *app) keysReportCmd() *cobra.Command {
	var scope, format string
	c := &cobra.Command{
		Use:   "report",
		Short: "Show which files are sealed for others than .sops.yaml names",
		Long: `Show for each file how its recipients stand to .sops.yaml and to the keyring:
current; foreign (a recipient that the rule does not name); retired (an older
identity of the ring); missing (not sealed for one that the rule names); or
unreadable. sealward rotate mends all but the last. No private key is needed. Files name their
recipients themselves: a stanza under another's name does not show here.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return a.keysReport(scope, format) },
	}
	c.Flags().StringVarP(&scope, "workspace", "w", "", "only this workspace (or instance)")
	_ = c.RegisterFlagCompletionFunc("workspace", a.completeWorkspaces)
	outputFlag(c, &format, "json", "yaml", "wide")
	return c
}

type standingItem struct {
	Workspace string   `json:"workspace"`
	Secret    string   `json:"secret"`
	Path      string   `json:"path"`
	State     string   `json:"state"`
	Foreign   []string `json:"foreign,omitempty"`
	Retired   []string `json:"retired,omitempty"`
	Missing   []string `json:"missing,omitempty"`
	Problem   string   `json:"problem,omitempty"`
}

func (a *app) keysReport(scope, format string) error {
	t, err := a.tree(true)
	if err != nil {
		return err
	}
	scopes, err := t.Workspaces()
	if err != nil {
		return err
	}
	if scope != "" {
		ws, err := scopeArg(scope)
		if err != nil {
			return err
		}
		scopes = []manifest.Workspace{ws}
	}
	items := []standingItem{}
	var rows [][]string
	for _, ws := range scopes {
		report, err := t.Report(ws)
		if err != nil {
			return err
		}
		states := map[string]int{}
		for _, s := range report {
			states[s.State]++
			items = append(items, standingItem{ws.String(), s.Secret, s.Path, s.State, s.Foreign, s.Retired, s.Missing, s.Problem})
			if s.State == worktree.Current && format != "wide" {
				continue
			}
			rows = append(rows, []string{ws.String(), s.State, s.Path, standing(s, format == "wide") + firstLine(s.Problem, s.Path)})
		}
		if format == "" && states[worktree.Current] > 0 {
			rows = append(rows, []string{ws.String(), worktree.Current, count(states[worktree.Current], "file"), ""})
		}
	}
	if format == "json" || format == "yaml" {
		return printAs(a.Out, format, items)
	}
	if len(rows) == 0 {
		fmt.Fprintln(a.Err, "nothing found")
		return nil
	}
	table(a.Out, []string{"WORKSPACE", "STATE", "PATH", "RECIPIENTS OR PROBLEM"}, rows)
	return nil
}

// standing says of each recipient that is not as the rule wants it what it is.
func standing(s worktree.Standing, whole bool) string {
	var out []string
	for _, of := range []struct {
		state string
		names []string
	}{{worktree.Foreign, s.Foreign}, {worktree.Retired, s.Retired}, {worktree.Missing, s.Missing}} {
		names := of.names
		if !whole {
			names = shortNames(names)
		}
		for _, name := range names {
			out = append(out, of.state+" "+name)
		}
	}
	return strings.Join(out, ", ")
}
