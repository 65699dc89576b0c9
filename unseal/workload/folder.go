package workload

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/client"
)

// StatusFile tells of each secret whether its files are there, and how old they are; it holds no value.
const StatusFile = ".status.json"

// EnvFile holds the values of all entries that are taken as envVars.
const EnvFile = ".env"

// Status is the content of the StatusFile.
type Status struct {
	Written time.Time      `json:"written"`
	Secrets []SecretStatus `json:"secrets"`
}

// SecretStatus is one secret's. State is current; stale: no agent confirmed the
// value since Since, or the agent itself serves an older one since then; or dropped: there
// is no value, for Reason.
type SecretStatus struct {
	Workspace  string     `json:"workspace"`
	Name       string     `json:"name"`
	As         string     `json:"as"`
	State      string     `json:"state"`
	Reason     string     `json:"reason,omitempty"`
	Since      *time.Time `json:"since,omitempty"`
	Generation string     `json:"generation,omitempty"`
}

// Files makes the files of a workload, by slash-separated name: .env, NAME.properties,
// NAME/KEY and the StatusFile. entries belong to uses, one each; what has no value gets no file.
// Two secrets of one name, and what a form cannot hold, are errors, and so is a variable
// that steers programs (Env) unless its key is named.
func Files(uses []Use, entries []client.Entry, now time.Time) (map[string][]byte, error) {
	out := map[string][]byte{}
	owner := map[string]string{}
	put := func(name, of string, data []byte) error {
		// Some file systems do not tell case.
		if other, twice := owner[strings.ToLower(name)]; twice {
			return fmt.Errorf("%s and %s would both be the file %s; render them into two folders", other, of, name)
		}
		owner[strings.ToLower(name)] = of
		out[name] = data
		return nil
	}
	status := Status{Written: now.UTC().Truncate(time.Second)}
	var env []unseal.Value
	of := map[string]string{}
	for i, u := range uses {
		e := entries[i]
		status.Secrets = append(status.Secrets, statusOf(u, e))
		if !e.Ok() {
			continue
		}
		values := e.Secret.Values()
		for _, v := range values {
			// An agent gives no other; what it gives becomes the name of a file.
			if _, err := manifest.ParseKey(v.Key); err != nil {
				return nil, fmt.Errorf("%s: the agent gave a key that is none", u.Item)
			}
		}
		switch u.As {
		case EnvVars:
			for _, v := range values {
				name := unseal.EnvName(v.Key)
				if other, twice := of[name]; twice {
					return nil, fmt.Errorf("%s and %s/%s would both be the variable %s", other, u.Item, v.Key, name)
				}
				if len(u.Keys) == 0 && steers(name) {
					return nil, fmt.Errorf("%s/%s would set %s, which steers programs; name the keys that are meant (keys: [...])", u.Item, v.Key, name)
				}
				of[name] = u.Item.String() + "/" + v.Key
			}
			env = append(env, values...)
		case PropFile:
			text, err := unseal.PropertiesFile(values)
			if err == nil {
				err = put(u.Name.String()+".properties", u.Item.String(), text)
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", u.Item, err)
			}
		case File:
			for _, v := range values {
				if err := put(u.Name.String()+"/"+v.Key, u.Item.String()+"/"+v.Key, v.Data); err != nil {
					return nil, err
				}
			}
		}
	}
	if env != nil {
		text, err := unseal.EnvFile(env)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", EnvFile, err)
		}
		out[EnvFile] = text
	}
	text, err := json.MarshalIndent(status, "", "  ")
	if err != nil {
		return nil, err
	}
	out[StatusFile] = append(text, '\n')
	return out, nil
}

func statusOf(u Use, e client.Entry) SecretStatus {
	s := SecretStatus{Workspace: u.Workspace.String(), Name: u.Name.String(), As: string(u.As), State: "current", Generation: e.Secret.Generation}
	switch {
	case !e.Ok():
		s.State, s.Reason = "dropped", reason(e.Err)
	case !e.Unconfirmed.IsZero():
		since := e.Unconfirmed.UTC().Truncate(time.Second)
		s.State, s.Reason, s.Since = "stale", reason(e.Why), &since
	case e.Secret.StaleSince != nil:
		s.State, s.Reason, s.Since = "stale", "the agent serves the last good value of a file that broke", e.Secret.StaleSince
	}
	return s
}

// reason is a word, not an error's text, which may come from anywhere.
func reason(err error) string {
	for _, known := range []error{client.ErrDenied, client.ErrNotFound, client.ErrUnauthenticated, client.ErrRefused, client.ErrStale, client.ErrBehind} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	return "the agent cannot be asked"
}

// Folder is where the files of one workload stand. Readers see all files of one
// state or of another: each state is a folder of its own, ..data is a link to the
// present one, and every name is a link through ..data (as Kubernetes does it). Whoever
// reads several files that belong together opens ..data once.
type Folder struct{ dir string }

const (
	link    = "..data"
	version = "..v-"
	// settling is how long a state that was replaced stays.
	settling = 50 * time.Millisecond
)

// ErrForeign: the folder holds something that was not rendered.
var ErrForeign = errors.New("holds other files; choose a folder of its own")

// OpenFolder makes the folder (0700) where it is missing. Refused: one of somebody else,
// one that others may write, and one that holds anything else than what Write leaves.
func OpenFolder(dir string) (*Folder, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	if err := onlyOurs(info); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		target := ""
		if e.Type() == fs.ModeSymlink {
			target, _ = os.Readlink(filepath.Join(dir, e.Name()))
		}
		ours := strings.HasPrefix(e.Name(), version) && e.IsDir() ||
			strings.HasPrefix(e.Name(), link) && strings.HasPrefix(target, version) ||
			target == link+"/"+e.Name()
		if !ours {
			return nil, fmt.Errorf("%s: %w (%.60q)", dir, ErrForeign, e.Name())
		}
	}
	return &Folder{dir: dir}, nil
}

// Write replaces all files by these (0400, in folders of 0500) in one rename. A name is
// FILE or FOLDER/FILE. After an error the files are as before.
func (f *Folder) Write(files map[string][]byte) (err error) {
	root, err := os.OpenRoot(f.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	next := version + strings.ToLower(rand.Text())
	if err := root.Mkdir(next, 0o700); err != nil {
		return err
	}
	swapped := false
	defer func() {
		if !swapped {
			err = errors.Join(err, remove(root, next))
		}
	}()
	names, folders := map[string]bool{}, map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		folder, file := path.Split(name)
		folder = strings.TrimSuffix(folder, "/")
		if strings.HasPrefix(name, "..") || strings.Contains(folder, "/") || file == "" || !filepath.IsLocal(name) {
			return errors.New("a name is no name of a file here")
		}
		if folder != "" && !folders[folder] {
			if err := root.Mkdir(path.Join(next, folder), 0o700); err != nil {
				return err
			}
			folders[folder] = true
		}
		top, _, _ := strings.Cut(name, "/")
		names[top] = true
		if err := writeFile(root, path.Join(next, name), files[name]); err != nil {
			return err
		}
	}
	for folder := range folders {
		if err := root.Chmod(path.Join(next, folder), 0o500); err != nil {
			return err
		}
	}
	if err := root.Chmod(next, 0o500); err != nil {
		return err
	}
	old, _ := root.Readlink(link)
	if err := root.Remove(link + "-new"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := root.Symlink(next, link+"-new"); err != nil {
		return err
	}
	if err := root.Rename(link+"-new", link); err != nil {
		return err
	}
	swapped = true
	for name := range names {
		if err := root.Symlink(link+"/"+name, name); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	// Whoever resolved ..data a moment ago still finds what it led to.
	if len(old) > 0 {
		time.Sleep(settling)
	}
	return f.clear(root, next, names)
}

func writeFile(root *os.Root, name string, data []byte) error {
	file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	return errors.Join(err, file.Sync(), file.Close())
}

// clear removes what belongs to no present file: earlier states, and what a write that was
// cut off left.
func (f *Folder) clear(root *os.Root, keep string, names map[string]bool) error {
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if e.Name() != keep && e.Name() != link && !names[e.Name()] {
			errs = append(errs, remove(root, e.Name()))
		}
	}
	return errors.Join(errs...)
}

// remove takes away a state, whose folders nobody may write, or a link.
func remove(root *os.Root, name string) error {
	if info, err := root.Lstat(name); err != nil || !info.IsDir() {
		return root.Remove(name)
	}
	err := fs.WalkDir(root.FS(), name, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			return root.Chmod(p, 0o700)
		}
		return err
	})
	return errors.Join(err, root.RemoveAll(name))
}
