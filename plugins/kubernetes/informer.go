package kubernetes

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"
	"unique"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// kinds in the order in which a namespace's problems are told.
var kinds = [...]Kind{KindSecret, KindRole, KindRoleBinding}

// object is what the three kinds have in common.
type object interface {
	metav1.Object
	runtime.Object
}

func (k Kind) resource() string {
	switch k {
	case KindRole:
		return "roles"
	case KindRoleBinding:
		return "rolebindings"
	}
	return "secrets"
}

func (k Kind) empty() object {
	switch k {
	case KindRole:
		return &rbacv1.Role{}
	case KindRoleBinding:
		return &rbacv1.RoleBinding{}
	}
	return &corev1.Secret{}
}

func (k Kind) emptyList() runtime.Object {
	switch k {
	case KindRole:
		return &rbacv1.RoleList{}
	case KindRoleBinding:
		return &rbacv1.RoleBindingList{}
	}
	return &corev1.SecretList{}
}

// observed is what is remembered of an object in the cluster: no value, and nothing
// from which one could be guessed without the engine's key.
type observed struct {
	name    string
	uid     types.UID
	version string
	// digest of the content, and of the labels and annotations that sealward owns.
	digest     digest
	repository string
	workspace  string
	// made reports that sealward is among those who wrote its fields. Labels alone do
	// not say so: whoever copies an object copies them.
	made     bool
	deleting bool
	// expires is when the grant of a RoleBinding does; zero for never.
	expires time.Time
	// Of an immutable Secret, when it came and of which secret it is.
	immutable bool
	created   time.Time
	secret    string
}

// newer compares revisions of one object.
func newer(a, b *observed) bool { return laterVersion(a.version, b.version) }

func laterVersion(a, b string) bool {
	c, err := resourceversion.CompareResourceVersion(a, b)
	return err == nil && c > 0
}

type digest [sha256.Size]byte

// digester makes digests that mean nothing outside of this process.
type digester [32]byte

// of is the digest of an object's content, with those labels and annotations that are
// asked for. Defaults that the API server fills in make no difference.
func (d *digester) of(o object, labels, annotations func(string) bool) (sum digest) {
	h := hmac.New(sha256.New, d[:])
	pairs(h, o.GetLabels(), labels)
	pairs(h, o.GetAnnotations(), func(k string) bool { return k != AdoptAnnotation && annotations(k) })
	if o.GetAnnotations()[AdoptAnnotation] != "" {
		part(h, []byte(AdoptAnnotation)) // it is taken away
	}
	content(h, o)
	h.Sum(sum[:0])
	return sum
}

// content is the digest of an object without its metadata.
func (d *digester) content(o object) (sum digest) {
	h := hmac.New(sha256.New, d[:])
	content(h, o)
	h.Sum(sum[:0])
	return sum
}

func content(h hash.Hash, o object) {
	switch o := o.(type) {
	case *corev1.Secret:
		part(h, []byte(typeOf(o)))
		part(h, []byte{0})
		if o.Immutable != nil && *o.Immutable {
			part(h, []byte{1})
		}
		for _, k := range slices.Sorted(maps.Keys(o.Data)) {
			part(h, []byte(k))
			part(h, o.Data[k])
		}
	case *rbacv1.Role:
		for _, r := range o.Rules {
			for _, list := range [][]string{r.APIGroups, r.Resources, r.ResourceNames, r.Verbs, r.NonResourceURLs} {
				h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(list))))
				for _, s := range list {
					part(h, []byte(s))
				}
			}
		}
	case *rbacv1.RoleBinding:
		for _, s := range []string{o.RoleRef.Kind, o.RoleRef.Name} {
			part(h, []byte(s))
		}
		for _, s := range o.Subjects {
			for _, s := range []string{s.Kind, subjectGroup(s), s.Namespace, s.Name} {
				part(h, []byte(s))
			}
		}
	}
}

func typeOf(s *corev1.Secret) corev1.SecretType {
	if s.Type == "" {
		return corev1.SecretTypeOpaque
	}
	return s.Type
}

func subjectGroup(s rbacv1.Subject) string {
	if s.APIGroup == "" && s.Kind != rbacv1.ServiceAccountKind {
		return rbacv1.GroupName
	}
	return s.APIGroup
}

// part writes a text so that no two sequences of texts are the same bytes.
func part(h io.Writer, b []byte) {
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(b))))
	h.Write(b)
}

func pairs(h io.Writer, m map[string]string, only func(string) bool) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if only(k) {
			part(h, []byte(k))
			part(h, []byte(m[k]))
		}
	}
	part(h, nil)
}

// reduce drops everything that need not be remembered, every value first of all.
func (d *digester) reduce(o object) *observed {
	owned := ownedFields(o, true)
	return d.remember(o, d.of(o, owned.label, owned.annotation), owned != nil)
}

func (d *digester) remember(o object, sum digest, made bool) *observed {
	out := &observed{
		name:       o.GetName(),
		uid:        o.GetUID(),
		version:    o.GetResourceVersion(),
		digest:     sum,
		repository: unique.Make(o.GetLabels()[RepositoryLabel]).Value(),
		workspace:  unique.Make(o.GetLabels()[WorkspaceLabel]).Value(),
		made:       made,
		deleting:   o.GetDeletionTimestamp() != nil,
	}
	switch o := o.(type) {
	case *rbacv1.RoleBinding:
		out.expires, _ = time.Parse(time.RFC3339, o.Annotations[ExpiresAnnotation])
	case *corev1.Secret:
		if o.Immutable != nil && *o.Immutable {
			out.immutable, out.created, out.secret = true, o.CreationTimestamp.Time, o.Labels[SecretLabel]
		}
	}
	return out
}

// owned is what managedFields say that somebody set. Its form is that of FieldsV1.
type owned struct {
	Metadata struct {
		Labels      map[string]json.RawMessage `json:"f:labels"`
		Annotations map[string]json.RawMessage `json:"f:annotations"`
	} `json:"f:metadata"`
	next *owned
}

// ownedFields are those that sealward set, or those that others did; nil for none.
func ownedFields(o object, ours bool) (fields *owned) {
	for _, entry := range o.GetManagedFields() {
		if (entry.Manager == FieldManager) != ours || entry.FieldsV1 == nil {
			continue
		}
		one := &owned{next: fields}
		// What cannot be read counts as nothing, so that it is written again.
		_ = json.Unmarshal(entry.FieldsV1.Raw, one)
		fields = one
	}
	return fields
}

func (f *owned) label(key string) bool {
	for ; f != nil; f = f.next {
		if _, ok := f.Metadata.Labels["f:"+key]; ok {
			return true
		}
	}
	return false
}

func (f *owned) annotation(key string) bool {
	for ; f != nil; f = f.next {
		if _, ok := f.Metadata.Annotations["f:"+key]; ok {
			return true
		}
	}
	return false
}

// watcher holds what is observed of one kind in one namespace to what stands there. It
// is the store of a reflector. Its fields are guarded by the engine's lock.
type watcher struct {
	e      *Engine
	ns     string
	kind   Kind
	cancel context.CancelFunc

	stopped bool   // the namespace is of no interest any more
	synced  bool   // everything that stands there was seen once
	last    string // the newest revision that the watch told of
	settled bool   // synced, or failed to
	// failure of the watch, and failure of writes that would be the same for every object.
	failure, writing *failure
	// Writes wait until then; failures count those in a row.
	until    time.Time
	failures int
}

var _ cache.TransformingStore = (*watcher)(nil)

// Longest waits between two attempts to watch, and between two attempts of a namespace.
const (
	watchBackoff     = 15 * time.Second
	namespaceBackoff = 30 * time.Second
)

// errWatch hides an error's kind from the reflector, which would otherwise wait by
// itself, for up to a minute, and deaf to its context.
type errWatch struct{ text string }

func (e errWatch) Error() string { return e.text }

// run watches until ctx ends.
func (w *watcher) run(ctx context.Context) {
	hide := func(err error) error {
		if err == nil || ctx.Err() != nil {
			return err
		}
		if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) || apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge) {
			return err // the reflector lists anew
		}
		w.e.watchFailed(w, err)
		return errWatch{"the watch failed"}
	}
	selector := labels.Set{ManagedBy: FieldManager, AgentLabel: w.e.cfg.Agent}.String()
	get := func(opts *metav1.ListOptions) *rest.Request {
		opts.LabelSelector = selector
		return w.e.request(w.kind, w.ns, http.MethodGet).VersionedParams(opts, scheme.ParameterCodec)
	}
	source := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
			list := w.kind.emptyList()
			err := get(&opts).Do(ctx).Into(list)
			return list, hide(err)
		},
		WatchFuncWithContext: func(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
			opts.Watch = true
			i, err := get(&opts).Watch(ctx)
			if err == nil {
				w.e.watchStands(w)
			}
			return i, hide(err)
		},
	}
	// Without resync: what changes comes by the watch, and nothing else is looked at.
	reflector := cache.NewReflectorWithOptions(source, w.kind.empty(), w, cache.ReflectorOptions{Name: "sealward/" + w.ns})
	for failures := 0; ctx.Err() == nil; {
		began := time.Now()
		if err := reflector.ListAndWatchWithContext(ctx); ctx.Err() != nil {
			return
		} else if err != nil && !errors.As(err, new(errWatch)) {
			w.e.watchFailed(w, err)
		}
		if time.Since(began) > watchBackoff {
			failures = 0
		}
		wait := backoff(500*time.Millisecond, watchBackoff, failures)
		failures++
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-w.e.recovered():
			failures = 0
		}
		timer.Stop()
	}
}

// backoff is the wait after a number of failures before this one, with jitter.
func backoff(first, most time.Duration, before int) time.Duration {
	d := min(first<<min(before, 20), most)
	return d/2 + rand.N(d)
}

// Transformer has the reflector drop values as they arrive, before it keeps anything.
func (w *watcher) Transformer() cache.TransformFunc {
	return func(o any) (any, error) {
		if o, ok := o.(object); ok {
			return w.e.digester.reduce(o), nil
		}
		return o, nil
	}
}

func (w *watcher) reduce(o any) *observed {
	switch o := o.(type) {
	case *observed:
		return o
	case object:
		return w.e.digester.reduce(o)
	}
	return nil
}

// Add and Update come with what stands in the cluster now.
func (w *watcher) Add(o any) error { return w.Update(o) }

// Update is Add.
func (w *watcher) Update(o any) error {
	if o, ok := o.(object); ok && w.wrote(o) {
		return nil
	}
	if seen := w.reduce(o); seen != nil {
		w.e.mu.Lock()
		defer w.e.unlock()
		w.see(seen)
	}
	return nil
}

// wrote notes the echo of our own last write, which is known already.
func (w *watcher) wrote(o object) bool {
	w.e.mu.Lock()
	defer w.e.unlock()
	key := Key{w.kind, w.ns, o.GetName()}
	en := w.e.entries[key]
	if w.stopped || en == nil || en.wrote == nil || en.wrote.uid != o.GetUID() || en.wrote.version != o.GetResourceVersion() {
		return false
	}
	w.see(en.wrote)
	return true
}

// Delete comes with what stood there last.
func (w *watcher) Delete(o any) error {
	if seen := w.reduce(o); seen != nil {
		w.e.mu.Lock()
		defer w.e.unlock()
		w.missing(seen.name, seen.version)
	}
	return nil
}

// Replace comes with everything that stands there.
func (w *watcher) Replace(list []any, version string) error {
	all := make(map[string]*observed, len(list))
	for _, o := range list {
		if seen := w.reduce(o); seen != nil {
			all[seen.name] = seen
		}
	}
	w.e.mu.Lock()
	defer w.e.unlock()
	if w.stopped {
		return nil
	}
	w.wentBack(version)
	for key := range w.e.entries {
		if key.Kind == w.kind && key.Namespace == w.ns && all[key.Name] == nil {
			w.missing(key.Name, version)
		}
	}
	for _, seen := range all {
		w.see(seen)
	}
	if !w.synced {
		w.synced = true
		for key := range w.e.entries {
			// Roles wait until it is known which Secrets stand.
			if (key.Kind == w.kind || key.Kind == KindRole && w.kind == KindSecret) && key.Namespace == w.ns {
				w.e.enqueue(key)
			}
		}
	}
	w.settle()
	return nil
}

// wentBack forgets what was written when everything that stands is of an older revision
// than what was seen before: the cluster was restored from a backup. What was written
// would else be taken for what stands.
func (w *watcher) wentBack(version string) {
	back := laterVersion(w.last, version)
	w.last = version
	if !back {
		return
	}
	for key, en := range w.e.entries {
		if key.Kind == w.kind && key.Namespace == w.ns {
			w.e.change(key, en, func() { en.cached, en.wrote, en.gone = nil, nil, nil })
		}
	}
	w.e.later = append(w.e.later, func() {
		w.e.cfg.Log.Warn("the cluster went back to an older state; all that is projected is looked at anew", "namespace", w.ns, "kind", string(w.kind))
	})
}

func (w *watcher) told(version string) {
	if laterVersion(version, w.last) {
		w.last = version
	}
}

// Resync is never asked for.
func (w *watcher) Resync() error { return nil }

// settle notes that this watcher holds the guard up no longer.
func (w *watcher) settle() {
	if w.settled || w.kind != KindSecret {
		return
	}
	w.settled = true
	if w.e.unsettled--; w.e.unsettled == 0 {
		w.e.enqueueUnseen()
	}
}

// see notes what stands, and has it looked at unless that is what was wanted. A watch
// tells things in their order; only our own writes may be ahead of it.
func (w *watcher) see(seen *observed) {
	if w.stopped {
		return
	}
	w.told(seen.version)
	key := Key{w.kind, w.ns, seen.name}
	en := w.e.entry(key)
	ours := en.wrote != nil && en.wrote.version == seen.version
	w.e.change(key, en, func() {
		en.cached = seen
		if en.wrote != nil && !newer(en.wrote, seen) {
			en.wrote = nil
		}
	})
	if ours || w.synced && en.state == ready && en.matches(seen) && !seen.deleting {
		return // as it was left, or as it should be
	}
	if en.state == idle {
		w.e.set(key, en, pending)
	}
	w.e.enqueue(key)
}

// missing notes that something does not stand any more.
func (w *watcher) missing(name, version string) {
	if w.stopped {
		return
	}
	w.told(version)
	key := Key{w.kind, w.ns, name}
	en := w.e.entries[key]
	if en == nil {
		return
	}
	last := &observed{version: version}
	w.e.change(key, en, func() {
		en.cached = nil
		if en.wrote != nil && !newer(en.wrote, last) {
			en.wrote = nil
		}
	})
	w.e.enqueue(key)
}
