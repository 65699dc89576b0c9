package gitcmd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
)

// ErrNoRevision: there is no such commit here.
var ErrNoRevision = errors.New("no such revision")

var objectID = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

// IsCommitID reports that s is a whole object id.
func IsCommitID(s string) bool { return objectID.MatchString(s) }

// Resolve gives the id of the commit that a revision means: a branch, a tag, an
// id, HEAD~2 and so on.
func (c *Clone) Resolve(ctx context.Context, rev string) (string, error) {
	if rev == "" || strings.HasPrefix(rev, "-") || strings.ContainsAny(rev, "\x00\r\n") {
		return "", fmt.Errorf("%w: %.80q is no name of a commit", ErrNoRevision, rev)
	}
	out, err := c.Run(ctx, "rev-parse", "--verify", "--quiet", "--end-of-options", rev+"^{commit}")
	if err != nil {
		var refused *Error
		if !errors.As(err, &refused) {
			return "", err
		}
		why := fmt.Errorf("%w: %.80s names no commit of this clone", ErrNoRevision, rev)
		if rev == "HEAD" {
			return "", fmt.Errorf("%w: there is no commit here yet", ErrNoRevision)
		}
		if c.shallow(ctx) {
			return "", fmt.Errorf("%w, which is shallow; fetch it: git fetch --unshallow, or in CI a deeper checkout (fetch-depth: 0)", why)
		}
		return "", fmt.Errorf("%w; git fetch brings what the remote has", why)
	}
	id := strings.TrimSpace(string(out))
	if !IsCommitID(id) {
		return "", fmt.Errorf("%w: %.80s", ErrNoRevision, rev)
	}
	return id, nil
}

// MergeBase gives the newest commit that two revisions have in common: what a branch
// left from.
func (c *Clone) MergeBase(ctx context.Context, a, b string) (string, error) {
	for _, rev := range []string{a, b} {
		if rev == "" || strings.HasPrefix(rev, "-") || strings.ContainsAny(rev, "\x00\r\n") {
			return "", fmt.Errorf("%w: %.80q is no name of a commit", ErrNoRevision, rev)
		}
	}
	out, err := c.Run(ctx, "merge-base", a, b)
	if err == nil {
		return strings.TrimSpace(string(out)), nil
	}
	for _, rev := range []string{a, b} { // one that does not exist is told better
		if _, err := c.Resolve(ctx, rev); err != nil {
			return "", err
		}
	}
	var refused *Error
	if !errors.As(err, &refused) || refused.Code != 1 {
		return "", err
	}
	if c.shallow(ctx) {
		return "", fmt.Errorf("%w: this clone is shallow and does not hold the commit that %.40s and %.40s have in common; git fetch --unshallow, or in CI a deeper checkout (fetch-depth: 0)", ErrNoRevision, a, b)
	}
	return "", fmt.Errorf("%w: %.40s and %.40s have no commit in common", ErrNoRevision, a, b)
}

// shallow reports that the history was cut off when it was fetched.
func (c *Clone) shallow(ctx context.Context) bool {
	path, err := c.Path(ctx, "shallow")
	if err != nil {
		return false
	}
	_, err = os.Stat(path)
	return err == nil
}

// Branch is the branch that is checked out, "" with a detached head.
func (c *Clone) Branch(ctx context.Context) (string, error) {
	out, err := c.Run(ctx, "symbolic-ref", "--quiet", "--short", "HEAD")
	var refused *Error
	if errors.As(err, &refused) && refused.Code == 1 {
		return "", nil
	}
	return strings.TrimSpace(string(out)), err
}

// Config reads one setting, "" where it is not set.
func (c *Clone) Config(ctx context.Context, name string) (string, error) {
	out, err := c.Run(ctx, "config", "--get", name)
	var refused *Error
	if errors.As(err, &refused) && refused.Code == 1 {
		return "", nil
	}
	return strings.TrimSuffix(string(out), "\n"), err
}
