package unseal

import (
	"time"
	"unique"

	"github.com/sealward/sealward/seal/manifest"
)

// Record is what is kept of one manifest file of the applied commit: its last
// good content, and why its present content is not that.
type Record struct {
	Path  string
	Place manifest.Place
	// Blob is the Git blob that stands at Path in the applied commit.
	Blob string
	// Good is the content that is served; nil when the file never opened.
	Good *Content
	// Failure says why Blob did not open; nil when Good is of Blob.
	Failure *Failure
	// Held is set when the file is gone from the applied commit and the removal
	// waits for the operator's word: the record is served as before.
	Held *Held
}

// Held says which commit removed a file that is still served.
type Held struct {
	Commit string
	Since  time.Time
}

// Stale reports that an older content than the committed one is served.
func (r *Record) Stale() bool { return r.Failure != nil && r.Good != nil }

// Content of one manifest that was opened. It never changes.
type Content struct {
	Provenance Provenance
	ID         string // DataOS's NAME:VERSION:TYPE[:WORKSPACE]
	Kind       manifest.Kind
	Version    string
	Type       manifest.SecretType
	ACL        manifest.ACL
	Layer      string
	Tags       []string
	Desc       string
	Owner      string
	// Bound is false for a manifest of plain sops, where those are allowed.
	Bound bool
	// Kubernetes is what a manifest in that form states beside its values; nil for one
	// in DataOS's.
	Kubernetes *manifest.KubernetesSecret `json:",omitempty"`
	Values     []Value
}

// Intern makes texts that many manifests have in common, as keys and tags, one in
// memory; never a value. It must be called before the content is published.
func (c *Content) Intern() {
	texts := []*string{(*string)(&c.Kind), &c.Version, (*string)(&c.Type), (*string)(&c.ACL), &c.Layer, &c.Desc, &c.Owner,
		&c.Provenance.Commit, &c.Provenance.Author, &c.Provenance.Signer}
	for i := range c.Tags {
		texts = append(texts, &c.Tags[i])
	}
	for i := range c.Values {
		texts = append(texts, &c.Values[i].Key)
	}
	if k := c.Kubernetes; k != nil {
		texts = append(texts, &k.Type, &k.Namespace)
		for _, pairs := range [][]manifest.Pair{k.Labels, k.Annotations} {
			for i := range pairs {
				texts = append(texts, &pairs[i].Key, &pairs[i].Value)
			}
		}
	}
	for _, text := range texts {
		if *text != "" {
			*text = unique.Make(*text).Value()
		}
	}
}

// Value is one key and its plaintext.
type Value struct {
	Key    string
	Binary bool // it stood in binaryData, so it need not be text
	Data   []byte
}

// String hides the value from every way of printing that asks for a string.
func (v Value) String() string { return v.Key + "=(hidden)" }

// GoString is String, for %#v.
func (v Value) GoString() string { return v.String() }

// Provenance tells where a content comes from.
type Provenance struct {
	Path string
	Blob string
	// Commit is the newest commit that gave Path this content, with its author
	// and time.
	Commit string
	Author string
	Time   time.Time
	// Signer is who signed the applied commit with which the content came, where
	// signatures are required: Commit itself, or one that merged it.
	Signer string
}

// Failure says why a manifest is not served as committed. No field holds a value.
type Failure struct {
	Since   time.Time
	Class   FailureClass
	Message string // with file, field and what to do
}

// FailureClass is a closed set, so that it can label a metric.
type FailureClass string

// The classes.
const (
	FailManifest  FailureClass = "manifest"    // the file breaks a rule of its form
	FailPlace     FailureClass = "place"       // it stands where it may not
	FailNoKey     FailureClass = "no-key"      // the ring has no key for it
	FailService   FailureClass = "key-service" // a service that holds its key did not open it
	FailTampered  FailureClass = "tampered"    // it is not as it was sealed
	FailUnbound   FailureClass = "unbound"     // it has no binding
	FailNotSealed FailureClass = "not-sealed"  // values stand in the clear
	FailConflict  FailureClass = "conflict"    // two files disagree about one secret
	FailTooLarge  FailureClass = "too-large"
	FailRead      FailureClass = "unreadable" // the mirror cannot give it
)

// Remedy says what people do about a class of failure.
func (c FailureClass) Remedy() string {
	switch c {
	case FailManifest:
		return "mend the file as the reason says; sealward check finds this before a merge"
	case FailPlace:
		return "move the file where its name and workspace say, or remove it"
	case FailNoKey:
		return "seal it for the workspace's recipients (sealward seal), or give the agent's keyring the identity; sealward doctor FILE lists both"
	case FailService:
		return "see that the agent reaches the key service and may use the key; it asks again at each look"
	case FailTampered:
		return "restore the file from the commit before (git log FILE), and find out who changed it"
	case FailUnbound:
		return "bind it with sealward seal --rebind FILE"
	case FailNotSealed:
		return "the value is public now: change it at its source, then seal the new one"
	case FailConflict:
		return "let only one of the files that the reason names have the key"
	case FailTooLarge:
		return "split the secret; a file has at most 2 MiB"
	case FailRead:
		return "nothing, if the remote answers: the agent clones its mirror anew, at most once an hour"
	}
	return "see the agent's log"
}
