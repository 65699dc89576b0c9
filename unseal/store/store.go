// Package store keeps what was unsealed across restarts: one bbolt file with one
// record a manifest, each encrypted under a key that only the workspace's ring
// opens. Plaintext is never written.
//
// Most callers need [Open], [Store.Load] once, and [Store.Commit] once a commit.
// What a record means is in unseal; which records there should be, the agent
// knows.
package store

import (
	"bytes"
	"cmp"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/bits"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"time"

	"filippo.io/age"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/keyring"
)

// format is the version of the layout in this file's comments.
const format = 2

// Layout of the bbolt file:
//
//	meta/root            JSON of rootRecord
//	keys/<scope>         HMAC under the ring's active identity, then the scope's store key,
//	                     age-encrypted to that identity
//	records:<scope>/<path>
//	                     1 length byte, blob id, 12-byte nonce, AES-256-GCM of the
//	                     record's JSON, with scope, path and blob as additional data
var (
	bucketMeta = []byte("meta")
	bucketKeys = []byte("keys")
	keyRoot    = []byte("root")
)

func bucketRecords(ws manifest.Workspace) []byte { return []byte("records:" + ws.String()) }

// Errors that callers tell apart.
var (
	// ErrInUse: another process has the file open.
	ErrInUse = errors.New("another agent uses this state folder")
	// ErrDamaged: the file is not as it was written.
	ErrDamaged = errors.New("the store is damaged")
	// ErrFormat: the file is of another version of sealward.
	ErrFormat = errors.New("the store has another format")
)

// rootRecord says which commit the records are of, and proves each scope's set of
// records complete: Root is an HMAC under the scope's store key over the commit and
// the set's sum, which stands nowhere (see setSum).
type rootRecord struct {
	Format int
	Source string // URL, branch and path that the records come from
	Commit string
	Scopes map[string]scopeProof
}

type scopeProof struct {
	Count  int
	Root   []byte
	Judged string // what the caller judged the scope by
}

// Store is an open bbolt file. Its methods are for one goroutine.
type Store struct {
	db   *bolt.DB
	path string
	// keys of the scopes, opened with the rings once, and what their records sum up
	// to; a sum is there only where the key is.
	keys map[manifest.Workspace][]byte
	sums map[manifest.Workspace]*setSum
}

// Open opens or makes the store. ErrInUse when another process has it, and
// ErrDamaged when bbolt cannot read it.
func Open(path string) (s *Store, err error) {
	defer damaged(path, &err)()
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second, FreelistType: bolt.FreelistMapType})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("%s: %w", path, ErrInUse)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
		return nil, fmt.Errorf("%s: %w", path, ErrDamaged)
	case err != nil && cutShort(path, err):
		return nil, fmt.Errorf("%s: %w", path, ErrDamaged)
	case err != nil:
		return nil, fmt.Errorf("store: %w", err)
	}
	return &Store{db: db, path: path, keys: map[manifest.Workspace][]byte{}, sums: map[manifest.Workspace]*setSum{}}, nil
}

// cutShort reports a file that ends within its first two pages, as one does whose
// making was cut off; bbolt has no sentinel for it. A file that cannot be opened or
// written is none.
func cutShort(path string, why error) bool {
	var system *fs.PathError
	if errors.As(why, &system) {
		return false
	}
	info, err := os.Stat(path)
	return err == nil && info.Size() < int64(2*os.Getpagesize())
}

// damaged makes ErrDamaged of what bbolt does when it follows a damaged page: a
// panic, or an access outside its memory map, which would end the process.
func damaged(path string, err *error) func() {
	before := debug.SetPanicOnFault(true)
	return func() {
		debug.SetPanicOnFault(before)
		if recover() != nil {
			*err = fmt.Errorf("%s: %w", path, ErrDamaged)
		}
	}
}

// MoveAside renames a store that cannot be used, so that nothing is lost, and
// returns its new name.
func MoveAside(path string, now time.Time) (string, error) {
	to, err := aside(path, now)
	if err == nil {
		err = os.Rename(path, to)
	}
	if err != nil {
		return "", err
	}
	return to, syncFolder(filepath.Dir(path))
}

// aside is a name beside path that is free.
func aside(path string, now time.Time) (string, error) {
	for i := range 100 {
		to := fmt.Sprintf("%s.aside-%s", path, now.UTC().Format("20060102T150405Z"))
		if i > 0 {
			to = fmt.Sprintf("%s-%d", to, i)
		}
		if _, err := os.Lstat(to); errors.Is(err, fs.ErrNotExist) {
			return to, nil
		}
	}
	return "", fmt.Errorf("%s: too many stores were moved aside; remove some", path)
}

// CopyAside keeps a copy of the store as it is, and returns its name. It is for a
// store of other keys, some of whose scopes are still of use: the next Commit drops
// those that the rings do not open.
func (s *Store) CopyAside(now time.Time) (to string, err error) {
	defer damaged(s.path, &err)()
	if to, err = aside(s.path, now); err != nil {
		return "", err
	}
	part := to + ".part"
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return "", err
	}
	err = s.db.View(func(tx *bolt.Tx) error {
		_, err := tx.WriteTo(f)
		return err
	})
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(part, to)
	}
	if err != nil {
		return "", errors.Join(err, os.Remove(part))
	}
	return to, syncFolder(filepath.Dir(s.path))
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Close releases the file.
func (s *Store) Close() error { return s.db.Close() }

// State is what a store holds.
type State struct {
	Source  string
	Commit  string // "" for an empty store
	Records []*unseal.Record
	// Judged is what Update.Judged said of each scope when it was last written.
	Judged map[manifest.Workspace]string
	// Unopened are scopes whose records the rings do not open: their key is gone.
	Unopened []manifest.Workspace
}

// Rings gives the ring of a scope.
type Rings func(manifest.Workspace) (*keyring.Ring, error)

// Load reads everything and verifies it. An empty store gives an empty State;
// ErrDamaged and ErrFormat say that the file should be moved aside.
func (s *Store) Load(rings Rings) (st State, err error) {
	defer damaged(s.path, &err)()
	err = s.db.View(func(tx *bolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		if meta == nil {
			return nil
		}
		var root rootRecord
		if json.Unmarshal(meta.Get(keyRoot), &root) != nil {
			return ErrDamaged
		}
		if root.Format != format {
			return fmt.Errorf("%w (%d, this program has %d)", ErrFormat, root.Format, format)
		}
		st.Source, st.Commit = root.Source, root.Commit
		for _, name := range slices.Sorted(maps.Keys(root.Scopes)) {
			ws, err := manifest.ParseScope(name)
			if err != nil {
				return ErrDamaged
			}
			key, err := s.openKey(tx, ws, rings)
			if err != nil {
				st.Unopened = append(st.Unopened, ws)
				continue
			}
			proof := root.Scopes[name]
			if st.Judged == nil {
				st.Judged = map[manifest.Workspace]string{}
			}
			st.Judged[ws] = proof.Judged
			sum := sumOf(tx.Bucket(bucketRecords(ws)), key)
			if sum.count != proof.Count || !hmac.Equal(rootProof(key, root, proof, sum), proof.Root) {
				return ErrDamaged
			}
			if err := eachRecord(tx.Bucket(bucketRecords(ws)), func(path, stored []byte) error {
				r, err := openRecord(key, ws, path, stored)
				if err != nil {
					return ErrDamaged
				}
				st.Records = append(st.Records, r)
				return nil
			}); err != nil {
				return err
			}
			s.keys[ws], s.sums[ws] = key, sum
		}
		return nil
	})
	if err != nil {
		return State{}, fmt.Errorf("%s: %w", s.path, err)
	}
	return st, nil
}

// Update is what one commit changes.
type Update struct {
	Source string
	Commit string
	Put    []*unseal.Record
	Delete []*unseal.Record
	// Judged names what a scope's manifests were judged by, beside their content.
	// It is kept, authenticated, for State. Nil notes nothing.
	Judged func(manifest.Workspace) string
}

// Commit writes an update in one transaction: after a crash the state before or
// after it is there, never a mixture. (An empty store is filled in several; until the
// last it counts as empty.) A scope that gets records needs a ring.
func (s *Store) Commit(u Update, rings Rings) (err error) {
	defer damaged(s.path, &err)()
	// In key order: bbolt then fills its pages one after the other.
	put := slices.SortedFunc(slices.Values(u.Put), func(a, b *unseal.Record) int {
		return cmp.Or(cmp.Compare(a.Place.Scope.String(), b.Place.Scope.String()), cmp.Compare(a.Path, b.Path))
	})
	touched := map[manifest.Workspace]bool{}
	for _, r := range slices.Concat(put, u.Delete) {
		touched[r.Place.Scope] = true
	}
	if put, err = s.fill(put, rings); err == nil {
		err = s.db.Update(func(tx *bolt.Tx) error { return s.commit(tx, u, put, touched, rings) })
	}
	if err != nil {
		// What the transaction put there may not be in the file.
		s.Forget()
		return fmt.Errorf("store: commit %.12s is not applied: %w", u.Commit, err)
	}
	return nil
}

// fillSize bounds what one transaction of fill writes, in bytes: bbolt keeps some
// three times as much in memory until it ends.
const fillSize = 4 << 20

// fill puts records into a store that holds no commit yet, up to the last
// transaction's, and returns those. Without a root record nothing of that is read;
// what an earlier attempt left is removed first.
func (s *Store) fill(put []*unseal.Record, rings Rings) (rest []*unseal.Record, err error) {
	var left [][]byte
	rooted := false
	if err := s.db.View(func(tx *bolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		rooted = meta != nil && meta.Get(keyRoot) != nil
		return tx.ForEach(func(name []byte, _ *bolt.Bucket) error {
			left = append(left, bytes.Clone(name))
			return nil
		})
	}); err != nil || rooted {
		return put, err
	}
	if len(left) > 0 {
		s.Forget()
		if err := s.db.Update(func(tx *bolt.Tx) error {
			for _, name := range left {
				if err := tx.DeleteBucket(name); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return nil, err
		}
	}
	for n := batch(put); n < len(put); n = batch(put) {
		if err := s.db.Update(func(tx *bolt.Tx) error {
			for _, r := range put[:n] {
				if err := s.put(tx, r, rings); err != nil {
					return err
				}
				// Nothing will come in between: pages need no room for it.
				tx.Bucket(bucketRecords(r.Place.Scope)).FillPercent = 0.9
			}
			return nil
		}); err != nil {
			return nil, err
		}
		put = put[n:]
	}
	return put, nil
}

// batch is how many of the records make one transaction of fill.
func batch(records []*unseal.Record) int {
	size := 0
	for i, r := range records {
		if size += 1 << 10; r.Good != nil {
			for _, v := range r.Good.Values {
				size += len(v.Data) * 4 / 3 // as JSON has bytes
			}
		}
		if size > fillSize {
			return i + 1
		}
	}
	return len(records)
}

func (s *Store) commit(tx *bolt.Tx, u Update, put []*unseal.Record, touched map[manifest.Workspace]bool, rings Rings) error {
	root := rootRecord{Scopes: map[string]scopeProof{}}
	meta, err := tx.CreateBucketIfNotExists(bucketMeta)
	if err != nil {
		return err
	}
	if old := meta.Get(keyRoot); old != nil {
		if json.Unmarshal(old, &root) != nil {
			return ErrDamaged
		}
		if root.Format != format {
			return ErrFormat
		}
	}
	if err := s.dropUnopened(tx, &root, rings); err != nil {
		return err
	}
	for _, r := range u.Delete {
		if err := s.remove(tx, r); err != nil {
			return err
		}
	}
	for _, r := range put {
		if err := s.put(tx, r, rings); err != nil {
			return err
		}
	}
	root.Format, root.Source, root.Commit = format, u.Source, u.Commit
	return s.prove(tx, meta, root, touched, u.Judged)
}

// prove writes the root record with fresh proofs for what changed.
func (s *Store) prove(tx *bolt.Tx, meta *bolt.Bucket, root rootRecord, touched map[manifest.Workspace]bool, judged func(manifest.Workspace) string) error {
	for ws := range touched {
		if s.keys[ws] == nil || tx.Bucket(bucketRecords(ws)) == nil {
			delete(root.Scopes, ws.String())
			continue
		}
		root.Scopes[ws.String()] = scopeProof{}
	}
	for name, proof := range root.Scopes {
		ws, err := manifest.ParseScope(name)
		if err != nil {
			return ErrDamaged
		}
		// A scope whose ring is gone keeps its old proof, and is refused at Load.
		if key := s.keys[ws]; key != nil {
			if judged != nil {
				proof.Judged = judged(ws)
			}
			sum := s.sum(tx, ws)
			proof.Count, proof.Root = sum.count, rootProof(key, root, proof, sum)
			root.Scopes[name] = proof
		}
	}
	text, err := json.Marshal(root)
	if err != nil {
		return err
	}
	return meta.Put(keyRoot, text)
}

// dropUnopened removes the scopes whose ring is gone or does not open their store
// key any more. Nothing could be proved about them at the next start; their
// manifests are in Git.
func (s *Store) dropUnopened(tx *bolt.Tx, root *rootRecord, rings Rings) error {
	for name := range root.Scopes {
		ws, err := manifest.ParseScope(name)
		if err != nil {
			return ErrDamaged
		}
		_, err = rings(ws)
		if err == nil && s.keys[ws] == nil {
			s.keys[ws], err = s.openKey(tx, ws, rings)
		}
		if err == nil {
			continue
		}
		if err := s.reset(tx, ws); err != nil {
			return err
		}
		delete(root.Scopes, name)
	}
	return nil
}

// Forget makes the store open its keys again with the rings of the next Commit:
// the caller says so when rings changed.
func (s *Store) Forget() {
	clear(s.keys)
	clear(s.sums)
}

func (s *Store) reset(tx *bolt.Tx, ws manifest.Workspace) error {
	delete(s.keys, ws)
	delete(s.sums, ws)
	if err := tx.DeleteBucket(bucketRecords(ws)); err != nil && !errors.Is(err, bolterrors.ErrBucketNotFound) {
		return err
	}
	if b := tx.Bucket(bucketKeys); b != nil {
		return b.Delete([]byte(ws.String()))
	}
	return nil
}

func (s *Store) put(tx *bolt.Tx, r *unseal.Record, rings Rings) error {
	key, err := s.scopeKey(tx, r.Place.Scope, rings)
	if err != nil {
		return err
	}
	b, err := tx.CreateBucketIfNotExists(bucketRecords(r.Place.Scope))
	if err != nil {
		return err
	}
	stored, err := sealRecord(key, r)
	if err != nil {
		return err
	}
	path, sum := []byte(r.Path), s.sum(tx, r.Place.Scope)
	if old := b.Get(path); old != nil {
		sum.remove(key, path, old)
	}
	sum.add(key, path, stored)
	return b.Put(path, stored)
}

func (s *Store) remove(tx *bolt.Tx, r *unseal.Record) error {
	b, path := tx.Bucket(bucketRecords(r.Place.Scope)), []byte(r.Path)
	if b == nil {
		return nil
	}
	if old := b.Get(path); old != nil {
		// Its key is here: dropUnopened took the bucket of every other scope away.
		s.sum(tx, r.Place.Scope).remove(s.keys[r.Place.Scope], path, old)
	}
	return b.Delete(path)
}

// sum is what the records of a scope whose key is open sum up to.
func (s *Store) sum(tx *bolt.Tx, ws manifest.Workspace) *setSum {
	if s.sums[ws] == nil {
		s.sums[ws] = sumOf(tx.Bucket(bucketRecords(ws)), s.keys[ws])
	}
	return s.sums[ws]
}

// scopeKey finds or makes the key of a scope.
func (s *Store) scopeKey(tx *bolt.Tx, ws manifest.Workspace, rings Rings) ([]byte, error) {
	if key := s.keys[ws]; key != nil {
		return key, nil
	}
	keys, err := tx.CreateBucketIfNotExists(bucketKeys)
	if err != nil {
		return nil, err
	}
	if keys.Get([]byte(ws.String())) != nil {
		key, err := s.openKey(tx, ws, rings)
		if err != nil {
			return nil, err
		}
		s.keys[ws] = key
		return key, nil
	}
	ring, err := rings(ws)
	if err != nil {
		return nil, err
	}
	to, err := ring.ActiveRecipient()
	if err != nil {
		return nil, err
	}
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	var wrapped bytes.Buffer
	w, err := age.Encrypt(&wrapped, to)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(key); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	s.keys[ws] = key
	return key, keys.Put([]byte(ws.String()), append(ring.Authenticate(wrapContext, wrapped.Bytes()), wrapped.Bytes()...))
}

// wrapContext separates the MAC of store keys from other uses of an identity.
const wrapContext = "sealward store key v1"

var errNoKey = errors.New("the ring does not open the scope's store key")

// openKey unwraps the key of a scope. It never trusts the cache: a ring may have
// lost the identity.
func (s *Store) openKey(tx *bolt.Tx, ws manifest.Workspace, rings Rings) ([]byte, error) {
	keys := tx.Bucket(bucketKeys)
	if keys == nil {
		return nil, errNoKey
	}
	ring, err := rings(ws)
	if err != nil {
		return nil, err
	}
	// Anybody could encrypt a key of their own to the public recipient: only a
	// holder of the identity can have made the MAC before it.
	stored := keys.Get([]byte(ws.String()))
	if len(stored) < sha256.Size || !ring.Authentic(wrapContext, stored[sha256.Size:], stored[:sha256.Size]) {
		return nil, errNoKey
	}
	r, err := age.Decrypt(bytes.NewReader(stored[sha256.Size:]), ring.Identities()...)
	if err != nil {
		return nil, errNoKey
	}
	key, err := io.ReadAll(io.LimitReader(r, 33))
	if err != nil || len(key) != 32 {
		return nil, errNoKey
	}
	return key, nil
}

func eachRecord(b *bolt.Bucket, f func(path, stored []byte) error) error {
	if b == nil {
		return nil
	}
	return b.ForEach(f)
}

// setSum identifies a set of stored records: their number, and the sum modulo 2^256
// of an HMAC-SHA-256 of each under the scope's key (a multiset hash, Clarke et al.,
// ASIACRYPT 2003). One record more or less changes it without a look at the others.
//
// Sums are linear: from those of three states that of a mixture could be computed, so
// they never leave memory. The file has only an HMAC over commit, number and sum, and
// whoever lacks the key can neither make one for another sum, nor learn the HMAC of
// any record, nor find a set with the sum of another.
type setSum struct {
	count int
	limbs [4]uint64 // least significant first
}

func sumOf(b *bolt.Bucket, key []byte) *setSum {
	sum := &setSum{}
	_ = eachRecord(b, func(path, stored []byte) error {
		sum.add(key, path, stored)
		return nil
	})
	return sum
}

func (s *setSum) add(key, path, stored []byte) {
	var carry uint64
	for i, limb := range element(key, path, stored) {
		s.limbs[i], carry = bits.Add64(s.limbs[i], limb, carry)
	}
	s.count++
}

func (s *setSum) remove(key, path, stored []byte) {
	var borrow uint64
	for i, limb := range element(key, path, stored) {
		s.limbs[i], borrow = bits.Sub64(s.limbs[i], limb, borrow)
	}
	s.count--
}

// element is the HMAC of one record. Blob, nonce and the GCM tag identify it; no need
// to hash all of it.
func element(key, path, stored []byte) (limbs [4]uint64) {
	mac := hmac.New(sha256.New, key)
	text := prefixed(append(make([]byte, 0, 256), "sealward store set v2"...), path)
	head := min(len(stored), 1+64+12)
	text = prefixed(text, stored[:head])
	text = prefixed(text, stored[max(head, len(stored)-16):])
	mac.Write(text)
	var out [sha256.Size]byte
	mac.Sum(out[:0])
	for i := range limbs {
		limbs[i] = binary.LittleEndian.Uint64(out[8*i:])
	}
	return limbs
}

func rootProof(key []byte, root rootRecord, proof scopeProof, sum *setSum) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("sealward store root v2"))
	mac.Write(prefixed(nil, []byte(root.Source)))
	mac.Write(prefixed(nil, []byte(root.Commit)))
	mac.Write(prefixed(nil, []byte(proof.Judged)))
	text := binary.BigEndian.AppendUint64(nil, uint64(sum.count))
	for _, limb := range sum.limbs {
		text = binary.BigEndian.AppendUint64(text, limb)
	}
	mac.Write(text)
	return mac.Sum(nil)
}

func prefixed(b, s []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

// storedRecord is the JSON of a record. Place follows from the path.
type storedRecord struct {
	Good    *unseal.Content `json:",omitempty"`
	Failure *unseal.Failure `json:",omitempty"`
	Held    *unseal.Held    `json:",omitempty"`
}

func sealRecord(key []byte, r *unseal.Record) ([]byte, error) {
	if len(r.Blob) > 64 {
		return nil, errors.New("a blob id is too long")
	}
	text, err := json.Marshal(storedRecord{Good: r.Good, Failure: r.Failure, Held: r.Held})
	if err != nil {
		return nil, err
	}
	gcm, err := newGCM(key)
	if err != nil {
		return nil, err
	}
	out := append([]byte{byte(len(r.Blob))}, r.Blob...)
	nonce := make([]byte, gcm.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	out = append(out, nonce...)
	return gcm.Seal(out, nonce, text, recordAAD(r.Place.Scope, []byte(r.Path), []byte(r.Blob))), nil
}

func openRecord(key []byte, ws manifest.Workspace, path, stored []byte) (*unseal.Record, error) {
	gcm, err := newGCM(key)
	if err != nil {
		return nil, err
	}
	if len(stored) < 1 || len(stored) < 1+int(stored[0])+gcm.NonceSize() {
		return nil, ErrDamaged
	}
	blob, rest := stored[1:1+stored[0]], stored[1+stored[0]:]
	text, err := gcm.Open(nil, rest[:gcm.NonceSize()], rest[gcm.NonceSize():], recordAAD(ws, path, blob))
	if err != nil {
		return nil, ErrDamaged
	}
	var in storedRecord
	if json.Unmarshal(text, &in) != nil {
		return nil, ErrDamaged
	}
	place, ours, err := manifest.Locate(string(path))
	if err != nil || !ours || place.Scope != ws {
		return nil, ErrDamaged
	}
	r := &unseal.Record{Path: string(path), Place: place, Blob: string(blob), Good: in.Good, Failure: in.Failure, Held: in.Held}
	if r.Good != nil {
		if p := &r.Good.Provenance; p.Path == r.Path && p.Blob == r.Blob {
			p.Path, p.Blob = r.Path, r.Blob // one in memory
		}
		r.Good.Intern()
	}
	return r, nil
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func recordAAD(ws manifest.Workspace, path, blob []byte) []byte {
	aad := prefixed([]byte("sealward store record v1"), []byte(ws.String()))
	return prefixed(prefixed(aad, path), blob)
}
