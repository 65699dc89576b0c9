package seal

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/sealward/sealward/seal/manifest"
)

// maxKubernetes is what Kubernetes lets the values of one Secret have together
// (core.MaxSecretSize).
const maxKubernetes = 1 << 20

// CheckType holds the values of a whole secret to what its type promises, and
// those of a Kubernetes Secret to what the API server asks for. No error repeats
// a value.
func CheckType(m *manifest.Manifest, values []Value) error { return checkType(m, values, false) }

// checkType does not miss keys in a part.
func checkType(m *manifest.Manifest, values []Value, part bool) error {
	c := &typeCheck{m: m, values: map[string][]byte{}, part: part}
	total := 0
	for _, v := range values {
		c.values[v.Key.String()] = v.Data
		total += len(v.Data)
	}
	switch t := m.Secret.Type; {
	case total > maxKubernetes && (t == manifest.CloudKernel || t == manifest.CloudKernelImagePull || c.kubernetes()):
		return c.bad("", "has values of %d bytes; a Secret of Kubernetes may have at most %d", total, maxKubernetes)
	case c.kubernetes():
		if err := c.kubernetesType(); err != nil {
			return err
		}
	case t == manifest.CloudKernelImagePull:
		return c.imagePull()
	}
	if m.Secret.Type == manifest.Certificate {
		return c.certificate(values)
	}
	return nil
}

type typeCheck struct {
	m      *manifest.Manifest
	values map[string][]byte
	part   bool
}

func (c *typeCheck) kubernetes() bool { return c.m.Secret.Kubernetes != nil }

func (c *typeCheck) bad(key, format string, args ...any) error {
	path := c.m.Sections().Text
	if c.m.Sections().PreferBase64 {
		path = c.m.Sections().Base64
	}
	field := strings.Join(path, ".")
	if key != "" {
		field += "." + key
	}
	return &manifest.Error{File: c.m.File, Field: field, Msg: fmt.Sprintf(format, args...)}
}

// wants that keys are there.
func (c *typeCheck) wants(what string, keys ...string) error {
	for _, key := range keys {
		if _, there := c.values[key]; !there && !c.part {
			return c.bad(key, "is missing; a secret of type %s holds %s there", c.typeName(), what)
		}
	}
	return nil
}

func (c *typeCheck) typeName() string {
	if c.kubernetes() {
		return c.m.Secret.Kubernetes.Type
	}
	return string(c.m.Secret.Type)
}

// kubernetesType asks for what the API server asks for (validation.ValidateSecret).
func (c *typeCheck) kubernetesType() error {
	isObject := func(key string) error {
		var object map[string]json.RawMessage
		if data, there := c.values[key]; there && json.Unmarshal(data, &object) != nil {
			return c.bad(key, "is not a Docker configuration (a JSON object)")
		}
		return c.wants("a Docker configuration", key)
	}
	switch c.m.Secret.Kubernetes.Type {
	case manifest.TypeDockerConfigJSON:
		return isObject(".dockerconfigjson")
	case manifest.TypeDockerConfig:
		return isObject(".dockercfg")
	case manifest.TypeTLS:
		return c.wants("PEM", "tls.crt", "tls.key")
	case manifest.TypeBasicAuth:
		_, user := c.values["username"]
		if _, password := c.values["password"]; !user && !password && !c.part {
			return c.bad("username", "is missing, and password too; a secret of type %s has at least one of them", c.typeName())
		}
	case manifest.TypeSSHAuth:
		if key, there := c.values["ssh-privatekey"]; len(key) == 0 && (there || !c.part) {
			return c.bad("ssh-privatekey", "is missing or empty; a secret of type %s holds a private key there", c.typeName())
		}
	}
	return nil
}

// imagePull wants a configuration with which Docker could log in.
func (c *typeCheck) imagePull() error {
	const key = ".dockerconfigjson"
	data, there := c.values[key]
	if !there {
		return c.wants("a Docker configuration", key)
	}
	var config struct {
		Auths map[string]json.RawMessage `json:"auths"`
	}
	if json.Unmarshal(data, &config) != nil || len(config.Auths) == 0 {
		return c.bad(key, `is not a Docker configuration (JSON with "auths")`)
	}
	// The name of a registry is not repeated: a credential may stand in its place.
	for _, raw := range config.Auths {
		var entry *struct {
			Auth          string `json:"auth"`
			Username      string `json:"username"`
			Password      string `json:"password"`
			IdentityToken string `json:"identitytoken"`
			RegistryToken string `json:"registrytoken"`
		}
		if json.Unmarshal(raw, &entry) != nil || entry == nil {
			return c.bad(key, `has an entry of "auths" that is no object with auth, or username and password`)
		}
		decoded, err := base64.StdEncoding.DecodeString(entry.Auth)
		user, _, colon := bytes.Cut(decoded, []byte(":"))
		switch {
		case entry.Auth != "" && (err != nil || !colon || len(user) == 0):
			return c.bad(key, `has an entry of "auths" whose auth is not the base64 of user:password`)
		case entry.Auth == "" && entry.IdentityToken == "" && entry.RegistryToken == "" && (entry.Username == "" || entry.Password == ""):
			return c.bad(key, `has an entry of "auths" without auth, and without username and password`)
		}
	}
	return nil
}

// certificate wants PEM that parses wholly; trust stores (JKS, PKCS #12) are
// neither named like PEM nor look like it, and pass.
func (c *typeCheck) certificate(values []Value) error {
	for _, v := range values {
		key := v.Key.String()
		named := strings.HasSuffix(key, ".pem") || strings.HasSuffix(key, ".crt") || key == "tls.key"
		if !named && (!utf8.Valid(v.Data) || !bytes.Contains(v.Data, []byte("-----BEGIN "))) {
			continue
		}
		if c.kubernetes() && len(v.Data) == 0 { // the API server lets them be empty
			continue
		}
		if err := checkPEM(v.Data); err != nil {
			return c.bad(key, "%s", err)
		}
	}
	leaf, key := leafKey(c.values["tls.crt"]), privateKey(c.values["tls.key"])
	if leaf != nil && key != nil && !leaf.Equal(key.Public()) {
		return c.bad("tls.key", "is not the private key of the first certificate in tls.crt")
	}
	return nil
}

func checkPEM(data []byte) error {
	blocks, begun := 0, bytes.Count(data, []byte("-----BEGIN "))
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		if blocks++; !wellFormed(block) {
			return fmt.Errorf("has a PEM block, the %d. one, whose content is not what its first line says", blocks)
		}
		data = rest
	}
	if blocks == 0 || blocks != begun { // Decode skips what is broken
		return errors.New("is not whole PEM (-----BEGIN … -----END …)")
	}
	return nil
}

func wellFormed(b *pem.Block) bool {
	var err error
	switch b.Type {
	case "CERTIFICATE":
		_, err = x509.ParseCertificate(b.Bytes)
	case "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY":
		if !encrypted(b) {
			_, err = parsePrivateKey(b)
		}
	}
	return err == nil
}

// encrypted PEM of old opens with a passphrase only.
func encrypted(b *pem.Block) bool { return b.Headers["Proc-Type"] != "" }

func parsePrivateKey(b *pem.Block) (any, error) {
	switch b.Type {
	case "RSA PRIVATE KEY":
		return x509.ParsePKCS1PrivateKey(b.Bytes)
	case "EC PRIVATE KEY":
		return x509.ParseECPrivateKey(b.Bytes)
	default:
		return x509.ParsePKCS8PrivateKey(b.Bytes)
	}
}

type publicKey interface{ Equal(crypto.PublicKey) bool }

// leafKey is the public key of the first certificate; nil when there is none.
func leafKey(data []byte) publicKey {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil
			}
			key, _ := cert.PublicKey.(publicKey)
			return key
		}
	}
	return nil
}

// privateKey is the first private key that is not encrypted; nil when there is
// none.
func privateKey(data []byte) crypto.Signer {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if strings.HasSuffix(block.Type, "PRIVATE KEY") && !encrypted(block) {
			key, err := parsePrivateKey(block)
			if err != nil {
				return nil
			}
			signer, _ := key.(crypto.Signer)
			return signer
		}
	}
	return nil
}
