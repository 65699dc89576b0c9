package review

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/text/unicode/norm"

	"github.com/sealward/sealward/gitops/gitcmd"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal/keyring"
)

// CheckOptions of Check.
type CheckOptions struct {
	// Base, a commit, limits the findings to what differs from it, and makes those
	// possible that need a before and an after. Nil checks everything.
	Base *Tree
	// Paths limits the findings to files at and below them.
	Paths []string
	// Ring gives the keys of a workspace, with which every file is opened as well; nil, or
	// keyring.ErrNoRing, checks without.
	Ring func(manifest.Workspace) (*keyring.Ring, error)
	// AllowUnbound: manifests without a binding are no finding, as an operator may have
	// configured the agent.
	AllowUnbound bool
	// Generators reads the text of a generator of kustomize's that starts at a line of a
	// file; its error is a manifest.Errors. Nil: their fields are not looked into.
	Generators func(file string, line int, text []byte) error
	// Now is the time that expiries are compared with. Required.
	Now time.Time
}

// Report is what Check found.
type Report struct {
	Findings []Finding `json:"findings"`
	Files    int       `json:"files"`  // manifests that were looked at
	Opened   int       `json:"opened"` // of them with a key
}

// Errors counts the findings of level error.
func (r *Report) Errors() int {
	n := 0
	for _, f := range r.Findings {
		if f.Level == LevelError {
			n++
		}
	}
	return n
}

// roots are the folders that hold manifests.
func roots() []string { return []string{"instance", "workspaces"} }

// checker is one check under way.
type checker struct {
	repo  *Repo
	tree  *Tree
	opts  CheckOptions
	about map[CheckID]About

	rules *workspace.Rules // nil when they cannot be read
	// changed are the paths that differ from the base; nil without one.
	changed map[string]Change

	mu       sync.Mutex
	findings []Finding
	files    int
	opened   int
	secrets  map[secretID][]secretFile
	bindings map[string]placed // by the sealed binding
	hasSops  map[string]bool   // files that have a sops section, or seem to

	generators    []string // files outside workspaces/ and instance/ that name a generator of ours
	sealedOutside []string // ... that hold a sealed Kubernetes Secret
	kustomizes    bool     // one of the files that were looked at is about kustomize
}

// secretID is one secret.
type secretID struct {
	ws   manifest.Workspace
	name manifest.Name
}

// placed is where something stands.
type placed struct {
	path         string
	line, column int
}

// secretFile is one file of a secret, as far as files are held to each other.
type secretFile struct {
	part manifest.Part
	line map[string]int // of each key, where parts are
}

// Check looks for what is wrong with a tree. An error means that it could not look.
func (r *Repo) Check(ctx context.Context, t *Tree, opts CheckOptions) (*Report, error) {
	c := &checker{repo: r, tree: t, opts: opts, about: map[CheckID]About{}, secrets: map[secretID][]secretFile{}, bindings: map[string]placed{}, hasSops: map[string]bool{}}
	for _, a := range Checks() {
		c.about[a.ID] = a
	}
	var err error
	if opts.Base == nil {
		err = c.everything(ctx)
	} else {
		err = c.difference(ctx)
	}
	if err != nil {
		return nil, err
	}
	findings := slices.DeleteFunc(c.findings, func(f Finding) bool { return !below(f.Path, opts.Paths) })
	return &Report{Findings: sortFindings(findings), Files: c.files, Opened: c.opened}, nil
}

func below(path string, paths []string) bool {
	return len(paths) == 0 || slices.ContainsFunc(paths, func(p string) bool {
		return p == "." || path == p || strings.HasPrefix(path, strings.TrimSuffix(p, "/")+"/")
	})
}

// add notes a finding. remedy "" is the check's own.
func (c *checker) add(id CheckID, path string, line, column int, field, message, remedy string) {
	a := c.about[id]
	if remedy == "" {
		remedy = strings.ReplaceAll(a.Remedy, "PATH", path)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.findings = append(c.findings, Finding{ID: id, Level: a.Level, Path: path, Line: max(line, 1), Column: column, Field: field, Message: message, Remedy: remedy})
}

// everything checks all files.
func (c *checker) everything(ctx context.Context) error {
	files, err := c.tree.Files(ctx, append(roots(), workspace.RulesFile, workspace.SettingsFile)...)
	if err != nil {
		return err
	}
	if err := c.registry(ctx, workspacesOf(files), true); err != nil {
		return err
	}
	if err := c.settings(ctx, true); err != nil {
		return err
	}
	if files, err = c.absent(ctx, files); err != nil {
		return err
	}
	c.spellings(files, nil)
	if err := c.all(ctx, files); err != nil {
		return err
	}
	c.parts(nil)
	scopes := map[manifest.Workspace]bool{}
	for _, f := range files {
		if place, ours, _ := manifest.Locate(f.Path); ours && place.Policy {
			scopes[place.Scope] = true
		}
	}
	found, err := c.policy(ctx, c.tree, slices.Collect(maps.Keys(scopes)))
	if err != nil {
		return err
	}
	c.findings = append(c.findings, found...)
	if err := c.entries(ctx); err != nil {
		return err
	}
	if err := c.outside(ctx); err != nil {
		return err
	}
	return c.kustomize(ctx)
}

// absent adds to the files of the work tree what only the index knows of: a submodule
// that was not fetched is an empty folder.
func (c *checker) absent(ctx context.Context, files []File) ([]File, error) {
	if c.tree.Name != workTreeName || c.repo.clone == nil {
		return files, nil
	}
	staged, err := c.repo.clone.Staged(ctx, c.repo.inClone(roots())...)
	if err != nil {
		return nil, err
	}
	for _, f := range c.repo.inRepository(staged) {
		if f.Mode == gitcmd.Submodule && !slices.ContainsFunc(files, func(o File) bool { return o.Path == f.Path }) {
			files = append(files, f)
		}
	}
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return files, nil
}

// looked counts a manifest that was asked for.
func (c *checker) looked(path string) {
	if below(path, c.opts.Paths) {
		c.mu.Lock()
		c.files++
		c.mu.Unlock()
	}
}

// all checks files one by one, on all cores.
func (c *checker) all(ctx context.Context, files []File) error {
	return inParallel(ctx, len(files), func(i int) error { return c.file(ctx, files[i]) })
}

// difference checks what differs from the base.
func (c *checker) difference(ctx context.Context) error {
	changes, err := c.repo.Changed(ctx, c.opts.Base, c.tree)
	if err != nil {
		return err
	}
	c.changed = map[string]Change{}
	var files, others []File
	touched := map[secretID]bool{}
	gone := map[secretID]bool{}
	scopes := map[manifest.Workspace]bool{}
	folders := map[string]bool{}
	for _, ch := range changes {
		c.changed[ch.Path] = ch
		place, ours, err := manifest.Locate(ch.Path)
		if ours && err == nil && !place.Policy {
			id := secretID{place.Scope, place.Name}
			touched[id] = true
			if ch.New == nil {
				gone[id] = true
			}
		}
		if ours && place.Policy {
			scopes[place.Scope] = true
		}
		switch {
		case ch.New == nil:
		case ours:
			files = append(files, *ch.New)
			folders[ch.Path[:strings.LastIndex(ch.Path, "/")]] = true
		case ch.Path == workspace.RulesFile || ch.Path == workspace.SettingsFile:
			files = append(files, *ch.New)
		default:
			others = append(others, *ch.New)
		}
	}
	_, registry := c.changed[workspace.RulesFile]
	var known []manifest.Workspace
	if registry {
		all, err := c.tree.Files(ctx, roots()...)
		if err != nil {
			return err
		}
		known = workspacesOf(all)
		unchanged, err := c.ruledAnew(ctx, all)
		if err != nil {
			return err
		}
		files = append(files, unchanged...)
	}
	if err := c.registry(ctx, known, registry); err != nil {
		return err
	}
	_, settings := c.changed[workspace.SettingsFile]
	if err := c.settings(ctx, settings); err != nil {
		return err
	}
	if len(folders) > 0 {
		beside, err := c.tree.Files(ctx, slices.Sorted(maps.Keys(folders))...)
		if err != nil {
			return err
		}
		c.spellings(beside, c.changed)
	}
	if err := c.all(ctx, files); err != nil {
		return err
	}
	if err := c.siblings(ctx, touched); err != nil {
		return err
	}
	c.parts(touched)
	if err := c.copies(ctx); err != nil {
		return err
	}
	if err := c.policyDifference(ctx, slices.Collect(maps.Keys(scopes))); err != nil {
		return err
	}
	if err := c.entries(ctx); err != nil {
		return err
	}
	if err := c.removed(ctx, gone); err != nil {
		return err
	}
	if err := inParallel(ctx, len(others), func(i int) error { return c.other(ctx, others[i], true) }); err != nil {
		return err
	}
	return c.kustomizeDifference(ctx)
}

// ruledAnew lists the files that did not change and that .sops.yaml has seal for
// others than before.
func (c *checker) ruledAnew(ctx context.Context, all []File) ([]File, error) {
	now, err := c.tree.Rules(ctx)
	if err != nil {
		return nil, nil // registry tells it
	}
	was, err := c.opts.Base.Rules(ctx)
	if err != nil {
		return nil, ctx.Err()
	}
	return slices.DeleteFunc(all, func(f File) bool {
		place, ours, err := manifest.Locate(f.Path)
		if _, changed := c.changed[f.Path]; changed || !ours || err != nil || place.Policy || !f.Mode.IsFile() {
			return true
		}
		a, errA := was.Recipients(f.Path)
		b, errB := now.Recipients(f.Path)
		return errA != nil && errB != nil || errA == nil && errB == nil && reflect.DeepEqual(a, b)
	}), nil
}

// workspacesOf lists the workspaces that files are in.
func workspacesOf(files []File) []manifest.Workspace {
	seen := map[manifest.Workspace]bool{}
	last := ""
	for _, f := range files {
		rest, ok := strings.CutPrefix(f.Path, "workspaces/")
		name, _, slash := strings.Cut(rest, "/")
		if !ok || !slash || name == last {
			continue
		}
		last = name
		if ws, err := manifest.ParseWorkspace(name); err == nil {
			seen[ws] = true
		}
	}
	return slices.SortedFunc(maps.Keys(seen), func(a, b manifest.Workspace) int { return strings.Compare(a.String(), b.String()) })
}

// registry reads .sops.yaml, and says what is wrong with it when report is set.
func (c *checker) registry(ctx context.Context, known []manifest.Workspace, report bool) error {
	if report {
		if link, err := c.notPlain(ctx, workspace.RulesFile); err != nil || link {
			return err
		}
	}
	if data, err := c.tree.ReadPath(ctx, workspace.RulesFile); err == nil {
		if line, found := hasMarkers(data); found {
			if report {
				c.add(MergeConflict, workspace.RulesFile, line, 1, "", "conflict markers of a merge stand in the file", "resolve it as any conflict of git: edit the file, then git add it")
			}
			return nil
		}
	}
	rules, err := c.tree.Rules(ctx)
	var wrong *workspace.RuleError
	switch {
	case err == nil:
		c.rules = rules
	case errors.As(err, &wrong):
		if report {
			c.add(RuleInvalid, workspace.RulesFile, wrong.Line, 0, "creation_rules", wrong.Err.Error(), "")
		}
		return nil
	case ctx.Err() != nil:
		return err
	default:
		if report {
			c.add(RuleInvalid, workspace.RulesFile, 1, 0, "", strings.TrimPrefix(err.Error(), workspace.RulesFile+": "), "")
		}
		return nil
	}
	if !report {
		return nil
	}
	ids := map[workspace.RuleReason]CheckID{
		workspace.RuleUnanchored: RuleUnanchored, workspace.RuleSpans: RuleSpans, workspace.RuleShadowed: RuleShadowed,
		workspace.RuleInvalid: RuleInvalid, workspace.RulePattern: RulePattern,
	}
	for _, p := range rules.Problems(known) {
		c.add(ids[p.Reason], workspace.RulesFile, p.Line, 0, "creation_rules", p.Msg, "")
	}
	return nil
}

// notPlain reports a link or submodule in the place of a file of the top folder.
func (c *checker) notPlain(ctx context.Context, path string) (bool, error) {
	files, err := c.tree.filesAt(ctx, path)
	if err != nil {
		return false, err
	}
	for _, f := range files {
		if f.Path == path && !f.Mode.IsFile() {
			c.mode(f)
			return true, nil
		}
	}
	return false, nil
}

func (c *checker) mode(f File) {
	if f.Mode == gitcmd.Submodule {
		c.add(FileSubmodule, f.Path, 1, 0, "", "is a submodule; nobody reads what is in it", "")
	} else {
		c.add(FileLink, f.Path, 1, 0, "", "is a symbolic link; it is refused, wherever it leads", "")
	}
}

func (c *checker) settings(ctx context.Context, report bool) error {
	if !report {
		return nil
	}
	if link, err := c.notPlain(ctx, workspace.SettingsFile); err != nil || link {
		return err
	}
	read := func(t *Tree) (workspace.Settings, error) {
		data, err := t.ReadPath(ctx, workspace.SettingsFile)
		if errors.Is(err, fs.ErrNotExist) {
			return workspace.Settings{}, nil
		}
		if err != nil {
			return workspace.Settings{}, err
		}
		return workspace.ParseSettings(data)
	}
	now, err := read(c.tree)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		c.add(SettingsInvalid, workspace.SettingsFile, lineIn(err), 0, "", strings.TrimPrefix(err.Error(), workspace.SettingsFile+": "), "")
		return nil
	}
	if c.opts.Base == nil {
		return nil
	}
	if before, err := read(c.opts.Base); err == nil && before.BindingRequired() && !now.BindingRequired() {
		c.add(SettingsLoosen, workspace.SettingsFile, 1, 0, "binding", "was required, and is not any more: manifests without a binding may be accepted", "")
	}
	return nil
}

// lineIn finds the line that an error of the YAML library names.
func lineIn(err error) int {
	_, rest, ok := strings.Cut(err.Error(), "line ")
	n := 0
	if ok {
		_, _ = fmt.Sscanf(rest, "%d", &n)
	}
	return n
}

// spellings finds paths that some file systems cannot tell apart. With only, one of
// them must have changed.
func (c *checker) spellings(files []File, only map[string]Change) {
	type spelled struct{ path, seen string }
	seen := map[string]spelled{}
	check := func(path, shown string) {
		folded := path
		for i := 0; i < len(path); i++ {
			if path[i] >= 0x80 || path[i] >= 'A' && path[i] <= 'Z' {
				folded = strings.ToLower(norm.NFC.String(path))
				break
			}
		}
		first, ok := seen[folded]
		if !ok {
			seen[folded] = spelled{path, shown}
			return
		}
		if first.path == path && path != shown {
			return // one folder, of two files
		}
		if only != nil {
			_, a := only[shown]
			_, b := only[first.seen]
			if !a && !b {
				return
			}
		}
		msg := fmt.Sprintf("%q and %q are two spellings of one path", first.path, path)
		if first.path == path {
			msg = fmt.Sprintf("%q stands in the commit twice", path)
		}
		c.add(PathTwice, shown, 1, 0, "", msg, "")
	}
	folder := ""
	for _, f := range files {
		check(f.Path, f.Path)
		dir := f.Path[:strings.LastIndex(f.Path, "/")+1]
		if dir == folder {
			continue
		}
		folder = dir
		for i := range dir {
			if dir[i] == '/' {
				check(dir[:i], f.Path)
			}
		}
	}
}

// parts holds the files of each secret to each other. Only: those secrets alone.
func (c *checker) parts(only map[secretID]bool) {
	for id, files := range c.secrets {
		if len(files) < 2 || only != nil && !only[id] {
			continue
		}
		var parts []manifest.Part
		lines := map[string]map[string]int{}
		for _, f := range files {
			parts = append(parts, f.part)
			lines[f.part.Path] = f.line
		}
		var wrong *manifest.PartsError
		if !errors.As(manifest.CheckParts(parts), &wrong) {
			continue
		}
		check := map[manifest.PartsReason]CheckID{manifest.PartsTwice: SecretTwice, manifest.PartsType: PartsDisagree, manifest.PartsKey: KeyTwice}[wrong.Reason]
		c.add(check, wrong.Second, lines[wrong.Second][wrong.Key], 0, wrong.Key, wrong.Error(), "")
	}
}

// siblings notes the files that did not change of secrets that did.
func (c *checker) siblings(ctx context.Context, touched map[secretID]bool) error {
	var places []string
	for id := range touched {
		folder := strings.TrimSuffix(manifest.SecretPath(id.ws, id.name), ".yaml")
		places = append(places, folder, folder+".yaml", folder+".json")
	}
	if len(places) == 0 {
		return nil
	}
	slices.Sort(places)
	files, err := c.tree.filesAt(ctx, places...)
	if err != nil {
		return err
	}
	return inParallel(ctx, len(files), func(i int) error {
		f := files[i]
		place, ours, err := manifest.Locate(f.Path)
		if _, changed := c.changed[f.Path]; changed || !ours || err != nil || !f.Mode.IsFile() {
			return nil
		}
		data, err := c.tree.Read(ctx, f)
		if err != nil {
			return nil // it was so before
		}
		if m, err := manifest.Parse(f.Path, data); err == nil && m.Kind.IsSecret() {
			c.note(f.Path, place, m)
		}
		return nil
	})
}

// note keeps what parts needs of a file.
func (c *checker) note(path string, place manifest.Place, m *manifest.Manifest) {
	f := secretFile{part: manifest.PartOf(path, place, m)}
	if place.Part != "" {
		f.line = map[string]int{}
		for _, e := range m.Secret.Entries {
			f.line[e.Key.String()] = e.Line
		}
	} else {
		f.part.Keys = nil // there is no other file that may have them
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	id := secretID{place.Scope, place.Name}
	// A file that was read as changed and as a sibling counts once.
	if !slices.ContainsFunc(c.secrets[id], func(o secretFile) bool { return o.part.Path == path }) {
		c.secrets[id] = append(c.secrets[id], f)
	}
}

// hasMarkers reports a conflict that a merge left in a file, and its line.
func hasMarkers(data []byte) (line int, ok bool) {
	i := 0
	if !bytes.HasPrefix(data, []byte("<<<<<<< ")) {
		if i = bytes.Index(data, []byte("\n<<<<<<< ")); i < 0 {
			return 0, false
		}
		i++
	}
	return bytes.Count(data[:i], []byte("\n")) + 1, true
}
