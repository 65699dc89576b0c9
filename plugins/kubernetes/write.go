package kubernetes

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
)

// requestTimeout is the deadline of a request: no write of a leader that lost its
// Lease meanwhile stays under way for longer.
const requestTimeout = 10 * time.Second

// What can stop a write, besides the API server.
var (
	errNotOurs  = errors.New("it was not made by sealward")
	errOthers   = errors.New("it belongs to agents of another namespace")
	errDeleting = errors.New("it is being deleted, and a finalizer holds it")
	errChanging = errors.New("it changes while it is written")
	errRecord   = errors.New("the audit cannot be written")
	errAnswer   = errors.New("the answer is about something else")
	errPanic    = errors.New("it panicked")
)

// opError says what was tried when something failed.
type opError struct {
	verb string // as RBAC calls it
	err  error
}

func (e *opError) Error() string { return e.verb + ": " + e.err.Error() }
func (e *opError) Unwrap() error { return e.err }

// rest is the client of a kind. The typed clients would send a request again by
// themselves, without asking for the Lease.
func (e *Engine) rest(k Kind) rest.Interface {
	if k == KindSecret {
		return e.cfg.Client.CoreV1().RESTClient()
	}
	return e.cfg.Client.RbacV1().RESTClient()
}

func (e *Engine) request(k Kind, ns, method string) *rest.Request {
	return e.rest(k).Verb(method).UseProtobufAsDefault().Namespace(ns).Resource(k.resource()).MaxRetries(0)
}

// write sends a request that changes the cluster, if the Lease is held.
func (e *Engine) write(ctx context.Context, verb string, key Key, req *rest.Request) (object, error) {
	if err := e.mayWrite(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	result := req.Do(ctx)
	if verb == "delete" {
		if err := result.Error(); err != nil {
			return nil, &opError{verb, err}
		}
		return nil, nil
	}
	return into(verb, key, result)
}

// into reads an answer, which must be about the object that was asked for.
func into(verb string, key Key, result rest.Result) (object, error) {
	o := key.Kind.empty()
	err := result.Into(o)
	if err == nil && (o.GetName() != key.Name || o.GetUID() == "") {
		err = errAnswer
	}
	if err != nil {
		return nil, &opError{verb, err}
	}
	return o, nil
}

func (e *Engine) mayWrite() error {
	if e.cfg.MayWrite != nil && e.cfg.MayWrite() != nil {
		return ErrNotLeading
	}
	return nil
}

// attempt is one try to have an object stand as planned.
type attempt struct {
	e     *Engine
	key   Key
	obj   *Object
	fresh bool // what leaves was recorded
	// live is what stands after the last write that succeeded; nil when nothing was written.
	live object
	// sent is what was created, where that was all.
	sent object
	// gone is the object that was deleted on the way.
	gone *observed
}

// bring has the object stand as planned. It is created unless something is there;
// then what is there decides.
func (a *attempt) bring(ctx context.Context, there bool) error {
	for range 3 {
		if !there {
			err := a.create(ctx)
			if !apierrors.IsAlreadyExists(err) {
				return err
			}
		}
		live, err := a.get(ctx)
		if apierrors.IsNotFound(err) {
			there = false
			continue
		}
		if err != nil {
			return err
		}
		again, err := a.change(ctx, live)
		if !again && (!apierrors.IsNotFound(err) || namespaceMissing(err)) {
			return err
		}
		there = false
	}
	return errChanging
}

func (a *attempt) get(ctx context.Context) (object, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return into("get", a.key, a.e.request(a.key.Kind, a.key.Namespace, http.MethodGet).Name(a.key.Name).Do(ctx))
}

// record has the audit know before a value leaves. Once an attempt is enough.
func (a *attempt) record(ctx context.Context) error {
	if a.fresh || a.e.cfg.Record == nil || a.key.Kind != KindSecret {
		return nil
	}
	if err := a.e.mayWrite(); err != nil {
		return err
	}
	if err := a.e.cfg.Record(ctx, []*Object{a.obj}); err != nil {
		return errors.Join(errRecord, err)
	}
	a.fresh = true
	return nil
}

// create never touches what is there: the API server refuses it then.
func (a *attempt) create(ctx context.Context) error {
	if err := a.record(ctx); err != nil {
		return err
	}
	sent := a.e.body(a.obj)
	opts := metav1.CreateOptions{FieldManager: FieldManager}
	req := a.e.request(a.key.Kind, a.key.Namespace, http.MethodPost).VersionedParams(&opts, scheme.ParameterCodec).Body(sent)
	live, err := a.e.write(ctx, "create", a.key, req)
	if err == nil {
		a.live, a.sent = live, sent
	}
	return err
}

// change makes of what stands what should stand; again asks for a create.
func (a *attempt) change(ctx context.Context, live object) (again bool, err error) {
	adopting := false
	if !a.e.ours(live) && !disowned(live) {
		if live.GetAnnotations()[AdoptAnnotation] != "true" {
			if live.GetLabels()[ManagedBy] == FieldManager {
				return false, errOthers
			}
			return false, errNotOurs
		}
		adopting = true
	}
	if live.GetDeletionTimestamp() != nil {
		return false, errDeleting
	}
	want := a.e.body(a.obj)
	if a.e.digester.reduce(live).digest == a.e.digester.wanted(want) {
		a.live = live // it came to stand so meanwhile, by a write whose answer was lost
		return false, nil
	}
	// What is recorded before a delete cannot fail after it.
	if err := a.record(ctx); err != nil {
		return false, err
	}
	if a.e.unchangeable(live, want) {
		if err := a.e.delete(ctx, a.key, live.GetUID(), live.GetResourceVersion()); err != nil {
			return false, err
		}
		a.gone, a.live = &observed{uid: live.GetUID(), version: live.GetResourceVersion()}, nil
		return true, nil
	}
	if a.key.Kind != KindSecret {
		// A Role that somebody widened takes no patch from who has not those rights, but an
		// apply that narrows it.
		if live, err = a.apply(ctx, live, want); err != nil {
			return false, err
		}
		_, err = a.clear(ctx, live, want, false)
		return false, err
	}
	// What is to go goes first: old and new together may be too large.
	if live, err = a.clear(ctx, live, want, adopting); err != nil {
		return false, err
	}
	_, err = a.apply(ctx, live, want)
	return false, err
}

// apply is a server-side apply to one revision of one object, so that it falls neither
// on another object nor on a change that was not looked at.
func (a *attempt) apply(ctx context.Context, live, want object) (object, error) {
	want.SetUID(live.GetUID())
	want.SetResourceVersion(live.GetResourceVersion())
	body, err := json.Marshal(want)
	if err != nil {
		return nil, err
	}
	force := true
	return a.patch(ctx, types.ApplyPatchType, body, metav1.PatchOptions{FieldManager: FieldManager, Force: &force})
}

type patchOp struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// clear takes away what an apply would leave: it removes only what an apply had set, but
// not what came with the create that made the object, nor data keys of others. On what
// is adopted it puts our labels, at the same moment. It gives what stands then.
func (a *attempt) clear(ctx context.Context, live, want object, adopting bool) (object, error) {
	ops := stale("/metadata/labels/", live.GetLabels(), want.GetLabels(), ownedFields(live, true).label, ownedFields(live, false).label)
	ops = append(ops, stale("/metadata/annotations/", live.GetAnnotations(), want.GetAnnotations(), ownedFields(live, true).annotation, ownedFields(live, false).annotation)...)
	if s, ok := live.(*corev1.Secret); ok {
		ops = append(ops, stale("/data/", s.Data, want.(*corev1.Secret).Data, func(string) bool { return true }, func(string) bool { return false })...)
	}
	if adopting {
		ours := map[string]string{ManagedBy: FieldManager, AgentLabel: a.e.cfg.Agent}
		if live.GetLabels() == nil {
			ops = append(ops, patchOp{Op: "add", Path: "/metadata/labels", Value: ours})
		} else {
			for k, v := range ours {
				ops = append(ops, patchOp{Op: "add", Path: "/metadata/labels/" + pointer(k), Value: v})
			}
		}
	}
	if ops == nil {
		return live, nil
	}
	ops = append(ops,
		patchOp{Op: "replace", Path: "/metadata/uid", Value: live.GetUID()},
		patchOp{Op: "replace", Path: "/metadata/resourceVersion", Value: live.GetResourceVersion()})
	body, err := json.Marshal(ops)
	if err != nil {
		return nil, err
	}
	return a.patch(ctx, types.JSONPatchType, body, metav1.PatchOptions{FieldManager: FieldManager})
}

// stale are removals of what we own, nobody else does, and nobody wants.
func stale[V any](path string, live, want map[string]V, ours, others func(string) bool) []patchOp {
	var ops []patchOp
	for k := range live {
		if _, wanted := want[k]; !wanted && ours(k) && !others(k) || k == AdoptAnnotation {
			ops = append(ops, patchOp{Op: "remove", Path: path + pointer(k)})
		}
	}
	return ops
}

var escape = strings.NewReplacer("~", "~0", "/", "~1")

// pointer is a key as one step of a JSON pointer.
func pointer(key string) string { return escape.Replace(key) }

func (a *attempt) patch(ctx context.Context, form types.PatchType, body []byte, opts metav1.PatchOptions) (object, error) {
	req := a.e.rest(a.key.Kind).Patch(form).UseProtobufAsDefault().Namespace(a.key.Namespace).Resource(a.key.Kind.resource()).Name(a.key.Name).
		MaxRetries(0).VersionedParams(&opts, scheme.ParameterCodec).Body(body)
	live, err := a.e.write(ctx, "patch", a.key, req)
	if err == nil {
		a.live = live
	}
	return live, err
}

// delete removes one revision of one object, and no other.
func (e *Engine) delete(ctx context.Context, key Key, uid types.UID, version string) error {
	opts := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &version}}
	_, err := e.write(ctx, "delete", key, e.request(key.Kind, key.Namespace, http.MethodDelete).Name(key.Name).Body(&opts))
	if apierrors.IsNotFound(err) && !namespaceMissing(err) {
		return nil
	}
	return err
}

// asSent reports without a digest that a Secret stands as it was created.
func asSent(live, sent object) bool {
	a, ok := live.(*corev1.Secret)
	b, _ := sent.(*corev1.Secret)
	return ok && len(a.ManagedFields) == 1 && a.ManagedFields[0].Manager == FieldManager && a.DeletionTimestamp == nil &&
		a.Type == b.Type && (a.Immutable != nil && *a.Immutable) == (b.Immutable != nil && *b.Immutable) &&
		maps.Equal(a.Labels, b.Labels) && maps.Equal(a.Annotations, b.Annotations) && maps.EqualFunc(a.Data, b.Data, bytes.Equal)
}

// ours reports that this installation says it made o.
func (e *Engine) ours(o object) bool {
	return o.GetLabels()[ManagedBy] == FieldManager && o.GetLabels()[AgentLabel] == e.cfg.Agent
}

// disowned reports a right that sealward gave and whose labels somebody took away. It is
// labelled again, or it would outlive its grant and nobody would see it. A Secret without
// its labels is another matter: that is how somebody takes it over.
func disowned(o object) bool {
	if _, secret := o.(*corev1.Secret); secret || o.GetLabels()[AgentLabel] != "" || o.GetLabels()[ManagedBy] != "" && o.GetLabels()[ManagedBy] != FieldManager {
		return false
	}
	return ownedFields(o, true).annotation(PathAnnotation)
}

// unchangeable reports that only another object can be as wanted.
func (e *Engine) unchangeable(live, want object) bool {
	switch live := live.(type) {
	case *corev1.Secret:
		want := want.(*corev1.Secret)
		frozen := live.Immutable != nil && *live.Immutable
		return typeOf(live) != typeOf(want) || frozen && e.digester.content(live) != e.digester.content(want)
	case *rbacv1.RoleBinding:
		a, b := live.RoleRef, want.(*rbacv1.RoleBinding).RoleRef
		return a.Kind != b.Kind || a.Name != b.Name
	}
	return false
}

// covers reports that everything wanted stands, whatever stands besides.
func (e *Engine) covers(live, want object) bool {
	has := func(m map[string]string) func(string) bool { return func(k string) bool { _, ok := m[k]; return ok } }
	return e.digester.of(live, has(want.GetLabels()), has(want.GetAnnotations())) == e.digester.wanted(want)
}

// wanted is the digest of an object that stands as wanted.
func (d *digester) wanted(want object) digest {
	all := func(string) bool { return true }
	return d.of(want, all, all)
}

// body is the object as it is sent. It shares the content with obj, which nobody changes.
func (e *Engine) body(obj *Object) object {
	var o object
	switch obj.Key.Kind {
	case KindSecret:
		s := *obj.Secret
		s.TypeMeta, s.Type = metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, typeOf(&s)
		o = &s
	case KindRole:
		r := *obj.Role
		r.TypeMeta = metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "Role"}
		if r.Rules == nil {
			r.Rules = []rbacv1.PolicyRule{}
		}
		o = &r
	case KindRoleBinding:
		b := *obj.Binding
		b.TypeMeta = metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "RoleBinding"}
		b.RoleRef.APIGroup = rbacv1.GroupName
		o = &b
	}
	o.SetName(obj.Key.Name)
	o.SetNamespace(obj.Key.Namespace)
	// Without its labels it would be lost as soon as it is made; and what asks for
	// adoption would be handed to and fro.
	labels := map[string]string{}
	maps.Copy(labels, o.GetLabels())
	labels[ManagedBy], labels[AgentLabel] = FieldManager, e.cfg.Agent
	o.SetLabels(labels)
	if _, ok := o.GetAnnotations()[AdoptAnnotation]; ok {
		annotations := maps.Clone(o.GetAnnotations())
		delete(annotations, AdoptAnnotation)
		o.SetAnnotations(annotations)
	}
	return o
}
