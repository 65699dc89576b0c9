package kustomize_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sealward/sealward/plugins/kustomize"
)

const ksops = "apiVersion: viaduct.ai/v1\nkind: ksops\nmetadata:\n  name: any\n  annotations:\n    config.kubernetes.io/function: |\n      exec: {path: ksops}\n"

// adopted is a tree that plain sops and KSOPS were used in: no builds, no workspaces.
func adopted(t testing.TB) *world {
	w := newWorld(t, "public", "shop")
	only := "^(data|stringData)$"
	w.sops("app/secret.yaml", "public", only, "# the web shop's\napiVersion: v1\nkind: Secret\nmetadata:\n  name: Web.secret-1\n  annotations: {kustomize.config.k8s.io/needs-hash: \"true\", kustomize.config.k8s.io/behavior: merge}\nstringData:\n  password: "+value+"\n  pin: \"0123\"\ndata:\n  raw: /wA=\n")
	w.sops("app/several.yaml", "public", only, "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: app\ndata:\n  token: "+value+"\n---\napiVersion: example.com/v1\nkind: Thing\nmetadata:\n  name: thing\ndata:\n  list: [1, "+value+"]\n")
	w.sops("app/all.yaml", "public", "", "apiVersion: v1\nkind: Secret\nmetadata:\n  name: all\nstringData:\n  password: "+value+"\n")
	w.sops("app/shop.yaml", "shop", only, "apiVersion: v1\nkind: Secret\nmetadata:\n  name: shop\n  namespace: shop\nstringData:\n  password: "+value+"\n")
	w.sops("app/app.yaml", "public", "", "# how to reach it\nserver:\n  password: "+value+"\n  ports: [80, 443]\n")
	w.sops("app/app.json", "public", "", `{"password": "`+value+`", "n": 1.50}`)
	w.sops("app/app.ini", "public", "", "[db]\npassword = "+value+"\n")
	w.sops("app/trust.bin", "public", "", "\xff\x00"+value)
	w.sops("app/app.env", "public", "", "PLAIN="+value+"\n# c\nexport QUOTED=\"a b\" # why\nLINES=\"a\\nb\"\nSINGLE='x y'\nEMPTY=\n")
	w.sops("app/other.txt", "public", "", "FROM_BYTES=\"1\"\n")
	return w
}

func (w *world) ksops(u *kustomize.Unsealer, fields string) ([]*kustomize.Object, error) {
	g, err := kustomize.ParseGenerator("app/gen.yaml", 1, []byte(ksops+fields))
	if err != nil {
		return nil, err
	}
	return u.Generate(context.Background(), w.path("app"), g)
}

func show(o *kustomize.Object) string {
	out := fmt.Sprintf("%s %s %v %s", o.Kind, o.Name, o.NeedsHash, o.Behavior)
	for _, k := range slices.Sorted(maps.Keys(o.Data)) {
		out += fmt.Sprintf(" %s=%q", k, o.Data[k])
	}
	return out
}

func TestKSOPS(t *testing.T) {
	w := adopted(t)
	u := w.unsealer()
	u.AllowUnbound = true
	var warned atomic.Int32 // several goroutines warn
	u.Warn = func(string) { warned.Add(1) }
	objects, err := w.ksops(u, `files: [./several.yaml, all.yaml, shop.yaml]
secretFrom:
- metadata: {name: text, namespace: web, labels: {a: b}, annotations: {kustomize.config.k8s.io/needs-hash: "true", team: web}}
  type: example.com/own
  files: [app.yaml, conf=./app.json, ./app.ini]
  binaryFiles: [trust.jks=./trust.bin]
- metadata: {name: env}
  envs: [app.env, other.txt]
`)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`ConfigMap app false  token="` + value + `"`,
		`Thing thing false `,
		`Secret all false  password="` + value + `"`,
		`Secret shop false  password="` + value + `"`,
		`Secret text true  app.ini="[db]\npassword = ` + value + `\n" app.yaml="# how to reach it\nserver:\n    password: ` + value + `\n    ports:\n        - 80\n        - 443\n" conf="{\n\t\"password\": \"` + value + `\",\n\t\"n\": 1.5\n}\n" trust.jks="\xff\x00` + value + `"`,
		`Secret env false  EMPTY="" FROM_BYTES="1" LINES="a\nb" PLAIN="` + value + `" QUOTED="a b" SINGLE="x y"`,
	}
	for i, o := range objects {
		if got := show(o); i >= len(want) || got != want[i] {
			t.Errorf("%d: %s", i, got)
		}
	}
	if o := objects[4]; len(objects) != len(want) || o.Type != "example.com/own" || o.Namespace != "web" || o.Labels["a"] != "b" || len(o.Annotations) != 1 {
		t.Errorf("%d objects, %+v", len(objects), o)
	}
	if text, err := objects[1].Other.String(); err != nil || text != "apiVersion: example.com/v1\nkind: Thing\nmetadata:\n  name: thing\ndata:\n  list:\n  - 1\n  - "+value+"\n" {
		t.Errorf("%v\n%s", err, text)
	}
	if warned.Load() != 9 { // files: 3; of secretFrom: 4 and 2
		t.Errorf("of 9 files without a binding, %d were told", warned.Load())
	}
}

func TestKSOPSRefuses(t *testing.T) {
	w := adopted(t)
	w.write("app/plain.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: plain}\nstringData: {password: "+value+"}\n")
	w.sops("app/open.env", "public", "", "A=\""+value+"\n")
	w.sops("app/odd.env", "public", "", "odd$key="+value+"\n")
	w.sops("app/bytes.yaml", "public", "^data$", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n    name: bytes\ndata:\n    a: !!binary aHVu/3Rlcg==\n")
	cases := map[string]string{
		"":                                      "makes nothing",
		"files: [a.yaml]\n":                     "app/a.yaml: does not exist",
		"files: [secret.yaml]\n":                "Kubernetes object", // no name that kustomize would take
		"files: [bytes.yaml]\n":                 "app/bytes.yaml: data.a: holds bytes that are no text",
		"files: [../../x.yaml]\n":               "leaves the tree",
		"files: [/etc/passwd]\n":                "absolute",
		"files: [plain.yaml]\n":                 "is not sealed",
		"files: a.yaml\n":                       "app/gen.yaml:8:8: files: must be a list",
		"files: [{a: b}]\n":                     "files[0]",
		"fileS: []\n":                           "fileS: is unknown here",
		"secretFrom: [{files: [app.ini]}]\n":    "metadata.name: is missing",
		"secretFrom: [{metadata: {name: a}}]\n": "files: are missing",
		"secretFrom: [{metadata: {name: a}, files: [app.ini, app.ini]}]\n":         "app.ini would stand twice",
		"secretFrom: [{metadata: {name: a}, envs: [open.env]}]\n":                  "app/open.env: is not an env file",
		"secretFrom: [{metadata: {name: a}, envs: [odd.env]}]\n":                   "app/odd.env",
		"secretFrom: [{metadata: {name: a}, binaryFiles: [app.ini]}]\n":            "app/app.ini",
		"secretFrom: [{metadata: {name: A}, files: [app.ini]}]\n":                  "no name",
		"secretFrom: [{metadata: {name: a}, type: [], files: [app.ini]}]\n":        "type",
		"secretFrom: [{metadata: {name: a}, immutable: true, files: [app.ini]}]\n": "immutable: is unknown here",
	}
	u := w.unsealer()
	u.AllowUnbound = true
	for fields, want := range cases {
		objects, err := w.ksops(u, fields)
		if err == nil || objects != nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), value) {
			t.Errorf("%s: %v, want %q", fields, err, want)
		}
	}
	if _, err := w.ksops(w.keyless(), "files: [plain.yaml]\n"); err == nil || !strings.Contains(err.Error(), "is not sealed") || strings.Contains(err.Error(), value) {
		t.Errorf("placeholders of what is not sealed: %v", err)
	}
	u = w.unsealer()
	if _, err := w.ksops(u, "files: [all.yaml]\n"); err == nil || !strings.Contains(err.Error(), "--allow-unbound") {
		t.Errorf("without a binding: %v", err)
	}
}
