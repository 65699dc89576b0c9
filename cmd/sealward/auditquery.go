package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal/audit"
)

func (a *app) auditQueryCmd() *cobra.Command {
	var f audit.Filter
	var when period
	var format, secret, decision string
	var events []string
	c := &cobra.Command{
		Use:   "query [FILE]",
		Short: "Show who read what, since when, from which commit",
		Long: `Show records of an audit log, the oldest first, those that all of the flags choose.
The chain is verified meanwhile: when it is bad, what was found is shown all the
same, the first bad record is named, and the exit code is 1.

FILE is by default $SEALWARD_AUDIT; - is standard input. Earlier files that rotation
made of it are read too. -o json prints one object a line, as the log has it.`,
		Example: `  sealward audit query state/audit.jsonl --secret orders/orders-db-r --since 7d
  sealward audit query --subject users:id:alice --decision deny -o wide
  sealward audit query --commit 3d1f0c9e --event read -o json`,
		Args: cobra.MaximumNArgs(1),
	}
	c.RunE = func(_ *cobra.Command, args []string) error {
		if err := completeFilter(&f, a.Now(), secret, decision, events, when); err != nil {
			return err
		}
		log, err := a.openAudit(args)
		if err != nil {
			return err
		}
		defer log.Close()
		print := jsonLines(a.Out)
		finish := func() error { return nil }
		if format != "json" {
			t := &streamTable{out: a.Out}
			print, finish = recordRows(t, format == "wide"), t.flush
		}
		sum, err := audit.Walk(log, audit.VerifyOptions{}, func(_ uint64, r audit.Record) error {
			if !f.Match(r) {
				return nil
			}
			return print(r)
		})
		if failed := finish(); failed != nil {
			return failed
		}
		return log.located(err, sum)
	}
	fl := c.Flags()
	fl.StringVar(&f.Subject, "subject", "", "who: users:id:NAME")
	fl.StringVarP(&f.Workspace, "workspace", "w", "", "of this workspace, or instance")
	fl.StringVar(&f.Name, "name", "", "of secrets of this name")
	fl.StringVar(&secret, "secret", "", "of one secret: WORKSPACE/NAME")
	fl.StringVar(&f.Key, "key", "", "that gave, or were asked for, this key")
	fl.StringVar(&f.Commit, "commit", "", "from this commit, or one that begins so")
	fl.StringVar(&decision, "decision", "", "allow or deny")
	fl.StringSliceVar(&events, "event", nil, "read, list, project, approve, sync, start, stop, unauthenticated or torn (may be repeated)")
	when.flags(c)
	outputFlag(c, &format, "table", "wide", "json")
	_ = c.RegisterFlagCompletionFunc("decision", fixed(string(audit.Allow), string(audit.Deny)))
	_ = c.RegisterFlagCompletionFunc("workspace", a.completeWorkspaces)
	return c
}

var commitPrefix = regexp.MustCompile(`^[0-9a-f]{4,64}$`)

// completeFilter reads the flags that are more than a text.
func completeFilter(f *audit.Filter, now time.Time, secret, decision string, events []string, when period) (err error) {
	if f.Subject != "" {
		if _, err := manifest.ParseSubject(f.Subject); err != nil {
			return usageError{fmt.Errorf("--subject: %w", err)}
		}
	}
	if secret != "" {
		if f.Workspace != "" || f.Name != "" {
			return usagef("--secret is WORKSPACE/NAME already; leave out --workspace and --name")
		}
		ws, name, _, err := secretArg(secret, false)
		if err != nil {
			return err
		}
		f.Workspace, f.Name = ws.String(), name.String()
	}
	if f.Commit != "" && !commitPrefix.MatchString(f.Commit) {
		return usagef("--commit is not a commit's hash, or at least 4 of its first digits")
	}
	switch f.Decision = audit.Decision(decision); f.Decision {
	case "", audit.Allow, audit.Deny:
	default:
		return usagef("--decision is %.40q; allow or deny", decision)
	}
	for _, e := range events {
		if !slices.Contains(audit.Events(), audit.Event(e)) {
			return usagef("--event is %.40q; one of %v", e, audit.Events())
		}
		f.Events = append(f.Events, audit.Event(e))
	}
	f.Since, f.Until, err = when.parse(now)
	return err
}

func jsonLines(w io.Writer) func(audit.Record) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return func(r audit.Record) error { return enc.Encode(r) }
}

// recordRows prints records as rows of a table.
func recordRows(t *streamTable, wide bool) func(audit.Record) error {
	t.headings = []string{"TIME", "EVENT", "DECISION", "SUBJECT", "SECRET", "KEYS", "COMMIT"}
	if wide {
		t.headings = append(t.headings, "SEQ", "STATUS", "REASON", "GRANT", "ROLE", "CREDENTIAL", "METHOD", "REMOTE", "TARGET", "PATH", "BLOB")
	}
	return func(r audit.Record) error {
		secret := r.Workspace
		if r.Name != "" {
			secret += "/" + r.Name
		}
		who := r.Subject
		if r.Event == audit.Unauthenticated {
			var reasons []string
			for _, reason := range slices.Sorted(maps.Keys(r.Reasons)) {
				reasons = append(reasons, fmt.Sprintf("%d %s", r.Reasons[reason], reason))
			}
			who = strings.Join(reasons, ", ")
		}
		row := []string{r.Time.Format(time.RFC3339), string(r.Event), string(r.Decision), who, secret, strings.Join(r.Keys, ","), r.Commit}
		if wide {
			blob := r.Blob
			for _, name := range slices.Sorted(maps.Keys(r.Parts)) {
				blob += " " + name + "=" + r.Parts[name]
			}
			status := ""
			if r.Status != 0 {
				status = strconv.Itoa(r.Status)
			}
			row = append(row, strconv.FormatUint(r.Seq, 10), status, r.Reason, r.Grant, r.Role, r.Credential, r.Method, r.Remote, r.Target, r.Path, strings.TrimSpace(blob))
		} else {
			row[6] = shortID(r.Commit)
			if utf8.RuneCountInString(row[5]) > 40 {
				row[5] = fmt.Sprintf("%d keys", len(r.Keys))
			}
		}
		for i := range row {
			row[i] = dash(row[i])
		}
		return t.add(row)
	}
}

func shortID(commit string) string { return commit[:min(len(commit), 12)] }

// streamTable prints rows as table does, but not all at once: the first rows make the
// widths, and a longer cell that comes later moves its row.
type streamTable struct {
	out      io.Writer
	headings []string
	rows     [][]string // until the widths are known
	width    []int
}

const rowsForWidth = 200

func (t *streamTable) add(row []string) error {
	for i := range row {
		row[i] = clean(row[i])
	}
	if t.width != nil {
		return t.print(row)
	}
	if t.rows = append(t.rows, row); len(t.rows) == rowsForWidth {
		return t.flush()
	}
	return nil
}

// flush prints what is kept; without any row it prints nothing.
func (t *streamTable) flush() error {
	if len(t.rows) == 0 {
		return nil
	}
	t.width = make([]int, len(t.headings))
	for _, row := range append([][]string{t.headings}, t.rows...) {
		for i, cell := range row {
			t.width[i] = max(t.width[i], utf8.RuneCountInString(cell))
		}
	}
	var line []string
	for _, n := range t.width {
		line = append(line, strings.Repeat("-", n))
	}
	if err := t.print(t.headings); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(t.out, strings.Join(line, "-|-")); err != nil {
		return err
	}
	rows := t.rows
	t.rows = nil
	for _, row := range rows {
		if err := t.print(row); err != nil {
			return err
		}
	}
	return nil
}

func (t *streamTable) print(row []string) error {
	var b strings.Builder
	for i, cell := range row {
		if i > 0 {
			b.WriteString(" | ")
		}
		b.WriteString(cell + strings.Repeat(" ", max(0, t.width[i]-utf8.RuneCountInString(cell))))
	}
	_, err := fmt.Fprintln(t.out, strings.TrimRight(b.String(), " "))
	return err
}
