package main

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// inMemory reports that files in dir are kept in memory. (They can still be
// swapped out; encrypt the swap.)
func inMemory(dir string) bool {
	var s unix.Statfs_t
	return unix.Statfs(dir, &s) == nil && (s.Type == unix.TMPFS_MAGIC || s.Type == unix.RAMFS_MAGIC) && unix.Access(dir, unix.W_OK) == nil
}

// orphaned reports that a folder of ours belongs to no running process.
func orphaned(dir string, pid int) bool {
	info, err := os.Lstat(dir)
	if err != nil || !info.IsDir() {
		return false
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(owner.Uid) == os.Getuid() && errors.Is(unix.Kill(pid, 0), unix.ESRCH)
}
