package propose

import (
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/sealward/sealward/gitops/review"
)

// maxSubject is what git log and Git hosts show of a message's first line.
const maxSubject = 72

// maxLines of a message's body; the diff has the rest.
const maxLines = 100

// message says what a commit changes: one line, and where that is not all or the line is
// given, a line for each thing. It names secrets, keys and fields, no value.
func message(d *review.Diff, given string) (subject, body string) {
	var lines []string
	for _, s := range d.Secrets {
		lines = append(lines, s.Workspace+"/"+s.Name+": "+secretChange(s, true))
	}
	for _, p := range d.Policy {
		lines = append(lines, policyChange(p))
	}
	for _, r := range d.Rules {
		lines = append(lines, ruleChange(r))
	}
	for _, f := range d.Files {
		lines = append(lines, verb(f.Change)+" "+printable(f.Path))
	}
	if len(lines) == 1 && given == "" {
		if subject = lines[0]; fits(subject) {
			return upperVerb(subject), ""
		}
	}
	subject = summary(d, len(lines))
	if len(d.Secrets) == 1 && len(lines) == 1 {
		s := d.Secrets[0]
		if short := s.Workspace + "/" + s.Name + ": " + secretChange(s, false); fits(short) {
			subject = short
		}
	}
	if given != "" {
		subject = given
	}
	var b strings.Builder
	for i, line := range lines {
		if i == maxLines {
			fmt.Fprintf(&b, "- and %d more\n", len(lines)-i)
			break
		}
		b.WriteString("- " + line + "\n")
	}
	return subject, b.String()
}

func fits(s string) bool { return len(s) <= maxSubject }

// secretChange is what happened to a secret; without names, how much.
func secretChange(s review.SecretChange, names bool) string {
	keys := map[review.ChangeKind][]string{}
	for _, k := range s.Keys {
		keys[k.Change] = append(keys[k.Change], k.Key)
	}
	what := func(kind review.ChangeKind) string {
		if names {
			return strings.Join(keys[kind], " and ")
		}
		return count(len(keys[kind]), "key")
	}
	switch {
	case s.Change == review.Removed:
		return "remove the secret"
	case s.Change == review.Added && len(s.Keys) == 0:
		return "add the secret"
	case s.Change == review.Added:
		return "add the secret, with " + what(review.Added)
	}
	var out []string
	for _, k := range []struct {
		kind          review.ChangeKind
		before, after string
	}{{review.Changed, "set ", ""}, {review.Added, "add ", ""}, {review.Removed, "remove ", ""}, {review.Resealed, "seal ", " anew"}} {
		if len(keys[k.kind]) > 0 {
			out = append(out, k.before+what(k.kind)+k.after)
		}
	}
	var fields []string
	for _, f := range s.Fields {
		fields = append(fields, f.Field)
	}
	if len(fields) > 0 {
		slices.Sort(fields)
		out = append(out, "change "+strings.Join(slices.Compact(fields), " and "))
	}
	if n := len(s.RecipientsAdded); n > 0 {
		out = append(out, "seal for "+count(n, "more recipient"))
	}
	if n := len(s.RecipientsRemoved); n > 0 {
		out = append(out, "no longer seal for "+count(n, "recipient"))
	}
	if len(out) == 0 {
		return "seal anew"
	}
	return strings.Join(out, ", ")
}

func policyChange(p review.PolicyChange) string {
	line := p.Kind + "s: " + verb(p.Change) + " " + p.Workspace + "/" + p.Name
	var fields []string
	if p.Change == review.Changed {
		for _, f := range p.Fields {
			fields = append(fields, f.Field)
		}
	}
	if len(fields) > 0 {
		slices.Sort(fields)
		line += " (" + strings.Join(slices.Compact(fields), ", ") + ")"
	}
	return printable(line)
}

func ruleChange(r review.RuleChange) string {
	switch {
	case r.Change == review.Added:
		return fmt.Sprintf(".sops.yaml: add workspace %s, for %s", r.Workspace, count(len(r.Added), "recipient"))
	case r.Change == review.Removed:
		return ".sops.yaml: remove workspace " + r.Workspace
	}
	var out []string
	if n := len(r.Added); n > 0 {
		out = append(out, "add "+count(n, "recipient"))
	}
	if n := len(r.Removed); n > 0 {
		out = append(out, "remove "+count(n, "recipient"))
	}
	if len(out) == 0 {
		out = []string{"change its rule"}
	}
	return ".sops.yaml: " + r.Workspace + ": " + strings.Join(out, ", ")
}

// summary is the subject of a change that one line cannot tell.
func summary(d *review.Diff, lines int) string {
	var where []string
	kinds := map[review.ChangeKind]bool{}
	for _, s := range d.Secrets {
		where, kinds[s.Change] = append(where, s.Workspace), true
	}
	policy := map[string]int{}
	for _, p := range d.Policy {
		where, kinds[p.Change] = append(where, p.Workspace), true
		policy[p.Kind]++
	}
	for _, r := range d.Rules {
		where = append(where, r.Workspace)
		kinds[review.Changed] = true
	}
	verb := "Change"
	if len(d.Files) == 0 && len(kinds) == 1 {
		verb = map[review.ChangeKind]string{review.Added: "Add", review.Removed: "Remove", review.Resealed: "Seal anew"}[soleKey(kinds)]
	}
	if verb == "" {
		verb = "Change"
	}
	var what []string
	for _, c := range []struct {
		n    int
		noun string
	}{{len(d.Secrets), "secret"}, {policy["grant"], "grant"}, {policy["role"], "role"}} {
		if c.n > 0 {
			what = append(what, count(c.n, c.noun))
		}
	}
	if len(d.Rules) > 0 {
		what = append(what, "recipients")
	}
	if len(what) == 0 {
		return "Change " + count(max(lines, 1), "file")
	}
	if n := len(d.Files); n > 0 {
		what = append(what, count(n, "other file"))
	}
	subject := verb + " " + list(what)
	slices.Sort(where)
	switch where = slices.Compact(where); {
	case len(where) == 1:
		subject += " in " + where[0]
	default:
		subject += fmt.Sprintf(" in %d workspaces", len(where))
	}
	return subject
}

func soleKey(kinds map[review.ChangeKind]bool) review.ChangeKind {
	for k := range kinds {
		return k
	}
	return ""
}

// list is a, b and c.
func list(words []string) string {
	if n := len(words); n > 1 {
		return strings.Join(words[:n-1], ", ") + " and " + words[n-1]
	}
	return strings.Join(words, "")
}

func verb(k review.ChangeKind) string {
	switch k {
	case review.Added:
		return "add"
	case review.Removed:
		return "remove"
	case review.Resealed:
		return "seal anew"
	}
	return "change"
}

// upperVerb starts a line that is only a verb and a path as a subject starts.
func upperVerb(s string) string {
	for _, v := range []string{"add ", "remove ", "change ", "seal anew "} {
		if strings.HasPrefix(s, v) {
			return strings.ToUpper(s[:1]) + s[1:]
		}
	}
	return s
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// printable keeps a path, which may hold anything, from ending the line it stands in.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.In(r, unicode.Cc, unicode.Zl, unicode.Zp, unicode.Bidi_Control) {
			return '?'
		}
		return r
	}, s)
}
