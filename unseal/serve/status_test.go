package serve_test

import (
	"encoding/json"
	"maps"
	"net/http/httptest"
	"os"
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
	b.cluster = func() *serve.ClusterJSON {
		return &serve.ClusterJSON{Namespace: "sealward", Identity: "sealward-0_1", Leader: "sealward-0_1", Leading: true, Commits: map[string]string{"sealward": commit}, Waiting: "an older commit", Synced: b.now, Pending: 1,
			Objects: []serve.ClusterCountJSON{{Kind: "Secret", Desired: 2, Ready: 1}}, Held: 1, SkewSeconds: 9, ProblemCount: 1,
			Problems: []serve.ClusterProblemJSON{{Kind: "Secret", Namespace: "orders", Name: "db", Repository: "sealward", Workspace: "orders", Secret: "db", Grant: "g", Reason: "NotOurs", Message: "somebody else's", Remedy: "rename it", Since: b.now, Next: b.now}}}
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
		case v.Kind() == reflect.Pointer && !v.IsNil():
			look(path, v.Elem())
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

// How a cluster stands tells names of all workspaces: it is for operators and monitors.
func TestClusterIsForOperators(t *testing.T) {
	b := newBench(t)
	b.cluster = func() *serve.ClusterJSON { return &serve.ClusterJSON{Leader: "sealward-0_1"} }
	b.serve()
	b.publish()
	for who, shown := range map[string]bool{"ops": true, "alice": false, "eve": false} {
		if body := b.get("/v1/status", who).Body.String(); strings.Contains(body, "sealward-0_1") != shown {
			t.Errorf("%s gets %s", who, body)
		}
	}
}

// Others are told of a hook and of an operator's request, but not of a reader who waits:
// whoever reads must not cause writes elsewhere.
func TestWhoIsToldOfALook(t *testing.T) {
	b := newBench(t)
	b.publish()
	b.get(base+"/db?not-before="+strings.Repeat("e", 40)+"&wait=10ms", "alice")
	if n := b.looked.Load(); n != 0 {
		t.Errorf("a reader has others told %d times", n)
	}
	call := func(path, body string, header ...string) int {
		t.Helper()
		r := httptest.NewRequest("POST", path, strings.NewReader(body))
		r.Header.Set(header[0], header[1])
		w := httptest.NewRecorder()
		b.http.ServeHTTP(w, r)
		return w.Code
	}
	if err := os.WriteFile(b.hookSecret, []byte(hookSecret), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct {
		path, body, header, value string
		code                      int
		told                      int64
	}{
		{"/v1/sync", "", "Authorization", "Bearer " + b.bearer["ops"], 202, 1},
		{"/v1/sync", "", "Authorization", "Bearer " + b.bearer["alice"], 403, 1},
		{"/hooks/generic", "x", "X-Signature", "sha256=" + hmacOf(hookSecret, "x"), 202, 2},
		{"/hooks/generic", "x", "X-Signature", "sha256=" + hmacOf(hookSecret, "y"), 401, 2},
	} {
		if code := call(c.path, c.body, c.header, c.value); code != c.code || b.looked.Load() != c.told {
			t.Errorf("%d: %s: %d, told %d times", i, c.path, code, b.looked.Load())
		}
	}
}
