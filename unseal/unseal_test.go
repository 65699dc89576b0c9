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
