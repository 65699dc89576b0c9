package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealward/sealward/gitops"
	"github.com/sealward/sealward/plugins/kubernetes"
	"github.com/sealward/sealward/unseal/keyring"
)

func (a *app) agentCmd() *cobra.Command {
	var config, logFormat, logLevel string
	var flags gitops.Settings
	var once bool
	var interval time.Duration
	c := &cobra.Command{
		Use:   "agent",
		Short: "Follow a branch, unseal what was merged, and serve it",
		Long: `Follow a branch of a Git repository, unseal what was merged with the keyring, and
serve each value over HTTPS to identities that a grant in that branch names.
Settings come from agent.yaml (docs/agent.md); a flag overrides its field. The
last applied commit is served also when the remote is away.`,
		Example: "  sealward agent -c agent.yaml\n  sealward agent -c agent.yaml --once",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := a.agentSettings(config, flags, interval)
			if err != nil {
				return err
			}
			if err := s.Check(once); err != nil {
				where := config
				if where == "" {
					where = "agent"
				}
				return usagef("%s: %w", where, err)
			}
			log, err := newLogger(a.Err, logFormat, logLevel)
			if err != nil {
				return err
			}
			if err := noCoreDumps(); err != nil {
				log.Warn("core dumps cannot be switched off", "error", err)
			}
			svc := &gitops.Service{Settings: s, Log: log, Now: a.Now, Version: buildVersion()}
			if !once && s.Kubernetes != nil {
				kubernetes.QuietClientGo()
				projector, err := kubernetes.ForAgent(&s, buildVersion(), log, a.Now)
				if err != nil {
					return usageError{err}
				}
				svc.Beside = projector
			}
			if !once {
				looks := make(chan os.Signal, 1)
				signal.Notify(looks, syscall.SIGHUP)
				defer signal.Stop(looks)
				svc.Looks = looks
				return svc.Run(c.Context())
			}
			snapshots, err := svc.Once(c.Context())
			if err != nil {
				return err
			}
			for _, snapshot := range snapshots {
				of := ""
				if snapshot.Source != "" {
					of = snapshot.Source + ": "
				}
				fmt.Fprintf(a.Out, "%sapplied %s: %d secrets, %d failing, %d problems\n", of, snapshot.Commit, snapshot.Count(), len(snapshot.Failing()), len(snapshot.Problems))
			}
			return nil
		},
	}
	c.AddCommand(a.agentSyncCmd(), a.agentApproveCmd())
	f := c.Flags()
	f.StringVarP(&config, "config", "c", "", "settings file (agent.yaml)")
	f.BoolVar(&once, "once", false, "sync once and exit")
	f.StringVar(&flags.Source.URL, "url", "", "source.url: repository to follow")
	f.StringVar(&flags.Source.Branch, "branch", "", "source.branch")
	f.StringVar(&flags.Source.Path, "path", "", "source.path: folder of the repository")
	f.DurationVar(&interval, "interval", 0, "source.interval: time between two looks")
	f.StringVar(&flags.State, "state", "", "state: folder of the mirror and the store")
	f.StringVar(&flags.Serve.Listen, "listen", "", "serve.listen: HOST:PORT")
	f.StringVar(&flags.Serve.TokensFile, "tokens", "", "serve.tokensFile")
	f.StringVar(&flags.Serve.TLS.CertFile, "tls-cert-file", "", "serve.tls.certFile")
	f.StringVar(&flags.Serve.TLS.KeyFile, "tls-key-file", "", "serve.tls.keyFile")
	f.StringVar(&flags.Audit.File, "audit", "", "audit.file")
	f.StringVar(&flags.Binding, "binding", "", "binding: required or optional")
	f.StringVar(&logFormat, "log-format", "text", "text or json")
	f.StringVar(&logLevel, "log-level", "info", "debug, info, warn or error")
	_ = c.MarkFlagFilename("config", "yaml")
	return c
}

// agentSettings reads the file and lets flags override it.
func (a *app) agentSettings(config string, flags gitops.Settings, interval time.Duration) (gitops.Settings, error) {
	var s gitops.Settings
	if config != "" {
		data, err := os.ReadFile(config)
		if err != nil {
			return s, usagef("settings: %w", err)
		}
		if s, err = gitops.ParseSettings(data, filepath.Dir(config)); err != nil {
			return s, usagef("%s: %w", config, err)
		}
	}
	for _, f := range []struct {
		field *string
		flag  string
	}{
		{&s.Source.URL, flags.Source.URL}, {&s.Source.Branch, flags.Source.Branch}, {&s.Source.Path, flags.Source.Path}, {&s.State, flags.State},
		{&s.Serve.Listen, flags.Serve.Listen}, {&s.Serve.TokensFile, flags.Serve.TokensFile}, {&s.Serve.TLS.CertFile, flags.Serve.TLS.CertFile},
		{&s.Serve.TLS.KeyFile, flags.Serve.TLS.KeyFile}, {&s.Audit.File, flags.Audit.File}, {&s.Binding, flags.Binding}, {&s.Keyring, a.keyring},
	} {
		if f.flag != "" {
			*f.field = f.flag
		}
	}
	if s.Keyring == "" {
		s.Keyring = a.Getenv("SEALWARD_KEYRING")
	}
	switch {
	case interval < 0:
		return s, usagef("--interval must be positive")
	case interval > 0:
		s.Source.Interval = gitops.Duration(interval)
	}
	if s.Keyring != "" {
		if _, err := keyring.Open(s.Keyring); err != nil {
			return s, usageError{err}
		}
	}
	return s, nil
}

func newLogger(w io.Writer, format, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, usagef("--log-level %.20q is unknown; debug, info, warn or error", level)
	}
	opts := &slog.HandlerOptions{Level: l}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return nil, usagef("--log-format %.20q is unknown; text or json", format)
}
