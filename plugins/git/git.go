// Package git makes sealed manifests read and merge well in a clone: a merge
// driver, resolve for what it leaves open, a diff driver (textconv), a pre-commit
// hook, and the installing of all of them.
//
// Most callers need a [Plugin] and one method for each command. It only translates
// git's protocols: how manifests merge is in seal, how they open in unseal.
package git

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/getsops/sops/v3/keyservice"

	"github.com/sealward/sealward/gitops/gitcmd"
	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/keyring"
)

// Plugin is what the commands that git starts may use.
type Plugin struct {
	// Dir is the folder that git or a person started the command in.
	Dir string
	// Ring gives the private keys of a workspace; keyring.ErrNoRing without.
	Ring func(manifest.Workspace) (*keyring.Ring, error)
	// Keys seals for recipients of a workspace that are services.
	Keys func(manifest.Workspace) (keyservice.KeyServiceClient, error)
	Now  func() time.Time
	// Err is where people read.
	Err io.Writer
}

// errOther: a path is no sealed secret's, so that git's ways are right for it.
var errOther = errors.New("is no place of a sealed secret")

// spot is where a path of a clone stands in its sealed repository.
type spot struct {
	repo   *workspace.Repository
	path   string // in the clone
	prefix string // of the sealed repository in the clone, "" or ending in /
	rel    string // in the sealed repository
	place  manifest.Place
}

func (s spot) secret() string { return s.place.Scope.String() + "/" + s.place.Name.String() }

// locate finds the sealed repository around a path of the work tree.
func locate(clone *gitcmd.Clone, file string) (spot, error) {
	s := spot{path: file}
	if clone.Bare() || !fs.ValidPath(file) {
		return s, fmt.Errorf("%.200q %w", file, errOther)
	}
	for dir := path.Dir(file); ; dir = path.Dir(dir) {
		at := filepath.Join(clone.Top(), filepath.FromSlash(dir))
		if _, err := os.Lstat(filepath.Join(at, workspace.RulesFile)); err == nil {
			if s.repo, err = workspace.FindRepository(at); err != nil {
				return s, err
			}
			if dir != "." {
				s.prefix = dir + "/"
			}
			break
		}
		if dir == "." {
			return s, fmt.Errorf("%s %w: no folder above it has a %s", file, errOther, workspace.RulesFile)
		}
	}
	s.rel = strings.TrimPrefix(file, s.prefix)
	var ours bool
	var err error
	if s.place, ours, err = manifest.Locate(s.rel); !ours || err != nil || s.place.Policy {
		return s, fmt.Errorf("%s %w", file, errOther)
	}
	return s, nil
}

// versions of one file; an empty base means that both sides added it.
type versions struct{ base, ours, theirs []byte }

// merge merges sealed versions by key, with the workspace's keys.
func (p *Plugin) merge(ctx context.Context, clone *gitcmd.Clone, s spot, v versions, choices seal.Choices) (*seal.Merged, error) {
	sides := make([]*seal.Side, 3)
	parsed := make([]*manifest.Manifest, 3)
	all := []struct {
		name string
		data []byte
	}{{"the version before both", v.base}, {"our version", v.ours}, {"their version", v.theirs}}
	for i, side := range all {
		if i == 0 && len(side.data) == 0 {
			continue
		}
		m, err := s.parse(side.data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", side.name, err)
		}
		parsed[i] = m
	}
	ring, err := p.Ring(s.place.Scope)
	if err != nil {
		return nil, err
	}
	for i, m := range parsed {
		if m == nil {
			continue
		}
		opened, err := unseal.Open(m, ring, unseal.Options{})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", all[i].name, err)
		}
		sides[i] = &seal.Side{Envelope: opened.Envelope, Values: opened.Values}
	}
	return seal.Merge(sides[0], sides[1], sides[2], seal.MergeOptions{
		Now: p.Now(), Registries: registries(ctx, clone, s), Part: s.place.Part != "", Choices: choices,
		Keys: func(to workspace.Recipients) (keyservice.KeyServiceClient, error) {
			for _, r := range to.All() {
				if r.Online() {
					return p.Keys(s.place.Scope)
				}
			}
			return nil, nil
		},
	})
}

// parse holds one version to its place.
func (s spot) parse(data []byte) (*manifest.Manifest, error) {
	m, err := manifest.Parse(s.rel, data)
	if err != nil {
		return nil, err
	}
	if err := m.CheckPlace(s.place); err != nil {
		return nil, err
	}
	if err := m.SettleIn(s.place.Scope); err != nil {
		return nil, err
	}
	return m, m.CheckSealed()
}

// registries are for whom each .sops.yaml that can be pointed to says a file is
// sealed: ours, which is the work tree's, and that of each commit that comes in; less
// whom the other side's took out since the two had one in common. One that cannot be
// read, or has no rule for the file, names nobody.
func registries(ctx context.Context, clone *gitcmd.Clone, s spot) []workspace.Recipients {
	recipients := func(rules *workspace.Rules) workspace.Recipients {
		to, err := rules.Recipients(s.rel)
		if err != nil {
			return workspace.Recipients{}
		}
		return to
	}
	at := func(commit string) workspace.Recipients {
		if commit == "" {
			return workspace.Recipients{}
		}
		data, err := clone.RunWith(ctx, gitcmd.RunOptions{MaxOut: manifest.MaxSize}, "cat-file", "blob", commit+":"+s.prefix+workspace.RulesFile)
		if err != nil {
			return workspace.Recipients{}
		}
		rules, err := workspace.ParseRules(data)
		if err != nil {
			return workspace.Recipients{}
		}
		return recipients(rules)
	}
	var ours workspace.Recipients
	if rules, err := s.repo.Rules(); err == nil {
		ours = recipients(rules)
	} else { // it is in conflict itself, say
		ours = at("HEAD")
	}
	left := ours
	var out []workspace.Recipients
	for _, in := range incoming(ctx, clone) {
		base, theirs := at(in.base), at(in.commit)
		out = append(out, notRemoved(theirs, base, ours))
		left = notRemoved(left, base, theirs)
	}
	return append(out, left)
}

// notRemoved is rs without whom another registry took out of base.
func notRemoved(rs, base, other workspace.Recipients) workspace.Recipients {
	if len(base.Groups()) == 0 || other.Equal(base) {
		return rs
	}
	if len(rs.Groups()) != 1 || len(base.Groups()) != 1 {
		return workspace.Recipients{}
	}
	var out []workspace.Recipient
	for _, r := range rs.All() {
		if !base.Contains(r) || other.Contains(r) {
			out = append(out, r)
		}
	}
	return workspace.For(out...)
}

// change is a commit that comes in, and what it is compared with; base is "" where
// there is nothing.
type change struct{ commit, base string }

// maxIncoming bounds how many commits are looked at; an octopus has a few.
const maxIncoming = 16

// incoming are the commits that git is merging into HEAD, or applying to it, as far
// as it tells: a merge names them to its driver in the environment, a rebase in its
// folder; a cherry-pick tells only once it has stopped.
func incoming(ctx context.Context, clone *gitcmd.Clone) []change {
	var out []change
	add := func(rev string, base func(commit string) (string, error)) {
		commit, err := clone.Resolve(ctx, rev)
		if err != nil || len(out) == maxIncoming || slices.ContainsFunc(out, func(c change) bool { return c.commit == commit }) {
			return
		}
		with, err := base(commit)
		if err != nil {
			with = ""
		}
		out = append(out, change{commit, with})
	}
	merged := func(commit string) (string, error) { return clone.MergeBase(ctx, "HEAD", commit) }
	applied := func(commit string) (string, error) { return clone.Resolve(ctx, commit+"^") }
	for _, v := range os.Environ() {
		if name, ok := strings.CutPrefix(v, "GITHEAD_"); ok {
			if id, _, _ := strings.Cut(name, "="); gitcmd.IsCommitID(id) {
				add(id, merged)
			}
		}
	}
	for rev := range strings.FieldsSeq(readState(clone, "MERGE_HEAD")) {
		add(rev, merged)
	}
	for _, rev := range []string{rebasing(clone), readState(clone, "CHERRY_PICK_HEAD")} {
		if rev != "" {
			add(rev, applied)
		}
	}
	return out
}

// readState reads a small file that git keeps while it is at something.
func readState(clone *gitcmd.Clone, name string) string {
	file := filepath.Join(clone.GitDir(), filepath.FromSlash(name))
	if info, err := os.Stat(file); err != nil || info.Size() > manifest.MaxSize {
		return ""
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// rebasing is the commit that a rebase is applying, "" outside one.
func rebasing(clone *gitcmd.Clone) string {
	if id := readState(clone, "rebase-apply/original-commit"); id != "" {
		return id
	}
	done := readState(clone, "rebase-merge/done")
	words := strings.Fields(done[strings.LastIndex(done, "\n")+1:])
	if len(words) == 0 || !slices.Contains([]string{"pick", "reword", "edit", "squash", "fixup", "merge", "p", "r", "e", "s", "f", "m"}, words[0]) {
		return ""
	}
	for _, word := range words[1:] { // pick <id> <subject>, fixup -C <id> <subject>
		if len(word) >= 7 && strings.Trim(word, "0123456789abcdef") == "" {
			return word
		}
	}
	return ""
}

// firstLine is what fits beside other words; manifest errors have a line for each
// thing wrong.
func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return clean(line)
}

// clean takes out what could play tricks on a terminal: file names, subjects and
// recipients are written by others.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.In(r, unicode.Cc, unicode.Zl, unicode.Zp, unicode.Bidi_Control) {
			return '?'
		}
		return r
	}, s)
}

// quoted is a path as a shell takes it.
func quoted(s string) string {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./-+@:,") == "" && s != "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// isKeyless reports that nothing but a private key was missing.
func isKeyless(err error) bool {
	return errors.Is(err, keyring.ErrNoRing) || errors.Is(err, unseal.ErrNotRecipient) || errors.Is(err, keyring.ErrProtected) || errors.Is(err, unseal.ErrService)
}
