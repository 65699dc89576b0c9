package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/sealward/sealward/unseal"
)

// kustomize builds trees of sealed Secrets, each a process: by sealward build, by stock
// kustomize with sealward as its exec function, and, as the floor, by stock kustomize
// with the same Secrets in the clear.
func (b *bench) kustomize() error {
	stock := findTool("kustomize")
	if stock == "" {
		fmt.Println("\nThe kustomize program is missing (neither in $PATH nor in bin/tools): make tools builds it.")
		return nil
	}
	sealward, err := b.build()
	if err != nil {
		return err
	}
	const rounds = 9
	t := newTable(fmt.Sprintf("Building trees of sealed Secrets of 5 values, whole processes, %d cores, median of %d", runtime.GOMAXPROCS(0), rounds),
		"Secrets", "in the clear, kustomize", "sealed, sealward build", "× clear", "sealed, kustomize + function", "build × of that", "peak MB: clear", "build", "kustomize + function")
	for _, n := range []int{1, 100, 1000} {
		r, err := b.generate(filepath.Join(b.dir, fmt.Sprintf("kustomize-%d", n)), n, 1)
		if err != nil {
			return err
		}
		if err := r.overlays(sealward); err != nil {
			return err
		}
		highest := make([]int, 3)
		job := func(i int, name string, args ...string) func() error {
			return func() error {
				peak, err := r.buildTree(n, name, args...)
				highest[i] = max(highest[i], peak)
				return err
			}
		}
		spent, err := interleave(rounds, 0, []func() error{
			job(0, stock, "build", "clear"),
			job(1, sealward, "build", "sealed"),
			job(2, stock, "build", "--enable-alpha-plugins", "--enable-exec", "sealed"),
		})
		if err != nil {
			return err
		}
		t.row(thousands(n), span(spent[0]), span(spent[1]), times(spent[1], spent[0]), span(spent[2]), times(spent[1], spent[2]),
			megabytes(highest[0]), megabytes(highest[1]), megabytes(highest[2]))
	}
	t.note("The function's memory is beside that of the kustomize that started it; the larger of the two is shown.")
	t.print()
	return nil
}

// overlays adds two kustomizations of the repository's secrets: sealed and in the clear.
func (r *repository) overlays(sealward string) error {
	var generator, clear bytes.Buffer
	fmt.Fprintf(&generator, "apiVersion: sealward.dev/v1\nkind: SealedSecretGenerator\nmetadata:\n  name: bench\n  annotations:\n    config.kubernetes.io/function: |\n      exec: {path: %s, args: [kustomize]}\nsecrets:\n", sealward)
	clear.WriteString("resources:\n")
	files := map[string][]byte{"sealed/kustomization.yaml": []byte("generators: [generator.yaml]\n")}
	for _, f := range r.files {
		fmt.Fprintf(&generator, "- {workspace: %s, name: %s}\n", f.key.workspace, f.name)
		fmt.Fprintf(&clear, "- %s.yaml\n", f.name)
		data, err := os.ReadFile(filepath.Join(r.dir, f.path))
		if err != nil {
			return err
		}
		opened, err := f.key.open(data)
		if err != nil {
			return err
		}
		whole := &unseal.Whole{Manifest: opened.Manifest, Files: []*unseal.Opened{opened}, Values: opened.Values}
		if files["clear/"+f.name+".yaml"], err = whole.Kubernetes(); err != nil {
			return err
		}
	}
	files["sealed/generator.yaml"], files["clear/kustomization.yaml"] = generator.Bytes(), clear.Bytes()
	files["sealward.yaml"] = fmt.Appendf(nil, "builds: {sealed: [%s]}\n", r.keys[0].workspace)
	for name, data := range files {
		path := filepath.Join(r.dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o644)); err != nil {
			return err
		}
	}
	return nil
}

// buildTree runs a build that must print n Secrets, and returns the most memory that a
// process of it had, in KiB.
func (r *repository) buildTree(n int, name string, args ...string) (int, error) {
	cmd := exec.CommandContext(r.b.ctx, name, args...)
	cmd.Dir = r.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + r.b.dir, "SEALWARD_KEYRING=" + r.keyring}
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("%s %s: %w: %s", filepath.Base(name), args[0], err, strings.TrimSpace(stderr.String()))
	}
	if got := bytes.Count(out.Bytes(), []byte("kind: Secret\n")); got != n {
		return 0, fmt.Errorf("%s printed %d Secrets, not %d", filepath.Base(name), got, n)
	}
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0, nil
	}
	return int(usage.Maxrss), nil
}
