package manifest

import (
	"encoding/json"
	"strings"
	"testing"
)

const kubernetesSecret = `apiVersion: v1
kind: Secret
metadata:
  name: orders-tls-rw
  namespace: orders
  labels: {app: orders}
  annotations:
    sealward.dev/owner: dana
    example.com/note: |
      two
      lines
type: kubernetes.io/tls
immutable: true
data:
  tls.crt: AAEC
stringData:
  tls.key: 0123
`

func TestKubernetesForm(t *testing.T) {
	m, err := Parse("x.yaml", []byte(kubernetesSecret))
	if err != nil {
		t.Fatal(err)
	}
	k := m.Secret.Kubernetes
	if m.Form != Kubernetes || m.Kind != KindSecret || m.Version != "v1" || m.Workspace.String() != "orders" || m.Owner != "dana" || m.ID() != "orders-tls-rw:v1:secret:orders" {
		t.Errorf("manifest = %+v", m)
	}
	if m.Secret.Type != Certificate || m.Secret.ACL != ReadWrite || k.Type != TypeTLS || !*k.Immutable || k.Labels[0] != (Pair{"app", "orders"}) || k.Annotations[1].Value != "two\nlines\n" {
		t.Errorf("secret = %+v, %+v", m.Secret, k)
	}
	if e := m.Secret.Entries; len(e) != 2 || e[0].Text != "AAEC" || !e[0].Binary || e[1].Text != "0123" || e[1].Binary {
		t.Errorf("entries = %+v", m.Secret.Entries)
	}
	for of, want := range map[string]SecretType{"Opaque": KeyValue, "kubernetes.io/dockerconfigjson": CloudKernelImagePull, "kubernetes.io/ssh-auth": CloudKernel, "example.com/own": CloudKernel} {
		m, err := Parse("x.yaml", []byte(strings.Replace(kubernetesSecret, "kubernetes.io/tls", of, 1)))
		if err != nil || m.Secret.Type != want || m.Secret.Kubernetes.Type != of {
			t.Errorf("type %s: %v, %v", of, m.Secret.Type, err)
		}
	}
	for annotations, want := range map[string]ACL{"": ReadWrite, "    sealward.dev/acl: rw\n": ReadWrite} {
		m, err := Parse("x.yaml", []byte(strings.Replace(kubernetesSecret, "    sealward.dev/owner: dana\n", annotations, 1)))
		if err != nil || m.Secret.ACL != want {
			t.Errorf("acl of %q: %v, %v", annotations, m, err)
		}
	}
}

// Where it stands decides what a Secret without a namespace is of.
func TestSettleIn(t *testing.T) {
	bare := strings.Replace(kubernetesSecret, "  namespace: orders\n", "", 1)
	orders, _ := ParseWorkspace("orders")
	payments, _ := ParseWorkspace("payments")
	cases := []struct {
		text string
		in   Workspace
		want string
	}{
		{bare, orders, ""}, {bare, payments, ""}, {kubernetesSecret, orders, ""},
		{bare, Workspace{}, "metadata.namespace: is missing"}, {bare, Instance(), "has no place in instance"},
		{kubernetesSecret, payments, "states workspace orders, not payments"},
		{good, orders, ""}, {good, payments, "states workspace orders, not payments"},
	}
	for _, c := range cases {
		m, err := Parse("x.yaml", []byte(c.text))
		if err != nil {
			t.Fatal(err)
		}
		err = m.SettleIn(c.in)
		if c.want == "" && (err != nil || m.Workspace != c.in) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("in %s: %v, want %q", c.in, err, c.want)
		}
	}
	m, _ := Parse("x.yaml", []byte(bare))
	for path, want := range map[string]string{
		"workspaces/payments/secrets/orders-tls-rw.yaml": "",
		"workspaces/payments/secrets/other.yaml":         "x.yaml:4:9: metadata.name: is orders-tls-rw, but the path says other",
		"instance/secrets/orders-tls-rw.yaml":            "x.yaml:2:7: kind: is secret",
		"workspaces/payments/grants/orders-tls-rw.yaml":  "stands below grants/",
	} {
		place, _, err := Locate(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.CheckPlace(place); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}

func TestKubernetesRefuses(t *testing.T) {
	cases := []struct{ name, from, to, want string }{
		{"unknown field", "immutable: true", "imutable: hunter2", "x.yaml:13:1: imutable: is not a field here; known are apiVersion"},
		{"a field of DataOS's form", "immutable: true", "secret: {type: hunter2}", "x.yaml:13:1: secret: is not a field here"},
		{"a root binding", "immutable: true", "seal: {binding: hunter2}", "seal: is not a field here"},
		{"unknown metadata", "  namespace: orders", "  namspace: hunter2", "x.yaml:5:3: metadata.namspace: is not a field here"},
		{"what kubectl writes", "  namespace: orders", "  resourceVersion: hunter2", "x.yaml:5:3: metadata.resourceVersion: is written by the cluster"},
		{"duplicate key", "  tls.crt: AAEC", "  tls.crt: AAEC\n  tls.crt: hunter2", "data.tls.crt: stands twice"},
		{"a key in both sections", "tls.key: 0123", "tls.crt: hunter2", "x.yaml:17:3: stringData.tls.crt: stands twice (first on line 15)"},
		{"not base64", "AAEC", "hunter2", "x.yaml:15:12: data.tls.crt: is not base64"},
		{"nested", "tls.key: 0123", "tls.key: {a: hunter2}", "must be a text"},
		{"null", "tls.key: 0123", "tls.key:", "is null"},
		{"comment among values", "tls.key: 0123", "tls.key: 0123 # hunter2", "a comment stands among the values"},
		{"comment among annotations", "    example.com", "    # hunter2\n    example.com", "a comment stands among the values"},
		{"values repeated by kubectl", "sealward.dev/owner: dana", "kubectl.kubernetes.io/last-applied-configuration: hunter2", "repeats the values in the clear"},
		{"unknown annotation of ours", "sealward.dev/owner: dana", "sealward.dev/own: hunter2", "is no annotation of sealward"},
		{"an annotation that SOPS seals", "example.com/note", "stringData", "a name is one that SOPS seals by"},
		{"a label that SOPS seals", "app: orders", "data: hunter2", "a name is one that SOPS seals by"},
		{"odd label", "app: orders", "app: hunter2 x", "a value breaks Kubernetes' rule"},
		{"acl against the name", "sealward.dev/owner: dana", "sealward.dev/acl: r", "is r, but the name orders-tls-rw says otherwise"},
		{"a binding in a plain one", "sealward.dev/owner: dana", "sealward.dev/binding: hunter2", "stands in a manifest that is not sealed"},
		{"immutable as text", "immutable: true", "immutable: 'true'", "must be true or false"},
		{"no values", kubernetesSecret[strings.Index(kubernetesSecret, "\ndata:"):], "", "has no values"},
		{"another object", "kind: Secret", "kind: ConfigMap", "only object of Kubernetes that is a manifest here is a v1 Secret"},
		{"a dotted name", "orders-tls-rw", "orders.tls", "metadata.name: name \"orders.tls\" breaks the rule"},
		{"sops in a plain one", "immutable: true", "sops: {version: x}", "is not sealed. Treat the value as leaked"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			in := strings.Replace(kubernetesSecret, c.from, c.to, 1)
			if in == kubernetesSecret {
				t.Fatal("the case changes nothing")
			}
			refused(t, in, c.want)
		})
	}
}

const goodJSON = `{"name": "a", "version": "v1", "type": "secret",
  "secret": {"type": "key-value", "acl": "r",
    "data": {"smile": "\ud83d\ude00", "n": 1.10, "t": true, "esc": "\\ud83d \"\u00e9\/"}}}`

func TestJSON(t *testing.T) {
	m, err := Parse("x.json", []byte(goodJSON))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"smile": "😀", "n": "1.10", "t": "true", "esc": `\ud83d "é/`}
	if !m.JSON || len(m.Secret.Entries) != len(want) {
		t.Fatalf("manifest = %+v", m)
	}
	for _, e := range m.Secret.Entries {
		if want[e.Key.String()] != e.Text || e.Line != 3 {
			t.Errorf("%s = %q on line %d", e.Key, e.Text, e.Line)
		}
	}
	out, err := EncodeJSON(m.Node())
	if err != nil {
		t.Fatal(err)
	}
	var a, b any
	if json.Unmarshal(out, &a) != nil || json.Unmarshal([]byte(goodJSON), &b) != nil {
		t.Fatalf("printed %s", out)
	}
	if x, y := mustJSON(t, a), mustJSON(t, b); x != y {
		t.Errorf("printed %s, want %s", x, y)
	}
	// What starts with { and is no JSON is YAML, unless it is named .json.
	flow := "{name: a, version: v1, type: secret, secret: {type: key-value, acl: r, data: {a: b}}}"
	if m, err := Parse("x.yaml", []byte(flow)); err != nil || m.JSON {
		t.Errorf("a flow mapping: %+v, %v", m, err)
	}
	if m, err := Parse("x.yaml", []byte("\n "+goodJSON)); err != nil || !m.JSON {
		t.Errorf("JSON without the name: %+v, %v", m, err)
	}
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestJSONRefuses(t *testing.T) {
	cases := []struct{ name, from, to, want string }{
		{"a key twice", `"n": 1.10`, `"smile": "hunter2"`, "x.json:3:39: secret.data.smile: stands twice (first on line 3)"},
		{"a key twice, spelt differently", `"n": 1.10`, `"\u0073mile": "hunter2"`, "stands twice"},
		{"half a pair", `\ude00`, `hunter2`, "x.json:3:23: a text has half a surrogate pair"},
		{"the other half", `\ud83d\ude00`, `hunter2\ude00`, "half a surrogate pair"},
		{"halves apart", `\ud83d\ude00`, `\ud83dhunter2\ude00`, "half a surrogate pair"},
		{"halves exchanged", `\ud83d\ude00`, `\ude00\ud83d`, "half a surrogate pair"},
		{"half a pair in a key", `"n": 1.10`, `"\ud83d": "hunter2"`, "half a surrogate pair"},
		{"half a pair before another escape", `\ud83d\ude00`, `\ud83d\nhunter2`, "half a surrogate pair"},
		{"trailing data", goodJSON, goodJSON + "{}", "x.json:3:91: is not valid JSON, or more follows"},
		{"a trailing comma", `"t": true,`, `"t": true,,`, "is not valid JSON"},
		{"YAML", `"t": true`, `t: hunter2`, "x.json:3:50: is not valid JSON"},
		{"null", "1.10", "null", "is null"},
		{"nested", "1.10", `["hunter2"]`, "must be a text"},
		{"too deep", "1.10", strings.Repeat("[", 20) + strings.Repeat("]", 20), "is nested too deep"},
		{"much too deep", "1.10", strings.Repeat("[", 200_000) + strings.Repeat("]", 200_000), "is not valid JSON"},
		{"a list", goodJSON, "[]", "is not a manifest"},
		{"a text", goodJSON, `"hunter2"`, "is not a manifest"},
		{"nothing", goodJSON, "", "is not valid JSON"},
		{"not UTF-8", "1.10", "\"\xff\"", "is not UTF-8"},
		{"unknown field", `"acl"`, `"hunter2": 1, "acl"`, "is not a field here"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			in := strings.Replace(goodJSON, c.from, c.to, 1)
			if in == goodJSON {
				t.Fatal("the case changes nothing")
			}
			m, err := Parse("x.json", []byte(in))
			if err == nil || m != nil {
				t.Fatalf("was accepted: %s", in)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v lacks %q", err, c.want)
			}
			if strings.Contains(err.Error(), "hunter2") && c.name != "unknown field" {
				t.Errorf("the error repeats a value: %v", err)
			}
		})
	}
}
