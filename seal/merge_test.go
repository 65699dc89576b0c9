package seal

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/getsops/sops/v3"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
)

var mergeTime = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func newRecipient(t *testing.T) workspace.Recipient {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	r, err := workspace.ParseRecipient(id.Recipient().String())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// secret writes a plaintext manifest: "a=1 b=2 | owner: dana".
func secret(t *testing.T, short string) *manifest.Manifest {
	t.Helper()
	values, fields, _ := strings.Cut(short, "|")
	text := "name: x\nversion: v1\ntype: secret\nworkspace: orders\n"
	for f := range strings.SplitSeq(fields, ";") {
		text += strings.TrimSpace(f) + "\n"
	}
	text += "secret:\n  type: key-value\n  acl: r\n  data:\n"
	for _, kv := range strings.Fields(values) {
		k, v, _ := strings.Cut(kv, "=")
		text += fmt.Sprintf("    %s: %q\n", k, v)
	}
	m, err := manifest.Parse("workspaces/orders/secrets/x.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// sealedWith seals with a data key, or a fresh one; to is for whom the file says.
func sealedWith(t *testing.T, m *manifest.Manifest, dataKey []byte, to ...workspace.Recipient) (*Side, []byte) {
	t.Helper()
	root, err := prepare(m, Options{})
	if err != nil {
		t.Fatal(err)
	}
	e := &Envelope{m: m, tree: sops.Tree{Branches: sops.TreeBranches{root}}}
	if err := e.newDataKey(workspace.For(to...), nil); err != nil {
		t.Fatal(err)
	}
	if dataKey != nil {
		e.dataKey = dataKey
	}
	out, err := e.reseal(mergeTime)
	if err != nil {
		t.Fatal(err)
	}
	return opened(t, out, e.dataKey), e.dataKey
}

func opened(t *testing.T, sealed, dataKey []byte) *Side {
	t.Helper()
	m, err := manifest.Parse("workspaces/orders/secrets/x.yaml", sealed)
	if err != nil {
		t.Fatal(err)
	}
	e, err := Load(m)
	if err != nil {
		t.Fatal(err)
	}
	values, bound, err := e.Open(dataKey, false)
	if err != nil || !bound {
		t.Fatalf("does not open: %v", err)
	}
	return &Side{e, values}
}

// shown is the short form of a side.
func shown(s *Side) string {
	var out []string
	for _, v := range s.Values {
		out = append(out, v.Key.String()+"="+string(v.Data))
	}
	text := strings.Join(out, " ")
	var fields []string
	m := s.Envelope.m
	if len(m.Tags) > 0 {
		fields = append(fields, "tags: ["+strings.Join(m.Tags, ", ")+"]")
	}
	if m.Owner != "" {
		fields = append(fields, "owner: "+m.Owner)
	}
	if m.Description != "" {
		fields = append(fields, "description: "+m.Description)
	}
	if len(fields) > 0 {
		text += " | " + strings.Join(fields, "; ")
	}
	return text
}

// Three versions, and what comes of them. "-" as base: both sides added the file.
func TestMergeThreeWays(t *testing.T) {
	both := Choices{}
	for _, c := range []struct {
		name, base, ours, theirs string
		choices                  Choices
		want, conflicts          string // conflicts: want is with ours where one is open
	}{
		{"different keys", "a=1 b=1", "a=2 b=1", "a=1 b=2", both, "a=2 b=2", ""},
		{"one side alone", "a=1 b=1", "a=1 b=1", "a=1 b=2", both, "a=1 b=2", ""},
		{"the same change", "a=1", "a=2", "a=2", both, "a=2", ""},
		{"two changes of one key", "a=1 b=1", "a=2 b=1", "a=3 b=2", both, "a=2 b=2", "a: changed on both sides"},
		{"added on each side", "a=1", "a=1 b=1", "a=1 c=1", both, "a=1 b=1 c=1", ""},
		{"the same key added alike", "a=1", "a=1 b=1", "a=1 b=1", both, "a=1 b=1", ""},
		{"the same key added, not alike", "a=1", "a=1 b=1", "a=1 b=2", both, "a=1 b=1", "b: added on both sides, not alike"},
		{"removed by us", "a=1 b=1", "a=1", "a=2 b=1", both, "a=2", ""},
		{"removed by them", "a=1 b=1", "a=2 b=1", "a=1", both, "a=2", ""},
		{"removed by both", "a=1 b=1", "a=1", "a=1", both, "a=1", ""},
		{"removed against changed", "a=1 b=1", "a=1", "a=1 b=2", both, "a=1", "b: removed on our side, changed on theirs"},
		{"changed against removed", "a=1 b=1", "a=1 b=2", "a=1", both, "a=1 b=2", "b: changed on our side, removed on theirs"},
		{"an empty value is not no value", "a=1 b=1", "a=1 b=", "a=1", both, "a=1 b=", "b: changed on our side, removed on theirs"},
		{"order is ours", "a=1 b=1 c=1", "c=1 a=1 b=1", "a=1 b=2 c=1", both, "c=1 a=1 b=2", ""},
		{"added by both sides", "-", "a=1 b=1", "a=1 c=2", both, "a=1 b=1 c=2", ""},
		{"added by both sides, not alike", "-", "a=1", "a=2", both, "a=1", "a: added on both sides, not alike"},

		{"fields of either side", "a=1 | owner: dana", "a=1 | owner: bob", "a=1 | owner: dana; description: db", both, "a=1 | owner: bob; description: db", ""},
		{"a field of one side beside a value of the other", "a=1 | owner: dana", "a=2 | owner: dana", "a=1 | owner: bob", both, "a=2 | owner: bob", ""},
		{"a field removed", "a=1 | owner: dana", "a=1 | owner: dana", "a=1", both, "a=1", ""},
		{"a field changed by both", "a=1 | owner: dana", "a=1 | owner: bob", "a=1 | owner: alice", both, "a=1 | owner: bob", "owner: changed on both sides"},
		{"tags are a set", "a=1 | tags: [x, y]", "a=1 | tags: [y, z]", "a=1 | tags: [x, y, w]", both, "a=1 | tags: [y, z, w]", ""},

		{"choosing ours", "a=1 b=1", "a=2 b=1", "a=3 b=2", Choices{All: TakeOurs}, "a=2 b=2", ""},
		{"choosing theirs", "a=1 b=1 c=1", "a=2 b=1 c=2", "a=3 b=2 c=1", Choices{All: TakeTheirs}, "a=3 b=2 c=2", ""},
		{"choosing what was removed", "a=1 b=1", "a=1 b=2", "a=1", Choices{All: TakeTheirs}, "a=1", ""},
		{"choosing key by key", "a=1 b=1", "a=2 b=2", "a=3 b=3", Choices{Keys: map[manifest.Key]Choice{key(t, "a"): TakeTheirs, key(t, "b"): TakeOurs}}, "a=3 b=2", ""},
		{"choosing some", "a=1 b=1", "a=2 b=2", "a=3 b=3", Choices{Keys: map[manifest.Key]Choice{key(t, "a"): TakeTheirs}}, "a=3 b=2", "b: changed on both sides"},
		{"choosing where there is no conflict", "a=1 b=1", "a=1 b=1", "a=2 b=2", Choices{Keys: map[manifest.Key]Choice{key(t, "a"): TakeOurs}}, "a=1 b=2", ""},
		{"choosing a field", "a=1 | owner: dana", "a=1 | owner: bob", "a=1 | owner: alice", Choices{Fields: map[string]Choice{"owner": TakeTheirs}}, "a=1 | owner: alice", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRecipient(t)
			ours, key := sealedWith(t, secret(t, c.ours), nil, r)
			theirs, _ := sealedWith(t, secret(t, c.theirs), key, r)
			var base *Side
			if c.base != "-" {
				base, _ = sealedWith(t, secret(t, c.base), key, r)
			}
			kept := ciphertexts(ours, theirs)
			got, err := Merge(base, ours, theirs, MergeOptions{Now: mergeTime, Choices: c.choices})
			if err != nil {
				t.Fatal(err)
			}
			if text := conflicts(got); text != c.conflicts {
				t.Errorf("conflicts %q, want %q", text, c.conflicts)
			}
			merged := opened(t, got.File, key) // the data key stays
			if text := shown(merged); text != c.want {
				t.Errorf("got %q, want %q", text, c.want)
			}
			for text := range ciphertexts(merged) {
				if !kept[text] {
					t.Errorf("a value that a side has already was sealed anew")
				}
			}
			if (got.Theirs != nil) != (c.conflicts != "") {
				t.Errorf("another version: %v", got.Theirs != nil)
			}
			if got.Theirs != nil {
				opened(t, got.Theirs, key)
			}
		})
	}
}

func key(t *testing.T, s string) manifest.Key {
	t.Helper()
	k, err := manifest.ParseKey(s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func ciphertexts(sides ...*Side) map[string]bool {
	out := map[string]bool{}
	for _, s := range sides {
		for _, e := range s.Envelope.m.Secret.Entries {
			out[e.Text] = true
		}
	}
	return out
}

func conflicts(m *Merged) string {
	var out []string
	for _, c := range m.Conflicts {
		out = append(out, c.String())
	}
	return strings.Join(out, "; ")
}

// In the two outcomes of a conflict only the conflict, the binding and the MAC
// differ, and both are whole.
func TestMergeOutcomesDifferInConflictsOnly(t *testing.T) {
	r := newRecipient(t)
	base, key := sealedWith(t, secret(t, "a=1 b=1 c=1"), nil, r)
	ours, _ := sealedWith(t, secret(t, "a=2 b=2 c=1"), nil, r) // another data key
	theirs, _ := sealedWith(t, secret(t, "a=3 b=1 c=3"), key, r)
	got, err := Merge(base, ours, theirs, MergeOptions{Now: mergeTime, Registries: []workspace.Recipients{workspace.For(r)}})
	if err != nil {
		t.Fatal(err)
	}
	a, b := strings.Split(string(got.File), "\n"), strings.Split(string(got.Theirs), "\n")
	var differ []string
	for i := range a {
		if a[i] != b[i] {
			differ = append(differ, strings.SplitN(strings.TrimSpace(a[i]), ":", 2)[0])
		}
	}
	if !slices.Equal(differ, []string{"a", "binding", "mac"}) {
		t.Errorf("they differ in %v", differ)
	}
}

// Whom the merged file is sealed for. A, B and C are recipients.
func TestMergeRecipients(t *testing.T) {
	all := map[rune]workspace.Recipient{'A': newRecipient(t), 'B': newRecipient(t), 'C': newRecipient(t)}
	of := func(names string) (out []workspace.Recipient) {
		for _, n := range names {
			out = append(out, all[n])
		}
		return out
	}
	for _, c := range []struct {
		name, base, ours, theirs, rules string
		choice                          Choice
		want                            string // "": refused
		conflict                        bool
	}{
		{"added by them, and named", "A", "A", "AB", "AB", 0, "AB", false},
		{"added by us, and named", "A", "AB", "A", "AB", 0, "AB", false},
		{"added by both", "A", "AB", "AC", "ABC", 0, "ABC", false},
		{"removed by them wins", "AB", "AB", "A", "AB", 0, "A", false},
		{"removed by us wins", "AB", "A", "AB", "AB", 0, "A", false},
		{"removed by one, added by the other", "AB", "A", "ABC", "ABC", 0, "AC", false},
		{"forged on their side", "A", "A", "AB", "A", 0, "A", true},
		{"forged on our side, as in a rebase", "A", "AB", "A", "A", 0, "A", true},
		{"forged earlier, on both sides", "AB", "AB", "ABC", "AC", 0, "AC", true},
		{"forged in what their branch is built on", "AB", "A", "AB", "A", 0, "A", false},
		{"no registry names anybody", "A", "A", "AB", "", 0, "", false},
		{"nobody is left", "AB", "A", "B", "AB", 0, "", false},
		{"added by both sides at once", "", "A", "AB", "A", 0, "A", true},
		{"a person chooses theirs", "A", "A", "AB", "A", TakeTheirs, "AB", false},
		{"a person chooses ours", "A", "A", "AB", "A", TakeOurs, "A", false},
		{"a person chooses both", "AB", "A", "ABC", "A", TakeBoth, "AC", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			ours, key := sealedWith(t, secret(t, "a=1 b=1"), nil, of(c.ours)...)
			theirs, _ := sealedWith(t, secret(t, "a=1 b=2"), key, of(c.theirs)...)
			var base *Side
			if c.base != "" {
				base, _ = sealedWith(t, secret(t, "a=1 b=1"), key, of(c.base)...)
			}
			before := ciphertexts(ours, theirs)
			// --ours and --theirs say nothing about recipients.
			opts := MergeOptions{Now: mergeTime, Choices: Choices{All: TakeTheirs, Recipients: c.choice}}
			if c.rules != "" {
				opts.Registries = []workspace.Recipients{workspace.For(of(c.rules)...)}
			}
			got, err := Merge(base, ours, theirs, opts)
			if c.want == "" {
				if err == nil {
					t.Fatalf("sealed for %v", got.Recipients.All())
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if want := workspace.For(of(c.want)...); !got.Recipients.Equal(want) {
				t.Errorf("sealed for %v, want %v", got.Recipients.All(), want.All())
			}
			if got.Fresh != true || bytes.Equal(ours.Envelope.dataKey, key) {
				t.Error("the data key stayed")
			}
			merged := opened(t, got.File, ours.Envelope.dataKey)
			if names, err := merged.Envelope.RecipientGroups(); err != nil || !names.Equal(got.Recipients) {
				t.Errorf("the file names %v", names.All())
			}
			for text := range ciphertexts(merged) {
				if before[text] {
					t.Error("a ciphertext stayed under a fresh data key")
				}
			}
			if (len(got.Conflicts) > 0) != c.conflict || len(got.Conflicts) > 0 && !got.Conflicts[0].Recipients {
				t.Errorf("conflicts %q", conflicts(got))
			}
		})
	}
}

// Half of one side's key groups and half of the other's is nobody's intention.
func TestMergeKeyGroups(t *testing.T) {
	a, b, c := newRecipient(t), newRecipient(t), newRecipient(t)
	groups := func(rs ...workspace.Recipient) workspace.Recipients {
		var gs [][]workspace.Recipient
		for _, r := range rs {
			gs = append(gs, []workspace.Recipient{r})
		}
		out, err := workspace.Grouped(2, gs...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	one := workspace.For(a, b)
	for _, k := range []struct {
		name                      string
		base, ours, theirs, rules workspace.Recipients
		ok                        bool
	}{
		{"they changed the groups, and the rule says so", groups(a, b), groups(a, b), groups(a, c), groups(a, c), true},
		{"they changed the groups, and no rule says so", groups(a, b), groups(a, b), groups(a, c), groups(a, b), false},
		{"they made one group of two, each of which then opens alone", groups(a, b), groups(a, b), one, groups(a, b), false},
		{"both changed", groups(a, b), groups(a, c), groups(b, c), groups(a, c), false},
	} {
		m := &merge{out: &Merged{}, opts: MergeOptions{Registries: []workspace.Recipients{k.rules}}}
		got, err := m.recipients(k.base, k.ours, k.theirs)
		if (err == nil) != k.ok || k.ok && !got.Equal(k.rules) {
			t.Errorf("%s: %v, %v", k.name, got.All(), err)
		}
	}
}

func TestMergeRefuses(t *testing.T) {
	r := newRecipient(t)
	for _, c := range []struct {
		name, base, ours, theirs, want string
		choices                        Choices
	}{
		{"nothing left", "a=1 b=1", "a=1", "b=1", "no key would be left", Choices{}},
		{"a choice without a difference", "a=1", "a=1", "a=2", "both sides agree on z", Choices{Keys: map[manifest.Key]Choice{key(t, "z"): TakeOurs}}},
		{"a choice of a field without one", "a=1", "a=1", "a=2", "do not differ in a field", Choices{Fields: map[string]Choice{"owner": TakeOurs}}},
	} {
		ours, k := sealedWith(t, secret(t, c.ours), nil, r)
		theirs, _ := sealedWith(t, secret(t, c.theirs), k, r)
		base, _ := sealedWith(t, secret(t, c.base), k, r)
		if _, err := Merge(base, ours, theirs, MergeOptions{Now: mergeTime, Choices: c.choices}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	ours, k := sealedWith(t, secret(t, "a=1"), nil, r)
	other := secret(t, "a=1")
	other.Name, _ = manifest.ParseName("y")
	setNode(other.Node(), "y", "name")
	theirs, _ := sealedWith(t, other, k, r)
	if _, err := Merge(nil, ours, theirs, MergeOptions{Now: mergeTime}); err == nil {
		t.Error("two secrets were merged into one")
	}
}

// A rule that asks for keys of several groups lets nobody open a file alone.
func TestMergeNamesNobodyOfKeyGroups(t *testing.T) {
	a, b := newRecipient(t), newRecipient(t)
	groups, err := workspace.Grouped(2, []workspace.Recipient{a}, []workspace.Recipient{b})
	if err != nil {
		t.Fatal(err)
	}
	m := &merge{out: &Merged{}, opts: MergeOptions{Registries: []workspace.Recipients{groups}}}
	if got, err := m.recipients(workspace.For(a), workspace.For(a), workspace.For(a, b)); err == nil {
		t.Errorf("sealed for %v", got.All())
	}
}

// Text and the same bytes in binaryData are two values.
func TestMergeTellsTextFromBytes(t *testing.T) {
	r := newRecipient(t)
	binary := func(text string) *manifest.Manifest {
		m, err := manifest.Parse("workspaces/orders/secrets/x.yaml", []byte("name: x\nversion: v1\ntype: secret\nworkspace: orders\nsecret:\n  type: key-value\n  acl: r\n  data: {b: \"1\"}\n  binaryData: {a: "+text+"}\n"))
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	ours, k := sealedWith(t, secret(t, "a=x b=1"), nil, r)
	theirs, _ := sealedWith(t, binary("eA=="), k, r) // x
	base, _ := sealedWith(t, secret(t, "a=x b=1"), k, r)
	got, err := Merge(base, ours, theirs, MergeOptions{Now: mergeTime})
	if err != nil || len(got.Conflicts) > 0 {
		t.Fatalf("%v, %q", err, conflicts(got))
	}
	for _, v := range opened(t, got.File, k).Values {
		if v.Key == key(t, "a") && !v.Binary {
			t.Error("their change was lost")
		}
	}
}
