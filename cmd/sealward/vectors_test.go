package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealward/sealward/seal/workspace"
)

// TestVectorsThroughTheCommand runs every vector of test/vectors through unseal
// and doctor: exit codes, reasons, and no value where none belongs.
func TestVectorsThroughTheCommand(t *testing.T) {
	const dir = "../../test/vectors"
	text, err := os.ReadFile(filepath.Join(dir, "vectors.json"))
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		Name, File, Place, Expect string
		Values                    map[string]string
	}
	if err := json.Unmarshal(text, &vectors); err != nil || len(vectors) < 90 {
		t.Fatalf("%d vectors: %v", len(vectors), err)
	}
	ring := t.TempDir()
	for ws, from := range map[string]string{"orders": "orders", "payments": "payments", "instance": "orders"} {
		id, err := os.ReadFile(filepath.Join(dir, "keys", from+".agekey"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(ring, ws+".agekey"), id, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, v := range vectors {
		t.Run(v.Name, func(t *testing.T) {
			repo, _, err := workspace.InitRepository(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			sealed, err := os.ReadFile(filepath.Join(dir, "files", v.File))
			if err != nil {
				t.Fatal(err)
			}
			if err := repo.Write(v.Place, sealed); err != nil {
				t.Fatal(err)
			}
			command := func(args ...string) (code int, stdout, stderr string) {
				var out, errs bytes.Buffer
				code = run(t.Context(), append(args, "--repo", repo.Dir(), "--keyring", ring), deps{In: strings.NewReader(""), Out: &out, Err: &errs, Now: time.Now, Getenv: os.Getenv, LookupEnv: os.LookupEnv})
				return code, out.String(), errs.String()
			}
			file := filepath.Join(repo.Dir(), v.Place)
			for key, want := range v.Values {
				if code, got, stderr := command("unseal", file, "--key", key); code != 0 || base64.StdEncoding.EncodeToString([]byte(got)) != want {
					t.Errorf("%s: exit code %d, %q, %s", key, code, got, stderr)
				}
			}
			code, stdout, stderr := command("unseal", file)
			if v.Expect == "ok" {
				if code != 0 || stdout == "" {
					t.Errorf("exit code %d: %s", code, stderr)
				}
				return
			}
			want := exitUnsealed
			if v.Expect == "manifest" || v.Expect == "not-sealed" {
				want = exitFailed
			}
			if code != want || stdout != "" || !strings.Contains(stderr, filepath.Base(v.Place)) {
				t.Errorf("exit code %d, want %d: %s%s", code, want, stdout, stderr)
			}
			switch v.Expect {
			case "form", "pattern", "value", "mac", "binding":
				if !strings.Contains(stderr, "("+v.Expect+")") {
					t.Errorf("the reason %s is not said: %s", v.Expect, stderr)
				}
			}
			code, diagnosis, _ := command("doctor", file, "-o", "json")
			if code != exitUnsealed || !strings.Contains(diagnosis, `"failed"`) {
				t.Errorf("doctor finds nothing (exit code %d): %s", code, diagnosis)
			}
			for _, secret := range []string{"hunter2", "hunter3", "0123", "aHVudGVyMg", "grootuser"} {
				if strings.Contains(stderr+diagnosis, secret) {
					t.Errorf("a value is repeated: %s%s", stderr, diagnosis)
				}
			}
		})
	}
}
