package seal

import (
	"fmt"
	"strings"

	"github.com/getsops/sops/v3"
	"github.com/getsops/sops/v3/stores"
	"go.yaml.in/yaml/v3"

	"github.com/sealward/sealward/seal/manifest"
)

// Document is a whole YAML, JSON, INI or dotenv file that plain sops sealed and
// that is no manifest of sealward's: a configuration file, or Kubernetes objects.
// It has no binding: SOPS's MAC covers the values in their order, but neither
// fields that are null or empty, nor the names of fields in the clear. It is not
// safe for concurrent use.
type Document struct {
	file   string
	format string
	tree   sops.Tree
}

// Formats, as SOPS chooses them by the end of a file's name (its
// formats.FormatForPath). Everything else is sealed as bytes.
const (
	formatYAML   = "yaml"
	formatJSON   = "json"
	formatINI    = "ini"
	formatDotenv = "dotenv"
	formatBinary = "binary"
)

func formatOf(file string) string {
	for _, f := range [][2]string{{".yaml", formatYAML}, {".yml", formatYAML}, {".json", formatJSON}, {".env", formatDotenv}, {".ini", formatINI}} {
		if strings.HasSuffix(file, f[0]) {
			return f[1]
		}
	}
	return formatBinary
}

// IsDocument reports that sops seals a file of this name field by field, not as
// bytes.
func IsDocument(file string) bool { return formatOf(file) != formatBinary }

// LoadDocument takes a file apart for which IsDocument holds. Nothing is decrypted.
func LoadDocument(file string, data []byte) (d *Document, err error) {
	silenceSOPS()
	// SOPS panics on some hostile metadata.
	defer func() {
		if recover() != nil {
			d, err = nil, &TamperError{File: file, Reason: ReasonForm, Msg: "the file cannot be read"}
		}
	}()
	d = &Document{file: file, format: formatOf(file)}
	roots, err := readTree(file, d.format, data)
	if err != nil {
		return nil, err
	}
	for _, root := range roots {
		if lookup(root, "metadata", "annotations", manifest.BindingAnnotation) != nil || lookup(root, "seal", "binding") != nil {
			return nil, &manifest.Error{File: file, Msg: "is a manifest with sealward's binding; name it where manifests are named, so that the binding is checked"}
		}
	}
	opts := stores.MetadataOpts{}
	switch d.format {
	case formatINI:
		opts = stores.MetadataOpts{Flatten: stores.MetadataFlattenBelowTop, EscapeNewlines: true}
	case formatDotenv:
		opts.Flatten = stores.MetadataFlattenFull
	}
	if d.tree, err = extract(file, roots, opts); err != nil {
		return nil, err
	}
	return d, nil
}

// Metadata is SOPS's section, for a key service that finds the data key.
func (d *Document) Metadata() *sops.Metadata { return &d.tree.Metadata }

// Recipients lists the recipients as the file names them.
func (d *Document) Recipients() []string { return recipients(d.tree.Metadata) }

// Open decrypts every field that SOPS's section says is sealed, and checks SOPS's
// MAC. It can be called once.
func (d *Document) Open(dataKey []byte) (err error) {
	defer d.recover(&err)
	cipher := newFieldCipher()
	cipher.comments = true
	if err := decrypt(d.file, d.tree, cipher, dataKey); err != nil {
		return err
	}
	for _, root := range d.tree.Branches {
		if err := d.check(root, ""); err != nil {
			return err
		}
	}
	return nil
}

func (d *Document) recover(err *error) {
	if recover() != nil {
		*err = &TamperError{File: d.file, Reason: ReasonForm, Msg: "the file cannot be read"}
	}
}

// check refuses what is still sealed, and types that a format does not have.
func (d *Document) check(in any, path string) error {
	bad := func(reason Reason, msg string) error {
		return &TamperError{File: d.file, Field: fieldOf(path), Reason: reason, Msg: msg}
	}
	switch in := in.(type) {
	case sops.TreeBranch:
		for _, item := range in {
			name, isText := item.Key.(string)
			if _, isComment := item.Value.(sops.Comment); isComment {
				return bad(ReasonValue, "was sealed as a comment, not as a value")
			}
			if !isText {
				continue // a comment
			}
			if err := d.check(item.Value, path+name+":"); err != nil {
				return err
			}
		}
	case []any:
		for _, item := range in {
			if err := d.check(item, path); err != nil {
				return err
			}
		}
	case string:
		if manifest.IsSealedValue(in) {
			// The file's own pattern left it out, so nothing proves where it comes from.
			return bad(ReasonPattern, "is outside the fields the sops section says are sealed")
		}
	default:
		if d.format == formatINI || d.format == formatDotenv {
			return bad(ReasonValue, "has another type than sops gives to values of such a file")
		}
	}
	return nil
}

// Text prints an opened document as sops -d prints it. Printers of YAML and INI
// were seen to lose some texts: what does not read back the same is refused.
func (d *Document) Text() (text []byte, err error) {
	defer d.recover(&err)
	lost := func(field string) ([]byte, error) {
		return nil, &manifest.Error{File: d.file, Field: field,
			Msg: "holds a text that sops -d cannot print so that it reads back the same; seal the file as binary (--input-type binary)"}
	}
	out, err := printTree(d.format, d.tree.Branches)
	if err != nil { // its text may hold a value
		return lost("")
	}
	back, err := readTree(d.file, d.format, out)
	if err != nil || len(back) != len(d.tree.Branches) {
		return lost("")
	}
	for i, root := range d.tree.Branches {
		if path, same := sameTree(root, back[i], ""); !same {
			return lost(fieldOf(path))
		}
	}
	return out, nil
}

// sameTree compares what two trees say, comments aside, and names the first field
// that differs. A float may have been read back as an int: 1.0 is printed as 1.
func sameTree(a, b any, path string) (differs string, same bool) {
	switch a := a.(type) {
	case sops.TreeBranch:
		b, ok := b.(sops.TreeBranch)
		a, b = withoutComments(a), withoutComments(b)
		if !ok || len(a) != len(b) {
			return path, false
		}
		for i := range a {
			name, _ := a[i].Key.(string)
			if a[i].Key != b[i].Key {
				return path + name + ":", false
			}
			if differs, same := sameTree(a[i].Value, b[i].Value, path+name+":"); !same {
				return differs, false
			}
		}
		return "", true
	case []any:
		b, ok := b.([]any)
		a, b = itemsOnly(a), itemsOnly(b)
		if !ok || len(a) != len(b) {
			return path, false
		}
		for i := range a {
			if differs, same := sameTree(a[i], b[i], path); !same {
				return differs, false
			}
		}
		return "", true
	}
	kind, text, err := typed(a)
	kind2, text2, err2 := typed(b)
	number := kind == "float" && kind2 == "int"
	return path, err == nil && err2 == nil && (kind == kind2 || number) && string(text) == string(text2)
}

func withoutComments(in sops.TreeBranch) (out sops.TreeBranch) {
	for _, item := range in {
		if _, isComment := item.Key.(sops.Comment); !isComment {
			out = append(out, item)
		}
	}
	return out
}

func itemsOnly(in []any) (out []any) {
	for _, item := range in {
		if _, isComment := item.(sops.Comment); !isComment {
			out = append(out, item)
		}
	}
	return out
}

// Objects gives the Kubernetes objects that an opened YAML or JSON file holds, one a
// document, as mapping nodes without comments. Nothing is printed in between, so
// no text is lost.
func (d *Document) Objects() (objects []*yaml.Node, err error) {
	defer d.recover(&err)
	if d.format != formatYAML && d.format != formatJSON {
		return nil, &manifest.Error{File: d.file, Msg: "is no YAML or JSON file, so it holds no Kubernetes objects"}
	}
	for i, root := range d.tree.Branches {
		for _, field := range []string{"apiVersion", "kind"} {
			if text, _ := lookup(root, field).(string); text == "" {
				return nil, &manifest.Error{File: d.file, Field: field, Msg: fmt.Sprintf("is missing in the %d. document; a Kubernetes object has it", i+1)}
			}
		}
		objects = append(objects, plainNode(root))
	}
	return objects, nil
}

// plainNode is valueNode for a tree with comments, which it drops.
func plainNode(in any) *yaml.Node {
	switch in := in.(type) {
	case sops.TreeBranch:
		n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		for _, item := range withoutComments(in) {
			n.Content = append(n.Content, textNode(fmt.Sprint(item.Key)), plainNode(item.Value))
		}
		return n
	case []any:
		n := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		for _, item := range itemsOnly(in) {
			n.Content = append(n.Content, plainNode(item))
		}
		return n
	}
	return valueNode(in)
}
