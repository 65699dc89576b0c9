package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal/serve"
)

func (a *app) tokenCmd() *cobra.Command {
	c := group(&cobra.Command{Use: "token", Short: "Make bearer tokens for an agent"})
	c.AddCommand(a.tokenCreateCmd())
	return c
}

func (a *app) tokenCreateCmd() *cobra.Command {
	var subject, tokens string
	var roles []string
	var expires time.Duration
	c := &cobra.Command{
		Use:   "create",
		Short: "Make a token for a subject, note its salted hash, and print it once",
		Long: `Make a bearer token for a subject. The tokens file, which the agent reads, gets a
salted hash; the token itself is printed to standard output this one time. To
revoke a token, remove its entry: a running agent notices at once.`,
		Example: "  sealward token create --subject users:id:alice --expires 24h --tokens tokens.yaml > alice.token",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			who, err := manifest.ParseSubject(subject)
			if err != nil {
				return usageError{err}
			}
			var has []manifest.Subject
			for _, s := range roles {
				r, err := manifest.ParseSubject(s)
				if err != nil {
					return usageError{err}
				}
				has = append(has, r)
			}
			if expires < 0 {
				return usagef("--expires must be positive")
			}
			bearer, entry, err := serve.NewToken(who, has, expires, a.Now())
			if err != nil {
				return usageError{err}
			}
			if err := serve.AddToken(tokens, entry); err != nil {
				return err
			}
			until := "never expires"
			if !entry.Expires.IsZero() {
				until = "expires " + entry.Expires.Format(time.RFC3339)
			}
			fmt.Fprintf(a.Err, "Token %s for %s, %s; its hash is in %s\n", entry.ID, who, until, tokens)
			fmt.Fprintln(a.Out, bearer)
			return nil
		},
	}
	c.Flags().StringVar(&subject, "subject", "", "who the token is for: users:id:NAME (required)")
	c.Flags().StringArrayVar(&roles, "role", nil, "role the token asserts: roles:id:NAME; repeatable")
	c.Flags().DurationVar(&expires, "expires", 24*time.Hour, "how long it is valid, such as 12h; 0 for ever")
	c.Flags().StringVar(&tokens, "tokens", "", "tokens file to add it to (required)")
	_ = c.MarkFlagRequired("subject")
	_ = c.MarkFlagRequired("tokens")
	return c
}
