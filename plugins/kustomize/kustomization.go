package kustomize

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"

	yamlv3 "go.yaml.in/yaml/v3"
	"sigs.k8s.io/kustomize/api/konfig"
	"sigs.k8s.io/kustomize/api/types"

	"github.com/sealward/sealward/seal/workspace"
)

// The lists of a kustomization that this package reads.
const (
	generators   = "generators"
	transformers = "transformers"
	validators   = "validators"
)

// rewriting is one kustomization file on its way to kustomize.
type rewriting struct {
	*buildFS
	root  string // its folder, absolute
	file  string // as errors name it
	data  []byte
	lines map[string][]int // of the entries of a list; made when first asked for

	jobs []*job
	// sealed resources that become virtual files when they are open.
	resources []func()
}

// job is what is unsealed for one generator or resource.
type job struct {
	run     func() ([]*Object, error)
	source  source
	objects []*Object
	err     error
}

// document is one YAML document that a list of generators, transformers or validators
// brings.
type document struct {
	file string // as errors name it
	line int    // where it starts, 1-based
	text []byte
	head header
	job  *job // of a generator of ours
}

// header is what tells documents apart, of whatever form the rest is.
type header struct {
	apiVersion, kind, name, namespace string
	function                          string // annotation
	sealed                            bool   // has a sops section
	entries                           bool   // has something that a generator of ours would make
}

// headerOf reads a document. One that is no YAML has an empty header: kustomize says
// what is wrong with it.
func headerOf(text []byte) (h header) {
	var doc yamlv3.Node
	if yamlv3.Unmarshal(text, &doc) != nil || len(doc.Content) == 0 {
		return h
	}
	value := func(path ...string) *yamlv3.Node {
		n := doc.Content[0]
		for _, name := range path {
			var found *yamlv3.Node
			for i := 0; n.Kind == yamlv3.MappingNode && i+1 < len(n.Content) && found == nil; i += 2 {
				if n.Content[i].Value == name {
					found = n.Content[i+1]
				}
			}
			if found == nil {
				return &yamlv3.Node{}
			}
			if n = found; n.Kind == yamlv3.AliasNode {
				n = n.Alias
			}
		}
		return n
	}
	h.apiVersion, h.kind = value("apiVersion").Value, value("kind").Value
	h.name, h.namespace = value("metadata", "name").Value, value("metadata", "namespace").Value
	h.function = cmp.Or(value("metadata", "annotations", functionAnnotation).Value, value("metadata", "annotations", "config.k8s.io/function").Value)
	h.sealed = !value("sops").IsZero()
	for _, name := range []string{"secrets", "files", "sources", "secretFrom"} {
		n := value(name)
		h.entries = h.entries || !n.IsZero() && n.Tag != "!!null" && (n.Kind != yamlv3.SequenceNode || len(n.Content) > 0)
	}
	return h
}

// holds reports that there is more than comments.
func (d *document) holds() bool {
	var doc yamlv3.Node
	return d.head != header{} || yamlv3.Unmarshal(d.text, &doc) != nil || !doc.IsZero()
}

func (d *document) ours() bool { return IsGenerator(d.head.apiVersion, d.head.kind) }
func (d *document) at() string { return fmt.Sprintf("%s:%d", d.file, d.line) }

// part is one inline text or one file that an entry of a list stands for.
type part struct {
	docs   []*document
	path   string // of the file, relative to the folder of the kustomization; "" for inline text
	opaque string // why nothing is known of it: it is for kustomize, or is refused
}

func (p part) ours() bool { return slices.ContainsFunc(p.docs, (*document).ours) }

// rewrite returns a kustomization file with what this package unseals replaced; one
// that has nothing of it comes back as it is.
func (f *buildFS) rewrite(root, file string, data []byte) ([]byte, error) {
	var k types.Kustomization
	if k.Unmarshal(data) != nil {
		return data, nil // kustomize says what is wrong with it
	}
	if root == f.dir {
		f.ordered = k.SortOptions != nil && k.SortOptions.Order == types.FIFOSortOrder
	}
	if IsClone(root) {
		f.runs = append(f.runs, "what a remote base, fetched anew, may then say")
	}
	r := &rewriting{buildFS: f, root: root, file: shown(file), data: data}
	lists := map[string]*[]string{generators: &k.Generators, transformers: &k.Transformers, validators: &k.Validators}
	expanded := map[string][][]part{}
	changed := false
	var errs []error
	for _, field := range []string{generators, transformers, validators} {
		expanded[field] = make([][]part, len(*lists[field]))
		for i, entry := range *lists[field] {
			parts, err := r.entry(field, i, entry)
			if err != nil {
				errs = append(errs, err)
			}
			expanded[field][i] = parts
			changed = changed || len(parts) > 0
		}
	}
	for _, list := range []*[]string{&k.Resources, &k.Bases} {
		for i := range *list {
			if err := r.resource(&(*list)[i]); err != nil {
				errs = append(errs, err)
			}
		}
	}
	if len(errs) == 0 {
		errs = r.unseal()
	}
	if err := joinErrors(errs); err != nil {
		return nil, err
	}
	if !changed && len(r.resources) == 0 {
		return data, nil
	}
	for _, replace := range r.resources {
		replace()
	}
	for _, field := range []string{generators, transformers, validators} {
		var out []string
		for i, entry := range *lists[field] {
			if len(expanded[field][i]) == 0 {
				out = append(out, entry)
				continue
			}
			for _, p := range expanded[field][i] {
				text, err := r.substitute(p)
				if err != nil {
					return nil, err
				}
				if text != "" {
					out = append(out, text)
				}
			}
		}
		*lists[field] = out // nil where nothing is left
	}
	for _, j := range r.jobs {
		if j.source.generator == nil {
			continue
		}
		names, err := r.asResources(j)
		if err != nil {
			return nil, err
		}
		k.Resources = append(k.Resources, names...)
	}
	if reflect.DeepEqual(k, types.Kustomization{TypeMeta: k.TypeMeta}) {
		// Its generators made nothing, which kustomize takes; an empty file it does not.
		k.MetaData = &types.ObjectMeta{Name: "kustomization"}
	}
	return printKustomization(k)
}

// printKustomization writes a kustomization so that kustomize reads the same.
func printKustomization(k types.Kustomization) ([]byte, error) {
	text, err := json.Marshal(k)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	flow(&b, v)
	return b.Bytes(), nil
}

// joinErrors joins the first few of many errors.
func joinErrors(errs []error) error {
	const most = 10
	if len(errs) > most {
		errs = append(errs[:most:most], fmt.Errorf("and %d more", len(errs)-most))
	}
	return errors.Join(errs...)
}

// entry looks at one entry of a list. It returns no parts when there is nothing of ours
// in it and kustomize shall see it as it is.
func (r *rewriting) entry(field string, i int, text string) ([]part, error) {
	var parts []part
	if strings.Contains(text, "\n") || strings.HasPrefix(strings.TrimSpace(text), "{") {
		parts = []part{{docs: split(r.file, r.line(field, i), []byte(text))}}
	} else {
		var err error
		if parts, err = r.path(r.root, "", text, []string{r.root}); err != nil {
			return nil, err
		}
	}
	at := fmt.Sprintf("%s: %s[%d]", r.file, field, i)
	ours := slices.ContainsFunc(parts, part.ours)
	for _, p := range parts {
		if p.opaque != "" && (ours || field == generators && p.opaque != opaqueForKustomize) {
			return nil, fmt.Errorf("%s: %s", at, p.opaque)
		}
		for _, d := range p.docs {
			if err := r.check(field, at, d); err != nil {
				return nil, err
			}
		}
		if field == generators && p.opaque == "" && !slices.ContainsFunc(p.docs, (*document).holds) {
			return nil, fmt.Errorf("%s: %.80q holds nothing, so nothing is made of it; remove the entry if that is meant", at, cmp.Or(p.path, text))
		}
	}
	if !ours {
		return nil, nil
	}
	for _, p := range parts {
		for _, d := range p.docs {
			if field == generators && d.ours() {
				r.generate(d, p.path)
			}
		}
	}
	return parts, nil
}

// check refuses a document that would be lost, or run, without anybody saying so.
func (r *rewriting) check(field, at string, d *document) error {
	switch h := d.head; {
	case field == generators && h == header{} && mentions(d.text) && d.holds():
		// Most likely broken; kustomize does not say in which folder.
		p := &parser{file: d.file}
		if p.document(d.line, d.text) == nil {
			return p.errs
		}
		return nil
	case d.ours() && field != generators && d.head.entries:
		return fmt.Errorf("%s: %s %s makes objects, which only a generator can: list it under generators:", d.at(), h.kind, h.name)
	case d.ours() || h.apiVersion == "" || h.apiVersion == konfig.BuiltinPluginApiVersion:
		return nil
	case strings.HasSuffix(h.kind, "List"):
		return nil // kustomize looks inside, and refuses what is not its own
	case strings.HasPrefix(h.apiVersion, Group+"/"):
		return fmt.Errorf("%s: %.80q, %.80q is no generator of sealward, which is %s, %s", d.at(), h.apiVersion, h.kind, APIVersion, Kind)
	case !r.opts.Plugins && h.kind == Kind:
		return fmt.Errorf("%s: apiVersion: %.80q is not that of a %s, which is %s", d.at(), h.apiVersion, Kind, APIVersion)
	case !r.opts.Plugins:
		return fmt.Errorf("%s: %s %s is a plugin that kustomize would run (%s): if you trust it, allow it with --enable-alpha-plugins, and a program of this machine with --enable-exec too", d.at(), h.kind, h.name, at)
	case !r.opts.Exec && isExec(h):
		return fmt.Errorf("%s: %s %s is a program of this machine, which kustomize would leave out without a word (%s): if you trust it, allow it with --enable-exec", d.at(), h.kind, h.name, at)
	}
	return nil
}

// isExec reports that a document is the configuration of an exec function.
func isExec(h header) bool {
	var spec struct {
		Exec struct {
			Path string `yaml:"path"`
		} `yaml:"exec"`
	}
	return h.function != "" && yamlv3.Unmarshal([]byte(h.function), &spec) == nil && spec.Exec.Path != ""
}

// runsOther reports that stock kustomize would run something else than sealward or KSOPS,
// from the PATH, for a generator of ours, which sealward build makes without any program.
func runsOther(text []byte) bool {
	var doc struct {
		Metadata struct {
			Annotations map[string]any `yaml:"annotations"`
			ConfigFn    any            `yaml:"configFn"`
		} `yaml:"metadata"`
	}
	if yamlv3.Unmarshal(text, &doc) != nil || doc.Metadata.ConfigFn != nil || doc.Metadata.Annotations["config.kubernetes.io/container"] != nil {
		return true
	}
	for _, name := range functionAnnotations() {
		function, set := doc.Metadata.Annotations[name]
		if !set {
			continue
		}
		var spec struct {
			Exec struct {
				Path string   `yaml:"path"`
				Args []string `yaml:"args"`
			} `yaml:"exec"`
		}
		said, _ := function.(string)
		known := workspace.DecodeStrict([]byte(said), &spec) == nil
		args := spec.Exec.Args
		if !known || spec.Exec.Path != "sealward" && spec.Exec.Path != KSOPSKind || len(args) > 1 || len(args) == 1 && args[0] != "kustomize" {
			return true
		}
	}
	return false
}

// opaqueForKustomize is of what kustomize will refuse itself.
const opaqueForKustomize = "cannot be read as a kustomization or its files; list files of generators instead"

// path expands a path that is listed in the folder dir, which is itself at, relative to
// the kustomization. above are the folders that were come through.
func (r *rewriting) path(dir, at, path string, above []string) ([]part, error) {
	rel := filepath.Join(at, path)
	if file, data, ok := r.load(dir, path); ok {
		return []part{{path: rel, docs: split(shown(file), 1, data)}}, nil
	}
	sub, ok := r.folder(dir, path)
	switch {
	case ok:
	case isRemote(path):
		return []part{{opaque: fmt.Sprintf("%.80q is an address: generators are not taken from elsewhere, because nothing says who wrote them; copy it here", path)}}, nil
	case !r.FileSystem.Exists(filepath.Join(dir, path)):
		return []part{{opaque: fmt.Sprintf("%.80q is no file and no folder here; generators are not fetched from elsewhere", path)}}, nil
	default:
		return []part{{opaque: opaqueForKustomize}}, nil
	}
	for _, dir := range above {
		if within(dir, sub) {
			return nil, fmt.Errorf("%s: a folder of generators contains the folder that lists it: %s", r.file, rel)
		}
	}
	k, name, ok := r.kustomization(sub)
	if !ok {
		return []part{{opaque: opaqueForKustomize}}, nil
	}
	var parts []part
	for _, path := range slices.Concat(k.Resources, k.Bases) {
		more, err := r.path(sub, rel, path, append(above, sub))
		if err != nil {
			return nil, err
		}
		parts = append(parts, more...)
	}
	if fields := others(k); slices.ContainsFunc(parts, part.ours) && len(fields) > 0 {
		return nil, fmt.Errorf("%s: %s: would be lost: in a folder of generators only resources: counts; state it in the generator, or in the kustomization that lists it (%s)",
			shown(filepath.Join(sub, name)), strings.Join(fields, ", "), r.file)
	}
	return parts, nil
}

// kustomization reads the kustomization file of a folder.
func (r *rewriting) kustomization(dir string) (k types.Kustomization, name string, ok bool) {
	for _, candidate := range konfig.RecognizedKustomizationFileNames() {
		data, err := r.FileSystem.ReadFile(filepath.Join(dir, candidate))
		switch {
		case err != nil:
		case name != "" || k.Unmarshal(data) != nil:
			return k, "", false
		default:
			name = candidate
		}
	}
	return k, name, name != ""
}

// others lists the fields of a kustomization that do more than name resources.
func others(k types.Kustomization) []string {
	k.TypeMeta, k.MetaData, k.Resources, k.Bases = types.TypeMeta{}, nil, nil, nil
	var out []string
	v := reflect.ValueOf(k)
	for i := range v.NumField() {
		if !v.Field(i).IsZero() {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			out = append(out, name)
		}
	}
	return out
}

// within reports that path is dir or below it; both are absolute and clean.
func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

// resource looks at one entry of resources: and has it unsealed where it is a file with
// a sealed Secret.
func (r *rewriting) resource(entry *string) error {
	file, data, ok := r.load(r.root, *entry)
	if !ok {
		if isRemote(*entry) {
			r.remote = append(r.remote, *entry)
		}
		return nil
	}
	if !mentions(data) {
		return nil
	}
	docs := split(shown(file), 1, data)
	sealed := 0
	for _, d := range docs {
		if d.ours() {
			return fmt.Errorf("%s: %s %s is a generator, which makes nothing among resources: list it under generators: of %s", d.at(), d.head.kind, d.head.name, r.file)
		}
		if d.head.sealed {
			sealed++
		}
	}
	switch {
	case sealed == 0:
		return nil
	case sealed < len(docs):
		return fmt.Errorf("%s: sealed objects stand in a file with others, where nothing can verify them: give each a file of its own", shown(file))
	case docs[0].head.apiVersion == "":
		return fmt.Errorf("%s: is a sealed secret of a workspace, and no object of Kubernetes: name it in a generator of kind %s", shown(file), Kind)
	}
	j := &job{source: source{shown: shown(file), origin: *entry}}
	path := *entry
	j.run = func() ([]*Object, error) {
		objects, err := r.u.Resource(r.ctx, r.root, path)
		if err != nil {
			return nil, fmt.Errorf("%s: resources: %w", r.file, err)
		}
		for _, o := range objects {
			o.ignoreOptions()
		}
		return objects, nil
	}
	r.jobs = append(r.jobs, j)
	r.resources = append(r.resources, func() {
		*entry = r.add(r.root, writeObjects(j.objects, base64.StdEncoding.EncodeToString), j.source)
		for _, o := range j.objects {
			r.made = append(r.made, made{o.Kind, o.Name, j.source.shown})
		}
	})
	return nil
}

// mentions reports that a file may hold something of ours.
func mentions(data []byte) bool {
	for _, word := range []string{"sops", Group, "viaduct.ai"} {
		if bytes.Contains(data, []byte(word)) {
			return true
		}
	}
	return false
}

// split cuts text into its documents.
func split(file string, line int, text []byte) []*document {
	var out []*document
	start, at := 0, line
	end := func(to, next, nextLine int) {
		d := &document{file: file, line: at, text: text[start:to]}
		if len(bytes.TrimSpace(d.text)) > 0 {
			d.head = headerOf(d.text)
			out = append(out, d)
		}
		start, at = next, nextLine
	}
	for pos := 0; pos < len(text); line++ {
		next := len(text)
		if n := bytes.IndexByte(text[pos:], '\n'); n >= 0 {
			next = pos + n + 1
		}
		if rest, ok := bytes.CutPrefix(text[pos:next], []byte("---")); ok && (len(bytes.TrimSpace(rest)) == 0 || bytes.HasPrefix(bytes.TrimSpace(rest), []byte("#"))) {
			end(pos, next, line+1)
		}
		pos = next
	}
	end(len(text), len(text), line)
	return out
}

// line of an entry of a list: that of its first line of text.
func (r *rewriting) line(field string, i int) int {
	if r.lines == nil {
		r.lines = map[string][]int{}
		var doc yamlv3.Node
		if yamlv3.Unmarshal(r.data, &doc) == nil && len(doc.Content) > 0 {
			top := doc.Content[0]
			for n := 0; n+1 < len(top.Content); n += 2 {
				var lines []int
				for _, item := range top.Content[n+1].Content {
					line := item.Line
					if item.Style == yamlv3.LiteralStyle || item.Style == yamlv3.FoldedStyle {
						line++ // the text starts below | or >
					}
					lines = append(lines, line)
				}
				r.lines[strings.ToLower(top.Content[n].Value)] = lines
			}
		}
	}
	if lines := r.lines[field]; i < len(lines) {
		return lines[i]
	}
	return 1 // an alias, or the like
}

// generate has a generator of ours resolved; path is where it stands, "" for inline.
func (r *rewriting) generate(d *document, path string) {
	if path == "" {
		path = filepath.Base(r.file)
	}
	d.job = &job{source: source{shown: fmt.Sprintf("%s %s (%s)", d.head.kind, d.head.name, d.at()), origin: path, generator: d}}
	if runsOther(d.text) {
		r.runs = append(r.runs, "the function of "+d.job.source.shown)
	}
	d.job.run = func() ([]*Object, error) {
		g, err := ParseGenerator(d.file, d.line, d.text)
		if err != nil {
			return nil, &InputError{err}
		}
		return r.u.Generate(r.ctx, r.root, g)
	}
	r.jobs = append(r.jobs, d.job)
}

// unseal runs all jobs of the kustomization, and finds two that make one
// object.
func (r *rewriting) unseal() []error {
	var running sync.WaitGroup
	for _, j := range r.jobs {
		running.Go(func() { j.objects, j.err = j.run() }) // the unsealer bounds how many do something
	}
	running.Wait()
	var errs []error
	type id struct{ kind, namespace, name string }
	seen := map[id]string{}
	for _, j := range r.jobs {
		if j.err != nil {
			errs = append(errs, j.err)
		}
		for _, o := range j.objects {
			if o.Other != nil || o.Behavior != "" && o.Behavior != "create" {
				continue
			}
			at := id{o.Kind, o.Namespace, o.Name}
			if by, twice := seen[at]; twice {
				errs = append(errs, fmt.Errorf("%s: %s and %s both make the %s %s: rename one, or give the second behavior: merge or replace", r.file, by, j.source.shown, o.Kind, o.Name))
			}
			seen[at] = j.source.shown
		}
	}
	return errs
}

// substitute is what kustomize gets in place of a part: inline text, or a virtual file;
// "" where nothing is left of it.
func (r *rewriting) substitute(p part) (string, error) {
	var out [][]byte
	for _, d := range p.docs {
		switch {
		case !d.ours():
			out = append(out, d.text)
		case d.job != nil:
			for _, o := range d.job.objects {
				text, err := r.asGenerator(d.job, o)
				if err != nil {
					return "", err
				}
				if len(text) > 0 {
					out = append(out, text)
				}
			}
		}
	}
	if len(out) == 0 {
		return "", nil
	}
	text := bytes.Join(out, []byte("\n---\n"))
	if p.path == "" {
		return string(text) + "\n", nil
	}
	return r.add(r.root, text, source{shown: p.path, origin: p.path}), nil
}
