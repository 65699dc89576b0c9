package faults

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestSoak is random commits, faults and reads for as long as -soak says. Every
// round is drawn from the seed and its number alone, so that the same seed makes
// the same schedule, whatever the timing.
func TestSoak(t *testing.T) {
	if *soak == 0 {
		t.Skip("runs with -soak DURATION (make soak)")
	}
	w := newWorld(t, 60, options{})
	state := filepath.Join(w.dir, "state")
	mount(t, state, "size=192m")
	w.agent.start()
	w.settled()
	for range 2 {
		w.reading()
	}
	faults := w.faults(state)
	names := slices.Sorted(maps.Keys(faults))
	counts := map[string]int{}
	began := time.Now()
	for round := 0; time.Since(began) < *soak; round++ {
		w.random = rand.New(rand.NewPCG(w.seed, uint64(round)))
		w.repo.random = rand.New(rand.NewPCG(w.seed, uint64(round)|1<<32))
		w.commits(1 + w.random.IntN(4))
		name := names[w.random.IntN(len(names))]
		t.Logf("%6.1fs round %d: %s", time.Since(began).Seconds(), round, name)
		counts[name]++
		faults[name]()
		w.set(none, 0)
		w.settled()
		if other, _ := openFiles(t, fmt.Sprint(w.agent.cmd.Process.Pid)); other > 64 {
			t.Errorf("round %d: %d open descriptors", round, other)
		}
		if violations, _ := w.repo.oracle.report(); len(violations) > 0 || t.Failed() {
			break
		}
	}
	w.finish()
	violations, reads := w.repo.oracle.report()
	var kinds []string
	for _, name := range names {
		kinds = append(kinds, fmt.Sprintf("%s %d", name, counts[name]))
	}
	fmt.Printf("soak: seed %d, %s, %d commits, %d starts, %d kills; faults: %s; %d reads, %d violations\n",
		w.seed, time.Since(began).Round(time.Second), len(w.repo.oracle.states), w.agent.starts, counts["kill"]+counts["kill without a remote"]+counts["damaged store"], strings.Join(kinds, ", "), reads, len(violations))
}

// commits pushes a few random commits.
func (w *world) commits(n int) {
	for range n {
		w.repo.change(8)
	}
}

// faults are those of the soak, by name. Each leaves an agent that runs.
func (w *world) faults(state string) map[string]func() {
	pause := func(most time.Duration) { time.Sleep(time.Duration(w.random.Int64N(int64(most)))) }
	kill := func() {
		process := w.agent.cmd.Process
		wait := time.Duration(w.random.IntN(300)) * time.Millisecond
		if w.random.IntN(2) == 0 {
			w.onTransfer(func() { time.AfterFunc(wait/3, func() { _ = process.Kill() }) })
		}
		w.commits(1 + w.random.IntN(6))
		time.Sleep(wait)
		w.agent.kill()
		w.onTransfer(nil)
	}
	away := func() { // a restart that has only what is on disk
		w.set(reset, 0)
		w.agent.start()
		must(w.t, w.reader.pass())
	}
	out := map[string]func(){
		"kill":                  func() { kill(); w.agent.start() },
		"kill without a remote": func() { kill(); away() },
		"graceful restart": func() {
			w.commits(2)
			if code := w.agent.stop(); code != 0 {
				w.t.Errorf("exit code %d", code)
			}
			w.agent.start()
		},
		"full disk": func() {
			free := fill(w.t, state)
			w.commits(2)
			pause(time.Second)
			restart := w.random.IntN(3) == 0
			if restart {
				w.agent.kill()
				away()
				w.set(none, 0)
			}
			free()
		},
		"damaged store": func() {
			w.settled()
			usual := w.agent.program
			w.agent.kill()
			kinds := []damage{turnBytes, zeroPage, truncate}
			kinds[w.random.IntN(len(kinds))].apply(w.t, w.random, filepath.Join(state, "store.db"))
			var err error
			w.agent.program, err = programs.plain() // see TestStoreDamaged
			must(w.t, err)
			away()
			w.set(none, 0)
			w.settled()
			w.agent.stop()
			w.agent.program = usual
			w.agent.start()
		},
		"damaged mirror": func() {
			w.settled()
			w.repo.oracle.setDamaged(true)
			w.agent.kill()
			packs, err := filepath.Glob(filepath.Join(state, "mirror/objects/pack/*.pack"))
			must(w.t, err)
			for _, file := range packs {
				switch w.random.IntN(4) {
				case 0:
					damage(turnBytes).apply(w.t, w.random, file)
				case 1:
					damage(truncate).apply(w.t, w.random, file)
				case 2:
					must(w.t, os.Remove(file))
				}
			}
			w.agent.start()
			w.commits(1)
			w.settled()
			w.repo.oracle.setDamaged(false)
		},
		"many removals": func() { w.settled(); w.removeMany() },
		"keys away": func() {
			gone := workspaces[:1+w.random.IntN(len(workspaces))]
			for _, ws := range gone {
				w.repo.oracle.setKeyless(ws, true)
				w.repo.takeKey(ws)
			}
			w.commits(1)
			pause(time.Second)
			if w.random.IntN(3) == 0 {
				w.agent.kill()
				w.agent.start()
			}
			for _, ws := range gone {
				w.repo.putKey(ws)
			}
			eventually(w.t, "all is served again", func() bool {
				s, err := w.reader.status()
				return err == nil && s.Counts.Failing == w.repo.bad() && s.Sources[0].Commit == w.repo.head
			})
			for _, ws := range gone {
				w.repo.oracle.setKeyless(ws, false)
			}
		},
		"rewound branch": func() {
			w.settled()
			w.repo.rewind(w.repo.git("rev-parse", w.repo.head+"~1"))
			w.fails("rewound")
			w.repo.rewind(w.repo.commit(w.repo.head+"~1", w.repo.set("orders", "s0002")...))
			pause(300 * time.Millisecond)
			w.stays(w.repo.head)
			w.repo.point("main", w.repo.head)
			w.commits(1)
		},
		"branch is gone": func() {
			w.settled()
			w.repo.git("update-ref", "-d", "refs/heads/main")
			w.fails("no such branch")
			w.repo.point("main", w.repo.head)
			w.commits(1)
		},
		"every manifest is bad": func() {
			w.settled()
			before := w.repo.files
			var bad, mended []edit
			for _, path := range slices.Sorted(maps.Keys(before)) {
				bad = append(bad, w.repo.spoil(path))
			}
			w.repo.push(bad...)
			w.settled()
			for _, path := range slices.Sorted(maps.Keys(before)) {
				mended = append(mended, w.repo.mend(path))
			}
			w.repo.push(mended...)
		},
		"a second agent": func() {
			second := newAgent(w.t, w.dir, w.options)
			second.starts = 1_000_000
			second.ends(1, "another")
		},
	}
	for _, what := range troubles {
		out["remote "+string(what)] = func() {
			w.set(what, int64(w.random.IntN(4000)))
			w.commits(1 + w.random.IntN(3))
			pause(1500 * time.Millisecond)
		}
	}
	return out
}
