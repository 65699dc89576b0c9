package review

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
)

// generator is one of ours, with more lines below.
func generatorFile(name, more string) string {
	return "apiVersion: sealward.dev/v1\nkind: SealedSecretGenerator\nmetadata:\n  name: " + name + "\n  annotations:\n    config.kubernetes.io/function: |\n      exec: {path: sealward, args: [kustomize]}\n" + more
}

const generatesDB = "secrets:\n- workspace: orders\n  name: orders-db-r\n"

// kustomized writes a tree that uses generators as they should be, in every way that they
// can be listed, and what builds it.
func (r *testRepo) kustomized() {
	r.write("sealward.yaml", "builds:\n  deploy: [orders]\n  deploy/prod: [orders, payments, instance]\n")
	r.write("deploy/base/kustomization.yaml", "resources: [web.yaml]\ngenerators:\n- generator.yaml\n")
	r.write("deploy/base/web.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\n")
	r.write("deploy/base/generator.yaml", generatorFile("db", generatesDB+"files:\n- ../../workspaces/orders/secrets/orders-api/token.yaml\n"))
	r.write("deploy/prod/kustomization.yaml", "resources: [../base, 'https://example.com/base?ref=v1']\ncomponents: [../part]\ngenerators:\n- more\n- |-\n"+
		"  "+strings.ReplaceAll(strings.TrimSuffix(generatorFile("inline", "secrets:\n- {workspace: payments, name: gateway}\n- {workspace: instance, name: smtp}\n"), "\n"), "\n", "\n  ")+"\n")
	r.write("deploy/prod/more/kustomization.yaml", "resources: [all.yaml]\n")
	r.write("deploy/prod/more/all.yaml", generatorFile("one", generatesDB)+"---\n"+generatorFile("two", generatesDB+"workspace: orders\nsources:\n- metadata: {name: app}\n  envs: [app.env]\n"))
	r.write("deploy/prod/app.env", "A=ENC[AES256_GCM,data:x,iv:y,tag:z,type:str]\nsops_version=3.13.3\n") // relative to the kustomization that lists
	r.write("deploy/part/Kustomization", "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\nresources: [web.yaml]\n")
	r.write("deploy/part/web.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: part}\n")
	r.write("deploy/plain/kustomization.yaml", "resources: [../part]\n")
	r.write(".github/workflows/build.yml", "jobs:\n  build:\n    steps:\n    - run: |\n        # kustomize build deploy/prod says less\n        kustomize build --enable-alpha-plugins \\\n          --enable-exec deploy/prod | kubectl apply -f -\n        kubectl apply -k deploy/plain\n        sealward build deploy/prod\n    - description: kustomize build is not called here\n    - run: kustomize build --enable_alpha_plugins --enable-exec $DIR\n")
	r.write("README.md", "A SealedSecretGenerator is dropped by\nkustomize build deploy/prod\n")
	r.write("Makefile", "FLAGS = --enable-alpha-plugins --enable-exec\nall:\n\t@$(KUSTOMIZE) build $(FLAGS) deploy/prod > all.yaml # kustomize build\n\tkustomize build https://example.com/else?ref=v1\n")
	r.write("argocd-cm.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: argocd-cm}\ndata:\n  kustomize.buildOptions: --enable-alpha-plugins --enable-exec\n")
	r.write("app.yaml", "apiVersion: argoproj.io/v1alpha1\nkind: Application\nmetadata: {name: shop}\nspec:\n  source:\n    repoURL: https://git.example.com/shop.git\n    path: deploy/prod\n")
}

// TestCheckKustomizedRepository: generators that are used as they should be are no finding,
// in a commit, the index, the work tree and since a base.
func TestCheckKustomizedRepository(t *testing.T) {
	r := newTestRepo(t)
	r.kustomized()
	r.run("add", "-A")
	staged, err := r.git.Staged(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	work, err := r.git.WorkTree()
	if err != nil {
		t.Fatal(err)
	}
	r.commit("kustomizations")
	for _, tree := range []*Tree{r.at("HEAD"), staged, work} {
		for _, base := range []*Tree{nil, r.at("clean")} {
			report, err := r.git.Check(t.Context(), tree, CheckOptions{Now: testNow, Base: base})
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range report.Findings {
				t.Errorf("%s: %+v", tree.Name, f)
			}
		}
		tree.Close()
	}
}

// TestCheckKustomizeSinceBase: a finding that was there before is told again only in a file
// that changes; one that a change elsewhere brings is told.
func TestCheckKustomizeSinceBase(t *testing.T) {
	r := newTestRepo(t)
	r.write("ci.sh", "kustomize build deploy/prod\n")
	r.commit("a script")
	r.run("tag", "-f", "base")
	since := func(want ...string) {
		t.Helper()
		report, err := r.git.Check(t.Context(), r.at("HEAD"), CheckOptions{Now: testNow, Base: r.at("base")})
		if err != nil {
			t.Fatal(err)
		}
		if got := found(report); !slices.Equal(got, want) {
			t.Errorf("found %q, want %q", got, want)
		}
		r.run("tag", "-f", "base")
	}
	r.kustomized()
	r.commit("the first generator")
	since("kustomize-flags ci.sh:1")
	r.write("deploy/base/other.yaml", "a: b\n")
	r.commit("another file")
	since()
	r.write("ci.sh", "set -e\nkustomize build deploy/prod\n")
	r.commit("the script")
	since("kustomize-flags ci.sh:2")
	r.write("sealward.yaml", "layout: parts\n")
	r.commit("no builds any more")
	since("kustomize-workspace deploy/base/generator.yaml:12", "kustomize-workspace deploy/base/generator.yaml:9", "kustomize-workspace deploy/prod/kustomization.yaml:14", "kustomize-workspace deploy/prod/kustomization.yaml:15",
		"kustomize-workspace deploy/prod/more/all.yaml:20", "kustomize-workspace deploy/prod/more/all.yaml:9")
}

// TestCheckKustomizeHostile: kustomizations that list each other end.
func TestCheckKustomizeHostile(t *testing.T) {
	r := newTestRepo(t)
	var all strings.Builder
	for i := range 40 {
		r.write(fmt.Sprintf("deploy/%d/kustomization.yaml", i), fmt.Sprintf("resources: [../%d, ../%d, ../../deploy/%[1]d]\ngenerators: [../%[1]d, ../%[2]d, ../g]\n", (i+1)%40, (i+2)%40))
		fmt.Fprintf(&all, "kustomize build deploy/%d\n", i)
	}
	all.WriteString(strings.Repeat("kustomize build .\nkustomize build nowhere\n", 20_000))
	r.write("deploy/kustomization.yaml", "resources: ['0']\ngenerators: ['0', 'g']\ntransformers: ['1']\n")
	r.write("deploy/g/kustomization.yaml", "resources: [g.yaml]\n")
	r.write("deploy/g/g.yaml", generatorFile("g", "files: ['../../../../../etc/passwd', /etc/passwd, {path: {}}, [x], '']\nsources: [{envs: {}}, 3]\nsecrets: {}\n"))
	r.write("run.sh", all.String())
	r.commit("hostile")
	if err := os.Symlink("/etc", filepath.Join(r.dir, "deploy/etc")); err != nil {
		t.Fatal(err)
	}
	report, err := r.git.Check(t.Context(), r.at("HEAD"), CheckOptions{Now: testNow})
	if err != nil {
		t.Fatal(err)
	}
	if got := found(report); !slices.Contains(got, "kustomize-missing deploy/g/g.yaml:8") || !slices.Contains(got, "kustomize-flags run.sh:40") {
		t.Errorf("found %q", got)
	}
}

// misspelt stands in for plugins/kustomize, which this package does not import: it knows
// one bad field. The script kustomize-check runs the real one.
func misspelt(file string, line int, text []byte) error {
	for i, l := range strings.Split(string(text), "\n") {
		if strings.HasPrefix(l, "secret:") {
			return manifest.Errors{{File: file, Line: line + i, Field: "secret", Msg: "is unknown here"}}
		}
	}
	return nil
}

func plantedKustomizations() []planted {
	const gen = "deploy/base/generator.yaml"
	edit := func(path, old, new string) func(*testRepo) {
		return func(r *testRepo) { r.kustomized(); r.edit(path, old, new) }
	}
	with := func(path, text string) func(*testRepo) {
		return func(r *testRepo) { r.kustomized(); r.write(path, text) }
	}
	const annotation = "    config.kubernetes.io/function: |\n      exec: {path: sealward, args: [kustomize]}\n"
	return []planted{
		{name: "a generator among resources", plant: edit("deploy/base/kustomization.yaml", "resources: [web.yaml]\ngenerators:\n- ", "resources:\n- web.yaml\n- "),
			found: []string{"kustomize-dropped deploy/base/kustomization.yaml:3"}},
		{name: "a generator as a transformer", plant: edit("deploy/base/kustomization.yaml", "generators:", "transformers:"),
			found: []string{"kustomize-dropped deploy/base/kustomization.yaml:3"}},
		{name: "a folder of generators among resources", plant: edit("deploy/prod/kustomization.yaml", "resources: [../base, ", "resources: [more, ../base, "),
			found: []string{"kustomize-dropped deploy/prod/more/kustomization.yaml:1"}},
		{name: "a function without a program", plant: edit(gen, "{path: sealward, args: [kustomize]}", "{args: [kustomize]}"),
			found: []string{"kustomize-dropped " + gen + ":%function"}},
		{name: "a function that another hides", plant: edit(gen, annotation, strings.ReplaceAll(annotation, "kubernetes.io", "k8s.io")+"    config.kubernetes.io/function: 'exec: {}'\n"),
			found: []string{"kustomize-dropped " + gen + ":%'exec", "kustomize-function " + gen + ":%k8s.io"}},
		{name: "a Secret that stays in the build", plant: edit(gen, "name: orders-db-r\n", "name: orders-db-r\n  metadata:\n    annotations: {config.kubernetes.io/local-config: 'true'}\n"),
			found: []string{"kustomize-dropped " + gen + ":%local-config"}},
		{name: "no function", plant: edit(gen, "  annotations:\n"+annotation, ""),
			found: []string{"kustomize-function " + gen + ":1"}},
		{name: "a function among labels", plant: edit(gen, "annotations:", "labels:"),
			found: []string{"kustomize-function " + gen + ":%function"}},
		{name: "an image beside the program", plant: edit(gen, annotation, annotation+"      container: {image: example.com/sealward}\n"),
			found: []string{"kustomize-function " + gen + ":%function"}},
		{name: "a function with an unknown field", plant: edit(gen, "{path: sealward, args: [kustomize]}", "{path: sealward, args: [kustomize], env: [A=b]}"),
			found: []string{"kustomize-function " + gen + ":%function"}},
		{name: "a function with a variable that is dropped, and no argument", plant: edit(gen, "{path: sealward, args: [kustomize]}", "{path: bin/sealward, envs: [A=b=c]}"),
			found: []string{"kustomize-function " + gen + ":%function", "kustomize-function " + gen + ":%function"}},
		{name: "a folder of generators that is patched", plant: edit("deploy/prod/more/kustomization.yaml", "resources", "namePrefix: p-\ncommonAnnotations: {config.kubernetes.io/function: 'exec: {}'}\nresources"),
			found: []string{"kustomize-function deploy/prod/more/kustomization.yaml:1", "kustomize-function deploy/prod/more/kustomization.yaml:2"}},
		{name: "a workflow without the flags", plant: edit(".github/workflows/build.yml", "--enable-exec $DIR", "$DIR"),
			found: []string{"kustomize-flags .github/workflows/build.yml:%$DIR"}},
		{name: "a workflow that lacks them in the middle of a script", plant: edit(".github/workflows/build.yml", "          --enable-exec deploy/prod", "          deploy/prod"),
			found: []string{"kustomize-flags .github/workflows/build.yml:6"}},
		{name: "kubectl builds it", plant: with("deploy.sh", "#!/bin/sh\nset -e\ncd deploy && kubectl -n shop apply -k prod\n"),
			found: []string{"kustomize-flags deploy.sh:3"}},
		{name: "kubectl kustomize with the flag it has", plant: with("Makefile", "all:\n\tkubectl kustomize --enable-alpha-plugins deploy/base\n"),
			found: []string{"kustomize-flags Makefile:2"}},
		{name: "a job that calls kustomize", plant: with("job.yaml", "apiVersion: batch/v1\nkind: Job\nspec:\n  containers:\n  - command: [kustomize]\n    args: [build, deploy/prod]\n"),
			found: []string{"kustomize-flags job.yaml:5"}},
		{name: "Argo CD without the flags", plant: edit("argocd-cm.yaml", " --enable-exec", ""),
			found: []string{"kustomize-flags app.yaml:%deploy/prod", "kustomize-flags argocd-cm.yaml:%buildOptions"}},
		{name: "Argo CD that is told nothing", plant: func(r *testRepo) { r.kustomized(); r.remove("argocd-cm.yaml") },
			found: []string{"kustomize-flags app.yaml:%deploy/prod"}},
		{name: "Flux builds it", plant: with("flux.yaml", "apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nmetadata: {name: shop}\nspec:\n  path: ./deploy/prod\n"),
			found: []string{"kustomize-flags flux.yaml:5"}},
		{name: "a sealed Secret among resources", plant: func(r *testRepo) {
			r.kustomized()
			r.seal("workspaces/orders/secrets/shop.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: shop, namespace: orders}\nstringData: {a: "+value+"}\n")
			r.edit("deploy/base/kustomization.yaml", "resources: [web.yaml]", "resources: [web.yaml, ../../workspaces/orders/secrets/shop.yaml]")
		}, found: []string{"kustomize-sealed deploy/base/kustomization.yaml:1"}},
		{name: "a generator that nobody lists", plant: with("deploy/base/lost.yaml", generatorFile("lost", generatesDB)),
			found: []string{"kustomize-unlisted deploy/base/lost.yaml:1"}},
		{name: "a generator with a field that nobody knows", plant: edit(gen, "secrets:", "secret:"),
			found: []string{"kustomize-invalid " + gen + ":8"}},
		{name: "an inline generator with one", plant: edit("deploy/prod/kustomization.yaml", "  secrets:", "  secret:"),
			found: []string{"kustomize-invalid deploy/prod/kustomization.yaml:%secret:"}},
		{name: "one in a folder of generators", plant: edit("deploy/prod/more/all.yaml", "secrets:\n- workspace: orders\n  name: orders-db-r\n---", "secret: []\n---"),
			found: []string{"kustomize-invalid deploy/prod/more/all.yaml:8"}},
		{name: "a generator file that is not there", plant: edit("deploy/base/kustomization.yaml", "- generator.yaml", "- generater.yaml"),
			found: []string{"kustomize-missing deploy/base/kustomization.yaml:3", "kustomize-unlisted " + gen + ":1"}},
		{name: "a secret that is not there", plant: edit(gen, "name: orders-db-r", "name: orders-db-rw"),
			found: []string{"kustomize-missing " + gen + ":%workspace: orders"}},
		{name: "files that are not there, and one that is elsewhere", plant: edit(gen, "files:\n", "files:\n- db.yaml\n- path: ../../../other/db.yaml\n"),
			found: []string{"kustomize-missing " + gen + ":%- db.yaml", "kustomize-missing " + gen + ":%- path"}},
		{name: "a source that is not sealed", plant: with("deploy/prod/app.env", "PASSWORD="+value+"\n"),
			found: []string{"value-unsealed deploy/prod/app.env:1"}},
		{name: "a workspace that is another's", plant: edit(gen, "- workspace: orders\n  name: orders-db-r", "- workspace: payments\n  name: gateway"),
			found: []string{"kustomize-workspace " + gen + ":%payments"}},
		{name: "a file of a workspace that is another's", plant: edit(gen, "orders/secrets/orders-api/token.yaml", "payments/secrets/gateway.yaml"),
			found: []string{"kustomize-workspace " + gen + ":%payments"}},
		{name: "an adopted file of another's root", plant: func(r *testRepo) {
			r.kustomized()
			r.write(workspace.SettingsFile, r.read(workspace.SettingsFile)+"roots: {adopted: payments}\n")
			r.seal("adopted/db.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: db, namespace: orders}\nstringData: {a: "+value+"}\n", r.recipient("payments"))
			r.write("adopted/db.yaml", without1(without1(r.read("adopted/db.yaml"), "    annotations:"), "        sealward.dev/binding:"))
			r.edit(gen, "files:\n", "files:\n- ../../adopted/db.yaml\n")
		}, found: []string{"kustomize-workspace " + gen + ":%adopted"}},
		{name: "an adopted file that says whose it is", plant: func(r *testRepo) {
			r.kustomized()
			r.seal("adopted/db.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: db, namespace: payments}\nstringData: {a: "+value+"}\n", r.recipient("payments"))
			r.edit(gen, "files:\n", "files:\n- ../../adopted/db.yaml\n")
		}, found: []string{"kustomize-workspace " + gen + ":%adopted"}},
		{name: "an inline generator that may not", plant: func(r *testRepo) {
			r.kustomized()
			r.write(workspace.SettingsFile, "builds: {deploy: [orders], deploy/prod: [orders, payments]}\n")
		}, found: []string{"kustomize-workspace deploy/prod/kustomization.yaml:%instance"}},
		{name: "an overlay that takes in a base and may not", plant: func(r *testRepo) {
			r.kustomized()
			r.write("other/kustomization.yaml", "resources: [../deploy/base]\n")
			r.write("more/kustomization.yaml", "resources: [middle]\n")
			r.write("more/middle/kustomization.yaml", "resources: [../../deploy/base]\n")
			r.write(workspace.SettingsFile, "builds:\n  deploy: [orders]\n  deploy/prod: [orders, payments, instance]\n  other: [payments]\n  more: [orders]\n")
		}, found: []string{"kustomize-workspace other/kustomization.yaml:1"}},
		{name: "KSOPS's generator", plant: with("deploy/ksops/kustomization.yaml", "generators:\n- |\n  apiVersion: viaduct.ai/v1\n  kind: ksops\n  metadata: {name: k}\n  files: [lost.enc.yaml]\n"),
			found: []string{"kustomize-function deploy/ksops/kustomization.yaml:3", "kustomize-missing deploy/ksops/kustomization.yaml:%lost"}},
	}
}
