package gitops

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sealward/sealward/gitops/source"
	"github.com/sealward/sealward/unseal"
)

// maxPacks bounds what the mirror may pile up: each fetch adds a pack, which is a
// descriptor and an index in memory.
const maxPacks = 64

// healAgain bounds how often the mirror is cloned anew while syncs succeed: for a
// manifest that cannot be read, because a pusher can make one that nobody ever can,
// and for packs, because a clone that fails would be tried at each look.
const healAgain = time.Hour

// errUnreadable: the sync succeeded, but for manifests that the mirror cannot give.
var errUnreadable = fmt.Errorf("a manifest cannot be read: %w", source.ErrDamaged)

// unreadable reports that a manifest could not be read.
func (a *Agent) unreadable() bool {
	s := a.Live.Current(a.Name)
	if s == nil {
		return false
	}
	return slices.ContainsFunc(s.Failing(), func(r *unseal.Record) bool { return r.Failure.Class == unseal.FailRead })
}

// heal clones the branch anew beside the mirror and puts that in its place, when
// objects are missing or damaged, or packs have piled up. It reports whether it did.
// Until then, and when the remote is away, the old mirror stays.
func (a *Agent) heal(ctx context.Context, why error) bool {
	damaged := classify(why) == unseal.SyncMirror || why != nil && a.Mirror.Gone()
	if a.Remirror == nil || !damaged && (why != nil || a.Mirror.Packs() <= maxPacks) {
		return false
	}
	working := why == nil || why == errUnreadable
	if working && !a.healed.IsZero() && a.Now().Sub(a.healed) < healAgain {
		return false
	}
	a.healed = a.Now()
	if err := a.Remirror(ctx, a); err != nil {
		if ctx.Err() == nil {
			a.Log.Warn("the mirror was not cloned anew", "error", oneLine(err))
		}
		return false
	}
	if damaged {
		a.Log.Error("the mirror was damaged; it was cloned anew", "error", oneLine(why))
	} else {
		a.Log.Info("the mirror was cloned anew, because its packs had piled up", "packs", a.Mirror.Packs())
	}
	return true
}

// known is the commit that the branch must not lose: the applied one, or what store
// and mirror say was applied.
func (a *Agent) known() source.Hash {
	if !a.applied.IsZero() {
		return a.applied
	}
	if h, known, err := a.Mirror.Applied(); err == nil && known {
		return h
	}
	return a.restoring
}

// contains reports whether head is old or descends from it. While nothing is applied
// old may come from the store alone: a mirror that was cloned whole since then, and
// does not have it, has a branch without it.
func (a *Agent) contains(ctx context.Context, old, head source.Hash) (bool, error) {
	if a.orphaned {
		return false, nil
	}
	if a.applied.IsZero() && old == a.restoring {
		_, known, err := a.Mirror.Applied()
		if err != nil {
			return false, err
		}
		if _, err := a.Mirror.Commit(old); !known && errors.Is(err, source.ErrNotFound) {
			return false, nil
		}
	}
	return a.Mirror.IsAncestor(ctx, old, head)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (f *followed) mirrorPath() string { return filepath.Join(f.dir, "mirror") }

// openMirror opens the mirror. One that a crash left between two renames is put in
// its place; one whose index is damaged is moved aside and cloned again.
func (f *followed) openMirror() (*source.Mirror, error) {
	path := f.mirrorPath()
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := ignoreMissing(os.Rename(path+".new", path)); err != nil {
			return nil, err
		}
	}
	// What a crash in the middle of a clone left: all of it came from the remote. Where
	// it cannot be removed, the next clone fails and says why.
	_, _ = os.RemoveAll(path+".new"), os.RemoveAll(path+".old")
	m, err := source.Open(path, f.Config())
	if !errors.Is(err, source.ErrDamaged) {
		return m, err
	}
	to := fmt.Sprintf("%s.aside-%s", path, f.now().UTC().Format("20060102T150405.000000000Z"))
	if renameErr := os.Rename(path, to); renameErr != nil {
		return nil, fmt.Errorf("%w; and it cannot be moved aside: %w", err, renameErr)
	}
	f.log.Error("the mirror cannot be used; it was moved aside and is cloned again. Nothing is served until then: who may read stands in it", "error", oneLine(err), "movedTo", to)
	return source.Open(path, f.Config())
}

// remirror clones into a neighbour and swaps it in. The applied commit has to be in
// the new history: after a rewind only the old mirror has it, so that stays until
// the head may be followed.
func (f *followed) remirror(ctx context.Context, a *Agent) error {
	path := f.mirrorPath()
	if err := os.RemoveAll(path + ".new"); err != nil {
		return err
	}
	fresh, err := source.Open(path+".new", f.Config())
	if err != nil {
		return err
	}
	head, err := fresh.Fetch(ctx)
	orphaned := false
	if known := a.known(); err == nil && !known.IsZero() {
		if err = fresh.SetApplied(known); errors.Is(err, source.ErrNotFound) {
			orphaned = true
			if err = a.checkSignature(fresh, head); err == nil {
				err = a.checkRewind(known, head)
			}
		}
	}
	if err = errors.Join(err, fresh.Close()); err != nil {
		return errors.Join(err, os.RemoveAll(path+".new"))
	}
	a.swapping.Lock() // Contains reads the mirror from other goroutines
	defer a.swapping.Unlock()
	if err := errors.Join(os.RemoveAll(path+".old"), ignoreMissing(os.Rename(path, path+".old"))); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return errors.Join(err, os.Rename(path+".old", path))
	}
	next, err := source.Open(path, f.Config())
	if err != nil {
		return errors.Join(err, os.Rename(path, path+".new"), os.Rename(path+".old", path))
	}
	_ = f.mirror.Close()
	f.mirror, a.Mirror = next, next
	a.orphaned = orphaned && !a.applied.IsZero()
	// All that it held came from the remote, and is in the new one.
	return os.RemoveAll(path + ".old")
}
