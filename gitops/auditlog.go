package gitops

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/sealward/sealward/unseal/audit"
)

// Size in bytes, written 500KiB, 100MiB, 2GiB, or never.
type Size int64

// never is a Size that nothing reaches.
const never Size = math.MaxInt64

// UnmarshalYAML reads the text form.
func (s *Size) UnmarshalYAML(n *yaml.Node) error {
	if n.Value == "never" {
		*s = never
		return nil
	}
	for _, u := range []struct {
		name  string
		bytes int64
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}} {
		digits, ok := strings.CutSuffix(n.Value, u.name)
		if v, err := strconv.ParseInt(digits, 10, 32); ok && err == nil && v > 0 {
			*s = Size(v * u.bytes)
			return nil
		}
	}
	return fmt.Errorf("line %d: %.40q is not a size such as 500KiB, 100MiB or 2GiB, or never", n.Line, n.Value)
}

// openAudit opens the log of reads as the settings say.
func (s *Service) openAudit() (*audit.Log, error) {
	a := s.Settings.Audit
	opts := audit.Options{Now: s.Now, Logger: s.Log, MaxSize: int64(a.MaxSize), MaxAge: time.Duration(a.MaxAge)}
	if a.Keep != nil {
		opts.Keep = *a.Keep
	}
	return audit.Open(a.File, opts)
}

// tellHead writes the head of the audit's chain to the agent's log, at once and then again
// and again until ctx ends: noted elsewhere, it is what the chain can be held to.
func (s *Service) tellHead(ctx context.Context, head func() (uint64, string)) {
	ticker := time.NewTicker(time.Duration(s.Settings.Audit.HeadInterval))
	defer ticker.Stop()
	for {
		seq, hash := head()
		s.Log.Info("audit head", "auditSeq", seq, "auditHead", hash)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
