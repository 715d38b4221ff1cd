package pki

import (
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/akidb/akidbd/internal/node"
)

// trust is what certificates of nodes are held against. It is immutable.
type trust struct {
	domain      string
	authorities []*x509.Certificate
	roots       *x509.CertPool
	denied      denyList
}

func newTrust(domain string, authorities []*x509.Certificate, denied denyList) trust {
	t := trust{domain: domain, authorities: authorities, roots: x509.NewCertPool(), denied: denied}
	for _, c := range authorities {
		t.roots.AddCert(c)
	}
	return t
}

// verify says whose certificates these are, the leaf first, if they are good at the time now: signed by a trusted
// authority, for a node of this fleet, for both ends of TLS, in their time and not denied. The error is a *Refusal.
func (t trust) verify(certs []*x509.Certificate, now time.Time) (node.ID, string, error) {
	id, region, serialDenied, err := t.verifyAll(certs, now)
	if err == nil && serialDenied != nil {
		err = serialDenied
	}
	if err != nil {
		return "", "", err
	}
	return id, region, nil
}

// verifyAll keeps the deny list's word apart, which a node does not hold against itself.
func (t trust) verifyAll(certs []*x509.Certificate, now time.Time) (id node.ID, region string, denied, err error) {
	if len(certs) == 0 {
		return "", "", nil, &Refusal{Reason: ReasonNoCertificate, Detail: "the other side showed none"}
	}
	leaf := certs[0]
	// Signatures are checked at a time within the leaf's own, so that one that ended is told from one that is not ours.
	at := now
	if at.Before(leaf.NotBefore) {
		at = leaf.NotBefore
	} else if at.After(leaf.NotAfter) {
		at = leaf.NotAfter
	}
	if err := t.chain(certs, at, now); err != nil {
		return "", "", nil, err
	}
	domain, region, id, err := nodeName(leaf)
	if err != nil {
		return "", "", nil, err
	}
	if domain != t.domain {
		return "", "", nil, &Refusal{Reason: ReasonTrustDomain, Node: id,
			Detail: fmt.Sprintf("it is of the trust domain %q, this one is %q", domain, t.domain)}
	}
	if err := inTime(leaf, now); err != nil {
		err.Node = id
		return "", "", nil, err
	}
	if by := t.denied.match(id, leaf.SerialNumber); by != "" {
		denied = &Refusal{Reason: ReasonDenied, Node: id, Detail: by + " is on the deny list"}
	}
	return id, region, denied, nil
}

func (t trust) chain(certs []*x509.Certificate, at, now time.Time) error {
	leaf := certs[0]
	if leaf.IsCA || leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return &Refusal{Reason: ReasonUsage, Detail: "it must be a leaf that may sign handshakes (key usage: digital signature)"}
	}
	between := x509.NewCertPool()
	for _, c := range certs[1:min(len(certs), maxCertificates)] {
		between.AddCert(c)
	}
	// One certificate serves both ends of a link.
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		_, err := leaf.Verify(x509.VerifyOptions{Roots: t.roots, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{use}})
		if err != nil {
			return t.explain(leaf, err, now)
		}
	}
	return nil
}

func (t trust) explain(leaf *x509.Certificate, err error, now time.Time) *Refusal {
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		switch invalid.Reason {
		case x509.IncompatibleUsage:
			return &Refusal{Reason: ReasonUsage, Err: err, Detail: "it must be for TLS servers and TLS clients both (extended key usage)"}
		case x509.Expired:
			if r := inTime(invalid.Cert, now); r != nil {
				return &Refusal{Reason: r.Reason, Err: err, Detail: fmt.Sprintf("its authority %q: %s", invalid.Cert.Subject, r.Detail)}
			}
		}
	}
	names := make([]string, len(t.authorities))
	for i, c := range t.authorities {
		names[i] = fmt.Sprintf("%q", c.Subject)
	}
	return &Refusal{Reason: ReasonAuthority, Err: err, Detail: fmt.Sprintf("%s, issued by %q, is signed by none of the trusted authorities, %s (%v)",
		cmp.Or(claims(leaf), "it"), leaf.Issuer, strings.Join(names, ", "), err)}
}

// claims is what a certificate says it is, without anybody's word for it.
func claims(c *x509.Certificate) string {
	if len(c.URIs) == 0 {
		return ""
	}
	return fmt.Sprintf("one that says %.200q", c.URIs[0])
}

// inTime is nil while a certificate is valid.
func inTime(c *x509.Certificate, now time.Time) *Refusal {
	stamp := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	switch {
	case now.Before(c.NotBefore):
		return &Refusal{Reason: ReasonNotYetValid, Err: x509.CertificateInvalidError{Cert: c, Reason: x509.Expired},
			Detail: fmt.Sprintf("it is valid from %s, and the clock of this machine says %s: set the clock if that is wrong", stamp(c.NotBefore), stamp(now))}
	case now.After(c.NotAfter):
		return &Refusal{Reason: ReasonExpired, Err: x509.CertificateInvalidError{Cert: c, Reason: x509.Expired},
			Detail: fmt.Sprintf("it ended %s, and the clock of this machine says %s", stamp(c.NotAfter), stamp(now))}
	}
	return nil
}
