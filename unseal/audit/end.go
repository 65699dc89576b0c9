package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// window is how much of the end of a file Open reads: a torn write (maxBatch and one
// Append's records) and the whole record before it.
const window = 4 << 20

// end is what a log's last bytes tell.
type end struct {
	last         place  // the last whole record
	torn         []byte // not nil: what follows it, without a final newline
	unterminated bool   // the file does not end in a newline
}

// readEnd finds the last whole record. Whatever follows is taken for the rest of a write,
// because everything before the last write was synced. In a file without a record the
// chain goes on from before.
func readEnd(r io.ReaderAt, size int64, before func() (place, error)) (end, error) {
	if size == 0 {
		p, err := before()
		return end{last: p}, err
	}
	buf := make([]byte, min(size, window))
	if _, err := r.ReadAt(buf, size-int64(len(buf))); err != nil {
		return end{}, err
	}
	body, terminated := bytes.CutSuffix(buf, []byte("\n"))
	for stop := len(body); ; {
		start := bytes.LastIndexByte(body[:stop], '\n') + 1
		if rec, err := decode(body[start:stop]); err == nil {
			e := end{last: place{rec.Seq, hashOf(body[start:stop])}, unterminated: !terminated}
			// A record that lacks only its newline is whole: calling it torn would make
			// Verify see it twice.
			if stop < len(body) {
				e.torn = body[stop+1:]
			}
			return e, nil
		}
		if start == 0 {
			break
		}
		stop = start - 1
	}
	if int64(len(buf)) < size {
		return end{}, fmt.Errorf("no whole record in the last %d bytes, more than a crash can leave; run sealward audit verify on it, move it away and start again", len(buf))
	}
	// Nothing whole: a first write that was cut, or a file that was never a log and
	// that must not be written into.
	p, err := before()
	if err != nil {
		return end{}, err
	}
	first := fmt.Appendf(nil, `{"seq":%d,"time":"`, p.seq+1)
	if !bytes.HasPrefix(buf, first) && !bytes.HasPrefix(first, buf) && buf[0] != 0 {
		return end{}, errors.New("is not an audit log; name another file")
	}
	return end{last: p, torn: body, unterminated: !terminated}, nil
}

// makeFolder is MkdirAll that also makes the new entries durable.
func makeFolder(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrNotExist) && filepath.Dir(dir) != dir {
		if err := makeFolder(filepath.Dir(dir)); err != nil {
			return err
		}
		err = os.Mkdir(dir, 0o700)
	}
	if err == nil {
		return syncFolder(filepath.Dir(dir))
	}
	// Not only ErrExist: a mount point's parent may be read-only and refuse first.
	if info, statErr := os.Stat(dir); statErr == nil && info.IsDir() {
		return nil
	}
	return err
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return d.Sync()
}
