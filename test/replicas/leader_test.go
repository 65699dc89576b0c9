package replicas

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/sealward/sealward/plugins/kubernetes"
)

// observer watches what the agents make, and notes what must never happen: an older
// value in the place of a newer one, a removed Secret or a revoked permission that
// comes back.
type observer struct {
	t  *testing.T
	mu sync.Mutex
	// at is the number of the commit that a Secret's value is of. removed are the commits
	// that removed it, as pushed, and gone the one by which it was seen to go.
	at, gone map[string]int
	removed  map[string][]int
	// toggles counts the commits that granted the reader its permission and took it away,
	// in turns; done are those that were seen in the cluster.
	toggles, done int
	seen          int
	wrong         []string
}

// value of a secret in the commit of a number; numberOf finds the number again.
func value(n int) string { return fmt.Sprintf("%s-%d", canary, n) }

func numberOf(s *corev1.Secret) int {
	n, _ := strconv.Atoi(strings.TrimPrefix(string(s.Data["n"]), canary+"-"))
	return n
}

func (o *observer) fail(format string, args ...any) {
	o.wrong = append(o.wrong, fmt.Sprintf(format, args...))
}

func (o *observer) numberAt(name string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.at[name]
}

// watch follows a kind from now on, whatever becomes of single watches.
func (o *observer) watch(ctx context.Context, open func(metav1.ListOptions) (watch.Interface, error), note func(watch.Event)) {
	version := ""
	for ctx.Err() == nil {
		w, err := open(metav1.ListOptions{ResourceVersion: version, AllowWatchBookmarks: true})
		if err != nil {
			time.Sleep(100 * time.Millisecond)
			continue
		}
		for e := range w.ResultChan() {
			if m, ok := e.Object.(metav1.Object); ok {
				version = m.GetResourceVersion()
				o.mu.Lock()
				note(e)
				o.mu.Unlock()
			}
		}
		w.Stop()
	}
}

func (o *observer) secret(e watch.Event) {
	s, ok := e.Object.(*corev1.Secret)
	if !ok || !strings.HasPrefix(s.Name, "s") || e.Type == watch.Bookmark {
		return
	}
	o.seen++
	n := numberOf(s)
	if e.Type == watch.Deleted {
		i := slices.IndexFunc(o.removed[s.Name], func(by int) bool { return by > o.at[s.Name] })
		if i < 0 {
			o.fail("Secret %s of commit %d was removed, which no commit after that did", s.Name, o.at[s.Name])
			return
		}
		o.gone[s.Name] = o.removed[s.Name][i]
		return
	}
	if n < o.at[s.Name] {
		o.fail("Secret %s went from commit %d back to %d", s.Name, o.at[s.Name], n)
	}
	if g := o.gone[s.Name]; n < g {
		o.fail("Secret %s of commit %d is back, which commit %d removed", s.Name, n, g)
	}
	o.at[s.Name] = n
}

// binding holds that a permission comes only by a commit that grants it after the one
// that revoked it, and the other way round.
func (o *observer) binding(e watch.Event) {
	b, ok := e.Object.(*rbacv1.RoleBinding)
	if !ok || b.Labels[kubernetes.ManagedBy] != kubernetes.FieldManager || e.Type != watch.Added && e.Type != watch.Deleted {
		return
	}
	o.seen++
	next := o.done + 1 // the odd ones grant
	if (next%2 == 1) != (e.Type == watch.Added) {
		next++
	}
	if next > o.toggles {
		o.fail("RoleBinding %s: %s, though of %d commits about it the %d. was the last that was seen", b.Name, e.Type, o.toggles, o.done)
	}
	o.done = next
}

// A leader is killed, paused, or cut off from the API server at random moments while
// commits flow. No change is lost, nothing foreign is touched, no older state comes
// over a newer one, and no replica writes once another could.
func TestLeaderIsKilled(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	w := newWorld(t, "kill")
	w.interval = "500ms" // hooks reach only who runs

	// What others have, next to and in the way of sealward's own.
	foreign := func(name, key string) *corev1.Secret {
		s, err := cluster.Client.CoreV1().Secrets(w.target).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: map[string]string{key: "theirs"}}, metav1.CreateOptions{})
		must(t, err)
		return s
	}
	others := []*corev1.Secret{foreign("theirs", "n"), foreign("s03", "n"), foreign("aa", "x")}

	const secrets = 12
	name := func(i int) string { return fmt.Sprintf("s%02d", i) }
	want, n := map[string]int{}, 0
	var granted bool
	o := &observer{t: t, at: map[string]int{}, gone: map[string]int{}, removed: map[string][]int{}}
	change := func() {
		n++
		o.mu.Lock()
		for range 1 + random.IntN(4) {
			i := random.IntN(secrets)
			if _, there := want[name(i)]; there && random.IntN(4) == 0 {
				w.remove("workspaces/orders/secrets/" + name(i) + ".yaml")
				delete(want, name(i))
				o.removed[name(i)] = append(o.removed[name(i)], n)
				continue
			}
			w.secret(name(i), map[string]string{"n": value(n)})
			want[name(i)] = n
		}
		if random.IntN(3) == 0 {
			o.toggles++
			if granted = !granted; granted {
				w.grant("reader", "users:id:system:serviceaccount:"+w.target+":reader")
			} else {
				w.remove("workspaces/orders/grants/reader.yaml")
			}
		}
		w.file("n", fmt.Sprint(n))
		o.mu.Unlock()
		w.push(fmt.Sprint("change ", n))
	}
	for i := range secrets {
		w.secret(name(i), map[string]string{"n": value(0)})
		want[name(i)] = 0
	}
	change()

	ctx, stop := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	defer watching.Wait()
	defer stop()
	watching.Go(func() {
		o.watch(ctx, func(opts metav1.ListOptions) (watch.Interface, error) {
			return cluster.Client.CoreV1().Secrets(w.target).Watch(ctx, opts)
		}, o.secret)
	})
	watching.Go(func() {
		o.watch(ctx, func(opts metav1.ListOptions) (watch.Interface, error) {
			return cluster.Client.RbacV1().RoleBindings(w.target).Watch(ctx, opts)
		}, o.binding)
	})

	for _, name := range []string{"a", "b", "c"} {
		w.newAgent(name).start()
	}
	hook := func() {
		for range 3 { // a host that is told to call one of several
			if w.agents[random.IntN(len(w.agents))].hook() == nil {
				return
			}
		}
	}
	eventually(t, "an agent leads", func() bool { return w.leader() != nil })

	faults := map[string]int{}
	for range *kills {
		for range 2 + random.IntN(3) {
			change()
			hook()
			time.Sleep(time.Duration(random.IntN(150)) * time.Millisecond)
		}
		var a *agent
		eventually(t, "an agent leads", func() bool { a = w.leader(); return a != nil })
		time.Sleep(time.Duration(random.IntN(300)) * time.Millisecond)
		what := []string{"kill", "pause", "cut", "mute"}[random.IntN(4)]
		faults[what]++
		// Now and then the others lag: they do not reach the git server.
		lag := random.IntN(2) == 0
		for _, other := range w.agents {
			if lag && other != a {
				other.remote.set(true, false)
			}
		}
		if lag {
			faults["lag"]++
			change()
			must(t, a.hook())
			eventually(t, "the leader has written what the others lack", func() bool {
				for name, n := range want {
					if o.numberAt(name) < n && name != "s03" {
						return false
					}
				}
				return true
			})
		}
		change() // under way when it happens
		go func() { _ = a.hook() }()
		time.Sleep(time.Duration(random.IntN(120)) * time.Millisecond)
		t.Logf("%s: %s, at change %d", what, a.name, n)
		began := time.Now()
		switch what {
		case "kill":
			a.end(syscall.SIGKILL)
		case "pause":
			a.signal(syscall.SIGSTOP)
		case "cut":
			a.proxy.set(true, false)
		case "mute":
			a.proxy.set(false, true)
		}
		for range 1 + random.IntN(3) {
			change()
			hook()
		}
		var now *agent
		eventually(t, "another agent leads", func() bool { now = w.leader(); return now != nil && now != a })
		took := time.Since(began)
		if lag {
			time.Sleep(time.Duration(random.IntN(1000)) * time.Millisecond)
			for _, other := range w.agents {
				other.remote.set(false, false)
			}
		}
		t.Logf("%s took the Lease over after %s", now.name, took.Round(10*time.Millisecond))
		if random.IntN(2) == 0 {
			time.Sleep(time.Duration(random.IntN(500)) * time.Millisecond)
		}
		switch what {
		case "kill":
			a.start()
		case "pause":
			a.signal(syscall.SIGCONT)
		case "cut", "mute":
			a.proxy.set(false, false)
		}
	}
	hook()

	delete(want, "s03") // somebody else's stands there
	eventually(t, "the cluster stands as the last commit says", func() bool {
		list, err := cluster.Client.CoreV1().Secrets(w.target).List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/managed-by=sealward"})
		if err != nil {
			return false
		}
		stands := map[string]int{}
		for i := range list.Items {
			stands[list.Items[i].Name] = numberOf(&list.Items[i])
		}
		bindings, err := cluster.Client.RbacV1().RoleBindings(w.target).List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/managed-by=sealward"})
		return err == nil && maps.Equal(stands, want) && (len(bindings.Items) > 0) == granted
	})
	stop()
	watching.Wait()
	for _, wrong := range o.wrong {
		t.Error(wrong)
	}
	for _, s := range others {
		now, err := cluster.Client.CoreV1().Secrets(w.target).Get(context.Background(), s.Name, metav1.GetOptions{})
		if err != nil || now.ResourceVersion != s.ResourceVersion || string(now.Data["n"])+string(now.Data["x"]) != "theirs" {
			t.Errorf("Secret %s, which is others', was touched: %v", s.Name, err)
		}
	}
	terms, writes := w.oneWriter()
	if terms <= *kills || writes < *kills || o.seen < *kills {
		t.Errorf("only %d terms, %d writes and %d events were looked at", terms, writes, o.seen)
	}
	t.Logf("%v; %d changes, %d terms, %d writes, %d events", faults, n, terms, writes, o.seen)
	w.finish()
}

// oneWriter holds every write to what is projected against who held the Lease, both as
// the API server's audit log has them: a write of a replica that was received after
// another had acquired the Lease, or before it had itself, is one too many.
func (w *world) oneWriter() (terms, writes int) {
	w.t.Helper()
	type term struct {
		holder     string // credential
		begun, had time.Time
	}
	var held []term
	of := map[string]string{} // credential by identity
	all := requests(w.t, "system:serviceaccount:"+w.namespace+":sealward")
	for _, r := range all {
		if r.ObjectRef.Resource != "leases" {
			continue
		}
		id := r.RequestObject.Spec.HolderIdentity
		if id == "" {
			held = append(held, term{"", r.Received, r.Completed})
			continue
		}
		if c := of[id]; c != "" && c != r.credential() {
			w.t.Errorf("two processes say that they are %s", id)
		}
		of[id] = r.credential()
		if len(held) == 0 || held[len(held)-1].holder != r.credential() {
			held = append(held, term{r.credential(), r.Received, r.Completed})
			terms++
		}
	}
	for _, r := range all {
		if r.ObjectRef.Namespace != w.target {
			continue
		}
		writes++
		ok := false
		for i, t := range held {
			if t.holder == r.credential() && !r.Completed.Before(t.begun) && (i+1 == len(held) || !r.Received.After(held[i+1].had)) {
				ok = true
			}
		}
		if !ok {
			w.t.Errorf("%s of %s %s by a replica that did not hold the Lease at %s", r.Verb, r.ObjectRef.Resource, r.ObjectRef.Name, r.Received.Format(time.RFC3339Nano))
		}
	}
	return terms, writes
}
