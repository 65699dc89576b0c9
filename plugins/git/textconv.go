package git

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal"
)

// fingerprintContext separates fingerprints from all else that a ring authenticates.
const fingerprintContext = "sealward git textconv v1"

// Textconv gives the text that git compares in the place of a file: a sealed
// manifest's fields, and for each of its keys a fingerprint. Values are in it only
// with showValues. It never fails: git diff would end.
//
// A fingerprint is of the value where the ring opens the file, keyed with the ring's
// own identity, so that sealing anew shows no change and who sees a diff cannot try
// out short values; else it is of the ciphertext.
func (p *Plugin) Textconv(file string, data []byte, showValues bool) []byte {
	var t text
	m, err := manifest.Parse(filepath.Base(file), data)
	switch {
	case err != nil && isNote(file):
		return data
	case err != nil:
		t.line("NO MANIFEST THAT CAN BE READ, so its content is not shown")
		for line := range strings.SplitSeq(err.Error(), "\n") {
			// Without the file: git gives it a temporary name.
			t.line("  %s", strings.TrimPrefix(line, filepath.Base(file)))
		}
	case !m.Kind.IsSecret():
		return data
	case !m.Sealed:
		t.fields(m)
		t.line("NOT SEALED: the values stand in the clear in the file, and are not shown")
		for _, e := range m.Secret.Entries {
			t.line("key %s: (not sealed)", e.Key)
		}
		for _, f := range m.Secret.Files {
			t.line("key %s: (from a file)", f.Key)
		}
	default:
		t.fields(m)
		p.sealedText(&t, m, showValues)
	}
	return []byte(t.b.String())
}

// isNote: what stands beside sealed files by right and is none. All else there may be a
// secret that somebody forgot to seal, such as an editor's copy. Git keeps the end of the
// name when it makes a temporary file.
func isNote(file string) bool {
	base := filepath.Base(file)
	return strings.HasSuffix(base, "README.md") || strings.HasSuffix(base, ".gitkeep")
}

func (p *Plugin) sealedText(t *text, m *manifest.Manifest, showValues bool) {
	values, authenticate, opened := p.open(m)
	for _, e := range m.Secret.Entries {
		v, known := values[e.Key]
		switch {
		case known && showValues:
			t.value(e.Key, v)
		case known:
			record := lengthPrefixed(m.FormKind(), m.Workspace.String(), m.Name.String(), e.Key.String(), fmt.Sprint(v.Binary), string(v.Data))
			t.line("key %s: value %s", e.Key, hex.EncodeToString(authenticate(record))[:8])
		case e.Text == "":
			t.line("key %s: empty", e.Key)
		default:
			sum := sha256.Sum256([]byte(e.Text))
			t.line("key %s: sealed %s", e.Key, hex.EncodeToString(sum[:])[:8])
		}
	}
	if opened != "" {
		t.line("%s", opened)
	}
	e, err := seal.Load(m)
	if err != nil {
		t.line("sops: cannot be read")
		return
	}
	meta := e.Metadata()
	for _, r := range e.Recipients() {
		t.line("recipient: %.200s", r)
	}
	if len(meta.KeyGroups) > 1 {
		t.line("key groups: %d, of which %d are needed", len(meta.KeyGroups), meta.ShamirThreshold)
	}
	present := func(there bool) string { return map[bool]string{true: "present", false: "MISSING"}[there] }
	t.line("binding: %s", present(m.Secret.Binding != ""))
	t.line("mac: %s", present(meta.MessageAuthenticationCode != ""))
	t.line("lastmodified: %s", meta.LastModified.UTC().Format("2006-01-02T15:04:05Z"))
}

// open opens a manifest with what is at hand: nobody is asked, neither a person nor
// a service, as git starts this for each version of each file.
func (p *Plugin) open(m *manifest.Manifest) (values map[manifest.Key]seal.Value, authenticate func([]byte) []byte, problem string) {
	if m.Workspace.IsZero() || p.Ring == nil {
		return nil, nil, ""
	}
	ring, err := p.Ring(m.Workspace)
	if err != nil {
		return nil, nil, ""
	}
	ring = ring.Alone()
	if ring.Authenticate(fingerprintContext, nil) == nil {
		return nil, nil, ""
	}
	opened, err := unseal.Open(m, ring, unseal.Options{AllowUnbound: true})
	if isKeyless(err) {
		return nil, nil, ""
	}
	if err != nil {
		return nil, nil, "DOES NOT OPEN: " + string(unseal.Classify(err))
	}
	values = map[manifest.Key]seal.Value{}
	for _, v := range opened.Values {
		values[v.Key] = v
	}
	return values, func(data []byte) []byte { return ring.Authenticate(fingerprintContext, data) }, ""
}

func lengthPrefixed(parts ...string) []byte {
	var out []byte
	for _, s := range parts {
		out = append(binary.BigEndian.AppendUint32(out, uint32(len(s))), s...)
	}
	return out
}

// text is lines for people.
type text struct{ b strings.Builder }

func (t *text) line(format string, args ...any) {
	t.b.WriteString(clean(fmt.Sprintf(format, args...)) + "\n")
}

// value shows a value that a person asked for.
func (t *text) value(key manifest.Key, v seal.Value) {
	switch {
	case v.Binary || !utf8.Valid(v.Data):
		t.line("key %s: (binary, %d bytes)", key, len(v.Data))
	case strings.Contains(string(v.Data), "\n"):
		t.line("key %s:", key)
		for line := range strings.SplitSeq(strings.TrimSuffix(string(v.Data), "\n"), "\n") {
			t.line("    %s", line)
		}
	default:
		t.line("key %s: %s", key, v.Data)
	}
}

// fields shows every field that is not sealed, with the comments above them.
func (t *text) fields(m *manifest.Manifest) {
	sections := m.Sections()
	skip := map[string]bool{"sops": true, "seal": true, strings.Join(m.BindingPath(), "."): true,
		strings.Join(sections.Text, "."): true, strings.Join(sections.Base64, "."): true,
		strings.Join(append(append([]string{}, sections.Text[:len(sections.Text)-1]...), "files"), "."): true}
	comment := func(texts ...string) {
		if !m.Sealed { // a line that was commented out may be a value
			return
		}
		for _, text := range texts {
			for line := range strings.SplitSeq(text, "\n") {
				if line != "" {
					t.line("%s", line)
				}
			}
		}
	}
	var walk func(n *yaml.Node, path string)
	walk = func(n *yaml.Node, path string) {
		switch n.Kind {
		case yaml.MappingNode:
			for i := 0; i+1 < len(n.Content); i += 2 {
				k, v := n.Content[i], n.Content[i+1]
				at := strings.TrimPrefix(path+"."+k.Value, ".")
				if skip[at] {
					continue
				}
				comment(k.HeadComment, v.HeadComment, k.LineComment, v.LineComment)
				walk(v, at)
				comment(v.FootComment, k.FootComment)
			}
		case yaml.SequenceNode:
			for _, item := range n.Content {
				comment(item.HeadComment, item.LineComment)
				walk(item, path+"[]")
			}
		default:
			t.line("%s: %s", path, n.Value)
		}
	}
	comment(m.Node().HeadComment)
	walk(m.Node(), "")
	comment(m.Node().FootComment)
}
