package kubernetes_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sealward/sealward/plugins/kubernetes"
)

// Two replicas lead by turns, one of them now and then without knowing that it does not
// any more, while plans change, others meddle, and watches break. When it is quiet again
// everything stands as planned, and what others made is as they left it. CHAOS_SEED runs
// a schedule again, as far as a schedule of goroutines can.
func TestChaos(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("CHAOS_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("CHAOS_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 1))

	var leader atomic.Int32
	var replicas [2]*projector
	for i := range replicas {
		lease := func(c *kubernetes.EngineConfig) {
			c.Guard = kubernetes.PruneGuard{Percent: 100}
			c.MayWrite = func() error {
				if leader.Load() != int32(i) {
					return kubernetes.ErrNotLeading
				}
				return nil
			}
		}
		if i == 0 {
			replicas[0] = newProjector(t, lease)
		} else {
			replicas[1] = stoppedProjector(t, replicas[0].ns, lease)
		}
	}
	ns := replicas[0].ns
	replicas[1].start()
	api := cluster.Client.CoreV1().Secrets(ns)

	const names = 24
	// The last names are also somebody else's, for whoever is first.
	draw := func() *kubernetes.Plan {
		var objects []*kubernetes.Object
		for n := range names {
			if random.IntN(4) == 0 {
				continue
			}
			var data []string
			for k := range 1 + random.IntN(4) {
				data = append(data, fmt.Sprint("k", k), fmt.Sprint("planned ", random.IntN(5)))
			}
			s := secret(ns, fmt.Sprint("s-", n), data...)
			if random.IntN(6) == 0 {
				s.Secret.Type = "example.com/other"
			}
			if random.IntN(6) == 0 {
				s.Secret.Immutable = ptr(true)
			}
			if random.IntN(3) == 0 {
				s.Secret.Labels["tier"] = fmt.Sprint("t", random.IntN(3))
			}
			objects = append(objects, s)
		}
		planned := len(objects)
		for n := range 4 {
			if random.IntN(2) == 0 {
				// Not of the last ones, which may be somebody else's: no Role names such.
				objects = append(objects, role(ns, fmt.Sprint("r-", n), objects[random.IntN(planned/2)].Key.Name), binding(ns, fmt.Sprint("r-", n), fmt.Sprint("r-", n), "shop"))
			}
		}
		return plan(ns, objects...)
	}

	stop := make(chan struct{})
	var others sync.WaitGroup
	theirs := map[string]string{} // revisions, by name
	meddle := rand.New(rand.NewPCG(seed, 2))
	others.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(1+meddle.IntN(8)) * time.Millisecond):
			}
			name := fmt.Sprint("s-", meddle.IntN(names))
			switch meddle.IntN(6) {
			case 0:
				if theirs[name] == "" {
					_ = api.Delete(context.Background(), name, metav1.DeleteOptions{})
				}
			case 1, 2:
				if theirs[name] == "" {
					_, _ = api.Patch(context.Background(), name, types.MergePatchType, []byte(`{"data":{"k0":"d3Jvbmc=","extra":"ZXh0cmE="}}`), metav1.PatchOptions{FieldManager: "mallory"})
				}
			case 3:
				_, _ = api.Patch(context.Background(), fmt.Sprint("s-", meddle.IntN(names/2)), types.MergePatchType, []byte(`{"metadata":{"annotations":{"reloaded":"yes"}}}`), metav1.PatchOptions{FieldManager: "reloader"})
			case 4:
				s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("s-", names-1-meddle.IntN(6))}, Data: map[string][]byte{"theirs": []byte("their own value")}}
				if s, err := api.Create(context.Background(), s, metav1.CreateOptions{FieldManager: "dana"}); err == nil {
					theirs[s.Name] = s.ResourceVersion
				}
			case 5:
				replicas[meddle.IntN(2)].calls.breakWatches()
			}
		}
	})
	// Now and then a write is on its way for a while: longer than its sender leads.
	for i, r := range replicas {
		var n atomic.Int32
		r.calls.intercept(func(req *http.Request) error {
			if req.Method != http.MethodGet && n.Add(1)%17 == int32(i) {
				time.Sleep(30 * time.Millisecond)
			}
			return nil
		})
	}
	for range 120 {
		p := draw()
		for _, r := range replicas {
			r.Apply(p)
		}
		time.Sleep(time.Duration(10+random.IntN(40)) * time.Millisecond)
		switch random.IntN(8) {
		case 0:
			leader.Store(1 - leader.Load())
		case 1: // the leader ends
			old := replicas[leader.Load()]
			old.stop()
			leader.Store(1 - leader.Load())
			old.start()
		}
	}
	close(stop)
	others.Wait()
	last := draw()
	for _, r := range replicas {
		r.Apply(last)
	}
	why := ""
	defer func() {
		if t.Failed() {
			t.Logf("%s\n%+v", why, replicas[leader.Load()].Report())
		}
	}()
	until(t, "everything stands as planned", func() bool {
		l, err := api.List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return false
		}
		standing := map[string]*corev1.Secret{}
		for i := range l.Items {
			standing[l.Items[i].Name] = &l.Items[i]
		}
		for n := range names {
			name := fmt.Sprint("s-", n)
			s := standing[name]
			if theirs[name] != "" {
				continue
			}
			want := last.Objects[kubernetes.Key{Kind: kubernetes.KindSecret, Namespace: ns, Name: name}]
			if want == nil && s == nil {
				continue
			}
			why = fmt.Sprint(name, want, s)
			if want == nil || s == nil || values(s) != values(want.Secret) || s.Type != want.Secret.Type || s.Labels["tier"] != want.Secret.Labels["tier"] {
				return false
			}
		}
		r := replicas[leader.Load()].Report()
		return r.Pending == 0 && r.Ready[kubernetes.KindRole] == r.Desired[kubernetes.KindRole] && r.Ready[kubernetes.KindRoleBinding] == r.Desired[kubernetes.KindRoleBinding]
	})
	for name, version := range theirs {
		if s := get(t, ns, name); s == nil || s.ResourceVersion != version {
			t.Errorf("somebody else's %s was changed: %v", name, s)
		}
	}
	if len(theirs) == 0 {
		t.Error("nobody else made anything")
	}
	for _, problem := range replicas[leader.Load()].Report().Problems {
		if problem.Reason != kubernetes.NotOurs && problem.Reason != kubernetes.Conflict || theirs[problem.Key.Name] == "" && problem.Reason == kubernetes.NotOurs {
			t.Errorf("the problem is %+v", problem)
		}
	}
	for _, r := range replicas {
		if log := r.log.String(); strings.Contains(log, "panicked") || strings.Contains(log, "planned 1") {
			t.Errorf("the log is\n%s", log)
		}
	}
}
