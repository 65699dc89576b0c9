package kustomize_test

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealward/sealward/plugins/kustomize"
	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/keyring"
)

const (
	dbGenerator  = generator + "secrets: [{workspace: orders, name: db-r, metadata: {name: db}}]\n"
	sealedSecret = "apiVersion: v1\nkind: Secret\nmetadata: {name: web, namespace: shop}\ndata: {token: aHVudGVyMi1odW50ZXIy}\n"
)

// indented makes text an entry of a list.
func indented(text string) string {
	return "- |\n  " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n  ") + "\n"
}

func TestBuildRefuses(t *testing.T) {
	kustomization := "overlays/prod/kustomization.yaml"
	for name, c := range map[string]struct {
		files   map[string]string
		prepare func(*world)
		opts    kustomize.BuildOptions
		unbound bool
		dir     string // that is built
		is      error
		want    []string
	}{
		"no kustomization":  {want: []string{"unable to find one of 'kustomization.yaml'"}},
		"a broken one":      {files: map[string]string{kustomization: "generators: gen.yaml\n"}, want: []string{"invalid Kustomization"}},
		"an unknown field":  {files: map[string]string{kustomization: "generator: [gen.yaml]\n"}, want: []string{`unknown field "generator"`}},
		"no such generator": {files: map[string]string{kustomization: "generators: [gen.yaml]\n"}, want: []string{"kustomization.yaml: generators[0]", `"gen.yaml" is no file and no folder here`}},
		"a generator over http": {files: map[string]string{kustomization: "generators: ['https://example.com/gen.yaml']\n"},
			want: []string{"generators[0]", "is an address", "copy it here"}},
		"a generator from git": {files: map[string]string{kustomization: "generators: ['git@github.com:example/generators']\n"},
			want: []string{"generators[0]", "not fetched from elsewhere"}},
		"a folder with an address": {files: map[string]string{kustomization: "generators: [gens]\n", "overlays/prod/gens/kustomization.yaml": "resources: [gen.yaml, 'https://example.com/gen.yaml']\n", "overlays/prod/gens/gen.yaml": dbGenerator},
			want: []string{"generators[0]", "is an address"}},
		"patches in a folder of generators": {files: map[string]string{kustomization: "generators: [gens]\n", "overlays/prod/gens/kustomization.yaml": "namePrefix: x-\nresources: [gen.yaml]\npatches: [{patch: '{}'}]\n", "overlays/prod/gens/gen.yaml": dbGenerator},
			want: []string{"gens/kustomization.yaml: namePrefix, patches: would be lost"}},
		"a folder that contains itself": {files: map[string]string{kustomization: "generators: [gens]\n", "overlays/prod/gens/kustomization.yaml": "resources: [gen.yaml, ../gens]\n", "overlays/prod/gens/gen.yaml": dbGenerator},
			want: []string{"contains the folder that lists it"}},
		"a generator outside the folder": {files: map[string]string{kustomization: "generators: [../gen.yaml]\n", "overlays/gen.yaml": dbGenerator},
			want: []string{"security; file", "is not in or below"}},
		"a mistake inline": {files: map[string]string{kustomization: "namePrefix: x-\ngenerators:\n" + indented(dbGenerator+"---\n"+generator+"secret: []\n")},
			want: []string{"kustomization.yaml:12:", "secret: is unknown here"}},
		"a mistake in a file": {files: map[string]string{kustomization: "generators: [gen.yaml]\n", "overlays/prod/gen.yaml": dbGenerator + "---\n" + generator + "secret: []\n"},
			want: []string{"overlays/prod/gen.yaml:9:", "secret: is unknown here"}},
		"a field of the wrong kind": {files: map[string]string{kustomization: "generators: [gen.yaml]\n", "overlays/prod/gen.yaml": generator + "secrets: orders\n"}, want: []string{"overlays/prod/gen.yaml:4:", "secrets"}},
		"a field twice":             {files: map[string]string{kustomization: "generators: [gen.yaml]\n", "overlays/prod/gen.yaml": generator + "files: [a]\nfiles: [b]\n"}, want: []string{"overlays/prod/gen.yaml:5:", "files: stands twice"}},
		"a transformer of the wrong kind": {files: map[string]string{kustomization: "transformers: [gen.yaml]\n", "overlays/prod/gen.yaml": generator + "secrets: orders\n"},
			want: []string{"gen.yaml:1: SealedSecretGenerator all makes objects, which only a generator can"}},
		"a later version": {files: map[string]string{kustomization: "generators: [gen.yaml]\n", "overlays/prod/gen.yaml": strings.Replace(dbGenerator, "dev/v1", "dev/v2", 1)},
			want: []string{"gen.yaml:1: \"sealward.dev/v2\", \"SealedSecretGenerator\" is no generator of sealward, which is sealward.dev/v1, SealedSecretGenerator"}},
		"another group": {files: map[string]string{kustomization: "generators: [gen.yaml]\n", "overlays/prod/gen.yaml": strings.Replace(dbGenerator, "sealward.dev", "sealward.io", 1)},
			want: []string{"gen.yaml:1: apiVersion: \"sealward.io/v1\" is not that of a SealedSecretGenerator, which is sealward.dev/v1"}},
		"broken YAML": {files: map[string]string{kustomization: "generators: [gen.yaml]\n", "overlays/prod/gen.yaml": dbGenerator + " x: y\n"},
			want: []string{"overlays/prod/gen.yaml:", ": is not valid YAML: "}},
		"an empty generator": {files: map[string]string{kustomization: "generators: [gen.yaml]\n", "overlays/prod/gen.yaml": "# of sealward.dev/v1\n"},
			want: []string{"kustomization.yaml: generators[0]: \"gen.yaml\" holds nothing"}},
		"an unsealed file": {files: map[string]string{kustomization: "generators: [gen.yaml]\n", "overlays/prod/gen.yaml": generator + "files: [plain.yaml]\n", "overlays/prod/plain.yaml": sealedSecret},
			want: []string{"gen.yaml:4: overlays/prod/plain.yaml: is not sealed"}},
		"an address": {files: map[string]string{kustomization: "generators: [gen.yaml]\n"}, dir: "https://example.com/base", want: []string{"is an address; build a folder"}},
		"no key": {files: map[string]string{kustomization: "generators: [gen.yaml]\n", "overlays/prod/gen.yaml": dbGenerator}, prepare: func(w *world) { w.must(os.Remove(w.keyring + "/orders.agekey")) },
			is: keyring.ErrNoRing, want: []string{"overlays/prod/gen.yaml:4: ", "orders"}},
		"the wrong key": {files: map[string]string{kustomization: "generators: [gen.yaml]\n", "overlays/prod/gen.yaml": dbGenerator}, prepare: func(w *world) {
			w.must(os.WriteFile(w.keyring+"/orders.agekey", []byte(w.ids["payments"].String()), 0o600))
		}, is: unseal.ErrNotRecipient, want: []string{"gen.yaml:4: "}},
		"tampered": {files: map[string]string{kustomization: "generators: [gen.yaml]\n", "overlays/prod/gen.yaml": dbGenerator}, prepare: func(w *world) {
			text, err := os.ReadFile(w.path("workspaces/orders/secrets/db-r.yaml"))
			w.must(err)
			w.write("workspaces/orders/secrets/db-r.yaml", strings.Replace(string(text), "username: ENC", "user: ENC", 1))
		}, want: []string{"db-r.yaml"}},
		"a workspace that builds does not name": {files: map[string]string{kustomization: "generators: [gen.yaml]\n", "overlays/prod/gen.yaml": generator + "secrets: [{workspace: payments, name: card}]\n"},
			is: kustomize.ErrNotAllowed, want: []string{"gen.yaml:4: "}},
		"all that fail": {files: map[string]string{kustomization: "generators: [a.yaml, b.yaml]\n", "overlays/prod/a.yaml": generator + "secrets: [{workspace: orders, name: none}]\n", "overlays/prod/b.yaml": generator + "files: [none.yaml]\n"},
			want: []string{"a.yaml:4: ", "b.yaml:4: "}},
		"two that make one name": {files: map[string]string{kustomization: "generators: [a.yaml, b.yaml]\n", "overlays/prod/a.yaml": dbGenerator, "overlays/prod/b.yaml": strings.Replace(dbGenerator, "name: all", "name: more", 1)},
			want: []string{"SealedSecretGenerator all (", "a.yaml:1) and SealedSecretGenerator more (", "b.yaml:1) both make the Secret db", "behavior: merge"}},
		"two levels that make one name": {files: map[string]string{kustomization: "resources: [../../base]\nnamePrefix: p-\ngenerators: [b.yaml]\n", "base/kustomization.yaml": "namespace: x\ngenerators: [a.yaml]\n", "base/a.yaml": dbGenerator, "overlays/prod/b.yaml": generator + "secrets: [{workspace: orders, name: db-r, metadata: {name: db, namespace: x}}]\n",
			"sealward.yaml": "builds: {.: [orders]}\n"},
			want: []string{"base/a.yaml:1) and SealedSecretGenerator all (", "overlays/prod/b.yaml:1) all make the Secret db"}},
		"a name that is taken": {files: map[string]string{kustomization: "secretGenerator: [{name: db, literals: [a=b], options: {disableNameSuffixHash: true}}]\ngenerators: [a.yaml]\n", "overlays/prod/a.yaml": dbGenerator},
			want: []string{"SealedSecretGenerator all (", "a.yaml:1) makes one Secret db; another is there"}},
		"nothing to merge into": {files: map[string]string{kustomization: "generators: [a.yaml]\n", "overlays/prod/a.yaml": generator + "secrets: [{workspace: orders, name: db-r, options: {behavior: merge}}]\n"},
			want: []string{"does not exist; cannot merge or replace", "a.yaml:1) merges or replaces it"}},
		"a generator among resources": {files: map[string]string{kustomization: "resources: [gen.yaml]\n", "overlays/prod/gen.yaml": dbGenerator},
			want: []string{"gen.yaml:1: SealedSecretGenerator all is a generator, which makes nothing among resources: list it under generators: of"}},
		"a generator among transformers": {files: map[string]string{kustomization: "transformers: [gen.yaml]\n", "overlays/prod/gen.yaml": dbGenerator},
			want: []string{"gen.yaml:1: SealedSecretGenerator all makes objects, which only a generator can"}},
		"KSOPS's among validators": {files: map[string]string{kustomization: "validators:\n" + indented("apiVersion: viaduct.ai/v1\nkind: ksops\nmetadata: {name: k}\nfiles: [x.yaml]\n")},
			want: []string{"kustomization.yaml:3: ksops k makes objects, which only a generator can"}},
		"a sealed Secret beside others": {files: map[string]string{kustomization: "resources: [all.yaml]\n"}, prepare: func(w *world) {
			w.seal("overlays/prod/all.yaml", sealedSecret)
			text, err := os.ReadFile(w.path("overlays/prod/all.yaml"))
			w.must(err)
			w.write("overlays/prod/all.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n---\n"+string(text))
		}, want: []string{"all.yaml: sealed objects stand in a file with others"}},
		"a workspace's secret among resources": {files: map[string]string{kustomization: "resources: [../../workspaces/orders/secrets/db-r.yaml]\n"}, opts: kustomize.BuildOptions{AnyFolder: true},
			want: []string{"db-r.yaml: is a sealed secret of a workspace, and no object of Kubernetes"}},
		"a sealed Secret outside the tree": {files: map[string]string{kustomization: "resources: [../../../web.yaml]\n"}, opts: kustomize.BuildOptions{AnyFolder: true}, prepare: func(w *world) {
			w.seal("web.yaml", sealedSecret)
			w.must(os.Rename(w.path("web.yaml"), filepath.Join(w.dir, "..", "web.yaml")))
		}, want: []string{"leaves the tree"}},
		"a sealed Secret in a list": {files: map[string]string{kustomization: "resources: [list.yaml]\n"}, prepare: func(w *world) {
			w.seal("overlays/prod/list.yaml", sealedSecret)
			text, err := os.ReadFile(w.path("overlays/prod/list.yaml"))
			w.must(err)
			w.write("overlays/prod/list.yaml", "apiVersion: v1\nkind: List\nitems:\n"+strings.ReplaceAll("- "+strings.TrimSpace(string(text)), "\n", "\n  ")+"\n")
		}, want: []string{"Secret web is still sealed in the output", "one object a file"}},
		"a sealed Secret from an address": {prepare: func(w *world) {
			w.seal("web.yaml", sealedSecret)
			server := httptest.NewServer(http.FileServer(http.Dir(w.dir)))
			w.t.Cleanup(server.Close)
			w.write(kustomization, "resources: ['"+server.URL+"/web.yaml']\n")
		}, want: []string{"Secret web is still sealed in the output", "it may come from \"http://127.0.0.1:"}},
		"a sealed Secret as a patch": {files: map[string]string{kustomization: "resources: [plain.yaml]\npatches: [{path: web.yaml}]\n", "overlays/prod/plain.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: web, namespace: shop}\n"}, prepare: func(w *world) {
			w.seal("overlays/prod/web.yaml", sealedSecret)
		}, want: []string{"Secret web is still sealed in the output", "or a patch"}},
		"a generator from an address": {prepare: func(w *world) {
			w.write("gen.yaml", dbGenerator)
			server := httptest.NewServer(http.FileServer(http.Dir(w.dir)))
			w.t.Cleanup(server.Close)
			w.write(kustomization, "resources: ['"+server.URL+"/gen.yaml']\n")
		}, want: []string{"SealedSecretGenerator all is still in the output and made nothing"}},
		"without a binding": {files: map[string]string{kustomization: "resources: [web.yaml]\n"}, prepare: func(w *world) {
			w.sops("overlays/prod/web.yaml", "shop", "^data$", sealedSecret)
		}, is: seal.ErrUnbound, want: []string{"--allow-unbound"}},
		"a suffix for another kind": {files: map[string]string{kustomization: "generators: [gen.yaml]\n", "overlays/prod/gen.yaml": generator + "files: [db.yaml]\n"}, prepare: func(w *world) {
			w.sops("overlays/prod/db.yaml", "shop", "^data$", "apiVersion: example.com/v1\nkind: Database\nmetadata:\n    name: db\n    namespace: shop\n    annotations:\n        kustomize.config.k8s.io/needs-hash: \"true\"\ndata:\n    password: "+value+"\n")
		}, unbound: true, want: []string{"gen.yaml:1): overlays/prod/db.yaml: a suffix for the name", "not for the Database db"}},
		"another plugin": {files: map[string]string{kustomization: "generators: [gen.yaml, other.yaml]\n", "overlays/prod/gen.yaml": dbGenerator, "overlays/prod/other.yaml": "apiVersion: example.com/v1\nkind: Other\nmetadata: {name: o}\n"},
			want: []string{"other.yaml:1: Other o is a plugin that kustomize would run", "--enable-alpha-plugins"}},
		"another program": {files: map[string]string{kustomization: "transformers:\n" + indented("apiVersion: example.com/v1\nkind: Other\nmetadata:\n  name: o\n  annotations: {config.kubernetes.io/function: \"exec: {path: ./run}\"}\n")}, opts: kustomize.BuildOptions{Plugins: true},
			want: []string{"kustomization.yaml:3: Other o is a program of this machine", "--enable-exec"}},
		"another plugin in a list": {files: map[string]string{kustomization: "generators: [other.yaml]\n", "overlays/prod/other.yaml": "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: example.com/v1, kind: Other, metadata: {name: o}}\n"},
			want: []string{"unable to load external plugin 'Other'", "a generator in a list of objects"}},
		"a failure that shows a value": {files: map[string]string{kustomization: "generators: [gen.yaml]\npatches:\n- target: {kind: Secret}\n  patch: '[{\"op\": \"test\", \"path\": \"/data/password\", \"value\": \"other\"}]'\n", "overlays/prod/gen.yaml": dbGenerator},
			want: []string{"testing value /data/password failed"}},
		"a failure that only the value makes": {files: map[string]string{kustomization: "generators: [gen.yaml]\nresources: [config.yaml]\nreplacements:\n- source: {kind: Secret, fieldPath: data.password, options: {delimiter: 'Y', index: 1}}\n  targets: [{select: {kind: ConfigMap}, fieldPaths: [data.x]}]\n", "overlays/prod/gen.yaml": dbGenerator, "overlays/prod/config.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {x: y}\n"},
			want: []string{"its message is withheld"}},
		"a tree on which kustomize panics": {files: map[string]string{kustomization: "generators: [gen.yaml]\nresources: [config.yaml]\nnamePrefix: x-\n", "overlays/prod/gen.yaml": dbGenerator, "overlays/prod/config.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, annotations: [a]}\n"},
			want: []string{"kustomize cannot build this tree, it panics: "}},
		"a panic that shows a value": {files: map[string]string{kustomization: "generators: [gen.yaml]\nnamePrefix: x-\npatches:\n- target: {kind: Secret}\n  patch: '[{\"op\": \"copy\", \"from\": \"/data/password\", \"path\": \"/metadata\"}]'\n", "overlays/prod/gen.yaml": dbGenerator},
			want: []string{"it panics: ", "cGxhY2Vob2xkZXIt"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := shop(t)
			w.must(os.Remove(w.path(kustomization)))
			for file, text := range c.files {
				w.write(file, text)
			}
			if c.prepare != nil {
				c.prepare(w)
			}
			u := w.unsealer()
			u.AllowUnbound = c.unbound
			built, err := kustomize.Build(context.Background(), cmp.Or(c.dir, w.path("overlays/prod")), u, c.opts)
			if err == nil || built != nil {
				text, _ := built.YAML()
				t.Fatalf("built\n%s", text)
			}
			if c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("is no %v: %v", c.is, err)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("lacks %q: %v", want, err)
				}
			}
			for _, secret := range []string{value, "aHVudGVyMi1odW50ZXIy", ".sealward-"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("shows %q: %v", secret, err)
				}
			}
		})
	}
}
