// Package faults injects what goes wrong around an agent, and holds what is
// served against what was merged. docs/reliability.md lists what is injected,
// promised and seen.
//
// Most tests run the real program against git http-backend behind TLS, with a
// pusher, a reader and an [oracle]; where time is the point, the agent runs in
// the test, on a clock of the test's.
package faults

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"
)

var (
	kills    = flag.Int("kills", 20, "how often TestKilledWhileSyncing kills the agent")
	soak     = flag.Duration("soak", 0, "how long TestSoak runs; 0 skips it")
	seedFlag = flag.Uint64("seed", 0, "seed of the random tests; 0 takes a new one")
)

// patience bounds each wait for something that must come: the machine may be busy
// and the race detector is slow.
const patience = 60 * time.Second

// programs are built once, when a test asks for them.
var programs struct {
	dir          string
	usual, plain func() (string, error)
}

func TestMain(m *testing.M) {
	flag.Parse()
	// The tests wait more than they work.
	if err := flag.Set("test.parallel", fmt.Sprint(4*runtime.GOMAXPROCS(0))); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	dir, err := os.MkdirTemp("", "sealward-faults-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	// Also another user runs it.
	if err := os.Chmod(dir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	programs.dir = dir
	programs.plain = sync.OnceValues(func() (string, error) { return build(filepath.Join(dir, "plain"), false) })
	programs.usual = programs.plain
	if raceEnabled {
		programs.usual = sync.OnceValues(func() (string, error) { return build(filepath.Join(dir, "race"), true) })
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func build(to string, race bool) (string, error) {
	if err := os.Mkdir(to, 0o755); err != nil {
		return "", err
	}
	args := []string{"build", "-o", filepath.Join(to, "sealward")}
	if race {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, "../../cmd/sealward")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return filepath.Join(to, "sealward"), nil
}

// newSeed is the test's seed; the same one makes the same schedule.
func newSeed(t *testing.T) uint64 {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed %d", seed)
	return seed
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until ok; what says what was waited for.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("in %s it did not happen: %s", patience, what)
		}
	}
}
