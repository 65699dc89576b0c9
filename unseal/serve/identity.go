package serve

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal/access"
	"github.com/sealward/sealward/unseal/audit"
)

// Authenticator finds the caller of a request from what it carries. Errors are
// *AuthError; one with the reason audit.Unavailable or audit.RateLimited says nothing
// about the credential.
type Authenticator interface {
	Authenticate(r *http.Request, now time.Time) (Caller, error)
}

// Caller is who a request comes from, verified.
type Caller struct {
	access.Identity
	Credential string    // id of the credential, never the credential; "" for none
	Method     string    // token, oidc, kubernetes or tls
	Expires    time.Time // of the credential; zero for never
}

// AuthError says why a request has no caller, with a reason of package audit.
type AuthError struct{ Reason string }

func (e *AuthError) Error() string { return "not authenticated: " + e.Reason }

// Identities are the kinds of identity that are on; any may be nil. Every request
// goes to exactly one of them, and its roles come from that one alone:
//
//   - a request with an Authorization header is its bearer token's, also when it came
//     with a certificate, and a bad token is not made good by a certificate;
//   - swt1_… goes to Tokens; a JWT of a known issuer to that issuer; anything else
//     to Kubernetes;
//   - a request without that header is its client certificate's.
type Identities struct {
	Tokens       *Tokens
	Issuers      []*Issuer
	Kubernetes   *TokenReview
	Certificates *ClientCertificates
}

// maxBearer bounds what is parsed of an unverified token.
const maxBearer = 12 << 10

// Authenticate implements [Authenticator].
func (i Identities) Authenticate(r *http.Request, now time.Time) (Caller, error) {
	switch headers := len(r.Header["Authorization"]); {
	case headers == 1:
		return i.bearer(r, bearer(r), now)
	case headers > 1:
		// Two programs in between could each believe in another one.
		return Caller{}, &AuthError{audit.Malformed}
	case i.Certificates != nil && r.TLS != nil && len(r.TLS.PeerCertificates) > 0:
		return i.Certificates.authenticate(r.TLS.PeerCertificates, now)
	}
	return Caller{}, &AuthError{audit.NoCredential}
}

func (i Identities) bearer(r *http.Request, token string, now time.Time) (Caller, error) {
	switch {
	case token == "":
		return Caller{}, &AuthError{audit.NoCredential}
	case len(token) > maxBearer:
		return Caller{}, &AuthError{audit.Malformed}
	case strings.HasPrefix(token, tokenPrefix) && i.Tokens != nil:
		return i.Tokens.Authenticate(token, now)
	}
	if len(i.Issuers) > 0 {
		hash := credentialHash(sha256.Sum256([]byte(token)))
		for _, issuer := range i.Issuers {
			if caller, ok := issuer.known(r.Context(), hash, now); ok {
				return caller, nil
			}
		}
	}
	issuer, isJWT := unverifiedIssuer(token)
	for _, known := range i.Issuers {
		if isJWT && known.cfg.Issuer == issuer {
			return known.authenticate(r.Context(), token, now)
		}
	}
	switch {
	case strings.HasPrefix(token, tokenPrefix):
		// One of another agent: not for the API server's eyes.
		return Caller{}, &AuthError{audit.UnknownToken}
	case i.Kubernetes != nil:
		return i.Kubernetes.authenticate(r.Context(), token, limitedAs(host(r)), now)
	case isJWT && len(i.Issuers) > 0:
		return Caller{}, &AuthError{audit.WrongIssuer}
	case isJWT:
		return Caller{}, &AuthError{audit.UnknownToken}
	}
	return Caller{}, &AuthError{audit.Malformed}
}

// Roles says which roles an issuer may assert: a value of the claim counts when it is
// in Allow, letter by letter, and is then roles:id:VALUE.
type Roles struct {
	Claim string // "" for none; unused for Kubernetes, whose groups it is about
	Allow []string
}

func (r Roles) check() error {
	for _, name := range r.Allow {
		if _, err := manifest.ParseSubject("roles:id:" + name); err != nil {
			return fmt.Errorf("roles.allow: %w", err)
		}
	}
	return nil
}

// of keeps of what an issuer asserts what it may assert.
func (r Roles) of(asserted []string) (out []manifest.Subject) {
	for _, name := range r.Allow {
		for _, a := range asserted {
			if a == name {
				if s, err := manifest.ParseSubject("roles:id:" + name); err == nil {
					out = append(out, s)
				}
				break
			}
		}
	}
	return out
}

// user is users:id:PREFIX+NAME for a name that an issuer asserts. A name that no grant
// could hold (a pattern, a control character, a look-alike letter, too long) is nobody.
func user(prefix, name string) (manifest.Subject, error) {
	s, err := manifest.ParseSubject("users:id:" + prefix + name)
	if err != nil || name == "" {
		return manifest.Subject{}, &AuthError{audit.BadIdentity}
	}
	return s, nil
}

// reloaded is what a file holds, read again when the file changes.
type reloaded[T any] struct {
	path  string
	max   int64 // bytes
	parse func([]byte) (T, error)
	log   *slog.Logger

	mu    sync.Mutex
	gone  bool
	info  fs.FileInfo // of what was read
	value T
}

// reload reads a file for the first time.
func reload[T any](path string, max int64, log *slog.Logger, parse func([]byte) (T, error)) (*reloaded[T], error) {
	f := &reloaded[T]{path: path, max: max, parse: parse, log: log}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	return f, f.read(info)
}

func (f *reloaded[T]) read(info fs.FileInfo) error {
	f.gone, f.info = false, info
	if !info.Mode().IsRegular() || info.Size() > f.max {
		return fmt.Errorf("%s: is not a file of at most %d KiB", f.path, f.max>>10)
	}
	data, err := os.ReadFile(f.path)
	if err != nil {
		return err
	}
	value, err := f.parse(data)
	if err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	f.value = value
	return nil
}

// get returns what the file holds now. A change that cannot be read is logged, and what
// was read before stays; of a file that is gone nothing stays, and that is false.
func (f *reloaded[T]) get() (T, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if !f.gone {
			f.log.Error("a file of serve is gone; nobody is known by it until it is back", "file", f.path)
		}
		var none T
		f.gone, f.value, f.info = true, none, nil
		return none, false
	case err == nil && f.info != nil && os.SameFile(info, f.info) && info.Size() == f.info.Size() && info.ModTime().Equal(f.info.ModTime()):
	case err == nil:
		// A file that came back and cannot be read stays gone.
		gone := f.gone
		if err = f.read(info); err != nil {
			f.gone = gone
			f.log.Error("a file of serve changed and cannot be read; what was read before stays", "error", err)
		}
	}
	return f.value, !f.gone
}

// WhoamiJSON is the answer of /v1/whoami: who the agent takes the caller for.
type WhoamiJSON struct {
	Subject    string    `json:"subject"`
	Roles      []string  `json:"roles"`                // that the credential asserts; grants may give more
	Method     string    `json:"method"`               // token, oidc, kubernetes or tls
	Credential string    `json:"credential,omitempty"` // id, as in the audit
	Expires    time.Time `json:"expires,omitzero"`     // of the credential
}

// whoami needs no grant and is not audited: it tells a caller nothing but itself.
func (s *server) whoami(w http.ResponseWriter, r *request) {
	out := WhoamiJSON{Subject: r.caller.User.String(), Roles: []string{}, Method: r.caller.Method, Credential: r.caller.Credential, Expires: r.caller.Expires.UTC()}
	for _, role := range r.caller.Roles {
		out.Roles = append(out.Roles, role.String())
	}
	writeJSON(w, out)
}
