package main

import (
	"fmt"
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
		Use:   "unseal [FILE|WORKSPACE/NAME|-]",
		Short: "Open a sealed secret with the keyring",
		Long: `Open a sealed manifest with the identity that the keyring has for its workspace,
verify that it is as it was sealed, and print it with its values in the clear.
WORKSPACE/NAME opens a secret of the repository, also one that is kept in parts,
as one manifest. --key prints one value, raw. -o prints the whole secret in another
form: k8s is a Kubernetes Secret, env is for set -a; . FILE, properties is for Java,
and dir writes one file a key into --out.`,
		Example:           "  sealward unseal orders/orders-db-r --key password\n  sealward unseal workspaces/orders/secrets/orders-db-r.yaml -o dir --out /dev/shm/orders",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeOneSecret,
		RunE: func(_ *cobra.Command, args []string) error {
			if (o.format == "dir") != (o.out != "") {
				return usagef("-o dir and --out DIR belong together; the other forms go to standard output")
			}
			if o.key != "" && o.format != "" {
				return usagef("-o is for a whole secret; the value of --key is printed as it is")
			}
			if err := a.noSilentWait(args); err != nil {
				return err
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
	_ = c.RegisterFlagCompletionFunc("key", func(c *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return a.completeSecrets(c, args[:1], prefix)
	})
	outputFlag(c, &o.format, wholeFormats...)
	return c
}

type unsealOptions struct {
	key, format, scope, out string
	allowUnbound, force     bool
}

// openWhole opens a file, standard input, or a secret of the repository.
func (a *app) openWhole(arg string, o unsealOptions) (*unseal.Whole, error) {
	if isSecretArg(arg) {
		t, s, err := a.findSecret(arg, o.allowUnbound)
		if err != nil {
			return nil, err
		}
		return t.Open(s)
	}
	m, repo, place, err := a.readSealed(arg, o.scope)
	if err != nil {
		return nil, err
	}
	allowUnbound := o.allowUnbound
	if allowUnbound && repo != nil {
		settings, err := repo.Settings()
		if err != nil {
			return nil, err
		}
		allowUnbound = !settings.BindingRequired()
	}
	ring, err := a.rings()(m.Workspace)
	if err != nil {
		return nil, err
	}
	opened, err := unseal.Open(m, ring, unseal.Options{AllowUnbound: allowUnbound})
	if err != nil {
		return nil, err
	}
	return unseal.Assemble([]*unseal.Opened{opened}, []manifest.Place{place})
}

// readSealed reads a sealed manifest, holds it to its place, and settles its
// workspace; scope is for one that says nothing of it.
func (a *app) readSealed(file, scope string) (*manifest.Manifest, *workspace.Repository, manifest.Place, error) {
	m, repo, place, err := a.readManifest(file)
	if err != nil {
		return nil, nil, place, err
	}
	if !m.Kind.IsSecret() {
		return nil, nil, place, fmt.Errorf("%s: is a %s, which is not sealed", m.File, m.Kind)
	}
	if err := m.CheckSealed(); err != nil {
		return nil, nil, place, err
	}
	if !place.Scope.IsZero() {
		if err := m.CheckPlace(place); err != nil {
			return nil, nil, place, err
		}
		// The folder decides; -w cannot say otherwise.
		if err := m.SettleIn(place.Scope); err != nil {
			return nil, nil, place, err
		}
	}
	ws := m.Workspace
	switch {
	case scope != "":
		if ws, err = scopeArg(scope); err != nil {
			return nil, nil, place, err
		}
	case ws.IsZero() && place.Scope.IsZero():
		return nil, nil, place, usagef("%s: states no namespace and stands in no workspace's folder; name its workspace with -w", m.File)
	case ws.IsZero():
		ws = place.Scope
	}
	return m, repo, place, m.SettleIn(ws)
}

func (a *app) unseal(arg string, o unsealOptions) error {
	whole, err := a.openWhole(arg, o)
	if err != nil {
		return err
	}
	a.warn(whole)
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

func keys(values []seal.Value) []string {
	var out []string
	for _, v := range values {
		out = append(out, v.Key.String())
	}
	return out
}
