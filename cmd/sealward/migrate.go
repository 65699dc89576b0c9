package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/sealward/sealward/plugins/kustomize"
	"github.com/sealward/sealward/seal/workspace"
)

func (a *app) migrateCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "migrate",
		Short: "Rewrite what another tool reads into sealward's form",
	}
	c.AddCommand(a.migrateKSOPSCmd())
	return group(c)
}

func (a *app) migrateKSOPSCmd() *cobra.Command {
	var dryRun bool
	c := &cobra.Command{
		Use:   "ksops DIR",
		Short: "Rewrite KSOPS's generator files to SealedSecretGenerator",
		Long: `Rewrite the generators of KSOPS (viaduct.ai/v1, ksops) in and below a folder, in files
of their own and inline in kustomizations, to SealedSecretGenerator, and print the files
that changed. Comments, order, names and line ends stay. The sealed files are not touched,
and no key is needed.

A generator that cannot be carried over, because it runs another program or has a field
without a counterpart, is left as it is and told on standard error. Every file is read
before the first is written.`,
		Example:           "  sealward migrate ksops . --dry-run\n  sealward migrate ksops overlays/prod",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeFolder,
		RunE: func(_ *cobra.Command, args []string) error {
			return a.migrateKSOPS(args[0], dryRun)
		},
	}
	c.Flags().BoolVar(&dryRun, "dry-run", false, "do everything but write")
	return c
}

func (a *app) migrateKSOPS(dir string, dryRun bool) error {
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return usagef("%s is no folder", dir)
	}
	m, err := kustomize.MigrateKSOPS(dir)
	if err != nil {
		return err
	}
	generators := 0
	for _, f := range m.Files {
		if !dryRun {
			if err := workspace.WriteFile(f.Path, f.Data, 0o666); err != nil {
				return err
			}
		}
		fmt.Fprintln(a.Out, clean(f.Path))
		generators += len(f.Generators)
	}
	for _, n := range m.Notes {
		fmt.Fprintf(a.Err, "note: %s\n", clean(n.String()))
	}
	for _, n := range m.Left {
		fmt.Fprintf(a.Err, "left: %s\n", clean(n.String()))
	}
	done := "rewritten"
	if dryRun {
		done = "to rewrite; nothing was written"
	}
	fmt.Fprintf(a.Err, "%s %s\n", count(generators, "generator"), done)
	return nil
}
