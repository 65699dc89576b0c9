package review

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/sealward/sealward/gitops/gitcmd"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
)

// The generators that plugins/kustomize reads. Their texts are what git grep looks for.
const (
	ownGenerator   = "SealedSecretGenerator"
	ownVersion     = "sealward.dev/v1"
	ksopsGenerator = "ksops"
	ksopsVersion   = "viaduct.ai/v1"
)

// generatorTexts are what every file with a generator holds, be its kind misspelt.
func generatorTexts() []string { return []string{ownGenerator, "sealward.dev/v", ksopsVersion} }

func namesGenerator(data []byte) bool {
	return slices.ContainsFunc(generatorTexts(), func(s string) bool { return bytes.Contains(data, []byte(s)) })
}

// kustomize looks into how the repository's kustomizations use our generators. Nothing is
// read where there is neither a generator nor a sealed Kubernetes Secret.
func (c *checker) kustomize(ctx context.Context) error {
	if c.repo.clone == nil || len(c.generators)+len(c.sealedOutside) == 0 {
		return nil
	}
	found, err := c.tree.kustomizeFindings(ctx, append(c.generators, c.sealedOutside...), c.opts.Generators)
	if err != nil {
		return err
	}
	for _, f := range found {
		c.add(f.ID, f.Path, f.Line, f.Column, f.Field, f.Message, f.Remedy)
	}
	return nil
}

// kustomizeDifference is kustomize for what differs from the base: what is found in a file
// that changed, and what the base did not have.
func (c *checker) kustomizeDifference(ctx context.Context) error {
	_, relevant := c.changed[workspace.SettingsFile]
	for p, ch := range c.changed {
		if _, ours, _ := manifest.Locate(p); !ours && (ch.New == nil || isKustomization(p)) {
			relevant = true
			break
		}
	}
	if !relevant && !c.kustomizes {
		return nil
	}
	now, err := c.tree.allKustomizeFindings(ctx, c.opts.Generators)
	if err != nil {
		return err
	}
	var before []Finding
	looked := false
	for _, f := range now {
		if _, changed := c.changed[f.Path]; !changed {
			if !looked {
				looked = true
				if before, err = c.opts.Base.allKustomizeFindings(ctx, c.opts.Generators); err != nil {
					return err
				}
			}
			if slices.Contains(before, f) {
				continue
			}
		}
		c.add(f.ID, f.Path, f.Line, f.Column, f.Field, f.Message, f.Remedy)
	}
	return nil
}

func (t *Tree) allKustomizeFindings(ctx context.Context, parse generatorParser) ([]Finding, error) {
	texts := []string{"-F"}
	for _, s := range append(generatorTexts(), "sops") {
		texts = append(texts, "-e", s)
	}
	found, err := t.grep(ctx, texts, nil, true)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return t.kustomizeFindings(ctx, found, parse)
}

// aboutKustomize reports a file whose change can matter to what kustomize finds.
func aboutKustomize(data []byte) bool {
	for _, text := range append(generatorTexts(), "sops", "kustomize", "KUSTOMIZE", " -k", "argoproj.io") {
		if bytes.Contains(data, []byte(text)) {
			return true
		}
	}
	return false
}

// isKustomization reports the names that kustomize looks for in a folder.
func isKustomization(p string) bool {
	switch path.Base(p) {
	case "kustomization.yaml", "kustomization.yml", "Kustomization":
		return true
	}
	return false
}

// generatorParser is CheckOptions.Generators.
type generatorParser = func(file string, line int, text []byte) error

// kustomizeLint is one look at the kustomizations of a tree.
type kustomizeLint struct {
	tree     *Tree
	parse    generatorParser
	settings workspace.Settings
	stated   bool // the settings could be read

	kustomizations map[string]*kustomization // by folder
	generators     map[string][]*generator   // by file; those that stand in a file of their own
	used           map[*generator]bool
	walked         map[string]bool
	found          map[string][]*generator // what below answered
	reached        map[reachedKey]bool     // what reaches answered
	secrets        []listed                // resources that may be sealed Secrets
	sealed         map[string]bool         // files outside workspaces/ that may hold one
	calls          []stockBuild
	folders        []string // of kustomizations, sorted
	argoOptions    bool     // Argo CD is told both flags
	fluxDecrypts   bool     // Flux unseals after its build

	// tops are the folders that no other kustomization lists: what gets built. takenBy
	// has for each other folder those that take it in; made when first asked for.
	tops     []string
	takenBy  map[string][]string
	denied   map[string]bool   // what a top was told already
	texts    map[string]listed // files of generators, with the entry that lists one first
	wanted   []wantedFile
	findings []Finding
}

// kustomization is what matters here of one.
type kustomization struct {
	path, dir string
	entries   map[string][]listed
	changes   []listed // fields that change what it lists
}

// listed is one entry of a list in a kustomization.
type listed struct {
	in           *kustomization
	field        string
	text         string
	block        bool // of lines below a | or >
	line, column int
	inline       []*generator // what stands in the entry itself
}

// generator is one document of ours.
type generator struct {
	path   string
	offset int // lines above the document in its file, where it stands inline
	doc    *yaml.Node
	kind   string
	// execs says that stock kustomize has to run a program for it.
	execs bool
}

// wantedFile is a file that a generator names.
type wantedFile struct {
	g         *generator
	at        *yaml.Node
	field     string
	paths     []string           // one of these has to be there
	text      string             // as it stands
	root      string             // the kustomization's folder
	source    bool               // no manifest
	workspace manifest.Workspace // of a secret that is named so, else the generator's, which may be zero
}

func (l *kustomizeLint) add(id CheckID, path string, line, column int, field, message, remedy string) {
	l.findings = append(l.findings, Finding{ID: id, Path: path, Line: max(line, 1), Column: column, Field: field, Message: message, Remedy: remedy})
}

func (l *kustomizeLint) at(id CheckID, e listed, message, remedy string) {
	l.add(id, e.in.path, e.line, e.column, e.field, message, remedy)
}

// on notes a finding about a place in a generator.
func (l *kustomizeLint) on(id CheckID, g *generator, n *yaml.Node, field, message, remedy string) {
	column := n.Column
	if g.offset > 0 {
		column = 0
	}
	l.add(id, g.path, n.Line+g.offset, column, field, message, remedy)
}

// kustomizeFindings looks at the kustomizations of a tree; candidates are the files that
// may have a generator of ours or a sealed Secret. Level and the usual remedy are for the caller to add.
func (t *Tree) kustomizeFindings(ctx context.Context, candidates []string, parse generatorParser) ([]Finding, error) {
	l := &kustomizeLint{tree: t, parse: parse, texts: map[string]listed{}, kustomizations: map[string]*kustomization{}, generators: map[string][]*generator{}, used: map[*generator]bool{}, walked: map[string]bool{}, sealed: map[string]bool{}, found: map[string][]*generator{}, reached: map[reachedKey]bool{}}
	if err := l.read(ctx, candidates); err != nil {
		return nil, err
	}
	referenced := map[string]bool{}
	for _, k := range l.kustomizations {
		for _, list := range k.entries {
			for _, e := range list {
				if p, ok := l.resolve(k.dir, e.text); ok && l.kustomizations[p] != nil && p != k.dir {
					referenced[p] = true
				}
			}
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(l.kustomizations)) {
		if !referenced[dir] {
			l.build(dir)
			l.tops = append(l.tops, dir)
		}
	}
	for _, file := range slices.Sorted(maps.Keys(l.generators)) {
		for _, g := range l.generators[file] {
			if !l.used[g] {
				l.on(KustomizeUnlisted, g, g.doc, "", "no kustomization lists this generator, so nothing is made of it", "")
			}
		}
	}
	if err := l.generatorFiles(ctx); err != nil {
		return nil, err
	}
	if err := l.targets(ctx); err != nil {
		return nil, err
	}
	l.stockBuilds()
	if err := l.sealedResources(ctx); err != nil {
		return nil, err
	}
	return sortFindings(l.findings), nil
}

// read finds and parses kustomizations, generators and what calls kustomize.
func (l *kustomizeLint) read(ctx context.Context, candidates []string) error {
	data, err := l.tree.ReadPath(ctx, workspace.SettingsFile)
	if err == nil {
		l.settings, err = workspace.ParseSettings(data)
	}
	if l.stated = err == nil || errors.Is(err, fs.ErrNotExist); !l.stated && ctx.Err() != nil {
		return ctx.Err()
	}
	names, err := l.tree.grep(ctx, []string{"-F", "-e", "kustomize", "-e", "KUSTOMIZE", "-e", " -k", "-e", "argoproj.io"}, nil, true)
	if err != nil {
		return err
	}
	wanted := map[string]bool{}
	for _, p := range candidates {
		l.sealed[p] = true        // if it is, which sealedResources looks at
		wanted[p] = isNotation(p) // not the pages that tell of generators
	}
	for _, p := range names {
		wanted[p] = isNotation(p) || isScript(p)
	}
	files, err := l.tree.Files(ctx)
	if err != nil {
		return err
	}
	files = slices.DeleteFunc(files, func(f File) bool {
		_, ours, _ := manifest.Locate(f.Path)
		return ours || !f.Mode.IsFile() || !wanted[f.Path] && !isKustomization(f.Path)
	})
	contents := make([][]byte, len(files))
	if err := inParallel(ctx, len(files), func(i int) error {
		data, err := l.tree.Read(ctx, files[i])
		if errors.Is(err, gitcmd.ErrTooLarge) || errors.Is(err, gitcmd.ErrNoObject) {
			return nil
		}
		contents[i] = data
		return err
	}); err != nil {
		return err
	}
	for i, f := range files {
		switch data := contents[i]; {
		case isKustomization(f.Path):
			l.kustomization(f.Path, data)
		case isNotation(f.Path) && namesGenerator(data):
			l.generators[f.Path] = generatorsIn(f.Path, data, 0)
		default:
			l.callsIn(f.Path, data)
		}
	}
	return nil
}

func kustomizationFields() []string {
	return []string{"resources", "bases", "components", "generators", "transformers", "validators"}
}

// changingFields of a kustomization change what it lists.
func changingFields() []string {
	return []string{"namePrefix", "nameSuffix", "namespace", "labels", "commonLabels", "commonAnnotations", "patches", "patchesStrategicMerge", "patchesJson6902", "replacements", "transformers"}
}

func (l *kustomizeLint) kustomization(file string, data []byte) {
	var doc yaml.Node
	if yaml.Unmarshal(data, &doc) != nil || len(doc.Content) != 1 {
		return // kustomize says so itself
	}
	k := &kustomization{path: file, dir: path.Dir(file), entries: map[string][]listed{}}
	root := doc.Content[0]
	for _, field := range kustomizationFields() {
		list := sub(root, field)
		if list == nil || list.Kind != yaml.SequenceNode {
			continue
		}
		for i, n := range list.Content {
			if n = meant(n); n.Kind == yaml.ScalarNode {
				e := listed{in: k, field: fmt.Sprintf("%s[%d]", field, i), text: n.Value, block: n.Style == yaml.LiteralStyle || n.Style == yaml.FoldedStyle, line: n.Line, column: n.Column}
				if strings.ContainsAny(n.Value, "\n{") && namesGenerator([]byte(n.Value)) {
					e.inline = generatorsIn(file, []byte(n.Value), n.Line) // a block starts below its |
				}
				k.entries[field] = append(k.entries[field], e)
			}
		}
	}
	for _, field := range changingFields() {
		if n := sub(root, field); n != nil && n.Tag != "!!null" {
			k.changes = append(k.changes, listed{in: k, field: field, line: n.Line, column: n.Column})
		}
	}
	l.kustomizations[k.dir] = k
}

// generatorsIn finds the generators of ours among the documents of a file; offset counts
// the lines above data.
func generatorsIn(file string, data []byte, offset int) (out []*generator) {
	d := yaml.NewDecoder(bytes.NewReader(data))
	for range 1000 { // documents
		var doc yaml.Node
		if d.Decode(&doc) != nil {
			break
		}
		if len(doc.Content) != 1 {
			continue
		}
		root := doc.Content[0]
		version, kind := textOf(root, "apiVersion"), textOf(root, "kind")
		if version == ownVersion && kind == ownGenerator || version == ksopsVersion && kind == ksopsGenerator {
			out = append(out, &generator{path: file, offset: offset, doc: root, kind: kind})
		}
	}
	return out
}

// sub is a field of a mapping; nil where there is no such thing.
func sub(n *yaml.Node, name string) *yaml.Node {
	if n = meant(n); n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	return meant(child(n, name))
}

// textOf a mapping's field, "" where it is no text.
func textOf(n *yaml.Node, name string) string {
	if v := sub(n, name); v != nil && v.Kind == yaml.ScalarNode {
		return v.Value
	}
	return ""
}

// resolve makes an entry a path of the tree; ok is false for what is elsewhere.
func (l *kustomizeLint) resolve(dir, text string) (p string, ok bool) {
	if text == "" || path.IsAbs(text) || strings.ContainsAny(text, "\n?") || strings.Contains(text, "://") || strings.HasPrefix(text, "git@") {
		return "", false
	}
	p = path.Join(dir, text)
	return p, p != ".." && !strings.HasPrefix(p, "../")
}

// build follows a kustomization as kustomize would build it.
func (l *kustomizeLint) build(dir string) {
	k := l.kustomizations[dir]
	if k == nil || l.walked["build "+dir] {
		return
	}
	l.walked["build "+dir] = true
	for _, field := range kustomizationFields() {
		for _, e := range k.entries[field] {
			switch field {
			case "resources", "bases", "components":
				l.resource(e)
			case "generators":
				l.generate(dir, e)
			default:
				l.transform(e)
			}
		}
	}
}

// resource is one entry of resources:.
func (l *kustomizeLint) resource(e listed) {
	p, ok := l.resolve(e.in.dir, e.text)
	if !ok {
		return
	}
	if l.kustomizations[p] != nil {
		l.build(p)
		return
	}
	if gs := l.generators[p]; len(gs) > 0 {
		l.misplaced(gs, e, "a generator among resources is passed on as it is; no Secret is made")
		return
	}
	l.secrets = append(l.secrets, e)
}

func (l *kustomizeLint) misplaced(gs []*generator, e listed, message string) {
	for _, g := range gs {
		l.used[g] = true
	}
	l.at(KustomizeDropped, e, message, "list it under generators:")
}

// transform is one entry of transformers: or validators:.
func (l *kustomizeLint) transform(e listed) {
	gs := l.of(e)
	if len(gs) > 0 {
		l.misplaced(gs, e, "a generator makes nothing as a transformer or validator: without --enable-exec it is left out in silence, with it it refuses")
	}
}

// below lists the generators of a file, or of the files that a folder's kustomization
// lists.
func (l *kustomizeLint) below(p string) []*generator {
	if found, ok := l.found[p]; ok {
		return found
	}
	var out []*generator
	seen := map[string]bool{}
	todo := []string{p}
	for len(todo) > 0 {
		p := todo[0]
		todo = todo[1:]
		if seen[p] {
			continue
		}
		seen[p] = true
		k := l.kustomizations[p]
		if k == nil {
			out = append(out, l.generators[p]...)
			continue
		}
		for _, e := range k.bases() {
			if q, ok := l.resolve(p, e.text); ok {
				todo = append(todo, q)
			}
		}
	}
	l.found[p] = out
	return out
}

// bases are the entries of a kustomization that it passes on.
func (k *kustomization) bases() []listed {
	return slices.Concat(k.entries["resources"], k.entries["bases"], k.entries["components"])
}

// of lists the generators of an entry of generators: or transformers:.
func (l *kustomizeLint) of(e listed) []*generator {
	if p, ok := l.resolve(e.in.dir, e.text); ok && len(e.inline) == 0 {
		return l.below(p)
	}
	return e.inline
}

// maxWanted bounds what is looked up for a tree: one generator of many entries can be
// listed by many kustomizations.
const maxWanted = 200_000

// generate is one entry of generators: in the kustomization of a folder.
func (l *kustomizeLint) generate(root string, e listed) {
	l.note(e)
	gs := l.of(e)
	if p, ok := l.resolve(root, e.text); ok && len(gs) > 0 {
		l.changedGenerators(p)
	}
	for _, g := range gs {
		if len(l.wanted) > maxWanted {
			return
		}
		if !l.used[g] {
			l.used[g] = true
			l.function(g)
			l.localTargets(g)
		}
		l.entries(g, root)
	}
}

// note has the texts behind an entry of generators: looked into.
func (l *kustomizeLint) note(e listed) {
	if strings.Contains(e.text, "\n") || strings.HasPrefix(strings.TrimSpace(e.text), "{") {
		line := e.line
		if e.block {
			line++ // the text starts below its |
		}
		l.invalid(e.in.path, line, []byte(e.text))
		return
	}
	p, ok := l.resolve(e.in.dir, e.text)
	if !ok || strings.Contains(e.text, "//") || l.walked["texts "+p] { // a base from elsewhere
		return
	}
	l.walked["texts "+p] = true
	if k := l.kustomizations[p]; k != nil {
		for _, e := range k.bases() {
			l.note(e)
		}
		return
	}
	l.texts[p] = e
}

// generatorFiles looks into the files that kustomizations list as generators.
func (l *kustomizeLint) generatorFiles(ctx context.Context) error {
	if len(l.texts) == 0 {
		return nil
	}
	files, err := l.tree.Files(ctx, slices.Sorted(maps.Keys(l.texts))...)
	if err != nil {
		return err
	}
	there := map[string]File{}
	for _, f := range files {
		there[f.Path] = f
	}
	for p, e := range l.texts {
		f, ok := there[p]
		if !ok {
			l.at(KustomizeMissing, e, fmt.Sprintf("%.80q is no file and no folder with a kustomization", e.text), "mend the path, which is relative to "+e.in.dir)
			continue
		}
		if !f.Mode.IsFile() || l.parse == nil {
			continue
		}
		data, err := l.tree.Read(ctx, f)
		if errors.Is(err, gitcmd.ErrTooLarge) || errors.Is(err, gitcmd.ErrNoObject) {
			continue
		}
		if err != nil {
			return err
		}
		l.invalid(p, 1, data)
	}
	return nil
}

// invalid reports what a build would refuse of a text of generators.
func (l *kustomizeLint) invalid(file string, line int, text []byte) {
	if l.parse == nil {
		return
	}
	var errs manifest.Errors
	if errors.As(l.parse(file, line, text), &errs) {
		for _, e := range errs {
			l.add(KustomizeInvalid, file, max(e.Line, line), e.Column, e.Field, e.Msg, "")
		}
	}
}

// changedGenerators reports the fields of a folder of generators that change those.
func (l *kustomizeLint) changedGenerators(p string) {
	k := l.kustomizations[p]
	if k == nil || l.walked["generators "+p] {
		return
	}
	l.walked["generators "+p] = true
	for _, change := range k.changes {
		l.at(KustomizeFunction, change, "changes the generator, not the Secret that it makes, and can take its function away; sealward build refuses it", "")
	}
	for _, e := range k.bases() {
		if q, ok := l.resolve(p, e.text); ok {
			l.changedGenerators(q)
		}
	}
}

// entries notes the files that a generator names, for targets.
func (l *kustomizeLint) entries(g *generator, root string) {
	own, _ := manifest.ParseWorkspace(textOf(g.doc, "workspace"))
	each := func(parent *yaml.Node, prefix, field string, do func(n *yaml.Node, field string)) {
		if list := sub(parent, field); list != nil && list.Kind == yaml.SequenceNode {
			for i, n := range list.Content {
				do(meant(n), fmt.Sprintf("%s%s[%d]", prefix, field, i))
			}
		}
	}
	file := func(n *yaml.Node, field, text string, source bool) {
		if p, ok := l.resolve(root, text); ok {
			l.wanted = append(l.wanted, wantedFile{g, n, field, []string{p}, text, root, source, own})
		} else {
			l.on(KustomizeMissing, g, n, field, fmt.Sprintf("%.80q leads out of the repository", text), "")
		}
	}
	if g.kind == ownGenerator {
		each(g.doc, "", "secrets", func(n *yaml.Node, field string) {
			ws, err1 := manifest.ParseScope(textOf(n, "workspace"))
			name, err2 := manifest.ParseName(textOf(n, "name"))
			if err1 != nil || err2 != nil {
				return // the build says so
			}
			folder := strings.TrimSuffix(manifest.SecretPath(ws, name), ".yaml")
			l.wanted = append(l.wanted, wantedFile{g, n, field, []string{folder + ".yaml", folder + ".json", folder}, ws.String() + "/" + name.String(), root, false, ws})
		})
	}
	each(g.doc, "", "files", func(n *yaml.Node, field string) {
		text := n.Value
		if n.Kind == yaml.MappingNode {
			text = textOf(n, "path")
		}
		file(n, field, text, false)
	})
	for _, sources := range []string{"sources", "secretFrom"} {
		each(g.doc, "", sources, func(n *yaml.Node, prefix string) {
			for _, list := range []string{"files", "binaryFiles", "envs"} {
				each(n, prefix+".", list, func(n *yaml.Node, field string) {
					text := n.Value
					if _, after, ok := strings.Cut(text, "="); ok {
						text = after
					}
					file(n, field, text, true)
				})
			}
		})
	}
}

// targets looks for the files that generators name, and whether they may.
func (l *kustomizeLint) targets(ctx context.Context) error {
	var paths []string
	for _, w := range l.wanted {
		paths = append(paths, w.paths...)
	}
	if len(paths) == 0 {
		return nil
	}
	slices.Sort(paths)
	files, err := l.tree.Files(ctx, slices.Compact(paths)...)
	if err != nil {
		return err
	}
	there := map[string]File{}
	for _, f := range files {
		for at := f.Path; at != "."; at = path.Dir(at) {
			there[at] = f
		}
	}
	for _, w := range l.wanted {
		i := slices.IndexFunc(w.paths, func(p string) bool { _, ok := there[p]; return ok })
		switch {
		case i < 0 && len(w.paths) > 1:
			l.on(KustomizeMissing, w.g, w.at, w.field, w.text+" is no secret of this repository", "sealward get secrets lists those of a workspace")
		case i < 0:
			l.on(KustomizeMissing, w.g, w.at, w.field, fmt.Sprintf("%.80q is not there: there is no file %.200s", w.text, w.paths[0]), "")
		default:
			if err := l.target(ctx, w, there[w.paths[i]]); err != nil {
				return err
			}
		}
		if i < 0 && len(w.paths) > 1 {
			l.allowed(w, w.workspace, false)
		}
	}
	return nil
}

// target checks a file that is there.
func (l *kustomizeLint) target(ctx context.Context, w wantedFile, f File) error {
	place, ours, _ := manifest.Locate(w.paths[0])
	if ours {
		l.allowed(w, place.Scope, false)
		return nil
	}
	if f.Path != w.paths[0] || !f.Mode.IsFile() {
		l.on(KustomizeMissing, w.g, w.at, w.field, fmt.Sprintf("%.80q is no plain file", w.text), "")
		return nil
	}
	data, err := l.tree.Read(ctx, f)
	if errors.Is(err, gitcmd.ErrTooLarge) || errors.Is(err, gitcmd.ErrNoObject) {
		return nil
	}
	if err != nil {
		return err
	}
	if w.source && !bytes.Contains(data, []byte("sops")) {
		l.add(ValueUnsealed, f.Path, 1, 0, "", "a generator takes it for a sealed file, and it is not sealed", "treat what is in it as leaked: change the credentials at their source; then seal the file anew: sops -e")
		return nil
	}
	root, _, rooted := l.settings.Roots.Of(f.Path)
	ws, adopted := w.workspace, true
	switch m, err := manifest.Parse(f.Path, data); {
	case err == nil && !w.source && (m.Form == manifest.DataOS || m.Secret != nil && m.Secret.Binding != "") && !m.Workspace.IsZero():
		ws, adopted = m.Workspace, m.Form == manifest.Kubernetes // it says itself whose it is
	case rooted:
		ws = root
	case !w.source:
		var object struct {
			Metadata struct {
				Namespace string `yaml:"namespace"`
			} `yaml:"metadata"`
		}
		if yaml.Unmarshal(data, &object) == nil {
			if of, err := manifest.ParseWorkspace(object.Metadata.Namespace); err == nil {
				ws = of
			}
		}
	}
	if !ws.IsZero() { // else who builds says it
		l.allowed(w, ws, adopted)
	}
	return nil
}

// allowed reports a workspace that the settings do not let the kustomization name.
// adopted files of a tree that states nothing are left to the keyring.
func (l *kustomizeLint) allowed(w wantedFile, ws manifest.Workspace, adopted bool) {
	allowed, stated := l.settings.Buildable(w.root, ws)
	if !l.stated || !stated && adopted {
		return
	}
	if allowed {
		l.allowedTops(w.root, ws)
		return
	}
	l.on(KustomizeWorkspace, w.g, w.at, w.field, fmt.Sprintf("the kustomization in %s may not name workspace %s", w.root, ws),
		fmt.Sprintf("if it may, have the workspace's owners agree and write into sealward.yaml: builds: {%s: [%s]}", w.root, ws))
}

// allowedTops reports the builds that take in a kustomization which names a workspace, and
// may not use it themselves.
func (l *kustomizeLint) allowedTops(root string, ws manifest.Workspace) {
	if l.takenBy == nil {
		l.takenBy, l.denied = l.takers(), map[string]bool{}
	}
	for _, top := range l.takenBy[root] {
		told := top + " " + ws.String()
		if allowed, _ := l.settings.Buildable(top, ws); allowed || l.denied[told] {
			continue
		}
		l.denied[told] = true
		l.add(KustomizeWorkspace, l.kustomizations[top].path, 1, 0, "", fmt.Sprintf("a build of %s takes in %s, which names workspace %s, and may not use it", top, root, ws),
			fmt.Sprintf("if it may, have the workspace's owners agree and write into sealward.yaml: builds: {%s: [%s]}", top, ws))
	}
}

// takers finds which tops take in which other folders.
func (l *kustomizeLint) takers() map[string][]string {
	out := map[string][]string{}
	steps := 0
	for _, top := range l.tops {
		seen := map[string]bool{}
		todo := []string{top}
		for len(todo) > 0 && steps < maxTakers {
			dir := todo[0]
			todo = todo[1:]
			k := l.kustomizations[dir]
			if k == nil || seen[dir] {
				continue
			}
			if seen[dir] = true; dir != top {
				out[dir] = append(out[dir], top)
			}
			for _, e := range k.bases() {
				steps++
				if p, ok := l.resolve(dir, e.text); ok {
					todo = append(todo, p)
				}
			}
		}
	}
	return out
}

// maxTakers bounds what a stranger's kustomizations cost, in entries that are followed.
const maxTakers = 1 << 20

// localTargets reports Secrets that kustomize drops for an annotation.
func (l *kustomizeLint) localTargets(g *generator) {
	look := func(n *yaml.Node, field string) {
		if at := sub(sub(n, "annotations"), "config.kubernetes.io/local-config"); at != nil && at.Value != "false" {
			l.on(KustomizeDropped, g, at, fieldAt(field, ".annotations"), "kustomize leaves out of its output what has config.kubernetes.io/local-config", "remove the annotation")
		}
	}
	look(sub(g.doc, "options"), "options")
	for _, list := range []string{"secrets", "files", "sources", "secretFrom"} {
		if n := sub(g.doc, list); n != nil && n.Kind == yaml.SequenceNode {
			for i, e := range n.Content {
				for _, part := range []string{"metadata", "options"} {
					look(sub(e, part), fmt.Sprintf("%s[%d].%s", list, i, part))
				}
			}
		}
	}
}

// sealedResources reports sealed Secrets among resources, where something in the
// repository builds them with stock kustomize and nothing unseals them after.
func (l *kustomizeLint) sealedResources(ctx context.Context) error {
	stock := len(l.calls) > 0 || slices.ContainsFunc(slices.Collect(maps.Keys(l.used)), func(g *generator) bool { return g.execs })
	if !stock || l.fluxDecrypts || len(l.secrets) == 0 {
		return nil
	}
	at := map[string][]listed{}
	var search []string
	for _, e := range l.secrets {
		if p, ok := l.resolve(e.in.dir, e.text); ok && isNotation(p) {
			at[p] = append(at[p], e)
		}
	}
	for p := range at {
		if _, ours, _ := manifest.Locate(p); ours || l.sealed[p] {
			search = append(search, p)
		}
	}
	if len(search) == 0 {
		return nil
	}
	slices.Sort(search)
	files, err := l.tree.Files(ctx, search...)
	if err != nil {
		return err
	}
	for _, f := range files {
		if !f.Mode.IsFile() {
			continue
		}
		data, err := l.tree.Read(ctx, f)
		if err != nil {
			if ctx.Err() != nil {
				return err
			}
			continue
		}
		if hasSealedSecret(data) {
			for _, e := range at[f.Path] {
				l.at(KustomizeSealed, e, "stock kustomize passes the sealed Secret on as ciphertext, and nobody can verify it after", "")
			}
		}
	}
	return nil
}

// hasSealedSecret reports a Kubernetes Secret with a sops section among documents.
func hasSealedSecret(data []byte) bool {
	d := yaml.NewDecoder(bytes.NewReader(data))
	for range 1000 {
		var doc yaml.Node
		if d.Decode(&doc) != nil {
			return false
		}
		if len(doc.Content) == 1 && textOf(doc.Content[0], "kind") == "Secret" && sub(doc.Content[0], "sops") != nil {
			return true
		}
	}
	return false
}

// functionSpec is what kustomize reads of a function annotation
// (kyaml/fn/runtime/runtimeutil). It refuses other fields.
type functionSpec struct {
	DeferFailure bool `yaml:"deferFailure"`
	Container    struct {
		Image   string      `yaml:"image"`
		Network bool        `yaml:"network"`
		Mounts  []yaml.Node `yaml:"mounts"`
		Envs    []string    `yaml:"envs"`
	} `yaml:"container"`
	Exec struct {
		Path string   `yaml:"path"`
		Args []string `yaml:"args"`
		Envs []string `yaml:"envs"`
	} `yaml:"exec"`
}

// Where kustomize looks for a function: the first that is not empty.
const (
	functionAnnotation = "config.kubernetes.io/function"
	oldFunction        = "config.k8s.io/function"
	configFn           = "metadata.configFn"
	containerFunction  = "config.kubernetes.io/container"
)

// function reports what stock kustomize would not run, or not as it reads.
func (l *kustomizeLint) function(g *generator) {
	meta := sub(g.doc, "metadata")
	if meta == nil {
		return
	}
	type stated struct {
		where string
		at    *yaml.Node
		text  string
	}
	var all []stated
	annotations := sub(meta, "annotations")
	for _, key := range []string{functionAnnotation, oldFunction} {
		if text := textOf(annotations, key); text != "" {
			all = append(all, stated{"annotation " + key, sub(annotations, key), text})
		}
	}
	if n := sub(meta, "configFn"); n != nil && n.Tag != "!!null" {
		text, err := yaml.Marshal(n)
		if err != nil {
			return
		}
		all = append(all, stated{configFn, n, string(text)})
	}
	if len(all) == 0 {
		if textOf(annotations, containerFunction) != "" {
			return
		}
		at, message := g.doc, "has no annotation "+functionAnnotation+": stock kustomize looks for a plugin program in its home, and fails without one"
		for _, wrong := range []*yaml.Node{meta, sub(meta, "labels"), g.doc} {
			if n := sub(wrong, functionAnnotation); n != nil {
				at, message = n, functionAnnotation+" must stand in metadata.annotations; here it means nothing, and stock kustomize looks for a plugin program in its home"
			}
		}
		l.on(KustomizeFunction, g, at, "metadata.annotations", message, "")
		return
	}
	for _, other := range all[1:] {
		if other.text != all[0].text {
			l.on(KustomizeFunction, g, other.at, "metadata", "is never looked at: "+all[0].where+" wins", "keep one")
		}
	}
	first := all[0]
	var spec functionSpec
	if err := workspace.DecodeStrict([]byte(first.text), &spec); err != nil {
		l.on(KustomizeFunction, g, first.at, "metadata.annotations", "kustomize cannot read the function: "+err.Error(), "")
		return
	}
	switch {
	case spec.Container.Image != "" && spec.Exec.Path != "":
		l.on(KustomizeFunction, g, first.at, "metadata.annotations", "names an image and a program: the image is run, and exec is never looked at", "keep one")
	case spec.Container.Image != "":
	case spec.Exec.Path == "":
		l.on(KustomizeDropped, g, first.at, "metadata.annotations", "the function has neither exec.path nor container.image: stock kustomize leaves the generator out in silence", "write exec: {path: sealward, args: [kustomize]}")
	default:
		g.execs = true
		if path.Base(spec.Exec.Path) == "sealward" && (len(spec.Exec.Args) == 0 || spec.Exec.Args[0] != "kustomize") {
			l.on(KustomizeFunction, g, first.at, "metadata.annotations", "runs sealward without the argument kustomize, which fails", "")
		}
		for _, env := range spec.Exec.Envs {
			if strings.Count(env, "=") != 1 {
				l.on(KustomizeFunction, g, first.at, "metadata.annotations", "kustomize drops an entry of exec.envs that has not exactly one =", "set the variable where kustomize is called")
			}
		}
	}
}

// anywhere stands for all folders.
const anywhere = ""

type reachedKey struct {
	dir       string
	anyOfThem bool
}

// reaches reports that a build of a folder runs into a generator of ours that wants a
// program, or with anyOfThem, into one at all.
func (l *kustomizeLint) reaches(dir string, anyOfThem bool) bool {
	key := reachedKey{dir, anyOfThem}
	if known, ok := l.reached[key]; ok {
		return known
	}
	l.reached[key] = false
	seen := map[string]bool{}
	todo := []string{dir}
	if dir == anywhere {
		todo = slices.Clone(l.folders)
	}
	for len(todo) > 0 {
		dir := todo[0]
		todo = todo[1:]
		k := l.kustomizations[dir]
		if k == nil || seen[dir] {
			continue
		}
		seen[dir] = true
		for _, e := range k.entries["generators"] {
			if slices.ContainsFunc(l.of(e), func(g *generator) bool { return anyOfThem || g.execs }) {
				l.reached[key] = true
				return true
			}
		}
		for _, e := range k.bases() {
			if p, ok := l.resolve(dir, e.text); ok {
				todo = append(todo, p)
			}
		}
	}
	return false
}
