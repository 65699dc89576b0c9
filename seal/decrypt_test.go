package seal

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/getsops/sops/v3"
	"github.com/getsops/sops/v3/aes"
)

// What decryptTree does itself is what SOPS does, for every kind of value SOPS has.
func TestDecryptTreeIsSOPS(t *testing.T) {
	const seed = 5
	r := rand.New(rand.NewPCG(seed, seed))
	key := bytes.Repeat([]byte{7}, 32)
	compared, failed := 0, 0
	for n := range 300 {
		tree := sops.Tree{Branches: sops.TreeBranches{randomBranch(r, 0)}, Metadata: sops.Metadata{EncryptedRegex: "^(data|binding|k[12])$"}}
		if n%10 == 9 {
			tree.Metadata.MACOnlyEncrypted = true // SOPS's part
		}
		sealedMAC, err := tree.Encrypt(key, aes.NewCipher())
		if err != nil {
			t.Fatal(err)
		}
		if n%5 == 4 {
			spoil(r, tree.Branches[0])
		}
		ours, theirs := copyOf(tree.Branches[0]).(sops.TreeBranch), copyOf(tree.Branches[0]).(sops.TreeBranch)
		got, err := decryptTree(sops.Tree{Branches: sops.TreeBranches{ours}, Metadata: tree.Metadata}, key, aes.NewCipher())
		want, errSOPS := sops.Tree{Branches: sops.TreeBranches{theirs}, Metadata: tree.Metadata}.Decrypt(key, aes.NewCipher())
		if (err == nil) != (errSOPS == nil) || got != want {
			t.Fatalf("tree %d (seed %d): %q and %v, SOPS: %q and %v", n, seed, got, err, want, errSOPS)
		}
		if err != nil {
			failed++
			continue
		}
		if !reflect.DeepEqual(ours, theirs) {
			t.Fatalf("tree %d (seed %d): %#v, SOPS: %#v", n, seed, ours, theirs)
		}
		if n%5 != 4 && got != sealedMAC {
			t.Fatalf("tree %d (seed %d): another MAC than at sealing", n, seed)
		}
		compared++
	}
	if compared < 200 || failed < 10 {
		t.Errorf("only %d trees opened and %d failed", compared, failed)
	}
}

func randomBranch(r *rand.Rand, depth int) sops.TreeBranch {
	var b sops.TreeBranch
	for i := range 1 + r.IntN(4) {
		name := []string{"data", "binding", "k1", "k22", "name", "x:y"}[r.IntN(6)]
		b = append(b, sops.TreeItem{Key: fmt.Sprintf("%s", name), Value: randomValue(r, depth+i%2)})
	}
	return b
}

func randomValue(r *rand.Rand, depth int) any {
	kinds := 9
	if depth > 3 {
		kinds = 7
	}
	switch r.IntN(kinds) {
	case 0:
		return ""
	case 1:
		return r.IntN(1000)
	case 2:
		return r.IntN(2) == 0
	case 3:
		return r.Float64()
	case 4:
		return nil
	case 5:
		return time.Unix(int64(r.IntN(1e9)), 0).UTC()
	case 6:
		return fmt.Sprint("text ", r.IntN(1000))
	case 7:
		return randomBranch(r, depth)
	}
	var list []any
	for range r.IntN(4) {
		list = append(list, randomValue(r, depth+1))
	}
	return list
}

// spoil changes one text of a tree.
func spoil(r *rand.Rand, b sops.TreeBranch) {
	for i := range b {
		switch v := b[i].Value.(type) {
		case string:
			if v != "" {
				b[i].Value = v[:len(v)-r.IntN(len(v))-1] + "x"
				return
			}
		case sops.TreeBranch:
			spoil(r, v)
			return
		}
	}
}

func copyOf(v any) any {
	switch v := v.(type) {
	case sops.TreeBranch:
		out := make(sops.TreeBranch, 0, len(v))
		for _, item := range v {
			out = append(out, sops.TreeItem{Key: item.Key, Value: copyOf(item.Value)})
		}
		return out
	case []any:
		var out []any
		for _, item := range v {
			out = append(out, copyOf(item))
		}
		return out
	}
	return v
}

func TestDecryptTreeLeavesCommentsToSOPS(t *testing.T) {
	b := sops.TreeBranch{{Key: sops.Comment{Value: "a comment"}}, {Key: "name", Value: []any{sops.Comment{Value: "another"}, "x"}}}
	if !hasComments(b) || hasComments(sops.TreeBranch{{Key: "name", Value: []any{"x"}}}) {
		t.Error("a comment is not found, or found where none is")
	}
}
