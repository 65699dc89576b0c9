//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package audit

import (
	"errors"
	"os"
)

// openLocked refuses: two writers would destroy the chain, and the standard library has no
// lock here that keeps the second one out. Verify works everywhere.
func openLocked(string, int) (*os.File, error) {
	return nil, errors.New("cannot be locked on this system; run the agent on Linux, macOS or a BSD")
}
