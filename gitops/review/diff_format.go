package review

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// WriteText prints a diff for a terminal.
func (d *Diff) WriteText(w io.Writer) error {
	var b strings.Builder
	for _, s := range d.Secrets {
		fmt.Fprintf(&b, "%s %s/%s (%s)%s\n", mark(s.Change), s.Workspace, s.Name, s.Type, map[ChangeKind]string{Added: " added", Removed: " removed", Resealed: " sealed anew, no value changed"}[s.Change])
		for _, k := range s.Keys {
			fmt.Fprintf(&b, "    %s %s%s\n", mark(k.Change), k.Key, map[ChangeKind]string{Resealed: "  (sealed anew, same value)"}[k.Change])
		}
		for _, f := range s.Fields {
			fmt.Fprintf(&b, "    %s: %s\n", f.Field, oneLine(f.text(s.Change)))
		}
		b.WriteString(recipientLines(s.RecipientsAdded, s.RecipientsRemoved))
		for _, n := range s.Notes {
			fmt.Fprintf(&b, "    note: %s\n", oneLine(n))
		}
	}
	for _, r := range d.Rules {
		fmt.Fprintf(&b, "%s %s: who is sealed for by .sops.yaml\n", mark(r.Change), scopeName(r.Workspace))
		b.WriteString(recipientLines(r.Added, r.Removed))
	}
	for _, p := range d.Policy {
		fmt.Fprintf(&b, "%s %s %s (%s)\n", mark(p.Change), p.Kind, p.Name, scopeName(p.Workspace))
		for _, f := range p.Fields {
			fmt.Fprintf(&b, "    %s: %s\n", f.Field, oneLine(f.text(p.Change)))
		}
	}
	for _, f := range d.Files {
		fmt.Fprintf(&b, "%s %s\n", mark(f.Change), oneLine(f.Path))
		if f.Problem != "" {
			fmt.Fprintf(&b, "    problem: %s\n", oneLine(f.Problem))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func mark(k ChangeKind) string {
	return map[ChangeKind]string{Added: "+", Removed: "-", Changed: "~", Resealed: "="}[k]
}

// text of a field that changed, or, of something new or removed, what it is or was.
func (f FieldChange) text(of ChangeKind) string {
	return f.words(of, func(s string) string { return s })
}

func (f FieldChange) words(of ChangeKind, quote func(string) string) string {
	all := func(text string) string {
		var out []string
		for _, s := range strings.Split(text, ", ") { // each by itself: long text is cut
			out = append(out, quote(s))
		}
		return strings.Join(out, ", ")
	}
	none := "none"
	if f.Field == "keys" || f.Field == "secrets" { // a grant that names none is about all
		none = "all"
	}
	switch {
	case of == Added && f.isList():
		return all(f.New)
	case of == Added:
		return quote(f.New)
	case of == Removed && f.isList():
		return all(f.Old)
	case of == Removed:
		return quote(f.Old)
	case f.isList() && f.Old != "" && f.New != "":
		var out []string
		old, now := strings.Split(f.Old, ", "), strings.Split(f.New, ", ")
		for _, s := range without(now, old) {
			out = append(out, "+ "+quote(s))
		}
		for _, s := range without(old, now) {
			out = append(out, "− "+quote(s))
		}
		return strings.Join(out, ", ")
	case f.Old == "" && f.isList():
		return none + " → " + all(f.New)
	case f.New == "" && f.isList():
		return all(f.Old) + " → " + none
	case f.Old == "":
		return none + " → " + quote(f.New)
	case f.New == "":
		return quote(f.Old) + " → " + none
	}
	return quote(f.Old) + " → " + quote(f.New)
}

// isList tells the fields that hold names.
func (f FieldChange) isList() bool {
	return slices.Contains([]string{"subjects", "secrets", "keys", "workspaces", "members", "tags", "labels"}, f.Field)
}

func recipientLines(added, removed []string) string {
	var b strings.Builder
	for _, r := range added {
		fmt.Fprintf(&b, "    + recipient %s\n", oneLine(r))
	}
	for _, r := range removed {
		fmt.Fprintf(&b, "    - recipient %s\n", oneLine(r))
	}
	return b.String()
}

func scopeName(ws string) string {
	if ws == "instance" {
		return "instance"
	}
	return "workspace " + ws
}

// WriteMarkdown prints a diff as a comment for a pull request.
func (d *Diff) WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	b.WriteString("### Secrets\n\n")
	if d.Empty() {
		b.WriteString("Nothing about secrets, grants or recipients changes.\n")
	}
	problems, anew := false, false
	for _, f := range d.Files {
		if f.Problem != "" {
			fmt.Fprintf(&b, "- **Problem**: %s: %s\n", code(f.Path), plain(f.Problem))
			problems = true
		}
	}
	if problems {
		b.WriteString("\n")
	}
	if len(d.Secrets) > 0 {
		b.WriteString("| | Secret | Keys | Besides |\n| --- | --- | --- | --- |\n")
		for _, s := range d.Secrets {
			var keys []string
			for _, kind := range []ChangeKind{Added, Changed, Removed, Resealed} {
				if kind == s.Change && kind != Changed { // the row says it
					kind = ""
				}
				var names []string
				for _, k := range s.Keys {
					if k.Change == kind || kind == "" && k.Change == s.Change {
						names = append(names, code(k.Key))
					}
				}
				if len(names) > 0 {
					keys = append(keys, strings.TrimSpace(keyWord(kind)+" "+strings.Join(names, ", ")))
				}
			}
			var besides []string
			if s.Change == Added || s.Change == Removed {
				besides = append(besides, "type "+code(s.Type))
			}
			for _, f := range s.Fields {
				besides = append(besides, f.Field+": "+f.words(s.Change, code))
			}
			besides = append(besides, recipientWords(s.RecipientsAdded, s.RecipientsRemoved, s.Change == Added)...)
			for _, n := range s.Notes {
				if n == noteAnew { // of a rotation it stands in every row
					anew = true
					besides = append(besides, "sealed anew ¹")
					continue
				}
				besides = append(besides, "**"+plain(n)+"**")
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", s.Change, code(s.Workspace+"/"+s.Name), strings.Join(keys, "; "), strings.Join(besides, "<br>"))
		}
		b.WriteString("\n")
	}
	if len(d.Rules) > 0 {
		b.WriteString("**Who can open the values** (`.sops.yaml`)\n\n")
		for _, r := range d.Rules {
			words := recipientWords(r.Added, r.Removed, false)
			if len(words) == 0 {
				words = []string{"its key groups or threshold change"}
			}
			fmt.Fprintf(&b, "- %s %s: %s\n", r.Change, code(r.Workspace), strings.Join(words, "; "))
		}
		b.WriteString("\n")
	}
	if len(d.Policy) > 0 {
		b.WriteString("**Grants and roles**\n\n")
		for _, p := range d.Policy {
			var fields []string
			for _, f := range p.Fields {
				fields = append(fields, f.Field+": "+f.words(p.Change, code))
			}
			fmt.Fprintf(&b, "- %s %s %s: %s\n", p.Change, p.Kind, code(p.Workspace+"/"+p.Name), strings.Join(fields, "; "))
		}
		b.WriteString("\n")
	}
	var others []string
	for _, f := range d.Files {
		if f.Problem == "" {
			others = append(others, fmt.Sprintf("- %s %s\n", f.Change, code(f.Path)))
		}
	}
	if len(others) > 0 {
		b.WriteString("**Settings and other files**\n\n" + strings.Join(others, "") + "\n")
	}
	if anew {
		b.WriteString("<sub>¹ " + plain(noteAnew) + ".</sub><br>\n")
	}
	if len(d.Secrets) > 0 {
		b.WriteString("<sub>No value is shown. A key counts as changed when its ciphertext does.</sub>\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func keyWord(k ChangeKind) string {
	if k == Resealed {
		return "same value, sealed anew:"
	}
	return string(k)
}

func recipientWords(added, removed []string, new bool) []string {
	var out []string
	list := func(word string, names []string) {
		if len(names) > 0 {
			var codes []string
			for _, n := range names {
				codes = append(codes, code(shortRecipient(n)))
			}
			out = append(out, word+" "+strings.Join(codes, ", "))
		}
	}
	if new {
		list("sealed for", added)
		return out
	}
	list("**new recipient**", added)
	list("recipient removed", removed)
	return out
}

// code is text from a file as Markdown code, in a table or a list: nothing in it is
// markup, a mention or a link. Long text is cut.
func code(s string) string {
	s = strings.TrimSpace(oneLine(s))
	if r := []rune(s); len(r) > 200 {
		s = string(r[:200]) + "…"
	}
	if s == "" {
		return "(empty)"
	}
	// A backtick would end the code, and a bar the cell of a table.
	return "`" + strings.NewReplacer("`", "'", "|", "¦").Replace(s) + "`"
}

// plain is our own words, in which a name from a file may stand.
func plain(s string) string {
	s = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "|", "¦", "`", "'", `\`, `\\`, "*", `\*`, "_", `\_`, "[", `\[`, "]", `\]`, "@", "@\u200b", "~", `\~`, "#", "#\u200b", "!", "!\u200b", "$", "$\u200b").Replace(oneLine(s))
	// Hosts make links of bare addresses.
	return bareAddress.ReplaceAllString(s, "${0}\u200b")
}

var bareAddress = regexp.MustCompile(`(?i):/|\bwww`)
