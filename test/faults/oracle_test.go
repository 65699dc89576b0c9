package faults

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/sealward/sealward/unseal/serve"
)

// canary stands in every value and credential, and nowhere else: where it is
// found, a value has leaked. It is longer than what random bytes make by chance.
const canary = "PlaintextCanary"

// file is one manifest as a commit has it.
type file struct {
	secret string            // workspace/name
	values map[string]string // nil: it cannot be unsealed
	held   bool              // it is removed, and served until the operator approves that
}

// oracle knows what each merged commit holds, and notes every answer of an agent
// that is not exactly that. It is safe for concurrent use.
type oracle struct {
	mu         sync.Mutex
	merged     map[string]int // commit: place in the history
	states     []map[string]file
	violations []string
	reads      int
	// keyless are workspaces whose keys the test took away: their secrets may be
	// missing. turns counts how often keys went or came.
	keyless map[string]bool
	turns   int
	// damaged: the mirror may have lost manifests, whose last good values are served.
	damaged bool
	// notFollowed are commits that a moved branch shows and that must not be served.
	notFollowed map[string]bool
}

func newOracle() *oracle {
	return &oracle{merged: map[string]int{}, keyless: map[string]bool{}, notFollowed: map[string]bool{}}
}

// merge notes the next commit of the branch, before the branch shows it.
func (o *oracle) merge(commit string, files map[string]file) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.merged[commit] = len(o.states)
	o.states = append(o.states, maps.Clone(files))
}

func (o *oracle) setKeyless(ws string, yes bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.keyless[ws] = yes
	o.turns++
}

func (o *oracle) setDamaged(yes bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.damaged = yes
	o.turns++
}

// asked is when a reader asked: what is said to be missing may have been so since.
type asked struct {
	seen  cursor
	turns int
}

func (o *oracle) ask(seen cursor) asked {
	o.mu.Lock()
	defer o.mu.Unlock()
	return asked{seen, o.turns}
}

// mayBeStale reports whether the mirror was damaged at some time since it was asked.
func (o *oracle) mayBeStale(when asked) bool { return o.damaged || o.turns != when.turns }

// mayMiss reports whether the keys of a workspace were away at some time since it
// was asked.
func (o *oracle) mayMiss(ws string, when asked) bool { return o.keyless[ws] || o.turns != when.turns }

func (o *oracle) violate(format string, args ...any) {
	if len(o.violations) < 50 {
		o.violations = append(o.violations, fmt.Sprintf(format, args...))
	}
}

// report returns what was wrong so far, and how many answers were checked.
func (o *oracle) report() (violations []string, reads int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.violations), o.reads
}

// cursor is the newest generation that one reader has seen.
type cursor int

// generation checks that a commit was merged and is not older than what the
// reader saw before, and returns its place in the history.
func (o *oracle) generation(what, commit string, seen *cursor) (int, bool) {
	o.reads++
	at, ok := o.merged[commit]
	if !ok {
		o.violate("%s: generation %q was never merged (not followed: %v)", what, commit, o.notFollowed[commit])
		return 0, false
	}
	if at < int(*seen) {
		o.violate("%s: generation went back from commit %d to %d", what, *seen, at)
	}
	*seen = max(*seen, cursor(at))
	return at, true
}

// list checks the answer to listing a workspace.
func (o *oracle) list(ws string, got serve.ListJSON, when asked, seen *cursor) {
	o.mu.Lock()
	defer o.mu.Unlock()
	what := "list of " + ws
	at, ok := o.generation(what, got.Generation, seen)
	if !ok {
		return
	}
	must, may := map[string]bool{}, map[string]bool{}
	for _, f := range o.states[at] {
		if w, name, _ := strings.Cut(f.secret, "/"); w == ws {
			may[name] = true
			if f.values != nil && !f.held && !o.mayMiss(ws, when) {
				must[name] = true
			}
		}
	}
	for _, s := range got.Secrets {
		if !may[s.Name] {
			o.violate("%s at commit %d: %s does not exist there", what, at, s.Name)
		}
		if s.Generation != got.Generation {
			o.violate("%s: %s is of generation %s, the list of %s", what, s.Name, s.Generation, got.Generation)
		}
		delete(must, s.Name)
	}
	for name := range must {
		o.violate("%s at commit %d: %s is missing", what, at, name)
	}
}

// secret checks the answer to reading a whole secret.
func (o *oracle) secret(id string, got serve.SecretJSON, when asked, seen *cursor) {
	o.mu.Lock()
	defer o.mu.Unlock()
	at, ok := o.generation(id, got.Generation, seen)
	if !ok {
		return
	}
	ws, _, _ := strings.Cut(id, "/")
	served := map[string]map[string]string{} // by path
	keys := 0
	for _, p := range got.Provenance {
		served[p.Path] = map[string]string{}
		for _, k := range p.Keys {
			served[p.Path][k] = got.Data[k]
			keys++
		}
	}
	if keys != len(got.Data) {
		o.violate("%s at commit %d: %d keys, provenance of %d", id, at, len(got.Data), keys)
	}
	stale := false
	for path, values := range served {
		f := o.states[at][path]
		switch {
		case f.secret != id:
			o.violate("%s at commit %d: served from %s, which is not there", id, at, path)
		case f.values == nil:
			stale = true
			if !o.earlier(path, values, at) {
				o.violate("%s at commit %d: %s is broken, and what is served of it was never merged", id, at, path)
			}
		case got.StaleSince != nil && o.mayBeStale(when) && o.earlier(path, values, at):
			stale = true
		case !maps.Equal(values, f.values):
			o.violate("%s at commit %d: %s is served as it is not in that commit", id, at, path)
		}
	}
	for path, f := range o.states[at] {
		if f.secret == id && f.values != nil && !f.held && served[path] == nil && !o.mayMiss(ws, when) {
			o.violate("%s at commit %d: %s is missing", id, at, path)
		}
	}
	if (got.StaleSince != nil) != stale {
		o.violate("%s at commit %d: stale since %v, broken there: %v", id, at, got.StaleSince, stale)
	}
}

// earlier reports whether path had these values in a commit up to at.
func (o *oracle) earlier(path string, values map[string]string, at int) bool {
	for i := at; i >= 0; i-- {
		if maps.Equal(o.states[i][path].values, values) {
			return true
		}
	}
	return false
}

// absent checks the answer that a secret is not there. It names no commit: it may
// be of any that the reader could see since it asked.
func (o *oracle) absent(id string, when asked) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.reads++
	ws, _, _ := strings.Cut(id, "/")
	if o.mayMiss(ws, when) {
		return
	}
	for at := int(when.seen); at < len(o.states); at++ {
		good := false
		for _, f := range o.states[at] {
			good = good || f.secret == id && f.values != nil && !f.held
		}
		if !good {
			return
		}
	}
	o.violate("%s: said to be missing, and it is in every commit from %d on", id, when.seen)
}

// value checks one value that was read alone.
func (o *oracle) value(id, key, path, generation, stale string, data []byte, when asked, seen *cursor) {
	o.mu.Lock()
	defer o.mu.Unlock()
	what := id + "/" + key
	at, ok := o.generation(what, generation, seen)
	if !ok {
		return
	}
	f := o.states[at][path]
	if f.secret != id {
		o.violate("%s at commit %d: served from %s, which is not there", what, at, path)
		return
	}
	want := f.values[key]
	lastGood := f.values == nil || stale != "" && o.mayBeStale(when)
	if lastGood {
		for i := at; i >= 0 && want != string(data); i-- {
			want = o.states[i][path].values[key]
		}
	}
	if want != string(data) || (stale != "") != lastGood {
		o.violate("%s at commit %d: another value (stale since %q)", what, at, stale)
	}
}

// secretsAt lists the secrets that a commit names.
func (o *oracle) secretsAt(commit string) []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	seen := map[string]bool{}
	for _, f := range o.states[o.merged[commit]] {
		seen[f.secret] = true
	}
	return slices.Sorted(maps.Keys(seen))
}

// place returns where a commit stands in the history; -1 when it was not merged.
func (o *oracle) place(commit string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	if at, ok := o.merged[commit]; ok {
		return at
	}
	return -1
}
