package kubernetes

import (
	"log/slog"
	"net/http"
	"sync"
	"time"
)

const (
	// maxSkew between this machine's clock and the API server's. Grants expire by the clock.
	maxSkew = 5 * time.Second
	// maxRoundTrip of an answer by which the clocks are compared: of a slow one it cannot
	// be told when it was dated.
	maxRoundTrip = time.Second
)

// clock compares this machine's clock with the API server's, by the Date of its answers.
type clock struct {
	now func() time.Time
	log *slog.Logger

	mu     sync.Mutex
	ahead  time.Duration // of the API server's clock, as last compared
	skewed bool
}

// compare has a transport's answers compared.
func (c *clock) compare(next http.RoundTripper) http.RoundTripper { return dated{c, next} }

type dated struct {
	clock *clock
	next  http.RoundTripper
}

func (d dated) RoundTrip(r *http.Request) (*http.Response, error) {
	begun := d.clock.now()
	resp, err := d.next.RoundTrip(r)
	if err == nil {
		d.clock.note(resp.Header.Get("Date"), begun, d.clock.now())
	}
	return resp, err
}

// note takes one answer into account. A Date is of whole seconds.
func (c *clock) note(date string, begun, ended time.Time) {
	at, err := http.ParseTime(date)
	took := ended.Sub(begun)
	if err != nil || took < 0 || took > maxRoundTrip {
		return
	}
	doubt := 500*time.Millisecond + took/2
	ahead := at.Add(500 * time.Millisecond).Sub(begun.Add(took / 2).Round(0))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead = ahead
	switch off := ahead.Abs(); {
	case !c.skewed && off-doubt > maxSkew:
		c.skewed = true
		c.log.Error("this machine's clock and the Kubernetes API server's differ; grants expire by this machine's", "ahead", (-ahead).Round(time.Second).String())
	case c.skewed && off+doubt < maxSkew:
		c.skewed = false
		c.log.Info("this machine's clock and the Kubernetes API server's agree again")
	}
}

// skew is how far this machine's clock is ahead of the API server's where that is too
// much, else zero.
func (c *clock) skew() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.skewed {
		return 0
	}
	return -c.ahead
}
