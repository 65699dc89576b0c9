package serve_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealward/sealward/unseal/audit"
	"github.com/sealward/sealward/unseal/serve"
)

// apiServer answers TokenReviews as a Kubernetes API server does, over TLS, in the wire
// format of authentication.k8s.io/v1.
type apiServer struct {
	url, caFile, tokenFile string
	reviews                atomic.Int32
	under, most            atomic.Int32 // reviews under way, and the most at once
	slow                   atomic.Bool

	mu     sync.Mutex
	status map[string]string // what each token's review says, JSON
	fail   int               // the HTTP status of every answer, 0 for none
	body   string            // every answer, "" for none
}

func newAPIServer(t *testing.T) *apiServer {
	a := &apiServer{status: map[string]string{}}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.reviews.Add(1)
		for now := a.under.Add(1); ; {
			if most := a.most.Load(); now <= most || a.most.CompareAndSwap(most, now) {
				break
			}
		}
		defer a.under.Add(-1)
		if a.slow.Load() {
			_, _ = io.Copy(io.Discard, r.Body) // only then is a hang-up noticed
			<-r.Context().Done()
			return
		}
		var review struct {
			APIVersion, Kind string
			Spec             struct {
				Token     string
				Audiences []string
			}
		}
		err := json.NewDecoder(r.Body).Decode(&review)
		a.mu.Lock()
		defer a.mu.Unlock()
		switch {
		case a.fail != 0:
			w.WriteHeader(a.fail)
			fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"canary"}`)
		case a.body != "":
			fmt.Fprint(w, a.body)
		case r.Header.Get("Authorization") != "Bearer own-token":
			w.WriteHeader(http.StatusUnauthorized)
		case err != nil || r.Method != "POST" || r.URL.Path != "/apis/authentication.k8s.io/v1/tokenreviews" || r.Header.Get("Content-Type") != "application/json" ||
			review.APIVersion != "authentication.k8s.io/v1" || review.Kind != "TokenReview" || len(review.Spec.Audiences) != 1 || review.Spec.Audiences[0] != "sealward":
			w.WriteHeader(http.StatusBadRequest)
		default:
			status, ok := a.status[review.Spec.Token]
			if !ok {
				status = `{"user":{},"error":"[invalid bearer token, service account token has been invalidated]"}`
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusCreated)
			fmt.Fprintf(w, `{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1","metadata":{"creationTimestamp":null,"managedFields":[]},"spec":{"token":%q,"audiences":["sealward"]},"status":%s}`, review.Spec.Token, status)
		}
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	dir := t.TempDir()
	a.url, a.caFile, a.tokenFile = server.URL, filepath.Join(dir, "ca.crt"), filepath.Join(dir, "token")
	write(t, a.caFile, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	write(t, a.tokenFile, "own-token\n")
	return a
}

func (a *apiServer) set(change func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change()
}

// accountStatus is what a review says of a service account's token.
func accountStatus(name string) string {
	return `{"authenticated":true,"user":{"username":"system:serviceaccount:` + name + `","uid":"6f2c","groups":["system:serviceaccounts","system:serviceaccounts:orders","system:authenticated"],` +
		`"extra":{"authentication.kubernetes.io/credential-id":["JTI=8cd0c9b6"],"authentication.kubernetes.io/pod-name":["api-1"]}},"audiences":["sealward"]}`
}

func (a *apiServer) open(t *testing.T, b *bench) *serve.TokenReview {
	t.Helper()
	k, err := serve.OpenTokenReview(serve.TokenReviewConfig{Server: a.url, CAFile: a.caFile, TokenFile: a.tokenFile, Audience: "sealward",
		Roles: serve.Roles{Allow: []string{"system:serviceaccounts:orders"}}}, func() time.Time { return b.now }, logged.To(&b.log))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestTokenReview(t *testing.T) {
	b, a := newBench(t), newAPIServer(t)
	b.publish()
	a.set(func() { a.status["sa"] = accountStatus("orders:api") })
	b.identify(serve.Identities{Kubernetes: a.open(t, b)})
	who, code := b.whoami("sa")
	if code != 200 || who.Subject != "users:id:system:serviceaccount:orders:api" || fmt.Sprint(who.Roles) != "[roles:id:system:serviceaccounts:orders]" || who.Method != "kubernetes" || who.Credential != "JTI=8cd0c9b6" {
		t.Errorf("%d %+v", code, who)
	}
	// An answer is used for 30 s, so long a token may outlive its pod.
	a.set(func() { delete(a.status, "sa") })
	for range 50 {
		if _, code := b.whoami("sa"); code != 200 {
			t.Fatalf("cached: %d", code)
		}
	}
	b.now = b.now.Add(29 * time.Second)
	if _, code := b.whoami("sa"); code != 200 || a.reviews.Load() != 1 {
		t.Errorf("after 29 s: %d, %d reviews", code, a.reviews.Load())
	}
	b.now = b.now.Add(time.Second)
	if code, reason := b.refused("sa"); code != 401 || reason != audit.UnknownToken || a.reviews.Load() != 2 {
		t.Errorf("after 30 s: %d %s, %d reviews", code, reason, a.reviews.Load())
	}
	// A token that ends sooner is not used longer.
	short := mint(t, claims{"alg": "RS256"}, b.good("https://kubernetes.default.svc", claims{"exp": b.now.Add(5 * time.Second).Unix()}), []byte("x"))
	a.set(func() { a.status[short] = accountStatus("orders:api") })
	if who, code := b.whoami(short); code != 200 || !who.Expires.Equal(b.now.Add(5*time.Second)) {
		t.Errorf("short: %d %+v", code, who)
	}
	b.now = b.now.Add(5 * time.Second)
	if code, reason := b.refused(short); code != 401 || reason != audit.Expired {
		t.Errorf("ended: %d %s", code, reason)
	}
	if strings.Contains(b.log.String(), "own-token") {
		t.Error("the agent's token is in the log")
	}
}

// What a review says must be about this audience and a service account.
func TestReviewsThatAreRefused(t *testing.T) {
	b, a := newBench(t), newAPIServer(t)
	b.publish()
	b.identify(serve.Identities{Kubernetes: a.open(t, b)})
	for name, c := range map[string]struct{ status, reason string }{
		"not authenticated":      {`{"authenticated":false,"user":{"username":"system:serviceaccount:orders:api"},"audiences":["sealward"]}`, audit.UnknownToken},
		"no audiences":           {strings.Replace(accountStatus("orders:api"), `,"audiences":["sealward"]`, "", 1), audit.WrongAudience},
		"the API's own audience": {strings.Replace(accountStatus("orders:api"), `"sealward"`, `"https://kubernetes.default.svc"`, 1), audit.WrongAudience},
		"a node":                 {strings.Replace(accountStatus("x"), "system:serviceaccount:x", "system:node:n1", 1), audit.BadIdentity},
		"a person":               {strings.Replace(accountStatus("x"), "system:serviceaccount:x", "alice", 1), audit.BadIdentity},
		"a pattern":              {accountStatus("orders:*"), audit.BadIdentity},
		"no namespace":           {accountStatus(":api"), audit.BadIdentity},
		"no name":                {accountStatus("orders:"), audit.BadIdentity},
		"three parts":            {accountStatus("orders:api:x"), audit.BadIdentity},
	} {
		a.set(func() { a.status["t"] = c.status })
		b.now = b.now.Add(time.Minute)
		if code, reason := b.refused("t"); code != 401 || reason != c.reason {
			t.Errorf("%s: %d %s, want %s", name, code, reason, c.reason)
		}
	}
	// One address that guesses does not have the API server asked without end.
	b.now = b.now.Add(time.Minute)
	before, limited := a.reviews.Load(), 0
	for i := range 200 {
		if w := b.get("/v1/whoami", fmt.Sprint("guess", i)); w.Code == 429 {
			limited++
		}
	}
	if n := a.reviews.Load() - before; n != 20 || limited != 180 {
		t.Errorf("%d reviews, %d refused without", n, limited)
	}
	// A token of another agent is never shown to the API server.
	before = a.reviews.Load()
	b.now = b.now.Add(time.Minute)
	if code, reason := b.refused("swt1_0123456789abcdef_x"); code != 401 || reason != audit.UnknownToken || a.reviews.Load() != before {
		t.Errorf("swt1_: %d %s, %d reviews", code, reason, a.reviews.Load()-before)
	}
}

// That the API server cannot answer is no denial, and is forgotten when it can.
func TestTheAPIServerFails(t *testing.T) {
	b, a := newBench(t), newAPIServer(t)
	b.publish()
	a.set(func() { a.status["sa"] = accountStatus("orders:api") })
	k := a.open(t, b)
	b.identify(serve.Identities{Kubernetes: k})
	for name, failing := range map[string]func(){
		"500":        func() { a.fail = 500 },
		"429":        func() { a.fail = 429 },
		"403":        func() { a.fail = 403 },
		"401":        func() { a.fail = 401 },
		"a redirect": func() { a.fail = 307 },
		"not JSON":   func() { a.body = "<html>" },
		"another kind": func() {
			a.body = `{"kind":"Status","apiVersion":"authentication.k8s.io/v1","status":` + accountStatus("orders:api") + `}`
		},
		"an older API": func() {
			a.body = `{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1beta1","status":` + accountStatus("orders:api") + `}`
		},
		"an endless one": func() {
			a.body = `{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1","x":"` + strings.Repeat("x", 2<<20) + `"}`
		},
		"no own token": func() { write(t, a.tokenFile, "expired") },
	} {
		a.set(failing)
		if code, reason := b.refused("sa"); code != 503 || reason != audit.Unavailable {
			t.Errorf("%s: %d %s", name, code, reason)
		}
		a.set(func() { a.fail, a.body = 0, "" })
		write(t, a.tokenFile, "own-token")
		if _, code := b.whoami("sa"); code != 200 {
			t.Errorf("after %s: %d", name, code)
		}
		b.now = b.now.Add(time.Minute)
	}
	// Slow: never are more than 32 asked at once, and the callers' own end is enough. All
	// hang up together, because the API server sees only a moment later that one is gone.
	a.slow.Store(true)
	a.most.Store(0)
	var asking sync.WaitGroup
	ctx, hangUp := context.WithCancel(t.Context())
	for i := range 100 {
		asking.Go(func() {
			r := httptest.NewRequestWithContext(ctx, "GET", "/v1/whoami", nil)
			r.Header.Set("Authorization", fmt.Sprint("Bearer slow", i))
			w := httptest.NewRecorder()
			b.http.ServeHTTP(w, r)
			if w.Code != 503 {
				t.Errorf("slow: %d", w.Code)
			}
		})
	}
	eventually(t, "32 reviews at once", func() bool { return a.under.Load() >= 32 })
	time.Sleep(100 * time.Millisecond) // for a 33rd
	hangUp()
	asking.Wait()
	if most := a.most.Load(); most != 32 {
		t.Errorf("%d reviews at once", most)
	}
	log := b.log.String()
	if strings.Contains(log, "canary") || strings.Contains(log, "own-token") || !strings.Contains(log, "system:auth-delegator") {
		t.Errorf("log:\n%s", log)
	}
	if _, err := serve.OpenTokenReview(serve.TokenReviewConfig{Server: "http://127.0.0.1", TokenFile: "t"}, time.Now, nil); err == nil || !strings.Contains(err.Error(), "https://") || !strings.Contains(err.Error(), "audience is missing") {
		t.Errorf("%v", err)
	}
}
