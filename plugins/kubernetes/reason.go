package kubernetes

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Remedy says what people do about a reason.
func (r Reason) Remedy() string {
	switch r {
	case Inexpressible:
		return "state the permission without deny and without keys, or let such secrets be projected with kubernetes.project.inexpressible: allow"
	case PolicyBroken:
		return "mend the broken file under grants/; sealward status names it"
	case Contested:
		return "let one repository claim the workspace: list it in the workspaces of one source"
	case Collision:
		return "rename one of the two secrets, or give their workspaces different namespaces"
	case NoTarget:
		return "give the workspace a namespace that may be projected into, in kubernetes.project.namespaces"
	case TooLarge:
		return "split the secret; Kubernetes holds 1 MiB in one Secret"
	case InvalidData:
		return "change what the message names in the manifest"
	case NotOurs:
		return "rename the secret, remove the object, or hand it over: kubectl annotate it with " + AdoptAnnotation + "=true"
	case NamespaceMissing:
		return "create the namespace, with the agent's Role and RoleBinding in it"
	case NamespaceTerminating:
		return "nothing, if the namespace is to go; else create it again when it is gone"
	case Forbidden:
		return "give the agent's service account its Role in the namespace"
	case QuotaExceeded:
		return "raise the namespace's ResourceQuota, or project fewer secrets into it"
	case DeniedByWebhook:
		return "change what the webhook or policy asks for, or exempt sealward's objects from it"
	case Conflict:
		return "find who else writes the object: kubectl get --show-managed-fields names them"
	case Throttled:
		return "nothing, if it passes: the agent waits as long as the API server asks; else look at its priority and fairness settings"
	case Unavailable:
		return "nothing, if the API server comes back: the agent tries again with growing waits"
	case PruneHeld:
		return "see that the repository is whole; then sealward agent approve COMMIT, with the commit of the message"
	}
	return "see the agent's log"
}

// failure is an error of the cluster, told without its values.
type failure struct {
	reason  Reason
	message string
	// wide failures are the same for every object of the kind in the namespace, gate
	// failures for every object of the cluster.
	wide, gate bool
	after      time.Duration // how long the API server asks to wait
}

// What the API server says before words of others. Only names are taken from it, by
// the letters that Kubernetes allows in them.
var (
	byWebhook = regexp.MustCompile(`^admission webhook "([-.a-z0-9]{1,253})" (?:denied the request(?:: )?|does not support)`)
	noWebhook = regexp.MustCompile(`^Internal error occurred: failed calling webhook "([-.a-z0-9]{1,253})"(?:: )?`)
	byPolicy  = regexp.MustCompile(`^[.a-z0-9]+ "[-.a-z0-9:]*" is forbidden: ValidatingAdmissionPolicy '([-.a-z0-9]{1,253})' (?:with binding '[-.a-z0-9]{1,253}' )?denied request(?:: )?`)
	byQuota   = regexp.MustCompile(`^[.a-z0-9]+ "[-.a-z0-9:]*" is forbidden: exceeded quota: ([-.a-z0-9]{1,253}), `)
	byRights  = regexp.MustCompile(`^[.a-z0-9]+(?: "[-.a-z0-9:]*")? is forbidden: User "[^"]*" cannot [a-z]+ resource`)
	byGrant   = regexp.MustCompile(`^[.a-z0-9]+ "[-.a-z0-9:]*" is forbidden: user "[^"]*" \(groups=.*\) is attempting to grant RBAC permissions not currently held`)
)

// explain tells an error without any word that may hold a value. obj is what was
// written, nil where nothing was.
func (e *Engine) explain(key Key, obj *Object, err error) failure {
	verb := "write"
	if op := (*opError)(nil); errors.As(err, &op) {
		verb = op.verb
	}
	what := fmt.Sprintf("%s %s/%s", key.Kind, key.Namespace, key.Name)
	if key.Name == "" {
		what = fmt.Sprintf("%ss of namespace %s", key.Kind, key.Namespace)
	}
	says := func(text string) string { return e.says(text, obj) }

	var status apierrors.APIStatus
	switch {
	case errors.Is(err, errNotOurs):
		return failure{reason: NotOurs, message: what + " exists and was not made by sealward; it is left as it is"}
	case errors.Is(err, errOthers):
		return failure{reason: NotOurs, message: what + " belongs to sealward agents of another namespace; it is left as it is"}
	case errors.Is(err, errDeleting):
		return failure{reason: Conflict, message: deleting(key)}
	case errors.Is(err, errChanging):
		return failure{reason: Conflict, message: what + " changes while it is written"}
	case errors.Is(err, errPanic):
		return failure{reason: OtherReason, message: what + " is not written: writing it panicked"}
	case errors.Is(err, errRecord):
		return failure{reason: OtherReason, message: what + " is not written, because the audit cannot be written"}
	case errors.Is(err, context.DeadlineExceeded) && !errors.As(err, &status):
		return failure{reason: Unavailable, message: fmt.Sprintf("the API server did not answer within %s to %s %s", requestTimeout, verb, what)}
	case !errors.As(err, &status):
		if ue := (*url.Error)(nil); errors.As(err, &ue) {
			return failure{reason: Unavailable, gate: true, message: "the API server does not answer" + says(ue.Err.Error())}
		}
		return failure{reason: OtherReason, message: "the API server's answer to " + verb + " " + what + " was not understood"}
	}

	s := status.Status()
	if m := byWebhook.FindStringSubmatchIndex(s.Message); m != nil {
		return failure{reason: DeniedByWebhook, message: fmt.Sprintf("admission webhook %s denies to %s %s", s.Message[m[2]:m[3]], verb, what) + says(s.Message[m[1]:])}
	}
	if m := noWebhook.FindStringSubmatchIndex(s.Message); m != nil {
		return failure{reason: DeniedByWebhook, message: fmt.Sprintf("admission webhook %s cannot be asked whether to %s %s", s.Message[m[2]:m[3]], verb, what) + says(s.Message[m[1]:])}
	}
	if m := byPolicy.FindStringSubmatchIndex(s.Message); m != nil {
		return failure{reason: DeniedByWebhook, message: fmt.Sprintf("ValidatingAdmissionPolicy %s denies to %s %s", s.Message[m[2]:m[3]], verb, what) + says(s.Message[m[1]:])}
	}
	after := time.Duration(0)
	if seconds, ok := apierrors.SuggestsClientDelay(err); ok {
		after = min(time.Duration(seconds)*time.Second, 2*time.Minute)
	}
	switch {
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return failure{reason: NamespaceTerminating, wide: true, message: "namespace " + key.Namespace + " is being deleted"}
	case namespaceMissing(err):
		return failure{reason: NamespaceMissing, wide: true, message: "namespace " + key.Namespace + " does not exist"}
	case apierrors.IsTooManyRequests(err):
		return failure{reason: Throttled, gate: true, after: after, message: "the API server asks to wait"}
	case apierrors.IsUnauthorized(err):
		return failure{reason: Forbidden, wide: true, message: "the API server does not accept the agent's token"}
	case apierrors.IsForbidden(err):
		if m := byQuota.FindStringSubmatchIndex(s.Message); m != nil {
			return failure{reason: QuotaExceeded, message: fmt.Sprintf("quota %s does not allow to %s %s", s.Message[m[2]:m[3]], verb, what) + says(s.Message[m[1]:])}
		}
		if byRights.MatchString(s.Message) {
			return failure{reason: Forbidden, wide: true, message: fmt.Sprintf("the agent's service account may not %s %s in namespace %s", verb, key.Kind.resource(), key.Namespace)}
		}
		if byGrant.MatchString(s.Message) {
			return failure{reason: Forbidden, message: fmt.Sprintf("the agent's service account may not %s %s: it does not hold the rights that this would give", verb, what)}
		}
		return failure{reason: Forbidden, message: fmt.Sprintf("the API server forbids to %s %s", verb, what) + says(s.Message)}
	case apierrors.IsRequestEntityTooLargeError(err), s.Code == http.StatusRequestEntityTooLarge, tooLong(s), strings.Contains(s.Message, "etcdserver: request is too large"):
		return failure{reason: TooLarge, message: what + " is larger than Kubernetes accepts"}
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		return failure{reason: InvalidData, message: "the API server refuses " + what + " as invalid" + says(s.Message)}
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
		return failure{reason: Conflict, message: what + " was changed by somebody else at the same moment"}
	case s.Code >= 500:
		return failure{reason: Unavailable, after: after, message: fmt.Sprintf("the API server failed to %s %s with status %d", verb, what, s.Code) + says(s.Message)}
	}
	return failure{reason: OtherReason, message: fmt.Sprintf("the API server refuses to %s %s with status %d", verb, what, s.Code) + says(s.Message)}
}

func deleting(key Key) string {
	return fmt.Sprintf("%s %s/%s is being deleted, and a finalizer holds it", key.Kind, key.Namespace, key.Name)
}

// namespaceMissing tells a missing namespace from a missing object.
func namespaceMissing(err error) bool {
	var status apierrors.APIStatus
	if !apierrors.IsNotFound(err) || !errors.As(err, &status) {
		return false
	}
	d := status.Status().Details
	return d != nil && d.Kind == "namespaces"
}

func tooLong(s metav1.Status) bool {
	if s.Details == nil {
		return false
	}
	for _, c := range s.Details.Causes {
		if c.Type == metav1.CauseType("FieldValueTooLong") && c.Field == "data" {
			return true
		}
	}
	return false
}

const (
	withheld  = "; its words are withheld, because they may hold a value"
	saysMost  = 300 // runes of foreign text that are shown; twice as many are looked at
	window    = 8   // as many bytes of a value in a row are the value
	shortText = 4   // shorter values of other secrets count as whole words only
	searches  = 50  // texts of one plan that are compared with every value
)

// says gives the API server's own words, or those of a webhook that it passes on, if
// they hold nothing of a value: neither of the object that was written nor of any other
// of the plan. In doubt they are withheld.
func (e *Engine) says(text string, obj *Object) string {
	if text = strings.TrimSpace(text); text == "" {
		return ""
	}
	if runes := []rune(text[:min(len(text), 8*saysMost)]); len(runes) > 2*saysMost {
		text = string(runes[:2*saysMost])
	} else {
		text = string(runes)
	}
	if obj != nil && obj.Secret != nil {
		for _, v := range obj.Secret.Data {
			if holds(text, v) {
				return withheld
			}
		}
	}
	if opaque(text) || !e.clean(text) {
		return withheld
	}
	short := strings.Join(strings.FieldsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
	if runes := []rune(short); len(runes) > saysMost {
		short = string(runes[:saysMost]) + "…"
	}
	return ": " + short
}

// clean compares a text with every value of the plan. It costs some milliseconds where
// there are many, so that a plan has a bounded number of it; the same text is compared once.
func (e *Engine) clean(text string) bool {
	e.mu.Lock()
	plan := e.plan
	verdict, known := e.texts[text]
	if !known && len(e.texts) >= searches {
		e.mu.Unlock()
		return false
	}
	e.mu.Unlock()
	if known {
		return verdict
	}
	words := map[string]bool{}
	for _, w := range strings.FieldsFunc(text, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }) {
		words[w] = true
	}
	verdict = true
	if plan != nil {
		for _, obj := range plan.Objects {
			if obj.Secret == nil {
				continue
			}
			for _, v := range obj.Secret.Data {
				if plain := string(v); len(v) >= shortText {
					verdict = verdict && !strings.Contains(text, plain) && !strings.Contains(text, base64.StdEncoding.EncodeToString(v))
				} else if len(v) > 0 {
					verdict = verdict && !words[plain]
				}
			}
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.plan == plan {
		e.texts[text] = verdict
	}
	return verdict
}

// holds reports that a text may show a value or a piece of it, in any of the forms in
// which programs print one.
func holds(text string, v []byte) bool {
	if len(v) == 0 {
		return false
	}
	lower := strings.ToLower(text)
	quoted, _ := json.Marshal(string(v))
	forms := []string{
		string(v), strings.Trim(string(quoted), `"`), strings.Trim(strconv.Quote(string(v)), `"`), strings.TrimSpace(string(v)),
		url.QueryEscape(string(v)), url.PathEscape(string(v)),
		strings.TrimRight(base64.StdEncoding.EncodeToString(v), "="), strings.TrimRight(base64.URLEncoding.EncodeToString(v), "="),
		hex.EncodeToString(v), strings.Trim(fmt.Sprint(v), "[]"),
	}
	for _, f := range forms {
		if f = strings.ToLower(f); f == "" {
			continue
		}
		if len(f) <= window {
			if strings.Contains(lower, f) {
				return true
			}
			continue
		}
		// Pieces of the text are looked for in the value: the text is the shorter one.
		for i := 0; i+window <= len(lower); i++ {
			if strings.Contains(f, lower[i:i+window]) {
				return true
			}
		}
	}
	return false
}

// opaque reports a run of letters without a space that no message needs, but an encoded value is.
func opaque(text string) bool {
	for _, word := range strings.FieldsFunc(text, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("+/=_%\\", r)
	}) {
		if len(word) >= 40 {
			return true
		}
	}
	return false
}
