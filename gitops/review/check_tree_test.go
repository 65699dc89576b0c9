package review

import (
	"encoding/hex"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// rawTree makes a tree object of "mode name id" entries, whatever git thinks of it.
func (r *testRepo) rawTree(entries ...string) string {
	r.t.Helper()
	var raw strings.Builder
	for _, e := range entries {
		part := strings.SplitN(e, " ", 3)
		id, err := hex.DecodeString(part[2])
		if err != nil {
			r.t.Fatal(err)
		}
		raw.WriteString(part[0] + " " + part[1] + "\x00" + string(id))
	}
	cmd := exec.Command("git", "-C", r.dir, "hash-object", "-t", "tree", "-w", "--literally", "--stdin")
	cmd.Stdin = strings.NewReader(raw.String())
	out, err := cmd.Output()
	if err != nil {
		r.t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// What git's listing hides and the agent refuses is found, whole and since a base, and
// shown as a change.
func TestCheckFindsBadEntries(t *testing.T) {
	r := newTestRepo(t)
	blob := r.run("rev-parse", "clean:"+readersFile)
	workspaces, orders := r.run("rev-parse", "clean:workspaces"), r.run("rev-parse", "clean:workspaces/orders")
	grants, payments := r.run("rev-parse", "clean:workspaces/orders/grants"), r.run("rev-parse", "clean:workspaces/payments")
	empty := r.rawTree()
	in := func(orders string) string {
		return r.rawTree("40000 workspaces " + r.rawTree("40000 orders "+orders, "40000 payments "+payments))
	}
	for _, c := range []struct{ name, root, want string }{
		{"a folder twice", in(r.rawTree("40000 grants "+grants, "40000 grants "+r.rawTree("100644 readers.yaml "+blob))), "path-twice workspaces/orders/grants:1"},
		{"a folder twice, once empty", in(r.rawTree("40000 grants "+grants, "40000 grants "+empty)), "path-twice workspaces/orders/grants:1"},
		{"a workspace twice", r.rawTree("40000 workspaces " + r.rawTree("40000 orders "+orders, "40000 orders "+empty, "40000 payments "+payments)), "path-twice workspaces/orders:1"},
		{"all workspaces twice", r.rawTree("40000 workspaces "+workspaces, "40000 workspaces "+empty), "path-twice workspaces:1"},
		{"a slash in a name", r.rawTree("40000 workspaces "+workspaces, "100644 workspaces/orders/grants/readers.yaml "+blob), "place-invalid workspaces/orders/grants/readers.yaml:1"},
	} {
		bad := r.run("commit-tree", c.root, "-p", "clean", "-m", c.name)
		for _, opts := range []CheckOptions{{}, {Base: r.at("clean")}} {
			opts.Now = testNow
			report, err := r.git.Check(t.Context(), r.at(bad), opts)
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			} else if !slices.Contains(found(report), c.want) {
				t.Errorf("%s, base %v: %s is missing in %v", c.name, opts.Base != nil, c.want, found(report))
			}
		}
		path, _, _ := strings.Cut(strings.Fields(c.want)[1], ":")
		d := r.diff("clean", bad, DiffOptions{})
		if !slices.ContainsFunc(d.Files, func(f FileChange) bool { return f.Path == path && f.Problem != "" }) {
			t.Errorf("%s: diff says %+v", c.name, d)
		}
		access, err := r.git.AccessDiff(t.Context(), r.at("clean"), r.at(bad), testNow)
		if err != nil || len(access.Closed) == 0 {
			t.Errorf("%s: access-diff closes nothing: %v", c.name, err)
		}
		after := r.run("commit-tree", c.root, "-p", bad, "-m", "nothing more")
		if report, err := r.git.Check(t.Context(), r.at(after), CheckOptions{Now: testNow, Base: r.at(bad)}); err != nil || len(report.Findings) > 0 {
			t.Errorf("%s: it was so before: %v %v", c.name, report, err)
		}
	}
}
