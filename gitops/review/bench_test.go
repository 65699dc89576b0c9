package review

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.yaml.in/yaml/v3"
)

// BenchmarkCheck checks 1,000 sealed manifests beside yaml.v3 parsing them.
func BenchmarkCheck(b *testing.B) {
	r := newTestRepo(b)
	var files []string
	for i := range 1000 {
		name := fmt.Sprintf("service-%04d-r", i)
		path := "workspaces/orders/secrets/" + name + ".yaml"
		r.seal(path, r.plain(name, "orders", "key-value", "r", "host", "port", "username", "password", "token"))
		files = append(files, path)
	}
	b.Run("yaml.v3", func(b *testing.B) {
		for b.Loop() {
			if err := inParallel(b.Context(), len(files), func(i int) error {
				data, err := os.ReadFile(filepath.Join(r.dir, files[i]))
				if err != nil {
					return err
				}
				var n yaml.Node
				return yaml.Unmarshal(data, &n)
			}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("check", func(b *testing.B) {
		for b.Loop() {
			tree, err := r.git.WorkTree()
			if err != nil {
				b.Fatal(err)
			}
			report, err := r.git.Check(b.Context(), tree, CheckOptions{Now: testNow})
			tree.Close()
			if err != nil || len(report.Findings) > 0 {
				b.Fatal(report, err)
			}
		}
	})
}
