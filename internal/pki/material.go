package pki

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"

	"github.com/akidb/akidbd/internal/node"
)

// Names of the files in a node's directory.
const (
	CertFile = "node.pem"     // the leaf, then its intermediates
	KeyFile  = "node-key.pem" // PKCS #8, PKCS #1 or SEC 1
	CAFile   = "ca.pem"       // every authority that is trusted; two or more during a change of authority
	DenyFile = "deny.txt"     // node names or serial numbers in hex, one a line; may be missing

	// nextKeyFile has the key of a certificate that is being replaced, until it takes KeyFile's place.
	nextKeyFile = "node-key.pem.next"
)

// material is what the directory held at one moment. It is immutable.
type material struct {
	trust
	chain  []*x509.Certificate // the leaf first
	pair   tls.Certificate
	id     node.ID
	region string
	files  map[string][]byte
	sum    [sha256.Size]byte // over all files
}

// readMaterial reads and parses the files, and does not verify them.
func readMaterial(dir string) (*material, error) {
	// A directory that is a link is followed once, so that a swap does not mix two of them.
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, fmt.Errorf("certificate directory: %w", err)
	}
	files := map[string][]byte{}
	for _, name := range []string{CertFile, KeyFile, CAFile, DenyFile} {
		data, err := readFile(filepath.Join(real, name))
		if errors.Is(err, fs.ErrNotExist) && name == DenyFile {
			continue
		}
		if name == KeyFile {
			data, err = fittingKey(real, files[CertFile], data, err)
		}
		if err != nil {
			return nil, fmt.Errorf("%w (a node needs %s, %s and %s, from akidbd pki issue or akidbd pki join)", err, CertFile, KeyFile, CAFile)
		}
		files[name] = data
	}
	m, err := newMaterial(files)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return m, nil
}

// fittingKey is the key that was read, or the one that was to replace it when the certificate is that one's already:
// whoever wrote them was interrupted.
func fittingKey(dir string, cert, key []byte, err error) ([]byte, error) {
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		next, nextErr := readFile(filepath.Join(dir, nextKeyFile))
		if nextErr == nil && !(err == nil && fits(cert, key)) && fits(cert, next) {
			return next, nil
		}
	}
	return key, err
}

func fits(cert, key []byte) bool {
	_, err := tls.X509KeyPair(cert, key)
	return err == nil
}

func newMaterial(files map[string][]byte) (*material, error) {
	m := &material{files: files}
	hash := sha256.New()
	for _, name := range []string{CertFile, KeyFile, CAFile, DenyFile} {
		fmt.Fprintf(hash, "%s %d\n", name, len(files[name]))
		hash.Write(files[name])
	}
	hash.Sum(m.sum[:0])
	var err error
	if m.chain, err = parseCertificates(files[CertFile]); err != nil {
		return nil, fmt.Errorf("%s: %w", CertFile, err)
	}
	if m.pair, err = tls.X509KeyPair(files[CertFile], files[KeyFile]); err != nil {
		return nil, fmt.Errorf("%s with %s: %w", CertFile, KeyFile, err)
	}
	authorities, err := parseCertificates(files[CAFile])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", CAFile, err)
	}
	denied, err := parseDenyList(files[DenyFile])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", DenyFile, err)
	}
	domain, region, id, err := nodeName(m.chain[0])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", CertFile, err)
	}
	m.id, m.region, m.trust = id, region, newTrust(domain, authorities, denied)
	return m, nil
}

// withDenied is m with another deny list, nil for none.
func (m *material) withDenied(data []byte) (*material, error) {
	files := maps.Clone(m.files)
	files[DenyFile] = data
	return newMaterial(files)
}
