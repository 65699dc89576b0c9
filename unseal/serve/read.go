package serve

import (
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/access"
	"github.com/sealward/sealward/unseal/audit"
	"github.com/sealward/sealward/unseal/jsontext"
)

const (
	maxItems       = 100     // of one POST /v1/read
	maxBatchBytes  = 8 << 20 // of values in its answer
	maxProvenances = 16      // parts that get headers of their own
)

// selection is what one caller gets of one secret, or of some of its keys, at one
// moment.
type selection struct {
	ws       manifest.Workspace
	name     manifest.Name
	snapshot *unseal.Snapshot
	decision access.Decision
	secret   *unseal.Secret
	taken    []taken
}

// taken is what a selection has of one part.
type taken struct {
	part   *unseal.Record
	values []unseal.Value
}

// choose decides, and only then looks up. Without keys it takes every key that the
// caller may read; with keys it takes those or nothing. A nil snapshot and names
// that are none deny like any other.
func choose(r *request, snapshot *unseal.Snapshot, ws manifest.Workspace, name manifest.Name, keys []manifest.Key) selection {
	sel := selection{ws: ws, name: name, snapshot: snapshot, decision: access.Decision{Reason: access.NoGrant}}
	if snapshot == nil {
		if r.view.Contested(ws) != nil {
			sel.decision.Reason = access.Contested
		}
		return sel
	}
	may := snapshot.Policy.Read(r.caller.Identity, ws, name, r.now)
	if len(keys) == 0 {
		sel.decision = may.Any()
	}
	for _, k := range keys {
		if sel.decision = may.Key(k); !sel.decision.Allowed {
			return sel
		}
	}
	if !sel.decision.Allowed {
		return sel
	}
	sec, ok := snapshot.Secret(ws, name, r.now)
	if !ok {
		return sel
	}
	sel.secret = sec
	found := 0
	for _, part := range sec.Parts {
		t := taken{part: part, values: part.Good.Values}
		if len(keys) > 0 || !may.All() {
			t.values = nil
			for _, v := range part.Good.Values {
				if len(keys) > 0 && !slices.ContainsFunc(keys, func(k manifest.Key) bool { return k.String() == v.Key }) {
					continue
				}
				if key, err := manifest.ParseKey(v.Key); err == nil && may.Key(key).Allowed {
					t.values = append(t.values, v)
				}
			}
		}
		if found += len(t.values); len(t.values) > 0 {
			sel.taken = append(sel.taken, t)
		}
	}
	if found < len(keys) {
		sel.taken = nil
	}
	return sel
}

// status of the answer. Permitted but absent, and none of its keys permitted, are
// one answer.
func (sel *selection) status() int {
	switch {
	case !sel.decision.Allowed:
		return http.StatusForbidden
	case len(sel.taken) == 0:
		return http.StatusNotFound
	}
	return http.StatusOK
}

// values in order of their keys.
func (sel *selection) values() (out []unseal.Value) {
	for _, t := range sel.taken {
		out = append(out, t.values...)
	}
	slices.SortFunc(out, func(a, b unseal.Value) int { return cmp.Compare(a.Key, b.Key) })
	return out
}

// record is the audit's of a selection; keys are those that were asked for by name.
func (sel *selection) record(r *request, keys []manifest.Key, status int) audit.Record {
	rec := r.record(audit.Read, sel.decision, status)
	rec.Workspace, rec.Name, rec.Commit, rec.Keys = sel.ws.String(), sel.name.String(), "", nil
	if sel.snapshot != nil {
		rec.Commit = sel.snapshot.Commit
	}
	if len(sel.taken) == 0 {
		for _, k := range keys {
			rec.Keys = append(rec.Keys, k.String())
		}
		return rec
	}
	for _, t := range sel.taken {
		rec.Keys = slices.Grow(rec.Keys, len(t.values))
		for i := range t.values {
			rec.Keys = append(rec.Keys, t.values[i].Key)
		}
	}
	var given []*unseal.Record
	for _, t := range sel.taken {
		given = append(given, t.part)
	}
	recordContent(&rec, given)
	return rec
}

// json is the whole answer.
func (sel *selection) json() SecretJSON {
	out := SecretJSON{Metadata: metadata(sel.snapshot, sel.secret), Data: map[string]string{}, BinaryData: map[string][]byte{}}
	for _, t := range sel.taken {
		from := t.part.Good.Provenance
		p := ProvenanceJSON{Path: from.Path, Blob: from.Blob, Commit: from.Commit, Author: from.Author, Time: from.Time, Signer: from.Signer}
		for _, v := range t.values {
			p.Keys = append(p.Keys, v.Key)
			if v.Binary {
				out.BinaryData[v.Key] = v.Data
			} else {
				out.Data[v.Key] = string(v.Data)
			}
		}
		out.Provenance = append(out.Provenance, p)
	}
	return out
}

// appendJSON appends json as encoding/json prints it, at a fraction of the cost.
func (sel *selection) appendJSON(buf []byte) []byte {
	buf = metadata(sel.snapshot, sel.secret).appendJSON(append(buf, '{'))
	values := sel.values()
	for _, section := range []struct {
		name   string
		binary bool
	}{{"data", false}, {"binaryData", true}} {
		if !slices.ContainsFunc(values, func(v unseal.Value) bool { return v.Binary == section.binary }) {
			continue
		}
		buf = append(jsontext.Name(buf, section.name), '{')
		for _, v := range values {
			switch {
			case v.Binary != section.binary:
			case v.Binary:
				buf = jsontext.Bytes(jsontext.Name(buf, v.Key), v.Data)
			default:
				buf = jsontext.String(jsontext.Name(buf, v.Key), string(v.Data))
			}
		}
		buf = append(buf, '}')
	}
	buf = append(jsontext.Name(buf, "provenance"), '[')
	for i, t := range sel.taken {
		if i > 0 {
			buf = append(buf, ',')
		}
		buf = append(jsontext.Name(append(buf, '{'), "keys"), '[')
		for i, v := range t.values {
			if i > 0 {
				buf = append(buf, ',')
			}
			buf = jsontext.String(buf, v.Key)
		}
		p := &t.part.Good.Provenance
		buf = jsontext.String(jsontext.Name(append(buf, ']'), "path"), p.Path)
		buf = jsontext.String(jsontext.Name(buf, "blob"), p.Blob)
		buf = jsontext.Field(jsontext.Field(buf, "commit", p.Commit), "author", p.Author)
		if !p.Time.IsZero() {
			buf = jsontext.Time(jsontext.Name(buf, "time"), p.Time)
		}
		buf = append(jsontext.Field(buf, "signer", p.Signer), '}')
	}
	return append(buf, "]}"...)
}

// headers say where the values come from. Of a secret in parts each header stands
// once a part, in the same order; of very many parts only the JSON tells.
func (sel *selection) headers(h http.Header) {
	h.Set("Sealward-Generation", sel.snapshot.Commit)
	for _, t := range sel.taken {
		if part := t.part; part.Stale() {
			since := part.Failure.Since.UTC().Format(time.RFC3339)
			if old := h.Get("Sealward-Stale-Since"); old == "" || since < old {
				h.Set("Sealward-Stale-Since", since)
			}
		}
	}
	if len(sel.taken) > maxProvenances {
		return
	}
	for _, t := range sel.taken {
		p := t.part.Good.Provenance
		h.Add("Sealward-Commit", p.Commit)
		h.Add("Sealward-Path", p.Path)
		h.Add("Sealward-Blob", p.Blob)
		h.Add("Sealward-Author", headerText(p.Author))
		if p.Signer != "" {
			h.Add("Sealward-Signer", headerText(p.Signer))
		}
	}
}

// tag is the ETag of what a caller gets in a form. It is made without the values,
// of what the answer's provenance tells anyway, and keyed anew in each process, so that
// it tells nothing of a value, nor that two callers, names or keys have the same. It is
// weak: a generation that changes nothing here keeps it.
func (s *server) tag(r *request, form string, selections ...selection) string {
	t := s.taggers.Get().(*tagger)
	defer s.taggers.Put(t)
	buf := t.buf[:0]
	put := func(texts ...string) {
		for _, t := range texts {
			buf = append(binary.AppendUvarint(buf, uint64(len(t))), t...)
		}
	}
	number := func(n int) { buf = binary.AppendUvarint(buf, uint64(n)) }
	put(r.caller.User.String(), form)
	for i := range selections {
		sel := &selections[i]
		put(sel.ws.String(), sel.name.String())
		number(sel.status())
		number(len(sel.taken))
		for _, t := range sel.taken {
			p, since := &t.part.Good.Provenance, int64(0)
			if t.part.Stale() {
				since = t.part.Failure.Since.UnixNano()
			}
			put(t.part.Path, p.Path, p.Blob, p.Commit, p.Author, p.Signer)
			buf = binary.AppendVarint(buf, since)
			number(len(t.values))
			for j := range t.values {
				put(t.values[j].Key)
			}
		}
	}
	t.mac.Reset()
	t.mac.Write(buf)
	t.buf = buf
	return t.tag()
}

// listTag is the same of a list.
func (s *server) listTag(r *request, secrets []Metadata) string {
	t := s.taggers.Get().(*tagger)
	defer s.taggers.Put(t)
	t.mac.Reset()
	enc := json.NewEncoder(t.mac)
	_ = enc.Encode([]string{"list", r.caller.User.String(), r.workspace.String()})
	for _, m := range secrets {
		m.Generation = "" // a commit that changes nothing here
		_ = enc.Encode(m)
	}
	return t.tag()
}

// tagger is what one tag at a time is made with. Nothing of a value is ever in it.
type tagger struct {
	mac hash.Hash
	buf []byte
}

// tag of what was written to the mac.
func (t *tagger) tag() string {
	t.buf = t.mac.Sum(t.buf[:0])
	return `W/"` + base64.RawURLEncoding.EncodeToString(t.buf[:18]) + `"`
}

// has reports that the caller named this tag: it has what it would get.
func (r *request) has(tag string) bool {
	for _, line := range r.Header.Values("If-None-Match") {
		for t := range strings.SplitSeq(line, ",") {
			if t = strings.TrimSpace(t); t == tag || t == strings.TrimPrefix(tag, "W/") {
				return true
			}
		}
	}
	return false
}

func (s *server) readKey(w http.ResponseWriter, r *request) {
	if f := r.URL.Query().Get("format"); f != "" && f != "raw" {
		writeError(w, http.StatusBadRequest, "bad-request", "one key is always raw; the other forms are of a whole secret")
		return
	}
	s.readForm(w, r, "raw", []manifest.Key{r.key})
}

func (s *server) readSecret(w http.ResponseWriter, r *request) {
	form := cmp.Or(r.URL.Query().Get("format"), "json")
	if !slices.Contains([]string{"json", "env", "properties", "raw"}, form) {
		writeError(w, http.StatusBadRequest, "bad-request", "format is json, env, properties or raw")
		return
	}
	s.readForm(w, r, form, nil)
}

// readForm answers with one secret, or one key of it, in a form. A form that cannot
// hold the values is refused, and that is recorded too.
func (s *server) readForm(w http.ResponseWriter, r *request, form string, keys []manifest.Key) {
	// Asked at most once for each state of things: settle looks, then this does.
	look := func() selection {
		name := r.name
		if !r.valid {
			name = manifest.Name{} // denied like any other
		}
		return choose(r, r.snapshot, r.workspace, name, keys)
	}
	known := func() []*unseal.Snapshot {
		if sel := look(); sel.decision.Allowed {
			return []*unseal.Snapshot{r.snapshot}
		}
		return nil
	}
	same := func() bool { sel := look(); return sel.status() == http.StatusOK && r.has(s.tag(r, form, sel)) }
	if !s.settle(w, r, known, same) || !s.snapshotReady(w, r, audit.Read) {
		return
	}
	sel := look()
	rec := sel.record(r, keys, sel.status())
	rec.Name = r.name.String() // what was asked for, also where it was denied unseen
	if rec.Status != http.StatusOK {
		s.answer(w, r, rec)
		return
	}
	tag := s.tag(r, form, sel)
	var body []byte
	var err error
	kind := "text/plain; charset=utf-8"
	switch {
	case r.has(tag):
		rec.Status = http.StatusNotModified
	case form == "env":
		body, err = unseal.EnvFile(sel.values())
	case form == "properties":
		body, err = unseal.PropertiesFile(sel.values())
	case form == "raw":
		kind = "application/octet-stream"
		values := sel.values()
		if body = values[0].Data; len(values) != 1 {
			err = fmt.Errorf("it has several keys: %w; name one (…/keys/KEY)", unseal.ErrForm)
		}
	}
	if err != nil { // no content is given
		rec.Status = http.StatusNotAcceptable
		rec.Path, rec.Blob, rec.Parts = "", "", nil
	}
	if !s.answer(w, r, rec) {
		return
	}
	if err != nil {
		writeError(w, http.StatusNotAcceptable, "not-representable", err.Error())
		return
	}
	sel.headers(w.Header())
	w.Header().Set("ETag", tag)
	switch {
	case rec.Status == http.StatusNotModified:
		w.WriteHeader(http.StatusNotModified)
	case form == "json":
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(append(sel.appendJSON(make([]byte, 0, 1<<10)), '\n'))
	default:
		w.Header().Set("Content-Type", kind)
		_, _ = w.Write(body)
	}
}

// BatchJSON is the body of POST /v1/read: at most 100 secrets.
type BatchJSON struct {
	Secrets []ItemJSON `json:"secrets"`
}

// ItemJSON names one secret. Without keys every key that the caller may read is
// meant; with keys those, or nothing.
type ItemJSON struct {
	Workspace string   `json:"workspace"` // "instance" for an instance secret
	Name      string   `json:"name"`
	Keys      []string `json:"keys,omitempty"`
}

// BatchAnswerJSON has one result an item, in the order of the items. All that come
// from one repository are of one commit.
type BatchAnswerJSON struct {
	Secrets []ResultJSON `json:"secrets"`
}

// ResultJSON is a secret, or why there is none.
type ResultJSON struct {
	Status int         `json:"status"` // 200, 403 or 404
	Secret *SecretJSON `json:"secret,omitempty"`
	Code   string      `json:"code,omitempty"` // denied, not-found, policy-broken or contested
}

// item is a checked ItemJSON; the zero names of one that is none are denied.
type item struct {
	ws   manifest.Workspace
	name manifest.Name
	keys []manifest.Key
}

func parseItem(in ItemJSON) item {
	it := item{}
	var errs [2]error
	it.ws, errs[0] = manifest.ParseScope(in.Workspace)
	it.name, errs[1] = manifest.ParseName(in.Name)
	ok := errs[0] == nil && errs[1] == nil
	for _, k := range in.Keys {
		key, err := manifest.ParseKey(k)
		ok = ok && err == nil
		if !slices.Contains(it.keys, key) {
			it.keys = append(it.keys, key)
		}
	}
	if !ok {
		return item{}
	}
	return it
}

// readBatch answers with several secrets from one view. Each is decided on its own
// and has a record of its own; all records are durable before anything leaves.
func (s *server) readBatch(w http.ResponseWriter, r *request) {
	var in BatchJSON
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&in); err != nil || dec.More() || len(in.Secrets) == 0 || len(in.Secrets) > maxItems {
		writeError(w, http.StatusBadRequest, "bad-request", fmt.Sprintf(`the body is not {"secrets": [{"workspace": "W", "name": "N", "keys": ["K"]}, …]} with 1 to %d secrets (keys may be left out)`, maxItems))
		return
	}
	// Each item counts as the request that it spares.
	for range len(in.Secrets) - 1 {
		if !s.identities.allow(r.caller.User.String()) {
			s.Audit.Unauthenticated(audit.RateLimited)
			tooMany(w)
			return
		}
	}
	var items []item
	for _, i := range in.Secrets {
		items = append(items, parseItem(i))
	}
	look := func() (all []selection) {
		for _, it := range items {
			all = append(all, choose(r, r.view.Of(it.ws), it.ws, it.name, it.keys))
		}
		return all
	}
	known := func() (out []*unseal.Snapshot) {
		for _, sel := range look() {
			if sel.decision.Allowed && !slices.Contains(out, sel.snapshot) {
				out = append(out, sel.snapshot)
			}
		}
		return out
	}
	if !s.settle(w, r, known, func() bool { return r.has(s.tag(r, "batch", look()...)) }) {
		return
	}
	if r.view == nil {
		s.snapshotReady(w, r, audit.Read)
		return
	}
	all := look()
	tag := s.tag(r, "batch", all...)
	out := BatchAnswerJSON{}
	var recs []audit.Record
	size, same := 0, r.has(tag)
	for i := range all {
		sel := &all[i]
		rec := sel.record(r, items[i].keys, sel.status())
		if items[i].name.IsZero() {
			rec.Reason = string(access.InvalidName)
		}
		res := ResultJSON{Status: rec.Status}
		switch {
		case rec.Status != http.StatusOK:
			res.Code, _ = refusal(rec)
		case same:
			rec.Status = http.StatusNotModified
		default:
			secret := sel.json()
			res.Secret = &secret
			for _, v := range sel.values() {
				size += len(v.Key) + len(v.Data)
			}
		}
		recs, out.Secrets = append(recs, rec), append(out.Secrets, res)
	}
	if size > maxBatchBytes {
		writeError(w, http.StatusRequestEntityTooLarge, "too-large", fmt.Sprintf("these secrets have more than %d MiB; ask for fewer at a time", maxBatchBytes>>20))
		return
	}
	if !s.answerAll(w, r, recs) {
		return
	}
	if snapshots := known(); len(snapshots) == 1 {
		w.Header().Set("Sealward-Generation", snapshots[0].Commit)
	}
	w.Header().Set("ETag", tag)
	if same {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	writeJSON(w, out)
}

// answerAll is answer for several records at once: they share the audit's syncs. It
// reports whether all are durable and the caller goes on; what an item was refused,
// the caller says in the answer.
func (s *server) answerAll(w http.ResponseWriter, r *request, recs []audit.Record) bool {
	for _, rec := range recs {
		if rec.Decision == audit.Deny && !s.denials.allow(r.caller.User.String()) {
			s.Audit.Unauthenticated(audit.RateLimited)
			tooMany(w)
			return false
		}
	}
	errs := make([]error, len(recs))
	var writing sync.WaitGroup
	for i, rec := range recs {
		writing.Go(func() { errs[i] = s.append(r, rec) })
	}
	writing.Wait()
	if errors.Join(errs...) != nil {
		unrecorded(w)
		return false
	}
	return true
}

func unrecorded(w http.ResponseWriter) {
	writeError(w, http.StatusServiceUnavailable, "audit-unavailable", "the audit log cannot be written, so nothing is served; tell the operator")
}

// refusal is what a caller is told of a record that is no success. It is the same
// for a secret that is not there and one that is not permitted.
func refusal(rec audit.Record) (code, message string) {
	switch {
	case rec.Status == http.StatusNotFound:
		return "not-found", "there is no such secret or key"
	case rec.Reason == string(access.PolicyBroken):
		return "policy-broken", "the grants of this workspace are broken, so all its reads are refused; the agent's log names the file"
	case rec.Reason == string(access.Contested):
		return "contested", "several repositories claim this workspace, so all its reads are refused; the agent's status names them"
	}
	return "denied", "no grant allows this, or there is no such secret"
}

// Values of a secret, text and binary, in order of their keys.
func (s SecretJSON) Values() (out []unseal.Value) {
	for k, v := range s.Data {
		out = append(out, unseal.Value{Key: k, Data: []byte(v)})
	}
	for k, v := range s.BinaryData {
		out = append(out, unseal.Value{Key: k, Data: v, Binary: true})
	}
	slices.SortFunc(out, func(a, b unseal.Value) int { return cmp.Compare(a.Key, b.Key) })
	return out
}
