package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealward/sealward/unseal/audit"
)

func (a *app) auditCmd() *cobra.Command {
	c := group(&cobra.Command{Use: "audit", Short: "Verify, query and replay an agent's audit log"})
	c.AddCommand(a.auditVerifyCmd(), a.auditQueryCmd(), a.auditReplayCmd())
	return c
}

func (a *app) auditVerifyCmd() *cobra.Command {
	var opts audit.VerifyOptions
	c := &cobra.Command{
		Use:   "verify [FILE]",
		Short: "Verify that no record of an audit log was changed, removed, added or moved",
		Long: `Verify the chain of an audit log: each record holds the hash of the one before.
Earlier files that rotation made of FILE (FILE.000000001234) are verified with it,
in order. --head, from /v1/status or the agent's log, also shows a log that was cut
at its end or computed anew.

FILE is by default $SEALWARD_AUDIT; - is standard input.`,
		Example: `  sealward audit verify state/audit.jsonl --head 5f3c…
  sealward audit verify state/audit.jsonl --after 91ab…  # what is left after earlier files were archived`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			log, err := a.openAudit(args)
			if err != nil {
				return err
			}
			defer log.Close()
			sum, err := audit.Verify(log, opts)
			var bad *audit.BadRecord
			if errors.As(err, &bad) && sum.HeadSeq > 0 {
				fmt.Fprintf(a.Err, "up to seq %d, which has the given head, the log is intact\n", sum.HeadSeq)
			}
			if err := log.located(err, sum); err != nil {
				return err
			}
			in := ""
			if n := len(log.paths()); n > 1 {
				in = fmt.Sprintf(" in %d files", n)
			}
			fmt.Fprintf(a.Out, "%d records%s are intact; the last is seq %d, head %s\n", sum.Records, in, sum.Seq, sum.Head)
			return nil
		},
	}
	c.Flags().StringVar(&opts.Head, "head", "", "hash that the last record must have")
	c.Flags().StringVar(&opts.After, "after", "", "hash of the record before the first, where earlier files were archived")
	return c
}

// auditLog is a log that a command reads.
type auditLog struct {
	io.Reader
	name  string       // as it was given
	files *audit.Files // nil for standard input
}

// openAudit opens the log that the arguments or SEALWARD_AUDIT name.
func (a *app) openAudit(args []string) (*auditLog, error) {
	name := a.Getenv("SEALWARD_AUDIT")
	if len(args) > 0 && args[0] != "" {
		name = args[0]
	}
	switch name {
	case "":
		return nil, usagef("which audit log? Name its file (audit.file of the agent), or set SEALWARD_AUDIT")
	case "-":
		return &auditLog{Reader: a.In, name: "standard input"}, nil
	}
	files, err := audit.OpenFiles(name)
	if err != nil {
		return nil, err
	}
	return &auditLog{files, name, files}, nil
}

func (l *auditLog) Close() error {
	if l.files == nil {
		return nil
	}
	return l.files.Close()
}

func (l *auditLog) paths() []string {
	if l.files == nil {
		return nil
	}
	return l.files.Paths()
}

// locate says in which file a line is, beside the name that was given, and which line.
func (l *auditLog) locate(line uint64) (string, uint64) {
	if l.files == nil {
		return l.name, line
	}
	path, n := l.files.Locate(line)
	if paths := l.paths(); path == paths[len(paths)-1] {
		return l.name, n
	}
	return filepath.Join(filepath.Dir(l.name), filepath.Base(path)), n
}

// located is an error of reading the log with the place it is about.
func (l *auditLog) located(err error, sum audit.Summary) error {
	var bad *audit.BadRecord
	if !errors.As(err, &bad) {
		if err != nil {
			err = fmt.Errorf("%s: %w", l.name, err)
		}
		return err
	}
	file, line := l.locate(bad.Line)
	err = fmt.Errorf("%s: %w", file, &audit.BadRecord{Line: line, Seq: bad.Seq, Reason: bad.Reason})
	if sum.Records == 0 && bad.Line == 1 {
		err = fmt.Errorf("%w\nwhere earlier files were archived, --after names the hash of the record before", err)
	}
	return err
}

// period is --since and --until.
type period struct{ since, until string }

func (p *period) flags(c *cobra.Command) {
	c.Flags().StringVar(&p.since, "since", "", "from this time on: 24h or 7d ago, 2027-01-31, or 2027-01-31T08:00:00Z")
	c.Flags().StringVar(&p.until, "until", "", "before this time")
	for _, f := range []string{"since", "until"} {
		_ = c.RegisterFlagCompletionFunc(f, cobra.NoFileCompletions)
	}
}

func (p *period) parse(now time.Time) (since, until time.Time, err error) {
	if since, err = parseTime("since", p.since, now); err != nil {
		return since, until, err
	}
	until, err = parseTime("until", p.until, now)
	return since, until, err
}

// parseTime reads a time, or how long ago it was; the zero time of "".
func parseTime(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} { // a date begins in UTC
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	ago, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16)
		ago = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || ago < 0 {
		return time.Time{}, usagef("--%s is %.40q; it wants 24h or 7d, 2027-01-31, or 2027-01-31T08:00:00Z", flag, text)
	}
	return now.Add(-ago), nil
}
