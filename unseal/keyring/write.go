package keyring

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
)

// Identity is a new age identity that is not written anywhere yet.
type Identity struct {
	recipient workspace.Recipient
	secret    string
	made      time.Time
}

// Generate makes an identity: X25519, or a post-quantum hybrid.
func Generate(postQuantum bool, now time.Time) (*Identity, error) {
	var secret, public string
	if postQuantum {
		id, err := age.GenerateHybridIdentity()
		if err != nil {
			return nil, err
		}
		secret, public = id.String(), id.Recipient().String()
	} else {
		id, err := age.GenerateX25519Identity()
		if err != nil {
			return nil, err
		}
		secret, public = id.String(), id.Recipient().String()
	}
	rcpt, err := workspace.ParseRecipient(public)
	return &Identity{recipient: rcpt, secret: secret, made: now}, err
}

// Recipient is the identity's public key.
func (i *Identity) Recipient() workspace.Recipient { return i.recipient }

// String is the public key, so that an identity that is printed by mistake shows
// no private one.
func (i *Identity) String() string { return i.recipient.String() }

// GoString is String.
func (i *Identity) GoString() string { return i.String() }

// lines are the identity as age-keygen writes it.
func (i *Identity) lines() []byte {
	return fmt.Appendf(nil, "# created: %s\n# public key: %s\n%s\n", i.made.UTC().Format(time.RFC3339), i.recipient, i.secret)
}

// Create writes the first identity of ws to the keyring, 0600. It never replaces
// one (ErrExists).
func (k *Keyring) Create(ws manifest.Workspace, id *Identity) error {
	err := k.writeNew(ws, id.lines())
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w for workspace %s (%s); use it with --recipient, or move it away", ErrExists, ws, k.Path(ws))
	}
	return err
}

func (k *Keyring) writeNew(ws manifest.Workspace, data []byte) error {
	if err := os.MkdirAll(k.dir, 0o700); err != nil {
		return fmt.Errorf("keyring: %w", err)
	}
	return WriteNew(k.Path(ws), data)
}

// WriteNew makes a private file, 0600, that is whole on the disk when it returns.
// It never replaces one (fs.ErrExist).
func WriteNew(path string, data []byte) error {
	// O_EXCL, and not a rename: two who create at once must not replace each other.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		os.Remove(path)
		return err
	}
	// A key that a power failure takes away after its recipient was committed
	// would take the secrets with it.
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Renew puts a new identity in front of those that ws has, which become retired.
// A file that a passphrase protects stays protected by it.
func (k *Keyring) Renew(ws manifest.Workspace, id *Identity) error {
	return k.change(ws, func(text []byte) ([]byte, error) { return append(id.lines(), text...), nil })
}

// change rewrites the identity file of ws whole.
func (k *Keyring) change(ws manifest.Workspace, edit func(text []byte) ([]byte, error)) error {
	path := k.Path(ws)
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w for workspace %s (%s)", ErrNoRing, ws, path)
	}
	if err != nil {
		return fmt.Errorf("keyring: %w", err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is a link, or no plain file; what it leads to is not changed. Put a file of its own in its place, with the workspace's identities", path)
	}
	data, err := readBounded(path)
	if err != nil {
		return fmt.Errorf("keyring: %w", err)
	}
	settings, err := k.readSettings()
	if err != nil {
		return err
	}
	plain, reseal := data, func(text []byte) ([]byte, error) { return text, nil }
	if isAgeFile(data) {
		l := &lock{k: k, path: path, passphraseFile: k.path(settings.Workspaces[ws.String()].PassphraseFile)}
		passphrase, err := l.passphrase()
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if plain, err = decryptAge(data, passphrase); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		reseal = func(text []byte) ([]byte, error) {
			return EncryptWithPassphrase(text, passphrase, isArmored(data), k.work)
		}
	}
	text, err := edit(plain)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if len(text) > maxFile {
		return fmt.Errorf("%s: would have more than %d bytes", path, maxFile)
	}
	out, err := reseal(text)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return workspace.WriteFile(path, out, 0o600)
}

// EncryptWithPassphrase encrypts text with a passphrase, as age -p does. work is the
// logarithm of what guessing one costs, 0 for age's own (18, a second).
func EncryptWithPassphrase(text, passphrase []byte, armored bool, work int) ([]byte, error) {
	r, err := age.NewScryptRecipient(string(passphrase))
	if err != nil {
		return nil, errors.New("the passphrase is empty")
	}
	if work > 0 {
		r.SetWorkFactor(work)
	}
	return encrypt(text, armored, r)
}

func encrypt(text []byte, armored bool, to ...age.Recipient) ([]byte, error) {
	var out bytes.Buffer
	write := func(w interface{ Write([]byte) (int, error) }) error {
		e, err := age.Encrypt(w, to...)
		if err != nil {
			return err
		}
		_, err = e.Write(text)
		return errors.Join(err, e.Close())
	}
	if !armored {
		err := write(&out) // before Bytes, which would else be what is there now: nothing
		return out.Bytes(), err
	}
	a := armor.NewWriter(&out)
	err := errors.Join(write(a), a.Close())
	return out.Bytes(), err
}

// payloadHeader begins what Export writes and Import reads, and names the
// workspace.
const payloadHeader = "# sealward identities of workspace: "

// Payload is the identities of one workspace, on their way to another keyring. It
// is never printed.
type Payload struct {
	workspace  manifest.Workspace
	identities []identity
	text       []byte
	sealed     bool // it was encrypted when it was read
}

// Workspace that the identities belong to.
func (p *Payload) Workspace() manifest.Workspace { return p.workspace }

// Sealed reports that what OpenPayload read was encrypted.
func (p *Payload) Sealed() bool { return p.sealed }

// Recipients of the identities, the active one first.
func (p *Payload) Recipients() []workspace.Recipient {
	var out []workspace.Recipient
	for _, id := range p.identities {
		out = append(out, id.recipient)
	}
	return out
}

// String names the workspace only.
func (p *Payload) String() string { return "identities of workspace " + p.workspace.String() }

// GoString is String.
func (p *Payload) GoString() string { return p.String() }

func newPayload(ws manifest.Workspace, identities []identity) *Payload {
	p := &Payload{workspace: ws, identities: identities}
	p.text = fmt.Appendf(nil, "%s%s\n", payloadHeader, ws)
	for _, id := range identities {
		p.text = fmt.Appendf(p.text, "# public key: %s\n%s\n", id.recipient, id.secret)
	}
	return p
}

// Payload is the age identities of the ring. An SSH key is a person's: it is left
// out, and a ring with nothing else has no payload.
func (r *Ring) Payload() (*Payload, error) {
	var ids []identity
	for _, rcpt := range r.order {
		if rcpt.Kind() != workspace.KindSSH {
			ids = append(ids, r.identities[rcpt])
		}
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("the ring of workspace %s has no age identity to hand over: a person's SSH key stays with its owner; make an identity with sealward keys new", r.workspace)
	}
	return newPayload(r.workspace, ids), nil
}

// RecoveryPayload is one new identity, in the form that Import reads.
func RecoveryPayload(ws manifest.Workspace, id *Identity) *Payload {
	return newPayload(ws, []identity{{recipient: id.recipient, secret: []byte(id.secret)}})
}

// SealTo encrypts the payload, armored, to age and SSH recipients.
func (p *Payload) SealTo(to ...workspace.Recipient) ([]byte, error) {
	var out []age.Recipient
	for _, rcpt := range to {
		r, err := ageRecipient(rcpt)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	sealed, err := encrypt(p.text, true, out...)
	if err != nil {
		return nil, errors.New("age could not encrypt for these recipients; post-quantum ones (age1pq1…) cannot stand beside others")
	}
	return sealed, nil
}

// SealWith encrypts the payload, armored, with a passphrase; work as of
// EncryptWithPassphrase.
func (p *Payload) SealWith(passphrase []byte, work int) ([]byte, error) {
	return EncryptWithPassphrase(p.text, passphrase, true, work)
}

// Clear is the payload in the clear, for a file that its owner keeps offline.
func (p *Payload) Clear() []byte { return bytes.Clone(p.text) }

// OpenPayload reads what SealTo, SealWith or Clear wrote: with ask for a
// passphrase, or with the identities of a ring.
func OpenPayload(data []byte, ids []age.Identity, ask func() ([]byte, error)) (*Payload, error) {
	if len(data) > 2*maxFile {
		return nil, errors.New("is larger than any keyring")
	}
	text := data
	switch {
	case isAgeFile(data) && hasPassphrase(data):
		passphrase, err := ask()
		if errors.Is(err, ErrCannotAsk) {
			return nil, fmt.Errorf("%w; give --passphrase-file FILE, or run this on a terminal", ErrProtected)
		}
		if err != nil {
			return nil, err
		}
		if text, err = decryptAge(data, passphrase); err != nil {
			return nil, err
		}
	case isAgeFile(data) && len(ids) == 0:
		return nil, errors.New("is encrypted to a recipient; name the file with that recipient's identity with --identity")
	case isAgeFile(data):
		var err error
		if text, err = readAge(data, ids...); err != nil {
			return nil, errors.New("does not open with the identity that was given; is it of the recipient that --to named?")
		}
	}
	first, _, _ := strings.Cut(string(text[:min(len(text), 256)]), "\n")
	name, ok := strings.CutPrefix(first, payloadHeader)
	if !ok {
		return nil, errors.New("is not what sealward keys export writes: it names no workspace; a file of age-keygen goes into the keyring as it is, by the name WORKSPACE.agekey (chmod 600)")
	}
	ws, err := manifest.ParseScope(strings.TrimSpace(name))
	if err != nil {
		return nil, errors.New("names a workspace that cannot be")
	}
	got, err := parseIdentities(text, nil)
	if err != nil {
		return nil, err
	}
	for _, id := range got {
		if id.recipient.Kind() == workspace.KindSSH {
			return nil, errors.New("holds an SSH key; only age identities are handed over")
		}
	}
	p := newPayload(ws, got)
	p.sealed = isAgeFile(data)
	return p, nil
}

// Import adds the identities of a payload to the keyring. What the workspace has
// already keeps its place, and stays active; new ones go behind it. It returns
// the recipients that were added.
func (k *Keyring) Import(p *Payload, now time.Time) ([]workspace.Recipient, error) {
	lines := func(ids []identity) []byte {
		out := fmt.Appendf(nil, "# imported: %s\n", now.UTC().Format(time.RFC3339))
		for _, id := range ids {
			out = fmt.Appendf(out, "# public key: %s\n%s\n", id.recipient, id.secret)
		}
		return out
	}
	err := k.writeNew(p.workspace, lines(p.identities))
	if !errors.Is(err, fs.ErrExist) {
		return p.Recipients(), err
	}
	ring, err := k.Ring(p.workspace)
	if err != nil {
		return nil, err
	}
	var fresh []identity
	var added []workspace.Recipient
	for _, id := range p.identities {
		if _, have := ring.Identity(id.recipient); !have {
			fresh, added = append(fresh, id), append(added, id.recipient)
		}
	}
	if len(fresh) == 0 {
		return nil, nil
	}
	return added, k.change(p.workspace, func(text []byte) ([]byte, error) {
		if len(text) > 0 && text[len(text)-1] != '\n' {
			text = append(bytes.Clone(text), '\n')
		}
		return append(bytes.Clone(text), lines(fresh)...), nil
	})
}

// Identities reads a private key file outside the keyring, in the forms that a
// ring has.
func (k *Keyring) Identities(path string) ([]age.Identity, error) {
	data, err := readBounded(path)
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	ids, err := parseFile(data, &lock{k: k, path: path, now: unlocked{}})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var out []age.Identity
	for _, id := range ids {
		out = append(out, id.Identity)
	}
	return out, nil
}
