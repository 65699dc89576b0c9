package seal

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/getsops/sops/v3"
	"github.com/getsops/sops/v3/keyservice"

	"github.com/sealward/sealward/seal/workspace"
)

// dataKey decides whether ours stays, and whom a fresh one is sealed for.
func (m *merge) dataKey() error {
	ours, theirs := m.ours.Envelope, m.theirs.Envelope
	o, err := ours.RecipientGroups()
	if err != nil {
		return err
	}
	t, err := theirs.RecipientGroups()
	if err != nil {
		return err
	}
	b := workspace.Recipients{}
	changed := !o.Equal(t)
	if m.base != nil {
		if b, err = m.base.Envelope.RecipientGroups(); err != nil {
			return err
		}
		changed = changed || !o.Equal(b)
	}
	if !changed && subtle.ConstantTimeCompare(ours.dataKey, theirs.dataKey) == 1 {
		m.rememberTheirs()
		return nil
	}
	m.out.Fresh = true
	if m.out.Recipients, err = m.recipients(b, o, t); err != nil {
		return fmt.Errorf("%s: recipients: %w", m.m.File, err)
	}
	for _, r := range m.out.Recipients.All() {
		if !o.Contains(r) {
			m.out.Added = append(m.out.Added, r)
		}
	}
	for _, r := range o.All() {
		if !m.out.Recipients.Contains(r) {
			m.out.Removed = append(m.out.Removed, r)
		}
	}
	var keys keyservice.KeyServiceClient
	if m.opts.Keys != nil {
		if keys, err = m.opts.Keys(m.out.Recipients); err != nil {
			return err
		}
	}
	return ours.newDataKey(m.out.Recipients, keys)
}

// rememberTheirs has values that come from theirs keep their ciphertext: under the
// same data key, the cipher takes the nonce that it once opened a value with.
func (m *merge) rememberTheirs() {
	sections := m.m.Sections()
	for _, entry := range m.theirs.Envelope.m.Secret.Entries {
		section := sections.Text
		if entry.Binary {
			section = sections.Base64
		}
		// It opened a moment ago.
		_, _ = m.ours.Envelope.cipher.Decrypt(entry.Text, m.ours.Envelope.dataKey, strings.Join(below(section, entry.Key), ":")+":")
	}
}

const whomToSeal = "sealward resolve says whom to seal for with --recipients ours, theirs or both"

// recipients merges for whom a fresh data key is sealed.
func (m *merge) recipients(base, ours, theirs workspace.Recipients) (workspace.Recipients, error) {
	simple := len(ours.Groups()) == 1 && len(theirs.Groups()) == 1 && len(base.Groups()) <= 1
	merged, clear := workspace.Recipients{}, true
	var err error
	if simple {
		left := threeWay(base.All(), ours.All(), theirs.All())
		if merged, err = workspace.Grouped(0, left); len(left) == 0 {
			err = fmt.Errorf("each side removed whom the other kept, so nobody would be left; %s", whomToSeal)
		}
	} else {
		// Groups say who opens together with whom; half of one and half of the other
		// would be nobody's intention.
		switch {
		case ours.Equal(theirs) || theirs.Equal(base):
			merged = ours
		case ours.Equal(base):
			merged = theirs
		default:
			clear = false
		}
	}
	switch m.opts.Choices.Recipients {
	case TakeOurs:
		return ours, nil
	case TakeTheirs:
		return theirs, nil
	case TakeBoth:
		if !clear {
			err = errors.New("key groups that both sides changed cannot be put together; choose ours or theirs")
		}
		return merged, err
	}
	if err != nil {
		return merged, err
	}
	conflict := func(format string, args ...any) {
		m.out.Conflicts = append(m.out.Conflicts, Conflict{Recipients: true, Why: fmt.Sprintf(format, args...)})
	}
	if !simple {
		if clear && slices.ContainsFunc(m.opts.Registries, merged.Equal) {
			return merged, nil
		}
		return merged, fmt.Errorf("the key groups of the two sides cannot be merged, or are not those of a %s; %s", workspace.RulesFile, whomToSeal)
	}
	var named []workspace.Recipient
	for _, r := range merged.All() {
		if m.named(r) {
			named = append(named, r)
			continue
		}
		conflict("%.80q is named by the file %s, but by no %s for it; the file was not sealed for it", r, m.whose(r, base, ours, theirs), workspace.RulesFile)
	}
	if len(named) == 0 {
		return merged, fmt.Errorf("no %s names a recipient of the file; %s", workspace.RulesFile, whomToSeal)
	}
	return workspace.Grouped(0, named)
}

// named says that a registry lets r open the file on its own.
func (m *merge) named(r workspace.Recipient) bool {
	return slices.ContainsFunc(m.opts.Registries, func(rs workspace.Recipients) bool { return len(rs.Groups()) == 1 && rs.Contains(r) })
}

func (m *merge) whose(r workspace.Recipient, base, ours, theirs workspace.Recipients) string {
	switch {
	case base.Contains(r) || ours.Contains(r) && theirs.Contains(r):
		return "on both sides"
	case ours.Contains(r):
		return "on our side"
	default:
		return "on their side"
	}
}

// threeWay keeps what neither side removed, and adds what either added.
func threeWay(base, ours, theirs []workspace.Recipient) []workspace.Recipient {
	var out []workspace.Recipient
	for _, r := range ours {
		if !slices.Contains(base, r) || slices.Contains(theirs, r) {
			out = append(out, r)
		}
	}
	for _, r := range theirs {
		if !slices.Contains(base, r) && !slices.Contains(ours, r) {
			out = append(out, r)
		}
	}
	return out
}

// RecipientGroups are the recipients as the file names them, in their key groups.
// It fails for one that sealward would not seal for.
func (e *Envelope) RecipientGroups() (workspace.Recipients, error) {
	return recipientGroups(e.m.File, e.tree.Metadata)
}

func recipientGroups(file string, meta sops.Metadata) (workspace.Recipients, error) {
	var groups [][]workspace.Recipient
	for _, g := range meta.KeyGroups {
		var group []workspace.Recipient
		for _, k := range g {
			r, ok := workspace.RecipientOf(k)
			if !ok {
				return workspace.Recipients{}, fmt.Errorf("%s: names the recipient %.80q, for which sealward cannot seal", file, k.ToString())
			}
			if !slices.Contains(group, r) {
				group = append(group, r)
			}
		}
		groups = append(groups, group)
	}
	rs, err := workspace.Grouped(meta.ShamirThreshold, groups...)
	if err != nil {
		return rs, fmt.Errorf("%s: its sops section %w", file, err)
	}
	return rs, nil
}
