package gitops

import (
	"errors"
	"io/fs"
	"syscall"

	"github.com/sealward/sealward/gitops/source"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/store"
)

// classify says which class of failure an error of a look or an apply is.
func classify(err error) unseal.SyncClass {
	for _, c := range []struct {
		is    error
		class unseal.SyncClass
	}{
		// A full disk first: it also looks like a fault of what stands on it.
		{source.ErrDisk, unseal.SyncDisk}, {syscall.ENOSPC, unseal.SyncDisk}, {syscall.EDQUOT, unseal.SyncDisk}, {syscall.EROFS, unseal.SyncDisk},
		{ErrRewound, unseal.SyncRewound},
		{source.ErrUnsigned, unseal.SyncSignature}, {source.ErrSignature, unseal.SyncSignature},
		{source.ErrConfig, unseal.SyncConfig},
		{source.ErrUntrusted, unseal.SyncUntrusted},
		{source.ErrAuth, unseal.SyncAuth},
		{source.ErrNoBranch, unseal.SyncBranch}, {source.ErrEmpty, unseal.SyncBranch}, {source.ErrNotRepository, unseal.SyncBranch},
		{source.ErrTooLarge, unseal.SyncLimit}, {source.ErrTooMany, unseal.SyncLimit},
		{source.ErrDamaged, unseal.SyncMirror}, {source.ErrNotFound, unseal.SyncMirror},
		{store.ErrDamaged, unseal.SyncDisk},
		{fs.ErrPermission, unseal.SyncDisk},
		{source.ErrUnreachable, unseal.SyncUnreachable},
	} {
		if errors.Is(err, c.is) {
			return c.class
		}
	}
	if err != nil {
		return unseal.SyncOther
	}
	return unseal.SyncOK
}
