package gitops

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/sealward/sealward/gitops/source"
	"github.com/sealward/sealward/unseal"
)

// approval passes the operator's word from any goroutine to the one of Run.
type approval struct {
	mu sync.Mutex
	// rewound is the head that waits, as Sync last refused it; zero for none.
	rewound source.Hash
	// head is the one head that may rewind the branch; zero for none.
	head source.Hash
	// held are the commits whose removals wait, and let those of them that may go.
	held, let map[string]bool
}

// hold notes whose removals wait, and forgets the words that were kept.
func (p *approval) hold(held, kept map[string]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = held
	for commit := range kept {
		delete(p.let, commit)
	}
}

func (p *approval) released() map[string]bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.let)
}

// wait notes what is refused now. Another head ends an older word: it was given
// for exactly that commit.
func (p *approval) wait(rewound source.Hash) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rewound = rewound
	if p.head != rewound {
		p.head = source.Hash{}
	}
}

func (p *approval) allows(head source.Hash) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !head.IsZero() && p.head == head
}

// Approve gives the operator's word for the removals that a commit asks for, or
// for the head that rewinds the branch. commit is a whole hash. It is followed at the next look, which Approve asks for. The
// error wraps unseal.ErrNothingWaits.
func (a *Agent) Approve(commit string) error {
	a.approval.mu.Lock()
	defer a.approval.mu.Unlock()
	if !a.approval.waits(commit) {
		return fmt.Errorf("%w; sealward status shows what does", unseal.ErrNothingWaits)
	}
	if a.approval.held[commit] {
		if a.approval.let == nil {
			a.approval.let = map[string]bool{}
		}
		a.approval.let[commit] = true
		a.Trigger()
		return nil
	}
	a.approval.head = a.approval.rewound
	a.Trigger()
	return nil
}

// waits reports that something waits at a commit. The caller holds mu.
func (p *approval) waits(commit string) bool {
	h := plumbing.NewHash(commit)
	return p.held[commit] || plumbing.IsHash(commit) && !h.IsZero() && h == p.rewound
}

// Waits reports that something waits for the operator's word at a commit.
func (a *Agent) Waits(commit string) bool {
	a.approval.mu.Lock()
	defer a.approval.mu.Unlock()
	return a.approval.waits(commit)
}

// Contains reports whether commit is ancestor or descends from it. It is safe for
// use by several goroutines. The error wraps unseal.ErrUnknownCommit.
func (a *Agent) Contains(ctx context.Context, commit, ancestor string) (bool, error) {
	a.swapping.RLock()
	defer a.swapping.RUnlock()
	for _, c := range []string{commit, ancestor} {
		if !plumbing.IsHash(c) {
			return false, unseal.ErrUnknownCommit
		}
		// The mirror says the same of an object that it should have, and of one that
		// nobody ever pushed: here only the latter can be meant.
		if _, err := a.Mirror.Commit(plumbing.NewHash(c)); err != nil {
			return false, fmt.Errorf("%w: %w", unseal.ErrUnknownCommit, err)
		}
	}
	return a.Mirror.IsAncestor(ctx, plumbing.NewHash(ancestor), plumbing.NewHash(commit))
}

// Look asks for a look at every remote, at once.
func (s *Service) Look() {
	for _, f := range s.sources {
		f.agent.Trigger()
	}
}

// Approve gives the operator's word for what waits at a commit of any source, here and
// beside.
func (s *Service) Approve(commit string) error {
	err := s.approve(commit)
	if s.Beside == nil || err != nil && !errors.Is(err, unseal.ErrNothingWaits) {
		return err
	}
	return s.Beside.Approve(commit, err == nil)
}

func (s *Service) approve(commit string) (err error) {
	for _, f := range s.sources {
		if err = f.agent.Approve(commit); err == nil {
			return nil
		}
	}
	return err
}

// Waits reports that something waits at a commit of any source, or beside.
func (s *Service) Waits(commit string) bool {
	return slices.ContainsFunc(s.sources, func(f *followed) bool { return f.agent.Waits(commit) }) || s.Beside != nil && s.Beside.Waits(commit)
}

// Contains answers for the source of that name.
func (s *Service) Contains(ctx context.Context, source, commit, ancestor string) (bool, error) {
	for _, f := range s.sources {
		if f.Name == source {
			return f.agent.Contains(ctx, commit, ancestor)
		}
	}
	return false, unseal.ErrUnknownCommit
}
