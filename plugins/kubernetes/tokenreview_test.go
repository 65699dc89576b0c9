package kubernetes_test

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sealward/sealward/plugins/kubernetes/kubetest"
	"github.com/sealward/sealward/unseal/audit"
	"github.com/sealward/sealward/unseal/serve"
)

// The tokens of service accounts as a real API server knows them: by TokenReview, and by
// the keys that it publishes. (The wire format's every corner is in unseal/serve.)
func TestTokensOfServiceAccounts(t *testing.T) {
	t.Parallel()
	c := kubetest.Need(t, cluster)
	orders, agent := c.Namespace(t, "orders"), c.Namespace(t, "agent")
	c.ServiceAccount(t, orders, "api")
	c.ServiceAccount(t, agent, "sealward")
	dir, log, now := t.TempDir(), &lockedBuffer{}, time.Now()
	file := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	group := "system:serviceaccounts:" + orders
	review, err := serve.OpenTokenReview(serve.TokenReviewConfig{Server: c.Admin.Host, CAFile: file("ca.crt", c.Admin.CAData), TokenFile: file("token", []byte(c.Token(t, agent, "sealward", kubetest.Audience))),
		Audience: "sealward", Roles: serve.Roles{Allow: []string{group}}}, func() time.Time { return now }, newLog(log))
	if err != nil {
		t.Fatal(err)
	}
	identities := serve.Identities{Kubernetes: review}
	who := func(token string) (serve.Caller, string) {
		r := httptest.NewRequest("GET", "/v1/whoami", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		caller, err := identities.Authenticate(r, now)
		var refused *serve.AuthError
		if err != nil && !errors.As(err, &refused) {
			t.Fatal(err)
		}
		if refused != nil {
			return caller, refused.Reason
		}
		return caller, ""
	}
	token := c.Token(t, orders, "api", "sealward")

	// The agent may not ask yet: that is no denial.
	if _, reason := who(token); reason != audit.Unavailable || !strings.Contains(log.String(), "system:auth-delegator") {
		t.Errorf("without a binding: %s\n%s", reason, log)
	}
	if _, err := c.Client.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: agent}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:auth-delegator"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: agent, Name: "sealward"}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	var caller serve.Caller
	until(t, "the binding counts", func() (ok bool) { caller, _ = who(token); return !caller.User.IsZero() })
	if caller.User.String() != "users:id:system:serviceaccount:"+orders+":api" || fmt.Sprint(caller.Roles) != "[roles:id:"+group+"]" || !strings.HasPrefix(caller.Credential, "JTI=") ||
		caller.Expires.Before(now) || caller.Expires.Sub(now) > 2*time.Hour {
		t.Errorf("%+v", caller)
	}
	changed := token[:len(token)-8] + "AAAAAAAA"
	for what, bad := range map[string]string{"a token for the API server": c.Token(t, orders, "api", kubetest.Audience), "another audience": c.Token(t, orders, "api", "vault"), "a changed one": changed, "nonsense": "nonsense"} {
		if caller, reason := who(bad); !caller.User.IsZero() || reason != audit.UnknownToken && reason != audit.WrongAudience && reason != audit.BadIdentity {
			t.Errorf("%s: %+v %s", what, caller, reason)
		}
	}

	// By the published keys in a file, no API server is asked.
	keys, err := c.Client.Discovery().RESTClient().Get().AbsPath("/openid/v1/jwks").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := serve.OpenIssuer(serve.IssuerConfig{Issuer: kubetest.Audience, Audience: "sealward", JWKSFile: file("jwks.json", keys)}, newLog(log))
	if err != nil {
		t.Fatal(err)
	}
	identities = serve.Identities{Issuers: []*serve.Issuer{issuer}}
	if caller, reason := who(token); caller.User.String() != "users:id:system:serviceaccount:"+orders+":api" || caller.Method != "oidc" {
		t.Errorf("by its keys: %+v %s", caller, reason)
	}
	if _, reason := who(changed); reason != audit.BadSignature {
		t.Errorf("a changed one, by its keys: %s", reason)
	}

	// The account is deleted: at the latest after 30 s its token is worth nothing.
	identities = serve.Identities{Kubernetes: review}
	if err := c.Client.CoreV1().ServiceAccounts(orders).Delete(t.Context(), "api", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, "the token ends", func() bool {
		now = now.Add(30 * time.Second)
		_, reason := who(token)
		return reason == audit.UnknownToken
	})
}
