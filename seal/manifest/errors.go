package manifest

import (
	"fmt"
	"strings"
)

// Error is one thing wrong with one manifest. Its text never holds a value of
// data, binaryData or files.
type Error struct {
	File   string
	Line   int // 1-based; 0 when the whole file is meant
	Column int
	Field  string // dotted path, "" when the whole file is meant
	Msg    string
	// Leaked says that a value stands in the clear where it should be sealed.
	Leaked bool
	// Misplaced says that the manifest stands where another belongs (CheckPlace).
	Misplaced bool
	// Reason tells some errors apart; "" for all others.
	Reason Reason
}

// Reason of an Error.
type Reason string

// The reasons that are told apart.
const (
	ReasonACL      Reason = "acl"       // the name's -r or -rw says something else than acl
	ReasonUseCase  Reason = "use-case"  // a grant for a use case that nobody knows
	ReasonSelector Reason = "selector"  // a grant that selects nothing
	ReasonTooLarge Reason = "too-large" // more bytes than a manifest may have
	ReasonNoSops   Reason = "no-sops"   // values are sealed, and what opens them is gone
)

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", e.Line, e.Column)
	}
	b.WriteString(": ")
	if e.Field != "" {
		b.WriteString(e.Field)
		b.WriteString(": ")
	}
	b.WriteString(e.Msg)
	return b.String()
}

// Errors is every error of one manifest, in the order of the file.
type Errors []*Error

func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, err := range e {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap lets errors.As find each Error.
func (e Errors) Unwrap() []error {
	out := make([]error, len(e))
	for i, err := range e {
		out[i] = err
	}
	return out
}

// Leaked reports that some value stands in the clear.
func (e Errors) Leaked() bool {
	for _, err := range e {
		if err.Leaked {
			return true
		}
	}
	return false
}
