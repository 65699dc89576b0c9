package serve

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/sealward/sealward/unseal/audit"
)

const (
	// maxHook bounds the body of a hook: GitHub sends no larger ones.
	maxHook       = 25 << 20
	minHookSecret = 16
	maxHookSecret = 4 << 10
)

// hookSignature finds in a request how a provider proves that it knows the secret:
// the hexadecimal HMAC-SHA256 of the body, or, for GitLab, the secret itself.
//
// Sources: "Validating webhook deliveries" of GitHub's documentation, "Webhooks" of
// GitLab's and Gitea's, and Flux's generic-hmac receiver.
var hookSignature = map[string]func(http.Header) string{
	"github":  func(h http.Header) string { return withoutPrefix(h.Get("X-Hub-Signature-256")) },
	"generic": func(h http.Header) string { return withoutPrefix(h.Get("X-Signature")) },
	"gitea": func(h http.Header) string {
		if s := h.Get("X-Forgejo-Signature"); s != "" {
			return s
		}
		return h.Get("X-Gitea-Signature")
	},
	"gitlab": func(h http.Header) string { return h.Get("X-Gitlab-Token") },
}

func withoutPrefix(signature string) string {
	signature, ok := strings.CutPrefix(signature, "sha256=")
	if !ok {
		return ""
	}
	return signature
}

// CheckHookSecret reads the file with the secret of the hooks, so that a mistake is
// found at the start.
func CheckHookSecret(file string) error {
	_, err := hookSecret(file)
	return err
}

// hookSecret is read for each hook, so that a rotated one needs no restart.
func hookSecret(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("webhook secret: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxHookSecret {
		return nil, fmt.Errorf("webhook secret %s: it is not a file with one short line", file)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("webhook secret: %w", err)
	}
	text = bytes.TrimRight(text, "\r\n")
	if len(text) < minHookSecret {
		return nil, fmt.Errorf("webhook secret %s: it has fewer than %d bytes; openssl rand -hex 32 makes one", file, minHookSecret)
	}
	return text, nil
}

// hook answers a provider's call about a push. Whatever it says, all it does is to
// have the remotes looked at: a replayed call costs a look, and looks coalesce.
func (s *server) hook(w http.ResponseWriter, r *http.Request) {
	provider := r.PathValue("provider")
	signature := hookSignature[provider]
	if s.HookSecretFile == "" || s.Follower == nil || signature == nil {
		writeError(w, http.StatusNotFound, "no-such-address", "there is no such hook; set webhook.secretFile, and use /hooks/github, gitlab, gitea or generic")
		return
	}
	secret, err := hookSecret(s.HookSecretFile)
	if err != nil {
		s.Log.Error("a hook cannot be checked", "error", err)
		writeError(w, http.StatusServiceUnavailable, "hook-unavailable", "the secret of the hooks cannot be read; see the agent's log")
		return
	}
	said := signature(r.Header)
	reason := audit.NoCredential
	if said != "" {
		reason = audit.BadSignature
		good, err := signed(provider, said, secret, http.MaxBytesReader(w, r.Body, maxHook))
		var large *http.MaxBytesError
		switch {
		case errors.As(err, &large):
			writeError(w, http.StatusRequestEntityTooLarge, "too-large", "the body of a hook has at most 25 MiB")
			return
		case err != nil:
			return // the caller hung up
		case good:
			s.look()
			w.WriteHeader(http.StatusAccepted)
			return
		}
	}
	if !s.addresses.allow(limitedAs(host(r))) {
		s.Audit.Unauthenticated(audit.RateLimited)
		tooMany(w)
		return
	}
	s.Audit.Unauthenticated(reason)
	writeError(w, http.StatusUnauthorized, "unauthenticated", "the hook is not signed with the agent's secret")
}

// signed compares in constant time. The body is never kept.
func signed(provider, said string, secret []byte, body io.Reader) (bool, error) {
	if provider == "gitlab" {
		a, b := sha256.Sum256([]byte(said)), sha256.Sum256(secret)
		return subtle.ConstantTimeCompare(a[:], b[:]) == 1, nil
	}
	got, err := hex.DecodeString(said)
	if err != nil || len(got) != sha256.Size {
		return false, nil // without a look at a large body
	}
	mac := hmac.New(sha256.New, secret)
	if _, err := io.Copy(mac, body); err != nil {
		return false, err
	}
	return hmac.Equal(got, mac.Sum(nil)), nil
}
