package serve

import (
	"encoding/binary"
	"testing"
	"time"
)

// However many credentials there are, few are remembered, and each as what it is.
func TestVerifiedIsBounded(t *testing.T) {
	var v verified
	now := time.Unix(1_700_000_000, 0)
	key := func(i int) (k credentialHash) {
		binary.BigEndian.PutUint64(k[:], uint64(i))
		return k
	}
	put := func(i int, lasts time.Duration) {
		v.put(key(i), vouched{caller: Caller{Credential: string(rune(i))}, begins: now, until: now.Add(lasts)}, now)
	}
	put(0, 24*time.Hour)
	for i := 1; i <= maxVerified; i++ {
		put(i, time.Minute)
		now = now.Add(time.Second)
	}
	// Those go first whose time is over.
	if _, ok := v.get(key(0), now); len(v.known) > 100 || !ok {
		t.Errorf("%d are remembered, the first of them: %v", len(v.known), ok)
	}
	for i := range 3 * maxVerified {
		put(i, time.Hour)
		if e, ok := v.get(key(i), now); !ok || e.caller.Credential != string(rune(i)) || len(v.known) > maxVerified {
			t.Fatalf("%d: %v, %v of %d", i, e, ok, len(v.known))
		}
	}
	if _, ok := v.get(key(3*maxVerified), now); ok {
		t.Error("one that was never put is remembered")
	}
}
