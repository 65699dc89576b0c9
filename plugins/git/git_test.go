package git

import (
	"bytes"
	"math/rand"
	"strings"
	"testing"

	"github.com/sealward/sealward/seal/workspace"
)

// Whoever takes one side of all markers gets that version, to the byte.
func TestWithMarkers(t *testing.T) {
	text := func(r *rand.Rand) []byte {
		var out []byte
		for range r.Intn(8) {
			out = append(out, "abc"[r.Intn(3)], '\n')
		}
		return out
	}
	r := rand.New(rand.NewSource(1))
	conflicts := 0
	for range 2000 {
		a, b := text(r), text(r)
		got := withMarkers(a, b, 7)
		var ours, theirs []byte
		in := ""
		for line := range bytes.Lines(got) {
			switch word := string(bytes.TrimSpace(line)); {
			case strings.HasPrefix(word, "<<<<<<<"):
				in = "ours"
				conflicts++
			case word == "=======":
				in = "theirs"
			case strings.HasPrefix(word, ">>>>>>>"):
				in = ""
			default:
				if in != "theirs" {
					ours = append(ours, line...)
				}
				if in != "ours" {
					theirs = append(theirs, line...)
				}
			}
		}
		if !bytes.Equal(ours, a) || !bytes.Equal(theirs, b) {
			t.Fatalf("%q and %q gave\n%s", a, b, got)
		}
		if bytes.Equal(a, b) && !bytes.Equal(got, a) {
			t.Fatalf("markers in %q", got)
		}
	}
	if conflicts < 1000 {
		t.Errorf("only %d conflicts were looked at", conflicts)
	}
	got := string(withMarkers([]byte("x: 1\nsame\ny: 1\n"), []byte("x: 2\nsame\ny: 2\n"), 9))
	want := "<<<<<<<<< ours\nx: 1\n=========\nx: 2\n>>>>>>>>> theirs\nsame\n<<<<<<<<< ours\ny: 1\n=========\ny: 2\n>>>>>>>>> theirs\n"
	if got != want {
		t.Errorf("got\n%s", got)
	}
}

// A file that differs in every line, at the size that a manifest may have, takes no time.
func TestWithMarkersIsBounded(t *testing.T) {
	a, b := bytes.Repeat([]byte("a\n"), 1<<20), bytes.Repeat([]byte("b\n"), 1<<20)
	if got := withMarkers(a, b, 7); !bytes.HasPrefix(got, []byte("<<<<<<< ours\na\n")) {
		t.Error("no conflict")
	}
}

func TestHooksOfOthers(t *testing.T) {
	if !isOurHook(hook(program{name: "sealward"})) || !isOurHook(hook(program{name: "sealward", dir: "/opt/a b"})) || !isOurHook(hook(program{name: "'/opt/a b/sealward'"})) {
		t.Error("our own hook is not known again")
	}
	ours := string(hook(program{name: "sealward"}))
	for _, other := range []string{"", "#!/bin/sh\nexec sealward git pre-commit\n", ours + "make lint\n", strings.Replace(ours, "exec", "make lint\nexec", 1), strings.Replace(ours, "pre-commit", "pre-commit; true", 1)} {
		if isOurHook([]byte(other)) {
			t.Errorf("taken for ours: %q", other)
		}
	}
}

func TestSettingsOfOthers(t *testing.T) {
	before := map[string]string{"diff.sealward.textconv": "'/opt/a b/sealward' git textconv", "merge.sealward.driver": "sealward git merge-driver %O %A %B %L %P"}
	for i, s := range settings(program{name: "sealward"}) {
		moved := settings(program{name: "sealward", dir: "/opt/100% sure", args: " --keyring /keys"})[i]
		if !s.isOurs(s.value) || !s.isOurs(moved.value) {
			t.Errorf("%s: our own value is not known again: %s", s.name, moved.value)
		}
		if old := before[s.name]; old != "" && !s.isOurs(old) {
			t.Errorf("%s: what an earlier version set is not known again: %s", s.name, old)
		}
		for _, other := range []string{"cat", "sealward", s.value + " && true"} {
			if s.isOurs(other) {
				t.Errorf("%s: taken for ours: %s", s.name, other)
			}
		}
	}
}

func TestAttributesComeAndGo(t *testing.T) {
	for _, prefix := range []string{"", "deploy/sealed/", "with space/", `a"b\c/`, "#odd/", "*/"} {
		block := mark + "\n" + strings.Join(attributesFor(prefix), "\n") + "\n"
		if rest := withoutBlocks("*.png binary\n" + block + "*.jpg binary\n"); rest != "*.png binary\n*.jpg binary\n" {
			t.Errorf("%q: left is %q", prefix, rest)
		}
	}
	for _, other := range []string{mark + "\n*.png binary\n*.jpg binary\n", mark + "\n", "workspaces/*/secrets/** diff=sealward merge=sealward\n"} {
		if rest := withoutBlocks(other); rest != other {
			t.Errorf("%q became %q", other, rest)
		}
	}
}

// A registry of one side does not name whom the other side's took out.
func TestNotRemoved(t *testing.T) {
	parse := func(s string) workspace.Recipient {
		r, err := workspace.ParseRecipient(strings.Repeat(s, 40))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	a, b, c := parse("A"), parse("B"), parse("C")
	two, err := workspace.Grouped(2, []workspace.Recipient{a}, []workspace.Recipient{b})
	if err != nil {
		t.Fatal(err)
	}
	none := workspace.Recipients{}
	for _, k := range []struct {
		name                  string
		rs, base, other, want workspace.Recipients
	}{
		{"nothing was changed", workspace.For(a, b), workspace.For(a, b), workspace.For(a, b), workspace.For(a, b)},
		{"added here", workspace.For(a, b), workspace.For(a), workspace.For(a), workspace.For(a, b)},
		{"taken out there", workspace.For(a, b), workspace.For(a, b), workspace.For(a), workspace.For(a)},
		{"added here, taken out there", workspace.For(a, b, c), workspace.For(a, b), workspace.For(a), workspace.For(a, c)},
		{"no common registry", workspace.For(a, b), none, workspace.For(a), workspace.For(a, b)},
		{"groups there are others now", two, two, workspace.For(a, b), none},
		{"groups here, nothing changed there", workspace.For(a, b), two, two, workspace.For(a, b)},
	} {
		if got := notRemoved(k.rs, k.base, k.other); !got.Equal(k.want) && !(len(got.All()) == 0 && len(k.want.All()) == 0) {
			t.Errorf("%s: %v, want %v", k.name, got.All(), k.want.All())
		}
	}
}
