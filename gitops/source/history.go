package source

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
)

// maxCommitSize bounds one commit object, whose message anybody may write.
const maxCommitSize = 1 << 20

// Commit is what a commit says about itself. Names and subject are bounded
// single lines of printable characters; nothing in them is verified.
type Commit struct {
	Hash       Hash
	Parents    []Hash
	Tree       Hash
	Author     string // Name <email>
	Committer  string
	AuthorTime time.Time
	CommitTime time.Time
	Subject    string
}

// Commit returns what is known of a commit.
func (m *Mirror) Commit(h Hash) (Commit, error) {
	c, err := m.commit(h)
	if err != nil {
		return Commit{}, err
	}
	return describe(c), nil
}

func describe(c *object.Commit) Commit {
	subject, _, _ := strings.Cut(strings.TrimLeft(c.Message, "\n"), "\n")
	return Commit{
		Hash: c.Hash, Parents: c.ParentHashes, Tree: c.TreeHash,
		Author: plain(c.Author.String()), Committer: plain(c.Committer.String()),
		AuthorTime: c.Author.When, CommitTime: c.Committer.When,
		Subject: plain(subject),
	}
}

func (m *Mirror) commit(h Hash) (*object.Commit, error) {
	obj, err := m.store.object(h, plumbing.CommitObject, maxCommitSize)
	if err != nil {
		return nil, err
	}
	c := new(object.Commit)
	if err := c.Decode(obj); err != nil {
		return nil, fmt.Errorf("commit %s is malformed: %w", h, err)
	}
	return c, nil
}

// parent reads a commit that another one or a ref names: it must be here.
func (m *Mirror) parent(h Hash) (*object.Commit, error) {
	c, err := m.commit(h)
	if errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return c, err
}

// IsAncestor reports whether old is new or one of its ancestors: whether going
// from old to new is a fast-forward. ErrNotFound says which of the two the
// mirror does not have.
//
// The answer is exact also with clocks that ran wrong. Both sides are walked,
// newest first, until old is met or all that is left of new's side is reached
// from old as well, which old's descendants are not. So a few commits ahead
// and a rewound branch are both found near the branch's head.
func (m *Mirror) IsAncestor(ctx context.Context, old, new Hash) (bool, error) {
	const fromNew, fromOld = 1, 2
	marks := map[Hash]uint8{}
	var q commitQueue
	open := 0 // queued commits that only new reaches
	mark := func(h Hash, with uint8) error {
		had, known := marks[h]
		if had|with == had {
			return nil
		}
		marks[h] = had | with
		if len(marks) > m.maxEntries {
			return fmt.Errorf("%w: the two histories differ by more than %d commits", ErrTooMany, m.maxEntries)
		}
		if known && q.has(h) {
			if had == fromNew {
				open--
			}
			return nil
		}
		c, err := m.parent(h)
		if err != nil {
			return err
		}
		if had|with == fromNew {
			open++
		}
		q.push(c)
		return nil
	}
	for _, h := range []Hash{old, new} {
		if _, err := m.commit(h); err != nil {
			return false, err
		}
	}
	if old == new {
		return true, nil
	}
	if err := errors.Join(mark(old, fromOld), mark(new, fromNew)); err != nil {
		return false, err
	}
	for open > 0 {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		c := q.pop()
		with := marks[c.Hash]
		if with == fromNew {
			open--
		}
		for _, p := range c.ParentHashes {
			if p == old && with&fromNew != 0 {
				return true, nil
			}
			if err := mark(p, with); err != nil {
				return false, err
			}
		}
	}
	return false, nil
}

// LastChanges finds for each path the commit that gave it its content in head,
// as git log -1 head -- path does: a commit with one parent is the last change
// of the paths in which the two differ; a merge, only of a path that differs
// from all its parents, else the first parent with the same entry is followed.
//
// All paths share one walk. It ends when none is open, at base (zero for none)
// or after maxCommits commits; a path that is still open then is not in the
// result.
func (m *Mirror) LastChanges(ctx context.Context, base, head Hash, paths []string, maxCommits int) (map[string]Commit, error) {
	w := &blameWalk{m: m, ctx: ctx, dirs: map[string]bool{"": true}, waiting: map[Hash]pathSet{}, found: map[string]Commit{}}
	open := pathSet{}
	for _, path := range paths {
		open[path] = struct{}{}
		for i := range path {
			if path[i] == '/' {
				w.dirs[path[:i]] = true
			}
		}
	}
	c, err := m.commit(head)
	if err != nil {
		return nil, err
	}
	w.wait(c, open)
	for n := 0; w.q.len() > 0 && n < maxCommits; n++ {
		c := w.q.pop()
		open := w.waiting[c.Hash]
		delete(w.waiting, c.Hash)
		if c.Hash == base {
			continue
		}
		if err := w.pass(c, open); err != nil {
			return nil, fmt.Errorf("last changes before %s: %w", head, err)
		}
	}
	return w.found, nil
}

type pathSet = map[string]struct{}

type blameWalk struct {
	m       *Mirror
	ctx     context.Context
	dirs    map[string]bool // the folders above the paths asked for
	q       commitQueue
	waiting map[Hash]pathSet // per queued commit, the paths that came to it
	found   map[string]Commit
}

// wait hands open to commit c. The set is c's from now on.
func (w *blameWalk) wait(c *object.Commit, open pathSet) {
	if len(open) == 0 {
		return
	}
	have, queued := w.waiting[c.Hash]
	if !queued {
		w.q.push(c)
	}
	if len(have) > len(open) {
		have, open = open, have
	}
	for path := range have {
		open[path] = struct{}{}
	}
	w.waiting[c.Hash] = open
}

// pass attributes to c what it changed and hands the rest to its parents. What
// it costs depends on the changes, not on the number of open paths.
func (w *blameWalk) pass(c *object.Commit, open pathSet) error {
	parents := c.ParentHashes
	if len(parents) == 0 {
		parents = []Hash{{}} // a first commit differs from nothing
	}
	for _, p := range parents {
		differ := pathSet{}
		_, err := w.m.compare(w.ctx, p, c.Hash, ".", func(dir string) bool { return w.dirs[dir] }, func(ch Change) {
			if _, ok := open[ch.Path]; ok {
				delete(open, ch.Path)
				differ[ch.Path] = struct{}{}
			}
		})
		if errors.Is(err, ErrNotFound) {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		} else if err != nil {
			return err
		}
		if !p.IsZero() && len(open) > 0 {
			parent, err := w.m.parent(p)
			if err != nil {
				return err
			}
			w.wait(parent, open)
		}
		if open = differ; len(open) == 0 {
			return nil
		}
	}
	by := describe(c)
	for path := range open {
		w.found[path] = by
	}
	return nil
}

// commitQueue gives commits newest first; equal times in the order they came.
type commitQueue struct {
	items  commitHeap
	queued map[Hash]bool
	pushed int
}

func (q *commitQueue) len() int        { return len(q.items) }
func (q *commitQueue) has(h Hash) bool { return q.queued[h] }

func (q *commitQueue) push(c *object.Commit) {
	if q.queued == nil {
		q.queued = map[Hash]bool{}
	}
	q.queued[c.Hash] = true
	q.pushed++
	heap.Push(&q.items, commitItem{c, c.Committer.When.Unix(), q.pushed})
}

func (q *commitQueue) pop() *object.Commit {
	c := heap.Pop(&q.items).(commitItem).commit
	delete(q.queued, c.Hash)
	return c
}

type commitItem struct {
	commit *object.Commit
	time   int64
	order  int
}

type commitHeap []commitItem

func (h commitHeap) Len() int { return len(h) }
func (h commitHeap) Less(i, j int) bool {
	if h[i].time != h[j].time {
		return h[i].time > h[j].time
	}
	return h[i].order < h[j].order
}
func (h commitHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *commitHeap) Push(x any)   { *h = append(*h, x.(commitItem)) }
func (h *commitHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}
