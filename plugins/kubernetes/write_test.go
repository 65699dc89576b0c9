package kubernetes_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sealward/sealward/plugins/kubernetes"
)

// patch changes an object as somebody else.
func patch(t testing.TB, ns, name, merge string) {
	t.Helper()
	if _, err := cluster.Client.CoreV1().Secrets(ns).Patch(t.Context(), name, types.MergePatchType, []byte(merge), metav1.PatchOptions{FieldManager: "reloader"}); err != nil {
		t.Fatal(err)
	}
}

// foreign makes a Secret that sealward did not make.
func foreign(t testing.TB, ns, name string, change func(*corev1.Secret)) *corev1.Secret {
	t.Helper()
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"team": "dana"}}, Data: map[string][]byte{"theirs": []byte("their own value")}}
	if change != nil {
		change(s)
	}
	s, err := cluster.Client.CoreV1().Secrets(ns).Create(t.Context(), s, metav1.CreateOptions{FieldManager: "dana"})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func values(s *corev1.Secret) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(s.Data)) {
		fmt.Fprintf(&b, "%s=%s ", k, s.Data[k])
	}
	return strings.TrimSpace(b.String())
}

// What an earlier plan wrote and this one does not goes, and so does what somebody
// added to our data. What others put beside it stays.
func TestWhatIsDroppedGoes(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	first := secret(p.ns, "db", "user", "orders", "password", "correct horse")
	first.Secret.Labels["tier"], first.Secret.Annotations["note"] = "gold", "old"
	p.Apply(plan(p.ns, first))
	p.stands(1)
	patch(t, p.ns, "db", `{"metadata":{"labels":{"reloader":"yes"},"annotations":{"reloaded":"today"}},"data":{"extra":"ZXh0cmE="}}`)
	until(t, "the extra key goes", func() bool { return values(get(t, p.ns, "db")) == "password=correct horse user=orders" })

	for round, data := range [][]string{{"password", "battery staple"}, {"password", "battery staple", "more", "and"}, {"more", "and"}} {
		next := secret(p.ns, "db", data...)
		want := values(next.Secret)
		p.Apply(plan(p.ns, next))
		p.stands(1)
		s := get(t, p.ns, "db")
		if values(s) != want {
			t.Errorf("round %d: the data is %s, want %s", round, values(s), want)
		}
		if s.Labels["tier"] != "" || s.Annotations["note"] != "" {
			t.Errorf("round %d: what was dropped is still there: %v %v", round, s.Labels, s.Annotations)
		}
		if s.Labels["reloader"] != "yes" || s.Annotations["reloaded"] != "today" {
			t.Errorf("round %d: what others wrote is gone: %v %v", round, s.Labels, s.Annotations)
		}
		if !slices.ContainsFunc(s.ManagedFields, func(m metav1.ManagedFieldsEntry) bool {
			return m.Manager == kubernetes.FieldManager && m.Operation == metav1.ManagedFieldsOperationApply
		}) {
			t.Errorf("round %d: nothing was applied: %v", round, s.ManagedFields)
		}
	}
	p.hides("correct horse", "battery staple")
}

// A change of what stands is one apply, and a patch where something is dropped.
func TestRequestsOfAChange(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	p.Apply(plan(p.ns, secret(p.ns, "db", "password", "one")))
	p.stands(1)
	for i, data := range [][]string{{"password", "two"}, {"password", "two", "more", "and"}, {"password", "two"}} {
		want := []string{"GET PATCH", "GET PATCH", "GET PATCH PATCH"}[i]
		p.calls.take()
		p.Apply(plan(p.ns, secret(p.ns, "db", data...)))
		p.stands(1)
		var methods []string
		for _, line := range p.calls.take() {
			methods = append(methods, strings.Fields(line)[0])
		}
		if got := strings.Join(methods, " "); got != want {
			t.Errorf("change %d: the requests are %s, want %s", i, got, want)
		}
	}
}

// Plans of the same content make no request at all, whoever made their objects.
func TestNothingToDoAsksNothing(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	objects := func() []*kubernetes.Object {
		r := role(p.ns, "readers", "s-0")
		r.Role.Rules = append(r.Role.Rules, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get"}, ResourceNames: []string{"s-2", "s-1"}})
		b := binding(p.ns, "readers", "readers", "shop")
		b.Binding.Subjects = append(b.Binding.Subjects, rbacv1.Subject{Kind: "Group", Name: "dev"}, rbacv1.Subject{Kind: "User", Name: "alice"})
		objects := []*kubernetes.Object{r, b}
		for i := range 30 {
			s := secret(p.ns, fmt.Sprint("s-", i), "password", "correct horse", "empty", "")
			if i%2 == 0 {
				s.Secret.Type, s.Secret.Immutable = "", ptr(true)
			}
			objects = append(objects, s)
		}
		return objects
	}
	p.Apply(plan(p.ns, objects()...))
	p.stands(32)
	p.calls.take()
	for range 5 {
		p.Apply(plan(p.ns, objects()...))
		p.stands(32)
	}
	if calls := p.calls.take(); len(calls) > 0 {
		t.Errorf("what stands already made requests: %q", calls)
	}
	// The same after a restart: lists and watches, and nothing else.
	p.stop()
	p.calls.take()
	p.start()
	p.stands(32)
	p.Apply(plan(p.ns, objects()...))
	p.stands(32)
	p.stop()
	for _, call := range p.calls.take() {
		if !strings.HasPrefix(call, "GET ") || !strings.Contains(call, "labelSelector=") {
			t.Errorf("a restart made a request: %s", call)
		}
	}
}

func ptr[T any](v T) *T { return &v }

func TestForeignSecretIsLeftAlone(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	before := foreign(t, p.ns, "db", nil)
	pl := plan(p.ns, secret(p.ns, "db", "password", "correct horse"), secret(p.ns, "web", "password", "x"))
	p.Apply(pl)
	problem := p.problem(kubernetes.NotOurs)
	if problem.Key.Name != "db" || problem.Origin.Secret.String() != "db" || problem.Next.IsZero() || !strings.Contains(problem.Reason.Remedy(), kubernetes.AdoptAnnotation) {
		t.Errorf("the problem is %+v", problem)
	}
	until(t, "the other Secret stands", func() bool { return get(t, p.ns, "web") != nil })
	p.calls.take()
	p.Apply(plan(p.ns, slices.Collect(maps.Values(pl.Objects))...))
	until(t, "the next plan has it tried at once", func() bool { return len(p.calls.take()) > 0 })
	if s := get(t, p.ns, "db"); s.ResourceVersion != before.ResourceVersion {
		t.Errorf("a foreign Secret was changed: %v", s.ManagedFields)
	}
	// Out of the plan it stays as well.
	p.Apply(plan(p.ns))
	p.stands(0)
	if s := get(t, p.ns, "db"); s == nil || s.ResourceVersion != before.ResourceVersion {
		t.Errorf("a foreign Secret was changed: %v", s)
	}
	if log := p.log.String(); strings.Count(log, "something does not stand in the cluster as it should") != 1 || strings.Count(log, "a problem in the cluster has ended") != 1 {
		t.Errorf("the log is\n%s", log)
	}
	p.hides("correct horse", "their own value")
}

// Another installation's Secret is as foreign as any.
func TestAnotherAgentsSecretIsLeftAlone(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	before := foreign(t, p.ns, "db", func(s *corev1.Secret) {
		s.Labels = map[string]string{kubernetes.ManagedBy: kubernetes.FieldManager, kubernetes.AgentLabel: "elsewhere", kubernetes.RepositoryLabel: "main"}
	})
	p.Apply(plan(p.ns, secret(p.ns, "db", "password", "x")))
	if problem := p.problem(kubernetes.NotOurs); !strings.Contains(problem.Message, "another namespace") {
		t.Errorf("the problem is %+v", problem)
	}
	if s := get(t, p.ns, "db"); s.ResourceVersion != before.ResourceVersion {
		t.Error("another agent's Secret was changed")
	}
}

// The annotation hands an object over, once: it is taken away, so that two agents do
// not hand one object to and fro.
func TestAdoption(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*corev1.Secret){
		"same type":    nil,
		"no labels":    func(s *corev1.Secret) { s.Labels = nil },
		"another type": func(s *corev1.Secret) { s.Type = "example.com/token" },
		"immutable":    func(s *corev1.Secret) { s.Immutable = ptr(true) },
		"another agent's": func(s *corev1.Secret) {
			s.Labels[kubernetes.ManagedBy], s.Labels[kubernetes.AgentLabel] = kubernetes.FieldManager, "elsewhere"
		},
		"nearly full": func(s *corev1.Secret) { s.Data["full"] = bytes.Repeat([]byte("x"), 1<<20-1000) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProjector(t)
			foreign(t, p.ns, "db", func(s *corev1.Secret) {
				if change != nil {
					change(s)
				}
				s.Annotations = map[string]string{kubernetes.AdoptAnnotation: "true"}
			})
			p.Apply(plan(p.ns, secret(p.ns, "db", "password", strings.Repeat("correct horse ", 1000))))
			p.stands(1)
			s := get(t, p.ns, "db")
			if len(s.Data) != 1 || !strings.HasPrefix(values(s), "password=correct horse") || s.Annotations[kubernetes.AdoptAnnotation] != "" || s.Labels[kubernetes.AgentLabel] != agentNamespace {
				t.Errorf("the adopted Secret has %d keys, %v %v", len(s.Data), s.Labels, s.Annotations)
			}
			if name == "same type" && s.Labels["team"] != "dana" {
				t.Errorf("others' labels are gone: %v", s.Labels)
			}
			p.Apply(plan(p.ns))
			until(t, "what was adopted is pruned", func() bool { return get(t, p.ns, "db") == nil })
		})
	}
}

// Only "true" adopts, and an annotation in a manifest does not ask for it.
func TestNoAdoptionByAccident(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	before := foreign(t, p.ns, "db", func(s *corev1.Secret) { s.Annotations = map[string]string{kubernetes.AdoptAnnotation: "false"} })
	planned := secret(p.ns, "web", "password", "x")
	planned.Secret.Annotations[kubernetes.AdoptAnnotation] = "true"
	p.Apply(plan(p.ns, secret(p.ns, "db", "password", "x"), planned))
	p.problem(kubernetes.NotOurs)
	if s := get(t, p.ns, "db"); s.ResourceVersion != before.ResourceVersion {
		t.Error("a foreign Secret was changed")
	}
	until(t, "the other stands", func() bool { return get(t, p.ns, "web") != nil })
	if s := get(t, p.ns, "web"); s.Annotations[kubernetes.AdoptAnnotation] != "" {
		t.Error("what we make asks to be adopted")
	}
}

// Permissions have owners too.
func TestForeignPermissions(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	roles, bindings := cluster.Client.RbacV1().Roles(p.ns), cluster.Client.RbacV1().RoleBindings(p.ns)
	adopt := map[string]string{kubernetes.AdoptAnnotation: "true"}
	for name, annotations := range map[string]map[string]string{"theirs": nil, "handed": adopt} {
		if _, err := roles.Create(t.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations}, Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get"}}}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := bindings.Create(t.Context(), &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "pods"}, Subjects: []rbacv1.Subject{{Kind: "User", Name: "dana"}}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	p.Apply(plan(p.ns, secret(p.ns, "db", "password", "x"), role(p.ns, "theirs", "db"), binding(p.ns, "theirs", "handed", "shop"), role(p.ns, "handed", "db"), binding(p.ns, "handed", "handed", "shop")))
	until(t, "two stand and two are not ours", func() bool {
		r := p.Report()
		return r.Ready[kubernetes.KindRole] == 1 && r.Ready[kubernetes.KindRoleBinding] == 1 && len(r.Problems) == 2 && r.Problems[1].Reason == kubernetes.NotOurs
	})
	for _, problem := range p.Report().Problems {
		if problem.Reason != kubernetes.NotOurs || problem.Key.Name != "theirs" || problem.Origin.Grant == "" {
			t.Errorf("the problem is %+v", problem)
		}
	}
	r, err := roles.Get(t.Context(), "theirs", metav1.GetOptions{})
	if err != nil || r.Rules[0].Resources[0] != "pods" {
		t.Errorf("a foreign Role was changed: %v %v", r, err)
	}
	r, err = roles.Get(t.Context(), "handed", metav1.GetOptions{})
	if err != nil || len(r.Rules) != 1 || r.Rules[0].ResourceNames[0] != "db" {
		t.Errorf("the adopted Role is %v %v", r, err)
	}
	b, err := bindings.Get(t.Context(), "handed", metav1.GetOptions{})
	if err != nil || b.RoleRef.Name != "handed" || len(b.Subjects) != 1 || b.Subjects[0].Name != "shop" {
		t.Errorf("the adopted RoleBinding is %v %v", b, err)
	}
}

// What Kubernetes does not let change is deleted and created.
func TestUnchangeableIsReplaced(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	frozen := secret(p.ns, "frozen", "password", "one")
	frozen.Secret.Immutable = ptr(true)
	p.Apply(plan(p.ns, secret(p.ns, "typed", "password", "one"), frozen, role(p.ns, "a", "typed"), role(p.ns, "b", "typed"), binding(p.ns, "readers", "a", "shop")))
	p.stands(5)
	was := map[string]types.UID{"typed": get(t, p.ns, "typed").UID, "frozen": get(t, p.ns, "frozen").UID}
	typed := secret(p.ns, "typed", "username", "u", "password", "two")
	typed.Secret.Type = corev1.SecretTypeBasicAuth
	p.Apply(plan(p.ns, typed, secret(p.ns, "frozen", "password", "two"), role(p.ns, "a", "typed"), role(p.ns, "b", "typed"), binding(p.ns, "readers", "b", "shop")))
	p.stands(5)
	for name, uid := range was {
		s := get(t, p.ns, name)
		if s.UID == uid || string(s.Data["password"]) != "two" {
			t.Errorf("%s was not replaced: %s", name, values(s))
		}
	}
	if s := get(t, p.ns, "typed"); s.Type != corev1.SecretTypeBasicAuth {
		t.Errorf("the type is %s", s.Type)
	}
	if s := get(t, p.ns, "frozen"); s.Immutable != nil && *s.Immutable {
		t.Error("it is still immutable")
	}
	b, err := cluster.Client.RbacV1().RoleBindings(p.ns).Get(t.Context(), "readers", metav1.GetOptions{})
	if err != nil || b.RoleRef.Name != "b" {
		t.Errorf("the binding is %v %v", b, err)
	}
	// An immutable Secret's labels may change.
	again := secret(p.ns, "frozen", "password", "two")
	again.Secret.Immutable = ptr(true)
	p.Apply(plan(p.ns, again))
	p.stands(1)
	uid := get(t, p.ns, "frozen").UID
	labelled := secret(p.ns, "frozen", "password", "two")
	labelled.Secret.Immutable, labelled.Secret.Labels["tier"] = ptr(true), "gold"
	p.Apply(plan(p.ns, labelled))
	p.stands(1)
	if s := get(t, p.ns, "frozen"); s.UID != uid || s.Labels["tier"] != "gold" {
		t.Errorf("a label cost a Secret its life: %v", s.Labels)
	}
}

// Whatever others do to what is ours is undone, as the watch tells it.
func TestDrift(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	p.Apply(plan(p.ns, secret(p.ns, "db", "password", "correct horse"), role(p.ns, "readers", "db"), binding(p.ns, "readers", "readers", "shop")))
	p.stands(3)
	secrets, roles, bindings := cluster.Client.CoreV1().Secrets(p.ns), cluster.Client.RbacV1().Roles(p.ns), cluster.Client.RbacV1().RoleBindings(p.ns)
	asPlanned := func(s *corev1.Secret) bool {
		return s != nil && values(s) == "password=correct horse" && s.Annotations[kubernetes.CommitAnnotation] == "c0ffee" && s.Labels[kubernetes.RepositoryLabel] == "main"
	}
	for name, change := range map[string]string{
		"value":             `{"data":{"password":"d3Jvbmc="}}`,
		"dropped value":     `{"data":{"password":null,"dropped":null}}`,
		"label":             `{"metadata":{"labels":{"sealward.dev/repository":"other"}}}`,
		"dropped label":     `{"metadata":{"labels":{"sealward.dev/repository":null}}}`,
		"annotation":        `{"metadata":{"annotations":{"sealward.dev/commit":"other"}}}`,
		"every annotation":  `{"metadata":{"annotations":null}}`,
		"field managers":    `{"metadata":{"managedFields":[{}]}}`,
		"adopt, once again": `{"metadata":{"annotations":{"sealward.dev/adopt":"true"}}}`,
	} {
		patch(t, p.ns, "db", change)
		until(t, "repair of a changed "+name, func() bool {
			s := get(t, p.ns, "db")
			return asPlanned(s) && s.Annotations[kubernetes.AdoptAnnotation] == "" && slices.ContainsFunc(s.ManagedFields, func(m metav1.ManagedFieldsEntry) bool { return m.Manager == kubernetes.FieldManager })
		})
		p.stands(3)
		// A quarrel would slow repairs down; another plan begins anew.
		p.Apply(plan(p.ns, secret(p.ns, "db", "password", "correct horse"), role(p.ns, "readers", "db"), binding(p.ns, "readers", "readers", "shop")))
		p.stands(3)
	}
	if err := secrets.Delete(t.Context(), "db", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, "a deleted Secret comes back", func() bool { return asPlanned(get(t, p.ns, "db")) })
	widen := `{"rules":[{"apiGroups":[""],"resources":["secrets"],"verbs":["get","list"]}]}`
	if _, err := roles.Patch(t.Context(), "readers", types.MergePatchType, []byte(widen), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, "a widened Role is narrowed", func() bool {
		r, err := roles.Get(t.Context(), "readers", metav1.GetOptions{})
		return err == nil && len(r.Rules) == 1 && slices.Equal(r.Rules[0].Verbs, []string{"get"}) && slices.Equal(r.Rules[0].ResourceNames, []string{"db"})
	})
	if _, err := bindings.Patch(t.Context(), "readers", types.MergePatchType, []byte(`{"subjects":[{"kind":"User","apiGroup":"rbac.authorization.k8s.io","name":"mallory"}]}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, "an added subject goes", func() bool {
		b, err := bindings.Get(t.Context(), "readers", metav1.GetOptions{})
		return err == nil && len(b.Subjects) == 1 && b.Subjects[0].Name == "shop"
	})
	p.stands(3)
	p.hides("correct horse")
}

// A right whose labels somebody takes away does not outlive its grant.
func TestDisownedRightsComeBack(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	roles, bindings := cluster.Client.RbacV1().Roles(p.ns), cluster.Client.RbacV1().RoleBindings(p.ns)
	db := secret(p.ns, "db", "password", "x")
	p.Apply(plan(p.ns, db, role(p.ns, "readers", "db"), binding(p.ns, "readers", "readers", "shop")))
	p.stands(3)
	for _, labels := range []string{"null", `{"sealward.dev/agent":null}`, `{"app.kubernetes.io/managed-by":null,"sealward.dev/agent":null}`} {
		for _, err := range []error{
			func() error {
				_, err := roles.Patch(t.Context(), "readers", types.MergePatchType, []byte(`{"metadata":{"labels":`+labels+`}}`), metav1.PatchOptions{})
				return err
			}(),
			func() error {
				_, err := bindings.Patch(t.Context(), "readers", types.MergePatchType, []byte(`{"metadata":{"labels":`+labels+`},"subjects":[{"kind":"User","apiGroup":"rbac.authorization.k8s.io","name":"mallory"}]}`), metav1.PatchOptions{})
				return err
			}(),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		until(t, "both are as they were", func() bool {
			r, err1 := roles.Get(t.Context(), "readers", metav1.GetOptions{})
			b, err2 := bindings.Get(t.Context(), "readers", metav1.GetOptions{})
			return err1 == nil && err2 == nil && r.Labels[kubernetes.AgentLabel] == agentNamespace && r.Labels[kubernetes.ManagedBy] == kubernetes.FieldManager &&
				b.Labels[kubernetes.AgentLabel] == agentNamespace && len(b.Subjects) == 1 && b.Subjects[0].Name == "shop"
		})
		p.stands(3)
	}
	// Another installation's are another's.
	if _, err := bindings.Patch(t.Context(), "readers", types.MergePatchType, []byte(`{"metadata":{"labels":{"sealward.dev/agent":"elsewhere"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	p.problem(kubernetes.NotOurs)
	if _, err := bindings.Patch(t.Context(), "readers", types.MergePatchType, []byte(`{"metadata":{"labels":{"sealward.dev/agent":null}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	p.Apply(plan(p.ns, db, role(p.ns, "readers", "db"), binding(p.ns, "readers", "readers", "shop")))
	p.stands(3)
	p.Apply(plan(p.ns, db))
	until(t, "both are gone", func() bool {
		_, err1 := roles.Get(t.Context(), "readers", metav1.GetOptions{})
		_, err2 := bindings.Get(t.Context(), "readers", metav1.GetOptions{})
		return apierrors.IsNotFound(err1) && apierrors.IsNotFound(err2)
	})
}

// What stands of others beside ours makes no work.
func TestOthersLabelsMakeNoWork(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	p.Apply(plan(p.ns, secret(p.ns, "db", "password", "x")))
	p.stands(1)
	p.calls.take()
	for i := range 10 {
		patch(t, p.ns, "db", fmt.Sprintf(`{"metadata":{"annotations":{"reloaded":"%d"}}}`, i))
	}
	// The watch has told all of it when it tells what comes after it.
	patch(t, p.ns, "db", `{"data":{"extra":"eA=="}}`)
	until(t, "the extra key goes", func() bool { return len(get(t, p.ns, "db").Data) == 1 })
	if calls := p.calls.take(); len(calls) > 3 {
		t.Errorf("annotations of others made requests: %q", calls)
	}
}

// Who takes the label away takes the Secret away.
func TestDisownedSecretIsLeftAlone(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	p.Apply(plan(p.ns, secret(p.ns, "db", "password", "correct horse")))
	p.stands(1)
	patch(t, p.ns, "db", `{"metadata":{"labels":{"app.kubernetes.io/managed-by":"dana"}},"data":{"password":"bWluZQ=="}}`)
	p.problem(kubernetes.NotOurs)
	if s := get(t, p.ns, "db"); values(s) != "password=mine" {
		t.Errorf("the disowned Secret has %s", values(s))
	}
	patch(t, p.ns, "db", `{"metadata":{"annotations":{"sealward.dev/adopt":"true"}}}`)
	p.stands(1)
	if s := get(t, p.ns, "db"); values(s) != "password=correct horse" {
		t.Errorf("the adopted Secret has %s", values(s))
	}
}

// A copy has the labels of what it is a copy of, but sealward did not make it.
func TestCopyIsNotPruned(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	p.Apply(plan(p.ns, secret(p.ns, "db", "password", "correct horse")))
	p.stands(1)
	s := get(t, p.ns, "db")
	foreign(t, p.ns, "db-copy", func(c *corev1.Secret) { c.Labels, c.Annotations, c.Data = s.Labels, s.Annotations, s.Data })
	if problem := p.problem(kubernetes.NotOurs); problem.Key.Name != "db-copy" || !problem.Next.IsZero() {
		t.Errorf("the problem is %+v", problem)
	}
	p.Apply(plan(p.ns))
	until(t, "the original goes", func() bool { return get(t, p.ns, "db") == nil })
	if get(t, p.ns, "db-copy") == nil {
		t.Error("the copy was deleted")
	}
	patch(t, p.ns, "db-copy", `{"metadata":{"labels":null}}`)
	p.stands(0)
	p.hides("correct horse")
}

// Between a look and a write somebody puts another object in the place of ours, or
// changes it: the write falls on nothing.
func TestWritesFallOnWhatWasSeen(t *testing.T) {
	t.Parallel()
	swap := func(t *testing.T, ns string) {
		if err := cluster.Client.CoreV1().Secrets(ns).Delete(context.Background(), "db", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "db"}, Data: map[string][]byte{"theirs": []byte("their own value")}}
		if _, err := cluster.Client.CoreV1().Secrets(ns).Create(context.Background(), s, metav1.CreateOptions{}); err != nil {
			t.Error(err)
		}
	}
	disown := func(t *testing.T, ns string) {
		if _, err := cluster.Client.CoreV1().Secrets(ns).Patch(context.Background(), "db", types.MergePatchType, []byte(`{"metadata":{"labels":null},"data":{"theirs":"dGhlaXIgb3duIHZhbHVl","password":null,"dropped":null}}`), metav1.PatchOptions{}); err != nil {
			t.Error(err)
		}
	}
	typed := func(ns string) *kubernetes.Object {
		o := secret(ns, "db", "password", "two")
		o.Secret.Type = "example.com/other"
		return o
	}
	same := func(ns string) *kubernetes.Object { return secret(ns, "db", "password", "two") }
	for name, c := range map[string]struct {
		at     string
		nth    int32
		meddle func(*testing.T, string)
		next   func(ns string) *kubernetes.Object
	}{
		"swapped before the patch":  {"PATCH", 1, swap, same},
		"swapped before the apply":  {"PATCH", 2, swap, same},
		"disowned before the patch": {"PATCH", 1, disown, same},
		"disowned before the apply": {"PATCH", 2, disown, same},
		"swapped before a replace":  {"DELETE", 1, swap, typed},
		"disowned before a replace": {"DELETE", 1, disown, typed},
		"swapped before a prune":    {"DELETE", 1, swap, nil},
		"disowned before a prune":   {"DELETE", 1, disown, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProjector(t)
			p.Apply(plan(p.ns, secret(p.ns, "db", "password", "one", "dropped", "later")))
			p.stands(1)
			var n atomic.Int32
			var done atomic.Bool
			p.calls.intercept(func(r *http.Request) error {
				if r.Method == c.at && n.Add(1) == c.nth {
					c.meddle(t, p.ns)
					done.Store(true)
				}
				return nil
			})
			if c.next == nil {
				p.Apply(plan(p.ns))
				until(t, "somebody meddles", done.Load)
				p.stands(0)
			} else {
				p.Apply(plan(p.ns, c.next(p.ns)))
				until(t, "somebody meddles", done.Load)
				p.problem(kubernetes.NotOurs)
			}
			if s := get(t, p.ns, "db"); s == nil || values(s) != "theirs=their own value" {
				t.Errorf("what somebody else put there was changed: %v", s)
			}
		})
	}
}

// Between a delete and a create of ours somebody is quicker: theirs stays.
func TestReplaceThatLosesItsPlace(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	p.Apply(plan(p.ns, secret(p.ns, "db", "password", "one")))
	p.stands(1)
	p.calls.intercept(func(r *http.Request) error {
		if r.Method == http.MethodPost {
			s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "db"}, Data: map[string][]byte{"theirs": []byte("their own value")}}
			_, _ = cluster.Client.CoreV1().Secrets(p.ns).Create(context.Background(), s, metav1.CreateOptions{})
		}
		return nil
	})
	next := secret(p.ns, "db", "password", "two")
	next.Secret.Type = "example.com/other"
	p.Apply(plan(p.ns, next))
	p.problem(kubernetes.NotOurs)
	if s := get(t, p.ns, "db"); values(s) != "theirs=their own value" {
		t.Errorf("the Secret has %s", values(s))
	}
}

// A create whose answer is lost is not made twice, and not taken for somebody else's.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	var n atomic.Int32
	p.calls.intercept(func(r *http.Request) error {
		if r.Method == http.MethodPost && n.Add(1) == 1 {
			again := r.Clone(context.Background())
			body, _ := io.ReadAll(r.Body)
			again.Body, again.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
			again.RequestURI = ""
			direct, err := http.DefaultTransport.(*http.Transport).Clone(), error(nil)
			direct.TLSClientConfig, err = tlsOf(cluster.Admin)
			if err != nil {
				return err
			}
			answer, err := direct.RoundTrip(again)
			if err != nil {
				return err
			}
			answer.Body.Close()
			return io.ErrUnexpectedEOF
		}
		return nil
	})
	p.Apply(plan(p.ns, secret(p.ns, "db", "password", "correct horse")))
	p.stands(1)
	if s := get(t, p.ns, "db"); values(s) != "password=correct horse" {
		t.Errorf("the Secret has %s", values(s))
	}
}

// Somebody who changes a Secret again and again is told of, and does not make the
// agent write without end.
func TestQuarrel(t *testing.T) {
	t.Parallel()
	p := newProjector(t)
	p.Apply(plan(p.ns, secret(p.ns, "db", "password", "correct horse"), secret(p.ns, "web", "password", "x")))
	p.stands(2)
	p.calls.take()
	stop := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
			}
			_, _ = cluster.Client.CoreV1().Secrets(p.ns).Patch(context.Background(), "db", types.MergePatchType, []byte(`{"data":{"password":"d3Jvbmc="}}`), metav1.PatchOptions{FieldManager: "mallory"})
		}
	}()
	problem := p.problem(kubernetes.Conflict)
	if problem.Key.Name != "db" {
		t.Errorf("the problem is %+v", problem)
	}
	// The others go on meanwhile.
	p.Apply(plan(p.ns, secret(p.ns, "db", "password", "correct horse"), secret(p.ns, "web", "password", "y")))
	until(t, "the other changes", func() bool { return values(get(t, p.ns, "web")) == "password=y" })
	p.problem(kubernetes.Conflict)
	close(stop)
	<-stopped
	until(t, "it stands again", func() bool { return values(get(t, p.ns, "db")) == "password=correct horse" })
	if calls := p.calls.take(); len(calls) > 100 {
		t.Errorf("the quarrel made %d requests", len(calls))
	}
	p.hides("correct horse")
}
