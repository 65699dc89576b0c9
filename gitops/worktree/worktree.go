// Package worktree changes the sealed secrets of a work tree, one file or a
// folder of parts alike: set, unset, split, join, copy, edit, rotate. It also
// says why a file does not open (Diagnose) and which files are sealed to keys
// they should not be (Report).
//
// Most callers need a [Tree] and its methods. It knows no Git: what changed is
// for people to commit.
package worktree

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/getsops/sops/v3/keyservice"

	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/keyring"
)

// Tree is a work tree and what may be used to change it.
type Tree struct {
	Repo *workspace.Repository
	// Ring gives the private keys of a workspace. It fails with keyring.ErrNoRing
	// where there are none; setting a part does not need them.
	Ring func(manifest.Workspace) (*keyring.Ring, error)
	// Keys seals for recipients of a workspace that are services; nil for none. It is
	// asked only where there are such recipients.
	Keys func(manifest.Workspace) (keyservice.KeyServiceClient, error)
	Now  func() time.Time
	// AllowUnbound opens manifests without a binding, where the repository's
	// settings do not forbid it.
	AllowUnbound bool
}

// ErrNeedsKey: the change needs a private key of the workspace.
var ErrNeedsKey = errors.New("needs a private key of the workspace")

// file is one parsed file of a secret.
type file struct {
	path  string
	place manifest.Place
	m     *manifest.Manifest
}

// read parses a file of the repository and holds it to its place.
func (t *Tree) read(path string) (file, error) {
	f := file{path: path}
	data, err := t.Repo.Read(path)
	if err != nil {
		return f, err
	}
	if f.m, err = manifest.Parse(path, data); err != nil {
		return f, err
	}
	if f.place, _, err = manifest.Locate(path); err != nil {
		return f, fmt.Errorf("%s: %w", path, err)
	}
	if !f.m.Kind.IsSecret() {
		return f, fmt.Errorf("%s: is a %s, which is not sealed", path, f.m.Kind)
	}
	if err := f.m.CheckPlace(f.place); err != nil {
		return f, err
	}
	if err := f.m.SettleIn(f.place.Scope); err != nil {
		return f, err
	}
	return f, f.m.CheckSealed()
}

// readAll parses the files of a secret and holds them to each other.
func (t *Tree) readAll(s workspace.Secret) ([]file, error) {
	var files []file
	var parts []manifest.Part
	for _, path := range s.Files {
		f, err := t.read(path)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
		parts = append(parts, manifest.PartOf(f.path, f.place, f.m))
	}
	return files, manifest.CheckParts(parts)
}

// open unseals one file.
func (t *Tree) open(f file) (*unseal.Opened, error) {
	return t.openWith(f, unseal.Options{AllowUnbound: t.AllowUnbound})
}

func (t *Tree) openWith(f file, opts unseal.Options) (*unseal.Opened, error) {
	if opts.AllowUnbound {
		settings, err := t.Repo.Settings()
		if err != nil {
			return nil, err
		}
		opts.AllowUnbound = !settings.BindingRequired()
	}
	ring, err := t.Ring(f.place.Scope)
	if err != nil {
		return nil, err
	}
	return unseal.Open(f.m, ring, opts)
}

// Open unseals a secret, whatever files it has.
func (t *Tree) Open(s workspace.Secret) (*unseal.Whole, error) {
	files, err := t.readAll(s)
	if err != nil {
		return nil, err
	}
	return t.openFiles(files)
}

func (t *Tree) openFiles(files []file) (*unseal.Whole, error) {
	var opened []*unseal.Opened
	var places []manifest.Place
	for _, f := range files {
		o, err := t.open(f)
		if err != nil {
			return nil, err
		}
		opened, places = append(opened, o), append(places, f.place)
	}
	return unseal.Assemble(opened, places)
}

// seal seals a plaintext manifest for its place at path.
func (t *Tree) seal(path string, m *manifest.Manifest, part bool) ([]byte, error) {
	rules, err := t.Repo.Rules()
	if err != nil {
		return nil, err
	}
	to, err := rules.Recipients(path)
	if err != nil {
		return nil, err
	}
	place, _, err := manifest.Locate(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := m.CheckPlace(place); err != nil {
		return nil, err
	}
	if err := m.SettleIn(place.Scope); err != nil {
		return nil, err
	}
	keys, err := t.keys(place.Scope, to)
	if err != nil {
		return nil, err
	}
	return seal.Seal(m, to, seal.Options{Now: t.Now(), Keys: keys, Part: part})
}

// keys is nil where nobody needs to be asked.
func (t *Tree) keys(ws manifest.Workspace, to workspace.Recipients) (keyservice.KeyServiceClient, error) {
	if t.Keys == nil || !slices.ContainsFunc(to.All(), workspace.Recipient.Online) {
		return nil, nil
	}
	return t.Keys(ws)
}

// isKeyless reports that a file did not open for want of a key alone.
func isKeyless(err error) bool {
	return errors.Is(err, keyring.ErrNoRing) || errors.Is(err, unseal.ErrNotRecipient)
}

// Set gives a key of a secret a value. It returns the path of the file that it
// wrote, and changed false when the key was known to have that value already.
//
// In one file, the others values keep their ciphertext, and a private key is
// needed (ErrNeedsKey). In parts, the part of that key alone is written, sealed
// anew for the workspace's recipients with a fresh data key, so that nobody who
// sealed or opened the part before can open what is written now; no private key is
// needed unless that part holds other keys too.
func (t *Tree) Set(s workspace.Secret, key manifest.Key, value []byte) (path string, changed bool, err error) {
	unlock, err := t.Repo.Lock()
	if err != nil {
		return "", false, err
	}
	defer unlock()
	files, err := t.readAll(s)
	if err != nil {
		return "", false, err
	}
	if s.InParts {
		return t.setPart(s, files, key, value)
	}
	f := files[0]
	opened, err := t.open(f)
	if isKeyless(err) {
		return f.path, false, fmt.Errorf("%w\n%s is one file, so setting a value %w; a holder can keep it in parts, in which anybody can set one: sealward split %[2]s", err, s, ErrNeedsKey)
	}
	if err != nil {
		return f.path, false, err
	}
	if changed, err = opened.Envelope.Set(key, value); err != nil || !changed {
		return f.path, false, err
	}
	out, err := opened.Envelope.Reseal(t.Now())
	if err != nil {
		return f.path, false, err
	}
	return f.path, true, t.Repo.Write(f.path, out)
}

func (t *Tree) setPart(s workspace.Secret, files []file, key manifest.Key, value []byte) (path string, changed bool, err error) {
	var taken []string
	for _, f := range files {
		taken = append(taken, f.path)
		if !holds(f.m, key) {
			continue
		}
		values := []seal.Value{{Key: key, Data: value}}
		opened, err := t.open(f)
		switch {
		case err == nil:
			if values, changed = with(opened.Values, key, value); !changed {
				return f.path, false, nil
			}
		case len(f.m.Secret.Entries) > 1 && isKeyless(err):
			return f.path, false, fmt.Errorf("%w\n%s holds other keys beside %s, so setting one %w; a holder can give each its own part: sealward split %s", err, f.path, key, ErrNeedsKey, s)
		case len(f.m.Secret.Entries) > 1:
			return f.path, false, err
		}
		// Alone in its part, a value can be replaced whatever was there before.
		return f.path, true, t.writePart(f.path, f.m, values, true)
	}
	path = s.PartPath(key, files[0].m.Ext(), taken)
	return path, true, t.writePart(path, files[0].m, []seal.Value{{Key: key, Data: value}}, false)
}

func (t *Tree) writePart(path string, header *manifest.Manifest, values []seal.Value, comments bool) error {
	m, err := seal.WithValues(header, values, comments)
	if err != nil {
		return err
	}
	out, err := t.seal(path, m, true)
	if err != nil {
		return err
	}
	return t.Repo.Write(path, out)
}

func holds(m *manifest.Manifest, key manifest.Key) bool {
	for _, e := range m.Secret.Entries {
		if e.Key == key {
			return true
		}
	}
	return false
}

// with is values with one of them changed.
func with(values []seal.Value, key manifest.Key, data []byte) (out []seal.Value, changed bool) {
	for _, v := range values {
		if v.Key == key {
			changed = string(v.Data) != string(data)
			v = seal.Value{Key: key, Data: data}
		}
		out = append(out, v)
	}
	return out, changed
}

// Unset removes a key from a secret, and a part with it when it was its only key;
// that needs no private key. The last key of a secret cannot be removed.
func (t *Tree) Unset(s workspace.Secret, key manifest.Key) (path string, err error) {
	unlock, err := t.Repo.Lock()
	if err != nil {
		return "", err
	}
	defer unlock()
	files, err := t.readAll(s)
	if err != nil {
		return "", err
	}
	var have []string
	for _, f := range files {
		for _, e := range f.m.Secret.Entries {
			have = append(have, e.Key.String())
		}
		if !holds(f.m, key) {
			continue
		}
		if len(f.m.Secret.Entries) == 1 {
			if len(files) == 1 {
				return f.path, fmt.Errorf("%s: %s is its only key; remove the secret instead: git rm %[1]s", f.path, key)
			}
			return f.path, t.Repo.Remove(f.path)
		}
		opened, err := t.open(f)
		if err != nil {
			return f.path, err
		}
		if s.InParts {
			var left []seal.Value
			for _, v := range opened.Values {
				if v.Key != key {
					left = append(left, v)
				}
			}
			return f.path, t.writePart(f.path, f.m, left, true)
		}
		if err := opened.Envelope.Unset(key); err != nil {
			return f.path, err
		}
		out, err := opened.Envelope.Reseal(t.Now())
		if err != nil {
			return f.path, err
		}
		return f.path, t.Repo.Write(f.path, out)
	}
	return "", fmt.Errorf("%s: %w: %s; it has %s", s, seal.ErrNoKey, key, strings.Join(have, ", "))
}
