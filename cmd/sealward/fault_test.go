package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal/client"
)

// farm is a sealed repository whose every secret holds the number of the commit.
type farm struct {
	t       *testing.T
	dir     string
	secrets int
	ws      manifest.Workspace
}

func newFarm(t *testing.T, secrets int) *farm {
	t.Helper()
	if _, err := tools(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	t.Setenv("SEALWARD_KEYRING", filepath.Join(dir, "keys"))
	t.Setenv("GIT_CONFIG_GLOBAL", filepath.Join(dir, "gitconfig"))
	t.Setenv("GIT_CONFIG_NOSYSTEM", "1")
	f := &farm{t: t, dir: dir, secrets: secrets}
	f.ws, _ = manifest.ParseWorkspace("orders")
	f.write("gitconfig", "[user]\n\tname = dana\n\temail = dana@example.com\n")
	f.sh("sealward init secrets && cd secrets && sealward workspace create orders && git init -q --bare -b main ../remote.git && git remote add origin ../remote.git")
	f.write("secrets/workspaces/orders/grants/all.yaml", "name: all\nversion: v1alpha\ntype: grant\nworkspace: orders\ngrant: {policy_use_case_id: read-all-secrets, subjects: [users:id:alice], effect: allow}\n")
	f.write("agent.yaml", "source: {url: remote.git, interval: 100ms, timeout: 5s}\nkeyring: keys\nstate: state\nserve: {listen: \"127.0.0.1:0\", tokensFile: tokens.yaml}\n")
	f.sh("sealward token create --subject users:id:alice --tokens tokens.yaml > alice.token")
	return f
}

func (f *farm) write(name, text string) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, name), []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

func (f *farm) sh(line string) string {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", line)
	cmd.Dir = f.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		f.t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

func (f *farm) name(i int) manifest.Name {
	n, err := manifest.ParseName(fmt.Sprintf("s%04d", i))
	if err != nil {
		f.t.Fatal(err)
	}
	return n
}

// commit seals every secret anew with the number and pushes.
func (f *farm) commit(number int) {
	f.t.Helper()
	rules, err := os.ReadFile(filepath.Join(f.dir, "secrets/.sops.yaml"))
	if err != nil {
		f.t.Fatal(err)
	}
	to := recipientsOf(f.t, rules, f.ws)
	key, _ := manifest.ParseKey("number")
	for i := range f.secrets {
		m, err := seal.NewManifest(seal.Draft{Name: f.name(i), Workspace: f.ws, Type: manifest.KeyValue, ACL: manifest.Read,
			Values: []seal.Value{{Key: key, Data: fmt.Appendf(nil, "canary-%d", number)}}})
		if err != nil {
			f.t.Fatal(err)
		}
		out, err := seal.Seal(m, to, seal.Options{Now: time.Now()})
		if err != nil {
			f.t.Fatal(err)
		}
		f.write("secrets/"+manifest.SecretPath(f.ws, f.name(i)), string(out))
	}
	f.sh(fmt.Sprintf("cd secrets && git add -A && git commit -q -m %d && git push -q origin main", number))
}

func recipientsOf(t *testing.T, rules []byte, ws manifest.Workspace) workspace.Recipients {
	t.Helper()
	r, err := workspace.ParseRules(rules)
	if err != nil {
		t.Fatal(err)
	}
	to, err := r.WorkspaceRecipients(ws)
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// serve starts an agent, gives check a client, and stops the agent.
func (f *farm) serve(check func(*client.Client)) {
	f.t.Helper()
	log := filepath.Join(f.dir, "agent.log")
	out, err := os.Create(log)
	if err != nil {
		f.t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command("sealward", "agent", "-c", "agent.yaml")
	cmd.Dir, cmd.Stderr = f.dir, out
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	stopped := false
	stop := func() {
		if !stopped {
			stopped = true
			_ = cmd.Process.Signal(syscall.SIGTERM)
			_ = cmd.Wait()
		}
	}
	defer stop()
	var at string
	for end := time.Now().Add(patience); at == ""; time.Sleep(10 * time.Millisecond) {
		text, _ := os.ReadFile(log)
		if m := address.FindSubmatch(text); m != nil {
			at = string(m[1])
		}
		if time.Now().After(end) {
			f.t.Fatalf("the agent does not serve:\n%s", text)
		}
	}
	token, err := os.ReadFile(filepath.Join(f.dir, "alice.token"))
	if err != nil {
		f.t.Fatal(err)
	}
	c, err := client.New(client.Config{Server: at, Token: strings.TrimSpace(string(token))})
	if err != nil {
		f.t.Fatal(err)
	}
	check(c)
	stop()
}

// numbers reads every secret and returns the distinct values.
func (f *farm) numbers(c *client.Client) map[string]int {
	f.t.Helper()
	key, _ := manifest.ParseKey("number")
	got := map[string]int{}
	for i := range f.secrets {
		v, err := c.Key(f.t.Context(), f.ws, f.name(i), key)
		if err != nil {
			f.t.Fatalf("secret %d: %v", i, err)
		}
		got[string(v)]++
	}
	return got
}

// TestKilledWhileSyncing kills an agent at random moments of a sync. Restarted
// without the remote it must serve the commit before or the one after, whole.
func TestKilledWhileSyncing(t *testing.T) {
	f := newFarm(t, 150)
	f.commit(0)
	f.sh("sealward agent -c agent.yaml --once")
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewSource(seed))
	started := time.Now()
	f.commit(1)
	f.sh("sealward agent -c agent.yaml --once")
	usual := time.Since(started)
	before, advanced := 1, 0
	const rounds = 8
	for round := range rounds {
		next := 2 + round
		f.commit(next)
		cmd := exec.Command("sealward", "agent", "-c", "agent.yaml", "--once")
		cmd.Dir = f.dir
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(random.Int63n(int64(min(usual, 400*time.Millisecond)))))
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		f.sh("mv remote.git away.git")
		f.serve(func(c *client.Client) {
			got := f.numbers(c)
			old, fresh := got[fmt.Sprintf("canary-%d", before)], got[fmt.Sprintf("canary-%d", next)]
			switch f.secrets {
			case old:
			case fresh:
				before = next
				advanced++
			default:
				t.Errorf("round %d serves a mixture: %v (before %d, next %d)", round, got, before, next)
			}
		})
		f.sh("mv away.git remote.git")
		if before != next {
			f.sh("sealward agent -c agent.yaml --once")
			before = next
		}
	}
	t.Logf("%d of %d kills came after the commit was durable", advanced, rounds)
	for _, path := range []string{"state", "agent.log", "remote.git"} {
		f.secretFree(path, "canary-")
	}
}

func (f *farm) secretFree(path, text string) {
	f.t.Helper()
	files := 0
	err := filepath.WalkDir(filepath.Join(f.dir, path), func(file string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		files++
		data, err := os.ReadFile(file)
		if bytes.Contains(data, []byte(text)) {
			f.t.Errorf("%s holds a value", file)
		}
		return err
	})
	if err != nil || files == 0 {
		f.t.Errorf("searched %d files of %s: %v", files, path, err)
	}
}
