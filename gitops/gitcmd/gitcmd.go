// Package gitcmd asks a clone through the git command: revisions, the files of a
// commit or of the index, what differs, blobs; and it makes commits and pushes
// them.
//
// Most callers need [Open], then [Clone.Resolve], [Clone.Files], [Clone.Diff] and
// [Clone.Blobs]. People's clones have work trees, alternates, partial and shallow
// histories, credential helpers, hooks and signing; the git command knows them
// all. The agent's own mirror, which must keep out of the environment, is in
// gitops/source.
package gitcmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
	"unicode"
)

// Clone is a Git repository on this machine, with a work tree or bare.
type Clone struct {
	dir    string // where git is run
	top    string // of the work tree; "" when bare
	gitDir string
	env    []string
}

// ErrNoClone: there is no Git repository around a folder.
var ErrNoClone = errors.New("no Git repository")

// Error is git's refusal of one command.
type Error struct {
	Command string // the verb, such as push
	Code    int    // git's exit code
	Said    string // what git wrote to standard error, without control characters
}

func (e *Error) Error() string {
	said := e.Said
	if said == "" {
		said = fmt.Sprintf("exit code %d", e.Code)
	}
	return "git " + e.Command + ": " + said
}

// Open finds the repository around dir, which may be bare.
func Open(ctx context.Context, dir string) (*Clone, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	c := &Clone{dir: abs, env: environment()}
	// In a bare repository git prints the first two and refuses the third.
	out, err := c.Run(ctx, "rev-parse", "--is-bare-repository", "--absolute-git-dir", "--show-toplevel")
	lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	switch {
	case err == nil && len(lines) == 3:
		c.gitDir, c.top = filepath.FromSlash(lines[1]), filepath.FromSlash(lines[2])
		c.dir = c.top
		return c, nil
	case len(lines) == 2:
		c.gitDir = filepath.FromSlash(lines[1])
		c.dir = c.gitDir
		return c, nil
	}
	var refused *Error
	if errors.As(err, &refused) && strings.Contains(refused.Said, "not a git repository") {
		return nil, fmt.Errorf("%w: neither %s nor a folder above it is in one", ErrNoClone, abs)
	}
	if err == nil {
		err = errors.New("git rev-parse: its answer cannot be read")
	}
	return nil, err
}

// environment of every git: what a hook or a merge driver inherits from git stays,
// but for the texts, which are read here, and what would read paths as patterns.
func environment() []string {
	env := append(os.Environ(), "LC_ALL=C", "GIT_LITERAL_PATHSPECS=1", "GIT_PAGER=cat", "GIT_OPTIONAL_LOCKS=0",
		"GIT_NO_REPLACE_OBJECTS=1") // refs/replace would show one clone another commit than everybody else's
	// git gives its hooks names relative to the folder it starts them in.
	for _, name := range []string{"GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"} {
		if v := os.Getenv(name); v != "" && !filepath.IsAbs(v) {
			if abs, err := filepath.Abs(v); err == nil {
				env = append(env, name+"="+abs)
			}
		}
	}
	return env
}

// Top is the top folder of the work tree, "" for a bare repository.
func (c *Clone) Top() string { return c.top }

// Bare reports that there is no work tree.
func (c *Clone) Bare() bool { return c.top == "" }

// GitDir is the folder of the repository itself, absolute.
func (c *Clone) GitDir() string { return c.gitDir }

// Path is where git keeps a file of its own, such as hooks or info/attributes.
func (c *Clone) Path(ctx context.Context, name string) (string, error) {
	out, err := c.Run(ctx, "rev-parse", "--git-path", name)
	if err != nil {
		return "", err
	}
	path := filepath.FromSlash(strings.TrimSuffix(string(out), "\n"))
	if !filepath.IsAbs(path) {
		path = filepath.Join(c.dir, path)
	}
	return path, nil
}

// Prefix is dir as git sees it in the work tree: "" for its top, else a path with
// slashes and one at its end.
func (c *Clone) Prefix(dir string) (string, error) {
	if c.Bare() {
		return "", nil
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", err
	}
	rel, err := filepath.Rel(c.top, real)
	if err != nil || !filepath.IsLocal(rel) {
		return "", fmt.Errorf("%s is outside the work tree %s", dir, c.top)
	}
	if rel == "." {
		return "", nil
	}
	return filepath.ToSlash(rel) + "/", nil
}

// Run runs git and returns its standard output. The error is an *Error.
func (c *Clone) Run(ctx context.Context, args ...string) ([]byte, error) {
	return c.RunWith(ctx, RunOptions{}, args...)
}

// RunOptions of RunWith.
type RunOptions struct {
	In  io.Reader
	Env []string // added to the environment
	// Err gets git's standard error as it comes, for work that talks to people, such as a
	// push that asks for a password; it is kept for Error too.
	Err io.Writer
	// MaxOut bounds the output; 0 is 256 MiB.
	MaxOut int64
}

// RunWith is Run with more to say.
func (c *Clone) RunWith(ctx context.Context, opts RunOptions, args ...string) ([]byte, error) {
	cmd := c.command(ctx, args...)
	cmd.Stdin = opts.In
	cmd.Env = append(cmd.Env, opts.Env...)
	if opts.MaxOut == 0 {
		opts.MaxOut = 256 << 20
	}
	out := &bounded{max: opts.MaxOut}
	said := &bounded{max: 64 << 10, drop: true}
	cmd.Stdout, cmd.Stderr = out, io.Writer(said)
	if opts.Err != nil {
		cmd.Stderr = io.MultiWriter(said, opts.Err)
	}
	err := cmd.Run()
	if err == nil {
		return out.buf.Bytes(), nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if out.over {
		return nil, fmt.Errorf("git %s: its answer has more than %d bytes", args[0], opts.MaxOut)
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return nil, fmt.Errorf("git cannot be run (is it installed, and in PATH?): %w", err)
	}
	return out.buf.Bytes(), &Error{Command: args[0], Code: exit.ExitCode(), Said: oneText(said.buf.String())}
}

func (c *Clone) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-c", "core.quotePath=false", "-c", "advice.detachedHead=false"}, args...)...)
	cmd.Dir, cmd.Env = c.dir, append([]string(nil), c.env...)
	// An interrupted git can tidy up; killed, it leaves lock files.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// bounded keeps up to max bytes; then it fails, or drops the rest.
type bounded struct {
	buf  bytes.Buffer // not embedded: its ReadFrom would go past Write
	max  int64
	drop bool
	over bool
}

func (b *bounded) Write(p []byte) (int, error) {
	if left := b.max - int64(b.buf.Len()); int64(len(p)) > left {
		b.over = true
		if !b.drop {
			return 0, errors.New("too much")
		}
		b.buf.Write(p[:left])
		return len(p), nil
	}
	return b.buf.Write(p)
}

// oneText makes what git said fit for an error: its lines without the prefix and
// without control characters. A sentence that goes on in the next line stays one.
func oneText(s string) string {
	var out strings.Builder
	for line := range strings.SplitSeq(strings.TrimSpace(s), "\n") {
		// A progress bar overwrites itself.
		line = line[strings.LastIndex(line, "\r")+1:]
		line = strings.Map(func(r rune) rune {
			if r != '\t' && unicode.In(r, unicode.Cc, unicode.Zl, unicode.Zp, unicode.Bidi_Control) {
				return -1
			}
			return r
		}, line)
		goesOn := line != "" && 'a' <= line[0] && line[0] <= 'z'
		for _, prefix := range []string{"fatal: ", "error: "} {
			if rest, ok := strings.CutPrefix(line, prefix); ok {
				line, goesOn = rest, false
			}
		}
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "hint: ") {
			continue
		}
		// A program's name and a colon start something new.
		if first, _, _ := strings.Cut(line, " "); strings.HasSuffix(first, ":") {
			goesOn = false
		}
		switch said := out.String(); {
		case said == "":
		case goesOn || strings.ContainsRune(".:,", rune(said[len(said)-1])):
			out.WriteString(" ")
		default:
			out.WriteString("; ")
		}
		out.WriteString(line)
	}
	return out.String()
}
