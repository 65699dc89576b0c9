package kubernetes

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sealward/sealward/unseal/serve"
)

// maxShown bounds the problems in /v1/status.
const maxShown = 100

// Status is of gitops.Beside.
func (p *Projector) Status() *serve.ClusterJSON {
	report := p.engine.Report()
	p.mu.Lock()
	defer p.mu.Unlock()
	out := &serve.ClusterJSON{Namespace: p.cfg.Namespace, Identity: p.cfg.Identity, Leader: cut(p.lease.Leader(), 320), Leading: p.leading && p.lease.MayWrite() == nil,
		SkewSeconds: p.clock.skew().Seconds(), Problems: []serve.ClusterProblemJSON{}, Commits: map[string]string{}}
	for repository := range p.repositories.byName {
		if commit := p.lease.Marked(repository); commit != "" {
			out.Commits[repository] = fmt.Sprintf("%.40s", printable(commit))
		}
	}
	for _, why := range p.waiting {
		out.Waiting = why
	}
	problems := report.Problems
	if !out.Leading { // what it last knew as leader is no longer so
		report, problems, out.Waiting = Report{Ready: map[Kind]int{}}, nil, ""
		if p.plan != nil {
			problems = p.plan.Problems
		}
	}
	out.Synced, out.Pending = report.Synced.UTC(), report.Pending
	for _, n := range report.Held {
		out.Held += n
	}
	for _, kind := range kinds {
		out.Objects = append(out.Objects, serve.ClusterCountJSON{Kind: string(kind), Desired: p.desired[kind], Ready: report.Ready[kind]})
	}
	out.ProblemCount = len(problems)
	for _, problem := range problems[:min(len(problems), maxShown)] {
		out.Problems = append(out.Problems, serve.ClusterProblemJSON{
			Kind: string(problem.Key.Kind), Namespace: problem.Key.Namespace, Name: problem.Key.Name,
			Repository: problem.Origin.Repository, Workspace: problem.Origin.Workspace.String(), Secret: problem.Origin.Secret.String(), Grant: problem.Origin.Grant,
			Reason: string(problem.Reason), Message: problem.Message, Remedy: problem.Reason.Remedy(), Since: problem.Since.UTC(), Next: problem.Next.UTC(),
		})
	}
	return out
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("sealward_cluster_"+name, help, labels, nil)
}

type descriptions struct{ leading, desired, ready, problems, held, pending, synced, skew *prometheus.Desc }

func described() descriptions {
	return descriptions{
		leading:  describe("leading", "1 on the replica that writes to the cluster, 0 on the others."),
		desired:  describe("objects_desired", "Objects that should stand in the cluster. Of the replica that leads, as are the next five.", "kind"),
		ready:    describe("objects_ready", "Objects that stand as planned.", "kind"),
		problems: describe("problems", "What does not stand in the cluster as it should, by reason.", "reason"),
		held:     describe("removals_held", "Objects whose removal waits for the operator's word."),
		pending:  describe("objects_pending", "Objects that were not looked at yet since the newest plan."),
		synced:   describe("synced_timestamp_seconds", "When everything last stood as planned."),
		skew:     describe("clock_skew_seconds", "How far this machine's clock is ahead of the API server's, where that is too much; else 0."),
	}
}

// Describe is of prometheus.Collector.
func (p *Projector) Describe(ch chan<- *prometheus.Desc) {
	d := described()
	for _, one := range []*prometheus.Desc{d.leading, d.desired, d.ready, d.problems, d.held, d.pending, d.synced, d.skew} {
		ch <- one
	}
	p.writes.total.Describe(ch)
}

// Collect is of prometheus.Collector.
func (p *Projector) Collect(ch chan<- prometheus.Metric) {
	d := described()
	gauge := func(of *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(of, prometheus.GaugeValue, v, labels...)
	}
	p.writes.total.Collect(ch)
	gauge(d.skew, p.clock.skew().Seconds())
	p.mu.Lock()
	leading, desired := p.leading && p.lease.MayWrite() == nil, p.desired
	p.mu.Unlock()
	if !leading {
		gauge(d.leading, 0)
		return
	}
	gauge(d.leading, 1)
	report := p.engine.Report()
	for _, kind := range kinds {
		gauge(d.desired, float64(desired[kind]), string(kind))
		gauge(d.ready, float64(report.Ready[kind]), string(kind))
	}
	byReason := map[Reason]float64{}
	for _, problem := range report.Problems {
		byReason[problem.Reason]++
	}
	for reason, n := range byReason {
		gauge(d.problems, n, string(reason))
	}
	held := 0
	for _, n := range report.Held {
		held += n
	}
	gauge(d.held, float64(held))
	gauge(d.pending, float64(report.Pending))
	synced := 0.0
	if !report.Synced.IsZero() {
		synced = float64(report.Synced.UnixMilli()) / 1000
	}
	gauge(d.synced, synced)
}

// writes counts requests that change something, by what they are about and what came of
// them.
type writes struct {
	total *prometheus.CounterVec
}

func newWrites() *writes {
	return &writes{total: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sealward_cluster_writes_total", Help: "Requests to the API server that change something, by resource, verb and result."}, []string{"resource", "verb", "result"})}
}

func (w *writes) count(next http.RoundTripper) http.RoundTripper { return counted{w, next} }

type counted struct {
	writes *writes
	next   http.RoundTripper
}

func (c counted) RoundTrip(r *http.Request) (*http.Response, error) {
	verb := map[string]string{http.MethodPost: "create", http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete"}[r.Method]
	resp, err := c.next.RoundTrip(r)
	if verb != "" {
		result := "failed"
		switch {
		case err != nil:
		case resp.StatusCode < 300:
			result = "ok"
		case resp.StatusCode == http.StatusConflict:
			result = "conflict"
		case resp.StatusCode == http.StatusTooManyRequests:
			result = "throttled"
		case resp.StatusCode < 500:
			result = "refused"
		}
		c.writes.total.WithLabelValues(resourceOf(r.URL.Path), verb, result).Inc()
	}
	return resp, err
}

// resourceOf finds the resource in the path of a request; the set is closed.
func resourceOf(path string) string {
	parts := strings.Split(path, "/")
	if i := slices.Index(parts, "namespaces"); i >= 0 && i+2 < len(parts) {
		if r := parts[i+2]; slices.Contains([]string{"secrets", "roles", "rolebindings", "sealedrepositories", "events"}, r) {
			return r
		}
	}
	return "other"
}
