package main

import (
	"io"

	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal"
)

// wholeFormats are the formats of printWhole, and dir, which writeWhole takes.
var wholeFormats = []string{"yaml", "json", "k8s", "env", "properties", "dir"}

// printWhole prints an unsealed secret; the format "" is that of its file.
func printWhole(w io.Writer, whole *unseal.Whole, format string) error {
	var text []byte
	var err error
	switch format {
	case "json", "yaml":
		text, err = whole.PlaintextAs(format == "json")
	case "k8s":
		text, err = whole.Kubernetes()
	case "env":
		text, err = whole.Env()
	case "properties":
		text, err = whole.Properties()
	default:
		text, err = whole.Plaintext()
	}
	if err != nil {
		return err
	}
	_, err = w.Write(text)
	return err
}

// writeWhole writes one file a key. Plaintext in a work tree is one git add away
// from being published, so that takes force.
func writeWhole(dir string, whole *unseal.Whole, force bool) error {
	if err := outsideGit(dir, force); err != nil {
		return err
	}
	return unseal.WriteDir(dir, whole.Values)
}

func outsideGit(dir string, force bool) error {
	if !force && workspace.InGit(dir) {
		return usagef("--out is in a Git work tree, where values are easily committed; choose another folder, or give --force if Git ignores this one")
	}
	return nil
}
