// Package keyring holds private keys: a folder with one file of identities a
// workspace, and a keyring.yaml that lists the keys outside it, if there are any.
// What opens a workspace's manifests comes from that workspace's file and list
// alone: never from the environment, the home folder, an agent socket, a plugin
// program or another workspace's file.
//
// Most callers need [Open] and [Keyring.Ring]; [Keyring.Create] makes the first
// identity of a workspace. What keyring.yaml lists is only described here; the
// asking is in unseal.
package keyring

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/sealward/sealward/seal/manifest"
)

const (
	suffix  = ".agekey"
	maxFile = 1 << 20
)

// Errors that callers tell apart.
var (
	// ErrNoRing: the keyring has nothing for the workspace.
	ErrNoRing = errors.New("no key in the keyring")
	// ErrExists: Create would replace an identity.
	ErrExists = errors.New("the keyring has an identity already")
	// ErrNoIdentity: the ring has services only, and something needs a private key.
	ErrNoIdentity = errors.New("has no identity of its own")
	// ErrProtected: a file was not unlocked, for want of the right passphrase.
	ErrProtected = errors.New("is protected by a passphrase")
	// ErrCannotAsk is for an Ask that has nobody to ask.
	ErrCannotAsk = errors.New("nobody can be asked")
)

// Ask gets the passphrase of a file from a person. It is called at most once for
// the same content while rings are read.
type Ask func(path string) ([]byte, error)

// Option of Open.
type Option func(*Keyring)

// WithPassphrase has protected files unlocked with what ask returns, where
// keyring.yaml names no passphraseFile.
func WithPassphrase(ask Ask) Option { return func(k *Keyring) { k.ask = ask } }

// WithWork has files that are written with a passphrase cost 2^work to guess one;
// without it they cost what age -p makes them cost. It is for tests.
func WithWork(work int) Option { return func(k *Keyring) { k.work = work } }

// Keyring is a folder of identity files. It is safe for concurrent use.
type Keyring struct {
	dir  string
	ask  Ask
	work int

	mu    sync.Mutex
	locks map[manifest.Workspace]unlocked
}

// Open names the folder. It need not exist: it then holds no ring.
func Open(dir string, opts ...Option) (*Keyring, error) {
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
	k := &Keyring{dir: abs, locks: map[manifest.Workspace]unlocked{}}
	for _, o := range opts {
		o(k)
	}
	return k, nil
}

// Dir is the absolute path of the folder.
func (k *Keyring) Dir() string { return k.dir }

// Path of the identity file of a workspace.
func (k *Keyring) Path(ws manifest.Workspace) string {
	return filepath.Join(k.dir, ws.String()+suffix)
}

// Sources lists the files that the ring of a workspace is made of, be they there
// or not. When one changes, the ring may have.
func (k *Keyring) Sources(ws manifest.Workspace) []string {
	out := []string{k.Path(ws), filepath.Join(k.dir, SettingsFile)}
	if s, err := k.readSettings(); err == nil && s.Workspaces[ws.String()].PassphraseFile != "" {
		out = append(out, k.path(s.Workspaces[ws.String()].PassphraseFile))
	}
	return out
}

// Workspaces lists the workspaces that have a file or an entry in keyring.yaml,
// sorted, the instance among them.
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
	s, err := k.readSettings()
	if err != nil {
		return nil, err
	}
	for name, listed := range s.Workspaces {
		ws, err := manifest.ParseScope(name)
		if err != nil {
			return nil, err
		}
		services, err := k.services(ws, listed)
		if err != nil {
			return nil, err
		}
		if len(services.list) > 0 && !slices.Contains(out, ws) {
			out = append(out, ws)
		}
	}
	slices.SortFunc(out, func(a, b manifest.Workspace) int { return strings.Compare(a.String(), b.String()) })
	return out, nil
}

// Ring reads the identities of one workspace, the active one first, retired ones
// after it, and what keyring.yaml lists for it. The error is ErrNoRing when there
// is neither.
func (k *Keyring) Ring(ws manifest.Workspace) (*Ring, error) {
	settings, err := k.readSettings()
	if err != nil {
		return nil, err
	}
	services, err := k.services(ws, settings.Workspaces[ws.String()])
	if err != nil {
		return nil, err
	}
	path := k.Path(ws)
	data, err := readBounded(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && len(services.list) > 0:
		return newRing(ws, services, nil), nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w for workspace %s (%s); ask a holder for it, or name another folder with --keyring", ErrNoRing, ws, path)
	case err != nil:
		return nil, fmt.Errorf("keyring: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	l := &lock{k: k, path: path, passphraseFile: k.path(settings.Workspaces[ws.String()].PassphraseFile), before: k.locks[ws], now: unlocked{}}
	identities, err := parseFile(data, l)
	k.locks[ws] = l.now
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return newRing(ws, services, identities), nil
}

func readBounded(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("%s is not a plain file of at most %d bytes", path, maxFile)
	}
	return os.ReadFile(path)
}
