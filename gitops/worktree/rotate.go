package worktree

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
)

// RotateOptions of Rotate.
type RotateOptions struct {
	// Recipients replace those of the workspace's rule in .sops.yaml; nil keeps them.
	Recipients []workspace.Recipient
	// DryRun does everything but write.
	DryRun bool
	// Progress is called after each file, from one goroutine at a time; may be nil.
	Progress func(done, total int)
}

// Rotation is what Rotate did, or would do.
type Rotation struct {
	Workspace  manifest.Workspace
	Recipients workspace.Recipients // from now on
	Files      []string
	// Removed recipients were named in files and are not any more.
	Removed []Removed
}

// Removed is a recipient that was taken out, and what it could open until then.
// Files name their recipients themselves, so a stanza under another's name would
// not show here.
type Removed struct {
	Recipient string
	// Retired says that it is an identity of the ring itself, as after keys new.
	Retired bool
	// Values are WORKSPACE/NAME/KEY, sorted. Git's history still holds them.
	Values []string
}

// Rotate gives every secret of a workspace fresh data keys, sealed for its
// recipients, all or nothing: every file is opened, sealed anew and verified to
// hold the same values before the first is written, and then all are put in place
// in one step (workspace.Repository.Replace).
func (t *Tree) Rotate(ctx context.Context, ws manifest.Workspace, opts RotateOptions) (*Rotation, error) {
	unlock, err := t.Repo.Lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	folder := ws.Folder() + "/secrets"
	before, err := t.Repo.List(folder)
	if err != nil {
		return nil, err
	}
	rules, err := t.Repo.Rules()
	if err != nil {
		return nil, err
	}
	var registry []byte
	var leaving []string
	if opts.Recipients != nil {
		old, err := rules.WorkspaceRecipients(ws)
		if err != nil {
			return nil, err
		}
		if registry, err = rules.Replace(ws, opts.Recipients); err != nil {
			return nil, err
		}
		for _, rcpt := range old.All() {
			if !slices.Contains(opts.Recipients, rcpt) {
				leaving = append(leaving, rcpt.String())
			}
		}
		if rules, err = workspace.ParseRules(registry); err != nil {
			return nil, err
		}
	}
	to, err := rules.WorkspaceRecipients(ws)
	if err != nil {
		return nil, err
	}
	files, err := t.secretFiles(ws)
	if err != nil {
		return nil, err
	}
	r := &rotation{t: t, ws: ws, rules: rules, leaving: leaving, total: len(files), progress: opts.Progress, out: map[string][]byte{}, removed: map[string][]string{}}
	ring, err := t.Ring(ws)
	if err != nil {
		return nil, err
	}
	r.run(ctx, files)
	if ctx.Err() != nil {
		return nil, fmt.Errorf("interrupted; nothing was changed")
	}
	if len(r.errs) > 0 {
		slices.SortFunc(r.errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
		return nil, fmt.Errorf("%w\nnothing was changed: %d of %d files of workspace %s cannot be rotated", errors.Join(r.errs...), len(r.errs), len(files), ws)
	}
	done := &Rotation{Workspace: ws, Recipients: to, Files: files}
	for _, name := range slices.Sorted(maps.Keys(r.removed)) {
		slices.Sort(r.removed[name])
		retired := slices.ContainsFunc(ring.Recipients(), func(own workspace.Recipient) bool { return own.String() == name })
		done.Removed = append(done.Removed, Removed{name, retired, r.removed[name]})
	}
	if opts.DryRun {
		return done, nil
	}
	undo := func() error { return nil }
	if registry != nil {
		// First, so that a kill in between leaves files that another rotate mends and
		// no rule that seals new values for a recipient who is leaving.
		oldRegistry, err := t.Repo.Read(workspace.RulesFile)
		if err != nil {
			return nil, err
		}
		if err := t.Repo.Write(workspace.RulesFile, registry); err != nil {
			return nil, err
		}
		undo = func() error { return t.Repo.Write(workspace.RulesFile, oldRegistry) }
	}
	if len(files) == 0 {
		return done, nil
	}
	if err := t.Repo.Replace(folder, r.out, before); err != nil {
		return nil, errors.Join(err, undo())
	}
	return done, nil
}

// secretFiles lists the files below a workspace's secrets/, sorted.
func (t *Tree) secretFiles(ws manifest.Workspace) ([]string, error) {
	all, err := t.Repo.Files()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, path := range all {
		if strings.HasPrefix(path, ws.Folder()+"/secrets/") {
			out = append(out, path)
		}
	}
	return out, nil
}

// Workspaces lists those that have a creation rule of their own or files, the
// instance last.
func (t *Tree) Workspaces() ([]manifest.Workspace, error) {
	rules, err := t.Repo.Rules()
	if err != nil {
		return nil, err
	}
	files, err := t.Repo.Files()
	if err != nil {
		return nil, err
	}
	out := rules.Workspaces()
	for _, path := range files {
		if place, _, _ := manifest.Locate(path); !place.Scope.IsZero() && !slices.Contains(out, place.Scope) {
			out = append(out, place.Scope)
		}
	}
	slices.SortStableFunc(out, func(a, b manifest.Workspace) int {
		if a.IsInstance() != b.IsInstance() {
			return map[bool]int{true: 1, false: -1}[a.IsInstance()]
		}
		return strings.Compare(a.String(), b.String())
	})
	return out, nil
}

// rotation is one Rotate under way.
type rotation struct {
	t        *Tree
	ws       manifest.Workspace
	rules    *workspace.Rules
	leaving  []string // recipients that no file may be sealed for
	total    int
	progress func(done, total int)

	mu      sync.Mutex
	done    int
	out     map[string][]byte
	removed map[string][]string
	errs    []error
}

func (r *rotation) run(ctx context.Context, files []string) {
	work := make(chan string)
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for path := range work {
				r.file(path)
			}
		})
	}
	for _, path := range files {
		if ctx.Err() != nil {
			break
		}
		work <- path
	}
	close(work)
	wg.Wait()
}

func (r *rotation) file(path string) {
	out, removed, err := r.rotate(path)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done++; r.progress != nil {
		r.progress(r.done, r.total)
	}
	if err != nil {
		r.errs = append(r.errs, err)
		return
	}
	r.out[path] = out
	for name, values := range removed {
		r.removed[name] = append(r.removed[name], values...)
	}
}

func (r *rotation) rotate(path string) (out []byte, removed map[string][]string, err error) {
	f, err := r.t.read(path)
	if err != nil {
		return nil, nil, err
	}
	to, err := r.rules.Recipients(path)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names(to) {
		if slices.Contains(r.leaving, name) {
			return nil, nil, fmt.Errorf("%s: has a creation rule of its own in %s, which names %s still; take it out there first", path, workspace.RulesFile, name)
		}
	}
	opened, err := r.t.open(f)
	if err != nil {
		return nil, nil, err
	}
	if !opened.Bound {
		return nil, nil, fmt.Errorf("%s: has no binding; bind it first: sealward seal --rebind %[1]s", path)
	}
	removed = map[string][]string{}
	for _, name := range opened.Envelope.Recipients() {
		if slices.Contains(names(to), name) {
			continue
		}
		for _, v := range opened.Values {
			removed[name] = append(removed[name], r.ws.String()+"/"+f.place.Name.String()+"/"+v.Key.String())
		}
	}
	keys, err := r.t.keys(r.ws, to)
	if err != nil {
		return nil, nil, err
	}
	out, err = opened.Envelope.Rotate(to, keys, r.t.Now())
	return out, removed, err
}

func names(to workspace.Recipients) []string {
	var out []string
	for _, r := range to.All() {
		out = append(out, r.String())
	}
	return out
}

// Standing is how a file's recipients stand to its rule and to the ring.
type Standing struct {
	Path   string
	Secret string // WORKSPACE/NAME
	// State is "current", or the worst of: "foreign" (sealed for a recipient that
	// the rule does not name), "retired" (for a retired identity of the ring),
	// "missing" (not for one that the rule names), "unreadable".
	State string
	// Foreign, Retired and Missing are recipients, as the file or the rule names them.
	Foreign, Retired, Missing []string
	// Problem says why the file could not be looked at.
	Problem string
}

// The states of a Standing.
const (
	Current    = "current"
	Foreign    = "foreign"
	Retired    = "retired"
	Missing    = "missing"
	Unreadable = "unreadable"
)

// Report says for every file of a workspace whether it is sealed for whom its
// rule says. It needs no private key; with a ring it tells retired identities
// from strangers.
func (t *Tree) Report(ws manifest.Workspace) ([]Standing, error) {
	rules, err := t.Repo.Rules()
	if err != nil {
		return nil, err
	}
	files, err := t.secretFiles(ws)
	if err != nil {
		return nil, err
	}
	var out []Standing
	for _, path := range files {
		out = append(out, t.standing(rules, ws, path))
	}
	return out, nil
}

func (t *Tree) standing(rules *workspace.Rules, ws manifest.Workspace, path string) Standing {
	s := Standing{Path: path, State: Unreadable}
	place, _, err := manifest.Locate(path)
	if err != nil {
		s.Problem = err.Error()
		return s
	}
	s.Secret = ws.String() + "/" + place.Name.String()
	f, err := t.read(path)
	if err != nil {
		s.Problem = err.Error()
		return s
	}
	e, err := seal.Load(f.m)
	if err != nil {
		s.Problem = err.Error()
		return s
	}
	to, err := rules.Recipients(path)
	if err != nil {
		s.Problem = err.Error()
		return s
	}
	var ours []string
	if ring, err := t.Ring(ws); err == nil {
		for _, r := range ring.Recipients() {
			ours = append(ours, r.String())
		}
	}
	wanted, has := names(to), e.Recipients()
	for _, name := range has {
		switch {
		case slices.Contains(wanted, name):
		case slices.Contains(ours, name):
			s.Retired = append(s.Retired, name)
		default:
			s.Foreign = append(s.Foreign, name)
		}
	}
	for _, name := range wanted {
		if !slices.Contains(has, name) {
			s.Missing = append(s.Missing, name)
		}
	}
	switch {
	case len(s.Foreign) > 0:
		s.State = Foreign
	case len(s.Retired) > 0:
		s.State = Retired
	case len(s.Missing) > 0:
		s.State = Missing
	default:
		s.State = Current
	}
	return s
}
