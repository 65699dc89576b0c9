package gitops

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sealward/sealward/unseal"
)

// maxLabelled bounds the workspaces that metrics name: whoever may push decides how
// many there are. Those beyond it are summed up.
const maxLabelled = 1000

const otherWorkspaces = "(other)"

// Metrics of a service, for Prometheus. What can be read off the published
// snapshots is read when it is asked for; the rest is observed.
type Metrics struct {
	registry *prometheus.Registry
	live     *unseal.Live
	now      func() time.Time

	looks    *prometheus.CounterVec
	applies  prometheus.Histogram
	unseals  prometheus.Histogram
	queue    prometheus.Gauge
	unsealed prometheus.Counter
	reused   prometheus.Counter
	appends  prometheus.Histogram
	refused  prometheus.Counter
}

// NewMetrics makes a registry of its own.
func NewMetrics(live *unseal.Live, now func() time.Time, version string) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), live: live, now: now}
	m.looks = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sealward_source_looks_total", Help: "Looks at a remote, by what came of them (ok, or the class of the failure)."}, []string{"source", "result"})
	m.applies = prometheus.NewHistogram(prometheus.HistogramOpts{Name: "sealward_apply_seconds", Help: "Applying a commit: comparing, unsealing, making it durable, publishing.", Buckets: prometheus.ExponentialBuckets(0.001, 4, 9)})
	m.unseals = prometheus.NewHistogram(prometheus.HistogramOpts{Name: "sealward_unseal_seconds", Help: "Reading and unsealing one manifest.", Buckets: prometheus.ExponentialBuckets(0.0001, 4, 8)})
	m.queue = prometheus.NewGauge(prometheus.GaugeOpts{Name: "sealward_unseal_queue", Help: "Manifests that wait to be unsealed."})
	m.unsealed = prometheus.NewCounter(prometheus.CounterOpts{Name: "sealward_unsealed_total", Help: "Manifests that were unsealed, or refused."})
	m.reused = prometheus.NewCounter(prometheus.CounterOpts{Name: "sealward_reused_total", Help: "Manifests that were not unsealed again, because their content was known."})
	m.appends = prometheus.NewHistogram(prometheus.HistogramOpts{Name: "sealward_audit_append_seconds", Help: "Making a record of the audit durable, which an answer waits for.", Buckets: prometheus.ExponentialBuckets(0.0001, 4, 8)})
	m.refused = prometheus.NewCounter(prometheus.CounterOpts{Name: "sealward_audit_failures_total", Help: "Records that could not be written, so that nothing was served."})
	info := prometheus.NewGauge(prometheus.GaugeOpts{Name: "sealward_build_info", Help: "1, with the version as a label.", ConstLabels: prometheus.Labels{"version": version}})
	info.Set(1)
	m.registry.MustRegister(m.looks, m.applies, m.unseals, m.queue, m.unsealed, m.reused, m.appends, m.refused, info, m,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Registry holds all of them.
func (m *Metrics) Registry() *prometheus.Registry { return m.registry }

// Handler answers a scrape.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// Audited notes one record of the audit: how long it took to be durable.
func (m *Metrics) Audited(took time.Duration, err error) {
	if m == nil {
		return
	}
	m.appends.Observe(took.Seconds())
	if err != nil {
		m.refused.Inc()
	}
}

func (m *Metrics) looked(source string, class unseal.SyncClass) {
	if m != nil {
		result := string(class)
		if class == unseal.SyncOK {
			result = "ok"
		}
		m.looks.WithLabelValues(source, result).Inc()
	}
}

func (m *Metrics) applied(took time.Duration, unsealed, reused int64) {
	if m != nil {
		m.applies.Observe(took.Seconds())
		m.unsealed.Add(float64(unsealed))
		m.reused.Add(float64(reused))
	}
}

func (m *Metrics) queued(n int) {
	if m != nil {
		m.queue.Add(float64(n))
	}
}

func (m *Metrics) opened(took time.Duration) {
	if m != nil {
		m.queue.Dec()
		m.unseals.Observe(took.Seconds())
	}
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("sealward_"+name, help, labels, nil)
}

// sourceMetrics are read off what is published.
type sourceMetrics struct {
	lastLook, lastSuccess, lag, failures, applied, appliedAt, packs *prometheus.Desc
	secrets, failing, stale, held, problems, contested              *prometheus.Desc
}

func describeSources() sourceMetrics {
	return sourceMetrics{
		lastLook:    desc("source_last_look_timestamp_seconds", "When the remote was last asked.", "source"),
		lastSuccess: desc("source_last_success_timestamp_seconds", "When the remote last answered and its head was applied.", "source"),
		lag:         desc("source_lag_seconds", "How long a head that is not applied has been known; 0 when the head is applied.", "source"),
		failures:    desc("source_failures", "Looks that failed in a row, with the class of the last failure.", "source", "class"),
		applied:     desc("source_applied_info", "1, with the applied commit as a label.", "source", "branch", "commit"),
		appliedAt:   desc("source_applied_timestamp_seconds", "When the served commit was applied.", "source"),
		packs:       desc("mirror_packs", "Pack files of the mirror; each fetch adds one.", "source"),
		secrets:     desc("secrets", "Secrets with a content to serve.", "source", "workspace"),
		failing:     desc("manifests_failing", "Manifests that are not served as committed, by reason.", "source", "workspace", "class"),
		stale:       desc("manifests_stale", "Failing manifests whose last good content is served.", "source", "workspace"),
		held:        desc("removals_held", "Removed files that stay served until the operator's word.", "source"),
		problems:    desc("problems", "Files that were refused and belong to no secret.", "source"),
		contested:   desc("workspaces_contested", "Workspaces that several sources claim, which are refused for all."),
	}
}

// Describe sends the descriptions of what Collect sends.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	d := describeSources()
	for _, one := range []*prometheus.Desc{d.lastLook, d.lastSuccess, d.lag, d.failures, d.applied, d.appliedAt, d.packs, d.secrets, d.failing, d.stale, d.held, d.problems, d.contested} {
		ch <- one
	}
}

// Collect reads the published state.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	d := describeSources()
	gauge := func(of *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(of, prometheus.GaugeValue, v, labels...)
	}
	for _, s := range m.live.Syncs() {
		gauge(d.lastLook, unixSeconds(s.LastLook), s.Source)
		gauge(d.lastSuccess, unixSeconds(s.LastSuccess), s.Source)
		lag := time.Duration(0)
		if !s.BehindSince.IsZero() {
			lag = max(0, m.now().Sub(s.BehindSince))
		}
		gauge(d.lag, lag.Seconds(), s.Source)
		gauge(d.failures, float64(s.Failures), s.Source, string(s.Class))
		gauge(d.packs, float64(s.Packs), s.Source)
	}
	view := m.live.View()
	gauge(d.contested, float64(len(view.AllContested())))
	for _, s := range view.Snapshots() {
		gauge(d.applied, 1, s.Source, s.Branch, s.Commit)
		gauge(d.appliedAt, unixSeconds(s.Applied), s.Source)
		gauge(d.held, float64(len(s.Held())), s.Source)
		gauge(d.problems, float64(len(s.Problems)), s.Source)
		m.workspaces(d, s, gauge)
	}
}

func (m *Metrics) workspaces(d sourceMetrics, s *unseal.Snapshot, gauge func(*prometheus.Desc, float64, ...string)) {
	scopes := s.Scopes()
	var names []string
	for ws := range scopes {
		names = append(names, ws.String())
	}
	slices.SortFunc(names, strings.Compare)
	label := func(ws string) string {
		if i, found := slices.BinarySearch(names, ws); found && i < maxLabelled {
			return ws
		}
		return otherWorkspaces
	}
	type reason struct{ ws, class string }
	secrets, stale, failing := map[string]float64{}, map[string]float64{}, map[reason]float64{}
	for ws, scope := range scopes {
		secrets[label(ws.String())] += float64(scope.Count())
		stale[label(ws.String())] += 0
	}
	for _, r := range s.Failing() {
		ws := label(r.Place.Scope.String())
		failing[reason{ws, string(r.Failure.Class)}]++
		if r.Stale() {
			stale[ws]++
		}
	}
	for ws, n := range secrets {
		gauge(d.secrets, n, s.Source, ws)
	}
	for ws, n := range stale {
		gauge(d.stale, n, s.Source, ws)
	}
	for of, n := range failing {
		gauge(d.failing, n, s.Source, of.ws, of.class)
	}
}

func unixSeconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}
