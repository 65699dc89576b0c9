package gitops_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/sealward/sealward/gitops"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal"
)

// Every metric is there, and says what happened.
func TestMetrics(t *testing.T) {
	w := newWorld(t)
	w.metrics = true
	w.secret("orders", "db", "k=hunter2")
	w.secret("orders", "api", "k=hunter2")
	w.commit("first")
	w.start()
	w.sync()
	w.secret("orders", "db", "k=hunter3")
	w.write("workspaces/orders/secrets/api.yaml", "nonsense")
	w.write("workspaces/orders/odd.txt", "")
	w.commit("second")
	w.sync()
	w.git("branch", "-q", "-m", "main", "hidden")
	w.now = w.now.Add(time.Minute)
	if _, err := w.agent.Sync(t.Context()); err == nil {
		t.Fatal("there is no branch")
	}
	w.agent.Metrics.Audited(time.Millisecond, nil)
	w.agent.Metrics.Audited(time.Millisecond, errors.New("no space"))

	registry := w.agent.Metrics.Registry()
	problems, err := testutil.GatherAndLint(registry)
	must(t, err)
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "sealward_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
	families, err := registry.Gather()
	must(t, err)
	values := map[string]float64{}
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "sealward_") {
			continue
		}
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, l.GetValue())
			}
			value := m.GetGauge().GetValue() + m.GetCounter().GetValue()
			if h := m.GetHistogram(); h != nil {
				value = float64(h.GetSampleCount())
			}
			values[f.GetName()+" "+strings.Join(labels, ",")] = value
		}
	}
	head := w.git("rev-parse", "hidden")
	for name, want := range map[string]float64{
		"sealward_build_info v0":                          1,
		"sealward_source_looks_total ok,":                 2,
		"sealward_source_looks_total branch,":             1,
		"sealward_source_failures branch,":                1,
		"sealward_source_lag_seconds ":                    0,
		"sealward_source_applied_info main," + head + ",": 1,
		"sealward_mirror_packs ":                          2,
		"sealward_secrets ,orders":                        2,
		"sealward_manifests_failing manifest,,orders":     1,
		"sealward_manifests_stale ,orders":                1,
		"sealward_removals_held ":                         0,
		"sealward_problems ":                              1,
		"sealward_workspaces_contested ":                  0,
		"sealward_apply_seconds ":                         2,
		"sealward_unseal_seconds ":                        4,
		"sealward_unseal_queue ":                          0,
		"sealward_unsealed_total ":                        4,
		"sealward_reused_total ":                          0,
		"sealward_audit_append_seconds ":                  2,
		"sealward_audit_failures_total ":                  1,
		"sealward_source_last_look_timestamp_seconds ":    float64(w.now.Unix()),
		"sealward_source_last_success_timestamp_seconds ": float64(w.now.Add(-time.Minute).Unix()),
		"sealward_source_applied_timestamp_seconds ":      float64(w.now.Add(-time.Minute).Unix()),
	} {
		if value, is := values[name]; !is || value != want {
			t.Errorf("%s: %v (there: %v), want %v", name, value, is, want)
		}
		delete(values, name)
	}
	for name := range values {
		t.Errorf("%s is seen by no test", name)
	}
}

// Whoever may push decides how many workspaces there are, not how many series.
func TestMetricsAreBounded(t *testing.T) {
	live := &unseal.Live{}
	m := gitops.NewMetrics(live, time.Now, "v0")
	scopes := map[manifest.Workspace]*unseal.Scope{}
	for i := range 1500 {
		ws, err := manifest.ParseWorkspace(fmt.Sprintf("w%d", i))
		must(t, err)
		scopes[ws] = unseal.NewScope(ws, nil)
	}
	live.Publish(unseal.Snapshot{}.WithScopes(scopes))
	n, err := testutil.GatherAndCount(m.Registry(), "sealward_secrets")
	must(t, err)
	if n != 1001 {
		t.Errorf("%d series", n)
	}
}
