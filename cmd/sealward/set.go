package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func (a *app) setCmd() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "set WORKSPACE/NAME KEY",
		Short: "Give a key of a secret a value",
		Long: `Give a key of a secret a new value, adding the key when it is new. The value comes
from standard input, --from-file, or a prompt that does not show it.

In a secret that is kept in parts no private key is needed: the part of that key
is sealed anew for the workspace's recipients, with a data key of its own. In a
secret of one file the private key is needed, and values that are not set keep
their ciphertext, so that the change is small to review.`,
		Example:           `  printf %s "$NEW" | sealward set orders/orders-db-r password`,
		ValidArgsFunction: a.completeSecrets,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 3 {
				return usagef("a value is not taken from the command line, where others see it and the shell keeps it: pipe it in, type it at the prompt, or give --from-file. If what you typed was one, change it")
			}
			return cobra.ExactArgs(2)(c, args)
		},
		RunE: func(_ *cobra.Command, args []string) error {
			key, err := keyArg(args[1])
			if err != nil {
				return err
			}
			t, s, err := a.findSecret(args[0], false)
			if err != nil {
				return err
			}
			value, err := a.oneValue(args[0]+" "+key.String(), file)
			if err != nil {
				return err
			}
			path, changed, err := t.Set(s, key, value)
			switch {
			case err != nil:
				return err
			case !changed:
				fmt.Fprintf(a.Out, "%s: %s has this value already; nothing was changed\n", path, key)
			default:
				fmt.Fprintf(a.Out, "%s: %s set\n", path, key)
			}
			return nil
		},
	}
	c.Flags().StringVar(&file, "from-file", "", "read the value from this file (- for standard input)")
	return c
}

func (a *app) unsetCmd() *cobra.Command {
	return &cobra.Command{
		Use: "unset WORKSPACE/NAME KEY", Short: "Remove a key from a secret",
		Long: `Remove a key from a secret. In a secret that is kept in parts, a part that holds
only that key is removed, which needs no private key.`,
		Args: cobra.ExactArgs(2), ValidArgsFunction: a.completeSecrets,
		RunE: func(_ *cobra.Command, args []string) error {
			key, err := keyArg(args[1])
			if err != nil {
				return err
			}
			t, s, err := a.findSecret(args[0], false)
			if err != nil {
				return err
			}
			path, err := t.Unset(s, key)
			if err != nil {
				return err
			}
			fmt.Fprintf(a.Out, "%s: %s removed\n", path, key)
			return nil
		},
	}
}
