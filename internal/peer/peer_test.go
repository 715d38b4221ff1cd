package peer

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/node"
	"github.com/akidb/akidbd/internal/testlog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testCA signs certificates that name a node and a region.
type testCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newTestCA(t testing.TB) *testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &testCA{cert, key}
}

// testIdentity implements Identity on a certificate of the CA.
type testIdentity struct {
	id     node.ID
	region string

	mu      sync.Mutex
	cert    tls.Certificate
	pool    *x509.CertPool
	denied  map[node.ID]bool
	changed chan struct{}
}

func (ca *testCA) identity(t testing.TB, id node.ID, region string) *testIdentity {
	t.Helper()
	return ca.identityFor(t, id, region, 24*time.Hour)
}

func (ca *testCA) identityFor(t testing.TB, id node.ID, region string, life time.Duration) *testIdentity {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return &testIdentity{id: id, region: region, cert: ca.issue(t, id, region, life), pool: pool,
		denied: map[node.ID]bool{}, changed: make(chan struct{})}
}

func (ca *testCA) issue(t testing.TB, id node.ID, region string, life time.Duration) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), NotBefore: now, NotAfter: now.Add(life),
		URIs:     []*url.URL{{Scheme: "spiffe", Host: "test", Path: "/akidb/node/" + region + "/" + string(id)}},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, key.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (i *testIdentity) Self() (node.ID, string) { return i.id, i.region }

func (i *testIdentity) TLS(alpn []string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: alpn, InsecureSkipVerify: true, ClientAuth: tls.RequireAnyClientCert,
		GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return i.show(), nil },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return i.show(), nil },
		VerifyConnection: func(s tls.ConnectionState) error {
			_, _, err := i.Verify(s.PeerCertificates)
			return err
		},
		SessionTicketsDisabled: true,
	}
}

func (i *testIdentity) Verify(certs []*x509.Certificate) (node.ID, string, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(certs) == 0 {
		return "", "", errors.New("no certificate")
	}
	if _, err := certs[0].Verify(x509.VerifyOptions{Roots: i.pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return "", "", err
	}
	parts := strings.Split(certs[0].URIs[0].Path, "/")
	id := node.ID(parts[len(parts)-1])
	if i.denied[id] {
		return "", "", fmt.Errorf("node %s is on the deny list", id)
	}
	return id, parts[len(parts)-2], nil
}

func (i *testIdentity) Changed() <-chan struct{} {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.changed
}

func (i *testIdentity) deny(id node.ID) { i.change(func() { i.denied[id] = true }) }

// renew replaces the certificate.
func (i *testIdentity) renew(c tls.Certificate) { i.change(func() { i.cert = c }) }

func (i *testIdentity) change(f func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	f()
	close(i.changed)
	i.changed = make(chan struct{})
}

func (i *testIdentity) show() *tls.Certificate {
	i.mu.Lock()
	defer i.mu.Unlock()
	c := i.cert
	return &c
}

// testEngine answers each text with a vector made of it, or what fn says.
type testEngine struct {
	fn    atomic.Pointer[engineFunc]
	calls atomic.Int64
}

type engineFunc func(context.Context, embedding.Request) (embedding.Result, error)

func (e *testEngine) set(fn engineFunc) { e.fn.Store(&fn) }

func (e *testEngine) Embed(ctx context.Context, req embedding.Request) (embedding.Result, error) {
	e.calls.Add(1)
	if fn := e.fn.Load(); fn != nil {
		return (*fn)(ctx, req)
	}
	return lengths(req), nil
}

// lengths is a result that can be told from its request.
func lengths(req embedding.Request) embedding.Result {
	res := embedding.Result{Model: embedding.Model{Name: req.Model, Digest: "sha256-" + strings.Repeat("ab", 32), Precision: "fp32"}}
	for i, in := range req.Inputs {
		res.Vectors = append(res.Vectors, []float32{float32(len(in.Text)), float32(len(in.Tokens)), float32(i), 1})
		res.Tokens = append(res.Tokens, len(in.Text))
	}
	return res
}

type testNode struct {
	*Links
	t       testing.TB
	id      node.ID
	engine  *testEngine
	ident   *testIdentity
	reg     *prometheus.Registry
	cfg     Config
	word    atomic.Pointer[node.Word]
	addr    atomic.Pointer[string] // that the node says it has
	changes atomic.Int64
	logs    *testlog.Buffer
	cancel  context.CancelFunc
	ended   chan error
}

// newNode makes a node on loopback that is not run yet. change may be nil.
func newNode(t testing.TB, ident *testIdentity, change func(*Config)) *testNode {
	t.Helper()
	n := &testNode{t: t, id: ident.id, engine: &testEngine{}, ident: ident, reg: prometheus.NewRegistry(), logs: &testlog.Buffer{}}
	n.addr.Store(new(""))
	n.word.Store(&node.Word{State: node.Ready, Epoch: uint64(time.Now().UnixNano()), Seq: 1})
	n.cfg = Config{
		Address: "127.0.0.1:0", StateDir: t.TempDir(), Grace: 2 * time.Second,
		ProbeInterval: 500 * time.Millisecond, IdleTimeout: 4 * time.Second, // a busy machine is no dead peer
		Logger: slog.New(slog.NewTextHandler(n.logs, &slog.HandlerOptions{Level: slog.LevelDebug})), Registerer: n.reg,
		Self: func() node.Info {
			w := *n.word.Load()
			return node.Info{ID: n.id, Region: ident.region, Version: "test", Addr: *n.addr.Load(), Word: w}
		},
	}
	if change != nil {
		change(&n.cfg)
	}
	var err error
	if n.Links, err = New(n.cfg, ident, n.engine); err != nil {
		t.Fatal(err)
	}
	n.OnChange(func() { n.changes.Add(1) })
	t.Cleanup(func() {
		if n.cancel == nil {
			if err := n.Close(); err != nil {
				t.Error(err)
			}
		} else {
			n.stop()
		}
		if t.Failed() {
			t.Logf("log of %s:\n%s", n.id, n.logs)
		}
	})
	return n
}

func startNode(t testing.TB, ident *testIdentity, change func(*Config)) *testNode {
	t.Helper()
	n := newNode(t, ident, change)
	n.start()
	return n
}

func (n *testNode) start() {
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel, n.ended = cancel, make(chan error, 1)
	go func() { n.ended <- n.Run(ctx) }()
	<-n.begun
}

// stop ends Run and gives its error; further calls give nil.
func (n *testNode) stop() error {
	n.cancel()
	err, ok := <-n.ended
	if ok {
		close(n.ended)
	}
	return err
}

func (n *testNode) info() node.Info {
	return node.Info{ID: n.id, Region: n.ident.region, Addr: n.Addr().String()}
}

func members(nodes ...*testNode) []node.Info {
	var infos []node.Info
	for _, n := range nodes {
		infos = append(infos, n.info())
	}
	return infos
}

func meet(nodes ...*testNode) {
	for _, n := range nodes {
		n.SetMembers(members(nodes...))
	}
}

func (n *testNode) see(id node.ID) node.Info {
	for _, p := range n.Peers() {
		if p.ID == id {
			return p
		}
	}
	return node.Info{}
}

// await polls: real sockets tell no test when they are done.
func await(t testing.TB, what string, ok func() bool) time.Duration {
	t.Helper()
	begin := time.Now()
	for !ok() {
		if time.Since(begin) > 10*time.Second {
			t.Fatalf("waited 10 s for %s", what)
		}
		time.Sleep(time.Millisecond)
	}
	return time.Since(begin)
}

func awaitUp(t testing.TB, nodes ...*testNode) {
	t.Helper()
	for _, a := range nodes {
		for _, b := range nodes {
			if a != b {
				await(t, fmt.Sprintf("%s to see %s up", a.id, b.id), func() bool { return a.see(b.id).Link.Up })
			}
		}
	}
}

// pair is two linked nodes of one region.
func pair(t testing.TB, change func(*Config)) (a, b *testNode) {
	t.Helper()
	ca := newTestCA(t)
	a, b = startNode(t, ca.identity(t, "a", "eu"), change), startNode(t, ca.identity(t, "b", "eu"), change)
	a.SetMembers(members(b)) // one side dials: no second connection comes and goes
	awaitUp(t, a, b)
	return a, b
}

func TestPairEmbeds(t *testing.T) {
	a, b := pair(t, nil)
	res, err := a.Embed(t.Context(), b.info(), embedding.Request{Model: "m", Inputs: []embedding.Input{{Text: "four"}, {Tokens: []int32{1, 2}}, {Tokens: []int32{}}}})
	if err != nil {
		t.Fatal(err)
	}
	want := [][]float32{{4, 0, 0, 1}, {0, 2, 1, 1}, {0, 0, 2, 1}}
	if fmt.Sprint(res.Vectors) != fmt.Sprint(want) || res.Model.Name != "m" || res.Tokens[0] != 4 || res.Truncated != nil {
		t.Errorf("got %+v", res)
	}
	if a.engine.calls.Load() != 0 || b.engine.calls.Load() != 1 {
		t.Error("the wrong engine was asked")
	}
	p := a.see("b")
	if p.Region != "eu" || p.Version != "test" || !p.Link.Known || p.Word.State != node.Ready {
		t.Errorf("a sees %+v", p)
	}
	await(t, "a round trip", func() bool { return a.see("b").Link.RTT > 0 && b.see("a").Link.RTT > 0 })
}
