// Package keyring holds private keys: a folder with one file of age identities
// a workspace, and nothing else. What opens a workspace's manifests comes from
// that workspace's file alone: never from the environment, the home folder, an
// agent socket, a plugin program or another workspace's file.
//
// Most callers need [Open] and [Keyring.Ring]; [Keyring.Create] makes the first
// identity of a workspace.
package keyring

import (
	"bufio"
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
)

const (
	suffix  = ".agekey"
	maxFile = 1 << 20
)

// Errors that callers tell apart.
var (
	// ErrNoRing: the keyring has no file for the workspace.
	ErrNoRing = errors.New("no key in the keyring")
	// ErrExists: Create would replace an identity.
	ErrExists = errors.New("the keyring has an identity already")
)

// Keyring is a folder of identity files.
type Keyring struct{ dir string }

// Open names the folder. It need not exist: it then holds no ring.
func Open(dir string) (*Keyring, error) {
	if dir == "" {
		return nil, errors.New("no keyring: set --keyring, SEALWARD_KEYRING or XDG_CONFIG_HOME")
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(abs); err == nil && !info.IsDir() {
		return nil, fmt.Errorf("keyring %s is not a folder", abs)
	}
	return &Keyring{dir: abs}, nil
}

// Dir is the absolute path of the folder.
func (k *Keyring) Dir() string { return k.dir }

// Path of the identity file of a workspace.
func (k *Keyring) Path(ws manifest.Workspace) string {
	return filepath.Join(k.dir, ws.String()+suffix)
}

// Workspaces lists the workspaces that have a file, sorted, the instance among
// them.
func (k *Keyring) Workspaces() ([]manifest.Workspace, error) {
	files, err := os.ReadDir(k.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("keyring: %w", err)
	}
	var out []manifest.Workspace
	for _, f := range files {
		if name, ok := strings.CutSuffix(f.Name(), suffix); ok {
			if ws, err := manifest.ParseScope(name); err == nil {
				out = append(out, ws)
			}
		}
	}
	return out, nil
}

// Ring reads the identities of one workspace: the active one first, retired
// ones after it. The error is ErrNoRing when there is no file.
func (k *Keyring) Ring(ws manifest.Workspace) (*Ring, error) {
	path := k.Path(ws)
	data, err := readBounded(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w for workspace %s (%s); ask a holder for it, or name another folder with --keyring", ErrNoRing, ws, path)
	}
	if err != nil {
		return nil, fmt.Errorf("keyring: %w", err)
	}
	ring, err := ParseRing(ws, data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return ring, nil
}

func readBounded(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("%s is not a file of age identities", path)
	}
	return os.ReadFile(path)
}

// Create makes an X25519 identity for ws and writes it to the keyring, 0600, in
// age-keygen's format. It never replaces one (ErrExists).
func (k *Keyring) Create(ws manifest.Workspace, now time.Time) (workspace.Recipient, error) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return workspace.Recipient{}, err
	}
	rcpt, err := workspace.ParseRecipient(id.Recipient().String())
	if err != nil {
		return workspace.Recipient{}, err
	}
	if err := os.MkdirAll(k.dir, 0o700); err != nil {
		return workspace.Recipient{}, fmt.Errorf("keyring: %w", err)
	}
	// O_EXCL, and not a rename: two who create at once must not replace each other.
	f, err := os.OpenFile(k.Path(ws), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return workspace.Recipient{}, fmt.Errorf("%w for workspace %s (%s); use it with --recipient, or move it away", ErrExists, ws, k.Path(ws))
	}
	if err != nil {
		return workspace.Recipient{}, fmt.Errorf("keyring: %w", err)
	}
	_, err = fmt.Fprintf(f, "# created: %s\n# public key: %s\n%s\n", now.UTC().Format(time.RFC3339), id.Recipient(), id)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		os.Remove(k.Path(ws))
		return workspace.Recipient{}, fmt.Errorf("keyring: %w", err)
	}
	// A key that a power failure takes away after its recipient was committed
	// would take the secrets with it.
	d, err := os.Open(k.dir)
	if err != nil {
		return workspace.Recipient{}, fmt.Errorf("keyring: %w", err)
	}
	defer d.Close()
	return rcpt, d.Sync()
}

// identity is what both kinds of age identity offer.
type identity interface {
	age.Identity
	fmt.Stringer
}

// Ring is the identities of one workspace. It is safe for concurrent use.
type Ring struct {
	workspace  manifest.Workspace
	order      []workspace.Recipient
	identities map[workspace.Recipient]identity
}

// ParseRing reads age-keygen's format: one AGE-SECRET-KEY-… a line, comments
// and empty lines between. No error repeats a line.
func ParseRing(ws manifest.Workspace, data []byte) (*Ring, error) {
	if bytes.HasPrefix(data, []byte("age-encryption.org/")) || bytes.HasPrefix(data, []byte("-----BEGIN AGE")) {
		return nil, errors.New("is protected by a passphrase, which sealward does not open yet; decrypt it with age -d")
	}
	r := &Ring{workspace: ws, identities: map[workspace.Recipient]identity{}}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		id, rcpt, err := parseIdentity(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if _, dup := r.identities[rcpt]; !dup {
			r.order = append(r.order, rcpt)
			r.identities[rcpt] = id
		}
	}
	if err := lines.Err(); err != nil {
		return nil, errors.New("has a line that is too long")
	}
	if len(r.order) == 0 {
		return nil, errors.New("holds no identity (AGE-SECRET-KEY-…)")
	}
	return r, nil
}

func parseIdentity(line string) (identity, workspace.Recipient, error) {
	var id identity
	var public string
	var err error
	switch {
	case strings.HasPrefix(line, "AGE-SECRET-KEY-PQ-1"):
		var h *age.HybridIdentity
		if h, err = age.ParseHybridIdentity(line); err == nil {
			id, public = h, h.Recipient().String()
		}
	case strings.HasPrefix(line, "AGE-SECRET-KEY-1"):
		var x *age.X25519Identity
		if x, err = age.ParseX25519Identity(line); err == nil {
			id, public = x, x.Recipient().String()
		}
	case strings.HasPrefix(line, "AGE-PLUGIN-"):
		return nil, workspace.Recipient{}, errors.New("is an identity of an age plugin; a ring never runs a program")
	default:
		err = errors.New("unknown")
	}
	if err != nil {
		// age's own error can repeat the line, perhaps a mistyped key.
		return nil, workspace.Recipient{}, errors.New("is not an age identity (AGE-SECRET-KEY-…)")
	}
	rcpt, err := workspace.ParseRecipient(public)
	return id, rcpt, err
}

// Workspace whose manifests the ring opens.
func (r *Ring) Workspace() manifest.Workspace { return r.workspace }

// Recipients lists the public keys, the active one first.
func (r *Ring) Recipients() []workspace.Recipient { return slices.Clone(r.order) }

// ActiveRecipient is the public key of the active identity, as age encrypts to it.
func (r *Ring) ActiveRecipient() (age.Recipient, error) {
	s := r.order[0].String()
	if r.order[0].PostQuantum() {
		return age.ParseHybridRecipient(s)
	}
	return age.ParseX25519Recipient(s)
}

// Identities in the order of the file, for age.Decrypt.
func (r *Ring) Identities() []age.Identity {
	out := make([]age.Identity, len(r.order))
	for i, rcpt := range r.order {
		out[i] = r.identities[rcpt]
	}
	return out
}

// Identity that belongs to a recipient, and false when the ring has none.
func (r *Ring) Identity(rcpt workspace.Recipient) (age.Identity, bool) {
	id, ok := r.identities[rcpt]
	return id, ok
}

// Authenticate gives a MAC (HMAC-SHA-256, 32 bytes) that only a holder of the
// active identity can make. context separates its uses.
func (r *Ring) Authenticate(context string, data []byte) []byte {
	return authenticate(r.identities[r.order[0]], context, data)
}

// Authentic reports that some identity of the ring made the MAC.
func (r *Ring) Authentic(context string, data, mac []byte) bool {
	ok := false
	for _, rcpt := range r.order {
		ok = hmac.Equal(mac, authenticate(r.identities[rcpt], context, data)) || ok
	}
	return ok
}

func authenticate(id identity, context string, data []byte) []byte {
	key, err := hkdf.Key(sha256.New, []byte(id.String()), nil, context, sha256.Size)
	if err != nil {
		panic("hkdf: " + err.Error()) // only for lengths that are no constant's
	}
	mac := hmac.New(sha256.New, key)
	mac.Write(data)
	return mac.Sum(nil)
}

// String names the workspace only, so that a ring that is printed by mistake
// shows no key.
func (r *Ring) String() string { return "ring of workspace " + r.workspace.String() }

// GoString is String.
func (r *Ring) GoString() string { return r.String() }
