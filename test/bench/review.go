package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/sealward/sealward/gitops/review"
)

// review asks a pull request's questions about a generated repository: everything
// at first, then one changed manifest.
func (b *bench) review() error {
	r, err := b.generate(filepath.Join(b.dir, "review"), b.n, min(100, b.n))
	if err != nil {
		return err
	}
	if err := r.publish(); err != nil {
		return err
	}
	sealward, err := b.build()
	if err != nil {
		return err
	}
	const rounds = 7
	repo, err := review.Open(b.ctx, r.dir)
	if err != nil {
		return err
	}
	check := func() error {
		tree, err := repo.WorkTree()
		if err != nil {
			return err
		}
		defer tree.Close()
		report, err := repo.Check(b.ctx, tree, review.CheckOptions{Now: time.Now()})
		if err == nil && (len(report.Findings) > 0 || report.Files < b.n) {
			err = fmt.Errorf("check: %s", report.Summary())
		}
		return err
	}
	parse := func() error {
		return inParallel(r.files, func(f file) error {
			data, err := os.ReadFile(filepath.Join(r.dir, f.path))
			if err != nil {
				return err
			}
			var n yaml.Node
			return yaml.Unmarshal(data, &n)
		})
	}
	spent, err := interleave(rounds, 0, []func() error{parse, check, func() error { return r.ask(sealward, "check", "-o", "json", "--no-keys") }})
	if err != nil {
		return err
	}
	t := newTable(fmt.Sprintf("Checking %s sealed manifests without a key, %d cores, median of %d", thousands(b.n), runtime.GOMAXPROCS(0), rounds), "", "time", "× yaml.v3")
	t.row("yaml.v3 reads and parses the same files, all cores", span(spent[0]), times(spent[0], spent[0]))
	t.row("sealward check, as a call", span(spent[1]), times(spent[1], spent[0]))
	t.row("sealward check, a process", span(spent[2]), times(spent[2], spent[0]))
	t.print()

	f := r.files[len(r.files)/2]
	if err := errors.Join(r.git("branch", "base"), r.change(f), r.commit(f.path)); err != nil {
		return err
	}
	secret := f.key.workspace.String() + "/" + f.name
	jobs := []struct {
		what string
		args []string
	}{
		{"git diff", []string{"git", "diff", "base", "HEAD"}},
		{"sealward version (the start of a process)", []string{sealward, "version"}},
		{"sealward diff base..HEAD", []string{sealward, "diff", "base..HEAD"}},
		{"sealward check --base base", []string{sealward, "check", "--base", "base", "-o", "json", "--no-keys"}},
		{"sealward check --base base --at HEAD", []string{sealward, "check", "--base", "base", "--at", "HEAD", "-o", "json", "--no-keys"}},
		{"sealward access-diff base..HEAD", []string{sealward, "access-diff", "base..HEAD"}},
		{"sealward who-can read, in a bare clone", []string{sealward, "who-can", "read", secret, "--at", "HEAD~1", "--repo", r.remote}},
	}
	var run []func() error
	for _, j := range jobs {
		run = append(run, func() error { return r.ask(j.args[0], j.args[1:]...) })
	}
	if spent, err = interleave(15, 0, run); err != nil {
		return err
	}
	t = newTable(fmt.Sprintf("One changed manifest among %s, whole processes, median of 15", thousands(b.n)), "", "time", "× git diff")
	for i, j := range jobs {
		t.row(j.what, span(spent[i]), times(spent[i], spent[0]))
	}
	t.print()
	return nil
}

// ask is run for commands that may have nothing to say.
func (r *repository) ask(name string, args ...string) error {
	cmd := exec.CommandContext(r.b.ctx, name, args...)
	cmd.Dir = r.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + r.b.dir, "SEALWARD_KEYRING=" + r.b.dir + "/none", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=" + os.DevNull}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", filepath.Base(name), args[0], err, strings.TrimSpace(string(out)))
	}
	return nil
}
