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
	recipients []Recipient
	// unsupported names the first kind of key that is not age.
	unsupported string
	line        int
}

// creationRule is what sealward reads of a SOPS creation rule (SOPS's
// config.creationRule). Other fields are kept as they are.
type creationRule struct {
	PathRegex string     `yaml:"path_regex"`
	Age       yaml.Node  `yaml:"age"`
	PGP       yaml.Node  `yaml:"pgp"`
	KMS       yaml.Node  `yaml:"kms"`
	GCPKMS    yaml.Node  `yaml:"gcp_kms"`
	HCKMS     yaml.Node  `yaml:"hckms"`
	Azure     yaml.Node  `yaml:"azure_keyvault"`
	Vault     yaml.Node  `yaml:"hc_vault_transit_uri"`
	KeyGroups []keyGroup `yaml:"key_groups"`
}

type keyGroup struct {
	Age   yaml.Node            `yaml:"age"`
	Other map[string]yaml.Node `yaml:",inline"`
}

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
	for i, n := range list.Content {
		one, err := parseRule(n)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: creation_rules[%d]: %w", RulesFile, n.Line, i, err)
		}
		r.rules = append(r.rules, one)
	}
	return r, nil
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
	out := rule{pattern: c.PathRegex, line: n.Line}
	if c.PathRegex != "" {
		re, err := regexp.Compile(c.PathRegex)
		if err != nil {
			return rule{}, fmt.Errorf("path_regex: %w", err)
		}
		out.re = re
	}
	ages := []yaml.Node{c.Age}
	for kind, n := range map[string]yaml.Node{"pgp": c.PGP, "kms": c.KMS, "gcp_kms": c.GCPKMS, "hckms": c.HCKMS, "azure_keyvault": c.Azure, "hc_vault_transit_uri": c.Vault} {
		if !n.IsZero() {
			out.unsupported = kind
		}
	}
	if len(c.KeyGroups) > 1 {
		out.unsupported = "several key_groups"
	}
	for _, g := range c.KeyGroups {
		ages = append(ages, g.Age)
		for kind := range g.Other {
			out.unsupported = kind
		}
	}
	for _, a := range ages {
		texts, err := recipientTexts(a)
		if err != nil {
			return rule{}, err
		}
		for _, s := range texts {
			rcpt, err := ParseRecipient(s)
			if err != nil {
				return rule{}, fmt.Errorf("age: %w", err)
			}
			out.recipients = append(out.recipients, rcpt)
		}
	}
	return out, nil
}

// recipientTexts reads SOPS's two spellings: a comma-separated text and a list.
func recipientTexts(n yaml.Node) ([]string, error) {
	var out []string
	switch {
	case n.IsZero():
		return nil, nil
	case n.Kind == yaml.ScalarNode:
		out = strings.Split(n.Value, ",")
	default:
		if err := n.Decode(&out); err != nil {
			return nil, errors.New("age: must be a text or a list of recipients")
		}
	}
	var trimmed []string
	for _, s := range out {
		if s = strings.TrimSpace(s); s != "" {
			trimmed = append(trimmed, s)
		}
	}
	return trimmed, nil
}

// Recipients returns for whom the file at path (of the repository) is sealed:
// the recipients of the first rule that matches, as SOPS decides it. It fails
// with ErrNoRule when there is none, and when the rule cannot be followed.
func (r *Rules) Recipients(path string) ([]Recipient, error) {
	place, ours, err := manifest.Locate(path)
	if err != nil || !ours {
		return nil, fmt.Errorf("%s: is no place for a secret", path)
	}
	for _, c := range r.rules {
		if c.re != nil && !c.re.MatchString(path) {
			continue
		}
		where := fmt.Sprintf("%s:%d: the creation rule for %s", RulesFile, c.line, path)
		switch {
		case c.unsupported != "":
			return nil, fmt.Errorf("%s names %s; only age recipients can be sealed for so far", where, c.unsupported)
		case len(c.recipients) == 0:
			return nil, fmt.Errorf("%s names no age recipient; add one under age:", where)
		case !strings.HasPrefix(c.pattern, "^"+folder(place.Scope)):
			// Any other rule can seal other workspaces' secrets for this one's keys.
			return nil, fmt.Errorf("%s is not anchored to the workspace (path_regex %q); start it with %q", where, c.pattern, "^"+folder(place.Scope))
		}
		if err := sameStrength(c.recipients); err != nil {
			return nil, fmt.Errorf("%s: %w", where, err)
		}
		return c.recipients, nil
	}
	return nil, fmt.Errorf("%s: %w covers %s; add one with: sealward workspace create %s", RulesFile, ErrNoRule, path, createArg(place.Scope))
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
func (r *Rules) WorkspaceRecipients(ws manifest.Workspace) ([]Recipient, error) {
	return r.Recipients(anyPath(ws))
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
	if len(recipients) == 0 {
		return nil, errors.New("a workspace needs at least one recipient")
	}
	if err := sameStrength(recipients); err != nil {
		return nil, err
	}
	path := anyPath(ws)
	for _, c := range r.rules {
		if c.re == nil || c.re.MatchString(path) {
			return nil, fmt.Errorf("%s:%d: a creation rule (path_regex %q) covers workspace %s already; edit its recipients there", RulesFile, c.line, c.pattern, ws)
		}
	}
	texts := make([]string, len(recipients))
	for i, rcpt := range recipients {
		texts[i] = rcpt.String()
	}
	var n yaml.Node
	err := n.Encode(struct {
		PathRegex      string   `yaml:"path_regex"`
		EncryptedRegex string   `yaml:"encrypted_regex"`
		Age            []string `yaml:"age"`
	}{"^" + folder(ws), manifest.SealedPattern, texts})
	if err != nil {
		return nil, err
	}
	list := r.list()
	if list == nil {
		root := r.doc.Content[0]
		list = &yaml.Node{Kind: yaml.SequenceNode}
		root.Content = append(root.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: "creation_rules"}, list)
	}
	list.Style = 0 // a flow list ([]) would squeeze the new rule onto one line
	list.Content = append(list.Content, &n)
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	if err := e.Encode(&r.doc); err != nil {
		return nil, err
	}
	return out.Bytes(), e.Close()
}
