package examples

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/sealward/sealward/plugins/kubernetes/kubetest"
)

// rights stands between agents and the API server and notes what RBAC was asked for.
type rights struct {
	*httptest.Server
	ca []byte

	mu  sync.Mutex
	had map[string]bool // "verb group/resource namespace"
}

// watchRights passes everything on to the API server of c.
func watchRights(t *testing.T, c *kubetest.Cluster) *rights {
	t.Helper()
	address := c.Admin.Host
	if !strings.Contains(address, "://") {
		address = "https://" + address
	}
	to, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(c.Admin.CAData) {
		t.Fatal("no CA of the API server")
	}
	w := &rights{had: map[string]bool{}}
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(to) },
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true},
		FlushInterval: -1, // watches
		ErrorHandler:  func(rw http.ResponseWriter, _ *http.Request, _ error) { rw.WriteHeader(http.StatusBadGateway) },
	}
	w.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if asked := right(r); asked != "" {
			w.mu.Lock()
			w.had[asked] = true
			if r.Header.Get("Content-Type") == string(types.ApplyPatchType) && !strings.Contains(asked, "/status ") {
				w.had[strings.Replace(asked, "patch", "create", 1)] = true // an apply makes what is missing
			}
			w.mu.Unlock()
		}
		proxy.ServeHTTP(rw, r)
	}))
	w.EnableHTTP2 = true
	w.StartTLS()
	t.Cleanup(func() { w.CloseClientConnections(); w.Close() })
	w.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.Certificate().Raw})
	return w
}

func (w *rights) used(right string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.had[right]
}

// right is what RBAC is asked for with a request.
func right(r *http.Request) string {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	group := ""
	switch {
	case len(parts) > 2 && parts[0] == "api":
		parts = parts[2:]
	case len(parts) > 3 && parts[0] == "apis":
		group, parts = parts[1], parts[3:]
	default:
		return ""
	}
	namespace := ""
	if len(parts) > 2 && parts[0] == "namespaces" {
		namespace, parts = parts[1], parts[2:]
	}
	resource, name := parts[0], ""
	if len(parts) > 1 {
		name = parts[1]
	}
	if len(parts) > 2 {
		resource += "/" + parts[2]
	}
	verb := map[string]string{http.MethodPost: "create", http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete", http.MethodGet: "get"}[r.Method]
	switch {
	case verb == "get" && r.URL.Query().Get("watch") != "":
		verb = "watch"
	case verb == "get" && name == "":
		verb = "list"
	case verb == "delete" && name == "":
		verb = "deletecollection"
	}
	return fmt.Sprintf("%s %s/%s %s", verb, group, resource, namespace)
}
