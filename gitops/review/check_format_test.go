package review

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
)

// hostile is what a file's name or a field may say.
const hostile = "::error::x ##[add-mask]y\n::stop-commands::z\u202e\u200f\u200b\u2028 " + `\[a](http://evil.example) https://evil.example www.evil.example \*b* <i> @everyone !1`

// Text from files is neither a command to the runner of a CI job nor markup.
func TestFormatsOfHostileText(t *testing.T) {
	report := &Report{Findings: []Finding{{ID: PrivateKey, Level: LevelError, Path: hostile, Line: 1, Field: hostile, Message: hostile, Remedy: "mend " + hostile}}}
	diff := &Diff{Secrets: []SecretChange{{Workspace: "orders", Name: "x", Change: Changed, Keys: []KeyChange{{"a", Added}}, Fields: []FieldChange{{"owner", hostile, "y"}}, RecipientsAdded: []string{hostile}, Notes: []string{hostile}}},
		Files: []FileChange{{hostile, Added, hostile}, {hostile, Removed, ""}}}
	var text, github, comment bytes.Buffer
	for _, err := range []error{report.WriteText(&text), diff.WriteText(&text), report.WriteGitHub(&github, ""), diff.WriteMarkdown(&comment)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for line := range strings.Lines(text.String()) {
		if strings.HasPrefix(strings.TrimSpace(line), "::") || strings.Contains(line, "##[") {
			t.Errorf("a runner takes this for a command: %q", line)
		}
	}
	if strings.Count(github.String(), "\n") != 1 {
		t.Errorf("more than one command: %q", github.String())
	}
	if strings.ContainsAny(text.String(), "\u202e\u200f\u200b\u2028") {
		t.Errorf("characters that cannot be seen: %q", text.String())
	}
	outside := regexp.MustCompile("`[^`]*`").ReplaceAllString(comment.String(), "")
	if found := regexp.MustCompile(`https?://\w|www\.|(^|[^\\])(\\\\)*\[a|(^|[^\\])(\\\\)*\*b|<i>|@\w|!\d`).FindString(outside); found != "" {
		t.Errorf("the comment has %q:\n%s", found, outside)
	}
}
