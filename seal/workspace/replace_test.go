package workspace

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sealward/sealward/seal/manifest"
)

func replaceable(t *testing.T) *Repository {
	t.Helper()
	r, _, err := InitRepository(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"a.yaml", "b.yaml", "p/x.yaml", "p/y.yaml", "README.md"} {
		if err := r.Write("workspaces/orders/secrets/"+f, []byte("old "+f)); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func contents(t *testing.T, r *Repository) string {
	t.Helper()
	var out []string
	root := filepath.Join(r.Dir(), "workspaces/orders")
	err := filepath.WalkDir(root, func(file string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(root, file)
		text, err := os.ReadFile(file)
		out = append(out, rel+"="+string(text))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

const inOrders = "workspaces/orders/secrets"

func TestReplace(t *testing.T) {
	r := replaceable(t)
	other := filepath.Join(r.Dir(), inOrders, "b.yaml")
	if err := os.Chmod(other, 0o640); err != nil {
		t.Fatal(err)
	}
	err := r.Replace(inOrders, map[string][]byte{
		inOrders + "/a.yaml": []byte("new a"), inOrders + "/p/x.yaml": nil, inOrders + "/p/y.yaml": nil, inOrders + "/q/z.yaml": []byte("new z"),
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := "secrets/README.md=old README.md\nsecrets/a.yaml=new a\nsecrets/b.yaml=old b.yaml\nsecrets/q/z.yaml=new z"
	if got := contents(t, r); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if info, err := os.Stat(other); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("the mode of an unchanged file: %v, %v", info.Mode(), err)
	}
	if _, err := os.Stat(filepath.Join(r.Dir(), inOrders, "p")); !errors.Is(err, os.ErrNotExist) {
		t.Error("a folder that lost its last file is still there")
	}
}

// What cannot be done changes nothing and leaves nothing.
func TestReplaceRefuses(t *testing.T) {
	outside := t.TempDir()
	for name, c := range map[string]struct {
		prepare func(*Repository)
		folder  string
		file    string
		want    string
	}{
		"outside the folder": {func(*Repository) {}, inOrders, "workspaces/payments/secrets/a.yaml", "is not below"},
		"up and out":         {func(*Repository) {}, inOrders, inOrders + "/../../x", "is not below"},
		"a link":             {func(r *Repository) { symlink(t, outside, filepath.Join(r.Dir(), inOrders, "l.yaml")) }, inOrders, inOrders + "/l.yaml", "is a link"},
		"a folder that is a link": {func(r *Repository) {
			at := filepath.Join(r.Dir(), "workspaces/orders/linked")
			symlink(t, outside, at)
		}, "workspaces/orders/linked", "workspaces/orders/linked/a.yaml", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := replaceable(t)
			c.prepare(r)
			before := namesBelow(r)
			if err := r.Replace(c.folder, map[string][]byte{c.file: []byte("x")}, nil); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if after := namesBelow(r); after != before {
				t.Errorf("changed from\n%s\nto\n%s", before, after)
			}
			if left, _ := os.ReadDir(outside); len(left) > 0 {
				t.Errorf("written outside: %v", left)
			}
		})
	}
}

func symlink(t *testing.T, to, at string) {
	t.Helper()
	if err := os.Symlink(to, at); err != nil {
		t.Fatal(err)
	}
}

// namesBelow lists names only; links stay unread.
func namesBelow(r *Repository) string {
	var out []string
	_ = filepath.WalkDir(filepath.Join(r.Dir(), "workspaces"), func(file string, d os.DirEntry, err error) error {
		out = append(out, file)
		return err
	})
	return strings.Join(out, "\n")
}

// The two renames of a file system without exchange: killed between them, the
// next command finds the old folder again.
func TestReplaceIsUndoneAfterAKillBetweenTwoRenames(t *testing.T) {
	r := replaceable(t)
	before := contents(t, r)
	staging := filepath.Join(r.Dir(), "workspaces/orders", stagingPrefix+"999999999-1")
	if err := os.Mkdir(staging, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(r.Dir(), inOrders), filepath.Join(staging, "old")); err != nil {
		t.Fatal(err)
	}
	r, err := FindRepository(r.Dir())
	if err != nil {
		t.Fatal(err)
	}
	if after := contents(t, r); after != before {
		t.Errorf("got\n%s\nwant\n%s", after, before)
	}
}

func TestFindSecret(t *testing.T) {
	r := replaceable(t)
	name := func(s string) manifest.Name {
		n, err := manifest.ParseName(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	key := func(s string) manifest.Key {
		k, err := manifest.ParseKey(s)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	if s, err := r.FindSecret(scope(t, "orders"), name("a")); err != nil || s.InParts || len(s.Files) != 1 {
		t.Errorf("one file: %+v, %v", s, err)
	}
	s, err := r.FindSecret(scope(t, "orders"), name("p"))
	if err != nil || !s.InParts || len(s.Files) != 2 {
		t.Fatalf("parts: %+v, %v", s, err)
	}
	if at := s.PartPath(key("X"), ".yaml", s.Files); at != inOrders+"/p/X-2.yaml" {
		t.Errorf("a part whose name differs in case only: %s", at)
	}
	if at := s.PartPath(key(strings.Repeat("k", 253)), ".yaml", nil); len(filepath.Base(at)) > 255 {
		t.Errorf("a file name of %d bytes", len(filepath.Base(at)))
	}
	if _, err := r.FindSecret(scope(t, "orders"), name("none")); !errors.Is(err, ErrNoSecret) {
		t.Errorf("no such secret: %v", err)
	}
	for file, want := range map[string]string{"p.yaml": "not both", "p/deep/x.yaml": "is no part", "p/notes.txt": "is no part"} {
		r := replaceable(t)
		if err := r.Write(inOrders+"/"+file, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := r.FindSecret(scope(t, "orders"), name("p")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", file, err, want)
		}
	}
}

// A repository can hold anything under the names that Replace works with, and
// every command looks for what a kill left behind there.
func TestLeftoversOfARepositoryReachNothingOutside(t *testing.T) {
	const gone = stagingPrefix + "4194305-1" // of no process: over Linux's highest id
	for name, plant := range map[string]func(t *testing.T, dir, outside string){
		"a link as the folder itself": func(t *testing.T, dir, outside string) {
			symlink(t, outside, filepath.Join(dir, "workspaces/orders", gone))
		},
		"beside no secrets": func(t *testing.T, dir, outside string) {
			if err := os.MkdirAll(filepath.Join(dir, "workspaces/fresh"), 0o777); err != nil {
				t.Fatal(err)
			}
			symlink(t, outside, filepath.Join(dir, "workspaces/fresh", gone))
		},
		"a link as the workspace": func(t *testing.T, dir, outside string) {
			if err := os.Rename(outside, outside+"-"); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(outside, 0o777); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(outside+"-", filepath.Join(outside, gone)); err != nil {
				t.Fatal(err)
			}
			symlink(t, outside, filepath.Join(dir, "workspaces/fresh"))
		},
		"links inside it": func(t *testing.T, dir, outside string) {
			if err := os.MkdirAll(filepath.Join(dir, "workspaces/fresh", gone), 0o777); err != nil {
				t.Fatal(err)
			}
			symlink(t, filepath.Join(outside, "old"), filepath.Join(dir, "workspaces/fresh", gone, "old"))
			symlink(t, filepath.Join(outside, "new"), filepath.Join(dir, "workspaces/fresh", gone, "new"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := replaceable(t)
			outside := filepath.Join(t.TempDir(), "home")
			for _, f := range []string{"old/letter", "new/letter"} {
				if err := os.MkdirAll(filepath.Dir(filepath.Join(outside, f)), 0o777); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(outside, f), nil, 0o666); err != nil {
					t.Fatal(err)
				}
			}
			plant(t, r.Dir(), outside)
			if _, err := FindRepository(r.Dir()); err != nil {
				t.Fatal(err)
			}
			letters := 0
			err := filepath.WalkDir(filepath.Dir(outside), func(_ string, d os.DirEntry, err error) error {
				if err == nil && d.Name() == "letter" {
					letters++
				}
				return err
			})
			if err != nil || letters != 2 {
				t.Errorf("%d of 2 files outside the repository are left, %v", letters, err)
			}
			if info, err := os.Lstat(filepath.Join(r.Dir(), "workspaces/fresh/secrets")); err == nil {
				t.Errorf("what a link leads to became secrets: %s", info.Mode())
			}
		})
	}
}
