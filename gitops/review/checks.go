package review

// CheckID names one thing that Check looks for; it never changes its meaning.
type CheckID string

// The checks, by what they are about. docs/checks.md explains each.
const (
	// Files.
	ManifestInvalid CheckID = "manifest-invalid"
	PlaceInvalid    CheckID = "place-invalid"
	PlaceMismatch   CheckID = "place-mismatch"
	PathTwice       CheckID = "path-twice"
	FileLink        CheckID = "file-link"
	FileSubmodule   CheckID = "file-submodule"
	FileTooLarge    CheckID = "file-too-large"
	MergeConflict   CheckID = "merge-conflict"
	SettingsInvalid CheckID = "settings-invalid"
	SettingsLoosen  CheckID = "settings-loosened"

	// Secrets.
	ValueUnsealed    CheckID = "value-unsealed"
	ValueRetyped     CheckID = "value-retyped"
	PrivateKey       CheckID = "private-key"
	ACLMismatch      CheckID = "acl-mismatch"
	SecretTwice      CheckID = "secret-twice"
	PartsDisagree    CheckID = "parts-disagree"
	KeyTwice         CheckID = "key-twice"
	CredentialExpiry CheckID = "credential-expired"
	ExpiryInvalid    CheckID = "expiry-invalid"
	SecretInUse      CheckID = "secret-in-use"

	// Sealing.
	SopsInvalid      CheckID = "sops-invalid"
	SopsPattern      CheckID = "sops-pattern"
	MACMissing       CheckID = "mac-missing"
	BindingMissing   CheckID = "binding-missing"
	BindingStale     CheckID = "binding-stale"
	BindingCopied    CheckID = "binding-copied"
	SealOlder        CheckID = "seal-older"
	RecipientMissing CheckID = "recipient-missing"
	RecipientExtra   CheckID = "recipient-extra"
	RecipientGroups  CheckID = "recipient-groups"
	RotateMissing    CheckID = "rotate-missing"
	UnsealFailed     CheckID = "unseal-failed"
	UnsealNoKey      CheckID = "unseal-no-key"

	// Creation rules.
	RuleMissing    CheckID = "rule-missing"
	RuleInvalid    CheckID = "rule-invalid"
	RuleUnanchored CheckID = "rule-unanchored"
	RuleSpans      CheckID = "rule-spans"
	RuleShadowed   CheckID = "rule-shadowed"
	RulePattern    CheckID = "rule-pattern"

	// Grants and roles.
	GrantUseCase CheckID = "grant-use-case"
	GrantEmpty   CheckID = "grant-empty"
	GrantExpired CheckID = "grant-expired"
	GrantNobody  CheckID = "grant-nobody"
	GrantNothing CheckID = "grant-nothing"
	GrantWidens  CheckID = "grant-widens-instance"
	RoleTwice    CheckID = "role-twice"
	RoleHides    CheckID = "role-hides-instance"

	// Kustomizations.
	KustomizeDropped   CheckID = "kustomize-dropped"
	KustomizeInvalid   CheckID = "kustomize-invalid"
	KustomizeFunction  CheckID = "kustomize-function"
	KustomizeFlags     CheckID = "kustomize-flags"
	KustomizeSealed    CheckID = "kustomize-sealed"
	KustomizeUnlisted  CheckID = "kustomize-unlisted"
	KustomizeMissing   CheckID = "kustomize-missing"
	KustomizeWorkspace CheckID = "kustomize-workspace"
)

// About is what is to say about a check whatever it found.
type About struct {
	ID     CheckID
	Level  Level
	Title  string
	Remedy string
}

// Checks lists all checks in the order of docs/checks.md.
func Checks() []About {
	const fileRemedy = "mend the field named; sealward schema shows the form"
	return []About{
		{ManifestInvalid, LevelError, "A file is no valid manifest", fileRemedy},
		{PlaceInvalid, LevelError, "A file stands where no manifest can stand", "move it, or out of workspaces/ and instance/ altogether"},
		{PlaceMismatch, LevelError, "Path and manifest disagree on name, kind or workspace", "move the file back, or make the secret anew where it belongs: sealward copy"},
		{PathTwice, LevelError, "Two paths differ only in spelling", "rename one: some file systems cannot tell them apart"},
		{FileLink, LevelError, "A symbolic link stands in a manifest's place", "replace it by a plain file"},
		{FileSubmodule, LevelError, "A submodule stands in a manifest's place", "remove it: git rm --cached PATH; the agent reads this repository only"},
		{FileTooLarge, LevelError, "A file is larger than a manifest may be", "keep large content elsewhere and only its credential here"},
		{MergeConflict, LevelError, "Conflict markers were left in a file", "git checkout --merge PATH brings the conflict back; then: sealward resolve PATH"},
		{SettingsInvalid, LevelError, "sealward.yaml cannot be read", "mend it; until then the agent takes the strictest settings"},
		{SettingsLoosen, LevelWarning, "sealward.yaml asks for less than before", "put binding: required back, or have an operator agree"},

		{ValueUnsealed, LevelError, "A value stands in the clear", "treat it as leaked: change the credential at its source; then seal the new one: sealward seal --in-place PATH"},
		{ValueRetyped, LevelWarning, "A value was sealed as a number, truth value or time", "seal it again as text: sealward set, or sealward seal --rebind PATH"},
		{PrivateKey, LevelError, "A private key stands in a file", "treat it as leaked: make new keys (sealward keys new), rotate, and remove the file"},
		{ACLMismatch, LevelError, "The name's -r or -rw and the acl disagree", "change acl or the name"},
		{SecretTwice, LevelError, "A secret stands in two places", "remove one of the files"},
		{PartsDisagree, LevelError, "Parts of one secret state another type or acl", "give them the same type and acl"},
		{KeyTwice, LevelError, "A key stands in two parts of a secret", "git rm the part that is not meant; one that holds other keys as well, restore"},
		{CredentialExpiry, LevelWarning, "The credential's expiry is over", "renew it at its source, set the new value, and change the date: sealward edit"},
		{ExpiryInvalid, LevelWarning, "An expires: tag is no day and no time", "write expires:2027-01-31"},
		{SecretInUse, LevelError, "A secret is removed that something still refers to", "remove the reference first, or keep the secret"},

		{SopsInvalid, LevelError, "The sops section is not what SOPS writes", "restore the last good version of the file, or seal it anew"},
		{SopsPattern, LevelError, "The sops section says that other fields are sealed", "seal it by sealward: sealward seal --rebind PATH"},
		{MACMissing, LevelError, "The MAC is missing or damaged", "restore the last good version of the file, or seal it anew"},
		{BindingMissing, LevelError, "There is no binding", "if plain sops made the file, look whether the values belong here, then: sealward seal --rebind PATH; if the binding was cut out, restore the file"},
		{BindingStale, LevelError, "Fields changed and the binding did not", "it was edited by plain sops; if that is wanted: sealward seal --rebind PATH"},
		{BindingCopied, LevelError, "A sealed file was copied or moved", "a sealed file belongs to its workspace and name; use sealward copy"},
		{SealOlder, LevelWarning, "An older version of the file came back", "make sure that the old values are meant"},
		{RecipientMissing, LevelError, "A file is not sealed for everybody its rule names", "somebody who can open it: sealward rotate -w WORKSPACE"},
		{RecipientExtra, LevelError, "A file is sealed for somebody its rule does not name", "add the recipient to the rule if that is meant; else treat the values as read by them, and: sealward rotate -w WORKSPACE"},
		{RecipientGroups, LevelError, "Key groups or threshold are not those of the rule", "somebody who can open it: sealward rotate -w WORKSPACE"},
		{RotateMissing, LevelError, "A recipient was removed, and can still read what comes", "the data key stayed; sealward rotate -w WORKSPACE gives a fresh one"},
		{UnsealFailed, LevelError, "A file does not open with the workspace's key", "sealward doctor PATH says more"},
		{UnsealNoKey, LevelWarning, "The keyring's key of the workspace is no recipient", "sealward doctor PATH says who is"},

		{RuleMissing, LevelError, "No creation rule covers a secret", "sealward workspace create WORKSPACE"},
		{RuleInvalid, LevelError, "A creation rule cannot be used", "mend it in .sops.yaml"},
		{RuleUnanchored, LevelError, "A creation rule is not anchored to one workspace", "start path_regex with ^workspaces/<workspace>/ or ^instance/"},
		{RuleSpans, LevelError, "A creation rule catches two workspaces", "write one rule a workspace"},
		{RuleShadowed, LevelError, "A creation rule is never used", "remove it, or move it before the other"},
		{RulePattern, LevelWarning, "A creation rule would have plain sops seal other fields", "write sealward's encrypted_regex into the rule"},

		{GrantUseCase, LevelError, "A grant is for a use case that nobody knows", "write read-specific-secret, read-all-secrets or list-secrets"},
		{GrantEmpty, LevelError, "A grant selects nothing", "name at least one, or remove the field"},
		{GrantExpired, LevelWarning, "A grant is over", "remove it, or give it a new expiry"},
		{GrantNobody, LevelWarning, "A grant names a role that nobody has", "define the role, unless tokens assert it"},
		{GrantNothing, LevelWarning, "A grant names secrets or keys that do not exist", "look for a typing error; a deny that matches nothing denies nothing"},
		{GrantWidens, LevelWarning, "A right that spans workspaces gets wider", "have the instance's owners agree"},
		{RoleTwice, LevelError, "Two files define one role", "remove one; until then reads of the scope are refused (policy-broken)"},
		{RoleHides, LevelWarning, "A workspace's role hides the instance's of that name", "rename it, unless the workspace means to say who has the role here"},

		{KustomizeDropped, LevelError, "A kustomize build succeeds and lacks the Secret", "list the generator under generators:, with a function"},
		{KustomizeInvalid, LevelError, "A generator that every build refuses", "mend it; docs/kustomize.md has the form"},
		{KustomizeFunction, LevelWarning, "Stock kustomize does not run a generator, or not as it reads", "write the annotation config.kubernetes.io/function: 'exec: {path: sealward, args: [kustomize]}', and nothing that changes it"},
		{KustomizeFlags, LevelWarning, "Something builds a tree with generators without what they need", flagsRemedy},
		{KustomizeSealed, LevelWarning, "A sealed Secret among resources goes out as ciphertext", "name it in the files: of a SealedSecretGenerator, or build with sealward build, which unseals it as the file is read"},
		{KustomizeUnlisted, LevelWarning, "No kustomization lists a generator", "list it under generators:, or remove it"},
		{KustomizeMissing, LevelError, "A generator names a secret or file that is not there", "mend the path, which is relative to the folder of the kustomization that lists the generator"},
		{KustomizeWorkspace, LevelError, "A kustomization names a workspace that it may not", "have the workspace's owners agree, and name it in builds: of sealward.yaml"},
	}
}
