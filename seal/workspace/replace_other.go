//go:build !linux

package workspace

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
)

// exchange: two renames are used instead.
func exchange(string, string) error { return errors.ErrUnsupported }

// syncTree makes a new folder durable.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.OpenFile(file, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
}

func alive(pid int) bool {
	p, err := os.FindProcess(pid)
	if err != nil {
		return false
	}
	defer p.Release()
	// FindProcess alone tells on Windows, the signal elsewhere.
	return runtime.GOOS == "windows" || p.Signal(syscall.Signal(0)) == nil
}
