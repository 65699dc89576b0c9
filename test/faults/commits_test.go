package faults

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// A commit of 10,000 changes is applied whole, also when the agent is killed while
// it does; until then the one before is served.
func TestCommitOfTenThousandChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 10, options{sample: 300, timeout: 20 * time.Second, plain: true})
	w.agent.start()
	w.settled()
	stop := w.reading()
	secrets := 10_000
	if raceEnabled { // sealing takes ten times as long
		secrets = 1_000
	}
	large := func() []edit {
		edits := make([]edit, 10_000)
		var sealing sync.WaitGroup
		for worker := range runtime.GOMAXPROCS(0) {
			sealing.Go(func() {
				for i := worker; i < len(edits); i += runtime.GOMAXPROCS(0) {
					ws, name := workspaces[i%len(workspaces)], fmt.Sprintf("b%05d-x", i)
					switch id := ws + "/" + name; {
					case i < secrets:
						values := map[string]string{"token": fmt.Sprintf("%s-%d-%d", canary, i, time.Now().UnixNano())}
						edits[i] = edit{path: manifestPath(ws, name), text: sealed(t, w.repo.to, id, values), file: &file{secret: id, values: values}}
					case i%2 == 0:
						edits[i] = put(fmt.Sprintf("workspaces/%s/grants/g%05d.yaml", ws, i),
							fmt.Sprintf("name: g%05d\nversion: v1alpha\ntype: grant\nworkspace: %s\ngrant: {policy_use_case_id: read-specific-secret, subjects: [users:id:u%d], secrets: [b%05d-x], effect: allow}\n", i, ws, time.Now().UnixNano(), i))
					default:
						edits[i] = put(fmt.Sprintf("other/%d/%05d.txt", i%100, i), fmt.Sprint(time.Now().UnixNano()))
					}
				}
			})
		}
		sealing.Wait()
		return edits
	}
	w.repo.push(large()...)
	w.settled()

	process := w.agent.cmd.Process
	w.onTransfer(func() {
		time.AfterFunc(time.Duration(w.random.IntN(1500))*time.Millisecond, func() { _ = process.Kill() })
	})
	w.repo.push(large()...)
	eventually(t, "the agent is killed", func() bool { return !w.agent.running() })
	w.agent.kill()
	w.set(reset, 0)
	w.agent.start()
	must(t, w.reader.pass())
	w.set(none, 0)
	w.settled()
	stop()
	w.finish()
}

// Files of 100 MiB, in the place of a secret and elsewhere, cost the others
// nothing.
func TestLargeBlobs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 6, options{timeout: 20 * time.Second, plain: true})
	w.agent.start()
	w.settled()
	stop := w.reading()
	// The server's time to pack them is not what is tested.
	w.repo.git("config", "core.bigFileThreshold", "1m")
	w.repo.git("config", "core.compression", "0")
	const size = 100 << 20
	noise := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{}).Read(noise)
	w.repo.push(append(w.repo.set("orders", "s0002"), put("media/film.bin", string(noise)))...)
	noise = nil
	w.settled()
	w.repo.push(append(w.repo.set("orders", "s0002"), edit{path: manifestPath("orders", "huge"), text: strings.Repeat("a: b\n", size/5), file: &file{secret: "orders/huge"}})...)
	w.settled()
	if s, err := w.reader.status(); err != nil || s.Counts.Failing != 1 || s.Failing[0].Class != "too-large" {
		t.Errorf("status: %+v, %v", s, err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.agent.cmd.Process.Pid))
	must(t, err)
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "VmHWM") {
			t.Logf("most memory: %s", strings.Join(strings.Fields(line)[1:], " "))
		}
	}
	w.repo.change(5)
	w.settled()
	w.agent.kill()
	w.agent.start()
	w.settled()
	stop()
	w.finish()
}

// A file over the limit of one object is not taken into the mirror: the commit that
// has it is not applied, and the error says what to do.
func TestBlobOverTheLimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 6, options{timeout: 20 * time.Second, plain: true})
	w.agent.start()
	w.settled()
	w.repo.git("config", "core.bigFileThreshold", "1m")
	zeros := filepath.Join(w.dir, "git", "zeros")
	must(t, os.WriteFile(zeros, nil, 0o600))
	must(t, os.Truncate(zeros, 257<<20))
	good := w.repo.head
	w.repo.rewind(w.repo.commit(good, edit{path: "media/zeros.bin", blob: w.repo.git("hash-object", "-w", zeros)}))
	if text := w.fails("too large"); !strings.Contains(text, "remove it from the history") {
		t.Errorf("the error does not say what to do: %s", text)
	}
	w.stays(good)
	w.repo.point("main", good)
	w.repo.change(5)
	w.settled()
	w.finish()
}

// 100,000 empty files, elsewhere and in the place of secrets: each of the latter
// is a manifest that is refused.
func TestManyEmptyFiles(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 6, options{plain: true})
	w.agent.start()
	w.settled()
	stop := w.reading()
	const files = 100_000
	edits := w.repo.set("orders", "s0002")
	for i := range files {
		edits = append(edits, put(fmt.Sprintf("empty/%03d/%05d", i%1000, i), ""))
	}
	w.repo.push(edits...)
	w.settled()

	refused := 1_000
	edits = w.repo.set("orders", "s0002")
	for i := range refused {
		name := fmt.Sprintf("e%05d", i)
		edits = append(edits, edit{path: manifestPath("orders", name), file: &file{secret: "orders/" + name}})
	}
	w.repo.push(edits...)
	w.settled()
	if s, err := w.reader.status(); err != nil || s.Counts.Failing != refused {
		t.Errorf("%d failing, %v", s.Counts.Failing, err)
	}
	w.agent.kill()
	w.agent.start()
	w.settled()
	stop()
	w.finish()
}

// A commit in which every manifest is bad takes no value away: the last good ones
// are served, marked stale, also after a restart, until they are mended.
func TestEveryManifestIsBad(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 20, options{})
	w.agent.start()
	w.settled()
	stop := w.reading()
	for range 2 {
		var bad, mended []edit
		for path := range w.repo.files {
			bad = append(bad, w.repo.spoil(path))
		}
		w.repo.push(bad...)
		w.settled()
		for range 2 {
			s, err := w.reader.status()
			if err != nil || s.Counts.Failing != len(bad) || s.Counts.Stale != len(bad) || s.Secrets != 20 {
				t.Errorf("status: %+v, %v", s.Counts, err)
			}
			w.agent.kill()
			w.agent.start()
			must(t, w.reader.pass())
		}
		for path := range w.repo.files {
			mended = append(mended, w.repo.mend(path))
		}
		w.repo.push(mended...)
		w.settled()
	}
	stop()
	w.finish()
}

// A keyring that is emptied serves nothing any more, also after a restart; when it
// is restored everything is served again, without a commit.
func TestRingEmptiedAndRestored(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 12, options{})
	w.agent.start()
	w.settled()
	stop := w.reading()
	for round := range 3 {
		for _, ws := range workspaces {
			w.repo.oracle.setKeyless(ws, true)
			w.repo.takeKey(ws)
		}
		nothing := func() bool { s, err := w.reader.status(); return err == nil && s.Secrets == 0 }
		eventually(t, "nothing is served", nothing)
		if round > 0 {
			w.repo.change(5) // commits come meanwhile
			w.settled()
		}
		if round > 1 {
			w.agent.kill()
			w.agent.start()
			w.settled()
		}
		if !nothing() {
			t.Error("without keys something is served")
		}
		for _, ws := range workspaces {
			w.repo.putKey(ws)
		}
		eventually(t, "all is served again", func() bool {
			s, err := w.reader.status()
			return err == nil && s.Counts.Failing == w.repo.bad() && s.Sources[0].Commit == w.repo.head
		})
		for _, ws := range workspaces {
			w.repo.oracle.setKeyless(ws, false)
		}
		must(t, w.reader.pass())
	}
	stop()
	w.finish()
}

// Names that Unicode makes look alike, invisible or turned around, and names that
// are no text at all: each is refused by itself, and shown so that it is safe to
// print.
func TestOddNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 6, options{})
	w.agent.start()
	w.settled()
	stop := w.reading()
	names := []string{
		"caf\u00e9", "cafe\u0301", // the same, composed and not
		"\u202egnp.exe", "a\u200bb", "\ufeffdb", "\u2066x\u2069", // turned around, zero width, a mark of order
		"\U0001f511", "\U0001f469\u200d\U0001f680", // emoji
		"\u0430dmin", "\u212bngstrom", // looks like another
		"\xff\xfe", "a\xc0\xafb", "\xed\xa0\x80", // no UTF-8
		"tab\tname", "line\nname", "quote\"'`$(x)", "back\\slash", "\x7f", "\x1b[31mred",
		strings.Repeat("\u00e9", 120), " ", "s0001 ", "S0001", "s0001.",
	}
	edits := w.repo.set("orders", "s0001")
	for _, name := range names {
		edits = append(edits,
			put("workspaces/orders/secrets/"+name+".yaml", "?"),
			put("workspaces/orders/secrets/"+name+"/part.yaml", "?"),
			put("workspaces/"+name+"/secrets/db.yaml", "?"),
			put("docs/"+name, "?"))
	}
	w.repo.push(edits...)
	w.settled()
	problems := func() int { s, _ := w.reader.status(); return s.Counts.Problems + s.Counts.Failing }
	before := problems()
	if before < len(names) {
		t.Errorf("%d problems for %d odd names", before, len(names))
	}
	for _, c := range w.agent.log() {
		if c < ' ' && c != '\n' || c == '\u202e' || c == '\u200b' || c == '\u2066' || c == '\x7f' {
			t.Errorf("the log holds %U", c)
		}
	}
	w.agent.kill()
	w.agent.start()
	w.settled()
	if after := problems(); after != before {
		t.Errorf("%d problems after a restart, %d before", after, before)
	}
	for i := range edits {
		if edits[i].file == nil {
			edits[i] = edit{path: edits[i].path, gone: true}
		}
	}
	w.repo.push(edits[1:]...)
	w.settled()
	if left := problems(); left != 0 {
		t.Errorf("%d problems after the names are gone", left)
	}
	stop()
	w.finish()
}

// removeMany pushes a commit that takes more than a quarter of all secrets away: its
// removals wait for the operator's word, also over kill -9, and everything else of it
// is applied. Then they are approved.
func (w *world) removeMany() {
	w.t.Helper()
	var edits []edit
	all := w.repo.secrets()
	gone := 0
	for _, id := range all[:max(21, len(all)/2)] {
		for _, e := range w.repo.remove(id) {
			e.held = true
			edits = append(edits, e)
		}
		gone++
	}
	stays, name, _ := strings.Cut(all[len(all)-1], "/")
	w.repo.push(append(edits, w.repo.set(stays, name)...)...)
	w.settled()
	for range 2 {
		s, err := w.reader.status()
		if err != nil || s.Counts.Held == 0 || len(s.Held) != 1 || s.Held[0].Commit != w.repo.head {
			w.t.Fatalf("%d secrets are gone, held: %+v, %v", gone, s.Held, err)
		}
		w.agent.kill()
		w.agent.start()
		w.settled()
	}
	must(w.t, w.reader.approve(w.repo.head))
	eventually(w.t, "the removals are applied", func() bool { s, err := w.reader.status(); return err == nil && s.Counts.Held == 0 })
	w.repo.approved()
	var fresh []edit
	for i := range gone {
		fresh = append(fresh, w.repo.set(workspaces[i%len(workspaces)], fmt.Sprintf("m%05d", w.repo.n))...)
	}
	w.repo.push(fresh...)
	w.settled()
}

func TestManyRemovals(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 50, options{})
	w.agent.start()
	w.settled()
	stop := w.reading()
	w.removeMany()
	stop()
	w.finish()
}
