package review

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/sealward/sealward/gitops/gitcmd"
	"github.com/sealward/sealward/seal/manifest"
)

// privateKeys start a line of an identity file.
func privateKeys() []string {
	return []string{"AGE-SECRET-KEY-1", "AGE-SECRET-KEY-PQ-1"}
}

// isNotation reports a file that can hold a manifest.
func isNotation(p string) bool {
	return slices.Contains([]string{".yaml", ".yml", ".json"}, strings.ToLower(path.Ext(p)))
}

// other checks a file that is no manifest of the repository: it may hold a private
// key, or a secret that somebody meant to seal.
func (c *checker) other(ctx context.Context, f File, outside bool) error {
	if !f.Mode.IsFile() {
		return nil
	}
	data, err := c.tree.Read(ctx, f)
	if errors.Is(err, gitcmd.ErrTooLarge) || errors.Is(err, gitcmd.ErrNoObject) {
		return nil // no manifest and no identity file is so large
	}
	if err != nil {
		return err
	}
	for _, prefix := range privateKeys() {
		if at := bytes.Index(data, []byte(prefix)); at >= 0 && isKeyLine(data[at:]) {
			c.add(PrivateKey, f.Path, bytes.Count(data[:at], []byte("\n"))+1, 0, "", "a private key (AGE-SECRET-KEY-…) stands in the file", "")
			break
		}
	}
	if !isNotation(f.Path) && outside {
		return nil
	}
	if m, err := manifest.Parse(f.Path, data); err == nil && m.Kind.IsSecret() {
		if err := m.CheckSealed(); err != nil {
			c.manifestError(f.Path, err)
		}
	}
	return nil
}

// isKeyLine tells a key from a text that only names how keys start.
func isKeyLine(data []byte) bool {
	n := 0
	for n < len(data) && (data[n] >= 'A' && data[n] <= 'Z' || data[n] >= '0' && data[n] <= '9' || data[n] == '-') {
		n++
	}
	return n >= 60
}

// outside looks into the other files of the repository that Git knows. git grep
// finds the few that matter.
func (c *checker) outside(ctx context.Context) error {
	if c.repo.clone == nil {
		return nil
	}
	paths := map[string]bool{}
	for _, search := range [][]string{
		{"-F", "-e", privateKeys()[0], "-e", privateKeys()[1]},
		{"-E", "-e", `^[[:space:]]*"?(type|kind)"?:[[:space:]]*"?(secret|instance-secret|Secret)"?,?[[:space:]]*$`},
	} {
		found, err := c.tree.grep(ctx, search, nil, true)
		if err != nil {
			return err
		}
		for _, p := range found {
			paths[p] = true
		}
	}
	if len(paths) == 0 {
		return nil
	}
	list := make([]string, 0, len(paths))
	for p := range paths {
		list = append(list, p)
	}
	slices.Sort(list)
	files, err := c.tree.Files(ctx, list...)
	if err != nil {
		return err
	}
	return inParallel(ctx, len(files), func(i int) error {
		_, ours, _ := manifest.Locate(files[i].Path)
		if ours {
			return nil
		}
		return c.other(ctx, files[i], true)
	})
}

// grep lists the files of the tree that hold something; in has patterns for -f -.
// elsewhere leaves out
// workspaces/ and instance/.
func (t *Tree) grep(ctx context.Context, pattern []string, in io.Reader, elsewhere bool) ([]string, error) {
	out, err := t.grepRaw(ctx, append([]string{"-l", "-z"}, pattern...), in, !elsewhere)
	if err != nil {
		return nil, err
	}
	var found []string
	for p := range strings.SplitSeq(string(out), "\x00") {
		p = strings.TrimPrefix(p, t.Commit+":")
		if p, ok := strings.CutPrefix(p, t.repo.prefix); ok && p != "" {
			found = append(found, p)
		}
	}
	return found, nil
}

// grepRaw runs git grep over the tree, within workspaces/ and instance/ or elsewhere.
func (t *Tree) grepRaw(ctx context.Context, pattern []string, in io.Reader, within bool) ([]byte, error) {
	args := append([]string{"grep", "-I", "--full-name", "--no-color"}, pattern...)
	switch {
	case t.Commit != "":
		args = append(args, t.Commit)
	case t.Name == indexName:
		args = append(args, "--cached")
	default:
		args = append(args, "--untracked")
	}
	top := t.repo.prefix
	if within {
		args = append(args, "--", ":(top,literal)"+top+"workspaces", ":(top,literal)"+top+"instance")
	} else {
		args = append(args, "--", ":(top,literal)"+top, ":(top,exclude,literal)"+top+"workspaces", ":(top,exclude,literal)"+top+"instance")
	}
	out, err := t.repo.clone.RunWith(ctx, gitcmd.RunOptions{In: in, Env: []string{"GIT_LITERAL_PATHSPECS=0"}}, args...)
	var refused *gitcmd.Error
	if errors.As(err, &refused) && refused.Code == 1 && refused.Said == "" {
		return nil, nil // nothing found
	}
	return out, err
}

// copies looks for the bindings of added files in the base: a file that was copied
// or moved brought it along.
func (c *checker) copies(ctx context.Context) error {
	added := map[string]string{}
	for b, p := range c.bindings {
		if ch := c.changed[p]; ch.Old == nil && ch.New != nil {
			added[b] = p
		}
	}
	if len(added) == 0 {
		return nil
	}
	// All bindings of the base, however many are looked for: YAML's and JSON's.
	out, err := c.opts.Base.grepRaw(ctx, []string{"-h", "-F", "-e", "binding: ENC[", "-e", `binding": "ENC[`}, nil, true)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(out)) {
		start, end := strings.Index(line, "ENC["), strings.LastIndexByte(line, ']')
		if start < 0 || end < start {
			continue
		}
		p, found := added[line[start:end+1]]
		if !found || c.has(BindingCopied, p) {
			continue
		}
		at := 1
		if now, err := c.tree.ReadPath(ctx, p); err == nil {
			if i := bytes.Index(now, []byte(line[start:end+1])); i >= 0 {
				at = bytes.Count(now[:i], []byte("\n")) + 1
			}
		}
		c.add(BindingCopied, p, at, 0, "", "holds the sealed binding of another file: it is a copy, and will not open here", "")
	}
	return nil
}

// has reports a finding that was made already.
func (c *checker) has(id CheckID, path string) bool {
	return slices.ContainsFunc(c.findings, func(f Finding) bool { return f.ID == id && f.Path == path })
}

// removed looks for what still refers to secrets that are gone.
func (c *checker) removed(ctx context.Context, gone map[secretID]bool) error {
	left := map[secretID][]string{} // the paths that went
	for p, ch := range c.changed {
		place, ours, err := manifest.Locate(p)
		id := secretID{place.Scope, place.Name}
		if ours && err == nil && !place.Policy && ch.New == nil && gone[id] && len(c.secrets[id]) == 0 {
			left[id] = append(left[id], p)
		}
	}
	var names strings.Builder // one a line
	for id := range left {
		folder := strings.TrimSuffix(manifest.SecretPath(id.ws, id.name), ".yaml")
		still, err := c.tree.filesAt(ctx, folder, folder+".yaml", folder+".json")
		if err != nil {
			return err
		}
		if len(still) > 0 {
			delete(left, id)
			continue
		}
		names.WriteString(id.name.String() + "\n")
	}
	if len(left) == 0 {
		return nil
	}
	found, err := c.tree.grep(ctx, []string{"-F", "-f", "-"}, strings.NewReader(names.String()), true)
	if err != nil || len(found) == 0 {
		return err
	}
	files, err := c.tree.Files(ctx, found...)
	if err != nil {
		return err
	}
	return inParallel(ctx, len(files), func(i int) error {
		f := files[i]
		if !f.Mode.IsFile() || !isNotation(f.Path) && path.Base(f.Path) != "Kustomization" {
			return nil
		}
		data, err := c.tree.Read(ctx, f)
		if errors.Is(err, gitcmd.ErrTooLarge) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, ref := range references(f.Path, data) {
			for id, paths := range left {
				if !ref.to(id, paths) {
					continue
				}
				c.add(SecretInUse, f.Path, ref.line, ref.column, ref.field, fmt.Sprintf("refers to %s/%s, which is removed (%s)", id.ws, id.name, paths[0]), "")
			}
		}
		return nil
	})
}

// reference is one place that names a secret or a file of one.
type reference struct {
	field        string
	workspace    string // "" when none is named
	name         string
	path         string // of a file, relative to the sealed repository
	line, column int
}

func (r reference) to(id secretID, paths []string) bool {
	if r.path != "" {
		return slices.Contains(paths, r.path)
	}
	if r.name != id.name.String() {
		return false
	}
	// DataOS looks in public where no workspace is named, and beyond for the
	// instance's.
	return r.workspace == id.ws.String() || r.workspace == "" && (id.ws == manifest.Public() || id.ws.IsInstance())
}

// references finds what refers to secrets in the YAML documents of one file:
// DataOS's dataosSecrets, secrets and imagePullSecret, what Kubernetes has for that,
// and the paths that a kustomization or generator names.
func references(file string, data []byte) []reference {
	var out []reference
	d := yaml.NewDecoder(bytes.NewReader(data))
	for range 1000 { // documents
		var doc yaml.Node
		if d.Decode(&doc) != nil {
			break
		}
		if len(doc.Content) == 1 {
			w := referenceWalk{file: file, out: &out}
			if root := doc.Content[0]; root.Kind == yaml.MappingNode {
				ws := child(root, "workspace")
				if meta := child(root, "metadata"); ws == nil && meta != nil && meta.Kind == yaml.MappingNode {
					ws = child(meta, "namespace")
				}
				if ws != nil {
					w.workspace = ws.Value
				}
			}
			w.node(doc.Content[0], "", 0)
		}
	}
	return out
}

type referenceWalk struct {
	file      string
	workspace string // of the document
	out       *[]reference
}

func (w *referenceWalk) add(n *yaml.Node, field, ws, name string) {
	if before, after, ok := strings.Cut(name, "/"); ok {
		ws, name = before, after
	}
	if ws == "" {
		ws = w.workspace
	}
	*w.out = append(*w.out, reference{field: field, workspace: ws, name: name, line: n.Line, column: n.Column})
}

func (w *referenceWalk) node(n *yaml.Node, field string, depth int) {
	if depth > 64 { // also ends an alias that is its own ancestor, which is not followed
		return
	}
	switch n.Kind {
	case yaml.ScalarNode:
		// A path of a file, as in resources: or files:.
		text := n.Value
		if _, rest, ok := strings.Cut(text, "="); ok { // KEY=FILE
			text = rest
		}
		if isNotation(text) || strings.Contains(text, "/secrets/") {
			if p := path.Join(path.Dir(w.file), text); !strings.HasPrefix(p, "../") {
				*w.out = append(*w.out, reference{field: field, path: p, line: n.Line, column: n.Column})
			}
		}
	case yaml.SequenceNode:
		for i, item := range n.Content {
			w.node(item, field+"["+strconv.Itoa(i)+"]", depth+1)
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			name, v := n.Content[i].Value, n.Content[i+1]
			at := strings.TrimPrefix(field+"."+name, ".")
			switch name {
			case "dataosSecrets", "secrets", "imagePullSecrets":
				w.list(v, at)
			case "secretKeyRef", "secretRef": // Kubernetes
				if v.Kind == yaml.MappingNode && child(v, "name") != nil {
					w.add(child(v, "name"), at+".name", "", child(v, "name").Value)
				}
			case "imagePullSecret", "secretName":
				if v.Kind == yaml.ScalarNode {
					w.add(v, at, "", v.Value)
				}
			}
			w.node(v, at, depth+1)
		}
	}
}

func (w *referenceWalk) list(n *yaml.Node, field string) {
	if n.Kind != yaml.SequenceNode {
		return
	}
	for _, item := range n.Content {
		switch item.Kind {
		case yaml.ScalarNode:
			w.add(item, field, "", item.Value)
		case yaml.MappingNode:
			ws := ""
			if n := child(item, "workspace"); n != nil {
				ws = n.Value
			}
			if n := child(item, "name"); n != nil && n.Kind == yaml.ScalarNode {
				w.add(n, field, ws, n.Value)
			}
		}
	}
}
