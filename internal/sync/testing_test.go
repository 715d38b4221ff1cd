package sync

import (
	"maps"
	"slices"
	"testing"

	"aead.dev/minisign"

	"github.com/akidb/akidbd/internal/node"
)

func nodeID(s string) node.ID { return node.ID(s) }

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

// testKey makes a key pair: the public key as text, and what signs a manifest.
func testKey(t *testing.T) (string, func(*Manifest)) {
	t.Helper()
	public, private, err := minisign.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return public.String(), func(m *Manifest) {
		if err := m.Sign(private); err != nil {
			t.Fatal(err)
		}
	}
}
