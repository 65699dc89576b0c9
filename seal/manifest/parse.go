package manifest

import (
	"bytes"
	"encoding/base64"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

var versions = []string{"v1", "v1beta", "v1alpha", "v2alpha"}

// Parse reads one manifest. file is only used to name it in errors. The error
// is an [Errors] with the place of each thing wrong; there is no partial result.
func Parse(file string, data []byte) (*Manifest, error) {
	d := &decoder{file: file}
	root := d.readDocument(data)
	if root == nil || len(d.errs) > 0 {
		return nil, d.errs
	}
	m := &Manifest{File: file, root: root, JSON: d.json}
	f := d.fields(root, "")
	m.Sealed = f.values["sops"] != nil
	if isKubernetes(f) {
		d.kubernetes(m, f)
	} else {
		d.header(m, f)
	}
	switch m.Kind {
	case KindSecret, KindInstanceSecret:
		if m.Form == Kubernetes {
			break
		}
		d.secret(m, f)
		f.done("name, version, type, workspace, layer, tags, description, owner, " + string(m.Kind))
	case KindGrant:
		d.grant(m, f)
		f.done("name, version, type, workspace, layer, tags, description, owner, grant")
	case KindRole:
		d.role(m, f)
		f.done("name, version, type, workspace, layer, tags, description, owner, role")
	}
	if len(d.errs) > 0 {
		slices.SortStableFunc(d.errs, func(a, b *Error) int { return a.Line - b.Line })
		return nil, d.errs
	}
	return m, nil
}

func (d *decoder) header(m *Manifest, f *fieldSet) {
	kind, kindNode := f.text("type", true)
	switch Kind(kind) {
	case KindSecret, KindInstanceSecret, KindGrant, KindRole:
		m.Kind = Kind(kind)
	default:
		if kindNode != nil {
			d.fail(kindNode, "type", "%s is unknown; secret, instance-secret, grant or role", quote(kind))
		}
	}
	if s, n := f.text("name", true); n != nil {
		name, err := ParseName(s)
		if err != nil {
			d.fail(n, "name", "%s", err)
		}
		m.Name = name
	}
	if s, n := f.text("version", true); n != nil {
		// DataOS's samples also show v1beta1.
		if !slices.Contains(versions, s) && s != "v1beta1" {
			d.fail(n, "version", "%s is unknown; one of %s", quote(s), strings.Join(versions, ", "))
		}
		m.Version = s
	}
	m.Workspace = d.workspace(m, f)
	if s, n := f.text("layer", false); n != nil {
		if s != "user" && s != "system" {
			d.fail(n, "layer", "%s is unknown; user or system", quote(s))
		}
		m.Layer = s
	}
	tags, _ := f.texts("tags")
	for _, t := range tags {
		m.Tags = append(m.Tags, t.Value)
	}
	m.Description, _ = f.text("description", false)
	m.Owner, _ = f.text("owner", false)
}

func (d *decoder) workspace(m *Manifest, f *fieldSet) Workspace {
	s, n := f.text("workspace", false)
	switch {
	case m.Kind == KindInstanceSecret:
		if n != nil {
			d.fail(n, "workspace", "an instance-secret is in no workspace; remove the field")
		}
		return Instance()
	case n == nil && m.Kind == KindSecret:
		return Public()
	case n == nil:
		return Workspace{}
	}
	ws, err := ParseWorkspace(s)
	if err != nil {
		d.fail(n, "workspace", "%s", err)
	}
	return ws
}

func (d *decoder) secret(m *Manifest, f *fieldSet) {
	section := string(m.Kind)
	body := f.take(section)
	if body == nil {
		d.fail(f.node, section, "is missing")
		return
	}
	s := d.fields(body, section)
	if s == nil {
		return
	}
	m.Secret = &Secret{}
	if v, n := s.text("type", true); n != nil {
		t, err := ParseSecretType(v)
		if err != nil {
			d.fail(n, section+".type", "%s", err)
		}
		m.Secret.Type = t
	}
	if v, n := s.text("acl", true); n != nil {
		acl, err := ParseACL(v)
		if err != nil {
			d.fail(n, section+".acl", "%s", err)
		}
		m.Secret.ACL = acl
		d.checkSuffix(m, n, section+".acl")
	}
	seen := map[Key]int{}
	present := d.entries(m, s, "data", false, seen)
	present = d.entries(m, s, "binaryData", true, seen) || present
	present = d.files(m, s, seen) || present
	if !present {
		d.fail(body, section, "has no values; at least one of data, binaryData and files must be there")
	}
	if len(seen) > maxKeys {
		d.fail(body, section, "has %d keys; at most %d", len(seen), maxKeys)
	}
	s.done("type, acl, data, binaryData, files")
	d.seal(m, f)
}

// checkSuffix holds DataOS's convention: a name that ends in -r or -rw says
// what the credential can do, and must not say something else than acl.
func (d *decoder) checkSuffix(m *Manifest, n *yaml.Node, field string) {
	name := m.Name.String()
	if acl := m.Secret.ACL; strings.HasSuffix(name, "-rw") && acl == Read || strings.HasSuffix(name, "-r") && acl == ReadWrite {
		d.fail(n, field, "is %s, but the name %s says otherwise; change one of them", acl, name).Reason = ReasonACL
	}
}

// entries reads a section of values, of base64 or of text.
func (d *decoder) entries(m *Manifest, s *fieldSet, section string, binary bool, seen map[Key]int) bool {
	node := s.take(section)
	if node == nil {
		return false
	}
	path := join(s.prefix, section)
	f := d.fields(node, path)
	if f == nil {
		return true
	}
	d.refuseComments(node, path)
	if len(node.Content) == 0 {
		d.fail(node, path, "is empty; remove it or add a key")
	}
	for _, name := range f.order {
		k, v := f.keys[name], f.values[name]
		field := join(path, name)
		key, ok := d.key(k, path, seen)
		if !ok {
			continue
		}
		switch {
		case v.Kind != yaml.ScalarNode:
			d.fail(v, field, "must be a text, not a list or mapping")
			continue
		case v.Tag == "!!null":
			d.fail(v, field, `is null; write "" for an empty value`)
			continue
		}
		if m.Sealed {
			if k.Tag != "!!str" {
				d.fail(k, field, "has a key that YAML does not read as text; quote it")
			}
			d.checkSealed(v, field)
		} else if binary {
			if _, err := base64.StdEncoding.Strict().DecodeString(v.Value); err != nil || strings.ContainsAny(v.Value, "\r\n") {
				d.fail(v, field, "is not base64 (standard alphabet, padded, on one line)")
			}
		}
		m.Secret.Entries = append(m.Secret.Entries, Entry{Key: key, Binary: binary, Text: v.Value, Line: v.Line, Column: v.Column})
	}
	return true
}

// key checks a key of a secret; seen has the keys of all its sections.
func (d *decoder) key(k *yaml.Node, path string, seen map[Key]int) (Key, bool) {
	key, err := ParseKey(k.Value)
	if err != nil {
		d.fail(k, path, "%s", err)
		return Key{}, false
	}
	if line, dup := seen[key]; dup {
		d.fail(k, join(path, k.Value), "stands twice (first on line %d); keep one", line)
		return Key{}, false
	}
	seen[key] = k.Line
	return key, true
}

func (d *decoder) files(m *Manifest, s *fieldSet, seen map[Key]int) bool {
	const section = "files"
	node := s.take(section)
	if node == nil {
		return false
	}
	path := join(s.prefix, section)
	if m.Sealed {
		d.fail(node, path, "stands in a sealed manifest; sealing moves the content into data or binaryData")
		return true
	}
	f := d.fields(node, path)
	if f == nil {
		return true
	}
	if len(node.Content) == 0 {
		d.fail(node, path, "is empty; remove it or add a key")
	}
	for _, name := range f.order {
		k, v := f.keys[name], f.values[name]
		field := join(path, name)
		key, ok := d.key(k, path, seen)
		if !ok {
			continue
		}
		if v.Kind != yaml.ScalarNode || v.Tag == "!!null" || v.Value == "" {
			d.fail(v, field, "must be the path of a local file")
			continue
		}
		m.Secret.Files = append(m.Secret.Files, FileRef{Key: key, Path: v.Value, Line: v.Line, Column: v.Column})
	}
	return len(f.order) > 0
}

// refuseComments: SOPS seals comments among sealed values but neither names nor
// authenticates them, and logs those it cannot open.
func (d *decoder) refuseComments(n *yaml.Node, field string) {
	if n.HeadComment != "" || n.LineComment != "" || n.FootComment != "" {
		d.fail(n, field, "a comment stands among the values; move it above the manifest, and quote a value that has a # in it")
		return
	}
	for _, c := range n.Content {
		d.refuseComments(c, field)
	}
}

// seal takes the two sections that only a sealed manifest has.
func (d *decoder) seal(m *Manifest, f *fieldSet) {
	d.takeSOPS(f)
	node := f.take("seal")
	if node == nil {
		return
	}
	if !m.Sealed {
		d.fail(node, "seal", "stands in a manifest that is not sealed; remove it and seal the manifest again")
		return
	}
	s := d.fields(node, "seal")
	if s == nil {
		return
	}
	d.refuseComments(node, "seal")
	if v, n := s.text("binding", true); n != nil {
		if !IsSealedValue(v) {
			d.fail(n, "seal.binding", "is not a sealed value")
		}
		m.Secret.Binding = v
	}
	s.done("binding")
}

func (d *decoder) takeSOPS(f *fieldSet) {
	if sops := f.take("sops"); sops != nil && sops.Kind != yaml.MappingNode {
		d.fail(sops, "sops", "must be the section that SOPS writes")
	}
}

// checkSealed is stricter than SOPS, whose pattern has no end anchor: nothing
// may stand after a sealed value.
func (d *decoder) checkSealed(v *yaml.Node, field string) {
	switch {
	case v.Value == "" && v.Tag == "!!str": // SOPS seals an empty text as itself
	case IsSealedValue(v.Value):
	case strings.HasPrefix(v.Value, "ENC["):
		d.fail(v, field, "is not a well-formed sealed value; it was edited by hand")
	default:
		d.fail(v, field, "%s", leaked).Leaked = true
	}
}

// CheckSealed refuses a manifest whose values stand in the clear, which is wrong
// wherever manifests are committed. The error is an [Errors] with the place of each.
func (m *Manifest) CheckSealed() error {
	if m.Sealed || !m.Kind.IsSecret() {
		return nil
	}
	body := m.Sections().Text
	body = body[:len(body)-1]
	var errs Errors
	add := func(key Key, section string, line, column int) {
		if len(errs) < maxErrors {
			field := strings.Join(append(slices.Clip(body), section, key.String()), ".")
			errs = append(errs, &Error{File: m.File, Line: line, Column: column, Field: field, Msg: leaked, Leaked: true})
		}
	}
	for _, e := range m.Secret.Entries {
		section := m.Sections().Text
		if e.Binary {
			section = m.Sections().Base64
		}
		if IsSealedValue(e.Text) { // cut off, say: nothing leaked
			if len(errs) == 0 {
				errs = append(errs, &Error{File: m.File, Line: e.Line, Column: e.Column, Field: "sops", Msg: "is missing, and the values are sealed; restore the last good version of the file", Reason: ReasonNoSops})
			}
			continue
		}
		add(e.Key, section[len(section)-1], e.Line, e.Column)
	}
	for _, f := range m.Secret.Files {
		add(f.Key, "files", f.Line, f.Column)
	}
	return errs
}

const leaked = "is not sealed. Treat the value as leaked: rotate the credential at its source, then seal the new one (sealward seal)"

// IsSealedValue reports that s is one value as SOPS seals it and nothing else:
// AES256_GCM with a 32-byte nonce and a 16-byte tag (SOPS's aes.Cipher).
func IsSealedValue(s string) bool {
	// Not a pattern: a repository has many values.
	rest, ok := strings.CutPrefix(s, "ENC[AES256_GCM,data:")
	if !ok {
		return false
	}
	data, rest, ok1 := strings.Cut(rest, ",iv:")
	iv, rest, ok2 := strings.Cut(rest, ",tag:")
	tag, kind, ok3 := strings.Cut(rest, ",type:")
	switch kind {
	case "str]", "int]", "float]", "bool]", "time]":
	default:
		return false
	}
	return ok1 && ok2 && ok3 && base64Size(data) > 0 && base64Size(iv) == 32 && base64Size(tag) == 16
}

// base64Size is how many bytes s is the strict base64 of; 0 where it is not.
func base64Size(s string) int {
	if strings.ContainsAny(s, "\r\n") { // which the decoder skips
		return 0
	}
	var buf [256]byte
	out, err := base64.StdEncoding.Strict().AppendDecode(buf[:0], []byte(s))
	if err != nil {
		return 0
	}
	return len(out)
}

var rfc3339 = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$`)

// One small file must not make a policy that fills the memory.
const (
	maxGrantRules = 4096
	maxGrantKeys  = 1024
)

func (d *decoder) grant(m *Manifest, f *fieldSet) {
	body := f.take("grant")
	if body == nil {
		d.fail(f.node, "grant", "is missing")
		return
	}
	g := d.fields(body, "grant")
	if g == nil {
		return
	}
	out := &Grant{}
	m.Grant = out
	if v, n := g.text("policy_use_case_id", true); n != nil {
		switch v {
		case "read-all-secrets-from-heimdall":
			out.UseCase = ReadAllSecrets
		case string(ReadSpecificSecret), string(ReadAllSecrets), string(ListSecrets):
			out.UseCase = UseCase(v)
		default:
			d.fail(n, "grant.policy_use_case_id", "%s is unknown; read-specific-secret, read-all-secrets or list-secrets", quote(v)).Reason = ReasonUseCase
		}
	}
	subjects, node := g.texts("subjects")
	if node == nil || len(node.Content) == 0 {
		d.fail(orElse(node, body), "grant.subjects", "is missing; name at least one users:id:… or roles:id:…").Reason = ReasonSelector
	}
	for _, n := range subjects {
		s, err := ParseSubject(n.Value)
		if err != nil {
			d.fail(n, "grant.subjects", "%s", err)
			continue
		}
		out.Subjects = append(out.Subjects, s)
	}
	patterns, node := g.texts("secrets")
	for _, n := range patterns {
		p, err := ParsePattern(n.Value)
		if err != nil {
			d.fail(n, "grant.secrets", "%s", err)
			continue
		}
		out.Secrets = append(out.Secrets, p)
	}
	switch {
	case out.UseCase == ReadSpecificSecret && (node == nil || len(node.Content) == 0):
		d.fail(orElse(node, body), "grant.secrets", "is missing; read-specific-secret names at least one secret or pattern").Reason = ReasonSelector
	case out.UseCase == ReadAllSecrets && node != nil:
		d.fail(node, "grant.secrets", "stands beside read-all-secrets; use read-specific-secret, or remove it")
	case node != nil && len(node.Content) == 0:
		d.fail(node, "grant.secrets", "is empty; remove it or name a secret").Reason = ReasonSelector
	}
	keys, node := g.texts("keys")
	for _, n := range keys {
		k, err := ParseKey(n.Value)
		if err != nil {
			d.fail(n, "grant.keys", "%s", err)
			continue
		}
		out.Keys = append(out.Keys, k)
	}
	switch {
	case node != nil && len(node.Content) == 0:
		d.fail(node, "grant.keys", "is empty; remove it or name a key").Reason = ReasonSelector
	case node != nil && out.UseCase == ListSecrets:
		d.fail(node, "grant.keys", "stands beside list-secrets, which shows no values; remove it")
	}
	d.grantWorkspaces(m, g, out)
	if len(out.Keys) > maxGrantKeys {
		d.fail(body, "grant.keys", "names %d keys; at most %d", len(out.Keys), maxGrantKeys)
	}
	if n := len(out.Subjects) * max(1, len(out.Secrets)) * max(1, len(out.Workspaces)); n > maxGrantRules {
		d.fail(body, "grant", "has %d combinations of subjects, secrets and workspaces; at most %d; use a role, a pattern or several grants", n, maxGrantRules)
	}
	if v, n := g.text("effect", true); n != nil {
		if v != string(Allow) && v != string(Deny) {
			d.fail(n, "grant.effect", "%s is unknown; allow or deny", quote(v))
		}
		out.Effect = Effect(v)
	}
	if v, n := g.text("expires", false); n != nil {
		t, err := time.Parse(time.RFC3339, v)
		// time.Parse also takes one-digit hours, a comma, and an offset of 24 hours.
		if err != nil || !rfc3339.MatchString(v) {
			d.fail(n, "grant.expires", "%s is not a time such as 2027-01-01T00:00:00Z (RFC 3339)", quote(v))
		} else if t.Year() < 2000 {
			// The zero time would mean that the grant never expires.
			d.fail(n, "grant.expires", "%s is too long ago to be meant; remove the grant instead", quote(v))
		}
		out.Expires = t
	}
	out.Requester, _ = g.text("requester", false)
	out.Notes, _ = g.text("notes", false)
	g.done("policy_use_case_id, subjects, secrets, keys, workspaces, effect, expires, requester, notes")
}

func (d *decoder) grantWorkspaces(m *Manifest, g *fieldSet, out *Grant) {
	list, node := g.texts("workspaces")
	if node == nil {
		return
	}
	if !m.Workspace.IsZero() {
		d.fail(node, "grant.workspaces", "stands in a grant of workspace %s; only a grant under instance/grants spans workspaces", m.Workspace)
	}
	if len(node.Content) == 0 {
		d.fail(node, "grant.workspaces", "is empty; name a workspace, or instance for instance secrets").Reason = ReasonSelector
	}
	for _, n := range list {
		ws, err := ParseScope(n.Value)
		if err != nil {
			d.fail(n, "grant.workspaces", "%s", err)
			continue
		}
		out.Workspaces = append(out.Workspaces, ws)
	}
}

func (d *decoder) role(m *Manifest, f *fieldSet) {
	body := f.take("role")
	if body == nil {
		d.fail(f.node, "role", "is missing")
		return
	}
	r := d.fields(body, "role")
	if r == nil {
		return
	}
	m.Role = &Role{}
	members, node := r.texts("members")
	if node == nil {
		d.fail(body, "role.members", "is missing; write [] for a role without members")
	}
	for _, n := range members {
		s, err := ParseSubject(n.Value)
		if err == nil {
			if _, isRole := s.Role(); !isRole {
				m.Role.Members = append(m.Role.Members, s)
				continue
			}
			d.fail(n, "role.members", "%s is a role; members are users:id:…, and a grant can name several roles", quote(n.Value))
			continue
		}
		d.fail(n, "role.members", "%s", err)
	}
	r.done("members")
}

// IsAllowGrant reports that a file, though it may be invalid, can be read
// without doubt as a grant that allows. Such a file grants nothing and closes
// nothing; any other broken policy file may be a lost deny, and closes its scope.
func IsAllowGrant(data []byte) bool {
	d := &decoder{}
	root := d.readDocument(data)
	// A duplicate, alias or second document leaves room for another reading.
	if root == nil || len(d.errs) > 0 {
		return false
	}
	f := d.fields(root, "")
	kind, _ := f.text("type", true)
	body := f.take("grant")
	if kind != string(KindGrant) || body == nil {
		return false
	}
	g := d.fields(body, "grant")
	if g == nil {
		return false
	}
	effect, _ := g.text("effect", true)
	return effect == string(Allow)
}

// IsSealed reports cheaply that data looks like a sealed file: it has a line
// that starts a top-level sops section.
func IsSealed(data []byte) bool {
	return bytes.HasPrefix(data, []byte("sops:")) || bytes.Contains(data, []byte("\nsops:"))
}

func orElse(n, other *yaml.Node) *yaml.Node {
	if n != nil {
		return n
	}
	return other
}
