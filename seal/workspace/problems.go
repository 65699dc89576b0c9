package workspace

import (
	"fmt"
	"regexp/syntax"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/sealward/sealward/seal/manifest"
)

// RuleReason says what is wrong with a creation rule.
type RuleReason string

// The reasons.
const (
	RuleUnanchored RuleReason = "unanchored" // it does not start with one workspace's folder
	RuleSpans      RuleReason = "spans"      // it catches several workspaces
	RuleShadowed   RuleReason = "shadowed"   // an earlier rule takes all that it is for
	RuleInvalid    RuleReason = "invalid"    // its recipients cannot be sealed for
	RulePattern    RuleReason = "pattern"    // plain sops would seal other fields by it than sealward
)

// RuleProblem is one thing wrong with one creation rule.
type RuleProblem struct {
	Reason RuleReason
	Line   int // in .sops.yaml, 1-based
	Msg    string
}

// Problems looks for what is wrong with the rules that are about secrets, given the
// workspaces that exist. Rules for other files of the repository are nobody's
// business here.
func (r *Rules) Problems(known []manifest.Workspace) []RuleProblem {
	// Two that nobody has, for what a rule would catch tomorrow.
	for _, name := range []string{"a-workspace-to-come", "z-workspace-to-come"} {
		ws, _ := manifest.ParseWorkspace(name)
		known = append(slices.Clip(known), ws)
	}
	var out []RuleProblem
	for i, c := range r.rules {
		add := func(reason RuleReason, format string, args ...any) {
			out = append(out, RuleProblem{reason, c.node.Line, fmt.Sprintf(format, args...)})
		}
		var catches []manifest.Workspace
		for _, ws := range append(slices.Clip(known), manifest.Instance()) {
			if c.re == nil || c.re.MatchString(anyPath(ws)) {
				catches = append(catches, ws)
			}
		}
		anchor, anchored := anchorOf(c.pattern)
		if !anchored && len(catches) == 0 {
			if place, ours := literalPlace(c); !ours {
				continue
			} else {
				catches = []manifest.Workspace{place}
			}
		}
		if !anchored {
			add(RuleUnanchored, "path_regex %q does not start with one workspace's folder, such as %q; sealward refuses to seal by it", c.pattern, "^"+folder(catches[0]))
		}
		if len(catches) > 1 {
			names := fmt.Sprintf("%s and %s", catches[0], catches[1])
			if len(catches) >= len(known) {
				names = "every workspace that has no rule before it"
			}
			add(RuleSpans, "path_regex %q catches %s; one rule is for one workspace", c.pattern, names)
		}
		for _, earlier := range r.rules[:i] {
			if shadows(earlier, c, anchor) {
				add(RuleShadowed, "is never used for %s: the rule on line %d matches first", shownPattern(c.pattern), earlier.node.Line)
				break
			}
		}
		if c.unsupported != "" {
			add(RuleInvalid, "names %s, which cannot be sealed for", c.unsupported)
		} else if err := c.recipients.check(); err != nil {
			add(RuleInvalid, "%s", err)
		}
		if pattern := textField(c.node, "encrypted_regex"); anchored && pattern != manifest.SealedPattern {
			add(RulePattern, "encrypted_regex is not the one of sealward; a file that plain sops makes by it would be refused. Write: encrypted_regex: %s", manifest.SealedPattern)
		}
	}
	return out
}

// anchorOf is the workspace whose folder a pattern starts with.
func anchorOf(pattern string) (manifest.Workspace, bool) {
	if strings.HasPrefix(pattern, "^"+folder(manifest.Instance())) {
		return manifest.Instance(), true
	}
	rest, ok := strings.CutPrefix(pattern, "^workspaces/")
	name, _, slash := strings.Cut(rest, "/")
	ws, err := manifest.ParseWorkspace(name)
	return ws, ok && slash && err == nil
}

// literalPlace is the workspace of a pattern for single files, such as
// workspaces/orders/secrets/api.yaml$.
func literalPlace(c rule) (manifest.Workspace, bool) {
	at := strings.Index(c.pattern, "workspaces/")
	if i := strings.Index(c.pattern, "instance/"); at < 0 {
		at = i
	}
	if at < 0 {
		return manifest.Workspace{}, false
	}
	return anchorOf("^" + c.pattern[at:])
}

// shadows reports that an earlier rule takes all that a later one, anchored to a
// workspace, is for.
func shadows(earlier, later rule, anchor manifest.Workspace) bool {
	if earlier.re == nil || earlier.pattern == later.pattern {
		return true
	}
	if later.re == nil || anchor.IsZero() {
		return false
	}
	if later.re.MatchString(anyPath(anchor)) {
		return earlier.re.MatchString(anyPath(anchor))
	}
	// A rule for single files, behind one that is nothing but a folder above them.
	return literalFolder(earlier.pattern) != "" && strings.HasPrefix(literalStart(later.pattern), literalFolder(earlier.pattern))
}

// literalStart is the text that everything matched by an anchored pattern starts
// with.
func literalStart(pattern string) string {
	re, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return ""
	}
	re = re.Simplify()
	if re.Op == syntax.OpLiteral || re.Op != syntax.OpConcat || len(re.Sub) < 2 || re.Sub[0].Op != syntax.OpBeginText || re.Sub[1].Op != syntax.OpLiteral {
		return ""
	}
	return string(re.Sub[1].Rune)
}

// literalFolder is the folder of a pattern that is ^folder/ and nothing else.
func literalFolder(pattern string) string {
	start := literalStart(pattern)
	if !strings.HasSuffix(start, "/") || "^"+start != pattern {
		return ""
	}
	return start
}

func shownPattern(pattern string) string {
	if pattern == "" {
		return "anything"
	}
	return fmt.Sprintf("%q", pattern)
}

func textField(n *yaml.Node, name string) string {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i+1].Value
		}
	}
	return ""
}
