package gitops

import (
	"context"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal"
)

// A sync that is ended takes only its own manifests out of the queue, which several
// sources share.
func TestQueueOfASyncThatIsEnded(t *testing.T) {
	ws, err := manifest.ParseWorkspace("orders")
	if err != nil {
		t.Fatal(err)
	}
	m := NewMetrics(&unseal.Live{}, time.Now, "v0")
	m.queued(3) // of another source
	c := &change{
		a:    &Agent{Config: Config{Metrics: m}, rings: map[manifest.Workspace]ringState{ws: {}}},
		open: map[string]*unseal.Record{"a": {Path: "a", Place: manifest.Place{Scope: ws}}, "b": {Path: "b", Place: manifest.Place{Scope: ws}}},
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := c.unseal(ended, [20]byte{}); err == nil {
		t.Fatal("the sync was ended")
	}
	if n := testutil.ToFloat64(m.queue); n != 3 {
		t.Errorf("%v manifests wait, want 3", n)
	}
}
