package serve

import (
	"cmp"
	"container/list"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sealward/sealward/unseal/audit"
)

// recent keeps who read what of late, as it was audited, for people to look at. Reads of
// one secret by one identity are one entry, so that a busy reader does not hide the
// others; beyond the bound the entry that was quiet for longest is forgotten. The audit
// has them all.
type recent struct {
	max int

	mu      sync.Mutex
	entries map[readKey]*list.Element
	order   list.List // of *readEntry, the newest first
}

type readKey struct {
	subject, workspace, name string
	decision                 audit.Decision
}

type readEntry struct {
	readKey
	commit string // of the last one
	first  time.Time
	last   time.Time
	count  int
}

func newRecent(max int) *recent { return &recent{max: max, entries: map[readKey]*list.Element{}} }

func (c *recent) note(rec audit.Record, now time.Time) {
	key := readKey{rec.Subject, rec.Workspace, rec.Name, rec.Decision}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[key]; e != nil {
		entry := e.Value.(*readEntry)
		entry.commit, entry.last = rec.Commit, now
		entry.count++
		c.order.MoveToFront(e)
		return
	}
	if len(c.entries) >= c.max {
		delete(c.entries, c.order.Remove(c.order.Back()).(*readEntry).readKey)
	}
	c.entries[key] = c.order.PushFront(&readEntry{readKey: key, commit: rec.Commit, first: now, last: now, count: 1})
}

// newest are copies of all entries, the newest first.
func (c *recent) newest() []readEntry {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]readEntry, 0, len(c.entries))
	for e := range maps.Values(c.entries) {
		out = append(out, *e.Value.(*readEntry))
	}
	slices.SortFunc(out, func(a, b readEntry) int {
		return cmp.Or(b.last.Compare(a.last), cmp.Compare(a.workspace, b.workspace), cmp.Compare(a.name, b.name), cmp.Compare(a.subject, b.subject), cmp.Compare(a.decision, b.decision))
	})
	return out
}
