package gitops_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/keyring"
	"github.com/sealward/sealward/unseal/unsealtest"
)

// A key service that is away takes no value away, and is asked again at the next
// look; so is a mistake in keyring.yaml no lost key. A service that is no longer
// listed is a key that left the ring.
func TestKeyServices(t *testing.T) {
	t.Setenv("VAULT_MAX_RETRIES", "0")
	s := unsealtest.Transit(false)
	defer s.Close()
	w := newWorld(t)
	put := func(name, text string) {
		t.Helper()
		must(t, os.WriteFile(filepath.Join(w.dir, "keys", name), []byte(text), 0o600))
	}
	listed := "workspaces:\n  orders:\n    transit: [{key: '" + s.Key("orders") + "', tokenFile: vault.token}]\n"
	put("keyring.yaml", listed)
	put("vault.token", unsealtest.Token)
	k, err := keyring.Open(filepath.Join(w.dir, "keys"))
	must(t, err)
	remote := func(value string) {
		t.Helper()
		ws, err := manifest.ParseWorkspace("orders")
		must(t, err)
		services, err := k.Services(ws)
		must(t, err)
		m, err := manifest.Parse("db.yaml", []byte("name: db\nversion: v1\ntype: secret\nworkspace: orders\nsecret:\n  type: key-value\n  acl: r\n  data: {k: "+value+"}\n"))
		must(t, err)
		to, err := workspace.ParseRecipient(s.Key("orders"))
		must(t, err)
		sealed, err := seal.Seal(m, workspace.For(to), seal.Options{Now: w.now, Keys: unseal.KeyService(services)})
		must(t, err)
		w.write("workspaces/orders/secrets/db.yaml", string(sealed))
	}
	remote("v1")
	w.commit("first")
	w.start()
	w.sync()
	w.want("orders/db/k=v1", "")
	// A restart opens nothing anew, so that it does not need the service.
	before := len(s.Calls())
	w.start()
	if n := len(s.Calls()) - before; n != 0 || w.served() != "orders/db/k=v1" {
		t.Errorf("%d calls after a restart, served %q", n, w.served())
	}

	remote("v2")
	s.Fail(func(rw http.ResponseWriter, _ *http.Request) bool {
		rw.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	w.commit("second")
	w.sync()
	w.want("orders/db/k=v1!", "orders/secrets/db:key-service")
	s.Fail(nil)
	w.sync() // no commit, no change of the keyring
	w.want("orders/db/k=v2", "")

	put("keyring.yaml", strings.Replace(listed, "transit", "transitt", 1))
	w.sync()
	if got := w.served(); got != "orders/db/k=v2" || !strings.Contains(w.log.String(), "transitt is no setting here") {
		t.Errorf("with a mistake in keyring.yaml served %q", got)
	}
	// The identity that goes in the meantime is noticed all the same.
	must(t, os.Rename(filepath.Join(w.dir, "keys", "orders.agekey"), filepath.Join(w.dir, "orders.agekey")))
	w.sync()
	if got := w.served(); got != "" {
		t.Errorf("without the identity served %q", got)
	}
	must(t, os.Rename(filepath.Join(w.dir, "orders.agekey"), filepath.Join(w.dir, "keys", "orders.agekey")))
	put("keyring.yaml", listed)
	w.sync()
	w.want("orders/db/k=v2", "")
	put("keyring.yaml", "workspaces: {}\n")
	w.sync()
	w.want("", "orders/secrets/db:no-key")
}
