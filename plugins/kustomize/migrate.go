package kustomize

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
)

// Migration is what became of the KSOPS generators in a folder. Nothing is written yet.
type Migration struct {
	Files []MigratedFile // sorted by path
	// Left are the generators that stay KSOPS's, with the reason.
	Left []Note
	// Notes tell what changes beside the form.
	Notes []Note
}

// MigratedFile is a file's new content.
type MigratedFile struct {
	Path string // as the folder was given, with slashes
	Data []byte
	// Generators are the names of those that were rewritten in it.
	Generators []string
}

// Note is about one generator.
type Note struct {
	Path string
	Line int // of the generator
	Text string
}

func (n Note) String() string { return fmt.Sprintf("%s:%d: %s", n.Path, n.Line, n.Text) }

// MigrateKSOPS rewrites KSOPS's generators in and below a folder, in files of their own
// and inline in kustomizations, to generators of ours. Only what differs between the two
// forms changes: comments, order, names and line ends stay. Links below it are not followed. An
// error means that something could not be read or parsed.
func MigrateKSOPS(dir string) (*Migration, error) {
	m := &migration{}
	type found struct {
		path string
		data []byte
	}
	var files []found
	top := dir + string(filepath.Separator) // what is asked for may be a link itself
	err := filepath.WalkDir(top, func(file string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == ".git" && file != top:
			return fs.SkipDir
		case !d.Type().IsRegular() || workspace.IsLeftover(d.Name()) || !isYAML(d.Name()):
			return nil
		}
		if info, err := d.Info(); err != nil || info.Size() > manifest.MaxSize {
			return err // no generator is so large
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if bytes.Contains(data, []byte(KSOPSVersion)) {
			files = append(files, found{filepath.ToSlash(file), data})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if err := m.file(f.path, f.data); err != nil {
			return nil, err
		}
	}
	return &m.out, nil
}

func isYAML(name string) bool {
	return isKustomization(name) || slices.Contains([]string{".yaml", ".yml", ".json"}, strings.ToLower(path.Ext(name)))
}

// migration is one under way.
type migration struct{ out Migration }

// documents parses all of a file.
func documents(file string, data []byte) (out []*yaml.Node, err error) {
	d := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc yaml.Node
		switch err := d.Decode(&doc); {
		case errors.Is(err, io.EOF):
			return out, nil
		case err != nil: // its text may quote what stands there
			return nil, &manifest.Error{File: file, Msg: "is not valid YAML, so nothing was rewritten"}
		case len(doc.Content) == 1:
			out = append(out, doc.Content[0])
		}
	}
}

// valueOf a field of a mapping, nil where there is none.
func valueOf(n *yaml.Node, name string) *yaml.Node {
	_, v := entryOf(n, name)
	return v
}

func entryOf(n *yaml.Node, name string) (key, value *yaml.Node) {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil, nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i], n.Content[i+1]
		}
	}
	return nil, nil
}

// items of a list, none where it is no list.
func items(n *yaml.Node) []*yaml.Node {
	if n == nil || n.Kind != yaml.SequenceNode {
		return nil
	}
	return n.Content
}

func scalar(n *yaml.Node) string {
	if n == nil || n.Kind != yaml.ScalarNode {
		return ""
	}
	return n.Value
}

func isKSOPS(doc *yaml.Node) bool {
	return scalar(valueOf(doc, "apiVersion")) == KSOPSVersion && scalar(valueOf(doc, "kind")) == KSOPSKind
}

// file rewrites one file.
func (m *migration) file(file string, data []byte) error {
	docs, err := documents(file, data)
	if err != nil {
		return err
	}
	t := &textFile{text: string(data)}
	var names []string
	for _, doc := range docs {
		switch {
		case isKSOPS(doc):
			if name, ok := m.generator(t, doc, file, doc.Line); ok {
				names = append(names, name)
			}
		case isKustomization(file):
			for _, n := range items(valueOf(doc, "generators")) {
				if n.Kind != yaml.ScalarNode || !strings.Contains(n.Value, KSOPSVersion) {
					continue
				}
				inner, err := documents(file, []byte(n.Value))
				if err != nil {
					return err
				}
				it := &textFile{text: n.Value}
				for _, doc := range inner {
					if isKSOPS(doc) {
						if name, ok := m.generator(it, doc, file, n.Line); ok {
							names = append(names, name)
						}
					}
				}
				if len(it.edits) == 0 {
					continue
				}
				if err := t.setScalar(n, it.edited()); err != nil {
					m.out.Left = append(m.out.Left, Note{file, n.Line, err.Error()})
					return nil
				}
			}
		}
	}
	if len(names) == 0 {
		return nil
	}
	text := t.edited()
	if !asMeant(data, []byte(text)) {
		// Better no change than one that nobody wanted.
		m.out.Left = append(m.out.Left, Note{file, 1, "is written in a way that cannot be changed in place; write it in plain block style first"})
		return nil
	}
	m.out.Files = append(m.out.Files, MigratedFile{Path: file, Data: []byte(text), Generators: names})
	return nil
}

// generator notes the edits that make one of KSOPS's ours; ok is false where it is left.
func (m *migration) generator(t *textFile, doc *yaml.Node, file string, line int) (name string, ok bool) {
	name = scalar(valueOf(valueOf(doc, "metadata"), "name"))
	before := len(t.edits)
	notes, err := t.rewrite(doc)
	if err == nil {
		err = acceptable(doc)
	}
	if err != nil {
		t.edits = t.edits[:before]
		m.out.Left = append(m.out.Left, Note{file, line, fmt.Sprintf("generator %.80s is left as it is: %s", name, err)})
		return name, false
	}
	for _, n := range notes {
		m.out.Notes = append(m.out.Notes, Note{file, line, fmt.Sprintf("generator %.80s %s", name, n)})
	}
	return name, true
}

func (t *textFile) rewrite(doc *yaml.Node) (notes []string, err error) {
	if err := t.setScalar(valueOf(doc, "apiVersion"), APIVersion); err != nil {
		return nil, err
	}
	if err := t.setScalar(valueOf(doc, "kind"), Kind); err != nil {
		return nil, err
	}
	if key, _ := entryOf(doc, "secretFrom"); key != nil {
		if err := t.setScalar(key, "sources"); err != nil {
			return nil, err
		}
	}
	return t.function(doc)
}

// acceptable parses the generator that a document becomes.
func acceptable(doc *yaml.Node) error {
	text, err := yaml.Marshal(meantDocument(doc))
	if err != nil {
		return err
	}
	_, err = ParseGenerator("", 1, text)
	var many manifest.Errors
	if errors.As(err, &many) && len(many) > 0 {
		return fmt.Errorf("%s: %s", many[0].Field, many[0].Msg)
	}
	return err
}

// meantDocument is what a KSOPS document becomes, as a value.
func meantDocument(doc *yaml.Node) *yaml.Node {
	out := *doc
	out.Content = slices.Clone(doc.Content)
	for i := 0; i+1 < len(out.Content); i += 2 {
		text := func(s string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s} }
		switch out.Content[i].Value {
		case "apiVersion":
			out.Content[i+1] = text(APIVersion)
		case "kind":
			out.Content[i+1] = text(Kind)
		case "secretFrom":
			out.Content[i] = text("sources")
		}
	}
	return &out
}

// Where a function may stand; the first counts.
func functionAnnotations() []string { return []string{functionAnnotation, "config.k8s.io/function"} }

const ownFunction = "exec: {path: sealward, args: [kustomize]}"

// function makes the annotation run sealward, or adds it.
func (t *textFile) function(doc *yaml.Node) (notes []string, err error) {
	meta := valueOf(doc, "metadata")
	if meta == nil || meta.Kind != yaml.MappingNode {
		return nil, errors.New("it has no metadata")
	}
	if valueOf(meta, "configFn") != nil {
		return nil, errors.New("metadata.configFn is not rewritten; write the annotation " + functionAnnotation)
	}
	annotations := valueOf(meta, "annotations")
	var at *yaml.Node
	for _, key := range functionAnnotations() {
		if n := valueOf(annotations, key); scalar(n) != "" {
			if at != nil {
				return nil, errors.New("it has two function annotations; keep one")
			}
			at = n
		}
	}
	if at == nil {
		return []string{"had no function, as a plugin of older kind, and has one now: stock kustomize wants --enable-exec beside --enable-alpha-plugins"}, t.addFunction(meta, annotations)
	}
	text, note, err := functionOfSealward(at.Value)
	if err != nil {
		return nil, err
	}
	if note != "" {
		notes = append(notes, note)
	}
	return notes, t.setScalar(at, text)
}

// functionOfSealward rewrites the text of a function that runs ksops.
func functionOfSealward(text string) (out, note string, err error) {
	docs, err := documents("", []byte(text))
	if err != nil || len(docs) != 1 {
		return "", "", errors.New("its function cannot be read")
	}
	exec := valueOf(docs[0], "exec")
	program := scalar(valueOf(exec, "path"))
	if image := scalar(valueOf(valueOf(docs[0], "container"), "image")); image != "" {
		if !strings.Contains(image, "ksops") {
			return "", "", errors.New("its function runs an image that is not KSOPS's")
		}
		return ownFunction + "\n", "ran an image, and runs sealward from the PATH now: stock kustomize wants --enable-exec beside --enable-alpha-plugins", nil
	}
	switch base := path.Base(program); {
	case base != "ksops" && base != "ksops-exec" && base != "ksops.exe":
		return "", "", fmt.Errorf("its function runs %.80q, not ksops", program)
	case valueOf(exec, "args") != nil:
		return "", "", errors.New("its function gives ksops arguments, which sealward does not know")
	case program != "ksops":
		note = fmt.Sprintf("ran %.200s, and runs sealward from the PATH now", program)
	}
	t := &textFile{text: text}
	key, value := entryOf(exec, "path")
	if err := t.setScalar(value, "sealward"); err != nil {
		return "", "", err
	}
	if exec.Style&yaml.FlowStyle != 0 {
		err = t.insertAfter(value, `, "args": ["kustomize"]`)
	} else {
		err = t.insertLine(value, strings.Repeat(" ", key.Column-1)+"args: [kustomize]")
	}
	return t.edited(), note, err
}

// addFunction adds the annotation.
func (t *textFile) addFunction(meta, annotations *yaml.Node) error {
	if annotations != nil && len(annotations.Content) > 0 {
		first := annotations.Content[0]
		if annotations.Style&yaml.FlowStyle != 0 {
			return t.insertBefore(first, fmt.Sprintf("%q: %q, ", functionAnnotation, ownFunction))
		}
		indent := strings.Repeat(" ", first.Column-1)
		return t.insertBefore(first, functionAnnotation+": |"+t.newline()+indent+"  "+ownFunction+t.newline()+indent)
	}
	key, name := entryOf(meta, "name")
	if name == nil || annotations != nil {
		return errors.New("there is no place for its function; write the annotation " + functionAnnotation)
	}
	if meta.Style&yaml.FlowStyle != 0 {
		return t.insertAfter(name, fmt.Sprintf(`, "annotations": {%q: %q}`, functionAnnotation, ownFunction))
	}
	indent := strings.Repeat(" ", key.Column-1)
	return t.insertLine(name, indent+"annotations:"+t.newline()+indent+"  "+functionAnnotation+": |"+t.newline()+indent+"    "+ownFunction)
}

// asMeant reports that a file changed in what it should have, and in nothing else.
func asMeant(before, after []byte) bool {
	a, errA := documents("", before)
	b, errB := documents("", after)
	if errA != nil || errB != nil || len(a) != len(b) {
		return false
	}
	for i := range a {
		if !reflect.DeepEqual(migratedValue(a[i], 0), migratedValue(b[i], 0)) {
			return false
		}
	}
	return true
}

// migratedValue is a document as a value, with every generator of KSOPS's as the one of ours
// that it should become.
func migratedValue(doc *yaml.Node, depth int) any {
	var v any
	if doc.Decode(&v) != nil || depth > 2 {
		return v
	}
	top, ok := v.(map[string]any)
	if !ok {
		return v
	}
	if isKSOPS(doc) || top["apiVersion"] == APIVersion && top["kind"] == Kind {
		top["function"] = migratedFunction(valueOf(valueOf(doc, "metadata"), "annotations"), isKSOPS(doc))
		top["apiVersion"], top["kind"] = APIVersion, Kind
		if s, ok := top["secretFrom"]; ok {
			delete(top, "secretFrom")
			top["sources"] = s
		}
		if meta, ok := top["metadata"].(map[string]any); ok {
			annotations, _ := meta["annotations"].(map[string]any)
			for _, key := range functionAnnotations() {
				delete(annotations, key)
			}
			if len(annotations) == 0 {
				delete(meta, "annotations")
			}
		}
		return top
	}
	if list, ok := top["generators"].([]any); ok {
		for i := range list {
			text, _ := list[i].(string)
			if !strings.Contains(text, KSOPSVersion) && !strings.Contains(text, APIVersion) {
				continue
			}
			docs, err := documents("", []byte(text))
			if err != nil {
				continue
			}
			var inner []any
			for _, d := range docs {
				inner = append(inner, migratedValue(d, depth+1))
			}
			list[i] = inner
		}
	}
	return top
}

// migratedFunction is the function among annotations as a value: with ksops, as it should
// become.
func migratedFunction(annotations *yaml.Node, ksops bool) any {
	function := map[string]any{}
	for _, key := range functionAnnotations() {
		if text := scalar(valueOf(annotations, key)); text != "" && yaml.Unmarshal([]byte(text), &function) != nil {
			return nil
		}
	}
	if ksops {
		exec, _ := function["exec"].(map[string]any)
		if exec == nil {
			exec = map[string]any{}
		}
		exec["path"], exec["args"] = "sealward", []any{"kustomize"}
		function["exec"] = exec
		if function["container"] != nil {
			function = map[string]any{"exec": map[string]any{"path": "sealward", "args": []any{"kustomize"}}}
		}
	}
	return function
}
