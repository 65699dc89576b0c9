package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/sealward/sealward/seal/manifest"
)

func (a *app) schemaCmd() *cobra.Command {
	kinds := strings.Split("secret,instance-secret,kubernetes-secret,grant,role", ",")
	return &cobra.Command{
		Use: "schema KIND", Short: "Print the JSON Schema of a kind of manifest: " + strings.Join(kinds, ", "),
		Args: cobra.ExactArgs(1), ValidArgs: kinds,
		RunE: func(_ *cobra.Command, args []string) error {
			text, err := manifest.Schema(manifest.Kind(args[0]))
			if err != nil {
				return usageError{err}
			}
			_, err = a.Out.Write(text)
			return err
		},
	}
}
