//go:build unix

package main

import "golang.org/x/sys/unix"

// noCoreDumps keeps what the program has in memory out of files that a crash writes.
func noCoreDumps() error {
	return unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
}
