package gitops

import (
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal"
)

// What is remembered of contents that are not served any more.
const (
	maxRecalled      = 1024
	maxRecalledBytes = 8 << 20
)

// blobID is the content of one file in one scope: another scope has another ring.
type blobID struct {
	ws   manifest.Workspace
	blob string
}

// recent remembers contents that were replaced or removed lately, so that a revert
// unseals nothing. They are never served from here: a file of the new commit has to
// hold the very blob. The oldest go first, and a scope's go when its ring changes.
type recent struct {
	contents map[blobID]*unseal.Content
	order    []blobID // oldest first; may name what is gone
	bytes    int
}

func (m *recent) add(id blobID, c *unseal.Content) {
	if m.contents == nil {
		m.contents = map[blobID]*unseal.Content{}
	}
	if m.contents[id] != nil {
		return
	}
	m.contents[id] = c
	m.order = append(m.order, id)
	m.bytes += valueBytes(c)
	for len(m.order) > 0 && (len(m.order) > maxRecalled || m.bytes > maxRecalledBytes) {
		m.drop(m.order[0])
		m.order = m.order[1:]
	}
}

func (m *recent) drop(id blobID) {
	if c := m.contents[id]; c != nil {
		m.bytes -= valueBytes(c)
		delete(m.contents, id)
	}
}

func (m *recent) forget(ws manifest.Workspace) {
	for id := range m.contents {
		if id.ws == ws {
			m.drop(id)
		}
	}
}

func valueBytes(c *unseal.Content) (n int) {
	for _, v := range c.Values {
		n += len(v.Data)
	}
	return n
}

// recalled finds what a blob holds without unsealing it: it was removed in this
// commit, as when a file moves, or was served before. Only read while files are
// opened in parallel.
func (c *change) recalled(id blobID) *unseal.Content {
	if c.rings[id.ws] {
		return nil
	}
	found := c.moved[id]
	if found == nil {
		found = c.a.recent.contents[id]
	}
	if found == nil || !found.Bound && !c.next.unbound {
		return nil
	}
	return found
}

// noteMoved lists what this commit removes, by content.
func (c *change) noteMoved() {
	c.moved = map[blobID]*unseal.Content{}
	for _, r := range c.deleted {
		if r.Good != nil && !r.Stale() {
			c.moved[blobID{r.Place.Scope, r.Good.Provenance.Blob}] = r.Good
		}
	}
}

// remember keeps what this commit replaced or removed. The change is applied.
func (c *change) remember(put []*unseal.Record) {
	note := func(old *unseal.Record) {
		if old != nil && old.Good != nil && !c.rings[old.Place.Scope] {
			c.a.recent.add(blobID{old.Place.Scope, old.Good.Provenance.Blob}, old.Good)
		}
	}
	for _, r := range put {
		if old := c.a.tree.records[r.Place.Scope][r.Path]; old != nil && r.Good != old.Good {
			note(old)
		}
	}
	for _, r := range c.deleted {
		note(r)
	}
}
