package manifest

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Place is where a manifest stands in a repository.
type Place struct {
	// Scope is the workspace of the path, or Instance.
	Scope Workspace
	// Policy says that the file is below grants/ (a grant or role); otherwise it
	// is below secrets/.
	Policy bool
	// Name that the path promises. Unset for a policy file whose name is odd.
	Name Name
	// Part is the file's name without .yaml or .json when the secret is a folder of
	// parts.
	Part string
}

// SecretPath is the path of a secret that is one YAML file, slash-separated and
// relative to the repository. One that is JSON ends in .json instead.
func SecretPath(ws Workspace, name Name) string {
	return ws.Folder() + "/secrets/" + name.String() + ".yaml"
}

// PolicyPath is the path of a grant or role.
func PolicyPath(ws Workspace, name Name) string {
	return ws.Folder() + "/grants/" + name.String() + ".yaml"
}

// Folder of a workspace in a repository, without a slash at its end.
func (w Workspace) Folder() string {
	if w.IsInstance() {
		return instanceName
	}
	return "workspaces/" + w.name
}

// Locate says what a path of the repository should hold. ours is false for
// paths outside workspaces/ and instance/, and for README.md and .gitkeep files,
// which nobody reads. An error means that the file stands where nothing valid
// can stand; place then still has Scope and Policy if the path tells them.
func Locate(path string) (place Place, ours bool, err error) {
	part := strings.Split(path, "/")
	if base := part[len(part)-1]; base == "README.md" || base == ".gitkeep" {
		return Place{}, false, nil
	}
	var rest []string
	switch {
	case len(part) == 0:
		return Place{}, false, nil
	case part[0] == instanceName:
		place.Scope, rest = Instance(), part[1:]
	case part[0] == "workspaces":
		if len(part) < 2 {
			return Place{}, true, fmt.Errorf("is a file; workspaces/ is the folder of the workspaces")
		}
		if part[1] == instanceName {
			return Place{}, true, fmt.Errorf("workspace %q is reserved; instance secrets stand below instance/", instanceName)
		}
		ws, err := ParseWorkspace(part[1])
		if err != nil {
			return Place{}, true, err
		}
		place.Scope, rest = ws, part[2:]
	default:
		return Place{}, false, nil
	}
	if len(rest) < 2 || rest[0] != "secrets" && rest[0] != "grants" {
		return place, true, fmt.Errorf("stands outside secrets/ and grants/; move it to %s/secrets/<name>.yaml or %[1]s/grants/<name>.yaml", place.Scope.Folder())
	}
	place.Policy = rest[0] == "grants"
	base, known := strings.CutSuffix(rest[len(rest)-1], ".yaml")
	if !known && !place.Policy {
		base, known = strings.CutSuffix(base, ".json")
	}
	if !known {
		return place, true, fmt.Errorf("does not end in .yaml%s; rename it or move it elsewhere", map[bool]string{false: " or .json"}[place.Policy])
	}
	if place.Policy {
		place.Name, err = ParseName(base)
		return place, true, err
	}
	switch len(rest) {
	case 2:
		place.Name, err = ParseName(base)
	case 3:
		if place.Name, err = ParseName(rest[1]); err == nil {
			place.Part = base
			_, err = ParseKey(base)
		}
	default:
		err = fmt.Errorf("stands too deep; a secret is secrets/<name>.yaml, or its parts are secrets/<name>/<part>.yaml")
	}
	return place, true, err
}

// CheckPlace holds a manifest to where it stands, with a Misplaced *Error: kind, workspace and name must
// agree with the path, so that a copied file is never taken for another's.
func (m *Manifest) CheckPlace(p Place) error {
	wrong := func(field, format string, args ...any) error {
		if m.Form == Kubernetes {
			field = map[string]string{"type": "kind", "name": "metadata.name", "workspace": "metadata.namespace"}[field]
		}
		e := &Error{File: m.File, Field: field, Msg: fmt.Sprintf(format, args...), Misplaced: true}
		e.Line, e.Column = m.At(strings.Split(field, ".")...)
		return e
	}
	switch {
	case p.Policy && m.Kind.IsSecret():
		return wrong("type", "is %s, but the file stands below grants/; move it below secrets/", m.Kind)
	case !p.Policy && !m.Kind.IsSecret():
		return wrong("type", "is %s, but the file stands below secrets/; move it below grants/", m.Kind)
	case !p.Policy && p.Scope.IsInstance() != (m.Kind == KindInstanceSecret):
		return wrong("type", "is %s, but the file stands below %s/; an instance-secret stands below instance/secrets/, a secret below workspaces/<workspace>/secrets/", m.Kind, p.Scope.Folder())
	}
	stated := m.Workspace
	switch {
	case stated.IsZero() && m.Form == Kubernetes:
		stated = p.Scope
	case stated.IsZero(): // a grant or role that states none
		stated = Public()
		if p.Scope.IsInstance() {
			stated = Instance()
		}
	}
	if stated != p.Scope {
		return wrong("workspace", "is %s, but the file stands below %s/; seal it for that workspace, or move it", stated, p.Scope.Folder())
	}
	if m.Grant != nil && p.Scope.IsInstance() && len(m.Grant.Workspaces) == 0 {
		return wrong("grant", "names no workspaces; a grant below instance/grants/ lists them under grant.workspaces")
	}
	if m.Grant != nil && !p.Scope.IsInstance() && len(m.Grant.Workspaces) > 0 {
		return wrong("grant", "names workspaces, but stands in one; only a grant below instance/grants/ spans workspaces")
	}
	if m.Name != p.Name {
		return wrong("name", "is %s, but the path says %s; file (or folder of parts) and name must be equal", m.Name, p.Name)
	}
	return nil
}

// At says where the value of a field stands: line and column, 1-based; both are 0
// when the manifest has no such field.
func (m *Manifest) At(path ...string) (line, column int) {
	n := m.root
	for _, name := range path {
		if n = fieldOf(n, name); n == nil {
			return 0, 0
		}
	}
	return n.Line, n.Column
}

// AtItem is At for one item of a list, counted from 0; it is the list's place where
// there is no such item.
func (m *Manifest) AtItem(i int, path ...string) (line, column int) {
	n := m.root
	for _, name := range path {
		if n = fieldOf(n, name); n == nil {
			return 0, 0
		}
	}
	if i < len(n.Content) && n.Kind == yaml.SequenceNode {
		n = n.Content[i]
	}
	return n.Line, n.Column
}

// fieldOf is the value of a field of a mapping, nil when it is absent.
func fieldOf(n *yaml.Node, name string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i+1]
		}
	}
	return nil
}
