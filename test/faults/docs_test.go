package faults

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

// The table of docs/reliability.md names every test of this package that injects a
// fault, and what else it names is a test of gitops.
func TestTableNamesEveryTest(t *testing.T) {
	page, err := os.ReadFile("../../docs/reliability.md")
	must(t, err)
	in := func(dir string) map[string]bool {
		files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
		must(t, err)
		tests := map[string]bool{}
		for _, file := range files {
			text, err := os.ReadFile(file)
			must(t, err)
			for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(t `).FindAllSubmatch(text, -1) {
				tests[string(m[1])] = true
			}
		}
		return tests
	}
	tests, others := in("."), in("../../gitops")
	maps.Copy(others, in("../replicas"))
	maps.Copy(others, in("../../plugins/kubernetes"))
	ours := []string{"TestSoak", "TestLeaksAreFound", "TestOracleNotesWhatIsWrong", "TestTableNamesEveryTest"}
	named := map[string]bool{}
	for _, m := range regexp.MustCompile("`(Test\\w+)`").FindAllSubmatch(page, -1) {
		named[string(m[1])] = true
		if name := string(m[1]); !tests[name] && !others[name] {
			t.Errorf("the table names %s, which does not exist", m[1])
		}
	}
	for name := range tests {
		if !named[name] && !slices.Contains(ours, name) {
			t.Errorf("the table does not name %s", name)
		}
	}
	if len(named) < 20 {
		t.Errorf("only %d tests are named", len(named))
	}
}
