package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealward/sealward/gitops"
	"github.com/sealward/sealward/gitops/source"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/audit"
	"github.com/sealward/sealward/unseal/keyring"
	"github.com/sealward/sealward/unseal/serve"
	"github.com/sealward/sealward/unseal/store"
)

// inside is an agent within the test: its clock is the test's, and what it leaves
// behind can be counted.
type inside struct {
	t      *testing.T
	dir    string
	agent  *gitops.Agent
	live   *unseal.Live
	mirror *source.Mirror
	store  *store.Store
	audit  *audit.Log
	serve  func(path, token string) (code int, body []byte)
	log    *logged
}

// open makes the parts of an agent on dir/state.
func open(t *testing.T, dir string, from source.Config, now func() time.Time, interval time.Duration) *inside {
	t.Helper()
	in := &inside{t: t, dir: dir, live: &unseal.Live{}, log: &logged{}}
	log := slog.New(in.log)
	ring, err := keyring.Open(filepath.Join(dir, "keys"))
	must(t, err)
	must(t, gitops.PrepareState(filepath.Join(dir, "state")))
	in.store, err = store.Open(filepath.Join(dir, "state", "store.db"))
	must(t, err)
	from.Branch = "main"
	in.mirror, err = source.Open(filepath.Join(dir, "state", "mirror"), from)
	must(t, err)
	in.audit, err = audit.Open(filepath.Join(dir, "audit.jsonl"), audit.Options{Now: now})
	must(t, err)
	tokens, err := serve.OpenTokens(filepath.Join(dir, "tokens.yaml"), log)
	must(t, err)
	handler := serve.New(serve.Config{Live: in.live, Audit: in.audit, Tokens: tokens, Now: now, Log: log, Limits: serve.Limits{PerIdentity: 1e6, Denials: 1e6, PerAddress: 1e6}})
	in.serve = func(path, token string) (int, []byte) {
		r, w := httptest.NewRequest("GET", path, nil), httptest.NewRecorder()
		r.Header.Set("Authorization", "Bearer "+token)
		handler.ServeHTTP(w, r)
		return w.Code, w.Body.Bytes()
	}
	in.agent = gitops.New(gitops.Config{Mirror: in.mirror, Root: ".", Source: "test", Branch: "main", Keyring: ring, Store: in.store, Live: in.live,
		Log: log, Now: now, Interval: interval, MaxStale: 24 * time.Hour})
	must(t, in.agent.Restore(context.Background()))
	return in
}

func (in *inside) close() {
	in.t.Helper()
	must(in.t, in.store.Close())
	must(in.t, in.mirror.Close())
	must(in.t, in.audit.Close())
}

// code is the status of reading one secret.
func (in *inside) code(id, token string) int {
	ws, name, _ := strings.Cut(id, "/")
	code, _ := in.serve("/v1/workspaces/"+ws+"/secrets/"+name, token)
	return code
}

// source is the status of the one source.
func (in *inside) source(token string) serve.SourceJSON {
	in.t.Helper()
	_, body := in.serve("/v1/status", token)
	var s serve.StatusJSON
	must(in.t, json.Unmarshal(body, &s))
	if len(s.Sources) != 1 {
		in.t.Fatalf("status: %s", body)
	}
	return s.Sources[0]
}

// logged is a log handler that keeps when what was said.
type logged struct {
	mu    sync.Mutex
	lines []logLine
}

type logLine struct {
	at   time.Time
	text string
}

func (*logged) Enabled(context.Context, slog.Level) bool { return true }
func (l *logged) WithAttrs([]slog.Attr) slog.Handler     { return l }
func (l *logged) WithGroup(string) slog.Handler          { return l }

func (l *logged) Handle(ctx context.Context, r slog.Record) error {
	var b bytes.Buffer
	if err := slog.NewTextHandler(&b, nil).Handle(ctx, r); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, logLine{r.Time, b.String()})
	return nil
}

// times says when lines with text were written.
func (l *logged) times(text string) []time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []time.Time
	for _, line := range l.lines {
		if strings.Contains(line.text, text) {
			out = append(out, line.at)
		}
	}
	return out
}

// tokenOf makes a token for a user that ends after ttl.
func tokenOf(t *testing.T, dir, user string, ttl time.Duration, now time.Time) string {
	t.Helper()
	subject, err := manifest.ParseSubject("users:id:" + user)
	must(t, err)
	bearer, entry, err := serve.NewToken(subject, nil, ttl, now)
	must(t, err)
	must(t, serve.AddToken(filepath.Join(dir, "tokens.yaml"), entry))
	return bearer
}
