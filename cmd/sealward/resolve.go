package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sealward/sealward/gitops/gitcmd"
	"github.com/sealward/sealward/plugins/git"
	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
)

type resolveOptions struct {
	ours, theirs bool
	keys, fields []string
	recipients   string
}

func (a *app) resolveCmd() *cobra.Command {
	var o resolveOptions
	c := &cobra.Command{
		Use:   "resolve FILE|WORKSPACE/NAME",
		Short: "Decide what a merge of a sealed secret left open",
		Long: `Merge a secret that git lists as in conflict once more, by key, from the versions
that git's index holds; take from either side what is chosen; write the file and
git add it. What is not in conflict merges as it would have. What the work tree's file
looks like does not matter. It needs the private key.

Without a choice it asks for each conflict on a terminal, and lists them
elsewhere. ours is the branch you are on and theirs what comes in; in a rebase,
ours is what you rebase onto and theirs your own commit.

--recipients is asked for when a file names a recipient that no .sops.yaml names:
anybody can write a name into a file, so it is sealed for it only when you say so.`,
		Example: "  sealward resolve orders/orders-db-r --theirs\n  sealward resolve orders/orders-db-r --key password=theirs --key username=ours",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: a.completeConflicts,
		RunE: func(c *cobra.Command, args []string) error { return a.resolve(c, args[0], o) },
	}
	f := c.Flags()
	f.BoolVar(&o.ours, "ours", false, "take our side of every conflict of keys and fields")
	f.BoolVar(&o.theirs, "theirs", false, "take their side of every conflict of keys and fields")
	f.StringArrayVar(&o.keys, "key", nil, "KEY=ours|theirs, also where there is no conflict; repeatable")
	f.StringArrayVar(&o.fields, "field", nil, "FIELD=ours|theirs of a field that is not sealed; repeatable")
	f.StringVar(&o.recipients, "recipients", "", "whom to seal for: ours, theirs, or both (what either added; what a side removed stays removed)")
	c.MarkFlagsMutuallyExclusive("ours", "theirs")
	_ = c.RegisterFlagCompletionFunc("key", a.completeConflictKeys)
	_ = c.RegisterFlagCompletionFunc("recipients", fixed("ours", "theirs", "both"))
	return c
}

// choices reads the flags.
func (o resolveOptions) choices() (seal.Choices, error) {
	out := seal.Choices{Keys: map[manifest.Key]seal.Choice{}, Fields: map[string]seal.Choice{}}
	switch {
	case o.ours:
		out.All = seal.TakeOurs
	case o.theirs:
		out.All = seal.TakeTheirs
	}
	sides := map[string]seal.Choice{"ours": seal.TakeOurs, "theirs": seal.TakeTheirs}
	for _, s := range o.keys {
		name, side, _ := strings.Cut(s, "=")
		key, err := keyArg(name)
		if err != nil || sides[side] == seal.Undecided {
			return out, usagef("--key wants KEY=ours or KEY=theirs")
		}
		out.Keys[key] = sides[side]
	}
	for _, s := range o.fields {
		name, side, _ := strings.Cut(s, "=")
		if name == "" || sides[side] == seal.Undecided {
			return out, usagef("--field wants FIELD=ours or FIELD=theirs")
		}
		out.Fields[name] = sides[side]
	}
	sides["both"], sides[""] = seal.TakeBoth, seal.Undecided
	choice, known := sides[o.recipients]
	if !known {
		return out, usagef("--recipients wants ours, theirs or both")
	}
	out.Recipients = choice
	return out, nil
}

func (a *app) resolve(c *cobra.Command, arg string, o resolveOptions) error {
	choices, err := o.choices()
	if err != nil {
		return err
	}
	p, err := a.gitPlugin()
	if err != nil {
		return err
	}
	opts := git.ResolveOptions{File: arg, Choices: choices}
	if isSecretArg(arg) {
		opts.File = ""
		if opts.Workspace, opts.Name, _, err = secretArg(arg, false); err != nil {
			return err
		}
	}
	if a.interactive() {
		opts.Ask = a.askConflict
	}
	done, err := p.Resolve(c.Context(), opts)
	if errors.Is(err, gitcmd.ErrNoClone) {
		return usageError{err}
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(a.Out, "%s: merged and added; ours is %s, theirs is %s\n", clean(done.Path), done.Sides.Ours, done.Sides.Theirs)
	for _, d := range done.Decisions {
		alone := ""
		if slices.Contains(done.Settled, d.What) {
			alone = map[seal.Choice]string{seal.TakeOurs: " (only our side changed it)", seal.TakeTheirs: " (only their side changed it)"}[d.From]
		}
		fmt.Fprintf(a.Out, "  %s: %s%s\n", clean(d.What), d.From, alone)
	}
	if done.Fresh {
		fmt.Fprintf(a.Out, "  it has a fresh data key, sealed for %s\n", strings.Join(shortNames(texts(done.Recipients.All())), ", "))
	}
	return nil
}

func (a *app) askConflict(conflict seal.Conflict, sides git.Sides) (seal.Choice, error) {
	words := []string{"ours", "theirs", "quit"}
	fmt.Fprintf(a.Err, "%s\n  ours:   %s\n  theirs: %s\n", clean(conflict.String()), sides.Ours, sides.Theirs)
	if conflict.Recipients {
		words = slices.Insert(words, 2, "both")
		fmt.Fprintln(a.Err, "  both:   what either added; what a side removed stays removed")
	}
	choices := map[string]seal.Choice{"ours": seal.TakeOurs, "theirs": seal.TakeTheirs, "both": seal.TakeBoth}
	asked := strings.Join(words, ", ")
	for range 3 {
		answer, err := a.line("take (" + asked + ")")
		if err != nil {
			return seal.Undecided, err
		}
		i := slices.IndexFunc(words, func(w string) bool { return answer == w || answer == w[:1] })
		if answer == "" || i >= 0 && words[i] == "quit" {
			break
		}
		if i >= 0 {
			return choices[words[i]], nil
		}
		// Not repeated: it may be the value that somebody wanted.
		fmt.Fprintf(a.Err, "that is none of %s, nor the first letter of one\n", asked)
	}
	return seal.Undecided, errors.New("nothing was decided; nothing was changed")
}

// completeConflicts offers the secrets in conflict.
func (a *app) completeConflicts(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var out []string
	if len(args) == 0 {
		for _, s := range a.conflicts(c) {
			out = append(out, s.Secret)
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// completeConflictKeys offers both sides of the keys of the secret that was named, or
// of all in conflict.
func (a *app) completeConflictKeys(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	all := a.conflicts(c)
	if i := slices.IndexFunc(all, func(s git.InConflict) bool { return len(args) > 0 && s.Secret == args[0] }); i >= 0 {
		all = all[i : i+1]
	}
	var out []string
	for _, s := range all {
		for _, key := range s.Keys {
			out = append(out, key.String()+"=ours", key.String()+"=theirs")
		}
	}
	slices.Sort(out)
	return slices.Compact(out), cobra.ShellCompDirectiveNoFileComp
}

func (a *app) conflicts(c *cobra.Command) []git.InConflict {
	p, err := a.gitPlugin()
	if err != nil {
		return nil
	}
	out, err := p.Conflicts(c.Context())
	if err != nil {
		return nil // completion has nowhere to say so
	}
	return out
}
