package kustomize_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/sealward/sealward/plugins/kustomize"
)

// answer is what a function writes.
type answer struct {
	APIVersion     string           `yaml:"apiVersion"`
	Kind           string           `yaml:"kind"`
	Items          []map[string]any `yaml:"items"`
	FunctionConfig map[string]any   `yaml:"functionConfig"`
	Results        []struct {
		Message, Severity string
		ResourceRef       struct{ Kind, Name string } `yaml:"resourceRef"`
		Field, File       struct{ Path string }
	} `yaml:"results"`
}

// function runs one in a folder of the world; a is nil when nothing was written.
func (w *world) function(u *kustomize.Unsealer, dir, in string) (a *answer, text string, err error) {
	w.t.Helper()
	var out bytes.Buffer
	err = (&kustomize.Function{Unsealer: u, Dir: w.path(dir)}).Run(context.Background(), strings.NewReader(in), &out)
	if out.Len() == 0 {
		return nil, "", err
	}
	a = &answer{}
	w.must(yaml.Unmarshal(out.Bytes(), a))
	return a, out.String(), err
}

func list(config string, items ...string) string {
	out := "apiVersion: config.kubernetes.io/v1\nkind: ResourceList\nitems:"
	if len(items) == 0 {
		out += " []"
	}
	for _, item := range items {
		out += "\n- " + strings.ReplaceAll(strings.TrimSpace(item), "\n", "\n  ")
	}
	if config != "" {
		config = "\nfunctionConfig:\n  " + strings.ReplaceAll(strings.TrimSpace(config), "\n", "\n  ")
	}
	return out + config + "\n"
}

const (
	configMap   = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: other}\n"
	transformed = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: other, annotations: {kustomize.config.k8s.io/id: '1'}}\n"
)

func TestFunction(t *testing.T) {
	w := shop(t)
	a, text, err := w.function(w.unsealer(), "overlays/prod", list(generator+"secrets: [{workspace: orders, name: db-r}]\nfiles: [web.yaml]\n", configMap))
	if err != nil || a.Kind != "ResourceList" || len(a.Results) != 0 || a.FunctionConfig["kind"] != kustomize.Kind || len(a.Items) != 3 {
		t.Fatalf("%v\n%s", err, text)
	}
	for i, want := range []string{"ConfigMap", "Secret", "Secret"} {
		if a.Items[i]["kind"] != want {
			t.Errorf("item %d is a %v", i, a.Items[i]["kind"])
		}
	}
	if data, _ := a.Items[1]["data"].(map[string]any); data["password"] != "aHVudGVyMi1odW50ZXIy" {
		t.Errorf("%v", a.Items[1])
	}
	// A binding that is missing is told in the results too.
	ksopsWorld := adopted(t)
	u := ksopsWorld.unsealer()
	u.AllowUnbound = true
	if a, text, err := ksopsWorld.function(u, "app", list(ksops+"files: [all.yaml]\n")); err != nil || len(a.Items) != 1 || len(a.Results) != 1 || a.Results[0].Severity != "warning" || !strings.Contains(a.Results[0].Message, "app/all.yaml has no binding") {
		t.Errorf("%v\n%s", err, text)
	}
	// As a transformer it lets pass what came, and makes nothing.
	if a, text, err := w.function(w.unsealer(), "overlays/prod", list(generator, transformed)); err != nil || len(a.Items) != 1 || !strings.Contains(text, "kustomize.config.k8s.io/id: '1'") {
		t.Errorf("%v\n%s", err, text)
	}
}

func TestFunctionRefuses(t *testing.T) {
	w := shop(t)
	w.write("overlays/prod/gen.yaml", "# why\n"+configMap+"---\n"+generator+"files:\n- gone.yaml\nsecrets: [{workspace: payments, name: card}]\n")
	sealed := "apiVersion: v1\nkind: Secret\nmetadata: {name: web}\nsops: {mac: x}\n"
	cases := map[string]struct {
		in      string
		usage   bool
		written bool
		results []string // SEVERITY FILE FIELD MESSAGE
	}{
		"empty":            {"", true, false, nil},
		"blank":            {" \n", true, false, nil},
		"no YAML":          {"{", true, false, nil},
		"a text":           {value, true, false, nil},
		"a list":           {"- " + value, true, false, nil},
		"another kind":     {configMap, true, false, nil},
		"another group":    {"apiVersion: example.com/v1\nkind: ResourceList\nitems: []\n", true, false, nil},
		"two":              {list(generator) + "---\n" + list(generator), true, false, nil},
		"items no list":    {"apiVersion: config.kubernetes.io/v1\nkind: ResourceList\nitems: {a: " + value + "}\n", true, false, nil},
		"items no objects": {"apiVersion: config.kubernetes.io/v1\nkind: ResourceList\nitems: [" + value + "]\n", true, false, nil},
		"config no object": {"apiVersion: config.kubernetes.io/v1\nkind: ResourceList\nfunctionConfig: [" + value + "]\n", true, false, nil},
		"too large":        {list(generator, configMap+"data: {a: "+strings.Repeat("x", 64<<20)+"}\n"), true, false, nil},
		"no config":        {list("", configMap), true, true, []string{"error|||has no functionConfig"}},
		"unknown config":   {list(configMap, configMap), true, true, []string{"error|overlays/prod/gen.yaml|apiVersion|no generator of sealward"}},
		"unknown fields":   {list(generator+"secretz: []\nfile: []\n", configMap), true, true, []string{"error|functionConfig|secretz|is unknown here", "error|functionConfig|file|is unknown here"}},
		"no entries":       {list(generator, configMap), false, true, []string{"error|||makes nothing"}},
		"a sealed item":    {list(generator+"files: [web.yaml]\n", configMap, sealed), false, true, []string{"error|||Secret web is sealed and came in as a resource"}},
		"a transformer":    {list(generator+"files: [web.yaml]\n", transformed), true, true, []string{"error|||list it under generators:"}},
		"a missing file":   {list(generator+"files: [web.yaml, gone.yaml]\n", configMap), false, true, []string{"error|overlays/prod/gone.yaml||does not exist"}},
		"two things": {list(generator+"files:\n- gone.yaml\nsecrets: [{workspace: payments, name: card}]\n", configMap), false, true,
			[]string{"error|overlays/prod/gen.yaml|secrets[0]|overlays/prod/gen.yaml:11: ", "error|overlays/prod/gone.yaml||overlays/prod/gen.yaml:10: "}},
	}
	w.write("overlays/prod/kustomization.yaml", "generators: [gen.yaml]\n")
	for name, c := range cases {
		a, text, err := w.function(w.unsealer(), "overlays/prod", c.in)
		var input *kustomize.InputError
		if err == nil || errors.As(err, &input) != c.usage || (a != nil) != c.written || strings.Contains(err.Error()+text, value) {
			t.Errorf("%s: %v\n%s", name, err, text)
			continue
		}
		if a == nil {
			continue
		}
		if len(a.Items) != 0 || len(a.Results) != len(c.results) {
			t.Errorf("%s:\n%s", name, text)
			continue
		}
		for i, want := range c.results {
			r := a.Results[i]
			part := strings.SplitN(want, "|", 4)
			if r.Severity != part[0] || r.File.Path != part[1] || r.Field.Path != part[2] || !strings.Contains(r.Message, part[3]) || c.in != list("", configMap) && r.ResourceRef.Name == "" {
				t.Errorf("%s: %+v, want %s", name, r, want)
			}
		}
	}
}

// Errors name the generator's place in the tree, which kustomize does not tell: in a
// file, in the kustomization itself, or, where it was changed on its way, none.
func TestFunctionNamesTheSource(t *testing.T) {
	w := shop(t)
	config := generator + "files: [gone.yaml]\n"
	w.write("overlays/prod/kustomization.yaml", "generators:\n- |\n  "+strings.ReplaceAll(strings.TrimSpace(config), "\n", "\n  ")+"\n")
	for config, want := range map[string]string{
		config: "overlays/prod/kustomization.yaml:6: overlays/prod/gone.yaml: does not exist",
		strings.Replace(config, "{name: all}", "{name: all, annotations: {config.kubernetes.io/local-config: 'true'}}", 1): "overlays/prod/kustomization.yaml:6: ",
		strings.Replace(config, "name: all", "name: pre-all", 1):                                                           "functionConfig:4: overlays/prod/gone.yaml: does not exist",
	} {
		if _, _, err := w.function(w.unsealer(), "overlays/prod", list(config)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// What kustomize's older exec plugins print is a stream, or nothing.
func TestFunctionGenerate(t *testing.T) {
	w := shop(t)
	run := func(config, resources string) (string, error) {
		var out bytes.Buffer
		err := (&kustomize.Function{Unsealer: w.unsealer(), Dir: w.path("overlays/prod")}).Generate(context.Background(), []byte(config), []byte(resources), &out)
		return out.String(), err
	}
	if out, err := run(generator+"files: [web.yaml]\nsecrets: [{workspace: orders, name: db-r}]\n", ""); err != nil || strings.Count(out, "kind: Secret") != 2 || strings.Contains(out, "ResourceList") {
		t.Errorf("%v\n%s", err, out)
	}
	for _, c := range [][2]string{{generator + "files: [web.yaml]\n", configMap}, {generator + "files: [web.yaml, gone.yaml]\n", ""}, {configMap, ""}, {"", ""}, {strings.Repeat("x", 2<<20), ""}} {
		if out, err := run(c[0], c[1]); err == nil || out != "" {
			t.Errorf("%.80s: %v\n%s", c[0], err, out)
		}
	}
}

// Several files without a binding are told at once, from several goroutines.
func TestFunctionWarnings(t *testing.T) {
	w := adopted(t)
	u := w.unsealer()
	u.AllowUnbound = true
	var mu sync.Mutex
	var told []string
	var out bytes.Buffer
	f := &kustomize.Function{Unsealer: u, Dir: w.path("app"), Warn: func(text string) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, text)
	}}
	w.must(f.Run(context.Background(), strings.NewReader(list(ksops+"files: [all.yaml, shop.yaml, several.yaml]\n")), &out))
	slices.Sort(told)
	if len(told) != 3 || !strings.HasPrefix(told[0], "app/all.yaml has no binding") {
		t.Errorf("%q", told)
	}
}

// FuzzFunction hands anything to a function: it fails without items, or answers with
// a ResourceList, and no error shows a value.
func FuzzFunction(f *testing.F) {
	w := shop(f)
	for _, s := range []string{
		"", list(generator), list(generator+"files: [web.yaml]\n", configMap), list(generator+"secrets: [{workspace: orders, name: db-r}]\n", transformed),
		list(ksops + "files: [web.yaml]\nsecretFrom: [{metadata: {name: a}, envs: [web.yaml]}]\n"), list(configMap, configMap),
		"apiVersion: config.kubernetes.io/v1\nkind: ResourceList\nfunctionConfig: &a [*a]\nitems: [*a]\n", "kind: ResourceList\napiVersion: config.kubernetes.io/\nitems: null\nfunctionConfig: null\n",
		"apiVersion: config.kubernetes.io/v1\nkind: ResourceList\nitems: [{<<: {sops: {}}}, {metadata: 1}, {metadata: {annotations: []}}]\nfunctionConfig: {kind: [], metadata: x}\n",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		var out bytes.Buffer
		err := (&kustomize.Function{Unsealer: w.keyless(), Dir: w.path("overlays/prod")}).Run(context.Background(), strings.NewReader(in), &out)
		if out.Len() == 0 {
			if err == nil {
				t.Fatal("nothing was written, and no error")
			}
			return
		}
		var a answer
		if e := yaml.Unmarshal(out.Bytes(), &a); e != nil {
			return // an odd item came in and went out
		}
		if err != nil && len(a.Items) > 0 {
			t.Fatalf("%v, and items:\n%s", err, out.String())
		}
	})
}
