package kubernetes

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/sealward/sealward/gitops"
	"github.com/sealward/sealward/seal/manifest"
)

// ForAgent makes the projector that the settings of an agent ask for, which were checked.
func ForAgent(s *gitops.Settings, version string, log *slog.Logger, now func() time.Time) (*Projector, error) {
	k := s.Kubernetes
	rest, namespace, err := Endpoint{Kubeconfig: k.Kubeconfig, Context: k.Context, Namespace: k.Namespace, Version: version}.Connect(log)
	if err != nil {
		return nil, err
	}
	cfg := ProjectorConfig{Rest: rest, Namespace: namespace, Identity: NewIdentity(), Settings: k, Log: log, Now: now, Groups: map[manifest.Subject]bool{}}
	for _, src := range s.All() {
		cfg.Sources = append(cfg.Sources, Source{Name: src.Name, URL: src.ShownURL(), Branch: src.Branch, Path: src.Path, Verified: src.Verify.Mode == "required"})
	}
	// A role of a grant is a group of the cluster only where the agent takes it for one.
	if review := s.Serve.Kubernetes; review != nil {
		for _, group := range review.Roles.Allow {
			role, err := manifest.ParseSubject("roles:id:" + group)
			if err != nil {
				return nil, fmt.Errorf("serve.kubernetes.roles.allow: %w", err)
			}
			cfg.Groups[role] = true
		}
	}
	return NewProjector(cfg)
}
