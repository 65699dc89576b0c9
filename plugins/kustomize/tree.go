package kustomize

import (
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
)

// Tree is the folder that a kustomization may take sealed files from, with the
// settings that say which workspaces it may name.
type Tree struct {
	dir      string
	settings workspace.Settings
	stated   bool // sealward.yaml has builds
}

// FindTree finds the tree around a kustomization's folder: the outermost folder with
// a sealward.yaml or .sops.yaml, up to the Git work tree's top folder; without one,
// that top folder; without Git, the folder itself. The outermost counts, so that
// whoever may write below it cannot bring settings of their own.
func FindTree(root string) (*Tree, error) { panic("not yet") }

// Dir is the tree's absolute path, links resolved.
func (t *Tree) Dir() string { return t.dir }

// Contains reports that an absolute path lies in the tree.
func (t *Tree) Contains(path string) bool { panic("not yet") }

// Allows fails when sealward.yaml does not let the kustomization in the absolute
// folder root name a workspace. adopted says that the file stands outside
// workspaces/ and instance/ and is a Kubernetes Secret or a source, which a tree
// without builds may use: there, the keyring alone decides.
func (t *Tree) Allows(root string, ws manifest.Workspace, adopted bool) error { panic("not yet") }
