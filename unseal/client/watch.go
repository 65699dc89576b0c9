package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"reflect"
	"sync"
	"time"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal/serve"
)

// ErrStale: no agent confirmed the value for longer than allowed, so it is not kept.
var ErrStale = errors.New("no agent was reached for too long")

const (
	longPoll   = 45 * time.Second
	shortPause = 500 * time.Millisecond
	longPause  = 30 * time.Second
)

// Entry is what is known of one item at one moment: a value, or why there is none.
type Entry struct {
	Item Item
	// Err is nil while there is a value. ErrDenied, ErrNotFound and
	// ErrUnauthenticated: the right or the secret is gone. ErrStale: see MaxStale.
	// Anything else: there never was a value, and the agent could not be asked.
	Err    error
	Secret serve.SecretJSON // the zero one with Err
	// Confirmed is when an agent last said that this is the value.
	Confirmed time.Time
	// Unconfirmed is since when no agent could be asked, or it refuses all reads of the
	// workspace (ErrRefused), with the reason in Why; zero while it can be.
	Unconfirmed time.Time
	Why         error
}

// String hides the value.
func (e Entry) String() string {
	if e.Err != nil {
		return e.Item.String() + ": " + e.Err.Error()
	}
	return e.Item.String()
}

// GoString is String, for %#v.
func (e Entry) GoString() string { return e.String() }

// Ok reports that there is a value.
func (e Entry) Ok() bool { return e.Err == nil && e.Secret.Name != "" }

// Watch yields what is known of the items (at most 100) at once, and again whenever that
// changes, until ctx ends. All entries of one repository are of one commit, never of one
// that is older than the commit before, unless the branch was moved by force. The
// entries are the caller's.
//
// A value that the agent does not give any more, because it was deleted or the
// right or the token is gone, is dropped at once. While the agent merely cannot be asked the
// last value stays, marked as unconfirmed, for maxStale after it was last
// confirmed; 0 means for ever.
//
// Nothing is asked while the caller works on what was yielded.
func (c *Client) Watch(ctx context.Context, items []Item, maxStale time.Duration) iter.Seq[[]Entry] {
	return func(yield func([]Entry) bool) {
		w := &watch{items: items, maxStale: maxStale, entries: make([]Entry, len(items))}
		for i := range items {
			w.entries[i].Item = items[i]
		}
		for ctx.Err() == nil {
			began := time.Now()
			got, err := c.batch(ctx, items, w.condition())
			if ctx.Err() != nil {
				return
			}
			changed := w.take(got, err, time.Now())
			if changed && !yield(append([]Entry(nil), w.entries...)) {
				return
			}
			// An answer that changed nothing comes late, when the agent waits. One that
			// does not, or cannot, is not asked over and over.
			if err != nil && !errors.Is(err, errApart) || !changed && time.Since(began) < w.wait()/2 {
				w.pause(ctx)
			} else {
				w.pauses = 0
			}
		}
	}
}

type watch struct {
	items    []Item
	maxStale time.Duration
	entries  []Entry
	tag      string
	// The newest commit that was seen: an agent that is behind, as there may be
	// several, must not bring an old value back.
	generation string
	told       bool // something was yielded
	pauses     int
}

// wait of a long poll. It ends often enough to keep to maxStale.
func (w *watch) wait() time.Duration {
	if w.maxStale > 0 {
		return min(longPoll, max(time.Second, w.maxStale/4))
	}
	return longPoll
}

func (w *watch) condition() condition {
	cond := condition{tag: w.tag, notBefore: w.generation}
	if w.tag != "" {
		cond.wait = w.wait()
	}
	return cond
}

// take works an answer in, and reports whether something changed.
func (w *watch) take(got batch, err error, now time.Time) (changed bool) {
	changed = !w.told
	w.told = true
	switch {
	case errors.Is(err, errApart):
		// The operator let the branch be moved: what is served now is what holds.
		w.generation = ""
		return changed
	case errors.Is(err, ErrUnauthenticated):
		w.tag = ""
		for i := range w.entries {
			changed = w.drop(i, err) || changed
		}
		return changed
	case err != nil:
		for i := range w.entries {
			changed = w.unconfirmed(i, err, now) || changed
		}
		return changed
	}
	w.tag, w.generation = got.tag, got.generation
	if got.results == nil {
		for i := range w.entries {
			if e := &w.entries[i]; e.Ok() && !errors.Is(e.Why, ErrRefused) {
				changed = changed || !e.Unconfirmed.IsZero()
				e.Confirmed, e.Unconfirmed, e.Why = now, time.Time{}, nil
			} else if errors.Is(e.Why, ErrRefused) {
				changed = w.unconfirmed(i, e.Why, now) || changed
			}
		}
		return changed
	}
	for i, r := range got.results {
		switch {
		case errors.Is(r.Err, ErrRefused):
			changed = w.unconfirmed(i, r.Err, now) || changed
		case r.Err != nil:
			changed = w.drop(i, r.Err) || changed
		default:
			// Another agent behind the same address makes other tags: that is no change.
			old := w.entries[i]
			changed = changed || !old.Ok() || !old.Unconfirmed.IsZero() || !sameContent(old.Secret, r.Secret)
			w.entries[i] = Entry{Item: w.items[i], Secret: r.Secret, Confirmed: now}
		}
	}
	return changed
}

// sameContent compares all but the generation, which every commit changes.
func sameContent(a, b serve.SecretJSON) bool {
	a.Generation, b.Generation = "", ""
	return reflect.DeepEqual(a, b)
}

// drop forgets a value.
func (w *watch) drop(i int, why error) (changed bool) {
	old := w.entries[i].Err
	w.entries[i] = Entry{Item: w.items[i], Err: why}
	return old == nil || old.Error() != why.Error()
}

// unconfirmed keeps a value that cannot be asked about, while it may be kept.
func (w *watch) unconfirmed(i int, why error, now time.Time) (changed bool) {
	e := &w.entries[i]
	if !e.Ok() {
		// What was dropped stays dropped for the reason it had.
		if e.Err != nil {
			return false
		}
		e.Err = why
		return true
	}
	if w.maxStale > 0 && now.Sub(e.Confirmed) > w.maxStale {
		w.tag = "" // it must come whole
		return w.drop(i, fmt.Errorf("%w (%w)", ErrStale, why))
	}
	changed = e.Unconfirmed.IsZero()
	if changed {
		e.Unconfirmed = now
	}
	e.Why = why
	return changed
}

// pause waits longer each time, and never as long as another client that began
// at the same moment.
func (w *watch) pause(ctx context.Context) {
	d := min(longPause, shortPause<<min(w.pauses, 10))
	w.pauses++
	if w.maxStale > 0 {
		d = min(d, max(shortPause, w.maxStale/4))
	}
	timer := time.NewTimer(d/2 + rand.N(d/2))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// Cache holds the newest entries of a Watch, for many goroutines.
type Cache struct {
	client   *Client
	items    []Item
	maxStale time.Duration

	mu      sync.Mutex
	entries []Entry
	changed chan struct{}
}

// NewCache makes a cache of these items (at most 100); [Cache.Run] fills it. maxStale is
// that of [Client.Watch].
func NewCache(c *Client, items []Item, maxStale time.Duration) *Cache {
	return &Cache{client: c, items: items, maxStale: maxStale, changed: make(chan struct{})}
}

// Run follows the items until ctx ends.
func (k *Cache) Run(ctx context.Context) {
	for entries := range k.client.Watch(ctx, k.items, k.maxStale) {
		k.mu.Lock()
		k.entries = entries
		close(k.changed)
		k.changed = make(chan struct{})
		k.mu.Unlock()
	}
}

// Changed is closed at the next change. Ask for it before Get.
func (k *Cache) Changed() <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.changed
}

// Get gives what is known of a secret now. It never asks the agent. The maps of a Secret
// are shared and must not be changed.
func (k *Cache) Get(ws manifest.Workspace, name manifest.Name) Entry {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, e := range k.entries {
		if e.Item.Workspace == ws && e.Item.Name == name {
			return e
		}
	}
	return Entry{Item: Item{Workspace: ws, Name: name}, Err: errNotYet}
}

var errNotYet = errors.New("nothing is known of it yet: the agent was not asked, or it is not among the cache's items")

// Value gives one value, text or binary; its error is ErrNotFound where the secret
// has no such key, else that of the entry.
func (e Entry) Value(key manifest.Key) ([]byte, error) {
	if !e.Ok() {
		return nil, fmt.Errorf("%s: %w", e.Item, e.Err)
	}
	if text, ok := e.Secret.Data[key.String()]; ok {
		return []byte(text), nil
	}
	if data, ok := e.Secret.BinaryData[key.String()]; ok {
		return append([]byte(nil), data...), nil
	}
	return nil, fmt.Errorf("%s has no key %s: %w", e.Item, key, ErrNotFound)
}
