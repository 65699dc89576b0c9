package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sealward/sealward/gitops/worktree"
	"github.com/sealward/sealward/seal/workspace"
)

func (a *app) doctorCmd() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "doctor FILE|WORKSPACE/NAME...",
		Short: "Say why a sealed file does not open, and what mends it",
		Long: `Look into a sealed file: how it is made, where it stands, for whom it is sealed and
for whom it should be, whether the keyring opens it, and which check it fails; then
name the command that mends it. It goes as far as it can without any private key,
changes nothing and shows no value.

Exit codes: 0 the file is well (without a key: as far as can be told), 5 it is not.`,
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.completeOneSecret,
		RunE: func(_ *cobra.Command, args []string) error { return a.doctor(args, format) },
	}
	outputFlag(c, &format, "json", "yaml")
	return c
}

func (a *app) doctor(args []string, format string) error {
	t := &worktree.Tree{Ring: a.rings(), Now: a.Now}
	repo, err := a.repository()
	if err != nil && (a.repo != "" || !errors.Is(err, workspace.ErrNoRepository)) {
		return err
	}
	t.Repo = repo
	all := []*worktree.Diagnosis{}
	for _, arg := range args {
		files := []string{arg}
		if repo != nil && isSecretArg(arg) {
			ws, name, _, err := secretArg(arg, false)
			if err != nil {
				return err
			}
			// What FindSecret finds wrong, the diagnosis of each file says again.
			s, err := repo.FindSecret(ws, name)
			if len(s.Files) == 0 {
				return err
			}
			for _, path := range s.Files {
				data, err := repo.Read(path)
				if err != nil {
					return err
				}
				all = append(all, t.Diagnose(path, path, data))
			}
			continue
		}
		for _, file := range files {
			data, err := a.readFile(file)
			if err != nil {
				return err
			}
			rel := ""
			if repo != nil && file != "-" {
				rel, _ = repo.Rel(file)
			}
			all = append(all, t.Diagnose(file, rel, data))
		}
	}
	if format != "" {
		if err := printAs(a.Out, format, all); err != nil {
			return err
		}
	}
	ill := 0
	for i, d := range all {
		if d.Fails() {
			ill++
		}
		if format == "" {
			if i > 0 {
				fmt.Fprintln(a.Out)
			}
			a.printDiagnosis(d)
		}
	}
	if ill > 0 {
		return fmt.Errorf("%w: %d of %d files have something wrong", errUnsealable, ill, len(all))
	}
	return nil
}

func (a *app) printDiagnosis(d *worktree.Diagnosis) {
	fmt.Fprintln(a.Out, clean(d.File))
	if d.ID != "" {
		fmt.Fprintf(a.Out, "  %s\n", clean(d.ID))
	}
	for _, list := range []struct {
		title string
		names []string
	}{{"sealed for", d.InFile}, {".sops.yaml says", d.InRule}, {"the ring has", d.InRing}} {
		for i, name := range list.names {
			title := list.title
			if i > 0 {
				title = ""
			}
			if len(name) > 76 {
				name = name[:73] + "..."
			}
			fmt.Fprintf(a.Out, "  %-16s %s\n", title, clean(name))
		}
	}
	for _, f := range d.Findings {
		fmt.Fprintf(a.Out, "  [%s] %s\n", map[string]string{worktree.OK: " ok ", worktree.Failed: "FAIL", worktree.Warning: "warn", worktree.Unknown: " ?? "}[f.State], f.Check)
		for line := range strings.SplitSeq(f.Detail, "\n") {
			if line != "" {
				fmt.Fprintf(a.Out, "         %s\n", clean(line))
			}
		}
	}
	switch {
	case d.Opens() && len(d.Remedies) == 0:
		fmt.Fprintln(a.Out, "  It opens, and is as it was sealed.")
	case d.Opens():
		fmt.Fprintln(a.Out, "  It opens, and is as it was sealed. To put it right:")
	case d.Fails():
		fmt.Fprintln(a.Out, "  To mend it:")
	default:
		fmt.Fprintln(a.Out, "  Nothing wrong was found without a key. To look further:")
	}
	for _, r := range d.Remedies {
		fmt.Fprintf(a.Out, "    %s\n", clean(r))
	}
}
