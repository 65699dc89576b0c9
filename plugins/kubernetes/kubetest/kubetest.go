// Package kubetest gives tests a real control plane: a kube-apiserver with RBAC, and
// etcd. There is no kubelet and no controller, so that a Pod never runs and a namespace
// that is deleted stays terminating.
//
// Most tests need [Main] in their TestMain, then [Cluster.Namespace] and [Cluster.As].
package kubetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// ErrNoBinaries: kube-apiserver and etcd were not found.
var ErrNoBinaries = errors.New("no kube-apiserver and etcd; make bin/tools/kube-apiserver builds them, or set KUBEBUILDER_ASSETS to a folder that has both")

// Cluster is a control plane. Admin may do everything.
type Cluster struct {
	Admin  *rest.Config
	Client kubernetes.Interface // Admin's

	plane envtest.ControlPlane
	dir   string // of certificates and of etcd's data
}

// Option sets a flag of the API server.
type Option func(set func(flag string, values ...string))

// Start starts a control plane, which takes some seconds. Stop ends it.
func Start(options ...Option) (*Cluster, error) {
	apiserver, etcd, err := binaries()
	if err != nil {
		return nil, err
	}
	c := &Cluster{plane: envtest.ControlPlane{Etcd: &envtest.Etcd{Path: etcd}, APIServer: &envtest.APIServer{Path: apiserver}}}
	// A loaded machine needs longer than the default.
	c.plane.Etcd.StartTimeout, c.plane.Etcd.StopTimeout = time.Minute, 20*time.Second
	c.plane.APIServer.StartTimeout, c.plane.APIServer.StopTimeout = 2*time.Minute, 20*time.Second
	// A folder of its own would go with each stop, and another certificate come with each start.
	if c.dir, err = os.MkdirTemp("", "kubetest-"); err != nil {
		return nil, err
	}
	c.plane.APIServer.CertDir, c.plane.Etcd.DataDir = filepath.Join(c.dir, "certs"), filepath.Join(c.dir, "etcd")
	if err := errors.Join(os.Mkdir(c.plane.APIServer.CertDir, 0o700), os.Mkdir(c.plane.Etcd.DataDir, 0o700)); err != nil {
		return nil, errors.Join(err, os.RemoveAll(c.dir))
	}
	args := c.plane.APIServer.Configure()
	args.Set("api-audiences", Audience)
	args.Set("service-account-issuer", Audience)
	for _, o := range options {
		o(func(flag string, values ...string) { args.Set(flag, values...) })
	}
	if err := c.plane.Start(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(c.dir))
	}
	user, err := c.plane.AddUser(envtest.User{Name: "admin", Groups: []string{"system:masters"}}, &rest.Config{QPS: -1})
	if err == nil {
		c.Admin = user.Config()
		c.Client, err = kubernetes.NewForConfig(c.Admin)
	}
	if err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	return c, nil
}

// Audience is that of tokens for the API server itself.
const Audience = "https://kubernetes.default.svc"

// Stop ends the control plane and removes its data.
func (c *Cluster) Stop() error { return errors.Join(c.plane.Stop(), os.RemoveAll(c.dir)) }

// StopAPIServer takes the API server away; StartAPIServer brings it back, at the same
// address and with the same data.
func (c *Cluster) StopAPIServer() error  { return c.plane.APIServer.Stop() }
func (c *Cluster) StartAPIServer() error { return c.plane.APIServer.Start() }

// Backup stops everything and starts it again, with a copy of etcd's data made in between.
func (c *Cluster) Backup() error {
	return c.between(func() error {
		return errors.Join(os.RemoveAll(c.backup()), os.CopyFS(c.backup(), os.DirFS(c.plane.Etcd.DataDir)))
	})
}

// Restore is like Backup, with etcd's data as they were then.
func (c *Cluster) Restore() error {
	return c.between(func() error {
		return errors.Join(os.RemoveAll(c.plane.Etcd.DataDir), os.CopyFS(c.plane.Etcd.DataDir, os.DirFS(c.backup())))
	})
}

func (c *Cluster) backup() string { return filepath.Join(c.dir, "backup") }

func (c *Cluster) between(do func() error) error {
	if err := errors.Join(c.plane.APIServer.Stop(), c.plane.Etcd.Stop()); err != nil {
		return err
	}
	return errors.Join(do(), c.plane.Etcd.Start(), c.plane.APIServer.Start())
}

// binaries finds the programs: those of KUBEBUILDER_ASSETS, or of the PATH.
func binaries() (apiserver, etcd string, err error) {
	if dir := os.Getenv("KUBEBUILDER_ASSETS"); dir != "" {
		return filepath.Join(dir, "kube-apiserver"), filepath.Join(dir, "etcd"), nil
	}
	apiserver, err1 := exec.LookPath("kube-apiserver")
	etcd, err2 := exec.LookPath("etcd")
	if err1 != nil || err2 != nil {
		return "", "", ErrNoBinaries
	}
	return apiserver, etcd, nil
}

// Main runs the tests of a package with one control plane, which it hands out
// through cluster. Where the programs are missing it is nil, and the tests skip with
// [Need]; in CI, which sets CI, that is a failure.
func Main(m interface{ Run() int }, cluster **Cluster, options ...Option) int {
	c, err := Start(options...)
	if errors.Is(err, ErrNoBinaries) && os.Getenv("CI") == "" {
		return m.Run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	*cluster = c
	code := m.Run()
	if err := c.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	return code
}

// Need skips a test where there is no control plane.
func Need(t testing.TB, c *Cluster) *Cluster {
	t.Helper()
	if c == nil {
		t.Skip(ErrNoBinaries)
	}
	return c
}

// Namespace makes a namespace of a new name that begins with prefix.
func (c *Cluster) Namespace(t testing.TB, prefix string) string {
	t.Helper()
	ns, err := c.Client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: prefix + "-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return ns.Name
}

// ServiceAccount makes a service account, unless it is there.
func (c *Cluster) ServiceAccount(t testing.TB, namespace, name string) {
	t.Helper()
	if _, err := c.Client.CoreV1().ServiceAccounts(namespace).Get(t.Context(), name, metav1.GetOptions{}); err == nil {
		return
	}
	if _, err := c.Client.CoreV1().ServiceAccounts(namespace).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// Token is one of a service account, valid for an hour, for an audience.
func (c *Cluster) Token(t testing.TB, namespace, name, audience string) string {
	t.Helper()
	hour := int64(3600)
	r, err := c.Client.CoreV1().ServiceAccounts(namespace).CreateToken(context.Background(), name, &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: []string{audience}, ExpirationSeconds: &hour}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return r.Status.Token
}

// As is how a service account, which is made where it is missing, talks to the API server.
func (c *Cluster) As(t testing.TB, namespace, name string) *rest.Config {
	t.Helper()
	c.ServiceAccount(t, namespace, name)
	cfg := rest.AnonymousClientConfig(c.Admin)
	cfg.BearerToken, cfg.QPS = c.Token(t, namespace, name, Audience), -1
	return cfg
}

// Kubeconfig writes a kubeconfig for cfg, readable by its owner alone.
func Kubeconfig(t testing.TB, cfg *rest.Config) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "kubeconfig")
	if err := WriteKubeconfig(path, cfg); err != nil {
		t.Fatal(err)
	}
	return path
}

// WriteKubeconfig is Kubeconfig, to a path.
func WriteKubeconfig(path string, cfg *rest.Config) error {
	k := clientcmdapi.NewConfig()
	k.Clusters["test"] = &clientcmdapi.Cluster{Server: cfg.Host, CertificateAuthorityData: cfg.CAData}
	k.AuthInfos["test"] = &clientcmdapi.AuthInfo{Token: cfg.BearerToken, ClientCertificateData: cfg.CertData, ClientKeyData: cfg.KeyData}
	k.Contexts["test"] = &clientcmdapi.Context{Cluster: "test", AuthInfo: "test"}
	k.CurrentContext = "test"
	return clientcmd.WriteToFile(*k, path)
}
