//go:build cluster

package serve_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealward/sealward/unseal/audit"
	"github.com/sealward/sealward/unseal/serve"
)

const admin = "an-administrators-token-of-this-test"

// cluster is a real kube-apiserver with its etcd.
type cluster struct {
	t   *testing.T
	dir string
	url string
	as  http.Client
}

// port that is free now.
func port(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, p, _ := net.SplitHostPort(l.Addr().String())
	return p
}

func newCluster(t *testing.T) *cluster {
	c := &cluster{t: t, dir: t.TempDir(), as: http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}} // it makes its certificate itself
	write(t, filepath.Join(c.dir, "tokens.csv"), admin+",admin,1,system:masters\n")
	if out, err := exec.Command("openssl", "genrsa", "-out", filepath.Join(c.dir, "sa.key"), "2048").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	etcd, peer, api := "http://127.0.0.1:"+port(t), "http://127.0.0.1:"+port(t), port(t)
	c.url = "https://127.0.0.1:" + api
	c.run("etcd", "--data-dir=etcd", "--listen-client-urls="+etcd, "--advertise-client-urls="+etcd, "--listen-peer-urls="+peer)
	c.run("kube-apiserver", "--etcd-servers="+etcd, "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--secure-port="+api, "--cert-dir=certs",
		"--service-account-key-file=sa.key", "--service-account-signing-key-file=sa.key", "--service-account-issuer=https://kubernetes.default.svc",
		"--authorization-mode=RBAC", "--token-auth-file=tokens.csv", "--service-cluster-ip-range=10.0.0.0/24", "--endpoint-reconciler-type=none", "--disable-admission-plugins=ServiceAccount")
	for range 300 {
		if resp, err := c.as.Do(c.request("GET", "/readyz", "")); err == nil {
			resp.Body.Close()
			if resp.StatusCode == 200 {
				return c
			}
		}
		time.Sleep(200 * time.Millisecond)
	}
	log, _ := os.ReadFile(filepath.Join(c.dir, "kube-apiserver.log"))
	t.Fatalf("the API server does not get ready:\n%s", log[max(0, len(log)-4000):])
	return nil
}

func (c *cluster) run(name string, args ...string) {
	c.t.Helper()
	log, err := os.Create(filepath.Join(c.dir, name+".log"))
	if err != nil {
		c.t.Fatal(err)
	}
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = c.dir, log, log
	if err := cmd.Start(); err != nil {
		c.t.Fatalf("%v; make cluster builds it", err)
	}
	c.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		log.Close()
	})
}

func (c *cluster) request(method, path, body string) *http.Request {
	c.t.Helper()
	r, err := http.NewRequest(method, c.url+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+admin)
	r.Header.Set("Content-Type", "application/json")
	return r
}

func (c *cluster) do(method, path, body string) []byte {
	c.t.Helper()
	resp, err := c.as.Do(c.request(method, path, body))
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	var out bytes.Buffer
	if _, err := out.ReadFrom(resp.Body); err != nil || resp.StatusCode >= 300 {
		c.t.Fatalf("%s %s: %v %d %s", method, path, err, resp.StatusCode, out.Bytes())
	}
	return out.Bytes()
}

// token of a service account, for an audience.
func (c *cluster) token(namespace, name, audience string) string {
	c.t.Helper()
	var got struct{ Status struct{ Token string } }
	if err := json.Unmarshal(c.do("POST", "/api/v1/namespaces/"+namespace+"/serviceaccounts/"+name+"/token", fmt.Sprintf(`{"spec":{"audiences":[%q],"expirationSeconds":600}}`, audience)), &got); err != nil {
		c.t.Fatal(err)
	}
	return got.Status.Token
}

func TestRealAPIServer(t *testing.T) {
	c := newCluster(t)
	for _, ns := range []string{"orders", "sealward"} {
		c.do("POST", "/api/v1/namespaces", `{"metadata":{"name":"`+ns+`"}}`)
	}
	c.do("POST", "/api/v1/namespaces/orders/serviceaccounts", `{"metadata":{"name":"api"}}`)
	c.do("POST", "/api/v1/namespaces/sealward/serviceaccounts", `{"metadata":{"name":"agent"}}`)
	const issuer = "https://kubernetes.default.svc"
	b := newBench(t)
	b.now = time.Now()
	b.publish()
	own := filepath.Join(c.dir, "own")
	write(t, own, c.token("sealward", "agent", issuer))
	k, err := serve.OpenTokenReview(serve.TokenReviewConfig{Server: c.url, CAFile: filepath.Join(c.dir, "certs/apiserver.crt"), TokenFile: own, Audience: "sealward",
		Roles: serve.Roles{Allow: []string{"system:serviceaccounts:orders"}}}, func() time.Time { return b.now }, logged.To(&b.log))
	if err != nil {
		t.Fatal(err)
	}
	b.identify(serve.Identities{Kubernetes: k})
	token := c.token("orders", "api", "sealward")

	// The agent may not ask yet: no denial.
	if code, reason := b.refused(token); code != 503 || reason != audit.Unavailable || !strings.Contains(b.log.String(), "system:auth-delegator") {
		t.Errorf("unbound: %d %s\n%s", code, reason, b.log.String())
	}
	c.do("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", `{"metadata":{"name":"sealward"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"system:auth-delegator"},"subjects":[{"kind":"ServiceAccount","namespace":"sealward","name":"agent"}]}`)
	var who serve.WhoamiJSON
	eventually(t, "the binding counts", func() (ok bool) { who, _ = b.whoami(token); return who.Subject != "" })
	if who.Subject != "users:id:system:serviceaccount:orders:api" || fmt.Sprint(who.Roles) != "[roles:id:system:serviceaccounts:orders]" || !strings.HasPrefix(who.Credential, "JTI=") || who.Expires.Sub(b.now) > 11*time.Minute || who.Expires.Before(b.now) {
		t.Errorf("%+v", who)
	}
	changed := token[:len(token)-8] + "AAAAAAAA"
	for what, bad := range map[string]string{"a token for the API server": c.token("orders", "api", issuer), "another audience": c.token("orders", "api", "vault"), "a changed one": changed, "nonsense": "nonsense", "the administrator's": admin} {
		if code, reason := b.refused(bad); code != 401 || reason != audit.UnknownToken && reason != audit.WrongAudience && reason != audit.BadIdentity {
			t.Errorf("%s: %d %s", what, code, reason)
		}
	}
	// The account is deleted: at the latest after 30 s its token is worth nothing.
	c.do("DELETE", "/api/v1/namespaces/orders/serviceaccounts/api", "")
	eventually(t, "the token ends", func() bool { b.now = b.now.Add(30 * time.Second); _, code := b.whoami(token); return code == 401 })

	// The cluster is an issuer of JWTs too; its keys in a file need no API server.
	file := filepath.Join(c.dir, "jwks.json")
	write(t, file, string(c.do("GET", "/openid/v1/jwks", "")))
	b.now = time.Now()
	b.identify(serve.Identities{Issuers: []*serve.Issuer{openIssuer(t, b, serve.IssuerConfig{Issuer: issuer, Audience: "sealward", JWKSFile: file})}})
	if who, code := b.whoami(token); code != 200 || who.Subject != "users:id:system:serviceaccount:orders:api" || who.Method != "oidc" {
		t.Errorf("by its keys: %d %+v", code, who)
	}
	if code, reason := b.refused(changed); code != 401 || reason != audit.BadSignature {
		t.Errorf("a changed one, by its keys: %d %s", code, reason)
	}
}
