package seal

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/getsops/sops/v3"
	"github.com/getsops/sops/v3/stores"

	"github.com/sealward/sealward/seal/manifest"
)

// Foreign is a file that plain sops sealed and that is no manifest: dotenv, or
// any bytes in SOPS's JSON envelope. It has no binding: nothing proves where its
// values belong. It is not safe for concurrent use.
type Foreign struct {
	file string
	tree sops.Tree
}

// maxLines of a sealed dotenv file: its values, and SOPS's section, flattened.
const maxLines = 16 << 10

// LoadDotenv takes a dotenv file that sops sealed apart (KEY=ENC[…], sops_…=).
// Its comments are dropped: SOPS's MAC does not cover them. Nothing is decrypted.
func LoadDotenv(file string, data []byte) (*Foreign, error) {
	bad := func(line int, format string, args ...any) (*Foreign, error) {
		return nil, &manifest.Error{File: file, Line: line, Column: 1, Msg: fmt.Sprintf(format, args...)}
	}
	if len(data) > manifest.MaxSize || bytes.Count(data, []byte("\n")) > maxLines {
		return bad(0, "is larger than a sealed env file may be (%d bytes, %d lines)", manifest.MaxSize, maxLines)
	}
	var root sops.TreeBranch
	seen := map[string]bool{}
	sealed := false
	for i, line := range strings.Split(string(data), "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		key, err := manifest.ParseKey(name)
		switch {
		case !ok:
			return bad(i+1, "is no KEY=VALUE")
		case err != nil:
			return bad(i+1, "%s", err)
		case seen[name]:
			return bad(i+1, "%s stands twice", key)
		}
		seen[name] = true
		if strings.HasPrefix(name, stores.SopsPrefix) {
			sealed = true
			value = strings.ReplaceAll(value, `\n`, "\n")
		} else if err := sealedOnly(file, name, value); err != nil {
			return nil, err
		}
		root = append(root, sops.TreeItem{Key: name, Value: value})
	}
	if !sealed {
		return bad(0, "is not a dotenv file that sops sealed: it has no sops_ lines")
	}
	return loadForeign(file, root, stores.MetadataFlattenFull)
}

// LoadBinary takes a file apart that sops sealed as bytes: JSON with data and
// sops. Nothing is decrypted.
func LoadBinary(file string, data []byte) (*Foreign, error) {
	node, err := manifest.ParseJSON(file, data)
	if err != nil {
		return nil, err
	}
	root, err := branch(node)
	if err != nil {
		return nil, &TamperError{File: file, Reason: ReasonForm, Msg: err.Error()}
	}
	value, isText := lookup(root, "data").(string)
	if _, isMap := lookup(root, "sops").(sops.TreeBranch); !isText || !isMap || len(root) != 2 {
		return nil, &manifest.Error{File: file, Msg: "is not a file that sops sealed as binary: it has other fields than data and sops"}
	}
	if err := sealedOnly(file, "data", value); err != nil {
		return nil, err
	}
	return loadForeign(file, root, stores.MetadataFlattenNone)
}

// sealedOnly refuses values in the clear, which nothing ties to their keys.
func sealedOnly(file, field, value string) error {
	if value == "" || manifest.IsSealedValue(value) {
		return nil
	}
	return inTheClear(file, field)
}

func inTheClear(file, field string) error {
	return &manifest.Error{File: file, Field: field, Leaked: true,
		Msg: "is not sealed, or not as SOPS writes it; did a rule of .sops.yaml leave it out (encrypted_regex)? Treat the value as leaked if the file was committed"}
}

func loadForeign(file string, root sops.TreeBranch, flatten stores.MetadataFlatten) (f *Foreign, err error) {
	silenceSOPS()
	// SOPS panics on some hostile metadata.
	defer func() {
		if recover() != nil {
			f, err = nil, &TamperError{File: file, Field: "sops", Reason: ReasonForm, Msg: "the section cannot be read"}
		}
	}()
	tree, err := extract(file, sops.TreeBranches{root}, stores.MetadataOpts{Flatten: flatten})
	if err != nil {
		return nil, err
	}
	return &Foreign{file: file, tree: tree}, nil
}

// Metadata is SOPS's section, for a key service that finds the data key.
func (f *Foreign) Metadata() *sops.Metadata { return &f.tree.Metadata }

// Recipients lists the recipients as the file names them.
func (f *Foreign) Recipients() []string { return recipients(f.tree.Metadata) }

// Open decrypts every value and checks SOPS's MAC. Of a binary file the one value
// has the key data. It can be called once.
func (f *Foreign) Open(dataKey []byte) (values []Value, err error) {
	defer func() {
		if recover() != nil {
			values, err = nil, &TamperError{File: f.file, Reason: ReasonForm, Msg: "the file cannot be read"}
		}
	}()
	if err := decrypt(f.file, f.tree, newFieldCipher(), dataKey); err != nil {
		return nil, err
	}
	for _, item := range f.tree.Branches[0] {
		name, _ := item.Key.(string)
		key, err := manifest.ParseKey(name)
		if err != nil {
			return nil, &TamperError{File: f.file, Reason: ReasonForm, Msg: err.Error()}
		}
		kind, text, err := typed(item.Value)
		if err != nil || kind == "map" || kind == "seq" || kind == "null" {
			return nil, &TamperError{File: f.file, Field: name, Reason: ReasonForm, Msg: "is not a text"}
		}
		if kind != "str" {
			// sops seals texts only here, its MAC leaves types out, and there is no
			// binding: what was True would come back as true.
			return nil, &TamperError{File: f.file, Field: name, Reason: ReasonValue, Msg: "has another type than sops gives to values of such a file"}
		}
		v := Value{Key: key, Data: text}
		if manifest.IsSealedValue(string(text)) {
			return nil, &TamperError{File: f.file, Field: name, Reason: ReasonPattern, Msg: "is outside the fields the sops section says are sealed"}
		}
		values = append(values, v)
	}
	return values, nil
}
