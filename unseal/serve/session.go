package serve

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha512"
	"encoding/base64"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/sealward/sealward/unseal/audit"
)

const (
	sessionLife     = 8 * time.Hour
	maxSessions     = 1_024
	maxUserSessions = 16
	maxSessionToken = 16 << 10 // bytes
)

// sessions let a browser's cookie stand for the bearer token that it logged in with.
// Each request is authenticated with that token again, so a session ends when its token
// does. The cookie is 32 random bytes, and what is kept is useless without it: the
// token is sealed under one half of their hash and found under the other.
type sessions struct {
	mu   sync.Mutex
	open map[sessionKey]*session
}

type sessionKey [32]byte

type session struct {
	sealed []byte // AES-256-GCM of the token
	user   string
	ends   time.Time
}

// start opens a session and returns its cookie's value. Where there are too many, of one
// user or at all, the oldest ends: nobody can lock others out, and memory is bounded.
func (s *sessions) start(user, token string, now time.Time) string {
	id := make([]byte, 32)
	_, _ = rand.Read(id) // never fails
	key, seal := halves(id)
	// The key is used for this one message only, so the nonce may be constant.
	n := &session{sealed: seal.Seal(nil, make([]byte, seal.NonceSize()), []byte(token), nil), user: user, ends: now.Add(sessionLife)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = map[sessionKey]*session{}
	}
	for k, old := range s.open {
		if !now.Before(old.ends) {
			delete(s.open, k)
		}
	}
	s.bound(maxUserSessions, func(old *session) bool { return old.user == user })
	s.bound(maxSessions, func(*session) bool { return true })
	s.open[key] = n
	return base64.RawURLEncoding.EncodeToString(id)
}

// bound ends the oldest session that is counted when there are limit of them.
func (s *sessions) bound(limit int, counts func(*session) bool) {
	count, oldest := 0, sessionKey{}
	for k, old := range s.open {
		if !counts(old) {
			continue
		}
		if count == 0 || old.ends.Before(s.open[oldest].ends) {
			oldest = k
		}
		count++
	}
	if count >= limit {
		delete(s.open, oldest)
	}
}

// token gives the token of a session. The error is an *AuthError.
func (s *sessions) token(cookie string, now time.Time) (string, error) {
	key, seal, ok := parseCookie(cookie)
	if !ok {
		return "", &AuthError{audit.Malformed}
	}
	s.mu.Lock()
	found := s.open[key]
	s.mu.Unlock()
	if found == nil {
		return "", &AuthError{audit.UnknownToken}
	}
	if !now.Before(found.ends) {
		s.end(cookie)
		return "", &AuthError{audit.Expired}
	}
	token, err := seal.Open(nil, make([]byte, seal.NonceSize()), found.sealed, nil)
	if err != nil {
		return "", &AuthError{audit.UnknownToken}
	}
	return string(token), nil
}

func (s *sessions) end(cookie string) {
	if key, _, ok := parseCookie(cookie); ok {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.open, key)
	}
}

func parseCookie(cookie string) (sessionKey, cipher.AEAD, bool) {
	id, err := base64.RawURLEncoding.Strict().DecodeString(cookie)
	if err != nil || len(id) != 32 {
		return sessionKey{}, nil, false
	}
	key, seal := halves(id)
	return key, seal, true
}

// halves of the hash of a session's id: where it is kept, and what seals it there.
func halves(id []byte) (sessionKey, cipher.AEAD) {
	sum := sha512.Sum512(id)
	block, err := aes.NewCipher(sum[32:])
	if err != nil {
		panic(err) // 32 bytes are a key
	}
	seal, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return sessionKey(sum[:32]), seal
}

// A browser takes a __Host- cookie over TLS only, from this very host, and no other host
// or plain connection can set it. Plain HTTP is for loopback, where not every browser
// takes such a cookie: there it has another name and is not Secure.
const (
	secureCookie = "__Host-sealward"
	plainCookie  = "sealward"
)

// sessionCookie is the value of the session's cookie, "" for none. Over TLS the plain one
// is nobody's: a neighbouring host could have set it.
func sessionCookie(r *http.Request) string {
	names := []string{secureCookie}
	if r.TLS == nil {
		names = append(names, plainCookie)
	}
	for _, name := range names {
		if c, err := r.Cookie(name); err == nil {
			return c.Value
		}
	}
	return ""
}

// setSessionCookie sets the cookie, or with "" removes it. A proxy on this machine may
// speak TLS for an agent that does not; then the origin of the form tells, and where
// there is no form the cookie that came.
func setSessionCookie(w http.ResponseWriter, r *http.Request, value string) {
	c := &http.Cookie{Name: plainCookie, Value: value, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode, MaxAge: int(sessionLife.Seconds())}
	origin := r.Header.Get("Origin")
	_, err := r.Cookie(secureCookie)
	if r.TLS != nil || strings.HasPrefix(origin, "https://") || origin == "" && err == nil {
		c.Name, c.Secure = secureCookie, true
	}
	if value == "" {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}

// sameOrigin reports that a form was sent from a page of this server. Every browser says
// where a form comes from, in Sec-Fetch-Site or in Origin; what says neither is refused.
func sameOrigin(r *http.Request) bool {
	if r.Header.Get("Sec-Fetch-Site") == "" && r.Header.Get("Origin") == "" {
		return false
	}
	return new(http.CrossOriginProtection).Check(r) == nil
}
