package serve_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
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

// recorder is an auditor whose disk the test can break.
type recorder struct {
	mu      sync.Mutex
	records []audit.Record
	unauth  map[string]int
	broken  bool
}

func (r *recorder) Append(_ context.Context, rec audit.Record) (audit.Record, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken {
		return audit.Record{}, errors.New("no space left on device")
	}
	r.records = append(r.records, rec)
	return rec, nil
}

func (r *recorder) Unauthenticated(reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.unauth == nil {
		r.unauth = map[string]int{}
	}
	r.unauth[reason]++
}

func (r *recorder) Head() (uint64, string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return uint64(len(r.records)), "head"
}

// take returns the records since the last call.
func (r *recorder) take() []audit.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.records
	r.records = nil
	return out
}

type bench struct {
	cluster func() *serve.ClusterJSON
	looked  atomic.Int64
	t       testing.TB
	now     time.Time
	live    *unseal.Live
	audit   *recorder
	log     bytes.Buffer
	tokens  string
	bearer  map[string]string
	http    http.Handler

	follower   follower
	hookSecret string
	stopping   chan struct{}
}

func mustParse[T any](t testing.TB, parse func(string) (T, error), s string) T {
	t.Helper()
	v, err := parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func newBench(t testing.TB) *bench {
	b := &bench{t: t, now: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC), live: &unseal.Live{}, audit: &recorder{}, bearer: map[string]string{}}
	b.tokens = filepath.Join(t.TempDir(), "tokens.yaml")
	for _, who := range []string{"alice", "lister", "eve", "ops"} {
		b.newToken(who, time.Hour)
	}
	b.hookSecret = filepath.Join(t.TempDir(), "hook")
	b.stopping = make(chan struct{})
	b.serve()
	return b
}

// serve makes the handler of what the bench holds now.
func (b *bench) serve() {
	b.t.Helper()
	tokens, err := serve.OpenTokens(b.tokens, logged.To(&b.log))
	if err != nil {
		b.t.Fatal(err)
	}
	b.http = serve.New(serve.Config{Live: b.live, Audit: b.audit, Tokens: tokens, Now: func() time.Time { return b.now }, Log: logged.To(&b.log),
		Cluster: b.cluster, Looked: func() { b.looked.Add(1) },
		Follower: &b.follower, HookSecretFile: b.hookSecret, Stopping: b.stopping, Version: "v0", Operators: []manifest.Subject{mustParse(b.t, manifest.ParseSubject, "users:id:ops")}})
}

func (b *bench) newToken(who string, ttl time.Duration) {
	b.t.Helper()
	bearer, entry, err := serve.NewToken(mustParse(b.t, manifest.ParseSubject, "users:id:"+who), nil, ttl, b.now)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := serve.AddToken(b.tokens, entry); err != nil {
		b.t.Fatal(err)
	}
	b.bearer[who] = bearer
}

const commit = "0123456789abcdef0123456789abcdef01234567"

// publish serves orders/db (password, user, and blob, which is binary) and
// orders/other, with grants for alice (db) and lister (list only).
func (b *bench) publish() {
	b.t.Helper()
	ws := mustParse(b.t, manifest.ParseWorkspace, "orders")
	records := map[string]*unseal.Record{}
	for name, values := range map[string][]unseal.Value{
		"db":    {{Key: "password", Data: []byte("hunter2<>&")}, {Key: "user", Data: []byte("o")}, {Key: "blob", Binary: true, Data: []byte{0xff, 0}}},
		"other": {{Key: "password", Data: []byte("hunter3")}},
	} {
		path := manifest.SecretPath(ws, mustParse(b.t, manifest.ParseName, name))
		place, _, err := manifest.Locate(path)
		if err != nil {
			b.t.Fatal(err)
		}
		records[path] = &unseal.Record{Path: path, Place: place, Blob: commit, Good: &unseal.Content{
			Provenance: unseal.Provenance{Path: path, Blob: commit, Commit: commit, Author: "dana\r\nX-Evil: 1 <d@example.com>", Time: b.now},
			Kind:       manifest.KindSecret, Version: "v1", Type: manifest.KeyValue, ACL: manifest.Read, Values: values,
		}}
	}
	var files []access.File
	for i, g := range []string{
		"subjects: [users:id:alice], policy_use_case_id: read-specific-secret, secrets: [db, ghost], effect: allow",
		"subjects: [users:id:lister], policy_use_case_id: list-secrets, effect: allow",
	} {
		m, err := manifest.Parse("g.yaml", fmt.Appendf(nil, "name: g%d\nversion: v1alpha\ntype: grant\nworkspace: orders\ngrant: {%s}\n", i, g))
		if err != nil {
			b.t.Fatal(err)
		}
		files = append(files, access.File{Path: fmt.Sprintf("workspaces/orders/grants/g%d.yaml", i), Manifest: m})
	}
	policy := access.New(map[manifest.Workspace]*access.Scope{ws: access.CompileScope(ws, files)})
	b.live.Publish(unseal.Snapshot{Commit: commit, Branch: "main", Policy: policy, MaxStale: time.Hour}.WithScopes(map[manifest.Workspace]*unseal.Scope{ws: unseal.NewScope(ws, records)}))
}

func (b *bench) do(method, path, who string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	if who != "" {
		bearer := b.bearer[who]
		if bearer == "" {
			bearer = who
		}
		r.Header.Set("Authorization", "Bearer "+bearer)
	}
	w := httptest.NewRecorder()
	b.http.ServeHTTP(w, r)
	return w
}

func (b *bench) get(path, who string) *httptest.ResponseRecorder { return b.do("GET", path, who) }

const base = "/v1/workspaces/orders/secrets"

func TestRead(t *testing.T) {
	b := newBench(t)
	b.publish()
	w := b.get(base+"/db/keys/password", "alice")
	if w.Code != 200 || w.Body.String() != "hunter2<>&" {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	for h, want := range map[string]string{"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Sealward-Generation": commit, "Sealward-Commit": commit, "Sealward-Path": "workspaces/orders/secrets/db.yaml", "Sealward-Author": "dana??X-Evil: 1 <d@example.com>"} {
		if got := w.Header().Get(h); got != want {
			t.Errorf("%s: %q, want %q", h, got, want)
		}
	}
	rec := b.audit.take()
	if len(rec) != 1 || rec[0].Decision != audit.Allow || rec[0].Status != 200 || rec[0].Grant != "workspaces/orders/grants/g0.yaml" || rec[0].Keys[0] != "password" || rec[0].Subject != "users:id:alice" {
		t.Errorf("audit %+v", rec)
	}
	w = b.get(base+"/db", "alice")
	var secret serve.SecretJSON
	if err := json.Unmarshal(w.Body.Bytes(), &secret); err != nil {
		t.Fatal(err)
	}
	if secret.Data["password"] != "hunter2<>&" || !bytes.Equal(secret.BinaryData["blob"], []byte{0xff, 0}) || len(secret.Provenance) != 1 {
		t.Errorf("%s", w.Body)
	}
	if rec := b.audit.take(); len(rec) != 1 || strings.Join(rec[0].Keys, ",") != "password,user,blob" {
		t.Errorf("audit %+v", rec)
	}
}

// What may not be read, what is not there and what cannot be are one answer.
func TestDeniedAndAbsentAnswerAlike(t *testing.T) {
	b := newBench(t)
	b.publish()
	want := b.get(base+"/other/keys/password", "alice")
	if want.Code != 403 || strings.Contains(want.Body.String(), "other") {
		t.Fatalf("%d %s", want.Code, want.Body)
	}
	for _, who := range []string{"alice", "eve", "lister"} {
		for _, path := range []string{
			base + "/other", base + "/other/keys/password", base + "/other/keys/nokey", base + "/none", base + "/none/keys/k",
			"/v1/workspaces/none/secrets/db", "/v1/workspaces/none/secrets/db/keys/k", "/v1/instance/secrets/db", "/v1/instance/secrets/db/keys/password",
			"/v1/workspaces/ORDERS/secrets/db", "/v1/workspaces/instance/secrets/db", base + "/DB", base + "/db%2f", base + "/db%00", base + "/*", base + "/d%3f",
			base + "/other/keys/%2e%2e", base + "/" + strings.Repeat("a", 2000), "/v1/workspaces/%6frders%20/secrets/db", base + "/ｄｂ",
		} {
			b.audit.take()
			got := b.get(path, who)
			if got.Code != want.Code || got.Body.String() != want.Body.String() || fmt.Sprint(got.Header()) != fmt.Sprint(want.Header()) {
				t.Errorf("%s as %s: %d %v %s", path, who, got.Code, got.Header(), got.Body)
			}
			if rec := b.audit.take(); len(rec) != 1 || rec[0].Decision != audit.Deny {
				t.Errorf("%s as %s: audit %+v", path, who, rec)
			}
		}
	}
	// Who may read the name is told that it is not there.
	for _, path := range []string{base + "/ghost", base + "/ghost/keys/k", base + "/db/keys/nokey"} {
		if got := b.get(path, "alice"); got.Code != 404 {
			t.Errorf("%s: %d", path, got.Code)
		}
	}
	for _, path := range []string{base, "/v1/workspaces/none/secrets", "/v1/instance/secrets", "/v1/workspaces/Bad/secrets"} {
		if got := b.get(path, "eve"); got.Code != 403 || got.Body.String() != want.Body.String() {
			t.Errorf("list %s: %d %s", path, got.Code, got.Body)
		}
	}
}

func TestListShowsNoValues(t *testing.T) {
	b := newBench(t)
	b.publish()
	for who, names := range map[string]string{"alice": "db", "lister": "db other"} {
		w := b.get(base, who)
		var list serve.ListJSON
		if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range list.Secrets {
			got = append(got, s.Name)
		}
		if strings.Join(got, " ") != names || strings.Contains(w.Body.String(), "hunter") || strings.Contains(w.Body.String(), "password") {
			t.Errorf("%s sees %s", who, w.Body)
		}
	}
}

func TestWithoutIdentity(t *testing.T) {
	b := newBench(t)
	b.publish()
	b.newToken("late", time.Nanosecond)
	b.now = b.now.Add(time.Minute)
	good := b.bearer["alice"]
	cases := map[string]string{
		"": audit.NoCredential, "x": audit.Malformed, strings.Repeat("a", 5000): audit.Malformed, good + "x": audit.UnknownToken, good[:len(good)-1]: audit.UnknownToken,
		strings.Replace(good, "swt1_", "swt2_", 1): audit.Malformed, "swt1_ffffffffffffffff_" + good[22:]: audit.UnknownToken, b.bearer["late"]: audit.Expired, "swt1__": audit.UnknownToken,
	}
	for bearer, reason := range cases {
		b.audit.unauth = nil
		w := b.get(base+"/db/keys/password", bearer)
		if w.Code != 401 || w.Header().Get("WWW-Authenticate") == "" || strings.Contains(w.Body.String(), "hunter") {
			t.Errorf("%.30q: %d %s", bearer, w.Code, w.Body)
		}
		if b.audit.unauth[reason] != 1 {
			t.Errorf("%.30q: audited as %v, want %s", bearer, b.audit.unauth, reason)
		}
	}
	if rec := b.audit.take(); len(rec) != 0 {
		t.Errorf("single records for callers without identity: %+v", rec)
	}
	// Basic credentials and two headers are no bearer token.
	r := httptest.NewRequest("GET", base+"/db", nil)
	r.SetBasicAuth("alice", good)
	w := httptest.NewRecorder()
	b.http.ServeHTTP(w, r)
	if w.Code != 401 {
		t.Errorf("basic: %d", w.Code)
	}
}

// No record, no value: the audit's disk is full, and later not.
func TestNothingLeavesWithoutARecord(t *testing.T) {
	b := newBench(t)
	b.publish()
	b.audit.broken = true
	for _, path := range []string{base + "/db", base + "/db/keys/password", base, base + "/none", base + "/ghost"} {
		w := b.get(path, "alice")
		if w.Code != 503 || strings.Contains(w.Body.String(), "hunter") || !strings.Contains(w.Body.String(), "audit-unavailable") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	b.audit.broken = false
	if w := b.get(base+"/db", "alice"); w.Code != 200 {
		t.Errorf("after space returned: %d", w.Code)
	}
	if strings.Contains(b.log.String(), "hunter") {
		t.Error("the log holds a value")
	}
}

func TestOtherMethodsAndAddresses(t *testing.T) {
	b := newBench(t)
	b.publish()
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"} {
		if w := b.do(method, base+"/db/keys/password", "alice"); w.Code < 400 || strings.Contains(w.Body.String(), "hunter") {
			t.Errorf("%s: %d %s", method, w.Code, w.Body)
		}
	}
	b.audit.take()
	// HEAD is a read like any other: recorded.
	b.do("HEAD", base+"/db/keys/password", "alice")
	if rec := b.audit.take(); len(rec) != 1 {
		t.Errorf("HEAD: audit %+v", rec)
	}
	for _, path := range []string{"/v1", "/v1/workspaces", "/v1/workspaces/orders", "/etc/passwd", base + "/db/keys/", base + "/db/keys/password/x"} {
		if w := b.get(path, "alice"); w.Code != 404 || strings.Contains(w.Body.String(), "hunter") {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
	for path, code := range map[string]int{"/healthz": 200, "/readyz": 200} {
		if w := b.get(path, ""); w.Code != code {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}

func TestBeforeTheFirstCommit(t *testing.T) {
	b := newBench(t)
	for path, code := range map[string]int{"/healthz": 200, "/readyz": 503} {
		if w := b.get(path, ""); w.Code != code {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
	if w := b.get(base+"/db", "alice"); w.Code != 503 || !strings.Contains(w.Body.String(), "not-ready") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := b.get("/v1/status", "alice"); w.Code != 200 {
		t.Errorf("status: %d", w.Code)
	}
	if w := b.get("/v1/status", ""); w.Code != 401 {
		t.Errorf("status without identity: %d", w.Code)
	}
}

func TestStatusShowsOnlyWhatTheCallerMayList(t *testing.T) {
	b := newBench(t)
	b.publish()
	snap := b.live.Current("")
	scopes := snap.Scopes()
	ws := mustParse(t, manifest.ParseWorkspace, "orders")
	for _, r := range scopes[ws].Records() {
		r.Failure = &unseal.Failure{Since: b.now, Class: unseal.FailTampered, Message: r.Path + ": was changed"}
	}
	scopes[ws] = unseal.NewScope(ws, scopes[ws].Records())
	b.live.Publish(snap.WithScopes(scopes))
	for who, shown := range map[string]int{"alice": 1, "lister": 2, "eve": 0, "ops": 2} {
		var s serve.StatusJSON
		if err := json.Unmarshal(b.get("/v1/status", who).Body.Bytes(), &s); err != nil {
			t.Fatal(err)
		}
		if len(s.Failing) != shown || s.Counts.Failing != 2 || s.Counts.Stale != 2 || s.Sources[0].Commit != commit || s.Audit.Head != "head" {
			t.Errorf("%s: %+v", who, s)
		}
	}
	var full serve.StatusJSON
	if err := json.Unmarshal(b.get("/v1/status", "ops").Body.Bytes(), &full); err != nil {
		t.Fatal(err)
	}
	if f := full.Failing[0]; f.Remedy == "" || f.Class != "tampered" || !f.Stale || !full.Ready {
		t.Errorf("%+v", full)
	}
	// Stale values say so, and end.
	if w := b.get(base+"/db/keys/password", "alice"); w.Code != 200 || w.Header().Get("Sealward-Stale-Since") == "" {
		t.Errorf("stale: %d %v", w.Code, w.Header())
	}
	b.now = b.now.Add(61 * time.Minute)
	b.newToken("alice", time.Hour)
	if w := b.get(base+"/db/keys/password", "alice"); w.Code != 404 {
		t.Errorf("older than maxStale: %d", w.Code)
	}
}

func TestTokensFile(t *testing.T) {
	b := newBench(t)
	b.publish()
	text, err := os.ReadFile(b.tokens)
	if err != nil {
		t.Fatal(err)
	}
	if info, _ := os.Stat(b.tokens); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	if strings.Contains(string(text), b.bearer["alice"]) || strings.Contains(string(text), strings.SplitN(b.bearer["alice"], "_", 3)[2]) {
		t.Error("the file holds a token")
	}
	write := func(s string, age time.Duration) {
		t.Helper()
		if err := os.WriteFile(b.tokens, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
		stamp := b.now.Add(age)
		if err := os.Chtimes(b.tokens, stamp, stamp); err != nil {
			t.Fatal(err)
		}
	}
	// What cannot be read changes nothing, and is logged; a revoked token is gone.
	write("tokens: {", time.Second)
	if w := b.get(base+"/db", "alice"); w.Code != 200 || !strings.Contains(b.log.String(), "tokens file changed") {
		t.Errorf("broken file: %d %s", w.Code, b.log.String())
	}
	write("tokens: []\n", 2*time.Second)
	if w := b.get(base+"/db", "alice"); w.Code != 401 {
		t.Errorf("revoked: %d", w.Code)
	}
	write(string(text), 3*time.Second)
	if w := b.get(base+"/db", "alice"); w.Code != 200 {
		t.Errorf("back again: %d", w.Code)
	}
	for _, bad := range []string{"tokens: [{id: x}]", "tokens: [1]", "tocens: []", strings.ReplaceAll(string(text), "users:id:alice", "users:id:*"), string(text) + "\n---\n", strings.Replace(string(text), "tokens:", "tokens: []\ntokens:", 1)} {
		path := filepath.Join(t.TempDir(), "t.yaml")
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := serve.OpenTokens(path, slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("accepted:\n%s", bad)
		}
	}
	if _, _, err := serve.NewToken(mustParse(t, manifest.ParseSubject, "roles:id:x"), nil, 0, b.now); err == nil {
		t.Error("a token for a role")
	}
}

func TestRateLimits(t *testing.T) {
	b := newBench(t)
	b.publish()
	tokens, err := serve.OpenTokens(b.tokens, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	b.http = serve.New(serve.Config{Live: b.live, Audit: b.audit, Tokens: tokens, Now: func() time.Time { return b.now }, Log: slog.New(slog.DiscardHandler), Limits: serve.Limits{PerIdentity: 5, PerAddress: 5}})
	codes := func(who string) map[int]int {
		out := map[int]int{}
		for range 30 {
			out[b.get(base+"/db", who).Code]++
		}
		return out
	}
	if got := codes("alice"); got[200] != 10 || got[429] != 20 {
		t.Errorf("alice: %v", got)
	}
	if got := codes("wrong"); got[401] != 10 || got[429] != 20 {
		t.Errorf("a guesser: %v", got)
	}
	// Others are served all the same, from that very address.
	if w := b.get(base, "lister"); w.Code != 200 {
		t.Errorf("lister: %d", w.Code)
	}
	b.now = b.now.Add(time.Second)
	if w := b.get(base+"/db", "alice"); w.Code != 200 {
		t.Errorf("a second later: %d", w.Code)
	}
}

func TestListenRefusesPlainHTTPOnANetwork(t *testing.T) {
	for _, a := range []string{"0.0.0.0:0", ":0", "192.0.2.1:0", "example.com:0", "[::]:0"} {
		if l, err := serve.Listen(a, false); err == nil {
			l.Close()
			t.Errorf("%s was accepted", a)
		}
	}
	for _, a := range []string{"127.0.0.1:0", "localhost:0"} {
		l, err := serve.Listen(a, false)
		if err != nil {
			t.Errorf("%s: %v", a, err)
			continue
		}
		l.Close()
	}
}

// An identity that is denied again and again must not fill the audit's disk.
func TestDenialsAreBounded(t *testing.T) {
	b := newBench(t)
	b.publish()
	codes := map[int]int{}
	for range 500 {
		codes[b.get(base+"/db", "eve").Code]++
	}
	if codes[403] != 100 || codes[429] != 400 || len(b.audit.take()) != 100 || b.audit.unauth[audit.RateLimited] != 400 {
		t.Errorf("%v, counted %v", codes, b.audit.unauth)
	}
	if w := b.get(base+"/db", "alice"); w.Code != 200 {
		t.Errorf("alice: %d", w.Code)
	}
}

func TestTokensFileThatIsGone(t *testing.T) {
	b := newBench(t)
	b.publish()
	text, err := os.ReadFile(b.tokens)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(b.tokens); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if w := b.get(base+"/db", "alice"); w.Code == 200 {
			t.Fatal("a token of a file that is gone is valid")
		}
	}
	if n := strings.Count(b.log.String(), "tokens file is gone"); n != 1 {
		t.Errorf("said %d times", n)
	}
	if err := os.WriteFile(b.tokens, text, 0o600); err != nil {
		t.Fatal(err)
	}
	b.now = b.now.Add(time.Minute) // the address guessed too often
	if w := b.get(base+"/db", "alice"); w.Code != 200 {
		t.Errorf("back again: %d", w.Code)
	}
}

func TestTokensAddedAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens.yaml")
	var adding sync.WaitGroup
	for range 8 {
		adding.Go(func() {
			_, entry, err := serve.NewToken(mustParse(t, manifest.ParseSubject, "users:id:x"), nil, 0, time.Now())
			if err == nil {
				err = serve.AddToken(path, entry)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	adding.Wait()
	text, err := os.ReadFile(path)
	if err != nil || strings.Count(string(text), "id: ") != 8 {
		t.Errorf("%v\n%s", err, text)
	}
	if _, err := os.Stat(path + ".lock"); err == nil {
		t.Error("the lock was left behind")
	}
}

// "Bearer" is asked for: other schemes carry no token.
func TestOnlyBearer(t *testing.T) {
	b := newBench(t)
	b.publish()
	for _, header := range []string{b.bearer["alice"], "Token " + b.bearer["alice"], "Bearer" + b.bearer["alice"]} {
		r := httptest.NewRequest("GET", base+"/db", nil)
		r.Header.Set("Authorization", header)
		w := httptest.NewRecorder()
		b.http.ServeHTTP(w, r)
		if w.Code != 401 {
			t.Errorf("%.10q: %d", header, w.Code)
		}
	}
}
