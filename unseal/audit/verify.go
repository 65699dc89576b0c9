package audit

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"
)

// VerifyOptions may be left zero.
type VerifyOptions struct {
	// Head is the hash the last record must have, as [Log.Head] gave it. Without one,
	// records missing from the end and a chain computed anew cannot be seen.
	Head string
	// After is the hash of the record before the first, where that was archived and the
	// log begins later; its Seq is not known then. Default: the log begins with record 1.
	After string
}

func (o VerifyOptions) check() error {
	for _, hash := range []string{o.Head, o.After} {
		if hash != "" && (len(hash) != len(genesis) || !isHex(hash)) {
			return errors.New("a hash to verify against must be 64 hexadecimal digits in lower case")
		}
	}
	return nil
}

// Summary is what was verified; after an error, up to the first bad record.
type Summary struct {
	Records     uint64
	Torn        uint64 // writes a crash cut short, all accounted for
	First, Last time.Time
	Seq         uint64 // of the last record
	Head        string // hash of the last record, 64 zeros for none

	// HeadSeq is the record that VerifyOptions.Head is the hash of, 0 if none was found. Up to
	// there the log is what it was, also when Verify then failed: on a log that is being
	// written, the records after a head noted a moment ago are such a failure.
	HeadSeq uint64
}

// BadRecord is the first place where a log is not what was written.
type BadRecord struct {
	Line   uint64
	Seq    uint64 // the record that is, or should be, in that line
	Reason string
}

func (b *BadRecord) Error() string {
	return fmt.Sprintf("line %d (seq %d): %s", b.Line, b.Seq, b.Reason)
}

// Verify reads a log and returns a [*BadRecord] for the first record that was changed,
// dropped, moved or added, and for bytes that no torn record accounts for. It needs as
// much memory as one record, whatever it reads.
func Verify(r io.Reader, opts VerifyOptions) (Summary, error) {
	if err := opts.check(); err != nil {
		return Summary{}, err
	}
	v := verifier{
		in:    bufio.NewReaderSize(r, maxRecord+len("\n")),
		head:  opts.Head,
		after: opts.After,
		sum:   Summary{Head: genesis},
	}
	if v.after != "" {
		v.sum.Head = v.after
	}
	err := v.run()
	return v.sum, err
}

type verifier struct {
	in    *bufio.Reader
	head  string
	after string // "" once the first record was read

	sum      Summary
	line     uint64 // being read
	lastLine uint64 // of the last record
	headLine uint64
	before   string // hash of the record before the last

	// Set while there are bytes that are no record, and that the next must account for.
	torn     hash.Hash
	tornLine uint64
	tornWhy  error
}

func (v *verifier) run() error {
	for {
		line, long, err := v.read()
		switch {
		case errors.Is(err, io.EOF):
			return v.finish()
		case err != nil:
			return err
		case long:
			continue
		}
		rec, err := decode(line)
		if err != nil {
			v.stray(line, err)
			continue
		}
		if err := v.add(rec, hashOf(line)); err != nil {
			return err
		}
	}
}

// read returns the next line. One that is too long to be a record it takes itself, piece by
// piece, for stray bytes.
func (v *verifier) read() (line []byte, long bool, _ error) {
	piece, err := v.in.ReadSlice('\n')
	if len(piece) > 0 {
		v.line++
	}
	if errors.Is(err, bufio.ErrBufferFull) {
		v.stray(piece, fmt.Errorf("is longer than %d bytes", maxRecord))
		for errors.Is(err, bufio.ErrBufferFull) {
			piece, err = v.in.ReadSlice('\n')
			if err == nil {
				piece = piece[:len(piece)-1]
			}
			v.torn.Write(piece)
		}
		long = true
	}
	switch {
	case err == nil && long:
		return nil, true, nil
	case err == nil:
		return piece[:len(piece)-1], false, nil
	case errors.Is(err, io.EOF) && (long || len(piece) > 0):
		if v.torn != nil && v.tornLine < v.line {
			return nil, false, v.badStray(v.line)
		}
		return nil, false, v.bad(v.line, v.sum.Seq+1, "has no newline: a write was cut short and no torn record accounts for it (the agent adds one when it starts)")
	default:
		return nil, false, err
	}
}

// stray notes bytes that are no record. Several such lines count as one text.
func (v *verifier) stray(line []byte, why error) {
	if v.torn == nil {
		v.torn, v.tornLine, v.tornWhy = sha256.New(), v.line, why
	} else {
		v.torn.Write([]byte("\n"))
	}
	v.torn.Write(line)
}

func (v *verifier) add(rec Record, digest string) error {
	if v.torn != nil && (rec.Event != Torn || rec.Torn != hex.EncodeToString(v.torn.Sum(nil))) {
		return v.badStray(v.line - 1)
	}
	if v.torn == nil && rec.Event == Torn {
		return v.bad(v.line, v.sum.Seq+1, "the torn bytes that this record accounts for are gone")
	}

	if v.after != "" {
		if rec.Prev != v.after {
			return v.bad(v.line, rec.Seq, "does not follow the record whose hash is given as the one before it")
		}
		v.sum.Seq, v.after = rec.Seq-1, ""
	}
	next, linked := v.sum.Seq+1, rec.Prev == v.sum.Head
	switch {
	case rec.Seq == next && linked:
	case rec.Seq == next:
		return v.badLink(digest)
	case linked:
		return v.bad(v.line, next, fmt.Sprintf("was changed: its seq is %d", rec.Seq))
	case v.sum.Records > 0 && rec.Prev == v.before && digest != v.sum.Head:
		return v.bad(v.lastLine, v.sum.Seq, "was added: the record after it follows the one before it")
	case rec.Seq > next:
		return v.bad(v.lastLine+1, next, fmt.Sprintf("was dropped or moved: seq %d stands in its place", rec.Seq))
	default:
		return v.bad(v.line, rec.Seq, fmt.Sprintf("was added or moved here: seq %d belongs here", next))
	}

	if v.torn != nil {
		v.sum.Torn++
		v.torn = nil
	}
	if v.sum.Records == 0 {
		v.sum.First = rec.Time
	}
	v.sum.Records++
	v.sum.Last, v.sum.Seq = rec.Time, rec.Seq
	v.lastLine = v.line
	v.before, v.sum.Head = v.sum.Head, digest
	if digest == v.head {
		v.sum.HeadSeq, v.headLine = rec.Seq, v.line
	}
	return nil
}

// badLink: this record's prev is not the hash of the one before. Which of the two was
// changed is told by whoever knows this one's hash: the record after it, or the head.
func (v *verifier) badLink(digest string) error {
	line, seq := v.line, v.sum.Seq+1
	known := ""
	for known == "" {
		after, long, err := v.read()
		if bad := (*BadRecord)(nil); errors.Is(err, io.EOF) || errors.As(err, &bad) {
			known = v.head
			break
		} else if err != nil {
			return err
		}
		if rec, err := decode(after); err == nil && !long {
			if rec.Seq != seq+1 { // somebody else's successor: it knows nothing of this one
				break
			}
			known = rec.Prev
		}
	}
	switch {
	case seq == 1:
		return v.bad(line, seq, "was changed: the first record must have 64 zeros as prev")
	case known == digest:
		return v.bad(v.lastLine, seq-1, "was changed: the record after it holds another hash")
	case known != "":
		return v.bad(line, seq, "was changed: its prev is not the hash of the record before")
	default:
		return v.bad(v.lastLine, seq-1, "was changed, or else the record after it: that one's prev is not this one's hash")
	}
}

func (v *verifier) finish() error {
	if v.torn != nil {
		return v.badStray(v.line)
	}
	switch {
	case v.head == "" || v.head == v.sum.Head:
		return nil
	case v.headLine > 0 || v.head == genesis:
		return v.bad(v.headLine+1, v.sum.HeadSeq+1, "comes after the head: it was added, or written after that head was noted")
	case v.line == 0:
		return v.bad(1, 1, "is missing: the log is empty, the head is not")
	default:
		return v.bad(v.line, v.sum.Seq, "is the last, and the head is not its hash: it was changed, or what followed was cut off, or the chain was computed anew")
	}
}

// badStray speaks of the stray bytes that end in line last.
func (v *verifier) badStray(last uint64) error {
	reason := v.tornWhy.Error() + ", and no torn record accounts for it"
	if last > v.tornLine {
		reason = fmt.Sprintf("%v, like what follows up to line %d, and no torn record accounts for that", v.tornWhy, last)
	}
	return v.bad(v.tornLine, v.sum.Seq+1, reason)
}

func (v *verifier) bad(line, seq uint64, reason string) error {
	return &BadRecord{Line: line, Seq: seq, Reason: reason}
}
