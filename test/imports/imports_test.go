// Package imports holds the direction in which the project's packages import
// each other: cmd -> plugins, gitops -> unseal -> seal.
package imports

import (
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/sealward/sealward"

// layers from the top; a package imports its own layer and those below.
var layers = map[string]int{"cmd": 4, "test": 4, "examples": 4, "plugins": 3, "gitops": 2, "unseal": 1, "seal": 0}

func TestDirection(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}: {{join .Imports " "}} {{join .TestImports " "}} {{join .XTestImports " "}}`, module+"/...").CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	packages := 0
	for line := range strings.Lines(string(out)) {
		from, imports, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok || !strings.HasPrefix(from, module+"/") {
			continue
		}
		packages++
		for _, to := range strings.Fields(imports) {
			if why := wrong(from, to); why != "" {
				t.Errorf("%s imports %s: %s", from, to, why)
			}
		}
	}
	if packages < 10 {
		t.Errorf("only %d packages were looked at", packages)
	}
}

func wrong(from, to string) string {
	rel := func(p string) string { return strings.TrimPrefix(p, module+"/") }
	if !strings.HasPrefix(to, module+"/") {
		// What turns Git or HTTP into a dependency of sealing stays out of it.
		if strings.HasPrefix(rel(from), "seal") && (strings.HasPrefix(to, "github.com/go-git/") || to == "net/http") {
			return "seal takes bytes; it knows no Git and no HTTP"
		}
		if strings.HasPrefix(rel(from), "unseal") && strings.HasPrefix(to, "github.com/go-git/") {
			return "unseal takes bytes, never a repository"
		}
		return ""
	}
	top := func(p string) string { return strings.Split(rel(p), "/")[0] }
	f, known := layers[top(from)]
	l, known2 := layers[top(to)]
	switch {
	case !known || !known2:
		return "a folder that design and README do not know"
	case l > f:
		return "imports point from cmd to plugins and gitops, to unseal, to seal"
	case strings.HasPrefix(rel(to), "cmd/"):
		return "nothing imports a command"
	}
	return ""
}

func TestWrong(t *testing.T) {
	for _, c := range []struct {
		from, to string
		ok       bool
	}{
		{"cmd/sealward", "gitops", true}, {"gitops", "unseal/serve", true}, {"unseal", "seal/manifest", true}, {"unseal/serve", "unseal/access", true},
		{"seal", "unseal", false}, {"unseal", "gitops", false}, {"gitops", "plugins/kustomize", false}, {"gitops", "cmd/sealward", false}, {"util", "seal", false},
	} {
		if got := wrong(module+"/"+c.from, module+"/"+c.to) == ""; got != c.ok {
			t.Errorf("%s -> %s: allowed %v, want %v", c.from, c.to, got, c.ok)
		}
	}
}
