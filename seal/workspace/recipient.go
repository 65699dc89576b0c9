package workspace

import (
	"errors"
	"fmt"
	"strings"

	"filippo.io/age"
)

// Recipient is an age public key that passed ParseRecipient.
type Recipient struct{ text string }

// ParseRecipient accepts age1… (X25519) and age1pq1… (post-quantum hybrid).
// Recipients of plugins are refused: sealing for one would run a program that
// the repository names.
func ParseRecipient(s string) (Recipient, error) {
	var err error
	switch {
	case strings.Contains(strings.ToUpper(s), "SECRET-KEY"):
		return Recipient{}, errors.New("a private key stands where a recipient (age1…) belongs; treat it as leaked and make a new one")
	case strings.HasPrefix(s, "age1pq1"):
		_, err = age.ParseHybridRecipient(s)
	case strings.HasPrefix(s, "age1"):
		_, err = age.ParseX25519Recipient(s)
	default:
		err = errors.New("unknown kind")
	}
	if err != nil {
		return Recipient{}, fmt.Errorf("recipient %.80q is not an age public key (age1… or age1pq1…)", s)
	}
	return Recipient{s}, nil
}

func (r Recipient) String() string { return r.text }

// PostQuantum reports an age1pq1… recipient.
func (r Recipient) PostQuantum() bool { return strings.HasPrefix(r.text, "age1pq1") }

// sameStrength: one recipient without post-quantum protection would undo that of
// the others, so a workspace has all or none.
func sameStrength(rs []Recipient) error {
	for _, r := range rs {
		if r.PostQuantum() != rs[0].PostQuantum() {
			return errors.New("recipients mix post-quantum (age1pq1…) and classic (age1…) keys; use one kind for the whole workspace")
		}
	}
	return nil
}
