package vectors

import (
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
)

// The plaintexts that every vector starts from. Their values must appear in no
// error.
const (
	plainSecret = `# who to ask: the orders team
name: orders-db-r
version: v1
type: secret
workspace: orders
layer: user
owner: iamgroot
tags: [a, b]
secret:
  type: key-value
  acl: r
  data:
    password: hunter2
    pin: "0123"
    none: ""
    five: "5"
    yes: "true"
`
	plainInstance = `name: smtp
version: v1
type: instance-secret
instance-secret:
  type: key-value
  acl: rw
  data: {password: hunter2}
`
	plainKubernetes = `apiVersion: v1
kind: Secret
metadata:
  name: orders-k8s
  namespace: orders
  labels:
    team: orders
  annotations:
    note: hello
    more: "1"
type: Opaque
data:
  password: aHVudGVyMg==
  pin: MDEyMw==
stringData:
  user: grootuser
`
	plainJSON = `{"name": "orders-json", "version": "v1", "type": "secret", "workspace": "orders",
 "secret": {"type": "key-value", "acl": "r", "data": {"password": "hunter2", "face": "\ud83d\ude00"}}}
`
	plainBinary = `name: orders-bin
version: v1
type: secret
workspace: orders
secret:
  type: key-value-properties
  acl: r
  data: {user: grootuser}
  binaryData: {store: "//79AAE="}
`
)

// secretTexts must not be repeated by any error.
func secretTexts() []string {
	return []string{"hunter2", "hunter3", "0123", "aHVudGVyMg", "MDEyMw", "grootuser", "//79AAE"}
}

// vector is one file, where it stands, and what must come of it.
type vector struct {
	Name  string `json:"name"`
	File  string `json:"file"`  // in files/
	Place string `json:"place"` // its path in the repository
	// Expect is "ok", or why the file is refused: manifest, not-sealed, place, no-key,
	// unbound, form, pattern, value, mac or binding.
	Expect string            `json:"expect"`
	Values map[string]string `json:"values,omitempty"` // key to base64

	text string
}

// kit seals for the two workspaces of the vectors.
type kit struct {
	t                *testing.T
	orders, payments workspace.Recipient
}

func newKit(t *testing.T, orders, payments *age.X25519Identity) *kit {
	t.Helper()
	rcpt := func(id *age.X25519Identity) workspace.Recipient {
		r, err := workspace.ParseRecipient(id.Recipient().String())
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	return &kit{t, rcpt(orders), rcpt(payments)}
}

func (k *kit) seal(file, text string, to ...workspace.Recipient) string {
	k.t.Helper()
	m, err := manifest.Parse(file, []byte(text))
	if err != nil {
		k.t.Fatal(err)
	}
	out, err := seal.Seal(m, workspace.For(to...), seal.Options{Now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)})
	if err != nil {
		k.t.Fatal(err)
	}
	return string(out)
}

// line is the first line of a field, value the text after its colon.
func (k *kit) line(file, key string) string {
	k.t.Helper()
	for l := range strings.SplitSeq(file, "\n") {
		if strings.HasPrefix(strings.TrimSpace(l), key+":") {
			return l
		}
	}
	k.t.Fatalf("no line %s", key)
	return ""
}

func (k *kit) value(file, key string) string {
	return strings.TrimSpace(strings.SplitN(k.line(file, key), ":", 2)[1])
}

// section is a top-level field with everything after it.
func (k *kit) section(file, from string) string {
	k.t.Helper()
	i := strings.Index(file, "\n"+from+":")
	if i < 0 {
		k.t.Fatalf("no section %s", from)
	}
	return file[i:]
}

func replace(file string, pairs ...string) string { return strings.NewReplacer(pairs...).Replace(file) }

const (
	ordersDB   = "workspaces/orders/secrets/orders-db-r.yaml"
	ordersK8s  = "workspaces/orders/secrets/orders-k8s.yaml"
	ordersJSON = "workspaces/orders/secrets/orders-json.json"
)

// vectors makes every case: good ones, and one for each way to tamper.
func (k *kit) vectors() []vector {
	var out []vector
	good := func(name, place, text string, values map[string]string) {
		out = append(out, vector{Name: name, Place: place, Expect: "ok", Values: values, text: text})
	}
	var place, base string
	bad := func(name, expect, text string) {
		k.t.Helper()
		if text == base {
			k.t.Fatalf("%s changes nothing", name)
		}
		out = append(out, vector{Name: name, Place: place, Expect: expect, text: text})
	}
	s := k.seal(ordersDB, plainSecret, k.orders)
	k8s := k.seal(ordersK8s, plainKubernetes, k.orders)
	js := k.seal(ordersJSON, plainJSON, k.orders)
	good("secret", ordersDB, s, map[string]string{"password": "aHVudGVyMg==", "pin": "MDEyMw==", "none": "", "five": "NQ==", "yes": "dHJ1ZQ=="})
	good("secret for two recipients", ordersDB, k.seal(ordersDB, plainSecret, k.payments, k.orders), nil)
	good("instance secret", "instance/secrets/smtp.yaml", k.seal("smtp.yaml", plainInstance, k.orders), map[string]string{"password": "aHVudGVyMg=="})
	good("kubernetes secret", ordersK8s, k8s, map[string]string{"password": "aHVudGVyMg==", "pin": "MDEyMw==", "user": "Z3Jvb3R1c2Vy"})
	good("json", ordersJSON, js, map[string]string{"password": "aHVudGVyMg==", "face": "8J+YgA=="})
	good("binary data", "workspaces/orders/secrets/orders-bin.yaml", k.seal("orders-bin.yaml", plainBinary, k.orders), map[string]string{"user": "Z3Jvb3R1c2Vy", "store": "//79AAE="})
	good("a part", "workspaces/orders/secrets/orders-db-r/password.yaml", s, nil)
	good("another comment above", ordersDB, replace(s, "the orders team", "somebody else"), nil)

	place, base = ordersDB, s
	other := k.seal(ordersDB, replace(plainSecret, "hunter2", "hunter3"), k.orders)
	v := func(key string) string { return k.value(s, key) }
	l := func(key string) string { return k.line(s, key) }

	// Values.
	bad("swap two values", "value", replace(s, v("password"), v("pin"), v("pin"), v("password")))
	bad("a value of another file", "value", replace(s, v("password"), k.value(other, "password")))
	bad("drop an entry", "mac", replace(s, l("pin")+"\n", ""))
	bad("empty an entry", "mac", replace(s, v("pin"), `""`))
	bad("add an entry with a value of the file", "value", replace(s, l("pin"), l("pin")+"\n        more: "+v("pin")))
	bad("add an empty entry", "binding", replace(s, l("pin"), l("pin")+"\n        more: \"\""))
	bad("rename a key", "value", replace(s, "        pin: ", "        pim: "))
	bad("rename a key whose value is empty", "binding", replace(s, "none: ", "nine: "))
	bad("move an empty entry to binaryData", "binding", replace(s, l("none")+"\n", "", "\nseal:", "\n    binaryData:\n        none: \"\"\nseal:"))
	bad("retype a value", "mac", replace(s, v("pin"), strings.Replace(v("pin"), "type:str", "type:int", 1)))
	bad("retype a number, without a trace in the MAC", "binding", replace(s, v("five"), strings.Replace(v("five"), "type:str", "type:int", 1)))
	bad("retype a boolean", "mac", replace(s, v("yes"), strings.Replace(v("yes"), "type:str", "type:bool", 1)))
	bad("retype to bytes", "manifest", replace(s, v("pin"), strings.Replace(v("pin"), "type:str", "type:bytes", 1)))
	bad("junk after a sealed value", "manifest", replace(s, v("pin"), v("pin")+"x"))
	bad("junk before a sealed value", "not-sealed", replace(s, v("pin"), "x"+v("pin")))
	bad("a value in the clear", "not-sealed", replace(s, v("pin"), "plain"))
	bad("base64 with other last bits", "manifest", replace(s, v("pin"), looseBase64(v("pin"))))
	bad("cut a ciphertext", "value", replace(s, v("password"), cutData(v("password"))))
	bad("a comment among the values", "manifest", replace(s, l("pin"), "        # hello\n"+l("pin")))
	bad("a comment behind a value", "manifest", replace(s, l("pin"), l("pin")+" # hello"))
	bad("a sealed comment", "manifest", replace(s, l("pin"), "        #"+v("pin")+"\n"+l("pin")))
	bad("nest a path", "manifest", replace(s, "    data:\n", "    data:\n        data:\n"))
	bad("flatten a path", "manifest", replace(s, "    data:\n", "", l("password"), "    password: "+v("password")))
	bad("an entry twice", "manifest", replace(s, l("pin"), l("pin")+"\n"+l("pin")))
	bad("an alias", "manifest", replace(s, v("pin"), "*x", "owner: iamgroot", "owner: &x iamgroot"))
	bad("a tag", "manifest", replace(s, v("pin"), "!!str "+v("pin")))
	bad("a second document", "manifest", s+"---\n"+s)

	// Fields in the clear.
	bad("rename a field", "binding", replace(s, "owner: iamgroot", "description: iamgroot"))
	bad("move text between neighbours", "binding", replace(s, "owner: iamgroot\n", "owner: iamgroo\ndescription: t\n"))
	bad("move text within a list", "binding", replace(s, "tags: [a, b]", "tags: [ab]"))
	bad("fields in another order", "mac", moveLineUp(s, l("owner")))
	bad("change the owner", "mac", replace(s, "owner: iamgroot", "owner: iamgreat"))
	bad("drop the owner", "mac", replace(s, "owner: iamgroot\n", ""))
	bad("change the layer", "mac", replace(s, "layer: user", "layer: system"))
	bad("drop a tag", "mac", replace(s, "tags: [a, b]", "tags: [a]"))
	bad("add an empty description", "binding", replace(s, "owner: iamgroot\n", "owner: iamgroot\ndescription: \"\"\n"))
	bad("add empty tags where none are", "binding", replace(s, "tags: [a, b]", "tags: [a, b]\ndescription: \"\""))
	bad("quote a list's item into another type", "binding", k.numberTag())
	bad("change the acl", "mac", replace(k.seal(ordersDB, replace(plainSecret, "orders-db-r", "orders-db"), k.orders), "acl: r", "acl: rw"))
	out[len(out)-1].Place = "workspaces/orders/secrets/orders-db.yaml"
	bad("change the acl against the name", "manifest", replace(s, "acl: r", "acl: rw"))
	bad("change the secret type", "mac", replace(s, "type: key-value", "type: cloud-kernel"))
	bad("change the spelling of the secret type", "mac", k.certificates())
	out[len(out)-1].Place = "workspaces/orders/secrets/tls.yaml"
	bad("change the version", "mac", replace(s, "version: v1\n", "version: v1beta\n"))
	bad("change the name", "place", replace(s, "orders-db-r", "orders-db2-r"))
	bad("change name and place", "mac", replace(s, "orders-db-r", "orders-db2-r"))
	out[len(out)-1].Place = "workspaces/orders/secrets/orders-db2-r.yaml"
	bad("drop the workspace", "place", replace(s, "workspace: orders\n", ""))
	bad("an unknown field", "manifest", replace(s, "owner: iamgroot\n", "owner: iamgroot\nextra: x\n"))
	bad("make it an instance secret", "mac", replace(s, "\ntype: secret\n", "\ntype: instance-secret\n", "\nsecret:", "\ninstance-secret:", "workspace: orders\n", ""))
	out[len(out)-1].Place = "instance/secrets/orders-db-r.yaml"
	out[len(out)-1].Expect = "value"

	// Workspaces.
	both := k.seal(ordersDB, plainSecret, k.orders, k.payments)
	base = both
	place = "workspaces/payments/secrets/orders-db-r.yaml"
	out = append(out, vector{Name: "copied to another workspace", Place: place, Expect: "place", text: both})
	bad("copied and restated, under a key that both have", "mac", replace(both, "workspace: orders", "workspace: payments"))
	place, base = ordersDB, s
	out = append(out, vector{Name: "sealed for another workspace's recipients", Place: place, Expect: "no-key", text: k.seal(ordersDB, plainSecret, k.payments)})

	// The MAC.
	bad("strip the MAC", "mac", replace(s, l("mac")+"\n", ""))
	bad("an empty MAC", "mac", replace(s, v("mac"), `""`))
	bad("the MAC of another file", "mac", replace(s, v("mac"), k.value(other, "mac")))
	bad("a value as MAC", "mac", replace(s, v("mac"), v("pin")))
	bad("change lastmodified", "mac", replace(s, "2026-01-02T03:04:05Z", "2026-01-02T03:04:06Z"))

	// The binding.
	bad("strip the binding", "unbound", replace(s, "seal:\n"+l("binding")+"\n", ""))
	bad("an empty binding", "manifest", replace(s, v("binding"), `""`))
	bad("the binding of another file", "value", replace(s, v("binding"), k.value(other, "binding")))
	bad("a value as binding", "value", replace(s, v("binding"), v("pin")))
	bad("a field named seal:binding", "manifest", replace(s, "seal:\n"+l("binding"), "seal:binding: "+v("binding")))
	bad("another field in seal", "manifest", replace(s, l("binding"), l("binding")+"\n    more: "+v("pin")))

	// The sops section.
	bad("the sops section of another file", "value", replace(s, k.section(s, "sops"), k.section(other, "sops")))
	bad("seal and sops of another file", "value", replace(s, k.section(s, "seal"), k.section(other, "seal")))
	older := k.seal(ordersDB, plainSecret, k.orders)
	newer := k.set(older, "pin", "9999")
	base = newer
	bad("an older seal and sops with newer data", "mac", replace(newer, k.section(newer, "seal"), k.section(older, "seal")))
	bad("older data with a newer seal and sops", "mac", replace(older, k.section(older, "seal"), k.section(newer, "seal")))
	bad("the older MAC alone", "mac", replace(newer, k.value(newer, "mac"), k.value(older, "mac")))
	base = s
	bad("change encrypted_regex", "pattern", replace(s, "encrypted_regex: ^(data|", "encrypted_regex: ^(date|"))
	bad("widen encrypted_regex", "pattern", replace(s, "encrypted_regex: ^(data|", "encrypted_regex: ^(owner|data|"))
	bad("drop encrypted_regex", "pattern", replace(s, l("encrypted_regex")+"\n", ""))
	bad("two patterns", "form", replace(s, "    mac: ", "    unencrypted_suffix: x\n    mac: "))
	bad("mac_only_encrypted", "pattern", replace(s, "    mac: ", "    mac_only_encrypted: true\n    mac: "))
	bad("no recipients", "form", replace(s, "    age:", "    agf:"))
	bad("an empty sops section", "form", s[:strings.Index(s, "sops:")]+"sops: {}\n")
	bad("sops is a text", "manifest", s[:strings.Index(s, "sops:")]+"sops: x\n")
	bad("no sops section", "manifest", s[:strings.Index(s, "sops:")])
	bad("a damaged stanza", "form", replace(s, "YWdlLWVuY3J5cHRpb24ub3JnL3Yx", "YWdlLWVuY3J5cHRpb24ub3JnL3Yy"))
	bad("another data key for the same recipient", "value", replace(s, k.section(s, "sops"), k.section(k.seal(ordersDB, plainSecret, k.orders), "sops")))
	keys := s[:strings.Index(s, "sops:")] + "sops:\n    %s\n    lastmodified: \"2026-01-02T03:04:05Z\"\n" + l("mac") + "\n" + l("encrypted_regex") + "\n    version: 3.13.3\n"
	for name, section := range map[string]string{
		"a foreign AWS key":     "kms:\n        - arn: arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab\n          created_at: \"2026-01-02T03:04:05Z\"\n          enc: AAAA",
		"a foreign Vault":       "hc_vault:\n        - vault_address: http://127.0.0.1:1\n          engine_path: transit\n          key_name: k\n          created_at: \"2026-01-02T03:04:05Z\"\n          enc: vault:v1:AAAA",
		"a foreign PGP key":     "pgp:\n        - created_at: \"2026-01-02T03:04:05Z\"\n          enc: AAAA\n          fp: 85D77543B3D624B63CEA9E6DBC17301B491B3F21",
		"an age plugin":         "age:\n        - recipient: age1yubikey1qqqq\n          enc: AAAA",
		"a foreign Azure vault": "azure_kv:\n        - vault_url: https://evil.vault.azure.net\n          name: k\n          version: \"fedcba98fedcba98fedcba98fedcba98\"\n          created_at: \"2026-01-02T03:04:05Z\"\n          enc: AAAA",
		"a foreign GCP key":     "gcp_kms:\n        - resource_id: projects/p/locations/global/keyRings/r/cryptoKeys/k\n          created_at: \"2026-01-02T03:04:05Z\"\n          enc: AAAA",
	} {
		bad(name, "no-key", strings.Replace(keys, "%s", section, 1))
	}

	// The Kubernetes form.
	place, base = ordersK8s, k8s
	kv := func(key string) string { return k.value(k8s, key) }
	bad("kubernetes: change a label", "mac", replace(k8s, "team: orders", "team: payments"))
	bad("kubernetes: drop an annotation", "mac", replace(k8s, "        note: hello\n", ""))
	bad("kubernetes: change the type", "mac", replace(k8s, "type: Opaque", "type: example.com/other"))
	bad("kubernetes: add immutable", "mac", replace(k8s, "type: Opaque", "type: Opaque\nimmutable: true"))
	bad("kubernetes: swap two values", "value", replace(k8s, kv("password"), kv("pin"), kv("pin"), kv("password")))
	bad("kubernetes: move a value to stringData", "value", replace(k8s, k.line(k8s, "pin")+"\n", "", "stringData:\n", "stringData:\n    pin: "+kv("pin")+"\n"))
	bad("kubernetes: strip the binding", "unbound", dropBinding(k8s, kv("sealward.dev/binding")))
	bad("kubernetes: the binding in a label", "manifest", replace(dropBinding(k8s, kv("sealward.dev/binding")), "team: orders", "team: orders\n        sealward.dev/binding: "+kv("sealward.dev/binding")))
	bad("kubernetes: change the namespace", "place", replace(k8s, "namespace: orders", "namespace: payments"))
	bad("kubernetes: drop the namespace", "mac", replace(k8s, "    namespace: orders\n", ""))
	bad("kubernetes: an object of another kind", "manifest", replace(k8s, "kind: Secret", "kind: ConfigMap"))
	bad("kubernetes: a root field named seal", "manifest", replace(k8s, "type: Opaque", "type: Opaque\nseal: {binding: x}"))
	bad("kubernetes: kubectl's copy of the values", "not-sealed", replace(k8s, "note: hello", "note: hello\n        kubectl.kubernetes.io/last-applied-configuration: x"))
	bare := k.sealIn("payments", replace(plainKubernetes, "  namespace: orders\n", ""), k.orders, k.payments)
	out = append(out, vector{Name: "kubernetes: without a namespace, copied to another workspace", Place: ordersK8s, Expect: "binding", text: bare})

	// JSON.
	place, base = ordersJSON, js
	bad("json: rename a field", "binding", k.jsonOwner())
	bad("json: a field twice", "manifest", replace(js, `"name": "orders-json",`, `"name": "orders-json", "name": "orders-json",`))
	bad("json: half a surrogate pair", "manifest", replace(js, `"name": "orders-json",`, `"name": "orders-json", "owner": "\ud83d",`))
	bad("json: more after the object", "manifest", js+"{}")
	for i := range out {
		out[i].File = fileName(out[i].Name) + out[i].Place[strings.LastIndex(out[i].Place, "."):]
	}
	return out
}

// fileName makes a name for a file of a case's.
func fileName(name string) string {
	return strings.Trim(strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		case r == ' ':
			return '-'
		}
		return -1
	}, name), "-")
}

// set changes one value as its owner would: under the same data key.
func (k *kit) set(sealed, key, value string) string {
	k.t.Helper()
	o := k.open(sealed)
	parsed, err := manifest.ParseKey(key)
	if err != nil {
		k.t.Fatal(err)
	}
	if _, err := o.Envelope.Set(parsed, []byte(value)); err != nil {
		k.t.Fatal(err)
	}
	out, err := o.Envelope.Reseal(time.Date(2026, 2, 2, 3, 4, 5, 0, time.UTC))
	if err != nil {
		k.t.Fatal(err)
	}
	return string(out)
}

// numberTag: a tag "5" and a tag 5 have one text, and one MAC.
func (k *kit) numberTag() string {
	s := k.seal(ordersDB, replace(plainSecret, "tags: [a, b]", `tags: [a, "5"]`), k.orders)
	return replace(s, `tags: [a, "5"]`, "tags: [a, 5]")
}

// certificates: the two spellings of one type are still two texts.
func (k *kit) certificates() string {
	s := k.seal("tls.yaml", "name: tls\nversion: v1\ntype: secret\nworkspace: orders\nsecret:\n  type: certificates\n  acl: r\n  data: {note: grootuser}\n", k.orders)
	return replace(s, "type: certificates", "type: certificate")
}

func (k *kit) jsonOwner() string {
	s := k.seal(ordersJSON, strings.Replace(plainJSON, `"secret": {`, `"owner": "dana", "secret": {`, 1), k.orders)
	return replace(s, `"owner"`, `"description"`)
}

// sealIn seals a Kubernetes Secret that states no namespace for a workspace.
func (k *kit) sealIn(ws, text string, to ...workspace.Recipient) string {
	k.t.Helper()
	m, err := manifest.Parse(ordersK8s, []byte(text))
	if err != nil {
		k.t.Fatal(err)
	}
	scope, err := manifest.ParseWorkspace(ws)
	if err == nil {
		err = m.SettleIn(scope)
	}
	if err != nil {
		k.t.Fatal(err)
	}
	out, err := seal.Seal(m, workspace.For(to...), seal.Options{Now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)})
	if err != nil {
		k.t.Fatal(err)
	}
	return string(out)
}

func moveLineUp(file, line string) string {
	return strings.Replace(strings.Replace(file, line+"\n", "", 1), "name: ", line+"\nname: ", 1)
}

// looseBase64 spells the last character of a tag so that lax decoders read the
// same bytes.
func looseBase64(v string) string {
	i := strings.Index(v, "==,type")
	last := v[i-1]
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	return v[:i-1] + string(alphabet[strings.IndexByte(alphabet, last)|1]) + v[i:]
}

// cutData drops four characters, three bytes, of a ciphertext.
func cutData(v string) string {
	return strings.Replace(v, "data:"+v[len("ENC[AES256_GCM,data:"):][:4], "data:", 1)
}

// dropBinding removes the annotation.
func dropBinding(file, value string) string {
	return strings.Replace(file, "        sealward.dev/binding: "+value+"\n", "", 1)
}
