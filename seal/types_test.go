package seal_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
)

// pair makes a certificate and its private key, in each form that OpenSSL writes.
func pair(t *testing.T) (crt, pkcs8, ec string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	of8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	ofEC, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return block("CERTIFICATE", der), block("PRIVATE KEY", of8), block("EC PRIVATE KEY", ofEC)
}

func block(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func auth(s string) string {
	return fmt.Sprintf(`{"auths":{"r.example.com":{"auth":%q}}}`, base64.StdEncoding.EncodeToString([]byte(s)))
}

func TestCheckType(t *testing.T) {
	crt, key, ecKey := pair(t)
	other, otherKey, _ := pair(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	pkcs1 := block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey))
	legacy := "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\naHVudGVyMg==\n-----END RSA PRIVATE KEY-----\n"
	mib := strings.Repeat("x", 1<<20)
	cases := []struct {
		of     string // a DataOS type, or one of Kubernetes
		values []string
		want   string
	}{
		{"key-value", []string{"a", mib + "x"}, ""},
		{"cloud-kernel", []string{"a", mib}, ""},
		{"cloud-kernel", []string{"a", mib, "b", "x"}, "has values of 1048577 bytes; a Secret of Kubernetes may have at most 1048576"},

		{"cloud-kernel-image-pull", []string{".dockerconfigjson", auth("user:hunter2")}, ""},
		{"cloud-kernel-image-pull", []string{".dockerconfigjson", `{"auths":{"a":{"username":"u","password":"hunter2"}}}`}, ""},
		{"cloud-kernel-image-pull", []string{"a", "b"}, ".dockerconfigjson: is missing"},
		{"cloud-kernel-image-pull", []string{".dockerconfigjson", `{"auths":{}}`}, "is not a Docker configuration"},
		{"cloud-kernel-image-pull", []string{".dockerconfigjson", `hunter2`}, "is not a Docker configuration"},
		{"cloud-kernel-image-pull", []string{".dockerconfigjson", auth("hunter2")}, "is not the base64 of user:password"},
		{"cloud-kernel-image-pull", []string{".dockerconfigjson", auth(":hunter2")}, "is not the base64 of user:password"},
		{"cloud-kernel-image-pull", []string{".dockerconfigjson", `{"auths":{"a":{"auth":"hunter2!"}}}`}, "is not the base64 of user:password"},
		{"cloud-kernel-image-pull", []string{".dockerconfigjson", `{"auths":{"hunter2":"x"}}`}, "that is no object"},
		{"cloud-kernel-image-pull", []string{".dockerconfigjson", `{"auths":{"hunter2":null}}`}, "that is no object"},
		{"cloud-kernel-image-pull", []string{".dockerconfigjson", `{"auths":{"a":{"username":"hunter2"}}}`}, "without auth, and without username and password"},

		{"certificate", []string{"tls.crt", crt, "tls.key", key}, ""},
		{"certificate", []string{"tls.crt", crt + other, "tls.key", ecKey}, ""}, // with its chain
		{"certificate", []string{"tls.crt", "a text above\n" + crt, "tls.key", "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n" + ecKey}, ""},
		{"certificate", []string{"tls.crt", crt}, ""},
		{"certificate", []string{"tls.crt", crt, "tls.key", otherKey}, "tls.key: is not the private key of the first certificate in tls.crt"},
		{"certificate", []string{"tls.crt", other + crt, "tls.key", key}, "is not the private key of the first"},
		{"certificate", []string{"tls.crt", crt, "tls.key", pkcs1}, "is not the private key of the first"},
		{"certificate", []string{"tls.crt", crt, "tls.key", legacy}, ""}, // opens with a passphrase only
		{"certificate", []string{"ca.pem", strings.Replace(crt, "\nMI", "\nhunter2!", 1)}, "is not whole PEM"},
		{"certificate", []string{"ca.pem", crt[:len(crt)-30]}, "is not whole PEM"},
		{"certificate", []string{"ca.pem", crt[:len(crt)/2] + "\n" + crt}, "is not whole PEM"},
		{"certificate", []string{"ca.pem", "hunter2"}, "is not whole PEM"},
		{"certificate", []string{"ca.pem", crt + block("CERTIFICATE", []byte("hunter2"))}, "the 2. one, whose content is not"},
		{"certificate", []string{"any", block("PRIVATE KEY", []byte("hunter2"))}, "any: has a PEM block, the 1. one"},
		{"certificate", []string{"tls.key", block("RSA PRIVATE KEY", []byte("hunter2"))}, "whose content is not"},
		{"certificate", []string{"list.pem", block("X509 CRL", []byte("only PEM"))}, ""},
		{"certificate", []string{"trust.jks", "\xfe\xed\xfe\xed-----BEGIN \xff", "trust.p12", "\x30\x82"}, ""},

		{"Opaque", []string{"a", "b"}, ""},
		{"Opaque", []string{"a", mib, "b", "x"}, "may have at most 1048576"},
		{"kubernetes.io/tls", []string{"tls.crt", crt, "tls.key", key}, ""},
		{"kubernetes.io/tls", []string{"tls.crt", "", "tls.key", ""}, ""}, // as the API server takes it
		{"kubernetes.io/tls", []string{"tls.crt", crt}, "data.tls.key: is missing; a secret of type kubernetes.io/tls"},
		{"kubernetes.io/tls", []string{"tls.crt", crt, "tls.key", otherKey}, "is not the private key"},
		{"kubernetes.io/dockerconfigjson", []string{".dockerconfigjson", `{"credHelpers":{}}`}, ""},
		{"kubernetes.io/dockerconfigjson", []string{".dockerconfigjson", `hunter2`}, "is not a Docker configuration"},
		{"kubernetes.io/dockerconfigjson", []string{"a", "b"}, ".dockerconfigjson: is missing"},
		{"kubernetes.io/dockercfg", []string{".dockercfg", `[]`}, "is not a Docker configuration"},
		{"kubernetes.io/basic-auth", []string{"password", "hunter2"}, ""},
		{"kubernetes.io/basic-auth", []string{"passwort", "hunter2"}, "username: is missing, and password too"},
		{"kubernetes.io/ssh-auth", []string{"ssh-privatekey", "hunter2"}, ""},
		{"kubernetes.io/ssh-auth", []string{"ssh-privatekey", ""}, "is missing or empty"},
		{"kubernetes.io/ssh-auth", []string{"a", "hunter2"}, "is missing or empty"},
		{"example.com/own", []string{"a", "hunter2"}, ""},
	}
	for _, c := range cases {
		m := typed(t, c.of)
		err := seal.CheckType(m, keyValues(t, c.values))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s %.80q: %v, want %q", c.of, c.values, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error repeats a value: %v", err)
		}
	}
}

// typed is a manifest of a type; what it holds does not matter.
func typed(t *testing.T, of string) *manifest.Manifest {
	t.Helper()
	text := "name: a\nversion: v1\ntype: secret\nsecret: {type: " + of + ", acl: r, data: {a: b}}\n"
	if of == "Opaque" || strings.Contains(of, "/") {
		text = "apiVersion: v1\nkind: Secret\nmetadata: {name: a, namespace: b}\ntype: " + of + "\nstringData: {a: b}\n"
	}
	m, err := manifest.Parse("x.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func keyValues(t *testing.T, pairs []string) []seal.Value {
	t.Helper()
	var out []seal.Value
	for i := 0; i < len(pairs); i += 2 {
		key, err := manifest.ParseKey(pairs[i])
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, seal.Value{Key: key, Data: []byte(pairs[i+1])})
	}
	return out
}

func TestExpand(t *testing.T) {
	vars := map[string]string{"A": "x", "EMPTY": "", "NESTED": "${A}", "YAML": "x\", b: \"\n# "}
	lookup := func(name string) (string, bool) { v, ok := vars[name]; return v, ok }
	for in, want := range map[string]string{
		"": "", "plain": "plain", "${A}": "x", "a${A}b${A}": "axbx", "$A": "$A", "$$A": "$$A", "$${A}": "${A}", "$$${A}": "$${A}",
		"${EMPTY}": "", "${NESTED}": "${A}", "${YAML}": vars["YAML"], "100%$": "100%$", "{A}": "{A}", "$${": "${", "$${A}${A}": "${A}x",
	} {
		if got, err := seal.Expand(in, lookup); err != nil || got != want {
			t.Errorf("%q = %q, %v, want %q", in, got, err, want)
		}
	}
	for in, want := range map[string]string{
		"${B}": "variable B, which is not set", "${": "names no variable", "${}": "names no variable", "${A": "names no variable", "${A:-hunter2}": "names no variable", "${hunter2 x}": "names no variable", "${1}": "names no variable",
	} {
		if got, err := seal.Expand(in, lookup); err == nil || got != "" || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q = %q, %v, want %q", in, got, err, want)
		}
	}
}

// Only values are expanded, and what a variable holds cannot become anything else.
func TestInterpolate(t *testing.T) {
	m, err := manifest.Parse("x.yaml", []byte("name: a\nversion: v1\ntype: secret\ndescription: ${A}\nsecret:\n  type: key-value\n  acl: r\n  data:\n    a: ${A}\n    b: ${B}\n  binaryData:\n    c: AAEC\n  files:\n    d: ${A}/f\n"))
	if err != nil {
		t.Fatal(err)
	}
	lookup := func(name string) (string, bool) { return "x: y", name == "A" }
	if err := seal.Interpolate(m, lookup); err == nil || err.Error() != "x.yaml:10:8: secret.data.b: needs the variable B, which is not set" {
		t.Errorf("an unset variable: %v", err)
	}
	if m.Secret.Entries[0].Text != "x: y" || m.Secret.Entries[2].Text != "AAEC" || m.Secret.Files[0].Path != "x: y/f" || m.Description != "${A}" {
		t.Errorf("secret = %+v", m.Secret)
	}
}

func TestParseEnv(t *testing.T) {
	lines, err := seal.ParseEnv("x.env", []byte("\ufeffA=1\n# B=2\n\n  C=a=b # c\r\nD=\"q\"\nE='\nF=\nG= lead\n"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range lines {
		got = append(got, fmt.Sprintf("%d %s=%s %v", l.Line, l.Key, l.Data, l.Quoted))
	}
	want := `1 A=1 false|4 C=a=b # c false|5 D="q" true|6 E=' false|7 F= false|8 G= lead false`
	if strings.Join(got, "|") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, "|"), want)
	}
	for in, want := range map[string]string{
		"A=1\nhunter2\n": "x.env:2:1: is no KEY=VALUE", "hunter2 x=1": "x.env:1:1: a key breaks the rule", "A=\xff": "is not UTF-8",
		"A=ENC[AES256_GCM,data:aGVsbG8=,iv:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=,tag:AAAAAAAAAAAAAAAAAAAAAA==,type:str]": "x.env:1:1: A: is a sealed value",
	} {
		if _, err := seal.ParseEnv("x.env", []byte(in)); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v, want %q", in, err, want)
		}
	}
}
