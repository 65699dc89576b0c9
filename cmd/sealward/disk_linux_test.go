package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sealward/sealward/unseal/client"
)

// mount makes dir a small file system of its own. chmod would not stop root.
func mount(t *testing.T, dir, options string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	err := syscall.Mount("tmpfs", dir, "tmpfs", 0, options)
	if errors.Is(err, syscall.EPERM) {
		t.Skip("mounting is not permitted here")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
}

// TestFullStateFolder: with no space left the last commit stays served, the
// error says so, and when space returns the agent goes on.
func TestFullStateFolder(t *testing.T) {
	f := newFarm(t, 40)
	state := filepath.Join(f.dir, "state")
	mount(t, state, "size=4m")
	f.commit(0)
	f.sh("sealward agent -c agent.yaml --once")
	filler := filepath.Join(state, "filler")
	text := make([]byte, 8<<20)
	_ = os.WriteFile(filler, text, 0o600) // ends with ENOSPC
	f.commit(1)
	out := f.sh("sealward agent -c agent.yaml --once 2>&1; true")
	if !strings.Contains(out, "no space left on device") || strings.Contains(out, "canary-") {
		t.Errorf("a full state folder: %s", out)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	f.sh("mv remote.git away.git")
	f.serve(func(c *client.Client) {
		if got := f.numbers(c); got["canary-0"] != f.secrets {
			t.Errorf("after the disk was full: %v", got)
		}
	})
	f.sh("mv away.git remote.git")
	f.sh("sealward agent -c agent.yaml --once")
	f.sh("mv remote.git away.git")
	f.serve(func(c *client.Client) {
		if got := f.numbers(c); got["canary-1"] != f.secrets {
			t.Errorf("after space returned: %v", got)
		}
	})
}

// TestReadOnlyStateFolder: one clear line, and nothing is lost.
func TestReadOnlyStateFolder(t *testing.T) {
	f := newFarm(t, 3)
	state := filepath.Join(f.dir, "state")
	mount(t, state, "size=4m")
	f.commit(0)
	f.sh("sealward agent -c agent.yaml --once")
	if err := syscall.Mount("", state, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	out := f.sh("sealward agent -c agent.yaml --once 2>&1; echo code $?")
	if !strings.Contains(out, "state folder") || !strings.Contains(out, "read-only file system") || !strings.Contains(out, "code 1") {
		t.Errorf("a read-only state folder: %s", out)
	}
	if err := syscall.Mount("", state, "", syscall.MS_REMOUNT, ""); err != nil {
		t.Fatal(err)
	}
	f.serve(func(c *client.Client) {
		if got := f.numbers(c); got["canary-0"] != 3 {
			t.Errorf("writable again: %v", got)
		}
	})
}
