package serve_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/audit"
)

// follower knows one line of commits, oldest first, and one commit apart from it.
type follower struct {
	looks    atomic.Int32
	approved []string
	waiting  string
	line     []string
	apart    string
	gone     bool         // what waits is gone when it is approved
	fail     func() error // of Approve and Contains; nil for none
}

func (f *follower) Look() { f.looks.Add(1) }

func (f *follower) Approve(commit string) error {
	if f.fail != nil {
		return f.fail()
	}
	if commit != f.waiting || f.gone {
		return fmt.Errorf("x: %w", unseal.ErrNothingWaits)
	}
	f.approved = append(f.approved, commit)
	return nil
}

func (f *follower) Waits(commit string) bool { return commit == f.waiting || f.fail != nil }

func (f *follower) Contains(_ context.Context, _, commit, ancestor string) (bool, error) {
	if f.fail != nil {
		return false, f.fail()
	}
	i, j := slices.Index(f.line, commit), slices.Index(f.line, ancestor)
	for _, c := range []string{commit, ancestor} {
		if c != f.apart && !slices.Contains(f.line, c) {
			return false, unseal.ErrUnknownCommit
		}
	}
	return commit == ancestor || i >= 0 && j >= 0 && i >= j, nil
}

const hookSecret = "0123456789abcdef-hook-secret"

func hmacOf(secret, body string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(body))
	return hex.EncodeToString(mac.Sum(nil))
}

func TestHooks(t *testing.T) {
	b := newBench(t)
	if err := os.WriteFile(b.hookSecret, []byte(hookSecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const body = `{"ref":"refs/heads/main"}`
	good, wrong := hmacOf(hookSecret, body), hmacOf("another-secret-0123", body)
	call := func(provider, header, value, body string) int {
		b.now = b.now.Add(time.Second) // the limit of refused calls is not meant here
		r := httptest.NewRequest("POST", "/hooks/"+provider, strings.NewReader(body))
		if header != "" {
			r.Header.Set(header, value)
		}
		w := httptest.NewRecorder()
		b.http.ServeHTTP(w, r)
		if strings.Contains(w.Body.String()+b.log.String(), hookSecret) {
			t.Errorf("%s: the secret is shown", provider)
		}
		return w.Code
	}
	for _, c := range []struct {
		provider, header, value string
		code                    int
	}{
		{"github", "X-Hub-Signature-256", "sha256=" + good, 202},
		{"generic", "X-Signature", "sha256=" + good, 202},
		{"gitea", "X-Gitea-Signature", good, 202},
		{"gitea", "X-Forgejo-Signature", good, 202},
		{"gitlab", "X-Gitlab-Token", hookSecret, 202},
		{"github", "X-Hub-Signature-256", "sha256=" + wrong, 401},
		{"github", "X-Hub-Signature-256", good, 401}, // without its algorithm
		{"github", "X-Hub-Signature-256", "sha256=" + good[:62], 401},
		{"github", "X-Hub-Signature-256", "sha256=zz", 401},
		{"github", "X-Hub-Signature", "sha1=" + good[:40], 401},
		{"github", "X-Gitlab-Token", hookSecret, 401},
		{"gitlab", "X-Gitlab-Token", hookSecret + "x", 401},
		{"gitlab", "X-Gitlab-Token", "", 401},
		{"gitea", "", "", 401},
		{"bitbucket", "X-Hub-Signature-256", "sha256=" + good, 404},
	} {
		before := b.follower.looks.Load()
		if code := call(c.provider, c.header, c.value, body); code != c.code {
			t.Errorf("%+v: %d", c, code)
		}
		if looked := b.follower.looks.Load() != before; looked != (c.code == 202) {
			t.Errorf("%+v: looked %v", c, looked)
		}
	}
	if b.audit.unauth[audit.BadSignature] == 0 || b.audit.unauth[audit.NoCredential] == 0 {
		t.Errorf("the audit counts %v", b.audit.unauth)
	}
	if code := call("github", "X-Hub-Signature-256", "sha256="+good, body+" "); code != 401 {
		t.Errorf("another body: %d", code)
	}
	large := strings.Repeat(" ", 25<<20+1)
	if code := call("github", "X-Hub-Signature-256", "sha256="+hmacOf(hookSecret, large), large); code != 413 {
		t.Errorf("a body over the limit: %d", code)
	}
	// A rotated secret needs no restart; one that is too short or gone opens nothing.
	for text, code := range map[string]int{"a-new-secret-0123456789": 202, "short": 503} {
		if err := os.WriteFile(b.hookSecret, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := call("github", "X-Hub-Signature-256", "sha256="+hmacOf(text, body), body); got != code {
			t.Errorf("secret of %d bytes: %d, want %d", len(text), got, code)
		}
	}
	// Guessing is limited as failed authentications are.
	codes := map[int]int{}
	for range 50 {
		r := httptest.NewRequest("POST", "/hooks/gitlab", nil)
		w := httptest.NewRecorder()
		if err := os.WriteFile(b.hookSecret, []byte(hookSecret), 0o600); err != nil {
			t.Fatal(err)
		}
		b.http.ServeHTTP(w, r)
		codes[w.Code]++
	}
	if codes[429] == 0 || codes[202] != 0 {
		t.Errorf("guesses: %v", codes)
	}
}

func TestOperators(t *testing.T) {
	b := newBench(t)
	b.publish()
	b.follower.waiting = strings.Repeat("a", 40)
	post := func(path, body, who string) int {
		r := httptest.NewRequest("POST", path, strings.NewReader(body))
		r.Header.Set("Authorization", "Bearer "+b.bearer[who])
		w := httptest.NewRecorder()
		b.http.ServeHTTP(w, r)
		return w.Code
	}
	approval := `{"commit":"` + b.follower.waiting + `"}`
	for _, c := range []struct {
		path, body, who string
		code            int
		recorded        string
	}{
		{"/v1/sync", "", "ops", 202, "sync allow "},
		{"/v1/sync", "", "alice", 403, "sync deny "},
		{"/v1/sync", "", "nobody", 401, ""},
		{"/v1/approvals", approval, "alice", 403, "approve deny "},
		{"/v1/approvals", approval, "ops", 202, "approve allow " + b.follower.waiting},
		{"/v1/approvals", `{"commit":"` + commit + `"}`, "ops", 409, "approve deny " + commit},
		{"/v1/approvals", `{"commit":"aaaa"}`, "ops", 400, ""},
		{"/v1/approvals", `{"commit":"` + commit + `","force":true}`, "ops", 400, ""},
		{"/v1/approvals", "", "ops", 400, ""},
	} {
		looks, approved := b.follower.looks.Load(), len(b.follower.approved)
		if code := post(c.path, c.body, c.who); code != c.code {
			t.Errorf("%s by %s: %d, want %d", c.path, c.who, code, c.code)
		}
		var recorded string
		for _, rec := range b.audit.take() {
			recorded += fmt.Sprintf("%s %s %s", rec.Event, rec.Decision, rec.Commit)
		}
		if recorded != c.recorded {
			t.Errorf("%s by %s: recorded %q, want %q", c.path, c.who, recorded, c.recorded)
		}
		if done := b.follower.looks.Load() != looks || len(b.follower.approved) != approved; done != (c.code == 202) {
			t.Errorf("%s by %s: done %v", c.path, c.who, done)
		}
	}
	// What waited is gone between the record and the deed: a second record says so.
	b.follower.gone = true
	code := post("/v1/approvals", approval, "ops")
	if recs := b.audit.take(); code != 409 || len(recs) != 2 || recs[0].Status != 202 || recs[1].Decision != audit.Deny || recs[1].Reason != "nothing-waits" || recs[1].Status != 409 {
		t.Errorf("approved too late: %d, recorded %+v", code, recs)
	}
	b.follower.gone = false
	b.audit.broken = true
	if code := post("/v1/approvals", approval, "ops"); code != 503 || len(b.follower.approved) != 1 {
		t.Errorf("an approval that cannot be recorded: %d", code)
	}
}

// A caller that names a commit never reads an older one unawares.
func TestGenerations(t *testing.T) {
	old, next, apart, unknown := strings.Repeat("1", 40), strings.Repeat("2", 40), strings.Repeat("3", 40), strings.Repeat("4", 40)
	b := newBench(t)
	b.publish()
	b.follower.line, b.follower.apart = []string{old, commit, next}, apart
	ask := func(ctx context.Context, who, query, notBefore string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", base+"/db/keys/password"+query, nil).WithContext(ctx)
		r.Header.Set("Authorization", "Bearer "+b.bearer[who])
		if notBefore != "" {
			r.Header.Set("If-Commit-Not-Before", notBefore)
		}
		w := httptest.NewRecorder()
		b.http.ServeHTTP(w, r)
		return w
	}
	for _, c := range []struct {
		query, notBefore string
		code             int
		says             string
	}{
		{"", "", 200, ""},
		{"", commit, 200, ""},
		{"", old, 200, ""},
		{"", next, 409, "behind"},
		{"", unknown, 409, "behind"},
		{"", apart, 409, "incomparable"},
		{"?after=" + old, "", 200, ""},
		{"?after=" + commit, "", 304, ""},
		{"?after=" + commit + "&wait=10ms", "", 304, ""},
		{"?after=" + next, "", 409, "behind"},
		{"?after=" + apart, "", 409, "incomparable"},
		{"?wait=10ms", next, 409, "behind"},
		{"", "abc", 400, ""},
		{"?after=" + strings.Repeat("A", 40), "", 400, ""},
		{"?wait=51s", "", 400, ""},
		{"?wait=-1s", "", 400, ""},
		{"?after=" + old, next, 409, "behind"},
	} {
		w := ask(t.Context(), "alice", c.query, c.notBefore)
		if w.Code != c.code || !strings.Contains(w.Body.String(), c.says) {
			t.Errorf("%s %s: %d %s", c.query, c.notBefore, w.Code, w.Body)
		}
		if w.Code != 200 && strings.Contains(w.Body.String(), "hunter2") {
			t.Errorf("%s %s: %d with the value", c.query, c.notBefore, w.Code)
		}
		if served := w.Header().Get("Sealward-Generation"); w.Code < 400 && served != commit {
			t.Errorf("%s %s: generation %q", c.query, c.notBefore, served)
		}
		for _, rec := range b.audit.take() { // a read is recorded, what told of no value is not
			if w.Code != 200 || rec.Decision != audit.Allow {
				t.Errorf("%s %s: recorded %+v", c.query, c.notBefore, rec)
			}
		}
	}
	// Who may not read learns nothing of commits, and does not wait.
	for _, notBefore := range []string{old, next, unknown, apart} {
		if w := ask(t.Context(), "eve", "?wait=50s", notBefore); w.Code != 403 || strings.Contains(w.Body.String(), "commit") || w.Header().Get("Sealward-Generation") != "" {
			t.Errorf("eve: %d %s %v", w.Code, w.Body, w.Header())
		}
	}

	// One that waits gets the newer commit as soon as it is there.
	publish := func(commit string) {
		snap := *b.live.Current("")
		snap.Commit = commit
		b.live.Publish(&snap)
	}
	waiting := func(ctx context.Context, query, notBefore string) chan *httptest.ResponseRecorder {
		looks := b.follower.looks.Load()
		done := make(chan *httptest.ResponseRecorder, 1)
		go func() { done <- ask(ctx, "alice", query, notBefore) }()
		for b.follower.looks.Load() == looks { // it asks for a look, once, when it begins to wait
			time.Sleep(time.Millisecond)
		}
		return done
	}
	done := []chan *httptest.ResponseRecorder{waiting(t.Context(), "?wait=50s", next), waiting(t.Context(), "?wait=50s&after="+commit, "")}
	publish(next)
	for _, d := range done {
		if w := <-d; w.Code != 200 || w.Header().Get("Sealward-Generation") != next {
			t.Errorf("after the change: %d %s", w.Code, w.Body)
		}
	}

	// A token that was taken away meanwhile reads nothing.
	d := waiting(t.Context(), "?wait=50s&after="+next, "")
	b.follower.line = append(b.follower.line, apart)
	if err := os.Remove(b.tokens); err != nil {
		t.Fatal(err)
	}
	publish(apart)
	if w := <-d; w.Code != http.StatusUnauthorized {
		t.Errorf("revoked while waiting: %d", w.Code)
	}
	for _, who := range []string{"alice"} {
		b.newToken(who, time.Hour)
	}
	// Nor does it learn, when the wait is over, that there was nothing newer.
	d = waiting(t.Context(), "?wait=500ms&after="+apart, "")
	if err := os.Remove(b.tokens); err != nil {
		t.Fatal(err)
	}
	if w := <-d; w.Code != http.StatusUnauthorized || w.Header().Get("Sealward-Generation") != "" {
		t.Errorf("revoked until the wait was over: %d %v", w.Code, w.Header())
	}
	b.newToken("alice", time.Hour)
	// One identity has 64 waits at most.
	ctx, hangUp := context.WithCancel(t.Context())
	done = nil
	for range 64 {
		done = append(done, waiting(ctx, "?wait=50s&after="+apart, ""))
	}
	if w := ask(t.Context(), "alice", "?wait=50s&after="+apart, ""); w.Code != http.StatusTooManyRequests {
		t.Errorf("the 65th wait: %d", w.Code)
	}
	hangUp()
	for _, d := range done {
		<-d
	}
	// Nobody waits for a client that hung up, nor past the end of the server.
	ctx, hangUp = context.WithCancel(t.Context())
	d = waiting(ctx, "?wait=50s&after="+apart, "")
	hangUp()
	<-d
	d = waiting(t.Context(), "?wait=50s&after="+apart, "")
	close(b.stopping)
	if w := <-d; w.Code != http.StatusNotModified {
		t.Errorf("at the end of the server: %d", w.Code)
	}
	if bytes.Contains(b.log.Bytes(), []byte("hunter2")) {
		t.Error("the log holds a value")
	}
}
