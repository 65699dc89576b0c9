package serve

import (
	"net/http"
	"path"
	"strings"

	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/access"
	"github.com/sealward/sealward/unseal/audit"
)

// recordContent notes in an audit record which content of a secret is given: the blobs
// of the parts that it comes from. A commit alone would not tell it, because most commits
// change other secrets.
func recordContent(rec *audit.Record, parts []*unseal.Record) {
	if len(parts) == 1 {
		rec.Path, rec.Blob = parts[0].Path, parts[0].Good.Provenance.Blob
		return
	}
	rec.Parts = make(map[string]string, len(parts))
	for _, p := range parts {
		rec.Path = path.Dir(p.Path)
		rec.Parts[path.Base(p.Path)] = p.Good.Provenance.Blob
	}
}

// recordedReason tells a name that is none from one without a grant: the answers are
// alike, but who replays the audit sees the names as they were parsed only.
func (r *request) recordedReason(d access.Decision) string {
	if d.Reason == access.NoGrant && !r.valid && strings.Contains(r.Pattern, "/secrets") {
		return string(access.InvalidName)
	}
	return string(d.Reason)
}

// nothingWaits is the reason of an approval that has nothing to approve.
const nothingWaits = "nothing-waits"

func (s *server) refuseApproval(w http.ResponseWriter) {
	writeError(w, http.StatusConflict, nothingWaits, "nothing waits for approval at that commit; sealward status shows what does")
}
