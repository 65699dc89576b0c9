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

// privateKey is how each line of an identity file starts that holds a key.
const privateKey = "AGE-SECRET-KEY-"

// secretKind finds what says of itself that it is a secret, however YAML or JSON write
// that: quoted, with a tag or a comment, on a line with all the rest.
const secretKind = `(^|[^[:alnum:]_])(type|kind)["']?[[:space:]]*:[[:space:]]*(!!str[[:space:]]+)?["']?(secret|instance-secret|Secret)([^[:alnum:]_-]|$)`

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
	c.privateKey(f.Path, data)
	if outside && aboutKustomize(data) {
		c.mu.Lock()
		c.kustomizes = true
		if namesGenerator(data) {
			c.generators = append(c.generators, f.Path)
		}
		c.mu.Unlock()
	}
	if !isNotation(f.Path) && outside {
		return nil
	}
	m, err := manifest.Parse(f.Path, data)
	if outside && (err == nil && m.Form == manifest.Kubernetes && m.Sealed || err != nil && bytes.Contains(data, []byte("sops")) && hasSealedSecret(data)) {
		c.mu.Lock()
		c.sealedOutside = append(c.sealedOutside, f.Path)
		c.mu.Unlock()
	}
	switch {
	case err == nil && m.Kind.IsSecret() && m.CheckSealed() != nil:
		c.manifestError(f.Path, m.CheckSealed())
	case err != nil:
		// It need not be a manifest of ours to hold a value: it may be several in one file.
		for _, v := range openValues(data) {
			c.add(ValueUnsealed, f.Path, v.line, v.column, v.field, "is not sealed", "")
		}
	}
	return nil
}

// privateKey looks for a private key anywhere in a file, whatever else it is.
func (c *checker) privateKey(path string, data []byte) {
	for from := 0; ; {
		at := bytes.Index(data[from:], []byte(privateKey))
		if at < 0 {
			return
		}
		if at += from; isKeyLine(data[at:]) {
			c.add(PrivateKey, path, bytes.Count(data[:at], []byte("\n"))+1, 0, "", "a private key (AGE-SECRET-KEY-…) stands in the file", "")
			return
		}
		from = at + len(privateKey)
	}
}

// openValue is where a value stands in the clear.
type openValue struct {
	field        string
	line, column int
}

// maxOpenValues is how many are told of one file.
const maxOpenValues = 10

// openValues finds, in YAML or JSON that is no manifest of ours, secrets with values that
// are not sealed: several documents, lists, unknown fields.
func openValues(data []byte) (out []openValue) {
	d := yaml.NewDecoder(bytes.NewReader(data))
	for range 1000 { // documents
		var doc yaml.Node
		if d.Decode(&doc) != nil {
			return out
		}
		if len(doc.Content) != 1 {
			continue
		}
		docs := doc.Content
		if items := child(docs[0], "items"); items != nil && items.Kind == yaml.SequenceNode {
			docs = items.Content
		}
		for _, n := range docs {
			if out = append(out, openIn(n)...); len(out) >= maxOpenValues {
				return out[:maxOpenValues]
			}
		}
	}
	return out
}

// meant is what an alias stands for.
func meant(n *yaml.Node) *yaml.Node {
	if n != nil && n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// openIn is openValues for one document.
func openIn(doc *yaml.Node) (out []openValue) {
	text := func(name string) string {
		if n := child(doc, name); n != nil && n.Kind == yaml.ScalarNode {
			return n.Value
		}
		return ""
	}
	body, prefix := doc, ""
	switch kind := text("type"); {
	case text("kind") == "Secret":
	case kind == string(manifest.KindSecret) || kind == string(manifest.KindInstanceSecret):
		body, prefix = meant(child(doc, kind)), kind+"."
	default:
		return nil
	}
	if body == nil {
		return nil
	}
	for _, section := range []string{"data", "stringData", "binaryData"} {
		values := meant(child(body, section))
		if values == nil || values.Kind != yaml.MappingNode {
			continue
		}
		for i := 0; i+1 < len(values.Content) && len(out) < maxOpenValues; i += 2 {
			if v := meant(values.Content[i+1]); v.Kind != yaml.ScalarNode || v.Value != "" && v.Tag != "!!null" && !manifest.IsSealedValue(v.Value) {
				// The section alone: what stands in the place of a key may be anything.
				out = append(out, openValue{prefix + section, v.Line, v.Column})
			}
		}
	}
	return out
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
		{"-F", "-e", privateKey, "-e", ownGenerator, "-e", ksopsVersion},
		{"-E", "-e", secretKind},
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
	// -a: what a .gitattributes calls binary is looked into all the same.
	args := append([]string{"grep", "-a", "--full-name", "--no-color"}, pattern...)
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
	added := map[string]placed{}
	for b, at := range c.bindings {
		if ch := c.changed[at.path]; ch.Old == nil && ch.New != nil {
			added[b] = at
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
		at, found := added[line[start:end+1]]
		if !found || c.has(BindingCopied, at.path) {
			continue
		}
		c.add(BindingCopied, at.path, at.line, at.column, "", "holds the sealed binding of another file: it is a copy, and will not open here", "")
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

// maxField bounds the path of a field, which every reference below it holds: a name in
// YAML can have a million characters.
const maxField = 300

// fieldAt is the path of a field's child.
func fieldAt(field, rest string) string {
	if field = strings.TrimPrefix(field+rest, "."); len(field) > maxField {
		return strings.ToValidUTF8(field[:maxField], "") + "…"
	}
	return field
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
			w.node(item, fieldAt(field, "["+strconv.Itoa(i)+"]"), depth+1)
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			name, v := n.Content[i].Value, n.Content[i+1]
			at := fieldAt(field, "."+name)
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
