package review

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"
)

// WriteText prints findings for people: place and message, the remedy below.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	for _, f := range r.Findings {
		place := fmt.Sprintf("%s:%d", f.Path, f.Line)
		if f.Column > 0 {
			place += fmt.Sprintf(":%d", f.Column)
		}
		fmt.Fprintf(&b, "%s: %s: %s [%s]\n", atStart(place), f.Level, oneLine(f.text()), f.ID)
		if f.Remedy != "" {
			fmt.Fprintf(&b, "    %s\n", oneLine(f.Remedy))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// text is field and message.
func (f Finding) text() string {
	if f.Field == "" {
		return f.Message
	}
	return f.Field + ": " + f.Message
}

// oneLine makes text from a file fit for a terminal, a comment and the log of a CI job:
// nothing in it ends the line, turns its direction or cannot be seen.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) {
			return ' '
		}
		return r
	}, s)
	// GitHub's and Gitea's runners take this for a command wherever it stands.
	return strings.ReplaceAll(s, "##[", "# #[")
}

// atStart is oneLine for a path that starts a line: at two colons a runner takes the line
// for a command.
func atStart(path string) string {
	path = oneLine(path)
	if strings.HasPrefix(strings.TrimSpace(path), "::") {
		return "./" + path
	}
	return path
}

// Summary is the report in a few words.
func (r *Report) Summary() string {
	errors := r.Errors()
	warnings := len(r.Findings) - errors
	var found []string
	for _, n := range []struct {
		count int
		what  string
	}{{errors, "error"}, {warnings, "warning"}} {
		if n.count > 0 {
			found = append(found, plural(n.count, n.what))
		}
	}
	what := "nothing found"
	if len(found) > 0 {
		what = strings.Join(found, " and ")
	}
	s := what + " in " + plural(r.Files, "manifest")
	if r.Opened > 0 {
		s += fmt.Sprintf(", %d of them opened", r.Opened)
	}
	return s
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// WriteGitHub prints the findings as commands of GitHub Actions (and of Gitea's and
// Forgejo's), which turn them into annotations of the pull request. prefix is put
// before paths.
func (r *Report) WriteGitHub(w io.Writer, prefix string) error {
	data := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
	property := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")
	var b strings.Builder
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "::%s file=%s,line=%d", f.Level, property.Replace(prefix+f.Path), f.Line)
		if f.Column > 0 {
			fmt.Fprintf(&b, ",col=%d", f.Column)
		}
		fmt.Fprintf(&b, ",title=%s::%s\n", property.Replace("sealward "+string(f.ID)), data.Replace(f.text()+"\n"+f.Remedy))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// The parts of a SARIF 2.1.0 log that a report needs (OASIS, Static Analysis Results
// Interchange Format).
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool struct {
			Driver sarifDriver `json:"driver"`
		} `json:"tool"`
		ColumnKind string        `json:"columnKind"`
		Language   string        `json:"language"`
		Newlines   []string      `json:"newlineSequences"`
		Results    []sarifResult `json:"results"`
	}
	sarifDriver struct {
		Name           string      `json:"name"`
		Language       string      `json:"language"`
		InformationURI string      `json:"informationUri"`
		Rules          []sarifRule `json:"rules"`
	}
	sarifRule struct {
		ID               CheckID      `json:"id"`
		ShortDescription sarifMessage `json:"shortDescription"`
		Help             sarifMessage `json:"help"`
		Configuration    struct {
			Level Level `json:"level"`
		} `json:"defaultConfiguration"`
	}
	sarifMessage struct {
		Text string `json:"text"`
	}
	sarifResult struct {
		RuleID    CheckID         `json:"ruleId"`
		RuleIndex int             `json:"ruleIndex"`
		Level     Level           `json:"level"`
		Message   sarifMessage    `json:"message"`
		Locations []sarifLocation `json:"locations"`
	}
	sarifLocation struct {
		Physical struct {
			Artifact struct {
				URI string `json:"uri"`
			} `json:"artifactLocation"`
			Region struct {
				Line   int `json:"startLine"`
				Column int `json:"startColumn,omitempty"`
			} `json:"region"`
		} `json:"physicalLocation"`
	}
)

// WriteSARIF prints the report as SARIF 2.1.0, which code scanning takes. prefix is
// put before paths.
func (r *Report) WriteSARIF(w io.Writer, prefix string) error {
	run := sarifRun{ColumnKind: "unicodeCodePoints", Language: "en-US", Newlines: []string{"\r\n", "\n"}, Results: []sarifResult{}}
	run.Tool.Driver = sarifDriver{Name: "sealward", Language: "en-US", InformationURI: "https://github.com/sealward/sealward"}
	index := map[CheckID]int{}
	for i, a := range Checks() {
		rule := sarifRule{ID: a.ID, ShortDescription: sarifMessage{a.Title}, Help: sarifMessage{a.Title + ". Remedy: " + a.Remedy + "."}}
		rule.Configuration.Level = a.Level
		run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, rule)
		index[a.ID] = i
	}
	for _, f := range r.Findings {
		var at sarifLocation
		at.Physical.Artifact.URI = escapePath(prefix + f.Path)
		at.Physical.Region.Line, at.Physical.Region.Column = f.Line, f.Column
		run.Results = append(run.Results, sarifResult{RuleID: f.ID, RuleIndex: index[f.ID], Level: f.Level,
			Message: sarifMessage{oneLine(f.text()) + ". " + oneLine(f.Remedy)}, Locations: []sarifLocation{at}})
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(sarifLog{Schema: "https://json.schemastore.org/sarif-2.1.0.json", Version: "2.1.0", Runs: []sarifRun{run}})
}

// escapePath writes a path as a relative URI reference (RFC 3986).
func escapePath(p string) string {
	var b strings.Builder
	for i := 0; i < len(p); i++ {
		if c := p[i]; c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~/", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
