package workload_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal/client"
	"github.com/sealward/sealward/unseal/workload"
)

func TestParse(t *testing.T) {
	uses, err := workload.Parse("w.yaml", []byte(`
name: svc
type: service
workspace: shop
service:
  stackSpec:
    dataosSecrets:
      - name: orders-db-r
        workspace: orders
        key: password
      - {name: tls, allkeys: true, consumptionType: file}
      - name: conf
        keys: [a, b]
        consumptionType: propfile
      - {name: orders-db-r, workspace: orders, key: user}
    other: {secrets: [plain, words]}
---
workflow:
  dag:
  - name: job
    spec: {dataosSecrets: [{name: x, workspace: instance}]}
  - depot: {secrets: [{name: x-r, allKeys: true}, {name: x-rw}]}
`), manifest.Public())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, u := range uses {
		got = append(got, fmt.Sprint(u.Item, u.Keys, u.As))
	}
	want := "orders/orders-db-r [password user]envVars shop/tls []file shop/conf [a b]propFile instance/x []envVars public/x-r []envVars public/x-rw []envVars"
	if strings.Join(got, " ") != want {
		t.Errorf("%s\nwant %s", strings.Join(got, " "), want)
	}
}

func TestParseRefuses(t *testing.T) {
	for in, want := range map[string]string{
		"name: x":                                                   "names no secrets",
		"dataosSecrets: {name: x}":                                  "w.yaml:1:16: dataosSecrets is not a list",
		"dataosSecrets: [x]":                                        "1:17: is not an entry",
		"dataosSecrets:\n- keys: [a]":                               "2:3: name is missing",
		"dataosSecrets:\n- name: ../x":                              "2:9:",
		"dataosSecrets:\n- name: x/y":                               "2:9:",
		"dataosSecrets:\n- name: [x]":                               "2:9: \"name\" needs one value",
		"dataosSecrets:\n- name:":                                   "needs one value",
		"dataosSecrets:\n- {name: x, workspace: ..}":                "2:24:",
		"workspace: A/B\ndataosSecrets:\n- {name: x}":               "1:12:",
		"dataosSecrets:\n- {name: x, key: ../../etc/passwd}":        "2:18:",
		"dataosSecrets:\n- {name: x, keys: [a, ..]}":                "2:23:",
		"dataosSecrets:\n- {name: x, keys: []}":                     "keys is not a list of keys",
		"dataosSecrets:\n- {name: x, keys: [[a]]}":                  "is not a key",
		"dataosSecrets:\n- {name: x, keys: [a, a]}":                 "a stands twice",
		"dataosSecrets:\n- {name: x, key: a, keys: [b]}":            "exclude each other",
		"dataosSecrets:\n- {name: x, key: a, allKeys: true}":        "exclude each other",
		"dataosSecrets:\n- {name: x, allKeys: false}":               "no key is named",
		"dataosSecrets:\n- {name: x, allKeys: maybe}":               "allKeys is true or false",
		"dataosSecrets:\n- {name: x, allKeys: true, allkeys: true}": "stands twice",
		"dataosSecrets:\n- {name: x, name: y}":                      "stands twice",
		"dataosSecrets:\n- {name: x, consumptionType: env}":         "consumptionType is",
		"dataosSecrets:\n- {name: x, mountPath: /etc}":              `2:13: "mountPath" is no field`,
		"a: &a {name: x}\ndataosSecrets: [*a]":                      "is not an entry",
		"dataosSecrets:\n- {name: &n x}":                            "anchors",
		"dataosSecrets:\n- &e {name: x}":                            "anchors",
		"dataosSecrets: [{name: x}]\nb: {c: hunter2\n":              "is not YAML",
		strings.Repeat("[", 200) + strings.Repeat("]", 200):         "nested",
		"dataosSecrets:\n" + many(101):                              "names 101 secrets",
		strings.Repeat("#", 2<<20+1):                                "larger than",
	} {
		if uses, err := workload.Parse("w.yaml", []byte(in), manifest.Public()); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter") {
			t.Errorf("%.60q: %v, %v; want %q", in, uses, err, want)
		}
	}
}

func many(n int) string {
	var out strings.Builder
	for i := range n {
		fmt.Fprintf(&out, "- {name: x%d}\n", i)
	}
	return out.String()
}

func uses(t *testing.T, text string) []workload.Use {
	t.Helper()
	u, err := workload.Parse("w.yaml", []byte("dataosSecrets: ["+text+"]"), parsed(t, manifest.ParseWorkspace, "orders"))
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestFiles(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	of := uses(t, "{name: db}, {name: api, consumptionType: propFile}, {name: tls, consumptionType: file}, {name: gone}, {name: far}")
	db, api, tls := entry(t, "db", "password", "hunter2"), entry(t, "api", "token", "hunter3"), entry(t, "tls", "tls.key", "hunter4", "...", "x")
	delete(tls.Secret.Data, "...")
	gone, far := entry(t, "gone"), entry(t, "far", "x", "y")
	gone = client.Entry{Item: gone.Item, Err: fmt.Errorf("%w: hunter5", client.ErrDenied)}
	far.Unconfirmed, far.Why = now, errors.New("https://agent: hunter6")
	files, err := workload.Files(of, []client.Entry{db, api, tls, gone, far}, now)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{".env": "PASSWORD='hunter2'\nX='y'\n", "api.properties": "token=hunter3\n", "tls/tls.key": "hunter4"} {
		if string(files[name]) != want {
			t.Errorf("%s: %q", name, files[name])
		}
	}
	var status workload.Status
	if err := json.Unmarshal(files[workload.StatusFile], &status); err != nil || len(files) != 4 {
		t.Fatalf("%v %v", err, len(files))
	}
	states := ""
	for _, s := range status.Secrets {
		states += s.Name + ":" + s.State + " "
	}
	if states != "db:current api:current tls:current gone:dropped far:stale " || strings.Contains(string(files[workload.StatusFile]), "hunter") {
		t.Errorf("%s", files[workload.StatusFile])
	}
	// What two would write is an error, as are values that a form does not hold.
	for text, entries := range map[string][]client.Entry{
		"{name: a, consumptionType: file}, {name: a, workspace: shop, consumptionType: file}": {entry(t, "a", "k", "hunter1"), entry(t, "a", "k", "hunter1")},
		"{name: a, consumptionType: file}":               {entry(t, "a", "key", "hunter1", "KEY", "hunter2")},
		"{name: a}, {name: b}":                           {entry(t, "a", "a-b", "hunter1"), entry(t, "b", "a.b", "hunter1")},
		"{name: a, consumptionType: propFile}":           {entry(t, "a", "k", "hunter1\x00")},
		"{name: a}":                                      {entry(t, "a", "k", "hunter1\r")},
		"{name: a, allKeys: true}":                       {entry(t, "a", "ld.preload", "hunter1")},
		"{name: a, workspace: x, consumptionType: file}": {entry(t, "a", "../../evil", "hunter1")},
	} {
		if files, err := workload.Files(uses(t, text), entries, now); err == nil || strings.Contains(err.Error(), "hunter") {
			t.Errorf("%s: %d files, %v", text, len(files), err)
		}
	}
}

func TestFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out")
	folder, err := workload.OpenFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	write := func(files map[string]string) error {
		in := map[string][]byte{}
		for k, v := range files {
			in[k] = []byte(v)
		}
		return folder.Write(in)
	}
	if err := write(map[string]string{".env": "A='1'\n", "tls/key": "k1", "tls/crt": "c1", "old.properties": "x"}); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{".": 0o700, "..data": 0o500, "..data/tls": 0o500, ".env": 0o400, "tls/key": 0o400} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v %v", name, info, err)
		}
	}
	// What is no longer there leaves no link, and no earlier state stays.
	if err := write(map[string]string{".env": "A='2'\n", "tls/key": "k2"}); err != nil {
		t.Fatal(err)
	}
	entries, _ := os.ReadDir(dir)
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..v-") {
			names = append(names, "state")
			continue
		}
		names = append(names, e.Name())
	}
	if got := strings.Join(names, " "); got != "..data state .env tls" {
		t.Errorf("left: %s", got)
	}
	if _, err := os.Stat(filepath.Join(dir, "tls/crt")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is gone: %v", err)
	}
	// Names that lead elsewhere are refused, and change nothing.
	for _, name := range []string{"../x", "/etc/x", "a/../../x", "..data", "..v-x", "a/b/c", "", "a/", ".."} {
		if err := write(map[string]string{name: "evil", ".env": "A='3'\n"}); err == nil {
			t.Errorf("%q was written", name)
		}
	}
	if text, err := os.ReadFile(filepath.Join(dir, ".env")); err != nil || string(text) != "A='2'\n" {
		t.Errorf("%q %v", text, err)
	}
	// It opens again what it left, also after a write that was cut off.
	if err := os.Mkdir(filepath.Join(dir, "..v-cut"), 0o500); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("..v-cut", filepath.Join(dir, "..data-new")); err != nil {
		t.Fatal(err)
	}
	if folder, err = workload.OpenFolder(dir); err != nil {
		t.Fatal(err)
	}
	if err := write(map[string]string{".env": "A='4'\n"}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "..v-cut")); err == nil {
		t.Error("what was cut off is still there")
	}
	// A folder with anything else in it, or that others may write, is not taken.
	for name, make := range map[string]func(dir string) error{
		"a file":     func(dir string) error { return os.WriteFile(filepath.Join(dir, "x"), nil, 0o600) },
		"a link":     func(dir string) error { return os.Symlink("/etc", filepath.Join(dir, "tls")) },
		"..data":     func(dir string) error { return os.Symlink("/etc", filepath.Join(dir, "..data")) },
		"for others": func(dir string) error { return os.Chmod(dir, 0o777) },
	} {
		dir := t.TempDir()
		if err := make(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := workload.OpenFolder(dir); err == nil {
			t.Errorf("%s: the folder was taken", name)
		}
	}
}

// Whoever reads through ..data sees one state or another, never a mixture, and never
// nothing.
func TestReadersSeeOneState(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out")
	folder, err := workload.OpenFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	put := func(n int) {
		text := []byte(fmt.Sprint(n))
		if err := folder.Write(map[string][]byte{"a": text, "b/c": text}); err != nil {
			t.Error(err)
		}
	}
	put(0)
	done := make(chan struct{})
	var reading sync.WaitGroup
	for range 2 {
		reading.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if _, err := os.ReadFile(filepath.Join(dir, "a")); err != nil {
					t.Errorf("one file: %v", err)
				}
				state, err := os.OpenRoot(filepath.Join(dir, "..data"))
				if err != nil {
					t.Errorf("..data: %v", err)
					continue
				}
				a, err1 := state.ReadFile("a")
				c, err2 := state.ReadFile("b/c")
				// A state that was replaced may be removed while it is read: said, not mixed.
				if err1 == nil && err2 == nil && string(a) != string(c) {
					t.Errorf("a mixture: %s and %s", a, c)
				}
				state.Close()
			}
		})
	}
	for n := range 20 {
		put(n)
	}
	close(done)
	reading.Wait()
}
