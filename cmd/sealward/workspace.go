package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
	"github.com/sealward/sealward/unseal/keyring"
)

func (a *app) workspaceCmd() *cobra.Command {
	c := group(&cobra.Command{Use: "workspace", Short: "Make and list workspaces", Aliases: []string{"workspaces", "ws"}})
	c.AddCommand(a.workspaceCreateCmd(), a.workspaceListCmd())
	return c
}

type workspaceOptions struct {
	recipients                        []string
	instance, noIdentity, postQuantum bool
	recovery                          recoveryOptions
}

func (a *app) workspaceCreateCmd() *cobra.Command {
	var o workspaceOptions
	c := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a workspace: its key and its creation rule",
		Long: `Make a workspace: an age identity in the keyring, unless the keyring has one for
it, and a rule in .sops.yaml that seals the workspace's secrets for it. The
public recipients are printed; the identity never leaves the keyring.

Who loses every identity of a workspace loses its secrets. A recovery recipient
is one more, whose identity lies offline: give one that somebody holds
(--recovery), or have one made (--recovery-out). On a terminal you are asked.`,
		Example: `  sealward workspace create orders --recovery-out /media/usb/orders-recovery.age
  sealward workspace create orders --recovery age1... --recipient "$(cat ~/.ssh/id_ed25519.pub)"
  sealward workspace create --instance`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			ws, err := scopeFlag(args, o.instance)
			if err != nil {
				return err
			}
			var to []workspace.Recipient
			for _, s := range o.recipients {
				r, err := workspace.ParseRecipient(s)
				if err != nil {
					return usageError{err}
				}
				to = append(to, r)
			}
			if o.noIdentity && len(to) == 0 {
				return usagef("--no-identity needs at least one --recipient")
			}
			if err := o.recovery.check(); err != nil {
				return err
			}
			return a.createWorkspace(ws, to, o)
		},
	}
	f := c.Flags()
	f.StringArrayVar(&o.recipients, "recipient", nil, "further recipient (age1…, ssh-ed25519 …) who can open the secrets; repeatable")
	f.BoolVar(&o.instance, "instance", false, "the scope of instance secrets instead of a workspace")
	f.BoolVar(&o.noIdentity, "no-identity", false, "seal for the given recipients only; somebody else holds the keys")
	f.BoolVar(&o.postQuantum, "post-quantum", false, "make post-quantum identities (age1pq1…); further recipients must be too")
	o.recovery.flags(f)
	return c
}

func (a *app) createWorkspace(ws manifest.Workspace, to []workspace.Recipient, o workspaceOptions) error {
	repo, err := a.repository()
	if err != nil {
		return err
	}
	rules, err := repo.Rules()
	if err != nil {
		return err
	}
	// Asked before a key is made, so that a refusal leaves nothing behind.
	if _, err := rules.WorkspaceRecipients(ws); !errors.Is(err, workspace.ErrNoRule) {
		return fmt.Errorf("%s has a creation rule for workspace %s already; sealward rotate -w %[2]s --add-recipient adds one to it", workspace.RulesFile, ws)
	}
	var k *keyring.Keyring
	var made *keyring.Identity
	if !o.noIdentity {
		if k, err = a.outsideKeyring(repo); err != nil {
			return err
		}
		var own workspace.Recipient
		if own, made, err = a.ownIdentity(k, ws, o.postQuantum); err != nil {
			return err
		}
		to = append([]workspace.Recipient{own}, to...)
	}
	rescue, err := a.recovery(o.recovery, ws, repo, k, o.postQuantum)
	if err != nil {
		return err
	}
	to = append(to, rescue.recipients()...)
	unlock, err := repo.Lock()
	if err != nil {
		return err
	}
	defer unlock()
	if rules, err = repo.Rules(); err != nil { // as they are by now
		return err
	}
	out, err := rules.Add(ws, to)
	if err != nil {
		return err
	}
	if err := rescue.write(a, ws); err != nil {
		return err
	}
	if made != nil {
		if err := k.Create(ws, made); err != nil {
			return err
		}
		fmt.Fprintf(a.Err, "Identity written to %s; back it up, and keep it out of Git\n", k.Path(ws))
	}
	for _, folder := range []string{"secrets", "grants"} {
		if err := repo.Write(ws.Folder()+"/"+folder+"/.gitkeep", nil); err != nil {
			return err
		}
	}
	if err := repo.Write(workspace.RulesFile, out); err != nil {
		return err
	}
	for _, r := range to {
		fmt.Fprintln(a.Out, r)
	}
	return nil
}

// ownIdentity is the active identity of the ring that is there, or a new one that
// is still to be written.
func (a *app) ownIdentity(k *keyring.Keyring, ws manifest.Workspace, postQuantum bool) (workspace.Recipient, *keyring.Identity, error) {
	ring, err := k.Ring(ws)
	if err == nil {
		if own, err := ring.Active(); err == nil {
			fmt.Fprintf(a.Err, "The keyring has an identity for %s already; it is used: %s\n", ws, k.Path(ws))
			return own, nil, nil
		}
	} else if !errors.Is(err, keyring.ErrNoRing) {
		return workspace.Recipient{}, nil, err
	}
	id, err := keyring.Generate(postQuantum, a.Now())
	if err != nil {
		return workspace.Recipient{}, nil, err
	}
	return id.Recipient(), id, nil
}

func (a *app) workspaceListCmd() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use: "list", Short: "List the workspaces, for whom they are sealed, and which of them the keyring opens", Aliases: []string{"ls"}, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return a.getWorkspaces(format) },
	}
	outputFlag(c, &format, "json", "yaml", "wide")
	return c
}
