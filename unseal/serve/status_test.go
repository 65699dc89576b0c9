package serve_test

import (
	"encoding/json"
	"maps"
	"reflect"
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

// Every field of the status is there to be seen: none is empty where all that can be
// told is so.
func TestEveryStatusField(t *testing.T) {
	b := newBench(t)
	b.publish()
	b.get(base+"/db", "alice") // so that the audit has a head
	ws := mustParse(t, manifest.ParseWorkspace, "orders")
	snap := *b.live.Current("")
	b.live = &unseal.Live{}
	records := maps.Clone(snap.Scopes()[ws].Records())
	for path, r := range records {
		changed := *r
		changed.Held = &unseal.Held{Commit: commit, Since: b.now}
		changed.Failure = &unseal.Failure{Since: b.now, Class: unseal.FailTampered, Message: path + ": is not as it was sealed"}
		records[path] = &changed
	}
	snap.Problems = []unseal.Problem{{Path: "workspaces/orders/grants/x.yaml", Class: unseal.FailManifest, Message: "is no grant", Closes: "orders"}}
	snap.Applied = b.now
	for _, source := range []string{"platform", "shop"} {
		s := snap
		s.Source = source
		b.live.Publish(s.WithScopes(map[manifest.Workspace]*unseal.Scope{ws: unseal.NewScope(ws, records)}))
		b.live.SetSync(unseal.Sync{Source: source, URL: "https://git.example.com/s.git", Branch: "main", Head: commit, Refused: commit, BehindSince: b.now.Add(-time.Minute),
			LastLook: b.now, LastSuccess: b.now, Error: "the branch was rewound", Class: unseal.SyncRewound, Failures: 3, Packs: 7})
	}
	b.serve()
	var s serve.StatusJSON
	answer := b.get("/v1/status", "ops")
	if err := json.Unmarshal(answer.Body.Bytes(), &s); err != nil {
		t.Fatal(err)
	}
	var look func(path string, v reflect.Value)
	look = func(path string, v reflect.Value) {
		switch {
		case v.IsZero() || v.Kind() == reflect.Slice && v.Len() == 0:
			t.Errorf("%s is empty in %s", path, answer.Body)
		case v.Kind() == reflect.Slice:
			for i := range v.Len() {
				look(path+"[]", v.Index(i))
			}
		case v.Kind() == reflect.Struct && v.Type() != reflect.TypeFor[time.Time]():
			for i := range v.NumField() {
				look(path+"."+v.Type().Field(i).Tag.Get("json"), v.Field(i))
			}
		}
	}
	look("status", reflect.ValueOf(s))
}
