//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package audit

import (
	"errors"
	"os"
	"syscall"
)

// openLocked opens path for appending and keeps every other process out until the file is
// closed; flags are added to those of opening. The kernel drops the lock with the process,
// so a crash leaves none behind.
func openLocked(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE|flags, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errors.New("another process is writing to it; stop that one, or name another file")
		}
		return nil, os.NewSyscallError("flock", err)
	}
	return f, nil
}
