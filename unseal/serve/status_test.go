package serve_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/serve"
)

// What waits, what is contested and what is refused, as an operator sees it and as
// others do.
func TestStatusOfWhatIsNotWell(t *testing.T) {
	b := newBench(t)
	b.publish()
	ws := mustParse(t, manifest.ParseWorkspace, "orders")
	snap := b.live.Current("")
	scopes := snap.Scopes()
	for _, r := range scopes[ws].Records() {
		r.Held = &unseal.Held{Commit: commit, Since: b.now}
	}
	scopes[ws] = unseal.NewScope(ws, scopes[ws].Records())
	b.live.Publish(snap.WithScopes(scopes))
	refused := strings.Repeat("b", 40)
	b.live.SetSync(unseal.Sync{URL: "https://git.example.com/s.git", Branch: "main", Head: refused, Refused: refused, BehindSince: b.now.Add(-time.Minute),
		LastLook: b.now, LastSuccess: b.now.Add(-time.Hour), Error: "the branch was rewound", Class: unseal.SyncRewound, Failures: 3, Packs: 7})
	status := func(who string) (s serve.StatusJSON) {
		t.Helper()
		if err := json.Unmarshal(b.get("/v1/status", who).Body.Bytes(), &s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	for who, shown := range map[string]int{"ops": 2, "alice": 1, "eve": 0} {
		s := status(who)
		if len(s.Held) != 1 || s.Held[0].Count != 2 || s.Held[0].Commit != commit || len(s.Held[0].Paths) != shown || s.Counts.Held != 2 {
			t.Errorf("%s: held %+v", who, s.Held)
		}
	}
	if src := status("ops").Sources[0]; src.URL != "https://git.example.com/s.git" || src.Sync.Refused != refused || src.Sync.Class != "rewound" ||
		src.Sync.LagSeconds != 60 || src.Sync.Packs != 7 || src.Sync.Failures != 3 || src.Sync.Head != refused || !src.Sync.LastLook.Equal(b.now) || src.Secrets != 2 {
		t.Errorf("%+v", src)
	}
	// A second source that claims the workspace: nobody reads it.
	other := *b.live.Current("")
	other.Source = "shop"
	b.live.Publish(&other)
	if s := status("ops"); len(s.Contested) != 1 || s.Contested[0].Workspace != "orders" || len(s.Contested[0].Sources) != 2 {
		t.Errorf("contested: %+v", s.Contested)
	}
	if s := status("eve"); len(s.Contested) != 0 || s.Counts.Contested != 1 {
		t.Errorf("eve sees %+v", s.Contested)
	}
	if w := b.get(base+"/db/keys/password", "alice"); w.Code != 403 || !strings.Contains(w.Body.String(), "contested") || strings.Contains(w.Body.String(), "hunter2") {
		t.Errorf("a contested workspace: %d %s", w.Code, w.Body)
	}
	if w := b.get("/v1/workspaces/nobodys/secrets/db", "alice"); w.Code != 403 || !strings.Contains(w.Body.String(), "denied") {
		t.Errorf("a workspace of no source: %d %s", w.Code, w.Body)
	}
}
