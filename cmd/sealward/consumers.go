package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealward/sealward/gitops/gitcmd"
	"github.com/sealward/sealward/gitops/review"
	"github.com/sealward/sealward/unseal/audit"
)

func (a *app) consumersCmd() *cobra.Command {
	var at, file, since, format string
	var server, check bool
	c := &cobra.Command{
		Use:   "consumers WORKSPACE/NAME",
		Short: "Show who read a secret, and who has not read its newest content yet",
		Long: `Show from an agent's audit which identity last read which content of a secret, and
which of them have not read the newest one yet: when all have, the old credential may
be revoked. A content is the secret's own files: commits that change others make
nobody outdated. An identity that asked whether something is newer, and was told no,
counts as a reader of what it has.

The newest content is that of --at (default HEAD of --repo); with --from-server, of
the commit that the agent serves now. The audit is --audit, by default
$SEALWARD_AUDIT; - is standard input.

Exit codes: 0 answered; with --check 3 when somebody has not read the newest.`,
		Example: `  sealward consumers orders/orders-db-r --audit state/audit.jsonl
  sealward consumers orders/orders-db-r --since 30d --check && revoke-the-old-one`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeOneSecret,
	}
	fl := c.Flags()
	fl.StringVar(&file, "audit", "", "the agent's audit log (default $SEALWARD_AUDIT)")
	fl.StringVar(&at, "at", "", "commit whose content is the newest (default HEAD)")
	fl.BoolVar(&server, "from-server", false, "take the commit that the agent at --server serves")
	fl.StringVar(&since, "since", "", "only identities that read something from this time on: 30d, 2027-01-31")
	fl.BoolVar(&check, "check", false, "exit with code 3 when somebody has not read the newest content")
	connect := a.serverFlags(c)
	outputFlag(c, &format, "wide", "json", "yaml")
	_ = c.RegisterFlagCompletionFunc("at", a.completeRevisions)
	c.MarkFlagsMutuallyExclusive("at", "from-server")
	c.RunE = func(c *cobra.Command, args []string) error {
		ws, name, _, err := secretArg(args[0], false)
		if err != nil {
			return err
		}
		from, err := parseTime("since", since, a.Now())
		if err != nil {
			return err
		}
		log, err := a.openAudit([]string{file})
		if err != nil {
			return err
		}
		defer log.Close()
		repo, err := a.reviewed(c.Context())
		if err != nil {
			return err
		}
		revs := []string{at}
		switch {
		case server:
			cl, err := connect()
			if err != nil {
				return err
			}
			status, err := cl.Status(c.Context())
			if err != nil {
				return err
			}
			revs = nil
			for _, src := range status.Sources {
				if src.Commit != "" {
					revs = append(revs, src.Commit)
				}
			}
		case at == "":
			revs = []string{"HEAD"}
		}
		consumers, tree, err := firstKnown(revs, func(rev string) (*review.Consumers, *review.Tree, error) {
			t, err := repo.At(c.Context(), rev)
			if err != nil {
				return nil, nil, gitUsage(err)
			}
			out, err := t.Consumers(c.Context(), ws, name)
			if err != nil {
				t.Close()
			}
			return out, t, err
		})
		if err != nil {
			return err
		}
		defer tree.Close()
		sum, bad := audit.Walk(log, audit.VerifyOptions{}, func(_ uint64, r audit.Record) error { return consumers.Add(c.Context(), r) })
		consumers.Finish(from)
		if format == "json" || format == "yaml" {
			err = printAs(a.Out, format, consumers)
		} else {
			printConsumers(a.Out, a.Err, consumers, format == "wide")
		}
		if err := errors.Join(log.located(bad, sum), err); err != nil {
			return err
		}
		if check && consumers.Outdated() > 0 {
			return exitStatus(exitFindings)
		}
		return nil
	}
	return c
}

// firstKnown asks of the first commit that the clone has: of an agent that follows several
// repositories, that of this one.
func firstKnown(revs []string, ask func(string) (*review.Consumers, *review.Tree, error)) (c *review.Consumers, t *review.Tree, err error) {
	err = errors.New("the agent has applied no commit yet")
	for _, rev := range revs {
		if c, t, err = ask(rev); err == nil {
			return c, t, nil
		}
		if !errors.Is(err, gitcmd.ErrNoRevision) && !errors.Is(err, gitcmd.ErrNoObject) {
			break
		}
	}
	return nil, nil, err
}

func printConsumers(out, notes io.Writer, c *review.Consumers, wide bool) {
	headings := []string{"SUBJECT", "STATE", "LAST READ", "COMMIT"}
	if wide {
		headings = append(headings, "CREDENTIAL", "REMOTE", "READS")
	}
	var rows [][]string
	for _, r := range c.Consumers {
		state := "current"
		if !r.Current {
			state = "outdated"
		}
		row := []string{r.Subject, state, r.LastRead.Format(time.RFC3339), shortID(r.Commit)}
		if wide {
			var reads []string
			for _, read := range r.Reads {
				text := read.Path + " " + shortID(read.Blob) + " at " + read.Time.Format(time.RFC3339)
				if read.Outdated {
					text += " (outdated)"
				}
				reads = append(reads, text)
			}
			row = append(row, dash(r.Credential), dash(r.Remote), dash(strings.Join(reads, ", ")))
		}
		rows = append(rows, row)
	}
	secret := c.Workspace + "/" + c.Name
	if len(rows) > 0 {
		table(out, headings, rows)
	}
	newest := "the newest is of commit " + shortID(c.Commit)
	if len(c.Newest) == 0 {
		newest = "commit " + shortID(c.Commit) + " does not have the secret"
	} else if wide {
		for _, path := range slices.Sorted(maps.Keys(c.Newest)) {
			newest += ", " + path + " " + shortID(c.Newest[path])
		}
	}
	switch n := c.Outdated(); {
	case len(rows) == 0:
		fmt.Fprintf(notes, "nobody read %s; %s\n", secret, clean(newest))
	case n == 0:
		fmt.Fprintf(notes, "all %d that read %s have its newest content; %s\n", len(rows), secret, clean(newest))
	default:
		fmt.Fprintf(notes, "%d of %d that read %s have not read its newest content: an old credential is in use still; %s\n", n, len(rows), secret, clean(newest))
	}
}
