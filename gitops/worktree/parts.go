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

// Create writes a new secret from a plaintext manifest and its values: one file,
// or a part for each key. It returns the paths. A secret that is there already is
// not touched.
func (t *Tree) Create(m *manifest.Manifest, values []seal.Value, inParts bool) ([]string, error) {
	s := workspace.Secret{Workspace: m.Workspace, Name: m.Name}
	if have, err := t.Repo.FindSecret(s.Workspace, s.Name); err == nil {
		return nil, fmt.Errorf("%s exists; change it with sealward set %s KEY", have.Files[0], s)
	}
	path := pathOf(s, m)
	if err := t.Repo.Absent(path); err != nil {
		return nil, err
	}
	if inParts {
		return t.writeParts(s, m, values, nil)
	}
	out, err := t.seal(path, m, false)
	if err != nil {
		return nil, err
	}
	return []string{path}, t.Repo.Write(path, out)
}

// pathOf is the path of a secret that is one file, in the notation of m.
func pathOf(s workspace.Secret, m *manifest.Manifest) string {
	return strings.TrimSuffix(manifest.SecretPath(s.Workspace, s.Name), ".yaml") + m.Ext()
}

// Split turns a secret into a folder of parts, one key each, every part with a
// data key of its own. It needs the private key.
func (t *Tree) Split(s workspace.Secret) ([]string, error) {
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
	return t.writeParts(s, whole.Manifest, whole.Values, s.Files)
}

// writeParts seals one part a value and replaces old files by them, all at once.
func (t *Tree) writeParts(s workspace.Secret, header *manifest.Manifest, values []seal.Value, old []string) ([]string, error) {
	if err := seal.CheckType(header, values); err != nil {
		return nil, err
	}
	changes := map[string][]byte{}
	for _, path := range old {
		changes[path] = nil
	}
	var paths []string
	for i, v := range values {
		// Comments stay where people look first.
		m, err := seal.WithValues(header, []seal.Value{v}, i == 0)
		if err != nil {
			return nil, err
		}
		path := s.PartPath(v.Key, m.Ext(), paths)
		m.File = path
		if changes[path], err = t.seal(path, m, true); err != nil {
			return nil, err
		}
		paths = append(paths, path)
	}
	return paths, t.Repo.Replace(s.Workspace.Folder()+"/secrets", changes)
}

// Join turns a folder of parts into one file, stating what its first part states.
// It needs the private key.
func (t *Tree) Join(s workspace.Secret) (string, error) {
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
	return path, t.Repo.Replace(s.Workspace.Folder()+"/secrets", changes)
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
	return t.Create(m, whole.Values, from.InParts)
}

// canOpen proves that the keyring opens what is sealed for a new secret.
func (t *Tree) canOpen(ws manifest.Workspace, name manifest.Name) error {
	ring, err := t.Ring(ws)
	if err != nil {
		return err
	}
	rules, err := t.Repo.Rules()
	if err != nil {
		return err
	}
	to, err := rules.Recipients(manifest.SecretPath(ws, name))
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
// changed are written; when other fields changed, all are.
func (t *Tree) Edit(s workspace.Secret, edited *manifest.Manifest) ([]string, error) {
	files, err := t.readAll(s)
	if err != nil {
		return nil, err
	}
	if !s.InParts {
		opened, err := t.open(files[0])
		if err != nil {
			return nil, err
		}
		if err := opened.Envelope.Replace(edited, seal.Options{Now: t.Now()}); err != nil {
			return nil, err
		}
		out, err := opened.Envelope.Reseal(t.Now())
		if err != nil {
			return nil, err
		}
		return s.Files, t.Repo.Write(files[0].path, out)
	}
	whole, err := t.openFiles(files)
	if err != nil {
		return nil, err
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
	return slices.Sorted(maps.Keys(changes)), t.Repo.Replace(s.Workspace.Folder()+"/secrets", changes)
}

// headerChanged reports that two manifests differ in something else than values.
func headerChanged(a, b *manifest.Manifest) (bool, error) {
	key, err := manifest.ParseKey("any")
	if err != nil {
		return false, err
	}
	var text [2][]byte
	for i, m := range []*manifest.Manifest{a, b} {
		bare, err := seal.WithValues(m, []seal.Value{{Key: key}}, true)
		if err != nil {
			return false, err
		}
		if text[i], err = seal.Print(bare); err != nil {
			return false, err
		}
	}
	return !bytes.Equal(text[0], text[1]), nil
}
