package kubernetes_test

import (
	"flag"
	"os"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sealward/sealward/plugins/kubernetes"
	"github.com/sealward/sealward/plugins/kubernetes/kubetest"
	"github.com/sealward/sealward/unseal/unsealtest"
)

// cluster is the control plane of this package's tests.
var cluster *kubetest.Cluster

// logged is what was logged in these tests.
var logged unsealtest.LogLines

// tests are all of the package; every line that it logs must be seen by one of them.
type tests struct{ *testing.M }

func (m tests) Run() int {
	all := cluster != nil && flag.Lookup("test.run").Value.String() == ""
	return logged.Run(m.M, all)
}

func TestMain(m *testing.M) {
	flag.Parse()
	// These tests wait most of their time, for leases to end and for watches.
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		_ = flag.Set("test.parallel", "6")
	}
	kubernetes.QuietClientGo()
	os.Exit(kubetest.Main(tests{m}, &cluster))
}

func TestControlPlane(t *testing.T) {
	c := kubetest.Need(t, cluster)
	ns := c.Namespace(t, "orders")
	if _, err := c.Client.CoreV1().Secrets(ns).List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Error(err)
	}
}
