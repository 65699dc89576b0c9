package serve

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal"
)

// An answer is spelled as encoding/json spells it, whatever people wrote.
func TestAnswerAsEncodingJSON(t *testing.T) {
	at := time.Date(2026, 11, 1, 10, 0, 0, 120_000_000, time.FixedZone("", 3600))
	odd := "<&> \"\\ \u2028 \x00 \xff é"
	part := func(path string, stale bool, values ...unseal.Value) *unseal.Record {
		r := &unseal.Record{Path: path, Good: &unseal.Content{
			Kind: "secret", Version: "v1", Type: manifest.KeyValue, ACL: "r", Layer: "user", Tags: []string{"a", odd}, Desc: odd, Owner: odd, Values: values,
			Provenance: unseal.Provenance{Path: path, Blob: "b1", Commit: "c1", Author: "Dana <dana@example.com>", Time: at, Signer: odd},
		}}
		if stale {
			r.Failure = &unseal.Failure{Since: at}
		}
		return r
	}
	text, binary := unseal.Value{Key: "z", Data: []byte(odd)}, unseal.Value{Key: "a", Binary: true, Data: []byte{0, 255}}
	bare := &unseal.Record{Path: "p", Good: &unseal.Content{Values: []unseal.Value{{Key: "k"}}}}
	orders, err := manifest.ParseWorkspace("orders")
	if err != nil {
		t.Fatal(err)
	}
	for what, parts := range map[string][]*unseal.Record{
		"text": {part("p", false, text)}, "binary": {part("p", false, binary)}, "both, stale": {part("p", true, text, binary)},
		"parts": {part("p/a", false, text), part("p/b", true, binary, unseal.Value{Key: "b"})}, "bare": {bare},
	} {
		for _, ws := range []manifest.Workspace{orders, manifest.Instance()} {
			sel := selection{ws: ws, snapshot: &unseal.Snapshot{Commit: "c0"}, secret: &unseal.Secret{Scope: ws, Parts: parts}}
			for _, p := range parts {
				sel.taken = append(sel.taken, taken{p, p.Good.Values})
			}
			var want bytes.Buffer
			enc := json.NewEncoder(&want)
			enc.SetEscapeHTML(false)
			if err := enc.Encode(sel.json()); err != nil {
				t.Fatal(err)
			}
			if got := sel.appendJSON(nil); string(got)+"\n" != want.String() {
				t.Errorf("%s:\n%s\nis not\n%s", what, got, want.Bytes())
			}
		}
	}
}
