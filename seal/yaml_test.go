package seal

import (
	"math/rand"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// What isPlain lets pass without a try must come back from the printer that sops
// -d uses: every printable ASCII text does.
func TestPlainTextsSurviveYAML(t *testing.T) {
	const odd = " ~:#-'\"{}[],&*!|>%@`?ab01\\"
	random := rand.New(rand.NewSource(1))
	texts := []string{"", " ", "null", "~", "yes", "0x1F", "- a", "a: b", " #", "'", `"`, "|", ">", "{", "[", "*a", "&a", "!a", "%", "@", "`", "? a", "---", "...", "<<", "=", strings.Repeat("word ", 500)}
	for range 5000 {
		b := make([]byte, random.Intn(120))
		for i := range b {
			b[i] = odd[random.Intn(len(odd))]
			if random.Intn(3) == 0 {
				b[i] = byte(' ' + random.Intn(95))
			}
		}
		texts = append(texts, string(b))
	}
	for _, s := range texts {
		if !isPlain(s) {
			t.Fatalf("%q is not plain", s)
		}
		n := yaml.Node{}
		if err := n.Encode(s); err != nil {
			t.Fatal(err)
		}
		out, err := encodeYAML(&yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{textNode("k"), {Kind: yaml.MappingNode, Content: []*yaml.Node{textNode("k"), &n}}}})
		if err != nil {
			t.Fatal(err)
		}
		var back map[string]map[string]*string
		if err := yaml.Unmarshal(out, &back); err != nil || back["k"]["k"] == nil || *back["k"]["k"] != s {
			t.Fatalf("%q came back otherwise: %v\n%s", s, err, out)
		}
	}
	for _, s := range []string{"\t", "a\nb", "\x7f", "é", "a\x00"} {
		if isPlain(s) {
			t.Errorf("%q is plain", s)
		}
	}
}
