package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/getsops/sops/v3/keyservice"

	"github.com/sealward/sealward/gitops/worktree"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/keyring"
)

// tree is the work tree around the current folder, with the keyring's keys.
func (a *app) tree(allowUnbound bool) (*worktree.Tree, error) {
	repo, err := a.repository()
	if err != nil {
		return nil, err
	}
	return &worktree.Tree{Repo: repo, Ring: a.rings(), Keys: a.keyService, Now: a.Now, AllowUnbound: allowUnbound}, nil
}

// rings reads each ring once, and warns of a private key that others can read.
func (a *app) rings() func(manifest.Workspace) (*keyring.Ring, error) {
	var mu sync.Mutex
	read := map[manifest.Workspace]func() (*keyring.Ring, error){}
	return func(ws manifest.Workspace) (*keyring.Ring, error) {
		mu.Lock()
		defer mu.Unlock()
		if read[ws] == nil {
			read[ws] = sync.OnceValues(func() (*keyring.Ring, error) {
				k, err := a.openKeyring()
				if err != nil {
					return nil, err
				}
				ring, err := k.Ring(ws)
				if err != nil {
					return nil, err
				}
				if info, err := os.Stat(k.Path(ws)); err == nil && keyring.Exposed(info) {
					fmt.Fprintf(a.Err, "warning: other users can read the private key %s; chmod 600 it\n", k.Path(ws))
				}
				return ring, nil
			})
		}
		return read[ws]()
	}
}

// optionalRings is rings for commands that a key only helps: nobody is asked for a
// passphrase, and a protected ring counts as none.
func (a *app) optionalRings() func(manifest.Workspace) (*keyring.Ring, error) {
	a.neverAsk = true
	rings := a.rings()
	var once sync.Once
	return func(ws manifest.Workspace) (*keyring.Ring, error) {
		ring, err := rings(ws)
		var usage usageError
		switch {
		case errors.Is(err, keyring.ErrProtected):
			once.Do(func() {
				fmt.Fprintln(a.Err, "note: a passphrase protects keys of the keyring; what only they open is not opened (--passphrase-file opens it)")
			})
			return nil, keyring.ErrNoRing
		case errors.As(err, &usage) && a.keyring == "" && a.Getenv("SEALWARD_KEYRING") == "":
			return nil, keyring.ErrNoRing // there is no place where one could be
		}
		return ring, err
	}
}

// keyService seals for recipients of a workspace that are services, as far as the
// keyring lists them.
func (a *app) keyService(ws manifest.Workspace) (keyservice.KeyServiceClient, error) {
	k, err := a.openKeyring()
	if err != nil {
		return nil, err
	}
	services, err := k.Services(ws)
	if err != nil {
		return nil, err
	}
	return unseal.KeyService(services), nil
}

// findSecret finds WORKSPACE/NAME in the work tree.
func (a *app) findSecret(arg string, allowUnbound bool) (*worktree.Tree, workspace.Secret, error) {
	t, err := a.tree(allowUnbound)
	if err != nil {
		return nil, workspace.Secret{}, err
	}
	ws, name, _, err := secretArg(arg, false)
	if err != nil {
		return nil, workspace.Secret{}, err
	}
	s, err := t.Repo.FindSecret(ws, name)
	return t, s, err
}

// isSecretArg tells WORKSPACE/NAME from a path, which comes first.
func isSecretArg(arg string) bool {
	if _, err := os.Lstat(arg); err == nil || arg == "-" || strings.Count(arg, "/") != 1 {
		return false
	}
	_, _, _, err := secretArg(arg, false)
	return err == nil
}

// warn tells what is odd about an opened secret.
func (a *app) warn(whole *unseal.Whole) {
	for _, f := range whole.Files {
		if !f.Bound {
			fmt.Fprintf(a.Err, "warning: %s has no binding: nothing proves that its values belong to this name and workspace\n", f.Manifest.File)
		}
		for _, v := range f.Values {
			if v.Retyped != "" {
				fmt.Fprintf(a.Err, "warning: %s: %s was sealed as %s by plain sops, which may have changed how it is written\n", f.Manifest.File, v.Key, v.Retyped)
			}
		}
	}
}
