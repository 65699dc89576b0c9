package kustomize

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/keyring"
)

// Unsealer makes objects of generators. It is safe for concurrent use, and must not
// be copied once it was used.
type Unsealer struct {
	// Ring of a workspace. It is not called with Placeholders.
	Ring func(manifest.Workspace) (*keyring.Ring, error)
	// AllowUnbound accepts sealed files without a binding, as plain sops and KSOPS
	// have them, where the tree's settings do not require one.
	AllowUnbound bool
	// Placeholders makes the same objects with dummy values, without any key.
	Placeholders bool
	// Workspace of sealed files that say nothing of theirs; zero: public.
	Workspace manifest.Workspace
	// Warn tells what is odd but accepted, such as a missing binding, from several
	// goroutines; nil: nobody.
	Warn func(text string)
	// Built, where it is set, is the folder whose build this is: kustomizations
	// outside its tree (remote bases) may name what it may name, and those in its tree
	// that it takes in nothing more.
	Built string

	mu    sync.Mutex
	trees map[string]*Tree // by the folder of a kustomization
	slots chan struct{}
}

// site is a kustomization's folder, with what may be used there.
type site struct {
	u    *Unsealer
	root string // absolute, links resolved
	tree *Tree
	// settings is the tree whose builds count for folder, which is in it.
	settings *Tree
	folder   string
	// built is the folder whose build this is, where it is in the same tree; "" where nothing
	// says it.
	built string
}

// site finds what may be used in a kustomization's folder.
func (u *Unsealer) site(root string) (*site, error) {
	root, err := filepath.Abs(root)
	if err == nil {
		root, err = filepath.EvalSymlinks(root)
	}
	if err != nil {
		return nil, err
	}
	s := &site{u: u, root: root}
	if s.tree, err = u.tree(root); err != nil {
		return nil, err
	}
	s.settings = s.tree
	at := root
	if u.Built != "" {
		built, err := filepath.EvalSymlinks(u.Built)
		if err != nil {
			return nil, err
		}
		if s.settings, err = u.tree(built); err != nil {
			return nil, err
		}
		// A remote base brings no settings of its own: what is built decides.
		if s.settings.dir != s.tree.dir {
			at = built
		}
		s.built, _ = s.settings.rel(built)
	}
	s.folder, _ = s.settings.rel(at)
	return s, nil
}

func (u *Unsealer) tree(dir string) (*Tree, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if t := u.trees[dir]; t != nil {
		return t, nil
	}
	t, err := FindTree(dir)
	if err != nil {
		return nil, err
	}
	for _, known := range u.trees {
		if known.dir == t.dir {
			t.root.Close()
			t = known
			break
		}
	}
	if u.trees == nil {
		u.trees = map[string]*Tree{}
	}
	u.trees[dir] = t
	return t, nil
}

// entryError is why an entry of a generator makes nothing.
type entryError struct {
	file, field string // of the generator
	line        int
	err         error
}

func (e *entryError) Error() string { return fmt.Sprintf("%s:%d: %s", e.file, e.line, e.err) }
func (e *entryError) Unwrap() error { return e.err }

// Generate makes the objects of a generator that the kustomization in the absolute
// folder root lists, in the order of the entries. Files are unsealed in parallel.
// Errors name file, line and field, and are those of unseal.Open, manifest.Parse and
// keyring beneath; none holds a value.
func (u *Unsealer) Generate(ctx context.Context, root string, g *Generator) ([]*Object, error) {
	s, err := u.site(root)
	if err != nil {
		return nil, err
	}
	var jobs []func() ([]*Object, error)
	add := func(list string, i, line int, job func() ([]*Object, error)) {
		jobs = append(jobs, func() ([]*Object, error) {
			objects, err := job()
			if err != nil {
				return nil, &entryError{g.File, fmt.Sprintf("%s[%d]", list, i), line, err}
			}
			return objects, nil
		})
	}
	for i, e := range g.Secrets {
		add("secrets", i, e.Line, func() ([]*Object, error) { return one(s.secret(e)) })
	}
	for i, e := range g.Files {
		add("files", i, e.Line, func() ([]*Object, error) { return s.file(e.Path, g.Workspace, e.Target) })
	}
	for i, e := range g.Sources {
		add("sources", i, e.Line, func() ([]*Object, error) { return one(s.source(e, g.Workspace)) })
	}
	if len(jobs) == 0 {
		return nil, fmt.Errorf("%s:%d: %s", g.File, g.Line, makesNothing)
	}
	objects, err := u.all(ctx, jobs)
	if err != nil {
		return nil, err
	}
	seen := map[string]*Object{}
	for _, o := range objects {
		id := strings.Join([]string{o.APIVersion, o.Kind, o.Namespace, o.Name}, "\x00")
		if other := seen[id]; other != nil {
			return nil, fmt.Errorf("%s:%d: makes %s %s twice, of %s and of %s; rename one (metadata.name)", g.File, g.Line, o.Kind, o.Name, other.From, o.From)
		}
		seen[id] = o
		annotations := o.Annotations
		if o.Other != nil {
			annotations = o.Other.GetAnnotations()
		}
		if v, local := annotations[localConfigAnnotation]; local && v != "false" {
			return nil, fmt.Errorf("%s:%d: %s %s of %s has the annotation %s, with which kustomize would leave it out without a word; remove one of the two", g.File, g.Line, o.Kind, o.Name, o.From, localConfigAnnotation)
		}
	}
	return objects, nil
}

// Resource makes the objects of a sealed file that the kustomization in the absolute
// folder root lists among its resources. path is relative to root.
func (u *Unsealer) Resource(ctx context.Context, root, path string) ([]*Object, error) {
	s, err := u.site(root)
	if err != nil {
		return nil, err
	}
	return u.all(ctx, []func() ([]*Object, error){func() ([]*Object, error) { return s.file(path, manifest.Workspace{}, Target{}) }})
}

// all runs jobs, several at once over all callers: some wait for a service. All that
// fail are told, in their order.
func (u *Unsealer) all(ctx context.Context, jobs []func() ([]*Object, error)) ([]*Object, error) {
	u.mu.Lock()
	if u.slots == nil {
		u.slots = make(chan struct{}, max(8, runtime.GOMAXPROCS(0)))
	}
	u.mu.Unlock()
	results, errs := make([][]*Object, len(jobs)), make([]error, len(jobs))
	var wg sync.WaitGroup
	for i, job := range jobs {
		select {
		case <-ctx.Done():
			wg.Wait()
			return nil, ctx.Err()
		case u.slots <- struct{}{}:
		}
		wg.Go(func() {
			defer func() { <-u.slots }()
			results[i], errs[i] = job()
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	var out []*Object
	for _, r := range results {
		out = append(out, r...)
	}
	return out, nil
}

func one(o *Object, err error) ([]*Object, error) {
	if err != nil {
		return nil, err
	}
	return []*Object{o}, nil
}

// secret makes the object of a secret of the repository.
func (s *site) secret(e SecretEntry) (*Object, error) {
	// Before it is looked up: who may not use a workspace is not told what is in it.
	if err := s.permit(e.Workspace, false); err != nil {
		return nil, err
	}
	repo, folder, err := s.tree.repository(s.root)
	if err != nil {
		return nil, err
	}
	found, err := repo.FindSecret(e.Workspace, e.Secret)
	if err != nil {
		return nil, err
	}
	var files []*unseal.Opened
	var places []manifest.Place
	for _, file := range found.Files {
		rel := file
		if folder != "." {
			rel = folder + "/" + file
		}
		data, err := s.tree.read(rel)
		if err != nil {
			return nil, err
		}
		m, err := manifest.Parse(rel, data)
		if err != nil {
			return nil, err
		}
		place, _, err := manifest.Locate(file)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", rel, err)
		}
		o, err := s.openAt(m, place)
		if err != nil {
			return nil, err
		}
		files, places = append(files, o), append(places, place)
	}
	whole, err := unseal.Assemble(files, places)
	if err != nil {
		return nil, err
	}
	return s.finish(objectOf(whole), e.Target)
}

// openAt opens a manifest that stands in a workspace's folder.
func (s *site) openAt(m *manifest.Manifest, place manifest.Place) (*unseal.Opened, error) {
	if err := sealedSecret(m); err != nil {
		return nil, err
	}
	if err := m.CheckPlace(place); err != nil {
		return nil, err
	}
	if err := m.SettleIn(place.Scope); err != nil {
		return nil, err
	}
	return s.open(m)
}

func sealedSecret(m *manifest.Manifest) error {
	if !m.Kind.IsSecret() {
		return &manifest.Error{File: m.File, Msg: fmt.Sprintf("is a %s, which makes no Secret", m.Kind)}
	}
	return m.CheckSealed()
}

// open unseals a manifest whose workspace is settled and permitted.
func (s *site) open(m *manifest.Manifest) (*unseal.Opened, error) {
	if s.u.Placeholders {
		return placeholders(m)
	}
	ring, err := s.u.Ring(m.Workspace)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.File, err)
	}
	o, err := unseal.Open(m, ring, unseal.Options{AllowUnbound: s.allowUnbound()})
	if err != nil {
		return nil, err
	}
	if !o.Bound {
		s.warnUnbound(m.File)
	}
	for _, v := range o.Values {
		if v.Retyped != "" {
			s.warn("%s: %s was sealed as %s by plain sops, which may have changed how it is written", m.File, v.Key, v.Retyped)
		}
	}
	return o, nil
}

// file makes the objects of one sealed file: a manifest in either form, or any
// objects of Kubernetes that plain sops sealed.
func (s *site) file(path string, fallback manifest.Workspace, target Target) ([]*Object, error) {
	rel, err := s.tree.find(s.root, path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", short(path), err)
	}
	data, err := s.tree.read(rel)
	if err != nil {
		return nil, err
	}
	m, err := manifest.Parse(rel, data)
	if place, ours, misplaced := s.locate(rel); ours {
		if err := cmp.Or(err, misplaced); err != nil {
			return nil, err
		}
		if err := s.permit(place.Scope, false); err != nil {
			return nil, err
		}
		o, err := s.openAt(m, place)
		if err != nil {
			return nil, err
		}
		return s.whole(o, target)
	}
	switch {
	case err == nil && (m.Form == manifest.DataOS || m.Secret.Binding != ""):
		// It says itself whose it is, and proves it.
		if err := sealedSecret(m); err != nil {
			return nil, err
		}
		if m.Workspace.IsZero() {
			if err := m.SettleIn(s.workspaceOf(rel, fallback)); err != nil {
				return nil, err
			}
		}
		if err := s.permit(m.Workspace, m.Form == manifest.Kubernetes); err != nil {
			return nil, err
		}
		o, err := s.open(m)
		if err != nil {
			return nil, err
		}
		return s.whole(o, target)
	case err != nil && !isKubernetes(data):
		return nil, err
	}
	return s.objects(rel, data, fallback, target)
}

func (s *site) whole(o *unseal.Opened, target Target) ([]*Object, error) {
	return one(s.finish(objectOf(&unseal.Whole{Manifest: o.Manifest, Files: []*unseal.Opened{o}, Values: o.Values, Bound: o.Bound}), target))
}

// objects opens what plain sops sealed.
func (s *site) objects(rel string, data []byte, fallback manifest.Workspace, target Target) ([]*Object, error) {
	docs, err := openForeign(s, rel, data, s.workspaceOfObject(rel, data, fallback), unseal.OpenObjects, placeholderObjects)
	if err != nil {
		return nil, err
	}
	var out []*Object
	for _, doc := range docs {
		o, err := readObject(rel, doc)
		if err != nil {
			return nil, err
		}
		if o, err = s.finish(o, target); err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	if len(out) > 1 && (target.Name != "" || len(target.Keys) > 0) {
		return nil, fmt.Errorf("%s: holds %d objects; name and keys are for a file with one", rel, len(out))
	}
	return out, nil
}

// openForeign opens a file that has no binding, with the ring of a workspace.
func openForeign[T any](s *site, rel string, data []byte, ws manifest.Workspace, open func(string, []byte, *keyring.Ring) (T, error), placeholder func(string, []byte) (T, error)) (opened T, err error) {
	_, ours, _ := s.locate(rel)
	if err := s.permit(ws, !ours); err != nil {
		if plain := looksSealed(rel, data); plain != nil {
			return opened, plain // which workspace's it would be matters no more
		}
		return opened, statesNone(ws, err)
	}
	if s.u.Placeholders {
		return placeholder(rel, data)
	}
	if !s.allowUnbound() {
		if err := looksSealed(rel, data); err != nil {
			return opened, err
		}
		why := "; accept such files with --allow-unbound (SEALWARD_ALLOW_UNBOUND=true), or seal it with sealward seal --in-place --rebind"
		if s.requiresBinding() {
			why = ", and sealward.yaml requires one; seal it with sealward seal --in-place --rebind"
		}
		return opened, fmt.Errorf("%s: %w, and nothing proves where its values belong%s", rel, seal.ErrUnbound, why)
	}
	ring, err := s.u.Ring(ws)
	if err != nil {
		return opened, statesNone(ws, fmt.Errorf("%s: %w", rel, err))
	}
	if opened, err = open(rel, data, ring); err == nil {
		s.warnUnbound(rel)
	}
	return opened, err
}

// statesNone says where the workspace public comes from, which nobody may have written.
func statesNone(ws manifest.Workspace, err error) error {
	if ws != manifest.Public() {
		return err
	}
	return fmt.Errorf("%w; public is for files that state no workspace: -w, or roots: in %s, names another", err, workspace.SettingsFile)
}

// looksSealed fails for a file that sops did not seal, in any of its ways.
func looksSealed(rel string, data []byte) error {
	_, err := seal.LoadBinary(rel, data)
	if seal.IsDocument(rel) {
		_, err = seal.LoadDocument(rel, data)
	}
	if _, asEnv := seal.LoadDotenv(rel, data); asEnv == nil {
		return nil
	}
	return err
}

// source makes one Secret of sealed files that are no manifests.
func (s *site) source(e SourceEntry, fallback manifest.Workspace) (*Object, error) {
	o := &Object{APIVersion: "v1", Kind: "Secret", Type: manifest.TypeOpaque, Data: map[string][]byte{}}
	add := func(line int, key string, value []byte) error {
		if _, twice := o.Data[key]; twice {
			return fmt.Errorf("line %d: %s would stand twice in Secret %s; keep one", line, key, e.Name)
		}
		o.Data[key] = value
		return nil
	}
	for _, list := range []struct {
		files       []SourceFile
		open        func(string, []byte, *keyring.Ring) ([]byte, error)
		placeholder func(string, []byte) ([]byte, error)
	}{{e.Files, unseal.OpenText, placeholderText}, {e.BinaryFiles, unseal.OpenBinary, placeholderBinary}} {
		for _, f := range list.files {
			rel, data, err := s.readSource(f)
			if err != nil {
				return nil, err
			}
			value, err := openForeign(s, rel, data, s.workspaceOf(rel, fallback), list.open, list.placeholder)
			if err != nil {
				return nil, err
			}
			if err := add(f.Line, f.Key.String(), value); err != nil {
				return nil, err
			}
			o.From = rel
		}
	}
	for _, f := range e.Envs {
		rel, data, err := s.readSource(f)
		if err != nil {
			return nil, err
		}
		values, err := s.env(rel, data, s.workspaceOf(rel, fallback), e.QuotedEnvs)
		if err != nil {
			return nil, err
		}
		for _, v := range values {
			if err := add(f.Line, v.Key.String(), v.Data); err != nil {
				return nil, err
			}
		}
		o.From = rel
	}
	return s.finish(o, e.Target)
}

func (s *site) env(rel string, data []byte, ws manifest.Workspace, quoted bool) ([]seal.Value, error) {
	if !quoted {
		return openForeign(s, rel, data, ws, unseal.OpenDotenv, placeholderDotenv)
	}
	text, err := openForeign(s, rel, data, ws, unseal.OpenText, placeholderText)
	if err != nil {
		return nil, err
	}
	return quotedEnv(rel, text)
}

func (s *site) readSource(f SourceFile) (rel string, data []byte, err error) {
	if rel, err = s.tree.find(s.root, f.Path); err != nil {
		return "", nil, fmt.Errorf("%s: %w", short(f.Path), err)
	}
	if data, err = s.tree.read(rel); err != nil {
		return "", nil, err
	}
	return rel, data, nil
}

// locate is manifest.Locate for a file of the tree, by the sealed repository around it.
func (s *site) locate(rel string) (place manifest.Place, ours bool, err error) {
	dir := filepath.Dir(filepath.Join(s.tree.dir, filepath.FromSlash(rel)))
	_, folder, err := s.tree.repository(dir)
	if err != nil {
		return manifest.Place{}, false, nil // there is none
	}
	at := rel
	if folder != "." {
		at = strings.TrimPrefix(rel, folder+"/")
	}
	if place, ours, err = manifest.Locate(at); err != nil {
		err = fmt.Errorf("%s: %w", rel, err)
	}
	return place, ours, err
}

// workspaceOf settles the workspace of a file that says nothing of it.
func (s *site) workspaceOf(rel string, fallback manifest.Workspace) manifest.Workspace {
	if s.settings == s.tree {
		if ws, _, ok := s.tree.settings.Roots.Of(rel); ok {
			return ws
		}
	}
	for _, ws := range []manifest.Workspace{fallback, s.u.Workspace} {
		if !ws.IsZero() {
			return ws
		}
	}
	return manifest.Public()
}

// workspaceOfObject settles the workspace of an object of Kubernetes without a
// binding: its root's, else its namespace.
func (s *site) workspaceOfObject(rel string, data []byte, fallback manifest.Workspace) manifest.Workspace {
	if s.settings == s.tree {
		if ws, _, ok := s.tree.settings.Roots.Of(rel); ok {
			return ws
		}
	}
	if ws, err := manifest.ParseWorkspace(headOf(data).Metadata.Namespace); err == nil {
		return ws
	}
	return s.workspaceOf(rel, fallback)
}

// permit holds the kustomization that names a workspace to its line of builds, and the
// build that it is part of too: else whoever may write an overlay could list the folder of
// another as its base, and have what that one may unseal.
func (s *site) permit(ws manifest.Workspace, adopted bool) error {
	if err := s.settings.permit(s.folder, ws, adopted); err != nil {
		return err
	}
	if s.built == "" || s.built == s.folder {
		return nil
	}
	return s.settings.permit(s.built, ws, adopted)
}

func (s *site) requiresBinding() bool {
	return s.settings.settings.BindingRequired() || s.tree.settings.BindingRequired()
}

func (s *site) allowUnbound() bool { return s.u.AllowUnbound && !s.requiresBinding() }

func (s *site) warnUnbound(file string) {
	s.warn("%s has no binding: nothing proves that its values belong to this name and workspace", file)
}

func (s *site) warn(format string, args ...any) {
	if s.u.Warn != nil {
		s.u.Warn(fmt.Sprintf(format, args...))
	}
}
