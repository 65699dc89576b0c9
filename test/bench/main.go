// Command bench prints the figures of docs/benchmarks.md: sealward beside the
// SOPS library, the sops program, git and a plain HTTPS server, doing the same
// work in the same run, so that the ratios mean something on any machine.
//
//	go -C test/bench run .                         # everything, some four minutes
//	go -C test/bench run . -n 500 -time 300ms      # a quick look
//	go -C test/bench run . -only scale             # how cost grows, up to 100,000 manifests
//
// It is a module of its own: SOPS's YAML store, which sealward does without,
// brings the clients of S3 and Google Cloud Storage along, and they have no
// place in sealward's go.mod.
//
// Read it top to bottom by section: one.go seals and unseals one manifest,
// repository.go, sync.go and follow.go follow a repository, reads.go asks a server, review.go
// asks what a pull request changes, kustomize.go builds. sops.go is the SOPS
// library's way, table.go and noise.go print and judge figures.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// bench is one run.
type bench struct {
	ctx  context.Context
	dir  string        // temporary; everything is below it
	n    int           // manifests of the repository
	time time.Duration // of one cell of the reads
	sops string        // the sops program, "" when there is none
}

// section is a part of the run that can be picked by name.
type section struct {
	name string
	run  func(*bench) error
	// named sections run only when they are asked for: they take minutes.
	named bool
}

var sections = []section{
	{"seal", (*bench).one, false},
	{"sync", (*bench).sync, false},
	{"scale", (*bench).scale, true},
	{"read", (*bench).reads, false},
	{"revoke", (*bench).revoke, true},
	{"review", (*bench).review, false},
	{"kustomize", (*bench).kustomize, false},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	b := &bench{ctx: ctx}
	var only, dir string
	var child, peak bool
	flag.IntVar(&b.n, "n", 10_000, "manifests of the generated repository")
	flag.DurationVar(&b.time, "time", 3*time.Second, "how long each kind of read is measured")
	flag.StringVar(&only, "only", "", "run only these sections, separated by commas: seal, sync, scale, read, revoke, review, kustomize")
	flag.StringVar(&dir, "dir", os.TempDir(), "folder for the temporary files; its disk decides what a sync to disk costs")
	flag.BoolVar(&child, "child", false, "for the bench itself: be the agent that it measures")
	flag.BoolVar(&peak, "peak", false, "for the bench itself: run a command and print how much memory it had")
	flag.Parse()
	if peak {
		return peakProcess(flag.Args())
	}
	if child {
		return agentProcess(ctx, os.Stdin, os.Stdout)
	}
	chosen, err := choose(only)
	if err != nil || b.n < 1 || b.time <= 0 || flag.NArg() > 0 {
		return errors.Join(err, errors.New("usage: bench [-n MANIFESTS] [-time DURATION] [-only SECTIONS] [-dir DIR]"))
	}
	if b.dir, err = os.MkdirTemp(dir, "sealward-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	b.sops = findTool("sops")

	started := time.Now()
	fmt.Print(machine(b.dir))
	var noise []string
	for _, s := range chosen {
		before := processorTicks()
		if err := s.run(b); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		if percent, known := processorTicks().others(before); known {
			noise = append(noise, fmt.Sprintf("%s %d%%", s.name, percent))
		}
	}
	fmt.Printf("\nTook %s.", span(time.Since(started)))
	if len(noise) > 0 {
		fmt.Printf(" Share of the cores that others had meanwhile: %s.", strings.Join(noise, ", "))
	}
	fmt.Println()
	return nil
}

func choose(only string) ([]section, error) {
	var chosen []section
	if only == "" {
		return slices.DeleteFunc(slices.Clone(sections), func(s section) bool { return s.named }), nil
	}
	for name := range strings.SplitSeq(only, ",") {
		i := slices.IndexFunc(sections, func(s section) bool { return s.name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no section %q", name)
		}
		chosen = append(chosen, sections[i])
	}
	return chosen, nil
}

// findTool looks in $PATH and where make tools builds it, from the top of the
// repository or from here.
func findTool(name string) string {
	for _, at := range []string{name, "bin/tools/" + name, "../../bin/tools/" + name} {
		if path, err := exec.LookPath(at); err == nil {
			if path, err = filepath.Abs(path); err == nil {
				return path
			}
		}
	}
	return ""
}

// machine says in a few words what the figures were measured on.
func machine(dir string) string {
	return fmt.Sprintf("%d cores (%s), %s %s/%s, %s, temporary files on %s\n",
		runtime.GOMAXPROCS(0), cpu(), runtime.Version(), runtime.GOOS, runtime.GOARCH, kernel(), fileSystem(dir))
}

func cpu() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "model unknown"
}

func kernel() string {
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "kernel unknown"
	}
	// Only the version: what a builder put behind it tells nobody anything.
	version, _, _ := strings.Cut(strings.TrimSpace(string(release)), "-")
	return "kernel " + version
}

// fileSystem is the type of the mount with the longest path above dir.
func fileSystem(dir string) string {
	kind, longest := "an unknown file system", -1
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if len(f) < 3 || len(f[1]) <= longest {
			continue
		}
		if rel, err := filepath.Rel(f[1], dir); err == nil && filepath.IsLocal(rel) {
			kind, longest = f[2], len(f[1])
		}
	}
	return kind
}
