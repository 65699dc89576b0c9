//go:build !unix

package main

import (
	"errors"
	"os"
	"os/exec"
	"strings"
)

func signalNamed(name string) (os.Signal, error) {
	switch strings.TrimPrefix(strings.ToUpper(name), "SIG") {
	case "HUP": // the default, which nothing sends here
		return os.Kill, nil
	case "KILL":
		return os.Kill, nil
	}
	return nil, errors.New("this system has no such signal; use --on-change restart")
}

func terminate() os.Signal { return os.Kill }

func passedOn() []os.Signal { return []os.Signal{os.Interrupt} }

func ownGroup(*exec.Cmd) bool { return false }

func (c *child) send(s os.Signal) { _ = c.cmd.Process.Signal(s) }

func (c *child) kill() { _ = c.cmd.Process.Kill() }

func endedBy(*exec.ExitError) int { return 0 }
