package gossip

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/akidb/akidbd/internal/node"
)

// The address that memberlist is told for every node, of the block for documentation.
const (
	placeholderHost = "192.0.2.1"
	placeholderPort = 1
	placeholder     = "192.0.2.1:1"
)

const (
	streamTimeout   = 5 * time.Second // of a whole push/pull
	maxStreamBytes  = 8 << 20         // read of one stream: 1,000 nodes need half of one MiB
	packetQueue     = 1024
	streamQueue     = 64
	maxOpenIncoming = 128
)

// transport is memberlist's network: the links.
type transport struct {
	link    Link
	table   *table
	metrics *metrics
	packets chan *memberlist.Packet
	streams chan net.Conn
	ctx     context.Context
	cancel  context.CancelFunc

	mu       sync.Mutex
	running  bool
	incoming int
	conns    map[*conn]struct{}
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)

func newTransport(link Link, t *table, m *metrics) *transport {
	ctx, cancel := context.WithCancel(context.Background())
	return &transport{
		link: link, table: t, metrics: m, ctx: ctx, cancel: cancel, conns: map[*conn]struct{}{},
		packets: make(chan *memberlist.Packet, packetQueue), streams: make(chan net.Conn, streamQueue),
	}
}

func (t *transport) open() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running = true
}

func (t *transport) packet(from node.ID, addr string, data []byte, at time.Time) {
	t.mu.Lock()
	running := t.running
	t.mu.Unlock()
	if !running || !plain(data) {
		t.metrics.dropped.Inc()
		return
	}
	select {
	case t.packets <- &memberlist.Packet{Buf: data, From: peerAddr{from, addr}, Timestamp: at}:
		t.metrics.messages[dirIn].Inc()
		t.metrics.bytes[dirIn].Add(float64(len(data)))
	default:
		t.metrics.dropped.Inc()
	}
}

func (t *transport) stream(from node.ID, addr string, raw net.Conn) {
	c := t.track(raw, from, addr, true)
	if c == nil {
		t.metrics.dropped.Inc()
		_ = raw.Close()
		return
	}
	select {
	case t.streams <- c:
	default:
		t.metrics.dropped.Inc()
		_ = c.Close()
	}
}

// FinalAdvertiseAddr implements [memberlist.Transport].
func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return net.ParseIP(placeholderHost).To4(), placeholderPort, nil
}

// WriteTo implements [memberlist.Transport].
func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	return t.WriteToAddress(b, memberlist.Address{Addr: addr})
}

// WriteToAddress never fails: a node that cannot be reached does not answer. memberlist would take most errors for
// its own fault and stop probing.
func (t *transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	to, addr := t.target(a)
	if to != "" && t.table.member(to) && tells(b) {
		to, addr = t.carrier(to, addr)
	}
	if (to != "" || addr != "") && t.ctx.Err() == nil {
		t.metrics.messages[dirOut].Inc()
		t.metrics.bytes[dirOut].Add(float64(len(b)))
		t.link.SendGossip(to, addr, b)
	}
	return time.Now(), nil
}

// carrier is who gets news for a member: itself when it has a link, else any node that has one. Who is no member is not
// spared the dial: news may be how it learns that it was taken for dead.
func (t *transport) carrier(to node.ID, addr string) (node.ID, string) {
	peers := t.link.Peers()
	if i, ok := slices.BinarySearchFunc(peers, to, func(p node.Info, id node.ID) int { return cmp.Compare(p.ID, id) }); ok && peers[i].Link.Up {
		return to, addr
	}
	first := rand.N(max(1, len(peers)))
	for i := range peers {
		if p := &peers[(first+i)%len(peers)]; p.Link.Up {
			return p.ID, p.Addr
		}
	}
	return to, addr
}

// target turns memberlist's idea of a node into the link's.
func (t *transport) target(a memberlist.Address) (node.ID, string) {
	if a.Addr != placeholder {
		return node.ID(a.Name), a.Addr
	}
	return node.ID(a.Name), t.table.addrOf(node.ID(a.Name))
}

// PacketCh implements [memberlist.Transport].
func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// StreamCh implements [memberlist.Transport].
func (t *transport) StreamCh() <-chan net.Conn { return t.streams }

// DialTimeout implements [memberlist.Transport].
func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

// DialAddressTimeout implements [memberlist.NodeAwareTransport].
func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	to, addr := t.target(a)
	if to == "" && addr == "" {
		return nil, errors.New("a node without a name and an address cannot be dialled")
	}
	ctx, cancel := context.WithTimeout(t.ctx, timeout)
	defer cancel()
	raw, err := t.link.DialGossip(ctx, to, addr)
	if err != nil {
		return nil, err
	}
	c := t.track(raw, to, addr, false)
	if c == nil {
		_ = raw.Close()
		return nil, net.ErrClosed
	}
	if err := c.SetDeadline(time.Now().Add(timeout)); err != nil { // memberlist writes before it sets one
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// Shutdown ends every stream and dial. It gives nil.
func (t *transport) Shutdown() error {
	t.cancel()
	t.mu.Lock()
	t.running = false
	conns := make([]*conn, 0, len(t.conns))
	for c := range t.conns {
		conns = append(conns, c)
	}
	t.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
	t.drain()
	return nil
}

// drain closes the streams that memberlist did not take any more.
func (t *transport) drain() {
	for {
		select {
		case c := <-t.streams:
			_ = c.Close()
		case <-t.packets:
		default:
			return
		}
	}
}

func (t *transport) track(raw net.Conn, peer node.ID, addr string, incoming bool) *conn {
	c := &conn{Conn: raw, t: t, peer: peerAddr{peer, addr}, incoming: incoming, left: maxStreamBytes}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.running || incoming && t.incoming >= maxOpenIncoming {
		return nil
	}
	if incoming {
		t.incoming++
	}
	t.conns[c] = struct{}{}
	return c
}

// conn is a stream: counted, limited, and closed when the transport is.
type conn struct {
	net.Conn
	t        *transport
	peer     peerAddr
	incoming bool
	left     int // bytes that may be read; memberlist reads from one goroutine
}

func (c *conn) RemoteAddr() net.Addr { return c.peer }

func (c *conn) Read(b []byte) (int, error) {
	if c.left <= 0 {
		return 0, fmt.Errorf("a gossip stream of more than %d bytes: %w", maxStreamBytes, io.ErrUnexpectedEOF)
	}
	n, err := c.Conn.Read(b[:min(len(b), c.left)])
	c.left -= n
	c.t.metrics.bytes[dirIn].Add(float64(n))
	return n, err
}

// Write closes the stream when it fails: memberlist forgets to when it writes its label.
func (c *conn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.t.metrics.bytes[dirOut].Add(float64(n))
	if err != nil {
		_ = c.Close()
	}
	return n, err
}

func (c *conn) Close() error {
	c.t.mu.Lock()
	_, open := c.t.conns[c]
	delete(c.t.conns, c)
	if open && c.incoming {
		c.t.incoming--
	}
	c.t.mu.Unlock()
	if !open {
		return nil
	}
	return c.Conn.Close()
}

// peerAddr is the certified name of the other end and where it is.
type peerAddr struct {
	id   node.ID
	addr string
}

func (a peerAddr) Network() string { return "akidb" }
func (a peerAddr) String() string {
	if a.addr == "" {
		return placeholder
	}
	return a.addr
}
