package router

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/node"
)

// digest is a whole one that begins with the letter.
func digest(c string) string { return "sha256-" + strings.Repeat(c, 64) }

func served(digest string, since int64) []node.Served {
	return []node.Served{{Model: embedding.Model{Name: "m", Digest: digest, Precision: "fp32"}, Active: true, Aliases: []string{"default"}, Since: since}}
}

// A fakeNode answers as long as nothing else is set.
type fakeNode struct {
	calls atomic.Int64
	works atomic.Int64 // calls that it did not refuse at once

	mu      sync.Mutex
	took    func() time.Duration // 5 ms
	serial  chan struct{}        // one request at a time, a millisecond for each token; nil: any number
	dead    chan struct{}        // no answer until it is closed; nil: alive
	fail    func() error         // nil: none
	serves  []node.Served
	cheats  bool // answers with another model than asked
	running int
}

func (n *fakeNode) set(f func(*fakeNode)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f(n)
}

func (n *fakeNode) Embed(ctx context.Context, req embedding.Request) (embedding.Result, error) {
	n.calls.Add(1)
	n.mu.Lock()
	took, serial, dead, fail, models, cheats := n.took, n.serial, n.dead, n.fail, n.serves, n.cheats
	n.running++
	n.mu.Unlock()
	defer n.set(func(n *fakeNode) { n.running-- })
	if dead != nil {
		n.works.Add(1)
		select {
		case <-dead:
		case <-ctx.Done():
			return embedding.Result{}, ctx.Err()
		}
	}
	if fail != nil {
		if err := fail(); err != nil {
			return embedding.Result{}, err
		}
	}
	i := slices.IndexFunc(models, func(s node.Served) bool { return s.Answers(req.Model) })
	if i < 0 {
		return embedding.Result{}, embedding.Errorf(embedding.CodeModelNotFound, "no model %q here", req.Model)
	}
	if dead == nil {
		n.works.Add(1)
	}
	m := models[i].Model
	if cheats {
		m.Digest = digest("9")
	}
	d := 5 * time.Millisecond
	if took != nil {
		d = took()
	}
	if serial != nil {
		select {
		case serial <- struct{}{}:
			defer func() { <-serial }()
		case <-ctx.Done():
			return embedding.Result{}, ctx.Err()
		}
		d = time.Duration(estimate(req.Inputs)) * time.Millisecond
	}
	select {
	case <-time.After(d):
	case <-ctx.Done():
		return embedding.Result{}, ctx.Err()
	}
	res := embedding.Result{Model: m}
	for _, in := range req.Inputs {
		res.Vectors = append(res.Vectors, vectorOf(m, in))
		res.Tokens = append(res.Tokens, tokensOf(in))
	}
	return res, nil
}

func vectorOf(m embedding.Model, in embedding.Input) []float32 {
	h := fnv.New32a()
	fmt.Fprint(h, m.Digest, in.Text)
	return []float32{float32(h.Sum32() >> 8)}
}

// A rig is a router of node "self" in region "eu" and the nodes around it.
type rig struct {
	*Router
	t     *testing.T
	self  *fakeNode
	nodes map[node.ID]*fakeNode
	mu    sync.Mutex
	word  node.Word
	snap  []node.Info
}

func (g *rig) Nodes() []node.Info {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.snap
}

type rigForwarder struct{ *rig }

func (f rigForwarder) Embed(ctx context.Context, to node.Info, req embedding.Request) (embedding.Result, error) {
	i := slices.IndexFunc(f.Nodes(), func(n node.Info) bool { return n.ID == to.ID })
	if i < 0 || !f.Nodes()[i].Link.Up {
		return embedding.Result{}, embedding.Errorf(embedding.CodeUnavailable, "no link to %s", to.ID)
	}
	return f.nodes[to.ID].Embed(ctx, req)
}

// newRig makes nodes by "region/id"; all serve digest a, this node too unless told otherwise.
func newRig(t *testing.T, opt func(*Config), names ...string) *rig {
	g := &rig{t: t, nodes: map[node.ID]*fakeNode{}, self: &fakeNode{serves: served(digest("a"), 1)}}
	g.word = node.Word{State: node.Ready, Models: g.self.serves}
	for _, name := range names {
		region, id, _ := strings.Cut(name, "/")
		n := &fakeNode{serves: served(digest("a"), 1)}
		g.nodes[node.ID(id)] = n
		g.snap = append(g.snap, node.Info{ID: node.ID(id), Region: region, Word: node.Word{State: node.Ready, Models: n.serves},
			Link: node.Link{Up: true, Known: true, RTT: time.Millisecond}})
	}
	var mu sync.Mutex
	dice := rand.New(rand.NewPCG(1, 2))
	cfg := Config{Self: node.Info{ID: "self", Region: "eu"}, Registerer: prometheus.NewRegistry(),
		Word:   func() node.Word { g.mu.Lock(); defer g.mu.Unlock(); return g.word },
		Random: func() uint64 { mu.Lock(); defer mu.Unlock(); return dice.Uint64() }}
	if opt != nil {
		opt(&cfg)
	}
	g.self.took = tailed(cfg.Random)
	for _, n := range g.nodes {
		n.took = tailed(cfg.Random)
	}
	g.Router = New(cfg, g.self, rigForwarder{g}, g)
	return g
}

// without makes this node serve nothing, so that everything is forwarded.
func (g *rig) without() {
	g.self.set(func(n *fakeNode) { n.serves = nil })
	g.tell(func(w *node.Word) { w.Models = nil })
}

func (g *rig) tell(f func(*node.Word)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f(&g.word)
}

// say changes what is known of a node, in a new snapshot.
func (g *rig) say(id node.ID, f func(*node.Info)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.snap = slices.Clone(g.snap)
	for i := range g.snap {
		if g.snap[i].ID == id {
			f(&g.snap[i])
		}
	}
}

func (g *rig) link(id node.ID, up bool) {
	g.say(id, func(n *node.Info) { n.Link.Up, n.Link.Since = up, time.Now() })
}

// blackhole makes the node silent; its link is seen down a second later.
func (g *rig) blackhole(id node.ID) {
	g.nodes[id].set(func(n *fakeNode) { n.dead = make(chan struct{}) })
	time.AfterFunc(time.Second, func() { g.link(id, false) })
}

// traffic sends small requests evenly for that long.
func (g *rig) traffic(rps int, long time.Duration) outcome {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var o outcome
	before := g.works()
	for range int(long.Seconds() * float64(rps)) {
		wg.Go(func() {
			began := time.Now()
			res, err := g.Embed(g.t.Context(), embedding.Request{Model: "m", Inputs: []embedding.Input{{Text: "some text"}}})
			mu.Lock()
			defer mu.Unlock()
			o.took = append(o.took, time.Since(began))
			if err != nil {
				o.failed = append(o.failed, err)
			} else if res.Origin.Forwarded {
				o.forwarded++
			}
		})
		time.Sleep(time.Second / time.Duration(rps))
	}
	wg.Wait()
	slices.Sort(o.took)
	o.amplification = float64(g.works()-before) / float64(len(o.took))
	return o
}

func (g *rig) calls() int64 {
	all := g.self.calls.Load()
	for _, n := range g.nodes {
		all += n.calls.Load()
	}
	return all
}

func (g *rig) works() int64 {
	all := g.self.works.Load()
	for _, n := range g.nodes {
		all += n.works.Load()
	}
	return all
}

type outcome struct {
	took          []time.Duration
	failed        []error
	forwarded     int
	amplification float64
}

func (o outcome) at(q float64) time.Duration { return o.took[int(q*float64(len(o.took)-1))] }

// noLoss fails the test when a request failed or was computed more than once too often.
func (o outcome) noLoss(t *testing.T) {
	t.Helper()
	t.Logf("%d requests, %d forwarded, p50 %v, p99 %v, max %v, amplification %.3f", len(o.took), o.forwarded, o.at(0.5), o.at(0.99), o.at(1), o.amplification)
	if len(o.failed) > 0 {
		t.Errorf("%d of %d failed, one with: %v", len(o.failed), len(o.took), o.failed[0])
	}
	if o.amplification > 1.12 {
		t.Errorf("amplification is %.3f, at most 1.12 is allowed", o.amplification)
	}
}

// one sends one request.
func (g *rig) one(model string) (embedding.Result, error) {
	return g.Embed(g.t.Context(), embedding.Request{Model: model, Inputs: []embedding.Input{{Text: "some text"}}})
}
