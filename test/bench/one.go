package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// one seals and unseals one manifest of 5 values, as a call and as a process.
func (b *bench) one() error {
	r, err := b.generate(filepath.Join(b.dir, "one"), 1, 1)
	if err != nil {
		return err
	}
	f, k := r.files[0], r.keys[0]
	plain := secretText(k.workspace, f.name)
	sealed, err := os.ReadFile(filepath.Join(r.dir, f.path))
	if err != nil {
		return err
	}
	t := newTable(fmt.Sprintf("One manifest of 5 values: %s bytes, %s when sealed", thousands(len(plain)), thousands(len(sealed))),
		"", "time", "a second", "× sealward")

	const rounds = 9
	spent, err := interleave(rounds, 100*time.Millisecond, []func() error{
		func() error { _, err := k.seal(plain); return err },
		func() error { _, err := k.library.seal(plain); return err },
		func() error { _, err := k.open(sealed); return err },
		func() error {
			o, err := k.open(sealed)
			if err == nil {
				_, err = o.Envelope.Plaintext(o.Values)
			}
			return err
		},
		func() error { _, err := k.library.open(sealed); return err },
	})
	if err != nil {
		return err
	}
	add := func(what string, d, base time.Duration) { t.row(what, span(d), perSecond(d), times(d, base)) }
	add("seal, sealward", spent[0], spent[0])
	add("seal, SOPS library", spent[1], spent[0])
	add("unseal and print, sealward", spent[3], spent[3])
	add("  the same without printing it as YAML", spent[2], spent[3])
	add("unseal and print, SOPS library", spent[4], spent[3])
	t.note("Library calls: median of %d rounds of 100 ms each, one after the other in each round.", rounds)

	if err := b.oneProcess(r, f, plain, add, t); err != nil {
		return err
	}
	t.print()
	return nil
}

// oneProcess does the same with one process a manifest, started in the
// repository, so that both programs find the recipients in its .sops.yaml.
func (b *bench) oneProcess(r *repository, f file, plain []byte, add func(string, time.Duration, time.Duration), t *table) error {
	sealward, err := b.build()
	if err != nil {
		return err
	}
	plainFile := strings.Replace(f.path, f.name, "plain-r", 1)
	if err := os.WriteFile(filepath.Join(r.dir, plainFile), []byte(strings.ReplaceAll(string(plain), f.name, "plain-r")), 0o600); err != nil {
		return err
	}
	jobs := []func() error{
		func() error { return r.run(sealward, "seal", plainFile) },
		func() error { return r.run(sealward, "unseal", f.path) },
	}
	if b.sops != "" {
		jobs = append(jobs,
			func() error { return r.run(b.sops, "encrypt", plainFile) },
			func() error { return r.run(b.sops, "decrypt", f.path) })
	}
	const rounds = 15
	spent, err := interleave(rounds, 0, jobs)
	if err != nil {
		return err
	}
	add("seal, a sealward process", spent[0], spent[0])
	if b.sops != "" {
		add("seal, a sops process", spent[2], spent[0])
	}
	add("unseal and print, a sealward process", spent[1], spent[1])
	if b.sops != "" {
		add("unseal and print, a sops process", spent[3], spent[1])
	}
	t.note("Processes: median of %d, started in turn, beside a sealward process.", rounds)
	if b.sops == "" {
		t.note(noSOPS)
	}
	return nil
}

// run runs sealward or sops in the work tree, with the keyring and the first
// workspace's identity and nothing else of the environment.
func (r *repository) run(name string, args ...string) error {
	return r.runWith(r.keys[0], name, args...)
}

func (r *repository) runWith(k *key, name string, args ...string) error {
	cmd := exec.CommandContext(r.b.ctx, name, args...)
	cmd.Dir = r.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + r.b.dir, "SEALWARD_KEYRING=" + r.keyring, "SOPS_AGE_KEY_FILE=" + k.file}
	out, err := cmd.Output()
	if err == nil && len(out) == 0 {
		err = errors.New("printed nothing")
	}
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		return fmt.Errorf("%s %s: %w", filepath.Base(name), args[0], err)
	}
	return nil
}

const noSOPS = "The sops program is missing (neither in $PATH nor in bin/tools): make tools builds it."

// build compiles the sealward program as it stands in the tree.
func (b *bench) build() (string, error) {
	root, err := exec.CommandContext(b.ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/sealward/sealward").Output()
	if err != nil {
		return "", fmt.Errorf("go list: %w; start the bench in its folder (go -C test/bench run .)", err)
	}
	file := filepath.Join(b.dir, "sealward")
	cmd := exec.CommandContext(b.ctx, "go", "build", "-o", file, "./cmd/sealward")
	cmd.Dir, cmd.Stderr = strings.TrimSpace(string(root)), os.Stderr
	return file, cmd.Run()
}
