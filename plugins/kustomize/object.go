package kustomize

import (
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"

	yamlv3 "go.yaml.in/yaml/v3"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal"
)

// Object is what a generator makes: a v1 Secret or ConfigMap, or an object of another
// kind that plain sops sealed.
type Object struct {
	APIVersion, Kind string
	Name, Namespace  string
	// Type of a Secret.
	Type        string
	Labels      map[string]string
	Annotations map[string]string // without kustomize's options
	Immutable   bool
	// Data of a Secret or ConfigMap: bytes, not base64. Binary has the keys of a
	// ConfigMap's binaryData.
	Data   map[string][]byte
	Binary map[string]bool
	// Other is the whole object when it is no Secret and no ConfigMap; of the fields
	// above, only APIVersion, Kind, Name and Namespace are then set.
	Other *yaml.RNode

	// NeedsHash and Behavior ("", create, merge or replace) are kustomize's options.
	NeedsHash bool
	Behavior  string
	// From is the file that it was unsealed from, relative to the tree.
	From string
}

// objectOf is the Secret that an opened secret makes. Of one in DataOS's form the
// kustomization decides the namespace.
func objectOf(w *unseal.Whole) *Object {
	o := &Object{APIVersion: "v1", Kind: "Secret", Name: w.Manifest.Name.String(), Type: w.KubernetesType(), Data: map[string][]byte{}, From: w.Manifest.File}
	for _, v := range w.Values {
		o.Data[v.Key.String()] = v.Data
	}
	if k := w.Manifest.Secret.Kubernetes; k != nil {
		o.Namespace, o.Immutable = k.Namespace, k.Immutable != nil && *k.Immutable
		o.Labels, o.Annotations = map[string]string{}, map[string]string{}
		for _, p := range k.Labels {
			o.Labels[p.Key] = p.Value
		}
		for _, p := range k.Annotations {
			o.Annotations[p.Key] = p.Value
		}
	}
	return o
}

// head is what tells one object of Kubernetes from others.
type head struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	Metadata   struct {
		Namespace   string            `yaml:"namespace"`
		Annotations map[string]string `yaml:"annotations"`
	} `yaml:"metadata"`
}

func headOf(data []byte) (h head) {
	_ = yamlv3.Unmarshal(data, &h) // what cannot be read says nothing
	return h
}

func isKubernetes(data []byte) bool {
	h := headOf(data)
	_, bound := h.Metadata.Annotations[manifest.BindingAnnotation]
	return h.APIVersion != "" && h.Kind != "" && !bound
}

// readObject reads an object of Kubernetes in the clear. Errors name fields, never
// values.
func readObject(file string, doc *yamlv3.Node) (*Object, error) {
	bad := func(field, format string, args ...any) error {
		return &manifest.Error{File: file, Field: field, Msg: fmt.Sprintf(format, args...)}
	}
	for doc.Kind == yamlv3.DocumentNode && len(doc.Content) == 1 {
		doc = doc.Content[0]
	}
	p := &parser{file: file}
	f := p.fields(doc, "")
	o := &Object{From: file}
	o.APIVersion, _ = f.text("apiVersion")
	o.Kind, _ = f.text("kind")
	// sops seals any bytes; a node has those that are no text as base64, which nobody would
	// undo.
	if field, found := binaryNode(doc, ""); found {
		return nil, bad(field, "holds bytes that are no text; seal them as base64, in data of a Secret or binaryData of a ConfigMap")
	}
	if o.APIVersion != "v1" || o.Kind != "Secret" && o.Kind != "ConfigMap" {
		if o.APIVersion == "" || o.Kind == "" {
			return nil, bad("kind", "is missing, or apiVersion: the file holds no object of Kubernetes")
		}
		o.Other = yaml.NewRNode(doc)
		o.Name, o.Namespace = o.Other.GetName(), o.Other.GetNamespace()
		return o, nil
	}
	if n := f.take("metadata"); n != nil {
		meta := p.fields(n, "metadata")
		o.Name, o.Namespace = meta.objectName("name"), meta.namespace("namespace")
		o.Labels, o.Annotations = meta.pairs("labels"), meta.pairs("annotations")
		meta.take("creationTimestamp") // kubectl create --dry-run writes null
		meta.done("name, namespace, labels, annotations")
	}
	if o.Name == "" {
		p.fail(doc, "metadata.name", "is missing")
	}
	if yes := f.boolean("immutable"); yes != nil {
		o.Immutable = *yes
	}
	encoded, plain, known := "data", "stringData", "apiVersion, kind, metadata, type, immutable, data, stringData"
	if o.Kind == "ConfigMap" {
		encoded, plain, known = "binaryData", "data", "apiVersion, kind, metadata, immutable, data, binaryData"
		o.Binary = map[string]bool{}
	} else if o.Type, _ = f.text("type"); o.Type == "" {
		o.Type = manifest.TypeOpaque
	}
	o.Data = map[string][]byte{}
	// Where both have a key, the text counts, as Kubernetes has it for stringData.
	for _, section := range []string{encoded, plain} {
		n := f.take(section)
		if n == nil {
			continue
		}
		sub := p.fields(n, section)
		for _, key := range slices.Sorted(maps.Keys(sub.values)) {
			v := sub.values[key]
			if _, err := manifest.ParseKey(key); err != nil || v.Kind != yamlv3.ScalarNode {
				p.fail(v, section, "has a key or a value that Kubernetes would not take")
				continue
			}
			value := []byte(v.Value)
			if section == encoded {
				var err error
				if value, err = base64.StdEncoding.DecodeString(strings.Join(strings.Fields(v.Value), "")); err != nil {
					p.fail(v, section+"."+key, "is not base64")
					continue
				}
				if o.Binary != nil {
					o.Binary[key] = true
				}
			}
			o.Data[key] = value
		}
	}
	f.done(known)
	if len(p.errs) > 0 {
		for _, e := range p.errs {
			e.Line, e.Column = 0, 0 // of what was decrypted, not of the file
		}
		return nil, p.errs
	}
	return o, nil
}

// binaryNode finds a field with bytes that are no UTF-8.
func binaryNode(n *yamlv3.Node, path string) (field string, found bool) {
	for i, item := range n.Content {
		at := path
		if n.Kind == yamlv3.MappingNode {
			at = strings.TrimPrefix(path+"."+n.Content[i&^1].Value, ".")
		}
		if field, found := binaryNode(item, at); found {
			return field, true
		}
	}
	return path, n.ShortTag() == "!!binary"
}

// finish holds an object to what its entry says of it.
func (s *site) finish(o *Object, t Target) (*Object, error) {
	if o.Other != nil {
		if t.Name != "" || t.Namespace != "" || t.Type != "" || t.Immutable != nil || len(t.Keys)+len(t.Labels)+len(t.Annotations) > 0 || t.Behavior != "" || t.NeedsHash != nil && *t.NeedsHash {
			return nil, fmt.Errorf("%s: is a %s, which is taken as it is; metadata, type, keys and options are for Secrets and ConfigMaps", o.From, o.Kind)
		}
		if s.u.Placeholders {
			return o, o.Other.PipeE(yaml.SetAnnotation(PlaceholderAnnotation, "true"))
		}
		return o, nil
	}
	needsHash, behavior, err := takeOptions(o.Annotations)
	if err != nil {
		return nil, fmt.Errorf("%s: metadata.annotations: %w", o.From, err)
	}
	if t.NeedsHash != nil {
		needsHash = t.NeedsHash
	}
	o.NeedsHash = needsHash != nil && *needsHash
	if o.Behavior = behavior; t.Behavior != "" {
		o.Behavior = t.Behavior
	}
	if t.Name != "" {
		o.Name = t.Name
	}
	if t.Namespace != "" {
		o.Namespace = t.Namespace
	}
	if t.Type != "" {
		o.Type = t.Type
	}
	if t.Immutable != nil {
		o.Immutable = *t.Immutable
	}
	o.Labels, o.Annotations = merged(o.Labels, t.Labels), merged(o.Annotations, t.Annotations)
	if s.u.Placeholders {
		o.Annotations = merged(o.Annotations, map[string]string{PlaceholderAnnotation: "true"})
	}
	if len(t.Keys) > 0 {
		data := map[string][]byte{}
		for _, k := range t.Keys {
			v, ok := o.Data[k.From.String()]
			if !ok {
				return nil, fmt.Errorf("%s: has no key %s; it has %s", o.From, k.From, strings.Join(slices.Sorted(maps.Keys(o.Data)), ", "))
			}
			data[k.To.String()] = v
		}
		o.Data = data
	}
	return o, o.checkType()
}

// checkType holds a Secret to the keys that the API server wants of its type. One that
// is merged into another need not have them all.
func (o *Object) checkType() error {
	if o.Kind != "Secret" || o.Behavior == "merge" {
		return nil
	}
	want := map[string][]string{
		manifest.TypeTLS:              {"tls.crt", "tls.key"},
		manifest.TypeDockerConfigJSON: {".dockerconfigjson"},
		manifest.TypeDockerConfig:     {".dockercfg"},
		manifest.TypeSSHAuth:          {"ssh-privatekey"},
	}[o.Type]
	for _, key := range want {
		if _, ok := o.Data[key]; !ok {
			return fmt.Errorf("%s: makes a Secret of type %s, which needs the key %s; give it that name with keys, or another type", o.From, o.Type, key)
		}
	}
	return nil
}

// RNode is the object as a function emits it: a Secret's values as base64 in data,
// kustomize's options as annotations.
func (o *Object) RNode() (*yaml.RNode, error) {
	if o.Other != nil {
		return o.Other, nil
	}
	n := yaml.NewRNode(&yaml.Node{Kind: yaml.MappingNode, Tag: yaml.NodeTagMap})
	n.SetApiVersion(o.APIVersion)
	n.SetKind(o.Kind)
	if err := n.SetName(o.Name); err != nil {
		return nil, err
	}
	if o.Namespace != "" {
		if err := n.SetNamespace(o.Namespace); err != nil {
			return nil, err
		}
	}
	options := map[string]string{}
	if o.NeedsHash {
		options[NeedsHashAnnotation] = "true"
	}
	if o.Behavior != "" {
		options[BehaviorAnnotation] = o.Behavior
	}
	for _, key := range slices.Sorted(maps.Keys(o.Labels)) {
		if err := n.PipeE(yaml.SetLabel(key, o.Labels[key])); err != nil {
			return nil, err
		}
	}
	annotations := merged(o.Annotations, options)
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		if err := n.PipeE(yaml.SetAnnotation(key, annotations[key])); err != nil {
			return nil, err
		}
	}
	if o.Immutable {
		yes := yaml.NewRNode(&yaml.Node{Kind: yaml.ScalarNode, Tag: yaml.NodeTagBool, Value: "true"})
		if err := n.PipeE(yaml.FieldSetter{Name: "immutable", Value: yes}); err != nil {
			return nil, err
		}
	}
	if o.Kind == "Secret" {
		if err := n.PipeE(yaml.SetField("type", yaml.NewStringRNode(o.Type))); err != nil {
			return nil, err
		}
		return n, n.LoadMapIntoSecretData(texts(o.Data))
	}
	plain, binary := map[string]string{}, map[string]string{}
	for key, v := range o.Data {
		if o.Binary[key] {
			binary[key] = base64.StdEncoding.EncodeToString(v)
		} else {
			plain[key] = string(v)
		}
	}
	n.SetDataMap(plain)
	n.SetBinaryDataMap(binary)
	return n, nil
}

func texts(data map[string][]byte) map[string]string {
	out := make(map[string]string, len(data))
	for k, v := range data {
		out[k] = string(v)
	}
	return out
}
