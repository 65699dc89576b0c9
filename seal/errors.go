package seal

import (
	"errors"
	"fmt"
)

// Reason classifies why a sealed manifest was refused.
type Reason string

// The reasons of a TamperError.
const (
	// ReasonForm: the file is not what SOPS writes.
	ReasonForm Reason = "form"
	// ReasonPattern: other fields than sealward's are said to be sealed.
	ReasonPattern Reason = "pattern"
	// ReasonValue: one value does not open in its place with the file's data key.
	ReasonValue Reason = "value"
	// ReasonMAC: SOPS's MAC is missing, damaged or of other values.
	ReasonMAC Reason = "mac"
	// ReasonBinding: the values belong to another manifest, key or form.
	ReasonBinding Reason = "binding"
)

// ErrUnbound: the manifest has no binding, as plain sops writes it, and the
// caller's settings ask for one.
var ErrUnbound = errors.New("has no binding: it was sealed by plain sops, or the binding was removed")

// TamperError says that a sealed manifest is not as it was sealed. It never
// holds a value or the text of a SOPS error.
type TamperError struct {
	File   string
	Field  string // dotted path, "" when the whole file is meant
	Reason Reason
	Msg    string
}

func (e *TamperError) Error() string {
	where := e.File
	if e.Field != "" {
		where += ": " + e.Field
	}
	return fmt.Sprintf("%s: %s (%s)", where, e.Msg, e.Reason)
}
