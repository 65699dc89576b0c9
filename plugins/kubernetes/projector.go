package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	pathpkg "path"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/sealward/sealward/gitops"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/audit"
)

// ProjectorConfig of one replica. Rest, Namespace, Identity, Settings, Sources, Log and
// Now are required.
type ProjectorConfig struct {
	Rest      *rest.Config // see Endpoint.Connect
	Namespace string       // of the Lease and the SealedRepositories
	Identity  string       // see NewIdentity
	Settings  *gitops.ClusterSettings
	Sources   []Source
	// Groups of the cluster that grants may name as roles.
	Groups map[manifest.Subject]bool
	Log    *slog.Logger
	Now    func() time.Time
}

// Source is a repository that the agent follows.
type Source struct {
	Name   string // as unseal.Snapshot.Source
	URL    string // without a credential
	Branch string
	Path   string
	// Verified: its commits have to be signed.
	Verified bool

	repository string // name of its SealedRepository
}

// Projector takes part in a cluster for one agent: it plans what should stand there,
// and, while it holds the Lease, writes that and how it goes.
type Projector struct {
	cfg     ProjectorConfig
	free    clientset.Interface // for what every replica does
	objects dynamic.NamespaceableResourceInterface
	fenced  dynamic.NamespaceableResourceInterface // for what only the leader writes
	planner *Planner
	// without leaves instance secrets as they are, while the namespaces are not known.
	without      *Planner
	engine       *Engine
	lease        *Lease
	clock        *clock
	writes       *writes
	repositories *repositories
	events       *eventLog

	host gitops.Host

	mu      sync.Mutex
	plan    *Plan // the newest
	desired map[Kind]int
	view    *unseal.View // of plan
	leading bool
	waiting map[string]string // why a repository is not projected, by name
	// namespaces that exist, with their labels; nil while they are not known.
	namespaces map[string]map[string]string

	planned chan struct{} // there is a newer plan
	labels  chan struct{} // namespaces changed
}

var _ gitops.Beside = (*Projector)(nil)

// NewProjector makes a projector. It asks the API server nothing yet.
func NewProjector(cfg ProjectorConfig) (*Projector, error) {
	p := &Projector{cfg: cfg, waiting: map[string]string{}, planned: make(chan struct{}, 1), labels: make(chan struct{}, 1)}
	p.clock = &clock{now: cfg.Now, log: cfg.Log}
	p.writes = newWrites()
	base := rest.CopyConfig(cfg.Rest)
	base.Wrap(p.clock.compare)
	free, err := clientset.NewForConfig(base)
	if err != nil {
		return nil, fmt.Errorf("kubernetes: %w", errConfig)
	}
	p.free = free
	s := cfg.Settings
	if p.lease, err = NewLease(LeaseConfig{Client: free.CoordinationV1().Leases(cfg.Namespace), Name: s.Lease.Name, Identity: cfg.Identity, Agent: cfg.Namespace,
		Duration: time.Duration(s.Lease.Duration), Log: cfg.Log, Now: cfg.Now}); err != nil {
		return nil, err
	}
	guarded := rest.CopyConfig(base)
	guarded.Wrap(p.writes.count)
	guarded.Wrap(p.lease.Fence)
	writer, err1 := clientset.NewForConfig(guarded)
	objects, err2 := dynamic.NewForConfig(base)
	fenced, err3 := dynamic.NewForConfig(guarded)
	if errors.Join(err1, err2, err3) != nil {
		return nil, fmt.Errorf("kubernetes: %w", errConfig)
	}
	p.objects, p.fenced = objects.Resource(repositoryResource), fenced.Resource(repositoryResource)
	p.events = newEventLog(writer, cfg.Now)

	workspaces, err := projected(s.Project.Workspaces)
	if err != nil {
		return nil, err
	}
	namespaces, err := projectedNamespaces(s.Project.Namespaces)
	if err != nil {
		return nil, err
	}
	for ws := range workspaces {
		namespace := namespaces[ws]
		if namespace == "" && !ws.IsInstance() {
			namespace = ws.String()
		}
		if namespace == cfg.Namespace {
			return nil, fmt.Errorf("kubernetes.project.namespaces: workspace %s would go to %s, where the agent's own keys are", ws, namespace)
		}
	}
	p.repositories = newRepositories(p, s.Repository)
	projection := Projection{
		Agent: cfg.Namespace, Workspaces: workspaces, Namespaces: namespaces, Immutable: s.Project.Immutable,
		Permissions: s.Project.Permissions != "none", AllowInexpressible: s.Project.Inexpressible == "allow",
		Groups: cfg.Groups, Repository: func(source string) string { return p.repositories.bySource[source].repository },
	}
	p.planner = NewPlanner(projection)
	if workspaces[manifest.Instance()] {
		projection.Workspaces = maps.Clone(workspaces)
		delete(projection.Workspaces, manifest.Instance())
		p.without = NewPlanner(projection)
	}
	p.engine = NewEngine(EngineConfig{
		Client: writer, Agent: cfg.Namespace, MayWrite: p.lease.MayWrite, Record: p.record, Guard: pruneGuard(s), Approved: p.approved,
		Log: cfg.Log, Now: cfg.Now,
	})
	return p, nil
}

// errConfig stands for client-go's own words, which may quote the kubeconfig.
var errConfig = errors.New("the API server cannot be reached as the kubeconfig says; kubectl with it tells more")

func projected(names []string) (map[manifest.Workspace]bool, error) {
	out := map[manifest.Workspace]bool{}
	for _, name := range names {
		ws, err := manifest.ParseScope(name)
		if err != nil {
			return nil, fmt.Errorf("kubernetes.project.workspaces: %w", err)
		}
		out[ws] = true
	}
	return out, nil
}

func projectedNamespaces(names map[string]string) (map[manifest.Workspace]string, error) {
	out := map[manifest.Workspace]string{}
	for name, namespace := range names {
		ws, err := manifest.ParseScope(name)
		if err != nil {
			return nil, fmt.Errorf("kubernetes.project.namespaces: %w", err)
		}
		out[ws] = namespace
	}
	return out, nil
}

func pruneGuard(s *gitops.ClusterSettings) PruneGuard {
	g := PruneGuard{Percent: 25, Count: 20}
	if p := s.Project.PruneGuard.Percent; p != nil {
		g.Percent = *p
	}
	if n := s.Project.PruneGuard.Count; n != nil {
		g.Count = *n
	}
	return g
}

// signal never blocks: whoever listens looks at everything.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// Run takes part until ctx ends. Where the API server is away, it tries again.
func (p *Projector) Run(ctx context.Context, host gitops.Host) {
	p.host = host
	var running sync.WaitGroup
	for name, part := range map[string]func(context.Context){
		"planning": p.planning, "SealedRepositories": p.repositories.watch, "looks": p.repositories.looks, "words": p.repositories.words,
		"Lease": func(ctx context.Context) { p.lease.Run(ctx, p.lead) },
	} {
		running.Go(func() { p.safely(ctx, name, part) })
	}
	if p.without != nil {
		running.Go(func() { p.safely(ctx, "namespaces", p.watchNamespaces) })
	}
	running.Wait()
}

// safely runs a part again that panicked, whose text could hold a value.
func (p *Projector) safely(ctx context.Context, name string, part func(context.Context)) {
	for ctx.Err() == nil {
		func() {
			defer func() {
				if v := recover(); v != nil {
					p.cfg.Log.Error("a part of the projection panicked; it is started again, please report it", "part", name, "type", fmt.Sprintf("%T", v))
				}
			}()
			part(ctx)
		}()
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// planning keeps the newest plan, on every replica: one that takes the Lease over has
// it at hand.
func (p *Projector) planning(ctx context.Context) {
	for {
		changed := p.host.Live.Changed()
		again := p.planOnce()
		// The clock may be put right, so that a time far away is looked at again.
		wait := time.Minute
		if !again.IsZero() {
			wait = min(wait, max(again.Sub(p.cfg.Now()), 10*time.Millisecond))
		}
		for due := false; !due; {
			timer := time.NewTimer(wait)
			select {
			case <-ctx.Done():
				timer.Stop()
				return
			case <-changed:
				due = true
			case <-p.labels:
				due = true
			case <-timer.C:
				due = !again.IsZero() && !p.cfg.Now().Before(again)
			}
			timer.Stop()
		}
	}
}

// planOnce makes a plan of what is served, and says when it is to be made again.
func (p *Projector) planOnce() (again time.Time) {
	view := p.host.Live.View()
	if view == nil {
		return time.Time{}
	}
	p.mu.Lock()
	namespaces := p.namespaces
	p.mu.Unlock()
	var plan *Plan
	if p.without != nil && namespaces == nil {
		kept := *p.without.Plan(view, nil, p.cfg.Now())
		kept.KeepWorkspaces = maps.Clone(kept.KeepWorkspaces)
		if kept.KeepWorkspaces == nil {
			kept.KeepWorkspaces = map[manifest.Workspace]bool{}
		}
		kept.KeepWorkspaces[manifest.Instance()] = true
		kept.Problems = append(slices.Clip(kept.Problems), Problem{
			Origin: Origin{Workspace: manifest.Instance()}, Reason: NoTarget,
			Message: "the namespaces of the cluster are not known yet, so instance secrets stay as they are; the agent needs get, list and watch of namespaces",
		})
		plan = &kept
	} else {
		plan = p.planner.Plan(view, namespaces, p.cfg.Now())
	}
	desired := map[Kind]int{}
	for key := range plan.Objects {
		desired[key.Kind]++
	}
	p.mu.Lock()
	p.plan, p.view, p.desired = plan, view, desired
	p.mu.Unlock()
	p.engine.Know(plan)
	p.engine.Know(plan)
	signal(p.planned)
	return plan.Again
}

func (p *Projector) newest() *Plan {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.plan
}

// lead writes until ctx ends, which it does when the Lease is lost.
func (p *Projector) lead(ctx context.Context) {
	p.setLeading(true)
	defer p.setLeading(false)
	defer func() {
		if v := recover(); v != nil {
			p.cfg.Log.Error("a part of the projection panicked; it is started again, please report it", "part", "leading", "type", fmt.Sprintf("%T", v))
		}
	}()
	var running sync.WaitGroup
	defer running.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	running.Go(func() { p.safely(ctx, "status", p.repositories.tell) })
	running.Go(func() { p.safely(ctx, "events", p.events.run) })

	p.host.Look("") // the replica before may have known a newer commit
	term := map[string]bool{}
	var last *Plan
	started, looked := false, p.cfg.Now()
	for {
		var retry <-chan time.Time
		if plan := p.newest(); plan != nil && (plan != last || p.waits()) {
			allowed, err := p.allowed(ctx, plan, term)
			if err == nil {
				err = p.lease.Mark(ctx, allowed.Commits)
			}
			if err == nil {
				for repository := range allowed.Commits {
					term[repository] = true
				}
				p.engine.Apply(allowed)
				last = plan
				if !started {
					started = true
					running.Go(func() { p.safely(ctx, "projecting", p.engine.Run) })
				}
			}
			if err != nil || p.waits() {
				retry = time.After(500 * time.Millisecond)
			}
			if p.waits() && p.cfg.Now().Sub(looked).Abs() > 2*time.Second {
				p.host.Look("")
				looked = p.cfg.Now()
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-p.planned:
		case <-retry:
		}
	}
}

func (p *Projector) setLeading(leading bool) {
	p.mu.Lock()
	p.leading = leading
	p.mu.Unlock()
	signal(p.planned)
}

func (p *Projector) waits() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.waiting) > 0
}

// allowed leaves out of a plan the repositories of which the cluster already holds a
// commit that this replica has not applied: an older value must not come over a newer
// one, nor a permission back that was revoked. A commit that this replica itself has
// projected in its term is followed by whatever it follows: it knows why.
func (p *Projector) allowed(ctx context.Context, plan *Plan, term map[string]bool) (*Plan, error) {
	waiting := map[string]string{}
	for repository, commit := range plan.Commits {
		marked := p.lease.Marked(repository)
		if marked == "" || marked == commit || term[repository] || p.repositories.word(ctx, repository, ApproveAnnotation, commit) {
			continue
		}
		source := p.repositories.byName[repository]
		newer, err := p.host.Contains(ctx, source.Name, commit, marked)
		switch {
		case err == nil && newer:
			continue
		case err != nil && !errors.Is(err, unseal.ErrUnknownCommit):
			return nil, err
		}
		waiting[repository] = fmt.Sprintf("the cluster is of commit %.40s, which this replica's commit does not contain; it waits for the remote, or for the operator's word: sealward agent approve %s", printable(marked), commit)
	}
	p.note(waiting)
	if len(waiting) == 0 {
		return plan, nil
	}
	left := *plan
	left.Objects, left.Repositories, left.Commits = map[Key]*Object{}, maps.Clone(plan.Repositories), maps.Clone(plan.Commits)
	for key, o := range plan.Objects {
		if waiting[o.Origin.Repository] == "" {
			left.Objects[key] = o
		}
	}
	for repository := range waiting {
		delete(left.Repositories, repository)
		delete(left.Commits, repository)
	}
	return &left, nil
}

// note keeps and logs what waits.
func (p *Projector) note(waiting map[string]string) {
	p.mu.Lock()
	before := p.waiting
	p.waiting = waiting
	p.mu.Unlock()
	for repository, why := range waiting {
		if before[repository] != why {
			p.cfg.Log.Error("a repository is not projected: this replica has an older commit than the cluster, or one of another history", "repository", repository, "why", why)
		}
	}
}

// printable is for what stands in the cluster, where anybody may have written it.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r > ' ' && r < 0x7f {
			return r
		}
		return '?'
	}, s)
}

// record makes the audit's records of Secrets, before they are written.
func (p *Projector) record(ctx context.Context, written []*Object) error {
	var records []audit.Record
	for _, o := range written {
		if o.Secret != nil {
			records = append(records, projectRecord(o))
		}
	}
	if len(records) == 0 {
		return nil
	}
	return p.host.Record(ctx, records)
}

// projectRecord tells which keys of a secret go where, and of which files they are.
func projectRecord(o *Object) audit.Record {
	rec := audit.Record{Event: audit.Project, Decision: audit.Allow, Reason: "projected", Method: "kubernetes", Workspace: o.Origin.Workspace.String(), Name: o.Origin.Secret.String(),
		Commit: o.Secret.Annotations[CommitAnnotation], Target: o.Key.Namespace + "/" + o.Key.Name}
	for key := range o.Secret.Data {
		rec.Keys = append(rec.Keys, key)
	}
	slices.Sort(rec.Keys)
	paths, blobs := strings.Split(o.Secret.Annotations[PathAnnotation], ","), strings.Split(o.Secret.Annotations[BlobAnnotation], ",")
	if len(paths) != len(blobs) {
		return rec
	}
	if len(paths) == 1 {
		rec.Path, rec.Blob = paths[0], blobs[0]
		return rec
	}
	rec.Parts = map[string]string{}
	for i, path := range paths {
		folder, name := pathpkg.Split(path)
		rec.Path, rec.Parts[name] = strings.TrimSuffix(folder, "/"), blobs[i]
	}
	return rec
}

// approved is the operator's word that held objects may be removed.
func (p *Projector) approved(repository, commit string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return p.repositories.word(ctx, repository, ApprovePruneAnnotation, commit)
}

// watchNamespaces keeps the names and labels of the namespaces, for instance secrets.
func (p *Projector) watchNamespaces(ctx context.Context) {
	namespaces := p.free.CoreV1().Namespaces()
	informer := cache.NewSharedIndexInformer(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return namespaces.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return namespaces.Watch(ctx, o)
		},
	}, &corev1.Namespace{}, 0, nil)
	_ = informer.SetTransform(func(o any) (any, error) {
		if ns, ok := o.(*corev1.Namespace); ok {
			return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns.Name, ResourceVersion: ns.ResourceVersion, UID: ns.UID, Labels: instanceLabels(ns.Labels)}}, nil
		}
		return o, nil
	})
	told := p.watchErrors(informer, "namespaces")
	_, _ = informer.AddEventHandler(cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(o any, initial bool) { p.noteNamespaces(informer) },
		UpdateFunc: func(before, now any) {
			a, ok1 := before.(*corev1.Namespace)
			b, ok2 := now.(*corev1.Namespace)
			if !ok1 || !ok2 || !maps.Equal(a.Labels, b.Labels) {
				p.noteNamespaces(informer)
			}
		},
		DeleteFunc: func(any) { p.noteNamespaces(informer) },
	})
	go func() {
		if cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
			told()
			p.noteNamespaces(informer)
		}
	}()
	informer.RunWithContext(ctx)
}

// instanceLabels are those by which a namespace asks for instance secrets.
func instanceLabels(labels map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range labels {
		if strings.HasPrefix(k, InstanceLabelPrefix) {
			out[k] = v
		}
	}
	return out
}

func (p *Projector) noteNamespaces(informer cache.SharedIndexInformer) {
	if !informer.HasSynced() {
		return
	}
	now := map[string]map[string]string{}
	for _, o := range informer.GetStore().List() {
		if ns, ok := o.(*corev1.Namespace); ok {
			now[ns.Name] = ns.Labels
		}
	}
	p.mu.Lock()
	p.namespaces = now
	p.mu.Unlock()
	signal(p.labels)
}

// watchErrors logs once that a watch fails; what it returns says that it works.
func (p *Projector) watchErrors(informer cache.SharedIndexInformer, what string) (works func()) {
	var mu sync.Mutex
	failing := false
	_ = informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) {
		if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return // every watch ends now and then
		}
		mu.Lock()
		defer mu.Unlock()
		if !failing {
			failing = true
			p.cfg.Log.Error("something of the cluster cannot be watched; it is tried again", "what", what, "error", explain(err))
		}
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		if failing {
			failing = false
			p.cfg.Log.Info("the cluster is watched again", "what", what)
		}
	}
}
