package source

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/idxfile"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
)

// maxObjects bounds one transfer; go-git's parser needs some 300 bytes for
// each in memory.
const maxObjects = 5_000_000

// receive stores one pack from the network. It is go-git's parser between two
// things that go-git leaves out: its pack writer, when a transfer is cut,
// leaves the temporary file and two descriptors behind, writes the index in
// place and syncs nothing; and its parser allocates by the object count in the
// header and inflates whole objects, so that 12 bytes can end the process.
func (s *objects) receive(r io.Reader, maxPack, maxObject int64) (err error) {
	tmp, err := os.CreateTemp(s.dir, tmpPrefix+"pack_")
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDisk, err)
	}
	defer func() {
		tmp.Close()
		if err != nil {
			os.Remove(tmp.Name())
		}
	}()
	if err := s.copyChecked(tmp, r, maxPack, maxObject); err != nil {
		return err
	}
	if _, err := tmp.Seek(0, io.SeekStart); err != nil {
		return err
	}
	var writer idxfile.Writer
	parser, err := packfile.NewParser(packfile.NewScanner(tmp), &writer)
	if err != nil {
		return err
	}
	sum, err := parser.Parse()
	if err != nil {
		return fmt.Errorf("the transfer is broken: %w", err)
	}
	if sum.IsZero() {
		// What go-git gives for a pack that ends right before its checksum.
		return fmt.Errorf("the transfer is broken: %w", io.ErrUnexpectedEOF)
	}
	for _, p := range s.list() {
		if p.sum == sum {
			return os.Remove(tmp.Name())
		}
	}
	index, err := writer.Index()
	if err != nil {
		return err
	}
	// The index last: it is what makes the pack count, for us and for git.
	if err := publish(tmp, s.path(sum, "pack")); err != nil {
		return fmt.Errorf("%w: %w", ErrDisk, err)
	}
	if err := s.writeIndex(index, s.path(sum, "idx")); err != nil {
		os.Remove(s.path(sum, "pack"))
		return fmt.Errorf("%w: %w", ErrDisk, err)
	}
	return s.add(index)
}

func (s *objects) writeIndex(index *idxfile.MemoryIndex, path string) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), tmpPrefix+"idx_")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err := idxfile.NewEncoder(f).Encode(index); err != nil {
		return err
	}
	return publish(f, path)
}

// copyChecked writes r to w while a second goroutine walks the pack as it
// comes, so that a bad one stops early and a good one costs little time.
func (s *objects) copyChecked(w io.Writer, r io.Reader, maxPack, maxObject int64) error {
	pr, pw := io.Pipe()
	checked := make(chan error, 1)
	go func() {
		err := checkSizes(pr, maxObject)
		if err == nil {
			_, err = io.Copy(io.Discard, pr) // the trailer
		}
		pr.CloseWithError(err)
		checked <- err
	}()
	disk := &diskWriter{w: w}
	n, err := io.Copy(io.MultiWriter(disk, pw), io.LimitReader(r, maxPack+1))
	pw.CloseWithError(err) // nil is io.EOF
	found := <-checked
	switch {
	case disk.err != nil:
		return fmt.Errorf("%w: %w", ErrDisk, disk.err)
	case n > maxPack:
		return fmt.Errorf("the transfer has more than %d bytes: %w; raise maxPack if the repository is meant to be so large", maxPack, ErrTooLarge)
	}
	return found // a failed copy reaches the checker through the pipe
}

// diskWriter tells a full disk from a broken transfer.
type diskWriter struct {
	w   io.Writer
	err error
}

func (d *diskWriter) Write(p []byte) (int, error) {
	n, err := d.w.Write(p)
	d.err = err
	return n, err
}

// checkSizes reads a pack to the last object and fails at the first that
// declares more than limit bytes, itself or, for a delta, as its result.
func checkSizes(r io.Reader, limit int64) error {
	scanner := packfile.NewScanner(r)
	_, count, err := scanner.Header()
	if err != nil {
		return fmt.Errorf("the transfer is broken: %w", err)
	}
	if count > maxObjects {
		return fmt.Errorf("the transfer has %d objects, the limit is %d: %w", count, maxObjects, ErrTooMany)
	}
	for range count {
		h, err := scanner.NextObjectHeader()
		if err != nil {
			return fmt.Errorf("the transfer is broken: %w", err)
		}
		var sizes prefix
		size := h.Length
		if size <= limit {
			if _, _, err := scanner.NextObject(&sizes); err != nil {
				return fmt.Errorf("the transfer is broken: %w", err)
			}
		}
		switch h.Type {
		case plumbing.CommitObject, plumbing.TreeObject, plumbing.BlobObject, plumbing.TagObject:
		case plumbing.OFSDeltaObject, plumbing.REFDeltaObject:
			if size <= limit {
				size = sizes.deltaResult()
			}
		default: // go-git would store it
			return fmt.Errorf("the transfer is broken: %w", packfile.ErrInvalidObject)
		}
		if size < 0 || size > limit {
			return fmt.Errorf("an object of the repository has %d bytes, the limit is %d: %w; remove it from the history, or raise maxObject", size, limit, ErrTooLarge)
		}
	}
	return nil
}

// prefix keeps the first bytes of a delta: the sizes of base and result.
type prefix struct {
	buf [20]byte
	n   int
}

func (p *prefix) Write(b []byte) (int, error) {
	p.n += copy(p.buf[p.n:], b)
	return len(b), nil
}

// deltaResult is the size a delta declares for its result, -1 if unreadable.
func (p *prefix) deltaResult() int64 {
	var size int64
	rest := p.buf[:p.n]
	for range 2 {
		size = 0
		for shift := 0; ; shift += 7 {
			if len(rest) == 0 || shift > 56 {
				return -1
			}
			b := rest[0]
			rest = rest[1:]
			size |= int64(b&0x7f) << shift
			if b&0x80 == 0 {
				break
			}
		}
	}
	return size
}
