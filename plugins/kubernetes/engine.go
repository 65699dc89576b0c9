package kubernetes

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/workqueue"
)

// EngineConfig is what an engine needs.
type EngineConfig struct {
	// Client talks to the API server. Its own rate limit should be off (QPS -1): the API
	// server's priority and fairness limit the agent, and what it says is heeded.
	Client kubernetes.Interface
	// Agent is the namespace of the agents, the value of AgentLabel on what is ours.
	Agent string
	// MayWrite is asked before each write and refuses when the Lease is not surely held
	// any more. Nil allows everything.
	MayWrite func() error
	// Record is called before values leave for the cluster; an error keeps them here. May be nil.
	Record func(ctx context.Context, written []*Object) error
	Guard  PruneGuard
	// Approved reports the operator's word for pruning what is held at a commit of a
	// repository. Nil for never.
	Approved func(repository, commit string) bool
	Workers  int // default 16
	Log      *slog.Logger
	Now      func() time.Time
}

// Engine holds a cluster to the newest plan. It writes what differs, and repairs what
// others change, as the watches of the plan's namespaces tell it; nothing is polled.
type Engine struct {
	cfg      EngineConfig
	digester digester
	running  sync.Mutex // held by Run

	mu      sync.Mutex
	plan    *Plan // the newest; nil before the first
	entries map[Key]*entry
	naming  map[Key][]Key // which Roles of the plan name a Secret, and RoleBindings a Role
	// families are those of the plan, and came has when each of their Secrets came that stand.
	families map[family]bool
	came     map[family]map[string]time.Time
	// run is set while Run runs, and so is what follows.
	run        *run
	namespaces map[string]map[Kind]*watcher
	spaces     map[string]*space
	unsettled  int // watches of Secrets that neither saw everything nor failed to
	guard      map[string]*guarded
	outage     outage
	crowded    [classes]int // requests under way in slow namespaces
	// Counts of entries, kept by change.
	states  [states]int
	desired map[Kind]int
	ready   map[Kind]int
	of      map[string]*[2]int // Secrets of a repository: desired, ready
	held    map[string]int

	synced    time.Time
	written   int // since the plan came
	deleted   int
	told      bool                   // that everything stands as planned
	begun     map[problemID]*Problem // problems of the plan
	posed     map[*Problem]bool      // every problem there is
	loud      map[string]int         // problems that there are, by namespace and reason
	texts     map[string]bool        // foreign texts that were compared with the plan's values
	changed   chan struct{}
	isChanged bool
	later     []func() // to be done without the lock
}

// entry is what is known of one object.
type entry struct {
	object *Object // as planned; nil when it should not stand
	// send is object as it may be written now: a Role names only Secrets that stand and
	// are ours. Nil where nothing may be, or before the first look.
	send *Object
	seen bool   // a plan of this process had it
	want digest // of send; zero while unknown
	// accepted is what an admission webhook makes of what is wanted, where it only adds.
	accepted digest

	cached *observed // as the watch saw it last
	wrote  *observed // as our last write left it, until the watch caught up
	gone   *observed // what we deleted; a finalizer may still hold it
	// stays is until when a superseded Secret is left alone; zero for anything else.
	stays time.Time

	state   state
	problem *Problem
	// busy while a worker has it; again when it must be looked at once more after that.
	busy, again bool
	// recorded: the audit knows of the values that this try to write sends.
	recorded bool
	lastSent time.Time
	repairs  int // writes in a row, each soon after the one before, with the same wish
}

type state uint8

const (
	idle    state = iota // nothing is wanted, and nothing is there to be pruned
	pending              // not looked at yet
	ready
	failing
	waiting // for its namespace, the API server or the Lease
	held    // its removal waits for the operator's word
	states
)

// current is what stands in the cluster, as far as is known.
func (en *entry) current() *observed {
	o := en.cached
	if en.wrote != nil && (o == nil || newer(en.wrote, o)) {
		o = en.wrote
	}
	if o != nil && en.gone != nil && o.uid == en.gone.uid && !newer(o, en.gone) {
		return nil
	}
	return o
}

func (en *entry) matches(o *observed) bool {
	return en.send != nil && en.want != digest{} && (o.digest == en.want || o.digest == en.accepted)
}

// class of work. Each has a queue and workers of its own, so that nothing is before a
// revocation but other revocations.
type class uint8

const (
	revoking class = iota // what takes a right away, or may
	removing              // what takes a value away
	writing
	classes
)

// workers of a class, of a number for writing.
func (c class) workers(n int) int {
	if c == writing {
		return n
	}
	return max(2, n/4)
}

// run is one term of leadership.
type run struct {
	ctx     context.Context
	queues  [classes]workqueue.TypedDelayingInterface[Key]
	limiter workqueue.TypedRateLimiter[Key]
	ask     chan struct{} // for the operator's word, at once
}

// space is how requests to one namespace go.
type space struct {
	underway  [classes]int
	slowUntil time.Time
	problem   *Problem
}

// outage is how the API server itself does.
type outage struct {
	until    time.Time
	failures int
	problem  *Problem
	over     chan struct{} // closed when it answers again
}

// The waits of an engine.
const (
	firstBackoff  = 500 * time.Millisecond
	mostBackoff   = time.Minute
	outageBackoff = 8 * time.Second
	leaseBackoff  = 200 * time.Millisecond
	wordEvery     = 2 * time.Second
	// A request that takes longer makes its namespace a slow one for a while, of which
	// few requests are under way at a time: a webhook that hangs must not stop others.
	slowRequest = 2 * time.Second
	slowFor     = 30 * time.Second
	// As many repairs of one object within as long are no drift, but a quarrel.
	quarrelAfter = 3
	quarrelTime  = time.Minute
)

// NewEngine makes an engine, which does nothing until [Engine.Run].
func NewEngine(cfg EngineConfig) *Engine {
	if cfg.Workers <= 0 {
		cfg.Workers = 16
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	e := &Engine{cfg: cfg, entries: map[Key]*entry{}, begun: map[problemID]*Problem{}, posed: map[*Problem]bool{}, changed: make(chan struct{}), came: map[family]map[string]time.Time{}}
	rand.Read(e.digester[:])
	e.recount()
	return e
}

// Apply sets the plan that the cluster is held to. It never blocks; the newest wins.
func (e *Engine) Apply(p *Plan) {
	e.mu.Lock()
	defer e.unlock()
	var kept map[Key]bool
	if e.plan != nil {
		kept = e.plan.Keep
	}
	e.plan, e.told, e.written, e.deleted, e.texts = p, false, 0, 0, map[string]bool{}
	var look []Key
	named := e.naming == nil
	for key, obj := range p.Objects {
		en := e.entry(key)
		en.seen = true
		if p.Keep[key] {
			continue
		}
		switch {
		case en.object != obj:
			en.object, en.want, en.accepted, en.repairs = obj, digest{}, digest{}, 0
			named = named || obj.Secret == nil
			en.state = pending
			look = append(look, key)
			e.forgive(key)
		case en.problem != nil && (en.problem.Reason == NotOurs || en.problem.Reason == Collision):
			e.forgive(key)
			look = append(look, key)
		}
	}
	for key, en := range e.entries {
		keep := p.Keep[key]
		gone := en.object != nil && (keep || p.Objects[key] == nil)
		if gone {
			en.object, en.want, en.accepted, en.repairs = nil, digest{}, digest{}, 0
			named = named || key.Kind != KindSecret
			en.state = pending
			e.forgive(key)
		}
		// What is not in the plan is judged anew: it may be known by now whose it is.
		if gone || keep != kept[key] || en.object == nil && en.current() != nil {
			look = append(look, key)
		}
		en.seen = en.seen || keep
	}
	if named {
		e.naming = namedBy(p)
	}
	e.regroupAll()
	e.recount()
	e.forgetUnused()
	e.tellPlan()
	if e.run != nil {
		e.watch()
		for _, key := range look {
			e.enqueue(key)
		}
	}
	e.touch()
}

// forgive has an object tried at once, however often it failed before.
func (e *Engine) forgive(key Key) {
	if e.run != nil {
		e.run.limiter.Forget(key)
	}
}

// Know notes what a plan has, without holding the cluster to it: what a replica that
// follows planned is nothing that nobody saw when it leads.
func (e *Engine) Know(p *Plan) {
	e.mu.Lock()
	defer e.unlock()
	for key := range p.Objects {
		e.know(key)
	}
	for key := range p.Keep {
		e.know(key)
	}
	e.forgetUnused()
}

func (e *Engine) know(key Key) {
	if en := e.entry(key); !en.seen {
		e.change(key, en, func() { en.seen = true })
	}
}

// Run holds the cluster to the plan until ctx ends. No write is under way when it has
// returned. It is for the one that leads, and may be called again.
func (e *Engine) Run(ctx context.Context) {
	e.running.Lock()
	defer e.running.Unlock()
	// What client-go logs by itself may hold whole objects.
	ctx, cancel := context.WithCancel(logr.NewContext(ctx, logr.Discard()))
	defer cancel()
	limiter := workqueue.NewTypedItemExponentialFailureRateLimiter[Key](firstBackoff, mostBackoff)
	r := &run{ctx: ctx, limiter: limiter, ask: make(chan struct{}, 1)}
	for c := range r.queues {
		r.queues[c] = workqueue.NewTypedDelayingQueue[Key]()
	}

	e.mu.Lock()
	e.begin(r)
	e.unlock()

	var workers sync.WaitGroup
	for c := range classes {
		for range c.workers(e.cfg.Workers) {
			workers.Go(func() { e.worker(r, c) })
		}
	}
	workers.Go(func() { e.words(r) })
	<-ctx.Done()
	for _, q := range r.queues {
		q.ShutDown()
	}
	e.mu.Lock()
	e.end()
	e.unlock()
	workers.Wait()
}

// begin forgets what an earlier term knew of the cluster, and looks.
func (e *Engine) begin(r *run) {
	e.run = r
	e.namespaces, e.spaces = map[string]map[Kind]*watcher{}, map[string]*space{}
	e.outage = outage{over: make(chan struct{})}
	e.guard, e.loud = map[string]*guarded{}, map[string]int{}
	e.unsettled, e.crowded = 0, [classes]int{}
	e.forgetCluster()
	// Who leads now tells what there is.
	for id, was := range e.begun {
		delete(e.posed, was)
		var slot *Problem
		e.pose(&slot, *was)
		e.begun[id] = slot
	}
	e.watch()
	e.touch()
}

func (e *Engine) end() {
	for _, ns := range e.namespaces {
		for _, w := range ns {
			w.stopped = true
			w.cancel()
		}
	}
	close(e.outage.over)
	e.run, e.namespaces, e.spaces, e.guard, e.outage = nil, nil, nil, nil, outage{}
	e.loud = nil
	e.forgetCluster()
	e.touch()
}

func (e *Engine) forgetCluster() {
	for _, en := range e.entries {
		*en = entry{object: en.object, seen: en.seen, busy: en.busy}
		if en.object != nil {
			en.state = pending
		}
	}
	clear(e.came)
	clear(e.posed)
	for _, p := range e.begun {
		e.posed[p] = true
	}
	e.recount()
}

// forgetUnused bounds what is remembered of objects of earlier plans while nothing is
// known of the cluster. Forgetting makes the guard only more careful.
func (e *Engine) forgetUnused() {
	planned := 0
	if e.plan != nil {
		planned = len(e.plan.Objects)
	}
	if e.run != nil || len(e.entries) < 2*planned+20_000 {
		return
	}
	maps.DeleteFunc(e.entries, func(_ Key, en *entry) bool { return en.object == nil && !en.busy })
	e.recount()
}

// watch starts the watches of the plan's namespaces, and stops those of others.
func (e *Engine) watch() {
	if e.plan == nil {
		return
	}
	wanted := map[string]bool{}
	for _, ns := range e.plan.Namespaces {
		wanted[ns] = true
	}
	for key := range e.plan.Objects {
		wanted[key.Namespace] = true
		if e.forbidden(key.Namespace) {
			e.enqueue(key) // no watch comes to do so
		}
	}
	maps.DeleteFunc(wanted, func(ns string, _ bool) bool { return e.forbidden(ns) })
	for name, ns := range e.namespaces {
		if wanted[name] {
			continue
		}
		for _, w := range ns {
			w.settle()
			w.stopped = true
			w.cancel()
		}
		delete(e.namespaces, name)
		if s := e.spaces[name]; s != nil {
			e.pose(&s.problem, Problem{})
		}
		for key, en := range e.entries {
			if key.Namespace == name {
				e.change(key, en, func() { en.cached, en.wrote, en.gone = nil, nil, nil })
				e.enqueue(key)
			}
		}
	}
	for name := range wanted {
		if e.namespaces[name] != nil {
			continue
		}
		ns := map[Kind]*watcher{}
		e.namespaces[name] = ns
		e.unsettled++
		for _, kind := range kinds {
			ctx, cancel := context.WithCancel(e.run.ctx)
			w := &watcher{e: e, ns: name, kind: kind, cancel: cancel}
			ns[kind] = w
			go w.run(ctx)
		}
	}
}

// forbidden reports the cluster's own namespaces and that of the agents, whose keys are
// there. Plans do not have them either.
func (e *Engine) forbidden(ns string) bool {
	return ns == "" || ns == e.cfg.Agent || strings.HasPrefix(ns, "kube-")
}

func (e *Engine) entry(key Key) *entry {
	en := e.entries[key]
	if en == nil {
		en = &entry{seen: e.plan != nil && e.plan.Keep[key]}
		e.tally(key, en, 1)
		e.entries[key] = en
	}
	return en
}

func (e *Engine) space(name string) *space {
	s := e.spaces[name]
	if s == nil {
		s = &space{}
		e.spaces[name] = s
	}
	return s
}

// change changes an entry and keeps the counts.
func (e *Engine) change(key Key, en *entry, f func()) {
	stood, absent, was := e.stands(key), en.current() == nil, familyOf(key.Namespace, en.current())
	e.tally(key, en, -1)
	f()
	e.tally(key, en, 1)
	if key.Kind == KindSecret {
		e.regroup(key, was, familyOf(key.Namespace, en.current()), en.current())
	}
	if key.Kind == KindRole && absent && en.current() != nil {
		e.roleCame(key)
	}
	if key.Kind == KindSecret && e.stands(key) != stood {
		e.named(key, false)
	}
	if o := en.current(); key.Kind == KindSecret && o != nil {
		e.guardDone(o.repository)
	}
}

func (e *Engine) set(key Key, en *entry, s state) {
	if en.state != s {
		e.change(key, en, func() { en.state = s })
		e.touch()
	}
}

func (e *Engine) tally(key Key, en *entry, n int) {
	e.states[en.state] += n
	if obj := en.object; obj != nil {
		e.desired[key.Kind] += n
		if en.state == ready {
			e.ready[key.Kind] += n
		}
		if key.Kind == KindSecret {
			of := e.of[obj.Origin.Repository]
			if of == nil {
				of = &[2]int{}
				e.of[obj.Origin.Repository] = of
			}
			of[0] += n
			if en.state == ready {
				of[1] += n
			}
		}
	}
	if o := en.current(); o != nil && key.Kind == KindSecret && e.run != nil {
		g := e.guardOf(o.repository)
		if o.made {
			g.standing += n
		}
		if e.unseen(key, en, o) {
			g.unseen += n
		}
		if en.state == held {
			e.held[o.repository] += n
		}
	}
}

func (e *Engine) recount() {
	e.states = [states]int{}
	e.desired, e.ready, e.of, e.held = map[Kind]int{}, map[Kind]int{}, map[string]*[2]int{}, map[string]int{}
	for _, g := range e.guard {
		g.standing, g.unseen = 0, 0
	}
	for key, en := range e.entries {
		e.tally(key, en, 1)
	}
	for repository := range e.guard {
		e.guardDone(repository)
	}
}

// enqueue has a worker look at an object.
func (e *Engine) enqueue(key Key) {
	if e.run != nil {
		e.run.queues[e.class(key)].Add(key)
	}
}

func (e *Engine) enqueueAfter(key Key, d time.Duration) {
	if e.run != nil {
		e.run.queues[e.class(key)].AddAfter(key, d)
	}
}

// lookAgain has an object looked at when its time is over, and before, because the clock
// may be put right.
func (e *Engine) lookAgain(key Key, at, now time.Time) {
	if !at.IsZero() && at.After(now) {
		e.enqueueAfter(key, min(at.Sub(now), time.Minute))
	}
}

func (e *Engine) class(key Key) class {
	en := e.entries[key]
	switch {
	case en == nil || en.current() == nil:
		return writing
	case key.Kind != KindSecret:
		return revoking
	case en.object == nil:
		return removing
	}
	return writing
}

func (e *Engine) enqueueUnseen() {
	for key, en := range e.entries {
		if e.unseen(key, en, en.current()) {
			e.set(key, en, pending)
			e.enqueue(key)
		}
	}
}

func (e *Engine) worker(r *run, c class) {
	for {
		key, down := r.queues[c].Get()
		if down {
			return
		}
		if r.ctx.Err() == nil {
			e.work(r, key, c)
		}
		r.queues[c].Done(key)
	}
}

// work looks at one object. Nobody else does meanwhile, also not by another queue.
func (e *Engine) work(r *run, key Key, c class) {
	e.mu.Lock()
	defer e.unlock()
	en := e.entries[key]
	if en == nil || e.run != r {
		return
	}
	if en.busy {
		en.again = true
		return
	}
	en.busy = true
	e.step(r, key, en, c)
	en.busy = false
	if en.again {
		en.again = false
		e.enqueue(key)
	}
	if en.object == nil && en.current() == nil && en.problem == nil && e.run == r {
		r.limiter.Forget(key)
		if e.looked(key) {
			e.tally(key, en, -1)
			delete(e.entries, key)
		}
	}
	e.settleAll()
}

// looked reports that everything of the key's kind and namespace was seen.
func (e *Engine) looked(key Key) bool {
	w := e.namespaces[key.Namespace][key.Kind]
	return w != nil && w.synced
}

// step decides what an object needs, and does it. It is called with the lock and
// returns with it, but does not hold it while it talks to the API server.
func (e *Engine) step(r *run, key Key, en *entry, c class) {
	obj, before := en.object, en.send
	en.send = e.sendable(obj)
	if send := en.send; send != nil && (en.want == (digest{}) || !slices.Equal(before.names(), send.names())) {
		var want digest
		e.unlock()
		err := e.safely(func() error {
			want = e.digester.wanted(e.body(send))
			return nil
		})
		e.mu.Lock()
		if en.object != obj || e.run != r {
			return // Apply has it looked at again
		}
		if err != nil {
			e.failed(r, key, en, obj, err)
			return
		}
		en.want, en.accepted = want, digest{}
	}
	w := e.namespaces[key.Namespace][key.Kind]
	if w == nil && obj != nil {
		e.fail(r, key, en, failure{reason: NoTarget, message: "namespace " + key.Namespace + " is never projected into"}, false)
		return
	}
	if w == nil {
		e.end1(key, en, idle)
		return
	}
	if !w.synced {
		if obj != nil && w.failure != nil {
			e.set(key, en, waiting)
		}
		return
	}
	o := en.current()
	now := e.cfg.Now()
	if e.holds(key, en, before, o) {
		en.send, en.want = before, digest{} // what stands, as far as we wrote it
		e.set(key, en, waiting)
		return
	}
	if e.takesOver(obj, o) {
		e.fail(r, key, en, failure{reason: Collision, message: "Secret " + key.Namespace + "/" + key.Name + " is of workspace " + o.workspace + ", whose Secrets stay as they are for now; it is not overwritten"}, false)
		return
	}
	if !en.stays.IsZero() && !now.Before(en.stays) {
		e.change(key, en, func() { en.stays = time.Time{} })
	}
	switch {
	case obj == nil && (o == nil || e.kept(key, en, o)):
		if o != nil {
			e.lookAgain(key, earlier(en.stays, o.expires), now)
		}
		e.end1(key, en, idle)
		return
	case obj == nil && o.deleting:
		e.fail(r, key, en, failure{reason: Conflict, message: deleting(key)}, false)
		return
	case obj == nil && key.Kind == KindSecret && !o.made:
		// A copy, most likely. It is told, and left alone.
		e.fail(r, key, en, failure{reason: NotOurs, message: "Secret " + key.Namespace + "/" + key.Name + " has sealward's labels, but sealward did not make it; it is left as it is"}, false)
		return
	case obj != nil && o != nil && !o.deleting && en.matches(o):
		if en.problem != nil && en.problem.Reason == Conflict && en.repairs > quarrelAfter && now.Sub(en.lastSent) < quarrelTime {
			e.enqueueAfter(key, quarrelTime-now.Sub(en.lastSent)) // whether the quarrel is over shows later
			e.set(key, en, ready)
			return
		}
		r.limiter.Forget(key)
		en.recorded, en.repairs = false, 0
		e.end1(key, en, ready)
		return
	}
	if obj == nil && e.unseen(key, en, o) {
		switch e.judge(o.repository) {
		case askFirst:
			e.set(key, en, pending)
			return
		case holdIt:
			e.set(key, en, held)
			e.hold(o.repository)
			return
		}
	}
	if wait := e.mustWait(key, w, now, c); wait > 0 {
		e.set(key, en, waiting)
		e.enqueueAfter(key, wait)
		return
	}
	if en.send == nil {
		e.prune(r, key, en, o, c)
		return
	}
	if en.repairs > quarrelAfter {
		if wait := en.lastSent.Add(min(firstBackoff<<min(en.repairs-quarrelAfter, 10), mostBackoff)).Sub(now); wait > 0 {
			e.fail(r, key, en, failure{reason: Conflict, message: string(key.Kind) + " " + key.Namespace + "/" + key.Name + " is changed by somebody else again and again"}, false)
			en.problem.Next = now.Add(wait)
			e.enqueueAfter(key, wait)
			return
		}
	}
	e.bring(r, key, en, o, c)
}

// prune deletes what should not stand.
func (e *Engine) prune(r *run, key Key, en *entry, o *observed, c class) {
	unseen := e.unseen(key, en, o)
	err := e.timed(key, c, func() error { return e.delete(r.ctx, key, o.uid, o.version) })
	if e.run != r {
		return
	}
	if err != nil {
		e.failed(r, key, en, nil, err)
		return
	}
	e.deleted++
	if unseen {
		e.guardOf(o.repository).pruned++
	}
	e.answered(key)
	r.limiter.Forget(key)
	e.change(key, en, func() { en.gone = o })
	e.guardDone(o.repository)
	switch {
	case en.object == nil:
		e.end1(key, en, idle)
	case en.send == nil:
		e.end1(key, en, waiting) // for a Secret that it may name
	}
}

// bring has an object stand as planned.
func (e *Engine) bring(r *run, key Key, en *entry, o *observed, c class) {
	obj, send, want := en.object, en.send, en.want
	a := &attempt{e: e, key: key, obj: send, fresh: en.recorded}
	began := e.cfg.Now()
	var stands *observed
	added := false
	err := e.timed(key, c, func() error {
		err := a.bring(r.ctx, o != nil)
		switch {
		case a.live == nil:
		case a.sent != nil && asSent(a.live, a.sent):
			stands = e.digester.remember(a.live, want, true)
		default:
			stands = e.digester.reduce(a.live)
			added = stands.digest != want && e.covers(a.live, e.body(send))
		}
		return err
	})
	if e.run != r {
		return
	}
	e.change(key, en, func() {
		if a.gone != nil {
			en.gone = a.gone
		}
		if stands != nil {
			en.wrote = stands
		}
	})
	if en.object != obj {
		return // Apply has it looked at again
	}
	en.recorded = a.fresh
	if err != nil {
		e.failed(r, key, en, obj, err)
		return
	}
	e.answered(key)
	e.written++
	if began.Sub(en.lastSent) < quarrelTime {
		en.repairs++
	} else {
		en.repairs = 0
	}
	en.lastSent = began
	if added {
		en.accepted = stands.digest
	}
	if !en.matches(stands) {
		e.fail(r, key, en, failure{reason: Conflict, message: string(key.Kind) + " " + key.Namespace + "/" + key.Name + " came to stand other than it was sent: an admission webhook changes it"}, true)
		return
	}
	r.limiter.Forget(key)
	en.recorded = false
	if en.repairs > quarrelAfter && en.problem != nil {
		e.set(key, en, ready)
		e.enqueueAfter(key, quarrelTime)
		return
	}
	e.end1(key, en, ready)
}

// timed does something without the lock, and notes a namespace that is slow.
func (e *Engine) timed(key Key, c class, f func() error) error {
	s := e.space(key.Namespace)
	slow := e.cfg.Now().Before(s.slowUntil)
	s.underway[c]++
	if slow {
		e.crowded[c]++
	}
	e.unlock()
	began := time.Now()
	err := e.safely(f)
	took := time.Since(began)
	e.mu.Lock()
	s.underway[c]--
	if slow {
		e.crowded[c]--
	}
	if took > slowRequest {
		s.slowUntil = e.cfg.Now().Add(slowFor)
	} else if err == nil {
		s.slowUntil = time.Time{}
	}
	return err
}

// safely makes an error of a panic, whose text could hold a value.
func (e *Engine) safely(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			e.cfg.Log.Error("writing to the cluster panicked; it is tried again, please report it", "type", fmt.Sprintf("%T", v))
			err = errPanic
		}
	}()
	return f()
}

// mustWait is how long a write has to wait for what is not its own fault.
func (e *Engine) mustWait(key Key, w *watcher, now time.Time, c class) time.Duration {
	wait := e.outage.until.Sub(now)
	if c == writing { // that nothing can be made there is no reason to leave something
		wait = max(wait, w.until.Sub(now))
	}
	if wait > 0 {
		return wait + mathrand.N(200*time.Millisecond)
	}
	s, workers := e.space(key.Namespace), c.workers(e.cfg.Workers)
	if now.Before(s.slowUntil) && (s.underway[c] >= max(1, workers/4) || e.crowded[c] >= max(1, workers/2)) {
		return 100*time.Millisecond + mathrand.N(200*time.Millisecond)
	}
	return 0
}

// failed sorts out why a write did not succeed.
func (e *Engine) failed(r *run, key Key, en *entry, obj *Object, err error) {
	if r.ctx.Err() != nil {
		return
	}
	now := e.cfg.Now()
	if errors.Is(err, ErrNotLeading) || errors.Is(err, context.DeadlineExceeded) && e.mayWrite() != nil {
		if now.After(e.outage.until) {
			e.outage.until = now.Add(leaseBackoff)
		}
		e.set(key, en, waiting)
		e.enqueueAfter(key, leaseBackoff+mathrand.N(leaseBackoff))
		return
	}
	e.mu.Unlock()
	f := e.explain(key, obj, err)
	e.mu.Lock()
	if e.run != r {
		return
	}
	w := e.namespaces[key.Namespace][key.Kind]
	switch {
	case f.reason == Conflict && r.limiter.NumRequeues(key) < quarrelAfter:
		// It takes more than one to be worth a word.
		e.answers()
		r.limiter.When(key)
		e.set(key, en, waiting)
		e.enqueueAfter(key, 20*time.Millisecond+mathrand.N(30*time.Millisecond))
	case f.gate:
		e.out(f, now)
		e.set(key, en, waiting)
		e.enqueueAfter(key, max(0, e.outage.until.Sub(now))+mathrand.N(200*time.Millisecond))
	case f.wide && w != nil:
		e.answers()
		if !now.Before(w.until) {
			w.until = now.Add(backoff(firstBackoff, namespaceBackoff, w.failures))
			w.failures++
		}
		w.writing = &f
		e.poseSpace(key.Namespace)
		e.set(key, en, waiting)
		e.enqueueAfter(key, w.until.Sub(now)+mathrand.N(200*time.Millisecond))
	default:
		e.answers()
		e.fail(r, key, en, f, true)
	}
}

// fail notes a problem of one object; again has it tried later.
func (e *Engine) fail(r *run, key Key, en *entry, f failure, again bool) {
	p := Problem{Key: key, Reason: f.reason, Message: f.message}
	if en.object != nil {
		p.Origin = en.object.Origin
	} else if o := en.current(); o != nil {
		p.Origin.Repository = o.repository
	}
	if again {
		wait := r.limiter.When(key)
		wait = max(wait/2+mathrand.N(wait), f.after)
		p.Next = e.cfg.Now().Add(wait)
		e.enqueueAfter(key, wait)
	}
	e.set(key, en, failing)
	e.pose(&en.problem, p)
	if key.Kind == KindSecret && !e.stands(key) {
		e.named(key, true)
	}
}

// end1 ends the problem of one object.
func (e *Engine) end1(key Key, en *entry, s state) {
	e.pose(&en.problem, Problem{})
	e.set(key, en, s)
}

// answered notes that a write to a namespace succeeded.
func (e *Engine) answered(key Key) {
	e.answers()
	if w := e.namespaces[key.Namespace][key.Kind]; w != nil && (w.writing != nil || w.failures > 0) {
		w.writing, w.failures, w.until = nil, 0, time.Time{}
		e.poseSpace(key.Namespace)
	}
}

// answers notes that the API server answers.
func (e *Engine) answers() {
	if e.outage.problem == nil || e.outage.problem.Reason == Throttled && e.cfg.Now().Before(e.outage.until) {
		return
	}
	e.pose(&e.outage.problem, Problem{})
	e.outage.until, e.outage.failures = time.Time{}, 0
	close(e.outage.over)
	e.outage.over = make(chan struct{})
	for key, en := range e.entries {
		if en.state == waiting {
			e.enqueue(key)
		}
	}
}

// out notes that it does not.
func (e *Engine) out(f failure, now time.Time) {
	if !now.Before(e.outage.until) {
		e.outage.until = now.Add(max(backoff(firstBackoff, outageBackoff, e.outage.failures), f.after))
		e.outage.failures++
	}
	began := e.outage.problem == nil
	e.pose(&e.outage.problem, Problem{Reason: f.reason, Message: f.message, Next: e.outage.until})
	if began {
		go e.probe(e.run)
	}
}

// probe finds out whether the API server answers again, also where nothing is to be written.
func (e *Engine) probe(r *run) {
	for {
		e.mu.Lock()
		if e.run != r || e.outage.problem == nil {
			e.mu.Unlock()
			return
		}
		wait, over := e.outage.until.Sub(e.cfg.Now()), e.outage.over
		e.mu.Unlock()
		timer := time.NewTimer(wait)
		select {
		case <-r.ctx.Done():
		case <-over:
		case <-timer.C:
		}
		timer.Stop()
		ctx, cancel := context.WithTimeout(r.ctx, requestTimeout)
		err := e.rest(KindSecret).Get().AbsPath("/version").MaxRetries(0).Do(ctx).Error()
		cancel()
		f := failure{}
		if err != nil {
			f = e.explain(Key{}, nil, &opError{"get", err})
		}
		e.mu.Lock()
		if e.run == r && err != nil && (f.gate || !errors.As(err, new(apierrors.APIStatus))) {
			e.out(f, e.cfg.Now())
		} else if e.run == r {
			e.answers()
		}
		e.unlock()
	}
}

// recovered is closed when the API server answers again.
func (e *Engine) recovered() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.outage.over == nil {
		e.outage.over = make(chan struct{})
	}
	return e.outage.over
}

func (e *Engine) watchFailed(w *watcher, err error) {
	f := e.explain(Key{Kind: w.kind, Namespace: w.ns}, nil, &opError{"watch", err})
	e.mu.Lock()
	defer e.unlock()
	if w.stopped {
		return
	}
	if f.gate {
		e.out(f, e.cfg.Now())
	} else {
		e.answers()
		w.failure = &f
		e.poseSpace(w.ns)
	}
	w.settle()
	for key, en := range e.entries {
		if key.Namespace == w.ns && key.Kind == w.kind && en.state == pending && !w.synced {
			e.set(key, en, waiting)
		}
	}
	e.settleAll()
}

func (e *Engine) watchStands(w *watcher) {
	e.mu.Lock()
	defer e.unlock()
	if w.stopped {
		return
	}
	e.answers()
	if w.failure != nil {
		w.failure = nil
		e.poseSpace(w.ns)
	}
}

// poseSpace tells the problem of a namespace: one, whatever it has several of.
func (e *Engine) poseSpace(namespace string) {
	s := e.space(namespace)
	var p Problem
	var messages []string
	for _, kind := range kinds {
		w := e.namespaces[namespace][kind]
		if w == nil {
			continue
		}
		for _, f := range []*failure{w.failure, w.writing} {
			if f == nil {
				continue
			}
			if p.Reason == "" {
				p = Problem{Key: Key{Namespace: namespace}, Reason: f.reason}
			}
			if f.reason == p.Reason && !slices.Contains(messages, f.message) {
				messages = append(messages, f.message)
			}
			if p.Next.Before(w.until) {
				p.Next = w.until
			}
		}
	}
	p.Message = strings.Join(messages, "; ")
	e.pose(&s.problem, p)
}

// words looks for the operator's word while something waits for it.
func (e *Engine) words(r *run) {
	tick := time.NewTicker(wordEvery)
	defer tick.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-r.ask:
		case <-tick.C:
		}
		e.askWord(r)
	}
}

// settleAll notes the moment at which everything stands as planned.
func (e *Engine) settleAll() {
	if e.run == nil || e.plan == nil || e.states[pending]+e.states[failing]+e.states[waiting]+e.states[held] > 0 || e.outage.problem != nil {
		return
	}
	for _, ns := range e.namespaces {
		for _, w := range ns {
			if !w.synced || w.failure != nil || w.writing != nil {
				return
			}
		}
	}
	e.synced = e.cfg.Now()
	if !e.told {
		e.told = true
		e.touch()
		if e.written+e.deleted > 0 {
			written, deleted, objects := e.written, e.deleted, e.states[ready]
			e.later = append(e.later, func() {
				e.cfg.Log.Info("the cluster stands as planned", "objects", objects, "written", written, "deleted", deleted)
			})
		}
	}
}

// tellPlan tells problems of the plan that began or ended.
func (e *Engine) tellPlan() {
	now := map[problemID]bool{}
	for _, p := range e.plan.Problems {
		id := problemID{p.Key, p.Origin, p.Reason}
		if now[id] {
			continue
		}
		now[id] = true
		slot := e.begun[id]
		e.pose(&slot, p)
		e.begun[id] = slot
	}
	for id, slot := range e.begun {
		if !now[id] {
			e.pose(&slot, Problem{})
			delete(e.begun, id)
		}
	}
}

// loudMost is how many problems of one reason in one namespace are told one by one.
const loudMost = 20

// pose puts a problem, or none, in its place, and tells what began and what ended.
func (e *Engine) pose(slot **Problem, p Problem) {
	was := *slot
	if was == nil && p.Reason == "" {
		return
	}
	e.touch()
	delete(e.posed, was)
	*slot = nil
	if p.Reason != "" {
		*slot = &p
		e.posed[&p] = true
	}
	if was != nil && was.Reason == p.Reason {
		p.Since = was.Since
		return
	}
	if was != nil && e.run != nil {
		id := was.Key.Namespace + " " + string(was.Reason)
		if e.loud[id]--; e.loud[id] == 0 {
			delete(e.loud, id)
		}
		if e.loud[id] < loudMost {
			e.log(*was, func(args []any) { e.cfg.Log.Info("a problem in the cluster has ended", args...) })
		}
	}
	if p.Reason == "" {
		return
	}
	if p.Since.IsZero() {
		p.Since = e.cfg.Now()
	}
	if e.run == nil {
		return // it is the leader's to tell
	}
	id := p.Key.Namespace + " " + string(p.Reason)
	e.loud[id]++
	switch n := e.loud[id]; {
	case n <= loudMost:
		e.log(p, func(args []any) { e.cfg.Log.Warn("something does not stand in the cluster as it should", args...) })
	case n == loudMost+1:
		e.later = append(e.later, func() {
			e.cfg.Log.Warn("there is more of this that is not logged one by one", "namespace", p.Key.Namespace, "reason", string(p.Reason))
		})
	}
}

func (e *Engine) log(p Problem, say func([]any)) {
	args := []any{"reason", string(p.Reason), "message", p.Message}
	for _, f := range [][2]string{{"kind", string(p.Key.Kind)}, {"namespace", p.Key.Namespace}, {"name", p.Key.Name},
		{"repository", p.Origin.Repository}, {"workspace", p.Origin.Workspace.String()}, {"secret", p.Origin.Secret.String()}, {"grant", p.Origin.Grant}} {
		if f[1] != "" {
			args = append(args, f[0], f[1])
		}
	}
	e.later = append(e.later, func() { say(append(args, "remedy", p.Reason.Remedy())) })
}

// touch notes that the report changed.
func (e *Engine) touch() { e.isChanged = true }

// unlock ends what Lock began, and then does what must not be done with the lock.
func (e *Engine) unlock() {
	later := e.later
	e.later = nil
	if e.isChanged {
		e.isChanged = false
		close(e.changed)
		e.changed = make(chan struct{})
	}
	e.mu.Unlock()
	for _, f := range later {
		f()
	}
}

// Changed is closed when the report changes. Ask for it before Report: a change in
// between is then not missed.
func (e *Engine) Changed() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.changed
}

// maxProblems is how many problems a report lists.
const maxProblems = 1000

// Report says how the cluster stands to the plan.
func (e *Engine) Report() Report {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := Report{Desired: maps.Clone(e.desired), Ready: maps.Clone(e.ready), DesiredOf: map[string]int{}, ReadyOf: map[string]int{},
		Synced: e.synced, Pending: e.states[pending], Held: map[string]int{}}
	for repository, n := range e.of {
		r.DesiredOf[repository], r.ReadyOf[repository] = n[0], n[1]
	}
	for repository, n := range e.held {
		if n > 0 {
			r.Held[repository] = n
		}
	}
	if e.plan == nil {
		return r
	}
	r.Commits = maps.Clone(e.plan.Commits)
	for p := range e.posed {
		r.Problems = append(r.Problems, *p)
	}
	slices.SortFunc(r.Problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Key.Namespace, b.Key.Namespace), cmp.Compare(a.Key.Kind, b.Key.Kind), cmp.Compare(a.Key.Name, b.Key.Name),
			cmp.Compare(a.Origin.Repository, b.Origin.Repository), cmp.Compare(a.Origin.Workspace.String(), b.Origin.Workspace.String()),
			cmp.Compare(a.Origin.Secret.String(), b.Origin.Secret.String()), cmp.Compare(a.Origin.Grant, b.Origin.Grant), cmp.Compare(a.Reason, b.Reason))
	})
	if len(r.Problems) > maxProblems {
		r.Omitted = len(r.Problems) - maxProblems
		r.Problems = slices.Clip(r.Problems[:maxProblems])
	}
	return r
}
