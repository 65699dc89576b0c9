package serve_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/access"
	"github.com/sealward/sealward/unseal/audit"
	"github.com/sealward/sealward/unseal/serve"
)

// audited makes the bench write a real log, which is rotated often.
func (b *bench) audited(path string) *audit.Log {
	b.t.Helper()
	log, err := audit.Open(path, audit.Options{MaxSize: 16 << 10})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = log.Close() })
	tokens, err := serve.OpenTokens(b.tokens, logged.To(&b.log))
	if err != nil {
		b.t.Fatal(err)
	}
	b.http = serve.New(serve.Config{Live: b.live, Audit: log, Tokens: tokens, Now: func() time.Time { return b.now }, Log: logged.To(&b.log), Limits: serve.Limits{PerIdentity: 1e6, Denials: 1e6}})
	return log
}

// verified counts the records of a log that must be intact.
func verified(t *testing.T, path, head string) (reads int) {
	t.Helper()
	files, err := audit.OpenFiles(path)
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	_, err = audit.Walk(files, audit.VerifyOptions{Head: head}, func(_ uint64, r audit.Record) error {
		if r.Event == audit.Read && r.Status == 200 {
			reads++
		}
		return nil
	})
	if err != nil {
		t.Errorf("the chain does not verify: %v", err)
	}
	return reads
}

// The log is deleted, and replaced, under readers: each value that leaves is in the log
// that is found afterwards.
func TestAuditTakenAway(t *testing.T) {
	b := newBench(t)
	b.publish()
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	log := b.audited(path)
	var served, refused atomic.Int64
	get := func() int {
		w := b.get(base+"/db/keys/password", "alice")
		leaked := strings.Contains(w.Body.String(), "hunter2")
		switch {
		case w.Code == 200 && leaked:
			served.Add(1)
		case w.Code == 503 && !leaked && strings.Contains(w.Body.String(), "audit-unavailable"):
			refused.Add(1)
		default:
			t.Errorf("%d %s", w.Code, w.Body)
		}
		return w.Code
	}
	for _, take := range []func() error{
		func() error { return os.Remove(path) },
		func() error { return os.Rename(path, path+".mine") },
		func() error { _ = os.Remove(path); return os.WriteFile(path, []byte("another\n"), 0o600) },
	} {
		if get() != 200 {
			t.Error("refused before anything happened")
		}
		if err := take(); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 10 {
					get()
				}
			})
		}
		wg.Wait()
		if get() != 200 {
			t.Error("still refused")
		}
	}
	if refused.Load() < 3 {
		t.Errorf("%d refused", refused.Load())
	}
	_ = log.Close()
	_, head := log.Head()
	if n := verified(t, path, head); n != int(served.Load()) {
		t.Errorf("%d values left, %d are recorded", served.Load(), n)
	}
}

// Of a secret in parts, the record has the blob of each part that was given.
func TestPartsAreRecorded(t *testing.T) {
	b := newBench(t)
	ws := mustParse(t, manifest.ParseWorkspace, "orders")
	records := map[string]*unseal.Record{}
	for i, part := range []string{"token", "webhook"} {
		path := "workspaces/orders/secrets/api/" + part + ".yaml"
		place, _, err := manifest.Locate(path)
		if err != nil {
			t.Fatal(err)
		}
		records[path] = &unseal.Record{Path: path, Place: place, Good: &unseal.Content{
			Provenance: unseal.Provenance{Path: path, Blob: strings.Repeat(fmt.Sprint(i+1), 40), Commit: commit},
			Kind:       manifest.KindSecret, Version: "v1", Type: manifest.KeyValue, ACL: manifest.Read, Values: []unseal.Value{{Key: part, Data: []byte("hunter2")}},
		}}
	}
	m, err := manifest.Parse("g.yaml", []byte("name: g\nversion: v1alpha\ntype: grant\nworkspace: orders\ngrant: {subjects: [users:id:alice], policy_use_case_id: read-all-secrets, effect: allow}\n"))
	if err != nil {
		t.Fatal(err)
	}
	policy := access.New(map[manifest.Workspace]*access.Scope{ws: access.CompileScope(ws, []access.File{{Path: "workspaces/orders/grants/g.yaml", Manifest: m}})})
	b.live.Publish(unseal.Snapshot{Commit: commit, Policy: policy, MaxStale: time.Hour}.WithScopes(map[manifest.Workspace]*unseal.Scope{ws: unseal.NewScope(ws, records)}))
	ask := func(path string) audit.Record {
		t.Helper()
		if w := b.get(base+path, "alice"); w.Code != 200 {
			t.Fatalf("%s: %d %s", path, w.Code, w.Body)
		}
		return b.audit.take()[0]
	}
	whole := ask("/api")
	if !maps.Equal(whole.Parts, map[string]string{"token.yaml": strings.Repeat("1", 40), "webhook.yaml": strings.Repeat("2", 40)}) || whole.Path != "workspaces/orders/secrets/api" || whole.Blob != "" {
		t.Errorf("%+v", whole)
	}
	one := ask("/api/keys/webhook")
	if one.Parts != nil || one.Path != "workspaces/orders/secrets/api/webhook.yaml" || one.Blob != strings.Repeat("2", 40) {
		t.Errorf("%+v", one)
	}
	// The reason of a list names the grant too.
	if list := ask(""); list.Grant != "workspaces/orders/grants/g.yaml" || list.Reason != "granted" || list.Commit != commit {
		t.Errorf("%+v", list)
	}
	// A name that is none is told from one without a grant in the record alone.
	bad, none := b.get(base+"/api/keys/%2e%2e", "alice"), b.get(base+"/api", "eve")
	recs := b.audit.take()
	if bad.Code != 403 || bad.Body.String() != none.Body.String() || recs[0].Reason != "invalid-name" || recs[1].Reason != "no-grant" {
		t.Errorf("%d %s, recorded %+v", bad.Code, bad.Body, recs)
	}
	b.do("HEAD", "/metrics", "eve")
	if rec := b.audit.take(); rec[0].Reason != "no-grant" {
		t.Errorf("%+v", rec)
	}
}
