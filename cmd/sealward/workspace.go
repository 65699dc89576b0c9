package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal/keyring"
)

func (a *app) workspaceCmd() *cobra.Command {
	c := group(&cobra.Command{Use: "workspace", Short: "Make and list workspaces", Aliases: []string{"workspaces", "ws"}})
	c.AddCommand(a.workspaceCreateCmd(), a.workspaceListCmd())
	return c
}

func (a *app) workspaceCreateCmd() *cobra.Command {
	var recipients []string
	var instance, noIdentity bool
	c := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a workspace: its key and its creation rule",
		Long: `Make a workspace: an age identity in the keyring, unless the keyring has one for
it, and a rule in .sops.yaml that seals the workspace's secrets for it. The
public recipient is printed; the identity never leaves the keyring.

Back the identity file up. Who loses every identity of a workspace loses its
secrets; --recipient adds others who can open them, for recovery too.`,
		Example: "  sealward workspace create orders\n  sealward workspace create orders --recipient age1...\n  sealward workspace create --instance",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			ws := manifest.Instance()
			switch {
			case instance && len(args) == 1, !instance && len(args) == 0:
				return usagef("give either a NAME or --instance")
			case !instance:
				var err error
				if ws, err = manifest.ParseWorkspace(args[0]); err != nil {
					return usageError{err}
				}
			}
			var to []workspace.Recipient
			for _, s := range recipients {
				r, err := workspace.ParseRecipient(s)
				if err != nil {
					return usageError{err}
				}
				to = append(to, r)
			}
			if noIdentity && len(to) == 0 {
				return usagef("--no-identity needs at least one --recipient")
			}
			return a.createWorkspace(ws, to, !noIdentity)
		},
	}
	c.Flags().StringArrayVar(&recipients, "recipient", nil, "further age recipient (age1…) who can open the secrets; repeatable")
	c.Flags().BoolVar(&instance, "instance", false, "the scope of instance secrets instead of a workspace")
	c.Flags().BoolVar(&noIdentity, "no-identity", false, "seal for the given recipients only; somebody else holds the keys")
	return c
}

func (a *app) createWorkspace(ws manifest.Workspace, to []workspace.Recipient, withIdentity bool) error {
	repo, err := a.repository()
	if err != nil {
		return err
	}
	rules, err := repo.Rules()
	if err != nil {
		return err
	}
	// Asked before a key is made, so that a refusal leaves nothing behind.
	if _, err := rules.WorkspaceRecipients(ws); !errors.Is(err, workspace.ErrNoRule) {
		return fmt.Errorf("%s has a creation rule for workspace %s already; edit its recipients there", workspace.RulesFile, ws)
	}
	if withIdentity {
		ring, err := a.openKeyring()
		if err != nil {
			return err
		}
		if repo.Contains(ring.Dir()) {
			return usagef("keyring %s is inside the repository %s: a private key must never be committed; choose a folder outside with --keyring", ring.Dir(), repo.Dir())
		}
		own, err := ring.Create(ws, a.Now())
		if errors.Is(err, keyring.ErrExists) {
			existing, ringErr := ring.Ring(ws)
			if ringErr != nil {
				return ringErr
			}
			own, err = existing.Recipients()[0], nil
			fmt.Fprintf(a.Err, "The keyring has an identity for %s already; it is used: %s\n", ws, ring.Path(ws))
		} else if err == nil {
			fmt.Fprintf(a.Err, "Identity written to %s; back it up, and keep it out of Git\n", ring.Path(ws))
		}
		if err != nil {
			return err
		}
		to = append([]workspace.Recipient{own}, to...)
	}
	out, err := rules.Add(ws, to)
	if err != nil {
		return err
	}
	for _, folder := range []string{"secrets", "grants"} {
		if err := repo.Write(ws.Folder()+"/"+folder+"/.gitkeep", nil); err != nil {
			return err
		}
	}
	if err := repo.Write(workspace.RulesFile, out); err != nil {
		return err
	}
	for _, r := range to {
		fmt.Fprintln(a.Out, r)
	}
	return nil
}

func (a *app) workspaceListCmd() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use: "list", Short: "List the workspaces, for whom they are sealed, and which of them the keyring opens", Aliases: []string{"ls"}, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return a.getWorkspaces(format) },
	}
	outputFlag(c, &format, "json", "yaml")
	return c
}
