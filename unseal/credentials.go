package unseal

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/getsops/sops/v3/azkv"
	"github.com/getsops/sops/v3/gcpkms"
	"github.com/getsops/sops/v3/hcvault"
	"github.com/getsops/sops/v3/kms"
	vault "github.com/hashicorp/vault/api"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal/keyring"
)

// serviceKey is a SOPS master key, of a service.
type serviceKey interface {
	EncryptContext(ctx context.Context, dataKey []byte) error
	DecryptContext(ctx context.Context) ([]byte, error)
	EncryptedDataKey() []byte
	SetEncryptedDataKey([]byte)
}

// Time-outs of one call, with everything that the SDK repeats. A person may have
// to type gpg's passphrase.
const (
	serviceTimeout = 10 * time.Second
	gpgTimeout     = time.Minute
)

// use makes one call of a service, with the credentials that keyring.yaml names.
// Its errors are this file's own words: a service's may repeat what it was sent.
func use(ctx context.Context, svc *keyring.Service, call func(context.Context, serviceKey) ([]byte, error)) (out []byte, err error) {
	defer func() {
		if recover() != nil { // an SDK, on an odd answer
			out, err = nil, errors.New("its answer cannot be read")
		}
	}()
	if svc.Paused() {
		return nil, errors.New("it did not answer a moment ago and is not asked again yet")
	}
	timeout := serviceTimeout
	if svc.Key.Kind() == workspace.KindPGP {
		timeout = gpgTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	k, err := newServiceKey(ctx, svc)
	if err != nil {
		return nil, err
	}
	out, err = call(ctx, k)
	switch {
	case err == nil:
		return out, nil
	case ctx.Err() != nil:
		svc.Pause()
		return nil, fmt.Errorf("it did not answer within %s", timeout)
	default:
		return nil, plainly(svc, err)
	}
}

// plainly says in own words what went wrong.
func plainly(svc *keyring.Service, err error) error {
	var own *ownError
	var answer *vault.ResponseError
	var az *azcore.ResponseError
	var aws interface{ HTTPStatusCode() int }
	var wire *url.Error
	status := 0
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &answer):
		status = answer.StatusCode
	case errors.As(err, &az):
		status = az.StatusCode
	case errors.As(err, &aws):
		status = aws.HTTPStatusCode()
	case errors.As(err, &wire):
		svc.Pause()
		return errors.New("it cannot be reached, or its certificate is not trusted")
	}
	if code := grpcstatus.Code(err); code != codes.Unknown {
		return fmt.Errorf("it answered %s", code)
	}
	if status != 0 {
		return fmt.Errorf("it answered with status %d (%s)", status, http.StatusText(status))
	}
	return errors.New("it failed; are the credentials in keyring.yaml right?")
}

// ownError is one that this package wrote and that may be passed on.
type ownError struct{ text string }

func (e *ownError) Error() string { return e.text }

func own(format string, args ...any) error { return &ownError{fmt.Sprintf(format, args...)} }

// newServiceKey makes SOPS's key of what keyring.yaml lists. SOPS and the SDKs
// would fill every gap from the environment and the home folder; here nothing is
// left open, unless the operator wrote ambient.
func newServiceKey(ctx context.Context, svc *keyring.Service) (serviceKey, error) {
	switch svc.Key.Kind() {
	case workspace.KindPGP:
		return &gpgKey{fingerprint: svc.Key.String(), home: svc.Home}, nil
	case workspace.KindTransit:
		return transitKey(svc)
	case workspace.KindAWS:
		return awsKey(ctx, svc)
	case workspace.KindGCP:
		return gcpKey(svc)
	case workspace.KindAzure:
		return azureKey(svc)
	default:
		return nil, own("is no service")
	}
}

// readCredential reads a small file that keyring.yaml names.
func readCredential(field, file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, own("%s cannot be read: %s", field, file)
	}
	defer f.Close()
	const longest = 64 << 10
	data, err := io.ReadAll(io.LimitReader(f, longest+1))
	data = bytes.TrimSpace(data)
	if err != nil || len(data) == 0 || len(data) > longest {
		return nil, own("%s is empty, too long, or no plain file: %s", field, file)
	}
	return data, nil
}

// unset refuses variables that the SDK obeys also with credentials of their own,
// and that could send these elsewhere than to the key's own service.
func unset(names ...string) error {
	for _, n := range names {
		if os.Getenv(n) != "" {
			return own("the environment sets %s, which could choose where the credentials of keyring.yaml go, or whom to trust; unset it, or write ambient: true", n)
		}
	}
	return nil
}

// transport is for services with credentials of their own. A proxy of the
// environment sees no more than the name of the host.
func transport(roots *x509.CertPool) *http.Transport {
	return &http.Transport{
		Proxy: func(r *http.Request) (*url.URL, error) {
			if r.URL.Scheme != "https" {
				return nil, nil
			}
			return http.ProxyFromEnvironment(r)
		},
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: serviceTimeout, ResponseHeaderTimeout: serviceTimeout, DisableKeepAlives: true,
	}
}

// pinned sends requests that allowed accepts, and refuses others before a
// connection is made. It bounds what an answer may have.
type pinned struct {
	allowed func(*http.Request) bool
	header  http.Header // when not nil, the only one sent
	next    http.RoundTripper
}

const maxAnswer = 1 << 20

func (p pinned) RoundTrip(r *http.Request) (*http.Response, error) {
	if !p.allowed(r) {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, own("it led to another address, which was not followed")
	}
	if p.header != nil {
		r = r.Clone(r.Context())
		r.Header = p.header.Clone()
	}
	resp, err := p.next.RoundTrip(r)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxAnswer), resp.Body}
	}
	return resp, err
}

// transitKey is a key of Vault's or OpenBao's transit engine. Vault's client reads
// VAULT_*, and SOPS ~/.vault-token: none of it gets past the two addresses and
// the header that are fixed here.
func transitKey(svc *keyring.Service) (serviceKey, error) {
	token, err := readCredential("tokenFile", svc.TokenFile)
	if err != nil {
		return nil, err
	}
	if bytes.ContainsAny(token, " \t\r\n") {
		return nil, own("tokenFile holds more than a token: %s", svc.TokenFile)
	}
	var roots *x509.CertPool
	if svc.CAFile != "" {
		pem, err := readCredential("caFile", svc.CAFile)
		if err != nil {
			return nil, err
		}
		if roots = x509.NewCertPool(); !roots.AppendCertsFromPEM(pem) {
			return nil, own("caFile holds no certificate: %s", svc.CAFile)
		}
	}
	k, err := hcvault.NewMasterKeyFromURI(svc.Key.String())
	if err != nil {
		return nil, own("its address cannot be used")
	}
	at, err := url.Parse(k.VaultAddress)
	if err != nil {
		return nil, own("its address cannot be used")
	}
	header := http.Header{"X-Vault-Request": {"true"}, "X-Vault-Token": {string(token)}, "Content-Type": {"application/json"}}
	if svc.Namespace != "" {
		header.Set("X-Vault-Namespace", svc.Namespace)
	}
	hcvault.Token(token).ApplyToMasterKey(k)
	hcvault.NewHTTPClient(&http.Client{Timeout: serviceTimeout, Transport: pinned{
		allowed: func(r *http.Request) bool {
			base := "/v1/" + k.EnginePath
			return r.URL.Scheme == at.Scheme && r.URL.Host == at.Host &&
				slices.Contains([]string{path.Join(base, "encrypt", k.KeyName), path.Join(base, "decrypt", k.KeyName)}, r.URL.Path)
		},
		header: header, next: transport(roots),
	}}).ApplyToMasterKey(k)
	return k, nil
}

// awsHosts are the public partitions; others need ambient.
var awsHosts = []string{".amazonaws.com", ".amazonaws.com.cn", ".amazonaws.eu"}

func awsKey(ctx context.Context, svc *keyring.Service) (serviceKey, error) {
	m, err := svc.Key.MasterKey()
	k, ok := m.(*kms.MasterKey)
	if err != nil || !ok {
		return nil, own("its id cannot be used")
	}
	if svc.Ambient {
		k.AwsProfile = svc.Profile
		return k, nil
	}
	// The SDK loads the rest of its configuration from the environment and
	// ~/.aws; a profile there must not get in the way.
	if err := unset("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_CA_BUNDLE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_KMS", "AWS_ENDPOINT_URL_STS"); err != nil {
		return nil, err
	}
	profile := svc.Profile
	if profile == "" {
		profile = "default"
	}
	shared, err := awsconfig.LoadSharedConfigProfile(ctx, profile, func(o *awsconfig.LoadSharedConfigOptions) {
		o.CredentialsFiles, o.ConfigFiles = []string{svc.CredentialsFile}, []string{}
	})
	// Only keys that stand in the file: never a program or another source that it
	// names.
	if err != nil || !shared.Credentials.HasKeys() {
		return nil, own("credentialsFile has no aws_access_key_id and aws_secret_access_key in profile %s: %s", profile, svc.CredentialsFile)
	}
	c := shared.Credentials
	kms.NewCredentialsProvider(credentials.NewStaticCredentialsProvider(c.AccessKeyID, c.SecretAccessKey, c.SessionToken)).ApplyToMasterKey(k)
	kms.NewHTTPClient(&http.Client{Timeout: serviceTimeout, Transport: pinned{
		allowed: func(r *http.Request) bool {
			return r.URL.Scheme == "https" && r.URL.Port() == "" && slices.ContainsFunc(awsHosts, func(h string) bool { return strings.HasSuffix(r.URL.Host, h) })
		},
		next: transport(nil),
	}}).ApplyToMasterKey(k)
	return k, nil
}

func gcpKey(svc *keyring.Service) (serviceKey, error) {
	k := gcpkms.NewMasterKeyFromResourceID(svc.Key.String())
	if svc.Ambient {
		return k, nil
	}
	if err := unset("SOPS_GCP_KMS_ENDPOINT", "SOPS_GCP_KMS_UNIVERSE_DOMAIN", "GOOGLE_CLOUD_UNIVERSE_DOMAIN"); err != nil {
		return nil, err
	}
	data, err := readCredential("credentialsFile", svc.CredentialsFile)
	if err != nil {
		return nil, err
	}
	// The other types can run a program or fetch a token from an address they name.
	var of struct {
		Type string `json:"type"`
	}
	if json.Unmarshal(data, &of) != nil || of.Type != "service_account" {
		return nil, own("credentialsFile is not a service account's JSON: %s", svc.CredentialsFile)
	}
	gcpkms.CredentialJSON(data).ApplyToMasterKey(k)
	return k, nil
}

// azureClouds by the end of a vault's host, so that AZURE_AUTHORITY_HOST does not
// decide where the client secret goes.
var azureClouds = map[string]cloud.Configuration{
	"azure.net": cloud.AzurePublic, "azure.cn": cloud.AzureChina, "usgovcloudapi.net": cloud.AzureGovernment,
}

func azureKey(svc *keyring.Service) (serviceKey, error) {
	m, err := svc.Key.MasterKey()
	k, ok := m.(*azkv.MasterKey)
	if err != nil || !ok {
		return nil, own("its id cannot be used")
	}
	if svc.Ambient {
		return k, nil
	}
	secret, err := readCredential("clientSecretFile", svc.ClientSecretFile)
	if err != nil {
		return nil, err
	}
	at, err := url.Parse(k.VaultURL)
	if err != nil {
		return nil, own("its address cannot be used")
	}
	opts := azcore.ClientOptions{}
	for end, c := range azureClouds {
		if strings.HasSuffix(at.Host, "."+end) {
			opts.Cloud = c
		}
	}
	id, err := azidentity.NewClientSecretCredential(svc.TenantID, svc.ClientID, string(secret), &azidentity.ClientSecretCredentialOptions{ClientOptions: opts})
	if err != nil {
		return nil, own("tenantID, clientID and clientSecretFile make no credential")
	}
	azkv.NewTokenCredential(id).ApplyToMasterKey(k)
	opts.Transport = &http.Client{Timeout: serviceTimeout, Transport: pinned{
		allowed: func(r *http.Request) bool { return r.URL.Scheme == "https" && r.URL.Host == at.Host }, next: transport(nil),
	}}
	azkv.NewClientOptions(&azkeys.ClientOptions{ClientOptions: opts}).ApplyToMasterKey(k)
	return k, nil
}
