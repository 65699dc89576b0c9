package serve

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxLimited bounds the memory that callers can make the server keep.
const maxLimited = 16_384

// limiter keeps a token bucket for each key.
type limiter struct {
	perSecond float64
	now       func() time.Time

	mu      sync.Mutex
	buckets map[string]*rate.Limiter
}

func newLimiter(perSecond float64, now func() time.Time) *limiter {
	return &limiter{perSecond: perSecond, now: now, buckets: map[string]*rate.Limiter{}}
}

// limitedAs is what an address is limited by. Of IPv6 it is the network: whoever has one
// address has 2^64 of them (RFC 6177).
func limitedAs(host string) string {
	addr, err := netip.ParseAddr(host)
	if err != nil || addr.Unmap().Is4() {
		return host
	}
	network, _ := addr.WithZone("").Prefix(64)
	return network.String()
}

func (l *limiter) allow(key string) bool {
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.buckets[key]
	if b == nil {
		if len(l.buckets) >= maxLimited {
			l.forget(now)
		}
		b = rate.NewLimiter(rate.Limit(l.perSecond), max(1, int(2*l.perSecond)))
		l.buckets[key] = b
	}
	return b.AllowN(now, 1)
}

// forget drops the buckets that are full again, which limit nobody; if that is
// not enough, all: a flood from very many addresses is not held by buckets.
func (l *limiter) forget(now time.Time) {
	for k, b := range l.buckets {
		if b.TokensAt(now) >= float64(b.Burst()) {
			delete(l.buckets, k)
		}
	}
	if len(l.buckets) >= maxLimited {
		clear(l.buckets)
	}
}

// spent reports that allow would refuse key now.
func (l *limiter) spent(key string) bool {
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.buckets[key]
	return b != nil && b.TokensAt(now) < 1
}
