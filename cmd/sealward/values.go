package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
)

// literalHelp warns everywhere a value can be given on the command line.
const literalHelp = "KEY=VALUE that anyone may see: the command line is public on this machine; repeatable"

// errEmptyInput: what comes through a pipe is empty when the program before it
// failed, and a lost credential is not meant.
var errEmptyInput = errors.New("standard input is empty")

// readFile reads a value from a path, - and /dev/stdin being standard input.
func (a *app) readFile(path string) ([]byte, error) {
	return await(a.stop, func() ([]byte, error) { return readWhole(a.In, path) })
}

func readWhole(stdin io.Reader, path string) ([]byte, error) {
	in := stdin
	if path != "-" && path != "/dev/stdin" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, manifest.MaxSize+1))
	if err != nil {
		return nil, err
	}
	if len(data) > manifest.MaxSize {
		return nil, fmt.Errorf("it is larger than a manifest may be (%d bytes)", manifest.MaxSize)
	}
	return data, nil
}

// withoutPath is what is wrong with a file, without its name.
func withoutPath(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}

// values collects --from-literal, --from-file and --generate.
func (a *app) values(literals, files, generate []string) ([]seal.Value, error) {
	var out []seal.Value
	for _, s := range literals {
		k, v, ok := strings.Cut(s, "=")
		if !ok {
			return nil, usagef("--from-literal wants KEY=VALUE")
		}
		key, err := keyArg(k)
		if err != nil {
			return nil, err
		}
		out = append(out, seal.Value{Key: key, Data: []byte(v)})
	}
	stdin := 0
	for _, s := range files {
		k, path, ok := strings.Cut(s, "=")
		if !ok { // kubectl's short form: the file's name is the key
			k, path = filepath.Base(s), s
		}
		key, err := keyArg(k)
		if err != nil {
			return nil, err
		}
		if path == "-" || path == "/dev/stdin" {
			if stdin++; stdin > 1 {
				return nil, usagef("--from-file reads standard input for two keys; it can be read once")
			}
		}
		data, err := a.readFile(path)
		if err != nil {
			// Without the path: it may be a value, given in the wrong place.
			return nil, fmt.Errorf("--from-file %s: the file cannot be read (%w); it wants KEY=PATH, and KEY=- for standard input", k, withoutPath(err))
		}
		if path == "-" || path == "/dev/stdin" {
			if len(data) == 0 {
				return nil, fmt.Errorf("--from-file %s: %w; nothing was written. --from-literal %[1]s= gives an empty value", key, errEmptyInput)
			}
			a.noteNewline(k, data)
		}
		out = append(out, seal.Value{Key: key, Data: data})
	}
	for _, s := range generate {
		k, n, ok := strings.Cut(s, "=")
		length, err := strconv.Atoi(n)
		if !ok || err != nil || length < 1 || length > 4096 {
			return nil, usagef("--generate wants KEY=LENGTH with 1 to 4096 characters")
		}
		key, err := keyArg(k)
		if err != nil {
			return nil, err
		}
		text, err := randomText(length)
		if err != nil {
			return nil, err
		}
		out = append(out, seal.Value{Key: key, Data: text})
	}
	return out, nil
}

// noteNewline: echo adds one, and few passwords end with it.
func (a *app) noteNewline(key string, data []byte) {
	if len(data) > 0 && data[len(data)-1] == '\n' && strings.Count(string(data), "\n") == 1 {
		fmt.Fprintf(a.Err, "note: the value of %s ends with a newline, which is kept; printf %%s gives none\n", key)
	}
}

// randomText has letters and digits only, which every program takes: log2(62),
// just under 6 bits, a character.
func randomText(length int) ([]byte, error) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	out := make([]byte, length)
	for i := range out {
		n, err := rand.Int(rand.Reader, big.NewInt(int64(len(alphabet))))
		if err != nil {
			return nil, err
		}
		out[i] = alphabet[n.Int64()]
	}
	return out, nil
}

// oneValue reads the value for set: a file, a hidden prompt on a terminal, or
// standard input.
func (a *app) oneValue(what, file string) ([]byte, error) {
	if file != "" && file != "-" && file != "/dev/stdin" {
		data, err := a.readFile(file)
		if err != nil {
			// Without the path: it may be the value, given in the wrong place.
			return nil, fmt.Errorf("--from-file: the file cannot be read (%w); it wants a PATH, or - for standard input", withoutPath(err))
		}
		return data, nil
	}
	if file != "" || !a.interactive() {
		data, err := a.readFile("-")
		if err == nil && len(data) == 0 {
			err = fmt.Errorf("%w; nothing was changed. --from-file /dev/null sets an empty value", errEmptyInput)
		}
		if err == nil {
			a.noteNewline(what, data)
		}
		return data, err
	}
	data, err := a.hidden("Value of " + what)
	if err == nil && len(data) == 0 {
		err = errors.New("no value was typed; nothing was changed")
	}
	return data, err
}
