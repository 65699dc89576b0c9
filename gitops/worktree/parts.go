package worktree

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal"
)

// New is a secret to be made: a plaintext manifest, its values, and whether each
// key gets a part of its own.
type New struct {
	Manifest *manifest.Manifest
	Values   []seal.Value
	InParts  bool
}

// Create writes new secrets, all of a workspace at once, and returns their paths.
// Everything is sealed before the first is written, and a secret that is there
// already is not touched.
func (t *Tree) Create(secrets ...New) ([]string, error) {
	unlock, err := t.Repo.Lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	var paths []string
	changes := map[manifest.Workspace]map[string][]byte{}
	seen := map[string]bool{}
	for _, n := range secrets {
		s := workspace.Secret{Workspace: n.Manifest.Workspace, Name: n.Manifest.Name}
		if have, err := t.Repo.FindSecret(s.Workspace, s.Name); err == nil {
			return nil, fmt.Errorf("%s exists; change it with sealward set %s KEY", have.Files[0], s)
		}
		if err := t.Repo.Absent(pathOf(s, n.Manifest)); err != nil {
			return nil, err
		}
		if seen[s.String()] {
			return nil, fmt.Errorf("%s would be made twice", s)
		}
		seen[s.String()] = true
		made, err := t.sealNew(s, n)
		if err != nil {
			return nil, err
		}
		if changes[s.Workspace] == nil {
			changes[s.Workspace] = map[string][]byte{}
		}
		for path, data := range made {
			changes[s.Workspace][path] = data
			paths = append(paths, path)
		}
	}
	for ws, files := range changes {
		if err := t.write(ws, files); err != nil {
			return nil, err
		}
	}
	slices.Sort(paths)
	return paths, nil
}

func (t *Tree) sealNew(s workspace.Secret, n New) (map[string][]byte, error) {
	if n.InParts {
		return t.sealParts(s, n.Manifest, n.Values)
	}
	path := pathOf(s, n.Manifest)
	out, err := t.seal(path, n.Manifest, false)
	return map[string][]byte{path: out}, err
}

// write puts files of one workspace in place, all at once.
func (t *Tree) write(ws manifest.Workspace, files map[string][]byte) error {
	if len(files) == 1 {
		for path, data := range files {
			if data != nil {
				return t.Repo.Write(path, data)
			}
			return t.Repo.Remove(path)
		}
	}
	return t.Repo.Replace(ws.Folder()+"/secrets", files, nil)
}

// pathOf is the path of a secret that is one file, in the notation of m.
func pathOf(s workspace.Secret, m *manifest.Manifest) string {
	return strings.TrimSuffix(manifest.SecretPath(s.Workspace, s.Name), ".yaml") + m.Ext()
}

// Split turns a secret into a folder of parts, one key each, every part with a
// data key of its own. It needs the private key.
func (t *Tree) Split(s workspace.Secret) ([]string, error) {
	unlock, err := t.Repo.Lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	files, err := t.readAll(s)
	if err != nil {
		return nil, err
	}
	whole, err := t.openFiles(files)
	if err != nil {
		return nil, err
	}
	if s.InParts && len(files) == len(whole.Values) {
		return nil, fmt.Errorf("%s is kept in parts of one key each already", s)
	}
	changes, err := t.sealParts(s, whole.Manifest, whole.Values)
	if err != nil {
		return nil, err
	}
	paths := slices.Sorted(maps.Keys(changes))
	for _, path := range s.Files {
		if _, stays := changes[path]; !stays {
			changes[path] = nil
		}
	}
	return paths, t.write(s.Workspace, changes)
}

// sealParts seals one part a value.
func (t *Tree) sealParts(s workspace.Secret, header *manifest.Manifest, values []seal.Value) (map[string][]byte, error) {
	if err := seal.CheckType(header, values); err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	var paths []string
	for i, v := range values {
		// Comments stay where people look first.
		m, err := seal.WithValues(header, []seal.Value{v}, i == 0)
		if err != nil {
			return nil, err
		}
		path := s.PartPath(v.Key, m.Ext(), paths)
		m.File = path
		if out[path], err = t.seal(path, m, true); err != nil {
			return nil, err
		}
		paths = append(paths, path)
	}
	return out, nil
}

// Join turns a folder of parts into one file, stating what its first part states.
// It needs the private key.
func (t *Tree) Join(s workspace.Secret) (string, error) {
	unlock, err := t.Repo.Lock()
	if err != nil {
		return "", err
	}
	defer unlock()
	if !s.InParts {
		return "", fmt.Errorf("%s is one file already", s)
	}
	whole, err := t.Open(s)
	if err != nil {
		return "", err
	}
	path := pathOf(s, whole.Manifest)
	m, err := seal.WithValues(whole.Manifest, whole.Values, true)
	if err != nil {
		return path, err
	}
	m.File = path
	out, err := t.seal(path, m, false)
	if err != nil {
		return path, err
	}
	changes := map[string][]byte{path: out}
	for _, old := range s.Files {
		changes[old] = nil
	}
	return path, t.write(s.Workspace, changes)
}

// Copy writes a secret under another name or into another workspace, sealed for
// that workspace, as one file or in parts as it was. It needs the rings of both:
// whoever puts a value somewhere must be able to see what became of it.
func (t *Tree) Copy(from workspace.Secret, ws manifest.Workspace, name manifest.Name) ([]string, error) {
	if err := t.canOpen(ws, name); err != nil {
		return nil, err
	}
	whole, err := t.Open(from)
	if err != nil {
		return nil, err
	}
	m, err := seal.WithValues(whole.Manifest, whole.Values, true)
	if err != nil {
		return nil, err
	}
	if m, err = seal.Rename(m, ws, name); err != nil {
		return nil, err
	}
	return t.Create(New{m, whole.Values, from.InParts})
}

// canOpen proves that the keyring opens what is sealed for a new secret.
func (t *Tree) canOpen(ws manifest.Workspace, name manifest.Name) error {
	rules, err := t.Repo.Rules()
	if err != nil {
		return err
	}
	to, err := rules.Recipients(manifest.SecretPath(ws, name))
	if err != nil {
		return err
	}
	ring, err := t.Ring(ws)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(ring.Recipients(), to.Contains) {
		return fmt.Errorf("%w: %s seals workspace %s for other keys than the keyring has, so the copy could not be checked", unseal.ErrNotRecipient, workspace.RulesFile, ws)
	}
	return nil
}

// Edit puts an edited plaintext manifest in the place of a secret. In one file,
// values that stay keep their ciphertext. In parts, only the parts whose values
// changed are written; when other fields changed, all are. before is the plaintext
// that was edited (unseal.Whole.Plaintext): a secret that is another by now stays
// as it is.
func (t *Tree) Edit(s workspace.Secret, before []byte, edited *manifest.Manifest) ([]string, error) {
	unlock, err := t.Repo.Lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if s, err = t.Repo.FindSecret(s.Workspace, s.Name); err != nil {
		return nil, err
	}
	whole, err := t.Open(s)
	if err != nil {
		return nil, err
	}
	now, err := whole.Plaintext()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(now, before) {
		return nil, fmt.Errorf("%s was changed by somebody else meanwhile; edit what it is now", s)
	}
	if !s.InParts {
		opened := whole.Files[0]
		if err := opened.Envelope.Replace(edited, seal.Options{Now: t.Now()}); err != nil {
			return nil, err
		}
		out, err := opened.Envelope.Reseal(t.Now())
		if err != nil {
			return nil, err
		}
		return s.Files, t.Repo.Write(s.Files[0], out)
	}
	return t.editParts(s, whole, edited)
}

func (t *Tree) editParts(s workspace.Secret, whole *unseal.Whole, edited *manifest.Manifest) ([]string, error) {
	if edited.Kind != whole.Manifest.Kind || edited.Name != s.Name || edited.Workspace != s.Workspace {
		return nil, fmt.Errorf("%s: type, name and workspace say which secret this is and cannot be edited; use sealward copy", edited.File)
	}
	values, err := seal.PlainValues(edited)
	if err != nil {
		return nil, err
	}
	if err := seal.CheckType(edited, values); err != nil {
		return nil, err
	}
	left := map[manifest.Key]seal.Value{}
	for _, v := range values {
		left[v.Key] = v
	}
	all, err := headerChanged(whole.Manifest, edited)
	if err != nil {
		return nil, err
	}
	changes := map[string][]byte{}
	write := func(path string, values []seal.Value, first bool) error {
		m, err := seal.WithValues(edited, values, first)
		if err != nil {
			return err
		}
		m.File = path
		changes[path], err = t.seal(path, m, true)
		return err
	}
	var taken []string
	for i, f := range whole.Files {
		path := f.Manifest.File
		taken = append(taken, path)
		var now []seal.Value
		changed := all
		for _, old := range f.Values {
			v, stays := left[old.Key]
			if stays {
				now = append(now, v)
				delete(left, old.Key)
			}
			changed = changed || !stays || !bytes.Equal(v.Data, old.Data)
		}
		switch {
		case len(now) == 0:
			changes[path] = nil
		case changed:
			err = write(path, now, i == 0)
		}
		if err != nil {
			return nil, err
		}
	}
	for _, v := range values { // what is left is new
		if _, added := left[v.Key]; !added {
			continue
		}
		path := s.PartPath(v.Key, edited.Ext(), taken)
		taken = append(taken, path)
		if err := write(path, []seal.Value{v}, false); err != nil {
			return nil, err
		}
	}
	if len(changes) == 0 {
		return nil, nil
	}
	return slices.Sorted(maps.Keys(changes)), t.write(s.Workspace, changes)
}

// headerChanged reports that two manifests differ in something else than values.
func headerChanged(a, b *manifest.Manifest) (bool, error) {
	one, err := seal.Plaintext(a, nil, false)
	if err != nil {
		return false, err
	}
	two, err := seal.Plaintext(b, nil, false)
	return !bytes.Equal(one, two), err
}
