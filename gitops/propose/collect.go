package propose

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/sealward/sealward/gitops/gitcmd"
	"github.com/sealward/sealward/gitops/worktree"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
)

// change is one file that differs from the parent.
type change struct {
	path  string // from the top of the clone
	mode  gitcmd.Mode
	data  []byte // as it is committed: sealed; nil when the file is gone
	plain []byte // what it is on disk, when that is not sealed
	blob  string // once it is an object
}

// collect finds what differs from the parent among what is named, and seals what is
// not sealed, in memory. It writes nothing.
func (w *work) collect(ctx context.Context) error {
	seen := map[string]bool{}
	for _, t := range w.opts.Targets {
		specs, err := w.paths(t)
		if err != nil {
			return err
		}
		found, sparse, err := w.candidates(ctx, specs)
		if err != nil {
			return err
		}
		if len(found) == 0 && sparse == 0 {
			return w.absent(t)
		}
		own, err := w.clone.Diff(ctx, w.out.Parent, w.head, specs...)
		if err != nil {
			return err
		}
		if len(own) > 0 {
			how, err := w.onTop(ctx, t, specs, found)
			if err != nil {
				return err
			}
			return fmt.Errorf("%s: %s is changed by commits here, too, which %s/%s has not; %s", t, own[0].Path, w.opts.Remote, w.out.Base, how)
		}
		differ := false
		for _, name := range slices.Sorted(maps.Keys(found)) {
			c, err := w.compare(name, found[name])
			if err != nil {
				return err
			}
			if c == nil {
				continue
			}
			if differ = true; !seen[name] {
				seen[name] = true
				w.changes = append(w.changes, *c)
			}
		}
		if !differ {
			w.opts.Note(fmt.Sprintf("%s is as %s has it", t, w.from))
		} else if err := w.warnOfConflict(ctx, t, specs); err != nil {
			return err
		}
	}
	if len(w.changes) == 0 {
		return ErrNothing
	}
	slices.SortFunc(w.changes, func(a, b change) int { return strings.Compare(a.path, b.path) })
	rules, err := w.rules(ctx)
	if err != nil {
		return err
	}
	for i := range w.changes {
		if err := w.settleContent(&w.changes[i], rules); err != nil {
			return err
		}
	}
	if err := w.keepQuiet(); err != nil {
		return err
	}
	return w.warnOfObjects(ctx)
}

// warnOfObjects tells of a plaintext that was staged or committed before.
func (w *work) warnOfObjects(ctx context.Context) error {
	var ids bytes.Buffer
	var plain []string
	for _, c := range w.changes {
		if c.plain != nil {
			// By a pipe: the hash of a plaintext is nothing for a command line.
			ids.WriteString(blobID(c.plain, len(w.out.Parent)) + "\n")
			plain = append(plain, c.path)
		}
	}
	if len(plain) == 0 {
		return nil
	}
	out, err := w.clone.RunWith(ctx, gitcmd.RunOptions{In: &ids}, "cat-file", "--batch-check")
	if err != nil {
		return err
	}
	for i, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		if i < len(plain) && !strings.HasSuffix(line, " missing") {
			w.opts.Note(fmt.Sprintf("warning: %s was staged or committed in plaintext, so Git holds its values here; if that was ever pushed, they have leaked: rotate them. If it was only staged, git gc --prune=now removes them after this", plain[i]))
		}
	}
	return nil
}

// paths are what a target names, from the top of the clone.
func (w *work) paths(t Target) ([]string, error) {
	if t.Path == "" {
		file := w.repo.Prefix() + manifest.SecretPath(t.Workspace, t.Name)
		folder := strings.TrimSuffix(file, ".yaml")
		return []string{file, folder + ".json", folder}, nil
	}
	abs, err := filepath.Abs(t.Path)
	if err != nil {
		return nil, err
	}
	// Git knows the work tree by its real name. What is named may be gone, and its folder, too.
	dir, rest := filepath.Dir(abs), filepath.Base(abs)
	for {
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			dir = real
			break
		}
		if dir == filepath.Dir(dir) {
			break
		}
		dir, rest = filepath.Dir(dir), filepath.Join(filepath.Base(dir), rest)
	}
	rel, err := filepath.Rel(w.clone.Top(), filepath.Join(dir, rest))
	if err != nil || !filepath.IsLocal(rel) {
		return nil, fmt.Errorf("%s is outside this clone's work tree %s", t.Path, w.clone.Top())
	}
	rel = filepath.ToSlash(rel)
	if rel == ".git" || strings.HasPrefix(rel, ".git/") {
		return nil, fmt.Errorf("%s is Git's own", t.Path)
	}
	return []string{rel}, nil
}

func (w *work) absent(t Target) error {
	if t.Path == "" {
		return fmt.Errorf("%w: %s, neither here nor in %s; sealward get secrets lists them", workspace.ErrNoSecret, t, w.from)
	}
	if _, err := os.Lstat(t.Path); err == nil {
		return fmt.Errorf("%s: Git ignores it, or it is an empty folder", t)
	}
	return fmt.Errorf("%s: there is no such file, neither here nor in %s", t, w.from)
}

// candidates are the files at and below paths that the parent or the work tree has,
// with what the parent has, and the number of those that a sparse checkout leaves out.
// Files that Git ignores are none.
func (w *work) candidates(ctx context.Context, specs []string) (found map[string]*gitcmd.File, sparse int, err error) {
	found = map[string]*gitcmd.File{}
	old, err := w.clone.Files(ctx, w.out.Parent, specs...)
	if err != nil {
		return nil, 0, err
	}
	for _, f := range old {
		found[f.Path] = &f
	}
	out, err := w.clone.Run(ctx, append([]string{"ls-files", "-z", "-t", "-c", "-o", "--exclude-standard", "--full-name", "--"}, specs...)...)
	if err != nil {
		return nil, 0, err
	}
	for record := range bytes.SplitSeq(out, []byte{0}) {
		tag, name, ok := strings.Cut(string(record), " ")
		if !ok {
			continue
		}
		switch _, known := found[name]; {
		case workspace.IsLeftover(path.Base(name)):
		case tag == "M":
			return nil, 0, fmt.Errorf("%s: is in the middle of a merge; resolve it first", name)
		case tag == "S" && !w.onDisk(name):
			delete(found, name) // it was not removed
			sparse++
		case strings.HasSuffix(name, "/"):
			return nil, 0, fmt.Errorf("%s: is a repository of its own, which is not proposed", name)
		case !known && w.onDisk(name):
			found[name] = nil
		}
	}
	return found, sparse, nil
}

func (w *work) onDisk(name string) bool {
	_, err := os.Lstat(filepath.Join(w.clone.Top(), filepath.FromSlash(name)))
	return err == nil
}

// readDisk reads a plain file of the work tree; data is nil for what is no file there.
func (w *work) readDisk(name string) (data []byte, info fs.FileInfo, err error) {
	root, err := os.OpenRoot(w.clone.Top())
	if err != nil {
		return nil, nil, err
	}
	defer root.Close()
	file := filepath.FromSlash(name)
	info, err = root.Lstat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist) || err != nil && !w.onDisk(name): // a file may stand where its folder was
		return nil, nil, nil
	case err != nil:
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	case !info.Mode().IsRegular():
		return nil, info, nil
	case info.Size() > manifest.MaxSize:
		return nil, nil, fmt.Errorf("%s: has %d bytes; at most %d are proposed", name, info.Size(), manifest.MaxSize)
	}
	f, err := root.Open(file)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	defer f.Close()
	data, err = io.ReadAll(io.LimitReader(f, manifest.MaxSize+1))
	if err == nil && len(data) > manifest.MaxSize {
		err = errors.New("grows while it is read")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	return append([]byte{}, data...), info, nil
}

// compare says how a path differs from the parent; nil when it does not.
func (w *work) compare(name string, old *gitcmd.File) (*change, error) {
	data, info, err := w.readDisk(name)
	if err != nil {
		return nil, err
	}
	was := gitcmd.Mode("")
	if old != nil {
		was = old.Mode
	}
	switch {
	case info != nil && info.Mode()&fs.ModeSymlink != 0:
		to, err := os.Readlink(filepath.Join(w.clone.Top(), filepath.FromSlash(name)))
		if err == nil && was == gitcmd.Symlink && old.Blob == blobID([]byte(to), len(old.Blob)) {
			return nil, nil
		}
		return nil, fmt.Errorf("%s: is a symbolic link; those are not proposed", name)
	case info != nil && info.IsDir() && was == gitcmd.Submodule:
		return nil, nil
	case data == nil && info != nil && !info.IsDir():
		return nil, fmt.Errorf("%s: is not a plain file", name)
	case data == nil && old == nil:
		return nil, nil
	case data == nil:
		return &change{path: name, mode: was}, nil
	}
	mode := gitcmd.Regular
	if w.executable(info, was) {
		mode = gitcmd.Executable
	}
	if old != nil && mode == was && old.Blob == blobID(data, len(old.Blob)) {
		return nil, nil
	}
	return &change{path: name, mode: mode, data: data}, nil
}

// executable: where the file system has no such bit, it stays as it was.
func (w *work) executable(info fs.FileInfo, was gitcmd.Mode) bool {
	if !w.fileMode {
		return was == gitcmd.Executable
	}
	return info.Mode().Perm()&0o100 != 0
}

// blobID is the id that git gives a content without filters; length is that of the
// clone's ids.
func blobID(data []byte, length int) string {
	head := fmt.Appendf(nil, "blob %d\x00", len(data))
	if length == 2*sha256.Size {
		h := sha256.New()
		h.Write(head)
		h.Write(data)
		return hex.EncodeToString(h.Sum(nil))
	}
	h := sha1.New()
	h.Write(head)
	h.Write(data)
	return hex.EncodeToString(h.Sum(nil))
}

// rules are those of the commit to be.
func (w *work) rules(ctx context.Context) (*workspace.Rules, error) {
	for _, c := range w.changes {
		if c.path == w.repo.Prefix()+workspace.RulesFile {
			rules, err := workspace.ParseRules(c.data)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.path, err)
			}
			return rules, nil
		}
	}
	parent, err := w.repo.At(ctx, w.out.Parent)
	if err != nil {
		return nil, err
	}
	defer parent.Close()
	return parent.Rules(ctx)
}

// settleContent seals a plaintext manifest, and refuses what must not be committed.
func (w *work) settleContent(c *change, rules *workspace.Rules) error {
	if c.data == nil {
		return nil
	}
	rel, inside := strings.CutPrefix(c.path, w.repo.Prefix())
	place, ours, err := w.locate(c.path)
	if err != nil {
		return fmt.Errorf("%s: %w", c.path, err)
	}
	m, err := manifest.Parse(c.path, c.data)
	if err != nil {
		// Whether something is sealed is only known of what can be read.
		if ours {
			return err
		}
		if plainSecret(c.data) {
			return fmt.Errorf("%w\nit looks like a secret whose values are not sealed; give each secret a file of its own", err)
		}
		return refusePrivateKey(c)
	}
	if ours {
		if err := m.CheckPlace(place); err != nil {
			return err
		}
	}
	if !m.Kind.IsSecret() {
		return nil
	}
	if ours {
		err = w.sameRules(c.path, rel, rules)
	} else if !m.Sealed && !m.Workspace.IsZero() {
		err = w.sameRules(c.path, manifest.SecretPath(m.Workspace, m.Name), rules)
	}
	if err != nil {
		return err
	}
	if m.Sealed {
		return m.CheckSealed()
	}
	plain := worktree.Plain{Manifest: m, Rules: rules}
	if inside {
		plain.Path = rel
	}
	dir, err := os.OpenRoot(filepath.Join(w.clone.Top(), filepath.FromSlash(path.Dir(c.path))))
	if err != nil {
		return err
	}
	defer dir.Close()
	read := worktree.FilesBelow(dir)
	plain.ReadFile = func(name string) ([]byte, error) {
		data, err := read(name)
		w.values = append(w.values, value{c.path, name, string(data)})
		return data, err
	}
	c.plain = c.data
	w.values = append(w.values, values(c.path, m)...)
	if c.data, _, err = w.tree.Seal(plain); err != nil {
		return err
	}
	w.out.Sealed = append(w.out.Sealed, c.path)
	return nil
}

// sameRules: a file is sealed by the work tree's .sops.yaml. Where the commit has another,
// its readers would not be those who were meant, and who they are is for a person to
// propose, not to happen on the side.
func (w *work) sameRules(file, target string, commits *workspace.Rules) error {
	here, err := w.repo.Local().Rules()
	if err != nil {
		return err
	}
	mine, err := here.Recipients(target)
	if err != nil {
		return err
	}
	theirs, err := commits.Recipients(target)
	if err != nil {
		return fmt.Errorf("%s: the rule for it in %s is not in %s yet; name %[2]s, too", file, workspace.RulesFile, w.from)
	}
	if mine.Threshold() != theirs.Threshold() || !slices.EqualFunc(mine.Groups(), theirs.Groups(), slices.Equal[[]workspace.Recipient]) {
		return fmt.Errorf("%s: the %s here seals it for others than that of %s does; name %[2]s, too, or undo its change", file, workspace.RulesFile, w.from)
	}
	return nil
}

var privateKey = regexp.MustCompile(`AGE-SECRET-KEY-(PQ-)?1[0-9A-Z]{8}|-----BEGIN [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----`)

func refusePrivateKey(c *change) error {
	if privateKey.Match(c.data) {
		return fmt.Errorf("%s: holds a private key, which does not belong into Git; seal it as a value of a secret", c.path)
	}
	return nil
}

var secretLine = regexp.MustCompile(`(?m)^\s*["']?(kind["']?\s*:\s*["']?Secret|type["']?\s*:\s*["']?(instance-)?secret)\b`)

// plainSecret finds, in YAML or JSON that is no manifest of ours (such as several in
// one file), a secret with a value that is not sealed.
func plainSecret(data []byte) bool {
	d := yaml.NewDecoder(bytes.NewReader(data))
	for range 1000 {
		var doc map[string]any
		if err := d.Decode(&doc); err != nil {
			var wrong *yaml.TypeError
			if errors.As(err, &wrong) {
				continue // a document that is no mapping
			}
			return !errors.Is(err, io.EOF) && secretLine.Match(data) // a template, perhaps
		}
		if isPlainSecret(doc, 0) {
			return true
		}
	}
	return true // too much to look at
}

func isPlainSecret(doc map[string]any, depth int) bool {
	if items, ok := doc["items"].([]any); ok && depth == 0 {
		for _, item := range items {
			if m, ok := item.(map[string]any); ok && isPlainSecret(m, 1) {
				return true
			}
		}
	}
	body := doc
	switch {
	case doc["kind"] == "Secret":
	case doc["type"] == string(manifest.KindSecret), doc["type"] == string(manifest.KindInstanceSecret):
		body, _ = doc[fmt.Sprint(doc["type"])].(map[string]any)
	default:
		return false
	}
	for _, section := range []string{"data", "stringData", "binaryData"} {
		values, _ := body[section].(map[string]any)
		for _, v := range values {
			if text, ok := v.(string); !ok || text != "" && !manifest.IsSealedValue(text) {
				return true
			}
		}
	}
	return false
}
