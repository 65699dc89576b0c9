package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal"
)

func (a *app) unsealCmd() *cobra.Command {
	var o unsealOptions
	c := &cobra.Command{
		Use:   "unseal [FILE|-]",
		Short: "Open a sealed manifest with the keyring",
		Long: `Open a sealed manifest with the identity that the keyring has for its workspace,
verify that it is as it was sealed, and print it with its values in the clear.
--key prints one value, raw. -o prints the whole secret in another form: k8s is a
Kubernetes Secret, env is for set -a; . FILE, properties is for Java, and dir writes
one file a key into --out.`,
		Example: "  sealward unseal workspaces/orders/secrets/orders-db-r.yaml --key password\n  sealward unseal workspaces/orders/secrets/orders-db-r.yaml -o dir --out /dev/shm/orders",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if (o.format == "dir") != (o.out != "") {
				return usagef("-o dir and --out DIR belong together")
			}
			return a.unseal(fileArg(args), o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.key, "key", "", "print only the value of this key, as it is")
	f.BoolVar(&o.allowUnbound, "allow-unbound", false, "accept a manifest without a binding, as plain sops writes it")
	f.StringVarP(&o.scope, "workspace", "w", "", "workspace of a Kubernetes Secret that states no namespace and stands in no workspace's folder")
	f.StringVar(&o.out, "out", "", "with -o dir: a folder that does not exist yet, or is empty")
	f.BoolVar(&o.force, "force", false, "with -o dir: also into a Git work tree")
	_ = c.RegisterFlagCompletionFunc("workspace", a.completeWorkspaces)
	outputFlag(c, &o.format, wholeFormats...)
	return c
}

type unsealOptions struct {
	key, format, scope, out string
	allowUnbound, force     bool
}

// open unseals a manifest with the ring of its workspace.
func (a *app) open(m *manifest.Manifest, repo *workspace.Repository, place manifest.Place, allowUnbound bool) (*unseal.Opened, error) {
	if !m.Kind.IsSecret() {
		return nil, fmt.Errorf("%s: is a %s, which is not sealed", m.File, m.Kind)
	}
	if err := m.CheckSealed(); err != nil {
		return nil, err
	}
	if !place.Scope.IsZero() {
		if err := m.CheckPlace(place); err != nil {
			return nil, fmt.Errorf("%w: %w", errUnsealable, err)
		}
		if err := m.SettleIn(place.Scope); err != nil {
			return nil, err
		}
	}
	if m.Workspace.IsZero() {
		return nil, usagef("%s: states no namespace and stands in no workspace's folder; name its workspace with -w", m.File)
	}
	if allowUnbound && repo != nil {
		settings, err := repo.Settings()
		if err != nil {
			return nil, err
		}
		allowUnbound = !settings.BindingRequired()
	}
	ring, err := a.openKeyring()
	if err != nil {
		return nil, err
	}
	r, err := ring.Ring(m.Workspace)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(ring.Path(m.Workspace)); err == nil && info.Mode().Perm()&0o077 != 0 && runtime.GOOS != "windows" {
		fmt.Fprintf(a.Err, "warning: other users can read the private key %s; chmod 600 it\n", ring.Path(m.Workspace))
	}
	opened, err := unseal.Open(m, r, unseal.Options{AllowUnbound: allowUnbound})
	if err != nil {
		return nil, err
	}
	if place.Part != "" {
		opened.Envelope.AsPart()
	}
	if !opened.Bound {
		fmt.Fprintf(a.Err, "warning: %s has no binding: nothing proves that its values belong to this name and workspace\n", m.File)
	}
	for _, v := range opened.Values {
		if v.Retyped != "" {
			fmt.Fprintf(a.Err, "warning: %s: %s was sealed as %s by plain sops, which may have changed how it is written\n", m.File, v.Key, v.Retyped)
		}
	}
	return opened, nil
}

func (a *app) unseal(arg string, o unsealOptions) error {
	whole, err := a.openWhole(arg, o)
	if err != nil {
		return err
	}
	if o.key != "" {
		k, err := keyArg(o.key)
		if err != nil {
			return err
		}
		for _, v := range whole.Values {
			if v.Key == k {
				_, err := a.Out.Write(v.Data)
				return err
			}
		}
		return fmt.Errorf("%s: %w: %s; it has %s", whole.Manifest.File, seal.ErrNoKey, k, strings.Join(keys(whole.Values), ", "))
	}
	if o.format == "dir" {
		return writeWhole(o.out, whole, o.force)
	}
	return printWhole(a.Out, whole, o.format)
}

// openWhole opens the secret that an argument of unseal names.
func (a *app) openWhole(file string, o unsealOptions) (*unseal.Whole, error) {
	m, repo, place, err := a.readManifest(file)
	if err != nil {
		return nil, err
	}
	if o.scope != "" {
		ws, err := scopeArg(o.scope)
		if err != nil {
			return nil, err
		}
		if m.Kind.IsSecret() {
			if err := m.SettleIn(ws); err != nil {
				return nil, err
			}
		}
	}
	opened, err := a.open(m, repo, place, o.allowUnbound)
	if err != nil {
		return nil, err
	}
	return unseal.Assemble([]*unseal.Opened{opened}, []manifest.Place{place})
}

func keys(values []seal.Value) []string {
	var out []string
	for _, v := range values {
		out = append(out, v.Key.String())
	}
	return out
}

// openSecret opens WS/NAME of the repository, for a change.
func (a *app) openSecret(arg string) (repo *workspace.Repository, path string, opened *unseal.Opened, err error) {
	ws, name, _, err := secretArg(arg, false)
	if err != nil {
		return nil, "", nil, err
	}
	if repo, err = a.repository(); err != nil {
		return nil, "", nil, err
	}
	if path, err = repo.FindSecret(ws, name); err != nil {
		return nil, "", nil, err
	}
	data, err := repo.Read(path)
	if err != nil {
		return nil, "", nil, err
	}
	m, err := manifest.Parse(path, data)
	if err != nil {
		return nil, "", nil, err
	}
	place, _, err := manifest.Locate(path)
	if err != nil {
		return nil, "", nil, err
	}
	opened, err = a.open(m, repo, place, false)
	return repo, path, opened, err
}
