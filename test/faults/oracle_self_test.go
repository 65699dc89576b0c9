package faults

import (
	"strings"
	"testing"
	"time"

	"github.com/sealward/sealward/unseal/serve"
)

// What the oracle must note: an oracle that sees nothing makes every other test of
// this package pass.
func TestOracleNotesWhatIsWrong(t *testing.T) {
	const db, path = "orders/db", "workspaces/orders/secrets/db.yaml"
	now := time.Now()
	answer := func(generation, password, user string) serve.SecretJSON {
		return serve.SecretJSON{Metadata: serve.Metadata{Name: "db", Generation: generation}, Data: map[string]string{"password": password, "user": user},
			Provenance: []serve.ProvenanceJSON{{Path: path, Keys: []string{"password", "user"}}}}
	}
	stale := func(s serve.SecretJSON) serve.SecretJSON { s.StaleSince = &now; return s }
	list := func(generation string, names ...string) serve.ListJSON {
		l := serve.ListJSON{Generation: generation}
		for _, n := range names {
			l.Secrets = append(l.Secrets, serve.Metadata{Name: n, Generation: generation})
		}
		return l
	}
	heldAnswer := func(token string) serve.SecretJSON {
		return serve.SecretJSON{Metadata: serve.Metadata{Name: "old", Generation: "c3"}, Data: map[string]string{"token": token},
			Provenance: []serve.ProvenanceJSON{{Path: "workspaces/orders/secrets/old.yaml", Keys: []string{"token"}}}}
	}
	for name, c := range map[string]struct {
		ask  func(o *oracle, seen *cursor)
		want string // "" when it is right
	}{
		"as merged":          {func(o *oracle, s *cursor) { o.secret(db, answer("c1", "p1", "u1"), asked{}, s) }, ""},
		"another commit's":   {func(o *oracle, s *cursor) { o.secret(db, answer("c1", "p0", "u0"), asked{}, s) }, "not in that commit"},
		"a mixture":          {func(o *oracle, s *cursor) { o.secret(db, answer("c1", "p1", "u0"), asked{}, s) }, "not in that commit"},
		"never merged":       {func(o *oracle, s *cursor) { o.secret(db, answer("x", "p1", "u1"), asked{}, s) }, "never merged"},
		"back in time":       {func(o *oracle, s *cursor) { *s = 1; o.secret(db, answer("c0", "p0", "u0"), asked{}, s) }, "went back"},
		"broken, last good":  {func(o *oracle, s *cursor) { o.secret(db, stale(answer("c2", "p1", "u1")), asked{}, s) }, ""},
		"broken, an older":   {func(o *oracle, s *cursor) { o.secret(db, stale(answer("c2", "p0", "u0")), asked{}, s) }, ""},
		"broken, not marked": {func(o *oracle, s *cursor) { o.secret(db, answer("c2", "p1", "u1"), asked{}, s) }, "stale since"},
		"good, marked":       {func(o *oracle, s *cursor) { o.secret(db, stale(answer("c1", "p1", "u1")), asked{}, s) }, "stale since"},
		"broken, made up":    {func(o *oracle, s *cursor) { o.secret(db, stale(answer("c2", "p1", "u0")), asked{}, s) }, "never merged"},
		"removed":            {func(o *oracle, s *cursor) { o.secret(db, answer("c3", "p1", "u1"), asked{}, s) }, "not there"},
		"nothing of it": {func(o *oracle, s *cursor) {
			o.secret(db, serve.SecretJSON{Metadata: serve.Metadata{Generation: "c1"}}, asked{}, s)
		}, "missing"},
		"absent":            {func(o *oracle, s *cursor) { o.absent("orders/api", asked{}) }, "in every commit"},
		"absent later":      {func(o *oracle, s *cursor) { o.absent(db, asked{seen: 1}) }, ""},
		"absent, keys away": {func(o *oracle, s *cursor) { o.setKeyless("orders", true); o.absent("orders/api", asked{}) }, ""},
		"damaged, marked": {func(o *oracle, s *cursor) {
			o.setDamaged(true)
			o.secret(db, stale(answer("c1", "p0", "u0")), asked{}, s)
		}, ""},
		"damaged, unmarked":   {func(o *oracle, s *cursor) { o.setDamaged(true); o.secret(db, answer("c1", "p0", "u0"), asked{}, s) }, "not in that commit"},
		"held":                {func(o *oracle, s *cursor) { o.secret("orders/old", heldAnswer("h"), asked{}, s) }, ""},
		"held, another":       {func(o *oracle, s *cursor) { o.secret("orders/old", heldAnswer("x"), asked{}, s) }, "not in that commit"},
		"a whole list":        {func(o *oracle, s *cursor) { o.list("orders", list("c1", "api", "db"), asked{}, s) }, ""},
		"a list without":      {func(o *oracle, s *cursor) { o.list("orders", list("c1", "api"), asked{}, s) }, "db is missing"},
		"a list with more":    {func(o *oracle, s *cursor) { o.list("orders", list("c3", "api", "db"), asked{}, s) }, "does not exist there"},
		"one value":           {func(o *oracle, s *cursor) { o.value(db, "user", path, "c1", "", []byte("u1"), asked{}, s) }, ""},
		"one value, of c0":    {func(o *oracle, s *cursor) { o.value(db, "user", path, "c1", "", []byte("u0"), asked{}, s) }, "another value"},
		"one value, stale":    {func(o *oracle, s *cursor) { o.value(db, "user", path, "c2", "x", []byte("u1"), asked{}, s) }, ""},
		"one value, unmarked": {func(o *oracle, s *cursor) { o.value(db, "user", path, "c2", "", []byte("u1"), asked{}, s) }, "another value"},
	} {
		o := newOracle()
		api := file{"orders/api", map[string]string{"token": "t"}, false}
		const apiPath = "workspaces/orders/secrets/api.yaml"
		o.merge("c0", map[string]file{apiPath: api, path: {db, map[string]string{"password": "p0", "user": "u0"}, false}})
		o.merge("c1", map[string]file{apiPath: api, path: {db, map[string]string{"password": "p1", "user": "u1"}, false}})
		o.merge("c2", map[string]file{apiPath: api, path: {db, nil, false}})
		o.merge("c3", map[string]file{apiPath: api, "workspaces/orders/secrets/old.yaml": {"orders/old", map[string]string{"token": "h"}, true}})
		var seen cursor
		c.ask(o, &seen)
		violations, reads := o.report()
		if got := strings.Join(violations, "; "); reads != 1 || (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
