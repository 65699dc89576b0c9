package gitops

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/sealward/sealward/gitops/source"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/keyring"
	"github.com/sealward/sealward/unseal/store"
)

// All lists the sources: those of sources, or the one of source.
func (s *Settings) All() []*SourceSettings {
	if len(s.Sources) == 0 {
		return []*SourceSettings{&s.Source}
	}
	var out []*SourceSettings
	for i := range s.Sources {
		out = append(out, &s.Sources[i])
	}
	return out
}

// checkSources fills the defaults of each source in, and finds what contradicts
// itself or another.
func (s *Settings) checkSources() (errs []error) {
	if len(s.Sources) > 0 && !reflect.ValueOf(s.Source).IsZero() {
		errs = append(errs, errors.New("source and sources are both set (a flag such as --url sets source); keep one"))
	}
	names, lists := map[string]bool{}, map[string]string{}
	for i, src := range s.All() {
		field := "source"
		if len(s.Sources) > 0 {
			field = fmt.Sprintf("sources[%d]", i)
			switch {
			case len(src.Name) > 31 || !sourceName.MatchString(src.Name):
				errs = append(errs, fmt.Errorf("%s.name is %.40q; each of several sources has a name of lower case letters, digits and -, at most 31", field, src.Name))
			case names[src.Name]:
				errs = append(errs, fmt.Errorf("%s.name: %q names another source too", field, src.Name))
			}
			names[src.Name] = true
		} else if src.Name != "" {
			errs = append(errs, errors.New("source.name is for several sources; leave it out, or write sources"))
		}
		for _, ws := range src.Workspaces {
			if _, err := manifest.ParseScope(ws); err != nil {
				errs = append(errs, fmt.Errorf("%s.workspaces: %w", field, err))
			} else if other, listed := lists[ws]; listed {
				errs = append(errs, fmt.Errorf("%s.workspaces: %s is listed by source %q too; a workspace belongs to one source", field, ws, other))
			}
			lists[ws] = src.Name
		}
		errs = append(errs, src.check(field)...)
	}
	return errs
}

var sourceName = regexp.MustCompile(`^[a-z]([-a-z0-9]*[a-z0-9])?$`)

func (s *SourceSettings) check(field string) (errs []error) {
	if s.URL == "" {
		errs = append(errs, fmt.Errorf("%s.url is missing; the repository to follow, as git clone takes it", field))
	}
	// A file of signers beside mode none would look like a protection.
	switch listed := s.Verify.AllowedSignersFile != "" || s.Verify.OpenPGPKeysFile != ""; s.Verify.Mode {
	case "", "none":
		if listed {
			errs = append(errs, fmt.Errorf("%s.verify names who may sign, but no signature is asked for; set mode: required, or leave the files out", field))
		}
	case "required":
		if !listed {
			errs = append(errs, fmt.Errorf("%s.verify is required and nobody may sign; name allowedSignersFile (SSH), openPGPKeysFile, or both", field))
		}
	default:
		errs = append(errs, fmt.Errorf("%s.verify.mode is %.40q; none or required", field, s.Verify.Mode))
	}
	if r := s.Rewind; r != "" && r != "refuse" && r != "follow" {
		errs = append(errs, fmt.Errorf("%s.rewind is %.40q; refuse or follow", field, r))
	}
	if g := s.removalGuard(); !(g.Percent >= 0 && g.Percent <= 100) || g.Count < 0 {
		errs = append(errs, fmt.Errorf("%s.removalGuard: percent is from 0 to 100, and count not less than 0", field))
	}
	s.URL = absoluteURL(s.URL, ".") // of a flag
	setDefault(&s.Branch, "main")
	setDefault(&s.Path, ".")
	setDefault(&s.Interval, Duration(30*time.Second))
	setDefault(&s.Timeout, Duration(60*time.Second))
	s.Path = strings.Trim(filepath.ToSlash(filepath.Clean(s.Path)), "/")
	if !filepath.IsLocal(s.Path) {
		errs = append(errs, fmt.Errorf("%s.path leads out of the repository", field))
	}
	return errs
}

func (s *SourceSettings) removalGuard() *RemovalGuard {
	g := &RemovalGuard{Percent: 25, Count: 20}
	if p := s.RemovalGuard.Percent; p != nil {
		g.Percent = *p
	}
	if n := s.RemovalGuard.Count; n != nil {
		g.Count = *n
	}
	return g
}

// Config is the settings as package source takes them.
func (s *SourceSettings) Config() source.Config {
	a := s.Auth
	return source.Config{URL: s.URL, Branch: s.Branch, Proxy: s.Proxy, Timeout: time.Duration(s.Timeout), Auth: source.Auth{
		UsernameFile: a.UsernameFile, PasswordFile: a.PasswordFile, TokenFile: a.TokenFile,
		SSHKeyFile: a.SSHKeyFile, KnownHostsFile: a.KnownHostsFile, CAFile: a.CAFile,
		ProxyCredentialFile: a.ProxyCredentialFile,
	}}
}

// signatures is nil where commits need none.
func (s *SourceSettings) signatures() *SignaturePolicy {
	if s.Verify.Mode != "required" {
		return nil
	}
	return &SignaturePolicy{AllowedSignersFile: s.Verify.AllowedSignersFile, OpenPGPKeysFile: s.Verify.OpenPGPKeysFile}
}

// ShownURL is the URL without a password that it may hold.
func (s *SourceSettings) ShownURL() string {
	shown := s.URL
	if u, err := url.Parse(shown); err == nil && u.User != nil {
		u.User = nil
		shown = u.String()
	}
	return shown
}

// ID names what is followed, for the store.
func (s *SourceSettings) ID() string { return s.ShownURL() + "#" + s.Branch + ":" + s.Path }

// elsewhere says of a workspace that a source may not hold why, "" of one that it
// may: what agent.yaml lists goes before what a repository claims.
func (s *Settings) elsewhere(src *SourceSettings, ws manifest.Workspace) string {
	if slices.Contains(src.Workspaces, ws.String()) {
		return ""
	}
	for _, other := range s.All() {
		if other != src && slices.Contains(other.Workspaces, ws.String()) {
			return fmt.Sprintf("the agent's settings give %s to source %q", ws, other.Name)
		}
	}
	if len(src.Workspaces) > 0 {
		return fmt.Sprintf("the agent's settings list the workspaces of this source, and %s is not among them", ws)
	}
	return ""
}

// followed is one source, with what is kept of it on disk.
type followed struct {
	*SourceSettings
	dir    string // below the state folder; the state folder itself for the only source
	log    *slog.Logger
	now    func() time.Time
	store  *store.Store
	mirror *source.Mirror
	agent  *Agent
}

func (s *Service) followed() []*followed {
	var out []*followed
	for _, src := range s.Settings.All() {
		f := &followed{SourceSettings: src, dir: s.Settings.State, log: s.Log, now: s.Now}
		if src.Name != "" {
			f.dir = filepath.Join(s.Settings.State, src.Name)
			f.log = s.Log.With("source", src.Name)
		}
		out = append(out, f)
	}
	return out
}

// prepare makes the folders. One that cannot be written must not keep a restarted
// agent from serving what it holds: with serving, the store decides.
func (f *followed) prepare(serving bool) error {
	err := PrepareState(f.dir)
	if _, statErr := os.Stat(f.storePath()); err == nil || !serving || statErr != nil {
		return err
	}
	f.log.Warn("the state folder cannot be written", "error", err)
	return nil
}

// open makes the parts that a sync needs and restores what was applied last.
func (f *followed) open(ctx context.Context, s *Service, ring *keyring.Keyring) (err error) {
	// The store first: it holds the lock of the folder.
	if f.store, err = f.openStore(); err != nil {
		return err
	}
	if f.mirror, err = f.openMirror(); err != nil {
		return err
	}
	f.newAgent(s, ring)
	err = f.agent.Restore(ctx)
	if errors.Is(err, store.ErrDamaged) || errors.Is(err, store.ErrFormat) {
		if err = f.replaceStore(err); err != nil {
			return err
		}
		f.newAgent(s, ring)
		err = f.agent.Restore(ctx)
	}
	if classify(err) == unseal.SyncMirror {
		f.log.Error("the mirror is damaged; nothing is served until it was cloned again: who may read stands in it", "error", oneLine(err))
		return nil
	}
	return err
}

func (f *followed) newAgent(s *Service, ring *keyring.Keyring) {
	f.agent = New(Config{
		Name: f.Name, Mirror: f.mirror, Root: f.Path, Source: f.ID(), URL: f.ShownURL(), Branch: f.Branch,
		Keyring: ring, Store: f.store, Renew: f.renewStore, Remirror: f.remirror, Live: s.live, Log: f.log, Now: f.now,
		Interval: time.Duration(f.Interval), MaxStale: time.Duration(s.Settings.MaxStale),
		AllowUnbound: s.Settings.Binding == "optional", RemovalGuard: f.removalGuard(), Signatures: f.signatures(), FollowRewind: f.Rewind == "follow",
		Metrics:   s.metrics,
		Elsewhere: func(ws manifest.Workspace) string { return s.Settings.elsewhere(f.SourceSettings, ws) },
	})
	// Known from the start, so that a source that was not looked at yet is seen.
	s.live.SetSync(f.agent.sync)
}

func (f *followed) storePath() string { return filepath.Join(f.dir, "store.db") }

func (f *followed) renewStore(why error) (*store.Store, error) {
	err := f.replaceStore(why)
	return f.store, err
}

// openStore opens the store; one that is damaged is moved aside and made anew:
// everything in it can be unsealed again from Git.
func (f *followed) openStore() (*store.Store, error) {
	opened, err := store.Open(f.storePath())
	if errors.Is(err, store.ErrDamaged) {
		if err := f.moveAside(err); err != nil {
			return nil, err
		}
		return store.Open(f.storePath())
	}
	return opened, err
}

// replaceStore puts an empty store in the place of the open one, which cannot be
// used.
func (f *followed) replaceStore(why error) error {
	if err := f.moveAside(why); err != nil {
		return err
	}
	fresh, err := store.Open(f.storePath())
	if err != nil {
		return err
	}
	// Not waited for: what panicked inside bbolt may hold its lock for ever.
	go func(damaged *store.Store) { _ = damaged.Close() }(f.store)
	f.store = fresh
	return nil
}

func (f *followed) moveAside(why error) error {
	to, err := store.MoveAside(f.storePath(), f.now())
	if errors.Is(err, fs.ErrNotExist) {
		return nil // moved before, and no new one could be made then
	}
	if err != nil {
		return fmt.Errorf("%w; and it cannot be moved aside: %w", why, err)
	}
	f.log.Error("the store cannot be used; it was moved aside and is built anew from Git", "error", why, "movedTo", to)
	return nil
}

func (f *followed) close() {
	if f.store != nil {
		_ = f.store.Close()
	}
	if f.mirror != nil {
		_ = f.mirror.Close()
	}
}

// noteContested reports workspaces that more than one source claims, once each.
func (a *Agent) noteContested() {
	contested := a.Live.View().AllContested()
	for ws, sources := range contested {
		if a.contested[ws] == nil {
			a.Log.Error("several sources claim a workspace; all its reads are refused until one gives it up, or workspaces in the agent's settings lists whose it is",
				"workspace", ws.String(), "sources", strings.Join(sources, ", "))
		}
	}
	a.contested = contested
}

// misplaced takes a file of a workspace that belongs to another source into the
// change: nothing of it is served.
func (c *change) misplaced(path string, place manifest.Place, entry *source.Entry, why string) {
	if old := c.next.records[place.Scope][path]; old != nil {
		c.remove(old)
	}
	if entry != nil {
		c.next.problems[path] = unseal.Problem{Path: path, Class: unseal.FailPlace, Message: path + ": " + why + "; nothing of it is served from here"}
	}
}
