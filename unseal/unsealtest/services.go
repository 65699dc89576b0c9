// Package unsealtest has key services for tests: servers on this machine that
// speak the documented API of Vault's transit engine and of AWS KMS, encrypt for
// real, and record who asked.
package unsealtest

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
)

// Token is what the transit server wants.
const Token = "hvs.for-tests-only"

// Server is a running key service.
type Server struct {
	*httptest.Server

	mu    sync.Mutex
	calls []string
	key   cipher.AEAD
	fail  func(http.ResponseWriter, *http.Request) bool
}

// Calls lists the requests so far: method, path and what they asked for.
func (s *Server) Calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.calls...)
}

// Fail has f answer requests instead, as long as it returns true.
func (s *Server) Fail(f func(http.ResponseWriter, *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = f
}

func (s *Server) note(w http.ResponseWriter, r *http.Request) (answered bool) {
	s.mu.Lock()
	s.calls = append(s.calls, strings.TrimSpace(r.Method+" "+r.URL.Path+" "+r.Header.Get("X-Amz-Target")))
	fail := s.fail
	s.mu.Unlock()
	return fail != nil && fail(w, r)
}

func newServer(h func(*Server) http.HandlerFunc, start func(http.Handler) *httptest.Server) *Server {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails (crypto/rand)
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	s := &Server{}
	if s.key, err = cipher.NewGCM(block); err != nil {
		panic(err)
	}
	s.Server = start(h(s))
	return s
}

func (s *Server) seal(plain []byte, name string) []byte {
	nonce := make([]byte, s.key.NonceSize())
	_, _ = rand.Read(nonce)
	return s.key.Seal(nonce, nonce, plain, []byte(name))
}

func (s *Server) open(sealed []byte, name string) ([]byte, error) {
	if len(sealed) < s.key.NonceSize() {
		return nil, fmt.Errorf("too short")
	}
	return s.key.Open(nil, sealed[:s.key.NonceSize()], sealed[s.key.NonceSize():], []byte(name))
}

// Transit starts a server with a transit engine at transit/, over TLS or without.
func Transit(tls bool) *Server {
	start := httptest.NewServer
	if tls {
		start = httptest.NewTLSServer
	}
	return newServer(func(s *Server) http.HandlerFunc { return s.transit }, start)
}

// Key is the address of a key, as .sops.yaml names it.
func (s *Server) Key(name string) string { return s.URL + "/v1/transit/keys/" + name }

func (s *Server) transit(w http.ResponseWriter, r *http.Request) {
	if s.note(w, r) {
		return
	}
	answer := func(status int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	part := strings.Split(strings.TrimPrefix(r.URL.Path, "/v1/transit/"), "/")
	var in struct{ Plaintext, Ciphertext string }
	switch {
	case r.Header.Get("X-Vault-Token") != Token:
		answer(http.StatusForbidden, map[string]any{"errors": []string{"permission denied"}})
	case r.Method != http.MethodPut && r.Method != http.MethodPost, len(part) != 2, json.NewDecoder(r.Body).Decode(&in) != nil:
		answer(http.StatusNotFound, map[string]any{"errors": []string{}})
	case part[0] == "encrypt":
		plain, err := base64.StdEncoding.DecodeString(in.Plaintext)
		if err != nil {
			answer(http.StatusBadRequest, map[string]any{"errors": []string{"illegal base64 data"}})
			return
		}
		answer(http.StatusOK, map[string]any{"data": map[string]any{"ciphertext": "vault:v1:" + base64.StdEncoding.EncodeToString(s.seal(plain, part[1])), "key_version": 1}})
	case part[0] == "decrypt":
		sealed, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(in.Ciphertext, "vault:v1:"))
		if err == nil {
			sealed, err = s.open(sealed, part[1])
		}
		if err != nil {
			answer(http.StatusBadRequest, map[string]any{"errors": []string{"invalid ciphertext: " + in.Ciphertext}})
			return
		}
		answer(http.StatusOK, map[string]any{"data": map[string]any{"plaintext": base64.StdEncoding.EncodeToString(sealed)}})
	default:
		answer(http.StatusNotFound, map[string]any{"errors": []string{}})
	}
}

// KMS starts a server that speaks AWS KMS's JSON API. The SDK comes to it with
// AWS_ENDPOINT_URL_KMS.
func KMS() *Server {
	return newServer(func(s *Server) http.HandlerFunc { return s.kms }, httptest.NewServer)
}

func (s *Server) kms(w http.ResponseWriter, r *http.Request) {
	if s.note(w, r) {
		return
	}
	var in struct {
		KeyID             string `json:"KeyId"`
		Plaintext         []byte
		CiphertextBlob    []byte
		EncryptionContext map[string]string
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	refuse := func(kind string) {
		w.WriteHeader(http.StatusBadRequest)
		_ = json.NewEncoder(w).Encode(map[string]string{"__type": kind, "message": "refused"})
	}
	if json.NewDecoder(r.Body).Decode(&in) != nil || !strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ") {
		refuse("AccessDeniedException")
		return
	}
	// As in KMS, the key and the context must be those it was encrypted with.
	context, _ := json.Marshal(in.EncryptionContext)
	name := in.KeyID + string(context)
	switch r.Header.Get("X-Amz-Target") {
	case "TrentService.Encrypt":
		_ = json.NewEncoder(w).Encode(map[string]any{"KeyId": in.KeyID, "CiphertextBlob": s.seal(in.Plaintext, name)})
	case "TrentService.Decrypt":
		plain, err := s.open(in.CiphertextBlob, name)
		if err != nil {
			refuse("InvalidCiphertextException")
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"KeyId": in.KeyID, "Plaintext": plain})
	default:
		refuse("UnknownOperationException")
	}
}
