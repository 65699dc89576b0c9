package seal

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/getsops/sops/v3"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
)

const fuzzHeader = "name: a\nversion: v1\ntype: secret\nworkspace: orders\nsecret: {type: key-value, acl: r, data: {k: \"\"}}\nsops:\n"

// FuzzLoad writes any sops section below a manifest: it is refused, or taken apart
// into recipients that can be listed, and a wrong data key opens nothing.
func FuzzLoad(f *testing.F) {
	for _, s := range []string{
		"  age: [{recipient: age1x, enc: y}]\n  lastmodified: \"2026-01-02T03:04:05Z\"\n  mac: x\n  version: 3.13.3\n",
		"  kms: [{arn: a, created_at: b, enc: c, context: {x: null}}]\n  mac: ''\n",
		"  key_groups: [{age: []}, {pgp: [{fp: x, enc: y, created_at: z}]}]\n  shamir_threshold: -1\n",
		"  key_groups: [null]\n", "  []\n", "  x: [1, {}]\n", "  hc_vault: [{vault_address: x, engine_path: y, key_name: z, created_at: \"2026-01-02T03:04:05Z\", enc: v}]\n",
		"  azure_kv: 1\n  gcp_kms: x\n  encrypted_regex: '('\n", "  age: x\n  unencrypted_suffix: y\n  encrypted_suffix: z\n", "  mac_only_encrypted: maybe\n  age: [1]\n",
	} {
		f.Add(s)
	}
	key := make([]byte, 32)
	f.Fuzz(func(t *testing.T, section string) {
		m, err := manifest.Parse("x.yaml", []byte(fuzzHeader+section))
		if err != nil || !m.Sealed {
			return
		}
		e, err := Load(m)
		if err != nil {
			return
		}
		if n := len(e.Recipients()); n == 0 || n > workspace.MaxRecipients {
			t.Fatalf("%d recipients were let through", n)
		}
		if values, _, err := e.Open(key, true); err == nil {
			t.Fatalf("a wrong data key opened %d values", len(values))
		}
	})
}

// treeOf builds a small tree of any shape from bytes: a short program that adds
// maps, lists and scalars.
func treeOf(in []byte) sops.TreeBranch {
	next := func() byte {
		if len(in) == 0 {
			return 0
		}
		b := in[0]
		in = in[1:]
		return b
	}
	text := func() string {
		n := min(int(next())%5, len(in))
		s := string(in[:n])
		in = in[n:]
		return s
	}
	var value func(depth int) any
	branchOf := func(depth int) sops.TreeBranch {
		out := sops.TreeBranch{}
		seen := map[string]bool{}
		for range int(next()) % 4 {
			if key := text(); !seen[key] {
				seen[key] = true
				out = append(out, sops.TreeItem{Key: key, Value: value(depth + 1)})
			}
		}
		return out
	}
	value = func(depth int) any {
		kind := next() % 8
		switch {
		case kind == 0 && depth < 4:
			return branchOf(depth)
		case kind == 1 && depth < 4:
			var out []any
			for range int(next()) % 4 {
				out = append(out, value(depth+1))
			}
			return out
		case kind == 2:
			return int(next()) - 100
		case kind == 3:
			return next()%2 == 0
		case kind == 4:
			return float64(next()) / 4
		case kind == 5:
			return nil
		default:
			return text()
		}
	}
	return branchOf(0)
}

// fieldsOf says what a tree means in another way than appendFields: a map from a
// path, quoted, to a type and a value.
func fieldsOf(out map[string]string, path string, in any) {
	switch in := in.(type) {
	case sops.TreeBranch:
		if path != "" {
			out[path] = "map"
		}
		for _, item := range in {
			if path == "" && (item.Key == "sops" || item.Key == "seal") {
				continue
			}
			fieldsOf(out, path+fmt.Sprintf("/key %q", item.Key), item.Value)
		}
	case []any:
		out[path] = "list"
		for i, item := range in {
			fieldsOf(out, path+fmt.Sprintf("/item %d", i), item)
		}
	default:
		out[path] = fmt.Sprintf("%T %#v", in, in)
	}
}

// FuzzBinding: two manifests have one binding exactly when they say the same.
// The order of fields says nothing; everything else does.
func FuzzBinding(f *testing.F) {
	f.Add([]byte("\x02\x01a\x07\x01x\x01b\x07\x01y"), []byte("\x02\x01b\x07\x01y\x01a\x07\x01x"), false)
	f.Add([]byte("\x01\x01a\x07\x03abc"), []byte("\x02\x01a\x07\x02ab\x01b\x07\x01c"), false)
	f.Add([]byte("\x01\x01a\x00\x01\x01b\x07\x01x"), []byte("\x01\x03a:b\x07\x01x"), false)
	f.Add([]byte("\x01\x01a\x01\x02\x07\x01x\x07\x01y"), []byte("\x01\x01a\x01\x01\x07\x02xy"), false)
	f.Add([]byte("\x01\x01a\x02\x69"), []byte("\x01\x01a\x07\x015"), false)
	f.Add([]byte("\x01\x04seal\x07\x01x"), []byte("\x01\x04sops\x07\x01y"), true)
	base := fuzzHeader + "  {}\n"
	m, err := manifest.Parse("x.yaml", []byte(base))
	if err != nil {
		f.Fatal(err)
	}
	renamed, err := manifest.Parse("x.yaml", []byte(strings.Replace(base, "name: a", "name: b", 1)))
	if err != nil {
		f.Fatal(err)
	}
	key := []byte("0123456789abcdef0123456789abcdef")
	f.Fuzz(func(t *testing.T, a, b []byte, rename bool) {
		ta, tb := treeOf(a), treeOf(b)
		one, err := binding(key, m, ta)
		if err != nil {
			t.Fatal(err)
		}
		of := m
		if rename {
			of = renamed
		}
		two, err := binding(key, of, tb)
		if err != nil {
			t.Fatal(err)
		}
		fa, fb := map[string]string{}, map[string]string{}
		fieldsOf(fa, "", ta)
		fieldsOf(fb, "", tb)
		same := maps.Equal(fa, fb) && !rename
		if (one == two) != same {
			t.Fatalf("bindings equal: %v, meanings equal: %v\n%v\n%v", one == two, same, ta, tb)
		}
		slices.Reverse(ta)
		if again, err := binding(key, m, ta); err != nil || again != one {
			t.Fatalf("the order of fields changes the binding: %v", err)
		}
		if other, err := binding(append([]byte("X"), key[1:]...), m, ta); err != nil || other == one {
			t.Fatalf("another data key has the same binding: %v", err)
		}
	})
}

func BenchmarkBinding(b *testing.B) {
	m, err := manifest.Parse("x.yaml", []byte("name: orders-db-r\nversion: v1\ntype: secret\nworkspace: orders\nowner: iamgroot\ntags: [a]\nsecret:\n  type: key-value\n  acl: r\n  data: {a: aaaaaaaaaaaa, b: bbbbbbbbbbbb, c: cccccccccccc, d: dddddddddddd, e: eeeeeeeeeeee}\n"))
	if err != nil {
		b.Fatal(err)
	}
	root, err := branch(m.Node())
	if err != nil {
		b.Fatal(err)
	}
	key := make([]byte, 32)
	for b.Loop() {
		if _, err := binding(key, m, root); err != nil {
			b.Fatal(err)
		}
	}
}
