package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io/fs"
	"log/slog"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/akidb/akidbd/internal/atomicfile"
	"github.com/akidb/akidbd/internal/node"
	"github.com/akidb/akidbd/internal/testlog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newCA(t *testing.T, domain string) *CA {
	t.Helper()
	ca, err := Init(filepath.Join(t.TempDir(), "ca"), domain, CALife)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// issue makes a node's directory.
func (ca *CA) issue(t *testing.T, id node.ID, region string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), string(id))
	if _, err := ca.Issue(id, region, dir, LeafLife); err != nil {
		t.Fatal(err)
	}
	return dir
}

// forge signs what no Sign would: a node's certificate with changes.
func (ca *CA) forge(t *testing.T, change func(*x509.Certificate)) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(0xabc), Subject: pkix.Name{CommonName: "x"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:        []*url.URL{nodeURI(ca.domain, "eu", "eu-1")},
	}
	change(template)
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return leaf, key
}

// rig is an identity with what it logged and measured.
type rig struct {
	*Identity
	dir  string
	logs *testlog.Buffer
}

func open(t *testing.T, dir, renewURL string) *rig {
	t.Helper()
	l := &testlog.Buffer{}
	i, err := Open(Config{Dir: dir, RenewURL: renewURL, Logger: slog.New(slog.NewTextHandler(l, nil)), Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	return &rig{i, dir, l}
}

func (r *rig) serial() string { return r.now.Load().chain[0].SerialNumber.Text(16) }

// reloadOK reloads and fails the test unless something new is in force.
func (r *rig) reloadOK(t *testing.T) {
	t.Helper()
	changed := r.Changed()
	r.reload()
	select {
	case <-changed:
	default:
		t.Fatalf("nothing new is in force: %s", r.logs)
	}
}

func put(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := atomicfile.Write(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestInitAndIssue(t *testing.T) {
	ca := newCA(t, "akidb.local")
	dir := ca.issue(t, "eu-1", "eu")
	for path, mode := range map[string]fs.FileMode{
		filepath.Join(ca.dir, caKeyFile): 0o600, filepath.Join(dir, KeyFile): 0o600, filepath.Join(dir, CertFile): 0o644, filepath.Join(dir, CAFile): 0o644,
	} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, want mode %v (%v)", path, info, mode, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, caKeyFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the authority's key is in the node's directory")
	}
	for _, file := range []string{caKeyFile, CAFile} {
		other := filepath.Join(t.TempDir(), "ca")
		if _, err := Init(other, "akidb.local", CALife); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(other, file)); err != nil {
			t.Fatal(err)
		}
		if _, err := Init(other, "akidb.local", CALife); err == nil || !strings.Contains(err.Error(), "is there already") {
			t.Errorf("a second authority over the rest of one: %v", err)
		}
	}
	r := open(t, dir, "")
	if id, region := r.Self(); id != "eu-1" || region != "eu" {
		t.Errorf("self %s in %s", id, region)
	}
	if got, want := testutil.ToFloat64(r.metrics.notAfter), float64(r.notAfter().Unix()); got != want || time.Until(r.notAfter()) > LeafLife {
		t.Errorf("not after %v, want %v", got, want)
	}
	for _, bad := range []struct {
		id     node.ID
		region string
	}{{"", "eu"}, {"a/b", "eu"}, {"eu-1", "../x"}, {"eu-1", ""}, {node.ID(strings.Repeat("a", 65)), "eu"}} {
		if _, err := ca.Issue(bad.id, bad.region, t.TempDir(), LeafLife); err == nil {
			t.Errorf("issued for %+v", bad)
		}
	}
	// An authority that ends soon issues nothing that outlives it.
	short, err := Init(filepath.Join(t.TempDir(), "short"), "akidb.local", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := short.Issue("n", "r", filepath.Join(t.TempDir(), "n"), LeafLife)
	if err != nil || leaf.NotAfter.After(short.cert.NotAfter) {
		t.Errorf("ends %v after its authority's %v (%v)", leaf.NotAfter, short.cert.NotAfter, err)
	}
}

// pair is what a forged leaf and its key look like to TLS.
func pair(leaf *x509.Certificate, key *ecdsa.PrivateKey) tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
}
