package propose

import (
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/sealward/sealward/seal/manifest"
)

// minValue is the length from which a value is looked for in what others will read;
// shorter ones stand in any sentence.
const minValue = 6

// value is one that is sealed on the way.
type value struct{ file, key, text string }

// values are those that a plaintext manifest states itself; files that it names are
// noted as they are read.
func values(file string, m *manifest.Manifest) []value {
	var out []value
	for _, e := range m.Secret.Entries {
		out = append(out, value{file, e.Key.String(), e.Text})
		if e.Binary {
			if raw, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(e.Text), "")); err == nil {
				out = append(out, value{file, e.Key.String(), string(raw)})
			}
		}
	}
	return out
}

// keepQuiet refuses a message or a branch's name that tells a value which is being sealed.
// What the file's path or the key says anyway is told.
func (w *work) keepQuiet() error {
	for _, told := range [][2]string{{"-m", w.opts.Subject}, {"--branch", w.opts.Branch}} {
		for _, v := range w.values {
			text := strings.TrimSpace(v.text)
			if len(text) >= minValue && strings.Contains(told[1], text) && !strings.Contains(v.file+" "+v.key, text) {
				return fmt.Errorf("%s tells the value of %s in %s, which everybody who reads the repository would see; say it without", told[0], v.key, v.file)
			}
		}
	}
	return nil
}
