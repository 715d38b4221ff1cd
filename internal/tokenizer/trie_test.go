package tokenizer

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

func TestTrieAgainstMaps(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		letters := []int{1, 2, 26, 256}[seed%4]
		random := func(most int) string {
			b := make([]byte, r.IntN(most+1))
			for i := range b {
				b[i] = byte(r.IntN(letters))
			}
			return string(b)
		}
		var sets [2][]trieEntry
		var keys [2]map[string]int32
		for i := range sets {
			keys[i] = make(map[string]int32)
			for n := range 2000 {
				key := random(6)
				if _, ok := keys[i][key]; !ok {
					keys[i][key] = int32(n)
					sets[i] = append(sets[i], trieEntry{key, int32(n)})
				}
			}
		}
		trie, roots, err := newTrie(sets[0], sets[1])
		if err != nil {
			t.Fatal(err)
		}
		for range 5000 {
			text := random(10)
			for i, root := range roots {
				want, length := int32(-1), 0
				for n := 1; n <= len(text); n++ {
					if v, ok := keys[i][text[:n]]; ok {
						want, length = v, n
					}
				}
				if v, n := trie.longest(root, []byte(text)); v != want || n != length {
					t.Fatalf("seed %d set %d %q: %d of %d bytes, want %d of %d", seed, i, text, v, n, want, length)
				}
			}
		}
	}
}

func TestTrieLimit(t *testing.T) {
	var set []trieEntry
	for i := range maxTrieNodes/1000 + 1 {
		set = append(set, trieEntry{fmt.Sprintf("%08d%1000d", i, 0), int32(i)})
	}
	if _, _, err := newTrie(set); err == nil {
		t.Error("built, want an error about too many nodes")
	}
}

// TestTrieRoom checks that a vocabulary of the usual kind is not mostly holes.
func TestTrieRoom(t *testing.T) {
	m := loadMinilm(t).model.(*wordPiece)
	used := 0
	for _, n := range m.trie.nodes {
		if n.parent != noNode {
			used++
		}
	}
	if used*10 < len(m.trie.nodes)*9 {
		t.Errorf("%d of %d nodes are used, want 90 %%", used, len(m.trie.nodes))
	}
}
