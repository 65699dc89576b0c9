package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"filippo.io/age"

	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/keyring"
)

// key is the one key of a workspace, in every form that somebody needs it.
type key struct {
	workspace manifest.Workspace
	recipient workspace.Recipient
	file      string // of the identity, in the keyring
	ring      *keyring.Ring
	library   *library
}

func newKey(ws manifest.Workspace, keyringDir string) (*key, error) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, err
	}
	k := &key{workspace: ws, file: filepath.Join(keyringDir, ws.String()+".agekey")}
	if err := os.WriteFile(k.file, []byte(id.String()+"\n"), 0o600); err != nil {
		return nil, err
	}
	if k.recipient, err = workspace.ParseRecipient(id.Recipient().String()); err != nil {
		return nil, err
	}
	if k.ring, err = keyring.ParseRing(ws, []byte(id.String())); err != nil {
		return nil, err
	}
	k.library, err = newLibrary(k.recipient.String(), id.String())
	return k, err
}

// seal is what sealward does from bytes to bytes: parse, seal, print.
func (k *key) seal(plain []byte) ([]byte, error) {
	m, err := manifest.Parse("bench.yaml", plain)
	if err != nil {
		return nil, err
	}
	return seal.Seal(m, workspace.For(k.recipient), seal.Options{Now: time.Now()})
}

// open is what the agent does with the bytes of a file: parse, open, check.
func (k *key) open(sealed []byte) (*unseal.Opened, error) {
	m, err := manifest.Parse("bench.yaml", sealed)
	if err == nil {
		err = m.CheckSealed()
	}
	if err != nil {
		return nil, err
	}
	return unseal.Open(m, k.ring, unseal.Options{})
}

// repository is a generated one: a work tree with sealed manifests, spread over
// workspaces that each have a key of their own.
type repository struct {
	b       *bench
	dir     string // the work tree
	remote  string // the bare repository it is pushed to
	keyring string
	keys    []*key
	files   []file
}

// file is one sealed manifest.
type file struct {
	key  *key
	name string
	path string // in the repository
}

// secretText is a plaintext manifest of 5 values.
func secretText(ws manifest.Workspace, name string) []byte {
	return fmt.Appendf(nil, `name: %s
version: v1
type: secret
workspace: %s
tags: [dataos:type:secret]
description: Database of one service, read only
owner: platform
secret:
    type: key-value-properties
    acl: r
    data:
        host: %s.db.example.com
        port: "5432"
        username: reader
        password: %s
        token: %s
`, name, ws, name, rand.Text(), rand.Text()+rand.Text())
}

const grantText = `name: readers
version: v1alpha
type: grant
workspace: %s
grant:
  policy_use_case_id: read-all-secrets
  subjects: [users:id:bench]
  effect: allow
`

// generate makes a repository of n sealed manifests below dir, with all cores.
func (b *bench) generate(dir string, n, workspaces int) (*repository, error) {
	r := &repository{b: b, dir: filepath.Join(dir, "work"), remote: filepath.Join(dir, "remote.git"), keyring: filepath.Join(dir, "keyring")}
	if err := os.MkdirAll(r.keyring, 0o700); err != nil {
		return nil, err
	}
	repo, _, err := workspace.InitRepository(r.dir)
	if err != nil {
		return nil, err
	}
	for i := range workspaces {
		ws, err := manifest.ParseWorkspace(fmt.Sprintf("team-%02d", i))
		if err != nil {
			return nil, err
		}
		if err := r.addWorkspace(repo, ws); err != nil {
			return nil, err
		}
	}
	for i := range n {
		k, name := r.keys[i%workspaces], fmt.Sprintf("service-%06d-r", i)
		r.files = append(r.files, file{k, name, "workspaces/" + k.workspace.String() + "/secrets/" + name + ".yaml"})
	}
	return r, inParallel(r.files, func(f file) error { return r.change(f) })
}

func (r *repository) addWorkspace(repo *workspace.Repository, ws manifest.Workspace) error {
	k, err := newKey(ws, r.keyring)
	if err != nil {
		return err
	}
	r.keys = append(r.keys, k)
	rules, err := repo.Rules()
	if err != nil {
		return err
	}
	text, err := rules.Add(ws, []workspace.Recipient{k.recipient})
	if err != nil {
		return err
	}
	folder := filepath.Join(r.dir, "workspaces", ws.String())
	return errors.Join(
		os.WriteFile(filepath.Join(r.dir, workspace.RulesFile), text, 0o600),
		os.MkdirAll(filepath.Join(folder, "secrets"), 0o700),
		os.MkdirAll(filepath.Join(folder, "grants"), 0o700),
		os.WriteFile(filepath.Join(folder, "grants", "readers.yaml"), fmt.Appendf(nil, grantText, ws), 0o600))
}

// change gives a manifest new values, in the work tree.
func (r *repository) change(f file) error {
	sealed, err := f.key.seal(secretText(f.key.workspace, f.name))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.dir, f.path), sealed, 0o600)
}

// inParallel does f for each item with as many goroutines as cores, and returns
// the first error.
func inParallel[T any](items []T, f func(T) error) error {
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, runtime.GOMAXPROCS(0))
	for worker := range errs {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(items)); i = next.Add(1) - 1 {
				if errs[worker] = f(items[i]); errs[worker] != nil {
					next.Store(int64(len(items)))
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// publish commits the work tree, one commit a workspace, and pushes it to a new
// bare repository.
func (r *repository) publish() error {
	for _, args := range [][]string{{"init", "-q", "-b", "main"}, {"init", "-q", "--bare", "-b", "main", r.remote}, {"remote", "add", "origin", r.remote}} {
		if err := r.git(args...); err != nil {
			return err
		}
	}
	if err := r.commit(workspace.RulesFile, "README.md", ".gitattributes"); err != nil {
		return err
	}
	for _, k := range r.keys {
		if err := r.commit("workspaces/" + k.workspace.String()); err != nil {
			return err
		}
	}
	return r.git("push", "-q", "-u", "origin", "main")
}

func (r *repository) commit(paths ...string) error {
	if err := r.git(append([]string{"add", "--"}, paths...)...); err != nil {
		return err
	}
	return r.git("commit", "-q", "-m", "Change "+paths[0])
}

// git runs in the work tree.
func (r *repository) git(args ...string) error { return r.b.git(r.dir, args...) }

// git runs the git command, with nobody's configuration and without the
// housekeeping that it would start in the background.
func (b *bench) git(dir string, args ...string) error {
	cmd := exec.CommandContext(b.ctx, "git", append([]string{"-C", dir, "-c", "gc.auto=0", "-c", "maintenance.auto=false"}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + b.dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=" + os.DevNull,
		"GIT_AUTHOR_NAME=bench", "GIT_AUTHOR_EMAIL=bench@example.com", "GIT_COMMITTER_NAME=bench", "GIT_COMMITTER_EMAIL=bench@example.com"}
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(string(said)))
	}
	return nil
}
