package api

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/akidb/akidbd/internal/embedding"
)

// Keys is a set of API keys. It holds only their sums.
type Keys struct {
	names []string
	sums  [][sha256.Size]byte
	loose os.FileMode // permission bits of the file that others have and should not
	print string      // fingerprint of the file
}

// Limits of a keys file.
const (
	maxKeysFileBytes = 1 << 20
	maxKeys          = 4096
	minKeyBytes      = 16
)

// LoadKeys reads a keys file: one key a line, "name:key" or "name:sha256=" and the 64 hex digits of the key's
// sum (printf %s KEY | sha256sum); empty lines and lines that begin with # are skipped. A name is 1 to 64 of
// [A-Za-z0-9._-] and goes to the log, a key has at least 16 bytes and never does. The file may have 1 MiB and
// 4096 keys, and must have one: an empty file would open the door to everybody.
func LoadKeys(path string) (*Keys, error) {
	body, mode, err := readKeysFile(path)
	if err != nil {
		return nil, fmt.Errorf("api keys: %w", err)
	}
	k, err := parseKeys(body)
	if err != nil {
		return nil, fmt.Errorf("api keys: %s: %w", path, err)
	}
	k.loose = mode.Perm() & 0o027
	k.print = fingerprint(body)
	return k, nil
}

// loadKeys is LoadKeys; "" gives nil.
func loadKeys(path string) (*Keys, error) {
	if path == "" {
		return nil, nil
	}
	return LoadKeys(path)
}

func readKeysFile(path string) ([]byte, os.FileMode, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	if !info.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s is not a regular file", path)
	}
	body, err := io.ReadAll(io.LimitReader(f, maxKeysFileBytes+1))
	if err != nil {
		return nil, 0, err
	}
	if len(body) > maxKeysFileBytes {
		return nil, 0, fmt.Errorf("%s may have %d bytes at most, got %d", path, maxKeysFileBytes, info.Size())
	}
	return body, info.Mode(), nil
}

// fingerprint identifies the content of a file, without telling it.
func fingerprint(body []byte) string {
	sum := sha256.Sum256(body)
	return string(sum[:])
}

// fileFingerprint is the fingerprint of a file now; of one that cannot be read, its error.
func fileFingerprint(path string) string {
	body, _, err := readKeysFile(path)
	if err != nil {
		return err.Error()
	}
	return fingerprint(body)
}

func (k *Keys) fingerprint() string {
	if k == nil {
		return ""
	}
	return k.print
}

// parseKeys reads the lines. Its errors name lines, never what they hold.
func parseKeys(body []byte) (*Keys, error) {
	k := &Keys{}
	seen := map[string]int{}
	lines := bufio.NewScanner(bytes.NewReader(body))
	lines.Buffer(nil, maxKeysFileBytes+1)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		name, key, ok := strings.Cut(line, ":")
		name, key = strings.TrimSpace(name), strings.TrimSpace(key)
		if !ok {
			return nil, fmt.Errorf("line %d has no colon: a line is name:key or name:sha256=HEX", n)
		}
		if name == "" || len(name) > 64 || !isToken(name) {
			return nil, fmt.Errorf("line %d: a name is 1 to 64 of A-Z a-z 0-9 . _ -", n)
		}
		if first, twice := seen[name]; twice {
			return nil, fmt.Errorf("line %d: the name %s is already on line %d", n, name, first)
		}
		seen[name] = n
		sum, err := keySum(key)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		k.names = append(k.names, name)
		k.sums = append(k.sums, sum)
		if len(k.names) > maxKeys {
			return nil, fmt.Errorf("line %d: a file may have %d keys at most", n, maxKeys)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(k.names) == 0 {
		return nil, fmt.Errorf("there is no key in it: to serve without keys, configure no keys file")
	}
	return k, nil
}

func keySum(key string) (sum [sha256.Size]byte, err error) {
	digits, isSum := strings.CutPrefix(key, "sha256=")
	if !isSum {
		if len(key) < minKeyBytes {
			return sum, fmt.Errorf("a key has at least %d bytes, got %d", minKeyBytes, len(key))
		}
		return sha256.Sum256([]byte(key)), nil
	}
	if len(digits) != hex.EncodedLen(len(sum)) {
		return sum, fmt.Errorf("sha256= takes %d hex digits, got %d", hex.EncodedLen(len(sum)), len(digits))
	}
	if _, err := hex.Decode(sum[:], []byte(digits)); err != nil {
		return sum, fmt.Errorf("sha256= takes hex digits only")
	}
	return sum, nil
}

// Len is how many keys there are; 0 for nil.
func (k *Keys) Len() int {
	if k == nil {
		return 0
	}
	return len(k.names)
}

// find gives the name of the key, or false. It compares with every sum whatever it found before, so that its
// time tells nothing.
func (k *Keys) find(key string) (name string, ok bool) {
	sum := sha256.Sum256([]byte(key))
	found := -1
	for i := range k.sums {
		equal := subtle.ConstantTimeCompare(sum[:], k.sums[i][:])
		found = subtle.ConstantTimeSelect(equal, i, found)
	}
	if found < 0 {
		return "", false
	}
	return k.names[found], true
}

// SetKeys puts other keys in force; nil means that none is asked for.
func (a *API) SetKeys(k *Keys) {
	a.keys.Store(k)
	a.metrics.keys.Set(float64(k.Len()))
}

// ReloadKeys reads Config.KeysFile again. When it cannot be used the old keys stay in force, the failure is
// counted and returned. Without a keys file it does nothing.
func (a *API) ReloadKeys() error {
	path := a.current.Load().cfg.KeysFile
	if path == "" {
		return nil
	}
	k, err := LoadKeys(path)
	if err != nil {
		a.metrics.keysFailed.Inc()
		return err
	}
	a.SetKeys(k)
	a.warnAboutKeys(k, path)
	return nil
}

func (a *API) warnAboutKeys(k *Keys, path string) {
	if k != nil && k.loose != 0 {
		a.log.Warn("others may read or change the api keys file: chmod 0640 it or less",
			"path", path, "excess_mode", fmt.Sprintf("%04o", k.loose))
	}
}

// authenticate looks for a key in "Authorization: Bearer KEY" or "x-api-key: KEY".
func (a *surface) authenticate(c *call, r *http.Request) error {
	keys := a.keys.Load()
	if keys == nil {
		return nil
	}
	key := r.Header.Get("X-Api-Key")
	if auth := r.Header.Get("Authorization"); auth != "" {
		scheme, token, _ := strings.Cut(auth, " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return embedding.Errorf(embedding.CodeUnauthenticated, "the authorization header must be \"Bearer KEY\"")
		}
		key = strings.TrimSpace(token)
	}
	if key == "" {
		return embedding.Errorf(embedding.CodeUnauthenticated,
			"an API key is needed: send it as \"Authorization: Bearer KEY\" or \"x-api-key: KEY\"")
	}
	name, ok := keys.find(key)
	if !ok {
		return embedding.Errorf(embedding.CodeUnauthenticated, "the API key is not known here")
	}
	c.keyName = name
	return nil
}
