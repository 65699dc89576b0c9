package kubernetes

import (
	"fmt"
	"slices"

	"github.com/sealward/sealward/seal/manifest"
)

// PruneGuard holds deletions back when more than Percent of the Secrets of a repository
// that stand in the cluster, and more than Count of them, would go though no plan of
// this process ever had them: nothing was seen to remove them, so that an empty
// repository or a lost store may be the cause. Permissions are never held: what was
// revoked must not wait.
type PruneGuard struct {
	Percent float64 // 100 holds nothing back
	Count   int
}

// holds reports that unseen of standing Secrets are too many.
func (g PruneGuard) holds(unseen, standing int) bool {
	return unseen > g.Count && float64(unseen)*100 > g.Percent*float64(standing)
}

// guarded is how one repository stands to the guard.
type guarded struct {
	standing int // Secrets of ours in the cluster
	unseen   int // those that would be pruned and that no plan had
	pruned   int // such that were pruned: what goes one by one goes all the same
	// asks are the newest commits at which something is held, the newest last; a word
	// about any of them counts. Nil where nothing is held.
	asks []string
	// answered: the operator's word was looked for. released: it was given.
	answered, released bool
	problem            *Problem
}

// maxAsks bounds the commits that the operator's word may be about.
const maxAsks = 3

func (e *Engine) guardOf(repository string) *guarded {
	g := e.guard[repository]
	if g == nil {
		g = &guarded{}
		e.guard[repository] = g
	}
	return g
}

// unseen reports a Secret that would be pruned and that no plan had.
func (e *Engine) unseen(key Key, en *entry, o *observed) bool {
	return key.Kind == KindSecret && en.object == nil && !en.seen && o != nil && o.made && !e.kept(key, en, o)
}

// kept reports that an object that is not in the plan stays as it is.
func (e *Engine) kept(key Key, en *entry, o *observed) bool {
	if key.Kind != KindSecret && !o.expires.IsZero() && !e.cfg.Now().Before(o.expires) {
		return false // a right ends at its time, whatever else is not known
	}
	if e.plan == nil || e.plan.Keep[key] || !e.plan.Repositories[o.repository] {
		return true
	}
	if key.Kind != KindSecret {
		return false
	}
	if !en.stays.IsZero() {
		return true
	}
	ws, err := manifest.ParseScope(o.workspace)
	return err == nil && e.plan.KeepWorkspaces[ws]
}

// What becomes of a Secret that no plan had.
type verdict uint8

const (
	pruneIt verdict = iota
	holdIt
	askFirst // it is too early to say
)

// judge decides about a Secret of a repository that no plan had.
func (e *Engine) judge(repository string) verdict {
	if e.unsettled > 0 {
		return askFirst // what stands is not all known yet
	}
	g := e.guardOf(repository)
	if g.released || !e.cfg.Guard.holds(g.unseen+g.pruned, g.standing+g.pruned) {
		e.pose(&g.problem, Problem{})
		return pruneIt
	}
	if commit := e.plan.Commits[repository]; len(g.asks) == 0 || g.asks[len(g.asks)-1] != commit {
		g.asks = append(g.asks, commit)
		g.asks = g.asks[max(0, len(g.asks)-maxAsks):]
		g.answered = false
	}
	if !g.answered {
		select {
		case e.run.ask <- struct{}{}:
		default:
		}
		return askFirst
	}
	return holdIt
}

// hold notes that Secrets of a repository wait for the operator's word.
func (e *Engine) hold(repository string) {
	g := e.guardOf(repository)
	e.pose(&g.problem, Problem{
		Origin: Origin{Repository: repository},
		Reason: PruneHeld,
		Message: fmt.Sprintf("%d of %d Secrets of repository %s in the cluster are in no manifest at commit %s, and no commit was seen to remove them; they stay until the operator's word",
			g.unseen, g.standing, repository, e.plan.Commits[repository]),
	})
}

// askWord asks for the operator's word where something waits for it. Asking may take
// its time, so that it is not done with the lock.
func (e *Engine) askWord(r *run) {
	e.mu.Lock()
	asks := map[string][]string{}
	if e.run == r {
		for repository, g := range e.guard {
			if len(g.asks) > 0 && !g.released {
				asks[repository] = slices.Clone(g.asks)
			}
		}
	}
	e.mu.Unlock()
	for repository, commits := range asks {
		released := e.cfg.Approved != nil && slices.ContainsFunc(commits, func(commit string) bool { return e.cfg.Approved(repository, commit) })
		e.mu.Lock()
		if g := e.guard[repository]; e.run == r && g != nil && len(g.asks) > 0 {
			first := !g.answered
			g.answered, g.released = g.asks[len(g.asks)-1] == commits[len(commits)-1], released
			if first || released {
				e.enqueueUnseen()
			}
		}
		e.unlock()
	}
}

// guardDone forgets about a repository of which nothing waits any more.
func (e *Engine) guardDone(repository string) {
	if g := e.guard[repository]; g != nil && g.unseen == 0 && len(g.asks) > 0 {
		g.asks, g.answered, g.released, g.pruned = nil, false, false, 0
		e.pose(&g.problem, Problem{})
	}
}
