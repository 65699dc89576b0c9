package kustomize_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/sealward/sealward/plugins/kustomize"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal/keyring"
)

// keyless makes placeholders; asking it for a key fails the test.
func (w *world) keyless() *kustomize.Unsealer {
	return &kustomize.Unsealer{Placeholders: true, Ring: func(ws manifest.Workspace) (*keyring.Ring, error) {
		w.t.Errorf("the ring of %s was asked for", ws)
		return nil, keyring.ErrNoRing
	}}
}

// sameShape compares what was opened with what stands in for it.
func sameShape(t *testing.T, real, dummy []*kustomize.Object) {
	t.Helper()
	if len(real) != len(dummy) {
		t.Fatalf("%d objects, %d placeholders", len(real), len(dummy))
	}
	for i, r := range real {
		d := dummy[i]
		if r.Kind != d.Kind || r.Name != d.Name || r.Namespace != d.Namespace || r.Type != d.Type || r.NeedsHash != d.NeedsHash || r.Behavior != d.Behavior || len(r.Data) != len(d.Data) {
			t.Errorf("%s %s became %s %s", r.Kind, r.Name, d.Kind, d.Name)
		}
		for k, v := range r.Data {
			got, ok := d.Data[k]
			if !ok || bytes.Contains(got, []byte(value)) || len(v) > 0 && bytes.Equal(got, v) || (len(v) == 0) != (len(got) == 0) {
				t.Errorf("%s: %s became %q", r.Name, k, got)
			}
		}
		node, err := d.RNode()
		if err != nil || node.GetAnnotations()[kustomize.PlaceholderAnnotation] != "true" {
			t.Errorf("%s is not marked: %v", d.Name, err)
		}
	}
}

func TestPlaceholders(t *testing.T) {
	w := shop(t)
	const text = generator + "secrets:\n- {workspace: orders, name: db-r}\n- {workspace: orders, name: api}\nfiles: [web.yaml]\n"
	real, err := w.generate(w.unsealer(), text)
	w.must(err)
	dummy, err := w.generate(w.keyless(), text)
	w.must(err)
	sameShape(t, real, dummy)
	if got := dummy[0].Data["password"]; len(got) != len(value) || !bytes.HasPrefix(got, []byte("placeholder-")) {
		t.Errorf("password became %q", got)
	}
	again, err := w.generate(w.keyless(), text)
	w.must(err)
	for i := range dummy {
		if show(dummy[i]) != show(again[i]) {
			t.Errorf("twice: %s, %s", show(dummy[i]), show(again[i]))
		}
	}
	// Sealed anew for other keys: who has none sees the same.
	w2 := shop(t)
	other, err := w2.generate(w2.keyless(), text)
	w.must(err)
	if show(other[0]) != show(dummy[0]) {
		t.Errorf("another tree: %s, %s", show(other[0]), show(dummy[0]))
	}
	if a, b := dummy[1].Data["token"], dummy[1].Data["hook"]; bytes.Equal(a[:15], b[:15]) {
		t.Errorf("two keys have one value: %q", a)
	}
	// Settings count as they do with keys.
	if _, err := w.generate(w.keyless(), generator+"secrets:\n- {workspace: payments, name: card}\n"); err == nil || !strings.Contains(err.Error(), "builds") {
		t.Errorf("payments: %v", err)
	}
}

func TestPlaceholdersOfKSOPS(t *testing.T) {
	w := adopted(t)
	u := w.unsealer()
	u.AllowUnbound = true
	for _, text := range []string{
		"files: [several.yaml, shop.yaml]\n",
		"secretFrom: [{metadata: {name: a}, files: [app.yaml, app.json, app.ini, conf=trust.bin], binaryFiles: [trust.bin]}]\n",
		"secretFrom: [{metadata: {name: a}, envs: [app.env]}]\n",
	} {
		real, err := w.ksops(u, text)
		w.must(err)
		dummy, err := w.ksops(w.keyless(), text)
		w.must(err)
		if text[0] == 'f' || !strings.Contains(text, "envs") {
			sameShape(t, real, dummy)
		}
		for _, o := range dummy {
			if !json.Valid(o.Data["app.json"]) && o.Data["app.json"] != nil || strings.Contains(show(o), value) {
				t.Errorf("%s", show(o))
			}
			if o.Other != nil {
				text, err := o.Other.String()
				if err != nil || strings.Contains(text, value) || !strings.Contains(text, "placeholder-") {
					t.Errorf("%v\n%s", err, text)
				}
			}
		}
	}
	// Of a file whose kind is sealed, nobody without a key can tell what it is.
	if objects, err := w.ksops(w.keyless(), "files: [all.yaml]\n"); err == nil || objects != nil || !strings.Contains(err.Error(), "is sealed, so that nobody without a key") {
		t.Errorf("%v", err)
	}
}

// Values that Kubernetes or a program parses are of the right shape.
func TestPlaceholderShapes(t *testing.T) {
	w := newWorld(t, "public")
	crt, key := selfSigned(t)
	indent := func(s string) string { return strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n    ") }
	w.sops("app/tls.yaml", "public", "^(data|stringData)$", "apiVersion: v1\nkind: Secret\nmetadata: {name: tls}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n    "+indent(crt)+"\n  tls.key: |\n    "+indent(key)+"\n")
	w.sops("app/pull.yaml", "public", "^(data|stringData)$", "apiVersion: v1\nkind: Secret\nmetadata: {name: pull}\ntype: kubernetes.io/dockerconfigjson\ndata:\n  .dockerconfigjson: eyJhdXRocyI6e319\n")
	w.sops("app/old.yaml", "public", "^(data|stringData)$", "apiVersion: v1\nkind: Secret\nmetadata: {name: old}\ntype: kubernetes.io/dockercfg\nstringData:\n  .dockercfg: '{}'\n")
	w.sops("app/ssh.yaml", "public", "^(data|stringData)$", "apiVersion: v1\nkind: Secret\nmetadata: {name: ssh}\ntype: kubernetes.io/ssh-auth\nstringData:\n  ssh-privatekey: x\n")
	w.seal("workspaces/public/secrets/cert.yaml", "name: cert\nversion: v1\ntype: secret\nworkspace: public\nsecret:\n  type: certificate\n  acl: r\n  data:\n    tls.crt: |\n      "+strings.ReplaceAll(strings.TrimSpace(crt), "\n", "\n      ")+"\n    tls.key: |\n      "+strings.ReplaceAll(strings.TrimSpace(key), "\n", "\n      ")+"\n")
	w.write("sealward.yaml", "builds: {app: [public]}\n")
	objects, err := w.ksops(w.keyless(), "files: [tls.yaml, pull.yaml, old.yaml, ssh.yaml, ../workspaces/public/secrets/cert.yaml]\n")
	w.must(err)
	for _, i := range []int{0, 4} {
		if _, err := tls.X509KeyPair(objects[i].Data["tls.crt"], objects[i].Data["tls.key"]); err != nil {
			t.Errorf("%s: %v", objects[i].Name, err)
		}
	}
	if bytes.Equal(objects[0].Data["tls.key"], objects[4].Data["tls.key"]) {
		t.Error("two secrets have one key")
	}
	var config struct {
		Auths map[string]struct{ Username, Password, Auth string }
	}
	if err := json.Unmarshal(objects[1].Data[".dockerconfigjson"], &config); err != nil || len(config.Auths) != 1 {
		t.Errorf("%v, %s", err, objects[1].Data[".dockerconfigjson"])
	}
	if err := json.Unmarshal(objects[2].Data[".dockercfg"], &config.Auths); err != nil || config.Auths["registry.invalid"].Username == "" {
		t.Errorf("%v, %s", err, objects[2].Data[".dockercfg"])
	}
	if _, err := ssh.ParsePrivateKey(objects[3].Data["ssh-privatekey"]); err != nil {
		t.Errorf("%v", err)
	}
	again, err := w.ksops(w.keyless(), "files: [tls.yaml, pull.yaml, old.yaml, ssh.yaml, ../workspaces/public/secrets/cert.yaml]\n")
	w.must(err)
	for i := range objects {
		if show(objects[i]) != show(again[i]) {
			t.Errorf("%s differs the second time", objects[i].Name)
		}
	}
}

// selfSigned is a certificate and its key as PEM.
func selfSigned(t *testing.T) (crt, key string) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}
