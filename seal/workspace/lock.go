package workspace

import (
	"fmt"
	"os"
	"time"
)

// lockPatience is how long Lock waits for another process.
const lockPatience = 10 * time.Second

// Lock keeps other sealward processes from changing the repository until unlock is
// called. Without it, of two who read a file, change different keys and write it,
// one would undo the other's change without a word. It leaves no file behind, and
// the system drops it with the process. Where the system has no such lock, there
// is none.
func (r *Repository) Lock() (unlock func(), err error) {
	dir, err := os.Open(r.dir)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(lockPatience); ; time.Sleep(20 * time.Millisecond) {
		if tryLock(dir) {
			return func() { _ = dir.Close() }, nil
		}
		if time.Now().After(end) {
			_ = dir.Close()
			return nil, fmt.Errorf("%s: another sealward is changing this repository; nothing was changed, try again", r.dir)
		}
	}
}
