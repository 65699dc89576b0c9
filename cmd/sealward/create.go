package main

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sealward/sealward/gitops/worktree"
	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
)

func (a *app) createCmd() *cobra.Command {
	c := group(&cobra.Command{Use: "create", Short: "Write a new secret"})
	c.AddCommand(a.createSecretCmd())
	return c
}

type createOptions struct {
	scope, secretType, acl          string
	version, layer, description     string
	owner                           string
	tags, literals, files, generate []string
	envFiles                        []string
	sealedEnvFiles, sealedFiles     []string
	instance, interpolate           bool
	parts, oneFile                  bool
}

func (a *app) createSecretCmd() *cobra.Command {
	var o createOptions
	c := &cobra.Command{
		Use:   "secret NAME",
		Short: "Seal a new secret for a workspace and write its manifest",
		Long: `Seal a new secret for a workspace and write its manifest to
workspaces/WORKSPACE/secrets/NAME.yaml. Only the workspace's public recipients
are needed. Values come from files, standard input (-), or are generated;
--from-literal is for what anyone may see. Files that plain sops sealed, as dotenv or
as binary, are opened with the workspace's identity in the keyring.`,
		Example: `  printf %s "$PW" | sealward create secret orders-db-r -w orders --type key-value --acl r --from-literal username=orders --from-file password=-
  sealward create secret orders-api -w orders --type key-value --acl rw --generate token=40`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return a.createSecret(o, args[0]) },
	}
	f := c.Flags()
	f.StringVarP(&o.scope, "workspace", "w", "", "workspace of the secret, or instance (default public)")
	f.BoolVar(&o.instance, "instance", false, "an instance secret, which no workspace owns")
	f.StringVar(&o.secretType, "type", "", "secret type: "+joinTypes(", ")+" (required)")
	f.StringVar(&o.acl, "acl", "", "what the credential can do: r or rw (required)")
	f.StringArrayVar(&o.literals, "from-literal", nil, literalHelp)
	f.StringArrayVar(&o.files, "from-file", nil, "KEY=PATH, or PATH alone; - is standard input; repeatable")
	f.StringArrayVar(&o.generate, "generate", nil, "KEY=LENGTH: random letters and digits; repeatable")
	f.BoolVar(&o.parts, "parts", false, "keep it in parts, one sealed file a key, so that anybody can set one (default: layout of sealward.yaml)")
	f.BoolVar(&o.oneFile, "one-file", false, "keep it in one file, whatever sealward.yaml says")
	c.MarkFlagsMutuallyExclusive("parts", "one-file")
	f.StringArrayVar(&o.envFiles, "from-env-file", nil, "file of KEY=VALUE lines, taken as they stand; repeatable")
	f.StringArrayVar(&o.sealedEnvFiles, "from-sealed-env-file", nil, "dotenv file that sops sealed; repeatable")
	f.StringArrayVar(&o.sealedFiles, "from-sealed-file", nil, "KEY=FILE: a file that sops sealed as binary; repeatable")
	f.BoolVar(&o.interpolate, "interpolate", false, "expand ${VAR} in --from-literal and --from-env-file from the environment; an unset variable is an error")
	f.StringVar(&o.version, "version", "v1", "manifest version: v1, v1beta, v1alpha or v2alpha")
	f.StringVar(&o.layer, "layer", "", "user or system")
	f.StringVar(&o.description, "description", "", "what the secret is for")
	f.StringVar(&o.owner, "owner", "", "who owns it (default: git's user.name)")
	f.StringArrayVar(&o.tags, "tag", nil, "a tag; repeatable")
	_ = c.MarkFlagRequired("type")
	_ = c.MarkFlagRequired("acl")
	_ = c.RegisterFlagCompletionFunc("workspace", a.completeWorkspaces)
	_ = c.RegisterFlagCompletionFunc("type", fixed(strings.Split(joinTypes(","), ",")...))
	_ = c.RegisterFlagCompletionFunc("acl", fixed("r", "rw"))
	return c
}

func joinTypes(sep string) string {
	var out []string
	for _, t := range manifest.SecretTypes() {
		out = append(out, string(t))
	}
	return strings.Join(out, sep)
}

func (a *app) createSecret(o createOptions, arg string) error {
	repo, err := a.repository()
	if err != nil {
		return err
	}
	name, err := manifest.ParseName(arg)
	if err != nil {
		return usageError{err}
	}
	ws := manifest.Public()
	switch {
	case o.instance && o.scope != "":
		return usagef("give either -w or --instance")
	case o.instance, o.scope == manifest.Instance().String():
		ws = manifest.Instance()
	case o.scope != "":
		if ws, err = manifest.ParseWorkspace(o.scope); err != nil {
			return usageError{err}
		}
	}
	secretType, err := manifest.ParseSecretType(o.secretType)
	if err != nil {
		return usageError{err}
	}
	acl, err := manifest.ParseACL(o.acl)
	if err != nil {
		return usageError{err}
	}
	t, err := a.tree(false)
	if err != nil {
		return err
	}
	settings, err := repo.Settings()
	if err != nil {
		return err
	}
	if o.interpolate {
		if o.literals, err = a.expandLiterals(o.literals); err != nil {
			return err
		}
	}
	values, err := a.values(o.literals, o.files, o.generate)
	if err != nil {
		return err
	}
	plain, err := a.envValues(o.envFiles, o.interpolate)
	if err != nil {
		return err
	}
	sealed, err := a.sealedValues(o.sealedEnvFiles, o.sealedFiles, ws)
	if err != nil {
		return err
	}
	values = slices.Concat(values, plain, sealed)
	if len(values) == 0 {
		return usagef("a secret needs at least one value: --from-file, --from-env-file, --generate or --from-literal")
	}
	owner := o.owner
	if owner == "" {
		owner = gitUser(repo)
	}
	m, err := seal.NewManifest(seal.Draft{Name: name, Workspace: ws, Version: o.version, Type: secretType, ACL: acl,
		Layer: o.layer, Tags: o.tags, Description: o.description, Owner: owner, Values: values})
	if err != nil {
		return usageError{err}
	}
	paths, err := t.Create(worktree.New{Manifest: m, Values: values, InParts: o.parts || settings.Layout == workspace.LayoutParts && !o.oneFile})
	if err != nil {
		return err
	}
	for _, path := range paths {
		fmt.Fprintf(a.Out, "%s created: %s\n", m.ID(), path)
	}
	return nil
}

// gitUser is git's user.name in the repository, "" when there is none. DataOS
// takes who applies a manifest as its owner.
func gitUser(repo *workspace.Repository) string {
	cmd := exec.Command("git", "config", "user.name")
	cmd.Dir = repo.Dir()
	out, err := cmd.Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}
