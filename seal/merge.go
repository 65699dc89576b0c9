package seal

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"github.com/getsops/sops/v3/keyservice"
	"go.yaml.in/yaml/v3"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
)

// Side is one version of a manifest in a merge, opened. Merge uses up its
// envelope.
type Side struct {
	Envelope *Envelope
	Values   []Value
}

// Choice is which side something is taken from.
type Choice int

// The choices. TakeBoth is for recipients only.
const (
	Undecided Choice = iota
	TakeOurs
	TakeTheirs
	TakeBoth
)

func (c Choice) String() string {
	return map[Choice]string{TakeOurs: "ours", TakeTheirs: "theirs", TakeBoth: "both"}[c]
}

// Choices are a person's. Those of keys and fields count whether there is a
// conflict or not.
type Choices struct {
	// All decides every conflict of keys and fields that nothing else does. It never
	// decides about recipients: who may read is not chosen in passing.
	All        Choice
	Keys       map[manifest.Key]Choice
	Fields     map[string]Choice
	Recipients Choice
}

// MergeOptions of Merge.
type MergeOptions struct {
	Now time.Time
	// Registries are for whom each .sops.yaml that can be pointed to says the file is
	// sealed. A sops section is not authenticated, so that anybody can add a
	// recipient to a file; a fresh data key is sealed for nobody else than these.
	Registries []workspace.Recipients
	// Keys seals for recipients that are services. Nil refuses them.
	Keys func(workspace.Recipients) (keyservice.KeyServiceClient, error)
	// Part says that the manifest is a part of a secret.
	Part    bool
	Choices Choices
}

// Conflict is something that both sides changed, and not to the same.
type Conflict struct {
	Key        manifest.Key // of a value, or the zero Key
	Field      string       // dotted path of another field, or ""
	Recipients bool
	Why        string
}

// What names it: a key, a field, or recipients.
func (c Conflict) What() string {
	switch {
	case c.Recipients:
		return "recipients"
	case c.Field != "":
		return c.Field
	default:
		return c.Key.String()
	}
}

func (c Conflict) String() string { return c.What() + ": " + c.Why }

// Decision says from which side something came that the sides differ in.
type Decision struct {
	What string
	From Choice
}

// Merged is what came of a merge.
type Merged struct {
	// File is the merged manifest, sealed, bound and verified. Where a conflict is
	// open it has what ours has.
	File []byte
	// Theirs is the same with what theirs has where a conflict of keys or fields is
	// open; nil when none is. Both are whole manifests under one data key.
	Theirs    []byte
	Conflicts []Conflict
	Decisions []Decision
	// Fresh says that there is a new data key, sealed for Recipients; Added and
	// Removed compare them with those of ours.
	Fresh          bool
	Recipients     workspace.Recipients
	Added, Removed []workspace.Recipient
}

// Merge merges two versions of one manifest three ways, by key. base is nil when
// both sides added it. Comments and order are ours.
//
// The data key stays, and with it the ciphertext of every value that one side has
// already, unless a side changed the recipients or the two data keys differ: then
// there is a fresh one. Removing a recipient wins over keeping it.
func Merge(base, ours, theirs *Side, opts MergeOptions) (*Merged, error) {
	silenceSOPS()
	m := &merge{ours: ours, theirs: theirs, base: base, opts: opts, m: ours.Envelope.m, out: &Merged{}, differ: map[string]bool{}}
	for _, s := range []*Side{base, ours, theirs} {
		if s == nil {
			continue
		}
		if !s.Envelope.opened {
			return nil, fmt.Errorf("%s: the envelope is not open", s.Envelope.m.File)
		}
		if o := s.Envelope.m; o.FormKind() != m.m.FormKind() || o.Name != m.m.Name || o.Workspace != m.m.Workspace {
			return nil, fmt.Errorf("%s: the versions do not agree on type, name or workspace", m.m.File)
		}
	}
	m.held = [3]map[manifest.Key]held{heldBy(base), heldBy(ours), heldBy(theirs)}
	for _, v := range ours.Values {
		m.order = append(m.order, v.Key)
	}
	for _, v := range theirs.Values {
		if _, both := m.held[1][v.Key]; !both {
			m.order = append(m.order, v.Key)
		}
	}
	edited, values, err := m.build(TakeOurs)
	if err != nil {
		return nil, err
	}
	for key := range opts.Choices.Keys {
		if !m.differ[key.String()] {
			return nil, fmt.Errorf("%s: both sides agree on %s; there is nothing to choose", m.m.File, key)
		}
	}
	for field := range opts.Choices.Fields {
		if !m.differ[field] {
			return nil, fmt.Errorf("%s: the two sides do not differ in a field %.80q", m.m.File, field)
		}
	}
	if err := m.dataKey(); err != nil {
		return nil, err
	}
	open := slices.ContainsFunc(m.out.Conflicts, func(c Conflict) bool { return !c.Recipients })
	if m.out.File, err = m.seal(edited, values); err != nil || !open {
		return m.out, err
	}
	if edited, values, err = m.build(TakeTheirs); err != nil {
		return nil, err
	}
	m.out.Theirs, err = m.seal(edited, values)
	return m.out, err
}

// merge is one Merge under way.
type merge struct {
	base, ours, theirs *Side
	m                  *manifest.Manifest // ours, as it was
	opts               MergeOptions
	out                *Merged
	held               [3]map[manifest.Key]held // by base, ours and theirs
	order              []manifest.Key           // of all keys: ours, then those that only theirs has
	differ             map[string]bool          // keys and fields in which the sides differ
}

// decide says from which side something that differs comes. open is what is taken
// where nobody has decided; conflicts are noted once, with TakeOurs.
func (m *merge) decide(c Conflict, only, chosen, open Choice) Choice {
	m.differ[c.What()] = true
	take := chosen
	if take == Undecided {
		take = only
	}
	if take == Undecided {
		take = m.opts.Choices.All
	}
	if take != Undecided {
		if open == TakeOurs {
			m.out.Decisions = append(m.out.Decisions, Decision{c.What(), take})
		}
		return take
	}
	if open == TakeOurs {
		m.out.Conflicts = append(m.out.Conflicts, c)
	}
	return open
}

// why says how two sides came to differ.
func why(base, ours, theirs bool) string {
	switch {
	case !base:
		return "added on both sides, not alike"
	case !ours:
		return "removed on our side, changed on theirs"
	case !theirs:
		return "changed on our side, removed on theirs"
	default:
		return "changed on both sides"
	}
}

// build makes the merged manifest, with its values in the clear.
func (m *merge) build(open Choice) (*manifest.Manifest, []Value, error) {
	root := cloneNode(m.m.Node(), true)
	removeBinding(root, m.m)
	removeField(root, "sops")
	var base *yaml.Node
	if m.base != nil {
		base = plainFields(m.base.Envelope.m)
	}
	m.fields(root, base, plainFields(m.theirs.Envelope.m), nil, open)

	values, isText := m.values(open)
	if len(values) == 0 {
		return nil, nil, fmt.Errorf("%s: no key would be left; remove the file instead", m.m.File)
	}
	putValues(root, m.m.Sections(), values, isText)
	edited, err := reparse(m.m, m.m.File, m.m.Workspace, root)
	return edited, values, err
}

// seal seals one outcome and opens it again.
func (m *merge) seal(edited *manifest.Manifest, values []Value) ([]byte, error) {
	e := m.ours.Envelope
	e.opened = true // the tree is replaced whole
	if err := e.Replace(edited, Options{Part: m.opts.Part}); err != nil {
		return nil, err
	}
	out, err := e.reseal(m.opts.Now)
	if err != nil {
		return nil, err
	}
	back, err := manifest.Parse(m.m.File, out)
	if err != nil {
		return nil, fmt.Errorf("%s: the merged file would not parse", m.m.File)
	}
	if err := back.SettleIn(m.m.Workspace); err != nil {
		return nil, err
	}
	again, err := Load(back)
	if err != nil {
		return nil, err
	}
	// With the same cipher, so that the other outcome of a conflict has the same
	// ciphertext wherever it has the same value.
	again.cipher = e.cipher
	got, _, err := again.Open(e.dataKey, false)
	if err != nil {
		return nil, err
	}
	if !sameSet(values, got) {
		return nil, fmt.Errorf("%s: the merged file would hold other values than the versions have", m.m.File)
	}
	return out, nil
}

func sameSet(a, b []Value) bool {
	data := map[manifest.Key][]byte{}
	for _, v := range a {
		data[v.Key] = v.Data
	}
	for _, v := range b {
		if want, there := data[v.Key]; !there || !bytes.Equal(want, v.Data) {
			return false
		}
	}
	return len(data) == len(b)
}
