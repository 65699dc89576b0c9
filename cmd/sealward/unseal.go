package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal"
)

func (a *app) unsealCmd() *cobra.Command {
	var key, format string
	var allowUnbound bool
	c := &cobra.Command{
		Use:   "unseal [FILE|WORKSPACE/NAME|-]",
		Short: "Open a sealed secret with the keyring",
		Long: `Open a sealed manifest with the identity that the keyring has for its workspace,
verify that it is as it was sealed, and print it with its values in the clear.
WORKSPACE/NAME opens a secret of the repository, also one that is kept in parts,
as one manifest. --key prints one value, raw.`,
		Example:           "  sealward unseal workspaces/orders/secrets/orders-db-r.yaml --key password",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeOneSecret,
		RunE:              func(_ *cobra.Command, args []string) error { return a.unseal(fileArg(args), key, format, allowUnbound) },
	}
	c.Flags().StringVar(&key, "key", "", "print only the value of this key, as it is")
	c.Flags().BoolVar(&allowUnbound, "allow-unbound", false, "accept a manifest without a binding, as plain sops writes it")
	outputFlag(c, &format, "yaml", "json")
	return c
}

// openWhole opens a file, standard input, or a secret of the repository.
func (a *app) openWhole(arg string, allowUnbound bool) (*unseal.Whole, error) {
	if isSecretArg(arg) {
		t, err := a.tree(allowUnbound)
		if err != nil {
			return nil, err
		}
		s, err := a.secretOf(t, arg)
		if err != nil {
			return nil, err
		}
		return t.Open(s)
	}
	m, repo, place, err := a.readManifest(arg)
	if err != nil {
		return nil, err
	}
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
	}
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

func (a *app) unseal(arg, key, format string, allowUnbound bool) error {
	whole, err := a.openWhole(arg, allowUnbound)
	if err != nil {
		return err
	}
	a.warn(whole)
	if key != "" {
		k, err := keyArg(key)
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
	text, err := plaintextOf(whole)
	if err != nil {
		return err
	}
	if format == "json" {
		var v any
		if err := yaml.Unmarshal(text, &v); err != nil {
			return fmt.Errorf("%s: cannot be shown as JSON", whole.Manifest.File)
		}
		e := json.NewEncoder(a.Out)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		return e.Encode(v)
	}
	_, err = a.Out.Write(text)
	return err
}

func keys(values []seal.Value) []string {
	var out []string
	for _, v := range values {
		out = append(out, v.Key.String())
	}
	return out
}
