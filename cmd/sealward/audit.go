package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/sealward/sealward/unseal/audit"
)

func (a *app) auditCmd() *cobra.Command {
	c := group(&cobra.Command{Use: "audit", Short: "Check an agent's audit log"})
	var head string
	verify := &cobra.Command{
		Use:   "verify FILE",
		Short: "Verify that no record of an audit log was changed, removed, added or moved",
		Long: `Verify the chain of an audit log: each record holds the hash of the one before.
--head, from /v1/status or the agent's log, also shows a log that was cut at its
end or computed anew.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			sum, err := audit.Verify(f, audit.VerifyOptions{Head: head})
			var bad *audit.BadRecord
			if errors.As(err, &bad) && sum.HeadSeq > 0 {
				fmt.Fprintf(a.Err, "up to seq %d, which has the given head, the log is intact\n", sum.HeadSeq)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			fmt.Fprintf(a.Out, "%d records are intact; the last is seq %d, head %s\n", sum.Records, sum.Seq, sum.Head)
			return nil
		},
	}
	verify.Flags().StringVar(&head, "head", "", "hash that the last record must have")
	c.AddCommand(verify)
	return c
}
