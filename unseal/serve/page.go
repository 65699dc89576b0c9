package serve

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/access"
	"github.com/sealward/sealward/unseal/audit"
)

// The status page, for people: made here whole, without a script, from what /v1/status
// and a list would tell the same caller. It never looks at a value, and shows no key.

//go:embed page.html page.css page.svg
var pageFiles embed.FS

// pagePolicy lets a browser take nothing but our own style sheet and picture, run
// nothing, send forms only here, and put the page into no frame.
const pagePolicy = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// Bounds of one page. What is beyond them has a link to the next page, or a command.
const (
	maxPageSecrets    = 200
	maxPageWorkspaces = 25 // each is a record of the audit
	maxPageTrouble    = 100
	maxPageReads      = 50
	maxPageParts      = 5
	maxPageReaders    = 8
	// maxPageDecisions bounds the work of telling who may read: standings times secrets.
	maxPageDecisions = 50_000
	maxPageSubjects  = 2_000
	viewsPerSecond   = 10 // of one identity
)

// browser is what serving keeps for people with browsers.
type browser struct {
	templates *template.Template
	sessions  sessions
	views     *limiter
	// Refusals have a list of their own: they cost nothing to make.
	reads, refusals *recent
}

func newBrowser(now func() time.Time) *browser {
	b := &browser{views: newLimiter(viewsPerSecond, now), reads: newRecent(512), refusals: newRecent(128)}
	b.templates = template.Must(template.New("").Funcs(template.FuncMap{
		"short": func(commit string) string { return commit[:min(12, len(commit))] },
		"user":  func(s string) string { return strings.TrimPrefix(s, "users:id:") },
		"iso":   func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"age":   age,
		"at":    func(at, now time.Time) moment { return moment{at, now} },
	}).ParseFS(pageFiles, "page.html"))
	return b
}

// note is told of every record that became durable.
func (b *browser) note(rec audit.Record, now time.Time) {
	switch {
	case rec.Event != audit.Read || rec.Name == "":
	case rec.Decision == audit.Allow:
		b.reads.note(rec, now)
	default:
		b.refusals.note(rec, now)
	}
}

func (s *server) pages(mux *http.ServeMux) {
	mux.HandleFunc("GET /{$}", s.front)
	mux.HandleFunc("GET /login", func(w http.ResponseWriter, r *http.Request) {
		message := ""
		if r.URL.Query().Has("ended") {
			message = "The session has ended. Log in again."
		}
		s.render(w, http.StatusOK, "login", message)
	})
	mux.HandleFunc("POST /login", s.login)
	mux.HandleFunc("POST /logout", s.logout)
	mux.HandleFunc("GET /page.css", pageFile("page.css", "text/css; charset=utf-8"))
	mux.HandleFunc("GET /page.svg", pageFile("page.svg", "image/svg+xml"))
}

func pageFile(name, contentType string) http.HandlerFunc {
	data, err := fs.ReadFile(pageFiles, name)
	if err != nil {
		panic(err) // it is embedded
	}
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write(data)
	}
}

// front answers for /: programs that want JSON are told where the API is, a bearer token
// is taken as anywhere, and a browser needs a session.
func (s *server) front(w http.ResponseWriter, r *http.Request) {
	accept := r.Header.Get("Accept")
	cookie := sessionCookie(r)
	switch {
	case strings.Contains(accept, "application/json") && !strings.Contains(accept, "text/html"):
		nothingHere(w, r)
		return
	case r.Header.Get("Authorization") != "":
		s.authenticated(s.page)(w, r)
		return
	case cookie == "":
		s.withoutSession(w, r)
		return
	}
	token, err := s.browser.sessions.token(cookie, s.Now())
	var req *request
	if err == nil {
		req, err = s.identify(withToken(r, token))
	}
	switch {
	case err != nil:
		if s.notNow(w, s.refused(r, err)) {
			return
		}
		s.browser.sessions.end(cookie)
		setSessionCookie(w, r, "")
		http.Redirect(w, r, "/login?ended", http.StatusSeeOther)
	case req == nil:
		s.tooManyViews(w)
	default:
		s.page(w, req)
	}
}

// withoutSession shows the page to a browser that has a client certificate of somebody
// who is known, and the login to any other.
func (s *server) withoutSession(w http.ResponseWriter, r *http.Request) {
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		req, err := s.identify(r)
		switch {
		case err != nil:
			if s.notNow(w, s.refused(r, err)) {
				return
			}
		case req == nil:
			s.tooManyViews(w)
			return
		default:
			s.page(w, req)
			return
		}
	}
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}

// notNow answers where a credential was refused for a reason that passes.
func (s *server) notNow(w http.ResponseWriter, status int) bool {
	switch status {
	case http.StatusTooManyRequests:
		s.tooManyViews(w)
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "1")
		s.message(w, status, "Who you are cannot be told now", "Whoever issued your credential does not answer. Try again in a moment.")
	default:
		return false
	}
	return true
}

// withToken is the request as a program with that token would have sent it.
func withToken(r *http.Request, token string) *http.Request {
	as := r.Clone(r.Context())
	as.Header.Set("Authorization", "Bearer "+token)
	return as
}

// login opens a session for a token. Only the body's field counts: what stands in an
// address ends up in logs and histories.
func (s *server) login(w http.ResponseWriter, r *http.Request) {
	if !sameOrigin(r) {
		s.message(w, http.StatusForbidden, "This form was not sent from here", "Open the login page of this server and log in there.")
		return
	}
	if err := r.ParseForm(); err != nil {
		s.message(w, http.StatusBadRequest, "This is not the login form", "Open the login page of this server and log in there.")
		return
	}
	token := strings.TrimSpace(r.PostForm.Get("token"))
	if len(token) > maxSessionToken {
		token = "" // as none
	}
	req, err := s.identify(withToken(r, token))
	switch {
	case err == nil && req == nil:
		s.tooManyViews(w)
	case err != nil:
		if s.notNow(w, s.refused(r, err)) {
			return
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="sealward"`)
		s.render(w, http.StatusUnauthorized, "login", "This token is not valid. It may have ended, or been revoked.")
	default:
		// Always a new id: one that somebody else knows must not become a session.
		s.browser.sessions.end(sessionCookie(r))
		setSessionCookie(w, r, s.browser.sessions.start(req.caller.User.String(), token, req.now))
		http.Redirect(w, r, "/", http.StatusSeeOther)
	}
}

func (s *server) logout(w http.ResponseWriter, r *http.Request) {
	if !sameOrigin(r) {
		s.message(w, http.StatusForbidden, "This form was not sent from here", "Open the status page of this server and log out there.")
		return
	}
	s.browser.sessions.end(sessionCookie(r))
	setSessionCookie(w, r, "")
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}

func (s *server) tooManyViews(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "1")
	s.message(w, http.StatusTooManyRequests, "Too many requests", "Try again in a second.")
}

func (s *server) message(w http.ResponseWriter, status int, title, text string) {
	s.render(w, status, "message", map[string]string{"Title": title, "Text": text})
}

// render sends a page. Names, paths and people come from a repository: html/template
// escapes them, and what would turn text around or hide it is shown as a mark.
func (s *server) render(w http.ResponseWriter, status int, name string, data any) {
	var page bytes.Buffer
	if err := s.browser.templates.ExecuteTemplate(&page, name, data); err != nil {
		panic(err) // a mistake in page.html: guard answers and logs it, without its text
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", pagePolicy)
	h.Set("X-Frame-Options", "DENY")
	// Not no-referrer: with that, browsers send the login form with a null origin.
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	w.WriteHeader(status)
	_, _ = w.Write(bytes.Map(func(c rune) rune {
		if c == '\n' || unicode.IsPrint(c) {
			return c
		}
		return unicode.ReplacementChar
	}, page.Bytes()))
}

// pageView is what page.html shows.
type pageView struct {
	StatusJSON
	Now      time.Time
	Caller   string
	All      bool // the caller is an operator or monitor
	Hidden   int  // of what is not well, what the caller may not list
	More     int  // of what is not well, what did not fit
	Trouble  []troubleView
	Several  bool // sources
	Sections []sectionView
	Reads    []readView
	From     string // where the sections start: WORKSPACE or WORKSPACE/NAME
	Next     string // where the next page does; "" on the last
	Listable int    // workspaces that the caller may list
}

// Findings counts what the caller may see of what is not well.
func (v pageView) Findings() int { return len(v.Trouble) + v.More }

// troubleView is one thing that is not served as committed.
type troubleView struct {
	Kind   string // failing, held, contested or problem
	Title  string
	Class  string
	Reason string
	Remedy string
	Since  time.Time
	Stale  bool
	Paths  []string
	More   int // paths
}

// sectionView is one workspace.
type sectionView struct {
	Workspace string
	Source    string
	Commit    string
	Secrets   []secretView
	Cut       bool // there are more on the next page
	// NoReaders says that there are too many grants and subjects to tell who may read.
	NoReaders bool
}

type secretView struct {
	Name        string
	Type, ACL   string
	Description string
	State       string // good, stale, failing
	Missing     bool   // some of a failing secret is served all the same
	Since       time.Time
	Held        bool
	Parts       []partView
	MoreParts   int
	Readers     []readerView
	MoreReaders int
}

type partView struct {
	Path, Commit, Author, Signer string
	Time                         time.Time
}

// readerView is a user or role that may read some of a secret.
type readerView struct {
	Name string
	Role bool
	Some bool // only some keys
}

type readView struct {
	Subject, Workspace, Name, Commit string
	Denied                           bool
	First, Last                      time.Time
	Count                            int
}

// page answers for / to a known caller. Every workspace that it shows is audited as a
// list of it, before anything leaves; who may list nothing is denied, and recorded.
func (s *server) page(w http.ResponseWriter, r *request) {
	if !s.browser.views.allow(r.caller.User.String()) {
		s.Audit.Unauthenticated(audit.RateLimited)
		s.tooManyViews(w)
		return
	}
	sight := s.sight(r)
	v := pageView{StatusJSON: s.statusOf(r), Now: r.now, Caller: r.caller.User.String(), All: sight.all, From: r.URL.Query().Get("from")}
	if len(v.From) > 2*manifest.MaxName {
		v.From = ""
	}
	v.Several = len(v.Sources) > 1
	v.trouble()
	records := s.sections(&v, r, sight)
	status := http.StatusOK
	if v.Listable == 0 && !sight.all && r.view != nil {
		status = http.StatusForbidden
		rec := r.record(audit.List, access.Decision{Reason: access.NoGrant}, status)
		rec.Path = "/"
		records = append(records, rec)
		if !s.denials.allow(r.caller.User.String()) {
			s.Audit.Unauthenticated(audit.RateLimited)
			s.tooManyViews(w)
			return
		}
	}
	if err := s.appendAll(r, records); err != nil {
		s.message(w, http.StatusServiceUnavailable, "The audit log cannot be written", "So nothing is shown. Tell the operator.")
		return
	}
	s.render(w, status, "page", v)
}

// appendAll writes records at once, so that one sync of the disk can cover them.
func (s *server) appendAll(r *request, records []audit.Record) error {
	errs := make([]error, len(records))
	var writing sync.WaitGroup
	for i, rec := range records {
		writing.Go(func() { errs[i] = s.append(r, rec) })
	}
	writing.Wait()
	return errors.Join(errs...)
}

// trouble makes one list of what is not well.
func (v *pageView) trouble() {
	var all []troubleView
	for _, f := range v.Failing {
		all = append(all, troubleView{Kind: "failing", Title: f.Path, Class: f.Class, Reason: strings.TrimPrefix(f.Reason, f.Path+": "), Remedy: f.Remedy, Since: f.Since, Stale: f.Stale})
	}
	hidden := v.Counts
	for _, h := range v.Held {
		hidden.Held -= len(h.Paths)
		if len(h.Paths) == 0 {
			continue
		}
		t := troubleView{Kind: "held", Title: "Removals of commit " + h.Commit[:min(12, len(h.Commit))], Class: "held", Since: h.Since, Paths: h.Paths,
			Reason: fmt.Sprintf("The commit removes %d files. They stay served until an operator approves.", h.Count),
			Remedy: fmt.Sprintf("sealward agent approve %s, or restore the files in the branch", h.Commit)}
		if len(t.Paths) > maxPageTrouble {
			t.Paths, t.More = t.Paths[:maxPageTrouble], len(t.Paths)-maxPageTrouble
		}
		all = append(all, t)
	}
	for _, c := range v.Contested {
		all = append(all, troubleView{Kind: "contested", Title: "Workspace " + c.Workspace, Class: "contested",
			Reason: fmt.Sprintf("The sources %s all claim it, so all its reads are refused.", strings.Join(c.Sources, ", ")),
			Remedy: "remove it from all but one, or list it in workspaces of the source that has it"})
	}
	for _, p := range v.Problems {
		t := troubleView{Kind: "problem", Title: p.Path, Class: p.Class, Reason: strings.TrimPrefix(p.Reason, p.Path+": "), Remedy: unseal.FailureClass(p.Class).Remedy()}
		if p.Closes != "" {
			t.Reason += " All reads of " + p.Closes + " are refused because of it."
		}
		all = append(all, t)
	}
	v.Hidden = hidden.Failing - len(v.Failing) + hidden.Held + hidden.Contested - len(v.Contested) + hidden.Problems - len(v.Problems)
	if len(all) > maxPageTrouble {
		all, v.More = all[:maxPageTrouble], len(all)-maxPageTrouble
	}
	v.Trouble = all
}

// sections fills in the workspaces from v.From on, and their recent reads. It returns a
// record for each, which must be durable before the page leaves.
func (s *server) sections(v *pageView, r *request, sight sight) (records []audit.Record) {
	from, fromName, _ := strings.Cut(v.From, "/")
	shown := map[string]*unseal.Snapshot{}
	left := maxPageSecrets
	for _, ws := range workspaces(r.view) {
		snap := r.view.Of(ws)
		if snap == nil || !sight.workspace(snap, ws) {
			continue
		}
		v.Listable++
		if ws.String() < from || v.Next != "" {
			continue
		}
		if left == 0 || len(v.Sections) == maxPageWorkspaces {
			v.Next = ws.String()
			continue
		}
		section := sectionView{Workspace: ws.String(), Source: snap.Source, Commit: snap.Commit}
		var names []manifest.Name
		for _, name := range allNames(snap, ws) {
			if ws.String() == from && name.String() < fromName || !sight.secret(snap, ws, name) {
				continue
			}
			if left == 0 {
				v.Next, section.Cut = ws.String()+"/"+name.String(), true
				break
			}
			left--
			names = append(names, name)
			section.Secrets = append(section.Secrets, secretOf(snap, ws, name, r.now))
		}
		section.NoReaders = !readers(snap.Policy, ws, names, section.Secrets, r.now)
		v.Sections = append(v.Sections, section)
		shown[ws.String()] = snap
		records = append(records, r.listing(ws, snap))
	}
	v.Reads = s.readsOf(shown, sight)
	return records
}

// workspaces that have something to show, or a policy; sorted.
func workspaces(view *unseal.View) []manifest.Workspace {
	found := map[manifest.Workspace]bool{}
	for _, snap := range view.Snapshots() {
		for ws := range snap.Scopes() {
			found[ws] = true
		}
		for _, ws := range snap.Policy.Workspaces() {
			found[ws] = true
		}
	}
	return slices.SortedFunc(maps.Keys(found), func(a, b manifest.Workspace) int { return strings.Compare(a.String(), b.String()) })
}

// listing is the record of showing a workspace. A monitor needs no grant for it: then the
// reason is not one of the policy's.
func (r *request) listing(ws manifest.Workspace, snap *unseal.Snapshot) audit.Record {
	of := *r
	of.workspace, of.snapshot = ws, snap
	d := snap.Policy.MayList(r.caller.Identity, ws, r.now)
	rec := of.record(audit.List, d, http.StatusOK)
	if !d.Allowed {
		rec.Decision, rec.Reason, rec.Grant = audit.Allow, string(access.Monitor), ""
	}
	return rec
}

// allNames are those of every secret of a workspace, with or without something to serve.
func allNames(snap *unseal.Snapshot, ws manifest.Workspace) []manifest.Name {
	found := map[manifest.Name]bool{}
	for _, rec := range snap.Scope(ws).Records() {
		found[rec.Place.Name] = true
	}
	return slices.SortedFunc(maps.Keys(found), func(a, b manifest.Name) int { return strings.Compare(a.String(), b.String()) })
}

func secretOf(snap *unseal.Snapshot, ws manifest.Workspace, name manifest.Name, now time.Time) secretView {
	v := secretView{Name: name.String(), State: "good"}
	served, ok := snap.Secret(ws, name, now)
	if ok {
		m := metadata(snap, served)
		v.Type, v.ACL, v.Description = m.Type, m.ACL, m.Description
	}
	for _, rec := range snap.Scope(ws).Files(name) {
		part := partView{Path: rec.Path}
		if rec.Good != nil {
			p := rec.Good.Provenance
			part = partView{Path: rec.Path, Commit: p.Commit, Author: p.Author, Signer: p.Signer, Time: p.Time}
		}
		if len(v.Parts) < maxPageParts {
			v.Parts = append(v.Parts, part)
		} else {
			v.MoreParts++
		}
		v.Held = v.Held || rec.Held != nil
		if rec.Failure == nil {
			continue
		}
		if v.Since.IsZero() || rec.Failure.Since.Before(v.Since) {
			v.Since = rec.Failure.Since
		}
		switch {
		case !ok || !slices.Contains(served.Parts, rec):
			v.State, v.Missing = "failing", ok
		case v.State == "good":
			v.State = "stale"
		}
	}
	return v
}

// readers fills in who may read some of each secret. Subjects of whom the policy says the
// same are asked about once. It reports whether that was few enough to do.
func readers(p *access.Policy, ws manifest.Workspace, names []manifest.Name, secrets []secretView, now time.Time) bool {
	if p.Known(ws) > maxPageSubjects {
		return false
	}
	alike := map[access.Standing][]manifest.Subject{}
	for subject, standing := range p.Standings(ws) {
		alike[standing] = append(alike[standing], subject)
	}
	if len(alike)*len(names) > maxPageDecisions {
		return false
	}
	for i, name := range names {
		v := &secrets[i]
		for _, subjects := range alike {
			may := p.Read(access.Identity{User: subjects[0]}, ws, name, now)
			if !may.Any().Allowed {
				continue
			}
			some := !may.Other().Allowed || slices.ContainsFunc(may.Rules(), func(r access.Rule) bool { return r.Deny && r.Keys != nil })
			for _, subject := range subjects {
				r := readerView{Name: strings.TrimPrefix(subject.String(), "users:id:"), Some: some}
				if role, is := subject.Role(); is {
					r.Name, r.Role = role, true
				}
				v.Readers = append(v.Readers, r)
			}
		}
		slices.SortFunc(v.Readers, func(a, b readerView) int {
			if a.Role != b.Role {
				if a.Role {
					return -1
				}
				return 1
			}
			return strings.Compare(a.Name, b.Name)
		})
		if len(v.Readers) > maxPageReaders {
			v.Readers, v.MoreReaders = v.Readers[:maxPageReaders], len(v.Readers)-maxPageReaders
		}
	}
	return true
}

// readsOf are the newest reads of what the caller may list in the workspaces shown.
func (s *server) readsOf(shown map[string]*unseal.Snapshot, sight sight) (out []readView) {
	all := slices.Concat(s.browser.reads.newest(), s.browser.refusals.newest())
	slices.SortStableFunc(all, func(a, b readEntry) int { return b.last.Compare(a.last) })
	for _, e := range all {
		snap := shown[e.workspace]
		if snap == nil || len(out) == maxPageReads {
			continue
		}
		ws, err := manifest.ParseWorkspace(e.workspace)
		if e.workspace == manifest.Instance().String() {
			ws, err = manifest.Instance(), nil
		}
		name, err2 := manifest.ParseName(e.name)
		if err != nil || err2 != nil || !sight.secret(snap, ws, name) {
			continue
		}
		out = append(out, readView{Subject: e.subject, Workspace: e.workspace, Name: e.name, Commit: e.commit, Denied: e.decision == audit.Deny,
			First: e.first, Last: e.last, Count: e.count})
	}
	return out
}

// moment is a time as seen from another.
type moment struct{ At, Now time.Time }

// age of something at a time, as people say it.
func age(then, now time.Time) string {
	d := max(0, now.Sub(then))
	switch {
	case then.IsZero():
		return "never"
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}
