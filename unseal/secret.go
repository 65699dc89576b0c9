package unseal

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
)

// Whole is one secret as people see it: one opened file, or its opened parts put
// together.
type Whole struct {
	// Manifest states what the secret is: of its file, or of its first part.
	Manifest *manifest.Manifest
	// Files are the opened files, sorted by path.
	Files []*Opened
	// Values of all files, in their order.
	Values []seal.Value
	// Bound is false when some file has no binding and that was allowed.
	Bound bool
}

// Assemble puts the opened files of one secret together. places are where they
// stand, in the same order; the zero Place is of a file outside a repository.
func Assemble(files []*Opened, places []manifest.Place) (*Whole, error) {
	if len(files) == 0 || len(files) != len(places) {
		return nil, fmt.Errorf("a secret has at least one file")
	}
	var parts []manifest.Part
	for i, f := range files {
		parts = append(parts, manifest.PartOf(f.Manifest.File, places[i], f.Manifest))
	}
	if err := manifest.CheckParts(parts); err != nil {
		return nil, err
	}
	files = slices.SortedFunc(slices.Values(files), func(a, b *Opened) int { return cmp.Compare(a.Manifest.File, b.Manifest.File) })
	w := &Whole{Manifest: files[0].Manifest, Files: files, Bound: true}
	for _, f := range files {
		w.Values = append(w.Values, f.Values...)
		w.Bound = w.Bound && f.Bound
	}
	if len(files) > 1 {
		if err := seal.CheckType(w.Manifest, w.Values); err != nil {
			return nil, err
		}
	}
	return w, nil
}
