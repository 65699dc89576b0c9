package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/sealward/sealward/gitops"
	"github.com/sealward/sealward/gitops/source"
)

// follower is an agent in a process of its own that follows, serves and takes
// webhooks, as sealward agent does.
type follower struct {
	r       *repository
	base    string // of its address
	bearer  string
	secret  string // of its webhooks
	client  *http.Client
	process *exec.Cmd
	stdin   io.Closer
	mirror  *source.Mirror // beside it, to see what Git alone costs
	spent   struct{ served, looks, fetches, clones []time.Duration }
	clone   string
}

// follow starts an agent on a state folder and waits until it serves.
func (r *repository) follow(state string) (f *follower, err error) {
	f = &follower{r: r, secret: rand.Text() + rand.Text(), client: &http.Client{}, clone: state + ".clone"}
	if err := gitops.PrepareState(state); err != nil {
		return nil, err
	}
	if f.bearer, _, err = newTokens(state); err != nil {
		return nil, err
	}
	j := r.job(state, true)
	j.HookSecret = filepath.Join(state, "hook.secret")
	if err := os.WriteFile(j.HookSecret, []byte(f.secret), 0o600); err != nil {
		return nil, err
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	j.Listen = free.Addr().String()
	f.base = "http://" + j.Listen
	if err := free.Close(); err != nil {
		return nil, err
	}
	if f.mirror, err = source.Open(state+".mirror", source.Config{URL: r.remote, Branch: "main"}); err != nil {
		return nil, err
	}
	if _, err := f.mirror.Fetch(r.b.ctx); err != nil {
		return nil, err
	}
	if err := r.git("clone", "-q", "file://"+r.remote, f.clone); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	in, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	f.process = exec.CommandContext(r.b.ctx, self, "-child")
	f.process.Stderr = os.Stderr
	stdin, err := f.process.StdinPipe()
	if err != nil {
		return nil, err
	}
	f.stdin = stdin
	if err := f.process.Start(); err != nil {
		return nil, err
	}
	if _, err := stdin.Write(in); err != nil {
		return nil, errors.Join(err, f.stop())
	}
	for range 3000 {
		if resp, err := f.client.Get(f.base + "/readyz"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return f, nil
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, errors.Join(errors.New("the agent does not serve"), f.stop())
}

// stop ends the agent and waits for it.
func (f *follower) stop() error {
	return errors.Join(f.stdin.Close(), f.process.Wait(), f.mirror.Close())
}

// followProcess is the child's main until its standard input ends.
func followProcess(ctx context.Context, j job, in io.Reader) error {
	s := gitops.Settings{Keyring: j.Keyring, State: j.State}
	s.Source.URL, s.Source.Branch, s.Source.Interval = j.Remote, "main", gitops.Duration(time.Hour)
	s.Serve.Listen, s.Serve.TokensFile = j.Listen, filepath.Join(j.State, "tokens.yaml")
	s.Serve.Limits.PerIdentity, s.Serve.Limits.Denials = 1e9, 1e9 // what is measured is the agent
	s.Audit.File, s.Webhook.SecretFile = filepath.Join(j.State, "audit.jsonl"), j.HookSecret
	if err := s.Check(false); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, in)
		stop()
	}()
	return (&gitops.Service{Settings: s, Log: slog.New(slog.DiscardHandler), Now: time.Now, Version: "bench"}).Run(ctx)
}

// served calls the webhook and reads the value that was pushed: the read waits until
// the agent serves that commit or one that contains it.
func (f *follower) served(commit string, of file) (value string, err error) {
	if err := f.hook(); err != nil {
		return "", err
	}
	read, err := http.NewRequestWithContext(f.r.b.ctx, http.MethodGet,
		f.base+"/v1/workspaces/"+of.key.workspace.String()+"/secrets/"+of.name+"/keys/token?wait=30s", nil)
	if err != nil {
		return "", err
	}
	read.Header.Set("Authorization", "Bearer "+f.bearer)
	read.Header.Set("If-Commit-Not-Before", commit)
	return f.do(read, http.StatusOK)
}

func (f *follower) do(req *http.Request, want int) (string, error) {
	resp, err := f.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != want {
		err = fmt.Errorf("%s: %s: %s", req.URL.Path, resp.Status, text)
	}
	return string(text), err
}

// round changes, commits and pushes the i-th of some manifests spread over the
// repository, and measures how long it takes until its new value is read.
func (f *follower) round(i int) error {
	r := f.r
	of := r.files[(i*7919)%len(r.files)]
	if err := errors.Join(r.change(of), r.commit(of.path), r.git("push", "-q")); err != nil {
		return err
	}
	head, err := os.ReadFile(filepath.Join(r.dir, ".git", "refs", "heads", "main"))
	if err != nil {
		return err
	}
	var got string
	steps := []struct {
		spent *[]time.Duration
		run   func() error
	}{
		{&f.spent.served, func() (err error) { got, err = f.served(strings.TrimSpace(string(head)), of); return err }},
		{&f.spent.fetches, func() error {
			_, err := f.mirror.Look(r.b.ctx)
			if err == nil {
				_, err = f.mirror.Fetch(r.b.ctx)
			}
			return err
		}},
		{&f.spent.clones, func() error { return r.b.git(f.clone, "fetch", "-q") }},
	}
	for k := range steps {
		step := steps[(i+k)%len(steps)] // none has the others' warm files every time
		took, err := timed(step.run)
		if err != nil {
			return err
		}
		*step.spent = append(*step.spent, took)
	}
	took, err := timed(func() error { _, err := f.mirror.Look(r.b.ctx); return err })
	if err != nil {
		return err
	}
	f.spent.looks = append(f.spent.looks, took)
	sealed, err := os.ReadFile(filepath.Join(r.dir, of.path))
	if err != nil {
		return err
	}
	want, err := of.key.open(sealed)
	if err != nil {
		return err
	}
	for _, v := range want.Values {
		if v.Key.String() == "token" && got == string(v.Data) {
			return nil
		}
	}
	return fmt.Errorf("%s: what is served is not what was pushed", of.path)
}

// scale shows how cost grows: with ten times the manifests, and with all of them in
// one workspace.
func (b *bench) scale() error {
	const rounds = 25
	type size struct {
		n, workspaces  int
		f              *follower
		cold, restart  measured
		highest, later int // KiB of the agent that follows
	}
	sizes := []*size{{n: b.n, workspaces: min(100, b.n)}, {n: b.n, workspaces: 1}, {n: 10 * b.n, workspaces: min(100, b.n)}}
	for i, s := range sizes {
		r, err := b.generate(filepath.Join(b.dir, fmt.Sprintf("scale-%d", i)), s.n, s.workspaces)
		if err == nil {
			err = r.publish()
		}
		if err != nil {
			return err
		}
		state := filepath.Join(b.dir, fmt.Sprintf("scale-%d", i), "state")
		if s.cold, err = r.agent(state, false); err != nil {
			return err
		}
		if s.restart, err = r.agent(state, true); err != nil {
			return err
		}
		if s.f, err = r.follow(state); err != nil {
			return err
		}
		defer s.f.stop()
	}
	for i := range rounds { // in turn, so that a noisy moment hits all of them
		for _, s := range sizes {
			if err := s.f.round(i); err != nil {
				return err
			}
		}
	}
	t := newTable(fmt.Sprintf("How cost grows, %d rounds of one change in turn", rounds), "manifests", "workspaces", "cold sync", "a manifest", "restart",
		"push to served", "slowest", "look and fetch alone", "× the first", "MiB: highest", "synced", "after", "restarted")
	base := median(sizes[0].f.spent.served)
	for _, s := range sizes {
		served := median(s.f.spent.served)
		t.row(thousands(s.n), fmt.Sprint(s.workspaces), span(s.cold.Took), span(s.cold.Took/time.Duration(s.n)), span(s.restart.Took),
			span(served), span(quantile(s.f.spent.served, 1)), span(median(s.f.spent.fetches)), times(served, base),
			s.cold.Memory.highest(), s.cold.Memory.synced(), s.cold.Memory.collected(), s.restart.Memory.synced())
	}
	first, last := sizes[0], sizes[len(sizes)-1]
	if first.cold.Memory.Collected > 0 {
		t.note("Each further manifest of 5 values takes %s bytes of the agent's memory (VmRSS after a sync and a collection).",
			thousands((last.cold.Memory.Collected-first.cold.Memory.Collected)*1024/(last.n-first.n)))
	}
	t.note("Push to served: from the end of git push to the answer of a read that waits for the commit, with the webhook in between.")
	t.note("Memory: VmHWM, VmRSS right after the sync, after garbage was collected, and right after a restart.")
	t.print()
	return nil
}
