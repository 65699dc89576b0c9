package git

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/sealward/sealward/gitops/gitcmd"
	"github.com/sealward/sealward/seal/workspace"
)

// Report is what Install or Uninstall did.
type Report struct {
	Done []string // one line each; empty when there was nothing to do
	// Left is what they left alone, and what a person can do about it.
	Left []string
}

const (
	mark     = "# made by sealward git install; sealward git uninstall removes it"
	hookName = "pre-commit"
)

// setting is one line of git's configuration.
type setting struct{ name, value string }

// program is how git's shell starts this program.
type program struct {
	name string // as a shell takes it
	// dir has it, where it is called by its plain name: a client with windows, or cron,
	// gives git another PATH than a terminal does.
	dir  string
	args string // before the command
}

func (p program) path() string {
	if p.dir == "" {
		return ""
	}
	return `PATH="$PATH:"` + quoted(p.dir) + "; "
}

func settings(p program) []setting {
	call := func(command, fallback string) string {
		return "f() { " + p.path() + "if command -v " + p.name + " >/dev/null; then " + p.name + p.args + " git " + command + ` "$@"; else ` + fallback + "; fi; }; f"
	}
	return []setting{
		{"diff.sealward.textconv", call("textconv", textconvFallback)},
		{"merge.sealward.name", "sealed manifests, by key"},
		// % is git's own in a driver's line.
		{"merge.sealward.driver", strings.ReplaceAll(call("merge-driver", mergeFallback), "%", "%%") + " %O %A %B %L %P"},
		// Of several merge bases git makes one first; its conflicts could not be opened.
		{"merge.sealward.recursive", "binary"},
	}
}

// What git's shell does where it finds no sealward, so that the clone stays usable and
// a merge does not pass for done. With an empty base, every line that differs is in
// conflict: sealed text that is put together from two files opens nowhere.
const (
	textconvFallback = `cat "$1"`
	mergeFallback    = `: >"$1"; git merge-file --marker-size="$4" -L ours -L base -L theirs "$2" "$1" "$3"; ` +
		`echo "sealward was not found, so nothing was merged by keys; install it, then: sealward resolve" >&2; return 1`
)

// isOurs tells what some version of sealward set, with whatever path to it.
func (s setting) isOurs(value string) bool {
	old := ""
	switch s.name {
	case "diff.sealward.textconv":
		old = " git textconv"
	case "merge.sealward.driver":
		old = " git merge-driver %O %A %B %L %P"
	default:
		return value == s.value
	}
	_, tail, _ := strings.Cut(s.value, " git ")
	return strings.HasSuffix(value, old) || strings.HasPrefix(value, "f() { ") && strings.HasSuffix(value, " git "+tail)
}

func hook(p program) []byte {
	return []byte("#!/bin/sh\n" + mark + "\n" + p.path() + "exec " + p.name + " git pre-commit\n")
}

// isOurHook tells a hook that is as Install made it.
func isOurHook(data []byte) bool {
	lines := strings.Split(string(data), "\n")
	return len(lines) == 4 && lines[0] == "#!/bin/sh" && lines[1] == mark && lines[3] == "" && hookLine().MatchString(lines[2])
}

func hookLine() *regexp.Regexp {
	return regexp.MustCompile(`^(PATH="\$PATH:"[^;]+; )?exec .* git pre-commit$`)
}

// findProgram is by name where the shell finds it by name.
func findProgram() (program, error) {
	self, err := os.Executable()
	if err != nil {
		return program{}, err
	}
	if found, err := exec.LookPath("sealward"); err == nil && filepath.IsAbs(found) {
		a, err1 := os.Stat(found)
		b, err2 := os.Stat(self)
		if err1 == nil && err2 == nil && os.SameFile(a, b) {
			p := program{name: "sealward"}
			if dir := filepath.ToSlash(filepath.Dir(found)); !strings.ContainsAny(strings.TrimPrefix(dir, filepath.VolumeName(dir)), ":;\n") {
				p.dir = dir
			}
			return p, nil
		}
	}
	return program{name: quoted(filepath.ToSlash(self))}, nil
}

// attributesFor are the lines that give the sealed files of a repository to the
// drivers.
func attributesFor(prefix string) []string {
	var out []string
	for _, pattern := range []string{"workspaces/*/secrets/**", "instance/secrets/**"} {
		glob := strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(prefix) + pattern
		if strings.ContainsAny(glob, " \t\"\\") || strings.HasPrefix(glob, "#") || strings.HasPrefix(glob, "!") {
			glob = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(glob) + `"`
		}
		out = append(out, glob+" diff=sealward merge=sealward")
	}
	return out
}

// Install sets up diff, merge and the pre-commit hook in the clone around a sealed
// repository. It can be run again. keyring is the folder that git's drivers use, ""
// for that of whoever runs git.
func (p *Plugin) Install(ctx context.Context, repo *workspace.Repository, keyring string) (*Report, error) {
	clone, err := openClone(ctx, repo.Dir())
	if err != nil {
		return nil, err
	}
	prefix, err := clone.Prefix(repo.Dir())
	if err != nil {
		return nil, err
	}
	self, err := findProgram()
	if err != nil {
		return nil, err
	}
	if keyring != "" {
		if keyring, err = filepath.Abs(keyring); err != nil {
			return nil, err
		}
		self.args = " --keyring " + quoted(filepath.ToSlash(keyring))
	}
	r := &Report{}
	changed := false
	for _, s := range settings(self) {
		have, err := localConfig(ctx, clone, s.name)
		switch {
		case err != nil:
			return r, err
		case have == s.value:
			continue
		case have != "" && !s.isOurs(have):
			r.Left = append(r.Left, fmt.Sprintf("%s is set to something else already and stays; git config --unset %s, then install again", s.name, s.name))
			continue
		}
		if _, err := clone.Run(ctx, "config", "--local", s.name, s.value); err != nil {
			return r, err
		}
		changed = true
	}
	if changed {
		r.Done = append(r.Done, "git's configuration of this clone has the drivers diff.sealward and merge.sealward")
	}
	if err := installAttributes(ctx, clone, prefix, r); err != nil {
		return r, err
	}
	return r, installHook(ctx, clone, self, r)
}

func openClone(ctx context.Context, dir string) (*gitcmd.Clone, error) {
	clone, err := gitcmd.Open(ctx, dir)
	if err == nil && clone.Bare() {
		err = fmt.Errorf("%s %w", dir, ErrBare)
	}
	return clone, err
}

// ErrBare: a clone without a work tree has no use for any of it.
var ErrBare = errors.New("is a bare repository: nothing is diffed, merged or committed there")

// NotBare fails with ErrBare for a bare repository; it says nothing of others.
func (p *Plugin) NotBare(ctx context.Context) error {
	if _, err := openClone(ctx, p.Dir); errors.Is(err, ErrBare) {
		return err
	}
	return nil
}

// localConfig reads what this clone itself sets.
func localConfig(ctx context.Context, clone *gitcmd.Clone, name string) (string, error) {
	out, err := clone.Run(ctx, "config", "--local", "--get", name)
	var refused *gitcmd.Error
	if errors.As(err, &refused) && refused.Code == 1 {
		return "", nil
	}
	return strings.TrimSuffix(string(out), "\n"), err
}

func installAttributes(ctx context.Context, clone *gitcmd.Clone, prefix string, r *Report) error {
	args := []string{"check-attr", "-z", "diff", "merge", "--"}
	for _, file := range []string{"workspaces/x/secrets/y.yaml", "workspaces/x/secrets/y/z.json", "instance/secrets/y.yaml"} {
		args = append(args, prefix+file)
	}
	out, err := clone.Run(ctx, args...)
	if err != nil {
		return err
	}
	fields := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	assigned := len(fields) == 18 // path, attribute, value
	for i := 2; i < len(fields); i += 3 {
		assigned = assigned && fields[i] == "sealward"
	}
	if assigned {
		return nil
	}
	file, err := clone.Path(ctx, "info/attributes")
	if err != nil {
		return err
	}
	have, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	block := mark + "\n" + strings.Join(attributesFor(prefix), "\n") + "\n"
	if bytes.Contains(have, []byte(block)) {
		r.Left = append(r.Left, file+" has the attributes, but something after them sets others; see git check-attr -a PATH")
		return nil
	}
	if len(have) > 0 && have[len(have)-1] != '\n' {
		have = append(have, '\n')
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o777); err != nil {
		return err
	}
	r.Done = append(r.Done, file+" gives the sealed files to the drivers, as no .gitattributes does")
	return workspace.WriteFile(file, append(have, block...), 0o666)
}

func installHook(ctx context.Context, clone *gitcmd.Clone, self program, r *Report) error {
	file, err := clone.Path(ctx, "hooks/"+hookName)
	if err != nil {
		return err
	}
	where, err := whereIs(ctx, clone, file)
	if err != nil {
		return err
	}
	shared := ""
	if where == inWorkTree { // others may commit it, or have it already
		self.dir = ""
		shared = "; it is in the work tree (core.hooksPath): commit it for everybody, or have git ignore it"
	}
	want := hook(self)
	line := self.name + " git pre-commit || exit 1"
	have, err := os.ReadFile(file)
	switch {
	case err == nil && bytes.Equal(have, want):
		return nil
	case err == nil && !isOurHook(have):
		if !bytes.Contains(have, []byte(" git pre-commit")) {
			r.Left = append(r.Left, fmt.Sprintf("%s is a hook already and stays as it is; add this line to it: %s", file, line))
		}
		return nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("the hook: %w", err)
	}
	if where == elsewhere {
		// core.hooksPath of a person or a machine: a hook there is every clone's.
		r.Left = append(r.Left, fmt.Sprintf("git takes this clone's hooks from %s, which other clones use too, so none was put there; add this line to its %s hook: %s", filepath.Dir(file), hookName, line))
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o777); err != nil {
		return err
	}
	if err := workspace.WriteFile(file, want, 0o777); err != nil {
		return err
	}
	// 0777 less the umask, also where an older one lacked the bit.
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	r.Done = append(r.Done, file+" refuses to commit values that are not sealed"+shared)
	return os.Chmod(file, info.Mode().Perm()|info.Mode().Perm()>>2&0o111)
}

// place of a file in a clone.
type place int

const (
	elsewhere place = iota
	inGitDir
	inWorkTree
)

// whereIs tells whether a file is in the clone's own folder or its work tree.
func whereIs(ctx context.Context, clone *gitcmd.Clone, file string) (place, error) {
	out, err := clone.Run(ctx, "rev-parse", "--git-common-dir")
	if err != nil {
		return elsewhere, err
	}
	common := filepath.FromSlash(strings.TrimSuffix(string(out), "\n"))
	if !filepath.IsAbs(common) {
		common = filepath.Join(clone.Top(), common)
	}
	at := filepath.Dir(file)
	for real, err := filepath.EvalSymlinks(at); ; real, err = filepath.EvalSymlinks(at) {
		if err == nil {
			at = real
			break
		}
		if at == filepath.Dir(at) {
			break
		}
		at = filepath.Dir(at)
	}
	for _, in := range []struct {
		dir   string
		place place
	}{{common, inGitDir}, {clone.Top(), inWorkTree}} {
		dir, err := filepath.EvalSymlinks(in.dir)
		if err != nil {
			return elsewhere, err
		}
		if rel, err := filepath.Rel(dir, at); err == nil && filepath.IsLocal(rel) {
			return in.place, nil
		}
	}
	return elsewhere, nil
}

// Uninstall removes what Install made from the clone around dir, and nothing else.
func (p *Plugin) Uninstall(ctx context.Context, dir string) (*Report, error) {
	clone, err := openClone(ctx, dir)
	if err != nil {
		return nil, err
	}
	r := &Report{}
	removed := false
	for _, s := range settings(program{name: "sealward"}) {
		have, err := localConfig(ctx, clone, s.name)
		if err != nil {
			return r, err
		}
		if have == "" {
			continue
		}
		if !s.isOurs(have) {
			r.Left = append(r.Left, s.name+" is set to something else and stays")
			continue
		}
		if _, err := clone.Run(ctx, "config", "--local", "--unset", s.name); err != nil {
			return r, err
		}
		removed = true
	}
	if removed {
		r.Done = append(r.Done, "the drivers diff.sealward and merge.sealward are gone from git's configuration of this clone")
	}
	file, err := clone.Path(ctx, "info/attributes")
	if err != nil {
		return r, err
	}
	if have, err := os.ReadFile(file); err == nil {
		if rest := withoutBlocks(string(have)); rest != string(have) {
			r.Done = append(r.Done, file+" has no lines of sealward's any more")
			if rest == "" {
				err = os.Remove(file)
			} else {
				err = workspace.WriteFile(file, []byte(rest), 0o666)
			}
			if err != nil {
				return r, err
			}
		}
	}
	if file, err = clone.Path(ctx, "hooks/"+hookName); err != nil {
		return r, err
	}
	have, err := os.ReadFile(file)
	switch {
	case err != nil:
	case isOurHook(have):
		if err := os.Remove(file); err != nil {
			return r, err
		}
		r.Done = append(r.Done, file+" is gone")
	case bytes.Contains(have, []byte("sealward")) && bytes.Contains(have, []byte(" git pre-commit")):
		r.Left = append(r.Left, file+" is not as sealward made it and stays; take the line with sealward out of it")
	}
	return r, nil
}

// withoutBlocks drops the lines that installAttributes wrote, for whatever prefix.
func withoutBlocks(text string) string {
	lines := strings.SplitAfter(text, "\n")
	var out strings.Builder
	for i := 0; i < len(lines); i++ {
		if lines[i] == mark+"\n" && i+2 < len(lines) && isAttribute(lines[i+1], "workspaces/*/secrets/**") && isAttribute(lines[i+2], "instance/secrets/**") {
			i += 2
			continue
		}
		out.WriteString(lines[i])
	}
	return out.String()
}

func isAttribute(line, pattern string) bool {
	glob, ok := strings.CutSuffix(strings.TrimSuffix(line, "\n"), " diff=sealward merge=sealward")
	return ok && strings.HasSuffix(path.Clean("/"+strings.TrimSuffix(glob, `"`)), "/"+pattern)
}
