// Package review answers a pull request's questions about a sealed repository from
// its files alone: what is wrong with them (check), what changed (diff), who may read
// what (access). None needs a private key; where the ring has one, the answers say
// more.
//
// Most callers need [Open], then [Repo.At], [Repo.Staged] or [Repo.WorkTree], and one
// of the questions. It changes nothing.
package review

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/sealward/sealward/gitops/gitcmd"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
)

// Repo is a sealed repository: a folder with a .sops.yaml, the clone it is in, or
// both. A folder that is in no clone has a work tree only; a bare clone has commits
// only.
type Repo struct {
	clone  *gitcmd.Clone         // nil outside Git
	local  *workspace.Repository // nil without files on disk
	prefix string                // of the sealed repository in the clone, "" or ending in /
	blobs  readers
}

// readers are running gits that give blobs, whatever tree they are of: as many as read
// at once. They end with the last tree that is closed.
type readers struct {
	mu        sync.Mutex
	trees     int
	free, all []*gitcmd.Blobs
}

func (r *readers) take(ctx context.Context, clone *gitcmd.Clone) (*gitcmd.Blobs, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.free); n > 0 {
		b := r.free[n-1]
		r.free = r.free[:n-1]
		return b, nil
	}
	b, err := clone.Blobs(ctx)
	if err != nil {
		return nil, err
	}
	r.all = append(r.all, b)
	return b, nil
}

// warm starts the first reader, which then gets ready while other gits run.
func (r *readers) warm(ctx context.Context, clone *gitcmd.Clone) {
	r.mu.Lock()
	started := len(r.all) > 0
	r.mu.Unlock()
	if started {
		return
	}
	if b, err := r.take(ctx, clone); err == nil { // who needs one is told what is wrong
		r.giveBack(b)
	}
}

func (r *readers) giveBack(b *gitcmd.Blobs) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.free = append(r.free, b)
}

func (r *readers) open() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.trees++
}

func (r *readers) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.trees--; r.trees > 0 {
		return
	}
	for _, b := range r.all {
		_ = b.Close()
	}
	r.free, r.all = nil, nil
}

// Open finds the sealed repository around dir. It fails with
// workspace.ErrNoRepository when there is neither a .sops.yaml nor a clone.
func Open(ctx context.Context, dir string) (*Repo, error) {
	r := &Repo{}
	local, err := workspace.FindRepository(dir)
	if err != nil && !errors.Is(err, workspace.ErrNoRepository) {
		return nil, err
	}
	missing := err
	at := dir
	if local != nil {
		r.local, at = local, local.Dir()
	}
	clone, err := gitcmd.Open(ctx, at)
	switch {
	case errors.Is(err, gitcmd.ErrNoClone) && local != nil:
		return r, nil
	case errors.Is(err, gitcmd.ErrNoClone):
		return nil, missing
	case err != nil:
		return nil, err
	}
	r.clone = clone
	if local != nil {
		r.prefix, err = clone.Prefix(local.Dir())
	}
	return r, err
}

// Clone is the clone that the repository is in. It fails outside Git.
func (r *Repo) Clone() (*gitcmd.Clone, error) {
	if r.clone == nil {
		return nil, fmt.Errorf("%w around %s; git init makes one", gitcmd.ErrNoClone, r.local.Dir())
	}
	return r.clone, nil
}

// Local is the repository on disk, nil for a bare clone or one without a checkout.
func (r *Repo) Local() *workspace.Repository { return r.local }

// Prefix of the sealed repository's paths in the clone: "", or a folder with a slash
// at its end.
func (r *Repo) Prefix() string { return r.prefix }

// File is one path of a tree, relative to the sealed repository.
type File struct {
	Path string
	Mode gitcmd.Mode
	Blob string // "" when only the disk has it
}

// Tree is the files of one state: a commit, the index or the work tree. It is safe
// for concurrent use. Close it.
type Tree struct {
	// Name is how people call it: the revision as it was given, "index" or "work tree".
	Name string
	// Commit is its id; "" for the index and the work tree.
	Commit string

	repo *Repo
	list func(ctx context.Context, paths []string) ([]File, error)

	closing sync.Once
}

// The names of the trees that are no commit.
const (
	indexName    = "index"
	workTreeName = "work tree"
)

// At is the tree of a commit.
func (r *Repo) At(ctx context.Context, rev string) (*Tree, error) {
	clone, err := r.Clone()
	if err != nil {
		return nil, err
	}
	commit := rev
	if !gitcmd.IsCommitID(rev) { // of an id git says later whether it is a commit
		if commit, err = clone.Resolve(ctx, rev); err != nil {
			return nil, err
		}
	}
	r.blobs.open()
	r.blobs.warm(ctx, clone)
	t := &Tree{Name: rev, Commit: commit, repo: r}
	t.list = func(ctx context.Context, paths []string) ([]File, error) {
		files, err := clone.Files(ctx, commit, r.inClone(paths)...)
		return r.inRepository(files), err
	}
	return t, nil
}

// Staged is the tree of the index: what git commit would commit.
func (r *Repo) Staged(context.Context) (*Tree, error) {
	clone, err := r.Clone()
	if err != nil {
		return nil, err
	}
	if clone.Bare() {
		return nil, errors.New("a bare repository has no index")
	}
	r.blobs.open()
	return &Tree{Name: indexName, repo: r, list: func(ctx context.Context, paths []string) ([]File, error) {
		files, err := clone.Staged(ctx, r.inClone(paths)...)
		return r.inRepository(files), err
	}}, nil
}

// WorkTree is the files on disk, whether Git knows them or not.
func (r *Repo) WorkTree() (*Tree, error) {
	if r.local == nil {
		return nil, fmt.Errorf("%w: there are no files on disk here; name a commit", workspace.ErrNoRepository)
	}
	r.blobs.open()
	return &Tree{Name: workTreeName, repo: r, list: func(ctx context.Context, paths []string) ([]File, error) {
		return walk(ctx, r.local.Dir(), paths)
	}}, nil
}

func (r *Repo) inClone(paths []string) []string {
	if len(paths) == 0 && r.prefix != "" {
		return []string{r.prefix}
	}
	out := make([]string, len(paths))
	for i, p := range paths {
		out[i] = r.prefix + p
	}
	return out
}

func (r *Repo) inRepository(files []gitcmd.File) []File {
	out := make([]File, 0, len(files))
	for _, f := range files {
		if path, ok := strings.CutPrefix(f.Path, r.prefix); ok {
			out = append(out, File{Path: path, Mode: f.Mode, Blob: f.Blob})
		}
	}
	return out
}

// walk lists files on disk as git would: links are not followed, and a folder with a
// repository of its own is a submodule.
func walk(ctx context.Context, dir string, paths []string) ([]File, error) {
	if len(paths) == 0 {
		paths = []string{"."}
	}
	var out []File
	for _, p := range paths {
		if link := linkAbove(dir, p); link != "" {
			out = append(out, File{Path: link, Mode: gitcmd.Symlink})
			continue
		}
		err := filepath.WalkDir(filepath.Join(dir, filepath.FromSlash(p)), func(file string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(dir, file)
			if err != nil {
				return err
			}
			rel = filepath.ToSlash(rel)
			switch {
			case d.Name() == ".git" || workspace.IsLeftover(d.Name()):
				if d.IsDir() {
					return fs.SkipDir
				}
			case d.IsDir():
				if _, err := os.Lstat(filepath.Join(file, ".git")); err == nil && rel != "." {
					out = append(out, File{Path: rel, Mode: gitcmd.Submodule})
					return fs.SkipDir
				}
			case d.Type()&fs.ModeSymlink != 0:
				out = append(out, File{Path: rel, Mode: gitcmd.Symlink})
			case d.Type().IsRegular():
				out = append(out, File{Path: rel, Mode: gitcmd.Regular})
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(out, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return slices.Compact(out), nil
}

// linkAbove is the first folder above a path that is a symbolic link, "" when none
// is.
func linkAbove(dir, path string) string {
	for i, c := range path {
		if c != '/' {
			continue
		}
		if info, err := os.Lstat(filepath.Join(dir, filepath.FromSlash(path[:i]))); err == nil && info.Mode()&fs.ModeSymlink != 0 {
			return path[:i]
		}
	}
	return ""
}

// maxArguments is how many bytes of paths are given to a git: a command line has an end, and
// others say how many files there are and how long their names.
const maxArguments = 100_000

// atOrBelow keeps the files at and below paths.
func atOrBelow(files []File, paths []string) []File {
	wanted := make(map[string]bool, len(paths))
	for _, p := range paths {
		wanted[p] = true
	}
	return slices.DeleteFunc(files, func(f File) bool {
		for i, r := range f.Path {
			if r == '/' && wanted[f.Path[:i]] {
				return false
			}
		}
		return !wanted[f.Path]
	})
}

// Files lists the files at and below the paths given (all without any), which end
// in no slash; sorted by path.
func (t *Tree) Files(ctx context.Context, paths ...string) ([]File, error) {
	asked := paths
	if size := 0; t.Name != workTreeName {
		for _, p := range paths {
			size += len(t.repo.prefix) + len(p) + 9
		}
		if size > maxArguments {
			asked = nil
		}
	}
	files, err := t.list(ctx, asked)
	if err != nil {
		return nil, err
	}
	if len(asked) < len(paths) {
		files = atOrBelow(files, paths)
	}
	// Git's order is that of bytes with a folder's slash, which this is too.
	if !slices.IsSortedFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) }) {
		slices.SortStableFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	}
	return files, nil
}

// Read gives the content of a plain file of the tree, of up to manifest.MaxSize
// bytes; a larger one is gitcmd.ErrTooLarge.
func (t *Tree) Read(ctx context.Context, f File) ([]byte, error) {
	if !f.Mode.IsFile() {
		return nil, fmt.Errorf("%s: is not a plain file", f.Path)
	}
	if f.Blob == "" {
		return t.readDisk(f.Path)
	}
	b, err := t.blobs(ctx)
	if err != nil {
		return nil, err
	}
	data, err := b.Read(f.Blob, manifest.MaxSize)
	t.giveBack(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Path, err)
	}
	return data, nil
}

// Has reports that something stands at or below one of the paths.
func (t *Tree) Has(ctx context.Context, paths ...string) (bool, error) {
	if slices.Contains(paths, ".") {
		return true, nil
	}
	files, err := t.filesAt(ctx, paths...)
	return len(files) > 0, err
}

// ReadPath is Read for a path; fs.ErrNotExist when the tree has no such file.
func (t *Tree) ReadPath(ctx context.Context, path string) ([]byte, error) {
	files, err := t.filesAt(ctx, path)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if f.Path == path {
			return t.Read(ctx, f)
		}
	}
	return nil, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
}

func (t *Tree) blobs(ctx context.Context) (*gitcmd.Blobs, error) {
	return t.repo.blobs.take(ctx, t.repo.clone)
}

func (t *Tree) giveBack(b *gitcmd.Blobs) { t.repo.blobs.giveBack(b) }

// readDisk reads a file that Files listed, so that no folder above it is a link.
func (t *Tree) readDisk(path string) ([]byte, error) {
	name := filepath.Join(t.repo.local.Dir(), filepath.FromSlash(path))
	info, err := os.Lstat(name)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", path, errors.Unwrap(err))
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s: is not a plain file", path)
	case info.Size() > manifest.MaxSize:
		return nil, fmt.Errorf("%s: %w: it has %d bytes; at most %d", path, gitcmd.ErrTooLarge, info.Size(), manifest.MaxSize)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, errors.Unwrap(err))
	}
	return data, nil
}

// Close ends what reads the tree. It can be called again.
func (t *Tree) Close() { t.closing.Do(t.repo.blobs.close) }

// Rules reads the tree's .sops.yaml; without one there are no rules.
func (t *Tree) Rules(ctx context.Context) (*workspace.Rules, error) {
	data, err := t.ReadPath(ctx, workspace.RulesFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return workspace.ParseRules(data)
}

// Changed lists the paths that differ between two trees, sorted; the older one must
// be a commit. Its cost follows the change. old and new are nil where the path is
// absent.
func (r *Repo) Changed(ctx context.Context, from, to *Tree, paths ...string) ([]Change, error) {
	clone, err := r.Clone()
	if err != nil {
		return nil, err
	}
	var changes []gitcmd.Change
	switch in := r.inClone(paths); {
	case from.Commit == "":
		return nil, errors.New("only what differs from a commit can be told")
	case to.Commit != "":
		changes, err = clone.Diff(ctx, from.Commit, to.Commit, in...)
	case to.Name == indexName:
		changes, err = clone.DiffStaged(ctx, from.Commit, in...)
	default:
		changes, err = clone.DiffWorkTree(ctx, from.Commit, in...)
	}
	if err != nil {
		return nil, err
	}
	var out []Change
	for _, c := range changes {
		path, ok := strings.CutPrefix(c.Path, r.prefix)
		if !ok {
			continue
		}
		change := Change{Path: path}
		if c.Old != nil {
			change.Old = &File{Path: path, Mode: c.Old.Mode, Blob: c.Old.Blob}
		}
		if c.New != nil {
			change.New = &File{Path: path, Mode: c.New.Mode, Blob: c.New.Blob}
		}
		out = append(out, change)
	}
	slices.SortFunc(out, func(a, b Change) int { return strings.Compare(a.Path, b.Path) })
	return out, nil
}

// Change is one path that differs between two trees.
type Change struct {
	Path     string
	Old, New *File
}

// inParallel calls f for each index below n with as many goroutines as cores, and
// stops at the first error.
func inParallel(ctx context.Context, n int, f func(int) error) error {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var first error
	next := 0
	for range min(n, runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for {
				mu.Lock()
				i, stop := next, first != nil || next >= n || ctx.Err() != nil
				next++
				mu.Unlock()
				if stop {
					return
				}
				if err := f(i); err != nil {
					mu.Lock()
					if first == nil {
						first = err
					}
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	if first == nil {
		first = ctx.Err()
	}
	return first
}
