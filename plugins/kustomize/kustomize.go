// Package kustomize unseals during kustomize builds: as a KRM function of stock
// kustomize ([Function]) and as a whole build in this process ([Build]).
//
// Both read the same generator files ([ParseGenerator]) and make the same objects
// of them ([Unsealer.Generate]); they only hand them to kustomize in another way.
// Plaintext is never written to a disk, and nothing is left out in silence: what
// cannot be unsealed ends the build.
package kustomize

import (
	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// The generators that this package knows.
const (
	Group      = "sealward.dev"
	APIVersion = Group + "/v1"
	// Kind of sealward's own generator.
	Kind = "SealedSecretGenerator"
	// KSOPSVersion and KSOPSKind are of KSOPS's generator, which is read as it is.
	KSOPSVersion = "viaduct.ai/v1"
	KSOPSKind    = "ksops"
)

// Annotations that mean something to kustomize (its plugin utilities) and to us.
const (
	NeedsHashAnnotation = "kustomize.config.k8s.io/needs-hash"
	BehaviorAnnotation  = "kustomize.config.k8s.io/behavior"
	functionAnnotation  = "config.kubernetes.io/function"
	// PlaceholderAnnotation marks an object whose values are not the real ones.
	PlaceholderAnnotation = Group + "/placeholder"
)

// IsGenerator reports that an object of this apiVersion and kind is a generator
// that this package reads.
func IsGenerator(apiVersion, kind string) bool {
	return apiVersion == APIVersion && kind == Kind || apiVersion == KSOPSVersion && kind == KSOPSKind
}

// Object is what a generator makes: a v1 Secret or ConfigMap, or, of a KSOPS
// generator, an object of any other kind.
type Object struct {
	APIVersion, Kind string
	Name, Namespace  string
	// Type of a Secret.
	Type        string
	Labels      map[string]string
	Annotations map[string]string // without kustomize's options
	Immutable   bool
	// Data of a Secret or ConfigMap: bytes, not base64. Data of a ConfigMap that
	// stood in binaryData is listed in Binary.
	Data   map[string][]byte
	Binary map[string]bool
	// Other is the whole object when it is no Secret and no ConfigMap; the fields
	// above that describe data are then unset.
	Other *yaml.RNode

	// NeedsHash and Behavior ("", create, merge or replace) are kustomize's options.
	NeedsHash bool
	Behavior  string
	// From is the file that it was unsealed from, relative to the tree.
	From string
}

// RNode is the object as a function emits it: values as base64 in data, kustomize's
// options as annotations.
func (o *Object) RNode() (*yaml.RNode, error) { panic("not yet") }
