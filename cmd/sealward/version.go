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

// buildVersion falls back to what the Go tool notes in the binary.
func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

func (a *app) versionCmd() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := struct {
				Version string `json:"version"`
				Commit  string `json:"commit,omitempty"`
				Date    string `json:"date,omitempty"`
				Go      string `json:"go"`
			}{buildVersion(), commit, date, runtime.Version()}
			if format != "" {
				return printAs(a.Out, format, v)
			}
			fmt.Fprintf(a.Out, "sealward %s %s/%s %s\n", v.Version, runtime.GOOS, runtime.GOARCH, v.Go)
			return nil
		},
	}
	outputFlag(c, &format, "json", "yaml")
	return c
}
