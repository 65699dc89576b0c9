package kustomize

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"sigs.k8s.io/kustomize/api/konfig"
	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// needsHash is the annotation with which kustomize itself marks an object that gets a
// suffix. It is removed before the output.
const needsHash = konfig.ConfigAnnoDomain + "/needsHashSuffix"

// An object reaches kustomize in one of two ways. As a resource it is parsed once; a
// thousand of kustomize's own generators take three times as long, so that is only
// for what resources cannot say: behavior, and the order where the kustomization asks
// for that of the files.
func (f *buildFS) generated(o *Object) bool {
	return o.Other == nil && (f.ordered || o.Behavior == "merge" || o.Behavior == "replace")
}

// asResources writes the objects of a generator that become resources.
func (r *rewriting) asResources(j *job) ([]byte, error) {
	var out []*Object
	for _, o := range j.objects {
		if o.Other != nil && o.Behavior != "" && o.Behavior != "create" {
			return nil, fmt.Errorf("%s: behavior: %s is for Secrets and ConfigMaps; the %s %s can only be created", j.source.shown, o.Behavior, o.Kind, o.Name)
		}
		r.made = append(r.made, made{o.Kind, o.Name, o.Namespace, o.Behavior, j.source.shown})
		if !r.generated(o) {
			out = append(out, o)
		}
	}
	return writeObjects(out), nil
}

// asGenerator writes an object as a generator of kustomize's own, its values as virtual
// files; nothing for one that becomes a resource.
func (r *rewriting) asGenerator(j *job, o *Object) ([]byte, error) {
	if !r.generated(o) {
		return nil, nil
	}
	var files []any
	for _, key := range slices.Sorted(maps.Keys(o.Data)) {
		if o.Kind == "ConfigMap" && o.Binary[key] && utf8.Valid(o.Data[key]) {
			return nil, fmt.Errorf("%s: %s: ConfigMap %s: %s is text in binaryData, which cannot be merged or kept in order: move it to data", j.source.shown, o.From, o.Name, key)
		}
		files = append(files, key+"="+r.add(r.root, o.Data[key], source{shown: o.From}))
	}
	options := map[string]any{"disableNameSuffixHash": !o.NeedsHash, "immutable": o.Immutable}
	addPairs(options, "labels", o.Labels)
	addPairs(options, "annotations", o.Annotations)
	doc := map[string]any{
		"apiVersion": konfig.BuiltinPluginApiVersion, "kind": o.Kind + "Generator",
		"metadata": map[string]any{"name": r.name(j.source)},
		"name":     o.Name, "files": files, "options": options,
	}
	for field, v := range map[string]string{"namespace": o.Namespace, "type": o.Type, "behavior": o.Behavior} {
		if v != "" {
			doc[field] = v
		}
	}
	var b bytes.Buffer
	flow(&b, doc)
	return b.Bytes(), nil
}

func writeObjects(objects []*Object) []byte {
	var b bytes.Buffer
	for i, o := range objects {
		if i > 0 {
			b.WriteString("\n---\n")
		}
		o.write(&b)
	}
	return b.Bytes()
}

// write writes the object as kustomize's own generators would have made it.
func (o *Object) write(b *bytes.Buffer) {
	if o.Other != nil {
		other := o.Other.Copy()
		if o.NeedsHash {
			// It fails only for what is no object, which it was when it was read.
			_ = other.PipeE(yaml.SetAnnotation(needsHash, "enabled"))
		}
		b.WriteString(other.MustString())
		return
	}
	meta := map[string]any{"name": o.Name}
	if o.Namespace != "" {
		meta["namespace"] = o.Namespace
	}
	annotations := o.Annotations
	if o.NeedsHash {
		annotations = maps.Clone(annotations)
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[needsHash] = "enabled"
	}
	addPairs(meta, "labels", o.Labels)
	addPairs(meta, "annotations", annotations)
	doc := map[string]any{"apiVersion": o.APIVersion, "kind": o.Kind, "metadata": meta}
	data, binary := map[string]string{}, map[string]string{}
	for key, v := range o.Data {
		switch {
		case o.Kind == "Secret":
			data[key] = base64Lines(v)
		case o.Binary[key] || !utf8.Valid(v):
			binary[key] = base64Lines(v)
		default:
			data[key] = string(v)
		}
	}
	addPairs(doc, "data", data)
	addPairs(doc, "binaryData", binary)
	if o.Type != "" {
		doc["type"] = o.Type
	}
	if o.Immutable {
		doc["immutable"] = true
	}
	flow(b, doc)
}

func addPairs(to map[string]any, name string, pairs map[string]string) {
	if len(pairs) == 0 {
		return
	}
	out := make(map[string]any, len(pairs))
	for k, v := range pairs {
		out[k] = v
	}
	to[name] = out
}

// flow writes a value as YAML on one line. Go's quotes are YAML's, and in ASCII nothing
// is lost on the way through a parser.
func flow(b *bytes.Buffer, v any) {
	switch v := v.(type) {
	case map[string]any:
		b.WriteByte('{')
		for i, k := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				b.WriteString(", ")
			}
			quote(b, k)
			b.WriteString(": ")
			flow(b, v[k])
		}
		b.WriteByte('}')
	case []any:
		b.WriteByte('[')
		for i, item := range v {
			if i > 0 {
				b.WriteString(", ")
			}
			flow(b, item)
		}
		b.WriteByte(']')
	case string:
		quote(b, v)
	default:
		fmt.Fprint(b, v) // a bool
	}
}

func quote(b *bytes.Buffer, s string) {
	b.Write(strconv.AppendQuoteToASCII(b.AvailableBuffer(), s))
}

// base64Lines is base64 as kustomize's generators write it: cut into lines of 70
// characters where it is longer.
func base64Lines(data []byte) string {
	const width = 70
	text := base64.StdEncoding.EncodeToString(data)
	if len(text) < width {
		return text
	}
	var b strings.Builder
	for chunk := range slices.Chunk([]byte(text), width) {
		b.Write(chunk)
		b.WriteByte('\n')
	}
	return b.String()
}
