package kustomize_test

import (
	"strings"
	"testing"

	"github.com/sealward/sealward/plugins/kustomize"
	"github.com/sealward/sealward/seal/manifest"
)

// Whatever a generator file holds, it is read or refused with a place, never half read.
func FuzzParseGenerator(f *testing.F) {
	for _, text := range []string{
		"secrets: [{workspace: orders, name: db-r, metadata: {name: db}, keys: [a, {from: b, to: c}]}]",
		"files: [a.yaml, {path: b.yaml, options: {needsHash: true, behavior: merge}}]",
		"sources:\n- metadata: {name: x}\n  files: [a=b]\n  binaryFiles: [c]\n  envs: [d.env]\n",
		"files: &a [x]\nsources: *a",
		"? [1]\n: 2",
	} {
		f.Add(generator + text)
	}
	f.Add("apiVersion: viaduct.ai/v1\nkind: ksops\nmetadata: {name: x}\nfiles: [a.yaml]\nsecretFrom: [{metadata: {name: a}, envs: [b]}]\n")
	f.Fuzz(func(t *testing.T, text string) {
		g, err := kustomize.ParseGenerator("gen.yaml", 7, []byte(text))
		if (g == nil) == (err == nil) {
			t.Fatalf("%v with %v", g, err)
		}
		if errs, ok := err.(manifest.Errors); err != nil && (!ok || len(errs) == 0) {
			t.Fatalf("%T", err)
		}
		if g == nil {
			return
		}
		for _, e := range g.Files {
			if e.Path == "" || strings.ContainsAny(e.Path, "\n\x00") || e.Line < 7 {
				t.Fatalf("%+v", e)
			}
		}
		for _, e := range g.Sources {
			if e.Name == "" || len(e.Files)+len(e.BinaryFiles)+len(e.Envs) == 0 {
				t.Fatalf("%+v", e)
			}
		}
	})
}
