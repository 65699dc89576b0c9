package unseal_test

import (
	"os"
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

// FuzzDotenv changes a file that sops sealed as dotenv at will. It opens to values
// that were sealed under their own keys, or not at all, and never panics.
func FuzzDotenv(f *testing.F) {
	p := newParty(f)
	sealed := sops(f, "A=hunter2\nB=0123\n", "-e", "--config", os.DevNull, "--age", p.rcpt.String(), "--input-type", "dotenv", "--output-type", "dotenv")
	r := ring(f, "orders", p)
	f.Add(sealed)
	f.Add([]byte("A=\nsops_age__list_0__map_enc=x\nsops_age__list_0__map_recipient=y\nsops_lastmodified=z\nsops_mac=\nsops_version=1\n"))
	f.Add([]byte(strings.ReplaceAll(string(sealed), "sops_age", "sops_key_groups__list_0__map_age")))
	f.Add([]byte(strings.ReplaceAll(string(sealed), "sops_age__list_0", "sops_kms__list_0")))
	f.Fuzz(func(t *testing.T, in []byte) {
		values, err := unseal.OpenDotenv("x.env", in, r)
		if err != nil {
			if strings.Contains(err.Error(), "hunter2") {
				t.Fatalf("the error repeats a value: %v", err)
			}
			return
		}
		for _, v := range values {
			if want := map[string]string{"A": "hunter2", "B": "0123"}[v.Key.String()]; string(v.Data) != want {
				t.Fatalf("%s opened to something else: %q\n%s", v.Key, v.Data, in)
			}
		}
	})
}
