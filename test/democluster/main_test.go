package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealward/sealward/plugins/kubernetes/kubetest"
)

// The demo goes as it says, and what it prints tells of each step.
func TestDemo(t *testing.T) {
	t.Chdir("../..")
	bin := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", filepath.Join(bin, "sealward"), "./cmd/sealward").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	var out bytes.Buffer
	err := run(t.Context(), &out)
	if errors.Is(err, kubetest.ErrNoBinaries) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, step := range []string{"put back within", "in the Secret within", "refused within", "records are intact", "grep: exit code 1", "Done in"} {
		if !strings.Contains(out.String(), step) {
			t.Errorf("it does not show %q:\n%s", step, out.String())
		}
	}
}

// What does not go as it says ends it, with what was seen.
func TestDemoNotices(t *testing.T) {
	d := &demo{ctx: t.Context(), out: &bytes.Buffer{}, dir: t.TempDir(), env: os.Environ()}
	for line, want := range map[string]expect{
		"exit 3":       {},
		"echo hunter2": {hides: []string{"hunter2"}},
		"echo a":       {shows: []string{"b"}},
	} {
		if err := d.lines(line, want); err == nil || !strings.Contains(err.Error(), line) {
			t.Errorf("%s: %v", line, err)
		}
	}
	if err := d.lines("echo a; exit 4", expect{code: 4, shows: []string{"a"}}); err != nil {
		t.Error(err)
	}
}
