// Package kubernetes projects what an agent serves into a cluster: secrets become
// Secrets of a namespace, and grants become Roles and RoleBindings.
//
// The way of a value: [Planner.Plan] makes of the published snapshots a [Plan], every
// object that should stand in the cluster, without a look at it; [Engine] holds the
// cluster to the newest plan, and [Report] says how that goes. Every replica plans;
// only the one that holds the Lease writes.
//
// What sealward did not make is never changed and never deleted.
package kubernetes

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/sealward/sealward/seal/manifest"
)

// FieldManager is sealward's name in server-side apply.
const FieldManager = "sealward"

// Labels and annotations of what sealward makes.
const (
	// ManagedBy has the value FieldManager on everything that sealward made.
	ManagedBy = "app.kubernetes.io/managed-by"
	// AgentLabel is the namespace that the agents run in: two installations in one
	// cluster leave each other's objects alone.
	AgentLabel = "sealward.dev/agent"
	// RepositoryLabel is the name of the SealedRepository that it comes from.
	RepositoryLabel = "sealward.dev/repository"
	WorkspaceLabel  = "sealward.dev/workspace"
	// SecretLabel is the name of a secret in its workspace, which a hashed name extends.
	SecretLabel = "sealward.dev/secret"

	// PathAnnotation and BlobAnnotation list files and their blobs, separated by a
	// comma, in the order of paths; CommitAnnotation is the newest commit that changed one of them.
	PathAnnotation   = "sealward.dev/path"
	BlobAnnotation   = "sealward.dev/blob"
	CommitAnnotation = "sealward.dev/commit"
	// ExpiresAnnotation of a RoleBinding is when its grant expires (RFC 3339). It goes then
	// also where the replica that leads does not know the newest commit.
	ExpiresAnnotation = "sealward.dev/expires"

	// AdoptAnnotation "true" on an object that sealward did not make hands it over.
	AdoptAnnotation = "sealward.dev/adopt"
	// InstanceLabelPrefix and the name of an instance secret make the label by which a
	// namespace asks for it, with the value "true".
	InstanceLabelPrefix = "instance.sealward.dev/"
)

// Kind of an object that is projected.
type Kind string

// The kinds.
const (
	KindSecret      Kind = "Secret"
	KindRole        Kind = "Role"
	KindRoleBinding Kind = "RoleBinding"
)

// Key names one object of the cluster.
type Key struct {
	Kind      Kind
	Namespace string
	Name      string
}

// Origin is what an object is made of.
type Origin struct {
	Repository string // name of the SealedRepository
	Workspace  manifest.Workspace
	Secret     manifest.Name // of a Secret
	Grant      string        // path, of a Role or RoleBinding
}

// Object is one object as it should stand in the cluster. It never changes: the same
// pointer in two plans means that nothing changed. Exactly one of Secret, Role and
// Binding is set, complete with labels and annotations.
type Object struct {
	Key     Key
	Origin  Origin
	Secret  *corev1.Secret
	Role    *rbacv1.Role
	Binding *rbacv1.RoleBinding
}

// Plan is everything that should stand in the cluster at one moment. It never changes.
type Plan struct {
	// Objects that should stand.
	Objects map[Key]*Object
	// Keep are objects that, where they stand, are left as they are: two secrets would
	// be the one object, or it is an immutable Secret that was superseded a short while
	// ago. They are neither made, nor changed, nor deleted, and none is in Objects.
	Keep map[Key]bool
	// KeepWorkspaces are those of which every Secret is to be kept like that, by the
	// label of its workspace: who may read it cannot be decided now. Their Roles and
	// RoleBindings are not kept: what the lost decision might have been is a deny.
	KeepWorkspaces map[manifest.Workspace]bool
	// Repositories that have a snapshot. Objects of others are left alone: that nothing
	// is known of them does not mean that they are gone.
	Repositories map[string]bool
	// Namespaces that are projected into, sorted; also those without an object yet.
	Namespaces []string
	// Commits by repository.
	Commits map[string]string
	// Problems are what is not projected, sorted by workspace, secret and grant.
	Problems []Problem
	// Again is when the plan changes though nothing is published: a grant or a stale
	// value expires. Zero for never.
	Again time.Time
}

// Problem is something that does not stand in the cluster as it should.
type Problem struct {
	Key    Key // the zero Key where there is no object; only Namespace for a whole namespace
	Origin Origin
	Reason Reason
	// Message for people. It never holds a value, also where the API server's own answer did.
	Message string
	Since   time.Time
	// Next is when it is tried again; zero where a change has to come first.
	Next time.Time
}

// Reason of a problem. It is a closed set, so that it can label a metric.
type Reason string

// The reasons. Those of the first group come from a plan, the others from the cluster.
const (
	Inexpressible Reason = "Inexpressible" // a deny grant or a grant of some keys, which RBAC cannot state
	PolicyBroken  Reason = "PolicyBroken"  // who may read cannot be decided
	Contested     Reason = "Contested"     // two repositories claim the workspace
	Collision     Reason = "Collision"     // two secrets would be one object
	NoTarget      Reason = "NoTarget"      // no namespace that may be projected into
	TooLarge      Reason = "TooLarge"      // more than Kubernetes holds in a Secret
	InvalidData   Reason = "InvalidData"   // Kubernetes takes no such name, key, type or label

	NotOurs              Reason = "NotOurs"              // an object of that name was not made by this agent
	NamespaceMissing     Reason = "NamespaceMissing"     //
	NamespaceTerminating Reason = "NamespaceTerminating" //
	Forbidden            Reason = "Forbidden"            // the agent's service account may not
	QuotaExceeded        Reason = "QuotaExceeded"        //
	DeniedByWebhook      Reason = "DeniedByWebhook"      // an admission webhook or policy
	Conflict             Reason = "Conflict"             // somebody else keeps writing it
	Throttled            Reason = "Throttled"            // the API server asks to wait
	Unavailable          Reason = "Unavailable"          // the API server does not answer
	PruneHeld            Reason = "PruneHeld"            // too many objects would be deleted
	OtherReason          Reason = "Other"
)

// Report is how the cluster stands to the newest plan. It is a copy.
type Report struct {
	// Commits that the plan was of, by repository.
	Commits map[string]string
	// Desired and Ready count objects of the plan, and those that stand as planned.
	Desired, Ready map[Kind]int
	// DesiredOf and ReadyOf count the same by repository, Secrets only.
	DesiredOf, ReadyOf map[string]int
	// Synced is when everything last stood as planned; Pending are objects that were
	// not looked at yet since the plan came, or since somebody changed them.
	Synced  time.Time
	Pending int
	// Problems of the plan and of the cluster, sorted by namespace, kind and name.
	Problems []Problem
	// Omitted counts problems that are not listed, where there are very many.
	Omitted int
	// Held are objects that wait with their removal for the operator's word, by repository.
	Held map[string]int
}
