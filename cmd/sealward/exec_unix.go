//go:build unix

package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

func signalNamed(name string) (os.Signal, error) {
	n := unix.SignalNum("SIG" + strings.TrimPrefix(strings.ToUpper(name), "SIG"))
	if n == 0 {
		return nil, fmt.Errorf("%.20q is no signal; HUP and USR1, for example, are", name)
	}
	return n, nil
}

func terminate() os.Signal { return syscall.SIGTERM }

// passedOn are the signals that go on to the command. On a terminal the kernel
// sends the keyboard's itself.
func passedOn() []os.Signal {
	out := []os.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGINT, syscall.SIGQUIT}
	if onTerminal() {
		return out[:4]
	}
	return out
}

func onTerminal() bool { return term.IsTerminal(int(os.Stdin.Fd())) }

// ownGroup has the command lead a group, so that its children get its signals too; not on a
// terminal, from which a group in the background cannot read.
func ownGroup(cmd *exec.Cmd) bool {
	if onTerminal() {
		return false
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return true
}

func (c *child) send(s os.Signal) {
	n, ok := s.(syscall.Signal)
	if ok && c.group {
		_ = syscall.Kill(-c.cmd.Process.Pid, n)
		return
	}
	_ = c.cmd.Process.Signal(s)
}

func (c *child) kill() { c.send(syscall.SIGKILL) }

func endedBy(e *exec.ExitError) int {
	if w, ok := e.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return int(w.Signal())
	}
	return 0
}
