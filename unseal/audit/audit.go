// Package audit keeps the log of reads: append-only, in JSON lines, each record
// holding the hash of the one before, durable before [Log.Append] returns.
//
// Most callers need only [Open], [Log.Append] and [Log.Close]; whoever refuses calls
// without an identity calls [Log.Unauthenticated]; [Verify] checks a log from outside.
//
// Not here: a decision about a read (unseal/access), a value or a field for one, and
// protection from whoever may write the files. Such a person can rewrite the whole
// chain; only a hash noted elsewhere ([Log.Head]) shows that.
package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// ErrClosed: the log was closed before the record was written.
var ErrClosed = errors.New("audit log is closed")

const (
	defaultAggregate = 10 * time.Second

	// A write ends with the Append that passes this; so a crash tears at most
	// maxBatch and one Append's records.
	maxBatch = 1 << 20

	// Appends that wait for the disk; more of them wait to get in.
	queueLength = 1024
)

// Options may be left zero.
type Options struct {
	Now       func() time.Time // default time.Now
	Aggregate time.Duration    // between two records of unauthenticated calls; default 10s
	MaxSize   int64            // bytes; a file that would grow beyond is rotated; default never
	MaxAge    time.Duration    // since a file's first record, when the next is written; default never
	Keep      int              // earlier files; older ones are deleted; default all are kept
	Logger    *slog.Logger     // hears what no caller can be told; default none
}

// file is what the log needs of an *os.File, so that a test can make the disk fail.
type file interface {
	io.ReaderAt
	Write([]byte) (int, error)
	Sync() error
	Truncate(size int64) error
	Stat() (fs.FileInfo, error)
	Close() error
}

// Log is an open audit log. Its methods may be called from many goroutines.
type Log struct {
	path      string
	now       func() time.Time
	aggregate time.Duration
	maxSize   int64
	maxAge    time.Duration
	keep      int
	logger    *slog.Logger
	wrap      func(*os.File) file

	queue   chan *entry
	counted chan struct{} // there is something to aggregate
	closing chan struct{}
	closed  chan struct{} // run has returned
	once    sync.Once
	err     error // of closing; set before closed is closed

	// Owned by run.
	file    file
	opened  fs.FileInfo // what path must still name
	durable int64       // length of what was synced
	dirty   bool        // there may be bytes after durable
	buf     []byte
	crowd   int       // how many append at once, about
	began   time.Time // of the first record in file; zero for none

	namesDurable              bool      // the folder was synced since files changed their names
	rotateAgain, restoreAgain time.Time // not tried before
	restoreErr                error

	mu     sync.Mutex // never held during input or output
	last   place      // of the last durable record
	counts map[string]uint64
	since  time.Time // of the first of counts
}

// entry is one Append on its way: its records become durable all or none.
type entry struct {
	recs   []Record
	bodies [][]byte   // of recs, as spell gives them
	done   chan error // buffered: the writer waits for nobody
}

func newEntry(recs []Record) (*entry, error) {
	e := &entry{recs: recs, bodies: make([][]byte, len(recs)), done: make(chan error, 1)}
	for i, r := range recs {
		var err error
		if e.bodies[i], err = spell(r); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// Open opens the log at path for appending, and creates it and its folder where they
// are missing. One process may have it open.
//
// A crash can leave the end of a write. It is kept as evidence, terminated by a newline,
// and followed by a record of event torn with the SHA-256 of those bytes; the chain goes
// on from the last whole record. Open looks at the end of the file only; [Verify] at all of it.
func Open(path string, opts Options) (*Log, error) {
	return open(path, opts, func(f *os.File) file { return disk{f} })
}

func open(path string, opts Options, wrap func(*os.File) file) (_ *Log, err error) {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Aggregate <= 0 {
		opts.Aggregate = defaultAggregate
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	// The path is looked at again on every write; a change of folder must not move it.
	path, err = resolve(path)
	if err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	if err := makeFolder(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("audit log %s: %w", path, err)
	}
	if err := takeCopy(path, opts.Logger); err != nil {
		return nil, fmt.Errorf("audit log %s: %w", path, err)
	}
	f, err := openLocked(path, 0)
	if err != nil {
		return nil, fmt.Errorf("audit log %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()

	opened, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("audit log %s: %w", path, err)
	}
	if !opened.Mode().IsRegular() {
		return nil, fmt.Errorf("audit log %s: not a regular file, so nothing in it would be durable; name another path", path)
	}
	if opened.Size() == 0 {
		// A synced file that no folder names is lost all the same.
		if err := syncFolder(filepath.Dir(path)); err != nil {
			return nil, fmt.Errorf("audit log %s: %w", path, err)
		}
	}
	// A process killed between write and sync leaves records that only the page cache has.
	if err := f.Sync(); err != nil {
		return nil, fmt.Errorf("audit log %s: %w", path, err)
	}
	earlier, err := rotatedFiles(path)
	if err != nil {
		return nil, fmt.Errorf("audit log %s: %w", path, err)
	}
	// A crash in the middle of a rotation: one file under both names.
	if n := len(earlier); n > 0 {
		if info, err := os.Stat(earlier[n-1].path); err == nil && os.SameFile(info, opened) {
			if err := errors.Join(os.Remove(earlier[n-1].path), syncFolder(filepath.Dir(path))); err != nil {
				return nil, fmt.Errorf("audit log %s: %w", path, err)
			}
			earlier = earlier[:n-1]
		}
	}
	end, err := readEnd(f, opened.Size(), func() (place, error) { return before(path, earlier) })
	if err != nil {
		return nil, fmt.Errorf("audit log %s: %w", path, err)
	}

	l := &Log{
		path:      path,
		now:       opts.Now,
		aggregate: opts.Aggregate,
		maxSize:   opts.MaxSize,
		maxAge:    opts.MaxAge,
		keep:      opts.Keep,
		logger:    opts.Logger,
		wrap:      wrap,
		queue:     make(chan *entry, queueLength),
		counted:   make(chan struct{}, 1),
		closing:   make(chan struct{}),
		closed:    make(chan struct{}),
		file:      wrap(f),
		opened:    opened,
		durable:   opened.Size(),
		began:     begun(f, opened.Size()),
		last:      end.last,
		counts:    map[string]uint64{},

		namesDurable: true,
	}
	if err := l.mend(end); err != nil {
		return nil, err
	}
	go l.run()
	return l, nil
}

// mend writes what a crash left out.
func (l *Log) mend(e end) error {
	var buf []byte
	if e.unterminated {
		buf = append(buf, '\n')
	}
	last := e.last
	if e.torn != nil {
		var err error
		buf, last, err = extend(buf, last, &Record{Event: Torn, Torn: hashOf(e.torn)}, l.now())
		if err != nil {
			return fmt.Errorf("audit log %s: %w", l.path, err)
		}
	}
	if len(buf) == 0 {
		return nil
	}
	if err := l.write(buf); err != nil {
		return err
	}
	l.last = last
	if e.torn != nil {
		l.logger.Warn("the last write to the audit log was cut short; a torn record accounts for it",
			"path", l.path, "bytes", len(e.torn), "seq", last.seq)
	}
	return nil
}

// Append writes r and returns it, with Seq, Time and Prev filled in, once it is durable.
// After an error the value must not leave. Fields that this package owns (Count, Reasons,
// Since, Torn) are ignored; where r.Keys needs several records, the last is returned.
//
// When ctx ends first, the record may be written all the same: the log may name a read that
// never happened, but never misses one that did.
func (l *Log) Append(ctx context.Context, r Record) (Record, error) {
	recs, err := prepare(r)
	if err != nil {
		return Record{}, err
	}
	e, err := newEntry(recs)
	if err != nil {
		return Record{}, err
	}
	if err := l.enter(ctx, e); err != nil {
		return Record{}, err
	}
	return e.recs[len(e.recs)-1], nil
}

// enter makes the records of e durable, all or none, and completes them.
func (l *Log) enter(ctx context.Context, e *entry) error {
	select {
	case l.queue <- e:
		return l.wait(ctx, e)
	case <-ctx.Done():
		return fmt.Errorf("audit log %s: not recorded in time: %w", l.path, context.Cause(ctx))
	case <-l.closing:
		return ErrClosed
	}
}

// AppendAll is Append for many records, which become durable with few syncs. After an
// error some of them may be written.
func (l *Log) AppendAll(ctx context.Context, records []Record) error {
	const full = maxBatch / 2
	batch, size := &entry{done: make(chan error, 1)}, 0
	flush := func() error {
		if len(batch.recs) == 0 {
			return nil
		}
		e := batch
		batch, size = &entry{done: make(chan error, 1)}, 0
		return l.enter(ctx, e)
	}
	for _, r := range records {
		recs, err := prepare(r)
		if err != nil {
			return err
		}
		e, err := newEntry(recs)
		if err != nil {
			return err
		}
		more := 0
		for _, body := range e.bodies {
			more += len(body) + linkCost
		}
		if size+more > full {
			if err := flush(); err != nil {
				return err
			}
		}
		batch.recs, batch.bodies = append(batch.recs, e.recs...), append(batch.bodies, e.bodies...)
		size += more
	}
	return flush()
}

func (l *Log) wait(ctx context.Context, e *entry) error {
	select {
	case err := <-e.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("audit log %s: not durable in time: %w", l.path, context.Cause(ctx))
	case <-l.closed:
		// The writer may have answered before it went.
		select {
		case err := <-e.done:
			return err
		default:
			return ErrClosed
		}
	}
}

// Unauthenticated counts a call that was refused before anybody knew whose it was, by one
// of the reasons above. It never waits for the disk; the counts are written as one record
// at most once per [Options.Aggregate], and by Close.
func (l *Log) Unauthenticated(reason string) {
	switch reason {
	case NoCredential, Malformed, UnknownToken, Expired, NotYetValid, BadSignature,
		WrongIssuer, WrongAudience, BadIdentity, RateLimited, Unavailable:
	default:
		reason = Other
	}
	now := l.now()
	l.mu.Lock()
	if len(l.counts) == 0 {
		l.since = now
	}
	l.counts[reason]++
	l.mu.Unlock()
	select {
	case l.counted <- struct{}{}:
	default:
	}
}

// Head returns the number and hash of the last durable record; of an empty log 0 and 64
// zeros. Noted outside this machine, the hash is what [Verify] can hold the file to.
func (l *Log) Head() (seq uint64, hash string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last.seq, l.last.hash
}

// Close writes what is queued and counted, and waits until that is durable. An Append that
// comes later gets [ErrClosed].
func (l *Log) Close() error {
	l.once.Do(func() { close(l.closing) })
	<-l.closed
	return l.err
}

// run is the one writer.
func (l *Log) run() {
	defer close(l.closed)
	var due <-chan time.Time // set while there is something to aggregate
	for {
		select {
		case e := <-l.queue:
			l.gather()
			l.commit(e)
		case <-l.counted:
			if due == nil {
				due = time.After(l.aggregate)
			}
		case <-due:
			due = nil
			if err := l.commitCounts(); err != nil {
				l.logger.Error("unauthenticated calls could not be recorded; they stay counted", "error", err)
				due = time.After(l.aggregate)
			}
		case <-l.closing:
			for len(l.queue) > 0 {
				l.commit(<-l.queue)
			}
			l.err = errors.Join(l.commitCounts(), l.file.Close())
			return
		}
	}
}

// commit writes e and whatever else is queued with one write and one sync.
func (l *Log) commit(e *entry) {
	l.mu.Lock()
	last := l.last
	l.mu.Unlock()

	var batch []*entry
	buf := l.buf[:0]
	for e != nil {
		mark, next, err := len(buf), last, error(nil)
		for i := range e.recs {
			if buf, next, err = link(buf, next, &e.recs[i], e.bodies[i], l.now()); err != nil {
				break
			}
		}
		if err == nil {
			last = next
			batch = append(batch, e)
		} else { // this one's own fault, not the batch's
			buf = buf[:mark]
			e.done <- err
		}
		e = nil
		if len(buf) < maxBatch {
			select {
			case e = <-l.queue:
			default:
			}
		}
	}
	l.buf = buf
	if len(batch) == 0 {
		return
	}
	if l.rotationDue(len(buf)) {
		if err := l.rotate(); err != nil {
			l.rotateAgain = l.now().Add(time.Minute)
			l.logger.Error("the audit log cannot be rotated; its file grows on, and it is tried again in a minute", "path", l.path, "error", err)
		} else if err := l.deleteOld(); err != nil {
			l.logger.Error("an old file of the audit log cannot be deleted", "path", l.path, "error", err)
		}
	}
	err := l.write(buf)
	if err == nil {
		if l.began.IsZero() {
			l.began = l.now()
		}
		l.mu.Lock()
		l.last = last
		l.mu.Unlock()
	}
	l.crowd = max(len(batch)+len(l.queue), l.crowd*7/8)
	for _, e := range batch {
		e.done <- err
	}
}

// gather waits for those whom the last sync answered and who come again at once: a sync
// costs the same for one record and for many. That takes a millisecond at most, and who
// comes alone waits for nobody.
func (l *Log) gather() {
	for try := 0; try < 16 && 1+len(l.queue) < l.crowd*7/8; try++ {
		time.Sleep(10 * time.Microsecond)
	}
}

// commitCounts writes what Unauthenticated counted; what cannot be written stays counted.
func (l *Log) commitCounts() error {
	l.mu.Lock()
	counts, since := l.counts, l.since
	l.counts = map[string]uint64{}
	l.mu.Unlock()
	if len(counts) == 0 {
		return nil
	}

	r := Record{Event: Unauthenticated, Reasons: counts, Since: since.UTC().Round(0)}
	for _, n := range counts {
		r.Count += n
	}
	e, err := newEntry([]Record{r})
	if err == nil {
		l.commit(e)
		err = <-e.done
	}
	if err != nil {
		l.mu.Lock()
		for reason, n := range counts {
			l.counts[reason] += n
		}
		l.since = since
		l.mu.Unlock()
	}
	return err
}

// write appends buf and syncs, or leaves the file as long as it was. Where even that fails,
// nothing is written until it succeeds: half a batch in the middle would break the chain.
func (l *Log) write(buf []byte) error {
	if err := l.rollBack(); err != nil {
		return fmt.Errorf("audit log %s: the rest of a failed write cannot be removed, so nothing is recorded: %w", l.path, err)
	}
	if err := l.unchanged(l.durable); err != nil {
		return l.restoreAfter(err)
	}
	if err := l.syncNames(); err != nil {
		return fmt.Errorf("audit log %s: nothing is recorded until its folder can be synced: %w", l.path, err)
	}
	l.dirty = true
	_, err := l.file.Write(buf)
	if err == nil {
		err = l.file.Sync()
	}
	if err != nil {
		// After a failed sync the kernel may call lost pages clean, so syncing again proves
		// nothing: only bytes written anew count. If this fails the next write says so.
		_ = l.rollBack()
		return fmt.Errorf("audit log %s: nothing is recorded until it can be written: %w", l.path, err)
	}
	// Looked at again, because durable in a file that nobody finds is not recorded.
	size := l.durable + int64(len(buf))
	if err := l.unchanged(size); err != nil {
		_ = l.rollBack()
		return l.restoreAfter(err)
	}
	l.durable, l.dirty = size, false
	return nil
}

// rollBack cuts the file to its durable length. A crash before that cut reaches the disk
// leaves whole records that nobody was told of, or a torn one, and Open accepts both.
func (l *Log) rollBack() error {
	if !l.dirty {
		return nil
	}
	info, err := l.file.Stat()
	if err != nil {
		return err
	}
	if info.Size() < l.durable { // truncating would fill it up with zeros
		return fmt.Errorf("somebody else cut it from %d to %d bytes; move it away and restart the agent", l.durable, info.Size())
	}
	if info.Size() > l.durable {
		if err := l.file.Truncate(l.durable); err != nil {
			return err
		}
	}
	l.dirty = false
	return nil
}

// unchanged: path still names our file, and nobody else made it longer or shorter. Asked
// twice a batch, it costs microseconds where the sync costs a hundred and more.
func (l *Log) unchanged(size int64) error {
	info, err := os.Stat(l.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("audit log %s: was deleted or moved away: %w", l.path, errAway)
	case err != nil:
		return fmt.Errorf("audit log: %w", err)
	case !os.SameFile(info, l.opened):
		return fmt.Errorf("audit log %s: was replaced by another file: %w", l.path, errAway)
	case info.Size() != size:
		return fmt.Errorf("audit log %s: somebody else changed it (%d bytes instead of %d), so nothing is recorded; keep a copy, run sealward audit verify on it, move it away and restart the agent", l.path, info.Size(), size)
	}
	return nil
}
