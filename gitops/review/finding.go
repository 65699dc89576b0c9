package review

import (
	"cmp"
	"slices"
	"strings"
)

// Level of a finding.
type Level string

// The levels. An error breaks something or leaks; a warning is for a person to look
// at.
const (
	LevelError   Level = "error"
	LevelWarning Level = "warning"
)

// Finding is one thing that Check found. It holds no value of a secret.
type Finding struct {
	ID     CheckID `json:"id"` // docs/checks.md explains each
	Level  Level   `json:"level"`
	Path   string  `json:"path"` // relative to the sealed repository
	Line   int     `json:"line"` // 1-based; 1 when the whole file is meant
	Column int     `json:"column,omitempty"`
	Field  string  `json:"field,omitempty"`
	// Message says what is wrong, Remedy what to do about it.
	Message string `json:"message"`
	Remedy  string `json:"remedy"`
}

// sortFindings puts findings in the order of files and lines, without repetitions.
func sortFindings(fs []Finding) []Finding {
	if fs == nil {
		fs = []Finding{} // a list in JSON
	}
	slices.SortFunc(fs, func(a, b Finding) int {
		return cmp.Or(strings.Compare(a.Path, b.Path), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.ID, b.ID), strings.Compare(a.Message, b.Message))
	})
	return slices.Compact(fs)
}
