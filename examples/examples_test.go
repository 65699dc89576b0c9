// Package examples holds the examples to what they show.
package examples

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"go.yaml.in/yaml/v3"

	"github.com/sealward/sealward/gitops"
	"github.com/sealward/sealward/plugins/kubernetes/kubetest"
	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/keyring"
)

// TestMain puts sealward in the PATH, as a release builds it, and starts a control plane.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "sealward-examples-")
	if err == nil {
		err = buildRelease(filepath.Join(dir, "sealward"))
	}
	code := 1
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else if err = os.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH")); err == nil {
		code = kubetest.Main(m, &cluster)
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// buildRelease does what .goreleaser.yaml says, for this platform.
func buildRelease(to string) error {
	text, err := os.ReadFile("../.goreleaser.yaml")
	if err != nil {
		return err
	}
	var config struct {
		Builds []struct {
			Main         string
			Env, Ldflags []string
		}
	}
	if err := yaml.Unmarshal(text, &config); err != nil {
		return err
	}
	if len(config.Builds) != 1 || len(config.Builds[0].Ldflags) != 1 {
		return fmt.Errorf(".goreleaser.yaml: %+v", config)
	}
	b := config.Builds[0]
	flags := strings.NewReplacer("{{ .Version }}", "1.2.3", "{{ .FullCommit }}", "0123456789abcdef", "{{ .CommitDate }}", "2026-11-26T16:00:00Z").Replace(b.Ldflags[0])
	// Not its -trimpath: everything would be compiled once more.
	cmd := exec.Command("go", "build", "-ldflags", flags, "-o", to, b.Main)
	cmd.Dir, cmd.Env = "..", append(os.Environ(), b.Env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// What a release says of itself.
func TestReleaseVersion(t *testing.T) {
	out, err := exec.Command("sealward", "version").CombinedOutput()
	if want := "sealward 1.2.3 "; err != nil || !strings.HasPrefix(string(out), want) || !strings.HasSuffix(string(out), "\ncommit 0123456789abcdef of 2026-11-26T16:00:00Z\n") {
		t.Errorf("%v\n%s", err, out)
	}
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
