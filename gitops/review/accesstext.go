package review

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"time"
)

// maxShown bounds the lists in what people read; JSON has more.
const maxShown = 12

// maxComment is where a comment's table ends: GitHub takes 65,536 characters.
const maxComment = 40_000

// some shows the first of a list, each through form, and how many more there are.
func some(list []string, more int, form func(string) string) string {
	shown := list
	if len(shown) > maxShown {
		more += len(shown) - maxShown
		shown = shown[:maxShown]
	}
	out := make([]string, len(shown))
	for i, s := range shown {
		out[i] = form(s)
	}
	text := strings.Join(out, ", ")
	if more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

func (r RightChange) what(form func(string) string) string {
	if r.Every {
		return fmt.Sprintf("every secret of %s (%d)", form(r.Workspace), len(r.Secrets)+r.More)
	}
	names := make([]string, len(r.Secrets))
	for i, n := range r.Secrets {
		names[i] = r.Workspace + "/" + n
	}
	return some(names, r.More, form)
}

// keys for people; "" when it is all of them, or a right to list.
func (r RightChange) keys(form func(string) string) string { return r.Keys.shown(form) }

func (s KeySet) shown(form func(string) string) string {
	switch {
	case s.All && len(s.But) == 0:
		return ""
	case s.All:
		return "all keys but " + some(s.But, 0, form)
	}
	return some(s.Keys, 0, form)
}

func (t Through) text(change string, form func(string) string) string {
	text := form(t.Grant)
	if t.Role != "" {
		text += ", role " + form(t.Role)
	}
	if t.Until != nil {
		text += ", until " + t.Until.Format(time.RFC3339)
	}
	switch {
	case t.Deny && change == "gains":
		return "no longer denied by " + text
	case t.Deny:
		return "denied by " + text
	}
	return text
}

func (r RightChange) how(form func(string) string) []string {
	var out []string
	for _, t := range r.Through {
		out = append(out, t.text(r.Change, form))
	}
	return out
}

func closureText(c Closure, form func(string) string) string {
	scope := "workspace " + form(c.Scope)
	if c.Scope == "instance" {
		scope = "the whole instance"
	}
	problem := ""
	if c.Problem != "" {
		problem = ": " + form(strings.TrimLeft(strings.TrimPrefix(firstLineOf(c.Problem), c.Path), ": "))
	}
	switch c.State {
	case "mended":
		return fmt.Sprintf("Reads of %s work again: %s broke the policy and does not any more. What follows compares with nobody.", scope, form(c.Path))
	case "closed":
		return fmt.Sprintf("Nobody reads %s, as before: policy-broken by %s%s", scope, form(c.Path), problem)
	}
	return fmt.Sprintf("Everybody loses %s: policy-broken by %s%s", scope, form(c.Path), problem)
}

func (s SecretReaders) names(form func(string) string) string {
	full := make([]string, len(s.Secrets))
	for i, n := range s.Secrets {
		full[i] = s.Workspace + "/" + n
	}
	return some(full, s.More, form)
}

func (s SecretReaders) who(form func(string) string) string {
	if s.Broken != "" {
		return "nobody, policy-broken by " + form(s.Broken)
	}
	if len(s.Readers) == 0 {
		return "nobody"
	}
	var list []string
	for _, r := range s.Readers {
		text := form(r.Subject)
		if keys := r.Keys.shown(form); keys != "" {
			text += " (" + keys + ")"
		}
		list = append(list, text)
	}
	return some(list, s.MoreReaders, func(s string) string { return s })
}

// WriteText is the form for a terminal.
func (d *AccessDiff) WriteText(out io.Writer) error {
	var b bytes.Buffer
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	section := func(title string) {
		if b.Len() > 0 {
			say("")
		}
		say("%s", title)
	}
	if d.Empty() {
		say("Nobody gains or loses access between %s and %s.", oneLine(at(d.From, d.FromCommit)), oneLine(at(d.To, d.ToCommit)))
	}
	for _, c := range d.Closed {
		section(closureText(c, oneLine))
	}
	if len(d.Spanning) > 0 {
		section("New in grants of the instance:")
		for i, s := range d.Spanning {
			if i == maxShown {
				say("  and %d more", len(d.Spanning)-i)
				break
			}
			say("  %s  (%s)", oneLine(s.Subject), some(s.Grants, 0, oneLine))
		}
	}
	for _, c := range d.Changes {
		section(some(c.Subjects, c.More, oneLine))
		for _, r := range c.Rights {
			mark := map[string]string{"gains": "+", "loses": "-"}[r.Change]
			text := fmt.Sprintf("%s %s %s", mark, r.Verb, r.what(oneLine))
			switch r.Change {
			case "until":
				text = fmt.Sprintf("~ %s %s", r.Verb, r.what(oneLine))
			case "denied-until":
				text = "~ denied " + r.what(oneLine)
			}
			if keys := r.keys(oneLine); keys != "" {
				text += ": " + keys
			}
			if r.Change == "until" || r.Change == "denied-until" {
				text += ", " + r.endChange()
			}
			say("  %s", text)
			for _, how := range r.how(oneLine) {
				say("      %s", how)
			}
		}
	}
	for _, s := range []struct {
		title, may string
		list       []SecretReaders
	}{{"New secrets:", "readable by", d.New}, {"Removed secrets:", "could be read by", d.Removed}} {
		if len(s.list) > 0 {
			section(s.title)
		}
		for _, r := range s.list {
			say("  %s: %s %s", r.names(oneLine), s.may, r.who(oneLine))
		}
	}
	if len(d.Unmatched) > 0 {
		section("Allowed for names that no secret has yet:")
		for i, u := range d.Unmatched {
			if i == maxShown {
				say("  and %d more", len(d.Unmatched)-i)
				break
			}
			say("  %s/%s  (%s)", oneLine(u.Workspace), oneLine(u.Pattern), oneLine(u.Grant))
		}
	}
	if len(d.Cut) > 0 {
		section("This list is not whole: " + strings.Join(d.Cut, "; "))
	}
	_, err := out.Write(b.Bytes())
	return err
}

// WriteMarkdown is the form for a comment on a pull request. Whatever comes from files
// stands in code spans, where neither markup nor mentions count.
func (d *AccessDiff) WriteMarkdown(out io.Writer) error {
	var b bytes.Buffer
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	say("### Who may read what")
	say("")
	if d.Empty() {
		say("Nobody gains or loses access.")
	}
	for i, c := range d.Closed {
		if b.Len() > maxComment/2 {
			say("- :warning: and %d more", len(d.Closed)-i)
			break
		}
		mark := ":warning: "
		if c.State == "mended" {
			mark = ""
		}
		say("- %s%s", mark, closureText(c, code))
	}
	for i, s := range d.Spanning {
		if i == maxShown {
			say("- and %d more", len(d.Spanning)-i)
			break
		}
		say("- :warning: New in grants of the instance: %s (%s)", code(s.Subject), some(s.Grants, 0, code))
	}
	if len(d.Closed)+len(d.Spanning) > 0 {
		say("")
	}
	if len(d.Changes) > 0 {
		say("| who | | what | keys | through |")
		say("| --- | --- | --- | --- | --- |")
	}
	for i, c := range d.Changes {
		if b.Len() > maxComment {
			say("")
			say("- :warning: %d more changes: sealward access-diff shows them", len(d.Changes)-i)
			break
		}
		who := some(c.Subjects, c.More, code)
		for _, r := range c.Rights {
			change, keys := r.Change, r.keys(code)
			switch {
			case r.Verb == List:
				change, keys = change+" listing", "-"
			case keys == "":
				keys = "all"
			}
			how := strings.Join(r.how(code), "; ")
			switch r.Change {
			case "until":
				change, how = "keeps", r.endChange()
			case "denied-until":
				change, how = "is denied", r.endChange()
			}
			say("| %s | %s | %s | %s | %s |", who, "**"+change+"**", r.what(code), keys, how)
			who = "" // the rows of one person read as one
		}
	}
	if len(d.Changes) > 0 && len(d.New)+len(d.Removed)+len(d.Unmatched)+len(d.Cut) > 0 {
		say("")
	}
	for i, r := range d.New {
		if b.Len() > maxComment {
			say("- and %d more", len(d.New)-i)
			break
		}
		say("- New: %s, readable by %s", r.names(code), r.who(code))
	}
	for i, r := range d.Removed {
		if b.Len() > maxComment {
			say("- and %d more", len(d.Removed)-i)
			break
		}
		say("- Removed: %s, could be read by %s", r.names(code), r.who(code))
	}
	for i, u := range d.Unmatched {
		if i == maxShown {
			say("- and %d more patterns that no secret has yet", len(d.Unmatched)-i)
			break
		}
		say("- Allowed for names that no secret has yet: %s by %s", code(u.Workspace+"/"+u.Pattern), code(u.Grant))
	}
	if len(d.Cut) > 0 {
		say("- :warning: This list is not whole: %s", strings.Join(d.Cut, "; "))
	}
	_, err := out.Write(b.Bytes())
	return err
}
