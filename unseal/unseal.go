// Package unseal opens sealed manifests with the keys of one workspace and holds
// what was opened as immutable snapshots, one a commit.
//
// Most callers need [Open] for one manifest and [Snapshot] for what an agent
// serves. The package takes bytes, never a repository; the keys are in
// unseal/keyring, and who may read is decided in unseal/access.
package unseal

import (
	"errors"
	"fmt"
	"strings"

	"github.com/getsops/sops/v3"
	sopsage "github.com/getsops/sops/v3/age"
	"github.com/getsops/sops/v3/keyservice"

	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal/keyring"
)

// ErrNotRecipient: no identity of the ring opens the manifest's data key.
var ErrNotRecipient = errors.New("no identity in the keyring is a recipient")

// ErrService: a key service that the ring lists did not open the data key. It may
// do so later.
var ErrService = errors.New("a key service did not open it")

// A data key, and a Shamir share of one, which has one byte more.
const (
	dataKeySize = 32
	shareSize   = dataKeySize + 1
)

// Options of Open.
type Options struct {
	// AllowUnbound accepts a manifest without a binding, as plain sops writes it.
	AllowUnbound bool
	// Rebind accepts a binding that does not fit, or none, so that the manifest
	// can be bound anew to what it states (seal.Envelope.Rebind).
	Rebind bool
}

// Opened is a manifest that was opened and verified.
type Opened struct {
	Manifest *manifest.Manifest
	Values   []seal.Value
	// Bound is false when the manifest has no binding and Options allowed that.
	Bound bool
	// Envelope can be changed and sealed again with the same data key.
	Envelope *seal.Envelope
}

// Open unseals one parsed manifest with the ring of its workspace. Errors wrap
// ErrNotRecipient, ErrService or seal.ErrUnbound, or are a *seal.TamperError; none holds a
// value.
func Open(m *manifest.Manifest, ring *keyring.Ring, opts Options) (*Opened, error) {
	if m.Workspace.IsZero() {
		return nil, fmt.Errorf("%s: states no namespace, and nothing says which workspace it is of", m.File)
	}
	if m.Workspace != ring.Workspace() {
		return nil, fmt.Errorf("%s: is of workspace %s; the ring of %s cannot open it", m.File, m.Workspace, ring.Workspace())
	}
	e, err := seal.Load(m)
	if err != nil {
		return nil, err
	}
	dataKey, err := dataKey(m.File, e, ring)
	if err != nil {
		return nil, err
	}
	var values []seal.Value
	bound := false
	if opts.Rebind {
		values, err = e.OpenToRebind(dataKey)
	} else {
		values, bound, err = e.Open(dataKey, opts.AllowUnbound)
	}
	if err != nil {
		return nil, err
	}
	return &Opened{Manifest: m, Values: values, Bound: bound, Envelope: e}, nil
}

// sealed is a file with SOPS's metadata: a manifest or another file.
type sealed interface {
	Metadata() *sops.Metadata
	Recipients() []string
}

// dataKey lets SOPS find the data key, with the ring as its only key service.
func dataKey(file string, e sealed, ring *keyring.Ring) (key []byte, err error) {
	// SOPS panics on some hostile key groups.
	defer func() {
		if recover() != nil {
			key, err = nil, &seal.TamperError{File: file, Field: "sops", Reason: seal.ReasonForm, Msg: "the section cannot be read"}
		}
	}()
	svc := &ringService{ring: ring, services: ring.Services()}
	// age first: where an identity of the ring fits, no service is asked.
	key, err = e.Metadata().GetDataKeyWithKeyServices([]keyservice.KeyServiceClient{svc}, []string{sopsage.KeyTypeIdentifier})
	switch {
	case err == nil && len(key) == dataKeySize:
		return key, nil
	case err == nil:
		return nil, &seal.TamperError{File: file, Field: "sops", Reason: seal.ReasonForm, Msg: "the data key has the wrong length"}
	case svc.failed != nil:
		return nil, fmt.Errorf("%s: %w", file, svc.failed)
	case svc.damaged:
		return nil, &seal.TamperError{File: file, Field: "sops.age", Reason: seal.ReasonForm, Msg: "the data key that is sealed for a key of this ring is damaged"}
	}
	return nil, fmt.Errorf("%s: %w of workspace %s: the file is sealed for %s; the ring has %s; %s",
		file, ErrNotRecipient, ring.Workspace(), list(e.Recipients()), has(ring), svc.remedy())
}

// has shows what a ring can open with.
func has(ring *keyring.Ring) string {
	ids, services := ring.Recipients(), ring.Services().Keys()
	switch {
	case len(services) == 0:
		return list(ids)
	case len(ids) == 0:
		return "no identity, and in " + keyring.SettingsFile + " " + list(services)
	}
	return list(ids) + ", and in " + keyring.SettingsFile + " " + list(services)
}

// list shows up to five recipients. They stand in a file that anybody may have
// written, so each is cut and quoted if it is odd.
func list[T any](items []T) string {
	var out []string
	for i, item := range items {
		if i == 5 {
			out = append(out, fmt.Sprintf("%d more", len(items)-i))
			break
		}
		s := fmt.Sprint(item)
		if len(s) > 64 {
			s = s[:61] + "..."
		}
		out = append(out, strings.Trim(fmt.Sprintf("%q", s), `"`))
	}
	return strings.Join(out, ", ")
}
