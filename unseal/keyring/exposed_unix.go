//go:build unix

package keyring

import (
	"io/fs"
	"os"
	"syscall"
)

// Exposed reports that a file of keys can be read by others than whom it is for. A group
// may read what root keeps for a process that is not root: so does Kubernetes mount a
// Secret for a pod's fsGroup, and so may a service get its keys.
func Exposed(info fs.FileInfo) bool {
	owner := -1
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		owner = int(s.Uid)
	}
	return exposed(info.Mode().Perm(), owner, os.Geteuid())
}

func exposed(mode fs.FileMode, owner, process int) bool {
	if owner == 0 && process != 0 {
		return mode&0o027 != 0
	}
	return mode&0o077 != 0
}
