package serve

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/access"
	"github.com/sealward/sealward/unseal/audit"
)

// StatusJSON is the answer of /v1/status. Operators and monitors see all of it.
// Others see of Failing and Held the secrets that they may list, and of Problems
// those of workspaces in which they may list something; the counts are of all.
type StatusJSON struct {
	Version   string          `json:"version"`
	Ready     bool            `json:"ready"` // a commit is served
	Sources   []SourceJSON    `json:"sources"`
	Secrets   int             `json:"secrets"`
	Audit     AuditJSON       `json:"audit"`
	Counts    CountsJSON      `json:"counts"`
	Failing   []FailingJSON   `json:"failing"`
	Held      []HeldJSON      `json:"held"`
	Contested []ContestedJSON `json:"contested"`
	Problems  []ProblemJSON   `json:"problems"`
	// Cluster is nil where the agent takes part in none, and for those who are neither
	// operators nor monitors.
	Cluster *ClusterJSON `json:"cluster,omitempty"`
}

// ClusterJSON tells how the agent takes part in a Kubernetes cluster. Only the replica
// that leads knows how the cluster stands.
type ClusterJSON struct {
	Namespace string `json:"namespace"` // of the Lease
	Identity  string `json:"identity"`  // of this replica
	Leader    string `json:"leader"`    // identity of the replica that writes, as last seen; "" for none
	Leading   bool   `json:"leading"`   // this replica does
	// Commits that the cluster is of, by SealedRepository, whichever replica wrote them.
	Commits map[string]string `json:"commits,omitempty"`
	// Waiting says why the leader does not write what this replica would; "" when it does.
	Waiting string    `json:"waiting,omitempty"`
	Synced  time.Time `json:"synced,omitzero"` // when everything last stood as planned
	// Pending are objects that were not looked at yet since the newest plan.
	Pending int                `json:"pending"`
	Objects []ClusterCountJSON `json:"objects"`
	Held    int                `json:"held"` // objects whose removal waits for the operator's word
	// SkewSeconds is how far this machine's clock is ahead of the API server's, where
	// that is too much.
	SkewSeconds  float64              `json:"skewSeconds,omitempty"`
	ProblemCount int                  `json:"problemCount"`
	Problems     []ClusterProblemJSON `json:"problems"` // the first of them
}

// Well reports that everything stands as it should, as far as this replica knows.
func (c *ClusterJSON) Well() bool {
	return c.Leader != "" && c.Waiting == "" && c.Held == 0 && c.ProblemCount == 0 && c.SkewSeconds == 0 &&
		!(c.Leading && slices.ContainsFunc(c.Objects, func(o ClusterCountJSON) bool { return o.Ready < o.Desired }))
}

// Skew is SkewSeconds in words: "9s ahead of" or "9s behind".
func (c *ClusterJSON) Skew() string {
	d := time.Duration(c.SkewSeconds * float64(time.Second)).Round(time.Second)
	if d < 0 {
		return (-d).String() + " behind"
	}
	return d.String() + " ahead of"
}

// More counts the problems that are not listed.
func (c *ClusterJSON) More() int { return max(0, c.ProblemCount-len(c.Problems)) }

// ClusterCountJSON counts objects of one kind.
type ClusterCountJSON struct {
	Kind    string `json:"kind"`
	Desired int    `json:"desired"`
	Ready   int    `json:"ready"` // stand as planned; of the replica that leads
}

// ClusterProblemJSON is something that does not stand in the cluster as it should.
type ClusterProblemJSON struct {
	Kind       string    `json:"kind,omitempty"`
	Namespace  string    `json:"namespace,omitempty"`
	Name       string    `json:"name,omitempty"`
	Repository string    `json:"repository,omitempty"`
	Workspace  string    `json:"workspace,omitempty"`
	Secret     string    `json:"secret,omitempty"`
	Grant      string    `json:"grant,omitempty"`
	Reason     string    `json:"reason"`
	Message    string    `json:"message"`
	Remedy     string    `json:"remedy,omitempty"` // for Reason
	Since      time.Time `json:"since,omitzero"`
	Next       time.Time `json:"next,omitzero"` // when it is tried again; zero: after a change
}

// Where is the object, namespace or secret that a problem is about; "" for none.
func (p ClusterProblemJSON) Where() string {
	where := strings.Trim(p.Namespace+"/"+p.Name, "/")
	if where == "" {
		where = strings.Trim(p.Workspace+"/"+p.Secret, "/")
	}
	return strings.TrimSpace(p.Kind + " " + where)
}

// SourceJSON tells what is served of one repository, and how following it goes.
type SourceJSON struct {
	Name    string    `json:"name,omitempty"` // "" where there is one source
	URL     string    `json:"url,omitempty"`  // without a credential
	Branch  string    `json:"branch,omitempty"`
	Commit  string    `json:"commit,omitempty"` // the applied commit
	Applied time.Time `json:"applied,omitzero"`
	Secrets int       `json:"secrets"`
	Sync    SyncJSON  `json:"sync"`
}

// SyncJSON tells how following the branch goes.
type SyncJSON struct {
	Head        string    `json:"head,omitempty"`       // of the remote, when last seen
	BehindSince time.Time `json:"behindSince,omitzero"` // a head that is not applied is known since then
	LagSeconds  float64   `json:"lagSeconds"`           // as long as that
	LastLook    time.Time `json:"lastLook,omitzero"`
	LastSuccess time.Time `json:"lastSuccess,omitzero"`
	Error       string    `json:"error,omitempty"`
	Class       string    `json:"class,omitempty"`   // of Error: unseal.SyncClass
	Remedy      string    `json:"remedy,omitempty"`  // for Class
	Failures    int       `json:"failures"`          // in a row
	Refused     string    `json:"refused,omitempty"` // a head that is not followed
	Packs       int       `json:"packs"`             // of the mirror
}

// AuditJSON is the head of the audit chain, for sealward audit verify --head.
type AuditJSON struct {
	Seq  uint64 `json:"seq"`
	Head string `json:"head"`
}

// CountsJSON counts what is not served as committed.
type CountsJSON struct {
	Failing   int `json:"failing"`
	Stale     int `json:"stale"`
	Held      int `json:"held"`
	Contested int `json:"contested"`
	Problems  int `json:"problems"`
}

// FailingJSON is one manifest that is not served as committed.
type FailingJSON struct {
	Source string    `json:"source,omitempty"`
	Path   string    `json:"path"`
	Class  string    `json:"class"`
	Reason string    `json:"reason"`
	Remedy string    `json:"remedy"`
	Since  time.Time `json:"since"`
	Stale  bool      `json:"stale"` // its last good content is served
}

// HeldJSON is a commit whose removals wait for the operator's word.
type HeldJSON struct {
	Source string    `json:"source,omitempty"`
	Commit string    `json:"commit"`
	Since  time.Time `json:"since"`
	Count  int       `json:"count"`
	Paths  []string  `json:"paths"` // those that the caller may list
}

// ContestedJSON is a workspace that several sources claim, which is refused for all.
type ContestedJSON struct {
	Workspace string   `json:"workspace"`
	Sources   []string `json:"sources"`
}

// ProblemJSON is one file that was refused and belongs to no secret.
type ProblemJSON struct {
	Source string `json:"source,omitempty"`
	Path   string `json:"path"`
	Class  string `json:"class"`
	Reason string `json:"reason"`
	Closes string `json:"closes,omitempty"` // the scope whose reads are refused because of it
}

// sight is what one caller may see of names, in the status and on the page: an
// operator or monitor all, others what a list would show them.
type sight struct {
	caller access.Identity
	all    bool
	now    time.Time
}

func (s *server) sight(r *request) sight {
	return sight{caller: r.caller.Identity, all: s.isMonitor(r.caller), now: r.now}
}

// secret: the name may be shown, whether it exists or not.
func (v sight) secret(snap *unseal.Snapshot, ws manifest.Workspace, name manifest.Name) bool {
	return v.all || snap.Policy.List(v.caller, ws, name, v.now).Allowed
}

// workspace: something in it may be shown, if it is there.
func (v sight) workspace(snap *unseal.Snapshot, ws manifest.Workspace) bool {
	return v.all || snap.Policy.MayList(v.caller, ws, v.now).Allowed
}

func (s *server) status(w http.ResponseWriter, r *request) { writeJSON(w, s.statusOf(r)) }

func (s *server) statusOf(r *request) StatusJSON {
	sight := s.sight(r)
	out := StatusJSON{Version: s.Version, Ready: r.view != nil, Sources: s.sources(r), Failing: []FailingJSON{}, Held: []HeldJSON{}, Contested: []ContestedJSON{}, Problems: []ProblemJSON{}}
	out.Audit.Seq, out.Audit.Head = s.Audit.Head()
	for _, snap := range r.view.Snapshots() {
		out.Secrets += snap.Count()
		for _, f := range snap.Failing() {
			out.Counts.Failing++
			stale := snap.Serves(f, r.now)
			if stale {
				out.Counts.Stale++
			}
			if sight.secret(snap, f.Place.Scope, f.Place.Name) {
				out.Failing = append(out.Failing, FailingJSON{Source: snap.Source, Path: f.Path, Class: string(f.Failure.Class), Reason: f.Failure.Message,
					Remedy: f.Failure.Class.Remedy(), Since: f.Failure.Since.UTC(), Stale: stale})
			}
		}
		byCommit := map[string]*HeldJSON{}
		for _, rec := range snap.Held() {
			h := byCommit[rec.Held.Commit]
			if h == nil {
				h = &HeldJSON{Source: snap.Source, Commit: rec.Held.Commit, Since: rec.Held.Since.UTC(), Paths: []string{}}
				byCommit[rec.Held.Commit] = h
			}
			h.Count++
			out.Counts.Held++
			if sight.secret(snap, rec.Place.Scope, rec.Place.Name) {
				h.Paths = append(h.Paths, rec.Path)
			}
		}
		for _, commit := range slices.Sorted(maps.Keys(byCommit)) {
			out.Held = append(out.Held, *byCommit[commit])
		}
		for _, p := range snap.Problems {
			out.Counts.Problems++
			place, _, _ := manifest.Locate(p.Path)
			if place.Scope.IsZero() {
				place.Scope = manifest.Instance()
			}
			if sight.workspace(snap, place.Scope) {
				out.Problems = append(out.Problems, ProblemJSON{Source: snap.Source, Path: p.Path, Class: string(p.Class), Reason: p.Message, Closes: p.Closes})
			}
		}
	}
	for ws, sources := range r.view.AllContested() {
		out.Counts.Contested++
		if sight.all {
			out.Contested = append(out.Contested, ContestedJSON{Workspace: ws.String(), Sources: sources})
		}
	}
	if s.Cluster != nil && sight.all {
		out.Cluster = s.Cluster()
	}
	slices.SortFunc(out.Contested, func(a, b ContestedJSON) int { return strings.Compare(a.Workspace, b.Workspace) })
	return out
}

// sources tells of every source that was looked at or has something to serve.
func (s *server) sources(r *request) []SourceJSON {
	byName := map[string]*SourceJSON{}
	of := func(name string) *SourceJSON {
		if byName[name] == nil {
			byName[name] = &SourceJSON{Name: name}
		}
		return byName[name]
	}
	for _, sync := range s.Live.Syncs() {
		j := of(sync.Source)
		j.Branch, j.URL = sync.Branch, sync.URL
		j.Sync = SyncJSON{Head: sync.Head, BehindSince: sync.BehindSince.UTC(), LastLook: sync.LastLook.UTC(), LastSuccess: sync.LastSuccess.UTC(),
			Error: sync.Error, Class: string(sync.Class), Remedy: sync.Class.Remedy(), Failures: sync.Failures, Refused: sync.Refused, Packs: sync.Packs}
		if !sync.BehindSince.IsZero() {
			j.Sync.LagSeconds = max(0, r.now.Sub(sync.BehindSince)).Seconds()
		}
	}
	for _, snap := range r.view.Snapshots() {
		j := of(snap.Source)
		j.Branch, j.Commit, j.Applied, j.Secrets = snap.Branch, snap.Commit, snap.Applied, snap.Count()
	}
	out := []SourceJSON{}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		out = append(out, *byName[name])
	}
	return out
}

// metrics are for monitors: they name workspaces, which are not for everybody.
func (s *server) metrics(w http.ResponseWriter, r *request) {
	if !s.isMonitor(r.caller) || s.Metrics == nil {
		rec := r.record(audit.Read, access.Decision{Reason: access.NoGrant}, http.StatusForbidden)
		rec.Workspace, rec.Path, rec.Commit = "", "/metrics", ""
		s.answer(w, r, rec)
		return
	}
	s.Metrics.ServeHTTP(w, r.Request)
}
