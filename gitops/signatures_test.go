package gitops_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealward/sealward/gitops"
	"github.com/sealward/sealward/gitops/source"
	"github.com/sealward/sealward/unseal"
)

// sshKey makes a key and returns its file and its public line.
func (w *world) sshKey(name string) (file, public string) {
	w.t.Helper()
	file = filepath.Join(w.dir, name)
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", file).CombinedOutput(); err != nil {
		w.t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	line, err := os.ReadFile(file + ".pub")
	must(w.t, err)
	return file, strings.TrimSpace(string(line))
}

// signed commits what was written, signed with the key of a file.
func (w *world) signed(key, message string) string {
	w.t.Helper()
	w.git("add", "-A")
	w.git("-c", "gpg.format=ssh", "-c", "user.signingKey="+key, "commit", "-q", "--allow-empty", "-S", "-m", message)
	return w.git("rev-parse", "HEAD")
}

// allow writes who may sign.
func (w *world) allow(lines ...string) {
	w.t.Helper()
	must(w.t, os.WriteFile(w.signatures.AllowedSignersFile, []byte(strings.Join(lines, "\n")+"\n"), 0o600))
}

// refuses syncs, and wants that to fail because of the head's signature.
func (w *world) refuses(why error, says string) {
	w.t.Helper()
	_, err := w.agent.Sync(context.Background())
	if !errors.Is(err, why) || !strings.Contains(err.Error(), says) {
		w.t.Errorf("sync: %v, want %q, %q", err, why, says)
	}
	if s := w.live.Syncs()[0]; s.Class != unseal.SyncSignature || s.Refused != w.git("rev-parse", "HEAD") || s.Head != s.Refused {
		w.t.Errorf("the status has class %q, refused %q, head %q", s.Class, s.Refused, s.Head)
	}
}

func newSignedWorld(t *testing.T) *world {
	w := newWorld(t)
	w.signatures = &gitops.SignaturePolicy{AllowedSignersFile: filepath.Join(w.dir, "signers")}
	return w
}

func TestOnlySignedCommitsAreApplied(t *testing.T) {
	w := newSignedWorld(t)
	erin, erinKey := w.sshKey("erin")
	mallory, _ := w.sshKey("mallory")
	w.allow("erin@example.com " + erinKey)

	// At the first start nothing is served, not even what is older than the policy.
	w.secret("orders", "db", "k=hunter2")
	w.commit("nobody signs")
	w.start()
	w.refuses(source.ErrUnsigned, "sign it")
	if got := w.served(); got != "(nothing)" {
		t.Fatalf("served %q", got)
	}

	first := w.signed(erin, "erin signs for it")
	w.sync()
	if s := w.live.Syncs()[0]; s.Refused != "" || s.Class != unseal.SyncOK {
		t.Errorf("after a good head the status has %+v", s)
	}
	w.want("orders/db/k=hunter2", "")
	p := w.live.Current("").Scope(scopeOf(t, "orders")).Records()["workspaces/orders/secrets/db.yaml"].Good.Provenance
	if p.Signer != "erin@example.com" || p.Commit == first {
		t.Errorf("the content came with commit %s, signed by %q", p.Commit, p.Signer)
	}

	// What came with another key, or none, is not served; it has no operator's word.
	w.secret("orders", "db", "k=evil")
	for key, why := range map[string]error{mallory: source.ErrSignature, "": source.ErrUnsigned} {
		if head := ""; key == "" {
			head = w.commit("unsigned")
			w.refuses(why, "")
			if err := w.agent.Approve(head); !errors.Is(err, unseal.ErrNothingWaits) {
				t.Errorf("an unsigned head was approved: %v", err)
			}
		} else {
			head = w.signed(key, "by one who may not")
			w.refuses(why, "allowedSignersFile")
			if err := w.agent.Approve(head); !errors.Is(err, unseal.ErrNothingWaits) {
				t.Errorf("a head of a foreign signer was approved: %v", err)
			}
		}
	}
	w.want("orders/db/k=hunter2", "")

	// A signature by one who may accepts the head, with all that it contains: who
	// signs a merge vouches for what is merged.
	w.secret("orders", "db", "k=new")
	w.signed(erin, "seen")
	w.sync()
	w.want("orders/db/k=new", "")
	w.sync()
	p = w.live.Current("").Scope(scopeOf(t, "orders")).Records()["workspaces/orders/secrets/db.yaml"].Good.Provenance
	if p.Signer != "erin@example.com" {
		t.Errorf("after a restart the signer is %q", p.Signer)
	}
}

// A file of signers that cannot be read lets no new head in, and is read again
// when it is mended; keys that are taken away count meanwhile.
func TestBrokenSigners(t *testing.T) {
	w := newSignedWorld(t)
	erin, key := w.sshKey("erin")
	w.allow("erin@example.com " + key)
	w.secret("orders", "db", "k=hunter2")
	w.secret("payments", "api", "k=one")
	w.signed(erin, "first")
	w.start()
	w.sync()

	w.allow("erin@example.com no-key")
	w.secret("payments", "api", "k=two")
	w.signed(erin, "second")
	must(t, os.Remove(filepath.Join(w.dir, "keys", "orders.agekey")))
	_, err := w.agent.Sync(context.Background())
	if !errors.Is(err, source.ErrConfig) || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("sync: %v", err)
	}
	if s := w.live.Syncs()[0]; s.Class != unseal.SyncConfig {
		t.Errorf("the class is %q", s.Class)
	}
	if got := w.served(); got != "payments/api/k=one" {
		t.Errorf("served %q", got)
	}
	w.allow("erin@example.com " + key)
	w.sync()
	w.want("payments/api/k=two", "orders/secrets/db:no-key")
}

// A rewound branch needs both: the operator's word and a signature.
func TestRewoundAndUnsigned(t *testing.T) {
	w := newSignedWorld(t)
	erin, key := w.sshKey("erin")
	w.allow("erin@example.com " + key)
	w.secret("orders", "db", "k=hunter2")
	start := w.git("rev-parse", "HEAD")
	w.signed(erin, "first")
	w.start()
	w.sync()

	w.git("reset", "-q", "--hard", start)
	w.secret("orders", "db", "k=other")
	rewound := w.signed(erin, "rewritten")
	if _, err := w.agent.Sync(context.Background()); !errors.Is(err, gitops.ErrRewound) {
		t.Errorf("sync: %v", err)
	}
	must(t, w.agent.Approve(rewound))
	// The word is for that head. An unsigned one in its place is not followed.
	unsigned := w.commit("and one on top")
	w.refuses(source.ErrUnsigned, "")
	w.want("orders/db/k=hunter2", "")
	_, err := w.agent.Sync(context.Background())
	if err == nil || w.agent.Approve(unsigned) == nil {
		t.Errorf("an unsigned head could be approved (%v)", err)
	}
	// Also when the approved one is back: another head ended the word.
	w.git("reset", "-q", "--hard", rewound)
	if _, err := w.agent.Sync(context.Background()); !errors.Is(err, gitops.ErrRewound) {
		t.Errorf("sync: %v", err)
	}
	must(t, w.agent.Approve(rewound))
	w.sync()
	w.want("orders/db/k=other", "")
}

// What was applied stays served where signatures were not required yet.
func TestSignaturesAreRequiredLater(t *testing.T) {
	w := newWorld(t)
	w.secret("orders", "db", "k=hunter2")
	w.commit("unsigned")
	w.start()
	w.sync()
	w.signatures = &gitops.SignaturePolicy{AllowedSignersFile: filepath.Join(w.dir, "signers")}
	erin, key := w.sshKey("erin")
	w.allow("erin@example.com " + key)
	w.start()
	if !strings.Contains(w.log.String(), "the applied commit would not be followed now") {
		t.Errorf("nothing is said of it:\n%s", w.log.String())
	}
	w.sync()
	w.want("orders/db/k=hunter2", "")
	w.secret("orders", "db", "k=new")
	w.commit("unsigned again")
	w.refuses(source.ErrUnsigned, "")
	w.want("orders/db/k=hunter2", "")
	w.signed(erin, "signed")
	w.sync()
	w.want("orders/db/k=new", "")
}
