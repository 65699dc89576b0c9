package review

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/sealward/sealward/gitops/gitcmd"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal/audit"
)

// Consumers tells which identities read a secret, and which of them have not read its
// newest content yet. A content is the blobs of the secret's files: most commits change
// other secrets.
type Consumers struct {
	Workspace string `json:"workspace"`
	Name      string `json:"name"`
	// Commit is the one whose content is the newest; Newest its blobs by path, none when
	// it does not have the secret.
	Commit    string            `json:"commit"`
	Newest    map[string]string `json:"newest"`
	Consumers []Consumer        `json:"consumers"` // sorted by subject

	base     string // path without .yaml
	repo     *Repo
	readers  map[string]*reader
	contents map[string]map[string]string // blobs by path, by commit
}

// Consumer is one identity.
type Consumer struct {
	Subject string `json:"subject"`
	Current bool   `json:"current"` // nothing that it last read has a newer content
	// LastRead and what follows are of its last read; Credential is the token's id.
	LastRead   time.Time `json:"lastRead"`
	Commit     string    `json:"commit"`
	Credential string    `json:"credential,omitempty"`
	Remote     string    `json:"remote,omitempty"`
	// Reads are the contents that it last read, one a file, sorted by path.
	Reads []ContentRead `json:"reads"`
}

// ContentRead is what an identity last read of one file.
type ContentRead struct {
	Path     string    `json:"path"`
	Blob     string    `json:"blob"`
	Commit   string    `json:"commit"`
	Time     time.Time `json:"time"`
	Outdated bool      `json:"outdated"`

	seq uint64
}

type reader struct {
	last  audit.Record
	reads map[string]*ContentRead // by path
}

const maxContents = 256 // of commits, kept

// Consumers starts with the content that the tree of a commit has; then every record of an
// audit is to be added. The tree must stay open.
func (t *Tree) Consumers(ctx context.Context, ws manifest.Workspace, name manifest.Name) (*Consumers, error) {
	c := &Consumers{
		Workspace: ws.String(), Name: name.String(), Commit: t.Commit, repo: t.repo, base: strings.TrimSuffix(manifest.SecretPath(ws, name), ".yaml"),
		readers: map[string]*reader{}, contents: map[string]map[string]string{},
	}
	var err error
	c.Newest, err = c.content(ctx, t)
	return c, err
}

// content is the blobs of the secret's files by path.
func (c *Consumers) content(ctx context.Context, t *Tree) (map[string]string, error) {
	files, err := t.filesAt(ctx, c.base+".yaml", c.base+".json", c.base)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, f := range files {
		if place, ours, wrong := manifest.Locate(f.Path); ours && wrong == nil && !place.Policy && place.Name.String() == c.Name {
			out[f.Path] = f.Blob
		}
	}
	return out, nil
}

// Add takes a record into account. A conditional read that was answered with "not
// modified" counts as a read: who asked has what it names.
func (c *Consumers) Add(ctx context.Context, rec audit.Record) error {
	if rec.Event != audit.Read || rec.Decision != audit.Allow || rec.Status != 200 && rec.Status != 304 || rec.Workspace != c.Workspace || rec.Name != c.Name {
		return nil
	}
	content, err := c.read(ctx, rec)
	if err != nil {
		return err
	}
	r := c.readers[rec.Subject]
	if r == nil {
		r = &reader{reads: map[string]*ContentRead{}}
		c.readers[rec.Subject] = r
	}
	r.last = rec
	for path, blob := range content {
		r.reads[path] = &ContentRead{Path: path, Blob: blob, Commit: rec.Commit, Time: rec.Time, seq: rec.Seq}
	}
	return nil
}

// read is the content that a record tells of. One that names no blob gave the whole secret,
// as it was at its commit.
func (c *Consumers) read(ctx context.Context, rec audit.Record) (map[string]string, error) {
	switch {
	case rec.Blob != "":
		return map[string]string{rec.Path: rec.Blob}, nil
	case len(rec.Parts) > 0:
		out := map[string]string{}
		for name, blob := range rec.Parts {
			out[rec.Path+"/"+name] = blob
		}
		return out, nil
	case !gitcmd.IsCommitID(rec.Commit):
		return nil, nil
	}
	if known, ok := c.contents[rec.Commit]; ok {
		return known, nil
	}
	t, err := c.repo.At(ctx, rec.Commit)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	content, err := c.content(ctx, t)
	if errors.Is(err, gitcmd.ErrNoRevision) || errors.Is(err, gitcmd.ErrNoObject) {
		content, err = nil, nil
	}
	if len(c.contents) >= maxContents {
		clear(c.contents)
	}
	c.contents[rec.Commit] = content
	return content, err
}

// Finish judges what was added, of identities that read something since a time (zero: ever).
func (c *Consumers) Finish(since time.Time) {
	newest := map[string]bool{}
	for _, blob := range c.Newest {
		newest[blob] = true
	}
	c.Consumers = []Consumer{}
	for subject, r := range c.readers {
		if r.last.Time.Before(since) {
			continue
		}
		out := Consumer{Subject: subject, Current: true, LastRead: r.last.Time, Commit: r.last.Commit, Credential: r.last.Credential, Remote: r.last.Remote, Reads: []ContentRead{}}
		var lastNewest uint64
		for _, read := range r.reads {
			if newest[read.Blob] {
				lastNewest = max(lastNewest, read.seq)
			}
		}
		for path, read := range r.reads {
			_, there := c.Newest[path]
			switch {
			case newest[read.Blob]:
			case !there && read.seq < lastNewest:
				continue // of a file that was renamed or split since, and it read what came after
			default:
				read.Outdated, out.Current = true, false
			}
			out.Reads = append(out.Reads, *read)
		}
		if len(out.Reads) == 0 { // of a commit that this clone does not have
			out.Current = false
		}
		slices.SortFunc(out.Reads, func(a, b ContentRead) int { return strings.Compare(a.Path, b.Path) })
		c.Consumers = append(c.Consumers, out)
	}
	slices.SortFunc(c.Consumers, func(a, b Consumer) int { return strings.Compare(a.Subject, b.Subject) })
}

// Outdated counts the identities that do not have the newest content.
func (c *Consumers) Outdated() (n int) {
	for _, r := range c.Consumers {
		if !r.Current {
			n++
		}
	}
	return n
}
