package review

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealward/sealward/seal/workspace"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares a text with testdata/name.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test -update writes it anew); got:\n%s", path, got)
	}
}

// pullRequest is what a team might propose at once: a changed password, a new and a
// removed key in parts, a new secret, a removed one, a new owner, a new recipient for a
// workspace, a grant that reaches further, and text that tries to be markup.
func (r *testRepo) pullRequest() {
	r.change(dbFile, "password", value+"2")
	r.edit("workspaces/orders/grants/readers.yaml", "users:id:alice, roles:id:dev", "users:id:alice, users:id:carol, roles:id:dev")
	r.edit("workspaces/orders/grants/readers.yaml", "  effect: allow", "  effect: allow\n  expires: 2027-01-01T00:00:00Z")
	r.write("workspaces/payments/grants/auditors.yaml", grant("auditors", "payments", "read-all-secrets", "allow", "users:id:eve", ""))
	r.seal("workspaces/orders/secrets/orders-api/refresh.yaml", r.plain("orders-api", "orders", "key-value", "rw", "refresh"))
	r.remove(webhookFile)
	r.seal("workspaces/orders/secrets/cache.yaml", strings.Replace(r.plain("cache", "orders", "key-value", "rw", "password"), "made for a test", "'a | b `c` <img src=x> @everyone'", 1))
	r.seal(gatewayFile, strings.Replace(r.plain("gateway", "payments", "key-value", "rw", "key"), "owner: dana", "owner: '@everyone | <b>`'", 1), r.recipient("payments"), r.recipient("orders"))
	r.edit(workspace.RulesFile, "- "+r.recipient("payments").String(), "- "+r.recipient("payments").String()+"\n      - "+r.recipient("orders").String())
	r.remove("instance/secrets/smtp.yaml")
	r.write("workspaces/orders/secrets/broken.yaml", "name: broken\n")
	r.write("workspaces/orders/secrets/open.yaml", r.plain("open", "orders", "key-value", "rw", "password"))
}

func (r *testRepo) diff(from, to string, opts DiffOptions) *Diff {
	r.t.Helper()
	d, err := r.git.Diff(r.t.Context(), r.at(from), r.at(to), opts)
	if err != nil {
		r.t.Fatal(err)
	}
	return d
}

// named puts names in the place of recipients, which are new in each run.
func (r *testRepo) named(text string) string {
	for ws := range r.to {
		name := r.recipient(ws).String()
		text = strings.ReplaceAll(strings.ReplaceAll(text, name, "age1-of-"+ws), shortRecipient(name), "age1-of-"+ws)
	}
	return text
}

func TestDiffOfAPullRequest(t *testing.T) {
	r := newTestRepo(t)
	r.pullRequest()
	r.commit("change much")
	for _, c := range []struct {
		golden string
		opts   DiffOptions
		write  func(*Diff, *bytes.Buffer) error
	}{
		{"diff.md", DiffOptions{}, func(d *Diff, b *bytes.Buffer) error { return d.WriteMarkdown(b) }},
		{"diff.txt", DiffOptions{Ring: r.ring}, func(d *Diff, b *bytes.Buffer) error { return d.WriteText(b) }},
	} {
		var out bytes.Buffer
		d := r.diff("clean", "HEAD", c.opts)
		if err := c.write(d, &out); err != nil {
			t.Fatal(err)
		}
		all, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{out.String(), string(all)} {
			if strings.Contains(text, value) || strings.Contains(text, "ENC[") {
				t.Errorf("%s shows a value, open or sealed:\n%s", c.golden, text)
			}
		}
		golden(t, c.golden, r.named(out.String()))
	}
}

// TestDiffTellsResealedFromChanged: with a key; without one, ciphertext decides.
func TestDiffTellsResealedFromChanged(t *testing.T) {
	r := newTestRepo(t)
	r.seal(dbFile, strings.Replace(r.plain("orders-db-r", "orders", "key-value", "r", "username", "password"), "password: "+value, "password: "+value+"2", 1))
	r.commit("rotated, and one value changed")
	show := func(d *Diff) string {
		return fmt.Sprintf("%s %v %d", d.Secrets[0].Change, d.Secrets[0].Keys, len(d.Secrets[0].Notes))
	}
	if got := show(r.diff("clean", "HEAD", DiffOptions{Ring: r.ring})); got != "changed [{password changed} {username resealed}] 0" {
		t.Errorf("with the key: %s", got)
	}
	if got := show(r.diff("clean", "HEAD", DiffOptions{})); got != "changed [{password changed} {username changed}] 1" {
		t.Errorf("without: %s", got)
	}
	r.reset()
	r.seal(dbFile, r.plain("orders-db-r", "orders", "key-value", "r", "username", "password"))
	r.commit("rotated")
	if got := show(r.diff("clean", "HEAD", DiffOptions{Ring: r.ring})); got != "resealed [{password resealed} {username resealed}] 0" {
		t.Errorf("only rotated: %s", got)
	}
}

// TestDiffNotes: what a reviewer must not miss.
func TestDiffNotes(t *testing.T) {
	r := newTestRepo(t)
	for _, c := range []struct {
		name, note string
		change     func()
	}{
		{"edited by plain sops", "owner was edited without sealward", func() { r.edit(dbFile, "owner: dana", "owner: eve") }},
		{"an old version", "an older version came back", func() {
			r.made = r.made.AddDate(0, 0, -1)
			r.seal(dbFile, r.plain("orders-db-r", "orders", "key-value", "r", "username", "password"))
			r.made = r.made.AddDate(0, 0, 1)
		}},
		{"no binding", "lost its binding", func() {
			r.write(dbFile, without1(without1(r.read(dbFile), "seal:"), "    binding: "))
		}},
		{"parts", "is kept in parts now, and was in one file", func() {
			r.remove(dbFile)
			r.seal("workspaces/orders/secrets/orders-db-r/username.yaml", r.plain("orders-db-r", "orders", "key-value", "r", "username"))
			r.seal("workspaces/orders/secrets/orders-db-r/password.yaml", r.plain("orders-db-r", "orders", "key-value", "r", "password"))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			defer r.reset()
			c.change()
			r.commit(c.name)
			d := r.diff("clean", "HEAD", DiffOptions{})
			if len(d.Secrets) != 1 || !strings.Contains(strings.Join(d.Secrets[0].Notes, "\n"), c.note) {
				t.Errorf("%+v", d.Secrets)
			}
		})
	}
}

// TestDiffOfANewPart: it has recipients of its own, and a grant's long lists are shown whole.
func TestDiffOfANewPart(t *testing.T) {
	r := newTestRepo(t)
	r.seal("workspaces/orders/secrets/orders-api/refresh.yaml", r.plain("orders-api", "orders", "key-value", "rw", "refresh"), r.recipient("orders"), r.recipient("payments"))
	many := "users:id:" + strings.Repeat("x", 100)
	r.write("workspaces/orders/grants/many.yaml", grant("many", "orders", "read-all-secrets", "allow", many+"1, "+many+"2, users:id:eve", ""))
	r.commit("a part for somebody else")
	d := r.diff("clean", "HEAD", DiffOptions{})
	if len(d.Secrets) != 1 || len(d.Secrets[0].RecipientsAdded) != 1 || d.Secrets[0].RecipientsAdded[0] != r.recipient("payments").String() {
		t.Errorf("%+v", d.Secrets)
	}
	var out bytes.Buffer
	if err := d.WriteMarkdown(&out); err != nil || !strings.Contains(out.String(), "`users:id:eve`") {
		t.Errorf("%v\n%s", err, out.String())
	}
}
