package unseal

import (
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What an env file holds, a shell reads back byte for byte; what it refuses, it refuses
// without showing it.
func TestShellsReadEnvFilesBack(t *testing.T) {
	alphabet := []string{"'", `"`, "$", "`", `\`, "\n", "\t", " ", "#", "=", "!", "~", "*", "a", "é", "$(id)", "${HOME}", "\r", "\x00", "\xff", "\x1b", ";", "&", "%"}
	random := rand.New(rand.NewPCG(1, 2))
	file := filepath.Join(t.TempDir(), "env")
	read, refused := 0, 0
	for range 400 {
		var text strings.Builder
		for range random.IntN(6) {
			text.WriteString(alphabet[random.IntN(len(alphabet))])
		}
		value := text.String()
		out, err := EnvFile([]Value{{Key: "some.key", Data: []byte("hunter2" + value)}, {Key: "zz", Data: []byte("last")}})
		if err != nil {
			if refused++; !errors.Is(err, ErrForm) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%q: %v", value, err)
			}
			continue
		}
		if read++; read > 60 { // a process each
			continue
		}
		if err := os.WriteFile(file, out, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := exec.Command("sh", "-c", `set -eu; . "$1"; printf %s "$SOME_KEY.$ZZ"`, "sh", file).Output()
		if err != nil || string(got) != "hunter2"+value+".last" {
			t.Errorf("%q came back as %q: %v", value, got, err)
		}
	}
	if read < 50 || refused < 50 {
		t.Errorf("%d read, %d refused: nothing is tested", read, refused)
	}
}

func TestEnvName(t *testing.T) {
	for key, want := range map[string]string{"a": "A", "tls.key": "TLS_KEY", "a-b_C": "A_B_C", "1": "_1", "é": "_", "": "_", "=x\n": "_X_"} {
		if got := EnvName(key); got != want {
			t.Errorf("%q: %s, want %s", key, got, want)
		}
	}
}
