package main

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"filippo.io/age"
	"github.com/spf13/cobra"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal/keyring"
)

func (a *app) keysCmd() *cobra.Command {
	c := group(&cobra.Command{Use: "keys", Short: "List, renew and hand over the private keys of the keyring", Aliases: []string{"key"}})
	c.AddCommand(a.keysListCmd(), a.keysReportCmd(), a.keysNewCmd(), a.keysExportCmd(), a.keysImportCmd())
	return c
}

func (a *app) keysListCmd() *cobra.Command {
	var format, scope string
	c := &cobra.Command{
		Use: "list", Short: "List what the keyring opens each workspace with", Aliases: []string{"ls"}, Args: cobra.NoArgs,
		Long: `List the public keys of the keyring's identities, and the services that its
keyring.yaml lists. A protected file is opened to do so. No private key is shown.`,
		RunE: func(*cobra.Command, []string) error { return a.keysList(scope, format) },
	}
	c.Flags().StringVarP(&scope, "workspace", "w", "", "only this workspace (or instance)")
	_ = c.RegisterFlagCompletionFunc("workspace", a.completeWorkspaces)
	outputFlag(c, &format, "json", "yaml", "wide")
	return c
}

type keyItem struct {
	Workspace string `json:"workspace"`
	Recipient string `json:"recipient,omitempty"`
	Kind      string `json:"kind,omitempty"`
	State     string `json:"state"` // active, retired, service or error
	Protected bool   `json:"protected"`
	Source    string `json:"source"`
	Problem   string `json:"problem,omitempty"`
}

func (a *app) keysList(scope, format string) error {
	ring, err := a.openKeyring()
	if err != nil {
		return err
	}
	scopes, err := ring.Workspaces()
	if err != nil {
		return err
	}
	if scope != "" {
		ws, err := scopeArg(scope)
		if err != nil {
			return err
		}
		if !slices.Contains(scopes, ws) {
			return fmt.Errorf("%w for workspace %s (%s)", keyring.ErrNoRing, ws, ring.Path(ws))
		}
		scopes = []manifest.Workspace{ws}
	}
	items := []keyItem{}
	for _, ws := range scopes {
		items = append(items, ringItems(ring, ws)...)
	}
	if format == "json" || format == "yaml" {
		return printAs(a.Out, format, items)
	}
	if len(items) == 0 {
		fmt.Fprintf(a.Err, "the keyring %s is empty; sealward workspace create NAME makes a key\n", ring.Dir())
		return nil
	}
	headings := []string{"WORKSPACE", "STATE", "KIND", "PROTECTED", "RECIPIENT"}
	if format == "wide" {
		headings = append(headings, "SOURCE", "PROBLEM")
	}
	var rows [][]string
	for _, it := range items {
		protected := map[bool]string{true: "yes", false: "no"}[it.Protected]
		row := []string{it.Workspace, it.State, it.Kind, protected, it.Recipient}
		if format == "wide" {
			row = append(row, it.Source, it.Problem)
		} else if row[4] = strings.Join(shortNames(row[4:]), ""); it.Problem != "" {
			row[4] = it.Problem
		}
		rows = append(rows, row)
	}
	table(a.Out, headings, rows)
	return nil
}

func ringItems(k *keyring.Keyring, ws manifest.Workspace) []keyItem {
	r, err := k.Ring(ws)
	if err != nil {
		return []keyItem{{Workspace: ws.String(), State: "error", Source: k.Path(ws), Protected: errors.Is(err, keyring.ErrProtected), Problem: err.Error()}}
	}
	var out []keyItem
	for i, rcpt := range r.Recipients() {
		state := "retired"
		if i == 0 {
			state = "active"
		}
		out = append(out, keyItem{Workspace: ws.String(), Recipient: rcpt.String(), Kind: string(rcpt.Kind()), State: state, Protected: r.Protected(rcpt), Source: k.Path(ws)})
	}
	for _, rcpt := range r.Services().Keys() {
		out = append(out, keyItem{Workspace: ws.String(), Recipient: rcpt.String(), Kind: string(rcpt.Kind()), State: "service", Source: keyring.SettingsFile})
	}
	return out
}

// scopeFlag reads a workspace NAME or --instance.
func scopeFlag(args []string, instance bool) (manifest.Workspace, error) {
	switch {
	case instance == (len(args) == 1):
		return manifest.Workspace{}, usagef("give either a NAME or --instance")
	case instance:
		return manifest.Instance(), nil
	}
	ws, err := manifest.ParseWorkspace(args[0])
	if err != nil {
		return ws, usageError{err}
	}
	return ws, nil
}

func (a *app) keysNewCmd() *cobra.Command {
	var instance, postQuantum bool
	c := &cobra.Command{
		Use:   "new NAME",
		Short: "Give a workspace a new active identity; the old ones stay, retired",
		Long: `Make a new identity for a workspace, put it in front of those in the keyring, and
put its recipient in .sops.yaml in the place of the old active one. Secrets stay
readable: the old identities are kept. Hand the new one to the agent (sealward
keys export) before secrets are sealed for it (sealward rotate).`,
		Example: "  sealward keys new orders && sealward rotate -w orders",
		Args:    cobra.MaximumNArgs(1), ValidArgsFunction: a.completeWorkspaces,
		RunE: func(_ *cobra.Command, args []string) error {
			if !instance && len(args) == 1 && args[0] == manifest.Instance().String() {
				args, instance = nil, true
			}
			ws, err := scopeFlag(args, instance)
			if err != nil {
				return err
			}
			return a.keysNew(ws, postQuantum)
		},
	}
	c.Flags().BoolVar(&instance, "instance", false, "the scope of instance secrets instead of a workspace")
	c.Flags().BoolVar(&postQuantum, "post-quantum", false, "a post-quantum identity (age1pq1…); all recipients of the workspace must be")
	return c
}

// outsideKeyring opens the keyring for a change. It is never inside a repository.
func (a *app) outsideKeyring(repo *workspace.Repository) (*keyring.Keyring, error) {
	ring, err := a.openKeyring()
	if err == nil && repo != nil && repo.Contains(ring.Dir()) {
		return nil, usagef("keyring %s is inside the repository %s: a private key must never be committed; choose a folder outside with --keyring", ring.Dir(), repo.Dir())
	}
	return ring, err
}

func (a *app) keysNew(ws manifest.Workspace, postQuantum bool) error {
	repo, err := a.repository()
	if err != nil {
		return err
	}
	unlock, err := repo.Lock()
	if err != nil {
		return err
	}
	defer unlock()
	rules, err := repo.Rules()
	if err != nil {
		return err
	}
	to, err := rules.WorkspaceRecipients(ws)
	if err != nil {
		return err
	}
	k, err := a.outsideKeyring(repo)
	if err != nil {
		return err
	}
	ring, err := k.Ring(ws)
	if err != nil {
		return err
	}
	old, err := ring.Active()
	if errors.Is(err, keyring.ErrNoIdentity) {
		return a.keysFirst(k, ws, postQuantum)
	}
	if err != nil {
		return err
	}
	if !to.Contains(old) {
		return fmt.Errorf("%s does not seal workspace %s for the keyring's active identity (%s); put it there first, or use a keyring that has a recipient's identity", workspace.RulesFile, ws, old)
	}
	id, err := keyring.Generate(postQuantum || old.PostQuantum(), a.Now())
	if err != nil {
		return err
	}
	next := to.All()
	next[slices.Index(next, old)] = id.Recipient()
	// Asked before the key is written, so that a refusal leaves nothing behind.
	text, err := rules.Replace(ws, next)
	byHand := errors.Is(err, workspace.ErrKeyGroups)
	if err != nil && !byHand {
		return err
	}
	if err := k.Renew(ws, id); err != nil {
		return err
	}
	if !byHand {
		if err := repo.Write(workspace.RulesFile, text); err != nil {
			return err
		}
	}
	fmt.Fprintln(a.Out, id.Recipient())
	fmt.Fprintf(a.Err, "New identity in %s; %s is retired and still opens what was sealed for it\n", k.Path(ws), old)
	if byHand {
		fmt.Fprintf(a.Err, "The rule of %s in %s has key_groups: replace %s there by %s\n", ws, workspace.RulesFile, old, id.Recipient())
	}
	fmt.Fprintf(a.Err, "Next: hand it to the agent (sealward keys export %[1]s), then sealward rotate -w %[1]s\n", ws)
	return nil
}

// keysFirst makes an identity beside services, for an agent to keep its store
// with. Nothing is sealed for it.
func (a *app) keysFirst(k *keyring.Keyring, ws manifest.Workspace, postQuantum bool) error {
	id, err := keyring.Generate(postQuantum, a.Now())
	if err != nil {
		return err
	}
	if err := k.Create(ws, id); err != nil {
		return err
	}
	fmt.Fprintln(a.Out, id.Recipient())
	fmt.Fprintf(a.Err, "First identity in %s, beside the services of %s. Nothing is sealed for it: add it to the rule of %s in %s if it should open secrets\n", k.Path(ws), keyring.SettingsFile, ws, workspace.RulesFile)
	return nil
}

func (a *app) keysExportCmd() *cobra.Command {
	var to []string
	var out string
	var passphrase bool
	c := &cobra.Command{
		Use:   "export NAME",
		Short: "Encrypt a workspace's identities, to hand them to somebody",
		Long: `Encrypt the age identities of a workspace (or of instance) to age or SSH
recipients, or with a passphrase, for sealward keys import. Whoever can open the
result can open every secret of the workspace. There is no way to print an
identity in the clear.`,
		Example: "  sealward keys export orders --to age1... --out orders.age\n  sealward keys export orders --to \"$(cat agent.pub)\" | ssh agent sealward keys import - --identity agent.key",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: a.completeWorkspaces,
		RunE: func(_ *cobra.Command, args []string) error {
			ws, err := scopeArg(args[0])
			if err != nil {
				return err
			}
			if (len(to) > 0) == passphrase {
				return usagef("give either --to RECIPIENT or --passphrase")
			}
			var recipients []workspace.Recipient
			for _, s := range to {
				r, err := workspace.ParseRecipient(s)
				if err != nil {
					return usageError{err}
				}
				recipients = append(recipients, r)
			}
			return a.keysExport(ws, recipients, out)
		},
	}
	c.Flags().StringArrayVar(&to, "to", nil, "age or SSH recipient; repeatable")
	c.Flags().BoolVar(&passphrase, "passphrase", false, "with a passphrase: typed twice, or that of --passphrase-file")
	c.Flags().StringVar(&out, "out", "", "write it to this new file (default: standard output)")
	return c
}

func (a *app) keysExport(ws manifest.Workspace, to []workspace.Recipient, out string) error {
	k, err := a.openKeyring()
	if err != nil {
		return err
	}
	ring, err := k.Ring(ws)
	if err != nil {
		return err
	}
	payload, err := ring.Payload()
	if err != nil {
		return err
	}
	var sealed []byte
	if len(to) > 0 {
		sealed, err = payload.SealTo(to...)
	} else {
		var passphrase []byte
		if passphrase, err = a.exportPassphrase(ring); err != nil {
			return err
		}
		sealed, err = payload.SealWith(passphrase, a.Work)
	}
	if err != nil {
		return err
	}
	if out == "" {
		_, err = a.Out.Write(sealed)
		return err
	}
	if err := writeNew(out, sealed); err != nil {
		return err
	}
	fmt.Fprintf(a.Err, "%s of %s, encrypted: %s\n", identities(len(payload.Recipients())), ws, out)
	return nil
}

func identities(n int) string {
	if n == 1 {
		return "1 identity"
	}
	return fmt.Sprintf("%d identities", n)
}

// exportPassphrase: the passphrase of one's own keyring is not for others, so a
// file with it is not taken for both.
func (a *app) exportPassphrase(ring *keyring.Ring) ([]byte, error) {
	if a.passphraseFile == "" {
		passphrase, err := a.newPassphrase("the export", false)
		if errors.Is(err, keyring.ErrCannotAsk) {
			return nil, usagef("there is no terminal to type a passphrase on; give --passphrase-file FILE, or --to RECIPIENT")
		}
		return passphrase, err
	}
	if slices.ContainsFunc(ring.Recipients(), ring.Protected) {
		return nil, usagef("--passphrase-file opens the keyring here, and its passphrase is not for others; export --to a recipient, or on a terminal")
	}
	return keyring.ReadPassphrase(a.passphraseFile)
}

func writeNew(path string, data []byte) error {
	err := keyring.WriteNew(path, data)
	if errors.Is(err, fs.ErrExist) {
		return usagef("%s exists; it is not replaced", path)
	}
	return err
}

func (a *app) keysImportCmd() *cobra.Command {
	var identity, scope string
	c := &cobra.Command{
		Use:   "import FILE|-",
		Short: "Add identities that somebody handed over to the keyring",
		Long: `Read what sealward keys export wrote, or a recovery file, and add its identities to
the keyring, for the workspace that it names. An identity that is active there
stays active; new ones go behind it.`,
		Example: "  sealward keys import orders.age --identity agent.key -w orders",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			var want manifest.Workspace
			if scope != "" {
				var err error
				if want, err = scopeArg(scope); err != nil {
					return err
				}
			}
			return a.keysImport(args[0], identity, want)
		},
	}
	c.Flags().StringVar(&identity, "identity", "", "file with the age or SSH private key of a recipient it was exported to")
	c.Flags().StringVarP(&scope, "workspace", "w", "", "refuse a file of another workspace")
	_ = c.RegisterFlagCompletionFunc("workspace", a.completeWorkspaces)
	_ = c.MarkFlagFilename("identity")
	return c
}

func (a *app) keysImport(file, identity string, want manifest.Workspace) error {
	repo, err := a.repository()
	if err != nil && !errors.Is(err, workspace.ErrNoRepository) {
		return err
	}
	k, err := a.outsideKeyring(repo)
	if err != nil {
		return err
	}
	shown := file
	if file == "-" {
		shown = "standard input"
	}
	data, err := a.readFile(file)
	if err != nil {
		return fmt.Errorf("%s: %w", shown, withoutPath(err))
	}
	var ids []age.Identity
	if identity != "" {
		if ids, err = k.Identities(identity); err != nil {
			return err
		}
	}
	payload, err := keyring.OpenPayload(data, ids, func() ([]byte, error) { return a.askPassphrase(shown) })
	if err != nil {
		return fmt.Errorf("%s: %w", shown, err)
	}
	ws := payload.Workspace()
	if !want.IsZero() && ws != want {
		return fmt.Errorf("%s: holds the identities of workspace %s, not of %s; nothing was imported", shown, ws, want)
	}
	added, err := k.Import(payload, a.Now())
	if err != nil {
		return err
	}
	for _, r := range added {
		fmt.Fprintln(a.Out, r)
	}
	fmt.Fprintf(a.Err, "%s of %s added to %s, %d were there\n", identities(len(added)), ws, k.Path(ws), len(payload.Recipients())-len(added))
	if !payload.Sealed() {
		fmt.Fprintf(a.Err, "%s is not encrypted: keep it offline, or delete it\n", shown)
	}
	return nil
}
