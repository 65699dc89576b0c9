package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealward/sealward/unseal/client"
	"github.com/sealward/sealward/unseal/workload"
)

func (a *app) execCmd() *cobra.Command {
	var connect func() (*client.Client, error)
	var o execOptions
	c := &cobra.Command{
		Use:   "exec --secret WORKSPACE/NAME [flags] -- COMMAND [ARGUMENT...]",
		Short: "Run a command with secrets of an agent in its environment",
		Long: `Run a command with secrets of an agent in its environment. A key becomes a variable in
upper case, with _ for what is neither letter nor digit; --map names one by hand. Two
keys of one name are an error. So are names that steer programs (PATH, LD_PRELOAD,
BASH_ENV, ...), unless --map gives them.

--on-change restart ends the command (SIGTERM, and SIGKILL after --grace) and starts
it anew when a value changes; signal sends it --signal. A secret that is deleted, or no
longer permitted, is told on standard error: by default the command goes on with what
it has, since it cannot be made to forget it; --on-revoke stop ends it (exit code 4).
While the agent merely cannot be reached, nothing happens.

Signals go on to the command, and its exit code is this command's.`,
		Example: "  sealward exec --secret orders/orders-db-r --prefix DB_ --on-change restart -- ./server --port 8080",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 || c.ArgsLenAtDash() != 0 {
				return usagef("the command is missing; it stands behind --")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			if err := o.parse(); err != nil {
				return err
			}
			cl, err := connect()
			if err != nil {
				return err
			}
			return a.exec(c.Context(), cl, o, args)
		},
	}
	connect = a.serverFlags(c)
	f := c.Flags()
	f.StringArrayVar(&o.secrets, "secret", nil, "WORKSPACE/NAME; repeatable")
	f.StringVar(&o.prefix, "prefix", "", "put before the name of every variable that --map does not name")
	f.StringArrayVar(&o.maps, "map", nil, "KEY=VARIABLE, or WORKSPACE/NAME/KEY=VARIABLE; repeatable")
	f.StringVar(&o.onChange, "on-change", "none", "when a value changes: restart, signal or none")
	f.StringVar(&o.signal, "signal", "HUP", "what --on-change signal sends")
	f.StringVar(&o.onRevoke, "on-revoke", "keep", "when a secret is deleted or no longer permitted: keep or stop")
	f.DurationVar(&o.grace, "grace", 10*time.Second, "how long the command may take to end")
	_ = c.RegisterFlagCompletionFunc("on-change", fixed("restart", "signal", "none"))
	_ = c.RegisterFlagCompletionFunc("on-revoke", fixed("keep", "stop"))
	return c
}

type execOptions struct {
	secrets, maps                      []string
	prefix, onChange, onRevoke, signal string
	grace                              time.Duration

	items    []client.Item
	mappings []workload.Mapping
	send     os.Signal
}

func (o *execOptions) parse() (err error) {
	if len(o.secrets) == 0 || len(o.secrets) > 100 {
		return usagef("--secret WORKSPACE/NAME is missing, or stands more than 100 times")
	}
	for _, s := range o.secrets {
		ws, name, _, err := secretArg(s, false)
		if err != nil {
			return err
		}
		o.items = append(o.items, client.Item{Workspace: ws, Name: name})
	}
	for _, s := range o.maps {
		m, err := workload.ParseMapping(s)
		if err != nil {
			return usagef("--map: %w", err)
		}
		o.mappings = append(o.mappings, m)
	}
	if err := workload.CheckPrefix(o.prefix); err != nil {
		return usagef("--prefix: %w", err)
	}
	if o.onChange != "restart" && o.onChange != "signal" && o.onChange != "none" {
		return usagef("--on-change is restart, signal or none")
	}
	if o.onRevoke != "keep" && o.onRevoke != "stop" {
		return usagef("--on-revoke is keep or stop")
	}
	if o.send, err = signalNamed(o.signal); err != nil {
		return usagef("--signal: %w", err)
	}
	return nil
}

// exec runs the command and follows its secrets.
func (a *app) exec(ctx context.Context, cl *client.Client, o execOptions, args []string) error {
	follow, stop := context.WithCancel(ctx)
	defer stop()
	states := make(chan []client.Entry)
	go func() {
		defer close(states)
		for entries := range cl.Watch(follow, o.items, 0) {
			select {
			case states <- entries:
			case <-follow.Done():
			}
		}
	}()
	first, ok := <-states
	if !ok {
		return errInterrupted
	}
	for _, e := range first {
		if !e.Ok() {
			return fmt.Errorf("%s: %w", e.Item, e.Err)
		}
	}
	env, err := workload.Env(first, o.prefix, o.mappings)
	if err != nil {
		return err
	}
	// The command's end is awaited whatever ends ctx: the signal goes on to it.
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, passedOn()...)
	defer signal.Stop(signals)
	child, err := a.start(args, env)
	if err != nil {
		return err
	}
	revoked := map[string]bool{}
	following := states
	if o.onChange == "none" && o.onRevoke == "keep" {
		stop() // nothing is to be done about a change
	}
	for {
		select {
		case err := <-child.done:
			return child.status(err)
		case s := <-signals:
			child.send(s)
		case entries, ok := <-following:
			if !ok { // interrupted: the command has the signal too
				following = nil
				continue
			}
			whole := true
			for _, e := range entries {
				who := e.Item.String()
				switch {
				case e.Ok():
					delete(revoked, who)
				default:
					whole = false
					if !revoked[who] {
						revoked[who] = true
						does := "the command keeps the values that it has (--on-revoke stop would end it)"
						if o.onRevoke == "stop" {
							does = "the command is ended (--on-revoke stop)"
						}
						fmt.Fprintf(a.Err, "sealward: %s is no longer given: %s; %s\n", who, clean(e.Err.Error()), does)
					}
				}
			}
			if !whole {
				if o.onRevoke == "stop" {
					child.end(o.grace)
					return exitStatus(exitDenied)
				}
				continue
			}
			next, err := workload.Env(entries, o.prefix, o.mappings)
			if err != nil {
				fmt.Fprintln(a.Err, "sealward: a secret changed, but the command stays as it is:", clean(err.Error()))
				continue
			}
			if maps.Equal(next, env) {
				continue
			}
			env = next
			switch o.onChange {
			case "signal":
				fmt.Fprintf(a.Err, "sealward: a secret changed; the command gets %v\n", o.send)
				child.send(o.send)
			case "restart":
				fmt.Fprintln(a.Err, "sealward: a secret changed; the command is restarted")
				if !child.end(o.grace) {
					return exitStatus(exitFailed)
				}
				// A signal that came meanwhile was for the whole of it.
				select {
				case <-ctx.Done():
					return exitStatus(128 + 15)
				default:
				}
				if child, err = a.start(args, env); err != nil {
					return err
				}
			}
		}
	}
}

// child is the running command.
type child struct {
	cmd   *exec.Cmd
	done  chan error
	group bool // it leads a process group of its own, which gets its signals
}

// start runs the command. A name that cannot be run has a shell's exit codes.
func (a *app) start(args []string, env map[string]string) (*child, error) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = workload.List(os.Environ(), env)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.In, a.Out, a.Err
	c := &child{cmd: cmd, done: make(chan error, 1), group: ownGroup(cmd)}
	if err := cmd.Start(); err != nil {
		code, why := 126, withoutPath(err)
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
			code, why = 127, errors.New("there is no such command")
		}
		// The name only: an argument may be anything.
		fmt.Fprintf(a.Err, "sealward: %s cannot be run: %v\n", clean(args[0]), why)
		return nil, exitStatus(code)
	}
	go func() { c.done <- cmd.Wait() }()
	return c, nil
}

// end asks the command to end, and ends it after the grace. It reports that it ended.
func (c *child) end(grace time.Duration) bool {
	c.send(terminate())
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-c.done:
		return true
	case <-timer.C:
	}
	c.kill()
	select {
	case <-c.done:
		return true
	case <-time.After(10 * time.Second): // it hangs in the kernel
		return false
	}
}

// status is the command's exit code, or 128 and the signal that ended it.
func (c *child) status(err error) error {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &exit):
		return fmt.Errorf("the command: %w", err)
	case exit.ExitCode() >= 0:
		return exitStatus(exit.ExitCode())
	}
	return exitStatus(128 + endedBy(exit))
}
