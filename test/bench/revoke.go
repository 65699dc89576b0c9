package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// revoke measures how long a right lasts that a commit takes away, while readers keep
// the agent busy: from the webhook to the first denial, after which no read may get a
// value.
func (b *bench) revoke() (err error) {
	const rounds, readers = 10, 32
	dir := filepath.Join(b.dir, "revoke")
	r, err := b.generate(dir, b.n, min(100, b.n))
	if err == nil {
		err = r.publish()
	}
	if err != nil {
		return err
	}
	f, err := r.follow(filepath.Join(dir, "state"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.stop()) }()
	of := r.files[0]
	ws := of.key.workspace.String()
	grant := filepath.Join("workspaces", ws, "grants", "readers.yaml")
	text, err := os.ReadFile(filepath.Join(r.dir, grant))
	if err != nil {
		return err
	}
	address := f.base + "/v1/workspaces/" + ws + "/secrets/" + of.name + "/keys/token"

	const (
		granted  = iota // or about to be
		revoking        // the webhook is called
		denied          // a reader was denied
	)
	var phase, reads, late atomic.Int64
	at := make(chan time.Time, 1)
	stop := make(chan struct{})
	var running sync.WaitGroup
	errs := make([]error, readers)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: readers}}
	for i := range readers {
		running.Go(func() {
			for errs[i] == nil {
				select {
				case <-stop:
					return
				default:
				}
				began := phase.Load()
				req, err := http.NewRequestWithContext(b.ctx, http.MethodGet, address, nil)
				if err != nil {
					errs[i] = err
					return
				}
				req.Header.Set("Authorization", "Bearer "+f.bearer)
				resp, err := client.Do(req)
				if err != nil {
					errs[i] = err
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				reads.Add(1)
				switch resp.StatusCode {
				case http.StatusForbidden:
					if phase.CompareAndSwap(revoking, denied) {
						at <- time.Now()
					}
				case http.StatusOK:
					if began == denied && phase.Load() == denied { // nothing was granted since
						late.Add(1)
					}
				default:
					errs[i] = fmt.Errorf("a read was answered %d", resp.StatusCode)
				}
			}
		})
	}
	var lasted []time.Duration
	began := time.Now()
	measure := func() error {
		for range rounds {
			if err := errors.Join(os.Remove(filepath.Join(r.dir, grant)), r.commit(grant), r.git("push", "-q")); err != nil {
				return err
			}
			phase.Store(revoking)
			called := time.Now()
			if err := f.hook(); err != nil {
				return err
			}
			select {
			case first := <-at:
				lasted = append(lasted, first.Sub(called))
			case <-time.After(30 * time.Second):
				return errors.New("the right that was taken away lasts")
			}
			time.Sleep(50 * time.Millisecond)
			phase.Store(granted)
			if err := errors.Join(os.WriteFile(filepath.Join(r.dir, grant), text, 0o600), r.commit(grant), r.git("push", "-q")); err != nil {
				return err
			}
			if err := f.granted(address); err != nil {
				return err
			}
		}
		return nil
	}
	err = measure()
	took := time.Since(began)
	close(stop)
	running.Wait()
	if err = errors.Join(append(errs, err)...); err != nil {
		return err
	}
	t := newTable(fmt.Sprintf("How long a right lasts that a commit takes away, %s manifests, %d readers, %d rounds", thousands(b.n), readers, rounds), "webhook to denied", "slowest", "reads a second", "values after the first denial")
	t.row(span(median(lasted)), span(quantile(lasted, 1)), thousands(int(float64(reads.Load())/took.Seconds())), fmt.Sprint(late.Load()))
	t.print()
	return nil
}

// hook calls the agent's webhook.
func (f *follower) hook() error {
	body := `{"ref":"refs/heads/main"}`
	mac := hmac.New(sha256.New, []byte(f.secret))
	mac.Write([]byte(body))
	hook, err := http.NewRequestWithContext(f.r.b.ctx, http.MethodPost, f.base+"/hooks/generic", strings.NewReader(body))
	if err != nil {
		return err
	}
	hook.Header.Set("X-Signature", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	_, err = f.do(hook, http.StatusAccepted)
	return err
}

// granted waits until an address may be read.
func (f *follower) granted(address string) error {
	if err := f.hook(); err != nil {
		return err
	}
	for range 3000 {
		req, err := http.NewRequestWithContext(f.r.b.ctx, http.MethodGet, address, nil)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+f.bearer)
		if _, err := f.do(req, http.StatusOK); err == nil {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return errors.New("the right that was given does not begin")
}
