package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sealward/sealward/gitops/gitcmd/gittest"
	"github.com/sealward/sealward/plugins/kustomize"
	"github.com/sealward/sealward/unseal/unsealtest"
)

// noWait: a program built with the race detector sleeps a second before it ends,
// and these tests run hundreds.
const noWait = "atexit_sleep_ms=0"

func TestMain(m *testing.M) {
	os.Setenv("GORACE", noWait)
	// It is the real program, but for what guessing a passphrase costs.
	program := func() { os.Exit(process(10)) }
	testscript.Main(m, map[string]func(){"sealward": program, kustomize.KSOPSKind: program}) // the latter is a link to it
}

// The scripts run the real command, git, sops and age, each in a folder and a
// home of its own.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("../../test/scripts/*.txt")
	if err != nil || len(files) < 8 {
		t.Fatalf("found %d scripts: %v", len(files), err)
	}
	testscript.Run(t, testscript.Params{Deadline: time.Now().Add(15 * time.Minute), Files: files, Setup: setup, Cmds: commands(), RequireExplicitExec: true})
}

// tools are the real programs that scripts compare with; make tools builds them.
func tools() (string, error) {
	dir, err := filepath.Abs("../../bin/tools")
	if err != nil {
		return "", err
	}
	for _, tool := range []string{"sops", "age", "age-keygen", "kustomize"} {
		if _, err := os.Stat(filepath.Join(dir, tool)); err != nil {
			return "", fmt.Errorf("%s is missing: run make tools", tool)
		}
	}
	for tool, pkg := range map[string]string{"gpg": "gnupg", "ssh-keygen": "openssh-client"} {
		if _, err := exec.LookPath(tool); err != nil {
			return "", fmt.Errorf("%s is missing: install %s", tool, pkg)
		}
	}
	return dir, nil
}

func setup(e *testscript.Env) error {
	dir, err := tools()
	if err != nil {
		return err
	}
	home := filepath.Join(e.WorkDir, ".home")
	if err := os.Mkdir(home, 0o700); err != nil {
		return err
	}
	config := "[user]\n\tname = dana\n\temail = dana@example.com\n[init]\n\tdefaultBranch = main\n[protocol \"file\"]\n\tallow = always\n"
	if err := os.WriteFile(filepath.Join(home, "gitconfig"), []byte(config), 0o600); err != nil {
		return err
	}
	for _, v := range [][2]string{
		{"PATH", e.Getenv("PATH") + string(os.PathListSeparator) + dir},
		{"HOME", home}, {"XDG_CONFIG_HOME", filepath.Join(home, "config")},
		{"GIT_CONFIG_GLOBAL", filepath.Join(home, "gitconfig")}, {"GIT_CONFIG_NOSYSTEM", "1"},
		{"SEALWARD_KEYRING", filepath.Join(e.WorkDir, "keys")}, {"GORACE", noWait},
	} {
		e.Setenv(v[0], v[1])
	}
	return nil
}

var address = regexp.MustCompile(`msg=serving address=(\S+)`)

// patience bounds every wait; it is only ever used up by a failure.
const patience = 20 * time.Second

// transits are the servers of the running scripts.
var transits sync.Map

type transit struct {
	*unsealtest.Server
	seen int
}

func commands() map[string]func(*testscript.TestScript, bool, []string) {
	return map[string]func(*testscript.TestScript, bool, []string){
		// serving LOG waits until an agent serves and sets SEALWARD_SERVER.
		"serving": func(ts *testscript.TestScript, _ bool, args []string) {
			log := ts.MkAbs(args[0])
			poll(ts, "the agent to serve", func() bool {
				text, _ := os.ReadFile(log)
				m := address.FindSubmatch(text)
				if m != nil {
					ts.Setenv("SEALWARD_SERVER", string(m[1]))
				}
				return m != nil
			}, func() string { text, _ := os.ReadFile(log); return string(text) })
		},
		// eventually TEXT COMMAND... repeats a command until its output has TEXT.
		"eventually": func(ts *testscript.TestScript, _ bool, args []string) {
			var last string
			poll(ts, strings.Join(args, " "), func() bool {
				c := exec.Command(args[1], args[2:]...)
				c.Dir = ts.Getenv("WORK")
				for _, k := range []string{"PATH", "HOME", "SEALWARD_SERVER", "SEALWARD_KEYRING", "GORACE"} {
					c.Env = append(c.Env, k+"="+ts.Getenv(k))
				}
				c.Path = lookPath(ts, args[1])
				out, _ := c.CombinedOutput()
				last = string(out)
				return strings.Contains(last, args[0])
			}, func() string { return last })
		},
		// transit starts a server with a transit engine and sets TRANSIT_KEY and
		// TRANSIT_TOKEN.
		"transit": func(ts *testscript.TestScript, _ bool, _ []string) {
			s := unsealtest.Transit(false)
			ts.Defer(s.Close)
			transits.Store(ts, &transit{Server: s})
			ts.Setenv("TRANSIT_KEY", s.Key("orders"))
			ts.Setenv("TRANSIT_TOKEN", unsealtest.Token)
		},
		// sshd DIR serves the bare repositories below DIR: to git, every host below
		// example.com is that server.
		"sshd": func(ts *testscript.TestScript, _ bool, args []string) {
			dir, err := os.MkdirTemp(ts.Getenv("WORK"), ".sshd")
			ts.Check(err)
			s, err := gittest.ServeSSH(ts.MkAbs(args[0]), dir)
			ts.Check(err)
			ts.Defer(s.Close)
			ts.Setenv("GIT_SSH_COMMAND", s.Command)
		},
		// githttps DIR serves the bare repositories below DIR and sets HTTPS_HOST (with the
		// port) and HTTPS_TOKEN, dana's password.
		"githttps": func(ts *testscript.TestScript, _ bool, args []string) {
			s, err := gittest.ServeHTTPS(ts.MkAbs(args[0]), "dana", "a-token-of-dana")
			ts.Check(err)
			ts.Defer(s.Close)
			ca := filepath.Join(ts.Getenv("WORK"), ".https-ca.pem")
			ts.Check(os.WriteFile(ca, s.CA(), 0o600))
			ts.Setenv("GIT_SSL_CAINFO", ca)
			ts.Setenv("HTTPS_HOST", strings.TrimPrefix(s.URL, "https://"))
			ts.Setenv("HTTPS_TOKEN", s.Password)
		},
		// asked N wants N requests to the transit engine since the last asked.
		"asked": func(ts *testscript.TestScript, _ bool, args []string) {
			v, ok := transits.Load(ts)
			if !ok {
				ts.Fatalf("there is no transit server")
			}
			t := v.(*transit)
			calls := t.Calls()
			if got := len(calls) - t.seen; fmt.Sprint(got) != args[0] {
				ts.Fatalf("asked %d times, want %s: %v", got, args[0], calls[t.seen:])
			}
			t.seen = len(calls)
		},
		// status CODE SHELL-LINE runs a line and wants an exit code.
		"status": func(ts *testscript.TestScript, _ bool, args []string) {
			err := ts.Exec("sh", "-c", args[1])
			code := 0
			if err != nil {
				exit, ok := err.(*exec.ExitError)
				ts.Check(map[bool]error{true: nil, false: err}[ok])
				code = exit.ExitCode()
			}
			if fmt.Sprint(code) != args[0] {
				ts.Fatalf("exit code %d, want %s", code, args[0])
			}
		},
		// noscratch fails if edit left plaintext in memory.
		"noscratch": func(ts *testscript.TestScript, _ bool, _ []string) {
			for _, dir := range []string{ts.Getenv("XDG_RUNTIME_DIR"), "/dev/shm", os.TempDir()} {
				if left, _ := filepath.Glob(filepath.Join(dir, scratchPrefix+"*")); dir != "" && len(left) > 0 {
					ts.Fatalf("left behind: %v", left)
				}
			}
		},
		// secretfree TEXT PATH... fails if a file below a path holds the text.
		"secretfree": func(ts *testscript.TestScript, _ bool, args []string) {
			files := 0
			for _, root := range args[1:] {
				ts.Check(filepath.Walk(ts.MkAbs(root), func(path string, info os.FileInfo, err error) error {
					if err != nil || !info.Mode().IsRegular() {
						return err
					}
					files++
					text, err := os.ReadFile(path)
					if strings.Contains(string(text), args[0]) {
						ts.Fatalf("%s holds the value", path)
					}
					return err
				}))
			}
			if files == 0 {
				ts.Fatalf("there is no file to search")
			}
		},
		// noplaintext CLONE fails if an object of the clone, reachable or not, holds a value of the
		// scripts (hunter and a digit).
		"noplaintext": func(ts *testscript.TestScript, _ bool, args []string) {
			c := exec.Command("git", "-C", ts.MkAbs(args[0]), "cat-file", "--batch-all-objects", "--batch")
			out, err := c.Output()
			ts.Check(err)
			if found := regexp.MustCompile(`hunter\d`).Find(out); found != nil || len(out) == 0 {
				ts.Fatalf("of %d bytes of objects, one holds %q", len(out), found)
			}
		},
	}
}

func lookPath(ts *testscript.TestScript, name string) string {
	for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return filepath.Join(dir, name)
		}
	}
	ts.Fatalf("%s is not in PATH", name)
	return ""
}

func poll(ts *testscript.TestScript, what string, done func() bool, last func() string) {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if done() {
			return
		}
	}
	ts.Fatalf("waited in vain for %s; last seen:\n%s", what, last())
}
