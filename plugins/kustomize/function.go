package kustomize

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"

	"sigs.k8s.io/kustomize/kyaml/fn/framework"
	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
)

// maxInput bounds what a function reads: every resource of a build.
const maxInput = 64 << 20

// transformedAnnotation is on the items that kustomize hands to a transformer.
const transformedAnnotation = "kustomize.config.k8s.io/id"

// InputError says that a function was called in a wrong way, or configured wrongly.
type InputError struct{ err error }

func (e *InputError) Error() string { return e.err.Error() }
func (e *InputError) Unwrap() error { return e.err }

func inputf(format string, args ...any) error { return &InputError{fmt.Errorf(format, args...)} }

// IsClone reports that a folder is in a clone that kustomize made of a remote base.
// Who writes there must not bring settings of their own (Unsealer.Built).
func IsClone(dir string) bool {
	tmp, err := filepath.EvalSymlinks(os.TempDir())
	if err != nil {
		tmp = os.TempDir()
	}
	rel, err := filepath.Rel(tmp, dir)
	return err == nil && strings.HasPrefix(rel, "kustomize-")
}

// Function is a KRM function: what kustomize's exec and container functions run.
type Function struct {
	Unsealer *Unsealer
	// Dir is the folder of the kustomization, which kustomize makes the working
	// directory.
	Dir string
	// Warn tells what is odd but accepted; the results of a ResourceList hold it too.
	Warn func(text string)
}

// Run reads a ResourceList and writes one: with the items of the generator in its
// functionConfig added, or, as a transformer, with the items that came in. When that
// fails, it has results that say why, and no items, and the error is returned. Where
// no ResourceList could be read, nothing is written.
func (f *Function) Run(ctx context.Context, in io.Reader, out io.Writer) error {
	list, err := readResourceList(in)
	if err != nil {
		return err
	}
	var results framework.Results
	var mu sync.Mutex
	f.Unsealer.Warn = func(text string) {
		mu.Lock()
		defer mu.Unlock()
		results = append(results, &framework.Result{Severity: framework.Warning, Message: text, ResourceRef: list.reference()})
		if f.Warn != nil {
			f.Warn(text)
		}
	}
	made, failed := f.process(ctx, list)
	items := append(slices.DeleteFunc(slices.Clone(list.items), list.isConfig), made...)
	if failed != nil {
		items = nil
		results = append(results, resultsOf(failed, list.reference())...)
	}
	// Into memory first: what fails half-way must leave nothing on stdout.
	var buf bytes.Buffer
	if err := list.write(&buf, items, results); err != nil {
		return errors.Join(failed, err)
	}
	_, err = out.Write(buf.Bytes())
	return errors.Join(failed, err)
}

// process makes the items of the functionConfig.
func (f *Function) process(ctx context.Context, list *resourceList) ([]*yaml.RNode, error) {
	transformer := false
	for _, item := range list.items {
		if item.GetAnnotations()[transformedAnnotation] != "" {
			transformer = true
		}
		if field := item.Field("sops"); field != nil && field.Value.YNode().Kind == yaml.MappingNode {
			return nil, fmt.Errorf("%s %s is sealed and came in as a resource: kustomize sorts its fields, and then nothing proves that it is as it was sealed; take the file out of resources and name it in a generator (generators:, kind: %s, files:), or use sealward build",
				short(item.GetKind()), short(item.GetName()), Kind)
		}
	}
	if list.config == nil {
		return nil, inputf("the ResourceList has no functionConfig; list a %s under generators: of a kustomization", Kind)
	}
	text, err := list.config.String()
	if err != nil {
		return nil, inputf("the functionConfig cannot be read")
	}
	g, err := f.generator([]byte(text))
	if err != nil {
		return nil, err
	}
	if transformer {
		if len(g.Secrets)+len(g.Files)+len(g.Sources) > 0 {
			return nil, inputf("%s: is used as a transformer, where it makes nothing; list it under generators:", g.File)
		}
		return nil, nil
	}
	return f.make(ctx, g)
}

// generator parses a configuration as kustomize hands it over: as its file has it,
// so that errors name the line there, or else as it came.
func (f *Function) generator(config []byte) (*Generator, error) {
	file, line, text := f.source(config)
	if file == "" {
		file, line, text = "functionConfig", 1, config
	}
	g, err := ParseGenerator(file, line, text)
	if err != nil {
		return nil, &InputError{err}
	}
	return g, nil
}

func (f *Function) make(ctx context.Context, g *Generator) ([]*yaml.RNode, error) {
	objects, err := f.Unsealer.Generate(ctx, f.Dir, g)
	if err != nil {
		return nil, err
	}
	var out []*yaml.RNode
	for _, o := range objects {
		n, err := o.RNode()
		if err != nil { // its text may hold a value
			return nil, fmt.Errorf("%s: %s %s cannot be written as YAML", g.File, o.Kind, o.Name)
		}
		out = append(out, n)
	}
	return out, nil
}

// Generate is Run for kustomize's legacy exec plugins, which are given a file with
// the configuration: it writes the objects as a stream of YAML. resources is what
// stands on standard input, where a transformer gets the resources of a build.
func (f *Function) Generate(ctx context.Context, config, resources []byte, out io.Writer) error {
	if len(bytes.TrimSpace(resources)) > 0 {
		return inputf("is used as a transformer, where it makes nothing; list it under generators:")
	}
	if len(config) > maxGenerator {
		return inputf("the configuration has more than %d bytes", maxGenerator)
	}
	f.Unsealer.Warn = f.Warn
	g, err := f.generator(config)
	if err != nil {
		return err
	}
	made, err := f.make(ctx, g)
	if err != nil {
		return err
	}
	var buf bytes.Buffer
	if err := (kio.ByteWriter{Writer: &buf}).Write(made); err != nil {
		return fmt.Errorf("%s: the objects cannot be written as YAML", g.File)
	}
	_, err = out.Write(buf.Bytes())
	return err
}

// resourceList is what goes into a function and comes out of it.
type resourceList struct {
	apiVersion string
	config     *yaml.RNode // nil: there is none
	items      []*yaml.RNode
}

func readResourceList(in io.Reader) (*resourceList, error) {
	const hint = "; kustomize runs this command, see sealward kustomize --help"
	data, err := io.ReadAll(io.LimitReader(in, maxInput+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("standard input cannot be read: %w", err)
	case len(data) > maxInput:
		return nil, inputf("standard input has more than %d MiB", maxInput>>20)
	case len(bytes.TrimSpace(data)) == 0:
		return nil, inputf("standard input is empty; it should be a ResourceList%s", hint)
	}
	// The library's errors quote the input.
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, more yaml.Node
	if dec.Decode(&doc) != nil || len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return nil, inputf("standard input is no ResourceList, or not valid YAML%s", hint)
	}
	if !errors.Is(dec.Decode(&more), io.EOF) {
		return nil, inputf("standard input has more than one document; it should be one ResourceList%s", hint)
	}
	root := yaml.NewRNode(doc.Content[0])
	list := &resourceList{apiVersion: root.GetApiVersion()}
	if root.GetKind() != kio.ResourceListKind || !strings.HasPrefix(list.apiVersion, "config.kubernetes.io/") {
		return nil, inputf("standard input is no ResourceList (apiVersion: %s, kind: %s)%s", kio.ResourceListAPIVersion, kio.ResourceListKind, hint)
	}
	if field := root.Field("functionConfig"); field != nil && !field.Value.IsNilOrEmpty() {
		if list.config = field.Value; list.config.YNode().Kind != yaml.MappingNode {
			return nil, inputf("functionConfig in the ResourceList is no object")
		}
	}
	if field := root.Field("items"); field != nil && !yaml.IsMissingOrNull(field.Value) {
		if field.Value.YNode().Kind != yaml.SequenceNode {
			return nil, inputf("items in the ResourceList is no list")
		}
		for i, item := range field.Value.Content() {
			if item.Kind != yaml.MappingNode {
				return nil, inputf("items[%d] in the ResourceList is no object", i)
			}
			list.items = append(list.items, yaml.NewRNode(item))
		}
	}
	return list, nil
}

// isConfig tells the functionConfig among the items, where kustomize puts it for
// generators. Left there it would become a resource, and a second generator of that name
// in another kustomization of the build a conflict.
func (l *resourceList) isConfig(item *yaml.RNode) bool {
	return l.config != nil && item.GetAnnotations()[transformedAnnotation] == "" && IsGenerator(item.GetApiVersion(), item.GetKind()) &&
		item.GetKind() == l.config.GetKind() && item.GetName() == l.config.GetName()
}

// reference names the functionConfig in results.
func (l *resourceList) reference() *yaml.ResourceIdentifier {
	if l.config == nil {
		return nil
	}
	return &yaml.ResourceIdentifier{
		TypeMeta: yaml.TypeMeta{APIVersion: short(l.config.GetApiVersion()), Kind: short(l.config.GetKind())},
		NameMeta: yaml.NameMeta{Name: short(l.config.GetName())},
	}
}

func (l *resourceList) write(out io.Writer, items []*yaml.RNode, results framework.Results) error {
	w := kio.ByteWriter{Writer: out, KeepReaderAnnotations: true, WrappingAPIVersion: l.apiVersion, WrappingKind: kio.ResourceListKind, FunctionConfig: l.config}
	if len(results) > 0 {
		var n yaml.Node
		if err := n.Encode(results); err != nil {
			return errors.New("the results cannot be written as YAML")
		}
		w.Results = yaml.NewRNode(&n)
	}
	if w.Write(items) != nil { // its text may hold a value
		return errors.New("the ResourceList cannot be written as YAML")
	}
	return nil
}

// resultsOf tells an error as results, one for each that was joined.
func resultsOf(err error, ref *yaml.ResourceIdentifier) (out framework.Results) {
	var input *InputError
	if errors.As(err, &input) && err == error(input) {
		err = input.err
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok && !reflect.ValueOf(err).IsZero() {
		for _, e := range many.Unwrap() {
			out = append(out, resultsOf(e, ref)...)
		}
		if len(out) > 0 {
			return out
		}
	}
	r := &framework.Result{Message: err.Error(), Severity: framework.Error, ResourceRef: ref}
	file, field := "", ""
	var bad *manifest.Error
	var tamper *seal.TamperError
	var entry *entryError
	switch { // the sealed file, where it is to blame, else the generator
	case errors.As(err, &bad):
		file, field = bad.File, bad.Field
	case errors.As(err, &tamper):
		file, field = tamper.File, tamper.Field
	case errors.As(err, &entry):
		file, field = entry.file, entry.field
	}
	if file != "" {
		r.File = &framework.File{Path: file}
	}
	if field != "" {
		r.Field = &framework.Field{Path: field}
	}
	return append(out, r)
}

// source finds the file that a configuration comes from, among the generators of the
// kustomization in the working directory: kustomize says neither file nor line. ""
// where there is none that says the same.
func (f *Function) source(config []byte) (file string, line int, text []byte) {
	want := meaning(config)
	tree, err := FindTree(f.Dir)
	if err != nil || want == nil {
		return "", 0, nil
	}
	defer tree.root.Close()
	read := func(name string) (string, []byte) {
		rel, err := tree.find(f.Dir, name)
		if err != nil {
			return "", nil
		}
		data, err := tree.read(rel)
		if err != nil {
			return "", nil
		}
		return rel, data
	}
	for _, name := range []string{"kustomization.yaml", "kustomization.yml", "Kustomization"} {
		rel, data := read(name)
		var k struct{ Generators, Transformers []yaml.Node }
		if data == nil || yaml.Unmarshal(data, &k) != nil {
			continue
		}
		for _, entry := range append(k.Generators, k.Transformers...) {
			at, line, text := rel, entry.Line+1, []byte(entry.Value) // stands in the kustomization itself
			if !strings.Contains(entry.Value, "\n") {
				line = 1
				at, text = read(entry.Value)
			}
			for doc := range bytes.SplitAfterSeq(text, []byte("\n---")) {
				body := bytes.TrimSuffix(doc, []byte("---"))
				if got := meaning(body); got != nil && reflect.DeepEqual(got, want) {
					return at, line, body
				}
				line += bytes.Count(doc, []byte("\n"))
			}
		}
	}
	return "", 0, nil
}

// meaning of a configuration, without what kustomize adds to it; nil when it cannot be
// read.
func meaning(config []byte) map[string]any {
	var out map[string]any
	if len(config) > maxGenerator || yaml.Unmarshal(config, &out) != nil {
		return nil
	}
	metadata, _ := out["metadata"].(map[string]any)
	annotations, _ := metadata["annotations"].(map[string]any)
	delete(annotations, localConfigAnnotation)
	if len(annotations) == 0 {
		delete(metadata, "annotations")
	}
	return out
}
