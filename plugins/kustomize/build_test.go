package kustomize_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"sigs.k8s.io/yaml"

	"github.com/sealward/sealward/plugins/kustomize"
	"github.com/sealward/sealward/unseal/keyring"
)

// TestMain lets this program be the function that stock kustomize runs: it is started
// as sealward or ksops.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "sealward", "ksops":
		os.Exit(function())
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	os.Exit(m.Run())
}

// stock finds the real programs that the tests compare with, and puts this program as
// sealward and ksops beside them in PATH.
func stock(t testing.TB) (path string) {
	t.Helper()
	tools, err := filepath.Abs("../../bin/tools")
	if err != nil {
		t.Fatal(err)
	}
	path = tools + string(os.PathListSeparator) + os.Getenv("PATH")
	if _, err := os.Stat(filepath.Join(tools, "kustomize")); err != nil {
		t.Fatal("kustomize is missing: run make tools")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	for _, name := range []string{"sealward", "ksops"} {
		if err := os.Symlink(self, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	return bin + string(os.PathListSeparator) + path
}

// tree is a world made of a txtar file. Its first line says what it is about; then come
//
//	build DIR          the folder to build
//	allow-unbound      files that plain sops sealed are accepted
//	any-folder         LoadRestrictionsNone
//	resources-only     stock kustomize builds the same tree in plaintext
//	remote DIR         DIR becomes a Git repository, tag v1; @remote is its address
//
// Files whose name starts with seal: are sealed as sealward seal does, sops:WORKSPACE:
// by sops with the data of Kubernetes, sops-all: whole, sops-binary: as binary, of base64.
// @sealward and @ksops are the annotation with the function.
type tree struct {
	*world
	build string // absolute
	opts  kustomize.BuildOptions
	plain *world // of resources-only
	env   []string
	u     *kustomize.Unsealer
}

const everything = "builds: {.: [orders, payments, shop, public, instance]}\n"

func readTree(t testing.TB, file, path string) *tree {
	t.Helper()
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, "orders", "payments", "shop", "public", "instance")
	tr := &tree{world: w, u: w.unsealer()}
	tr.env = append(os.Environ(), "PATH="+path, "SEALWARD_KEYRING="+w.keyring, "GIT_ALLOW_PROTOCOL=file")
	w.write("sealward.yaml", everything)
	remote := ""
	for line := range strings.Lines(string(archive.Comment)) {
		switch word, rest, _ := strings.Cut(strings.TrimSpace(line), " "); word {
		case "build":
			tr.build = w.path(rest)
		case "allow-unbound":
			tr.u.AllowUnbound = true
			tr.env = append(tr.env, "SEALWARD_ALLOW_UNBOUND=true")
		case "any-folder":
			tr.opts.AnyFolder = true
		case "resources-only":
			tr.plain = newWorld(t)
		case "remote":
			remote = rest
		}
	}
	for _, f := range archive.Files {
		text := string(f.Data)
		for _, program := range []string{"sealward", "ksops"} {
			text = strings.ReplaceAll(text, "@"+program, fmt.Sprintf(`annotations: {config.kubernetes.io/function: "exec: {path: %s, args: [kustomize]}"}`, program))
		}
		text = strings.ReplaceAll(text, "@remote", "file://"+w.path(remote))
		part := strings.Split(f.Name, ":")
		name := part[len(part)-1]
		switch part[0] {
		case "seal":
			w.seal(name, text)
		case "sops":
			w.sops(name, part[1], "^(data|stringData|binaryData)$", text)
		case "sops-all":
			w.sops(name, part[1], "", text)
		case "sops-binary":
			w.sopsBinary(name, part[1], text)
		default:
			w.write(name, text)
		}
		if tr.plain != nil {
			tr.plain.write(name, text)
		}
	}
	if remote != "" {
		w.git(remote, "init", "-q")
		w.git(remote, "add", ".")
		w.git(remote, "-c", "user.name=dana", "-c", "user.email=dana@example.com", "commit", "-qm", "base")
		w.git(remote, "tag", "v1")
	}
	if tr.build == "" {
		t.Fatalf("%s does not say what to build", file)
	}
	return tr
}

func (w *world) git(dir string, args ...string) {
	w.t.Helper()
	out, err := exec.Command("git", append([]string{"-C", w.path(dir)}, args...)...).CombinedOutput()
	if err != nil {
		w.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
}

// sopsBinary writes a file that the real sops sealed as binary; text is its base64.
func (w *world) sopsBinary(rel, name, text string) {
	w.t.Helper()
	w.write(rel, "")
	c := exec.Command("sh", "-c", `base64 -d | sops encrypt --age "$1" --input-type binary --output-type binary /dev/stdin > "$2"`, "sh", w.ids[name].Recipient().String(), w.path(rel))
	c.Stdin = strings.NewReader(text)
	if out, err := c.CombinedOutput(); err != nil {
		w.t.Fatalf("sops: %v\n%s", err, out)
	}
}

// stock builds the tree with the real kustomize and the exec function.
func (tr *tree) stock() ([]byte, error) {
	dir := tr.build
	if tr.plain != nil {
		rel, err := filepath.Rel(tr.dir, dir)
		tr.must(err)
		dir = tr.plain.path(rel)
	}
	args := []string{"build", "--enable-alpha-plugins", "--enable-exec", dir}
	if tr.opts.AnyFolder {
		args = append(args, "--load-restrictor", "LoadRestrictionsNone")
	}
	c := exec.Command(filepath.Join("../../bin/tools", "kustomize"), args...)
	c.Env = tr.env
	var out, said bytes.Buffer
	c.Stdout, c.Stderr = &out, &said
	if err := c.Run(); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, said.Bytes())
	}
	return out.Bytes(), nil
}

// sorted sorts the documents of a stream.
func sorted(stream []byte) string {
	docs := strings.Split(string(stream), "\n---\n")
	for i := range docs {
		docs[i] = strings.TrimSpace(docs[i])
	}
	slices.Sort(docs)
	return strings.Join(docs, "\n---\n")
}

// Every tree is built twice, by stock kustomize with the function and in this process,
// and is the same.
func TestBuildEqualsStock(t *testing.T) {
	files, err := filepath.Glob("testdata/build/*.txtar")
	if err != nil || len(files) < 25 {
		t.Fatalf("found %d trees: %v", len(files), err)
	}
	path := stock(t)
	t.Setenv("PATH", path)
	t.Setenv("GIT_ALLOW_PROTOCOL", "file")
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			tr := readTree(t, file, path)
			want, err := tr.stock()
			if err != nil {
				t.Fatalf("stock kustomize: %v", err)
			}
			built, err := kustomize.Build(context.Background(), tr.build, tr.u, tr.opts)
			if err != nil {
				t.Fatal(err)
			}
			got, err := built.YAML()
			if err != nil {
				t.Fatal(err)
			}
			if tr.plain == nil && !bytes.Equal(got, want) && sorted(got) == sorted(want) {
				t.Errorf("only the order differs:\n%s\nstock:\n%s", got, want)
			}
			if sorted(got) != sorted(want) {
				t.Errorf("built:\n%s\nstock:\n%s", sorted(got), sorted(want))
			}
			if len(want) == 0 || bytes.Contains(got, []byte(".sealward-")) {
				t.Errorf("built:\n%s", got)
			}
			tr.others(built, got)
		})
	}
}

// others holds the other forms of output to the first.
func (tr *tree) others(built *kustomize.Built, stream []byte) {
	list, err := built.JSON()
	tr.must(err)
	var items struct {
		APIVersion, Kind string
		Items            []map[string]any
	}
	tr.must(yaml.Unmarshal(list, &items))
	files, err := built.Files()
	tr.must(err)
	want := sorted(stream)
	var docs []string
	for _, item := range items.Items {
		text, err := yaml.Marshal(item)
		tr.must(err)
		docs = append(docs, string(text))
	}
	if got := sorted([]byte(strings.Join(docs, "\n---\n"))); items.Kind != "List" || items.APIVersion != "v1" || got != want {
		tr.t.Errorf("as JSON:\n%s\nnot:\n%s", got, want)
	}
	docs = nil
	for _, text := range files {
		docs = append(docs, string(text))
	}
	if got := sorted([]byte(strings.Join(docs, "\n---\n"))); got != want {
		tr.t.Errorf("as files:\n%s\nnot:\n%s", got, want)
	}
}

// function is what stock kustomize runs, as sealward kustomize is.
func function() int {
	k, err := keyring.Open(os.Getenv("SEALWARD_KEYRING"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	dir, err := os.Getwd()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	f := &kustomize.Function{Unsealer: &kustomize.Unsealer{Ring: k.Ring, AllowUnbound: os.Getenv("SEALWARD_ALLOW_UNBOUND") == "true"}, Dir: dir}
	if f.Run(context.Background(), os.Stdin, os.Stdout) != nil {
		return 1 // the results say why
	}
	return 0
}
