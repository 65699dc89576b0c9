// Package manifest is the model of what people commit: secrets, instance
// secrets, grants and roles in the form of DataOS's Resources, and Kubernetes
// Secrets, as YAML or JSON, parsed strictly.
//
// Most callers need [Parse] for the bytes of one file and [Locate] for where
// that file stands in a repository. The package takes bytes and returns
// everything or nothing; it opens no file, knows no key and never decrypts:
// a sealed manifest's values stay ciphertext here.
//
// Source of the form: the pages "Secret", "Instance Secret" and "Grant" of
// DataOS's documentation.
package manifest

import (
	"time"

	"go.yaml.in/yaml/v3"
)

// SealedPattern is the encrypted_regex of every sealed manifest: SOPS seals a
// value when one component of its path matches. It covers the values of secrets
// (data, binaryData), of Kubernetes Secrets (data, stringData), and the binding in
// both. A sealed file that carries a binding must carry exactly this pattern.
const SealedPattern = `^(data|stringData|binaryData|binding|sealward\.dev/binding)$`

// MaxSize bounds one manifest, in bytes.
const MaxSize = 2 << 20

// Manifest is one parsed file. Exactly one of Secret, Grant and Role is set,
// as Kind says.
type Manifest struct {
	// File is how errors name this manifest, usually its path in the repository.
	File    string
	Name    Name
	Version string // v1, v1beta, v1alpha or v2alpha
	Kind    Kind
	Form    Form
	// JSON says that the file is JSON; it is then written as JSON again.
	JSON bool
	// Workspace as the manifest states it. A secret that states none is in
	// "public", as in DataOS; an instance secret is in [Instance]. It is the zero
	// Workspace for a grant or role that states none, and for a Kubernetes Secret
	// without a namespace: their place then decides (SettleIn).
	Workspace   Workspace
	Layer       string // "user", "system" or "" (absent)
	Tags        []string
	Description string
	Owner       string

	Secret *Secret
	Grant  *Grant
	Role   *Role

	// Sealed says that the file has a sops section, so that values are ciphertext.
	Sealed bool

	root *yaml.Node
}

// Secret is the body of a secret or instance secret.
type Secret struct {
	Type SecretType
	ACL  ACL
	// Entries of data and binaryData in the order of the file.
	Entries []Entry
	// Files name local files whose content replaces them when the manifest is sealed.
	Files []FileRef
	// Binding is the sealed binding of a sealed manifest, "" when there is none.
	Binding string
	// Kubernetes has what only that form states; nil in DataOS's.
	Kubernetes *KubernetesSecret
}

// Entry is one key and its value: ciphertext in a sealed manifest, and before
// sealing text or, in a section of base64, base64.
type Entry struct {
	Key    Key
	Binary bool // it stands in the section of base64
	Text   string
	Line   int
	Column int
}

// FileRef is one entry of files: the key its content gets, and the path.
type FileRef struct {
	Key    Key
	Path   string
	Line   int
	Column int
}

// Grant says who may do what with which secrets.
type Grant struct {
	UseCase    UseCase
	Subjects   []Subject
	Secrets    []Pattern   // empty: every secret of the scope
	Keys       []Key       // empty: every key
	Workspaces []Workspace // only of a grant under instance/grants
	Effect     Effect
	Expires    time.Time // zero: never
	Requester  string
	Notes      string
}

// Role gives its members the tag roles:id:<name>.
type Role struct {
	Members []Subject // users only
}

// Node is the parsed YAML document (its root mapping). The caller owns it:
// sealing and editing change it in place, so that comments and the order of
// fields outlive an edit.
func (m *Manifest) Node() *yaml.Node { return m.root }

// ID is DataOS's identifier NAME:VERSION:TYPE[:WORKSPACE].
func (m *Manifest) ID() string {
	id := m.Name.String() + ":" + m.Version + ":" + string(m.Kind)
	if !m.Workspace.IsZero() && !m.Workspace.IsInstance() {
		id += ":" + m.Workspace.String()
	}
	return id
}
