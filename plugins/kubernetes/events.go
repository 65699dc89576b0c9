package kubernetes

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
)

// reporter is the controller that events are of.
const reporter = "sealward.dev/agent"

// Bounds of events: so many at once, and one every so often.
const (
	eventBurst = 25
	eventEvery = 2 * time.Second
)

// eventLog makes events of problems that begin and end, on the object that they are
// about where it is in a namespace that can be written to, else on the SealedRepository.
// They are for people: what is beyond the bounds stands in the status alone.
type eventLog struct {
	client  clientset.Interface
	limiter *rate.Limiter
	now     func() time.Time

	mu       sync.Mutex
	recorder events.EventRecorder // nil while this replica does not lead
	before   map[problemID]Problem
}

func newEventLog(client clientset.Interface, now func() time.Time) *eventLog {
	return &eventLog{client: client, now: now, limiter: rate.NewLimiter(rate.Every(eventEvery), eventBurst)}
}

// run sends events until ctx ends.
func (e *eventLog) run(ctx context.Context) {
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: e.client.EventsV1()})
	defer broadcaster.Shutdown()
	if err := broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
		return // only of one that was shut down
	}
	e.mu.Lock()
	e.recorder, e.before = broadcaster.NewRecorder(scheme.Scheme, reporter), nil
	e.mu.Unlock()
	<-ctx.Done()
	e.mu.Lock()
	e.recorder = nil
	e.mu.Unlock()
}

// compare tells of problems that were not there the last time, and of those that are gone.
func (e *eventLog) compare(problems []Problem, repository func(name string) *unstructured.Unstructured) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.recorder == nil {
		return
	}
	now := make(map[problemID]Problem, len(problems))
	for _, p := range problems {
		now[problemID{p.Key, p.Origin, p.Reason}] = p
	}
	var begun, ended []Problem
	for id, p := range now {
		if _, known := e.before[id]; !known {
			begun = append(begun, p)
		}
	}
	for id, p := range e.before {
		if _, still := now[id]; !still {
			ended = append(ended, p)
		}
	}
	e.before = now
	for _, p := range inOrder(begun) {
		regarding, related := about(p, repository)
		e.send(regarding, related, corev1.EventTypeWarning, string(p.Reason), p.Message)
	}
	for _, p := range inOrder(ended) {
		regarding, related := about(p, repository)
		e.send(regarding, related, corev1.EventTypeNormal, "Resolved", "no longer: "+string(p.Reason))
	}
}

// tell makes one event on a SealedRepository.
func (e *eventLog) tell(repository *unstructured.Unstructured, warning bool, reason, note string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	kind := corev1.EventTypeNormal
	if warning {
		kind = corev1.EventTypeWarning
	}
	if e.recorder != nil {
		e.send(repository, nil, kind, reason, note)
	}
}

func (e *eventLog) send(regarding, related runtime.Object, kind, reason, note string) {
	if e.limiter.AllowN(e.now(), 1) {
		e.recorder.Eventf(regarding, related, kind, reason, "Project", "%s", cut(note, maxText))
	}
}

// inOrder sorts problems, so that the same ones are told of when there are too many.
func inOrder(problems []Problem) []Problem {
	slices.SortFunc(problems, func(a, b Problem) int {
		text := func(p Problem) string {
			return strings.Join([]string{p.Key.Namespace, string(p.Key.Kind), p.Key.Name, p.Origin.Workspace.String(), p.Origin.Secret.String(), p.Origin.Grant, string(p.Reason)}, "\x00")
		}
		return strings.Compare(text(a), text(b))
	})
	return problems
}

// about is the object that a problem is about, and the SealedRepository where that is
// another one.
func about(p Problem, repository func(string) *unstructured.Unstructured) (regarding, related runtime.Object) {
	of := repository(p.Origin.Repository)
	meta := metav1.ObjectMeta{Namespace: p.Key.Namespace, Name: p.Key.Name}
	switch {
	case p.Key.Namespace == "" || p.Key.Name == "" || p.Reason == NamespaceMissing || p.Reason == NamespaceTerminating:
		return of, nil // no event can stand there
	case p.Key.Kind == KindSecret:
		return &corev1.Secret{ObjectMeta: meta}, of
	case p.Key.Kind == KindRole:
		return &rbacv1.Role{ObjectMeta: meta}, of
	case p.Key.Kind == KindRoleBinding:
		return &rbacv1.RoleBinding{ObjectMeta: meta}, of
	}
	return of, nil
}
