package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sealward/sealward/gitops/worktree"
	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
)

type importOptions struct {
	scope, name, secretType, acl     string
	dotenv, keepForm, parts, oneFile bool
}

func (a *app) importCmd() *cobra.Command {
	var o importOptions
	c := &cobra.Command{
		Use:   "import FILE|-...",
		Short: "Seal plain Kubernetes Secrets and dotenv files",
		Long: `Seal the secrets of plain files and write them below workspaces/. Only public
recipients are needed. All of a workspace are written, or none.

A Kubernetes file is what kubectl get secret -o yaml prints: Secrets, documents of
them, or a List. Each goes to the workspace of -w, else of its namespace, and
becomes a secret in DataOS's form, or stays a Kubernetes Secret with its labels and
annotations (--keep-form). A dotenv file (.env, or --dotenv) becomes one secret,
named after the file or by --name; what follows the first = is the value, as it
stands.

The plain file is not touched. Remove it; if it was ever committed, change the
credentials at their source.`,
		Example: "  kubectl get secrets -n orders -o yaml | sealward import - -w orders\n  sealward import app.env -w orders --name orders-app",
		Args:    cobra.MinimumNArgs(1),
		RunE:    func(_ *cobra.Command, args []string) error { return a.importFiles(args, o) },
	}
	f := c.Flags()
	f.StringVarP(&o.scope, "workspace", "w", "", "workspace of the secrets (default: their namespace)")
	f.BoolVar(&o.keepForm, "keep-form", false, "keep Kubernetes Secrets in their form")
	f.BoolVar(&o.dotenv, "dotenv", false, "the files hold KEY=VALUE lines, whatever their names")
	f.StringVar(&o.name, "name", "", "name of the secret of a dotenv file")
	f.StringVar(&o.secretType, "type", string(manifest.KeyValue), "secret type of a dotenv file: "+joinTypes(", "))
	f.StringVar(&o.acl, "acl", "", "what the credentials can do, r or rw (default: rw for names in -rw, else r)")
	f.BoolVar(&o.parts, "parts", false, "keep each in parts, one sealed file a key")
	f.BoolVar(&o.oneFile, "one-file", false, "keep each in one file, whatever sealward.yaml says")
	c.MarkFlagsMutuallyExclusive("parts", "one-file")
	_ = c.RegisterFlagCompletionFunc("workspace", a.completeWorkspaces)
	_ = c.RegisterFlagCompletionFunc("type", fixed(strings.Split(joinTypes(","), ",")...))
	_ = c.RegisterFlagCompletionFunc("acl", fixed("r", "rw"))
	return c
}

func (a *app) importFiles(files []string, o importOptions) error {
	t, err := a.tree(false)
	if err != nil {
		return err
	}
	settings, err := t.Repo.Settings()
	if err != nil {
		return err
	}
	if o.acl != "" {
		if _, err := manifest.ParseACL(o.acl); err != nil {
			return usageError{err}
		}
	}
	if o.name != "" && len(files) > 1 {
		return usagef("--name is for one file")
	}
	var secrets []worktree.New
	for _, file := range files {
		var found []worktree.New
		if base := filepath.Base(file); o.dotenv || strings.HasSuffix(base, ".env") || strings.HasPrefix(base, ".env") {
			found, err = a.importDotenv(file, o)
		} else if o.name != "" {
			return usagef("--name is for a dotenv file, and a Kubernetes Secret has its name; --dotenv reads %s as one", file)
		} else {
			found, err = a.importKubernetes(file, o)
		}
		if err != nil {
			return err
		}
		secrets = append(secrets, found...)
	}
	for i := range secrets {
		secrets[i].InParts = o.parts || settings.Layout == workspace.LayoutParts && !o.oneFile
	}
	paths, err := t.Create(secrets...)
	if err != nil {
		return err
	}
	for _, path := range paths {
		fmt.Fprintln(a.Out, path)
	}
	fmt.Fprintf(a.Err, "%s sealed\n", count(len(secrets), "secret"))
	for _, file := range files {
		if file != "-" && workspace.InGit(filepath.Dir(file)) {
			fmt.Fprintf(a.Err, "note: %s is in a Git work tree and holds the values in the clear: remove it, and if it was ever committed, change the credentials at their source\n", file)
		}
	}
	return nil
}

func (a *app) importDotenv(file string, o importOptions) ([]worktree.New, error) {
	if o.scope == "" || o.name == "" && file == "-" {
		return nil, usagef("a dotenv file needs -w WORKSPACE, and --name when it is standard input")
	}
	ws, err := scopeArg(o.scope)
	if err != nil {
		return nil, err
	}
	text := o.name
	if text == "" {
		text = strings.Trim(strings.TrimSuffix(filepath.Base(file), ".env"), ".")
	}
	name, err := manifest.ParseName(text)
	if err != nil {
		return nil, usagef("%w; name it with --name", err)
	}
	values, err := a.envValues([]string{file}, false)
	if err != nil {
		return nil, err
	}
	if len(values) == 0 {
		return nil, fmt.Errorf("%s: holds no KEY=VALUE", file)
	}
	secretType, err := manifest.ParseSecretType(o.secretType)
	if err != nil {
		return nil, usageError{err}
	}
	return a.draft(seal.Draft{Name: name, Workspace: ws, Type: secretType, ACL: o.aclOf(name), Values: values})
}

// aclOf follows the convention of names where no flag says otherwise.
func (o importOptions) aclOf(name manifest.Name) manifest.ACL {
	switch {
	case o.acl != "":
		return manifest.ACL(o.acl)
	case strings.HasSuffix(name.String(), "-rw"):
		return manifest.ReadWrite
	default:
		return manifest.Read
	}
}

func (a *app) draft(d seal.Draft) ([]worktree.New, error) {
	repo, err := a.repository()
	if err != nil {
		return nil, err
	}
	if d.Owner == "" {
		d.Owner = gitUser(repo)
	}
	m, err := seal.NewManifest(d)
	if err != nil {
		return nil, err
	}
	return []worktree.New{{Manifest: m, Values: d.Values}}, nil
}

func (a *app) importKubernetes(file string, o importOptions) ([]worktree.New, error) {
	data, err := a.readFile(file)
	if err != nil {
		return nil, err
	}
	shown := file
	if file == "-" {
		shown = "standard input"
	}
	found, others, err := seal.Import(shown, data)
	if err != nil {
		return nil, err
	}
	for _, other := range others {
		fmt.Fprintf(a.Err, "note: %s is no v1 Secret, and was left out\n", other)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s: holds no Secret", shown)
	}
	var out []worktree.New
	for _, m := range found {
		ws := m.Workspace
		if o.scope != "" {
			if ws, err = manifest.ParseWorkspace(o.scope); err != nil {
				return nil, usageError{err}
			}
		}
		if ws.IsZero() {
			return nil, usagef("%s: states no namespace; name its workspace with -w", m.File)
		}
		if m, err = seal.Rename(m, ws, m.Name); err != nil {
			return nil, err
		}
		values, err := seal.PlainValues(m)
		if err != nil {
			return nil, err
		}
		for i := range values {
			values[i].Binary = false // base64 is only how Kubernetes writes text too
		}
		if o.keepForm {
			out = append(out, worktree.New{Manifest: m, Values: values})
			continue
		}
		if n := len(m.Secret.Kubernetes.Labels) + len(m.Secret.Kubernetes.Annotations); n > 0 {
			fmt.Fprintf(a.Err, "note: %s/%s has labels or annotations (%d), which DataOS's form does not keep (--keep-form does)\n", ws, m.Name, n)
		}
		acl := m.Secret.ACL
		if o.acl != "" {
			acl = manifest.ACL(o.acl)
		}
		made, err := a.draft(seal.Draft{Name: m.Name, Workspace: ws, Type: m.Secret.Type, ACL: acl, Owner: m.Owner, Values: values})
		if err != nil {
			return nil, err
		}
		out = append(out, made...)
	}
	return out, nil
}
