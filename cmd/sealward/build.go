package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/sealward/sealward/plugins/kustomize"
	"github.com/sealward/sealward/unseal"
)

type buildOptions struct {
	unsealFlags
	dir, format, out, verify    string
	force, show                 bool
	plugins, exec, helm         bool
	loadRestrictor, helmCommand string
}

// The values of --load-restrictor, which are kustomize's.
const (
	restrictRoot = "LoadRestrictionsRootOnly"
	restrictNone = "LoadRestrictionsNone"
)

func (a *app) buildCmd() *cobra.Command {
	var o buildOptions
	c := &cobra.Command{
		Use:   "build [DIR]",
		Short: "Build a kustomization with its sealed secrets unsealed",
		Long: `Build the kustomization in DIR (default: the current folder) as kustomize build
would, and unseal in memory what it lists: generators of kind SealedSecretGenerator
and ksops, wherever they stand, and sealed Secrets among resources. No plugin flags
and no other program are needed; git fetches remote bases. What cannot be unsealed
ends the build, and nothing is printed.

--placeholders needs no key: every value is a dummy that is marked as one.
--verify-with kustomize builds with that program too, where sealward has to be in PATH
for its functions, and fails when the objects differ. Trees with functions of others and
remote bases are refused unless --enable-alpha-plugins --enable-exec allow them.`,
		Example: `  sealward build overlays/prod | kubectl apply -f -
  sealward build overlays/prod --placeholders
  sealward build overlays/prod -o dir --out /dev/shm/prod`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: completeFolder,
		RunE: func(c *cobra.Command, args []string) error {
			o.dir = "."
			if len(args) == 1 {
				o.dir = args[0]
			}
			switch {
			case (o.format == "dir") != (o.out != ""):
				return usagef("-o dir and --out DIR belong together; the other forms go to standard output")
			case a.repo != "":
				return usagef("--repo means nothing here: the sealed tree is the one around the folder that is built")
			case !slices.Contains([]string{restrictRoot, restrictNone}, o.loadRestrictor):
				return usagef("--load-restrictor is %s or %s", restrictRoot, restrictNone)
			case o.exec && !o.plugins:
				return usagef("--enable-exec allows nothing without --enable-alpha-plugins")
			}
			u, err := a.unsealer(c, o.unsealFlags)
			if err != nil {
				return err
			}
			return a.build(c.Context(), u, o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.out, "out", "", "with -o dir: a folder that does not exist yet, or is empty")
	f.BoolVar(&o.force, "force", false, "with -o dir: also into a Git work tree")
	f.BoolVar(&o.show, "show-values", false, "print values to a terminal")
	o.unsealFlags.add(c)
	f.StringVar(&o.loadRestrictor, "load-restrictor", restrictRoot, "as kustomize's: "+restrictNone+" lets kustomizations read files outside their folder")
	f.BoolVar(&o.plugins, "enable-alpha-plugins", false, "as kustomize's: run functions in containers and plugins that are not sealward's; they see the values")
	f.BoolVar(&o.exec, "enable-exec", false, "as kustomize's: run functions that are programs of this machine too")
	f.BoolVar(&o.helm, "enable-helm", false, "as kustomize's: run helm for charts")
	f.StringVar(&o.helmCommand, "helm-command", "helm", "as kustomize's: the helm to run")
	f.StringVar(&o.verify, "verify-with", "", "a stock kustomize to compare with")
	outputFlag(c, &o.format, "yaml", "json", "dir")
	_ = c.RegisterFlagCompletionFunc("workspace", a.completeWorkspaces)
	_ = c.RegisterFlagCompletionFunc("load-restrictor", fixed(restrictRoot, restrictNone))
	_ = c.MarkFlagDirname("out")
	return c
}

func (a *app) build(ctx context.Context, u *kustomize.Unsealer, o buildOptions) error {
	if o.format == "dir" {
		if err := outsideGit(o.out, o.force || u.Placeholders); err != nil {
			return err
		}
	}
	// It ends soon: collecting garbage less often makes a thousand Secrets a quarter faster.
	if a.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	tell, end := a.notes()
	u.Ring, u.Warn = a.rings(), tell
	opts := kustomize.BuildOptions{
		AnyFolder: o.loadRestrictor == restrictNone, Plugins: o.plugins, Exec: o.exec, Helm: o.helm, HelmCommand: o.helmCommand,
	}
	built, err := kustomize.Build(ctx, o.dir, u, opts)
	end()
	if err != nil {
		return asUsage(err)
	}
	if f, ok := a.Out.(*os.File); ok && built.Unsealed && o.format != "dir" && !o.show && term.IsTerminal(int(f.Fd())) {
		return usagef("the output has values in the clear, and would go to a terminal: pipe it on, write it with -o dir --out DIR, look at --placeholders, or give --show-values")
	}
	if o.verify != "" {
		if err := a.verifyBuild(ctx, built, u, o, opts); err != nil {
			return err
		}
	}
	var text []byte
	switch o.format {
	case "dir":
		files, err := built.Files()
		if err != nil {
			return err
		}
		err = unseal.WriteFiles(o.out, maps.All(files))
		if p := (*fs.PathError)(nil); errors.As(err, &p) && files[p.Path] != nil {
			// A patch or a replacement may have made a value the name of an object.
			return fmt.Errorf("%s: an object cannot be a file there, by its kind and name: %w", o.out, p.Err)
		}
		return err
	case "json":
		text, err = built.JSON()
	default:
		text, err = built.YAML()
	}
	if err != nil {
		return err
	}
	_, err = a.Out.Write(text)
	return err
}

// verifyBuild compares with a stock kustomize. The functions that it runs get by the
// environment what this command was told by flags.
func (a *app) verifyBuild(ctx context.Context, built *kustomize.Built, u *kustomize.Unsealer, o buildOptions, opts kustomize.BuildOptions) error {
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return err
	}
	env := append(os.Environ(),
		"SEALWARD_BUILD="+dir, // what remote bases may use depends on it
		"SEALWARD_WORKSPACE="+u.Workspace.String(),
		"SEALWARD_PLACEHOLDERS="+strconv.FormatBool(u.Placeholders),
		"SEALWARD_ALLOW_UNBOUND="+strconv.FormatBool(u.AllowUnbound))
	if keys := cmp.Or(a.keyring, a.Getenv("SEALWARD_KEYRING")); keys != "" {
		keys, err := filepath.Abs(keys) // functions run in the folder of the kustomization
		if err != nil {
			return err
		}
		env = append(env, "SEALWARD_KEYRING="+keys)
	}
	found, err := built.Verify(ctx, o.dir, kustomize.Stock{Program: o.verify, Env: env, Options: opts, Placeholders: u.Placeholders})
	if err != nil {
		return err
	}
	for _, d := range found {
		fmt.Fprintln(a.Err, clean(d.String()))
	}
	if len(found) > 0 {
		return fmt.Errorf("sealward build and %s build differ in %s", o.verify, count(len(found), "place"))
	}
	fmt.Fprintf(a.Err, "%s build makes the same objects\n", o.verify)
	return nil
}
