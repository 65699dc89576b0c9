package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealward/sealward/unseal/serve"
)

func (a *app) statusCmd() *cobra.Command {
	var format string
	var check bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Show how an agent is doing: its sources, and what is not served as committed",
		Long: `Show what an agent follows and serves, and every manifest that is not served as
committed, with what to do about it. Operators and monitors of the agent see all;
others see what they may list.`,
		Example: "  sealward status --server https://127.0.0.1:8420 --ca-file ca.pem --token-file ops.token\n  sealward status --check",
		Args:    cobra.NoArgs,
	}
	connect := a.serverFlags(c)
	c.Flags().BoolVar(&check, "check", false, "exit with code 3 when something is not well")
	outputFlag(c, &format, "wide", "yaml", "json")
	c.RunE = func(c *cobra.Command, _ []string) error {
		cl, err := connect()
		if err != nil {
			return err
		}
		status, err := cl.Status(c.Context())
		if err != nil {
			return err
		}
		switch format {
		case "", "wide":
			printStatus(a.Out, status, format == "wide", a.Now())
		default:
			if err := printAs(a.Out, format, status); err != nil {
				return err
			}
		}
		if check && !well(status) {
			return errFindings
		}
		return nil
	}
	return c
}

// well: every source serves a commit and was followed to its head, and all is served
// as committed and stands in the cluster.
func well(s serve.StatusJSON) bool {
	for _, src := range s.Sources {
		if src.Commit == "" || src.Sync.Error != "" || src.Sync.LagSeconds > 0 {
			return false
		}
	}
	if c := s.Cluster; c != nil && !c.Well() {
		return false
	}
	return s.Ready && s.Counts == serve.CountsJSON{}
}

func printStatus(w io.Writer, s serve.StatusJSON, wide bool, now time.Time) {
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(tw, "SOURCE\tBRANCH\tCOMMIT\tSECRETS\tLAG\tSUCCESS\tSTATE")
	for _, src := range s.Sources {
		state := "ok"
		switch {
		case src.Sync.Error != "":
			state = src.Sync.Class
		case src.Commit == "":
			state = "not ready"
		}
		fmt.Fprintf(tw, "%s\t%s\t%.12s\t%d\t%s\t%s\t%s\n", dash(src.Name), src.Branch, dash(src.Commit), src.Secrets,
			time.Duration(src.Sync.LagSeconds*float64(time.Second)).Round(time.Second), ago(src.Sync.LastSuccess, now), state)
	}
	tw.Flush()
	for _, src := range s.Sources {
		if wide {
			fmt.Fprintf(w, "\n%s: %s, head %s, %d packs\n", dash(src.Name), src.URL, dash(src.Sync.Head), src.Sync.Packs)
		}
		if src.Sync.Error != "" {
			fmt.Fprintf(w, "\n%s: %d looks failed in a row: %s\n  to do: %s\n", dash(src.Name), src.Sync.Failures, src.Sync.Error, src.Sync.Remedy)
		}
	}
	if wide {
		fmt.Fprintf(w, "\naudit: seq %d, head %s\n", s.Audit.Seq, s.Audit.Head)
	}
	printCluster(w, s.Cluster)
	for _, f := range s.Failing {
		served := "not served"
		if f.Stale {
			served = "its last good content is served"
		}
		fmt.Fprintf(w, "\n%s: %s since %s, %s\n  %s\n  to do: %s\n", f.Path, f.Class, f.Since.Format(time.RFC3339), served, indented(f.Reason), f.Remedy)
	}
	for _, h := range s.Held {
		fmt.Fprintf(w, "\ncommit %s removes %d files that stay served until the operator's word\n  %s\n  to do: sealward agent approve %[1]s, or restore them\n", h.Commit, h.Count, strings.Join(h.Paths, "\n  "))
	}
	for _, c := range s.Contested {
		fmt.Fprintf(w, "\nworkspace %s: claimed by the sources %s, so all its reads are refused\n  to do: remove it from one, or list it in workspaces of the one that has it\n", c.Workspace, strings.Join(c.Sources, ", "))
	}
	for _, p := range s.Problems {
		fmt.Fprintf(w, "\n%s\n", indented(p.Reason))
	}
	hidden := s.Counts.Failing - len(s.Failing) + s.Counts.Problems - len(s.Problems) + s.Counts.Contested - len(s.Contested) + s.Counts.Held
	for _, h := range s.Held {
		hidden -= len(h.Paths)
	}
	if hidden > 0 {
		fmt.Fprintf(w, "\n%d more that you may not list; an operator sees all\n", hidden)
	}
}

// printCluster tells how the agent takes part in a cluster; nil prints nothing.
func printCluster(w io.Writer, c *serve.ClusterJSON) {
	if c == nil {
		return
	}
	leader := dash(c.Leader)
	if c.Leading {
		leader += " (this agent)"
	}
	fmt.Fprintf(w, "\ncluster, namespace %s: %s writes; this agent is %s\n", c.Namespace, leader, c.Identity)
	for _, repository := range slices.Sorted(maps.Keys(c.Commits)) {
		fmt.Fprintf(w, "  %s: commit %.12s\n", repository, c.Commits[repository])
	}
	for _, o := range c.Objects {
		if c.Leading {
			fmt.Fprintf(w, "  %s: %d of %d stand\n", o.Kind, o.Ready, o.Desired)
		} else {
			fmt.Fprintf(w, "  %s: %d should stand; the leader knows how many do\n", o.Kind, o.Desired)
		}
	}
	if c.SkewSeconds != 0 {
		fmt.Fprintf(w, "  this machine's clock is %s the API server's\n  to do: set it right; grants expire by it\n", c.Skew())
	}
	if c.Waiting != "" {
		fmt.Fprintf(w, "  not written: %s\n", c.Waiting)
	}
	if c.Held > 0 {
		fmt.Fprintf(w, "  %d objects stay that no commit was seen to remove\n  to do: sealward agent approve COMMIT, of the commit that is served, or restore the settings\n", c.Held)
	}
	for _, p := range c.Problems {
		fmt.Fprintf(w, "\n%s: %s\n  %s\n", dash(p.Where()), p.Reason, indented(p.Message))
		if p.Remedy != "" {
			fmt.Fprintf(w, "  to do: %s\n", p.Remedy)
		}
	}
	if more := c.More(); more > 0 {
		fmt.Fprintf(w, "\n%d more problems in the cluster\n", more)
	}
}

func indented(text string) string { return strings.ReplaceAll(text, "\n", "\n  ") }

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func ago(t, now time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return now.Sub(t).Round(time.Second).String() + " ago"
}
