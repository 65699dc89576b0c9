package kustomize

import (
	"fmt"
	"maps"
	"slices"

	"github.com/joho/godotenv"
	"go.yaml.in/yaml/v3"

	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
)

// ksops reads the fields of KSOPS's generator: files with any sealed objects of
// Kubernetes, whose options are annotations of theirs, and secretFrom.
func (p *parser) ksops(g *Generator, f *fields) {
	for i, n := range f.list("files") {
		field := fmt.Sprintf("files[%d]", i)
		g.Files = append(g.Files, FileEntry{Path: p.path(n, field, p.text(n, field)), Line: n.Line})
	}
	for i, n := range f.list("secretFrom") {
		g.Sources = append(g.Sources, p.secretFrom(n, fmt.Sprintf("secretFrom[%d]", i)))
	}
	f.done("apiVersion, kind, metadata, files, secretFrom")
}

func (p *parser) secretFrom(n *yaml.Node, path string) SourceEntry {
	f := p.fields(n, path)
	e := SourceEntry{Line: n.Line, QuotedEnvs: true}
	if n := f.take("metadata"); n != nil {
		p.targetMetadata(p.fields(n, f.at("metadata")), &e.Target)
	}
	if s, n := f.text("type"); n != nil {
		if s != "" && !isSecretType(s) {
			p.fail(n, f.at("type"), "is no type of a Kubernetes Secret, such as Opaque or kubernetes.io/tls")
		}
		e.Type = s
	}
	p.sourceFiles(f, &e)
	f.done("metadata, type, files, binaryFiles, envs")
	return e
}

// quotedEnv reads the text of an env file as KSOPS does, with the quotes, escapes and
// comments of godotenv, sorted by key.
func quotedEnv(file string, text []byte) ([]seal.Value, error) {
	env, err := godotenv.UnmarshalBytes(text)
	if err != nil { // its text quotes the line
		return nil, &manifest.Error{File: file, Msg: "is not an env file that KSOPS could read (KEY=VALUE, quotes closed)"}
	}
	var out []seal.Value
	for _, name := range slices.Sorted(maps.Keys(env)) {
		key, err := manifest.ParseKey(name)
		if err != nil {
			return nil, &manifest.Error{File: file, Msg: err.Error()}
		}
		out = append(out, seal.Value{Key: key, Data: []byte(env[name])})
	}
	return out, nil
}
