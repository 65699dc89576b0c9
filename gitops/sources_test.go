package gitops_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealward/sealward/gitops"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal"
)

// twoSources is a repository of its own for each of two names, with one keyring,
// followed by one service.
type twoSources struct {
	*testing.T
	a, b *world
}

func newTwoSources(t *testing.T) *twoSources {
	w := &twoSources{t, newWorld(t), newWorld(t)}
	for ws, id := range w.a.ids {
		w.b.ids[ws] = id
		w.b.putKeys(ws, id)
	}
	return w
}

// once syncs both as agent.yaml says, and returns what is served, by source.
func (w *twoSources) once(listA, listB string) (*unseal.View, string, error) {
	w.Helper()
	text := "sources:\n- {name: a, url: " + filepath.Join(w.a.dir, "repo") + ", workspaces: [" + listA + "]}\n" +
		"- {name: b, url: " + filepath.Join(w.b.dir, "repo") + ", workspaces: [" + listB + "]}\n" +
		"keyring: " + filepath.Join(w.a.dir, "keys") + "\nstate: " + filepath.Join(w.a.dir, "state") + "\n"
	settings, err := gitops.ParseSettings([]byte(text), w.a.dir)
	if err == nil {
		err = settings.Check(true)
	}
	if err != nil {
		return nil, "", err
	}
	var log strings.Builder
	svc := &gitops.Service{Settings: settings, Log: logged.To(&log), Now: func() time.Time { return w.a.now }}
	snapshots, err := svc.Once(context.Background())
	live := &unseal.Live{}
	for _, s := range snapshots {
		live.Publish(s)
	}
	return live.View(), log.String(), err
}

func ownerOf(t *testing.T, v *unseal.View, ws string) string {
	t.Helper()
	scope, err := manifest.ParseScope(ws)
	must(t, err)
	if names := v.Contested(scope); names != nil {
		return strings.Join(names, "+")
	}
	s := v.Of(scope)
	if s == nil {
		return "nobody"
	}
	name, err := manifest.ParseName("db")
	must(t, err)
	if sec, ok := s.Secret(scope, name, time.Now()); ok {
		return s.Source + ":" + string(sec.Parts[0].Good.Values[0].Data)
	}
	return s.Source
}

func TestSeveralSources(t *testing.T) {
	w := newTwoSources(t)
	w.a.secret("orders", "db", "k=of-a")
	w.a.commit("a")
	w.b.secret("payments", "db", "k=of-b")
	w.b.commit("b")
	want := func(listA, listB, orders, payments string) (*unseal.View, string) {
		t.Helper()
		v, log, err := w.once(listA, listB)
		must(t, err)
		if o, p := ownerOf(t, v, "orders"), ownerOf(t, v, "payments"); o != orders || p != payments {
			t.Errorf("orders of %s, payments of %s; want %s, %s", o, p, orders, payments)
		}
		return v, log
	}
	want("", "", "a:of-a", "b:of-b")

	// A workspace that both claim is refused for both, by name.
	w.b.secret("orders", "db", "k=of-b-too")
	w.b.commit("claims orders")
	if _, log := want("", "", "a+b", "b:of-b"); !strings.Contains(log, "several sources claim a workspace") || !strings.Contains(log, `sources="a, b"`) {
		t.Errorf("log:\n%s", log)
	}
	// The operator's list goes before what a repository claims, and holds at the next
	// start also for what was served before.
	v, _ := want("orders", "", "a:of-a", "b:of-b")
	if p := v.Snapshots()[1].Problems; len(p) != 1 || !strings.Contains(p[0].Message, `give orders to source "a"`) {
		t.Errorf("problems of b: %v", p)
	}
	v, _ = want("orders", "payments", "a:of-a", "b:of-b")
	if p := v.Snapshots()[1].Problems; len(p) != 1 || !strings.Contains(p[0].Message, "orders") {
		t.Errorf("problems of b: %v", p)
	}
	want("payments", "orders", "b:of-b-too", "nobody")

	// Given back, it is served again.
	want("", "", "a+b", "b:of-b")
	w.b.remove("workspaces/orders/secrets/db.yaml")
	w.b.commit("gives orders up")
	want("", "", "a:of-a", "b:of-b")
}

func TestSourcesThatContradictThemselves(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"sources: [{name: a, url: /x}, {name: a, url: /y}]", `"a" names another source too`},
		{"sources: [{url: /x}, {name: b, url: /y}]", "each of several sources has a name"},
		{"sources: [{name: ../up, url: /x}]", "each of several sources has a name"},
		{"sources: [{name: a, url: /x, workspaces: [orders]}, {name: b, url: /y, workspaces: [orders]}]", `sources[1].workspaces: orders is listed by source "a" too`},
		{"sources: [{name: a, url: /x, workspaces: [Orders]}]", "sources[0].workspaces"},
		{"sources: [{name: a}]", "sources[0].url is missing"},
		{"source: {url: /z}\nsources: [{name: a, url: /x}]", "source and sources are both set"},
		{"source: {url: /z, name: a}", "source.name is for several sources"},
		{"source: {url: /z, rewind: maybe}", "source.rewind"},
		{"source: {url: /z, removalGuard: {percent: 101}}", "source.removalGuard"},
	} {
		s, err := gitops.ParseSettings([]byte(c.text+"\nkeyring: k\nstate: s\n"), t.TempDir())
		must(t, err)
		if err := s.Check(true); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.text, err, c.want)
		}
	}
}
