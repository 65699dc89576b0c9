package keyring

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
)

// SettingsFile is the name of a keyring's optional settings.
const SettingsFile = "keyring.yaml"

// ErrSettings: keyring.yaml cannot be used.
var ErrSettings = errors.New("the keyring's settings cannot be used")

// settings is a keyring.yaml: how the keyring's files are unlocked, and which
// keys outside it a workspace's manifests may be opened with. What is not listed
// is never asked, whatever a manifest names. Paths are relative to the keyring.
type settings struct {
	Workspaces map[string]workspaceSettings `yaml:"workspaces"`
}

type workspaceSettings struct {
	// PassphraseFile unlocks <workspace>.agekey; one newline at its end is not
	// part of the passphrase.
	PassphraseFile string `yaml:"passphraseFile"`

	PGP []struct {
		Fingerprint string `yaml:"fingerprint"` // 40 hex digits
		Home        string `yaml:"home"`        // the GnuPG home with the key; never $GNUPGHOME
	} `yaml:"pgp"`
	Transit []struct {
		Key       string `yaml:"key"`       // https://host/v1/<engine>/keys/<name>
		TokenFile string `yaml:"tokenFile"` // read at each use, so that it can be renewed
		CAFile    string `yaml:"caFile"`    // default: the system's
		Namespace string `yaml:"namespace"` // of Vault Enterprise or OpenBao
	} `yaml:"transit"`
	AWS []struct {
		Key             string            `yaml:"key"`             // arn:aws:kms:…
		Role            string            `yaml:"role"`            // to assume; part of the key's name
		Context         map[string]string `yaml:"context"`         // encryption context; the same
		CredentialsFile string            `yaml:"credentialsFile"` // with aws_access_key_id and so on
		Profile         string            `yaml:"profile"`         // in that file; default: default
		Ambient         bool              `yaml:"ambient"`
	} `yaml:"aws"`
	GCP []struct {
		Key             string `yaml:"key"`             // projects/…/cryptoKeys/…
		CredentialsFile string `yaml:"credentialsFile"` // of a service account, JSON
		Ambient         bool   `yaml:"ambient"`
	} `yaml:"gcp"`
	Azure []struct {
		Key              string `yaml:"key"` // https://….vault.azure.net/keys/<name>/<version>
		TenantID         string `yaml:"tenantID"`
		ClientID         string `yaml:"clientID"`
		ClientSecretFile string `yaml:"clientSecretFile"`
		Ambient          bool   `yaml:"ambient"`
	} `yaml:"azure"`
}

// Service is one key outside the keyring that keyring.yaml lists, and what is
// needed to use it. Paths are absolute.
type Service struct {
	// Key is compared whole with what a manifest names; for AWS that includes role
	// and encryption context, but no profile.
	Key workspace.Recipient

	Home                                 string // PGP
	TokenFile, CAFile, Namespace         string // transit
	CredentialsFile, Profile             string // AWS, GCP
	TenantID, ClientID, ClientSecretFile string // Azure
	// Ambient says that the operator wants the SDK to find credentials itself: in
	// the environment, the home folder, or from the machine's role.
	Ambient bool

	mu     sync.Mutex
	paused time.Time
}

// pause after a service did not answer, in which it is not asked again: a
// thousand manifests must not wait for the same time-out one after the other.
const pause = 10 * time.Second

// Paused reports that the service did not answer a moment ago.
func (s *Service) Paused() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Since(s.paused) < pause
}

// Pause notes that the service did not answer.
func (s *Service) Pause() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paused = time.Now()
}

// Services are the keys that keyring.yaml lists for one workspace.
type Services struct {
	workspace manifest.Workspace
	file      string
	list      []*Service
}

// Find gives the service for a key that a manifest or a rule names, and false
// when none is listed.
func (s *Services) Find(key workspace.Recipient) (*Service, bool) {
	key = key.WithoutProfile()
	for _, have := range s.list {
		if have.Key == key {
			return have, true
		}
	}
	return nil, false
}

// Keys lists what the services hold, in the order of keyring.yaml.
func (s *Services) Keys() []workspace.Recipient {
	var out []workspace.Recipient
	for _, have := range s.list {
		out = append(out, have.Key)
	}
	return out
}

// Advice says where, and as what, a key has to be listed to be used.
func (s *Services) Advice(key workspace.Recipient) string {
	section, rest := "", ""
	switch key.Kind() {
	case workspace.KindPGP:
		return fmt.Sprintf("to use it, add to %s:\nworkspaces:\n  %s:\n    pgp:\n      - {fingerprint: %s, home: gnupg}", s.file, s.workspace, key)
	case workspace.KindTransit:
		section, rest = "transit", "tokenFile: vault.token"
	case workspace.KindAWS:
		section, rest = "aws", "credentialsFile: aws.ini"
	case workspace.KindGCP:
		section, rest = "gcp", "credentialsFile: gcp.json"
	case workspace.KindAzure:
		section, rest = "azure", "tenantID: …, clientID: …, clientSecretFile: azure.secret"
	}
	id := key.String()
	if key.Kind() == workspace.KindAWS {
		var role, context string
		if k, err := key.WithoutProfile().MasterKey(); err == nil {
			id, context, _ = strings.Cut(k.ToString(), "|")
		}
		id, role, _ = strings.Cut(id, "+")
		if context != "" {
			rest = "context: {'" + strings.NewReplacer(":", "': '", ",", "', '").Replace(context) + "'}, " + rest
		}
		if role != "" {
			rest = "role: '" + role + "', " + rest
		}
	}
	return fmt.Sprintf("to use it, add to %s:\nworkspaces:\n  %s:\n    %s:\n      - {key: '%s', %s}", s.file, s.workspace, section, id, rest)
}

// readSettings reads keyring.yaml; without one, nothing is listed.
func (k *Keyring) readSettings() (settings, error) {
	file := filepath.Join(k.dir, SettingsFile)
	data, err := readBounded(file)
	if errors.Is(err, fs.ErrNotExist) {
		return settings{}, nil
	}
	var s settings
	if err == nil {
		err = workspace.DecodeStrict(data, &s)
	}
	if err == nil {
		err = k.checkSettings(s)
	}
	if err != nil {
		return settings{}, fmt.Errorf("%s: %w: %w", file, ErrSettings, err)
	}
	return s, nil
}

// checkSettings reads every workspace's services, so that a mistake shows
// whichever workspace is used. A GnuPG home that two workspaces share may hold
// the same keys for both only.
func (k *Keyring) checkSettings(s settings) error {
	homes := map[string][]workspace.Recipient{}
	for name, w := range s.Workspaces {
		ws, err := manifest.ParseScope(name)
		if err != nil {
			return fmt.Errorf("workspaces: %w", err)
		}
		services, err := k.services(ws, w)
		if err != nil {
			return fmt.Errorf("workspaces.%s.%w", name, err)
		}
		keys := map[string][]workspace.Recipient{}
		for _, svc := range services.list {
			if svc.Home != "" {
				keys[svc.Home] = append(keys[svc.Home], svc.Key)
			}
		}
		for home, of := range keys {
			slices.SortFunc(of, func(a, b workspace.Recipient) int { return strings.Compare(a.String(), b.String()) })
			if before, shared := homes[home]; shared && !slices.Equal(before, of) {
				return fmt.Errorf("workspaces.%s.pgp: home %s is listed for another workspace with other keys; give each its own", name, home)
			}
			homes[home] = of
		}
	}
	return nil
}

// path makes a setting's path absolute.
func (k *Keyring) path(p string) string {
	if p == "" || filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(k.dir, p)
}

func (k *Keyring) services(ws manifest.Workspace, w workspaceSettings) (*Services, error) {
	out := &Services{workspace: ws, file: filepath.Join(k.dir, SettingsFile)}
	var errs []error
	add := func(section string, kind workspace.RecipientKind, key workspace.Recipient, err error, credentials bool, need string, s *Service) {
		_, twice := out.Find(key)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", section, err))
		case key.Kind() != kind:
			errs = append(errs, fmt.Errorf("%s: %.80q is another kind of key (%s)", section, key, key.Kind()))
		case twice:
			errs = append(errs, fmt.Errorf("%s: %s is listed twice", section, key))
		case credentials == s.Ambient: // neither, or both
			errs = append(errs, fmt.Errorf("%s: %s needs %s", section, key, need))
		default:
			s.Key = key.WithoutProfile()
			out.list = append(out.list, s)
		}
	}
	for _, p := range w.PGP {
		key, err := workspace.ParseRecipient(p.Fingerprint)
		add("pgp", workspace.KindPGP, key, err, p.Home != "", "home: the GnuPG home that holds it", &Service{Home: k.path(p.Home)})
	}
	for _, t := range w.Transit {
		key, err := workspace.ParseRecipient(t.Key)
		if err == nil && key.Kind() == workspace.KindTransit && !private(t.Key) {
			err = fmt.Errorf("%.80q would send the token in the clear; use https (http is for this machine only)", t.Key)
		}
		add("transit", workspace.KindTransit, key, err, t.TokenFile != "", "tokenFile", &Service{TokenFile: k.path(t.TokenFile), CAFile: k.path(t.CAFile), Namespace: t.Namespace})
	}
	for _, a := range w.AWS {
		key, err := workspace.ParseAWS(a.Key, a.Role, a.Context, "")
		add("aws", workspace.KindAWS, key, err, a.CredentialsFile != "", "credentialsFile, or ambient: true", &Service{CredentialsFile: k.path(a.CredentialsFile), Profile: a.Profile, Ambient: a.Ambient})
	}
	for _, g := range w.GCP {
		key, err := workspace.ParseRecipient(g.Key)
		add("gcp", workspace.KindGCP, key, err, g.CredentialsFile != "", "credentialsFile, or ambient: true", &Service{CredentialsFile: k.path(g.CredentialsFile), Ambient: g.Ambient})
	}
	for _, z := range w.Azure {
		key, err := workspace.ParseRecipient(z.Key)
		add("azure", workspace.KindAzure, key, err, z.TenantID != "" && z.ClientID != "" && z.ClientSecretFile != "", "tenantID, clientID and clientSecretFile, or ambient: true",
			&Service{TenantID: z.TenantID, ClientID: z.ClientID, ClientSecretFile: k.path(z.ClientSecretFile), Ambient: z.Ambient})
	}
	return out, errors.Join(errs...)
}

// private reports that what is sent to an address is not readable on the way.
func private(address string) bool {
	u, err := url.Parse(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Scheme == "https" || u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

// Services lists what keyring.yaml has for a workspace. No private key is read.
func (k *Keyring) Services(ws manifest.Workspace) (*Services, error) {
	s, err := k.readSettings()
	if err != nil {
		return nil, err
	}
	return k.services(ws, s.Workspaces[ws.String()])
}
