package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal/client"
	"github.com/sealward/sealward/unseal/workload"
)

func (a *app) renderCmd() *cobra.Command {
	var connect func() (*client.Client, error)
	var o renderOptions
	c := &cobra.Command{
		Use:   "render -f WORKLOAD --dir DIR",
		Short: "Write the secrets that a DataOS workload names into a folder",
		Long: `Write the secrets that a workload's dataosSecrets name into a folder, as files for
their owner only (0400): envVars into .env, propFile into NAME.properties, file into
NAME/KEY. All files are replaced at once; readers see the old ones or the new ones.
DIR should be in memory (tmpfs).

--watch goes on: it writes anew when a value changes, and takes a value away that is
deleted or no longer permitted. One that merely cannot be confirmed, because no agent can be
reached, stays for --max-stale; .status.json says so. Where the agent cannot be reached at
the start, what stands in DIR stays until it can, and at most for --max-stale.`,
		Example: "  sealward render -f service.yaml --dir /dev/shm/orders --watch",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if o.file == "" || o.dir == "" {
				return usagef("-f WORKLOAD and --dir DIR are needed")
			}
			if o.maxStale < 0 {
				return usagef("--max-stale is a duration; 0 has no bound")
			}
			uses, err := a.readWorkload(o)
			if err != nil {
				return err
			}
			if err := outsideGit(o.dir, o.force); err != nil {
				return err
			}
			cl, err := connect()
			if err != nil {
				return err
			}
			folder, err := workload.OpenFolder(o.dir)
			if err != nil {
				return usageError{err}
			}
			if !inMemory(o.dir) {
				fmt.Fprintf(a.Err, "warning: %s is not in memory, so the values reach a disk; a tmpfs is better\n", clean(o.dir))
			}
			if err := noCoreDumps(); err != nil {
				fmt.Fprintln(a.Err, "warning: core dumps cannot be switched off:", err)
			}
			return a.render(c.Context(), cl, folder, uses, o)
		},
	}
	connect = a.serverFlags(c)
	f := c.Flags()
	f.StringVarP(&o.file, "file", "f", "", "the workload (YAML); - is standard input")
	f.StringVar(&o.dir, "dir", "", "folder to write to, which holds nothing else")
	f.StringVarP(&o.workspace, "workspace", "w", "", "workspace of secrets that name none, where the workload names none either (default public)")
	f.BoolVar(&o.watch, "watch", false, "go on, and write anew when something changes")
	f.DurationVar(&o.maxStale, "max-stale", 24*time.Hour, "how long a value stays that no agent confirms; 0 has no bound")
	f.BoolVar(&o.force, "force", false, "also into a Git work tree")
	return c
}

type renderOptions struct {
	file, dir, workspace string
	watch, force         bool
	maxStale             time.Duration
}

func (a *app) readWorkload(o renderOptions) ([]workload.Use, error) {
	ws := manifest.Public()
	if o.workspace != "" {
		var err error
		if ws, err = scopeArg(o.workspace); err != nil {
			return nil, err
		}
	}
	data, err := a.readFile(o.file)
	if err != nil {
		return nil, usageError{err}
	}
	uses, err := workload.Parse(filepath.Base(o.file), data, ws)
	if err != nil {
		return nil, usageError{err}
	}
	return uses, nil
}

// render writes the first state, and with watch every one that follows.
func (a *app) render(ctx context.Context, cl *client.Client, folder *workload.Folder, uses []workload.Use, o renderOptions) error {
	var items []client.Item
	for _, u := range uses {
		items = append(items, u.Item)
	}
	if !o.watch {
		results, err := cl.Batch(ctx, items)
		if err != nil {
			return err
		}
		var entries []client.Entry
		for i, r := range results {
			if r.Err != nil {
				return fmt.Errorf("%s:%d: %s: %w; nothing was written", filepath.Base(o.file), uses[i].Line, items[i], r.Err)
			}
			entries = append(entries, client.Entry{Item: items[i], Secret: r.Secret, Confirmed: a.Now()})
		}
		_, err = write(folder, uses, entries, nil, a.Now())
		return err
	}
	following, stop := context.WithCancel(ctx)
	defer stop()
	states := make(chan []client.Entry)
	go func() {
		defer close(states)
		for entries := range cl.Watch(following, items, o.maxStale) {
			select {
			case states <- entries:
			case <-following.Done():
			}
		}
	}()
	// What an earlier run left is not kept longer than a value of this run would be.
	var tooOld <-chan time.Time
	if o.maxStale > 0 {
		timer := time.NewTimer(o.maxStale)
		defer timer.Stop()
		tooOld = timer.C
	}
	known := false
	var there map[string][]byte
	var last []client.Entry // that could be written
	said := map[string]string{}
	for {
		select {
		case <-tooOld:
			if known {
				tooOld = nil
				continue
			}
			fmt.Fprintln(a.Err, "sealward: no agent could be reached for --max-stale: what an earlier run left is removed")
			var entries []client.Entry
			for _, i := range items {
				entries = append(entries, client.Entry{Item: i, Err: client.ErrStale})
			}
			if _, err := write(folder, uses, entries, nil, a.Now()); err != nil {
				return err
			}
		case entries, ok := <-states:
			if !ok {
				return nil // asked to end; the files stay for the workload
			}
			for _, e := range entries {
				a.say(said, e)
			}
			if !known {
				if known = !neverAsked(entries); !known {
					continue
				}
			}
			var err error
			if there, err = write(folder, uses, entries, there, a.Now()); err == nil {
				last = entries
				continue
			}
			fmt.Fprintln(a.Err, "sealward: what changed is not written:", clean(err.Error()))
			// What was taken away goes all the same.
			if last == nil {
				continue
			}
			if there, err = write(folder, uses, withoutChanges(last, entries), there, a.Now()); err != nil {
				fmt.Fprintln(a.Err, "sealward: the files stay as they are:", clean(err.Error()))
			}
		}
	}
}

// withoutChanges keeps the values of last that are still given.
func withoutChanges(last, now []client.Entry) []client.Entry {
	out := slices.Clone(now)
	for i := range out {
		if out[i].Ok() && last[i].Ok() {
			out[i].Secret = last[i].Secret
		} else if out[i].Ok() {
			out[i] = last[i]
		}
	}
	return out
}

// write writes the files of a state where they differ from those that are there, and
// returns them (as of no time): whoever watches the folder is not woken for nothing.
func write(folder *workload.Folder, uses []workload.Use, entries []client.Entry, there map[string][]byte, now time.Time) (map[string][]byte, error) {
	timeless, err := workload.Files(uses, entries, time.Time{})
	if err != nil || maps.EqualFunc(timeless, there, bytes.Equal) {
		return there, err
	}
	files, err := workload.Files(uses, entries, now)
	if err == nil {
		err = folder.Write(files)
	}
	if err != nil {
		return there, err
	}
	return timeless, nil
}

// neverAsked reports that no agent has said anything yet.
func neverAsked(entries []client.Entry) bool {
	for _, e := range entries {
		if e.Ok() || errors.Is(e.Err, client.ErrDenied) || errors.Is(e.Err, client.ErrNotFound) || errors.Is(e.Err, client.ErrUnauthenticated) {
			return false
		}
	}
	return true
}

// say tells of an entry once for each state of it.
func (a *app) say(said map[string]string, e client.Entry) {
	text := ""
	switch {
	case e.Err != nil:
		text = "has no value: " + e.Err.Error()
	case !e.Unconfirmed.IsZero():
		text = "stays as it is: " + e.Why.Error()
	}
	if who := e.Item.String(); said[who] != text {
		if said[who] = text; text == "" {
			text = "is current again"
		}
		fmt.Fprintf(a.Err, "sealward: %s %s\n", who, clean(text))
	}
}
