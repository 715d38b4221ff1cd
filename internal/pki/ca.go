package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/akidb/akidbd/internal/atomicfile"
	"github.com/akidb/akidbd/internal/node"
)

// caKeyFile is the key of an authority. It never leaves its host.
const caKeyFile = "ca-key.pem"

// Lives of certificates.
const (
	CALife   = 10 * 365 * 24 * time.Hour // unless asked otherwise
	LeafLife = 30 * 24 * time.Hour       // unless asked otherwise; a node renews at half of it
	maxLife  = 100 * 365 * 24 * time.Hour
	minLife  = time.Minute
)

// early is how much before now a certificate begins, for clocks that differ.
const early = 5 * time.Minute

// CA is a certificate authority for the nodes of one fleet: ca.pem and ca-key.pem of a directory. ca.pem may hold
// more authorities than the one that the key belongs to; nodes get all of them, to trust. To change the authority,
// add the new one's certificate, wait until every node renewed (half a leaf's life), then replace the key; take
// the old one's certificate out when nodes have renewed again.
type CA struct {
	dir    string
	domain string
	cert   *x509.Certificate
	bundle []*x509.Certificate
	key    *ecdsa.PrivateKey
}

// Init makes a new authority in dir, which must have none, valid for life.
func Init(dir, trustDomain string, life time.Duration) (*CA, error) {
	if err := errors.Join(checkDomain(trustDomain), checkLife(life)); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	for _, f := range []string{caKeyFile, CAFile} {
		if _, err := os.Lstat(filepath.Join(dir, f)); !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s is there already: a new authority would leave all certificates of the old one without issuer; choose another directory", filepath.Join(dir, f))
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "akidb CA " + trustDomain + " " + serial.Text(16)[:8]},
		NotBefore: now.Add(-early), NotAfter: now.Add(life),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		URIs: []*url.URL{{Scheme: "spiffe", Host: trustDomain}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	if err := createFile(filepath.Join(dir, caKeyFile), keyPEM, 0o600); err != nil {
		return nil, err
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := createFile(filepath.Join(dir, CAFile), certPEM, 0o644); err != nil {
		return nil, err
	}
	return LoadCA(dir)
}

// createFile is atomicfile.Write for a file that must not be there; of two at once, one wins.
func createFile(path string, data []byte, mode fs.FileMode) error {
	temp := path + "." + rand.Text()
	if err := atomicfile.Write(temp, data, mode); err != nil {
		return err
	}
	return errors.Join(os.Link(temp, path), os.Remove(temp), atomicfile.SyncDir(filepath.Dir(path)))
}

// LoadCA reads an authority that Init made.
func LoadCA(dir string) (*CA, error) {
	certPath, keyPath := filepath.Join(dir, CAFile), filepath.Join(dir, caKeyFile)
	certPEM, err := readFile(certPath)
	if err != nil {
		return nil, fmt.Errorf("%w: make an authority with akidbd pki init --dir %s", err, dir)
	}
	keyPEM, err := readFile(keyPath)
	if err != nil {
		return nil, err
	}
	ca := &CA{dir: dir}
	if ca.bundle, err = parseCertificates(certPEM); err != nil {
		return nil, fmt.Errorf("%s: %w", certPath, err)
	}
	block, _ := pem.Decode(keyPEM)
	if block == nil {
		return nil, fmt.Errorf("%s: no PEM key in it", keyPath)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", keyPath, err)
	}
	var ok bool
	if ca.key, ok = key.(*ecdsa.PrivateKey); !ok {
		return nil, fmt.Errorf("%s: the key must be ECDSA, it is %T", keyPath, key)
	}
	for _, c := range ca.bundle {
		if ca.cert == nil && ca.key.PublicKey.Equal(c.PublicKey) {
			ca.cert = c
		}
	}
	if ca.cert == nil {
		return nil, fmt.Errorf("%s is the key of no certificate in %s", keyPath, certPath)
	}
	if ca.domain, err = authorityDomain(ca.cert); err != nil {
		return nil, fmt.Errorf("%s: %w", certPath, err)
	}
	return ca, nil
}

// authorityDomain is the trust domain of an authority that Init made.
func authorityDomain(c *x509.Certificate) (string, error) {
	if !c.IsCA {
		return "", errors.New("it is no certificate of an authority")
	}
	if len(c.URIs) != 1 || c.URIs[0].Scheme != "spiffe" {
		return "", errors.New("it has no name spiffe://<trust domain>")
	}
	return c.URIs[0].Host, checkDomain(c.URIs[0].Host)
}

// TrustDomain is what every name that the authority issues begins with.
func (ca *CA) TrustDomain() string { return ca.domain }

// Certificate is the authority's own.
func (ca *CA) Certificate() *x509.Certificate { return ca.cert }

// Fingerprint is the SHA-256 of the authority's certificate.
func (ca *CA) Fingerprint() [sha256.Size]byte { return sha256.Sum256(ca.cert.Raw) }

// BundlePEM is what nodes are to trust.
func (ca *CA) BundlePEM() []byte { return encodeCertificates(ca.bundle...) }

// Issue makes a key and a certificate for a node and writes the three files that it needs into out, which may
// have older ones.
func (ca *CA) Issue(id node.ID, region, out string, life time.Duration) (*x509.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	leaf, err := ca.Sign(id, region, key.Public(), life)
	if err != nil {
		return nil, err
	}
	return leaf, writeNode(out, key, leaf, ca.BundlePEM())
}

// Sign makes a node's certificate for a public key. It ends no later than the authority.
func (ca *CA) Sign(id node.ID, region string, public crypto.PublicKey, life time.Duration) (*x509.Certificate, error) {
	if err := errors.Join(checkNames(ca.domain, region, id), checkLife(life)); err != nil {
		return nil, err
	}
	return ca.sign(string(id), nodeURI(ca.domain, region, id), public, life, x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth)
}

func (ca *CA) sign(name string, uri *url.URL, public crypto.PublicKey, life time.Duration, uses ...x509.ExtKeyUsage) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	if r := inTime(ca.cert, now); r != nil {
		return nil, fmt.Errorf("the authority %q: %s", ca.cert.Subject, r.Detail)
	}
	end := now.Add(life)
	if end.After(ca.cert.NotAfter) {
		end = ca.cert.NotAfter
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-early), NotAfter: end,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: uses, BasicConstraintsValid: true,
		URIs: []*url.URL{uri},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, public, ca.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func checkLife(life time.Duration) error {
	if life < minLife || life > maxLife {
		return fmt.Errorf("a life of %v, must be %v to %v", life, minLife, maxLife)
	}
	return nil
}

// newSerial is positive and has at most 20 bytes, as RFC 5280 wants.
func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		return nil, err
	}
	return n.SetBit(n, 126, 1), nil
}
