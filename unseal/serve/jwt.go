package serve

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	josejson "github.com/go-jose/go-jose/v4/json"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/sealward/sealward/unseal/access"
	"github.com/sealward/sealward/unseal/audit"
)

const (
	maxKeySet = 1 << 20 // bytes of a JWKS
	maxKeys   = 32      // of an issuer: a token without a key id is tried with each
	minRSA    = 2048    // bits

	// Clocks differ: nbf and iat may lie this much ahead. exp gets no such grace.
	clockSkew = 30 * time.Second

	// An issuer's keys are asked for anew when they are older than keysRefresh, or when
	// a token names an unknown one; whatever comes, not more often than keysPause. When
	// the issuer is away, what it said is good until keysLast.
	keysRefresh  = 5 * time.Minute
	keysPause    = 10 * time.Second
	keysLast     = time.Hour
	fetchTimeout = 5 * time.Second
)

// IssuerConfig says whose JWTs are accepted, and what they may say.
type IssuerConfig struct {
	Issuer   string // the iss of its tokens; an https URL, where its keys are found by OIDC discovery
	Audience string // must be in aud
	JWKSFile string // its keys, instead of discovery; Issuer may be any text then
	CAFile   string // PEM, of the issuer's certificate; "" means the system's roots
	// Algorithms of signatures; default RS256 and ES256. Only asymmetric ones.
	Algorithms []string
	// SubjectClaim, default sub, with Prefix before it, is the caller's users:id:…. It and
	// Roles.Claim are names of claims or, beginning with a slash, JSON pointers (RFC 6901)
	// to deeper ones, as in /realm_access/roles.
	SubjectClaim, Prefix string
	Roles                Roles
}

// asymmetric algorithms: with the others, whoever can check a token can make one.
func asymmetric() []jose.SignatureAlgorithm {
	return []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA}
}

// Check says what is missing or wrong. It opens no file.
func (c IssuerConfig) Check() error {
	var errs []error
	u, err := url.Parse(c.Issuer)
	switch {
	case c.Issuer == "" || len(c.Issuer) > 255:
		errs = append(errs, errors.New("issuer is missing or longer than 255 characters"))
	case c.JWKSFile == "" && (err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != ""):
		errs = append(errs, errors.New("issuer is not https://HOST[/PATH]; with jwksFile it may be any text"))
	case c.JWKSFile != "" && c.CAFile != "":
		errs = append(errs, errors.New("caFile is of no use with jwksFile: nothing is fetched"))
	}
	if c.Audience == "" {
		errs = append(errs, errors.New("audience is missing: without it a token that was made for another service would be accepted"))
	}
	for _, a := range c.Algorithms {
		if !slices.Contains(asymmetric(), jose.SignatureAlgorithm(a)) {
			errs = append(errs, fmt.Errorf("algorithm %.20q is not one of %v", a, asymmetric()))
		}
	}
	if c.Prefix != "" {
		if _, err := user(c.Prefix, "x"); err != nil {
			errs = append(errs, fmt.Errorf("subject prefix %.40q holds characters that no subject has", c.Prefix))
		}
	}
	if (c.Roles.Claim == "") != (len(c.Roles.Allow) == 0) {
		errs = append(errs, errors.New("roles needs both claim and allow: the issuer may assert exactly the roles that are listed"))
	}
	for _, claim := range []string{c.SubjectClaim, c.Roles.Claim} {
		if strings.HasPrefix(claim, "/") && strings.Contains(strings.NewReplacer("~0", "", "~1", "").Replace(claim), "~") {
			errs = append(errs, fmt.Errorf("claim %.80q is no JSON pointer: a ~ in a name is written ~0, a slash ~1", claim))
		}
	}
	return errors.Join(append(errs, c.Roles.check())...)
}

// Issuer verifies the JWTs of one issuer.
type Issuer struct {
	cfg        IssuerConfig
	algorithms []jose.SignatureAlgorithm
	keys       keySource
	// tokens that were found good: each read brings the same one.
	tokens verified // by the first of the keys
}

// keySource has the public keys of an issuer.
type keySource interface {
	// current returns the keys; renew asks for newer ones than are known. An error
	// means that they are not to be had now.
	current(ctx context.Context, now time.Time, renew bool) ([]jose.JSONWebKey, error)
}

// OpenIssuer reads the files of an issuer. The issuer itself need not be reachable: its
// keys are fetched for the first token.
func OpenIssuer(cfg IssuerConfig, log *slog.Logger) (*Issuer, error) {
	if err := cfg.Check(); err != nil {
		return nil, fmt.Errorf("issuer %s: %w", cfg.Issuer, err)
	}
	if cfg.SubjectClaim == "" {
		cfg.SubjectClaim = "sub"
	}
	i := &Issuer{cfg: cfg, algorithms: []jose.SignatureAlgorithm{jose.RS256, jose.ES256}}
	if len(cfg.Algorithms) > 0 {
		i.algorithms = nil
		for _, a := range cfg.Algorithms {
			i.algorithms = append(i.algorithms, jose.SignatureAlgorithm(a))
		}
	}
	var err error
	if cfg.JWKSFile != "" {
		var file *reloaded[[]jose.JSONWebKey]
		if file, err = reload(cfg.JWKSFile, maxKeySet, log, parseKeySet); err == nil {
			i.keys = fileKeys{file}
		}
	} else {
		var client *httpClient
		if client, err = newHTTPClient(cfg.CAFile, log); err == nil {
			i.keys = &remoteKeys{issuer: cfg.Issuer, client: client, log: log}
		}
	}
	if err != nil {
		return nil, fmt.Errorf("issuer %s: %w", cfg.Issuer, err)
	}
	return i, nil
}

// unverifiedIssuer says whose a token claims to be, so that the one verifier can be
// chosen that then checks it.
func unverifiedIssuer(token string) (issuer string, isJWT bool) {
	_, rest, ok1 := strings.Cut(token, ".")
	payload, signature, ok2 := strings.Cut(rest, ".")
	if !ok1 || !ok2 || strings.Contains(signature, ".") {
		return "", false
	}
	text, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return "", false
	}
	var claims struct {
		Issuer string `json:"iss"`
	}
	// The same reader as the verifier's: names in one case only, none twice.
	if josejson.Unmarshal(text, &claims) != nil {
		return "", false
	}
	return claims.Issuer, true
}

// known returns the caller of a token that was verified before, unless the issuer's keys
// were read anew since: one of them may have been withdrawn.
func (i *Issuer) known(ctx context.Context, token credentialHash, now time.Time) (Caller, bool) {
	good, ok := i.tokens.get(token, now)
	if !ok {
		return Caller{}, false
	}
	keys, err := i.keys.current(ctx, now, false)
	return good.caller, err == nil && len(keys) > 0 && good.by == &keys[0]
}

// authenticate verifies a token. Every error is an *AuthError: the libraries' own
// quote the token.
func (i *Issuer) authenticate(ctx context.Context, token string, now time.Time) (Caller, error) {
	refuse := func(reason string) (Caller, error) { return Caller{}, &AuthError{reason} }
	jws, err := jose.ParseSignedCompact(token, i.algorithms)
	var algorithm *jose.ErrUnexpectedSignatureAlgorithm
	switch {
	case errors.As(err, &algorithm):
		return refuse(audit.BadSignature)
	case err != nil || len(jws.Signatures) != 1:
		return refuse(audit.Malformed)
	}
	header := jws.Signatures[0].Protected
	if !isAccessToken(header) {
		return refuse(audit.Malformed)
	}
	payload, keys, reason := i.verify(ctx, jws, header, now)
	if reason != "" {
		return refuse(reason)
	}
	var claims jwt.Claims
	all := map[string]any{}
	if josejson.Unmarshal(payload, &claims) != nil || josejson.Unmarshal(payload, &all) != nil {
		return refuse(audit.Malformed)
	}
	switch {
	case claims.Issuer != i.cfg.Issuer:
		return refuse(audit.WrongIssuer)
	case !claims.Audience.Contains(i.cfg.Audience):
		return refuse(audit.WrongAudience)
	case claims.Expiry == nil || !now.Before(claims.Expiry.Time()):
		return refuse(audit.Expired)
	}
	notBefore := claims.NotBefore.Time().Add(-clockSkew)
	if issued := claims.IssuedAt.Time().Add(-clockSkew); issued.After(notBefore) {
		notBefore = issued
	}
	if now.Before(notBefore) {
		return refuse(audit.NotYetValid)
	}
	subject, _ := claimOf(all, i.cfg.SubjectClaim)
	name, ok := subject.(string)
	if !ok || isEmail(i.cfg.SubjectClaim) && !emailVerified(all, i.cfg.SubjectClaim) {
		return refuse(audit.BadIdentity)
	}
	who, err := user(i.cfg.Prefix, name)
	if err != nil {
		return Caller{}, err
	}
	roles, _ := claimOf(all, i.cfg.Roles.Claim)
	asserted, ok := texts(roles)
	if !ok {
		return refuse(audit.BadIdentity)
	}
	caller := Caller{Identity: access.Identity{User: who, Roles: i.cfg.Roles.of(asserted)}, Credential: credentialID(claims.ID), Method: "oidc", Expires: claims.Expiry.Time()}
	i.tokens.put(sha256.Sum256([]byte(token)), vouched{caller, notBefore, caller.Expires, &keys[0]}, now)
	return caller, nil
}

// claimOf finds a claim by its name, or by a JSON pointer through objects. What is on
// the way and no object is a claim that is not there.
func claimOf(claims map[string]any, name string) (claim any, ok bool) {
	if !strings.HasPrefix(name, "/") {
		claim, ok = claims[name]
		return claim, ok
	}
	claim = claims
	for step := range strings.SplitSeq(name[1:], "/") {
		object, isObject := claim.(map[string]any)
		if claim, ok = object[pointerStep.Replace(step)]; !isObject || !ok {
			return nil, false
		}
	}
	return claim, true
}

// pointerStep is how RFC 6901, 3, spells a slash and a tilde in a step.
var pointerStep = strings.NewReplacer("~1", "/", "~0", "~")

// isAccessToken refuses what states that it is something else, such as a logout token
// or a proof of possession, which an issuer signs with the same keys (RFC 8725, 3.11).
func isAccessToken(h jose.Header) bool {
	typ, ok := h.ExtraHeaders[jose.HeaderType]
	if !ok {
		return true
	}
	text, _ := typ.(string)
	switch strings.TrimPrefix(strings.ToLower(text), "application/") {
	case "jwt", "at+jwt":
		return true
	}
	return false
}

// verify returns the payload, and the keys of which one made the signature, else a
// reason. Whatever key the token itself brings or points to is not looked at.
func (i *Issuer) verify(ctx context.Context, jws *jose.JSONWebSignature, h jose.Header, now time.Time) (payload []byte, with []jose.JSONWebKey, reason string) {
	for _, renew := range []bool{false, true} {
		keys, err := i.keys.current(ctx, now, renew)
		if err != nil {
			return nil, nil, audit.Unavailable
		}
		known := false
		for _, k := range keys {
			if h.KeyID != "" && k.KeyID != h.KeyID || k.Algorithm != "" && k.Algorithm != h.Algorithm {
				continue
			}
			known = known || h.KeyID != ""
			if payload, err := jws.Verify(k.Key); err == nil {
				return payload, keys, ""
			}
		}
		if known {
			break // a forgery; newer keys would not help
		}
	}
	return nil, nil, audit.BadSignature
}

func isEmail(claim string) bool { return claim == "email" || strings.HasSuffix(claim, "/email") }

// emailVerified: an issuer that lets people enter any address says false beside it.
func emailVerified(claims map[string]any, claim string) bool {
	v, stated := claimOf(claims, claim+"_verified")
	return !stated || v == true
}

// texts of a claim that is a string or a list of them, or not there.
func texts(claim any) (out []string, ok bool) {
	switch c := claim.(type) {
	case nil:
		return nil, true
	case string:
		return []string{c}, true
	case []any:
		for _, e := range c {
			s, ok := e.(string)
			if !ok {
				return nil, false
			}
			out = append(out, s)
		}
		return out, true
	}
	return nil, false
}

// credentialID keeps an id that an issuer gave a token if it can be nothing else.
func credentialID(id string) string {
	if len(id) > 64 {
		return ""
	}
	for _, c := range []byte(id) {
		if c <= ' ' || c > '~' {
			return ""
		}
	}
	return id
}

// parseKeySet reads a JWKS and keeps the keys that can verify a signature. Keys of
// unknown kinds are passed over (RFC 7517, 5); none at all is an error. No error quotes
// the text.
func parseKeySet(data []byte) ([]jose.JSONWebKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if json.Unmarshal(data, &set) != nil {
		return nil, errors.New(`is not a JSON Web Key Set ({"keys": [...]})`)
	}
	var out []jose.JSONWebKey
	for _, raw := range set.Keys {
		var k jose.JSONWebKey
		if k.UnmarshalJSON(raw) != nil || !k.Valid() || k.Use != "" && k.Use != "sig" {
			continue
		}
		switch public := k.Key.(type) {
		case *rsa.PublicKey:
			if public.N.BitLen() < minRSA {
				continue
			}
		case *ecdsa.PublicKey, ed25519.PublicKey:
		default: // symmetric or private: never for this
			continue
		}
		out = append(out, k)
	}
	if len(out) == 0 || len(out) > maxKeys {
		return nil, fmt.Errorf("holds %d public keys for signatures; from 1 to %d are usable (RSA of %d bits or more, EC, Ed25519)", len(out), maxKeys, minRSA)
	}
	return out, nil
}

// fileKeys are the keys of a JWKS file.
type fileKeys struct{ file *reloaded[[]jose.JSONWebKey] }

func (f fileKeys) current(context.Context, time.Time, bool) ([]jose.JSONWebKey, error) {
	keys, ok := f.file.get()
	if !ok {
		return nil, errors.New("the JWKS file is gone")
	}
	return keys, nil
}

// remoteKeys are the keys that an issuer publishes. One fetch is under way at a time,
// and nobody waits for it who has a usable key.
type remoteKeys struct {
	issuer string
	client *httpClient
	log    *slog.Logger

	mu      sync.Mutex
	keys    []jose.JSONWebKey
	fetched time.Time     // keys
	tried   time.Time     // the last fetch, good or not
	failed  bool          // the last fetch
	done    chan struct{} // closed by the fetch under way; nil when there is none
}

var errNoKeys = errors.New("the issuer's keys cannot be had")

func (r *remoteKeys) current(ctx context.Context, now time.Time, renew bool) ([]jose.JSONWebKey, error) {
	r.mu.Lock()
	usable := r.keys != nil && now.Sub(r.fetched) < keysLast
	if (renew || !usable || now.Sub(r.fetched) >= keysRefresh) && r.done == nil && (r.tried.IsZero() || now.Sub(r.tried) >= keysPause) {
		r.tried, r.done = now, make(chan struct{})
		go r.fetch(now, r.done)
	}
	done := r.done
	if usable && !renew {
		defer r.mu.Unlock()
		return r.keys, nil
	}
	r.mu.Unlock()
	if done != nil {
		select {
		case <-done:
		case <-ctx.Done():
			return nil, errNoKeys
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	// With an unknown key and an issuer that is away, nobody can tell whether the token
	// is good.
	if r.failed || r.keys == nil || now.Sub(r.fetched) >= keysLast {
		return nil, errNoKeys
	}
	return r.keys, nil
}

// fetch is not tied to the request that began it: others wait for it too.
func (r *remoteKeys) fetch(now time.Time, done chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*fetchTimeout)
	defer cancel()
	keys, err := r.download(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	defer close(done)
	r.done = nil
	if r.failed = err != nil; r.failed {
		r.log.Error("the keys of an issuer cannot be had; tokens with an unknown key are answered 503", "issuer", r.issuer, "error", err)
		return
	}
	r.keys, r.fetched = keys, now
}

func (r *remoteKeys) download(ctx context.Context) (keys []jose.JSONWebKey, err error) {
	// Nothing else would catch it in a goroutine: the whole agent would end.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("what it answered cannot be read (%T)", p)
		}
	}()
	client, err := r.client.get()
	if err != nil {
		return nil, err
	}
	// go-oidc checks that the document is this issuer's. Its own key set is not used: it
	// fetches for every bad signature, and hides why it failed.
	provider, err := oidc.NewProvider(oidc.ClientContext(ctx, &client.Client), r.issuer)
	var mismatch *oidc.IssuerMismatchError
	var network *url.Error
	switch {
	case errors.As(err, &mismatch):
		return nil, errors.New("the document at its /.well-known/openid-configuration is of another issuer")
	case errors.As(err, &network):
		return nil, network.Err
	case err != nil:
		return nil, errors.New("its /.well-known/openid-configuration is not there or not one")
	}
	var doc struct {
		JWKS string `json:"jwks_uri"`
	}
	if err := provider.Claims(&doc); err != nil || !strings.HasPrefix(doc.JWKS, "https://") {
		return nil, errors.New("its jwks_uri is not https://…")
	}
	body, status, err := client.do(ctx, http.MethodGet, doc.JWKS, nil, nil)
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("its jwks_uri answered %d", status)
	}
	if keys, err = parseKeySet(body); err != nil {
		return nil, fmt.Errorf("its jwks_uri: %w", err)
	}
	return keys, nil
}
