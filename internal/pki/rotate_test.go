package pki

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/akidb/akidbd/internal/atomicfile"
)

// echo is a live connection between two nodes.
type echo struct{ client, server *tls.Conn }

func connect(t *testing.T, from, to *rig) *echo {
	t.Helper()
	a, b := wire(t)
	e := &echo{tls.Client(a, from.TLS([]string{"x/1"})), tls.Server(b, to.TLS([]string{"x/1"}))}
	t.Cleanup(func() { _, _ = e.client.Close(), e.server.Close() })
	done := make(chan error, 1)
	go func() { done <- e.server.Handshake() }()
	client := e.client.Handshake()
	if client != nil {
		_ = a.Close()
	}
	if server := <-done; client != nil || server != nil {
		t.Fatalf("client: %v; server: %v", client, server)
	}
	return e
}

func (e *echo) works(t *testing.T) {
	t.Helper()
	for _, d := range [][2]*tls.Conn{{e.client, e.server}, {e.server, e.client}} {
		go func() { _, _ = d[0].Write([]byte("hi")) }()
		b := make([]byte, 2)
		if _, err := io.ReadFull(d[1], b); err != nil {
			t.Fatal(err)
		}
	}
}

// shown are the serials that the two ends show each other.
func (e *echo) shown() (client, server string) {
	return e.server.ConnectionState().PeerCertificates[0].SerialNumber.Text(16), e.client.ConnectionState().PeerCertificates[0].SerialNumber.Text(16)
}

func reissue(t *testing.T, ca *CA, r *rig) {
	t.Helper()
	id, region := r.Self()
	if _, err := ca.Issue(id, region, r.dir, LeafLife); err != nil {
		t.Fatal(err)
	}
}

func TestRotateCertificate(t *testing.T) {
	ca := newCA(t, "akidb.local")
	a, b := open(t, ca.issue(t, "a", "eu"), ""), open(t, ca.issue(t, "b", "us"), "")
	first := connect(t, a, b)
	first.works(t)
	old := a.serial()
	reissue(t, ca, a)
	a.reloadOK(t)
	if a.serial() == old {
		t.Fatal("the old certificate is in force")
	}
	first.works(t) // what is up stays up
	for _, e := range []*echo{connect(t, a, b), connect(t, b, a)} {
		e.works(t)
		client, server := e.shown()
		if client != a.serial() && server != a.serial() {
			t.Errorf("shown %s and %s, want %s", client, server, a.serial())
		}
		if e.client.ConnectionState().DidResume {
			t.Error("a session was resumed")
		}
	}
	if got, want := testutil.ToFloat64(a.metrics.notAfter), float64(a.notAfter().Unix()); got != want {
		t.Errorf("not after %v, want %v", got, want)
	}
}

func TestRotateAuthority(t *testing.T) {
	ca1, ca2 := newCA(t, "akidb.local"), newCA(t, "akidb.local")
	a, b := open(t, ca1.issue(t, "a", "eu"), ""), open(t, ca1.issue(t, "b", "us"), "")
	live := connect(t, a, b)
	check := func() {
		t.Helper()
		live.works(t)
		connect(t, a, b).works(t)
		connect(t, b, a).works(t)
	}
	both, err := mergeCertificates(ca1.BundlePEM(), ca2.BundlePEM())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []*rig{a, b} {
		put(t, r.dir, CAFile, string(both))
		r.reloadOK(t)
		check()
	}
	// The authority's host: the new key signs, and both are handed out.
	put(t, ca2.dir, CAFile, string(both))
	signer, err := LoadCA(ca2.dir)
	if err != nil {
		t.Fatal(err)
	}
	if !signer.cert.Equal(ca2.cert) || len(signer.bundle) != 2 {
		t.Fatal("the key's certificate is not found in the bundle")
	}
	before := a.now.Load().chain
	for _, r := range []*rig{a, b} {
		reissue(t, signer, r)
		r.reloadOK(t)
		check()
	}
	for _, r := range []*rig{a, b} {
		put(t, r.dir, CAFile, string(ca2.BundlePEM()))
		r.reloadOK(t)
		check()
	}
	if _, _, err := b.Verify(before); reasonOf(err) != ReasonAuthority {
		t.Errorf("the old authority still counts: %v", err)
	}
}

func TestReloadKeepsTheLastGood(t *testing.T) {
	ca, other := newCA(t, "akidb.local"), newCA(t, "akidb.local")
	dir := ca.issue(t, "a", "eu")
	r := open(t, dir, "")
	serial := r.serial()
	files := r.now.Load().files
	otherDir := ca.issue(t, "b", "eu")
	otherKey, err := readFile(filepath.Join(otherDir, KeyFile))
	if err != nil {
		t.Fatal(err)
	}
	expired, expiredKey := ca.forge(t, func(c *x509.Certificate) {
		c.URIs = []*url.URL{nodeURI("akidb.local", "eu", "a")}
		c.NotAfter = time.Now().Add(-time.Second)
	})
	faults := 0.0
	for _, c := range []struct {
		name, text string
		spoil      func() error
	}{
		{"half a file", "node.pem", func() error { return atomicfile.Write(filepath.Join(dir, CertFile), files[CertFile][:100], 0o644) }},
		{"no key", "node-key.pem", func() error { return os.Remove(filepath.Join(dir, KeyFile)) }},
		{"other key", "private key does not match", func() error { return atomicfile.Write(filepath.Join(dir, KeyFile), otherKey, 0o600) }},
		{"other authority", "wrong_ca", func() error { return atomicfile.Write(filepath.Join(dir, CAFile), other.BundlePEM(), 0o644) }},
		{"expired", "expired", func() error { return writeNode(dir, expiredKey, expired, ca.BundlePEM()) }},
		{"other node", "restart it to change who it is", func() error { _, err := ca.Issue("b", "eu", dir, LeafLife); return err }},
		{"other region", "restart it to change who it is", func() error { _, err := ca.Issue("a", "us", dir, LeafLife); return err }},
		{"bad deny list", "deny.txt: line 1", func() error { return atomicfile.Write(filepath.Join(dir, DenyFile), []byte("a b"), 0o644) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.spoil(); err != nil {
				t.Fatal(err)
			}
			changed, logged := r.Changed(), len(r.logs.String())
			r.reload()
			r.reload() // the same fault is told once
			faults++
			if got := testutil.ToFloat64(r.metrics.reloadFailures); got != faults || testutil.ToFloat64(r.metrics.failing) != 1 {
				t.Errorf("%v failures, want %v", got, faults)
			}
			if told := r.logs.String()[logged:]; !strings.Contains(told, c.text) {
				t.Errorf("no %q in %s", c.text, told)
			}
			select {
			case <-changed:
				t.Error("a change was told")
			default:
			}
			if r.serial() != serial {
				t.Error("the last good certificate is not in force")
			}
			if _, _, err := r.Verify(r.now.Load().chain); err != nil {
				t.Error(err)
			}
			for name, data := range files {
				put(t, dir, name, string(data))
			}
			_ = os.Remove(filepath.Join(dir, DenyFile))
			r.reload()
			if testutil.ToFloat64(r.metrics.failing) != 0 {
				t.Error("failing still")
			}
		})
	}
}

// A deny list counts even while the other files are broken.
func TestDenyListAlone(t *testing.T) {
	ca := newCA(t, "akidb.local")
	a, b := open(t, ca.issue(t, "a", "eu"), ""), open(t, ca.issue(t, "b", "eu"), "")
	chain := b.now.Load().chain
	put(t, a.dir, DenyFile, "b")
	a.reloadOK(t)
	if _, _, err := a.Verify(chain); reasonOf(err) != ReasonDenied {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(a.dir, DenyFile)); err != nil {
		t.Fatal(err)
	}
	a.reloadOK(t)
	if _, _, err := a.Verify(chain); err != nil {
		t.Fatal(err)
	}
	put(t, a.dir, CertFile, "broken")
	put(t, a.dir, DenyFile, b.serial())
	a.reloadOK(t)
	if _, _, err := a.Verify(chain); reasonOf(err) != ReasonDenied {
		t.Fatal(err)
	}
	if testutil.ToFloat64(a.metrics.failing) != 1 {
		t.Error("the broken certificate is not shown")
	}
	// A node on its own list serves on, and says it.
	reissue(t, ca, a)
	put(t, a.dir, DenyFile, "a")
	a.reloadOK(t)
	if !strings.Contains(a.logs.String(), "its own deny list") {
		t.Error(a.logs)
	}
	if _, _, err := a.Verify(chain); err != nil {
		t.Error(err)
	}
}

// Real files, a real watch: a file replaced, then the directory swapped behind a link, far faster than the poll.
func TestWatch(t *testing.T) {
	ca := newCA(t, "akidb.local")
	one, two, three := ca.issue(t, "a", "eu"), ca.issue(t, "a", "eu"), ca.issue(t, "a", "eu")
	link := filepath.Join(t.TempDir(), "pki")
	if err := os.Symlink(one, link); err != nil {
		t.Fatal(err)
	}
	r := open(t, link, "")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	next := func(f func()) {
		t.Helper()
		changed := r.Changed()
		f()
		timeout, done := context.WithTimeout(ctx, poll-5*time.Second)
		defer done()
		select {
		case <-changed:
		case <-timeout.Done():
			t.Fatalf("no change: %s", r.logs)
		}
	}
	next(func() { put(t, one, DenyFile, "x") })
	swap := func(to string) func() {
		return func() {
			if err := os.Symlink(to, link+".new"); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(link+".new", link); err != nil {
				t.Fatal(err)
			}
		}
	}
	old := r.serial()
	next(swap(two))
	if r.serial() == old {
		t.Error("the swap is not seen")
	}
	next(func() { put(t, two, DenyFile, "y") }) // the new directory is watched
	next(swap(three))
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestPollAndExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newCA(t, "akidb.local")
		const life = 6 * time.Hour
		dir := filepath.Join(t.TempDir(), "a")
		if _, err := ca.Issue("a", "eu", dir, life); err != nil {
			t.Fatal(err)
		}
		r := open(t, dir, "")
		r.cfg.Poll = true
		chain := r.now.Load().chain
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); _ = r.Run(ctx) }()
		changed, start := r.Changed(), time.Now()
		synctest.Wait()
		put(t, r.dir, DenyFile, "x")
		time.Sleep(settle + time.Millisecond) // the look after the start
		synctest.Wait()
		<-changed
		changed = r.Changed()
		put(t, r.dir, DenyFile, "y")
		<-changed
		if took := time.Since(start); took > poll+time.Second {
			t.Errorf("the poll took %v", took)
		}
		time.Sleep(life*6/10 - time.Since(start))
		if strings.Contains(r.logs.String(), "ends soon") {
			t.Error("warned too early")
		}
		time.Sleep(life * 3 / 10)
		if n := strings.Count(r.logs.String(), "ends soon"); n != 1 {
			t.Errorf("warned %d times", n)
		}
		time.Sleep(life - time.Since(start) - time.Minute)
		if _, _, err := r.Verify(chain); err != nil {
			t.Error(err)
		}
		time.Sleep(2 * time.Minute)
		if _, _, err := r.Verify(chain); reasonOf(err) != ReasonExpired {
			t.Errorf("after its end: %v", err)
		}
		if n := strings.Count(r.logs.String(), "has ended"); n != 1 {
			t.Errorf("its end is told %d times", n)
		}
		if n := testutil.ToFloat64(r.metrics.reloadFailures); n != 0 {
			t.Errorf("%v failures of files that did not change", n)
		}
		reissue(t, ca, r) // somebody saves it
		time.Sleep(poll + time.Second)
		synctest.Wait()
		if _, _, err := r.Verify(r.now.Load().chain); err != nil {
			t.Error(err)
		}
		cancel()
		<-ended
	})
}
