package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal"
)

func (a *app) unsealCmd() *cobra.Command {
	var key, format string
	var allowUnbound bool
	c := &cobra.Command{
		Use:   "unseal [FILE|-]",
		Short: "Open a sealed manifest with the keyring",
		Long: `Open a sealed manifest with the identity that the keyring has for its workspace,
verify that it is as it was sealed, and print it with its values in the clear.
--key prints one value, raw.`,
		Example: "  sealward unseal workspaces/orders/secrets/orders-db-r.yaml --key password",
		Args:    cobra.MaximumNArgs(1),
		RunE:    func(_ *cobra.Command, args []string) error { return a.unseal(fileArg(args), key, format, allowUnbound) },
	}
	c.Flags().StringVar(&key, "key", "", "print only the value of this key, as it is")
	c.Flags().BoolVar(&allowUnbound, "allow-unbound", false, "accept a manifest without a binding, as plain sops writes it")
	outputFlag(c, &format, "yaml", "json")
	return c
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

func (a *app) unseal(file, key, format string, allowUnbound bool) error {
	m, repo, place, err := a.readManifest(file)
	if err != nil {
		return err
	}
	opened, err := a.open(m, repo, place, allowUnbound)
	if err != nil {
		return err
	}
	if key != "" {
		k, err := keyArg(key)
		if err != nil {
			return err
		}
		for _, v := range opened.Values {
			if v.Key == k {
				_, err := a.Out.Write(v.Data)
				return err
			}
		}
		return fmt.Errorf("%s: %w: %s; it has %s", m.File, seal.ErrNoKey, k, strings.Join(keys(opened.Values), ", "))
	}
	text, err := opened.Envelope.Plaintext(opened.Values)
	if err != nil {
		return err
	}
	if format == "json" {
		var v any
		if err := yaml.Unmarshal(text, &v); err != nil {
			return fmt.Errorf("%s: cannot be shown as JSON", m.File)
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
