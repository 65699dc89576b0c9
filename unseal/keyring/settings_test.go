package keyring_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal/keyring"
)

const (
	fingerprint = "0123456789ABCDEF0123456789ABCDEF01234567"
	transit     = "https://vault.example.com/v1/transit/keys/orders"
	arn         = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	role        = "arn:aws:iam::111122223333:role/sops"
	gcp         = "projects/p/locations/global/keyRings/r/cryptoKeys/orders"
	azure       = "https://orders.vault.azure.net/keys/sops/0123456789abcdef0123456789abcdef"
)

const everyService = `workspaces:
  orders:
    passphraseFile: orders.pass
    pgp: [{fingerprint: ` + fingerprint + `, home: gnupg}]
    transit: [{key: ` + transit + `, tokenFile: vault.token, caFile: ca.pem, namespace: team}]
    aws:
      - {key: '` + arn + `', role: '` + role + `', context: {Team: orders}, credentialsFile: aws.ini, profile: x}
      - {key: '` + arn + `', ambient: true}
    gcp: [{key: ` + gcp + `, credentialsFile: sa.json}]
    azure: [{key: ` + azure + `, tenantID: t, clientID: c, clientSecretFile: secret}]
  payments:
    pgp: [{fingerprint: ` + fingerprint + `, home: gnupg}]
`

// A ring may be services only. A key is found when it is the very same one: for
// AWS with role and context, whatever profile a file names.
func TestServices(t *testing.T) {
	f := newFolder(t)
	f.write("keyring.yaml", []byte(everyService))
	ring, err := f.Ring(scope(t, "orders"))
	if err != nil {
		t.Fatal(err)
	}
	if len(ring.Services().Keys()) != 6 || len(ring.Recipients()) != 0 {
		t.Errorf("services %v, recipients %v", ring.Services().Keys(), ring.Recipients())
	}
	if _, err := ring.ActiveRecipient(); !errors.Is(err, keyring.ErrNoIdentity) {
		t.Errorf("a ring without an identity: %v", err)
	}
	if mac := ring.Authenticate("x", nil); mac != nil || ring.Authentic("x", nil, mac) {
		t.Error("a ring without an identity authenticates")
	}
	if scopes, err := f.Workspaces(); err != nil || len(scopes) != 2 {
		t.Errorf("%v, %v", scopes, err)
	}
	aws := func(role string, context map[string]string, profile string) workspace.Recipient {
		r, err := workspace.ParseAWS(arn, role, context, profile)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	parse := func(s string) workspace.Recipient {
		r, err := workspace.ParseRecipient(s)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	team := map[string]string{"Team": "orders"}
	for _, c := range []struct {
		key  workspace.Recipient
		want bool
	}{
		{parse(fingerprint), true}, {parse(strings.ToLower(fingerprint)), true}, {parse(transit), true}, {parse(gcp), true}, {parse(azure), true},
		{aws(role, team, ""), true}, {aws(role, team, "of-the-file"), true}, {aws("", nil, ""), true},
		{aws(role, nil, ""), false}, {aws("", team, ""), false}, {aws(role+"2", team, ""), false}, {aws(role, map[string]string{"Team": "x"}, ""), false},
		{parse(transit + "2"), false}, {parse(strings.Replace(transit, "https", "http", 1)), false}, {parse(strings.Replace(transit, "vault.", "vault2.", 1)), false},
		{parse(strings.Replace(transit, "example.com", "example.com:8200", 1)), false}, {parse(gcp + "2"), false},
	} {
		svc, ok := ring.Services().Find(c.key)
		if ok != c.want {
			t.Errorf("%s: listed %v, want %v", c.key, ok, c.want)
		}
		// What to add for an unlisted key works when it is added.
		if !ok {
			advice := ring.Services().Advice(c.key)
			_, lines, _ := strings.Cut(advice, ":\n")
			g := newFolder(t)
			g.write("keyring.yaml", []byte(lines))
			services, err := g.Services(scope(t, "orders"))
			if strings.HasPrefix(c.key.String(), "http:") {
				if err == nil {
					t.Error("a token may be sent in the clear")
				}
				continue
			}
			if err != nil {
				t.Errorf("%v:\n%s", err, advice)
			} else if _, ok := services.Find(c.key); !ok {
				t.Errorf("the advice does not list %s:\n%s", c.key, advice)
			}
		} else if svc.Home != "" && !strings.HasPrefix(svc.Home, f.dir) {
			t.Errorf("home is %s", svc.Home)
		}
	}
}

func TestSettingsAreStrict(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"workspaces: {Orders: {}}", "workspaces"},
		{"workspaces: {orders: {pgpp: []}}", "pgpp is no setting here"},
		{"workspaces: {orders: {}}\n---\nx: y", "second document"},
		{"workspaces: {orders: {passphraseFile: *hunter2}}", "unknown anchor …"},
		{"workspaces: {orders: {passphraseFile: [hunter2]}}", "cannot unmarshal"},
		{"workspaces: {orders: {pgp: [{fingerprint: " + fingerprint + "}]}}", "needs home"},
		{"workspaces: {orders: {pgp: [{fingerprint: DEADBEEF, home: x}]}}", "none that sealward knows"},
		{"workspaces: {orders: {transit: [{key: '" + transit + "'}]}}", "needs tokenFile"},
		{"workspaces: {orders: {transit: [{key: '" + gcp + "', tokenFile: x}]}}", "another kind"},
		{"workspaces: {orders: {transit: [{key: 'http://vault.example.com/v1/transit/keys/a', tokenFile: x}]}}", "in the clear"},
		{"workspaces: {orders: {transit: [{key: '" + transit + "', tokenFile: x}, {key: '" + transit + "', tokenFile: y}]}}", "listed twice"},
		{"workspaces: {orders: {aws: [{key: '" + arn + "'}]}}", "credentialsFile, or ambient"},
		{"workspaces: {orders: {aws: [{key: '" + arn + "', credentialsFile: x, ambient: true}]}}", "credentialsFile, or ambient"},
		{"workspaces: {orders: {gcp: [{key: '" + gcp + "'}]}}", "credentialsFile, or ambient"},
		{"workspaces: {orders: {azure: [{key: '" + azure + "', tenantID: x}]}}", "clientSecretFile, or ambient"},
		{"workspaces: {orders: {azure: [{key: 'https://orders.vault.azure.net/keys/sops', ambient: true}]}}", "names no version"},
		{"workspaces:\n  orders: {pgp: [{fingerprint: " + fingerprint + ", home: g}]}\n  payments: {pgp: [{fingerprint: 1" + fingerprint[1:] + ", home: g}]}", "give each its own"},
	} {
		f := newFolder(t)
		f.write("keyring.yaml", []byte(c.text))
		f.write("orders.agekey", []byte(newAge(t).String()))
		_, err := f.Ring(scope(t, "orders"))
		if !errors.Is(err, keyring.ErrSettings) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s\n%v, want %q", c.text, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error repeats what stands there: %v", err)
		}
		if _, err := f.Workspaces(); !errors.Is(err, keyring.ErrSettings) {
			t.Errorf("%s: Workspaces: %v", c.text, err)
		}
	}
}
