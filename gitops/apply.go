package gitops

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unique"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"

	"github.com/sealward/sealward/gitops/source"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/access"
	"github.com/sealward/sealward/unseal/keyring"
	"github.com/sealward/sealward/unseal/store"
)

// manyFiles in one commit are worth a collection of their garbage at once.
const manyFiles = 2000

// maxWalk bounds the commits that are searched for who changed a file last.
const maxWalk = 50_000

// tree is what the agent knows of the files of one commit.
type tree struct {
	records  map[manifest.Workspace]map[string]*unseal.Record
	policies map[manifest.Workspace]map[string]access.File
	compiled map[manifest.Workspace]*access.Scope
	problems map[string]unseal.Problem
	// settings as the file states them; what is in force, change.judge decides.
	settings workspace.Settings
	// unbound says that manifests without a binding were accepted.
	unbound bool
	// uncertain says that Git listed a tree with doubt: what differs from such a
	// commit cannot be told, so the next one is compared whole.
	uncertain bool
}

func newTree() tree {
	return tree{
		records:  map[manifest.Workspace]map[string]*unseal.Record{},
		policies: map[manifest.Workspace]map[string]access.File{},
		compiled: map[manifest.Workspace]*access.Scope{},
		problems: map[string]unseal.Problem{},
	}
}

func (t *tree) restore(records []*unseal.Record) {
	for _, r := range records {
		m := t.records[r.Place.Scope]
		if m == nil {
			m = map[string]*unseal.Record{}
			t.records[r.Place.Scope] = m
		}
		m[r.Path] = r
	}
}

// clone shares the maps of each scope; edit replaces one before it is changed.
func (t tree) clone() tree {
	t.records, t.policies = maps.Clone(t.records), maps.Clone(t.policies)
	t.compiled, t.problems = maps.Clone(t.compiled), maps.Clone(t.problems)
	return t
}

// change is one apply under way: the next tree and what differs from the last.
type change struct {
	a    *Agent
	now  time.Time
	next tree
	// edited scopes have maps of their own already.
	editedRecords  map[manifest.Workspace]bool
	editedPolicies map[manifest.Workspace]bool
	// byName finds the files of one secret among those of its scope, before the
	// change.
	byName map[manifest.Workspace]map[manifest.Name][]*unseal.Record
	// open lists the files to unseal, as they stand in the new commit.
	open map[string]*unseal.Record
	// verify lists last good contents that must still open: their ring changed.
	verify  map[string]*unseal.Record
	deleted []*unseal.Record
	// touched secrets had a file changed or removed.
	touched map[secretID]bool
	// rings are scopes whose keys changed: nothing opened with the old ones counts.
	rings map[manifest.Workspace]bool
	// moved are the contents that this commit removes; reused counts what was not
	// unsealed again.
	moved  map[blobID]*unseal.Content
	reused atomic.Int64
	// opened secrets have a file in the new commit that is to be unsealed.
	opened map[secretID]bool
	// noted records changed only in whether their removal waits; held counts the
	// secrets whose removal does since this commit, and released are the commits
	// whose removals the operator let go.
	noted    map[string]*unseal.Record
	held     int
	released map[string]bool
}

// secretID is one secret, whatever files it has.
type secretID struct {
	ws   manifest.Workspace
	name manifest.Name
}

// apply makes commit the applied one: it finds out what changed, unseals that,
// writes it to the store, and publishes. On error nothing has changed, and what
// is served stays. rings are workspaces whose keys changed.
func (a *Agent) apply(ctx context.Context, commit source.Hash, rings []manifest.Workspace) error {
	started := time.Now()
	c := &change{
		a: a, now: a.Now(), next: a.tree.clone(),
		editedRecords: map[manifest.Workspace]bool{}, editedPolicies: map[manifest.Workspace]bool{},
		byName: map[manifest.Workspace]map[manifest.Name][]*unseal.Record{},
		open:   map[string]*unseal.Record{}, verify: map[string]*unseal.Record{}, touched: map[secretID]bool{},
		rings: map[manifest.Workspace]bool{}, opened: map[secretID]bool{}, noted: map[string]*unseal.Record{}, released: a.approval.released(),
	}
	for _, ws := range rings {
		c.rings[ws] = true
		a.recent.forget(ws)
	}
	info, err := a.Mirror.Commit(commit)
	if err != nil {
		return err
	}
	if err := c.compare(ctx, commit); err != nil {
		return err
	}
	c.guard(commit)
	c.noteMoved()
	c.siblings()
	c.judge()
	c.reopen(rings)
	c.retry()
	put, err := c.unseal(ctx, commit)
	if err != nil {
		return err
	}
	put = c.endHeld(put)
	for ws := range c.editedPolicies {
		c.next.compiled[ws] = access.CompileScope(ws, slices.Collect(maps.Values(c.next.policies[ws])))
	}
	if err := c.persist(commit, put); err != nil {
		return err
	}
	a.publish(info, c)
	c.remember(put)
	a.tree, a.applied, a.appliedBy, a.orphaned = c.next, commit, a.signer(commit), false
	if c.held > 0 || len(c.released) > 0 || a.holding {
		held := heldBy(a.tree.records)
		a.holding = len(held) > 0
		a.approval.hold(held, c.released)
	}
	snapshot := a.Live.Current(a.Name)
	failing := snapshot.Failing()
	a.unanswered = slices.ContainsFunc(failing, unanswered)
	a.Metrics.applied(time.Since(started), int64(len(c.open))-c.reused.Load(), c.reused.Load())
	a.Log.Info("applied", "commit", commit.String(), "secrets", snapshot.Count(), "unsealed", int64(len(c.open))-c.reused.Load(), "reused", c.reused.Load(), "removed", len(c.deleted), "held", c.held,
		"failing", len(failing), "problems", len(snapshot.Problems), "took", time.Since(started).Round(time.Millisecond).String())
	for _, r := range put {
		if r.Failure != nil {
			a.Log.Warn("a manifest is refused", "path", r.Path, "class", string(r.Failure.Class), "stale", r.Good != nil, "reason", strings.ReplaceAll(r.Failure.Message, "\n", "; "))
		}
	}
	if len(c.open) >= manyFiles {
		// A first sync leaves as much garbage as it keeps; Go would hold on to the
		// memory for minutes.
		debug.FreeOSMemory()
	}
	return nil
}

// persist makes the change durable. A commit that was durable before, as after
// a restart, is served even when its failing manifests cannot be noted anew.
func (c *change) persist(commit source.Hash, put []*unseal.Record) error {
	a := c.a
	again := a.applied.IsZero() && a.restoring == commit
	if again && len(put) == 0 && len(c.deleted) == 0 {
		// A mirror that was lost has no such note any more.
		err := a.noteApplied(commit)
		if err != nil {
			a.Log.Warn("the mirror cannot be written; serving what the state folder holds", "error", oneLine(err))
		}
		return nil
	}
	update := store.Update{Source: a.Source, Commit: commit.String(), Put: a.storable(put), Delete: a.storable(c.deleted), Judged: a.judged}
	err := a.Store.Commit(update, a.ring)
	if errors.Is(err, store.ErrDamaged) && a.Renew != nil {
		err = c.renew(update, err)
	}
	if err == nil {
		err = a.Mirror.SetApplied(commit)
	}
	if err != nil && again {
		a.Log.Warn("the state folder cannot be written; serving what it holds", "error", oneLine(err))
		return nil
	}
	return err
}

// noteApplied has the mirror remember commit, if it does not.
func (a *Agent) noteApplied(commit source.Hash) error {
	if noted, known, err := a.Mirror.Applied(); err == nil && known && noted == commit {
		return nil
	}
	return a.Mirror.SetApplied(commit)
}

// renew writes everything that is served into a new store: pages that no start
// reads can be damaged too, and are met when they are written.
func (c *change) renew(update store.Update, why error) error {
	fresh, err := c.a.Renew(why)
	if err != nil {
		return err
	}
	c.a.Store = fresh
	update.Put, update.Delete = nil, nil
	for _, records := range c.next.records {
		update.Put = append(update.Put, c.a.storable(slices.Collect(maps.Values(records)))...)
	}
	return fresh.Commit(update, c.a.ring)
}

// kept says what is kept of a manifest. It is another text for a program that keeps
// more, which then reads the manifests again instead of missing it in the store: since 2
// the type, labels and annotations of Kubernetes Secrets are kept.
const kept = "content 2"

// judged names what a scope's manifests were judged by beside their content: the
// keys of its ring, whether the operator accepts manifests without a binding, and the
// program. After a restart with others they are judged again.
func (a *Agent) judged(ws manifest.Workspace) string {
	ring, err := a.ring(ws)
	if err != nil {
		return ""
	}
	h := sha256.New()
	fmt.Fprintln(h, kept)
	fmt.Fprintln(h, "unbound", a.AllowUnbound)
	for _, r := range slices.Concat(ring.Recipients(), ring.Services().Keys()) {
		fmt.Fprintln(h, r)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// storable leaves out the records of scopes without a ring: nothing could be
// encrypted for them, and there is no value to keep.
func (a *Agent) storable(records []*unseal.Record) []*unseal.Record {
	return slices.DeleteFunc(slices.Clone(records), func(r *unseal.Record) bool {
		_, err := a.ring(r.Place.Scope)
		return err != nil
	})
}

// compare takes the files that differ from the applied commit into the change.
// The first time, and when the applied commit held trees that could not be listed
// without doubt, these are all files.
func (c *change) compare(ctx context.Context, commit source.Hash) error {
	a := c.a
	base, whole := a.applied, a.applied.IsZero() || a.tree.uncertain || a.orphaned
	if whole {
		base = source.Hash{}
		c.next.problems = map[string]unseal.Problem{}
		for ws := range c.next.policies {
			clear(c.policies(ws))
		}
	}
	changes, problems, err := a.Mirror.Diff(ctx, base, commit, a.Root)
	if err != nil {
		return err
	}
	c.next.uncertain = len(problems) > 0
	seen := map[string]bool{}
	for _, ch := range changes {
		path := a.inRoot(ch.Path)
		c.clearProblem(path)
		seen[path] = ch.New != nil
	}
	for _, p := range problems {
		c.treeProblem(a.inRoot(p.Path), p)
	}
	covered := func(path string) bool {
		return slices.ContainsFunc(problems, func(p source.Problem) bool { return p.Covers(a.inRepository(path)) })
	}
	for _, ch := range changes {
		path := a.inRoot(ch.Path)
		if ch.New == nil && covered(path) {
			c.cover(path)
			continue
		}
		c.file(path, ch.New)
	}
	if !whole {
		return nil
	}
	// What was known and is not there any more.
	for _, records := range c.next.records {
		for path, r := range records {
			switch {
			case seen[path], r.Held != nil:
			case covered(path):
				c.cover(path)
			default:
				c.remove(r)
			}
		}
	}
	if !seen[workspace.SettingsFile] {
		c.next.settings = workspace.Settings{}
	}
	return nil
}

// inRoot makes a path of the repository relative to the agent's root.
func (a *Agent) inRoot(path string) string { return source.InRoot(a.Root, path) }

// file takes one changed file into the change; entry is nil when it is gone.
func (c *change) file(path string, entry *source.Entry) {
	switch {
	case path == workspace.SettingsFile:
		c.settings(entry)
		return
	case strings.HasPrefix(path, workspace.SettingsFile+"/") && entry != nil:
		c.next.problems[path] = unseal.Problem{Path: path, Class: unseal.FailPlace, Message: workspace.SettingsFile + ": is a folder; it must be a file, and until then the strictest settings hold"}
		return
	}
	place, ours, err := manifest.Locate(path)
	elsewhere := ""
	if ours && c.a.Elsewhere != nil && !place.Scope.IsZero() && !(place.Policy && place.Scope.IsInstance()) {
		elsewhere = c.a.Elsewhere(place.Scope)
	}
	switch {
	case !ours:
	case elsewhere != "":
		c.misplaced(path, place, entry, elsewhere)
	case place.Policy:
		c.policyFile(path, place, entry)
	case err != nil:
		if entry != nil {
			c.problem(unseal.Problem{Path: path, Class: unseal.FailPlace, Message: fmt.Sprintf("%s: %s", path, err)})
		}
	default:
		c.secretFile(path, place, entry)
	}
}

func (c *change) secretFile(path string, place manifest.Place, entry *source.Entry) {
	old := c.next.records[place.Scope][path]
	switch {
	case entry == nil:
		if old != nil && old.Held == nil {
			c.remove(old)
		}
	case old != nil && old.Held != nil && old.Blob == entry.Hash.String() && old.Failure == nil && entry.Mode == filemode.Regular:
		c.note(old, nil) // it is back
		c.touched[secretID{place.Scope, place.Name}] = true
	case old != nil && old.Held == nil && old.Blob == entry.Hash.String() && old.Failure == nil:
		// Restored from the store, and unchanged.
	default:
		r := &unseal.Record{Path: path, Place: place, Blob: entry.Hash.String()}
		if old != nil {
			r.Good = old.Good
		}
		if entry.Mode != filemode.Regular && entry.Mode != filemode.Executable {
			r.Failure = &unseal.Failure{Class: unseal.FailPlace, Message: path + ": is a symbolic link or submodule; a manifest must be a plain file"}
		}
		c.open[path] = r
		c.touched[secretID{place.Scope, place.Name}], c.opened[secretID{place.Scope, place.Name}] = true, true
	}
}

// filesOf lists the files that a secret had before the change.
func (c *change) filesOf(ws manifest.Workspace, name manifest.Name) []*unseal.Record {
	if sc := c.a.Live.Current(c.a.Name).Scope(ws); sc != nil {
		return slices.DeleteFunc(sc.Files(name), func(r *unseal.Record) bool { return c.a.tree.records[ws][r.Path] != r })
	}
	// Nothing of it is published: at a restart, or when its keys were away.
	if c.byName[ws] == nil {
		c.byName[ws] = map[manifest.Name][]*unseal.Record{}
		for _, r := range c.a.tree.records[ws] {
			c.byName[ws][r.Place.Name] = append(c.byName[ws][r.Place.Name], r)
		}
	}
	return c.byName[ws][name]
}

// siblings looks again at the files of touched secrets that were refused only
// because they disagreed with another: that one may be what changed.
func (c *change) siblings() {
	for s := range c.touched {
		for _, other := range c.filesOf(s.ws, s.name) {
			if other.Failure != nil && other.Failure.Class == unseal.FailConflict {
				c.again(other.Path, s.ws)
			}
		}
	}
}

// again has a file that is still there judged anew. That it stands where it may
// not, as a link say, is not seen in its content, and stays.
func (c *change) again(path string, ws manifest.Workspace) {
	r := c.next.records[ws][path]
	if r == nil || c.open[path] != nil {
		return
	}
	fresh := *r
	fresh.Failure = nil
	if r.Failure != nil && r.Failure.Class == unseal.FailPlace {
		failure := *r.Failure // the old one is published
		fresh.Failure = &failure
	}
	c.open[path] = &fresh
}

func (c *change) remove(r *unseal.Record) {
	c.deleted = append(c.deleted, r)
	delete(c.records(r.Place.Scope), r.Path)
	delete(c.open, r.Path)
	c.touched[secretID{r.Place.Scope, r.Place.Name}] = true
}

// records is the map of a scope for writing.
func (c *change) records(ws manifest.Workspace) map[string]*unseal.Record {
	if !c.editedRecords[ws] {
		c.editedRecords[ws] = true
		if c.next.records[ws] = maps.Clone(c.next.records[ws]); c.next.records[ws] == nil {
			c.next.records[ws] = map[string]*unseal.Record{}
		}
	}
	return c.next.records[ws]
}

func (c *change) policies(ws manifest.Workspace) map[string]access.File {
	if !c.editedPolicies[ws] {
		c.editedPolicies[ws] = true
		if c.next.policies[ws] = maps.Clone(c.next.policies[ws]); c.next.policies[ws] == nil {
			c.next.policies[ws] = map[string]access.File{}
		}
	}
	return c.next.policies[ws]
}

// policyFile parses a grant or role. What cannot be read as an allow closes its
// scope, because it may be a deny.
func (c *change) policyFile(path string, place manifest.Place, entry *source.Entry) {
	files := c.policies(place.Scope)
	delete(files, path)
	delete(c.next.problems, path)
	if entry == nil {
		return
	}
	var read func() ([]byte, error)
	if entry.Mode == filemode.Regular || entry.Mode == filemode.Executable {
		read = func() ([]byte, error) { return c.a.Mirror.ReadBlob(entry.Hash, manifest.MaxSize) }
	}
	f, err := access.ReadFile(path, place, read)
	files[path] = f
	if err == nil {
		return
	}
	p := unseal.Problem{Path: path, Class: unseal.FailManifest, Message: err.Error()}
	if f.Closes {
		p.Closes = place.Scope.String()
		p.Message += "\nUntil it is mended or removed, reads of " + closedText(place.Scope) + " are refused (policy-broken): it may be a deny."
	} else {
		p.Message += "\nIt grants nothing until it is mended."
	}
	c.next.problems[path] = p
}

func closedText(ws manifest.Workspace) string {
	if ws.IsInstance() {
		return "the whole instance"
	}
	return "workspace " + ws.String()
}

// settings reads the repository's own settings. Broken ones are a problem, and
// judge then takes the strictest: they can only tighten.
func (c *change) settings(entry *source.Entry) {
	c.next.settings = workspace.Settings{}
	delete(c.next.problems, workspace.SettingsFile)
	if entry == nil {
		return
	}
	data, err := c.a.Mirror.ReadBlob(entry.Hash, manifest.MaxSize)
	if err == nil {
		c.next.settings, err = workspace.ParseSettings(data)
	}
	if err != nil {
		c.next.problems[workspace.SettingsFile] = unseal.Problem{Path: workspace.SettingsFile, Class: unseal.FailManifest, Message: err.Error()}
	}
}

// judge decides whether manifests without a binding are accepted. When that
// changes, what was accepted or refused before is judged again.
func (c *change) judge() {
	c.next.unbound = c.a.AllowUnbound && !c.next.settings.BindingRequired()
	for path := range c.next.problems {
		if path == "." || path == workspace.SettingsFile || strings.HasPrefix(path, workspace.SettingsFile+"/") {
			c.next.unbound = false
		}
	}
	if c.next.unbound == c.a.tree.unbound && !c.a.applied.IsZero() {
		return
	}
	for ws, records := range c.next.records {
		for path, r := range records {
			accepted := r.Good != nil && !r.Good.Bound
			refused := r.Failure != nil && r.Failure.Class == unseal.FailUnbound
			if accepted && !c.next.unbound || refused && c.next.unbound {
				c.again(path, ws)
			}
		}
	}
}

// treeProblem: an entry that Git itself should not hold.
func (c *change) treeProblem(path string, p source.Problem) {
	c.problem(unseal.Problem{Path: path, Class: unseal.FailPlace, Message: p.Error()})
}

// problem notes a path that holds nothing valid. Where it stands in the place of
// policies it may hide a deny, so it closes their scope.
func (c *change) problem(p unseal.Problem) {
	if ws, closes := access.ClosedBy(p.Path); closes {
		c.policies(ws)[p.Path] = access.File{Path: p.Path, Closes: true}
		p.Closes = ws.String()
		p.Message += "\nUntil it is mended, reads of " + closedText(ws) + " are refused (policy-broken): it may hide a deny."
	}
	c.next.problems[p.Path] = p
}

func (c *change) clearProblem(path string) {
	if _, had := c.next.problems[path]; !had {
		return
	}
	delete(c.next.problems, path)
	if ws, closes := access.ClosedBy(path); closes {
		delete(c.policies(ws), path)
	}
}

// cover keeps the last good content of a file that a broken tree hides.
func (c *change) cover(path string) {
	place, ours, err := manifest.Locate(path)
	if !ours || err != nil || place.Policy {
		return
	}
	if old := c.next.records[place.Scope][path]; old != nil {
		r := *old
		r.Failure = &unseal.Failure{Class: unseal.FailPlace, Message: path + ": stands in a folder that Git could not list without doubt; see problems"}
		c.open[path] = &r
	}
}

// reopen judges everything of workspaces whose ring changed again. What the ring
// no longer opens is not served any more.
func (c *change) reopen(rings []manifest.Workspace) {
	for _, ws := range rings {
		for path := range c.next.records[ws] {
			c.again(path, ws)
		}
		for path, r := range c.open {
			if r.Place.Scope == ws && r.Good != nil && r.Good.Provenance.Blob != r.Blob {
				c.verify[path] = r
			}
		}
	}
}

// unanswered is a manifest that its key service did not open, or the mirror could not
// give, and may later.
func unanswered(r *unseal.Record) bool {
	return r.Failure != nil && (r.Failure.Class == unseal.FailService || r.Failure.Class == unseal.FailRead)
}

// retry asks again for what a service did not open the last time.
func (c *change) retry() {
	if !c.a.unanswered {
		return
	}
	for ws, records := range c.next.records {
		for path, r := range records {
			if unanswered(r) {
				c.again(path, ws)
			}
		}
	}
}

// unseal opens every listed file, in parallel, and returns the new records.
func (c *change) unseal(ctx context.Context, commit source.Hash) ([]*unseal.Record, error) {
	records := slices.SortedFunc(maps.Values(c.open), func(a, b *unseal.Record) int { return strings.Compare(a.Path, b.Path) })
	for _, r := range records { // rings are read here, by one goroutine
		_, _ = c.a.ring(r.Place.Scope)
	}
	contents := make([]*unseal.Content, len(records))
	c.a.Metrics.queued(len(records))
	work := make(chan int)
	var wg sync.WaitGroup
	for range workers() {
		wg.Go(func() {
			for i := range work {
				began := time.Now()
				contents[i] = c.openRecord(records[i])
				c.a.Metrics.opened(time.Since(began))
			}
		})
	}
	sent := 0
	for i := range records {
		if ctx.Err() != nil {
			break
		}
		work <- i
		sent++
	}
	close(work)
	wg.Wait()
	c.a.Metrics.queued(sent - len(records)) // none, unless the sync was ended
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err := c.provenance(ctx, commit, records, contents); err != nil {
		return nil, err
	}
	c.conflicts(records, contents)
	for i, r := range records {
		if r.Failure == nil {
			r.Good = contents[i]
		} else if old := c.next.records[r.Place.Scope][r.Path]; old != nil && old.Failure != nil {
			r.Failure.Since = old.Failure.Since
		} else {
			r.Failure.Since = c.now
		}
		c.records(r.Place.Scope)[r.Path] = r
	}
	return records, nil
}

// openRecord opens one file and notes in r why it does not open. With a changed
// ring it also drops a last good content that does not open any more.
func (c *change) openRecord(r *unseal.Record) *unseal.Content {
	ring, ringErr := c.ringOf(r)
	if c.verify[r.Path] != nil {
		// A service that is away proves nothing: the ring still lists it.
		content, failure := c.openBlob(r, r.Good.Provenance.Blob, ring, ringErr)
		switch {
		case failure == nil:
			content.Provenance = r.Good.Provenance
			r.Good = content
		case failure.Class != unseal.FailService:
			r.Good = nil
		}
	}
	if r.Failure != nil {
		return nil
	}
	content, failure := c.openBlob(r, r.Blob, ring, ringErr)
	r.Failure = failure
	if failure == nil {
		return content
	}
	if failure.Class == unseal.FailNoKey && (ringErr != nil || r.Good != nil && r.Good.Provenance.Blob == r.Blob) {
		r.Good = nil // the workspace's identity left the ring
	}
	return nil
}

func (c *change) ringOf(r *unseal.Record) (*keyring.Ring, error) {
	s := c.a.rings[r.Place.Scope] // only read here: several goroutines do
	return s.ring, s.err
}

func (c *change) openBlob(r *unseal.Record, blob string, ring *keyring.Ring, ringErr error) (content *unseal.Content, failure *unseal.Failure) {
	// A library that panics on hostile input must not take the others' secrets
	// with it. The panic's text could hold a value.
	defer func() {
		if recover() != nil {
			content, failure = nil, &unseal.Failure{Class: unseal.FailManifest, Message: r.Path + ": cannot be read"}
		}
	}()
	fail := func(class unseal.FailureClass, err error) (*unseal.Content, *unseal.Failure) {
		return nil, &unseal.Failure{Class: class, Message: short(err)}
	}
	data, err := c.a.Mirror.ReadBlob(plumbing.NewHash(blob), manifest.MaxSize)
	if errors.Is(err, source.ErrTooLarge) {
		return fail(unseal.FailTooLarge, fmt.Errorf("%s: %w", r.Path, err))
	}
	if err != nil {
		return fail(unseal.FailRead, fmt.Errorf("%s: %w", r.Path, err))
	}
	m, err := manifest.Parse(r.Path, data)
	if err == nil {
		err = m.CheckSealed()
	}
	if err != nil {
		return fail(unseal.Classify(err), err)
	}
	if err = m.CheckPlace(r.Place); err == nil {
		err = m.SettleIn(r.Place.Scope)
	}
	if err != nil {
		return fail(unseal.FailPlace, err)
	}
	if ringErr != nil {
		return fail(unseal.FailNoKey, fmt.Errorf("%s: %w", r.Path, ringErr))
	}
	known := c.recalled(blobID{r.Place.Scope, blob})
	var opened *unseal.Opened
	if known != nil {
		c.reused.Add(1)
	} else if opened, err = unseal.Open(m, ring, unseal.Options{AllowUnbound: c.next.unbound}); err != nil {
		return fail(unseal.Classify(err), err)
	}
	content = &unseal.Content{
		Provenance: unseal.Provenance{Path: r.Path, Blob: blob},
		ID:         m.ID(), Kind: m.Kind, Version: m.Version, Type: m.Secret.Type, ACL: m.Secret.ACL,
		Layer: m.Layer, Tags: m.Tags, Desc: m.Description, Owner: m.Owner, Kubernetes: m.Secret.Kubernetes,
	}
	if known != nil {
		content.Bound, content.Values = known.Bound, known.Values
		return content, nil
	}
	content.Bound = opened.Bound
	content.Values = make([]unseal.Value, len(opened.Values))
	for i, v := range opened.Values {
		content.Values[i] = unseal.Value{Key: v.Key.String(), Binary: v.Binary, Data: v.Data}
	}
	content.Intern()
	return content, nil
}

// short keeps the first of many errors of one file.
func short(err error) string {
	lines := strings.Split(err.Error(), "\n")
	if len(lines) > 3 {
		lines = append(lines[:3], fmt.Sprintf("and %d more", len(lines)-3))
	}
	return strings.Join(lines, "\n")
}

// provenance asks Git once for all opened files which commit gave them their
// content.
func (c *change) provenance(ctx context.Context, commit source.Hash, records []*unseal.Record, contents []*unseal.Content) error {
	var paths []string
	for i, r := range records {
		if contents[i] == nil {
			continue
		}
		if r.Good != nil && r.Good.Provenance.Blob == r.Blob && r.Good.Provenance.Commit != "" {
			contents[i].Provenance = r.Good.Provenance
			continue
		}
		paths = append(paths, c.a.inRepository(r.Path))
	}
	if len(paths) == 0 {
		return nil
	}
	base := c.a.applied
	if c.a.orphaned {
		base = source.Hash{}
	}
	found, err := c.a.Mirror.LastChanges(ctx, base, commit, paths, maxWalk)
	if err != nil {
		return err
	}
	for i, r := range records {
		if contents[i] == nil || contents[i].Provenance.Commit != "" {
			continue
		}
		if last, ok := found[c.a.inRepository(r.Path)]; ok {
			p := &contents[i].Provenance
			p.Commit, p.Author, p.Time = unique.Make(last.Hash.String()).Value(), last.Author, last.AuthorTime.UTC()
			p.Signer = c.a.signer(commit)
		}
	}
	return nil
}

func (a *Agent) inRepository(path string) string {
	if a.Root == "." || a.Root == "" {
		return path
	}
	return a.Root + "/" + path
}

// conflicts refuses the changed files of a secret that disagree with each other
// or with its other files; the secret stays at its last good content.
func (c *change) conflicts(records []*unseal.Record, contents []*unseal.Content) {
	changed, kept := map[secretID][]int{}, map[secretID][]*unseal.Record{}
	for i, r := range records {
		s := secretID{r.Place.Scope, r.Place.Name}
		if contents[i] != nil {
			changed[s] = append(changed[s], i)
		} else if r.Good != nil { // it broke, and its last good content stays
			kept[s] = append(kept[s], r)
		}
	}
	for s, list := range changed {
		var parts []manifest.Part
		part := func(r *unseal.Record, content *unseal.Content) manifest.Part {
			p := manifest.Part{Path: r.Path, InFolder: r.Place.Part != "", Type: content.Type, ACL: content.ACL}
			for _, v := range content.Values {
				p.Keys = append(p.Keys, v.Key)
			}
			return p
		}
		for _, r := range c.filesOf(s.ws, s.name) {
			if r.Good != nil && c.open[r.Path] == nil && c.next.records[s.ws][r.Path] != nil {
				kept[s] = append(kept[s], r)
			}
		}
		for _, r := range kept[s] {
			parts = append(parts, part(r, r.Good))
		}
		for _, i := range list {
			parts = append(parts, part(records[i], contents[i]))
		}
		if err := manifest.CheckParts(parts); err != nil {
			for _, i := range list {
				records[i].Failure = &unseal.Failure{Class: unseal.FailConflict, Message: err.Error()}
			}
		}
	}
}

// publish builds the snapshot and makes it the current one.
func (a *Agent) publish(info source.Commit, c *change) {
	scopes := a.Live.Current(a.Name).Scopes()
	for ws := range c.next.records {
		if c.editedRecords[ws] || scopes[ws] == nil {
			scopes[ws] = scopes[ws].Next(ws, c.next.records[ws])
		}
	}
	s := unseal.Snapshot{
		Source: a.Name, Commit: info.Hash.String(), Branch: a.Branch, Time: info.CommitTime.UTC(), Applied: c.now.UTC(), MaxStale: a.MaxStale,
		Policy:   access.New(c.next.compiled),
		Problems: slices.SortedFunc(maps.Values(c.next.problems), func(a, b unseal.Problem) int { return strings.Compare(a.Path, b.Path) }),
	}
	a.Live.Publish(s.WithScopes(scopes))
	a.noteContested()
}
