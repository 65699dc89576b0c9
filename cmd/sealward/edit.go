package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
)

func (a *app) editCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "edit WORKSPACE/NAME",
		Short: "Edit a secret in your editor",
		Long: `Open a secret in $VISUAL or $EDITOR and seal it again when the editor ends. Values
that stay keep their ciphertext; in a secret kept in parts only the parts that
changed are written. It needs the private key.

While you edit, the plaintext is a file in a folder that only you can read, in
memory where the system has such a place ($XDG_RUNTIME_DIR, /dev/shm), and it is
removed whatever happens. Editors may keep copies elsewhere (undo files, backups):
turn that off for secrets. A manifest that is not valid is opened again with what is
wrong above it; leave it as it is to give up.`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeOneSecret,
		RunE: func(c *cobra.Command, args []string) error { return a.edit(c.Context(), args[0]) },
	}
}

// notePrefix starts the lines that edit puts above a manifest that was not valid.
const notePrefix = "#! "

func (a *app) edit(ctx context.Context, arg string) error {
	t, s, err := a.findSecret(arg, false)
	if err != nil {
		return err
	}
	whole, err := t.Open(s)
	if err != nil {
		return err
	}
	a.warn(whole)
	text, err := whole.Plaintext()
	if err != nil {
		return err
	}
	shown := strings.TrimSuffix(manifest.SecretPath(s.Workspace, s.Name), ".yaml") + whole.Manifest.Ext()
	before, last := text, text
	for {
		edited, err := a.runEditor(ctx, s.Name.String()+whole.Manifest.Ext(), text)
		if err != nil {
			return err
		}
		if bytes.Equal(edited, last) || bytes.Equal(edited, before) {
			fmt.Fprintf(a.Out, "%s: nothing was changed\n", s)
			return nil
		}
		m, err := manifest.Parse(shown, edited)
		if err == nil && m.Sealed {
			err = fmt.Errorf("%s: has a sops section; edit the plaintext only", shown)
		}
		if err == nil {
			err = m.SettleIn(s.Workspace)
		}
		var paths []string
		if err == nil {
			paths, err = t.Edit(s, before, m)
		}
		if err == nil {
			for _, path := range paths {
				fmt.Fprintf(a.Out, "%s written\n", path)
			}
			a.printChanges(whole.Values, m)
			return nil
		}
		if f, ok := a.In.(*os.File); !ok || !term.IsTerminal(int(f.Fd())) {
			return fmt.Errorf("%w\nnothing was changed", err)
		}
		var notes strings.Builder
		for line := range strings.SplitSeq(err.Error(), "\n") {
			notes.WriteString(notePrefix + clean(line) + "\n")
		}
		last, text = edited, append([]byte(notes.String()), edited...)
	}
}

// printChanges names the keys that an edit changed.
func (a *app) printChanges(before []seal.Value, m *manifest.Manifest) {
	after, err := seal.PlainValues(m)
	if err != nil {
		return
	}
	find := func(in []seal.Value, key manifest.Key) *seal.Value {
		if i := slices.IndexFunc(in, func(v seal.Value) bool { return v.Key == key }); i >= 0 {
			return &in[i]
		}
		return nil
	}
	for _, v := range after {
		if old := find(before, v.Key); old == nil {
			fmt.Fprintf(a.Out, "  %s added\n", v.Key)
		} else if !bytes.Equal(old.Data, v.Data) {
			fmt.Fprintf(a.Out, "  %s changed\n", v.Key)
		}
	}
	for _, v := range before {
		if find(after, v.Key) == nil {
			fmt.Fprintf(a.Out, "  %s removed\n", v.Key)
		}
	}
}

// runEditor lets a person edit text and returns it without the notes above it. The
// plaintext is there only while signals are caught here.
func (a *app) runEditor(ctx context.Context, name string, text []byte) ([]byte, error) {
	editor := a.Getenv("VISUAL")
	if editor == "" {
		editor = a.Getenv("EDITOR")
	}
	if editor == "" {
		editor = "vi"
	}
	// Interrupts are the editor's, as in git; the others end it, and the plaintext
	// goes with it. ctx is cancelled by the interrupt that the editor gets too.
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)
	go func() {
		for {
			select {
			case s := <-signals:
				if s == syscall.SIGTERM || s == syscall.SIGHUP {
					cancel(fmt.Errorf("ended by a signal (%s); nothing was changed", s))
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	scratch, err := newScratch(a.Err, name)
	if err != nil {
		return nil, err
	}
	defer scratch.remove()
	if err := scratch.write(text); err != nil {
		return nil, err
	}
	// Through a shell, as git does: EDITOR may hold arguments.
	cmd := exec.CommandContext(ctx, "sh", "-c", editor+` "$@"`, editor, scratch.file)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.In, a.Out, a.Err
	err = cmd.Run()
	if cause := context.Cause(ctx); cause != nil {
		return nil, cause
	}
	if err != nil {
		return nil, errors.New("the editor ended with an error; nothing was changed")
	}
	edited, err := scratch.read()
	if err != nil {
		return nil, err
	}
	for bytes.HasPrefix(edited, []byte(notePrefix)) {
		_, edited, _ = bytes.Cut(edited, []byte("\n"))
	}
	return edited, nil
}
