package replicas

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sealward/sealward/plugins/kubernetes"
)

// With the API server away from the start, an agent follows Git and serves; what it
// would have written meanwhile stands soon after the API server is back.
func TestAPIServerAway(t *testing.T) {
	w := newWorld(t, "away")
	a := w.newAgent("a")
	w.secret("db", map[string]string{"n": value(1)})
	w.push("first")
	a.proxy.set(true, false)
	a.start()
	ready := func() bool {
		resp, err := http.Get(*a.at.Load() + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}
	eventually(t, "it serves what Git has", ready)
	for n := 2; n < 8; n++ {
		w.secret("db", map[string]string{"n": value(n)})
		w.secret(fmt.Sprint("s", n), map[string]string{"n": value(n)})
		w.push(fmt.Sprint("change ", n))
		must(t, a.hook())
		time.Sleep(time.Second)
	}
	if !ready() {
		t.Error("it serves no longer")
	}
	a.proxy.set(false, false)
	back := time.Now()
	eventually(t, "the newest stands", func() bool { return w.data("db")["n"] == value(7) && w.data("s7") != nil })
	t.Logf("the newest stands %s after the API server is back", time.Since(back).Round(10*time.Millisecond))
	if log := a.log(); strings.Count(log, "the Lease cannot be read or renewed") != 1 {
		t.Errorf("it says it more than once, or not at all:\n%s", log)
	}
	w.finish()
}

// Two installations in one cluster, and even in one namespace, leave each other alone:
// each has its own Lease, changes and removes only what it made itself, and tells of a
// name that the other has.
func TestTwoInstallations(t *testing.T) {
	a := newWorld(t, "one")
	b := newWorldIn(t, "two", a.target)
	stands := func(w *world, name string, n int) {
		t.Helper()
		eventually(t, fmt.Sprintf("%s of %d stands", name, n), func() bool { return w.data(name)["n"] == value(n) })
	}
	agentOf := func(name string) string {
		s, err := cluster.Client.CoreV1().Secrets(a.target).Get(context.Background(), name, metav1.GetOptions{})
		if err != nil {
			return ""
		}
		return s.Labels[kubernetes.AgentLabel]
	}
	for i, w := range []*world{a, b} {
		w.secret(fmt.Sprint("own", i), map[string]string{"n": value(i)})
		w.secret("both", map[string]string{"n": value(i)})
		w.grant("reader", "users:id:system:serviceaccount:"+w.target+":reader")
		w.push("first")
		w.newAgent("agent").start()
		stands(w, fmt.Sprint("own", i), i)
	}
	stands(a, "both", 0)
	eventually(t, "the second tells of it", func() bool {
		return strings.Contains(kubectl(t, "", "get", "sealedrepositories", "-n", b.namespace, "-o", "yaml"), "NotOurs")
	})
	if a.leader() != a.agents[0] || b.leader() != b.agents[0] {
		t.Error("not each has a leader")
	}
	if agentOf("own0") != a.namespace || agentOf("own1") != b.namespace || agentOf("both") != a.namespace {
		t.Errorf("%s %s %s", agentOf("own0"), agentOf("own1"), agentOf("both"))
	}
	get := func() *corev1.Secret {
		s, err := cluster.Client.CoreV1().Secrets(a.target).Get(context.Background(), "own0", metav1.GetOptions{})
		must(t, err)
		return s
	}
	before := get()
	b.remove("workspaces/orders/secrets/own1.yaml")
	b.push("its own goes")
	must(t, b.agents[0].hook())
	eventually(t, "own1 goes", func() bool { return b.data("own1") == nil })
	if get().ResourceVersion != before.ResourceVersion {
		t.Error("the other's Secret was written")
	}
	// The first gives the name up: then it is the second's.
	a.remove("workspaces/orders/secrets/both.yaml")
	a.push("given up")
	must(t, a.agents[0].hook())
	eventually(t, "the name goes over", func() bool { return agentOf("both") == b.namespace })
	stands(b, "both", 1)
	a.finish()
	b.finish()
}
