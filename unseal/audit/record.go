package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sealward/sealward/unseal/jsontext"
)

// Event is what a record tells of; the set is closed.
type Event string

// Read, List, Start, Stop, Sync, Approve and Project are appended by callers. Unauthenticated
// comes from [Log.Unauthenticated] and Torn from [Open]; Append refuses both.
const (
	Read            Event = "read"
	List            Event = "list"
	Unauthenticated Event = "unauthenticated"
	Torn            Event = "torn"
	Start           Event = "start"
	Stop            Event = "stop"
	Sync            Event = "sync"    // an operator asked for a look at the remotes
	Approve         Event = "approve" // an operator approved what waited at Commit
	Project         Event = "project" // a secret is written to Target, of a cluster
)

// Decision is the answer a read or list got.
type Decision string

const (
	Allow Decision = "allow"
	Deny  Decision = "deny"
)

// The reasons that [Log.Unauthenticated] counts by. The set is closed so that a
// flood of invented reasons cannot grow the record; anything else is Other.
const (
	NoCredential  = "no-credential"
	Malformed     = "malformed"
	UnknownToken  = "unknown"
	Expired       = "expired"
	NotYetValid   = "not-yet-valid"
	BadSignature  = "signature"
	WrongIssuer   = "issuer"
	WrongAudience = "audience"
	BadIdentity   = "identity" // a verified credential asserts a name that nobody can have
	RateLimited   = "rate-limited"
	Unavailable   = "unavailable" // whoever checks credentials could not be asked
	Other         = "other"
)

// Record is one line of the log. The order of the fields here is the order in the
// file; empty ones are left out, except the first three and Prev. Nothing in it is
// meant for a value, and what could be a value's hiding place is narrow: Reason and
// Method are single words, Commit and Blob hexadecimal, the rest is short and printable.
type Record struct {
	Seq   uint64    `json:"seq"`  // 1, 2, 3 ...; filled by Append
	Time  time.Time `json:"time"` // RFC 3339 with nanoseconds, UTC; filled by Append
	Event Event     `json:"event"`

	Decision Decision `json:"decision,omitempty"`
	Reason   string   `json:"reason,omitempty"` // one word of [a-z0-9-], else recorded as "other"
	Status   int      `json:"status,omitempty"` // the HTTP status of the answer

	Subject    string   `json:"subject,omitempty"`
	Roles      []string `json:"roles,omitempty"`      // at most 32, then "+n more"
	Credential string   `json:"credential,omitempty"` // id of the token, never the token
	Method     string   `json:"method,omitempty"`     // one word: token, oidc, kubernetes, tls
	Remote     string   `json:"remote,omitempty"`     // host; a port is dropped

	Workspace string   `json:"workspace,omitempty"`
	Name      string   `json:"name,omitempty"`
	Keys      []string `json:"keys,omitempty"`

	Grant string `json:"grant,omitempty"` // path of the grant file that decided
	Role  string `json:"role,omitempty"`  // the role through which it applied

	Commit string `json:"commit,omitempty"`
	Path   string `json:"path,omitempty"`
	Blob   string `json:"blob,omitempty"`

	// Parts is for a secret in several files, whose folder Path is: blob by file name. It
	// tells which content was read, as Blob does of one file.
	Parts map[string]string `json:"parts,omitempty"`

	// Target is where a projected secret goes: NAMESPACE/NAME of the cluster's Secret.
	Target string `json:"target,omitempty"`

	// An aggregate: how many calls since when, by reason.
	Count   uint64            `json:"count,omitempty"`
	Reasons map[string]uint64 `json:"reasons,omitempty"`
	Since   time.Time         `json:"since,omitzero"`

	Torn string `json:"torn,omitempty"` // SHA-256 of the bytes a crash left before this record
	Prev string `json:"prev"`           // SHA-256 of the record before, its newline excluded; filled by Append
}

const (
	maxRecord = 64 << 10 // a line without its newline

	maxText       = 253  // names, subjects, roles, keys, hosts
	maxPath       = 1024 // paths in the repository
	maxWord       = 64
	maxCredential = 64 // of a JWT passed here by mistake, too little to be one
	maxRoles      = 32

	// With the bounds above, a record with this much of keys stays below maxRecord.
	keysPerRecord = 32 << 10
	keysPerAppend = 1 << 20
)

// genesis is the Prev of the first record.
const genesis = "0000000000000000000000000000000000000000000000000000000000000000"

// prepare returns r as it may be written: checked, cut, printable, sharing no memory
// with the caller. Keys and parts that do not fit into one record go on in the next, because
// a list cut short would be a read that nobody recorded.
func prepare(r Record) ([]Record, error) {
	switch r.Event {
	case Read, List, Sync, Approve, Project:
		if r.Decision != Allow && r.Decision != Deny {
			return nil, fmt.Errorf("audit record: a %s needs the decision allow or deny; this is an error in the caller", r.Event)
		}
	case Start, Stop:
	default:
		return nil, errors.New("audit record: Append takes the events read, list, start, stop, sync, approve and project; this is an error in the caller")
	}
	ids := isObjectID(r.Commit) && isObjectID(r.Blob)
	for _, blob := range r.Parts {
		ids = ids && isObjectID(blob)
	}
	if !ids {
		return nil, errors.New("audit record: commit and blob must be hexadecimal object ids; this is an error in the caller")
	}

	keys := make([]string, len(r.Keys))
	total := 0
	for i, k := range r.Keys {
		keys[i] = clean(k, maxText)
		total += keyCost(keys[i])
	}
	parts := make([]part, 0, len(r.Parts))
	for _, name := range slices.Sorted(maps.Keys(r.Parts)) {
		p := part{clean(name, maxText), r.Parts[name]}
		parts = append(parts, p)
		total += p.cost()
	}
	if total > keysPerAppend {
		return nil, fmt.Errorf("audit record: %d keys are too many for one read; read them in several", len(keys))
	}

	base := Record{
		Event:      r.Event,
		Decision:   r.Decision,
		Reason:     word(r.Reason),
		Status:     r.Status,
		Subject:    clean(r.Subject, maxText),
		Roles:      cleanRoles(r.Roles),
		Credential: clean(r.Credential, maxCredential),
		Method:     word(r.Method),
		Remote:     clean(host(r.Remote), maxText),
		Workspace:  clean(r.Workspace, maxText),
		Name:       clean(r.Name, maxText),
		Grant:      clean(r.Grant, maxPath),
		Role:       clean(r.Role, maxText),
		Commit:     r.Commit,
		Path:       clean(r.Path, maxPath),
		Blob:       r.Blob,
		Target:     clean(r.Target, 2*maxText),
	}
	var recs []Record
	for {
		n, cost := 0, 0
		for n < len(keys) && cost+keyCost(keys[n]) <= keysPerRecord {
			cost += keyCost(keys[n])
			n++
		}
		rec := base
		if n > 0 {
			rec.Keys = keys[:n:n]
		}
		for len(parts) > 0 && cost+parts[0].cost() <= keysPerRecord {
			if rec.Parts == nil {
				rec.Parts = map[string]string{}
			}
			rec.Parts[parts[0].name] = parts[0].blob
			cost += parts[0].cost()
			parts = parts[1:]
		}
		recs = append(recs, rec)
		if keys = keys[n:]; len(keys) == 0 && len(parts) == 0 {
			return recs, nil
		}
	}
}

type part struct{ name, blob string }

func (p part) cost() int { return keyCost(p.name) + keyCost(p.blob) }

// keyCost is the most a clean key takes in JSON: of printable text only the quote and
// the backslash are escaped.
func keyCost(k string) int { return 2*len(k) + len(`"",`) }

// clean makes caller's text printable and cuts it to max bytes. Control characters
// would be escaped by JSON anyway; the ones that turn text around or hide it would not.
func clean(s string, max int) string {
	// The text may be huge and hostile: look at no more of it than can be kept.
	cut := len(s) > max
	if cut {
		s = s[:max]
	}
	if !isPlain(s) {
		s = strings.Map(func(r rune) rune {
			if unicode.IsPrint(r) {
				return r
			}
			return utf8.RuneError
		}, s)
	}
	const mark = "…"
	if cut || len(s) > max {
		for n := min(len(s), max-len(mark)); ; n-- {
			if n == len(s) || utf8.RuneStart(s[n]) {
				return s[:n] + mark
			}
		}
	}
	return s
}

// isPlain reports that s is printable ASCII.
func isPlain(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

func cleanRoles(roles []string) []string {
	var out []string
	for i, r := range roles {
		if i == maxRoles-1 && len(roles) > maxRoles {
			return append(out, fmt.Sprintf("+%d more", len(roles)-i))
		}
		out = append(out, clean(r, maxText))
	}
	return out
}

func word(s string) string {
	ok := len(s) <= maxWord
	for i := 0; ok && i < len(s); i++ {
		c := s[i]
		ok = c == '-' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z'
	}
	if !ok {
		return Other
	}
	return s
}

func host(remote string) string {
	if h, _, err := net.SplitHostPort(remote); err == nil {
		return h
	}
	return remote
}

// isObjectID also accepts none: not every read has reached an object.
func isObjectID(s string) bool {
	return s == "" || (len(s) == 40 || len(s) == 64) && isHex(s)
}

func isHex(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// place is a point in the chain: the last record's number and hash.
type place struct {
	seq  uint64
	hash string
}

// extend links r to the chain at p and appends its line to buf.
func extend(buf []byte, p place, r *Record, now time.Time) ([]byte, place, error) {
	body, err := spell(*r)
	if err != nil {
		return buf, p, err
	}
	return link(buf, p, r, body, now)
}

// spell gives what of a record's line does not hang on its place in the chain, as encode
// would. That is most of the work, and those who append do it side by side.
func spell(r Record) ([]byte, error) {
	buf := make([]byte, 0, 512)
	text := func(name string, s string) { buf = jsontext.Field(buf, name, s) }
	list := func(name string, l []string) {
		if len(l) > 0 {
			buf = jsontext.Strings(jsontext.Name(buf, name), l)
		}
	}
	buf = jsontext.String(append(buf, `,"event":`...), string(r.Event))
	text("decision", string(r.Decision))
	text("reason", r.Reason)
	if r.Status != 0 {
		buf = strconv.AppendInt(jsontext.Name(buf, "status"), int64(r.Status), 10)
	}
	text("subject", r.Subject)
	list("roles", r.Roles)
	text("credential", r.Credential)
	text("method", r.Method)
	text("remote", r.Remote)
	text("workspace", r.Workspace)
	text("name", r.Name)
	list("keys", r.Keys)
	text("grant", r.Grant)
	text("role", r.Role)
	text("commit", r.Commit)
	text("path", r.Path)
	text("blob", r.Blob)
	if len(r.Parts) > 0 {
		buf = append(jsontext.Name(buf, "parts"), '{')
		for _, name := range slices.Sorted(maps.Keys(r.Parts)) {
			buf = jsontext.String(jsontext.Name(buf, name), r.Parts[name])
		}
		buf = append(buf, '}')
	}
	text("target", r.Target)
	if r.Count != 0 {
		buf = strconv.AppendUint(jsontext.Name(buf, "count"), r.Count, 10)
	}
	if len(r.Reasons) > 0 {
		buf = append(jsontext.Name(buf, "reasons"), '{')
		for _, reason := range slices.Sorted(maps.Keys(r.Reasons)) {
			buf = strconv.AppendUint(jsontext.Name(buf, reason), r.Reasons[reason], 10)
		}
		buf = append(buf, '}')
	}
	if !r.Since.IsZero() {
		buf = jsontext.Time(jsontext.Name(buf, "since"), r.Since)
	}
	text("torn", r.Torn)
	if len(buf) > maxRecord {
		return nil, fmt.Errorf("audit record: %d bytes, more than %d", len(buf), maxRecord)
	}
	return buf, nil
}

// linkCost bounds what link adds to a body.
const linkCost = 192

// link gives r, which is spelled as body, its place in the chain, and appends its line
// to buf. The line is the one that encode would give.
func link(buf []byte, p place, r *Record, body []byte, now time.Time) ([]byte, place, error) {
	// Round drops the monotonic reading, so that what Append returns equals what is read back.
	r.Seq, r.Time, r.Prev = p.seq+1, now.UTC().Round(0), p.hash
	if y := r.Time.Year(); y < 0 || y > 9999 {
		return buf, p, errors.New("audit record: the clock is out of the years that RFC 3339 has")
	}
	start := len(buf)
	out := append(buf, `{"seq":`...)
	out = strconv.AppendUint(out, r.Seq, 10)
	out = append(out, `,"time":"`...)
	out = r.Time.AppendFormat(out, time.RFC3339Nano)
	out = append(out, '"')
	out = append(out, body...)
	out = append(out, `,"prev":"`...)
	out = append(append(out, r.Prev...), `"}`...)
	line := out[start:]
	if len(line) > maxRecord {
		return buf, p, fmt.Errorf("audit record: %d bytes, more than %d", len(line), maxRecord)
	}
	return append(out, '\n'), place{r.Seq, hashOf(line)}, nil
}

// encode gives the one spelling of a record, without newline.
func encode(r Record) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // a name full of < must not grow sixfold
	if err := enc.Encode(r); err != nil {
		return nil, fmt.Errorf("audit record: %w", err)
	}
	line := bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	if len(line) > maxRecord {
		return nil, fmt.Errorf("audit record: %d bytes, more than %d", len(line), maxRecord)
	}
	return line, nil
}

var (
	errNotRecord = errors.New("is not a record")
	errSpelling  = errors.New("is not spelled as this log spells a record")
)

// decode accepts exactly what encode writes. Its errors quote nothing: the line may
// be anything.
func decode(line []byte) (Record, error) {
	// The quick look is for Open and Verify on megabytes of something else.
	if len(line) > maxRecord || !bytes.HasPrefix(line, []byte(`{"seq":`)) {
		return Record{}, errNotRecord
	}
	var r Record
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&r); err != nil {
		return Record{}, errNotRecord
	}
	if !slices.Contains(Events(), r.Event) {
		return Record{}, errNotRecord
	}
	// Duplicate keys, other escapes, other orders, trailing bytes, another time zone:
	// all of them differ from what would have been written.
	r.Time, r.Since = r.Time.UTC(), r.Since.UTC()
	again, err := encode(r)
	if err != nil || !bytes.Equal(again, line) {
		return Record{}, errSpelling
	}
	return r, nil
}

func hashOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
