package git

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/sealward/sealward/gitops/gitcmd"
	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/seal/workspace"
)

// DriverArgs are what git gives a merge driver: %O %A %B %L %P.
type DriverArgs struct {
	Base, Ours, Theirs string // files; the result goes into Ours
	MarkerSize         int
	Path               string // in the work tree
}

// ParseDriverArgs reads the five arguments.
func ParseDriverArgs(args []string) (DriverArgs, error) {
	if len(args) != 5 {
		return DriverArgs{}, errors.New("a merge driver is started by git, with %O %A %B %L %P; sealward git install sets it up")
	}
	size, err := strconv.Atoi(args[3])
	if err != nil || size < 1 || size > 1000 {
		return DriverArgs{}, errors.New("the fourth argument, %L, is no length of conflict markers")
	}
	return DriverArgs{args[0], args[1], args[2], size, args[4]}, nil
}

// MergeDriver merges one file for git and reports whether that left no conflict. By
// key where it can; else it falls back to git's own text merge and says why.
// Whatever happens, the versions are in git's index.
func (p *Plugin) MergeDriver(ctx context.Context, a DriverArgs) (fine bool, err error) {
	clone, err := gitcmd.Open(ctx, p.Dir)
	if err != nil {
		return false, err
	}
	for _, file := range []*string{&a.Base, &a.Ours, &a.Theirs} {
		if !filepath.IsAbs(*file) {
			*file = filepath.Join(p.Dir, *file)
		}
	}
	s, err := locate(clone, a.Path)
	if err != nil {
		return p.mergeText(ctx, clone, a, s, err)
	}
	var v versions
	for _, side := range []struct {
		file string
		data *[]byte
	}{{a.Base, &v.base}, {a.Ours, &v.ours}, {a.Theirs, &v.theirs}} {
		info, err := os.Stat(side.file)
		if err != nil {
			return false, err
		}
		if info.Size() > manifest.MaxSize {
			return p.mergeText(ctx, clone, a, s, fmt.Errorf("a version has %d bytes; a manifest may have at most %d", info.Size(), manifest.MaxSize))
		}
		if *side.data, err = os.ReadFile(side.file); err != nil {
			return false, err
		}
	}
	merged, err := p.merge(ctx, clone, s, v, seal.Choices{})
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if err != nil {
		return p.mergeText(ctx, clone, a, s, err)
	}
	out := merged.File
	if merged.Theirs != nil {
		out = withMarkers(merged.File, merged.Theirs, a.MarkerSize)
	}
	if err := workspace.WriteFile(a.Ours, out, 0o666); err != nil {
		return false, err
	}
	// A conflict of recipients says itself whom the file is not sealed for.
	open := slices.ContainsFunc(merged.Conflicts, func(c seal.Conflict) bool { return c.Recipients })
	if !open && len(merged.Added)+len(merged.Removed) > 0 {
		fmt.Fprintf(p.Err, "sealward: %s: their side changed the recipients, so the merged file has a fresh data key; recipients: %d%s%s\n",
			clean(s.path), len(merged.Recipients.All()), listed(", added ", merged.Added), listed(", removed ", merged.Removed))
	}
	for _, c := range merged.Conflicts {
		fmt.Fprintf(p.Err, "CONFLICT (sealed): %s: %s; choose with: sealward resolve %s\n", s.secret(), clean(c.String()), clean(quoted(a.Path)))
	}
	return len(merged.Conflicts) == 0, nil
}

// listed names recipients after a word; a post-quantum one has two thousand
// characters.
func listed(word string, rs []workspace.Recipient) string {
	var names []string
	for _, r := range rs {
		names = append(names, fmt.Sprintf("%.72s", r))
	}
	if len(names) == 0 {
		return ""
	}
	return clean(word + strings.Join(names, " "))
}

// mergeText merges line by line, as git does. why is the reason that it was not done
// by key; for what is no sealed secret that is nothing to speak of.
func (p *Plugin) mergeText(ctx context.Context, clone *gitcmd.Clone, a DriverArgs, s spot, why error) (bool, error) {
	out, conflicts, err := mergeFile(ctx, clone, a.Ours, a.Base, a.Theirs, a.MarkerSize)
	if err != nil {
		// Binary files, say: ours stays in place, and git lists the conflict.
		fmt.Fprintf(p.Err, "sealward: %s: %s; git could not merge it as text either: %s\n", clean(a.Path), firstLine(why), firstLine(err))
		return false, nil
	}
	fine := conflicts == 0
	if fine && bytes.Contains(out, []byte("ENC[AES256_GCM,")) && !p.isVersion(out, a) {
		// Sealed text that was put together from two files has a wrong MAC, and looks
		// as if nothing were wrong.
		fine = false
		ours, err1 := os.ReadFile(a.Ours)
		theirs, err2 := os.ReadFile(a.Theirs)
		if err := errors.Join(err1, err2); err != nil {
			return false, err
		}
		out = withMarkers(ours, theirs, a.MarkerSize)
	}
	if err := workspace.WriteFile(a.Ours, out, 0o666); err != nil {
		return false, err
	}
	if !fine && !errors.Is(why, errOther) {
		fmt.Fprintf(p.Err, "sealward: %s was not merged by keys: %s\n", clean(a.Path), firstLine(why))
		fmt.Fprintf(p.Err, "  mend that, then: sealward resolve %s; or take one side: git checkout --ours -- %[1]s (or --theirs)\n", clean(quoted(a.Path)))
	}
	return fine, nil
}

// isVersion reports that a file is what one side has already.
func (p *Plugin) isVersion(out []byte, a DriverArgs) bool {
	for _, file := range []string{a.Ours, a.Theirs} {
		if data, err := os.ReadFile(file); err == nil && bytes.Equal(data, out) {
			return true
		}
	}
	return false
}

// mergeFile is git merge-file on files that exist; it gives the number of conflicts.
func mergeFile(ctx context.Context, clone *gitcmd.Clone, ours, base, theirs string, markerSize int) ([]byte, int, error) {
	out, err := clone.Run(ctx, "merge-file", "-p", "-q", "-L", "ours", "-L", "base", "-L", "theirs", "--marker-size="+strconv.Itoa(markerSize), ours, base, theirs)
	var refused *gitcmd.Error
	if errors.As(err, &refused) && refused.Code < 128 {
		return out, refused.Code, nil
	}
	return out, 0, err
}

// withMarkers puts two versions into one file, with conflict markers around the
// lines that differ and no others: git would join hunks that are close. Taking
// one side of all hunks gives that version.
func withMarkers(ours, theirs []byte, size int) []byte {
	a, b := bytes.SplitAfter(ours, []byte("\n")), bytes.SplitAfter(theirs, []byte("\n"))
	var out bytes.Buffer
	lines := func(lines [][]byte) {
		for _, line := range lines {
			out.Write(line)
		}
		if n := out.Len(); n > 0 && out.Bytes()[n-1] != '\n' {
			out.WriteByte('\n')
		}
	}
	mark := func(c, label string) { out.WriteString(strings.TrimSpace(strings.Repeat(c, size)+" "+label) + "\n") }
	for len(a) > 0 || len(b) > 0 {
		if len(a) > 0 && len(b) > 0 && bytes.Equal(a[0], b[0]) {
			out.Write(a[0])
			a, b = a[1:], b[1:]
			continue
		}
		i, j := nextEqual(a, b)
		mark("<", "ours")
		lines(a[:i])
		mark("=", "")
		lines(b[:j])
		mark(">", "theirs")
		a, b = a[i:], b[j:]
	}
	return out.Bytes()
}

// maxApart bounds the search, which takes the square of it: what is farther apart
// becomes one hunk.
const maxApart = 4096

// nextEqual is where two texts that start differently have a line in common again:
// the nearest place, or their ends.
func nextEqual(a, b [][]byte) (int, int) {
	for sum := 1; sum < min(len(a)+len(b), maxApart); sum++ {
		for i := max(0, sum-len(b)+1); i <= min(sum, len(a)-1); i++ {
			if bytes.Equal(a[i], b[sum-i]) {
				return i, sum - i
			}
		}
	}
	return len(a), len(b)
}
