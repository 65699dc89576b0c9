package faults

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// damage changes a file in place, as a disk does that loses or turns bits.
type damage func(*rand.Rand, []byte) []byte

func turnBytes(random *rand.Rand, data []byte) []byte {
	for range 1 + random.IntN(30) {
		data[random.IntN(len(data))] ^= byte(1 + random.IntN(255))
	}
	return data
}

func zeroPage(random *rand.Rand, data []byte) []byte {
	at := random.IntN(len(data)/4096+1) * 4096
	clear(data[at:min(len(data), at+4096)])
	return data
}

func truncate(random *rand.Rand, data []byte) []byte { return data[:random.IntN(len(data))] }

// apply writes into the file that is there: whoever has it open sees it.
func (d damage) apply(t *testing.T, random *rand.Rand, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	size := len(data)
	data = d(random, data)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt(data, 0)
	if err == nil && len(data) < size {
		err = f.Truncate(int64(len(data)))
	}
	must(t, errors.Join(err, f.Close()))
}

// A store that is damaged anywhere gives what was written or is moved aside, and
// is built anew from the mirror: also with the remote away everything is served.
func TestStoreDamaged(t *testing.T) {
	t.Parallel()
	// Built with the race detector, the program ends inside bbolt before it can be
	// told that a page is damaged.
	w := newWorld(t, 20, options{plain: true})
	w.agent.start()
	w.settled()
	store := filepath.Join(w.dir, "state", "store.db")
	kinds := []damage{turnBytes, zeroPage, truncate, turnBytes, zeroPage,
		func(_ *rand.Rand, data []byte) []byte { clear(data[:4096]); return data },
		func(_ *rand.Rand, data []byte) []byte { clear(data[4096:8192]); return data },
		func(_ *rand.Rand, data []byte) []byte { return data[:5000] },
		func(_ *rand.Rand, data []byte) []byte { return nil }}
	aside := 0
	for round := range 2 * len(kinds) {
		w.repo.change(5)
		w.repo.change(5)
		w.settled()
		commit := w.repo.head
		w.agent.kill()
		kinds[round%len(kinds)].apply(t, w.random, store)
		w.set(reset, 0)
		w.agent.start()
		w.stays(commit)
		log := w.agent.log()
		for _, said := range []string{"moved aside", "kept aside"} { // a damaged key looks like another one's
			if strings.Contains(log, said) {
				aside++
			}
		}
		w.set(none, 0)
		w.repo.change(5)
		w.settled()
	}
	// Met while it runs, where the next commit is written.
	for _, from := range []int{2, 0, 4} { // the first pages are two of meta, the list of free pages, and a leaf
		damage(func(_ *rand.Rand, data []byte) []byte { clear(data[from*4096:]); return data }).apply(t, w.random, store)
		w.repo.change(5)
		w.settled()
		commit := w.repo.head
		w.agent.kill()
		w.set(reset, 0)
		w.agent.start()
		w.stays(commit)
		w.set(none, 0)
		aside++
	}
	if kept, _ := filepath.Glob(store + ".aside-*"); len(kept) != aside || aside == 0 {
		t.Errorf("%d stores were moved aside, %d are there", aside, len(kept))
	}
	w.finish()
}

// A mirror with missing or damaged objects, while the agent runs and before it
// starts: nothing wrong is served, and with the remote there it heals.
func TestMirrorDamaged(t *testing.T) {
	packs := func(w *world, ext string) []string {
		files, err := filepath.Glob(filepath.Join(w.dir, "state/mirror/objects/pack/*."+ext))
		must(w.t, err)
		if len(files) == 0 {
			w.t.Fatal("the mirror has no pack")
		}
		return files
	}
	each := func(ext string, d damage) func(*world) {
		return func(w *world) {
			for _, file := range packs(w, ext) {
				d.apply(w.t, w.random, file)
			}
		}
	}
	remove := func(exts ...string) func(*world) {
		return func(w *world) {
			for _, ext := range exts {
				for i, file := range packs(w, ext) {
					if i%2 == 0 {
						must(w.t, os.Remove(file))
					}
				}
			}
		}
	}
	write := func(name, text string) func(*world) {
		return func(w *world) {
			must(w.t, os.WriteFile(filepath.Join(w.dir, "state/mirror", name), []byte(text), 0o600))
		}
	}
	for name, harm := range map[string]func(*world){
		"turned bytes":      each("pack", turnBytes),
		"lost page":         each("pack", zeroPage),
		"cut short":         each("pack", truncate),
		"packs are missing": remove("pack", "idx"),
		"index is missing":  remove("idx"),
		"index is damaged":  each("idx", turnBytes),
		"applied is lost":   write("refs/sealward/applied", ""),
		"staging is lost":   write("refs/sealward/staging", ""),
		"all is gone": func(w *world) {
			must(w.t, os.RemoveAll(filepath.Join(w.dir, "state/mirror")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 10, options{})
			w.agent.start()
			for range 3 {
				w.settled()
				w.repo.change(6)
			}
			w.settled()
			stop := w.reading()

			w.repo.oracle.setDamaged(true)
			harm(w)
			w.repo.change(6)
			w.settled()
			w.repo.change(6)
			w.settled()

			w.agent.kill()
			harm(w)
			w.agent.start()
			w.repo.change(6)
			w.settled()
			w.repo.oracle.setDamaged(false)
			must(t, w.reader.pass())
			stop()
			w.finish()
		})
	}
}

// A mirror whose marker cannot be read may be somebody else's folder: the agent
// refuses, and says what to do.
func TestMirrorMarkerDamaged(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 6, options{})
	w.agent.start()
	w.settled()
	w.agent.kill()
	mirror := filepath.Join(w.dir, "state/mirror")
	must(t, os.WriteFile(filepath.Join(mirror, "sealward-mirror.json"), nil, 0o600))
	w.agent.ends(1, "move the folder away")
	must(t, os.Rename(mirror, mirror+".old"))
	w.agent.start()
	w.repo.change(5)
	w.settled()
	w.finish()
}
