package faults

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// kill -9 at random moments, while commits and reads go on. After each, the agent
// starts without its remote and serves at once: the last commit that was seen, or
// a later one, whole. With the remote it catches up.
func TestKilledWhileSyncing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 20, options{unguarded: true})
	w.agent.start()
	w.settled()
	stop := w.reading()
	within := 0
	for round := range *kills {
		process, wait := w.agent.cmd.Process, time.Duration(w.random.IntN(300))*time.Millisecond
		if round%2 == 0 {
			time.AfterFunc(wait, func() { _ = process.Kill() })
		} else {
			w.onTransfer(func() { time.AfterFunc(wait/4, func() { _ = process.Kill() }) })
		}
		for w.agent.running() {
			w.repo.change(6)
		}
		w.agent.kill()
		w.onTransfer(nil)
		mirror := filepath.Join(w.dir, "state/mirror/refs/sealward")
		staged, err := os.ReadFile(filepath.Join(mirror, "staging"))
		must(t, err)
		applied, err := os.ReadFile(filepath.Join(mirror, "applied"))
		must(t, err)
		if string(staged) != string(applied) {
			within++
		}

		w.set(reset, 0)
		w.agent.start()
		must(t, w.reader.pass())
		w.set(none, 0)
		w.settled()
	}
	stop()
	t.Logf("%d of %d kills came between the transfer and the end of the apply", within, *kills)
	w.finish()
}
