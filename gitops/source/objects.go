package source

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/format/idxfile"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
)

const (
	tmpPrefix = "tmp_" // git's own for unfinished files in objects/pack

	// cacheSize is for trees and commits; go-git's default of 96 MiB is more than an
	// agent may use altogether.
	cacheSize = 16 * cache.MiByte
	// blobCacheSize is for delta bases. A blob is read once, and the first sync of a
	// large repository must not push the trees out.
	blobCacheSize = 2 * cache.MiByte
)

// objects reads the packs of one folder, from any number of goroutines.
//
// go-git's filesystem storage is not used for that. It must not be shared (its
// maps have no lock, and a pack has one scanner that seeks), one per goroutine
// would decode every index again, it looks for a loose object before each pack
// read, and it believes what it reads. Here packs share one index and one
// descriptor, each goroutine borrows a reader, and an object whose content has
// another name than it was asked for by is damage.
type objects struct {
	dir   string
	cache hashedCache

	mu    sync.RWMutex
	packs []*pack // newest first; the slice is replaced, never changed
}

type pack struct {
	sum     Hash
	file    *os.File
	index   *idxfile.MemoryIndex // has its own lock
	readers sync.Pool            // of *packfile.Packfile
}

func openObjects(dir string) (_ *objects, err error) {
	s := &objects{dir: dir, cache: hashedCache{cache.NewObjectLRU(cacheSize), cache.NewObjectLRU(blobCacheSize)}}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	s.sweep()
	files, err := filepath.Glob(filepath.Join(dir, "pack-*.idx"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		index, err := readIndex(file)
		if err != nil {
			return nil, fmt.Errorf("%s: %w: %w", filepath.Base(file), ErrDamaged, err)
		}
		if err := s.add(index); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
	}
	return s, nil
}

// sweep removes what a crash left behind: unfinished files, and a pack without
// its index or the other way round. It may fail, as on a read-only disk.
func (s *objects) sweep() {
	files, _ := os.ReadDir(s.dir)
	for _, f := range files {
		name := f.Name()
		path := filepath.Join(s.dir, name)
		other := ""
		if base, ok := strings.CutSuffix(path, ".pack"); ok {
			other = base + ".idx"
		} else if base, ok := strings.CutSuffix(path, ".idx"); ok {
			other = base + ".pack"
		}
		_, err := os.Stat(other)
		if strings.HasPrefix(name, tmpPrefix) || other != "" && errors.Is(err, fs.ErrNotExist) {
			os.Remove(path)
		}
	}
}

func readIndex(path string) (*idxfile.MemoryIndex, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	index := idxfile.NewMemoryIndex()
	return index, idxfile.NewDecoder(f).Decode(index)
}

func (s *objects) add(index *idxfile.MemoryIndex) error {
	p := &pack{sum: index.PackfileChecksum, index: index}
	f, err := os.Open(s.path(p.sum, "pack"))
	if err != nil {
		return err
	}
	p.file = f
	p.readers.New = func() any {
		section := io.NewSectionReader(f, 0, 1<<62)
		// Without a file system go-git gives whole objects in memory; with one
		// it gives handles that open the pack once more at each read.
		return packfile.NewPackfileWithCache(index, nil, packReader{section, f.Name()}, s.cache, 0)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.packs = append([]*pack{p}, s.packs...)
	return nil
}

func (s *objects) path(sum Hash, ext string) string {
	return filepath.Join(s.dir, "pack-"+sum.String()+"."+ext)
}

func (s *objects) list() []*pack {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.packs
}

func (s *objects) close() error {
	var errs []error
	for _, p := range s.list() {
		errs = append(errs, p.file.Close())
	}
	return errors.Join(errs...)
}

func (s *objects) find(h Hash) (*pack, int64) {
	for _, p := range s.list() {
		if offset, err := p.index.FindOffset(h); err == nil {
			return p, offset
		}
	}
	return nil, 0
}

func (s *objects) has(h Hash) bool {
	p, _ := s.find(h)
	return p != nil
}

// kindError: there is such an object, of another kind.
type kindError struct {
	hash      Hash
	got, want plumbing.ObjectType
}

func (e *kindError) Error() string {
	return fmt.Sprintf("object %s is a %s, not a %s", e.hash, e.got, e.want)
}

// object reads one object, whose size is looked at first. What it returns may
// be shared: it is only to be read.
func (s *objects) object(h Hash, kind plumbing.ObjectType, limit int64) (plumbing.EncodedObject, error) {
	obj, cached := s.cache.Get(h)
	if !cached {
		p, offset := s.find(h)
		if p == nil {
			return nil, fmt.Errorf("%s %s: %w", kind, h, ErrNotFound)
		}
		r := p.readers.Get().(*packfile.Packfile)
		defer p.readers.Put(r)
		size, err := r.GetSizeByOffset(offset)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w: %w", kind, h, ErrDamaged, err)
		}
		if size > limit {
			return nil, tooLarge(h, kind, size, limit)
		}
		if obj, err = r.GetByOffset(offset); err != nil {
			return nil, fmt.Errorf("%s %s: %w: %w", kind, h, ErrDamaged, err)
		}
	}
	switch {
	case obj.Hash() != h:
		return nil, fmt.Errorf("%s %s: %w: its content does not match its name", kind, h, ErrDamaged)
	case obj.Type() != kind:
		return nil, &kindError{h, obj.Type(), kind}
	case obj.Size() > limit:
		return nil, tooLarge(h, kind, obj.Size(), limit)
	}
	return obj, nil
}

func tooLarge(h Hash, kind plumbing.ObjectType, size, limit int64) error {
	return fmt.Errorf("%s %s has %d bytes, the limit is %d: %w", kind, h, size, limit, ErrTooLarge)
}

// read is object, with the content copied out.
func (s *objects) read(h Hash, kind plumbing.ObjectType, limit int64) ([]byte, error) {
	obj, err := s.object(h, kind, limit)
	if err != nil {
		return nil, err
	}
	r, err := obj.Reader()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	content := make([]byte, obj.Size())
	_, err = io.ReadFull(r, content)
	return content, err
}

// ReadBlob returns the content of a file, for the caller to keep. One of more
// than limit bytes is ErrTooLarge, told from its header.
func (m *Mirror) ReadBlob(h Hash, limit int64) ([]byte, error) {
	return m.store.read(h, plumbing.BlobObject, limit)
}

// hashedCache computes an object's name before a cache takes its lock: the
// object remembers it, and go-git's cache would compute it while all wait.
type hashedCache struct{ trees, blobs *cache.ObjectLRU }

func (c hashedCache) Put(obj plumbing.EncodedObject) {
	obj.Hash()
	if obj.Type() == plumbing.BlobObject {
		c.blobs.Put(obj)
	} else {
		c.trees.Put(obj)
	}
}

func (c hashedCache) Get(h Hash) (plumbing.EncodedObject, bool) {
	if obj, ok := c.trees.Get(h); ok {
		return obj, true
	}
	return c.blobs.Get(h)
}

func (c hashedCache) Clear() {
	c.trees.Clear()
	c.blobs.Clear()
}

// packReader is one goroutine's position in a shared pack file.
type packReader struct {
	*io.SectionReader
	name string
}

func (r packReader) Name() string            { return r.name }
func (packReader) Close() error              { return nil } // the pack owns the descriptor
func (packReader) Write([]byte) (int, error) { return 0, fs.ErrPermission }
func (packReader) Truncate(int64) error      { return fs.ErrPermission }
func (packReader) Lock() error               { return nil }
func (packReader) Unlock() error             { return nil }
