package gitops_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealward/sealward/gitops"
)

func TestAuditSettings(t *testing.T) {
	parse := func(text string) (gitops.Settings, error) {
		s, err := gitops.ParseSettings([]byte("source: {url: x}\nkeyring: k\nstate: s\nserve: {tokensFile: t}\n"+text), "/etc")
		if err == nil {
			err = s.Check(false)
		}
		return s, err
	}
	s, err := parse("")
	if a := s.Audit; err != nil || a.MaxSize != 100<<20 || a.MaxAge != 0 || time.Duration(a.HeadInterval) != time.Hour || a.File != "/etc/s/audit.jsonl" {
		t.Errorf("defaults are %+v, %v", a, err)
	}
	s, err = parse("audit: {maxSize: 2GiB, maxAge: 24h, headInterval: 1m, keep: 9}")
	if a := s.Audit; err != nil || a.MaxSize != 2<<30 || time.Duration(a.MaxAge) != 24*time.Hour || time.Duration(a.HeadInterval) != time.Minute || *a.Keep != 9 {
		t.Errorf("%+v, %v", a, err)
	}
	if s, err := parse("audit: {maxSize: never}"); err != nil || s.Audit.MaxSize < 1<<60 {
		t.Errorf("%+v, %v", s.Audit, err)
	}
	for _, bad := range []string{"maxSize: 0MiB", "maxSize: -1MiB", "maxSize: 100", "maxSize: 1.5GiB", "maxSize: 99999999999GiB", "maxAge: 0s", "headInterval: -1h", "keep: 0", "keep: -1", "maxFiles: 3"} {
		if _, err := parse("audit: {" + bad + "}"); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
}

func TestHeadIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		s := &gitops.Service{Log: logged.To(&out)}
		s.Settings.Audit.HeadInterval = gitops.Duration(time.Hour)
		var seq atomic.Uint64
		ctx, cancel := context.WithCancel(t.Context())
		seq.Add(5)
		go gitops.TellHead(s, ctx, func() (uint64, string) { return seq.Load(), fmt.Sprint("hash-", seq.Load()) })
		for range 3 {
			synctest.Wait()
			seq.Add(5)
			time.Sleep(time.Hour)
		}
		cancel()
		synctest.Wait()
		for _, want := range []string{"auditSeq=5 auditHead=hash-5", "auditSeq=10 auditHead=hash-10", "auditSeq=15 auditHead=hash-15"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("the log lacks %q:\n%s", want, out.String())
			}
		}
	})
}
