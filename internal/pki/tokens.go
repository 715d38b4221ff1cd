package pki

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/akidb/akidbd/internal/atomicfile"
	"github.com/akidb/akidbd/internal/node"
)

const (
	tokensDir  = "tokens"           // beside the authority
	tokenOpen  = ".json"            // not used yet
	tokenUsed  = ".used"            // kept a while, to say so
	keepTokens = 7 * 24 * time.Hour // after their end
	maxTTL     = 30 * 24 * time.Hour
)

// TokenLife is how long a token may be used, unless asked otherwise.
const TokenLife = 24 * time.Hour

// tokenFile is what the authority keeps of a token: no secret.
type tokenFile struct {
	Node    node.ID   `json:"node"`
	Region  string    `json:"region"`
	Expires time.Time `json:"expires"`
	Hash    []byte    `json:"secret_sha256"`
}

// NewToken lets a node of that name and region join once within ttl. address is the https URL that it finds
// `akidbd pki serve` at; with "" it must be told.
func (ca *CA) NewToken(id node.ID, region, address string, ttl time.Duration) (Token, error) {
	if err := checkNames(ca.domain, region, id); err != nil {
		return Token{}, err
	}
	if ttl < time.Second || ttl > maxTTL {
		return Token{}, fmt.Errorf("a token for %v, must be 1s to %v", ttl, maxTTL)
	}
	t, err := newToken(address, ca.Fingerprint())
	if err != nil {
		return Token{}, err
	}
	hash := sha256.Sum256(t.secret[:])
	data, err := json.Marshal(tokenFile{Node: id, Region: region, Expires: time.Now().Add(ttl).UTC(), Hash: hash[:]})
	if err != nil {
		return Token{}, err
	}
	dir := filepath.Join(ca.dir, tokensDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Token{}, err
	}
	if err := forgetTokens(dir); err != nil {
		return Token{}, err
	}
	return t, atomicfile.Write(filepath.Join(dir, t.ID()+tokenOpen), data, 0o600)
}

// errToken is for the joining node; which part of a token is wrong is not told to who holds none.
var errToken = errors.New("the token is not known here: it is of another authority, or was taken back")

// lookToken checks a token, and leaves it as it is.
func (ca *CA) lookToken(id [tokenIDLen]byte, secret []byte) (tokenFile, error) {
	name := filepath.Join(ca.dir, tokensDir, Token{id: id}.ID())
	data, err := readFile(name + tokenOpen)
	used := errors.Is(err, fs.ErrNotExist)
	if used {
		data, err = readFile(name + tokenUsed)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return tokenFile{}, errToken
	}
	if err != nil {
		return tokenFile{}, err
	}
	var f tokenFile
	if err := json.Unmarshal(data, &f); err != nil {
		return tokenFile{}, fmt.Errorf("%s: %w", name, err)
	}
	hash := sha256.Sum256(secret)
	if subtle.ConstantTimeCompare(hash[:], f.Hash) != 1 {
		return tokenFile{}, errToken
	}
	if used {
		return tokenFile{}, errUsed
	}
	if now := time.Now(); !now.Before(f.Expires) {
		return tokenFile{}, &expiredTokenError{f.Expires, now}
	}
	return f, nil
}

var errUsed = errors.New("the token was used already: make another one with akidbd pki token")

type expiredTokenError struct{ at, now time.Time }

func (e *expiredTokenError) Error() string {
	return fmt.Sprintf("the token ended %s, it is %s: make another one with akidbd pki token",
		e.at.UTC().Format(time.RFC3339), e.now.UTC().Format(time.RFC3339))
}

// useToken spends a token. Of any number of callers, in any number of processes, one is let through.
func (ca *CA) useToken(id [tokenIDLen]byte) error {
	dir := filepath.Join(ca.dir, tokensDir)
	name := filepath.Join(dir, Token{id: id}.ID())
	err := os.Rename(name+tokenOpen, name+tokenUsed)
	if errors.Is(err, fs.ErrNotExist) {
		return errUsed
	}
	if err != nil {
		return err
	}
	return atomicfile.SyncDir(dir)
}

// forgetTokens removes those that ended long ago.
func forgetTokens(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if !strings.HasSuffix(path, tokenOpen) && !strings.HasSuffix(path, tokenUsed) {
			continue
		}
		var f tokenFile
		data, err := readFile(path)
		if err != nil || json.Unmarshal(data, &f) != nil || time.Since(f.Expires) < keepTokens {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
