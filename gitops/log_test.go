package gitops_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealward/sealward/gitops"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal/serve"
)

// says wants a text in the log since the last call.
func (w *world) says(text string) {
	w.t.Helper()
	if log := w.log.String(); !strings.Contains(log, text) {
		w.t.Errorf("the log does not say %q:\n%s", text, log)
	}
	w.log.Reset()
}

// What the operator is told of the keyring.
func TestLogOfTheKeyring(t *testing.T) {
	w := newWorld(t)
	w.secret("orders", "db", "k=hunter2")
	w.commit("first")
	must(t, os.Chmod(filepath.Join(w.dir, "keys/orders.agekey"), 0o644))
	w.start()
	w.sync()
	w.says("a private key can be read by other users; chmod 600 it")

	// Another identity opens neither the manifest nor what the store has of it. That
	// is kept: a last good value stands nowhere else.
	w.secret("payments", "api", "k=v1")
	w.commit("second")
	w.write("workspaces/orders/secrets/db.yaml", "broken")
	w.commit("third")
	w.sync()
	w.close()
	old := w.ids["orders"]
	w.newKey("orders")
	w.log.Reset()
	w.start()
	if log := w.log.String(); !strings.Contains(log, "the keyring no longer opens what the store has of a workspace") {
		t.Errorf("log:\n%s", log)
	}
	w.says("the store is of other keys; a copy was kept aside")
	w.sync()
	w.want("payments/api/k=v1", "orders/secrets/db:manifest")
	w.close()
	aside, err := filepath.Glob(filepath.Join(w.dir, "store.db.aside-*"))
	must(t, err)
	if len(aside) != 1 {
		t.Fatalf("kept aside: %v", aside)
	}
	text, err := os.ReadFile(aside[0])
	must(t, err)
	if strings.Contains(string(text), "hunter2") {
		t.Error("the copy holds a value")
	}
	must(t, os.Rename(aside[0], filepath.Join(w.dir, "store.db")))
	w.putKeys("orders", old)
	w.start()
	w.want("orders/db/k=hunter2! payments/api/k=v1", "orders/secrets/db:manifest")

	// A folder that is full of copies gets no more; what is served does not hang on it.
	w.close()
	w.newKey("orders")
	for i := range 100 {
		name := filepath.Join(w.dir, "store.db.aside-"+w.now.UTC().Format("20060102T150405Z"))
		if i > 0 {
			name += fmt.Sprintf("-%d", i)
		}
		must(t, os.WriteFile(name, nil, 0o600))
	}
	w.start()
	w.says("the store of other keys could not be kept aside")
	w.want("payments/api/k=v1", "orders/secrets/db:manifest")
}

// A workspace whose key is only away has nothing of another's: no copy is made.
func TestNoCopyWithoutKeys(t *testing.T) {
	w := newWorld(t)
	w.secret("orders", "db", "k=hunter2")
	w.commit("first")
	w.start()
	w.sync()
	w.close()
	must(t, os.Remove(filepath.Join(w.dir, "keys/orders.agekey")))
	w.start()
	if aside, _ := filepath.Glob(filepath.Join(w.dir, "store.db.aside-*")); len(aside) != 0 {
		t.Errorf("kept aside: %v", aside)
	}
}

// A mirror that cannot note what was applied: that is served all the same.
func TestLogOfAMirrorThatCannotBeWritten(t *testing.T) {
	w := newWorld(t)
	w.secret("orders", "db", "k=hunter2")
	w.commit("first")
	w.start()
	w.sync()
	applied := filepath.Join(w.dir, "mirror/refs/sealward/applied")
	lock := func() {
		w.close()
		must(t, os.RemoveAll(applied))
		must(t, os.Mkdir(applied, 0o700))
		w.log.Reset()
		w.start()
	}
	lock()
	w.says("the mirror cannot be written; serving what the state folder holds")
	if got := w.served(); got != "orders/db/k=hunter2" {
		t.Errorf("served %q", got)
	}

	// The same, with failing manifests that are to be noted anew.
	must(t, os.Remove(applied))
	w.write("workspaces/orders/secrets/db.yaml", "broken")
	w.commit("second")
	w.start()
	w.sync()
	lock()
	w.says("the state folder cannot be written; serving what it holds")
	if got := w.served(); got != "orders/db/k=hunter2!" {
		t.Errorf("served %q", got)
	}

	// And with the store lost: what was applied is not known, so the remote says.
	w.close()
	must(t, os.Remove(filepath.Join(w.dir, "store.db")))
	w.start()
	w.says("what the mirror says was applied cannot be served; the remote is asked")
	if got := w.served(); got != "(nothing)" {
		t.Errorf("served %q", got)
	}
}

// What is damaged in the state folder is moved aside, and said.
func TestLogOfADamagedState(t *testing.T) {
	w := newTwoSources(t)
	w.a.secret("orders", "db", "k=hunter2")
	w.a.commit("a")
	w.b.commit("b")
	_, _, err := w.once("", "")
	must(t, err)
	state := filepath.Join(w.a.dir, "state/a")
	packs := func() (files []string) {
		files, err := filepath.Glob(filepath.Join(state, "mirror/objects/pack/*.pack"))
		must(t, err)
		return files
	}
	for _, c := range []struct {
		says   string
		damage func()
	}{
		{"the store cannot be used; it was moved aside and is built anew from Git", func() {
			must(t, os.WriteFile(filepath.Join(state, "store.db"), []byte("no store at all, and long enough to be read as one"), 0o600))
		}},
		{"the mirror is damaged; nothing is served until it was cloned again", func() {
			w.a.damage(packs()[0], w.a.git("rev-parse", "HEAD^{tree}"))
		}},
		{"the mirror cannot be used; it was moved aside and is cloned again", func() {
			for _, pack := range packs() {
				must(t, os.WriteFile(strings.TrimSuffix(pack, ".pack")+".idx", []byte("no index"), 0o600))
			}
		}},
	} {
		c.damage()
		v, log, err := w.once("", "")
		must(t, err)
		if got := ownerOf(t, v, "orders"); got != "a:hunter2" || !strings.Contains(log, c.says) || strings.Contains(log, "hunter2") {
			t.Errorf("orders: %s; log, without %q:\n%s", got, c.says, log)
		}
	}
}

// running is a service that runs, with its log.
type running struct {
	*gitops.Service
	t     *testing.T
	lines chan string
	log   strings.Builder
	end   context.CancelFunc
	ended chan error
}

// run serves the repository on a free port of loopback.
func (w *world) run() *running { return w.runWith(func(*gitops.Service) {}) }

func (w *world) runWith(change func(*gitops.Service)) *running {
	w.t.Helper()
	alice, err := manifest.ParseSubject("users:id:alice")
	must(w.t, err)
	_, entry, err := serve.NewToken(alice, nil, time.Hour, time.Now())
	must(w.t, err)
	must(w.t, serve.AddToken(filepath.Join(w.dir, "tokens.yaml"), entry))
	settings, err := gitops.ParseSettings([]byte("source: {url: repo, interval: 50ms}\nkeyring: keys\nstate: state\nserve: {listen: '127.0.0.1:0', tokensFile: tokens.yaml}\n"), w.dir)
	must(w.t, err)
	must(w.t, settings.Check(false))
	in, out := io.Pipe()
	ctx, cancel := context.WithCancel(w.t.Context())
	r := &running{Service: &gitops.Service{Settings: settings, Log: logged.To(out), Now: time.Now}, t: w.t, lines: make(chan string), end: cancel, ended: make(chan error, 1)}
	change(r.Service)
	go func() {
		r.ended <- r.Run(ctx)
		out.Close()
	}()
	go func() {
		defer close(r.lines)
		for lines := bufio.NewScanner(in); lines.Scan(); {
			r.lines <- lines.Text()
		}
	}()
	w.t.Cleanup(func() {
		cancel()
		for range r.lines { // what is logged has to be read
		}
	})
	return r
}

// until waits for a line with all of texts.
func (r *running) until(texts ...string) {
	r.t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		var line string
		select {
		case line = <-r.lines:
		case <-timeout:
			r.t.Fatalf("the log does not say %q:\n%s", texts, r.log.String())
		}
		fmt.Fprintln(&r.log, line)
		missing := 0
		for _, text := range texts {
			if !strings.Contains(line, text) {
				missing++
			}
		}
		if missing == 0 {
			return
		}
	}
}

// An agent tells when it begins to serve, and when it ended.
func TestLogOfStartAndEnd(t *testing.T) {
	w := newWorld(t)
	must(t, os.RemoveAll(filepath.Join(w.dir, "keys")))
	must(t, os.Mkdir(filepath.Join(w.dir, "keys"), 0o700))
	r := w.run()
	r.until("the keyring is empty")
	r.until("msg=serving address=http://127.0.0.1:")
	r.end()
	r.until("msg=stopped auditSeq=2 auditHead=")
	must(t, <-r.ended)
}
