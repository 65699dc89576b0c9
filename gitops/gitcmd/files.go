package gitcmd

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// Mode is what a path of a commit is.
type Mode string

// The modes that Git has for entries that are not folders.
const (
	Regular    Mode = "100644"
	Executable Mode = "100755"
	Symlink    Mode = "120000"
	Submodule  Mode = "160000"
)

const folder Mode = "040000"

// IsFile reports a plain file.
func (m Mode) IsFile() bool { return m == Regular || m == Executable }

// File is one path of a commit, of the index or of the work tree.
type File struct {
	Path string // from the top of the repository
	Mode Mode
	// Blob is the id of its content; "" for a changed file of the work tree, which only
	// the disk has.
	Blob string
}

// Change is one path that differs. Old or New is nil where it is absent.
type Change struct {
	Path     string
	Old, New *File
}

// Files lists the files of a commit below the paths given (all without any), in
// git's order.
func (c *Clone) Files(ctx context.Context, commit string, paths ...string) ([]File, error) {
	// --full-tree, because hooks and drivers may run in a folder.
	out, err := c.Run(ctx, append([]string{"ls-tree", "-r", "-z", "--full-tree", commit, "--"}, paths...)...)
	if err != nil {
		return nil, err
	}
	return parseFiles(out, func(fields []string) (Mode, string, error) {
		if len(fields) != 3 { // mode, type, id
			return "", "", errors.New("git ls-tree: cannot be read")
		}
		return Mode(fields[0]), fields[2], nil
	})
}

// Staged lists the files of the index below the paths given. A file in the middle
// of a merge is listed once for each stage it has.
func (c *Clone) Staged(ctx context.Context, paths ...string) ([]File, error) {
	out, err := c.Run(ctx, append([]string{"ls-files", "-s", "-z", "--full-name", "--"}, paths...)...)
	if err != nil {
		return nil, err
	}
	return parseFiles(out, func(fields []string) (Mode, string, error) {
		if len(fields) != 3 { // mode, id, stage
			return "", "", errors.New("git ls-files: cannot be read")
		}
		return Mode(fields[0]), fields[1], nil
	})
}

func parseFiles(out []byte, parse func([]string) (Mode, string, error)) ([]File, error) {
	var files []File
	for record := range bytes.SplitSeq(out, []byte{0}) {
		if len(record) == 0 {
			continue
		}
		head, path, ok := strings.Cut(string(record), "\t")
		if !ok {
			return nil, errors.New("git: a list of files cannot be read")
		}
		mode, blob, err := parse(strings.Fields(head))
		if err != nil {
			return nil, err
		}
		files = append(files, File{Path: path, Mode: mode, Blob: blob})
	}
	return files, nil
}

// Diff lists what differs between two commits below the paths given. A file that
// moved is one that is gone and one that is new.
func (c *Clone) Diff(ctx context.Context, from, to string, paths ...string) ([]Change, error) {
	return c.diff(ctx, append([]string{"diff-tree", "-r", "-z", "--raw", "--no-renames", "--no-ext-diff", "--no-abbrev", from, to, "--"}, paths...))
}

// ChangedFolders lists the folders of the commit to that from has not, or not alike.
func (c *Clone) ChangedFolders(ctx context.Context, from, to string) ([]string, error) {
	changes, err := c.diff(ctx, []string{"diff-tree", "-r", "-t", "-z", "--raw", "--no-renames", "--no-ext-diff", "--no-abbrev", from, to, "--"})
	var out []string
	for _, ch := range changes {
		if ch.New != nil && ch.New.Mode == folder {
			out = append(out, ch.Path)
		}
	}
	return out, err
}

// DiffStaged lists what differs between a commit and the index.
func (c *Clone) DiffStaged(ctx context.Context, from string, paths ...string) ([]Change, error) {
	return c.diff(ctx, append([]string{"diff-index", "--cached", "-z", "--raw", "--no-renames", "--no-ext-diff", "--no-abbrev", from, "--"}, paths...))
}

// DiffWorkTree lists what differs between a commit and the work tree, files that Git does not
// know yet (and does not ignore) included.
func (c *Clone) DiffWorkTree(ctx context.Context, from string, paths ...string) ([]Change, error) {
	// The two look at every file; each takes a core.
	var out []byte
	var unknown error
	var wg sync.WaitGroup
	wg.Go(func() {
		out, unknown = c.Run(ctx, append([]string{"ls-files", "-o", "-z", "--exclude-standard", "--full-name", "--"}, paths...)...)
	})
	// git diff, and not diff-index, which would call a file changed that was only
	// touched.
	changes, err := c.diff(ctx, append([]string{"diff", "-z", "--raw", "--no-renames", "--no-ext-diff", "--no-textconv", "--no-abbrev", "--ignore-submodules=none", from, "--"}, paths...))
	wg.Wait()
	if err = cmp.Or(err, unknown); err != nil {
		return nil, err
	}
	for path := range bytes.SplitSeq(out, []byte{0}) {
		if len(path) == 0 {
			continue
		}
		// A repository within is listed as a folder.
		name, within := strings.CutSuffix(string(path), "/")
		f := &File{Path: name, Mode: Regular}
		if info, err := os.Lstat(filepath.Join(c.top, filepath.FromSlash(name))); within {
			f.Mode = Submodule
		} else if err == nil && info.Mode()&fs.ModeSymlink != 0 {
			f.Mode = Symlink
		}
		changes = append(changes, Change{Path: name, New: f})
	}
	return changes, nil
}

func (c *Clone) diff(ctx context.Context, args []string) ([]Change, error) {
	out, err := c.Run(ctx, args...)
	if err != nil {
		return nil, err
	}
	bad := fmt.Errorf("git %s: its answer cannot be read", args[0])
	var changes []Change
	fields := bytes.Split(out, []byte{0})
	for i := 0; i < len(fields) && len(fields[i]) > 0; i += 2 {
		// :100644 100644 <old> <new> M
		head := strings.Fields(strings.TrimPrefix(string(fields[i]), ":"))
		if len(head) != 5 || i+1 >= len(fields) {
			return nil, bad
		}
		path := string(fields[i+1])
		side := func(mode, id string) *File {
			if strings.Trim(mode, "0") == "" {
				return nil
			}
			if strings.Trim(id, "0") == "" {
				id = ""
			}
			return &File{Path: path, Mode: Mode(mode), Blob: id}
		}
		change := Change{Path: path, Old: side(head[0], head[2]), New: side(head[1], head[3])}
		if change.Old == nil && change.New == nil { // an unmerged path: git diff tells it once more
			continue
		}
		changes = append(changes, change)
	}
	return changes, nil
}

// ErrTooLarge: a blob has more bytes than the reader wants.
var ErrTooLarge = errors.New("is too large")

// ErrNoObject: the clone lacks an object that it should have.
var ErrNoObject = errors.New("is not in this clone")

// ErrKind: there is such an object, of another kind.
var ErrKind = errors.New("is of another kind")

// Blobs reads blobs through one running git (cat-file --batch), one at a time; it is
// safe for concurrent use. Close ends it.
type Blobs struct {
	mu  sync.Mutex
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	err error // the stream is out of step
}

// Blobs starts a reader.
func (c *Clone) Blobs(ctx context.Context) (*Blobs, error) {
	cmd := c.command(ctx, "cat-file", "--batch")
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("git cannot be run (is it installed, and in PATH?): %w", err)
	}
	return &Blobs{cmd: cmd, in: in, out: bufio.NewReaderSize(out, 64<<10)}, nil
}

// Read gives the content of a blob of up to max bytes.
func (b *Blobs) Read(id string, max int64) ([]byte, error) { return b.object(id, "blob", max) }

// Tree gives the content of a tree object, as Git stores it, of up to max bytes.
func (b *Blobs) Tree(id string, max int64) ([]byte, error) { return b.object(id, "tree", max) }

// TreeOf gives the id of a commit's tree.
func (b *Blobs) TreeOf(commit string) (string, error) {
	data, err := b.object(commit, "commit", 64<<20)
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(data), "\n")
	id, ok := strings.CutPrefix(line, "tree ")
	if !ok || !IsCommitID(id) {
		return "", fmt.Errorf("commit %s names no tree", commit)
	}
	return id, nil
}

func (b *Blobs) object(id, kind string, max int64) ([]byte, error) {
	if !IsCommitID(id) {
		return nil, fmt.Errorf("%.80q is no object id", id)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return nil, b.err
	}
	data, err := b.read(id, kind, max)
	if err != nil && !errors.Is(err, ErrTooLarge) && !errors.Is(err, ErrNoObject) {
		b.err = err
	}
	return data, err
}

func (b *Blobs) read(id, kind string, max int64) ([]byte, error) {
	if _, err := io.WriteString(b.in, id+"\n"); err != nil {
		return nil, fmt.Errorf("git cat-file: %w", err)
	}
	head, err := b.out.ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("git cat-file ended: %w", err)
	}
	fields := strings.Fields(head) // <id> blob <size>, or <id> missing
	if len(fields) == 2 && fields[1] == "missing" {
		return nil, fmt.Errorf("object %s %w", id, ErrNoObject)
	}
	if len(fields) != 3 {
		return nil, errors.New("git cat-file: its answer cannot be read")
	}
	size, err := strconv.ParseInt(fields[2], 10, 64)
	if err != nil || size < 0 {
		return nil, errors.New("git cat-file: its answer cannot be read")
	}
	if size > max || fields[1] != kind {
		if _, err := io.CopyN(io.Discard, b.out, size+1); err != nil {
			return nil, fmt.Errorf("git cat-file: %w", err)
		}
		if fields[1] != kind {
			return nil, fmt.Errorf("object %s %w: it is a %s and no %s; a %[4]s of that id %[5]w", id, ErrKind, fields[1], kind, ErrNoObject)
		}
		return nil, fmt.Errorf("%w: it has %d bytes; at most %d", ErrTooLarge, size, max)
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(b.out, data); err != nil {
		return nil, fmt.Errorf("git cat-file: %w", err)
	}
	_, err = b.out.Discard(1)
	return data, err
}

// Close ends the reader.
func (b *Blobs) Close() error {
	b.in.Close()
	return b.cmd.Wait()
}
