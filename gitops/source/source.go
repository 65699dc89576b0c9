// Package source keeps a bare mirror of one branch of a Git remote on disk and
// answers cheap questions about its commits: where the branch is, which files
// a commit holds, what changed between two commits, who changed a file last.
//
// Most callers need [Open], then [Mirror.Look] and, when that differs from
// what they have, [Mirror.Fetch], [Mirror.Diff], [Mirror.ReadBlob] and
// [Mirror.SetApplied]. [InitWorkTree] is apart from that: it makes the Git
// repository in which people write.
//
// It knows nothing of secrets, manifests or keys: what it stores is what the
// remote stores, ciphertext. It does not decide which commit may be followed
// ([Mirror.Verify] says who signed one), never polls and never retries; its
// caller does. It keeps out of the environment: no credential helper, no
// ~/.ssh, no agent socket, no .netrc (only the proxy variables that net/http
// reads).
package source

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
)

const (
	defaultTimeout   = 60 * time.Second
	defaultMaxObject = 256 << 20
	defaultMaxPack   = 2 << 30

	// maxEntries bounds what one question may visit: a tree object of a few
	// hundred bytes can name itself into billions of paths.
	maxEntries = 1_000_000
)

// Hash names a Git object (SHA-1; go-git v5 reads no other).
type Hash = plumbing.Hash

// Config says which branch to mirror and how to reach it.
type Config struct {
	// URL is https://, http://, ssh://, user@host:path, file:// or an
	// absolute path.
	URL    string
	Branch string
	Auth   Auth

	// Proxy, for https and http only, is http://, https:// or socks5://, a host
	// and a port, without a credential (see Auth.ProxyCredentialFile). Without
	// it the environment's HTTPS_PROXY and NO_PROXY count.
	Proxy string

	// Timeout bounds a look, and the silence during a fetch: a large clone
	// may take longer as long as bytes keep coming. Default 60s.
	Timeout time.Duration

	// MaxObject and MaxPack bound one inflated object and one transfer
	// (defaults 256 MiB and 2 GiB): go-git inflates whole objects in memory,
	// and a few kilobytes of pack can declare gigabytes.
	MaxObject int64
	MaxPack   int64
}

// Mirror is safe for use by several goroutines. Two processes must not share
// one folder.
type Mirror struct {
	dir    string
	cfg    Config
	remote remote
	proxy  *url.URL // nil: as the environment says
	store  *objects

	fetching sync.Mutex // one transfer at a time

	httpMu  sync.Mutex        // guards the two below
	httpFor [sha256.Size]byte // of the CA and the proxy's credential that http was made with
	http    *http.Transport

	maxEntries int
}

// marker is the file that makes a folder a mirror of ours. It is written
// first, so that a half-made mirror is known as ours and finished later.
const marker = "sealward-mirror.json"

type markerContent struct {
	URL    string `json:"url"`
	Branch string `json:"branch"`
}

// Open opens the mirror in dir, or makes an empty one where dir is missing or
// empty. It does not touch the network, and an existing mirror is opened
// without writing, so that it can be read from a full or read-only disk.
func Open(dir string, cfg Config) (*Mirror, error) {
	r, err := parseURL(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	if err := plumbing.NewBranchReferenceName(cfg.Branch).Validate(); err != nil {
		return nil, fmt.Errorf("source %s: %q is not a branch name; give it as in main, without refs/heads/", r.shown, cfg.Branch)
	}
	if err := checkAuth(r, cfg.Auth); err != nil {
		return nil, fmt.Errorf("source %s: %w", r.shown, err)
	}
	proxy, err := parseProxy(r, cfg)
	if err != nil {
		return nil, fmt.Errorf("source %s: %w", r.shown, err)
	}
	for _, v := range []struct {
		field string
		n     int64
	}{{"timeout", int64(cfg.Timeout)}, {"maxObject", cfg.MaxObject}, {"maxPack", cfg.MaxPack}} {
		if v.n < 0 {
			return nil, fmt.Errorf("source %s: %s is negative; leave it out for the default", r.shown, v.field)
		}
	}
	cfg.Timeout = orDefault(cfg.Timeout, defaultTimeout)
	cfg.MaxObject = orDefault(cfg.MaxObject, defaultMaxObject)
	cfg.MaxPack = orDefault(cfg.MaxPack, defaultMaxPack)

	if err := prepare(dir, markerContent{URL: r.shown, Branch: cfg.Branch}); err != nil {
		return nil, fmt.Errorf("mirror %s: %w", dir, err)
	}
	store, err := openObjects(filepath.Join(dir, "objects", "pack"))
	if err != nil {
		return nil, fmt.Errorf("mirror %s: %w", dir, err)
	}
	return &Mirror{dir: dir, cfg: cfg, remote: r, proxy: proxy, store: store, maxEntries: maxEntries}, nil
}

func orDefault[T int64 | time.Duration](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}

// prepare makes dir a mirror of want, or checks that it is one.
func prepare(dir string, want markerContent) error {
	names, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	path := filepath.Join(dir, marker)
	switch text, err := os.ReadFile(path); {
	case err == nil:
		var got markerContent
		if err := json.Unmarshal(text, &got); err != nil {
			return fmt.Errorf("%s is not readable (%v); move the folder away, it will be cloned again", marker, err)
		}
		if got != want {
			return fmt.Errorf("it mirrors %s, branch %s, and not %s, branch %s: give each source its own folder, or move this one away",
				got.URL, got.Branch, want.URL, want.Branch)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	case slices.ContainsFunc(names, func(e fs.DirEntry) bool { return !strings.HasPrefix(e.Name(), tmpPrefix) }):
		return fmt.Errorf("it is not empty and no mirror of sealward (it has no %s): choose another folder", marker)
	default:
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		text, err := json.Marshal(want)
		if err != nil {
			return err
		}
		if err := writeFile(path, append(text, '\n')); err != nil {
			return err
		}
	}
	return layout(dir, want.Branch)
}

// layout is what the git command wants to see, so that an operator can run it
// inside the mirror (git log refs/sealward/applied, git fsck).
func layout(dir, branch string) error {
	for _, sub := range []string{"objects/pack", "objects/info", "refs/heads", "refs/sealward"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{
		"config": "[core]\n\trepositoryformatversion = 0\n\tbare = true\n",
		"HEAD":   "ref: refs/heads/" + branch + "\n",
	} {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			continue
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := writeFile(path, []byte(text)); err != nil {
			return err
		}
	}
	return nil
}

// Close frees descriptors and connections. No other method may run during or
// after it.
func (m *Mirror) Close() error {
	m.httpMu.Lock()
	defer m.httpMu.Unlock()
	if m.http != nil {
		m.http.CloseIdleConnections()
	}
	return m.store.close()
}

// Packs is the number of pack files, each an open descriptor and an index in
// memory: every fetch adds one, and nothing here merges them. A caller that
// sees it grow large mirrors anew into another folder.
func (m *Mirror) Packs() int { return len(m.store.list()) }

// Gone reports that somebody removed the mirror's folder.
func (m *Mirror) Gone() bool {
	_, err := os.Stat(filepath.Join(m.dir, marker))
	return errors.Is(err, fs.ErrNotExist)
}

const (
	refStaging = "refs/sealward/staging"
	refApplied = "refs/sealward/applied"
)

// Staged returns the commit that the last Fetch staged.
func (m *Mirror) Staged() (Hash, bool, error) { return m.ref(refStaging) }

// Applied returns the commit that the caller last declared applied.
func (m *Mirror) Applied() (Hash, bool, error) { return m.ref(refApplied) }

// SetApplied declares h applied and keeps it reachable, whatever the remote
// does to its branch. After a crash at any moment Applied returns the old or
// the new commit.
func (m *Mirror) SetApplied(h Hash) error {
	if _, err := m.commit(h); err != nil {
		return fmt.Errorf("mirror %s: set applied: %w", m.dir, err)
	}
	return m.setRef(refApplied, h)
}

// setRef replaces the ref by a rename. go-git truncates the ref file and then
// writes it, so that a crash in between leaves an empty one.
func (m *Mirror) setRef(name string, h Hash) error {
	if err := writeFile(filepath.Join(m.dir, name), []byte(h.String()+"\n")); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDisk, name, err)
	}
	return nil
}

// ref reads a loose ref, then packed-refs, where an operator's git gc may have
// put it. go-git takes any failure to read the loose file for its absence;
// here that would look like a first start, so it is an error.
func (m *Mirror) ref(name string) (Hash, bool, error) {
	text, err := os.ReadFile(filepath.Join(m.dir, name))
	if err == nil {
		return m.parseRef(name, strings.TrimSuffix(string(text), "\n"))
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return Hash{}, false, fmt.Errorf("mirror %s: %w", m.dir, err)
	}
	packed, err := os.ReadFile(filepath.Join(m.dir, "packed-refs"))
	if errors.Is(err, fs.ErrNotExist) {
		return Hash{}, false, nil
	} else if err != nil {
		return Hash{}, false, fmt.Errorf("mirror %s: %w", m.dir, err)
	}
	for line := range strings.Lines(string(packed)) {
		if hash, ok := strings.CutSuffix(strings.TrimSuffix(line, "\n"), " "+name); ok {
			return m.parseRef(name, hash)
		}
	}
	return Hash{}, false, nil
}

func (m *Mirror) parseRef(name, text string) (Hash, bool, error) {
	if !plumbing.IsHash(text) {
		return Hash{}, false, fmt.Errorf("mirror %s: %s holds no commit: %w", m.dir, name, ErrDamaged)
	}
	return plumbing.NewHash(text), true, nil
}

// writeFile leaves the old file or the new one, also after a power failure.
func writeFile(path string, text []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), tmpPrefix)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(text); err != nil {
		return err
	}
	return publish(f, path)
}

// publish syncs and closes f, gives it its name and syncs the folder.
func publish(f *os.File, path string) error {
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
