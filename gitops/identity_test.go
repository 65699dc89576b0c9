package gitops

import (
	"strings"
	"testing"
)

// What the settings of identities must say, and what they must not.
func TestIdentitySettings(t *testing.T) {
	const rest = "keyring: k\nstate: s\nsource: {url: /r}\n"
	check := func(serve string) (Settings, error) {
		s, err := ParseSettings([]byte(rest+"serve:\n"+serve), "/etc/sealward")
		if err != nil {
			return s, err
		}
		return s, s.Check(false)
	}
	const tls = "  tls: {certFile: c, keyFile: k, clientCAFile: ca.pem, clientIdentity: %s}\n"
	cert := func(identity string) string { return strings.Replace(tls, "%s", identity, 1) }
	const issuer = "  - {issuer: 'https://id.example.com', audience: sealward, subject: {prefix: '%s'}}\n"
	oidc := func(prefixes ...string) string {
		out := "  oidc:\n"
		for i, p := range prefixes {
			out += strings.NewReplacer("%s", p, "id.", strings.Repeat("x", i)+"id.").Replace(issuer)
		}
		return out
	}
	for name, good := range map[string]string{
		"tokens":                     "  tokensFile: t\n",
		"one issuer, without tokens": oidc(""),
		"two issuers":                oidc("a/", "b/"),
		"kubernetes alone":           "  kubernetes: {audience: sealward}\n",
		"all":                        "  tokensFile: t\n  kubernetes: {audience: sealward, roles: {allow: ['system:serviceaccounts:orders']}}\n" + oidc("a/", "b/") + cert("{from: spiffe, trustDomain: example.org}"),
		"common names":               cert("{from: commonName}"),
	} {
		if _, err := check(good); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for want, bad := range map[string]string{
		"serve.tokensFile is missing":         "  listen: 127.0.0.1:0\n",
		"could name the same subject":         oidc("", "b/"),
		`begin with "corp/" and "corp/ci/"`:   oidc("corp/", "corp/ci/"),
		"this issuer stands twice":            oidc("a/") + strings.Replace(issuer, "%s", "b/", 1),
		"serve.kubernetes could name":         "  kubernetes: {audience: sealward}\n" + oidc("system:"),
		`"" and "system:serviceaccount:"`:     "  kubernetes: {audience: sealward}\n" + oidc(""),
		`"spiffe" and "spiffe://example.org/`: oidc("spiffe") + cert("{from: spiffe, trustDomain: example.org}"),
		"audience is missing":                 "  kubernetes: {}\n",
		"is {from: spiffe":                    cert("{}"),
		"trustDomain: DOMAIN}":                cert("{from: spiffe}"),
		"choose one":                          cert("{from: commonName, trustDomain: example.org}"),
		"no prefix beside it":                 cert("{from: spiffe, trustDomain: example.org, prefix: x}"),
		"client certificates need TLS":        "  tls: {clientCAFile: ca.pem, clientIdentity: {from: commonName}}\n",
		"of no use without clientCAFile":      "  tokensFile: t\n  tls: {clientIdentity: {from: commonName}}\n",
		"is no setting here":                  "  oidc: [{issuer: x, audiences: [y]}]\n",
		"pattern":                             "  oidc: [{issuer: 'https://x', audience: y, roles: {claim: groups, allow: ['*']}}]\n",
	} {
		if _, err := check(bad); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
	// Every file may be relative to the settings.
	s, err := check("  kubernetes: {audience: a, caFile: k8s.pem, tokenFile: own}\n  oidc: [{issuer: ci, audience: a, jwksFile: jwks.json, subject: {prefix: x}}, {issuer: 'https://id', audience: a, caFile: id.pem, subject: {prefix: y}}]\n" + cert("{from: spiffe, trustDomain: example.org}"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range s.Serve.identityFiles() {
		if *p != "" && !strings.HasPrefix(*p, "/etc/sealward/") {
			t.Errorf("%s is relative to nothing", *p)
		}
	}
	if n := len(s.Serve.identityFiles()); n != 7 {
		t.Errorf("%d files", n)
	}
}
