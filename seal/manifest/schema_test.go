package manifest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

var kinds = []Kind{KindSecret, KindInstanceSecret, KubernetesSchema, KindGrant, KindRole}

// Invented: well-formed, but nobody sealed them.
const (
	sealedA = "ENC[AES256_GCM,data:Zm9v,iv:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=,tag:AAECAwQFBgcICQoLDA0ODw==,type:str]"
	sealedB = "ENC[AES256_GCM,data:MTI=,iv:HxECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=,tag:DxECAwQFBgcICQoLDA0ODw==,type:int]"
)

// bases are good manifests, which the cases below change in one place each.
var bases = map[string]struct {
	kind Kind
	text string
}{
	"plain": {KindSecret, `name: billing-db-rw
version: v1
type: secret
workspace: billing
layer: user
owner: carol
secret:
  type: key-value-properties
  acl: rw
  data:
    username: billing
    port: 05432
  binaryData:
    salt: AAECAw==
  files:
    ca.pem: ./ca.pem
`},
	"sealed": {KindSecret, `name: billing-db-rw
version: v1
type: secret
workspace: billing
layer: user
owner: carol
secret:
  type: key-value-properties
  acl: rw
  data:
    username: ` + sealedA + `
    port: ` + sealedB + `
    empty: ""
  binaryData:
    salt: ` + sealedA + `
seal:
  binding: ` + sealedA + `
sops:
  version: 3.13.3
  encrypted_regex: ` + SealedPattern + `
  age:
    - recipient: age1invented
      enc: |
        -----BEGIN AGE ENCRYPTED FILE-----
        -----END AGE ENCRYPTED FILE-----
`},
	"instance": {KindInstanceSecret, `name: registry-r
version: v2alpha
type: instance-secret
layer: system
owner: carol
instance-secret:
  type: cloud-kernel-image-pull
  acl: r
  data:
    .dockerconfigjson: '{"auths": {}}'
`},
	"sealed instance": {KindInstanceSecret, `name: registry
version: v2alpha
type: instance-secret
layer: system
owner: carol
instance-secret:
  type: cloud-kernel-image-pull
  acl: r
  data:
    .dockerconfigjson: ` + sealedA + `
sops:
  version: 3.13.3
`},
	"kubernetes": {KubernetesSchema, `apiVersion: v1
kind: Secret
metadata:
  name: billing-tls-rw
  namespace: billing
  labels: {app: billing, tier: ""}
  annotations:
    sealward.dev/owner: carol
    example.com/note: two words
type: Opaque
immutable: false
data:
  salt: AAECAw==
stringData:
  port: 05432
`},
	"sealed kubernetes": {KubernetesSchema, `apiVersion: v1
kind: Secret
metadata:
  name: billing-tls-rw
  annotations:
    sealward.dev/acl: rw
    sealward.dev/binding: ` + sealedA + `
type: kubernetes.io/basic-auth
data:
  salt: ` + sealedA + `
stringData:
  port: ` + sealedB + `
sops:
  version: 3.13.3
`},
	"grant": {KindGrant, `name: billing-readers
version: v1alpha
type: grant
workspace: billing
layer: user
owner: carol
grant:
  policy_use_case_id: read-specific-secret
  subjects: [users:id:dave@example.com, roles:id:billing-dev]
  secrets: [billing-db-*, '?', 2027]
  keys: [username, 7]
  effect: allow
  expires: 2027-01-01T00:00:00Z
  requester: erin
  notes: |
    asked for in ticket 31
    by the billing team
`},
	"instance grant": {KindGrant, `name: auditors
version: v1alpha
type: grant
layer: user
owner: carol
grant:
  policy_use_case_id: list-secrets
  subjects: [roles:id:auditors]
  workspaces: [billing, instance]
  effect: deny
`},
	"role": {KindRole, `name: billing-dev
version: v1alpha
type: role
workspace: billing
layer: user
owner: carol
role:
  members: [users:id:dave@example.com]
`},
}

// What goes for a secret goes for an instance secret, but for the workspace.
var twin = strings.NewReplacer("workspace: billing\n", "", "instance-secret", "secret", "secret", "instance-secret")

func init() {
	for name, b := range maps.Clone(bases) {
		switch b.kind {
		case KindSecret:
			b.kind = KindInstanceSecret
		case KindInstanceSecret:
			b.kind = KindSecret
		default:
			continue
		}
		b.text = twin.Replace(b.text)
		bases[name+" twin"] = b
	}
}

type verdict int

const (
	ok     verdict = iota
	bad            // Parse and the schema refuse it
	beyond         // only Parse can refuse it: see the reason beside the case
)

type schemaCase struct {
	base, from, to string
	want           verdict
}

// schemaCases change one place of a base; from "" appends.
var schemaCases = []schemaCase{
	// The header; headerCases and workspaceCases try the rest on every kind.
	{"instance", "layer: system", "workspace: public", bad},

	// The body of a secret.
	{"plain", "secret:\n", "instance-secret:\n", bad},
	{"plain", "type: secret", "type: instance-secret", bad},
	{"plain", "  acl: rw", "  acl: rw\n  ttl: 3h", bad},
	{"plain", "  acl: rw\n", "", bad},
	{"plain", "  acl: rw", "  acl: [rw]", bad},
	{"plain", "acl: rw", "acl: w", bad},
	{"plain", "acl: rw", "acl: RW", bad},
	{"plain", "acl: rw", "acl: r", bad}, // the name says rw
	{"instance", "acl: r", "acl: rw", bad},
	{"sealed instance", "acl: r", "acl: rw", ok},
	{"sealed instance", "acl: r", "acl: w", bad},
	{"plain", "name: billing-db-rw", "name: 2027", ok},
	{"instance", "name: registry-r", "name: 2027", ok},
	{"instance", "name: registry-r", "name: registry", ok},
	{"instance", "name: registry-r", "name: registry-rw", bad},
	{"plain", "  type: key-value-properties\n", "", bad},
	{"plain", "key-value-properties", "key-values", bad},
	{"plain", "key-value-properties", "key-value", ok},
	{"plain", "key-value-properties", "certificate", ok},
	{"plain", "key-value-properties", "certificates", ok},
	{"plain", "key-value-properties", "cloud-kernel", ok},
	{"plain", "  files:\n    ca.pem: ./ca.pem\n", "", ok},
	{"plain", "  data:\n    username: billing\n    port: 05432\n  binaryData:\n    salt: AAECAw==\n", "", ok}, // files alone
	{"plain", "  data:\n    username: billing\n    port: 05432\n", "", ok},
	{"instance", "  data:\n    .dockerconfigjson: '{\"auths\": {}}'\n", "", bad},
	{"instance", "  data:\n    .dockerconfigjson: '{\"auths\": {}}'\n", "  binaryData:\n    blob: AAECAw==\n", ok},
	{"instance", "  data:\n    .dockerconfigjson: '{\"auths\": {}}'\n", "  files: {}\n", bad},
	{"plain", "    username: billing\n    port: 05432\n", "    {}\n", bad},
	{"plain", "    username: billing\n    port: 05432\n", "    - username\n", bad},
	{"plain", "    username: billing\n    port: 05432\n", "", bad}, // data is null
	{"plain", "    salt: AAECAw==\n", "    {}\n", bad},
	{"plain", "    ca.pem: ./ca.pem\n", "", bad},

	{"plain", "    salt: AAECAw==\n", "    - salt\n", bad},
	{"plain", "    ca.pem: ./ca.pem\n", "    - ca.pem\n", bad},
	{"plain", "    ca.pem: ./ca.pem\n", strings.ReplaceAll(manyKeys(maxKeys+1), "AAAA", "./a"), bad},
	{"plain", "    salt: AAECAw==\n", manyKeys(maxKeys + 1), bad},
	{"plain", "    username: billing\n    port: 05432\n", manyKeys(maxKeys + 1), bad},
	{"instance", "instance-secret:\n  type: cloud-kernel-image-pull\n  acl: r\n  data:\n    .dockerconfigjson: '{\"auths\": {}}'\n", "", bad},
	{"instance", "\n  type: cloud-kernel-image-pull\n  acl: r\n  data:\n    .dockerconfigjson: '{\"auths\": {}}'\n", " [data]\n", bad},

	// Keys.
	{"plain", "username:", "7:", ok},
	{"plain", "username:", "null:", ok},
	{"plain", "username:", "true:", ok},
	{"plain", "username:", "2027-01-01:", ok},
	{"plain", "username:", ".user_name-1.X:", ok},
	{"plain", "username:", strings.Repeat("k", MaxKey) + ":", ok},
	{"plain", "username:", strings.Repeat("k", MaxKey+1) + ":", bad},
	{"plain", "username:", ".:", bad},
	{"plain", "username:", "..:", bad},
	{"plain", "username:", "..user:", bad},
	{"plain", "username:", "user name:", bad},
	{"plain", "username:", "user/name:", bad},
	{"plain", "username:", "usér:", bad},
	{"plain", "username:", `"user\n":`, bad},
	{"plain", "username:", `"":`, bad},
	{"plain", "salt:", "sa lt:", bad},
	{"plain", "ca.pem:", "..ca:", bad},

	// Values before sealing.
	{"plain", "username: billing", `username: ""`, ok},
	{"plain", "username: billing", "username: 1.10", ok},
	{"plain", "username: billing", "username: -.inf", ok},
	{"plain", "username: billing", "username: 2027-01-01T00:00:00Z", ok},
	{"plain", "username: billing", "username: |\n      two\n      lines", ok},
	{"plain", "username: billing", "username: False", ok},
	{"plain", "username: billing", "username:", bad},
	{"plain", "username: billing", "username: ~", bad},
	{"plain", "username: billing", "username: {first: billing}", bad},
	{"plain", "username: billing", "username: [billing]", bad},
	{"plain", "AAECAw==", `""`, ok},
	{"plain", "AAECAw==", "1234", ok}, // base64 that YAML takes for a number
	{"plain", "AAECAw==", "AAECAw", bad},
	{"plain", "AAECAw==", "AAECAx==", bad}, // the last bits are not zero
	{"plain", "AAECAw==", "AA-CAw==", bad},
	{"plain", "AAECAw==", "|\n      AAEC\n      AAEC", bad},
	{"plain", "AAECAw==", "null", bad},
	{"plain", "./ca.pem", `""`, bad},
	{"plain", "./ca.pem", "", bad},
	{"plain", "./ca.pem", "[./ca.pem]", bad},
	{"plain", "", "seal:\n  binding: " + sealedA + "\n", bad},
	{"plain", "", "sops:\n  version: 3.13.3\n", bad}, // values in the clear

	// Sealed.
	{"sealed", "seal:\n  binding: " + sealedA + "\n", "", ok}, // plain sops
	{"sealed", "username: " + sealedA, "username: billing", bad},
	{"sealed", "username: " + sealedA, "username: 12", bad},
	{"sealed", "username: " + sealedA, "username: " + sealedA + "x", bad},
	{"sealed", "username: " + sealedA, "username: x" + sealedA, bad},
	{"sealed", "username: " + sealedA, `username: "` + sealedA + `\n"`, bad},
	{"sealed", "data:Zm9v", "data:", bad},
	{"sealed", "data:Zm9v", "data:Zm9", bad},
	{"sealed", "data:MTI=", "data:MTJ=", bad},
	{"sealed", "Hh8=,tag:DxE", "Hh9=,tag:DxE", bad},
	{"sealed", "tag:DxECAwQFBgcICQoLDA0ODw==", "tag:DxECAwQFBgcICQoLDA0ODx==", bad},
	{"sealed", "iv:HxEC", "iv:", bad},
	{"sealed", "type:int", "type:comment", bad},
	{"sealed", "type:int", "type:bytes", bad},
	{"sealed", "AES256_GCM,data:MTI=", "AES128_GCM,data:MTI=", bad},
	{"sealed", "salt: " + sealedA, `salt: ""`, ok},
	{"sealed", "salt: " + sealedA, "salt: AAECAw==", bad},
	{"sealed", "  binaryData:", "  files:\n    ca.pem: ./ca.pem\n  binaryData:", bad},
	{"sealed", "binding: " + sealedA, `binding: ""`, bad},
	{"sealed", "binding: " + sealedA, "binding: none", bad},
	{"sealed", "  binding: ", "  bound: ", bad},
	{"sealed", "seal:\n", "seal:\n  version: 1\n", bad},
	{"sealed instance", "", "seal: []\n", bad},
	{"sealed instance", "", "seal: {}\n", bad},
	{"sealed instance", "  version: 3.13.3\n", "", bad}, // sops is null
	{"sealed instance", "sops:\n  version: 3.13.3", "sops: [age]", bad},
	{"sealed instance", sealedA, "'{}'", bad},

	// Grants.
	{"grant", "grant:\n", "grants:\n", bad},
	{"grant", "  policy_use_case_id: read-specific-secret\n", "", bad},
	{"grant", "read-specific-secret", "read-secrets", bad},
	{"grant", "[users:id:dave@example.com, roles:id:billing-dev]", "[]", bad},
	{"grant", "[users:id:dave@example.com, roles:id:billing-dev]", "users:id:dave", bad},
	{"grant", "  subjects: [users:id:dave@example.com, roles:id:billing-dev]\n", "", bad},
	{"instance grant", "[roles:id:auditors]", many("users:id:u", maxGrantRules/2), ok}, // in two workspaces
	{"instance grant", "[roles:id:auditors]", many("users:id:u", maxGrantRules+1), bad},
	{"grant", "users:id:dave@example.com", "users:id:*", bad},
	{"grant", "users:id:dave@example.com", "dave", bad},
	{"grant", "users:id:dave@example.com", "'users:id:'", bad},
	{"grant", "users:id:dave@example.com", "groups:id:dave", bad},
	{"grant", "users:id:dave@example.com", "12", bad},
	{"grant", "users:id:dave@example.com", `"users:id:a-._:@/+=,~%Z9"`, ok},
	{"grant", "dave@example.com", strings.Repeat("d", 253-len("users:id:")), ok},
	{"grant", "dave@example.com", strings.Repeat("d", 254-len("users:id:")), bad},
	{"grant", "  secrets: [billing-db-*, '?', 2027]\n", "", bad},
	{"grant", "[billing-db-*, '?', 2027]", "[]", bad},
	{"grant", "[billing-db-*, '?', 2027]", "billing-db-rw", bad},
	{"grant", "[billing-db-*, '?', 2027]", many("s", maxGrantRules+1), bad},
	{"grant", "'?'", "[x]", bad},
	{"grant", "'?'", "Billing", bad},
	{"grant", "'?'", "a/b", bad},
	{"grant", "'?'", "'[ab]'", bad},
	{"grant", "'?'", "''", bad},
	{"grant", "'?'", "'" + strings.Repeat("?", MaxName) + "'", ok},
	{"grant", "'?'", "'" + strings.Repeat("?", MaxName+1) + "'", bad},
	{"grant", "[username, 7]", "[]", bad},
	{"grant", "[username, 7]", "username", bad},
	{"grant", "[username, 7]", "[[username]]", bad},
	{"grant", "[username, 7]", "[" + strings.Repeat("k", MaxKey+1) + "]", bad},
	{"grant", "[username, 7]", many("k", maxGrantKeys), ok},
	{"grant", "[username, 7]", many("k", maxGrantKeys+1), bad},
	{"grant", "[username, 7]", "['*']", bad},
	{"grant", "[username, 7]", "[..user]", bad},
	{"grant", "[username, 7]", "[null]", bad},
	{"grant", "  keys: [username, 7]\n", "", ok},
	{"grant", "read-specific-secret", "list-secrets", bad},     // keys beside it
	{"grant", "read-specific-secret", "read-all-secrets", bad}, // secrets beside it
	{"grant", "read-specific-secret", "read-all-secrets-from-heimdall", bad},
	{"grant", "read-specific-secret\n  subjects: [users:id:dave@example.com, roles:id:billing-dev]\n  secrets: [billing-db-*, '?', 2027]",
		"read-all-secrets-from-heimdall\n  subjects: [roles:id:billing-dev]", ok},
	{"grant", "  effect: allow\n", "", bad},
	{"grant", "effect: allow", "effect: dney", bad},
	{"grant", "effect: allow", "effect: Allow", bad},
	{"grant", "2027-01-01T00:00:00Z", "2027-01-01T00:00:00.250+05:30", ok},
	{"grant", "2027-01-01T00:00:00Z", "2000-01-01T00:00:00-08:00", ok},
	{"grant", "2027-01-01T00:00:00Z", "1999-12-31T23:59:59Z", bad},
	{"grant", "2027-01-01T00:00:00Z", "0001-01-01T00:00:00Z", bad},
	{"grant", "2027-01-01T00:00:00Z", "2027-01-01", bad},
	{"grant", "2027-01-01T00:00:00Z", "2027-01-01 00:00:00Z", bad},
	{"grant", "2027-01-01T00:00:00Z", "2027-13-01T00:00:00Z", bad},
	{"grant", "2027-01-01T00:00:00Z", "2027-01-01T24:00:00Z", bad},
	{"grant", "2027-01-01T00:00:00Z", "2027-01-01T00:00:00", bad},
	{"grant", "2027-01-01T00:00:00Z", "2027", bad},
	{"grant", "expires: 2027-01-01T00:00:00Z", "expires: tomorrow", bad},
	{"grant", "requester: erin", "requester: |\n    erin\n    frank", bad},
	{"grant", "requester: erin", "requested_by: erin", bad},
	{"grant", "notes: |\n    asked for in ticket 31\n    by the billing team", "notes: {ticket: 31}", bad},
	{"grant", "  effect:", "  workspaces: [orders]\n  effect:", bad},
	{"instance grant", "[billing, instance]", "[]", bad},
	{"instance grant", "[billing, instance]", "billing", bad},
	{"instance grant", "[billing, instance]", "[Billing]", bad},
	{"instance grant", "[billing, instance]", "[[billing]]", bad},
	{"instance grant", "[billing, instance]", many("b", maxGrantRules), ok},
	{"instance grant", "[billing, instance]", many("b", maxGrantRules+1), bad},
	{"instance grant", "[billing, instance]", "[no, true]", ok},
	{"instance grant", "[billing, instance]", "[" + strings.Repeat("b", MaxWorkspace) + "]", ok},
	{"instance grant", "[billing, instance]", "[" + strings.Repeat("b", MaxWorkspace+1) + "]", bad},
	{"instance grant", "[billing, instance]", "['*']", bad},
	{"instance grant", "  workspaces: [billing, instance]\n", "", ok},
	{"instance grant", "  effect: deny", "  secrets: [registry-*]\n  effect: deny", ok},
	{"instance grant", "  effect: deny", "  secrets: []\n  effect: deny", bad},
	{"instance grant", "policy_use_case_id: list-secrets", "policy_use_case_id: read-all-secrets", ok},
	{"instance grant", "policy_use_case_id: list-secrets", "policy_use_case_id: read-specific-secret", bad},
	{"grant", "", "sops: {}\n", bad},
	{"instance grant", "\n  policy_use_case_id: list-secrets\n  subjects: [roles:id:auditors]\n  workspaces: [billing, instance]\n  effect: deny\n", " [allow]\n", bad},
	{"instance grant", "grant:\n  policy_use_case_id: list-secrets\n  subjects: [roles:id:auditors]\n  workspaces: [billing, instance]\n  effect: deny\n", "", bad},

	// Roles.
	{"role", "[users:id:dave@example.com]", "[]", ok},
	{"role", "  members: [users:id:dave@example.com]\n", "  {}\n", bad},
	{"role", "[users:id:dave@example.com]", "", bad},
	{"role", "users:id:dave@example.com", "roles:id:auditors", bad},
	{"role", "users:id:dave@example.com", "dave", bad},
	{"role", "users:id:dave@example.com", "12", bad},
	{"role", "dave@example.com", strings.Repeat("d", 254-len("users:id:")), bad},
	{"role", "role:\n  members: [users:id:dave@example.com]\n", "", bad},
	{"role", "\n  members: [users:id:dave@example.com]", " [users:id:dave]", bad},
	{"role", "users:id:dave@example.com", "users:id:da ve", bad},
	{"role", "  members:", "  name: x\n  members:", bad},
	{"role", "", "secret: {}\n", bad},

	// Kubernetes Secrets.
	{"kubernetes", "apiVersion: v1\n", "", bad},
	{"kubernetes", "apiVersion: v1", "apiVersion: v2", bad},
	{"kubernetes", "kind: Secret\n", "", bad},
	{"kubernetes", "kind: Secret", "kind: ConfigMap", bad},
	{"kubernetes", "kind: Secret", "kind: Secret\nversion: v1", bad},
	{"kubernetes", "kind: Secret", "kind: Secret\nsecret: {type: key-value}", bad},
	{"kubernetes", "kind: Secret", "kind: Secret\nseal: {binding: x}", bad},
	{"kubernetes", "kind: Secret", "kind: Secret\nstatus: {}", bad},
	{"kubernetes", "  name: billing-tls-rw\n", "", bad},
	{"kubernetes", "billing-tls-rw", "billing.tls", bad},
	{"kubernetes", "billing-tls-rw", strings.Repeat("n", MaxName), ok},
	{"kubernetes", "billing-tls-rw", strings.Repeat("n", MaxName+1), bad},
	{"kubernetes", "  namespace: billing\n", "", ok},
	{"kubernetes", "namespace: billing", "namespace: no", ok},
	{"kubernetes", "namespace: billing", "namespace: instance", bad},
	{"kubernetes", "namespace: billing", "namespace: Billing", bad},
	{"kubernetes", "namespace: billing", "namespace:", bad},
	{"kubernetes", "namespace: billing", "namespace: " + strings.Repeat("b", MaxWorkspace+1), bad},
	{"kubernetes", "namespace: billing", "namespace: billing\n  creationTimestamp: null", bad},
	{"kubernetes", "namespace: billing", "namespace: billing\n  uid: x", bad},
	{"kubernetes", "namespace: billing", "namespace: billing\n  resourceVersion: '1'", bad},
	{"kubernetes", "namespace: billing", "namespace: billing\n  managedFields: []", bad},
	{"kubernetes", "namespace: billing", "namespace: billing\n  owner: carol", bad},
	{"kubernetes", "app: billing", "app: 1", ok},
	{"kubernetes", "app: billing", "app.kubernetes.io/name: billing", ok},
	{"kubernetes", "app: billing", "app: two words", bad},
	{"kubernetes", "app: billing", "app: " + strings.Repeat("b", 64), bad},
	{"kubernetes", "app: billing", "app: [b]", bad},
	{"kubernetes", "app: billing", "app: ~", bad},
	{"kubernetes", "app: billing", "-app: billing", bad},
	{"kubernetes", "app: billing", "a/b/c: billing", bad},
	{"kubernetes", "app: billing", "A.b/c: billing", bad},
	{"kubernetes", "app: billing", strings.Repeat("a", 63) + ": billing", ok},
	{"kubernetes", "app: billing", strings.Repeat("a", 64) + ": billing", bad},
	{"kubernetes", "app: billing", "data: billing", bad}, // SOPS would seal it
	{"kubernetes", "app: billing", "binding: billing", bad},
	{"kubernetes", "app: billing", "sealward.dev/binding: billing", bad},
	{"kubernetes", "{app: billing, tier: \"\"}", "[app]", bad},
	{"kubernetes", "{app: billing, tier: \"\"}", "", bad}, // null
	{"kubernetes", "{app: billing, tier: \"\"}", "{}", ok},
	{"kubernetes", "example.com/note: two words", "stringData: two words", bad},
	{"kubernetes", "example.com/note: two words", "example.com/note: |\n      two\n      lines", ok},
	{"kubernetes", "example.com/note: two words", "example.com/note:", bad},
	{"kubernetes", "example.com/note: two words", "kubectl.kubernetes.io/last-applied-configuration: '{}'", bad},
	{"kubernetes", "example.com/note: two words", "sealward.dev/acl: rw", ok},
	{"kubernetes", "example.com/note: two words", "sealward.dev/acl: r", bad}, // the name says rw
	{"kubernetes", "example.com/note: two words", "sealward.dev/acl: w", bad},
	{"kubernetes", "example.com/note: two words", "sealward.dev/layer: user", bad},
	{"kubernetes", "example.com/note: two words", "sealward.dev/binding: " + sealedA, bad}, // not sealed
	{"kubernetes", "owner: carol", "owner: |\n      carol\n      dave", bad},
	{"kubernetes", "type: Opaque\n", "", ok},
	{"kubernetes", "type: Opaque", "type: kubernetes.io/tls", ok},
	{"kubernetes", "type: Opaque", "type: two words", bad},
	{"kubernetes", "type: Opaque", `type: ""`, bad},
	{"kubernetes", "type: Opaque", "type: " + strings.Repeat("t", 254), bad},
	{"kubernetes", "immutable: false\n", "", ok},
	{"kubernetes", "immutable: false", "immutable: True", ok},
	{"kubernetes", "immutable: false", "immutable: 'false'", bad},
	{"kubernetes", "immutable: false", "immutable: no", bad},
	{"kubernetes", "data:\n  salt: AAECAw==\n", "", ok},
	{"kubernetes", "data:\n  salt: AAECAw==\nstringData:\n  port: 05432\n", "", bad},
	{"kubernetes", "data:\n  salt: AAECAw==\n", "data: {}\n", bad},
	{"kubernetes", "salt: AAECAw==", "salt: AAECAw", bad},
	{"kubernetes", "salt: AAECAw==", "salt:", bad},
	{"kubernetes", "salt: AAECAw==", "sa lt: AAEC", bad},
	{"kubernetes", "port: 05432", "port: {a: b}", bad},
	{"kubernetes", "port: 05432", "port: ~", bad},
	{"kubernetes", "stringData:", "binaryData:", bad},
	{"kubernetes", "stringData:", "files:", bad},
	{"kubernetes", "", "sops: {}\n", bad},                                        // values in the clear
	{"sealed kubernetes", "    sealward.dev/binding: " + sealedA + "\n", "", ok}, // Flux
	{"sealed kubernetes", "sealward.dev/binding: " + sealedA, "sealward.dev/binding: none", bad},
	{"sealed kubernetes", "salt: " + sealedA, "salt: AAECAw==", bad},
	{"sealed kubernetes", "port: " + sealedB, "port: 5432", bad},
	{"sealed kubernetes", "port: " + sealedB, `port: ""`, ok},
	{"sealed kubernetes", "  version: 3.13.3\n", "", bad},
	{"kubernetes", "  port:", "  salt:", beyond},                                     // a key in two sections
	{"kubernetes", "    example.com", "    # of dave\n    example.com", beyond},      // a comment in annotations
	{"sealed kubernetes", "  port:", "  # of dave\n  port:", beyond},                 // a comment among values
	{"kubernetes", "app: billing", strings.Repeat("a", 254) + "/a: billing", beyond}, // a domain that is too long
	{"kubernetes", "app: billing", "app: -1", beyond},                                // a number whose spelling is no label

	// Beyond a schema: what YAML says and JSON does not.
	{"plain", "    port: 05432", "    username: erin", beyond},                                                // a key twice
	{"grant", "effect: allow", "effect: deny\n  effect: allow", beyond},                                       // a field twice
	{"plain", "    salt:", "    username:", beyond},                                                           // a key in two sections
	{"plain", "    ca.pem:", "    port:", beyond},                                                             // a key in two sections
	{"plain", "username: billing", "username: billing # dave's", beyond},                                      // a comment among values
	{"plain", "    username:", "    # of dave\n    username:", beyond},                                        // a comment among values
	{"sealed", "seal:\n", "seal:\n  # by hand\n", beyond},                                                     // a comment in seal
	{"plain", "username: billing", "username: &a billing", beyond},                                            // an anchor
	{"role", "layer: user\nowner: carol", "layer: &a user\nowner: *a", beyond},                                // an alias
	{"plain", "username: billing", "username: !mine billing", beyond},                                         // a tag
	{"plain", "username: billing", "username: !!str 12", beyond},                                              // a tag
	{"plain", "    username: billing", "    <<: {username: billing}", beyond},                                 // a merge key
	{"role", "", "---\nname: other\n", beyond},                                                                // a second document
	{"sealed", "empty:", "12:", beyond},                                                                       // a sealed key that YAML takes for a number
	{"sealed instance", "version: 3.13.3", "x: " + strings.Repeat("[", 12) + strings.Repeat("]", 12), beyond}, // nested too deep
	{"plain", "name: billing-db-rw", "name: 1.5", beyond},                                                     // a number whose spelling is no name
	{"grant", "keys: [username, 7]", "keys: [+7]", beyond},                                                    // a number whose spelling is no key
	{"plain", "AAECAw==", "12", beyond},                                                                       // a number whose spelling is no base64
	{"grant", "2027-01-01T00:00:00Z", "2027-02-30T00:00:00Z", beyond},                                         // no such day
	{"plain", "    salt: AAECAw==\n", manyKeys(maxKeys), beyond},                                              // too many keys in all sections
	{"instance grant", "[roles:id:auditors]", many("users:id:u", maxGrantRules/2+1), beyond},                  // too many times two workspaces
}

// headerCases change a line that every kind has.
var headerCases = []schemaCase{
	{"", "name: ", "name: " + strings.Repeat("n", 20) + "-", ok},
	{"", "name: ", "name: 0", ok},
	{"", "name: ", "name: -", bad},
	{"", "name: ", "name: N", bad},
	{"", "name: ", "name: a.", bad},
	{"", "name: ", "name: a_", bad},
	{"", "name: ", "name: " + strings.Repeat("n", MaxName), bad}, // with what stands there
	{"", "name: ", "name: [n] # ", bad},
	{"", "name: ", "name: # ", bad}, // null
	{"", "name: ", "nam: ", bad},
	{"", "version: ", "version: \"\" # ", bad},
	{"", "version: ", "version: v3 # ", bad},
	{"", "version: ", "version: 1 # ", bad},
	{"", "version: ", "version: v1 # ", ok},
	{"", "version: ", "version: v1beta # ", ok},
	{"", "version: ", "version: v1alpha # ", ok},
	{"", "version: ", "version: v2alpha # ", ok},
	{"", "version: ", "version: v1beta1 # ", ok},
	{"", "version: ", "versions: ", bad},
	{"", "type: ", "type: workflow # ", bad},
	{"", "type: ", "typ: ", bad},
	{"", "layer: ", "layer: \"\" # ", bad},
	{"", "layer: ", "layer: kernel # ", bad},
	{"", "layer: ", "layer: system # ", ok},
	{"", "layer: ", "layer: user # ", ok},
	{"", "layer: ", "lair: ", bad},
	{"", "owner: carol", "owner: 12", ok},
	{"", "owner: carol", `owner: ""`, ok},
	{"", "owner: carol", "owner:", bad},
	{"", "owner: carol", "owner: [carol]", bad},
	{"", "owner: carol", "owner: |\n  carol\n  dave", bad},
	{"", "owner: carol", "annotations: {a: b}", bad},
	{"", "owner: carol", "description: |\n  two\n  lines", ok},
	{"", "owner: carol", "description: {a: b}", bad},
	{"", "owner: carol", "description:", bad},
	{"", "owner: carol", "tags: []", ok},
	{"", "owner: carol", "tags: [a, 1.5, true, 2027-01-01]", ok},
	{"", "owner: carol", "tags: a", bad},
	{"", "owner: carol", `tags: [""]`, bad},
	{"", "owner: carol", "tags: [~]", bad},
	{"", "owner: carol", "tags: [{a: b}]", bad},
	{"", "owner: carol", `tags: ["a\nb"]`, bad},
}

// workspaceCases change the workspace of every kind that states one.
var workspaceCases = []schemaCase{
	{"", "workspace: billing\n", "", ok},
	{"", "workspace: billing", "workspace: no", ok}, // a boolean in YAML 1.1
	{"", "workspace: billing", "workspace: true", ok},
	{"", "workspace: billing", "workspace: Billing", bad},
	{"", "workspace: billing", "workspace: 1billing", bad},
	{"", "workspace: billing", "workspace: 12", bad},
	{"", "workspace: billing", "workspace: billing-", bad},
	{"", "workspace: billing", "workspace: instance", bad},
	{"", "workspace: billing", "workspace:", bad},
	{"", "workspace: billing", "workspace: " + strings.Repeat("b", MaxWorkspace), ok},
	{"", "workspace: billing", "workspace: " + strings.Repeat("b", MaxWorkspace+1), bad},
	{"", "workspace: billing", "workspace: [billing]", bad},
}

// many is a list of n names.
func many(prefix string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%s%d, ", prefix, i)
	}
	return "[" + b.String() + "]"
}

// manyKeys is n lines of a section.
func manyKeys(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "    k%d: AAAA\n", i)
	}
	return b.String()
}

func allSchemaCases() []schemaCase {
	all := slices.Clone(schemaCases)
	for _, c := range schemaCases {
		c.base, c.from, c.to = c.base+" twin", twin.Replace(c.from), twin.Replace(c.to)
		if _, exists := bases[c.base]; exists && !strings.Contains(c.to, "workspace") {
			all = append(all, c)
		}
	}
	for base, b := range bases {
		all = append(all, schemaCase{base: base, want: ok},
			schemaCase{base, b.text, "- " + string(b.kind), bad}, schemaCase{base, b.text, string(b.kind), bad})
		cases := headerCases
		if b.kind == KubernetesSchema { // none of these lines is there
			continue
		}
		if strings.Contains(b.text, "\nworkspace:") {
			cases = slices.Concat(cases, workspaceCases)
		}
		for _, c := range cases {
			c.base = base
			all = append(all, c)
		}
	}
	return all
}

// Parse and the schema must say the same of every case, except for those marked
// beyond. One that a schema has learnt to refuse must lose the mark.
func TestSchemasAgreeWithParse(t *testing.T) {
	schemas := map[Kind]*jsonschema.Schema{}
	for _, k := range kinds {
		schemas[k] = compileSchema(t, k)
	}
	for _, c := range allSchemaCases() {
		text := bases[c.base].text
		if c.from == "" {
			text += c.to
		} else if text = strings.Replace(text, c.from, c.to, 1); !strings.Contains(bases[c.base].text, c.from) {
			t.Errorf("%s: %q is not there to be changed", c.base, c.from)
			continue
		}
		kind := bases[c.base].kind
		m, parseErr := Parse("x.yaml", []byte(text))
		schemaErr := schemas[kind].Validate(asJSON(t, text))
		name := fmt.Sprintf("%s: %.60q for %.60q", c.base, c.to, c.from)
		switch c.want {
		case ok:
			if parseErr != nil || schemaErr != nil || m.FormKind() != string(kind) {
				t.Errorf("%s is good, but\nParse: %v\nschema: %v", name, parseErr, schemaErr)
			}
		case bad:
			if parseErr == nil || schemaErr == nil {
				t.Errorf("%s is bad, but\nParse: %v\nschema: %v", name, parseErr, schemaErr)
			}
		case beyond:
			if parseErr == nil {
				t.Errorf("%s is bad, but Parse accepts it", name)
			}
			if schemaErr != nil {
				t.Errorf("%s is marked as beyond a schema, but the schema refuses it; mark it bad: %v", name, schemaErr)
			}
		}
	}
}

func TestSchemasAreValid(t *testing.T) {
	meta, err := jsonschema.NewCompiler().Compile("https://json-schema.org/draft/2020-12/schema")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range kinds {
		compileSchema(t, k)
		text, err := Schema(k)
		if err != nil {
			t.Fatal(err)
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if err := meta.Validate(doc); err != nil {
			t.Errorf("%s: %v", k, err)
		}
		root := doc.(map[string]any)
		if root["$schema"] != "https://json-schema.org/draft/2020-12/schema" || root["$id"] != schemaID(k) {
			t.Errorf("%s: $schema %v, $id %v", k, root["$schema"], root["$id"])
		}
		checkFields(t, string(k), root)
	}
}

// checkFields wants every field explained, as editors show it, and no mapping
// open but sops, which is SOPS's own.
func checkFields(t *testing.T, path string, schema map[string]any) {
	if schema["title"] == nil || schema["description"] == nil {
		t.Errorf("%s: has no title or no description", path)
	}
	if _, closed := schema["additionalProperties"]; schema["type"] == "object" && !closed && !strings.HasSuffix(path, ".sops") {
		t.Errorf("%s: takes any field", path)
	}
	fields, _ := schema["properties"].(map[string]any)
	for name, field := range fields {
		checkFields(t, path+"."+name, field.(map[string]any))
	}
}

func TestSchemaOfUnknownKind(t *testing.T) {
	for _, k := range []Kind{"", "workflow", "../schema/secret"} {
		if _, err := Schema(k); err == nil {
			t.Errorf("there is a schema of %q", k)
		}
	}
}

func schemaID(k Kind) string { return "https://sealward.dev/schema/" + string(k) + ".json" }

// compileSchema holds the schema to draft 2020-12's metaschema and compiles it.
func compileSchema(t *testing.T, k Kind) *jsonschema.Schema {
	t.Helper()
	text, err := Schema(k)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("%s: %v", k, err)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	if err := c.AddResource(schemaID(k), doc); err != nil {
		t.Fatalf("%s: %v", k, err)
	}
	s, err := c.Compile(schemaID(k))
	if err != nil {
		t.Fatalf("%s: %v", k, err)
	}
	return s
}

// asJSON reads YAML the way an editor does before it asks the schema: the first
// document, aliases and merge keys resolved, of two equal keys the last, and
// text for what JSON has no type for.
func asJSON(t *testing.T, text string) any {
	var doc yaml.Node
	if err := yaml.NewDecoder(strings.NewReader(text)).Decode(&doc); err != nil {
		t.Fatalf("a case must be YAML, so that a rule refuses it: %v\n%s", err, text)
	}
	v := nodeAsJSON(t, doc.Content[0])
	if _, err := json.Marshal(v); err != nil {
		t.Fatalf("asJSON made what is not JSON: %v", err)
	}
	return v
}

func nodeAsJSON(t *testing.T, n *yaml.Node) any {
	switch n.Kind {
	case yaml.AliasNode:
		return nodeAsJSON(t, n.Alias)
	case yaml.SequenceNode:
		list := []any{}
		for _, item := range n.Content {
			list = append(list, nodeAsJSON(t, item))
		}
		return list
	case yaml.MappingNode:
		fields := map[string]any{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			k, v := n.Content[i], nodeAsJSON(t, n.Content[i+1])
			if merged, isMap := v.(map[string]any); isMap && k.Tag == "!!merge" {
				for name, v := range merged {
					fields[name] = v
				}
				continue
			}
			fields[k.Value] = v
		}
		return fields
	}
	switch n.ShortTag() {
	case "!!null":
		return nil
	case "!!bool", "!!int", "!!float":
		var v any
		if err := n.Decode(&v); err != nil {
			t.Fatal(err)
		}
		if f, isFloat := v.(float64); isFloat && (math.IsInf(f, 0) || math.IsNaN(f)) {
			return n.Value
		}
		return v
	}
	return n.Value
}
