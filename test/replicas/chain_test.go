package replicas

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	client "k8s.io/client-go/kubernetes"
)

// A push to a real git server, a webhook, an agent with the Lease, the Secret in the
// namespace, which one service account reads through RBAC and another does not; then
// the grant is revoked by a commit, and a second after the webhook nothing is readable
// any more, in the cluster and from the agent.
func TestChain(t *testing.T) {
	w := newWorld(t, "chain")
	// Of two replicas the hooks reach the one that does not lead.
	first := w.newAgent("first")
	first.start()
	eventually(t, "an agent leads", func() bool { return w.leader() == first })
	second := w.newAgent("second")
	second.start()

	reader, stranger := "system:serviceaccount:"+w.target+":shop", "system:serviceaccount:"+w.target+":other"
	as := func(user string) client.Interface {
		c, err := client.NewForConfig(cluster.As(t, w.target, user[strings.LastIndex(user, ":")+1:]))
		must(t, err)
		return c
	}
	shop, other := as(reader), as(stranger)
	read := func(c client.Interface) (string, error) {
		s, err := c.CoreV1().Secrets(w.target).Get(context.Background(), "db", metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		return string(s.Data["password"]), nil
	}
	ask := func(a *agent, account, audience string) (int, string) {
		cluster.ServiceAccount(t, w.target, account)
		status, body, err := get(t.Context(), *a.at.Load()+"/v1/workspaces/orders/secrets/db/keys/password", cluster.Token(t, w.target, account, audience))
		must(t, err)
		return status, body
	}

	w.secret("db", map[string]string{"password": canary + "-1", "user": canary + "-u"})
	w.grant("shop", "users:id:"+reader)
	commit := w.push("the database's password, for the shop")
	must(t, second.hook())
	eventually(t, "the Secret is there, and the shop may read it", func() bool { got, err := read(shop); return err == nil && got == canary+"-1" })
	if got, err := read(other); !apierrors.IsForbidden(err) || leaks([]byte(got)) {
		t.Errorf("another service account reads %q, %v", got, err)
	}
	if _, err := shop.CoreV1().Secrets(w.target).List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a list, which shows every value: %v", err)
	}
	for _, a := range []*agent{first, second} {
		eventually(t, a.name+" serves it", func() bool { status, body := ask(a, "shop", "sealward"); return status == 200 && body == canary+"-1" })
		if status, body := ask(a, "other", "sealward"); status != http.StatusForbidden || leaks([]byte(body)) {
			t.Errorf("%s: another service account gets %d", a.name, status)
		}
		if status, _ := ask(a, "shop", "https://kubernetes.default.svc"); status != http.StatusUnauthorized {
			t.Errorf("%s: a token for the API server gets %d", a.name, status)
		}
	}

	// It reads well, and says which commit and how many.
	eventually(t, "the SealedRepository is ready", func() bool {
		return strings.Contains(kubectl(t, "", "get", "sealedrepositories", "-n", w.namespace), "True")
	})
	table := strings.Split(kubectl(t, "", "get", "sealedrepositories", "-n", w.namespace), "\n")
	if !strings.HasPrefix(table[0], "NAME       READY   STATUS") || !strings.Contains(table[1], commit[:12]) || !strings.Contains(table[1], "1/1") {
		t.Errorf("kubectl shows\n%s", strings.Join(table, "\n"))
	}
	t.Logf("\n%s", kubectl(t, "", "get", "srepo", "-n", w.namespace, "-o", "wide"))
	kubectl(t, "", "wait", "--for=condition=Ready", "--timeout=30s", "-n", w.namespace, "sealedrepository/sealward")

	// Operators see in sealward status who writes; others do not.
	status := func(a *agent, account string) string {
		cluster.ServiceAccount(t, w.namespace, account)
		token := filepath.Join(t.TempDir(), "token")
		must(t, os.WriteFile(token, []byte(cluster.Token(t, w.namespace, account, "sealward")), 0o600))
		return sealward(t, a.dir, "status", "--server", *a.at.Load(), "--token-file", token)
	}
	if out := status(first, "ops"); !strings.Contains(out, "(this agent) writes") || !strings.Contains(out, "Secret: 1 of 1 stand") {
		t.Errorf("status shows\n%s", out)
	}
	if out := status(second, "ops"); !strings.Contains(out, first.identity()+" writes; this agent is") || strings.Contains(out, "(this agent)") {
		t.Errorf("status shows\n%s", out)
	}
	if out := status(first, "somebody"); strings.Contains(out, "writes") {
		t.Errorf("status shows anybody\n%s", out)
	}

	w.remove("workspaces/orders/grants/shop.yaml")
	w.push("the shop may no longer")
	must(t, second.hook())
	hooked := time.Now()
	eventually(t, "the shop is refused by the cluster", func() bool { _, err := read(shop); return apierrors.IsForbidden(err) })
	took := time.Since(hooked)
	t.Logf("refused by RBAC %s after the hook", took)
	if took > time.Second && !raceEnabled {
		t.Errorf("the revocation took %s", took)
	}
	for _, a := range []*agent{first, second} {
		eventually(t, a.name+" refuses", func() bool {
			status, body := ask(a, "shop", "sealward")
			return status == http.StatusForbidden && !leaks([]byte(body))
		})
	}
	if w.data("db")["password"] != canary+"-1" {
		t.Error("the Secret went with the grant")
	}

	// What left for the cluster is in the audit of the one that wrote.
	out := sealward(t, first.dir, "audit", "query", "audit.jsonl", "--event", "project", "-o", "wide")
	if !strings.Contains(out, w.target+"/db") || !strings.Contains(out, "password,user") || !strings.Contains(out, "workspaces/orders/secrets/db.yaml") {
		t.Errorf("the audit shows\n%s", out)
	}
	if out := sealward(t, second.dir, "audit", "query", "audit.jsonl", "--event", "project"); out != "" {
		t.Errorf("the replica that does not lead wrote\n%s", out)
	}
	w.finish()
	if out := sealward(t, first.dir, "audit", "replay", "audit.jsonl", "--repo", w.clone); strings.Contains(out, "differs") {
		t.Error(out)
	}
	// The agents are gone, and the Secret stays.
	if w.data("db")["password"] != canary+"-1" {
		t.Error("the Secret went with the agents")
	}
	fmt.Fprint(t.Output(), kubectl(t, "", "get", "events.v1.events.k8s.io", "-n", w.namespace))
}
