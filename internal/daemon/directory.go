package daemon

import (
	"cmp"
	"context"
	"slices"
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

// merge puts what the links know over what gossip tells. Both are sorted by ID, and so is the result. It runs after
// every change of any link, so it must cost little in a fleet of hundreds.
func merge(told, linked []node.Info) []node.Info {
	merged := make([]node.Info, 0, max(len(told), len(linked)))
	unknown := func(l node.Info) { // gone, says gossip: the link may contradict
		if l.Link.Up {
			merged = append(merged, l)
		}
	}
	for _, t := range told {
		for len(linked) > 0 && linked[0].ID < t.ID {
			unknown(linked[0])
			linked = linked[1:]
		}
		if len(linked) == 0 || linked[0].ID != t.ID {
			merged = append(merged, t)
			continue
		}
		l := linked[0]
		linked = linked[1:]
		if t.Word.Newer(l.Word) && !l.Link.Up {
			l.Word = t.Word
		}
		l.Addr = cmp.Or(l.Addr, t.Addr)
		merged = append(merged, l)
	}
	for _, l := range linked {
		unknown(l)
	}
	return merged
}
