package review

import (
	"context"
	"time"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal/keyring"
)

// CheckOptions of Check.
type CheckOptions struct {
	// Base limits the findings to what differs from it, and makes those possible
	// that need a before and an after. Nil checks everything.
	Base *Tree
	// Paths limits the findings to files at and below them.
	Paths []string
	// Ring gives the keys of a workspace, with which every file is opened as well; nil, or
	// keyring.ErrNoRing, checks without.
	Ring func(manifest.Workspace) (*keyring.Ring, error)
	Now  time.Time
}

// Check looks for what is wrong with a tree. An error means that it could not look.
func (r *Repo) Check(ctx context.Context, t *Tree, opts CheckOptions) ([]Finding, error) {
	return nil, nil
}
