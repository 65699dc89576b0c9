package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/sealward/sealward/unseal/audit"
)

func (a *app) demoCmd() *cobra.Command {
	var keep bool
	c := &cobra.Command{
		Use:   "demo",
		Short: "See it all work in a temporary folder: seal, merge, sync, read, be refused",
		Long: `Run the whole way of a secret in a temporary folder, with a real Git remote and a
real agent on loopback, and tell what happens with the commands a person would
type. It needs git and sh, takes a few seconds, and removes the folder at its end.
It exits with 1 if anything did not go as it says.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			d, err := a.newDemo(c.Context())
			if err != nil {
				return err
			}
			defer d.cleanUp(keep)
			return d.play()
		},
	}
	c.Flags().BoolVar(&keep, "keep", false, "keep the temporary folder")
	return c
}

// demo runs shell lines in a folder of its own and checks what they give.
type demo struct {
	ctx   context.Context
	out   io.Writer
	bold  bool
	dir   string
	env   []string
	agent *exec.Cmd
	log   string
}

func (a *app) newDemo(ctx context.Context) (*demo, error) {
	for _, tool := range []string{"git", "sh"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("the demo needs %s", tool)
		}
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "sealward-demo-")
	if err != nil {
		return nil, err
	}
	d := &demo{ctx: ctx, out: a.Out, dir: dir, log: filepath.Join(dir, "agent.log")}
	if f, ok := a.Out.(*os.File); ok {
		d.bold = term.IsTerminal(int(f.Fd()))
	}
	bin, config := filepath.Join(dir, "bin"), filepath.Join(dir, "gitconfig")
	err = errors.Join(os.WriteFile(config, []byte("[user]\n\tname = dana\n\temail = dana@example.com\n"), 0o600), os.Mkdir(bin, 0o700), os.Symlink(self, filepath.Join(bin, "sealward")))
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	d.env = append(os.Environ(),
		"PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"),
		"HOME="+dir, "XDG_CONFIG_HOME="+filepath.Join(dir, "config"), "SEALWARD_KEYRING="+filepath.Join(dir, "keys"),
		"GIT_CONFIG_GLOBAL="+config, "GIT_CONFIG_NOSYSTEM=1")
	return d, nil
}

func (d *demo) cleanUp(keep bool) {
	if d.agent != nil {
		_ = d.stopAgent()
	}
	if keep {
		fmt.Fprintln(d.out, "Kept:", d.dir)
		return
	}
	os.RemoveAll(d.dir)
}

func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.out, "\n"+format+"\n", args...)
}

// expect is what a line must give.
type expect struct {
	code  int
	shows []string
	hides []string
	quiet bool // do not repeat the output
}

// sh shows a line as a person would type it, runs it, and checks the outcome.
func (d *demo) sh(line string, want expect) (string, error) {
	prompt, end := "  $ ", ""
	if d.bold {
		prompt, end = "  \x1b[1m$ ", "\x1b[0m"
	}
	fmt.Fprintln(d.out, prompt+strings.ReplaceAll(line, "\n", "\n    ")+end)
	out, code, err := d.exec(line)
	if err != nil {
		return out, err
	}
	if !want.quiet {
		for l := range strings.Lines(out) {
			fmt.Fprint(d.out, "    "+strings.TrimSuffix(l, "\n")+"\n")
		}
	}
	if code != want.code {
		return out, fmt.Errorf("%s\nended with exit code %d, not %d:\n%s", line, code, want.code, out)
	}
	for _, s := range want.shows {
		if !strings.Contains(out, s) {
			return out, fmt.Errorf("%s\ndid not show %q", line, s)
		}
	}
	for _, s := range want.hides {
		if strings.Contains(out, s) {
			return out, fmt.Errorf("%s\nshowed what it must not", line)
		}
	}
	return out, nil
}

func (d *demo) exec(line string) (out string, code int, err error) {
	ctx, cancel := context.WithTimeout(d.ctx, 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", line)
	cmd.Dir, cmd.Env = filepath.Join(d.dir, "secrets"), d.env
	if _, statErr := os.Stat(cmd.Dir); statErr != nil {
		cmd.Dir = d.dir
	}
	var buf bytes.Buffer
	cmd.Stdout, cmd.Stderr = &buf, &buf
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && ctx.Err() == nil {
		return buf.String(), exit.ExitCode(), nil
	}
	return buf.String(), 0, err
}

// until repeats a line, without showing it, until it gives text.
func (d *demo) until(line, text string) error {
	for range 100 {
		if out, _, err := d.exec(line); err != nil {
			return err
		} else if strings.Contains(out, text) {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("%s\nnever showed %q; the agent says:\n%s", line, text, d.agentLog())
}

func (d *demo) agentLog() string {
	text, _ := os.ReadFile(d.log)
	return string(text)
}

var servingAt = regexp.MustCompile(`msg=serving address=(\S+)`)

func (d *demo) startAgent() (address string, err error) {
	f, err := os.Create(d.log)
	if err != nil {
		return "", err
	}
	defer f.Close()
	d.agent = exec.Command(filepath.Join(d.dir, "bin", "sealward"), "agent", "-c", "agent.yaml")
	d.agent.Dir, d.agent.Env, d.agent.Stdout, d.agent.Stderr = d.dir, d.env, f, f
	if err := d.agent.Start(); err != nil {
		return "", err
	}
	for range 100 {
		if m := servingAt.FindStringSubmatch(d.agentLog()); m != nil && strings.Contains(d.agentLog(), "msg=applied") {
			return m[1], nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return "", fmt.Errorf("the agent did not start:\n%s", d.agentLog())
}

func (d *demo) stopAgent() error {
	if d.agent == nil {
		return nil
	}
	_ = d.agent.Process.Signal(syscall.SIGTERM)
	err := d.agent.Wait()
	d.agent = nil
	return err
}

func (d *demo) scenes(list ...func() error) error {
	for _, s := range list {
		if err := s(); err != nil {
			fmt.Fprintln(d.out, "\nThis is not what should have happened.")
			return err
		}
	}
	return nil
}

func (d *demo) play() error {
	started := time.Now()
	fmt.Fprintln(d.out, "sealward, from a secret to its reader and back, in", d.dir)
	if err := d.scenes(d.sceneRepository, d.sceneSeal, d.scenePush, d.sceneAgent, d.sceneRead, d.sceneRefused, d.sceneRotate, d.sceneBuild, d.sceneTamper, d.sceneRestart, d.sceneAudit, d.sceneNothingLeft); err != nil {
		return err
	}
	d.say("Done in %.1f s. Next: the quick start in README.md, or sealward --help.", time.Since(started).Seconds())
	return nil
}

func (d *demo) run(lines ...any) error {
	for i := 0; i < len(lines); i += 2 {
		if _, err := d.sh(lines[i].(string), lines[i+1].(expect)); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) sceneRepository() error {
	d.say("1. A repository for secrets, with two workspaces. Each gets a key of its own;\n   private keys stay in the keyring, outside the repository.")
	return d.run(
		"sealward init secrets", expect{shows: []string{"Initialized sealed repository"}},
		"sealward workspace create orders", expect{shows: []string{"age1"}},
		"sealward workspace create payments", expect{shows: []string{"age1"}},
	)
}

func (d *demo) sceneSeal() error {
	d.say("2. A secret for each. Values come from standard input or are generated; what is\n   written is sealed, so it can be committed and reviewed by anyone.")
	if err := d.run(
		"printf %s correct-horse | sealward create secret orders-db-r -w orders --type key-value --acl r \\\n  --from-literal username=orders --from-file password=-", expect{shows: []string{"created"}},
		"sealward create secret payments-api-rw -w payments --type key-value --acl rw --generate token=32", expect{shows: []string{"created"}},
		"grep -A3 data: workspaces/orders/secrets/orders-db-r.yaml | cut -c1-72", expect{shows: []string{"ENC[AES256_GCM"}, hides: []string{"correct-horse"}},
	); err != nil {
		return err
	}
	d.say("   A grant says who may read what. It is a file too, so a change of rights is\n   reviewed like any other.")
	return d.run(`cat > workspaces/orders/grants/orders-readers.yaml <<END
name: orders-readers
version: v1alpha
type: grant
workspace: orders
grant:
  policy_use_case_id: read-specific-secret
  subjects: [users:id:alice]
  secrets: [orders-db-*]
  effect: allow
END`, expect{},
		"sealward get secrets", expect{shows: []string{"orders-db-r", "payments-api-rw", "active"}},
		"sealward get grants -o wide | cut -d'|' -f1,4,8 | sed 's/ *$//'", expect{shows: []string{"orders-readers"}},
	)
}

func (d *demo) scenePush() error {
	d.say("3. Committed, and pushed to a Git remote: here a bare repository on disk.")
	return d.run(
		"git init -q --bare -b main ../remote.git", expect{},
		"git add -A && git commit -q -m 'Orders and payments credentials' && git remote add origin ../remote.git && git push -q -u origin main", expect{},
	)
}

func (d *demo) sceneAgent() error {
	d.say("4. The operator gives the agent the keyring, and people tokens. The tokens file\n   holds salted hashes only.")
	if err := d.run(
		"sealward token create --subject users:id:alice --expires 1h --tokens ../tokens.yaml > ../alice.token", expect{shows: []string{"users:id:alice"}},
		"sealward token create --subject users:id:bob --expires 1h --tokens ../tokens.yaml > ../bob.token", expect{shows: []string{"users:id:bob"}},
		fmt.Sprintf(`cat > ../agent.yaml <<END
source: {url: %s, branch: main, interval: 200ms}
keyring: keys
state: state
serve: {listen: "127.0.0.1:0", tokensFile: tokens.yaml}
END`, filepath.Join(d.dir, "remote.git")), expect{},
	); err != nil {
		return err
	}
	fmt.Fprintln(d.out, "  $ sealward agent -c ../agent.yaml &")
	return d.serve()
}

func (d *demo) serve() error {
	address, err := d.startAgent()
	if err != nil {
		return err
	}
	d.env = append(d.env, "SEALWARD_SERVER="+address)
	fmt.Fprintf(d.out, "    serving at %s\n", address)
	return nil
}

func (d *demo) sceneRead() error {
	d.say("5. Alice has a grant: she reads the value.")
	return d.run("sealward read orders/orders-db-r/password --token-file ../alice.token; echo", expect{shows: []string{"correct-horse"}})
}

func (d *demo) sceneRefused() error {
	d.say("6. Bob has none. What he may not read and what does not exist answer alike, so\n   he cannot find out which secrets there are.")
	return d.run(
		"sealward read orders/orders-db-r/password --token-file ../bob.token", expect{code: exitDenied, hides: []string{"correct-horse"}, shows: []string{"no grant allows this, or there is no such secret"}},
		"sealward read orders/no-such-secret/password --token-file ../bob.token", expect{code: exitDenied, shows: []string{"no grant allows this, or there is no such secret"}},
		"sealward read payments/payments-api-rw/token --token-file ../alice.token", expect{code: exitDenied},
	)
}

func (d *demo) sceneRotate() error {
	d.say("7. The password is rotated by a pull request: a branch with one commit, which\n   anybody reviews without a key. Merged, the agent serves the new value.")
	if err := d.run(
		"printf %s battery-staple | sealward set orders/orders-db-r password", expect{shows: []string{"password set"}},
		"sealward propose orders/orders-db-r --branch new-password 2>&1 | grep pushed", expect{shows: []string{"pushed to origin as branch new-password, for main: orders/orders-db-r: set password"}},
		"sealward check --base main --no-keys", expect{shows: []string{"nothing found in 1 manifest"}},
		"sealward diff main...HEAD --no-keys", expect{shows: []string{"~ orders/orders-db-r", "~ password"}, hides: []string{"battery-staple"}},
		"sealward who-can read orders/orders-db-r", expect{shows: []string{"users:id:alice"}},
		"git switch -q main && git merge -q new-password && git push -q", expect{},
	); err != nil {
		return err
	}
	if err := d.until("sealward read orders/orders-db-r/password --token-file ../alice.token", "battery-staple"); err != nil {
		return err
	}
	return d.run("sealward read orders/orders-db-r/password --token-file ../alice.token; echo", expect{shows: []string{"battery-staple"}})
}

func (d *demo) sceneBuild() error {
	d.say("8. A cluster gets the same secret out of a kustomize build, which unseals in memory.\n   sealward.yaml says which workspaces the tree may name; payments is none of them.\n   Without a key there are placeholders, to check a branch with.")
	return d.run(`mkdir prod && cat > prod/kustomization.yaml <<END
namespace: shop
generators: [secrets.yaml]
END
cat > prod/secrets.yaml <<END
apiVersion: sealward.dev/v1
kind: SealedSecretGenerator
metadata: {name: orders}
secrets: [{workspace: orders, name: orders-db-r, options: {needsHash: true}}]
END
echo 'builds: {prod: [orders]}' > sealward.yaml`, expect{},
		"sealward build prod", expect{shows: []string{"password: YmF0dGVyeS1zdGFwbGU=", "name: orders-db-r-"}},
		"sealward build prod --placeholders --keyring /nonexistent | grep -e placeholder: -e password:", expect{shows: []string{"sealward.dev/placeholder"}, hides: []string{"YmF0dGVyeS1zdGFwbGU="}},
		"git add -A && git commit -q -m 'Build for the cluster' && git push -q", expect{},
		"sed 's/orders, name: orders-db-r/payments, name: payments-api-rw/' prod/secrets.yaml > ../t && cp ../t prod/secrets.yaml; sealward build prod", expect{code: exitDenied, shows: []string{"builds"}},
		"git checkout -q prod", expect{},
	)
}

func (d *demo) sceneTamper() error {
	d.say("9. Somebody without a key tampers: the username is moved into the password's\n   place, and payments' sealed file is passed off as one of orders. The review\n   says so. Merged nevertheless, both are refused; everything else goes on.")
	if err := d.run(
		"awk '/username:/{v=$2} /password:/{$0=\"        password: \" v} {print}' workspaces/orders/secrets/orders-db-r.yaml > ../t && cp ../t workspaces/orders/secrets/orders-db-r.yaml", expect{},
		"sed 's/workspace: payments/workspace: orders/' workspaces/payments/secrets/payments-api-rw.yaml > workspaces/orders/secrets/payments-api-rw.yaml", expect{},
		"sealward unseal workspaces/orders/secrets/orders-db-r.yaml", expect{code: exitUnsealed, shows: []string{"secret.data.password"}, hides: []string{"battery-staple"}},
		"git add -A && sealward check --staged --base HEAD --no-keys", expect{code: exitFindings, shows: []string{"[binding-stale]", "[binding-copied]"}},
		"sealward create secret orders-db-rw -w orders --type key-value --acl rw --from-literal host=db.example", expect{},
		"git add -A && git commit -q -m 'Tidy up' && git push -q", expect{},
	); err != nil {
		return err
	}
	if err := d.until("sealward read orders/orders-db-rw/host --token-file ../alice.token", "db.example"); err != nil {
		return err
	}
	return d.run(
		"grep -o 'path=.*' ../agent.log | cut -c1-150", expect{shows: []string{"orders-db-r.yaml", "payments-api-rw.yaml"}},
		"sealward read orders/orders-db-rw/host --token-file ../alice.token; echo", expect{shows: []string{"db.example"}},
		"sealward read orders/orders-db-r/password --token-file ../alice.token; echo", expect{shows: []string{"battery-staple"}},
	)
}

func (d *demo) sceneRestart() error {
	d.say("10. The remote goes away and the agent is killed with kill -9. Restarted, it serves\n    the last applied commit, and a guessed token gets no further than before.")
	if err := d.run("mv ../remote.git ../gone.git", expect{}); err != nil {
		return err
	}
	fmt.Fprintln(d.out, "  $ kill -9 %1; sealward agent -c ../agent.yaml &")
	if err := d.agent.Process.Kill(); err != nil {
		return err
	}
	_ = d.agent.Wait()
	d.agent = nil
	if err := d.serve(); err != nil {
		return err
	}
	return d.run(
		"sealward read orders/orders-db-r/password --token-file ../alice.token; echo", expect{shows: []string{"battery-staple"}},
		"echo swt1_0123456789abcdef_guessed > ../wrong.token; sealward read orders/orders-db-r --token-file ../wrong.token", expect{code: exitDenied, shows: []string{"a valid bearer token is needed"}},
	)
}

func (d *demo) sceneAudit() error {
	d.say("11. Each read was recorded before its value left. The agent is stopped, and the\n    log's chain of hashes is verified.")
	if err := d.stopAgent(); err != nil {
		return fmt.Errorf("the agent did not stop cleanly: %w\n%s", err, d.agentLog())
	}
	if err := d.run("sealward audit verify ../state/audit.jsonl", expect{shows: []string{"records are intact"}}); err != nil {
		return err
	}
	return d.showAudit(filepath.Join(d.dir, "state", "audit.jsonl"))
}

// showAudit prints the log as a table, with repeated reads of one kind as one row.
func (d *demo) showAudit(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	counts := map[string]int{}
	var order []string
	seen := map[string]bool{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		var r audit.Record
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return fmt.Errorf("audit log: %w", err)
		}
		what := r.Workspace
		if r.Name != "" {
			what += "/" + r.Name + " " + strings.Join(r.Keys, ",")
		}
		who := r.Subject
		if r.Event == audit.Unauthenticated {
			who = fmt.Sprintf("(%d without identity)", r.Count)
		}
		row := fmt.Sprintf("%-16s %-22s %-6s %-33s %s", r.Event, who, r.Decision, what, r.Reason)
		if counts[row]++; counts[row] == 1 {
			order = append(order, row)
		}
		seen[string(r.Event)+string(r.Decision)+r.Subject] = true
	}
	for _, row := range order {
		times := ""
		if n := counts[row]; n > 1 {
			times = fmt.Sprintf("  (%d times)", n)
		}
		fmt.Fprintln(d.out, "    "+strings.TrimRight(row, " ")+times)
	}
	for _, must := range []string{"readallowusers:id:alice", "readdenyusers:id:bob", "readdenyusers:id:alice", "unauthenticated"} {
		if !seen[must] {
			return fmt.Errorf("the audit log lacks %s", must)
		}
	}
	return nil
}

func (d *demo) sceneNothingLeft() error {
	d.say("12. No value stands in the clear in the mirror, the store, the logs or the\n    repository: grep finds nothing.")
	return d.run("grep -r -l -a -e correct-horse -e battery-staple ../state ../agent.log ../gone.git . ; echo \"exit code $?\"", expect{shows: []string{"exit code 1"}, hides: []string{"state", "agent.log:"}})
}
