package pki

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	renewRetry    = time.Minute // after the first failure, then twice as long each time
	renewRetryMax = time.Hour
	renewRush     = 30 * time.Second // spreads those that are late, as after a power cut of a whole site
)

// renewer gets a new certificate at half of the old one's life.
type renewer struct {
	url      string
	identity *Identity
	renew    func(context.Context) error
	random   func() float64 // 0 to 1
}

func newRenewer(url string, i *Identity) (*renewer, error) {
	if err := checkURL(url); err != nil {
		return nil, fmt.Errorf("renewal: %w", err)
	}
	r := &renewer{url: url, identity: i, random: rand.Float64}
	r.renew = r.once
	return r, nil
}

// lookAgain is how long a wait may be before the clock is asked anew: a timer does not see that it was set, or that
// the machine slept.
const lookAgain = time.Hour

// run waits and renews until ctx ends. A certificate that somebody else replaces moves the time.
func (r *renewer) run(ctx context.Context) {
	i := r.identity
	changed := i.Changed() // before what it tells of is read
	due, leaf := r.due(), i.now.Load().chain[0]
	failures := 0
	for {
		wait := time.NewTimer(min(time.Until(due), lookAgain))
		select {
		case <-ctx.Done():
			wait.Stop()
			return
		case <-changed:
			wait.Stop()
			changed = i.Changed()
			if now := i.now.Load().chain[0]; !now.Equal(leaf) { // and not a deny list only
				due, failures, leaf = r.due(), 0, now
			}
			continue
		case <-wait.C:
		}
		if time.Now().Round(0).Before(due) { // Round: by the wall clock, which may have been set meanwhile
			continue
		}
		err := r.renew(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			due, failures = r.due(), 0
			continue
		}
		failures++
		pause := r.pause(failures)
		due = time.Now().Add(pause)
		i.metrics.renewFailures.Inc()
		i.log.Warn("this node's certificate was not renewed", "url", r.url, "err", err, "not_after", i.notAfter(),
			"left", time.Until(i.notAfter()).Round(time.Second), "failures", failures, "retry_in", pause.Round(time.Second))
	}
}

// due is half of the certificate's life, 5 % earlier or later, or soon when that has passed.
func (r *renewer) due() time.Time {
	leaf := r.identity.now.Load().chain[0]
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	at := leaf.NotBefore.Add(time.Duration(float64(life) * (0.45 + 0.1*r.random())))
	if soon := time.Now().Add(time.Second + time.Duration(float64(renewRush)*r.random())); at.Before(soon) {
		return soon
	}
	return at
}

// pause is how long to wait after so many failures: doubled each time, half of it at random.
func (r *renewer) pause(failures int) time.Duration {
	p := min(renewRetryMax, renewRetry<<min(failures-1, 6))
	return p/2 + time.Duration(float64(p/2)*r.random())
}

// once renews now. The key stays, so that the certificate's file alone decides.
func (r *renewer) once(ctx context.Context) error {
	i := r.identity
	m := i.now.Load()
	signer, ok := m.pair.PrivateKey.(crypto.Signer)
	if !ok {
		return errors.New("the key cannot sign")
	}
	csr, err := newCSR(signer)
	if err != nil {
		return err
	}
	config := &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // by the authority, not by the name of the host
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &m.pair, nil
		},
		VerifyConnection: func(s tls.ConnectionState) error { return verifyServer(s.PeerCertificates, m.trust, time.Now()) },
	}
	out, err := call(ctx, r.url, pathRenew, config, renewRequest{CSR: csr})
	if err != nil {
		return err
	}
	next, err := m.renewed(out, time.Now())
	if err != nil {
		return fmt.Errorf("%s issued a certificate of no use: %w", r.url, err)
	}
	if err := replaceNode(i.cfg.Dir, next.files); err != nil {
		return fmt.Errorf("%w (this process must be able to write its certificate directory to renew)", err)
	}
	i.reload()
	if !i.now.Load().chain[0].Equal(next.chain[0]) {
		return fmt.Errorf("the renewed certificate in %s is not in force", i.cfg.Dir)
	}
	return nil
}
