// Command sealward keeps a team's secrets in Git, sealed.
//
// main alone turns errors into exit codes; every other file is one command: its
// flags, one call, what it prints.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealward/sealward/gitops/worktree"
	"github.com/sealward/sealward/plugins/kustomize"
	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/client"
	"github.com/sealward/sealward/unseal/keyring"
)

// Exit codes that scripts may rely on.
const (
	exitFailed   = 1
	exitUsage    = 2
	exitFindings = 3
	exitDenied   = 4
	exitUnsealed = 5
)

func main() { os.Exit(process(0)) }

// process is this program's run; work is deps.Work.
func process(work int) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return run(ctx, asPlugin(os.Args[0], os.Args[1:]), deps{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Now: time.Now, Getenv: os.Getenv, LookupEnv: os.LookupEnv, Work: work})
}

// deps is what a command needs of the world.
type deps struct {
	In        io.Reader
	Out       io.Writer
	Err       io.Writer
	Now       func() time.Time
	Getenv    func(string) string
	LookupEnv func(string) (string, bool)
	// Work is what guessing a passphrase costs (keyring.WithWork); 0 is age's own.
	Work int
}

// app is deps and the flags of every command.
type app struct {
	deps
	stop           <-chan struct{} // closed when the command is interrupted
	repo           string
	keyring        string
	passphraseFile string
	neverAsk       bool // for a passphrase: the command does without keys

	passphrases map[string][]byte // that were typed, by file

	// The keyring is opened once, so that a passphrase is asked for once.
	opening sync.Mutex
	opened  *keyring.Keyring
}

// usageError is a wrong argument or configuration.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

// exitStatus is an answer that was printed already and that scripts tell by the exit
// code.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func run(ctx context.Context, args []string, d deps) int {
	a := &app{deps: d, stop: ctx.Done()}
	started := false
	root := a.root()
	whenRun(root, func() { started = true })
	root.SetArgs(args)
	root.SetIn(d.In)
	root.SetOut(d.Out)
	root.SetErr(d.Err)
	c, err := root.ExecuteContextC(ctx)
	var answered exitStatus
	switch {
	case err == nil:
		return 0
	case errors.As(err, &answered):
		return int(answered)
	case errors.Is(err, errInterrupted):
		err = errInterrupted // whatever was waited for
	case !started:
		err = calledWrong(c, err)
	}
	var tamper *seal.TamperError
	if errors.As(err, &tamper) && !errors.Is(err, errUnsealable) && tamper.File != "standard input" {
		err = fmt.Errorf("%w\nsealward doctor %s says what that means and what mends it", err, tamper.File)
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		if strings.TrimSpace(line) == "" {
			continue // git's, for example
		}
		fmt.Fprintln(d.Err, "sealward:", clean(line)) // it may name a file or a recipient as a stranger wrote it
	}
	return exitCode(err)
}

// harmless takes out of cobra's errors the arguments they quote: a value may have
// been given in the wrong place.
func harmless(text string) string {
	for re, to := range quotedArguments() {
		text = re.ReplaceAllString(text, to)
	}
	return text
}

func quotedArguments() map[*regexp.Regexp]string {
	return map[*regexp.Regexp]string{
		regexp.MustCompile(`(?s)(unknown shorthand flag: '.') in .*`):       "$1",
		regexp.MustCompile(`(?s)invalid argument ".*" for (".*" flag): .*`): "invalid argument for $1",
		regexp.MustCompile(`(?s)invalid argument ".*" for ("sealward.*")`):  "invalid argument for $1",
		regexp.MustCompile(`(?s)unknown command "[^"]{20,}"`):               "unknown command",
		regexp.MustCompile(`(?s)bad flag syntax: .*`):                       "bad flag syntax",
	}
}

func exitCode(err error) int {
	var usage usageError
	var tamper *seal.TamperError
	var misplaced *manifest.Error
	switch {
	case errors.As(err, &usage), errors.Is(err, keyring.ErrSettings):
		return exitUsage
	case errors.Is(err, errFindings):
		return exitFindings
	case errors.Is(err, client.ErrDenied), errors.Is(err, client.ErrUnauthenticated), errors.Is(err, kustomize.ErrNotAllowed):
		return exitDenied
	case errors.As(err, &misplaced) && misplaced.Misplaced:
		return exitUnsealed
	case errors.As(err, &tamper), errors.Is(err, unseal.ErrNotRecipient), errors.Is(err, worktree.ErrNeedsKey), errors.Is(err, keyring.ErrNoRing), errors.Is(err, keyring.ErrProtected),
		errors.Is(err, unseal.ErrService), errors.Is(err, seal.ErrUnbound), errors.Is(err, errUnsealable):
		return exitUnsealed
	default:
		return exitFailed
	}
}

// errUnsealable marks other reasons why a sealed manifest is not opened.
var errUnsealable = errors.New("not unsealed")

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "sealward",
		Short: "Secrets in Git, sealed: changed by pull request, served to those a grant names",
		Long: `sealward keeps secrets in Git, sealed with SOPS for one workspace each. A change
is a pull request; an agent follows the branch and serves each value only to
identities that hold read permission.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 check found
something, 4 permission denied, 5 cannot be unsealed (no key, tampered).`,
		SilenceUsage: true, SilenceErrors: true, Version: buildVersion(),
	}
	root.SetVersionTemplate("sealward {{.Version}}\n")
	root.PersistentFlags().StringVar(&a.repo, "repo", "", "sealed repository (default: the one around the current folder)")
	root.PersistentFlags().StringVar(&a.keyring, "keyring", "", "folder of private keys (default: $SEALWARD_KEYRING, or sealward/keys in the user's configuration)")
	root.PersistentFlags().StringVar(&a.passphraseFile, "passphrase-file", "", "file with the passphrase of a protected key (default: ask on the terminal)")
	_ = root.MarkPersistentFlagDirname("repo")
	_ = root.MarkPersistentFlagDirname("keyring")
	for _, g := range []struct{ id, title string }{{"write", "Write secrets:"}, {"keys", "Keys:"}, {"review", "Review:"}, {"look", "Look:"}, {"run", "Run:"}} {
		root.AddGroup(&cobra.Group{ID: g.id, Title: g.title})
	}
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("write", a.initCmd(), a.workspaceCmd(), a.createCmd(), a.importCmd(), a.setCmd(), a.unsetCmd(), a.editCmd(), a.sealCmd(), a.splitCmd(), a.joinCmd(), a.copyCmd(), a.migrateCmd())
	add("keys", a.rotateCmd(), a.keysCmd())
	add("review", a.proposeCmd(), a.checkCmd(), a.diffCmd(), a.accessDiffCmd(), a.canICmd(), a.whoCanCmd(), a.resolveCmd(), a.gitCmd())
	add("look", a.getCmd(), a.unsealCmd(), a.doctorCmd(), a.schemaCmd())
	add("run", a.agentCmd(), a.tokenCmd(), a.readCmd(), a.execCmd(), a.renderCmd(), a.whoamiCmd(), a.statusCmd(), a.auditCmd(), a.consumersCmd(), a.buildCmd(), a.kustomizeCmd(), a.demoCmd())
	root.AddCommand(a.versionCmd(), a.manCmd())
	return root
}

// group refuses a command that is only a name for others, instead of showing
// help with exit code 0.
func group(c *cobra.Command) *cobra.Command {
	c.RunE = func(c *cobra.Command, args []string) error {
		var names []string
		for _, sub := range c.Commands() {
			names = append(names, sub.Name())
		}
		which := strings.Join(names, ", ")
		if len(args) > 0 {
			return usagef("%s has no such command; one of %s (see %[1]s --help)", c.CommandPath(), which)
		}
		return usagef("%s what? One of %s (see %[1]s --help)", c.CommandPath(), which)
	}
	return c
}

func (a *app) repository() (*workspace.Repository, error) {
	dir := a.repo
	if dir == "" {
		dir = "."
	}
	r, err := workspace.FindRepository(dir)
	if err != nil {
		return nil, usageError{err}
	}
	return r, nil
}

func (a *app) openKeyring() (*keyring.Keyring, error) {
	a.opening.Lock()
	defer a.opening.Unlock()
	if a.opened != nil {
		return a.opened, nil
	}
	dir := a.keyring
	if dir == "" {
		dir = a.Getenv("SEALWARD_KEYRING")
	}
	if dir == "" {
		config, err := os.UserConfigDir()
		if err != nil {
			return nil, usagef("no keyring: set --keyring, SEALWARD_KEYRING or XDG_CONFIG_HOME")
		}
		dir = filepath.Join(config, "sealward", "keys")
	}
	k, err := keyring.Open(dir, keyring.WithPassphrase(a.askPassphrase), keyring.WithWork(a.Work))
	if err != nil {
		return nil, usageError{err}
	}
	a.opened = k
	return k, nil
}

// scopeArg reads a workspace, or instance, from the command line.
func scopeArg(s string) (manifest.Workspace, error) {
	ws, err := manifest.ParseScope(s)
	if err != nil {
		return ws, usageError{err}
	}
	return ws, nil
}

// secretArg reads WS/NAME, and WS/NAME/KEY where a key may follow.
func secretArg(s string, withKey bool) (ws manifest.Workspace, name manifest.Name, key manifest.Key, err error) {
	form := "WORKSPACE/NAME"
	if withKey {
		form += "[/KEY]"
	}
	part := strings.SplitN(s, "/", 3)
	if len(part) < 2 || len(part) == 3 && !withKey {
		// Not repeated: a token or a value may stand in the wrong place.
		return ws, name, key, usagef("the argument is not %s", form)
	}
	if ws, err = scopeArg(part[0]); err != nil {
		return ws, name, key, err
	}
	if name, err = manifest.ParseName(part[1]); err != nil {
		return ws, name, key, usageError{err}
	}
	if len(part) == 3 {
		if key, err = manifest.ParseKey(part[2]); err != nil {
			return ws, name, key, usageError{err}
		}
	}
	return ws, name, key, nil
}

func keyArg(s string) (manifest.Key, error) {
	k, err := manifest.ParseKey(s)
	if err != nil {
		return k, usageError{err}
	}
	return k, nil
}
