package propose

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sealward/sealward/gitops/review"
)

func changed(ws, name string, keys ...string) review.SecretChange {
	s := review.SecretChange{Workspace: ws, Name: name, Change: review.Changed}
	for _, k := range keys {
		kind := map[byte]review.ChangeKind{'~': review.Changed, '+': review.Added, '-': review.Removed, '=': review.Resealed}[k[0]]
		s.Keys = append(s.Keys, review.KeyChange{Key: k[1:], Change: kind})
	}
	return s
}

func TestMessage(t *testing.T) {
	added := changed("orders", "api", "+token", "+webhook")
	added.Change = review.Added
	gone := changed("orders", "api", "-token")
	gone.Change = review.Removed
	owner := changed("orders", "api")
	owner.Fields = []review.FieldChange{{Field: "owner", Old: "bob", New: "dana"}}
	owner.RecipientsAdded = []string{"age1x"}
	long := changed("orders", "api")
	for i := range 30 {
		long.Keys = append(long.Keys, review.KeyChange{Key: fmt.Sprintf("a-long-key-%d", i), Change: review.Changed})
	}
	longest := changed(strings.Repeat("w", 31), strings.Repeat("n", 48), "~password")
	grant := review.PolicyChange{Kind: "grant", Workspace: "orders", Name: "readers", Change: review.Added, Fields: []review.FieldChange{{Field: "subjects"}}}
	for _, c := range []struct {
		diff    review.Diff
		subject string
		lines   int
	}{
		{review.Diff{Secrets: []review.SecretChange{changed("orders", "orders-db-r", "~password", "+token", "-old")}}, "orders/orders-db-r: set password, add token, remove old", 0},
		{review.Diff{Secrets: []review.SecretChange{added}}, "orders/api: add the secret, with token and webhook", 0},
		{review.Diff{Secrets: []review.SecretChange{gone}}, "orders/api: remove the secret", 0},
		{review.Diff{Secrets: []review.SecretChange{owner}}, "orders/api: change owner, seal for 1 more recipient", 0},
		{review.Diff{Secrets: []review.SecretChange{changed("orders", "api", "=token")}}, "orders/api: seal token anew", 0},
		{review.Diff{Secrets: []review.SecretChange{long}}, "orders/api: set 30 keys", 1},
		{review.Diff{Secrets: []review.SecretChange{longest}}, "Change 1 secret in " + strings.Repeat("w", 31), 1},
		{review.Diff{Secrets: []review.SecretChange{changed("orders", "a", "~x"), changed("orders", "b", "~x"), changed("orders", "c", "~x")}}, "Change 3 secrets in orders", 3},
		{review.Diff{Secrets: []review.SecretChange{gone, gone}}, "Remove 2 secrets in orders", 2},
		{review.Diff{Secrets: []review.SecretChange{changed("orders", "a", "~x"), changed("payments", "b", "~x")}}, "Change 2 secrets in 2 workspaces", 2},
		{review.Diff{Policy: []review.PolicyChange{grant}}, "grants: add orders/readers", 0},
		{review.Diff{Secrets: []review.SecretChange{added}, Policy: []review.PolicyChange{grant}}, "Add 1 secret and 1 grant in orders", 2},
		{review.Diff{Secrets: []review.SecretChange{added}, Files: []review.FileChange{{Path: "README.md", Change: review.Changed}}}, "Change 1 secret and 1 other file in orders", 2},
		{review.Diff{Rules: []review.RuleChange{{Workspace: "orders", Change: review.Changed, Added: []string{"age1x"}, Removed: []string{"age1y", "age1z"}}}}, ".sops.yaml: orders: add 1 recipient, remove 2 recipients", 0},
		{review.Diff{Files: []review.FileChange{{Path: "over\nlay.yaml", Change: review.Added}}}, "Add over?lay.yaml", 0},
		{review.Diff{Files: []review.FileChange{{Path: strings.Repeat("x/", 50), Change: review.Added}}}, "Change 1 file", 1},
	} {
		subject, body := message(&c.diff, "")
		if subject != c.subject || strings.Count(body, "\n") != c.lines {
			t.Errorf("got %q and %q, want %q and %d lines", subject, body, c.subject, c.lines)
		}
		if len(subject) > maxSubject {
			t.Errorf("%q has %d bytes", subject, len(subject))
		}
	}
	// A first line that is given does not hide what changes.
	if subject, body := message(&review.Diff{Secrets: []review.SecretChange{gone}}, "Tidy up"); subject != "Tidy up" || body != "- orders/api: remove the secret\n" {
		t.Errorf("got %q and %q", subject, body)
	}
}
