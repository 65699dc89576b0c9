package manifest

import (
	"fmt"
	"strings"
	"time"
)

// expiryTag and expiryAnnotation are where a secret states, readable for everybody,
// until when its credential is good.
const (
	expiryTag        = "expires:"
	expiryAnnotation = annotationPrefix + "expires"
)

// Expiry is until when the credential in a secret is good, as its metadata says:
// the tag expires:2027-01-31 (or a time, RFC 3339), or in a Kubernetes Secret the
// annotation sealward.dev/expires. ok is false where nothing is said. The error is an
// *Error that says what is wrong with what is said.
func (m *Manifest) Expiry() (t time.Time, ok bool, err error) {
	text, path := "", []string{"tags"}
	for _, tag := range m.Tags {
		if rest, found := strings.CutPrefix(tag, expiryTag); found {
			text, ok = rest, true
		}
	}
	if m.Secret != nil && m.Secret.Kubernetes != nil {
		path = []string{"metadata", "annotations", expiryAnnotation}
		for _, a := range m.Secret.Kubernetes.Annotations {
			if a.Key == expiryAnnotation {
				text, ok = a.Value, true
			}
		}
	}
	if !ok {
		return time.Time{}, false, nil
	}
	if day, err := time.Parse(time.DateOnly, text); err == nil {
		return day.AddDate(0, 0, 1), true, nil // good on that day
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil && rfc3339.MatchString(text) {
		return t, true, nil
	}
	e := &Error{File: m.File, Field: strings.Join(path, "."), Msg: fmt.Sprintf("says expires:%.40q, which is no day such as 2027-01-31 and no time such as 2027-01-31T12:00:00Z", text)}
	e.Line, e.Column = m.At(path...)
	return time.Time{}, true, e
}
