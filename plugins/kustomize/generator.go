package kustomize

import (
	"github.com/sealward/sealward/seal/manifest"
)

// Generator is one parsed generator file. Paths in it are relative to the folder of
// the kustomization that lists it, as kustomize has it for functions.
type Generator struct {
	// File is how errors name it.
	File string
	Kind string // Kind or KSOPSKind
	Name string
	// Line of the document in its file, 1-based.
	Line int
	// Workspace of sources, and of Kubernetes Secrets that state none.
	Workspace manifest.Workspace
	Secrets   []SecretEntry
	Files     []FileEntry
	Sources   []SourceEntry
	// Function is the raw text of the annotation config.kubernetes.io/function, ""
	// where there is none.
	Function string
}

// Target says what the Secret looks like that an entry makes. Zero fields leave what
// the sealed manifest says.
type Target struct {
	Name, Namespace string
	Labels          map[string]string
	Annotations     map[string]string
	Type            string
	Immutable       *bool
	NeedsHash       *bool
	Behavior        string
	// Keys selects and renames: key of the output, key of the sealed manifest. nil
	// takes every key as it is.
	Keys []KeyEntry
}

// KeyEntry takes the key From as To.
type KeyEntry struct {
	From, To manifest.Key
	Line     int
}

// SecretEntry names a secret of the repository.
type SecretEntry struct {
	Workspace manifest.Workspace // or the instance
	Secret    manifest.Name
	Target
	Line int
}

// FileEntry names a sealed manifest.
type FileEntry struct {
	Path string
	Target
	Line int
}

// SourceEntry makes one Secret of sealed files that are no manifests.
type SourceEntry struct {
	Target
	Files       []SourceFile // text as sops -d prints it
	BinaryFiles []SourceFile // bytes that sops sealed as binary
	Envs        []SourceFile // dotenv: one key a line; Key is unset
	Line        int
}

// SourceFile is one sealed file and the key that its content gets.
type SourceFile struct {
	Key  manifest.Key
	Path string
	Line int
}

// ParseGenerator reads one document of a generator file strictly; line is where the
// document starts in file. Errors are *manifest.Error with line and field.
func ParseGenerator(file string, line int, data []byte) (*Generator, error) { panic("not yet") }
