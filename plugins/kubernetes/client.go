package kubernetes

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

// serviceAccountFiles is where a pod finds its own namespace, token and CA.
const serviceAccountFiles = "/var/run/secrets/kubernetes.io/serviceaccount"

// Endpoint says which cluster, and as whom. The zero Endpoint is the pod's own.
type Endpoint struct {
	Kubeconfig, Context string
	// Namespace of the Lease and the SealedRepository; "" for the pod's own.
	Namespace string
	Version   string // of sealward
}

// Connect reads how the API server is reached; it does not ask it anything. The
// namespace is the one that the agents run in.
func (e Endpoint) Connect(log *slog.Logger) (cfg *rest.Config, namespace string, err error) {
	if e.Kubeconfig == "" {
		if cfg, err = rest.InClusterConfig(); err != nil {
			return nil, "", fmt.Errorf("kubernetes: this is no pod with a service account (%w); set kubernetes.kubeconfig, or mount the service account's token", err)
		}
	} else if cfg, err = fromKubeconfig(e.Kubeconfig, e.Context); err != nil {
		return nil, "", err
	}
	if namespace = e.Namespace; namespace == "" {
		if namespace, err = podNamespace(serviceAccountFiles); err != nil {
			return nil, "", err
		}
	}
	cfg.QPS = -1 // the API server says itself when it is too much
	cfg.UserAgent = "sealward/" + e.Version
	cfg.WarningHandler = &warnings{log: log, told: map[string]bool{}}
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper { return timeouts{next} })
	return cfg, namespace, nil
}

func fromKubeconfig(file, name string) (*rest.Config, error) {
	if _, err := os.Stat(file); err != nil {
		return nil, fmt.Errorf("kubernetes.kubeconfig: %w", err)
	}
	cfg, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(&clientcmd.ClientConfigLoadingRules{ExplicitPath: file}, &clientcmd.ConfigOverrides{CurrentContext: name}).ClientConfig()
	if err != nil {
		// The parser quotes what it does not understand, and the file holds credentials.
		return nil, fmt.Errorf("kubernetes.kubeconfig: %s is no kubeconfig with a cluster and a user for the context; kubectl --kubeconfig %[1]s cluster-info tells more", file)
	}
	return cfg, nil
}

func podNamespace(dir string) (string, error) {
	text, err := os.ReadFile(filepath.Join(dir, "namespace"))
	if err != nil {
		return "", fmt.Errorf("kubernetes.namespace is missing, and this is no pod that could tell its own: %w", err)
	}
	namespace := strings.TrimSpace(string(text))
	if validation.IsDNS1123Label(namespace) != nil {
		return "", fmt.Errorf("%s/namespace holds no name of a namespace; set kubernetes.namespace", dir)
	}
	return namespace, nil
}

// NewIdentity names this process among the replicas: the pod, and something that no
// earlier container of that pod had.
func NewIdentity() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "agent"
	}
	var unique [4]byte
	_, _ = rand.Read(unique[:]) // never fails
	return host + "_" + hex.EncodeToString(unique[:])
}

// QuietClientGo keeps client-go from writing to standard error, where it would repeat
// what API servers and webhooks answer. It is for main: the setting is of the process.
func QuietClientGo() {
	klog.SetLogger(logr.Discard())
	rest.SetDefaultWarningHandler(rest.NoWarnings{})
}

// warnings logs that an API of Kubernetes is deprecated, once each. The text of other
// warnings may be a webhook's, which saw a value.
type warnings struct {
	log  *slog.Logger
	mu   sync.Mutex
	told map[string]bool
}

var deprecation = regexp.MustCompile(`^[a-zA-Z0-9./]{1,80} [A-Za-z]{1,40} is deprecated in v1\.[0-9]{1,3}\+(, unavailable in v1\.[0-9]{1,3}\+)?`)

// HandleWarningHeader is of rest.WarningHandler.
func (w *warnings) HandleWarningHeader(code int, _ string, text string) {
	about := deprecation.FindString(text)
	w.mu.Lock()
	defer w.mu.Unlock()
	if code != 299 || w.told[about] || len(w.told) > 20 {
		return
	}
	w.told[about] = true
	if about == "" {
		about = "its text is not repeated: it may be of a webhook that saw a value"
	}
	w.log.Warn("the Kubernetes API server warns", "about", about)
}

// timeouts bounds each request: a watch, whose answer has no end, only by the API
// server's own bound.
type timeouts struct{ next http.RoundTripper }

const listTimeout = 60 * time.Second // of many objects, body included

func (t timeouts) RoundTrip(r *http.Request) (*http.Response, error) {
	if q := r.URL.Query(); q.Get("watch") == "true" || q.Get("watch") == "1" {
		return t.next.RoundTrip(r)
	}
	limit := requestTimeout
	if r.Method == http.MethodGet {
		limit = listTimeout
	}
	return within(t.next, r, limit)
}

// within sends a request that must be answered, body and all, in a time.
func within(next http.RoundTripper, r *http.Request, limit time.Duration) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(r.Context(), limit)
	resp, err := next.RoundTrip(r.WithContext(ctx))
	if err != nil {
		cancel()
		return nil, err
	}
	resp.Body = &cancelled{resp.Body, cancel}
	return resp, nil
}

type cancelled struct {
	io.ReadCloser
	cancel func()
}

func (c *cancelled) Close() error {
	defer c.cancel()
	return c.ReadCloser.Close()
}

// explain says what went wrong with a request without the words of the API server, which
// may be those of a webhook, or repeat a value.
func explain(err error) string {
	var status apierrors.APIStatus
	var op *net.OpError
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	switch {
	case err == nil:
		return ""
	case errors.Is(err, ErrNotLeading):
		return ErrNotLeading.Error()
	case errors.As(err, &status):
		s := status.Status()
		return fmt.Sprintf("the API server answered %d %s", s.Code, reasonWord(string(s.Reason)))
	case errors.Is(err, context.DeadlineExceeded):
		return "the API server does not answer in time"
	case errors.As(err, &op):
		return "the API server cannot be reached: " + op.Error()
	case errors.As(err, &unknown), errors.As(err, &name):
		return "the API server shows a certificate that is not trusted"
	}
	return "the API server gave no usable answer"
}

var oneWord = regexp.MustCompile(`^[A-Za-z]{1,40}$`)

// reasonWord passes only what a StatusReason looks like: a webhook can choose it.
func reasonWord(s string) string {
	if oneWord.MatchString(s) {
		return s
	}
	return "(no reason)"
}
