package audit

import (
	"slices"
	"strings"
	"time"
)

// Filter chooses records; its zero fields choose all.
type Filter struct {
	Subject         string
	Workspace, Name string
	Key             string
	Commit          string // or its beginning
	Decision        Decision
	Events          []Event
	Since, Until    time.Time // from Since on, before Until
}

// Match reports that r is chosen. A record of many calls (unauthenticated) has none of
// what the other fields ask for.
func (f Filter) Match(r Record) bool {
	return (f.Subject == "" || r.Subject == f.Subject) &&
		(f.Workspace == "" || r.Workspace == f.Workspace) &&
		(f.Name == "" || r.Name == f.Name) &&
		(f.Key == "" || slices.Contains(r.Keys, f.Key)) &&
		strings.HasPrefix(r.Commit, f.Commit) &&
		(f.Decision == "" || r.Decision == f.Decision) &&
		(len(f.Events) == 0 || slices.Contains(f.Events, r.Event)) &&
		(f.Since.IsZero() || !r.Time.Before(f.Since)) &&
		(f.Until.IsZero() || r.Time.Before(f.Until))
}

// Events that a record can tell of, as a closed list.
func Events() []Event {
	return []Event{Read, List, Unauthenticated, Torn, Start, Stop, Sync, Approve, Project}
}
