package serve

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal/access"
	"github.com/sealward/sealward/unseal/audit"
)

const (
	tokenPrefix   = "swt1_" // so that secret scanners can find a leaked one
	tokenSecret   = 32      // random bytes
	maxTokensFile = 16 << 20
)

// Token is one entry of a tokens file. The token itself is not in it: only a
// salted SHA-256, which is enough for 256 random bits.
type Token struct {
	ID      string    `yaml:"id"`
	Subject string    `yaml:"subject"`
	Roles   []string  `yaml:"roles,omitempty,flow"`
	Salt    string    `yaml:"salt"` // base64
	Hash    string    `yaml:"hash"` // base64 of SHA-256(salt || secret)
	Created time.Time `yaml:"created"`
	Expires time.Time `yaml:"expires,omitempty"`
}

type tokensFile struct {
	Tokens []Token `yaml:"tokens"`
}

// NewToken makes a token for a subject and returns it with its entry. The token
// is shown once; nothing can bring it back. A ttl of 0 never expires.
func NewToken(subject manifest.Subject, roles []manifest.Subject, ttl time.Duration, now time.Time) (bearer string, t Token, err error) {
	if _, isRole := subject.Role(); isRole || subject.IsZero() {
		return "", Token{}, fmt.Errorf("subject %q is not a user; a token is for one users:id:…, with roles beside it", subject)
	}
	random := make([]byte, 8+16+tokenSecret)
	if _, err := rand.Read(random); err != nil {
		return "", Token{}, err
	}
	id, salt := hex.EncodeToString(random[:8]), random[8:24]
	secret := base64.RawURLEncoding.EncodeToString(random[24:])
	t = Token{ID: id, Subject: subject.String(), Created: now.UTC().Truncate(time.Second),
		Salt: base64.StdEncoding.EncodeToString(salt), Hash: base64.StdEncoding.EncodeToString(hashToken(salt, secret))}
	for _, r := range roles {
		if _, isRole := r.Role(); !isRole {
			return "", Token{}, fmt.Errorf("role %q is not roles:id:…", r)
		}
		t.Roles = append(t.Roles, r.String())
	}
	if ttl > 0 {
		t.Expires = now.Add(ttl).UTC().Truncate(time.Second)
	}
	return tokenPrefix + id + "_" + secret, t, nil
}

func hashToken(salt []byte, secret string) []byte {
	sum := sha256.Sum256(append(bytes.Clone(salt), secret...))
	return sum[:]
}

// AddToken appends an entry to a tokens file, making it (0600) when it is
// missing. The file is replaced whole; a lock file beside it keeps two who add at
// once from losing an entry.
func AddToken(path string, t Token) error {
	lock := path + ".lock"
	for range 200 {
		l, err := os.OpenFile(lock, os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) {
			time.Sleep(25 * time.Millisecond)
			continue
		}
		if err != nil {
			return fmt.Errorf("tokens file: %w", err)
		}
		defer os.Remove(lock)
		l.Close()
		return addToken(path, t)
	}
	return fmt.Errorf("tokens file: %s exists: somebody else changes the file, or a run was cut off; if nobody does, remove it", lock)
}

func addToken(path string, t Token) error {
	file := tokensFile{}
	data, err := os.ReadFile(path)
	if err == nil {
		if file, err = parseTokens(data); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file.Tokens = append(file.Tokens, t)
	out, err := yaml.Marshal(file)
	if err != nil {
		return err
	}
	return workspace.WriteFile(path, out, 0o600)
}

func parseTokens(data []byte) (tokensFile, error) {
	var f tokensFile
	if err := workspace.DecodeStrict(data, &f); err != nil {
		return tokensFile{}, errors.New("is not a tokens file (sealward token create writes one)")
	}
	return f, nil
}

// entry is a checked Token.
type entry struct {
	caller     Caller
	salt, hash []byte
	expires    time.Time
}

// Tokens authenticates bearer tokens against a file, which it reads again when
// it changes.
type Tokens struct {
	path string
	log  *slog.Logger

	mu      sync.RWMutex
	size    int64
	mod     time.Time
	missing bool
	entries map[string]*entry
}

// OpenTokens reads a tokens file. Later changes are picked up by themselves; a
// change that cannot be read is logged, and the tokens read before stay valid.
func OpenTokens(path string, log *slog.Logger) (*Tokens, error) {
	t := &Tokens{path: path, log: log}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("tokens file: %w; make one with sealward token create", err)
	}
	return t, t.read(info)
}

func (t *Tokens) read(info fs.FileInfo) error {
	if info.Size() > maxTokensFile {
		return fmt.Errorf("%s: is larger than %d MiB", t.path, maxTokensFile>>20)
	}
	data, err := os.ReadFile(t.path)
	if err != nil {
		return fmt.Errorf("tokens file: %w", err)
	}
	f, err := parseTokens(data)
	if err != nil {
		return fmt.Errorf("%s: %w", t.path, err)
	}
	entries := map[string]*entry{}
	for i, token := range f.Tokens {
		e, err := token.check()
		if err == nil && entries[token.ID] != nil {
			err = errors.New("id stands twice")
		}
		if err != nil {
			return fmt.Errorf("%s: tokens[%d]: %w", t.path, i, err)
		}
		entries[token.ID] = e
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.missing, t.size, t.mod, t.entries = false, info.Size(), info.ModTime(), entries
	return nil
}

func (t Token) check() (*entry, error) {
	subject, err := manifest.ParseSubject(t.Subject)
	if err != nil {
		return nil, err
	}
	if _, isRole := subject.Role(); isRole {
		return nil, errors.New("subject is a role; a token is for one users:id:…")
	}
	salt, err1 := base64.StdEncoding.DecodeString(t.Salt)
	hash, err2 := base64.StdEncoding.DecodeString(t.Hash)
	if err1 != nil || err2 != nil || len(salt) < 8 || len(hash) != sha256.Size || len(t.ID) < 8 {
		return nil, errors.New("id, salt or hash is damaged")
	}
	e := &entry{salt: salt, hash: hash, expires: t.Expires, caller: Caller{Identity: access.Identity{User: subject}, Credential: t.ID, Method: "token", Expires: t.Expires}}
	for _, r := range t.Roles {
		role, err := manifest.ParseSubject(r)
		if err != nil {
			return nil, err
		}
		if _, isRole := role.Role(); !isRole {
			return nil, errors.New("roles holds a user")
		}
		e.caller.Roles = append(e.caller.Roles, role)
	}
	return e, nil
}

// refresh looks at the file once a request: a revoked token must not live on.
func (t *Tokens) refresh() {
	info, err := os.Stat(t.path)
	missing := errors.Is(err, fs.ErrNotExist)
	t.mu.RLock()
	same := missing && t.missing || err == nil && !t.missing && info.Size() == t.size && info.ModTime().Equal(t.mod)
	t.mu.RUnlock()
	if same {
		return
	}
	if err == nil {
		err = t.read(info)
	}
	if err == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if missing {
		t.missing, t.entries = true, nil
		t.log.Error("the tokens file is gone; no token is valid until it is back", "file", t.path)
		return
	}
	// Said once a change.
	if info != nil {
		t.missing, t.size, t.mod = false, info.Size(), info.ModTime()
	}
	t.log.Error("the tokens file changed and cannot be read; the tokens read before stay valid", "error", err)
}

// Authenticate finds the caller of a bearer token. The error is an *AuthError.
func (t *Tokens) Authenticate(bearer string, now time.Time) (Caller, error) {
	if bearer == "" {
		return Caller{}, &AuthError{audit.NoCredential}
	}
	rest, ok := strings.CutPrefix(bearer, tokenPrefix)
	id, secret, ok2 := strings.Cut(rest, "_")
	if !ok || !ok2 || len(bearer) > 256 {
		return Caller{}, &AuthError{audit.Malformed}
	}
	t.refresh()
	t.mu.RLock()
	e := t.entries[id]
	t.mu.RUnlock()
	if e == nil {
		// As much work as for a known id, so that ids cannot be told by time.
		e = &entry{salt: make([]byte, 16), hash: make([]byte, sha256.Size)}
	}
	if subtle.ConstantTimeCompare(hashToken(e.salt, secret), e.hash) != 1 {
		return Caller{}, &AuthError{audit.UnknownToken}
	}
	if !e.expires.IsZero() && !now.Before(e.expires) {
		return Caller{}, &AuthError{audit.Expired}
	}
	return e.caller, nil
}
