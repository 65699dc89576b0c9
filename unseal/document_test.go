package unseal_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal"
)

// sopsAs runs the real sops on a text in a format, without a configuration.
func sopsAs(t testing.TB, format, in string, args ...string) []byte {
	t.Helper()
	return sops(t, in, append(args, "--config", os.DevNull, "--input-type", format, "--output-type", format)...)
}

var formatOfExt = map[string]string{".yaml": "yaml", ".yml": "yaml", ".json": "json", ".ini": "ini", ".env": "dotenv", ".conf": "binary", "": "binary"}

// What OpenText gives is what the real sops prints, byte for byte.
func TestOpenText(t *testing.T) {
	p := newParty(t)
	r := ring(t, "orders", p)
	t.Setenv("SOPS_AGE_KEY", p.id)
	cases := map[string]struct {
		file, plain string
		args        []string
	}{
		"scalars":            {"a.yaml", "a: hunter2\nn: 1\nf: 1.50\nbig: 1.0e+20\none: 1.0\nb: yes\nt: true\nnil: ~\nd: 2020-01-02\nempty: ''\nlines: |\n  a\n  b\n\nquoted: '0123'\n\"odd key: x\": 'a: b'\n", nil},
		"nested":             {"a.yml", "a:\n  - b: 1\n    c: [x, [y, {z: 1}], []]\n  - {}\n  - ''\n", nil},
		"comments":           {"a.yaml", "# top\n\n# above a\na: 1 # behind a\n# above b\nb:\n  # above c\n  c: x # behind c\n  # below c\n# above l\nl:\n  # above x\n  - x # behind x\n  - # above k\n    k: v\n  # below\n# end\n", nil},
		"only a comment":     {"a.yaml", "a:\n  # nothing yet\n  {}\n", nil},
		"documents":          {"a.yaml", "a: 1\n---\n# second\nb: hunter2\n---\na: 3\n", nil},
		"some in the clear":  {"a.yaml", "# c\nkind: Secret\nx: 0x1F\nd: 2020-01-02T03:04:05Z\nbig: 12345678901\nf: 1e3\ndata:\n  # c\n  a: hunter2\n  n: 1\n", []string{"--encrypted-regex", "^data$"}},
		"by suffix":          {"a.yaml", "a_unencrypted: [1, true, ~, 2.5]\nb: hunter2\n", []string{"--unencrypted-suffix", "_unencrypted"}},
		"by comment":         {"a.yaml", "# seal: yes\na: hunter2\nb: open\n", []string{"--encrypted-comment-regex", "seal: yes"}},
		"MAC of sealed only": {"a.yaml", "a: hunter2\nb: open\n", []string{"--encrypted-regex", "^a$", "--mac-only-encrypted"}},
		"key groups":         {"a.yaml", "a: hunter2\n", []string{"--shamir-secret-sharing-threshold", "1"}},
		"JSON":               {"a.json", `{"a": "hunter2 <&> é\t\u2028", "n": 1, "big": 12345678901234567890, "f": 1e3, "e": 1e-7, "l": [1, [], {}, null, "x"], "o": {"b": true}, "": ""}`, nil},
		"JSON in the clear":  {"a.json", `{"n": 1.0, "big": 12345678901234567890, "max": 9223372036854775807, "f": 1e21, "d": {"a": "x"}}`, []string{"--encrypted-regex", "^d$"}},
		"INI":                {"a.ini", "; top\n[one]\n; about a\na = hunter2\nb = \"x # y\"\nc = `back`\n[two]\nempty =\nlong = a b  c\n[one.sub]\na = é\n", nil},
		"INI without head":   {"a.ini", "a = hunter2\n[s]\nb = 1\n", nil},
		"dotenv":             {"a.env", "# c\nA=hunter2\n\nB=a\\nb\nC= x # y\nD=\"q\"\nE=\nF=a=b\n", nil},
		"dotenv in clear":    {"a.env", "A=hunter2\nB_open=x\\ny\n", []string{"--unencrypted-suffix", "_open"}},
		"bytes":              {"a.conf", "hunter2\x00\xff\n", nil},
		"no extension":       {"a", "user = hunter2\n", nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			format := formatOfExt[filepath.Ext(c.file)]
			sealed := sopsAs(t, format, c.plain, append([]string{"-e", "--age", p.rcpt.String()}, c.args...)...)
			want := sopsAs(t, format, string(sealed), "-d")
			got, err := unseal.OpenText(c.file, sealed, r)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%v\n%s\nsops prints\n%s", err, got, want)
			}
			// Cut anywhere before what nothing proves (SOPS's version), it is refused.
			mac := bytes.Index(sealed, []byte("mac"))
			for _, part := range []int{0, 1, mac / 3, mac - 1, mac + 40} {
				if got, err := unseal.OpenText(c.file, sealed[:part], r); err == nil || got != nil {
					t.Errorf("the first %d bytes open", part)
				}
			}
			if _, err := unseal.OpenText(c.file, sealed, ring(t, "orders", newParty(t))); !errors.Is(err, unseal.ErrNotRecipient) {
				t.Errorf("another ring: %v", err)
			}
		})
	}
}

// refuses checks that a file does not open, for the reason given, and that no error
// holds a value.
func refuses(t *testing.T, what, file, sealed, why string, open func() error) {
	t.Helper()
	err := open()
	if err == nil {
		t.Errorf("%s opens:\n%s", what, sealed)
		return
	}
	if !strings.Contains(err.Error(), why) || !strings.Contains(err.Error(), file) {
		t.Errorf("%s: %v, want %q", what, err, why)
	}
	for _, value := range []string{"hunter2", "open text", "pa55"} {
		if strings.Contains(err.Error(), value) {
			t.Errorf("%s: the error shows a value: %v", what, err)
		}
	}
}

// sealedIn finds the sealed value of a field in a YAML file.
func sealedIn(t *testing.T, sealed, field string) string {
	t.Helper()
	_, rest, ok := strings.Cut(sealed, field+": ")
	value, _, ok2 := strings.Cut(rest, "\n")
	if !ok || !ok2 || !strings.HasPrefix(value, "ENC[") {
		t.Fatalf("%s is not sealed in\n%s", field, sealed)
	}
	return value
}

func TestOpenTextRefuses(t *testing.T) {
	p := newParty(t)
	r := ring(t, "orders", p)
	seal1 := func(format, plain string, args ...string) string {
		return string(sopsAs(t, format, plain, append([]string{"-e", "--age", p.rcpt.String()}, args...)...))
	}
	good := seal1("yaml", "user: pa55\npw: hunter2\nlist:\n  - one\n  - two\nnote: open text\n", "--encrypted-regex", "^(user|pw|list)$")
	loose := seal1("yaml", "pw: hunter2\nnote: open text\n", "--encrypted-regex", "^pw$", "--mac-only-encrypted")
	other := seal1("yaml", "user: pa55\npw: hunter2\n", "--encrypted-regex", "^(user|pw|list)$")
	user, pw := sealedIn(t, good, "user"), sealedIn(t, good, "pw")
	section := func(s string) string { return s[strings.Index(s, "sops:"):] }
	replace := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("no %q", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	cases := map[string]struct{ sealed, why string }{
		"not sealed":                            {"user: pa55\npw: hunter2\n", "has no section of sops"},
		"empty":                                 {"", "is empty"},
		"a list":                                {"- hunter2\n", "no mapping"},
		"not UTF-8":                             {"a: \xff\n", "not UTF-8"},
		"not YAML":                              {"a: 'hunter2\n", "not valid YAML"},
		"values swapped":                        {strings.Replace(strings.Replace(strings.Replace(good, user, "@", 1), pw, user, 1), "@", pw, 1), "user: the value was changed"},
		"a value in the clear":                  {replace(pw, "hunter2"), "pw: is not sealed"},
		"a number in the clear":                 {replace(pw, "12"), "was changed"},
		"junk after a value":                    {replace(pw, pw+"hunter2"), "pw: is not sealed"},
		"another file's value":                  {replace(pw, sealedIn(t, other, "pw")), "pw: the value was changed"},
		"another's section":                     {strings.Replace(good, section(good), section(other), 1), "user: the value was changed"},
		"a sealed copy in what is in the clear": {strings.Replace(loose, "note: open text", "note: "+sealedIn(t, loose, "pw"), 1), "note: is outside the fields"},
		"text in the clear changed":             {replace("open text", "open text2"), "sops.mac"},
		"a value dropped":                       {replace("pw: "+pw+"\n", ""), "sops.mac"},
		"a field added":                         {"more: hunter2\n" + good, "sops.mac"},
		"no MAC":                                {good[:strings.Index(good, "    mac:")] + "    version: 3.13.3\n", "sops.mac"},
		"another rule":                          {replace("encrypted_regex: ^(user|pw|list)$", "encrypted_regex: ^(user|list)$"), "sops.mac"},
		"an alias":                              {replace("note: open text", "note: &a open text\nb: *a"), "alias"},
		"a tag":                                 {replace("note: open text", "note: !!binary aHVudGVyMg=="), "tag"},
		"a field twice":                         {replace("note: open text", "note: open text\nnote: open text"), "stands twice"},
		"a field twice in a second document":    {good + "---\na: open text\na: open text\n", "stands twice"},
		"a document added":                      {good + "---\nmore: open text\n", "sops.mac"},
		"a value as a comment":                  {replace(pw, strings.Replace(pw, "type:str", "type:comment", 1)), "sops.mac"},
		"a section that is no mapping":          {"a: 1\nsops: [hunter2]\n", "sops"},
		"no recipients":                         {"a: 1\nsops: {mac: x, lastmodified: '2026-01-02T03:04:05Z'}\n", "sops: the section"},
		"nested deep":                           {strings.Repeat("{a: ", 200) + "1" + strings.Repeat("}", 200), "too deep"},
		"many documents":                        {strings.Repeat("a: 1\n---\n", 2000), "more than 1000 documents"},
		"too large":                             {"a: " + strings.Repeat("x", manifest.MaxSize) + "\n", "at most"},
	}
	for name, c := range cases {
		refuses(t, name, "x.yaml", c.sealed, c.why, func() error { _, err := unseal.OpenText("x.yaml", []byte(c.sealed), r); return err })
		refuses(t, name, "x.yaml", c.sealed, c.why, func() error { _, err := unseal.OpenObjects("x.yaml", []byte(c.sealed), r); return err })
	}

	js := seal1("json", `{"a": "hunter2", "b": "pa55"}`)
	ini := seal1("ini", "[s]\na = hunter2\nb = 1\n")
	env := seal1("dotenv", "A=hunter2\nB=1\n")
	others := map[string]struct{ file, sealed, why string }{
		"JSON and more":          {"x.json", js + "{}", "not valid JSON"},
		"JSON cut":               {"x.json", js[:len(js)-3], "not valid JSON"},
		"JSON twice":             {"x.json", strings.Replace(js, `"b"`, `"a"`, 1), "stands twice"},
		"a JSON list":            {"x.json", `["hunter2"]`, "x.json"},
		"INI retyped":            {"x.ini", strings.Replace(ini, "type:str", "type:int", 2), "x.ini"},
		"INI: another section":   {"x.ini", strings.Replace(ini, "[s]", "[t]", 1), "t.a: the value was changed"},
		"INI: no section":        {"x.ini", "[s]\na = hunter2\n", "has no section of sops"},
		"INI: nonsense":          {"x.ini", "hunter2", "is not an INI file"},
		"INI: a quote left open": {"x.ini", "[s]\na = \"\"\"hunter2\n", "x.ini"},
		"dotenv retyped":         {"x.env", strings.Replace(env, "=ENC", "=ENC", 1)[:strings.LastIndex(env, "B=ENC")] + strings.Replace(env[strings.LastIndex(env, "B=ENC"):], "type:str", "type:int", 1), "another type"},
		"dotenv twice":           {"x.env", "A=hunter2\nA=hunter2\n" + env, "stands twice"},
		"dotenv: no pair":        {"x.env", "hunter2\n" + env, "is no KEY=VALUE"},
		"dotenv not sealed":      {"x.env", "A=hunter2\n", "has no section of sops"},
	}
	for name, c := range others {
		refuses(t, name, c.file, c.sealed, c.why, func() error { _, err := unseal.OpenText(c.file, []byte(c.sealed), r); return err })
	}

	// A comment in a list is no part of SOPS's MAC: it cannot become a value.
	list := seal1("yaml", "l:\n  # pa55\n  - ''\n")
	from, to := strings.Index(list, "ENC["), strings.Index(list, "sops:")
	comment := list[from : from+strings.Index(list[from:], "]")+1]
	if !strings.HasSuffix(comment, "type:comment]") {
		t.Fatalf("no sealed comment in\n%s", list)
	}
	moved := "l: " + comment + "\n" + list[to:]
	refuses(t, "a comment as a value", "x.yaml", moved, "l: was sealed as a comment", func() error { _, err := unseal.OpenText("x.yaml", []byte(moved), r); return err })

	// Open checks the binding; this does not.
	bound := mustSeal(t, plain, p.rcpt)
	boundSecret := sealIn(t, "orders", kubernetes, p.rcpt)
	for _, sealed := range []string{bound, boundSecret} {
		refuses(t, "bound", "x.yaml", sealed, "binding", func() error { _, err := unseal.OpenText("x.yaml", []byte(sealed), r); return err })
		refuses(t, "bound", "x.yaml", sealed, "binding", func() error { _, err := unseal.OpenObjects("x.yaml", []byte(sealed), r); return err })
	}
}

// Texts that sops -d does not print as they were are refused as a text; as objects,
// which are not printed, they stay what they are.
func TestOpenTextThatIsLost(t *testing.T) {
	p := newParty(t)
	r := ring(t, "orders", p)
	t.Setenv("SOPS_AGE_KEY", p.id)
	sealed := sopsAs(t, "yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nstringData:\n  pw: \"\\thunter2\\n\"\n", "-e", "--age", p.rcpt.String(), "--encrypted-regex", "^stringData$")
	if out := sopsAs(t, "yaml", string(sealed), "-d"); !strings.Contains(string(out), "null") && strings.Contains(string(out), "hunter2") {
		t.Skip("this sops prints the text")
	}
	refuses(t, "a leading tab", "x.yaml", string(sealed), "cannot print", func() error { _, err := unseal.OpenText("x.yaml", sealed, r); return err })
	objects, err := unseal.OpenObjects("x.yaml", sealed, r)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		StringData map[string]string `yaml:"stringData"`
	}
	if err := objects[0].Decode(&got); err != nil || got.StringData["pw"] != "\thunter2\n" {
		t.Errorf("%v, %q", err, got)
	}
}

func TestOpenObjects(t *testing.T) {
	p := newParty(t)
	r := ring(t, "orders", p)
	const config = "# c\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: Odd_Name\ndata:\n  # c\n  a: hunter2\n  flag: 'yes'\n"
	cases := map[string]struct {
		plain string
		args  []string
		want  []string // kind and data.a of each
	}{
		"one":         {config, []string{"--encrypted-regex", "^data$"}, []string{"ConfigMap hunter2"}},
		"all sealed":  {config, nil, []string{"ConfigMap hunter2"}},
		"several":     {config + "---\napiVersion: v1\nkind: Secret\nmetadata: {name: b}\ndata: {a: aHVudGVyMg==}\n", nil, []string{"ConfigMap hunter2", "Secret aHVudGVyMg=="}},
		"other kinds": {"apiVersion: example.com/v1\nkind: Thing\nmetadata: {name: c}\ndata: {a: [1, 2]}\n", nil, []string{"Thing "}},
	}
	for name, c := range cases {
		sealed := sopsAs(t, "yaml", c.plain, append([]string{"-e", "--age", p.rcpt.String()}, c.args...)...)
		objects, err := unseal.OpenObjects("x.yaml", sealed, r)
		if err != nil || len(objects) != len(c.want) {
			t.Errorf("%s: %v, %d objects", name, err, len(objects))
			continue
		}
		for i, n := range objects {
			var o struct {
				Kind string
				Data map[string]any
			}
			if err := n.Decode(&o); err != nil {
				t.Error(err)
			}
			a, _ := o.Data["a"].(string)
			if got := o.Kind + " " + a; got != c.want[i] {
				t.Errorf("%s: %q, want %q", name, got, c.want[i])
			}
			if flag, ok := o.Data["flag"]; ok && flag != "yes" { // it reads as text, not as a boolean
				t.Errorf("%s: flag is %v", name, flag)
			}
		}
	}
	js := sopsAs(t, "json", `{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}, "data": {"a": "aHVudGVyMg=="}}`, "-e", "--age", p.rcpt.String())
	if objects, err := unseal.OpenObjects("x.json", js, r); err != nil || len(objects) != 1 {
		t.Errorf("JSON: %v", err)
	}
	values := sopsAs(t, "yaml", "kind: hunter2\n", "-e", "--age", p.rcpt.String())
	refuses(t, "no object", "x.yaml", "", "apiVersion", func() error { _, err := unseal.OpenObjects("x.yaml", values, r); return err })
	env := sopsAs(t, "dotenv", "A=hunter2\n", "-e", "--age", p.rcpt.String())
	refuses(t, "dotenv", "x.env", "", "no YAML or JSON", func() error { _, err := unseal.OpenObjects("x.env", env, r); return err })
	var tamper *seal.TamperError
	if _, err := unseal.OpenObjects("x.yaml", bytes.Replace(values, []byte("data:"), []byte("data:A"), 1), r); err == nil || errors.As(err, &tamper) && tamper.Field == "" {
		t.Errorf("a changed value: %v", err)
	}
}

// FuzzOpenText changes sealed files of every format at will: they open to texts
// that were sealed, or not at all, and never panic.
func FuzzOpenText(f *testing.F) {
	p := newParty(f)
	r := ring(f, "orders", p)
	for ext, plain := range map[string]string{
		".yaml": "# c\nkey: hunter2\nlist:\n  # c\n  - 1\n", ".json": `{"key": "hunter2", "list": [1, 2.5]}`,
		".ini": "; c\n[s]\n; c\nkey = hunter2\n", ".env": "# c\nkey=hunter2\n",
	} {
		sealed := sopsAs(f, formatOfExt[ext], plain, "-e", "--age", p.rcpt.String())
		f.Add(ext, sealed)
		f.Add(ext, sealed[:len(sealed)/2])
		f.Add(ext, bytes.Replace(sealed, []byte("age"), []byte("kms"), 1))
		f.Add(ext, bytes.Replace(sealed, []byte("age"), []byte("key_groups"), 1))
		f.Add(ext, bytes.Replace(sealed, []byte("type:str"), []byte("type:comment"), 1))
		f.Add(ext, append(bytes.Clone(sealed), sealed...))
	}
	for _, s := range []string{"a: &a [x]\nb: [*a, *a]\nsops: {}\n", "sops: null\n", "? {a: b}\n: c\n", "--- |\n a\n", "a: !!binary =\nsops: {age: []}\n", "\x00", "a: 1\r\nsops:\r\n  mac: ''\r\n"} {
		f.Add(".yaml", []byte(s))
	}
	f.Add(".ini", []byte("[sops]\nage__list_0__map_enc = x\nmac =\n"))
	f.Add(".ini", []byte("a = `\n[s]\n\\\n"))
	f.Add(".env", []byte("sops_age__list_9999999999__map_enc=x\nsops_mac=\n"))
	f.Fuzz(func(t *testing.T, ext string, in []byte) {
		if formatOfExt[ext] == "" {
			return
		}
		text, err := unseal.OpenText("x"+ext, in, r)
		if err != nil {
			if strings.Contains(err.Error(), "hunter2") {
				t.Fatalf("the error repeats a value: %v", err)
			}
			return
		}
		if !bytes.Contains(text, []byte("hunter2")) {
			t.Fatalf("opened without the value that was sealed: %s\n%s", text, in)
		}
	})
}
