package kustomize

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/sealward/sealward/seal/manifest"
)

// Generator is one parsed generator file. Paths in it are relative to the folder of
// the kustomization that lists it, as kustomize has it for functions.
type Generator struct {
	// File is how errors name it.
	File string
	Kind string // Kind or KSOPSKind
	Name string
	// Line of the document in its file, 1-based.
	Line int
	// Workspace of sources, and of Kubernetes Secrets that state none.
	Workspace manifest.Workspace
	Secrets   []SecretEntry
	Files     []FileEntry
	Sources   []SourceEntry
	// Function is the raw text of the annotation config.kubernetes.io/function, ""
	// where there is none.
	Function string
}

// Target says what the Secret looks like that an entry makes. Zero fields leave what
// the sealed manifest says.
type Target struct {
	Name, Namespace string
	Labels          map[string]string
	Annotations     map[string]string
	Type            string
	Immutable       *bool
	NeedsHash       *bool
	Behavior        string
	// Keys selects and renames: key of the output, key of the sealed manifest. nil
	// takes every key as it is.
	Keys []KeyEntry
}

// KeyEntry takes the key From as To.
type KeyEntry struct {
	From, To manifest.Key
	Line     int
}

// SecretEntry names a secret of the repository.
type SecretEntry struct {
	Workspace manifest.Workspace // or the instance
	Secret    manifest.Name
	Target
	Line int
}

// FileEntry names a sealed manifest.
type FileEntry struct {
	Path string
	Target
	Line int
}

// SourceEntry makes one Secret of sealed files that are no manifests.
type SourceEntry struct {
	Target
	Files       []SourceFile // text as sops -d prints it
	BinaryFiles []SourceFile // bytes that sops sealed as binary
	Envs        []SourceFile // dotenv: one key a line; Key is unset
	// QuotedEnvs says that env files are read as KSOPS does, with quotes, escapes and
	// comments behind values, and not as kustomize and sops do.
	QuotedEnvs bool
	Line       int
}

// SourceFile is one sealed file and the key that its content gets.
type SourceFile struct {
	Key  manifest.Key
	Path string
	Line int
}

// ParseGenerator reads one document of a generator file strictly; line is where the
// document starts in file, 1-based. Errors are a manifest.Errors with line and field.
func ParseGenerator(file string, line int, data []byte) (*Generator, error) {
	p := &parser{file: file}
	root := p.document(line, data)
	if root == nil {
		return nil, p.errs
	}
	f := p.fields(root, "")
	version, _ := f.text("apiVersion")
	kind, _ := f.text("kind")
	if !IsGenerator(version, kind) {
		at, field := root, "apiVersion"
		if version == APIVersion || version == KSOPSVersion {
			field = "kind"
		}
		for i := 0; i+1 < len(root.Content); i += 2 {
			if root.Content[i].Value == field {
				at = root.Content[i+1]
			}
		}
		p.fail(at, field, "%.80q, %.80q is no generator of sealward, which is %s, %s", version, kind, APIVersion, Kind)
		return nil, p.errs
	}
	g := &Generator{File: file, Kind: kind, Line: root.Line}
	p.metadata(g, f)
	if kind == KSOPSKind {
		p.ksops(g, f)
	} else {
		p.generator(g, f)
	}
	if len(p.errs) > 0 {
		slices.SortStableFunc(p.errs, func(a, b *manifest.Error) int { return a.Line - b.Line })
		return nil, p.errs
	}
	return g, nil
}

const makesNothing = "makes nothing: it has neither secrets nor files nor sources"

// CheckGenerators reads a text that a kustomization lists under generators: and fails,
// with a manifest.Errors, for what a build would refuse of it without looking at another
// file. line is where the text starts in file, 1-based.
func CheckGenerators(file string, line int, text []byte) error {
	var errs manifest.Errors
	holds := false
	for _, d := range split(file, line, text) {
		if !d.holds() {
			continue
		}
		holds = true
		p := &parser{file: file}
		switch {
		case d.ours() || strings.HasPrefix(d.head.apiVersion, Group+"/") || d.head.kind == Kind:
			_, err := ParseGenerator(file, d.line, d.text)
			if !errors.As(err, &p.errs) && !d.head.entries {
				p.fail(&yaml.Node{Line: d.line, Column: 1}, "", makesNothing)
			}
		case d.head == header{}:
			p.document(d.line, d.text)
		}
		if errs = append(errs, p.errs...); len(errs) >= 20 { // a hostile file must not fill a log
			break
		}
	}
	if !holds {
		errs = append(errs, &manifest.Error{File: file, Line: line, Column: 1, Msg: "holds nothing, so nothing is made of it"})
	}
	if len(errs) == 0 {
		return nil
	}
	return errs
}

// metadata of a generator: only its name and its function matter here.
func (p *parser) metadata(g *Generator, f *fields) {
	n := f.take("metadata")
	if n == nil {
		p.fail(f.node, "metadata", "is missing; kustomize wants metadata.name")
		return
	}
	meta := p.fields(n, "metadata")
	g.Name, _ = meta.text("name")
	if g.Name == "" {
		p.fail(n, "metadata.name", "is missing; kustomize wants a name")
	}
	annotations := meta.take("annotations")
	if annotations == nil {
		return
	}
	for k, v := range p.fields(annotations, "metadata.annotations").values {
		if k == functionAnnotation && v.Kind == yaml.ScalarNode {
			g.Function = v.Value
		}
	}
}

func (p *parser) generator(g *Generator, f *fields) {
	if s, n := f.text("workspace"); n != nil {
		ws, err := manifest.ParseWorkspace(s)
		if err != nil {
			p.fail(n, "workspace", "%s", err)
		}
		g.Workspace = ws
	}
	var defaults Target
	if n := f.take("options"); n != nil {
		p.options(p.fields(n, "options"), &defaults)
	}
	for i, n := range f.list("secrets") {
		g.Secrets = append(g.Secrets, p.secretEntry(n, fmt.Sprintf("secrets[%d]", i), defaults))
	}
	for i, n := range f.list("files") {
		g.Files = append(g.Files, p.fileEntry(n, fmt.Sprintf("files[%d]", i), defaults))
	}
	for i, n := range f.list("sources") {
		g.Sources = append(g.Sources, p.sourceEntry(n, fmt.Sprintf("sources[%d]", i), defaults))
	}
	f.done("apiVersion, kind, metadata, workspace, options, secrets, files, sources")
}

func (p *parser) secretEntry(n *yaml.Node, path string, defaults Target) SecretEntry {
	f := p.fields(n, path)
	e := SecretEntry{Line: n.Line, Target: defaults}
	for _, field := range []string{"workspace", "name"} {
		s, at := f.text(field)
		var err error
		switch {
		case at == nil:
			p.fail(n, f.at(field), "is missing; a secret is named by workspace and name")
		case field == "workspace":
			e.Workspace, err = manifest.ParseScope(s)
		default:
			e.Secret, err = manifest.ParseName(s)
		}
		if err != nil {
			p.fail(at, f.at(field), "%s", err)
		}
	}
	p.target(f, &e.Target)
	f.done("workspace, name, metadata, type, immutable, keys, options")
	return e
}

func (p *parser) fileEntry(n *yaml.Node, path string, defaults Target) FileEntry {
	e := FileEntry{Line: n.Line, Target: defaults}
	if n.Kind == yaml.ScalarNode {
		e.Path = p.path(n, path, p.text(n, path))
		return e
	}
	f := p.fields(n, path)
	s, at := f.text("path")
	if at == nil {
		at = n
	}
	e.Path = p.path(at, f.at("path"), s)
	p.target(f, &e.Target)
	f.done("path, metadata, type, immutable, keys, options")
	return e
}

func (p *parser) sourceEntry(n *yaml.Node, path string, defaults Target) SourceEntry {
	f := p.fields(n, path)
	e := SourceEntry{Line: n.Line, Target: defaults}
	p.target(f, &e.Target)
	p.sourceFiles(f, &e)
	f.done("metadata, type, immutable, keys, options, files, binaryFiles, envs")
	return e
}

// sourceFiles reads what one Secret is made of: [KEY=]PATH as kustomize and KSOPS
// have it; without KEY it is the file's name.
func (p *parser) sourceFiles(f *fields, e *SourceEntry) {
	for _, list := range []struct {
		name string
		to   *[]SourceFile
	}{{"files", &e.Files}, {"binaryFiles", &e.BinaryFiles}, {"envs", &e.Envs}} {
		for i, n := range f.list(list.name) {
			field := fmt.Sprintf("%s[%d]", f.at(list.name), i)
			s := SourceFile{Path: p.text(n, field), Line: n.Line}
			if list.name != "envs" {
				name := path.Base(s.Path)
				if key, at, ok := strings.Cut(s.Path, "="); ok {
					name, s.Path = key, at
				}
				key, err := manifest.ParseKey(name)
				if err != nil {
					p.fail(n, field, "%s; write KEY=PATH", err)
				}
				s.Key = key
			}
			s.Path = p.path(n, field, s.Path)
			*list.to = append(*list.to, s)
		}
	}
	if e.Name == "" {
		p.fail(f.node, f.at("metadata.name"), "is missing; these files make a Secret, which needs a name")
	}
	if len(e.Files)+len(e.BinaryFiles)+len(e.Envs) == 0 {
		p.fail(f.node, f.at("files"), "are missing; name files, binaryFiles or envs")
	}
}

// target reads what an entry says of the Secret that it makes.
func (p *parser) target(f *fields, t *Target) {
	if n := f.take("metadata"); n != nil {
		p.targetMetadata(p.fields(n, f.at("metadata")), t)
	}
	if s, n := f.text("type"); n != nil {
		if !isSecretType(s) {
			p.fail(n, f.at("type"), "is no type of a Kubernetes Secret, such as Opaque or kubernetes.io/tls")
		}
		t.Type = s
	}
	t.Immutable = f.boolean("immutable")
	for i, n := range f.list("keys") {
		if k, ok := p.keyEntry(n, fmt.Sprintf("%s[%d]", f.at("keys"), i)); ok {
			t.Keys = append(t.Keys, k)
		}
	}
	seen := map[manifest.Key]bool{}
	for _, k := range t.Keys {
		if seen[k.To] {
			p.fail(&yaml.Node{Line: k.Line, Column: 1}, f.at("keys"), "%s would stand twice in the Secret; keep one", k.To)
		}
		seen[k.To] = true
	}
	if n := f.take("options"); n != nil {
		p.options(p.fields(n, f.at("options")), t)
	}
}

// targetMetadata of the Secret.
func (p *parser) targetMetadata(f *fields, t *Target) {
	t.Name, t.Namespace = f.objectName("name"), f.namespace("namespace")
	t.Labels = merged(t.Labels, f.pairs("labels"))
	p.annotations(f, t)
	f.done("name, namespace, labels, annotations")
}

// annotations of the Secret. kustomize's options may stand among them, as KSOPS has
// them.
func (p *parser) annotations(f *fields, t *Target) {
	annotations := f.pairs("annotations")
	hash, behavior, err := takeOptions(annotations)
	if err != nil {
		p.fail(f.node, f.at("annotations"), "%s", err)
	}
	if hash != nil {
		t.NeedsHash = hash
	}
	if behavior != "" {
		t.Behavior = behavior
	}
	t.Annotations = merged(t.Annotations, annotations)
}

func (p *parser) keyEntry(n *yaml.Node, path string) (k KeyEntry, ok bool) {
	from, to := "", ""
	if n.Kind == yaml.ScalarNode {
		from = p.text(n, path)
		to = from
	} else {
		f := p.fields(n, path)
		from, _ = f.text("from")
		to, _ = f.text("to")
		f.done("from, to")
	}
	var err, err2 error
	k.Line = n.Line
	k.From, err = manifest.ParseKey(from)
	k.To, err2 = manifest.ParseKey(to)
	if err = cmp.Or(err, err2); err != nil {
		p.fail(n, path, "%s; write a key, or {from: KEY, to: KEY}", err)
	}
	return k, err == nil
}

func (p *parser) options(f *fields, t *Target) {
	p.annotations(f, t)
	if hash := f.boolean("needsHash"); hash != nil {
		t.NeedsHash = hash
	}
	if s, n := f.text("behavior"); n != nil {
		if err := checkBehavior(s); err != nil {
			p.fail(n, f.at("behavior"), "%s", err)
		}
		t.Behavior = s
	}
	t.Labels = merged(t.Labels, f.pairs("labels"))
	f.done("needsHash, behavior, labels, annotations")
}

func checkBehavior(s string) error {
	if s != "create" && s != "merge" && s != "replace" {
		return errors.New("is none of create, merge and replace")
	}
	return nil
}

// takeOptions takes kustomize's options out of annotations.
func takeOptions(annotations map[string]string) (needsHash *bool, behavior string, err error) {
	if s, ok := annotations[NeedsHashAnnotation]; ok {
		yes, e := strconv.ParseBool(s) // as kustomize reads it
		if e != nil {
			return nil, "", fmt.Errorf("%s is neither true nor false", NeedsHashAnnotation)
		}
		needsHash = &yes
	}
	if s, ok := annotations[BehaviorAnnotation]; ok {
		if err := checkBehavior(s); err != nil {
			return nil, "", fmt.Errorf("%s %w", BehaviorAnnotation, err)
		}
		behavior = s
	}
	delete(annotations, NeedsHashAnnotation)
	delete(annotations, BehaviorAnnotation)
	return needsHash, behavior, nil
}

// merged is a with what b says; neither is changed.
func merged(a, b map[string]string) map[string]string {
	if len(b) == 0 {
		return a
	}
	out := maps.Clone(a)
	if out == nil {
		out = map[string]string{}
	}
	maps.Copy(out, b)
	return out
}

var secretType = regexp.MustCompile(`^[-A-Za-z0-9._/]+$`)

func isSecretType(s string) bool { return len(s) <= 253 && secretType.MatchString(s) }
