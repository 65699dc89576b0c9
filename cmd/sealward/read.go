package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sealward/sealward/unseal/client"
)

func (a *app) readCmd() *cobra.Command {
	var cfg client.Config
	var tokenFile, format string
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
			if cfg.Server == "" {
				cfg.Server = a.Getenv("SEALWARD_SERVER")
			}
			if tokenFile == "" {
				tokenFile = a.Getenv("SEALWARD_TOKEN_FILE")
			}
			if cfg.Server == "" || tokenFile == "" {
				return usagef("--server and --token-file are needed (or SEALWARD_SERVER and SEALWARD_TOKEN_FILE)")
			}
			token, err := os.ReadFile(tokenFile)
			if err != nil {
				// Without the path: it may be the token itself, given in the wrong place.
				return usagef("--token-file cannot be read (%w); it wants the file that holds the token", withoutPath(err))
			}
			cfg.Token = strings.TrimSpace(string(token))
			if strings.ContainsAny(cfg.Token, " \r\n\t") {
				return usagef("--token-file holds more than one token")
			}
			cl, err := client.New(cfg)
			if err != nil {
				return usageError{err}
			}
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
	c.Flags().StringVar(&cfg.Server, "server", "", "address of the agent (default $SEALWARD_SERVER)")
	c.Flags().StringVar(&tokenFile, "token-file", "", "file with the bearer token (default $SEALWARD_TOKEN_FILE)")
	c.Flags().StringVar(&cfg.CAFile, "ca-file", "", "CA of the agent's certificate (PEM)")
	outputFlag(c, &format, "yaml", "json")
	return c
}
