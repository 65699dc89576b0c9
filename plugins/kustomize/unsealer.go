package kustomize

import (
	"context"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal/keyring"
)

// Unsealer makes objects of generators. It is safe for concurrent use.
type Unsealer struct {
	// Ring of a workspace. It is not called with Placeholders.
	Ring func(manifest.Workspace) (*keyring.Ring, error)
	// AllowUnbound accepts sealed files without a binding, as plain sops and KSOPS
	// have them, where the tree's settings do not require one.
	AllowUnbound bool
	// Placeholders makes the same objects with dummy values, without any key.
	Placeholders bool
	// Workspace of sealed files that say nothing of theirs; zero: public.
	Workspace manifest.Workspace
	// Warn tells what is odd but accepted, such as a missing binding; nil: nobody.
	Warn func(text string)
	// Built, where it is set, is the folder whose build this is: kustomizations
	// outside its tree (remote bases) may name what it may name.
	Built string
}

// Generate makes the objects of a generator that the kustomization in the absolute
// folder root lists, in the order of the entries. Manifests are unsealed in
// parallel. Errors name file, line and field, and are those of unseal.Open,
// manifest.Parse and keyring beneath; none holds a value.
func (u *Unsealer) Generate(ctx context.Context, root string, g *Generator) ([]*Object, error) {
	panic("not yet")
}

// Resource makes the objects of a sealed Kubernetes Secret that the kustomization in
// the absolute folder root lists among its resources. path is relative to root.
func (u *Unsealer) Resource(ctx context.Context, root, path string) ([]*Object, error) {
	panic("not yet")
}
