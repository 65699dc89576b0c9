package keyring_test

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"
	"golang.org/x/crypto/ssh"

	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal/keyring"
)

// folder is a keyring folder under test that counts how often it asks.
type folder struct {
	t      *testing.T
	dir    string
	asked  int
	answer string
	*keyring.Keyring
}

func newFolder(t *testing.T) *folder {
	t.Helper()
	f := &folder{t: t, dir: t.TempDir(), answer: "correct horse"}
	var err error
	f.Keyring, err = keyring.Open(f.dir, keyring.WithWork(10), keyring.WithPassphrase(func(path string) ([]byte, error) {
		if !strings.HasPrefix(path, f.dir) {
			t.Errorf("asked for the passphrase of %q", path)
		}
		f.asked++
		return []byte(f.answer), nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *folder) write(name string, data []byte) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, name), data, 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// protect is age -p with little work, so that tests are quick.
func protect(t *testing.T, text, passphrase string, armored bool, workFactor int) []byte {
	t.Helper()
	r, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		t.Fatal(err)
	}
	r.SetWorkFactor(workFactor)
	var out bytes.Buffer
	write := func(w interface{ Write([]byte) (int, error) }) {
		e, err := age.Encrypt(w, r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if !armored {
		write(&out)
		return out.Bytes()
	}
	a := armor.NewWriter(&out)
	write(a)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func newAge(t *testing.T) *age.X25519Identity {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func newSSH(t *testing.T, kind string) crypto.Signer {
	t.Helper()
	var key crypto.Signer
	var err error
	if kind == "rsa" {
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	} else {
		_, key, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sshFile(t *testing.T, key crypto.Signer, passphrase string) []byte {
	t.Helper()
	var block *pem.Block
	var err error
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(key, "dana")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(key, "dana", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(block)
}

func sshRecipient(t *testing.T, key crypto.Signer) workspace.Recipient {
	t.Helper()
	public, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	r, err := workspace.ParseRecipient(strings.TrimSpace(string(ssh.MarshalAuthorizedKey(public))))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Whatever form the key has, the ring knows its recipient, opens what is encrypted
// to it, and makes MACs that it recognizes; a passphrase is asked for once.
func TestForms(t *testing.T) {
	ageID := newAge(t)
	ageRcpt, err := workspace.ParseRecipient(ageID.Recipient().String())
	if err != nil {
		t.Fatal(err)
	}
	ed, rs := newSSH(t, "ed25519"), newSSH(t, "rsa")
	for name, c := range map[string]struct {
		file  []byte
		rcpt  workspace.Recipient
		asked int
	}{
		"age":                        {[]byte(ageID.String()), ageRcpt, 0},
		"age, protected":             {protect(t, ageID.String()+"\n", "correct horse", false, 10), ageRcpt, 1},
		"age, protected and armored": {protect(t, ageID.String()+"\n", "correct horse", true, 10), ageRcpt, 1},
		"ssh-ed25519":                {sshFile(t, ed, ""), sshRecipient(t, ed), 0},
		"ssh-ed25519, protected":     {sshFile(t, ed, "correct horse"), sshRecipient(t, ed), 1},
		"ssh-rsa":                    {sshFile(t, rs, ""), sshRecipient(t, rs), 0},
		"ssh-rsa, protected":         {sshFile(t, rs, "correct horse"), sshRecipient(t, rs), 1},
		"ssh in a protected file":    {protect(t, string(sshFile(t, ed, "")), "correct horse", true, 10), sshRecipient(t, ed), 1},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFolder(t)
			f.write("orders.agekey", c.file)
			for range 3 { // an agent reads its rings again and again
				ring, err := f.Ring(scope(t, "orders"))
				if err != nil {
					t.Fatal(err)
				}
				if got := ring.Recipients(); len(got) != 1 || got[0] != c.rcpt || ring.Protected(c.rcpt) != (c.asked > 0) {
					t.Fatalf("recipients %v, want %v", got, c.rcpt)
				}
				to, err := ring.ActiveRecipient()
				if err != nil {
					t.Fatal(err)
				}
				var sealed bytes.Buffer
				w, err := age.Encrypt(&sealed, to)
				if err != nil || w.Close() != nil {
					t.Fatal(err)
				}
				id, ok := ring.Identity(c.rcpt)
				if !ok {
					t.Fatal("the identity is not found by its recipient")
				}
				if _, err := age.Decrypt(&sealed, id); err != nil {
					t.Error(err)
				}
				mac := ring.Authenticate("x", []byte("data"))
				if !ring.Authentic("x", []byte("data"), mac) || ring.Authentic("y", []byte("data"), mac) {
					t.Error("the MAC is not the ring's")
				}
			}
			if f.asked != c.asked {
				t.Errorf("asked %d times, want %d", f.asked, c.asked)
			}
			// Another ring's MAC is refused.
			f.write("other.agekey", []byte(newAge(t).String()))
			ring, _ := f.Ring(scope(t, "orders"))
			other, err := f.Ring(scope(t, "other"))
			if err != nil || other.Authentic("x", []byte("data"), ring.Authenticate("x", []byte("data"))) {
				t.Errorf("another ring's MAC is accepted, %v", err)
			}
		})
	}
}

// A wrong passphrase is one clear error, and nobody is asked again until the
// content changes; the error holds neither passphrase.
func TestWrongPassphrase(t *testing.T) {
	id := newAge(t)
	for name, file := range map[string][]byte{"age": protect(t, id.String(), "correct horse", false, 10), "ssh": sshFile(t, newSSH(t, "ed25519"), "correct horse")} {
		f := newFolder(t)
		f.answer = "hunter2"
		f.write("orders.agekey", file)
		for range 3 {
			_, err := f.Ring(scope(t, "orders"))
			if !errors.Is(err, keyring.ErrProtected) || !strings.Contains(err.Error(), "is wrong") || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s: %v", name, err)
			}
		}
		if f.asked != 1 {
			t.Errorf("%s: asked %d times", name, f.asked)
		}
		f.answer = "correct horse"
		f.write("orders.agekey", protect(t, id.String(), "correct horse", true, 10))
		if _, err := f.Ring(scope(t, "orders")); err != nil {
			t.Errorf("%s: after the file changed: %v", name, err)
		}
	}
}

// Nobody to ask: the error says what to do. keyring.yaml's passphraseFile is read
// again when it was wrong, and never asked about.
func TestPassphraseFile(t *testing.T) {
	dir := t.TempDir()
	k, err := keyring.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("orders.agekey", string(protect(t, newAge(t).String(), "correct horse", false, 10)))
	_, err = k.Ring(scope(t, "orders"))
	if !errors.Is(err, keyring.ErrProtected) || !strings.Contains(err.Error(), "--passphrase-file") || !strings.Contains(err.Error(), "passphraseFile") {
		t.Errorf("nobody to ask: %v", err)
	}
	write("keyring.yaml", "workspaces:\n  orders: {passphraseFile: orders.pass}\n")
	if _, err = k.Ring(scope(t, "orders")); !errors.Is(err, keyring.ErrProtected) || !strings.Contains(err.Error(), "orders.pass") {
		t.Errorf("no such file: %v", err)
	}
	write("orders.pass", "hunter2\n")
	if _, err = k.Ring(scope(t, "orders")); err == nil || !strings.Contains(err.Error(), "is wrong") {
		t.Errorf("a wrong one: %v", err)
	}
	write("orders.pass", "correct horse\n")
	if _, err = k.Ring(scope(t, "orders")); err != nil {
		t.Errorf("the right one: %v", err)
	}
	if got := k.Sources(scope(t, "orders")); len(got) != 3 || got[2] != filepath.Join(dir, "orders.pass") {
		t.Errorf("sources: %v", got)
	}
}

func TestRefusedFiles(t *testing.T) {
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, newAge(t).Recipient())
	if err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	dsa := "-----BEGIN OPENSSH PRIVATE KEY-----\nHUNTER2\n-----END OPENSSH PRIVATE KEY-----\n"
	twice := protect(t, string(sshFile(t, newSSH(t, "ed25519"), "correct horse")), "correct horse", false, 10)
	for name, c := range map[string]struct {
		file  string
		want  string
		asked int
	}{
		"encrypted to a recipient": {sealed.String(), "to a recipient, not with a passphrase", 0},
		"too much work":            {strings.Replace(string(protect(t, "x", "correct horse", false, 10)), " 10\n", " 21\n", 1), "more work to unlock than 2^20", 1},
		"no private key":           {dsa, "line 1: is not an SSH private key", 0},
		"a cut private key":        {"# c\n" + dsa[:40], "line 2: is not an SSH private key", 0},
		"something after it":       {string(sshFile(t, newSSH(t, "ed25519"), "")) + "HUNTER2\n", "is not an age identity", 0},
		"protected twice":          {string(twice), "where none can be asked for", 1},
		"other text in it":         {string(protect(t, "HUNTER2", "correct horse", false, 10)), "line 1: is not an age identity", 1},
		"a thousand and more":      {manyIdentities(t, 1001), "more than 1000", 0},
	} {
		f := newFolder(t)
		f.write("orders.agekey", []byte(c.file))
		_, err := f.Ring(scope(t, "orders"))
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "HUNTER2") {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if f.asked != c.asked {
			t.Errorf("%s: asked %d times, want %d", name, f.asked, c.asked)
		}
	}
}

func manyIdentities(t *testing.T, n int) string {
	var b strings.Builder
	for range n {
		b.WriteString(newAge(t).String() + "\n")
	}
	return b.String()
}

// An SSH key and age identities may share a file; renewing keeps it, in front of
// it, and a link is never written through.
func TestRenewAndImport(t *testing.T) {
	orders := scope(t, "orders")
	f := newFolder(t)
	key := newSSH(t, "ed25519")
	f.write("orders.agekey", bytes.TrimRight(sshFile(t, key, ""), "\n"))
	id, err := keyring.Generate(false, now)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Renew(orders, id); err != nil {
		t.Fatal(err)
	}
	want := []workspace.Recipient{id.Recipient(), sshRecipient(t, key)}
	has := func(f *folder, want ...workspace.Recipient) {
		t.Helper()
		ring, err := f.Ring(orders)
		if err != nil {
			t.Fatal(err)
		}
		got := ring.Recipients()
		if len(got) != len(want) {
			t.Fatalf("%v, want %v", got, want)
		}
		for i := range want {
			if got[i] != want[i] {
				t.Fatalf("%v, want %v", got, want)
			}
		}
	}
	has(f, want...)

	// What is handed over has the age identity, not the person's SSH key.
	ring, _ := f.Ring(orders)
	payload, err := ring.Payload()
	if err != nil || len(payload.Recipients()) != 1 || payload.Recipients()[0] != id.Recipient() {
		t.Fatalf("%v, %v", payload, err)
	}
	own := newAge(t)
	g := newFolder(t)
	g.write("orders.agekey", protect(t, own.String(), "correct horse", true, 10))
	ownRcpt, _ := workspace.ParseRecipient(own.Recipient().String())
	if added, err := g.Import(payload, now); err != nil || len(added) != 1 {
		t.Fatalf("%v, %v", added, err)
	}
	has(g, ownRcpt, id.Recipient()) // what was active stays active
	if text, _ := os.ReadFile(g.Path(orders)); !bytes.HasPrefix(text, []byte("-----BEGIN AGE ENCRYPTED FILE")) {
		t.Errorf("a protected file lost its protection: %.40s", text)
	}
	before, _ := os.ReadFile(g.Path(orders))
	if added, err := g.Import(payload, now); err != nil || len(added) != 0 {
		t.Errorf("again: %v, %v", added, err)
	}
	if after, _ := os.ReadFile(g.Path(orders)); !bytes.Equal(before, after) {
		t.Error("importing what is there changed the file")
	}
	// A file as age -p writes it, without armor, is written again whole.
	binary := newFolder(t)
	binary.write("orders.agekey", protect(t, own.String(), "correct horse", false, 10))
	if added, err := binary.Import(payload, now); err != nil || len(added) != 1 {
		t.Fatalf("%v, %v", added, err)
	}
	has(binary, ownRcpt, id.Recipient())
	if text, _ := os.ReadFile(binary.Path(orders)); !bytes.HasPrefix(text, []byte("age-encryption.org/v1\n-> scrypt")) {
		t.Errorf("a protected file lost its form: %.40s", text)
	}
	h := newFolder(t)
	if added, err := h.Import(payload, now); err != nil || len(added) != 1 {
		t.Errorf("into an empty keyring: %v, %v", added, err)
	}
	has(h, id.Recipient())

	theirs := filepath.Join(t.TempDir(), "id_ed25519")
	text := sshFile(t, key, "")
	if err := os.WriteFile(theirs, text, 0o600); err != nil {
		t.Fatal(err)
	}
	l := newFolder(t)
	if err := os.Symlink(theirs, l.Path(orders)); err != nil {
		t.Fatal(err)
	}
	has(l, sshRecipient(t, key))
	if err := l.Renew(orders, id); err == nil || !strings.Contains(err.Error(), "is a link") {
		t.Errorf("renewed through a link: %v", err)
	}
	if _, err := l.Import(payload, now); err == nil {
		t.Error("imported through a link")
	}
	if after, _ := os.ReadFile(theirs); !bytes.Equal(after, text) {
		t.Error("the file behind the link was changed")
	}
}

func TestPayload(t *testing.T) {
	reader := newAge(t)
	to, err := workspace.ParseRecipient(reader.Recipient().String())
	if err != nil {
		t.Fatal(err)
	}
	id := newAge(t)
	ring, err := keyring.ParseRing(scope(t, "orders"), []byte(id.String()))
	if err != nil {
		t.Fatal(err)
	}
	payload, err := ring.Payload()
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := payload.SealTo(to)
	if err != nil || bytes.Contains(sealed, []byte(id.String())) {
		t.Fatalf("%v\n%s", err, sealed)
	}
	ask := func() ([]byte, error) { return []byte("correct horse"), nil }
	if got, err := keyring.OpenPayload(sealed, []age.Identity{reader}, ask); err != nil || got.Workspace() != scope(t, "orders") || !got.Sealed() {
		t.Errorf("%v, %v", got, err)
	}
	refused := func(name string, data []byte, want string, ids ...age.Identity) {
		t.Helper()
		_, err := keyring.OpenPayload(data, ids, ask)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "HUNTER2") {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	refused("no identity", sealed, "--identity")
	refused("another identity", sealed, "does not open", newAge(t))
	refused("another passphrase", protect(t, "x", "wrong", true, 10), "is wrong")
	refused("no header", protect(t, id.String(), "correct horse", true, 10), "names no workspace")
	head := "# sealward identities of workspace: "
	refused("a workspace that cannot be", []byte(head+"../x\n"+id.String()), "cannot be")
	refused("nothing in it", []byte(head+"orders\n"), "holds no identity")
	refused("other text", []byte(head+"orders\nHUNTER2\n"), "line 2")
	refused("an SSH key", append([]byte(head+"orders\n"), sshFile(t, newSSH(t, "ed25519"), "")...), "SSH key")
	refused("a protected SSH key", append([]byte(head+"orders\n"), sshFile(t, newSSH(t, "ed25519"), "x")...), "passphrase")
	if _, err := payload.SealTo(to, mustHybrid(t)); err == nil {
		t.Error("mixed a post-quantum recipient with another")
	}
}

func mustHybrid(t *testing.T) workspace.Recipient {
	t.Helper()
	id, err := keyring.Generate(true, now)
	if err != nil || !id.Recipient().PostQuantum() {
		t.Fatal(err)
	}
	return id.Recipient()
}

// What is written without WithWork costs what age -p makes it cost.
func TestPassphraseWork(t *testing.T) {
	for work, want := range map[int]string{0: " 18\n", 10: " 10\n"} {
		out, err := keyring.EncryptWithPassphrase([]byte("x"), []byte("correct horse"), false, work)
		if err != nil {
			t.Fatal(err)
		}
		_, stanza, _ := bytes.Cut(out, []byte("\n"))
		if line, _, _ := bytes.Cut(stanza, []byte("\n")); !strings.HasPrefix(string(line), "-> scrypt ") || !strings.HasSuffix(string(line)+"\n", want) {
			t.Errorf("work %d: %s", work, line)
		}
	}
}
