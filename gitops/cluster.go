package gitops

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/sealward/sealward/seal/manifest"
)

// ClusterSettings says how the agent takes part in a Kubernetes cluster: which
// workspaces become Secrets there, and where its Lease and its SealedRepository stand.
type ClusterSettings struct {
	// Kubeconfig names a file and Context one of its contexts; without, the pod's own
	// service account is used.
	Kubeconfig string `yaml:"kubeconfig"`
	Context    string `yaml:"context"`
	// Namespace of the Lease and the SealedRepository. Default the pod's.
	Namespace string `yaml:"namespace"`
	// Repository is the name of the SealedRepository, where there is one source; of
	// several sources each has its own name. Default sealward.
	Repository string `yaml:"repository"`
	Lease      struct {
		Name     string   `yaml:"name"`     // default sealward
		Duration Duration `yaml:"duration"` // default 15s
	} `yaml:"lease"`
	Project ProjectSettings `yaml:"project"`
}

// ProjectSettings says what is projected.
type ProjectSettings struct {
	// Workspaces that become Secrets; "instance" for instance secrets, which go to the
	// namespaces that ask for them by label.
	Workspaces []string `yaml:"workspaces"`
	// Namespaces of workspaces. Default the workspace's name.
	Namespaces map[string]string `yaml:"namespaces"`
	// Immutable Secrets have a name that ends with a hash of what is committed.
	Immutable bool `yaml:"immutable"`
	// Permissions "none" makes no Roles of grants. Default "rbac".
	Permissions string `yaml:"permissions"`
	// Inexpressible "allow" projects also secrets that a deny grant, or a grant of some
	// keys, is about. Default "refuse".
	Inexpressible string `yaml:"inexpressible"`
	// PruneGuard holds deletions back when more than Percent of what stands in the
	// cluster, and more than Count, would go at once though no commit was seen to remove it.
	PruneGuard struct {
		Percent *float64 `yaml:"percent"` // default 25
		Count   *int     `yaml:"count"`   // default 20
	} `yaml:"pruneGuard"`
}

// check fills defaults in and says what is wrong.
func (c *ClusterSettings) check() error {
	var errs []error
	fail := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("kubernetes."+field+": "+format, args...))
	}
	if c.Context != "" && c.Kubeconfig == "" {
		fail("context", "is of no use without kubeconfig")
	}
	setDefault(&c.Repository, "sealward")
	setDefault(&c.Lease.Name, "sealward")
	setDefault(&c.Lease.Duration, Duration(15*time.Second))
	for field, name := range map[string]string{"repository": c.Repository, "lease.name": c.Lease.Name} {
		if why := validation.IsDNS1123Label(name); why != nil {
			fail(field, "%.70q: %s", name, why[0])
		}
	}
	if c.Namespace != "" && validation.IsDNS1123Label(c.Namespace) != nil {
		fail("namespace", "%.70q is no name of a namespace", c.Namespace)
	}
	if d := time.Duration(c.Lease.Duration); d < 2*time.Second || d > time.Minute {
		fail("lease.duration", "is %s; from 2s to 1m", d)
	}
	p := &c.Project
	setDefault(&p.Permissions, "rbac")
	setDefault(&p.Inexpressible, "refuse")
	if p.Permissions != "rbac" && p.Permissions != "none" {
		fail("project.permissions", "is %.40q; rbac or none", p.Permissions)
	}
	if p.Inexpressible != "refuse" && p.Inexpressible != "allow" {
		fail("project.inexpressible", "is %.40q; refuse or allow", p.Inexpressible)
	}
	listed := map[string]bool{}
	for _, ws := range p.Workspaces {
		if _, err := manifest.ParseScope(ws); err != nil {
			fail("project.workspaces", "%w", err)
		}
		if listed[ws] {
			fail("project.workspaces", "%s stands twice", ws)
		}
		listed[ws] = true
	}
	for ws, ns := range p.Namespaces {
		switch {
		case !listed[ws] || ws == manifest.Instance().String():
			fail("project.namespaces", "%.40q is not among project.workspaces, or is the instance, whose namespaces ask by label", ws)
		case validation.IsDNS1123Label(ns) != nil:
			fail("project.namespaces", "%.70q is no name of a namespace", ns)
		}
	}
	for ws := range listed {
		switch ns := p.namespace(ws); {
		case strings.HasPrefix(ns, "kube-"):
			fail("project.namespaces", "workspace %s would go to %s; namespaces that begin with kube- are the cluster's own", ws, ns)
		case c.Namespace != "" && ns == c.Namespace:
			fail("project.namespaces", "workspace %s would go to %s, where the agent's own keys are", ws, ns)
		}
	}
	if g := p.PruneGuard; g.Percent != nil && !(*g.Percent >= 0 && *g.Percent <= 100) || g.Count != nil && *g.Count < 0 {
		fail("project.pruneGuard", "percent is from 0 to 100, and count not less than 0")
	}
	return errors.Join(errs...)
}

func (p *ProjectSettings) namespace(ws string) string {
	if ns := p.Namespaces[ws]; ns != "" {
		return ns
	}
	return ws
}
