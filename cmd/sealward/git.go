package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/sealward/sealward/gitops/gitcmd"
	"github.com/sealward/sealward/plugins/git"
	"github.com/sealward/sealward/seal/manifest"
)

func (a *app) gitCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "git",
		Short: "Have git diff, merge and guard sealed manifests",
		Long: `Have git treat sealed manifests for what they are, in one clone: git diff, log and
show tell which keys changed and no ciphertext; git merge, rebase and cherry-pick
merge by key, where the keyring has the workspace's key; git commit refuses values that
are not sealed. sealward git install sets all of it up.`,
	}
	for _, sub := range []*cobra.Command{a.gitInstallCmd(), a.gitUninstallCmd(), a.gitTextconvCmd(), a.gitMergeDriverCmd(), a.gitPreCommitCmd()} {
		c.AddCommand(sub)
	}
	return group(c)
}

// gitPlugin is what commands that git starts may use.
func (a *app) gitPlugin() (*git.Plugin, error) {
	dir, err := filepath.Abs(a.repo) // "" is the current folder
	if err != nil {
		return nil, err
	}
	return &git.Plugin{Dir: dir, Ring: a.rings(), Keys: a.keyService, Now: a.Now, Err: a.Err}, nil
}

func (a *app) gitInstallCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "install",
		Short: "Set up diff, merge and the pre-commit hook in this clone",
		Long: `Set up this clone: the drivers diff.sealward and merge.sealward in git's
configuration, attributes where no .gitattributes gives the sealed files to them, and
a pre-commit hook. A hook that is there already is left as it is. It can be run
again, say after sealward has moved. With --keyring, git's drivers use that folder.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			p, err := a.gitPlugin()
			if err != nil {
				return err
			}
			repo, err := a.repository()
			if err != nil {
				return cmp.Or(p.NotBare(c.Context()), err)
			}
			r, err := p.Install(c.Context(), repo, a.keyring)
			return a.gitReport(r, err, "everything was set up already; nothing was changed")
		},
	}
}

func (a *app) gitUninstallCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "uninstall",
		Short: "Take out of this clone what install set up, and nothing else",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			p, err := a.gitPlugin()
			if err != nil {
				return err
			}
			r, err := p.Uninstall(c.Context(), p.Dir)
			return a.gitReport(r, err, "nothing of sealward's was found; nothing was changed")
		},
	}
}

func (a *app) gitReport(r *git.Report, err error, nothing string) error {
	if r != nil {
		for _, line := range r.Done {
			fmt.Fprintln(a.Out, clean(line))
		}
		for _, line := range r.Left {
			fmt.Fprintln(a.Err, "note:", clean(line))
		}
	}
	if errors.Is(err, gitcmd.ErrNoClone) {
		return usageError{err}
	}
	if err == nil && len(r.Done) == 0 {
		fmt.Fprintln(a.Out, nothing)
	}
	return err
}

func (a *app) gitTextconvCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "textconv FILE",
		Short: "Print a sealed manifest without its values, for git diff",
		Long: `Print what git compares in the place of a sealed manifest: its fields, and for each
key a fingerprint. With the workspace's key in the keyring the fingerprint is of the
value, keyed so that nobody can try values out; else it is of the ciphertext.

Values are shown only when SEALWARD_SHOW_VALUES=1 is set and git writes to a
terminal's pager.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			data, err := readBlob(args[0])
			if err != nil {
				return err
			}
			if data == nil {
				fmt.Fprintf(a.Out, "LARGER THAN A MANIFEST MAY BE (%d bytes), so its content is not shown\n", manifest.MaxSize)
				return nil
			}
			show := a.Getenv("SEALWARD_SHOW_VALUES") == "1"
			if show && a.Getenv("GIT_PAGER_IN_USE") != "true" {
				show = false
				fmt.Fprintln(a.Err, "note: SEALWARD_SHOW_VALUES counts only where git shows its pager on a terminal; values are not shown")
			}
			a.neverAsk = true
			p := &git.Plugin{Ring: a.rings(), Now: a.Now, Err: a.Err}
			_, err = a.Out.Write(p.Textconv(args[0], data, show))
			return err
		},
	}
}

// readBlob reads a file of up to a manifest's size; nil for a larger one.
func readBlob(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out bytes.Buffer
	if n, err := io.Copy(&out, io.LimitReader(f, manifest.MaxSize+1)); err != nil || n > manifest.MaxSize {
		return nil, err
	}
	return append([]byte{}, out.Bytes()...), nil
}

func (a *app) gitMergeDriverCmd() *cobra.Command {
	return &cobra.Command{
		Use: "merge-driver %O %A %B %L %P", Hidden: true,
		Short: "Merge a sealed manifest by key, for git merge",
		Args:  cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			parsed, err := git.ParseDriverArgs(args)
			if err != nil {
				return usageError{err}
			}
			p, err := a.gitPlugin()
			if err != nil {
				return err
			}
			fine, err := p.MergeDriver(c.Context(), parsed)
			if err == nil && !fine {
				return exitStatus(exitFailed) // the conflicts were told, in git's manner
			}
			return err
		},
	}
}

func (a *app) gitPreCommitCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "pre-commit",
		Short: "Refuse to commit values that are not sealed, for a hook",
		Long: `Look at what git commit would commit: refuse values that are not sealed, and what
sealward check calls an error. The hook that install makes calls it; call it from a
hook of your own: sealward git pre-commit || exit 1`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			p, err := a.gitPlugin()
			if err != nil {
				return err
			}
			err = p.PreCommit(c.Context())
			switch {
			case errors.Is(err, git.ErrRefused):
				return exitStatus(exitFailed)
			case errors.Is(err, gitcmd.ErrNoClone):
				return usageError{err}
			}
			return err
		},
	}
}
