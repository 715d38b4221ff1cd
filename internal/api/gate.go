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

// gate is a listener that can stop taking new connections without resetting the ones the kernel has already
// completed for it: closing a listening socket resets all that wait in its backlog, although their clients may
// have sent a request.
type gate struct {
	net.Listener
	mu       sync.Mutex
	accepted time.Time // when the last connection came
	quiet    chan struct{}
}

// settle is how long the backlog must stay empty: the handshakes under way when the gate was shut are through
// by then, unless their round trip is longer.
const settle = 50 * time.Millisecond

func newGate(ln net.Listener) *gate {
	return &gate{Listener: ln, quiet: make(chan struct{})}
}

func (g *gate) Accept() (net.Conn, error) {
	conn, err := g.Listener.Accept()
	if err == nil {
		g.mu.Lock()
		g.accepted = time.Now()
		g.mu.Unlock()
	}
	return conn, err
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
