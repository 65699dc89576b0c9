package source

import (
	"errors"
	"strconv"
	"strings"
	"unicode"
)

// What stands between the mirror and its remote. Only ErrUnreachable may pass
// by itself; the others wait for someone to act.
var (
	ErrUnreachable   = errors.New("the remote cannot be reached")
	ErrUntrusted     = errors.New("the remote is not who it should be")
	ErrAuth          = errors.New("the remote accepts no credential of ours")
	ErrNotRepository = errors.New("there is no Git repository to read")
	ErrEmpty         = errors.New("the repository has no commit yet")
	ErrNoBranch      = errors.New("the repository has no such branch")
	ErrConfig        = errors.New("cannot be used as configured") // a file that Auth or LoadSigners names
)

// What can be wrong with a commit's signature.
var (
	ErrUnsigned  = errors.New("the commit is not signed")
	ErrSignature = errors.New("the commit's signature is not accepted")
)

// What can be wrong with an answer from the mirror itself.
var (
	// ErrNotFound: the mirror has no such object. The caller asked for
	// something that was never fetched.
	ErrNotFound = errors.New("not in the mirror")

	// ErrDamaged: the mirror lacks, or cannot read, what it must have. Move
	// its folder away and clone again.
	ErrDamaged = errors.New("the mirror is damaged or incomplete; move its folder away to have it cloned again")

	// ErrDisk: the mirror's folder cannot be written; what it holds is whole.
	ErrDisk = errors.New("the mirror's folder cannot be written")

	// ErrTooLarge and ErrTooMany: a bound was met; nothing was returned.
	ErrTooLarge = errors.New("too large")
	ErrTooMany  = errors.New("too many entries")
)

// Problem is an entry of a tree that no path of a repository should have. It
// is reported beside the good entries, because one bad name must not hide the
// files of everybody else.
type Problem struct {
	Path   string // may hold any bytes: quote it
	Reason string
}

func (p Problem) Error() string {
	path := p.Path
	if len(path) > 2*maxQuoted {
		path = path[:2*maxQuoted] + "…"
	}
	return strconv.Quote(path) + ": " + p.Reason
}

// Covers reports whether path is the problem's entry or lies below it.
func (p Problem) Covers(path string) bool {
	return path == p.Path || p.Path == "." || strings.HasPrefix(path, p.Path+"/")
}

// maxQuoted bounds text that another party wrote.
const maxQuoted = 200

// plain makes one bounded printable line of text that another party wrote.
// Formatting characters go too: they can reorder what a terminal shows.
func plain(text string) string {
	var b strings.Builder
	n := 0
	for _, r := range strings.ToValidUTF8(text, "\uFFFD") {
		if unicode.IsSpace(r) {
			r = ' '
		}
		if !unicode.IsPrint(r) {
			continue
		}
		if n++; n > maxQuoted {
			b.WriteString("…")
			break
		}
		b.WriteRune(r)
	}
	return strings.TrimSpace(b.String())
}
