package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/sealward/sealward/seal/manifest"
)

// scratch is one plaintext file in a folder of its own that only its owner can
// read, in memory where the system has a place for that.
type scratch struct {
	dir  string
	file string
}

const scratchPrefix = "sealward-edit-"

// newScratch makes the folder. A place that may be on a disk is warned of.
func newScratch(stderr io.Writer, name string) (*scratch, error) {
	parent := ""
	for _, dir := range []string{os.Getenv("XDG_RUNTIME_DIR"), "/dev/shm"} {
		if dir != "" && inMemory(dir) {
			parent = dir
			break
		}
	}
	if parent == "" {
		parent = os.TempDir()
		fmt.Fprintf(stderr, "warning: this system has no place in memory for files; while you edit, the plaintext is in %s\n", parent)
	}
	removeOrphans(parent)
	dir, err := os.MkdirTemp(parent, fmt.Sprintf("%s%d-", scratchPrefix, os.Getpid())) // 0700
	if err != nil {
		return nil, withoutPath(err)
	}
	return &scratch{dir: dir, file: filepath.Join(dir, name)}, nil
}

func (s *scratch) write(text []byte) error { return os.WriteFile(s.file, text, 0o600) }

func (s *scratch) read() ([]byte, error) {
	info, err := os.Stat(s.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("the editor removed the file; nothing was changed")
	}
	if err != nil {
		return nil, err
	}
	if info.Size() > manifest.MaxSize {
		return nil, fmt.Errorf("the edited manifest has %d bytes; at most %d; nothing was changed", info.Size(), manifest.MaxSize)
	}
	return os.ReadFile(s.file)
}

// remove takes the folder away, with what the editor left in it.
func (s *scratch) remove() { _ = os.RemoveAll(s.dir) }

// removeOrphans clears folders of processes that were killed in a way that no
// process can answer.
func removeOrphans(parent string) {
	left, _ := filepath.Glob(filepath.Join(parent, scratchPrefix+"*"))
	for _, dir := range left {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), scratchPrefix), "-")
		if n, err := strconv.Atoi(pid); err == nil && orphaned(dir, n) {
			_ = os.RemoveAll(dir)
		}
	}
}
