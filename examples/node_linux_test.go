package examples

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/sealward/sealward/plugins/kubernetes/kubetest"
)

// node stands in for the kubelet and the controller of StatefulSets, which do not run
// beside the test's API server. It runs the pods of StatefulSets from what their manifests
// say, as far as sealward rests on it: the image's files and no others, by chroot; user,
// group and modes; Secrets, ConfigMaps and tokens mounted as links into folders that are
// exchanged, and exchanged when they change; claims that outlive a pod; probes; SIGTERM.
//
// All pods share the machine's network, so each listens at an address of its own.
type node struct {
	t       *testing.T
	client  kubernetes.Interface
	host    string // of the API server, which pods are told of
	port    string
	ca      []byte // of the API server
	dir     string
	program string // the image's only one
	trust   []byte // the image's CA certificates
	// elsewhere replaces what is at another place here than in a cluster, in ConfigMaps.
	elsewhere []string

	mu   sync.Mutex
	pods map[string]*pod // by name
}

type pod struct {
	node    *node
	name    string
	address string // in the place of 0.0.0.0:8420
	root    string
	log     string
	object  *corev1.Pod
	made    string // the template that it was made of
	mounted map[string]map[string]mountedFile
	token   string
	ends    time.Time // of the token

	process *exec.Cmd
	ended   chan struct{}
	ready   bool
}

type mountedFile struct {
	data string
	mode os.FileMode
}

// newNode starts a node, which runs until the test ends. apiServer is where its pods reach
// the API server.
func newNode(t *testing.T, c *kubetest.Cluster, apiServer string, ca []byte, trust []byte, elsewhere ...string) *node {
	t.Helper()
	needRoot(t)
	u, err := url.Parse(apiServer)
	if err != nil {
		t.Fatal(err)
	}
	program, err := exec.LookPath("sealward")
	if err != nil {
		t.Fatal(err)
	}
	// Every folder on the way must be open to the pods' user.
	dir, err := os.MkdirTemp("", "sealward-node-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, client: c.Client, host: u.Hostname(), port: u.Port(), ca: ca, dir: dir, program: program, trust: trust, elsewhere: elsewhere, pods: map[string]*pod{}}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		said := ""
		for ctx.Err() == nil {
			err := n.sync(ctx)
			if err != nil && ctx.Err() == nil && err.Error() != said {
				said = err.Error()
				t.Logf("node: %v", err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
		for _, p := range n.pods {
			p.stop()
			if t.Failed() {
				text, _ := os.ReadFile(p.log)
				t.Logf("%s said:\n%s", p.name, text)
			}
		}
		_ = os.RemoveAll(dir)
	})
	return n
}

// needRoot skips a test where a process cannot be given another user and root folder.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("CI is to run this as root: pods run in a root folder of their own, as another user")
	}
	t.Skip("only root can give a process another root folder and user")
}

// addressOf is where a pod of that name listens, or will.
func (n *node) addressOf(name string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.pod(name).address
}

// pod is made when it is first asked for. The caller holds mu.
func (n *node) pod(name string) *pod {
	if n.pods[name] == nil {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			n.t.Fatal(err)
		}
		defer l.Close()
		n.pods[name] = &pod{node: n, name: name, address: l.Addr().String(), root: filepath.Join(n.dir, name), log: filepath.Join(n.dir, name+".log")}
	}
	return n.pods[name]
}

// sync is one round: everything that is not as the manifests say goes one step towards it.
func (n *node) sync(ctx context.Context) error {
	sets, err := n.client.AppsV1().StatefulSets("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	wanted := map[string]bool{}
	var errs []error
	for _, set := range sets.Items {
		if set.DeletionTimestamp != nil {
			continue
		}
		for i := range *set.Spec.Replicas {
			wanted[fmt.Sprintf("%s-%d", set.Name, i)] = true
		}
		if err := n.syncSet(ctx, &set); err != nil {
			errs = append(errs, fmt.Errorf("%s/%s: %w", set.Namespace, set.Name, err))
		}
	}
	n.mu.Lock()
	all := slices.Collect(maps.Values(n.pods))
	n.mu.Unlock()
	for _, p := range all {
		if !wanted[p.name] && p.object != nil {
			errs = append(errs, p.remove(ctx))
		}
	}
	return errors.Join(errs...)
}

func (n *node) syncSet(ctx context.Context, set *appsv1.StatefulSet) error {
	text, err := json.Marshal(set.Spec.Template)
	if err != nil {
		return err
	}
	updated, ready := int32(0), int32(0)
	changing := false // one pod after the other
	var errs []error
	for i := range *set.Spec.Replicas {
		n.mu.Lock()
		p := n.pod(fmt.Sprintf("%s-%d", set.Name, i))
		n.mu.Unlock()
		if err := p.sync(ctx, set, string(text), &changing); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.name, err))
		}
		if p.object != nil && p.made == string(text) {
			updated++
			if p.ready {
				ready++
			}
		}
		changing = changing || !p.ready && set.Status.UpdateRevision != "" // of the first start all go at once
	}
	status := appsv1.StatefulSetStatus{ObservedGeneration: set.Generation, Replicas: *set.Spec.Replicas, ReadyReplicas: ready, AvailableReplicas: ready, UpdatedReplicas: updated, CurrentReplicas: updated, UpdateRevision: fmt.Sprint(set.Generation), CurrentRevision: fmt.Sprint(set.Generation)}
	if !equal(status, set.Status) {
		set.Status = status
		if _, err := n.client.AppsV1().StatefulSets(set.Namespace).UpdateStatus(ctx, set, metav1.UpdateOptions{}); err != nil && !apierrors.IsConflict(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func equal(a, b any) bool {
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return bytes.Equal(x, y)
}

func (p *pod) sync(ctx context.Context, set *appsv1.StatefulSet, template string, changing *bool) error {
	pods := p.node.client.CoreV1().Pods(set.Namespace)
	if p.object != nil {
		now, err := pods.Get(ctx, p.name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err) || err == nil && (now.DeletionTimestamp != nil || now.UID != p.object.UID):
			return p.remove(ctx)
		case err != nil:
			return err
		}
		if p.made != template {
			if *changing {
				return nil
			}
			*changing = true
			return p.remove(ctx)
		}
	}
	if p.object == nil {
		if err := p.create(ctx, set, template); err != nil {
			return err
		}
	}
	if err := p.mount(ctx); err != nil { // and nothing runs, as with a kubelet
		return err
	}
	if p.process == nil {
		return p.start()
	}
	select {
	case <-p.ended:
		p.process = nil
	default:
	}
	return p.probe(ctx)
}

// create makes the Pod, as the controller does; the namespace may refuse it.
func (p *pod) create(ctx context.Context, set *appsv1.StatefulSet, template string) error {
	spec := set.Spec.Template.Spec.DeepCopy()
	spec.NodeName, spec.Hostname, spec.Subdomain = "node", p.name, set.Spec.ServiceName
	for _, claim := range set.Spec.VolumeClaimTemplates {
		spec.Volumes = append(spec.Volumes, corev1.Volume{Name: claim.Name, VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim.Name + "-" + p.name}}})
	}
	object, err := p.node.client.CoreV1().Pods(set.Namespace).Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: p.name, Labels: set.Spec.Template.Labels, Annotations: set.Spec.Template.Annotations}, Spec: *spec}, metav1.CreateOptions{FieldValidation: "Strict"})
	if err != nil {
		return err
	}
	p.object, p.made, p.mounted, p.token, p.ready = object, template, map[string]map[string]mountedFile{}, "", false
	return p.image()
}

// remove ends the process and takes the Pod away; claims stay.
func (p *pod) remove(ctx context.Context) error {
	p.stop()
	now := int64(0)
	err := p.node.client.CoreV1().Pods(p.object.Namespace).Delete(ctx, p.name, metav1.DeleteOptions{GracePeriodSeconds: &now})
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	p.object, p.made = nil, ""
	return nil
}

func (p *pod) stop() {
	p.ready = false
	if p.process == nil {
		return
	}
	_ = p.process.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(time.Duration(*p.object.Spec.TerminationGracePeriodSeconds) * time.Second):
		p.node.t.Errorf("%s did not end in its time", p.name)
		_ = p.process.Process.Kill()
		<-p.ended
	}
	p.process = nil
}

// image lays the image's files out, which nobody but root may change, and the volumes'
// mount points. Of an earlier pod only claims are left.
func (p *pod) image() error {
	keep := map[string]bool{}
	c := p.object.Spec.Containers[0]
	claim := func(volume string) bool {
		return slices.ContainsFunc(p.object.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == volume && v.PersistentVolumeClaim != nil })
	}
	for _, m := range c.VolumeMounts {
		if !claim(m.Name) {
			if err := os.RemoveAll(filepath.Join(p.root, m.MountPath)); err != nil {
				return err
			}
		}
		keep[m.Name] = true
		dir := filepath.Join(p.root, m.MountPath)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if m.ReadOnly {
			continue
		}
		if err := os.Chown(dir, 0, int(*p.object.Spec.SecurityContext.FSGroup)); err != nil {
			return err
		}
		if err := os.Chmod(dir, 0o770|os.ModeSetgid); err != nil {
			return err
		}
	}
	for _, v := range p.object.Spec.Volumes {
		if !keep[v.Name] {
			return fmt.Errorf("volume %s is mounted nowhere", v.Name)
		}
	}
	certs := filepath.Join(p.root, "etc/ssl/certs")
	if err := os.MkdirAll(certs, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(certs, "ca-certificates.crt"), p.node.trust, 0o644); err != nil {
		return err
	}
	text, err := os.ReadFile(p.node.program)
	if err != nil {
		return err
	}
	_ = os.Remove(filepath.Join(p.root, "sealward"))
	return os.WriteFile(filepath.Join(p.root, "sealward"), text, 0o755)
}

// mount brings what is mounted up to date.
func (p *pod) mount(ctx context.Context) error {
	for _, m := range p.object.Spec.Containers[0].VolumeMounts {
		i := slices.IndexFunc(p.object.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name })
		if i < 0 {
			return fmt.Errorf("there is no volume %s", m.Name)
		}
		files, err := p.files(ctx, p.object.Spec.Volumes[i])
		if err != nil {
			return fmt.Errorf("volume %s: %w", m.Name, err)
		}
		if files == nil || maps.Equal(files, p.mounted[m.Name]) {
			continue
		}
		if err := exchange(filepath.Join(p.root, m.MountPath), files, int(*p.object.Spec.SecurityContext.FSGroup)); err != nil {
			return err
		}
		p.mounted[m.Name] = files
	}
	return nil
}

// exchange puts files into a folder as the kubelet's atomic writer does: they are links
// through ..data, which is a link that is replaced.
func exchange(dir string, files map[string]mountedFile, group int) error {
	fresh, err := os.MkdirTemp(dir, "..2026_")
	if err != nil {
		return err
	}
	if err := os.Chmod(fresh, 0o755); err != nil {
		return err
	}
	for name, f := range files {
		path := filepath.Join(fresh, name)
		if err := os.WriteFile(path, []byte(f.data), 0o600); err != nil {
			return err
		}
		if err := os.Chown(path, 0, group); err != nil {
			return err
		}
		if err := os.Chmod(path, f.mode); err != nil {
			return err
		}
	}
	before, _ := os.Readlink(filepath.Join(dir, "..data"))
	if err := os.Symlink(filepath.Base(fresh), filepath.Join(dir, "..data_tmp")); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
		return err
	}
	for name := range files {
		if err := os.Symlink("..data/"+name, filepath.Join(dir, name)); err != nil && !os.IsExist(err) {
			return err
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range left {
		if _, is := files[e.Name()]; !is && !strings.HasPrefix(e.Name(), "..") {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if before != "" {
		return os.RemoveAll(filepath.Join(dir, before))
	}
	return nil
}

// files of a volume; nil for one that holds what the pod writes.
func (p *pod) files(ctx context.Context, v corev1.Volume) (map[string]mountedFile, error) {
	files := map[string]mountedFile{}
	mode := func(m *int32) os.FileMode {
		if m == nil {
			return 0o644
		}
		return os.FileMode(*m) | 0o440 // because of fsGroup
	}
	switch {
	case v.Secret != nil:
		s, err := p.node.client.CoreV1().Secrets(p.object.Namespace).Get(ctx, v.Secret.SecretName, metav1.GetOptions{})
		if apierrors.IsNotFound(err) && v.Secret.Optional != nil && *v.Secret.Optional {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		for key, data := range s.Data {
			files[key] = mountedFile{string(data), mode(v.Secret.DefaultMode)}
		}
	case v.ConfigMap != nil:
		c, err := p.node.client.CoreV1().ConfigMaps(p.object.Namespace).Get(ctx, v.ConfigMap.Name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		to := strings.NewReplacer(append([]string{"0.0.0.0:8420", p.address}, p.node.elsewhere...)...)
		for key, text := range c.Data {
			files[key] = mountedFile{to.Replace(text), mode(v.ConfigMap.DefaultMode)}
		}
	case v.Projected != nil:
		for _, s := range v.Projected.Sources {
			switch {
			case s.ServiceAccountToken != nil:
				if err := p.renewToken(ctx, s.ServiceAccountToken); err != nil {
					return nil, err
				}
				files[s.ServiceAccountToken.Path] = mountedFile{p.token, 0o640}
			case s.ConfigMap != nil && s.ConfigMap.Name == "kube-root-ca.crt": // a controller makes it in each namespace
				files[s.ConfigMap.Items[0].Path] = mountedFile{string(p.node.ca), mode(v.Projected.DefaultMode)}
			case s.DownwardAPI != nil && s.DownwardAPI.Items[0].FieldRef.FieldPath == "metadata.namespace":
				files[s.DownwardAPI.Items[0].Path] = mountedFile{p.object.Namespace, mode(v.Projected.DefaultMode)}
			default:
				return nil, errors.New("the node does not know such a source")
			}
		}
	case v.EmptyDir != nil, v.PersistentVolumeClaim != nil:
		return nil, nil
	default:
		return nil, errors.New("the node does not know such a volume")
	}
	return files, nil
}

func (p *pod) renewToken(ctx context.Context, s *corev1.ServiceAccountTokenProjection) error {
	if time.Until(p.ends) > 5*time.Minute && p.token != "" {
		return nil
	}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: s.ExpirationSeconds, BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: p.name, UID: p.object.UID}}}
	if s.Audience != "" {
		request.Spec.Audiences = []string{s.Audience}
	}
	r, err := p.node.client.CoreV1().ServiceAccounts(p.object.Namespace).CreateToken(ctx, p.object.Spec.ServiceAccountName, request, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	p.token, p.ends = r.Status.Token, r.Status.ExpirationTimestamp.Time
	return nil
}

// start runs the container.
func (p *pod) start() error {
	c, pod := p.object.Spec.Containers[0], p.object.Spec.SecurityContext
	log, err := os.OpenFile(p.log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := &exec.Cmd{Path: "/sealward", Args: append([]string{"/sealward"}, c.Args...), Dir: "/", Stdout: log, Stderr: log}
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=" + p.name, "KUBERNETES_SERVICE_HOST=" + p.node.host, "KUBERNETES_SERVICE_PORT=" + p.node.port}
	for _, e := range c.Env {
		cmd.Env = append(cmd.Env, e.Name+"="+e.Value)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: p.root, Pdeathsig: syscall.SIGKILL,
		Credential: &syscall.Credential{Uid: uint32(*pod.RunAsUser), Gid: uint32(*pod.RunAsGroup), Groups: []uint32{uint32(*pod.FSGroup)}}}
	if err := cmd.Start(); err != nil {
		return err
	}
	p.process, p.ended = cmd, make(chan struct{})
	go func(ended chan struct{}) {
		_ = cmd.Wait()
		close(ended)
	}(p.ended)
	return nil
}

// probe asks what the manifest says, and tells the API server.
func (p *pod) probe(ctx context.Context) error {
	c := p.object.Spec.Containers[0]
	ready := p.process != nil && p.asks(ctx, c.ReadinessProbe) && p.asks(ctx, c.LivenessProbe)
	if ready == p.ready {
		return nil
	}
	p.ready = ready
	phase, status := corev1.PodRunning, corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	now := metav1.Now()
	started := true
	object := p.object.DeepCopy()
	object.ResourceVersion = ""
	object.Status = corev1.PodStatus{Phase: phase, StartTime: &now, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: status}},
		ContainerStatuses: []corev1.ContainerStatus{{Name: c.Name, Image: c.Image, Ready: ready, Started: &started, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}}}}}
	_, err := p.node.client.CoreV1().Pods(object.Namespace).UpdateStatus(ctx, object, metav1.UpdateOptions{})
	return err
}

func (p *pod) asks(ctx context.Context, probe *corev1.Probe) bool {
	c := p.object.Spec.Containers[0]
	get := probe.HTTPGet
	if i := slices.IndexFunc(c.Ports, func(port corev1.ContainerPort) bool {
		return port.Name == get.Port.StrVal && port.ContainerPort == 8420
	}); i < 0 {
		p.node.t.Errorf("a probe asks port %s, which the container does not name", get.Port.String())
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.ToLower(string(get.Scheme))+"://"+p.address+get.Path, nil)
	if err != nil {
		return false
	}
	// A kubelet does not verify certificates either.
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	resp, err := client.Do(r)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode >= 200 && resp.StatusCode < 400
}
