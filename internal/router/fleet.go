package router

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/akidb/akidbd/internal/node"
)

// A peer is this node's own evidence of a node, itself included.
type peer struct {
	inFlight atomic.Int32 // attempts of this node
	health   health
	latency  latency

	mu       sync.Mutex
	ring     int  // of its round trip time; kept for the hysteresis
	measured bool // ring is set
}

func newPeer(base time.Duration) *peer { return &peer{health: health{base: base}} }

// A fleet is a snapshot of the directory with the evidence of each node beside it. It is immutable.
type fleet struct {
	nodes []node.Info
	peers []*peer // parallel to nodes
	byID  map[node.ID]*peer
}

// nodes is the present fleet. The evidence of nodes that left the directory is forgotten.
func (r *Router) nodes() *fleet {
	if r.dir == nil || r.there == nil {
		return r.fleet.Load()
	}
	nodes := r.dir.Nodes()
	if f := r.fleet.Load(); f.of(nodes) {
		return f
	}
	r.moving.Lock()
	defer r.moving.Unlock()
	old := r.fleet.Load()
	if old.of(nodes) {
		return old
	}
	f := &fleet{nodes: nodes, peers: make([]*peer, len(nodes)), byID: make(map[node.ID]*peer, len(nodes))}
	for i := range nodes {
		p := old.byID[nodes[i].ID]
		if p == nil {
			p = newPeer(ejectBase)
		}
		f.peers[i], f.byID[nodes[i].ID] = p, p
	}
	r.fleet.Store(f)
	return f
}

// of says whether f was made of this very snapshot.
func (f *fleet) of(nodes []node.Info) bool {
	return len(f.nodes) == len(nodes) && (len(nodes) == 0 || &f.nodes[0] == &nodes[0])
}

// ringBounds part other regions by round trip time: near ones are asked before far ones, and within a ring the
// latency decides.
var ringBounds = [...]time.Duration{6 * time.Millisecond, 15 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond}

// ringSlack is how far beyond a bound a round trip time must be to change the ring, so that one near a bound does
// not change it with every sample.
const ringSlack = 0.1

// ringOf is the ring of a node, 0 the nearest. A node that was never measured is in the last.
func (p *peer) ringOf(rtt time.Duration) int {
	if rtt <= 0 {
		return len(ringBounds)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.measured {
		for p.ring < len(ringBounds) && rtt > ringBounds[p.ring] {
			p.ring++
		}
		p.measured = true
	}
	for p.ring > 0 && float64(rtt) < float64(ringBounds[p.ring-1])*(1-ringSlack) {
		p.ring--
	}
	for p.ring < len(ringBounds) && float64(rtt) > float64(ringBounds[p.ring])*(1+ringSlack) {
		p.ring++
	}
	return p.ring
}
