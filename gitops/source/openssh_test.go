package source

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealward/sealward/gitops/gitcmd/gittest"
)

// The real sshd, with a host key of one kind.
func TestOpenSSH(t *testing.T) {
	r := newRepo(t)
	head := r.commit("main", "one", files{"a": "1"})
	server, err := gittest.ServeSSH(filepath.Dir(r.dir), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	host, port, _ := strings.Cut(server.Addr, ":")
	name := "[" + host + "]:" + port + " "
	newKey := func(kind string) (private, public string) {
		file := filepath.Join(t.TempDir(), "key")
		if out, err := exec.Command("ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "x", "-f", file).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		text, err := os.ReadFile(file + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		return file, strings.TrimSpace(string(text))
	}
	ed25519, otherHost := newKey("ed25519")
	_, rsaHost := newKey("rsa")
	hashed := writeTestFile(t, name+server.HostKey+"\n")
	if out, err := exec.Command("ssh-keygen", "-q", "-H", "-f", hashed).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, c := range []struct {
		name, known, key string
		want             error
	}{
		{"its key", writeTestFile(t, name+server.HostKey+"\n"), server.KeyFile, nil},
		{"its key, with a hashed name", hashed, server.KeyFile, nil},
		// The server must not choose a kind of key that the file does not list.
		{"its key among others", writeTestFile(t, name+server.HostKey+"\nelsewhere.example.com "+rsaHost+"\n"), server.KeyFile, nil},
		{"another key", writeTestFile(t, name+otherHost+"\n"), server.KeyFile, ErrUntrusted},
		{"a key of another kind", writeTestFile(t, name+rsaHost+"\n"), server.KeyFile, ErrUntrusted},
		{"another host only", writeTestFile(t, "elsewhere.example.com "+server.HostKey+"\n"), server.KeyFile, ErrConfig},
		{"another user's key", writeTestFile(t, name+server.HostKey+"\n"), ed25519, ErrAuth},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := r.open(Config{URL: "ssh://" + server.User + "@" + server.Addr + "/" + filepath.Base(r.dir), Branch: "main",
				Auth: Auth{SSHKeyFile: c.key, KnownHostsFile: c.known}})
			got, err := m.Fetch(t.Context())
			if c.want != nil {
				mustBe(t, err, c.want)
				return
			}
			if err != nil || got.String() != head {
				t.Fatalf("fetched %s: %v; want %s", got, err, head)
			}
			if looked, err := m.Look(t.Context()); err != nil || looked != got {
				t.Errorf("looked: %s, %v", looked, err)
			}
		})
	}
}
