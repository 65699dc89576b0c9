package kubernetes_test

import (
	"fmt"
	"testing"

	"github.com/sealward/sealward/plugins/kubernetes"
	"github.com/sealward/sealward/seal/manifest"
)

// One secret of 10,000 changes, in one workspace and in one of a hundred; and a commit
// that changes nothing.
func BenchmarkPlan(b *testing.B) {
	for _, c := range []struct {
		name       string
		workspaces int
		immutable  bool
		change     bool
	}{{"first", 0, false, true}, {"change/workspaces=1", 1, false, true}, {"change/workspaces=100", 100, false, true}, {"change/immutable", 1, true, true}, {"nothing", 1, false, false}} {
		b.Run(c.name, func(b *testing.B) {
			const secrets = 10_000
			r := newRepo(b, "")
			cfg := projection()
			cfg.Immutable = c.immutable
			spread := max(c.workspaces, 1)
			for i := range secrets {
				ws := fmt.Sprintf("w%d", i%spread)
				cfg.Workspaces[scope(ws)] = true
				r.records[scope(ws)], r.edited[scope(ws)] = nil, true
			}
			for ws := range cfg.Workspaces { // put would copy all for each
				r.secret(ws.String() + "/first")
				r.grant(ws.String(), "all", "allow read-all-secrets to "+account("orders:web"))
				for i := range 100 / spread {
					r.grant(ws.String(), fmt.Sprintf("g%d", i), fmt.Sprintf("allow read-specific-secret to %s on s%d-*,absent", account("orders:api"), i))
				}
			}
			for i := range secrets {
				ws := fmt.Sprintf("w%d", i%spread)
				rec := r.build(fmt.Sprintf("%s/s%d-db", ws, i), manifest.KeyValue, texts("username=dana", "password=hunter2"))
				r.records[scope(ws)][rec.Path] = rec
			}
			planner := kubernetes.NewPlanner(cfg)
			last := planner.Plan(view(r), nil, start)
			if len(last.Objects) < secrets || len(last.Problems) > 0 {
				b.Fatal(len(last.Objects), troubles(last))
			}
			b.ReportAllocs()
			made := 0
			for i := 0; b.Loop(); i++ {
				b.StopTimer()
				if c.change {
					r.secret("w0/s500-db", "username=dana", fmt.Sprintf("password=%d", i))
				}
				if c.workspaces == 0 {
					planner = kubernetes.NewPlanner(cfg)
				}
				v := view(r)
				b.StartTimer()
				next := planner.Plan(v, nil, start)
				b.StopTimer()
				for key, o := range next.Objects {
					if last.Objects[key] != o {
						made++
					}
				}
				last = next
				b.StartTimer()
			}
			b.ReportMetric(float64(made)/float64(b.N), "made/op")
		})
	}
}
