// Package pki says who a node is: its certificate, the authorities it trusts, and whether the certificate of
// another is good now. It reads plain PEM files from a directory that may change at any time, so that any tool can
// bring them, and holds the small certificate authority behind `akidbd pki`.
//
// A node's certificate carries its name and region as its one URI SAN, spiffe://<trust domain>/akidb/node/<region>/<node>,
// a SPIFFE ID. Nothing else in it is read for them.
package pki

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/akidb/akidbd/internal/node"
)

// Config has the identity's knobs.
type Config struct {
	Dir        string // holds CertFile, KeyFile, CAFile and perhaps DenyFile; may be a link that is swapped
	Poll       bool   // look at the files every 30 s only, without a watch: where nothing tells of changes, and in simulated time
	RenewURL   string // https URL of `akidbd pki serve` that renews the certificate at half its life; "": somebody else replaces the files
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
}

// Identity is this node's certificate and what it trusts, both of now.
type Identity struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	renewer *renewer // nil without RenewURL

	now atomic.Pointer[material]

	mu      sync.Mutex
	changed chan struct{} // closed at the next swap

	reloading sync.Mutex
	complaint string    // what the last look at the files found wrong, to say it once
	warned    time.Time // of the certificate's age
	ended     bool      // and that it has ended
}

// Open reads the directory and verifies what is in it; the error wraps a *Refusal when that is not good now. Run
// keeps it fresh.
func Open(cfg Config) (*Identity, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	m, err := readMaterial(cfg.Dir)
	if err != nil {
		return nil, err
	}
	if _, _, err := m.verify(m.chain, time.Now()); err != nil {
		return nil, fmt.Errorf("this node's own certificate, %s, is of no use: %w", filepath.Join(cfg.Dir, CertFile), err)
	}
	i := &Identity{cfg: cfg, log: cfg.Logger, changed: make(chan struct{})}
	if cfg.RenewURL != "" {
		if i.renewer, err = newRenewer(cfg.RenewURL, i); err != nil {
			return nil, err
		}
	}
	i.metrics = newMetrics(cfg.Registerer)
	i.now.Store(m)
	i.metrics.show(m)
	return i, nil
}

// Self is the name and region in this node's certificate. They do not change while the process runs.
func (i *Identity) Self() (node.ID, string) {
	m := i.now.Load()
	return m.id, m.region
}

// notAfter is when this node's certificate ends.
func (i *Identity) notAfter() time.Time { return i.now.Load().chain[0].NotAfter }

// TLS is the configuration of both ends of a link: TLS 1.3, the certificate of now, the other side verified by
// Verify in every handshake. There are no tickets and no sessions kept.
func (i *Identity) TLS(alpn []string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: alpn,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return &i.now.Load().pair, nil
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &i.now.Load().pair, nil
		},
		ClientAuth:             tls.RequireAnyClientCert,
		InsecureSkipVerify:     true, // the standard verification wants a DNS name; VerifyConnection does all of it
		SessionTicketsDisabled: true,
		// VerifyPeerCertificate would not be called for a resumed session.
		VerifyConnection: func(s tls.ConnectionState) error {
			_, _, err := i.Verify(s.PeerCertificates)
			return err
		},
	}
}

// Verify says whose certificates these are, the leaf first, if they are good now: signed by a trusted authority,
// for a node of this fleet, for both ends of TLS, in their time and not denied. The error is a *Refusal. Long-lived
// connections should be verified again once a minute and when Changed says so.
func (i *Identity) Verify(certs []*x509.Certificate) (node.ID, string, error) {
	return i.now.Load().verify(certs, time.Now())
}

// Changed is closed at the next change of certificate, authorities or deny list. Take it anew after each.
func (i *Identity) Changed() <-chan struct{} {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.changed
}

// Run takes over new files until ctx ends, and renews the certificate when that is configured.
func (i *Identity) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	if i.renewer != nil {
		wg.Go(func() { i.renewer.run(ctx) })
	}
	i.watch(ctx)
	return nil
}

// reload takes over what is in the directory, if it is good and new. A deny list is taken over also when the rest
// is not: who is locked out must not depend on it.
func (i *Identity) reload() {
	i.reloading.Lock()
	defer i.reloading.Unlock()
	old := i.now.Load()
	m, err := i.fit(old)
	if err != nil {
		i.complain(err)
		if m = i.newlyDenied(old); m == nil {
			return
		}
	} else {
		i.complaint = ""
		i.metrics.failing.Set(0)
		if m.sum == old.sum {
			return
		}
	}
	i.now.Store(m)
	i.metrics.show(m)
	if by := m.denied.match(m.id, m.chain[0].SerialNumber); by != "" {
		i.log.Error("this node is on its own deny list: others with this list refuse it", "entry", by)
	}
	i.log.Info("certificate files taken over", "serial", m.chain[0].SerialNumber.Text(16), "not_after", m.chain[0].NotAfter,
		"authorities", len(m.authorities), "denied", len(m.denied.nodes)+len(m.denied.serials))
	i.mu.Lock()
	close(i.changed)
	i.changed = make(chan struct{})
	i.mu.Unlock()
}

// fit is what the directory holds now, if it can follow old.
func (i *Identity) fit(old *material) (*material, error) {
	m, err := readMaterial(i.cfg.Dir)
	if err != nil {
		return nil, err
	}
	if m.id != old.id || m.region != old.region || m.domain != old.domain {
		return nil, fmt.Errorf("%s is of node %s in region %s of %s, and this process is %s in %s of %s: restart it to change who it is",
			CertFile, m.id, m.region, m.domain, old.id, old.region, old.domain)
	}
	if m.sum == old.sum {
		return m, nil // may have ended by now, which warnOfAge tells
	}
	if _, _, _, err := m.verifyAll(m.chain, time.Now()); err != nil {
		return nil, err
	}
	return m, nil
}

// newlyDenied is old with the deny list of now, nil when that is the same or of no use.
func (i *Identity) newlyDenied(old *material) *material {
	data, err := readDenyList(i.cfg.Dir)
	if err != nil {
		return nil
	}
	m, err := old.withDenied(data)
	if err != nil || m.sum == old.sum {
		return nil
	}
	return m
}

// complain counts and tells a fault once, not at every look.
func (i *Identity) complain(err error) {
	i.metrics.failing.Set(1)
	reason, text := reasonOf(err), err.Error()
	key := text
	if reason != "" {
		key = string(reason) // its text has the time of now
	}
	if key == i.complaint {
		return
	}
	i.complaint = key
	i.metrics.reloadFailures.Inc()
	i.log.Warn("the files in the certificate directory are not taken over, the last good ones stay in force", "dir", i.cfg.Dir, "err", err)
}
