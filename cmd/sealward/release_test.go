package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

// runs calls a command as main does.
func runs(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(context.Background(), args, deps{In: strings.NewReader(""), Out: &out, Err: &errs, Now: time.Now,
		Getenv: func(string) string { return "" }, LookupEnv: func(string) (string, bool) { return "", false }})
	return code, out.String(), errs.String()
}

// every command that a user is shown, by its path.
func everyCommand(t *testing.T) map[string]*cobra.Command {
	t.Helper()
	a := &app{deps: deps{Now: time.Now}}
	root := a.root()
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	out := map[string]*cobra.Command{}
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		out[c.CommandPath()] = c
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() {
				walk(sub)
			}
		}
	}
	walk(root)
	if len(out) < 60 {
		t.Fatalf("only %d commands", len(out))
	}
	return out
}

func TestVersionTellsCommitAndDate(t *testing.T) {
	t.Parallel()
	noted := &debug.BuildInfo{Main: debug.Module{Version: "v1.2.4-0.20261126160000-0123456789ab+dirty"}, Settings: []debug.BuildSetting{
		{Key: "vcs.revision", Value: "0123456789abcdef"}, {Key: "vcs.time", Value: "2026-11-26T16:00:00Z"}, {Key: "vcs.modified", Value: "true"}}}
	for name, c := range map[string]struct {
		build build
		want  string
	}{
		"a release":             {buildOf("1.2.3", "fedcba", "2026-11-20T10:00:00Z", noted), "sealward 1.2.3 PLATFORM GO\ncommit fedcba of 2026-11-20T10:00:00Z\n"},
		"go build in a clone":   {buildOf("", "", "", noted), "sealward v1.2.4-0.20261126160000-0123456789ab+dirty PLATFORM GO\ncommit 0123456789abcdef of 2026-11-26T16:00:00Z, modified\n"},
		"go build elsewhere":    {buildOf("", "", "", &debug.BuildInfo{}), "sealward (devel) PLATFORM GO\n"},
		"go install @v1.2.3":    {buildOf("", "", "", &debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}}), "sealward v1.2.3 PLATFORM GO\n"},
		"a commit with no date": {buildOf("1.2.3", "fedcba", "", nil), "sealward 1.2.3 PLATFORM GO\ncommit fedcba\n"},
	} {
		want := strings.NewReplacer("PLATFORM", c.build.Platform, "GO", c.build.Go).Replace(c.want)
		if got := c.build.String(); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if code, out, errs := runs(t, "version", "-o", "json"); code != 0 || !strings.Contains(out, `"platform": "`) {
		t.Errorf("exit code %d\n%s\n%s", code, out, errs)
	}
}

// A packager gets a page for each command that help shows, with its flags.
func TestManPages(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "man1")
	if code, out, errs := runs(t, "man", dir); code != 0 || out+errs != "" {
		t.Fatalf("exit code %d\n%s\n%s", code, out, errs)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	pages := map[string]bool{}
	for _, file := range left {
		pages[filepath.Base(file)] = true
	}
	for path, c := range everyCommand(t) {
		name := strings.ReplaceAll(path, " ", "-") + ".1"
		page, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			if c.Name() != "help" && c.Parent() != nil && c.Parent().Name() != "completion" {
				t.Errorf("%s has no page: %v", path, err)
			}
			continue
		}
		delete(pages, name)
		text := string(page)
		if !strings.Contains(text, `.TH "`) || c.Example != "" && !strings.Contains(text, "EXAMPLE") {
			t.Errorf("%s is no page of %s", name, path)
		}
		for _, flag := range strings.Fields(c.LocalFlags().FlagUsages()) {
			if strings.HasPrefix(flag, "--") && !strings.Contains(text, strings.TrimRight(flag, ",")) {
				t.Errorf("%s lacks %s", name, flag)
			}
		}
	}
	for page := range pages {
		if !strings.HasPrefix(page, "sealward-completion") {
			t.Errorf("%s is of no command", page)
		}
	}
	if code, _, errs := runs(t, "man"); code != exitUsage {
		t.Errorf("without a folder: exit code %d, %s", code, errs)
	}
}

// Each shell's script is one that the shell reads, and what it asks sealward knows every
// command. zsh, fish and PowerShell look at theirs only where they are installed.
func TestCompletion(t *testing.T) {
	t.Parallel()
	for shell, check := range map[string][]string{"bash": {"bash", "-n"}, "zsh": {"zsh", "-n"}, "fish": {"fish", "-n"}, "powershell": {"pwsh", "-NoProfile", "-File"}} {
		code, script, errs := runs(t, "completion", shell)
		if code != 0 || errs != "" || len(script) < 1000 || !strings.Contains(script, "__complete") {
			t.Errorf("%s: exit code %d, %d bytes, %s", shell, code, len(script), errs)
		}
		if _, err := exec.LookPath(check[0]); err != nil {
			t.Logf("%s is not installed: its script was not read by it", shell)
			continue
		}
		file := filepath.Join(t.TempDir(), "completion.ps1")
		if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(check[0], append(check[1:], file)...).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", shell, err, out)
		}
	}
	for path, c := range everyCommand(t) {
		if c.Parent() == nil {
			continue
		}
		words := strings.Fields(path)[1:]
		ask := append([]string{cobra.ShellCompNoDescRequestCmd}, words[:len(words)-1]...)
		code, out, errs := runs(t, append(ask, words[len(words)-1])...)
		if code != 0 || !strings.Contains("\n"+out, "\n"+c.Name()+"\n") {
			t.Errorf("%s is not offered: exit code %d, %q, %s", path, code, out, errs)
		}
	}
}
