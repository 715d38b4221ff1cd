package sync

import (
	"errors"
	"fmt"

	"aead.dev/minisign"
)

// Sign puts a minisign signature over everything else that m says.
func (m *Manifest) Sign(key minisign.PrivateKey) error {
	message, err := m.message()
	if err != nil {
		return err
	}
	m.Signed = string(minisign.Sign(key, message))
	return nil
}

// message is what is signed.
func (m *Manifest) message() ([]byte, error) {
	bare := *m
	bare.Signed = ""
	return bare.Encode()
}

// Keys are the public keys that manifests are taken from. The zero Keys take everything.
type Keys struct{ trusted []minisign.PublicKey }

// ParseKeys reads keys as `akidbd model keygen` and minisign print them.
func ParseKeys(texts []string) (Keys, error) {
	var k Keys
	for i, text := range texts {
		var key minisign.PublicKey
		if err := key.UnmarshalText([]byte(text)); err != nil {
			return Keys{}, fmt.Errorf("key %d, %.80q, is no minisign public key: %w", i, text, err)
		}
		k.trusted = append(k.trusted, key)
	}
	return k, nil
}

// errSignature is why a manifest is refused that no trusted key signed.
var errSignature = errors.New("signature")

// Verify says why m is not taken.
func (k Keys) Verify(m *Manifest) error {
	if len(k.trusted) == 0 {
		return nil
	}
	if m.Signed == "" {
		return fmt.Errorf("%w: it is not signed, and sync.trusted_keys asks for one", errSignature)
	}
	message, err := m.message()
	if err != nil {
		return err
	}
	for _, key := range k.trusted {
		if minisign.Verify(key, message, []byte(m.Signed)) {
			return nil
		}
	}
	return fmt.Errorf("%w: no key of sync.trusted_keys made it", errSignature)
}
