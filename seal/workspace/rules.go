// Package workspace knows who a workspace's secrets are sealed for: the
// creation rules of .sops.yaml, the one registry of recipients, so that the
// ordinary sops command works in the same repository.
//
// Most callers need [ParseRules] and [Rules.Recipients]. Private keys are in
// unseal/keyring, never here.
package workspace

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/sealward/sealward/seal/manifest"
)

// RulesFile is the name of the registry, in the top folder of a repository.
const RulesFile = ".sops.yaml"

// Rules are the creation rules of one .sops.yaml, in its order: as in SOPS, the
// first whose path_regex matches a file decides.
type Rules struct {
	doc   yaml.Node
	rules []rule
}

type rule struct {
	re         *regexp.Regexp // nil: matches every path
	pattern    string
	recipients Recipients
	// unsupported names the first kind of key that sealward cannot seal for.
	unsupported string
	node        *yaml.Node
}

// creationRule is what sealward reads of a SOPS creation rule (SOPS's
// config.creationRule). Other fields are kept as they are.
type creationRule struct {
	PathRegex  string     `yaml:"path_regex"`
	Age        texts      `yaml:"age"`
	PGP        texts      `yaml:"pgp"`
	KMS        texts      `yaml:"kms"`
	AWSProfile string     `yaml:"aws_profile"`
	GCPKMS     texts      `yaml:"gcp_kms"`
	HCKMS      yaml.Node  `yaml:"hckms"`
	Azure      texts      `yaml:"azure_keyvault"`
	Vault      texts      `yaml:"hc_vault_transit_uri"`
	KeyGroups  []keyGroup `yaml:"key_groups"`
	Threshold  int        `yaml:"shamir_threshold"`
}

// keyGroup is SOPS's config.keyGroup.
type keyGroup struct {
	Merge []keyGroup `yaml:"merge"`
	Age   texts      `yaml:"age"`
	PGP   texts      `yaml:"pgp"`
	KMS   []struct {
		Arn     string            `yaml:"arn"`
		Role    string            `yaml:"role"`
		Context map[string]string `yaml:"context"`
		Profile string            `yaml:"aws_profile"`
	} `yaml:"kms"`
	GCPKMS []struct {
		ID string `yaml:"resource_id"`
	} `yaml:"gcp_kms"`
	Azure []struct {
		URL     string `yaml:"vaultUrl"`
		Key     string `yaml:"key"`
		Version string `yaml:"version"`
	} `yaml:"azure_keyvault"`
	Vault texts     `yaml:"hc_vault"`
	HCKMS yaml.Node `yaml:"hckms"`
}

// texts reads SOPS's two spellings: a comma-separated text and a list.
type texts []string

// UnmarshalYAML is yaml.v3's interface.
func (t *texts) UnmarshalYAML(n *yaml.Node) error {
	var out []string
	if n.Kind == yaml.ScalarNode {
		out = strings.Split(n.Value, ",")
	} else if err := n.Decode(&out); err != nil {
		return errors.New("must be a text or a list of recipients")
	}
	for _, s := range out {
		if s = strings.TrimSpace(s); s != "" {
			*t = append(*t, s)
		}
	}
	return nil
}

// ErrKeyGroups: a rule with key groups is for a person to edit.
var ErrKeyGroups = errors.New("has key_groups; edit it there, then rotate without naming recipients")

// RuleError is what is wrong with one rule of a .sops.yaml.
type RuleError struct {
	Line int
	Err  error
}

func (e *RuleError) Error() string { return fmt.Sprintf("%s:%d: %s", RulesFile, e.Line, e.Err) }
func (e *RuleError) Unwrap() error { return e.Err }

// ErrNoRule says that no creation rule covers a workspace.
var ErrNoRule = errors.New("no creation rule")

// ParseRules reads the content of a .sops.yaml. Empty content means no rules.
func ParseRules(data []byte) (*Rules, error) {
	r := &Rules{}
	if len(data) > manifest.MaxSize {
		return nil, fmt.Errorf("%s: has %d bytes; at most %d", RulesFile, len(data), manifest.MaxSize)
	}
	if err := yaml.NewDecoder(bytes.NewReader(data)).Decode(&r.doc); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: is not valid YAML: %w", RulesFile, err)
	}
	if r.doc.IsZero() || r.doc.Content[0].Tag == "!!null" {
		r.doc = yaml.Node{Kind: yaml.DocumentNode, Content: []*yaml.Node{{Kind: yaml.MappingNode}}}
		return r, nil
	}
	if r.doc.Content[0].Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%s: is not a mapping with creation_rules", RulesFile)
	}
	list := r.list()
	if list == nil {
		return r, nil
	}
	if expanded(list, manifest.MaxSize, 0) > manifest.MaxSize {
		return nil, fmt.Errorf("%s: creation_rules has more than %d bytes with its aliases written out", RulesFile, manifest.MaxSize)
	}
	for i, n := range list.Content {
		one, err := parseRule(n)
		if err != nil {
			return nil, &RuleError{Line: n.Line, Err: fmt.Errorf("creation_rules[%d]: %w", i, err)}
		}
		r.rules = append(r.rules, one)
	}
	return r, nil
}

// expanded is how long a node is with its aliases written out; counting ends above
// limit. People name their keys once and refer to them, but a short file can come
// to hours of work that way.
func expanded(n *yaml.Node, limit, depth int) int {
	if depth > 32 { // an alias inside what it stands for
		return limit + 1
	}
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	total := len(n.Value) + 1
	for _, c := range n.Content {
		if total > limit {
			break
		}
		total += expanded(c, limit-total, depth+1)
	}
	return total
}

func (r *Rules) list() *yaml.Node {
	root := r.doc.Content[0]
	for i := 0; i+1 < len(root.Content); i += 2 {
		if root.Content[i].Value == "creation_rules" && root.Content[i+1].Kind == yaml.SequenceNode {
			return root.Content[i+1]
		}
	}
	return nil
}

func parseRule(n *yaml.Node) (rule, error) {
	var c creationRule
	if err := n.Decode(&c); err != nil {
		return rule{}, errors.New("is not a SOPS creation rule")
	}
	out := rule{pattern: c.PathRegex, node: n}
	if c.PathRegex != "" {
		re, err := regexp.Compile(c.PathRegex)
		if err != nil {
			return rule{}, fmt.Errorf("path_regex: %w", err)
		}
		out.re = re
	}
	p := &groupParser{}
	if len(c.KeyGroups) == 0 {
		p.texts("age", c.Age)
		p.texts("pgp", c.PGP)
		for _, arn := range c.KMS {
			p.add("kms", func() (Recipient, error) { return ParseAWS(arn, "", nil, c.AWSProfile) })
		}
		p.texts("gcp_kms", c.GCPKMS)
		p.texts("azure_keyvault", c.Azure)
		p.texts("hc_vault_transit_uri", c.Vault)
		p.refuse("hckms", c.HCKMS)
		out.recipients = Recipients{groups: [][]Recipient{p.group}}
	}
	for _, g := range c.KeyGroups {
		p.group = nil
		p.keyGroup(g, 0)
		out.recipients.groups = append(out.recipients.groups, p.group)
	}
	if len(c.KeyGroups) > 1 {
		out.recipients.threshold = c.Threshold
	}
	out.unsupported = p.unsupported
	return out, p.err
}

// groupParser collects the recipients of one key group; the first error stays.
type groupParser struct {
	group       []Recipient
	unsupported string
	err         error
}

// fieldKinds says which kinds a field of SOPS's configuration may hold.
func fieldKinds(field string) []RecipientKind {
	switch field {
	case "age":
		return []RecipientKind{KindAge, KindHybrid, KindSSH}
	case "pgp":
		return []RecipientKind{KindPGP}
	case "kms":
		return []RecipientKind{KindAWS}
	case "gcp_kms":
		return []RecipientKind{KindGCP}
	case "azure_keyvault":
		return []RecipientKind{KindAzure}
	default:
		return []RecipientKind{KindTransit}
	}
}

func (p *groupParser) add(field string, parse func() (Recipient, error)) {
	if len(p.group) > MaxRecipients { // Recipients refuses the rule
		return
	}
	r, err := parse()
	if err == nil && !slices.Contains(fieldKinds(field), r.kind) {
		err = fmt.Errorf("recipient %.80q is of another kind (%s)", r, r.kind)
	}
	if err != nil {
		if p.err == nil {
			p.err = fmt.Errorf("%s: %w", field, err)
		}
		return
	}
	if !slices.Contains(p.group, r) {
		p.group = append(p.group, r)
	}
}

func (p *groupParser) texts(field string, ss []string) {
	for _, s := range ss {
		p.add(field, func() (Recipient, error) { return ParseRecipient(s) })
	}
}

func (p *groupParser) refuse(field string, n yaml.Node) {
	if !n.IsZero() {
		p.unsupported = field
	}
}

func (p *groupParser) keyGroup(g keyGroup, depth int) {
	if depth > 8 {
		p.err = errors.New("key_groups are merged too deep")
		return
	}
	for _, m := range g.Merge {
		p.keyGroup(m, depth+1)
	}
	p.texts("age", g.Age)
	p.texts("pgp", g.PGP)
	for _, k := range g.KMS {
		p.add("kms", func() (Recipient, error) { return ParseAWS(k.Arn, k.Role, k.Context, k.Profile) })
	}
	for _, k := range g.GCPKMS {
		p.texts("gcp_kms", []string{k.ID})
	}
	for _, k := range g.Azure {
		p.texts("azure_keyvault", []string{strings.TrimSuffix(k.URL, "/") + "/keys/" + k.Key + "/" + k.Version})
	}
	p.texts("hc_vault", g.Vault)
	p.refuse("hckms", g.HCKMS)
}

// Recipients returns for whom the file at path (of the repository) is sealed:
// the recipients of the first rule that matches, as SOPS decides it. It fails
// with ErrNoRule when there is none, and when the rule cannot be followed.
func (r *Rules) Recipients(path string) (Recipients, error) { return r.recipients(path, path) }

// recipients is Recipients; shown says in errors what path stands for.
func (r *Rules) recipients(path, shown string) (Recipients, error) {
	place, ours, err := manifest.Locate(path)
	if err != nil || !ours {
		return Recipients{}, fmt.Errorf("%s: is no place for a secret", path)
	}
	for _, c := range r.rules {
		if c.re != nil && !c.re.MatchString(path) {
			continue
		}
		where := fmt.Sprintf("%s:%d: the creation rule for %s", RulesFile, c.node.Line, shown)
		switch {
		case c.unsupported != "":
			return Recipients{}, fmt.Errorf("%s names %s, which cannot be sealed for", where, c.unsupported)
		case !strings.HasPrefix(c.pattern, "^"+folder(place.Scope)):
			// Any other rule can seal other workspaces' secrets for this one's keys.
			return Recipients{}, fmt.Errorf("%s is not anchored to the workspace (path_regex %q); start it with %q", where, c.pattern, "^"+folder(place.Scope))
		}
		if err := c.recipients.check(); err != nil {
			return Recipients{}, fmt.Errorf("%s: %w", where, err)
		}
		return c.recipients, nil
	}
	return Recipients{}, fmt.Errorf("%s: %w covers %s; add one with: sealward workspace create %s", RulesFile, ErrNoRule, shown, createArg(place.Scope))
}

func createArg(ws manifest.Workspace) string {
	if ws.IsInstance() {
		return "--instance"
	}
	return ws.String()
}

// anyPath stands for the path of any secret of ws. Its name is unlikely, so that
// a rule for one single file does not pass for the workspace's.
func anyPath(ws manifest.Workspace) string {
	return folder(ws) + "secrets/0-any-name-0.yaml"
}

func folder(ws manifest.Workspace) string { return ws.Folder() + "/" }

// WorkspaceRecipients is Recipients for a secret of ws that no rule names in
// particular.
func (r *Rules) WorkspaceRecipients(ws manifest.Workspace) (Recipients, error) {
	return r.recipients(anyPath(ws), "workspace "+ws.String())
}

// Workspaces lists the workspaces that have a rule of their own, sorted, the
// instance last.
func (r *Rules) Workspaces() []manifest.Workspace {
	var out []manifest.Workspace
	instance := false
	for _, c := range r.rules {
		if c.pattern == "^instance/" {
			instance = true
			continue
		}
		name := strings.TrimSuffix(strings.TrimPrefix(c.pattern, "^workspaces/"), "/")
		if ws, err := manifest.ParseWorkspace(name); err == nil && c.pattern == "^"+folder(ws) && !slices.Contains(out, ws) {
			out = append(out, ws)
		}
	}
	slices.SortFunc(out, func(a, b manifest.Workspace) int { return strings.Compare(a.String(), b.String()) })
	if instance {
		out = append(out, manifest.Instance())
	}
	return out
}

// Add returns the file with one more anchored rule, for ws. Rules, comments and
// order of the others stay. A workspace that has a rule already is refused.
func (r *Rules) Add(ws manifest.Workspace, recipients []Recipient) ([]byte, error) {
	if err := For(recipients...).check(); err != nil {
		return nil, fmt.Errorf("workspace %s: %w", ws, err)
	}
	path := anyPath(ws)
	for _, c := range r.rules {
		if c.re == nil || c.re.MatchString(path) {
			return nil, fmt.Errorf("%s:%d: a creation rule (path_regex %q) covers workspace %s already; edit its recipients there", RulesFile, c.node.Line, c.pattern, ws)
		}
	}
	n := &yaml.Node{Kind: yaml.MappingNode}
	appendField(n, "path_regex", textNode("^"+folder(ws)))
	appendField(n, "encrypted_regex", textNode(manifest.SealedPattern))
	appendRecipients(n, recipients)
	list := r.list()
	if list == nil {
		root := r.doc.Content[0]
		list = &yaml.Node{Kind: yaml.SequenceNode}
		root.Content = append(root.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: "creation_rules"}, list)
	}
	list.Style = 0 // a flow list ([]) would squeeze the new rule onto one line
	list.Content = append(list.Content, n)
	return r.print()
}

// Replace returns the file with other recipients in the rule of ws. Everything
// else stays. A rule with key groups is for a person to edit.
func (r *Rules) Replace(ws manifest.Workspace, recipients []Recipient) ([]byte, error) {
	if err := For(recipients...).check(); err != nil {
		return nil, fmt.Errorf("workspace %s: %w", ws, err)
	}
	if _, err := r.WorkspaceRecipients(ws); err != nil {
		return nil, err
	}
	path := anyPath(ws)
	for _, c := range r.rules {
		if !c.re.MatchString(path) {
			continue
		}
		kept := c.node.Content[:0:0]
		for i := 0; i+1 < len(c.node.Content); i += 2 {
			switch c.node.Content[i].Value {
			case "key_groups":
				return nil, fmt.Errorf("%s:%d: the rule of workspace %s %w", RulesFile, c.node.Line, ws, ErrKeyGroups)
			case "age", "pgp", "kms", "gcp_kms", "azure_keyvault", "hc_vault_transit_uri":
				continue
			}
			kept = append(kept, c.node.Content[i], c.node.Content[i+1])
		}
		c.node.Content = kept
		appendRecipients(c.node, recipients)
		break
	}
	return r.print()
}

func (r *Rules) print() ([]byte, error) {
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	if err := e.Encode(&r.doc); err != nil {
		return nil, err
	}
	return out.Bytes(), e.Close()
}

func textNode(s string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(s)
	return n
}

func appendField(n *yaml.Node, name string, value *yaml.Node) {
	n.Content = append(n.Content, textNode(name), value)
}

// appendRecipients adds the fields that SOPS has for each kind.
func appendRecipients(n *yaml.Node, recipients []Recipient) {
	for _, field := range []string{"age", "pgp", "kms", "gcp_kms", "azure_keyvault", "hc_vault_transit_uri"} {
		list := &yaml.Node{Kind: yaml.SequenceNode}
		for _, rcpt := range recipients {
			if slices.Contains(fieldKinds(field), rcpt.kind) {
				list.Content = append(list.Content, textNode(rcpt.text))
			}
		}
		if len(list.Content) > 0 {
			appendField(n, field, list)
		}
	}
}
