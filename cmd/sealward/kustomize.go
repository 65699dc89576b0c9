package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/sealward/sealward/plugins/kustomize"
)

// unsealFlags are what builds are told of sealed files, by flags or, where kustomize
// runs the command, by the environment.
type unsealFlags struct {
	allowUnbound, placeholders bool
	workspace                  string
}

func (f *unsealFlags) add(c *cobra.Command) {
	c.Flags().BoolVar(&f.allowUnbound, "allow-unbound", false, "accept sealed files without a binding, as plain sops writes them ($SEALWARD_ALLOW_UNBOUND=true)")
	c.Flags().BoolVar(&f.placeholders, "placeholders", false, "make dummy values of the same shape, without any key ($SEALWARD_PLACEHOLDERS=true)")
	c.Flags().StringVarP(&f.workspace, "workspace", "w", "", "workspace of sealed files that say nothing of theirs ($SEALWARD_WORKSPACE; default public)")
}

// unsealer reads the environment where no flag was given. The keyring is opened only
// when a key is needed.
func (a *app) unsealer(c *cobra.Command, f unsealFlags) (*kustomize.Unsealer, error) {
	for _, v := range []struct {
		flag, name string
		to         *bool
	}{{"allow-unbound", "SEALWARD_ALLOW_UNBOUND", &f.allowUnbound}, {"placeholders", "SEALWARD_PLACEHOLDERS", &f.placeholders}} {
		text := a.Getenv(v.name)
		if text == "" || c.Flags().Changed(v.flag) {
			continue
		}
		yes, err := strconv.ParseBool(text)
		if err != nil {
			return nil, usagef("%s is neither true nor false", v.name)
		}
		*v.to = yes
	}
	if f.workspace == "" {
		f.workspace = a.Getenv("SEALWARD_WORKSPACE")
	}
	u := &kustomize.Unsealer{Ring: a.rings(), AllowUnbound: f.allowUnbound, Placeholders: f.placeholders}
	if f.workspace != "" {
		ws, err := scopeArg(f.workspace)
		if err != nil {
			return nil, err
		}
		u.Workspace = ws
	}
	return u, nil
}

func (a *app) kustomizeCmd() *cobra.Command {
	var flags unsealFlags
	c := &cobra.Command{
		Use:   "kustomize [CONFIGFILE]",
		Short: "Unseal during a build of stock kustomize, which runs this command",
		Long: `kustomize is a function of kustomize's (KRM): it reads a ResourceList on standard
input and writes one with the Secrets that its configuration names. A
kustomization lists that configuration under generators::

  apiVersion: sealward.dev/v1
  kind: SealedSecretGenerator
  metadata:
    name: orders
    annotations:
      config.kubernetes.io/function: |
        exec: {path: sealward, args: [kustomize]}
  secrets:
  - {workspace: orders, name: orders-db-r}

and is built with

  kustomize build --enable-alpha-plugins --enable-exec

sealward build needs neither flag. Configurations of KSOPS work as they are when
a program named ksops is a link to sealward. With CONFIGFILE, it is one of
kustomize's older exec plugins and prints the objects.

What kustomize runs is told by the environment: SEALWARD_KEYRING,
SEALWARD_ALLOW_UNBOUND, SEALWARD_PLACEHOLDERS, SEALWARD_WORKSPACE. A generator in
a remote base may use what the folder that kustomize was started in may use, or
the folder in SEALWARD_BUILD: settings of the remote base do not count. Where
SEALWARD_BUILD is set to the folder that is built, its bases may use nothing more
than it may, as with sealward build.`,
		Args: cobra.MaximumNArgs(1),
	}
	flags.add(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		u, err := a.unsealer(c, flags)
		if err != nil {
			return err
		}
		dir, err := os.Getwd()
		if err != nil {
			return err
		}
		// kustomize does not say what it builds. It leaves PWD as it was started with. Without
		// one of the two, the clone of a remote base would bring its own settings.
		u.Built = a.Getenv("SEALWARD_BUILD")
		clone := kustomize.IsClone(dir)
		if u.Built == "" && clone {
			u.Built = a.Getenv("PWD")
		}
		if (u.Built != "" || clone) && !filepath.IsAbs(u.Built) {
			return usagef("nothing tells whose build this is, which counts for remote bases: set SEALWARD_BUILD to the absolute path of the folder that is built")
		}
		tell, end := a.notes()
		defer end()
		f := &kustomize.Function{Unsealer: u, Dir: dir, Warn: tell}
		if len(args) == 0 {
			if a.interactive() {
				return usagef("kustomize runs this command with a ResourceList on standard input; from a terminal, use sealward build (see %s --help)", c.CommandPath())
			}
			return asUsage(f.Run(c.Context(), a.In, a.Out))
		}
		config, err := a.readFile(args[0])
		if err != nil {
			return usagef("the configuration cannot be read (%w)", withoutPath(err))
		}
		var resources []byte
		if a.Getenv("KUSTOMIZE_PLUGIN_CONFIG_ROOT") != "" { // kustomize runs it, and closes standard input
			if resources, err = io.ReadAll(io.LimitReader(a.In, 1<<10)); err != nil {
				return err
			}
		}
		return asUsage(f.Generate(c.Context(), config, resources, a.Out))
	}
	return c
}

// mostNotes is how many notes of one build are printed; a tree that plain sops sealed
// has one a file.
const mostNotes = 10

// notes prints a note a line, and at the end how many more there were. tell may be
// called from several goroutines.
func (a *app) notes() (tell func(string), end func()) {
	var mu sync.Mutex
	told := map[string]bool{} // a file can be listed twice
	tell = func(text string) {
		mu.Lock()
		defer mu.Unlock()
		if told[text] {
			return
		}
		told[text] = true
		if len(told) <= mostNotes {
			fmt.Fprintln(a.Err, "sealward:", clean("note: "+text))
		}
	}
	return tell, func() {
		if more := len(told) - mostNotes; more > 0 {
			fmt.Fprintf(a.Err, "sealward: note: and %d more like these\n", more)
		}
	}
}

func asUsage(err error) error {
	var input *kustomize.InputError
	if errors.As(err, &input) {
		return usageError{err}
	}
	return err
}

// asPlugin puts the command in that a program's name stands for: kustomize's plugins
// are found by name.
func asPlugin(program string, args []string) []string {
	switch strings.TrimSuffix(filepath.Base(program), ".exe") {
	case kustomize.KSOPSKind, kustomize.Kind:
		return append([]string{"kustomize"}, args...)
	}
	return args
}
