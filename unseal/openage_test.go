package unseal

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"testing"

	"filippo.io/age"
	"golang.org/x/crypto/chacha20poly1305"
)

// FuzzOpenAge holds openAge and age.Decrypt equal: the same bytes, or an error of both.
// The file is one of age's own, changed and cut at will; one whose payload is sealed
// under the right key but as another chunk than the only one; and any bytes.
func FuzzOpenAge(f *testing.F) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		f.Fatal(err)
	}
	other, err := age.GenerateX25519Identity()
	if err != nil {
		f.Fatal(err)
	}
	encrypt := func(plain []byte) []byte {
		var out bytes.Buffer
		w, err := age.Encrypt(&out, id.Recipient())
		if err == nil {
			_, err = w.Write(plain)
		}
		if err == nil {
			err = w.Close()
		}
		if err != nil {
			f.Fatal(err)
		}
		return out.Bytes()
	}
	empty := encrypt(nil)
	header := empty[:len(empty)-ageNonceSize-chacha20poly1305.Overhead]
	fileKey, err := age.DecryptHeader(header, id)
	if err != nil {
		f.Fatal(err)
	}
	// craft seals plain as chunk number n with a flag of its own.
	craft := func(plain []byte, n uint64, flag byte) []byte {
		nonce := sha256.Sum256(plain)
		key, err := hkdf.Key(sha256.New, fileKey, nonce[:ageNonceSize], "payload", chacha20poly1305.KeySize)
		if err != nil {
			f.Fatal(err)
		}
		aead, err := chacha20poly1305.New(key)
		if err != nil {
			f.Fatal(err)
		}
		chunk := binary.BigEndian.AppendUint64(make([]byte, 3, 12), n)
		out := append(bytes.Clone(header), nonce[:ageNonceSize]...)
		return aead.Seal(out, append(chunk, flag), plain, nil)
	}
	opened := 0
	same := func(t *testing.T, sealed []byte, identities ...age.Identity) {
		t.Helper()
		got, gotErr := openAge(sealed, identities...)
		want, wantErr := plainAge(sealed, identities...)
		if (gotErr == nil) != (wantErr == nil) || !bytes.Equal(got, want) {
			t.Fatalf("openAge gives %x (%v), age %x (%v), of\n%q", got, gotErr, want, wantErr, sealed)
		}
		if gotErr == nil {
			opened++
		}
	}
	for _, size := range []int{0, 1, 32, 33, 34, 35, 100, ageChunkSize - 16, ageChunkSize - 15, 64<<10 - 1, 64 << 10, 64<<10 + 1, 130 << 10} {
		f.Add(size, []byte(nil), 0, byte(0), 0)
	}
	f.Add(32, []byte("more"), 0, byte(0), 0)
	f.Add(32, []byte(nil), 0, byte(0), 1)
	f.Add(32, []byte("\n--- "), len(header)-3, byte(7), 0)
	f.Add(1, bytes.Clone(empty), 3, byte(1), 2)
	f.Add(1, append(bytes.Clone(header), make([]byte, 20)...), 60, byte(0x20), 5)
	f.Add(1, []byte("age-encryption.org/v1\n-> X25519 x\n\n--- \n"), 0, byte('\r'), 0)
	f.Fuzz(func(t *testing.T, size int, any []byte, at int, flip byte, cut int) {
		plain := bytes.Repeat([]byte{flip}, int(uint(size)%(140<<10)))
		n := opened
		same(t, encrypt(plain), id)
		same(t, encrypt(plain), other, id)
		same(t, craft(plain, 0, 1), id)
		if opened != n+3 && len(plain) < 64<<10 {
			t.Fatal("what age sealed does not open")
		}
		same(t, encrypt(plain), other)
		same(t, any, id)
		same(t, craft(plain, uint64(cut), flip), id)
		for _, sealed := range [][]byte{encrypt(plain), craft(plain, 0, 1)} {
			same(t, append(bytes.Clone(sealed), any...), id)
			changed := bytes.Clone(sealed)
			changed[uint(at)%uint(len(changed))] ^= flip
			same(t, changed, id)
			same(t, changed[:len(changed)-int(uint(cut)%uint(len(changed)))], id)
			i := uint(at) % uint(len(sealed))
			same(t, bytes.Join([][]byte{sealed[:i], any, sealed[i:]}, nil), id)
		}
	})
}
