package main

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// digests is the hash of each manifest of the workspace, by path.
func (f *farm) digests() map[string][32]byte {
	f.t.Helper()
	out := map[string][32]byte{}
	dir := filepath.Join(f.dir, "secrets/workspaces/orders/secrets")
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(file, ".yaml") {
			return err
		}
		data, err := os.ReadFile(file)
		out[file] = sha256.Sum256(data)
		return err
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return out
}

// TestKilledWhileRotating kills a rotation of 1,000 manifests at random moments:
// what the work tree holds then, before any other command runs, is all old or all
// new, and Git sees nothing else.
func TestKilledWhileRotating(t *testing.T) {
	f := newFarm(t, 1000)
	f.commit(0)
	started := time.Now()
	f.sh("cd secrets && sealward rotate -w orders")
	usual := time.Since(started)
	seed := time.Now().UnixNano()
	t.Logf("seed %d; a whole rotation took %s", seed, usual.Round(time.Millisecond))
	random := rand.New(rand.NewSource(seed))
	complete := 0
	const rounds = 4
	for round := range rounds {
		before := f.digests()
		cmd := exec.Command("sealward", "rotate", "-w", "orders")
		cmd.Dir = filepath.Join(f.dir, "secrets")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Most of the time near the end, where files are put in place.
		at := time.Duration(random.Int63n(int64(usual)))
		if round%3 > 0 {
			at = usual*6/10 + time.Duration(random.Int63n(int64(usual*6/10)))
		}
		time.Sleep(at)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		after := f.digests()
		changed := 0
		for file, sum := range after {
			if before[file] != sum {
				changed++
			}
		}
		if len(after) != f.secrets || changed != 0 && changed != f.secrets {
			t.Fatalf("round %d: killed after %s: %d files, %d changed of %d", round, at, len(after), changed, f.secrets)
		}
		if untracked := f.sh("cd secrets && git status --porcelain --untracked-files=all | grep -v '^ M' || true"); untracked != "" {
			t.Errorf("round %d: left behind: %s", round, untracked)
		}
		if changed > 0 {
			complete++
		}
	}
	t.Logf("%d of %d kills came after the rotation was complete", complete, rounds)
	// The next rotation clears what the kills left, and the values are what they were.
	f.sh("cd secrets && sealward rotate -w orders")
	if left := f.sh("find secrets -name '.sealward-tmp-*'"); left != "" {
		t.Errorf("still there: %s", left)
	}
	for _, i := range []int{0, 499, 999} {
		if got := f.sh(fmt.Sprintf("cd secrets && sealward unseal orders/%s --key number", f.name(i))); got != "canary-0" {
			t.Errorf("secret %d: %q", i, got)
		}
	}
}
