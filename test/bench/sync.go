package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/sealward/sealward/gitops"
	"github.com/sealward/sealward/gitops/source"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/keyring"
	unsealstore "github.com/sealward/sealward/unseal/store"
)

// sync follows a generated repository: everything at first, then one change at
// a time, then a restart without the remote.
func (b *bench) sync() error {
	workspaces := min(100, b.n)
	dir := filepath.Join(b.dir, "sync")
	var r *repository
	generating, err := timed(func() (err error) {
		r, err = b.generate(dir, b.n, workspaces)
		return err
	})
	if err != nil {
		return err
	}
	pushing, err := timed(r.publish)
	if err != nil {
		return err
	}
	fmt.Printf("\nGenerated %s manifests of 5 values in %d workspaces: sealing and writing took %s with all cores, committing and pushing %s.\n",
		thousands(b.n), workspaces, span(generating), span(pushing))
	if err := r.coldSync(); err != nil {
		return err
	}
	if err := r.oneChange(); err != nil {
		return err
	}
	return r.restart()
}

// coldSync starts from nothing: clone, unseal, make durable, publish.
func (r *repository) coldSync() error {
	const rounds = 3
	var agents, clones, loops, mirrors []time.Duration
	var memory []memory
	for i := range rounds {
		m, err := r.agent(r.state(i), false)
		if err != nil {
			return err
		}
		agents, memory = append(agents, m.Took), append(memory, m.Memory)
		cloned := filepath.Join(r.b.dir, "cloned.git")
		for _, step := range []struct {
			spent *[]time.Duration
			run   func() error
		}{
			{&mirrors, func() error { return r.mirror(r.state(i) + "-clone") }},
			{&clones, func() error { return r.git("clone", "-q", "--bare", "file://"+r.remote, cloned) }},
			{&loops, func() error { return inParallel(r.files, r.libraryOpen) }},
		} {
			took, err := timed(step.run)
			if err != nil {
				return err
			}
			*step.spent = append(*step.spent, took)
		}
		if err := errors.Join(os.RemoveAll(cloned), os.RemoveAll(r.state(i)+"-clone")); err != nil {
			return err
		}
	}
	n := len(r.files)
	cold := median(agents)
	t := newTable(fmt.Sprintf("Cold sync of %s manifests, %d cores, median of %d", thousands(n), runtime.GOMAXPROCS(0), rounds),
		"", "time", "a second", "× sealward")
	add := func(what string, d time.Duration) {
		t.row(what, span(d), thousands(int(float64(n)/d.Seconds())), times(d, cold))
	}
	add("sealward: clone, unseal, durable, published", cold)
	add("  of that the clone (measured by itself)", median(mirrors))
	add("git clone --bare", median(clones))
	add("SOPS library, a loop over the files of a work tree", median(loops))
	if r.b.sops == "" {
		t.note(noSOPS)
	} else {
		sample := r.files[:min(50, n)]
		took, err := timed(func() error {
			return inParallel(sample, func(f file) error { return r.runWith(f.key, r.b.sops, "decrypt", f.path) })
		})
		if err != nil {
			return err
		}
		add("sops, a process a file (extrapolated)", took*time.Duration(n)/time.Duration(len(sample)))
		t.note("sops decrypted a sample of %d files; the time of all is extrapolated from it.", len(sample))
	}
	t.note("sealward's time is %s of the library's loop.", times(cold, median(loops)))
	t.note("Loops use all cores, and neither clone nor keep what they open.")
	t.note("Memory of the agent's process (VmRSS): %s MiB at its start, %s MiB right after the sync, %s MiB after",
		memory[rounds-1].start(), memory[rounds-1].synced(), memory[rounds-1].collected())
	t.note("garbage was collected and given back; %s MiB at the highest (VmHWM).", memory[rounds-1].highest())
	t.print()
	return nil
}

// state is the agent's folder of one cold sync.
func (r *repository) state(i int) string { return filepath.Join(r.b.dir, fmt.Sprintf("state-%d", i)) }

func (r *repository) mirror(dir string) error {
	m, err := source.Open(dir, source.Config{URL: r.remote, Branch: "main"})
	if err != nil {
		return err
	}
	_, err = m.Fetch(r.b.ctx)
	return errors.Join(err, m.Close())
}

func (r *repository) libraryOpen(f file) error {
	sealed, err := os.ReadFile(filepath.Join(r.dir, f.path))
	if err == nil {
		_, err = f.key.library.open(sealed)
	}
	return err
}

// oneChange pushes commits of one changed manifest each.
func (r *repository) oneChange() error {
	const rounds = 25
	f, err := r.follow(r.state(0))
	if err != nil {
		return err
	}
	for i := range rounds {
		if err := f.round(i); err != nil {
			return errors.Join(err, f.stop())
		}
	}
	now, _ := resident(fmt.Sprint(f.process.Process.Pid))
	if err := f.stop(); err != nil {
		return err
	}
	base := median(f.spent.served)
	t := newTable(fmt.Sprintf("One changed manifest among %s, median of %d", thousands(len(r.files)), rounds), "", "time", "slowest", "× sealward")
	for _, row := range []struct {
		what  string
		spent []time.Duration
	}{
		{"sealward: from push, by webhook, to served", f.spent.served},
		{"  of that a look and a fetch (measured by themselves)", f.spent.fetches},
		{"a look, nothing new", f.spent.looks},
		{"git fetch in a clone", f.spent.clones},
	} {
		t.row(row.what, span(median(row.spent)), span(quantile(row.spent, 1)), times(median(row.spent), base))
	}
	t.note("Served: a read that was sent right after the webhook, and waits for the commit, has its answer.")
	t.note("The remote is a folder, so each look starts git upload-pack; a network adds its own time.")
	t.note("Memory (VmRSS) of the agent that serves, after these changes: %s MiB.", mebibytes(now))
	t.print()
	return nil
}

// restart restores what was applied, with the remote away.
func (r *repository) restart() error {
	const rounds = 5
	away := r.remote + ".away"
	if err := os.Rename(r.remote, away); err != nil {
		return err
	}
	var spent []time.Duration
	var last memory
	for range rounds {
		m, err := r.agent(r.state(0), true)
		if err != nil {
			return err
		}
		spent, last = append(spent, m.Took), m.Memory
	}
	t := newTable(fmt.Sprintf("Restart with %s manifests, the remote away, median of %d", thousands(len(r.files)), rounds), "", "time", "slowest", "a second")
	took := median(spent)
	t.row("sealward: open, verify, published", span(took), span(quantile(spent, 1)), thousands(int(float64(len(r.files))/took.Seconds())))
	t.note("Memory (VmRSS): %s MiB right after, %s MiB after garbage was collected and given back.", last.synced(), last.collected())
	t.print()
	return os.Rename(away, r.remote)
}

// job is what an agent is told: for a child process, as JSON.
type job struct {
	Remote, Keyring, State string
	// Restart publishes what State holds; otherwise the remote is synced.
	Restart bool
	// Listen has the agent follow and serve there until its standard input ends.
	Listen, HookSecret string
}

// measured is what an agent in a child process answers.
type measured struct {
	Took    time.Duration // from opening the state folder to published
	Secrets int
	Memory  memory
}

func (r *repository) job(state string, restart bool) job {
	return job{Remote: r.remote, Keyring: r.keyring, State: state, Restart: restart}
}

// agent runs an agent in a process of its own, so that neither memory nor warm
// caches of the bench are counted as the agent's.
func (r *repository) agent(state string, restart bool) (m measured, err error) {
	self, err := os.Executable()
	if err != nil {
		return m, err
	}
	in, err := json.Marshal(r.job(state, restart))
	if err != nil {
		return m, err
	}
	cmd := exec.CommandContext(r.b.ctx, self, "-child")
	cmd.Stdin, cmd.Stderr = strings.NewReader(string(in)), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return m, fmt.Errorf("agent: %w", err)
	}
	if err := json.Unmarshal(out, &m); err != nil {
		return m, err
	}
	if m.Secrets != len(r.files) {
		return m, fmt.Errorf("the agent serves %d secrets, not %d", m.Secrets, len(r.files))
	}
	return m, nil
}

// agentProcess is the child's main.
func agentProcess(ctx context.Context, in io.Reader, out io.Writer) error {
	var j job
	var m measured
	if err := json.NewDecoder(in).Decode(&j); err != nil {
		return err
	}
	if j.Listen != "" {
		return followProcess(ctx, j, in)
	}
	m.Memory.Start, _ = resident("self")
	started := time.Now()
	a, closeAgent, err := openAgent(j)
	if err != nil {
		return err
	}
	defer closeAgent()
	if err = a.Restore(ctx); err == nil && !j.Restart {
		_, err = a.Sync(ctx)
	}
	m.Took = time.Since(started)
	if err != nil {
		return err
	}
	m.Secrets = a.Live.Current("").Count()
	m.Memory.Synced, m.Memory.Highest = resident("self")
	debug.FreeOSMemory()
	m.Memory.Collected, _ = resident("self")
	runtime.KeepAlive(a) // else the agent is garbage too
	return json.NewEncoder(out).Encode(m)
}

// openAgent puts an agent together from the parts that gitops.Service uses.
func openAgent(j job) (a *gitops.Agent, closeAgent func(), err error) {
	if err := gitops.PrepareState(j.State); err != nil {
		return nil, nil, err
	}
	ring, err := keyring.Open(j.Keyring)
	if err != nil {
		return nil, nil, err
	}
	store, err := unsealstore.Open(filepath.Join(j.State, "store.db"))
	if err != nil {
		return nil, nil, err
	}
	mirror, err := source.Open(filepath.Join(j.State, "mirror"), source.Config{URL: j.Remote, Branch: "main"})
	if err != nil {
		_ = store.Close()
		return nil, nil, err
	}
	id := (&gitops.SourceSettings{URL: j.Remote, Branch: "main", Path: "."}).ID()
	a = gitops.New(gitops.Config{
		Mirror: mirror, Root: ".", Source: id, URL: j.Remote, Branch: "main", Keyring: ring, Store: store, Live: &unseal.Live{},
		Log: slog.New(slog.DiscardHandler), Now: time.Now, Interval: time.Minute, MaxStale: 24 * time.Hour,
	})
	return a, func() { _ = store.Close(); _ = mirror.Close() }, nil
}

// memory of a process, in KiB; 0 where the system does not tell.
type memory struct{ Start, Synced, Collected, Highest int }

func (m memory) start() string     { return mebibytes(m.Start) }
func (m memory) synced() string    { return mebibytes(m.Synced) }
func (m memory) collected() string { return mebibytes(m.Collected) }
func (m memory) highest() string   { return mebibytes(m.Highest) }

func mebibytes(kib int) string {
	if kib == 0 {
		return "?"
	}
	return thousands(kib / 1024)
}

func megabytes(kib int) string {
	if kib == 0 {
		return "?"
	}
	return thousands(kib * 1024 / 1_000_000)
}

// resident reads VmRSS and VmHWM of a process ("self" for this one).
func resident(pid string) (now, highest int) {
	text, _ := os.ReadFile("/proc/" + pid + "/status")
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		switch kib, _ := strconv.Atoi(f[1]); f[0] {
		case "VmRSS:":
			now = kib
		case "VmHWM:":
			highest = kib
		}
	}
	return now, highest
}
