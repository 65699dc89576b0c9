package kubernetes

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal"
)

const (
	// maxObject bounds what an object may take in etcd, whose own bound is 1.5 MiB for a
	// request.
	maxObject = 1400 << 10
	// maxListed files of one secret are named in annotations, which Kubernetes bounds.
	maxListed = 200
)

// refusal is why a secret does not become an object. Its message never holds a value.
type refusal struct {
	reason  Reason
	message string
}

func refuse(reason Reason, format string, args ...any) *refusal {
	return &refusal{reason, fmt.Sprintf(format, args...)}
}

// HashedName is the name of an immutable Secret: the secret's name, and ten hexadecimal
// digits that stand for its files: of each the blob that Git has at its path. What is
// committed decides, never a value, so that the name tells nothing and whoever has the
// repository can compute it without a key (below the folder of the agent's source.path):
//
//	git ls-tree -r --format='%(objectname) %(path)' HEAD workspaces/orders/secrets/db.yaml | sha256sum | cut -c1-10
//
// (or the folder of its parts).
func HashedName(name manifest.Name, blobs map[string]string) string {
	h := sha256.New()
	for _, path := range slices.Sorted(maps.Keys(blobs)) {
		// Neither has a space or a newline (manifest.Locate), so two sets never read alike.
		fmt.Fprintf(h, "%s %s\n", blobs[path], path)
	}
	return name.String() + "-" + hex.EncodeToString(h.Sum(nil))[:10]
}

// objectName is the name of the Secret that a secret becomes.
func (p *Planner) objectName(sec *unseal.Secret) string {
	if !p.Immutable {
		return sec.Name.String()
	}
	blobs := make(map[string]string, len(sec.Parts))
	for _, r := range sec.Parts {
		blobs[r.Path] = r.Good.Provenance.Blob
	}
	return HashedName(sec.Name, blobs)
}

// shownPath is how messages name a secret's files.
func shownPath(sec *unseal.Secret) string {
	if len(sec.Parts) == 1 {
		return sec.Parts[0].Path
	}
	return path.Dir(sec.Parts[0].Path)
}

// secretOf makes the Secret that a secret becomes, but for its namespace, or says why
// it becomes none. Values are shared with sec, not copied.
//
// Of a secret in parts the first states type and metadata, as everywhere.
func (p *Planner) secretOf(sec *unseal.Secret, repository string) (*corev1.Secret, *refusal) {
	head := sec.Parts[0].Good
	out := &corev1.Secret{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: string(KindSecret)},
		ObjectMeta: metav1.ObjectMeta{Name: p.objectName(sec), Labels: map[string]string{}, Annotations: map[string]string{}},
	}
	data, why := dataOf(sec)
	if why != nil {
		return nil, why
	}
	out.Data = data
	out.Type = corev1.SecretType(unseal.KubernetesType(head.Type, head.Kubernetes, func(key string) bool { return data[key] != nil }))
	if k := head.Kubernetes; k != nil {
		own(out.Labels, k.Labels)
		own(out.Annotations, k.Annotations)
		if k.Immutable != nil && *k.Immutable {
			out.Immutable = k.Immutable
		}
	}
	if p.Immutable {
		yes := true
		out.Immutable = &yes
	}
	p.label(out.Labels, repository, sec.Scope)
	out.Labels[SecretLabel] = sec.Name.String()
	out.Annotations[PathAnnotation] = listed(sec, func(from unseal.Provenance) string { return from.Path })
	out.Annotations[BlobAnnotation] = listed(sec, func(from unseal.Provenance) string { return from.Blob })
	if commit := newestCommit(sec); commit != "" {
		out.Annotations[CommitAnnotation] = commit
	}
	if why := check(sec, out); why != nil {
		return nil, why
	}
	return out, nil
}

// label sets the labels of what sealward makes.
func (p *Planner) label(labels map[string]string, repository string, ws manifest.Workspace) {
	labels[ManagedBy], labels[AgentLabel] = FieldManager, p.Agent
	labels[RepositoryLabel], labels[WorkspaceLabel] = repository, ws.String()
}

// own takes labels or annotations of a manifest over: none that means something to
// sealward, or that kustomize and kubectl keep for themselves.
func own(to map[string]string, pairs []manifest.Pair) {
	for _, pair := range pairs {
		domain, _, _ := strings.Cut(pair.Key, "/")
		switch {
		case pair.Key == ManagedBy, pair.Key == manifest.LastApplied:
		case domain == "sealward.dev", strings.HasSuffix(domain, ".sealward.dev"):
		case domain == "config.kubernetes.io", domain == "internal.config.kubernetes.io", domain == "kustomize.config.k8s.io":
		default:
			to[pair.Key] = pair.Value
		}
	}
}

// dataOf gives the fields of the Secret.
func dataOf(sec *unseal.Secret) (map[string][]byte, *refusal) {
	properties := sec.Parts[0].Good.Type == manifest.KeyValueProperties
	file := sec.Name.String() + ".properties"
	data := map[string][]byte{}
	var folded []unseal.Value
	for _, r := range sec.Parts {
		for _, v := range r.Good.Values {
			// Where it stood in the manifest does not matter: odd text is kept as binary.
			if properties && utf8.Valid(v.Data) && !bytes.Contains(v.Data, []byte{0}) {
				folded = append(folded, v)
				continue
			}
			if _, twice := data[v.Key]; twice || properties && v.Key == file {
				return nil, refuse(InvalidData, "%s: two values would be the field %s of one Secret; rename one of the keys", shownPath(sec), v.Key)
			}
			// A Secret's field is never null.
			data[v.Key] = v.Data
			if v.Data == nil {
				data[v.Key] = []byte{}
			}
		}
	}
	if len(folded) == 0 {
		return data, nil
	}
	text, err := unseal.PropertiesFile(folded)
	if err != nil { // names a key only
		return nil, refuse(InvalidData, "%s: %s: %s", shownPath(sec), file, err)
	}
	data[file] = text
	return data, nil
}

// listed joins something of a secret's files with commas, in the order of their paths.
// A list that is too long ends with how many more there are.
func listed(sec *unseal.Secret, of func(unseal.Provenance) string) string {
	var texts []string
	for _, r := range sec.Parts[:min(len(sec.Parts), maxListed)] {
		texts = append(texts, of(r.Good.Provenance))
	}
	if more := len(sec.Parts) - maxListed; more > 0 {
		texts = append(texts, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(texts, ",")
}

// newestCommit of those that gave the files their content, by the authors' times.
func newestCommit(sec *unseal.Secret) string {
	newest := sec.Parts[0].Good.Provenance
	for _, r := range sec.Parts {
		if r.Good.Provenance.Time.After(newest.Time) {
			newest = r.Good.Provenance
		}
	}
	return newest.Commit
}

// check holds a Secret to what the API server would refuse. It would do so at each
// try, and its answer could repeat a value.
func check(sec *unseal.Secret, s *corev1.Secret) *refusal {
	at := shownPath(sec)
	if s.Type == corev1.SecretTypeServiceAccountToken {
		// The cluster would put a token into it, of any service account that its
		// annotation names: whoever may merge a secret would be that service account.
		return refuse(InvalidData, "%s: is of type %s, which the cluster fills with the token of a service account; make such a token in the cluster (kubectl create token)", at, s.Type)
	}
	if why := validation.IsDNS1123Subdomain(s.Name); why != nil {
		return refuse(InvalidData, "%s: %.60q is no name of a Secret: %s", at, s.Name, why[0])
	}
	values := make([]seal.Value, 0, len(s.Data))
	size, rest := 0, 0
	for _, name := range slices.Sorted(maps.Keys(s.Data)) {
		key, err := manifest.ParseKey(name)
		if err != nil {
			return refuse(InvalidData, "%s: %s", at, err)
		}
		values = append(values, seal.Value{Key: key, Data: s.Data[name]})
		size += len(s.Data[name])
		rest += 3 * len(name) // in data, and in managedFields as path and punctuation
	}
	if size > corev1.MaxSecretSize {
		return refuse(TooLarge, "%s: has values of %d bytes; a Secret of Kubernetes has at most %d: split it into several secrets, or serve it by the agent alone", at, size, corev1.MaxSecretSize)
	}
	// What the API server wants of its type, and no rule of DataOS's types beside it.
	kind := &manifest.Manifest{File: at, Form: manifest.Kubernetes, Name: sec.Name, Secret: &manifest.Secret{Type: manifest.KeyValue, Kubernetes: &manifest.KubernetesSecret{Type: string(s.Type)}}}
	if err := seal.CheckType(kind, values); err != nil { // never repeats a value
		return refuse(InvalidData, "%s", err)
	}
	for key, value := range s.Labels {
		if validation.IsQualifiedName(key) != nil || validation.IsValidLabelValue(value) != nil {
			return refuse(InvalidData, "%s: Kubernetes takes no such label as it has in %.80q", at, key)
		}
		rest += len(key) + len(value)
	}
	for key, value := range s.Annotations {
		if validation.IsQualifiedName(strings.ToLower(key)) != nil {
			return refuse(InvalidData, "%s: Kubernetes takes no such annotation as %.80q", at, key)
		}
		rest += 2*len(key) + len(value)
	}
	if err := apivalidation.ValidateAnnotationsSize(s.Annotations); err != nil {
		return refuse(TooLarge, "%s: has annotations of more than %d bytes, with those of sealward; make them smaller", at, apivalidation.TotalAnnotationSizeLimitB)
	}
	if size+rest > maxObject {
		return refuse(TooLarge, "%s: has names, annotations and values of %d bytes; an object of Kubernetes has at most %d: split it into several secrets", at, size+rest, maxObject)
	}
	return nil
}

// shortHash tells paths apart in names.
func shortHash(text string) string {
	h := sha256.New()
	_, _ = io.WriteString(h, text)
	return hex.EncodeToString(h.Sum(nil))[:10]
}
