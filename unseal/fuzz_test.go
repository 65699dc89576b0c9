package unseal_test

import (
	"strings"
	"testing"

	"github.com/sealward/sealward/unseal"
)

// FuzzOpen changes a sealed file at will: it opens to the values that were
// sealed, or not at all. It never panics and no error holds a value.
func FuzzOpen(f *testing.F) {
	p := newParty(f)
	sealed := mustSeal(f, plain, p.rcpt)
	r := ring(f, "orders", p)
	f.Add([]byte(sealed))
	f.Add([]byte(strings.Replace(sealed, "acl: r", "acl: rw", 1)))
	f.Add([]byte(strings.Replace(sealed, "age:", "kms:", 1)))
	f.Add([]byte(strings.Replace(sealed, "age:", "key_groups:", 1)))
	f.Add([]byte(sealed[:strings.Index(sealed, "sops:")] + "sops: {age: [{recipient: x, enc: y}], lastmodified: z, mac: ''}\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		o, err := open(string(in), r, unseal.Options{})
		if err != nil {
			if strings.Contains(err.Error(), "hunter2") {
				t.Fatalf("the error repeats a value: %v", err)
			}
			return
		}
		got := values(o)
		if got["password"] != "hunter2" || got["pin"] != "0123" || len(got) != 7 {
			t.Fatalf("opened to something else: %v\n%s", got, in)
		}
	})
}
