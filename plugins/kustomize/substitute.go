package kustomize

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

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

// asResources makes virtual files of the objects of a generator that become resources,
// and returns their names. kustomize compares each object of a file with each other, so
// they are small.
func (r *rewriting) asResources(j *job) ([]string, error) {
	var out []*Object
	for _, o := range j.objects {
		if o.Other != nil {
			if err := o.takeOptions(); err != nil {
				return nil, fmt.Errorf("%s: %s: %w", j.source.shown, o.From, err)
			}
		}
		r.made = append(r.made, made{o.Kind, o.Name, j.source.shown})
		if !r.generated(o) {
			out = append(out, o)
		}
	}
	var names []string
	for some := range slices.Chunk(out, 32) {
		names = append(names, r.add(r.root, writeObjects(some, base64Lines), j.source))
	}
	return names, nil
}

// asGenerator writes an object as a generator of kustomize's own, its values as virtual
// files; nothing for one that becomes a resource.
func (r *rewriting) asGenerator(j *job, o *Object) ([]byte, error) {
	if !r.generated(o) {
		return nil, nil
	}
	var files []any
	for _, key := range slices.Sorted(maps.Keys(o.Data)) {
		if o.Binary[key] {
			return nil, fmt.Errorf("%s: %s: ConfigMap %s has binaryData, which sealward build can only create: it takes no behavior: merge or replace, and no sortOptions: fifo", j.source.shown, o.From, o.Name)
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

// writeObjects writes objects as a YAML stream; encode writes the values of Secrets.
func writeObjects(objects []*Object, encode func([]byte) string) []byte {
	var b bytes.Buffer
	for i, o := range objects {
		if i > 0 {
			b.WriteString("\n---\n")
		}
		o.write(&b, encode)
	}
	return b.Bytes()
}

// takeOptions takes kustomize's options out of an object of another kind. What it cannot
// do, it refuses: kustomize's hash of such an object is over annotations that only a
// function's runner adds.
func (o *Object) takeOptions() error {
	needs, behavior, err := takeOptions(o.Other.GetAnnotations())
	switch {
	case err != nil:
		return err
	case needs != nil && *needs:
		return fmt.Errorf("a suffix for the name (%s) is for Secrets and ConfigMaps, not for the %s %s", NeedsHashAnnotation, o.Kind, o.Name)
	case behavior != "" && behavior != "create":
		return fmt.Errorf("behavior: %s is for Secrets and ConfigMaps; the %s %s can only be created", behavior, o.Kind, o.Name)
	}
	for _, name := range []string{NeedsHashAnnotation, BehaviorAnnotation} {
		if o.Other.PipeE(yaml.ClearAnnotation(name)) != nil {
			return errors.New("its annotations cannot be read") // the error may repeat the object
		}
	}
	return nil
}

// ignoreOptions gives an object its annotations back: kustomize's options are for what
// generators make, not for resources.
func (o *Object) ignoreOptions() {
	options := map[string]string{}
	if o.NeedsHash {
		options[NeedsHashAnnotation] = "true"
	}
	if o.Behavior != "" {
		options[BehaviorAnnotation] = o.Behavior
	}
	o.Annotations = merged(o.Annotations, options)
	o.NeedsHash, o.Behavior = false, ""
}

// write writes the object as kustomize's own generators would have made it, with the
// fields first that kustomize looks for, again and again, in each object.
func (o *Object) write(b *bytes.Buffer, encode func([]byte) string) {
	if o.Other != nil {
		b.WriteString(o.Other.MustString())
		return
	}
	annotations := o.Annotations
	if o.NeedsHash {
		annotations = merged(annotations, map[string]string{needsHash: "enabled"})
	}
	meta := map[string]any{}
	if o.Namespace != "" {
		meta["namespace"] = o.Namespace
	}
	addPairs(meta, "labels", o.Labels)
	addPairs(meta, "annotations", annotations)
	doc := map[string]any{}
	data, binary := map[string]string{}, map[string]string{}
	for key, v := range o.Data {
		switch {
		case o.Kind == "Secret":
			data[key] = encode(v)
		case o.Binary[key]:
			binary[key] = base64.StdEncoding.EncodeToString(v)
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
	b.WriteString(`{"apiVersion": `)
	quote(b, o.APIVersion)
	b.WriteString(`, "kind": `)
	quote(b, o.Kind)
	b.WriteString(`, "metadata": {"name": `)
	quote(b, o.Name)
	b.WriteString(", ")
	flowFields(b, meta)
	b.WriteString("}, ")
	flowFields(b, doc)
	b.WriteByte('}')
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

// flow writes a value as YAML on one line. Go's quotes are YAML's; in ASCII nothing is
// refused or lost by a parser, as DEL is that other printers leave as it is.
func flow(b *bytes.Buffer, v any) {
	switch v := v.(type) {
	case map[string]any:
		b.WriteByte('{')
		flowFields(b, v)
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
	case nil:
		b.WriteString("null")
	default:
		fmt.Fprint(b, v) // true, false or a number
	}
}

// flowFields writes the fields of a mapping. A comma may end them.
func flowFields(b *bytes.Buffer, fields map[string]any) {
	for _, k := range slices.Sorted(maps.Keys(fields)) {
		quote(b, k)
		b.WriteString(": ")
		flow(b, fields[k])
		b.WriteString(", ")
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
