package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sealward/sealward/seal/manifest"
)

func (a *app) splitCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "split WORKSPACE/NAME",
		Short: "Keep a secret in parts, one sealed file a key",
		Long: `Turn a secret of one file into a folder of parts: one sealed file for each key,
each with a data key of its own. From then on anybody can set a key with the
workspace's public recipients alone, and two pull requests that set two keys
never conflict. It needs the private key.`,
		Example: "  sealward split orders/orders-api",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: a.completeOneSecret,
		RunE: func(_ *cobra.Command, args []string) error {
			t, s, err := a.findSecret(args[0], false)
			if err != nil {
				return err
			}
			paths, err := t.Split(s)
			if err != nil {
				return err
			}
			fmt.Fprintf(a.Out, "%s is kept in %d parts: %s\n", s, len(paths), folderOf(paths[0]))
			return nil
		},
	}
}

func folderOf(path string) string { return path[:strings.LastIndex(path, "/")+1] }

func (a *app) joinCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "join WORKSPACE/NAME",
		Short: "Put the parts of a secret together into one sealed file",
		Long: `Turn a folder of parts into one sealed file. What the first part states (owner,
tags, description, comments) is stated for all. It needs the private key.`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeOneSecret,
		RunE: func(_ *cobra.Command, args []string) error {
			t, s, err := a.findSecret(args[0], false)
			if err != nil {
				return err
			}
			path, err := t.Join(s)
			if err != nil {
				return err
			}
			fmt.Fprintf(a.Out, "%s is one file: %s\n", s, path)
			return nil
		},
	}
}

func (a *app) copyCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "copy WORKSPACE/NAME WORKSPACE/NAME",
		Short: "Copy a secret, sealed for the workspace it goes to",
		Long: `Copy a secret under another name or into another workspace, sealed for that
workspace's recipients. It needs private keys of both workspaces. A copied file
would not do: a sealed manifest belongs to its name and workspace.`,
		Example: "  sealward copy orders/orders-db-r payments/orders-db-r",
		Args:    cobra.ExactArgs(2), ValidArgsFunction: a.completeOneSecret,
		RunE: func(_ *cobra.Command, args []string) error {
			t, from, err := a.findSecret(args[0], false)
			if err != nil {
				return err
			}
			var ws manifest.Workspace
			var name manifest.Name
			if ws, name, _, err = secretArg(args[1], false); err != nil {
				return err
			}
			paths, err := t.Copy(from, ws, name)
			if err != nil {
				return err
			}
			for _, path := range paths {
				fmt.Fprintf(a.Out, "%s copied to %s\n", from, path)
			}
			return nil
		},
	}
}
