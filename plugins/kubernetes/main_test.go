package kubernetes_test

import (
	"os"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sealward/sealward/plugins/kubernetes/kubetest"
)

// cluster is the control plane of this package's tests.
var cluster *kubetest.Cluster

func TestMain(m *testing.M) { os.Exit(kubetest.Main(m, &cluster)) }

func TestControlPlane(t *testing.T) {
	c := kubetest.Need(t, cluster)
	ns := c.Namespace(t, "orders")
	if _, err := c.Client.CoreV1().Secrets(ns).List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Error(err)
	}
}
