package serve

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/access"
	"github.com/sealward/sealward/unseal/audit"
)

// is reports that a caller, or a role that its credential asserts, is listed. The
// lists are the operator's own settings, and so is who may assert a role.
func (c Caller) is(listed []manifest.Subject) bool {
	return slices.Contains(listed, c.User) || slices.ContainsFunc(c.Roles, func(r manifest.Subject) bool { return slices.Contains(listed, r) })
}

func (s *server) isOperator(c Caller) bool { return c.is(s.Operators) }

// isMonitor: operators may see whatever monitors may.
func (s *server) isMonitor(c Caller) bool { return c.is(s.Monitors) || s.isOperator(c) }

// operator lets only operators through, and records what they ask for before it is
// done.
func (s *server) operator(event audit.Event, next func(http.ResponseWriter, *request, audit.Record)) http.HandlerFunc {
	return s.authenticated(func(w http.ResponseWriter, r *request) {
		rec := r.record(event, access.Decision{Reason: access.NoGrant}, http.StatusForbidden)
		rec.Workspace, rec.Name, rec.Commit = "", "", ""
		if !s.isOperator(r.caller) || s.Follower == nil {
			s.answer(w, r, rec)
			return
		}
		rec.Decision, rec.Reason, rec.Status = audit.Allow, string(access.Granted), http.StatusAccepted
		next(w, r, rec)
	})
}

// sync has the remotes looked at.
func (s *server) sync(w http.ResponseWriter, r *request, rec audit.Record) {
	if !s.answer(w, r, rec) {
		return
	}
	s.look()
	w.WriteHeader(http.StatusAccepted)
}

// look has the remotes looked at, and others told of it.
func (s *server) look() {
	s.Follower.Look()
	if s.Looked != nil {
		s.Looked()
	}
}

// ApprovalJSON is the body of POST /v1/approvals.
type ApprovalJSON struct {
	Commit string `json:"commit"` // the whole hash
}

// approve passes the operator's word for what waits at a commit.
func (s *server) approve(w http.ResponseWriter, r *request, rec audit.Record) {
	var in ApprovalJSON
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&in); err != nil || !isCommit(in.Commit) {
		writeError(w, http.StatusBadRequest, "bad-request", `the body is not {"commit": "HASH"} with the whole hash`)
		return
	}
	rec.Commit = in.Commit
	refused := rec
	refused.Decision, refused.Reason, refused.Status = audit.Deny, nothingWaits, http.StatusConflict
	if !s.Follower.Waits(in.Commit) {
		s.answer(w, r, refused)
		return
	}
	if !s.answer(w, r, rec) {
		return
	}
	switch err := s.Follower.Approve(in.Commit); {
	case errors.Is(err, unseal.ErrNothingWaits):
		s.answer(w, r, refused) // it went in between: the record before is not the last word
	case err != nil:
		s.Log.Error("an approval failed", "error", err)
		writeError(w, http.StatusInternalServerError, "internal", "the approval failed; see the agent's log")
	default:
		w.WriteHeader(http.StatusAccepted)
	}
}

// isCommit: a whole SHA-1 or SHA-256 in lower case.
func isCommit(s string) bool {
	if len(s) != 40 && len(s) != 64 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
