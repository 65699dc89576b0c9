package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
)

const (
	// maxDepth bounds folders within folders.
	maxDepth = 32

	// maxTreeSize bounds one tree object: a million names.
	maxTreeSize = 64 << 20
)

// Entry is a file, symbolic link or submodule of a commit. Modes are as git
// shows them: Regular, Executable, Symlink or Submodule.
type Entry struct {
	Path string // from the root of the repository
	Hash Hash
	Mode filemode.FileMode
}

// Change is one path whose entry differs between two commits. Old or New is
// nil where the path is absent or has a Problem; both are nil when an entry
// that had a problem is gone.
type Change struct {
	Path     string
	Old, New *Entry
}

// List returns every entry below root ("." for the whole tree), sorted by
// path, and beside them the entries that no one should use. A root that does
// not exist holds nothing.
func (m *Mirror) List(ctx context.Context, commit Hash, root string) ([]Entry, []Problem, error) {
	var entries []Entry
	problems, err := m.compare(ctx, Hash{}, commit, root, nil, func(c Change) {
		if c.New != nil {
			entries = append(entries, *c.New)
		}
	})
	if err != nil {
		return nil, nil, fmt.Errorf("list commit %s: %w", commit, err)
	}
	return entries, problems, nil
}

// Diff returns what differs below root between two commits, sorted by path.
// It reads only the trees that differ, so its cost follows the change and not
// the repository.
//
// Problems are those of the new commit in the trees it read: one in a tree
// that did not change is not told again. A path that became a problem is also
// a change with New nil, and so is a problem that went away; so a caller that
// treats New == nil as removed, unless a problem covers the path, misses
// nothing.
func (m *Mirror) Diff(ctx context.Context, old, new Hash, root string) ([]Change, []Problem, error) {
	var changes []Change
	problems, err := m.compare(ctx, old, new, root, nil, func(c Change) { changes = append(changes, c) })
	if err != nil {
		return nil, nil, fmt.Errorf("diff commits %s and %s: %w", old, new, err)
	}
	return changes, problems, nil
}

// ErrNotTree: an object that is named as a folder is none.
var ErrNotTree = errors.New("is not a folder")

// ListTree is List for a tree outside a mirror, judged in the same way: load gives the
// content of tree objects of up to max bytes, and an error of it that is ErrTooLarge or
// ErrNotTree makes the folder a Problem. Only folders that want accepts are opened; it
// gets their paths from the root of the repository, "" for the root itself.
func ListTree(ctx context.Context, tree Hash, root string, want func(dir string) bool, load func(tree Hash, max int64) ([]byte, error)) ([]Entry, []Problem, error) {
	if !fs.ValidPath(root) {
		return nil, nil, fmt.Errorf("%q is not a folder of a repository; write it as in a/b, or . for all", root)
	}
	var entries []Entry
	w := &treeWalk{ctx: ctx, max: maxEntries, want: want, emit: func(c Change) {
		if c.New != nil {
			entries = append(entries, *c.New)
		}
	}, load: func(tree Hash) ([]byte, error) { return load(tree, maxTreeSize) }}
	at, err := w.descend(tree, root)
	if err == nil {
		err = w.compareRoots(subtree{}, at, root)
	}
	return entries, w.problems, err
}

// InRoot makes a path of the repository relative to a root folder of it: "." for the
// root itself and the folders above it.
func InRoot(root, path string) string {
	if root == "." || root == "" {
		return path
	}
	if strings.HasPrefix(root+"/", path+"/") {
		return "."
	}
	return strings.TrimPrefix(path, root+"/")
}

// compare resolves root in both commits (a zero old has no files) and walks
// the two trees.
func (m *Mirror) compare(ctx context.Context, old, new Hash, root string, want func(dir string) bool, emit func(Change)) ([]Problem, error) {
	if !fs.ValidPath(root) {
		return nil, fmt.Errorf("%q is not a folder of a repository; write it as in a/b, or . for all", root)
	}
	w := &treeWalk{ctx: ctx, max: m.maxEntries, want: want, emit: emit, load: func(tree Hash) ([]byte, error) {
		return m.store.read(tree, plumbing.TreeObject, maxTreeSize)
	}}
	var sides [2]subtree
	for i, h := range []Hash{old, new} {
		if h.IsZero() {
			continue
		}
		c, err := m.commit(h)
		if err != nil {
			return nil, err
		}
		if sides[i], err = w.descend(c.TreeHash, root); err != nil {
			return nil, err
		}
	}
	err := w.compareRoots(sides[0], sides[1], root)
	return w.problems, err
}

// subtree is what a path of a commit leads to: a tree, nothing (zero), or
// something that cannot be used as one.
type subtree struct {
	hash Hash
	bad  *Problem
}

// treeWalk compares trees by name, going down only where hashes differ.
type treeWalk struct {
	ctx      context.Context
	load     func(tree Hash) ([]byte, error)
	max      int                   // of files and folders to look at
	want     func(dir string) bool // nil: all folders
	emit     func(Change)
	problems []Problem
	visited  int
}

// descend finds the tree at root.
func (w *treeWalk) descend(tree Hash, root string) (subtree, error) {
	if root == "." {
		return subtree{hash: tree}, nil
	}
	done := ""
	for name := range strings.SplitSeq(root, "/") {
		entries, bad, err := w.read(tree, orRoot(done))
		if err != nil || bad != nil {
			return subtree{bad: bad}, err
		}
		done = join(done, name)
		i := slices.IndexFunc(entries, func(e treeEntry) bool { return e.name == name })
		switch {
		case i < 0:
			return subtree{}, nil
		case entries[i].bad != "":
			return subtree{bad: &Problem{done, entries[i].bad}}, nil
		case !entries[i].isDir():
			return subtree{bad: &Problem{done, "it is not a folder"}}, nil
		}
		tree = entries[i].hash
	}
	return subtree{hash: tree}, nil
}

func (w *treeWalk) compareRoots(old, new subtree, root string) error {
	if new.bad != nil {
		w.problems = append(w.problems, *new.bad)
	} else if old.bad != nil {
		w.emit(Change{Path: old.bad.Path})
	}
	dir := root
	if root == "." {
		dir = ""
	}
	return w.trees(old.hash, new.hash, dir, 0)
}

// trees compares two trees, of which one may be zero, at the folder dir.
func (w *treeWalk) trees(old, new Hash, dir string, depth int) error {
	if old == new || w.want != nil && !w.want(dir) {
		return nil
	}
	a, oldBad, err := w.side(old, dir, depth)
	if err != nil {
		return err
	}
	b, newBad, err := w.side(new, dir, depth)
	if err != nil {
		return err
	}
	if newBad != nil {
		w.problems = append(w.problems, *newBad)
	} else if oldBad != nil {
		w.emit(Change{Path: oldBad.Path})
	}
	for len(a) > 0 || len(b) > 0 {
		var x, y treeEntry // zero where one side has no such name
		switch {
		case len(b) == 0:
			x, a = a[0], a[1:]
		case len(a) == 0:
			y, b = b[0], b[1:]
		default:
			c := compareEntries(a[0], b[0])
			if c <= 0 {
				x, a = a[0], a[1:]
			}
			if c >= 0 {
				y, b = b[0], b[1:]
			}
		}
		if err := w.pair(x, y, dir, depth); err != nil {
			return err
		}
	}
	return nil
}

// side reads one tree of a comparison. One that is zero or bad has no entries.
func (w *treeWalk) side(tree Hash, dir string, depth int) ([]treeEntry, *Problem, error) {
	if tree.IsZero() {
		return nil, nil, nil
	}
	if depth > maxDepth {
		return nil, &Problem{dir, fmt.Sprintf("it lies deeper than %d folders", maxDepth)}, nil
	}
	return w.read(tree, orRoot(dir))
}

// pair compares one name of two trees; one of them may be zero.
func (w *treeWalk) pair(x, y treeEntry, dir string, depth int) error {
	if x == y {
		if y.bad != "" {
			w.problems = append(w.problems, Problem{join(dir, y.name), y.bad})
		}
		return nil
	}
	if x.isDir() || y.isDir() {
		// Entries that compare equal are both folders or both not.
		return w.trees(x.hash, y.hash, join(dir, cmp.Or(x.name, y.name)), depth+1)
	}
	if err := w.count(1); err != nil {
		return err
	}
	path := join(dir, x.name)
	if y.mode != 0 {
		path = join(dir, y.name)
	}
	if y.bad != "" {
		w.problems = append(w.problems, Problem{path, y.bad})
		if x.mode == 0 || x.bad != "" {
			return nil // it was of no use before
		}
	}
	w.emit(Change{Path: path, Old: x.entry(path), New: y.entry(path)})
	return nil
}

// count bounds what one question costs.
func (w *treeWalk) count(n int) error {
	if w.visited += n; w.visited > w.max {
		return fmt.Errorf("%w: more than %d files and folders to look at", ErrTooMany, w.max)
	}
	return w.ctx.Err()
}

// read gives the entries of one tree in git's order. A tree that a pusher
// malformed is a Problem; one that the mirror lacks is an error.
func (w *treeWalk) read(tree Hash, dir string) ([]treeEntry, *Problem, error) {
	if err := w.count(1); err != nil {
		return nil, nil, err
	}
	raw, err := w.load(tree)
	var kind *kindError
	switch {
	case errors.As(err, &kind), errors.Is(err, ErrTooLarge), errors.Is(err, ErrNotTree):
		return nil, &Problem{dir, err.Error()}, nil
	case errors.Is(err, ErrNotFound):
		// It was reached from a commit, so it ought to be here.
		return nil, nil, fmt.Errorf("folder %q: %w: %w", dir, ErrDamaged, err)
	case err != nil:
		return nil, nil, fmt.Errorf("folder %q: %w", dir, err)
	}
	entries, ok := parseTree(string(raw))
	if !ok {
		return nil, &Problem{dir, "its tree object is malformed"}, nil
	}
	return entries, nil, nil
}

// treeEntry is one line of a tree. The zero entry is absent.
type treeEntry struct {
	name string
	hash Hash
	mode filemode.FileMode
	bad  string // why nobody should use it
}

func (e treeEntry) isDir() bool { return e.mode == filemode.Dir && e.bad == "" }

func (e treeEntry) entry(path string) *Entry {
	if e.mode == 0 || e.bad != "" {
		return nil
	}
	return &Entry{Path: path, Hash: e.hash, Mode: e.mode}
}

// parseTree reads a tree object. go-git's decoder is not used: it keeps
// whatever names it finds, and costs an allocation each. The names are parts
// of raw.
func parseTree(raw string) (entries []treeEntry, ok bool) {
	entries = make([]treeEntry, 0, len(raw)/32)
	for raw != "" {
		digits, rest, ok := strings.Cut(raw, " ")
		if !ok {
			return nil, false
		}
		name, rest, ok := strings.Cut(rest, "\x00")
		if !ok || len(rest) < len(Hash{}) {
			return nil, false
		}
		e := treeEntry{name: name, bad: badName(name)}
		if e.mode, ok = parseMode(digits); !ok && e.bad == "" {
			e.bad = "it has an unknown file mode"
		}
		copy(e.hash[:], rest)
		if e.hash.IsZero() && e.bad == "" {
			e.bad = "it names no object"
		}
		raw = rest[len(e.hash):]
		entries = append(entries, e)
	}
	return inOrder(entries), true
}

// parseMode reads a mode as git does: the kind, and the owner's execute bit.
func parseMode(digits string) (filemode.FileMode, bool) {
	const unknown = filemode.FileMode(1) // not zero: the entry is there
	var mode filemode.FileMode
	if len(digits) == 0 || len(digits) > 7 {
		return unknown, false
	}
	for _, d := range []byte(digits) {
		if d < '0' || d > '7' {
			return unknown, false
		}
		mode = mode<<3 | filemode.FileMode(d-'0')
	}
	switch kind := mode & 0o170000; kind {
	case filemode.Dir, filemode.Symlink, filemode.Submodule:
		return kind, true
	case 0o100000:
		if mode&0o100 != 0 {
			return filemode.Executable, true
		}
		return filemode.Regular, true
	}
	return unknown, false
}

// badName says why a name may not be used. git itself refuses to check these
// out; a tree that another program wrote can hold them. (A name cannot hold
// NUL: that ends it.)
func badName(name string) string {
	switch {
	case name == "":
		return "it has no name"
	case name == "." || name == "..":
		return "its name points elsewhere"
	case len(name) == 4 && strings.EqualFold(name, ".git"):
		return "its name is git's own"
	case strings.Contains(name, "/"):
		return "its name holds a slash"
	case !utf8.ValidString(name):
		return "its name is not UTF-8"
	}
	return ""
}

// BadPath says of a path that Git listed as text which entry on it no tree should have, and
// why; entry is "" when all is well. A tree that was read by List is judged already.
func BadPath(path string) (entry, reason string) {
	for i, depth := 0, 0; i < len(path); depth++ {
		end := len(path)
		if n := strings.IndexByte(path[i:], '/'); n >= 0 {
			end = i + n
		}
		if bad := badName(path[i:end]); bad != "" {
			return path[:end], bad
		}
		if depth > maxDepth {
			return path[:end], fmt.Sprintf("it lies deeper than %d folders", maxDepth)
		}
		i = end + 1
	}
	return "", ""
}

const twice = "its name is in the folder twice"

// inOrder sorts entries as git does, which is what makes a walk give sorted
// paths, and turns entries of one name into a single bad one. A tree of git's
// making is in order already.
func inOrder(entries []treeEntry) []treeEntry {
	if !slices.IsSortedFunc(entries, compareEntries) {
		slices.SortFunc(entries, compareEntries)
	}
	var again map[string]bool
	for i, e := range entries {
		if i == 0 {
			continue
		}
		same := compareEntries(entries[i-1], e) == 0
		// A file and a folder of one name need not be neighbours: what may
		// stand between them begins with the same name.
		for j := i - 1; e.isDir() && !same && j >= 0 && strings.HasPrefix(entries[j].name, e.name); j-- {
			same = entries[j].name == e.name
		}
		if same {
			if again == nil {
				again = map[string]bool{}
			}
			again[e.name] = true
		}
	}
	if again == nil {
		return entries
	}
	out := slices.DeleteFunc(entries, func(e treeEntry) bool { return again[e.name] })
	for name := range again {
		out = append(out, treeEntry{name: name, mode: filemode.Regular, bad: twice})
	}
	slices.SortFunc(out, compareEntries)
	return out
}

// compareEntries is git's order: a folder sorts as if its name ended in a
// slash. Entries compare equal only if both are folders or both are not.
func compareEntries(a, b treeEntry) int {
	n := min(len(a.name), len(b.name))
	if c := strings.Compare(a.name[:n], b.name[:n]); c != 0 {
		return c
	}
	return cmp.Or(cmp.Compare(a.after(n), b.after(n)), cmp.Compare(len(a.name), len(b.name)))
}

// after is the byte at n, counting a folder's slash, or -1 behind the end.
func (e treeEntry) after(n int) int {
	switch {
	case n < len(e.name):
		return int(e.name[n])
	case e.isDir():
		return '/'
	}
	return -1
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

func orRoot(dir string) string { return cmp.Or(dir, ".") }
