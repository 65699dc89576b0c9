package main

import (
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// manCmd is for whoever packages a release, and hidden from everybody else.
func (a *app) manCmd() *cobra.Command {
	return &cobra.Command{
		Use: "man DIR", Short: "Write the man pages into a folder", Hidden: true, Args: cobra.ExactArgs(1),
		ValidArgsFunction: completeFolder,
		RunE: func(c *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			b := thisBuild()
			// The commit's date, so that the same commit makes the same pages.
			when, err := time.Parse(time.RFC3339, b.Date)
			if err != nil {
				when = a.Now()
			}
			c.Root().DisableAutoGenTag = true
			return doc.GenManTree(c.Root(), &doc.GenManHeader{Section: "1", Date: &when, Source: "sealward " + b.Version, Manual: "sealward"}, args[0])
		},
	}
}
