package kubernetes

import (
	"cmp"
	_ "embed"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/sealward/sealward/unseal"
)

// CRD is the definition of the custom resource SealedRepository.
//
//go:embed crd.yaml
var CRD []byte

// The custom resource that tells of one repository, and what people write on it.
var (
	repositoryKind     = schema.GroupVersionKind{Group: "sealward.dev", Version: "v1alpha1", Kind: "SealedRepository"}
	repositoryResource = schema.GroupVersionResource{Group: "sealward.dev", Version: "v1alpha1", Resource: "sealedrepositories"}
)

const (
	// RequestAnnotation has every replica look at the remote when its value changes.
	RequestAnnotation = "sealward.dev/reconcile-requested-at"
	// ApprovePruneAnnotation is a whole commit, at which objects whose removal is held may
	// be removed.
	ApprovePruneAnnotation = "sealward.dev/approve-prune"
	// ApproveAnnotation is a whole commit, at which what waits in the agents may go on:
	// removals of its files, or a head that rewinds the branch.
	ApproveAnnotation = "sealward.dev/approve"
)

// The types of conditions.
const (
	conditionReady       = "Ready"
	conditionReconciling = "Reconciling"
	conditionStalled     = "Stalled"
	conditionVerified    = "SourceVerified"
	conditionClock       = "ClockSynchronized"
)

// Bounds of a status; crd.yaml has the same.
const (
	maxStatusList = 50
	maxNamespaces = 64
	maxText       = 1024
)

// notice stands in every status: no permission of sealward's can change it.
const notice = "Whoever may create Pods in a namespace can read every Secret in it, whatever the grants say; so can whoever may list or watch its Secrets."

// sealedRepository is one object.
type sealedRepository struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              repositorySpec   `json:"spec"`
	Status            repositoryStatus `json:"status,omitzero"`
}

type repositorySpec struct {
	URL    string `json:"url"`
	Branch string `json:"branch"`
	Path   string `json:"path"`
}

type repositoryStatus struct {
	ObservedGeneration     int64               `json:"observedGeneration,omitempty"`
	ObservedCommit         string              `json:"observedCommit,omitempty"`
	Commit                 string              `json:"commit,omitempty"`
	Secrets                string              `json:"secrets,omitempty"`
	Failing                int32               `json:"failing"`
	LastSyncTime           *metav1.Time        `json:"lastSyncTime,omitempty"`
	LastHandledReconcileAt string              `json:"lastHandledReconcileAt,omitempty"`
	Leader                 string              `json:"leader,omitempty"`
	Counts                 repositoryCounts    `json:"counts"`
	Namespaces             []string            `json:"namespaces,omitempty"`
	Notice                 string              `json:"notice,omitempty"`
	FailingManifests       []failingManifest   `json:"failingManifests,omitempty"`
	Problems               []repositoryProblem `json:"problems,omitempty"`
	Conditions             []metav1.Condition  `json:"conditions,omitempty"`
}

type repositoryCounts struct {
	Desired    int32 `json:"desired"`
	Ready      int32 `json:"ready"`
	Failing    int32 `json:"failing"`
	Stale      int32 `json:"stale"`
	Held       int32 `json:"held"`
	HeldPrunes int32 `json:"heldPrunes"`
	Refused    int32 `json:"refused"`
	Problems   int32 `json:"problems"`
}

type failingManifest struct {
	Path   string       `json:"path"`
	Class  string       `json:"class"`
	Reason string       `json:"reason"`
	Remedy string       `json:"remedy"`
	Since  *metav1.Time `json:"since,omitempty"`
	Stale  bool         `json:"stale,omitempty"`
}

type repositoryProblem struct {
	Kind      string       `json:"kind,omitempty"`
	Namespace string       `json:"namespace,omitempty"`
	Name      string       `json:"name,omitempty"`
	Workspace string       `json:"workspace,omitempty"`
	Secret    string       `json:"secret,omitempty"`
	Grant     string       `json:"grant,omitempty"`
	Reason    string       `json:"reason"`
	Message   string       `json:"message"`
	Since     *metav1.Time `json:"since,omitempty"`
	Next      *metav1.Time `json:"next,omitempty"`
}

// parseRepository reads an object of the API server; nil when it is none.
func parseRepository(u *unstructured.Unstructured) *sealedRepository {
	var r sealedRepository
	if u == nil || runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &r) != nil {
		return nil
	}
	return &r
}

// applied is what server-side apply takes: only what this agent decides.
func (r *sealedRepository) applied(status bool) (*unstructured.Unstructured, error) {
	out := &unstructured.Unstructured{Object: map[string]any{}}
	out.SetGroupVersionKind(repositoryKind)
	out.SetNamespace(r.Namespace)
	out.SetName(r.Name)
	field, from := "spec", any(&r.Spec)
	if status {
		field, from = "status", &r.Status
	} else {
		out.SetLabels(map[string]string{ManagedBy: FieldManager, AgentLabel: r.Namespace})
	}
	part, err := runtime.DefaultUnstructuredConverter.ToUnstructured(from)
	out.Object[field] = part
	return out, err
}

// standing is everything that the status of one repository is made of.
type standing struct {
	source   Source
	snapshot *unseal.Snapshot // nil before the first
	sync     unseal.Sync
	report   Report
	problems []Problem // of the report and the plan, of this repository
	// waiting says why nothing of it is projected; "" when it is.
	waiting    string
	contested  []string // workspaces that other sources claim too
	namespaces []string
	skew       time.Duration
	leader     string
	handled    string // see RequestAnnotation
}

// status makes the status that should stand, going on from the one that does.
func (s standing) status(old sealedRepository, now time.Time) repositoryStatus {
	out := repositoryStatus{
		ObservedGeneration: old.Generation, Leader: cut(s.leader, 320), Notice: notice, LastHandledReconcileAt: cut(s.handled, 256),
		Namespaces: slices.Clone(s.namespaces[:min(len(s.namespaces), maxNamespaces)]), Conditions: slices.Clone(old.Status.Conditions),
	}
	repository := s.source.repository
	c := &out.Counts
	c.Desired, c.Ready = int32(s.report.DesiredOf[repository]), int32(s.report.ReadyOf[repository])
	c.HeldPrunes, c.Problems = int32(s.report.Held[repository]), int32(len(s.problems))
	out.Secrets = fmt.Sprintf("%d/%d", c.Ready, c.Desired)
	if !s.sync.LastSuccess.IsZero() {
		out.LastSyncTime = second(s.sync.LastSuccess)
	}
	if s.snapshot != nil {
		out.ObservedCommit, out.Commit = s.snapshot.Commit, s.snapshot.Commit[:min(12, len(s.snapshot.Commit))]
		c.Held, c.Refused = int32(len(s.snapshot.Held())), int32(len(s.snapshot.Problems))
		for _, f := range s.snapshot.Failing() {
			c.Failing++
			stale := s.snapshot.Serves(f, now)
			if stale {
				c.Stale++
			}
			if len(out.FailingManifests) < maxStatusList {
				out.FailingManifests = append(out.FailingManifests, failingManifest{Path: cut(f.Path, maxText), Class: string(f.Failure.Class),
					Reason: cut(f.Failure.Message, maxText), Remedy: cut(f.Failure.Class.Remedy(), 512), Since: second(f.Failure.Since), Stale: stale})
			}
		}
	}
	out.Failing = c.Failing
	for _, p := range s.problems[:min(len(s.problems), maxStatusList)] {
		out.Problems = append(out.Problems, repositoryProblem{Kind: string(p.Key.Kind), Namespace: cut(p.Key.Namespace, 63), Name: cut(p.Key.Name, 253),
			Workspace: p.Origin.Workspace.String(), Secret: p.Origin.Secret.String(), Grant: cut(p.Origin.Grant, maxText),
			Reason: string(p.Reason), Message: cut(p.Message, maxText), Since: second(p.Since), Next: second(p.Next)})
	}
	for _, condition := range s.conditions(out.Counts) {
		condition.ObservedGeneration = old.Generation
		condition.Message = cut(condition.Message, 2048)
		condition.LastTransitionTime = *second(now)
		meta.SetStatusCondition(&out.Conditions, condition)
	}
	// Others' conditions are not this agent's to keep.
	out.Conditions = slices.DeleteFunc(out.Conditions, func(c metav1.Condition) bool {
		return !slices.Contains([]string{conditionReady, conditionReconciling, conditionStalled, conditionVerified, conditionClock}, c.Type)
	})
	return out
}

// trouble is one reason why a repository is not ready. One that is stuck does not pass
// until a person has acted.
type trouble struct {
	reason, message string
	stuck           bool
}

// troubles lists what keeps a repository from being ready, the gravest first.
func (s standing) troubles(c repositoryCounts) (out []trouble) {
	add := func(stuck bool, reason, format string, args ...any) {
		out = append(out, trouble{reason, fmt.Sprintf(format, args...), stuck})
	}
	if class := s.sync.Class; class != unseal.SyncOK {
		stuck := class != unseal.SyncUnreachable && class != unseal.SyncMirror && class != unseal.SyncOther
		add(stuck, "Source"+camel(string(class)), "the branch is not followed (%s): %s", class, class.Remedy())
	}
	if len(s.contested) > 0 {
		add(true, string(Contested), "other sources claim workspaces of this one too: %s; list them in workspaces of the one that has them", some(s.contested))
	}
	if s.waiting != "" {
		add(false, "Waiting", "%s", s.waiting)
	}
	if n := c.Held + c.HeldPrunes; n > 0 {
		add(true, string(PruneHeld), "%d removed files and %d objects of the cluster wait for the operator's word; see sealward.dev/approve and sealward.dev/approve-prune", c.Held, c.HeldPrunes)
	}
	if s.snapshot != nil && c.Failing > 0 {
		f := s.snapshot.Failing()[0]
		add(f.Failure.Class != unseal.FailService && f.Failure.Class != unseal.FailRead, "ManifestsFailing", "%d manifests are not served as committed: %s (%s), see status.failingManifests", c.Failing, f.Path, f.Failure.Class)
	}
	if c.Refused > 0 {
		p := s.snapshot.Problems[0]
		add(true, "FilesRefused", "%d files were refused: %s (%s)", c.Refused, p.Path, p.Class)
	}
	if len(s.problems) > 0 {
		p := s.problems[0]
		add(!slices.ContainsFunc(s.problems, func(p Problem) bool { return !p.Next.IsZero() }), string(p.Reason), "%d problems in the cluster: %s", len(s.problems), p.Message)
	}
	return out
}

func (s standing) conditions(c repositoryCounts) []metav1.Condition {
	condition := func(kind string, is metav1.ConditionStatus, reason, message string) metav1.Condition {
		return metav1.Condition{Type: kind, Status: is, Reason: reason, Message: message}
	}
	ready := condition(conditionReady, metav1.ConditionTrue, "Projected", fmt.Sprintf("commit %.12s is served; its Secrets stand: %d", s.commit(), c.Ready))
	reconciling := condition(conditionReconciling, metav1.ConditionFalse, "Idle", "nothing is under way")
	stalled := condition(conditionStalled, metav1.ConditionFalse, "NotStalled", "nothing waits for a person")
	behind := s.sync.Head != "" && s.sync.Head != s.commit() && s.sync.Refused != s.sync.Head
	switch {
	case s.snapshot == nil:
		ready = condition(conditionReady, metav1.ConditionFalse, "NotSynced", "no commit was applied yet")
		reconciling = condition(conditionReconciling, metav1.ConditionTrue, "Syncing", "the first commit is being fetched")
	case behind:
		reconciling = condition(conditionReconciling, metav1.ConditionTrue, "Syncing", fmt.Sprintf("commit %.12s is being applied", s.sync.Head))
	case s.waiting == "" && (s.report.Pending > 0 || s.report.Commits[s.source.repository] != s.commit()):
		// Pending is of all repositories; the count of this one tells whether it is ready.
		reconciling = condition(conditionReconciling, metav1.ConditionTrue, "Projecting", fmt.Sprintf("commit %.12s is being projected", s.commit()))
	}
	if s.snapshot != nil && (c.Ready < c.Desired || s.report.Commits[s.source.repository] != s.commit()) {
		ready = condition(conditionReady, metav1.ConditionFalse, "Projecting", fmt.Sprintf("%d of %d Secrets of commit %.12s stand", c.Ready, c.Desired, s.commit()))
	}
	if all := s.troubles(c); len(all) > 0 {
		stuck := slices.IndexFunc(all, func(t trouble) bool { return t.stuck })
		// It stands in a column of kubectl get.
		text := cut(all[0].message, 300)
		if len(all) > 1 {
			text += fmt.Sprintf(" (and %d more: kubectl describe)", len(all)-1)
		}
		ready = condition(conditionReady, metav1.ConditionFalse, all[0].reason, text)
		if stuck >= 0 {
			stalled = condition(conditionStalled, metav1.ConditionTrue, all[stuck].reason, all[stuck].message)
		}
	}
	verified := condition(conditionVerified, metav1.ConditionUnknown, "NotRequired", "the agents' settings ask for no signature (source.verify)")
	switch {
	case s.sync.Class == unseal.SyncSignature:
		verified = condition(conditionVerified, metav1.ConditionFalse, "NotSigned", fmt.Sprintf("commit %.12s is not signed by an allowed signer and not followed", cmp.Or(s.sync.Refused, s.sync.Head)))
	case s.source.Verified && s.snapshot != nil:
		verified = condition(conditionVerified, metav1.ConditionTrue, "Signed", fmt.Sprintf("commit %.12s is signed by an allowed signer", s.commit()))
	case s.source.Verified:
		verified = condition(conditionVerified, metav1.ConditionUnknown, "NotSynced", "no commit was applied yet")
	}
	clock := condition(conditionClock, metav1.ConditionTrue, "Synchronized", "the leader's clock and the API server's agree")
	if s.skew != 0 {
		clock = condition(conditionClock, metav1.ConditionFalse, "ClockSkew", fmt.Sprintf("the leader's clock is %s ahead of the API server's; grants expire by the leader's", s.skew.Round(time.Second)))
	}
	return []metav1.Condition{ready, reconciling, stalled, verified, clock}
}

func (s standing) commit() string {
	if s.snapshot == nil {
		return ""
	}
	return s.snapshot.Commit
}

// some lists the first of many.
func some(list []string) string {
	const n = 5
	if len(list) > n {
		return strings.Join(list[:n], ", ") + fmt.Sprintf(" and %d more", len(list)-n)
	}
	return strings.Join(list, ", ")
}

// camel makes a reason's word of a class: key-service is KeyService.
func camel(class string) string {
	var b strings.Builder
	for part := range strings.SplitSeq(class, "-") {
		if part != "" {
			b.WriteString(strings.ToUpper(part[:1]) + part[1:])
		}
	}
	return cmp.Or(b.String(), "Other")
}

// second is a time as the API server keeps it; nil for none.
func second(t time.Time) *metav1.Time {
	if t.IsZero() {
		return nil
	}
	return &metav1.Time{Time: t.UTC().Truncate(time.Second)}
}

// cut keeps a text printable, on one line, and within bytes.
func cut(s string, bytes int) string {
	s = strings.Join(strings.Fields(s), " ")
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
	if len(s) <= bytes {
		return s
	}
	end := bytes - len("…")
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "…"
}

// differs reports that a status has to be written. When the remote last answered is no
// reason alone, until it is old.
func (s repositoryStatus) differs(old repositoryStatus) bool {
	const fresh = 5 * time.Minute
	if s.LastSyncTime != nil && old.LastSyncTime != nil && s.LastSyncTime.Sub(old.LastSyncTime.Time).Abs() < fresh {
		s.LastSyncTime = old.LastSyncTime
	}
	a, err1 := runtime.DefaultUnstructuredConverter.ToUnstructured(&s)
	b, err2 := runtime.DefaultUnstructuredConverter.ToUnstructured(&old)
	return err1 != nil || err2 != nil || !reflect.DeepEqual(a, b)
}
