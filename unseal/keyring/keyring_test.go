package keyring_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal/keyring"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func scope(t *testing.T, s string) manifest.Workspace {
	t.Helper()
	ws, err := manifest.ParseScope(s)
	if err != nil {
		t.Fatal(err)
	}
	return ws
}

func TestCreate(t *testing.T) {
	k, err := keyring.Open(filepath.Join(t.TempDir(), "keys"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Ring(scope(t, "orders")); !errors.Is(err, keyring.ErrNoRing) {
		t.Errorf("before: %v", err)
	}
	id, err := keyring.Generate(false, now)
	if err != nil {
		t.Fatal(err)
	}
	rcpt := id.Recipient()
	if err := k.Create(scope(t, "orders"), id); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(k.Path(scope(t, "orders"))); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	text, _ := os.ReadFile(k.Path(scope(t, "orders")))
	if !strings.HasPrefix(string(text), "# created: 2026-01-02T03:04:05Z\n# public key: "+rcpt.String()+"\nAGE-SECRET-KEY-1") {
		t.Errorf("not age-keygen's format: %.60s", text)
	}
	if err := k.Create(scope(t, "orders"), id); !errors.Is(err, keyring.ErrExists) {
		t.Errorf("again: %v", err)
	}
	ring, err := k.Ring(scope(t, "orders"))
	if err != nil || ring.Recipients()[0] != rcpt {
		t.Errorf("%v, %v", ring, err)
	}
	if got, err := k.Workspaces(); err != nil || len(got) != 1 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestParseRing(t *testing.T) {
	x, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	pq, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	ring, err := keyring.ParseRing(scope(t, "orders"), fmt.Appendf(nil, "# active\n%s\n\n# retired\r\n%s\r\n%s\n", pq, x, x))
	if err != nil || len(ring.Recipients()) != 2 || !ring.Recipients()[0].PostQuantum() {
		t.Fatalf("%v, %v", ring, err)
	}
	// However it is printed, no key shows.
	holder := struct{ R *keyring.Ring }{ring}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		for _, v := range []any{ring, holder, &holder} {
			if out := fmt.Sprintf(verb, v); strings.Contains(out, "SECRET") {
				t.Errorf("%s shows a key: %.40s", verb, out)
			}
		}
	}
	const mistyped = "AGE-SECRET-KEY-1HUNTER2HUNTER2"
	for name, c := range map[string]struct{ text, want string }{
		"empty":       {"# nothing\n", "holds no identity"},
		"mistyped":    {mistyped, "line 1: is not an age identity"},
		"other text":  {"x\n" + mistyped, "line 1"},
		"plugin":      {"AGE-PLUGIN-YUBIKEY-1QQQ", "a ring never runs a program"},
		"passphrase":  {"age-encryption.org/v1\n-> scrypt", "is protected by a passphrase"},
		"recipient":   {x.Recipient().String(), "is not an age identity"},
		"two on line": {x.String() + " " + x.String(), "is not an age identity"},
		"long line":   {strings.Repeat("a", 1<<17), "too long"},
	} {
		_, err := keyring.ParseRing(scope(t, "orders"), []byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if err != nil && (strings.Contains(err.Error(), "HUNTER2") || strings.Contains(err.Error(), x.String()[20:])) {
			t.Errorf("%s: the error shows a key: %v", name, err)
		}
	}
}
