package serve

import (
	"crypto/sha256"
	"sync"
	"time"
)

// maxVerified bounds the credentials of one kind that are remembered.
const maxVerified = 4096

// credentialHash stands for a credential, so that none is kept.
type credentialHash [sha256.Size]byte

// verified remembers what good credentials were found to say: the same ones come with
// every read. The zero value is empty.
type verified struct {
	mu    sync.Mutex
	known map[credentialHash]vouched
}

// vouched is the caller that a credential is of, from begins until before until.
type vouched struct {
	caller        Caller
	begins, until time.Time
	// by is what vouched for it, such as a pointer to keys. It is for whoever asks to
	// compare: what is trusted may have changed since.
	by any
}

func (v *verified) get(key credentialHash, now time.Time) (vouched, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	e, ok := v.known[key]
	return e, ok && !now.Before(e.begins) && now.Before(e.until)
}

// put remembers a credential. Where there are too many, those go whose time is over,
// and all if that is none.
func (v *verified) put(key credentialHash, e vouched, now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.known) >= maxVerified {
		for k, old := range v.known {
			if !now.Before(old.until) {
				delete(v.known, k)
			}
		}
	}
	if v.known == nil || len(v.known) >= maxVerified {
		v.known = map[credentialHash]vouched{}
	}
	v.known[key] = e
}
