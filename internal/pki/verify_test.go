package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// reasons is the closed set.
var reasons = []Reason{ReasonNoCertificate, ReasonAuthority, ReasonNoID, ReasonOtherID, ReasonTrustDomain, ReasonUsage,
	ReasonExpired, ReasonNotYetValid, ReasonDenied}

func TestRefusals(t *testing.T) {
	ca, other := newCA(t, "akidb.local"), newCA(t, "akidb.local")
	foreign := newCA(t, "elsewhere.example")
	dir := ca.issue(t, "me", "eu")
	bundle, err := mergeCertificates(ca.BundlePEM(), foreign.BundlePEM()) // trusted, and yet another fleet
	if err != nil {
		t.Fatal(err)
	}
	put(t, dir, CAFile, string(bundle))
	put(t, dir, DenyFile, "# lost in a train\nlost-1\nde:ad:be:ef\n")
	r := open(t, dir, "")

	uri := func(s string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			u, err := url.Parse(s)
			if err != nil {
				t.Fatal(err)
			}
			c.URIs = []*url.URL{u}
		}
	}
	now := time.Now()
	for name, c := range map[string]struct {
		by     *CA
		change func(*x509.Certificate)
		want   Reason
		text   string
	}{
		"good":                   {ca, func(*x509.Certificate) {}, "", ""},
		"no extended key usage":  {ca, func(c *x509.Certificate) { c.ExtKeyUsage = nil }, "", ""}, // RFC 5280: any
		"other authority":        {other, func(*x509.Certificate) {}, ReasonAuthority, "signed by none of the trusted authorities"},
		"other domain":           {foreign, func(*x509.Certificate) {}, ReasonTrustDomain, "elsewhere.example"},
		"other domain's name":    {ca, uri("spiffe://elsewhere.example/akidb/node/eu/eu-1"), ReasonTrustDomain, "elsewhere.example"},
		"no name":                {ca, func(c *x509.Certificate) { c.URIs = nil; c.DNSNames = []string{"eu-1"} }, ReasonNoID, "no URI name"},
		"no spiffe":              {ca, uri("https://akidb.local/akidb/node/eu/eu-1"), ReasonNoID, "no SPIFFE ID"},
		"service account":        {ca, uri("spiffe://akidb.local/ns/akidb/sa/akidbd"), ReasonOtherID, "ns/akidb"},
		"authority's server":     {ca, uri("spiffe://akidb.local/akidb/ca"), ReasonOtherID, "akidb/ca"},
		"too deep":               {ca, uri("spiffe://akidb.local/akidb/node/eu/eu-1/x"), ReasonOtherID, "not of the form"},
		"empty region":           {ca, uri("spiffe://akidb.local/akidb/node//eu-1"), ReasonOtherID, "region"},
		"escaped slash":          {ca, uri("spiffe://akidb.local/akidb/node/e%2fu/eu-1"), ReasonOtherID, ""},
		"query":                  {ca, uri("spiffe://akidb.local/akidb/node/eu/eu-1?x=1"), ReasonOtherID, ""},
		"port":                   {ca, uri("spiffe://akidb.local:1/akidb/node/eu/eu-1"), ReasonOtherID, "trust domain"},
		"two names":              {ca, func(c *x509.Certificate) { c.URIs = append(c.URIs, nodeURI("akidb.local", "eu", "eu-2")) }, ReasonOtherID, "2 URI names"},
		"expired":                {ca, func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) }, ReasonExpired, "it ended"},
		"expired, other's":       {other, func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) }, ReasonAuthority, "none of"},
		"not yet valid":          {ca, func(c *x509.Certificate) { c.NotBefore = now.Add(time.Minute) }, ReasonNotYetValid, "set the clock"},
		"denied name":            {ca, uri("spiffe://akidb.local/akidb/node/eu/lost-1"), ReasonDenied, "node lost-1"},
		"denied serial":          {ca, func(c *x509.Certificate) { c.SerialNumber.SetInt64(0xdeadbeef) }, ReasonDenied, "serial deadbeef"},
		"server only":            {ca, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, ReasonUsage, "both"},
		"client only":            {ca, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, ReasonUsage, "both"},
		"key usage":              {ca, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }, ReasonUsage, "digital signature"},
		"an authority as a leaf": {ca, func(c *x509.Certificate) { c.IsCA = true }, ReasonUsage, "leaf"},
	} {
		t.Run(name, func(t *testing.T) {
			leaf, key := c.by.forge(t, c.change)
			id, region, err := r.Verify([]*x509.Certificate{leaf})
			if c.want == "" {
				if err != nil || id != "eu-1" || region != "eu" {
					t.Fatalf("%s in %s: %v", id, region, err)
				}
			} else if reasonOf(err) != c.want || !strings.Contains(err.Error(), c.text) || id != "" || region != "" {
				t.Fatalf("%s in %s: %v, want %s with %q", id, region, err, c.want, c.text)
			}
			if c.want != "" && !slices.Contains(reasons, c.want) {
				t.Errorf("%s is not of the closed set", c.want)
			}
			// The handshake says the same, whichever end shows it.
			raw := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, Certificates: []tls.Certificate{pair(leaf, key)}, ClientAuth: tls.RequireAnyClientCert}
			if _, server := shake(t, raw, r.TLS(nil)); reasonOf(server) != c.want {
				t.Errorf("as a client: %v", server)
			}
			if client, _ := shake(t, r.TLS(nil), raw); reasonOf(client) != c.want {
				t.Errorf("as a server: %v", client)
			}
		})
	}
	if _, _, err := r.Verify(nil); reasonOf(err) != ReasonNoCertificate {
		t.Errorf("nothing shown: %v", err)
	}
	bare := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}
	if _, server := shake(t, bare, r.TLS(nil)); server == nil {
		t.Error("a client without certificate was let in")
	}
	old := &tls.Config{MaxVersion: tls.VersionTLS12, InsecureSkipVerify: true}
	if _, server := shake(t, old, r.TLS(nil)); server == nil {
		t.Error("TLS 1.2 was let in")
	}
}

// What a peer sees of an expired or foreign certificate is also an error of crypto/x509.
func TestRefusalWrapsX509(t *testing.T) {
	ca, other := newCA(t, "akidb.local"), newCA(t, "akidb.local")
	r := open(t, ca.issue(t, "me", "eu"), "")
	leaf, _ := ca.forge(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) })
	_, _, err := r.Verify([]*x509.Certificate{leaf})
	if _, ok := errors.AsType[x509.CertificateInvalidError](err); !ok {
		t.Errorf("expired: %v", err)
	}
	leaf, _ = other.forge(t, func(*x509.Certificate) {})
	_, _, err = r.Verify([]*x509.Certificate{leaf})
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); !ok {
		t.Errorf("foreign: %v", err)
	}
}

func TestExpiredAuthority(t *testing.T) {
	ca := newCA(t, "akidb.local")
	m, err := readMaterial(ca.issue(t, "me", "eu"))
	if err != nil {
		t.Fatal(err)
	}
	leaf, _ := ca.forge(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(2 * CALife) })
	_, _, err = m.verify([]*x509.Certificate{leaf}, ca.cert.NotAfter.Add(time.Hour))
	if reasonOf(err) != ReasonExpired || !strings.Contains(err.Error(), "its authority") {
		t.Errorf("%v", err)
	}
	_, _, err = m.verify([]*x509.Certificate{leaf}, time.Unix(0, 0))
	if reasonOf(err) != ReasonNotYetValid || !strings.Contains(err.Error(), "1970-01-01") {
		t.Errorf("%v", err)
	}
}

func TestOpenRefusesItsOwn(t *testing.T) {
	ca, other := newCA(t, "akidb.local"), newCA(t, "akidb.local")
	for name, c := range map[string]struct {
		spoil func(t *testing.T, dir string)
		text  string
	}{
		"denied":        {func(t *testing.T, dir string) { put(t, dir, DenyFile, "me") }, "denied"},
		"bad deny list": {func(t *testing.T, dir string) { put(t, dir, DenyFile, "me too") }, "deny.txt: line 1"},
		"other ca":      {func(t *testing.T, dir string) { put(t, dir, CAFile, string(other.BundlePEM())) }, "wrong_ca"},
		"no ca":         {func(t *testing.T, dir string) { put(t, dir, CAFile, "") }, "ca.pem: no PEM certificate"},
		"huge":          {func(t *testing.T, dir string) { put(t, dir, CAFile, strings.Repeat("x", maxFile+1)) }, "1048576 bytes"},
		"other key": {func(t *testing.T, dir string) {
			key, err := readFile(filepath.Join(other.issue(t, "me", "eu"), KeyFile))
			if err != nil {
				t.Fatal(err)
			}
			put(t, dir, KeyFile, string(key))
		}, "private key does not match"},
		"future": {func(t *testing.T, dir string) {
			leaf, key := ca.forge(t, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) })
			if err := writeNode(dir, key, leaf, ca.BundlePEM()); err != nil {
				t.Fatal(err)
			}
		}, "set the clock"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := ca.issue(t, "me", "eu")
			c.spoil(t, dir)
			if _, err := Open(Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%v, want %q", err, c.text)
			}
		})
	}
	if _, err := Open(Config{Dir: filepath.Join(t.TempDir(), "none")}); err == nil {
		t.Error("opened nothing")
	}
}

// shake does one handshake over loopback and gives both ends' errors.
func shake(t *testing.T, client, server *tls.Config) (clientErr, serverErr error) {
	t.Helper()
	a, b := wire(t)
	defer a.Close()
	done := make(chan error, 1)
	go func() {
		defer b.Close()
		done <- tls.Server(b, server).Handshake()
	}()
	clientErr = tls.Client(a, client).Handshake()
	if clientErr != nil {
		_ = a.Close()
	}
	return clientErr, <-done
}

// wire is a TCP connection over loopback, both ends; a net.Pipe has no buffer, and TLS ends write at once.
func wire(t *testing.T) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	_, _ = client.SetDeadline(deadline), server.SetDeadline(deadline)
	return client, server
}
