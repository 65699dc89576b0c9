package workspace

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// stagingPrefix starts the names of folders that Replace works in. Each holds a
// .gitignore, so that one that a kill left behind is never committed.
const stagingPrefix = ".sealward-tmp-"

// Replace changes files below one folder of the repository all at once: files
// maps slash-separated paths of the repository, all below folder, to new contents,
// nil removing a file. The folder is built anew beside the old one (unchanged files
// are linked, not copied), synced, and put in its place in one step, so that a
// kill at any moment leaves either the old folder or the new one. If anything in
// the folder changed since it was listed (nil: since the call), nothing is replaced.
//
// Where the file system cannot exchange two folders, they are renamed one after
// the other; after a kill between the two, the next FindRepository restores the
// old one.
func (r *Repository) Replace(folder string, files map[string][]byte, since *Listing) (err error) {
	target := filepath.Join(r.dir, filepath.FromSlash(folder))
	// Nothing on the way may be a link that leads elsewhere.
	root, err := os.OpenRoot(r.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.MkdirAll(filepath.FromSlash(folder), 0o777); err != nil {
		return err
	}
	if at, plain := plainFolder(root, folder); !plain {
		return fmt.Errorf("%s: is not a plain folder; nothing was changed", at)
	}
	inside := map[string][]byte{} // by path below folder
	for name, data := range files {
		rel, ok := strings.CutPrefix(name, folder+"/")
		if !ok || !filepath.IsLocal(filepath.FromSlash(rel)) {
			return fmt.Errorf("%s: is not below %s; nothing was changed", name, folder)
		}
		inside[rel] = data
	}

	r.removeStaging(path.Dir(folder))
	name := path.Join(path.Dir(folder), fmt.Sprintf("%s%d-%d", stagingPrefix, os.Getpid(), time.Now().UnixNano()))
	staging := filepath.Join(r.dir, filepath.FromSlash(name))
	if err := os.Mkdir(staging, 0o700); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, removeStagingFolder(root, name)) }()
	if err := os.WriteFile(filepath.Join(staging, ".gitignore"), []byte("*\n"), 0o600); err != nil {
		return err
	}
	next := filepath.Join(staging, "new")
	before, err := list(target)
	if err != nil {
		return err
	}
	changed := fmt.Errorf("%s: files changed meanwhile; nothing was replaced, try again", folder)
	if since != nil && !maps.Equal(since.entries, before) {
		return changed
	}
	if err := build(next, target, before, inside); err != nil {
		return err
	}
	if err := syncTree(next); err != nil {
		return err
	}
	unchanged := func(dir string) error {
		now, err := list(dir)
		if err == nil && !maps.Equal(before, now) {
			err = changed
		}
		return err
	}
	if err := unchanged(target); err != nil {
		return err
	}
	old := filepath.Join(staging, "old")
	undo, err := swap(next, target, old)
	if err != nil {
		return fmt.Errorf("%s: could not be replaced: %w", folder, err)
	}
	if err := unchanged(old); err != nil {
		return errors.Join(err, undo())
	}
	return syncFolder(filepath.Dir(target))
}

// swap puts next in the place of target and target in the place of old.
func swap(next, target, old string) (undo func() error, err error) {
	err = exchange(next, target)
	if err == nil {
		return func() error { return errors.Join(os.Rename(old, next), exchange(next, target)) }, os.Rename(next, old)
	}
	if !errors.Is(err, errors.ErrUnsupported) {
		return nil, err
	}
	back := func() error { return os.Rename(old, target) }
	if err := os.Rename(target, old); err != nil {
		return nil, err
	}
	if err := os.Rename(next, target); err != nil {
		return nil, errors.Join(err, back())
	}
	return func() error { return errors.Join(os.Rename(target, next), back()) }, nil
}

// entry is what tells that a file was changed.
type entry struct {
	mode fs.FileMode
	size int64
	time time.Time
}

// Listing is how the files below a folder stood at one moment.
type Listing struct{ entries map[string]entry }

// List is for who reads files, and replaces them later by what came of it. A
// folder that does not exist is empty.
func (r *Repository) List(folder string) (*Listing, error) {
	entries, err := list(filepath.Join(r.dir, filepath.FromSlash(folder)))
	if errors.Is(err, fs.ErrNotExist) {
		return &Listing{map[string]entry{}}, nil
	}
	return &Listing{entries}, err
}

// list names everything below dir, with slashes.
func list(dir string) (map[string]entry, error) {
	out := map[string]entry{}
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, file)
		if err != nil || rel == "." {
			return err
		}
		e := entry{mode: info.Mode()}
		if !info.IsDir() {
			e.size, e.time = info.Size(), info.ModTime()
		}
		out[filepath.ToSlash(rel)] = e
		return nil
	})
	return out, err
}

// build makes next what target is to become.
func build(next, target string, have map[string]entry, changes map[string][]byte) error {
	info, err := os.Stat(target)
	if err != nil {
		return err
	}
	if err := os.Mkdir(next, info.Mode().Perm()); err != nil {
		return err
	}
	names := slices.Sorted(maps.Keys(have))
	for _, rel := range names {
		from, to := filepath.Join(target, filepath.FromSlash(rel)), filepath.Join(next, filepath.FromSlash(rel))
		mode := have[rel].mode
		data, changed := changes[rel]
		switch {
		case mode.IsDir():
			err = os.Mkdir(to, mode.Perm())
		case changed && !mode.IsRegular():
			err = fmt.Errorf("%s: is a link, not a plain file; nothing was changed", rel)
		case changed && data == nil:
		case changed:
			err = write(to, data, mode.Perm())
		case mode.IsRegular():
			err = link(from, to, mode.Perm())
		case mode&fs.ModeSymlink != 0:
			var lead string
			if lead, err = os.Readlink(from); err == nil {
				err = os.Symlink(lead, to)
			}
		default:
			err = fmt.Errorf("%s: is neither a file nor a folder; nothing was changed", rel)
		}
		if err != nil {
			return err
		}
	}
	for _, rel := range slices.Sorted(maps.Keys(changes)) {
		if _, exists := have[rel]; exists || changes[rel] == nil {
			continue
		}
		to := filepath.Join(next, filepath.FromSlash(rel))
		if err := os.MkdirAll(filepath.Dir(to), 0o777); err != nil {
			return err
		}
		if err := write(to, changes[rel], 0o666); err != nil {
			return err
		}
	}
	// A folder that lost its last file would go with it in Git too.
	for rel, data := range changes {
		for at := path.Dir(rel); data == nil && at != "."; at = path.Dir(at) {
			if os.Remove(filepath.Join(next, filepath.FromSlash(at))) != nil {
				break
			}
		}
	}
	return nil
}

func write(file string, data []byte, perm fs.FileMode) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// link gives a file a second name; where that cannot be, it is copied.
func link(from, to string, perm fs.FileMode) error {
	if os.Link(from, to) == nil {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// plainFolder says that a path of the repository is a folder and nothing on the
// way to it a link, or else at what it is not.
func plainFolder(root *os.Root, name string) (at string, plain bool) {
	for at := name; at != "."; at = path.Dir(at) {
		if info, err := root.Lstat(filepath.FromSlash(at)); err != nil || !info.IsDir() {
			return at, false
		}
	}
	return "", true
}

func isThere(root *os.Root, name string) bool {
	_, err := root.Lstat(filepath.FromSlash(name))
	return !errors.Is(err, fs.ErrNotExist)
}

func removeStagingFolder(root *os.Root, staging string) error {
	// Never the only copy: without exchange, a failed way back leaves it there.
	if isThere(root, path.Join(staging, "old")) && !isThere(root, path.Join(path.Dir(staging), "secrets")) {
		return nil
	}
	// The .gitignore goes last: a kill in between must not show Git the rest.
	var errs []error
	for _, name := range []string{path.Join(staging, "new"), path.Join(staging, "old"), staging} {
		errs = append(errs, root.RemoveAll(filepath.FromSlash(name)))
	}
	return errors.Join(errs...)
}

// removeStaging clears what processes that are gone left in a folder, and puts a
// folder back that was moved away but not yet replaced. A repository may hold
// anything under the names of such folders, links that lead elsewhere among it:
// what is not as Replace makes it stays untouched.
func (r *Repository) removeStaging(folder string) {
	root, err := os.OpenRoot(r.dir)
	if err != nil {
		return
	}
	defer root.Close()
	left, _ := filepath.Glob(filepath.Join(r.dir, filepath.FromSlash(folder), stagingPrefix+"*"))
	for _, found := range left {
		staging := path.Join(folder, filepath.Base(found))
		if _, plain := plainFolder(root, staging); !plain {
			continue
		}
		var pid, stamp int
		if _, err := fmt.Sscanf(strings.TrimPrefix(path.Base(staging), stagingPrefix), "%d-%d", &pid, &stamp); err != nil || pid != os.Getpid() && alive(pid) {
			continue
		}
		old, target := path.Join(staging, "old"), path.Join(folder, "secrets")
		if _, plain := plainFolder(root, old); plain && !isThere(root, target) {
			_ = root.Rename(filepath.FromSlash(old), filepath.FromSlash(target))
		}
		_ = removeStagingFolder(root, staging)
	}
}
