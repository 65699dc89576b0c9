package examples

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"github.com/sealward/sealward/gitops"
	"github.com/sealward/sealward/plugins/kubernetes/kubetest"
)

var (
	cluster  *kubetest.Cluster
	kindLine = regexp.MustCompile(`(?m)^kind: `)
)

// kubectl runs the real one against the test's API server, as admin.
func kubectl(t *testing.T, stdin string, args ...string) (string, error) {
	t.Helper()
	program, err := exec.LookPath("kubectl")
	if err != nil {
		t.Fatal("kubectl is missing: run make tools")
	}
	cmd := exec.Command(program, append([]string{"--kubeconfig", kubeconfig(t)}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func mustKubectl(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	out, err := kubectl(t, stdin, args...)
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// tree is a copy of examples/cluster whose secrets are sealed for a key of this test.
type tree struct {
	t    *testing.T
	dir  string
	keys string
}

func newTree(t *testing.T) *tree {
	t.Helper()
	w := &tree{t: t, dir: filepath.Join(t.TempDir(), "cluster")}
	w.keys = filepath.Join(filepath.Dir(w.dir), "keys")
	if err := os.CopyFS(w.dir, os.DirFS("cluster")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", filepath.Join(w.dir, "seal.sh"))
	cmd.Env = append(os.Environ(), "SEALWARD_KEYRING="+w.keys, "GIT_PASSWORD=hunter2")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return w
}

func (w *tree) build(program ...string) string {
	w.t.Helper()
	cmd := exec.Command(program[0], program[1:]...)
	var out, errs bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = w.dir, &out, &errs
	cmd.Env = append(os.Environ(), "SEALWARD_KEYRING="+w.keys)
	if err := cmd.Run(); err != nil {
		w.t.Fatalf("%v: %v\n%s", program, err, errs.String())
	}
	return out.String()
}

// Every manifest that is shipped, as kustomize and as sealward's own plugin build it, is
// taken by a real API server, which knows every field. It persists nothing.
func TestClusterManifests(t *testing.T) {
	kubetest.Need(t, cluster)
	w := newTree(t)
	if at, base := readFile(t, "../plugins/kubernetes/crd.yaml"), readFile(t, "cluster/base/crd.yaml"); !bytes.Equal(at, base) {
		t.Error("cluster/base/crd.yaml is not plugins/kubernetes/crd.yaml: copy it")
	}
	// What namespaced objects need is really made.
	mustKubectl(t, string(readFile(t, "cluster/base/namespace.yaml")), "apply", "--server-side", "-f", "-")
	for _, ns := range []string{"orders", "payments", "argocd"} {
		mustKubectl(t, fmt.Sprintf("{apiVersion: v1, kind: Namespace, metadata: {name: %s}}", ns), "apply", "--server-side", "-f", "-")
	}
	dryRun := func(text string) (string, error) {
		return kubectl(t, text, "apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-")
	}
	builds := map[string]string{
		"base":             w.build("kustomize", "build", "base"),
		"base by sealward": w.build("sealward", "build", "base"),
		"dev":              w.build("kustomize", "build", "overlays/dev"),
		"dev by sealward":  w.build("sealward", "build", "overlays/dev"),
		"dev by kubectl":   w.build("kubectl", "kustomize", "overlays/dev"),
		"prod by sealward": w.build("sealward", "build", "--verify-with", "kustomize", "overlays/prod"),
		"prod, no key":     w.build("sealward", "build", "--placeholders", "--keyring", "/nonexistent", "overlays/prod"),
		"a workspace":      w.build("kustomize", "build", "overlays/prod/orders"),
		"argocd": func() string {
			text, err := argoManifests(t).AsYaml()
			if err != nil {
				t.Fatal(err)
			}
			return string(text)
		}(),
		"examples/kustomize": func() string {
			shop := newShop(t)
			shop.must("tree", shop.keyring(), "sh", "seal.sh")
			return shop.must("tree", shop.keyring(), "sealward", "build", "overlays/prod")
		}(),
	}
	for name, text := range builds {
		t.Run(name, func(t *testing.T) {
			out, err := dryRun(text)
			if err != nil || strings.Contains(out, "Warning") || strings.Contains(out, "hunter2") {
				t.Fatalf("%v\n%s", err, out)
			}
			if got, want := strings.Count(out, "serverside-applied (server dry run)"), len(kindLine.FindAllString(text, -1)); got != want || want < 2 {
				t.Errorf("%d of %d objects were taken:\n%s", got, want, out)
			}
		})
	}
	if builds["base"] != builds["base by sealward"] || builds["dev"] != builds["dev by sealward"] {
		t.Error("sealward build and kustomize build make different manifests")
	}
	if git, ok := objects(t, builds["prod by sealward"])["Secret sealward-git"]; !ok || git["data"] == nil {
		t.Error("prod has no sealward-git out of the sealed secret")
	}
	// The check finds something.
	typo := strings.Replace(builds["base"], "maxUnavailable: 1", "maxUnavailble: 1", 1)
	if out, err := dryRun(typo); err == nil || !strings.Contains(out, "maxUnavailble") {
		t.Errorf("a field that is not one: %v\n%s", err, out)
	}
	// What Pods come of it the namespace admits, and no looser ones.
	for name, loosen := range map[string]func(*corev1.PodSpec){
		"":               func(*corev1.PodSpec) {},
		"runAsNonRoot":   func(p *corev1.PodSpec) { p.SecurityContext.RunAsNonRoot = nil },
		"capabilities":   func(p *corev1.PodSpec) { p.Containers[0].SecurityContext.Capabilities = nil },
		"seccompProfile": func(p *corev1.PodSpec) { p.SecurityContext.SeccompProfile = nil },
		"hostPath": func(p *corev1.PodSpec) {
			p.Volumes[0].VolumeSource = corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}
		},
	} {
		spec := statefulSet(t, builds["prod by sealward"]).Spec.Template.Spec.DeepCopy()
		// The controller puts the claims in their place.
		for _, claim := range []string{"state", "audit"} {
			spec.Volumes = append(spec.Volumes, corev1.Volume{Name: claim, VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim + "-sealward-0"}}})
		}
		loosen(spec)
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "sealward-0"}, Spec: *spec}
		_, err := cluster.Client.CoreV1().Pods("sealward").Create(t.Context(), pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: "Strict"})
		if name == "" && err != nil || name != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), name)) {
			t.Errorf("a pod without %q: %v", name, err)
		}
	}
}

// The documentation's table of what the agent may do is what the API server says.
func TestClusterRights(t *testing.T) {
	kubetest.Need(t, cluster)
	w := newTree(t)
	for _, ns := range []string{"orders", "payments", "shop"} {
		mustKubectl(t, fmt.Sprintf("{apiVersion: v1, kind: Namespace, metadata: {name: %s}}", ns), "apply", "--server-side", "-f", "-")
	}
	mustKubectl(t, w.build("kustomize", "build", "base"), "apply", "--server-side", "-f", "-")
	for _, ns := range []string{"orders", "payments"} {
		mustKubectl(t, w.build("kustomize", "build", "overlays/prod/"+ns), "apply", "--server-side", "-f", "-")
	}
	agent, err := kubernetes.NewForConfig(cluster.As(t, "sealward", "sealward"))
	if err != nil {
		t.Fatal(err)
	}
	can := func(verb, group, resource, sub, namespace, name string) bool {
		t.Helper()
		r, err := agent.AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(), &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
			ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: verb, Group: group, Resource: resource, Subresource: sub, Namespace: namespace, Name: name}}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return r.Status.Allowed
	}
	all := []string{"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "bind", "escalate", "impersonate", "approve"}
	sees := func(verb, group, resource, sub, namespace, name string) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !can(verb, group, resource, sub, namespace, name); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("the agent may not %s %s in %q", verb, resource, namespace)
			}
		}
	}
	const rbac = "rbac.authorization.k8s.io"
	table := []struct {
		group, resource, sub, namespace, name string
		may                                   string
	}{
		// In a workspace's namespace.
		{"", "secrets", "", "orders", "", "get list watch create patch delete"},
		{rbac, "roles", "", "orders", "", "get list watch create patch delete"},
		{rbac, "rolebindings", "", "orders", "", "get list watch create patch delete"},
		{"events.k8s.io", "events", "", "orders", "", "create patch"},
		{"", "configmaps", "", "orders", "", ""},
		{"", "pods", "", "orders", "", ""},
		{"", "pods", "exec", "orders", "", ""},
		{"", "serviceaccounts", "", "orders", "", ""},
		{"", "serviceaccounts", "token", "orders", "", ""},
		{"apps", "deployments", "", "orders", "", ""},
		{"sealward.dev", "sealedrepositories", "", "orders", "", ""},
		{"coordination.k8s.io", "leases", "", "orders", "", ""},
		// In its own: no Secret, so neither the keyring nor another's token.
		{"", "secrets", "", "sealward", "", ""},
		{"", "secrets", "", "sealward", "sealward-keyring", ""},
		{rbac, "roles", "", "sealward", "", ""},
		{rbac, "rolebindings", "", "sealward", "", ""},
		{"", "pods", "", "sealward", "", ""},
		{"", "configmaps", "", "sealward", "", ""},
		{"apps", "statefulsets", "", "sealward", "", ""},
		{"coordination.k8s.io", "leases", "", "sealward", "", "create"},
		{"coordination.k8s.io", "leases", "", "sealward", "sealward", "get create update"},
		{"coordination.k8s.io", "leases", "", "sealward", "another", "create"},
		{"sealward.dev", "sealedrepositories", "", "sealward", "", "list watch create patch"},
		{"sealward.dev", "sealedrepositories", "status", "sealward", "", "patch"},
		{"events.k8s.io", "events", "", "sealward", "", "create patch"},
		// Elsewhere, and in the whole cluster.
		{"", "secrets", "", "shop", "", ""},
		{"", "secrets", "", "kube-system", "", ""},
		{"", "secrets", "", "", "", ""},
		{rbac, "roles", "", "shop", "", ""},
		{rbac, "clusterroles", "", "", "", ""},
		{rbac, "clusterrolebindings", "", "", "", ""},
		{"", "namespaces", "", "", "", ""},
		{"", "nodes", "", "", "", ""},
		{"", "users", "", "", "", ""},
		{"authentication.k8s.io", "tokenreviews", "", "", "", "create"},
		{"authorization.k8s.io", "subjectaccessreviews", "", "", "", ""},
		{"apiextensions.k8s.io", "customresourcedefinitions", "", "", "", ""},
		{"*", "*", "", "", "", ""},
	}
	// RBAC takes a moment to see what was applied.
	for _, c := range table {
		for verb := range strings.FieldsSeq(c.may) {
			sees(verb, c.group, c.resource, c.sub, c.namespace, c.name)
		}
	}
	for _, c := range table {
		var may []string
		for _, verb := range all {
			if can(verb, c.group, c.resource, c.sub, c.namespace, c.name) {
				may = append(may, verb)
			}
		}
		if got := strings.Join(may, " "); got != c.may {
			t.Errorf("%s %s/%s %s in %q: the agent may %q, want %q", c.group, c.resource, c.sub, c.name, c.namespace, got, c.may)
		}
	}

	// What it holds it may pass on, and nothing else: so no escalate and no bind.
	role := func(name string, rule rbacv1.PolicyRule) error {
		_, err := agent.RbacV1().Roles("orders").Create(t.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: []rbacv1.PolicyRule{rule}}, metav1.CreateOptions{})
		return err
	}
	bind := func(name, kind, to string) error {
		_, err := agent.RbacV1().RoleBindings("orders").Create(t.Context(), &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name},
			RoleRef: rbacv1.RoleRef{APIGroup: rbac, Kind: kind, Name: to}, Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "orders", Name: "shop"}}}, metav1.CreateOptions{})
		return err
	}
	if err := role("reader", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get"}, ResourceNames: []string{"db"}}); err != nil {
		t.Errorf("a Role to get one Secret: %v", err)
	}
	if err := bind("reader", "Role", "reader"); err != nil {
		t.Errorf("its binding: %v", err)
	}
	for what, err := range map[string]error{
		"to exec into pods":    role("exec", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods/exec"}, Verbs: []string{"create"}}),
		"to read ConfigMaps":   role("config", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"get"}}),
		"everything":           role("all", rbacv1.PolicyRule{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"*"}}),
		"cluster-admin, bound": bind("admin", "ClusterRole", "cluster-admin"),
		"its own rights in shop": func() error {
			_, err := agent.RbacV1().Roles("shop").Create(t.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, metav1.CreateOptions{})
			return err
		}(),
	} {
		if !apierrors.IsForbidden(err) {
			t.Errorf("a Role %s: %v", what, err)
		}
	}
}

func statefulSet(t *testing.T, built string) *appsv1.StatefulSet {
	t.Helper()
	for text := range strings.SplitSeq(built, "\n---\n") {
		var set appsv1.StatefulSet
		if strings.Contains(text, "kind: StatefulSet\n") {
			if err := yaml.UnmarshalStrict([]byte(text), &set); err != nil {
				t.Fatal(err)
			}
			return &set
		}
	}
	t.Fatal("there is no StatefulSet")
	return nil
}

// kubeconfig is of somebody who may do everything.
func kubeconfig(t *testing.T) string {
	t.Helper()
	return kubetest.Kubeconfig(t, cluster.Admin)
}

// Each agent.yaml that is shipped is one that the agent takes, and the block that the
// example has commented out shows the defaults.
func TestClusterSettings(t *testing.T) {
	for _, file := range []string{"cluster/base/agent.yaml", "cluster/overlays/dev/agent.yaml", "cluster/overlays/prod/agent.yaml"} {
		s, err := gitops.ParseSettings(readFile(t, file), "/")
		if err == nil {
			err = s.Check(true)
		}
		if err == nil && s.Webhook.SecretFile == "" { // it is read at the start
			err = s.Check(false)
		}
		if err != nil || s.Kubernetes == nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	_, block, ok := strings.Cut(string(readFile(t, "agent.yaml")), "\n# kubernetes:  ")
	if !ok {
		t.Fatal("agent.yaml has no kubernetes block")
	}
	block = regexp.MustCompile(`(?m)^# ?`).ReplaceAllString("kubernetes:  "+block, "")
	head := "source: {url: x}\nkeyring: k\nstate: s\nserve: {tokensFile: t}\n"
	shown, err := gitops.ParseSettings([]byte(head+block), "/")
	if err != nil {
		t.Fatalf("%v\n%s", err, block)
	}
	defaults, err := gitops.ParseSettings([]byte(head+"kubernetes: {project: {workspaces: [orders, instance], namespaces: {orders: shop}}}\n"), "/")
	if err != nil {
		t.Fatal(err)
	}
	given := *shown.Kubernetes
	if err := errors.Join(shown.Check(false), defaults.Check(false)); err != nil {
		t.Fatal(err)
	}
	want := *defaults.Kubernetes
	if g := given.Project.PruneGuard; given.Repository != want.Repository || given.Lease != want.Lease || given.Project.Permissions != want.Project.Permissions ||
		given.Project.Inexpressible != want.Project.Inexpressible || given.Project.Immutable != want.Project.Immutable || *g.Percent != 25 || *g.Count != 20 {
		t.Errorf("agent.yaml shows other defaults: %+v, %+v", given, want)
	}
}

// The image, which nothing builds here, runs as the user of the manifests, and a release
// sets in it what it sets in its binaries.
func TestImage(t *testing.T) {
	text, release := string(readFile(t, "../Dockerfile")), string(readFile(t, "../.goreleaser.yaml"))
	pod := statefulSet(t, string(readFile(t, "cluster/base/statefulset.yaml"))).Spec.Template.Spec
	if user := fmt.Sprintf("\nUSER %d:%d\n", *pod.SecurityContext.RunAsUser, *pod.SecurityContext.RunAsGroup); !strings.Contains(text, user) {
		t.Errorf("the Dockerfile lacks %q", user)
	}
	for _, set := range []string{"main.version=", "main.commit=", "main.date="} {
		if !strings.Contains(text, set) || !strings.Contains(release, set) {
			t.Errorf("%s is not set by both", set)
		}
	}
	if !strings.Contains(text, "CGO_ENABLED=0") || !strings.Contains(text, "AS release\n") || !strings.Contains(release, "--target=release") || strings.Count(text, "\nFROM scratch AS base\n") != 1 {
		t.Error("the image is not a static binary from scratch")
	}
}
