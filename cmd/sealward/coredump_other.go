//go:build !unix

package main

// noCoreDumps: there are none of this kind.
func noCoreDumps() error { return nil }
