package serve_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/access"
	"github.com/sealward/sealward/unseal/serve"
)

// The cost of a read must not grow with the secrets, nor with the grants of others.
func BenchmarkRead(b *testing.B) {
	for _, n := range []int{100, 100_000} {
		b.Run(fmt.Sprintf("secrets=%d", n), func(b *testing.B) {
			bench := newBench(b)
			bench.publishGrants(n)
			h := bench.unlimited()
			var requests []*http.Request
			for i := range 100 {
				r := httptest.NewRequest("GET", fmt.Sprintf("%s/s%d/keys/token", base, i*(n/100)), nil)
				r.Header.Set("Authorization", "Bearer "+bench.bearer["alice"])
				requests = append(requests, r)
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				w := httptest.NewRecorder()
				if h.ServeHTTP(w, requests[i%len(requests)]); w.Code != http.StatusOK {
					b.Fatal(w.Code, w.Body)
				}
				i++
			}
		})
	}
}

// Who asks costs little where the same one asked before: a signature is verified once.
func BenchmarkIdentify(b *testing.B) {
	bench := newBench(b)
	key := ecKey(b)
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{public("k", key)}})
	if err != nil {
		b.Fatal(err)
	}
	file := filepath.Join(b.TempDir(), "keys.json")
	if err := os.WriteFile(file, set, 0o600); err != nil {
		b.Fatal(err)
	}
	issuer, err := serve.OpenIssuer(serve.IssuerConfig{Issuer: "ci", Audience: "sealward", JWKSFile: file}, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	identities := serve.Identities{Issuers: []*serve.Issuer{issuer}}
	ask := func(token string) {
		r := httptest.NewRequest("GET", "/v1/whoami", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		if _, err := identities.Authenticate(r, bench.now); err != nil {
			b.Fatal(err)
		}
	}
	token := func(i int) string {
		return mint(b, claims{"alg": "ES256", "kid": "k"}, bench.good("ci", claims{"jti": fmt.Sprint(i)}), key)
	}
	b.Run("JWT=new", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			b.StopTimer()
			t := token(i)
			b.StartTimer()
			ask(t)
		}
	})
	b.Run("JWT=known", func(b *testing.B) {
		t := token(0)
		for b.Loop() {
			ask(t)
		}
	})
}

// publishGrants serves n secrets of one workspace, with as many grants; alice may read all.
func (b *bench) publishGrants(n int) {
	ws := mustParse(b.t, manifest.ParseWorkspace, "orders")
	grant := func(name, text string) access.File {
		m, err := manifest.Parse("g.yaml", fmt.Appendf(nil, "name: %s\nversion: v1alpha\ntype: grant\nworkspace: orders\ngrant: {%s}\n", name, text))
		if err != nil {
			b.t.Fatal(err)
		}
		return access.File{Path: "workspaces/orders/grants/" + name + ".yaml", Manifest: m}
	}
	files := []access.File{grant("alice", "subjects: [users:id:alice], policy_use_case_id: read-all-secrets, effect: allow")}
	records := make(map[string]*unseal.Record, n)
	for i := range n {
		name := mustParse(b.t, manifest.ParseName, fmt.Sprintf("s%d", i))
		path := manifest.SecretPath(ws, name)
		records[path] = &unseal.Record{Path: path, Place: manifest.Place{Scope: ws, Name: name}, Blob: commit, Good: &unseal.Content{
			Provenance: unseal.Provenance{Path: path, Blob: commit, Commit: commit, Author: "dana <d@example.com>", Time: b.now},
			Kind:       manifest.KindSecret, Version: "v1", Type: manifest.KeyValue, ACL: manifest.Read, Values: []unseal.Value{{Key: "token", Data: []byte("hunter2")}},
		}}
		files = append(files, grant(fmt.Sprintf("g%d", i), fmt.Sprintf("subjects: [users:id:u%d], policy_use_case_id: read-specific-secret, secrets: [s%d], effect: allow", i, i)))
	}
	policy := access.New(map[manifest.Workspace]*access.Scope{ws: access.CompileScope(ws, files)})
	b.live.Publish(unseal.Snapshot{Commit: commit, Branch: "main", Policy: policy, MaxStale: time.Hour}.WithScopes(map[manifest.Workspace]*unseal.Scope{ws: unseal.NewScope(ws, records)}))
}
