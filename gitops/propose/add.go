package propose

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sealward/sealward/gitops/gitcmd"
	"github.com/sealward/sealward/seal/manifest"
)

// findOwn decides whether the change becomes one more commit of the branch that is
// checked out: propose made it, and the remote has it as it is here, so that nothing
// goes there but what is named.
func (w *work) findOwn(ctx context.Context) error {
	if w.on == "" || w.head == w.left { // without commits that the base has not, it is merged
		return nil
	}
	for setting, want := range map[string]string{"remote": w.opts.Remote, "merge": "refs/heads/" + w.on, baseSetting: w.out.Base} {
		if is, err := w.clone.Config(ctx, "branch."+w.on+"."+setting); err != nil || is != want {
			return err
		}
	}
	if there, err := w.clone.Resolve(ctx, "refs/remotes/"+w.opts.Remote+"/"+w.on); err != nil || there != w.head {
		return nil
	}
	w.own = true
	if w.opts.Branch != "" {
		return nil
	}
	if busy, err := w.busy(ctx); err != nil || busy {
		return fmt.Errorf("a merge, rebase or bisect is going on, so nothing is added to branch %s; end it first, or name a new branch with --branch", w.on)
	}
	w.out.Added, w.out.Branch, w.out.Parent, w.from = true, w.on, w.head, w.on
	return nil
}

// busy reports that git is in the middle of something that the branch must not move in.
func (w *work) busy(ctx context.Context) (bool, error) {
	for _, name := range []string{"MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "rebase-merge", "rebase-apply", "BISECT_LOG"} {
		path, err := w.clone.Path(ctx, name)
		if err != nil {
			return false, err
		}
		if _, err := os.Lstat(path); err == nil {
			return true, nil
		}
	}
	return false, nil
}

// moveOwn brings the branch that is checked out to the commit that the remote took.
func (w *work) moveOwn(ctx context.Context) error {
	if w.out.Stays = w.stays(ctx); w.out.Stays != "" {
		return nil
	}
	// The index first: until the branch follows, it is as if git add had been run.
	_, err := w.clone.RunWith(ctx, gitcmd.RunOptions{In: w.indexInfo()}, "update-index", "-z", "--index-info")
	if err == nil {
		_, err = w.clone.Run(ctx, "update-ref", "-m", "sealward propose", "refs/heads/"+w.on, w.out.Commit, w.head)
	}
	if err != nil {
		return fmt.Errorf("the commit is pushed, but branch %s here did not follow: %s; once that is mended: git reset --soft %s && git reset -q -- %s",
			w.on, reason(err), w.out.Commit, w.shellPaths(w.out.Files))
	}
	w.out.Switched = true
	_, _ = w.clone.Run(ctx, "update-index", "-q", "--refresh")
	return nil
}

// onTop says how a change gets to the commits of the branch that is checked out.
func (w *work) onTop(ctx context.Context, t Target, specs []string, found map[string]*gitcmd.File) (string, error) {
	switch {
	case w.on == "":
		return "make the change again on a branch without them", nil
	case w.own:
		return fmt.Sprintf("without --branch it is added to branch %s, which has them", w.on), nil
	}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		data, _, err := w.readDisk(name)
		if err != nil {
			return "", err
		}
		plain := plainSecret(data)
		if _, ours, _ := w.locate(name); ours && data != nil {
			m, err := manifest.Parse(name, data)
			plain = err != nil || m.Kind.IsSecret() && !m.Sealed
		}
		if plain {
			return fmt.Sprintf("%s is not sealed: sealward seal --in-place %s, then run this again", name, w.shellPaths([]string{name})), nil
		}
	}
	var paths []string
	for _, spec := range specs {
		known, err := w.clone.Files(ctx, w.head, spec)
		if err != nil {
			return "", err
		}
		if len(known) > 0 || w.onDisk(spec) {
			paths = append(paths, spec)
		}
	}
	files := w.shellPaths(paths)
	return fmt.Sprintf("put it on top of them: git add -- %s && git commit -m %s -- %[1]s && git push; or make the change again on a branch without them", files, ShellWord("Change "+printable(t.String()))), nil
}

// shellPaths are paths of the clone for a shell in the current folder.
func (w *work) shellPaths(paths []string) string {
	here, err := filepath.Abs(".")
	if err == nil {
		here, err = filepath.EvalSymlinks(here)
	}
	var out []string
	for _, p := range paths {
		p = filepath.Join(w.clone.Top(), filepath.FromSlash(p))
		if rel, relErr := filepath.Rel(here, p); err == nil && relErr == nil {
			p = rel
		}
		out = append(out, ShellWord(p))
	}
	return strings.Join(out, " ")
}

// ShellWord is s as one word of a shell's line.
func ShellWord(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./=:,@+") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// warnOfConflict tells that the base went on in what is proposed.
func (w *work) warnOfConflict(ctx context.Context, t Target, specs []string) error {
	if w.base == w.left {
		return nil
	}
	theirs, err := w.clone.Diff(ctx, w.left, w.base, specs...)
	if err != nil || len(theirs) == 0 {
		return err
	}
	first := "git merge " + w.opts.Remote + "/" + w.out.Base
	if merge, err := w.clone.Config(ctx, "branch."+w.on+".merge"); err == nil && w.on != "" && merge == "refs/heads/"+w.out.Base {
		first = "git pull"
	}
	w.opts.Note(fmt.Sprintf("%s has changed %s since: the pull request may conflict; %s first", w.out.Base, t, first))
	return nil
}
