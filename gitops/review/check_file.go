package review

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/sealward/sealward/gitops/gitcmd"
	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/keyring"
)

// file checks one file below workspaces/ or instance/ by itself. Grants and roles
// are looked at together, in policy.
func (c *checker) file(ctx context.Context, f File) error {
	place, ours, err := manifest.Locate(f.Path)
	if !ours {
		if f.Path == workspace.RulesFile || f.Path == workspace.SettingsFile {
			return c.keysOnly(ctx, f)
		}
		return c.other(ctx, f, true) // a README
	}
	if !f.Mode.IsFile() {
		c.mode(f)
		return nil
	}
	if err != nil && place.Scope.IsZero() || err != nil && !place.Policy {
		c.add(PlaceInvalid, f.Path, 1, 0, "", err.Error(), "")
		return c.odd(ctx, f)
	}
	if place.Policy {
		return nil
	}
	c.looked(f.Path)
	m, data, err := c.parse(ctx, f)
	if m == nil || err != nil {
		return err
	}
	c.expiry(m)
	if err := m.CheckPlace(place); err != nil {
		c.manifestError(f.Path, err)
		c.copied(f, m)
		if m.CheckSealed() != nil {
			c.manifestError(f.Path, m.CheckSealed())
		}
		return nil
	}
	if err := m.CheckSealed(); err != nil {
		c.manifestError(f.Path, err)
		c.note(f.Path, place, m)
		return nil
	}
	if err := m.SettleIn(place.Scope); err != nil {
		c.manifestError(f.Path, err)
		return nil
	}
	c.note(f.Path, place, m)
	return c.sealed(ctx, f, m, data)
}

// keysOnly looks into a file of another form, which others judge.
func (c *checker) keysOnly(ctx context.Context, f File) error {
	if !f.Mode.IsFile() {
		return nil
	}
	data, err := c.tree.Read(ctx, f)
	if err == nil {
		c.privateKey(f.Path, data)
	}
	return ctx.Err()
}

// odd looks for a value in the clear in a file that stands where no manifest can.
func (c *checker) odd(ctx context.Context, f File) error { return c.other(ctx, f, false) }

// parse reads a manifest and notes what is wrong with it; m is then nil.
func (c *checker) parse(ctx context.Context, f File) (m *manifest.Manifest, data []byte, err error) {
	data, err = c.tree.Read(ctx, f)
	switch {
	case errors.Is(err, gitcmd.ErrTooLarge):
		c.add(FileTooLarge, f.Path, 1, 0, "", reason(f.Path, err), "")
		return nil, nil, nil
	case errors.Is(err, gitcmd.ErrNoObject), errors.Is(err, fs.ErrNotExist):
		return nil, nil, err
	case err != nil:
		return nil, nil, err
	}
	c.privateKey(f.Path, data)
	if line, found := hasMarkers(data); found {
		remedy := ""
		if place, _, _ := manifest.Locate(f.Path); place.Policy {
			remedy = "resolve it as any conflict of git: edit the file, then git add it"
		}
		c.add(MergeConflict, f.Path, line, 1, "", "conflict markers of a merge stand in the file", remedy)
		return nil, nil, nil
	}
	c.mu.Lock()
	c.hasSops[f.Path] = manifest.IsSealed(data) || bytes.Contains(data, []byte(`"sops"`))
	c.mu.Unlock()
	m, err = manifest.Parse(f.Path, data)
	if err != nil {
		c.manifestError(f.Path, err)
		return nil, data, nil
	}
	return m, data, nil
}

// reason is an error without the path that Finding names anyway.
func reason(path string, err error) string { return strings.TrimPrefix(err.Error(), path+": ") }

// manifestError notes the errors of one manifest.
func (c *checker) manifestError(path string, err error) {
	var many manifest.Errors
	var one *manifest.Error
	switch {
	case errors.As(err, &many):
	case errors.As(err, &one):
		many = manifest.Errors{one}
	default:
		c.add(PlaceMismatch, path, 1, 0, "", reason(path, err), "")
		return
	}
	for _, e := range many {
		id, msg, remedy := ManifestInvalid, e.Msg, ""
		switch {
		case e.Leaked:
			id = ValueUnsealed
			msg, _, _ = strings.Cut(msg, ". ") // the remedy says the rest
			remedy = c.unsealedRemedy(path)
		case e.Misplaced:
			id = PlaceMismatch
			if place, _, _ := manifest.Locate(path); place.Policy {
				remedy = "give the file the name that it states, or change what it states"
			}
		case e.Reason == manifest.ReasonNoSops:
			id, msg = SopsInvalid, "the section is missing, and the values are sealed"
		case e.Reason == manifest.ReasonACL:
			id = ACLMismatch
		case e.Reason == manifest.ReasonUseCase:
			id = GrantUseCase
		case e.Reason == manifest.ReasonSelector:
			id = GrantEmpty
		case e.Reason == manifest.ReasonTooLarge:
			id = FileTooLarge
		}
		c.add(id, path, e.Line, e.Column, e.Field, msg, remedy)
	}
}

// unsealedRemedy: of a sealed file in which somebody wrote a value, the rest would be
// lost by sealing it again.
func (c *checker) unsealedRemedy(path string) string {
	const leaked = "treat it as leaked: change the credential at its source; then "
	place, ours, err := manifest.Locate(path)
	c.mu.Lock()
	sealed := c.hasSops[path]
	c.mu.Unlock()
	switch {
	case sealed && ours && err == nil && !place.Policy:
		return leaked + "restore the sealed file, and: sealward set " + place.Scope.String() + "/" + place.Name.String() + " KEY"
	case !ours || err != nil || place.Policy:
		return leaked + "seal the new one: sealward seal --in-place -w WORKSPACE " + path + ", and move it to workspaces/WORKSPACE/secrets/"
	}
	return leaked + "seal the new one: sealward seal --in-place " + path
}

func (c *checker) expiry(m *manifest.Manifest) {
	until, ok, err := m.Expiry()
	var wrong *manifest.Error
	line, column := m.At("tags")
	if m.Form == manifest.Kubernetes {
		line, column = m.At("metadata", "annotations")
	}
	switch {
	case errors.As(err, &wrong):
		c.add(ExpiryInvalid, m.File, line, column, wrong.Field, wrong.Msg, "")
	case ok && !c.opts.Now.Before(until):
		c.add(CredentialExpiry, m.File, line, column, "tags", fmt.Sprintf("the %s was good until %s", what(m), until.UTC().Format("2006-01-02 15:04")), "renew it at its source, set the new value, and change the date: sealward edit "+m.Workspace.String()+"/"+m.Name.String())
	}
}

func what(m *manifest.Manifest) string {
	if m.Secret != nil && m.Secret.Type == manifest.Certificate {
		return "certificate"
	}
	return "credential"
}

// sealed checks a sealed secret that stands where it belongs.
func (c *checker) sealed(ctx context.Context, f File, m *manifest.Manifest, data []byte) error {
	s, err := seal.Inspect(m)
	line := func(path ...string) (int, int) {
		if line, column := m.At(path...); line > 0 {
			return line, column
		}
		return m.At("sops")
	}
	if err != nil {
		l, col := line("sops")
		msg := err.Error()
		var tamper *seal.TamperError
		if errors.As(err, &tamper) {
			msg = tamper.Msg
		}
		c.add(SopsInvalid, f.Path, l, col, "sops", msg, "")
		return nil
	}
	c.recipients(f, m, s)
	if c.changed != nil {
		if _, changed := c.changed[f.Path]; !changed {
			return nil // it is here because its rule changed
		}
	}
	if !manifest.IsSealedValue(s.MAC) {
		l, col := line("sops", "mac")
		c.add(MACMissing, f.Path, l, col, "sops.mac", "the MAC is missing or damaged: nothing proves that the values are as they were sealed", "")
	}
	if m.Secret.Binding == "" {
		if !c.opts.AllowUnbound {
			c.add(BindingMissing, f.Path, 1, 0, strings.Join(m.BindingPath(), "."), "there is no binding: nothing proves that the values belong to this name and workspace", "")
		}
	} else if s.Pattern != manifest.SealedPattern || s.MACOnlyEncrypted {
		l, col := line("sops", "encrypted_regex")
		c.add(SopsPattern, f.Path, l, col, "sops.encrypted_regex", "is not the pattern that sealward seals by, so the file will not open", "")
	}
	for _, e := range m.Secret.Entries {
		if e.Text != "" && !strings.HasSuffix(e.Text, ",type:str]") {
			kind := strings.TrimSuffix(e.Text[strings.LastIndex(e.Text, ":")+1:], "]")
			c.add(ValueRetyped, f.Path, e.Line, e.Column, e.Key.String(), "was sealed as "+kind+" by plain sops, which may have changed how it is written", "")
		}
	}
	c.copied(f, m)
	if err := c.before(ctx, f, m, s); err != nil {
		return err
	}
	return c.open(f, m)
}

// recipients compares those that the file names with those of its rule.
func (c *checker) recipients(f File, m *manifest.Manifest, s *seal.Section) {
	if c.rules == nil {
		return // told at .sops.yaml
	}
	line, column := m.At("sops")
	to, err := c.rules.Recipients(f.Path)
	switch {
	case errors.Is(err, workspace.ErrNoRule):
		c.add(RuleMissing, f.Path, 1, 0, "", "no creation rule in "+workspace.RulesFile+" covers workspace "+m.Workspace.String(), "sealward workspace create "+createArg(m.Workspace))
		return
	case err != nil:
		if c.changed != nil { // without a base it is told at .sops.yaml
			if _, changed := c.changed[workspace.RulesFile]; !changed {
				c.add(RuleInvalid, f.Path, 1, 0, "", err.Error(), "")
			}
		}
		return
	}
	var want []string
	for _, r := range to.All() {
		want = append(want, r.String())
	}
	var have []string
	for _, g := range s.Groups {
		have = append(have, g...)
	}
	for _, name := range want {
		if !slices.Contains(have, name) {
			c.add(RecipientMissing, f.Path, line, column, "sops", "is not sealed for "+shortRecipient(name)+", whom the rule names", rotateArg(m.Workspace))
		}
	}
	for _, name := range have {
		if !slices.Contains(want, name) {
			c.add(RecipientExtra, f.Path, line, column, "sops", "is sealed for "+shortRecipient(name)+", whom the rule does not name", "add the recipient to the rule if that is meant; else treat the values as read by them, and: sealward rotate -w "+m.Workspace.String())
		}
	}
	threshold := 0
	if len(to.Groups()) > 1 {
		threshold = to.Threshold()
	}
	var wantGroups [][]string
	for _, g := range to.Groups() {
		var names []string
		for _, r := range g {
			names = append(names, r.String())
		}
		wantGroups = append(wantGroups, names)
	}
	switch {
	case len(to.Groups()) == len(s.Groups) && (threshold == s.Threshold || len(s.Groups) == 1):
		// Who opens together with whom: one recipient in all groups needs nobody else.
		if sameNames(want, have) && !sameGroups(wantGroups, s.Groups) {
			c.add(RecipientGroups, f.Path, line, column, "sops", "its recipients stand in other key groups than those of the rule", rotateArg(m.Workspace))
		}
	default:
		c.add(RecipientGroups, f.Path, line, column, "sops", fmt.Sprintf("has %s; the rule has %s", groups(len(s.Groups), s.Threshold), groups(len(to.Groups()), threshold)), rotateArg(m.Workspace))
	}
}

func sameNames(a, b []string) bool { return len(without(a, b)) == 0 && len(without(b, a)) == 0 }

// sameGroups compares key groups, in which order has no meaning.
func sameGroups(a, b [][]string) bool {
	texts := func(gs [][]string) []string {
		var out []string
		for _, g := range gs {
			names := slices.Clone(g)
			slices.Sort(names)
			out = append(out, strings.Join(slices.Compact(names), "\n"))
		}
		slices.Sort(out)
		return out
	}
	return slices.Equal(texts(a), texts(b))
}

func groups(n, threshold int) string {
	if n == 1 {
		return "one group of recipients"
	}
	return fmt.Sprintf("%d key groups, of which %d must agree", n, threshold)
}

func rotateArg(ws manifest.Workspace) string {
	return "somebody who can open it: sealward rotate -w " + ws.String()
}

func createArg(ws manifest.Workspace) string {
	if ws.IsInstance() {
		return "--instance"
	}
	return ws.String()
}

// shortRecipient names a recipient so that a person knows it again: enough of both
// ends.
func shortRecipient(name string) string {
	name = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, name)
	// What is no key but an address stays whole: its middle says where the key is.
	if key := strings.HasPrefix(name, "age1") || strings.HasPrefix(name, "ssh-"); key && len(name) > 40 {
		return name[:16] + "…" + name[len(name)-8:]
	}
	return name
}

// copied notes the file's binding, which no two files share: it is sealed with a
// fresh nonce.
func (c *checker) copied(f File, m *manifest.Manifest) {
	if !m.Kind.IsSecret() || m.Secret.Binding == "" {
		return
	}
	here := placed{path: f.Path}
	here.line, here.column = m.At(m.BindingPath()...)
	c.mu.Lock()
	first, twice := c.bindings[m.Secret.Binding]
	if !twice {
		c.bindings[m.Secret.Binding] = here
	}
	c.mu.Unlock()
	if twice {
		second := here
		if second.path < first.path {
			first, second = second, first
		}
		c.add(BindingCopied, second.path, second.line, second.column, strings.Join(m.BindingPath(), "."), "holds the sealed binding of "+first.path+": one is a copy of the other, and will not open", "")
	}
}

// before compares a sealed file with what it was.
func (c *checker) before(ctx context.Context, f File, m *manifest.Manifest, s *seal.Section) error {
	ch := c.changed[f.Path]
	if ch.Old == nil || !ch.Old.Mode.IsFile() {
		return nil
	}
	data, err := c.opts.Base.Read(ctx, *ch.Old)
	if errors.Is(err, gitcmd.ErrTooLarge) {
		return nil
	}
	if err != nil {
		return err
	}
	old, err := manifest.Parse(f.Path, data)
	if err != nil || !old.Kind.IsSecret() || !old.Sealed {
		return nil
	}
	was, err := seal.Inspect(old)
	if err != nil {
		return nil
	}
	if m.Secret.Binding != "" && m.Secret.Binding == old.Secret.Binding {
		if field, same := sameBound(old, m); !same {
			line, column := nearest(m, field)
			remedy := ""
			if s.MAC == was.MAC { // plain sops would have made a new one
				remedy = "it was edited by hand; restore it, and make the change with: sealward edit " + m.Workspace.String() + "/" + m.Name.String()
			}
			c.add(BindingStale, f.Path, line, column, field, "changed, and the binding did not: the file will not open, and the agent goes on serving the old value", remedy)
		}
	}
	if s.LastModified.Before(was.LastModified) {
		line, column := m.At("sops", "lastmodified")
		c.add(SealOlder, f.Path, line, column, "sops.lastmodified", fmt.Sprintf("was sealed on %s, before the version it replaces (%s)", s.LastModified.UTC().Format("2006-01-02 15:04"), was.LastModified.UTC().Format("2006-01-02 15:04")), "")
	}
	var left []string
	for _, g := range was.Groups {
		for _, name := range g {
			if !slices.ContainsFunc(s.Groups, func(g []string) bool { return slices.Contains(g, name) }) {
				left = append(left, name)
			}
		}
	}
	if len(left) > 0 && sharesCiphertext(old, m) {
		line, column := m.At("sops")
		c.add(RotateMissing, f.Path, line, column, "sops", shortRecipient(left[0])+" is no recipient any more, but the data key is the one that they had", rotateArg(m.Workspace))
	}
	return nil
}

// sharesCiphertext reports that a value was not sealed anew, so that the data key
// is the old one.
func sharesCiphertext(a, b *manifest.Manifest) bool {
	return slices.ContainsFunc(a.Secret.Entries, func(x manifest.Entry) bool {
		return x.Text != "" && slices.ContainsFunc(b.Secret.Entries, func(y manifest.Entry) bool { return x.Text == y.Text })
	})
}

// sameBound compares everything that a binding covers, values by their ciphertext.
// field is the first that differs.
func sameBound(a, b *manifest.Manifest) (field string, same bool) {
	binding := strings.Join(b.BindingPath(), ".")
	var compare func(x, y *yaml.Node, path string) (string, bool)
	compare = func(x, y *yaml.Node, path string) (string, bool) {
		switch {
		case path == "sops" || path == binding:
			return "", true
		case x == nil || y == nil || x.Kind != y.Kind:
			return path, false
		case x.Kind != yaml.MappingNode:
			if x.Kind == yaml.ScalarNode {
				return path, x.Value == y.Value && x.Tag == y.Tag
			}
			if len(x.Content) != len(y.Content) {
				return path, false
			}
			for i := range x.Content {
				if _, same := compare(x.Content[i], y.Content[i], path+"[]"); !same {
					return path, false
				}
			}
			return "", true
		}
		for _, n := range []*yaml.Node{x, y} {
			for i := 0; i+1 < len(n.Content); i += 2 {
				name := n.Content[i].Value
				if field, same := compare(child(x, name), child(y, name), strings.TrimPrefix(path+"."+name, ".")); !same {
					return field, false
				}
			}
		}
		return "", true
	}
	return compare(a.Node(), b.Node(), "")
}

// nearest is where a field stands, or, where it is missing, what it would stand in.
func nearest(m *manifest.Manifest, field string) (line, column int) {
	path := strings.Split(field, ".")
	for len(path) > 0 && line == 0 {
		line, column = m.At(path...)
		path = path[:len(path)-1]
	}
	return line, column
}

func child(n *yaml.Node, name string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i+1]
		}
	}
	return nil
}

// open unseals a file where the ring has a key of its workspace.
func (c *checker) open(f File, m *manifest.Manifest) error {
	if c.opts.Ring == nil {
		return nil
	}
	ring, err := c.opts.Ring(m.Workspace)
	if errors.Is(err, keyring.ErrNoRing) {
		return nil
	}
	if err != nil {
		return err
	}
	if !below(f.Path, c.opts.Paths) {
		return nil
	}
	_, err = unseal.Open(m, ring, unseal.Options{AllowUnbound: true})
	c.mu.Lock()
	c.opened++
	c.mu.Unlock()
	var tamper *seal.TamperError
	switch {
	case err == nil:
	case errors.As(err, &tamper):
		line, column := nearest(m, tamper.Field)
		c.add(UnsealFailed, f.Path, line, column, tamper.Field, tamper.Msg, "")
	case errors.Is(err, unseal.ErrNotRecipient):
		line, column := m.At("sops")
		c.add(UnsealNoKey, f.Path, line, column, "sops", "no key of the ring is among the recipients", "")
	default:
		c.add(UnsealFailed, f.Path, 1, 0, "", reason(f.Path, err), "")
	}
	return nil
}
