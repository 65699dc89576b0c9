package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/access"
	"github.com/sealward/sealward/unseal/audit"
	"github.com/sealward/sealward/unseal/serve"
)

// reads asks three servers the same: one with the durable audit, one that
// records nothing, and a plain HTTPS server with a constant body of the same
// size. All are in this process, and so is the client.
func (b *bench) reads() error {
	dir := filepath.Join(b.dir, "read")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	secrets, live, err := servedSecrets()
	if err != nil {
		return err
	}
	token, tokens, err := newTokens(dir)
	if err != nil {
		return err
	}
	certs, roots, err := newCertificate(dir)
	if err != nil {
		return err
	}
	log, err := audit.Open(filepath.Join(dir, "audit.jsonl"), audit.Options{})
	if err != nil {
		return err
	}
	sealward := func(a auditor) http.Handler {
		return serve.New(serve.Config{Live: live, Audit: a, Tokens: tokens, Now: time.Now, Log: slog.New(slog.DiscardHandler),
			Limits: serve.Limits{PerIdentity: 1e9}})
	}
	body := &constant{}
	run := servers{tls: certs.Config()}
	defer run.stop()
	targets := []target{
		{name: "HTTPS, a constant body", handler: body},
		{name: "sealward, audit off", handler: sealward(noAudit{})},
		{name: "sealward, audit durable", handler: sealward(log), durable: true},
	}
	for i := range targets {
		if targets[i].address, err = run.start(b.ctx, targets[i].handler); err != nil {
			return err
		}
	}

	c := &client{ctx: b.ctx, tls: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}}
	disk := &disk{dir: dir}
	recorded := 0
	for _, kind := range []struct{ name, suffix string }{{"one key", "/keys/token"}, {"a whole secret", ""}} {
		var requests [][]byte
		for _, path := range secrets {
			requests = append(requests, fmt.Appendf(nil, "GET %s%s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n\r\n", path, kind.suffix, token))
		}
		if body.text, err = c.body(targets[1].address, requests[0]); err != nil {
			return err
		}
		t := newTable(fmt.Sprintf("Reading %s (%d bytes) of %s over kept TLS connections, %s each", kind.name, len(body.text), thousands(len(secrets)), b.time),
			"", "connections", "a second", "p50", "p99", "of HTTPS")
		for _, conns := range []int{1, 8, 32} {
			got, err := c.compare(targets, conns, requests, b.time, disk)
			if err != nil {
				return fmt.Errorf("%s over %d connections: %w", kind.name, conns, err)
			}
			for i, a := range got {
				t.row(targets[i].name, fmt.Sprint(conns), thousands(int(a.rate())), span(quantile(a.spent, 0.5)), span(quantile(a.spent, 0.99)),
					fmt.Sprintf("%.0f%%", 100*a.rate()/got[0].rate()))
				if targets[i].durable {
					recorded += len(a.spent)
				}
			}
		}
		t.print()
	}
	fmt.Println("  Servers and client are one process and share its cores. HTTP/1.1, TLS 1.3, one bearer token.")
	fmt.Printf("  Meanwhile, to append %d bytes to a file and sync it took this disk %s (median; 99th percentile %s).\n",
		recordSize, span(quantile(disk.spent, 0.5)), span(quantile(disk.spent, 0.99)))

	// The figures are worth nothing if reads were answered and not recorded.
	run.stop()
	if seq, _ := log.Head(); seq < uint64(recorded) {
		err = fmt.Errorf("the audit has %d records of %d reads", seq, recorded)
	}
	return errors.Join(err, log.Close())
}

// target is a server that is measured.
type target struct {
	name    string
	handler http.Handler
	durable bool
	address string
}

// auditor is what a server needs of an audit log.
type auditor interface {
	Append(context.Context, audit.Record) (audit.Record, error)
	Unauthenticated(reason string)
	Head() (seq uint64, hash string)
}

// noAudit forgets: it shows what the durable audit costs, and is for no other use.
type noAudit struct{}

func (noAudit) Append(_ context.Context, r audit.Record) (audit.Record, error) { return r, nil }
func (noAudit) Unauthenticated(string)                                         {}
func (noAudit) Head() (uint64, string)                                         { return 0, "" }

// constant answers with the same body whatever it is asked.
type constant struct{ text []byte }

func (c *constant) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/octet-stream")
	_, _ = w.Write(c.text)
}

// servedSecrets makes a snapshot as an agent would publish it, and the address
// of each secret in it.
func servedSecrets() (paths []string, live *unseal.Live, err error) {
	const commit, blob = "0123456789abcdef0123456789abcdef01234567", "89abcdef0123456789abcdef0123456789abcdef"
	scopes, policies := map[manifest.Workspace]*unseal.Scope{}, map[manifest.Workspace]*access.Scope{}
	for i := range 10 {
		ws, err := manifest.ParseWorkspace(fmt.Sprintf("team-%02d", i))
		if err != nil {
			return nil, nil, err
		}
		records := map[string]*unseal.Record{}
		for j := range 100 {
			m, err := manifest.Parse("bench.yaml", secretText(ws, fmt.Sprintf("service-%06d-r", j)))
			if err != nil {
				return nil, nil, err
			}
			path := manifest.SecretPath(ws, m.Name)
			content := &unseal.Content{
				ID: m.ID(), Kind: m.Kind, Version: m.Version, Type: m.Secret.Type, ACL: m.Secret.ACL, Tags: m.Tags, Desc: m.Description, Owner: m.Owner, Bound: true,
				Provenance: unseal.Provenance{Path: path, Blob: blob, Commit: commit, Author: "Dana <dana@example.com>", Time: time.Unix(1_700_000_000, 0).UTC()},
			}
			for _, e := range m.Secret.Entries {
				content.Values = append(content.Values, unseal.Value{Key: e.Key.String(), Data: []byte(e.Text)})
			}
			records[path] = &unseal.Record{Path: path, Place: manifest.Place{Scope: ws, Name: m.Name}, Blob: blob, Good: content}
			paths = append(paths, "/v1/workspaces/"+ws.String()+"/secrets/"+m.Name.String())
		}
		grant, err := manifest.Parse("readers.yaml", fmt.Appendf(nil, grantText, ws))
		if err != nil {
			return nil, nil, err
		}
		scopes[ws] = unseal.NewScope(ws, records)
		policies[ws] = access.CompileScope(ws, []access.File{{Path: manifest.PolicyPath(ws, grant.Name), Manifest: grant}})
	}
	live = &unseal.Live{}
	live.Publish(unseal.Snapshot{Commit: commit, Branch: "main", Policy: access.New(policies), MaxStale: time.Hour}.WithScopes(scopes))
	return paths, live, nil
}

func newTokens(dir string) (bearer string, tokens *serve.Tokens, err error) {
	subject, err := manifest.ParseSubject("users:id:bench")
	if err != nil {
		return "", nil, err
	}
	bearer, entry, err := serve.NewToken(subject, nil, time.Hour, time.Now())
	if err != nil {
		return "", nil, err
	}
	file := filepath.Join(dir, "tokens.yaml")
	if err := serve.AddToken(file, entry); err != nil {
		return "", nil, err
	}
	tokens, err = serve.OpenTokens(file, slog.New(slog.DiscardHandler))
	return bearer, tokens, err
}

// newCertificate makes a certificate for loopback that signs itself.
func newCertificate(dir string) (*serve.Certificates, *x509.CertPool, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, private.Public(), private)
	if err != nil {
		return nil, nil, err
	}
	privateDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	err = errors.Join(os.WriteFile(certFile, certPEM, 0o600),
		os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: privateDER}), 0o600))
	if err != nil {
		return nil, nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(certPEM)
	certs, err := serve.LoadCertificates(certFile, keyFile, slog.New(slog.DiscardHandler))
	return certs, roots, err
}

// servers run until stop.
type servers struct {
	tls     *tls.Config
	running sync.WaitGroup
	cancel  []context.CancelFunc
}

func (s *servers) start(ctx context.Context, h http.Handler) (address string, err error) {
	l, err := serve.Listen("127.0.0.1:0", true)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithCancel(ctx)
	s.cancel = append(s.cancel, cancel)
	s.running.Go(func() { _ = serve.Serve(ctx, l, s.tls, h) })
	return l.Addr().String(), nil
}

func (s *servers) stop() {
	for _, cancel := range s.cancel {
		cancel()
	}
	s.running.Wait()
}

// client asks over its own connections with no more code than that takes:
// net/http's client would cost about as much as the servers that are measured.
type client struct {
	ctx context.Context
	tls *tls.Config
}

// answers of one server.
type answers struct {
	took  time.Duration
	spent []time.Duration // for each answer
}

func (a *answers) rate() float64 { return float64(len(a.spent)) / a.took.Seconds() }

// compare asks each target for a third of d, three times in turn, so that a
// noisy moment hits all of them.
func (c *client) compare(targets []target, conns int, requests [][]byte, d time.Duration, disk *disk) ([]answers, error) {
	const rounds = 3
	sums := make([]answers, len(targets))
	for range rounds {
		for i, t := range targets {
			if t.durable {
				if err := disk.measure(); err != nil {
					return nil, err
				}
			}
			got, err := c.run(t.address, conns, requests, d/rounds)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", t.name, err)
			}
			sums[i].took += got.took
			sums[i].spent = append(sums[i].spent, got.spent...)
		}
	}
	return sums, nil
}

// run asks over conns connections for the time d.
func (c *client) run(address string, conns int, requests [][]byte, d time.Duration) (answers, error) {
	spent := make([][]time.Duration, conns)
	errs := make([]error, conns)
	var ready, done sync.WaitGroup
	begin := make(chan struct{})
	var started time.Time
	for i := range conns {
		ready.Add(1)
		done.Go(func() {
			conn, err := c.dial(address)
			if err == nil { // one answer before the clock runs
				defer conn.Close()
				_, err = conn.ask(requests[i%len(requests)])
			}
			ready.Done()
			<-begin
			for n := i; err == nil && c.ctx.Err() == nil && time.Since(started) < d; n += conns {
				asked := time.Now()
				_, err = conn.ask(requests[n%len(requests)])
				spent[i] = append(spent[i], time.Since(asked))
			}
			errs[i] = errors.Join(err, c.ctx.Err())
		})
	}
	ready.Wait()
	started = time.Now()
	close(begin)
	done.Wait()
	return answers{time.Since(started), slices.Concat(spent...)}, errors.Join(errs...)
}

// body is the answer to one request.
func (c *client) body(address string, request []byte) ([]byte, error) {
	conn, err := c.dial(address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.ask(request)
}

type connection struct {
	*tls.Conn
	in *bufio.Reader
}

func (c *client) dial(address string) (*connection, error) {
	d := tls.Dialer{Config: c.tls}
	conn, err := d.DialContext(c.ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return &connection{conn.(*tls.Conn), bufio.NewReader(conn)}, nil
}

func (c *connection) ask(request []byte) ([]byte, error) {
	if _, err := c.Write(request); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("answered %s", resp.Status)
	}
	return text, errors.Join(err, resp.Body.Close())
}

// recordSize is about what one audit record takes.
const recordSize = 565

// disk measures what it takes to append that much to a file and sync it: no
// durable read over a single connection can be faster.
type disk struct {
	dir   string
	spent []time.Duration
}

func (d *disk) measure() error {
	f, err := os.OpenFile(filepath.Join(d.dir, "sync"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	record := make([]byte, recordSize)
	for range 100 {
		took, err := timed(func() error {
			_, err := f.Write(record)
			return errors.Join(err, f.Sync())
		})
		if err != nil {
			return err
		}
		d.spent = append(d.spent, took)
	}
	return nil
}
