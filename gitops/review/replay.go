package review

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sealward/sealward/gitops/gitcmd"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal/access"
	"github.com/sealward/sealward/unseal/audit"
)

// Replay decides what an audit log tells of again, each read and list by the grants of its
// commit at its time. Close it.
type Replay struct {
	repo     *Repo
	policies map[policyAt]*Policy
	unknown  map[string]bool // commits: each is asked for once
}

type policyAt struct {
	commit    string
	workspace manifest.Workspace
}

const (
	maxPolicies = 64 // kept; a log asks for one commit after the other

	// A record is written after its decision, at most this much later: an answer that
	// waits longer for the disk is a failure.
	afterDecision = 16 * time.Second
)

// NewReplay decides from the commits of repo.
func NewReplay(repo *Repo) (*Replay, error) {
	if _, err := repo.Clone(); err != nil {
		return nil, err
	}
	repo.blobs.open() // one git for all commits
	return &Replay{repo: repo, policies: map[policyAt]*Policy{}, unknown: map[string]bool{}}, nil
}

// Close ends what reads the repository.
func (r *Replay) Close() { r.repo.blobs.close() }

// Outcome of deciding one record again.
type Outcome int

// The outcomes.
const (
	Same          Outcome = iota
	Differs               // Git decides otherwise, or for another reason
	UnknownCommit         // the repository does not have it
	Undecided             // no decision of grants, or one that the record tells too little of
)

// Decide decides a record again. why says of one that differs how. The error means that
// the repository could not be read.
func (r *Replay) Decide(ctx context.Context, rec audit.Record) (o Outcome, why string, err error) {
	allowed := rec.Decision == audit.Allow
	// Nothing that was allowed may pass without a decision.
	undecided := func(reason string) (Outcome, string, error) {
		if allowed {
			return Differs, "it was allowed " + reason, nil
		}
		return Undecided, "", nil
	}
	switch {
	case rec.Event != audit.Read && rec.Event != audit.List:
		return Undecided, "", nil
	case rec.Event == audit.List && rec.Reason == string(access.Monitor):
		return Undecided, "", nil // names only, and who is a monitor does not stand in Git
	case !gitcmd.IsCommitID(rec.Commit): // "HEAD", in a log that somebody made up
		return undecided("without a commit")
	case rec.Reason == string(access.Contested), rec.Reason == string(access.InvalidName):
		return undecided("for the reason " + rec.Reason)
	}
	ws, err1 := manifest.ParseScope(rec.Workspace)
	name, err2 := manifest.ParseName(rec.Name)
	if err1 != nil || err2 != nil && rec.Event == audit.Read {
		return undecided("by a name that is none")
	}
	id := access.Identity{}
	if id.User, err = manifest.ParseSubject(rec.Subject); err != nil {
		return undecided("to a subject that is none")
	}
	cut := false
	for _, text := range rec.Roles {
		role, err := manifest.ParseSubject(text)
		if err != nil { // "+3 more": the record has no more room
			cut = true
			continue
		}
		id.Roles = append(id.Roles, role)
	}
	if r.unknown[rec.Commit] {
		return UnknownCommit, "", nil
	}
	p, err := r.policy(ctx, policyAt{rec.Commit, ws})
	if errors.Is(err, gitcmd.ErrNoRevision) || errors.Is(err, gitcmd.ErrNoObject) {
		if len(r.unknown) >= maxContents {
			clear(r.unknown)
		}
		r.unknown[rec.Commit] = true
		return UnknownCommit, "", nil
	}
	if err != nil {
		return 0, "", err
	}
	for _, at := range []time.Time{rec.Time, rec.Time.Add(-afterDecision)} {
		decided := p.again(rec, id, ws, name, at)
		if decided == "" {
			return Same, "", nil
		}
		if why == "" {
			why = decided
		}
	}
	if cut { // through a role that the record lacks, perhaps
		return Undecided, "", nil
	}
	return Differs, why, nil
}

// again says how the decision at a time differs from the one of the record, "" if it does
// not.
func (p *Policy) again(rec audit.Record, id access.Identity, ws manifest.Workspace, name manifest.Name, at time.Time) string {
	allowed := rec.Decision == audit.Allow
	same := func(d access.Decision) bool {
		role := ""
		if _, is := d.Subject.Role(); is {
			role = d.Subject.String()
		}
		return d.Allowed == allowed && string(d.Reason) == rec.Reason && d.Grant == rec.Grant && role == rec.Role
	}
	if rec.Event == audit.List {
		if d := p.MayList(id, ws, at); !same(d) {
			return differs(rec, d)
		}
		return ""
	}
	may := p.Policy.Read(id, ws, name, at)
	whole := may.Any()
	decided := []access.Decision{whole} // one of them is the record's
	for _, k := range rec.Keys {
		key, err := manifest.ParseKey(k)
		if err != nil {
			return "a key in it is none"
		}
		d := may.Key(key)
		if allowed && !d.Allowed {
			return fmt.Sprintf("key %s: %s", k, differs(rec, d))
		}
		decided = append(decided, d)
	}
	if slices.ContainsFunc(decided, same) {
		return ""
	}
	if !allowed && whole.Allowed { // what was denied is a key
		for _, d := range decided {
			if !d.Allowed {
				return differs(rec, d)
			}
		}
	}
	return differs(rec, decided[len(decided)-1])
}

func differs(rec audit.Record, d access.Decision) string {
	logged := []string{string(rec.Decision), rec.Reason, rec.Grant, rec.Role}
	role := ""
	if _, is := d.Subject.Role(); is {
		role = d.Subject.String()
	}
	git := []string{string(audit.Deny), string(d.Reason), d.Grant, role}
	if d.Allowed {
		git[0] = string(audit.Allow)
	}
	text := func(parts []string) string {
		return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), " ")
	}
	return fmt.Sprintf("logged %s; Git decides %s", text(logged), text(git))
}

func (r *Replay) policy(ctx context.Context, at policyAt) (*Policy, error) {
	if p := r.policies[at]; p != nil {
		return p, nil
	}
	t, err := r.repo.At(ctx, at.commit)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	p, err := t.Policy(ctx, at.workspace)
	if err != nil {
		return nil, err
	}
	if len(r.policies) >= maxPolicies {
		clear(r.policies)
	}
	r.policies[at] = p
	return p, nil
}
