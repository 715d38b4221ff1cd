package pki

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Certificate is what there is to show of one.
type Certificate struct {
	File      string    `json:"file"`
	Subject   string    `json:"subject"`
	ID        string    `json:"spiffe_id,omitempty"`
	Authority bool      `json:"authority"`
	Serial    string    `json:"serial"` // as in a deny list
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	SHA256    string    `json:"sha256"` // fingerprint, hex
}

// Inspect reads all certificates of a PEM file, or of a directory of a node or an authority.
func Inspect(path string) ([]Certificate, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	files := []string{path}
	if info.IsDir() {
		files = []string{filepath.Join(path, CertFile), filepath.Join(path, CAFile)}
	}
	var all []Certificate
	for _, f := range files {
		data, err := readFile(f)
		if info.IsDir() && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		certs, err := parseCertificates(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f, err)
		}
		for _, c := range certs {
			all = append(all, describe(f, c))
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s has neither %s nor %s", path, CertFile, CAFile)
	}
	return all, nil
}

func describe(file string, c *x509.Certificate) Certificate {
	sum := sha256.Sum256(c.Raw)
	d := Certificate{File: file, Subject: c.Subject.String(), Authority: c.IsCA, Serial: c.SerialNumber.Text(16),
		NotBefore: c.NotBefore, NotAfter: c.NotAfter, SHA256: hex.EncodeToString(sum[:])}
	if len(c.URIs) > 0 {
		d.ID = c.URIs[0].String()
	}
	return d
}

// Check says why a node could not start with what is in dir now, nil if it could.
func Check(dir string) error {
	_, err := Open(Config{Dir: dir})
	return err
}
