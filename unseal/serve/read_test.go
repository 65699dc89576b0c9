package serve_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/access"
	"github.com/sealward/sealward/unseal/audit"
	"github.com/sealward/sealward/unseal/serve"
)

// serveValues publishes orders/<name> with its values, each in a blob of its own.
// A grant is the inside of a grant's flow mapping.
func (b *bench) serveValues(commit string, secrets map[string][]unseal.Value, blobs map[string]string, grants ...string) {
	b.t.Helper()
	ws := mustParse(b.t, manifest.ParseWorkspace, "orders")
	records := map[string]*unseal.Record{}
	for name, values := range secrets {
		path := manifest.SecretPath(ws, mustParse(b.t, manifest.ParseName, name))
		place, _, err := manifest.Locate(path)
		if err != nil {
			b.t.Fatal(err)
		}
		records[path] = &unseal.Record{Path: path, Place: place, Blob: blobs[name], Good: &unseal.Content{
			Provenance: unseal.Provenance{Path: path, Blob: blobs[name], Commit: strings.Repeat("c", 40), Author: "dana <d@example.com>", Signer: "SHA256:key"},
			Kind:       manifest.KindSecret, Version: "v1", Type: manifest.KeyValue, ACL: manifest.Read, Values: values,
		}}
	}
	var files []access.File
	for i, g := range grants {
		if !strings.Contains(g, "effect: ") {
			g = "effect: allow, " + g
		}
		m, err := manifest.Parse("g.yaml", fmt.Appendf(nil, "name: g%d\nversion: v1alpha\ntype: grant\nworkspace: orders\ngrant: {%s}\n", i, g))
		if err != nil {
			b.t.Fatal(err)
		}
		files = append(files, access.File{Path: fmt.Sprintf("workspaces/orders/grants/g%d.yaml", i), Manifest: m})
	}
	policy := access.New(map[manifest.Workspace]*access.Scope{ws: access.CompileScope(ws, files)})
	b.live.Publish(unseal.Snapshot{Commit: commit, Branch: "main", Policy: policy, MaxStale: time.Hour}.WithScopes(map[manifest.Workspace]*unseal.Scope{ws: unseal.NewScope(ws, records)}))
}

func texts(pairs ...string) (out []unseal.Value) {
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, unseal.Value{Key: pairs[i], Data: []byte(pairs[i+1])})
	}
	return out
}

const readAll = "policy_use_case_id: read-all-secrets, subjects: [users:id:alice]"

// ask sends a GET with If-None-Match.
func (b *bench) ask(ctx context.Context, path, who, match string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", path, nil).WithContext(ctx)
	r.Header.Set("Authorization", "Bearer "+b.bearer[who])
	if match != "" {
		r.Header.Set("If-None-Match", match)
	}
	w := httptest.NewRecorder()
	b.http.ServeHTTP(w, r)
	return w
}

func (b *bench) post(body, who string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", "/v1/read", strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+b.bearer[who])
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	b.http.ServeHTTP(w, r)
	return w
}

func hash(c string) string { return strings.Repeat(c, 40) }

func TestForms(t *testing.T) {
	b := newBench(t)
	b.serveValues(commit, map[string][]unseal.Value{
		"db":    texts("password", `it's "x"`, "api.key", "a=b c", "2nd", "ä\n#"),
		"plain": texts("password", `o'clock`, "api-key", "$HOME `id` \"\n", "2nd", "ä"),
		"one":   texts("token", "t\n"),
		"bin":   {{Key: "blob", Binary: true, Data: []byte{0xff, 0}}},
		"twice": texts("a-b", "1", "a.b", "2"),
		"cr":    texts("pem", "a\r\nb"),
	}, map[string]string{"db": hash("1"), "one": hash("2")}, readAll)
	for _, c := range []struct {
		name, form string
		code       int
		body       string
	}{
		{"plain", "env", 200, "_2ND='ä'\nAPI_KEY='$HOME `id` \"\n'\nPASSWORD=\"o'clock\"\n"},
		{"db", "env", 406, "password has quotes"},
		{"db", "properties", 200, "2nd=\\u00E4\\n\\#\napi.key=a\\=b c\npassword=it's \"x\"\n"},
		{"bin", "env", 406, "blob is binary"},
		{"bin", "properties", 406, "blob is binary"},
		{"bin", "raw", 200, "\xff\x00"},
		{"twice", "env", 406, "a-b and a.b would both be the variable A_B"},
		{"cr", "env", 406, "control character"},
		{"one", "raw", 200, "t\n"},
		{"db", "raw", 406, "name one"},
		{"db", "json", 200, `"api.key":"a=b c"`},
		{"db", "yaml", 400, "format is"},
		{"db", "ENV", 400, "format is"},
		{"none", "env", 404, "no such"},
	} {
		b.audit.take()
		w := b.get(base+"/"+c.name+"?format="+c.form, "alice")
		if w.Code != c.code || !strings.Contains(w.Body.String(), c.body) {
			t.Errorf("%s as %s: %d %q", c.name, c.form, w.Code, w.Body)
		}
		rec := b.audit.take()
		if c.code == 400 && len(rec) != 0 || c.code != 400 && (len(rec) != 1 || rec[0].Status != c.code || rec[0].Decision != audit.Allow || c.code == 406 && rec[0].Path+rec[0].Blob != "") {
			t.Errorf("%s as %s: recorded %+v", c.name, c.form, rec)
		}
		if w.Code == 200 && (w.Header().Get("Sealward-Blob") == "" && c.name == "db" || w.Header().Get("Sealward-Signer") != "SHA256:key" || w.Header().Get("Sealward-Generation") != commit) {
			t.Errorf("%s as %s: %v", c.name, c.form, w.Header())
		}
		if w.Code >= 400 && (strings.Contains(w.Body.String(), `it's`) || strings.Contains(w.Body.String(), "HOME")) {
			t.Errorf("%s as %s: the error shows a value: %s", c.name, c.form, w.Body)
		}
		// Who may not read gets the one denial, whatever the form.
		if w := b.get(base+"/"+c.name+"?format="+c.form, "eve"); c.code != 400 && w.Code != 403 {
			t.Errorf("eve: %s as %s: %d", c.name, c.form, w.Code)
		}
	}
	if w := b.get(base+"/db/keys/password?format=json", "alice"); w.Code != 400 {
		t.Errorf("a key as json: %d", w.Code)
	}
}

func TestConditionalGET(t *testing.T) {
	b := newBench(t)
	values, blobs := map[string][]unseal.Value{"db": texts("password", "hunter2", "user", "o")}, map[string]string{"db": hash("1")}
	b.serveValues(commit, values, blobs, readAll)
	for _, path := range []string{base + "/db", base + "/db?format=env", base + "/db/keys/password"} {
		tag := b.get(path, "alice").Header().Get("ETag")
		b.audit.take()
		w := b.ask(t.Context(), path, "alice", `"other", `+tag)
		if w.Code != 304 || w.Body.Len() != 0 || w.Header().Get("ETag") != tag || w.Header().Get("Sealward-Generation") != commit {
			t.Errorf("%s: %d %q %v", path, w.Code, w.Body, w.Header())
		}
		if rec := b.audit.take(); len(rec) != 1 || rec[0].Status != 304 || rec[0].Commit != commit || !slices.Contains(rec[0].Keys, "password") {
			t.Errorf("%s: recorded %+v", path, rec)
		}
		for _, wrong := range []string{"x", tag[:len(tag)-2] + strings.ReplaceAll("xy", tag[len(tag)-2:len(tag)-1], "")[:1] + `"`, `W/""`, ""} {
			if w := b.ask(t.Context(), path, "alice", wrong); w.Code != 200 {
				t.Errorf("%s with %s: %d", path, wrong, w.Code)
			}
		}
		// A known tag is no right to read, and without a record nothing is said.
		if w := b.ask(t.Context(), path, "eve", tag); w.Code != 403 || w.Header().Get("ETag") != "" {
			t.Errorf("%s as eve: %d %v", path, w.Code, w.Header())
		}
		b.audit.broken = true
		if w := b.ask(t.Context(), path, "alice", tag); w.Code != 503 {
			t.Errorf("%s unrecorded: %d", path, w.Code)
		}
		b.audit.broken = false
		// Another commit with the same content keeps the tag, another blob does not.
		b.serveValues(hash("e"), values, blobs, readAll)
		if w := b.ask(t.Context(), path, "alice", tag); w.Code != 304 || w.Header().Get("Sealward-Generation") != hash("e") {
			t.Errorf("%s at the next commit: %d %v", path, w.Code, w.Header())
		}
		b.serveValues(commit, values, map[string]string{"db": hash("2")}, readAll)
		if w := b.ask(t.Context(), path, "alice", tag); w.Code != 200 {
			t.Errorf("%s of another blob: %d", path, w.Code)
		}
		b.serveValues(commit, values, blobs, readAll)
	}
}

// A list has a tag too, of what the caller may see of it.
func TestConditionalList(t *testing.T) {
	b := newBench(t)
	b.follower.line = []string{commit, hash("2"), hash("3"), hash("4")}
	list, listers := strings.TrimSuffix(base+"/", "/"), "policy_use_case_id: list-secrets, subjects: [users:id:alice, users:id:lister]"
	for _, query := range []string{"", "?wait=10ms", "?wait=10ms&after=" + commit} {
		if w := b.ask(t.Context(), list+query, "alice", `W/"x"`); w.Code != 503 {
			t.Errorf("before the first commit, %s: %d", query, w.Code)
		}
	}
	db, two := map[string][]unseal.Value{"db": texts("password", "hunter2")}, map[string][]unseal.Value{"db": texts("password", "hunter2"), "api": texts("token", "x")}
	blobs := map[string]string{"db": hash("1"), "api": hash("2")}
	b.serveValues(commit, db, blobs, listers)
	tag := b.get(list, "alice").Header().Get("ETag")
	if other := b.get(list, "lister").Header().Get("ETag"); tag == "" || other == tag {
		t.Errorf("the tags are %s and %s", tag, other)
	}
	b.audit.take()
	w := b.ask(t.Context(), list, "alice", tag)
	if w.Code != 304 || w.Body.Len() != 0 || w.Header().Get("ETag") != tag || w.Header().Get("Sealward-Generation") != commit {
		t.Errorf("%d %q %v", w.Code, w.Body, w.Header())
	}
	if rec := b.audit.take(); len(rec) != 1 || rec[0].Event != audit.List || rec[0].Status != 304 || rec[0].Commit != commit {
		t.Errorf("recorded %+v", rec)
	}
	if w := b.ask(t.Context(), list, "eve", tag); w.Code != 403 || w.Header().Get("ETag") != "" {
		t.Errorf("as eve: %d %v", w.Code, w.Header())
	}
	b.audit.broken = true
	if w := b.ask(t.Context(), list, "alice", tag); w.Code != 503 {
		t.Errorf("unrecorded: %d", w.Code)
	}
	b.audit.broken = false
	// What a list does not show does not change it; what it shows does, for whom it shows it.
	changes := func(what string, want int) {
		t.Helper()
		if w := b.ask(t.Context(), list, "alice", tag); w.Code != want {
			t.Errorf("%s: %d, want %d", what, w.Code, want)
		}
	}
	b.serveValues(hash("2"), db, map[string]string{"db": hash("9")}, listers)
	changes("another value at another commit", 304)
	b.serveValues(hash("2"), two, blobs, listers)
	changes("another secret", 200)
	hidden := "policy_use_case_id: list-secrets, subjects: [users:id:alice], secrets: [api], effect: deny"
	b.serveValues(hash("2"), two, blobs, listers, hidden)
	changes("another secret that is hidden", 304)
	b.serveValues(hash("2"), db, blobs, listers, "policy_use_case_id: list-secrets, subjects: [users:id:alice], secrets: [db], effect: deny")
	changes("what was there is hidden", 200)
	b.serveValues(hash("2"), db, blobs)
	changes("no right any more", 403)

	b.serveValues(hash("2"), db, blobs, listers)
	done := make(chan *httptest.ResponseRecorder, 1)
	go func() { done <- b.ask(t.Context(), list+"?wait=50s", "alice", tag) }()
	time.Sleep(20 * time.Millisecond)
	b.serveValues(hash("3"), two, blobs, listers, hidden)
	select {
	case w := <-done:
		t.Fatalf("woken by what it does not show: %d", w.Code)
	case <-time.After(30 * time.Millisecond):
	}
	b.serveValues(hash("4"), two, blobs, listers)
	if w := <-done; w.Code != 200 || !strings.Contains(w.Body.String(), `"api"`) || w.Header().Get("Sealward-Generation") != hash("4") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// A list changes by time alone too: a grant expires, a stale content grows too old. And
// it changes with what it says of a secret, for those of the instance as well.
func TestConditionalListByTime(t *testing.T) {
	for _, c := range []struct{ list, scope, file, head, spans string }{
		{base, "orders", "workspaces/orders/grants/g%d.yaml", "workspace: orders\n", ""},
		{"/v1/instance/secrets", "instance", "instance/grants/g%d.yaml", "", "workspaces: [instance], "},
	} {
		t.Run(c.scope, func(t *testing.T) {
			b := newBench(t)
			ws := manifest.Instance()
			if c.scope != "instance" {
				ws = mustParse(t, manifest.ParseWorkspace, c.scope)
			}
			var files []access.File
			for i, g := range []string{"secrets: [db]", "secrets: [api], expires: 2026-05-01T12:10:00Z"} {
				path := fmt.Sprintf(c.file, i)
				m, err := manifest.Parse(path, fmt.Appendf(nil, "name: g%d\nversion: v1alpha\ntype: grant\n%sgrant: {policy_use_case_id: list-secrets, subjects: [users:id:alice], effect: allow, %s%s}\n", i, c.head, c.spans, g))
				if err != nil {
					t.Fatal(err)
				}
				files = append(files, access.File{Path: path, Manifest: m})
			}
			policy := access.New(map[manifest.Workspace]*access.Scope{ws: access.CompileScope(ws, files)})
			publish := func(description string, failure *unseal.Failure) {
				records := map[string]*unseal.Record{}
				for _, name := range []string{"db", "api"} {
					path := manifest.SecretPath(ws, mustParse(t, manifest.ParseName, name))
					place, _, err := manifest.Locate(path)
					if err != nil {
						t.Fatal(err)
					}
					records[path] = &unseal.Record{Path: path, Place: place, Blob: hash("1"), Good: &unseal.Content{
						Kind: manifest.KindSecret, Version: "v1", Type: manifest.KeyValue, ACL: manifest.Read, Desc: description, Values: texts("password", "hunter2")}}
					if name == "db" {
						records[path].Failure = failure
					}
				}
				b.live.Publish(unseal.Snapshot{Commit: commit, Policy: policy, MaxStale: 30 * time.Minute}.WithScopes(map[manifest.Workspace]*unseal.Scope{ws: unseal.NewScope(ws, records)}))
			}
			tag := ""
			// Asked with the tag of before, alice gets names anew, or 304 for none.
			next := func(what string, names ...string) {
				t.Helper()
				w := b.ask(t.Context(), c.list, "alice", tag)
				tag = w.Header().Get("ETag")
				if len(names) == 0 {
					if w.Code != 304 || w.Body.Len() != 0 {
						t.Errorf("%s: %d %s", what, w.Code, w.Body)
					}
					return
				}
				var out serve.ListJSON
				if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil || w.Code != 200 {
					t.Fatalf("%s: %d %s %v", what, w.Code, w.Body, err)
				}
				var got []string
				for _, m := range out.Secrets {
					got = append(got, m.Name)
				}
				if !slices.Equal(got, names) {
					t.Errorf("%s: %v, want %v", what, got, names)
				}
			}
			publish("a database", nil)
			next("at first", "api", "db")
			next("nothing happened")
			publish("another description", nil)
			next("a description", "api", "db")
			failed := b.now
			publish("another description", &unseal.Failure{Since: failed, Class: unseal.FailTampered})
			next("one is stale", "api", "db")
			b.now = failed.Add(5 * time.Minute)
			next("stale since the same time")
			publish("another description", &unseal.Failure{Since: failed.Add(time.Second), Class: unseal.FailTampered})
			next("stale since another time", "api", "db")
			b.now = failed.Add(9*time.Minute + 59*time.Second)
			next("before the grant expires")
			b.now = failed.Add(10 * time.Minute)
			next("the grant expired", "db")
			next("the grant stays expired")
			publish("another description", nil)
			next("it is well again", "db")
			publish("another description", &unseal.Failure{Since: failed, Class: unseal.FailTampered})
			next("stale again", "db")
			b.now = failed.Add(31 * time.Minute)
			if w := b.ask(t.Context(), c.list, "alice", tag); w.Code != 200 || !strings.Contains(w.Body.String(), `"secrets":[]`) {
				t.Errorf("too old: %d %s", w.Code, w.Body)
			}
		})
	}
}

// A tag is no oracle: it tells nobody that two values, of two callers, secrets, keys or
// agents, are equal, nor that one came back.
func TestTagsTellNothingOfValues(t *testing.T) {
	b := newBench(t)
	same := texts("password", "hunter2", "user", "hunter2")
	b.serveValues(commit, map[string][]unseal.Value{"db": same, "copy": same}, map[string]string{"db": hash("1"), "copy": hash("1")},
		readAll, "policy_use_case_id: read-all-secrets, subjects: [users:id:lister]", "policy_use_case_id: read-all-secrets, subjects: [users:id:eve], keys: [user]")
	seen := map[string]string{}
	for _, who := range []string{"alice", "lister", "eve"} {
		for _, path := range []string{"/db", "/db?format=properties", "/db/keys/password", "/db/keys/user", "/copy", "/copy/keys/user"} {
			tag := b.get(base+path, who).Header().Get("ETag")
			if tag == "" && who == "eve" && strings.Contains(path, "password") {
				continue
			}
			if tag == "" || seen[tag] != "" {
				t.Errorf("%s as %s has tag %s, as %s", path, who, tag, seen[tag])
			}
			seen[tag] = path + " as " + who
		}
	}
	// Nor do the values enter: with the same blob another value has the same tag.
	before := b.get(base+"/db", "alice").Header().Get("ETag")
	b.serveValues(commit, map[string][]unseal.Value{"db": texts("password", "x", "user", "y")}, map[string]string{"db": hash("1")}, readAll)
	if b.get(base+"/db", "alice").Header().Get("ETag") != before {
		t.Error("the tag depends on the values")
	}
	// Another process has another key.
	other := newBench(t)
	other.serveValues(commit, map[string][]unseal.Value{"db": same}, map[string]string{"db": hash("1")}, readAll)
	if other.get(base+"/db", "alice").Header().Get("ETag") == before {
		t.Error("two agents make the same tags")
	}
}

// With If-None-Match a wait ends when the caller would get something else: commits
// that change nothing for it do not wake it, also not without a named commit.
func TestWaitForAnotherContent(t *testing.T) {
	b := newBench(t)
	b.follower.line = []string{hash("0"), commit, hash("2"), hash("3")}
	secrets := map[string][]unseal.Value{"db": texts("password", "old")}
	b.serveValues(commit, secrets, map[string]string{"db": hash("1")}, readAll)
	waiting := func(path, query string) chan *httptest.ResponseRecorder {
		tag := b.get(base+path, "alice").Header().Get("ETag")
		done := make(chan *httptest.ResponseRecorder, 1)
		go func() { done <- b.ask(t.Context(), base+path+query, "alice", tag) }()
		time.Sleep(20 * time.Millisecond)
		return done
	}
	if w := <-waiting("/db", "?wait=10ms"); w.Code != 304 {
		t.Errorf("nothing came: %d", w.Code)
	}
	d, raw := waiting("/db", "?wait=50s"), waiting("/db/keys/password", "?wait=50s&after="+hash("0"))
	b.serveValues(hash("2"), secrets, map[string]string{"db": hash("1")}, readAll) // nothing new
	select {
	case w := <-d:
		t.Fatalf("woken by nothing: %d", w.Code)
	case <-time.After(30 * time.Millisecond):
	}
	b.serveValues(hash("3"), map[string][]unseal.Value{"db": texts("password", "new")}, map[string]string{"db": hash("9")}, readAll)
	for _, d := range []chan *httptest.ResponseRecorder{d, raw} {
		if w := <-d; w.Code != 200 || !strings.Contains(w.Body.String(), "new") || w.Header().Get("Sealward-Generation") != hash("3") {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	}
	if b.follower.looks.Load() != 0 {
		t.Error("a wait for another content, which clients repeat without end, asks the remote")
	}
	// The right ends while it waits; the token ends while it waits; it is deleted.
	d = waiting("/db", "?wait=50s")
	b.serveValues(hash("4"), secrets, map[string]string{"db": hash("1")})
	if w := <-d; w.Code != 403 || w.Header().Get("Sealward-Generation") != "" || w.Header().Get("ETag") != "" {
		t.Errorf("revoked: %d %v", w.Code, w.Header())
	}
	b.serveValues(hash("5"), secrets, map[string]string{"db": hash("1")}, readAll)
	d = waiting("/db", "?wait=50s")
	b.serveValues(hash("6"), nil, nil, readAll)
	if w := <-d; w.Code != 404 {
		t.Errorf("deleted: %d", w.Code)
	}
	b.serveValues(hash("5"), secrets, map[string]string{"db": hash("1")}, readAll)
	d = waiting("/db", "?wait=50s")
	if err := os.Remove(b.tokens); err != nil {
		t.Fatal(err)
	}
	b.serveValues(hash("7"), secrets, map[string]string{"db": hash("2")}, readAll)
	if w := <-d; w.Code != 401 {
		t.Errorf("without a token: %d", w.Code)
	}
}

func TestBatch(t *testing.T) {
	b := newBench(t)
	secrets := map[string][]unseal.Value{"db": texts("password", "hunter2", "user", "o"), "api": texts("token", "hunter3"), "other": texts("password", "hunter4")}
	blobs := map[string]string{"db": hash("1"), "api": hash("2"), "other": hash("3")}
	b.serveValues(commit, secrets, blobs, "policy_use_case_id: read-specific-secret, subjects: [users:id:alice], secrets: [db, api, ghost]",
		"policy_use_case_id: read-specific-secret, subjects: [users:id:lister], secrets: [db], keys: [user]")
	item := func(ws, name string, keys ...string) string {
		text, _ := json.Marshal(serve.ItemJSON{Workspace: ws, Name: name, Keys: keys})
		return string(text)
	}
	batch := func(items ...string) string { return `{"secrets":[` + strings.Join(items, ",") + `]}` }
	body := batch(item("orders", "db"), item("orders", "api", "token"), item("orders", "other"), item("orders", "absent"), item("nowhere", "db"),
		item("instance", "db"), item("orders", "../db"), item("orders", "*"), item("Orders", "db"), item("orders", "ghost"), item("orders", "db", "nokey"), item("orders", "db", "..", "user"))
	w := b.post(body, "alice")
	var out serve.BatchAnswerJSON
	if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil || w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	recs := b.audit.take()
	want := []int{200, 200, 403, 403, 403, 403, 403, 403, 403, 404, 404, 403}
	if len(out.Secrets) != len(want) || len(recs) != len(want) {
		t.Fatalf("%d results, %d records", len(out.Secrets), len(recs))
	}
	recorded := map[int]int{}
	for _, rec := range recs {
		recorded[rec.Status]++
		if strings.ContainsAny(rec.Name, "*.") {
			t.Errorf("recorded what is no name: %+v", rec)
		}
	}
	for i, res := range out.Secrets {
		if res.Status != want[i] || (res.Secret != nil) != (want[i] == 200) {
			t.Errorf("item %d: %+v", i, res)
		}
		// Not permitted, not there and impossible are one answer.
		if res.Status == 403 && res != (serve.ResultJSON{Status: 403, Code: "denied"}) {
			t.Errorf("item %d: %+v", i, res)
		}
	}
	if recorded[200] != 2 || recorded[404] != 2 || recorded[403] != 8 {
		t.Errorf("recorded %v", recorded)
	}
	if db := out.Secrets[0].Secret; db.Data["password"] != "hunter2" || db.Generation != commit || db.Provenance[0].Blob != hash("1") || w.Header().Get("Sealward-Generation") != commit {
		t.Errorf("%+v", db)
	}
	if strings.Contains(w.Body.String(), "hunter4") {
		t.Error("it holds a value that no grant allows")
	}
	// Keys are the caller's, or nothing.
	if w := b.post(batch(item("orders", "db"), item("orders", "db", "user"), item("orders", "db", "user", "password")), "lister"); w.Code != 200 || strings.Contains(w.Body.String(), "hunter2") || strings.Count(w.Body.String(), `"user":"o"`) != 2 || !strings.Contains(w.Body.String(), `{"status":403,"code":"denied"}`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	b.audit.take()

	// The same again is 304, one record an item; a commit that one of them waits for wakes it.
	body = batch(item("orders", "db"), item("orders", "api"))
	tag := b.post(body, "alice").Header().Get("ETag")
	b.audit.take()
	if w := b.post(body, "alice", "If-None-Match", tag); w.Code != 304 || len(b.audit.take()) != 2 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := b.post(batch(item("orders", "api"), item("orders", "db")), "alice", "If-None-Match", tag); w.Code != 200 {
		t.Errorf("another order: %d", w.Code)
	}
	b.follower.line = []string{commit, hash("2")}
	for notBefore, code := range map[string]int{commit: 200, hash("2"): 409, "x": 400} {
		if w := b.post(body, "alice", "If-Commit-Not-Before", notBefore); w.Code != code {
			t.Errorf("not before %.4s: %d %s", notBefore, w.Code, w.Body)
		}
		if w := b.post(batch(item("orders", "db")), "eve", "If-Commit-Not-Before", notBefore); notBefore != "x" && (w.Code != 200 || !strings.Contains(w.Body.String(), "denied") || w.Header().Get("Sealward-Generation") != "") {
			t.Errorf("eve learns of commits: %d %s %v", w.Code, w.Body, w.Header())
		}
	}
	// One record that cannot be written, and nothing leaves.
	b.audit.broken = true
	if w := b.post(body, "alice"); w.Code != 503 || strings.Contains(w.Body.String(), "hunter") {
		t.Errorf("unrecorded: %d %s", w.Code, w.Body)
	}
	b.audit.broken = false

	many := func(n int) string { return batch(slices.Repeat([]string{item("orders", "db")}, n)...) }
	for in, code := range map[string]int{
		many(100): 200, many(101): 400, batch(): 400, "": 400, "[]": 400, `{"secrets":[{"workspace":"orders","name":"db","keyz":["x"]}]}`: 400,
		body + body: 400, strings.Repeat(" ", 65<<10) + body: 400,
	} {
		if w := b.post(in, "alice"); w.Code != code {
			t.Errorf("%.40q: %d, want %d", in, w.Code, code)
		}
	}
	if w := b.post(body, "nobody"); w.Code != 401 {
		t.Errorf("without a token: %d", w.Code)
	}
	// Denied items are denials, of which one identity has not many.
	codes := map[int]int{}
	for range 3 {
		codes[b.post(many(60), "eve").Code]++
	}
	if codes[200] != 1 || codes[429] != 2 {
		t.Errorf("denials: %v", codes)
	}
	// An answer has a bound.
	b.serveValues(commit, map[string][]unseal.Value{"db": texts("a", strings.Repeat("x", 1<<20))}, map[string]string{"db": hash("1")}, readAll)
	if w := b.post(many(9), "alice"); w.Code != 413 || w.Body.Len() > 1000 {
		t.Errorf("too large: %d", w.Code)
	}
	if strings.Contains(b.log.String(), "hunter") {
		t.Error("the log holds a value")
	}
}

func TestBatchCountsItsItems(t *testing.T) {
	b := newBench(t)
	b.serveValues(commit, map[string][]unseal.Value{"db": texts("a", "x")}, map[string]string{"db": hash("1")}, readAll)
	body := `{"secrets":[` + strings.Repeat(`{"workspace":"orders","name":"db"},`, 99) + `{"workspace":"orders","name":"db"}]}`
	codes := map[int]int{}
	for range 25 { // the default is 1,000 a second, 2,000 at once
		codes[b.post(body, "alice").Code]++
	}
	if codes[200] != 20 || codes[429] != 5 {
		t.Errorf("%v", codes)
	}
}

func TestBatchBeforeTheFirstCommit(t *testing.T) {
	b := newBench(t)
	if w := b.post(`{"secrets":[{"workspace":"orders","name":"db"}]}`, "alice"); w.Code != http.StatusServiceUnavailable {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
