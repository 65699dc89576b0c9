package gitops

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sealward/sealward/gitops/source"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/audit"
	"github.com/sealward/sealward/unseal/keyring"
	"github.com/sealward/sealward/unseal/serve"
	"github.com/sealward/sealward/unseal/store"
)

// Service is an agent with everything it needs on one machine: mirror, store,
// keyring and, unless it only syncs once, audit, tokens and an address.
type Service struct {
	Settings Settings
	Log      *slog.Logger
	Now      func() time.Time
	Version  string

	agent  *Agent
	live   *unseal.Live
	store  *store.Store
	mirror *source.Mirror
}

var _ serve.Follower = (*Service)(nil)

// open makes the parts that a sync needs and restores what was applied last.
func (s *Service) open(ctx context.Context) (err error) {
	ring, err := keyring.Open(s.Settings.Keyring)
	if err != nil {
		return err
	}
	scopes, err := ring.Workspaces()
	if err != nil {
		return err
	}
	if len(scopes) == 0 {
		s.Log.Warn("the keyring is empty: no secret can be unsealed until it holds a workspace's identity", "keyring", ring.Dir())
	}
	// The store first: it holds the lock of the state folder.
	if s.store, err = s.openStore(s.storePath()); err != nil {
		return err
	}
	if s.mirror, err = source.Open(filepath.Join(s.Settings.State, "mirror"), s.Settings.SourceConfig()); err != nil {
		return err
	}
	s.live = &unseal.Live{}
	s.newAgent(ring)
	err = s.agent.Restore(ctx)
	if errors.Is(err, store.ErrDamaged) || errors.Is(err, store.ErrFormat) {
		if err = s.replaceStore(s.storePath(), err); err != nil {
			return err
		}
		s.newAgent(ring)
		return s.agent.Restore(ctx)
	}
	return err
}

func (s *Service) newAgent(ring *keyring.Keyring) {
	s.agent = New(Config{
		Mirror: s.mirror, Root: s.Settings.Source.Path, Source: s.Settings.SourceID(), Branch: s.Settings.Source.Branch,
		Keyring: ring, Store: s.store, Renew: s.renewStore, Live: s.live, Log: s.Log, Now: s.Now,
		Interval: time.Duration(s.Settings.Source.Interval), MaxStale: time.Duration(s.Settings.MaxStale),
		AllowUnbound: s.Settings.Binding == "optional", RemovalGuard: s.Settings.Source.removalGuard(), FollowRewind: s.Settings.Source.Rewind == "follow",
	})
}

func (s *Service) storePath() string { return filepath.Join(s.Settings.State, "store.db") }

func (s *Service) renewStore(why error) (*store.Store, error) {
	err := s.replaceStore(s.storePath(), why)
	return s.store, err
}

// openStore opens the store; one that is damaged is moved aside and made anew:
// everything in it can be unsealed again from Git.
func (s *Service) openStore(path string) (*store.Store, error) {
	opened, err := store.Open(path)
	if errors.Is(err, store.ErrDamaged) {
		if err := s.moveAside(path, err); err != nil {
			return nil, err
		}
		return store.Open(path)
	}
	return opened, err
}

// replaceStore puts an empty store in the place of the open one, which is damaged.
func (s *Service) replaceStore(path string, why error) error {
	if err := s.moveAside(path, why); err != nil {
		return err
	}
	fresh, err := store.Open(path)
	if err != nil {
		return err
	}
	// Not waited for: what panicked inside bbolt may hold its lock for ever.
	go func(damaged *store.Store) { _ = damaged.Close() }(s.store)
	s.store = fresh
	return nil
}

func (s *Service) moveAside(path string, why error) error {
	to, err := store.MoveAside(path, s.Now())
	if errors.Is(err, fs.ErrNotExist) {
		return nil // moved before, and no new one could be made then
	}
	if err != nil {
		return fmt.Errorf("%w; and it cannot be moved aside: %w", why, err)
	}
	s.Log.Error("the store cannot be used; it was moved aside and is built anew from Git", "error", why, "movedTo", to)
	return nil
}

func (s *Service) close() {
	if s.store != nil {
		_ = s.store.Close()
	}
	if s.mirror != nil {
		_ = s.mirror.Close()
	}
}

// Once syncs one time and returns.
func (s *Service) Once(ctx context.Context) (*unseal.Snapshot, error) {
	defer s.close()
	if err := PrepareState(s.Settings.State); err != nil {
		return nil, err
	}
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	_, err := s.agent.Sync(ctx)
	return s.live.Current(""), err
}

// Run follows the branch and serves until ctx ends. The log says at what address.
func (s *Service) Run(ctx context.Context) (err error) {
	tokens, err := serve.OpenTokens(s.Settings.Serve.TokensFile, s.Log)
	if err != nil {
		return err
	}
	var tlsConfig *tls.Config
	if s.Settings.Serve.TLS.CertFile != "" {
		certs, err := serve.LoadCertificates(s.Settings.Serve.TLS.CertFile, s.Settings.Serve.TLS.KeyFile, s.Log)
		if err != nil {
			return err
		}
		tlsConfig = certs.Config()
	}
	listener, err := serve.Listen(s.Settings.Serve.Listen, tlsConfig != nil)
	if err != nil {
		return err
	}
	defer listener.Close()
	// A state folder that cannot be written must not keep a restarted agent from
	// serving what the folder holds: the store decides.
	if err := PrepareState(s.Settings.State); err != nil {
		if _, statErr := os.Stat(filepath.Join(s.Settings.State, "store.db")); statErr != nil {
			return err
		}
		s.Log.Warn("the state folder cannot be written", "error", err)
	}
	log, err := audit.Open(s.Settings.Audit.File, audit.Options{Now: s.Now, Logger: s.Log})
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, log.Close())
		seq, head := log.Head()
		s.Log.Info("stopped", "auditSeq", seq, "auditHead", head)
	}()
	defer s.close()
	if err := s.open(ctx); err != nil {
		return err
	}
	if _, err := log.Append(ctx, audit.Record{Event: audit.Start}); err != nil {
		return err
	}
	handler := serve.New(serve.Config{Live: s.live, Audit: log, Tokens: tokens, Now: s.Now, Log: s.Log, Limits: s.Settings.Limits(), Version: s.Version})
	s.Log.Info("serving", "address", address(listener, tlsConfig != nil), "audit", s.Settings.Audit.File)
	var following sync.WaitGroup
	follow, stop := context.WithCancel(ctx)
	following.Go(func() { s.agent.Run(follow) })
	err = serve.Serve(ctx, listener, tlsConfig, handler)
	stop()
	following.Wait()
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_, stopErr := log.Append(stopping, audit.Record{Event: audit.Stop})
	return errors.Join(err, stopErr)
}

func address(l net.Listener, withTLS bool) string {
	if withTLS {
		return "https://" + l.Addr().String()
	}
	return "http://" + l.Addr().String()
}
