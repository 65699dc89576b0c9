package kustomize

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"sigs.k8s.io/kustomize/api/konfig"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/provenance"
	"sigs.k8s.io/kustomize/api/resmap"
	"sigs.k8s.io/kustomize/api/resource"
	"sigs.k8s.io/kustomize/api/types"
	kyaml "sigs.k8s.io/kustomize/kyaml/yaml"
	"sigs.k8s.io/yaml"
)

// BuildOptions of Build; the zero ones are kustomize's own defaults.
type BuildOptions struct {
	// AnyFolder lets kustomizations read files outside their folder, as kustomize's
	// LoadRestrictionsNone. What is unsealed stays in its tree nevertheless.
	AnyFolder bool
	// Plugins allows functions and plugins that are not of this package: they see the
	// unsealed objects. Exec allows programs of this machine too.
	Plugins, Exec bool
	// Helm allows kustomize to run HelmCommand.
	Helm        bool
	HelmCommand string
}

// Built is what a build made.
type Built struct {
	m resmap.ResMap
	// Unsealed says that there are values in it that were sealed.
	Unsealed bool
	// runs is what a stock kustomize would run beside sealward.
	runs []string
}

// errWithheld ends a build whose reason may hold a value.
var errWithheld = errors.New("kustomize failed after secrets were unsealed, in a way that dummy values do not show; its message is withheld, because it may hold a value. " +
	"Look for what depends on the values themselves: patches and replacements that read them, and functions")

// Build builds the kustomization in dir, as kustomize build would, with its sealed
// secrets unsealed by u, whose field Built it sets. Errors are those of
// [Unsealer.Generate] beneath, or kustomize's; none holds a value that was sealed.
//
// Plaintext stays in memory, except that functions which opts allow get it. kustomize has
// state in its packages, and while Build runs, the log package's standard logger passes
// on only what holds no value: there can be one Build at a time.
func Build(ctx context.Context, dir string, u *Unsealer, opts BuildOptions) (*Built, error) {
	abs, err := filepath.Abs(dir)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	if err != nil && strings.Contains(dir, "://") {
		return nil, fmt.Errorf("%s: is an address; build a folder, which may list it under resources:", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: cannot be built: %w", dir, err)
	}
	if info, err := os.Stat(abs); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("%s: is no folder with a kustomization", dir)
	}
	u.Built = abs
	defer filterLog()()
	f := newBuildFS(ctx, abs, u, opts)
	m, err := f.run()
	switch {
	case err == nil:
		return &Built{m: m, Unsealed: len(f.made) > 0 && !u.Placeholders, runs: slices.Compact(slices.Sorted(slices.Values(f.runs)))}, nil
	case f.err != nil:
		return nil, f.err
	case len(f.made) == 0 || u.Placeholders:
		return nil, f.explain(err)
	}
	// The error may repeat a value. The same build with dummies repeats a dummy.
	dummies := &Unsealer{AllowUnbound: u.AllowUnbound, Placeholders: true, Workspace: u.Workspace, Built: abs}
	f = newBuildFS(ctx, abs, dummies, opts)
	if _, err = f.run(); err == nil {
		return nil, errWithheld
	}
	if f.err != nil {
		return nil, f.err
	}
	return nil, f.explain(err)
}

// run is one build.
func (f *buildFS) run() (m resmap.ResMap, err error) {
	// kustomize panics on some trees. Left to the runtime, a panic prints its text, which
	// may hold a value.
	defer func() {
		if p := recover(); p != nil {
			m, err = nil, fmt.Errorf("kustomize cannot build this tree, it panics: %v", p)
		}
	}()
	o := krusty.MakeDefaultOptions()
	o.Reorder = krusty.ReorderOptionUnspecified // as the command has it
	if f.opts.AnyFolder {
		o.LoadRestrictions = types.LoadRestrictionsNone
	}
	if f.opts.Plugins {
		o.PluginConfig = types.EnabledPluginConfig(types.BploUseStaticallyLinked)
		o.PluginConfig.FnpLoadingOptions.EnableExec = f.opts.Exec
	}
	o.PluginConfig.HelmConfig.Enabled = f.opts.Helm
	o.PluginConfig.HelmConfig.Command = f.opts.HelmCommand
	m, err = krusty.MakeKustomizer(o).Run(f, f.dir)
	if err != nil || f.err != nil {
		return nil, errors.Join(err, f.err)
	}
	for _, res := range m.Resources() {
		if err := f.check(res); err != nil {
			return nil, err
		}
		if err := claimVersion(res); err != nil {
			return nil, err
		}
		if err := f.restoreOrigin(res); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// kustomizeVersion is the release of kustomize whose packages this program has.
const kustomizeVersion = "v5.8.1"

// claimVersion has the label that buildMetadata: [managedByLabel] asks for name that
// release, as the real one does; kustomize's packages name the program around them.
func claimVersion(res *resource.Resource) error {
	labels := res.GetLabels(konfig.ManagedbyLabelKey)
	if labels[konfig.ManagedbyLabelKey] != "kustomize-"+provenance.GetProvenance().Semver() {
		return nil
	}
	if res.PipeE(kyaml.SetLabel(konfig.ManagedbyLabelKey, "kustomize-"+kustomizeVersion)) != nil {
		return errPrint
	}
	return nil
}

// errLeft: the output holds what should have been unsealed.
type errLeft struct{ error }

// check refuses what would look like a Secret and be none.
func (f *buildFS) check(res *resource.Resource) error {
	from := ""
	if len(f.remote) > 0 {
		from = fmt.Sprintf("; it may come from %.200q", f.remote[0])
	}
	const why = "sealward unseals local files that a kustomization lists, one object a file, under resources: or by a generator; not what comes from an address, from a list of objects, or out of a chart, a function or a patch"
	switch {
	case IsGenerator(res.GetApiVersion(), res.GetKind()):
		return errLeft{fmt.Errorf("%s %s is still in the output and made nothing: a generator belongs under generators:%s", res.GetKind(), res.GetName(), from)}
	case res.Field("sops") != nil:
		return errLeft{fmt.Errorf("%s %s is still sealed in the output: %s%s", res.GetKind(), res.GetName(), why, from)}
	}
	return nil
}

// virtualName finds the names that newBuildFS makes.
func (f *buildFS) virtualName() *regexp.Regexp {
	return regexp.MustCompile(regexp.QuoteMeta(f.token) + `-\d+\.yaml`)
}

const originAnnotation = "config.kubernetes.io/origin"

// restoreOrigin lets the annotation with which kustomize tells where an object comes from
// name the generator, as stock kustomize does, not what took its place.
func (f *buildFS) restoreOrigin(res *resource.Resource) error {
	if !strings.Contains(res.GetAnnotations(originAnnotation)[originAnnotation], f.token) {
		return nil
	}
	origin, err := res.GetOrigin()
	if err != nil {
		return err
	}
	place := func(path string) string {
		if s := f.stands[filepath.Base(path)]; s.origin != "" {
			return filepath.Join(filepath.Dir(path), s.origin)
		}
		return path
	}
	s := f.stands[filepath.Base(origin.Path)]
	if by, ok := f.stands[origin.ConfiguredBy.Name]; ok {
		s = by
	}
	origin.Path, origin.ConfiguredIn = place(origin.Path), place(origin.ConfiguredIn)
	if d := s.generator; d != nil {
		if origin.ConfiguredIn == "" {
			origin.Path, origin.ConfiguredIn = "", origin.Path
		}
		origin.ConfiguredBy = kyaml.ResourceIdentifier{
			TypeMeta: kyaml.TypeMeta{APIVersion: d.head.apiVersion, Kind: d.head.kind},
			NameMeta: kyaml.NameMeta{Name: d.head.name, Namespace: d.head.namespace},
		}
	}
	return res.SetOrigin(origin)
}

// explain puts an error of kustomize's into words of files that people know.
func (f *buildFS) explain(err error) error {
	if left := (errLeft{}); errors.As(err, &left) {
		return left
	}
	text := f.virtualName().ReplaceAllStringFunc(err.Error(), func(name string) string {
		return f.stands[name].shown
	})
	first := f.twice(text)
	if len(first) > 0 {
		// What follows tries the virtual file as a folder.
		text, _, _ = strings.Cut(text, ": must build at directory: ")
	}
	var hints []string
	if types.IsErrOnlyBuiltinPluginsAllowed(err) {
		hints = append(hints, "it is a plugin that kustomize would run, or a generator in a list of objects; allow the first with --enable-alpha-plugins (and --enable-exec for a program of this machine)")
	}
	return errors.New(strings.Join(slices.Concat(first, []string{strings.TrimSpace(text)}, hints), "\n"))
}

// takenPattern finds the kind and name in kustomize's errors about two objects with one name.
const takenPattern = `already registered id: (\w+)\.[^/]*/([^\s.]+)\.|Kind:"(\w+)".*?Name:"([^"]+)".*?(?:exists; can not use behavior|does not exist; cannot merge)`

// twice names the generators behind an error about two objects with one name, or about
// one that is not there.
func (f *buildFS) twice(text string) []string {
	found := regexp.MustCompile(takenPattern).FindStringSubmatch(text)
	if found == nil {
		return nil
	}
	kind, name := found[1]+found[3], found[2]+found[4]
	var by []string
	for _, m := range f.made {
		// Prefixes and suffixes may stand around it by now.
		if m.kind == kind && strings.Contains(name, m.name) {
			by = append(by, m.by)
		}
	}
	slices.Sort(by)
	by = slices.Compact(by)
	switch {
	case len(by) == 0:
		return nil
	case strings.Contains(text, "does not exist"):
		return []string{fmt.Sprintf("%s merges or replaces it; what makes the %s %s must come first, from a base or an entry above", strings.Join(by, ", "), kind, name)}
	case len(by) == 1:
		return []string{fmt.Sprintf("%s makes one %s %s; another is there: rename one, or give the second behavior: merge or replace", by[0], kind, name)}
	}
	return []string{fmt.Sprintf("%s all make the %s %s: rename one, or give the second behavior: merge or replace", strings.Join(by, " and "), kind, name)}
}

// filterLog keeps kustomize from logging values: it logs what it cannot replace.
func filterLog() (restore func()) {
	out, flags := log.Writer(), log.Flags()
	log.SetFlags(0)
	log.SetOutput(logFilter{out})
	return func() {
		log.SetOutput(out)
		log.SetFlags(flags)
	}
}

type logFilter struct{ to io.Writer }

func (l logFilter) Write(line []byte) (int, error) {
	text := "warning: kustomize logged a line that may hold a value; it is withheld\n"
	for _, harmless := range []string{"Warning: ", "well-defined vars that were never replaced", "Attempting plugin load"} {
		if bytes.HasPrefix(line, []byte(harmless)) {
			text = string(line)
		}
	}
	_, err := io.WriteString(l.to, text)
	return len(line), err
}

// errPrint ends the printing of an object. It names neither the object nor the reason: a
// patch or a replacement may have made a value its name, and kustomize repeats the object.
var errPrint = errors.New("an object cannot be printed; which and why is withheld, because it may hold a value: --placeholders may show it")

// print prints each object, with all cores: it is a quarter of a build.
func (b *Built) print(one func(*resource.Resource) ([]byte, error)) ([][]byte, error) {
	all := b.m.Resources()
	out := make([][]byte, len(all))
	var next, failed atomic.Int64
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(all)) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(all); i = int(next.Add(1)) - 1 {
				var err error
				if out[i], err = one(all[i]); err != nil {
					failed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if failed.Load() > 0 {
		return nil, errPrint
	}
	return out, nil
}

// YAML is all objects, as kustomize build prints them.
func (b *Built) YAML() ([]byte, error) {
	texts, err := b.print((*resource.Resource).AsYAML)
	if err != nil {
		return nil, err
	}
	return bytes.Join(texts, []byte("---\n")), nil
}

// JSON is all objects as one List.
func (b *Built) JSON() ([]byte, error) {
	texts, err := b.print((*resource.Resource).MarshalJSON)
	if err != nil {
		return nil, err
	}
	items := []json.RawMessage{}
	for _, text := range texts {
		items = append(items, text)
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err = e.Encode(struct {
		APIVersion string            `json:"apiVersion"`
		Kind       string            `json:"kind"`
		Items      []json.RawMessage `json:"items"`
	}{"v1", "List", items})
	return out.Bytes(), err
}

// Files is each object as a file, named as kustomize build -o DIR names it.
func (b *Built) Files() (map[string][]byte, error) {
	out := map[string][]byte{}
	add := func(prefix string, res *resource.Resource) error {
		name := prefix + strings.ToLower(res.GetGvk().StringWoEmptyField()) + "_" + strings.ToLower(res.GetName()) + ".yaml"
		m, err := res.Map()
		if err != nil {
			return errPrint
		}
		text, err := yaml.Marshal(m)
		if err != nil {
			return errPrint
		}
		if _, taken := out[name]; taken {
			return errors.New("two objects would be one file, by their kinds and names; print them instead") // a name may be a value
		}
		out[name] = text
		return nil
	}
	namespaces := b.m.GroupedByCurrentNamespace()
	for namespace, list := range namespaces {
		prefix := ""
		if len(namespaces) > 1 {
			prefix = strings.ToLower(namespace) + "_"
		}
		for _, res := range list {
			if err := add(prefix, res); err != nil {
				return nil, err
			}
		}
	}
	for _, res := range b.m.ClusterScoped() {
		if err := add("", res); err != nil {
			return nil, err
		}
	}
	return out, nil
}
