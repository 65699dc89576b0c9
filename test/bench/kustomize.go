package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
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
		commands := [][]string{
			{stock, "build", "clear"},
			{sealward, "build", "sealed"},
			{stock, "build", "--enable-alpha-plugins", "--enable-exec", "sealed"},
		}
		var jobs []func() error
		var highest []string
		for _, c := range commands {
			jobs = append(jobs, func() error { return r.buildTree(n, c) })
			peak, err := r.peak(c)
			if err != nil {
				return err
			}
			highest = append(highest, megabytes(peak))
		}
		spent, err := interleave(rounds, 0, jobs)
		if err != nil {
			return err
		}
		t.row(append([]string{thousands(n), span(spent[0]), span(spent[1]), times(spent[1], spent[0]), span(spent[2]), times(spent[1], spent[2])}, highest...)...)
	}
	t.note("Memory is measured by a process that has some 37 MB itself, and less than that cannot be told. The function's is")
	t.note("beside that of the kustomize that started it; the larger of the two is shown.")
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

// buildTree runs a build that must print n Secrets.
func (r *repository) buildTree(n int, command []string) error {
	out, err := r.built(command)
	if got := bytes.Count(out, []byte("kind: Secret\n")); err == nil && got != n {
		return fmt.Errorf("%s printed %d Secrets, not %d", filepath.Base(command[0]), got, n)
	}
	return err
}

func (r *repository) built(command []string) ([]byte, error) {
	cmd := exec.CommandContext(r.b.ctx, command[0], command[1:]...)
	cmd.Dir = r.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + r.b.dir, "SEALWARD_KEYRING=" + r.keyring}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}

// peak is the most memory that a process of a build had, in KiB. A fresh process starts
// the build and is told: the system counts for a process also what the one had that
// started it.
func (r *repository) peak(command []string) (int, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	out, err := r.built(append([]string{self, "-peak", "--"}, command...))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(out)))
}

// peakProcess runs a command and prints the most memory it had, in KiB; 0 where the system
// does not tell.
func peakProcess(command []string) error {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return err
	}
	kib := 0
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		kib = int(usage.Maxrss)
	}
	_, err := fmt.Println(kib)
	return err
}
