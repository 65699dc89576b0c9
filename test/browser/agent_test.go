package browser

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// values are what the demonstration seals. No page may hold one of them.
var values = []string{"correct-horse-battery", "staple-4711-orders", "whsec-tr0ub4dor", "registry-pull-9f3k"}

// world is a repository with sealed secrets, and what is needed to serve it.
type world struct {
	t        *testing.T
	dir      string
	sealward string
	pin      string // base64 of SHA-256 of the certificate's public key
	roots    *x509.CertPool
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, dir: t.TempDir()}
	w.sealward = filepath.Join(w.dir, "bin", "sealward")
	// Without cgo, as the tests of examples/ build it: everything is compiled once for both.
	w.run("../..", nil, "env", "CGO_ENABLED=0", "go", "build", "-o", w.sealward, "./cmd/sealward")
	w.write("gitconfig", "[user]\n\tname = dana\n\temail = dana@example.com\n[init]\n\tdefaultBranch = main\n")
	w.certificate()
	repo := filepath.Join(w.dir, "secrets")
	seal := func(in string, args ...string) { w.run(w.dir, []byte(in), w.sealward, append(args, "--repo", repo)...) }
	seal("", "init", repo)
	for _, ws := range []string{"orders", "payments", "--instance"} {
		seal("", "workspace", "create", ws)
	}
	grant := func(ws, name, body string) {
		dir, scope := "workspaces/"+ws, "workspace: "+ws+"\n"
		if ws == "instance" {
			dir, scope = ws, ""
		}
		w.write("secrets/"+dir+"/grants/"+name+".yaml", fmt.Sprintf("name: %s\nversion: v1alpha\n%s%s\n", name, scope, body))
	}
	grant("orders", "orders-dev", "type: role\nrole: {members: [users:id:alice, users:id:bob]}")
	grant("orders", "readers", "type: grant\ngrant: {policy_use_case_id: read-specific-secret, subjects: [roles:id:orders-dev], secrets: [orders-db-*], effect: allow}")
	grant("orders", "api", "type: grant\ngrant: {policy_use_case_id: read-specific-secret, subjects: [users:id:orders-service], secrets: [orders-api, orders-db-r], keys: [token, username], effect: allow}")
	grant("orders", "list", "type: grant\ngrant: {policy_use_case_id: list-secrets, subjects: [roles:id:orders-dev], effect: allow}")
	grant("payments", "billing", "type: grant\ngrant: {policy_use_case_id: read-all-secrets, subjects: [users:id:billing-service], effect: allow}")
	seal(values[0], "create", "secret", "orders-db-r", "-w", "orders", "--type", "key-value-properties", "--acl", "r", "--description", "Orders database, read only", "--from-literal", "username=orders", "--from-file", "password=-")
	w.commit("orders: the database", 40*24*time.Hour, "dana <dana@example.com>")
	seal(values[1], "create", "secret", "orders-db-rw", "-w", "orders", "--type", "key-value-properties", "--acl", "rw", "--description", "Orders database", "--from-file", "password=-")
	seal("", "create", "secret", "orders-api", "-w", "orders", "--type", "key-value", "--acl", "rw", "--parts", "--generate", "token=40", "--generate", "webhook=40")
	w.commit("orders: write access, and the API", 9*24*time.Hour, "erin <erin@example.com>")
	seal(values[2], "create", "secret", "card-processor", "-w", "payments", "--type", "key-value", "--acl", "r", "--description", "Webhook of the card processor", "--from-file", "signing=-")
	seal(values[3], "create", "secret", "registry-pull", "--instance", "--type", "key-value", "--acl", "r", "--from-file", "password=-")
	w.commit("payments: the webhook", 5*time.Hour, "frank <frank@example.com>")
	return w
}

func (w *world) write(name, text string) {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) read(name string) string {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join(w.dir, name))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(text)
}

func (w *world) run(dir string, in []byte, name string, args ...string) string {
	w.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(in)
	cmd.Env = append(os.Environ(), "SEALWARD_KEYRING="+filepath.Join(w.dir, "keys"), "GIT_CONFIG_GLOBAL="+filepath.Join(w.dir, "gitconfig"), "GIT_CONFIG_NOSYSTEM=1")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		w.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, errs.String())
	}
	return strings.TrimSpace(string(out))
}

// commit what is in the work tree, as if somebody had done so a while ago.
func (w *world) commit(message string, ago time.Duration, author string) {
	w.t.Helper()
	when := time.Now().Add(-ago).Format(time.RFC3339)
	repo := filepath.Join(w.dir, "secrets")
	w.run(repo, nil, "git", "add", "-A")
	w.run(repo, nil, "env", "GIT_COMMITTER_DATE="+when, "git", "commit", "-q", "--no-verify", "-m", message, "--date", when, "--author", author)
}

// breakSome commits a file that was tampered with and one that stands where it may not.
func (w *world) breakSome() {
	w.t.Helper()
	const sealed = "secrets/workspaces/orders/secrets/orders-db-rw.yaml"
	text := w.read(sealed)
	changed := regexp.MustCompile(`data:[A-Za-z0-9+/]{4}`).ReplaceAllString(text, "data:AAAA")
	if changed == text {
		w.t.Fatal("nothing to tamper with")
	}
	w.write(sealed, changed)
	w.write("secrets/workspaces/payments/secrets/orders-copy.yaml", text)
	w.commit("a hand edit", time.Minute, "erin <erin@example.com>")
}

// certificate makes one for 127.0.0.1 that the browser is told to expect.
func (w *world) certificate() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		w.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		w.t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		w.t.Fatal(err)
	}
	w.write("cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	w.write("key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})))
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	w.pin = base64.StdEncoding.EncodeToString(sum[:])
	w.roots = x509.NewCertPool()
	w.roots.AddCert(cert)
}

// agent is a running one.
type agent struct {
	*world
	name, url string
	client    *http.Client
}

// serve starts an agent that follows the repository.
func (w *world) serve(name string, withTLS bool) *agent {
	w.t.Helper()
	a := &agent{world: w, name: name, client: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: w.roots}}}}
	tlsFiles := ""
	if withTLS {
		tlsFiles = ", tls: {certFile: cert.pem, keyFile: key.pem}"
	}
	w.write(name+".yaml", fmt.Sprintf("source: {url: secrets, branch: main, interval: 1s}\nkeyring: keys\nstate: %s-state\nserve: {listen: \"127.0.0.1:0\", tokensFile: tokens.yaml, operators: [\"users:id:ops\"]%s}\n", name, tlsFiles))
	cmd := exec.Command(w.sealward, "agent", "-c", name+".yaml")
	cmd.Dir = w.dir
	log, err := os.Create(filepath.Join(w.dir, name+".log"))
	if err != nil {
		w.t.Fatal(err)
	}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			w.t.Errorf("agent %s: %v\n%s", name, err, w.read(name+".log"))
		}
		log.Close()
		for _, v := range values {
			if strings.Contains(w.read(name+".log"), v) {
				w.t.Error("the agent's log holds a value")
			}
		}
	})
	address := regexp.MustCompile(`address"?[=:]"?(https?://[^" \n]+)`)
	w.wait("the agent's address", func() bool {
		m := address.FindStringSubmatch(w.read(name + ".log"))
		if m != nil {
			a.url = m[1]
		}
		return m != nil
	})
	w.wait("a commit", func() bool { return a.get("/readyz", "").code == 200 })
	return a
}

// wait for what another process does.
func (w *world) wait(what string, done func() bool) {
	w.t.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("waited too long for %s", what)
		}
	}
}

func (w *world) token(who string) string {
	w.t.Helper()
	return w.run(w.dir, nil, w.sealward, "token", "create", "--subject", "users:id:"+who, "--tokens", "tokens.yaml")
}

type answer struct {
	code int
	body []byte
}

func (a *agent) get(path, token string) answer {
	a.t.Helper()
	r, err := http.NewRequest("GET", a.url+path, nil)
	if err != nil {
		a.t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := a.client.Do(r)
	if err != nil {
		a.t.Fatal(err)
	}
	defer resp.Body.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(resp.Body); err != nil {
		a.t.Fatal(err)
	}
	return answer{resp.StatusCode, body.Bytes()}
}

// failing is how many manifests the agent says are not served as committed.
func (a *agent) failing(token string) int {
	a.t.Helper()
	var s struct{ Counts struct{ Failing int } }
	if err := json.Unmarshal(a.get("/v1/status", token).body, &s); err != nil {
		a.t.Fatal(err)
	}
	return s.Counts.Failing
}
