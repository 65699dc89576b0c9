package source

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// signer makes signed commits with the real git, ssh-keygen and gpg.
type signer struct {
	t    testing.TB
	home string // of gpg; short, since its agent listens in it
	repo repo
}

func newSigner(t testing.TB) signer {
	t.Helper()
	home, err := os.MkdirTemp("", "gnupg")
	if err != nil {
		t.Fatal(err)
	}
	s := signer{t, home, newRepo(t)}
	t.Setenv("GNUPGHOME", home)
	t.Cleanup(func() {
		exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run()
		os.RemoveAll(home)
	})
	return s
}

func (s signer) run(stdin, name string, args ...string) string {
	s.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}

// sshKey returns the file of a new private key, and its public line.
func (s signer) sshKey(kind string, more ...string) (file, public string) {
	s.t.Helper()
	file = filepath.Join(s.t.TempDir(), "key")
	s.run("", "ssh-keygen", append([]string{"-q", "-t", kind, "-N", "", "-C", "a comment", "-f", file}, more...)...)
	text, err := os.ReadFile(file + ".pub")
	if err != nil {
		s.t.Fatal(err)
	}
	return file, string(text)
}

// gpgKey makes a key that signs, for a year from 2026 on, and returns its fingerprint.
func (s signer) gpgKey(user, kind string) string {
	s.t.Helper()
	s.gpg("--quick-gen-key", user, kind, "sign", "1y")
	for line := range strings.Lines(s.gpg("--with-colons", "--list-keys", user)) {
		if f := strings.Split(line, ":"); f[0] == "fpr" {
			return f[9]
		}
	}
	s.t.Fatal("gpg made no key")
	return ""
}

func (s signer) gpg(args ...string) string {
	s.t.Helper()
	return s.run("", "gpg", append([]string{"--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""}, args...)...)
}

func (s signer) export(keys ...string) []byte {
	s.t.Helper()
	return []byte(s.gpg(append([]string{"--armor", "--export"}, keys...)...))
}

// commit makes a signed commit on main and returns its name and its bytes.
func (s signer) commit(config []string, args ...string) (string, []byte) {
	s.t.Helper()
	tree := s.repo.gitIn("", "mktree")
	args = append([]string{"-S"}, args...)
	h := s.repo.git(append(append(config, "commit-tree", tree), args...)...)
	s.repo.git("update-ref", "refs/heads/main", h)
	return h, s.raw(h)
}

func (s signer) raw(h string) []byte {
	s.t.Helper()
	out, err := exec.Command("git", "-C", s.repo.dir, "cat-file", "commit", h).Output()
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

func withSSH(key string) []string {
	return []string{"-c", "gpg.format=ssh", "-c", "user.signingKey=" + key}
}

func withGPG(key string) []string { return []string{"-c", "user.signingKey=" + key} }

func mustParse(t testing.TB, allowed string, openPGP []byte) *Signers {
	t.Helper()
	var text []byte
	if allowed != "" {
		text = []byte(allowed)
	}
	s, err := ParseSigners(text, openPGP)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// What git signs is accepted, whatever else the commit holds, and of what was
// signed no byte can be changed.
func TestVerifyAgreesWithGit(t *testing.T) {
	s := newSigner(t)
	ed, edPub := s.sshKey("ed25519")
	ec, ecPub := s.sshKey("ecdsa")
	rs, rsPub := s.sshKey("rsa", "-b", "2048")
	allowed := "# who may merge\n\nbob@example.com " + edPub + `"carol@example.com,carol" namespaces="file,git",Valid-After="20200101Z" ` + ecPub + "dave@example.com " + rsPub
	allowedFile := writeTestFile(t, allowed)
	ann := s.gpgKey("Ann <ann@example.com>", "ed25519")
	eve := s.gpgKey("Eve Sub <eve@example.com>", "rsa2048")
	s.gpg("--quick-add-key", eve, "rsa2048", "sign", "1y") // git signs with the newest subkey
	signers := mustParse(t, allowed, append(s.export(ann), s.export(eve)...))

	s.repo.git("symbolic-ref", "HEAD", "refs/heads/main")
	base := s.repo.commit("main", "base", files{"a": "1"})
	side := s.repo.commit("side", "side", files{"b": "1"}, base)
	s.repo.git(append(withSSH(ed), "tag", "-s", "-m", "a signed tag", "v1", side)...)
	tag := "mergetag object " + side + strings.ReplaceAll(strings.TrimSuffix("\n"+strings.SplitN(s.repo.git("cat-file", "tag", "v1"), "\n", 2)[1], "\n"), "\n", "\n ") + "\n"

	for name, c := range map[string]struct {
		config, args []string
		want         string
	}{
		"ed25519":                 {withSSH(ed), []string{"-m", "one"}, "bob@example.com"},
		"ecdsa":                   {withSSH(ec), []string{"-m", "one\n\ntwo\n\n\n"}, "carol@example.com,carol"},
		"rsa":                     {withSSH(rs), []string{"-m", "one"}, "dave@example.com"},
		"a merge":                 {withSSH(ed), []string{"-m", "one", "-p", base, "-p", side}, "bob@example.com"},
		"another encoding":        {append(withSSH(ed), "-c", "i18n.commitEncoding=ISO-8859-1"), []string{"-m", "caf\xe9"}, "bob@example.com"},
		"a message like a header": {withSSH(ed), []string{"-m", "gpgsig x\n y\ntree z"}, "bob@example.com"},
		"no message":              {withSSH(ed), []string{"-m", ""}, "bob@example.com"},
		"OpenPGP":                 {withGPG(ann), []string{"-m", "one"}, "Ann <ann@example.com> (OpenPGP " + ann[24:] + ")"},
		"an OpenPGP subkey":       {withGPG(eve), []string{"-m", "one"}, "Eve Sub <eve@example.com> (OpenPGP " + eve[24:] + ")"},
	} {
		t.Run(name, func(t *testing.T) {
			h, raw := s.commit(c.config, c.args...)
			s.repo.git("-c", "gpg.ssh.allowedSignersFile="+allowedFile, "verify-commit", h)
			if got, err := s.repo.mirror().Verify(hash(t, h), signers, time.Now()); err != nil || got != c.want {
				t.Fatalf("signed by %q, %v; want %q", got, err, c.want)
			}
			payload, signature, err := splitCommit(raw)
			if err != nil || len(payload)+len(signature) >= len(raw) {
				t.Fatal(err)
			}
			refused := 0
			for i := range raw {
				changed := bytes.Clone(raw)
				changed[i] ^= 1
				if p, _, err := splitCommit(changed); err == nil && bytes.Equal(p, payload) {
					continue // within the signature, where some bits carry nothing
				}
				_, err := signers.verify(changed, time.Now())
				if !errors.Is(err, ErrSignature) && !errors.Is(err, ErrUnsigned) {
					t.Fatalf("with byte %d changed: %v\n%s", i, err, changed)
				}
				refused++
			}
			if refused < len(payload) {
				t.Errorf("only %d of %d signed bytes were tried", refused, len(payload))
			}
		})
	}

	t.Run("a merged tag", func(t *testing.T) {
		// As git merge writes it, which signs the tag along with the rest.
		unsigned := fmt.Sprintf("tree %s\nparent %s\nparent %s\nauthor Ann <a@example.com> 1700000000 +0000\ncommitter Ann <a@example.com> 1700000000 +0000\n%s\nmerge\n",
			s.repo.gitIn("", "mktree"), base, side, tag)
		raw := signSSH(t, s, ed, "git", unsigned)
		h := s.repo.gitIn(string(raw), "hash-object", "-t", "commit", "-w", "--stdin")
		s.repo.git("-c", "gpg.ssh.allowedSignersFile="+allowedFile, "verify-commit", h)
		if got, err := signers.verify(raw, time.Now()); err != nil || got != "bob@example.com" {
			t.Fatalf("signed by %q, %v", got, err)
		}
		// The tag's signature is none of the commit's.
		_, err := signers.verify([]byte(unsigned), time.Now())
		mustBe(t, err, ErrUnsigned)
	})
}

// signSSH signs a commit's text and puts the signature where git puts it.
func signSSH(t testing.TB, s signer, key, namespace, text string) []byte {
	t.Helper()
	return withHeader(text, "gpgsig", s.run(text, "ssh-keygen", "-q", "-Y", "sign", "-n", namespace, "-f", key))
}

// withHeader adds a header after all others.
func withHeader(commit, name, value string) []byte {
	header, message, _ := strings.Cut(commit, "\n\n")
	return []byte(header + "\n" + name + " " + strings.ReplaceAll(strings.TrimRight(value, "\n"), "\n", "\n ") + "\n\n" + message)
}

const plainCommit = "tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\nauthor Ann <a@example.com> 1700000000 +0000\ncommitter Ann <a@example.com> 1700000000 +0000\n\none\n"

func TestVerifyRefusesSSH(t *testing.T) {
	s := newSigner(t)
	now := time.Now()
	ed, edPub := s.sshKey("ed25519")
	other, _ := s.sshKey("ed25519")
	good := signSSH(t, s, ed, "git", plainCommit)
	signature := s.run(plainCommit, "ssh-keygen", "-q", "-Y", "sign", "-n", "git", "-f", ed)
	s.run("", "ssh-keygen", "-q", "-s", other, "-I", "bob", "-n", "bob", ed+".pub")
	certificate, err := os.ReadFile(ed + "-cert.pub")
	if err != nil {
		t.Fatal(err)
	}
	bob := "bob@example.com " + edPub
	// Signed with a parent, which nobody sees when the signature stands before it.
	parent := "parent " + strings.Repeat("1", 40) + "\n"
	tree, others, _ := strings.Cut(plainCommit, "\n")
	child := tree + "\n" + parent + others
	orphan := tree + "\ngpgsig " + strings.ReplaceAll(strings.TrimSpace(s.run(child, "ssh-keygen", "-q", "-Y", "sign", "-n", "git", "-f", ed)), "\n", "\n ") + "\n" + parent + others
	for name, c := range map[string]struct {
		allowed, say string
		raw          []byte
	}{
		"an unknown key":     {bob, "add it there", signSSH(t, s, other, "git", plainCommit)},
		"another namespace":  {bob, "no commit", signSSH(t, s, ed, "file", plainCommit)},
		"not for commits":    {`bob@example.com namespaces="file" ` + edPub, "line 1", good},
		"no longer valid":    {"# x\nbob@example.com valid-before=\"20250101Z\" " + edPub, "no longer valid by line 2", good},
		"not yet valid":      {"bob@example.com valid-after=\"29990101\" " + edPub, "not valid yet", good},
		"two signatures":     {bob, "has two", withHeader(string(good), "gpgsig", signature)},
		"of SHA-256":         {bob, "gpgsig-sha256", withHeader(string(good), "gpgsig-sha256", signature)},
		"only of SHA-256":    {bob, "gpgsig-sha256", withHeader(plainCommit, "gpgsig-sha256", signature)},
		"an added header":    {bob, "did not sign", withHeader(string(good), "parent", strings.Repeat("1", 40))},
		"a hidden parent":    {bob, "differently", []byte(orphan)},
		"X.509":              {bob, "X.509", withHeader(plainCommit, "gpgsig", "-----BEGIN SIGNED MESSAGE-----\nx\n-----END SIGNED MESSAGE-----")},
		"something else":     {bob, "neither", withHeader(plainCommit, "gpgsig", "trust me")},
		"an empty one":       {bob, "neither", withHeader(plainCommit, "gpgsig", "")},
		"cut":                {bob, "cannot be read", withHeader(plainCommit, "gpgsig", signature[:100])},
		"a certificate":      {bob, "certificate", withHeader(plainCommit, "gpgsig", resign(t, ed, plainCommit, func(b *sshBlob, _ ssh.Signer) { b.PublicKey = string(publicKey(t, certificate).Marshal()) }))},
		"SHA-1 and RSA":      {bob, "too weak", withHeader(plainCommit, "gpgsig", weakRSA(t, 2048))},
		"an unknown hash":    {bob, "too weak", withHeader(plainCommit, "gpgsig", resign(t, ed, plainCommit, func(b *sshBlob, _ ssh.Signer) { b.HashAlgorithm = "sha1" }))},
		"another's key name": {bob, "did not sign", withHeader(plainCommit, "gpgsig", resign(t, other, plainCommit, func(b *sshBlob, _ ssh.Signer) { b.PublicKey = string(publicKey(t, []byte(edPub)).Marshal()) }))},
	} {
		t.Run(name, func(t *testing.T) {
			who, err := mustParse(t, c.allowed, nil).verify(c.raw, now)
			mustBe(t, err, ErrSignature)
			mustSay(t, err, c.say)
			if who != "" {
				t.Errorf("it names %q all the same", who)
			}
		})
	}
	t.Run("none", func(t *testing.T) {
		_, err := mustParse(t, bob, nil).verify([]byte(plainCommit), now)
		mustBe(t, err, ErrUnsigned)
	})
	t.Run("a key may have several lines", func(t *testing.T) {
		got, err := mustParse(t, "old valid-before=\"20250101Z\" "+edPub+bob, nil).verify(good, now)
		if err != nil || got != "bob@example.com" {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("not in the mirror", func(t *testing.T) {
		r := newRepo(t)
		r.commit("main", "one", files{"a": "1"})
		_, err := r.mirror().Verify(hash(t, strings.Repeat("1", 40)), mustParse(t, bob, nil), now)
		mustBe(t, err, ErrNotFound)
		if errors.Is(err, ErrSignature) || errors.Is(err, ErrUnsigned) {
			t.Error("a commit that is not here is called badly signed")
		}
	})
}

// sshBlob is the format of PROTOCOL.sshsig.
type sshBlob struct {
	Magic                                                    [6]byte
	Version                                                  uint32
	PublicKey, Namespace, Reserved, HashAlgorithm, Signature string
}

// resign makes a signature with one part of it changed.
func resign(t testing.TB, keyFile, text string, change func(*sshBlob, ssh.Signer)) string {
	t.Helper()
	private, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.ParsePrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := sshsig.Sign(strings.NewReader(text), key, sshsig.HashSHA512, "git")
	if err != nil {
		t.Fatal(err)
	}
	var b sshBlob
	if err := ssh.Unmarshal(sig.Marshal(), &b); err != nil {
		t.Fatal(err)
	}
	change(&b, key)
	return b.armor()
}

func (b sshBlob) armor() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "SSH SIGNATURE", Bytes: ssh.Marshal(b)}))
}

func publicKey(t testing.TB, line []byte) ssh.PublicKey {
	t.Helper()
	key, _, _, _, err := ssh.ParseAuthorizedKey(line)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// weakRSA is what ssh-keygen no longer makes: an RSA signature over SHA-1.
func weakRSA(t testing.TB, bits int) string {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha1.Sum([]byte(plainCommit))
	sig, err := key.Sign(rand.Reader, digest[:])
	if err != nil || sig.Format != ssh.KeyAlgoRSA {
		t.Fatal(err, sig)
	}
	return sshBlob{[6]byte([]byte("SSHSIG")), 1, string(key.PublicKey().Marshal()), "git", "", "sha512", string(ssh.Marshal(sig))}.armor()
}

// A hardware token signs something around the message, and says whether it was
// touched.
func TestVerifySecurityKey(t *testing.T) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	const app = "ssh:"
	key := ssh.Marshal(struct{ Type, Key, App string }{ssh.KeyAlgoSKED25519, string(public), app})
	parsed, err := ssh.ParsePublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	signers := mustParse(t, "bob "+string(ssh.MarshalAuthorizedKey(parsed)), nil)
	sign := func(flags byte) []byte {
		digest, application := sha256.Sum256([]byte(plainCommit)), sha256.Sum256([]byte(app))
		message := sha256.Sum256(append([]byte("SSHSIG"), ssh.Marshal(struct{ Namespace, Reserved, Hash, Digest string }{"git", "", "sha256", string(digest[:])})...))
		counter := []byte{0, 0, 0, 7}
		signed := bytes.Join([][]byte{application[:], {flags}, counter, message[:]}, nil)
		sig := ssh.Marshal(struct {
			Format, Blob string
			Flags        byte
			Counter      uint32
		}{ssh.KeyAlgoSKED25519, string(ed25519.Sign(private, signed)), flags, 7})
		return withHeader(plainCommit, "gpgsig", sshBlob{[6]byte([]byte("SSHSIG")), 1, string(key), "git", "", "sha256", string(sig)}.armor())
	}
	if got, err := signers.verify(sign(1), time.Now()); err != nil || got != "bob" {
		t.Errorf("touched: %q, %v", got, err)
	}
	_, err = signers.verify(sign(0), time.Now())
	mustBe(t, err, ErrSignature)
}

func TestVerifyRefusesOpenPGP(t *testing.T) {
	s := newSigner(t)
	now := time.Now()
	ann := s.gpgKey("Ann <ann@example.com>", "ed25519")
	eve := s.gpgKey("Eve <eve@example.com>", "rsa2048")
	gone := s.gpgKey("Gone <gone@example.com>", "ed25519")
	sign := func(args ...string) string {
		return s.run(plainCommit, "gpg", append([]string{"--batch", "--quiet", "--armor", "--detach-sign"}, args...)...)
	}
	by := func(args ...string) []byte { return withHeader(plainCommit, "gpgsig", sign(args...)) }
	good, bySubkey := by("-u", ann), []byte(nil)
	lost := by("-u", gone)
	annKeys := s.export(ann)

	// The certificate that gpg keeps for this case; its first line is disarmed.
	revocation, err := os.ReadFile(filepath.Join(s.home, "openpgp-revocs.d", gone+".rev"))
	if err != nil {
		t.Fatal(err)
	}
	s.run(strings.Replace(string(revocation), ":-----BEGIN", "-----BEGIN", 1), "gpg", "--batch", "--quiet", "--import")

	s.gpg("--quick-add-key", eve, "rsa2048", "sign", "2d")
	bySubkey = by("-u", eve)
	weak := s.gpgKey("Weak <weak@example.com>", "rsa1024")
	selfSHA1 := newSHA1Key(s)

	keys := append(annKeys, s.export(eve, gone, weak, selfSHA1)...)
	all := mustParse(t, "", keys)
	now = time.Now() // what gpg took its time to make is not of the future
	if _, err := all.verify(good, now); err != nil {
		t.Fatal(err)
	}
	if _, err := all.verify(bySubkey, now); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		signers *Signers
		raw     []byte
		now     time.Time
		say     string
	}{
		"an unknown key":       {mustParse(t, "", s.export(eve)), good, now, ann},
		"an expired key":       {all, good, now.AddDate(2, 0, 0), "has expired"},
		"an expired subkey":    {all, bySubkey, now.AddDate(0, 0, 3), "has expired"},
		"a revoked key":        {all, lost, now, "was revoked"},
		"a weak key":           {all, by("-u", weak), now, "too weak"},
		"a key held by SHA-1":  {all, by("-u", selfSHA1), now, "SHA-1"},
		"SHA-1":                {all, by("-u", eve, "--digest-algo", "SHA1"), now, "too weak"},
		"a future date":        {all, good, now.Add(-time.Hour), "to come"},
		"an expired signature": {all, by("-u", ann, "--default-sig-expire", "1"), now.AddDate(0, 0, 2), "expired; sign anew"},
		"two signatures":       {all, by("-u", ann, "-u", gone2(s)), now, "follows"},
		"of a text":            {all, by("-u", ann, "--textmode"), now, "type"},
		"another commit":       {all, bytes.Replace(good, []byte("one"), []byte("two"), 1), now, "did not sign"},
		"a critical notation":  {all, by("-u", ann, "--sig-notation", "!x@example.com=1"), now, "critical"},
		"cut":                  {all, withHeader(plainCommit, "gpgsig", sign("-u", ann)[:120]), now, "cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			who, err := c.signers.verify(c.raw, c.now)
			mustBe(t, err, ErrSignature)
			mustSay(t, err, c.say)
			if who != "" {
				t.Errorf("it names %q all the same", who)
			}
		})
	}
	t.Run("a clock a little ahead", func(t *testing.T) {
		if _, err := all.verify(good, now.Add(-time.Second)); err != nil && strings.Contains(err.Error(), "to come") {
			t.Error(err)
		}
	})
	t.Run("from several goroutines", func(t *testing.T) {
		done := make(chan error)
		for range 4 {
			go func() { _, err := all.verify(good, now); done <- err }()
		}
		for range 4 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}

func gone2(s signer) string { return s.gpgKey("Second <second@example.com>", "ed25519") }

// newSHA1Key makes a key whose own signatures rest on SHA-1.
func newSHA1Key(s signer) string {
	s.t.Helper()
	s.gpg("--cert-digest-algo", "SHA1", "--quick-gen-key", "Old <old@example.com>", "rsa2048", "sign", "1y")
	for line := range strings.Lines(s.gpg("--with-colons", "--list-keys", "old@example.com")) {
		if f := strings.Split(line, ":"); f[0] == "fpr" {
			return f[9]
		}
	}
	s.t.Fatal("gpg made no key")
	return ""
}

func TestParseSigners(t *testing.T) {
	s := newSigner(t)
	file, pub := s.sshKey("ed25519")
	_, short := s.sshKey("rsa", "-b", "1024")
	private, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	ann := s.gpgKey("Ann <ann@example.com>", "ed25519")
	armored := string(s.export(ann))
	secret := s.gpg("--armor", "--export-secret-keys", ann)
	kind, key, _ := strings.Cut(strings.TrimSpace(pub), " ")
	for name, c := range map[string]struct{ allowed, openPGP, say string }{
		"nothing":              {"", "", "name allowedSignersFile"},
		"only comments":        {"# nobody yet\n", "", "lists no key"},
		"no principal":         {"good " + pub + pub, "", "line 2"},
		"an empty principal":   {"bob,,carol " + pub, "", "empty principal"},
		"everybody":            {"* " + pub, "", "pattern"},
		"all but one":          {"*,!bob@example.com " + pub, "", "pattern"},
		"an open quote":        {`"bob ` + pub, "", "closing"},
		"an authority":         {"bob cert-authority " + pub, "", "not supported"},
		"an unknown option":    {"bob restrict " + pub, "", "not known"},
		"no quotes":            {"bob valid-after=20200101Z " + pub, "", "quotes"},
		"an option twice":      {"bob valid-after=\"20200101Z\",VALID-AFTER=\"20200101Z\" " + pub, "", "twice"},
		"a namespace pattern":  {`bob namespaces="g*" ` + pub, "", "patterns"},
		"no namespace":         {`bob namespaces="" ` + pub, "", "namespaces"},
		"a date":               {"bob valid-before=\"tomorrow\" " + pub, "", "YYYYMMDD"},
		"a date of no day":     {"bob valid-before=\"20260230\" " + pub, "", "YYYYMMDD"},
		"times that cross":     {"bob valid-after=\"20260101Z\",valid-before=\"20250101Z\" " + pub, "", "later"},
		"a broken key":         {"bob " + kind + " " + key[1:], "", "line 1"},
		"another kind":         {"bob ssh-rsa " + key, "", "line 1"},
		"a short key":          {"bob " + short, "", "2048"},
		"a carriage return":    {"bob " + kind + "\r " + key, "", "control"},
		"a private key":        {string(private), "", "line 1"},
		"too large":            {"bob " + pub + strings.Repeat("#", maxAuthFile), "", "more than"},
		"no block":             {"", "# nobody yet\n", "no public key"},
		"a block without end":  {"", armored[:100], "no end"},
		"text around":          {"", armored + "\nbob\n", "outside"},
		"a secret key":         {"", secret, "only public"},
		"a disguised secret":   {"", strings.ReplaceAll(secret, "PRIVATE", "PUBLIC"), "private key"},
		"damaged":              {"", strings.Replace(armored, "\n\n", "\n\nAAAA", 1), "from line 1"},
		"one good, one broken": {"bob " + pub, "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n-----END PGP PUBLIC KEY BLOCK-----\n", "line 1"},
	} {
		t.Run(name, func(t *testing.T) {
			var texts [2][]byte
			for i, text := range []string{c.allowed, c.openPGP} {
				if text != "" {
					texts[i] = []byte(text)
				}
			}
			got, err := ParseSigners(texts[0], texts[1])
			mustBe(t, err, ErrConfig)
			mustSay(t, err, c.say)
			if got != nil {
				t.Error("an error, and signers too")
			}
			for _, part := range []string{strings.Split(string(private), "\n")[1], strings.Split(secret, "\n")[3]} {
				if err != nil && strings.Contains(err.Error(), part) {
					t.Errorf("the error shows a private key: %v", err)
				}
			}
		})
	}

	good := mustParse(t, strings.ReplaceAll("bob@example.com\t"+pub, "\n", "\r\n")+"\""+"carol x\" "+pub, []byte("# ann's\n"+armored+"\n"+armored))
	if len(good.ssh) != 2 || good.ssh[1].names != "carol x" || len(good.openPGP) != 2 {
		t.Errorf("%+v", good)
	}
}

// A change of a file counts at the next call.
func TestLoadSigners(t *testing.T) {
	s := newSigner(t)
	key, pub := s.sshKey("ed25519")
	raw := signSSH(t, s, key, "git", plainCommit)
	_, other := s.sshKey("ed25519")
	file := writeTestFile(t, "bob@example.com "+other)
	for _, want := range []error{ErrSignature, nil} {
		signers, err := LoadSigners(file, "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := signers.verify(raw, time.Now()); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
		if err := os.WriteFile(file, []byte("bob@example.com "+pub), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, files := range map[string][2]string{
		"no file": {"", ""}, "a missing one": {file, "/nonexistent/keys"}, "a folder": {t.TempDir(), ""}, "an empty one": {file, writeTestFile(t, "")},
	} {
		if _, err := LoadSigners(files[0], files[1]); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzVerify feeds what anybody who may push could write. Nothing may panic,
// and nothing that was not signed may be accepted.
func FuzzVerify(f *testing.F) {
	read := func(name string) []byte {
		text, err := os.ReadFile(filepath.Join("testdata", "signed", name))
		if err != nil {
			f.Fatal(err)
		}
		return text
	}
	signers := mustParse(f, string(read("allowed_signers")), read("keys.asc"))
	now := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, name := range []string{"ssh.commit", "openpgp.commit"} {
		if _, err := signers.verify(read(name), now); err != nil {
			f.Fatalf("%s: %v", name, err)
		}
		f.Add(read(name))
	}
	f.Add([]byte(plainCommit))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if _, err := signers.verify(raw, now); err == nil {
			if payload, _, err := splitCommit(raw); err != nil || string(payload) != plainCommit {
				t.Errorf("accepted, and never signed: %q", payload)
			}
		}
	})
}
