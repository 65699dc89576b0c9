package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sealward/sealward/gitops/gitcmd"
	"github.com/sealward/sealward/seal/manifest"
)

type completer = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// completeWorkspaces offers the workspaces of the repository.
func (a *app) completeWorkspaces(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	repo, err := a.repository()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	rules, err := repo.Rules()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []string
	for _, ws := range rules.Workspaces() {
		out = append(out, ws.String())
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// completeSecrets offers WS/NAME for the first argument, and then the keys of
// that secret.
func (a *app) completeSecrets(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	repo, err := a.repository()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	files, err := repo.Files()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []string
	for _, file := range files {
		place, _, err := manifest.Locate(file)
		if err != nil || place.Policy {
			continue
		}
		id := place.Scope.String() + "/" + place.Name.String()
		switch len(args) {
		case 0:
			if !slices.Contains(out, id) { // parts come next to each other
				out = append(out, id)
			}
		case 1:
			if id != args[0] {
				continue
			}
			if data, err := repo.Read(file); err == nil {
				if m, err := manifest.Parse(file, data); err == nil && m.Secret != nil { // a grant may stand in the wrong place
					for _, e := range m.Secret.Entries {
						out = append(out, e.Key.String())
					}
				}
			}
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// completeOneSecret offers WS/NAME for every argument that the command takes.
func (a *app) completeOneSecret(c *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if c.Args != nil && c.Args(c, append(slices.Clone(args), prefix)) != nil && len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	out, directive := a.completeSecrets(c, nil, prefix)
	slices.Sort(out)
	return slices.Compact(out), directive
}

// completeFolder offers folders, for the one argument of a command.
func completeFolder(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveFilterDirs
}

// fixed offers a closed set.
func fixed(words ...string) completer {
	return func(_ *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
		var out []string
		for _, w := range words {
			if strings.HasPrefix(w, prefix) {
				out = append(out, w)
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeRevisions offers branches and tags, and after A.. or A... those for B.
func (a *app) completeRevisions(c *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	dir := a.repo
	if dir == "" {
		dir = "."
	}
	clone, err := gitcmd.Open(c.Context(), dir)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	refs, err := clone.Run(c.Context(), "for-each-ref", "--count=1000", "--format=%(refname:short)", "refs/heads", "refs/tags", "refs/remotes")
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	left := prefix[:strings.LastIndex(prefix, "..")+1]
	if left != "" {
		left += "."
	}
	var out []string
	for ref := range strings.FieldsSeq("HEAD " + string(refs)) {
		if strings.HasPrefix(left+ref, prefix) {
			out = append(out, left+ref)
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}
