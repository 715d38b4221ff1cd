package pki

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

const (
	tokenPrefix    = "akidb1."
	tokenIDLen     = 8
	tokenSecretLen = 32
	tokenSumLen    = 4 // against a string that was cut or mistyped
	tokenFixedLen  = tokenIDLen + tokenSecretLen + sha256.Size + tokenSumLen
	maxTokenURL    = 512 // bytes
)

// Token lets one node join once. Its string, from Encode, is a secret; it prints as its ID alone.
type Token struct {
	URL       string            // https URL of `akidbd pki serve`; may be ""
	Authority [sha256.Size]byte // fingerprint of the authority that the joining node is to meet
	id        [tokenIDLen]byte
	secret    [tokenSecretLen]byte
}

func newToken(address string, authority [sha256.Size]byte) (Token, error) {
	t := Token{URL: address, Authority: authority}
	if address != "" {
		if err := checkURL(address); err != nil {
			return Token{}, err
		}
	}
	_, _ = rand.Read(t.id[:]) // never fails
	_, _ = rand.Read(t.secret[:])
	return t, nil
}

// ID names the token in logs and in the authority's directory.
func (t Token) ID() string { return hex.EncodeToString(t.id[:]) }

// String does not give the secret away.
func (t Token) String() string { return "token " + t.ID() }

// GoString does neither.
func (t Token) GoString() string { return t.String() }

// Encode gives the string that ParseToken reads: base64url of ID, secret, fingerprint, URL and a check sum.
func (t Token) Encode() string {
	b := make([]byte, 0, tokenFixedLen+len(t.URL))
	b = append(b, t.id[:]...)
	b = append(b, t.secret[:]...)
	b = append(b, t.Authority[:]...)
	b = append(b, t.URL...)
	sum := sha256.Sum256(b)
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(append(b, sum[:tokenSumLen]...))
}

// ParseToken reads what Encode wrote. Errors do not repeat the text.
func ParseToken(text string) (Token, error) {
	text = strings.TrimSpace(text)
	body, ok := strings.CutPrefix(text, tokenPrefix)
	if !ok {
		return Token{}, fmt.Errorf("not a token: one from akidbd pki token begins with %q", tokenPrefix)
	}
	if limit := base64.RawURLEncoding.EncodedLen(tokenFixedLen + maxTokenURL); len(body) > limit {
		return Token{}, fmt.Errorf("the token has %d characters, there may be %d", len(text), limit+len(tokenPrefix))
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(body)
	damaged := errors.New("the token is damaged: copy the whole string")
	if err != nil || len(b) < tokenFixedLen || strings.ContainsAny(body, "\r\n") {
		return Token{}, damaged
	}
	b, sum := b[:len(b)-tokenSumLen], b[len(b)-tokenSumLen:]
	if want := sha256.Sum256(b); string(sum) != string(want[:tokenSumLen]) {
		return Token{}, damaged
	}
	var t Token
	b = b[copy(t.id[:], b):]
	b = b[copy(t.secret[:], b):]
	b = b[copy(t.Authority[:], b):]
	t.URL = string(b)
	if t.URL == "" {
		return t, nil
	}
	return t, checkURL(t.URL)
}

// checkURL wants https://host[:port], the address of `akidbd pki serve`.
func checkURL(address string) error {
	u, err := url.Parse(address)
	if err != nil || len(address) > maxTokenURL || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("%.200q must be https://host:port", address)
	}
	return nil
}
