package tokenizer

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// maxTrieNodes bounds the memory of one trie: 12 bytes a node, 96 MiB in all.
const maxTrieNodes = 8 << 20

// trie finds the longest of a set of keys at the beginning of a text, one step a byte. It is a double array:
// the child of node n for byte b is node n.base^b, and is really n's when it says so.
type trie struct {
	nodes []trieNode
}

type trieNode struct {
	base   uint32
	parent uint32
	value  int32 // -1 where no key ends
}

const noNode = math.MaxUint32

// trieEntry is a key with its value, 0 or more.
type trieEntry struct {
	key   string
	value int32
}

// longest walks from root as deep as text goes and returns the value of the longest key met and its length
// in bytes, or -1 and 0. The empty key is never met.
func (t *trie) longest(root uint32, text []byte) (value int32, length int) {
	value = -1
	node := root
	nodes := t.nodes
	for i, b := range text {
		child := nodes[node].base ^ uint32(b)
		n := &nodes[child]
		if n.parent != node {
			break
		}
		if n.value >= 0 {
			value, length = n.value, i+1
		}
		node = child
	}
	return value, length
}

// newTrie builds one root for each set of entries, which it sorts. Keys of one set must differ.
func newTrie(sets ...[]trieEntry) (*trie, []uint32, error) {
	count := 0
	for _, set := range sets {
		slices.SortFunc(set, func(a, b trieEntry) int { return strings.Compare(a.key, b.key) })
		previous := ""
		for _, e := range set {
			count += len(e.key) - commonPrefix(previous, e.key)
			previous = e.key
		}
		if count > maxTrieNodes {
			return nil, nil, fmt.Errorf("the tokens need more than %d trie nodes, which is the limit", maxTrieNodes)
		}
	}
	b := &trieBuilder{t: new(trie)}
	roots := make([]uint32, len(sets))
	for i, set := range sets {
		roots[i] = b.take(b.place([]byte{0}))
		b.t.nodes[roots[i]].parent = noNode
		b.fill(roots[i], set, 0)
	}
	return b.t, roots, nil
}

func commonPrefix(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// openBlocks is how many of the last blocks of 256 nodes are searched for room: bounds the time of a build
// at the price of a few empty nodes.
const openBlocks = 16

// trieBuilder places nodes. Free nodes of the open blocks are a list in ascending order.
type trieBuilder struct {
	t          *trie
	next, prev []uint32 // of free nodes
	first      uint32   // first free node, when free > 0
	last       uint32
	free       int
	closed     uint32 // nodes below are no longer offered
}

// fill makes the children of node for the sorted entries, which share their first depth bytes.
func (b *trieBuilder) fill(node uint32, entries []trieEntry, depth int) {
	for len(entries) > 0 && len(entries[0].key) == depth {
		if depth > 0 {
			b.t.nodes[node].value = entries[0].value
		}
		entries = entries[1:]
	}
	if len(entries) == 0 {
		return
	}
	var labelSpace [256]byte
	labels := labelSpace[:0]
	for _, e := range entries {
		if l := e.key[depth]; len(labels) == 0 || labels[len(labels)-1] != l {
			labels = append(labels, l)
		}
	}
	base := b.place(labels)
	b.t.nodes[node].base = base
	for _, l := range labels {
		b.t.nodes[b.take(base^uint32(l))].parent = node
	}
	for start := 0; start < len(entries); {
		l, end := entries[start].key[depth], start+1
		for end < len(entries) && entries[end].key[depth] == l {
			end++
		}
		b.fill(base^uint32(l), entries[start:end], depth+1)
		start = end
	}
}

// place finds a base under which every label's node is free.
func (b *trieBuilder) place(labels []byte) uint32 {
	node := b.first
	for range b.free {
		base := node ^ uint32(labels[0])
		if b.fits(base, labels) {
			return base
		}
		node = b.next[node]
	}
	return b.grow() ^ uint32(labels[0])
}

func (b *trieBuilder) fits(base uint32, labels []byte) bool {
	for _, l := range labels[1:] {
		n := base ^ uint32(l)
		if b.next[n] == noNode {
			return false
		}
	}
	return true
}

// grow opens a block of 256 free nodes, closes the oldest open one and returns the first new node.
func (b *trieBuilder) grow() uint32 {
	start := uint32(len(b.t.nodes))
	for n := start; n < start+256; n++ {
		b.t.nodes = append(b.t.nodes, trieNode{parent: noNode, value: -1})
		b.next = append(b.next, n+1)
		b.prev = append(b.prev, n-1)
	}
	if b.free > 0 {
		b.next[b.last] = start
		b.prev[start] = b.last
	} else {
		b.first = start
	}
	b.last = start + 255
	b.free += 256
	for start-b.closed >= openBlocks*256 {
		for b.free > 0 && b.first < b.closed+256 {
			b.take(b.first)
		}
		b.closed += 256
	}
	return start
}

// take removes a node from the free ones.
func (b *trieBuilder) take(node uint32) uint32 {
	next, prev := b.next[node], b.prev[node]
	switch {
	case b.free == 1:
	case node == b.first:
		b.first = next
	case node == b.last:
		b.last = prev
	default:
		b.next[prev], b.prev[next] = next, prev
	}
	b.next[node] = noNode
	b.free--
	return node
}
