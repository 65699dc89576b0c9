package kubernetes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/audit"
)

// repositories reads and writes the SealedRepositories of the agent's sources. Every
// replica watches them, for what people and other replicas write on them; only the
// leader writes their status.
type repositories struct {
	p        *Projector
	bySource map[string]Source
	byName   map[string]Source

	mu     sync.Mutex
	synced bool                         // seen is what stands
	seen   map[string]*sealedRepository // by name, as last seen or written; never changed
	asked  map[string]request           // for a look, by name
	spoken map[string]bool              // words that the audit has, by annotation, name and commit
	since  map[string]time.Time         // when the leader first saw a word

	wanted  chan struct{} // a look is asked for by an annotation
	pending map[string]bool
	tellAll chan struct{} // other replicas are to be told to look
	failing map[string]bool
}

// request is the value of RequestAnnotation, and when it was seen.
type request struct {
	value string
	at    time.Time
}

const (
	// lookGap is the least time between two looks that annotations ask for.
	lookGap = 250 * time.Millisecond
	// Others are told once every tellGap, and a few times at once after a pause: a flood of
	// hooks must not become one of writes.
	tellGap   = time.Second
	tellBurst = 5
	// wordLasts is how long an operator's word stands on a SealedRepository. The same
	// commit may wait for another reason later.
	wordLasts = 10 * time.Minute
)

func newRepositories(p *Projector, only string) *repositories {
	r := &repositories{p: p, bySource: map[string]Source{}, byName: map[string]Source{}, seen: map[string]*sealedRepository{}, asked: map[string]request{},
		spoken: map[string]bool{}, since: map[string]time.Time{}, wanted: make(chan struct{}, 1), pending: map[string]bool{}, tellAll: make(chan struct{}, 1), failing: map[string]bool{}}
	for _, s := range p.cfg.Sources {
		s.repository = s.Name
		if len(p.cfg.Sources) == 1 {
			s.repository = only
		}
		r.bySource[s.Name], r.byName[s.repository] = s, s
	}
	return r
}

// watch follows the objects until ctx ends.
func (r *repositories) watch(ctx context.Context) {
	objects := r.p.objects.Namespace(r.p.cfg.Namespace)
	informer := cache.NewSharedIndexInformer(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return objects.List(ctx, o) },
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return objects.Watch(ctx, o)
		},
	}, &unstructured.Unstructured{}, 0, nil)
	_ = informer.SetTransform(func(o any) (any, error) {
		if u, ok := o.(*unstructured.Unstructured); ok && r.byName[u.GetName()].repository == "" {
			// Of others only the name is kept: nobody bounds how many there are.
			left := &unstructured.Unstructured{Object: map[string]any{}}
			left.SetGroupVersionKind(u.GroupVersionKind())
			left.SetName(u.GetName())
			left.SetNamespace(u.GetNamespace())
			left.SetResourceVersion(u.GetResourceVersion())
			return left, nil
		}
		return o, nil
	})
	works := r.p.watchErrors(informer, "SealedRepositories")
	_, _ = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { works(); r.saw(o) },
		UpdateFunc: func(_, o any) { works(); r.saw(o) },
		DeleteFunc: func(o any) {
			works()
			if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			if u, ok := o.(*unstructured.Unstructured); ok {
				r.forget(u.GetName())
			}
		},
	})
	go func() {
		if cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
			works()
			r.mu.Lock()
			r.synced = true
			r.mu.Unlock()
		}
	}()
	informer.RunWithContext(ctx)
}

// saw takes an object as it stands into account.
func (r *repositories) saw(o any) {
	u, ok := o.(*unstructured.Unstructured)
	if !ok {
		return
	}
	source, ours := r.byName[u.GetName()]
	now := parseRepository(u)
	if !ours || now == nil {
		return
	}
	value := now.Annotations[RequestAnnotation]
	r.mu.Lock()
	before, known := r.asked[now.Name]
	first := !known && !r.synced
	changed := value != before.value && value != ""
	r.forgetWords(r.seen[now.Name], now)
	r.seen[now.Name] = now
	if changed || first {
		r.asked[now.Name] = request{value, r.p.cfg.Now()}
	}
	own := strings.HasSuffix(value, " "+r.p.cfg.Identity) // this replica has looked
	if changed && !first && !own {
		r.pending[source.Name] = true
	}
	r.mu.Unlock()
	if changed && !first && !own {
		signal(r.wanted)
	}
}

// forgetWords: a word that is given again is another one. The caller holds mu.
func (r *repositories) forgetWords(before, now *sealedRepository) {
	for _, annotation := range []string{ApproveAnnotation, ApprovePruneAnnotation} {
		if before != nil && before.Annotations[annotation] != now.Annotations[annotation] {
			key := annotation + " " + now.Name + " " + before.Annotations[annotation]
			delete(r.spoken, key)
			delete(r.since, key)
		}
	}
}

func (r *repositories) forget(name string) {
	r.mu.Lock()
	delete(r.seen, name)
	r.mu.Unlock()
}

// looks has remotes looked at when annotations ask for it, and asks other replicas when
// this one was asked: again and again until the object takes it.
func (r *repositories) looks(ctx context.Context) {
	tell := rate.NewLimiter(rate.Every(tellGap), tellBurst)
	var later <-chan time.Time
	failures := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wanted:
			r.mu.Lock()
			pending := r.pending
			r.pending = map[string]bool{}
			r.mu.Unlock()
			for source := range pending {
				r.p.host.Look(source)
			}
			select {
			case <-ctx.Done():
			case <-time.After(lookGap):
			}
			continue
		case <-r.tellAll:
			if later == nil {
				later = time.After(tell.Reserve().Delay())
			}
			continue
		case <-later:
		}
		later = nil
		if r.ask(ctx) {
			failures = 0
			continue
		}
		later = time.After(backoff(tellGap, 30*time.Second, failures))
		failures++
	}
}

// ask writes RequestAnnotation on every object, and reports that all took it.
func (r *repositories) ask(ctx context.Context) bool {
	value := r.p.cfg.Now().UTC().Format(time.RFC3339Nano) + " " + r.p.cfg.Identity
	all := true
	for name := range r.byName {
		err := r.annotate(ctx, name, map[string]any{RequestAnnotation: value})
		all = all && err == nil
		if apierrors.IsNotFound(err) {
			err = nil // the leader makes it, soon
		}
		r.failed(ctx, "asking other replicas to look", name, err)
	}
	return all
}

// annotate writes annotations; nil removes one.
func (r *repositories) annotate(ctx context.Context, name string, annotations map[string]any) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": annotations}})
	if err != nil {
		return err
	}
	_, err = r.p.objects.Namespace(r.p.cfg.Namespace).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: FieldManager})
	return err
}

// failed logs when something begins to fail, and when it works again.
func (r *repositories) failed(ctx context.Context, what, name string, err error) {
	if ctx.Err() != nil || errors.Is(err, ErrNotLeading) {
		return
	}
	key := what + " " + name
	r.mu.Lock()
	before := r.failing[key]
	r.failing[key] = err != nil
	r.mu.Unlock()
	switch {
	case err != nil && !before:
		r.p.cfg.Log.Error("the SealedRepository cannot be written; it is tried again", "repository", name, "what", what, "error", explain(err))
	case err == nil && before:
		r.p.cfg.Log.Info("the SealedRepository can be written again", "repository", name, "what", what)
	}
}

// words passes the operator's word, which stands on an object, to this replica's agent
// for as long as it stands; the leader takes it down when it is old.
func (r *repositories) words(ctx context.Context) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	skewed, tried := false, time.Time{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		switch skew := r.p.clock.skew(); {
		case skew == 0:
			skewed, tried = false, time.Time{}
		case !skewed && time.Since(tried) > time.Minute:
			skewed, tried = r.tellSkew(ctx, skew), time.Now()
		}
		for name := range r.byName {
			seen := r.get(name)
			if seen == nil {
				continue
			}
			if commit := seen.Annotations[ApproveAnnotation]; isCommit(commit) && r.p.host.Approve != nil {
				// What waits may come later, so it is said again and again.
				if r.recorded(ctx, ApproveAnnotation, name, commit) {
					_ = r.p.host.Approve(commit)
				}
			}
			if r.p.lease.MayWrite() == nil {
				r.takeDown(ctx, seen)
			}
		}
	}
}

// tellSkew has an event tell that this replica's clock is wrong, also where it does not
// lead: the conditions are of the leader's alone.
func (r *repositories) tellSkew(ctx context.Context, skew time.Duration) bool {
	of := r.regarding("")
	_, err := r.p.free.EventsV1().Events(r.p.cfg.Namespace).Create(ctx, &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{GenerateName: of.GetName() + "-", Namespace: r.p.cfg.Namespace}, EventTime: metav1.NowMicro(),
		ReportingController: reporter, ReportingInstance: cut(r.p.cfg.Identity, 128), Action: "Project", Reason: "ClockSkew", Type: corev1.EventTypeWarning,
		Regarding: corev1.ObjectReference{APIVersion: of.GetAPIVersion(), Kind: of.GetKind(), Namespace: of.GetNamespace(), Name: of.GetName(), UID: of.GetUID()},
		Note:      fmt.Sprintf("the clock of replica %s is %s ahead of the API server's; grants that it serves expire by it", r.p.cfg.Identity, skew.Round(time.Second)),
	}, metav1.CreateOptions{})
	return err == nil
}

func (r *repositories) takeDown(ctx context.Context, seen *sealedRepository) {
	old := map[string]any{}
	now := r.p.cfg.Now()
	for _, annotation := range []string{ApproveAnnotation, ApprovePruneAnnotation} {
		word := seen.Annotations[annotation]
		if word == "" {
			continue
		}
		key := annotation + " " + seen.Name + " " + word
		r.mu.Lock()
		if r.since[key].IsZero() {
			if len(r.since) > 1000 {
				clear(r.since)
			}
			r.since[key] = now
		}
		if now.Sub(r.since[key]).Abs() > wordLasts {
			old[annotation] = nil
			delete(r.since, key)
		}
		r.mu.Unlock()
	}
	if len(old) > 0 {
		r.failed(ctx, "taking an old approval down", seen.Name, r.annotate(ctx, seen.Name, old))
	}
}

// word reports that the operator's word for a commit stands on an object, and is in the
// audit.
func (r *repositories) word(ctx context.Context, name, annotation, commit string) bool {
	seen := r.get(name)
	return seen != nil && isCommit(commit) && seen.Annotations[annotation] == commit && r.recorded(ctx, annotation, name, commit)
}

func (r *repositories) recorded(ctx context.Context, annotation, name, commit string) bool {
	key := annotation + " " + name + " " + commit
	r.mu.Lock()
	is := r.spoken[key]
	r.mu.Unlock()
	if is {
		return true
	}
	reason := strings.TrimPrefix(annotation, "sealward.dev/")
	err := r.p.host.Record(ctx, []audit.Record{{Event: audit.Approve, Decision: audit.Allow, Reason: reason, Method: "kubernetes", Commit: commit, Target: r.p.cfg.Namespace + "/" + name}})
	if err != nil {
		return false // the log's own trouble is logged where it is used most
	}
	r.p.cfg.Log.Info("an operator's word stands on the SealedRepository", "repository", name, "word", reason, "commit", commit)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.spoken) > 1000 {
		clear(r.spoken)
	}
	r.spoken[key] = true
	return true
}

func isCommit(s string) bool {
	return (len(s) == 40 || len(s) == 64) && strings.Trim(s, "0123456789abcdef") == ""
}

func (r *repositories) get(name string) *sealedRepository {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen[name]
}

// tell keeps the objects as they should be until ctx ends: on each change, but not more
// than once a second.
func (r *repositories) tell(ctx context.Context) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	var retry time.Time
	for {
		if !time.Now().Before(retry) {
			report := r.p.engine.Report()
			for _, name := range slices.Sorted(maps.Keys(r.byName)) {
				err := r.tellOf(ctx, name, report)
				r.failed(ctx, "telling how it goes", name, err)
				if err != nil && !errors.Is(err, ErrNotLeading) {
					retry = time.Now().Add(5 * time.Second)
				}
			}
			r.p.events.compare(report.Problems, r.regarding)
		}
		// At most one round a second, begun when something changed.
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// tellOf makes one object where it is missing, and writes its status.
func (r *repositories) tellOf(ctx context.Context, name string, report Report) error {
	r.mu.Lock()
	seen, synced := r.seen[name], r.synced
	r.mu.Unlock()
	if !synced {
		return nil
	}
	source := r.byName[name]
	want := sealedRepository{ObjectMeta: metav1.ObjectMeta{Namespace: r.p.cfg.Namespace, Name: name}, Spec: repositorySpec{cut(source.URL, 2048), cut(source.Branch, 255), cut(source.Path, 1024)}}
	if seen != nil && seen.DeletionTimestamp != nil {
		return nil
	}
	options := metav1.ApplyOptions{FieldManager: FieldManager, Force: true}
	objects := r.p.fenced.Namespace(r.p.cfg.Namespace)
	if seen == nil || seen.Spec != want.Spec {
		object, err := want.applied(false)
		if err != nil {
			return err
		}
		out, err := objects.Apply(ctx, name, object, options)
		if err != nil {
			return err
		}
		if seen = parseRepository(out); seen == nil {
			return fmt.Errorf("the API server answered with something else")
		}
		r.wrote(seen)
	}
	want.Status = r.standing(source, seen, report).status(*seen, r.p.cfg.Now())
	if !want.Status.differs(seen.Status) {
		return nil
	}
	object, err := want.applied(true)
	if err != nil {
		return err
	}
	out, err := objects.ApplyStatus(ctx, name, object, options)
	if left := parseRepository(out); err == nil && left != nil && want.Status.differs(left.Status) {
		// Apply leaves what others added; it would be applied anew for ever.
		var patch []byte
		if patch, err = json.Marshal([]map[string]any{{"op": "add", "path": "/status", "value": object.Object["status"]}}); err == nil {
			out, err = objects.Patch(ctx, name, types.JSONPatchType, patch, metav1.PatchOptions{FieldManager: FieldManager}, "status")
		}
	}
	if err != nil {
		if apierrors.IsNotFound(err) { // it was deleted meanwhile
			r.forget(name)
			return nil
		}
		return err
	}
	if commit := want.Status.ObservedCommit; commit != seen.Status.ObservedCommit && commit != "" {
		r.p.events.tell(r.regarding(name), false, "Applied", "commit "+commit+" is served")
	}
	if seen = parseRepository(out); seen != nil {
		r.wrote(seen)
	}
	return nil
}

// wrote keeps what a write gave, unless the watch is ahead.
func (r *repositories) wrote(now *sealedRepository) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen[now.Name] = now
}

// standing gathers what the status of one source is made of.
func (r *repositories) standing(source Source, seen *sealedRepository, report Report) standing {
	p := r.p
	s := standing{source: source, report: report, skew: p.clock.skew(), leader: p.cfg.Identity, handled: seen.Status.LastHandledReconcileAt}
	for _, sync := range p.host.Live.Syncs() {
		if sync.Source == source.Name {
			s.sync = sync
		}
	}
	view := p.host.Live.View()
	for _, snapshot := range view.Snapshots() {
		if snapshot.Source == source.Name {
			s.snapshot = snapshot
		}
	}
	for ws, sources := range view.AllContested() {
		if slices.Contains(sources, source.Name) {
			s.contested = append(s.contested, ws.String())
		}
	}
	slices.Sort(s.contested)
	for _, problem := range report.Problems {
		if problem.Origin.Repository == source.repository || problem.Origin.Repository == "" {
			s.problems = append(s.problems, problem)
		}
	}
	p.mu.Lock()
	s.waiting = p.waiting[source.repository]
	if p.plan != nil {
		s.namespaces = p.plan.Namespaces
	}
	p.mu.Unlock()
	r.mu.Lock()
	if asked := r.asked[source.repository]; asked.value != "" && s.sync.LastLook.After(asked.at) {
		s.handled = asked.value
	}
	r.mu.Unlock()
	return s
}

// regarding is what an event is about that is about no object of a workspace's
// namespace: the SealedRepository of a problem.
func (r *repositories) regarding(repository string) *unstructured.Unstructured {
	if _, ours := r.byName[repository]; !ours {
		repository = slices.Sorted(maps.Keys(r.byName))[0]
	}
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(repositoryKind)
	u.SetNamespace(r.p.cfg.Namespace)
	u.SetName(repository)
	if seen := r.get(repository); seen != nil {
		u.SetUID(seen.UID)
	}
	return u
}

// Looked tells other replicas to look too. It is of gitops.Beside, as are the next two.
func (p *Projector) Looked() { signal(p.repositories.tellAll) }

// Waits reports that something waits at a commit: objects whose removal is held, or a
// commit that the cluster's does not lead to.
func (p *Projector) Waits(commit string) bool {
	pruning, projecting := p.waitsAt(commit)
	return len(pruning) > 0 || len(projecting) > 0
}

// waitsAt names the repositories of which objects are held at a commit, and those that
// are not projected at it.
func (p *Projector) waitsAt(commit string) (pruning, projecting []string) {
	p.mu.Lock()
	plan, waiting := p.plan, p.waiting
	p.mu.Unlock()
	for name := range p.repositories.byName {
		seen := p.repositories.get(name)
		// Only the leader knows what is held; it stands in the status.
		if seen != nil && seen.Status.Counts.HeldPrunes > 0 && seen.Status.ObservedCommit == commit || p.engine.Report().Held[name] > 0 && p.engine.Report().Commits[name] == commit {
			pruning = append(pruning, name)
		}
		if plan != nil && plan.Commits[name] == commit && waiting[name] != "" {
			projecting = append(projecting, name)
		}
	}
	return pruning, projecting
}

// Approve passes the operator's word to the leader and to the other replicas.
func (p *Projector) Approve(commit string, here bool) error {
	pruning, projecting := p.waitsAt(commit)
	if here {
		projecting = slices.Collect(maps.Keys(p.repositories.byName))
	}
	if len(pruning)+len(projecting) == 0 {
		return fmt.Errorf("%w; sealward status shows what does", unseal.ErrNothingWaits)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	words := map[string]map[string]any{}
	for annotation, names := range map[string][]string{ApprovePruneAnnotation: pruning, ApproveAnnotation: projecting} {
		for _, name := range names {
			if words[name] == nil {
				words[name] = map[string]any{}
			}
			words[name][annotation] = commit
		}
	}
	var errs []error
	for name, annotations := range words {
		err := p.repositories.annotate(ctx, name, annotations)
		if here { // this agent has the word already
			p.repositories.failed(ctx, "passing an approval to other replicas", name, err)
		} else if err != nil {
			errs = append(errs, fmt.Errorf("the word cannot be written on the SealedRepository %s: %s", name, explain(err)))
		}
	}
	return errors.Join(errs...)
}
