package peer

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/akidb/akidbd/internal/node"
)

// OnGossip sets who gets gossip: each datagram, in a call that must not block, and each stream, whose connection
// is then the callee's to close. addr is what the node advertises, else where its packets come from. Set it
// before Run.
func (l *Links) OnGossip(packet func(from node.ID, addr string, data []byte, at time.Time), stream func(from node.ID, addr string, c net.Conn)) {
	l.onPacket, l.onStream = packet, stream
}

// SendGossip sends one datagram of at most maxDatagram (1150) bytes to a node, named or just known by its
// address. It never blocks: without a link it dials in the background and sends when the link is there. What
// cannot be sent is dropped and counted.
func (l *Links) SendGossip(to node.ID, addr string, data []byte) {
	if len(data) > maxDatagram {
		l.metrics.datagrams.Inc()
		return
	}
	b := append(make([]byte, 0, 1+len(data)), datagramGossip)
	b = append(b, data...)
	l.mu.Lock()
	defer l.mu.Unlock()
	if k := l.find(to, addr); k != nil {
		k.use()
		if !push(k.gossip, b) {
			l.metrics.datagrams.Inc()
		}
		return
	}
	if addr != "" && !l.flights[flightKey{to, addr}].resting() {
		if f := l.fly(to, addr); f != nil && len(f.queue) < maxQueued {
			f.queue = append(f.queue, b)
			return
		}
	}
	l.metrics.datagrams.Inc()
}

// DialGossip opens a stream to a node, named or just known by its address; it dials when there is no link,
// once Run runs.
func (l *Links) DialGossip(ctx context.Context, to node.ID, addr string) (net.Conn, error) {
	k, err := l.connect(ctx, to, addr)
	if err != nil {
		return nil, fmt.Errorf("link to %s at %s: %w", to, addr, err)
	}
	st, err := k.openStream(ctx, streamGossip)
	if err != nil {
		return nil, fmt.Errorf("gossip stream to node %s: %w", k.id, err)
	}
	return k.gossipConn(st), nil
}

func (k *link) gossipConn(st *quic.Stream) *streamConn {
	k.use()
	k.active.Add(1)
	return &streamConn{Stream: st, conn: k.conn, done: sync.OnceFunc(func() { k.active.Add(-1) })}
}

// streamConn is a stream as a net.Conn.
type streamConn struct {
	*quic.Stream
	conn *quic.Conn
	done func()
}

func (c *streamConn) LocalAddr() net.Addr  { return c.conn.LocalAddr() }
func (c *streamConn) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }

// Close ends both directions, which frees the slot: what was written still arrives, what was not read is lost.
func (c *streamConn) Close() error {
	defer c.done()
	err := c.Stream.Close()
	c.CancelRead(streamCanceled)
	return err
}
