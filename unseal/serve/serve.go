// Package serve answers reads over HTTP: it authenticates the caller, asks
// access, writes the audit, and only then hands a value out.
//
// Most callers need [New] for the handler and [ListenAndServe] to run it. What
// is served is published through an unseal.Live; this package only reads it.
package serve

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/access"
	"github.com/sealward/sealward/unseal/audit"
	"github.com/sealward/sealward/unseal/jsontext"
)

// auditor is what serving needs of an audit.Log.
type auditor interface {
	Append(context.Context, audit.Record) (audit.Record, error)
	Unauthenticated(reason string)
	Head() (seq uint64, hash string)
}

// Follower is what serving needs of the agent that follows the sources.
type Follower interface {
	// Look asks for a look at every remote, at once. It never blocks.
	Look()
	// Approve gives the operator's word for what waits at a commit: removals that
	// are held, or a head that rewinds the branch. It takes effect at the next
	// look, which it asks for. The error wraps unseal.ErrNothingWaits.
	Approve(commit string) error
	// Waits reports that something waits for that word.
	Waits(commit string) bool
	// Contains reports whether commit is ancestor or descends from it, in the
	// history of a source. The error wraps unseal.ErrUnknownCommit where the mirror
	// lacks one of the two.
	Contains(ctx context.Context, source, commit, ancestor string) (bool, error)
}

// Config of a server. Live, Audit, Tokens or Identity, Now and Log are required.
type Config struct {
	Live   *unseal.Live
	Audit  auditor
	Tokens *Tokens
	// Identity finds the caller of a request. Nil means Tokens alone.
	Identity Authenticator
	Now      func() time.Time
	Log      *slog.Logger
	Limits   Limits
	// Version is shown in the status.
	Version string
	// Follower is nil where nothing is followed: there are no hooks then, and
	// generations are not compared.
	Follower Follower
	// Operators may ask for a look, approve what waits, and see all of the status;
	// Monitors may read the metrics and see all of the status.
	Operators, Monitors []manifest.Subject
	// HookSecretFile holds the secret of webhooks; "" means there are none.
	HookSecretFile string
	// Metrics is nil where there are none. Audited, which may be nil, is told how
	// long each record took to be durable.
	Metrics http.Handler
	Audited func(time.Duration, error)
	// Looked, which may be nil, is told when a hook or an operator asked for a look.
	Looked func()
	// Cluster tells how the agent takes part in a cluster; nil where it does not.
	Cluster func() *ClusterJSON
	// Stopping ends what waits; it is closed when the server is to stop.
	Stopping <-chan struct{}
}

// Limits of what callers may ask a second. Zero values mean the defaults.
type Limits struct {
	PerIdentity float64 // requests a second of one identity; default 1,000
	PerAddress  float64 // failed authentications a second of one address; default 10
	Denials     float64 // denied requests a second of one identity; default 50
}

type server struct {
	Config
	identities *limiter
	addresses  *limiter
	denials    *limiter
	waits      waits
	taggers    sync.Pool // of *tagger; their key is made anew in each process
	started    time.Time
	browser    *browser
}

// New returns the handler of all addresses under /v1, of /healthz and /readyz, and
// of the status page at /.
func New(cfg Config) http.Handler {
	s := &server{Config: cfg, started: cfg.Now(), browser: newBrowser(cfg.Now)}
	if s.Identity == nil {
		s.Identity = Identities{Tokens: cfg.Tokens}
	}
	s.identities = newLimiter(orDefault(cfg.Limits.PerIdentity, 1_000), cfg.Now)
	s.denials = newLimiter(orDefault(cfg.Limits.Denials, 50), cfg.Now)
	s.addresses = newLimiter(orDefault(cfg.Limits.PerAddress, 10), cfg.Now)
	tagKey := make([]byte, 32)
	_, _ = rand.Read(tagKey) // never fails
	s.taggers.New = func() any { return &tagger{mac: hmac.New(sha256.New, tagKey)} }
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", s.ready)
	for _, base := range []string{"/v1/workspaces/{workspace}/secrets", "/v1/instance/secrets"} {
		mux.HandleFunc("GET "+base, s.authenticated(s.list))
		mux.HandleFunc("GET "+base+"/{name}", s.authenticated(s.readSecret))
		mux.HandleFunc("GET "+base+"/{name}/keys/{key}", s.authenticated(s.readKey))
	}
	mux.HandleFunc("POST /v1/read", s.authenticated(s.readBatch))
	mux.HandleFunc("GET /v1/status", s.authenticated(s.status))
	mux.HandleFunc("GET /v1/whoami", s.authenticated(s.whoami))
	mux.HandleFunc("POST /v1/sync", s.operator(audit.Sync, s.sync))
	mux.HandleFunc("POST /v1/approvals", s.operator(audit.Approve, s.approve))
	mux.HandleFunc("POST /hooks/{provider}", s.hook)
	mux.HandleFunc("GET /metrics", s.authenticated(s.metrics))
	s.pages(mux)
	mux.HandleFunc("/", nothingHere)
	return s.guard(mux)
}

func nothingHere(w http.ResponseWriter, _ *http.Request) {
	writeError(w, http.StatusNotFound, "no-such-address", "there is nothing at this address; the API is under /v1")
}

func orDefault(v, def float64) float64 {
	if v == 0 {
		return def
	}
	return v
}

// guard sets what every answer carries, and keeps a panic's text, which could
// hold a value, out of the log.
func (s *server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if p := recover(); p != nil {
				s.Log.Error("a request handler panicked", "path", r.Pattern, "type", fmt.Sprintf("%T", p))
				writeError(w, http.StatusInternalServerError, "internal", "the server failed; see its log")
			}
		}()
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "default-src 'none'")
		if !strings.HasPrefix(r.URL.Path, "/hooks/") { // they have their own bound
			r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
		}
		next.ServeHTTP(w, r)
	})
}

// request is one authenticated request.
type request struct {
	*http.Request
	caller   Caller
	view     *unseal.View
	snapshot *unseal.Snapshot // of the workspace that is asked for; nil when no source has it
	now      time.Time
	// What is asked for. valid says that the names are names at all; the zero
	// values are denied like any other.
	workspace manifest.Workspace
	name      manifest.Name
	key       manifest.Key
	valid     bool
}

func (s *server) authenticated(next func(http.ResponseWriter, *request)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		req, err := s.identify(r)
		if err != nil {
			s.unauthenticated(w, r, err)
			return
		}
		if req == nil {
			tooMany(w)
			return
		}
		next(w, req)
	}
}

// identify verifies who a request comes from. The request is nil, without an error,
// when the caller asks too often, which has been counted.
func (s *server) identify(r *http.Request) (*request, error) {
	now := s.Now()
	caller, err := s.Identity.Authenticate(r, now)
	if err != nil {
		return nil, err
	}
	if !s.identities.allow(caller.User.String()) {
		s.Audit.Unauthenticated(audit.RateLimited)
		return nil, nil
	}
	req := &request{Request: r, caller: caller, view: s.Live.View(), now: now}
	req.parse()
	req.snapshot = req.view.Of(req.workspace)
	return req, nil
}

// bearer is the token of a request, "" for none.
func bearer(r *http.Request) string {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return ""
	}
	return token
}

// refused counts a call without a valid credential, and gives the status of its answer:
// 401, 429 where it is one of too many, or 503 where whoever issued the credential cannot
// be asked about it. The last is no denial, and not limited by address: an outage has all
// its workloads ask again.
func (s *server) refused(r *http.Request, err error) int {
	var auth *AuthError
	reason := audit.Other
	if errors.As(err, &auth) {
		reason = auth.Reason
	}
	status := http.StatusUnauthorized
	switch {
	case reason == audit.Unavailable:
		status = http.StatusServiceUnavailable
	case reason == audit.RateLimited:
		status = http.StatusTooManyRequests
	case !s.addresses.allow(limitedAs(host(r))):
		reason, status = audit.RateLimited, http.StatusTooManyRequests
	}
	s.Audit.Unauthenticated(reason)
	return status
}

func (s *server) unauthenticated(w http.ResponseWriter, r *http.Request, err error) {
	switch s.refused(r, err) {
	case http.StatusTooManyRequests:
		tooMany(w)
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "1")
		writeError(w, http.StatusServiceUnavailable, "identity-unavailable", "whoever issued the credential cannot be asked about it; try again, and tell the operator")
	default:
		w.Header().Set("WWW-Authenticate", `Bearer realm="sealward"`)
		writeError(w, http.StatusUnauthorized, "unauthenticated", "a valid bearer token is needed (sealward token create), or another credential that the agent accepts")
	}
}

func tooMany(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "1")
	writeError(w, http.StatusTooManyRequests, "rate-limited", "too many requests; try again in a second")
}

func host(r *http.Request) string {
	h, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return h
}

func (r *request) parse() {
	var err1, err2, err3 error
	r.workspace = manifest.Instance()
	if !strings.HasPrefix(r.URL.Path, "/v1/instance/") {
		r.workspace, err1 = manifest.ParseWorkspace(r.PathValue("workspace"))
	}
	if n := r.PathValue("name"); n != "" {
		r.name, err2 = manifest.ParseName(n)
	}
	if k := r.PathValue("key"); k != "" {
		r.key, err3 = manifest.ParseKey(k)
	}
	r.valid = err1 == nil && err2 == nil && err3 == nil
}

// record starts the audit record of a request.
func (r *request) record(event audit.Event, d access.Decision, status int) audit.Record {
	rec := audit.Record{
		Event: event, Decision: audit.Deny, Reason: r.recordedReason(d), Status: status,
		Subject: r.caller.User.String(), Credential: r.caller.Credential, Method: r.caller.Method, Remote: r.RemoteAddr,
		Workspace: r.workspace.String(), Name: r.name.String(), Grant: d.Grant,
	}
	if r.snapshot != nil {
		rec.Commit = r.snapshot.Commit
	}
	if d.Allowed {
		rec.Decision = audit.Allow
	}
	for _, role := range r.caller.Roles {
		rec.Roles = append(rec.Roles, role.String())
	}
	if _, isRole := d.Subject.Role(); isRole {
		rec.Role = d.Subject.String()
	}
	if k := r.key.String(); k != "" {
		rec.Keys = []string{k}
	}
	return rec
}

// answer audits a decision and, when there is no value to send, sends the
// answer. It reports whether the caller may go on and write the value.
//
// The record is durable before anything leaves: after a crash the log may name a
// read that never arrived, but misses none that did.
func (s *server) answer(w http.ResponseWriter, r *request, rec audit.Record) bool {
	// Each denial is a record: an identity must not fill the audit's disk, which
	// would stop everybody's reads. What is beyond the limit is counted.
	if rec.Decision == audit.Deny && !s.denials.allow(r.caller.User.String()) {
		s.Audit.Unauthenticated(audit.RateLimited)
		tooMany(w)
		return false
	}
	if err := s.append(r, rec); err != nil {
		unrecorded(w)
		return false
	}
	switch rec.Status {
	case http.StatusOK, http.StatusAccepted, http.StatusNotModified, http.StatusNotAcceptable:
		return true
	case http.StatusConflict:
		s.refuseApproval(w)
		return false
	}
	code, message := refusal(rec)
	writeError(w, rec.Status, code, message)
	return false
}

// append makes a record durable. On an error, which it logs, nothing may leave.
func (s *server) append(r *request, rec audit.Record) error {
	// A caller that hangs up is recorded all the same.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), 15*time.Second)
	defer cancel()
	began := time.Now()
	_, err := s.Audit.Append(ctx, rec)
	if s.Audited != nil {
		s.Audited(time.Since(began), err)
	}
	if err != nil {
		s.Log.Error("the audit cannot be written, so nothing is served", "error", err)
		return err
	}
	s.browser.note(rec, r.now)
	return nil
}

// snapshotReady answers for an agent that has applied nothing yet, and for a
// workspace that no source has for itself.
func (s *server) snapshotReady(w http.ResponseWriter, r *request, event audit.Event) bool {
	if r.snapshot != nil {
		return true
	}
	if r.view != nil {
		d := access.Decision{Reason: access.NoGrant}
		if r.view.Contested(r.workspace) != nil {
			d.Reason = access.Contested
		}
		s.answer(w, r, r.record(event, d, http.StatusForbidden))
		return false
	}
	w.Header().Set("Retry-After", "5")
	writeError(w, http.StatusServiceUnavailable, "not-ready", "no commit has been applied yet; try again")
	return false
}

// headerText keeps names of people printable: a header is one line of bytes.
func headerText(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return '?'
		}
		return c
	}, s)
}

// SecretJSON is the answer to reading one secret.
type SecretJSON struct {
	Metadata
	Data       map[string]string `json:"data,omitempty"`
	BinaryData map[string][]byte `json:"binaryData,omitempty"` // base64
	Provenance []ProvenanceJSON  `json:"provenance"`
}

// String hides the values from every way of printing that asks for a string.
func (s SecretJSON) String() string { return s.Workspace + "/" + s.Name + " (values hidden)" }

// GoString is String, for %#v.
func (s SecretJSON) GoString() string { return s.String() }

// Metadata of a secret: everything but keys and values.
type Metadata struct {
	Name        string     `json:"name"`
	Workspace   string     `json:"workspace,omitempty"`
	Kind        string     `json:"kind"`
	Version     string     `json:"version"`
	Type        string     `json:"type"`
	ACL         string     `json:"acl"`
	Layer       string     `json:"layer,omitempty"`
	Tags        []string   `json:"tags,omitempty"`
	Description string     `json:"description,omitempty"`
	Owner       string     `json:"owner,omitempty"`
	Generation  string     `json:"generation"`           // the applied commit
	StaleSince  *time.Time `json:"staleSince,omitempty"` // an older content is served since then
}

// ProvenanceJSON says where some keys come from.
type ProvenanceJSON struct {
	Keys   []string  `json:"keys"`
	Path   string    `json:"path"`
	Blob   string    `json:"blob"`
	Commit string    `json:"commit,omitempty"`
	Author string    `json:"author,omitempty"`
	Time   time.Time `json:"time,omitzero"`
	Signer string    `json:"signer,omitempty"`
}

func metadata(snapshot *unseal.Snapshot, sec *unseal.Secret) Metadata {
	c := sec.Parts[0].Good
	m := Metadata{
		Name: sec.Name.String(), Kind: string(c.Kind), Version: c.Version, Type: string(c.Type), ACL: string(c.ACL),
		Layer: c.Layer, Tags: c.Tags, Description: c.Desc, Owner: c.Owner, Generation: snapshot.Commit,
	}
	if !sec.Scope.IsInstance() {
		m.Workspace = sec.Scope.String()
	}
	for _, p := range sec.Parts {
		if p.Stale() && (m.StaleSince == nil || p.Failure.Since.Before(*m.StaleSince)) {
			since := p.Failure.Since.UTC()
			m.StaleSince = &since
		}
	}
	return m
}

// appendJSON appends the fields to an object that was begun.
func (m Metadata) appendJSON(buf []byte) []byte {
	buf = jsontext.String(jsontext.Name(buf, "name"), m.Name)
	buf = jsontext.Field(buf, "workspace", m.Workspace)
	buf = jsontext.String(jsontext.Name(buf, "kind"), m.Kind)
	buf = jsontext.String(jsontext.Name(buf, "version"), m.Version)
	buf = jsontext.String(jsontext.Name(buf, "type"), m.Type)
	buf = jsontext.String(jsontext.Name(buf, "acl"), m.ACL)
	buf = jsontext.Field(buf, "layer", m.Layer)
	if len(m.Tags) > 0 {
		buf = jsontext.Strings(jsontext.Name(buf, "tags"), m.Tags)
	}
	buf = jsontext.Field(jsontext.Field(buf, "description", m.Description), "owner", m.Owner)
	buf = jsontext.String(jsontext.Name(buf, "generation"), m.Generation)
	if m.StaleSince != nil {
		buf = jsontext.Time(jsontext.Name(buf, "staleSince"), *m.StaleSince)
	}
	return buf
}

// ListJSON is the answer to listing a workspace.
type ListJSON struct {
	Generation string     `json:"generation"`
	Secrets    []Metadata `json:"secrets"`
}

func (s *server) list(w http.ResponseWriter, r *request) {
	decide := func() access.Decision {
		if !r.valid || r.snapshot == nil {
			return access.Decision{Reason: access.NoGrant}
		}
		return r.snapshot.Policy.MayList(r.caller.Identity, r.workspace, r.now)
	}
	known := func() []*unseal.Snapshot {
		if !decide().Allowed {
			return nil
		}
		return []*unseal.Snapshot{r.snapshot}
	}
	// What may be seen is decided name by name, also for the list's tag.
	listed := func() []Metadata {
		out := []Metadata{}
		for _, name := range r.snapshot.Names(r.workspace, r.now) {
			if !r.snapshot.Policy.List(r.caller.Identity, r.workspace, name, r.now).Allowed {
				continue
			}
			if sec, ok := r.snapshot.Secret(r.workspace, name, r.now); ok {
				out = append(out, metadata(r.snapshot, sec))
			}
		}
		return out
	}
	if !s.settle(w, r, known, func() bool { return r.has(s.listTag(r, listed())) }) || !s.snapshotReady(w, r, audit.List) {
		return
	}
	d := decide()
	if !d.Allowed {
		s.answer(w, r, r.record(audit.List, d, http.StatusForbidden))
		return
	}
	out := ListJSON{Generation: r.snapshot.Commit, Secrets: listed()}
	tag, status := s.listTag(r, out.Secrets), http.StatusOK
	if r.has(tag) {
		status = http.StatusNotModified
	}
	if !s.answer(w, r, r.record(audit.List, d, status)) {
		return
	}
	w.Header().Set("Sealward-Generation", r.snapshot.Commit)
	w.Header().Set("ETag", tag)
	if status == http.StatusNotModified {
		w.WriteHeader(status)
		return
	}
	writeJSON(w, out)
}

func (s *server) ready(w http.ResponseWriter, _ *http.Request) {
	if s.Live.View() == nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, "no commit has been applied yet")
		return
	}
	fmt.Fprintln(w, "ready")
}

// ErrorJSON is every answer that is not a result.
type ErrorJSON struct {
	Error struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
}

func writeError(w http.ResponseWriter, status int, code, message string) {
	var e ErrorJSON
	e.Error.Code, e.Error.Message = code, message
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(e)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v)
}
