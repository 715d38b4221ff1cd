package pki

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/akidb/akidbd/internal/node"
	"github.com/akidb/akidbd/internal/testlog"
)

// serve runs the authority's server for the test and gives its URL.
func (ca *CA) serve(t *testing.T) (url string, l *testlog.Buffer) {
	t.Helper()
	l = &testlog.Buffer{}
	s, err := NewServer(ServerConfig{Dir: ca.dir, Address: "127.0.0.1:0", Logger: slog.New(slog.NewTextHandler(l, nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return "https://" + s.Addr().String(), l
}

func backdate(t *testing.T, ca *CA, tok Token, by time.Duration) {
	t.Helper()
	path := filepath.Join(ca.dir, tokensDir, tok.ID()+tokenOpen)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var f tokenFile
	if err := json.Unmarshal(data, &f); err != nil {
		t.Fatal(err)
	}
	f.Expires = time.Now().Add(by)
	if data, err = json.Marshal(f); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Dir(path), filepath.Base(path), string(data))
}

func token(t *testing.T, ca *CA, id node.ID, url string) Token {
	t.Helper()
	tok, err := ca.NewToken(id, "eu", url, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func TestJoinAndRenew(t *testing.T) {
	ca := newCA(t, "akidb.local")
	url, serverLogs := ca.serve(t)
	dir := filepath.Join(t.TempDir(), "node")
	tok := token(t, ca, "eu-1", url)
	id, region, err := Join(t.Context(), tok, "", dir)
	if err != nil || id != "eu-1" || region != "eu" {
		t.Fatalf("%s in %s: %v", id, region, err)
	}
	if info, err := os.Stat(filepath.Join(dir, KeyFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if _, _, err := Join(t.Context(), tok, "", dir); err == nil || !strings.Contains(err.Error(), "is there already") {
		t.Errorf("joined over a node: %v", err)
	}
	a, b := open(t, dir, url), open(t, ca.issue(t, "b", "us"), "")
	connect(t, a, b).works(t)
	// The server knows another authority by now, and so will the node.
	ca2 := newCA(t, "akidb.local")
	both, err := mergeCertificates(ca.BundlePEM(), ca2.BundlePEM())
	if err != nil {
		t.Fatal(err)
	}
	put(t, ca.dir, CAFile, string(both))
	before, changed := a.now.Load(), a.Changed()
	if err := a.renewer.once(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-changed
	after := a.now.Load()
	if after.chain[0].Equal(before.chain[0]) || len(after.authorities) != 2 || after.id != before.id || after.region != before.region {
		t.Errorf("renewed to %s of %s in %s with %d authorities", a.serial(), after.id, after.region, len(after.authorities))
	}
	if err := Check(dir); err != nil {
		t.Error(err)
	}
	connect(t, a, b).works(t)
	// Then the new key signs, and at last the old authority is forgotten; the node follows by renewing.
	key, err := os.ReadFile(filepath.Join(ca2.dir, caKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	put(t, ca.dir, caKeyFile, string(key))
	for _, bundle := range []string{string(both), string(ca2.BundlePEM())} {
		put(t, ca.dir, CAFile, bundle)
		if err := a.renewer.once(t.Context()); err != nil {
			t.Fatal(err)
		}
		if by := a.now.Load().chain[0].Issuer.String(); by != ca2.cert.Subject.String() {
			t.Errorf("issued by %s", by)
		}
		signer, err := LoadCA(ca.dir)
		if err != nil {
			t.Fatal(err)
		}
		reissue(t, signer, b)
		b.reloadOK(t)
		connect(t, b, a).works(t)
	}
	if n := len(a.now.Load().authorities); n != 1 {
		t.Errorf("%d authorities at the end", n)
	}
	if s := serverLogs.String(); !strings.Contains(s, a.serial()) || !strings.Contains(s, "path=/v1/renew") {
		t.Errorf("the server's log: %s", s)
	}
}

func TestTokenOnce(t *testing.T) {
	ca := newCA(t, "akidb.local")
	one, _ := ca.serve(t)
	two, _ := ca.serve(t) // another process, as far as files go
	tok := token(t, ca, "eu-1", one)
	var joined, used atomic.Int32
	var wg sync.WaitGroup
	for n := range 12 {
		dir := filepath.Join(t.TempDir(), "node")
		wg.Go(func() {
			address := one
			if n%2 == 0 {
				address = two
			}
			_, _, err := Join(t.Context(), tok, address, dir)
			switch _, missing := os.Stat(filepath.Join(dir, CertFile)); {
			case err == nil && missing == nil:
				joined.Add(1)
			case err != nil && strings.Contains(err.Error(), "used already") && errors.Is(missing, fs.ErrNotExist):
				used.Add(1)
			default:
				t.Errorf("%v, %v", err, missing)
			}
		})
	}
	wg.Wait()
	if joined.Load() != 1 || used.Load() != 11 {
		t.Errorf("%d joined, %d were told that it is used", joined.Load(), used.Load())
	}
	three, _ := ca.serve(t) // after a restart
	if _, _, err := Join(t.Context(), tok, three, filepath.Join(t.TempDir(), "late")); err == nil || !strings.Contains(err.Error(), "used already") {
		t.Errorf("%v", err)
	}
}

func TestJoinRefused(t *testing.T) {
	ca, other := newCA(t, "akidb.local"), newCA(t, "akidb.local")
	url, serverLogs := ca.serve(t)
	expired := token(t, ca, "eu-1", url)
	backdate(t, ca, expired, -time.Second)
	stolen := token(t, ca, "eu-1", url)
	stolen.secret[5] ^= 1
	denied := token(t, ca, "lost-1", url)
	put(t, ca.dir, DenyFile, "lost-1\n")
	unknown, err := newToken(url, ca.Fingerprint())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		token   Token
		address string
		text    string
	}{
		"expired":      {expired, "", "the token ended"},
		"wrong secret": {stolen, "", "not known here"},
		"unknown":      {unknown, "", "not known here"},
		"denied":       {denied, "", "deny list"},
		"no address":   {token(t, ca, "eu-1", ""), "", "give the https URL"},
		"plain":        {token(t, ca, "eu-1", ""), "http://127.0.0.1:1", "must be https"},
		"other ca":     {token(t, other, "eu-1", url), "", "not of the authority in the token"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "node")
			_, _, err := Join(t.Context(), c.token, c.address, dir)
			if err == nil || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%v, want %q", err, c.text)
			}
			if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
				t.Error("something was written")
			}
		})
	}
	// A refusal does not spend the token.
	if err := os.Remove(filepath.Join(ca.dir, DenyFile)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Join(t.Context(), denied, "", filepath.Join(t.TempDir(), "node")); err != nil {
		t.Error(err)
	}
	if s := serverLogs.String(); strings.Contains(s, string(stolen.secret[:])) {
		t.Error("a secret in the log")
	}
}

// Whoever answers in the authority's place hears nothing: not another authority, not a node of the fleet.
func TestImpostorHearsNothing(t *testing.T) {
	ca, other := newCA(t, "akidb.local"), newCA(t, "akidb.local")
	own := func(by *CA, shows *CA) tls.Certificate {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := by.sign("x", serverURI(by.domain), key.Public(), time.Hour, x509.ExtKeyUsageServerAuth)
		if err != nil {
			t.Fatal(err)
		}
		c := pair(leaf, key)
		c.Certificate = append(c.Certificate, shows.cert.Raw)
		return c
	}
	leaf, key := ca.forge(t, func(*x509.Certificate) {})
	thief := pair(leaf, key)
	thief.Certificate = append(thief.Certificate, ca.cert.Raw)
	bare := pair(leaf, key)
	for name, c := range map[string]struct {
		shows tls.Certificate
		want  Reason
	}{
		"other authority":                  {own(other, other), ReasonAuthority},
		"other authority beside this cert": {own(other, ca), ReasonAuthority},
		"a node of the fleet":              {thief, ReasonOtherID},
		"without authority":                {bare, ReasonAuthority},
	} {
		t.Run(name, func(t *testing.T) {
			var heard atomic.Int32
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { heard.Add(1) }))
			s.TLS = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{c.shows}, ClientAuth: tls.RequestClientCert}
			s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
			s.StartTLS()
			defer s.Close()
			_, _, err := Join(t.Context(), token(t, ca, "eu-1", s.URL), "", filepath.Join(t.TempDir(), "node"))
			if reasonOf(err) != c.want || heard.Load() != 0 {
				t.Errorf("join: %v after %d requests, want %s", err, heard.Load(), c.want)
			}
			r := open(t, ca.issue(t, "eu-1", "eu"), s.URL)
			err = r.renewer.once(t.Context())
			if want := c.want; name != "without authority" && reasonOf(err) != want || name == "without authority" && reasonOf(err) != ReasonOtherID || heard.Load() != 0 {
				t.Errorf("renew: %v after %d requests", err, heard.Load())
			}
		})
	}
}

func TestRenewRefused(t *testing.T) {
	ca, other := newCA(t, "akidb.local"), newCA(t, "akidb.local")
	url, _ := ca.serve(t)
	good := open(t, ca.issue(t, "eu-1", "eu"), url)
	csr, err := newCSR(good.now.Load().pair.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	ask := func(c *tls.Certificate, in any) error {
		config := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}
		if c != nil {
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c, nil }
		}
		_, err := call(t.Context(), url, pathRenew, config, in)
		return err
	}
	forged := func(by *CA, change func(*x509.Certificate)) *tls.Certificate {
		leaf, key := by.forge(t, change)
		c := pair(leaf, key)
		return &c
	}
	weak, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	weakCSR, err := newCSR(weak)
	if err != nil {
		t.Fatal(err)
	}
	mine := &good.now.Load().pair
	for name, c := range map[string]struct {
		shows *tls.Certificate
		in    any
		text  string
	}{
		"good":         {mine, renewRequest{CSR: csr}, ""},
		"no cert":      {nil, renewRequest{CSR: csr}, "403 Forbidden: certificate refused (no_certificate)"},
		"other ca":     {forged(other, func(*x509.Certificate) {}), renewRequest{CSR: csr}, "wrong_ca"},
		"expired":      {forged(ca, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }), renewRequest{CSR: csr}, "expired"},
		"no csr":       {mine, renewRequest{}, "400 Bad Request: csr"},
		"weak key":     {mine, renewRequest{CSR: weakCSR}, "256 bits or more"},
		"no json":      {mine, "x", "400 Bad Request"},
		"large":        {mine, renewRequest{CSR: make([]byte, maxRequest)}, "16384 bytes"},
		"broken proof": {mine, renewRequest{CSR: append(csr[:len(csr)-1:len(csr)-1], csr[len(csr)-1]^1)}, "csr"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := ask(c.shows, c.in); (err == nil) != (c.text == "") || err != nil && !strings.Contains(err.Error(), c.text) {
				t.Errorf("%v, want %q", err, c.text)
			}
		})
	}
	for _, entry := range []string{"eu-1", good.serial()} {
		put(t, ca.dir, DenyFile, entry)
		if err := good.renewer.once(t.Context()); err == nil || !strings.Contains(err.Error(), "denied") {
			t.Errorf("denied by %s: %v", entry, err)
		}
	}
	put(t, ca.dir, DenyFile, "a b") // a fault here lets nobody in, and does not tell what it is
	if err := good.renewer.once(t.Context()); err == nil || !strings.Contains(err.Error(), "500") || strings.Contains(err.Error(), "line 1") {
		t.Errorf("a broken deny list: %v", err)
	}
}

func TestCAFingerprint(t *testing.T) {
	ca := newCA(t, "akidb.local")
	certs, err := Inspect(ca.dir)
	if err != nil || len(certs) != 1 || !certs[0].Authority || certs[0].ID != "spiffe://akidb.local" {
		t.Fatalf("%+v: %v", certs, err)
	}
	if sum := sha256.Sum256(ca.cert.Raw); ca.Fingerprint() != sum {
		t.Error(certs[0].SHA256)
	}
}
