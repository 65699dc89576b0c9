//go:build unix

package workload

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// onlyOurs refuses a folder in which somebody else could put files in place of the
// secrets.
func onlyOurs(info fs.FileInfo) error {
	if owner, ok := info.Sys().(*syscall.Stat_t); !ok || int(owner.Uid) != os.Geteuid() {
		return errors.New("belongs to somebody else, who could put other files in place of the secrets")
	}
	if info.Mode().Perm()&0o022 != 0 {
		return errors.New("others may write in it, and could put their files in place of the secrets; chmod go-w it")
	}
	return nil
}
