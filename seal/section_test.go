package seal

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/sealward/sealward/seal/manifest"
)

// TestInspect holds the quick reader to SOPS's own on every vector that Load takes.
func TestInspect(t *testing.T) {
	quick := 0
	err := filepath.Walk("../test/vectors", func(path string, info os.FileInfo, err error) error {
		if err != nil || !strings.HasSuffix(path, ".yaml") && !strings.HasSuffix(path, ".json") {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		m, err := manifest.Parse(path, data)
		if err != nil || !m.Sealed {
			return nil
		}
		s := inspectPlain(m)
		if s == nil {
			return nil
		}
		e, err := Load(m)
		if err != nil {
			t.Errorf("%s: the quick reader takes what Load refuses: %v", path, err)
			return nil
		}
		quick++
		meta := e.Metadata()
		want := &Section{Groups: [][]string{e.Recipients()}, Threshold: meta.ShamirThreshold, MAC: meta.MessageAuthenticationCode, LastModified: meta.LastModified, Pattern: meta.EncryptedRegex, MACOnlyEncrypted: meta.MACOnlyEncrypted}
		if !reflect.DeepEqual(s, want) {
			t.Errorf("%s: quick %+v, Load %+v", path, s, want)
		}
		return nil
	})
	if err != nil || quick < 50 {
		t.Fatalf("%d files were compared: %v", quick, err)
	}
}
