package review

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/filemode"

	"github.com/sealward/sealward/gitops/gitcmd"
	"github.com/sealward/sealward/gitops/source"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal/access"
)

// Policy is who may do what by the grants and roles of one tree. It decides as an
// agent does that has applied it.
type Policy struct {
	*access.Policy
	Tree   string // as people call it
	Commit string // "" for the index and the work tree
	// Problems are broken files and what else stands where nothing valid can, sorted by
	// path.
	Problems []PolicyProblem
}

// PolicyProblem is one path that holds no valid grant or role.
type PolicyProblem struct {
	Path    string `json:"path"`
	Message string `json:"message"` // begins with the path
	// Closes names the scope whose reads are refused because of it, "instance" for all;
	// without it, the file merely grants nothing.
	Closes string `json:"closes,omitempty"`
}

// Problem says what is wrong with the file that closes a scope, beginning with its
// path.
func (p *Policy) Problem(path string) string {
	for _, problem := range p.Problems {
		if problem.Path == path {
			return problem.Message
		}
	}
	return path + ": defines a role that another file defines too"
}

// Sealed reports whether the tree has a .sops.yaml where its sealed repository ought to
// be. A clone without files does not tell in which folder that is.
func (t *Tree) Sealed(ctx context.Context) (bool, error) {
	files, err := t.filesAt(ctx, workspace.RulesFile)
	return len(files) > 0, err
}

// filesAt is Files for a few paths. It does without another git where the trees of a
// commit are read already; names that no one should use are left out.
func (t *Tree) filesAt(ctx context.Context, paths ...string) ([]File, error) {
	if _, sha1 := hash(t.Commit); !sha1 || len(paths) > 60 {
		return t.Files(ctx, paths...)
	}
	below := func(path, folder string) bool { return strings.HasPrefix(path+"/", folder+"/") }
	entries, err := t.walkCommit(ctx, func(dir string) bool {
		return dir == "" || slices.ContainsFunc(paths, func(p string) bool { return below(p, dir) || below(dir, p) })
	})
	var out []File
	for _, e := range entries {
		if e.bad == "" && slices.ContainsFunc(paths, func(p string) bool { return below(e.Path, p) }) {
			out = append(out, e.File)
		}
	}
	return out, err
}

// policyEntry is a path that counts for the policy, or, with bad, why it cannot.
type policyEntry struct {
	File
	bad string
}

// Policy compiles the policy of the workspaces given, or of all, together with the
// instance's. It reads the grants and the folders on the way to them and nothing else. An error means
// that it could not read them; what stands there and is wrong closes its scope.
func (t *Tree) Policy(ctx context.Context, scopes ...manifest.Workspace) (*Policy, error) {
	var entries []policyEntry
	var err error
	switch {
	case t.Commit != "":
		entries, err = t.walkCommit(ctx, func(dir string) bool { return wanted(dir, scopes) })
	case t.Name == indexName:
		entries, err = t.listedPolicy(ctx, []string{"instance", "workspaces"})
	default:
		entries, err = t.diskPolicy(ctx, scopes)
	}
	if err != nil {
		return nil, err
	}
	judged := make([]access.File, len(entries))
	problems := make([]error, len(entries))
	scopeOf := make([]manifest.Workspace, len(entries))
	judge := func(i int) (err error) {
		scopeOf[i], judged[i], problems[i], err = t.judge(ctx, entries[i])
		return err
	}
	if len(entries) > 200 { // so many that more than one reader pays
		err = inParallel(ctx, len(entries), judge)
	} else {
		for i := 0; i < len(entries) && err == nil; i++ {
			err = judge(i)
		}
	}
	if err != nil {
		return nil, err
	}
	p := &Policy{Tree: t.Name, Commit: t.Commit}
	files := map[manifest.Workspace][]access.File{}
	for i, f := range judged {
		if f.Path == "" {
			continue
		}
		files[scopeOf[i]] = append(files[scopeOf[i]], f)
		if problems[i] != nil {
			problem := PolicyProblem{Path: f.Path, Message: problems[i].Error()}
			if !strings.HasPrefix(problem.Message, f.Path+":") {
				problem.Message = f.Path + ": " + problem.Message
			}
			if f.Closes {
				problem.Closes = scopeOf[i].String()
			}
			p.Problems = append(p.Problems, problem)
		}
	}
	slices.SortFunc(p.Problems, func(a, b PolicyProblem) int { return strings.Compare(a.Path, b.Path) })
	compiled := map[manifest.Workspace]*access.Scope{}
	for ws, list := range files {
		compiled[ws] = access.CompileScope(ws, list)
	}
	p.Policy = access.New(compiled)
	return p, nil
}

// judge decides what one entry is to the policy: nothing (an empty file), a grant or
// role, or something broken.
func (t *Tree) judge(ctx context.Context, e policyEntry) (scope manifest.Workspace, f access.File, problem, err error) {
	closed := func(reason error) (manifest.Workspace, access.File, error, error) {
		if ws, closes := access.ClosedBy(e.Path); closes {
			return ws, access.File{Path: e.Path, Closes: true}, reason, nil
		}
		return manifest.Workspace{}, access.File{}, nil, nil
	}
	if e.bad != "" {
		return closed(errors.New(e.bad))
	}
	place, ours, wrong := manifest.Locate(e.Path)
	switch {
	case !ours:
		return manifest.Workspace{}, access.File{}, nil, nil
	case !place.Policy && wrong != nil:
		return closed(wrong)
	case !place.Policy:
		return manifest.Workspace{}, access.File{}, nil, nil
	}
	var read func() ([]byte, error)
	if e.Mode.IsFile() {
		read = func() ([]byte, error) {
			data, failed := t.Read(ctx, e.File)
			// What this clone lacks may be a deny or not: there is no answer. An object of
			// another kind is the tree's own mistake.
			if errors.Is(failed, gitcmd.ErrNoObject) && !errors.Is(failed, gitcmd.ErrKind) || ctx.Err() != nil {
				err = failed
			}
			return data, failed
		}
	}
	f, problem = access.ReadFile(e.Path, place, read)
	return place.Scope, f, problem, err
}

// wanted says whether a folder of the sealed repository leads to, or is below, the
// grants of one of the scopes.
func wanted(dir string, scopes []manifest.Workspace) bool {
	part := strings.SplitN(dir, "/", 4)
	switch {
	case dir == "" || dir == "workspaces" || dir == "instance":
		return true
	case part[0] == "instance":
		return part[1] == "grants"
	case part[0] != "workspaces" || len(part) > 2 && part[2] != "grants":
		return false
	}
	return len(scopes) == 0 || slices.ContainsFunc(scopes, func(ws manifest.Workspace) bool { return ws.String() == part[1] })
}

// walkCommit lists the folders of a commit that want accepts, "" being the top of the
// sealed repository. It reads the trees themselves: git's listing hides what the agent
// refuses, such as a name that stands twice in a folder.
func (t *Tree) walkCommit(ctx context.Context, want func(dir string) bool) ([]policyEntry, error) {
	b, err := t.blobs(ctx)
	if err != nil {
		return nil, err
	}
	defer t.giveBack(b)
	id, err := b.TreeOf(t.Commit)
	if errors.Is(err, gitcmd.ErrNoObject) { // the id of a tag, or of nothing: git says what to fetch
		var commit string
		if commit, err = t.repo.clone.Resolve(ctx, t.Commit); err == nil {
			id, err = b.TreeOf(commit)
		}
	}
	if err != nil {
		return nil, err
	}
	top, ok := hash(id)
	if !ok {
		return nil, errors.New("this repository has SHA-256 object ids, which no agent follows; who may read what can be told of its work tree only")
	}
	root := strings.TrimSuffix(t.repo.prefix, "/")
	if root == "" {
		root = "."
	}
	inRoot := func(dir string) bool {
		if dir == "" {
			dir = "."
		}
		rel := source.InRoot(root, dir)
		if rel == "." {
			rel = ""
		}
		return want(rel)
	}
	entries, problems, err := source.ListTree(ctx, top, root, inRoot, func(tree source.Hash, max int64) ([]byte, error) {
		data, err := b.Tree(tree.String(), max)
		switch {
		case errors.Is(err, gitcmd.ErrTooLarge):
			return nil, fmt.Errorf("its folder %w: %w", err, source.ErrTooLarge)
		case errors.Is(err, gitcmd.ErrKind):
			return nil, fmt.Errorf("%w: %w", source.ErrNotTree, err)
		}
		return data, err
	})
	if err != nil {
		return nil, err
	}
	var out []policyEntry
	for _, e := range entries {
		out = append(out, policyEntry{File: File{Path: source.InRoot(root, e.Path), Mode: modeOf(e.Mode), Blob: e.Hash.String()}})
	}
	for _, p := range problems {
		out = append(out, policyEntry{File: File{Path: source.InRoot(root, p.Path)}, bad: p.Reason})
	}
	return out, nil
}

func hash(id string) (h source.Hash, ok bool) {
	raw, err := hex.DecodeString(id)
	if err != nil || len(raw) != len(h) {
		return h, false
	}
	copy(h[:], raw)
	return h, true
}

func modeOf(m filemode.FileMode) gitcmd.Mode {
	switch m {
	case filemode.Regular:
		return gitcmd.Regular
	case filemode.Executable:
		return gitcmd.Executable
	case filemode.Symlink:
		return gitcmd.Symlink
	}
	return gitcmd.Submodule
}

// listedPolicy takes paths as they are listed. One that is listed twice, as in the middle of a
// merge, is not decided yet.
func (t *Tree) listedPolicy(ctx context.Context, paths []string) ([]policyEntry, error) {
	if len(paths) == 0 {
		return nil, nil
	}
	files, err := t.Files(ctx, paths...)
	if err != nil {
		return nil, err
	}
	out := make([]policyEntry, 0, len(files))
	for i, f := range files {
		e := policyEntry{File: f}
		if at, reason := source.BadPath(f.Path); reason != "" {
			e.Path, e.bad = at, reason
		} else if i > 0 && files[i-1].Path == f.Path || i+1 < len(files) && files[i+1].Path == f.Path {
			e.bad = "it stands there more than once, as in a merge that is not finished"
		}
		out = append(out, e)
	}
	return out, nil
}

// diskPolicy looks at each folder on the way to the grants itself: below a link, the
// disk shows files that Git does not have.
func (t *Tree) diskPolicy(ctx context.Context, scopes []manifest.Workspace) ([]policyEntry, error) {
	if t.repo.clone != nil {
		sparse, err := t.repo.clone.Config(ctx, "core.sparseCheckout")
		if err != nil {
			return nil, err
		}
		if sparse == "true" {
			return nil, errors.New("the work tree is a sparse checkout, in which a grant that denies may be missing; ask a commit, as HEAD")
		}
	}
	dir := t.repo.local.Dir()
	var odd []policyEntry
	var grants []string
	// folder reports that rel is a folder of this repository.
	folder := func(rel string) (bool, error) {
		at := filepath.Join(dir, filepath.FromSlash(rel))
		info, err := os.Lstat(at)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return false, nil
		case err != nil:
			return false, err
		case info.Mode()&fs.ModeSymlink != 0:
			odd = append(odd, policyEntry{File: File{Path: rel, Mode: gitcmd.Symlink}})
		case info.Mode().IsRegular():
			odd = append(odd, policyEntry{File: File{Path: rel, Mode: gitcmd.Regular}})
		case info.IsDir():
			if _, err := os.Lstat(filepath.Join(at, ".git")); err == nil {
				odd = append(odd, policyEntry{File: File{Path: rel, Mode: gitcmd.Submodule}})
				return false, nil
			}
			return true, nil
		}
		return false, nil
	}
	for _, top := range []string{"instance", "workspaces"} {
		ok, err := folder(top)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		holders := []string{"instance"}
		if top == "workspaces" {
			holders = nil
			names, err := os.ReadDir(filepath.Join(dir, top))
			if err != nil {
				return nil, err
			}
			for _, name := range names {
				if rel := top + "/" + name.Name(); wanted(rel, scopes) {
					holders = append(holders, rel)
				}
			}
		}
		for _, holder := range holders {
			for _, rel := range []string{holder, holder + "/grants"} {
				ok, err := folder(rel)
				if err != nil {
					return nil, err
				}
				if !ok {
					break
				}
				if rel != holder {
					grants = append(grants, rel)
				}
			}
		}
	}
	out, err := t.listedPolicy(ctx, grants)
	return append(out, odd...), err
}
