package source

import (
	"context"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// manifests makes a repository of n files of some 3 KB that hardly compress,
// in 100 workspaces, and a second commit that changes one of them.
func manifests(b *testing.B, n int) (r repo, one, two string) {
	b.Helper()
	r = newRepo(b)
	random := rand.New(rand.NewPCG(1, 1))
	raw := make([]byte, 2200)
	var in strings.Builder
	commit := func(date int) {
		fmt.Fprintf(&in, "commit refs/heads/main\ncommitter C <c@example.com> %d +0000\ndata 1\nx\n", date)
	}
	file := func(i int) {
		for j := range raw {
			raw[j] = byte(random.Uint32())
		}
		text := base64.StdEncoding.EncodeToString(raw)
		fmt.Fprintf(&in, "M 100644 inline workspaces/w%02d/secrets/secret-%06d.yaml\ndata %d\n%s\n", i%100, i, len(text), text)
	}
	commit(1700000000)
	for i := range n {
		file(i)
	}
	commit(1700000001)
	file(n / 2)
	r.gitIn(in.String(), "fast-import", "--quiet")
	return r, r.git("rev-parse", "main^"), r.head("main")
}

func BenchmarkClone10k(b *testing.B) {
	r, _, _ := manifests(b, 10_000)
	for b.Loop() {
		r.mirror()
	}
}

// BenchmarkReadBlobs reads each of 10,000 files once, from a mirror that was
// just opened.
func BenchmarkReadBlobs10k(b *testing.B) {
	ctx := context.Background()
	r, one, _ := manifests(b, 10_000)
	m := r.mirror()
	entries, _, err := m.List(ctx, hash(b, one), ".")
	if err != nil || len(entries) != 10_000 {
		b.Fatal(len(entries), err)
	}
	for _, workers := range []int{1, runtime.GOMAXPROCS(0)} {
		b.Run(fmt.Sprintf("workers=%d", workers), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				fresh, err := Open(m.dir, m.cfg)
				if err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				var next atomic.Int64
				var wg sync.WaitGroup
				for range workers {
					wg.Go(func() {
						for i := next.Add(1) - 1; i < int64(len(entries)); i = next.Add(1) - 1 {
							if _, err := fresh.ReadBlob(entries[i].Hash, 1<<20); err != nil {
								b.Error(err)
							}
						}
					})
				}
				wg.Wait()
				fresh.Close()
			}
			b.ReportMetric(float64(len(entries))*float64(b.N)/b.Elapsed().Seconds(), "blobs/s")
		})
	}
}

func BenchmarkOneChange(b *testing.B) {
	ctx := context.Background()
	for _, n := range []int{10_000, 100_000} {
		r, one, two := manifests(b, n)
		m := r.mirror()
		old, new := hash(b, one), hash(b, two)
		b.Run(fmt.Sprintf("diff/files=%d", n), func(b *testing.B) {
			for b.Loop() {
				changes, _, err := m.Diff(ctx, old, new, ".")
				if err != nil || len(changes) != 1 {
					b.Fatal(changes, err)
				}
			}
		})
		b.Run(fmt.Sprintf("diff, just opened/files=%d", n), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				fresh, err := Open(m.dir, m.cfg)
				if err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				if _, _, err := fresh.Diff(ctx, old, new, "."); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				fresh.Close()
				b.StartTimer()
			}
		})
		b.Run(fmt.Sprintf("list/files=%d", n), func(b *testing.B) {
			for b.Loop() {
				if _, _, err := m.List(ctx, new, "."); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("open/files=%d", n), func(b *testing.B) {
			for b.Loop() {
				fresh, err := Open(m.dir, m.cfg)
				if err != nil {
					b.Fatal(err)
				}
				fresh.Close()
			}
		})
		b.Run(fmt.Sprintf("look/files=%d", n), func(b *testing.B) {
			for b.Loop() {
				if _, err := m.Look(ctx); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkFollow is one push of one changed file: look, fetch, diff, read.
func BenchmarkFollow(b *testing.B) {
	ctx := context.Background()
	for _, n := range []int{10_000, 100_000} {
		b.Run(fmt.Sprintf("files=%d", n), func(b *testing.B) {
			r, _, two := manifests(b, n)
			m := r.mirror()
			applied := hash(b, two)
			if err := m.SetApplied(applied); err != nil {
				b.Fatal(err)
			}
			i := 0
			for b.Loop() {
				b.StopTimer()
				i++
				text := fmt.Sprintf("commit refs/heads/main\ncommitter C <c@example.com> %d +0000\ndata 1\nx\nfrom %s\nM 100644 inline workspaces/w07/secrets/secret-000007.yaml\ndata <<END\n%d\nEND\n", 1700000100+i, applied, i)
				r.gitIn(text, "fast-import", "--quiet")
				b.StartTimer()
				head, err := m.Look(ctx)
				if err == nil {
					head, err = m.Fetch(ctx)
				}
				if err != nil {
					b.Fatal(err)
				}
				if ok, err := m.IsAncestor(ctx, applied, head); !ok || err != nil {
					b.Fatal(ok, err)
				}
				changes, _, err := m.Diff(ctx, applied, head, ".")
				if err != nil || len(changes) != 1 {
					b.Fatal(changes, err)
				}
				if _, err := m.ReadBlob(changes[0].New.Hash, 1<<20); err != nil {
					b.Fatal(err)
				}
				if err := m.SetApplied(head); err != nil {
					b.Fatal(err)
				}
				applied = head
			}
		})
	}
}

// BenchmarkHistory walks 5,000 commits of one changed file each.
func BenchmarkHistory(b *testing.B) {
	ctx := context.Background()
	r := newRepo(b)
	var in strings.Builder
	var paths []string
	for i := range 5_000 {
		path := fmt.Sprintf("workspaces/w%02d/secrets/s%04d.yaml", i%100, i%2_000)
		if i < 2_000 {
			paths = append(paths, path)
		}
		fmt.Fprintf(&in, "commit refs/heads/main\ncommitter C <c@example.com> %d +0000\ndata 1\nx\nM 100644 inline %s\ndata <<END\n%d\nEND\n", 1700000000+i, path, i)
	}
	r.gitIn(in.String(), "fast-import", "--quiet")
	m := r.mirror()
	head := hash(b, r.head("main"))
	first := hash(b, r.git("rev-list", "--max-parents=0", "main"))
	b.Run("lastChanges/paths=2000", func(b *testing.B) {
		for b.Loop() {
			if got, err := m.LastChanges(ctx, Hash{}, head, paths, 1<<20); err != nil || len(got) != len(paths) {
				b.Fatal(len(got), err)
			}
		}
	})
	b.Run("isAncestor/near", func(b *testing.B) {
		near := hash(b, r.git("rev-parse", "main~3"))
		for b.Loop() {
			if ok, err := m.IsAncestor(ctx, near, head); !ok || err != nil {
				b.Fatal(ok, err)
			}
		}
	})
	b.Run("isAncestor/rewound", func(b *testing.B) {
		near := hash(b, r.git("rev-parse", "main~3"))
		for b.Loop() {
			if ok, err := m.IsAncestor(ctx, head, near); ok || err != nil {
				b.Fatal(ok, err)
			}
		}
	})
	b.Run("isAncestor/whole history", func(b *testing.B) {
		for b.Loop() {
			if ok, err := m.IsAncestor(ctx, first, head); !ok || err != nil {
				b.Fatal(ok, err)
			}
		}
	})
}
