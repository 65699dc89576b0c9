package manifest

import (
	"fmt"
	"strings"
)

// Limits of names, as DataOS documents them where it does.
const (
	MaxName      = 48
	MaxWorkspace = 31
	MaxKey       = 253
	maxSubject   = 253
)

// Workspace passed ParseWorkspace or is the instance; the zero Workspace is
// refused everywhere.
type Workspace struct{ name string }

// instanceName is reserved: it stands for the whole instance in paths, rings
// and grants.
const instanceName = "instance"

// Instance is the scope of instance secrets, which no workspace owns.
func Instance() Workspace { return Workspace{instanceName} }

// Public is the workspace of a secret that states none, as in DataOS.
func Public() Workspace { return Workspace{"public"} }

// ParseWorkspace accepts [a-z]([-a-z0-9]*[a-z0-9])? of at most 31 characters,
// except the reserved name "instance".
func ParseWorkspace(s string) (Workspace, error) {
	if s == instanceName {
		return Workspace{}, fmt.Errorf("workspace %q is reserved for instance secrets; choose another name", s)
	}
	if len(s) == 0 || len(s) > MaxWorkspace || s[0] < 'a' || s[0] > 'z' || !isLabel(s) {
		return Workspace{}, fmt.Errorf("workspace %s breaks the rule: lower-case letters, digits and -, starting with a letter, ending with a letter or digit, at most %d characters", quote(s), MaxWorkspace)
	}
	return Workspace{s}, nil
}

// ParseScope is ParseWorkspace, but accepts "instance" as well.
func ParseScope(s string) (Workspace, error) {
	if s == instanceName {
		return Instance(), nil
	}
	return ParseWorkspace(s)
}

func (w Workspace) String() string { return w.name }

// IsZero reports that w names no workspace.
func (w Workspace) IsZero() bool { return w.name == "" }

// IsInstance reports that w is the scope of instance secrets.
func (w Workspace) IsInstance() bool { return w.name == instanceName }

// Name of a secret, grant or role, checked by ParseName.
type Name struct{ name string }

// ParseName accepts [a-z0-9]([-a-z0-9]*[a-z0-9])? of at most 48 characters.
func ParseName(s string) (Name, error) {
	if len(s) == 0 || len(s) > MaxName || !isLabel(s) {
		return Name{}, fmt.Errorf("name %s breaks the rule: lower-case letters, digits and -, starting and ending with a letter or digit, at most %d characters", quote(s), MaxName)
	}
	return Name{s}, nil
}

func (n Name) String() string { return n.name }

// IsZero reports that n names nothing.
func (n Name) IsZero() bool { return n.name == "" }

// Key of one value in a secret, checked by ParseKey.
type Key struct{ key string }

// ParseKey accepts [-._a-zA-Z0-9]+ of at most 253 characters that is not "."
// and does not start with "..", the rule Kubernetes has for keys of a Secret.
func ParseKey(s string) (Key, error) {
	ok := len(s) > 0 && len(s) <= MaxKey && s != "." && !strings.HasPrefix(s, "..")
	for i := 0; ok && i < len(s); i++ {
		c := s[i]
		ok = c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.'
	}
	if !ok {
		// A mistyped key may be a value (k and v swapped): it is not repeated here.
		return Key{}, fmt.Errorf("a key breaks the rule: letters, digits, - _ and ., at most %d characters, not . and not starting with ..", MaxKey)
	}
	return Key{s}, nil
}

func (k Key) String() string { return k.key }

// Kind is the type of a manifest.
type Kind string

// The kinds of manifest.
const (
	KindSecret         Kind = "secret"
	KindInstanceSecret Kind = "instance-secret"
	KindGrant          Kind = "grant"
	KindRole           Kind = "role"
)

// IsSecret reports that manifests of this kind hold values.
func (k Kind) IsSecret() bool { return k == KindSecret || k == KindInstanceSecret }

// SecretType is what a secret is for.
type SecretType string

// The secret types of DataOS. "certificates" is accepted for certificate.
const (
	CloudKernel          SecretType = "cloud-kernel"
	CloudKernelImagePull SecretType = "cloud-kernel-image-pull"
	KeyValue             SecretType = "key-value"
	KeyValueProperties   SecretType = "key-value-properties"
	Certificate          SecretType = "certificate"
)

// SecretTypes lists every type, in the order help and errors show them.
func SecretTypes() []SecretType {
	return []SecretType{KeyValue, KeyValueProperties, Certificate, CloudKernel, CloudKernelImagePull}
}

// ParseSecretType accepts the five types and the spelling "certificates".
func ParseSecretType(s string) (SecretType, error) {
	if s == "certificates" {
		return Certificate, nil
	}
	var names []string
	for _, t := range SecretTypes() {
		if s == string(t) {
			return t, nil
		}
		names = append(names, string(t))
	}
	return "", fmt.Errorf("secret type %s is unknown; one of %s", quote(s), strings.Join(names, ", "))
}

// ACL says what a credential itself can do.
type ACL string

// The two acls of DataOS.
const (
	Read      ACL = "r"
	ReadWrite ACL = "rw"
)

// ParseACL accepts r and rw.
func ParseACL(s string) (ACL, error) {
	if s == string(Read) || s == string(ReadWrite) {
		return ACL(s), nil
	}
	return "", fmt.Errorf("acl %s is unknown; r (the credential can read) or rw (it can write too)", quote(s))
}

// Effect of a grant.
type Effect string

// The two effects; deny wins.
const (
	Allow Effect = "allow"
	Deny  Effect = "deny"
)

// UseCase is the policy_use_case_id of a grant.
type UseCase string

// The use cases sealward knows. DataOS's read-all-secrets-from-heimdall is
// accepted as read-all-secrets.
const (
	ReadSpecificSecret UseCase = "read-specific-secret"
	ReadAllSecrets     UseCase = "read-all-secrets"
	ListSecrets        UseCase = "list-secrets"
)

// Subject is users:id:NAME or roles:id:ROLE, checked by ParseSubject. It is
// always compared whole and never used as a pattern.
type Subject struct{ tag string }

// ParseSubject accepts users:id:X and roles:id:X, where X has letters, digits
// and - . _ : @ / + = , ~ %.
func ParseSubject(s string) (Subject, error) {
	id, ok := strings.CutPrefix(s, "users:id:")
	if !ok {
		id, ok = strings.CutPrefix(s, "roles:id:")
	}
	if !ok || id == "" || len(s) > maxSubject {
		return Subject{}, fmt.Errorf("subject %s breaks the rule: users:id:NAME or roles:id:NAME, at most %d characters", quote(s), maxSubject)
	}
	for i := 0; i < len(id); i++ {
		c := id[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._:@/+=,~%", c) >= 0) {
			return Subject{}, fmt.Errorf("subject %s breaks the rule: after users:id: or roles:id: only letters, digits and - . _ : @ / + = , ~ %%, no patterns", quote(s))
		}
	}
	return Subject{s}, nil
}

func (s Subject) String() string { return s.tag }

// IsZero reports that s names nobody.
func (s Subject) IsZero() bool { return s.tag == "" }

// Role returns X of roles:id:X, and false for a user.
func (s Subject) Role() (string, bool) { return strings.CutPrefix(s.tag, "roles:id:") }

// RoleSubject is roles:id:<n>.
func RoleSubject(n Name) Subject { return Subject{"roles:id:" + n.name} }

// Pattern matches names of secrets: * stands for any run of characters, ? for one.
type Pattern struct{ glob string }

// ParsePattern accepts the characters of a name, * and ?.
func ParsePattern(s string) (Pattern, error) {
	ok := len(s) > 0 && len(s) <= MaxName
	for i := 0; ok && i < len(s); i++ {
		c := s[i]
		ok = c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '*' || c == '?'
	}
	if !ok {
		return Pattern{}, fmt.Errorf("pattern %s breaks the rule: lower-case letters, digits, -, * and ?, at most %d characters", quote(s), MaxName)
	}
	return Pattern{s}, nil
}

func (p Pattern) String() string { return p.glob }

// Prefix is the text before the first wildcard; exact says there is none.
func (p Pattern) Prefix() (prefix string, exact bool) {
	i := strings.IndexAny(p.glob, "*?")
	if i < 0 {
		return p.glob, true
	}
	return p.glob[:i], false
}

// Match reports whether the whole of name matches.
func (p Pattern) Match(name Name) bool {
	// Iterative with one point of return for the last *: linear in practice and
	// never exponential, whatever a contributor writes.
	pat, s := p.glob, name.name
	pi, si, star, mark := 0, 0, -1, 0
	for si < len(s) {
		switch {
		case pi < len(pat) && (pat[pi] == '?' || pat[pi] == s[si]) && pat[pi] != '*':
			pi++
			si++
		case pi < len(pat) && pat[pi] == '*':
			star, mark = pi, si
			pi++
		case star >= 0:
			pi = star + 1
			mark++
			si = mark
		default:
			return false
		}
	}
	for pi < len(pat) && pat[pi] == '*' {
		pi++
	}
	return pi == len(pat)
}

// isLabel: [a-z0-9]([-a-z0-9]*[a-z0-9])?
func isLabel(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' && i > 0 && i < len(s)-1) {
			return false
		}
	}
	return len(s) > 0
}

// quote shows a text in an error: short, and with control characters escaped.
func quote(s string) string {
	if len(s) > 60 {
		s = s[:57] + "..."
	}
	return fmt.Sprintf("%q", s)
}
