package client

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"
)

// token is a bearer token, of a file or not.
type token struct {
	path string // "" for a fixed one

	mu    sync.Mutex
	value string
	size  int64
	mod   time.Time
}

func newToken(value, path string) (*token, error) {
	if value != "" && path != "" {
		return nil, errors.New("a token and a token file are given; one of them decides")
	}
	t := &token{path: path, value: value}
	if path == "" {
		return t, nil
	}
	return t, t.read()
}

// current is the token of now. A file that changed and cannot be read, as while it is
// being replaced, leaves the token as it was.
func (t *token) current() (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.path == "" {
		return t.value, nil
	}
	if info, err := os.Stat(t.path); err == nil && (info.Size() != t.size || !info.ModTime().Equal(t.mod)) {
		if err := t.read(); err != nil && t.value == "" {
			return "", err
		}
	}
	return t.value, nil
}

// newer reads the file again, whatever its time says, and reports whether it holds
// another token than the one that was refused.
func (t *token) newer(refused string) (string, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.path == "" || t.read() != nil {
		return "", false
	}
	return t.value, t.value != refused
}

// maxToken bounds a token file: tokens of some issuers have a few KiB.
const maxToken = 16 << 10

// read takes the file's token. Errors name neither the path nor the content: either
// may be a token that stands in the wrong place.
func (t *token) read() error {
	f, err := os.Open(t.path)
	if err != nil {
		var path *fs.PathError
		if errors.As(err, &path) {
			err = path.Err
		}
		return fmt.Errorf("the token file cannot be read: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return errors.New("the token file is no file")
	}
	data, err := io.ReadAll(io.LimitReader(f, maxToken+1))
	if err != nil {
		return errors.New("the token file cannot be read")
	}
	value := strings.TrimSpace(string(data))
	switch {
	case value == "":
		return errors.New("the token file is empty")
	case len(data) > maxToken || strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return errors.New("the token file does not hold one token")
	}
	t.value, t.size, t.mod = value, info.Size(), info.ModTime()
	return nil
}
