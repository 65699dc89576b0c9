package serve_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/sealward/sealward/unseal/audit"
	"github.com/sealward/sealward/unseal/serve"
)

// provider is an OpenID provider: discovery and keys over TLS.
type provider struct {
	t       *testing.T
	url     string
	caFile  string
	fetches atomic.Int32 // of the keys
	down    atomic.Bool
	stall   atomic.Bool

	mu   sync.Mutex
	keys []jose.JSONWebKey
	says string // the issuer in its document, "" for its own
	at   string // jwks_uri, "" for its own
}

func newProvider(t *testing.T) *provider {
	p := &provider{t: t}
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, r *http.Request, v any) {
		switch {
		case p.stall.Load():
			<-r.Context().Done()
		case p.down.Load():
			http.Error(w, "eyJhbGciOi.canary.text", http.StatusBadGateway)
		default:
			_ = json.NewEncoder(w).Encode(v)
		}
	}
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		issuer, at := p.says, p.at
		p.mu.Unlock()
		if issuer == "" {
			issuer = p.url
		}
		if at == "" {
			at = p.url + "/keys"
		}
		answer(w, r, map[string]any{"issuer": issuer, "jwks_uri": at, "id_token_signing_alg_values_supported": []string{"none", "HS256", "RS256"}})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, r *http.Request) {
		p.fetches.Add(1)
		p.mu.Lock()
		set := jose.JSONWebKeySet{Keys: p.keys}
		p.mu.Unlock()
		answer(w, r, set)
	})
	mux.HandleFunc("GET /moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/keys", http.StatusFound) })
	server := httptest.NewUnstartedServer(mux)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	p.url, p.caFile = server.URL, filepath.Join(t.TempDir(), "ca.pem")
	write(t, p.caFile, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	return p
}

// write replaces a file, with a time of its own.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	stamp := time.Now().Add(time.Duration(stamps.Add(1)) * time.Second)
	if err := os.Chtimes(path, stamp, stamp); err != nil {
		t.Fatal(err)
	}
}

// stamps makes the times that write sets differ.
var stamps atomic.Int32

func public(kid string, key crypto.Signer) jose.JSONWebKey {
	return jose.JSONWebKey{Key: key.Public(), KeyID: kid, Use: "sig"}
}

func (p *provider) publish(keys ...jose.JSONWebKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys = keys
}

func (p *provider) config() serve.IssuerConfig {
	return serve.IssuerConfig{Issuer: p.url, Audience: "sealward", CAFile: p.caFile, Roles: serve.Roles{Claim: "groups", Allow: []string{"orders-dev", "auditors"}}}
}

func openIssuer(t *testing.T, b *bench, cfg serve.IssuerConfig) *serve.Issuer {
	t.Helper()
	i, err := serve.OpenIssuer(cfg, logged.To(&b.log))
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// identify has the bench know its callers by these identities.
func (b *bench) identify(by serve.Authenticator) {
	b.http = serve.New(serve.Config{Live: b.live, Audit: b.audit, Identity: by, Now: func() time.Time { return b.now }, Log: logged.To(&b.log), Limits: serve.Limits{PerAddress: 1e6}})
}

// whoami returns whom the agent takes the bearer of a token for.
func (b *bench) whoami(token string) (serve.WhoamiJSON, int) {
	b.t.Helper()
	w := b.get("/v1/whoami", token)
	var who serve.WhoamiJSON
	if w.Code == http.StatusOK {
		if err := json.Unmarshal(w.Body.Bytes(), &who); err != nil {
			b.t.Fatal(err)
		}
	}
	return who, w.Code
}

// refused asks as the bearer of a token, and returns the status and why.
func (b *bench) refused(token string) (int, string) {
	b.t.Helper()
	b.audit.mu.Lock()
	b.audit.unauth = nil
	b.audit.mu.Unlock()
	code := b.get(base+"/db/keys/password", token).Code
	b.audit.mu.Lock()
	defer b.audit.mu.Unlock()
	for reason := range b.audit.unauth {
		return code, reason
	}
	return code, ""
}

// mint makes a JWT by hand, so that it can be one that no library makes. A []byte key
// signs by HMAC, nil not at all.
func mint(t testing.TB, header map[string]any, payload []byte, key any) string {
	t.Helper()
	h, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	text := b64(h) + "." + b64(payload)
	sum := sha256.Sum256([]byte(text))
	var sig []byte
	switch k := key.(type) {
	case *rsa.PrivateKey:
		sig, err = rsa.SignPKCS1v15(nil, k, crypto.SHA256, sum[:])
	case *ecdsa.PrivateKey:
		r, s, e := ecdsa.Sign(rand.Reader, k, sum[:])
		if err = e; err == nil {
			sig = append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
		}
	case ed25519.PrivateKey:
		sig = ed25519.Sign(k, []byte(text))
	case []byte:
		mac := hmac.New(sha256.New, k)
		mac.Write([]byte(text))
		sig = mac.Sum(nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + b64(sig)
}

type claims = map[string]any

// good are claims of alice that hold for an hour.
func (b *bench) good(issuer string, change claims) []byte {
	b.t.Helper()
	c := claims{"iss": issuer, "sub": "alice", "aud": "sealward", "exp": b.now.Add(time.Hour).Unix(), "iat": b.now.Unix(), "jti": "id-1", "groups": []string{"orders-dev", "admins", "orders-*", "roles:id:auditors"}}
	maps.Copy(c, change)
	for k, v := range change {
		if v == nil {
			delete(c, k)
		}
	}
	text, err := json.Marshal(c)
	if err != nil {
		b.t.Fatal(err)
	}
	return text
}

func ecKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func rsaKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestJWT(t *testing.T) {
	b := newBench(t)
	b.publish()
	p, rs, es := newProvider(t), rsaKey(t), ecKey(t)
	p.publish(public("rs", rs), public("es", es))
	b.identify(serve.Identities{Issuers: []*serve.Issuer{openIssuer(t, b, p.config())}})
	for _, token := range []string{
		mint(t, claims{"alg": "RS256", "kid": "rs"}, b.good(p.url, nil), rs),
		mint(t, claims{"alg": "ES256", "kid": "es", "typ": "JWT"}, b.good(p.url, nil), es),
		mint(t, claims{"alg": "ES256", "typ": "application/AT+jwt"}, b.good(p.url, claims{"aud": []string{"other", "sealward"}}), es), // no key id
	} {
		who, code := b.whoami(token)
		if code != 200 || who.Subject != "users:id:alice" || who.Method != "oidc" || who.Credential != "id-1" || !who.Expires.Equal(b.now.Add(time.Hour)) {
			t.Errorf("%d %+v", code, who)
		}
		// Of the four groups only the one counts that the operator allowed the issuer to
		// assert: nothing of a claim is a pattern or a subject.
		if fmt.Sprint(who.Roles) != "[roles:id:orders-dev]" {
			t.Errorf("roles %v", who.Roles)
		}
		if w := b.get(base+"/db/keys/password", token); w.Code != 200 || w.Body.String() != "hunter2<>&" {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	}
	if n := p.fetches.Load(); n != 1 {
		t.Errorf("the keys were fetched %d times", n)
	}
	rec := b.audit.take()
	if len(rec) != 3 || rec[0].Method != "oidc" || rec[0].Credential != "id-1" || rec[0].Subject != "users:id:alice" || fmt.Sprint(rec[0].Roles) != "[roles:id:orders-dev]" {
		t.Errorf("audit (whoami is not a read) %+v", rec)
	}
}

// A token that was verified once is good for as long as it would be without that.
func TestAJWTIsRemembered(t *testing.T) {
	b := newBench(t)
	b.publish()
	p, key := newProvider(t), ecKey(t)
	p.publish(public("k", key))
	b.identify(serve.Identities{Issuers: []*serve.Issuer{openIssuer(t, b, p.config())}})
	mint := func(change claims) string {
		return mint(t, claims{"alg": "ES256", "kid": "k"}, b.good(p.url, change), key)
	}
	token := mint(claims{"nbf": b.now.Unix(), "exp": b.now.Add(10 * time.Minute).Unix()})
	again := func(after time.Duration, want int) {
		t.Helper()
		now := b.now
		defer func() { b.now = now }()
		b.now = now.Add(after)
		if _, code := b.whoami(token); code != want {
			t.Errorf("after %v: %d, want %d", after, code, want)
		}
	}
	again(0, 200)
	for range 3 {
		again(9*time.Minute+59*time.Second, 200)
		again(10*time.Minute, 401)
		again(-29*time.Second, 200) // the grace for clocks that differ
		again(-31*time.Second, 401)
	}
	// Another token of the same claims, and one with another signature, are others.
	if _, code := b.whoami(token[:len(token)-8] + "AAAAAAAA"); code != 401 {
		t.Errorf("another signature: %d", code)
	}
	if who, _ := b.whoami(mint(claims{"sub": "bob"})); who.Subject != "users:id:bob" {
		t.Errorf("another token is %v", who)
	}
	// A key that is withdrawn takes its tokens with it.
	token = mint(claims{"exp": b.now.Add(time.Hour).Unix()})
	again(0, 200)
	p.publish(public("other", ecKey(t)))
	b.now = b.now.Add(20 * time.Minute)
	eventually(t, "the token is refused", func() bool { _, code := b.whoami(token); return code == 401 })
}

// A claim may lie deeper: Keycloak asserts roles in realm_access, others use URLs as names.
func TestClaimsBelowOthers(t *testing.T) {
	b := newBench(t)
	b.publish()
	p, key := newProvider(t), ecKey(t)
	p.publish(public("k", key))
	with := func(change claims) string {
		return mint(t, claims{"alg": "ES256", "kid": "k"}, b.good(p.url, change), key)
	}
	for _, c := range []struct {
		subject, roles string
		token          string
		want           string
	}{
		{"", "/realm_access/roles", with(claims{"realm_access": claims{"roles": []string{"auditors", "x"}}}), "users:id:alice [roles:id:auditors]"},
		{"", "/realm_access/roles", with(claims{"realm_access": []string{"roles"}, "roles": []string{"auditors"}}), "users:id:alice []"},
		{"", "/realm_access/roles", with(claims{"/realm_access/roles": []string{"auditors"}}), "users:id:alice []"},
		{"", "/realm_access/roles", with(claims{"realm_access": claims{"roles": claims{"auditors": true}}}), ""},
		{"", "/https:~1~1id.example.com~1r/~0", with(claims{"https://id.example.com/r": claims{"~": "auditors"}}), "users:id:alice [roles:id:auditors]"},
		{"", "https://id.example.com/roles", with(claims{"https://id.example.com/roles": "auditors"}), "users:id:alice [roles:id:auditors]"},
		{"/user/id", "groups", with(claims{"user": claims{"id": "bob"}}), "users:id:bob [roles:id:orders-dev]"},
		{"/user/id", "groups", with(claims{"user": claims{"id": 7}}), ""},
		{"/user/id", "groups", with(claims{"user": "bob"}), ""},
		{"/email", "groups", with(claims{"email": "bob@example.com"}), "users:id:bob@example.com [roles:id:orders-dev]"},
		{"/email", "groups", with(claims{"email": "bob@example.com", "email_verified": false}), ""},
		{"/user/email", "groups", with(claims{"user": claims{"email": "bob@example.com", "email_verified": false}}), ""},
	} {
		cfg := p.config()
		cfg.SubjectClaim, cfg.Roles.Claim = c.subject, c.roles
		b.identify(serve.Identities{Issuers: []*serve.Issuer{openIssuer(t, b, cfg)}})
		who, code := b.whoami(c.token)
		if got := fmt.Sprint(who.Subject, " ", who.Roles); code == 200 && got != c.want || code != 200 && c.want != "" {
			t.Errorf("%q %q: %d %s, want %q", c.subject, c.roles, code, got, c.want)
		}
	}
	cfg := p.config()
	cfg.SubjectClaim = "/a~b"
	if err := cfg.Check(); err == nil || !strings.Contains(err.Error(), "no JSON pointer") {
		t.Error(err)
	}
}

// Every token here differs in one thing from one that is good.
func TestJWTsThatAreRefused(t *testing.T) {
	b := newBench(t)
	b.publish()
	p, key, other, weak := newProvider(t), rsaKey(t), rsaKey(t), ecKey(t)
	p.publish(public("k", key), public("ec", weak))
	cfg := p.config()
	cfg.Algorithms = []string{"RS256"}
	b.identify(serve.Identities{Issuers: []*serve.Issuer{openIssuer(t, b, cfg)}})
	rs := claims{"alg": "RS256", "kid": "k"}
	head := func(change claims) claims { h := maps.Clone(rs); maps.Copy(h, change); return h }
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	jwk, err := json.Marshal(public("k", key))
	if err != nil {
		t.Fatal(err)
	}
	jwkOther, err := json.Marshal(public("k", other))
	if err != nil {
		t.Fatal(err)
	}
	sound := mint(t, rs, b.good(p.url, nil), key)
	parts := strings.Split(sound, ".")
	evil := base64.RawURLEncoding.EncodeToString(b.good(p.url, claims{"sub": "lister"}))
	if code, reason := b.refused(sound); code != 200 {
		t.Fatalf("the good one: %d %s", code, reason)
	}
	with := func(change claims) string { return mint(t, rs, b.good(p.url, change), key) }
	at := func(d time.Duration) int64 { return b.now.Add(d).Unix() }
	raw := func(text string) string { return mint(t, rs, []byte(text), key) }
	for name, c := range map[string]struct{ token, reason string }{
		"no algorithm":                 {mint(t, claims{"alg": "none"}, b.good(p.url, nil), nil), audit.BadSignature},
		"no algorithm, other spelling": {mint(t, claims{"alg": "nOnE", "kid": "k"}, b.good(p.url, nil), nil), audit.BadSignature},
		"HMAC by the public PEM":       {mint(t, claims{"alg": "HS256", "kid": "k"}, b.good(p.url, nil), publicPEM), audit.BadSignature},
		"HMAC by the public DER":       {mint(t, claims{"alg": "HS256", "kid": "k"}, b.good(p.url, nil), der), audit.BadSignature},
		"HMAC by the JWK":              {mint(t, claims{"alg": "HS256", "kid": "k"}, b.good(p.url, nil), jwk), audit.BadSignature},
		"HMAC that says RS256":         {mint(t, rs, b.good(p.url, nil), publicPEM), audit.BadSignature},
		"an algorithm not listed":      {mint(t, claims{"alg": "ES256", "kid": "ec"}, b.good(p.url, nil), weak), audit.BadSignature},
		"a key of another kind":        {mint(t, claims{"alg": "RS256", "kid": "ec"}, b.good(p.url, nil), key), audit.BadSignature},
		"somebody else's key":          {mint(t, rs, b.good(p.url, nil), other), audit.BadSignature},
		"a key that it brings":         {mint(t, head(claims{"jwk": json.RawMessage(jwkOther)}), b.good(p.url, nil), other), audit.BadSignature},
		"a key that it points to":      {mint(t, head(claims{"jku": p.url + "/keys", "kid": "o"}), b.good(p.url, nil), other), audit.BadSignature},
		"a critical extension":         {mint(t, head(claims{"crit": []string{"x"}, "x": 1}), b.good(p.url, nil), key), audit.BadSignature},
		"a logout token":               {mint(t, head(claims{"typ": "logout+jwt"}), b.good(p.url, nil), key), audit.Malformed},
		"a proof of possession":        {mint(t, head(claims{"typ": "dpop+jwt"}), b.good(p.url, nil), key), audit.Malformed},
		"no signature":                 {parts[0] + "." + parts[1] + ".", audit.BadSignature},
		"another payload":              {parts[0] + "." + evil + "." + parts[2], audit.BadSignature},
		"four parts":                   {sound + "." + parts[2], audit.Malformed},
		"two parts":                    {parts[0] + "." + parts[1], audit.Malformed},
		"JSON form":                    {`{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`, audit.Malformed},
		"too long":                     {with(claims{"x": strings.Repeat("x", 13<<10)}), audit.Malformed},
		"expired":                      {with(claims{"exp": at(0)}), audit.Expired},
		"no end":                       {with(claims{"exp": nil}), audit.Expired},
		"an end that is text":          {with(claims{"exp": "9999999999"}), audit.Malformed},
		"not yet":                      {with(claims{"nbf": at(time.Minute)}), audit.NotYetValid},
		"issued in the future":         {with(claims{"iat": at(time.Minute)}), audit.NotYetValid},
		"another audience":             {with(claims{"aud": "sealward2"}), audit.WrongAudience},
		"other audiences":              {with(claims{"aud": []string{"SEALWARD", "sealward/", "*"}}), audit.WrongAudience},
		"no audience":                  {with(claims{"aud": nil}), audit.WrongAudience},
		"another issuer":               {with(claims{"iss": "https://id.example.com"}), audit.WrongIssuer},
		"the issuer with a slash":      {with(claims{"iss": p.url + "/"}), audit.WrongIssuer},
		"no issuer":                    {with(claims{"iss": nil}), audit.WrongIssuer},
		"any user":                     {with(claims{"sub": "*"}), audit.BadIdentity},
		"a pattern":                    {with(claims{"sub": "alic?"}), audit.BadIdentity},
		"a class":                      {with(claims{"sub": "[a-z]lice"}), audit.BadIdentity},
		"a line of the log":            {with(claims{"sub": "alice\n{\"seq\":1}"}), audit.BadIdentity},
		"a NUL":                        {with(claims{"sub": "alice\x00"}), audit.BadIdentity},
		"a look-alike":                 {with(claims{"sub": "аlice"}), audit.BadIdentity}, // a Cyrillic a
		"a fullwidth letter":           {with(claims{"sub": "ａlice"}), audit.BadIdentity},
		"text that turns around":       {with(claims{"sub": "alice\u202e"}), audit.BadIdentity},
		"a space":                      {with(claims{"sub": "alice "}), audit.BadIdentity},
		"a list of subjects":           {with(claims{"sub": "eve,users:id:alice roles:id:auditors"}), audit.BadIdentity},
		"a long name":                  {with(claims{"sub": strings.Repeat("a", 300)}), audit.BadIdentity},
		"no name":                      {with(claims{"sub": ""}), audit.BadIdentity},
		"a name in another case":       {with(claims{"sub": nil, "SUB": "alice"}), audit.BadIdentity},
		"roles that are no text":       {with(claims{"groups": []any{"orders-dev", 1}}), audit.BadIdentity},
		"roles that are an object":     {with(claims{"groups": claims{"orders-dev": true}}), audit.BadIdentity},
		"a claim twice":                {raw(fmt.Sprintf(`{"iss":%q,"aud":"sealward","exp":%d,"sub":"eve","sub":"alice"}`, p.url, at(time.Hour))), audit.WrongIssuer},
		"trailing text":                {raw(string(b.good(p.url, nil)) + `{"sub":"x"}`), audit.WrongIssuer},
		"no object":                    {raw(`["alice"]`), audit.WrongIssuer},
	} {
		if code, reason := b.refused(c.token); code != 401 || reason != c.reason && !(reason == audit.Malformed && c.reason == audit.WrongIssuer) {
			t.Errorf("%s: %d, audited as %q, want %q", name, code, reason, c.reason)
		}
	}
	if rec := b.audit.take(); len(rec) != 1 { // the good one
		t.Errorf("records %+v", rec)
	}
	// The claim of a mail address counts only where the issuer checked it.
	cfg.SubjectClaim = "email"
	b.identify(serve.Identities{Issuers: []*serve.Issuer{openIssuer(t, b, cfg)}})
	for verified, code := range map[any]int{nil: 200, true: 200, false: 401, "true": 401} {
		if _, got := b.whoami(with(claims{"email": "alice@example.com", "email_verified": verified})); got != code {
			t.Errorf("email_verified %v: %d, want %d", verified, got, code)
		}
	}
}

func TestKeysRotate(t *testing.T) {
	b := newBench(t)
	b.publish()
	p, first, second := newProvider(t), ecKey(t), ecKey(t)
	p.publish(public("1", first))
	b.identify(serve.Identities{Issuers: []*serve.Issuer{openIssuer(t, b, p.config())}})
	by := func(kid string, key any) string {
		return mint(t, claims{"alg": "ES256", "kid": kid}, b.good(p.url, claims{"exp": b.now.Add(24 * time.Hour).Unix()}), key)
	}
	old, renewed := by("1", first), by("2", second)
	expect := func(what, token string, code int, reason string) {
		t.Helper()
		if got, why := b.refused(token); got != code || why != reason {
			t.Errorf("%s: %d %q, want %d %q", what, got, why, code, reason)
		}
	}
	expect("the first key", old, 200, "")
	expect("a key that is not published yet", renewed, 401, audit.BadSignature)
	// A flood of unknown keys and of forgeries is not a flood of fetches.
	fetched := p.fetches.Load()
	for i := range 200 {
		expect("a guess", by(fmt.Sprint("guess", i), second), 401, audit.BadSignature)
		expect("a forgery", by("1", second), 401, audit.BadSignature)
	}
	if n := p.fetches.Load() - fetched; n != 0 {
		t.Errorf("%d fetches within 10 s", n)
	}
	p.publish(public("1", first), public("2", second))
	b.now = b.now.Add(11 * time.Second)
	expect("the new key", renewed, 200, "")
	expect("the old key, still published", old, 200, "")
	if n := p.fetches.Load() - fetched; n != 1 {
		t.Errorf("%d fetches for the rotation", n)
	}
	// A key that is published no more ends, without a token that asks for another.
	p.publish(public("2", second))
	b.now = b.now.Add(6 * time.Minute)
	eventually(t, "the old key is refused", func() bool { code, _ := b.refused(old); return code == 401 })
	expect("the new key", renewed, 200, "")

	// With the issuer away, known keys hold for an hour; nobody is denied by mistake.
	p.down.Store(true)
	b.now = b.now.Add(time.Minute)
	expect("an unknown key of an issuer that is away", by("3", second), 503, audit.Unavailable)
	expect("a known key", renewed, 200, "")
	expect("a forgery", by("2", first), 401, audit.BadSignature)
	w := b.get("/v1/whoami", by("3", second))
	if !strings.Contains(w.Body.String(), "identity-unavailable") || w.Header().Get("Retry-After") == "" {
		t.Errorf("%v %s", w.Header(), w.Body)
	}
	b.now = b.now.Add(time.Hour)
	expect("a known key after an hour", renewed, 503, audit.Unavailable)
	p.down.Store(false)
	expect("within the pause", renewed, 503, audit.Unavailable)
	b.now = b.now.Add(11 * time.Second)
	expect("the issuer is back", renewed, 200, "")
	if strings.Contains(b.log.String(), "canary") {
		t.Error("the issuer's answer is in the log")
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 500 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("never: %s", what)
}

// What an issuer answers is not believed, and not waited for.
func TestIssuersThatMisbehave(t *testing.T) {
	key := ecKey(t)
	for name, misbehave := range map[string]func(*provider, *serve.IssuerConfig){
		"a document of another issuer": func(p *provider, _ *serve.IssuerConfig) { p.says = "https://id.example.com" },
		"keys in the clear":            func(p *provider, _ *serve.IssuerConfig) { p.at = strings.Replace(p.url, "https", "http", 1) + "/keys" },
		"keys that moved":              func(p *provider, _ *serve.IssuerConfig) { p.at = p.url + "/moved" },
		"no such keys":                 func(p *provider, _ *serve.IssuerConfig) { p.at = p.url + "/none" },
		"only a symmetric key": func(p *provider, _ *serve.IssuerConfig) {
			p.publish(jose.JSONWebKey{Key: []byte("0123456789abcdef0123456789abcdef"), KeyID: "k"})
		},
		"only a private key":   func(p *provider, _ *serve.IssuerConfig) { p.publish(jose.JSONWebKey{Key: key, KeyID: "k"}) },
		"an encryption key":    func(p *provider, _ *serve.IssuerConfig) { k := public("k", key); k.Use = "enc"; p.publish(k) },
		"no key":               func(p *provider, _ *serve.IssuerConfig) { p.publish() },
		"an unknown authority": func(_ *provider, c *serve.IssuerConfig) { c.CAFile = "" },
		"it stalls":            func(p *provider, _ *serve.IssuerConfig) { p.stall.Store(true) },
		"it is down":           func(p *provider, _ *serve.IssuerConfig) { p.down.Store(true) },
	} {
		t.Run(name, func(t *testing.T) {
			b, p := newBench(t), newProvider(t)
			p.publish(public("k", key))
			cfg := p.config()
			misbehave(p, &cfg)
			b.identify(serve.Identities{Issuers: []*serve.Issuer{openIssuer(t, b, cfg)}})
			ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
			defer cancel()
			r := httptest.NewRequestWithContext(ctx, "GET", "/v1/whoami", nil)
			r.Header.Set("Authorization", "Bearer "+mint(t, claims{"alg": "ES256", "kid": "k"}, b.good(p.url, nil), key))
			w := httptest.NewRecorder()
			b.http.ServeHTTP(w, r)
			if w.Code != 503 || !strings.Contains(w.Body.String(), "identity-unavailable") {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		})
	}
}

func TestJWKSFile(t *testing.T) {
	b := newBench(t)
	b.publish()
	rs, es, weak := rsaKey(t), ecKey(t), new(rsa.PrivateKey)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if weak, err = rsa.GenerateKey(rand.Reader, 1024); err != nil {
		t.Fatal(err)
	}
	set := func(keys ...jose.JSONWebKey) string {
		text, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	file := filepath.Join(t.TempDir(), "jwks.json")
	write(t, file, set(public("es", es), public("ed", ed), public("weak", weak), jose.JSONWebKey{Key: []byte("a-symmetric-key-0123456789abcdef"), KeyID: "hs"}))
	cfg := serve.IssuerConfig{Issuer: "ci", Audience: "sealward", JWKSFile: file, Algorithms: []string{"ES256", "EdDSA", "RS256"}}
	b.identify(serve.Identities{Issuers: []*serve.Issuer{openIssuer(t, b, cfg)}})
	by := func(alg, kid string, key any) string {
		return mint(t, claims{"alg": alg, "kid": kid}, b.good("ci", nil), key)
	}
	expect := func(what, token string, code int) {
		t.Helper()
		if _, got := b.whoami(token); got != code {
			t.Errorf("%s: %d, want %d", what, got, code)
		}
	}
	expect("EC", by("ES256", "es", es), 200)
	expect("Ed25519", by("EdDSA", "ed", ed), 200)
	expect("a short RSA key", by("RS256", "weak", weak), 401)
	expect("the symmetric key", by("HS256", "hs", []byte("a-symmetric-key-0123456789abcdef")), 401)
	expect("not in the file", by("RS256", "rs", rs), 401)
	pinned := public("rs", rs)
	pinned.Algorithm = "PS256"
	write(t, file, set(pinned))
	expect("a key for another algorithm", by("RS256", "rs", rs), 401)
	write(t, file, set(public("rs", rs)))
	expect("added", by("RS256", "rs", rs), 200)
	expect("removed", by("ES256", "es", es), 401)
	for _, broken := range []string{"", "{", `{"keys": []}`, `{"keys": [{"kty": "oct", "k": "AAAA"}]}`, strings.Repeat(" ", 2<<20)} {
		write(t, file, broken)
		expect("a broken file", by("RS256", "rs", rs), 200)
	}
	if n := strings.Count(b.log.String(), "what was read before stays"); n != 5 {
		t.Errorf("logged %d times", n)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		expect("gone", by("RS256", "rs", rs), 503)
	}
	if n := strings.Count(b.log.String(), "file of serve is gone"); n != 1 {
		t.Errorf("logged %d times", n)
	}
	write(t, file, "{")
	expect("back, and broken", by("RS256", "rs", rs), 503)
	write(t, file, set(public("rs", rs)))
	expect("back", by("RS256", "rs", rs), 200)
}

// Several kinds at once: each token goes to the one that it is for.
func TestIdentitiesAreApart(t *testing.T) {
	b := newBench(t)
	b.publish()
	p, q, key, key2 := newProvider(t), newProvider(t), ecKey(t), ecKey(t)
	p.publish(public("k", key))
	q.publish(public("k", key2))
	tokens, err := serve.OpenTokens(b.tokens, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	first, second := p.config(), q.config()
	first.Prefix, second.Prefix, second.Roles = "corp/", "ci/", serve.Roles{}
	b.identify(serve.Identities{Tokens: tokens, Issuers: []*serve.Issuer{openIssuer(t, b, first), openIssuer(t, b, second)}})
	es := claims{"alg": "ES256", "kid": "k"}
	for token, want := range map[string]string{
		b.bearer["alice"]:                              "users:id:alice [] token",
		mint(t, es, b.good(p.url, nil), key):           "users:id:corp/alice [roles:id:orders-dev] oidc",
		mint(t, es, b.good(q.url, nil), key2):          "users:id:ci/alice [] oidc",
		mint(t, es, b.good(q.url, nil), key):           "  ",
		mint(t, es, b.good(p.url, nil), key2):          "  ",
		"swt1_" + mint(t, es, b.good(p.url, nil), key): "  ",
		"not-a-token": "  ",
	} {
		who, code := b.whoami(token)
		got := fmt.Sprint(who.Subject, " ", who.Roles, " ", who.Method)
		if code != 200 {
			got = "  "
		}
		if got != want {
			t.Errorf("%.30s: %d %s, want %s", token, code, got, want)
		}
	}
	if who, _ := b.whoami(b.bearer["alice"]); !who.Expires.Equal(b.now.Add(time.Hour)) {
		t.Errorf("a token's end: %v", who.Expires)
	}
	// Two headers: whoever stands in between may have looked at the other one.
	r := httptest.NewRequest("GET", "/v1/whoami", nil)
	r.Header["Authorization"] = []string{"Bearer " + b.bearer["alice"], "Bearer " + b.bearer["lister"]}
	w := httptest.NewRecorder()
	b.http.ServeHTTP(w, r)
	if w.Code != 401 || b.audit.unauth[audit.Malformed] != 3 { // one of them each for the two tokens above
		t.Errorf("two headers: %d, audited as %v", w.Code, b.audit.unauth)
	}
}

// panicking fails as a library on hostile input may.
type panicking struct{}

func (panicking) Authenticate(r *http.Request, _ time.Time) (serve.Caller, error) {
	panic("no such claim in " + r.Header.Get("Authorization"))
}

func TestAnAuthenticatorThatPanics(t *testing.T) {
	b := newBench(t)
	b.publish()
	b.identify(panicking{})
	w := b.get(base+"/db/keys/password", "a-secret-token")
	if w.Code != 500 || strings.Contains(w.Body.String()+b.log.String(), "a-secret-token") || strings.Contains(w.Body.String(), "hunter") {
		t.Errorf("%d %s\n%s", w.Code, w.Body, b.log.String())
	}
}

// Guesses from very many addresses are refused each, and keep nobody from being served.
func TestGuessesFromManyAddresses(t *testing.T) {
	b := newBench(t)
	b.publish()
	for i := range 17_000 {
		r := httptest.NewRequest("GET", "/v1/whoami", nil)
		r.RemoteAddr = fmt.Sprintf("10.%d.%d.%d:1", i>>16, i>>8&255, i&255)
		r.Header.Set("Authorization", fmt.Sprintf("Bearer swt1_%016x_guess", i))
		w := httptest.NewRecorder()
		b.http.ServeHTTP(w, r)
		if w.Code != 401 {
			t.Fatalf("guess %d: %d", i, w.Code)
		}
	}
	if w := b.get(base+"/db/keys/password", "alice"); w.Code != 200 || len(b.audit.take()) != 1 {
		t.Errorf("alice: %d", w.Code)
	}
}

func TestIssuerSettings(t *testing.T) {
	good := serve.IssuerConfig{Issuer: "https://id.example.com/realm", Audience: "sealward"}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*serve.IssuerConfig){
		"audience is missing":  func(c *serve.IssuerConfig) { c.Audience = "" },
		"issuer is missing":    func(c *serve.IssuerConfig) { c.Issuer = "" },
		"issuer is not https":  func(c *serve.IssuerConfig) { c.Issuer = "http://id.example.com" },
		"not https://HOST":     func(c *serve.IssuerConfig) { c.Issuer = "https://u:p@id.example.com" },
		"any text":             func(c *serve.IssuerConfig) { c.Issuer = "https://id.example.com?x" },
		`"HS256" is not`:       func(c *serve.IssuerConfig) { c.Algorithms = []string{"RS256", "HS256"} },
		`"none" is not`:        func(c *serve.IssuerConfig) { c.Algorithms = []string{"none"} },
		"subject prefix":       func(c *serve.IssuerConfig) { c.Prefix = "*" },
		"both claim and allow": func(c *serve.IssuerConfig) { c.Roles.Claim = "groups" },
		"both claim and":       func(c *serve.IssuerConfig) { c.Roles.Allow = []string{"x"} },
		"roles.allow":          func(c *serve.IssuerConfig) { c.Roles = serve.Roles{Claim: "groups", Allow: []string{"orders-*"}} },
		"nothing is fetched":   func(c *serve.IssuerConfig) { c.JWKSFile, c.CAFile = "j", "c" },
	} {
		cfg := good
		change(&cfg)
		if err := cfg.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
	var said bytes.Buffer
	if _, err := serve.OpenIssuer(serve.IssuerConfig{Issuer: "x", Audience: "y", JWKSFile: filepath.Join(t.TempDir(), "none")}, logged.To(&said)); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("%v", err)
	}
}
