package gitops

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal/serve"
)

// Settings is an agent.yaml. Relative file paths are relative to the file.
type Settings struct {
	// Source is the repository to follow; Sources are several, each with a name.
	Source  SourceSettings   `yaml:"source"`
	Sources []SourceSettings `yaml:"sources"`
	Keyring string           `yaml:"keyring"`
	State   string           `yaml:"state"`
	// Binding "optional" accepts manifests without a binding (plain sops wrote
	// them). Default "required".
	Binding  string        `yaml:"binding"`
	MaxStale Duration      `yaml:"maxStale"` // default 24h
	Serve    ServeSettings `yaml:"serve"`
	Audit    struct {
		File string `yaml:"file"` // default audit.jsonl in the state folder
		// A file is rotated that would outgrow MaxSize or whose first record is older than
		// MaxAge. Of earlier files, Keep are kept.
		MaxSize Size     `yaml:"maxSize"` // default 100MiB
		MaxAge  Duration `yaml:"maxAge"`  // default never
		Keep    *int     `yaml:"keep"`    // default all
		// HeadInterval is between two lines with the chain's head in the agent's log.
		HeadInterval Duration `yaml:"headInterval"` // default 1h
	} `yaml:"audit"`
	// Webhook is how a Git host tells of a push.
	Webhook struct {
		SecretFile string `yaml:"secretFile"`
	} `yaml:"webhook"`
	// Kubernetes is nil where the agent projects nothing into a cluster.
	Kubernetes *ClusterSettings `yaml:"kubernetes"`
}

// SourceSettings says what to follow.
type SourceSettings struct {
	// Name of one of several sources: its folder below state, and its name in
	// status, metrics and log.
	Name string `yaml:"name"`
	// Workspaces that the source may hold ("instance" for instance secrets). Empty:
	// all that it has, except those that another source lists.
	Workspaces []string `yaml:"workspaces"`
	URL        string   `yaml:"url"`
	Branch     string   `yaml:"branch"` // default main
	Path       string   `yaml:"path"`   // folder of the repository; default .
	Interval   Duration `yaml:"interval"`
	Timeout    Duration `yaml:"timeout"`
	// Rewind "follow" also takes a head that does not contain the applied commit.
	// Default "refuse".
	Rewind string `yaml:"rewind"`
	// RemovalGuard holds removals back when one commit takes away more than Percent
	// of the secrets that are served and more than Count of them.
	RemovalGuard struct {
		Percent *float64 `yaml:"percent"` // default 25
		Count   *int     `yaml:"count"`   // default 20
	} `yaml:"removalGuard"`
	Proxy  string `yaml:"proxy"` // for HTTPS; default from the environment
	Verify struct {
		Mode               string `yaml:"mode"`               // none, the default, or required
		AllowedSignersFile string `yaml:"allowedSignersFile"` // of ssh-keygen(1)
		OpenPGPKeysFile    string `yaml:"openPGPKeysFile"`    // armored public keys
	} `yaml:"verify"`
	Auth struct {
		UsernameFile   string `yaml:"usernameFile"`
		PasswordFile   string `yaml:"passwordFile"`
		TokenFile      string `yaml:"tokenFile"`
		SSHKeyFile     string `yaml:"sshKeyFile"`
		KnownHostsFile string `yaml:"knownHostsFile"`
		CAFile         string `yaml:"caFile"`
		// ProxyCredentialFile holds USER:PASSWORD for Proxy.
		ProxyCredentialFile string `yaml:"proxyCredentialFile"`
	} `yaml:"auth"`
}

// ServeSettings says where and to whom to serve.
type ServeSettings struct {
	Listen string `yaml:"listen"` // default 127.0.0.1:8420
	TLS    struct {
		CertFile string `yaml:"certFile"`
		KeyFile  string `yaml:"keyFile"`
		// ClientCAFile is for client certificates; ClientIdentity says whom they name.
		ClientCAFile   string                 `yaml:"clientCAFile"`
		ClientIdentity ClientIdentitySettings `yaml:"clientIdentity"`
	} `yaml:"tls"`
	OIDC       []OIDCSettings      `yaml:"oidc"`
	Kubernetes *KubernetesSettings `yaml:"kubernetes"`
	TokensFile string              `yaml:"tokensFile"`
	// Operators (users:id:… or roles:id:…) may ask for a sync, approve what waits,
	// and see all of the status; Monitors may read the metrics.
	Operators []string `yaml:"operators"`
	Monitors  []string `yaml:"monitors"`
	Limits    struct {
		PerIdentity float64 `yaml:"perIdentity"`
		PerAddress  float64 `yaml:"perAddress"`
		Denials     float64 `yaml:"denials"`
	} `yaml:"limits"`
}

// Duration is a time.Duration that is written 30s, 5m or 24h.
type Duration time.Duration

// UnmarshalYAML reads the text form.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error {
	v, err := time.ParseDuration(n.Value)
	if err != nil || v <= 0 {
		return fmt.Errorf("line %d: %q is not a duration such as 30s, 5m or 24h", n.Line, n.Value)
	}
	*d = Duration(v)
	return nil
}

// ParseSettings reads an agent.yaml strictly. dir is the folder that relative
// paths start from. What is missing is found by Check, because flags may still
// give it.
func ParseSettings(data []byte, dir string) (Settings, error) {
	var s Settings
	if err := workspace.DecodeStrict(data, &s); err != nil {
		return Settings{}, err
	}
	files := []*string{&s.Keyring, &s.State, &s.Audit.File, &s.Serve.TokensFile, &s.Serve.TLS.CertFile, &s.Serve.TLS.KeyFile, &s.Webhook.SecretFile}
	files = append(files, s.Serve.identityFiles()...)
	if s.Kubernetes != nil {
		files = append(files, &s.Kubernetes.Kubeconfig)
	}
	for _, src := range s.All() {
		a := &src.Auth
		files = append(files, &a.UsernameFile, &a.PasswordFile, &a.TokenFile, &a.SSHKeyFile, &a.KnownHostsFile, &a.CAFile, &a.ProxyCredentialFile,
			&src.Verify.AllowedSignersFile, &src.Verify.OpenPGPKeysFile)
		src.URL = absoluteURL(src.URL, dir)
	}
	for _, p := range files {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	return s, nil
}

// absoluteURL makes a relative path of a local repository absolute. As for git, a
// colon before the first slash means HOST:PATH.
func absoluteURL(u, dir string) string {
	before, _, _ := strings.Cut(u, "/")
	if u == "" || filepath.IsAbs(u) || strings.Contains(before, ":") {
		return u
	}
	if abs, err := filepath.Abs(filepath.Join(dir, u)); err == nil {
		return abs
	}
	return u
}

// Check fills defaults in and says what is missing or contradicts itself. once
// asks only for what one sync needs.
func (s *Settings) Check(once bool) error {
	var errs []error
	need := func(value, field, hint string) {
		if value == "" {
			errs = append(errs, fmt.Errorf("%s is missing; %s", field, hint))
		}
	}
	need(s.Keyring, "keyring", "the folder with the workspaces' identity files")
	need(s.State, "state", "the folder for the mirror and the store")
	if !once {
		errs = append(errs, s.Serve.checkIdentities())
	}
	if (s.Serve.TLS.CertFile == "") != (s.Serve.TLS.KeyFile == "") {
		errs = append(errs, errors.New("serve.tls needs both certFile and keyFile"))
	}
	for _, l := range []struct {
		field string
		list  []string
	}{{"serve.operators", s.Serve.Operators}, {"serve.monitors", s.Serve.Monitors}} {
		if _, err := subjects(l.list); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", l.field, err))
		}
	}
	if s.Webhook.SecretFile != "" && !once {
		if err := serve.CheckHookSecret(s.Webhook.SecretFile); err != nil {
			errs = append(errs, err)
		}
	}
	if s.Binding != "" && s.Binding != "required" && s.Binding != "optional" {
		errs = append(errs, fmt.Errorf("binding is %.40q; required or optional", s.Binding))
	}
	if l := s.Serve.Limits; l.PerIdentity < 0 || l.PerAddress < 0 || l.Denials < 0 {
		errs = append(errs, errors.New("serve.limits are requests a second, not less than 0 (the default)"))
	}
	if s.Kubernetes != nil {
		errs = append(errs, s.Kubernetes.check())
	}
	setDefault(&s.Serve.Listen, "127.0.0.1:8420")
	setDefault(&s.Audit.File, filepath.Join(s.State, "audit.jsonl"))
	if k := s.Audit.Keep; k != nil && *k < 1 {
		errs = append(errs, errors.New("audit.keep is how many earlier files are kept, at least 1; without it all are"))
	}
	setDefault(&s.Audit.MaxSize, Size(100<<20))
	setDefault(&s.Audit.HeadInterval, Duration(time.Hour))
	setDefault(&s.MaxStale, Duration(24*time.Hour))
	errs = append(errs, s.checkSources()...)
	return errors.Join(errs...)
}

func setDefault[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

func subjects(list []string) (out []manifest.Subject, err error) {
	for _, text := range list {
		s, err := manifest.ParseSubject(text)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// Limits as package serve takes them.
func (s *Settings) Limits() serve.Limits {
	return serve.Limits{PerIdentity: s.Serve.Limits.PerIdentity, PerAddress: s.Serve.Limits.PerAddress, Denials: s.Serve.Limits.Denials}
}

// PrepareState makes the state folder, private to its owner, and sees that it
// can be written.
func PrepareState(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("state folder: %w; set state to a folder the agent may write", err)
	}
	probe, err := os.CreateTemp(dir, ".probe-*")
	if err != nil {
		return fmt.Errorf("state folder: %w; set state to a folder the agent may write", err)
	}
	return errors.Join(probe.Close(), os.Remove(probe.Name()))
}
