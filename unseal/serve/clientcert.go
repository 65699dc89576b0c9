package serve

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/sealward/sealward/unseal/access"
	"github.com/sealward/sealward/unseal/audit"
)

const maxChain = 8 // certificates that a client sends

// ClientCertConfig says whose client certificates are accepted, and what names a caller.
type ClientCertConfig struct {
	CAFile string // PEM
	// TrustDomain takes the one SPIFFE ID of a certificate, spiffe://TRUSTDOMAIN/PATH,
	// as it stands. Empty: the subject's common name, with Prefix before it.
	TrustDomain string
	CommonName  bool
	Prefix      string
}

// Check says what is missing or wrong. It opens no file.
func (c ClientCertConfig) Check() error {
	switch {
	case (c.TrustDomain != "") == c.CommonName:
		return errors.New("either trustDomain (SPIFFE IDs) or commonName names the caller; choose one")
	case c.TrustDomain != "" && (strings.Trim(c.TrustDomain, "abcdefghijklmnopqrstuvwxyz0123456789.-_") != "" || c.Prefix != ""):
		return errors.New("trustDomain has lower-case letters, digits, . - and _, and no prefix beside it")
	}
	if _, err := user(c.Prefix, "x"); err != nil {
		return fmt.Errorf("prefix %.40q holds characters that no subject has", c.Prefix)
	}
	return nil
}

// ClientCertificates authenticates by the certificates of TLS connections.
//
// The handshake only proves that the client holds the key. The chain is verified for
// each request, so that an expired certificate and a CA that was taken out of the file
// are refused on connections and sessions that were begun before, too; and a client
// with a certificate of somebody else's is answered, instead of cut off.
type ClientCertificates struct {
	cfg   ClientCertConfig
	roots *reloaded[*x509.CertPool]

	chains verified // by roots
}

// OpenClientCertificates reads the CA file.
func OpenClientCertificates(cfg ClientCertConfig, log *slog.Logger) (*ClientCertificates, error) {
	if err := cfg.Check(); err != nil {
		return nil, fmt.Errorf("client certificates: %w", err)
	}
	roots, err := reload(cfg.CAFile, maxCAFile, log, certPool)
	if err != nil {
		return nil, fmt.Errorf("client certificates: %w", err)
	}
	return &ClientCertificates{cfg: cfg, roots: roots}, nil
}

// Ask has a server ask its clients for certificates; to have none is fine.
func (c *ClientCertificates) Ask(config *tls.Config) { config.ClientAuth = tls.RequestClientCert }

func (c *ClientCertificates) authenticate(chain []*x509.Certificate, now time.Time) (Caller, error) {
	roots, ok := c.roots.get()
	if !ok {
		return Caller{}, &AuthError{audit.BadSignature}
	}
	if len(chain) > maxChain {
		return Caller{}, &AuthError{audit.Malformed}
	}
	sum := sha256.New()
	for _, cert := range chain {
		sum.Write(cert.Raw)
	}
	key := credentialHash(sum.Sum(nil))
	if known, ok := c.chains.get(key, now); ok && known.by == roots {
		return known.caller, nil
	}
	found, err := c.verify(chain, roots, now)
	if err != nil {
		return Caller{}, err
	}
	c.chains.put(key, found, now)
	return found.caller, nil
}

func (c *ClientCertificates) verify(chain []*x509.Certificate, roots *x509.CertPool, now time.Time) (vouched, error) {
	refuse := func(reason string) (vouched, error) { return vouched{}, &AuthError{reason} }
	leaf, intermediates := chain[0], x509.NewCertPool()
	for _, cert := range chain[1:] {
		intermediates.AddCert(cert)
	}
	switch {
	case now.Before(leaf.NotBefore):
		return refuse(audit.NotYetValid)
	case now.After(leaf.NotAfter):
		return refuse(audit.Expired)
	}
	verified, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	// A certificate without any extended key usage may be used for all: not for this.
	if err != nil || leaf.IsCA || !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) {
		return refuse(audit.BadSignature)
	}
	name, ok := commonName(leaf)
	if c.cfg.TrustDomain != "" {
		name, ok = spiffeID(leaf, c.cfg.TrustDomain)
	}
	if !ok {
		return refuse(audit.BadIdentity)
	}
	who, err := user(c.cfg.Prefix, name)
	if err != nil {
		return vouched{}, err
	}
	fingerprint := sha256.Sum256(leaf.Raw)
	out := vouched{begins: leaf.NotBefore, until: leaf.NotAfter, by: roots}
	for _, cert := range verified[0] {
		if cert.NotBefore.After(out.begins) {
			out.begins = cert.NotBefore
		}
		if cert.NotAfter.Before(out.until) {
			out.until = cert.NotAfter
		}
	}
	out.caller = Caller{Identity: access.Identity{User: who}, Credential: hex.EncodeToString(fingerprint[:]), Method: "tls", Expires: out.until}
	out.until = out.until.Add(1) // the last moment of a certificate is a good one
	return out, nil
}

// commonName: of several, programs choose different ones.
func commonName(cert *x509.Certificate) (name string, ok bool) {
	n := 0
	for _, attribute := range cert.Subject.Names {
		if attribute.Type.Equal(asn1.ObjectIdentifier{2, 5, 4, 3}) {
			name, ok = attribute.Value.(string)
			n++
		}
	}
	return name, ok && n == 1 && name != ""
}

// spiffeID is the one URI of an X.509-SVID, spiffe://DOMAIN/PATH.
//
// Source: SPIFFE, "The SPIFFE Identity and Verifiable Identity Document", 2, and "The
// X.509 SPIFFE Verifiable Identity Document", 2: exactly one URI SAN, a path of
// segments of letters, digits, . - and _, none of them empty, . or ..
func spiffeID(cert *x509.Certificate, domain string) (string, bool) {
	if len(cert.URIs) != 1 {
		return "", false
	}
	u := cert.URIs[0]
	path, ok := strings.CutPrefix(u.Path, "/")
	if !ok || u.Scheme != "spiffe" || u.Host != domain || *u != (url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}) {
		return "", false
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "" || segment == "." || segment == ".." || strings.ContainsFunc(segment, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '.' && r != '-' && r != '_'
		}) {
			return "", false
		}
	}
	return "spiffe://" + domain + u.Path, true
}
