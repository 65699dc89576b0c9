package kubernetes_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	client "k8s.io/client-go/kubernetes"

	"github.com/sealward/sealward/plugins/kubernetes"
	"github.com/sealward/sealward/plugins/kubernetes/kubetest"
)

const (
	benchSecrets = 10_000
	benchWorkers = 16
)

// benchObjects are Secrets of five values each.
func benchObjects(ns string, n int) []*kubernetes.Object {
	var all []*kubernetes.Object
	for i := range n {
		var data []string
		for k := range 5 {
			data = append(data, fmt.Sprint("key-", k), fmt.Sprintf("a value of some thirty letters %d-%d", i, k))
		}
		all = append(all, secret(ns, fmt.Sprintf("s-%05d", i), data...))
	}
	return all
}

// BenchmarkProjection measures first projections against the API server's own rate: as
// many creators as the engine has workers create the same Secrets, without a watch, by
// turns with it, and at the same time of a machine that others use too.
func BenchmarkProjection(b *testing.B) {
	c := kubetest.Need(b, cluster)
	for b.Loop() {
		account := c.Namespace(b, "agent")
		cfg := c.As(b, account, "sealward")
		counted := &calls{}
		cfg.Wrap(counted.wrap)
		api, err := client.NewForConfig(cfg)
		if err != nil {
			b.Fatal(err)
		}
		own := func() time.Duration {
			ns := c.Namespace(b, "own")
			allow(b, ns, account)
			objects := benchObjects(ns, benchSecrets)
			next := make(chan *kubernetes.Object)
			var creators sync.WaitGroup
			began := time.Now()
			for range benchWorkers {
				creators.Go(func() {
					for o := range next {
						if _, err := api.CoreV1().Secrets(ns).Create(b.Context(), o.Secret, metav1.CreateOptions{FieldManager: kubernetes.FieldManager}); err != nil {
							b.Error(err)
						}
					}
				})
			}
			for _, o := range objects {
				next <- o
			}
			close(next)
			creators.Wait()
			return time.Since(began)
		}
		var e *kubernetes.Engine
		var ns string
		var objects []*kubernetes.Object
		var cancel context.CancelFunc
		done := make(chan struct{})
		close(done)
		const rounds = 3
		byItself, byEngine := own()/2, time.Duration(0)
		for round := range rounds {
			if round > 0 {
				cancel()
				<-done
			}
			ns = c.Namespace(b, "engine")
			allow(b, ns, account)
			e = kubernetes.NewEngine(kubernetes.EngineConfig{Client: api, Agent: agentNamespace, Workers: benchWorkers})
			ctx, stop := context.WithCancel(b.Context())
			ended := make(chan struct{})
			cancel, done = stop, ended
			go func() { defer close(ended); e.Run(ctx) }()
			objects = benchObjects(ns, benchSecrets)
			began := time.Now()
			e.Apply(plan(ns, objects...))
			settled(b, e, benchSecrets)
			byEngine += time.Since(began)
			if round < rounds-1 {
				byItself += own()
			} else {
				byItself += own() / 2
			}
		}
		b.ReportMetric(rounds*benchSecrets/byEngine.Seconds(), "engine/s")
		b.ReportMetric(rounds*benchSecrets/byItself.Seconds(), "own/s")
		b.ReportMetric(byItself.Seconds()/byEngine.Seconds(), "ratio")

		// One change, from Apply to what a reader sees.
		var took []time.Duration
		for i := range 50 {
			changed := secret(ns, objects[i].Key.Name, "key-0", fmt.Sprint("changed ", i))
			next := slices.Clone(objects)
			next[i] = changed
			p := plan(ns, next...)
			objects = next
			began := time.Now()
			e.Apply(p)
			for string(get(b, ns, changed.Key.Name).Data["key-0"]) != string(changed.Secret.Data["key-0"]) {
				time.Sleep(time.Millisecond)
			}
			took = append(took, time.Since(began))
		}
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "change-p50-ms")
		b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "change-max-ms")

		// The same content again, as other objects.
		settled(b, e, benchSecrets)
		counted.take()
		fresh := benchObjects(ns, benchSecrets)
		for i := range 50 {
			fresh[i] = secret(ns, objects[i].Key.Name, "key-0", fmt.Sprint("changed ", i))
		}
		p := plan(ns, fresh...)
		began := time.Now()
		e.Apply(p)
		settled(b, e, benchSecrets)
		b.ReportMetric(float64(time.Since(began).Milliseconds()), "resync-ms")
		b.ReportMetric(float64(len(counted.take())), "resync-requests")
		cancel()
		<-done

		// What an engine remembers of what stands: of nothing it may touch, so that no
		// plan's values are counted.
		objects, fresh, p, e = nil, nil, nil, nil
		used := heap()
		e = kubernetes.NewEngine(kubernetes.EngineConfig{Client: api, Agent: agentNamespace})
		nothing := plan(ns)
		nothing.Repositories = nil
		e.Apply(nothing)
		ctx, stop := context.WithCancel(b.Context())
		ended := make(chan struct{})
		began = time.Now()
		go func() { defer close(ended); e.Run(ctx) }()
		until(b, "all are known", func() bool { return !e.Report().Synced.IsZero() })
		b.ReportMetric(float64(time.Since(began).Milliseconds()), "start-ms")
		b.ReportMetric(float64(int64(heap())-int64(used))/(1<<20), "cache-MiB")
		stop()
		<-ended
	}
}

func settled(b *testing.B, e *kubernetes.Engine, n int) {
	b.Helper()
	for end := time.Now().Add(5 * time.Minute); ; {
		changed := e.Changed()
		r := e.Report()
		if r.Ready[kubernetes.KindSecret] == n && r.Pending == 0 {
			return
		}
		if time.Now().After(end) {
			b.Fatalf("%+v", r)
		}
		<-changed
		time.Sleep(2 * time.Millisecond) // every change would be thousands a second
	}
}
