package audit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// Files reads the files of one log, the earlier ones that rotation made first, as one
// text. An agent may go on writing: what it wrote when the log was opened is read.
type Files struct {
	paths []string // oldest first; the last is the current one
	last  *os.File
	size  int64 // of last, as far as it is read

	open  *os.File // being read; nil before the first
	in    io.Reader
	next  int
	lines []uint64 // that were read of each of paths
}

// OpenFiles opens the log whose current file is at path; close it. An earlier file may be
// opened by its own name, and stands for itself then.
func OpenFiles(path string) (_ *Files, err error) {
	path, err = resolve(path)
	if err != nil {
		return nil, err
	}
	// The current one first: what is rotated after that is known by its file.
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, fmt.Errorf("%s is a folder, not an audit log", path)
	}
	earlier, err := rotatedFiles(path)
	if err != nil {
		return nil, err
	}
	out := &Files{last: f}
	for _, e := range earlier {
		if same, err := os.Stat(e.path); err == nil && os.SameFile(same, info) {
			break
		}
		out.paths = append(out.paths, e.path)
	}
	out.paths = append(out.paths, path)
	out.lines = make([]uint64, len(out.paths))
	out.size, err = settled(f)
	return out, err
}

// settled gives a size at which a line ends, and waits a moment for it: an agent may be in
// the middle of a write.
func settled(f *os.File) (size int64, err error) {
	for try := 0; ; try++ {
		info, err := f.Stat()
		if err != nil {
			return 0, err
		}
		var end [1]byte
		if size = info.Size(); size == 0 || try == 10 {
			return size, nil
		}
		if _, err := f.ReadAt(end[:], size-1); err == nil && end[0] == '\n' {
			return size, nil
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Paths of the files, oldest first.
func (f *Files) Paths() []string { return f.paths }

// Read reads on, from one file to the next.
func (f *Files) Read(b []byte) (int, error) {
	for {
		if f.in == nil {
			if f.next == len(f.paths) {
				return 0, io.EOF
			}
			if err := f.advance(); err != nil {
				return 0, err
			}
		}
		n, err := f.in.Read(b)
		f.lines[f.next-1] += uint64(bytes.Count(b[:n], []byte("\n")))
		if errors.Is(err, io.EOF) {
			f.in, err = nil, nil
			if f.open != f.last {
				_ = f.open.Close()
			}
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (f *Files) advance() (err error) {
	if f.next == len(f.paths)-1 {
		f.open, f.in = f.last, io.NewSectionReader(f.last, 0, f.size)
	} else {
		if f.open, err = os.Open(f.paths[f.next]); err != nil {
			return err
		}
		f.in = f.open
	}
	f.next++
	return nil
}

// Locate says in which file a line of the whole is, and which one there: of a [BadRecord],
// say. The line must have been read, or be the one after.
func (f *Files) Locate(line uint64) (path string, inFile uint64) {
	for i, n := range f.lines {
		if line <= n || i == len(f.lines)-1 || i >= f.next-1 {
			return f.paths[i], line
		}
		line -= n
	}
	return f.paths[len(f.paths)-1], line
}

// Close closes the files.
func (f *Files) Close() error {
	if f.open != nil && f.open != f.last {
		_ = f.open.Close()
	}
	return f.last.Close()
}

// Walk gives each record of r in order, with the number of its line, and verifies r as
// [Verify] does meanwhile. The records behind a bad one are given too: what the first bad
// record is, the error says in the end. An error of each ends the walk and is returned.
// It needs as much memory as a few records, whatever it reads.
func Walk(r io.Reader, opts VerifyOptions, each func(line uint64, rec Record) error) (Summary, error) {
	if err := opts.check(); err != nil {
		return Summary{}, err
	}
	read, write := io.Pipe()
	var sum Summary
	verified := make(chan error, 1)
	go func() {
		var err error
		sum, err = Verify(read, opts)
		_, _ = io.Copy(io.Discard, read) // whoever writes must not wait for ever
		verified <- err
	}()
	err := walk(io.TeeReader(r, write), each)
	_ = write.CloseWithError(err) // EOF for nil
	if bad := <-verified; err == nil {
		err = bad
	}
	return sum, err
}

func walk(r io.Reader, each func(uint64, Record) error) error {
	in := bufio.NewReaderSize(r, maxRecord+len("\n"))
	for line := uint64(1); ; line++ {
		text, err := in.ReadSlice('\n')
		if whole, is := bytes.CutSuffix(text, []byte("\n")); is {
			if rec, err := decode(whole); err == nil {
				if err := each(line, rec); err != nil {
					return err
				}
			}
		}
		for errors.Is(err, bufio.ErrBufferFull) { // too long for a record
			_, err = in.ReadSlice('\n')
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}
