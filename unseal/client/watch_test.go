package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal/client/clienttest"
)

// inProcess calls a handler, so that waits are on the test's clock.
type inProcess struct {
	http.Handler
	asked   atomic.Int32
	forgets atomic.Bool // every answer is of another agent, which knows no tag
}

func (p *inProcess) RoundTrip(r *http.Request) (resp *http.Response, err error) {
	p.asked.Add(1)
	defer func() {
		if recover() != nil {
			resp, err = nil, errors.New("connection refused")
		}
	}()
	if p.forgets.Load() {
		r.Header.Del("If-None-Match")
	}
	w := httptest.NewRecorder()
	p.ServeHTTP(w, r)
	return w.Result(), nil
}

func item(t *testing.T, text string) Item {
	t.Helper()
	workspace, rest, _ := strings.Cut(text, "/")
	ws, err1 := manifest.ParseScope(workspace)
	name, err2 := manifest.ParseName(rest)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return Item{Workspace: ws, Name: name}
}

// watched runs test against a watch of orders/db and orders/api on a clock of its own.
// next waits for the next state, as text.
func watched(t *testing.T, maxStale time.Duration, test func(agent *clienttest.Server, transport *inProcess, next func() string)) {
	agent := clienttest.New(t)
	agent.Set("orders/db", map[string]string{"password": "one"})
	agent.Set("orders/api", map[string]string{"token": "1"})
	synctest.Test(t, func(t *testing.T) {
		c, err := New(Config{Server: agent.URL, CAFile: agent.CAFile, TokenFile: agent.TokenFile})
		if err != nil {
			t.Fatal(err)
		}
		transport := &inProcess{Handler: agent.Handler}
		c.http.Transport = transport
		ctx, stop := context.WithCancel(t.Context())
		states := make(chan string)
		go func() {
			defer close(states)
			for entries := range c.Watch(ctx, []Item{item(t, "orders/db"), item(t, "orders/api")}, maxStale) {
				states <- describe(entries)
			}
		}()
		test(agent, transport, func() string {
			select {
			case s := <-states:
				return s
			case <-time.After(2 * time.Hour):
				return "nothing"
			}
		})
		stop()
		for range states {
		}
	})
}

func describe(entries []Entry) string {
	var out []string
	for _, e := range entries {
		s := fmt.Sprint(e.Secret.Data["password"], e.Secret.Data["token"])
		for err, text := range map[error]string{ErrDenied: "denied", ErrNotFound: "gone", ErrStale: "too old", ErrUnauthenticated: "no identity"} {
			if errors.Is(e.Err, err) {
				s = text + s
			}
		}
		if !e.Unconfirmed.IsZero() {
			s += "?"
		}
		out = append(out, s)
	}
	return strings.Join(out, " ")
}

func TestWatch(t *testing.T) {
	watched(t, time.Hour, func(agent *clienttest.Server, transport *inProcess, next func() string) {
		expect := func(what, want string) {
			t.Helper()
			if got := next(); got != want {
				t.Errorf("%s: %q, want %q", what, got, want)
			}
		}
		expect("at first", "one 1")
		synctest.Wait()
		agent.Set("orders/other", map[string]string{"x": "y"}) // none of ours
		agent.Set("orders/db", map[string]string{"password": "two"})
		expect("changed", "two 1")
		synctest.Wait()
		agent.Allow("orders/db", false)
		expect("revoked", "denied 1")
		synctest.Wait()
		agent.Allow("orders/db", true)
		expect("permitted again", "two 1")
		synctest.Wait()
		agent.Delete("orders/api")
		expect("deleted", "two gone")
		agent.Set("orders/api", map[string]string{"token": "2"})
		expect("back", "two 2")

		// A quiet hour costs one request a wait, not more.
		began := transport.asked.Load()
		time.Sleep(time.Hour)
		if n := transport.asked.Load() - began; n < 60 || n > 90 {
			t.Errorf("%d requests in a quiet hour", n)
		}

		// All reads refused is no revocation; what cannot be reached is none either.
		agent.Break(true)
		expect("broken grants", "two? 2?")
		agent.Break(false)
		expect("mended", "two 2")
		agent.Down(true)
		expect("away", "two? 2?")
		agent.Set("orders/db", map[string]string{"password": "three"})
		agent.Down(false)
		expect("reached again", "three 2")

		// A branch that is moved by the operator's word is followed.
		synctest.Wait()
		agent.Rewind()
		agent.Set("orders/db", map[string]string{"password": "four"})
		expect("moved by force", "four 2")

		// A token that is replaced is used, one that is revoked ends it.
		synctest.Wait()
		agent.NewToken()
		agent.Set("orders/db", map[string]string{"password": "five"})
		expect("with a new token", "five 2")
		synctest.Wait()
		agent.RevokeTokens()
		expect("the token is revoked", "no identity no identity")
		agent.NewToken()
		expect("a new one", "five 2")
	})
}

// What cannot be confirmed is kept for maxStale, and asked for ever more rarely.
func TestWatchEndsWhatIsTooOld(t *testing.T) {
	watched(t, 10*time.Minute, func(agent *clienttest.Server, transport *inProcess, next func() string) {
		if got := next(); got != "one 1" {
			t.Fatal(got)
		}
		agent.Down(true)
		if got := next(); got != "one? 1?" {
			t.Fatal(got)
		}
		began, before := time.Now(), transport.asked.Load()
		if got := next(); got != "too old too old" {
			t.Fatal(got)
		}
		if d, n := time.Since(began), transport.asked.Load()-before; d < 9*time.Minute || d > 11*time.Minute || n > 60 {
			t.Errorf("after %v and %d requests", d, n)
		}
		agent.Down(false)
		if got := next(); got != "one 1" {
			t.Fatal(got)
		}
	})
}

// An agent that refuses everything, or is not one, is not asked over and over.
func TestWatchIsNoFlood(t *testing.T) {
	watched(t, 0, func(agent *clienttest.Server, transport *inProcess, next func() string) {
		next()
		agent.Allow("orders/db", false)
		agent.Allow("orders/api", false)
		for got := ""; got != "denied denied"; {
			got = next()
		}
		before := transport.asked.Load()
		time.Sleep(10 * time.Minute)
		if n := transport.asked.Load() - before; n > 50 {
			t.Errorf("%d requests in ten minutes of denials", n)
		}
		agent.Allow("orders/api", true)
		if got := next(); got != "denied 1" {
			t.Error(got)
		}
	})
}

// Several agents behind one address make different tags: each answer comes at once, and
// is no change.
func TestWatchOfSeveralAgents(t *testing.T) {
	watched(t, 0, func(agent *clienttest.Server, transport *inProcess, next func() string) {
		next()
		transport.forgets.Store(true)
		before := transport.asked.Load()
		time.Sleep(10 * time.Minute)
		if n := transport.asked.Load() - before; n > 50 {
			t.Errorf("%d requests in ten minutes", n)
		}
		agent.Set("orders/db", map[string]string{"password": "two"})
		if got := next(); got != "two 1" {
			t.Errorf("woken by nothing, or wrongly: %q", got)
		}
	})
}

func TestWatchWithoutAnAgent(t *testing.T) {
	watched(t, 0, func(agent *clienttest.Server, _ *inProcess, next func() string) {
		if got := next(); got != "one 1" {
			t.Fatal(got)
		}
	})
	c, err := New(Config{Server: "https://127.0.0.1:1", Token: "t"})
	if err != nil {
		t.Fatal(err)
	}
	for entries := range c.Watch(t.Context(), []Item{item(t, "orders/db")}, 0) {
		if entries[0].Err == nil || entries[0].Ok() || !strings.Contains(entries[0].Err.Error(), "cannot be reached") {
			t.Errorf("%v", entries)
		}
		break
	}
}

func TestCache(t *testing.T) {
	agent := clienttest.New(t)
	agent.Set("orders/db", map[string]string{"password": "one", "blob": "\xff\x00"})
	c, err := New(Config{Server: agent.URL, CAFile: agent.CAFile, TokenFile: agent.TokenFile})
	if err != nil {
		t.Fatal(err)
	}
	db := item(t, "orders/db")
	cache := NewCache(c, []Item{db}, time.Hour)
	if e := cache.Get(db.Workspace, db.Name); e.Ok() || e.Err == nil {
		t.Errorf("before it ran: %v", e)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { cache.Run(ctx); close(done) }()
	password, _ := manifest.ParseKey("password")
	blob, _ := manifest.ParseKey("blob")
	until := func(want string) {
		t.Helper()
		for {
			changed := cache.Changed()
			value, err := cache.Get(db.Workspace, db.Name).Value(password)
			if string(value) == want && err == nil || err != nil && strings.Contains(err.Error(), want) {
				return
			}
			select {
			case <-changed:
			case <-time.After(10 * time.Second):
				t.Fatalf("waited for %q, have %q, %v", want, value, err)
			}
		}
	}
	until("one")
	e := cache.Get(db.Workspace, db.Name)
	if data, err := e.Value(blob); err != nil || string(data) != "\xff\x00" {
		t.Errorf("%q %v", data, err)
	}
	if none, _ := manifest.ParseKey("none"); true {
		if _, err := e.Value(none); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
	}
	// An entry is printed without its value.
	if text := fmt.Sprintf("%v %+v %#v %s", e, e, []Entry{e}, e.Secret); strings.Contains(text, "one") {
		t.Error(text)
	}
	agent.Set("orders/db", map[string]string{"password": "two"})
	until("two")
	agent.Delete("orders/db")
	until("not found")
	stop()
	<-done
}

func TestBatch(t *testing.T) {
	agent := clienttest.New(t)
	agent.Set("orders/db", map[string]string{"password": "one", "user": "o"})
	agent.Set("orders/api", map[string]string{"token": "1"})
	agent.Set("instance/smtp", map[string]string{"password": "s"})
	agent.Allow("orders/api", false)
	c, err := New(Config{Server: agent.URL, CAFile: agent.CAFile, TokenFile: agent.TokenFile})
	if err != nil {
		t.Fatal(err)
	}
	one := item(t, "orders/db")
	user, _ := manifest.ParseKey("user")
	one.Keys = []manifest.Key{user}
	agent.Records()
	got, err := c.Batch(t.Context(), []Item{one, item(t, "orders/api"), item(t, "orders/none"), item(t, "instance/smtp")})
	if err != nil {
		t.Fatal(err)
	}
	if len(got[0].Secret.Data) != 1 || got[0].Secret.Data["user"] != "o" || !errors.Is(got[1].Err, ErrDenied) || !errors.Is(got[2].Err, ErrDenied) || got[3].Secret.Data["password"] != "s" {
		t.Errorf("%+v", got)
	}
	var statuses []int
	for _, r := range agent.Records() {
		statuses = append(statuses, r.Status)
	}
	if slices.Sort(statuses); !slices.Equal(statuses, []int{200, 200, 403, 403}) {
		t.Errorf("recorded %v", statuses)
	}
	agent.Break(true)
	if got, err := c.Batch(t.Context(), []Item{one}); err != nil || !errors.Is(got[0].Err, ErrRefused) {
		t.Errorf("%v %v", got, err)
	}
}

// The connection is HTTP/2, as a real server's is.
func TestHTTP2(t *testing.T) {
	agent := clienttest.New(t)
	c, err := New(Config{Server: agent.URL, CAFile: agent.CAFile, TokenFile: agent.TokenFile})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.http.Get(agent.URL + "/healthz")
	if err != nil || resp.ProtoMajor != 2 {
		t.Errorf("%v %v", resp, err)
	}
	resp.Body.Close()
}

func TestTokenFile(t *testing.T) {
	file := t.TempDir() + "/token"
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, text := range []string{"", " \n", "one two", "one\ntwo", "a\x00b", "naïve", strings.Repeat("a", maxToken+1)} {
		write(text)
		_, err := New(Config{Server: "https://127.0.0.1:1", TokenFile: file})
		if err == nil || text != "" && strings.Contains(err.Error(), strings.TrimSpace(text)+"x") || strings.Contains(err.Error(), file) || strings.Contains(err.Error(), "one two") {
			t.Errorf("%.20q: %v", text, err)
		}
	}
	write("first\n")
	tok, err := newToken("", file)
	if err != nil {
		t.Fatal(err)
	}
	current := func() string {
		s, err := tok.current()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if got := current(); got != "first" {
		t.Error(got)
	}
	write("second-one")
	if got := current(); got != "second-one" {
		t.Error(got)
	}
	// What cannot be read, as while it is replaced, changes nothing.
	write("")
	if got := current(); got != "second-one" {
		t.Error(got)
	}
	if _, ok := tok.newer("second-one"); ok {
		t.Error("the refused token is a newer one")
	}
	// Of the same size and time: found when the old one is refused.
	write("second-two")
	if got, ok := tok.newer("second-one"); !ok || got != "second-two" {
		t.Error(got, ok)
	}
	for _, cfg := range []Config{{TokenFile: file, Token: "x"}, {CertFile: "a"}, {CertFile: "no", KeyFile: "no"}, {TokenFile: t.TempDir()}} {
		cfg.Server = "https://127.0.0.1:1"
		if _, err := New(cfg); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
}
