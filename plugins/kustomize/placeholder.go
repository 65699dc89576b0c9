package kustomize

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"golang.org/x/crypto/ssh"

	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal"
)

// maxPlaceholder bounds a dummy value, in bytes: what a build of placeholders is
// looked at for does not need the size of a trust store.
const maxPlaceholder = 4 << 10

// placeholder makes dummy values for one sealed file: the same for everybody, told
// by the file and the field alone, of the right shape for keys that Kubernetes or a
// program parses, and otherwise text as long as the sealed one. They are made of a
// hash of public names and protect nothing.
type placeholder struct {
	file string // relative to the tree, with slashes; of a manifest, what it names
	kind string // type of the Secret, "" where it is not known
}

// placeholders is unseal.Open with dummies.
func placeholders(m *manifest.Manifest) (*unseal.Opened, error) {
	// Not by file: a certificate and its key may stand in two parts of one secret.
	p := placeholder{file: m.Workspace.String() + "/" + m.Name.String(), kind: string(m.Secret.Type)}
	values, err := seal.PlaceholderValues(m, func(l seal.Leaf) []byte { return p.value(l.Path[len(l.Path)-1], l.Size) })
	if err != nil {
		return nil, err
	}
	return &unseal.Opened{Manifest: m, Values: values, Bound: m.Secret.Binding != ""}, nil
}

// placeholderText is unseal.OpenText with dummies.
func placeholderText(file string, data []byte) ([]byte, error) {
	if !seal.IsDocument(file) {
		return placeholderBinary(file, data)
	}
	d, err := seal.LoadDocument(file, data)
	if err != nil {
		return nil, err
	}
	if err := d.Fill(placeholder{file: file}.field); err != nil {
		return nil, err
	}
	return d.Text()
}

// placeholderObjects is unseal.OpenObjects with dummies.
func placeholderObjects(file string, data []byte) ([]*yaml.Node, error) {
	d, err := seal.LoadDocument(file, data)
	if err != nil {
		return nil, err
	}
	p, hidden := placeholder{file: file}, ""
	err = d.Fill(func(l seal.Leaf) []byte {
		switch l.Path[0] {
		case "apiVersion", "kind", "metadata", "type":
			hidden = l.Path[0]
		}
		return p.objectField(l)
	})
	switch {
	case err != nil:
		return nil, err
	case hidden != "":
		return nil, &manifest.Error{File: file, Field: hidden, Msg: "is sealed, so that nobody without a key can tell what object this is; seal the values only (encrypted_regex: ^(data|stringData)$)"}
	}
	return d.Objects()
}

// placeholderBinary is unseal.OpenBinary with dummies.
func placeholderBinary(file string, data []byte) ([]byte, error) {
	return seal.PlaceholderBinary(file, data, placeholder{file: file}.field)
}

// placeholderDotenv is unseal.OpenDotenv with dummies.
func placeholderDotenv(file string, data []byte) ([]seal.Value, error) {
	return seal.PlaceholderDotenv(file, data, placeholder{file: file}.field)
}

// value makes the dummy for a key of a Secret; size is that of the sealed value.
func (p placeholder) value(key string, size int) []byte {
	switch key {
	case ".dockerconfigjson":
		return p.json(map[string]any{"auths": map[string]any{"registry.invalid": dockerAuth(p.text(key, 12))}})
	case ".dockercfg":
		return p.json(map[string]any{"registry.invalid": dockerAuth(p.text(key, 12))})
	case "tls.crt", "ca.crt":
		return p.certificate()
	case "tls.key":
		return p.privateKey()
	case "ssh-privatekey":
		return p.sshKey()
	}
	switch {
	case p.kind == string(manifest.Certificate) && (strings.HasSuffix(key, ".crt") || strings.HasSuffix(key, ".pem")):
		return p.certificate()
	case strings.HasSuffix(key, ".json"):
		return []byte("{}")
	}
	return []byte(p.text(key, size))
}

// field makes a dummy for a field of a file that is no manifest.
func (p placeholder) field(l seal.Leaf) []byte {
	return []byte(p.text(strings.Join(l.Path, "."), l.Size))
}

// objectField makes one for a field of a Kubernetes object: values of a Secret's data
// get their shape, as base64.
func (p placeholder) objectField(l seal.Leaf) []byte {
	isSecret := l.Clear("apiVersion") == "v1" && l.Clear("kind") == "Secret"
	p.kind = l.Clear("type")
	if len(l.Path) != 2 {
		return p.field(l)
	}
	key := l.Path[1]
	switch section := l.Path[0]; {
	case section == "binaryData", isSecret && section == "data":
		return []byte(base64.StdEncoding.EncodeToString(p.value(key, l.Size/4*3)))
	case isSecret && section == "stringData":
		return p.value(key, l.Size)
	}
	return p.field(l)
}

func (p placeholder) seed(key string) []byte {
	h := sha256.Sum256(fmt.Appendf(nil, "sealward placeholder\n%q\n%q\n", p.file, key))
	return h[:]
}

// text is "placeholder-" and hexadecimal digits, cut to size bytes, at least one.
func (p placeholder) text(key string, size int) string {
	size = max(1, min(size, maxPlaceholder))
	var out strings.Builder
	out.WriteString("placeholder-")
	for block := p.seed(key); out.Len() < size; {
		fmt.Fprintf(&out, "%x", block)
		next := sha256.Sum256(block)
		block = next[:]
	}
	return out.String()[:size]
}

func (p placeholder) json(v any) []byte {
	out, err := json.Marshal(v)
	if err != nil { // maps of texts
		panic(err)
	}
	return out
}

func dockerAuth(password string) map[string]string {
	return map[string]string{"username": "placeholder", "password": password,
		"auth": base64.StdEncoding.EncodeToString([]byte("placeholder:" + password))}
}

// pair is the key of a file's certificate and private key.
func (p placeholder) pair() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(p.seed("tls")) }

// certificate is one that its key signed itself. It ended before anybody could use
// it.
func (p placeholder) certificate() []byte {
	key := p.pair()
	from := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "placeholder.invalid"}, DNSNames: []string{"placeholder.invalid"},
		NotBefore: from, NotAfter: from.Add(time.Hour),
	}
	// Ed25519 signs without randomness.
	der, err := x509.CreateCertificate(bytes.NewReader(nil), template, template, key.Public(), key)
	if err != nil { // all it depends on stands above
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func (p placeholder) privateKey() []byte {
	der, err := x509.MarshalPKCS8PrivateKey(p.pair())
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// sshKey is in OpenSSH's form, whose two check numbers are random in the library and
// told by the file here.
func (p placeholder) sshKey() []byte {
	seed := p.seed("ssh")
	key := ed25519.NewKeyFromSeed(seed)
	public := ssh.Marshal(struct{ Kind, Key string }{ssh.KeyAlgoED25519, string(key.Public().(ed25519.PublicKey))})
	check := uint32(seed[0])<<8 | uint32(seed[1])
	private := ssh.Marshal(struct {
		Check1, Check2                 uint32
		Kind, Public, Private, Comment string
	}{check, check, ssh.KeyAlgoED25519, string(key.Public().(ed25519.PublicKey)), string(key), "placeholder"})
	for i := byte(1); len(private)%8 != 0; i++ {
		private = append(private, i)
	}
	body := append([]byte("openssh-key-v1\x00"), ssh.Marshal(struct {
		Cipher, KDF, Options string
		Count                uint32
		Public, Private      string
	}{"none", "none", "", 1, string(public), string(private)})...)
	return pem.EncodeToMemory(&pem.Block{Type: "OPENSSH PRIVATE KEY", Bytes: body})
}
