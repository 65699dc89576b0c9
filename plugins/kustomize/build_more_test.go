package kustomize_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"reflect"
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/api/types"

	"github.com/sealward/sealward/plugins/kustomize"
)

// build builds overlays/prod of a shop with these files and returns its YAML.
func (w *world) build(u *kustomize.Unsealer, files map[string]string) (*kustomize.Built, string) {
	w.t.Helper()
	for file, text := range files {
		w.write(file, text)
	}
	built, err := kustomize.Build(context.Background(), w.path("overlays/prod"), u, kustomize.BuildOptions{})
	w.must(err)
	text, err := built.YAML()
	w.must(err)
	return built, string(text)
}

// A kustomization is printed anew when something in it is replaced. Whatever else it
// says must come through that.
func TestKustomizationComesThrough(t *testing.T) {
	var k types.Kustomization
	fill(reflect.ValueOf(&k).Elem(), 0)
	text, err := kustomize.PrintKustomization(k)
	if err != nil {
		t.Fatal(err)
	}
	var back types.Kustomization
	if err := back.Unmarshal(text); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if !reflect.DeepEqual(k, back) {
		t.Errorf("wrote\n%+v\nread\n%+v\n%s", k, back, text)
	}
}

// fill gives every field a value that is not its zero.
func fill(v reflect.Value, n int) {
	switch v.Kind() {
	case reflect.String:
		texts := []string{"Y", "0123", "a: b # c", "\x7f\u2028 ü 😀\t", "1e3", "null", "line\n  two\n", "'\"<&>"}
		v.SetString(texts[n%len(texts)])
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(n) + 1)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), n)
		fill(v.Index(1), n+1)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		item := reflect.New(v.Type().Elem()).Elem()
		fill(item, n+1)
		v.SetMapIndex(reflect.ValueOf("no").Convert(v.Type().Key()), item)
	case reflect.Interface:
		v.Set(reflect.ValueOf(map[string]any{"port": 8080.0, "half": 0.5, "list": []any{"0x10", true, nil}}))
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() && v.Type().Field(i).Tag.Get("json") != "-" {
				fill(v.Field(i), n+i)
			}
		}
	}
}

// kustomize logs a variable's value when it cannot stand in a text.
func TestBuildLogsNoValue(t *testing.T) {
	var logged bytes.Buffer
	log.SetOutput(&logged)
	defer log.SetOutput(os.Stderr)
	w := shop(t)
	w.build(w.unsealer(), map[string]string{
		"overlays/prod/kustomization.yaml": "generators: [gen.yaml]\nresources: [config.yaml]\nconfigurations: [vars.yaml]\nvars:\n- {name: ALL, objref: {apiVersion: v1, kind: Secret, name: db}, fieldref: {fieldpath: data}}\n- {name: UNUSED, objref: {apiVersion: v1, kind: Secret, name: db}}\n",
		"overlays/prod/vars.yaml":          "varReference: [{path: data, kind: ConfigMap}]\n",
		"overlays/prod/config.yaml":        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {all: \"all of $(ALL)\"}\n",
		"overlays/prod/gen.yaml":           dbGenerator,
	})
	if got := logged.String(); strings.Contains(got, "aHVudGVyM") || !strings.Contains(got, "may hold a value; it is withheld") || !strings.Contains(got, "never replaced: ") {
		t.Errorf("logged %q", got)
	}
	if log.Writer() != &logged {
		t.Error("the logger is not as it was")
	}
}

// A kustomization that is a link is one, wherever the link leads in its folder.
func TestBuildThroughLinks(t *testing.T) {
	w := shop(t)
	w.must(os.Remove(w.path("overlays/prod/kustomization.yaml")))
	w.must(os.Symlink("files/prod.yaml", w.path("overlays/prod/kustomization.yaml")))
	_, text := w.build(w.unsealer(), map[string]string{"overlays/prod/files/prod.yaml": "generators: [gen.yaml]\n", "overlays/prod/gen.yaml": dbGenerator})
	if !strings.Contains(text, "password: aHVudGVyMi1odW50ZXIy") {
		t.Error(text)
	}
}

// What is wrong with a build is told whatever the sealed files hold; placeholders stand
// in the same objects.
func TestBuildPlaceholders(t *testing.T) {
	w := shop(t)
	files := map[string]string{
		"overlays/prod/kustomization.yaml": "namePrefix: p-\ngenerators: [gen.yaml]\nresources: [web.yaml]\n",
		"overlays/prod/gen.yaml":           generator + "secrets: [{workspace: orders, name: api}, {workspace: orders, name: db-r, metadata: {name: db}}]\n",
	}
	built, real := w.build(w.unsealer(), files)
	if !built.Unsealed {
		t.Error("nothing was unsealed")
	}
	w.must(os.RemoveAll(w.keyring))
	dummies, text := w.build(&kustomize.Unsealer{Placeholders: true}, nil)
	if dummies.Unsealed || strings.Contains(text, "aHVudGVyM") || strings.Count(text, "sealward.dev/placeholder: \"true\"") != 3 {
		t.Errorf("placeholders:\n%s", text)
	}
	_, again := w.build(&kustomize.Unsealer{Placeholders: true}, nil)
	if text != again {
		t.Error("placeholders differ between two builds")
	}
	keys := func(text string) (out []string) {
		for line := range strings.Lines(text) {
			key, _, _ := strings.Cut(line, ":")
			if !strings.Contains(key, "annotations") && !strings.Contains(key, "sealward.dev") {
				out = append(out, key)
			}
		}
		return out
	}
	if a, b := fmt.Sprint(keys(real)), fmt.Sprint(keys(text)); a != b {
		t.Errorf("%s\nplaceholders: %s", a, b)
	}
}

// Functions that are allowed see the unsealed objects; they get them on standard input.
func TestBuildRunsWhatIsAllowed(t *testing.T) {
	w := shop(t)
	for file, text := range map[string]string{
		"overlays/prod/kustomization.yaml": "generators: [gen.yaml]\ntransformers:\n" + indented("apiVersion: example.com/v1\nkind: Seen\nmetadata:\n  name: seen\n  annotations: {config.kubernetes.io/function: \"exec: {path: ./seen.sh}\"}\n"),
		"overlays/prod/seen.sh":            "#!/bin/sh\nsed 's/name: db$/name: seen/'\n",
		"overlays/prod/gen.yaml":           dbGenerator,
	} {
		w.write(file, text)
	}
	w.must(os.Chmod(w.path("overlays/prod/seen.sh"), 0o755))
	built, err := kustomize.Build(context.Background(), w.path("overlays/prod"), w.unsealer(), kustomize.BuildOptions{Plugins: true, Exec: true})
	w.must(err)
	text, err := built.YAML()
	w.must(err)
	if !strings.Contains(string(text), "name: seen") || !strings.Contains(string(text), "aHVudGVyMi1odW50ZXIy") {
		t.Errorf("%s", text)
	}
}

func TestBuildStops(t *testing.T) {
	w := shop(t)
	w.write("overlays/prod/gen.yaml", dbGenerator)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := kustomize.Build(ctx, w.path("overlays/prod"), w.unsealer(), kustomize.BuildOptions{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestVerify(t *testing.T) {
	path := stock(t)
	t.Setenv("PATH", path)
	w := shop(t)
	built, _ := w.build(w.unsealer(), map[string]string{
		"overlays/prod/kustomization.yaml": "generators: [gen.yaml]\nresources: [config.yaml]\n",
		"overlays/prod/gen.yaml":           strings.Replace(dbGenerator, "{name: all}", "{name: all, annotations: {config.kubernetes.io/function: \"exec: {path: sealward, args: [kustomize]}\"}}", 1),
		"overlays/prod/config.yaml":        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {a: b}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: y}\n",
	})
	s := kustomize.Stock{Program: "kustomize", Env: append(os.Environ(), "SEALWARD_KEYRING="+w.keyring)}
	found, err := built.Verify(context.Background(), w.path("overlays/prod"), s)
	if err != nil || len(found) > 0 {
		t.Fatalf("%v, %v", found, err)
	}
	// The tree changes between the two builds.
	w.seal("workspaces/orders/secrets/db-r.yaml", secretText("orders", "db-r", "username: orders\npassword: other-"+value+"\nmore: key"))
	w.write("overlays/prod/config.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: n}\ndata: {a: b}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: y, labels: {a: b}}\n")
	if found, err = built.Verify(context.Background(), w.path("overlays/prod"), s); err != nil {
		t.Fatal(err)
	}
	want := "[ConfigMap n/x: only kustomize makes it ConfigMap x: only sealward build makes it ConfigMap y: metadata.labels: only the other has it " +
		"Secret db: data.more: only the other has it Secret db: data.password: differs]"
	if got := fmt.Sprint(found); got != want {
		t.Errorf("found %s\nwant  %s", got, want)
	}
	// A name may be a value, by a patch.
	built, _ = w.build(w.unsealer(), map[string]string{
		"overlays/prod/kustomization.yaml": "generators: [gen.yaml]\npatches:\n- target: {kind: Secret}\n  patch: '[{\"op\": \"copy\", \"from\": \"/data/password\", \"path\": \"/metadata/name\"}]'\n",
	})
	w.write("overlays/prod/kustomization.yaml", "generators: [gen.yaml]\n")
	if found, err = built.Verify(context.Background(), w.path("overlays/prod"), s); err != nil || len(found) != 2 || strings.Contains(fmt.Sprint(found), "b3RoZXIt") {
		t.Error(found, err)
	}
	// A failure of the other is told without what it said.
	s.Env = append(s.Env, "SEALWARD_KEYRING="+w.path("nowhere"))
	if _, err = built.Verify(context.Background(), w.path("overlays/prod"), s); err == nil || !strings.Contains(err.Error(), "may hold values") || !strings.Contains(err.Error(), "or run "+s.Program+" build ") {
		t.Error(err)
	}
	s.Program = "kustomize-that-is-not-there"
	if _, err = built.Verify(context.Background(), w.path("overlays/prod"), s); err == nil || !strings.Contains(err.Error(), "cannot be run") {
		t.Error(err)
	}
}

// What sealward build does not run, --verify-with does not have another kustomize run, which
// has the keyring in its environment.
func TestVerifyRunsOnlySealward(t *testing.T) {
	t.Setenv("PATH", stock(t))
	for name, metadata := range map[string]string{
		"a program":         `annotations: {config.kubernetes.io/function: "exec: {path: ./run}"}`,
		"of the same name":  `annotations: {config.kubernetes.io/function: "exec: {path: ./sealward, args: [kustomize]}"}`,
		"a second function": `annotations: {config.kubernetes.io/function: "exec: {path: sealward, args: [kustomize]}", config.k8s.io/function: "exec: {path: ./run}"}`,
		"an older form":     `configFn: {exec: {path: ./run}}`,
		"an environment":    `annotations: {config.kubernetes.io/function: "exec: {path: sealward, args: [kustomize], envs: [LD_PRELOAD=./run]}"}`,
		"arguments":         `annotations: {config.kubernetes.io/function: "exec: {path: sealward, args: [kustomize, --allow-unbound]}"}`,
		"another spelling":  `annotations: {config.kubernetes.io/function: "EXEC: {path: ./run}"}`,
		"a container":       `annotations: {config.kubernetes.io/function: "container: {image: example.com/run}"}`,
		"an older one":      `annotations: {config.kubernetes.io/container: example.com/run}`,
	} {
		t.Run(name, func(t *testing.T) {
			w := shop(t)
			w.write("overlays/prod/run", "#!/bin/sh\ntouch ran\n")
			w.must(os.Chmod(w.path("overlays/prod/run"), 0o755))
			w.must(os.Symlink("run", w.path("overlays/prod/sealward")))
			built, _ := w.build(w.unsealer(), map[string]string{
				"overlays/prod/kustomization.yaml": "generators: [gen.yaml]\n",
				"overlays/prod/gen.yaml":           strings.Replace(dbGenerator, "{name: all}", "{name: all, "+metadata+"}", 1),
			})
			_, err := built.Verify(context.Background(), w.path("overlays/prod"), kustomize.Stock{Program: "kustomize", Env: os.Environ()})
			if err == nil || !strings.Contains(err.Error(), "gen.yaml:1)") || !strings.Contains(err.Error(), "--enable-exec") {
				t.Error(err)
			}
			if _, err := os.Stat(w.path("overlays/prod/ran")); err == nil {
				t.Error("it ran")
			}
		})
	}
}

// A remote base is fetched a second time, and may then say something else.
func TestVerifyRefusesRemoteBases(t *testing.T) {
	path := stock(t)
	t.Setenv("PATH", path)
	t.Setenv("GIT_ALLOW_PROTOCOL", "file")
	tr := readTree(t, "testdata/build/remote.txtar", path)
	built, err := kustomize.Build(context.Background(), tr.build, tr.u, tr.opts)
	tr.must(err)
	s := kustomize.Stock{Program: "kustomize", Env: tr.env}
	if _, err := built.Verify(context.Background(), tr.build, s); err == nil || !strings.Contains(err.Error(), "remote base") {
		t.Error(err)
	}
	s.Options = kustomize.BuildOptions{Plugins: true, Exec: true}
	if found, err := built.Verify(context.Background(), tr.build, s); err != nil || len(found) > 0 {
		t.Error(found, err)
	}
}
