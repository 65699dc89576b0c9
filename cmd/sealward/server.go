package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/sealward/sealward/unseal/client"
)

// serverFlags adds the flags of a command that asks an agent, and returns what
// makes the client of them.
func (a *app) serverFlags(c *cobra.Command) func() (*client.Client, error) {
	var cfg client.Config
	var tokenFile string
	c.Flags().StringVar(&cfg.Server, "server", "", "address of the agent (default $SEALWARD_SERVER)")
	c.Flags().StringVar(&tokenFile, "token-file", "", "file with the bearer token (default $SEALWARD_TOKEN_FILE)")
	c.Flags().StringVar(&cfg.CAFile, "ca-file", "", "CA of the agent's certificate (PEM)")
	c.Flags().StringVar(&cfg.CertFile, "cert-file", "", "client certificate to be known by, instead of a token (PEM)")
	c.Flags().StringVar(&cfg.KeyFile, "key-file", "", "its private key (PEM)")
	return func() (*client.Client, error) {
		if cfg.Server == "" {
			cfg.Server = a.Getenv("SEALWARD_SERVER")
		}
		// A certificate that is named is meant, also where the environment names a token.
		if tokenFile == "" && cfg.CertFile == "" {
			tokenFile = a.Getenv("SEALWARD_TOKEN_FILE")
		}
		if cfg.Server == "" || tokenFile == "" && cfg.CertFile == "" {
			return nil, usagef("--server and --token-file are needed (or SEALWARD_SERVER and SEALWARD_TOKEN_FILE); a client certificate, --cert-file, stands for a token")
		}
		if tokenFile != "" {
			if _, err := os.Stat(tokenFile); err != nil {
				// Without the path: it may be the token itself, given in the wrong place.
				return nil, usagef("--token-file cannot be read (%w); it wants the file that holds the token", withoutPath(err))
			}
		}
		cfg.TokenFile = tokenFile
		cl, err := client.New(cfg)
		if err != nil {
			return nil, usageError{err}
		}
		return cl, nil
	}
}

func (a *app) agentSyncCmd() *cobra.Command {
	c := &cobra.Command{
		Use:     "sync",
		Short:   "Have an agent look at its remotes at once (operators)",
		Example: "  sealward agent sync --server https://127.0.0.1:8420 --ca-file ca.pem --token-file ops.token",
		Args:    cobra.NoArgs,
	}
	connect := a.serverFlags(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		cl, err := connect()
		if err != nil {
			return err
		}
		return cl.Sync(c.Context())
	}
	return c
}

func (a *app) agentApproveCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "approve COMMIT",
		Short: "Approve what waits at a commit: held removals, or a rewound head (operators)",
		Long: `Give the operator's word for what an agent holds back at a commit (whole hash):
removals of more secrets than its removalGuard lets pass, or a head that does not
contain the applied commit. sealward status shows what waits. The approval is for
exactly that commit, and is recorded in the agent's audit.`,
		Example: "  sealward agent approve 3d1f0c9e8b7a6f5e4d3c2b1a09f8e7d6c5b4a392 --token-file ops.token",
		Args:    cobra.ExactArgs(1),
	}
	connect := a.serverFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		cl, err := connect()
		if err != nil {
			return err
		}
		if err := cl.Approve(c.Context(), args[0]); err != nil {
			return err
		}
		fmt.Fprintln(a.Err, "approved; it takes effect at the agent's next look, which has begun")
		return nil
	}
	return c
}
