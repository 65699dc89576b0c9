package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealward/sealward/unseal/client"
)

func (a *app) readCmd() *cobra.Command {
	var connect func() (*client.Client, error)
	var format, notBefore string
	var wait time.Duration
	c := &cobra.Command{
		Use:   "read WORKSPACE/NAME[/KEY]",
		Short: "Read a secret, or one value, from an agent",
		Long: `Read a secret from an agent: one value, raw, when a KEY is given, else every key
you may read. A secret that is not there and one that no grant allows answer
alike (exit code 4).`,
		Example: "  sealward read orders/orders-db-r/password --server https://127.0.0.1:8420 --ca-file ca.pem --token-file alice.token",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ws, name, key, err := secretArg(args[0], true)
			if err != nil {
				return err
			}
			cl, err := connect()
			if err != nil {
				return err
			}
			cl.NotBefore, cl.Wait = notBefore, wait
			if key.String() != "" {
				if format != "" {
					return usagef("-o is for a whole secret; a value is printed as it is")
				}
				value, err := cl.Key(c.Context(), ws, name, key)
				if err != nil {
					return fmt.Errorf("%s: %w", args[0], err)
				}
				_, err = a.Out.Write(value)
				return err
			}
			secret, err := cl.Secret(c.Context(), ws, name)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if format == "" {
				format = "yaml"
			}
			return printAs(a.Out, format, secret)
		},
	}
	connect = a.serverFlags(c)
	c.Flags().StringVar(&notBefore, "not-before", "", "only from this commit (whole hash) or one that contains it")
	c.Flags().DurationVar(&wait, "wait", 0, "how long to wait for that commit (at most 50s)")
	outputFlag(c, &format, "yaml", "json")
	return c
}
