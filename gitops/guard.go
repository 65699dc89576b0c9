package gitops

import (
	"github.com/sealward/sealward/gitops/source"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal"
)

// RemovalGuard holds removals back when one commit takes away more than Percent
// of the secrets that are served and more than Count of them.
type RemovalGuard struct {
	Percent float64 // 100 holds nothing back
	Count   int
}

// guard decides about removals: which of this commit wait for the operator's
// word, which that waited end. A secret that has a file left is no removed one.
func (c *change) guard(commit source.Hash) {
	for s := range c.touched {
		if !c.hasFile(s) {
			continue
		}
		for _, r := range c.filesOf(s.ws, s.name) {
			if now := c.next.records[s.ws][r.Path]; now != nil && now.Held != nil && c.open[r.Path] == nil {
				c.remove(now)
			}
		}
	}
	c.holdBack(commit)
	if len(c.released) == 0 {
		return
	}
	for _, records := range c.next.records {
		for _, r := range records {
			if r.Held != nil && c.released[r.Held.Commit] {
				c.remove(r)
			}
		}
	}
}

// hasFile reports that a touched secret has a file in the new commit.
func (c *change) hasFile(s secretID) bool {
	for _, r := range c.filesOf(s.ws, s.name) {
		if now := c.next.records[s.ws][r.Path]; now != nil && now.Held == nil {
			return true
		}
	}
	return c.opened[s]
}

func (c *change) holdBack(commit source.Hash) {
	g := c.a.RemovalGuard
	gone := map[secretID]bool{}
	for _, r := range c.deleted {
		s := secretID{r.Place.Scope, r.Place.Name}
		// What the operator gave to another source is not removed by a commit.
		if c.a.Elsewhere != nil && c.a.Elsewhere(s.ws) != "" {
			continue
		}
		if r.Good != nil && r.Held == nil && !c.hasFile(s) {
			gone[s] = true
		}
	}
	if g == nil || len(gone) <= g.Count {
		return
	}
	served := map[secretID]bool{}
	for ws, records := range c.a.tree.records {
		for _, r := range records {
			if r.Good != nil {
				served[secretID{ws, r.Place.Name}] = true
			}
		}
	}
	if float64(len(gone))*100 <= g.Percent*float64(len(served)) {
		return
	}
	var left []*unseal.Record
	for _, r := range c.deleted {
		if r.Good == nil || r.Held != nil || !gone[secretID{r.Place.Scope, r.Place.Name}] {
			left = append(left, r)
			continue
		}
		c.note(r, &unseal.Held{Commit: commit.String(), Since: c.now})
	}
	c.deleted = left
	c.held = len(gone)
	c.a.Log.Error("a commit removes too many secrets; they stay served until the operator's word", "commit", commit.String(),
		"removed", len(gone), "served", len(served), "percent", g.Percent, "count", g.Count, "approve", "sealward agent approve "+commit.String())
}

// note changes what a record says of its removal, without opening it again.
func (c *change) note(r *unseal.Record, held *unseal.Held) {
	fresh := *r
	fresh.Held = held
	c.records(r.Place.Scope)[r.Path] = &fresh
	c.noted[r.Path] = &fresh
}

// endHeld lets go of removed files that do not open any more: their key is gone.
func (c *change) endHeld(put []*unseal.Record) []*unseal.Record {
	var left []*unseal.Record
	for _, r := range put {
		if r.Held != nil && r.Good == nil {
			delete(c.records(r.Place.Scope), r.Path)
			c.deleted = append(c.deleted, r)
			continue
		}
		left = append(left, r)
		delete(c.noted, r.Path)
	}
	for path, r := range c.noted {
		if c.next.records[r.Place.Scope][path] == r {
			left = append(left, r)
		}
	}
	return left
}

// heldBy lists the commits whose removals wait.
func heldBy(records map[manifest.Workspace]map[string]*unseal.Record) map[string]bool {
	out := map[string]bool{}
	for _, scope := range records {
		for _, r := range scope {
			if r.Held != nil {
				out[r.Held.Commit] = true
			}
		}
	}
	return out
}
