package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sealward/sealward/gitops/worktree"
	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal"
)

func (a *app) sealCmd() *cobra.Command {
	var o sealOptions
	var rebind bool
	c := &cobra.Command{
		Use:   "seal [FILE|-]",
		Short: "Seal a plaintext manifest for its workspace",
		Long: `Seal the values of a plaintext manifest for the recipients that .sops.yaml names
for its workspace, and print the sealed manifest, which can be committed. The
workspace is the one the manifest states, that of its path, or -w.

The manifest may be YAML or JSON, in DataOS's form or a Kubernetes v1 Secret, whose
namespace is its workspace. ${VAR} in a value is text like any other, unless
--interpolate is given: then $${VAR} stands for the text ${VAR}.

--rebind takes a sealed FILE that plain sops wrote or edited, whose MAC fits, and
binds its values to the name and workspace that the file states. Look at the file
first: what you bind is what will be served. It needs the private key.`,
		Example: "  sealward seal manifest.yaml --in-place\n  sealward seal - -w orders < plain.yaml > sealed.yaml",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if rebind {
				if o.out != "" || o.interpolate || o.filesOutside || len(args) == 0 {
					return usagef("--rebind takes one FILE, which it replaces, or - for standard input, and of the other flags only -w")
				}
				return a.rebind(args[0], o.scope)
			}
			if o.inPlace && (o.out != "" || len(args) == 0 || args[0] == "-") {
				return usagef("--in-place needs a FILE, and no --out")
			}
			if err := a.noSilentWait(args); err != nil {
				return err
			}
			return a.seal(fileArg(args), o)
		},
	}
	c.Flags().StringVarP(&o.scope, "workspace", "w", "", "workspace of a manifest that states none")
	c.Flags().BoolVar(&o.inPlace, "in-place", false, "replace FILE by its sealed form")
	c.Flags().BoolVar(&rebind, "rebind", false, "bind a sealed FILE of plain sops to what it states, in place")
	c.Flags().StringVar(&o.out, "out", "", "write the sealed manifest to this file")
	c.Flags().BoolVar(&o.interpolate, "interpolate", false, "expand ${VAR} in values and in the paths of files from the environment; an unset variable is an error")
	c.Flags().BoolVar(&o.filesOutside, "allow-files-outside", false, "let files: name files outside the manifest's folder")
	_ = c.RegisterFlagCompletionFunc("workspace", a.completeWorkspaces)
	return c
}

type sealOptions struct {
	scope, out                         string
	inPlace, interpolate, filesOutside bool
}

func fileArg(args []string) string {
	if len(args) == 0 {
		return "-"
	}
	return args[0]
}

// noSilentWait: without an argument, a command on a terminal would wait for a
// manifest to be typed and not say so.
func (a *app) noSilentWait(args []string) error {
	if len(args) == 0 && a.interactive() {
		return usagef("name a FILE, or - to type or paste a manifest")
	}
	return nil
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
		data, err = await(a.stop, func() ([]byte, error) { return io.ReadAll(io.LimitReader(a.In, manifest.MaxSize+1)) })
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

func (a *app) seal(file string, o sealOptions) error {
	m, repo, place, err := a.readManifest(file)
	if err != nil {
		return err
	}
	if repo == nil {
		_, err := a.repository()
		return err
	}
	plain := worktree.Plain{Manifest: m}
	if o.scope != "" {
		if plain.Workspace, err = scopeArg(o.scope); err != nil {
			return err
		}
	}
	if !place.Scope.IsZero() {
		plain.Path, _ = repo.Rel(file)
	}
	if ext := filepath.Ext(o.out); ext == ".json" && !m.JSON || ext == ".yaml" && m.JSON {
		return usagef("--out ends in %s, but the manifest is not written so; a manifest stays YAML or JSON when it is sealed", ext)
	}
	if o.interpolate && !m.Sealed && m.Kind.IsSecret() {
		if err := seal.Interpolate(m, a.LookupEnv); err != nil {
			return err
		}
	}
	switch {
	case file == "-":
	case o.filesOutside:
		plain.ReadFile = worktree.FilesAnywhere(filepath.Dir(file))
	default:
		root, err := os.OpenRoot(filepath.Dir(file))
		if err != nil {
			return err
		}
		defer root.Close()
		plain.ReadFile = worktree.FilesBelow(root)
	}
	t, err := a.tree(false)
	if err != nil {
		return err
	}
	sealed, to, err := t.Seal(plain)
	if errors.Is(err, worktree.ErrNoWorkspace) {
		return usagef("%w; name its workspace with -w", err)
	}
	if err != nil {
		return err
	}
	out := o.out
	if o.inPlace {
		out = file
	}
	if out == "" {
		_, err = io.Copy(a.Out, bytes.NewReader(sealed))
		return err
	}
	if err := workspace.WriteFile(out, sealed, 0o666); err != nil {
		return err
	}
	fmt.Fprintf(a.Err, "%s sealed for %s: %s\n", m.ID(), count(len(to.All()), "recipient"), out)
	return nil
}

// rebind seals a file of plain sops again, with a binding.
func (a *app) rebind(file, scope string) error {
	m, _, place, err := a.readSealed(file, scope)
	if err != nil {
		return err
	}
	ring, err := a.rings()(m.Workspace)
	if err != nil {
		return err
	}
	opened, err := unseal.Open(m, ring, unseal.Options{Rebind: true})
	if err != nil {
		return err
	}
	for _, v := range opened.Values {
		if v.Retyped != "" {
			fmt.Fprintf(a.Err, "warning: %s: %s was sealed as %s by plain sops; it is kept as the text that shows\n", m.File, v.Key, v.Retyped)
		}
	}
	if err := opened.Envelope.Rebind(place.Part != ""); err != nil {
		return err
	}
	sealed, err := opened.Envelope.Reseal(a.Now())
	if err != nil {
		return err
	}
	if file == "-" {
		_, err := a.Out.Write(sealed)
		return err
	}
	if err := workspace.WriteFile(file, sealed, 0o666); err != nil {
		return err
	}
	fmt.Fprintf(a.Err, "%s bound with the keys %s: %s\n", m.ID(), strings.Join(keys(opened.Values), ", "), file)
	return nil
}
