package serve

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal/access"
	"github.com/sealward/sealward/unseal/audit"
)

var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// One user cannot end the sessions of others, and all of them are bounded.
func TestSessionsAreBounded(t *testing.T) {
	var s sessions
	other := s.start("bob", "bob's", noon)
	var mine []string
	for i := range 100 {
		mine = append(mine, s.start("alice", fmt.Sprint("alice's ", i), noon.Add(time.Duration(i)*time.Second)))
	}
	if len(s.open) != maxUserSessions+1 {
		t.Errorf("%d sessions", len(s.open))
	}
	if token, err := s.token(other, noon); err != nil || token != "bob's" {
		t.Errorf("bob: %q %v", token, err)
	}
	for i, id := range mine {
		token, err := s.token(id, noon.Add(time.Minute))
		if stays := i >= 100-maxUserSessions; stays != (err == nil) || stays && token != fmt.Sprint("alice's ", i) {
			t.Errorf("alice %d: %q %v", i, token, err)
		}
	}
	for i := range 2 * maxSessions {
		s.start(fmt.Sprint("user ", i), "t", noon.Add(time.Hour))
	}
	if len(s.open) != maxSessions {
		t.Errorf("%d sessions", len(s.open))
	}
	if s.start("late", "t", noon.Add(24*time.Hour)); len(s.open) != 1 {
		t.Errorf("%d sessions after all have ended", len(s.open))
	}
}

// What is kept of a session gives neither its token nor its cookie away.
func TestSessionsKeepNoToken(t *testing.T) {
	var s sessions
	cookie := s.start("alice", "swt1_the-token-itself", noon)
	for key, kept := range s.open {
		if text := fmt.Sprintf("%s %s %s %v", key[:], kept.sealed, kept.user, kept); strings.Contains(text, "token-itself") || strings.Contains(text, cookie) {
			t.Error("the session holds its token or cookie")
		}
	}
	for _, wrong := range []string{"", cookie[:42], cookie + "A", cookie[:42] + "\n", strings.Repeat("A", 43), " " + cookie} {
		if token, err := s.token(wrong, noon); err == nil || token != "" {
			t.Errorf("%q opens a session", wrong)
		}
	}
}

func TestRecentIsBounded(t *testing.T) {
	b := newBrowser(func() time.Time { return noon })
	note := func(who, name string, decision audit.Decision, at int) {
		b.note(audit.Record{Event: audit.Read, Subject: who, Workspace: "orders", Name: name, Decision: decision}, noon.Add(time.Duration(at)*time.Second))
	}
	note("bob", "db", audit.Allow, 0)
	for i := range 10_000 {
		note("alice", "db", audit.Allow, i)                 // a busy reader
		note("eve", fmt.Sprint("guess-", i), audit.Deny, i) // and a guesser
	}
	reads := b.reads.newest()
	if len(reads) != 2 || reads[0].subject != "alice" || reads[0].count != 10_000 || !reads[0].first.Equal(noon) || reads[0].last.Sub(noon) != 9_999*time.Second || reads[1].subject != "bob" {
		t.Errorf("%+v", reads)
	}
	if refused := b.refusals.newest(); len(refused) != 128 || refused[0].name != "guess-9999" || refused[127].name != "guess-9872" {
		t.Errorf("%d refusals", len(refused))
	}
	for i := range 1_000 {
		note("alice", fmt.Sprint("s", i), audit.Allow, 20_000+i)
	}
	if reads := b.reads.newest(); len(reads) != 512 || reads[511].name != "s488" || len(b.reads.entries) != b.reads.order.Len() {
		t.Errorf("%d reads", len(reads))
	}
	b.note(audit.Record{Event: audit.List, Subject: "alice", Workspace: "orders"}, noon)
	b.note(audit.Record{Event: audit.Read, Subject: "alice", Path: "/metrics", Decision: audit.Deny}, noon)
	if len(b.refusals.newest()) != 128 || b.refusals.newest()[0].name != "guess-9999" {
		t.Error("what is no read of a secret is among the reads")
	}
}

// Who may read is told as the policy decides it, and not at any price.
func TestReaders(t *testing.T) {
	ws, err := manifest.ParseWorkspace("orders")
	if err != nil {
		t.Fatal(err)
	}
	policy := func(manifests ...string) *access.Policy {
		var files []access.File
		for i, text := range manifests {
			m, err := manifest.Parse("g.yaml", fmt.Appendf(nil, "name: g%d\nversion: v1alpha\nworkspace: orders\n%s\n", i, text))
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, access.File{Path: fmt.Sprintf("workspaces/orders/grants/g%d.yaml", i), Manifest: m})
		}
		return access.New(map[manifest.Workspace]*access.Scope{ws: access.CompileScope(ws, files)})
	}
	var names []manifest.Name
	for _, text := range []string{"api", "db"} {
		n, err := manifest.ParseName(text)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, n)
	}
	secrets := make([]secretView, 2)
	p := policy(
		"type: role\nrole: {members: [users:id:ann, users:id:bea, users:id:cat]}",
		"type: grant\ngrant: {policy_use_case_id: read-specific-secret, subjects: [roles:id:g0], secrets: [db], effect: allow}",
		"type: grant\ngrant: {policy_use_case_id: read-specific-secret, subjects: [users:id:bea], secrets: [db], effect: deny}",
		"type: grant\ngrant: {policy_use_case_id: read-specific-secret, subjects: [users:id:cat], secrets: [db], keys: [password], effect: deny}",
		"type: grant\ngrant: {policy_use_case_id: read-all-secrets, subjects: [users:id:old], effect: allow, expires: 2026-05-01T12:00:00Z}",
		"type: grant\ngrant: {policy_use_case_id: read-specific-secret, subjects: [users:id:dan], secrets: [api, db], keys: [token], effect: allow}",
		"type: grant\ngrant: {policy_use_case_id: list-secrets, subjects: [users:id:lee], effect: allow}",
	)
	if !readers(p, ws, names, secrets, noon) {
		t.Fatal("too much")
	}
	text := func(v secretView) (out []string) {
		for _, r := range v.Readers {
			out = append(out, fmt.Sprintf("%s %v %v", r.Name, r.Role, r.Some))
		}
		return out
	}
	if got := strings.Join(text(secrets[0]), ", "); got != "dan false true" {
		t.Errorf("api: %s", got)
	}
	if got := strings.Join(text(secrets[1]), ", "); got != "g0 true false, ann false false, cat false true, dan false true" {
		t.Errorf("db: %s", got)
	}
	var many []string
	for i := range maxPageSubjects + 1 {
		many = append(many, fmt.Sprintf("users:id:u%d", i))
	}
	crowd := "type: grant\ngrant: {policy_use_case_id: read-all-secrets, effect: allow, subjects: [" + strings.Join(many[:30], ", ") + "]}"
	secrets = make([]secretView, 2)
	if !readers(policy(crowd), ws, names, secrets, noon) || len(secrets[0].Readers) != maxPageReaders || secrets[0].MoreReaders != 30-maxPageReaders {
		t.Errorf("%+v", secrets[0])
	}
	if readers(policy("type: role\nrole: {members: ["+strings.Join(many, ", ")+"]}"), ws, names, secrets, noon) {
		t.Error("no price was too high")
	}
}
