// Package kustomize unseals during kustomize builds: as a KRM function of stock
// kustomize ([Function]) and as a whole build in this process ([Build]).
//
// Both read the same generator files ([ParseGenerator]) and make the same objects
// of them ([Unsealer.Generate]); they only hand them to kustomize in another way.
// Plaintext is never written to a disk, and nothing is left out in silence: what
// cannot be unsealed ends the build.
package kustomize

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
	// localConfigAnnotation has kustomize leave an object out of its output.
	localConfigAnnotation = "config.kubernetes.io/local-config"
	// PlaceholderAnnotation marks an object whose values are not the real ones.
	PlaceholderAnnotation = Group + "/placeholder"
)

// IsGenerator reports that an object of this apiVersion and kind is a generator
// that this package reads.
func IsGenerator(apiVersion, kind string) bool {
	return apiVersion == APIVersion && kind == Kind || apiVersion == KSOPSVersion && kind == KSOPSKind
}
