package manifest

import (
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// KubernetesSchema is the schema's name of a Kubernetes Secret.
const KubernetesSchema = "kubernetes-secret"

// KubernetesSecret is what only the Kubernetes form of a secret states.
type KubernetesSecret struct {
	Type        string // such as kubernetes.io/tls; Opaque where none stands
	Namespace   string // "" where none stands
	Labels      []Pair
	Annotations []Pair // without sealward's own binding
	Immutable   *bool  // nil where none stands
}

// Pair is one label or annotation.
type Pair struct{ Key, Value string }

// The types of Kubernetes Secrets with rules of their own.
const (
	TypeOpaque           = "Opaque"
	TypeTLS              = "kubernetes.io/tls"
	TypeDockerConfigJSON = "kubernetes.io/dockerconfigjson"
	TypeDockerConfig     = "kubernetes.io/dockercfg"
	TypeBasicAuth        = "kubernetes.io/basic-auth"
	TypeSSHAuth          = "kubernetes.io/ssh-auth"
)

const (
	annotationPrefix = "sealward.dev/"
)

// LastApplied is the annotation in which kubectl repeats a whole object, the
// values of a Secret in the clear among it.
const LastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// ClusterMetadata lists the fields of metadata that a cluster writes, or that mean
// nothing outside it.
func ClusterMetadata() []string {
	return []string{"creationTimestamp", "uid", "resourceVersion", "generation", "managedFields", "selfLink", "ownerReferences", "finalizers", "generateName", "deletionTimestamp", "deletionGracePeriodSeconds"}
}

// The rules of Kubernetes for the names of labels and annotations, and for the
// values of labels.
var (
	qualifiedName = regexp.MustCompile(`^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`)
	labelValue    = regexp.MustCompile(`^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$`)
	secretKind    = regexp.MustCompile(`^[-A-Za-z0-9._/]+$`)
	sealedName    = regexp.MustCompile(SealedPattern)
)

// isKubernetes tells the two forms apart.
func isKubernetes(f *fieldSet) bool { return f.values["apiVersion"] != nil || f.values["kind"] != nil }

// kubernetes reads a v1 Secret.
func (d *decoder) kubernetes(m *Manifest, f *fieldSet) {
	m.Form, m.Kind, m.Version = Kubernetes, KindSecret, "v1"
	k := &KubernetesSecret{Type: TypeOpaque}
	m.Secret = &Secret{Kubernetes: k}
	if v, n := f.text("apiVersion", true); n != nil && v != "v1" {
		d.fail(n, "apiVersion", "is %s; the only object of Kubernetes that is a manifest here is a v1 Secret", quote(v))
	}
	if v, n := f.text("kind", true); n != nil && v != "Secret" {
		d.fail(n, "kind", "is %s; the only object of Kubernetes that is a manifest here is a v1 Secret", quote(v))
	}
	if v, n := f.text("type", false); n != nil {
		if !secretKind.MatchString(v) || len(v) > MaxKey {
			d.fail(n, "type", "is no type of a Kubernetes Secret, such as Opaque or kubernetes.io/tls")
		}
		k.Type = v
	}
	m.Secret.Type = typeOfKubernetes(k.Type)
	if v := f.take("immutable"); v != nil {
		if v.Kind != yaml.ScalarNode || v.Tag != "!!bool" {
			d.fail(v, "immutable", "must be true or false")
		}
		yes := strings.EqualFold(v.Value, "true")
		k.Immutable = &yes
	}
	d.metadata(m, f)
	seen := map[Key]int{}
	present := d.entries(m, f, "data", true, seen)
	present = d.entries(m, f, "stringData", false, seen) || present
	if !present {
		d.fail(f.node, "", "has no values; at least one of data and stringData must be there")
	}
	if len(seen) > maxKeys {
		d.fail(f.node, "data", "has %d keys; at most %d", len(seen), maxKeys)
	}
	d.takeSOPS(f)
	f.done("apiVersion, kind, metadata, type, immutable, data, stringData")
}

// typeOfKubernetes maps the types of Kubernetes to those of DataOS.
func typeOfKubernetes(t string) SecretType {
	switch t {
	case TypeOpaque:
		return KeyValue
	case TypeDockerConfigJSON:
		return CloudKernelImagePull
	case TypeTLS:
		return Certificate
	}
	return CloudKernel
}

func (d *decoder) metadata(m *Manifest, f *fieldSet) {
	const section = "metadata"
	node := f.take(section)
	if node == nil {
		d.fail(f.node, section, "is missing")
		return
	}
	meta := d.fields(node, section)
	if meta == nil {
		return
	}
	k := m.Secret.Kubernetes
	if s, n := meta.text("name", true); n != nil {
		name, err := ParseName(s)
		if err != nil {
			d.fail(n, "metadata.name", "%s", err)
		}
		m.Name = name
	}
	if s, n := meta.text("namespace", false); n != nil {
		ws, err := ParseWorkspace(s)
		if err != nil {
			d.fail(n, "metadata.namespace", "%s", err)
		}
		m.Workspace, k.Namespace = ws, s
	}
	k.Labels = d.pairs(meta, "labels", func(p Pair, v *yaml.Node) bool {
		if len(p.Value) > 63 || !labelValue.MatchString(p.Value) {
			d.fail(v, "metadata.labels", "a value breaks Kubernetes' rule: letters, digits, - _ and ., starting and ending with a letter or digit, at most 63 characters")
		}
		return true
	})
	acl := Read
	if strings.HasSuffix(m.Name.String(), "-rw") {
		acl = ReadWrite
	}
	m.Secret.ACL = acl
	if n := meta.values["annotations"]; n != nil {
		d.refuseComments(n, "metadata.annotations") // one of them is a sealed value
	}
	k.Annotations = d.pairs(meta, "annotations", func(p Pair, v *yaml.Node) bool { return d.annotation(m, p, v) })
	for _, name := range ClusterMetadata() {
		if meta.take(name) != nil {
			d.fail(meta.keys[name], join(section, name), "is written by the cluster, or means nothing outside it; remove it")
		}
	}
	meta.done("name, namespace, labels, annotations")
}

// annotation reads what sealward keeps in annotations. keep is false for the
// binding, which is no annotation of the secret's own.
func (d *decoder) annotation(m *Manifest, p Pair, v *yaml.Node) (keep bool) {
	field := join("metadata.annotations", p.Key)
	own, ours := strings.CutPrefix(p.Key, annotationPrefix)
	switch {
	case p.Key == LastApplied:
		d.fail(v, "metadata.annotations", "kubectl's last-applied-configuration repeats the values in the clear; remove it, and if it was committed, treat them as leaked").Leaked = m.Sealed
	case !ours:
	case own == "binding":
		if !m.Sealed {
			d.fail(v, field, "stands in a manifest that is not sealed; remove it and seal the manifest again")
		} else if !IsSealedValue(p.Value) {
			d.fail(v, field, "is not a sealed value")
		}
		m.Secret.Binding = p.Value
		return false
	case own == "acl":
		acl, err := ParseACL(p.Value)
		if err != nil {
			d.fail(v, field, "%s", err)
		}
		m.Secret.ACL = acl
		d.checkSuffix(m, v, field)
	case own == "owner":
		if strings.ContainsAny(p.Value, "\r\n") {
			d.fail(v, field, "must be one line")
		}
		m.Owner = p.Value
	case own == "expires": // Expiry reads it
	default:
		d.fail(v, field, "is no annotation of sealward; known are sealward.dev/acl, sealward.dev/owner, sealward.dev/expires and sealward.dev/binding")
	}
	return true
}

// pairs reads labels or annotations; each says whether a pair is kept.
func (d *decoder) pairs(meta *fieldSet, section string, each func(Pair, *yaml.Node) bool) []Pair {
	node := meta.take(section)
	if node == nil {
		return nil
	}
	path := join(meta.prefix, section)
	f := d.fields(node, path)
	if f == nil {
		return nil
	}
	var out []Pair
	for _, name := range f.order {
		k, v := f.keys[name], f.values[name]
		prefix, base, slash := strings.Cut(name, "/")
		if !slash {
			prefix, base = "", name
		}
		switch {
		case !qualifiedName.MatchString(name) || len(base) > 63 || len(prefix) > 253:
			d.fail(k, path, "a name breaks Kubernetes' rule: letters, digits, - _ and ., at most 63, with or without a domain and / before them")
		case sealedName.MatchString(name) && name != BindingAnnotation || name == BindingAnnotation && section != "annotations":
			// SOPS would seal its value.
			d.fail(k, path, "a name is one that SOPS seals by (data, stringData, binaryData, binding); choose another")
		case v.Kind != yaml.ScalarNode || v.Tag == "!!null":
			d.fail(v, path, "a value must be a text")
		default:
			if p := (Pair{name, v.Value}); each(p, v) {
				out = append(out, p)
			}
		}
	}
	return out
}
