package review_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealward/sealward/gitops/review"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal/access"
	"github.com/sealward/sealward/unseal/audit"
)

// logged is the record that serving writes of a decision.
func logged(event audit.Event, who, ws, name, commit string, at time.Time, d access.Decision, keys ...string) audit.Record {
	rec := audit.Record{Event: event, Decision: audit.Deny, Reason: string(d.Reason), Subject: who, Workspace: ws, Name: name, Commit: commit, Time: at, Grant: d.Grant, Keys: keys}
	if d.Allowed {
		rec.Decision = audit.Allow
	}
	if _, is := d.Subject.Role(); is {
		rec.Role = d.Subject.String()
	}
	return rec
}

// Over many commits with random grants: what was decided is decided again, and any other
// decision, grant or role is seen.
func TestReplay(t *testing.T) {
	ctx := t.Context()
	r := newRepo(t)
	rng := rand.New(rand.NewPCG(1, 2))
	var recs []audit.Record
	for range 12 {
		r.random(rng)
		commit := r.commit()
		tree, err := r.open().At(ctx, commit)
		must(t, err)
		for _, ws := range []string{"orders", "payments", "instance"} {
			scope := parsed(t, manifest.ParseScope, ws)
			p, err := tree.Policy(ctx, scope)
			must(t, err)
			for _, who := range []string{"users:id:a", "users:id:b", "users:id:c", "users:id:token"} {
				id := access.Identity{User: parsed(t, manifest.ParseSubject, who)}
				var roles []string
				if who == "users:id:token" { // the token asserts it
					id.Roles, roles = []manifest.Subject{parsed(t, manifest.ParseSubject, "roles:id:r1")}, []string{"roles:id:r1"}
				}
				for _, name := range []string{"db", "api"} {
					may := p.Policy.Read(id, scope, parsed(t, manifest.ParseName, name), now)
					for _, rec := range []audit.Record{
						logged(audit.Read, who, ws, name, commit, now, may.Any()),
						logged(audit.Read, who, ws, name, commit, now, may.Key(parsed(t, manifest.ParseKey, "password")), "password"),
						logged(audit.List, who, ws, "", commit, now, p.MayList(id, scope, now)),
					} {
						rec.Roles = roles
						recs = append(recs, rec)
					}
				}
			}
		}
		tree.Close()
	}
	replay, err := review.NewReplay(r.open())
	must(t, err)
	defer replay.Close()
	allowed, byRole := 0, 0
	for _, rec := range recs {
		decide := func(what string, want review.Outcome, change func(*audit.Record)) {
			t.Helper()
			changed := rec
			change(&changed)
			if o, why, err := replay.Decide(ctx, changed); err != nil || o != want || want == review.Differs && !strings.Contains(why, "allowed") && !strings.Contains(why, "Git decides") {
				t.Errorf("%s: outcome %v, %q, %v: %+v", what, o, why, err, changed)
			}
		}
		decide("as logged", review.Same, func(*audit.Record) {})
		decide("another decision", review.Differs, func(r *audit.Record) {
			r.Decision = map[audit.Decision]audit.Decision{audit.Allow: audit.Deny, audit.Deny: audit.Allow}[r.Decision]
		})
		decide("another grant", review.Differs, func(r *audit.Record) { r.Grant = "workspaces/orders/grants/other.yaml" })
		decide("another role", review.Differs, func(r *audit.Record) { r.Role = "roles:id:other" })
		decide("a stranger", map[bool]review.Outcome{true: review.Differs, false: review.Same}[rec.Decision == audit.Allow || rec.Reason == "denied-by-grant"], func(r *audit.Record) { r.Subject, r.Roles = "users:id:stranger", nil })
		decide("an unknown commit", review.UnknownCommit, func(r *audit.Record) { r.Commit = strings.Repeat("ab", 20) })
		decide("no commit", map[bool]review.Outcome{true: review.Differs, false: review.Undecided}[rec.Decision == audit.Allow], func(r *audit.Record) { r.Commit = "" })
		decide("more roles than a record holds", review.Same, func(r *audit.Record) { r.Roles = append(slices.Clone(r.Roles), "+3 more") })
		decide("an allow by a role that was cut", review.Undecided, func(r *audit.Record) {
			r.Role, r.Roles = "roles:id:cut", []string{"+3 more"}
		})
		decide("an operator's look at the status page", map[bool]review.Outcome{true: review.Undecided, false: review.Differs}[rec.Event == audit.List], func(r *audit.Record) {
			r.Decision, r.Reason, r.Grant, r.Role = audit.Allow, "monitor", "", ""
		})
		decide("a branch", map[bool]review.Outcome{true: review.Differs, false: review.Undecided}[rec.Decision == audit.Allow], func(r *audit.Record) { r.Commit = "main" })
		if rec.Decision == audit.Allow {
			allowed++
		}
		if rec.Role != "" {
			byRole++
		}
		if t.Failed() {
			return
		}
	}
	if allowed < 20 || byRole < 5 || allowed > len(recs)-20 {
		t.Errorf("%d of %d allowed, %d through a role: proves little", allowed, len(recs), byRole)
	}
}

// The time of the record decides what had expired, with a little room: it is written after
// the decision.
func TestReplayOfWhatExpired(t *testing.T) {
	r := newRepo(t)
	r.grant("orders", "g", "subjects: [users:id:a], policy_use_case_id: read-all-secrets, effect: allow, expires: "+now.Format(time.RFC3339))
	commit := r.commit()
	replay, err := review.NewReplay(r.open())
	must(t, err)
	defer replay.Close()
	granted := access.Decision{Allowed: true, Reason: access.Granted, Grant: "workspaces/orders/grants/g.yaml", Subject: parsed(t, manifest.ParseSubject, "users:id:a")}
	for after, want := range map[time.Duration]review.Outcome{-time.Second: review.Same, 10 * time.Second: review.Same, time.Minute: review.Differs} {
		if o, why, err := replay.Decide(t.Context(), logged(audit.Read, "users:id:a", "orders", "db", commit, now.Add(after), granted)); err != nil || o != want {
			t.Errorf("%v after its end: %v %q %v", after, o, why, err)
		}
	}
}

func TestConsumers(t *testing.T) {
	ctx := t.Context()
	r := newRepo(t)
	const one = "workspaces/orders/secrets/db.yaml"
	r.write(one, "v1")
	first := r.commit()
	v1 := r.git("rev-parse", "HEAD:"+one)
	r.write("workspaces/orders/secrets/other.yaml", "x")
	unrelated := r.commit()
	r.write(one, "v2")
	second := r.commit()
	v2 := r.git("rev-parse", "HEAD:"+one)
	r.remove(one)
	r.write("workspaces/orders/secrets/db/token.yaml", "t1")
	r.write("workspaces/orders/secrets/db/hook.yaml", "h1")
	parts := r.commit()
	t1, h1 := r.git("rev-parse", "HEAD:workspaces/orders/secrets/db/token.yaml"), r.git("rev-parse", "HEAD:workspaces/orders/secrets/db/hook.yaml")
	r.write("workspaces/orders/secrets/db/token.yaml", "t2")
	newToken := r.commit()
	t2 := r.git("rev-parse", "HEAD:workspaces/orders/secrets/db/token.yaml")

	read := func(who, commit, path, blob string) audit.Record {
		return audit.Record{Event: audit.Read, Decision: audit.Allow, Status: 200, Subject: "users:id:" + who, Workspace: "orders", Name: "db", Commit: commit, Path: path, Blob: blob}
	}
	inParts := func(who, commit, token, hook string) audit.Record {
		rec := read(who, commit, "workspaces/orders/secrets/db", "")
		rec.Parts = map[string]string{"token.yaml": token, "hook.yaml": hook}
		return rec
	}
	with := func(rec audit.Record, change func(*audit.Record)) audit.Record { change(&rec); return rec }
	const token, hook = "workspaces/orders/secrets/db/token.yaml", "workspaces/orders/secrets/db/hook.yaml"
	for name, c := range map[string]struct {
		at   string
		recs []audit.Record
		want string // who is current, who is outdated
	}{
		"nobody":                     {second, nil, ""},
		"the newest":                 {second, []audit.Record{read("a", first, one, v1), read("a", second, one, v2)}, "a"},
		"an unrelated commit":        {unrelated, []audit.Record{read("a", first, one, v1)}, "a"},
		"the old one":                {second, []audit.Record{read("a", first, one, v1), read("b", second, one, v2)}, "-a b"},
		"back to the old one":        {second, []audit.Record{read("a", second, one, v2), read("a", first, one, v1)}, "-a"},
		"not modified since":         {second, []audit.Record{read("a", first, one, v1), with(read("a", second, one, v2), func(r *audit.Record) { r.Status = 304 })}, "a"},
		"denied and absent":          {second, []audit.Record{read("a", first, one, v1), with(read("a", second, one, v2), func(r *audit.Record) { r.Decision, r.Status = audit.Deny, 403 }), with(read("a", second, one, v2), func(r *audit.Record) { r.Status = 404 })}, "-a"},
		"another secret":             {second, []audit.Record{with(read("a", second, one, v2), func(r *audit.Record) { r.Name = "other" })}, ""},
		"all parts":                  {newToken, []audit.Record{inParts("a", newToken, t2, h1)}, "a"},
		"one part is old":            {newToken, []audit.Record{inParts("a", parts, t1, h1)}, "-a"},
		"the other part was read":    {newToken, []audit.Record{inParts("a", parts, t1, h1), read("a", newToken, hook, h1)}, "-a"},
		"the new part was read":      {newToken, []audit.Record{inParts("a", parts, t1, h1), read("a", newToken, token, t2)}, "a"},
		"reads one part only":        {newToken, []audit.Record{read("a", parts, hook, h1)}, "a"},
		"split since, not read":      {newToken, []audit.Record{read("a", second, one, v2)}, "-a"},
		"split since, read":          {newToken, []audit.Record{read("a", second, one, v2), inParts("a", newToken, t2, h1)}, "a"},
		"without blobs":              {newToken, []audit.Record{read("a", parts, "", ""), read("b", newToken, "", "")}, "-a b"},
		"without blobs, and unknown": {newToken, []audit.Record{read("a", strings.Repeat("ab", 20), "", "")}, "-a"},
		"deleted":                    {first, []audit.Record{read("a", second, one, v2)}, "-a"},
	} {
		repo := r.open()
		tree, err := repo.At(ctx, c.at)
		must(t, err)
		consumers, err := tree.Consumers(ctx, parsed(t, manifest.ParseScope, "orders"), parsed(t, manifest.ParseName, "db"))
		must(t, err)
		for i, rec := range c.recs {
			rec.Seq, rec.Time = uint64(i+1), now.Add(time.Duration(i)*time.Hour)
			must(t, consumers.Add(ctx, rec))
		}
		consumers.Finish(time.Time{})
		var got []string
		for _, reader := range consumers.Consumers {
			sign := "-"
			if reader.Current {
				sign = ""
			}
			got = append(got, sign+strings.TrimPrefix(reader.Subject, "users:id:"))
		}
		if fmt.Sprint(strings.Join(got, " ")) != c.want {
			t.Errorf("%s: %q, want %q: %+v", name, got, c.want, consumers.Consumers)
		}
		// Whoever read nothing for long is left out when that is asked for.
		if consumers.Finish(now.Add(1000 * time.Hour)); len(consumers.Consumers) != 0 {
			t.Errorf("%s: %+v", name, consumers.Consumers)
		}
		tree.Close()
	}
}
