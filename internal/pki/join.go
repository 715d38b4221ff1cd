package pki

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/akidb/akidbd/internal/node"
)

// Join asks the authority's server for a certificate with a token and writes the three files of a node into dir,
// which must not hold a node already. The token's secret is sent only to a server with a certificate of the
// authority that the token names. address overrides the token's URL; one of them must be given. It returns who
// this machine now is.
func Join(ctx context.Context, t Token, address, dir string) (node.ID, string, error) {
	address = cmp.Or(address, t.URL)
	if address == "" {
		return "", "", errors.New("the token has no address of the authority: give the https URL of akidbd pki serve")
	}
	if err := checkURL(address); err != nil {
		return "", "", err
	}
	for _, f := range []string{CertFile, KeyFile} {
		if _, err := os.Lstat(filepath.Join(dir, f)); !errors.Is(err, fs.ErrNotExist) {
			return "", "", fmt.Errorf("%s is there already: remove it to join anew, or choose another directory", filepath.Join(dir, f))
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	csr, err := newCSR(key)
	if err != nil {
		return "", "", err
	}
	config := &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // by the authority's fingerprint instead, not by the name of the host
		VerifyConnection: func(s tls.ConnectionState) error {
			return verifyAuthority(s.PeerCertificates, t.Authority, time.Now())
		},
	}
	out, err := call(ctx, address, pathJoin, config, joinRequest{Token: t.id[:], Secret: t.secret[:], CSR: csr})
	if err != nil {
		return "", "", err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return "", "", err
	}
	m, err := newMaterial(map[string][]byte{CertFile: []byte(out.Certificate), KeyFile: keyPEM, CAFile: []byte(out.Authorities)})
	if err == nil {
		_, _, err = m.verify(m.chain, time.Now())
	}
	if err != nil {
		return "", "", fmt.Errorf("%s issued a certificate of no use: %w", address, err)
	}
	return m.id, m.region, writeNode(dir, key, m.chain[0], []byte(out.Authorities))
}

// verifyAuthority checks that certs, the leaf first, are of the server of the authority with that fingerprint.
func verifyAuthority(certs []*x509.Certificate, fingerprint [sha256.Size]byte, now time.Time) error {
	for _, c := range certs[min(1, len(certs)):] {
		sum := sha256.Sum256(c.Raw)
		if subtle.ConstantTimeCompare(sum[:], fingerprint[:]) != 1 {
			continue
		}
		domain, err := authorityDomain(c)
		if err != nil {
			return err
		}
		return verifyServer(certs, newTrust(domain, []*x509.Certificate{c}, denyList{}), now)
	}
	return &Refusal{Reason: ReasonAuthority, Detail: fmt.Sprintf(
		"this server is not of the authority in the token (SHA-256 %x): somebody else answers there, or the authority was changed since the token was made", fingerprint[:])}
}

// renewed is what the server's answer makes of a node's files, with its key kept: only one file then decides.
func (m *material) renewed(out issued, now time.Time) (*material, error) {
	next, err := newMaterial(map[string][]byte{CertFile: []byte(out.Certificate), KeyFile: m.files[KeyFile], CAFile: []byte(out.Authorities)})
	if err != nil {
		return nil, err
	}
	if _, _, err := next.verify(next.chain, now); err != nil {
		return nil, err
	}
	if next.id != m.id || next.region != m.region || next.domain != m.domain {
		return nil, fmt.Errorf("it is of node %s in region %s of %s", next.id, next.region, next.domain)
	}
	return next, nil
}
