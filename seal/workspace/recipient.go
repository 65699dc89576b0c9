package workspace

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	sopsage "github.com/getsops/sops/v3/age"
	"github.com/getsops/sops/v3/azkv"
	"github.com/getsops/sops/v3/gcpkms"
	"github.com/getsops/sops/v3/hcvault"
	"github.com/getsops/sops/v3/keys"
	"github.com/getsops/sops/v3/kms"
	"github.com/getsops/sops/v3/pgp"
)

// RecipientKind is the kind of key behind a recipient.
type RecipientKind string

// The kinds of recipient. The first three need nothing but the recipient to be
// sealed for; PGP runs the local gpg; the others are services on the network.
const (
	KindAge         RecipientKind = "age"               // age1…: X25519
	KindHybrid      RecipientKind = "age, post-quantum" // age1pq1…: ML-KEM-768 and X25519
	KindSSH         RecipientKind = "ssh"               // ssh-ed25519 …, ssh-rsa …
	KindPGP         RecipientKind = "pgp"               // a fingerprint, 40 hex digits
	KindTransit     RecipientKind = "vault transit"     // https://host/v1/<engine>/keys/<name>, Vault or OpenBao
	KindAWS         RecipientKind = "aws kms"           // arn:aws:kms:…
	KindGCP         RecipientKind = "gcp kms"           // projects/…/cryptoKeys/…
	KindAzure       RecipientKind = "azure key vault"   // https://….vault.azure.net/keys/<name>/<version>
	maxRecipientLen               = 4096
)

// Recipient is a public key, or the id of a key that a service holds, that
// passed ParseRecipient. Recipients of one key are equal.
type Recipient struct {
	kind RecipientKind
	text string // as SOPS names it in a sealed file
	// Only of an AWS key in a key group: SOPS's encryption context (k:v,k:v) and
	// profile.
	context, profile string
}

var (
	fingerprint = regexp.MustCompile(`^[0-9A-Fa-f]{40}$`)
	awsKey      = regexp.MustCompile(`^arn:aws[\w-]*:kms:[a-z0-9-]+:\d+:(key|alias)/[\w/-]+(\+arn:aws[\w-]*:iam::\d+:role/[\w+=,.@/-]+)?$`)
	gcpKey      = regexp.MustCompile(`^projects/[^/\s]+/locations/[^/\s]+/keyRings/[^/\s]+/cryptoKeys/[^/\s]+$`)
	azureKey    = regexp.MustCompile(`^https://[a-z0-9-]+\.(vault\.azure\.net|vault\.azure\.cn|vault\.usgovcloudapi\.net|managedhsm\.azure\.net)/keys/[A-Za-z0-9-]+/[0-9a-f]+$`)
	// SOPS would take the newest version, and ask the service which that is.
	azureUnversioned = regexp.MustCompile(`^https://[a-z0-9-]+\.(vault\.azure\.net|vault\.azure\.cn|vault\.usgovcloudapi\.net|managedhsm\.azure\.net)/keys/[A-Za-z0-9-]+/?$`)
	transitKey       = regexp.MustCompile(`^https?://[^/\s?#@]+/v1/[^\s?#]+/keys/[^/\s?#]+$`)
)

// ParseRecipient accepts the texts of each kind as .sops.yaml and sealed files
// have them; an SSH key's comment is dropped. Recipients of age plugins are
// refused: sealing for one would run a program that the repository names.
func ParseRecipient(s string) (Recipient, error) {
	unknown := fmt.Errorf("recipient %.80q is none that sealward knows: age1… or age1pq1…, ssh-ed25519 or ssh-rsa, a PGP fingerprint of 40 digits, a Vault transit key's address, or the id of an AWS, GCP or Azure key", s)
	var err error
	var kind RecipientKind
	switch {
	case len(s) > maxRecipientLen || strings.ContainsAny(s, "\r\n\x00"):
		return Recipient{}, errors.New("a recipient is longer than any, or has several lines")
	case strings.Contains(strings.ToUpper(s), "SECRET-KEY") || strings.Contains(s, "PRIVATE KEY"):
		return Recipient{}, errors.New("a private key stands where a recipient (age1…) belongs; treat it as leaked and make a new one")
	case strings.HasPrefix(s, "age1pq1"):
		kind = KindHybrid
		_, err = age.ParseHybridRecipient(s)
	case strings.HasPrefix(s, "age1"):
		kind = KindAge
		_, err = age.ParseX25519Recipient(s)
	case strings.HasPrefix(s, "ssh-"):
		kind = KindSSH
		fields := strings.Fields(s)
		if len(fields) < 2 {
			return Recipient{}, unknown
		}
		s = fields[0] + " " + fields[1]
		_, err = agessh.ParseRecipient(s)
	case fingerprint.MatchString(s):
		kind, s = KindPGP, strings.ToUpper(s)
	case awsKey.MatchString(s):
		kind = KindAWS
	case gcpKey.MatchString(s):
		kind = KindGCP
	case azureKey.MatchString(s):
		kind = KindAzure
	case azureUnversioned.MatchString(s):
		return Recipient{}, fmt.Errorf("recipient %.80q names no version of the key; add it: https://….vault.azure.net/keys/<name>/<version>", s)
	case transitKey.MatchString(s):
		kind = KindTransit
	default:
		err = unknown
	}
	if err != nil {
		return Recipient{}, unknown
	}
	r := Recipient{kind: kind, text: s}
	// SOPS has spellings of its own; what a sealed file says must parse to the same.
	key, err := r.MasterKey()
	if err != nil {
		return Recipient{}, unknown
	}
	if kind != KindSSH {
		r.text = key.ToString()
	}
	return r, nil
}

// ParseAWS accepts an AWS key with the role, encryption context and profile that
// a key group of .sops.yaml or a sealed file states beside it.
func ParseAWS(arn, role string, context map[string]string, profile string) (Recipient, error) {
	if role != "" {
		arn += "+" + role
	}
	r, err := ParseRecipient(arn)
	if err != nil {
		return r, err
	}
	if r.kind != KindAWS {
		return Recipient{}, fmt.Errorf("recipient %.80q is not the id of an AWS key (arn:aws:kms:…)", arn)
	}
	var pairs []string
	for k, v := range context {
		if strings.ContainsAny(k+v, ",:") {
			return Recipient{}, errors.New("an encryption context has , or : in a name or value, which SOPS cannot write")
		}
		pairs = append(pairs, k+":"+v)
	}
	slices.Sort(pairs)
	r.context, r.profile = strings.Join(pairs, ","), profile
	return r, nil
}

// String is the recipient as a sealed file names it.
func (r Recipient) String() string { return r.text }

// WithoutProfile is an AWS key without the profile that a file may state beside
// it: which credentials are used is not for a repository to choose.
func (r Recipient) WithoutProfile() Recipient {
	r.profile = ""
	return r
}

// Kind of the key.
func (r Recipient) Kind() RecipientKind { return r.kind }

// IsZero reports that r is no recipient.
func (r Recipient) IsZero() bool { return r.kind == "" }

// PostQuantum reports an age1pq1… recipient.
func (r Recipient) PostQuantum() bool { return r.kind == KindHybrid }

// Online reports that sealing for r, or unsealing, asks a service.
func (r Recipient) Online() bool {
	return r.kind == KindTransit || r.kind == KindAWS || r.kind == KindGCP || r.kind == KindAzure
}

// MasterKey is the recipient as SOPS has it, without a sealed data key.
func (r Recipient) MasterKey() (keys.MasterKey, error) {
	switch r.kind {
	case KindAge, KindHybrid, KindSSH:
		return sopsage.MasterKeyFromRecipient(r.text)
	case KindPGP:
		return pgp.NewMasterKeyFromFingerprint(r.text), nil
	case KindTransit:
		return hcvault.NewMasterKeyFromURI(r.text)
	case KindAWS:
		return kms.NewMasterKeyFromArn(r.text, kms.ParseKMSContext(r.context), r.profile), nil
	case KindGCP:
		return gcpkms.NewMasterKeyFromResourceID(r.text), nil
	case KindAzure:
		// Not from the address as a whole: for one without a version SOPS would ask
		// the service, with whatever credentials it finds.
		vault, key, _ := strings.Cut(r.text, "/keys/")
		name, version, _ := strings.Cut(key, "/")
		return azkv.NewMasterKey(vault, name, version), nil
	default:
		return nil, errors.New("no recipient")
	}
}

// RecipientOf names the key of a stanza of a sealed file. ok is false for one
// that ParseRecipient would refuse, such as an age plugin's.
func RecipientOf(key keys.MasterKey) (r Recipient, ok bool) {
	var err error
	if k, isAWS := key.(*kms.MasterKey); isAWS {
		context := map[string]string{}
		for name, v := range k.EncryptionContext {
			if v != nil {
				context[name] = *v
			}
		}
		r, err = ParseAWS(k.Arn, k.Role, context, k.AwsProfile)
	} else {
		r, err = ParseRecipient(key.ToString())
	}
	return r, err == nil
}

// Recipients is for whom a workspace is sealed: SOPS's key groups. One group:
// each recipient opens alone. Several: keys of Threshold groups are needed.
// The zero Recipients is refused everywhere.
type Recipients struct {
	groups    [][]Recipient
	threshold int
}

// MaxRecipients of one sealed file: each may cost whoever opens it a key agreement.
const MaxRecipients = 256

// For is one group of recipients, each of whom opens alone.
func For(rs ...Recipient) Recipients { return Recipients{groups: [][]Recipient{rs}} }

// Grouped is key groups as SOPS has them; the threshold counts with several only.
func Grouped(threshold int, groups ...[]Recipient) (Recipients, error) {
	rs := Recipients{groups: groups}
	if len(groups) > 1 {
		rs.threshold = threshold
	}
	return rs, rs.check()
}

// Equal reports that the same keys open in the same way; the order within a group
// has no meaning.
func (rs Recipients) Equal(other Recipients) bool {
	if len(rs.groups) != len(other.groups) || rs.Threshold() != other.Threshold() {
		return false
	}
	for i, g := range rs.groups {
		if len(g) != len(other.groups[i]) {
			return false
		}
		for _, r := range g {
			if !slices.Contains(other.groups[i], r) {
				return false
			}
		}
	}
	return true
}

// Groups of keys. They must not be changed.
func (rs Recipients) Groups() [][]Recipient { return rs.groups }

// Threshold is how many groups must contribute a key.
func (rs Recipients) Threshold() int {
	if rs.threshold == 0 {
		return len(rs.groups)
	}
	return rs.threshold
}

// All recipients of all groups.
func (rs Recipients) All() []Recipient { return slices.Concat(rs.groups...) }

// Contains reports that r is among them.
func (rs Recipients) Contains(r Recipient) bool { return slices.Contains(rs.All(), r) }

// check holds recipients to what every workspace promises.
func (rs Recipients) check() error {
	all := rs.All()
	if len(all) == 0 {
		return errors.New("names no recipient; add one under age:")
	}
	if len(all) > MaxRecipients {
		return fmt.Errorf("names %d recipients; at most %d can be", len(all), MaxRecipients)
	}
	for _, g := range rs.groups {
		if len(g) == 0 {
			return errors.New("has a key group without a key")
		}
	}
	// One recipient without post-quantum protection would undo that of the others.
	for _, r := range all {
		if r.PostQuantum() != all[0].PostQuantum() {
			return errors.New("recipients mix post-quantum (age1pq1…) and classic keys; use one kind for the whole workspace")
		}
	}
	if n := len(rs.groups); n > 1 && (rs.threshold < 0 || rs.threshold == 1 || rs.threshold > n) {
		return fmt.Errorf("shamir_threshold is %d; with %d key groups it can be 2 to %[2]d", rs.threshold, n)
	}
	return nil
}
