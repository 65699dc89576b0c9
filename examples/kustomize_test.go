package examples

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/resmap"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/kustomize/kyaml/openapi"
	kyaml "sigs.k8s.io/kustomize/kyaml/yaml"
)

// shop is a folder with a copy of kustomize/ in tree, for which seal.sh makes keys in keys.
type shop struct {
	t   *testing.T
	dir string
	env []string
}

func newShop(t *testing.T) *shop {
	t.Helper()
	s := &shop{t: t, dir: t.TempDir()}
	tools, err := filepath.Abs("../bin/tools")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(tools, "kustomize")); err != nil {
		t.Fatal("kustomize is missing: run make tools")
	}
	if err := os.CopyFS(filepath.Join(s.dir, "tree"), os.DirFS("kustomize")); err != nil {
		t.Fatal(err)
	}
	s.env = []string{"HOME=" + s.dir, "PATH=" + tools + ":" + os.Getenv("PATH"), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=" + os.DevNull}
	return s
}

// run runs a command as Argo CD's plugin server does: with a folder and an environment.
func (s *shop) run(dir string, env []string, command ...string) (code int, stdout, stderr string) {
	s.t.Helper()
	cmd := exec.Command("env", append([]string{"-i", "-C", filepath.Join(s.dir, dir)}, append(slices.Concat(s.env, env), command...)...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run()
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// must is run for what has to work.
func (s *shop) must(dir string, env []string, command ...string) string {
	s.t.Helper()
	code, out, errs := s.run(dir, env, command...)
	if code != 0 {
		s.t.Fatalf("%v: exit code %d\n%s\n%s", command, code, out, errs)
	}
	return out
}

func (s *shop) keyring() []string {
	return []string{"SEALWARD_KEYRING=" + filepath.Join(s.dir, "keys")}
}

// objects of a YAML stream, as "kind name": what it holds.
func objects(t *testing.T, text string) map[string]map[string]any {
	t.Helper()
	out := map[string]map[string]any{}
	d := yaml.NewDecoder(strings.NewReader(text))
	for {
		var o map[string]any
		if err := d.Decode(&o); err != nil {
			if err.Error() != "EOF" {
				t.Fatal(err)
			}
			return out
		}
		meta, _ := o["metadata"].(map[string]any)
		out[fmt.Sprint(o["kind"], " ", meta["name"])] = o
	}
}

// The tree builds without keys as it stands in Git, with keys of one's own after seal.sh,
// and stock kustomize makes the same of it; check finds nothing.
func TestKustomizeTree(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	kinds := func(text string) (out []string) {
		for id := range objects(t, text) {
			kind, name, _ := strings.Cut(id, " ")
			if i := strings.LastIndexByte(name, '-'); kind == "Secret" {
				name = name[:i] // without the hash
			}
			out = append(out, kind+" "+name)
		}
		slices.Sort(out)
		return out
	}
	want := map[string][]string{
		"overlays/dev":  {"Deployment dev-orders", "Secret dev-orders-db"},
		"overlays/prod": {"Deployment orders", "Secret gateway", "Secret orders-db"},
	}
	for overlay, want := range want {
		out := s.must("tree", nil, "sealward", "build", "--placeholders", overlay)
		if got := kinds(out); !slices.Equal(got, want) || !strings.Contains(out, "sealward.dev/placeholder") {
			t.Errorf("%s with placeholders: %v", overlay, got)
		}
		if code, out, errs := s.run("tree", s.keyring(), "sealward", "build", overlay); code == 0 || out != "" {
			t.Errorf("%s builds without its keys: exit code %d\n%s\n%s", overlay, code, out, errs)
		}
	}
	s.must("tree", s.keyring(), "sh", "seal.sh")
	for overlay, want := range want {
		out := s.must("tree", s.keyring(), "sealward", "build", "--verify-with", "kustomize", overlay)
		if got := kinds(out); !slices.Equal(got, want) || strings.Contains(out, "placeholder") {
			t.Errorf("%s: %v", overlay, got)
		}
	}
	s.must(".", nil, "git", "init", "-q", "tree")
	s.must("tree", s.keyring(), "sealward", "check")
}

// pluginConfig is a ConfigManagementPlugin, as Argo CD's documentation has it.
type pluginConfig struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	Metadata   struct {
		Name string `yaml:"name"`
	} `yaml:"metadata"`
	Spec struct {
		Version  string        `yaml:"version"`
		Init     pluginCommand `yaml:"init"`
		Generate pluginCommand `yaml:"generate"`
		Discover struct {
			FileName string `yaml:"fileName"`
			Find     struct {
				pluginCommand `yaml:",inline"`
				Glob          string `yaml:"glob"`
			} `yaml:"find"`
		} `yaml:"discover"`
		Parameters struct {
			Static  []pluginParameter `yaml:"static"`
			Dynamic pluginCommand     `yaml:"dynamic"`
		} `yaml:"parameters"`
		PreserveFileMode bool `yaml:"preserveFileMode"`
		ProvideGitCreds  bool `yaml:"provideGitCreds"`
	} `yaml:"spec"`
}

type pluginParameter struct {
	Name, Title, Tooltip string
	Required             bool
	ItemType             string `yaml:"itemType"`
	CollectionType       string `yaml:"collectionType"`
	String               string
}

type pluginCommand struct {
	Command []string `yaml:"command"`
	Args    []string `yaml:"args"`
}

func (c pluginCommand) words() []string { return slices.Concat(c.Command, c.Args) }

// strictly decodes one document and refuses fields that v does not have.
func strictly(t *testing.T, text []byte, v any) {
	t.Helper()
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(v); err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// The plugin's commands, run as Argo CD's plugin server runs them: in the Application's
// folder, with the sidecar's environment and what Argo CD documents beside it. The server
// itself does not run here.
func TestArgoPlugin(t *testing.T) {
	t.Parallel()
	var plugin pluginConfig
	strictly(t, readFile(t, "argocd/plugin.yaml"), &plugin)
	if plugin.APIVersion != "argoproj.io/v1alpha1" || plugin.Kind != "ConfigManagementPlugin" || plugin.Metadata.Name != "sealward" || plugin.Spec.PreserveFileMode || plugin.Spec.ProvideGitCreds {
		t.Errorf("%+v", plugin)
	}
	s := newShop(t)
	s.must("tree", s.keyring(), "sh", "seal.sh")
	if err := os.CopyFS(filepath.Join(s.dir, "plain"), os.DirFS("kustomize/components/payments")); err != nil {
		t.Fatal(err)
	}

	discover := plugin.Spec.Discover.Find.words()
	for dir, found := range map[string]bool{"tree/overlays/prod": true, "tree/base": true, "tree/workspaces": false, "plain": false} {
		if out := s.must(dir, nil, discover...); (out != "") != found {
			t.Errorf("%s: discovery prints %q", dir, out)
		}
	}

	// Kubernetes mounts a Secret as links to files of a folder that it exchanges.
	keys := filepath.Join(s.dir, "keyrings", "shop", "..2026_11_25")
	if err := os.MkdirAll(keys, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"orders.agekey", "payments.agekey"} {
		if err := os.WriteFile(filepath.Join(keys, name), readFile(t, filepath.Join(s.dir, "keys", name)), 0o444); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("..data/"+name, filepath.Join(keys, "..", name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("..2026_11_25", filepath.Join(keys, "..", "..data")); err != nil {
		t.Fatal(err)
	}
	env := func(project string, more ...string) []string {
		return append([]string{"SEALWARD_KEYRINGS=" + filepath.Join(s.dir, "keyrings"), "ARGOCD_APP_NAME=orders", "ARGOCD_APP_NAMESPACE=orders", "ARGOCD_APP_PROJECT_NAME=" + project,
			"ARGOCD_APP_SOURCE_PATH=overlays/prod", "KUBE_VERSION=1.34.0"}, more...)
	}
	generate := plugin.Spec.Generate.words()
	out := s.must("tree/overlays/prod", env("shop", "ARGOCD_APP_PARAMETERS=[]"), generate...)
	if want := s.must("tree/overlays/prod", s.keyring(), "sealward", "build"); out != want || len(objects(t, out)) != 3 {
		t.Error("generate prints something else than sealward build")
	}
	out = s.must("tree/overlays/dev", env("nokeys", `ARGOCD_APP_PARAMETERS=[{"name":"placeholders","string":"true"}]`, "PARAM_PLACEHOLDERS=true"), generate...)
	if !strings.Contains(out, "sealward.dev/placeholder") {
		t.Error("placeholders are not marked")
	}
	// What an Application says by env: gets this prefix, and loosens nothing.
	loosen := []string{"ARGOCD_ENV_SEALWARD_ALLOW_UNBOUND=true", "ARGOCD_ENV_SEALWARD_KEYRINGS=" + s.dir, "PARAM_ALLOW_UNBOUND=true"}
	for name, c := range map[string]struct {
		dir  string
		env  []string
		said string
	}{
		"another project":      {"tree/overlays/prod", env("other", loosen...), "no keyring for project other"},
		"a project as a path":  {"tree/overlays/prod", env("../keyrings/shop", loosen...), "no name of a folder"},
		"no project":           {"tree/overlays/prod", slices.DeleteFunc(env(""), func(v string) bool { return strings.HasPrefix(v, "ARGOCD_APP_PROJECT_NAME") }), "Argo CD 3.0"},
		"a parameter mistyped": {"tree/overlays/prod", env("shop", "PARAM_PLACEHOLDERS=yes"), "neither true nor false"},
		"a flag as parameter":  {"tree/overlays/prod", env("shop", "PARAM_WORKSPACE=--placeholders"), "sealward"},
		"nothing to build":     {"tree/workspaces", env("shop"), "sealward"},
	} {
		if code, out, errs := s.run(c.dir, c.env, generate...); code == 0 || out != "" || !strings.Contains(errs, c.said) {
			t.Errorf("%s: exit code %d, output %q, error %q", name, code, out, errs)
		}
	}
	// One secret of many that cannot be opened: no output at all.
	if err := os.Remove(filepath.Join(keys, "payments.agekey")); err != nil {
		t.Fatal(err)
	}
	if code, out, errs := s.run("tree/overlays/prod", env("shop", loosen...), generate...); code == 0 || out != "" || !strings.Contains(errs, "payments") {
		t.Errorf("without a key: exit code %d, output %q, error %q", code, out, errs)
	}
}

// repoServer is Argo CD's repo server as far as the patch builds on it.
const repoServer = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: argocd-repo-server}
spec:
  selector: {matchLabels: {app.kubernetes.io/name: argocd-repo-server}}
  template:
    metadata: {labels: {app.kubernetes.io/name: argocd-repo-server}}
    spec:
      containers: [{name: argocd-repo-server, image: example.com/argocd}]
      volumes: [{name: var-files, emptyDir: {}}, {name: plugins, emptyDir: {}}]
`

// argoManifests are what argocd/kustomization.yaml makes of a repo server.
func argoManifests(t *testing.T) resmap.ResMap {
	t.Helper()
	fs := filesys.MakeFsInMemory()
	for _, name := range []string{"plugin.yaml", "repo-server.yaml", "kustomization.yaml"} {
		text := bytes.Replace(readFile(t, "argocd/"+name), []byte("resources: []"), []byte("resources: [install.yaml]"), 1)
		if err := fs.WriteFile("/argocd/"+name, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := fs.WriteFile("/argocd/install.yaml", []byte(repoServer)); err != nil {
		t.Fatal(err)
	}
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(fs, "/argocd")
	if err != nil {
		t.Fatal(err)
	}
	return built
}

// What kustomization.yaml makes has only fields that Kubernetes knows, by the OpenAPI
// schema that kustomize carries, and mounts only volumes that are there. That an API server
// takes it, TestClusterManifests says.
func TestArgoManifests(t *testing.T) {
	built := argoManifests(t)
	var deployment *kyaml.RNode
	config := ""
	for _, r := range built.Resources() {
		schema := openapi.SchemaForResourceType(kyaml.TypeMeta{APIVersion: r.GetApiVersion(), Kind: r.GetKind()})
		if schema == nil {
			t.Fatalf("there is no schema of %s", r.GetKind())
		}
		known(t, r.GetKind(), schema, r.YNode())
		switch r.GetKind() {
		case "Deployment":
			deployment = &r.RNode
		case "ConfigMap":
			config = r.GetName()
			if r.GetDataMap()["plugin.yaml"] != string(readFile(t, "argocd/plugin.yaml")) {
				t.Error("the ConfigMap holds another plugin.yaml")
			}
		}
	}
	if deployment == nil || config == "" || built.Size() != 2 {
		t.Fatalf("%d objects", built.Size())
	}
	var pod struct {
		Spec struct {
			Template struct {
				Spec struct {
					InitContainers []container `yaml:"initContainers"`
					Containers     []container `yaml:"containers"`
					Volumes        []struct {
						Name      string
						ConfigMap struct{ Name string } `yaml:"configMap"`
					}
				}
			}
		}
	}
	if err := deployment.YNode().Decode(&pod); err != nil {
		t.Fatal(err)
	}
	spec := pod.Spec.Template.Spec
	volumes := map[string]bool{}
	for _, v := range spec.Volumes {
		volumes[v.Name] = true
		if v.Name == "sealward-plugin" && v.ConfigMap.Name != config {
			t.Errorf("the sidecar reads ConfigMap %s, which is %s", v.ConfigMap.Name, config)
		}
	}
	if len(spec.Containers) != 2 || len(spec.InitContainers) != 1 {
		t.Fatalf("%d containers, %d init containers", len(spec.Containers), len(spec.InitContainers))
	}
	for _, c := range append(spec.Containers, spec.InitContainers...) {
		for _, m := range c.VolumeMounts {
			if !volumes[m.Name] {
				t.Errorf("container %s mounts %s, which is no volume", c.Name, m.Name)
			}
		}
	}
	t.Run("init container", func(t *testing.T) { installs(t, spec.InitContainers[0]) })
}

type container struct {
	Name          string
	Command, Args []string
	Env           []struct{ Name, Value string }
	VolumeMounts  []struct{ Name string } `yaml:"volumeMounts"`
}

// known reports fields that a schema does not have.
func known(t *testing.T, at string, schema *openapi.ResourceSchema, n *kyaml.Node) {
	t.Helper()
	switch n.Kind {
	case kyaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			name := n.Content[i].Value
			field := schema.Field(name)
			if field == nil {
				t.Errorf("%s has no field %s", at, name)
				continue
			}
			known(t, at+"."+name, field, n.Content[i+1])
		}
	case kyaml.SequenceNode:
		for _, item := range n.Content {
			if elements := schema.Elements(); elements != nil {
				known(t, at+"[]", elements, item)
			} else if item.Kind != kyaml.ScalarNode {
				t.Errorf("%s is no list of objects", at)
			}
		}
	}
}

// installs runs the init container's script against a server with a release.
func installs(t *testing.T, c container) {
	var archive bytes.Buffer
	z := gzip.NewWriter(&archive)
	w := tar.NewWriter(z)
	for _, name := range []string{"LICENSE", "sealward"} {
		text := []byte("#!/bin/sh\necho " + name + "\n")
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(archive.Bytes()) }))
	defer server.Close()
	bin := t.TempDir()
	// The image's wget; curl stands in for it, so that the download is real.
	if err := os.WriteFile(filepath.Join(bin, "wget"), []byte("#!/bin/sh\n[ \"$1 $2\" = '-q -O' ] && exec curl -fsS -o \"$3\" \"$4\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	run := func(sum string) (string, []string, error) {
		to := t.TempDir()
		cmd := exec.Command(c.Command[0], append(slices.Clone(c.Command[1:]), c.Args...)...)
		cmd.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "URL=" + server.URL, "SHA256=" + sum, "TO=" + to}
		out, err := cmd.CombinedOutput()
		files, _ := filepath.Glob(filepath.Join(to, "*"))
		for i, f := range files {
			files[i] = filepath.Base(f)
		}
		return string(out), files, err
	}
	if out, files, err := run(fmt.Sprintf("%x", sha256.Sum256(archive.Bytes()))); err != nil || !slices.Equal(files, []string{"sealward"}) {
		t.Errorf("%v, %v, %s", err, files, out)
	}
	if out, files, err := run(strings.Repeat("0", 64)); err == nil || len(files) > 0 || !strings.Contains(out, "another checksum") {
		t.Errorf("a wrong checksum: %v, %v, %s", err, files, out)
	}
	if !slices.ContainsFunc(c.Env, func(e struct{ Name, Value string }) bool {
		return e.Name == "SHA256" && e.Value == strings.Repeat("0", 64)
	}) {
		t.Error("the example's checksum must fit no release")
	}
}

// The objects of Argo CD and Flux have the fields that their documentation names; no
// controller has seen them.
func TestControllerManifests(t *testing.T) {
	var app struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string
		Metadata   struct{ Name, Namespace string }
		Spec       struct {
			Project string
			Source  struct {
				RepoURL        string `yaml:"repoURL"`
				TargetRevision string `yaml:"targetRevision"`
				Path           string
				Plugin         struct {
					Name       string
					Env        []struct{ Name, Value string }
					Parameters []struct {
						Name, String string
						Array        []string
						Map          map[string]string
					}
				}
			}
			Destination struct{ Server, Name, Namespace string }
		}
	}
	strictly(t, readFile(t, "argocd/application.yaml"), &app)
	if app.APIVersion != "argoproj.io/v1alpha1" || app.Kind != "Application" || app.Spec.Source.Plugin.Name != "sealward" {
		t.Errorf("%+v", app)
	}
	var plugin pluginConfig
	strictly(t, readFile(t, "argocd/plugin.yaml"), &plugin)
	for _, p := range app.Spec.Source.Plugin.Parameters {
		if !slices.ContainsFunc(plugin.Spec.Parameters.Static, func(s pluginParameter) bool { return s.Name == p.Name }) {
			t.Errorf("the plugin has no parameter %s", p.Name)
		}
	}
	var flux struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string
		Metadata   struct{ Name, Namespace string }
		Spec       struct {
			Interval   string
			Prune      bool
			SourceRef  struct{ Kind, Name, Namespace string } `yaml:"sourceRef"`
			Path       string
			Decryption struct {
				Provider  string
				SecretRef struct{ Name string } `yaml:"secretRef"`
			}
		}
	}
	strictly(t, readFile(t, "flux/kustomization.yaml"), &flux)
	if flux.APIVersion != "kustomize.toolkit.fluxcd.io/v1" || flux.Kind != "Kustomization" || flux.Spec.Decryption.Provider != "sops" || flux.Spec.Decryption.SecretRef.Name == "" {
		t.Errorf("%+v", flux)
	}
}
