package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal/keyring"
)

// recoveryOptions say who can open a workspace when everybody else lost their
// keys.
type recoveryOptions struct {
	recipient, out string
	none           bool
}

func (o *recoveryOptions) flags(f *pflag.FlagSet) {
	f.StringVar(&o.recipient, "recovery", "", "recovery recipient whose identity somebody keeps offline already")
	f.StringVar(&o.out, "recovery-out", "", "make a recovery identity and write it to this new file, to be kept offline; with the passphrase of --passphrase-file, if given")
	f.BoolVar(&o.none, "no-recovery", false, "no recovery recipient")
}

func (o *recoveryOptions) check() error {
	given := 0
	for _, set := range []bool{o.recipient != "", o.out != "", o.none} {
		if set {
			given++
		}
	}
	if given > 1 {
		return usagef("give one of --recovery, --recovery-out and --no-recovery")
	}
	return nil
}

// rescue is what recovery found: a recipient, and its identity when it was made
// here. A nil rescue is no recovery.
type rescue struct {
	recipient workspace.Recipient
	made      *keyring.Identity
	out       string
}

func (r *rescue) recipients() []workspace.Recipient {
	if r == nil {
		return nil
	}
	return []workspace.Recipient{r.recipient}
}

// recovery finds the recovery recipient of a new workspace. Nothing is written
// yet.
func (a *app) recovery(o recoveryOptions, ws manifest.Workspace, repo *workspace.Repository, k *keyring.Keyring, postQuantum bool) (*rescue, error) {
	if o.recipient == "" && o.out == "" && !o.none && a.interactive() {
		fmt.Fprintf(a.Err, "Who loses every identity of %s loses its secrets. A recovery recipient is one more,\nwhose identity lies offline: an age recipient that somebody holds already, or the\npath of a new file for an identity (on a USB stick, say). Empty for none.\n", ws)
		answer, err := a.line("Recovery recipient or file")
		if err != nil {
			return nil, err
		}
		switch {
		case answer == "":
			o.none = true
		case strings.HasPrefix(answer, "age1") || strings.HasPrefix(answer, "ssh-"):
			o.recipient = answer
		case strings.HasPrefix(answer, "~/"): // as a shell would, which is not asked here
			o.out = filepath.Join(a.Getenv("HOME"), answer[2:])
		default:
			o.out = answer
		}
	}
	switch {
	case o.none:
		return nil, nil
	case o.recipient != "":
		r, err := workspace.ParseRecipient(o.recipient)
		if err != nil {
			return nil, usageError{err}
		}
		return &rescue{recipient: r}, nil
	case o.out == "":
		fmt.Fprintf(a.Err, "note: %s has no recovery recipient: if its identities are lost, so are its secrets. Add one with sealward rotate -w %[1]s --add-recipient age1…\n", ws)
		return nil, nil
	}
	inKeyring := false
	if k != nil {
		rel, err := filepath.Rel(k.Dir(), resolved(o.out))
		inKeyring = err == nil && filepath.IsLocal(rel)
	}
	switch _, err := os.Lstat(o.out); {
	case repo.Contains(o.out):
		return nil, usagef("recovery file %s is inside the repository: a private key must never be committed; choose a place outside", o.out)
	case inKeyring:
		return nil, usagef("recovery file %s is inside the keyring, and would be lost with it; choose another place", o.out)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, usagef("recovery file %s exists, or cannot be looked at; it is not replaced", o.out)
	}
	id, err := keyring.Generate(postQuantum, a.Now())
	if err != nil {
		return nil, err
	}
	return &rescue{recipient: id.Recipient(), made: id, out: o.out}, nil
}

// resolved follows the links of the folder that a new file will stand in.
func resolved(file string) string {
	abs, err := filepath.Abs(file)
	if err != nil {
		return file
	}
	if dir, err := filepath.EvalSymlinks(filepath.Dir(abs)); err == nil {
		return filepath.Join(dir, filepath.Base(abs))
	}
	return abs
}

// write writes the identity that was made.
func (r *rescue) write(a *app, ws manifest.Workspace) error {
	if r == nil || r.made == nil {
		return nil
	}
	payload := keyring.RecoveryPayload(ws, r.made)
	var passphrase []byte
	var err error
	switch {
	case a.passphraseFile != "":
		passphrase, err = keyring.ReadPassphrase(a.passphraseFile)
	case a.interactive():
		passphrase, err = a.newPassphrase("the recovery file", true)
	}
	if err != nil {
		return err
	}
	text := payload.Clear()
	if passphrase != nil {
		if text, err = payload.SealWith(passphrase, a.Work); err != nil {
			return err
		}
	}
	if err := writeNew(r.out, text); err != nil {
		return err
	}
	fmt.Fprintf(a.Err, "Recovery identity written to %s: it opens every secret of %s. Move it offline (print it, a USB stick in a safe) and delete it here; sealward keys import brings it back\n", r.out, ws)
	return nil
}
