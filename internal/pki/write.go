package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/akidb/akidbd/internal/atomicfile"
)

// writeNode writes the files of a node, for a new directory all at once.
func writeNode(dir string, key *ecdsa.PrivateKey, leaf *x509.Certificate, authorities []byte) error {
	keyPEM, err := encodeKey(key)
	if err != nil {
		return err
	}
	files := map[string][]byte{CertFile: encodeCertificates(leaf), KeyFile: keyPEM, CAFile: authorities}
	dir = filepath.Clean(dir)
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return replaceNode(dir, files)
	}
	into := dir + ".new-" + rand.Text()
	if err := os.MkdirAll(into, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(into) // gone under this name once renamed
	if err := replaceNode(into, files); err != nil {
		return err
	}
	return errors.Join(os.Rename(into, dir), atomicfile.SyncDir(filepath.Dir(dir)))
}

// replaceNode replaces certificate, key and authorities in a directory that may be read, or lose its power, at any
// moment.
func replaceNode(dir string, files map[string][]byte) error {
	steps, err := replacing(dir, files)
	for _, step := range steps {
		if err != nil {
			return err
		}
		err = step()
	}
	return err
}

// replacing gives the steps of a replacement. Before and after each of them what readMaterial finds is the old node
// or the new one, whole: the key waits beside the old one until the certificate that it belongs to is there, and
// both authorities are trusted meanwhile.
func replacing(dir string, files map[string][]byte) ([]func() error, error) {
	write := func(name string, data []byte, mode fs.FileMode) func() error {
		return func() error { return atomicfile.Write(filepath.Join(dir, name), data, mode) }
	}
	authorities, err := readFile(filepath.Join(dir, CAFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	both := files[CAFile]
	if err == nil {
		// What is there and cannot be read is worth nothing to the old node either.
		if merged, err := mergeCertificates(files[CAFile], authorities); err == nil {
			both = merged
		}
	}
	key, err := readFile(filepath.Join(dir, KeyFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}

	promote := func() error {
		if err := os.Rename(filepath.Join(dir, nextKeyFile), filepath.Join(dir, KeyFile)); err != nil {
			return fmt.Errorf("the new key stays in %s, where it counts too: %w", nextKeyFile, err)
		}
		return atomicfile.SyncDir(dir)
	}

	var steps []func() error
	if cert, err := readFile(filepath.Join(dir, CertFile)); err == nil {
		if rest, _ := fittingKey(dir, cert, key, nil); !bytes.Equal(rest, key) { // of one that was interrupted
			key = rest
			steps = append(steps, promote)
		}
	}
	if !bytes.Equal(authorities, both) {
		steps = append(steps, write(CAFile, both, 0o644))
	}
	if bytes.Equal(key, files[KeyFile]) {
		steps = append(steps, write(CertFile, files[CertFile], 0o644))
	} else {
		steps = append(steps,
			write(nextKeyFile, files[KeyFile], 0o600),
			write(CertFile, files[CertFile], 0o644),
			promote)
	}
	if !bytes.Equal(both, files[CAFile]) {
		steps = append(steps, write(CAFile, files[CAFile], 0o644))
	}
	return steps, nil
}
