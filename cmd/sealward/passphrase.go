package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"golang.org/x/term"

	"github.com/sealward/sealward/unseal/keyring"
)

// terminal is where somebody can be asked: standard input, or the terminal that
// the command was started from when standard input is a value.
func (a *app) terminal() (fd int, done func(), err error) {
	if a.interactive() {
		return int(a.In.(*os.File).Fd()), func() {}, nil
	}
	tty := "/dev/tty"
	if runtime.GOOS == "windows" {
		tty = "CONIN$"
	}
	f, err := os.OpenFile(tty, os.O_RDWR, 0)
	if err != nil {
		return 0, nil, keyring.ErrCannotAsk
	}
	return int(f.Fd()), func() { _ = f.Close() }, nil
}

// interactive reports that the person who runs the command can be asked things
// that nobody has to ask.
func (a *app) interactive() bool {
	f, ok := a.In.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// askPassphrase gives the passphrase of a protected file, asking once a file.
func (a *app) askPassphrase(path string) ([]byte, error) {
	if a.passphraseFile != "" {
		return keyring.ReadPassphrase(a.passphraseFile)
	}
	if known := a.passphrases[path]; known != nil {
		return bytes.Clone(known), nil
	}
	if a.neverAsk {
		return nil, keyring.ErrCannotAsk
	}
	typed, err := a.hidden("Passphrase of " + path)
	if err == nil && len(typed) == 0 {
		err = errors.New("no passphrase was typed")
	}
	if err != nil {
		return nil, err
	}
	if a.passphrases == nil {
		a.passphrases = map[string][]byte{}
	}
	a.passphrases[path] = bytes.Clone(typed)
	return typed, nil
}

// newPassphrase asks twice. It is nil when nothing is typed and that may be.
func (a *app) newPassphrase(what string, optional bool) ([]byte, error) {
	hint := ""
	if optional {
		hint = " (empty for none)"
	}
	first, err := a.hidden("Passphrase for " + what + hint)
	if err != nil {
		return nil, err
	}
	if len(first) == 0 {
		if optional {
			return nil, nil
		}
		return nil, errors.New("no passphrase was typed; nothing was written")
	}
	second, err := a.hidden("The same once more")
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(first, second) {
		return nil, errors.New("the two passphrases differ; nothing was written")
	}
	return first, nil
}

// hidden asks for a line that is not shown.
func (a *app) hidden(prompt string) ([]byte, error) {
	fd, done, err := a.terminal()
	if err != nil {
		return nil, err
	}
	defer done()
	shown, err := term.GetState(fd)
	if err != nil {
		return nil, keyring.ErrCannotAsk
	}
	fmt.Fprintf(a.Err, "%s (not shown): ", prompt)
	text, err := await(a.stop, func() ([]byte, error) { return term.ReadPassword(fd) })
	fmt.Fprintln(a.Err)
	if errors.Is(err, errInterrupted) {
		_ = term.Restore(fd, shown) // the read that goes on cannot
		return nil, err
	}
	if err != nil {
		return nil, keyring.ErrCannotAsk
	}
	return text, nil
}

// line asks for a line on an interactive standard input.
func (a *app) line(prompt string) (string, error) {
	fmt.Fprintf(a.Err, "%s: ", prompt)
	// A byte at a time: what follows the line is for the next prompt.
	in := bufio.NewReaderSize(io.LimitReader(oneByte{a.In}, 8<<10), 16)
	text, err := await(a.stop, func() (string, error) { return in.ReadString('\n') })
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	return strings.TrimSpace(text), nil
}

type oneByte struct{ r io.Reader }

func (o oneByte) Read(p []byte) (int, error) { return o.r.Read(p[:min(len(p), 1)]) }
