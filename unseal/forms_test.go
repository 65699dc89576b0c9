package unseal_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/keyring"
)

const kubernetes = `# who to ask: the orders team
apiVersion: v1
kind: Secret
metadata:
  name: orders-db
  labels: {app: orders}
immutable: true
data:
  password: aHVudGVyMg==
  bin: /wA=
stringData:
  pin: 0123
  none: ""
`

// openIn opens a manifest that leaves its workspace to its place.
func openIn(ws, sealed string, r *keyring.Ring, opts unseal.Options) (*unseal.Opened, error) {
	m, err := manifest.Parse("x.yaml", []byte(sealed))
	if err != nil {
		return nil, err
	}
	scope, err := manifest.ParseWorkspace(ws)
	if err != nil {
		return nil, err
	}
	if err := m.SettleIn(scope); err != nil {
		return nil, err
	}
	return unseal.Open(m, r, opts)
}

func sealIn(t testing.TB, ws, text string, to workspace.Recipient) string {
	t.Helper()
	m, err := manifest.Parse("x.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	scope, err := manifest.ParseWorkspace(ws)
	if err != nil {
		t.Fatal(err)
	}
	if err := seal.PlaceIn(m, scope); err != nil {
		t.Fatal(err)
	}
	out, err := seal.Seal(m, workspace.For(to), seal.Options{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestKubernetesSecret(t *testing.T) {
	p := newParty(t)
	r := ring(t, "orders", p)
	sealed := sealIn(t, "orders", kubernetes, p.rcpt)
	for _, secret := range []string{"hunter2", "aHVudGVyMg", "0123", "namespace"} {
		if strings.Contains(sealed, secret) {
			t.Errorf("the sealed file shows %q:\n%s", secret, sealed)
		}
	}
	o, err := openIn("orders", sealed, r, unseal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"password": "hunter2", "bin": "\xff\x00", "pin": "0123", "none": ""}
	if got := values(o); fmt.Sprint(got) != fmt.Sprint(want) || !o.Bound {
		t.Errorf("values = %q, bound %v", got, o.Bound)
	}
	for _, v := range o.Values {
		if v.Binary != (v.Key.String() == "bin") {
			t.Errorf("%s: Binary = %v", v.Key, v.Binary)
		}
	}
	// A key stays where it stands, as long as it can.
	for key, value := range map[string]string{"password": "correct horse", "pin": "\t\n", "none": "some", "new": "text"} {
		k, _ := manifest.ParseKey(key)
		if changed, err := o.Envelope.Set(k, []byte(value)); !changed || err != nil {
			t.Fatalf("%s: %v, %v", key, changed, err)
		}
		if changed, err := o.Envelope.Set(k, []byte(value)); changed || err != nil {
			t.Errorf("%s again: %v, %v", key, changed, err)
		}
	}
	out, err := o.Envelope.Reseal(now)
	if err != nil {
		t.Fatal(err)
	}
	if o, err = openIn("orders", string(out), r, unseal.Options{}); err != nil {
		t.Fatal(err)
	}
	text, err := o.Envelope.Plaintext(o.Values)
	if err != nil {
		t.Fatal(err)
	}
	m, err := manifest.Parse("x.yaml", text)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range m.Secret.Entries {
		if e.Binary != (e.Key.String() != "none") {
			t.Errorf("%s stands in base64: %v\n%s", e.Key, e.Binary, text)
		}
	}
	if strings.Contains(string(text), "annotations") {
		t.Errorf("what only held the binding is left:\n%s", text)
	}
}

// A contributor without keys changes a Kubernetes Secret. Each case is refused.
func TestTamperingKubernetes(t *testing.T) {
	p := newParty(t)
	r := ring(t, "orders", p)
	sealed := sealIn(t, "orders", strings.Replace(kubernetes, "  labels:", "  annotations:\n    a: b\n    c: d\n  labels:", 1), p.rcpt)
	other := sealIn(t, "orders", strings.Replace(kubernetes, "aHVudGVyMg", "aHVudGVyMw", 1), p.rcpt)
	line := func(file, key string) string {
		for l := range strings.SplitSeq(file, "\n") {
			if strings.HasPrefix(strings.TrimSpace(l), key+":") {
				return l
			}
		}
		t.Fatalf("no line %s in\n%s", key, file)
		return ""
	}
	value := func(file, key string) string { return strings.TrimSpace(strings.SplitN(line(file, key), ":", 2)[1]) }
	binding := func(file string) string { return value(file, "sealward.dev/binding") }
	cases := []struct{ name, in, want string }{
		{"change the name", strings.Replace(sealed, "orders-db", "orders-dc", 1), "mac"},
		{"state a namespace", strings.Replace(sealed, "name: orders-db\n", "name: orders-db\n    namespace: orders\n", 1), "mac"},
		{"state another namespace", strings.Replace(sealed, "name: orders-db\n", "name: orders-db\n    namespace: payments\n", 1), "states workspace payments"},
		{"change immutable", strings.Replace(sealed, "immutable: true", "immutable: false", 1), "mac"},
		{"add an empty label", strings.Replace(sealed, "{app: orders}", "{app: orders, x: ''}", 1), "binding"},
		{"rename a label", strings.Replace(sealed, "{app: orders}", "{apq: orders}", 1), "binding"},
		{"move text between annotations", strings.NewReplacer("a: b\n", "a: bd\n", "c: d\n", "c: ''\n").Replace(sealed), "binding"},
		{"rename an annotation to mean something", strings.Replace(sealed, "a: b\n", "sealward.dev/owner: b\n", 1), "binding"},
		{"change an annotation", strings.Replace(sealed, "a: b\n", "sealward.dev/acl: r\n", 1), "mac"},
		{"add an empty value", strings.Replace(sealed, line(sealed, "none"), line(sealed, "none")+"\n    more: \"\"", 1), "binding"},
		{"rename an empty value", strings.Replace(sealed, "none: ", "nine: ", 1), "binding"},
		{"move a value to the other section", strings.Replace(strings.Replace(sealed, line(sealed, "password")+"\n", "", 1), "stringData:\n", "stringData:\n"+line(sealed, "password")+"\n", 1), "value"},
		{"swap two values", strings.NewReplacer(value(sealed, "password"), value(sealed, "bin"), value(sealed, "bin"), value(sealed, "password")).Replace(sealed), "value"},
		{"strip the binding", strings.Replace(sealed, line(sealed, "sealward.dev/binding")+"\n", "", 1), "has no binding"},
		{"binding of another file", strings.Replace(sealed, binding(sealed), binding(other), 1), "value"},
		{"a value as binding", strings.Replace(sealed, binding(sealed), value(sealed, "pin"), 1), "value"},
		{"Flux's pattern", strings.Replace(sealed, value(sealed, "encrypted_regex"), "^(data|stringData)$", 1), "pattern"},
		{"a root binding too", strings.Replace(sealed, "sops:\n", "seal:\n    binding: "+binding(sealed)+"\nsops:\n", 1), "is not a field here"},
		{"comment among annotations", strings.Replace(sealed, "a: b\n", "a: b # hello\n", 1), "a comment stands among the values"},
		{"another type", strings.Replace(sealed, "immutable: true", "immutable: true\ntype: ''", 1), "is no type of a Kubernetes Secret"},
		{"a comment elsewhere, which is not bound", strings.Replace(sealed, "immutable: true", "immutable: true # fine", 1), ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if c.in == sealed {
				t.Fatalf("the case changes nothing:\n%s", sealed)
			}
			o, err := openIn("orders", c.in, r, unseal.Options{})
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil {
				t.Fatalf("was accepted: %v\n%s", values(o), c.in)
			}
			var tamper *seal.TamperError
			if errors.As(err, &tamper) && string(tamper.Reason) != c.want || tamper == nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %s", err, c.want)
			}
			for _, v := range []string{"hunter2", "aHVudGVyMg", "0123"} {
				if strings.Contains(err.Error(), v) {
					t.Errorf("the error repeats a value: %v", err)
				}
			}
		})
	}
	if _, err := openIn("payments", sealed, ring(t, "payments", p), unseal.Options{}); !errors.As(err, new(*seal.TamperError)) {
		t.Errorf("in another workspace with the same key: %v", err)
	}
	if _, err := open(sealed, r, unseal.Options{}); err == nil || !strings.Contains(err.Error(), "states no namespace") {
		t.Errorf("without a workspace: %v", err)
	}
}

// sops runs the real program.
func sops(t testing.TB, in string, args ...string) []byte {
	t.Helper()
	tool, err := filepath.Abs("../bin/tools/sops")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "in")
	if err := os.WriteFile(file, []byte(in), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(tool, append(args, file)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("sops %v: %v (make tools builds it)", args, err)
	}
	return out
}

func TestSealedDotenv(t *testing.T) {
	p := newParty(t)
	r := ring(t, "orders", p)
	plain := "# hunter2\nPASSWORD=hunter2\nPIN=0123\nLINES=a\\nb\nQUOTED=\"x\"\nNONE=\nFLAG=True\n"
	sealed := string(sops(t, plain, "-e", "--config", os.DevNull, "--age", p.rcpt.String(), "--input-type", "dotenv", "--output-type", "dotenv"))
	got, err := unseal.OpenDotenv("x.env", []byte(sealed), r)
	if err != nil {
		t.Fatal(err)
	}
	var shown []string
	for _, v := range got {
		shown = append(shown, v.Key.String()+"="+string(v.Data))
	}
	if want := "PASSWORD=hunter2|PIN=0123|LINES=a\nb|QUOTED=\"x\"|NONE=|FLAG=True"; strings.Join(shown, "|") != want {
		t.Errorf("got %q", shown)
	}
	line := func(key string) string {
		for l := range strings.SplitSeq(sealed, "\n") {
			if strings.HasPrefix(l, key+"=") {
				return l
			}
		}
		t.Fatalf("no line %s", key)
		return ""
	}
	value := func(key string) string { _, v, _ := strings.Cut(line(key), "="); return v }
	stranger := newParty(t)
	cases := []struct{ name, in, want string }{
		{"rename a key", strings.Replace(sealed, "PIN=", "PAN=", 1), "PAN: "},
		{"swap values", strings.NewReplacer(value("PIN"), value("QUOTED"), value("QUOTED"), value("PIN")).Replace(sealed), "(value)"},
		{"retype a value", strings.Replace(sealed, value("FLAG"), strings.Replace(value("FLAG"), "type:str", "type:bool", 1), 1), "FLAG: has another type"},
		{"drop a value", strings.Replace(sealed, line("PIN")+"\n", "", 1), "(mac)"},
		{"exchange lines", strings.Replace(strings.Replace(sealed, line("PIN")+"\n", "", 1), line("PASSWORD"), line("PIN")+"\n"+line("PASSWORD"), 1), "(mac)"},
		{"a value in the clear", strings.Replace(sealed, value("PIN"), "hunter2", 1), "x.env: PIN: is not sealed"},
		{"junk after a value", strings.Replace(sealed, value("PIN"), value("PIN")+"hunter2", 1), "x.env: PIN: is not sealed"},
		{"a key twice", sealed + line("PIN") + "\n", "PIN stands twice"},
		{"no KEY=VALUE", sealed + "hunter2\n", "is no KEY=VALUE"},
		{"an odd key", sealed + "hunter2 x=1\n", "a key breaks the rule"},
		{"not sealed", plain, "is not sealed"},
		{"no sops lines", "A=\n", "has no sops_ lines"},
		{"strip the MAC", strings.Replace(sealed, line("sops_mac")+"\n", "", 1), "(mac)"},
		{"another time", strings.Replace(sealed, line("sops_lastmodified"), "sops_lastmodified=2020-01-01T00:00:00Z", 1), "(mac)"},
		{"a pattern that leaves a value out", strings.Replace(sealed, line("sops_unencrypted_suffix"), "sops_encrypted_regex=^P", 1), "(mac)"},
		{"a pattern that leaves all out", strings.Replace(sealed, line("sops_unencrypted_suffix"), "sops_encrypted_regex=^x\nsops_mac_only_encrypted=true", 1), "(mac)"},
		{"no recipients", strings.ReplaceAll(sealed, "sops_age", "sops_agf"), "(form)"},
		{"a huge list", sealed + "sops_pgp__list_999999999__map_fp=x\n", "(form)"},
		{"a deep section", sealed + "sops" + strings.Repeat("__map_a", 30) + "=x\n", ""},
		{"a deeper section", sealed + "sops_" + strings.Repeat("__map_a", 100_000) + "=x\n", "a key breaks the rule"},
		{"many lines", sealed + strings.Repeat("\n", 17<<10), "is larger than"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if c.in == sealed {
				t.Fatal("the case changes nothing")
			}
			got, err := unseal.OpenDotenv("x.env", []byte(c.in), r)
			if c.want == "" {
				return // opening must only not panic
			}
			if err == nil || got != nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error repeats a value: %v", err)
			}
		})
	}
	if _, err := unseal.OpenDotenv("x.env", []byte(sealed), ring(t, "orders", stranger)); !errors.Is(err, unseal.ErrNotRecipient) {
		t.Errorf("a stranger: %v", err)
	}
}

func TestSealedBinary(t *testing.T) {
	p := newParty(t)
	r := ring(t, "orders", p)
	for _, plain := range []string{"\xff\x00bin", "", "text\n", "ENC[x]", "{}", "True", "1.5"} {
		sealed := string(sops(t, plain, "-e", "--config", os.DevNull, "--age", p.rcpt.String(), "--input-type", "binary", "--output-type", "binary"))
		got, err := unseal.OpenBinary("x.sealed", []byte(sealed), r)
		if err != nil || string(got) != plain {
			t.Errorf("%q: %q, %v", plain, got, err)
		}
		if _, err := unseal.OpenBinary("x.sealed", []byte(strings.Replace(sealed, `"sops"`, `"more": "hunter2", "sops"`, 1)), r); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("another field: %v", err)
		}
		if plain == "" {
			continue // SOPS seals an empty text as itself
		}
		var file map[string]any
		if err := json.Unmarshal([]byte(sealed), &file); err != nil {
			t.Fatal(err)
		}
		for _, tampered := range []string{
			strings.Replace(sealed, file["data"].(string), "", 1),
			strings.Replace(sealed, file["data"].(string), "hunter2", 1),
			strings.Replace(sealed, `"mac"`, `"mack"`, 1),
			strings.Replace(sealed, `"sops"`, `"sop"`, 1),
			strings.Replace(sealed, "type:str", "type:int", 1),
			strings.Replace(sealed, "type:str", "type:bool", 1),
			strings.Replace(sealed, "type:str", "type:float", 1),
			sealed + "{}", "hunter2",
		} {
			if got, err := unseal.OpenBinary("x.sealed", []byte(tampered), r); err == nil || got != nil || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%q, %v:\n%s", got, err, tampered)
			}
		}
	}
}

// JSON that is sealed opens to what it was, also for sops.
func TestJSONManifest(t *testing.T) {
	p := newParty(t)
	r := ring(t, "orders", p)
	awkward := []string{"\t\n", "\tx\ny", "a\r\nb", "null", "🙂", "\u2028", "\x00", "</script>", `\ud83d`, " lead", "trail ", "1e3"}
	data := map[string]string{}
	for i, v := range awkward {
		data[fmt.Sprint("k", i)] = v
	}
	text, err := json.Marshal(map[string]any{"name": "a", "version": "v1", "type": "secret", "workspace": "orders",
		"description": "\tx\ny", "secret": map[string]any{"type": "key-value", "acl": "r", "data": data}})
	if err != nil {
		t.Fatal(err)
	}
	sealed := mustSeal(t, string(text), p.rcpt)
	if !json.Valid([]byte(sealed)) {
		t.Fatalf("is no JSON:\n%s", sealed)
	}
	bySOPS := string(sops(t, string(text), "-e", "--config", os.DevNull, "--age", p.rcpt.String(), "--encrypted-regex", manifest.SealedPattern, "--input-type", "json", "--output-type", "json"))
	for name, in := range map[string]string{"seal": sealed, "sops": bySOPS} {
		o, err := open(in, r, unseal.Options{AllowUnbound: true})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if fmt.Sprintf("%q", values(o)) != fmt.Sprintf("%q", data) {
			t.Errorf("%s: %q, want %q", name, values(o), data)
		}
		w, err := unseal.Assemble([]*unseal.Opened{o}, []manifest.Place{{}})
		if err != nil {
			t.Fatal(err)
		}
		for _, asJSON := range []bool{true, false} {
			out, err := w.PlaintextAs(asJSON)
			if err != nil {
				t.Fatal(err)
			}
			again := mustSeal(t, string(out), p.rcpt)
			o, err := open(again, r, unseal.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if fmt.Sprintf("%q", values(o)) != fmt.Sprintf("%q", data) || o.Manifest.Description != "\tx\ny" {
				t.Errorf("%s, JSON %v: came back as %q, %q\n%s", name, asJSON, values(o), o.Manifest.Description, out)
			}
		}
	}
}

// A shell, and Java's rules, read back what Env and Properties print.
func TestFormats(t *testing.T) {
	m, err := manifest.Parse("x.yaml", []byte("name: a\nversion: v1\ntype: secret\nworkspace: orders\nsecret: {type: key-value, acl: r, data: {a: b}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	texts := []string{"", " ", "'", "''", `\`, `\'`, "$(id)", "`id`", "${HOME}", "$HOME", "a\nb\n", "a\rb", "é🙂", "-n", "!x", "\t", "\x7f", "=a:b#c!", "*"}
	w := &unseal.Whole{Manifest: m}
	for i, text := range texts {
		k, _ := manifest.ParseKey(fmt.Sprint("K", i))
		w.Values = append(w.Values, seal.Value{Key: k, Data: []byte(text)})
	}
	env, err := w.Env()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(file, env, 0o600); err != nil {
		t.Fatal(err)
	}
	for i, text := range texts {
		out, err := exec.Command("sh", "-c", fmt.Sprintf("set -a; . %s; exec printenv K%d", file, i)).Output()
		if err != nil || string(out) != text+"\n" {
			t.Errorf("sh reads %q as %q, %v", text, out, err)
		}
	}
	props, err := w.Properties()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(props), "\n"), "\n")
	if len(lines) != len(texts) {
		t.Fatalf("%d lines for %d values:\n%s", len(lines), len(texts), props)
	}
	for i, line := range lines {
		value, _ := strings.CutPrefix(line, fmt.Sprintf("K%d=", i))
		if got := readProperty(t, value); got != texts[i] {
			t.Errorf("Java reads %q as %q", texts[i], got)
		}
	}
	for _, bad := range []string{"\xff", "a\x00b"} {
		w.Values[0].Data = []byte(bad)
		if out, err := w.Env(); err == nil || out != nil || !strings.Contains(err.Error(), "K0 is binary") {
			t.Errorf("%q: %v", bad, err)
		}
		if out, err := w.Properties(); err == nil || out != nil || !strings.Contains(err.Error(), "K0 is binary") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// readProperty reads a value by the rules of java.util.Properties.load.
func readProperty(t *testing.T, s string) string {
	t.Helper()
	s = strings.TrimLeft(s, " \t\f")
	var units []string
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] >= 0x80:
			t.Errorf("%q is not ASCII", s)
		case s[i] != '\\':
			units = append(units, fmt.Sprintf("\\u%04x", s[i]))
		case s[i+1] == 'u':
			units = append(units, strings.ToLower(s[i:i+6]))
			i += 5
		default:
			i++
			c := s[i]
			if at := strings.IndexByte("ntrf", c); at >= 0 {
				c = "\n\t\r\f"[at]
			}
			units = append(units, fmt.Sprintf("\\u%04x", c))
		}
	}
	var out string
	if err := json.Unmarshal([]byte(`"`+strings.Join(units, "")+`"`), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestKubernetesFormat(t *testing.T) {
	cases := []struct{ text, want string }{
		{"name: a\nversion: v1\ntype: secret\nworkspace: orders\nowner: dana\nsecret: {type: key-value, acl: r, data: {a: 'yes'}, binaryData: {b: /wA=}}\n",
			"apiVersion: v1\nkind: Secret\nmetadata:\n  name: a\n  namespace: orders\ntype: Opaque\ndata:\n  a: eWVz\n  b: /wA=\n"},
		{"name: a\nversion: v1\ntype: instance-secret\ninstance-secret: {type: certificate, acl: r, data: {a: b}}\n",
			"apiVersion: v1\nkind: Secret\nmetadata:\n  name: a\ntype: Opaque\ndata:\n  a: Yg==\n"},
		{kubernetes, "apiVersion: v1\nkind: Secret\nmetadata:\n  name: orders-db\n  labels:\n    app: orders\ntype: Opaque\nimmutable: true\ndata:\n  pin: MDEyMw==\n  none: \"\"\n  password: aHVudGVyMg==\n  bin: /wA=\n"},
		{"apiVersion: v1\nkind: Secret\nmetadata:\n  name: a\n  namespace: orders\n  annotations: {example.com/x: 'true', sealward.dev/acl: rw}\ntype: example.com/own\ndata: {a: AAEC}\n",
			"apiVersion: v1\nkind: Secret\nmetadata:\n  name: a\n  namespace: orders\n  annotations:\n    example.com/x: \"true\"\n    sealward.dev/acl: rw\ntype: example.com/own\ndata:\n  a: AAEC\n"},
	}
	p := newParty(t)
	for _, c := range cases {
		m, err := manifest.Parse("x.yaml", []byte(c.text))
		if err != nil {
			t.Fatal(err)
		}
		ws := "orders"
		if m.Kind == manifest.KindInstanceSecret {
			ws = "instance"
		}
		scope, _ := manifest.ParseScope(ws)
		if err := seal.PlaceIn(m, scope); err != nil {
			t.Fatal(err)
		}
		sealed, err := seal.Seal(m, workspace.For(p.rcpt), seal.Options{Now: now})
		if err != nil {
			t.Fatal(err)
		}
		if m, err = manifest.Parse("x.yaml", sealed); err != nil {
			t.Fatal(err)
		}
		if err := m.SettleIn(scope); err != nil {
			t.Fatal(err)
		}
		o, err := unseal.Open(m, ring(t, ws, p), unseal.Options{})
		if err != nil {
			t.Fatal(err)
		}
		w, err := unseal.Assemble([]*unseal.Opened{o}, []manifest.Place{{}})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := w.Kubernetes(); err != nil || string(got) != c.want {
			t.Errorf("%v\n%s\nwant\n%s", err, got, c.want)
		}
	}
}

func TestWriteDir(t *testing.T) {
	a, _ := manifest.ParseKey("a")
	b, _ := manifest.ParseKey("b.txt")
	all := []seal.Value{{Key: a, Data: []byte("x\n")}, {Key: b, Data: []byte{0xff}}}
	parent := t.TempDir()
	refused := func(dir string, values []seal.Value) {
		t.Helper()
		if err := unseal.WriteDir(dir, values); err == nil {
			t.Errorf("%s was written", dir)
		}
	}
	if err := unseal.WriteDir(filepath.Join(parent, "out"), all); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(parent, "out", "b.txt")); err != nil || string(got) != "\xff" {
		t.Errorf("%q, %v", got, err)
	}
	refused(filepath.Join(parent, "out"), all)                   // not empty
	refused(filepath.Join(parent, "twice"), append(all, all[0])) // one file for two keys
	refused(filepath.Join(parent, "no", "parent"), all)
	if err := os.Mkdir(filepath.Join(parent, "real"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", filepath.Join(parent, "link")); err != nil {
		t.Fatal(err)
	}
	refused(filepath.Join(parent, "link"), all)
	if err := os.WriteFile(filepath.Join(parent, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	refused(filepath.Join(parent, "file"), all)
	left, err := os.ReadDir(parent)
	if err != nil || len(left) != 4 { // out, real, link, file
		t.Errorf("left over: %v, %v", left, err)
	}
}
