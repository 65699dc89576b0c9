package examples

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sealward/sealward/gitops/gitcmd/gittest"
)

// Everything that the example mounts is read again when Kubernetes exchanges it: links
// through ..data, which belong to root and which the agent may read by its group. Nothing
// is restarted, and no key is warned of.
func TestMountedFilesAreReadAgain(t *testing.T) {
	t.Parallel()
	needRoot(t)
	dir, err := os.MkdirTemp("", "sealward-mounts-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	const agent = 65532
	mount := func(name string, files map[string]string) {
		t.Helper()
		to := filepath.Join(dir, name)
		if err := os.MkdirAll(to, 0o755); err != nil {
			t.Fatal(err)
		}
		mounted := map[string]mountedFile{}
		for name, text := range files {
			mounted[name] = mountedFile{text, 0o440}
		}
		if err := exchange(to, mounted, agent); err != nil {
			t.Fatal(err)
		}
	}

	// The Git host, whose password changes later.
	hosted := filepath.Join(dir, "hosted")
	var password atomic.Value
	password.Store("first-password")
	backend, err := gittest.Backend(hosted)
	if err != nil {
		t.Fatal(err)
	}
	git := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, given, _ := r.BasicAuth(); given != password.Load() {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(w, r)
	}))
	git.Config.ErrorLog = log.New(io.Discard, "", 0)
	git.StartTLS()
	defer git.Close()
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: git.Certificate().Raw}))

	sh := func(script string) string {
		t.Helper()
		cmd := exec.Command("sh", "-ec", script)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "HOME="+dir, "GIT_CONFIG_GLOBAL="+filepath.Join(dir, "gitconfig"), "GIT_CONFIG_NOSYSTEM=1", "SEALWARD_KEYRING="+filepath.Join(dir, "all-keys"))
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", script, err)
		}
		return string(out)
	}
	write(t, filepath.Join(dir, "gitconfig"), "[user]\n\tname = dana\n\temail = dana@example.com\n[init]\n\tdefaultBranch = main\n", 0o600)
	sh(`git init -q --bare -b main hosted/secrets.git
		sealward init secrets && cd secrets && sealward workspace create orders --no-recovery && sealward workspace create billing --no-recovery
		for w in orders billing; do
			sealward create secret db -w $w --type key-value --acl r --from-literal password=one-$w
			printf 'name: all\nversion: v1alpha\ntype: grant\nworkspace: %s\ngrant: {policy_use_case_id: read-all-secrets, subjects: [users:id:alice, users:id:bob], effect: allow}\n' $w > workspaces/$w/grants/all.yaml
		done
		git add -A && git commit -q -m one && git remote add origin ../hosted/secrets.git && git push -q -u origin main`)
	token := func(who string) (secret, entries string) {
		file := filepath.Join(dir, who+".yaml")
		return strings.TrimSpace(sh("sealward token create --subject users:id:" + who + " --tokens " + file)), string(readFile(t, file))
	}
	alice, aliceEntry := token("alice")
	bob, bobEntry := token("bob")
	key := func(workspace string) string {
		return string(readFile(t, filepath.Join(dir, "all-keys", workspace+".agekey")))
	}

	certs := []map[string]string{certificate(t, 1), certificate(t, 2)}
	mount("keys", map[string]string{"billing.agekey": key("billing")})
	mount("tls", certs[0])
	mount("git", map[string]string{"username": "agent", "password": "first-password", "ca.crt": ca})
	mount("tokens", map[string]string{"tokens.yaml": bobEntry})
	mount("webhook", map[string]string{"secret": "first-secret-of-hooks"})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	mount("config", map[string]string{"agent.yaml": fmt.Sprintf(`
source: {url: %[1]s/secrets.git, interval: 1h, auth: {usernameFile: %[2]s/git/username, passwordFile: %[2]s/git/password, caFile: %[2]s/git/ca.crt}}
keyring: %[2]s/keys
state: %[2]s/var/state
audit: {file: %[2]s/var/audit.jsonl}
serve: {listen: "%[3]s", tls: {certFile: %[2]s/tls/tls.crt, keyFile: %[2]s/tls/tls.key}, tokensFile: %[2]s/tokens/tokens.yaml}
webhook: {secretFile: %[2]s/webhook/secret}
`, git.URL, dir, address)})
	if err := os.Mkdir(filepath.Join(dir, "var"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(dir, "var"), agent, agent); err != nil {
		t.Fatal(err)
	}
	program, err := exec.LookPath("sealward")
	if err != nil {
		t.Fatal(err)
	}
	text := readFile(t, program)
	if err := os.WriteFile(filepath.Join(dir, "sealward"), text, 0o755); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd := exec.Command(filepath.Join(dir, "sealward"), "agent", "-c", filepath.Join(dir, "config", "agent.yaml"))
	cmd.Stderr = &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: agent, Gid: agent, Groups: []uint32{agent}}, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
		if t.Failed() {
			t.Logf("%s", said.String())
		}
		if strings.Contains(said.String(), "can be read by other users") || strings.Contains(said.String(), "one-orders") {
			t.Errorf("the agent said:\n%s", said.String())
		}
	}()

	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	var shown int64 // serial number of the certificate
	ask := func(method, path, bearer, body string, header ...string) (int, string) {
		r, err := http.NewRequest(method, "https://"+address+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if bearer != "" {
			r.Header.Set("Authorization", "Bearer "+bearer)
		}
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		resp, err := client.Do(r)
		if err != nil {
			return 0, ""
		}
		defer resp.Body.Close()
		shown = resp.TLS.PeerCertificates[0].SerialNumber.Int64()
		text, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(text)
	}
	eventually := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("it did not happen: %s", what)
			}
		}
	}
	read := func(workspace, bearer string) (int, string) {
		return ask("GET", "/v1/workspaces/"+workspace+"/secrets/db/keys/password", bearer, "")
	}
	hook := func(secret string) int {
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write([]byte("ping"))
		code, _ := ask("POST", "/hooks/generic", "", "ping", "X-Signature", "sha256="+hex.EncodeToString(mac.Sum(nil)))
		return code
	}

	eventually("billing is served", func() bool { code, text := read("billing", bob); return code == 200 && text == "one-billing" })
	if code, text := read("orders", bob); code == 200 {
		t.Fatalf("orders is served without its key: %s", text)
	}
	if shown != 1 {
		t.Fatalf("certificate %d", shown)
	}

	mount("tls", certs[1])
	eventually("the new certificate is shown", func() bool { _, _ = read("billing", bob); return shown == 2 })

	mount("tokens", map[string]string{"tokens.yaml": aliceEntry})
	if code, _ := read("billing", bob); code != 401 {
		t.Errorf("bob's token is gone from the file: %d", code)
	}
	if code, _ := read("billing", alice); code != 200 {
		t.Errorf("alice's token is in the file: %d", code)
	}

	if code := hook("first-secret-of-hooks"); code != 202 {
		t.Errorf("a hook: %d", code)
	}
	mount("webhook", map[string]string{"secret": "second-secret-of-hooks"})
	if code := hook("first-secret-of-hooks"); code != 401 {
		t.Errorf("a hook with the old secret: %d", code)
	}

	mount("keys", map[string]string{"billing.agekey": key("billing"), "orders.agekey": key("orders")})
	eventually("orders is served with its key", func() bool {
		if code := hook("second-secret-of-hooks"); code != 202 {
			t.Fatalf("a hook: %d", code)
		}
		code, text := read("orders", alice)
		return code == 200 && text == "one-orders"
	})

	password.Store("second-password")
	sh(`cd secrets && printf two-billing | sealward set billing/db password 2> /dev/null && git commit -q -a -m two && git push -q`)
	hook("second-secret-of-hooks")
	mount("git", map[string]string{"username": "agent", "password": "second-password", "ca.crt": ca})
	eventually("Git is asked with the new password", func() bool {
		hook("second-secret-of-hooks")
		_, text := read("billing", alice)
		return text == "two-billing"
	})

	// A key that leaves takes its workspace along.
	mount("keys", map[string]string{"billing.agekey": key("billing")})
	eventually("orders is not served without its key", func() bool {
		hook("second-secret-of-hooks")
		code, _ := read("orders", alice)
		return code == 404 || code == 403
	})
	if code, _ := read("billing", alice); code != 200 {
		t.Errorf("billing: %d", code)
	}
}

// certificate is a pair of files as Kubernetes keeps them.
func certificate(t *testing.T, serial int64) map[string]string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "sealward"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"sealward.sealward.svc"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		"tls.crt": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		"tls.key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})),
	}
}
