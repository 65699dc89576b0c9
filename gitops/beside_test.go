package gitops_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sealward/sealward/gitops"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/audit"
	"github.com/sealward/sealward/unseal/serve"
)

// beside records what the agent tells it.
type beside struct {
	prometheus.Collector
	run func(context.Context, gitops.Host)

	mu       sync.Mutex
	looked   int
	approved []string
	waits    string
}

func newBeside(run func(context.Context, gitops.Host)) *beside {
	return &beside{Collector: prometheus.NewGauge(prometheus.GaugeOpts{Name: "sealward_beside", Help: "x"}), run: run}
}

func (b *beside) Run(ctx context.Context, host gitops.Host) { b.run(ctx, host) }
func (b *beside) Status() *serve.ClusterJSON                { return &serve.ClusterJSON{Leader: "x"} }

func (b *beside) Looked() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.looked++
}

func (b *beside) Waits(commit string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.waits == commit
}

func (b *beside) Approve(commit string, here bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waits != commit && !here {
		return unseal.ErrNothingWaits
	}
	b.approved = append(b.approved, fmt.Sprint(commit, " ", here))
	return nil
}

// What is beside gets what is served, may have remotes looked at, and records what leaves
// in the agent's audit, which ends after it.
func TestBeside(t *testing.T) {
	w := newWorld(t)
	w.write("workspaces/orders/secrets/db.yaml", w.sealed("orders", "db", "password=hunter2"))
	first := w.commit("first")
	var host gitops.Host
	started, stopped := make(chan struct{}), make(chan struct{})
	b := newBeside(func(ctx context.Context, h gitops.Host) {
		host = h
		close(started)
		<-ctx.Done()
		defer close(stopped)
		if err := h.Record(context.WithoutCancel(ctx), []audit.Record{{Event: audit.Project, Decision: audit.Allow, Workspace: "orders", Name: "db", Target: "orders/db"}}); err != nil {
			t.Error(err)
		}
	})
	looks := make(chan os.Signal, 1)
	r := w.runWith(func(s *gitops.Service) { s.Beside, s.Looks = b, looks })
	<-started
	r.until("msg=applied", first)
	if s := host.Live.View().Of(scopeOf(t, "orders")); s == nil || s.Commit != first {
		t.Errorf("%+v", s)
	}
	looks <- syscall.SIGHUP
	eventually(t, func() bool { b.mu.Lock(); defer b.mu.Unlock(); return b.looked == 1 })
	host.Look("") // tells nobody
	host.Look("no such source")
	w.write("workspaces/orders/secrets/db.yaml", w.sealed("orders", "db", "password=hunter3"))
	second := w.commit("second")
	r.until("msg=applied", second)
	if is, err := host.Contains(t.Context(), "", second, first); err != nil || !is {
		t.Errorf("%v %v", is, err)
	}
	if _, err := host.Contains(t.Context(), "", second, strings.Repeat("e", 40)); !errors.Is(err, unseal.ErrUnknownCommit) {
		t.Errorf("%v", err)
	}

	// The operator's word goes both ways.
	if err := r.Approve(second); !errors.Is(err, unseal.ErrNothingWaits) || r.Waits(second) {
		t.Errorf("nothing waits: %v", err)
	}
	b.waits = second
	if err := r.Approve(second); err != nil || !r.Waits(second) {
		t.Errorf("%v", err)
	}
	b.mu.Lock()
	if got := strings.Join(b.approved, ","); got != second+" false" || b.looked != 1 {
		t.Errorf("%s, looked %d", got, b.looked)
	}
	b.mu.Unlock()
	r.end()
	r.until("msg=stopped")
	must(t, <-r.ended)
	<-stopped
	text, err := os.ReadFile(filepath.Join(w.dir, "state", "audit.jsonl"))
	must(t, err)
	if !strings.Contains(string(text), `"event":"project"`) {
		t.Errorf("%s", text)
	}
}

// Its panic ends nothing else, and its text, which could be a value, is not repeated.
func TestBesidePanics(t *testing.T) {
	w := newWorld(t)
	w.write("workspaces/orders/secrets/db.yaml", w.sealed("orders", "db", "password=hunter2"))
	commit := w.commit("first")
	panicked := make(chan struct{})
	r := w.runWith(func(s *gitops.Service) {
		s.Beside = newBeside(func(context.Context, gitops.Host) { close(panicked); panic("hunter2") })
	})
	<-panicked
	r.until("what runs beside the agent panicked; serving goes on without it, please report it", "type=string")
	w.write("workspaces/orders/secrets/api.yaml", w.sealed("orders", "api", "password=hunter2"))
	w.commit("second")
	r.until("msg=applied", "secrets=2")
	if strings.Contains(r.log.String(), "hunter2") {
		t.Error(r.log.String())
	}
	_ = commit
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not happen in 20 seconds")
		}
	}
}
