// Command democluster runs the whole chain on a cluster and tells what happens, with
// the commands that a person would type: a push, a webhook, two agents, a Secret, who
// may read it, a replica that dies, a revocation. The cluster is a real API server with
// RBAC on loopback (there is no kubelet, so no pod runs), and so is the git server.
// make demo-cluster runs it; the exit code is 1 if anything did not go as it says.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/sealward/sealward/gitops/gitcmd/gittest"
	"github.com/sealward/sealward/plugins/kubernetes/kubetest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "\nThis is not what should have happened:", err)
		stop()
		os.Exit(1)
	}
}

// demo runs shell lines in a folder of its own and checks what they give.
type demo struct {
	ctx    context.Context
	out    io.Writer
	bold   bool
	dir    string
	env    []string
	agents map[string]*exec.Cmd
	at     map[string]string // address by agent
}

func run(ctx context.Context, out io.Writer) (err error) {
	started := time.Now()
	for _, tool := range []string{"sealward", "kubectl", "git", "sh", "openssl", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("the demo needs %s; make demo-cluster builds sealward and kubectl", tool)
		}
	}
	examples, err := filepath.Abs("examples")
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(examples, "cluster/base/crd.yaml")); err != nil {
		return fmt.Errorf("run it in the project's folder: %w", err)
	}
	dir, err := os.MkdirTemp("", "sealward-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	d := &demo{ctx: ctx, out: out, dir: dir, agents: map[string]*exec.Cmd{}, at: map[string]string{}}
	if f, ok := out.(*os.File); ok {
		d.bold = term.IsTerminal(int(f.Fd()))
	}
	defer func() {
		for name := range d.agents {
			_ = d.stop(name, syscall.SIGKILL)
		}
	}()

	fmt.Fprintln(out, "sealward on a cluster, in", dir)
	d.say("0. A control plane: kube-apiserver with RBAC, and etcd. It takes some seconds.")
	cluster, err := kubetest.Start()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.Stop()) }()
	root := filepath.Join(dir, "git")
	git, err := gittest.ServeHTTPS(root, "dana", "password-of-git")
	if err != nil {
		return err
	}
	defer git.Close()
	files := map[string]string{
		"gitconfig":    "[user]\n\tname = dana\n\temail = dana@example.com\n[init]\n\tdefaultBranch = main\n",
		"git-ca.pem":   string(git.CA()),
		"git-user":     "dana",
		"git-password": "password-of-git",
		"hook.secret":  "0123456789abcdef0123456789abcdef",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	if err := errors.Join(kubetest.WriteKubeconfig(filepath.Join(dir, "admin.kubeconfig"), cluster.Admin), os.Symlink(examples, filepath.Join(dir, "examples"))); err != nil {
		return err
	}
	d.env = append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME="+filepath.Join(dir, "config"), "SEALWARD_KEYRING="+filepath.Join(dir, "keys"), "KUBECONFIG="+filepath.Join(dir, "admin.kubeconfig"),
		"GIT_CONFIG_GLOBAL="+filepath.Join(dir, "gitconfig"), "GIT_CONFIG_NOSYSTEM=1", "GIT_SSL_CAINFO="+filepath.Join(dir, "git-ca.pem"),
		"API="+cluster.Admin.Host, "GIT="+git.URL, "REMOTE="+strings.Replace(git.URL, "https://", "https://dana:password-of-git@", 1)+"/secrets.git")
	for _, scene := range []func() error{d.repository, d.install, d.replicas, d.arrives, d.fromTheAgent, d.byHand, d.rotate, d.killed, d.revoke, d.audit} {
		if err := scene(); err != nil {
			return err
		}
	}
	d.say("Done in %.1f s. Next: docs/cluster.md, with a cluster of your own.", time.Since(started).Seconds())
	return nil
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.out, "\n"+format+"\n", args...) }

// expect is what a line must give.
type expect struct {
	code  int
	shows []string
	hides []string
}

// lines are shown as a person would type them, run, and checked.
func (d *demo) lines(list ...any) error {
	for i := 0; i < len(list); i += 2 {
		line, want := list[i].(string), list[i+1].(expect)
		prompt, end := "  $ ", ""
		if d.bold {
			prompt, end = "  \x1b[1m$ ", "\x1b[0m"
		}
		fmt.Fprintln(d.out, prompt+strings.ReplaceAll(line, "\n", "\n    ")+end)
		out, code, err := d.exec(line)
		if err != nil {
			return err
		}
		for l := range strings.Lines(out) {
			fmt.Fprintln(d.out, "    "+strings.TrimSuffix(l, "\n"))
		}
		if code != want.code {
			return fmt.Errorf("%s\nended with exit code %d, not %d:\n%s", line, code, want.code, out)
		}
		for _, s := range want.shows {
			if !strings.Contains(out, s) {
				return fmt.Errorf("%s\ndid not show %q", line, s)
			}
		}
		for _, s := range want.hides {
			if strings.Contains(out, s) {
				return fmt.Errorf("%s\nshowed what it must not", line)
			}
		}
	}
	return nil
}

func (d *demo) exec(line string) (out string, code int, err error) {
	ctx, cancel := context.WithTimeout(d.ctx, 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", line)
	cmd.Dir, cmd.Env, cmd.WaitDelay = d.dir, d.env, time.Second
	var buf bytes.Buffer
	cmd.Stdout, cmd.Stderr = &buf, &buf
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && ctx.Err() == nil {
		return buf.String(), exit.ExitCode(), nil
	}
	return buf.String(), 0, err
}

// until repeats a line, without showing it, until ok, and says how long that took.
func (d *demo) until(line string, ok func(out string, code int) bool) (time.Duration, error) {
	began := time.Now()
	last := ""
	for time.Since(began) < 30*time.Second {
		out, code, err := d.exec(line)
		if err != nil {
			return 0, err
		}
		if ok(out, code) {
			return time.Since(began), nil
		}
		last = out
		time.Sleep(20 * time.Millisecond)
	}
	logs, _, _ := d.exec("tail -n 20 agent-*.log")
	return 0, fmt.Errorf("%s\nnever gave what was expected, but\n%s\nthe agents say:\n%s", line, last, logs)
}

func shows(text string) func(string, int) bool {
	return func(out string, code int) bool { return code == 0 && strings.Contains(out, text) }
}

func fails(text string) func(string, int) bool {
	return func(out string, code int) bool { return code != 0 && strings.Contains(out, text) }
}

func (d *demo) repository() error {
	d.say("1. A repository with one secret of the workspace orders, sealed, and a grant: the\n   service account shop of the namespace orders may read it. Pushed to a git server.")
	return d.lines(
		"git init -q --bare git/secrets.git && git -C git/secrets.git config http.receivepack true", expect{},
		"sealward init secrets && sealward workspace create orders --repo secrets --no-recovery", expect{shows: []string{"age1"}},
		"printf %s correct-horse | sealward create secret orders-db-r -w orders --repo secrets --type key-value --acl r \\\n  --from-literal username=orders --from-file password=-", expect{},
		`cat > secrets/workspaces/orders/grants/shop.yaml <<END
name: shop
version: v1alpha
type: grant
workspace: orders
grant:
  policy_use_case_id: read-specific-secret
  subjects: ["users:id:system:serviceaccount:orders:shop"]
  secrets: [orders-db-*]
  effect: allow
END`, expect{},
		"cd secrets && git add -A && git commit -q -m 'The orders database, for the shop' && git remote add origin $REMOTE && git push -q -u origin main", expect{},
	)
}

func (d *demo) install() error {
	d.say("2. What the agents need in the cluster: the custom resource, a service account, and\n   rights in the namespaces of their workspaces, and nowhere else.")
	return d.lines(
		"kubectl create namespace sealward && kubectl create namespace orders", expect{},
		"kubectl apply --server-side -f examples/cluster/base/crd.yaml && kubectl apply -n sealward -f examples/cluster/base/rbac.yaml", expect{shows: []string{"sealedrepositories.sealward.dev", "serviceaccount/sealward created"}},
		"kubectl apply -n orders -f examples/cluster/components/workspace/rbac.yaml", expect{},
		"kubectl -n orders create serviceaccount shop && kubectl -n orders create serviceaccount other", expect{},
		"kubectl auth can-i get secrets -n default --as system:serviceaccount:sealward:sealward", expect{code: 1, shows: []string{"no"}},
	)
}

func (d *demo) replicas() error {
	d.say("3. Two replicas, as that service account. Both follow Git and serve; one holds the\n   Lease, here of 2 s, and writes to the cluster.")
	if err := d.lines(`cat > agent.yaml <<END
source: {url: $GIT/secrets.git, interval: 1h, auth: {usernameFile: git-user, passwordFile: git-password, caFile: git-ca.pem}}
keyring: keys
state: state-NAME
audit: {file: audit-NAME.jsonl}
webhook: {secretFile: hook.secret}
serve:
  listen: "127.0.0.1:0"
  kubernetes: {audience: sealward, server: "$API", caFile: api-ca.pem, tokenFile: token}
kubernetes:
  kubeconfig: agent.kubeconfig
  namespace: sealward
  lease: {duration: 2s}
  project: {workspaces: [orders]}
END`, expect{},
		`kubectl -n sealward create token sealward > token
kubectl config view --raw --minify -o jsonpath='{.clusters[0].cluster.certificate-authority-data}' | base64 -d > api-ca.pem
kubectl --kubeconfig agent.kubeconfig config set-cluster demo --server=$API --certificate-authority=api-ca.pem --embed-certs > kubectl.log
kubectl --kubeconfig agent.kubeconfig config set-credentials demo --token="$(cat token)" >> kubectl.log
kubectl --kubeconfig agent.kubeconfig config set-context demo --cluster=demo --user=demo >> kubectl.log
kubectl --kubeconfig agent.kubeconfig config use-context demo >> kubectl.log`, expect{},
	); err != nil {
		return err
	}
	for _, name := range []string{"one", "two"} {
		if err := d.start(name); err != nil {
			return err
		}
		if name == "one" {
			if _, err := d.until("kubectl -n sealward get lease sealward -o jsonpath='{.spec.holderIdentity}'", func(out string, code int) bool { return code == 0 && out != "" }); err != nil {
				return err
			}
		}
	}
	return nil
}

var servingAt = regexp.MustCompile(`msg=serving address=(\S+)`)

func (d *demo) start(name string) error {
	line := fmt.Sprintf("sed s/NAME/%s/ agent.yaml > %[1]s.yaml && exec sealward agent -c %[1]s.yaml 2> agent-%[1]s.log", name)
	fmt.Fprintf(d.out, "  $ sealward agent -c %s.yaml &\n", name)
	cmd := exec.Command("sh", "-c", line)
	cmd.Dir, cmd.Env = d.dir, d.env
	if err := cmd.Start(); err != nil {
		return err
	}
	d.agents[name] = cmd
	_, err := d.until("cat agent-"+name+".log", func(out string, _ int) bool {
		m := servingAt.FindStringSubmatch(out)
		if m != nil {
			d.at[name] = m[1]
			d.env = append(d.env, strings.ToUpper(name)+"="+m[1])
		}
		return m != nil
	})
	return err
}

func (d *demo) stop(name string, signal os.Signal) error {
	cmd := d.agents[name]
	delete(d.agents, name)
	_ = cmd.Process.Signal(signal)
	return cmd.Wait()
}

const asShop, asOther = "--as system:serviceaccount:orders:shop", "--as system:serviceaccount:orders:other"

// password is a line that reads it in the cluster.
func password(as string) string {
	return "kubectl -n orders get secret orders-db-r -o jsonpath='{.data.password}' " + as + " | base64 -d"
}

func (d *demo) arrives() error {
	d.say("4. The Secret is there. RBAC lets the shop get it, and nobody else; nobody may list,\n   which would show every value.")
	if _, err := d.until(password(asShop), shows("correct-horse")); err != nil {
		return err
	}
	if _, err := d.until("kubectl -n sealward get sealedrepositories", shows("True")); err != nil {
		return err
	}
	return d.lines(
		password(asShop)+"; echo", expect{shows: []string{"correct-horse"}},
		"kubectl -n orders get secret orders-db-r "+asOther, expect{code: 1, shows: []string{"Forbidden"}, hides: []string{"correct-horse", "Y29ycmVjdC1ob3JzZQ"}},
		"kubectl -n orders get secrets "+asShop, expect{code: 1, shows: []string{"Forbidden"}},
		"kubectl -n orders get secret orders-db-r -o jsonpath='{.metadata.annotations}'; echo", expect{shows: []string{"workspaces/orders/secrets/orders-db-r.yaml"}},
		"kubectl -n sealward get sealedrepositories", expect{shows: []string{"READY", "True", "1/1"}},
	)
}

func (d *demo) fromTheAgent() error {
	d.say("5. The same service account reads from an agent, which has the API server review its\n   token: one for the audience sealward, that is good for nothing else.")
	return d.lines(
		"kubectl -n orders create token shop --audience sealward > shop.token && kubectl -n orders create token other --audience sealward > other.token", expect{},
		"sealward read orders/orders-db-r/password --server $TWO --token-file shop.token; echo", expect{shows: []string{"correct-horse"}},
		"sealward read orders/orders-db-r/password --server $TWO --token-file other.token", expect{code: 4, hides: []string{"correct-horse"}},
		"kubectl -n orders create token shop > wrong.token && sealward read orders/orders-db-r/password --server $TWO --token-file wrong.token", expect{code: 4, hides: []string{"correct-horse"}},
	)
}

func (d *demo) byHand() error {
	d.say("6. Somebody changes the Secret by hand: it is put back. What sealward did not make it\n   does not touch.")
	if err := d.lines(
		"kubectl -n orders create secret generic theirs --from-literal=x=theirs", expect{},
		`kubectl -n orders patch secret orders-db-r -p '{"stringData":{"password":"by-hand","more":"x"}}'`, expect{},
	); err != nil {
		return err
	}
	took, err := d.until("kubectl -n orders get secret orders-db-r -o jsonpath='{.data}'", func(out string, _ int) bool {
		return strings.Contains(out, "Y29ycmVjdC1ob3JzZQ") && !strings.Contains(out, "more")
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(d.out, "    (put back within %d ms, kubectl included)\n", took.Milliseconds())
	return d.lines(password(asShop)+"; echo", expect{shows: []string{"correct-horse"}})
}

// hook is what a Git host calls after a push.
func hook(agent string) string {
	return "curl -sf -H \"X-Signature: sha256=$(printf push | openssl dgst -sha256 -hmac $(cat hook.secret) -hex | sed 's/.* //')\" -d push $" + agent + "/hooks/generic"
}

func (d *demo) rotate() error {
	d.say("7. The password is rotated by a commit. The Git host's webhook reaches the replica that\n   does not write; it tells the one that does.")
	if err := d.lines(
		"printf %s battery-staple | sealward set orders/orders-db-r password --repo secrets", expect{},
		"git -C secrets commit -q -a -m 'A new password' && git -C secrets push -q", expect{},
		hook("TWO"), expect{},
	); err != nil {
		return err
	}
	took, err := d.until(password(asShop), shows("battery-staple"))
	if err != nil {
		return err
	}
	fmt.Fprintf(d.out, "    (in the Secret within %d ms, kubectl included)\n", took.Milliseconds())
	return d.lines(password(asShop)+"; echo", expect{shows: []string{"battery-staple"}})
}

func (d *demo) killed() error {
	d.say("8. The replica that writes is killed with kill -9, and a commit comes. The other takes\n   the Lease over when it has run out; nothing is lost.")
	fmt.Fprintln(d.out, "  $ kill -9 %1")
	if err := d.stop("one", syscall.SIGKILL); err == nil {
		return errors.New("it ended well, though it was killed")
	}
	if err := d.lines(
		"sealward create secret orders-api -w orders --repo secrets --type key-value --acl r --generate token=20", expect{},
		"git -C secrets add -A && git -C secrets commit -q -m 'The API token' && git -C secrets push -q", expect{},
		hook("TWO"), expect{},
	); err != nil {
		return err
	}
	took, err := d.until("kubectl -n orders get secret orders-api", shows("Opaque"))
	if err != nil {
		return err
	}
	fmt.Fprintf(d.out, "    (%.1f s)\n", took.Seconds())
	if _, err := d.until("kubectl -n sealward get sealedrepositories", shows("2/2")); err != nil {
		return err
	}
	return d.lines("kubectl -n sealward get sealedrepositories -o wide", expect{shows: []string{"True", "2/2"}})
}

func (d *demo) revoke() error {
	d.say("9. The shop loses its grant, by a commit: no more in the cluster, and not from the agent.")
	if err := d.lines("git -C secrets rm -q workspaces/orders/grants/shop.yaml && git -C secrets commit -q -m 'The shop is gone' && git -C secrets push -q", expect{},
		hook("TWO"), expect{},
	); err != nil {
		return err
	}
	took, err := d.until("kubectl -n orders get secret orders-db-r "+asShop, fails("Forbidden"))
	if err != nil {
		return err
	}
	fmt.Fprintf(d.out, "    (refused within %d ms, kubectl included)\n", took.Milliseconds())
	return d.lines(
		"kubectl -n orders get secret orders-db-r "+asShop, expect{code: 1, shows: []string{"Forbidden"}, hides: []string{"battery-staple"}},
		"sealward read orders/orders-db-r/password --server $TWO --token-file shop.token", expect{code: 4, hides: []string{"battery-staple"}},
	)
}

func (d *demo) audit() error {
	d.say("10. The agents are gone, and the Secrets stay. What each agent wrote and served was\n    recorded before it left; no value stands in a log, the state, the custom resource.")
	if err := d.stop("two", syscall.SIGTERM); err != nil {
		return fmt.Errorf("the agent did not stop cleanly: %w", err)
	}
	return d.lines(
		"kubectl -n orders get secrets -L sealward.dev/workspace", expect{shows: []string{"orders-db-r", "orders-api", "theirs"}},
		"for name in one two; do sealward audit verify audit-$name.jsonl; done", expect{shows: []string{"records are intact"}},
		"sealward audit query audit-one.jsonl --event project | cut -d'|' -f2,3,5,6", expect{shows: []string{"orders/orders-db-r", "password,username"}},
		"sealward audit query audit-two.jsonl --event read | cut -d'|' -f2-5", expect{shows: []string{"allow", "deny", "system:serviceaccount:orders:shop"}},
		"kubectl -n sealward get events.v1.events.k8s.io,sealedrepositories,leases -o yaml > cluster.yaml; grep -r -l -a -e correct-horse -e battery-staple state-* audit-* agent-*.log cluster.yaml secrets git; echo \"grep: exit code $?\"", expect{shows: []string{"exit code 1"}, hides: []string{"state-", "agent-"}},
	)
}
