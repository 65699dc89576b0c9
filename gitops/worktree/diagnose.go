package worktree

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/keyring"
)

// Finding is one thing that was checked of a file.
type Finding struct {
	Check  string `json:"check"`
	State  string `json:"state"` // ok, failed, warning, or unknown: it could not be checked
	Detail string `json:"detail,omitempty"`
}

// The states of a Finding.
const (
	OK      = "ok"
	Failed  = "failed"
	Warning = "warning"
	Unknown = "unknown"
)

// Diagnosis says why a sealed file opens or does not. It holds no value.
type Diagnosis struct {
	File     string    `json:"file"`
	ID       string    `json:"id,omitempty"` // NAME:VERSION:TYPE:WORKSPACE
	InFile   []string  `json:"recipientsInFile"`
	InRule   []string  `json:"recipientsInRule"`
	InRing   []string  `json:"recipientsInRing"`
	Findings []Finding `json:"findings"`
	// Remedies are commands and words that mend what failed, the first one first.
	Remedies []string `json:"remedies"`

	flags  string // that commands about the file need
	opened bool   // the ring opened it, and it is as it was sealed
}

// Opens reports that everything was checked and nothing failed.
func (d *Diagnosis) Opens() bool {
	return !slices.ContainsFunc(d.Findings, func(f Finding) bool { return f.State == Failed || f.State == Unknown })
}

// Fails reports that something is wrong, not only unknown.
func (d *Diagnosis) Fails() bool {
	return slices.ContainsFunc(d.Findings, func(f Finding) bool { return f.State == Failed })
}

func (d *Diagnosis) add(check, state, detail string, remedies ...string) {
	d.Findings = append(d.Findings, Finding{check, state, detail})
	for _, r := range remedies {
		d.remedy(r)
	}
}

func (d *Diagnosis) remedy(text string) {
	if !slices.Contains(d.Remedies, text) {
		d.Remedies = append(d.Remedies, text)
	}
}

// Diagnose looks into one file: how it is made, where it stands, for whom it is
// sealed and for whom it should be, whether the ring opens it, and which check it
// fails. It goes as far as it can without a key. rel is the file's path in the
// repository, "" outside one; t.Repo may then be nil. shown names the file.
func (t *Tree) Diagnose(shown, rel string, data []byte) *Diagnosis {
	d := &Diagnosis{File: shown, InFile: []string{}, InRule: []string{}, InRing: []string{}, Findings: []Finding{}, Remedies: []string{}}
	m, place, ok := d.form(shown, rel, data)
	if !ok {
		return d
	}
	e, err := seal.Load(m)
	if err != nil {
		d.add("sops section", Failed, err.Error(), restore(shown))
		return d
	}
	d.add("sops section", OK, "")
	d.InFile = e.Recipients()
	misplaced := d.Fails()
	_, ours, _ := manifest.Locate(rel)
	if t.Repo != nil && rel != "" && !ours && m.Form == manifest.Kubernetes {
		// An adopted file: no rule is for it, and the settings may say whose it is.
		if !t.diagnoseRoot(d, m, rel) {
			return d
		}
	} else if t.Repo != nil && rel != "" {
		t.diagnoseRule(d, m, rel)
		if !misplaced {
			t.diagnoseParts(d, place)
		}
	}
	t.diagnoseKey(d, m)
	if misplaced && d.opened {
		d.remedy("move it to where it belongs: " + manifest.SecretPath(m.Workspace, m.Name))
	}
	return d
}

// form checks what needs neither keys nor rules.
func (d *Diagnosis) form(shown, rel string, data []byte) (*manifest.Manifest, manifest.Place, bool) {
	var place manifest.Place
	if bytes.HasPrefix(data, []byte("<<<<<<< ")) || bytes.Contains(data, []byte("\n<<<<<<< ")) {
		d.add("manifest", Failed, "the file holds conflict markers of a Git merge", "resolve the conflict: git checkout --ours -- "+shown+" (or --theirs), then set again what the other side changed")
		return nil, place, false
	}
	m, err := manifest.Parse(shown, data)
	if err == nil && !m.Kind.IsSecret() {
		err = fmt.Errorf("%s: is a %s, which is not sealed", shown, m.Kind)
	}
	if err == nil {
		err = m.CheckSealed()
	}
	if err != nil {
		var errs manifest.Errors
		remedy := "mend the fields named above (sealward schema secret shows the form), then: sealward doctor " + shown
		if errors.As(err, &errs) && errs.Leaked() {
			remedy = "if it was ever pushed, change the credential at its source first; then: sealward seal --in-place " + shown
		}
		d.add("manifest", Failed, err.Error(), remedy)
		return nil, place, false
	}
	d.add("manifest", OK, "")
	if rel == "" {
		d.ID = m.ID()
		if m.Workspace.IsZero() {
			d.add("place", Failed, "the file states no namespace and stands in no workspace's folder", "move it to "+"workspaces/WORKSPACE/secrets/"+m.Name.String()+m.Ext())
		}
		return m, place, !m.Workspace.IsZero()
	}
	place, ours, err := manifest.Locate(rel)
	if err == nil && ours {
		err = m.CheckPlace(place)
	}
	if err == nil && ours && m.Workspace.IsZero() {
		err = m.SettleIn(place.Scope)
	}
	d.ID = m.ID()
	switch {
	case err != nil && m.Workspace.IsZero():
		d.add("place", Failed, err.Error())
		return m, place, false
	case err != nil:
		d.add("place", Failed, err.Error())
	case ours:
		d.add("place", OK, "")
	}
	return m, place, true
}

// diagnoseRoot settles the workspace of a Kubernetes object outside workspaces/, as a
// build does.
func (t *Tree) diagnoseRoot(d *Diagnosis, m *manifest.Manifest, rel string) bool {
	settings, err := t.Repo.Settings()
	if err != nil {
		d.add("place", Failed, err.Error())
		return false
	}
	if ws, _, ok := settings.Roots.Of(rel); ok && (m.Secret.Binding == "" || m.Workspace.IsZero()) {
		if m.Workspace.IsZero() {
			d.flags = "-w " + ws.String() + " "
		}
		m.Workspace = ws
	}
	if m.Workspace.IsZero() {
		d.add("place", Failed, "the file states no namespace and stands in no workspace's folder", "say in "+workspace.SettingsFile+" whose such files are: roots: {"+path.Dir(rel)+": WORKSPACE}")
		return false
	}
	d.ID = m.ID()
	return true
}

func (t *Tree) diagnoseRule(d *Diagnosis, m *manifest.Manifest, rel string) {
	rules, err := t.Repo.Rules()
	if err != nil {
		d.add("creation rule", Failed, err.Error())
		return
	}
	to, err := rules.Recipients(rel)
	if errors.Is(err, workspace.ErrNoRule) {
		d.add("creation rule", Failed, err.Error(), "sealward workspace create "+createArg(m.Workspace))
		return
	}
	if err != nil {
		d.add("creation rule", Failed, err.Error(), "mend the rule in "+workspace.RulesFile)
		return
	}
	d.InRule = names(to)
	var wrong []string
	for _, name := range d.InFile {
		if !slices.Contains(d.InRule, name) {
			wrong = append(wrong, "the file names "+short(name)+", which the rule does not")
		}
	}
	for _, name := range d.InRule {
		if !slices.Contains(d.InFile, name) {
			wrong = append(wrong, "the rule names "+short(name)+", which the file is not sealed for")
		}
	}
	if len(wrong) > 0 {
		d.add("recipients", Warning, strings.Join(wrong, "; "), "sealward rotate -w "+m.Workspace.String()+"   # by somebody who can open it")
		return
	}
	d.add("recipients", OK, "the file is sealed for whom "+workspace.RulesFile+" names")
}

func createArg(ws manifest.Workspace) string {
	if ws.IsInstance() {
		return "--instance"
	}
	return ws.String()
}

func (t *Tree) diagnoseParts(d *Diagnosis, place manifest.Place) {
	if place.Name.IsZero() || place.Policy {
		return
	}
	s, err := t.Repo.FindSecret(place.Scope, place.Name)
	if err == nil {
		_, err = t.readAll(s)
	}
	if err != nil {
		d.add("parts", Failed, err.Error(), "remove the file or key that is not meant")
	} else if s.InParts {
		d.add("parts", OK, fmt.Sprintf("%d parts with keys of their own", len(s.Files)))
	}
}

func (t *Tree) diagnoseKey(d *Diagnosis, m *manifest.Manifest) {
	ring, err := t.Ring(m.Workspace)
	if errors.Is(err, keyring.ErrNoRing) {
		d.add("key", Unknown, err.Error(), "ask somebody who can open workspace "+m.Workspace.String()+" for: sealward keys export "+m.Workspace.String()+" --to YOUR-RECIPIENT; values can be set without a key in a secret kept in parts")
		return
	}
	if err != nil {
		d.add("key", Failed, err.Error())
		return
	}
	for _, r := range ring.Recipients() {
		d.InRing = append(d.InRing, r.String())
	}
	_, err = unseal.Open(m, ring, unseal.Options{})
	var tamper *seal.TamperError
	switch {
	case err == nil:
		d.opened = true
		d.add("key", OK, "the keyring opens it")
		d.add("values, MAC and binding", OK, "as they were sealed")
	case errors.Is(err, unseal.ErrNotRecipient):
		d.add("key", Failed, "no key of the ring is among the recipients of the file",
			"ask one of its recipients to add yours to "+workspace.RulesFile+" and to run: sealward rotate -w "+m.Workspace.String())
	case errors.Is(err, seal.ErrUnbound):
		d.add("key", OK, "the keyring opens it")
		d.add("binding", Failed, "there is none: plain sops wrote the file, or somebody removed it", "look whether the values belong here (sealward unseal --allow-unbound "+d.flags+d.File+"), then: sealward seal --rebind "+d.flags+d.File)
	case errors.Is(err, unseal.ErrService):
		d.add("key", Failed, err.Error(),
			"see that the service answers, and that the credentials which keyring.yaml names for it are valid and may decrypt with this key; then: sealward doctor "+d.File)
	case errors.As(err, &tamper):
		d.tampered(tamper)
	default:
		d.add("key", Failed, err.Error())
	}
}

// tampered says which check failed, what that means, and what mends it.
func (d *Diagnosis) tampered(t *seal.TamperError) {
	switch t.Reason {
	case seal.ReasonBinding:
		d.add("binding", Failed, t.Error(), "if that was your own edit with plain sops: sealward seal --rebind "+d.flags+d.File, restore(d.File))
	case seal.ReasonValue:
		d.add("values", Failed, t.Error(), restore(d.File))
	case seal.ReasonMAC:
		d.add("MAC", Failed, t.Error(), restore(d.File))
	default:
		d.add(string(t.Reason), Failed, t.Error(), restore(d.File))
	}
}

func restore(file string) string {
	return "find the last good version and restore it: git log --oneline -- " + file + ", git checkout COMMIT -- " + file
}

func short(name string) string {
	if len(name) > 24 {
		return name[:21] + "..."
	}
	return name
}
