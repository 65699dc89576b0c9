package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// The release build sets these (-ldflags -X); they are constants otherwise.
var (
	version = ""
	commit  = ""
	date    = ""
)

// build is what a binary is made of.
type build struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	// Date is the commit's, so that the same commit makes the same binary.
	Date string `json:"date,omitempty"`
	// Modified: the binary has changes that the commit has not.
	Modified bool   `json:"modified,omitempty"`
	Platform string `json:"platform"`
	Go       string `json:"go"`
}

// buildOf falls back to what the Go tool notes in a binary; info may be nil.
func buildOf(version, commit, date string, info *debug.BuildInfo) build {
	b := build{Version: version, Commit: commit, Date: date, Platform: runtime.GOOS + "/" + runtime.GOARCH, Go: runtime.Version()}
	if info != nil {
		if b.Version == "" {
			b.Version = info.Main.Version
		}
		noted := map[string]string{}
		for _, s := range info.Settings {
			noted[s.Key] = s.Value
		}
		if b.Commit == "" {
			b.Commit, b.Date, b.Modified = noted["vcs.revision"], noted["vcs.time"], noted["vcs.modified"] == "true"
		}
	}
	if b.Version == "" {
		b.Version = "(devel)"
	}
	return b
}

func thisBuild() build {
	info, _ := debug.ReadBuildInfo()
	return buildOf(version, commit, date, info)
}

func buildVersion() string { return thisBuild().Version }

func (b build) String() string {
	text := fmt.Sprintf("sealward %s %s %s\n", b.Version, b.Platform, b.Go)
	if b.Commit == "" {
		return text
	}
	text += "commit " + b.Commit
	if b.Date != "" {
		text += " of " + b.Date
	}
	if b.Modified {
		text += ", modified"
	}
	return text + "\n"
}

func (a *app) versionCmd() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use: "version", Short: "Print version, commit and date", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if format != "" {
				return printAs(a.Out, format, thisBuild())
			}
			fmt.Fprint(a.Out, thisBuild())
			return nil
		},
	}
	outputFlag(c, &format, "json", "yaml")
	return c
}
