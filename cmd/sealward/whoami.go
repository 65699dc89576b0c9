package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

func (a *app) whoamiCmd() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "whoami",
		Short: "Show who an agent takes you for: subject, roles, and by what",
		Long: `Show who an agent takes the caller for: the subject that grants name, the roles that
the credential asserts and the operator allowed it to, and when it ends. Roles that
the repository gives are not among them (sealward can-i knows those).`,
		Example: "  sealward whoami --server https://127.0.0.1:8420 --ca-file ca.pem --token-file alice.token",
		Args:    cobra.NoArgs,
	}
	connect := a.serverFlags(c)
	outputFlag(c, &format, "yaml", "json")
	c.RunE = func(c *cobra.Command, _ []string) error {
		cl, err := connect()
		if err != nil {
			return err
		}
		who, err := cl.Whoami(c.Context())
		if err != nil {
			return err
		}
		if format != "" {
			return printAs(a.Out, format, who)
		}
		until := "never"
		if !who.Expires.IsZero() {
			until = who.Expires.Format(time.RFC3339)
		}
		w := tabwriter.NewWriter(a.Out, 0, 4, 2, ' ', 0)
		fmt.Fprintf(w, "SUBJECT\t%s\nROLES\t%s\nMETHOD\t%s\nCREDENTIAL\t%s\nEXPIRES\t%s\n", who.Subject, dash(strings.Join(who.Roles, ", ")), who.Method, dash(who.Credential), until)
		return w.Flush()
	}
	return c
}
