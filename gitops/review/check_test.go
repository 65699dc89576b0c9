package review

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/owenrumney/go-sarif/v3/pkg/report/v210/sarif"

	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
)

const (
	dbFile      = "workspaces/orders/secrets/orders-db-r.yaml"
	tokenFile   = "workspaces/orders/secrets/orders-api/token.yaml"
	webhookFile = "workspaces/orders/secrets/orders-api/webhook.yaml"
	gatewayFile = "workspaces/payments/secrets/gateway.yaml"
	readersFile = "workspaces/orders/grants/readers.yaml"
)

// planted is one bad commit on top of the clean repository.
type planted struct {
	name  string
	plant func(r *testRepo)
	// what is found, as id path:line; %TEXT stands for the line of the file that has TEXT.
	found []string
	// baseOnly: it needs the version before to be seen.
	baseOnly bool
	keys     bool // check with the ring
}

func plantedCommits() []planted {
	return append(plantedKustomizations(), []planted{
		{name: "an unknown field", plant: func(r *testRepo) { r.edit(dbFile, "owner: dana", "ownr: dana") },
			found: []string{"manifest-invalid " + dbFile + ":%ownr", "binding-stale"}},
		{name: "no YAML", plant: func(r *testRepo) { r.write("workspaces/orders/secrets/x.yaml", "name: [x\n") },
			found: []string{"manifest-invalid workspaces/orders/secrets/x.yaml:1"}},
		{name: "a value in the clear", plant: func(r *testRepo) {
			r.write("workspaces/orders/secrets/new.yaml", r.plain("new", "orders", "key-value", "rw", "password"))
		}, found: []string{"value-unsealed workspaces/orders/secrets/new.yaml:%password"}},
		{name: "a value in the clear among sealed ones", plant: func(r *testRepo) { r.edit(dbFile, "    data:\n", "    data:\n        extra: "+value+"\n") },
			found: []string{"value-unsealed " + dbFile + ":%extra"}},
		{name: "a secret in the clear outside the workspaces", plant: func(r *testRepo) {
			r.write("drafts/new.yaml", r.plain("new", "orders", "key-value", "rw", "password"))
		}, found: []string{"value-unsealed drafts/new.yaml:%password"}},
		{name: "a private key", plant: func(r *testRepo) { r.write("keys/orders.txt", "# mine\n"+r.ids["orders"].String()+"\n") },
			found: []string{"private-key keys/orders.txt:2"}},
		{name: "private keys where manifests, rules and readers' notes stand", plant: func(r *testRepo) {
			key := r.ids["orders"].String() + "\n"
			r.write(dbFile, r.read(dbFile)+"# AGE-SECRET-KEY-1 is how one starts\n# "+key)
			r.write(readersFile, r.read(readersFile)+"# "+key)
			r.write(workspace.RulesFile, r.read(workspace.RulesFile)+"# "+key)
			r.write("workspaces/orders/secrets/README.md", key)
		}, found: []string{"private-key .sops.yaml:%LAST KEY", "private-key " + readersFile + ":%KEY", "private-key " + dbFile + ":%LAST KEY", "private-key workspaces/orders/secrets/README.md:1"}},
		{name: "secrets in the clear in forms of their own", plant: func(r *testRepo) {
			r.write("apps/.gitattributes", "* -diff\n")
			r.write("apps/key.txt", r.ids["orders"].String()+"\n")
			r.write("apps/one.json", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"one","namespace":"orders"},"stringData":{"a":"`+value+`"}}`)
			r.write("apps/quoted.yaml", strings.Replace(r.plain("new", "orders", "key-value", "rw", "password"), "type: secret", "type: 'secret' # of ours", 1))
			r.write("apps/field.yaml", "ours: true\n"+r.plain("new", "orders", "key-value", "rw", "password"))
			r.write("apps/several.yaml", "kind: List\nitems: [{kind: Secret, stringData: {a: ''}}]\n---\nkind: Secret\nstringData: &values\n  a: "+value+"\n---\nkind: Secret\ndata: *values\n")
		}, found: []string{"private-key apps/key.txt:1", "value-unsealed apps/field.yaml:%password", "value-unsealed apps/one.json:1", "value-unsealed apps/quoted.yaml:%password", "value-unsealed apps/several.yaml:6", "value-unsealed apps/several.yaml:6"}},
		{name: "a recipient that the rule does not name", plant: func(r *testRepo) {
			r.seal(dbFile, r.plain("orders-db-r", "orders", "key-value", "r", "password"), r.recipient("orders"), r.recipient("payments"))
		}, found: []string{"recipient-extra " + dbFile + ":%recipient"}},
		{name: "not sealed for whom the rule names", plant: func(r *testRepo) {
			r.seal(dbFile, r.plain("orders-db-r", "orders", "key-value", "r", "password"), r.recipient("payments"))
		}, found: []string{"recipient-extra " + dbFile + ":%recipient", "recipient-missing " + dbFile + ":%recipient"}},
		{name: "a rule names somebody new", plant: func(r *testRepo) {
			r.edit(workspace.RulesFile, "- "+r.recipient("orders").String(), "- "+r.recipient("orders").String()+"\n      - "+r.recipient("payments").String())
		}, found: []string{"recipient-missing " + dbFile + ":%recipient", "recipient-missing " + tokenFile + ":%recipient", "recipient-missing " + webhookFile + ":%recipient"}},
		{name: "key groups where the rule has none", plant: func(r *testRepo) {
			r.edit(workspace.RulesFile, "age:\n      - "+r.recipient("payments").String(), "key_groups:\n      - age: ["+r.recipient("payments").String()+"]\n      - age: ["+r.recipient("orders").String()+"]")
		}, found: []string{"recipient-groups " + gatewayFile + ":%recipient", "recipient-missing " + gatewayFile + ":%recipient"}},
		{name: "key groups each of which holds everybody", plant: func(r *testRepo) {
			a, b := r.recipient("payments"), r.recipient("orders")
			r.edit(workspace.RulesFile, "age:\n      - "+a.String(), "key_groups:\n      - age: ["+a.String()+"]\n      - age: ["+b.String()+"]")
			groups, err := workspace.Grouped(2, []workspace.Recipient{a, b}, []workspace.Recipient{b, a})
			if err != nil {
				r.t.Fatal(err)
			}
			r.to["payments"] = groups
			r.seal(gatewayFile, r.plain("gateway", "payments", "key-value", "rw", "key"))
			r.to["payments"] = workspace.For(a)
		}, found: []string{"recipient-groups " + gatewayFile + ":%sops-section"}},
		{name: "no rule for a workspace", plant: func(r *testRepo) {
			r.ids["new"], r.to["new"] = r.ids["orders"], r.to["orders"]
			r.seal("workspaces/new/secrets/x.yaml", r.plain("x", "new", "key-value", "rw", "password"))
		}, found: []string{"rule-missing workspaces/new/secrets/x.yaml:1"}},
		{name: "a rule that is not anchored", plant: func(r *testRepo) {
			r.edit(workspace.RulesFile, "path_regex: ^workspaces/payments/", "path_regex: workspaces/payments/")
		}, found: []string{"rule-unanchored .sops.yaml:%regex: workspaces/payments"}},
		{name: "a rule that catches two workspaces", plant: func(r *testRepo) {
			r.edit(workspace.RulesFile, "path_regex: ^workspaces/payments/", "path_regex: ^workspaces/payments/|^workspaces/pay-later/")
			r.write("workspaces/pay-later/README.md", "soon\n")
		}, found: []string{"rule-spans .sops.yaml:%pay-later"}},
		{name: "a rule that is never used", plant: func(r *testRepo) {
			r.write(workspace.RulesFile, r.read(workspace.RulesFile)+"  - path_regex: ^workspaces/orders/\n    encrypted_regex: "+manifest.SealedPattern+"\n    age: "+r.recipient("payments").String()+"\n")
		}, found: []string{"rule-shadowed .sops.yaml:%LAST ^workspaces/orders"}},
		{name: "a rule for nobody", plant: func(r *testRepo) {
			r.write(workspace.RulesFile, r.read(workspace.RulesFile)+"  - path_regex: ^workspaces/empty/\n    encrypted_regex: "+manifest.SealedPattern+"\n")
		}, found: []string{"rule-invalid .sops.yaml:%empty"}},
		{name: "a rule that cannot be read", plant: func(r *testRepo) { r.edit(workspace.RulesFile, "- "+r.recipient("payments").String(), "- age1nobody") },
			found: []string{"rule-invalid .sops.yaml:%^workspaces/payments"}},
		{name: "a rule by which plain sops seals all", plant: func(r *testRepo) {
			r.write(workspace.RulesFile, r.read(workspace.RulesFile)+"  - path_regex: ^workspaces/fresh/\n    age: "+r.recipient("payments").String()+"\n")
		}, found: []string{"rule-pattern .sops.yaml:%fresh"}},
		{name: "no MAC", plant: func(r *testRepo) { r.write(dbFile, without1(r.read(dbFile), "    mac: ")) },
			found: []string{"mac-missing " + dbFile + ":%sops-section"}},
		{name: "no binding", plant: func(r *testRepo) {
			r.write(dbFile, without1(without1(r.read(dbFile), "seal:"), "    binding: "))
		}, found: []string{"binding-missing " + dbFile + ":1"}},
		{name: "another pattern", plant: func(r *testRepo) { r.edit(dbFile, "^(data|", "^(dat|") },
			found: []string{"sops-pattern " + dbFile + ":%encrypted_regex"}},
		{name: "a sops section of nothing", plant: func(r *testRepo) { r.edit(dbFile, "    age:", "    agee:") },
			found: []string{"sops-invalid " + dbFile + ":%sops-section"}},
		{name: "another field edited by hand", baseOnly: true, plant: func(r *testRepo) { r.edit(dbFile, "owner: dana", "owner: mallory") },
			found: []string{"binding-stale " + dbFile + ":%owner"}},
		{name: "a value moved to another key", baseOnly: true, plant: func(r *testRepo) { r.edit(dbFile, "        username:", "        user:") },
			found: []string{"binding-stale " + dbFile + ":%SECOND user:"}},
		{name: "a sealed file copied to another name", plant: func(r *testRepo) {
			r.write("workspaces/orders/secrets/other-r.yaml", strings.Replace(r.read(dbFile), "orders-db-r", "other-r", 1))
		}, found: []string{"binding-copied workspaces/orders/secrets/other-r.yaml:%binding:"}},
		{name: "a sealed file moved to another workspace", plant: func(r *testRepo) {
			r.write("workspaces/payments/secrets/orders-db-r.yaml", strings.Replace(r.read(dbFile), "workspace: orders", "workspace: payments", 1))
		}, found: []string{"binding-copied workspaces/payments/secrets/orders-db-r.yaml:%binding:", "recipient-extra workspaces/payments/secrets/orders-db-r.yaml:%recipient", "recipient-missing workspaces/payments/secrets/orders-db-r.yaml:%recipient"}},
		{name: "an old version came back", baseOnly: true, plant: func(r *testRepo) {
			r.made = r.made.Add(-24 * time.Hour)
			r.seal(dbFile, r.plain("orders-db-r", "orders", "key-value", "r", "username", "password"))
			r.made = r.made.Add(24 * time.Hour)
		}, found: []string{"seal-older " + dbFile + ":%lastmodified"}},
		{name: "a recipient removed, the data key kept", baseOnly: true, plant: func(r *testRepo) {
			// as sops updatekeys does it: the clean version was sealed for two
			r.seal(gatewayFile, r.plain("gateway", "payments", "key-value", "rw", "key"), r.recipient("payments"), r.recipient("orders"))
			r.edit(workspace.RulesFile, "- "+r.recipient("payments").String(), "- "+r.recipient("payments").String()+"\n      - "+r.recipient("orders").String())
			r.commit("two recipients")
			r.run("tag", "-f", "base")
			r.write(gatewayFile, withoutStanza(r.read(gatewayFile), r.recipient("orders").String()))
			r.edit(workspace.RulesFile, "\n      - "+r.recipient("orders").String()+"\n  - path_regex: ^instance", "\n  - path_regex: ^instance")
		}, found: []string{"rotate-missing " + gatewayFile + ":%recipient"}},
		{name: "a value sealed as a number", plant: func(r *testRepo) { r.edit(dbFile, ",type:str]", ",type:int]") },
			found: []string{"value-retyped " + dbFile + ":%type:int", "binding-stale"}},
		{name: "the name disagrees with the path", plant: func(r *testRepo) { r.edit(dbFile, "name: orders-db-r", "name: orders-r") },
			found: []string{"place-mismatch " + dbFile + ":1"}},
		{name: "the workspace disagrees with the path", plant: func(r *testRepo) { r.edit(dbFile, "workspace: orders", "workspace: payments") },
			found: []string{"place-mismatch " + dbFile + ":%workspace"}},
		{name: "a file that is no manifest", plant: func(r *testRepo) { r.write("workspaces/orders/notes.txt", "hello\n") },
			found: []string{"place-invalid workspaces/orders/notes.txt:1"}},
		{name: "too deep", plant: func(r *testRepo) { r.write("workspaces/orders/secrets/a/b/c.yaml", "x: y\n") },
			found: []string{"place-invalid workspaces/orders/secrets/a/b/c.yaml:1"}},
		{name: "a key in two parts", plant: func(r *testRepo) {
			r.seal(webhookFile, r.plain("orders-api", "orders", "key-value", "rw", "webhook", "token"))
		},
			found: []string{"key-twice " + webhookFile + ":%token"}},
		{name: "parts that disagree", plant: func(r *testRepo) { r.seal(webhookFile, r.plain("orders-api", "orders", "key-value", "r", "webhook")) },
			found: []string{"parts-disagree " + webhookFile + ":1"}},
		{name: "a file beside its folder of parts", plant: func(r *testRepo) {
			r.seal("workspaces/orders/secrets/orders-api.yaml", r.plain("orders-api", "orders", "key-value", "rw", "other"))
		}, found: []string{"secret-twice workspaces/orders/secrets/orders-api/token.yaml:1"}},
		{name: "acl against name", plant: func(r *testRepo) { r.edit(dbFile, "acl: r", "acl: rw") },
			found: []string{"acl-mismatch " + dbFile + ":%acl: rw"}},
		{name: "a credential that is over", plant: func(r *testRepo) {
			r.seal(dbFile, strings.Replace(r.plain("orders-db-r", "orders", "key-value", "r", "password"), "owner:", "tags: [\"expires:2026-05-01\"]\nowner:", 1))
		}, found: []string{"credential-expired " + dbFile + ":%expires"}},
		{name: "an expiry that nobody can read", plant: func(r *testRepo) {
			r.seal(dbFile, strings.Replace(r.plain("orders-db-r", "orders", "key-value", "r", "password"), "owner:", "tags: [\"expires:soon\"]\nowner:", 1))
		}, found: []string{"expiry-invalid " + dbFile + ":%expires"}},
		{name: "removed, and a service reads it", baseOnly: true, plant: func(r *testRepo) { r.remove(dbFile) },
			found: []string{"secret-in-use apps/orders.yaml:%orders-db-r"}},
		{name: "removed, and a kustomization names the file", baseOnly: true, plant: func(r *testRepo) { r.remove(gatewayFile) },
			found: []string{"secret-in-use apps/kustomization.yaml:2"}},
		{name: "removed, and pulled with", baseOnly: true, plant: func(r *testRepo) {
			r.edit("apps/orders.yaml", "workspace: orders\nservice", "workspace: payments\nservice")
			r.edit("apps/orders.yaml", "imagePullSecret: registry", "imagePullSecret: gateway")
			r.edit("apps/kustomization.yaml", "gateway", "other")
			r.remove(gatewayFile)
		}, found: []string{"secret-in-use apps/orders.yaml:%imagePullSecret"}},
		{name: "a symbolic link", plant: func(r *testRepo) {
			if err := os.Symlink("orders-db-r.yaml", filepath.Join(r.dir, "workspaces/orders/secrets/linked.yaml")); err != nil {
				r.t.Fatal(err)
			}
		}, found: []string{"file-link workspaces/orders/secrets/linked.yaml:1"}},
		{name: "a submodule", plant: func(r *testRepo) {
			sub := filepath.Join(r.dir, "workspaces/orders/secrets/vendor")
			if err := os.MkdirAll(sub, 0o755); err != nil {
				r.t.Fatal(err)
			}
			r.run("-C", sub, "init", "-q")
			r.run("-C", sub, "commit", "-q", "--allow-empty", "-m", "x")
		}, found: []string{"file-submodule workspaces/orders/secrets/vendor:1"}},
		{name: "a huge file", plant: func(r *testRepo) {
			r.write("workspaces/orders/secrets/huge.yaml", "x: "+strings.Repeat("y", manifest.MaxSize)+"\n")
		}, found: []string{"file-too-large workspaces/orders/secrets/huge.yaml:1"}},
		{name: "conflict markers", plant: func(r *testRepo) {
			r.edit(dbFile, "owner: dana\n", "<<<<<<< HEAD\nowner: dana\n=======\nowner: bob\n>>>>>>> x\n")
		},
			found: []string{"merge-conflict " + dbFile + ":%<<<<<<<"}},
		{name: "two spellings of one path", plant: func(r *testRepo) {
			r.write("workspaces/orders/grants/team/a.yaml", grant("a", "orders", "list-secrets", "allow", "users:id:alice", ""))
			r.write("workspaces/orders/grants/Team/b.yaml", grant("b", "orders", "list-secrets", "allow", "users:id:alice", ""))
		}, found: []string{"path-twice workspaces/orders/grants/team/a.yaml:1"}},
		{name: "settings of nobody", plant: func(r *testRepo) { r.write("sealward.yaml", "layout: parts\nbindings: required\n") },
			found: []string{"settings-invalid sealward.yaml:2"}},
		{name: "settings that ask for less", baseOnly: true, plant: func(r *testRepo) {
			r.write("sealward.yaml", "binding: required\n")
			r.commit("strict")
			r.run("tag", "-f", "base")
			r.write("sealward.yaml", "layout: parts\n")
		}, found: []string{"settings-loosened sealward.yaml:1"}},
		{name: "a use case that nobody knows", plant: func(r *testRepo) { r.edit(readersFile, "read-specific-secret", "manage-secrets") },
			found: []string{"grant-use-case " + readersFile + ":%policy_use_case_id"}},
		{name: "nobody selected", plant: func(r *testRepo) { r.edit(readersFile, "[users:id:alice, roles:id:dev]", "[]") },
			found: []string{"grant-empty " + readersFile + ":%subjects"}},
		{name: "a grant that is over", plant: func(r *testRepo) {
			r.edit(readersFile, "  effect: allow", "  effect: allow\n  expires: 2026-05-31T00:00:00Z")
		},
			found: []string{"grant-expired " + readersFile + ":%expires"}},
		{name: "a role that nobody defines", plant: func(r *testRepo) { r.edit(readersFile, "roles:id:dev", "roles:id:devs") },
			found: []string{"grant-nobody " + readersFile + ":%subjects"}},
		{name: "a role that is removed while a grant names it", plant: func(r *testRepo) { r.remove("workspaces/orders/grants/dev.yaml") },
			found: []string{"grant-nobody " + readersFile + ":%subjects"}},
		{name: "a pattern that matches nothing", plant: func(r *testRepo) { r.edit(readersFile, "orders-db-*", "order-db-*") },
			found: []string{"grant-nothing " + readersFile + ":%secrets:"}},
		{name: "a deny of a key that nobody has", plant: func(r *testRepo) {
			r.write("workspaces/orders/grants/no-passwords.yaml", strings.Replace(grant("no-passwords", "orders", "read-specific-secret", "deny", "users:id:alice", "orders-db-r"), "  effect:", "  keys: [username, pasword]\n  effect:", 1))
		}, found: []string{"grant-nothing workspaces/orders/grants/no-passwords.yaml:%keys:"}},
		{name: "a sealed file cut off", plant: func(r *testRepo) {
			text := r.read(dbFile)
			r.write(dbFile, text[:strings.Index(text, "\nseal:")+1])
		}, found: []string{"sops-invalid " + dbFile + ":%username:"}},
		{name: "conflict markers in the registry", plant: func(r *testRepo) {
			r.edit(workspace.RulesFile, "  - path_regex: ^workspaces/payments/", "<<<<<<< HEAD\n=======\n>>>>>>> x\n  - path_regex: ^workspaces/payments/")
		}, found: []string{"merge-conflict .sops.yaml:%<<<<<<<"}},
		{name: "an instance-wide right that gets wider", baseOnly: true, plant: func(r *testRepo) {
			r.edit("instance/grants/operate.yaml", "[roles:id:operators]", "[roles:id:operators, users:id:mallory]")
		}, found: []string{"grant-widens-instance instance/grants/operate.yaml:%subjects"}},
		{name: "an instance-wide role that gets wider", baseOnly: true, plant: func(r *testRepo) {
			r.edit("instance/grants/operators.yaml", "users:id:olga", "users:id:olga, users:id:mallory")
		}, found: []string{"grant-widens-instance instance/grants/operators.yaml:%members"}},
		{name: "a role defined twice", plant: func(r *testRepo) {
			r.write("workspaces/orders/grants/team/dev.yaml", role("dev", "orders", "users:id:mallory"))
		}, found: []string{"role-twice workspaces/orders/grants/team/dev.yaml:1"}},
		{name: "a role that hides the instance's", plant: func(r *testRepo) {
			r.write("workspaces/orders/grants/operators.yaml", role("operators", "orders", "users:id:mallory"))
		}, found: []string{"role-hides-instance workspaces/orders/grants/operators.yaml:1"}},
		{name: "a secret below grants", plant: func(r *testRepo) {
			r.write("workspaces/orders/grants/s.yaml", r.plain("s", "orders", "key-value", "rw", "password"))
		}, found: []string{"place-mismatch workspaces/orders/grants/s.yaml:%type: secret", "value-unsealed workspaces/orders/grants/s.yaml:%password"}},
		{name: "values swapped, with the key to see it", keys: true, plant: func(r *testRepo) {
			r.seal(dbFile, r.plain("orders-db-r", "orders", "key-value", "r", "username", "password"))
			text := r.read(dbFile)
			u, p := sealedOf(text, "username"), sealedOf(text, "password")
			r.write(dbFile, strings.NewReplacer(u, p, p, u).Replace(text))
		}, found: []string{"unseal-failed " + dbFile + ":%username"}},
		{name: "sealed for a key that the ring does not have", keys: true, plant: func(r *testRepo) {
			r.seal(dbFile, r.plain("orders-db-r", "orders", "key-value", "r", "password"), r.recipient("payments"))
		}, found: []string{"recipient-extra " + dbFile + ":%recipient", "recipient-missing " + dbFile + ":%recipient", "unseal-no-key " + dbFile + ":%recipient"}},
	}...)
}

func (r *testRepo) remove(path string) {
	if err := os.Remove(filepath.Join(r.dir, path)); err != nil {
		r.t.Fatal(err)
	}
}

func without1(text, start string) string {
	i := strings.Index(text, "\n"+start) + 1
	return text[:i] + text[i+strings.IndexByte(text[i:], '\n')+1:]
}

// withoutStanza removes a recipient from a sops section and nothing else.
func withoutStanza(text, recipient string) string {
	lines := strings.SplitAfter(text, "\n")
	var out, stanza []string
	inside := false
	flush := func() {
		if !strings.Contains(strings.Join(stanza, ""), recipient) {
			out = append(out, stanza...)
		}
		stanza = nil
	}
	for _, l := range lines {
		switch {
		case strings.HasPrefix(l, "        - "):
			flush()
			inside = true
			stanza = append(stanza, l)
		case inside && strings.HasPrefix(l, "         "):
			stanza = append(stanza, l)
		default:
			flush()
			inside = false
			out = append(out, l)
		}
	}
	return strings.Join(out, "")
}

func sealedOf(text, key string) string {
	i := strings.Index(text, key+": ENC[")
	return text[i+len(key)+2 : i+strings.IndexByte(text[i:], ']')+1]
}

// expected turns what a case says into id path:line. An id alone may be found too.
func (p planted) expected(r *testRepo) (want, may []string) {
	for _, f := range p.found {
		id, place, ok := strings.Cut(f, " ")
		if !ok {
			may = append(may, id)
			continue
		}
		path, at, _ := strings.Cut(place, ":")
		line := 0
		switch text, search := strings.CutPrefix(at, "%"); {
		case !search:
			fmt.Sscan(at, &line)
		case text == "recipient" || text == "sops-section":
			line = r.line(path, "sops:") + 1 // a mapping's place is its first field
		case strings.HasPrefix(text, "LAST "):
			text = text[5:]
			for i, l := range strings.Split(r.read(path), "\n") {
				if strings.Contains(l, text) {
					line = i + 1
				}
			}
		case strings.HasPrefix(text, "SECOND "):
			line = r.line(path, text[7:])
		default:
			line = r.line(path, text)
		}
		want = append(want, fmt.Sprintf("%s %s:%d", id, path, line))
	}
	slices.Sort(want)
	return want, may
}

// TestCheckFindsPlantedCommits: each kind of bad commit is found with its id, file and
// line, with a base and (where the version before does not matter) without, and no
// finding repeats a value.
func TestCheckFindsPlantedCommits(t *testing.T) {
	r := newTestRepo(t)
	all := &Report{}
	ids := map[CheckID]bool{}
	for _, p := range plantedCommits() {
		t.Run(p.name, func(t *testing.T) {
			outer := r.t
			r.t = t
			defer func() { r.t = outer }()
			defer r.reset()
			r.run("tag", "-f", "base", "clean")
			p.plant(r)
			want, may := p.expected(r)
			r.commit(p.name)
			opts := CheckOptions{Now: testNow, Generators: misspelt}
			if p.keys {
				opts.Ring = r.ring
			}
			check := func(mode string, tree *Tree, opts CheckOptions) {
				report, err := r.git.Check(t.Context(), tree, opts)
				if err != nil {
					t.Fatalf("%s: %v", mode, err)
				}
				got := slices.DeleteFunc(found(report), func(f string) bool {
					id, _, _ := strings.Cut(f, " ")
					return slices.Contains(may, id)
				})
				if !slices.Equal(got, want) {
					t.Errorf("%s: found\n\t%s\nwant\n\t%s", mode, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
				}
				for _, f := range report.Findings {
					if text := fmt.Sprintf("%+v", f); strings.Contains(text, value) || strings.Contains(text, "AGE-SECRET-KEY-1") {
						t.Errorf("%s: a finding shows a secret: %s", mode, text)
					}
					ids[f.ID] = true
				}
				all.Findings = append(all.Findings, report.Findings...)
			}
			if !p.baseOnly {
				check("whole", r.at("HEAD"), opts)
			}
			opts.Base = r.at("base")
			check("since the base", r.at("HEAD"), opts)
		})
	}
	for _, a := range Checks() {
		if !ids[a.ID] {
			t.Errorf("no planted commit is found by %s", a.ID)
		}
	}
	if len(plantedCommits()) < 25 {
		t.Error("too few kinds of bad commits")
	}
	t.Run("SARIF", func(t *testing.T) { validSARIF(t, all) })
}

// validSARIF holds a report to the schema of SARIF 2.1.0 (OASIS), which go-sarif has.
func validSARIF(t *testing.T, r *Report) {
	var out bytes.Buffer
	if err := r.WriteSARIF(&out, "sub folder/"); err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(out.Bytes()))
	d.DisallowUnknownFields()
	if err := d.Decode(&sarif.Report{}); err != nil {
		t.Fatalf("a field that SARIF does not have: %v", err)
	}
	report, err := sarif.FromBytes(out.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if err := report.Validate(); err != nil {
		t.Fatal(err)
	}
	if n := len(report.Runs[0].Results); n != len(r.Findings) || n < 25 {
		t.Errorf("%d results of %d findings", n, len(r.Findings))
	}
}

// TestCheckCleanRepository: nothing is found in the clean one, however it is looked
// at.
func TestCheckCleanRepository(t *testing.T) {
	r := newTestRepo(t)
	staged, err := r.git.Staged(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	work, err := r.git.WorkTree()
	if err != nil {
		t.Fatal(err)
	}
	for _, tree := range []*Tree{r.at("clean"), staged, work} {
		defer tree.Close()
		for _, opts := range []CheckOptions{{Now: testNow}, {Now: testNow, Ring: r.ring}, {Now: testNow, Base: r.at("clean")}} {
			report, err := r.git.Check(t.Context(), tree, opts)
			if err != nil {
				t.Fatal(err)
			}
			if len(report.Findings) > 0 {
				t.Errorf("%s: %s", tree.Name, strings.Join(found(report), "\n"))
			}
			if opts.Base == nil && report.Files != 9 || opts.Ring != nil && report.Opened != 5 {
				t.Errorf("%s: %d files, %d opened", tree.Name, report.Files, report.Opened)
			}
		}
	}
	// A value that was set by sealward is no finding.
	r.change(dbFile, "password", value+"2")
	report, err := r.git.Check(t.Context(), work, CheckOptions{Now: testNow, Base: r.at("clean"), Ring: r.ring})
	if err != nil || len(report.Findings) > 0 || report.Opened != 1 {
		t.Errorf("%v, %v", err, report)
	}
}

// change sets a value as sealward set does.
func (r *testRepo) change(path, key, to string) {
	r.t.Helper()
	m, err := manifest.Parse(path, []byte(r.read(path)))
	if err != nil {
		r.t.Fatal(err)
	}
	opened := r.open(m)
	k, _ := manifest.ParseKey(key)
	if _, err := opened.Set(k, []byte(to)); err != nil {
		r.t.Fatal(err)
	}
	out, err := opened.Reseal(testNow)
	if err != nil {
		r.t.Fatal(err)
	}
	r.write(path, string(out))
}

func (r *testRepo) open(m *manifest.Manifest) *seal.Envelope {
	r.t.Helper()
	ring, err := r.ring(m.Workspace)
	if err != nil {
		r.t.Fatal(err)
	}
	opened, err := unsealOpen(m, ring)
	if err != nil {
		r.t.Fatal(err)
	}
	return opened
}

// TestChecksAreDocumented: docs/checks.md tells of each check, with its level, and of
// no other.
func TestChecksAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/checks.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\| (error|warning) \\| .{10}").FindAllStringSubmatch(string(page), -1) {
		documented[m[1]] = m[2]
	}
	for _, a := range Checks() {
		if got := documented[string(a.ID)]; got != string(a.Level) {
			t.Errorf("%s: documented as %q, is %s", a.ID, got, a.Level)
		}
		delete(documented, string(a.ID))
	}
	for id := range documented {
		t.Errorf("docs/checks.md tells of %s, which is no check", id)
	}
}
