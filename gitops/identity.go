package gitops

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"github.com/sealward/sealward/unseal/serve"
)

// OIDCSettings says whose JWTs are accepted.
type OIDCSettings struct {
	Issuer     string   `yaml:"issuer"`
	Audience   string   `yaml:"audience"`
	JWKSFile   string   `yaml:"jwksFile"` // instead of discovery
	CAFile     string   `yaml:"caFile"`
	Algorithms []string `yaml:"algorithms"` // default RS256, ES256
	Subject    struct {
		Claim  string `yaml:"claim"` // default sub
		Prefix string `yaml:"prefix"`
	} `yaml:"subject"`
	// Roles that the issuer may assert: values of Claim that Allow lists.
	Roles struct {
		Claim string   `yaml:"claim"`
		Allow []string `yaml:"allow"`
	} `yaml:"roles"`
}

// KubernetesSettings says which API server reviews tokens. The defaults are those of a
// pod.
type KubernetesSettings struct {
	Server    string `yaml:"server"`
	CAFile    string `yaml:"caFile"`
	TokenFile string `yaml:"tokenFile"`
	Audience  string `yaml:"audience"`
	Roles     struct {
		Allow []string `yaml:"allow"` // groups
	} `yaml:"roles"`
}

// ClientIdentitySettings says what of a client certificate names the caller.
type ClientIdentitySettings struct {
	From        string `yaml:"from"`        // spiffe or commonName
	TrustDomain string `yaml:"trustDomain"` // for spiffe
	Prefix      string `yaml:"prefix"`      // for commonName
}

func (o OIDCSettings) config() serve.IssuerConfig {
	return serve.IssuerConfig{Issuer: o.Issuer, Audience: o.Audience, JWKSFile: o.JWKSFile, CAFile: o.CAFile, Algorithms: o.Algorithms,
		SubjectClaim: o.Subject.Claim, Prefix: o.Subject.Prefix, Roles: serve.Roles{Claim: o.Roles.Claim, Allow: o.Roles.Allow}}
}

func (k KubernetesSettings) config(perAddress float64) serve.TokenReviewConfig {
	const pod = "/var/run/secrets/kubernetes.io/serviceaccount/"
	setDefault(&k.Server, podsServer())
	setDefault(&k.CAFile, pod+"ca.crt")
	setDefault(&k.TokenFile, pod+"token")
	return serve.TokenReviewConfig{Server: k.Server, CAFile: k.CAFile, TokenFile: k.TokenFile, Audience: k.Audience, Roles: serve.Roles{Allow: k.Roles.Allow}, PerAddress: perAddress}
}

// podsServer is the API server that Kubernetes tells a pod of: by its address, so that no
// name has to be resolved.
func podsServer() string {
	if host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT"); host != "" && port != "" {
		return "https://" + net.JoinHostPort(host, port)
	}
	return "https://kubernetes.default.svc"
}

func (s *ServeSettings) clientCerts() serve.ClientCertConfig {
	id := s.TLS.ClientIdentity
	return serve.ClientCertConfig{CAFile: s.TLS.ClientCAFile, TrustDomain: id.TrustDomain, CommonName: id.From == "commonName", Prefix: id.Prefix}
}

// identityFiles are the paths in the settings of identities.
func (s *ServeSettings) identityFiles() []*string {
	files := []*string{&s.TLS.ClientCAFile}
	for i := range s.OIDC {
		files = append(files, &s.OIDC[i].JWKSFile, &s.OIDC[i].CAFile)
	}
	if s.Kubernetes != nil {
		files = append(files, &s.Kubernetes.CAFile, &s.Kubernetes.TokenFile)
	}
	return files
}

// checkIdentities says what is wrong with the settings of identities. Whoever
// asserts subjects must not be able to assert another one's.
func (s *ServeSettings) checkIdentities() error {
	var errs []error
	fail := func(field string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", field, err))
		}
	}
	type namer struct{ field, prefix string }
	var namers []namer
	issuers := map[string]bool{}
	for i, o := range s.OIDC {
		field := fmt.Sprintf("serve.oidc[%d]", i)
		fail(field, o.config().Check())
		if issuers[o.Issuer] {
			fail(field, errors.New("this issuer stands twice"))
		}
		issuers[o.Issuer] = true
		namers = append(namers, namer{field + ".subject", o.Subject.Prefix})
	}
	if s.Kubernetes != nil {
		fail("serve.kubernetes", s.Kubernetes.config(0).Check())
		namers = append(namers, namer{"serve.kubernetes", serve.ServiceAccountPrefix})
	}
	switch id := s.TLS.ClientIdentity; {
	case s.TLS.ClientCAFile == "" && id != ClientIdentitySettings{}:
		fail("serve.tls.clientIdentity", errors.New("is of no use without clientCAFile"))
	case s.TLS.ClientCAFile == "":
	case s.TLS.CertFile == "":
		fail("serve.tls.clientCAFile", errors.New("client certificates need TLS: set certFile and keyFile too"))
	case id.From != "spiffe" && id.From != "commonName", id.From == "spiffe" && id.TrustDomain == "":
		fail("serve.tls.clientIdentity", errors.New("is {from: spiffe, trustDomain: DOMAIN} or {from: commonName, prefix: TEXT}"))
	default:
		fail("serve.tls.clientIdentity", s.clientCerts().Check())
		prefix := id.Prefix
		if id.From == "spiffe" {
			prefix = "spiffe://" + id.TrustDomain + "/"
		}
		namers = append(namers, namer{"serve.tls.clientIdentity", prefix})
	}
	for i, a := range namers {
		for _, b := range namers[:i] {
			if strings.HasPrefix(a.prefix, b.prefix) || strings.HasPrefix(b.prefix, a.prefix) {
				errs = append(errs, fmt.Errorf("%s and %s could name the same subject: their subjects begin with %q and %q; give each a prefix that the other's does not begin with", b.field, a.field, b.prefix, a.prefix))
			}
		}
	}
	if s.TokensFile == "" && len(namers) == 0 {
		errs = append(errs, errors.New("serve.tokensFile is missing; make one with sealward token create --tokens FILE, or set serve.oidc, serve.kubernetes or serve.tls.clientCAFile"))
	}
	return errors.Join(errs...)
}

// identities opens every kind of identity that is set.
func (s *ServeSettings) identities(now func() time.Time, log *slog.Logger) (out serve.Identities, err error) {
	if s.TokensFile != "" {
		if out.Tokens, err = serve.OpenTokens(s.TokensFile, log); err != nil {
			return out, err
		}
	}
	for _, o := range s.OIDC {
		issuer, err := serve.OpenIssuer(o.config(), log)
		if err != nil {
			return out, err
		}
		out.Issuers = append(out.Issuers, issuer)
	}
	if s.Kubernetes != nil {
		if out.Kubernetes, err = serve.OpenTokenReview(s.Kubernetes.config(s.Limits.PerAddress), now, log); err != nil {
			return out, err
		}
	}
	if s.TLS.ClientCAFile != "" {
		out.Certificates, err = serve.OpenClientCertificates(s.clientCerts(), log)
	}
	return out, err
}
