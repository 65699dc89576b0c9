package source

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing/filemode"
)

// history is a random repository: commits in the order they were made, with
// merges, criss-cross merges, clocks that run backwards, files that become
// folders, modes that change, and content that comes back.
type history struct {
	repo    repo
	commits []string
	paths   []string // every path that any commit has
}

type node struct{ mode, content string }

func randomHistory(t testing.TB, seed uint64, n int) history {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 0))
	names := []string{"a", "a.b", "a/x", "a/y/z", "a0", "b/c/d/e", "b/c/d.e", "b/c-d", "b/c/f", "workspaces/orders/one.yaml",
		"workspaces/orders/two.yaml", "workspaces/pay/one.yaml", "ü/ÿ", "name with space", "quote\"d", "new\nline", "z"}
	type version struct {
		tree    map[string]node
		parents []int
	}
	var versions []version
	var stream strings.Builder
	heads := []int{}
	fits := func(tree map[string]node, path string) bool {
		for other := range tree {
			if strings.HasPrefix(other, path+"/") || strings.HasPrefix(path, other+"/") {
				return false
			}
		}
		return true
	}
	for i := range n {
		v := version{tree: map[string]node{}}
		switch {
		case i == 0 || i == n/3: // a second root
		case len(heads) > 4 || len(heads) > 1 && random.IntN(4) == 0:
			for _, j := range random.Perm(len(heads))[:min(len(heads), 2+random.IntN(5)/4)] {
				v.parents = append(v.parents, heads[j])
			}
		case random.IntN(8) == 0:
			v.parents = []int{max(0, i-1-random.IntN(30))} // a new branch from further back
		default:
			v.parents = []int{heads[random.IntN(len(heads))]}
		}
		for k, p := range v.parents {
			for _, path := range slices.Sorted(maps.Keys(versions[p].tree)) {
				if _, have := v.tree[path]; k == 0 || random.IntN(2) == 0 || !have {
					if fits(v.tree, path) {
						v.tree[path] = versions[p].tree[path]
					}
				}
			}
		}
		for range random.IntN(4) - len(v.parents)/2 {
			path := names[random.IntN(len(names))]
			if random.IntN(4) == 0 {
				delete(v.tree, path)
				continue
			}
			if !fits(v.tree, path) {
				for other := range v.tree {
					if strings.HasPrefix(other, path+"/") || strings.HasPrefix(path, other+"/") {
						delete(v.tree, other)
					}
				}
			}
			mode := "100644"
			if random.IntN(6) == 0 {
				mode = []string{"100755", "120000"}[random.IntN(2)]
			}
			v.tree[path] = node{mode, fmt.Sprint(random.IntN(4))}
		}
		fmt.Fprintf(&stream, "commit refs/heads/c%d\nmark :%d\ncommitter C <c@example.com> %d +0000\ndata 1\nx\n", i, i+1, 1_700_000_000+60*i-random.IntN(600))
		for k, p := range v.parents {
			fmt.Fprintf(&stream, "%s :%d\n", map[bool]string{true: "from", false: "merge"}[k == 0], p+1)
		}
		stream.WriteString("deleteall\n")
		for _, path := range slices.Sorted(maps.Keys(v.tree)) {
			quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(path)
			fmt.Fprintf(&stream, "M %s inline \"%s\"\ndata %d\n%s\n", v.tree[path].mode, quoted, len(v.tree[path].content), v.tree[path].content)
		}
		heads = slices.DeleteFunc(heads, func(h int) bool { return slices.Contains(v.parents, h) && random.IntN(6) > 0 })
		heads = append(heads, i)
		versions = append(versions, v)
	}
	// One branch that reaches every head.
	fmt.Fprintf(&stream, "commit refs/heads/main\nmark :%d\ncommitter C <c@example.com> 1800000000 +0000\ndata 1\nx\nfrom :%d\n", n+1, n)
	for _, h := range heads {
		if h != n-1 {
			fmt.Fprintf(&stream, "merge :%d\n", h+1)
		}
	}
	h := history{repo: newRepo(t), paths: names}
	h.repo.gitIn(stream.String(), "fast-import", "--quiet")
	for i := range n {
		h.commits = append(h.commits, h.repo.head(fmt.Sprintf("c%d", i)))
	}
	return h
}

func TestDiffAndListAgreeWithGit(t *testing.T) {
	ctx := context.Background()
	h := randomHistory(t, 1, 120)
	m := h.repo.mirror()
	random := rand.New(rand.NewPCG(7, 7))
	compared := 0
	for i := range 60 {
		old, new := h.commits[random.IntN(len(h.commits))], h.commits[random.IntN(len(h.commits))]
		root := []string{".", ".", "a", "b/c", "workspaces", "none"}[i%6]
		changes, problems, err := m.Diff(ctx, hash(t, old), hash(t, new), root)
		isFile := root != "." && strings.HasPrefix(h.repo.git("ls-tree", new, root), "1")
		if err != nil || len(problems) > 0 && !isFile || isFile && (len(problems) != 1 || problems[0].Path != root) {
			t.Fatalf("diff %s %s %s: %v, %v", old, new, root, err, problems)
		}
		var got strings.Builder
		for _, c := range changes {
			if c.Path == root && c.New == nil {
				continue // the root was a file and is no more
			}
			fmt.Fprintf(&got, "%s %s %s\n", side(c.Old), side(c.New), c.Path)
		}
		var want strings.Builder
		fields := strings.Split(h.repo.git("diff-tree", "-r", "--raw", "--no-renames", "--full-index", "-z", old, new, "--", ":(literal)"+root), "\x00")
		for j := 0; j+1 < len(fields); j += 2 {
			// A file named like the root is not below it.
			if f := strings.Fields(fields[j]); fields[j+1] != root {
				fmt.Fprintf(&want, "%s:%s %s:%s %s\n", strings.TrimPrefix(f[0], ":"), f[2], f[1], f[3], fields[j+1])
			}
		}
		if got.String() != want.String() {
			t.Fatalf("diff %s %s below %s:\n%s\ngit says:\n%s", old, new, root, &got, &want)
		}
		compared += len(changes)

		entries, _, err := m.List(ctx, hash(t, new), root)
		if err != nil {
			t.Fatal(err)
		}
		got.Reset()
		for _, e := range entries {
			fmt.Fprintf(&got, "%s %s\n", side(&e), e.Path)
		}
		want.Reset()
		for _, line := range strings.Split(h.repo.git("ls-tree", "-r", "-z", "--full-tree", new, "--", root), "\x00") {
			if meta, path, ok := strings.Cut(line, "\t"); ok && path != root {
				f := strings.Fields(meta)
				fmt.Fprintf(&want, "%s:%s %s\n", f[0], f[2], path)
			}
		}
		if root == "." { // ls-tree takes it for a name
			want.Reset()
			for _, line := range strings.Split(h.repo.git("ls-tree", "-r", "-z", "--full-tree", new), "\x00") {
				if meta, path, ok := strings.Cut(line, "\t"); ok {
					f := strings.Fields(meta)
					fmt.Fprintf(&want, "%s:%s %s\n", f[0], f[2], path)
				}
			}
		}
		if got.String() != want.String() {
			t.Fatalf("list %s below %s:\n%s\ngit says:\n%s", new, root, &got, &want)
		}
		if !slices.IsSortedFunc(entries, func(a, b Entry) int { return strings.Compare(a.Path, b.Path) }) {
			t.Fatal("the list is not sorted by path")
		}
	}
	if compared < 200 {
		t.Errorf("only %d changes were compared", compared)
	}
}

func side(e *Entry) string {
	if e == nil {
		return "000000:" + strings.Repeat("0", 40)
	}
	return fmt.Sprintf("%06o:%s", uint32(e.Mode), e.Hash)
}

func TestIsAncestorAgreesWithGit(t *testing.T) {
	ctx := context.Background()
	h := randomHistory(t, 2, 200)
	m := h.repo.mirror()
	random := rand.New(rand.NewPCG(8, 8))
	yes := 0
	for range 150 {
		i := random.IntN(len(h.commits))
		j := min(len(h.commits)-1, i+random.IntN(12))
		if random.IntN(3) == 0 {
			i, j = j, random.IntN(len(h.commits))
		}
		err := exec.Command("git", "-C", h.repo.dir, "merge-base", "--is-ancestor", h.commits[i], h.commits[j]).Run()
		got, gotErr := m.IsAncestor(ctx, hash(t, h.commits[i]), hash(t, h.commits[j]))
		if gotErr != nil || got != (err == nil) {
			t.Fatalf("%d is an ancestor of %d: %v, %v; git says %v", i, j, got, gotErr, err == nil)
		}
		if got {
			yes++
		}
	}
	if yes < 30 || yes > 120 {
		t.Errorf("%d of 150 pairs are ancestors: the test is lopsided", yes)
	}
	if _, err := m.IsAncestor(ctx, Hash{1}, hash(t, h.commits[0])); err == nil {
		t.Error("an unknown commit was compared")
	}
}

// Near answers come without a walk of the whole history.
func TestIsAncestorStaysNear(t *testing.T) {
	ctx := context.Background()
	h := randomHistory(t, 3, 400)
	m := h.repo.mirror()
	m.maxEntries = 150
	head := h.repo.head("main")
	for _, near := range []string{h.repo.git("rev-parse", "main~2"), h.repo.git("rev-parse", "main^2")} {
		for _, c := range []struct {
			old, new string
			want     bool
		}{{near, head, true}, {head, near, false}} {
			if got, err := m.IsAncestor(ctx, hash(t, c.old), hash(t, c.new)); err != nil || got != c.want {
				t.Errorf("%s before %s: %v, %v", c.old, c.new, got, err)
			}
		}
	}
	_, err := m.IsAncestor(ctx, hash(t, h.commits[0]), hash(t, head))
	mustBe(t, err, ErrTooMany)
}

func TestLastChangesAgreesWithGit(t *testing.T) {
	ctx := context.Background()
	found, beyond := 0, 0
	for seed := range uint64(3) {
		h := randomHistory(t, 10+seed, 150)
		m := h.repo.mirror()
		random := rand.New(rand.NewPCG(seed, 9))
		for range 4 {
			head := h.commits[len(h.commits)-1-random.IntN(40)]
			entries, _, err := m.List(ctx, hash(t, head), ".")
			if err != nil {
				t.Fatal(err)
			}
			paths := []string{"never/there"}
			for _, e := range entries {
				paths = append(paths, e.Path)
			}
			base := h.commits[len(h.commits)-1-random.IntN(80)]
			all, err := m.LastChanges(ctx, Hash{}, hash(t, head), paths, 10_000)
			if err != nil {
				t.Fatal(err)
			}
			since, err := m.LastChanges(ctx, hash(t, base), hash(t, head), paths, 10_000)
			if err != nil {
				t.Fatal(err)
			}
			for _, path := range paths {
				want := h.repo.git("log", "-1", "--format=%H", head, "--", ":(literal)"+path)
				got, ok := all[path]
				if ok != (want != "") || ok && got.Hash.String() != want {
					t.Fatalf("seed %d: last change of %q before %s is %s, git says %s", seed, path, head, got.Hash, want)
				}
				if !ok {
					continue
				}
				found++
				if got, ok := since[path]; ok && got.Hash.String() != want {
					t.Fatalf("seed %d: with base %s the last change of %q is %s, git says %s", seed, base, path, got.Hash, want)
				} else if !ok {
					// Then the base is on the way.
					beyond++
					if yes, err := m.IsAncestor(ctx, hash(t, want), hash(t, base)); !yes || err != nil {
						t.Fatalf("seed %d: with base %s the last change of %q is unknown, although it came after (%v)", seed, base, path, err)
					}
				}
			}
		}
	}
	if found < 50 || beyond == 0 {
		t.Errorf("%d found, %d beyond the base: the test shows little", found, beyond)
	}
}

func TestLastChangesBounds(t *testing.T) {
	ctx := context.Background()
	r := newRepo(t)
	one := r.commit("main", "one", files{"old": "1", "new": "1"})
	two := r.commit("main", "two", files{"old": "1", "new": "2"}, one)
	three := r.commit("main", "three", files{"old": "1", "new": "2", "other": "1"}, two)
	m := r.mirror()
	for n, want := range []int{0, 0, 1, 2} {
		got, err := m.LastChanges(ctx, Hash{}, hash(t, three), []string{"old", "new"}, n)
		if err != nil || len(got) != want {
			t.Errorf("after %d commits: %v, %v; want %d paths", n, got, err, want)
		}
	}
	got, err := m.LastChanges(ctx, hash(t, one), hash(t, three), []string{"old", "new"}, 100)
	if err != nil || len(got) != 1 || got["new"].Hash.String() != two {
		t.Errorf("since the base: %v, %v", got, err)
	}
	if got["new"].Subject != "two" {
		t.Errorf("the commit is not described: %+v", got["new"])
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := m.LastChanges(cancelled, Hash{}, hash(t, three), []string{"old"}, 100); err == nil {
		t.Error("a cancelled walk went on")
	}
}

func TestModesAreGits(t *testing.T) {
	for digits, want := range map[string]filemode.FileMode{
		"40000": filemode.Dir, "040000": filemode.Dir, "100644": filemode.Regular, "100664": filemode.Regular, "100600": filemode.Regular,
		"100755": filemode.Executable, "100700": filemode.Executable, "120000": filemode.Symlink, "160000": filemode.Submodule,
	} {
		if got, ok := parseMode(digits); !ok || got != want {
			t.Errorf("mode %s is %o, want %o", digits, got, want)
		}
	}
	for _, digits := range []string{"", "0", "1", "644", "10644", "100648", "-100644", "0x81a4", "00100644", "60000", "20000", "10000", "140000"} {
		if got, ok := parseMode(digits); ok || got == 0 {
			t.Errorf("mode %q was taken for %o", digits, got)
		}
	}
}
