package manifest

import (
	"bytes"
	"errors"
	"io"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// ParseDocuments reads the mappings that stand in a file, which need not be
// manifests: every document of a YAML file, or the one object of a JSON file
// (json). It is as strict as [Parse] about what makes a file ambiguous, and lets
// fields be nested deeper. Comments of a document hang on its mapping. The error is
// an [Errors].
func ParseDocuments(file string, json bool, data []byte) ([]*yaml.Node, error) {
	d := &decoder{file: file, json: json, depth: maxForeignDepth}
	roots := d.readDocuments(data)
	if len(d.errs) > 0 {
		return nil, d.errs
	}
	return roots, nil
}

func (d *decoder) readDocuments(data []byte) []*yaml.Node {
	switch {
	case len(data) > MaxSize:
		d.fail(nil, "", "has %d bytes; a sealed file may have at most %d", len(data), MaxSize).Reason = ReasonTooLarge
		return nil
	case !utf8.Valid(data):
		d.fail(nil, "", "is not UTF-8 text")
		return nil
	case d.json:
		return []*yaml.Node{d.readJSON(data)}
	}
	var roots []*yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc yaml.Node
		if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			d.failSyntax(err)
			return nil
		}
		if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
			d.fail(&doc, "", "has a document that is no mapping of fields")
			return nil
		}
		if len(roots) == maxDocuments {
			d.fail(&doc, "", "has more than %d documents", maxDocuments)
			return nil
		}
		root := doc.Content[0]
		root.HeadComment = joinComments(doc.HeadComment, root.HeadComment)
		root.FootComment = joinComments(root.FootComment, doc.FootComment)
		d.checkNode(root, "", 0)
		roots = append(roots, root)
	}
	if len(roots) == 0 {
		d.fail(nil, "", "is empty")
	}
	return roots
}
