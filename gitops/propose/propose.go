// Package propose puts what was changed in a work tree on a new branch of the
// remote, as one commit whose message names secrets and keys and no value, and
// knows the address at which a Git host opens a pull request for it.
//
// On a branch that it made, it adds a commit to that one.
//
// Most callers need [Propose]. Plaintext manifests are sealed in memory; only the
// sealed form ever reaches Git. Until the remote has taken the branch, nothing of
// the clone that a person sees is touched: neither branches nor HEAD, index or files.
package propose

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sealward/sealward/gitops/gitcmd"
	"github.com/sealward/sealward/gitops/review"
	"github.com/sealward/sealward/gitops/worktree"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal/keyring"
)

// Target is something that is named to be proposed: a secret with all its files, or
// files.
type Target struct {
	Workspace manifest.Workspace // of a secret
	Name      manifest.Name
	Path      string // on disk, of a file or folder; "" for a secret
}

// String is how the person named it.
func (t Target) String() string {
	if t.Path != "" {
		return t.Path
	}
	return t.Workspace.String() + "/" + t.Name.String()
}

// Options of Propose.
type Options struct {
	Targets []Target
	Branch  string // "" adds to the branch that is checked out if Propose made it, else makes up a name
	Subject string // of the message; "" makes it from what changes
	Remote  string
	Base    string // branch of the remote; "" is the one that the remote has as HEAD
	Forge   Forge  // "" goes by configuration, host and what the remote says
	DryRun  bool   // stop before the push
	// Ring tells, for the message, a value that was sealed anew from one that changed; see
	// review.DiffOptions.
	Ring func(manifest.Workspace) (*keyring.Ring, error)
	// Note gets lines for the person: warnings, what the remote says.
	Note func(line string)
}

// Proposal is what became of it.
type Proposal struct {
	Remote  string   `json:"remote"`
	Branch  string   `json:"branch"`
	Base    string   `json:"base"`
	Parent  string   `json:"parent"`
	Commit  string   `json:"commit"`
	Subject string   `json:"subject"`
	Body    string   `json:"body,omitempty"`
	Files   []string `json:"files"`            // from the top of the clone
	Sealed  []string `json:"sealed,omitempty"` // those that were plaintext
	Pushed  bool     `json:"pushed"`
	// Added says that the branch was there, and has one commit more.
	Added bool `json:"added"`
	// Address opens the pull request; "" when it is not known.
	Address string `json:"address,omitempty"`
	// Switched says that the branch is checked out as the remote has it; otherwise Stays
	// says why not.
	Switched bool   `json:"switched"`
	Stays    string `json:"stays,omitempty"`
}

// ErrNothing: what was named is as the base has it.
var ErrNothing = errors.New("nothing to propose")

// ErrPush: the remote did not take the branch, and the clone is as it was.
var ErrPush = errors.New("the branch was not taken")

// ErrExists: there is a branch of that name.
var ErrExists = errors.New("exists already")

var errNoCommit = errors.New("this clone has no commit yet; commit, and push the branch that others start from")

// work is one proposal on its way.
type work struct {
	opts  Options
	repo  *review.Repo
	tree  *worktree.Tree
	clone *gitcmd.Clone
	now   time.Time

	remote string // its address, with whatever credential it holds: never shown
	head   string // commit
	on     string // the branch that is checked out; "" when detached
	base   string // commit of the base branch, as far as it is known here
	left   string // commit at which HEAD left it
	from   string // the branch that has the parent, for messages
	own    bool   // Propose made the branch that is checked out, and the remote has it so

	fileMode bool // the file system knows executable files

	changes []change
	values  []value
	others  []review.FileChange // changed files that review does not know
	named   int                 // how many names were made up
	out     Proposal
}

// Propose makes the commit and pushes it. When it fails with the Proposal's Pushed
// set, the remote has the branch, and the error says what is left to do here.
func Propose(ctx context.Context, repo *review.Repo, tree *worktree.Tree, opts Options) (*Proposal, error) {
	clone, err := repo.Clone()
	if err != nil {
		return nil, err
	}
	if clone.Bare() || repo.Local() == nil {
		return nil, errors.New("a proposal is made from a work tree; this clone has none")
	}
	if opts.Note == nil {
		opts.Note = func(string) {}
	}
	w := &work{opts: opts, repo: repo, tree: tree, clone: clone, now: tree.Now(), out: Proposal{Remote: opts.Remote}}
	for _, step := range []func(context.Context) error{
		w.findRemote, w.findParent, w.collect, w.nameBranch, w.commit, w.check, w.describe,
	} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	if w.opts.DryRun {
		return &w.out, nil
	}
	said, err := w.push(ctx)
	if err != nil {
		return nil, err
	}
	w.out.Pushed = true
	w.findAddress(ctx, said)
	// The remote has it: an interrupt must not leave the clone half way.
	return &w.out, w.settle(context.WithoutCancel(ctx))
}

func (w *work) findRemote(ctx context.Context) error {
	if name := w.opts.Remote; name == "" || strings.HasPrefix(name, "-") || strings.ContainsAny(name, " :\\\n\x00") {
		return fmt.Errorf("%.80q is no name of a remote; git remote lists them", withoutCredentials(name))
	}
	out, err := w.clone.Run(ctx, "remote", "get-url", "--push", w.opts.Remote)
	if err != nil {
		return fmt.Errorf("this clone has no remote %s; add it: git remote add %[1]s ADDRESS, or name another with --remote", w.opts.Remote)
	}
	w.remote = strings.TrimSuffix(string(out), "\n")
	return nil
}

// findParent finds the commit at which HEAD left the remote's base branch.
func (w *work) findParent(ctx context.Context) (err error) {
	if w.head, err = w.clone.Resolve(ctx, "HEAD"); err != nil {
		return errNoCommit
	}
	if w.on, err = w.clone.Branch(ctx); err != nil {
		return err
	}
	mode, err := w.clone.Run(ctx, "config", "--type=bool", "--get", "core.fileMode")
	w.fileMode = err != nil || strings.TrimSpace(string(mode)) != "false"
	if w.base, err = w.findBase(ctx); err != nil {
		return err
	}
	if w.left, err = w.clone.MergeBase(ctx, w.head, w.base); err != nil {
		return err
	}
	w.out.Parent, w.from = w.left, w.out.Base
	return w.findOwn(ctx)
}

// findBase is the commit of the base branch, as far as this clone knows it.
func (w *work) findBase(ctx context.Context) (string, error) {
	if w.out.Base = w.opts.Base; w.out.Base == "" {
		if err := w.guessBase(ctx); err != nil {
			return "", err
		}
	}
	name := w.out.Base
	if err := w.checkBranch(ctx, name); err != nil {
		return "", err
	}
	if id, err := w.clone.Resolve(ctx, "refs/remotes/"+w.opts.Remote+"/"+name); err == nil {
		return id, nil
	}
	out, err := w.clone.Run(ctx, "ls-remote", w.opts.Remote, "refs/heads/"+name)
	if err != nil {
		return "", w.unreachable(err)
	}
	id, _, _ := strings.Cut(string(out), "\t")
	if !gitcmd.IsCommitID(id) {
		return "", fmt.Errorf("%s has no branch %s; push it first, or name another with --base", w.opts.Remote, name)
	}
	if _, err := w.clone.Resolve(ctx, id); err == nil {
		return id, nil
	}
	// Without a refspec: the clone's own refs are the person's.
	if _, err := w.clone.Run(ctx, "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--refmap=", "--recurse-submodules=no", w.opts.Remote, "refs/heads/"+name); err != nil {
		return "", w.unreachable(err)
	}
	return w.clone.Resolve(ctx, id)
}

// guessBase: what the branch that is checked out was proposed for, the remote's HEAD,
// the upstream of the branch, the remote's HEAD as the remote tells it.
func (w *work) guessBase(ctx context.Context) (err error) {
	upstream := ""
	if w.on != "" {
		if name, err := w.clone.Config(ctx, "branch."+w.on+".remote"); err == nil && name == w.opts.Remote {
			if w.out.Base, err = w.clone.Config(ctx, "branch."+w.on+"."+baseSetting); err == nil && w.out.Base != "" {
				return nil
			}
			merge, _ := w.clone.Config(ctx, "branch."+w.on+".merge")
			upstream, _ = strings.CutPrefix(merge, "refs/heads/")
		}
	}
	prefix := "refs/remotes/" + w.opts.Remote + "/"
	if out, err := w.clone.Run(ctx, "symbolic-ref", "--quiet", prefix+"HEAD"); err == nil {
		if name, ok := strings.CutPrefix(strings.TrimSpace(string(out)), prefix); ok {
			w.out.Base = name
			return nil
		}
	}
	if w.out.Base = upstream; upstream != "" {
		return nil
	}
	out, err := w.clone.Run(ctx, "ls-remote", "--symref", w.opts.Remote, "HEAD")
	if err != nil {
		return w.unreachable(err)
	}
	line, _, _ := strings.Cut(string(out), "\t") // ref: refs/heads/main<tab>HEAD
	name, ok := strings.CutPrefix(line, "ref: refs/heads/")
	if !ok {
		return fmt.Errorf("%s does not say which branch is its HEAD (has it one yet?); push the branch that others start from, or name it with --base", w.opts.Remote)
	}
	w.out.Base = name
	return nil
}

// baseSetting of a branch is what it was proposed for, so that the next proposal made
// from it goes there too.
const baseSetting = "sealwardBase"

func (w *work) unreachable(err error) error {
	return fmt.Errorf("%s cannot be asked: %s", w.opts.Remote, reason(err))
}

// reason is what git said, with no credential in it.
func reason(err error) string { return withoutCredentials(err.Error()) }

func (w *work) checkBranch(ctx context.Context, name string) error {
	if _, err := w.clone.Run(ctx, "check-ref-format", "refs/heads/"+name); err != nil || strings.HasPrefix(name, "-") || name == "HEAD" || name == "@" || strings.HasPrefix(name, "refs/") {
		// git branch refuses the first three; the last makes names ambiguous.
		return fmt.Errorf("%.80q is no name of a branch", name)
	}
	return nil
}

// maxNames is how many names are made up; two proposals of one second share the first.
const maxNames = 9

// nameBranch makes up a name where none is given, and finds it free here.
func (w *work) nameBranch(ctx context.Context) error {
	if w.out.Added {
		return nil
	}
	if w.out.Branch = w.opts.Branch; w.out.Branch != "" {
		return w.findFree(ctx, w.out.Branch)
	}
	made := "secrets/" + w.topic() + w.now.UTC().Format("20060102-150405")
	for {
		w.out.Branch = made
		if w.named++; w.named > 1 {
			w.out.Branch += fmt.Sprintf("-%d", w.named)
		}
		if err := w.findFree(ctx, w.out.Branch); !errors.Is(err, ErrExists) || w.named == maxNames {
			return err
		}
	}
}

// findFree fails where the clone has a branch that excludes one of that name.
func (w *work) findFree(ctx context.Context, name string) error {
	if err := w.checkBranch(ctx, name); err != nil {
		return err
	}
	// a excludes a/b, and the other way round.
	ref := "refs/heads/" + name
	args := []string{"for-each-ref", "--format=%(refname)", ref}
	for at := name; strings.Contains(at, "/"); {
		at = at[:strings.LastIndex(at, "/")]
		args = append(args, "refs/heads/"+at)
	}
	out, err := w.clone.Run(ctx, args...)
	if err != nil {
		return err
	}
	for have := range strings.FieldsSeq(string(out)) {
		if have == ref {
			return fmt.Errorf("branch %s %w here; choose another name with --branch", name, ErrExists)
		}
		if strings.HasPrefix(have, ref+"/") || strings.HasPrefix(ref, have+"/") {
			return fmt.Errorf("branch %s %w here, which excludes %s; choose another name with --branch", strings.TrimPrefix(have, "refs/heads/"), ErrExists, name)
		}
	}
	return nil
}

// topic is the part of a branch's name that says what it is about, "" or ending in -.
func (w *work) topic() string {
	var scopes, names []string
	for _, c := range w.changes {
		place, ours, err := w.locate(c.path)
		if !ours || err != nil {
			continue
		}
		scopes = append(scopes, place.Scope.String())
		names = append(names, place.Scope.String()+"-"+place.Name.String())
	}
	for _, s := range [][]string{names, scopes} {
		if slices.Sort(s); len(slices.Compact(s)) == 1 {
			return s[0] + "-"
		}
	}
	return ""
}

// locate is manifest.Locate for a path of the clone.
func (w *work) locate(path string) (manifest.Place, bool, error) {
	rel, inside := strings.CutPrefix(path, w.repo.Prefix())
	if !inside {
		return manifest.Place{}, false, nil
	}
	return manifest.Locate(rel)
}

// trees are those of the parent and of the commit; close both.
func (w *work) trees(ctx context.Context) (before, after *review.Tree, err error) {
	if before, err = w.repo.At(ctx, w.out.Parent); err != nil {
		return nil, nil, err
	}
	if after, err = w.repo.At(ctx, w.out.Commit); err != nil {
		before.Close()
	}
	return before, after, err
}

// check has review's word on the commit before anybody else sees it.
func (w *work) check(ctx context.Context) error {
	before, after, err := w.trees(ctx)
	if err != nil {
		return err
	}
	defer before.Close()
	defer after.Close()
	report, err := w.repo.Check(ctx, after, review.CheckOptions{Base: before, Now: w.now, AllowUnbound: w.tree.AllowUnbound})
	if err != nil {
		return err
	}
	var errs []string
	for _, f := range report.Findings {
		line := fmt.Sprintf("%s:%d: %s [%s]; %s", f.Path, f.Line, f.Message, f.ID, f.Remedy)
		if f.Level == review.LevelError {
			errs = append(errs, line)
		} else {
			w.opts.Note("warning: " + line)
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("not proposed:\n%s", strings.Join(errs, "\n"))
	}
	return nil
}

// describe makes the commit again, with a message that says what it changes.
func (w *work) describe(ctx context.Context) error {
	before, after, err := w.trees(ctx)
	if err != nil {
		return err
	}
	defer before.Close()
	defer after.Close()
	diff, err := w.repo.Diff(ctx, before, after, review.DiffOptions{Ring: w.opts.Ring})
	if err != nil {
		return err
	}
	diff.Files = append(diff.Files, w.others...)
	w.out.Subject, w.out.Body = message(diff, w.opts.Subject)
	args := []string{"commit-tree", w.out.Commit + "^{tree}", "-p", w.out.Parent, "-F", "-"}
	if sign, err := w.clone.Run(ctx, "config", "--type=bool", "--get", "commit.gpgSign"); err == nil && strings.TrimSpace(string(sign)) == "true" && !w.opts.DryRun {
		args = append(args, "-S")
	}
	text := w.out.Subject + "\n"
	if w.out.Body != "" {
		text += "\n" + w.out.Body
	}
	out, err := w.clone.RunWith(ctx, gitcmd.RunOptions{In: strings.NewReader(text)}, args...)
	if err != nil {
		return fmt.Errorf("the commit could not be made: %w", err)
	}
	w.out.Commit = strings.TrimSpace(string(out))
	return nil
}

// push gives the remote the branch, if it has none of that name or, to add to it, has it
// as it is here, and returns what it said.
func (w *work) push(ctx context.Context) (said string, err error) {
	for {
		said, err = w.pushOnce(ctx)
		if !errors.Is(err, ErrExists) || w.opts.Branch != "" || w.named >= maxNames {
			return said, err
		}
		if err := w.nameBranch(ctx); err != nil {
			return "", err
		}
	}
}

func (w *work) pushOnce(ctx context.Context) (said string, err error) {
	name, ref, lease := w.opts.Remote, "refs/heads/"+w.out.Branch, ""
	if w.out.Added {
		lease = w.head
	}
	var stderr limited
	_, err = w.clone.RunWith(ctx, gitcmd.RunOptions{Err: &stderr}, "push", "--no-follow-tags", "--recurse-submodules=no",
		"--force-with-lease="+ref+":"+lease, name, w.out.Commit+":"+ref)
	switch said = stderr.String(); {
	case err == nil:
		return said, nil
	case ctx.Err() != nil:
		return "", fmt.Errorf("interrupted during the push; nothing was changed here. git ls-remote %s %s shows whether the branch got there: %w", name, ref, ErrPush)
	case strings.Contains(said, "(stale info)") && w.out.Added:
		return "", fmt.Errorf("%w by %s: %s is not there as it is here: somebody pushed to it (git pull brings that), or it is merged and gone (--branch names a new one)", ErrPush, name, w.out.Branch)
	case strings.Contains(said, "(stale info)"):
		return "", fmt.Errorf("branch %s %w on %s and was left as it is; choose another name with --branch: %w", w.out.Branch, ErrExists, name, ErrPush)
	}
	return "", fmt.Errorf("%w by %s: %s", ErrPush, name, reason(err))
}

// limited keeps the first 64 KiB of what a remote says.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	l.Buffer.Write(p[:min(len(p), max(0, 64<<10-l.Len()))])
	return len(p), nil
}

// findAddress makes the address that opens the pull request, and passes on what the
// remote said.
func (w *work) findAddress(ctx context.Context, said string) {
	for line := range strings.Lines(said) {
		if text, ok := strings.CutPrefix(line, "remote:"); ok && strings.TrimSpace(text) != "" {
			w.opts.Note("remote: " + withoutCredentials(strings.TrimSpace(text)))
		}
	}
	remote, ok := ParseRemote(w.remote)
	if !ok {
		w.opts.Note(fmt.Sprintf("%s is no address on a Git host, so no page can be named that opens a pull request", w.opts.Remote))
		return
	}
	remote.resolveAlias(ctx)
	kind := w.opts.Forge
	if kind == "" {
		setting, err := w.clone.Config(ctx, "sealward.forge")
		if err == nil {
			kind, err = ParseForge(setting)
		}
		if err != nil {
			w.opts.Note("warning: git config sealward.forge: " + err.Error())
		}
	}
	if kind == "" {
		kind = remote.guess()
	}
	if kind != "" {
		w.out.Address = remote.NewRequest(kind, w.out.Branch, w.out.Base)
	}
	if w.out.Address == "" {
		w.out.Address = remote.told(said)
	}
	switch {
	case w.out.Address != "":
	case kind != "":
		w.opts.Note(fmt.Sprintf("the address of %s has no owner and repository as on %s, so no page can be named that opens a pull request", w.opts.Remote, kind))
	default:
		w.opts.Note(fmt.Sprintf("which Git host %s is cannot be told by its name; --forge, or git config sealward.forge, with github, gitlab, gitea or bitbucket names the page that opens a pull request", remote.Host))
	}
}

// settle brings the clone to where the remote is.
func (w *work) settle(ctx context.Context) error {
	branch := w.out.Branch
	var errs []error
	try := func(what string, err error) bool {
		if err != nil {
			errs = append(errs, fmt.Errorf("the branch is pushed, but %s: %s", what, reason(err)))
		}
		return err == nil
	}
	try("not every file here is sealed", w.writeSealed())
	if w.out.Added {
		return errors.Join(append(errs, w.moveOwn(ctx))...)
	}
	ref := "refs/heads/" + branch
	_, err := w.clone.Run(ctx, "update-ref", "-m", "sealward propose", ref, w.out.Commit, "")
	if !try("there is no local branch; git fetch brings it", err) {
		return errors.Join(errs...)
	}
	for _, s := range [][2]string{{"remote", w.opts.Remote}, {"merge", ref}, {baseSetting, w.out.Base}} {
		_, err := w.clone.Run(ctx, "config", "branch."+branch+"."+s[0], s[1])
		try("its upstream is not set", err)
	}
	if w.out.Stays = w.stays(ctx); w.out.Stays != "" {
		return errors.Join(errs...)
	}
	_, err = w.clone.RunWith(ctx, gitcmd.RunOptions{In: w.indexInfo()}, "update-index", "-z", "--index-info")
	if err == nil {
		_, err = w.clone.Run(ctx, "symbolic-ref", "-m", "sealward propose: moving to "+branch, "HEAD", ref)
	}
	if w.out.Switched = try("it is not checked out", err); w.out.Switched {
		// Only saves git a look at the files; it fails where others differ.
		_, _ = w.clone.Run(ctx, "update-index", "-q", "--refresh")
	}
	return errors.Join(errs...)
}

// stays says why the new branch cannot be checked out without touching anything else.
func (w *work) stays(ctx context.Context) string {
	here := "the detached HEAD"
	if w.on != "" {
		here = "branch " + w.on
	}
	if w.head != w.out.Parent {
		return fmt.Sprintf("%s has commits that %s has not, so you stay there, with your files as they are", here, w.out.Base)
	}
	head, err := w.clone.Resolve(ctx, "HEAD")
	on, err2 := w.clone.Branch(ctx)
	if err != nil || err2 != nil || head != w.head || on != w.on {
		return "HEAD moved meanwhile, so it stays where it is"
	}
	switch busy, err := w.busy(ctx); {
	case err != nil:
		return "git cannot tell what is going on here, so you stay on " + here
	case busy:
		return fmt.Sprintf("a merge, rebase or bisect is going on, so you stay on %s", here)
	}
	return ""
}

// writeSealed puts the sealed form where the plaintext was, unless that changed
// meanwhile.
func (w *work) writeSealed() error {
	if len(w.out.Sealed) == 0 {
		return nil
	}
	unlock, err := w.repo.Local().Lock()
	if err != nil {
		return err
	}
	defer unlock()
	var errs []error
	for _, c := range w.changes {
		if c.plain == nil {
			continue
		}
		now, _, err := w.readDisk(c.path)
		if err != nil || !bytes.Equal(now, c.plain) {
			errs = append(errs, fmt.Errorf("%s changed meanwhile and was left as it is, in plaintext", c.path))
			continue
		}
		errs = append(errs, writeFile(filepath.Join(w.clone.Top(), filepath.FromSlash(c.path)), c.data))
	}
	return errors.Join(errs...)
}
