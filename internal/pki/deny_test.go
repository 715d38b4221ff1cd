package pki

import (
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/akidb/akidbd/internal/node"
)

func TestDenyList(t *testing.T) {
	d, err := parseDenyList([]byte("# all of it\r\n\neu-1 # stolen\r\n  00AB:cd\ncafe\n"))
	if err != nil {
		t.Fatal(err)
	}
	for entry, want := range map[string]bool{"eu-1": true, "eu-2": false, "cafe": true, "CAFE": false} {
		if got := d.match(node.ID(entry), nil) != ""; got != want {
			t.Errorf("node %s denied: %v", entry, got)
		}
	}
	for serial, want := range map[int64]bool{0xabcd: true, 0xcafe: true, 0xabc: false} {
		if got := d.match("x", big.NewInt(serial)) != ""; got != want {
			t.Errorf("serial %x denied: %v", serial, got)
		}
	}
	var many strings.Builder
	for n := range maxDenied + 1 {
		fmt.Fprintf(&many, "node-%d\n", n)
	}
	for text, want := range map[string]string{
		"a\nnode x y":                          "line 2",
		"ä":                                    "line 1",
		strings.Repeat("a", 65) + "g":          "line 1",
		":":                                    "line 1",
		"x1\na/b":                              "line 2",
		strings.Repeat("f", 41) + ":" + "00":   "line 1",
		many.String():                          "10000 entries",
		"eu-1\n" + strings.Repeat("-", 100000): "line 2",
	} {
		if _, err := parseDenyList([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v, want %q", text, err, want)
		}
	}
}

func FuzzDenyList(f *testing.F) {
	for _, s := range []string{"", "#", "eu-1\n", "de:ad\nbeef # x\r\n", "\x00", "a b", strings.Repeat("f", 40)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := parseDenyList(data)
		if err != nil {
			if len(d.nodes)+len(d.serials) > 0 {
				t.Fatal("half a list beside an error")
			}
			return
		}
		for id := range d.nodes {
			if !id.Valid() || d.match(id, nil) == "" || !strings.Contains(string(data), string(id)) {
				t.Fatalf("name %q", id)
			}
		}
		for s := range d.serials {
			n, ok := new(big.Int).SetString(s, 16)
			if !ok || n.Sign() < 0 || n.BitLen() > 8*20 || d.match("", n) == "" {
				t.Fatalf("serial %q", s)
			}
		}
	})
}
