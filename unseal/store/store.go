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
const format = 1

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

// rootRecord says which commit the records are of, and proves each scope's set
// complete: Set is an HMAC under the scope's store key over every record, and
// Root one over the commit and Set.
type rootRecord struct {
	Format int
	Source string // URL, branch and path that the records come from
	Commit string
	Scopes map[string]scopeProof
}

type scopeProof struct {
	Count     int
	Set, Root []byte
	Judged    string // what the caller judged the scope by
}

// Store is an open bbolt file. Its methods are for one goroutine.
type Store struct {
	db   *bolt.DB
	path string
	// keys of the scopes, opened with the rings once.
	keys map[manifest.Workspace][]byte
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
	return &Store{db: db, path: path, keys: map[manifest.Workspace][]byte{}}, nil
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
	for i := range 100 {
		to := fmt.Sprintf("%s.aside-%s", path, now.UTC().Format("20060102T150405Z"))
		if i > 0 {
			to = fmt.Sprintf("%s-%d", to, i)
		}
		if _, err := os.Lstat(to); err == nil {
			continue
		}
		if err := os.Rename(path, to); err != nil {
			return "", err
		}
		return to, syncFolder(filepath.Dir(path))
	}
	return "", fmt.Errorf("%s: too many stores were moved aside; remove some", path)
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
			set, count := setProof(tx.Bucket(bucketRecords(ws)), key)
			if count != proof.Count || !hmac.Equal(set, proof.Set) || !hmac.Equal(rootProof(key, root, proof), proof.Root) {
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
			s.keys[ws] = key
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
// after it is there, never a mixture. A scope that gets records needs a ring.
func (s *Store) Commit(u Update, rings Rings) (err error) {
	defer damaged(s.path, &err)()
	err = s.db.Update(func(tx *bolt.Tx) error {
		root := rootRecord{Scopes: map[string]scopeProof{}}
		meta, err := tx.CreateBucketIfNotExists(bucketMeta)
		if err != nil {
			return err
		}
		if old := meta.Get(keyRoot); old != nil {
			if json.Unmarshal(old, &root) != nil {
				return ErrDamaged
			}
		}
		touched := map[manifest.Workspace]bool{}
		if err := s.dropUnopened(tx, &root, rings); err != nil {
			return err
		}
		for _, r := range u.Delete {
			if b := tx.Bucket(bucketRecords(r.Place.Scope)); b != nil {
				if err := b.Delete([]byte(r.Path)); err != nil {
					return err
				}
			}
			touched[r.Place.Scope] = true
		}
		// In key order: bbolt then fills its pages one after the other.
		put := slices.SortedFunc(slices.Values(u.Put), func(a, b *unseal.Record) int {
			return bytes.Compare([]byte(a.Place.Scope.String()+"\x00"+a.Path), []byte(b.Place.Scope.String()+"\x00"+b.Path))
		})
		for _, r := range put {
			if err := s.put(tx, r, rings); err != nil {
				return err
			}
			touched[r.Place.Scope] = true
		}
		root.Format, root.Source, root.Commit = format, u.Source, u.Commit
		return s.prove(tx, meta, root, touched, u.Judged)
	})
	if err != nil {
		// What the transaction put into keys may not be in the file.
		clear(s.keys)
		return fmt.Errorf("store: commit %.12s is not applied: %w", u.Commit, err)
	}
	return nil
}

// prove writes the root record with fresh proofs for what changed.
func (s *Store) prove(tx *bolt.Tx, meta *bolt.Bucket, root rootRecord, touched map[manifest.Workspace]bool, judged func(manifest.Workspace) string) error {
	for ws := range touched {
		b := tx.Bucket(bucketRecords(ws))
		key := s.keys[ws]
		if b == nil || key == nil {
			delete(root.Scopes, ws.String())
			continue
		}
		set, count := setProof(b, key)
		root.Scopes[ws.String()] = scopeProof{Count: count, Set: set}
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
			proof.Root = rootProof(key, root, proof)
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
func (s *Store) Forget() { clear(s.keys) }

func (s *Store) reset(tx *bolt.Tx, ws manifest.Workspace) error {
	delete(s.keys, ws)
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
	return b.Put([]byte(r.Path), stored)
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

// setProof covers every path and stored record, in key order.
func setProof(b *bolt.Bucket, key []byte) (sum []byte, count int) {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("sealward store set v1"))
	_ = eachRecord(b, func(path, stored []byte) error {
		count++
		mac.Write(prefixed(nil, path))
		// blob, nonce and the GCM tag identify the record; no need to hash all of it.
		head := min(len(stored), 1+64+12)
		mac.Write(prefixed(nil, stored[:head]))
		mac.Write(prefixed(nil, stored[max(head, len(stored)-16):]))
		return nil
	})
	return mac.Sum(nil), count
}

func rootProof(key []byte, root rootRecord, proof scopeProof) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("sealward store root v1"))
	mac.Write(prefixed(nil, []byte(root.Source)))
	mac.Write(prefixed(nil, []byte(root.Commit)))
	mac.Write(prefixed(nil, []byte(proof.Judged)))
	mac.Write(proof.Set)
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
	return &unseal.Record{Path: string(path), Place: place, Blob: string(blob), Good: in.Good, Failure: in.Failure, Held: in.Held}, nil
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
