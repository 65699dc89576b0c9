package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/client"
	"github.com/sealward/sealward/unseal/serve"
)

func (a *app) readCmd() *cobra.Command {
	var connect func() (*client.Client, error)
	var format, notBefore, after string
	var wait time.Duration
	var watch bool
	c := &cobra.Command{
		Use:   "read WORKSPACE/NAME[/KEY]",
		Short: "Read a secret, or one value, from an agent",
		Long: `Read a secret from an agent: one value, raw, when a KEY is given, else every key
you may read. A secret that is not there and one that no grant allows answer
alike (exit code 4).

-o env prints variables (upper case, _ for what is neither letter nor digit) as shells
and dotenv libraries read them, -o properties is for Java; what a form cannot hold is an
error. --watch prints it again whenever it changes, a value with a newline behind it,
until it is deleted or no longer permitted.`,
		Example: "  sealward read orders/orders-db-r/password --server https://127.0.0.1:8420 --ca-file ca.pem --token-file alice.token",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ws, name, key, err := secretArg(args[0], true)
			if err != nil {
				return err
			}
			whole := key.String() == ""
			if !whole && format != "" {
				return usagef("-o is for a whole secret; a value is printed as it is")
			}
			if watch && (notBefore != "" || after != "") {
				return usagef("--watch always goes on to what is newer; --not-before and --after are for one read")
			}
			cl, err := connect()
			if err != nil {
				return err
			}
			cl.NotBefore, cl.After, cl.Wait = notBefore, after, wait
			switch {
			case watch:
				item := client.Item{Workspace: ws, Name: name}
				if !whole {
					item.Keys = []manifest.Key{key}
				}
				return a.readOn(c.Context(), cl, item, format)
			case whole:
				secret, err := cl.Secret(c.Context(), ws, name)
				if err != nil {
					return fmt.Errorf("%s: %w", args[0], err)
				}
				return a.printSecret(secret, format)
			}
			value, err := cl.Key(c.Context(), ws, name, key)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			_, err = a.Out.Write(value)
			return err
		},
	}
	connect = a.serverFlags(c)
	c.Flags().StringVar(&notBefore, "not-before", "", "only from this commit (whole hash) or one that contains it")
	c.Flags().StringVar(&after, "after", "", "only from a newer commit than this one (whole hash)")
	c.Flags().DurationVar(&wait, "wait", 0, "how long to wait for that commit (at most 50s)")
	c.Flags().BoolVar(&watch, "watch", false, "go on, and print it again whenever it changes")
	outputFlag(c, &format, "yaml", "json", "env", "properties")
	return c
}

func (a *app) printSecret(secret serve.SecretJSON, format string) (err error) {
	var text []byte
	switch format {
	case "env":
		text, err = unseal.EnvFile(secret.Values())
	case "properties":
		text, err = unseal.PropertiesFile(secret.Values())
	case "json":
		return printAs(a.Out, "json", secret)
	default:
		return printAs(a.Out, "yaml", secret)
	}
	if err == nil {
		_, err = a.Out.Write(text)
	}
	return err
}

// readOn prints an item each time its content is another.
func (a *app) readOn(ctx context.Context, cl *client.Client, item client.Item, format string) error {
	said, printed := map[string]string{}, ""
	for entries := range cl.Watch(ctx, []client.Item{item}, 0) {
		e := entries[0]
		if e.Err != nil {
			return fmt.Errorf("%s: %w", item, e.Err)
		}
		a.say(said, e)
		// Which content it is, its provenance tells.
		is := fmt.Sprint(e.Secret.Provenance, e.Secret.StaleSince)
		if is == printed {
			continue
		}
		printed = is
		if len(item.Keys) == 0 {
			if format != "json" && format != "env" && format != "properties" {
				fmt.Fprintln(a.Out, "---")
			}
			if err := a.printSecret(e.Secret, format); err != nil {
				return err
			}
			continue
		}
		value, err := e.Value(item.Keys[0])
		if err == nil {
			_, err = a.Out.Write(append(value, '\n'))
		}
		if err != nil {
			return err
		}
	}
	return nil // asked to end
}
