package kustomize

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
)

// ErrNotAllowed: the tree's settings do not let a kustomization use a workspace.
var ErrNotAllowed = errors.New("this tree may not be built from that workspace")

type notAllowed struct{ msg string }

func (e *notAllowed) Error() string        { return e.msg }
func (e *notAllowed) Is(target error) bool { return target == ErrNotAllowed }

// Tree is the folder that kustomizations may take sealed files from, with the
// settings that say which workspaces they may name.
type Tree struct {
	dir      string
	root     *os.Root
	settings workspace.Settings

	mu           sync.Mutex
	repositories map[string]foundRepository // by folder
}

// foundRepository is what Tree.repository returns.
type foundRepository struct {
	repo *workspace.Repository
	rel  string
	err  error
}

// FindTree finds the tree around a kustomization's folder: the outermost folder with
// a sealward.yaml or a .sops.yaml, up to the top of the Git work tree, which is the one
// around submodules; where there is none, that top; without Git, the folder itself. The
// outermost counts, so that whoever may write below it cannot bring settings of their own.
func FindTree(dir string) (*Tree, error) {
	abs, err := filepath.Abs(dir)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	if err != nil {
		return nil, err
	}
	t := &Tree{dir: abs}
	stated := false
	for at := abs; ; at = filepath.Dir(at) {
		if exists(at, workspace.SettingsFile) || exists(at, workspace.RulesFile) {
			t.dir, stated = at, true
		}
		if exists(at, ".git") && !isSubmodule(at) {
			if !stated {
				t.dir = at
			}
			break
		}
		if at == filepath.Dir(at) {
			break
		}
	}
	if t.root, err = os.OpenRoot(t.dir); err != nil {
		return nil, err
	}
	if exists(t.dir, workspace.SettingsFile) {
		data, err := t.read(workspace.SettingsFile)
		if err != nil {
			return nil, err
		}
		if t.settings, err = workspace.ParseSettings(data); err != nil {
			return nil, &InputError{err}
		}
	}
	return t, nil
}

// isSubmodule reports that the work tree with its top in dir is a submodule of another
// around it, in the way that git makes them. Linked work trees, whose .git is a file too,
// stand for themselves; they alone have a commondir.
func isSubmodule(dir string) bool {
	file, err := os.Open(filepath.Join(dir, ".git"))
	if err != nil {
		return false
	}
	defer file.Close()
	head := make([]byte, 4<<10)
	n, _ := io.ReadFull(file, head) // none of a folder
	at, ok := strings.CutPrefix(strings.TrimRight(string(head[:n]), "\r\n"), "gitdir: ")
	if !filepath.IsAbs(at) {
		at = filepath.Join(dir, at)
	}
	return ok && strings.Contains(filepath.ToSlash(at), "/modules/") && !exists(at, "commondir")
}

func exists(dir, name string) bool {
	_, err := os.Lstat(filepath.Join(dir, name))
	return err == nil
}

// Dir is the tree's absolute path, links resolved.
func (t *Tree) Dir() string { return t.dir }

// Contains reports that an absolute path, links resolved, is the tree or lies in it.
func (t *Tree) Contains(path string) bool {
	_, ok := t.rel(path)
	return ok
}

// rel is a path below the tree with slashes.
func (t *Tree) rel(path string) (string, bool) {
	rel, err := filepath.Rel(t.dir, path)
	if err != nil || !filepath.IsLocal(rel) {
		return "", false
	}
	return filepath.ToSlash(rel), true
}

// find is the path below the tree of a file that a kustomization in the absolute
// folder root names.
func (t *Tree) find(root, path string) (string, error) {
	if filepath.IsAbs(path) || strings.HasPrefix(path, "/") {
		return "", errors.New("is an absolute path; name files relative to the kustomization")
	}
	rel, ok := t.rel(filepath.Join(root, filepath.FromSlash(path)))
	if !ok {
		return "", fmt.Errorf("leaves the tree, which is %s; a sealed file must be in it", t.dir)
	}
	return rel, nil
}

// read reads a file of the tree; one that a link takes out of it is refused.
func (t *Tree) read(rel string) ([]byte, error) {
	// Before it is opened: opening a named pipe would wait for who writes to it.
	info, err := t.root.Stat(filepath.FromSlash(rel))
	switch {
	case err != nil:
		return nil, readError(rel, err)
	case info.IsDir():
		return nil, &manifest.Error{File: rel, Msg: "is a folder; name a sealed file"}
	case !info.Mode().IsRegular():
		return nil, &manifest.Error{File: rel, Msg: "is no plain file"}
	}
	f, err := t.root.Open(filepath.FromSlash(rel))
	if err != nil {
		return nil, readError(rel, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, manifest.MaxSize+1))
	if err != nil {
		return nil, readError(rel, err)
	}
	if len(data) > manifest.MaxSize {
		return nil, &manifest.Error{File: rel, Msg: fmt.Sprintf("has more than %d bytes", manifest.MaxSize), Reason: manifest.ReasonTooLarge}
	}
	return data, nil
}

func readError(rel string, err error) error {
	var p *fs.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &manifest.Error{File: rel, Msg: "does not exist"}
	case errors.As(err, &p) && strings.Contains(p.Err.Error(), "escapes"):
		return &manifest.Error{File: rel, Msg: "is a link that leaves the tree"}
	case errors.As(err, &p):
		return &manifest.Error{File: rel, Msg: "cannot be read: " + p.Err.Error()}
	}
	return &manifest.Error{File: rel, Msg: "cannot be read: " + err.Error()}
}

// repository is the sealed repository that a kustomization's folder is in: the nearest
// folder with a .sops.yaml and workspaces/ or instance/. rel is its path below the
// tree.
func (t *Tree) repository(root string) (repo *workspace.Repository, rel string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	found, known := t.repositories[root]
	if !known {
		found.repo, found.rel, found.err = t.findRepository(root)
		if t.repositories == nil {
			t.repositories = map[string]foundRepository{}
		}
		t.repositories[root] = found
	}
	return found.repo, found.rel, found.err
}

func (t *Tree) findRepository(root string) (repo *workspace.Repository, rel string, err error) {
	for at := root; ; at = filepath.Dir(at) {
		rel, ok := t.rel(at)
		if !ok {
			return nil, "", fmt.Errorf("there is no sealed repository (a %s with workspaces/) around %s to take secrets by name from; name files instead", workspace.RulesFile, root)
		}
		if exists(at, workspace.RulesFile) && (exists(at, "workspaces") || exists(at, "instance")) {
			repo, err := workspace.FindRepository(at)
			return repo, rel, err
		}
	}
}

// permit fails, with ErrNotAllowed, when a kustomization in a folder of the tree may
// not use a workspace. adopted says that the file states it by itself, outside
// workspaces/ and instance/: a Kubernetes object or a source. A tree without builds
// may use those, as far as the keyring goes.
func (t *Tree) permit(folder string, ws manifest.Workspace, adopted bool) error {
	allowed, stated := t.settings.Buildable(folder, ws)
	if allowed || !stated && adopted {
		return nil
	}
	return &notAllowed{fmt.Sprintf("%s does not let %s use workspace %s; if it should, add there: builds: {%[2]s: [%[3]s]}", filepath.Join(t.dir, workspace.SettingsFile), folder, ws)}
}
