package workspace

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/sealward/sealward/seal/manifest"
)

// Repository is a folder with a .sops.yaml: a sealed repository's work tree.
type Repository struct{ dir string }

// ErrNoRepository: there is no sealed repository around a folder.
var ErrNoRepository = errors.New("no sealed repository")

// FindRepository looks for .sops.yaml in dir and the folders above it.
func FindRepository(dir string) (*Repository, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(abs); err != nil {
		return nil, fmt.Errorf("repository: %w", err)
	}
	for at := abs; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, RulesFile)); err == nil {
			r := &Repository{dir: at}
			// Only there after a kill: a folder that Replace did not finish with.
			left, _ := filepath.Glob(filepath.Join(at, "workspaces", "*", stagingPrefix+"*"))
			more, _ := filepath.Glob(filepath.Join(at, "instance", stagingPrefix+"*"))
			for _, staging := range append(left, more...) {
				if folder, ok := r.Rel(filepath.Dir(staging)); ok {
					r.removeStaging(folder)
				}
			}
			return r, nil
		}
		if at == filepath.Dir(at) {
			return nil, fmt.Errorf("%w: neither %s nor a folder above it has a %s; make one with sealward init, or name it with --repo", ErrNoRepository, abs, RulesFile)
		}
	}
}

// The files that InitRepository writes, beside .sops.yaml.
const (
	emptyRules = `# Who each workspace's secrets are sealed for. The first rule whose path_regex
# matches a file decides, for sealward and for sops alike.
# sealward workspace create NAME adds a rule.
creation_rules: []
`
	attributes = `workspaces/*/secrets/** diff=sealward merge=sealward
instance/secrets/** diff=sealward merge=sealward
`
	usersReadme = `# Secrets, sealed

The values in this repository are encrypted. A change to a secret is a pull
request like any other; nobody needs a private key to review it.

| where | what |
| --- | --- |
| ` + "`workspaces/<workspace>/secrets/`" + ` | the secrets of one workspace |
| ` + "`workspaces/<workspace>/grants/`" + ` | who may read them: grants and roles |
| ` + "`instance/`" + ` | secrets and grants of the whole instance |
| ` + "`.sops.yaml`" + ` | for whom each workspace is sealed |

Add a secret (the value comes from standard input, never from the command line):

    sealward create secret NAME -w WORKSPACE --type key-value --acl r --from-file KEY=-

Change one value, then commit and open a pull request:

    sealward set WORKSPACE/NAME KEY

Never commit a value in the clear. If it happened, treat it as leaked: change it
at its source first.
`
)

// InitRepository makes dir a sealed repository and lists the files it wrote.
// What is there already stays as it is.
func InitRepository(dir string) (*Repository, []string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, nil, err
	}
	if err := os.MkdirAll(abs, 0o777); err != nil {
		return nil, nil, err
	}
	r := &Repository{dir: abs}
	var wrote []string
	for _, f := range []struct{ name, content string }{
		{RulesFile, emptyRules},
		{".gitattributes", attributes},
		{"README.md", usersReadme},
		{"workspaces/.gitkeep", ""},
		{"instance/secrets/.gitkeep", ""},
		{"instance/grants/.gitkeep", ""},
	} {
		if _, err := os.Lstat(filepath.Join(abs, f.name)); err == nil {
			continue
		}
		if err := r.Write(f.name, []byte(f.content)); err != nil {
			return nil, wrote, err
		}
		wrote = append(wrote, f.name)
	}
	return r, wrote, nil
}

// Dir is the absolute path of the folder.
func (r *Repository) Dir() string { return r.dir }

// Rel makes a file's path relative to the repository, with slashes; ok is false
// for a file outside it.
func (r *Repository) Rel(file string) (rel string, ok bool) {
	abs, err := filepath.Abs(file)
	if err != nil {
		return "", false
	}
	rel, err = filepath.Rel(r.dir, abs)
	if err != nil || !filepath.IsLocal(rel) {
		return "", false
	}
	return filepath.ToSlash(rel), true
}

// Contains reports that dir is the repository or inside it, also through
// symbolic links. dir need not exist.
func (r *Repository) Contains(dir string) bool {
	repo := resolve(r.dir)
	at := resolve(dir)
	rel, err := filepath.Rel(repo, at)
	return err == nil && filepath.IsLocal(rel)
}

// InGit reports that dir is in a Git work tree, also through symbolic links. dir
// need not exist.
func InGit(dir string) bool {
	for at := resolve(dir); ; at = filepath.Dir(at) {
		if _, err := os.Lstat(filepath.Join(at, ".git")); err == nil {
			return true
		}
		if at == filepath.Dir(at) {
			return false
		}
	}
}

// resolve follows the symbolic links of the part of a path that exists.
func resolve(p string) string {
	p, err := filepath.Abs(p)
	if err != nil {
		return p
	}
	rest := ""
	for at := p; ; at = filepath.Dir(at) {
		if real, err := filepath.EvalSymlinks(at); err == nil {
			return filepath.Join(real, rest)
		}
		if at == filepath.Dir(at) {
			return p
		}
		rest = filepath.Join(filepath.Base(at), rest)
	}
}

// Read reads a file of the repository; a link that leads out of it is refused.
func (r *Repository) Read(rel string) ([]byte, error) {
	root, err := os.OpenRoot(r.dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	info, err := root.Lstat(filepath.FromSlash(rel))
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: is not a plain file", rel)
	}
	if info.Size() > manifest.MaxSize {
		return nil, fmt.Errorf("%s: has %d bytes; a manifest may have at most %d", rel, info.Size(), manifest.MaxSize)
	}
	return root.ReadFile(filepath.FromSlash(rel))
}

// Write replaces or makes a file of the repository whole, with its folders. A
// link is refused, be it the file or a folder that leads out of the repository.
func (r *Repository) Write(rel string, data []byte) error {
	root, err := os.OpenRoot(r.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	file := filepath.FromSlash(rel)
	if err := root.MkdirAll(filepath.Dir(file), 0o777); err != nil {
		return err
	}
	perm := fs.FileMode(0o666)
	if info, err := root.Lstat(file); err == nil {
		if !info.Mode().IsRegular() {
			return fmt.Errorf("%s: is a link, not a plain file; it was left as it is", rel)
		}
		perm = info.Mode().Perm()
	}
	return writeWhole(root, file, data, perm)
}

// Remove removes a plain file of the repository, and its folder when that was its
// last file, as Git would.
func (r *Repository) Remove(rel string) error {
	root, err := os.OpenRoot(r.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	file := filepath.FromSlash(rel)
	if info, err := root.Lstat(file); err != nil || !info.Mode().IsRegular() {
		return errors.Join(err, fmt.Errorf("%s: is not a plain file; it was left as it is", rel))
	}
	if err := root.Remove(file); err != nil {
		return err
	}
	_ = root.Remove(filepath.Dir(file)) // fails when it is not empty
	return nil
}

// Absent fails when a secret cannot be made at path because something is there.
func (r *Repository) Absent(path string) error {
	base := strings.TrimSuffix(strings.TrimSuffix(path, ".yaml"), ".json")
	for _, taken := range []string{base + ".yaml", base + ".json", base} {
		if _, err := os.Lstat(filepath.Join(r.dir, filepath.FromSlash(taken))); err == nil {
			return fmt.Errorf("%s exists; remove it, or choose another name", taken)
		}
	}
	return nil
}

// WriteFile replaces a file whole: what it held, or data, is there at any
// moment. An existing file keeps its permissions; of a link, what it leads to is
// replaced.
func WriteFile(file string, data []byte, perm fs.FileMode) error {
	if real, err := filepath.EvalSymlinks(file); err == nil {
		file = real
	}
	if info, err := os.Stat(file); err == nil {
		perm = info.Mode().Perm()
	}
	root, err := os.OpenRoot(filepath.Dir(file))
	if err != nil {
		return err
	}
	defer root.Close()
	return writeWhole(root, filepath.Base(file), data, perm)
}

// writeWhole writes a temporary neighbour, syncs it and renames it.
func writeWhole(root *os.Root, file string, data []byte, perm fs.FileMode) (err error) {
	// os.CreateTemp would make it 0600 whatever the umask says.
	tmp := filepath.Join(filepath.Dir(file), fmt.Sprintf(".%s.tmp-%d-%d", filepath.Base(file), os.Getpid(), time.Now().UnixNano()))
	f, err := root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = root.Remove(tmp)
		}
	}()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err = root.Rename(tmp, file); err != nil {
		return err
	}
	d, err := root.Open(filepath.Dir(file))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Rules reads .sops.yaml.
func (r *Repository) Rules() (*Rules, error) {
	data, err := r.Read(RulesFile)
	if err != nil {
		return nil, err
	}
	return ParseRules(data)
}

// Settings reads sealward.yaml, or gives the defaults where there is none.
func (r *Repository) Settings() (Settings, error) {
	data, err := r.Read(SettingsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return Settings{}, nil
	}
	if err != nil {
		return Settings{}, err
	}
	return ParseSettings(data)
}

// Files lists the files below workspaces/ and instance/, sorted, those that no
// manifest can be included.
func (r *Repository) Files() ([]string, error) {
	var out []string
	for _, top := range []string{"instance", "workspaces"} {
		err := filepath.WalkDir(filepath.Join(r.dir, top), func(file string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), stagingPrefix) {
				return fs.SkipDir
			}
			if err != nil || d.IsDir() {
				return err
			}
			rel, _ := r.Rel(file)
			// Left over from a write that was interrupted, or an editor's.
			if leftover.MatchString(path.Base(rel)) {
				return nil
			}
			if _, ours, _ := manifest.Locate(rel); ours {
				out = append(out, rel)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// IsLeftover reports a name of what an interrupted write can leave behind, which nobody reads.
func IsLeftover(name string) bool {
	return leftover.MatchString(name) || strings.HasPrefix(name, stagingPrefix)
}

// leftover is the name of a temporary neighbour that writeWhole makes.
var leftover = regexp.MustCompile(`^\..+\.tmp-\d+-\d+$`)

// Secret is where one secret stands in a repository.
type Secret struct {
	Workspace manifest.Workspace
	Name      manifest.Name
	// Files are the paths of its files, sorted; never empty.
	Files []string
	// InParts says that it is a folder of parts, not one file.
	InParts bool
}

// String is WORKSPACE/NAME.
func (s Secret) String() string { return s.Workspace.String() + "/" + s.Name.String() }

// ErrNoSecret: the repository has no such secret.
var ErrNoSecret = errors.New("there is no such secret")

// FindSecret says where a secret stands. A file and a folder of one name, and a
// folder that holds something else than parts, are errors.
func (r *Repository) FindSecret(ws manifest.Workspace, name manifest.Name) (Secret, error) {
	s := Secret{Workspace: ws, Name: name}
	file := manifest.SecretPath(ws, name)
	folder := strings.TrimSuffix(file, ".yaml")
	for _, at := range []string{folder + ".json", file} {
		if _, err := os.Lstat(filepath.Join(r.dir, filepath.FromSlash(at))); err == nil {
			s.Files = append(s.Files, at)
		}
	}
	if len(s.Files) > 1 {
		return s, fmt.Errorf("%s and %s: a secret is one file; remove one", s.Files[0], s.Files[1])
	}
	entries, err := os.ReadDir(filepath.Join(r.dir, filepath.FromSlash(folder)))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s, err
	}
	for _, e := range entries {
		part := folder + "/" + e.Name()
		_, ours, err := manifest.Locate(part)
		switch {
		case !ours || leftover.MatchString(e.Name()):
		case err != nil || e.IsDir():
			return s, fmt.Errorf("%s: stands among the parts of %s, but is no part (<part>.yaml); move it away", part, s)
		case len(s.Files) > 0 && !s.InParts:
			return s, fmt.Errorf("%s and %s/: a secret is one file or one folder of parts, not both; remove one", s.Files[0], folder)
		default:
			s.Files, s.InParts = append(s.Files, part), true
		}
	}
	if len(s.Files) == 0 {
		return s, fmt.Errorf("%w: %s in workspace %s (%s); sealward get secrets -w %s lists them", ErrNoSecret, name, ws, file, ws)
	}
	return s, nil
}

// PartPath is the path for a part that holds key; ext is .yaml or .json. Two keys that differ in case
// only get files that do not, because some file systems cannot tell them apart.
func (s Secret) PartPath(key manifest.Key, ext string, taken []string) string {
	folder := strings.TrimSuffix(manifest.SecretPath(s.Workspace, s.Name), ".yaml")
	base := key.String()
	if len(base) > 200 { // file systems allow 255 bytes
		base = base[:200]
	}
	for n := 1; ; n++ {
		at := folder + "/" + base + ext
		if n > 1 {
			at = fmt.Sprintf("%s/%s-%d%s", folder, base, n, ext)
		}
		if !slices.ContainsFunc(taken, func(t string) bool { return strings.EqualFold(t, at) }) {
			return at
		}
	}
}
