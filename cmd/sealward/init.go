package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sealward/sealward/gitops/source"
	"github.com/sealward/sealward/seal/workspace"
)

func (a *app) initCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "init [DIR]",
		Short: "Make a folder a sealed repository",
		Long: `Make a folder (default: the current one) a sealed repository: a Git repository
with .sops.yaml, .gitattributes, the folders workspaces/ and instance/, and a
README for the people who use it. What is there already stays as it is.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			dir := "."
			switch {
			case len(args) == 1:
				dir = args[0]
			case a.repo != "":
				dir = a.repo
			}
			repo, wrote, err := workspace.InitRepository(dir)
			if err != nil {
				return err
			}
			made, err := source.InitWorkTree(repo.Dir())
			if err != nil {
				return err
			}
			switch {
			case made:
				fmt.Fprintf(a.Out, "Initialized sealed repository in %s (git init included)\n", repo.Dir())
			case len(wrote) > 0:
				fmt.Fprintf(a.Out, "Initialized sealed repository in %s\n", repo.Dir())
			default:
				fmt.Fprintf(a.Out, "%s is a sealed repository already; nothing was changed\n", repo.Dir())
			}
			fmt.Fprintln(a.Err, "Next: sealward workspace create NAME, then git add -A && git commit")
			return nil
		},
	}
}
