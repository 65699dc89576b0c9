package source

import (
	"bytes"
	"compress/zlib"
	"context"
	"crypto/sha1"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
)

func TestOpenChecksTheFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "mirror")
	cfg := Config{URL: "https://git.example.com/a.git", Branch: "main"}
	m, err := Open(dir, cfg)
	if err != nil {
		t.Fatal(err)
	}
	m.Close()

	// The same repository with a credential is the same repository.
	same := cfg
	same.URL = "https://bob:hunter2@git.example.com/a.git"
	if m, err = Open(dir, same); err != nil {
		t.Fatal(err)
	}
	m.Close()

	for _, other := range []Config{
		{URL: "https://git.example.com/b.git", Branch: "main"},
		{URL: "https://git.example.com/a.git", Branch: "prod"},
	} {
		_, err = Open(dir, other)
		mustSay(t, err, "it mirrors https://git.example.com/a.git, branch main, and not "+other.URL)
	}

	foreign := t.TempDir()
	if err := os.WriteFile(filepath.Join(foreign, "thesis.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Open(foreign, cfg)
	mustSay(t, err, "choose another folder")

	// What a crash in the first Open leaves.
	half := t.TempDir()
	if err := os.WriteFile(filepath.Join(half, tmpPrefix+"1"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if m, err = Open(half, cfg); err != nil {
		t.Fatal(err)
	}
	m.Close()
	os.Remove(filepath.Join(half, "HEAD"))
	if m, err = Open(half, cfg); err != nil {
		t.Fatal(err)
	}
	m.Close()
	if _, err := os.Stat(filepath.Join(half, "HEAD")); err != nil {
		t.Error("a half-made mirror was not finished")
	}
}

func TestOpenRefuses(t *testing.T) {
	const secret = "hunter2"
	for name, c := range map[string]struct {
		cfg  Config
		says string
	}{
		"no url":            {Config{}, "url is missing"},
		"relative path":     {Config{URL: "secrets.git"}, "not understood"},
		"other scheme":      {Config{URL: "git://h/x"}, `scheme "git" is not supported`},
		"broken url":        {Config{URL: "https://u:" + secret + "@h:bad port/x"}, "cannot be parsed"},
		"broken escape":     {Config{URL: "https://u:" + secret + "@h/%zz"}, "cannot be parsed"},
		"query":             {Config{URL: "https://u:" + secret + "@h/x?token=" + secret}, "? or #"},
		"no host":           {Config{URL: "https:///x"}, "names no host"},
		"no repository":     {Config{URL: "https://u:" + secret + "@h/"}, "names no repository"},
		"remote file":       {Config{URL: "file://other/srv/x"}, "absolute path"},
		"ssh password":      {Config{URL: "ssh://git:" + secret + "@h/x"}, "no password"},
		"option as host":    {Config{URL: "-oProxyCommand=x:y"}, "not understood"},
		"no branch":         {Config{URL: "https://h/x"}, "not a branch name"},
		"odd branch":        {Config{URL: "https://h/x", Branch: "a..b"}, "not a branch name"},
		"negative":          {Config{URL: "https://h/x", Branch: "main", Timeout: -1}, "timeout is negative"},
		"ssh, no key":       {Config{URL: "git@h:x", Branch: "main"}, "sshKeyFile"},
		"ssh, no hosts":     {Config{URL: "ssh://git@h:2222/x", Branch: "main", Auth: Auth{SSHKeyFile: "k"}}, "ssh-keyscan -p 2222 h"},
		"ssh, token":        {Config{URL: "git@h:x", Branch: "main", Auth: Auth{TokenFile: "t"}}, "only sshKeyFile"},
		"file, token":       {Config{URL: "/srv/x", Branch: "main", Auth: Auth{TokenFile: "t"}}, "takes no auth"},
		"https, ssh key":    {Config{URL: "https://h/x", Branch: "main", Auth: Auth{SSHKeyFile: "k"}}, "are for ssh"},
		"two secrets":       {Config{URL: "https://h/x", Branch: "main", Auth: Auth{UsernameFile: "u", PasswordFile: "p", TokenFile: "t"}}, "keep one"},
		"password alone":    {Config{URL: "https://h/x", Branch: "main", Auth: Auth{PasswordFile: "p"}}, "needs usernameFile"},
		"user alone":        {Config{URL: "https://h/x", Branch: "main", Auth: Auth{UsernameFile: "u"}}, "needs passwordFile or tokenFile"},
		"url and files":     {Config{URL: "https://u:" + secret + "@h/x", Branch: "main", Auth: Auth{TokenFile: "t"}}, "take it out of the url"},
		"ca without https":  {Config{URL: "http://h/x", Branch: "main", Auth: Auth{CAFile: "c"}}, "caFile is for https"},
		"token as url user": {Config{URL: "https://" + secret + "@h/x", Branch: "-"}, "https://h/x"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "m")
			_, err := Open(dir, c.cfg)
			mustSay(t, err, c.says)
			if strings.Contains(err.Error(), secret) {
				t.Errorf("the error shows the password: %v", err)
			}
			if _, err := os.Stat(dir); err == nil {
				t.Error("a refused configuration left a folder")
			}
		})
	}
}

func mustSay(t *testing.T, err error, part string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; it should say %q", part)
	}
	if !strings.Contains(err.Error(), part) {
		t.Errorf("the error does not say %q: %v", part, err)
	}
}

func mustBe(t *testing.T, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("the error should be %q, it is: %v", kind, err)
	}
}

func TestAppliedSurvivesReopening(t *testing.T) {
	r := newRepo(t)
	first := hash(t, r.commit("main", "one", files{"a": "1"}))
	m := r.mirror()
	if _, ok, err := m.Applied(); ok || err != nil {
		t.Fatalf("a new mirror has something applied (%v)", err)
	}
	mustBe(t, m.SetApplied(Hash{1}), ErrNotFound)
	if err := m.SetApplied(first); err != nil {
		t.Fatal(err)
	}
	again, err := Open(m.dir, m.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if h, ok, err := again.Applied(); h != first || !ok || err != nil {
		t.Errorf("applied is %s (%v, %v), want %s", h, ok, err, first)
	}
	if h, ok, err := again.Staged(); h != first || !ok || err != nil {
		t.Errorf("staged is %s (%v, %v), want %s", h, ok, err, first)
	}

	// An operator's git gc packs refs and objects; git itself must find the
	// mirror sound.
	mirror := repo{t, m.dir}
	mirror.git("fsck", "--strict")
	mirror.git("pack-refs", "--all")
	if h, ok, err := again.Applied(); h != first || !ok || err != nil {
		t.Errorf("after pack-refs applied is %s (%v, %v), want %s", h, ok, err, first)
	}
	if got := mirror.git("log", "-1", "--format=%H", refApplied); got != first.String() {
		t.Errorf("git log in the mirror shows %s", got)
	}

	// An unreadable ref is no first start.
	for _, text := range []string{"", "xyz\n", first.String()[:39] + "\n"} {
		if err := os.WriteFile(filepath.Join(m.dir, refApplied), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, err := again.Applied()
		mustBe(t, err, ErrDamaged)
	}
	os.Remove(filepath.Join(m.dir, refApplied))
	os.Mkdir(filepath.Join(m.dir, refApplied), 0o700)
	if _, _, err := again.Applied(); err == nil {
		t.Error("a ref that cannot be read was taken for none")
	}
}

// applyForever is the child of TestAppliedSurvivesKill.
func applyForever(dir string) {
	m, err := Open(dir, Config{URL: os.Getenv("SOURCE_TEST_URL"), Branch: "main"})
	if err != nil {
		panic(err)
	}
	commits := strings.Fields(os.Getenv("SOURCE_TEST_COMMITS"))
	os.Stdout.WriteString("ready\n")
	deadline := time.Now().Add(10 * time.Second)
	for i := 0; time.Now().Before(deadline); i++ {
		if err := m.SetApplied(plumbing.NewHash(commits[i%len(commits)])); err != nil {
			panic(err)
		}
	}
	os.Exit(0)
}

func TestAppliedSurvivesKill(t *testing.T) {
	r := newRepo(t)
	one := r.commit("main", "one", files{"a": "1"})
	two := r.commit("main", "two", files{"a": "2"}, one)
	m := r.mirror()
	if err := m.SetApplied(hash(t, one)); err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	changed := false
	for range 20 {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), "SOURCE_TEST_APPLY="+m.dir, "SOURCE_TEST_URL="+r.dir, "SOURCE_TEST_COMMITS="+two+" "+one)
		out, err := child.StdoutPipe()
		if err == nil {
			err = child.Start()
		}
		if err == nil {
			_, err = io.ReadFull(out, make([]byte, len("ready\n")))
		}
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(random.IntN(40_000)) * time.Microsecond)
		child.Process.Kill()
		child.Wait()
		h, ok, err := m.Applied()
		if err != nil || !ok || h.String() != one && h.String() != two {
			t.Fatalf("after kill -9 applied is %s (%v, %v)", h, ok, err)
		}
		changed = changed || h.String() == two
		again, err := Open(m.dir, m.cfg)
		if err != nil {
			t.Fatal(err)
		}
		again.Close()
	}
	if !changed {
		t.Error("no child ever got to set anything: the test shows nothing")
	}
}

func TestFetchFollows(t *testing.T) {
	ctx := context.Background()
	r := newRepo(t)
	first := r.commit("main", "one", files{"a": "1", "dir/b": "1"})
	r.commit("other", "not ours", files{"other": "x"})
	r.git("tag", "-a", "-m", "a tag", "v1", first)
	m := r.mirror()
	if got := (repo{t, m.dir}).git("for-each-ref", "--format=%(refname)"); got != refStaging {
		t.Errorf("the mirror has refs %q, want the staging ref alone", got)
	}
	if m.store.has(hash(t, r.head("other"))) {
		t.Error("another branch was fetched too")
	}

	second := r.commit("main", "two", files{"a": "2", "dir/b": "1"}, first)
	if got, err := m.Look(ctx); err != nil || got.String() != second {
		t.Fatalf("look: %s, %v; want %s", got, err, second)
	}
	if got, _, _ := m.Staged(); got.String() != first {
		t.Error("a look moved the staging ref")
	}
	for range 2 { // the second time nothing is to do
		if got, err := m.Fetch(ctx); err != nil || got.String() != second {
			t.Fatalf("fetch: %s, %v; want %s", got, err, second)
		}
	}
	if m.Packs() != 2 {
		t.Errorf("%d packs, want 2", m.Packs())
	}
	// Only what was missing came: one commit, one tree, one blob.
	if n, _ := m.store.list()[0].index.Count(); n != 3 {
		t.Errorf("the second fetch brought %d objects, want 3", n)
	}
	if err := m.SetApplied(hash(t, second)); err != nil {
		t.Fatal(err)
	}

	// A forced push: another history, with nothing in common.
	rewritten := r.commit("main", "rewritten", files{"a": "3"})
	if got, err := m.Fetch(ctx); err != nil || got.String() != rewritten {
		t.Fatalf("fetch after a forced push: %s, %v", got, err)
	}
	if ok, err := m.IsAncestor(ctx, hash(t, second), hash(t, rewritten)); ok || err != nil {
		t.Errorf("a rewritten branch counts as a fast-forward (%v)", err)
	}
	// And a rewind to what is already here needs no transfer.
	r.git("update-ref", "refs/heads/main", first)
	packs := m.Packs()
	if got, err := m.Fetch(ctx); err != nil || got.String() != first || m.Packs() != packs {
		t.Fatalf("fetch after a rewind: %s, %v, %d packs", got, err, m.Packs())
	}
	if ok, err := m.IsAncestor(ctx, hash(t, second), hash(t, first)); ok || err != nil {
		t.Errorf("a rewind counts as a fast-forward (%v)", err)
	}
	if got, _, _ := m.Applied(); got.String() != second {
		t.Errorf("applied moved to %s", got)
	}
	(repo{t, m.dir}).git("fsck", "--strict")
}

func TestOpenSweepsWhatACrashLeft(t *testing.T) {
	r := newRepo(t)
	r.commit("main", "one", files{"a": "1"})
	m := r.mirror()
	dir := m.store.dir
	for _, name := range []string{"tmp_pack_123", "pack-" + strings.Repeat("1", 40) + ".pack", "pack-" + strings.Repeat("2", 40) + ".idx"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("cut"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	again, err := Open(m.dir, m.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if names, _ := os.ReadDir(dir); len(names) != 2 {
		t.Errorf("%d files are left, want one pack and its index: %v", len(names), names)
	}
	if _, err := again.Fetch(context.Background()); err != nil {
		t.Error(err)
	}
}

// A mirror that lacks what its commits name says so, and is not staged.
func TestFetchNoticesWhatIsMissing(t *testing.T) {
	r := newRepo(t)
	one := r.commit("main", "one", files{"a": "1"})
	cmd := exec.Command("git", "pack-objects", "--stdout", "-q")
	cmd.Dir, cmd.Stdin = r.dir, strings.NewReader(one+"\n")
	pack, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	m := r.open(Config{URL: r.dir, Branch: "main"})
	if err := m.store.receive(bytes.NewReader(pack), 1<<20, 1<<20); err != nil {
		t.Fatal(err)
	}
	_, err = m.Fetch(context.Background())
	mustBe(t, err, ErrDamaged)
	if _, ok, _ := m.Staged(); ok {
		t.Error("it was staged")
	}
	if _, _, err := m.List(context.Background(), hash(t, one), "."); !errors.Is(err, ErrDamaged) {
		t.Error(err)
	}
	if err := m.setRef(refStaging, Hash{1}); err != nil {
		t.Fatal(err)
	}
	r.commit("main", "two", files{"a": "2"}, one)
	_, err = m.Fetch(context.Background())
	mustBe(t, err, ErrDamaged)
}

func TestFetchBounds(t *testing.T) {
	ctx := context.Background()
	r := newRepo(t)
	// Compresses to almost nothing: what counts is the inflated size. The
	// second version is a small delta of the first.
	big := strings.Repeat("0123456789abcdef", 8192)
	one := r.commit("main", "one", files{"big": big})
	r.commit("main", "two", files{"big": big + "x"}, one)
	r.git("repack", "-adfq")

	for name, cfg := range map[string]Config{
		"object": {URL: r.dir, Branch: "main", MaxObject: int64(len(big)) - 1},
		"delta":  {URL: r.dir, Branch: "main", MaxObject: int64(len(big))},
		"pack":   {URL: r.dir, Branch: "main", MaxPack: 100},
	} {
		t.Run(name, func(t *testing.T) {
			m := r.open(cfg)
			_, err := m.Fetch(ctx)
			mustBe(t, err, ErrTooLarge)
			mustSay(t, err, "raise max")
			if names, _ := os.ReadDir(m.store.dir); len(names) != 0 {
				t.Errorf("a refused transfer left %v", names)
			}
			if _, ok, _ := m.Staged(); ok {
				t.Error("a refused transfer was staged")
			}
		})
	}
	if _, err := r.open(Config{URL: r.dir, Branch: "main", MaxObject: int64(len(big)) + 1}).Fetch(ctx); err != nil {
		t.Error(err)
	}
}

// A pack of a small blob and a delta upon it that declares a large result.
func TestReceiveChecksDeltaResults(t *testing.T) {
	deflate := func(text string) string {
		var b bytes.Buffer
		w := zlib.NewWriter(&b)
		io.WriteString(w, text)
		w.Close()
		return b.String()
	}
	object := func(kind byte, size int, rest string) string {
		head := []byte{kind<<4 | byte(size&15)}
		for size >>= 4; size > 0; size >>= 7 {
			head[len(head)-1] |= 0x80
			head = append(head, byte(size&0x7f))
		}
		return string(head) + rest
	}
	base := object(3, 20, deflate(strings.Repeat("x", 20)))
	// From 20 bytes to 100,000, by copying all of the base again and again.
	delta := "\x14\xa0\x8d\x06" + strings.Repeat("\x90\x14", 100_000/20)
	pack := "PACK\x00\x00\x00\x02\x00\x00\x00\x02" + base + object(6, len(delta), string([]byte{byte(len(base))})+deflate(delta))
	sum := sha1.Sum([]byte(pack))
	pack += string(sum[:])
	for limit, want := range map[int64]error{20_000: ErrTooLarge, 99_999: ErrTooLarge, 100_000: nil} {
		store, err := openObjects(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if err := store.receive(strings.NewReader(pack), 1<<20, limit); !errors.Is(err, want) {
			t.Errorf("with a limit of %d bytes: %v, want %v", limit, err, want)
		}
		store.close()
	}
}

func TestReceiveHostilePacks(t *testing.T) {
	store, err := openObjects(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, pack := range map[string]string{
		"empty":          "",
		"not a pack":     "<html>",
		"cut header":     "PACK\x00\x00",
		"count too high": "PACK\x00\x00\x00\x02\xff\xff\xff\xff",
		"count, no body": "PACK\x00\x00\x00\x02\x00\x40\x00\x00",
		"huge object":    "PACK\x00\x00\x00\x02\x00\x00\x00\x01\xbf\xff\xff\xff\xff\xff\x7f",
		"no zlib":        "PACK\x00\x00\x00\x02\x00\x00\x00\x01\x31abcdefgh",
		"no checksum":    "PACK\x00\x00\x00\x02\x00\x00\x00\x01\x31\x78\x9c\x4b\x04\x00\x00\x62\x00\x62",
		"bad type":       "PACK\x00\x00\x00\x02\x00\x00\x00\x01\x51\x78\x9c\x03\x00\x00\x00\x00\x01",
	} {
		if err := store.receive(strings.NewReader(pack), 1<<20, 1<<20); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if names, _ := os.ReadDir(store.dir); len(names) != 0 {
			t.Fatalf("%s: left %v", name, names)
		}
	}
}
