package unseal_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/keyring"
)

// party is a workspace's key pair.
type party struct {
	id   string
	rcpt workspace.Recipient
}

func newParty(t testing.TB) party {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return asParty(t, id.String(), id.Recipient().String())
}

func asParty(t testing.TB, id, public string) party {
	t.Helper()
	rcpt, err := workspace.ParseRecipient(public)
	if err != nil {
		t.Fatal(err)
	}
	return party{id, rcpt}
}

func ring(t testing.TB, ws string, parties ...party) *keyring.Ring {
	t.Helper()
	scope, err := manifest.ParseScope(ws)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, p := range parties {
		lines = append(lines, p.id)
	}
	r, err := keyring.ParseRing(scope, []byte(strings.Join(lines, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

const plain = `# who to ask: the orders team
name: orders-db-r
version: v1
type: secret
workspace: orders
owner: iamgroot
tags: [a, b]
secret:
  type: key-value
  acl: r
  data:
    password: hunter2
    pin: 0123
    truth: yes
    none: ""
    "123": n
    zz: "a: b # c"
    five: 5
`

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func mustSeal(t testing.TB, text string, to ...workspace.Recipient) string {
	t.Helper()
	m, err := manifest.Parse("x.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	out, err := seal.Seal(m, workspace.For(to...), seal.Options{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func open(sealed string, r *keyring.Ring, opts unseal.Options) (*unseal.Opened, error) {
	m, err := manifest.Parse("x.yaml", []byte(sealed))
	if err != nil {
		return nil, err
	}
	return unseal.Open(m, r, opts)
}

func values(o *unseal.Opened) map[string]string {
	out := map[string]string{}
	for _, v := range o.Values {
		out[v.Key.String()] = string(v.Data)
	}
	return out
}

func TestSealThenOpenGivesTheTextsBack(t *testing.T) {
	p := newParty(t)
	sealed := mustSeal(t, plain, p.rcpt)
	for _, secret := range []string{"hunter2", "0123", "a: b # c"} {
		if strings.Contains(sealed, secret) {
			t.Errorf("the sealed file shows %q", secret)
		}
	}
	if !strings.HasPrefix(sealed, "# who to ask: the orders team\n") {
		t.Errorf("the comment is lost:\n%s", sealed)
	}
	o, err := open(sealed, ring(t, "orders", p), unseal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"password": "hunter2", "pin": "0123", "truth": "yes", "none": "", "123": "n", "zz": "a: b # c", "five": "5"}
	if got := values(o); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("values = %v, want %v", got, want)
	}
	if !o.Bound {
		t.Error("not bound")
	}
}

// Texts that YAML printers are known to damage come back byte for byte.
func TestAwkwardTexts(t *testing.T) {
	p := newParty(t)
	for _, text := range []string{"\t\n", "\tx\ny", " lead", "trail ", "a\r\nb", "\n", "\n\na", "null", "~", "true", "0x1F", "1_000", "2026-01-02",
		"# x", "- a", "{a: b}", "'", `"`, "\u2028", "\u0085", "\ufeffx", "é", "🙂", "a\x00b", "\xff\xfe", "ENC[x]", "*a", "&a", "!a", "%a", "@a", "`a",
		"|", ">", "a:\n  b: c\n", "---\n", strings.Repeat("x", 5000)} {
		m, err := manifest.Parse("x.yaml", []byte(strings.Replace(plain, "hunter2", `""`, 1)))
		if err != nil {
			t.Fatal(err)
		}
		out, err := seal.Seal(m, workspace.For(p.rcpt), seal.Options{Now: now})
		if err != nil {
			t.Fatal(err)
		}
		o, err := open(string(out), ring(t, "orders", p), unseal.Options{})
		if err != nil {
			t.Fatal(err)
		}
		key, _ := manifest.ParseKey("password")
		if _, err := o.Envelope.Set(key, []byte(text)); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if out, err = o.Envelope.Reseal(now); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		o, err = open(string(out), ring(t, "orders", p), unseal.Options{})
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if got := values(o)["password"]; got != text {
			t.Errorf("%q came back as %q", text, got)
		}
	}
}

func TestSetKeepsOtherCiphertexts(t *testing.T) {
	p := newParty(t)
	sealed := mustSeal(t, plain, p.rcpt)
	o, err := open(sealed, ring(t, "orders", p), unseal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	key, _ := manifest.ParseKey("password")
	if changed, err := o.Envelope.Set(key, []byte("hunter2")); changed || err != nil {
		t.Errorf("setting the same value: changed %v, %v", changed, err)
	}
	if changed, err := o.Envelope.Set(key, []byte("correct horse")); !changed || err != nil {
		t.Fatalf("changed %v, %v", changed, err)
	}
	out, err := o.Envelope.Reseal(now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	changed := 0
	newLines := strings.Split(string(out), "\n")
	for i, line := range strings.Split(sealed, "\n") {
		if newLines[i] != line {
			changed++
		}
	}
	if changed != 4 { // password, binding, lastmodified, mac
		t.Errorf("%d lines changed, want 4:\n%s\n%s", changed, sealed, out)
	}
	key, _ = manifest.ParseKey("pin")
	o, _ = open(string(out), ring(t, "orders", p), unseal.Options{})
	if err := o.Envelope.Unset(key); err != nil {
		t.Fatal(err)
	}
	if out, err = o.Envelope.Reseal(now); err != nil {
		t.Fatal(err)
	}
	if o, err = open(string(out), ring(t, "orders", p), unseal.Options{}); err != nil || values(o)["password"] != "correct horse" || len(o.Values) != 6 {
		t.Errorf("after unset: %v, %v", o, err)
	}
}

func TestRetiredIdentitiesAndOthers(t *testing.T) {
	old, active, stranger := newParty(t), newParty(t), newParty(t)
	sealed := mustSeal(t, plain, old.rcpt)
	if _, err := open(sealed, ring(t, "orders", active, old), unseal.Options{}); err != nil {
		t.Errorf("a retired identity: %v", err)
	}
	_, err := open(sealed, ring(t, "orders", stranger), unseal.Options{})
	if !errors.Is(err, unseal.ErrNotRecipient) || !strings.Contains(err.Error(), old.rcpt.String()) || !strings.Contains(err.Error(), stranger.rcpt.String()) {
		t.Errorf("a stranger: %v", err)
	}
	if _, err := open(sealed, ring(t, "payments", old), unseal.Options{}); err == nil {
		t.Error("the ring of another workspace opened it")
	}
	// A label is no fact: the stanza carries a stranger's name, but it is ours.
	if _, err := open(strings.ReplaceAll(sealed, old.rcpt.String(), stranger.rcpt.String()), ring(t, "orders", active, old), unseal.Options{}); err != nil {
		t.Errorf("a stanza with another's name: %v", err)
	}
	pq, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	hybrid := asParty(t, pq.String(), pq.Recipient().String())
	if _, err := open(mustSeal(t, plain, hybrid.rcpt), ring(t, "orders", active, hybrid), unseal.Options{}); err != nil {
		t.Errorf("a post-quantum identity: %v", err)
	}
}

// The repository's own environment must not help: SOPS itself would find these.
func TestOnlyTheRingCounts(t *testing.T) {
	p, other := newParty(t), newParty(t)
	t.Setenv("SOPS_AGE_KEY", p.id)
	home := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", home)
	if err := os.MkdirAll(home+"/sops/age", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(home+"/sops/age/keys.txt", []byte(p.id), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := open(mustSeal(t, plain, p.rcpt), ring(t, "orders", other), unseal.Options{}); !errors.Is(err, unseal.ErrNotRecipient) {
		t.Errorf("opened with a key from the environment: %v", err)
	}
}

// What a contributor without keys can do to a file, and how it is refused. Every
// case must change the file, and no error may repeat a value.
func TestTampering(t *testing.T) {
	p := newParty(t)
	r := ring(t, "orders", p)
	sealed := mustSeal(t, plain, p.rcpt)
	other := mustSeal(t, strings.Replace(plain, "hunter2", "hunter3", 1), p.rcpt)
	line := func(file, key string) string {
		for l := range strings.SplitSeq(file, "\n") {
			if strings.HasPrefix(strings.TrimSpace(l), key+":") {
				return l
			}
		}
		t.Fatalf("no line %s", key)
		return ""
	}
	value := func(file, key string) string { return strings.TrimSpace(strings.SplitN(line(file, key), ":", 2)[1]) }
	section := func(file, from string) string { return file[strings.Index(file, "\n"+from+":"):] }
	cases := []struct {
		name, in string
		want     string // a seal.Reason, or text of another error
	}{
		{"swap two values", strings.NewReplacer(value(sealed, "password"), value(sealed, "pin"), value(sealed, "pin"), value(sealed, "password")).Replace(sealed), "value"},
		{"a value of another file", strings.Replace(sealed, value(sealed, "password"), value(other, "password"), 1), "value"},
		{"drop an entry", strings.Replace(sealed, line(sealed, "pin")+"\n", "", 1), "mac"},
		{"empty an entry", strings.Replace(sealed, value(sealed, "pin"), `""`, 1), "mac"},
		{"add an empty entry", strings.Replace(sealed, line(sealed, "pin"), line(sealed, "pin")+"\n        more: \"\"", 1), "binding"},
		{"rename a key with an empty value", strings.Replace(sealed, "none: ", "nine: ", 1), "binding"},
		{"retype a value", strings.Replace(sealed, value(sealed, "pin"), strings.Replace(value(sealed, "pin"), "type:str", "type:int", 1), 1), "mac"},
		{"retype without trace in the MAC", strings.Replace(sealed, value(sealed, "five"), strings.Replace(value(sealed, "five"), "type:str", "type:int", 1), 1), "binding"},
		{"rename a key", strings.Replace(sealed, "        pin: ", "        pim: ", 1), "value"},
		{"rename a field", strings.Replace(sealed, "owner: iamgroot", "description: iamgroot", 1), "binding"},
		{"move text between fields", strings.Replace(sealed, "owner: iamgroot\n", "owner: iamgroo\ndescription: t\n", 1), "binding"},
		{"move text in a list", strings.Replace(sealed, "tags: [a, b]", "tags: [ab]", 1), "binding"},
		{"change acl", strings.Replace(sealed, "acl: r", "acl: rw", 1), "says otherwise"},
		{"change type", strings.Replace(sealed, "type: key-value", "type: cloud-kernel", 1), "mac"},
		{"change version", strings.Replace(sealed, "version: v1\n", "version: v1beta\n", 1), "mac"},
		{"change name", strings.Replace(sealed, "orders-db-r", "orders-db-s", 1), "mac"},
		{"change workspace", strings.Replace(sealed, "workspace: orders", "workspace: public", 1), "is of workspace public"},
		{"drop layer-like field", strings.Replace(sealed, "owner: iamgroot\n", "", 1), "mac"},
		{"nest a path", strings.Replace(sealed, "    data:\n", "    data:\n        data:\n", 1), "null"},
		{"junk after a value", strings.Replace(sealed, value(sealed, "pin"), value(sealed, "pin")+"x", 1), "not a well-formed"},
		{"comment among values", strings.Replace(sealed, line(sealed, "pin"), "        # hello\n"+line(sealed, "pin"), 1), "comment"},
		{"strip the MAC", strings.Replace(sealed, line(sealed, "mac")+"\n", "", 1), "mac"},
		{"empty MAC", strings.Replace(sealed, value(sealed, "mac"), `""`, 1), "mac"},
		{"MAC of another file", strings.Replace(sealed, value(sealed, "mac"), value(other, "mac"), 1), "mac"},
		{"a value as MAC", strings.Replace(sealed, value(sealed, "mac"), value(sealed, "pin"), 1), "mac"},
		{"change lastmodified", strings.Replace(sealed, "2026-01-02T03:04:05Z", "2026-01-02T03:04:06Z", 1), "mac"},
		{"strip the binding", strings.Replace(sealed, "seal:\n"+line(sealed, "binding")+"\n", "", 1), "has no binding"},
		{"binding of another file", strings.Replace(sealed, value(sealed, "binding"), value(other, "binding"), 1), "value"},
		{"a value as binding", strings.Replace(sealed, value(sealed, "binding"), value(sealed, "pin"), 1), "value"},
		{"sops section of another file", strings.Replace(sealed, section(sealed, "sops"), section(other, "sops"), 1), "value"},
		{"seal and sops of another file", strings.Replace(sealed, section(sealed, "seal"), section(other, "seal"), 1), "value"},
		{"change encrypted_regex", strings.Replace(sealed, "encrypted_regex: ^(data|", "encrypted_regex: ^(date|", 1), "pattern"},
		{"mac_only_encrypted", strings.Replace(sealed, "    mac: ", "    mac_only_encrypted: true\n    mac: ", 1), "pattern"},
		{"two patterns", strings.Replace(sealed, "    mac: ", "    unencrypted_suffix: x\n    mac: ", 1), "form"},
		{"foreign KMS alone", sealed[:strings.Index(sealed, "sops:")] + "sops:\n    kms:\n        - arn: arn:aws:kms:eu-west-1:1:key/a\n          created_at: \"2026-01-02T03:04:05Z\"\n          enc: AAAA\n    lastmodified: \"2026-01-02T03:04:05Z\"\n" + line(sealed, "mac") + "\n" + line(sealed, "encrypted_regex") + "\n    version: 3.13.3\n", "no identity in the keyring"},
		{"no recipients", strings.Replace(sealed, "    age:", "    agf:", 1), "form"},
		{"sops emptied", sealed[:strings.Index(sealed, "sops:")] + "sops: {}\n", "form"},
		{"damaged stanza", strings.Replace(sealed, "YWdlLWVuY3J5cHRpb24ub3JnL3Yx", "YWdlLWVuY3J5cHRpb24ub3JnL3Yy", 1), "damaged"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if c.in == sealed {
				t.Fatal("the case changes nothing")
			}
			o, err := open(c.in, r, unseal.Options{})
			if err == nil {
				t.Fatalf("was accepted: %v\n%s", values(o), c.in)
			}
			var tamper *seal.TamperError
			if errors.As(err, &tamper) {
				if string(tamper.Reason) != c.want && !strings.Contains(tamper.Msg, c.want) {
					t.Errorf("reason %s, want %s: %v", tamper.Reason, c.want, err)
				}
			} else if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			for _, v := range []string{"hunter2", "hunter3", "0123"} {
				if strings.Contains(err.Error(), v) {
					t.Errorf("the error repeats a value: %v", err)
				}
			}
		})
	}
}

func TestUnboundOnlyWhenAllowed(t *testing.T) {
	p := newParty(t)
	sealed := mustSeal(t, plain, p.rcpt)
	// Taking the binding off a bound file breaks the MAC also where bindings are optional.
	stripped := sealed[:strings.Index(sealed, "seal:\n")] + sealed[strings.Index(sealed, "sops:\n"):]
	var tamper *seal.TamperError
	if _, err := open(stripped, ring(t, "orders", p), unseal.Options{AllowUnbound: true}); !errors.As(err, &tamper) || tamper.Reason != seal.ReasonMAC {
		t.Errorf("a stripped binding where bindings are optional: %v", err)
	}
}

func BenchmarkSeal(b *testing.B) {
	p := newParty(b)
	for b.Loop() {
		mustSeal(b, plain, p.rcpt)
	}
}

func BenchmarkOpen(b *testing.B) {
	p := newParty(b)
	sealed := mustSeal(b, plain, p.rcpt)
	r := ring(b, "orders", p)
	for b.Loop() {
		if _, err := open(sealed, r, unseal.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
