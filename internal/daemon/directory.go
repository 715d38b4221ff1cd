package daemon

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/akidb/akidbd/internal/node"
)

// directory is what the router reads: gossip's members with what the links themselves know of them. Gossip may
// add a node and speaks for those without a link; a link's word and state come first, and a node whose link is
// up is there whatever gossip says.
type directory struct {
	nodes atomic.Pointer[[]node.Info] // immutable, sorted by ID, without this node
	dirty chan struct{}               // has one slot
	met   chan struct{}               // closed when a node that can answer was seen, or when none came for a while
}

// settleAfter is how long a starting node expects to meet others: its links come up in a fraction of it.
const settleAfter = 3 * time.Second

func newDirectory() *directory {
	d := &directory{dirty: make(chan struct{}, 1), met: make(chan struct{})}
	d.nodes.Store(&[]node.Info{})
	return d
}

// Nodes is the snapshot of now.
func (d *directory) Nodes() []node.Info { return *d.nodes.Load() }

// changed asks for a new snapshot. It never blocks.
func (d *directory) changed() {
	select {
	case d.dirty <- struct{}{}:
	default:
	}
}

// run makes a new snapshot after each change until ctx ends.
func (d *directory) run(ctx context.Context, told, linked func() []node.Info) {
	settled := time.NewTimer(settleAfter)
	defer settled.Stop()
	meet := sync.OnceFunc(func() { close(d.met) })
	for {
		merged := merge(told(), linked())
		d.nodes.Store(&merged)
		if slices.ContainsFunc(merged, answers) {
			meet()
		}
		select {
		case <-ctx.Done():
			meet()
			return
		case <-settled.C:
			meet()
		case <-d.dirty:
		}
	}
}

// answers says whether a node can be asked.
func answers(n node.Info) bool {
	return n.Link.Up && n.Word.State == node.Ready && len(n.Word.Models) > 0
}

// merge puts what the links know over what gossip tells.
func merge(told, linked []node.Info) []node.Info {
	byID := make(map[node.ID]node.Info, len(told)+len(linked))
	for _, n := range told {
		byID[n.ID] = n
	}
	for _, l := range linked {
		t, both := byID[l.ID]
		switch {
		case !both && !l.Link.Up:
			continue // gone, says gossip, and the link does not contradict
		case both:
			if t.Word.Newer(l.Word) && !l.Link.Up {
				l.Word = t.Word
			}
			if l.Addr == "" {
				l.Addr = t.Addr
			}
		}
		byID[l.ID] = l
	}
	merged := make([]node.Info, 0, len(byID))
	for _, n := range byID {
		merged = append(merged, n)
	}
	slices.SortFunc(merged, func(a, b node.Info) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return merged
}
