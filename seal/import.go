package seal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/sealward/sealward/seal/manifest"
)

// maxObjects of one file that Import reads.
const maxObjects = 10_000

// Import reads plain Kubernetes Secrets as kubectl prints them: YAML documents or
// JSON, one object each or a List. What the cluster writes into them is dropped, and
// so is kubectl's last-applied-configuration, which repeats the values in the clear.
// others names the objects of other kinds, which are left out.
func Import(file string, data []byte) (secrets []*manifest.Manifest, others []string, err error) {
	objects, err := objects(file, data)
	if err != nil {
		return nil, nil, err
	}
	for i, o := range objects {
		at := file
		if len(objects) > 1 {
			at = fmt.Sprintf("%s, object %d", file, i+1)
		}
		kind, name := scalarAt(o, "kind"), scalarAt(o, "metadata", "name")
		if kind != "Secret" || scalarAt(o, "apiVersion") != "v1" {
			if _, err := manifest.ParseName(name); err != nil { // it may be anything
				name = "…"
			}
			others = append(others, fmt.Sprintf("%s: %s", at, name))
			continue
		}
		forgetCluster(o)
		text, err := encodeYAML(o)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", at, err)
		}
		m, err := manifest.Parse(at, text)
		if err != nil {
			return nil, nil, err
		}
		if m.Sealed {
			return nil, nil, fmt.Errorf("%s: is sealed already; put it below secrets/ as it is, and bind it with sealward seal --rebind", at)
		}
		secrets = append(secrets, m)
	}
	return secrets, others, nil
}

// objects lists the mappings of a stream, those in Lists among them.
func objects(file string, data []byte) ([]*yaml.Node, error) {
	var documents []*yaml.Node
	if trimmed := bytes.TrimLeft(data, " \t\r\n"); len(trimmed) > 0 && trimmed[0] == '{' {
		root, err := manifest.ParseJSON(file, data)
		if err != nil {
			return nil, err
		}
		documents = append(documents, root)
	} else {
		dec := yaml.NewDecoder(bytes.NewReader(data))
		for {
			var doc yaml.Node
			err := dec.Decode(&doc)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil { // its text may quote the input
				return nil, &manifest.Error{File: file, Msg: fmt.Sprintf("is not valid YAML (document %d)", len(documents)+1)}
			}
			if doc.Kind == yaml.DocumentNode && len(doc.Content) == 1 && doc.Content[0].Tag != "!!null" {
				documents = append(documents, doc.Content[0])
			}
			if len(documents) > maxObjects {
				return nil, &manifest.Error{File: file, Msg: fmt.Sprintf("holds more than %d objects", maxObjects)}
			}
		}
	}
	var out []*yaml.Node
	for _, d := range documents {
		items := fieldNode(d, "items")
		switch {
		case d.Kind != yaml.MappingNode:
			return nil, &manifest.Error{File: file, Line: d.Line, Column: d.Column, Msg: "is no Kubernetes object; a file of KEY=VALUE lines ends in .env, or needs --dotenv"}
		case strings.HasSuffix(scalarAt(d, "kind"), "List") && items != nil && items.Kind == yaml.SequenceNode:
			out = append(out, items.Content...)
		default:
			out = append(out, d)
		}
	}
	if len(out) == 0 {
		return nil, &manifest.Error{File: file, Msg: "holds no object"}
	}
	if len(out) > maxObjects {
		return nil, &manifest.Error{File: file, Msg: fmt.Sprintf("holds more than %d objects", maxObjects)}
	}
	return out, nil
}

func scalarAt(n *yaml.Node, path ...string) string {
	if n = nodeAt(n, path); n == nil || n.Kind != yaml.ScalarNode {
		return ""
	}
	return n.Value
}

// forgetCluster drops what only one cluster can say.
func forgetCluster(o *yaml.Node) {
	removeField(o, "status")
	meta := fieldNode(o, "metadata")
	if meta == nil || meta.Kind != yaml.MappingNode {
		return
	}
	for _, name := range manifest.ClusterMetadata() {
		removeField(meta, name)
	}
	notes := fieldNode(meta, "annotations")
	if notes == nil || notes.Kind != yaml.MappingNode {
		return
	}
	removeField(notes, manifest.LastApplied)
	if len(notes.Content) == 0 {
		removeField(meta, "annotations")
	}
}
