package unseal

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode/utf16"

	"go.yaml.in/yaml/v3"

	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
)

// Plaintext prints a secret as a manifest before sealing: as YAML or JSON like its
// file.
func (w *Whole) Plaintext() ([]byte, error) { return w.PlaintextAs(w.Manifest.JSON) }

// PlaintextAs is Plaintext as JSON or as YAML, whatever the file is.
func (w *Whole) PlaintextAs(json bool) ([]byte, error) {
	return seal.Plaintext(w.Manifest, w.Values, json)
}

// Kubernetes prints a secret as a v1 Secret with its values as base64. One that is
// in DataOS's form gets its workspace as namespace.
func (w *Whole) Kubernetes() ([]byte, error) {
	var metadata, labels, annotations []*yaml.Node
	field := func(to *[]*yaml.Node, key, value string) { *to = append(*to, text(key), text(value)) }
	m := w.Manifest
	namespace, kind := m.Workspace.String(), w.KubernetesType()
	if m.Workspace.IsInstance() {
		namespace = ""
	}
	root := []*yaml.Node{text("apiVersion"), text("v1"), text("kind"), text("Secret"), text("metadata")}
	if k := m.Secret.Kubernetes; k != nil {
		namespace = k.Namespace
		for _, p := range k.Labels {
			field(&labels, p.Key, p.Value)
		}
		for _, p := range k.Annotations {
			field(&annotations, p.Key, p.Value)
		}
	}
	field(&metadata, "name", m.Name.String())
	if namespace != "" {
		field(&metadata, "namespace", namespace)
	}
	if len(labels) > 0 {
		metadata = append(metadata, text("labels"), mapping(labels))
	}
	if len(annotations) > 0 {
		metadata = append(metadata, text("annotations"), mapping(annotations))
	}
	root = append(root, mapping(metadata), text("type"), text(kind))
	if k := m.Secret.Kubernetes; k != nil && k.Immutable != nil {
		immutable := &yaml.Node{}
		if err := immutable.Encode(*k.Immutable); err != nil {
			return nil, err
		}
		root = append(root, text("immutable"), immutable)
	}
	var data []*yaml.Node
	for _, v := range w.Values {
		field(&data, v.Key.String(), base64.StdEncoding.EncodeToString(v.Data))
	}
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(mapping(append(root, text("data"), mapping(data)))); err != nil {
		return nil, errors.New("YAML could not be written")
	}
	return out.Bytes(), enc.Close()
}

// KubernetesType is the type of the Secret: its own, or the one whose keys it has.
func (w *Whole) KubernetesType() string {
	return KubernetesType(w.Manifest.Secret.Type, w.Manifest.Secret.Kubernetes, func(key string) bool {
		return slices.ContainsFunc(w.Values, func(v seal.Value) bool { return v.Key.String() == key })
	})
}

// KubernetesType is the type of the Secret that a secret becomes: the one that its
// manifest states in Kubernetes' form, or the one whose keys it has.
func KubernetesType(t manifest.SecretType, k *manifest.KubernetesSecret, has func(key string) bool) string {
	switch {
	case k != nil:
		return k.Type
	case t == manifest.CloudKernelImagePull && has(".dockerconfigjson"):
		return manifest.TypeDockerConfigJSON
	case t == manifest.Certificate && has("tls.crt") && has("tls.key"):
		return manifest.TypeTLS
	}
	return manifest.TypeOpaque
}

func text(s string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(s)
	return n
}

func mapping(content []*yaml.Node) *yaml.Node {
	return &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Content: content}
}

var shellName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// Env prints KEY='value' lines that a POSIX shell reads back (set -a; . file).
func (w *Whole) Env() ([]byte, error) {
	var out bytes.Buffer
	var odd []string
	for _, v := range w.Values {
		if !shellName.MatchString(v.Key.String()) {
			odd = append(odd, v.Key.String())
		}
	}
	if len(odd) > 0 {
		return nil, fmt.Errorf("%s: %s cannot be names of variables (letters, digits and _, not starting with a digit); use another format, or read single keys", w.Manifest.File, strings.Join(odd, ", "))
	}
	for _, v := range w.Values {
		if err := w.needText(v, "an env file"); err != nil {
			return nil, err
		}
		fmt.Fprintf(&out, "%s='%s'\n", v.Key, strings.ReplaceAll(string(v.Data), "'", `'\''`))
	}
	return out.Bytes(), nil
}

func (w *Whole) needText(v seal.Value, what string) error {
	if !isText(v.Data) {
		return fmt.Errorf("%s: %s is binary, which %s cannot hold; use another format, or read single keys", w.Manifest.File, v.Key, what)
	}
	return nil
}

// Properties prints key=value lines as java.util.Properties stores and reads them.
func (w *Whole) Properties() ([]byte, error) {
	var out bytes.Buffer
	for _, v := range w.Values {
		if err := w.needText(v, "a properties file"); err != nil {
			return nil, err
		}
		writeProperty(&out, v.Key.String(), string(v.Data))
	}
	return out.Bytes(), nil
}

func writeProperty(out *bytes.Buffer, key, value string) {
	// A key has no character that would need an escape.
	out.WriteString(key + "=")
	for i, r := range value {
		switch {
		case r == ' ' && i == 0, strings.ContainsRune(`=:#!\`, r):
			out.WriteString(`\` + string(r))
		case r == '\n':
			out.WriteString(`\n`)
		case r == '\r':
			out.WriteString(`\r`)
		case r == '\t':
			out.WriteString(`\t`)
		case r == '\f':
			out.WriteString(`\f`)
		case r < ' ' || r > '~':
			for _, unit := range utf16.Encode([]rune{r}) {
				fmt.Fprintf(out, `\u%04X`, unit)
			}
		default:
			out.WriteRune(r)
		}
	}
	out.WriteByte('\n')
}

// WriteDir writes one file a key, as WriteFiles does.
func WriteDir(dir string, values []seal.Value) error {
	return WriteFiles(dir, func(yield func(name string, data []byte) bool) {
		for _, v := range values {
			if !yield(v.Key.String(), v.Data) {
				return
			}
		}
	})
}

// WriteFiles writes files, for their owner only, into a folder that does not exist yet
// or is empty. All are there, or none.
func WriteFiles(dir string, files iter.Seq2[string, []byte]) (err error) {
	taken := fmt.Errorf("%s exists and is no empty folder; nothing was written", dir)
	if info, err := os.Lstat(dir); err == nil {
		entries, err := os.ReadDir(dir)
		if err != nil || !info.IsDir() || len(entries) > 0 {
			return taken
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	dir = filepath.Clean(dir)
	tmp, err := os.MkdirTemp(filepath.Dir(dir), "."+filepath.Base(dir)+".tmp-*") // 0700
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	root, err := os.OpenRoot(tmp)
	if err != nil {
		return err
	}
	defer root.Close()
	for name, data := range files {
		// Two names may be one file where case does not count.
		f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = f.Write(data)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return taken // it was filled meanwhile, or is mounted
	}
	return os.Rename(tmp, dir)
}
