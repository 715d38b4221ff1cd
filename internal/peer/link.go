package peer

import (
	"context"
	"io"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/akidb/akidbd/internal/node"
)

// link is one connection to another node, its hello done. Between two nodes there may be two for a moment.
type link struct {
	l        *Links
	conn     *quic.Conn
	id       node.ID
	region   string
	dialled  bool // by this node
	instance uint64
	started  time.Time // of the other process, by its own uptime
	hello    node.Info
	born     time.Time
	at       []string       // addresses that led to it: evidence, unlike what the node says
	observed netip.AddrPort // this node as the other sees it
	shown    fingerprint    // of the certificate that this node showed
	said     string         // address that this node said it has
	serving  *atomic.Int64  // requests of the node that this one serves, over all its connections

	urgent chan []byte // probes and their replies, before gossip
	gossip chan []byte
	nudge  chan struct{} // probe now

	used     atomic.Int64 // when gossip last used it, nanoseconds after Links.started
	active   atomic.Int64 // streams in use, both ways
	fetching atomic.Bool

	// The rest is guarded by Links.mu.
	cause   string // why this node closed it
	gone    bool
	seq     uint64 // of the last probe
	sent    [64]time.Time
	heard   time.Time // last reply
	misses  int       // intervals without a reply, in a row
	rtt     time.Duration
	state   node.State // that it said last
	suspect uint64     // a reply to this probe or a later one proves that two processes share the name; 0: no suspicion
	doomed  time.Time  // when a suspect that stays silent, or a duplicate, is closed
	verdict string     // cause it is closed for then
	in, out uint64     // bytes counted so far
}

func (l *Links) newLink(conn *quic.Conn, id node.ID, region string, dialled bool, h hello) *link {
	now := time.Now()
	k := &link{
		l: l, conn: conn, id: id, region: region, dialled: dialled,
		instance: h.instance, started: now.Add(-h.uptime), hello: h.info, born: now, heard: now, state: h.info.Word.State,
		at: []string{conn.RemoteAddr().String()}, observed: h.observed,
		urgent: make(chan []byte, 16), gossip: make(chan []byte, 64), nudge: make(chan struct{}, 1),
	}
	k.hello.ID, k.hello.Region = id, region
	k.use()
	return k
}

// use notes that gossip uses the connection.
func (k *link) use() { k.used.Store(int64(time.Since(k.l.started))) }

// idle is how long gossip did not use it.
func (k *link) idle() time.Duration { return time.Since(k.l.started) - time.Duration(k.used.Load()) }

// bySmaller says whether the node with the smaller name dialled: of two connections that one is kept.
func (k *link) bySmaller() bool { return k.dialled == (k.l.self < k.id) }

// better orders connections to one node, by what both sides see alike.
func (k *link) better(o *link) bool {
	if a, b := k.suspect == 0, o.suspect == 0; a != b {
		return a
	}
	if a, b := k.misses < 2, o.misses < 2; a != b {
		return a
	}
	if k.instance == o.instance && k.bySmaller() != o.bySmaller() && k.born.Sub(o.born).Abs() < atOnce {
		return k.bySmaller()
	}
	return k.born.After(o.born) // one that came later was meant to replace the other
}

// atOnce is how far apart both ends see the births of two connections that each of them dialled not knowing of
// the other's.
const atOnce = 3 * time.Second

const lostProbes = 3

func (k *link) up() bool { return k.misses < lostProbes }

// close ends the connection; its goroutines end with it.
func (k *link) close(code quic.ApplicationErrorCode, cause, text string) {
	k.l.mu.Lock()
	if k.cause == "" {
		k.cause = cause
	}
	k.l.mu.Unlock()
	_ = k.conn.CloseWithError(code, text) // always nil
}

// start runs the link. The caller holds Links.mu and has seen that Run goes on.
func (k *link) start() {
	k.l.wg.Go(k.probe)
	k.l.wg.Go(k.send)
	k.l.wg.Go(k.receive)
	k.l.wg.Go(k.streams)
}

// addr is where gossip says that the node is: what it advertises, else where its packets come from.
func (k *link) addr() string {
	if k.hello.Addr != "" {
		return k.hello.Addr
	}
	return k.conn.RemoteAddr().String()
}

// send writes datagrams: writing one may wait for the path, and nobody else should.
func (k *link) send() {
	for {
		var b []byte
		select {
		case b = <-k.urgent:
		default:
			select {
			case b = <-k.urgent:
			case b = <-k.gossip:
			case <-k.conn.Context().Done():
				return
			}
		}
		if err := k.conn.SendDatagram(b); err != nil && k.conn.Context().Err() == nil {
			k.l.metrics.datagrams.Inc() // larger than the path takes
		}
	}
}

func (k *link) receive() {
	for {
		b, err := k.conn.ReceiveDatagram(k.l.ctx)
		if err != nil {
			return
		}
		if err := k.datagram(b, time.Now()); err != nil {
			k.l.refuse(refusedProtocol, k.conn.RemoteAddr(), "node", k.id, "reason", err)
		}
	}
}

// streams serves what the peer opens.
func (k *link) streams() {
	for {
		st, err := k.conn.AcceptStream(k.l.ctx)
		if err != nil {
			return
		}
		k.l.wg.Go(func() { k.serve(st) })
	}
}

const headTimeout = 5 * time.Second

func (k *link) serve(st *quic.Stream) {
	var head [2]byte
	_ = st.SetReadDeadline(time.Now().Add(headTimeout))
	if _, err := io.ReadFull(st, head[:]); err != nil {
		reset(st, streamProtocol)
		return
	}
	switch {
	case head[0] != frameVersion:
	case head[1] == streamEmbed:
		k.serveEmbed(st)
		return
	case head[1] == streamWord:
		k.serveWord(st)
		return
	case head[1] == streamGossip && k.l.onStream != nil:
		_ = st.SetReadDeadline(time.Time{})
		k.l.onStream(k.id, k.addr(), k.gossipConn(st))
		return
	}
	reset(st, streamProtocol)
	k.l.refuse(refusedProtocol, k.conn.RemoteAddr(), "node", k.id, "frame_version", head[0], "stream_type", head[1])
}

// reset ends both directions of a stream, which frees its slot.
func reset(st *quic.Stream, code quic.StreamErrorCode) {
	st.CancelRead(code)
	st.CancelWrite(code)
}

// openStream opens a stream and says what it is for. It waits for a slot until ctx ends.
func (k *link) openStream(ctx context.Context, purpose byte) (*quic.Stream, error) {
	st, err := k.conn.OpenStreamSync(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := st.Write([]byte{frameVersion, purpose}); err != nil {
		reset(st, streamCanceled)
		return nil, err
	}
	return st, nil
}
