package review

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal/access"
)

// Verb is what somebody would do with a secret.
type Verb string

// The verbs that grants know.
const (
	Read Verb = "read"
	List Verb = "list"
)

// ParseVerb accepts read and list.
func ParseVerb(s string) (Verb, error) {
	if s != string(Read) && s != string(List) {
		return "", fmt.Errorf("%.40q is nothing that a grant gives; read or list", s)
	}
	return Verb(s), nil
}

// Question is whether somebody may do something.
type Question struct {
	Verb      Verb
	Workspace manifest.Workspace
	Name      manifest.Name // zero, for list: anything in the workspace
	Key       manifest.Key  // zero: some key
	As        access.Identity
	At        time.Time
}

// Decide answers a question as an agent would that has applied the tree.
func (p *Policy) Decide(q Question) access.Decision {
	switch {
	case q.Verb == List && q.Name.IsZero():
		return p.MayList(q.As, q.Workspace, q.At)
	case q.Verb == List:
		return p.Policy.List(q.As, q.Workspace, q.Name, q.At)
	case q.Key.String() != "":
		return p.Policy.Read(q.As, q.Workspace, q.Name, q.At).Key(q.Key)
	}
	return p.Policy.Read(q.As, q.Workspace, q.Name, q.At).Any()
}

// Answer to a Question, with what people want to know besides.
type Answer struct {
	Allowed   bool     `json:"allowed"`
	Reason    string   `json:"reason"` // as the agent's audit calls it
	Verb      Verb     `json:"verb"`
	Workspace string   `json:"workspace"`
	Name      string   `json:"name"`
	Key       string   `json:"key,omitempty"`
	As        string   `json:"as"`
	Roles     []string `json:"roles,omitempty"` // that a token would assert
	Tree      string   `json:"tree"`
	Commit    string   `json:"commit,omitempty"`
	// Grant decided, or closes the policy; Role is how it applied, Until when that ends.
	Grant   string     `json:"grant,omitempty"`
	Role    string     `json:"role,omitempty"`
	Until   *time.Time `json:"until,omitempty"`
	Problem string     `json:"problem,omitempty"` // of the file that closes the policy
	// Ended are grants that would allow it if they were not over, and Broken those of the
	// workspace that cannot be read and grant nothing.
	Ended  []string `json:"ended,omitempty"`
	Broken []string `json:"broken,omitempty"`
	// Exists says that the tree has the secret (and the key); nothing was decided by
	// that.
	Exists bool `json:"exists"`
	// Keys that the secret has, and those of them that may be read; only for a question
	// without a key.
	Keys     []string `json:"keys,omitempty"`
	Readable []string `json:"readable,omitempty"`
}

// CanI decides a question from the tree alone.
func (t *Tree) CanI(ctx context.Context, q Question) (*Answer, error) {
	p, err := t.Policy(ctx, q.Workspace)
	if err != nil {
		return nil, err
	}
	d := p.Decide(q)
	a := &Answer{
		Allowed: d.Allowed, Reason: string(d.Reason), Verb: q.Verb, Workspace: q.Workspace.String(), Name: q.Name.String(), Key: q.Key.String(),
		As: q.As.User.String(), Tree: t.Name, Commit: t.Commit, Grant: d.Grant, Until: p.until(q, d),
	}
	for _, r := range q.As.Roles {
		a.Roles = append(a.Roles, r.String())
	}
	if _, isRole := d.Subject.Role(); isRole {
		a.Role = d.Subject.String()
	}
	if d.Reason == access.PolicyBroken {
		a.Problem = p.Problem(d.Grant)
	}
	if d.Reason == access.NoGrant {
		a.Ended = p.ended(q)
		for _, problem := range p.Problems {
			if problem.Closes == "" {
				a.Broken = append(a.Broken, problem.Path)
			}
		}
	}
	keys, exists, err := t.keysOf(ctx, q.Workspace, q.Name)
	if err != nil {
		return nil, err
	}
	a.Exists = exists && (q.Key.String() == "" || slices.Contains(keys, q.Key))
	if q.Verb == Read && q.Key.String() == "" {
		may := p.Policy.Read(q.As, q.Workspace, q.Name, q.At)
		for _, k := range keys {
			a.Keys = append(a.Keys, k.String())
			if may.Key(k).Allowed {
				a.Readable = append(a.Readable, k.String())
			}
		}
	}
	return a, nil
}

// ended lists the grants that were over at the time of the question and would else
// allow it.
func (p *Policy) ended(q Question) (out []string) {
	rules := p.Policy.Read(q.As, q.Workspace, q.Name, time.Time{}).Rules()
	if q.Verb == List {
		rules = append(rules, p.Listing(q.As, q.Workspace, q.Name, time.Time{}).Rules()...)
	}
	for _, r := range rules {
		if over := !r.Expires.IsZero() && !q.At.Before(r.Expires); !r.Deny && over && (q.Key.String() == "" || r.Covers(q.Key)) {
			out = append(out, r.Grant+" ended at "+r.Expires.UTC().Format(time.RFC3339))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// until is when the decision ends: an allow with its last grant, a deny with the last
// deny. Nil is never, or no grant at all.
func (p *Policy) until(q Question, d access.Decision) *time.Time {
	rules := p.Policy.Read(q.As, q.Workspace, q.Name, q.At).Rules()
	class := func(r access.Rule) bool { return q.Key.String() == "" || r.Covers(q.Key) }
	if q.Verb == List {
		listing := p.Listing(q.As, q.Workspace, q.Name, q.At)
		switch {
		case d.Reason == access.DenyGrant && listing.Any().Reason == access.DenyGrant:
			rules = listing.Rules()
		default:
			rules = append(rules, listing.Rules()...)
		}
	}
	var end time.Time
	for _, r := range rules {
		if r.Deny == d.Allowed || !class(r) {
			continue
		}
		if r.Expires.IsZero() {
			return nil
		}
		if r.Expires.After(end) {
			end = r.Expires
		}
	}
	if end.IsZero() || d.Reason == access.NoGrant {
		return nil
	}
	end = end.UTC()
	return &end
}

// keysOf lists the keys of a secret, as far as its files can be read.
func (t *Tree) keysOf(ctx context.Context, ws manifest.Workspace, name manifest.Name) (keys []manifest.Key, exists bool, err error) {
	if name.IsZero() {
		return nil, false, nil
	}
	base := strings.TrimSuffix(manifest.SecretPath(ws, name), ".yaml")
	files, err := t.filesAt(ctx, base+".yaml", base+".json", base)
	if err != nil {
		return nil, false, err
	}
	for _, f := range files {
		place, ours, wrong := manifest.Locate(f.Path)
		if !ours || wrong != nil || place.Policy || place.Name != name {
			continue
		}
		exists = true
		if !f.Mode.IsFile() {
			continue
		}
		data, err := t.Read(ctx, f)
		if err != nil {
			continue // check says so; which keys there are decides nothing
		}
		if m, err := manifest.Parse(f.Path, data); err == nil && m.Secret != nil {
			for _, e := range m.Secret.Entries {
				keys = append(keys, e.Key)
			}
		}
	}
	slices.SortFunc(keys, func(a, b manifest.Key) int { return strings.Compare(a.String(), b.String()) })
	return slices.Compact(keys), exists, nil
}

// WriteWhy says for people why the answer is what it is.
func (a *Answer) WriteWhy(w io.Writer) {
	through, where := "", " ("+at(a.Tree, a.Commit)+")"
	if a.Role != "" && a.Role != a.As {
		through = ", through " + a.Role
	}
	if a.Until != nil {
		through += ", until " + a.Until.Format(time.RFC3339)
	}
	what := a.Workspace + "/" + a.Name
	if a.Key != "" {
		what += "/" + a.Key
	}
	say := func(format string, args ...any) { fmt.Fprintln(w, oneLine(fmt.Sprintf(format, args...))) }
	switch access.Reason(a.Reason) {
	case access.Granted:
		say("granted by %s%s%s", a.Grant, through, where)
	case access.DenyGrant:
		say("denied by %s%s%s", a.Grant, through, where)
	case access.PolicyBroken:
		say("policy-broken: %s%s", firstLineOf(a.Problem), where)
		say("Nobody reads anything that this file could deny until it is mended or removed.")
	default:
		who := a.As
		if len(a.Roles) > 0 {
			who += " with " + strings.Join(a.Roles, ", ")
		}
		say("no grant lets %s %s %s%s", who, a.Verb, what, where)
		for _, ended := range a.Ended {
			say("%s", ended)
		}
		for _, path := range a.Broken {
			say("%s is broken and grants nothing; sealward check says why", path)
		}
	}
	switch {
	case !a.Exists && a.Name != "":
		say("%s does not exist (%s); the grants decide all the same", what, at(a.Tree, a.Commit))
	case a.Allowed && len(a.Readable) < len(a.Keys):
		say("it may read %s; not %s", listOr(a.Readable, "none of the keys there are"), strings.Join(without(a.Keys, a.Readable), ", "))
	case a.Allowed && len(a.Keys) > 0:
		say("its keys: %s", strings.Join(a.Keys, ", "))
	}
}

func at(tree, commit string) string {
	switch {
	case commit == "":
		return tree
	case strings.HasPrefix(commit, tree):
		return "commit " + commit[:12]
	}
	return tree + ", commit " + commit[:12]
}

func firstLineOf(lines string) string {
	first, _, _ := strings.Cut(lines, "\n")
	return first
}

func listOr(names []string, none string) string {
	if len(names) == 0 {
		return none
	}
	return strings.Join(names, ", ")
}

// Status of a Holder.
type Status string

// The statuses: can, a deny takes it away, the grant has expired.
const (
	Can     Status = "can"
	Denied  Status = "denied"
	Expired Status = "expired"
)

// Holder is one subject and one grant that lets it, or would let it, do something.
type Holder struct {
	Subject string `json:"subject"`
	Status  Status `json:"status"`
	// Keys that this grant gives, after the denies; of one that is denied or expired, what
	// it would give.
	Keys     KeySet     `json:"keys"`
	Grant    string     `json:"grant"`
	Role     string     `json:"role,omitempty"` // through which it applies
	Until    *time.Time `json:"until,omitempty"`
	DeniedBy string     `json:"deniedBy,omitempty"` // path of a grant
}

// WhoCan lists who may do something with one secret.
type WhoCan struct {
	Verb      Verb   `json:"verb"`
	Workspace string `json:"workspace"`
	Name      string `json:"name"`
	Key       string `json:"key,omitempty"`
	Tree      string `json:"tree"`
	Commit    string `json:"commit,omitempty"`
	Exists    bool   `json:"exists"`
	// Broken is the file that closes the policy, so that nobody may; Problem what is
	// wrong with it.
	Broken  string   `json:"policyBroken,omitempty"`
	Problem string   `json:"problem,omitempty"`
	Holders []Holder `json:"holders"` // sorted
}

// WhoCan lists all subjects that may do what q asks, whose As does not matter, and
// those that a deny or an expiry keeps from it. A role stands for whoever a token
// asserts it for.
func (t *Tree) WhoCan(ctx context.Context, q Question) (*WhoCan, error) {
	if q.Name.IsZero() {
		return nil, errors.New("who can do what is asked of one secret")
	}
	p, err := t.Policy(ctx, q.Workspace)
	if err != nil {
		return nil, err
	}
	keys, exists, err := t.keysOf(ctx, q.Workspace, q.Name)
	if err != nil {
		return nil, err
	}
	out := &WhoCan{
		Verb: q.Verb, Workspace: q.Workspace.String(), Name: q.Name.String(), Key: q.Key.String(), Tree: t.Name, Commit: t.Commit,
		Exists: exists && (q.Key.String() == "" || slices.Contains(keys, q.Key)), Holders: []Holder{},
	}
	if path, broken := p.Broken(q.Workspace); broken {
		out.Broken, out.Problem = path, p.Problem(path)
		return out, nil
	}
	for _, s := range p.Subjects(q.Workspace, q.Name) {
		q.As = access.Identity{User: s}
		out.Holders = append(out.Holders, p.holders(q)...)
	}
	return out, nil
}

// holders are the grants through which one subject may do what q asks, or would.
func (p *Policy) holders(q Question) []Holder {
	var out []Holder
	add := func(a access.Access, forever access.Access, denied string) {
		active := a.Rules()
		all := classes(active)
		for _, r := range forever.Rules() {
			if r.Deny || q.Key.String() != "" && !r.Covers(q.Key) {
				continue
			}
			h := Holder{Subject: q.As.User.String(), Status: Can, Grant: r.Grant}
			if _, isRole := r.Subject.Role(); isRole && r.Subject != q.As.User {
				h.Role = r.Subject.String()
			}
			if !r.Expires.IsZero() {
				end := r.Expires.UTC()
				h.Until = &end
			}
			whole := classes([]access.Rule{r})
			h.Keys = keySet(whole, func(c keyClass) bool { return c.coveredBy(r) })
			if q.Key.String() != "" {
				h.Keys = KeySet{Keys: []string{q.Key.String()}}
			}
			gives := keySet(all, func(c keyClass) bool { return c.coveredBy(r) && c.decide(a).Allowed })
			allowed := !gives.empty()
			if q.Key.String() != "" {
				allowed = a.Key(q.Key).Allowed
			}
			switch {
			case !r.Expires.IsZero() && !q.At.Before(r.Expires):
				h.Status = Expired
			case denied != "":
				h.Status, h.DeniedBy = Denied, denied
			case !allowed:
				h.Status, h.DeniedBy = Denied, denier(active, all, r, q.Key)
			case q.Key.String() == "":
				h.Keys = gives
			}
			out = append(out, h)
		}
	}
	read := p.Policy.Read(q.As, q.Workspace, q.Name, q.At)
	readEver := p.Policy.Read(q.As, q.Workspace, q.Name, time.Time{})
	if q.Verb == Read {
		add(read, readEver, "")
		return out
	}
	q.Key = manifest.Key{}
	list := p.Listing(q.As, q.Workspace, q.Name, q.At)
	denied := ""
	if d := list.Any(); d.Reason == access.DenyGrant {
		denied = d.Grant // it hides the secret also from those who may read it
	}
	add(list, p.Listing(q.As, q.Workspace, q.Name, time.Time{}), denied)
	add(read, readEver, denied)
	return out
}

// denier is the path of a deny that takes something of r away.
func denier(rules []access.Rule, all []keyClass, r access.Rule, key manifest.Key) string {
	for _, deny := range rules {
		if !deny.Deny {
			continue
		}
		for _, c := range all {
			if c.coveredBy(r) && c.coveredBy(deny) && (key.String() == "" || deny.Covers(key)) {
				return deny.Grant
			}
		}
	}
	return ""
}

// Headings and Rows are the table of who can. With wide it also shows those that may
// not, and why.
func (w *WhoCan) Headings(wide bool) []string {
	out := []string{"SUBJECT", "KEYS", "THROUGH", "UNTIL"}
	if wide {
		out = append(out, "STATUS")
	}
	return out
}

// Rows of the table, see Headings.
func (w *WhoCan) Rows(wide bool) [][]string {
	var rows [][]string
	for _, h := range w.Holders {
		if h.Status != Can && !wide {
			continue
		}
		through, end := h.Grant, "-"
		if h.Role != "" {
			through += ", " + h.Role
		} else if strings.HasPrefix(h.Subject, "roles:id:") {
			through += ", whoever a token asserts it for"
		}
		if h.Until != nil {
			end = h.Until.Format(time.RFC3339)
		}
		keys := h.Keys.String()
		if w.Verb == List {
			keys = "-"
		}
		row := []string{h.Subject, keys, through, end}
		if wide {
			status := string(h.Status)
			if h.DeniedBy != "" {
				status += " by " + h.DeniedBy
			}
			row = append(row, status)
		}
		rows = append(rows, row)
	}
	return rows
}

// WriteNotes says for people what the table, wide or not, does not.
func (w *WhoCan) WriteNotes(out io.Writer, wide bool) {
	what := w.Workspace + "/" + w.Name
	if w.Key != "" {
		what += "/" + w.Key
	}
	say := func(format string, args ...any) { fmt.Fprintln(out, oneLine(fmt.Sprintf(format, args...))) }
	where := at(w.Tree, w.Commit)
	if w.Broken != "" {
		say("nobody: policy-broken: %s (%s)", firstLineOf(w.Problem), where)
		say("All reads that this file could deny are refused until it is mended or removed.")
		return
	}
	hidden, can := 0, 0
	for _, h := range w.Holders {
		if h.Status == Can {
			can++
		} else {
			hidden++
		}
	}
	if can == 0 {
		say("nobody can %s %s (%s)", w.Verb, what, where)
	}
	if hidden > 0 && !wide {
		say("denied or expired: %d; -o wide shows them", hidden)
	}
	if !w.Exists {
		say("%s does not exist there; the grants decide all the same", what)
	}
}
