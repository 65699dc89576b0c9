package gitops

import (
	"context"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/audit"
	"github.com/sealward/sealward/unseal/serve"
)

// Beside is what runs beside an agent and takes what it serves elsewhere: into a
// cluster. Nothing that goes wrong in it may end serving. Its metrics are scraped with
// the agent's.
type Beside interface {
	prometheus.Collector
	// Run works until ctx ends.
	Run(ctx context.Context, host Host)
	// Looked says that somebody asked this agent for a look at the remotes. It never
	// blocks.
	Looked()
	// Waits reports that something there waits for the operator's word at a commit, and
	// Approve gives it. here says that something waited in this agent too, so that it may
	// in its replicas. The error wraps unseal.ErrNothingWaits.
	Waits(commit string) bool
	Approve(commit string, here bool) error
	// Status is for operators and monitors.
	Status() *serve.ClusterJSON
}

// Host is what a Beside may ask of its agent.
type Host struct {
	Live *unseal.Live
	// Record makes records of the audit durable. When it fails, nothing may leave.
	Record func(context.Context, []audit.Record) error
	// Look asks for a look at the remote of a source, or of all where there is none of
	// that name, and tells nobody else. It never blocks.
	Look func(source string)
	// Approve gives the operator's word for what waits in a source at a commit. The error
	// wraps unseal.ErrNothingWaits.
	Approve func(commit string) error
	// Contains reports whether a commit is ancestor or descends from it. The error wraps
	// unseal.ErrUnknownCommit where the mirror lacks one of the two.
	Contains func(ctx context.Context, source, commit, ancestor string) (bool, error)
}

// beside runs what is beside. Its panic, whose text could hold a value, ends nothing else.
func (s *Service) beside(ctx context.Context, log *audit.Log) {
	defer func() {
		if p := recover(); p != nil {
			s.Log.Error("what runs beside the agent panicked; serving goes on without it, please report it", "type", fmt.Sprintf("%T", p))
		}
	}()
	s.Beside.Run(ctx, Host{Live: s.live, Record: log.AppendAll, Look: s.trigger, Approve: s.approve, Contains: s.Contains})
}

// trigger has one source looked at, or all where none has that name.
func (s *Service) trigger(source string) {
	known := false
	for _, f := range s.sources {
		if f.Name == source {
			f.agent.Trigger()
			known = true
		}
	}
	for _, f := range s.sources {
		if !known {
			f.agent.Trigger()
		}
	}
}
