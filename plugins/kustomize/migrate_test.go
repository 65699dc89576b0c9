package kustomize

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func writeTree(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestMigrateKSOPS: what differs between the two forms changes, and nothing else, however
// the generator is written; a second time nothing is left to do.
func TestMigrateKSOPS(t *testing.T) {
	for _, c := range []struct {
		name          string
		file          string // g.yaml where it is ""
		before, after string
		note          string
	}{
		{name: "as KSOPS documents it",
			before: "# Ours.\napiVersion: viaduct.ai/v1 # the form\nkind: ksops\nmetadata:\n  # Specify a name\n  name: example\n  annotations:\n    config.kubernetes.io/function: |\n      exec:\n        # if the binary is in your PATH\n        path: ksops\n        # path: ../../ksops\nfiles:\n  # the database\n  - ./db.yaml\n",
			after:  "# Ours.\napiVersion: sealward.dev/v1 # the form\nkind: SealedSecretGenerator\nmetadata:\n  # Specify a name\n  name: example\n  annotations:\n    config.kubernetes.io/function: |\n      exec:\n        # if the binary is in your PATH\n        path: sealward\n        args: [kustomize]\n        # path: ../../ksops\nfiles:\n  # the database\n  - ./db.yaml\n"},
		{name: "secretFrom, options, flow",
			before: "{apiVersion: viaduct.ai/v1, kind: 'ksops', metadata: {name: e, annotations: {config.kubernetes.io/function: 'exec: {path: ./ksops, envs: [A=b]}'}}, secretFrom: [{metadata: {name: x, annotations: {kustomize.config.k8s.io/needs-hash: \"true\"}}, type: Opaque, envs: [./a.env]}]}\n",
			after:  "{apiVersion: sealward.dev/v1, kind: 'SealedSecretGenerator', metadata: {name: e, annotations: {config.kubernetes.io/function: 'exec: {path: sealward, \"args\": [\"kustomize\"], envs: [A=b]}'}}, sources: [{metadata: {name: x, annotations: {kustomize.config.k8s.io/needs-hash: \"true\"}}, type: Opaque, envs: [./a.env]}]}\n",
			note:   "ran ./ksops"},
		{name: "a legacy plugin",
			before: "apiVersion: viaduct.ai/v1\nkind: ksops\nmetadata:\n  name: e # short\nfiles: [db.yaml]\n",
			after:  "apiVersion: sealward.dev/v1\nkind: SealedSecretGenerator\nmetadata:\n  name: e # short\n  annotations:\n    config.kubernetes.io/function: |\n      exec: {path: sealward, args: [kustomize]}\nfiles: [db.yaml]\n",
			note:   "--enable-exec"},
		{name: "a legacy plugin with annotations, at the end of the file",
			before: "files: [db.yaml]\nkind: ksops\napiVersion: viaduct.ai/v1\nmetadata:\n  annotations:\n    a: b\n  name: e",
			after:  "files: [db.yaml]\nkind: SealedSecretGenerator\napiVersion: sealward.dev/v1\nmetadata:\n  annotations:\n    config.kubernetes.io/function: |\n      exec: {path: sealward, args: [kustomize]}\n    a: b\n  name: e",
			note:   "had no function"},
		{name: "JSON", file: "g.json",
			before: "{\n\t\"apiVersion\": \"viaduct.ai/v1\", \"kind\": \"ksops\",\n\t\"metadata\": {\"name\": \"é\"},\n\t\"files\": [\"./db.yaml\"]\n}\n",
			after:  "{\n\t\"apiVersion\": \"sealward.dev/v1\", \"kind\": \"SealedSecretGenerator\",\n\t\"metadata\": {\"name\": \"é\", \"annotations\": {\"config.kubernetes.io/function\": \"exec: {path: sealward, args: [kustomize]}\"}},\n\t\"files\": [\"./db.yaml\"]\n}\n",
			note:   "had no function"},
		{name: "CRLF and a BOM",
			before: "\ufeffapiVersion: viaduct.ai/v1\r\nkind: ksops\r\nmetadata:\r\n  name: e\r\n  annotations:\r\n    config.kubernetes.io/function: |-\r\n        exec:\r\n          path: ksops\r\n\r\nfiles:\r\n- db.yaml\r\n",
			after:  "\ufeffapiVersion: sealward.dev/v1\r\nkind: SealedSecretGenerator\r\nmetadata:\r\n  name: e\r\n  annotations:\r\n    config.kubernetes.io/function: |-\r\n        exec:\r\n          path: sealward\r\n          args: [kustomize]\r\n\r\nfiles:\r\n- db.yaml\r\n"},
		{name: "several documents, of which others stay",
			before: "---\na: b\n...\n---\napiVersion: viaduct.ai/v1\nkind: ksops\nmetadata: {name: e, annotations: {config.k8s.io/function: \"exec: {path: ksops}\\n\"}}\nfiles: [db.yaml]\n---\napiVersion: viaduct.ai/v1\nkind: other\n",
			after:  "---\na: b\n...\n---\napiVersion: sealward.dev/v1\nkind: SealedSecretGenerator\nmetadata: {name: e, annotations: {config.k8s.io/function: \"exec: {path: sealward, \\\"args\\\": [\\\"kustomize\\\"]}\\n\"}}\nfiles: [db.yaml]\n---\napiVersion: viaduct.ai/v1\nkind: other\n"},
		{name: "an image, folded",
			before: "apiVersion: viaduct.ai/v1\nkind: ksops\nmetadata:\n  name: e\n  annotations:\n    config.kubernetes.io/function: >\n      container:\n        image: viaductoss/ksops:v4\n    a: b\nfiles: [db.yaml]\n",
			after:  "apiVersion: sealward.dev/v1\nkind: SealedSecretGenerator\nmetadata:\n  name: e\n  annotations:\n    config.kubernetes.io/function: |\n      exec: {path: sealward, args: [kustomize]}\n    a: b\nfiles: [db.yaml]\n",
			note:   "ran an image"},
		{name: "inline", file: "kustomization.yaml",
			before: "# a tree\nresources: []\ngenerators:\n- other.yaml # no generator of ours\n- |- # two\n    # one\n    apiVersion: viaduct.ai/v1\n    kind: ksops\n    metadata:\n      name: e\n      annotations:\n        config.kubernetes.io/function: |\n          exec:\n            path: ksops\n    files:\n\n    - db.yaml # here\n    ---\n    apiVersion: viaduct.ai/v1\n    kind: ksops\n    metadata: {name: f}\n    files: [db.yaml]\n- \"{apiVersion: viaduct.ai/v1, kind: ksops, metadata: {name: g}, files: [db.yaml]}\"\nnamePrefix: p-\n",
			after:  "# a tree\nresources: []\ngenerators:\n- other.yaml # no generator of ours\n- |- # two\n    # one\n    apiVersion: sealward.dev/v1\n    kind: SealedSecretGenerator\n    metadata:\n      name: e\n      annotations:\n        config.kubernetes.io/function: |\n          exec:\n            path: sealward\n            args: [kustomize]\n    files:\n\n    - db.yaml # here\n    ---\n    apiVersion: sealward.dev/v1\n    kind: SealedSecretGenerator\n    metadata: {name: f, \"annotations\": {\"config.kubernetes.io/function\": \"exec: {path: sealward, args: [kustomize]}\"}}\n    files: [db.yaml]\n- \"{apiVersion: sealward.dev/v1, kind: SealedSecretGenerator, metadata: {name: g, \\\"annotations\\\": {\\\"config.kubernetes.io/function\\\": \\\"exec: {path: sealward, args: [kustomize]}\\\"}}, files: [db.yaml]}\"\nnamePrefix: p-\n",
			note:   "had no function"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if c.file == "" {
				c.file = "g.yaml"
			}
			writeTree(t, dir, map[string]string{"kustomization.yaml": "generators: [g.yaml]\n"})
			writeTree(t, dir, map[string]string{c.file: c.before})
			m, err := MigrateKSOPS(dir)
			if err != nil {
				t.Fatal(err)
			}
			if len(m.Files) != 1 || len(m.Left) > 0 {
				t.Fatalf("%d files, left %v", len(m.Files), m.Left)
			}
			if got := string(m.Files[0].Data); got != c.after {
				t.Errorf("it became\n%s\nwant\n%s", got, c.after)
			}
			if (len(m.Notes) > 0) != (c.note != "") || c.note != "" && !strings.Contains(m.Notes[0].Text, c.note) {
				t.Errorf("notes %v, want %q", m.Notes, c.note)
			}
			writeTree(t, dir, map[string]string{c.file: string(m.Files[0].Data)})
			if m, err := MigrateKSOPS(dir); err != nil || len(m.Files)+len(m.Left)+len(m.Notes) > 0 {
				t.Errorf("a second time: %+v, %v", m, err)
			}
		})
	}
}

// TestMigrateKSOPSLeaves: what cannot be carried over stays, with the reason, and what
// can goes on.
func TestMigrateKSOPSLeaves(t *testing.T) {
	const head = "apiVersion: viaduct.ai/v1\nkind: ksops\nmetadata:\n  name: e\n"
	function := func(text string) string {
		return head + "  annotations:\n    config.kubernetes.io/function: |\n      " + text + "\nfiles: [db.yaml]\n"
	}
	for _, c := range []struct{ name, text, want string }{
		{"another program", function("exec: {path: ./decrypt.sh}"), `runs "./decrypt.sh", not ksops`},
		{"arguments", function("exec: {path: ksops, args: [-v]}"), "gives ksops arguments"},
		{"another image", function("container: {image: example.com/x}"), "not KSOPS's"},
		{"a field that has no counterpart", head + "fail-silently: true\nfiles: [db.yaml]\n", "fail-silently"},
		{"an anchor", strings.Replace(head, "kind: ksops", "kind: &k ksops", 1) + "files: [db.yaml]\n", "cannot be changed in place"},
		{"configFn", head + "  configFn: {exec: {path: ksops}}\nfiles: [db.yaml]\n", "configFn"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			writeTree(t, dir, map[string]string{
				"kustomization.yaml": "generators: [g.yaml, h.yaml]\n", "g.yaml": c.text, "h.yaml": function("exec: {path: ksops}"),
			})
			m, err := MigrateKSOPS(dir)
			if err != nil {
				t.Fatal(err)
			}
			if len(m.Files) != 1 || filepath.Base(m.Files[0].Path) != "h.yaml" || len(m.Left) != 1 || !strings.Contains(m.Left[0].Text, c.want) {
				t.Errorf("%+v", m)
			}
		})
	}
	dir := t.TempDir()
	writeTree(t, dir, map[string]string{"kustomization.yaml": "generators: [a.yaml]\n", "a.yaml": function("exec: {path: ksops}"), "b.yaml": "apiVersion: viaduct.ai/v1\nkind: [hunter2\n"})
	if m, err := MigrateKSOPS(dir); err == nil || !strings.Contains(err.Error(), "b.yaml") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a file that is no YAML: %+v, %v", m, err)
	}
	if err := os.Symlink("a.yaml", filepath.Join(dir, "c.yaml")); err != nil {
		t.Fatal(err)
	}
	writeTree(t, dir, map[string]string{"b.yaml": ""})
	if m, err := MigrateKSOPS(dir); err != nil || len(m.Files) != 1 {
		t.Errorf("a link: %+v, %v", m, err)
	}
	linked := filepath.Join(t.TempDir(), "linked")
	if err := os.Symlink(dir, linked); err != nil {
		t.Fatal(err)
	}
	if m, err := MigrateKSOPS(linked); err != nil || len(m.Files) != 1 || m.Files[0].Path != filepath.ToSlash(linked)+"/a.yaml" {
		t.Errorf("a folder that is a link: %+v, %v", m, err)
	}
}
