package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealward/sealward/gitops/review"
	"github.com/sealward/sealward/unseal/audit"
)

func (a *app) auditReplayCmd() *cobra.Command {
	var when period
	c := &cobra.Command{
		Use:   "replay [FILE] --repo DIR",
		Short: "Decide every read of an audit log again from Git, and show what differs",
		Long: `Decide every read and list of an audit log again, by the grants and roles of its
commit at its time, and show each whose decision, grant or role differs. DIR is a
clone of the sealed repository, bare or not: the agent's mirror will do. Roles that a
token asserted are taken from the record.

Records of commits that the clone does not have are counted and their commits named.
The chain is verified meanwhile. FILE is by default $SEALWARD_AUDIT; - is standard
input.

Exit codes: 0 all is the same, 1 something differs or the chain is bad.`,
		Example: "  sealward audit replay state/audit.jsonl --repo state/mirror\n  sealward audit replay --repo . --since 30d",
		Args:    cobra.MaximumNArgs(1),
	}
	when.flags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		var f audit.Filter
		var err error
		if f.Since, f.Until, err = when.parse(a.Now()); err != nil {
			return err
		}
		log, err := a.openAudit(args)
		if err != nil {
			return err
		}
		defer log.Close()
		repo, err := a.reviewed(c.Context())
		if err != nil {
			return err
		}
		replay, err := review.NewReplay(repo)
		if err != nil {
			return gitUsage(err)
		}
		defer replay.Close()
		count := map[review.Outcome]int{}
		unknown := map[string]int{}
		sum, err := audit.Walk(log, audit.VerifyOptions{}, func(line uint64, rec audit.Record) error {
			if !f.Match(rec) {
				return nil
			}
			outcome, why, err := replay.Decide(c.Context(), rec)
			if err != nil {
				return fmt.Errorf("commit %.12s: %w", rec.Commit, err)
			}
			count[outcome]++
			switch outcome {
			case review.UnknownCommit:
				if _, known := unknown[rec.Commit]; known || len(unknown) < maxUnknown {
					unknown[rec.Commit]++
				}
			case review.Differs:
				file, at := log.locate(line)
				_, err = fmt.Fprintln(a.Out, clean(fmt.Sprintf("%s: line %d (seq %d): %s %s %s %s at %.12s: %s", file, at, rec.Seq,
					rec.Time.Format(time.RFC3339), rec.Subject, rec.Event, strings.TrimSuffix(rec.Workspace+"/"+rec.Name, "/"), dash(rec.Commit), why)))
			}
			return err
		})
		fmt.Fprintf(a.Err, "%s as Git decides, %d differ, %d without a decision of grants\n", count2(count[review.Same], "decision is", "decisions are"), count[review.Differs], count[review.Undecided])
		if n := count[review.UnknownCommit]; n > 0 {
			var names []string
			for _, commit := range slices.Sorted(maps.Keys(unknown)) {
				names = append(names, fmt.Sprintf("%s (%d)", commit, unknown[commit]))
			}
			if len(unknown) == maxUnknown {
				names = append(names, "and perhaps more")
			}
			fmt.Fprintf(a.Err, "%s of commits that this clone does not have: %s\n", count2(n, "record is", "records are"), strings.Join(names, ", "))
		}
		if err := log.located(err, sum); err != nil {
			return err
		}
		if count[review.Differs] > 0 {
			return exitStatus(exitFailed)
		}
		return nil
	}
	return c
}

// maxUnknown is how many commits are named.
const maxUnknown = 20

func count2(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
