package jsontext_test

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/sealward/sealward/unseal/jsontext"
)

func TestString(t *testing.T) {
	for _, s := range []string{"", "a", "with space", `"`, `\`, "\n", "\x00", "\x7f", "é", "\u2028", "\xff", "<&>", "~", " ", "{", "[", "a\tb", "\U0001f512"} {
		checkString(t, s)
	}
}

func FuzzString(f *testing.F) {
	f.Add(`"\<` + "\u2029\xfe")
	f.Fuzz(checkString)
}

// checkString holds the spelling to that of encoding/json.
func checkString(t *testing.T, s string) {
	var want bytes.Buffer
	enc := json.NewEncoder(&want)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		t.Fatal(err)
	}
	if got := jsontext.String([]byte("x"), s); string(got) != "x"+string(bytes.TrimSpace(want.Bytes())) {
		t.Errorf("%q: %s, want %s", s, got, want.Bytes())
	}
}

func TestObject(t *testing.T) {
	at := time.Date(2026, 11, 1, 10, 0, 0, 120_000_000, time.FixedZone("", 3600))
	buf := jsontext.Field([]byte("{"), "none", "")
	buf = jsontext.Field(buf, "a", "1")
	buf = jsontext.Strings(jsontext.Name(buf, "list"), []string{"x", "y"})
	buf = jsontext.Strings(jsontext.Name(buf, "empty"), nil)
	buf = jsontext.Bytes(jsontext.Name(buf, "b"), []byte{0, 255, 1})
	buf = append(jsontext.Time(jsontext.Name(buf, "t"), at), '}')
	const want = `{"a":"1","list":["x","y"],"empty":[],"b":"AP8B","t":"2026-11-01T10:00:00.12+01:00"}`
	if string(buf) != want || !json.Valid(buf) {
		t.Errorf("%s", buf)
	}
}
