package serve

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sealward/sealward/unseal/access"
	"github.com/sealward/sealward/unseal/audit"
)

const (
	// ServiceAccountPrefix begins the name of every Kubernetes service account:
	// system:serviceaccount:NAMESPACE:NAME.
	ServiceAccountPrefix = "system:serviceaccount:"

	reviewPath = "/apis/authentication.k8s.io/v1/tokenreviews"
	maxReviews = 32 // at the API server at once
	// reviewLast is how long an answer is used: a token ends with its pod, which only
	// the API server knows.
	reviewLast = 30 * time.Second
	// credentialExtra holds the id of a service account's token, from Kubernetes 1.32 on.
	credentialExtra = "authentication.kubernetes.io/credential-id"
)

// TokenReviewConfig says which API server is asked about tokens.
type TokenReviewConfig struct {
	Server    string // https://HOST[:PORT]
	CAFile    string // PEM; "" means the system's roots
	TokenFile string // the agent's own token, read for each review; it needs system:auth-delegator
	Audience  string // must be among the token's
	Roles     Roles  // groups that count as roles
	// PerAddress is how many refused tokens a second of one address are asked about;
	// default 10.
	PerAddress float64
}

// Check says what is missing or wrong. It opens no file.
func (c TokenReviewConfig) Check() error {
	var errs []error
	if u, err := url.Parse(c.Server); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		errs = append(errs, errors.New("server is not https://HOST[:PORT]"))
	}
	if c.Audience == "" {
		errs = append(errs, errors.New("audience is missing: without it any pod's ordinary token would be accepted, and could be used against the API server"))
	}
	if c.TokenFile == "" {
		errs = append(errs, errors.New("tokenFile is missing: the agent's own token"))
	}
	return errors.Join(append(errs, c.Roles.check())...)
}

// TokenReview asks a Kubernetes API server about tokens of service accounts.
type TokenReview struct {
	cfg    TokenReviewConfig
	client *httpClient
	log    *slog.Logger
	asking chan struct{} // holds one for each review under way
	// guesses of each address; beyond its limit the API server is not asked.
	guesses *limiter

	tokens verified

	mu   sync.Mutex
	down bool // the last review failed; said once
}

// OpenTokenReview reads the files. The API server need not be reachable.
func OpenTokenReview(cfg TokenReviewConfig, now func() time.Time, log *slog.Logger) (*TokenReview, error) {
	if err := cfg.Check(); err != nil {
		return nil, fmt.Errorf("kubernetes: %w", err)
	}
	client, err := newHTTPClient(cfg.CAFile, log)
	if err != nil {
		return nil, fmt.Errorf("kubernetes: %w", err)
	}
	return &TokenReview{cfg: cfg, client: client, log: log, asking: make(chan struct{}, maxReviews), guesses: newLimiter(orDefault(cfg.PerAddress, 10), now)}, nil
}

func (t *TokenReview) authenticate(ctx context.Context, token, address string, now time.Time) (Caller, error) {
	key := credentialHash(sha256.Sum256([]byte(token)))
	if known, ok := t.tokens.get(key, now); ok {
		return known.caller, nil
	}
	if t.guesses.spent(address) {
		return Caller{}, &AuthError{audit.RateLimited}
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	select {
	case t.asking <- struct{}{}:
		defer func() { <-t.asking }()
	case <-ctx.Done():
		return Caller{}, &AuthError{audit.Unavailable}
	}
	// Another request with the same token may have been answered meanwhile.
	if known, ok := t.tokens.get(key, now); ok {
		return known.caller, nil
	}
	review, err := t.ask(ctx, token)
	t.tell(ctx, err)
	if err != nil {
		return Caller{}, &AuthError{audit.Unavailable}
	}
	caller, err := t.caller(review)
	if err != nil {
		t.guesses.allow(address)
		return Caller{}, err
	}
	until := now.Add(reviewLast)
	if caller.Expires = expiry(token); !caller.Expires.IsZero() {
		if !now.Before(caller.Expires) {
			return Caller{}, &AuthError{audit.Expired}
		}
		if caller.Expires.Before(until) {
			until = caller.Expires
		}
	}
	t.tokens.put(key, vouched{caller: caller, until: until}, now)
	return caller, nil
}

// tell logs when reviews begin to fail, and when they work again. A caller that hangs up
// says nothing about the API server.
func (t *TokenReview) tell(ctx context.Context, err error) {
	if errors.Is(ctx.Err(), context.Canceled) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case err != nil && !t.down:
		t.log.Error("tokens cannot be reviewed by the Kubernetes API server; they are answered 503", "error", err)
	case err == nil && t.down:
		t.log.Info("the Kubernetes API server reviews tokens again")
	}
	t.down = err != nil
}

// tokenReview is the part of authentication.k8s.io/v1 TokenReview that is used.
type tokenReview struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Spec       struct {
		Token     string   `json:"token"`
		Audiences []string `json:"audiences"`
	} `json:"spec"`
	Status reviewStatus `json:"status,omitzero"`
}

type reviewStatus struct {
	Authenticated bool `json:"authenticated,omitempty"`
	User          struct {
		Username string              `json:"username,omitempty"`
		Groups   []string            `json:"groups,omitempty"`
		Extra    map[string][]string `json:"extra,omitempty"`
	} `json:"user,omitzero"`
	Audiences []string `json:"audiences,omitempty"`
}

// ask has the API server look at a token. Any answer but a review is an error, also
// that the agent itself may not ask: none says that the token is bad.
func (t *TokenReview) ask(ctx context.Context, token string) (reviewStatus, error) {
	own, err := os.ReadFile(t.cfg.TokenFile)
	if err != nil {
		return reviewStatus{}, fmt.Errorf("the agent's own token: %w", err)
	}
	client, err := t.client.get()
	if err != nil {
		return reviewStatus{}, err
	}
	review := tokenReview{APIVersion: "authentication.k8s.io/v1", Kind: "TokenReview"}
	review.Spec.Token, review.Spec.Audiences = token, []string{t.cfg.Audience}
	body, err := json.Marshal(review)
	if err != nil {
		return reviewStatus{}, err
	}
	header := http.Header{"Authorization": {"Bearer " + string(bytes.TrimSpace(own))}, "Content-Type": {"application/json"}, "Accept": {"application/json"}}
	answer, status, err := client.do(ctx, http.MethodPost, strings.TrimRight(t.cfg.Server, "/")+reviewPath, header, body)
	switch {
	case err != nil:
		return reviewStatus{}, err
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return reviewStatus{}, fmt.Errorf("it answered %d: bind the agent's service account to the cluster role system:auth-delegator", status)
	case status != http.StatusCreated && status != http.StatusOK:
		return reviewStatus{}, fmt.Errorf("it answered %d", status)
	}
	var got tokenReview
	if json.Unmarshal(answer, &got) != nil || got.Kind != "TokenReview" || got.APIVersion != review.APIVersion {
		return reviewStatus{}, errors.New("its answer is not a TokenReview")
	}
	return got.Status, nil
}

// caller of an answered review.
func (t *TokenReview) caller(s reviewStatus) (Caller, error) {
	if !s.Authenticated {
		return Caller{}, &AuthError{audit.UnknownToken}
	}
	// An API server that knows nothing of audiences leaves the list out; its answer is
	// about a token for itself.
	if !slices.Contains(s.Audiences, t.cfg.Audience) {
		return Caller{}, &AuthError{audit.WrongAudience}
	}
	// Other users' tokens (of nodes, of people by the cluster's own OIDC) are not asked
	// for here, and their names are not this kind's to give.
	name, ok := strings.CutPrefix(s.User.Username, ServiceAccountPrefix)
	if namespace, account, two := strings.Cut(name, ":"); !ok || !two || namespace == "" || account == "" || strings.Contains(account, ":") {
		return Caller{}, &AuthError{audit.BadIdentity}
	}
	who, err := user(ServiceAccountPrefix, name)
	if err != nil {
		return Caller{}, err
	}
	caller := Caller{Identity: access.Identity{User: who, Roles: t.cfg.Roles.of(s.User.Groups)}, Method: "kubernetes"}
	if ids := s.User.Extra[credentialExtra]; len(ids) == 1 {
		caller.Credential = credentialID(ids[0])
	}
	return caller, nil
}

// expiry of a token that was reviewed and is a JWT; zero if it tells none.
func expiry(token string) time.Time {
	_, rest, _ := strings.Cut(token, ".")
	payload, _, _ := strings.Cut(rest, ".")
	text, err := base64.RawURLEncoding.DecodeString(payload)
	var claims struct {
		Expires int64 `json:"exp"`
	}
	if err != nil || json.Unmarshal(text, &claims) != nil || claims.Expires <= 0 {
		return time.Time{}
	}
	return time.Unix(claims.Expires, 0)
}
