package gitops

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/audit"
	"github.com/sealward/sealward/unseal/keyring"
	"github.com/sealward/sealward/unseal/serve"
)

// Service is an agent with everything it needs on one machine: mirror, store,
// keyring and, unless it only syncs once, audit, tokens and an address.
type Service struct {
	Settings Settings
	Log      *slog.Logger
	Now      func() time.Time
	Version  string
	// Looks has every remote looked at whenever something arrives: SIGHUP, say.
	Looks <-chan os.Signal
	// Beside is nil where the agent only serves.
	Beside Beside

	live    *unseal.Live
	sources []*followed
	metrics *Metrics // nil where nothing is served
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
	for _, f := range s.sources {
		if err := f.open(ctx, s, ring); err != nil {
			return f.named(err)
		}
	}
	return nil
}

// named says which of several sources an error is of.
func (f *followed) named(err error) error {
	if err == nil || f.Name == "" {
		return err
	}
	return fmt.Errorf("source %s: %w", f.Name, err)
}

func (s *Service) close() {
	for _, f := range s.sources {
		f.close()
	}
}

// Once syncs one time and returns what is served, one snapshot a source.
func (s *Service) Once(ctx context.Context) ([]*unseal.Snapshot, error) {
	s.sources, s.live = s.followed(), &unseal.Live{}
	defer s.close()
	for _, f := range s.sources {
		if err := f.prepare(false); err != nil {
			return nil, f.named(err)
		}
	}
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	var errs []error
	for _, f := range s.sources {
		_, err := f.agent.Sync(ctx)
		errs = append(errs, f.named(err))
	}
	return s.live.View().Snapshots(), errors.Join(errs...)
}

// Run follows the branch and serves until ctx ends. The log says at what address.
func (s *Service) Run(ctx context.Context) (err error) {
	identity, err := s.Settings.Serve.identities(s.Now, s.Log)
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
		if identity.Certificates != nil {
			identity.Certificates.Ask(tlsConfig)
		}
	}
	listener, err := serve.Listen(s.Settings.Serve.Listen, tlsConfig != nil)
	if err != nil {
		return err
	}
	defer listener.Close()
	s.sources, s.live = s.followed(), &unseal.Live{}
	s.metrics = NewMetrics(s.live, s.Now, s.Version)
	for _, f := range s.sources {
		if err := f.prepare(true); err != nil {
			return f.named(err)
		}
	}
	log, err := s.openAudit()
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
	operators, err := subjects(s.Settings.Serve.Operators)
	if err != nil {
		return err
	}
	monitors, err := subjects(s.Settings.Serve.Monitors)
	if err != nil {
		return err
	}
	var cluster func() *serve.ClusterJSON
	var looked func()
	if s.Beside != nil {
		cluster, looked = s.Beside.Status, s.Beside.Looked
		if err := s.metrics.Registry().Register(s.Beside); err != nil {
			return err
		}
	}
	handler := serve.New(serve.Config{
		Cluster: cluster, Looked: looked,
		Live: s.live, Audit: log, Identity: identity, Now: s.Now, Log: s.Log, Limits: s.Settings.Limits(), Version: s.Version,
		Follower: s, Operators: operators, Monitors: monitors, HookSecretFile: s.Settings.Webhook.SecretFile, Stopping: ctx.Done(), Metrics: s.metrics.Handler(), Audited: s.metrics.Audited,
	})
	s.Log.Info("serving", "address", address(listener, tlsConfig != nil), "audit", s.Settings.Audit.File)
	var following sync.WaitGroup
	follow, stop := context.WithCancel(ctx)
	for _, f := range s.sources {
		following.Go(func() { f.agent.Run(follow) })
	}
	following.Go(func() { s.tellHead(follow, log.Head) })
	following.Go(func() {
		for {
			select {
			case <-follow.Done():
				return
			case <-s.Looks:
				s.Look()
				if s.Beside != nil {
					s.Beside.Looked()
				}
			}
		}
	})
	if s.Beside != nil {
		// It ends with ctx, before the last answers are given: others may go on for it.
		following.Go(func() { s.beside(ctx, log) })
	}
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
