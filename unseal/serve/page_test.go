package serve_test

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/access"
	"github.com/sealward/sealward/unseal/audit"
	"github.com/sealward/sealward/unseal/serve"
)

// visit is a browser's request, over TLS, with a session's cookie unless it is nil.
func (b *bench) visit(method, path string, cookie *http.Cookie, form url.Values, change ...func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(form.Encode()))
	r.TLS = &tls.ConnectionState{}
	r.Header.Set("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")
	if method == "POST" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Origin", "https://"+r.Host)
		r.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	if cookie != nil {
		r.AddCookie(cookie)
	}
	for _, c := range change {
		c(r)
	}
	w := httptest.NewRecorder()
	b.http.ServeHTTP(w, r)
	return w
}

func cookieOf(w *httptest.ResponseRecorder) *http.Cookie {
	for _, c := range w.Result().Cookies() {
		return c
	}
	return nil
}

func (b *bench) login(who string) *http.Cookie {
	b.t.Helper()
	w := b.visit("POST", "/login", nil, url.Values{"token": {b.bearer[who]}})
	c := cookieOf(w)
	if w.Code != 303 || w.Header().Get("Location") != "/" || c == nil {
		b.t.Fatalf("login of %s: %d %s", who, w.Code, w.Body)
	}
	return c
}

func TestPageShowsWhatMayBeListed(t *testing.T) {
	b := newBench(t)
	b.publish()
	b.get(base+"/db/keys/password", "alice")
	b.get(base+"/other/keys/password", "alice")
	b.get(base+"/db", "eve")
	b.audit.take()
	for _, c := range []struct {
		who          string
		code         int
		shows, hides []string
		record       string
	}{
		{"alice", 200, []string{">db<", "alice", "0123456789ab", "workspaces/orders/secrets/db.yaml", ">read<", ">eve<"}, []string{"other"}, "allow granted orders 200"},
		{"lister", 200, []string{">db<", ">other<", ">denied<"}, nil, "allow granted orders 200"},
		{"ops", 200, []string{">db<", ">other<"}, nil, "allow monitor orders 200"},
		{"eve", 403, []string{"nothing here that you may list", "0123456789ab"}, []string{"orders", ">db<", "other", "alice"}, "deny no-grant  403"},
	} {
		w := b.visit("GET", "/", b.login(c.who), nil)
		body := w.Body.String()
		if w.Code != c.code || w.Header().Get("Cache-Control") != "no-store" || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") {
			t.Errorf("%s: %d %v", c.who, w.Code, w.Header())
		}
		for _, s := range c.shows {
			if !strings.Contains(body, s) {
				t.Errorf("%s does not see %q:\n%s", c.who, s, body)
			}
		}
		for _, s := range append(c.hides, "hunter", "password", "user\"") {
			if strings.Contains(strings.ReplaceAll(body, "users:id:", ""), s) {
				t.Errorf("%s sees %q:\n%s", c.who, s, body)
			}
		}
		rec := b.audit.take()
		if len(rec) != 1 {
			t.Fatalf("%s: audit %+v", c.who, rec)
		}
		if got := fmt.Sprintf("%s %s %s %d", rec[0].Decision, rec[0].Reason, rec[0].Workspace, rec[0].Status); rec[0].Event != audit.List || got != c.record || rec[0].Subject != "users:id:"+c.who || rec[0].Credential == "" {
			t.Errorf("%s: audit %s %+v", c.who, got, rec[0])
		}
		// A program's token is as good.
		if again := b.get("/", c.who); again.Code != c.code || !strings.Contains(again.Body.String(), c.shows[0]) {
			t.Errorf("%s with a header: %d", c.who, again.Code)
		}
		b.audit.take()
	}
	if csp := b.get("/", "alice").Header().Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") || strings.Contains(csp, "script-src") || !strings.Contains(csp, "frame-ancestors 'none'") {
		t.Errorf("CSP: %s", csp)
	}
}

// No record, no page.
func TestPageNeedsTheAudit(t *testing.T) {
	b := newBench(t)
	b.publish()
	cookies := map[string]*http.Cookie{}
	for _, who := range []string{"alice", "ops", "eve"} {
		cookies[who] = b.login(who)
	}
	b.audit.broken = true
	for who, c := range cookies {
		if w := b.visit("GET", "/", c, nil); w.Code != 503 || strings.Contains(w.Body.String(), "0123456789ab") || strings.Contains(w.Body.String(), ">db<") {
			t.Errorf("%s: %d %s", who, w.Code, w.Body)
		}
	}
	b.audit.broken = false
	if w := b.visit("GET", "/", cookies["alice"], nil); w.Code != 200 {
		t.Errorf("after space returned: %d", w.Code)
	}
}

// The page and the status are made of the same.
func TestPageSaysWhatTheStatusSays(t *testing.T) {
	b := newBench(t)
	b.publish()
	snap := b.live.Current("")
	scopes := snap.Scopes()
	ws := mustParse(t, manifest.ParseWorkspace, "orders")
	records := scopes[ws].Records()
	failure := &unseal.Failure{Since: b.now.Add(-30 * time.Minute), Class: unseal.FailTampered, Message: "the value was changed"}
	records["workspaces/orders/secrets/db.yaml"].Failure = failure
	records["workspaces/orders/secrets/db.yaml"].Good.Provenance.Signer = "release key"
	other := *records["workspaces/orders/secrets/other.yaml"]
	other.Good, other.Failure = nil, failure
	records["workspaces/orders/secrets/other.yaml"] = &other
	scopes[ws] = unseal.NewScope(ws, records)
	snap = snap.WithScopes(scopes)
	snap.Problems = []unseal.Problem{{Path: "workspaces/orders/odd.txt", Class: unseal.FailPlace, Message: "is no manifest", Closes: "orders"}}
	b.live.Publish(snap)
	refused := strings.Repeat("b", 40)
	b.live.SetSync(unseal.Sync{URL: "https://git.example.com/s.git", Branch: "main", Head: refused, Refused: refused, BehindSince: b.now.Add(-5 * time.Minute),
		LastLook: b.now.Add(-10 * time.Second), LastSuccess: b.now.Add(-3 * time.Hour), Error: "the branch was rewound", Class: unseal.SyncRewound, Failures: 3})
	for _, who := range []string{"alice", "lister", "eve", "ops"} {
		var s serve.StatusJSON
		if err := json.Unmarshal(b.get("/v1/status", who).Body.Bytes(), &s); err != nil {
			t.Fatal(err)
		}
		page := b.get("/", who).Body.String()
		for _, name := range []string{"db", "other"} {
			path, listed := "workspaces/orders/secrets/"+name+".yaml", false
			for _, f := range s.Failing {
				listed = listed || f.Path == path
			}
			if listed != strings.Contains(page, path) {
				t.Errorf("%s: the status shows %s: %v, the page differs", who, path, listed)
			}
		}
		for _, p := range append(s.Problems, serve.ProblemJSON{Path: "Head <code>" + refused, Reason: s.Sources[0].Sync.Remedy}) {
			if !strings.Contains(page, p.Path) || !strings.Contains(page, p.Reason) {
				t.Errorf("%s: the page lacks %v", who, p)
			}
		}
		if len(s.Problems) == 0 && strings.Contains(page, "odd.txt") {
			t.Errorf("%s sees a problem that the status hides", who)
		}
	}
	page := b.get("/", "ops").Body.String()
	for _, want := range []string{`class="state stale">stale<`, `class="state failing">failing<`, "30 min ago", "signed by <bdi>release key", "failed: rewound", "git.example.com/s.git", "never opened", "All reads of orders are refused"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	// A last good content that is too old is not served, and the page says so.
	b.now = b.now.Add(45 * time.Minute)
	if page := b.get("/", "ops").Body.String(); strings.Contains(page, `class="state stale">stale<`) {
		t.Error("a content older than maxStale is shown as stale")
	} else if strings.Contains(page, "its last good content is served") {
		t.Error("a content older than maxStale is said to be served")
	}
}

// How the cluster stands is on the page of whom the status tells it, and of nobody else.
func TestPageShowsTheCluster(t *testing.T) {
	b := newBench(t)
	var cluster *serve.ClusterJSON
	b.cluster = func() *serve.ClusterJSON { return cluster }
	b.serve()
	b.publish()
	const evil = "<script>alert(1)</script>\u202e\x1b[2J"
	counts := []serve.ClusterCountJSON{{Kind: "Secret", Desired: 3, Ready: 3}, {Kind: "RoleBinding", Desired: 2, Ready: 2}}
	few := []serve.ClusterCountJSON{{Kind: "Secret", Desired: 3, Ready: 1}}
	for name, c := range map[string]struct {
		cluster      *serve.ClusterJSON
		shows, hides []string
	}{
		"none":          {nil, nil, []string{`id="cluster"`, `href="#cluster"`, "In the cluster"}},
		"all stands":    {&serve.ClusterJSON{Identity: "sealward-0_1", Leader: "sealward-0_1", Leading: true, Synced: b.now.Add(-10 * time.Minute), Objects: counts, Commits: map[string]string{"main": commit}}, []string{`href="#cluster"`, `<dt>Commit</dt><dd><code title="` + commit + `">` + commit[:12] + "<", "3 of 3 stand", "2 of 2 stand", "10 min ago", "All is served as committed.<"}, []string{"In the cluster", "kubectl"}},
		"another leads": {&serve.ClusterJSON{Identity: "sealward-1_2", Leader: "sealward-0_1", Objects: []serve.ClusterCountJSON{{Kind: "Secret", Desired: 3}}}, []string{"sealward-0_1", "sealward-1_2", "3 should stand", "kubectl get sealedrepositories"}, []string{"In the cluster", "0 of 3", "As planned", "<dt>Commit"}},
		"nobody leads":  {&serve.ClusterJSON{Identity: "sealward-1_2"}, []string{">nobody<", "In the cluster not all stands"}, nil},
		"some stand":    {&serve.ClusterJSON{Identity: "a", Leader: "a", Leading: true, Objects: few, Pending: 2, Commits: map[string]string{"main": commit, "other": evil}}, []string{"1 of 3 stand", "Commit of <bdi>main</bdi>", "Commit of <bdi>other</bdi>", "&lt;script&gt;", "2 not looked at yet", "In the cluster not all stands"}, nil},
		"it waits":      {&serve.ClusterJSON{Leader: "a", Waiting: "an older commit " + evil}, []string{"Not written.", "an older commit &lt;script&gt;", "In the cluster"}, nil},
		"held":          {&serve.ClusterJSON{Leader: "a", Held: 7}, []string{"7 objects stay", "sealward agent approve", "In the cluster"}, nil},
		"the clock":     {&serve.ClusterJSON{Leader: "a", SkewSeconds: -9.2}, []string{"9s behind the API server", "In the cluster"}, nil},
		"a fast clock":  {&serve.ClusterJSON{Leader: "a", SkewSeconds: 9.2}, []string{"9s ahead of the API server"}, nil},
		"problems": {&serve.ClusterJSON{Leader: "a", ProblemCount: 5, Problems: []serve.ClusterProblemJSON{
			{Kind: "Secret", Namespace: "orders", Name: "db", Reason: "NotOurs", Message: "not made by sealward " + evil, Remedy: "rename the secret " + evil, Since: b.now.Add(-3 * time.Hour)},
			{Workspace: "orders", Secret: "api", Reason: "Inexpressible", Message: "a deny grant is about it"},
			{Reason: "Unavailable", Message: "the API server does not answer"},
		}}, []string{"Secret orders/db", "3 h ago", "NotOurs", "not made by sealward &lt;script&gt;", "To do:</strong> rename the secret &lt;script&gt;", "orders/api", "the cluster<", "2 more problems", "In the cluster"}, nil},
	} {
		cluster = c.cluster
		page := b.get("/", "ops").Body.String()
		for _, want := range c.shows {
			if !strings.Contains(page, want) {
				t.Errorf("%s: the page lacks %q", name, want)
			}
		}
		for _, never := range append(c.hides, "<script>", "\u202e", "\x1b") {
			if strings.Contains(page, never) {
				t.Errorf("%s: the page has %q", name, never)
			}
		}
		for _, who := range []string{"alice", "lister"} {
			if page := b.get("/", who).Body.String(); strings.Contains(page, `id="cluster"`) || strings.Contains(page, "luster") {
				t.Errorf("%s: %s sees the cluster", name, who)
			}
		}
	}
}

// What a repository or a caller writes is text on the page, and cannot turn it around.
func TestPageEscapes(t *testing.T) {
	b := newBench(t)
	b.publish()
	const evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>\u202egnp.exe\u200b\x1b[2J"
	snap := b.live.Current("")
	for _, r := range snap.Scope(mustParse(t, manifest.ParseWorkspace, "orders")).Records() {
		r.Good.Provenance.Author, r.Good.Provenance.Signer, r.Good.Desc = evil, evil, evil
		r.Failure = &unseal.Failure{Since: b.now, Class: unseal.FailManifest, Message: evil}
	}
	named := *snap
	named.Branch = evil
	named.Problems = []unseal.Problem{{Path: "workspaces/orders/" + evil, Class: unseal.FailPlace, Message: evil}}
	b.live.Publish(&named)
	b.live.SetSync(unseal.Sync{URL: "javascript:" + evil, Branch: evil, Error: evil, Class: unseal.SyncOther})
	page := b.get("/?from="+url.QueryEscape("<b>"), "ops").Body.String() + b.get("/", "ops").Body.String()
	if n := strings.Count(page, "&lt;script&gt;alert(1)"); n < 8 {
		t.Errorf("the texts are on the page %d times", n)
	}
	if bad := regexp.MustCompile(`(?i)<script|<img src=x|<b>|[\x{202e}\x{200b}\x1b]|href="javascript`).FindString(page); bad != "" {
		t.Errorf("%q is in the page", bad)
	}
}

func TestLogin(t *testing.T) {
	b := newBench(t)
	b.publish()
	if w := b.visit("GET", "/", nil, nil); w.Code != 303 || w.Header().Get("Location") != "/login" || len(b.audit.unauth) != 0 {
		t.Errorf("without a session: %d %v", w.Code, w.Header())
	}
	if w := b.visit("GET", "/login", nil, nil); w.Code != 200 || !strings.Contains(w.Body.String(), `method="post"`) || cookieOf(w) != nil {
		t.Errorf("the form: %d %s", w.Code, w.Body)
	}
	c := b.login("alice")
	if c.Name != "__Host-sealward" || !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" || c.MaxAge != 8*3600 || len(c.Value) != 43 || strings.Contains(b.bearer["alice"], c.Value) {
		t.Errorf("cookie %+v", c)
	}
	// The cookie opens the page, not the API.
	for _, path := range []string{"/v1/status", base, base + "/db/keys/password", "/metrics"} {
		if w := b.visit("GET", path, c, nil); w.Code != 401 || strings.Contains(w.Body.String(), "hunter") {
			t.Errorf("%s with a cookie: %d", path, w.Code)
		}
	}
	for _, path := range []string{"/v1/sync", "/v1/approvals"} {
		if w := b.visit("POST", path, b.login("ops"), nil); w.Code != 401 {
			t.Errorf("%s with a cookie: %d", path, w.Code)
		}
	}
	// Plain HTTP on loopback: another cookie. Over TLS that one counts for nothing.
	plain := func(r *http.Request) { r.TLS = nil; r.Header.Set("Origin", "http://"+r.Host) }
	p := cookieOf(b.visit("POST", "/login", nil, url.Values{"token": {b.bearer["alice"]}}, plain))
	if p.Name != "sealward" || p.Secure || !p.HttpOnly || p.SameSite != http.SameSiteStrictMode {
		t.Errorf("cookie %+v", p)
	}
	if w := b.visit("GET", "/", p, nil, plain); w.Code != 200 {
		t.Errorf("plain: %d", w.Code)
	}
	if w := b.visit("GET", "/", p, nil); w.Code != 303 {
		t.Errorf("a plain cookie over TLS: %d", w.Code)
	}
	if w := b.visit("POST", "/login", c, url.Values{"token": {b.bearer["alice"]}}, plain); cookieOf(w).Name != "sealward" {
		t.Error("a plain login beside the cookie of another agent")
	}
	c = b.login("alice")
	// A proxy before us speaks TLS.
	if c := cookieOf(b.visit("POST", "/login", nil, url.Values{"token": {b.bearer["alice"]}}, func(r *http.Request) { r.TLS = nil })); c.Name != "__Host-sealward" || !c.Secure {
		t.Errorf("behind a proxy: %+v", c)
	}
	// An id that the caller brings never becomes a session, and the one before ends.
	fixed := *c
	fixed.Value = strings.Repeat("A", 43)
	for _, brought := range []*http.Cookie{&fixed, c} {
		n := cookieOf(b.visit("POST", "/login", brought, url.Values{"token": {b.bearer["alice"]}}))
		if n == nil || n.Value == brought.Value {
			t.Fatalf("the login kept %s", brought.Value)
		}
		if w := b.visit("GET", "/", brought, nil); w.Code != 303 {
			t.Errorf("the id from before: %d", w.Code)
		}
	}
}

func TestLoginRefused(t *testing.T) {
	b := newBench(t)
	b.publish()
	good := b.bearer["alice"]
	b.newToken("late", time.Nanosecond)
	b.now = b.now.Add(time.Minute)
	for token, reason := range map[string]string{"": audit.NoCredential, "x": audit.Malformed, good + "x": audit.UnknownToken, strings.Repeat("a", 20_000): audit.NoCredential, b.bearer["late"]: audit.Expired} {
		b.audit.unauth = nil
		w := b.visit("POST", "/login", nil, url.Values{"token": {token}})
		if w.Code != 401 || cookieOf(w) != nil || b.audit.unauth[reason] != 1 || token != "" && len(token) > 1 && strings.Contains(w.Body.String(), token) {
			t.Errorf("%.20q: %d, counted %v", token, w.Code, b.audit.unauth)
		}
	}
	b.now = b.now.Add(time.Minute)
	// A token in the address is none.
	if w := b.visit("POST", "/login?token="+good, nil, nil); w.Code != 401 {
		t.Errorf("a token in the address: %d", w.Code)
	}
	for name, change := range map[string]func(*http.Request){
		"another site": func(r *http.Request) {
			r.Header.Set("Sec-Fetch-Site", "cross-site")
			r.Header.Set("Origin", "https://evil.example")
		},
		"the same site":   func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-site") },
		"an old browser":  func(r *http.Request) { r.Header.Del("Sec-Fetch-Site"); r.Header.Set("Origin", "https://evil.example") },
		"a hidden origin": func(r *http.Request) { r.Header.Del("Sec-Fetch-Site"); r.Header.Set("Origin", "null") },
		"no origin":       func(r *http.Request) { r.Header.Del("Sec-Fetch-Site"); r.Header.Del("Origin") },
	} {
		if w := b.visit("POST", "/login", nil, url.Values{"token": {good}}, change); w.Code != 403 || cookieOf(w) != nil {
			t.Errorf("a login from %s: %d", name, w.Code)
		}
		c := b.login("lister")
		if w := b.visit("POST", "/logout", c, nil, change); w.Code != 403 || b.visit("GET", "/", c, nil).Code != 200 {
			t.Errorf("a logout from %s: %d", name, w.Code)
		}
		b.now = b.now.Add(time.Second)
	}
	// Guessing from one address is slowed down, with tokens and with cookies.
	guesses := map[string]func() int{
		"token": func() int { return b.visit("POST", "/login", nil, url.Values{"token": {"swt1_x_y"}}).Code },
		"cookie": func() int {
			return b.visit("GET", "/", &http.Cookie{Name: "__Host-sealward", Value: strings.Repeat("A", 43)}, nil).Code
		},
	}
	for what, guess := range guesses {
		b.now = b.now.Add(time.Minute)
		codes := map[int]int{}
		for range 100 {
			codes[guess()]++
		}
		if codes[429] != 80 || codes[200] != 0 {
			t.Errorf("guessing a %s: %v", what, codes)
		}
	}
	if strings.Contains(b.log.String(), good) {
		t.Error("the log holds a token")
	}
}

func TestSessionEnds(t *testing.T) {
	b := newBench(t)
	b.publish()
	over := func(what string, c *http.Cookie) {
		t.Helper()
		w := b.visit("GET", "/", c, nil)
		gone := cookieOf(w)
		if w.Code != 303 || w.Header().Get("Location") != "/login?ended" || gone == nil || gone.MaxAge >= 0 || gone.Name != c.Name || strings.Contains(w.Body.String(), "orders") {
			t.Errorf("%s: %d %v", what, w.Code, w.Header())
		}
	}
	c := b.login("alice")
	w := b.visit("POST", "/logout", c, nil)
	if gone := cookieOf(w); w.Code != 303 || gone == nil || gone.MaxAge >= 0 {
		t.Errorf("logout: %d %v", w.Code, w.Header())
	}
	over("after the logout", c)
	over("no id", &http.Cookie{Name: c.Name, Value: "x"})
	// With its token, which lasts an hour here.
	c = b.login("alice")
	b.now = b.now.Add(59 * time.Minute)
	if w := b.visit("GET", "/", c, nil); w.Code != 200 {
		t.Errorf("before the token's end: %d", w.Code)
	}
	b.now = b.now.Add(time.Minute)
	over("after the token's end", c)
	// By itself.
	b.newToken("ops", 0)
	c = b.login("ops")
	b.now = b.now.Add(8*time.Hour - time.Second)
	if w := b.visit("GET", "/", c, nil); w.Code != 200 {
		t.Errorf("before its end: %d", w.Code)
	}
	b.now = b.now.Add(time.Second)
	over("after eight hours", c)
	// With a token that is revoked, at once.
	c = b.login("ops")
	if err := os.WriteFile(b.tokens, []byte("tokens: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	over("with a revoked token", c)
}

// Programs that ask for JSON at / are told where the API is, as before there was a page.
func TestFrontForPrograms(t *testing.T) {
	b := newBench(t)
	b.publish()
	c := b.login("alice")
	for _, change := range []func(*http.Request){
		func(r *http.Request) { r.Header.Set("Accept", "application/json") },
		func(r *http.Request) {
			r.Header.Set("Accept", "application/json")
			r.Header.Set("Authorization", "Bearer "+b.bearer["alice"])
		},
	} {
		if w := b.visit("GET", "/", c, nil, change); w.Code != 404 || !strings.Contains(w.Body.String(), "no-such-address") || w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	}
	// A header that says who asks decides, not the cookie beside it.
	if w := b.visit("GET", "/", c, nil, func(r *http.Request) { r.Header.Set("Authorization", "Bearer wrong") }); w.Code != 401 || !strings.Contains(w.Body.String(), "unauthenticated") {
		t.Errorf("a wrong token beside a cookie: %d", w.Code)
	}
	for path, kind := range map[string]string{"/page.css": "text/css", "/page.svg": "image/svg+xml"} {
		if w := b.get(path, ""); w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), kind) || w.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %d %v", path, w.Code, w.Header())
		}
	}
}

// publishMany serves workspaces w00, w01, … with secrets s000, s001, …, and one that two
// grants speak of and that has none.
func (b *bench) publishMany(workspaces, secrets int) {
	b.t.Helper()
	scopes, policies := map[manifest.Workspace]*unseal.Scope{}, map[manifest.Workspace]*access.Scope{}
	for i := range workspaces {
		ws := mustParse(b.t, manifest.ParseWorkspace, fmt.Sprintf("w%02d", i))
		records := map[string]*unseal.Record{}
		for j := range secrets {
			path := manifest.SecretPath(ws, mustParse(b.t, manifest.ParseName, fmt.Sprintf("s%03d", j)))
			place, _, err := manifest.Locate(path)
			if err != nil {
				b.t.Fatal(err)
			}
			records[path] = &unseal.Record{Path: path, Place: place, Blob: commit, Good: &unseal.Content{Provenance: unseal.Provenance{Path: path, Blob: commit, Commit: commit, Time: b.now}, Kind: manifest.KindSecret, Type: manifest.KeyValue}}
		}
		m, err := manifest.Parse("g.yaml", fmt.Appendf(nil, "name: g\nversion: v1alpha\ntype: grant\nworkspace: %s\ngrant: {subjects: [users:id:alice], policy_use_case_id: list-secrets, effect: allow}\n", ws))
		if err != nil {
			b.t.Fatal(err)
		}
		scopes[ws] = unseal.NewScope(ws, records)
		policies[ws] = access.CompileScope(ws, []access.File{{Path: fmt.Sprintf("workspaces/%s/grants/g.yaml", ws), Manifest: m}})
	}
	b.live.Publish(unseal.Snapshot{Commit: commit, Branch: "main", Policy: access.New(policies), MaxStale: time.Hour}.WithScopes(scopes))
}

// Whatever there is, a page is bounded, and its links lead to every secret once.
func TestPagesAreBounded(t *testing.T) {
	for _, size := range [][2]int{{60, 1}, {2, 333}, {1, 200}, {3, 100}} {
		b := newBench(t)
		b.publishMany(size[0], size[1])
		seen := map[string]int{}
		address, pages := "/", 0
		for ; address != "" && pages < 20; pages++ {
			b.now = b.now.Add(time.Second)
			body := b.get(address, "alice").Body.String()
			rec := b.audit.take()
			sections := strings.Split(body, `<section id="ws-`)[1:]
			if len(rec) != len(sections) || len(rec) == 0 || len(rec) > 25 {
				t.Errorf("%v: %d records for %d workspaces", size, len(rec), len(sections))
			}
			shown := 0
			for _, section := range sections {
				for _, name := range regexp.MustCompile(`class="name">([^<]+)<`).FindAllStringSubmatch(section, -1) {
					seen[section[:3]+"/"+name[1]]++
					shown++
				}
			}
			if shown > 200 {
				t.Errorf("%v: %d secrets on one page", size, shown)
			}
			address = ""
			if m := regexp.MustCompile(`rel="next" href="([^"]+)"`).FindStringSubmatch(body); m != nil {
				address = m[1]
			}
		}
		if len(seen) != size[0]*size[1] {
			t.Errorf("%v: %d secrets on %d pages", size, len(seen), pages)
		}
		for name, n := range seen {
			if n != 1 {
				t.Fatalf("%v: %s is shown %d times", size, name, n)
			}
		}
	}
	b := newBench(t)
	b.publishMany(1, 1)
	for _, from := range []string{"zzz", "w00/zzz", strings.Repeat("w", 5000), "../../etc", "%00"} {
		if w := b.get("/?from="+from, "alice"); w.Code != 200 {
			t.Errorf("from %.20s: %d", from, w.Code)
		}
	}
}

// Looking at the page again and again is bounded by identity, and so are its denials.
func TestPageViewsAreLimited(t *testing.T) {
	b := newBench(t)
	b.publish()
	for _, who := range []string{"alice", "eve"} {
		b.audit.take()
		codes := map[int]int{}
		for range 100 {
			codes[b.get("/", who).Code]++
		}
		if codes[429] != 80 || len(b.audit.take()) != 20 {
			t.Errorf("%s: %v", who, codes)
		}
	}
}

// Pages, reads and commits at once, for the race detector.
func TestPageWhileServing(t *testing.T) {
	b := newBench(t)
	b.publish()
	snap := *b.live.Current("")
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 20 {
				b.get("/", "lister")
				b.get(base+"/db", "alice")
				b.visit("GET", "/", b.login("ops"), nil)
				again := snap
				b.live.Publish(&again)
			}
		})
	}
	all.Wait()
	if len(b.audit.take()) < 80 {
		t.Error("too little was served to prove anything")
	}
}

func TestPageBeforeTheFirstCommit(t *testing.T) {
	b := newBench(t)
	for _, who := range []string{"alice", "ops"} {
		if w := b.get("/", who); w.Code != 200 || !strings.Contains(w.Body.String(), "No commit has been applied yet") || len(b.audit.take()) != 0 {
			t.Errorf("%s: %d %s", who, w.Code, w.Body)
		}
	}
}

// Removals that wait, and a workspace that two sources claim.
func TestPageOfWhatWaits(t *testing.T) {
	b := newBench(t)
	b.publish()
	snap := b.live.Current("")
	scopes := snap.Scopes()
	ws := mustParse(t, manifest.ParseWorkspace, "orders")
	for _, r := range scopes[ws].Records() {
		r.Held = &unseal.Held{Commit: commit, Since: b.now}
	}
	b.live.Publish(snap.WithScopes(scopes))
	for who, paths := range map[string]int{"ops": 2, "alice": 1, "eve": 0} {
		body := b.get("/", who).Body.String()
		held, _, _ := strings.Cut(body, `id="workspaces"`)
		if n := strings.Count(held, "<li><bdi>workspaces/orders/secrets/"); n != paths || (paths > 0) != strings.Contains(held, "sealward agent approve "+commit) {
			t.Errorf("%s sees %d removals that wait", who, n)
		}
		if hidden := fmt.Sprintf("%d more that you may not list", 2-paths); paths < 2 && !strings.Contains(held, hidden) {
			t.Errorf("%s is not told of %s", who, hidden)
		}
		if strings.Contains(body, "removal waits for approval") != (paths > 0) {
			t.Errorf("%s: the table does not say what waits", who)
		}
	}
	other := *b.live.Current("")
	other.Source = "shop"
	b.live.Publish(&other)
	if body := b.get("/", "ops").Body.String(); !strings.Contains(body, "Workspace orders") || !strings.Contains(body, "so all its reads are refused") || strings.Contains(body, `id="ws-orders"`) {
		t.Errorf("contested:\n%s", body)
	}
	if w := b.get("/", "alice"); w.Code != 403 || strings.Contains(w.Body.String(), "Workspace orders") {
		t.Errorf("alice: %d", w.Code)
	}
}
