package kustomize_test

import (
	"strings"
	"testing"
	"time"

	"github.com/sealward/sealward/plugins/kustomize"
	"github.com/sealward/sealward/seal/manifest"
)

// TestCheckGenerators: what a build refuses of a generator is told with its line, without
// the files that it names; what belongs to others is left to kustomize.
func TestCheckGenerators(t *testing.T) {
	good := generator + "secrets: [{workspace: orders, name: db-r}]\n"
	for name, c := range map[string]struct{ text, want string }{
		"a generator":          {good, ""},
		"two":                  {good + "---\n" + good, ""},
		"KSOPS's":              {"apiVersion: viaduct.ai/v1\nkind: ksops\nmetadata: {name: k}\nfiles: [./a.yaml]\n", ""},
		"another's":            {"apiVersion: builtin\nkind: SecretGenerator\nmetadata: {name: k}\nsecret: []\n", ""},
		"a list":               {"apiVersion: v1\nkind: List\nitems: []\n", ""},
		"no document":          {"", "gen.yaml:7:1: holds nothing"},
		"a comment":            {"# later\n---\n", "gen.yaml:7:1: holds nothing"},
		"no entry":             {generator + "secrets: []\n", "gen.yaml:7:1: makes nothing"},
		"an unknown field":     {good + "---\n" + generator + "secret: []\n", "gen.yaml:15:1: secret: is unknown here; known are"},
		"an unknown kind":      {strings.Replace(good, "Secret", "Secrets", 1), `gen.yaml:8:7: kind: "sealward.dev/v1", "SealedSecretsGenerator" is no generator of sealward`},
		"another group":        {strings.Replace(good, ".dev", ".io", 1), `gen.yaml:7:13: apiVersion: "sealward.io/v1"`},
		"a value of no option": {good + "options: {behavior: Merge}\n", "gen.yaml:11:21: options.behavior: is none of"},
		"broken YAML":          {good + " x: y\n", "gen.yaml:10:1: is not valid YAML: "},
	} {
		err := kustomize.CheckGenerators("gen.yaml", 7, []byte(c.text))
		if c.want == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if errs, ok := err.(manifest.Errors); !ok || !strings.HasPrefix(errs.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}

// TestGeneratorsFarBelow: a document costs what it weighs, wherever it stands in its file.
func TestGeneratorsFarBelow(t *testing.T) {
	text := strings.Repeat("\n", 500_000) + strings.Repeat(generator+"files: [a.yaml]\n---\n", 2_000) + generator + "file: []\n"
	start := time.Now()
	err := kustomize.CheckGenerators("gen.yaml", 1, []byte(text))
	if want := "gen.yaml:510004:1: file: is unknown here"; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
	if took := time.Since(start); took > 10*time.Second { // it was more
		t.Errorf("took %s", took)
	}
}
