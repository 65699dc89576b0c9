package git

import (
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
	refused, told, err := p.guard(ctx, clone, staged, prefixes)
	if err != nil {
		return err
	}
	for _, prefix := range prefixes {
		bad, err := p.check(ctx, clone, prefix, head, told)
		if err != nil {
			return err
		}
		refused = refused || bad
	}
	if refused {
		return ErrRefused
	}
	return nil
}

// stagedChanges are the files that the commit would add or change.
func stagedChanges(ctx context.Context, clone *gitcmd.Clone, head string) ([]gitcmd.File, error) {
	if head == "" {
		return clone.Staged(ctx)
	}
	changes, err := clone.DiffStaged(ctx, head)
	if err != nil {
		return nil, err
	}
	var out []gitcmd.File
	for _, c := range changes {
		if c.New != nil {
			out = append(out, *c.New)
		}
	}
	return out, nil
}

// guard looks for values in the clear, on its own: it holds whatever else the
// repository is like. In a sealed repository, what cannot be read is refused too.
// told are the paths that it refused.
func (p *Plugin) guard(ctx context.Context, clone *gitcmd.Clone, staged []gitcmd.File, prefixes []string) (refused bool, told map[string]bool, err error) {
	told = map[string]bool{}
	var blobs *gitcmd.Blobs
	defer func() {
		if blobs != nil {
			_ = blobs.Close()
		}
	}()
	for _, f := range staged {
		if !belowSecrets(f.Path) || !f.Mode.IsFile() {
			continue
		}
		if blobs == nil {
			if blobs, err = clone.Blobs(ctx); err != nil {
				return false, nil, err
			}
		}
		inside := slices.ContainsFunc(prefixes, func(prefix string) bool {
			rest, ok := strings.CutPrefix(f.Path, prefix)
			_, ours, _ := manifest.Locate(rest)
			return ok && ours
		})
		data, err := blobs.Read(f.Blob, manifest.MaxSize)
		if errors.Is(err, gitcmd.ErrTooLarge) && !inside {
			continue
		}
		if err != nil {
			return false, nil, fmt.Errorf("%s: %w", clean(f.Path), err)
		}
		if lines := unsealed(f.Path, data, inside); len(lines) > 0 {
			refused, told[f.Path] = true, true
			for _, line := range lines {
				fmt.Fprintln(p.Err, clean(line))
			}
			fmt.Fprintf(p.Err, "  seal it: sealward seal --in-place %s, then git add %[1]s\n", quoted(f.Path))
		}
	}
	return refused, told, nil
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

// unsealed says what of a file is not sealed, or, inside a sealed repository, cannot
// be seen to be.
func unsealed(file string, data []byte, inside bool) []string {
	m, err := manifest.Parse(file, data)
	if err == nil {
		if !m.Kind.IsSecret() { // check says that it is misplaced
			return nil
		}
		if m.Sealed {
			return nil
		}
		var lines []string
		for i, e := range m.Secret.Entries {
			if i == 10 {
				lines = append(lines, fmt.Sprintf("%s: and %d more", file, len(m.Secret.Entries)-i))
				break
			}
			lines = append(lines, fmt.Sprintf("%s:%d: the value of %s is not sealed", file, e.Line, e.Key))
		}
		if len(lines) == 0 { // files: only
			lines = append(lines, file+": is not sealed")
		}
		return lines
	}
	var errs manifest.Errors
	if !errors.As(err, &errs) && inside {
		return []string{fmt.Sprintf("%s: cannot be read, so nobody can say that it is sealed", file)}
	}
	var lines []string
	for _, e := range errs {
		if e.Leaked {
			where := file
			if e.Line > 0 {
				where = fmt.Sprintf("%s:%d", file, e.Line)
			}
			lines = append(lines, fmt.Sprintf("%s: the value of %s is not sealed", where, e.Field))
		}
	}
	if len(lines) == 0 && inside {
		lines = []string{errs[0].Error(), file + ": is no manifest, so nobody can say that it is sealed"}
	}
	return lines
}

// repositories are the prefixes of the sealed repositories that files are staged in.
func repositories(ctx context.Context, clone *gitcmd.Clone, staged []gitcmd.File) ([]string, error) {
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
func (p *Plugin) check(ctx context.Context, clone *gitcmd.Clone, prefix, head string, told map[string]bool) (refused bool, err error) {
	dir := filepath.Join(clone.Top(), filepath.FromSlash(prefix))
	if _, err := os.Stat(filepath.Join(dir, workspace.RulesFile)); errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(p.Err, "sealward: %s%s is staged but not on disk, so only values in the clear were looked for\n", clean(prefix), workspace.RulesFile)
		return false, nil
	}
	repo, err := review.Open(ctx, dir)
	if err != nil {
		return false, err
	}
	index, err := repo.Staged(ctx)
	if err != nil {
		return false, err
	}
	defer index.Close()
	opts := review.CheckOptions{Now: p.Now()}
	if head != "" {
		base, err := repo.At(ctx, head)
		if err != nil {
			return false, err
		}
		defer base.Close()
		opts.Base = base
	}
	report, err := repo.Check(ctx, index, opts)
	if err != nil {
		return false, err
	}
	for _, f := range report.Findings {
		refused = refused || f.Level == review.LevelError
		if told[prefix+f.Path] && f.Level == review.LevelError {
			continue
		}
		fmt.Fprintf(p.Err, "%s%s:%d: %s: %s (%s)\n  %s\n", clean(prefix), clean(f.Path), f.Line, f.Level, clean(f.Message), f.ID, clean(f.Remedy))
	}
	return refused, nil
}
