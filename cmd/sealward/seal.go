package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal"
)

func (a *app) sealCmd() *cobra.Command {
	var scope, out string
	var inPlace bool
	c := &cobra.Command{
		Use:   "seal [FILE|-]",
		Short: "Seal a plaintext manifest for its workspace",
		Long: `Seal the values of a plaintext manifest for the recipients that .sops.yaml names
for its workspace, and print the sealed manifest, which can be committed. The
workspace is the one the manifest states, that of its path, or -w.`,
		Example: "  sealward seal manifest.yaml --in-place\n  sealward seal - -w orders < plain.yaml > sealed.yaml",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if inPlace && (out != "" || len(args) == 0 || args[0] == "-") {
				return usagef("--in-place needs a FILE, and no --out")
			}
			return a.seal(fileArg(args), scope, out, inPlace)
		},
	}
	c.Flags().StringVarP(&scope, "workspace", "w", "", "workspace of a manifest that states none")
	c.Flags().BoolVar(&inPlace, "in-place", false, "replace FILE by its sealed form")
	c.Flags().StringVar(&out, "out", "", "write the sealed manifest to this file")
	_ = c.RegisterFlagCompletionFunc("workspace", a.completeWorkspaces)
	return c
}

func fileArg(args []string) string {
	if len(args) == 0 {
		return "-"
	}
	return args[0]
}

// readManifest reads and parses FILE or standard input, and says where in the
// repository, if there is one around, the file stands.
func (a *app) readManifest(file string) (m *manifest.Manifest, repo *workspace.Repository, place manifest.Place, err error) {
	repo, err = a.repository()
	if err != nil && (a.repo != "" || !errors.Is(err, workspace.ErrNoRepository)) {
		return nil, nil, place, err
	}
	var data []byte
	shown := file
	if file == "-" {
		shown = "standard input"
		data, err = io.ReadAll(io.LimitReader(a.In, manifest.MaxSize+1))
	} else {
		data, err = a.readFile(file)
	}
	if err != nil {
		return nil, nil, place, err
	}
	if m, err = manifest.Parse(shown, data); err != nil {
		return nil, nil, place, err
	}
	if repo != nil && file != "-" {
		if rel, inside := repo.Rel(file); inside {
			at, ours, err := manifest.Locate(rel)
			if err != nil {
				return nil, nil, place, fmt.Errorf("%s: %w", rel, err)
			}
			if ours {
				place = at
			}
		}
	}
	return m, repo, place, nil
}

func (a *app) seal(file, scope, out string, inPlace bool) error {
	m, repo, place, err := a.readManifest(file)
	if err != nil {
		return err
	}
	if repo == nil {
		_, err := a.repository()
		return err
	}
	ws := m.Workspace
	switch {
	case scope != "":
		if ws, err = scopeArg(scope); err != nil {
			return err
		}
	case !place.Scope.IsZero():
		ws = place.Scope
	}
	if !m.Kind.IsSecret() {
		return fmt.Errorf("%s: is a %s, which holds no value to seal; commit it as it is", m.File, m.Kind)
	}
	if err := seal.PlaceIn(m, ws); err != nil {
		return err
	}
	target := manifest.SecretPath(ws, m.Name)
	if !place.Scope.IsZero() {
		if err := m.CheckPlace(place); err != nil {
			return err
		}
		target, _ = repo.Rel(file)
	}
	rules, err := repo.Rules()
	if err != nil {
		return err
	}
	to, err := rules.Recipients(target)
	if err != nil {
		return err
	}
	opts, err := a.sealOptions(ws, to)
	if err != nil {
		return err
	}
	if file != "-" {
		root, err := os.OpenRoot(filepath.Dir(file))
		if err != nil {
			return err
		}
		defer root.Close()
		opts.ReadFile = func(path string) ([]byte, error) { return readBelow(root, path) }
	}
	sealed, err := seal.Seal(m, to, opts)
	if err != nil {
		return err
	}
	if inPlace {
		out = file
	}
	if out == "" {
		_, err = io.Copy(a.Out, bytes.NewReader(sealed))
		return err
	}
	if err := workspace.WriteFile(out, sealed, 0o666); err != nil {
		return err
	}
	fmt.Fprintf(a.Err, "%s sealed for %d recipients: %s\n", m.ID(), len(to.All()), out)
	return nil
}

// sealOptions are those of seal.Seal for ws. The keyring is only looked at where a
// recipient is a service.
func (a *app) sealOptions(ws manifest.Workspace, to workspace.Recipients) (seal.Options, error) {
	opts := seal.Options{Now: a.Now()}
	if !slices.ContainsFunc(to.All(), workspace.Recipient.Online) {
		return opts, nil
	}
	ring, err := a.openKeyring()
	if err != nil {
		return opts, err
	}
	services, err := ring.Services(ws)
	if err != nil {
		return opts, err
	}
	opts.Keys = unseal.KeyService(services)
	return opts, nil
}

// readBelow reads a file that a manifest's files: names, which must lie below the
// manifest's folder.
func readBelow(root *os.Root, path string) ([]byte, error) {
	info, err := root.Stat(filepath.Clean(path))
	if err != nil {
		return nil, fmt.Errorf("the file it names cannot be read (%w); it must lie below the manifest's folder", withoutPath(err))
	}
	if !info.Mode().IsRegular() || info.Size() > manifest.MaxSize {
		return nil, errors.New("the file it names is not a plain file of at most 2 MiB")
	}
	return root.ReadFile(filepath.Clean(path))
}
