package kubernetes_test

import (
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

func TestMain(m *testing.M) {
	kubernetes.QuietClientGo()
	os.Exit(kubetest.Main(m, &cluster))
}

func TestControlPlane(t *testing.T) {
	c := kubetest.Need(t, cluster)
	ns := c.Namespace(t, "orders")
	if _, err := c.Client.CoreV1().Secrets(ns).List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Error(err)
	}
}
