package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal"
)

func (a *app) setCmd() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "set WORKSPACE/NAME KEY",
		Short: "Give a key of a secret a value",
		Long: `Give a key of a secret a new value, adding the key when it is new. The value comes
from standard input, --from-file, or a prompt that does not show it. Values that
are not set keep their ciphertext, so that the change is small to review.`,
		Example: `  printf %s "$NEW" | sealward set orders/orders-db-r password`,
		Args:    cobra.ExactArgs(2), ValidArgsFunction: a.completeSecrets,
		RunE: func(_ *cobra.Command, args []string) error {
			key, err := keyArg(args[1])
			if err != nil {
				return err
			}
			repo, path, opened, err := a.openSecret(args[0])
			if err != nil {
				return err
			}
			value, err := a.oneValue(args[0]+" "+key.String(), file)
			if err != nil {
				return err
			}
			changed, err := opened.Envelope.Set(key, value)
			if err != nil {
				return err
			}
			if !changed {
				fmt.Fprintf(a.Out, "%s: %s has this value already; nothing was changed\n", path, key)
				return nil
			}
			if err := a.reseal(repo, path, opened); err != nil {
				return err
			}
			fmt.Fprintf(a.Out, "%s: %s set\n", path, key)
			return nil
		},
	}
	c.Flags().StringVar(&file, "from-file", "", "read the value from this file (- for standard input)")
	return c
}

func (a *app) unsetCmd() *cobra.Command {
	return &cobra.Command{
		Use: "unset WORKSPACE/NAME KEY", Short: "Remove a key from a secret",
		Args: cobra.ExactArgs(2), ValidArgsFunction: a.completeSecrets,
		RunE: func(_ *cobra.Command, args []string) error {
			key, err := keyArg(args[1])
			if err != nil {
				return err
			}
			repo, path, opened, err := a.openSecret(args[0])
			if err != nil {
				return err
			}
			if err := opened.Envelope.Unset(key); err != nil {
				return err
			}
			if err := a.reseal(repo, path, opened); err != nil {
				return err
			}
			fmt.Fprintf(a.Out, "%s: %s removed\n", path, key)
			return nil
		},
	}
}

// reseal writes a changed secret back.
func (a *app) reseal(repo *workspace.Repository, path string, opened *unseal.Opened) error {
	out, err := opened.Envelope.Reseal(a.Now())
	if err != nil {
		return err
	}
	return repo.Write(path, out)
}
