package kubernetes

import (
	"fmt"

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
	// commit at which something began to be held; released at which the operator said to go on.
	commit, released string
	problem          *Problem
}

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
	return key.Kind == KindSecret && en.object == nil && !en.seen && o != nil && o.made && !e.kept(key, o)
}

// kept reports that an object that is not in the plan stays as it is.
func (e *Engine) kept(key Key, o *observed) bool {
	if e.plan == nil || e.plan.Keep[key] || !e.plan.Repositories[o.repository] {
		return true
	}
	if key.Kind != KindSecret {
		return false
	}
	ws, err := manifest.ParseScope(o.workspace)
	return err == nil && e.plan.KeepWorkspaces[ws]
}

// mayPrune decides about a Secret that no plan had. Where it says no, ask is the commit
// at which the operator is to be asked; "" where it is too early to say.
func (e *Engine) mayPrune(repository string) (ok bool, ask string) {
	if e.unsettled > 0 {
		return false, "" // what stands is not all known yet
	}
	g := e.guardOf(repository)
	if g.commit != "" && g.released == g.commit || !e.cfg.Guard.holds(g.unseen+g.pruned, g.standing+g.pruned) {
		e.pose(&g.problem, Problem{})
		return true, ""
	}
	if g.commit == "" {
		g.commit = e.plan.Commits[repository]
	}
	return false, g.commit
}

// hold notes that Secrets of a repository wait for the operator's word.
func (e *Engine) hold(repository string) {
	g := e.guardOf(repository)
	e.pose(&g.problem, Problem{
		Origin: Origin{Repository: repository},
		Reason: PruneHeld,
		Message: fmt.Sprintf("%d of %d Secrets of repository %s in the cluster are in no manifest at commit %s, and no commit was seen to remove them; they stay until the operator's word",
			g.unseen, g.standing, repository, g.commit),
	})
}

// release has held removals of a repository go on; commit is that at which they were held.
func (e *Engine) release(repository, commit string) {
	if g := e.guardOf(repository); g.commit == commit && commit != "" {
		g.released = commit
		e.pose(&g.problem, Problem{})
	}
}

// guardDone forgets about a repository of which nothing waits any more.
func (e *Engine) guardDone(repository string) {
	if g := e.guard[repository]; g != nil && g.unseen == 0 && g.commit != "" {
		g.commit, g.released, g.pruned = "", "", 0
		e.pose(&g.problem, Problem{})
	}
}
