package api

import (
	"context"
	"net"
	"sync"
	"time"
)

// Listen listens on a TCP address so that a Server can drain it without losing a connection. net.Listen gives
// an MPTCP socket, on which Linux takes no filter (see refuse); a Server works with it, but when it closes it
// resets connections that came in that moment.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	return lc.Listen(ctx, "tcp", address)
}

// gate is a listener that can be closed without losing a request.
//
//   - Closing a listening socket resets the connections that wait in its backlog, although their clients may
//     have sent a request. So the gate first refuses new ones and takes those that are there (shut).
//   - http.Server.Shutdown closes an idle connection although a request may just have come in on it. So the
//     gate lets each idle connection look once more before it ends (conn.go).
type gate struct {
	net.Listener
	quiet chan struct{} // closed: shut is through
	close func() error  // closes the listener, once: net/http does, too

	mu       sync.Mutex
	accepted time.Time // when the last connection came
	conns    map[*gateConn]struct{}
}

// settle is how long the backlog must stay empty: the handshakes under way when the gate was shut are through
// by then, unless their round trip is longer.
const settle = 50 * time.Millisecond

func newGate(ln net.Listener) *gate {
	return &gate{Listener: ln, quiet: make(chan struct{}), close: sync.OnceValue(ln.Close), conns: map[*gateConn]struct{}{}}
}

func (g *gate) Accept() (net.Conn, error) {
	conn, err := g.Listener.Accept()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	c := &gateConn{Conn: conn, gate: g, waiting: true, since: now}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.accepted = now
	g.conns[c] = struct{}{}
	return c, nil
}

// Close closes the listener, not the connections.
func (g *gate) Close() error { return g.close() }

func (g *gate) forget(c *gateConn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.conns, c)
}

// open lists the connections that are open.
func (g *gate) open() []*gateConn {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make([]*gateConn, 0, len(g.conns))
	for c := range g.conns {
		out = append(out, c)
	}
	return out
}

// shut refuses new connections, where the platform can, and waits until none has come for settle, at most
// twenty times as long. The caller closes the listener then.
func (g *gate) shut() {
	defer close(g.quiet)
	refuse(g.Listener)
	start := time.Now()
	for end := start.Add(20 * settle); time.Now().Before(end); {
		g.mu.Lock()
		last := g.accepted
		g.mu.Unlock()
		if last.Before(start) {
			last = start
		}
		left := settle - time.Since(last)
		if left <= 0 {
			return
		}
		sleep(left)
	}
}

func (g *gate) wait() { <-g.quiet }
