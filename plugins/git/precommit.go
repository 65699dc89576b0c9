package git

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sealward/sealward/gitops/gitcmd"
	"github.com/sealward/sealward/gitops/review"
	"github.com/sealward/sealward/plugins/kustomize"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
)

// ErrRefused: what is staged must not be committed; the lines that say why were
// printed.
var ErrRefused = errors.New("not committed")

// PreCommit looks at what the index would commit. It refuses values that are not
// sealed, and whatever review's check calls an error; warnings are only printed.
func (p *Plugin) PreCommit(ctx context.Context) error {
	clone, err := openClone(ctx, p.Dir)
	if err != nil {
		return err
	}
	head := "HEAD"
	if _, err := clone.Run(ctx, "rev-parse", "--verify", "--quiet", "HEAD"); err != nil {
		head = "" // the first commit
	}
	staged, err := stagedChanges(ctx, clone, head)
	if err != nil {
		return err
	}
	prefixes, err := repositories(ctx, clone, staged)
	if err != nil {
		return err
	}
	guarded, err := p.guard(ctx, clone, staged, prefixes)
	if err != nil {
		return err
	}
	var found []review.Finding
	for _, prefix := range prefixes {
		more, err := p.check(ctx, clone, prefix, head)
		if err != nil {
			// What the guard saw is told whatever else is wrong.
			return errors.Join(p.tell(guarded), err)
		}
		found = append(found, more...)
	}
	if found, err = together(ctx, clone, guarded, found); err != nil {
		return err
	}
	if err := p.tell(found); err != nil {
		return err
	}
	if slices.ContainsFunc(found, func(f review.Finding) bool { return f.Level == review.LevelError }) {
		return ErrRefused
	}
	return nil
}

// tell prints findings as sealward check does.
func (p *Plugin) tell(found []review.Finding) error {
	slices.SortStableFunc(found, func(a, b review.Finding) int {
		return cmp.Or(strings.Compare(a.Path, b.Path), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return (&review.Report{Findings: found}).WriteText(p.Err)
}

// together tells of each file what the guard says of it, or what check says. A
// conflict that was left in a file is check's to find; the way out is git's.
func together(ctx context.Context, clone *gitcmd.Clone, guarded, found []review.Finding) ([]review.Finding, error) {
	in := func(fs []review.Finding, file string, ids ...review.CheckID) bool {
		return slices.ContainsFunc(fs, func(f review.Finding) bool {
			return f.Path == file && (len(ids) == 0 || slices.Contains(ids, f.ID))
		})
	}
	out := slices.DeleteFunc(guarded, func(f review.Finding) bool { return in(found, f.Path, review.MergeConflict) })
	for _, f := range found {
		switch {
		case f.ID == review.MergeConflict:
			var err error
			if f.Remedy, err = wayOut(ctx, clone, f.Path); err != nil {
				return nil, err
			}
		case f.Level == review.LevelError && f.ID != review.PrivateKey && in(guarded, f.Path):
			continue
		}
		out = append(out, f)
	}
	return out, nil
}

// wayOut of a file with conflict markers in it. git keeps the versions of a conflict
// that was added until the commit.
func wayOut(ctx context.Context, clone *gitcmd.Clone, file string) (string, error) {
	if s, err := locate(clone, file); err != nil || s.place.Policy {
		return "resolve it as any conflict of git, then git add " + quoted(file), nil
	}
	kept, err := clone.Run(ctx, "ls-files", "--resolve-undo", "-z", "--", file)
	if err != nil {
		return "", err
	}
	if len(kept) == 0 {
		return fmt.Sprintf("take a version without them, such as that of the last commit: git checkout HEAD -- %s", quoted(file)), nil
	}
	return fmt.Sprintf("git checkout --merge -- %s brings the conflict back; then sealward resolve %[1]s", quoted(file)), nil
}

// stagedChanges are the files that the commit would add, change or (with New nil)
// remove.
func stagedChanges(ctx context.Context, clone *gitcmd.Clone, head string) ([]gitcmd.Change, error) {
	if head != "" {
		return clone.DiffStaged(ctx, head)
	}
	files, err := clone.Staged(ctx)
	var out []gitcmd.Change
	for _, f := range files {
		out = append(out, gitcmd.Change{Path: f.Path, New: &f})
	}
	return out, err
}

// guard looks for values in the clear, on its own: it holds whatever else the
// repository is like. In a sealed repository, what cannot be read is refused too.
func (p *Plugin) guard(ctx context.Context, clone *gitcmd.Clone, staged []gitcmd.Change, prefixes []string) ([]review.Finding, error) {
	var out []review.Finding
	var blobs *gitcmd.Blobs
	defer func() {
		if blobs != nil {
			_ = blobs.Close()
		}
	}()
	for _, c := range staged {
		if c.New == nil || !c.New.Mode.IsFile() || !belowSecrets(c.Path) {
			continue
		}
		var err error
		if blobs == nil {
			if blobs, err = clone.Blobs(ctx); err != nil {
				return nil, err
			}
		}
		g := guarded{path: c.Path, committed: c.Old != nil}
		for _, prefix := range prefixes {
			if rest, ok := strings.CutPrefix(c.Path, prefix); ok {
				if place, ours, _ := manifest.Locate(rest); ours {
					g.inside, g.place = true, place
				}
			}
		}
		data, err := blobs.Read(c.New.Blob, manifest.MaxSize)
		if errors.Is(err, gitcmd.ErrTooLarge) && !g.inside {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", clean(c.Path), err)
		}
		out = append(out, g.unsealed(data)...)
	}
	return out, nil
}

// belowSecrets says whether a path is where a sealed repository, in whatever folder,
// keeps secrets.
func belowSecrets(file string) bool {
	part := strings.Split(file, "/")
	for i := range part {
		rest := part[i:]
		if len(rest) >= 3 && rest[0] == "instance" && rest[1] == "secrets" || len(rest) >= 4 && rest[0] == "workspaces" && rest[2] == "secrets" {
			base := part[len(part)-1]
			return base != "README.md" && base != ".gitkeep"
		}
	}
	return false
}

// guarded is a staged file that the guard looks at.
type guarded struct {
	path      string
	inside    bool // a sealed repository, where it is at place
	place     manifest.Place
	committed bool // an earlier version is in HEAD
}

// unsealed says what of a file is not sealed, or, inside a sealed repository, cannot
// be seen to be.
func (g guarded) unsealed(data []byte) []review.Finding {
	m, err := manifest.Parse(g.path, data)
	if err == nil {
		err = m.CheckSealed() // of a grant, check says that it is misplaced
	}
	var errs manifest.Errors
	if err == nil || !errors.As(err, &errs) && !g.inside {
		return nil
	}
	var out []review.Finding
	for _, e := range errs {
		if e.Leaked {
			message, _, _ := strings.Cut(e.Msg, ". ") // the remedy says the rest
			out = append(out, g.finding(e, message, g.sealIt(m, e.Field)))
		}
	}
	if len(out) > 0 || !g.inside {
		return out
	}
	first := &manifest.Error{Msg: "cannot be read"}
	if len(errs) > 0 {
		first = errs[0]
	}
	return []review.Finding{g.finding(first, first.Msg+"; it is no manifest, so nobody can say that it is sealed", g.moveIt())}
}

func (g guarded) finding(at *manifest.Error, message, remedy string) review.Finding {
	return review.Finding{ID: review.ValueUnsealed, Level: review.LevelError, Path: g.path,
		Line: max(at.Line, 1), Column: at.Column, Field: at.Field, Message: message, Remedy: remedy}
}

// sealIt is what to do about a value in the clear. m is nil where it stands among
// sealed ones: such a file cannot be sealed, nor opened to be changed.
func (g guarded) sealIt(m *manifest.Manifest, field string) string {
	file := quoted(g.path)
	if m != nil {
		where := ""
		if m.Workspace.IsZero() && !g.inside {
			where = " -w WORKSPACE"
		}
		return fmt.Sprintf("sealward seal --in-place %s%s, then git add %[1]s", file, where)
	}
	set := "sealward set WORKSPACE/NAME KEY"
	if !g.place.Name.IsZero() {
		set = fmt.Sprintf("sealward set %s/%s %s", g.place.Scope, g.place.Name, keyOf(field))
	}
	if !g.committed {
		return fmt.Sprintf("git rm -f %s removes it, as no commit has it yet; then sealward create secret, and %s", file, set)
	}
	return fmt.Sprintf("git checkout HEAD -- %s takes the sealed version back; then %s, and git add %[1]s", file, set)
}

// keyOf is the key in a dotted path of a value, which may have dots itself.
func keyOf(field string) string {
	for _, s := range []manifest.Sections{manifest.SectionsOf(manifest.DataOS, manifest.KindSecret), manifest.SectionsOf(manifest.DataOS, manifest.KindInstanceSecret), manifest.SectionsOf(manifest.Kubernetes, manifest.KindSecret)} {
		for _, section := range [][]string{s.Text, s.Base64} {
			if key, ok := strings.CutPrefix(field, strings.Join(section, ".")+"."); ok {
				return quoted(key)
			}
		}
	}
	return "KEY"
}

func (g guarded) moveIt() string {
	file := quoted(g.path)
	if slices.Contains([]string{".yaml", ".yml", ".json"}, strings.ToLower(path.Ext(g.path))) {
		return fmt.Sprintf("mend it and seal it (sealward seal --in-place %s), or move it out of secrets/; git rm --cached %[1]s takes it out of the commit and leaves it on disk", file)
	}
	return fmt.Sprintf("move it out of secrets/; git rm --cached %s takes it out of the commit and leaves it on disk", file)
}

// repositories are the prefixes of the sealed repositories that files are staged in.
func repositories(ctx context.Context, clone *gitcmd.Clone, staged []gitcmd.Change) ([]string, error) {
	rules := map[string]bool{}
	for _, f := range staged {
		for dir := path.Dir(f.Path); ; dir = path.Dir(dir) {
			rules[path.Join(dir, workspace.RulesFile)] = true
			if dir == "." {
				break
			}
		}
	}
	if len(rules) == 0 {
		return nil, nil
	}
	var paths []string
	for file := range rules {
		paths = append(paths, file)
	}
	slices.Sort(paths)
	var out []string
	for chunk := range slices.Chunk(paths, 1000) { // a command line has an end
		files, err := clone.Staged(ctx, chunk...)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			prefix := strings.TrimSuffix(f.Path, workspace.RulesFile)
			if !slices.Contains(out, prefix) {
				out = append(out, prefix)
			}
		}
	}
	return out, nil
}

// check asks review about what is staged in one sealed repository.
func (p *Plugin) check(ctx context.Context, clone *gitcmd.Clone, prefix, head string) ([]review.Finding, error) {
	dir := filepath.Join(clone.Top(), filepath.FromSlash(prefix))
	if _, err := os.Stat(filepath.Join(dir, workspace.RulesFile)); errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(p.Err, "sealward: %s%s is staged but not on disk, so only values in the clear were looked for\n", clean(prefix), workspace.RulesFile)
		return nil, nil
	}
	repo, err := review.Open(ctx, dir)
	if err != nil {
		return nil, err
	}
	index, err := repo.Staged(ctx)
	if err != nil {
		return nil, err
	}
	defer index.Close()
	opts := review.CheckOptions{Now: p.Now(), Generators: kustomize.CheckGenerators}
	if head != "" {
		base, err := repo.At(ctx, head)
		if err != nil {
			return nil, err
		}
		defer base.Close()
		opts.Base = base
	}
	report, err := repo.Check(ctx, index, opts)
	if err != nil {
		return nil, err
	}
	for i := range report.Findings {
		f := &report.Findings[i]
		if prefix != "" { // git starts the hook at the top
			f.Remedy = strings.ReplaceAll(f.Remedy, f.Path, quoted(prefix+f.Path))
		}
		f.Path = prefix + f.Path
	}
	return report.Findings, nil
}
