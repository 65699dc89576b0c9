// Package clienttest has an agent for tests of programs that read secrets: the real
// handler over TLS on loopback, with secrets that the test sets.
//
//	agent := clienttest.New(t)
//	agent.Set("orders/db", map[string]string{"password": "x"})
//	c, err := client.New(client.Config{Server: agent.URL, CAFile: agent.CAFile, TokenFile: agent.TokenFile})
//
// There is no Git, no keyring and no audit file behind it; each change is a commit of its own.
package clienttest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/access"
	"github.com/sealward/sealward/unseal/audit"
	"github.com/sealward/sealward/unseal/serve"
)

// Subject is who the token of a Server is.
const Subject = "users:id:app"

// Server is an agent that ends with the test. Its methods fail the test where they
// cannot do what they say, and may be called from one goroutine at a time.
type Server struct {
	URL       string
	CAFile    string
	TokenFile string
	// Handler answers as URL does, without a network.
	Handler http.Handler

	t        testing.TB
	live     unseal.Live
	tokens   string
	down     atomic.Bool
	broken   bool
	secrets  map[string]map[string]string // WORKSPACE/NAME to values
	blobs    map[string]int
	denied   map[string]bool
	line     commits
	recorded records
}

// New starts one that serves nothing yet, and that lets its token read everything.
func New(t testing.TB) *Server {
	t.Helper()
	dir := t.TempDir()
	s := &Server{t: t, TokenFile: filepath.Join(dir, "token"), CAFile: filepath.Join(dir, "ca.pem"), tokens: filepath.Join(dir, "tokens.yaml"),
		secrets: map[string]map[string]string{}, blobs: map[string]int{}, denied: map[string]bool{}}
	s.NewToken()
	log := slog.New(slog.DiscardHandler)
	tokens, err := serve.OpenTokens(s.tokens, log)
	s.check(err)
	stopping := make(chan struct{})
	cfg := serve.Config{Live: &s.live, Audit: &s.recorded, Tokens: tokens, Now: time.Now, Log: log, Follower: &s.line}
	// Without Stopping, a channel from outside, Handler can be used in a synctest bubble.
	s.Handler = s.whileUp(serve.New(cfg))
	cfg.Stopping = stopping
	server := httptest.NewUnstartedServer(s.whileUp(serve.New(cfg)))
	server.EnableHTTP2 = true
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.StartTLS()
	t.Cleanup(func() { close(stopping); server.CloseClientConnections(); server.Close() })
	s.URL = server.URL
	s.check(os.WriteFile(s.CAFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600))
	s.publish()
	return s
}

// whileUp cuts connections while the agent is down.
func (s *Server) whileUp(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.down.Load() {
			panic(http.ErrAbortHandler)
		}
		h.ServeHTTP(w, r)
	})
}

func (s *Server) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// Set gives WORKSPACE/NAME these values and no others. A value that is no text becomes a binary one.
func (s *Server) Set(secret string, values map[string]string) {
	s.t.Helper()
	s.secrets[secret] = maps.Clone(values)
	s.blobs[secret]++
	s.publish()
}

// Delete removes a secret.
func (s *Server) Delete(secret string) {
	s.t.Helper()
	delete(s.secrets, secret)
	s.publish()
}

// Allow sets whether a grant lets the token read a secret.
func (s *Server) Allow(secret string, allowed bool) {
	s.t.Helper()
	s.denied[secret] = !allowed
	s.publish()
}

// Break closes every workspace with a broken grant, or mends it.
func (s *Server) Break(broken bool) {
	s.t.Helper()
	s.broken = broken
	s.publish()
}

// Down makes an agent that cannot be reached, or can be again. What waits goes on.
func (s *Server) Down(down bool) { s.down.Store(down) }

// NewToken writes another token to TokenFile and revokes those before.
func (s *Server) NewToken() {
	s.t.Helper()
	s.RevokeTokens()
	s.check(os.Remove(s.tokens))
	subject, err := manifest.ParseSubject(Subject)
	s.check(err)
	bearer, entry, err := serve.NewToken(subject, nil, 0, time.Now())
	s.check(err)
	s.check(serve.AddToken(s.tokens, entry))
	s.check(os.WriteFile(s.TokenFile, []byte(bearer+"\n"), 0o600))
}

// RevokeTokens makes every token invalid.
func (s *Server) RevokeTokens() {
	s.t.Helper()
	s.check(os.WriteFile(s.tokens, []byte("tokens: []\n"), 0o600))
}

// Commit is the newest one.
func (s *Server) Commit() string { return s.line.last() }

// Rewind moves the branch by force: the newest commit contains none of those before.
func (s *Server) Rewind() {
	s.t.Helper()
	s.line.cut()
	s.publish()
}

// Records are those of the audit since the last call.
func (s *Server) Records() []audit.Record { return s.recorded.take() }

func (s *Server) publish() {
	s.t.Helper()
	commit := s.line.next()
	records := map[manifest.Workspace]map[string]*unseal.Record{}
	grants := map[manifest.Workspace][]access.File{}
	for secret, values := range s.secrets {
		workspace, text, _ := strings.Cut(secret, "/")
		ws, err := manifest.ParseScope(workspace)
		s.check(err)
		name, err := manifest.ParseName(text)
		s.check(err)
		path := manifest.SecretPath(ws, name)
		place, _, err := manifest.Locate(path)
		s.check(err)
		blob := object("blob", secret, s.blobs[secret])
		content := &unseal.Content{Kind: manifest.KindSecret, Version: "v1", Type: manifest.KeyValue, ACL: manifest.Read,
			Provenance: unseal.Provenance{Path: path, Blob: blob, Commit: commit, Author: "clienttest <clienttest@example.com>"}}
		// The commit that gave a path its content stays while the content does.
		if old := s.live.Current("").Scope(ws).Records()[path]; old != nil && old.Blob == blob {
			content.Provenance = old.Good.Provenance
		}
		for _, k := range slices.Sorted(maps.Keys(values)) {
			content.Values = append(content.Values, unseal.Value{Key: k, Data: []byte(values[k]), Binary: !utf8.ValidString(values[k])})
		}
		if records[ws] == nil {
			records[ws] = map[string]*unseal.Record{}
		}
		records[ws][path] = &unseal.Record{Path: path, Place: place, Blob: blob, Good: content}
	}
	scopes, policy := map[manifest.Workspace]*unseal.Scope{}, map[manifest.Workspace]*access.Scope{}
	for ws, list := range records {
		scopes[ws] = unseal.NewScope(ws, list)
	}
	// Of all workspaces that were ever named, so that a secret that is gone is not found.
	for _, secret := range slices.Sorted(maps.Keys(s.blobs)) {
		workspace, name, _ := strings.Cut(secret, "/")
		ws, err := manifest.ParseScope(workspace)
		s.check(err)
		if !s.denied[secret] {
			grants[ws] = append(grants[ws], s.grant(ws, name))
		}
		if s.broken {
			grants[ws] = append(grants[ws], access.File{Path: "broken.yaml", Closes: true})
		}
	}
	for ws, files := range grants {
		policy[ws] = access.CompileScope(ws, files)
	}
	s.live.Publish(unseal.Snapshot{Commit: commit, Branch: "main", Policy: access.New(policy), MaxStale: time.Hour}.WithScopes(scopes))
}

func (s *Server) grant(ws manifest.Workspace, name string) access.File {
	s.t.Helper()
	where, workspaces := "workspace: "+ws.String()+"\n", ""
	if ws.IsInstance() {
		where, workspaces = "", ", workspaces: [instance]"
	}
	text := fmt.Sprintf("name: %s\nversion: v1alpha\ntype: grant\n%sgrant: {policy_use_case_id: read-specific-secret, subjects: [%q], secrets: [%s], effect: allow%s}\n", name, where, Subject, name, workspaces)
	m, err := manifest.Parse(name+".yaml", []byte(text))
	s.check(err)
	return access.File{Path: manifest.PolicyPath(ws, m.Name), Manifest: m}
}

func object(parts ...any) string {
	sum := sha256.Sum256([]byte(fmt.Sprint(parts...)))
	return hex.EncodeToString(sum[:20])
}

// commits are the line of a branch: a Follower without a remote.
type commits struct {
	mu   sync.Mutex
	made int
	line []string
}

func (c *commits) next() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.made++
	c.line = append(c.line, object("commit", c.made))
	return c.line[len(c.line)-1]
}

func (c *commits) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.line {
		c.line[i] += "-" // known still, in nobody's history
	}
}

func (c *commits) last() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.line[len(c.line)-1]
}

func (c *commits) Look() {}

func (c *commits) Approve(string) error { return unseal.ErrNothingWaits }

func (c *commits) Waits(string) bool { return false }

func (c *commits) Contains(_ context.Context, _, commit, ancestor string) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, j := slices.Index(c.line, commit), slices.Index(c.line, ancestor)
	switch {
	case i >= 0 && j >= 0:
		return i >= j, nil
	case slices.Contains(c.line, commit+"-"), slices.Contains(c.line, ancestor+"-"):
		return false, nil
	}
	return false, unseal.ErrUnknownCommit
}

// records is an audit in memory.
type records struct {
	mu   sync.Mutex
	list []audit.Record
}

func (r *records) Append(ctx context.Context, rec audit.Record) (audit.Record, error) {
	if err := ctx.Err(); err != nil {
		return audit.Record{}, errors.New("not recorded in time")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, rec)
	return rec, nil
}

func (r *records) Unauthenticated(string) {}

func (r *records) Head() (uint64, string) { return 0, "" }

func (r *records) take() []audit.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.list
	r.list = nil
	return out
}
