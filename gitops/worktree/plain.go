package worktree

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
)

// Plain is a plaintext manifest as a person wrote it, and what decides for whom it
// is sealed.
type Plain struct {
	Manifest *manifest.Manifest
	// Path of the repository at which it stands; "" when it stands elsewhere, and is sealed
	// as if it stood where its workspace and name say.
	Path string
	// Workspace that a person named; zero goes by the place, then by the manifest.
	Workspace manifest.Workspace
	// Rules are the work tree's when nil.
	Rules *workspace.Rules
	// ReadFile reads what files: names; see FilesBelow. Nil refuses them.
	ReadFile func(path string) ([]byte, error)
}

// ErrNoWorkspace: neither manifest nor place say whose secret it is.
var ErrNoWorkspace = errors.New("states no namespace and stands in no workspace's folder")

// Seal returns the sealed form of a plaintext manifest, and for whom it is sealed.
// It writes nothing. The manifest must not be used afterwards.
func (t *Tree) Seal(p Plain) ([]byte, workspace.Recipients, error) {
	var none workspace.Recipients
	m := p.Manifest
	if !m.Kind.IsSecret() {
		return nil, none, fmt.Errorf("%s: is a %s, which holds no value to seal; commit it as it is", m.File, m.Kind)
	}
	place, ours, err := manifest.Locate(p.Path)
	if err != nil && p.Path != "" {
		return nil, none, fmt.Errorf("%s: %w", p.Path, err)
	}
	ws, target := m.Workspace, p.Path
	switch {
	case !p.Workspace.IsZero():
		ws = p.Workspace
	case ours:
		ws = place.Scope
	}
	if ws.IsZero() {
		return nil, none, fmt.Errorf("%s: %w", m.File, ErrNoWorkspace)
	}
	if err := seal.PlaceIn(m, ws); err != nil {
		return nil, none, err
	}
	if ours {
		if err := m.CheckPlace(place); err != nil {
			return nil, none, err
		}
	} else {
		target = manifest.SecretPath(ws, m.Name)
	}
	if p.Rules == nil {
		if p.Rules, err = t.Repo.Rules(); err != nil {
			return nil, none, err
		}
	}
	to, err := p.Rules.Recipients(target)
	if err != nil {
		return nil, none, err
	}
	keys, err := t.keys(ws, to)
	if err != nil {
		return nil, none, err
	}
	out, err := seal.Seal(m, to, seal.Options{Now: t.Now(), Keys: keys, Part: place.Part != "", ReadFile: p.ReadFile})
	return out, to, err
}

// FilesBelow reads what a manifest's files: names, which must lie below the
// manifest's folder.
func FilesBelow(root *os.Root) func(path string) ([]byte, error) {
	return func(path string) ([]byte, error) {
		return readPlain(root.Stat, root.Open, filepath.Clean(path), "; it must lie below the manifest's folder (or see sealward seal --allow-files-outside)")
	}
}

// FilesAnywhere reads what a manifest's files: names, relative to dir.
func FilesAnywhere(dir string) func(path string) ([]byte, error) {
	return func(path string) ([]byte, error) {
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		return readPlain(os.Stat, os.Open, path, "")
	}
}

// readPlain reads a whole file, but no device, and no pipe, whose opening might
// never end.
func readPlain(stat func(string) (os.FileInfo, error), open func(string) (*os.File, error), path, hint string) ([]byte, error) {
	info, err := stat(path)
	if err != nil {
		return nil, fmt.Errorf("the file it names cannot be read (%w)%s", withoutPath(err), hint)
	}
	if !info.Mode().IsRegular() || info.Size() > manifest.MaxSize {
		return nil, errors.New("the file it names is not a plain file of at most 2 MiB")
	}
	f, err := open(path)
	if err != nil {
		return nil, fmt.Errorf("the file it names cannot be read (%w)", withoutPath(err))
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, manifest.MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("the file it names cannot be read (%w)", withoutPath(err))
	}
	return data, nil
}

// withoutPath is what is wrong with a file, without its name, which may be a value
// in the wrong place.
func withoutPath(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}
