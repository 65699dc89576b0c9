package git

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

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
	// Settled are those of the decisions that no conflict was about: one side alone had
	// changed them.
	Settled []string
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
	file, versions, err := p.unmerged(ctx, clone, opts)
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
	v, err := readStages(ctx, clone, s, versions, sides)
	if err != nil {
		return nil, err
	}
	if err := s.checkChoices(v, opts.Choices); err != nil {
		return nil, err
	}
	// First without a choice of keys, which tells what is in conflict at all.
	merged, err := p.merge(ctx, clone, s, v, seal.Choices{Recipients: opts.Choices.Recipients})
	if isKeyless(err) {
		return nil, fmt.Errorf("%w\nWithout the key, take one side whole: git checkout --ours -- %s (or --theirs), then git add it\nours is %s, theirs is %s", err, quoted(file), sides.Ours, sides.Theirs)
	}
	if err != nil {
		return nil, err
	}
	var settled []string
	for _, d := range merged.Decisions {
		if key, err := manifest.ParseKey(d.What); err == nil && opts.Choices.Keys[key] != seal.Undecided || opts.Choices.Fields[d.What] != seal.Undecided {
			continue // a person said so
		}
		settled = append(settled, d.What)
	}
	if c := opts.Choices; c.All != seal.Undecided || len(c.Keys) > 0 || len(c.Fields) > 0 {
		if merged, err = p.merge(ctx, clone, s, v, c); err != nil {
			return nil, err
		}
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
	return &Resolution{file, s.secret(), sides, settled, merged}, nil
}

// checkChoices refuses choices about what no version has, with the name of what was
// meant instead.
func (s spot) checkChoices(v versions, choices seal.Choices) error {
	var fields []*yaml.Node
	keys := map[manifest.Key]bool{}
	for _, data := range [][]byte{v.base, v.ours, v.theirs} {
		m, err := manifest.Parse(s.rel, data)
		if err != nil || !m.Kind.IsSecret() {
			continue
		}
		fields = append(fields, m.Node())
		for _, e := range m.Secret.Entries {
			keys[e.Key] = true
		}
	}
	if len(keys) == 0 { // the merge says what is wrong with the versions
		return nil
	}
	for key, choice := range choices.Keys {
		switch {
		case keys[key]:
		case slices.ContainsFunc(fields, func(n *yaml.Node) bool { return hasField(n, key.String()) }):
			return fmt.Errorf("%s is a field that is not sealed, and no key: choose with --field %[1]s=%s", key, choice)
		default:
			return fmt.Errorf("no side of %s has a key %s; there is nothing to choose", clean(s.path), key)
		}
	}
	return nil
}

// hasField looks for a dotted path.
func hasField(n *yaml.Node, path string) bool {
	name, rest, deeper := strings.Cut(path, ".")
	if n.Kind != yaml.MappingNode {
		return false
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return !deeper || hasField(n.Content[i+1], rest)
		}
	}
	return false
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
	all, err := stages(ctx, clone)
	if err != nil {
		return "", nil, err
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

// stages lists every file that git has in conflict, with its stages by number.
func stages(ctx context.Context, clone *gitcmd.Clone) (map[string]map[string]stage, error) {
	out, err := clone.Run(ctx, "ls-files", "-u", "-z", "--full-name")
	if err != nil {
		return nil, err
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
	return all, nil
}

// InConflict is one secret that git lists as in conflict.
type InConflict struct {
	Secret string
	Keys   []manifest.Key // of every version of its files
}

// Conflicts are the secrets that Resolve could be asked about, in the order of their
// names.
func (p *Plugin) Conflicts(ctx context.Context) ([]InConflict, error) {
	clone, err := gitcmd.Open(ctx, p.Dir)
	if err != nil || clone.Bare() {
		return nil, err
	}
	all, err := stages(ctx, clone)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	blobs, err := clone.Blobs(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = blobs.Close() }()
	found := map[string]*InConflict{}
	for file, versions := range all {
		s, err := locate(clone, file)
		if err != nil {
			continue
		}
		c := found[s.secret()]
		if c == nil {
			c = &InConflict{Secret: s.secret()}
			found[s.secret()] = c
		}
		for _, st := range versions {
			data, err := blobs.Read(st.blob, manifest.MaxSize)
			if err != nil {
				return nil, err
			}
			m, err := manifest.Parse(s.rel, data)
			if err != nil || !m.Kind.IsSecret() {
				continue
			}
			for _, e := range m.Secret.Entries {
				if !slices.Contains(c.Keys, e.Key) {
					c.Keys = append(c.Keys, e.Key)
				}
			}
		}
	}
	var out []InConflict
	for _, name := range slices.Sorted(maps.Keys(found)) {
		out = append(out, *found[name])
	}
	return out, nil
}

func readStages(ctx context.Context, clone *gitcmd.Clone, s spot, stages map[string]stage, sides Sides) (versions, error) {
	var v versions
	file := s.path
	gone := ""
	switch {
	case stages["2"].blob == "" && stages["3"].blob == "":
		return v, fmt.Errorf("%s was renamed or removed on both sides; git rm %s removes it, git add %[2]s keeps what the work tree has", clean(file), quoted(file))
	case stages["2"].blob == "":
		gone = "our"
	case stages["3"].blob == "":
		gone = "their"
	}
	if gone != "" {
		return v, removedError(ctx, clone, s, gone, sides)
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

// removedError says what to do about a file that one side removed (gone is our or
// their) and the other changed. Splitting a secret removes its file, too.
func removedError(ctx context.Context, clone *gitcmd.Clone, s spot, gone string, sides Sides) error {
	changed := map[string]string{"our": "their", "their": "our"}[gone]
	how := "removed"
	if kept := s.otherForm(ctx, clone); kept != "" {
		how = "replaced by " + clean(kept)
	}
	next := fmt.Sprintf("git rm %s drops what %s side changed; git add %[1]s keeps the file as the work tree has it", quoted(s.path), changed)
	if how != "removed" {
		next = fmt.Sprintf("git rm %s drops what %s side changed; set that again afterwards: sealward set %s KEY", quoted(s.path), changed, s.secret())
	}
	return fmt.Errorf("%s was changed on %s side and %s on %s side, so there is nothing to merge by key\n%s\nours is %s, theirs is %s", clean(s.path), changed, how, gone, next, sides.Ours, sides.Theirs)
}

// otherForm is where the index has the same secret in the other form, as parts or as
// one file, "" where it has not.
func (s spot) otherForm(ctx context.Context, clone *gitcmd.Clone) string {
	dir := path.Dir(s.path)
	tries := []string{path.Join(dir, s.place.Name.String()) + "/"}
	if s.place.Part != "" {
		tries = []string{dir + ".yaml", dir + ".json"}
	}
	for _, t := range tries {
		if files, err := clone.Staged(ctx, t); err == nil && len(files) > 0 {
			return t
		}
	}
	return ""
}

// sidesOf says what is merged into what.
func sidesOf(ctx context.Context, clone *gitcmd.Clone) Sides {
	show := func(rev string) string {
		out, err := clone.Run(ctx, "log", "-1", "--no-show-signature", "--format=%h %s", "--end-of-options", rev)
		id, subject, _ := strings.Cut(clean(strings.TrimSpace(string(out))), " ")
		if err != nil || id == "" {
			return "unknown"
		}
		text := []rune(subject)
		if len(text) > 50 {
			text = append(text[:47], []rune("...")...)
		}
		return fmt.Sprintf("%s (%s)", id, string(text))
	}
	head := "HEAD"
	if branch, err := clone.Branch(ctx); err == nil && branch != "" {
		head = "branch " + clean(branch)
	}
	merging, _, _ := strings.Cut(readState(clone, "MERGE_HEAD"), "\n")
	picking := readState(clone, "CHERRY_PICK_HEAD")
	switch commit := rebasing(clone); {
	case commit != "":
		return Sides{"what the commit is applied to, " + show("HEAD"), "the commit being applied, " + show(commit)}
	case merging != "":
		return Sides{head, show(merging)}
	case picking != "":
		return Sides{head, show(picking)}
	}
	return Sides{head, "the other side"}
}
