package git

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sealward/sealward/gitops/gitcmd"
	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
)

// ResolveOptions of Resolve.
type ResolveOptions struct {
	// File is a path, relative to Dir or to the top of the work tree; or the secret
	// that Workspace and Name say.
	File      string
	Workspace manifest.Workspace
	Name      manifest.Name

	Choices seal.Choices
	// Ask decides one conflict that Choices leave open; nil leaves it.
	Ask func(c seal.Conflict, sides Sides) (seal.Choice, error)
}

// Sides say in words what ours and theirs are: a rebase swaps them.
type Sides struct{ Ours, Theirs string }

// Resolution is what Resolve did.
type Resolution struct {
	Path   string // in the clone
	Secret string
	Sides  Sides
	*seal.Merged
}

// OpenError lists the conflicts of a file that nobody decided.
type OpenError struct {
	Path      string
	Sides     Sides
	Conflicts []seal.Conflict
}

func (e *OpenError) Error() string {
	lines := []string{fmt.Sprintf("%s: not everything is decided, and nothing was changed; ours is %s, theirs is %s", clean(e.Path), e.Sides.Ours, e.Sides.Theirs)}
	for _, c := range e.Conflicts {
		flag := "--key " + c.Key.String() + "=ours|theirs, or --ours or --theirs for all"
		switch {
		case c.Recipients:
			flag = "--recipients ours|theirs|both"
		case c.Field != "":
			flag = "--field " + c.Field + "=ours|theirs, or --ours or --theirs for all"
		}
		lines = append(lines, "  "+clean(c.String())+" ("+flag+")")
	}
	return strings.Join(lines, "\n")
}

// ErrNoConflict: git lists no conflict of the file.
var ErrNoConflict = errors.New("is not in conflict; git status lists what is")

// stage is one entry of the index in the middle of a merge.
type stage struct {
	number string // 1 base, 2 ours, 3 theirs
	blob   string
	mode   gitcmd.Mode
}

// Resolve merges a file that is in conflict once more, from the three versions that
// git's index holds, with the choices given; writes the result and adds it to
// the index. What the work tree has does not matter.
func (p *Plugin) Resolve(ctx context.Context, opts ResolveOptions) (*Resolution, error) {
	clone, err := gitcmd.Open(ctx, p.Dir)
	if err != nil {
		return nil, err
	}
	file, stages, err := p.unmerged(ctx, clone, opts)
	if err != nil {
		return nil, err
	}
	s, err := locate(clone, file)
	if err != nil {
		return nil, fmt.Errorf("%w; resolve it as any conflict of git", err)
	}
	unlock, err := s.repo.Lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	sides := sidesOf(ctx, clone)
	v, err := readStages(ctx, clone, file, stages, sides)
	if err != nil {
		return nil, err
	}
	merged, err := p.merge(ctx, clone, s, v, opts.Choices)
	if isKeyless(err) {
		return nil, fmt.Errorf("%w\nWithout a key one whole version can be taken: git checkout --ours -- %s, or --theirs (ours is %s, theirs is %s), then git add it", err, quoted(file), sides.Ours, sides.Theirs)
	}
	if err != nil {
		return nil, err
	}
	if len(merged.Conflicts) > 0 && opts.Ask != nil {
		choices := copyChoices(opts.Choices)
		for _, c := range merged.Conflicts {
			choice, err := opts.Ask(c, sides)
			if err != nil {
				return nil, err
			}
			switch {
			case c.Recipients:
				choices.Recipients = choice
			case c.Field != "":
				choices.Fields[c.Field] = choice
			default:
				choices.Keys[c.Key] = choice
			}
		}
		if merged, err = p.merge(ctx, clone, s, v, choices); err != nil {
			return nil, err
		}
	}
	if len(merged.Conflicts) > 0 {
		return nil, &OpenError{file, sides, merged.Conflicts}
	}
	if err := s.repo.Write(s.rel, merged.File); err != nil {
		return nil, err
	}
	if _, err := clone.Run(ctx, "add", "--", file); err != nil {
		return nil, fmt.Errorf("%s was written, but not added: %w", file, err)
	}
	return &Resolution{file, s.secret(), sides, merged}, nil
}

func copyChoices(c seal.Choices) seal.Choices {
	out := seal.Choices{All: c.All, Recipients: c.Recipients, Keys: map[manifest.Key]seal.Choice{}, Fields: map[string]seal.Choice{}}
	for k, v := range c.Keys {
		out.Keys[k] = v
	}
	for f, v := range c.Fields {
		out.Fields[f] = v
	}
	return out
}

// unmerged finds the file that is meant among those that git lists as in conflict.
func (p *Plugin) unmerged(ctx context.Context, clone *gitcmd.Clone, opts ResolveOptions) (string, map[string]stage, error) {
	if clone.Bare() {
		return "", nil, errors.New("a bare repository has no work tree, and nothing in conflict")
	}
	out, err := clone.Run(ctx, "ls-files", "-u", "-z", "--full-name")
	if err != nil {
		return "", nil, err
	}
	all := map[string]map[string]stage{}
	for record := range bytes.SplitSeq(out, []byte{0}) {
		head, file, _ := strings.Cut(string(record), "\t")
		if f := strings.Fields(head); len(f) == 3 {
			if all[file] == nil {
				all[file] = map[string]stage{}
			}
			all[file][f[2]] = stage{f[2], f[1], gitcmd.Mode(f[0])}
		}
	}
	what := opts.File
	var found []string
	if opts.File == "" {
		what = opts.Workspace.String() + "/" + opts.Name.String()
		for file := range all {
			if s, err := locate(clone, file); err == nil && s.place.Scope == opts.Workspace && s.place.Name == opts.Name {
				found = append(found, file)
			}
		}
	} else {
		prefix, err := clone.Prefix(p.Dir)
		if err != nil {
			return "", nil, err
		}
		file := filepath.ToSlash(opts.File)
		tries := []string{path.Join(prefix, file), path.Clean(file)}
		if filepath.IsAbs(opts.File) {
			dir, err := clone.Prefix(filepath.Dir(opts.File))
			if err != nil {
				return "", nil, err
			}
			tries = []string{dir + filepath.Base(opts.File)}
		}
		for _, t := range tries {
			if all[t] != nil && !slices.Contains(found, t) {
				found = append(found, t)
			}
		}
	}
	slices.Sort(found)
	switch {
	case len(found) == 0:
		return "", nil, fmt.Errorf("%s %w", clean(what), ErrNoConflict)
	case len(found) > 1:
		return "", nil, fmt.Errorf("%s has several files in conflict; name one: %s", clean(what), clean(strings.Join(found, ", ")))
	}
	return found[0], all[found[0]], nil
}

func readStages(ctx context.Context, clone *gitcmd.Clone, file string, stages map[string]stage, sides Sides) (versions, error) {
	var v versions
	remedy := fmt.Sprintf("git rm %s removes it, git add %[1]s keeps what the work tree has", quoted(file))
	switch {
	case stages["2"].blob == "" && stages["3"].blob == "":
		return v, fmt.Errorf("%s was renamed or removed on both sides; %s", clean(file), remedy)
	case stages["2"].blob == "":
		return v, fmt.Errorf("%s was removed on our side (%s) and changed on theirs (%s), so there is nothing to merge by key: %s", clean(file), sides.Ours, sides.Theirs, remedy)
	case stages["3"].blob == "":
		return v, fmt.Errorf("%s was changed on our side (%s) and removed on theirs (%s), so there is nothing to merge by key: %s", clean(file), sides.Ours, sides.Theirs, remedy)
	}
	blobs, err := clone.Blobs(ctx)
	if err != nil {
		return v, err
	}
	defer func() { _ = blobs.Close() }()
	for number, data := range map[string]*[]byte{"1": &v.base, "2": &v.ours, "3": &v.theirs} {
		st := stages[number]
		if st.blob == "" {
			continue
		}
		if !st.mode.IsFile() {
			return v, fmt.Errorf("%s is a link or a submodule on a side; take the other whole: git checkout --ours or --theirs -- %s", clean(file), quoted(file))
		}
		if *data, err = blobs.Read(st.blob, manifest.MaxSize); err != nil {
			return v, fmt.Errorf("%s: %w", clean(file), err)
		}
	}
	return v, nil
}

// sidesOf says what is merged into what.
func sidesOf(ctx context.Context, clone *gitcmd.Clone) Sides {
	show := func(rev string) string {
		out, err := clone.Run(ctx, "log", "-1", "--no-show-signature", "--format=%h %s", "--end-of-options", rev)
		text := []rune(clean(strings.TrimSpace(string(out))))
		if err != nil || len(text) == 0 {
			return "unknown"
		}
		if len(text) > 60 {
			text = append(text[:57], []rune("...")...)
		}
		return string(text)
	}
	head := "HEAD"
	if branch, err := clone.Branch(ctx); err == nil && branch != "" {
		head = "branch " + clean(branch)
	}
	merging, _, _ := strings.Cut(readState(clone, "MERGE_HEAD"), "\n")
	picking := readState(clone, "CHERRY_PICK_HEAD")
	switch commit := rebasing(clone); {
	case commit != "":
		return Sides{"what the commit is applied to (" + show("HEAD") + ")", "the commit being applied (" + show(commit) + ")"}
	case merging != "":
		return Sides{head, "what is merged (" + show(merging) + ")"}
	case picking != "":
		return Sides{head, "the commit being picked (" + show(picking) + ")"}
	}
	return Sides{head, "the other side"}
}
