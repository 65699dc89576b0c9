package unseal

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/getsops/sops/v3/pgp"
)

// gpgKey opens a data key with the gpg program and one GnuPG home. SOPS's own key
// would read all that gpg prints, however much a message unpacks to, and does not
// ask which key opened it: a home may hold more than the one that is listed.
type gpgKey struct {
	fingerprint, home string
	sealed            []byte
}

func (k *gpgKey) SetEncryptedDataKey(sealed []byte) { k.sealed = sealed }
func (k *gpgKey) EncryptedDataKey() []byte          { return k.sealed }

// EncryptContext refuses: package seal does that, and needs no keyring for it.
func (k *gpgKey) EncryptContext(context.Context, []byte) error {
	return own("sealing for it needs its public key only")
}

// DecryptContext runs gpg, which asks for a passphrase through its agent.
func (k *gpgKey) DecryptContext(ctx context.Context) ([]byte, error) {
	if err := pgp.GnuPGHome(k.home).Validate(); err != nil {
		return nil, own("home is not a folder that only its owner can enter (chmod 700): %s", k.home)
	}
	program := os.Getenv(pgp.SopsGpgExecEnv) // as in sops, for where gpg has another name
	if program == "" {
		program = "gpg"
	}
	// Status on standard error alone, where a message cannot write: gpg's log goes
	// nowhere. Nothing is fetched from a key server.
	cmd := exec.CommandContext(ctx, program, "--homedir", k.home, "--batch", "--no-verbose", "--logger-file", os.DevNull, "--status-fd", "2",
		"--disable-dirmngr", "--no-auto-key-retrieve", "--max-output", "64", "--decrypt")
	key, status := &bounded{limit: shareSize + 1}, &bounded{limit: 64 << 10}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(k.sealed), key, status
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, own("gpg is not installed")
	}
	if err != nil {
		return nil, own("gpg did not open it; does gpg --homedir %s --list-secret-keys show it, and is its passphrase known to gpg-agent?", k.home)
	}
	if !k.opened(status.kept.String()) {
		return nil, own("gpg opened it with another key than the one that is listed, which is refused")
	}
	return key.kept.Bytes(), nil
}

// opened reports that gpg used the listed key: [GNUPG:] DECRYPTION_KEY <key>
// <primary key> <trust>.
func (k *gpgKey) opened(status string) bool {
	found := false
	for line := range strings.Lines(status) {
		f := strings.Fields(line)
		if len(f) >= 4 && f[0] == "[GNUPG:]" && f[1] == "DECRYPTION_KEY" {
			if f[2] != k.fingerprint && f[3] != k.fingerprint {
				return false
			}
			found = true
		}
	}
	return found
}

// bounded keeps what a program writes, up to a limit.
type bounded struct {
	kept  bytes.Buffer // not embedded: its ReadFrom would know no limit
	limit int
}

var errTooMuch = errors.New("the program wrote too much")

func (b *bounded) Write(p []byte) (int, error) {
	if b.kept.Len()+len(p) > b.limit {
		return 0, errTooMuch
	}
	return b.kept.Write(p)
}
