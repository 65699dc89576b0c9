package kubernetes_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sealward/sealward/plugins/kubernetes"
	"github.com/sealward/sealward/plugins/kubernetes/kubetest"
)

// everywhere lets an engine write in every namespace.
func everywhere(c *kubernetes.EngineConfig) { c.Client = cluster.Client }

// Each reason has something that people can do.
func TestRemedies(t *testing.T) {
	seen := map[string]kubernetes.Reason{}
	for _, r := range []kubernetes.Reason{kubernetes.Inexpressible, kubernetes.PolicyBroken, kubernetes.Contested, kubernetes.Collision, kubernetes.NoTarget, kubernetes.TooLarge,
		kubernetes.InvalidData, kubernetes.NotOurs, kubernetes.NamespaceMissing, kubernetes.NamespaceTerminating, kubernetes.Forbidden, kubernetes.QuotaExceeded, kubernetes.DeniedByWebhook,
		kubernetes.Conflict, kubernetes.Throttled, kubernetes.Unavailable, kubernetes.PruneHeld, kubernetes.OtherReason} {
		if other, ok := seen[r.Remedy()]; r.Remedy() == "" || ok {
			t.Errorf("%s has the remedy %q, as %q has", r, r.Remedy(), other)
		}
		seen[r.Remedy()] = r
	}
}

// A namespace that is not there, or going, stops nobody else.
func TestNamespaceMissing(t *testing.T) {
	t.Parallel()
	p := newProjector(t, everywhere)
	absent := fmt.Sprintf("absent-%d", time.Now().UnixNano())
	p.Apply(plan(p.ns, append(secrets(absent, 40), secret(p.ns, "db", "password", "x"))...))
	problem := p.problem(kubernetes.NamespaceMissing)
	if problem.Key != (kubernetes.Key{Namespace: absent}) || problem.Next.IsZero() {
		t.Errorf("the problem is %+v", problem)
	}
	until(t, "the other namespace stands", func() bool { return p.Report().Ready[kubernetes.KindSecret] == 1 })
	if r := p.Report(); len(r.Problems) != 1 {
		t.Errorf("one namespace makes the problems %+v", r.Problems)
	}
	if _, err := cluster.Client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: absent}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	p.stands(41)
	if err := cluster.Client.CoreV1().Namespaces().Delete(t.Context(), absent, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Client.CoreV1().Secrets(absent).Delete(t.Context(), "s-00", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if problem := p.problem(kubernetes.NamespaceTerminating); problem.Key != (kubernetes.Key{Namespace: absent}) {
		t.Errorf("the problem is %+v", problem)
	}
	p.Apply(plan(p.ns, secret(p.ns, "db", "password", "y")))
	p.stands(1)
}

// A namespace without the agent's Role is told, and comes by itself when it has one.
func TestNamespaceForbidden(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	closed := p.c.Namespace(t, "closed")
	p.Apply(plan(p.ns, append(secrets(closed, 3), secret(p.ns, "db", "password", "x"))...))
	// Three watches fail, one after the other.
	until(t, "one problem tells of all three", func() bool {
		problem := p.problem(kubernetes.Forbidden)
		return problem.Key == (kubernetes.Key{Namespace: closed}) && strings.Contains(problem.Message, "may not watch secrets") && strings.Contains(problem.Message, "rolebindings")
	})
	until(t, "the other namespace stands", func() bool { r := p.Report(); return r.Ready[kubernetes.KindSecret] == 1 && r.Pending == 0 })
	allow(t, closed, p.account)
	p.stands(4)
	if log := p.log.String(); strings.Count(log, "something does not stand") != 1 || strings.Count(log, "a problem in the cluster has ended") != 1 {
		t.Errorf("the log is\n%s", log)
	}
}

// What a Role lacks is named, and stops only what needs it.
func TestRoleThatLacksAVerb(t *testing.T) {
	t.Parallel()
	p := stoppedProjector(t, kubetest.Need(t, cluster).Namespace(t, "orders"))
	roles := cluster.Client.RbacV1().Roles(p.ns)
	full, err := roles.Get(t.Context(), "agent-"+p.account, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	lacking := full.DeepCopy()
	lacking.Rules[1].Verbs = []string{"get", "list", "watch", "patch", "delete"}
	if lacking, err = roles.Update(t.Context(), lacking, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	p.refuses("create")
	p.start()
	p.Apply(plan(p.ns, secret(p.ns, "db", "password", "x"), role(p.ns, "readers", "db")))
	problem := p.problem(kubernetes.Forbidden)
	if problem.Key != (kubernetes.Key{Namespace: p.ns}) || !strings.Contains(problem.Message, "may not create roles in namespace "+p.ns) {
		t.Errorf("the problem is %+v", problem)
	}
	until(t, "the Secret stands", func() bool { return p.Report().Ready[kubernetes.KindSecret] == 1 })
	lacking.Rules = full.Rules
	if _, err := roles.Update(t.Context(), lacking, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	p.stands(2)
	// A right that the agent does not hold it cannot give.
	wide := role(p.ns, "wide")
	wide.Role.Rules = []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get"}, ResourceNames: []string{"db"}}}
	p.Apply(plan(p.ns, secret(p.ns, "db", "password", "x"), wide))
	if problem := p.problem(kubernetes.Forbidden); problem.Key.Name != "wide" || !strings.Contains(problem.Message, "does not hold the rights") {
		t.Errorf("the problem is %+v", problem)
	}
}

func TestQuota(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	hard := corev1.ResourceList{"count/secrets": resource.MustParse("2")}
	q, err := cluster.Client.CoreV1().ResourceQuotas(p.ns).Create(t.Context(), &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "few"}, Spec: corev1.ResourceQuotaSpec{Hard: hard}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// The controller that would do so does not run here.
	q.Status = corev1.ResourceQuotaStatus{Hard: hard, Used: corev1.ResourceList{"count/secrets": resource.MustParse("0")}}
	if _, err = cluster.Client.CoreV1().ResourceQuotas(p.ns).UpdateStatus(t.Context(), q, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	p.Apply(plan(p.ns, append(secrets(p.ns, 4), role(p.ns, "readers", "s-00", "s-01", "s-02", "s-03"))...))
	problem := p.problem(kubernetes.QuotaExceeded)
	if !strings.Contains(problem.Message, "quota few") || problem.Key.Name == "" || problem.Next.IsZero() {
		t.Errorf("the problem is %+v", problem)
	}
	until(t, "what the quota allows stands", func() bool {
		r := p.Report()
		return r.Ready[kubernetes.KindSecret] == 2 && r.Ready[kubernetes.KindRole] == 1
	})
	if err := cluster.Client.CoreV1().ResourceQuotas(p.ns).Delete(t.Context(), "few", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	p.stands(5)
	p.hides("correct horse")
}

// What Kubernetes refuses as it is.
func TestRefusedByKubernetes(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	large := secret(p.ns, "large", "password", strings.Repeat("correct horse ", 1<<20/14+100))
	docker := secret(p.ns, "docker", ".dockerconfigjson", `{"auths": correct horse`)
	docker.Secret.Type = corev1.SecretTypeDockerConfigJson
	label := secret(p.ns, "label", "password", "battery staple")
	label.Secret.Labels["note"] = "battery staple, and more"
	p.Apply(plan(p.ns, large, docker, label, secret(p.ns, "db", "password", "x"), secret(p.ns, "Upper_Case", "password", "x")))
	until(t, "one stands and four have problems", func() bool { r := p.Report(); return r.Ready[kubernetes.KindSecret] == 1 && len(r.Problems) == 4 })
	want := map[string]kubernetes.Reason{"large": kubernetes.TooLarge, "docker": kubernetes.InvalidData, "label": kubernetes.InvalidData, "Upper_Case": kubernetes.InvalidData}
	for _, problem := range p.Report().Problems {
		if problem.Reason != want[problem.Key.Name] {
			t.Errorf("%s: %+v", problem.Key.Name, problem)
		}
	}
	p.hides("correct horse", "battery staple")
}

// webhook serves one admission webhook, for Secrets of one namespace.
func webhook(t *testing.T, ns string, mutating bool, answer func(*corev1.Secret) *admissionv1.AdmissionResponse) {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review admissionv1.AdmissionReview
		var s corev1.Secret
		if json.NewDecoder(io.LimitReader(r.Body, 8<<20)).Decode(&review) != nil || json.Unmarshal(review.Request.Object.Raw, &s) != nil {
			http.Error(w, "what is this", http.StatusBadRequest)
			return
		}
		review.Response = answer(&s)
		review.Response.UID = review.Request.UID
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(review)
	}))
	t.Cleanup(server.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	name := "check." + ns + ".example.com"
	config := admissionregistrationv1.WebhookClientConfig{URL: ptr(server.URL), CABundle: ca}
	rules := []admissionregistrationv1.RuleWithOperations{{Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create, admissionregistrationv1.Update},
		Rule: admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"secrets"}}}}
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": ns}}
	api := cluster.Client.AdmissionregistrationV1()
	var err error
	if mutating {
		_, err = api.MutatingWebhookConfigurations().Create(t.Context(), &admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: ns},
			Webhooks: []admissionregistrationv1.MutatingWebhook{{Name: name, ClientConfig: config, Rules: rules, NamespaceSelector: selector,
				SideEffects: ptr(admissionregistrationv1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"}}}}, metav1.CreateOptions{})
		t.Cleanup(func() {
			_ = api.MutatingWebhookConfigurations().Delete(context.Background(), ns, metav1.DeleteOptions{})
		})
	} else {
		_, err = api.ValidatingWebhookConfigurations().Create(t.Context(), &admissionregistrationv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: ns},
			Webhooks: []admissionregistrationv1.ValidatingWebhook{{Name: name, ClientConfig: config, Rules: rules, NamespaceSelector: selector,
				SideEffects: ptr(admissionregistrationv1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"}}}}, metav1.CreateOptions{})
		t.Cleanup(func() {
			_ = api.ValidatingWebhookConfigurations().Delete(context.Background(), ns, metav1.DeleteOptions{})
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	// The API server takes some time to know of it.
	until(t, "the webhook is asked", func() bool {
		asked := false
		_, err := cluster.Client.CoreV1().Secrets(ns).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{GenerateName: "probe-", Labels: map[string]string{"probe": "yes"}}}, metav1.CreateOptions{DryRun: []string{"All"}})
		if mutating {
			s, err := cluster.Client.CoreV1().Secrets(ns).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{GenerateName: "probe-", Labels: map[string]string{"probe": "yes"}}}, metav1.CreateOptions{DryRun: []string{"All"}})
			return err == nil && s.Annotations["asked"] == "yes"
		}
		asked = err != nil && strings.Contains(err.Error(), name)
		return asked
	})
}

func deny(message string) *admissionv1.AdmissionResponse {
	return &admissionv1.AdmissionResponse{Result: &metav1.Status{Message: message, Code: http.StatusForbidden}}
}

// A webhook gets every value to see. Whatever it says of one, in whatever form, is not
// passed on; what it says that helps is.
func TestWebhookThatTells(t *testing.T) {
	t.Parallel()
	const value = `hunter2 "quoted" line`
	const long = "postgres-admin:0123456789abcdef@db.internal"
	p := newProjector(t)
	denied := map[string]struct {
		data string
		says func(string) string
	}{
		"raw":       {value, func(v string) string { return "password is " + v }},
		"base64":    {value, func(v string) string { return "password is " + base64.StdEncoding.EncodeToString([]byte(v)) }},
		"base64url": {value, func(v string) string { return "password is " + base64.RawURLEncoding.EncodeToString([]byte(v)) }},
		"whole": {value, func(v string) string {
			return base64.StdEncoding.EncodeToString([]byte(`{"data":{"pass":"` + v + `"}}`))
		}},
		"json":        {value, func(v string) string { b, _ := json.Marshal(v); return "password is " + string(b) }},
		"quoted":      {value, func(v string) string { return "password is " + strconv.Quote(v) }},
		"url":         {value, func(v string) string { return "password is " + url.QueryEscape(v) }},
		"hex":         {value, func(v string) string { return "password is " + hex.EncodeToString([]byte(v)) }},
		"bytes":       {value, func(v string) string { return fmt.Sprintf("password is %v", []byte(v)) }},
		"upper":       {value, func(v string) string { return "PASSWORD IS " + strings.ToUpper(v) }},
		"cut":         {long, func(v string) string { return "password begins with " + v[:12] + "…" }},
		"middle":      {long, func(v string) string { return "password has " + v[20:30] }},
		"one-letter":  {"7", func(v string) string { return "password is " + v }},
		"two-letters": {"ab", func(v string) string { return "password is " + v }},
		"lines":       {"first line\nsecond line of it", func(v string) string { return "password is\n" + v }},
		"anothers":    {"-", func(string) string { return "the other password is s3cr3t-of-another" }},
		"anothers-7":  {"-", func(string) string { return "the other pin is x9" }},
		"far":         {value, func(v string) string { return strings.Repeat("a long story, ", 50) + v }},
		"reason":      {value, func(v string) string { return "" }},
	}
	webhook(t, p.ns, false, func(s *corev1.Secret) *admissionv1.AdmissionResponse {
		if s.Labels["probe"] != "" {
			return deny("probe")
		}
		if d, ok := denied[s.Name]; ok {
			if s.Name == "reason" {
				return &admissionv1.AdmissionResponse{Warnings: []string{"password " + value}, Result: &metav1.Status{Reason: metav1.StatusReason("password " + value),
					Details: &metav1.StatusDetails{Name: value, Kind: value, Causes: []metav1.StatusCause{{Type: metav1.CauseType(value), Message: value, Field: value}}}}}
			}
			return deny(d.says(string(s.Data["password"])))
		}
		if s.Name == "helpful" {
			return deny("the label team must be there")
		}
		return &admissionv1.AdmissionResponse{Allowed: true}
	})
	objects := []*kubernetes.Object{secret(p.ns, "helpful", "password", "Zq4!kkkk"), secret(p.ns, "fine", "password", "s3cr3t-of-another", "pin", "x9")}
	for name, d := range denied {
		objects = append(objects, secret(p.ns, name, "password", d.data))
	}
	p.Apply(plan(p.ns, objects...))
	until(t, "all but one are denied", func() bool {
		r := p.Report()
		return r.Ready[kubernetes.KindSecret] == 1 && len(r.Problems) == len(denied)+1
	})
	for _, problem := range p.Report().Problems {
		name := problem.Key.Name
		if problem.Reason != kubernetes.DeniedByWebhook || !strings.Contains(problem.Message, "check."+p.ns+".example.com") {
			t.Errorf("%s: %+v", name, problem)
		}
		if name == "helpful" {
			if !strings.HasSuffix(problem.Message, ": the label team must be there") {
				t.Errorf("what helps is not passed on: %s", problem.Message)
			}
		} else if name != "far" && !strings.Contains(problem.Message, "withheld") {
			t.Errorf("%s: %s", name, problem.Message)
		}
	}
	p.hides(value, "hunter2", strings.ToUpper(value), long, long[:12], "s3cr3t-of-another", "second line", hex.EncodeToString([]byte(value)), "104 117 110")
}

// A policy of the API server can show values as well.
func TestPolicyThatTells(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	api := cluster.Client.AdmissionregistrationV1()
	_, err := api.ValidatingAdmissionPolicies().Create(t.Context(), &admissionregistrationv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: p.ns}, Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
		MatchConstraints: &admissionregistrationv1.MatchResources{ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{RuleWithOperations: admissionregistrationv1.RuleWithOperations{
			Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create}, Rule: admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"secrets"}}}}}},
		Validations: []admissionregistrationv1.Validation{
			{Expression: "!object.metadata.name.startsWith('denied')", MessageExpression: "'the password ' + string(object.data['password']) + ' is weak'"},
			{Expression: "!object.metadata.name.startsWith('named')", Message: "names must not begin like this"}},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = api.ValidatingAdmissionPolicyBindings().Create(t.Context(), &admissionregistrationv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: p.ns}, Spec: admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{
		PolicyName: p.ns, ValidationActions: []admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny},
		MatchResources: &admissionregistrationv1.MatchResources{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": p.ns}}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = api.ValidatingAdmissionPolicyBindings().Delete(context.Background(), p.ns, metav1.DeleteOptions{})
		_ = api.ValidatingAdmissionPolicies().Delete(context.Background(), p.ns, metav1.DeleteOptions{})
	})
	until(t, "the policy holds", func() bool {
		_, err := cluster.Client.CoreV1().Secrets(p.ns).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "named-probe"}}, metav1.CreateOptions{DryRun: []string{"All"}})
		return err != nil
	})
	p.Apply(plan(p.ns, secret(p.ns, "denied", "password", "correct horse"), secret(p.ns, "named", "password", "Zq4!kkkk"), secret(p.ns, "fine", "password", "x9")))
	until(t, "two are denied", func() bool { r := p.Report(); return r.Ready[kubernetes.KindSecret] == 1 && len(r.Problems) == 2 })
	for _, problem := range p.Report().Problems {
		if problem.Reason != kubernetes.DeniedByWebhook || !strings.Contains(problem.Message, "ValidatingAdmissionPolicy "+p.ns) {
			t.Errorf("the problem is %+v", problem)
		}
		if problem.Key.Name == "named" && !strings.HasSuffix(problem.Message, "names must not begin like this") {
			t.Errorf("what helps is not passed on: %s", problem.Message)
		}
	}
	p.hides("correct horse")
}

// A webhook that does not answer makes its own namespace slow, and nobody else.
func TestWebhookThatHangs(t *testing.T) {
	t.Parallel()
	c := kubetest.Need(t, cluster)
	p := newProjectorIn(t, c.Namespace(t, "orders"), func(c *kubernetes.EngineConfig) { c.Workers = 4 })
	slow := c.Namespace(t, "slow")
	allow(t, slow, p.account)
	var hangs atomic.Bool
	open := make(chan struct{})
	webhook(t, slow, false, func(s *corev1.Secret) *admissionv1.AdmissionResponse {
		if s.Labels["probe"] != "" {
			return deny("probe")
		}
		if hangs.Load() {
			select {
			case <-open:
			case <-time.After(20 * time.Second):
			}
		}
		return &admissionv1.AdmissionResponse{Allowed: true}
	})
	p.Apply(plan(p.ns, append(slices.Concat(secrets(slow, 1), secrets(p.ns, 1)), role(slow, "readers", "s-00"), binding(slow, "readers", "readers", "shop"), role(p.ns, "readers", "s-00"), binding(p.ns, "readers", "readers", "shop"))...))
	p.stands(6)
	hangs.Store(true)
	objects := append(slices.Concat(secrets(slow, 40), secrets(p.ns, 1)), role(slow, "readers", "s-00"), role(p.ns, "readers", "s-00"))
	began := time.Now()
	p.Apply(plan(p.ns, objects...))
	for _, ns := range []string{slow, p.ns} {
		until(t, "a right is taken away in "+ns, func() bool {
			_, err := cluster.Client.RbacV1().RoleBindings(ns).Get(t.Context(), "readers", metav1.GetOptions{})
			return apierrors.IsNotFound(err)
		})
	}
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("revocation took %s behind a webhook that hangs", took)
	}
	// Every worker hangs once; then the others' turn comes between.
	p.problem(kubernetes.Unavailable)
	p.Apply(plan(p.ns, append(objects, secrets(p.ns, 40)...)...))
	until(t, "the other namespace stands", func() bool { return left(t, p.ns) == 40 })
	close(open)
	hangs.Store(false)
	p.stands(82)
}

// Who cannot ask its webhook denies everything.
func TestWebhookThatIsGone(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	gone := httptest.NewTLSServer(nil)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: gone.Certificate().Raw})
	gone.Close()
	api := cluster.Client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	_, err := api.Create(t.Context(), &admissionregistrationv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: p.ns}, Webhooks: []admissionregistrationv1.ValidatingWebhook{{
		Name: "gone." + p.ns + ".example.com", ClientConfig: admissionregistrationv1.WebhookClientConfig{URL: ptr(gone.URL), CABundle: ca},
		Rules: []admissionregistrationv1.RuleWithOperations{{Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.OperationAll},
			Rule: admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"secrets"}}}},
		NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": p.ns}},
		SideEffects:       ptr(admissionregistrationv1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = api.Delete(context.Background(), p.ns, metav1.DeleteOptions{}) })
	until(t, "the webhook is missed", func() bool {
		_, err := cluster.Client.CoreV1().Secrets(p.ns).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "probe"}}, metav1.CreateOptions{DryRun: []string{"All"}})
		return err != nil
	})
	p.Apply(plan(p.ns, secret(p.ns, "db", "password", "correct horse"), role(p.ns, "readers", "db")))
	if problem := p.problem(kubernetes.DeniedByWebhook); !strings.Contains(problem.Message, "cannot be asked") || problem.Key.Name != "db" {
		t.Errorf("the problem is %+v", problem)
	}
	if err := api.Delete(t.Context(), p.ns, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	p.stands(2)
	p.hides("correct horse")
}

// A webhook that adds something is put up with; one that changes values is told of.
func TestWebhookThatChanges(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	var n atomic.Int32
	webhook(t, p.ns, true, func(s *corev1.Secret) *admissionv1.AdmissionResponse {
		patch := `[{"op":"add","path":"/metadata/annotations","value":{"asked":"yes"}}]`
		switch {
		case s.Name == "labelled":
			n.Add(1)
			patch = `[{"op":"add","path":"/metadata/labels/cost-center","value":"42"}]`
		case s.Name == "changed":
			n.Add(1)
			patch = `[{"op":"add","path":"/data/password","value":"b3RoZXI="}]`
		case s.Labels["probe"] == "":
			patch = `[]`
		}
		return &admissionv1.AdmissionResponse{Allowed: true, Patch: []byte(patch), PatchType: ptr(admissionv1.PatchTypeJSONPatch)}
	})
	p.Apply(plan(p.ns, secret(p.ns, "labelled", "password", "one")))
	p.stands(1)
	p.Apply(plan(p.ns, secret(p.ns, "labelled", "password", "two")))
	p.stands(1)
	if s := get(t, p.ns, "labelled"); s.Labels["cost-center"] != "42" || values(s) != "password=two" {
		t.Errorf("the Secret is %v %s", s.Labels, values(s))
	}
	if n.Load() > 4 {
		t.Errorf("a label that a webhook adds cost %d writes", n.Load())
	}
	p.Apply(plan(p.ns, secret(p.ns, "labelled", "password", "two"), secret(p.ns, "changed", "password", "correct horse"), secret(p.ns, "fine", "password", "x")))
	problem := p.problem(kubernetes.Conflict)
	if problem.Key.Name != "changed" || !strings.Contains(problem.Message, "webhook") || problem.Next.IsZero() {
		t.Errorf("the problem is %+v", problem)
	}
	until(t, "the others stand", func() bool { return p.Report().Ready[kubernetes.KindSecret] == 2 })
	p.hides("correct horse")
}

// When the API server asks to wait, everything waits as long as it asks.
func TestThrottled(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	var throttled atomic.Int32
	p.calls.answer(func(r *http.Request) *http.Response {
		if r.Method != http.MethodPost || throttled.Add(1) > 1 {
			return nil
		}
		body := `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"correct horse","reason":"TooManyRequests","details":{"retryAfterSeconds":2},"code":429}`
		return &http.Response{StatusCode: http.StatusTooManyRequests, Header: http.Header{"Content-Type": {"application/json"}, "Retry-After": {"2"}}, Body: io.NopCloser(strings.NewReader(body)), Request: r}
	})
	began := time.Now()
	p.Apply(plan(p.ns, secret(p.ns, "db", "password", "correct horse")))
	problem := p.problem(kubernetes.Throttled)
	if problem.Key != (kubernetes.Key{}) || problem.Next.IsZero() {
		t.Errorf("the problem is %+v", problem)
	}
	p.stands(1)
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("it was tried again after %s", took)
	}
	p.hides("correct horse")
}

// What goes wrong in the API server, or between it and the agent, may hold what was sent
// to it. It stops one object, for a while.
func TestServerThatFails(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	answers := map[string]func() *http.Response{
		"text": func() *http.Response { return response(500, "text/plain", "panic: password is correct horse") },
		"html": func() *http.Response { return response(502, "text/html", "<p>correct horse</p>") },
		"status": func() *http.Response {
			return response(503, "application/json", `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"etcd: correct horse","reason":"ServiceUnavailable","code":503}`)
		},
		"garbage": func() *http.Response { return response(200, "application/json", `{"correct horse`) },
		"another": func() *http.Response {
			return response(201, "application/json", `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"correct horse"}}`)
		},
		"teapot": func() *http.Response {
			return response(418, "application/json", `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"correct horse","reason":"correct horse","code":418}`)
		},
	}
	var fine atomic.Bool
	p.calls.answer(func(r *http.Request) *http.Response {
		if fine.Load() || r.Method != http.MethodPost {
			return nil
		}
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		for name, answer := range answers {
			if bytes.Contains(body, []byte("secrets/"+name+".yaml")) {
				return answer()
			}
		}
		return nil
	})
	var objects []*kubernetes.Object
	for name := range answers {
		objects = append(objects, secret(p.ns, name, "password", "correct horse"))
	}
	p.Apply(plan(p.ns, append(objects, secret(p.ns, "fine", "password", "correct horse"))...))
	until(t, "one stands and the others have problems", func() bool {
		r := p.Report()
		return r.Ready[kubernetes.KindSecret] == 1 && len(r.Problems) == len(answers)
	})
	want := map[string]kubernetes.Reason{"text": kubernetes.Unavailable, "html": kubernetes.Unavailable, "status": kubernetes.Unavailable, "garbage": kubernetes.OtherReason, "another": kubernetes.OtherReason, "teapot": kubernetes.OtherReason}
	for _, problem := range p.Report().Problems {
		if problem.Reason != want[problem.Key.Name] || problem.Next.IsZero() {
			t.Errorf("%s: %+v", problem.Key.Name, problem)
		}
	}
	p.hides("correct horse")
	fine.Store(true)
	p.stands(len(answers) + 1)
	p.hides("correct horse")
}

func response(code int, kind, body string) *http.Response {
	return &http.Response{StatusCode: code, Header: http.Header{"Content-Type": {kind}}, Body: io.NopCloser(strings.NewReader(body))}
}

// Many problems of one kind are not told one by one.
func TestManyProblems(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	for i := range 30 {
		foreign(t, p.ns, fmt.Sprintf("s-%02d", i), nil)
	}
	p.Apply(plan(p.ns, secrets(p.ns, 30)...))
	until(t, "all have a problem", func() bool { return len(p.Report().Problems) == 30 })
	if log := p.log.String(); strings.Count(log, "something does not stand in the cluster as it should") != 20 || strings.Count(log, "there is more of this that is not logged one by one") != 1 {
		t.Errorf("the log is\n%s", log)
	}
	first := p.Report()
	for i, problem := range first.Problems {
		if want := fmt.Sprintf("s-%02d", i); problem.Key.Name != want {
			t.Errorf("problem %d is of %s", i, problem.Key.Name)
		}
	}
	p.Apply(plan(p.ns))
	p.stands(0)
}

// Problems of the plan itself are told as those of the cluster, once.
func TestProblemsOfThePlan(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	with := plan(p.ns)
	with.Problems = []kubernetes.Problem{{Origin: origin("db"), Reason: kubernetes.Inexpressible, Message: "a deny grant is about it"}}
	p.Apply(with)
	first := p.problem(kubernetes.Inexpressible)
	if first.Since.IsZero() || first.Origin.Secret.String() != "db" {
		t.Errorf("the problem is %+v", first)
	}
	again := plan(p.ns, secret(p.ns, "web", "password", "x"))
	again.Problems = with.Problems
	p.Apply(again)
	until(t, "the Secret stands", func() bool { return p.Report().Ready[kubernetes.KindSecret] == 1 })
	if got := p.problem(kubernetes.Inexpressible); got.Since != first.Since {
		t.Errorf("the problem began anew: %+v", got)
	}
	p.Apply(plan(p.ns))
	p.stands(0)
	if log := p.log.String(); strings.Count(log, "something does not stand in the cluster as it should") != 1 || strings.Count(log, "a deny grant is about it") != 2 {
		t.Errorf("the log is\n%s", log)
	}
}
