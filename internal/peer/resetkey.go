package peer

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/quic-go/quic-go"

	"github.com/akidb/akidbd/internal/atomicfile"
)

const (
	keyFile = "link-reset.key"
	keySize = 32
)

// keys outlive a restart: with the same reset key a node that comes back tells its peers in one round trip that
// their connections are gone.
type keys struct {
	reset quic.StatelessResetKey
	token quic.TokenGeneratorKey
}

func loadKeys(dir string) (keys, error) {
	var k keys
	secret, err := loadSecret(dir)
	if err != nil {
		return k, err
	}
	for info, to := range map[string][]byte{"akidb stateless reset": k.reset[:], "akidb address token": k.token[:]} {
		key, err := hkdf.Key(sha256.New, secret, nil, info, len(to))
		if err != nil {
			return k, fmt.Errorf("derive the link keys: %w", err)
		}
		copy(to, key)
	}
	return k, nil
}

func loadSecret(dir string) ([]byte, error) {
	if dir == "" {
		return newSecret(), nil
	}
	path := filepath.Join(dir, keyFile)
	secret, err := os.ReadFile(path)
	switch {
	case err == nil && len(secret) == keySize:
		return secret, nil
	case err == nil:
		return nil, fmt.Errorf("%s holds %d bytes, not %d: remove it, a new one is made at the next start", path, len(secret), keySize)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("read the key of the links: %w", err)
	}
	secret = newSecret()
	if err := atomicfile.Write(path, secret, 0o600); err != nil {
		return nil, fmt.Errorf("keep the key of the links: %w", err)
	}
	return secret, nil
}

func newSecret() []byte {
	secret := make([]byte, keySize)
	_, _ = rand.Read(secret) // never fails
	return secret
}
