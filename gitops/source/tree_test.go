package source

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// rawTree stores a tree object that git itself would refuse to make.
func (r repo) rawTree(lines ...string) string {
	r.t.Helper()
	return r.gitIn(strings.Join(lines, ""), "hash-object", "-w", "-t", "tree", "--literally", "--stdin")
}

func line(t testing.TB, mode, name, object string) string {
	t.Helper()
	raw, err := hex.DecodeString(object)
	if err != nil {
		t.Fatal(err)
	}
	return mode + " " + name + "\x00" + string(raw)
}

// inject gives a mirror of every object, as a server that checks nothing would
// send them: git's own refuses to pack what it cannot walk.
func (r repo) inject() *Mirror {
	r.t.Helper()
	names := r.git("cat-file", "--batch-all-objects", "--batch-check=%(objectname)")
	cmd := exec.Command("git", "pack-objects", "--stdout", "-q")
	cmd.Dir = r.dir
	cmd.Stdin = strings.NewReader(names + "\n")
	pack, err := cmd.Output()
	if err != nil {
		r.t.Fatal(err)
	}
	m := r.open(Config{URL: r.dir, Branch: "main"})
	if err := m.store.receive(bytes.NewReader(pack), 1<<30, 1<<30); err != nil {
		r.t.Fatal(err)
	}
	return m
}

// rawCommit puts a tree on main.
func (r repo) rawCommit(tree string, parents ...string) string {
	r.t.Helper()
	text := "tree " + tree + "\n"
	for _, p := range parents {
		text += "parent " + p + "\n"
	}
	text += "author A <a@example.com> 1700000000 +0000\ncommitter C <c@example.com> 1700000000 +0000\n\nbad\n"
	commit := r.gitIn(text, "hash-object", "-w", "-t", "commit", "--literally", "--stdin")
	r.git("update-ref", "refs/heads/main", commit)
	return commit
}

func TestBadTrees(t *testing.T) {
	ctx := context.Background()
	r := newRepo(t)
	blob := r.gitIn("good", "hash-object", "-w", "--stdin")
	other := r.gitIn("other", "hash-object", "-w", "--stdin")
	dir := r.rawTree(line(t, "100644", "inside", blob))
	file := func(name string) string { return line(t, "100644", name, blob) }
	folder := func(name string) string { return line(t, "40000", name, dir) }

	for name, c := range map[string]struct {
		tree []string
		bad  string // path of the one problem, below bad/
		says string
		good string // paths of the good entries below bad/
	}{
		"no name":             {[]string{file(""), file("z")}, "bad/", "no name", "z"},
		"dot":                 {[]string{folder("."), file("z")}, "bad/.", "points elsewhere", "z"},
		"dot dot":             {[]string{folder(".."), file("z")}, "bad/..", "points elsewhere", "z"},
		"git":                 {[]string{folder(".git"), file("z")}, "bad/.git", "git's own", "z"},
		"Git":                 {[]string{file(".GiT"), file("z")}, "bad/.GiT", "git's own", "z"},
		"slash":               {[]string{file("a/../../b"), file("z")}, "bad/a/../../b", "slash", "z"},
		"not UTF-8":           {[]string{file("a\xff"), file("z")}, "bad/a\xff", "not UTF-8", "z"},
		"twice":               {[]string{file("a"), line(t, "100644", "a", other), file("z")}, "bad/a", "twice", "z"},
		"folder twice":        {[]string{folder("a"), folder("a"), file("z")}, "bad/a", "twice", "z"},
		"three times":         {[]string{file("a"), file("a"), folder("a"), file("z")}, "bad/a", "twice", "z"},
		"file and folder":     {[]string{file("a"), folder("a"), file("z")}, "bad/a", "twice", "z"},
		"apart":               {[]string{file("a"), file("a!"), file("a-b"), file("a."), folder("a"), file("z")}, "bad/a", "twice", "a! a-b a. z"},
		"apart, out of order": {[]string{folder("a"), file("z"), file("a-b"), file("a")}, "bad/a", "twice", "a-b z"},
		"unknown mode":        {[]string{line(t, "60000", "a", blob), file("z")}, "bad/a", "unknown file mode", "z"},
		"mode in words":       {[]string{line(t, "file", "a", blob), file("z")}, "bad/a", "unknown file mode", "z"},
		"no object":           {[]string{line(t, "40000", "a", strings.Repeat("0", 40)), file("z")}, "bad/a", "names no object", "z"},
		"folder is a file":    {[]string{line(t, "40000", "a", blob), file("z")}, "bad/a", "not a tree", "z"},
		"truncated":           {[]string{file("a"), "100644 b\x00short"}, "bad", "malformed", ""},
		"no mode":             {[]string{"garbage"}, "bad", "malformed", ""},
		"out of order":        {[]string{file("z"), folder("m"), file("a")}, "", "", "a m/inside z"},
	} {
		t.Run(name, func(t *testing.T) {
			r := repo{t, r.dir}
			subtree := r.rawTree(c.tree...)
			sound := r.rawCommit(r.rawTree(folder("bad"), file("fine")))
			broken := r.rawCommit(r.rawTree(line(t, "40000", "bad", subtree), file("fine")), sound)
			gone := r.rawCommit(r.rawTree(file("fine")), broken)
			m := r.inject()

			want := "fine"
			for _, path := range strings.Fields(c.good) {
				want += " bad/" + path
			}
			check := func(problems []Problem) {
				t.Helper()
				switch {
				case c.bad == "" && len(problems) != 0:
					t.Errorf("unexpected problems: %v", problems)
				case c.bad != "" && (len(problems) != 1 || problems[0].Path != c.bad || !strings.Contains(problems[0].Reason, c.says)):
					t.Errorf("problems %v, want one of %q that says %q", problems, c.bad, c.says)
				}
			}
			entries, problems, err := m.List(ctx, hash(t, broken), ".")
			if err != nil {
				t.Fatal(err)
			}
			check(problems)
			got := map[string]bool{}
			for _, e := range entries {
				got[e.Path] = true
			}
			if len(got) != len(strings.Fields(want)) {
				t.Errorf("listed %v, want %s", entries, want)
			}
			for _, path := range strings.Fields(want) {
				if !got[path] {
					t.Errorf("listed %v, want %s", entries, want)
				}
			}

			// A caller that holds what the changes say, and keeps what a
			// problem covers, ends with what the list says.
			held := map[string]bool{"fine": true, "bad/inside": true}
			stale := map[string]bool{}
			apply := func(from, to string) {
				t.Helper()
				changes, problems, err := m.Diff(ctx, hash(t, from), hash(t, to), ".")
				if err != nil {
					t.Fatal(err)
				}
				if to == broken {
					check(problems)
				}
				for _, p := range problems {
					stale[p.Path] = true
				}
				for _, ch := range changes {
					if ch.New != nil {
						held[ch.Path] = true
					} else {
						delete(held, ch.Path)
						covered := false
						for _, p := range problems {
							covered = covered || p.Covers(ch.Path)
						}
						if !covered {
							delete(stale, ch.Path)
						}
					}
				}
			}
			apply(sound, broken)
			if len(held) != len(got) {
				t.Errorf("the changes lead to %v, the list is %v", held, got)
			}
			if (c.bad != "") != (len(stale) == 1) {
				t.Errorf("the problems lead to %v", stale)
			}
			apply(broken, gone)
			if len(held) != 1 || !held["fine"] || len(stale) != 0 {
				t.Errorf("after the folder is gone there are still %v and %v", held, stale)
			}
		})
	}
}

func TestBadRoot(t *testing.T) {
	ctx := context.Background()
	r := newRepo(t)
	one := r.commit("main", "one", files{"a/b": "1", "f": "1"})
	m := r.mirror()
	for root, says := range map[string]string{"": "not a folder", "/a": "not a folder", "a/": "not a folder", "a/../a": "not a folder", "a/./b": "not a folder"} {
		_, _, err := m.List(ctx, hash(t, one), root)
		mustSay(t, err, says)
	}
	if entries, problems, err := m.List(ctx, hash(t, one), "a/none"); len(entries)+len(problems) != 0 || err != nil {
		t.Errorf("a root that is not there: %v, %v, %v", entries, problems, err)
	}
	for _, root := range []string{"f", "f/x"} {
		entries, problems, err := m.List(ctx, hash(t, one), root)
		if len(entries) != 0 || len(problems) != 1 || problems[0].Path != "f" || err != nil {
			t.Errorf("a root below a file: %v, %v, %v", entries, problems, err)
		}
	}
	_, _, err := m.List(ctx, Hash{1}, ".")
	mustBe(t, err, ErrNotFound)
}

func TestSymlinksAndSubmodulesAreEntries(t *testing.T) {
	r := newRepo(t)
	blob := r.gitIn("target", "hash-object", "-w", "--stdin")
	commit := r.rawCommit(r.rawTree(line(t, "120000", "link", blob), line(t, "160000", "module", strings.Repeat("1", 40))))
	entries, problems, err := r.mirror().List(context.Background(), hash(t, commit), ".")
	if got := fmt.Sprint(entries, problems, err); !strings.Contains(got, "link") || !strings.Contains(got, "0120000") ||
		!strings.Contains(got, "module") || !strings.Contains(got, "0160000") || len(problems) > 0 {
		t.Error(got)
	}
}

func TestTreeBounds(t *testing.T) {
	ctx := context.Background()
	r := newRepo(t)
	blob := r.gitIn("x", "hash-object", "-w", "--stdin")
	t.Run("depth", func(t *testing.T) {
		r := repo{t, r.dir}
		nest := func(n int) string {
			tree := r.rawTree(line(t, "100644", "f", blob))
			for range n {
				tree = r.rawTree(line(t, "40000", "d", tree))
			}
			return r.rawCommit(tree)
		}
		fits, deep := nest(maxDepth), nest(maxDepth+1)
		r.git("update-ref", "refs/heads/keep", fits)
		m := r.mirror()
		if m2 := r.open(Config{URL: r.dir, Branch: "keep"}); true {
			if _, err := m2.Fetch(ctx); err != nil {
				t.Fatal(err)
			}
			if entries, problems, err := m2.List(ctx, hash(t, fits), "."); len(entries) != 1 || len(problems) != 0 || err != nil {
				t.Errorf("%d folders: %v, %v, %v", maxDepth, entries, problems, err)
			}
		}
		entries, problems, err := m.List(ctx, hash(t, deep), ".")
		if len(entries) != 0 || len(problems) != 1 || err != nil {
			t.Errorf("%d folders: %v, %v, %v", maxDepth+1, entries, problems, err)
		}
	})
	t.Run("bombs", func(t *testing.T) {
		// A few hundred bytes that name 10^9 files, or only 10^9 folders.
		for _, leaf := range []string{r.rawTree(line(t, "100644", "f", blob)), r.rawTree()} {
			r := repo{t, r.dir}
			tree := leaf
			for range 9 {
				var lines []string
				for i := range 10 {
					lines = append(lines, line(t, "40000", fmt.Sprint(i), tree))
				}
				tree = r.rawTree(lines...)
			}
			commit := r.rawCommit(tree)
			m := r.mirror()
			m.maxEntries = 10_000
			_, _, err := m.List(ctx, hash(t, commit), ".")
			mustBe(t, err, ErrTooMany)
			_, _, err = m.Diff(ctx, hash(t, commit), hash(t, commit), ".")
			if err != nil {
				t.Errorf("nothing differs, and yet: %v", err)
			}
		}
	})
}

func TestOddNames(t *testing.T) {
	r := newRepo(t)
	blob := r.gitIn("x", "hash-object", "-w", "--stdin")
	var lines []string
	names := []string{"\t", "\x1b[31m", " ", "...", ".gitignore", "a\nb", "a\\b", "e\u0301", "CON", "~1", "é", "\u202egpj", "😀"}
	for _, name := range names {
		lines = append(lines, line(t, "100644", name, blob))
	}
	commit := r.rawCommit(r.rawTree(lines...))
	entries, problems, err := r.mirror().List(context.Background(), hash(t, commit), ".")
	if len(entries) != len(names) || len(problems) != 0 || err != nil {
		t.Errorf("%v, %v, %v", entries, problems, err)
	}
}

func FuzzParseTree(f *testing.F) {
	f.Add([]byte("100644 a\x00aaaaaaaaaaaaaaaaaaaa40000 a\x00aaaaaaaaaaaaaaaaaaaa"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		entries, ok := parseTree(string(raw))
		if !ok && entries != nil {
			t.Error("entries with an error")
		}
		seen := map[string]bool{}
		for i, e := range entries {
			if i > 0 && compareEntries(entries[i-1], e) >= 0 {
				t.Errorf("%q is not after %q", e.name, entries[i-1].name)
			}
			if seen[e.name] {
				t.Errorf("%q is there twice", e.name)
			}
			seen[e.name] = true
			if e.mode == 0 {
				t.Errorf("%q looks absent", e.name)
			}
		}
	})
}

func TestCommitIsPlain(t *testing.T) {
	r := newRepo(t)
	tree := r.rawTree()
	write := func(author, message string) Hash {
		text := "tree " + tree + "\nauthor " + author + " 1700000000 +0530\ncommitter C <c@example.com> 1700000100 -0100\n\n" + message
		h := r.gitIn(text, "hash-object", "-w", "-t", "commit", "--literally", "--stdin")
		r.git("update-ref", "refs/heads/main", h)
		return hash(t, h)
	}
	h := write("Ann \x1b[31mRed\u202e\xff <ann\t@example.com>", "\n\n  subject\x07 line\u200b \u00a0é \xff"+strings.Repeat("x", 500)+"\nbody\n")
	c, err := r.mirror().Commit(h)
	if err != nil {
		t.Fatal(err)
	}
	if want := "Ann [31mRed\uFFFD <ann @example.com>"; c.Author != want {
		t.Errorf("author %q, want %q", c.Author, want)
	}
	if !strings.HasPrefix(c.Subject, "subject line  é \uFFFDxxx") || strings.Contains(c.Subject, "body") || len([]rune(c.Subject)) > maxQuoted+1 {
		t.Errorf("subject %q", c.Subject)
	}
	if c.AuthorTime.Format("15:04 -0700") != "03:43 +0530" || c.CommitTime.Unix() != 1700000100 || c.Tree.String() != tree || c.Hash != h || len(c.Parents) != 0 {
		t.Errorf("%+v", c)
	}
	// Absurd ones must not stop anything.
	for _, author := range []string{"", "<", "> <", "A <a> 99999999999999999999 +9999", "A <a> -1 x"} {
		h := write(author, "")
		if _, err := r.mirror().Commit(h); err != nil {
			t.Errorf("author %q: %v", author, err)
		}
	}
	big := write("A <a>", strings.Repeat("x", maxCommitSize))
	m := r.open(Config{URL: r.dir, Branch: "main"})
	_, err = m.Fetch(context.Background())
	mustBe(t, err, ErrTooLarge)
	mustSay(t, err, big.String())
}

func TestReadBlob(t *testing.T) {
	r := newRepo(t)
	content := strings.Repeat("0123456789", 100)
	one := r.commit("main", "one", files{"big": content, "empty": ""})
	two := r.commit("main", "two", files{"big": content + "x", "empty": ""}, one)
	r.git("repack", "-adfq") // one of the two becomes a delta
	m := r.mirror()
	for commit, want := range map[string]string{one: content, two: content + "x"} {
		h := hash(t, r.git("rev-parse", commit+":big"))
		size := int64(len(want))
		for range 2 { // the second time from the cache
			_, err := m.ReadBlob(h, size-1)
			mustBe(t, err, ErrTooLarge)
			mustSay(t, err, fmt.Sprintf("has %d bytes, the limit is %d", size, size-1))
			got, err := m.ReadBlob(h, size)
			if err != nil || string(got) != want {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			for i := range got { // the caller's to keep
				got[i] = 0
			}
		}
	}
	if got, err := m.ReadBlob(hash(t, r.git("rev-parse", "main:empty")), 0); len(got) != 0 || err != nil {
		t.Error(got, err)
	}
	_, err := m.ReadBlob(Hash{1}, 100)
	mustBe(t, err, ErrNotFound)
	_, err = m.ReadBlob(hash(t, two), 1000)
	mustSay(t, err, "is a commit, not a blob")
}

// The size is told from the header: a blob that is too large costs nothing.
func TestReadBlobLooksFirst(t *testing.T) {
	r := newRepo(t)
	r.commit("main", "one", files{"big": strings.Repeat("x", 1<<20)})
	m := r.mirror()
	h := hash(t, r.git("rev-parse", "main:big"))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := m.ReadBlob(h, 1<<16)
	runtime.ReadMemStats(&after)
	mustBe(t, err, ErrTooLarge)
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<19 {
		t.Errorf("refusing it took %d bytes of memory", n)
	}
}

// Reads go on while fetches add packs.
func TestConcurrentReads(t *testing.T) {
	ctx := context.Background()
	r := newRepo(t)
	tree := files{}
	for i := range 300 {
		tree[fmt.Sprintf("w%d/f%d", i%10, i)] = fmt.Sprint(i, strings.Repeat("some text ", i))
	}
	parent := r.commit("main", "one", tree)
	r.git("repack", "-adfq")
	m := r.mirror()
	entries, _, err := m.List(ctx, hash(t, parent), ".")
	if err != nil {
		t.Fatal(err)
	}
	first := hash(t, parent)
	var wg sync.WaitGroup
	for worker := range 6 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(worker), 1))
			for range 300 {
				e := entries[random.IntN(len(entries))]
				got, err := m.ReadBlob(e.Hash, 1<<20)
				if err != nil || string(got) != tree[e.Path] {
					t.Errorf("%s: %d bytes, %v", e.Path, len(got), err)
					return
				}
				if random.IntN(30) == 0 {
					if again, _, err := m.List(ctx, first, "."); err != nil || len(again) != len(entries) {
						t.Error(len(again), err)
					}
					if _, err := m.Commit(first); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Go(func() {
		for i := range 5 {
			tree := files{"changed": fmt.Sprint(i)}
			parent = r.commit("main", "more", tree, parent)
			got, err := m.Fetch(ctx)
			if err != nil || got.String() != parent {
				t.Error(got, err)
				return
			}
			if ok, err := m.IsAncestor(ctx, first, got); !ok || err != nil {
				t.Error(ok, err)
			}
		}
	})
	wg.Wait()
}

// Whatever bytes of a pack are flipped, an answer is right or an error.
func TestDamagedPack(t *testing.T) {
	ctx := context.Background()
	r := newRepo(t)
	tree := files{}
	for i := range 40 {
		tree[fmt.Sprintf("d%d/f%d", i%4, i)] = fmt.Sprint(i, strings.Repeat("some text ", 20))
	}
	one := r.commit("main", "one", tree)
	r.git("repack", "-adfq")
	m := r.mirror()
	want, _, err := m.List(ctx, hash(t, one), ".")
	if err != nil {
		t.Fatal(err)
	}
	path := m.store.list()[0].file.Name()
	sound, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(5, 5))
	noticed := 0
	for range 150 {
		damaged := bytes.Clone(sound)
		for range 1 + random.IntN(3) {
			damaged[12+random.IntN(len(damaged)-32)] ^= byte(1 + random.IntN(255))
		}
		if random.IntN(8) == 0 {
			damaged = damaged[:random.IntN(len(damaged))]
		}
		os.Chmod(path, 0o600)
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := Open(m.dir, m.cfg)
		if err != nil {
			t.Fatal(err)
		}
		failed := false
		entries, problems, err := again.List(ctx, hash(t, one), ".")
		if err != nil {
			failed = true
			mustBe(t, err, ErrDamaged)
		} else if len(problems) > 0 || fmt.Sprint(entries) != fmt.Sprint(want) {
			t.Fatalf("a damaged pack gave a wrong list: %v %v", entries, problems)
		}
		for _, e := range want {
			got, err := again.ReadBlob(e.Hash, 1<<20)
			if err != nil {
				failed = true
				mustBe(t, err, ErrDamaged)
			} else if string(got) != tree[e.Path] {
				t.Fatalf("a damaged pack gave wrong content for %s", e.Path)
			}
		}
		if failed {
			noticed++
		}
		again.Close()
	}
	if noticed < 75 {
		t.Errorf("damage was noticed in %d of 150 packs only: the test shows little", noticed)
	}

	// A missing pack is damage too, not an empty repository.
	os.Remove(path)
	again, err := Open(m.dir, m.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if _, _, err := again.List(ctx, hash(t, one), "."); err == nil {
		t.Error("a mirror without its pack has files")
	}
}
