package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
)

func (a *app) getCmd() *cobra.Command {
	c := group(&cobra.Command{
		Use: "get", Short: "List secrets, grants, roles or workspaces of the repository",
		Long: `List what the work tree holds. No key is needed and no value is shown. STATUS is
active for a manifest that can be served as far as can be told without a key,
and error for one that cannot; -o wide and -o json say why.`,
	})
	for _, kind := range []struct {
		name  string
		kinds []manifest.Kind
	}{
		{"secrets", []manifest.Kind{manifest.KindSecret, manifest.KindInstanceSecret}},
		{"grants", []manifest.Kind{manifest.KindGrant}},
		{"roles", []manifest.Kind{manifest.KindRole}},
	} {
		var scope, format string
		sub := &cobra.Command{
			Use: kind.name + " [NAME]...", Short: "List " + kind.name, Aliases: []string{strings.TrimSuffix(kind.name, "s")},
			ValidArgsFunction: cobra.NoFileCompletions,
			RunE:              func(_ *cobra.Command, names []string) error { return a.getManifests(kind.kinds, scope, names, format) },
		}
		sub.Flags().StringVarP(&scope, "workspace", "w", "", "only this workspace (or instance)")
		_ = sub.RegisterFlagCompletionFunc("workspace", a.completeWorkspaces)
		outputFlag(sub, &format, "json", "yaml", "wide")
		if kind.name == "secrets" {
			sub.Use = "secrets [NAME|WORKSPACE/NAME]..."
			sub.ValidArgsFunction = a.completeOneSecret
		}
		c.AddCommand(sub)
	}
	var format string
	sub := &cobra.Command{
		Use: "workspaces", Short: "List workspaces", Aliases: []string{"workspace", "ws"}, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return a.getWorkspaces(format) },
	}
	outputFlag(sub, &format, "json", "yaml", "wide")
	c.AddCommand(sub)
	return c
}

// item is one manifest as get shows it. It holds no value.
type item struct {
	Name        string   `json:"name"`
	Version     string   `json:"version,omitempty"`
	Type        string   `json:"type"`
	Workspace   string   `json:"workspace,omitempty"`
	Status      string   `json:"status"` // active or error
	Reason      string   `json:"reason,omitempty"`
	Owner       string   `json:"owner,omitempty"`
	Path        string   `json:"path"`
	Parts       []string `json:"parts,omitempty"` // paths of a secret in parts
	Layer       string   `json:"layer,omitempty"`
	Tags        []string `json:"tags,omitempty"`
	Description string   `json:"description,omitempty"`

	Secret *secretItem `json:"secret,omitempty"`
	Grant  *grantItem  `json:"grant,omitempty"`
	Role   *roleItem   `json:"role,omitempty"`
}

// join makes one row of the files of a secret.
func (it *item) join(other item, file string) {
	if len(it.Parts) == 0 {
		it.Parts = []string{it.Path}
	}
	it.Parts = append(it.Parts, file)
	it.Path = folderOf(file)
	if other.Status == "error" && it.Status != "error" {
		it.Status, it.Reason = other.Status, other.Reason
	}
	if it.Secret == nil || other.Secret == nil {
		if it.Secret == nil {
			it.Secret = other.Secret
		}
		return
	}
	it.Secret.Keys = append(it.Secret.Keys, other.Secret.Keys...)
	it.Secret.Bound = it.Secret.Bound && other.Secret.Bound
	for _, r := range other.Secret.Recipients {
		if !slices.Contains(it.Secret.Recipients, r) {
			it.Secret.Recipients = append(it.Secret.Recipients, r)
		}
	}
}

type secretItem struct {
	Type       string   `json:"type"`
	ACL        string   `json:"acl"`
	Keys       []string `json:"keys"`
	Recipients []string `json:"recipients"` // as the file names them
	Bound      bool     `json:"bound"`
}

type grantItem struct {
	UseCase    string   `json:"policy_use_case_id"`
	Subjects   []string `json:"subjects"`
	Secrets    []string `json:"secrets,omitempty"`
	Keys       []string `json:"keys,omitempty"`
	Workspaces []string `json:"workspaces,omitempty"`
	Effect     string   `json:"effect"`
	Expires    string   `json:"expires,omitempty"`
}

type roleItem struct {
	Members []string `json:"members"`
}

func (a *app) getManifests(kinds []manifest.Kind, scope string, names []string, format string) error {
	repo, err := a.repository()
	if err != nil {
		return err
	}
	var only manifest.Workspace
	if scope != "" {
		if only, err = scopeArg(scope); err != nil {
			return err
		}
	}
	files, err := repo.Files()
	if err != nil {
		return err
	}
	items := []item{}
	found := map[string]bool{}
	parts := map[string][]manifest.Part{} // by workspace and name
	at := map[string]int{}
	for _, file := range files {
		place, _, placeErr := manifest.Locate(file)
		id := place.Scope.String() + "/" + place.Name.String()
		if scope != "" && place.Scope != only || len(names) > 0 && !slices.Contains(names, place.Name.String()) && !slices.Contains(names, id) {
			continue
		}
		data, err := repo.Read(file)
		var m *manifest.Manifest
		if err == nil {
			m, err = manifest.Parse(file, data)
		}
		if placeErr != nil {
			err = fmt.Errorf("%s: %w", file, placeErr)
		}
		it, of := describe(file, place, m, err)
		if !slices.Contains(kinds, of) {
			continue
		}
		found[place.Name.String()], found[id] = true, true
		if m != nil && m.Kind.IsSecret() {
			parts[id] = append(parts[id], manifest.PartOf(file, place, m))
		}
		first, others := at[id]
		if place.Policy || place.Name.IsZero() || !others {
			if place.Part != "" {
				it.Parts = []string{file}
			}
			at[id] = len(items)
			items = append(items, it)
			continue
		}
		items[first].join(it, file)
	}
	for id, i := range at {
		if err := manifest.CheckParts(parts[id]); err != nil && items[i].Status != "error" {
			items[i].Status, items[i].Reason = "error", err.Error()
		}
	}
	for _, n := range names {
		if !found[n] {
			return fmt.Errorf("there is no %s named %.60q here", kinds[0], n)
		}
	}
	if len(items) == 0 && format != "json" && format != "yaml" {
		in := "in this repository"
		if scope != "" {
			in = "in workspace " + scope
		}
		fmt.Fprintf(a.Err, "there is no %s %s\n", kinds[0], in)
		return nil
	}
	return a.printItems(items, format)
}

// describe makes the row of one file. A file that does not parse counts as what
// its place promises.
func describe(file string, place manifest.Place, m *manifest.Manifest, err error) (item, manifest.Kind) {
	it := item{Name: place.Name.String(), Path: file, Status: "active"}
	if !place.Scope.IsInstance() {
		it.Workspace = place.Scope.String()
	}
	kind := manifest.KindSecret
	if place.Policy {
		kind = manifest.KindGrant
	}
	if m != nil {
		kind = m.Kind
		it.Name, it.Version, it.Type, it.Owner, it.Layer, it.Tags, it.Description = m.Name.String(), m.Version, string(m.Kind), m.Owner, m.Layer, m.Tags, m.Description
		if err == nil {
			err = m.CheckPlace(place)
		}
		if err == nil {
			err = m.CheckSealed()
		}
		switch {
		case m.Secret != nil:
			it.Secret = describeSecret(m)
		case m.Grant != nil:
			it.Grant = describeGrant(m.Grant)
		case m.Role != nil:
			it.Role = &roleItem{Members: texts(m.Role.Members)}
		}
	}
	if it.Type == "" {
		it.Type = string(kind)
	}
	if err != nil {
		it.Status, it.Reason = "error", err.Error()
	}
	return it, kind
}

func describeSecret(m *manifest.Manifest) *secretItem {
	s := &secretItem{Type: string(m.Secret.Type), ACL: string(m.Secret.ACL), Bound: m.Secret.Binding != "", Keys: []string{}, Recipients: []string{}}
	for _, e := range m.Secret.Entries {
		s.Keys = append(s.Keys, e.Key.String())
	}
	if m.Sealed {
		if e, err := seal.Load(m); err == nil {
			s.Recipients = e.Recipients()
		}
	}
	return s
}

func describeGrant(g *manifest.Grant) *grantItem {
	out := &grantItem{UseCase: string(g.UseCase), Subjects: texts(g.Subjects), Secrets: texts(g.Secrets), Keys: texts(g.Keys), Workspaces: texts(g.Workspaces), Effect: string(g.Effect)}
	if !g.Expires.IsZero() {
		out.Expires = g.Expires.UTC().Format(time.RFC3339)
	}
	return out
}

func texts[T fmt.Stringer](in []T) []string {
	var out []string
	for _, s := range in {
		out = append(out, s.String())
	}
	return out
}

func (a *app) printItems(items []item, format string) error {
	if format == "json" || format == "yaml" {
		return printAs(a.Out, format, items)
	}
	headings := []string{"NAME", "VERSION", "TYPE", "WORKSPACE", "STATUS", "RUNTIME", "OWNER"}
	if format == "wide" {
		headings = append(headings, "ABOUT", "SEALED FOR", "PATH", "REASON")
	}
	var rows [][]string
	for _, it := range items {
		row := []string{it.Name, it.Version, it.Type, it.Workspace, it.Status, "", it.Owner}
		if format == "wide" {
			reason := firstLine(it.Reason, it.Path)
			row = append(row, about(it), sealedFor(it), it.Path, reason)
		}
		rows = append(rows, row)
	}
	table(a.Out, headings, rows)
	if broken := slices.ContainsFunc(items, func(it item) bool { return it.Status == "error" }); broken && format != "wide" {
		fmt.Fprintln(a.Err, "-o wide says what the errors are")
	}
	return nil
}

// firstLine of a reason that stands beside the file it names.
func firstLine(reason, file string) string {
	reason, _, _ = strings.Cut(reason, "\n")
	return strings.TrimSpace(strings.TrimPrefix(strings.TrimPrefix(reason, file), ":"))
}

func about(it item) string {
	switch {
	case it.Secret != nil:
		return fmt.Sprintf("%s %s: %s", it.Secret.Type, it.Secret.ACL, strings.Join(it.Secret.Keys, ","))
	case it.Grant != nil:
		what := "all secrets"
		if len(it.Grant.Secrets) > 0 {
			what = strings.Join(it.Grant.Secrets, ",")
		}
		return fmt.Sprintf("%s %s on %s to %s", it.Grant.Effect, it.Grant.UseCase, what, strings.Join(it.Grant.Subjects, ","))
	case it.Role != nil:
		return strings.Join(it.Role.Members, ",")
	}
	return ""
}

// sealedFor counts recipients: their names are long, and -o json has them.
func sealedFor(it item) string {
	switch {
	case it.Secret == nil:
		return ""
	case !it.Secret.Bound:
		return fmt.Sprintf("%d, unbound", len(it.Secret.Recipients))
	default:
		return fmt.Sprint(len(it.Secret.Recipients))
	}
}

type workspaceItem struct {
	Name       string   `json:"name"`
	Recipients []string `json:"recipients"`
	Key        bool     `json:"key"` // the keyring has an identity for it
	Secrets    int      `json:"secrets"`
	Grants     int      `json:"grants"` // and roles
	Problem    string   `json:"problem,omitempty"`
}

func (a *app) getWorkspaces(format string) error {
	repo, err := a.repository()
	if err != nil {
		return err
	}
	rules, err := repo.Rules()
	if err != nil {
		return err
	}
	files, err := repo.Files()
	if err != nil {
		return err
	}
	secrets, grants := map[manifest.Workspace]int{}, map[manifest.Workspace]int{}
	scopes := rules.Workspaces()
	for _, file := range files {
		place, _, err := manifest.Locate(file)
		if err != nil {
			continue
		}
		if place.Policy {
			grants[place.Scope]++
		} else {
			secrets[place.Scope]++
		}
		// A folder without a rule of its own is shown too: it is a mistake.
		if !slices.Contains(scopes, place.Scope) {
			scopes = append(scopes, place.Scope)
		}
	}
	opens := map[manifest.Workspace]bool{}
	if ring, err := a.openKeyring(); err == nil {
		have, _ := ring.Workspaces()
		for _, ws := range have {
			opens[ws] = true
		}
	}
	items := []workspaceItem{}
	var rows [][]string
	for _, ws := range scopes {
		it := workspaceItem{Name: ws.String(), Key: opens[ws], Secrets: secrets[ws], Grants: grants[ws]}
		to, err := rules.WorkspaceRecipients(ws)
		it.Recipients = texts(to.All())
		if err != nil {
			it.Problem = err.Error()
		}
		items = append(items, it)
		key := "no"
		if it.Key {
			key = "yes"
		}
		shown := it.Recipients
		if format != "wide" {
			shown = shortNames(shown)
		}
		rows = append(rows, []string{it.Name, fmt.Sprint(it.Secrets), fmt.Sprint(it.Grants), key, strings.Join(shown, ","), it.Problem})
	}
	if format == "json" || format == "yaml" {
		return printAs(a.Out, format, items)
	}
	if len(items) == 0 {
		fmt.Fprintln(a.Err, "no workspace yet; make one with sealward workspace create NAME")
		return nil
	}
	table(a.Out, []string{"WORKSPACE", "SECRETS", "GRANTS", "KEY", "RECIPIENTS", "PROBLEM"}, rows)
	return nil
}
