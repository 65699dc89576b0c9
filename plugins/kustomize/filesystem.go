package kustomize

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/api/konfig"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// buildFS is the disk as kustomize sees it during one build: kustomization files
// that use what this package unseals are rewritten as they are read, to name virtual
// files that only this file system answers for. They are nowhere on the disk, each
// can be read once, and nobody can name one beforehand: they have a random name.
//
// kustomize uses it from one goroutine.
type buildFS struct {
	filesys.FileSystem // the disk

	ctx  context.Context
	u    *Unsealer
	opts BuildOptions
	dir  string // that is built, links resolved

	token   string
	count   int               // of virtual files
	virtual map[string][]byte // content by absolute path
	stands  map[string]source // what a virtual name stands for
	named   map[string]string // file of a kustomization that is a link: the folder it is read for

	made   []made
	remote []string // addresses among resources
	runs   []string // what a stock kustomize would run beside sealward
	// ordered: the output keeps the order in which objects were made.
	ordered bool
	// err is why the build has to fail. kustomize takes a kustomization that cannot be
	// read for one that is not there.
	err error
}

// source is what a virtual file or a marker stands for.
type source struct {
	shown string // for people
	// origin is the path that kustomize would write into origin annotations, relative to
	// the folder of the kustomization.
	origin string
	// generator of whose documents the objects are; nil for a sealed resource.
	generator *document
}

// made is an object and who made it, to tell which two made one name.
type made struct {
	kind, name string
	by         string
}

func newBuildFS(ctx context.Context, dir string, u *Unsealer, opts BuildOptions) *buildFS {
	return &buildFS{
		FileSystem: filesys.MakeFsOnDisk(), ctx: ctx, u: u, opts: opts, dir: dir,
		token:   ".sealward-" + rand.Text(),
		virtual: map[string][]byte{}, stands: map[string]source{}, named: map[string]string{},
	}
}

// add makes a virtual file in the folder root and returns its name.
func (f *buildFS) add(root string, content []byte, s source) string {
	name := f.name(s)
	f.virtual[filepath.Join(root, name)] = content
	return name
}

// name makes a name that nobody knew before.
func (f *buildFS) name(s source) string {
	f.count++
	name := fmt.Sprintf("%s-%d.yaml", f.token, f.count)
	f.stands[name] = s
	return name
}

// CleanedAbs answers for virtual files too, and notes the links through which a
// kustomization is read.
func (f *buildFS) CleanedAbs(path string) (filesys.ConfirmedDir, string, error) {
	if _, ok := f.virtual[path]; ok {
		return filesys.ConfirmedDir(filepath.Dir(path)), filepath.Base(path), nil
	}
	d, name, err := f.FileSystem.CleanedAbs(path)
	if err == nil && isKustomization(path) && d.Join(name) != path {
		f.named[d.Join(name)] = filepath.Dir(path)
	}
	return d, name, err
}

// Exists answers for virtual files too.
func (f *buildFS) Exists(path string) bool {
	_, ok := f.virtual[path]
	return ok || f.FileSystem.Exists(path)
}

// ReadFile reads a virtual file, which is gone thereafter, or a file of the disk;
// kustomizations come rewritten.
func (f *buildFS) ReadFile(path string) ([]byte, error) {
	if content, ok := f.virtual[path]; ok {
		delete(f.virtual, path)
		return content, nil
	}
	if f.err == nil {
		f.err = f.ctx.Err()
	}
	if f.err != nil {
		return nil, f.err
	}
	root, linked := f.named[path]
	if !linked {
		root = filepath.Dir(path)
	}
	data, err := f.FileSystem.ReadFile(path)
	if err != nil || !linked && !isKustomization(path) || !asKustomization() {
		return data, err
	}
	data, f.err = f.rewrite(root, path, data)
	return data, f.err
}

// asKustomization reports that kustomize is about to use what it reads as a kustomization.
// Where the same file is the content of a ConfigMap or a patch, it has to be what stands on
// the disk: virtual names in there would be another way to their files. Only the caller
// tells the two apart.
func asKustomization() bool {
	frames := make([]uintptr, 8)
	for next := runtime.CallersFrames(frames[:runtime.Callers(2, frames)]); ; {
		frame, more := next.Next()
		if strings.HasSuffix(frame.Function, "/internal/target.LoadKustFile") {
			return true
		}
		if !more {
			return false
		}
	}
}

func isKustomization(path string) bool {
	return slices.Contains(konfig.RecognizedKustomizationFileNames(), filepath.Base(path))
}

// load reads a file for the kustomization in the folder root, where kustomize would
// do so too: ok is false for a folder and for what kustomize will refuse.
func (f *buildFS) load(root, path string) (abs string, data []byte, ok bool) {
	if isRemote(path) {
		return "", nil, false
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(root, path)
	}
	d, name, err := f.FileSystem.CleanedAbs(path)
	if err != nil || name == "" || !f.opts.AnyFolder && !d.HasPrefix(filesys.ConfirmedDir(root)) {
		return "", nil, false
	}
	data, err = f.FileSystem.ReadFile(d.Join(name))
	return path, data, err == nil
}

// folder resolves a folder that a kustomization in the folder root names.
func (f *buildFS) folder(root, path string) (abs string, ok bool) {
	if isRemote(path) || filepath.IsAbs(path) {
		return "", false
	}
	d, name, err := f.FileSystem.CleanedAbs(filepath.Join(root, path))
	return d.String(), err == nil && name == ""
}

// isRemote tells addresses that kustomize fetches with HTTP.
func isRemote(path string) bool {
	lower := strings.ToLower(path)
	return strings.HasPrefix(lower, "http://") || strings.HasPrefix(lower, "https://")
}

// shown is a file as errors name it: relative to the current folder if it is below.
func shown(file string) string {
	if here, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(here, file); err == nil && filepath.IsLocal(rel) {
			return filepath.ToSlash(rel)
		}
	}
	return file
}
