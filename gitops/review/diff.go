package review

import (
	"context"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal/keyring"
)

// ChangeKind says how something differs.
type ChangeKind string

// The kinds. Resealed: it has another ciphertext and, as the ring could tell, the
// same value.
const (
	Added    ChangeKind = "added"
	Removed  ChangeKind = "removed"
	Changed  ChangeKind = "changed"
	Resealed ChangeKind = "resealed"
)

// Diff is what differs between two trees, without a value.
type Diff struct {
	From    string         `json:"from"`
	To      string         `json:"to"`
	Secrets []SecretChange `json:"secrets"`
	Policy  []PolicyChange `json:"policy"`
	Rules   []RuleChange   `json:"rules"`
	// Files are other files that differ, and those that cannot be read.
	Files []FileChange `json:"files"`
}

// SecretChange is one secret, whatever files it has.
type SecretChange struct {
	Workspace string     `json:"workspace"` // instance for an instance secret
	Name      string     `json:"name"`
	Change    ChangeKind `json:"change"`
	Paths     []string   `json:"paths"` // of the files that differ
	Type      string     `json:"type"`  // as it is now, or was
	Keys      []KeyChange
	// Fields are metadata, with what they were and are.
	Fields []FieldChange `json:"fields,omitempty"`
	// RecipientsAdded and RecipientsRemoved are those of its files.
	RecipientsAdded   []string `json:"recipientsAdded,omitempty"`
	RecipientsRemoved []string `json:"recipientsRemoved,omitempty"`
	// Notes are what a reviewer should know besides.
	Notes []string `json:"notes,omitempty"`
}

// KeyChange is one key of a secret.
type KeyChange struct {
	Key    string     `json:"key"`
	Change ChangeKind `json:"change"`
}

// FieldChange is one field that is not sealed.
type FieldChange struct {
	Field string `json:"field"`
	Old   string `json:"old"`
	New   string `json:"new"`
}

// PolicyChange is one grant or role.
type PolicyChange struct {
	Path      string        `json:"path"`
	Kind      string        `json:"kind"` // grant or role
	Workspace string        `json:"workspace"`
	Name      string        `json:"name"`
	Change    ChangeKind    `json:"change"`
	Fields    []FieldChange `json:"fields,omitempty"`
}

// RuleChange is for whom a workspace is sealed, by .sops.yaml.
type RuleChange struct {
	Workspace string     `json:"workspace"`
	Change    ChangeKind `json:"change"`
	Added     []string   `json:"added,omitempty"`
	Removed   []string   `json:"removed,omitempty"`
}

// FileChange is any other file.
type FileChange struct {
	Path    string     `json:"path"`
	Change  ChangeKind `json:"change"`
	Problem string     `json:"problem,omitempty"` // why it cannot be read as a manifest
}

// DiffOptions of Diff.
type DiffOptions struct {
	// Ring tells a value that was sealed anew from one that changed; nil, or
	// keyring.ErrNoRing, goes by ciphertext alone.
	Ring func(manifest.Workspace) (*keyring.Ring, error)
}

// Diff tells what differs between two trees, the older of which is a commit.
func (r *Repo) Diff(ctx context.Context, from, to *Tree, opts DiffOptions) (*Diff, error) {
	return &Diff{From: from.Name, To: to.Name}, nil
}
