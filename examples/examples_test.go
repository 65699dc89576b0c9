// Package examples holds the examples to what they show.
package examples

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/sealward/sealward/gitops"
	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/keyring"
)

// TestMain puts the real sealward in the PATH.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "sealward-examples-")
	if err == nil {
		var out []byte
		if out, err = exec.Command("go", "build", "-o", filepath.Join(dir, "sealward"), "../cmd/sealward").CombinedOutput(); err != nil {
			err = fmt.Errorf("%w\n%s", err, out)
		}
	}
	code := 1
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else if err = os.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH")); err == nil {
		code = m.Run()
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

func TestAgentSettings(t *testing.T) {
	text, err := os.ReadFile("agent.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s, err := gitops.ParseSettings(text, ".")
	if err != nil {
		t.Fatal(err)
	}
	given := s
	if err := s.Check(false); err != nil {
		t.Fatal(err)
	}
	// Every default that the file shows is the real one.
	var defaults gitops.Settings
	defaults.Source.URL, defaults.Keyring, defaults.State, defaults.Serve.TokensFile = s.Source.URL, s.Keyring, s.State, s.Serve.TokensFile
	if err := defaults.Check(false); err != nil {
		t.Fatal(err)
	}
	if given.Source.Branch != defaults.Source.Branch || given.Source.Path != defaults.Source.Path || given.Source.Interval != defaults.Source.Interval ||
		given.Source.Timeout != defaults.Source.Timeout || given.MaxStale != defaults.MaxStale || given.Audit.File != defaults.Audit.File {
		t.Errorf("the example shows other defaults: %+v, %+v", given, defaults)
	}
}

func TestManifests(t *testing.T) {
	files, err := filepath.Glob("manifests/*.yaml")
	if err != nil || len(files) != 4 {
		t.Fatalf("found %v, %v", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		m, err := manifest.Parse(file, text)
		if err != nil {
			t.Fatal(err)
		}
		if !m.Kind.IsSecret() {
			continue
		}
		id, err := age.GenerateX25519Identity()
		if err != nil {
			t.Fatal(err)
		}
		to, err := workspace.ParseRecipient(id.Recipient().String())
		if err != nil {
			t.Fatal(err)
		}
		ring, err := keyring.ParseRing(m.Workspace, []byte(id.String()))
		if err != nil {
			t.Fatal(err)
		}
		want := len(m.Secret.Entries)
		sealed, err := seal.Seal(m, workspace.For(to), seal.Options{Now: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		if m, err = manifest.Parse(file, sealed); err != nil {
			t.Fatal(err)
		}
		if o, err := unseal.Open(m, ring, unseal.Options{}); err != nil || len(o.Values) != want {
			t.Errorf("%s: %v", file, err)
		}
	}
}
