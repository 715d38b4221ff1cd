package modelctl

import (
	"errors"
	"strings"
	"testing"
	"time"

	"aead.dev/minisign"
	"go.uber.org/goleak"

	"github.com/akidb/akidbd/internal/config"
	modelsync "github.com/akidb/akidbd/internal/sync"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTooFast(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		ahead time.Duration
		bad   bool
	}{{-time.Hour, false}, {0, false}, {modelsync.MaxAhead, false}, {modelsync.MaxAhead + time.Second, true}} {
		err := tooFast(now, []time.Time{now, now.Add(-c.ahead)})
		if (err != nil) != c.bad {
			t.Errorf("%v ahead: %v", c.ahead, err)
		}
	}
	if err := tooFast(now, nil); err != nil {
		t.Errorf("nobody to ask: %v", err)
	}
}

// The keys of the configuration count, else the one that signs, else all.
func TestTrusted(t *testing.T) {
	own, private, err := minisign.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := minisign.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	m := modelsync.NewManifest(modelsync.KindDelete, "m", "op", "eu")
	m.Clock = 1
	unsigned := *m
	if err := m.Sign(private); err != nil {
		t.Fatal(err)
	}
	trusting := func(key minisign.PublicKey) *config.Config {
		c := &config.Config{}
		c.Sync.TrustedKeys = []string{key.String()}
		return c
	}
	for name, c := range map[string]struct {
		f                *flags
		cfg              *config.Config
		signed, unsigned bool
	}{
		"nothing said": {&flags{}, nil, true, true},
		"own key":      {&flags{key: "file", secret: &private}, nil, true, false},
		"trusted":      {&flags{}, trusting(own), true, false},
		"another":      {&flags{key: "file", secret: &private}, trusting(other), false, false},
	} {
		keys, err := c.f.trusted(c.cfg)
		if err != nil {
			t.Fatal(name, err)
		}
		if err := keys.Verify(m); (err == nil) != c.signed {
			t.Errorf("%s: signed: %v", name, err)
		}
		if err := keys.Verify(&unsigned); (err == nil) != c.unsigned {
			t.Errorf("%s: unsigned: %v", name, err)
		}
	}
}

func TestBelieved(t *testing.T) {
	tgt := &target{}
	if err := tgt.believed("m"); err != nil {
		t.Error(err)
	}
	tgt.refused = []error{errors.New("models/m/versions/x.json: signature")}
	if err := tgt.believed("m"); err == nil || !strings.Contains(err.Error(), "x.json") {
		t.Errorf("%v", err)
	}
}
