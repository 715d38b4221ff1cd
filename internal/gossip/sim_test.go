package gossip

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/akidb/akidbd/internal/node"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sim is a network of nodes in one process, in the time of a synctest bubble. Like the real links it delivers to
// a node that is linked, and else dials the address.
type sim struct {
	t     testing.TB
	delay func(from, to *simNode) time.Duration // one way
	loss  float64                               // of datagrams

	mu     sync.Mutex
	byAddr map[string]*simNode
	byID   map[node.ID]*simNode
	linked map[[2]node.ID]bool
	cut    func(from, to *simNode) bool // packets from one to the other are lost
	keeps  func(a, b *simNode) bool     // who keeps links; nil: nobody, and all packets go to whom they are for
	conns  map[*simConn]struct{}

	started []*simNode

	packets, bytes atomic.Int64
}

type simNode struct {
	s       *sim
	id      node.ID
	region  string
	addr    string
	seeds   []string
	dir     string
	epoch   uint64
	edit    func(*Config)
	watch   atomic.Pointer[func()] // called when Nodes changed
	c       *Cluster
	cancel  context.CancelFunc
	done    chan struct{}
	stopped atomic.Bool // it takes and sends nothing any more
	out     atomic.Int64
	dials   atomic.Int64
	up      atomic.Pointer[[]node.Info] // links
	busy    atomic.Bool                 // the load changes all the time

	mu   sync.Mutex
	word node.Word
}

func newSim(t testing.TB) *sim {
	return &sim{
		t: t, byAddr: map[string]*simNode{}, byID: map[node.ID]*simNode{}, linked: map[[2]node.ID]bool{},
		conns: map[*simConn]struct{}{},
		delay: func(_, _ *simNode) time.Duration { return time.Millisecond },
	}
}

func (s *sim) setCut(cut func(from, to *simNode) bool) {
	s.mu.Lock()
	s.cut = cut
	s.unlink(func(a, b *simNode) bool { return cut != nil && (cut(a, b) || cut(b, a)) })
	var broken []*simConn
	for c := range s.conns {
		if cut != nil && (cut(c.from, c.to) || cut(c.to, c.from)) {
			broken = append(broken, c)
		}
	}
	s.mu.Unlock()
	for _, c := range broken {
		c.Close()
	}
}

func pairOf(a, b node.ID) [2]node.ID { return [2]node.ID{min(a, b), max(a, b)} }

// find gives the node at the other end: the one linked, else the one at the address. The caller holds mu.
func (s *sim) find(from *simNode, to node.ID, addr string) (*simNode, bool) {
	if to != "" && s.linked[pairOf(from.id, to)] {
		return s.byID[to], true
	}
	if n := s.byAddr[addr]; addr != "" && n != nil && n != from && (to == "" || n.id == to) {
		return n, s.linked[pairOf(from.id, n.id)]
	}
	return nil, false
}

func (n *simNode) reaches(o *simNode) bool {
	return !n.stopped.Load() && !o.stopped.Load() && (n.s.cut == nil || !n.s.cut(n, o))
}

// SendGossip implements [Link].
func (n *simNode) SendGossip(to node.ID, addr string, data []byte) {
	s := n.s
	if len(data) > MaxPacket {
		s.t.Errorf("%s sends a datagram of %d bytes", n.id, len(data))
	}
	s.packets.Add(1)
	s.bytes.Add(int64(len(data)))
	n.out.Add(int64(len(data)))
	s.mu.Lock()
	defer s.mu.Unlock()
	o, linked := s.find(n, to, addr)
	if o == nil || !n.reaches(o) || rand.Float64() < s.loss {
		return
	}
	d := s.delay(n, o)
	if !linked {
		if !o.reaches(n) {
			return
		}
		d += s.delay(o, n) + s.delay(n, o)
		s.link(n, o)
	}
	time.AfterFunc(d, func() {
		s.mu.Lock()
		ok, from := n.reaches(o) && o.c != nil, n.addr
		c := o.c
		s.mu.Unlock()
		if ok {
			c.Packet(n.id, from, data, time.Now())
		}
	})
}

// DialGossip implements [Link].
func (n *simNode) DialGossip(ctx context.Context, to node.ID, addr string) (net.Conn, error) {
	s := n.s
	s.mu.Lock()
	o, linked := s.find(n, to, addr)
	ok := o != nil && n.reaches(o) && o.reaches(n)
	s.mu.Unlock()
	if o == nil {
		return nil, errors.New("nobody there")
	}
	if !ok {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if !linked && !pause(ctx, s.delay(n, o)+s.delay(o, n)) {
		return nil, ctx.Err()
	}
	s.mu.Lock()
	if !n.reaches(o) || !o.reaches(n) || o.c == nil {
		s.mu.Unlock()
		return nil, errors.New("gone")
	}
	s.link(n, o)
	near, far := net.Pipe()
	a, b := &simConn{Conn: near, from: n, to: o}, &simConn{Conn: far, from: o, to: n}
	s.conns[a], s.conns[b] = struct{}{}, struct{}{}
	c := o.c
	s.mu.Unlock()
	c.Stream(n.id, n.addr, b)
	return a, nil
}

// link notes that two nodes have one. The caller holds mu.
func (s *sim) link(a, b *simNode) {
	if s.linked[pairOf(a.id, b.id)] {
		return
	}
	s.linked[pairOf(a.id, b.id)] = true
	a.dials.Add(1)
	if s.keeps != nil {
		a.meet(b)
		b.meet(a)
	}
}

// meet adds a link to those that a node knows of. The caller holds mu.
func (n *simNode) meet(o *simNode) {
	up := slices.Clone(n.Peers())
	if i, found := slices.BinarySearchFunc(up, o.id, func(p node.Info, id node.ID) int { return cmp.Compare(p.ID, id) }); !found {
		up = slices.Insert(up, i, node.Info{ID: o.id, Addr: o.addr, Link: node.Link{Up: true, Known: true}})
	}
	n.up.Store(&up)
}

// unlink takes links away. The caller holds mu.
func (s *sim) unlink(gone func(a, b *simNode) bool) {
	for pair := range s.linked {
		a, b := s.byID[pair[0]], s.byID[pair[1]]
		if a == nil || b == nil || !gone(a, b) {
			continue
		}
		delete(s.linked, pair)
		for n, o := range map[*simNode]*simNode{a: b, b: a} {
			up := slices.DeleteFunc(slices.Clone(n.Peers()), func(p node.Info) bool { return p.ID == o.id })
			n.up.Store(&up)
		}
	}
}

// Peers implements [Link].
func (n *simNode) Peers() []node.Info {
	if up := n.up.Load(); up != nil {
		return *up
	}
	return nil
}

// keep dials the members that the node keeps links to.
func (n *simNode) keep() {
	s := n.s
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range n.c.Nodes() {
		if o := s.byID[m.ID]; s.keeps != nil && o != nil && s.keeps(n, o) && n.reaches(o) && o.reaches(n) {
			s.link(n, o)
		}
	}
}

type simConn struct {
	net.Conn
	from, to *simNode
	wrote    time.Time // when a write was through; what follows at once travels with it
}

func (c *simConn) Write(b []byte) (int, error) {
	if time.Since(c.wrote) > time.Millisecond {
		time.Sleep(c.from.s.delay(c.from, c.to))
	}
	defer func() { c.wrote = time.Now() }()
	c.from.s.bytes.Add(int64(len(b)))
	c.from.out.Add(int64(len(b)))
	return c.Conn.Write(b)
}

func (c *simConn) Close() error {
	c.from.s.mu.Lock()
	delete(c.from.s.conns, c)
	c.from.s.mu.Unlock()
	return c.Conn.Close()
}

func (n *simNode) say(change func(*node.Word)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change(&n.word)
}

// start runs the node, again under a newer epoch.
func (n *simNode) start() {
	s := n.s
	n.epoch++
	n.say(func(w *node.Word) { w.Epoch, w.Seq = n.epoch, 0 })
	cfg := Config{
		Self: node.Info{ID: n.id, Region: n.region, Addr: n.addr, Version: "1.0", Labels: map[string]string{"rack": "7"}}, Seeds: n.seeds, StateDir: n.dir,
		Word: func() node.Word {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.word.Seq++
			if n.busy.Load() {
				n.word.Load = rand.Float64()
			}
			return n.word
		},
		Resolve: func(context.Context, string) ([]netip.Addr, error) { return nil, errors.New("no names here") },
	}
	if os.Getenv("GOSSIP_DEBUG") != "" {
		cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", n.id)
	}
	if n.edit != nil {
		n.edit(&cfg)
	}
	c, err := New(cfg, n)
	if err != nil {
		s.t.Fatal(err)
	}
	c.OnChange(func() {
		n.keep()
		if f := n.watch.Load(); f != nil {
			(*f)()
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	n.done, n.cancel = make(chan struct{}), cancel
	n.stopped.Store(false)
	if !slices.Contains(s.started, n) {
		s.started = append(s.started, n)
	}
	s.mu.Lock()
	n.c = c
	s.byID[n.id] = n
	if n.addr != "" {
		s.byAddr[n.addr] = n
	}
	s.mu.Unlock()
	go func() {
		defer close(n.done)
		if err := c.Run(ctx); err != nil {
			s.t.Error(err)
		}
	}()
}

// kill takes the node off the network at once, and ends it.
func (n *simNode) kill() {
	n.s.mu.Lock()
	n.stopped.Store(true)
	n.s.unlink(func(a, b *simNode) bool { return a == n || b == n })
	if n.s.byAddr[n.addr] == n {
		delete(n.s.byAddr, n.addr)
	}
	n.s.mu.Unlock()
	n.cancel()
}

// stop leaves properly.
func (n *simNode) stop() {
	n.cancel()
	<-n.done
	n.kill()
}

func (s *sim) add(id node.ID, region, addr string, seeds ...string) *simNode {
	return &simNode{s: s, id: id, region: region, addr: addr, seeds: seeds, word: node.Word{State: node.Ready}}
}

// fleet starts nodes, the first regions*each of them in regions, with the first as the seed.
func (s *sim) fleet(regions, each int) []*simNode {
	var nodes []*simNode
	for r := range regions {
		for i := range each {
			nodes = append(nodes, s.add(node.ID(fmt.Sprintf("n%d-%d", r, i)), fmt.Sprintf("r%d", r), fmt.Sprintf("10.%d.%d.%d:7946", r, i/250, i%250+1), "10.0.0.1:7946"))
		}
	}
	for _, n := range nodes {
		n.start()
	}
	return nodes
}

// end stops every node; a bubble waits for its goroutines.
func (s *sim) end() {
	s.setCut(nil)
	for _, n := range s.started {
		n.kill()
	}
	for _, n := range s.started {
		<-n.done
	}
}

func (n *simNode) see(id node.ID) (node.Info, bool) {
	for _, i := range n.c.Nodes() {
		if i.ID == id {
			return i, true
		}
	}
	return node.Info{}, false
}

// within waits until something holds and says how long it took.
func within(t testing.TB, limit time.Duration, what string, holds func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !holds() {
		if time.Since(start) > limit {
			t.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(start)
}

func views(nodes []*simNode) string {
	var b strings.Builder
	for _, n := range nodes {
		fmt.Fprintf(&b, "\n%s sees", n.id)
		for _, o := range n.c.Nodes() {
			fmt.Fprintf(&b, " %s", o.ID)
		}
	}
	return b.String()
}

func allSee(nodes []*simNode, n int) func() bool {
	return func() bool {
		for _, o := range nodes {
			if len(o.c.Nodes()) != n {
				return false
			}
		}
		return true
	}
}

// farther gives nodes of other regions a round trip of rtt, give or take jitter.
func farther(rtt, jitter time.Duration) func(a, b *simNode) time.Duration {
	return func(a, b *simNode) time.Duration {
		if a.region == b.region {
			return time.Millisecond
		}
		return rtt/2 - jitter/2 + rand.N(jitter+1)
	}
}

func bubble(t *testing.T, f func(t *testing.T, s *sim)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t)
		defer s.end()
		f(t, s)
	})
}
