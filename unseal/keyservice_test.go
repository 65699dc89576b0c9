package unseal_test

import (
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/keyring"
	"github.com/sealward/sealward/unseal/unsealtest"
)

// keys is a keyring folder under test.
type keys struct {
	t   *testing.T
	dir string
	*keyring.Keyring
}

func newKeys(t *testing.T, files map[string]string) *keys {
	t.Helper()
	k := &keys{t: t, dir: t.TempDir()}
	for name, text := range files {
		k.write(name, text)
	}
	var err error
	if k.Keyring, err = keyring.Open(k.dir); err != nil {
		t.Fatal(err)
	}
	return k
}

func (k *keys) write(name, text string) {
	k.t.Helper()
	if err := os.WriteFile(filepath.Join(k.dir, name), []byte(text), 0o600); err != nil {
		k.t.Fatal(err)
	}
}

func (k *keys) ring() *keyring.Ring {
	k.t.Helper()
	r, err := k.Ring(orders(k.t))
	if err != nil {
		k.t.Fatal(err)
	}
	return r
}

func orders(t testing.TB) manifest.Workspace {
	t.Helper()
	ws, err := manifest.ParseWorkspace("orders")
	if err != nil {
		t.Fatal(err)
	}
	return ws
}

func rcpt(t testing.TB, s string) workspace.Recipient {
	t.Helper()
	r, err := workspace.ParseRecipient(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// sealFor seals with the services that the keyring lists.
func sealFor(k *keyring.Keyring, ws manifest.Workspace, to workspace.Recipients) (string, error) {
	services, err := k.Services(ws)
	if err != nil {
		return "", err
	}
	m, err := manifest.Parse("x.yaml", []byte(plain))
	if err != nil {
		return "", err
	}
	out, err := seal.Seal(m, to, seal.Options{Now: now, Keys: unseal.KeyService(services)})
	return string(out), err
}

// mustFail wants an error with a text, and without a value or a token.
func mustFail(t *testing.T, what string, err error, want ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error", what)
		return
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%s: %v\nlacks %q", what, err, w)
		}
	}
	for _, secret := range []string{"hunter2", unsealtest.Token, "SECRET"} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the error holds %q: %v", what, secret, err)
		}
	}
}

func transitYAML(key string, more ...string) string {
	return "workspaces:\n  orders:\n    transit: [{key: '" + key + "', tokenFile: vault.token" + strings.Join(more, "") + "}]\n"
}

// Sealed and opened by a transit engine, over TLS with a CA of its own, without
// any private key here.
func TestTransit(t *testing.T) {
	t.Setenv("VAULT_MAX_RETRIES", "0") // Vault's client waits a second before each
	s := unsealtest.Transit(true)
	defer s.Close()
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	k := newKeys(t, map[string]string{"keyring.yaml": transitYAML(s.Key("orders"), ", caFile: ca.pem"), "vault.token": unsealtest.Token + "\n", "ca.pem": ca})
	sealed, err := sealFor(k.Keyring, orders(t), workspace.For(rcpt(t, s.Key("orders"))))
	if err != nil {
		t.Fatal(err)
	}
	o, err := open(sealed, k.ring(), unseal.Options{})
	if err != nil || values(o)["password"] != "hunter2" {
		t.Fatal(err)
	}
	if got := fmt.Sprint(s.Calls()); got != "[PUT /v1/transit/encrypt/orders PUT /v1/transit/decrypt/orders]" {
		t.Errorf("calls: %s", got)
	}

	// What Vault's client and SOPS read of the environment changes nothing.
	home := t.TempDir()
	if err := os.WriteFile(filepath.Join(home, ".vault-token"), []byte("stolen"), 0o600); err != nil {
		t.Fatal(err)
	}
	foreign := unsealtest.Transit(false)
	defer foreign.Close()
	t.Run("environment", func(t *testing.T) {
		for name, v := range map[string]string{"HOME": home, "VAULT_TOKEN": "stolen", "VAULT_ADDR": foreign.URL, "VAULT_NAMESPACE": "x", "VAULT_HEADERS": `{"X-Leak": "y"}`, "VAULT_SKIP_VERIFY": "true", "VAULT_PROXY_ADDR": foreign.URL, "HTTPS_PROXY": ""} {
			t.Setenv(name, v)
		}
		if _, err := open(sealed, k.ring(), unseal.Options{}); err != nil {
			t.Error(err)
		}
		t.Setenv("VAULT_AGENT_ADDR", foreign.URL) // it would go before the address
		_, err := open(sealed, k.ring(), unseal.Options{})
		mustFail(t, "VAULT_AGENT_ADDR", err, "led to another address")
		if len(foreign.Calls()) != 0 {
			t.Errorf("the environment led somewhere else: %v", foreign.Calls())
		}
	})

	// A redirect to another host or path is not followed; the token stays here.
	for _, to := range []string{foreign.URL + "/v1/transit/decrypt/orders", s.URL + "/v1/transit/decrypt/payments"} {
		before := len(s.Calls())
		s.Fail(func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, to, http.StatusTemporaryRedirect)
			return true
		})
		_, err := open(sealed, k.ring(), unseal.Options{})
		mustFail(t, "redirect to "+to, err, "key service", s.Key("orders"))
		if !errors.Is(err, unseal.ErrService) {
			t.Errorf("%v is no ErrService", err)
		}
		for _, call := range s.Calls()[before:] {
			if !strings.HasSuffix(call, "/decrypt/orders") {
				t.Errorf("followed to %s", call)
			}
		}
	}
	if len(foreign.Calls()) != 0 {
		t.Errorf("a redirect was followed to another host: %v", foreign.Calls())
	}

	// Refusals and odd answers are reported in own words.
	for name, c := range map[string]struct {
		status int
		body   string
		want   string
	}{
		"denied":         {403, `{"errors":["permission denied, hunter2"]}`, "status 403"},
		"no data key":    {200, `{"data":{"plaintext":"aHVudGVyMg=="}}`, "something else than a data key"},
		"nothing":        {200, `{}`, "failed"},
		"not JSON":       {200, `hunter2`, "failed"},
		"a huge answer":  {200, `{"data":{"plaintext":"` + strings.Repeat("A", 2<<20) + `"}}`, "failed"},
		"no bytes":       {200, `{"data":{"plaintext":"hunter2!"}}`, "failed"},
		"too many tries": {429, `{"errors":[]}`, "429"},
	} {
		s.Fail(func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(c.status)
			_, _ = w.Write([]byte(c.body))
			return true
		})
		_, err := open(sealed, k.ring(), unseal.Options{})
		mustFail(t, name, err, c.want)
	}
	s.Fail(nil)

	// A certificate that nobody vouches for, a token that is missing or denied.
	k.write("keyring.yaml", transitYAML(s.Key("orders")))
	_, err = open(sealed, k.ring(), unseal.Options{})
	mustFail(t, "unknown CA", err, "certificate is not trusted")
	k.write("keyring.yaml", transitYAML(s.Key("orders"), ", caFile: ca.pem"))
	k.write("vault.token", "wrong")
	_, err = open(sealed, k.ring(), unseal.Options{})
	mustFail(t, "wrong token", err, "status 403")
	k.write("vault.token", "")
	before := len(s.Calls())
	t.Setenv("VAULT_TOKEN", unsealtest.Token)
	_, err = open(sealed, k.ring(), unseal.Options{})
	mustFail(t, "empty token file", err, "tokenFile is empty")
	if len(s.Calls()) != before {
		t.Error("the environment's token was used")
	}
}

// A service that hangs is given up, and not asked again for a while: a thousand
// manifests must not wait one after the other.
func TestServiceThatHangs(t *testing.T) {
	s := unsealtest.Transit(false)
	defer s.Close()
	k := newKeys(t, map[string]string{"keyring.yaml": transitYAML(s.Key("orders")), "vault.token": unsealtest.Token})
	sealed, err := sealFor(k.Keyring, orders(t), workspace.For(rcpt(t, s.Key("orders"))))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	defer close(done)
	s.Fail(func(_ http.ResponseWriter, r *http.Request) bool {
		select {
		case <-done:
		case <-r.Context().Done():
		}
		return true
	})
	ring := k.ring()
	started := time.Now()
	_, err = open(sealed, ring, unseal.Options{})
	mustFail(t, "hangs", err, "did not answer within 10s")
	if d := time.Since(started); d < 5*time.Second || d > 20*time.Second {
		t.Errorf("gave up after %s", d)
	}
	started = time.Now()
	_, err = open(sealed, ring, unseal.Options{})
	mustFail(t, "again", err, "is not asked again yet")
	if d := time.Since(started); d > time.Second {
		t.Errorf("again took %s", d)
	}
}

const testARN = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"

func TestAWS(t *testing.T) {
	s := unsealtest.KMS()
	defer s.Close()
	key, err := workspace.ParseAWS(testARN, "", map[string]string{"Team": "orders"}, "of-the-file")
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]string{"AWS_ENDPOINT_URL_KMS": s.URL, "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "EXAMPLE", "AWS_CA_BUNDLE": "",
		"AWS_CONFIG_FILE": filepath.Join(t.TempDir(), "none"), "AWS_SHARED_CREDENTIALS_FILE": filepath.Join(t.TempDir(), "none"), "AWS_EC2_METADATA_DISABLED": "true"} {
		t.Setenv(name, v)
	}
	k := newKeys(t, map[string]string{"keyring.yaml": "workspaces: {orders: {aws: [{key: '" + testARN + "', context: {Team: orders}, ambient: true}]}}"})
	// The profile that the rule names is not used: it is not there.
	sealed, err := sealFor(k.Keyring, orders(t), workspace.For(key))
	if err != nil {
		t.Fatal(err)
	}
	o, err := open(sealed, k.ring(), unseal.Options{})
	if err != nil || values(o)["password"] != "hunter2" {
		t.Fatal(err)
	}
	if got := fmt.Sprint(s.Calls()); got != "[POST / TrentService.Encrypt POST / TrentService.Decrypt]" {
		t.Errorf("calls: %s", got)
	}
	// Another context is another key.
	_, err = open(strings.Replace(sealed, "Team: orders", "Team: other", 1), k.ring(), unseal.Options{})
	mustFail(t, "another context", err, testARN, "was not asked", "context: {'Team': 'other'}")
	if len(s.Calls()) != 2 {
		t.Errorf("it was asked: %v", s.Calls())
	}
	s.Fail(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"__type":"AccessDeniedException","message":"hunter2"}`))
		return true
	})
	_, err = open(sealed, k.ring(), unseal.Options{})
	mustFail(t, "denied", err, "status 400")

	// With credentials of its own, the environment does not choose where they go.
	k.write("keyring.yaml", "workspaces: {orders: {aws: [{key: '"+testARN+"', context: {Team: orders}, credentialsFile: aws.ini}]}}")
	k.write("aws.ini", "[default]\naws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = SECRET\n")
	before := len(s.Calls())
	_, err = open(sealed, k.ring(), unseal.Options{})
	mustFail(t, "an endpoint of the environment", err, "AWS_ENDPOINT_URL_KMS")
	t.Setenv("AWS_ENDPOINT_URL_KMS", "")
	config := filepath.Join(k.dir, "config")
	k.write("config", "[default]\nendpoint_url = "+s.URL+"\n")
	t.Setenv("AWS_CONFIG_FILE", config)
	_, err = open(sealed, k.ring(), unseal.Options{})
	mustFail(t, "an endpoint of ~/.aws/config", err, "led to another address")
	if len(s.Calls()) != before {
		t.Errorf("credentials went somewhere else: %v", s.Calls())
	}
	// A credentials file names keys, and no program.
	k.write("aws.ini", "[default]\ncredential_process = touch "+filepath.Join(k.dir, "ran")+"\n")
	_, err = open(sealed, k.ring(), unseal.Options{})
	mustFail(t, "a program", err, "credentialsFile has no aws_access_key_id")
	if _, err := os.Stat(filepath.Join(k.dir, "ran")); err == nil {
		t.Error("a program was run")
	}
}

// Other credentials than those described are refused before anything is sent.
func TestGCPAndAzureCredentials(t *testing.T) {
	const gcp = "projects/p/locations/global/keyRings/r/cryptoKeys/orders"
	const azure = "https://orders.vault.azure.net/keys/sops/0123456789abcdef0123456789abcdef"
	k := newKeys(t, map[string]string{"keyring.yaml": "workspaces: {orders: {gcp: [{key: '" + gcp + "', credentialsFile: sa.json}], azure: [{key: '" + azure + "', tenantID: t, clientID: c, clientSecretFile: azure.secret}]}}"})
	_, err := sealFor(k.Keyring, orders(t), workspace.For(rcpt(t, azure)))
	mustFail(t, "no client secret", err, azure, "clientSecretFile cannot be read")
	_, err = sealFor(k.Keyring, orders(t), workspace.For(rcpt(t, gcp)))
	mustFail(t, "no credentials", err, gcp, "credentialsFile cannot be read")
	k.write("sa.json", `{"type": "external_account", "credential_source": {"executable": {"command": "touch ran"}}}`)
	_, err = sealFor(k.Keyring, orders(t), workspace.For(rcpt(t, gcp)))
	mustFail(t, "a program", err, "not a service account's JSON")
	t.Setenv("SOPS_GCP_KMS_ENDPOINT", "127.0.0.1:1")
	_, err = sealFor(k.Keyring, orders(t), workspace.For(rcpt(t, gcp)))
	mustFail(t, "an endpoint of the environment", err, "SOPS_GCP_KMS_ENDPOINT")
}

// gpg is the real program. Its absence fails the test: what cannot be tried must
// not pass.
func gpg(t *testing.T, home string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("gpg"); err != nil {
		t.Fatal("gpg is missing: install gnupg")
	}
	cmd := exec.Command("gpg", append([]string{"--homedir", home, "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("gpg %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// gpgHome makes a GnuPG home with a key for each name, and gives their
// fingerprints. Its agent ends with the test.
func gpgHome(t *testing.T, names ...string) (home string, fingerprints []string) {
	t.Helper()
	home, err := os.MkdirTemp("", "gpg") // short: it holds the agent's socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run()
		_ = os.RemoveAll(home)
	})
	for _, name := range names {
		gpg(t, home, "--quick-generate-key", name+" <"+name+"@example.com>", "future-default", "default", "never")
	}
	for line := range strings.Lines(gpg(t, home, "--list-secret-keys", "--with-colons")) {
		f := strings.Split(line, ":")
		if f[0] == "sec" {
			fingerprints = append(fingerprints, "")
		}
		if f[0] == "fpr" && fingerprints[len(fingerprints)-1] == "" {
			fingerprints[len(fingerprints)-1] = f[9]
		}
	}
	return home, fingerprints
}

// A PGP key opens where keyring.yaml lists it, with the home that it names and
// with that key alone, whatever else the home has.
func TestPGP(t *testing.T) {
	home, fprs := gpgHome(t, "dana", "bob")
	k := newKeys(t, map[string]string{"keyring.yaml": "workspaces: {orders: {pgp: [{fingerprint: " + fprs[0] + ", home: " + home + "}]}}"})
	t.Setenv("GNUPGHOME", home) // sealing is the local gpg's
	dana, err := sealFor(k.Keyring, orders(t), workspace.For(rcpt(t, fprs[0])))
	if err != nil {
		t.Fatal(err)
	}
	bob, err := sealFor(k.Keyring, orders(t), workspace.For(rcpt(t, fprs[1])))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("GNUPGHOME", t.TempDir())
	o, err := open(dana, k.ring(), unseal.Options{})
	if err != nil || values(o)["password"] != "hunter2" {
		t.Fatal(err)
	}
	_, err = open(bob, k.ring(), unseal.Options{})
	mustFail(t, "a key that is not listed", err, fprs[1], "was not asked")
	// A name is only a label.
	_, err = open(strings.ReplaceAll(bob, fprs[1], fprs[0]), k.ring(), unseal.Options{})
	mustFail(t, "another key with the listed name", err, "another key than the one that is listed")

	// A message that unpacks to gigabytes is cut off.
	bomb := exec.Command("gpg", "--homedir", home, "--batch", "--trust-model", "always", "--compress-algo", "zlib", "-a", "-e", "-r", fprs[0])
	bomb.Stdin = strings.NewReader(strings.Repeat("\x00", 4<<20))
	message, err := bomb.Output()
	if err != nil {
		t.Fatal(err)
	}
	start := strings.Index(dana, "-----BEGIN PGP")
	end := strings.Index(dana, "-----END PGP MESSAGE-----")
	indented := strings.ReplaceAll(strings.TrimSpace(string(message)), "\n", "\n            ")
	_, err = open(dana[:start]+indented+dana[end+len("-----END PGP MESSAGE-----"):], k.ring(), unseal.Options{})
	mustFail(t, "a message of 4 MiB", err, "gpg did not open it")

	// A home that others can enter is refused, and $GNUPGHOME not taken instead.
	t.Setenv("GNUPGHOME", home)
	other := t.TempDir()
	if err := os.Chmod(other, 0o755); err != nil {
		t.Fatal(err)
	}
	k.write("keyring.yaml", "workspaces: {orders: {pgp: [{fingerprint: "+fprs[0]+", home: "+other+"}]}}")
	_, err = open(dana, k.ring(), unseal.Options{})
	mustFail(t, "an open home", err, "chmod 700")
}

// What a file names and keyring.yaml does not list is refused before anything is
// contacted or run, and the refusal names it.
func TestNothingElseIsContacted(t *testing.T) {
	s, aws := unsealtest.Transit(false), unsealtest.KMS()
	defer s.Close()
	defer aws.Close()
	// Programs in PATH that note that they were run.
	bin, ran := t.TempDir(), filepath.Join(t.TempDir(), "ran")
	for _, name := range []string{"gpg", "age-plugin-yubikey", "aws", "gpg-agent"} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\necho $0 >> "+ran+"\nexit 1\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, v := range map[string]string{"PATH": bin + string(os.PathListSeparator) + os.Getenv("PATH"), "VAULT_TOKEN": unsealtest.Token, "AWS_ENDPOINT_URL": aws.URL,
		"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "EXAMPLE", "SOPS_AGE_KEY_CMD": filepath.Join(bin, "aws"), "SOPS_AGE_SSH_PRIVATE_KEY_CMD": filepath.Join(bin, "aws")} {
		t.Setenv(name, v)
	}
	own := newParty(t)
	k := newKeys(t, map[string]string{"orders.agekey": newParty(t).id, "vault.token": unsealtest.Token, "keyring.yaml": "workspaces:\n  payments:\n    transit: [{key: '" + s.Key("payments") + "', tokenFile: vault.token}]\n"})
	sealed := mustSeal(t, plain, own.rcpt)
	start, end := strings.Index(sealed, "    age:\n"), strings.Index(sealed, "    lastmodified:")
	created := "          created_at: \"2026-01-02T03:04:05Z\"\n"
	for name, c := range map[string]struct{ section, shows string }{
		"transit":                {"    hc_vault:\n        - vault_address: " + s.URL + "\n          engine_path: transit\n          key_name: orders\n" + created + "          enc: vault:v1:AAAA\n", s.Key("orders")},
		"another workspace's":    {"    hc_vault:\n        - vault_address: " + s.URL + "\n          engine_path: transit\n          key_name: payments\n" + created + "          enc: vault:v1:AAAA\n", s.Key("payments")},
		"KMS":                    {"    kms:\n        - arn: " + testARN + "\n" + created + "          enc: AAAA\n", testARN},
		"KMS with a profile":     {"    kms:\n        - arn: " + testARN + "\n" + created + "          enc: AAAA\n          aws_profile: x\n", testARN},
		"PGP":                    {"    pgp:\n        - fp: 0123456789ABCDEF0123456789ABCDEF01234567\n" + created + "          enc: x\n", "0123456789ABCDEF"},
		"GCP":                    {"    gcp_kms:\n        - resource_id: projects/p/locations/l/keyRings/r/cryptoKeys/k\n" + created + "          enc: AAAA\n", "projects/p"},
		"Azure":                  {"    azure_kv:\n        - vault_url: https://x.vault.azure.net\n          name: k\n          version: abcd\n" + created + "          enc: AAAA\n", "https://x.vault.azure.net"},
		"Azure without version":  {"    azure_kv:\n        - vault_url: https://x.vault.azure.net\n          name: k\n          version: \"\"\n" + created + "          enc: AAAA\n", ""},
		"Huawei":                 {"    hckms:\n        - key_id: eu-west-101:abc\n" + created + "          enc: AAAA\n", ""},
		"an age plugin":          {"    age:\n        - recipient: age1yubikey1qwt50d05nh5vutpdzmlg5wn80xq5negm4uj9ghv0snvdd3yysf5yw3rhl3t\n          enc: |\n            -----BEGIN AGE ENCRYPTED FILE-----\n            -----END AGE ENCRYPTED FILE-----\n", "age1yubikey1"},
		"a shell in the address": {"    hc_vault:\n        - vault_address: \"" + s.URL + "/$(touch x)\"\n          engine_path: transit\n          key_name: orders\n" + created + "          enc: x\n", ""},
	} {
		file := sealed[:start] + c.section + sealed[end:]
		_, err := open(file, k.ring(), unseal.Options{})
		mustFail(t, name, err, c.shows)
		if !errors.Is(err, unseal.ErrNotRecipient) {
			var tamper *seal.TamperError
			if !errors.As(err, &tamper) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	// The same for sealing.
	for _, to := range []string{s.Key("orders"), testARN} {
		_, err := sealFor(k.Keyring, orders(t), workspace.For(rcpt(t, to)))
		mustFail(t, "seal for "+to, err, to, "is not listed", "workspaces:\n  orders:\n")
	}
	if calls := append(s.Calls(), aws.Calls()...); len(calls) > 0 {
		t.Errorf("contacted: %v", calls)
	}
	if text, err := os.ReadFile(ran); err == nil {
		t.Errorf("run: %s", text)
	}
}

// Shamir's groups: as many as the threshold says open, be they keys of the ring or
// services; fewer do not.
func TestKeyGroups(t *testing.T) {
	s := unsealtest.Transit(false)
	defer s.Close()
	a, b := newParty(t), newParty(t)
	k := newKeys(t, map[string]string{"orders.agekey": a.id, "vault.token": unsealtest.Token, "keyring.yaml": transitYAML(s.Key("orders"))})
	rules, err := workspace.ParseRules([]byte("creation_rules:\n- path_regex: ^workspaces/orders/\n  shamir_threshold: 2\n  key_groups:\n  - age: [" + a.rcpt.String() + "]\n  - age: [" + b.rcpt.String() + "]\n  - hc_vault: ['" + s.Key("orders") + "']\n"))
	if err != nil {
		t.Fatal(err)
	}
	to, err := rules.WorkspaceRecipients(orders(t))
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := sealFor(k.Keyring, orders(t), to)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		ring *keyring.Ring
		ok   bool
	}{"one key": {ring(t, "orders", a), false}, "two keys": {ring(t, "orders", a, b), true}, "a key and a service": {k.ring(), true}} {
		o, err := open(sealed, c.ring, unseal.Options{})
		if (err == nil) != c.ok || c.ok && values(o)["password"] != "hunter2" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A hostile section costs little, however it is filled.
func TestHostileSections(t *testing.T) {
	s := unsealtest.Transit(false)
	defer s.Close()
	own := newParty(t)
	k := newKeys(t, map[string]string{"orders.agekey": newParty(t).id, "vault.token": unsealtest.Token, "keyring.yaml": transitYAML(s.Key("orders"))})
	sealed := mustSeal(t, plain, own.rcpt)
	start, end := strings.Index(sealed, "    age:\n"), strings.Index(sealed, "    lastmodified:")
	created := "          created_at: \"2026-01-02T03:04:05Z\"\n"
	stanza := "        - vault_address: " + s.URL + "\n          engine_path: transit\n          key_name: orders\n" + created + "          enc: vault:v1:AAAA\n"
	ageStanza := sealed[start+len("    age:\n") : end]
	group := "        - age: []\n"
	for name, c := range map[string]struct {
		section string
		calls   int
	}{
		"200 listed stanzas":     {"    hc_vault:\n" + strings.Repeat(stanza, 200), 8},
		"5,000 listed stanzas":   {"    hc_vault:\n" + strings.Repeat(stanza, 5000), 0},
		"250 age stanzas":        {"    age:\n" + strings.Repeat(ageStanza, 250), 0},
		"empty groups":           {"    shamir_threshold: 2\n    key_groups:\n" + strings.Repeat(group, 2000), 0},
		"a group, empty ones":    {"    shamir_threshold: 0\n    key_groups:\n        - hc_vault:\n" + strings.ReplaceAll(stanza, "        ", "            ") + strings.Repeat(group, 2000), 1},
		"a negative threshold":   {"    shamir_threshold: -1\n    key_groups:\n        - hc_vault:\n" + strings.ReplaceAll(stanza, "        ", "            ") + group, 1},
		"a stanza without a key": {"    hc_vault:\n        - {}\n", 0},
	} {
		before, started := len(s.Calls()), time.Now()
		_, err := open(sealed[:start]+c.section+sealed[end:], k.ring(), unseal.Options{})
		mustFail(t, name, err)
		if n := len(s.Calls()) - before; n != c.calls {
			t.Errorf("%s: %d calls, want %d", name, n, c.calls)
		}
		if d := time.Since(started); d > 5*time.Second {
			t.Errorf("%s took %s", name, d)
		}
	}
}

// What the ordinary sops encrypts for SSH and PGP recipients, transit and key
// groups opens here, and what is sealed here opens with it.
func TestSOPSBothWays(t *testing.T) {
	sops, err := filepath.Abs("../bin/tools/sops")
	if err == nil {
		_, err = os.Stat(sops)
	}
	if err != nil {
		t.Fatal("sops is missing: run make tools")
	}
	s := unsealtest.Transit(false)
	defer s.Close()
	home, fprs := gpgHome(t, "dana")
	dir := t.TempDir()
	sshKey := filepath.Join(dir, "id_ed25519")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "dana", "-f", sshKey).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	public, _ := os.ReadFile(sshKey + ".pub")
	private, _ := os.ReadFile(sshKey)
	f := strings.Fields(string(public))
	ssh := rcpt(t, f[0]+" "+f[1])
	x, pq := newParty(t), newParty(t)
	hybrid, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	pq = asParty(t, hybrid.String(), hybrid.Recipient().String())
	identities := filepath.Join(dir, "keys.txt")
	if err := os.WriteFile(identities, []byte(x.id+"\n"+pq.id+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(in string, args ...string) string {
		t.Helper()
		cmd := exec.Command(sops, args...)
		cmd.Stdin = strings.NewReader(in)
		cmd.Env = append(os.Environ(), "HOME="+dir, "GNUPGHOME="+home, "VAULT_TOKEN="+unsealtest.Token, "SOPS_AGE_KEY_FILE="+identities, "SOPS_AGE_SSH_PRIVATE_KEY_FILE="+sshKey)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("sops %v: %v", args, err)
		}
		return string(out)
	}
	services := "workspaces:\n  orders:\n    pgp: [{fingerprint: " + fprs[0] + ", home: " + home + "}]\n    transit: [{key: '" + s.Key("orders") + "', tokenFile: vault.token}]\n"
	t.Setenv("GNUPGHOME", home)
	config := filepath.Join(dir, "groups.yaml")
	if err := os.WriteFile(config, []byte("creation_rules:\n- shamir_threshold: 2\n  key_groups:\n  - age: ["+x.rcpt.String()+"]\n  - hc_vault: ['"+s.Key("orders")+"']\n  - pgp: ["+fprs[0]+"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		to   workspace.Recipient
		ring string
	}{
		"age":          {[]string{"--age", x.rcpt.String()}, x.rcpt, x.id},
		"post-quantum": {[]string{"--age", pq.rcpt.String()}, pq.rcpt, pq.id},
		"ssh":          {[]string{"--age", ssh.String()}, ssh, string(private)},
		"pgp":          {[]string{"--pgp", fprs[0]}, rcpt(t, fprs[0]), ""},
		"transit":      {[]string{"--hc-vault-transit", s.Key("orders")}, rcpt(t, s.Key("orders")), ""},
		"groups":       {nil, workspace.Recipient{}, ""},
	} {
		files := map[string]string{"keyring.yaml": services, "vault.token": unsealtest.Token}
		if c.ring != "" {
			files["orders.agekey"] = c.ring
		}
		k := newKeys(t, files)
		cfg := "/dev/null"
		if c.args == nil {
			cfg = config
		}
		encrypted := run(plain, append([]string{"--config", cfg, "-e", "--encrypted-regex", manifest.SealedPattern, "--input-type", "yaml", "--output-type", "yaml"}, append(c.args, "/dev/stdin")...)...)
		o, err := open(encrypted, k.ring(), unseal.Options{AllowUnbound: true})
		if err != nil || values(o)["password"] != "hunter2" {
			t.Errorf("%s: what sops encrypted does not open: %v", name, err)
		}
		if c.to.IsZero() {
			continue
		}
		sealed, err := sealFor(k.Keyring, orders(t), workspace.For(c.to))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if out := run(sealed, "-d", "--input-type", "yaml", "--output-type", "yaml", "/dev/stdin"); !strings.Contains(out, "password: hunter2") {
			t.Errorf("%s: sops does not open what was sealed:\n%s", name, out)
		}
	}
}

// BenchmarkOpenRetired opens with 1 and with 50 identities in the ring, the last
// of which fits: the identity is found by recipient, so it costs the same.
func BenchmarkOpenRetired(b *testing.B) {
	p := newParty(b)
	sealed := mustSeal(b, plain, p.rcpt)
	for _, n := range []int{1, 50} {
		var parties []party
		for range n - 1 {
			parties = append(parties, newParty(b))
		}
		r := ring(b, "orders", append(parties, p)...)
		b.Run(fmt.Sprintf("identities=%d", n), func(b *testing.B) {
			for b.Loop() {
				if _, err := open(sealed, r, unseal.Options{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	runtime.KeepAlive(sealed)
}
