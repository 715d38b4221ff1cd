package pki

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestTokenEncoding(t *testing.T) {
	for _, address := range []string{"", "https://ca.example:7947", "https://[::1]:7947", "https://ca.example"} {
		tok, err := newToken(address, sha256.Sum256([]byte("ca")))
		if err != nil {
			t.Fatal(err)
		}
		text := tok.Encode()
		got, err := ParseToken(" " + text + "\n")
		if err != nil || got != tok {
			t.Fatalf("%q: %v", address, err)
		}
		for n := range len(text) {
			if _, err := ParseToken(text[:n]); err == nil {
				t.Fatalf("cut to %d of %d characters it was read", n, len(text))
			}
		}
		secret := base64.RawURLEncoding.EncodeToString(tok.secret[:])
		for _, shown := range []string{fmt.Sprint(tok), fmt.Sprintf("%v %+v %#v %s", tok, tok, tok, tok)} {
			if strings.Contains(shown, secret) || strings.Contains(shown, fmt.Sprintf("%v", tok.secret[:])) || !strings.Contains(shown, tok.ID()) {
				t.Errorf("printed as %s", shown)
			}
		}
	}
	for _, address := range []string{"http://ca:1", "https://", "ca:7947", "https://u:p@ca", "https://ca/x", "https://ca?x", "https://" + strings.Repeat("a", maxTokenURL)} {
		if _, err := newToken(address, [32]byte{}); err == nil {
			t.Errorf("%.30s was taken", address)
		}
	}
}

func FuzzToken(f *testing.F) {
	tok, err := newToken("https://ca.example:7947", [32]byte{1})
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{tok.Encode(), "", tokenPrefix, tokenPrefix + strings.Repeat("A", 200), tok.Encode() + "A"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := ParseToken(text)
		if err != nil {
			if len(text) > 40 && strings.Contains(err.Error(), text) {
				t.Fatal("the error repeats the token")
			}
			return
		}
		if got.Encode() != strings.TrimSpace(text) {
			t.Fatalf("%q is read as %q", text, got.Encode())
		}
	})
}

func TestTokensAtRest(t *testing.T) {
	ca := newCA(t, "akidb.local")
	tok, err := ca.NewToken("eu-1", "eu", "", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(ca.dir, tokensDir, tok.ID()+tokenOpen)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range [][]byte{tok.secret[:], []byte(base64.StdEncoding.EncodeToString(tok.secret[:]))} {
		if strings.Contains(string(data), string(secret)) {
			t.Error("the secret is kept")
		}
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Error(info.Mode())
	}
	wrong := tok.secret
	wrong[0] ^= 1
	if _, err := ca.lookToken(tok.id, wrong[:]); !errors.Is(err, errToken) {
		t.Errorf("a wrong secret: %v", err)
	}
	if _, err := ca.lookToken([tokenIDLen]byte{}, tok.secret[:]); !errors.Is(err, errToken) {
		t.Errorf("a wrong id: %v", err)
	}
	if f, err := ca.lookToken(tok.id, tok.secret[:]); err != nil || f.Node != "eu-1" || f.Region != "eu" {
		t.Errorf("%+v: %v", f, err)
	}
	if _, err := ca.NewToken("eu-1", "eu", "", maxTTL+1); err == nil {
		t.Error("a token for ever")
	}
	if _, err := ca.NewToken("../x", "eu", "", time.Hour); err == nil {
		t.Error("a token for ../x")
	}
	// Those that ended long ago are forgotten with the next one.
	backdate(t, ca, tok, -keepTokens-time.Hour)
	if _, err := ca.NewToken("eu-2", "eu", "", time.Hour); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("an old token is kept")
	}
}
